"""Whether somebody speaks in the context that a voice encoder hears, told beside its token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeemo.inference.wiring import SPEECH

from .voice import VoiceEncoder

HIDDEN = 16
TOKENS = "tokens"
"""The output of every encoder's graph that fusion reads."""


def presence_head(features: int) -> nn.Sequential:
    """The head that reads pooled features ``[N, F]`` and gives a logit ``[N, 1]``; its norm folds away.

    Args:
        features: their number F.
    """
    return nn.Sequential(
        nn.BatchNorm1d(features), nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1)
    )


def outputs_of(encoder: nn.Module) -> list[str]:
    """The names of what an encoder of any modality answers, in order.

    Example:
        >>> outputs_of(SpeechAware(VoiceEncoder(8)))
        ['tokens', 'speech']
    """
    return [TOKENS, SPEECH] if isinstance(encoder, SpeechAware) else [TOKENS]


def features_of(encoder: VoiceEncoder) -> int:
    """The number of pooled features that an encoder projects to its tokens.

    Example:
        >>> features_of(VoiceEncoder(8))
        384
    """
    return 2 * encoder.pool.hidden.in_features


class SpeechAware(VoiceEncoder):
    """A voice encoder that also says how likely somebody speaks.

    All but the head are the encoder's own parts under their own names, so the tokens are those of the encoder
    to the bit, and a table of ranges or a graph that is read back knows the weights as before.

    Args:
        encoder: gives its parts, which are shared and not copied.
        head: of `presence_head`; a new one without it.
    """

    def __init__(self, encoder: VoiceEncoder, head: nn.Sequential | None = None) -> None:
        nn.Module.__init__(self)  # an encoder of its own would be made only to be replaced
        for name, part in encoder.named_children():
            self.add_module(name, part)
        self.presence = presence_head(features_of(encoder)) if head is None else head

    def forward(self, voice: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Map PCM ``[N, 16000]`` to tokens ``[N, D]`` and the presence of speech ``[N]`` in [0, 1]."""
        pooled = self.pooled(self.front(voice))
        return self.project(pooled), torch.sigmoid(self.presence(pooled))[:, 0]
