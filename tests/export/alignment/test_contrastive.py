from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo_export.alignment import AVEL, MEM, Side
from edgeemo_export.alignment.contrastive import hardest


def draw(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_hot(*labels: int, classes: int = 4) -> Tensor:
    return F.one_hot(torch.tensor(labels), classes).double()


# AVEL


def slow_avel(a: Tensor, b: Tensor, of_a: list[int], of_b: list[int], scale: float) -> float:
    """AVEL by its definition, row by row and pair by pair."""

    def direction(x: list[list[float]], y: list[list[float]], of_x: list[int], of_y: list[int]) -> float:
        rows = []
        for i, row in enumerate(x):
            scores = [
                scale * sum(p * q for p, q in zip(row, other, strict=True))
                / math.hypot(*row) / math.hypot(*other)
                for other in y
            ]  # fmt: skip
            whole = math.log(sum(math.exp(score) for score in scores))
            positive = [j for j in range(len(y)) if of_x[i] == of_y[j]]
            if positive:
                rows.append(-sum(scores[j] - whole for j in positive) / len(positive))
        return sum(rows) / len(rows) if rows else 0.0

    one, other = a.tolist(), b.tolist()
    return (direction(one, other, of_a, of_b) + direction(other, one, of_b, of_a)) / 2


@pytest.mark.parametrize(
    ("of_a", "of_b"),
    [
        ([0, 1, 2, 0], [0, 1, 2, 0]),
        ([0, 1, 2, 0, 1], [1, 1, 0]),  # 2 has no match
        ([3, 3], [3, 3]),
        ([0], [0]),
        ([0, 1], [2, 3]),  # none matches
    ],
)
def test_avel_equals_its_definition(of_a: list[int], of_b: list[int]) -> None:
    a, b = draw(len(of_a), 5), draw(len(of_b), 5, seed=1)
    found = AVEL(temperature=0.2)(Side(a, one_hot(*of_a)), Side(b, one_hot(*of_b))).item()
    assert found == pytest.approx(slow_avel(a, b, of_a, of_b, 5.0), abs=1e-6)


def test_avel_falls_when_matching_pairs_are_similar() -> None:
    labels = one_hot(0, 1, 2, 0, 1, 2)
    centres = draw(4, 16)
    clean = labels @ centres
    noise = draw(6, 16, seed=2), draw(6, 16, seed=3)
    found = [
        AVEL()(Side(clean + far * noise[0], labels), Side(clean + far * noise[1], labels)).item()
        for far in (3.0, 1.0, 0.3, 0.0)
    ]
    assert found == sorted(found, reverse=True)
    assert found[3] == pytest.approx(math.log(2), abs=1e-3)  # all of it shared by two positives
    wrong = AVEL()(Side(clean, labels), Side(clean, labels.roll(1, dims=1))).item()
    assert wrong > 5.0


def test_avel_does_not_grow_with_the_positives() -> None:
    # Alike, every pair costs log n, whatever the number of positives.
    z = torch.ones(12, 3)
    for labels in (one_hot(*[0] * 12), one_hot(*[0, 1] * 6), one_hot(*[0, 1, 2] * 4)):
        assert AVEL()(Side(z, labels), Side(z, labels)).item() == pytest.approx(math.log(12), rel=1e-5)


def test_temperature_starts_where_it_should() -> None:
    assert AVEL().scale().item() == pytest.approx(1 / 0.07)
    assert AVEL(0.5).scale().item() == pytest.approx(2.0)


@pytest.mark.parametrize(("held", "expected"), [(50.0, 100.0), (-50.0, 1.0), (math.log(20), 20.0)])
def test_scale_is_held_and_finds_back(held: float, expected: float) -> None:
    avel = AVEL()
    with torch.no_grad():
        avel.log_scale.fill_(held)
    assert avel.scale().item() == pytest.approx(expected)
    labels = one_hot(0, 1, 0, 1)
    side = Side(draw(4, 3), labels), Side(draw(4, 3, seed=1), labels)
    avel(*side).backward()
    assert avel.log_scale.grad is not None and abs(float(avel.log_scale.grad)) > 1e-3


def test_scale_is_learnt() -> None:
    # Pairs that fit call for a sharper softmax, pairs that do not for a softer one.
    labels = one_hot(0, 1, 2, 3)
    z = torch.eye(4)
    for other, sharper in ((z, True), (z.roll(1, dims=0), False)):
        avel = AVEL()
        descent = torch.optim.Adam(avel.parameters(), lr=0.1)
        before = avel.scale().item()
        avel(Side(z, labels), Side(other, labels)).backward()
        descent.step()
        assert (avel.scale().item() > before) == sharper


def test_gradient_of_avel() -> None:
    labels = one_hot(0, 1, 0)
    avel = AVEL(0.5).double()
    a, b = draw(3, 4).requires_grad_(), draw(3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: avel(Side(x, labels), Side(y, labels)), (a, b))


def test_two_losses_of_one_scale_in_one_step() -> None:
    avel, labels = AVEL(), one_hot(0, 1)
    side = Side(draw(2, 3).requires_grad_(), labels)
    other = Side(draw(2, 3, seed=1), labels)
    (avel(side, other) + avel(other, side)).backward()


# MEM


class Matcher(nn.Module):
    """Keeps what it is asked."""

    def __init__(self, width: int = 4, heads: int | None = None) -> None:
        super().__init__()
        self.score = nn.Bilinear(width, width, heads or 1).double()
        self.heads = heads
        self.asked: list[tuple[Tensor, Tensor]] = []

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        self.asked.append((a.detach(), b.detach()))
        logits: Tensor = self.score(a, b)
        return logits if self.heads else logits[:, 0]


def index_of(rows: Tensor, among: Tensor) -> list[int]:
    return [int((among == row).all(dim=1).nonzero()[0, 0]) for row in rows]


@pytest.mark.parametrize("seed", range(5))
def test_a_negative_is_the_most_similar_of_another_label(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    n = 9
    labels = torch.randint(3, (n,), generator=random)
    a, b = draw(n, 4, seed), draw(n, 4, seed + 100)
    matcher = Matcher()
    MEM(matcher)(Side(a, one_hot(*labels.tolist())), Side(b, one_hot(*labels.tolist())))
    ((asked_a, asked_b),) = matcher.asked
    of_a, of_b = index_of(asked_a, a), index_of(asked_b, b)
    assert of_a[: 2 * n] == [*range(n), *range(n)]
    assert of_b[:n] == of_b[2 * n :] == [*range(n)]
    cosines = F.cosine_similarity(a[:, None], b[None, :], dim=2)
    for i in range(n):
        wrong_b, wrong_a = of_b[n + i], of_a[2 * n + i]
        assert labels[wrong_b] != labels[i] and labels[wrong_a] != labels[i]
        others = (labels != labels[i]).nonzero()[:, 0]
        assert cosines[i, wrong_b] == cosines[i, others].max()
        assert cosines[wrong_a, i] == cosines[others, i].max()


@pytest.mark.parametrize("heads", [None, 1, 2])
def test_mem_equals_its_definition(heads: int | None) -> None:
    torch.manual_seed(0)
    labels = [0, 1, 1, 2, 0]
    a, b, matcher = draw(5, 4), draw(5, 4, seed=1), Matcher(heads=heads)
    cosines = F.cosine_similarity(a[:, None], b[None, :], dim=2)
    total = 0.0
    for i in range(5):
        others = [j for j in range(5) if labels[j] != labels[i]]
        wrong_b = max(others, key=lambda j: float(cosines[i, j]))
        wrong_a = max(others, key=lambda j: float(cosines[j, i]))
        logits = [
            torch.atleast_1d(matcher(a[[x]], b[[y]])[0])
            for x, y in ((i, i), (i, i), (i, wrong_b), (wrong_a, i))
        ]
        costs = [F.softplus(-logits[k]) if k < 2 else F.softplus(logits[k]) for k in range(4)]
        total += sum(cost.mean().item() for cost in costs)
    side = Side(a, one_hot(*labels)), Side(b, one_hot(*labels))
    # Two directions, in each a matching and a wrong pair for each of five rows.
    assert MEM(matcher)(*side).item() == pytest.approx(total / 20, rel=1e-6)


def test_a_row_without_another_label_is_left_out() -> None:
    # Row 2 has no label: it is nobody's negative, and has none.
    a, b = draw(3, 4), draw(3, 4, seed=1)
    labels = one_hot(0, 1, 2)
    labels[2] = 0.0
    torch.manual_seed(0)
    mem = MEM(Matcher())
    found = mem(Side(a, labels), Side(b, labels))
    alone = mem(Side(a[:2], labels[:2]), Side(b[:2], labels[:2]))
    assert found.item() == pytest.approx(alone.item(), rel=1e-9)


@pytest.mark.parametrize("n", [1, 4])
def test_without_another_label_mem_is_zero_and_teaches_nothing(n: int) -> None:
    torch.manual_seed(0)
    mem = MEM(Matcher())
    labels = one_hot(*[1] * n)
    a = draw(n, 4).requires_grad_()
    value = mem(Side(a, labels), Side(draw(n, 4, seed=1), labels))
    value.backward()
    assert value == 0.0
    for leaf in (a, *mem.parameters()):
        assert leaf.grad is not None and not leaf.grad.any()


def test_matcher_may_be_a_module_or_a_function() -> None:
    labels = one_hot(0, 1, 0)
    sides = Side(draw(3, 4), labels), Side(draw(3, 4, seed=1), labels)
    matcher = Matcher()
    assert {id(p) for p in MEM(matcher).parameters()} == {id(p) for p in matcher.parameters()}
    function = MEM(lambda a, b: matcher(a, b))
    assert not list(function.parameters())
    assert torch.equal(function(*sides), MEM(matcher)(*sides))


def test_a_matcher_learns_to_match() -> None:
    torch.manual_seed(0)
    labels = one_hot(*[0, 1, 2, 3] * 4)
    z = draw(16, 4, seed=2)
    sides = Side(z, labels), Side(z, labels)
    mem = MEM(Matcher())
    descent = torch.optim.Adam(mem.parameters(), lr=0.05)
    before = mem(*sides).item()
    for _ in range(200):
        descent.zero_grad()
        mem(*sides).backward()
        descent.step()
    assert mem(*sides).item() < 0.7 * min(before, math.log(2))


def test_hardest_of_ties_and_none() -> None:
    index, exists = hardest(torch.tensor([[1.0, -5.0]]), torch.tensor([[False, True]]))
    assert (int(index), bool(exists)) == (1, True)
    _, exists = hardest(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool))
    assert not exists
