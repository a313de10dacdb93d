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
from edgeemo.errors import InputError
from edgeemo_calibration import lint, measure
from edgeemo_export import bundle, geometry, own_bundle, to_onnx
from edgeemo_export.cli import main
from edgeemo_export.data.labels import LABELS, NORMS
from edgeemo_export.encoders.residual import Size, stem, trunk
from edgeemo_export.recipes.default import Trained
from edgeemo_export.systems.attention import AttentionFusion

WIDTH = 8


class Encoder(nn.Module):
    """An encoder in small, of pictures or, folded into rows, of sound."""

    def __init__(self, pixels: bool) -> None:
        super().__init__()
        self.pixels = pixels
        self.stem = stem(4, 1)
        self.trunk = trunk(Size((4, 4), (1,)), [2])
        self.project = nn.Linear(4, WIDTH)

    def forward(self, given: Tensor) -> Tensor:
        x = given.float().permute(0, 3, 1, 2) / 255.0 if self.pixels else given.reshape(1, 1, 100, 160)
        return self.project(self.trunk(self.stem(x)).mean(dim=(2, 3))).relu()  # type: ignore[no-any-return]


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
    bundle.write(trained, tmp_path, tmp_path / "made", seed=5, unproven="nothing was trained")
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


def test_a_bundle_lists_what_was_written_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def encode(folder: Path, name: str, feeds: Any, table: None) -> str:
        for encoding in bundle.ENCODINGS:
            (folder / f"{name}.{encoding}.onnx").write_text(encoding)
        return "0" * 64

    monkeypatch.setattr(bundle, "encode", encode)
    monkeypatch.setattr(bundle, "check", lambda folder, manifest: None)
    for name in ("fusion.fp32.onnx", "foreign.onnx", "vocab.txt", "README.md"):
        (tmp_path / name).write_text(name)
    bundle.finish(tmp_path, described(), {"voice": []}, ["vocab.txt"], proof="nothing was trained")
    expected = {f"voice.{encoding}.onnx" for encoding in bundle.ENCODINGS} | {"vocab.txt", "fusion.fp32.onnx"}
    assert edgeemo.Bundle.read(tmp_path).files.keys() == expected
    assert "README.md, foreign.onnx lie there too, and no part of the bundle" in caplog.text
    bundle.check_folder(tmp_path)  # over itself it may be written again


def described() -> dict[str, Any]:
    """A manifest of a voice."""
    return {
        "schema": 1,
        "name": "small",
        "version": "1",
        "licence": "CC0-1.0",
        "notice": bundle.DUTIES,
        "task": "categorical",
        "labels": ["calm", "joy"],
        "modalities": ["voice"],
        "hop": 0.1,
        "window": 4.0,
        "voice": bundle.VOICE,
        "graphs": bundle.graph_entries(("voice",), ["logits"], WIDTH, 2),
        "thresholds": bundle.THRESHOLDS,
        "results": [],
        "provenance": {"recipe": "none"},
    }


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, None),
        ({}, None),
        ({"voice.int8-cpu.onnx": "", "fusion.fp32.onnx": ""}, None),  # one that was not finished
        ({"manifest.json": '{"schema": 1, "graphs": {}, "files": {}}', "README.md": ""}, None),
        ({"manifest.json": '{"name": "an app"}'}, "it holds manifest.json and no bundle; give a folder"),
        ({"manifest.json": "[]"}, "it holds manifest.json and no bundle"),
        ({"manifest.json": "{"}, "it holds manifest.json and no bundle"),
        ({"other.onnx": ""}, "it holds other.onnx and no bundle"),
        (dict.fromkeys("abcde", ""), "it holds a, b, c, d, ... and no bundle"),
        ("a file", "it is a file; a bundle is a folder"),
    ],
)
def test_a_bundle_is_not_written_among_other_things(
    files: dict[str, str] | str | None, message: str | None, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    if isinstance(files, str):
        folder.write_text(files)
    elif files is not None:
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
    if message is None:
        bundle.check_folder(folder)
    else:
        with pytest.raises(InputError, match=message):
            bundle.check_folder(folder)


@pytest.mark.parametrize("which", ["default", "own"])
def test_other_things_are_refused_before_anything_is_written(which: str, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("")
    words = ["bundle", "--run", str(tmp_path / "run"), "--out", str(tmp_path)]
    words += ["--data", str(tmp_path)] if which == "default" else ["--name", "n", "--licence", "l"]
    with pytest.raises(SystemExit):
        main(words)
    with pytest.raises(InputError, match=r"it holds photo\.jpg and no bundle"):
        if which == "default":
            bundle.write(None, tmp_path, tmp_path)  # type: ignore[arg-type]
        else:
            own_bundle.write(None, None, tmp_path, "n", "l")  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


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

    def encode(folder: Path, name: str, feeds: Any, table: None) -> str:
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
