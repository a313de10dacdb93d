"""From `edgeemo.load` to an answer, over the doubles of TensorRT and CUDA: how engines come and go."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgeemo
from edgeemo.errors import BackendError
from edgeemo.inference import choice, onnx_files
from edgeemo.inference.bundle import Bundle, describe_files
from edgeemo.inference.choice import Choice, example
from edgeemo.inference.engines import EngineStore
from edgeemo.recognition.recognizer import Recognizer
from edgeemo.recognition.stream import Stream
from tests.support import cuda_double, tensorrt_double
from tests.support.read_only import mount_read_only
from tests.support.real_tensorrt import VERSIONS
from tests.support.tiny import Tiny, write_bundle

ROOT = Path(__file__).parents[2]
GRAPHS = ("face", "voice", "fusion")
TINY = Tiny()
Feeds = Mapping[str, NDArray[Any]]


@dataclass
class Robot:
    """An emulated device with TensorRT, an empty cache and a tiny bundle; closes what it loaded."""

    bundle: Path
    cache: Path
    device: cuda_double.Device
    trt: Any

    def __post_init__(self) -> None:
        self.models: list[Recognizer] = []

    @property
    def knobs(self) -> Any:
        return self.trt._double

    @property
    def engines(self) -> Path:
        return self.cache / "engines"

    def load(self, backend: str = "tensorrt", **options: Any) -> Recognizer:
        model = edgeemo.load(self.bundle, backend=backend, **options)
        self.models.append(model)
        return model

    def close(self) -> None:
        for model in self.models:
            for graph in model.graphs.values():
                graph.close()
        self.models.clear()

    def file(self, graph: str, suffix: str) -> Path:
        (path,) = self.engines.glob(f"tiny-{graph}-*-{16 * '?'}{suffix}")
        return path


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(params=VERSIONS)
def robot(
    request: pytest.FixtureRequest, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Robot]:
    monkeypatch.setenv("EDGEEMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(onnx_files, "saturates", lambda: False)
    with (
        cuda_double.installed("cuda-python", integrated=True) as device,
        tensorrt_double.installed(request.param, device) as trt,
    ):
        robot = Robot(bundle, tmp_path / "cache", device, trt)
        yield robot
        robot.close()
        if device.lost is None:
            device.assert_clean()


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """TensorRT is the faster one; the names of the graphs that were timed."""
    timed: list[str] = []

    def measure(tensorrt: Any, onnx: Any) -> Choice:
        timed.append(tensorrt.spec.name)
        return Choice(tensorrt=1.0, onnx=2.0)

    monkeypatch.setattr(choice, "measure", measure)
    return timed


def answers(model: Recognizer) -> dict[str, dict[str, NDArray[Any]]]:
    """What every graph answers to an example; copies, as an engine may reuse its own."""
    return {
        name: {key: value.copy() for key, value in graph.run(example(graph.spec)).items()}
        for name, graph in model.graphs.items()
    }


def assert_same(first: Recognizer, second: Recognizer) -> None:
    given, right = answers(first), answers(second)
    for name, values in given.items():
        for key, value in values.items():
            np.testing.assert_allclose(value, right[name][key], rtol=1e-4, atol=1e-4)


def engines_of(model: Recognizer) -> set[str]:
    return {graph.engine.split()[0] for graph in model.graphs.values()}


# --- built, found


def test_engines_are_built_once_and_answer(robot: Robot, caplog: pytest.LogCaptureFixture) -> None:
    model = robot.load()
    assert robot.knobs.builds == len(GRAPHS)
    version = robot.knobs.version
    assert {graph.engine for graph in model.graphs.values()} == {f"tensorrt {version} on {robot.device.name}"}
    assert {name: graph.encoding for name, graph in model.graphs.items()} == {
        "face": "int8",
        "voice": "int8",
        "fusion": "fp32",
    }
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"building the TensorRT engine of {name} for {robot.device.name}: once per device, which may take "
        "minutes; 'edgeemo build' does it ahead"
        for name in GRAPHS
    ]
    caplog.clear()
    again = robot.load()
    assert robot.knobs.builds == len(GRAPHS)  # found
    assert not caplog.records
    onnx = robot.load("onnx")
    assert_same(model, onnx)
    assert_same(again, onnx)


@pytest.mark.parametrize("backend", ["tensorrt", "auto"])
def test_a_model_that_nobody_holds_frees_the_device(backend: str, robot: Robot, faster: list[str]) -> None:
    edgeemo.load(robot.bundle, backend=backend)
    gc.collect()
    robot.device.assert_clean()


def test_builds_are_followed_in_the_log(robot: Robot, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="edgeemo")
    robot.load()
    told = [record.getMessage() for record in caplog.records if record.name == "edgeemo.progress"]
    assert told[0].startswith("engine of face: 0 % built (")
    assert any("engine of face: 100 % built" in message for message in told)


@pytest.mark.parametrize(
    ("precision", "encodings", "warns"),
    [
        ("int8", {"face": "int8", "voice": "int8", "fusion": "fp32"}, ""),
        ("fp32", dict.fromkeys(GRAPHS, "fp32"), ""),
        ("fp16", dict.fromkeys(GRAPHS, "fp32"), "bundle tiny has no fp16 graphs: TensorRT runs it in FP32"),
    ],
)
def test_precision_picks_the_files(
    precision: str,
    encodings: dict[str, str],
    warns: str,
    robot: Robot,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = robot.load(precision=precision)
    assert {name: graph.encoding for name, graph in model.graphs.items()} == encodings
    assert ("FP32" in caplog.text) == bool(warns) and warns in caplog.text


def test_the_default_bundle_in_every_precision(robot: Robot, default_bundle: Path) -> None:
    robot.bundle = default_bundle
    for precision in ("int8", "fp16", "fp32"):
        model = robot.load(precision=precision)
        assert {name: graph.encoding for name, graph in model.graphs.items()} == {
            name: precision if precision in spec.files else "fp32"
            for name, spec in model.bundle.graphs.items()
        }
        for graph in model.graphs.values():
            assert all(np.isfinite(values).all() for values in graph.run(example(graph.spec)).values())
    assert_same(model, robot.load("onnx", precision="fp32"))


# --- stale, damaged


def test_an_engine_of_another_version_is_built_again(
    robot: Robot, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot.load()
    robot.close()
    caplog.clear()
    monkeypatch.setattr(robot.trt, "__version__", "10.7.0")
    robot.load()
    assert robot.knobs.builds == 2 * len(GRAPHS)
    assert f"the engine of face is stale (TensorRT {robot.knobs.version} -> 10.7.0); building" in caplog.text


def test_an_engine_of_another_device_is_built_again(robot: Robot, caplog: pytest.LogCaptureFixture) -> None:
    robot.load()
    robot.close()
    before, robot.device.name = robot.device.name, "Thor"
    robot.load()
    assert robot.knobs.builds == 2 * len(GRAPHS)
    assert f"the engine of voice is stale (device {before} -> Thor)" in caplog.text


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("capability", (11, 0), "compute capability 8.7 -> 11.0"),
        ("driver_version", 13020, "CUDA 12 -> 13"),
    ],
)
def test_an_engine_of_another_platform_is_built_again(
    name: str, value: Any, says: str, robot: Robot, caplog: pytest.LogCaptureFixture
) -> None:
    robot.load()
    robot.close()
    setattr(robot.device, name, value)
    robot.load()
    assert robot.knobs.builds == 2 * len(GRAPHS)
    assert f"the engine of voice is stale ({says})" in caplog.text


def test_an_engine_of_another_graph_is_built_again(
    robot: Robot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    robot.load()
    robot.bundle = write_bundle(tmp_path / "changed", Tiny(slots=6))
    robot.load()
    assert "the engine of fusion is stale (another graph, profiles: " in caplog.text
    assert "the engine of face is stale" not in caplog.text
    assert robot.knobs.builds == len(GRAPHS) + 1


def bundle_that_says(folder: Path, *entry: Any) -> Path:
    """A tiny bundle with another entry in its manifest: where it stands, and last what it is."""
    manifest = write_bundle(folder) / "manifest.json"
    entries = json.loads(manifest.read_text())
    *sections, key, value = entry
    section = entries
    for name in sections:
        section = section[name]
    section[key] = value
    manifest.write_text(json.dumps(entries))
    return folder


def test_an_engine_of_other_ranges_is_built_again(
    robot: Robot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    robot.load()
    robot.bundle = bundle_that_says(tmp_path / "changed", "graphs", "voice", "calibration", "ab" * 32)
    caplog.clear()
    robot.load()
    (message,) = caplog.messages
    assert message.startswith("the engine of voice is stale (another calibration); building")


def test_engines_are_built_for_as_many_faces_as_the_manifest_says(
    robot: Robot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    robot.load()
    robot.bundle = bundle_that_says(tmp_path / "changed", "face", "most", 4)
    caplog.clear()
    model = robot.load()
    assert robot.knobs.builds == len(GRAPHS) + 2  # face and fusion; a voice has no free size
    assert "-> [[1, 8, 8, 1], [1, 8, 8, 1], [4, 8, 8, 1]]" in caplog.text
    sidecar = robot.engines / max(robot.engines.glob("tiny-face-*.json"), key=os.path.getmtime)
    assert json.loads(sidecar.read_text())["key"]["profiles"]["face"][2] == [4, 8, 8, 1]
    model.graphs["face"].run({"face": np.zeros((4, *TINY.size, 1), np.uint8)})
    with pytest.raises(BackendError, match="N is 5; its engine was built for 1 to 4"):
        model.graphs["face"].run({"face": np.zeros((5, *TINY.size, 1), np.uint8)})


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("suffix", "harm", "says"),
    [
        (".engine", flip, "the engine of face is damaged: its file is not the one that was written"),
        (".engine", Path.unlink, "the engine of face is damaged: its file is missing"),
        (".json", Path.unlink, "the engine of face is half-written: its description is missing"),
        (
            ".json",
            lambda path: path.write_bytes(b""),
            "the engine of face is damaged: its description is no JSON",
        ),
        (".engine", lambda path: path.chmod(0o666), "an engine is code; 'chmod go-w"),
    ],
)
def test_what_is_damaged_is_built_again(
    suffix: str,
    harm: Callable[[Path], None],
    says: str,
    robot: Robot,
    caplog: pytest.LogCaptureFixture,
) -> None:
    right = answers(robot.load())
    robot.close()
    caplog.clear()
    harm(robot.file("face", suffix))
    model = robot.load()
    assert robot.knobs.builds == len(GRAPHS) + 1
    assert says in caplog.text
    assert engines_of(model) == {"tensorrt"}
    for name, values in answers(model).items():
        assert all((value == right[name][key]).all() for key, value in values.items())
    robot.close()
    caplog.clear()
    robot.load()
    assert robot.knobs.builds == len(GRAPHS) + 1 and not caplog.records


def test_auto_builds_again_what_is_damaged(robot: Robot, faster: list[str]) -> None:
    robot.load("auto")
    robot.close()
    flip(robot.file("voice", ".engine"))
    assert engines_of(robot.load("auto")) == {"tensorrt"}
    assert robot.knobs.builds == len(GRAPHS) + 1
    assert faster == list(GRAPHS)  # the same engine needs no other measurement


def replace_plan(robot: Robot, graph: str, plan: bytes) -> None:
    """Another plan with all its checksums: what TensorRT refuses though its file is whole."""
    robot.file(graph, ".engine").write_bytes(plan)
    sidecar = robot.file(graph, ".json")
    entries = json.loads(sidecar.read_text())
    entries["plan"] = {"bytes": len(plan), "sha256": hashlib.sha256(plan).hexdigest()}
    sidecar.write_text(json.dumps(entries))


def test_a_plan_that_is_refused_is_built_again(robot: Robot, caplog: pytest.LogCaptureFixture) -> None:
    robot.load()
    robot.close()
    replace_plan(robot, "face", b"ftrt of another time")
    assert engines_of(robot.load()) == {"tensorrt"}
    assert robot.knobs.builds == len(GRAPHS) + 1
    assert "the engine of face cannot be used (" in caplog.text and "refuses the engine" in caplog.text


def test_a_plan_of_other_tensors_is_built_again(robot: Robot, caplog: pytest.LogCaptureFixture) -> None:
    """Though it has the name, the key and the checksum of the right one."""
    robot.load()
    robot.close()
    replace_plan(robot, "face", robot.file("voice", ".engine").read_bytes())
    assert_same(robot.load(), robot.load("onnx"))
    assert robot.knobs.builds == len(GRAPHS) + 1
    assert "its inputs are voice; the manifest says face" in caplog.text


def test_plans_that_are_refused_each_time_end_in_an_error(robot: Robot) -> None:
    robot.load()
    robot.close()
    robot.knobs.refuse_plan = True
    with pytest.raises(BackendError, match=r"graph 'face'.* refuses the engine") as caught:
        robot.load()
    assert str(caught.value).endswith("; it was built here and now, so that another build will not help")
    assert robot.knobs.builds == len(GRAPHS) + 1  # once
    robot.device.assert_clean()  # what was opened is closed


# --- out of memory, refusals, wrong shapes


@pytest.mark.parametrize("where", ["build", "context"])
def test_out_of_memory(where: str, robot: Robot, caplog: pytest.LogCaptureFixture) -> None:
    robot.knobs.out_of_memory = where
    with pytest.raises(BackendError, match=r"(?i)graph 'face'.*out.?of.?memory"):
        robot.load()
    robot.device.assert_clean()
    model = robot.load("auto")
    assert engines_of(model) == {"onnxruntime"}
    assert "TensorRT cannot run graph 'face', so ONNX Runtime does: " in caplog.text
    robot.device.assert_clean()  # no engine is used, so no context is held
    assert_same(model, robot.load("onnx"))


def test_a_device_without_memory_is_no_reason_to_build_again(robot: Robot) -> None:
    robot.load()
    robot.close()
    robot.knobs.out_of_memory = "context"
    with pytest.raises(BackendError, match=r"(?i)out.?of.?memory"):
        robot.load()
    robot.knobs.out_of_memory = ""
    robot.device.fail("cuMemHostAlloc", "CUDA_ERROR_OUT_OF_MEMORY")
    with pytest.raises(BackendError, match="out of memory on the device"):
        robot.load()
    assert robot.knobs.builds == len(GRAPHS)
    robot.load()
    assert robot.knobs.builds == len(GRAPHS)


def test_a_graph_that_cannot_be_built(
    robot: Robot, faster: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    robot.knobs.refuse_build = "Error Code 10: no implementation for node"
    with pytest.raises(BackendError, match=r"graph 'face'.*no implementation for node"):
        robot.load()
    assert engines_of(robot.load("auto")) == {"onnxruntime"}
    assert "no implementation for node" in caplog.text
    assert not list(robot.engines.glob("*.engine"))


def test_a_file_that_is_no_graph_is_named(
    robot: Robot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    robot.bundle = write_bundle(tmp_path / "rubbish")
    (robot.bundle / "voice.int8.onnx").write_bytes(b"rubbish")
    manifest = json.loads((robot.bundle / "manifest.json").read_text())
    manifest["files"] |= describe_files(robot.bundle, ["voice.int8.onnx"])
    (robot.bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BackendError) as caught:
        robot.load()
    assert str(caught.value).startswith(
        f"graph 'voice': TensorRT {robot.knobs.version} cannot read {robot.bundle / 'voice.int8.onnx'}: "
        "Failed to parse the ONNX model: TensorRT "
    )


WRONG_FEEDS: tuple[tuple[Feeds, str], ...] = (
    ({"face": np.zeros((1, *TINY.size, 3), np.uint8)}, r"uint8 \[1, 8, 8, 3\]; it must be"),
    ({"face": np.zeros((1, *TINY.size, 1), np.float32)}, "float32"),
    ({"face": np.zeros((17, *TINY.size, 1), np.uint8)}, "N is 17"),
    ({}, "names are none"),
)


@pytest.mark.parametrize("backend", ["tensorrt", "auto"])
def test_wrong_shapes_are_refused_and_harm_nothing(backend: str, robot: Robot, faster: list[str]) -> None:
    model = robot.load(backend)
    for feeds, wrong in WRONG_FEEDS:
        with pytest.raises(BackendError, match=f"graph 'face'.*{wrong}"):
            model.graphs["face"].run(feeds)
    assert engines_of(model) == {"tensorrt"}
    assert_same(model, robot.load("onnx"))


# --- 'auto'


def test_auto_takes_the_faster_one_and_remembers(
    robot: Robot, faster: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = robot.load("auto")
    assert engines_of(model) == {"tensorrt"}
    assert (robot.knobs.builds, faster) == (len(GRAPHS), list(GRAPHS))
    caplog.clear()
    assert engines_of(robot.load("auto")) == {"tensorrt"}
    assert (robot.knobs.builds, faster) == (len(GRAPHS), list(GRAPHS))  # neither built nor timed again
    assert not caplog.records
    robot.load("auto", threads=2)
    assert faster == 2 * list(GRAPHS)  # ONNX Runtime may be faster with two


def test_auto_takes_onnx_runtime_where_that_is_faster(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        choice,
        "measure",
        lambda tensorrt, onnx: Choice(1.0, 2.0 if tensorrt.spec.name == "voice" else 0.5),
    )
    model = robot.load("auto")
    assert {name: graph.engine.split()[0] for name, graph in model.graphs.items()} == {
        "face": "onnxruntime",
        "voice": "tensorrt",
        "fusion": "onnxruntime",
    }
    contexts = robot.knobs.contexts
    robot.load("auto")
    assert robot.knobs.contexts == contexts + 1  # what is not run is not even opened
    assert_same(model, robot.load("onnx"))


def test_auto_with_real_measurements(robot: Robot) -> None:
    assert_same(robot.load("auto"), robot.load("onnx"))
    recorded = [json.loads(path.read_text()) for path in robot.engines.glob("*.choice.json")]
    assert len(recorded) == len(GRAPHS)
    assert all(entry["tensorrt"] > 0 and entry["onnx"] > 0 for entry in recorded)


def test_auto_where_tensorrt_does_not_open(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnx_files, "saturates", lambda: False)
    with (
        cuda_double.installed("cuda-python") as device,
        tensorrt_double.installed(VERSIONS[0], device),
    ):
        device.fail("cuInit", "CUDA_ERROR_NO_DEVICE", times=None)
        model = edgeemo.load(bundle)
        assert engines_of(model) == {"onnxruntime"}
        (record,) = caplog.records
        assert record.getMessage().startswith(
            "TensorRT is installed but cannot be used, so ONNX Runtime runs every graph: "
        )
        assert "CUDA_ERROR_NO_DEVICE" in record.getMessage()
        with pytest.raises(BackendError, match="CUDA_ERROR_NO_DEVICE") as caught:
            edgeemo.load(bundle, backend="tensorrt")
        assert str(caught.value).endswith("; or use 'onnx' or 'auto'")


def test_a_processor_that_saturates_is_said_where_it_matters(
    robot: Robot, faster: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnx_files, "saturates", lambda: True)
    robot.load("auto")
    assert "saturate" not in caplog.text  # TensorRT runs all of it
    robot.load("onnx")
    assert "saturate" in caplog.text


# --- a CUDA error in the middle of a stream


def emotions(model: Recognizer, hop: Callable[[int], None] = lambda number: None) -> list[dict[str, Any]]:
    """The answers to two seconds of a face and a voice; `hop` is called before each."""
    told: list[dict[str, Any]] = []
    face = np.repeat(TINY.face("fear"), 3, axis=2)
    with Stream(model, lateness=None, face_is_cropped=True) as stream:
        for number in range(20):
            hop(number)
            label = TINY.labels[number % len(TINY.labels)]
            stream.push_audio(TINY.voice(label, TINY.hop), TINY.sample_rate, number * TINY.hop)
            stream.push_frame(face, (number + 0.5) * TINY.hop)
            told += [emotion.to_dict() for emotion in stream.poll()]
        for modality in model.bundle.modalities:
            stream.end(modality)
        told += [emotion.to_dict() for emotion in stream.poll()]
    return told


def assert_same_emotions(given: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    assert len(given) == len(right) == 20
    for one, other in zip(given, right, strict=True):
        assert {key: one[key] for key in ("time", "label", "state", "modalities")} == {
            key: other[key] for key in ("time", "label", "state", "modalities")
        }
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)


Fault = Callable[[Robot], None]
FAULTS: dict[str, tuple[Fault, int]] = {  # and how many graphs it takes
    "the context is lost": (lambda robot: robot.device.lose(), 3),
    "a call fails and the context with it": (
        lambda robot: robot.device.fail("cuStreamSynchronize", "CUDA_ERROR_ILLEGAL_ADDRESS"),
        3,
    ),
    "a call fails once": (
        lambda robot: robot.device.fail("cuGraphLaunch", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"),
        1,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_auto_goes_on_with_onnx_runtime(
    fault: str, robot: Robot, faster: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    happen, takes = FAULTS[fault]
    right = emotions(robot.load("onnx"))
    model = robot.load("auto")
    assert engines_of(model) == {"tensorrt"}
    caplog.clear()
    assert_same_emotions(emotions(model, lambda number: happen(robot) if number == 10 else None), right)
    replaced = [name for name, graph in model.graphs.items() if graph.engine.startswith("onnxruntime")]
    assert len(replaced) == takes
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sorted(warnings) == sorted(caplog.messages) and len(warnings) == takes
    assert all("CPUExecutionProvider runs graph" in warning for warning in warnings)
    assert "onnxruntime" in repr(model)


def test_tensorrt_raises_and_says_when_the_device_is_lost(robot: Robot) -> None:
    model = robot.load()
    right = emotions(model)
    with pytest.raises(BackendError, match=r"graph '\w+'.*CUDA_ERROR_ILLEGAL_ADDRESS"):
        emotions(model, lambda number: robot.device.lose() if number == 10 else None)
    with pytest.raises(BackendError, match=r"context was lost .*open the model again"):
        emotions(model)
    robot.close()
    assert_same_emotions(emotions(robot.load()), right)
    assert robot.knobs.builds == len(GRAPHS)


def test_tensorrt_goes_on_after_an_error_that_passes(robot: Robot) -> None:
    model = robot.load()
    happen, _ = FAULTS["a call fails once"]
    right = emotions(model)
    with pytest.raises(BackendError, match=r"graph '\w+'.*CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"):
        emotions(model, lambda number: happen(robot) if number == 10 else None)
    assert_same_emotions(emotions(model), right)


def test_an_execution_that_is_refused(robot: Robot, faster: list[str]) -> None:
    """Here graphs are not captured, so that each step asks TensorRT."""
    model = robot.load("auto")
    tokens = answers(model)["face"]["tokens"]
    robot.knobs.refuse_execute = 1
    pair = {"face": np.concatenate([example(model.graphs["face"].spec)["face"]] * 2)}
    answer = model.graphs["face"].run(pair)["tokens"]  # a size that was not captured yet
    np.testing.assert_allclose(answer, np.repeat(tokens, 2, axis=0), rtol=1e-5)
    assert model.graphs["face"].engine.startswith("onnxruntime")


# --- folders


def test_a_ready_made_folder_that_is_read_only(
    robot: Robot, monkeypatch: pytest.MonkeyPatch, faster: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    robot.load("auto")
    caplog.clear()
    mount_read_only(monkeypatch)
    assert engines_of(robot.load("auto")) == engines_of(robot.load()) == {"tensorrt"}
    assert (robot.knobs.builds, faster) == (len(GRAPHS), list(GRAPHS))
    assert not caplog.records


@pytest.mark.parametrize("place", ["read-only", "no folder", "no home", "others may write"])
def test_without_a_folder_to_write_engines_live_in_memory(
    place: str, robot: Robot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if place == "read-only":
        mount_read_only(monkeypatch)
    elif place == "no folder":
        robot.cache.write_text("a file where a folder should be")
    elif place == "others may write":
        robot.engines.mkdir(parents=True)
        robot.engines.chmod(0o777)
    else:

        def no_home() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", no_home)
        for name in ("EDGEEMO_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
    for loads in (1, 2):
        assert_same(robot.load(), robot.load("onnx"))
        assert robot.knobs.builds == loads * len(GRAPHS)
        robot.close()
    said = [record.getMessage() for record in caplog.records]
    building = [
        f"building the TensorRT engine of {name} for {robot.device.name}, which may take minutes"
        for name in GRAPHS
    ]
    assert said == 2 * [said[0], *building]  # once a load, before it takes minutes
    assert said[0].startswith("engines cannot be kept (") and "they are built again at each start" in said[0]
    if place == "others may write":
        assert said[0].endswith(f"; 'chmod go-w {robot.engines}' says that they may not")
    else:
        assert "EDGEEMO_CACHE" in said[0] and "edgeemo build --cache DIR" in said[0]


def test_a_disk_that_is_full(
    robot: Robot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert_same(robot.load(), robot.load("onnx"))
    assert "engines cannot be kept (No space left on device)" in caplog.text
    assert "; make room there" in caplog.text
    assert caplog.text.count("once per device") == 1  # then it is known that it will not be
    assert [path.name for path in robot.engines.iterdir()] == ["engines.lock"]


# --- several processes

LOADER = """
import logging, sys
import edgeemo
from tests.support import cuda_double, tensorrt_double
logging.basicConfig(format="%(message)s", stream=sys.stderr)
with cuda_double.installed("cuda-python", integrated=True) as device:
    with tensorrt_double.installed(sys.argv[2], device) as trt:
        model = edgeemo.load(sys.argv[1], backend="tensorrt")
        for graph in model.graphs.values():
            graph.close()
        print(trt._double.builds)
