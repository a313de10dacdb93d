"""Two reports side by side: what counts as worse, what cannot be compared, and what is no report."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeemo.bench
from edgeemo.bench.against import SCHEMA, TOLERANCES, Comparison, against, read_report
from edgeemo.bench.statistics import summarise
from edgeemo.errors import CheckFailed, InputError
from tests.support.json_schema import problems

Report = dict[str, Any]
Change = Callable[[Report], object]

WRITTEN = json.loads((Path(edgeemo.bench.__file__).parent / "report.schema.json").read_text("utf-8"))


def stage(milliseconds: float, n: int = 2000, seed: int = 0) -> Report:
    """Figures of a stage of about so many milliseconds."""
    return copy.deepcopy(figures(milliseconds, n, seed))


@functools.cache
def figures(milliseconds: float, n: int, seed: int) -> Report:
    spread = np.exp(0.03 * np.random.default_rng(seed).normal(size=n))
    return summarise(milliseconds / 1000 * spread).to_dict(1000)


def report() -> Report:
    """A report with all that a report may hold."""
    return {
        "schema": SCHEMA,
        "bundle": "default",
        "source": "/home/me/clip.mp4",
        "when": "2026-11-20T10:00:00Z",
        "seconds": 10.0,
        "steps": 2000,
        "scenario": "live",
        "stages": {"detect": stage(6.0), "face": stage(0.4), "step": stage(7.5), "decide": stage(0.02)},
        "throughput": 130.0,
        "overhead": 0.06,
        "overhead_tracked": None,
        "live": {"result_age": stage(60.0), "dropped": {"dropped_frames": 0}, "drop_rate": 0.0},
        "warm_up": {"seconds": 0.8, "steps": 61, "stable": True},
        "enough": {"p50": True, "p90": True, "p95": True, "p99": False},
        "floor": {
            "rates": {"int8": 193.0, "fp32": None},
            "graphs": {
                "face": {
                    "multiply_adds": {"int8": 20_000_000, "fp32": 100_000},
                    "bytes": {"weights": 400_000, "activations": 900_000},
                    "operators": 61,
                    "floor": 0.2,
                    "ratio": 1.9,
                }
            },
            "update": {"floor": 0.3, "ratio": 1.5},
        },
        "start_up": {"import": 150.0, "load": 120.0, "first": 90.0, "total": 400.0},
        "memory": {"import": 60.0, "loaded": 95.0, "steady": 110.0, "peak": 120.0},
        "engine_build": {"face": 12.5},
        "scan": {"faces": [{"value": 1, "update": stage(0.6), "encodings": {"face": "int8-cpu"}}]},
        "conditions": {
            "before": {"power_mode": "MAXN", "governors": ["schedutil"], "clocks": {"limit": 2200.0}},
            "after": {},
            "throttled": [],
            "warnings": ["the governor is schedutil"],
        },
        "energy": {"source": "ina3221", "watts": 7.5, "joules_per_emotion": 0.06, "rails": {"VDD_IN": 7.5}},
        "gpu": {"timing": "cuda events", "transfers": True, "graph": True, "spin_wait": False},
        "backend": "auto",
        "precision": "int8",
        "threads": 1,
        "graphs": {"face": {"engine": "ONNX Runtime 1.30.0", "encoding": "int8-cpu"}},
        "detector": "yunet",
        "machine": {
            "system": "Linux 5.15",
            "architecture": "aarch64",
            "processor": "NVIDIA Jetson Orin Nano",
            "cores": 6,
            "governor": "schedutil",
            "clock": 1510,
            "highest_clock": 1728,
        },
        "versions": {"edgeemo": "0.7.0", "onnxruntime": "1.30.0"},
    }


def changed(change: Change) -> Report:
    altered = report()
    change(altered)
    return altered


def compared(change: Change, **options: Any) -> Comparison:
    return against(report(), changed(change), **options)


def verdicts(found: Comparison) -> dict[str, str]:
    """What is not the same."""
    return {figure.name: figure.verdict for figure in found.figures if figure.verdict != "same"}


# --- the shape of a report


def test_a_report_fits_the_schema() -> None:
    assert problems(report(), WRITTEN) == []
    bare = report()
    for key in ("live", "floor", "start_up", "memory", "engine_build", "scan", "conditions", "energy", "gpu"):
        bare[key] = None
    assert problems(bare | {"throughput": None, "overhead": None, "detector": None}, WRITTEN) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda value: value.pop("steps"), "$.steps is missing"),
        (lambda value: value.update(schema=2), "$.schema is 2; it must be 1"),
        (
            lambda value: value.update(throughput="fast"),
            "$.throughput is 'fast'; it must be of type number or null",
        ),
        (lambda value: value.update(threads=True), "$.threads is True; it must be of type integer"),
        (lambda value: value.update(threads=0), "$.threads is 0; it must be at least 1"),
        (lambda value: value.update(scenario="server"), "$.scenario is 'server'; it must be one of"),
        (lambda value: value.update(thruoghput=1.0), "$.thruoghput is not in the schema"),
        (lambda value: value["live"].update(drop_rate=1.5), "$.live.drop_rate is 1.5; it must be at most 1"),
        (lambda value: value["stages"]["face"].pop("n"), "$.stages.face.n is missing"),
        (lambda value: value["stages"]["face"].pop("p90"), "$.stages.face.p90 is missing"),
        (lambda value: value["stages"]["face"]["low"].update(p50="?"), "$.stages.face.low.p50 is '?'"),
        (lambda value: value["conditions"]["throttled"].append(3), "$.conditions.throttled[0] is 3"),
        (lambda value: value["scan"]["faces"][0].pop("value"), "$.scan.faces[0].value is missing"),
    ],
)
def test_what_does_not_fit_the_schema_is_named(change: Change, problem: str) -> None:
    (found,) = problems(changed(change), WRITTEN)
    assert found.startswith(problem)


def test_a_schema_that_cannot_be_checked_is_refused() -> None:
    with pytest.raises(ValueError, match="no check for pattern"):
        problems("a", {"type": "string", "pattern": "b"})


# --- what is worse


def slower(name: str, factor: float, *, n: int = 2000) -> Change:
    """A stage that takes longer, measured again."""

    def change(value: Report) -> None:
        before = {"detect": 6.0, "face": 0.4, "step": 7.5, "decide": 0.02}[name]
        value["stages"][name] = stage(before * factor, n, seed=1)

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda value: None, {}),
        (slower("face", 1.0), {}),
        (slower("face", 1.03), {}),  # the intervals are apart, but so little is no matter
        (slower("face", 1.07), {"face p50": "worse"}),
        (slower("face", 1.12), {"face p50": "worse", "face p90": "worse"}),
        (slower("face", 1.3), {"face p50": "worse", "face p90": "worse", "face p99": "worse"}),
        (slower("face", 0.7), {"face p50": "better", "face p90": "better", "face p99": "better"}),
        (slower("decide", 1.2), {}),  # 4 microseconds
        (slower("face", 1.3, n=5), {"face p50": "unclear", "face p90": "worse", "face p99": "worse"}),
        (lambda value: value.update(throughput=115.0), {"throughput": "worse"}),
        (lambda value: value.update(throughput=150.0), {"throughput": "better"}),
        (lambda value: value.update(throughput=120.0), {}),
        (lambda value: value.update(overhead=0.09), {"overhead": "worse"}),
        (lambda value: value.update(overhead=0.069), {}),  # by 15 %, but of next to nothing
        (lambda value: value["memory"].update(peak=131.0), {"memory peak": "worse"}),
        (lambda value: value["memory"].update(peak=121.0, steady=100.0), {"memory steady": "better"}),
        (lambda value: value["start_up"].update(total=480.0), {}),
        (lambda value: value["start_up"].update(total=520.0), {"start_up total": "worse"}),
        (lambda value: value["energy"].update(joules_per_emotion=0.08), {"energy by ina3221": "worse"}),
        (lambda value: value["live"].update(drop_rate=0.02), {"drop_rate": "worse"}),
        (
            lambda value: value["live"].update(result_age=stage(75.0)),
            {"result_age p50": "worse", "result_age p90": "worse", "result_age p99": "worse"},
        ),
    ],
)
def test_verdicts(change: Change, expected: dict[str, str]) -> None:
    found = compared(change)
    assert verdicts(found) == expected
    turned = against(changed(change), report())
    mirrored = {"worse": "better", "better": "worse", "unclear": "unclear"}
    assert verdicts(turned) == {name: mirrored[verdict] for name, verdict in expected.items()}
    if "worse" in expected.values():
        with pytest.raises(CheckFailed):
            found.check()
    else:
        found.check()


def test_intervals_that_overlap_leave_it_unclear() -> None:
    wide = stage(0.4)
    wide["high"] = wide["high"] | {"p50": 0.6}
    old = changed(lambda value: value["stages"].update(face=wide))
    new = changed(slower("face", 1.3))
    found = against(old, new)
    assert verdicts(found) == {"face p50": "unclear", "face p90": "worse", "face p99": "worse"}
    wide["high"]["p50"] = 0.49
    assert verdicts(against(old, new))["face p50"] == "worse"


def test_the_failure_names_every_figure() -> None:
    found = compared(lambda value: (slower("step", 1.08)(value), value["memory"].update(peak=150.0)))
    with pytest.raises(CheckFailed) as failure:
        found.check()
    old, new = (side["stages"]["step"]["p50"] for side in (report(), changed(slower("step", 1.08))))
    assert str(failure.value) == (
        "worse than in the report of 2026-11-20T10:00:00Z: "
        f"step p50 {old:.5g} -> {new:.5g} ms (x {new / old:.3g}); memory peak 120 -> 150 MB (x 1.25)"
    )


def test_tolerances_can_be_set() -> None:
    change = slower("face", 1.12)
    assert verdicts(compared(change, tolerances={"p50": 0.2})) == {"face p90": "worse"}
    assert verdicts(compared(change, tolerances={"p50": 0.2, "p90": 0.2, "p99": 0.02})) == {
        "face p99": "worse"
    }


@pytest.mark.parametrize(("kind", "tolerance"), [("p42", 0.1), ("p50", -0.1), ("p50", float("nan"))])
def test_a_wrong_tolerance(kind: str, tolerance: float) -> None:
    with pytest.raises(InputError, match=f"'{kind}' of {tolerance}; .* one of {', '.join(TOLERANCES)}"):
        compared(lambda value: None, tolerances={kind: tolerance})


# --- what is told beside the figures


def test_versions_and_settings_may_change_and_are_told() -> None:
    def upgraded(value: Report) -> None:
        value["versions"] = {"edgeemo": "0.8.0", "onnxruntime": "1.31.0", "av": "14"}
        value["machine"]["governor"] = "performance"
        value["conditions"]["before"]["governors"] = ["performance"]
        value["graphs"]["face"]["engine"] = "ONNX Runtime 1.31.0"
        value["source"] = "elsewhere/clip.mp4"

    found = compared(upgraded)
    assert found.different == () and found.figures
    assert found.changed == (
        "edgeemo 0.7.0 -> 0.8.0",
        "onnxruntime 1.30.0 -> 1.31.0",
        "av none -> 14",
        "governor schedutil -> performance",
        "governors schedutil -> performance",
        "face ONNX Runtime 1.30.0 int8-cpu -> ONNX Runtime 1.31.0 int8-cpu",
    )
    found.check()
    assert "changed: onnxruntime 1.30.0 -> 1.31.0" in str(found).splitlines()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda value: value.update(bundle="other"), "bundle default -> other"),
        (lambda value: value.update(scenario="single-stream"), "scenario live -> single-stream"),
        (lambda value: value.update(backend="onnx"), "backend auto -> onnx"),
        (lambda value: value.update(precision="fp32"), "precision int8 -> fp32"),
        (lambda value: value.update(threads=2), "threads 1 -> 2"),
        (lambda value: value.update(detector=None), "detector yunet -> none"),
        (lambda value: value.update(source="other.mp4"), "source clip.mp4 -> other.mp4"),
        (
            lambda value: value["machine"].update(processor="a PC"),
            "processor NVIDIA Jetson Orin Nano -> a PC",
        ),
        (lambda value: value["machine"].update(cores=4), "cores 6 -> 4"),
        (lambda value: value["conditions"]["before"].update(power_mode="15W"), "power_mode MAXN -> 15W"),
        (lambda value: value["gpu"].update(transfers=False), "GPU transfers True -> False"),
    ],
)
def test_another_measurement_is_not_compared(change: Change, line: str) -> None:
    found = compared(change)
    assert found.different == (line,) and found.figures == () and found.missing == ()
    assert f"not comparable: {line}" in str(found).splitlines()
    with pytest.raises(
        CheckFailed, match=r"not comparable with the report of 2026-11-20T10:00:00Z: .*--scan"
    ):
        found.check()


def test_what_only_one_has_is_told_and_no_failure() -> None:
    def less(value: Report) -> None:
        value["stages"].pop("decide")
        value["energy"] = {**value["energy"], "source": "tegrastats"}
        value.update(live=None, gpu=None, overhead=None, overhead_tracked=0.1, conditions=None)

    found = compared(less)
    assert found.missing == (
        "decide p50", "decide p90", "decide p99", "drop_rate", "energy by ina3221", "energy by tegrastats",
        "overhead", "overhead_tracked", "result_age p50", "result_age p90", "result_age p99",
    )  # fmt: skip
    found.check()
    assert f"only in one: {', '.join(found.missing)}" in str(found).splitlines()


def test_a_table_for_people_and_an_object_for_programs() -> None:
    found = compared(slower("face", 1.07))
    lines = str(found).splitlines()
    assert lines[0] == "against the report of 2026-11-20T10:00:00Z"
    assert lines[1].split() == ["old", "new", "ratio"]
    rows = {" ".join(line.split()[:2]): line.split()[2:] for line in lines[2:-1]}
    old, new, ratio, unit, verdict = rows["face p50"]
    assert (float(ratio), unit, verdict) == (pytest.approx(float(new) / float(old), abs=1e-3), "ms", "worse")
    assert rows["memory peak"] == ["120", "120", "1.000", "MB"]
    assert lines[-1] == f"1 worse, 0 better, 0 unclear, {len(found.figures) - 1} same"
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert written["comparable"] is True and written["regressions"] == ["face p50"]
    assert written["figures"]["face p50"] == {
        "kind": "p50",
        "old": float(old),
        "new": float(new),
        "ratio": pytest.approx(1.07, abs=0.01),
        "verdict": "worse",
    }
    assert written["figures"]["drop_rate"]["ratio"] is None


# --- reading a report


def test_a_report_is_read_with_keys_of_a_later_one(tmp_path: Path) -> None:
    later = report() | {"humidity": {"before": 0.4}}
    later["stages"]["face"]["p999"] = 0.9
    path = tmp_path / "report.json"
    path.write_text(json.dumps(later) + "\n", "utf-8")
    read = read_report(path)
    assert read == later
    against(read, report()).check()


def test_a_report_with_nothing_but_stages_is_read(tmp_path: Path) -> None:
    bare = report()
    for key in (
        "live",
        "start_up",
        "memory",
        "energy",
        "gpu",
        "conditions",
        "throughput",
        "overhead",
        "floor",
    ):
        bare[key] = None
    bare["stages"]["face"] |= {"low": None, "high": None}
    path = tmp_path / "report.json"
    path.write_text(json.dumps(bare), "utf-8")
    found = against(read_report(path), changed(slower("face", 1.3)))
    assert set(verdicts(found).values()) == {"unclear"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.pop("schema"), "'schema' is missing"),
        (lambda value: value.update(schema=2), "'schema' is 2; it must be 1"),
        (lambda value: value.pop("when"), "'when' is missing; it must be a text"),
        (lambda value: value.update(scenario="server"), "'scenario' is \"server\"; it must be one of"),
        (lambda value: value.update(stages=[]), "'stages' is []; it must be an object"),
        (lambda value: value["stages"].update(face=3), "'stages.face' is 3; it must be an object"),
        (lambda value: value["stages"]["face"].pop("p99"), "'stages.face.p99' is missing"),
        (
            lambda value: value["stages"]["face"].update(p50=-1),
            "'stages.face.p50' is -1; it must be a number in",
        ),
        (lambda value: value["stages"]["face"]["low"].update(p50="?"), "'stages.face.low.p50' is \"?\""),
        (lambda value: value["stages"]["face"].update(high=1), "'stages.face.high' is 1"),
        (lambda value: value.update(throughput="fast"), "'throughput' is \"fast\"; it must be a number"),
        (lambda value: value["memory"].update(peak=True), "'memory.peak' is true; it must be a number"),
        (lambda value: value["live"].pop("result_age"), "'live.result_age' is missing"),
        (lambda value: value["machine"].pop("processor"), "'machine.processor' is missing"),
        (lambda value: value["versions"].update(av=14), "'versions.av' is 14; it must be a text"),
        (lambda value: value.update(graphs=[]), "'graphs' is []; it must be an object"),
        (
            lambda value: value["graphs"].update(face="int8"),
            "'graphs.face' is \"int8\"; it must be an object",
        ),
        (lambda value: value.update(gpu="yes"), "'gpu' is \"yes\"; it must be an object"),
        (
            lambda value: value["conditions"].update(before=[]),
            "'conditions.before' is []; it must be an object",
        ),
    ],
)
def test_what_is_no_report_is_refused_by_its_key(tmp_path: Path, change: Change, message: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(changed(change)), "utf-8")
    with pytest.raises(InputError) as error:
        read_report(path)
    assert str(error.value).startswith(f"report {path}: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is not valid JSON"),
        (b"ms p50 p90\n", "it is not valid JSON"),
        (b"[1]", "it is [1]; it must be a JSON object"),
        ('{"bundle": "ü"}'.encode("latin-1"), "it is not UTF-8"),
        (json.dumps(report() | {"overhead": float("nan")}).encode(), "it holds NaN"),
        (None, "No such file"),
    ],
)
def test_what_is_no_file_of_a_report(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_report(path)
    assert str(error.value).startswith(f"report {path}: {message}") and "edgeemo bench --json" in str(
        error.value
    )
    with pytest.raises(InputError, match=r"Is a directory|Permission denied"):
        read_report(tmp_path)
