"""Figures of a measurement, and the command that gives them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeemo import cli
from edgeemo.bench.report import PERCENTILES, percentile
from tests.capture.media import write_clip
from tests.support.tiny import Tiny, write_bundle


@pytest.mark.parametrize(
    ("values", "part", "expected"),
    [
        ([7.0], 99, 7.0),
        (list(range(1, 101)), 50, 50),
        (list(range(1, 101)), 99, 99),
        (list(range(1, 102)), 99, 100),
        ([5, 3, 1, 2, 4], 90, 5),
        ([5, 3, 1, 2, 4], 50, 3),
    ],
)
def test_nearest_ranks(values: list[float], part: int, expected: float) -> None:
    assert percentile(values, part) == expected


@pytest.fixture
def heard(tmp_path: Path) -> list[str]:
    """Words of the command for a bundle that hears, and a voice."""
    folder = write_bundle(tmp_path / "tiny", Tiny(modalities=("voice",)))
    sound = write_clip(tmp_path / "voice.wav", sound=Tiny(sample_rate=48000).voice("fear", 0.5))
    return ["bench", "--bundle", str(folder), "--source", str(sound), "--seconds", "0.2"]


def test_the_command(heard: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*heard, "--precision", "fp32", "--json"]) == 0
    out, err = capsys.readouterr()
    written = json.loads(out)
    assert err == ""
    assert set(written) == {
        "bundle", "source", "seconds", "steps", "stages", "overhead", "overhead_tracked", "backend",
        "precision", "threads", "graphs", "detector", "machine", "versions",
    }  # fmt: skip
    assert set(written["stages"]) == {"voice", "fusion", "step_tracked"}
    for figures in written["stages"].values():
        assert set(figures) == {"p50", "p90", "p95", "p99", "n"}
        ranks = [figures[f"p{part}"] for part in PERCENTILES]
        assert ranks == sorted(ranks) and ranks[0] > 0 and figures["n"] == written["steps"] > 0
    assert written["stages"]["step_tracked"]["p99"] > written["stages"]["fusion"]["p50"]
    assert 0.2 <= written["seconds"] < 60
    assert written["overhead"] is None and 0 < written["overhead_tracked"] < 1
    assert (written["backend"], written["precision"], written["threads"]) == ("auto", "fp32", 1)
    assert written["graphs"]["voice"]["encoding"] == "fp32" and written["detector"] is None
    assert {"edgeemo", "python", "numpy", "onnxruntime", "av"} <= set(written["versions"])


def test_the_command_for_people(heard: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(heard) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["ms", "p50", "p90", "p95", "p99", "n"]
    assert [line.split()[0] for line in lines[2:6]] == ["voice", "fusion", "step_tracked", "overhead_tracked"]
    assert lines[5].endswith("%") and lines[-1].startswith("versions: edgeemo ")


def test_a_stage_that_never_ran_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_bundle(tmp_path / "tiny")
    sound = write_clip(tmp_path / "voice.wav", sound=Tiny(sample_rate=48000).voice("fear", 0.5))
    assert cli.main(["bench", "--bundle", str(folder), "--source", str(sound), "--seconds", "1e-9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"face: not measured, {sound} has nothing for it" in lines
    assert not any("voice: not measured" in line for line in lines)
    assert float(lines[0].split(" steps in ")[1].split()[0]) > 0  # the seconds that it took


def test_the_default_bundle_is_measured(capsys: pytest.CaptureFixture[str], default_bundle: Path) -> None:
    assert cli.main(["bench", "--seconds", "1", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert list(written["stages"]) == ["detect", "face", "voice", "fusion", "step", "step_tracked"]
    assert 0 < written["overhead"] < 1 and written["detector"] in ("cascade", "yunet")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "missing.mp4"], "missing.mp4: no such file"),
        (["--bundle", "nowhere"], "bundle nowhere: does not exist"),
        (["--detector", "nowhere.onnx"], "no file at nowhere.onnx"),
    ],
)
def test_wrong_input(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err


@pytest.mark.parametrize("seconds", ["0", "-1", "long"])
def test_wrong_usage(seconds: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["bench", f"--seconds={seconds}"])
    assert exit_.value.code == 2
