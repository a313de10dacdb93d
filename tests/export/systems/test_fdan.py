"""FDAN: its attention, its masks, what its losses need, its export, and its published defects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from edgeemo_calibration import lint
from edgeemo_export import to_onnx
from edgeemo_export.alignment import LMMD, Side, ramp
from edgeemo_export.encoders.resnet import Backbone
from edgeemo_export.systems.fdan import FDAN, ClassAttention, Network
from edgeemo_export.systems.fusion import Answers, Windows
from edgeemo_export.train import Schedule, optimiser

WIDTH, SLOTS, CLASSES, ROWS = 16, 6, 4, 5
Enliven = Callable[..., nn.Module]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def new(**settings: float) -> FDAN:
    torch.manual_seed(0)
    return FDAN(WIDTH, CLASSES, inner=8, **settings)  # type: ignore[arg-type]


@pytest.fixture
def fusion(enliven: Enliven) -> FDAN:
    model = new(weight=0.5)
    enliven(model)
    return model


def inputs(rows: int = ROWS, shared: bool = False) -> Inputs:
    """Tokens and masks; some token of each modality counts in every row."""
    random = torch.Generator().manual_seed(rows)
    masks = (torch.rand(2, rows, SLOTS, generator=random) < 0.6).float()
    masks[:, :, -1] = 1.0
    masks[:, :, 0] = 0.0
    tokens = torch.randn(2, rows, SLOTS, WIDTH, generator=random).relu()
    return tokens[0], masks[0], tokens[1, :1] if shared else tokens[1], masks[1]


def windows(rows: int = 12) -> Windows:
    labels = torch.eye(CLASSES)[torch.arange(rows) % CLASSES]
    return Windows(*inputs(rows), labels)


def without(given: Inputs, *places: int) -> Inputs:
    one, other = (
        torch.zeros_like(mask) if place in places else mask for place, mask in enumerate((given[1], given[3]))
    )
    return given[0], one, given[2], other


# The attention


def test_attention_is_that_of_the_class_token_and_the_other_tokens(enliven: Enliven) -> None:
    """The same as torch's attention over [class token; tokens that count], after the norm."""
    attention = enliven(ClassAttention(WIDTH, heads=2, inner=8))
    assert isinstance(attention, ClassAttention)
    nn.init.normal_(attention.enter.weight, generator=torch.Generator().manual_seed(5))
    tokens, mask, asking = *inputs()[:2], inputs()[2][:, 0]
    with torch.no_grad():
        found = attention(asking, tokens, mask)
        for row in range(ROWS):
            q = attention.enter(asking[row])
            known = attention.norm(torch.stack([q, *tokens[row, mask[row] > 0]]))
            heads = []
            for part in (slice(0, 4), slice(4, 8)):
                query = attention.query(known[:1])[:, part]
                key, value = attention.key(known)[:, part], attention.value(known)[:, part]
                heads.append(torch.softmax(query @ key.T / 2.0, dim=1) @ value)  # of width 4
            expected = attention.leave(q + attention.out(torch.cat(heads, dim=1))[0])
            torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)


def test_a_new_attention_changes_little() -> None:
    torch.manual_seed(0)
    tokens, mask, asking, _ = inputs()
    with torch.no_grad():
        found = ClassAttention(WIDTH)(asking[:, 0], tokens, mask)
    assert not torch.equal(found, asking[:, 0])
    torch.testing.assert_close(found, asking[:, 0], rtol=0, atol=0.1)


# Masks


@torch.no_grad()
@pytest.mark.parametrize("held", [-5.0, 300.0])
def test_masked_slots_have_no_influence(fusion: FDAN, held: float) -> None:
    given = inputs()
    first, second = (
        torch.where(mask[..., None] > 0, tokens, held) for tokens, mask in (given[:2], given[2:])
    )
    torch.testing.assert_close(fusion(first, given[1], second, given[3]), fusion(*given))


