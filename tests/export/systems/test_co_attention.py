from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgeemo_calibration import lint
from edgeemo_export import to_onnx
from edgeemo_export.data.labels import LABELS, NORMS
from edgeemo_export.data.timings import Interval
from edgeemo_export.data.timings import segments as of_timings
from edgeemo_export.encoders.text import TextEncoder
from edgeemo_export.systems.co_attention import (
    STRIDES,
    CoAttention,
    Segmented,
    VoiceAndText,
    segment_means,
    strides,
)
from edgeemo_export.systems.fusion import Answers, Windows
from edgeemo_export.train import Schedule, optimiser

VOICE, TEXT, SLOTS, PIECES, ROWS, CLASSES = 12, 8, 9, 6, 4, len(LABELS)
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def new_fusion(granularities: tuple[str, ...] = tuple(STRIDES)) -> CoAttention:
    return CoAttention(VOICE, TEXT, CLASSES, SLOTS, granularities=granularities, inner=8, heads=2)


@pytest.fixture
def fusion(enliven: Callable[..., nn.Module]) -> CoAttention:
    """A fusion as after training, in which nothing is zero and no two weights are equal."""
    model = enliven(new_fusion(), seed=1)
    assert isinstance(model, CoAttention)
    return model


def window(rows: int = ROWS, shared: bool = False) -> Inputs:
    """Voice tokens in about half of the slots, texts of two pieces and more; masked slots hold noise."""
    random = torch.Generator().manual_seed(3)
    mask = (torch.rand(rows, SLOTS, generator=random) < 0.5).float()
    mask[:, -1], mask[:, 0] = 1.0, 0.0
    pieces = torch.randint(2, PIECES + 1, (rows, 1), generator=random)
    text_mask = (torch.arange(PIECES)[None] < pieces).float()
    count = 1 if shared else rows
    voice = torch.randn(count, SLOTS, VOICE, generator=random).relu()
    return voice, mask, torch.randn(count, PIECES, TEXT, generator=random), text_mask


def labelled(rows: int = ROWS) -> Windows:
    return Windows(*window(rows), nn.functional.one_hot(torch.arange(rows) % CLASSES, CLASSES).float())


def without(given: Inputs, *missing: str) -> Inputs:
    voice, voice_mask, text, text_mask = given
    return (
        voice,
        voice_mask * ("voice" not in missing),
        text,
        text_mask * ("text" not in missing),
    )


# Segments


def test_strides_are_counted_from_the_newest_slot() -> None:
    assert strides(4, 1).equal(torch.eye(4))
    thirds = [[0.5, 0.5, 0, 0, 0], [0, 0, 1 / 3, 1 / 3, 1 / 3]]
    torch.testing.assert_close(strides(5, 3), torch.tensor(thirds))
    torch.testing.assert_close(strides(40, 4), torch.eye(10).repeat_interleave(4, dim=1) / 4)


def test_segment_means_are_those_of_timings() -> None:
    said = [Interval(0.0, 0.3, "kids"), Interval(0.3, 0.4, "are"), Interval(0.5, 0.9, "talking")]
    x = torch.randn(2, SLOTS, 3, generator=torch.Generator().manual_seed(0))
    matrix = of_timings(said, SLOTS, end=0.9)
    matrix = torch.cat([matrix, torch.zeros(2, SLOTS)])  # a row without a segment
    means, counts = segment_means(x, torch.ones(2, SLOTS), matrix[None])
    expected = torch.stack([x[:, :3].mean(1), x[:, 3], x[:, 5:].mean(1)], dim=1)
    torch.testing.assert_close(means[:, :3], expected)
    assert not means[:, 3:].any() and counts.tolist() == [[1, 1, 1, 0, 0]] * 2


