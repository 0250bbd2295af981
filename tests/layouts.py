"""Miniature trees of public data sets: folders, lists, names and quirks as they are downloaded, clips as `clips.py` makes them.

Each builder takes `write(path, seed)`, which makes one clip; None makes a tiny one in the set's own container and codec.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from clips import write_clip

Write = Callable[[Path, int], object]

UCF101_CLASSES = ("ApplyEyeMakeup", "Archery", "HandstandPushups")
HMDB51_CLASSES = ("brush_hair", "ride_bike", "wave")
SSV2_LABELS = (
    "Approaching something with your camera",
    "Pushing something from left to right",
    "Putting something, something and something on the table",
)
K400_LABELS = ("air drumming", "massaging person's head", "punching person (boxing)")
TINY = {"num_frames": 6, "width": 32, "height": 24, "gop": 3}
# YouTube's names have 11 characters, among them - and _, also in front.
K400_IDS = ("-3B32lodo2M", "_aBcDeFgHiJ", "0wR5jVB-WPk", "a_1_2_3_4_5", "AbCdEfGhIjK", "abcdefghijk")


def tiny(**settings) -> Write:
    """A writer of tiny clips.

    Args:
        **settings: of `write_clip`.

    Returns:
        A function of a path and a seed.
    """
    return lambda path, seed: write_clip(path, seed=seed, **(TINY | settings))


tiny_avi = partial(tiny, codec="mpeg4")
tiny_webm = partial(tiny, codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8", "row-mt": "0"})


def write_ucf101(root: Path, write: Write | None = None) -> Path:
    """`UCF-101` and `ucfTrainTestlist`: 3 classes of 4 groups of 2 clips; one group of a class is tested in each split.

    Quirks: lines end in CRLF, only training lines have a label, labels count from 1, and the lists write `v_HandstandPushups`
    where the files are `v_HandStandPushups`.

    Args:
        root: of the tree.
        write: a clip.

    Returns:
        The root.
    """
    write = write or tiny_avi()
    names: dict[tuple[str, int], list[str]] = {}
    for label, folder in enumerate(UCF101_CLASSES):
        for group in range(1, 5):
            for clip in (1, 2):
                stem = f"v_{folder}_g{group:02}_c{clip:02}.avi"
                names.setdefault((folder, group), []).append(f"{folder}/{stem}")
                file = root / "UCF-101" / folder / stem.replace("Handstand", "HandStand")
                write(file, 100 * label + 10 * group + clip)
    lists = root / "ucfTrainTestlist"
    _text(lists / "classInd.txt", [f"{label} {name}" for label, name in enumerate(UCF101_CLASSES, 1)], end="\r\n")
    for split in (1, 2, 3):
        test = [name for (_, group), found in names.items() if group == split for name in found]
        train = [
            f"{name} {UCF101_CLASSES.index(folder) + 1}"
            for (folder, group), found in names.items()
            if group != split
            for name in found
        ]
        _text(lists / f"testlist{split:02}.txt", test, end="\r\n")
        _text(lists / f"trainlist{split:02}.txt", train, end="\r\n")
    return root


def write_hmdb51(root: Path, write: Write | None = None) -> Path:
    """`hmdb51_org` and `testTrainMulti_7030_splits`: 3 classes of 8 clips, of which a split trains on 4 and tests 2.

    Quirks: a space at the ends of lines, marks in the names of files (`#`, `&`, brackets, `;`, quotes), clips that a split
    leaves out, a clip that no list names, and a source that two classes share.

    Args:
        root: of the tree.
        write: a clip.

    Returns:
        The root.
    """
    write = write or tiny_avi()
    sources = ("April_09", "#20_Rhythm_clap", "Pirates_(5)_[HD]", "Tom&Jerry;'s", "prelinger_Shared_1", "jonhs")
    for label, folder in enumerate(HMDB51_CLASSES):
        files = []
        for number, source in enumerate((*sources, sources[0], sources[1])):
            shared = source == "prelinger_Shared_1"
            source = source if shared else f"{source}_{label}"
            files.append(f"{source}_{folder}_u_nm_np1_fr_goo_{number}.avi")
            write(root / "hmdb51_org" / folder / files[-1], 100 * label + number)
        write(root / "hmdb51_org" / folder / f"Unlisted_{folder}_f_cm_np2_ba_bad_0.avi", 100 * label + 50)
        for split in (1, 2, 3):
            test, unused = {2 * split - 1, 2 * split - 2}, {(2 * split + 2) % 8, (2 * split + 3) % 8}
            tags = [2 if n in test else 0 if n in unused else 1 for n in range(8)]
            lines = [f"{file} {tag} " for file, tag in zip(files, tags, strict=True)]
            _text(root / "testTrainMulti_7030_splits" / f"{folder}_test_split{split}.txt", lines)
    return root


def write_ssv2(root: Path, write: Write | None = None, *, answers: bool = True, suffix: str = "webm") -> Path:
    """`20bn-something-something-v2` and `labels`: 3 classes of 4 training, 2 validation and 1 test clip.

    Quirks: templates have brackets where label names have none, numbers of labels are text, test clips have their label in a
    file of their own with semicolons.

    Args:
        root: of the tree.
        write: a clip.
        answers: write `test-answers.csv`, which older downloads lack.
        suffix: of the videos.

    Returns:
        The root.
    """
    write = write or (tiny_webm() if suffix == "webm" else tiny())
    labels = root / "labels"
    rows: dict[str, list[dict]] = {"train": [], "validation": [], "test": []}
    solved = []
    number = 74225
    for label, name in enumerate(SSV2_LABELS):
        template = name.replace("something", "[something]")
        for split, count in (("train", 4), ("validation", 2), ("test", 1)):
            for _ in range(count):
                number += 7 + label
                write(root / "20bn-something-something-v2" / f"{number}.{suffix}", number)
                row = {"id": str(number)}
                if split != "test":
                    things = ["a cup"] * template.count("[")
                    row |= {"label": name.replace("something", "a cup").lower(), "template": template}
                    row |= {"placeholders": things}
                else:
                    solved.append(f"{number};{name}")
                rows[split].append(row)
    for split, found in rows.items():
        _json(labels / f"{split}.json", found)
    # the file is sorted by name, the numbers are not
    order = {name: str((place + 1) % len(SSV2_LABELS)) for place, name in enumerate(SSV2_LABELS)}
    _json(labels / "labels.json", order)
    if answers:
        _text(labels / "test-answers.csv", solved)
    return root


def write_k400(root: Path, write: Write | None = None) -> Path:
    """`k400` with `annotations`, `train`, `val`, `test` and `replacement`, as the usual download unpacks it.

    3 classes of 5 training, 2 validation and 1 test clip. Quirks: names that begin with `-` or have `_` in them, a training clip
    that is missing, one that was damaged and lies in `replacement` as well, one without times in its name, one in Matroska.

    Args:
        root: of the tree.
        write: a clip.

    Returns:
        The root.
    """
    write = write or tiny()
    place = root / "k400"
    header = "label,youtube_id,time_start,time_end,split,is_cc"
    rows: dict[str, list[str]] = {"train": [header], "val": [header], "test": [header]}
    seed = 0
    for label, name in enumerate(K400_LABELS):
        quoted = f'"{name}"' if label == 0 else name
        for split, count in (("train", 5), ("val", 2), ("test", 1)):
            for clip in range(count):
                seed += 1
                youtube = K400_IDS[clip] if label == 0 and split == "train" else f"{split:_<5}{label}{clip:-<5}"
                start = 10 * clip + 7
                rows[split].append(f"{quoted},{youtube},{start},{start + 10},{split},0")
                file = place / split / f"{youtube}_{start:06}_{start + 10:06}.mp4"
                odd = (label, clip) if split == "train" else None
                if odd == (2, 0):
                    continue
                if odd == (1, 1):
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(b"damaged")
                    file = place / "replacement" / "replacement_for_corrupted_k400" / file.name
                elif odd == (2, 1):
                    file = file.with_name(f"{youtube}.mp4")
                elif odd == (2, 2):
                    file = file.with_suffix(".mkv")
                write(file, seed)
    for split, lines in rows.items():
        _text(place / "annotations" / f"{split}.csv", lines)
    return root


BUILDERS: dict[str, Callable[..., Path]] = {
    "ucf101": write_ucf101,
    "hmdb51": write_hmdb51,
    "ssv2": write_ssv2,
    "k400": write_k400,
}


def _text(file: Path, lines: list[str], end: str = "\n") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes("".join(line + end for line in lines).encode())


def _json(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")
