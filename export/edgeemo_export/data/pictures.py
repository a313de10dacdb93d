"""Augmentation of face crops, on whole batches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def jitter(images: Tensor, random: torch.Generator) -> Tensor:
    """Jitter crops as detectors and cameras do: placement, roll, mirror, light, blur, cover.

    Args:
        images: ``[N, H, W]``, any type, grey levels in [0, 255].
        random: source of every draw.

    Returns:
        ``[N, H, W, 1]`` float32 in [0, 255].
    """
    x = images.float()[:, None]
    x = _move(x, random)
    x = _light(x, random)
    x = _blur(x, random)
    return _cover(x, random).clamp(0.0, 255.0).permute(0, 2, 3, 1)


def _uniform(count: int, low: float, high: float, random: torch.Generator) -> Tensor:
    return torch.rand(count, generator=random) * (high - low) + low


def _move(x: Tensor, random: torch.Generator) -> Tensor:
    count = len(x)
    angle = torch.randn(count, generator=random) * 0.14
    scale = torch.exp(torch.randn(count, generator=random) * 0.10)
    mirror = torch.where(torch.rand(count, generator=random) < 0.5, -1.0, 1.0)
    shear = torch.randn(count, generator=random) * 0.05
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = scale * angle.cos() * mirror
    theta[:, 0, 1] = scale * (shear - angle.sin())
    theta[:, 1, 0] = scale * angle.sin() * mirror
    theta[:, 1, 1] = scale * angle.cos()
    theta[:, :, 2] = torch.randn(count, 2, generator=random) * 0.08
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _light(x: Tensor, random: torch.Generator) -> Tensor:
    count = len(x)
    gamma = torch.exp(torch.randn(count, 1, 1, 1, generator=random) * 0.25)
    x = (x / 255.0).clamp(0.0, 1.0) ** gamma * 255.0
    # One side of the face lit more than the other.
    slope = torch.randn(count, 2, generator=random) * 18.0
    axis = torch.linspace(-1.0, 1.0, x.shape[-1])
    x = x + slope[:, :1, None, None] * axis + slope[:, 1:, None, None] * axis[:, None]
    noise = torch.randn(x.shape, generator=random) * _uniform(count, 0.0, 6.0, random)[:, None, None, None]
    return x + noise


def _blur(x: Tensor, random: torch.Generator) -> Tensor:
    chosen = torch.rand(len(x), generator=random) < 0.25
    if chosen.any():
        size = int(torch.randint(24, 44, (), generator=random))
        small = F.interpolate(
            x[chosen], size=(size, size), mode="bilinear", antialias=True, align_corners=False
        )
        x = x.clone()
        x[chosen] = F.interpolate(small, size=x.shape[-2:], mode="bilinear", align_corners=False)
    return x


def _cover(x: Tensor, random: torch.Generator) -> Tensor:
    count, height, width = len(x), x.shape[-2], x.shape[-1]
    covered = (torch.rand(count, generator=random) < 0.5)[:, None, None]
    size = _uniform(count, 6.0, 18.0, random)[:, None, None]
    top, left = (_uniform(count, 0.0, float(side), random)[:, None, None] for side in (height, width))
    rows, columns = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
    inside = covered & ((rows - top).abs() < size / 2) & ((columns - left).abs() < size / 2)
    level = _uniform(count, 0.0, 255.0, random)[:, None, None]
    return torch.where(inside, level, x[:, 0])[:, None]
