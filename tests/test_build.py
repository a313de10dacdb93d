"""`edgeemo build`, over the doubles of TensorRT and CUDA."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import edgeemo
from edgeemo import cli
from edgeemo.build import Workbench, trtexec
from edgeemo.errors import InputError
from edgeemo.inference import choice
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.choice import Choice
from edgeemo.inference.engines import LOCK
from edgeemo.inference.trt_builder import Settings
from tests.support import cuda_double, tensorrt_double
from tests.support.real_tensorrt import VERSIONS
from tests.support.tiny import Tiny, write_bundle

GRAPHS = ("face", "voice", "fusion")
Capture = pytest.CaptureFixture[str]


@dataclass
class Robot:
    """An emulated device with TensorRT and an empty cache."""

    bundle: Path
    engines: Path
    device: cuda_double.Device
    trt: Any

    @property
    def knobs(self) -> Any:
        return self.trt._double

    def build(self, *words: str) -> int:
        return cli.main(["build", "--bundle", str(self.bundle), *words])


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"), encodings=("fp32", "fp16", "int8", "int8-cpu"))


@pytest.fixture(params=VERSIONS)
def robot(
    request: pytest.FixtureRequest, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Robot]:
    monkeypatch.setenv("EDGEEMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "measure", lambda tensorrt, onnx: Choice(tensorrt=1.0, onnx=2.0))
    with (
        cuda_double.installed("pycuda") as device,
        tensorrt_double.installed(request.param, device) as trt,
    ):
        yield Robot(bundle, tmp_path / "cache" / "engines", device, trt)
        device.assert_clean()


def load(robot: Robot, backend: str = "tensorrt", **options: Any) -> dict[str, tuple[str, str]]:
    """Encoding and engine of each graph of a load that is closed again."""
    model = edgeemo.load(robot.bundle, backend=backend, **options)
    told = {name: (graph.encoding, graph.engine.split()[0]) for name, graph in model.graphs.items()}
    for graph in model.graphs.values():
        graph.close()
    return told


# --- what is built, and what is said of it


def test_what_was_built_is_told_and_then_found(robot: Robot, capsys: Capture) -> None:
    assert robot.build() == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    assert lines[0].startswith(f"{robot.device.name}, TensorRT {robot.knobs.version}, CUDA 12.6, pycuda ")
    assert lines[1].startswith("face: int8 on the GPU, built in ")
    assert lines[1].endswith(".engine") and f"strong typing: {robot.engines}/tiny-face-int8-" in lines[1]
    assert lines[2].startswith("  layers: ")
    assert lines[3] == "  one call: TensorRT 1.000 ms, ONNX Runtime 2.000 ms; 'auto' takes TensorRT"
    assert [line.split(":")[0] for line in lines[1::3]] == list(GRAPHS)
    assert robot.build() == 0
    out, err = capsys.readouterr()
    assert err == "" and out.count(", found, ") == len(GRAPHS)
    assert robot.knobs.builds == len(GRAPHS)
    assert robot.build("--rebuild") == 0
    assert robot.knobs.builds == 2 * len(GRAPHS)


def test_later_starts_find_what_was_built(robot: Robot, caplog: pytest.LogCaptureFixture) -> None:
    assert robot.build() == 0
    right = {"face": ("int8", "tensorrt"), "voice": ("int8", "tensorrt"), "fusion": ("fp32", "tensorrt")}
    assert load(robot) == load(robot, "auto") == right
    assert robot.knobs.builds == len(GRAPHS)
    assert not caplog.records


def test_json_is_one_object(robot: Robot, capsys: Capture) -> None:
    assert robot.build("--json") == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert err == "" and out.count("\n") == 1
    assert (told["device"], told["tensorrt"]) == (robot.device.name, robot.knobs.version)
    assert [engine["graph"] for engine in told["engines"]] == list(GRAPHS)
    face = told["engines"][0]
    assert face["choice"] == {"tensorrt": 1.0, "onnx": 2.0, "winner": "tensorrt"}
    assert (face["built"], face["typing"], face["dla_core"], face["findings"]) == (True, "strong", None, [])
    assert face["size"] == Path(face["path"]).stat().st_size
    layers = json.loads(Path(face["path"]).with_suffix(".json").read_text())["report"]["layers"]
    assert sum(face["layers"].values()) == len(layers) > 0
    assert all(layer["precision"] for layer in layers)


def test_a_trunk_layer_that_stayed_in_float_is_named(
    robot: Robot, default_bundle: Path, capsys: Capture
) -> None:
    robot.bundle = default_bundle
    assert robot.build("--json") == 0
    sidecar = Path(json.loads(capsys.readouterr().out)["engines"][0]["path"]).with_suffix(".json")
    operators = json.loads(sidecar.read_text())["report"]["operators"]
    assert len(operators) > 4
    robot.knobs.float_layers = {operators[2]}
    assert robot.build("--rebuild") == 0
    face, _, _ = capsys.readouterr().out.partition("\nvoice: ")
    (finding,) = (line for line in face.splitlines() if line.startswith("  ! "))
    assert operators[2] in finding and "computes in fp32" in finding


def test_progress_is_on_the_status_line(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    err = Terminal()
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setenv("TERM", "xterm")
    assert robot.build() == 0
    assert "face: " in err.getvalue() and "%" in err.getvalue()
    assert "warning" not in err.getvalue()


def test_progress_says_how_far_each_graph_is(robot: Robot) -> None:
    told: list[tuple[str, str, float]] = []
    with Workbench(Bundle.read(robot.bundle), progress=lambda *step: told.append(step)) as workbench:
        assert [engine.graph for engine in workbench.engines()] == list(GRAPHS)
    for name in GRAPHS:
        fractions = [fraction for graph, _, fraction in told if graph == name]
        assert fractions == sorted(fractions) and len(fractions) > 3 and fractions[-1] == 1.0


def test_a_damaged_engine_is_said_and_built_again(robot: Robot, capsys: Capture) -> None:
    assert robot.build() == 0
    (engine,) = robot.engines.glob("tiny-voice-*.engine")
    engine.write_bytes(engine.read_bytes()[:-1])
    capsys.readouterr()
    assert robot.build() == 0
    out, err = capsys.readouterr()
    assert err == (
        "edgeemo: warning: the engine of voice is damaged: its file is not the one that was written: "
        "it is built again\n"
    )
    assert [", built in " in line for line in out.splitlines()[1::3]] == [False, True, False]


def test_what_is_measured_is_measured_again(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power mode and clocks may be others than at the last time."""
    assert robot.build() == 0
    assert load(robot, "auto")["voice"] == ("int8", "tensorrt")
    monkeypatch.setattr(choice, "measure", lambda tensorrt, onnx: Choice(tensorrt=1.0, onnx=0.5))
    assert load(robot, "auto")["voice"] == ("int8", "tensorrt")
    assert robot.build() == 0
    assert load(robot, "auto")["voice"] == ("int8-cpu", "onnxruntime")


