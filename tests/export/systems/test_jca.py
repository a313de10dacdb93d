from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo.errors import InputError
from edgeemo_calibration.lint import lint
from edgeemo_export import to_onnx, train
from edgeemo_export.alignment import CCC, Side
from edgeemo_export.data.labels import LABELS, NORMS
from edgeemo_export.systems.fusion import Answers, Windows
from edgeemo_export.systems.jca import JCA, Gate, JointAttention, RatedWindows, agreement, causal_mean

WIDTH, SLOTS, LENGTH, ROWS, CLASSES = 12, 20, 4, 5, len(LABELS)
EACH = SLOTS // LENGTH
TABLE = [NORMS[name] for name in LABELS]
VARIANTS: dict[str, dict[str, Any]] = {
    "joint": {},
    "plain": {"joint": False},
    "recursive": {"recursion": 2},
    "gated": {"recursion": 2, "gated": True},
}
Array = NDArray[np.float64]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
Enliven = Callable[..., nn.Module]


def new(**settings: Any) -> JCA:
    return JCA(WIDTH, CLASSES, SLOTS, length=LENGTH, inner=6, maps=4, norms=TABLE, **settings)


@pytest.fixture
def trained(enliven: Enliven) -> Callable[..., JCA]:
    """Makes a model as after training, with valence and arousal well inside their range."""

    def make(**settings: Any) -> JCA:
        model = new(**settings)
        enliven(model, seed=1)
        with torch.no_grad():
            for parameter in model.ratings[2].parameters():
                parameter.mul_(0.1)
        return model

    return make


@pytest.fixture(params=list(VARIANTS))
def model(request: pytest.FixtureRequest, trained: Callable[..., JCA]) -> JCA:
    """Each variant."""
    return trained(**VARIANTS[request.param])


def window(rows: int = ROWS, voices: int | None = None, seed: int = 3) -> Inputs:
    """Tokens as encoders give them in about half of the slots; each modality lacks some sub-sequences."""
    random = torch.Generator().manual_seed(seed)
    given: list[Tensor] = []
    for count, absent in ((rows, 1), (rows if voices is None else voices, 2)):
        mask = (torch.rand(rows, SLOTS, generator=random) < 0.5).float()
        mask[:, -1] = 1.0
        mask[:, absent * EACH : (absent + 1) * EACH] = 0.0
        given += [torch.randn(count, SLOTS, WIDTH, generator=random).relu(), mask]
    return given[0], given[1], given[2], given[3]


def batch(rows: int = ROWS, seed: int = 3) -> Windows:
    labels = F.one_hot(torch.arange(rows) % CLASSES, CLASSES).float()
    return Windows(*window(rows, seed=seed), labels)


def rated(over_time: bool, rows: int = ROWS) -> RatedWindows:
    random = torch.Generator().manual_seed(8)
    shape = (rows, LENGTH) if over_time else (rows,)
    whole = batch(rows)
    ratings = torch.rand(*shape, 2, generator=random) * 2 - 1
    counts = (torch.rand(shape, generator=random) < 0.7).float()
    return RatedWindows(*window(rows), whole.labels, ratings, counts)


@torch.no_grad()
def said(model: JCA, given: Inputs) -> dict[str, Tensor]:
    return {"logits": model(*given), "affect": model.affect(*given), "trace": model.trace(*given)}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-6, rtol=1e-5, msg=name)


def array(x: Tensor) -> Array:
    return x.detach().double().numpy()


# The equations


def slow_attention(block: JointAttention, x: Array, asked: Array) -> Array:
    """``X_att [L, d]`` of one row, sum by sum."""
    # A linear layer keeps its matrix transposed.
    w_j, w_c = array(block.relate.weight).T, array(block.weigh.weight).T
    w, w_h = array(block.keep.weight).T, array(block.spread.weight).T
    (length, inner), wide, maps = x.shape, asked.shape[1], w_c.shape[1]
    steps = range(length)
    out = np.zeros_like(x)
    for i in range(inner):
        row = [
            math.tanh(sum(x[a, i] * w_j[a, b] * asked[b, j] for a in steps for b in steps) / math.sqrt(wide))
            for j in range(wide)
        ]
        hidden = [
            max(
                0.0,
                sum(row[j] * w_c[j, m] for j in range(wide)) + sum(x[a, i] * w[a, m] for a in steps),
            )
            for m in range(maps)
        ]
        for a in steps:
            out[a, i] = sum(hidden[m] * w_h[m, a] for m in range(maps)) + x[a, i]
    return out