def test_segment_means_leave_masked_slots_out() -> None:
    x, mask = torch.arange(6.0).reshape(1, 6, 1), torch.tensor([[1.0, 0, 0, 0, 1, 1], [0, 1, 1, 1, 1, 0]])
    means, counts = segment_means(x, mask, strides(6, 2)[None])  # the rows share the tokens
    assert means[..., 0].tolist() == [[0, 0, 4.5], [1, 2.5, 4]]
    assert counts.tolist() == [[1, 0, 1], [1, 1, 1]]


def test_timings_that_equal_the_strides_give_the_same_answer(fusion: CoAttention) -> None:
    given = window()
    same = {name: strides(SLOTS, STRIDES[name]).expand(ROWS, -1, -1) for name in ("phone", "word")}
    padded = {name: torch.cat([matrix, torch.zeros(ROWS, 3, SLOTS)], dim=1) for name, matrix in same.items()}
    with torch.no_grad():
        before = fusion(*given)
        torch.testing.assert_close(fusion(*given, padded), before)
        torch.testing.assert_close(fusion(*given, {}), before)
        for name in padded:
            other = {**padded, name: strides(SLOTS, 3).expand(ROWS, -1, -1)}
            assert (fusion(*given, other) - before).abs().amax(dim=1).min() > 1e-4


# Answers


def test_answers_are_log_probabilities(fusion: CoAttention) -> None:
    with torch.no_grad():
        terms = fusion.terms(*window())
        made = fusion(*window())
    assert made.shape == (ROWS, CLASSES) and len(terms) == 2 + len(STRIDES)
    for term in terms:
        torch.testing.assert_close(term.exp().sum(dim=1), torch.ones(ROWS))
    weighted = sum(weight * term for weight, term in zip(fusion.weights, terms, strict=True))
    torch.testing.assert_close(made, weighted)


@pytest.mark.parametrize("granularities", [("frame",), ("word", "syllable"), tuple(STRIDES)])
def test_weights_sum_to_one(granularities: tuple[str, ...]) -> None:
    fusion = new_fusion(granularities)
    assert len(fusion.weights) == 2 + len(granularities)
    with torch.no_grad():
        fusion.measures.normal_()
    assert fusion.weights.sum().item() == pytest.approx(1.0) and (fusion.weights > 0).all()


@torch.no_grad()
def test_a_missing_modality_takes_no_part(fusion: CoAttention) -> None:
    given = window()
    both, voice, text = fusion.each(*given)
    torch.testing.assert_close(fusion(*without(given, "text")), voice)
    torch.testing.assert_close(fusion(*without(given, "voice")), text)
    assert not fusion(*without(given, "voice", "text")).any()
    for other in (voice, text):
        assert (both - other).abs().amax(dim=1).min() > 1e-2
    mixed = (given[0], given[1] * torch.tensor([[1.0], [0], [1], [0]]), *given[2:])
    torch.testing.assert_close(
        fusion(*mixed), torch.where(torch.tensor([[1], [0], [1], [0]]) > 0, both, text)
    )
    terms = fusion.terms(*given)
    torch.testing.assert_close(voice, terms[0])
    torch.testing.assert_close(text, terms[1])


@torch.no_grad()
@pytest.mark.parametrize("modality", ["voice", "text"])
def test_zeroing_a_modality_changes_the_answer(fusion: CoAttention, modality: str) -> None:
    given = window()
    voice, voice_mask, text, text_mask = given
    if modality == "voice":
        zeroed = torch.zeros_like(voice), voice_mask, text, text_mask
    else:
        zeroed = voice, voice_mask, torch.zeros_like(text), text_mask
    assert (fusion(*zeroed) - fusion(*given)).abs().amax(dim=1).min() > 1e-3
    # The early fusion alone hears of it too: each branch reads both.
    for before, after in zip(fusion.terms(*given)[2:], fusion.terms(*zeroed)[2:], strict=True):
        assert (after - before).abs().amax(dim=1).min() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("held", [-5.0, 1000.0])