@torch.no_grad()
@pytest.mark.parametrize("place", [0, 1])
def test_a_modality_counts_and_can_be_absent(fusion: FDAN, place: int) -> None:
    given = inputs()
    whole, alone = fusion(*given), fusion(*without(given, place))
    assert (whole - alone).abs().max() > 1e-2
    classes = fusion.class_tokens(*given)
    torch.testing.assert_close(alone, fusion.classify(classes[1 - place]))  # as published: no attention
    assert not fusion(*without(given, 0, 1)).any()
    # The other may be anything, then.
    changed = list(without(given, place))
    changed[2 * place] = torch.full_like(given[2 * place], 100.0)
    torch.testing.assert_close(fusion(*changed), alone)


@torch.no_grad()
def test_each_modality_looks_at_the_others_tokens(fusion: FDAN) -> None:
    """Beyond the mean of what each says alone."""
    given = inputs()
    apart = 0.5 * (fusion(*without(given, 0)) + fusion(*without(given, 1)))
    assert (fusion(*given) - apart).abs().max() > 1e-2
    for attention in (fusion.to_first, fusion.to_second):
        kept = attention.value.weight.clone()
        before = fusion(*given)
        attention.value.weight.zero_()
        assert (fusion(*given) - before).abs().max() > 1e-3
        attention.value.weight.copy_(kept)


@torch.no_grad()
def test_one_row_of_tokens_serves_all(fusion: FDAN) -> None:
    given = inputs(shared=True)
    repeated = given[0], given[1], given[2].expand(ROWS, -1, -1), given[3]
    torch.testing.assert_close(fusion(*given), fusion(*repeated))


# The defects of the released code


@torch.no_grad()
def test_permuting_the_batch_permutes_the_answers(fusion: FDAN) -> None:
    given, order = inputs(), torch.tensor([2, 0, 4, 3, 1])
    whole = fusion(*given)
    assert (whole[0] - whole[1]).abs().max() > 1e-3
    torch.testing.assert_close(fusion(*(x[order] for x in given)), whole[order])
    torch.testing.assert_close(fusion(*(x[:1] for x in given)), whole[:1])


def test_every_parameter_is_optimised_and_gets_a_gradient(enliven: Enliven) -> None:
    network = Network(Backbone(width=WIDTH), new())
    enliven(network).train()
    grouped = {id(p) for group in optimiser(network, Schedule(1)).param_groups for p in group["params"]}
    faces = network.backbone.face(torch.randint(256, (12, 48, 48, 1), dtype=torch.uint8))
    voices = network.backbone.voice(0.1 * torch.randn(12, 16000))
    face, voice = network.backbone.tokens(torch.cat([faces, voices])).unflatten(0, (2, 6, 2))
    masks = torch.ones(6, 2)
    labels = torch.eye(CLASSES)[torch.arange(6) % 3]
    parts = network.fusion.losses(Windows(face, masks, voice, masks, labels))
    torch.stack(list(parts.values())).sum().backward()
    for name, parameter in network.named_parameters():
        assert id(parameter) in grouped, name
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


@torch.no_grad()
def test_a_picture_is_classified_without_a_label_or_the_other_modality(enliven: Enliven) -> None:
    network = Network(Backbone(width=WIDTH), new())
    enliven(network)
    crops = torch.randint(256, (3, 48, 48, 1), dtype=torch.uint8)
    logits = network(network.backbone.face(crops))
    tokens, one = network.backbone.encoders()["face"](crops)[:, None], torch.ones(3, 1)
    nothing, none = torch.zeros(1, 1, WIDTH), torch.zeros(3, 1)
    torch.testing.assert_close(network.fusion(tokens, one, nothing, none), logits)


# The losses


def test_parts_of_the_loss(fusion: FDAN) -> None:
    given = windows()
    with torch.no_grad():
        found = fusion.losses(given)
        sides = [
            Side(tokens, given.labels)
            for tokens in fusion.class_tokens(given.first, given.first_mask, given.second, given.second_mask)
        ]
    assert found.keys() == {"emotion", "alone", "lmmd"}
    assert float(found["lmmd"]) == pytest.approx(0.5 * float(LMMD()(*sides)), rel=1e-4)
    assert float(found["lmmd"]) > 0.01


