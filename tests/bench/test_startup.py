"""Starts of new processes: phases that add up, errors that come through, and what each process is given."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import edgeemo
from edgeemo.bench import startup
from edgeemo.bench.first_emotion import timed
from edgeemo.bench.startup import start_up
from edgeemo.errors import BundleError, EdgeEmoError, InputError, SourceError
from tests.capture.media import write_clip
from tests.support.tiny import Tiny, write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny", Tiny(modalities=("voice",)))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sound = Tiny(sample_rate=48000).voice("fear", 1.0)
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mkv", sound=sound)


def test_a_start_in_its_phases(
    bundle: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))
    found = start_up(bundle, clip, backend="onnx", runs=1)
    phases = [found.times[name] for name in startup.PHASES]
    assert all(phase > 0 for phase in phases)
    assert found.times["total"] == pytest.approx(sum(phases), abs=0.1)
    assert found.lowest == found.times  # of one process
    assert found.processor > 0
    assert found.compiled == 0 and any(tmp_path.rglob("recognizer.*.pyc"))
    assert "compiled" not in str(found)
    assert found.to_dict()["total"] == found.times["total"]
    if sys.platform == "linux":
        held = [found.memory[name] for name in ("import", "loaded", "first", "steady", "peak")]
        assert None not in held and held[0] < held[1] < held[2] <= held[4]  # type: ignore[operator]


def test_modules_without_bytecode_are_counted(
    bundle: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))
    found = start_up(bundle, clip, backend="onnx", runs=1)
    assert found.compiled > 10
    assert f"{found.compiled} modules compiled each time" in str(found)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"source": "none.mp4"}, SourceError, "none.mp4: no such file"),
        ({"bundle": "nowhere"}, BundleError, "nowhere"),
        ({"precision": "int4"}, InputError, "precision is 'int4'"),
        ({"detector": "none.onnx"}, InputError, "no file at none.onnx"),
        ({"runs": 0}, InputError, "runs: 0"),
    ],
)
def test_an_error_of_the_process_is_raised_here(
    change: dict[str, Any], error: type[EdgeEmoError], says: str, bundle: Path, clip: Path
) -> None:
    with pytest.raises(error, match=says) as caught:
        start_up(**{"bundle": bundle, "source": clip, **change})
    assert type(caught.value) is error


def test_a_source_without_a_hop(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edgeemo, "watch", lambda source, model: iter(()))
    with pytest.raises(InputError, match=r"short\.wav: there is no hop in it to answer"):
        timed("short.wav", str(bundle), "onnx", "int8", "1", "")


def test_a_process_that_dies_is_told_with_its_last_words(
    bundle: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.py"
    text.write_text("import sys\nsys.exit('no room left')")
    monkeypatch.setattr(startup, "_TEXT", text)
    with pytest.raises(EdgeEmoError, match="ended with status 1: no room left"):
        start_up(bundle, clip)


def test_the_first_process_is_not_counted_and_the_middle_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = iter([9.0, 0.3, 0.1, 0.2])
    begun: list[Sequence[str]] = []

    def run(command: Sequence[str], **options: Any) -> Any:
        assert "env" not in options and not options.get("shell")
        begun.append(command)
        seconds = {"import": 0.01, "load": next(loads), "first": 0.05}
        told = {
            "seconds": seconds,
            "processor": 0.02 * len(begun),
            "memory": {"peak": 100.0 + len(begun)},
            "compiled": 0,
        }
        return SimpleNamespace(
            returncode=0, stdout=f"a library says\n{startup.json.dumps(told)}\n", stderr=""
        )

    monkeypatch.setattr(subprocess, "run", run)
    found = start_up(None, "clip.mp4", backend="onnx", threads=2, runs=3)
    assert found.times == {"import": 10, "load": 200, "first": 50, "total": 260}
    assert found.lowest == {"import": 10, "load": 100, "first": 50, "total": 160}
    assert found.memory == {"peak": 103}
    assert len(begun) == 4
    assert all(command[-6:] == ["clip.mp4", "", "onnx", "int8", "2", ""] for command in begun)
    assert str(found).splitlines() == [
        "start-up: import 10 + load 200 + first 50 = 260 ms "
        "(lowest 160, processor 60; 3 processes, files cached)",
        "memory: peak 103 MB",
    ]
