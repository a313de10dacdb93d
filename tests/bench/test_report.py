"""The command that measures: what it says, writes and refuses."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from edgeemo import cli
from edgeemo.bench import command, gpu, measure, scan
from edgeemo.bench import report as reporting
from edgeemo.bench.charts import STAGES
from edgeemo.bench.report import bench
from edgeemo.bench.statistics import PERCENTILES, WarmUp
from tests.capture.media import write_clip
from tests.support.json_schema import problems
from tests.support.tiny import Tiny, write_bundle

SCHEMA = json.loads(Path(reporting.__file__).with_name("report.schema.json").read_text())


@pytest.fixture(autouse=True)
def _soon_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a warm-up lasts until it gives up."""
    monkeypatch.setattr(measure, "WarmUp", lambda: WarmUp(least=0.0, steps=6, most=0.0))


@pytest.fixture
def heard(tmp_path: Path) -> list[str]:
    """Words of the command for a bundle that hears, and a voice."""
    folder = write_bundle(tmp_path / "tiny", Tiny(modalities=("voice",)))
    sound = write_clip(tmp_path / "voice.wav", sound=Tiny(sample_rate=48000).voice("fear", 0.5))
    return ["bench", "--bundle", str(folder), "--source", str(sound), "--seconds", "0.2", "--steps-only"]


def written(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert cli.main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    value: dict[str, Any] = json.loads(out)
    assert problems(value, SCHEMA) == []
    return value


def test_the_command(heard: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = written([*heard, "--precision", "fp32"], capsys)
    stages = ["capture", "voice", "fusion", "decide", "deliver", "update"]
    assert list(found["stages"]) == [*stages, "step_tracked", "step_all", "latency"]
    for figures in found["stages"].values():
        ranks = [figures[f"p{part}"] for part in PERCENTILES]
        assert ranks == sorted(ranks) and ranks[0] > 0 and figures["n"] == found["steps"] > 0
        assert figures["min"] <= figures["mean"] <= figures["max"]
    assert found["stages"]["latency"]["p50"] > found["stages"]["step_tracked"]["p50"]
    assert found["stages"]["update"]["p50"] > found["stages"]["fusion"]["p50"]
    assert 0.2 <= found["seconds"] < 60 and found["throughput"] > 1
    assert found["overhead"] is None and 0 < found["overhead_tracked"] < 1
    assert (found["backend"], found["precision"], found["threads"]) == ("auto", "fp32", 1)
    assert found["graphs"]["voice"]["encoding"] == "fp32" and found["detector"] is None
    assert found["scenario"] == "single-stream" and found["live"] is None
    assert found["warm_up"]["steps"] > 0 and set(found["enough"]) == {"p50", "p90", "p95", "p99"}
    assert found["early_stopping"]["update"]["p99"] is None  # it asks for 662
    assert found["floor"] is None and found["start_up"] is None and found["scan"] is None
    assert {"edgeemo", "python", "numpy", "onnxruntime", "av"} <= set(found["versions"])


def test_the_command_for_people(heard: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*heard, "--scan", "precision"]) == 0
    out = capsys.readouterr().out
    lines = out[out.index("\nms ") + 1 :].splitlines()
    assert lines[0].split() == ["ms", "p50", "p90", "p95", "p99", "n"]
    stages = [line.split()[0] for line in lines[1:10]]
    assert stages == [name for name in STAGES if name in stages] and len(stages) == 9
    assert any(line.startswith("overhead_tracked") and line.endswith("%") for line in lines)
    assert [line.split()[1] for line in lines if line.startswith("precision ")] == ["int8", "fp32"]
    assert any(line.startswith("versions: edgeemo ") for line in lines)


@pytest.mark.parametrize("axis", ["faces", "threads", "backend"])
def test_an_axis(axis: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_bundle(tmp_path / "tiny")
    sound = write_clip(tmp_path / "voice.wav", sound=Tiny(sample_rate=48000).voice("fear", 0.5))
    words = ["bench", "--bundle", str(folder), "--source", str(sound), "--seconds", "0.1", "--steps-only"]
    points = written([*words, "--scan", axis], capsys)["scan"][axis]
    assert points[0]["value"] == ("onnx" if axis == "backend" else 1)
    for point in points:
        assert point["update"]["n"] >= 50
        assert point["update"]["p50"] >= max(point[name]["p50"] for name in ("face", "voice", "fusion"))
    if axis == "faces":
        assert [point["value"] for point in points] == [1, 2, 4, 8, 16]


def test_an_axis_that_the_bundle_lacks(heard: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*heard, "--scan", "faces"]) == 2
    assert "scan faces: the bundle tiny reads no face" in capsys.readouterr().err


def test_a_live_source(heard: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = written([*heard, "--live"], capsys)
    assert found["scenario"] == "live" and found["live"]["result_age"]["p50"] > 0
    assert 0 <= found["live"]["drop_rate"] <= 1 and found["seconds"] > 1


def test_a_stage_that_never_ran_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_bundle(tmp_path / "tiny")
    sound = write_clip(tmp_path / "voice.wav", sound=Tiny(sample_rate=48000).voice("fear", 0.5))
    words = ["bench", "--bundle", str(folder), "--source", str(sound), "--seconds", "1e-9", "--steps-only"]
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"face: not measured, {sound} has nothing for it" in lines
    assert not any("voice: not measured" in line for line in lines)
    assert float(lines[0].split(" steps in ")[1].split()[0]) > 0  # the seconds that it took


def test_the_default_bundle_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], default_bundle: Path
) -> None:
    page = tmp_path / "report.html"
    found = written(["bench", "--seconds", "1", "--html", str(page)], capsys)
    assert [name for name in STAGES if name != "text"] == list(found["stages"])
    assert 0 < found["overhead"] < 1 and found["detector"] in ("cascade", "yunet")
    for graph in (*found["floor"]["graphs"].values(), found["floor"]["update"]):
        assert graph["floor"] > 0 and graph["ratio"] > 0
    assert found["floor"]["graphs"].keys() == {"face", "voice", "fusion"}
    parts = [found["start_up"][name] for name in ("import", "load", "first")]
    assert sum(parts) == pytest.approx(found["start_up"]["total"], rel=0.5)  # medians of several starts
    assert found["memory"]["peak"] >= found["memory"]["steady"] > found["memory"]["import"] > 0
    assert "edgeemo bench --seconds 1 --html" in page.read_text()


