"""Writes a corpus as the manifest that ``edgeemo evaluate`` and ``edgeemo-export train --manifest`` read."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeemo import evaluate
from edgeemo.errors import InputError

from ..splits import SPLITS, check_splits, split_items
from . import ferplus
from .item import Item, Tally
from .registry import Corpus

log = logging.getLogger("edgeemo.export")

COLUMNS = ("face", "voice", "text", "valence", "arousal")


def write(
    corpus: Corpus, folder: Path, out: Path, fold: str | None = None, *, speakers_unknown: bool = False
) -> list[evaluate.Item]:
    """Read a corpus, check its splits for leakage and write its manifest.

    What a manifest can only name as a file is written beside it, in a folder of its name: pictures that are
    stored in a table, and folders of links to the frames of a run.

    Args:
        corpus: which.
        folder: where it lies.
        out: the CSV file.
        fold: one of the corpus' folds, None for the first or the official split.
        speakers_unknown: where splits share speakers or nobody knows them, accept that: no line names one.

    Returns:
        The items that were written; their lines count before copies were dropped.

    Raises:
        InputError: the folder or the fold is wrong, or the splits leak.
    """
    if corpus.speakers_shared and not speakers_unknown:
        raise InputError(
            f"{corpus.name}: {corpus.speakers_shared}; say --speakers-unknown and take the figures for "
            "optimistic"
        )
    if speakers_unknown and not corpus.speakers_shared:
        raise InputError(f"{corpus.name}: its splits are by speaker; leave --speakers-unknown out")
    if out.is_dir():
        raise InputError(f"{out}: it is a folder; name the CSV file to write")
    items = _labelled(folder, corpus.read(folder, fold))
    named = [
        evaluate.Item(line, item.label, "" if speakers_unknown else item.speaker, {}, item.split)
        for line, item in enumerate(items, start=2)
    ]
    check_splits(out, named, tuple(SPLITS))  # before anything is written
    out.parent.mkdir(parents=True, exist_ok=True)
    files = _Files(out.with_name(f"{out.stem}-files"))
    recorded = [replace(line, paths=files.recordings(item)) for line, item in zip(named, items, strict=True)]
    lines = split_items(out, recorded, unknown=speakers_unknown)
    kept = [items[line.line - 2] for line in lines]
    _warn_of_texts(out, kept)
    _write(out, lines, kept)
    log.info("%s: %s", out, _summary(lines))
    log.info("%s: licence %s; commercial use: %s", corpus.name, corpus.licence, _allowed(corpus.commercial))
    return lines


def _labelled(folder: Path, items: Sequence[Item]) -> list[Item]:
    left, kept = Tally(folder), []
    for item in items:
        if item.label:
            kept.append(item)
        else:
            left.drop("without a label, with valence and arousal alone", f"{item.face} {item.frames}")
    return left.finish(kept) if left.counts else kept


class _Files:
    """Makes files of what is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tables: dict[Path, NDArray[np.uint8]] = {}
        self.video, self.frames = Path(), dict[int, Path]()  # of the video whose runs are written

    def recordings(self, item: Item) -> dict[str, Path]:
        """The files of an item's face and voice."""
        paths = {}
        if item.face is not None:
            paths["face"] = self.face(item.face, item.frames)
        if item.voice is not None:
            paths["voice"] = item.voice.absolute()
        return paths

    def face(self, face: Path, frames: tuple[int, int] | None) -> Path:
        """The file or the folder of a face."""
        if frames is None:
            return face.absolute()
        return self.run(face, frames) if face.is_dir() else self.picture(face, frames[0])

    def run(self, pictures: Path, frames: tuple[int, int]) -> Path:
        """A folder of links to the pictures of a run."""
        place = self.folder / "frames" / f"{pictures.name}-{frames[0]:05}-{frames[1] - 1:05}"
        place.mkdir(parents=True, exist_ok=True)
        if self.video != pictures:
            found = (path for path in pictures.absolute().iterdir() if path.stem.isdigit())
            self.video, self.frames = pictures, {int(path.stem): path for path in found}
        for path in (self.frames[number] for number in range(*frames) if number in self.frames):
            if not (link := place / path.name).is_symlink():
                link.symlink_to(path)
        return place.absolute()

    def picture(self, table: Path, row: int) -> Path:
        """A picture of a table, as a file."""
        import cv2

        if table not in self.tables:
            self.tables[table] = ferplus.pictures(table)
        path = self.folder / "pictures" / f"{table.stem}-{row:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(path), self.tables[table][row]):
            raise InputError(f"{path}: it cannot be written")
        return path.absolute()


def _warn_of_texts(out: Path, items: Sequence[Item]) -> None:
    """A text that training items have too can be learnt by heart, whoever says it in the test."""
    told = {_plain(item.text) for item in items if item.text and item.split == "train"}
    tests = [item for item in items if item.text and item.split == "test"]
    known = sum(_plain(item.text) in told for item in tests)
    if known:
        log.warning(
            "%s: %d of %d test items say word for word what a training item says; what reads the text is "
            "measured on what it has read",
            *(out, known, len(tests)),
        )


def _plain(text: str) -> str:
    return " ".join("".join(sign if sign.isalnum() else " " for sign in text.casefold()).split())


def _write(out: Path, lines: Sequence[evaluate.Item], items: Sequence[Item]) -> None:
    """The table, whole or not at all, with the columns that have something in them."""
    rows = [
        {name: str(path) for name, path in line.paths.items()} | _said_and_rated(item)
        for line, item in zip(lines, items, strict=True)
    ]
    columns = [name for name in COLUMNS if any(name in row for row in rows)]
    new = out.with_suffix(".new")
    with new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("label", "speaker", "split", *columns), restval="")
        writer.writeheader()
        for line, row in zip(lines, rows, strict=True):
            writer.writerow({"label": line.label, "speaker": line.speaker, "split": line.split, **row})
    new.replace(out)


def _said_and_rated(item: Item) -> dict[str, str]:
    rated = {"valence": item.valence, "arousal": item.arousal}
    numbers = {name: f"{value:.4f}" for name, value in rated.items() if value is not None}
    return numbers | ({"text": item.text} if item.text else {})


def _summary(lines: Sequence[evaluate.Item]) -> str:
    counts = Counter((line.split, line.label) for line in lines)
    labels = sorted({line.label for line in lines})
    return "; ".join(
        f"{split}: " + ", ".join(f"{counts[split, label]} {label}" for label in labels) for split in SPLITS
    )


def _allowed(commercial: bool | None) -> str:
    return {True: "allowed", False: "not allowed", None: "see the corpus"}[commercial]
