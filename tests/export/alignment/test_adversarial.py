from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from edgeemo_export.alignment import DANN, Side, ramp
from edgeemo_export.alignment.adversarial import reverse


def draw(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def dann() -> DANN:
    torch.manual_seed(0)
    return DANN(4, hidden=16)


@pytest.mark.parametrize("p", [0.0, 0.05, 0.3, 1.0])
def test_ramp(p: float) -> None:
    # 2 / (1 + e^-x) - 1 = tanh(x / 2)
    assert ramp(p) == pytest.approx(math.tanh(5.0 * p))


def test_reversal_keeps_the_value_and_turns_the_gradient() -> None:
    x = (1e6 * draw(5, 3)).requires_grad_()
    weight = draw(5, 3, seed=1)
    y = reverse(x)
    assert torch.equal(y, x)
    (y * weight).sum().backward()
    assert x.grad is not None and torch.equal(x.grad, -weight)


def test_dann_equals_binary_cross_entropy(dann: DANN) -> None:
    first, second = draw(3, 4), draw(7, 4, seed=1)
    with torch.no_grad():
        one, other = (torch.sigmoid(dann.discriminate(side)) for side in (first, second))
        found = dann(Side(first), Side(second)).item()
    # Each side counts for a half, however many samples it has.
    expected = 0.5 * (-one.log().mean() - (1.0 - other).log().mean())
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_features_climb_what_the_discriminator_descends(dann: DANN) -> None:
    first, second = draw(6, 4).requires_grad_(), (draw(6, 4, seed=1) + 1.0).requires_grad_()

    def plain(features: Tensor, others: Tensor) -> Tensor:
        softplus = torch.nn.functional.softplus
        one, other = dann.discriminate(features), dann.discriminate(others)
        return 0.5 * (softplus(-one).mean() + softplus(other).mean())

    leaves = [first, second, *dann.parameters()]
    reversed_ = torch.autograd.grad(dann(Side(first), Side(second)), leaves)
    straight = torch.autograd.grad(plain(first, second), leaves)
    for place, (found, expected) in enumerate(zip(reversed_, straight, strict=True)):
        assert expected.abs().max() > 1e-5
        torch.testing.assert_close(found, -expected if place < 2 else expected)


def test_one_descent_teaches_the_opponent_and_hides_the_corpus(dann: DANN) -> None:
    random, shift = torch.Generator().manual_seed(0), torch.zeros(4, requires_grad=True)

    def descend(steps: int, *leaves: Tensor) -> Tensor:
        descent = torch.optim.Adam([*dann.parameters(), *leaves], lr=0.01)
        for _ in range(steps):
            first, second = torch.randn(2, 64, 4, generator=random)
            value = dann(Side(first), Side(second + 2.0 + shift))
            descent.zero_grad()
            value.backward()
            descent.step()
        return value.detach()  # type: ignore[no-any-return]

    assert descend(60) < 0.2
    found = descend(400, shift)
    torch.testing.assert_close(shift.detach(), torch.full((4,), -2.0), atol=0.5, rtol=0.0)
    assert abs(float(found) - math.log(2)) < 0.1  # no better than a guess


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dann_of_another_dtype(dtype: torch.dtype) -> None:
    dann = DANN(4, hidden=8).to(dtype)
    value = dann(Side(draw(3, 4).to(dtype)), Side(draw(3, 4).to(dtype)))
    assert torch.isfinite(value) and value.dtype == dtype
