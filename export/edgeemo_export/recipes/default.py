"""The default bundle's recipe: face, voice, then the fusion over both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..systems.attention import AttentionFusion
from . import face, fusion, voice


@dataclass(frozen=True)
class Trained:
    """The three parts of a trained bundle."""

    face: face.FaceModel
    voice: voice.VoiceModel
    fusion: AttentionFusion


def train(data: Path, folder: Path, seed: int = 0) -> Trained:
    """Train all three, or finish what an earlier call began; a finished run is read back at once.

    Args:
        data: folder with ``ferplus``, ``ravdess_speech``, ``nemo`` and ``emodb``.
        folder: one sub-folder a part, each with its state and its curve.
        seed: of all three.
    """
    faces = face.train(data, folder / "face", replace(face.SCHEDULE, seed=seed))
    voices = voice.train(data, folder / "voice", replace(voice.SCHEDULE, seed=seed))
    fused = fusion.train(data, folder / "fusion", faces, voices, replace(fusion.SCHEDULE, seed=seed))
    return Trained(faces, voices, fused)
