"""Reading, cutting and augmenting voices."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeemo.capture.clip import read_sound
from edgeemo.preprocess.voice import Resampler

from ..encoders.voice import SAMPLE_RATE, VoiceEncoder

HOP = SAMPLE_RATE // 10
CONTEXT = VoiceEncoder.context
SILENCE = 1e-3  # root mean square of a context below which the runtime masks its token: -60 dBFS


def load(path: Path) -> Tensor:
    """Read a file as mono float32 at 16 kHz, ``[samples]``, by the runtime's decoder and resampler."""
    samples, rate = read_sound(path)
    return torch.from_numpy(Resampler(rate, SAMPLE_RATE).push(samples))


def cut(samples: Tensor) -> tuple[Tensor, Tensor]:
    """The contexts of a clip as a stream cuts them: one second up to each hop, zeros before the start.

    Args:
        samples: ``[n]``.

    Returns:
        ``[hops, 16000]``, and which of them are not silent, ``[hops]``.
    """
    hops = max(1, math.ceil(len(samples) / HOP))
    padded = F.pad(samples, (CONTEXT - HOP, hops * HOP - len(samples)))
    energy = F.pad(padded.double().square().cumsum(0), (1, 0))
    heard = (energy[CONTEXT::HOP] - energy[:-CONTEXT:HOP]) / CONTEXT >= SILENCE**2
    return padded.unfold(0, CONTEXT, HOP), heard


def contexts(samples: Tensor) -> Tensor:
    """The contexts of a clip that are not silent, ``[hops, 16000]``; the last if all are, so never empty."""
    windows, heard = cut(samples)
    return windows[heard] if heard.any() else windows[-1:]


def distort(samples: Tensor, random: torch.Generator) -> Tensor:
    """Draw another take of a clip: speed, room, colour, noise and level, in a recording's order.

    Args:
        samples: ``[n]``.
        random: source of every draw.
    """
    draw = torch.rand(6, generator=random)
    speed = 0.88 + 0.24 * float(draw[0])
    x = F.interpolate(
        samples[None, None], size=max(1, int(len(samples) / speed)), mode="linear", align_corners=False
    )[0, 0]
    if draw[1] < 0.3:
        x = room(x, random)
    if draw[2] < 0.5:
        x = tilt(x, random)
    if draw[3] < 0.5:
        decibels = 10.0 + 35.0 * float(torch.rand((), generator=random))
        noise = torch.randn(len(x), generator=random)
        if draw[4] < 0.5:
            noise = F.avg_pool1d(noise[None, None], 9, 1, 4)[0, 0]  # duller: fans and rooms rather than hiss
        x = x + noise * (x.square().mean() / noise.square().mean()).sqrt() * 10.0 ** (-decibels / 20.0)
    gain = 10.0 ** ((16.0 * float(draw[5]) - 8.0) / 20.0)
    return (x * gain).clamp(-1.0, 1.0)


def tilt(x: Tensor, random: torch.Generator) -> Tensor:
    """Colour samples ``[n]`` as a microphone or a coder does, by a filter of the first order."""
    slope = 0.9 * float(torch.rand((), generator=random)) - 0.45
    return x + slope * F.pad(x, (1, 0))[:-1]


def room(x: Tensor, random: torch.Generator) -> Tensor:
    """Samples ``[n]`` as heard in a room that rings for 0.1 to 0.5 s, at the level that they have."""
    seconds = 0.1 + 0.4 * float(torch.rand((), generator=random))
    length = int(seconds * SAMPLE_RATE)
    decay = torch.exp(-6.9 * torch.arange(length) / length)
    response = torch.randn(length, generator=random) * decay
    response[0] = response.abs().sum() * (0.1 + 0.4 * float(torch.rand((), generator=random)))
    size = 1 << (len(x) + length - 1).bit_length()
    wet = torch.fft.irfft(torch.fft.rfft(x, size) * torch.fft.rfft(response, size), size)[: len(x)]
    return wet * (x.square().mean() / wet.square().mean().clamp(min=1e-12)).sqrt()


def draw(windows: Tensor, count: int, random: torch.Generator) -> Tensor:
    """``count`` rows at random, in time order, with replacement only where there are fewer."""
    if len(windows) >= count:
        rows = torch.randperm(len(windows), generator=random)[:count]
    else:
        rows = torch.randint(len(windows), (count,), generator=random)
    return windows[rows.sort().values]


def vary(mels: Tensor, chance: float, random: torch.Generator) -> Tensor:
    """Make other speakers and other microphones of a share of the clips' log-mels.

    All contexts of a clip change alike: its bands move up or down and apart (a longer or shorter vocal tract;
    Jaitly and Hinton, 2013), its time stretches, and its bands gain or lose some decibels (a microphone, a
    coder, a room).

    Args:
        mels: ``[n, windows, bands, frames]``.
        chance: of a clip to be varied.
        random: source of every draw.
    """
    count, _, bands, _ = mels.shape
    draw = torch.randn(count, 3, generator=random)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = torch.exp(0.08 * draw[:, 0])
    theta[:, 1, 1] = torch.exp(0.06 * draw[:, 1])
    theta[:, 1, 2] = 0.03 * draw[:, 2]
    grid = F.affine_grid(theta, list(mels.shape), align_corners=False)
    moved = F.grid_sample(mels, grid, padding_mode="border", align_corners=False)
    # 0.18 is 3.5 dB in the scale of LogMel.
    knots = 0.18 * torch.randn(count, 1, 6, generator=random)
    colour = F.interpolate(knots, size=bands, mode="linear", align_corners=True)
    chosen = torch.rand(count, 1, 1, 1, generator=random) < chance
    return torch.where(chosen, moved + colour[..., None], mels)


def mask_mel(mel: Tensor, random: torch.Generator) -> Tensor:
    """Hide a band and a stretch of time in each ``[N, 1, bands, frames]`` (Park et al., 2019)."""
    count, _, bands, frames = mel.shape
    for axis, size, widest in ((2, bands, 12), (3, frames, 14)):
        width = torch.rand(count, generator=random) * widest
        start = torch.rand(count, generator=random) * (size - width)
        place = torch.arange(size)[None, :]
        hidden = (place >= start[:, None]) & (place < (start + width)[:, None])
        shape = (count, 1, size, 1) if axis == 2 else (count, 1, 1, size)
        mel = mel.masked_fill(hidden.reshape(shape), 0.0)
    return mel
