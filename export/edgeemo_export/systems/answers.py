"""What of a trained fusion becomes the graph: all of it, or what one modality alone needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .attention import AttentionFusion


class BothAnswers(nn.Module):
    """A fusion without valence and arousal, for labels of which nobody rated them.

    Args:
        fusion: of both modalities.
    """

    def __init__(self, fusion: AttentionFusion) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(
        self, face_tokens: Tensor, face_mask: Tensor, voice_tokens: Tensor, voice_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map what the fusion reads to calibrated logits ``[N, K]`` of both, of the face, of the voice."""
        logits, _, face, voice = self.fusion(face_tokens, face_mask, voice_tokens, voice_mask)
        return logits, face, voice


class OneAnswers(nn.Module):
    """What a fusion says of one modality alone; the classes below give it the parts, by the fusion's names.

    Args:
        fusion: its norms and its temperature for the modality are taken.
        place: of that temperature, 0 for the face and 1 for the voice.
        affect: whether valence and arousal are answered too.
    """

    temperature: Tensor
    norms: Tensor

    def __init__(self, fusion: AttentionFusion, place: int, affect: bool) -> None:
        super().__init__()
        self.affect = affect
        self.register_buffer("temperature", fusion.temperatures[place].clone())
        self.register_buffer("norms", fusion.norms)

    def calibrated(self, logits: Tensor) -> tuple[Tensor, ...]:
        """Map raw logits ``[N, K]`` to calibrated ones, and valence and arousal ``[N, 2]``."""
        logits = logits / self.temperature
        return (logits, torch.softmax(logits, dim=1) @ self.norms) if self.affect else (logits,)


class FaceAnswers(OneAnswers):
    """The face's part of a fusion."""

    def __init__(self, fusion: AttentionFusion, affect: bool) -> None:
        super().__init__(fusion, 0, affect)
        self.face_pool, self.face_head = fusion.face_pool, fusion.face_head

    def forward(self, face_tokens: Tensor, face_mask: Tensor) -> tuple[Tensor, ...]:
        """Map ``[N, T, D]`` and ``[N, T]`` to logits ``[N, K]``, and valence and arousal ``[N, 2]``."""
        return self.calibrated(self.face_head(self.face_pool(face_tokens, face_mask)))


class VoiceAnswers(OneAnswers):
    """The voice's part of a fusion."""

    def __init__(self, fusion: AttentionFusion, affect: bool) -> None:
        super().__init__(fusion, 1, affect)
        self.voice_pool, self.voice_head = fusion.voice_pool, fusion.voice_head

    def forward(self, voice_tokens: Tensor, voice_mask: Tensor) -> tuple[Tensor, ...]:
        """Map ``[1, T, D]`` and ``[N, T]`` to logits ``[N, K]``, and valence and arousal ``[N, 2]``."""
        return self.calibrated(self.voice_head(self.voice_pool(voice_tokens, voice_mask)))


def answers(fusion: AttentionFusion, modalities: Sequence[str], affect: bool) -> tuple[nn.Module, list[str]]:
    """The module to export for these modalities, and the names of what it answers.

    Args:
        fusion: trained and calibrated.
        modalities: ``'face'``, ``'voice'`` or both.
        affect: whether its norms mean something.
    """
    extra = ["valence_arousal"] if affect else []
    if len(modalities) == 2:
        return (fusion if affect else BothAnswers(fusion)), ["logits", *extra, "face_logits", "voice_logits"]
    alone = FaceAnswers if "face" in modalities else VoiceAnswers
    return alone(fusion, affect), ["logits", *extra]
