"""A contact sheet: clips that a person should look at, and some of each class, in one HTML or PNG file."""

import base64
import html
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, require
from .clip import Clip, DataSplits
from .decode import VideoReader
from .guard import TIME_LIMIT, guarded
from .report import AuditReport, FileReport
from .sampling import sample_frames
from .source import UnreadableVideoError

SUFFIXES = (".html", ".png")
# Pictures of each clip, their longer side in pixels, and clips on a sheet at most.
_PICTURES, _SIDE, _FLAGGED, _OF_CLASSES = 3, 128, 60, 600
_STYLE = """
body { font: 14px sans-serif; margin: 1em } h2 { margin: 1.2em 0 .3em }
figure { display: inline-block; vertical-align: top; margin: 0 1em 1em 0; max-width: 400px }
figcaption { overflow-wrap: anywhere } .what { color: #a00 } img { margin-right: 2px }
"""


@dataclass(frozen=True)
class _Entry:
    """A clip on the sheet, and what is said of it."""

    place: int
    what: str = ""


def check_sheet(path: str | os.PathLike) -> None:
    """Refuse a file that is no sheet by its name, or that cannot be written; its folder is made.

    Args:
        path: of the new file.

    Raises:
        ConfigError: its suffix is another, or it cannot be written.
        MissingExtraError: Pillow is not installed.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ConfigError(f"sheet ({os.fspath(path)}) must be named .html or .png.")
    require("PIL", "viz")
    part = Path(f"{os.fspath(path)}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        part.unlink()
        reason = "it is a folder" if Path(path).is_dir() else None
    except OSError as error:
        reason = str(error.strerror).lower()
    if reason is not None:
        raise ConfigError(
            f"sheet ({os.fspath(path)}) must be a file that can be written, but {reason}. Choose another place."
        )


def write_sheet(
    path: str | os.PathLike,
    report: AuditReport,
    splits: DataSplits,
    *,
    per_class: int = 4,
    time_limit: float = TIME_LIMIT,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Write a contact sheet of a data set.

    Args:
        path: of the new file, `.html` (one file with everything in it) or `.png`; a file of this name is replaced.
        report: of `audit`.
        splits: the same clips.
        per_class: clips of each class; fewer where there are very many classes.
        time_limit: seconds for one file.
        progress: called with 1 after each clip.

    Raises:
        ConfigError: another suffix.
        MissingExtraError: Pillow is not installed.
    """
    check_sheet(path)
    clips = [clip for _, of_split in splits.items() for clip in of_split]
    sections = {"To look at": _flagged(report)} | _of_classes(report, per_class)
    places = sorted({entry.place for entries in sections.values() for entry in entries})
    read = guarded(
        _pictures,
        [clips[place] for place in places],
        names=[clips[place].name for place in places],
        time_limit=time_limit,
        progress=progress,
    )
    pictures = {
        place: [] if isinstance(found, UnreadableVideoError) else found
        for place, found in zip(places, read, strict=True)
    }
    root = _root([file.name for file in report.files])
    write = _html if Path(path).suffix.lower() == ".html" else _png
    content = write(sections, pictures, [_caption(file, report.labels, root) for file in report.files])
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    part = Path(f"{path}.part")
    part.write_bytes(content)
    os.replace(part, path)


def _root(names: Sequence[str]) -> str:
    try:
        return os.path.commonpath([os.path.dirname(name) for name in names])
    except ValueError:  # none, or some that are no paths
        return ""


def _flagged(report: AuditReport) -> list[_Entry]:
    """Clips that something is said of, those of a group side by side."""
    place = {id(file): index for index, file in enumerate(report.files)}
    entries = [_Entry(place[id(file)], file.contrary or "") for file in report.misnamed]
    for number, group in enumerate([*report.alike_across_splits, *report.duplicates_across_splits], start=1):
        entries += [_Entry(place[id(file)], f"shows the same as others: group {number}") for file in group]
    entries += [_Entry(place[id(file)], "; ".join(file.found.suspicions)) for file in report.suspicious if file.found]
    return entries[:_FLAGGED]


