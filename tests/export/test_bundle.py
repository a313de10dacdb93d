from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import edgeemo
from edgeemo_calibration import lint, measure
from edgeemo_export import bundle, geometry, to_onnx
from edgeemo_export.data.labels import LABELS, NORMS
from edgeemo_export.encoders.residual import trunk
from edgeemo_export.recipes.default import Trained
from edgeemo_export.systems.attention import AttentionFusion

WIDTH = 8


class Encoder(nn.Module):
    """An encoder in small, of pictures or, folded into rows, of sound."""

    def __init__(self, pixels: bool) -> None:
        super().__init__()
        self.pixels = pixels
        self.trunk = trunk(1, [4, 4], [1], [2])
        self.project = nn.Linear(4, WIDTH)

    def forward(self, given: Tensor) -> Tensor:
        x = given.float().permute(0, 3, 1, 2) / 255.0 if self.pixels else given.reshape(1, 1, 100, 160)
        return self.project(self.trunk(x).mean(dim=(2, 3))).relu()  # type: ignore[no-any-return]


@pytest.fixture
def trained(enliven: Callable[..., nn.Module]) -> Trained:
    def part(encoder: nn.Module) -> Any:
        return SimpleNamespace(encoder=enliven(encoder), head=nn.Linear(WIDTH, len(LABELS)))

    fusion = AttentionFusion(WIDTH, len(LABELS), [NORMS[name] for name in LABELS], inner=4)
    return Trained(part(Encoder(True)), part(Encoder(False)), enliven(fusion))  # type: ignore[arg-type]


def face_feeds(data: Path, seed: int) -> Iterator[dict[str, Any]]:
    random = np.random.default_rng(seed)
    yield {"face": random.integers(0, 256, (4, 48, 48, 1), dtype=np.uint8)}


def voice_feeds(data: Path, seed: int) -> Iterator[dict[str, Any]]:
    yield {"voice": np.random.default_rng(seed).normal(size=(1, 16000)).astype(np.float32)}


@pytest.fixture
def without_corpora(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "face_feeds", face_feeds)
    monkeypatch.setattr(bundle, "voice_feeds", voice_feeds)
    crops = SimpleNamespace(geometry={"yunet": {"scale": 1.0, "dx": 0.0, "dy": 0.0}})
    monkeypatch.setattr(geometry, "measure_corpus", lambda data: crops)


@pytest.mark.slow
def test_a_written_bundle_is_whole(trained: Trained, without_corpora: None, tmp_path: Path) -> None:
    bundle.write(trained, tmp_path, tmp_path / "made", seed=5)
    made = edgeemo.Bundle.read(tmp_path / "made")
    made.verify()
    encodings = ("fp32", "fp16", "int8", "int8-cpu")
    assert sorted(made.files) == sorted(
        [f"{name}.{encoding}.onnx" for name in ("face", "voice") for encoding in encodings]
        + ["fusion.fp32.onnx"]
    )
    for name in ("face", "voice"):
        assert made.graphs[name].files == {encoding: f"{name}.{encoding}.onnx" for encoding in encodings}
    assert made.graphs["fusion"].files == {"fp32": "fusion.fp32.onnx"}
    for name, feeds in (("face", face_feeds), ("voice", voice_feeds)):
        table = measure(made.path / f"{name}.fp32.onnx", feeds(tmp_path, 5), method="percentile")
        assert made.graphs[name].calibration == table.digest
    assert made.graphs["fusion"].calibration == ""
    for graph in made.graphs.values():
        for encoding in {"fp32", "fp16", "int8"} & graph.files.keys():
            assert lint(onnx.load(made.path / graph.files[encoding])) == []


def test_findings_stop_a_bundle_before_it_is_described(
    trained: Trained, without_corpora: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(module: nn.Module, inputs: Any, outputs: Any, path: Path, batched: Any = ()) -> None:
        x = onnx.helper.make_tensor_value_info("x", 1, ["N"])
        y = onnx.helper.make_tensor_value_info("y", 1, ["N"])
        nodes = [onnx.helper.make_node("Relu", ["x"], ["y"])]
        if path.name == "fusion.fp32.onnx":
            nodes.append(onnx.helper.make_node("Shape", ["x"], ["rows"]))
        graph = onnx.helper.make_graph(nodes, "net", [x], [y])
        opsets = [onnx.helper.make_opsetid("", 18)]
        onnx.save_model(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)

    def encode(folder: Path, name: str, feeds: Any) -> str:
        model = onnx.load(folder / f"{name}.fp32.onnx")
        for encoding in ("fp16", "int8", "int8-cpu"):
            model.ir_version = 10 if (name, encoding) == ("face", "fp16") else 11
            onnx.save_model(model, folder / f"{name}.{encoding}.onnx")
        return "0" * 64

    monkeypatch.setattr(to_onnx, "write", write)
    monkeypatch.setattr(bundle, "encode", encode)
    with pytest.raises(to_onnx.ExportError) as caught:
        bundle.write(trained, tmp_path, tmp_path / "made")
    first, *found = str(caught.value).splitlines()
    assert first == "TensorRT is not to be given these graphs:"
    assert [line.split(": ")[:2] for line in found] == [
        ["face.int8.onnx", "version"],
        ["voice.fp16.onnx", "version"],
        ["voice.int8.onnx", "version"],
        ["fusion.fp32.onnx", "integers"],
    ]
    assert not (tmp_path / "made" / "manifest.json").exists()


def test_encode_writes_three_files(trained: Trained, tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = {"voice": torch.randn(1, 16000)}
    to_onnx.write(trained.voice.encoder, given, ["tokens"], tmp_path / "voice.fp32.onnx")
    digest = bundle.encode(tmp_path, "voice", voice_feeds(tmp_path, 0))
    assert (
        digest == measure(tmp_path / "voice.fp32.onnx", voice_feeds(tmp_path, 0), method="percentile").digest
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "voice.fp16.onnx",
        "voice.fp32.onnx",
        "voice.int8-cpu.onnx",
        "voice.int8.onnx",
    ]
