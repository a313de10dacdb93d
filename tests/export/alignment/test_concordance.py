from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeemo_export.alignment import CCC, Side


def draw(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """CCC of one output by the correlation, population moments."""
    rho = np.corrcoef(x, y)[0, 1]
    return float(2 * rho * x.std() * y.std() / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))


@pytest.mark.parametrize(("n", "d"), [(2, 1), (7, 2), (300, 3)])
def test_ccc_equals_a_reference(n: int, d: int) -> None:
    truth = draw(n, d)
    guess = 0.6 * truth + 0.5 * draw(n, d, seed=1) + 0.1
    each = [reference(guess[:, k].numpy(), truth[:, k].numpy()) for k in range(d)]
    assert float(CCC()(Side(guess), Side(truth))) == pytest.approx(1 - np.mean(each))


@pytest.mark.parametrize("held", [-5.0, 1e9, float("nan")])
@pytest.mark.parametrize("side", ["prediction", "truth", "both"])
def test_ccc_ignores_masked_frames(held: float, side: str) -> None:
    n = 40
    truth, guess = draw(n, 2), draw(n, 2) * 0.7 + 0.2 * draw(n, 2, seed=1)
    kept = torch.rand(n, generator=torch.Generator().manual_seed(2)) < 0.6
    expected = float(CCC()(Side(guess[kept]), Side(truth[kept])))
    truth, guess = truth.clone(), guess.clone()
    truth[~kept] = held
    if side != "truth":
        guess[~kept] = held
    guess.requires_grad_()
    mask = kept.float()
    loss = CCC()(
        Side(guess, mask=None if side == "truth" else mask),
        Side(truth, mask=None if side == "prediction" else mask),
    )
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    loss.backward()
    assert guess.grad is not None
    assert torch.isfinite(guess.grad).all() and not guess.grad[~kept].any() and guess.grad[kept].any()


def test_ccc_of_truth_is_zero_and_of_its_mirror_two() -> None:
    truth = draw(9, 2)
    truth = truth - truth.mean(dim=0)
    assert float(CCC()(Side(truth), Side(truth))) == pytest.approx(0.0, abs=1e-12)
    assert float(CCC()(Side(-truth), Side(truth))) == pytest.approx(2.0)


def test_ccc_does_not_depend_on_the_number_of_copies() -> None:
    # Moments of the population: with 1 / (n - 1) in some of them, a copy would change the answer.
    guess, truth = draw(4, 1), draw(4, 1, seed=1)
    once = float(CCC()(Side(guess), Side(truth)))
    assert float(CCC()(Side(guess.repeat(5, 1)), Side(truth.repeat(5, 1)))) == pytest.approx(once)


def test_gradient_of_ccc() -> None:
    truth, mask = draw(6, 2), torch.tensor([1, 1, 0, 1, 1, 0])
    assert torch.autograd.gradcheck(
        lambda guess: CCC()(Side(guess), Side(truth, mask=mask)), draw(6, 2, seed=1).requires_grad_()
    )


def test_an_output_whose_truth_does_not_vary_is_left_out() -> None:
    truth, guess = draw(8, 2), draw(8, 2, seed=1)
    truth[:, 1] = 0.1
    both = CCC()(Side(guess), Side(truth))
    assert both.item() == pytest.approx(float(CCC()(Side(guess[:, :1]), Side(truth[:, :1]))))


@pytest.mark.parametrize("value", [0.0, 0.1, -0.7])
def test_constant_predictions_are_drawn_apart(value: float) -> None:
    truth = draw(8, 1).float()
    guess = torch.full((8, 1), value, requires_grad=True)
    loss = CCC()(Side(guess), Side(truth))
    loss.backward()
    assert loss.item() == pytest.approx(1.0, abs=1e-5)
    assert guess.grad is not None
    # Against the gradient, each moves to where its truth lies.
    moved = -guess.grad
    assert float(torch.corrcoef(torch.cat([moved, truth], dim=1).T)[0, 1]) > 0.99


@pytest.mark.parametrize(
    ("guess", "truth", "mask"),
    [
        ([[0.3]], [[0.2]], [1]),
        ([[0.3], [0.4]], [[0.2], [0.5]], [1, 0]),
        ([[0.3], [0.4]], [[0.2], [0.5]], [0, 0]),
        ([[0.3], [0.4]], [[0.1], [0.1]], [1, 1]),
        ([[0.1], [0.1]], [[0.1], [0.1]], [1, 1]),
        ([[0.0], [0.0]], [[0.0], [1e-30]], [1, 1]),
    ],
    ids=["one frame", "one counts", "none counts", "truth constant", "both constant", "truth underflows"],
)
def test_where_there_is_nothing_to_agree_with_it_is_zero(
    guess: list[list[float]], truth: list[list[float]], mask: list[int]
) -> None:
    leaf = torch.tensor(guess, requires_grad=True)
    loss = CCC()(Side(leaf), Side(torch.tensor(truth), mask=torch.tensor(mask)))
    loss.backward()
    assert loss == 0.0
    assert leaf.grad is not None and not leaf.grad.any()