# --- settings


def settings_of(robot: Robot, capsys: Capture, *words: str) -> list[tuple[bool, int | None]]:
    capsys.readouterr()
    assert robot.build("--json", *words) == 0
    return [
        (engine["built"], engine["dla_core"]) for engine in json.loads(capsys.readouterr().out)["engines"]
    ]


def test_settings_are_part_of_an_engine_and_hold_for_later_starts(robot: Robot, capsys: Capture) -> None:
    quick = ("--optimization-level", "0", "--workspace", "64")
    assert settings_of(robot, capsys) == settings_of(robot, capsys, *quick) == [(True, None)] * 3
    load(robot)
    assert robot.knobs.builds == 2 * len(GRAPHS)
    sidecars = [json.loads(path.read_text()) for path in robot.engines.glob("tiny-face-int8-*.json")]
    asked = {
        tuple(entry["key"]["settings"][name] for name in ("optimization_level", "workspace"))
        for entry in sidecars
        if "key" in entry
    }
    assert asked == {(3, 2**30), (0, 64 * 2**20)}
    # The one that was asked for last is opened: without it, the other would have to be built again.
    for path in robot.engines.glob("*.engine"):
        entry = json.loads(path.with_suffix(".json").read_text())
        if entry["key"]["settings"]["optimization_level"] == 3:
            path.unlink()
    load(robot)
    assert robot.knobs.builds == 2 * len(GRAPHS)


