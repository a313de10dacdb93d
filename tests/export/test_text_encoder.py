from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgeemo_calibration import lint
from edgeemo_export import to_onnx
from edgeemo_export.encoders.text import PAD, TextEncoder, counting

PIECES, WIDTH, LENGTH = 30, 16, 9


@pytest.fixture
def encoder(enliven: Callable[..., nn.Module]) -> TextEncoder:
    made = enliven(TextEncoder(PIECES, WIDTH, LENGTH, layers=2, heads=4))
    assert isinstance(made, TextEncoder)
    return made


def ids(*rows: list[int]) -> Tensor:
    return torch.tensor([[*row, *[PAD] * (LENGTH - len(row))] for row in rows], dtype=torch.int32)


def test_shapes(encoder: TextEncoder) -> None:
    assert encoder(ids([2, 7, 3])).shape == (LENGTH, WIDTH)
    assert encoder.encode(ids([2, 7, 3], [2, 3])).shape == (2, LENGTH, WIDTH)
    assert counting(ids([2, 29, 3])).tolist() == [[1, 1, 1, 0, 0, 0, 0, 0, 0]]


@torch.no_grad()
def test_nobody_looks_at_padding(encoder: TextEncoder) -> None:
    long = TextEncoder(PIECES, WIDTH, LENGTH + 4, layers=2, heads=4).eval()
    state = {**encoder.state_dict(), "places": torch.cat([encoder.places, torch.randn(4, WIDTH)])}
    long.load_state_dict(state)
    text = ids([2, 7, 11, 3])
    padded = torch.cat([text, torch.zeros(1, 4, dtype=torch.int32)], dim=1)
    torch.testing.assert_close(long(padded)[:4], encoder(text)[:4])
    before = encoder(text)
    encoder.pieces.weight[PAD] += 5.0
    torch.testing.assert_close(encoder(text)[:4], before[:4])


@torch.no_grad()
def test_every_piece_and_its_place_have_influence(encoder: TextEncoder) -> None:
    text = [2, 7, 11, 3]
    before = encoder(ids(text))[:4]
    for place in range(4):
        other = encoder(ids([*text[:place], 20, *text[place + 1 :]]))[:4]
        assert (other - before).abs().amax(dim=1).min() > 1e-3  # in every token: all look at all
    swapped = encoder(ids([2, 11, 7, 3]))[:4]
    assert (swapped[[0, 2, 1, 3]] - before).abs().max() > 1e-3


@torch.no_grad()
def test_texts_of_a_batch_do_not_know_each_other(encoder: TextEncoder) -> None:
    texts = ids([2, 7, 3], [2, 8, 9, 10, 3], [])
    together = encoder.encode(texts)
    assert together.isfinite().all()
    for row in range(3):
        torch.testing.assert_close(together[row], encoder(texts[row : row + 1]))


def test_every_parameter_has_a_gradient() -> None:
    encoder = TextEncoder(PIECES, WIDTH, LENGTH).train()
    torch.autograd.backward(encoder.encode(ids([2, 7, 3])).square().sum())
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and (name.endswith("key.bias") or parameter.grad.any()), name


def test_graph(encoder: TextEncoder, tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    to_onnx.write(encoder, {"text": ids([2, 7, 8, 3])}, ["tokens"], path)
    model = onnx.load(path)
    (given,), (made,) = model.graph.input, model.graph.output
    assert given.type.tensor_type.elem_type == onnx.TensorProto.INT32
    assert [[d.dim_value for d in x.type.tensor_type.shape.dim] for x in (given, made)] == [
        [1, LENGTH],
        [LENGTH, WIDTH],
    ]
    assert [str(found) for found in lint(model)] == []
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for text in ([2, 3], [], [2, *range(10, 16), 29, 3]):
        (tokens,) = session.run(None, {"text": ids(text).numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(tokens, encoder(ids(text)).numpy(), atol=1e-4)
