"""RAVDESS, EmoDB and nEMO as clips with label and speaker, split by speaker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .labels import EMODB, NEMO, RAVDESS


@dataclass(frozen=True)
class Clip:
    """One utterance.

    Attributes:
        path: the sound file.
        corpus: ``'ravdess'``, ``'emodb'`` or ``'nemo'``.
        speaker: unique over corpora, e.g. ``'ravdess-17'``.
        label: one of the seven.
        split: ``'train'``, ``'develop'``, ``'test'`` or ``'held'`` (the audio-visual test speaker: never
            used).
    """

    path: Path
    corpus: str
    speaker: str
    label: str
    split: str


def _ravdess(folder: Path) -> Iterator[Clip]:
    for path in sorted(folder.glob("ravdess_speech/actor_*/*.flac")):
        emotion, actor = path.stem.split("-")[2], int(path.stem.split("-")[6])
        split = "held" if actor == 1 else "train" if actor <= 14 else "develop" if actor <= 16 else "test"
        yield Clip(path, "ravdess", f"ravdess-{actor:02}", RAVDESS[emotion], split)


def _emodb(folder: Path) -> Iterator[Clip]:
    splits = {"03": "train", "08": "train", "09": "train", "10": "develop"}
    for path in sorted(folder.glob("emodb/*.flac")):
        speaker = path.stem[:2]
        yield Clip(path, "emodb", f"emodb-{speaker}", EMODB[path.stem[5]], splits.get(speaker, "test"))


def _nemo(folder: Path) -> Iterator[Clip]:
    for path in sorted(folder.glob("nemo/*.flac")):
        speaker, emotion, _ = path.stem.split("_")
        split = "train" if speaker in ("EB0", "IC0", "KD0", "KS0") else "test"
        yield Clip(path, "nemo", f"nemo-{speaker}", NEMO[emotion], split)


def read(folder: Path, split: str, corpora: tuple[str, ...] = ("ravdess", "emodb", "nemo")) -> list[Clip]:
    """List the clips of a split, speakers never shared between splits."""
    readers = {"ravdess": _ravdess, "emodb": _emodb, "nemo": _nemo}
    return [clip for corpus in corpora for clip in readers[corpus](folder) if clip.split == split]
