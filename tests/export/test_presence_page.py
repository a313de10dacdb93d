"""The page of the presence of speech: its figures by hand, and the whole page on made-up recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, save_model
from torch import Tensor

from edgeemo.errors import InputError
from edgeemo_export import presence_page, states
from edgeemo_export.cli import main
from edgeemo_export.config import keep
from edgeemo_export.data import noises, sounds, voices
from edgeemo_export.encoders.presence import SpeechAware
from edgeemo_export.encoders.voice import VoiceEncoder
from edgeemo_export.recipes import presence, voice
from edgeemo_export.train import Schedule
from edgeemo_export.voice_activity import CHUNK, Silero, over_contexts

SMALL = presence.Config(Schedule(epochs=2, rate=5e-3, average=0.9), batch=8, takes=1, windows=2)


def detector(path: Path) -> Path:
    """A detector of Silero's form: the largest sample of a chunk; its state counts the chunks."""
    nodes = [
        helper.make_node("Abs", ["input"], ["magnitude"]),
        helper.make_node("ReduceMax", ["magnitude"], ["output"], axes=[1], keepdims=1),
        helper.make_node("Unsqueeze", ["input", "one"], ["signal"]),
        helper.make_node("Conv", ["signal", "kernel"], ["filtered"], strides=[8]),
        helper.make_node("ReduceMean", ["filtered"], ["nothing"], keepdims=0),
        helper.make_node("Mul", ["nothing", "zero"], ["still"]),
        helper.make_node("Add", ["state", "step"], ["later"]),
        helper.make_node("Add", ["later", "still"], ["stateN"]),
    ]
    constants = {
        "one": np.array([1]),
        "kernel": np.ones((4, 1, 8), np.float32),
        "zero": np.float32(0),
        "step": np.float32(1),
        "a.rnn.weight_ih": np.ones((5, 7), np.float32),
    }
    inputs = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", "sequence"]),
        helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, "batch", 128]),
        helper.make_tensor_value_info("sr", TensorProto.INT64, []),
    ]
    outputs = [
        helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 1]),
        helper.make_tensor_value_info("stateN", TensorProto.FLOAT, [2, "batch", 128]),
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "vad", inputs, outputs, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_detector_hears_chunk_by_chunk(tmp_path: Path) -> None:
    silero = Silero(detector(tmp_path / "vad.onnx"))
    samples = np.zeros(4 * CHUNK + 100, np.float32)
    samples[CHUNK + 500] = 0.5  # near the end of the second chunk, so the third one hears it again
    assert silero.probabilities(samples).tolist() == [0.0, 0.5, 0.5, 0.0]
    # 4 filters of 8 taps at 72 places of 576 samples, and 5 by 7 weights: 31.25 times a second.
    assert silero.multiply_adds == round((4 * 8 * 72 + 35) * 16000 / CHUNK)
    with pytest.raises(InputError, match="not there"):
        Silero(tmp_path / "other.onnx")


def test_the_published_detector_hears_speech(data: Path) -> None:
    silero = Silero(data / presence_page.REFERENCE)
    clip = voices.read(data, "test", ("emodb",))[0]
    heard = silero.probabilities(sounds.load(clip.path).numpy())
    hiss = silero.probabilities(0.1 * torch.randn(32000, generator=torch.Generator().manual_seed(0)).numpy())
    assert float(np.median(heard)) > 0.9 and float(hiss.max()) < 0.5
    assert 15e6 < silero.multiply_adds < 30e6


@pytest.mark.parametrize(
    ("end", "mean", "highest"),
    [(CHUNK - 1, 0.0, 0.0), (CHUNK, 0.2 / 2, 0.2), (2 * CHUNK, 0.6 / 2, 0.4), (4 * CHUNK, 1.4 / 2, 0.8)],
)
def test_chunks_that_lie_within_a_context(end: int, mean: float, highest: float) -> None:
    found = over_contexts(np.array([0.2, 0.4, 0.6, 0.8], np.float32), np.array([end]), 2 * CHUNK)
    assert [values.tolist() for values in found] == [[pytest.approx(mean)], [pytest.approx(highest)]]


