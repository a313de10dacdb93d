"""The voice encoder: one second of PCM in, one token out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .residual import trunk

SAMPLE_RATE = 16000


def mel_filters(bands: int, bins: int, sample_rate: int, lowest: float, highest: float) -> Tensor:
    """Triangular filters, equally spaced on the mel scale ``2595 log10(1 + f / 700)`` (O'Shaughnessy, 1987).

    Args:
        bands: number of filters.
        bins: bins of the one-sided power spectrum.
        sample_rate: in hertz.
        lowest: lower edge of the first filter in hertz.
        highest: upper edge of the last filter in hertz.

    Returns:
        ``[bands, bins]``, each filter with peak 1.

    Example:
        >>> mel_filters(64, 257, 16000, 50.0, 7600.0).shape
        torch.Size([64, 257])
    """
    mel = lambda hertz: 2595.0 * math.log10(1.0 + hertz / 700.0)  # noqa: E731
    points = torch.linspace(mel(lowest), mel(highest), bands + 2, dtype=torch.float64)
    edges = 700.0 * (10.0 ** (points / 2595.0) - 1.0)
    frequencies = torch.linspace(0.0, sample_rate / 2, bins, dtype=torch.float64)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0.0).float()


class LogMel(nn.Module):
    """Log-mel energies by a framed DFT, written as one convolution because TensorRT has no STFT.

    The level of the context is evened out first: three quarters of it, in decibels, are taken away, because
    the level of a microphone says nothing, while the rest keeps shouting apart from muttering. Then frames
    of ``window`` samples every ``hop``, Hann window, zero-padded to ``size`` for the DFT; natural logarithm
    of the mel energies, shifted and scaled by constants so that speech lies around zero. Stays FP32 in
    every
    precision: a full-scale power spectrum leaves the range of FP16.
    """

    basis: Tensor
    filters: Tensor

    def __init__(
        self,
        bands: int = 64,
        size: int = 512,
        window: int = 400,
        hop: int = 240,
        sample_rate: int = SAMPLE_RATE,
    ) -> None:
        super().__init__()
        self.hop = hop
        n = torch.arange(window, dtype=torch.float64)
        k = torch.arange(size // 2 + 1, dtype=torch.float64)
        angle = 2.0 * math.pi * k[:, None] * n[None, :] / size
        hann = 0.5 - 0.5 * torch.cos(2.0 * math.pi * n / window)
        basis = torch.cat([torch.cos(angle) * hann, -torch.sin(angle) * hann]).float()
        self.register_buffer("basis", basis[:, None, :], persistent=False)
        filters = mel_filters(bands, size // 2 + 1, sample_rate, 50.0, 7600.0)
        self.register_buffer("filters", filters[:, :, None], persistent=False)

    def forward(self, voice: Tensor) -> Tensor:
        """Map PCM ``[N, samples]`` in [-1, 1] to ``[N, 1, bands, frames]``."""
        power = voice.square().mean(dim=1, keepdim=True) + 1e-7
        spectrum = F.conv1d((voice * power.pow(-0.375))[:, None, :], self.basis, stride=self.hop)
        real, imaginary = spectrum.chunk(2, dim=1)
        energy = F.conv1d(real.square() + imaginary.square(), self.filters)
        # The floor lies 60 to 70 dB below the loudest band: what is quieter is the recording's noise, which
        # differs by corpus.
        return ((energy + 1e-3).log() * 0.22 + 0.2)[:, None]


class AttentivePool(nn.Module):
    """Attention-weighted mean and standard deviation over positions (Okabe et al., 2018).

    Shapes: ``[N, T, D] -> [N, 2 D]``; ``mask [N, T]`` is 1 where a position counts. Where none counts,
    the mean is zero.
    """

    def __init__(self, width: int, hidden: int = 32) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool ``[N, T, D]`` to ``[N, 2 D]``."""
        score = self.score(torch.tanh(self.hidden(x)))[..., 0]
        if mask is not None:
            score = score + (mask - 1.0) * 1e4
        weight = torch.softmax(score, dim=1)
        if mask is not None:
            weight = weight * mask
        mean = (weight[..., None] * x).sum(dim=1)
        square = (weight[..., None] * x.square()).sum(dim=1)
        return torch.cat([mean, (square - mean.square()).clamp(min=0.0).add(1e-4).sqrt()], dim=1)


class VoiceEncoder(nn.Module):
    """A residual net over the log-mel picture of the last second.

    Args:
        width: token width D.
    """

    context = SAMPLE_RATE

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.front = LogMel()
        self.trunk = trunk((2, 2), [24, 40, 72, 128], [1, 1, 1], [(2, 2), (2, 2), (2, 1)])
        # Frequency stays in the channels: where the energy lies, pitch above all, must survive the pooling
        # over time.
        self.pool = AttentivePool(4 * 128)
        # Without the norms, pooled deviations of very different size keep the net from learning for many
        # epochs.
        self.project = nn.Sequential(
            nn.BatchNorm1d(8 * 128),
            nn.Dropout(0.1),
            nn.Linear(8 * 128, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
        )

    def encode(self, mel: Tensor) -> Tensor:
        """Map log-mel ``[N, 1, bands, frames]`` to tokens ``[N, D]``."""
        x = self.trunk(mel).flatten(1, 2).transpose(1, 2)
        tokens: Tensor = self.project(self.pool(x.float()))
        return tokens

    def forward(self, voice: Tensor) -> Tensor:
        """Map PCM ``[N, 16000]`` in [-1, 1] to tokens ``[N, D]``."""
        return self.encode(self.front(voice))
