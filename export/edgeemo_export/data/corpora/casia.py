"""CASIA: Mandarin by four actors, six emotions (Institute of Automation, Chinese Academy of Sciences).

Received as ``speaker/emotion/201.wav``, mostly the 300 sentences that all say alike. Copies with both
parts put them below ``相同文本300`` (same text) and ``不同文本100`` (different text); the second writes
the same four names the other way round, and calls neutral ``normal``. A person is one speaker in both.
"""

from __future__ import annotations

from pathlib import Path

from .item import Item, Tally
from .layout import files, require

EXPECTED = "speaker/emotion/201.wav, with the speakers liuchanhg, wangzhe, zhaoquanyin and ZhaoZuoxiang"
LABELS = {
    "angry": "anger",
    "fear": "fear",
    "happy": "happiness",
    "neutral": "neutral",
    "normal": "neutral",
    "sad": "sadness",
    "surprise": "surprise",
}
SPEAKERS = {
    "liuchanhg": "liuchanhg",
    "chang.liu": "liuchanhg",
    "wangzhe": "wangzhe",
    "zhe.wang": "wangzhe",
    "zhaoquanyin": "zhaoquanyin",
    "quanyin.zhao": "zhaoquanyin",
    "zhaozuoxiang": "zhaozuoxiang",
    "zuoxiang.zhao": "zhaozuoxiang",
}
PARTS = ("*", "*[13]00*/*")  # unpacking may spoil the Chinese of their names, not the numbers
PLACES = tuple(f"{part}/*" for part in PARTS)
SUFFIXES = (".wav",)


def read(folder: Path) -> list[Item]:
    """List the utterances.

    Raises:
        InputError: the folder is not that of the corpus.
    """
    require(folder, fits, EXPECTED)
    left, items = Tally(folder), []
    for path in files(folder, PLACES, SUFFIXES):
        speaker = SPEAKERS.get(path.parent.parent.name.lower())
        label = LABELS.get(path.parent.name.lower())
        if speaker is None:
            left.drop("of a speaker who is none of the four", path)
        elif label is None:
            left.drop("of a folder that is no emotion", path)
        else:
            items.append(Item(label, f"casia-{speaker}", voice=path))
    return left.finish(items)


def fits(folder: Path) -> bool:
    """Whether one of the four speakers has a folder in it, or in a part of it."""
    return any(path.name.lower() in SPEAKERS for part in PARTS for path in folder.glob(part))
