from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from edgeemo_export.alignment.sides import Alignment, Side, labels_agree, top_label, unit_rows


class Sum(Alignment):
    """Gives what it was given, so that a test sees what a loss sees."""

    def loss(self, first: Side, second: Side) -> Tensor:
        self.seen = first, second
        return first.features.sum() + second.features.sum()


class Pairs(Sum):
    paired = True


@pytest.mark.parametrize(
    ("features", "labels", "mask", "said"),
    [
        ((3,), None, None, "features have shape [3]; it should be [n, d]"),
        ((3, 2, 1), None, None, "features have shape [3, 2, 1]"),
        ((3, 2), (3,), None, "labels have shape [3]; it should be [3, C]"),
        ((3, 2), (2, 4), None, "labels have shape [2, 4]; it should be [3, C]"),
        ((3, 2), None, (2,), "the mask has shape [2]; it should be [3]"),
        ((3, 2), None, (3, 1), "the mask has shape [3, 1]; it should be [3]"),
    ],
)
def test_a_side_of_another_shape_is_refused(
    features: tuple[int, ...], labels: tuple[int, ...] | None, mask: tuple[int, ...] | None, said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Side(
            torch.zeros(features),
            None if labels is None else torch.zeros(labels),
            None if mask is None else torch.zeros(mask),
        )


def test_sides_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="the sides have 2 and 3 features"):
        Sum()(Side(torch.zeros(4, 2)), Side(torch.zeros(4, 3)))
    with pytest.raises(ValueError, match="the sides have 4 and 5 rows, which should be pairs"):
        Pairs()(Side(torch.zeros(4, 2)), Side(torch.zeros(5, 2)))


@pytest.mark.parametrize("kind", [torch.bool, torch.float32, torch.int64])
def test_a_loss_sees_the_rows_that_count(kind: torch.dtype) -> None:
    features, labels = torch.arange(8.0).reshape(4, 2), torch.eye(4)
    features[1] = torch.nan
    mask = torch.tensor([1, 0, 1, 1]).to(kind)
    loss = Sum()
    loss(Side(features, labels, mask), Side(features[2:]))
    first, second = loss.seen
    assert torch.equal(first.features, features[[0, 2, 3]]) and first.labels is not None
    assert torch.equal(first.labels, labels[[0, 2, 3]])
    assert torch.equal(second.features, features[2:]) and second.labels is None


def test_a_pair_counts_where_both_rows_do() -> None:
    features = torch.arange(4.0)[:, None]
    loss = Pairs()
    loss(
        Side(features, mask=torch.tensor([1.0, 1.0, 0.0, 1.0])),
        Side(features, mask=torch.tensor([0.0, 1.0, 1.0, 1.0])),
    )
    for side in loss.seen:
        assert side.features[:, 0].tolist() == [1.0, 3.0]


def test_a_row_that_does_not_count_gets_no_gradient() -> None:
    features = torch.randn(3, 2).requires_grad_()
    Sum()(Side(features, mask=torch.tensor([1, 0, 1])), Side(torch.zeros(1, 2))).backward()
    assert features.grad is not None
    assert features.grad.tolist() == [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (torch.float16, torch.float16, torch.float32),
        (torch.bfloat16, torch.float16, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.float64, torch.float16, torch.float64),
    ],
)
def test_losses_are_of_float32_at_least(
    first: torch.dtype, second: torch.dtype, expected: torch.dtype
) -> None:
    value = Sum()(Side(torch.ones(2, 2, dtype=first)), Side(torch.ones(2, 2, dtype=second)))
    assert value.dtype == expected and value == 8.0


def test_labels_have_no_gradient() -> None:
    loss = Sum()
    probabilities = torch.full((2, 2), 0.5).requires_grad_()
    loss(Side(torch.zeros(2, 1), probabilities), Side(torch.zeros(2, 1)))
    given = loss.seen[0].given_labels()
    assert not given.requires_grad


def test_labels_that_are_missing_are_missed() -> None:
    with pytest.raises(ValueError, match="needs the labels of both sides"):
        Side(torch.zeros(2, 1)).given_labels()


def test_nothing_is_a_zero_with_gradients() -> None:
    loss = Sum()
    loss.weight = torch.nn.Parameter(torch.ones(2, 2))
    features = [torch.full((n, 2), torch.inf, requires_grad=True) for n in (0, 3)]
    value = loss.nothing(Side(features[0]), Side(features[1]))
    value.backward()
    assert value.shape == () and value == 0.0
    for leaf in (*features, loss.weight):
        assert leaf.grad is not None and not leaf.grad.any()


def test_unit_rows() -> None:
    x = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(unit_rows(x).norm(dim=1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(unit_rows(x), unit_rows(1000.0 * x))
    assert torch.autograd.gradcheck(unit_rows, x.requires_grad_())
    zero = torch.zeros(1, 3, requires_grad=True)
    unit_rows(zero).sum().backward()
    assert zero.grad is not None and torch.isfinite(zero.grad).all()


def test_labels_agree() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    second = torch.tensor([[0.4, 0.6], [0.0, 0.0]])
    assert top_label(second).tolist() == [1, -1]
    same, other = labels_agree(first, second)
    assert same.tolist() == [[False, False], [True, False], [False, False]]
    assert other.tolist() == [[True, False], [False, False], [False, False]]