def test_an_engine_that_was_asked_for_again_is_the_one_that_is_opened(robot: Robot, capsys: Capture) -> None:
    settings_of(robot, capsys)
    settings_of(robot, capsys, "--optimization-level", "0")
    assert settings_of(robot, capsys) == [(False, None)] * 3
    for path in robot.engines.glob("*.engine"):
        if json.loads(path.with_suffix(".json").read_text())["key"]["settings"]["optimization_level"] == 0:
            path.unlink()
    load(robot)
    assert robot.knobs.builds == 2 * len(GRAPHS)


def test_settings_outlive_an_update_of_tensorrt(
    robot: Robot, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_of(robot, capsys, "--optimization-level", "1")
    monkeypatch.setattr(robot.trt, "__version__", "12.0.0")
    load(robot)
    sidecars = [json.loads(path.read_text()) for path in robot.engines.glob("tiny-face-int8-*.json")]
    levels = {
        entry["key"]["tensorrt"]: entry["key"]["settings"]["optimization_level"]
        for entry in sidecars
        if "key" in entry
    }
    assert levels == {robot.knobs.version: 1, "12.0.0": 1}


def test_a_dla_takes_what_it_can(robot: Robot, default_bundle: Path, capsys: Capture) -> None:
    robot.bundle = default_bundle
    robot.knobs.num_DLA_cores = 2
    told = settings_of(robot, capsys, "--precision", "fp16", "--dla", "1")
    assert [core for _, core in told] == [None, 1, None]  # face and fusion have a free size


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--dla", "0"), "precision is 'int8', and a DLA runs FP16 graphs alone; it must be 'fp16'"),
        (("--dla", "0", "--precision", "fp16"), "on Emulated GPU has no DLA cores: leave --dla out"),
    ],
)
def test_wrong_settings(words: tuple[str, ...], says: str, robot: Robot, capsys: Capture) -> None:
    assert robot.build(*words) == 2
    assert says in capsys.readouterr().err
    assert robot.knobs.builds == 0


def test_a_dla_core_that_there_is_not(robot: Robot, capsys: Capture) -> None:
    robot.knobs.num_DLA_cores = 2
    assert robot.build("--dla", "7", "--precision", "fp16") == 2
    out, err = capsys.readouterr()
    assert "has no DLA core 7: give --dla 0 or 1\n" in err and out == ""
    assert robot.knobs.builds == 0


@pytest.mark.parametrize(
    ("option", "given", "right"),
    [
        ("--workspace", ("0", "1.5", "", "1048577", f"1{'0' * 30}"), "whole megabytes, 1 to 1048576"),
        ("--optimization-level", ("-1", "6", "fast"), "a level, 0 to 5"),
        ("--dla", ("-1", "all"), "the number of a DLA core, 0 or more"),
        ("--cache", ("",), "the name of a folder"),
    ],
)
def test_options_that_are_none_are_explained(
    option: str, given: tuple[str, ...], right: str, capsys: Capture
) -> None:
    for text in given:
        with pytest.raises(SystemExit) as exit_:
            cli.main(["build", f"{option}={text}"])
        assert exit_.value.code == 2
        assert f"argument {option}: {text!r}: give {right}\n" in capsys.readouterr().err


# --- where engines are kept


