"""CREMA-D: twelve sentences by 91 actors, face and voice (Cao et al., 2014).

Its repository (CheyneyComputerScience/CREMA-D) has ``AudioWAV/*.wav`` and ``VideoFlash/*.flv`` of the
same names ``actor_sentence_EMOTION_LEVEL``, kept by Git LFS; its README names four clips that cannot be
used. The label is the emotion that the actor was asked for. What raters saw and heard, in
``tabulatedVotes.csv`` and ``summaryTable.csv``, and who the actors are, in ``VideoDemographics.csv``, is
not read here.
"""

from __future__ import annotations

import re
from pathlib import Path

from edgeemo.errors import InputError

from .item import Item, Tally
from .layout import files, require

EXPECTED = "AudioWAV of .wav and VideoFlash of .flv, or files, named as 1001_DFA_ANG_XX.wav"
LABELS = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happiness",
    "NEU": "neutral",
    "SAD": "sadness",
}
VOICES, VIDEOS = "AudioWAV", "VideoFlash"
SOUNDS = (".wav", ".flac")
PICTURES = (".flv", ".mp4")
# One file of the corpus, 1040_ITH_SAD_X, has a letter less.
NAME = re.compile(r"(\d{4})_[A-Z]{3}_([A-Z]{3})_(?:LO|MD|HI|XX?)")
BROKEN = frozenset({"1064_IEO_DIS_MD", "1064_TIE_SAD_XX", "1076_MTI_NEU_XX", "1076_MTI_SAD_XX"})
POINTER, SHORT = b"version https://git-lfs", 1000


def read(folder: Path) -> list[Item]:
    """List the clips; without its sound file a clip has the voice of its video.

    Raises:
        InputError: the folder is not that of the corpus, or Git LFS has not fetched the files.
    """
    require(folder, fits, EXPECTED)
    left = Tally(folder)
    voices = {path.stem: path for path in files(folder, ("", VOICES), SOUNDS)}
    videos = {path.stem: path for path in files(folder, ("", VIDEOS), PICTURES)}
    items = []
    for stem in sorted(voices.keys() | videos.keys()):
        path = voices.get(stem) or videos[stem]
        _check_fetched(path)
        name = NAME.fullmatch(stem)
        if name is None or name[2] not in LABELS:
            left.drop("of another name", path)
        elif stem in BROKEN:
            left.drop("broken in the corpus", path)
        else:
            items.append(Item(LABELS[name[2]], f"cremad-{name[1]}", videos.get(stem), path))
    return left.finish(items)


def fits(folder: Path) -> bool:
    """Whether it holds the folders, or files of that name without them."""
    if (folder / VOICES).is_dir() or (folder / VIDEOS).is_dir():
        return True
    flat = folder.name not in (VOICES, VIDEOS)
    return flat and any(NAME.fullmatch(path.stem) for path in files(folder, ("",), SOUNDS + PICTURES))


def _check_fetched(path: Path) -> None:
    if path.stat().st_size < SHORT and path.read_bytes().startswith(POINTER):
        raise InputError(
            f"{path}: it is a pointer of Git LFS in place of the recording; fetch the files by git lfs pull"
        )
