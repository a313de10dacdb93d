"""nEMO: ninety Polish sentences by nine actors, with what is said (Christop, 2024).

Its repository (amu-cai/nEMO) has ``samples/SPEAKER_emotion_sentence.wav`` and ``data.tsv``, whose column
``file_id`` is the file's name and ``raw_text`` its words. The trimmed kind, flat ``.flac`` with
``transcripts.tsv``, is read as well. Speakers are taken from the names: in the table they are padded with
spaces.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from edgeemo.errors import InputError

from ..labels import NEMO
from .item import Item, Tally
from .layout import files, first_file, require

EXPECTED = "samples of .wav named as EB0_anger_1.wav, and data.tsv"
SUFFIXES = (".wav", ".flac")
NAME = re.compile(r"([A-Z]{2}\d)_([a-z]+)_\d+")


def read(folder: Path) -> list[Item]:
    """List the utterances with their words, which are empty where there is no table.

    Raises:
        InputError: the folder is not that of the corpus, or the table lacks a column.
    """
    require(folder, fits, EXPECTED)
    left, items = Tally(folder), []
    texts = _texts(first_file((folder / "data.tsv", folder / "transcripts.tsv")))
    for path in files(folder, ("", "samples"), SUFFIXES):
        name = NAME.fullmatch(path.stem)
        if name is None or name[2] not in NEMO:
            left.drop("of another name", path)
            continue
        text = texts.get(path.stem, "")
        if texts and not text:
            left.drop("texts that are missing (the voice is kept)", path)
        items.append(Item(NEMO[name[2]], f"nemo-{name[1]}", voice=path, text=text))
    return left.finish(items)


def fits(folder: Path) -> bool:
    """Whether it, or its ``samples``, holds files of that name; ``samples`` alone lacks the words."""
    named = any(NAME.fullmatch(path.stem) for path in files(folder, ("", "samples"), SUFFIXES))
    return named and folder.name != "samples"


def _texts(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if not {"file_id", "raw_text"} <= set(table.fieldnames or ()):
            raise InputError(f"{path}: it must have the columns file_id and raw_text, divided by tabs")
        return {Path(row["file_id"].strip()).stem: row["raw_text"].strip() for row in table}