def _of_classes(report: AuditReport, per_class: int) -> dict[str, list[_Entry]]:
    per_class = max(1, min(per_class, _OF_CLASSES // max(1, len(report.labels))))
    sections = {}
    for label, name in enumerate(report.labels):
        places = [index for index, file in enumerate(report.files) if file.label == label and file.found is not None]
        chosen = [places[len(places) * part // per_class] for part in range(per_class)] if places else []
        sections[f"{name} ({len(places)})"] = [_Entry(place) for place in dict.fromkeys(chosen)]
    return sections


def _pictures(clip: Clip) -> list[bytes]:
    """Some frames of a clip, as small JPEG files."""
    from PIL import Image

    with VideoReader(clip.source) as video:
        frames = video.read(lambda count: sample_frames("even", count, min(_PICTURES, count))).numpy()
    files = []
    for frame in frames:
        picture = Image.fromarray(frame)
        picture.thumbnail((_SIDE, _SIDE))
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=80)
        files.append(out.getvalue())
    return files


def _caption(file: FileReport, labels: Sequence[str], root: str) -> str:
    name = os.path.relpath(file.name, root) if root else file.name
    return f"{name} · {file.split}" + (f" · {labels[file.label]}" if file.label is not None else "")


def _html(sections: dict[str, list[_Entry]], pictures: dict[int, list[bytes]], captions: Sequence[str]) -> bytes:
    lines = [
        '<!doctype html><html><head><meta charset="utf-8"><title>Contact sheet</title>',
        # Nothing on it may be fetched or run, whatever files are called.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
        f"<style>{_STYLE}</style></head><body>",
    ]
    for title, entries in sections.items():
        if not entries:
            continue
        lines.append(f"<h2>{html.escape(title)}</h2>")
        for entry in entries:
            images = "".join(
                f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(file).decode()}">'
                for file in pictures[entry.place]
            )
            what = f'<br><span class="what">{html.escape(entry.what)}</span>' if entry.what else ""
            caption = html.escape(captions[entry.place])
            lines.append(f"<figure>{images}<figcaption>{caption}{what}</figcaption></figure>")
    return "\n".join([*lines, "</body></html>\n"]).encode("utf-8", "replace")


def _png(sections: dict[str, list[_Entry]], pictures: dict[int, list[bytes]], captions: Sequence[str]) -> bytes:
    """Rows of clips below the title of their section, captions cut to their width."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=12)
    wide, high, across, line = _PICTURES * (_SIDE + 2) + 12, _SIDE + 46, 3, 18
    shown = {title: entries for title, entries in sections.items() if entries}
    height = sum(28 + high * -(-len(entries) // across) for entries in shown.values()) + 8
    sheet = Image.new("RGB", (wide * across + 12, height), "white")
    draw = ImageDraw.Draw(sheet)

    def write(x: int, y: int, text: str, colour: str) -> None:
        text = text.encode("utf-8", "replace").decode()
        while text and draw.textlength(text, font=font) > wide - 12:
            text = text[:-2].rstrip("…") + "…" if len(text) > 2 else ""
        draw.text((x, y), text, fill=colour, font=font)

    y = 8
    for title, entries in shown.items():
        write(12, y, title, "black")
        y += 24
        for number, entry in enumerate(entries):
            x, top = 12 + wide * (number % across), y + high * (number // across)
            for place, file in enumerate(pictures[entry.place]):
                sheet.paste(Image.open(io.BytesIO(file)), (x + place * (_SIDE + 2), top))
            write(x, top + _SIDE + 2, captions[entry.place], "black")
            write(x, top + _SIDE + 2 + line, entry.what, "#a00000")
        y += high * -(-len(entries) // across) + 4
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()
