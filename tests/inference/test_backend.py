from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeemo.errors import BackendError, BundleError, InputError
from edgeemo.inference import backend, onnx_files
from edgeemo.inference.backend import open_graphs
from edgeemo.inference.bundle import Bundle
from tests.support.tiny import Tiny, write_bundle


@pytest.fixture(autouse=True)
def no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever machine runs the tests; what there is with TensorRT is in test_accelerated.py."""
    monkeypatch.setattr(backend, "tensorrt_installed", lambda: False)
    monkeypatch.setitem(sys.modules, "tensorrt", None)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(onnx_files, "saturates", lambda: False)  # whatever processor runs the tests
    return Bundle.read(write_bundle(tmp_path / "tiny"))


@pytest.mark.parametrize(
    ("name", "precision", "encodings"),
    [
        ("auto", "int8", {"face": "int8-cpu", "voice": "int8-cpu", "fusion": "fp32"}),
        ("onnx", "int8", {"face": "int8-cpu", "voice": "int8-cpu", "fusion": "fp32"}),
        ("onnx", "fp32", {"face": "fp32", "voice": "fp32", "fusion": "fp32"}),
    ],
)
def test_precision_picks_the_files(
    bundle: Bundle, name: str, precision: str, encodings: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    graphs = open_graphs(bundle, name, precision)
    assert {name: graph.encoding for name, graph in graphs.items()} == encodings
    assert list(graphs) == list(bundle.graphs)
    assert not caplog.records


def test_fp16_where_a_bundle_has_it(tmp_path: Path) -> None:
    bundle = Bundle.read(write_bundle(tmp_path, Tiny(modalities=("voice",)), encodings=("fp32", "fp16")))
    assert {name: graph.encoding for name, graph in open_graphs(bundle, precision="fp16").items()} == {
        "voice": "fp16",
        "fusion": "fp32",
    }


def test_a_processor_that_saturates_runs_fp32(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnx_files, "saturates", lambda: True)
    assert {graph.encoding for graph in open_graphs(bundle).values()} == {"fp32"}
    assert "INT8 products saturate on this processor" in caplog.text
    assert caplog.records[0].name == "edgeemo" and caplog.records[0].levelno == logging.WARNING


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_precision_that_no_graph_has(
    tmp_path: Path, precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = Bundle.read(write_bundle(tmp_path, encodings=("fp32", "int8")))  # int8 is TensorRT's alone
    assert {graph.encoding for graph in open_graphs(bundle, precision=precision).values()} == {"fp32"}
    assert f"bundle tiny has no {precision} graphs for ONNX Runtime: it runs in FP32" in caplog.text


@pytest.mark.parametrize(
    ("options", "error", "wrong"),
    [
        ({"backend": "cuda"}, InputError, "backend is 'cuda'; it must be one of auto, onnx, tensorrt"),
        ({"backend": None}, InputError, "backend is None"),
        ({"precision": "int4"}, InputError, "precision is 'int4'; it must be one of int8, fp16, fp32"),
        ({"threads": 0}, InputError, "threads is 0; it must be a whole number of at least 1"),
        ({"backend": "tensorrt"}, BackendError, "backend 'tensorrt' cannot be opened: TensorRT's "),
        ({"backend": "tensorrt"}, BackendError, "; or use 'onnx' or 'auto'"),
    ],
)
def test_wrong_options(bundle: Bundle, options: dict[str, Any], error: type[Exception], wrong: str) -> None:
    with pytest.raises(error) as caught:
        open_graphs(bundle, **options)
    assert wrong in str(caught.value)


@pytest.mark.parametrize(
    ("modules", "found"),
    [({"tensorrt": SimpleNamespace()}, True), ({}, False)],
)
def test_tensorrt_is_looked_for_and_not_imported(
    modules: dict[str, Any], found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(sys, "path", [])
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert backend.tensorrt_installed() == found


def test_without_tensorrt_nothing_of_cuda_is_imported(default_bundle: Path) -> None:
    code = (
        "import importlib.util, sys, edgeemo\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'tensorrt' else real(name, *rest)\n"
        "edgeemo.load()\n"
        "sys.exit(repr([name for name in sys.modules if 'cuda' in name or 'trt' in name]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "[]\n"


def test_only_what_is_opened_is_hashed(bundle: Bundle) -> None:
    for name in ("face.int8.onnx", "face.int8-cpu.onnx"):
        content = bytearray((bundle.path / name).read_bytes())
        content[-1] ^= 1
        (bundle.path / name).write_bytes(content)
    open_graphs(bundle, precision="fp32")
    with pytest.raises(BundleError, match=r"bundle .*: face\.int8-cpu\.onnx has the sha256") as caught:
        open_graphs(bundle, precision="int8")
    assert str(caught.value).count(str(bundle.path)) == 1


def test_a_graph_that_is_not_its_spec_names_bundle_and_file(bundle: Bundle) -> None:
    shutil.copy(bundle.path / "voice.fp32.onnx", bundle.path / "face.fp32.onnx")
    entry = bundle.files["voice.fp32.onnx"]
    bundle.files["face.fp32.onnx"] = entry  # type: ignore[index]
    with pytest.raises(BundleError) as caught:
        open_graphs(bundle, precision="fp32")
    assert str(caught.value).startswith(f"bundle {bundle.path}: face.fp32.onnx: its inputs are voice")


def test_the_default_bundle_opens_in_every_precision(default_bundle: Path) -> None:
    bundle = Bundle.read(default_bundle)
    for precision in ("int8", "fp32"):
        assert list(open_graphs(bundle, precision=precision)) == list(bundle.graphs)


@pytest.mark.parametrize(
    "tiny",
    [
        Tiny(),
        Tiny(modalities=("face",)),
        Tiny(modalities=("voice",), context=4000, voice_mode="replace"),
        Tiny(labels=("no", "yes"), channels=3, width=3, slots=40),
    ],
)
def test_a_tiny_bundle_answers_as_it_says(tiny: Tiny, tmp_path: Path) -> None:
    """The graphs agree with the numpy beside them, and every slot of every modality changes the logits."""
    fusion = open_graphs(Bundle.read(write_bundle(tmp_path, tiny)), precision="fp32")["fusion"]
    random = np.random.default_rng(1)
    feeds = {}
    for name in tiny.modalities:
        values = random.random((1, tiny.slots, 1), np.float32)
        feeds[f"{name}_tokens"] = values * tiny.code
        feeds[f"{name}_mask"] = np.ones((1, tiny.slots), np.float32)
    feeds[f"{tiny.modalities[0]}_mask"][0, 0] = 0
    answer = fusion.run(feeds)
    tokens = {name: feeds[f"{name}_tokens"][0] for name in tiny.modalities}
    masks = {name: feeds[f"{name}_mask"][0] for name in tiny.modalities}
    np.testing.assert_allclose(answer["logits"][0], tiny.logits(tokens, masks), rtol=1e-4, atol=1e-3)
    odds = np.exp(answer["logits"] - answer["logits"].max())
    np.testing.assert_allclose(answer["valence_arousal"], odds / odds.sum() @ tiny.norms, atol=1e-4)
    for name in tiny.modalities:
        alone = tiny.modality_logits(name, tokens[name], masks[name])
        np.testing.assert_allclose(answer[f"{name}_logits"][0], alone, rtol=1e-4, atol=1e-3)
        for slot in range(tiny.slots):
            changed = {key: value.copy() for key, value in feeds.items()}
            changed[f"{name}_mask"][0, slot] = 1 - changed[f"{name}_mask"][0, slot]
            assert np.abs(fusion.run(changed)["logits"] - answer["logits"]).max() > 1e-3
    silent = {key: np.zeros_like(value) for key, value in feeds.items()}
    assert not fusion.run(silent)["logits"].any()


@pytest.mark.parametrize("label", Tiny().labels)
def test_a_tiny_bundle_answers_with_the_label_that_it_is_shown(label: str, tmp_path: Path) -> None:
    tiny = Tiny()
    graphs = open_graphs(Bundle.read(write_bundle(tmp_path)), precision="fp32")
    tokens = {
        "face": graphs["face"].run({"face": tiny.face(label)[None]})["tokens"],
        "voice": graphs["voice"].run({"voice": tiny.voice(label, 0.2)[None]})["tokens"],
    }
    for name, other in (("face", "voice"), ("voice", "face")):
        feeds = {f"{key}_tokens": np.repeat(value[None], tiny.slots, axis=1) for key, value in tokens.items()}
        feeds[f"{name}_mask"] = np.ones((1, tiny.slots), np.float32)
        feeds[f"{other}_mask"] = np.zeros((1, tiny.slots), np.float32)
        odds = np.exp(fusion := graphs["fusion"].run(feeds)["logits"][0] - 100)
        assert tiny.labels[int(fusion.argmax())] == label
        assert odds.max() / odds.sum() > 0.95