@pytest.mark.parametrize(
    ("speech", "nobody", "expected"),
    [([0.9, 0.8], [0.1, 0.2], 1.0), ([0.1], [0.9], 0.0), ([0.5], [0.5], 0.5), ([0.9, 0.3], [0.5, 0.1], 0.75)],
)
def test_area_by_hand(speech: list[float], nobody: list[float], expected: float) -> None:
    assert presence_page.area(np.array(speech), np.array(nobody)) == expected


def test_missed_by_hand() -> None:
    nobody = np.linspace(0.0, 1.0, 101)
    assert presence_page.missed(np.array([0.5, 0.97, 0.99, 1.0]), nobody, 0.02) == 0.5
    assert presence_page.missed(np.array([0.5, 0.97, 0.99, 1.0]), nobody, 0.6) == 0.0


def test_a_window_is_empty_when_none_of_its_slots_has_a_token() -> None:
    mask = torch.zeros(100, dtype=torch.bool)
    assert presence_page._empty_windows(mask) == 100
    mask[50] = True  # heard for a window of 40 hops
    assert presence_page._empty_windows(mask) == 60


def test_the_cost_of_the_head_is_that_of_its_layers() -> None:
    head, whole = presence_page.multiply_adds(SpeechAware(VoiceEncoder(8)).eval())
    assert head == 384 * 16 + 16
    assert whole > 1000 * head


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of an encoder that learnt nothing, a detector, and few short recordings."""

    def listed(folder: Path, split: str) -> list[voices.Clip]:
        return [voices.Clip(Path(f"{split}-{n}"), "ravdess", split, "anger", split) for n in range(2)]

    def load(path: Path) -> Tensor:
        time = torch.arange(16000) / 16000
        pause = 2e-3 * torch.randn(20000, generator=torch.Generator().manual_seed(1))
        pitch = 100.0 + 20 * int(path.name[-1])
        return torch.cat([pause, 0.1 * torch.sign(torch.sin(2 * torch.pi * pitch * time)), pause])

    for what, name, value in (
        (voices, "read", listed),
        (sounds, "load", load),
        (presence_page, "NOISES", 1),
        (presence_page, "SECONDS", 2),
        (presence_page, "CONDITIONS", {"clean": None, "5 dB": 5.0}),
    ):
        monkeypatch.setattr(what, name, value)
    detector(tmp_path / presence_page.REFERENCE)
    config = voice.Config(size="edge")
    keep(config, tmp_path / "run" / "voice")
    keep(SMALL, tmp_path / "run" / "presence")
    torch.manual_seed(0)
    states.write({"averaged": voice.VoiceModel().state_dict()}, tmp_path / "run" / "voice" / "state.pt")
    return tmp_path


def test_the_command_writes_the_page(made: Path) -> None:
    page = made / "out" / "presence.md"
    options = ["--data", str(made), "--run", str(made / "run"), "--page", str(page), "--threads", "1"]
    assert main(["presence", *options]) == 0
    text = page.read_text()
    for heading in ("# Presence of speech", "## Cost", "## What masking changes"):
        assert f"{heading}\n" in text
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert set(rows) >= {"clean", "5 dB", *noises.KINDS, "ravdess", "unseen kinds"}
    for table in text.split("\n\n"):
        lines = table.splitlines()
        if lines[0].startswith("|"):
            assert len({line.count("|") for line in lines}) == 1  # every row has the head's columns
    assert (made / "run" / "presence" / "state.pt").exists()


def test_a_run_without_a_voice_is_refused(made: Path) -> None:
    with pytest.raises(InputError, match="it is missing; --run must name a run"):
        presence_page.write(made, made / "elsewhere", made / "page.md")
