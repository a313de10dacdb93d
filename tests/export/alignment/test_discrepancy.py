from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from edgeemo_export.alignment import LMMD, MMD, Side


def draw(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_hot(*labels: int, classes: int = 3) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(labels), classes).double()


def slow_kernel(points: list[list[float]]) -> list[list[float]]:
    """The five-kernel RBF by its definition, without a tensor."""
    n = len(points)
    distance = [[sum((a - b) ** 2 for a, b in zip(u, v, strict=True)) for v in points] for u in points]
    sigma = sum(map(sum, distance)) / (n * n - n) / 4
    return [[sum(math.exp(-x / (sigma * 2**m)) for m in range(5)) for x in row] for row in distance]


def slow_lmmd(s: Tensor, y: Tensor, t: Tensor, p: Tensor) -> float:
    """LMMD by its definition: class by class, pair by pair."""
    n, m, classes = len(s), len(t), y.shape[1]
    k = slow_kernel([*s.tolist(), *t.tolist()])
    ys, pt = y.tolist(), p.tolist()
    total, shared = 0.0, 0
    for c in range(classes):
        in_source = any(sum(row) > 0 and row.index(max(row)) == c for row in ys)
        in_target = any(sum(row) > 0 and row.index(max(row)) == c for row in pt)
        if not (in_source and in_target):
            continue
        shared += 1
        w = [row[c] / sum(other[c] for other in ys) for row in ys]
        v = [row[c] / sum(other[c] for other in pt) for row in pt]
        total += sum(w[i] * w[j] * k[i][j] for i in range(n) for j in range(n))
        total += sum(v[i] * v[j] * k[n + i][n + j] for i in range(m) for j in range(m))
        total -= 2 * sum(w[i] * v[j] * k[i][n + j] for i in range(n) for j in range(m))
    return total / shared if shared else 0.0


SOFT = torch.tensor(
    [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3], [0.9, 0.05, 0.05]], dtype=torch.float64
)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (one_hot(0, 1, 2, 0, 1), one_hot(2, 1, 0, 0)),
        (one_hot(0, 1, 2, 0, 1), SOFT),
        (one_hot(0, 0, 2, 2, 2), SOFT),  # class 1 on one side only
        (one_hot(1, 1, 1), one_hot(1, 1, 2, 2)),
        (one_hot(0, 0), one_hot(1, 2)),  # nothing shared
        (one_hot(0, 1, 2) * torch.tensor([[1.0], [0.0], [1.0]]), SOFT),  # a sample without a label
        (one_hot(2), one_hot(2)),
    ],
    ids=["hard", "soft", "missing", "few", "disjoint", "unlabelled", "single"],
)
def test_lmmd_equals_its_definition(source: Tensor, target: Tensor) -> None:
    s, t = draw(len(source), 4), draw(len(target), 4, seed=1) + 0.5
    found = float(LMMD()(Side(s, source), Side(t, target)))
    assert found == pytest.approx(slow_lmmd(s, source, t, target), abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 5), (3, 7)])
def test_mmd_equals_its_definition(n: int, m: int) -> None:
    s, t = draw(n, 4), draw(m, 4, seed=1) + 0.5
    ones = torch.ones(n, 1), torch.ones(m, 1)  # one class for all
    assert float(MMD()(Side(s), Side(t))) == pytest.approx(slow_lmmd(s, ones[0], t, ones[1]), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", [MMD, LMMD])
def test_of_a_side_with_itself_is_zero(loss: type[MMD] | type[LMMD], dtype: torch.dtype) -> None:
    z = draw(32, 64).to(dtype)
    labels = one_hot(*(i % 3 for i in range(32)))
    assert abs(float(loss()(Side(z, labels), Side(z, labels)))) < 1e-6
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    assert abs(float(loss()(Side(z, labels), Side(z[order], labels[order])))) < 1e-6


@pytest.mark.parametrize("loss", [MMD, LMMD])
def test_grows_with_the_shift(loss: type[MMD] | type[LMMD]) -> None:
    z, labels = draw(16, 8), one_hot(*(i % 2 for i in range(16)))
    found = [float(loss()(Side(z, labels), Side(z + shift, labels))) for shift in (0.1, 0.5, 2.0)]
    assert 1e-3 < found[0] < found[1] < found[2]


def test_lmmd_sees_swapped_classes_where_mmd_does_not() -> None:
    labels = one_hot(0, 0, 0, 1, 1, 1)
    z = draw(6, 4) + 3.0 * labels[:, :1]
    swapped = Side(z, labels[:, [1, 0, 2]])
    assert float(LMMD()(Side(z, labels), swapped)) > 1.0
    assert float(MMD()(Side(z, labels), swapped)) == pytest.approx(0.0, abs=1e-12)


def test_descent_on_lmmd_joins_the_classes() -> None:
    labels = one_hot(0, 0, 0, 0, 1, 1, 1, 1, classes=2)
    source = draw(8, 2) * 0.1 + 4.0 * labels
    target = (draw(8, 2, seed=1) * 0.1 + 4.0 * labels + 1.5).requires_grad_()
    descent = torch.optim.Adam([target], lr=0.05)
    for _ in range(200):
        descent.zero_grad()
        LMMD()(Side(source, labels), Side(target, labels)).backward()
        descent.step()
    for c in range(2):
        rows = labels[:, c] > 0
        assert (target[rows].mean(0) - source[rows].mean(0)).norm() < 0.3


def test_bandwidth_and_labels_pass_no_gradient() -> None:
    z, p = draw(4, 3).requires_grad_(), SOFT.clone().requires_grad_()
    LMMD()(Side(draw(5, 3, seed=1), one_hot(0, 1, 2, 0, 1)), Side(z, p)).backward()
    assert p.grad is None
    assert z.grad is not None and z.grad.abs().max() > 1e-4


@pytest.mark.parametrize("side", [0, 1])
def test_lmmd_needs_labels(side: int) -> None:
    sides = [Side(draw(3, 2), one_hot(0, 1, 2)), Side(draw(3, 2), one_hot(0, 1, 2))]
    sides[side] = Side(draw(3, 2))
    with pytest.raises(ValueError, match="needs the labels"):
        LMMD()(*sides)
