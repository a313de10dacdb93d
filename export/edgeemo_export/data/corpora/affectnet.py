"""AffectNet: faces of the web with expression, valence and arousal (Mollahosseini et al., 2019).

First received as ``Manually_Annotated_Images/DIRECTORY/PICTURE`` with ``training.csv`` and
``validation.csv``, whose columns are the picture, its face's place and landmarks, expression, valence and
arousal; the second has no header, and -2 means no value. Later as ``train_set`` and ``val_set``, each
with ``images/N.jpg`` and ``annotations/N_exp.npy``, ``N_val.npy`` and ``N_aro.npy``. There is no public
test set, so the validation set tests, and every tenth training picture develops.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgeemo.errors import InputError

from .folds import DEVELOPMENT_EVERY, DEVELOPMENT_PLACE
from .item import Item, Tally
from .layout import first_file, first_folder, require

EXPECTED = (
    "Manually_Annotated_Images with training.csv and validation.csv, or train_set and val_set, each of "
    "images and annotations"
)
EXPRESSIONS = (
    *("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger"),
    *("contempt", "none", "uncertain", "no-face"),
)
KNOWN = 7  # of these are the project's
TABLES = {"training.csv": "train", "validation.csv": "test"}
SETS = {"train_set": "train", "val_set": "test"}
COLUMNS = (
    *("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks"),
    *("expression", "valence", "arousal"),
)


def read(folder: Path) -> list[Item]:
    """List the pictures.

    Raises:
        InputError: the folder is not that of the corpus, or an annotation cannot be read.
    """
    require(folder, fits, EXPECTED)
    left = Tally(folder)
    rows = _from_sets(folder) if (folder / "train_set").is_dir() else _from_tables(folder)
    items = []
    for number, (split, picture, expression, valence, arousal) in enumerate(rows):
        if not 0 <= expression < KNOWN:
            name = EXPRESSIONS[expression] if 0 <= expression < len(EXPRESSIONS) else str(expression)
            left.drop(f"of the expression {name}", picture)
        elif not picture.is_file():
            left.drop("whose picture is missing", picture)
        else:
            develops = split == "train" and number % DEVELOPMENT_EVERY == DEVELOPMENT_PLACE
            items.append(
                Item(
                    EXPRESSIONS[expression],
                    "",
                    picture,
                    valence=_inside(valence),
                    arousal=_inside(arousal),
                    split="develop" if develops else split,
                )
            )
    return left.finish(items)


def fits(folder: Path) -> bool:
    """Whether it holds one of the two forms."""
    sets = all((folder / name / "annotations").is_dir() for name in SETS)
    return sets or (_images(folder) is not None and all(_table(folder, name) for name in TABLES))


def _images(folder: Path) -> Path | None:
    name = "Manually_Annotated_Images"
    return first_folder((folder / name / name, folder / name, folder / "Manually_Annotated" / name))


def _table(folder: Path, name: str) -> Path | None:
    return first_file(
        folder / place / name for place in ("", "Manually_Annotated_file_lists", "Manually_Annotated")
    )


def _from_tables(folder: Path) -> Iterator[tuple[str, Path, int, float, float]]:
    images = _images(folder)
    for name, split in TABLES.items():
        path = _table(folder, name)
        assert images is not None and path is not None
        with path.open(newline="", encoding="utf-8") as file:
            for line, cells in enumerate(csv.reader(file), start=1):
                if cells[:1] == [COLUMNS[0]]:
                    continue
                try:
                    expression, valence, arousal = int(cells[6]), float(cells[7]), float(cells[8])
                except (IndexError, ValueError) as error:
                    raise InputError(
                        f"{path}, line {line}: it must have the columns {', '.join(COLUMNS)} ({error})"
                    ) from error
                yield split, images / cells[0], expression, valence, arousal


def _from_sets(folder: Path) -> Iterator[tuple[str, Path, int, float, float]]:
    for name, split in SETS.items():
        notes = folder / name / "annotations"
        for path in sorted(notes.glob("*_exp.npy")):
            number = path.stem.removesuffix("_exp")
            expression = _number(path)
            valence, arousal = _number(notes / f"{number}_val.npy"), _number(notes / f"{number}_aro.npy")
            yield split, folder / name / "images" / f"{number}.jpg", int(expression), valence, arousal


def _number(path: Path) -> float:
    """The one number of a file, which is stored as a string."""
    try:
        return float(np.load(path, allow_pickle=False).item())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: it cannot be read ({error}); it must be a NumPy file of one number"
        ) from error


def _inside(value: float) -> float | None:
    return value if -1 <= value <= 1 else None
