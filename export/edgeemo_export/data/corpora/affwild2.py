"""Aff-Wild2: videos with expression, valence and arousal of every frame (Kollias and Zafeiriou, 2019).

``cropped_aligned/VIDEO/00001.jpg`` are the faces, numbered as the frames of the video, without those
where no face was found. ``annotations/EXPR_Set/Train_Set/VIDEO.txt`` and ``Validation_Set`` have a header
of expressions and a number a frame, -1 where it does not count; ``VA_Set`` has ``valence,arousal`` a
frame, -5 likewise (ibug.doc.ic.ac.uk/resources/ aff-wild2 and the ABAW competitions, which call the sets
EXPR_Classification_Challenge, EXPR_Recognition_Challenge and VA_Estimation_Challenge). A video with two
people is two, the second called VIDEO_left or VIDEO_right.

The labels of the test set are not public, so the validation set tests; its people are not those of the
training set (Kollias, 2022). Every tenth recording of the training set develops.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeemo.errors import InputError

from ..labels import LABELS
from .folds import DEVELOPMENT_EVERY, DEVELOPMENT_PLACE
from .item import Item, Tally
from .layout import first_folder, require

EXPECTED = (
    "cropped_aligned of VIDEO/00001.jpg, and annotations of EXPR_Set or VA_Set, each with Train_Set and "
    "Validation_Set of VIDEO.txt"
)
EXPRESSION = ("EXPR_Set", "EXPR_Classification_Challenge", "EXPR_Recognition_Challenge")
AFFECT = ("VA_Set", "VA_Estimation_Challenge")
PARTS = {"Train_Set": "train", "Training_Set": "train", "Validation_Set": "test"}
FACES = ("cropped_aligned", "cropped_aligned/cropped_aligned", "cropped_aligned_new_50_vids")
SUFFIXES = (".jpg", ".png")
LONGEST = 120
"""Frames of an item: four seconds at thirty a second, a window of the project's systems."""

PERSON = re.compile(r"_(left|right)$")

Affect = tuple[float, float]


@dataclass(frozen=True)
class Video:
    """What is known of a person in a video.

    Attributes:
        folder: of pictures.
        labels: a label a frame, empty where there is none.
        affect: valence and arousal a frame, None where there are none.
    """

    folder: Path
    labels: Sequence[str]
    affect: Sequence[Affect | None]


def read(folder: Path) -> list[Item]:
    """List runs of at most 120 frames of one label, each with the mean of valence and arousal.

    Frames without an expression but with valence and arousal are items with an empty label.

    Raises:
        InputError: the folder is not that of the corpus, or a line of an annotation cannot be read.
    """
    require(folder, fits, EXPECTED)
    left, items = Tally(folder), []
    expressions, affects = _annotations(folder, EXPRESSION), _annotations(folder, AFFECT)
    splits = {name: split for name, (split, _) in (affects | expressions).items()}
    developing = _developing(sorted(name for name, split in splits.items() if split == "train"))
    for name, split in sorted(splits.items()):
        pictures = first_folder(folder / place / name for place in FACES)
        if pictures is None:
            left.drop("videos without pictures", name)
            continue
        labels = _labels(expressions[name][1], left) if name in expressions else ()
        affect: Sequence[Affect | None] = ()
        if name in affects and affects[name][0] == split:
            affect = _affect(affects[name][1], left)
        elif name in affects:
            left.drop("valence and arousal of a video that is in another split by its expression", name)
        speaker = f"affwild2-{name}"
        place = "develop" if name in developing else split
        items += list(_items(Video(pictures, labels, affect), speaker, place, left))
    return left.finish(items)


def fits(folder: Path) -> bool:
    """Whether it holds faces and annotations."""
    faces = any((folder / place).is_dir() for place in FACES)
    return faces and any(_sets(folder, names) for names in (EXPRESSION, AFFECT))


def _sets(folder: Path, names: Sequence[str]) -> list[Path]:
    return [
        path for name in names for pattern in (name, f"*/{name}") for path in sorted(folder.glob(pattern))
    ]


def _annotations(folder: Path, names: Sequence[str]) -> dict[str, tuple[str, Path]]:
    """Split and file of each video."""
    return {
        path.stem: (split, path)
        for place in _sets(folder, names)
        for part, split in PARTS.items()
        for path in sorted((place / part).glob("*.txt"))
        if path.name[0] != "."
    }


def _developing(names: Sequence[str]) -> set[str]:
    """Every tenth recording; the people of one recording stay together."""
    recordings = sorted({PERSON.sub("", name) for name in names})
    chosen = set(recordings[DEVELOPMENT_PLACE::DEVELOPMENT_EVERY])
    return {name for name in names if PERSON.sub("", name) in chosen}


def _labels(path: Path, left: Tally) -> list[str]:
    header, *lines = path.read_text().splitlines() or [""]
    names = [name.strip().lower() for name in header.split(",")]
    labels, others = [], 0
    for number, line in enumerate(lines, start=2):
        try:
            place = int(line)
            name = names[place] if place >= 0 else ""
        except (ValueError, IndexError) as error:
            raise InputError(
                f"{path}, line {number}: it is {line!r}; it must count into {header!r}"
            ) from error
        others += name not in LABELS and name != ""
        labels.append(name if name in LABELS else "")
    left.drop("frames of another expression", path.stem, others)
    left.drop("frames without a valid expression", path.stem, labels.count("") - others)
    return labels


def _affect(path: Path, left: Tally) -> list[Affect | None]:
    affect: list[Affect | None] = []
    for number, line in enumerate(path.read_text().splitlines()[1:], start=2):
        try:
            valence, arousal = (float(cell) for cell in line.split(","))
        except ValueError as error:
            raise InputError(f"{path}, line {number}: it is {line!r}; it must be valence,arousal") from error
        inside = -1 <= valence <= 1 and -1 <= arousal <= 1
        affect.append((valence, arousal) if inside else None)
    left.drop("frames without valid valence and arousal", path.stem, affect.count(None))
    return affect


def _items(video: Video, speaker: str, split: str, left: Tally) -> Iterator[Item]:
    """Runs of frames; one without a picture does not end a run, one without annotation does."""
    shown = {
        int(path.stem)
        for path in video.folder.iterdir()
        if path.suffix.lower() in SUFFIXES and path.stem.isdigit()
    }
    run: list[int] = []
    count = max(len(video.labels), len(video.affect))
    for frame in range(1, count + 2):  # the last ends the last run
        if run and (_state(video, frame) != _state(video, run[0]) or len(run) == LONGEST):
            yield _item(video, run, speaker, split)
            run = []
        if _state(video, frame) != ("", False):
            if frame in shown:
                run.append(frame)
            else:
                left.drop("annotated frames without a picture", f"{video.folder.name} {frame}")


def _state(video: Video, frame: int) -> tuple[str, bool]:
    label = video.labels[frame - 1] if frame <= len(video.labels) else ""
    return label, frame <= len(video.affect) and video.affect[frame - 1] is not None


def _item(video: Video, run: Sequence[int], speaker: str, split: str) -> Item:
    label, rated = _state(video, run[0])
    pairs = [pair for frame in run if rated and (pair := video.affect[frame - 1]) is not None]
    valence, arousal = (
        (sum(axis) / len(pairs) for axis in zip(*pairs, strict=True)) if pairs else (None, None)
    )
    return Item(
        label,
        speaker,
        video.folder,
        valence=valence,
        arousal=arousal,
        split=split,
        frames=(run[0], run[-1] + 1),
    )
