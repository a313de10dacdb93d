"""The default bundle's recipe: face, voice, then the fusion over both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..config import kept
from ..systems.attention import AttentionFusion
from . import distilled, face, fusion, presence, voice


@dataclass(frozen=True)
class Config:
    """Settings of the parts."""

    face: face.Config = face.DEFAULTS
    voice: voice.Config = voice.DEFAULTS
    fusion: fusion.Config = fusion.DEFAULTS
    presence: presence.Config = presence.DEFAULTS


DEFAULTS = Config()


@dataclass(frozen=True)
class Trained:
    """The parts of a trained bundle.

    Attributes:
        face: the face encoder and its classifier.
        voice: the voice encoder and its classifier.
        fusion: over both.
        presence: of speech; without it the bundle does not tell it.
        taught: the parts that had teachers.
    """

    face: face.FaceModel
    voice: voice.VoiceModel
    fusion: AttentionFusion
    presence: presence.Presence | None = None
    taught: tuple[str, ...] = ()


def train(data: Path, folder: Path, config: Config = DEFAULTS) -> Trained:
    """Train all parts, or finish what an earlier call began; a finished run is read back at once.

    Args:
        data: folder with ``ferplus``, ``ravdess_speech``, ``nemo`` and ``emodb``.
        folder: one sub-folder a part, each with its settings, its state and its curve.
        config: the settings.

    Raises:
        InputError: a part was begun with other settings.
    """
    faces, voices = _face(data, folder / "face", config.face), _voice(data, folder / "voice", config.voice)
    fused = fusion.train(data, folder / "fusion", faces, voices, config.fusion)
    spoken = presence.train(data, folder / "presence", voices.encoder, config.presence)
    taught = [part for part in ("face", "voice") if distilled.is_run(folder / part)]
    if config.fusion.distil:
        taught.append("fusion")
    return Trained(faces, voices, fused, spoken, tuple(taught))


def _face(data: Path, folder: Path, config: face.Config) -> face.FaceModel:
    """The face, which a run of `distilled` may have left there."""
    return distilled.read_face(folder) if distilled.is_run(folder) else face.train(data, folder, config)


def _voice(data: Path, folder: Path, config: voice.Config) -> voice.VoiceModel:
    return distilled.read_voice(folder) if distilled.is_run(folder) else voice.train(data, folder, config)


def settings(folder: Path, otherwise: Config) -> Config:
    """The settings that each part of a run was begun with; ``otherwise`` for what has not begun."""
    return Config(
        kept(folder / "face", distilled.FACE if distilled.is_run(folder / "face") else otherwise.face),
        kept(folder / "voice", distilled.VOICE if distilled.is_run(folder / "voice") else otherwise.voice),
        kept(folder / "fusion", otherwise.fusion),
        kept(folder / "presence", otherwise.presence),
    )
