"""When somebody speaks in a clean recording, by level and periodicity."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..encoders.voice import SAMPLE_RATE

FRAME, STEP = 640, 160  # 40 ms hold two and a half periods of the lowest pitch
RANGE = 35.0  # dB that a voiced sound may lie below the recording's loud ones
LOWEST = -60.0  # dB relative to full scale, below which the runtime hears silence
PERIODIC = 0.5  # autocorrelation at the pitch's period, of 1
REACH = 0.1  # seconds around a voiced sound in which consonants are spoken
PITCHES = (65.0, 500.0)  # Hz


def spoken(samples: Tensor) -> Tensor:
    """Which samples of a recording without noise are spoken.

    A frame is voiced when it is at most 35 dB below the recording's loud frames (its 95th percentile) and the
    autocorrelation, over what the window leaves of it, reaches 0.5 at a period of 65 to 500 Hz (Boersma,
    1993). What lies within 0.1 s of a voiced frame is spoken too: most consonants are no further away. What
    is whispered is not found.

    Args:
        samples: ``[n]`` at 16 kHz.

    Returns:
        bool ``[n]``.

    Example:
        >>> time = torch.arange(32000) / 16000
        >>> voice = torch.sign(torch.sin(2 * torch.pi * 120 * time)) * (time > 1.0) * 0.1
        >>> round(float(spoken(voice).float().mean()), 1)
        0.5
    """
    frames = F.pad(samples, (FRAME // 2, FRAME)).unfold(0, FRAME, STEP)
    level = 10.0 * frames.square().mean(dim=1).clamp(min=1e-12).log10()
    loud = (level >= max(float(level.quantile(0.95)) - RANGE, LOWEST)) & (_periodicity(frames) >= PERIODIC)
    reach = round(REACH * SAMPLE_RATE / STEP)
    near = F.max_pool1d(loud.float()[None, None], 2 * reach + 1, 1, reach)[0, 0] > 0.0
    return near.repeat_interleave(STEP)[: len(samples)]


def _periodicity(frames: Tensor) -> Tensor:
    """The largest normalised autocorrelation at a pitch's period, ``[n, FRAME] -> [n]``."""
    window = torch.hann_window(FRAME, periodic=False)
    frames = (frames - frames.mean(dim=1, keepdim=True)) * window

    def correlation(x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x, 2 * FRAME).abs().square())[..., :FRAME]

    longest, shortest = (int(SAMPLE_RATE / pitch) for pitch in PITCHES)
    own = correlation(frames)
    normal = own / own[:, :1].clamp(min=1e-12) / (correlation(window) / window.square().sum())
    return normal[:, shortest:longest].amax(dim=1)
