"""RAVDESS: speech of 24 actors, as sound, as video, and as video with sound (Livingstone and Russo, 2018).

Zenodo record 1188976 has ``Audio_Speech_Actors_01-24.zip`` and ``Video_Speech_Actor_NN.zip``, which
unpack to folders ``Actor_NN``; its page tells the seven fields of a name. A copy with lossless files of
the trimmed kind ``actor_NN/*.flac``, and a flat folder of files, are read as well.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..labels import RAVDESS
from .item import Item, Tally
from .layout import files, require

EXPECTED = "folders Actor_01 to Actor_24 of .wav or .mp4 named as 03-01-06-01-02-01-12.wav"

# Archives unpacked side by side are Actor_NN; unpacked each into a folder of its own they are one level down.
PLACES = ("", "[Aa]ctor_*", "*_[Aa]ctor*", "*_[Aa]ctor*/[Aa]ctor_*")
SUFFIXES = (".wav", ".flac", ".mp4")
NAME = re.compile(r"(0[123])-(0[12])-((0[1-8])-\d\d-\d\d-\d\d-(\d\d))")
WHOLE, SILENT, SOUND = "01", "02", "03"
SPEECH = "01"


def read(folder: Path) -> list[Item]:
    """List the recordings, one item each, however many files it was published as.

    A video with its own sound is preferred to the silent video and the separate sound of the same recording.

    Raises:
        InputError: the folder is not that of the corpus.
    """
    require(folder, fits, EXPECTED)
    left = Tally(folder)
    recordings: dict[str, dict[str, Path]] = {}
    for path in files(folder, PLACES, SUFFIXES):
        name = NAME.fullmatch(path.stem)
        if name is None:
            left.drop("of another name", path)
        elif name[2] != SPEECH:
            left.drop("songs", path)
        elif name[1] in recordings.setdefault(name[3], {}):
            left.drop("second copies of a file", path)
        else:
            recordings[name[3]][name[1]] = path
    return left.finish([_item(key, parts, left) for key, parts in sorted(recordings.items()) if parts])


def fits(folder: Path) -> bool:
    """Whether it holds actors; the folder of one actor does not."""
    one = re.fullmatch(r"[Aa]ctor_\d\d", folder.name)
    return not one and any(NAME.fullmatch(path.stem) for path in files(folder, PLACES, SUFFIXES))


def _item(key: str, parts: dict[str, Path], left: Tally) -> Item:
    if WHOLE in parts:
        for part in (SILENT, SOUND):
            if part in parts:
                left.drop("parts of a recording whose video has sound", parts[part])
    emotion, actor = key[:2], key[-2:]
    whole = parts.get(WHOLE)
    face, voice = whole or parts.get(SILENT), whole or parts.get(SOUND)
    return Item(RAVDESS[emotion], f"ravdess-{actor}", face, voice)