def test_masked_tokens_have_no_influence(fusion: CoAttention, held: float) -> None:
    voice, voice_mask, text, text_mask = window()
    filled = torch.where(voice_mask[..., None] > 0, voice, torch.tensor(held))
    written = torch.where(text_mask[..., None] > 0, text, torch.tensor(-held))
    before = fusion(voice, voice_mask, text, text_mask)
    torch.testing.assert_close(fusion(filled, voice_mask, written, text_mask), before, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_each_token_that_counts_has_influence(fusion: CoAttention) -> None:
    given = window()
    before = fusion(*given)
    for place, mask in ((0, given[1]), (2, given[3])):
        for slot in range(mask.shape[1]):
            changed = list(given)
            changed[place] = given[place].clone()
            changed[place][:, slot] += 1.0
            difference = (fusion(*changed) - before).abs().amax(dim=1)
            assert (difference[mask[:, slot] > 0] > 1e-5).all()


@torch.no_grad()
def test_permuting_rows_permutes_answers(fusion: CoAttention) -> None:
    given, order = window(), [2, 0, 3, 1]
    moved = [value[order] for value in given]
    torch.testing.assert_close(fusion(*moved), fusion(*given)[order])


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3])
def test_shared_tokens_equal_repeated_ones(fusion: CoAttention, rows: int) -> None:
    voice, voice_mask, text, text_mask = window(rows, shared=True)
    repeated = fusion(voice.repeat(rows, 1, 1), voice_mask, text.repeat(rows, 1, 1), text_mask)
    torch.testing.assert_close(fusion(voice, voice_mask, text, text_mask), repeated)


@pytest.mark.parametrize("granularities", [(), ("frame", "sentence")])
def test_unknown_granularities_are_refused(granularities: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="must be some of frame, phone, syllable, word"):
        new_fusion(granularities)


# Training


