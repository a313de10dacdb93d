from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from edgeemo_export.distil import ensemble, relations, soft_targets, tokens


def draw(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turned(x: Tensor, width: int, seed: int = 5) -> Tensor:
    """Rows by an isometry into a space of another width."""
    basis, _ = torch.linalg.qr(draw(width, x.shape[1], seed))
    return x @ basis.T


def slow_relations(s: list[list[float]], t: list[list[float]]) -> float:
    """RKD by its definition, pair by pair and angle by angle."""

    def huber(x: float) -> float:
        return 0.5 * x * x if abs(x) <= 1.0 else abs(x) - 0.5

    def cosine(x: list[list[float]], i: int, j: int, k: int) -> float:
        one, other = ([a - b for a, b in zip(x[end], x[j], strict=True)] for end in (i, k))
        return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)

    n = len(s)
    ordered = list(itertools.permutations(range(n), 2))
    mean_s, mean_t = (sum(math.dist(x[i], x[j]) for i, j in ordered) / len(ordered) for x in (s, t))
    distance = [huber(math.dist(s[i], s[j]) / mean_s - math.dist(t[i], t[j]) / mean_t) for i, j in ordered]
    triples = list(itertools.permutations(range(n), 3))
    angle = [huber(cosine(s, *triple) - cosine(t, *triple)) for triple in triples]
    return sum(distance) / len(distance) + 2.0 * sum(angle) / len(angle)


def test_an_ensemble_is_the_mean_of_softened_probabilities() -> None:
    one, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    sigmoid = lambda x: 1.0 / (1.0 + math.exp(-x))  # noqa: E731
    found = ensemble([one, other], temperature=2.0)
    assert found[0, 0].item() == pytest.approx((sigmoid(1.0) + sigmoid(-2.0)) / 2)
    assert found.sum().item() == pytest.approx(1.0)


def test_soft_targets_are_zero_for_equal_answers_and_known_for_others() -> None:
    logits = draw(5, 7)
    assert soft_targets(logits, ensemble([logits], 3.0), 3.0).item() == pytest.approx(0.0, abs=1e-12)
    sure = torch.tensor([[1.0, 0.0]])
    assert soft_targets(torch.zeros(1, 2), sure, 1.0).item() == pytest.approx(math.log(2.0))
    assert soft_targets(torch.zeros(1, 2), sure, 3.0).item() == pytest.approx(9.0 * math.log(2.0))


def test_gradients_of_soft_targets_hardly_hang_on_the_temperature() -> None:
    """For high temperatures they tend to (z - v) / K (Hinton et al., 2015, section 2.1)."""
    student, teacher = draw(1, 7).requires_grad_(), draw(1, 7, seed=1)
    soft_targets(student, ensemble([teacher], 100.0), 100.0).backward()
    wanted = (student.detach() - student.detach().mean() - teacher + teacher.mean()) / 7
    torch.testing.assert_close(student.grad, wanted, rtol=0.05, atol=1e-3)


def test_tokens_are_zero_for_equal_ones_and_known_for_others() -> None:
    teacher = draw(6, 4)
    assert tokens(teacher, teacher).item() == pytest.approx(0.0, abs=1e-6)
    assert tokens(-teacher, teacher).item() == pytest.approx(2.0 + 4.0)
    assert tokens(2.0 * teacher, teacher).item() == pytest.approx(1.0, abs=1e-6)  # one direction
    assert tokens(3.0 * teacher + 1.0, 3.0 * teacher).item() == pytest.approx(
        tokens(teacher + 1.0 / 3.0, teacher).item()
    )


def test_an_adapter_maps_between_widths() -> None:
    adapter = nn.Linear(3, 5, bias=False).double()
    student = draw(6, 3)
    assert tokens(student, adapter(student), adapter).item() == pytest.approx(0.0, abs=1e-6)
    loss = tokens(student, draw(6, 5, seed=1), adapter)
    loss.backward()
    assert adapter.weight.grad is not None and adapter.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("count", [3, 5])
def test_relations_equal_their_definition(count: int) -> None:
    student, teacher = draw(count, 4), 3.0 * draw(count, 6, seed=1)
    wanted = slow_relations(student.tolist(), teacher.tolist())
    assert relations(student, teacher).item() == pytest.approx(wanted, abs=1e-6)


def test_relations_do_not_hang_on_scale_place_turn_or_order() -> None:
    student, teacher = draw(8, 4), draw(8, 6, seed=1)
    found = relations(student, teacher).item()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(2))
    for changed in (
        relations(7.0 * student + 3.0, teacher),
        relations(student, 0.2 * teacher - 1.0),
        relations(turned(student, 9), teacher),
        relations(student[order], teacher[order]),
    ):
        assert changed.item() == pytest.approx(found, rel=1e-5)
    assert relations(student, 5.0 * turned(student, 6) + 1.0).item() == pytest.approx(0.0, abs=1e-9)
    assert relations(student[order], teacher).item() != pytest.approx(found, rel=1e-2)


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_relations_are_finite_whatever_the_batch(count: int) -> None:
    student = torch.zeros(count, 3, requires_grad=True)
    loss = relations(student, torch.zeros(count, 5))
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None and bool(student.grad.isfinite().all())


def test_gradients_flow_to_the_student_alone() -> None:
    for loss in (
        lambda s, t: soft_targets(s, t.softmax(1), 2.0),
        lambda s, t: soft_targets(s, ensemble([t], 2.0), 2.0),
        tokens,
        relations,
    ):
        student, teacher = draw(6, 5).requires_grad_(), draw(6, 5, seed=1).requires_grad_()
        loss(student, teacher).backward()
        assert student.grad is not None and student.grad.abs().sum() > 0
        assert teacher.grad is None


@pytest.mark.parametrize(
    ("loss", "student", "teacher", "told"),
    [
        (tokens, (4, 3), (4, 5), "by an adapter"),
        (relations, (4, 3), (5, 3), "4 rows and the teacher 5"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    loss: object, student: tuple[int, int], teacher: tuple[int, int], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        loss(torch.zeros(student), torch.zeros(teacher))  # type: ignore[operator]
