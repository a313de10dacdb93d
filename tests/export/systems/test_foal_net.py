from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo.errors import InputError
from edgeemo_calibration.lint import lint
from edgeemo_export import to_onnx
from edgeemo_export.alignment import AVEL, MEM, Side
from edgeemo_export.data.labels import LABELS, NORMS
from edgeemo_export.systems.foal_net import CrossStack, FoalNet, masked_mean
from edgeemo_export.systems.fusion import Answers, Windows
from edgeemo_export.train import Schedule, optimiser

FIRST, SECOND, SLOTS, ROWS, CLASSES = 12, 8, 5, 6, len(LABELS)
TRAINED_ONLY = ("align", "first_project", "second_project", "first_match", "second_match")
Enliven = Callable[..., nn.Module]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def new(**settings: Any) -> FoalNet:
    return FoalNet((FIRST, SECOND), CLASSES, **{"shared": 6, **settings})


@pytest.fixture
def model(enliven: Enliven) -> FoalNet:
    made = enliven(new(), seed=1)
    assert isinstance(made, FoalNet)
    return made


def inputs(rows: int = ROWS, voices: int | None = None) -> Inputs:
    """Of each row some slots are empty, and not the same ones."""
    random = torch.Generator().manual_seed(2)
    masks = [(torch.rand(rows, SLOTS, generator=random) < 0.6).float() for _ in range(2)]
    for mask in masks:
        mask[:, 1], mask[:, 3] = 1.0, 0.0
    first = torch.randn(rows, SLOTS, FIRST, generator=random)
    second = torch.randn(rows if voices is None else voices, SLOTS, SECOND, generator=random)
    return first, masks[0], second, masks[1]


def windows(*labels: int) -> Windows:
    labels = labels or (0, 1, 2, 0, 1, 3)
    return Windows(*inputs(len(labels)), F.one_hot(torch.tensor(labels), CLASSES).float())


def without(given: Inputs, *places: int) -> Inputs:
    first, first_mask, second, second_mask = given
    return (
        first,
        first_mask * (0 not in places),
        second,
        second_mask * (1 not in places),
    )


@torch.no_grad()
def run(model: nn.Module, given: Inputs) -> Tensor:
    logits: Tensor = model(*given)
    return logits


# Answers


def test_logits_of_windows(model: FoalNet) -> None:
    assert run(model, inputs()).shape == (ROWS, CLASSES)


def test_permuting_the_batch_permutes_the_answers(model: FoalNet) -> None:
    given, order = inputs(), torch.tensor([3, 1, 5, 0, 2, 4])
    moved = tuple(value[order] for value in given)
    torch.testing.assert_close(run(model, moved), run(model, given)[order])  # type: ignore[arg-type]