@pytest.mark.parametrize(("factor", "status"), [(100.0, 0), (0.01, 1)])
def test_a_report_is_compared_with_an_older_one(
    factor: float,
    status: int,
    heard: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = bench(heard[2], heard[4], reporting.Options(seconds=0.1, steps_only=True))
    monkeypatch.setattr(reporting, "bench", lambda *given, **named: found)
    older = found.to_dict()
    figures = older["stages"]["update"]
    for part in (figures, figures["low"], figures["high"]):
        part["p50"] *= factor
    (tmp_path / "older.json").write_text(json.dumps(older))
    assert cli.main([*heard, "--against", str(tmp_path / "older.json"), "--json"]) == status
    out, err = capsys.readouterr()
    compared = json.loads(out)["against"]
    assert compared["comparable"] and compared["regressions"] == ["update p50"] * status
    assert ("worse than in the report of" in err and "update p50" in err) == bool(status)


def test_a_page_that_was_not_written_leaves_no_file(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert cli.main(["bench", "--source", "missing.mp4", "--steps-only", "--html", str(page)]) == 2
    assert not page.exists()


def test_the_words_of_the_command_are_those_of_its_parts() -> None:
    """They are written out there, so that no verb waits for what only a measurement imports."""
    parser = argparse.ArgumentParser()
    command.add_options(parser, int, float)
    choices = {action.dest: action.choices for action in parser._actions}
    assert tuple(choices["scan"] or ()) == scan.AXES and tuple(choices["like"] or ()) == tuple(gpu.LIKE)


def test_an_older_report_of_another_kind_is_refused_at_once(
    heard: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    older = bench(heard[2], heard[4], reporting.Options(seconds=0.1, steps_only=True)).to_dict()
    (tmp_path / "older.json").write_text(json.dumps(older))
    monkeypatch.setattr(reporting, "bench", None)
    words = [*heard, "--against", str(tmp_path / "older.json"), "--threads", "2", "--precision", "fp32"]
    assert cli.main(words) == 2
    assert "it was measured with precision int8, not fp32; threads 1, not 2" in capsys.readouterr().err


def test_a_roofline_and_a_table_measure_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, default_bundle: Path
) -> None:
    monkeypatch.setattr(reporting, "bench", None)
    assert cli.main(["bench", "--device", "orin-nano-8gb", "--json"]) == 0
    graphs = json.loads(capsys.readouterr().out)["graphs"]
    assert set(graphs) == {"face", "voice", "fusion"}
    assert {graph["bound"] for graph in graphs.values()} <= {"compute", "memory", "launch"}
    assert cli.main(["bench", "--table", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "No device has been measured yet.\n"
    assert cli.main(["bench", "--device", "toaster"]) == 2
    assert "orin-nano-8gb" in capsys.readouterr().err


def test_the_life_of_a_stream(heard: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status = cli.main([*heard[:5], "--age", "60", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert status == (found["verdict"] == "grows") and found["hops"] > 600
    assert cli.main([*heard[:5], "--age", "10"]) == 2
    assert "age: 10 s; it must be at least 60 s" in capsys.readouterr().err


def test_samples_are_kept_beside_the_figures(heard: list[str]) -> None:
    found = bench(heard[2], heard[4], reporting.Options(seconds=0.1, steps_only=True))
    assert {name: len(seconds) for name, seconds in found.samples.items()} == {
        name: one.n for name, one in found.stages.items()
    }
    assert "samples" not in found.to_dict()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "missing.mp4"], "missing.mp4: no such file"),
        (["--bundle", "nowhere"], "bundle nowhere: does not exist"),
        (["--detector", "nowhere.onnx"], "no file at nowhere.onnx"),
        (["--against", "nowhere.json"], "report nowhere.json: No such file"),
        (["--html", "nowhere/page.html"], "--html nowhere/page.html: cannot be written: No such file"),
        (["--age", "60", "--live", "--html", "a.html"], "--age: --html, --live would do nothing beside it"),
        (["--device", "thor-t5000", "--table", "x"], "--device: --table would do nothing beside it"),
        (["--table", "nowhere"], "nowhere"),
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
