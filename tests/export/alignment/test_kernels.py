from __future__ import annotations

import math

import pytest
import torch

from edgeemo_export.alignment.kernels import (
    bandwidth,
    gaussian_kernel,
    pooled_kernel,
    squared_distances,
)


def points(n: int, d: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(n * d), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("far", [0.0, 1000.0])
def test_distances_equal_cdist(far: float) -> None:
    x = points(6, 5) + far
    expected = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
    torch.testing.assert_close(squared_distances(x), expected, atol=1e-9, rtol=1e-9)
    single = squared_distances(x.float())
    # Far from the origin, the products around the mean keep what float32 holds of the differences.
    torch.testing.assert_close(single, expected.float(), atol=2e-2 if far else 1e-5, rtol=1e-3)
    assert (single >= 0).all() and not single.diagonal().any()


def test_no_distance_is_below_zero() -> None:
    # Of neighbours, all that is left after cancellation is rounding, of either sign.
    x = points(40, 16, torch.float32)
    near = torch.cat([x, x + 1e-4 * x.flip(0)])
    assert (squared_distances(near) >= 0).all()


def test_gradients_of_distances_and_kernel() -> None:
    x = points(4, 3).requires_grad_()
    sigma = torch.tensor(0.7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: squared_distances(z) @ points(4, 2), x)
    assert torch.autograd.gradcheck(lambda z: gaussian_kernel(squared_distances(z), sigma), x)


def test_bandwidth_is_the_mean_over_distinct_pairs() -> None:
    x = points(5, 3)
    total = sum(float((x[u] - x[v]).square().sum()) for u in range(5) for v in range(5) if u != v)
    sigma = bandwidth(squared_distances(x.requires_grad_()))
    assert float(sigma) == pytest.approx(total / 20 / 4)
    assert not sigma.requires_grad


def test_kernel_is_a_sum_of_five_gaussians() -> None:
    found = gaussian_kernel(torch.tensor([[0.0, 3.0]]), torch.tensor(2.0))
    widths = [2.0, 4.0, 8.0, 16.0, 32.0]
    assert found[0].tolist() == pytest.approx([5.0, sum(math.exp(-3.0 / w) for w in widths)])


def test_pooled_kernel_has_the_kernels_of_both_sides() -> None:
    first, second = points(3, 4), points(5, 4)
    whole = pooled_kernel(first, second)
    assert whole.shape == (8, 8)
    torch.testing.assert_close(whole, whole.T)
    # Scale does not matter: the bandwidth follows.
    torch.testing.assert_close(pooled_kernel(1e-3 * first, 1e-3 * second), whole)
    # Nor does the order of the sides.
    swapped = pooled_kernel(second, first)
    torch.testing.assert_close(swapped[:5, :5], whole[3:, 3:])
    torch.testing.assert_close(swapped[:5, 5:], whole[3:, :3])


@pytest.mark.parametrize("value", [0.0, 1e-3, 0.1, 1.0, 1e4])
def test_points_that_are_all_the_same_have_a_modest_gradient(value: float) -> None:
    x = torch.full((6, 5), value, requires_grad=True)
    kernel = pooled_kernel(x[:4], x[4:])
    torch.testing.assert_close(kernel, torch.full((6, 6), 5.0), atol=0.1, rtol=0.0)
    (kernel * torch.arange(36.0).reshape(6, 6)).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()
    assert float(x.grad.abs().max()) * max(value, 1e-6) < 1e4
