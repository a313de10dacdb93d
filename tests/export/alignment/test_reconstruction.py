from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgeemo_export.alignment import IDA, GranularIDA, Side
from edgeemo_export.alignment.reconstruction import sparse_code
from edgeemo_export.alignment.sides import unit_rows

N, D = 32, 128


def draw(n: int = N, d: int = D, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shuffled(n: int, seed: int = 5) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def one_hot(*labels: int, classes: int = 3) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(labels), classes).double()


# The sparse code


def test_a_permuted_copy_is_written_by_the_permutation() -> None:
    source, order = unit_rows(draw()), shuffled(N)
    code = sparse_code(source[order], source, mu=1e-3, steps=400)
    torch.testing.assert_close(code, torch.eye(N, dtype=torch.float64)[order], atol=5e-3, rtol=0.0)


def test_a_great_mu_writes_nothing() -> None:
    source, target = unit_rows(draw()), unit_rows(draw(20, seed=1))
    most = float((target @ source.T).abs().max())
    assert not sparse_code(target, source, mu=1.001 * most, steps=50).any()
    assert sparse_code(target, source, mu=0.9 * most, steps=50).any()


@pytest.mark.parametrize("mu", [0.01, 0.05, 0.15])
def test_the_code_is_optimal(mu: float) -> None:
    # The subgradient of the objective holds zero: where w is not 0, (W Z_s - Z_t) Z_s^T = -mu sign(w).
    source, target = unit_rows(draw()), unit_rows(draw(20, seed=1) + 0.5)
    code = sparse_code(target, source, mu, steps=3000)
    slope = (code @ source - target) @ source.T
    used = code != 0
    assert used.any() and not used.all()
    torch.testing.assert_close(slope[used], -mu * code[used].sign(), atol=1e-6, rtol=0.0)
    assert (slope[~used].abs() <= mu + 1e-6).all()


def test_fifty_steps_come_close() -> None:
    # Features after a ReLU resemble each other, which is where plain gradient steps are slow.
    source, target = unit_rows(draw(64).relu()), unit_rows(draw(64, seed=1).relu())

    def objective(steps: int) -> float:
        code = sparse_code(target, source, 0.02, steps)
        return float(0.5 * (target - code @ source).square().sum() + 0.02 * code.abs().sum())

    assert objective(50) == pytest.approx(objective(2000), rel=1e-3)


def test_what_is_not_allowed_is_zero_and_the_rest_as_if_alone() -> None:
    source, target = unit_rows(draw(6, 8)), unit_rows(draw(4, 8, seed=1))
    allowed = torch.zeros(4, 6, dtype=torch.bool)
    allowed[:3, :4] = True
    code = sparse_code(target, source, 0.05, 3000, allowed)
    assert not code[~allowed].any()
    torch.testing.assert_close(code[:3, :4], sparse_code(target[:3], source[:4], 0.05, 3000))


def test_no_gradient_flows_through_the_code() -> None:
    source, target = draw(6, 8).requires_grad_(), draw(4, 8, seed=1).requires_grad_()
    assert not sparse_code(target, source, 0.1, 5).requires_grad


# IDA


def test_ida_of_a_permuted_copy_is_nearly_zero() -> None:
    z = draw()
    found = float(IDA(mu=1e-3, steps=400)(Side(z), Side(z[shuffled(N)])))
    assert 0.0 <= found < 1e-5 / D


def test_ida_with_a_great_mu_is_the_energy_of_the_target() -> None:
    target = draw(20, seed=1)
    found = float(IDA(mu=2.0)(Side(draw()), Side(target)))
    assert found == pytest.approx(float(unit_rows(target).square().sum() / (20 * D)), rel=1e-12)
    assert found == pytest.approx(1.0 / D, rel=1e-6)


def test_ida_grows_as_the_corpora_part() -> None:
    z = draw()
    noise = draw(seed=3)
    found = [float(IDA()(Side(z), Side(z[shuffled(N)] + far * noise))) for far in (0.0, 0.5, 1.0, 3.0)]
    assert found == sorted(found) and found[3] > 2.0 * found[0]


