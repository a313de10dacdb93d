from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgeemo import doctor
from edgeemo.errors import BackendError
from edgeemo.inference import backend as backend_module
from edgeemo.inference import jetson as jetson_module
from edgeemo.inference import readiness
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.choice import Choice
from edgeemo.inference.jetson import Jetson
from edgeemo.inference.readiness import BINDINGS, Machine

ORIN = Jetson("Orin board", "36.4.3", {"python3-libnvinfer": "10.3.0.30-1+cuda12.5"}, "25W (1)")
READY = Machine(ORIN, (12, 6), Path("/usr/lib/python3/dist-packages/tensorrt"), bindings=True, python=(3, 10))
NOTHING = Machine(None, None, None, bindings=False, python=(3, 12))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Machine]]:
    """What the machine under examination is: the test puts another one in."""
    found = [READY]
    monkeypatch.setattr(readiness, "survey", lambda: found[0])
    yield found


def test_a_machine_without_a_driver_is_no_reason_to_warn(machine: list[Machine]) -> None:
    machine[0] = NOTHING
    state, detail, advice = doctor.CHECKS["tensorrt"]()
    assert (state, advice) == ("ok", "")
    assert detail.startswith("no NVIDIA driver here; ONNX Runtime on the processor")
    assert doctor.NOT_YET_RUN in detail
    assert doctor.CHECKS["engines"]() == ("ok", "'auto' takes ONNX Runtime for every graph", "")


@pytest.mark.parametrize(
    ("lacks", "what", "advice"),
    [
        (replace(READY, driver=None), "no NVIDIA driver here", "--runtime nvidia"),
        (replace(READY, tensorrt=None), "this Python does not see it", "--system-site-packages"),
        (replace(READY, bindings=False), "no CUDA binding", "pip install 'cuda-bindings>=12.8,<13'"),
        (replace(NOTHING, driver=(12, 8)), "no TensorRT for this Python", "pip install tensorrt-cu12"),
    ],
)
def test_what_is_missing_is_named(lacks: Machine, what: str, advice: str, machine: list[Machine]) -> None:
    machine[0] = lacks
    state, detail, told = doctor.CHECKS["tensorrt"]()
    assert state == "warn"
    assert what in detail and doctor.NOT_YET_RUN in detail and advice in told
    assert doctor.CHECKS["engines"]()[0] == "ok"


