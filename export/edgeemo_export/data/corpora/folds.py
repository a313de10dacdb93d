"""Which speaker of a corpus is in which split: the files under ``splits``, made for this project.

A file has the columns ``fold``, ``speaker`` and ``split``, and ``scripts`` where some folds leave
scripted dialogues out (``none``) and others do not (``all``).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeemo.errors import InputError

from .item import Item, Tally

FOLDER = Path(__file__).parent / "splits"
DEVELOPMENT_EVERY, DEVELOPMENT_PLACE = 10, 3
"""Where a corpus has a split without a development part: every tenth training item, from this place on."""


@dataclass(frozen=True)
class Fold:
    """A division of the speakers.

    Attributes:
        splits: of each speaker.
        scripts: items that play a script are kept.
    """

    splits: dict[str, str]
    scripts: bool


def folds(name: str) -> dict[str, Fold]:
    """The folds of a split file, in its order.

    Example:
        >>> list(folds("savee"))
        ['1', '2', '3', '4']
        >>> folds("savee")["1"].splits["savee-DC"]
        'test'
    """
    found: dict[str, Fold] = {}
    with (FOLDER / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            fold = found.setdefault(row["fold"], Fold({}, row.get("scripts") != "none"))
            fold.splits[row["speaker"]] = row["split"]
    return found


def place(folder: Path, items: Sequence[Item], fold: Fold, name: str) -> list[Item]:
    """Give each item the split of its speaker.

    Args:
        folder: of the corpus, as messages name it.
        items: without splits.
        fold: the division.
        name: of the split file.

    Raises:
        InputError: a speaker is not in the split file, or nothing is left.
    """
    unknown = sorted({item.speaker for item in items} - fold.splits.keys())
    if unknown:
        raise InputError(
            f"{folder}: the speaker {unknown[0]} is not in {FOLDER / name}.csv; it must be one of "
            f"{', '.join(fold.splits)}"
        )
    if fold.scripts:
        return [replace(item, split=fold.splits[item.speaker]) for item in items]
    left, kept = Tally(folder), []
    for item in items:
        if item.script:
            left.drop("of a scripted dialogue", f"{item.speaker} {item.script}")
        else:
            kept.append(replace(item, split=fold.splits[item.speaker]))
    return left.finish(kept)