"""

DYING = LOADER.replace(
    "import edgeemo\n",
    "import edgeemo, time\n"
    "from edgeemo.inference import supply\n"
    "def build(*given, **options):\n"
    "    print('building', flush=True)\n"
    "    time.sleep(60)\n"
    "supply.build = build\n",
    1,
)


def process(code: str, robot: Robot) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(robot.bundle), robot.knobs.version],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "EDGEEMO_CACHE": str(robot.cache), "OMP_NUM_THREADS": "1"},
    )


def test_two_processes_build_once(robot: Robot) -> None:
    store = EngineStore(robot.engines)
    with store.locked(lambda: None):
        both = [process(LOADER, robot) for _ in range(2)]
        for one in both:  # each has asked for the lock before either can have it
            assert one.stderr is not None
            assert f"another process builds engines in {robot.engines}" in one.stderr.readline()
    outputs = [one.communicate(timeout=120) for one in both]
    assert [one.returncode for one in both] == [0, 0], outputs
    assert sum(int(out) for out, _ in outputs) == len(GRAPHS)
    robot.load()
    assert robot.knobs.builds == 0


def test_that_it_waits_is_said_once(robot: Robot, caplog: pytest.LogCaptureFixture) -> None:
    from edgeemo.inference.supply import EngineSupply
    from edgeemo.inference.trt import TensorRt

    library = TensorRt.open()
    supply = EngineSupply(Bundle.read(robot.bundle), library, EngineStore(robot.engines))
    supply.say_waiting()
    supply.say_waiting()
    library.close()
    assert caplog.messages == [f"another process builds engines in {robot.engines}: waiting until it is done"]


def test_a_builder_that_was_killed_blocks_nobody(robot: Robot) -> None:
    dying = process(DYING, robot)
    assert dying.stdout is not None and dying.stdout.readline() == "building\n"
    dying.send_signal(signal.SIGKILL)
    dying.communicate()
    robot.load()
    assert robot.knobs.builds == len(GRAPHS)