def test_a_tensorrt_that_does_not_open(machine: list[Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeemo.inference.trt_library import TensorRt

    def fail() -> TensorRt:
        raise BackendError("TensorRT's libraries cannot be loaded: libnvdla_compiler.so: cannot open")

    monkeypatch.setattr(TensorRt, "open", fail)
    state, detail, advice = doctor.CHECKS["tensorrt"]()
    assert (state, advice) == ("warn", READY.advise("libnvdla"))
    assert detail.startswith("TensorRT's libraries cannot be loaded: libnvdla_compiler.so")
    assert doctor.CHECKS["engines"]() == ("ok", "'auto' takes ONNX Runtime for every graph", "")


@pytest.mark.parametrize(
    ("binding", "driver", "said", "advised"),
    [
        ("cuda-python", True, "cuInit failed: CUDA_ERROR_NO_DEVICE (", "CUDA_VISIBLE_DEVICES hides it; in a"),
        ("cuda-python", False, "does not find the NVIDIA driver's libcuda.so.1 (", "install NVIDIA's driver"),
        ("pycuda", False, "does not find the NVIDIA driver's libcuda.so.1 (", "install NVIDIA's driver"),
        (None, True, "no CUDA binding for Python is installed", f"pip install '{BINDINGS[12]}' for CUDA 12"),
    ],
)
def test_what_helps_is_said_once_and_as_the_advice(
    binding: str | None, driver: bool, said: str, advised: str, machine: list[Machine]
) -> None:
    from tests.support import cuda_double, tensorrt_double

    with (
        cuda_double.installed(binding, driver=driver) as device,
        tensorrt_double.installed("10.3.0", device),
    ):
        device.fail("cuInit", "CUDA_ERROR_NO_DEVICE", times=None)
        state, detail, advice = doctor.CHECKS["tensorrt"]()
    assert state == "warn" and said in detail and advised in advice
    assert advice not in detail and advised not in detail
    assert detail.endswith(f"; ONNX Runtime on the processor ({doctor.NOT_YET_RUN})")


@pytest.mark.parametrize(
    ("found", "state", "detail", "advice"),
    [
        (None, "ok", "no Jetson", ""),
        (ORIN, "ok", "Orin board, Jetson Linux 36.4.3 (JetPack 6.2), power mode 25W (1)", ""),
        (replace(ORIN, power_mode=""), "ok", "(JetPack 6.2), power mode unknown", ""),
        (replace(ORIN, linux=""), "ok", "Jetson Linux of unknown release, power mode 25W (1)", ""),
        (replace(ORIN, linux="35.4.1"), "warn", "Jetson Linux 35.4.1 (unknown)", "not among those"),
    ],
)
def test_board(
    found: Jetson | None, state: str, detail: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetson_module, "read_jetson", lambda: found)
    told = doctor.CHECKS["board"]()
    assert told[0] == state and detail in told[1] and advice in told[2]


def test_the_bundle_is_examined_without_building(monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> bool:
        raise AssertionError("'auto' was asked for, which builds engines")

    monkeypatch.setattr(backend_module, "tensorrt_installed", build)
    assert doctor.CHECKS["bundle"]()[0] == "ok"


# --- on emulated devices: what 'auto' takes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx", reason="the tiny bundle is written with onnx")
    from tests.support.tiny import write_bundle

    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def orin(
    folder: Path, machine: list[Machine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """An emulated Orin with TensorRT, the tiny bundle as the default one, and an empty cache."""
    from tests.support import cuda_double, tensorrt_double

    monkeypatch.setattr("edgeemo.recognition.recognizer.DEFAULT_BUNDLE", folder)
    monkeypatch.setenv("EDGEEMO_CACHE", str(tmp_path / "cache"))
    with (
        cuda_double.installed("cuda-python", integrated=True) as device,
        tensorrt_double.installed("10.3.0", device),
    ):
        yield folder
        device.assert_clean()


def build_engines(folder: Path, monkeypatch: pytest.MonkeyPatch, measured: Choice) -> None:
    """What 'edgeemo build' leaves behind where these times were measured."""
    from edgeemo.inference.backend import open_graphs

    monkeypatch.setattr("edgeemo.inference.choice.measure", lambda *graphs: measured)
    for graph in open_graphs(Bundle.read(folder), "auto").values():
        graph.close()


def test_tensorrt_opens(orin: Path) -> None:
    state, detail, advice = doctor.CHECKS["tensorrt"]()
    assert (state, advice) == ("ok", "")
    assert detail.startswith("10.3.0 on ") and "compute capability" in detail and "cuda-python" in detail
    assert doctor.NOT_YET_RUN in detail


def test_a_wheel_that_hides_jetpack_s(orin: Path, machine: list[Machine]) -> None:
    machine[0] = replace(READY, tensorrt=Path("/venv/lib/python3.10/site-packages/tensorrt"))
    state, detail, advice = doctor.CHECKS["tensorrt"]()
    assert state == "warn" and "which is not JetPack's" in detail and "pip uninstall tensorrt" in advice


def test_engines_that_are_not_built_are_not_built_now(
    orin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeemo.inference.jetson.free_memory", lambda: 2**33)
    state, detail, advice = doctor.CHECKS["engines"]()
    assert (state, advice) == ("warn", "edgeemo build")
    assert detail == "not measured yet for face, voice, fusion"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["a file", "others may write", "another user's"])
def test_where_nothing_can_be_kept_a_build_is_no_advice(
    place: str, orin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = tmp_path / "cache" / "engines"
    if place == "a file":
        (tmp_path / "cache").touch()
        wrong, mends = f"Not a directory: {engines}", "name a folder that can be written with EDGEEMO_CACHE"
    elif place == "others may write":
        engines.mkdir(parents=True)
        engines.chmod(0o775)
        wrong = f"others may write to {engines}, and an engine is code"
        mends = f"'chmod go-w {engines}' says that they may not"
    else:
        engines.mkdir(parents=True)
        user = engines.stat().st_uid
        monkeypatch.setattr(os, "geteuid", lambda: user + 1000)
        monkeypatch.setattr("edgeemo.inference.engines._ROOT", user + 1)
        wrong = f"{engines} belongs to user {user}, and an engine is code"
        mends = f"'sudo chown -R {user + 1000} {engines}' gives it to this user"
    state, detail, advice = doctor.CHECKS["engines"]()
    assert state == "warn" and advice == mends
    assert detail == f"not measured yet for face, voice, fusion; engines cannot be kept ({wrong})"


def test_a_ready_made_folder_needs_no_writing(
    orin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_engines(orin, monkeypatch, Choice(tensorrt=0.5, onnx=2.0))
    monkeypatch.setattr(os, "access", lambda *given: False)
    state, detail, advice = doctor.CHECKS["engines"]()
    assert (state, advice) == ("ok", "") and "cannot be kept" not in detail
    for engine in tmp_path.rglob("*-voice-*.engine"):
        engine.unlink()
    state, detail, advice = doctor.CHECKS["engines"]()
    assert state == "warn" and advice == "name a folder that can be written with EDGEEMO_CACHE"
    assert "not measured yet for voice; the engine of voice is damaged: its file is missing" in detail


@pytest.mark.parametrize(("free", "warns"), [(2**29, True), (2**31, False), (None, False)])
def test_too_little_memory_to_build(
    free: int | None, warns: bool, orin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeemo.inference.jetson.free_memory", lambda: free)
    advice = doctor.CHECKS["engines"]()[2]
    assert ("only 512 MB are free, and a layer may ask for 1024" in advice) == warns


@pytest.mark.parametrize(
    ("measured", "told"),
    [
        (Choice(tensorrt=0.5, onnx=2.0), "TensorRT for face (TensorRT 0.50 ms, ONNX Runtime 2.00 ms)"),
        (Choice(tensorrt=2.0, onnx=0.5), "ONNX Runtime for face (TensorRT 2.00 ms, ONNX Runtime 0.50 ms)"),
    ],
)
def test_the_faster_one_is_named(
    measured: Choice, told: str, orin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_engines(orin, monkeypatch, measured)
    state, detail, advice = doctor.CHECKS["engines"]()
    assert (state, advice) == ("ok", "")
    assert detail.startswith("'auto' takes ") and told in detail and detail.count(" for ") == 3


@pytest.mark.parametrize(
    ("knob", "value", "why"),
    [
        ("out_of_memory", "build", "out of memory while TensorRT built it"),
        (
            "refuse_build",
            "Error Code 9: API Usage Error (Target GPU SM 87 is not supported by this TensorRT release.)",
            "install a TensorRT for Emulated Orin (compute capability 8.7)",
        ),
    ],
)
def test_why_tensorrt_could_not_build_is_said(
    knob: str, value: str, why: str, orin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    knobs = sys.modules["tensorrt"]._double
    before = getattr(knobs, knob)
    setattr(knobs, knob, value)
    build_engines(orin, monkeypatch, Choice(tensorrt=0.5, onnx=2.0))
    state, detail, advice = doctor.CHECKS["engines"]()
    assert state == "warn" and advice.startswith("edgeemo build")
    for name in ("face", "voice", "fusion"):
        assert f"ONNX Runtime for {name} (the last build of its engine failed: graph '{name}': " in detail
    assert detail.count(why) == 3
    setattr(knobs, knob, before)
    build_engines(orin, monkeypatch, Choice(tensorrt=0.5, onnx=2.0))
    assert doctor.CHECKS["engines"]()[0] == "ok"


def test_a_damaged_engine_is_named(
    orin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    build_engines(orin, monkeypatch, Choice(tensorrt=0.5, onnx=2.0))
    (engine,) = tmp_path.rglob("*-voice-*.engine")
    engine.write_bytes(b"x")
    caplog.clear()
    with caplog.at_level(logging.WARNING, "edgeemo"):
        state, detail, advice = doctor.CHECKS["engines"]()
    assert state == "warn" and "the engine of voice is damaged" in detail and "edgeemo build" in advice
    assert "TensorRT for face" in detail
    assert not caplog.records
