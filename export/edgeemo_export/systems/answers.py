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


class FaceAnswers(nn.Module):
    """The face's part of a fusion.

    Args:
        fusion: its pooling, classifier and temperature are taken.
        affect: whether valence and arousal are answered too.
    """

    temperature: Tensor
    norms: Tensor

    def __init__(self, fusion: AttentionFusion, affect: bool) -> None:
        super().__init__()
        self.affect = affect
        self.face_pool, self.face_head = fusion.face_pool, fusion.face_head
        self.register_buffer("temperature", fusion.temperatures[0].clone())
        self.register_buffer("norms", fusion.norms)

    def forward(self, face_tokens: Tensor, face_mask: Tensor) -> tuple[Tensor, ...]:
        """Map ``[N, T, D]`` and ``[N, T]`` to logits ``[N, K]``, and valence and arousal ``[N, 2]``."""
        logits = self.face_head(self.face_pool(face_tokens, face_mask)) / self.temperature
        return (logits, torch.softmax(logits, dim=1) @ self.norms) if self.affect else (logits,)


class VoiceAnswers(nn.Module):
    """The voice's part of a fusion.

    Args:
        fusion: its pooling, classifier and temperature are taken.
        affect: whether valence and arousal are answered too.
    """

    temperature: Tensor
    norms: Tensor

    def __init__(self, fusion: AttentionFusion, affect: bool) -> None:
        super().__init__()
        self.affect = affect
        self.voice_pool, self.voice_head = fusion.voice_pool, fusion.voice_head
        self.register_buffer("temperature", fusion.temperatures[1].clone())
        self.register_buffer("norms", fusion.norms)

    def forward(self, voice_tokens: Tensor, voice_mask: Tensor) -> tuple[Tensor, ...]:
        """Map ``[1, T, D]`` and ``[N, T]`` to logits ``[N, K]``, and valence and arousal ``[N, 2]``."""
        logits = self.voice_head(self.voice_pool(voice_tokens, voice_mask)) / self.temperature
        return (logits, torch.softmax(logits, dim=1) @ self.norms) if self.affect else (logits,)


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
