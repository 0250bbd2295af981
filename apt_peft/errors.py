"""What goes wrong for a user, in a few kinds. Every message reads: name (value) must rule, but context. Remedy."""

import importlib
from types import ModuleType


class AptError(Exception):
    """An error of the user's making, or of the user's files; the command line prints it as one line."""


class ConfigError(AptError, ValueError):
    """A setting has a value that it cannot have."""


class TargetError(AptError, ValueError):
    """Prompts cannot go where they were asked to go."""


class CheckpointError(AptError, ValueError):
    """A weight file is damaged, unsafe, or of another project."""


class DataError(AptError, ValueError):
    """Clips, lists of clips or labels that cannot be used."""


class ExportError(AptError, RuntimeError):
    """A model cannot be exported, or an exported file gives other numbers than the model."""


class MissingExtraError(AptError, ImportError):
    """A package of an optional extra is not installed."""


def require(module: str, extra: str) -> ModuleType:
    """Import a module of an optional extra.

    Args:
        module: name to import, for example `av`.
        extra: the extra of this package that brings it.

    Returns:
        The module.

    Raises:
        MissingExtraError: it is not installed; the message names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise MissingExtraError(
            f"{error.name} must be installed for this, but it is not. Run: pip install 'apt-peft[{extra}]'"
        ) from None
