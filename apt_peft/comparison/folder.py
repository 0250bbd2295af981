"""The folder of many runs: nobody else's, and one command at a time in it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apt_peft.comparison.ledger import locked
from apt_peft.comparison.runs import LISTS, PLAN
from apt_peft.errors import ConfigError, require

LOCK = "runs.lock"


def check_means(command: str) -> None:
    """Refuse what would fail at the end.

    Args:
        command: its name.

    Raises:
        ConfigError: it was started by a launcher of several processes.
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "viz")  # which draws at the end
    if (count := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ConfigError(
            f"processes ({count}) must be one for {command}, which starts its own. Leave the launcher out, and take --jobs."
        )


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Make a folder of many runs, or go on in it, while nobody else does.

    Args:
        out: the folder.

    Raises:
        ConfigError: it holds something else, or is in use.
    """
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else ["a file"] if out.exists() else []
    # A kill may have come before the plan was written.
    if names and PLAN not in names and not set(names) <= {LOCK, LISTS, ".lists-now", f".{PLAN}.partial"}:
        raise ConfigError(
            f"out ({out}) must be new, empty or a folder of such runs, but it is none: it holds {', '.join(names[:3])}. "
            "Choose another --out."
        )
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK, wait=False) as held:
        if not held:
            raise ConfigError(
                f"out ({out}) must be free, but something is running in it. Wait for it, or choose another --out."
            )
        yield
