from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from edgeemo.errors import BundleError
from edgeemo.inference.bundle import Bundle, describe_files
from edgeemo_export import to_onnx
from edgeemo_export.encoders.fold import fold_batch_norms
from edgeemo_export.encoders.restore import load_weights, restore_voice, set_voice_temperature
from edgeemo_export.encoders.voice import VoiceEncoder
from edgeemo_export.systems.answers import BothAnswers, VoiceAnswers
from edgeemo_export.systems.attention import AttentionFusion
from tests.support.tiny import Tiny, write_bundle


def describe(folder: Path) -> None:
    """Let the manifest of a changed bundle describe its files, of which nothing is proven any more."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = describe_files(folder, manifest["files"])
    manifest.pop("proof", None)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_default_bundles_voice_comes_back(default_bundle: Path) -> None:
    bundle = Bundle.read(default_bundle)
    part = restore_voice(bundle)
    calibrated = bundle.calibration["temperatures"]
    assert isinstance(calibrated, dict)
    assert part.temperature == pytest.approx(calibrated["voice"], abs=1e-3)
    session = onnxruntime.InferenceSession(default_bundle / "voice.fp32.onnx")
    random = np.random.default_rng(1)
    for level in (1.0, 0.1, 0.0):
        voice = (level * random.uniform(-1, 1, (1, 16000))).astype(np.float32)
        (expected,) = session.run(["tokens"], {"voice": voice})
        with torch.no_grad():
            found = part.encoder(torch.from_numpy(voice)).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_restored_encoder_exports_to_what_it_was(enliven: Callable[..., nn.Module], tmp_path: Path) -> None:
    encoder = enliven(VoiceEncoder(8))
    fold_batch_norms(encoder)
    example = {"voice": torch.randn(1, VoiceEncoder.context)}
    to_onnx.write(encoder, example, ["tokens"], tmp_path / "voice.fp32.onnx")
    again = fold_batch_norms(VoiceEncoder(8).eval())
    load_weights(again, onnx.load(tmp_path / "voice.fp32.onnx"))
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    to_onnx.write(again, example, ["tokens"], tmp_path / "again.fp32.onnx")
    assert (tmp_path / "voice.fp32.onnx").read_bytes() == (tmp_path / "again.fp32.onnx").read_bytes()


def test_names_may_have_a_wrapper_before_them(enliven: Callable[..., nn.Module], tmp_path: Path) -> None:
    fusion = enliven(AttentionFusion(8, 3, [(0.0, 0.0)] * 3, inner=4))
    assert isinstance(fusion, AttentionFusion)
    inputs = {
        "face_tokens": torch.rand(3, 5, 8),
        "face_mask": torch.ones(3, 5),
        "voice_tokens": torch.rand(1, 5, 8),
        "voice_mask": torch.ones(3, 5),
    }
    names = ["logits", "face_logits", "voice_logits"]
    batched = ("face_tokens", "face_mask", "voice_mask")
    to_onnx.write(BothAnswers(fusion), inputs, names, tmp_path / "f.onnx", batched=batched)
    head, pool = nn.Linear(16, 3), type(fusion.voice_pool)(8)
    model = onnx.load(tmp_path / "f.onnx")
    load_weights(head, model, "voice_head.")
    load_weights(pool, model, "voice_pool.")
    for mine, theirs in ((head, fusion.voice_head), (pool, fusion.voice_pool)):
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in mine.state_dict().items())


def test_answers_that_are_not_the_heads_are_refused(default_bundle: Path, tmp_path: Path) -> None:
    """A fusion that does something else with the logits than divide them."""
    folder = Path(shutil.copytree(default_bundle, tmp_path / "b"))
    model = onnx.load(folder / "fusion.fp32.onnx")
    (place,) = (at for at, node in enumerate(model.graph.node) if "logits" in node.output)
    model.graph.node[place].output[0] = "raw"
    model.graph.node.insert(place + 1, helper.make_node("Add", ["raw", "shift"], ["logits"]))
    shift = np.linspace(0.0, 0.5, 7, dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(shift, "shift"))
    onnx.save_model(model, folder / "fusion.fp32.onnx")
    describe(folder)
    with pytest.raises(BundleError, match="default architecture") as refused:
        restore_voice(Bundle.read(folder))
    assert "logits differ" in str(refused.value.__cause__)


def test_another_sample_rate_is_refused(default_bundle: Path, tmp_path: Path) -> None:
    """Its weights are of this architecture, but they heard something else."""
    folder = Path(shutil.copytree(default_bundle, tmp_path / "b"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["voice"]["sample_rate"] = 8000
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="default architecture"):
        restore_voice(Bundle.read(folder))


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", Tiny(sample_rate=16000, context=16000))
    with pytest.raises(BundleError, match="default architecture"):
        restore_voice(Bundle.read(bundle))


@pytest.mark.parametrize("named", [True, False])
def test_weights_that_are_not_the_graphs_are_refused(
    named: bool, default_bundle: Path, tmp_path: Path
) -> None:
    """A graph that computes something else with weights of these names."""
    for path in default_bundle.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    model = onnx.load(tmp_path / "voice.fp32.onnx")
    products = (node.input[1] for node in model.graph.node if node.op_type == "MatMul")
    name = "stem.0.bias" if named else next(read for read in products if read.startswith("val_"))
    for node in model.graph.node:
        for place, given in enumerate(node.input):
            if given == name:
                node.input[place] = "other"
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    model.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(tensor) + 0.1, "other"))
    if not named:
        model.graph.initializer.remove(tensor)
    onnx.save_model(model, tmp_path / "voice.fp32.onnx")
    describe(tmp_path)
    bundle = Bundle.read(tmp_path)
    if named:
        with pytest.raises(BundleError, match="default architecture"):
            restore_voice(bundle)
    else:
        restore_voice(bundle)  # a nameless constant is found by its place


def test_a_temperature_of_the_voice_touches_nothing_else(tmp_path: Path) -> None:
    """Of a face, and of a face with a voice, the answers are the same to the last bit."""
    torch.manual_seed(0)
    whole = AttentionFusion(8, 3, [(0.1, 0.2), (0.3, -0.4), (-1.0, 0.0)], inner=4).eval()
    whole.temperatures.fill_(1.5)  # equal ones share a constant
    inputs = {
        "face_tokens": torch.rand(3, 5, 8),
        "face_mask": torch.tensor([1.0, 0.0, 1.0])[:, None].expand(3, 5).contiguous(),
        "voice_tokens": torch.rand(1, 5, 8),
        "voice_mask": torch.tensor([1.0, 1.0, 0.0])[:, None].expand(3, 5).contiguous(),
    }
    names, path = ["logits", "face_logits", "voice_logits"], tmp_path / "fusion.onnx"
    to_onnx.write(BothAnswers(whole), inputs, names, path, ("face_tokens", "face_mask", "voice_mask"))
    model = onnx.load(path)
    for value in (3.0, 0.75):
        set_voice_temperature(model, value)
    before, after = (
        dict(zip(names, onnxruntime.InferenceSession(given).run(names, feeds), strict=True))
        for feeds in [{name: value.numpy() for name, value in inputs.items()}]
        for given in (path.read_bytes(), model.SerializeToString())
    )
    np.testing.assert_allclose(after["voice_logits"], 2.0 * before["voice_logits"], rtol=1e-6)
    np.testing.assert_array_equal(after["face_logits"], before["face_logits"])
    np.testing.assert_array_equal(after["logits"][[0, 2]], before["logits"][[0, 2]])  # with a face
    np.testing.assert_allclose(after["logits"][1], 2.0 * before["logits"][1], rtol=1e-6)


def test_a_graph_without_a_temperature_is_left_as_it_is(tmp_path: Path) -> None:
    whole = AttentionFusion(8, 3, [(0.0, 0.0)] * 3, inner=4).eval()  # dividing by 1 is left out of a graph
    inputs = {"voice_tokens": torch.rand(1, 5, 8), "voice_mask": torch.ones(3, 5)}
    path = tmp_path / "fusion.onnx"
    to_onnx.write(VoiceAnswers(whole, False), inputs, ["logits"], path, ("voice_mask",))
    model = onnx.load(path)
    with pytest.raises(KeyError):
        set_voice_temperature(model, 2.0)
    assert model.SerializeToString() == onnx.load(path).SerializeToString()
