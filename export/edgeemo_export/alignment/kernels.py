"""The mixture of Gaussian kernels that MMD and LMMD measure with."""

from __future__ import annotations

import torch
from torch import Tensor

KERNELS = 5
FACTOR = 2.0


def squared_distances(points: Tensor) -> Tensor:
    """``||z_u - z_v||^2`` for all pairs of ``[N, d]``, as ``[N, N]``.

    Example:
        >>> squared_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[ 0., 25.],
                [25.,  0.]])
    """
    # ||u||^2 + ||v||^2 - 2 u.v needs no [N, N, d]; what it loses by cancellation is least around the mean.
    centred = points - points.detach().mean(dim=0)
    products = centred @ centred.T
    norms = products.diagonal()
    return (norms[:, None] + norms[None, :] - 2.0 * products).clamp(min=0.0)


def bandwidth(distances: Tensor) -> Tensor:
    """Width of the narrowest kernel: the mean squared distance of distinct points over ``2^floor(5 / 2)``.

    ``sigma = [sum_{u,v} ||z_u - z_v||^2 / (N^2 - N)] / 4``, without a gradient, as in DSAN (Zhu et al.,
    2020) and DeepDA.

    Args:
        distances: squared, ``[N, N]`` with N of at least 2.

    Returns:
        A scalar.
    """
    n = len(distances)
    return distances.detach().sum() / (n * n - n) / FACTOR ** (KERNELS // 2)


def gaussian_kernel(distances: Tensor, sigma: Tensor) -> Tensor:
    """``k(u, v) = sum_{m=0}^{4} exp(-||u - v||^2 / (sigma 2^m))`` (Long et al., 2015), ``[N, N]``.

    Args:
        distances: squared, ``[N, N]``.
        sigma: width of the narrowest kernel, positive.

    Example:
        >>> gaussian_kernel(torch.zeros(1, 1), torch.ones(()))
        tensor([[5.]])
    """
    kernel = torch.zeros_like(distances)
    for m in range(KERNELS):
        kernel = kernel + torch.exp(-distances / (sigma * FACTOR**m))
    return kernel


def pooled_kernel(first: Tensor, second: Tensor) -> Tensor:
    """The kernel of all pairs of the points ``[n, d]`` and ``[m, d]`` of two sides.

    Returns:
        ``[n + m, n + m]``: ``[[K_ss, K_st], [K_ts, K_tt]]``.
    """
    points = torch.cat([first, second])
    distances = squared_distances(points)
    # Points that are all the same differ by rounding alone: measured by that, the gradient would be huge.
    eps = torch.finfo(points.dtype).eps
    floor = eps * (points.detach().square().sum(dim=1).mean() + eps)
    return gaussian_kernel(distances, torch.maximum(bandwidth(distances), floor))
