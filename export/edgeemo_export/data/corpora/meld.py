"""MELD: utterances of a television series with face, voice and text (Poria et al., 2019).

Its repository (declare-lab/MELD) has ``train_sent_emo.csv``, ``dev_sent_emo.csv`` and
``test_sent_emo.csv``, and the raw data the folders ``train_splits``, ``dev_splits_complete`` and
``output_repeated_splits_test`` of ``diaN_uttM.mp4``. Its threads tell what is odd: a clip is missing (22,
27), one is corrupt (39), and in the test folder clips whose name begins with ``final_videos_test`` belong
to the table where both are there.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from edgeemo.errors import InputError

from .item import Item, Tally
from .layout import first_file, first_folder, require

EXPECTED = (
    "train_sent_emo.csv, dev_sent_emo.csv and test_sent_emo.csv, and train_splits, dev_splits_complete and "
    "output_repeated_splits_test of dia0_utt0.mp4"
)
LABELS = {
    "anger": "anger",
    "disgust": "disgust",
    "fear": "fear",
    "joy": "happiness",
    "neutral": "neutral",
    "sadness": "sadness",
    "surprise": "surprise",
}
PARTS = {
    "train": ("train", "train_splits"),
    "dev": ("develop", "dev_splits_complete"),
    "test": ("test", "output_repeated_splits_test"),
}
BETTER = "final_videos_test"
CORRUPT = frozenset({("train", "dia125_utt3")})
COLUMNS = frozenset({"Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID"})


def read(folder: Path) -> list[Item]:
    """List the utterances in the official split; without any of the folders of clips they are text alone.

    Raises:
        InputError: the folder is not that of the corpus, or a table lacks a column.
    """
    require(folder, fits, EXPECTED)
    left, items = Tally(folder), []
    for part, (split, name) in PARTS.items():
        table = _table(folder, part)
        clips = first_folder((folder / name, folder / part / name))
        assert table is not None
        for row in _rows(table):
            stem = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
            clip = clips and first_file((clips / f"{BETTER}{stem}.mp4", clips / f"{stem}.mp4"))
            label = LABELS.get(row["Emotion"].strip().lower())
            if label is None:
                left.drop(f"of the label {row['Emotion']!r}", f"{part} {stem}")
            elif (part, stem) in CORRUPT:
                left.drop("corrupt in the corpus", f"{part} {stem}")
            elif clips is not None and clip is None:
                left.drop("whose clip is missing", clips / f"{stem}.mp4")
            else:
                text = " ".join(row["Utterance"].split())
                items.append(Item(label, f"meld-{row['Speaker'].strip()}", clip, clip, text, split=split))
    return left.finish(items)


def fits(folder: Path) -> bool:
    """Whether it holds the three tables."""
    return all(_table(folder, part) is not None for part in PARTS)


def _table(folder: Path, part: str) -> Path | None:
    name = f"{part}_sent_emo.csv"
    return first_file((folder / name, folder / part / name, folder / "data" / "MELD" / name))


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        table = csv.DictReader(file)
        missing = sorted(COLUMNS - set(table.fieldnames or ()))
        if missing:
            raise InputError(f"{path}: it has no column {', '.join(missing)}; it must be a table of MELD")
        yield from table
