"""Faces and voices made worse on purpose, for tests: noise, blur and something in front of the face."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeemo.errors import InputError

SIGMA = 3.0
SHARE = 1.0 / 3.0


def noisy(samples: Tensor, random: torch.Generator, decibels: float = 0.0) -> Tensor:
    """Add white noise of a given signal-to-noise ratio, over the whole of a recording.

    The sum is not clipped, so that the ratio holds; what reads it compresses levels by a logarithm.

    Args:
        samples: ``[n]``.
        random: source of the noise.
        decibels: the ratio, ``10 log10`` of the signal's power over that of the noise.

    Raises:
        InputError: all samples are zero, to which no noise is in any ratio.

    Example:
        >>> tone = torch.sin(torch.arange(1600.0))
        >>> noise = noisy(tone, torch.Generator().manual_seed(0)) - tone
        >>> bool(torch.isclose(noise.square().mean(), tone.square().mean()))
        True
    """
    power = samples.square().mean()
    if not power > 0:
        raise InputError("samples: all are zero; noise can be in a ratio only to something that is heard")
    noise = torch.randn(len(samples), generator=random)
    scale = (power / noise.square().mean()).sqrt() * 10.0 ** (-decibels / 20.0)
    return samples + noise * scale


def blurred(images: NDArray[np.uint8], sigma: float = SIGMA) -> NDArray[np.uint8]:
    """Blur pictures by a Gaussian, as a face far away or out of focus is.

    Args:
        images: ``[n, H, W]``.
        sigma: its standard deviation in pixels.
    """
    made = [cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE) for image in images]
    return np.array(made, np.uint8).reshape(images.shape)


def occluded(images: NDArray[np.uint8], random: torch.Generator, share: float = SHARE) -> NDArray[np.uint8]:
    """Cover a share of each picture by one upright rectangle of one grey level: a hand, a mask, a cup.

    Args:
        images: ``[n, H, W]``.
        random: source of shape, place and level.
        share: of the pixels, in (0, 1]; kept to within half a column.
    """
    count, height, width = images.shape
    covered = images.copy()
    least = int(np.ceil(share * height))
    tall = torch.randint(least, height + 1, (count,), generator=random)
    wide = (share * height * width / tall).round().long().clamp(max=width)
    top, left = (
        (torch.rand(count, generator=random) * (room + 1)).long() for room in (height - tall, width - wide)
    )
    levels = torch.randint(256, (count,), generator=random)
    sides = torch.stack([top, top + tall, left, left + wide], dim=1).tolist()
    for image, (y0, y1, x0, x1), level in zip(covered, sides, levels.tolist(), strict=True):
        image[y0:y1, x0:x1] = level
    return covered
