"""The licence of a backbone, read off its model card: it carries over to what is made of the backbone."""

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import metadata_load

from .. import hub
from ..errors import AptError
from ..hub import CARD

MAX_CARD = 4 << 20  # bytes
SECONDS = 20  # that a licence is worth at the end of a run


@dataclass(frozen=True)
class Licence:
    """A licence, as the metadata of a model card names it.

    Args:
        id: the Hub's name for it: `apache-2.0`, `cc-by-nc-4.0`, `other`.
        name: of a licence that the Hub has no name for.
        link: to its text.
    """

    id: str
    name: str | None = None
    link: str | None = None

    @property
    def text(self) -> str:
        """What people call it."""
        return self.name if self.id == "other" and self.name else self.id

    @property
    def is_non_commercial(self) -> bool:
        """Whether its name says that it forbids commercial use."""
        return bool(re.search(r"(^|[-_ ])nc([-_ ]|$)|non-?commercial", f"{self.id} {self.name or ''}".lower()))


def licence_of(model: str, *, revision: str | None = None) -> Licence | None:
    """Read a model's licence off its card.

    Args:
        model: folder or name on the Hub, where the card is fetched; one that cannot be had counts as none.
        revision: branch, tag or commit on the Hub.

    Returns:
        The licence, or None where there is no card or it names none.
    """
    path: Path | None = Path(model) / CARD
    try:
        if not Path(model).is_dir():
            path = hub.download(model, CARD, most=MAX_CARD, revision=revision, optional=True, seconds=SECONDS)
        if path is None or not path.is_file() or path.stat().st_size > MAX_CARD:
            return None
        data = metadata_load(path) or {}
    except (AptError, OSError, ValueError, RecursionError):
        return None
    except Exception as error:
        if "yaml" not in type(error).__module__:  # PyYAML's errors have no other parent
            raise
        return None
    found = data.get("license")
    found = found[0] if isinstance(found, list) and found else found
    if not isinstance(found, str) or not is_identifier(found) or found == "unknown":
        return None
    name, link = (_plain(data.get(key)) for key in ("license_name", "license_link"))
    return Licence(found, name, link)


def is_identifier(text: str) -> bool:
    """Whether a text can be the Hub's name of a licence."""
    return bool(re.fullmatch(r"[\w.+-]{1,100}", text))


def _plain(value: object) -> str | None:
    """A short text in one line, or None."""
    return value if isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable() else None
