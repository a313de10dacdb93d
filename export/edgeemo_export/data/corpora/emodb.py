"""EmoDB: ten sentences by ten German actors (Burkhardt et al., 2005).

The archive has ``wav/03a01Fa.wav``: speaker, sentence, the emotion's German initial, take
(emodb.bilderbar.info). Boredom is none of the project's labels.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..labels import EMODB
from .item import Item, Tally
from .layout import files, require

EXPECTED = "wav of .wav named as 03a01Fa.wav, or such files"
LABELS = {**EMODB, "E": "disgust", "A": "fear"}
BOREDOM = "L"
SUFFIXES = (".wav", ".flac")
NAME = re.compile(r"(\d\d)[ab]\d\d([WLEAFTN])[a-z]")


def read(folder: Path) -> list[Item]:
    """List the utterances.

    Raises:
        InputError: the folder is not that of the corpus.
    """
    require(folder, fits, EXPECTED)
    left, items = Tally(folder), []
    for path in files(folder, ("", "wav"), SUFFIXES):
        name = NAME.fullmatch(path.stem)
        if name is None:
            left.drop("of another name", path)
        elif name[2] == BOREDOM:
            left.drop("of boredom", path)
        else:
            items.append(Item(LABELS[name[2]], f"emodb-{name[1]}", voice=path))
    return left.finish(items)


def fits(folder: Path) -> bool:
    """Whether it, or its ``wav``, holds files of that name."""
    return any(NAME.fullmatch(path.stem) for path in files(folder, ("", "wav"), SUFFIXES))