def test_ida_does_not_depend_on_the_order_or_the_length_of_rows() -> None:
    source, target = draw(), draw(20, seed=1)
    expected = IDA()(Side(source), Side(target)).item()
    moved = Side(source[shuffled(N)] * torch.linspace(0.5, 3.0, N)[:, None])
    assert float(IDA()(moved, Side(target))) == pytest.approx(expected, rel=1e-6)
    assert float(IDA()(Side(source), Side(7.0 * target[shuffled(20)]))) == pytest.approx(expected, rel=1e-6)


def test_shrinking_features_does_not_lower_ida() -> None:
    source, target = draw(), draw(20, seed=1)
    whole = IDA()(Side(source), Side(target)).item()
    assert float(IDA()(Side(0.01 * source), Side(0.01 * target))) == pytest.approx(whole, rel=1e-3)


def test_gradients_of_ida_reach_both_sides() -> None:
    source, target = draw(6, 8).requires_grad_(), draw(4, 8, seed=1).requires_grad_()
    IDA()(Side(source), Side(target)).backward()
    for leaf in (source, target):
        assert leaf.grad is not None and leaf.grad.abs().max() > 1e-3
    # Of the loss with the code held, which is what the gradient is of.
    code = sparse_code(unit_rows(target), unit_rows(source), 0.1, 50)

    def held(s: Tensor, t: Tensor) -> Tensor:
        return (unit_rows(t) - code @ unit_rows(s)).square().sum() / (4 * 8)

    assert torch.autograd.gradcheck(held, (source, target))
    for leaf, expected in zip(
        (source, target), torch.autograd.grad(held(source, target), (source, target)), strict=True
    ):
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad, expected)


def test_descent_on_ida_rebuilds_the_target() -> None:
    source, target = draw(12, 16), draw(8, 16, seed=1).requires_grad_()
    before = IDA()(Side(source), Side(target)).item()
    descent = torch.optim.Adam([target], lr=0.05)
    for _ in range(100):
        descent.zero_grad()
        IDA()(Side(source), Side(target)).backward()
        descent.step()
    assert IDA()(Side(source), Side(target)).item() < 0.3 * before


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_features_that_are_not_finite_do_not_raise(bad: float) -> None:
    # Gradient scaling skips a step whose loss is not finite; an error would end the training.
    source = draw(6, 8)
    source[2, 3] = bad
    assert not torch.isfinite(IDA()(Side(source), Side(draw(4, 8))))


# By class


def test_within_a_class_only_its_own_sources_serve() -> None:
    source, target = draw(9, 8), draw(5, 8, seed=1)
    y, p = one_hot(0, 0, 0, 1, 1, 1, 1, 2, 2), one_hot(0, 0, 1, 2, 2)
    found = float(IDA(steps=500, within=True)(Side(source, y), Side(target, p)))
    each = IDA(steps=500)
    total = sum(
        float(each(Side(source[y[:, c] > 0]), Side(target[p[:, c] > 0]))) * int(p[:, c].sum())
        for c in range(3)
    )
    assert found == pytest.approx(total / 5, rel=1e-5)


def test_within_leaves_out_a_class_that_no_source_has() -> None:
    source, target = draw(4, 8), draw(3, 8, seed=1).requires_grad_()
    y = one_hot(0, 0, 1, 1)
    found = IDA(within=True)(Side(source, y), Side(target, one_hot(0, 2, 2)))
    found.backward()
    alone = IDA()(Side(source[:2]), Side(target[:1]))
    assert found.item() == pytest.approx(alone.item(), rel=1e-6)
    assert target.grad is not None and target.grad[0].any() and not target.grad[1:].any()


def test_soft_labels_count_by_their_greatest() -> None:
    source, target, y = draw(4, 8), draw(2, 8, seed=1), one_hot(0, 0, 1, 1)
    soft = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]], dtype=torch.float64)
    ida = IDA(within=True)
    hard = ida(Side(source, y), Side(target, one_hot(0, 1)))
    assert torch.equal(ida(Side(source, y), Side(target, soft)), hard)


