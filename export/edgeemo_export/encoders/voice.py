"""The voice encoder: one second of PCM in, one token out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .residual import Size, stem, trunk

SAMPLE_RATE = 16000

SIZES = {
    "edge": Size((24, 40, 64, 112), (1, 1, 1), squeezed=48),
    "base": Size((24, 40, 72, 128), (1, 1, 1)),
    "large": Size((32, 64, 128, 192), (1, 2, 2), squeezed=96),
}
"""For a device, a tenth more, and a teacher of four times the work."""


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
    """Log-mel energies by a framed DFT, written as products of matrices because TensorRT has no STFT.

    The level of the context is evened out first: three quarters of it, in decibels, are taken away, because
    the level of a microphone says nothing, while the rest keeps shouting apart from muttering. Then frames
    of ``window`` samples every ``hop``, Hann window, zero-padded to ``size`` for the DFT; natural logarithm
    of the mel energies, shifted and scaled by constants so that speech lies around zero. Stays FP32 in
    every precision: a full-scale power spectrum leaves the range of FP16.

    Seen from the middle of a frame cosines are even and sines odd, and so is the window. What lies ahead of
    the middle and what lies behind it are therefore added for the cosines and subtracted for the sines: half
    the products and half the tables of the plain DFT give the same energies. Bins that no filter reads are
    left out. The tables are ``stored`` as FP16 numbers, exact enough for energies 60 dB apart; arithmetic
    with them is FP32.
    """

    cosines: Tensor
    sines: Tensor
    filters: Tensor

    def __init__(
        self,
        bands: int = 64,
        size: int = 512,
        window: int = 400,
        hop: int = 240,
        sample_rate: int = SAMPLE_RATE,
        stored: torch.dtype = torch.float16,
    ) -> None:
        super().__init__()
        self.reach, self.hop = window // 2, hop
        filters = mel_filters(bands, size // 2 + 1, sample_rate, 50.0, 7600.0)
        read = filters.any(dim=0)
        away = torch.arange(self.reach, dtype=torch.float64)[:, None]
        angle = 2.0 * math.pi * away * torch.arange(len(read))[read] / size
        hann = 0.5 + 0.5 * torch.cos(math.pi * away / self.reach)
        hann_once = torch.where(away == 0, 0.5, 1.0) * hann  # the middle is on both sides
        for name, table in (
            ("cosines", torch.cos(angle) * hann_once),
            ("sines", torch.sin(angle) * hann),
            ("filters", filters[:, read].T),
        ):
            self.register_buffer(name, table.to(stored), persistent=False)

    def forward(self, voice: Tensor) -> Tensor:
        """Map PCM ``[N, samples]`` in [-1, 1] to ``[N, 1, bands, frames]``."""
        power = voice.square().mean(dim=1, keepdim=True) + 1e-7
        ahead, behind = self._halves(voice * power.pow(-0.375))
        even, odd = (ahead + behind) @ self.cosines.float(), (ahead - behind) @ self.sines.float()
        energy = (even * even + odd * odd) @ self.filters.float()  # a square would be exported as a power
        # The floor lies 60 to 70 dB below the loudest band: what is quieter is the recording's noise, which
        # differs by corpus.
        return ((energy + 1e-3).log() * 0.22 + 0.2).transpose(1, 2)[:, None]

    def _halves(self, voice: Tensor) -> tuple[Tensor, Tensor]:
        """From the middle of each frame on, and from there back; ``[N, frames, window / 2]`` each."""
        frames = (voice.shape[1] - 2 * self.reach) // self.hop + 1
        padded = F.pad(voice, (0, self.hop))

        def rows(start: int) -> Tensor:
            part = padded[:, start : start + frames * self.hop]
            return part.unflatten(1, (frames, self.hop))[:, :, : self.reach]

        return rows(self.reach), rows(1).flip(2)


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
        score = self.score(torch.tanh(self.hidden(x))).transpose(1, 2)
        if mask is not None:
            score = score + (mask[:, None] - 1.0) * 1e4
        weight = torch.softmax(score, dim=2)
        if mask is not None:
            weight = weight * mask[:, None]
        # Sums as products, and products as such: exported they are fewer operators than sums and powers.
        mean, square = weight @ x, weight @ (x * x)
        deviation = (square - mean * mean).clamp(min=0.0).add(1e-4).sqrt()
        return torch.cat([mean, deviation], dim=2).flatten(1)


class VoiceEncoder(nn.Module):
    """A residual net over the log-mel picture of the last second.

    Args:
        width: token width D.
        size: one of `SIZES`.
    """

    context = SAMPLE_RATE

    def __init__(self, width: int = 128, size: str = "edge") -> None:
        super().__init__()
        self.front = LogMel()
        self.stem = stem(SIZES[size].widths[0], 2)
        self.trunk = trunk(SIZES[size], [(2, 2), (2, 2), (2, 1)])
        # Frequency stays in the channels: where the energy lies, pitch above all, must survive the pooling
        # over time.
        channels = 4 * SIZES[size].channels
        self.pool = AttentivePool(channels)
        # Without the norms, pooled deviations of very different size keep the net from learning for many
        # epochs.
        self.project = nn.Sequential(
            nn.BatchNorm1d(2 * channels),
            nn.Dropout(0.1),
            nn.Linear(2 * channels, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
        )

    def encode(self, mel: Tensor) -> Tensor:
        """Map log-mel ``[N, 1, bands, frames]`` to tokens ``[N, D]``."""
        tokens: Tensor = self.project(self.pooled(mel))
        return tokens

    def pooled(self, mel: Tensor) -> Tensor:
        """Map log-mel ``[N, 1, bands, frames]`` to what is projected to tokens, ``[N, F]``."""
        x = self.trunk(self.stem(mel)).flatten(1, 2).transpose(1, 2)
        features: Tensor = self.pool(x.float())
        return features

    def forward(self, voice: Tensor) -> Tensor:
        """Map PCM ``[N, 16000]`` in [-1, 1] to tokens ``[N, D]``."""
        return self.encode(self.front(voice))
