"""FER+: the pictures of FER2013 with the votes of ten raters (Barsoum et al., 2016).

``fer2013.csv`` (Kaggle) has ``emotion,pixels,Usage``, and ``fer2013new.csv`` (microsoft/FERPlus) the
votes, row by row in the same order, the name of the picture being empty where nobody saw a face. Pictures
that were already taken out into ``FER2013Train``, ``FER2013Valid`` and ``FER2013Test`` are read from
there. The project's own form is ``train.npz`` and ``valid.npz``. Labels are those of the majority
protocol (`edgeemo_export.data.ferplus.Faces.majority`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeemo.errors import InputError

from .. import ferplus
from ..labels import LABELS
from .item import Item, Tally
from .layout import first_folder, require

EXPECTED = (
    "fer2013new.csv, and fer2013.csv or folders FER2013Train, FER2013Valid and FER2013Test of pictures; "
    "or train.npz and valid.npz"
)
PIXELS, VOTES = "fer2013.csv", "fer2013new.csv"
USAGES = {
    "Training": ("train", "FER2013Train"),
    "PublicTest": ("develop", "FER2013Valid"),
    "PrivateTest": ("test", "FER2013Test"),
}
SIZE = (48, 48)
CHOICES = (*ferplus.VOTES, "contempt", "unknown", "not a face")


def read(folder: Path) -> list[Item]:
    """List the pictures that have a majority, in the official split.

    Of the project's form every tenth training picture develops and ``valid.npz`` tests.

    Raises:
        InputError: the folder is not that of the corpus, or the two tables differ in length.
    """
    require(folder, fits, EXPECTED)
    left = Tally(folder)
    if (folder / VOTES).is_file():
        return left.finish(list(_from_tables(folder, left)))
    return left.finish([*_from_arrays(folder / "train.npz", left), *_from_arrays(folder / "valid.npz", left)])


def fits(folder: Path) -> bool:
    """Whether it holds the votes and the pictures."""
    if (folder / "train.npz").is_file() and (folder / "valid.npz").is_file():
        return True
    pictures = (folder / PIXELS).is_file() or _taken_out(folder, "FER2013Train") is not None
    return (folder / VOTES).is_file() and pictures


def pictures(path: Path) -> NDArray[np.uint8]:
    """Every picture ``[n, 48, 48]`` of ``fer2013.csv``, or of an npz of the project.

    Raises:
        InputError: a row has not 48 by 48 pixels.
    """
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as stored:
            return np.asarray(stored["images"], np.uint8)
    with path.open(newline="") as file:
        rows = [np.array(row["pixels"].split(), np.uint8) for row in csv.DictReader(file)]
    for number, row in enumerate(rows):
        if row.size != SIZE[0] * SIZE[1]:
            raise InputError(f"{path}, picture {number}: it has {row.size} pixels; it must have 48 by 48")
    return np.stack(rows).reshape(-1, *SIZE)


def _taken_out(folder: Path, name: str) -> Path | None:
    return first_folder((folder / name, folder / "data" / name, folder / "images" / name))


def _from_tables(folder: Path, left: Tally) -> Iterator[Item]:
    with (folder / VOTES).open(newline="", encoding="utf-8-sig") as file:
        _, *rows = (row for row in csv.reader(file) if row)
    try:
        votes = np.array([row[2:12] for row in rows], np.uint8).reshape(len(rows), len(CHOICES))
    except ValueError as error:
        raise InputError(f"{folder / VOTES}: it must have ten votes a row, from the third column") from error
    table = folder / PIXELS
    if table.is_file() and (count := _count(table)) != len(rows):
        raise InputError(
            f"{table}: it has {count} pictures, and {VOTES} votes for {len(rows)}; they must agree"
        )
    for number, (label, row) in enumerate(zip(_labels(votes, folder / VOTES, left), rows, strict=True)):
        if not label:
            continue
        if row[0] not in USAGES:
            left.drop(f"of the usage {row[0]!r}", number)
            continue
        split, name = USAGES[row[0]]
        picture = (_taken_out(folder, name) or folder) / row[1]
        if row[1] and picture.is_file():
            yield Item(label, "", picture, split=split)
        elif table.is_file():
            yield Item(label, "", table, split=split, frames=(number, number + 1))
        else:
            left.drop("whose picture is missing", picture)


def _count(path: Path) -> int:
    with path.open(newline="") as file:
        return sum(1 for row in csv.reader(file) if row) - 1


def _from_arrays(path: Path, left: Tally) -> Iterator[Item]:
    with np.load(path, allow_pickle=False) as stored:
        votes = stored["votes"]
    for number, label in enumerate(_labels(votes, path, left)):
        if label:
            develops = number % ferplus.DEVELOPMENT_EVERY == ferplus.DEVELOPMENT_PLACE
            split = "test" if path.stem == "valid" else "develop" if develops else "train"
            yield Item(label, "", path, split=split, frames=(number, number + 1))


def _labels(votes: NDArray[np.uint8], source: Path, left: Tally) -> list[str]:
    """The label of each picture, empty where it has none."""
    majority = ferplus.Faces(np.empty((len(votes), 0, 0), np.uint8), votes).majority
    top = votes.argmax(axis=1)
    for number in np.flatnonzero(majority < 0).tolist():
        choice = CHOICES[top[number]]
        split_votes = choice in LABELS
        left.drop("without a majority" if split_votes else f"of {choice}", f"{source.name} {number}")
    return [LABELS[place] if place >= 0 else "" for place in majority.tolist()]
