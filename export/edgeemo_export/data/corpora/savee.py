"""SAVEE: four English men, seven emotions, face and voice (Jackson and Haq, 2014).

Received as ``AudioData/DC/a01.wav`` and ``AudioVisualClip/DC/a1.avi`` (kahlan.eps.surrey.ac.uk/savee), or
flat as ``DC_a01.wav``: speaker, the emotion's initials, sentence. The videos count without leading zeros.
"""

from __future__ import annotations

import re
from pathlib import Path

from .item import Item, Tally
from .layout import files, require

EXPECTED = "AudioData/DC/a01.wav and AudioVisualClip/DC/a01.avi, or files named as DC_a01.wav"
LABELS = {
    "a": "anger",
    "d": "disgust",
    "f": "fear",
    "h": "happiness",
    "n": "neutral",
    "sa": "sadness",
    "su": "surprise",
}
SPEAKERS = ("DC", "JE", "JK", "KL")
PLACES = ("", *(f"{part}{who}" for part in ("", "AudioData/", "AudioVisualClip/") for who in SPEAKERS))
NAME = re.compile(r"(?:(DC|JE|JK|KL)_)?(a|d|f|h|n|sa|su)(\d{1,2})")


def read(folder: Path) -> list[Item]:
    """List the utterances; one without its sound file has the voice of its video.

    Raises:
        InputError: the folder is not that of the corpus.
    """
    require(folder, fits, EXPECTED)
    left = Tally(folder)
    voices, videos = _named(folder, ".wav", left), _named(folder, ".avi", left)
    items = []
    for key in sorted(voices.keys() | videos.keys()):
        speaker, code, _ = key
        items.append(
            Item(LABELS[code], f"savee-{speaker}", videos.get(key), voices.get(key) or videos.get(key))
        )
    return left.finish(items)


def fits(folder: Path) -> bool:
    """Whether it holds the parts, the speakers, or files of the flat kind; a part of the corpus does not."""
    if (folder / "AudioData").is_dir() or (folder / "AudioVisualClip").is_dir():
        return True
    if folder.name in ("AudioData", "AudioVisualClip", *SPEAKERS):
        return False
    return any(_key(path) is not None for path in files(folder, PLACES, (".wav", ".avi")))


def _named(folder: Path, suffix: str, left: Tally) -> dict[tuple[str, str, int], Path]:
    found: dict[tuple[str, str, int], Path] = {}
    for path in files(folder, PLACES, (suffix,)):
        key = _key(path)
        if key is None:
            left.drop("of another name", path)
        elif key in found:
            left.drop("second copies of a file", path)
        else:
            found[key] = path
    return found


def _key(path: Path) -> tuple[str, str, int] | None:
    """Speaker, emotion and sentence."""
    name = NAME.fullmatch(path.stem)
    speaker = (name[1] or path.parent.name) if name else ""
    return (speaker, name[2], int(name[3])) if name and speaker in SPEAKERS else None
