from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeemo_export.alignment import CORAL, Side
from edgeemo_export.alignment.moments import covariance


def draw(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "m", "d"), [(2, 2, 1), (7, 5, 3), (4, 30, 8)])
def test_coral_equals_numpy(n: int, m: int, d: int) -> None:
    first, second = draw(n, d), 2.0 * draw(m, d, seed=1) + 1.0
    difference = np.cov(first.numpy(), rowvar=False) - np.cov(second.numpy(), rowvar=False)
    expected = np.linalg.norm(np.atleast_2d(difference), "fro") ** 2 / (4 * d**2)
    assert float(CORAL()(Side(first), Side(second))) == pytest.approx(expected)


def test_coral_of_a_side_with_itself_is_zero() -> None:
    side = Side(draw(9, 4))
    assert float(CORAL()(side, side)) == 0.0


def test_coral_sees_scale_and_rotation_but_no_shift() -> None:
    z = draw(9, 4)
    coral = CORAL()
    assert float(coral(Side(z), Side(z + 3.0))) == pytest.approx(0.0, abs=1e-20)
    assert float(coral(Side(z), Side(2.0 * z))) > 0.1
    assert float(coral(Side(z), Side(z[:, [1, 2, 3, 0]]))) > 1e-3


def test_gradient_of_coral() -> None:
    first, second = draw(4, 3).requires_grad_(), draw(5, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: CORAL()(Side(a), Side(b)), (first, second))


def test_covariance_far_from_the_origin() -> None:
    z = draw(50, 3).float()
    torch.testing.assert_close(covariance(z + 1000.0), covariance(z), atol=1e-3, rtol=1e-3)