def test_every_parameter_is_trained() -> None:
    model = VoiceAndText(TextEncoder(20, TEXT, PIECES, heads=2), new_fusion()).train()
    voice, voice_mask, _, text_mask = window()
    ids = (torch.arange(PIECES) + 2).int() * text_mask.int()
    labels = labelled().labels
    torch.autograd.backward([*model.losses(voice, voice_mask, ids, labels, {}).values()])
    grouped = {id(p) for group in optimiser(model, Schedule(1)).param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert id(parameter) in grouped, name
        # What is added to all keys alike leaves the softmax as it is.
        assert parameter.grad is not None and (name.endswith("key.bias") or parameter.grad.any()), name


def test_each_term_is_trained_by_its_own_loss(fusion: CoAttention) -> None:
    parts = fusion.losses(labelled())
    assert parts.keys() == {"emotion", "voice", "text", "early"}
    for part, trained in (
        ("emotion", ("measures",)),
        ("voice", ("voice_pool", "voice_head")),
        ("text", ("text_pool", "text_head")),
        ("early", ("voice_in", "text_in", "branches")),
    ):
        fusion.zero_grad()
        torch.autograd.backward(parts[part], retain_graph=True)
        for name, parameter in fusion.named_parameters():
            assert (parameter.grad is not None) == name.startswith(trained), (part, name)


def test_a_window_without_a_modality_trains_no_term_of_it(fusion: CoAttention) -> None:
    windows = labelled()
    mute = replace(windows, first_mask=windows.first_mask * 0.0)
    parts = fusion.losses(mute)
    assert parts["voice"] == 0 and parts["early"] == 0 and parts["text"] > 0
    torch.testing.assert_close(parts["emotion"], parts["text"])
    nothing = fusion.losses(replace(mute, second_mask=windows.second_mask * 0.0))
    assert not any(nothing.values())
    # Of several windows those with the modality make the mean.
    half = replace(windows, first_mask=windows.first_mask * (torch.arange(ROWS) < 2).float()[:, None])
    kept = Windows(*(value[:2] for value in vars(windows).values()))
    torch.testing.assert_close(fusion.losses(half)["early"], fusion.losses(kept)["early"])


def test_segments_of_windows_reach_the_loss(fusion: CoAttention) -> None:
    windows = labelled()
    word = {"word": strides(SLOTS, 3).expand(ROWS, -1, -1)}
    plain, segmented = fusion.losses(windows), fusion.losses(Segmented(**vars(windows), segments=word))
    assert segmented["early"] != plain["early"] and segmented["voice"] == plain["voice"]


def test_it_learns_what_only_both_know_together() -> None:
    """The label is whether voice and text agree: neither knows it alone."""
    torch.manual_seed(0)
    fusion = CoAttention(4, 4, 2, 4, granularities=("frame",), inner=16, heads=2)
    adam = torch.optim.Adam(fusion.parameters(), 1e-2)
    random = torch.Generator().manual_seed(0)

    def draw(count: int) -> Windows:
        heard, read = torch.randint(2, (2, count), generator=random)
        tokens = [nn.functional.one_hot(x, 4).float()[:, None].repeat(1, 4, 1) for x in (heard, read)]
        labels = nn.functional.one_hot((heard == read).long(), 2).float()
        return Windows(tokens[0], torch.ones(count, 4), tokens[1], torch.ones(count, 4), labels)

    for _ in range(60):
        adam.zero_grad()
        torch.autograd.backward([*fusion.losses(draw(64)).values()])
        adam.step()
    windows = draw(200)
    inputs = windows.first, windows.first_mask, windows.second, windows.second_mask
    both, voice, text = (x.argmax(1) == windows.labels.argmax(1) for x in fusion.eval().each(*inputs))
    assert both.float().mean() > 0.98
    assert voice.float().mean() < 0.7 and text.float().mean() < 0.7


# The graph


NAMES = ("voice_tokens", "voice_mask", "text_tokens", "text_mask")


def assert_graph(module: nn.Module, outputs: list[str], path: Path) -> None:
    """The graph of a module is clean, and right for any number of rows and whatever is missing."""
    given = dict(zip(NAMES, window(3, shared=True), strict=True))
    to_onnx.write(module, given, outputs, path, batched=("voice_mask", "text_mask"))
    assert [str(found) for found in lint(onnx.load(path))] == []
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for rows in (1, 2, 5):
        for missing in ((), ("voice",), ("text",), ("voice", "text")):
            inputs = without(window(rows, shared=True), *missing)
            feeds = {name: value.numpy() for name, value in zip(NAMES, inputs, strict=True)}
            with torch.no_grad():
                expected = module(*inputs)
            expected = expected if isinstance(expected, tuple) else (expected,)
            for found, value in zip(session.run(None, feeds), expected, strict=True):
                np.testing.assert_allclose(found, value.numpy(), atol=1e-4)


def test_graph(enliven: Callable[..., nn.Module], tmp_path: Path) -> None:
    fusion = enliven(new_fusion(("word",)), seed=1)  # each branch more takes seconds
    assert_graph(fusion, ["logits"], tmp_path / "fusion.onnx")


@pytest.mark.slow
def test_graph_of_a_bundle(fusion: CoAttention, tmp_path: Path) -> None:
    answers = Answers(fusion, (1.5, 0.8, 1.2), [NORMS[name] for name in LABELS])
    outputs = ["logits", "valence_arousal", "voice_logits", "text_logits"]
    assert_graph(answers, outputs, tmp_path / "fusion.onnx")


@torch.no_grad()
def test_answers_of_the_bundle_are_those_of_one_pass(fusion: CoAttention) -> None:
    for missing in ((), ("voice",), ("text",)):
        given = without(window(), *missing)
        logits, voice, text = Answers(fusion)(*given)
        for found, expected in zip((logits, voice, text), fusion.each(*given), strict=True):
            torch.testing.assert_close(found, expected)