def test_another_cache(robot: Robot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert robot.build("--cache", str(tmp_path / "shipped")) == 0
    assert not robot.engines.exists()
    monkeypatch.setenv("EDGEEMO_CACHE", str(tmp_path / "shipped"))
    load(robot)
    assert robot.knobs.builds == len(GRAPHS)


def test_a_relative_cache_is_told_in_full(
    robot: Robot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert robot.build("--cache", "shipped", "--json") == 0
    paths = [Path(engine["path"]).parent for engine in json.loads(capsys.readouterr().out)["engines"]]
    assert paths == [tmp_path / "shipped" / "engines"] * len(GRAPHS)


def test_a_cache_that_cannot_be_written_is_an_error(robot: Robot, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").touch()
    assert robot.build("--cache", str(tmp_path / "file")) == 2
    err = capsys.readouterr().err
    assert err.startswith("edgeemo: engines cannot be kept: Not a directory: ")
    assert "name a folder that can be written with --cache or EDGEEMO_CACHE" in err
    assert robot.knobs.builds == 0


def test_engines_that_could_not_be_kept_are_an_error_in_the_end(
    robot: Robot, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert robot.build("--json") == 2
    out, err = capsys.readouterr()
    told = json.loads(out)["engines"]
    assert [engine["path"] for engine in told] == [None] * len(GRAPHS)
    size = sum(engine["size"] for engine in told)
    assert err == (
        f"edgeemo: the engines of face, voice, fusion were not kept in {robot.engines} (No space left on "
        f"device); they need {size} bytes: make room there, or name a folder that can be written with "
        "--cache or EDGEEMO_CACHE\n"
    )
    assert robot.build() == 2
    assert capsys.readouterr().out.count("strong typing: not kept") == len(GRAPHS)
    assert os.listdir(robot.engines) == [LOCK]


def test_one_engine_that_could_not_be_kept(robot: Robot, capsys: Capture) -> None:
    assert robot.build() == 0
    (engine,) = robot.engines.glob("tiny-voice-*.engine")
    engine.unlink()
    engine.mkdir()
    capsys.readouterr()
    assert robot.build() == 2
    assert (
        f"the engines of voice were not kept in {robot.engines} (Is a directory: {engine}); they need "
        in (capsys.readouterr().err)
    )
    assert not list(robot.engines.glob("tiny-voice-*.choice.json"))


# --- where it does not work


def test_without_tensorrt_the_reason_is_told(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert cli.main(["build", "--bundle", str(bundle)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("edgeemo: TensorRT's ") and err.count("\n") == 1


def test_without_a_device_the_reason_is_told(bundle: Path, capsys: Capture) -> None:
    with cuda_double.installed("pycuda") as device, tensorrt_double.installed(VERSIONS[0], device):
        device.fail("cuInit", "CUDA_ERROR_NO_DEVICE", times=None)
        assert cli.main(["build", "--bundle", str(bundle)]) == 2
    assert "CUDA_ERROR_NO_DEVICE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("knob", "value", "says"),
    [
        ("refuse_build", "Error Code 10: no implementation", "no implementation"),
        ("refuse_plan", True, "refuses the engine"),
        ("refuse_plan", True, "; it was built here and now, so that another build will not help\n"),
        ("out_of_memory", "build", "out of memory"),
        ("out_of_memory", "context", "memory"),
    ],
)
def test_a_build_that_fails_says_why_and_keeps_nothing(
    knob: str, value: Any, says: str, robot: Robot, capsys: Capture
) -> None:
    setattr(robot.knobs, knob, value)
    assert robot.build() == 2
    out, err = capsys.readouterr()
    assert says in err.lower() or says in err
    assert "graph 'face'" in err and len(out.splitlines()) == 1
    assert not list(robot.engines.glob("*.engine"))


# --- trtexec


def test_trtexec_needs_no_tensorrt(bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    words = ["build", "--bundle", str(bundle), "--print-trtexec", "--optimization-level", "4"]
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line for line in out.splitlines() if line.startswith("#")] == [
        f"# {graph}, TensorRT {major}" for major in (10, 11) for graph in GRAPHS
    ]
    assert out.count("--builderOptimizationLevel=4") == 6
    assert f"--onnx={bundle}{os.sep}face.int8.onnx" in out
    assert cli.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["trtexec"]
    assert {major: list(graphs) for major, graphs in told.items()} == {"10": list(GRAPHS), "11": list(GRAPHS)}
    assert told["10"]["face"] in out


def test_trtexec_builds_for_as_many_faces_as_the_bundle_takes(tmp_path: Path) -> None:
    alone = Bundle.read(write_bundle(tmp_path, Tiny(modalities=("voice",))))
    (most,) = {word for word in trtexec(alone)["10"]["fusion"].split() if word.startswith("--maxShapes")}
    assert most == "--maxShapes=voice_mask:1x5"
    with pytest.raises(InputError, match="DLA"):
        trtexec(alone, "int8", Settings(dla_core=0))
