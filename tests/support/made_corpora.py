"""Made-up corpora in the place of FER+, RAVDESS and the rest, and a run of encoders that learnt nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeemo_export.data import ferplus, sounds, transcripts, voices
from edgeemo_export.data.labels import LABELS, RAVDESS
from edgeemo_export.recipes import by_name, co_attention, fdan, fusion, systems
from edgeemo_export.recipes.face import FaceModel
from edgeemo_export.recipes.voice import VoiceModel
from edgeemo_export.train import Schedule

CODES = {label: code for code, label in RAVDESS.items()}  # that of calm is lost, for neutral
ACTORS = {"train": (2, 3, 4), "develop": (15,), "test": (17,)}
ONE = Schedule(epochs=1, rate=1e-3, seed=0)
DEFAULTS: dict[str, Any] = {
    "foal-net": systems.FoalNetConfig(ONE, batch=8, steps=2),
    "jca": systems.JCAConfig(ONE, batch=8, steps=2),
    "fdan": fdan.Config(ONE, batch=7, steps=1, pictures=1, takes=1),
    "co-attention": co_attention.Config(ONE, batch=8, steps=2, copies=1, pieces=80, layers=1, inner=8),
}
"""Settings with which a system is trained in a second."""


@dataclass(frozen=True)
class Made:
    """Where everything is.

    Attributes:
        data: the corpora, as far as they are files.
        encoders: a run with a face and a voice.
        read: notes every split that was read.
    """

    data: Path
    encoders: Path
    read: set[str]


def faces(split: str) -> ferplus.Faces:
    """Bars whose direction is the label."""
    random = np.random.default_rng({"train": 0, "develop": 1, "test": 2}[split])
    images, votes = np.empty((28, 48, 48), np.uint8), np.zeros((28, 10), np.uint8)
    rows, columns = np.mgrid[:48, :48]
    for place in range(28):
        angle = np.pi * (place % 7) / 7
        wave = np.sin((rows * np.sin(angle) + columns * np.cos(angle)) / 3)
        images[place] = (120 + 60 * wave + random.normal(0, 5, (48, 48))).clip(0, 255)
        votes[place, place % 7], votes[place, (place + 1) % 7] = 8, 2
    return ferplus.Faces(images, votes)


def recording(actor: int, label: str) -> str:
    """Name of a RAVDESS recording, without suffix."""
    return f"03-01-{CODES[label]}-01-01-01-{actor:02}"


def clips(split: str) -> list[voices.Clip]:
    """A recording of each label by each actor of a split."""
    return [
        voices.Clip(Path(f"{recording(actor, label)}.flac"), "ravdess", f"ravdess-{actor:02}", label, split)
        for actor in ACTORS[split]
        for label in LABELS
    ]


def sound(path: Path) -> Tensor:
    """Half a second of a tone whose pitch is the label."""
    fields = path.stem.split("-")
    pitch = 200 * (1 + LABELS.index(RAVDESS[fields[2]]))
    time = torch.arange(8000) / 16000
    return 0.1 * torch.sin(2 * torch.pi * pitch * time + int(fields[6]))


def replace_readers(patch: pytest.MonkeyPatch, faces: Callable[[str], ferplus.Faces] = faces) -> set[str]:
    """Put made-up pictures and sounds in the place of the corpora, and a short size in that of a long one.

    Args:
        patch: ends it.
        faces: the pictures of a split.

    Returns:
        A set in which every split that is read is noted.
    """
    read: set[str] = set()

    def read_faces(folder: Path, split: str) -> ferplus.Faces:
        read.add(f"faces {split}")
        return faces(split)

    def read_voices(folder: Path, split: str, corpora: Iterable[str] = ("ravdess",)) -> list[voices.Clip]:
        read.add(f"voices {split}")
        return clips(split) if "ravdess" in corpora else []

    patch.setattr(ferplus, "read", read_faces)
    patch.setattr(voices, "read", read_voices)
    patch.setattr(sounds, "load", sound)
    patch.setattr(fusion, "DEVELOPMENT_PAIRS", 40)
    return read


def make(folder: Path, patch: pytest.MonkeyPatch) -> Made:
    """Write what is read as files, and replace the readers and the long settings."""
    read = replace_readers(patch)
    patch.setattr(transcripts, "CORPORA", ("ravdess",))
    patch.setattr(by_name, "DEFAULTS", DEFAULTS)
    data, encoders = folder / "data", folder / "encoders"
    _units(data)
    _votes(data)
    torch.manual_seed(0)
    for name, model in (("face", FaceModel()), ("voice", VoiceModel())):
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):  # a new one hides what its residual block computes
                nn.init.uniform_(part.weight, 0.5, 1.5)
        (encoders / name).mkdir(parents=True)
        torch.save({"averaged": model.state_dict()}, encoders / name / "state.pt")
    return Made(data, encoders, read)


def _units(data: Path) -> None:
    names = [f"01{clip.path.stem[2:]}" for split in ACTORS for clip in clips(split)]
    units = np.random.default_rng(0).uniform(0.0, 5.0, (len(names), 35)).astype(np.float32)
    (data / "ravdess_action_units").mkdir(parents=True)
    np.savez(data / "ravdess_action_units" / "action_units.npz", clip=np.array(names), units=units)


def _votes(data: Path) -> None:
    lines = ['"","A","D","F","H","N","S","fileName"']
    for kind in "123":
        for place in range(6):
            counts = ",".join(str(8 if other == place else 1) for other in range(6))
            lines.append(f'"{kind}0000{place}",{counts},"1002_{place}"')
    (data / "cremad").mkdir(parents=True)
    (data / "cremad" / "tabulatedVotes.csv").write_text("\n".join(lines) + "\n")
