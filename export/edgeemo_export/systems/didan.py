"""DIDAN: spectrograms are regressed to emotions while the corpora are aligned implicitly.

After "Deep implicit distribution alignment networks for cross-corpus speech emotion recognition" (Zhao,
Wang, Zong, Zheng, Lian, Zhao; ICASSP 2023) and its successor "Layer-adapted implicit distribution alignment
networks for cross-corpus speech emotion recognition" (LIDAN, 2023). Known of them, from the abstracts: a
simple net of convolutional and fully connected layers regresses source spectrograms to labels, a regulariser
called IDA aligns an unlabelled target corpus by reconstructing its samples, and LIDAN attaches three such
terms, with labels at different granularity, to different fully connected layers. Layers, spectrogram, loss,
solver, constants and figures are not public; there is no reference code. So what stands here is a system in
their manner, and does not claim to reproduce either.

Chosen: a residual stack over the log-mel picture of one second (the voice encoder of this package), three
fully connected layers (first, middle, last; the last gives the logits), cross-entropy as the loss, because
the runtime's answers are calibrated probabilities, and the alignments of `edgeemo_export.alignment`: IDA at
the middle layer, or three of it at all layers. Batch norms read source and target together.

Data: one labelled corpus, and recordings of another of which nobody knows the labels. Published protocol:
LIDAN was evaluated on EmoDB, eNTERFACE'05 and CASIA (abstract); that DIDAN was too, in six directed tasks
by UAR, is from memory and unverified. Defect avoided: alignment is fitted on speakers of the target who are
not those it is tested on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..alignment import BY_NAME, Alignment, GranularIDA, Side, ramp
from ..data.labels import NORMS
from ..encoders.voice import VoiceEncoder

WITHOUT = ("source", "norms", "supervised")
"""Ways to train without an alignment: the source alone, both corpora in the batch norms, labels of both."""


class Layers(NamedTuple):
    """What the fully connected layers answer: ``[N, first]``, ``[N, middle]`` and logits ``[N, K]``."""

    first: Tensor
    middle: Tensor
    last: Tensor


class SpectrogramEncoder(VoiceEncoder):
    """Convolutional stack and the first two fully connected layers, PCM in, one token out.

    Args:
        first: width of the first layer, with which the voice encoder ends.
        middle: width of the middle layer, which is that of a token.
    """

    def __init__(self, first: int = 256, middle: int = 128) -> None:
        super().__init__(first, size="base")
        self.middle = nn.Sequential(
            nn.Dropout(0.2), nn.Linear(first, middle), nn.BatchNorm1d(middle), nn.ReLU()
        )

    def forward(self, voice: Tensor) -> Tensor:
        """Map PCM ``[N, 16000]`` in [-1, 1] to tokens ``[N, middle]``."""
        tokens: Tensor = self.middle(super().forward(voice))
        return tokens


class DIDAN(nn.Module):
    """The encoder and the last layer.

    Args:
        labels: number of classes K.
        first: see [SpectrogramEncoder][].
        middle: see [SpectrogramEncoder][].
    """

    def __init__(self, labels: int, first: int = 256, middle: int = 128) -> None:
        super().__init__()
        self.encoder = SpectrogramEncoder(first, middle)
        self.last = nn.Linear(middle, labels)

    def layers(self, mels: Tensor) -> Layers:
        """Map log-mel ``[N, 1, bands, frames]`` to what each fully connected layer answers."""
        first = self.encoder.encode(mels)
        middle = self.encoder.middle(first.float())
        return Layers(first, middle, self.last(middle))

    def classify(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Map tokens ``[1 or N, T, middle]`` and mask ``[N, T]`` to logits ``[N, K]``: those of the mean."""
        weights = mask / mask.sum(dim=1, keepdim=True).clamp(min=1.0)
        logits: Tensor = self.last((weights[:, :, None] * tokens).sum(dim=1))
        return logits


class Aligning(nn.Module):
    """The alignment between two corpora at the layers of DIDAN, and how much it counts.

    Args:
        labels: the classes.
        name: one of `BY_NAME`, or of `WITHOUT`: then there is none.
        weight: beside a cross-entropy of weight 1, when it is faded in.
        width: of the middle layer.
    """

    share: Tensor

    def __init__(self, labels: Sequence[str], name: str, weight: float, width: int) -> None:
        super().__init__()
        self.weight = weight
        self.loss = _alignment(labels, name, width)
        self.register_buffer("share", torch.zeros(()))

    def advance(self, progress: float) -> None:
        """Fade the alignment in: pseudo-labels and discriminators know nothing at first."""
        self.share.fill_(ramp(progress))

    def forward(self, source: Layers, labels: Tensor, target: Layers) -> Tensor:
        """The weighted loss of a batch; ``labels [n, K]`` are those of the source."""
        assert self.loss is not None
        guessed = target.last.detach().softmax(dim=1)
        at_last = Side(source.last, labels), Side(target.last, guessed)
        at_middle = Side(source.middle, labels), Side(target.middle, guessed)
        at_first = Side(source.first), Side(target.first)
        if isinstance(self.loss, GranularIDA):
            value = self.loss(*at_last, at_middle, at_first)
        else:
            value = self.loss(*at_middle)
        return self.weight * self.share * value


def _alignment(labels: Sequence[str], name: str, width: int) -> Alignment | None:
    if name in WITHOUT:
        return None
    if name == "dann":
        return BY_NAME[name](width)
    if name == "granular-ida":
        valence = torch.tensor([NORMS[label][0] for label in labels])
        return BY_NAME[name](F.one_hot(valence.sign().long() + 1, 3))
    return BY_NAME[name]()


class VoiceAnswers(nn.Module):
    """What becomes the fusion graph of the voice-only bundle.

    Args:
        model: trained.
        temperature: that makes its probabilities calibrated.
        norms: valence and arousal of each label on [-1, 1], ``[K, 2]``.
    """

    temperatures: Tensor
    norms: Tensor

    def __init__(self, model: DIDAN, temperature: float, norms: Sequence[tuple[float, float]]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("temperatures", torch.tensor([temperature]))
        self.register_buffer("norms", torch.tensor(tuple(norms)))

    def forward(self, voice_tokens: Tensor, voice_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``[1, T, D]`` and ``[N, T]`` to logits ``[N, K]``, and valence and arousal ``[N, 2]``."""
        logits = self.model.classify(voice_tokens, voice_mask) / self.temperatures[0]
        return logits, torch.softmax(logits, dim=1) @ self.norms
