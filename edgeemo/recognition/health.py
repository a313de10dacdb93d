"""Is one hop's signal good enough: silence, clipped sound, a dark picture."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

REASONS = (
    "no face",
    "silence",
    "no speech",
    "no text",
    "too dark",
    "clipped sound",
    "low confidence",
    "face muted",
    "voice muted",
    "text muted",
)
"""Everything that an answer may give as a reason, in the order in which reasons are listed."""

FULL_SCALE = 0.999
"""From this absolute value on a sample counts as clipped; 16-bit sound that hits its limit reads 0.99997."""


def level(samples: NDArray[np.float32]) -> float:
    """RMS level in dB relative to full scale; minus infinity for zeros or for no samples.

    Args:
        samples: float32 [n] in [-1, 1].

    Example:
        >>> round(level(np.full(100, 0.1, np.float32)), 3)
        -20.0
    """
    with np.errstate(over="ignore"):  # floating point may exceed full scale so far that its power is infinite
        power = float(np.dot(samples, samples)) / max(samples.size, 1)
    return 10 * math.log10(power) if power > 0 else -math.inf


def clipped(samples: NDArray[np.float32]) -> float:
    """Share of the samples that are at full scale, [0, 1].

    Args:
        samples: float32 [n] in [-1, 1].

    Example:
        >>> clipped(np.array([0.5, 1.0, -1.0, 0.0], np.float32))
        0.5
    """
    # The extremes cost a third of the count and nearly always say that there is nothing to count.
    if samples.size == 0 or (samples.max() < FULL_SCALE and samples.min() > -FULL_SCALE):
        return 0.0
    return int(np.count_nonzero(np.abs(samples) >= FULL_SCALE)) / samples.size


def brightness(crop: NDArray[np.uint8]) -> float:
    """Mean level of a face crop, [0, 255].

    Args:
        crop: uint8 of any shape.

    Example:
        >>> brightness(np.array([[10, 30]], np.uint8))
        20.0
    """
    total: Any = np.add.reduce(crop, axis=None, dtype=np.uint64)
    return int(total) / crop.size


def in_order(reasons: tuple[str, ...]) -> tuple[str, ...]:
    """Reasons in the order of `REASONS`.

    Example:
        >>> in_order(("silence", "no face"))
        ('no face', 'silence')
    """
    return reasons if len(reasons) < 2 else tuple(sorted(reasons, key=REASONS.index))