def test_a_batch_equals_single_calls(model: FoalNet) -> None:
    given = inputs()
    single = [run(model, tuple(value[[row]] for value in given)) for row in range(ROWS)]  # type: ignore[arg-type]
    torch.testing.assert_close(run(model, given), torch.cat(single), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("place", [0, 1])
def test_zeroing_or_masking_a_modality_changes_the_answer(model: FoalNet, place: int) -> None:
    given = inputs()
    zeroed = list(given)
    zeroed[2 * place] = torch.zeros_like(given[2 * place])
    whole = run(model, given)
    for changed in (tuple(zeroed), without(given, place)):
        assert ((run(model, changed) - whole).abs().amax(dim=1) > 1e-2).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("places", [(0,), (1,), (0, 1)])
def test_what_is_masked_has_no_influence(model: FoalNet, places: tuple[int, ...]) -> None:
    given = without(inputs(), *places)
    filled = tuple(
        torch.where(given[place + 1][..., None] > 0, given[place], 50.0 * draw(*given[place].shape, seed=9))
        for place in (0, 2)
    )
    found = run(model, (filled[0], given[1], filled[1], given[3]))
    assert found.isfinite().all()
    torch.testing.assert_close(found, run(model, given))


def test_without_the_other_modality_the_tokens_themselves_are_left(model: FoalNet) -> None:
    given = without(inputs(), 1)
    with torch.no_grad():
        first, second = model.pooled(*given)
        expected = given[0]
        for layer in model.first_asks.layers:
            expected = layer.norm(expected + layer.out.bias)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(first, masked_mean(expected, given[1]))
    assert not second.any()


@pytest.mark.parametrize("places", [(), (0,), (1,)])
def test_one_shared_row_equals_the_row_repeated(model: FoalNet, places: tuple[int, ...]) -> None:
    first, first_mask, second, second_mask = without(inputs(voices=1), *places)
    repeated = (first, first_mask, second.expand(ROWS, -1, -1), second_mask)
    torch.testing.assert_close(run(model, (first, first_mask, second, second_mask)), run(model, repeated))


def test_each_layer_asks_the_raw_tokens_of_the_other(enliven: Enliven) -> None:
    stack = enliven(CrossStack(FIRST, SECOND, layers=2, heads=2))
    asking, asked, mask = draw(2, SLOTS, FIRST), draw(2, 3, SECOND, seed=1), torch.ones(2, 3)
    assert isinstance(stack, CrossStack)
    with torch.no_grad():
        once = stack.layers[0](asking, asked, mask)
        torch.testing.assert_close(stack(asking, asked, mask), stack.layers[1](once, asked, mask))


def test_sizes_are_the_published_ones() -> None:
    def size(*parts: nn.Module) -> int:
        return sum(value.numel() for part in parts for value in part.parameters())

    # Faces of 768 and voices of 1024, as CLIP-large and WavLM-Large give them.
    model = FoalNet((768, 1024), 4, shared=512)
    assert size(model.second_asks) == 7_352_320
    assert size(model.first_asks) == 5_514_240
    assert size(model.head) == 7_172
    assert (size(model.second_project), size(model.first_project)) == (787_456, 656_384)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"avel": -1.0}, "AVEL is weighted by -1.0 and MEM by 0.1; 0 or more is right"),
        ({"mem": -0.5}, "AVEL is weighted by 1.0 and MEM by -0.5; 0 or more is right"),
        ({"heads": 3}, "3 heads do not divide the widths 12 and 8"),
        ({"heads": 6}, "6 heads do not divide the widths 12 and 8"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        new(**settings)


# Losses


def test_the_weighted_losses_by_name(model: FoalNet) -> None:
    losses = model.losses(windows())
    assert list(losses) == ["emotion", "avel", "mem"]
    assert all(value.isfinite() and value > 0 for value in losses.values())
    model.weights = {"avel": 3.0, "mem": 0.5}
    heavier = model.losses(windows())
    for name, factor in (("emotion", 1.0), ("avel", 3.0), ("mem", 5.0)):
        torch.testing.assert_close(heavier[name], factor * losses[name], msg=name)


def test_avel_is_that_of_the_projected_means(model: FoalNet) -> None:
    given = windows()
    ends = [
        project((tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        for project, tokens, mask in (
            (model.first_project, given.first, given.first_mask),
            (model.second_project, given.second, given.second_mask),
        )
    ]
    avel = AVEL()
    avel.load_state_dict(model.align.state_dict())
    expected = avel(Side(ends[0], given.labels), Side(ends[1], given.labels))
    torch.testing.assert_close(model.losses(given)["avel"], expected)


def test_mem_equals_the_matching_of_whole_samples(model: FoalNet) -> None:
    """The same loss by [MEM][] over the projected means, which tell its matcher whose tokens to fuse."""
    given = windows()
    first = model.first_project(masked_mean(given.first, given.first_mask))
    second = model.second_project(masked_mean(given.second, given.second_mask))

    def matcher(a: Tensor, b: Tensor) -> Tensor:
        of_a = (a[:, None] == first[None]).all(2).float().argmax(1)
        of_b = (b[:, None] == second[None]).all(2).float().argmax(1)
        pooled = model.pooled(
            given.first[of_a], given.first_mask[of_a], given.second[of_b], given.second_mask[of_b]
        )
        return torch.stack([model.first_match(pooled[0])[:, 0], model.second_match(pooled[1])[:, 0]], dim=1)

    expected = MEM(matcher)(Side(first, given.labels), Side(second, given.labels))
    torch.testing.assert_close(model.losses(given)["mem"], 0.1 * expected)


def test_without_avel_a_negative_looks_and_sounds_alike(enliven: Enliven) -> None:
    model = enliven(new(avel=0.0), seed=1)
    assert isinstance(model, FoalNet)
    asked: list[Tensor] = []
    given = windows(0, 1, 2)
    # The first row is nearly the third, of which it differs by label alone.
    alike = [torch.stack([tokens[2] + 0.01, tokens[1], tokens[2]]) for tokens in (given.first, given.second)]
    mask = torch.ones(3, SLOTS)
    model.second_asks.register_forward_pre_hook(lambda part, read: asked.append(read[0]))
    model.losses(Windows(alike[0], mask, alike[1], mask, given.labels))
    of_second = asked[1]  # in the first call the emotion is asked for
    assert torch.equal(of_second[3], alike[1][2])
    assert torch.equal(of_second[5], alike[1][0])


def test_weights_of_0_leave_the_emotion_loss_alone() -> None:
    given = windows()
    found: dict[tuple[float, float], dict[str, Tensor]] = {}
    for avel, mem in ((1.0, 0.1), (1.0, 0.0), (0.0, 0.1), (0.0, 0.0)):
        torch.manual_seed(5)
        found[avel, mem] = new(avel=avel, mem=mem).eval().losses(given)
    assert {key: list(losses) for key, losses in found.items()} == {
        (1.0, 0.1): ["emotion", "avel", "mem"],
        (1.0, 0.0): ["emotion", "avel"],
        (0.0, 0.1): ["emotion", "mem"],
        (0.0, 0.0): ["emotion"],
    }
    assert len({float(losses["emotion"].detach()) for losses in found.values()}) == 1
    assert not [
        name for name, _ in new(avel=0.0, mem=0.0).named_parameters() if name.startswith(TRAINED_ONLY)
    ]


@pytest.mark.parametrize("settings", [{}, {"avel": 0.0}, {"mem": 0.0}, {"avel": 0.0, "mem": 0.0}])
def test_every_parameter_is_trained_and_in_a_group(settings: dict[str, float]) -> None:
    torch.manual_seed(0)
    model = new(**settings).train()
    torch.stack(list(model.losses(windows()).values())).sum().backward()
    # A bias of the keys moves all scores of a query alike, and no softmax sees it.
    still = [
        name
        for name, value in model.named_parameters()
        if value.grad is None or (not value.grad.any() and not name.endswith("key.bias"))
    ]
    assert still == []
    grouped = {id(value) for group in optimiser(model, Schedule(1)).param_groups for value in group["params"]}
    assert grouped == {id(value) for value in model.parameters()}


@pytest.mark.parametrize("labels", [(2, 2, 2), (1,)])
def test_a_batch_of_one_label_is_finite(model: FoalNet, labels: tuple[int, ...]) -> None:
    losses = model.losses(windows(*labels))
    assert float(losses["mem"].detach()) == 0.0
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())


def test_a_window_without_one_modality_is_in_the_emotion_alone(model: FoalNet) -> None:
    given = windows()
    mask = given.second_mask.clone()
    mask[4] = 0.0
    short = replace(given, second_mask=mask)
    kept = [0, 1, 2, 3, 5]
    rest = Windows(*(getattr(short, name)[kept] for name in Windows.__dataclass_fields__))
    for name in ("avel", "mem"):
        torch.testing.assert_close(model.losses(short)[name], model.losses(rest)[name], msg=name)
    assert not torch.isclose(model.losses(short)["emotion"], model.losses(rest)["emotion"])
    # Nor where all windows lack it.
    nothing = replace(given, second_mask=torch.zeros_like(mask))
    assert all(value.isfinite() for value in model.losses(nothing).values())
    assert (
        float(model.losses(nothing)["avel"].detach()) == float(model.losses(nothing)["mem"].detach()) == 0.0
    )


# Export


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Answers, Path]:
    torch.manual_seed(3)
    model = Answers(new(), (1.5, 0.8, 1.2), [NORMS[name] for name in LABELS])
    first, first_mask, second, second_mask = inputs(3, voices=1)
    second_mask[1], first_mask[2] = 0.0, 0.0
    given = {
        "face_tokens": first,
        "face_mask": first_mask,
        "voice_tokens": second,
        "voice_mask": second_mask,
    }
    path = tmp_path_factory.mktemp("graphs") / "fusion.fp32.onnx"
    names = ["logits", "valence_arousal", "face_logits", "voice_logits"]
    to_onnx.write(model, given, names, path, batched=("face_tokens", "face_mask", "voice_mask"))
    return model, path


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("places", [(), (0,), (1,), (0, 1)])
def test_the_graph_equals_the_module(
    exported: tuple[Answers, Path], rows: int, places: tuple[int, ...]
) -> None:
    model, path = exported
    given = without(inputs(rows, voices=1), *places)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = zip((item.name for item in session.get_inputs()), given, strict=True)
    found = session.run(None, {name: value.numpy() for name, value in feeds})
    with torch.no_grad():
        for value, expected in zip(found, model(*given), strict=True):
            np.testing.assert_allclose(value, expected.numpy(), atol=1e-5)


def test_tensorrt_takes_the_graph(exported: tuple[Answers, Path]) -> None:
    assert lint(onnx.load(exported[1])) == []


def test_the_graph_holds_nothing_that_only_training_needs(exported: tuple[Answers, Path]) -> None:
    model, path = exported
    stored = [onnx.numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer]
    known: dict[bool, list[str]] = {True: [], False: []}
    for name, value in model.fusion.named_parameters():
        weight = value.detach().numpy()
        held = any(
            item.shape == form.shape and np.array_equal(item, form)
            for item in stored
            for form in (weight, weight.T)
        )
        known[held].append(name)
    # Of norms and biases that nothing has trained yet, many hold the same; matrices tell.
    matrices = {held: [name for name in names if name.endswith("weight") and "norm" not in name]
                for held, names in known.items()}  # fmt: skip
    assert matrices[False] and all(name.startswith(TRAINED_ONLY) for name in matrices[False])
    assert not [name for name in matrices[True] if name.startswith(TRAINED_ONLY)]
    names = " ".join(item.name for item in onnx.load(path).graph.initializer)
    assert not [part for part in TRAINED_ONLY if part in names]
