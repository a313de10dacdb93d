from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeemo_calibration import lint
from edgeemo_export import to_onnx
from edgeemo_export.data.labels import LABELS, NORMS
from edgeemo_export.encoders.face import FaceEncoder
from edgeemo_export.encoders.fold import fold_batch_norms
from edgeemo_export.encoders.residual import Size, stem, trunk
from edgeemo_export.encoders.voice import AttentivePool, LogMel, VoiceEncoder
from edgeemo_export.systems.attention import AttentionFusion

SLOTS, WIDTH = 5, 8
Enliven = Callable[..., nn.Module]
Written = tuple[nn.Module, Path, Callable[[int], dict[str, Tensor]]]


class TinyEncoder(nn.Module):
    """The form of an encoder in small: a front end, a trunk, a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = stem(4, 1)
        self.trunk = trunk(Size((4, 4, 8), (1, 1)), [2, 2])
        self.project = nn.Linear(8, WIDTH)

    def forward(self, face: Tensor) -> Tensor:
        x = face.float().permute(0, 3, 1, 2) / 255.0
        return self.project(self.trunk(self.stem(x)).mean(dim=(2, 3))).relu()  # type: ignore[no-any-return]


def crops(rows: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(rows)
    return {"face": torch.randint(0, 256, (rows, 12, 12, 1), generator=random, dtype=torch.uint8)}


def windows(rows: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(rows)
    masks = torch.rand(2, rows, SLOTS, generator=random).round()
    masks[0, -1], masks[1, 0] = 0.0, 0.0
    tokens = torch.rand(rows + 1, SLOTS, WIDTH, generator=random)
    return {
        "face_tokens": tokens[1:], "face_mask": masks[0], "voice_tokens": tokens[:1], "voice_mask": masks[1],
    }  # fmt: skip


def second(rows: int) -> dict[str, Tensor]:
    return {"voice": 0.1 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))}


def run(path: Path, inputs: dict[str, Tensor]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


def _seeded(module: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random) * 0.2)
    return module.eval()


@pytest.fixture(scope="module")
def face(folder: Path) -> Written:
    module = fold_batch_norms(_seeded(TinyEncoder()))
    to_onnx.write(module, crops(3), ["tokens"], folder / "face.onnx", batched=("face",))
    return module, folder / "face.onnx", crops


@pytest.fixture(scope="module")
def fusion(folder: Path) -> Written:
    norms = [NORMS[name] for name in LABELS]
    module = _seeded(AttentionFusion(WIDTH, len(LABELS), norms, inner=4, heads=2))
    names = ["logits", "valence_arousal", "face_logits", "voice_logits"]
    batched = ("face_tokens", "face_mask", "voice_mask")
    to_onnx.write(module, windows(3), names, folder / "fusion.onnx", batched=batched)
    return module, folder / "fusion.onnx", windows


@pytest.fixture(scope="module")
def voice(folder: Path) -> Written:
    """The front end and the pool, over the bands."""
    module = nn.Sequential(LogMel(), nn.Flatten(0, 1), nn.Linear(16, WIDTH), AttentivePool(WIDTH))
    module = _seeded(module)
    to_onnx.write(module, second(1), ["tokens"], folder / "voice.onnx")
    return module, folder / "voice.onnx", second


@pytest.fixture(params=["face", "voice", "fusion"])
def written(request: pytest.FixtureRequest) -> Written:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def test_versions(written: Written) -> None:
    model = onnx.load(written[1])
    assert [item.version for item in model.opset_import if item.domain in ("", "ai.onnx")] == [18]
    assert model.ir_version <= 10
    assert not model.functions


def test_tensorrt_takes_what_is_written(written: Written) -> None:
    assert lint(onnx.load(written[1])) == []


def test_the_voice_is_broadcast_without_shape_arithmetic(fusion: Written) -> None:
    kinds = {node.op_type for node in onnx.load(fusion[1]).graph.node}
    assert not kinds & {"Shape", "Expand", "Tile"}


def test_inputs_and_outputs(face: Written, fusion: Written, voice: Written) -> None:
    def shapes(path: Path) -> dict[str, list[Any]]:
        graph = onnx.load(path).graph
        return {
            item.name: [d.dim_param or d.dim_value for d in item.type.tensor_type.shape.dim]
            for item in (*graph.input, *graph.output)
        }

    assert shapes(face[1]) == {"face": ["N", 12, 12, 1], "tokens": ["N", WIDTH]}
    assert shapes(voice[1]) == {"voice": [1, 4000], "tokens": [1, 2 * WIDTH]}
    assert shapes(fusion[1]) == {
        "face_tokens": ["N", SLOTS, WIDTH],
        "face_mask": ["N", SLOTS],
        "voice_tokens": [1, SLOTS, WIDTH],
        "voice_mask": ["N", SLOTS],
        "logits": ["N", 7],
        "valence_arousal": ["N", 2],
        "face_logits": ["N", 7],
        "voice_logits": ["N", 7],
    }


def test_nothing_of_the_machine_is_left(written: Written) -> None:
    model = onnx.load(written[1])
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        assert not item.metadata_props and not item.doc_string
    assert not graph.value_info
    assert (model.producer_name, model.producer_version) == ("edgeemo", "")
    # Texts are looked for outside of the weights, whose bytes may spell anything.
    for tensor in graph.initializer:
        tensor.ClearField("raw_data")
    text = model.SerializeToString()
    for trace in (rb"\.py\b", rb"/(home|root|tmp|work|usr)\b", rb"(?i)torch", rb"edgeemo_export"):
        assert not re.search(trace, text), trace


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("name", ["face", "fusion"])
def test_graph_equals_the_module_for_any_number_of_rows(
    request: pytest.FixtureRequest, name: str, rows: int
) -> None:
    module, path, inputs = request.getfixturevalue(name)
    given = inputs(rows)
    with torch.no_grad():
        expected = module(*given.values())
    found = run(path, given)
    for value, reference in zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True):
        assert len(value) == rows
        np.testing.assert_allclose(value, reference.numpy(), atol=1e-4)


def test_initialisers_keep_the_names_of_the_trunk(face: Written) -> None:
    module, path, _ = face
    weights = {
        name: value.detach().numpy() for name, value in module.named_parameters() if name.startswith("trunk.")
    }
    graph = onnx.load(path).graph
    initialisers = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    for name, value in weights.items():
        np.testing.assert_array_equal(initialisers[name], value)
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 7  # the stem, and two blocks of two and a skip
    assert [node.input[1].split(".")[0] for node in convolutions] == ["stem", *6 * ["trunk"]]


def test_module_is_written_in_evaluation_mode(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.9)).train()
    to_onnx.write(module, {"x": torch.ones(2, 4)}, ["y"], tmp_path / "net.onnx", batched=("x",))
    assert not module.training
    assert "Dropout" not in {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}


def hand_made(*factors: float, opset: int = 18, ir: int = 10, functions: int = 0) -> onnx.ModelProto:
    """What an exporter might write for products of x, with notes about itself."""
    note = "/somewhere/net.py"
    values = [onnx.helper.make_tensor_value_info(f"y{i}", 1, [2]) for i in range(len(factors))]
    nodes = [onnx.helper.make_node("Mul", ["x", f"f{i}"], [f"y{i}"]) for i in range(len(factors))]
    weights = [onnx.numpy_helper.from_array(np.float32(f), f"f{i}") for i, f in enumerate(factors)]
    x = onnx.helper.make_tensor_value_info("x", 1, [2])
    graph = onnx.helper.make_graph(nodes, "net", [x], values, weights)
    opsets = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=ir, producer_name="pytorch")
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        item.doc_string = note
        item.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=note)
    for i in range(functions):
        model.functions.append(onnx.helper.make_function("mine", f"f{i}", ["x"], ["y"], [nodes[0]], opsets))
    return model


class Products(nn.Module):
    def __init__(self, *factors: float) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(x * factor for factor in self.factors)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Module, onnx.ModelProto], Path]:
    """Writes a module with an exporter that gives the graph it is told to."""

    def write(module: nn.Module, model: onnx.ModelProto) -> Path:
        program = SimpleNamespace(model_proto=model)
        monkeypatch.setattr(torch.onnx, "export", lambda *given, **options: program)
        names = [item.name for item in model.graph.output]
        to_onnx.write(module, {"x": torch.tensor([-1.0, 0.5])}, names, tmp_path / "net.onnx")
        return tmp_path / "net.onnx"

    return write


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ((2.0, 3.0), None),
        ((2.0, 3.00005), None),  # rounding
        ((2.001, 3.0), "output 'y0' differs from the module by 0.001; at most 0.0001 is right"),
        ((2.0, 4.0), "output 'y1' differs from the module by 1;"),
        ((float("nan"), 3.0), "output 'y0' differs from the module by nan;"),
    ],
)
def test_graph_that_differs_is_refused(
    write: Callable[..., Path], factors: tuple[float, ...], message: str | None
) -> None:
    module, model = Products(2.0, 3.0), hand_made(*factors)
    if message is None:
        assert write(module, model).is_file()
    else:
        with pytest.raises(to_onnx.ExportError, match=rf"net\.onnx: {re.escape(message)}"):
            write(module, model)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (hand_made(2.0, opset=20), "opset .*20.* should have opset 17 or 18"),
        (hand_made(2.0, opset=16), "opset .*16.* should have opset 17 or 18"),
        (hand_made(2.0, functions=1), "1 functions"),
    ],
    ids=["newer opset", "older opset", "function"],
)
def test_what_a_bundle_may_not_hold_is_refused(
    write: Callable[..., Path], model: onnx.ModelProto, message: str, tmp_path: Path
) -> None:
    with pytest.raises(to_onnx.ExportError, match=message):
        write(Products(2.0), model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("opset", "ir"), [(17, 8), (18, 10), (18, 11)])
def test_notes_are_dropped_and_the_ir_is_lowered(write: Callable[..., Path], opset: int, ir: int) -> None:
    model = hand_made(2.0, opset=opset, ir=ir)
    assert model.SerializeToString().count(b"somewhere") == 12
    written = write(Products(2.0), model).read_bytes()
    assert onnx.load_model_from_string(written).ir_version == min(ir, 10)
    assert b"somewhere" not in written and b"torch" not in written


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "name", "shape", "convolutions"),
    [(FaceEncoder, "face", (3, 48, 48, 1), 13), (VoiceEncoder, "voice", (1, 16000), 10)],
)
def test_encoders_of_the_default_bundle(
    encoder: type[nn.Module],
    name: str,
    shape: tuple[int, ...],
    convolutions: int,
    tmp_path: Path,
    enliven: Enliven,
) -> None:
    module = fold_batch_norms(enliven(encoder()))
    random = torch.Generator().manual_seed(0)
    given = torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
    if name == "voice":
        given = 0.1 * torch.randn(shape, generator=random)
    path = tmp_path / "net.onnx"
    to_onnx.write(module, {name: given}, ["tokens"], path, batched=("face",) if name == "face" else ())
    nodes = onnx.load(path).graph.node
    inside = [n for n in nodes if n.op_type == "Conv" and n.input[1].startswith("trunk.")]
    assert len(inside) == convolutions
    assert not any(node.op_type in ("BatchNormalization", "STFT", "DFT") for node in nodes)