@torch.no_grad()
def test_lmmd_fades_in_and_its_weight_counts(fusion: FDAN) -> None:
    given = windows()
    full = float(fusion.losses(given)["lmmd"])
    for progress in (0.0, 0.1, 1.0):
        fusion.advance(progress)
        assert float(fusion.losses(given)["lmmd"]) == pytest.approx(ramp(progress) * full)
    fusion.weight = 0.0
    assert fusion.losses(given).keys() == {"emotion", "alone"}


def test_lmmd_draws_the_classes_of_both_modalities_together() -> None:
    """Tokens of the two lie apart: with LMMD they come together, without it they need not."""
    distances = {}
    for weight in (0.0, 2.0):
        model, given = new(weight=weight), windows()
        face = nn.Linear(WIDTH, WIDTH)
        with torch.no_grad():
            face.weight.copy_(torch.eye(WIDTH))
            face.bias.fill_(2.0)
        steps = torch.optim.Adam([*model.parameters(), *face.parameters()], lr=0.02)
        for _ in range(40):
            steps.zero_grad()
            moved = Windows(face(given.first), *list(vars(given).values())[1:])
            torch.stack(list(model.losses(moved).values())).sum().backward()
            steps.step()
        with torch.no_grad():
            first, second = model.class_tokens(
                face(given.first), given.first_mask, given.second, given.second_mask
            )
            distances[weight] = float(LMMD()(Side(first, given.labels), Side(second, given.labels)))
    assert distances[2.0] < 0.5 * distances[0.0]


@torch.no_grad()
def test_a_missing_modality_has_no_loss_of_its_own(fusion: FDAN) -> None:
    """Whatever its tokens hold."""
    given = windows()
    found = []
    for held in (0.0, 50.0):
        second = torch.full_like(given.second, held)
        none = torch.zeros_like(given.second_mask)
        found.append(fusion.losses(Windows(given.first, given.first_mask, second, none, given.labels)))
    for name, value in found[0].items():
        assert value.isfinite() and float(found[1][name]) == pytest.approx(float(value)), name
    assert float(found[0]["lmmd"]) == 0.0


# Export


def write(fusion: FDAN, path: Path) -> onnx.ModelProto:
    names = ["logits", "valence_arousal", "first_logits", "second_logits"]
    answers = Answers(fusion, (1.5, 0.8, 1.2), [(0.5, 0.1)] * CLASSES).eval()
    given = inputs(3, shared=True)
    given[3][1], given[1][2] = 0.0, 0.0  # one row without a voice, one without a face
    keys = ("face_tokens", "face_mask", "voice_tokens", "voice_mask")
    batched = ("face_tokens", "face_mask", "voice_mask")
    to_onnx.write(answers, dict(zip(keys, given, strict=True)), names, path, batched)
    return onnx.load(path)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> tuple[FDAN, Path]:
    fusion = new(weight=0.5)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    path = tmp_path_factory.mktemp("fdan") / "fusion.fp32.onnx"
    write(fusion, path)  # compares what it writes with the module
    return fusion, path


def test_the_graph_is_for_tensorrt_and_repeats_nothing(graph: tuple[FDAN, Path]) -> None:
    model = onnx.load(graph[1])
    assert lint(model) == []
    # Nor is there any of LMMD, whose kernels are exponentials.
    assert not {node.op_type for node in model.graph.node} & {"Shape", "Expand", "Tile", "Exp"}
    inputs = {item.name: [d.dim_param or d.dim_value for d in item.type.tensor_type.shape.dim]
              for item in model.graph.input}  # fmt: skip
    assert inputs["voice_tokens"] == [1, SLOTS, WIDTH] and inputs["face_tokens"] == ["N", SLOTS, WIDTH]


@pytest.mark.slow
def test_the_graph_is_the_same_without_lmmd(graph: tuple[FDAN, Path], tmp_path: Path) -> None:
    fusion, path = graph
    fusion.weight = 0.0
    write(fusion, tmp_path / "without.onnx")
    assert (tmp_path / "without.onnx").read_bytes() == path.read_bytes()