def slow_parts(layer: nn.Linear, tokens: Array, mask: Array) -> tuple[Array, list[bool]]:
    rows, there = [], []
    for part in range(LENGTH):
        slots = [slot for slot in range(part * EACH, (part + 1) * EACH) if mask[slot]]
        mean = sum((tokens[slot] for slot in slots), np.zeros(WIDTH)) / max(len(slots), 1)
        made = array(layer.weight) @ mean + array(layer.bias)
        rows.append(made if slots else np.zeros_like(made))
        there.append(bool(slots))
    return np.stack(rows), there


def slow_logits(model: JCA, given: Inputs, row: int, joint: bool) -> Array:
    """Logits of one row: those of each sub-sequence of each modality, averaged over those that are there."""
    sides = [model.first, model.second]
    made = [
        slow_parts(side.parts.project, array(given[2 * i][row]), array(given[2 * i + 1][row]))
        for i, side in enumerate(sides)
    ]
    both = np.concatenate([made[0][0], made[1][0]], axis=1)
    first, last = model.emotion[0], model.emotion[2]
    logits = array(last.weight) @ array(first.bias) + array(last.bias)
    for i, side in enumerate(sides):
        x, there = made[i]
        attended = slow_attention(side.attention, x, both if joint else made[1 - i][0])
        weight = array(last.weight) @ array(first.weight)[:, i * x.shape[1] : (i + 1) * x.shape[1]]
        votes = [weight @ attended[part] for part in range(LENGTH) if there[part]]
        logits = logits + (sum(votes) / len(votes) if votes else 0.0)
    return logits


