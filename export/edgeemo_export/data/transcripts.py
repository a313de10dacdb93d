"""What is said in the recordings of RAVDESS and nEMO."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from edgeemo.errors import InputError

from .voices import Clip

CORPORA = ("ravdess", "nemo")
"""The corpora of which it is known here what is said."""

RAVDESS = {"01": "kids are talking by the door", "02": "dogs are sitting by the door"}
"""The two statements, by the fifth field of a recording's name (Livingstone and Russo, 2018)."""


def read(folder: Path, clips: Sequence[Clip]) -> list[str]:
    """What is said in each clip.

    Args:
        folder: the data; of nEMO its ``nemo/transcripts.tsv`` is read.
        clips: of `CORPORA`.

    Raises:
        InputError: a clip is of another corpus, or nothing tells what is said in it.
    """
    known = read_nemo(folder / "nemo" / "transcripts.tsv") if any(c.corpus == "nemo" for c in clips) else {}
    texts = []
    for clip in clips:
        if clip.corpus == "ravdess":
            text = RAVDESS.get((clip.path.stem.split("-") + [""] * 5)[4])
        elif clip.corpus == "nemo":
            text = known.get(clip.path.stem)
        else:
            raise InputError(
                f"{clip.path}: nothing tells what is said in {clip.corpus}; it must be of "
                f"{', '.join(CORPORA)}"
            )
        if text is None:
            raise InputError(
                f"{clip.path}: nothing tells what is said in it; RAVDESS has statement 01 or 02 as the fifth "
                "field of the name, nEMO a line in transcripts.tsv"
            )
        texts.append(text)
    return texts


def read_nemo(path: Path) -> dict[str, str]:
    """Sentences of nEMO's ``transcripts.tsv``, in small letters, by the name of the recording.

    Raises:
        InputError: the file is missing, or has other columns.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; nEMO comes with it")
    with path.open(encoding="utf-8", newline="") as file:
        # Some sentences have quotation marks, none of which hold a tab.
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        columns = rows.fieldnames or ()
        missing = [name for name in ("file_id", "normalized_text") if name not in columns]
        if missing:
            raise InputError(
                f"{path}, line 1: its columns are {', '.join(columns) or 'none'}; there must be "
                f"{' and '.join(missing)}"
            )
        found = {}
        for row in rows:
            if not row["normalized_text"]:
                raise InputError(f"{path}, line {rows.line_num}: it has no normalized_text")
            found[Path(row["file_id"]).stem] = row["normalized_text"].strip().lower()
    return found
