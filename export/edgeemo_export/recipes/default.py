"""The default bundle's recipe: face, voice, then the fusion over both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..config import kept
from ..systems.attention import AttentionFusion
from . import face, fusion, voice


@dataclass(frozen=True)
class Config:
    """Settings of the three parts."""

    face: face.Config = face.DEFAULTS
    voice: voice.Config = voice.DEFAULTS
    fusion: fusion.Config = fusion.DEFAULTS


DEFAULTS = Config()


@dataclass(frozen=True)
class Trained:
    """The three parts of a trained bundle."""

    face: face.FaceModel
    voice: voice.VoiceModel
    fusion: AttentionFusion


def train(data: Path, folder: Path, config: Config = DEFAULTS) -> Trained:
    """Train all three, or finish what an earlier call began; a finished run is read back at once.

    Args:
        data: folder with ``ferplus``, ``ravdess_speech``, ``nemo`` and ``emodb``.
        folder: one sub-folder a part, each with its settings, its state and its curve.
        config: the settings.

    Raises:
        InputError: a part was begun with other settings.
    """
    faces = face.train(data, folder / "face", config.face)
    voices = voice.train(data, folder / "voice", config.voice)
    fused = fusion.train(data, folder / "fusion", faces, voices, config.fusion)
    return Trained(faces, voices, fused)


def settings(folder: Path, otherwise: Config) -> Config:
    """The settings that each part of a run was begun with; ``otherwise`` for what has not begun."""
    return Config(
        kept(folder / "face", otherwise.face),
        kept(folder / "voice", otherwise.voice),
        kept(folder / "fusion", otherwise.fusion),
    )