def test_plain_ida_ignores_labels_and_within_needs_them() -> None:
    source, target = draw(4, 8), draw(2, 8, seed=1)
    labelled = Side(source, one_hot(0, 0, 1, 1)), Side(target, one_hot(2, 2))
    assert torch.equal(IDA()(*labelled), IDA()(Side(source), Side(target)))
    with pytest.raises(ValueError, match="needs the labels"):
        IDA(within=True)(labelled[0], Side(target))


# Three granularities

GROUPS = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


def layers(seed: int, *labels: int) -> list[Side]:
    """Three layers of different width, of one batch; labels at the last."""
    n = len(labels)
    return [
        Side(draw(n, 6, seed)),
        Side(draw(n, 5, seed + 1)),
        Side(draw(n, 4, seed + 2), one_hot(*labels)),
    ]


def test_granular_ida_is_the_mean_of_three() -> None:
    s, t = layers(0, 0, 1, 2, 2, 0, 1), layers(10, 1, 2, 0)
    found = GranularIDA(GROUPS)(s[2], t[2], middle=(s[1], t[1]), shallow=(s[0], t[0]))
    marginal = IDA()(s[0], t[0])
    coarse = [
        Side(side.features, last.given_labels() @ GROUPS.double())
        for side, last in ((s[1], s[2]), (t[1], t[2]))
    ]
    within = IDA(within=True)
    expected = (marginal + within(*coarse) + within(s[2], t[2])) / 3
    assert found.item() == pytest.approx(float(expected), rel=1e-9)


def test_granular_ida_of_one_layer_reads_it_three_times() -> None:
    s, t = layers(0, 0, 1, 2, 2, 0, 1)[2], layers(10, 1, 2, 0)[2]
    granular = GranularIDA(GROUPS)
    assert torch.equal(granular(s, t), granular(s, t, middle=(s, t), shallow=(s, t)))


def test_a_probability_of_a_group_is_the_sum_of_its_classes() -> None:
    # The greatest class is the third, the greater group is that of the first two.
    s = layers(0, 0, 1, 2, 2)[2]
    soft = torch.tensor([[0.3, 0.3, 0.4]], dtype=torch.float64)
    t = Side(draw(1, 4, 12), soft)
    middle = Side(draw(4, 5, 1)), Side(draw(1, 5, 11))
    found = GranularIDA(GROUPS)(s, t, middle=middle)
    first = IDA(within=True)(
        Side(middle[0].features, one_hot(0, 0, 1, 1, classes=2)),
        Side(middle[1].features, one_hot(0, classes=2)),
    )
    rest = IDA()(s, t) + IDA(within=True)(s, t)
    assert found.item() == pytest.approx(float((first + rest) / 3), rel=1e-9)


def test_autocast_does_not_tie_groups() -> None:
    # The groups' probabilities differ by less than half precision holds, and in the other order.
    s = layers(0, 0, 1, 2, 2)[2]
    sides = s, Side(draw(2, 4, 12), torch.tensor([[0.2, 0.2995, 0.5005]] * 2))
    granular = GranularIDA(GROUPS)
    with torch.autocast("cpu", torch.bfloat16):
        found = granular(*sides)
    assert torch.equal(found, granular(*sides))


def test_gradients_of_granular_ida_reach_every_layer() -> None:
    s, t = layers(0, 0, 1, 2, 2, 0, 1), layers(10, 1, 2, 0)
    for side in (*s, *t):
        side.features.requires_grad_()
    GranularIDA(GROUPS)(s[2], t[2], middle=(s[1], t[1]), shallow=(s[0], t[0])).backward()
    for side in (*s, *t):
        assert side.features.grad is not None and side.features.grad.abs().max() > 1e-4


def test_groups_follow_the_module_and_are_no_weights() -> None:
    granular = GranularIDA(GROUPS.long())
    assert granular.groups.is_floating_point()
    assert granular.to("meta").groups.device.type == "meta"
    assert not granular.state_dict() and not list(granular.parameters())