@pytest.mark.parametrize("wide", [3, 6])
def test_attention_equals_the_equations(enliven: Enliven, wide: int) -> None:
    block = enliven(JointAttention(LENGTH, wide, 5))
    assert isinstance(block, JointAttention)
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, LENGTH, 3, generator=random)
    asked = torch.randn(2, LENGTH, wide, generator=random)
    with torch.no_grad():
        made = block(x, asked)
    for row in range(2):
        expected = slow_attention(block, array(x[row]), array(asked[row]))
        np.testing.assert_allclose(made[row].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("missing", [(), (0,), (1,)])
def test_logits_equal_the_equations(
    trained: Callable[..., JCA], joint: bool, missing: tuple[int, ...]
) -> None:
    model = trained(joint=joint)
    given = window()
    for place in missing:
        given[2 * place + 1].zero_()
    made = said(model, given)["logits"]
    for row in range(ROWS):
        np.testing.assert_allclose(made[row].numpy(), slow_logits(model, given, row, joint), atol=2e-5)


def test_recursion_applies_the_same_attention_again(trained: Callable[..., JCA]) -> None:
    once, twice = trained(), new(recursion=2)
    twice.load_state_dict(once.state_dict())  # it has no weights of its own
    random = torch.Generator().manual_seed(0)
    there = torch.ones(2, LENGTH)
    x, y = torch.randn(2, 2, LENGTH, 6, generator=random).unbind()
    with torch.no_grad():
        for _ in range(2):
            both = torch.cat([x, y], dim=2)
            x, y = once.first.attention(x, both), once.second.attention(y, both)
        expected = once.emotion(torch.cat([x.mean(1), y.mean(1)], dim=1))
        x, y = torch.randn(2, 2, LENGTH, 6, generator=random.manual_seed(0)).unbind()
        found = twice.eval().emotion(twice._attended((x, there), (y, there)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (said(once, window())["logits"] - said(twice, window())["logits"]).abs().max() > 1e-2


@pytest.mark.parametrize("versions", [2, 3])
def test_a_gate_stays_between_its_versions(enliven: Enliven, versions: int) -> None:
    gate = enliven(Gate(6, versions))
    assert isinstance(gate, Gate)
    given = list(torch.randn(versions, 2, LENGTH, 6, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        made = gate(given)
        stacked = torch.stack(given)
        assert (made >= stacked.amin(0) - 1e-6).all() and (made <= stacked.amax(0) + 1e-6).all()
        # A score far above the others takes its version.
        for version, expected in enumerate(given):
            gate.score.bias.zero_()
            gate.score.bias[version] = 100.0
            torch.testing.assert_close(gate(given), expected)


def test_an_open_gate_is_no_gate(trained: Callable[..., JCA]) -> None:
    plain, gated = trained(recursion=2), new(recursion=2, gated=True)
    gated.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        for side in (gated.first, gated.second):
            for gate in (side.gate, side.gate_iterations):
                assert gate is not None
                gate.score.weight.zero_()
                gate.score.bias.copy_(torch.tensor([0.0, 100.0]))  # what came out; the last iteration
    assert_same(said(gated.eval(), window()), said(plain, window()))


# Parameters


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_are_as_many_as_published() -> None:
    model = JCA(512, 1)
    assert size(model) - size(model.ratings) == 181_889


def test_plain_attention_is_of_the_same_size() -> None:
    joint, plain = JCA(128, CLASSES), JCA(128, CLASSES, joint=False)
    assert (size(joint.first.attention), size(plain.first.attention)) == (8768, 8704)
    assert size(joint.emotion) == size(plain.emotion)


def test_recursion_adds_no_parameter_and_gates_add_only_themselves() -> None:
    assert size(new(recursion=3)) == size(new())
    gates = 2 * (2 * 6 * 2 + 2)
    assert size(new(gated=True)) == size(new()) + gates
    assert size(new(gated=True, recursion=3)) == size(new()) + gates + 2 * (3 * 6 * 3 + 3)


@pytest.mark.parametrize("labelled", ["norms", "window", "sub-sequences"])
def test_every_parameter_has_a_gradient_and_a_group(model: JCA, labelled: str) -> None:
    given = batch() if labelled == "norms" else rated(labelled == "sub-sequences")
    groups = train.optimiser(model, train.Schedule(1)).param_groups
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    torch.stack(list(model.losses(given).values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert id(parameter) in grouped, name
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert len(grouped) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slots": 41}, "length: 8 sub-sequences of 41 slots"),
        ({"slots": 0}, "length: 8 sub-sequences of 0 slots"),
        ({"length": 0}, "length: 0 sub-sequences of 40 slots"),
        ({"recursion": 0}, "recursion: 0; it should be 1 or more"),
        ({"norms": TABLE[1:]}, f"norms: {CLASSES - 1} for {CLASSES} labels"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        JCA(WIDTH, CLASSES, **settings)


# Masks and modalities


@pytest.mark.parametrize("held", [-5.0, 1000.0])
def test_masked_slots_have_no_influence(model: JCA, held: float) -> None:
    first, first_mask, second, second_mask = window()
    filled = (
        torch.where(first_mask[..., None] > 0, first, held),
        first_mask,
        torch.where(second_mask[..., None] > 0, second, -held),
        second_mask,
    )
    assert_same(said(model, filled), said(model, (first, first_mask, second, second_mask)))


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("slot", range(SLOTS))
def test_each_slot_that_counts_has_influence(model: JCA, place: int, slot: int) -> None:
    tokens = window(1)
    ones = torch.ones(1, SLOTS)
    given = [tokens[0], ones, tokens[2], ones]
    changed = list(given)
    changed[place] = given[place].clone()
    changed[place][0, slot] += 1.0
    before, after = said(model, tuple(given)), said(model, tuple(changed))  # type: ignore[arg-type]
    for name in ("logits", "affect"):
        assert (after[name] - before[name]).abs().max() > 1e-4, name


@pytest.mark.parametrize("place", [0, 2])
def test_zeroing_or_dropping_a_modality_changes_the_answer(model: JCA, place: int) -> None:
    given = window()
    before = said(model, given)
    for emptied in (place, place + 1):
        changed = list(given)
        changed[emptied] = torch.zeros_like(given[emptied])
        after = said(model, tuple(changed))  # type: ignore[arg-type]
        assert ((after["logits"] - before["logits"]).abs().amax(1) > 1e-2).all()
        assert ((after["affect"] - before["affect"]).abs().amax(1) > 1e-4).all()


@pytest.mark.parametrize("place", [0, 2])
def test_a_missing_modality_may_hold_anything(model: JCA, place: int) -> None:
    given = list(window())
    given[place + 1] = torch.zeros_like(given[place + 1])
    changed = list(given)
    changed[place] = given[place] + 9.0
    assert_same(said(model, tuple(changed)), said(model, tuple(given)))  # type: ignore[arg-type]


def test_a_modality_where_it_is_missing_has_no_vote(trained: Callable[..., JCA]) -> None:
    model = trained(recursion=2)
    first, second = model._parted(*window())
    seen: list[Tensor] = []
    model.first.attention.register_forward_hook(lambda part, read, made: seen.append(read[0]))
    with torch.no_grad():
        model._attended(first, second)
        assert (first[1] == 0).any()
        assert not seen[1][first[1] == 0].any() and seen[1][first[1] == 1].abs().amax(1).min() > 0
        x = torch.randn(first[0].shape, generator=torch.Generator().manual_seed(0))
        expected = torch.stack([part[there > 0].mean(0) for part, there in zip(x, first[1], strict=True)])
        torch.testing.assert_close(model.first.outcome([x], first[1]), expected)


def test_nothing_seen_or_heard_is_answered_and_trained_finitely(model: JCA) -> None:
    first, _, second, _ = window()
    none = torch.zeros(ROWS, SLOTS)
    for value in said(model, (first, none, second, none)).values():
        assert torch.isfinite(value).all() and torch.equal(value, value[:1].expand_as(value))
    losses = model.losses(Windows(first, none, second, none, batch().labels))
    torch.stack(list(losses.values())).sum().backward()
    assert losses["valence"].item() == losses["arousal"].item() == 0.0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_valence_and_arousal_are_held_in_their_range_and_learn_outside(model: JCA) -> None:
    with torch.no_grad():
        model.ratings[2].bias.fill_(5.0)
    made = said(model, window())
    assert (made["affect"] == 1.0).all() and (made["trace"] == 1.0).all()
    model.losses(batch())["valence"].backward()
    gradient = model.ratings[2].weight.grad
    assert gradient is not None and gradient[0].all()


def test_permuting_the_batch_permutes_answers(model: JCA) -> None:
    given, order = window(), [3, 1, 4, 0, 2]
    moved = tuple(value[order] for value in given)
    expected = {name: value[order] for name, value in said(model, given).items()}
    assert_same(said(model, moved), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [1, 4])
def test_one_voice_equals_the_voice_repeated(model: JCA, rows: int) -> None:
    first, first_mask, second, second_mask = window(rows, voices=1)
    repeated = (first, first_mask, second.expand(rows, -1, -1), second_mask)
    assert_same(said(model, (first, first_mask, second, second_mask)), said(model, repeated))


# Time


def test_an_answer_reads_nothing_later(model: JCA) -> None:
    given = window()
    before = said(model, given)["trace"]
    for cut in range(1, LENGTH):
        first, first_mask, second, second_mask = (value.clone() for value in given)
        for tokens, mask in ((first, first_mask), (second, second_mask)):
            tokens[:, cut * EACH :] = torch.randn(ROWS, SLOTS - cut * EACH, WIDTH)
            mask[:, cut * EACH :] = 1.0
        after = said(model, (first, first_mask, second, second_mask))["trace"]
        assert torch.equal(after[:, :cut], before[:, :cut])
        assert ((after[:, cut:] - before[:, cut:]).abs().amax(2) > 1e-5).all()


def test_the_trace_is_what_a_stream_says(model: JCA) -> None:
    given = window()
    with torch.no_grad():
        trace = model.trace(*given)
        for part in range(LENGTH):
            late = SLOTS - (part + 1) * EACH
            # Before the stream began nothing counts, whatever the ring holds.
            shown = [value.roll(late, dims=1).clone() for value in given]
            shown[1][:, :late] = shown[3][:, :late] = 0.0
            torch.testing.assert_close(model.affect(*shown), trace[:, part], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(model.affect(*given), trace[:, -1])


def test_answers_of_a_stream_do_not_depend_on_later_windows(model: JCA) -> None:
    random = torch.Generator().manual_seed(0)
    hops, cut = 3 * SLOTS, 2 * SLOTS
    stream = [torch.randn(hops, WIDTH, generator=random) for _ in range(2)]
    changed = [torch.cat([x[:cut], torch.randn(hops - cut, WIDTH, generator=random)]) for x in stream]
    ends = range(SLOTS, hops + 1)

    def answers(tokens: list[Tensor]) -> dict[str, Tensor]:
        first, second = (torch.stack([x[end - SLOTS : end] for end in ends]) for x in tokens)
        ones = torch.ones(len(ends), SLOTS)
        return said(model, (first, ones, second, ones))

    before, after = answers(stream), answers(changed)
    for name in ("logits", "affect"):
        same = (after[name] == before[name]).all(1)
        assert same.tolist() == [end <= cut for end in ends], name


# Losses


def test_losses_are_cross_entropy_and_ccc_of_the_norms(model: JCA) -> None:
    given = batch()
    inputs = (given.first, given.first_mask, given.second, given.second_mask)
    losses = model.losses(given)
    assert list(losses) == ["emotion", "valence", "arousal"]
    expected = F.cross_entropy(model(*inputs), given.labels, label_smoothing=0.05)
    torch.testing.assert_close(losses["emotion"], expected)
    answers, truth = model.affect(*inputs), torch.tensor(TABLE)[torch.arange(ROWS) % CLASSES]
    for place, name in enumerate(("valence", "arousal")):
        expected = CCC()(Side(answers[:, [place]]), Side(truth[:, [place]]))
        torch.testing.assert_close(losses[name], expected)


@pytest.mark.parametrize("over_time", [False, True])
@pytest.mark.parametrize("held", [-5.0, 1e6, float("nan")])
def test_ccc_ignores_frames_that_are_not_rated(model: JCA, over_time: bool, held: float) -> None:
    given = rated(over_time, rows=9)
    inputs = (given.first, given.first_mask, given.second, given.second_mask)
    kept = given.rated.bool()
    assert kept.any() and not kept.all()
    filled = replace(given, ratings=torch.where(kept[..., None], given.ratings, held))
    losses = model.losses(filled)
    answers = (model.trace if over_time else model.affect)(*inputs)
    for place, name in enumerate(("valence", "arousal")):
        expected = CCC()(Side(answers[kept][:, [place]]), Side(given.ratings[kept][:, [place]]))
        torch.testing.assert_close(losses[name], expected)
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_moments_before_anything_counts_are_not_scored(model: JCA) -> None:
    given = rated(over_time=True, rows=9)
    given.first_mask[:4, : 2 * EACH] = given.second_mask[:4, : 2 * EACH] = 0.0
    everywhere = replace(given, rated=torch.ones(9, LENGTH))
    heard = torch.ones(9, LENGTH)
    heard[:4, :2] = 0.0
    for name, value in model.losses(replace(given, rated=heard)).items():
        torch.testing.assert_close(model.losses(everywhere)[name], value)
    late = model.trace(given.first, given.first_mask, given.second, given.second_mask)
    unmasked = CCC()(Side(late[..., 0].reshape(-1, 1)), Side(given.ratings[..., 0].reshape(-1, 1)))
    assert abs(model.losses(everywhere)["valence"] - unmasked) > 1e-4


def test_rows_without_a_label_train_no_label(model: JCA) -> None:
    given = rated(over_time=False)
    unlabelled = replace(given, labels=torch.zeros_like(given.labels))
    losses = model.losses(unlabelled)
    assert losses["emotion"].item() == 0.0 and losses["emotion"].requires_grad
    assert losses["valence"].item() > 0.0
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()) != name.startswith("emotion."), name
    # Of norms, too, such a row is no target at the origin.
    half = batch(8)
    half.labels[4:] = 0.0
    inputs = (half.first, half.first_mask, half.second, half.second_mask)
    labelled = Windows(*(value[:4] for value in inputs), half.labels[:4])
    for name, value in model.losses(labelled).items():
        torch.testing.assert_close(model.losses(half)[name], value)


def test_ccc_is_taken_in_full_precision(model: JCA) -> None:
    given = rated(over_time=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model.losses(given)
    assert {losses[name].dtype for name in ("valence", "arousal")} == {torch.float32}
    for name, value in model.losses(given).items():
        assert abs(losses[name] - value) < 0.1


def test_without_norms_ratings_are_needed() -> None:
    model = JCA(WIDTH, CLASSES, SLOTS, length=LENGTH)
    with pytest.raises(InputError, match="norms: None, and the windows have no ratings"):
        model.losses(batch())
    assert set(model.losses(rated(over_time=True))) == {"emotion", "valence", "arousal"}


@pytest.mark.parametrize("settings", [{}, {"recursion": 2, "gated": True}])
def test_it_learns_what_neither_modality_tells_alone(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    norms = [(-0.5, 0.1), (0.5, 0.6)]
    model = JCA(4, 2, 10, length=2, inner=8, maps=8, dropout=0.0, norms=norms, **settings)
    signs = torch.randint(2, (2, 256), generator=random) * 2.0 - 1.0
    faces, voices = (
        sign[:, None, None] * torch.tensor([1.0, -1.0, 0.5, 1.0])
        + 0.3 * torch.randn(256, 10, 4, generator=random)
        for sign in signs
    )
    ones, truth = torch.ones(256, 10), (signs[0] * signs[1] > 0).long()
    given = Windows(faces, ones, voices, ones, F.one_hot(truth, 2).float())
    adam = train.optimiser(model, train.Schedule(1, rate=0.02))
    for _ in range(60):
        adam.zero_grad()
        torch.stack(list(model.losses(given).values())).sum().backward()
        adam.step()
    model.eval()
    assert (said(model, (faces, ones, voices, ones))["logits"].argmax(1) == truth).float().mean() > 0.95
    assert model.losses(given)["valence"].item() < 0.1


# Evaluation


@pytest.mark.parametrize("length", [1, 3, 50])
@pytest.mark.parametrize("shape", [(20,), (20, 2)])
def test_causal_mean_equals_the_mean_of_the_last(length: int, shape: tuple[int, ...]) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    smooth = causal_mean(values, length)
    for end in range(1, len(values) + 1):
        expected = values[max(0, end - length) : end].mean(0)
        torch.testing.assert_close(smooth[end - 1], expected, atol=1e-6, rtol=1e-5)
        assert torch.equal(causal_mean(values[:end], length), smooth[:end])


def test_causal_mean_of_no_values_is_refused() -> None:
    with pytest.raises(InputError, match="length: 0; it should be 1 or more"):
        causal_mean(torch.zeros(3), 0)


def test_agreement_counts_rated_frames_alone() -> None:
    random = torch.Generator().manual_seed(0)
    truth = torch.randn(200, 2, generator=random) * 0.3
    guess = 0.6 * truth + 0.2 * torch.randn(200, 2, generator=random)
    found = agreement(guess, truth, torch.ones(200))
    for place, name in enumerate(("ccc_valence", "ccc_arousal")):
        x, y = guess[:, place].double().numpy(), truth[:, place].double().numpy()
        ccc = 2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
        assert found[name] == pytest.approx(ccc, abs=1e-5)
    # Frames without a rating, filled as they are in annotations or left empty, are not right answers.
    for filled in (-5.0, 0.0, float("nan")):
        more = torch.cat([truth, torch.full((100, 2), filled)])
        valid = (torch.arange(300) < 200).float()
        assert agreement(torch.cat([guess, torch.zeros(100, 2)]), more, valid) == found
    nothing = agreement(guess, torch.zeros_like(truth), torch.ones(200))
    assert all(math.isnan(value) for value in nothing.values())
    assert all(math.isnan(value) for value in agreement(guess, truth, torch.zeros(200)).values())


# Export

NAMES = ["face_tokens", "face_mask", "voice_tokens", "voice_mask"]
OUTPUTS = ["logits", "valence_arousal", "face_logits", "voice_logits"]
OPERATORS = {
    *("Add", "Clip", "Concat", "Div", "Gemm", "MatMul", "Mul", "ReduceMax", "ReduceSum", "Relu", "Reshape"),
    *("Slice", "Softmax", "Split", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze"),
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("plain", "gated")]


@pytest.mark.parametrize("variant", ["joint", *SLOW])
def test_exported_graph_says_what_the_module_says(
    variant: str, trained: Callable[..., JCA], tmp_path: Path
) -> None:
    answers = Answers(trained(**VARIANTS[variant]), (1.5, 0.8, 1.25), TABLE).eval()
    path = tmp_path / "fusion.onnx"
    given = dict(zip(NAMES, window(3, voices=1), strict=True))
    to_onnx.write(answers, given, OUTPUTS, path, ("face_tokens", "face_mask", "voice_mask"))
    graph = onnx.load(path)
    assert [str(finding) for finding in lint(graph)] == []
    assert {node.op_type for node in graph.graph.node} <= OPERATORS
    assert not [item.name for item in graph.graph.initializer if "ccc" in item.name or "norms" in item.name]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for rows in (1, 2, 7):
        first, first_mask, second, second_mask = window(rows, voices=1, seed=rows)
        if rows == 7:
            first_mask[0], second_mask[1], first_mask[2], second_mask[2] = 0.0, 0.0, 0.0, 0.0
        shown = (first, first_mask, second, second_mask)
        with torch.no_grad():
            expected = answers(*shown)
        found = session.run(None, {name: value.numpy() for name, value in zip(NAMES, shown, strict=True)})
        for value, reference, name in zip(found, expected, OUTPUTS, strict=True):
            np.testing.assert_allclose(value, reference.numpy(), atol=1e-4, err_msg=name)
        np.testing.assert_array_equal(found[1].shape, (rows, 2))
