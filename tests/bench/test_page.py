"""The page of a measurement: what it shows, that it needs nothing else, and what it is drawn from."""

from __future__ import annotations

import copy
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from edgeemo.bench import charts
from edgeemo.bench.page import GLOSSARY, page, write_page
from edgeemo.errors import InputError
from tests.support import measured
from tests.support.json_schema import problems
from tests.support.pictures import outside, pictures, points

SAMPLES = measured.samples(200)
REPORT = measured.report(SAMPLES)


def words(text: str) -> str:
    root = ElementTree.fromstring(text)
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith(("style", "svg")):
                parent.remove(child)
    return " ".join(" ".join(root.itertext()).split())


def paths(picture: ElementTree.Element, kind: str) -> list[list[tuple[float, float]]]:
    found = (one for one in picture.iter() if one.attrib.get("class") == kind)
    return [list(points(one.attrib["d"])) for one in found]


def picture(svg: str) -> ElementTree.Element:
    (found,) = pictures(f"<p>{svg}</p>".replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"'))
    assert not outside(found)
    return found


@pytest.mark.parametrize("run", [(900, 5), (4000, 3), (300, 0), (30, 1), (1, 0), (1, 1)], ids=str)
def test_nothing_of_any_picture_is_cut_off(run: tuple[int, int]) -> None:
    samples = measured.samples(run[0], every=run[1])
    report = measured.report({"step_tracked": samples.get("step", []), **samples})
    report["stages"] = {name: figures for name, figures in report["stages"].items() if name in samples}
    found = pictures(page(report, samples))
    assert len(found) == 4
    for one in found:
        assert not outside(one)
        assert one.attrib["role"] == "img" and one.attrib["aria-label"]


def test_the_page_needs_no_other_file_and_runs_nothing(tmp_path: Path) -> None:
    write_page(REPORT, SAMPLES, tmp_path / "page.html", "edgeemo bench --seconds 60")
    text = (tmp_path / "page.html").read_text("utf-8")
    assert text == page(
        REPORT, SAMPLES, "edgeemo bench --seconds 60"
    ) and "command edgeemo bench --s" in words(text)
    root = ElementTree.fromstring(text)
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags.isdisjoint({"script", "img", "link", "image", "iframe", "use", "foreignObject"})
    for element in root.iter():
        for name, value in element.attrib.items():
            assert "//" not in value and not name.startswith("on") and name not in {"src", "href"}
    assert "url(" not in text and "@import" not in text
    (policy,) = (one for one in root.iter() if one.attrib.get("http-equiv") == "Content-Security-Policy")
    assert policy.attrib["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_the_page_says_what_the_report_says() -> None:
    said = words(page(REPORT, SAMPLES))
    for figures in REPORT["stages"].values():
        for part in ("p50", "p90", "p95", "p99"):
            assert f"{figures[part]:.3f}" in said
        assert f"({figures['low']['p50']:.3f} to {figures['high']['p50']:.3f})" in said
    assert f"({REPORT['stages']['update']['low']['p99']:.3f} to" not in said  # too few steps for one
    for expected in (
        "200 steps in 60 s of clip.mp4; single-stream; int8, 1 thread a graph call; onnxruntime 1.23.2 CPU",
        "Throttled: cpu-throttle-alert", "Coefficient of variation 12 %: clocks changed",
        "Not well known of update: p99 from 500 samples",
        "over the floor 2.50x", "412.3 hops a second", "544 ms to the first emotion", "120 MB peak",
        "power 7.10 W the processor alone", "power of the processor alone", "power at rest 2.25 W",
        "energy a hop 12.3 mJ", "energy a hop above rest 8.40 mJ",
        "milliseconds import 141 load 92 first 311 total 544 processor 612 Resident memory",
        "21.00 2.10 310 80 61", "INT8 193, FP32 49", "drop rate 1.25%",
        "dropped frames 3", "temperatures x86 pkg temp 51 63.5", "load 0.1, 0.1, 0 0.9, 0.3, 0.1",
        "on battery no no",
        "face int8-cpu, voice fp32", "rail package-0 7.1 W", "cuda events", "spin wait no", "graph yes",
        "By faces", "By precision", "engines, seconds face 31.5", "overhead tracked 8.3%", "detector cascade",
        "edgeemo 0.1.0", "face graph int8-cpu on onnxruntime 1.23.2 CPU",
    ):  # fmt: skip
        assert expected in said, expected
    for scanned in REPORT["scan"]["faces"]:
        assert f"{scanned['update']['p99']:.3f}" in said
    assert (
        "governor" not in said and "19,000" not in said and "None" not in said and "nan" not in said.lower()
    )
    for word in {*REPORT["stages"], "CV", "ratio", "result age"}:
        assert f"{word} {GLOSSARY[word]}" in said


def test_the_made_report_is_one_of_the_schema() -> None:
    schema = json.loads(files("edgeemo.bench").joinpath("report.schema.json").read_text("utf-8"))
    assert problems(REPORT, schema) == []


def test_every_stage_is_explained() -> None:
    assert set(charts.STAGES) <= GLOSSARY.keys()


def test_a_word_that_is_not_on_the_page_is_not_explained() -> None:
    heard = measured.samples(50, every=0)
    report = {**measured.report(heard), "live": None, "gpu": None, "energy": None}
    said = words(page(report, heard))
    for word in ("detect", "step", "live", "result age", "gpu", "energy"):
        assert GLOSSARY[word] not in said
    assert GLOSSARY["voice"] in said and GLOSSARY["step_tracked"] in said


def test_warnings_stand_before_the_figures() -> None:
    said = words(page(REPORT, SAMPLES))
    assert said.index("clocks changed") < said.index("over the floor") < said.index("What the figures mean")
    calm = {"before": {"load": 0.1}, "after": {}, "throttled": [], "warnings": []}
    quiet = {**REPORT, "conditions": calm, "enough": {"p99": True}, "advice": None}
    said = words(page(quiet, SAMPLES))
    assert "Read this first" not in said and "gave no cause for a warning" in said
    unstable = {**quiet, "warm_up": {"seconds": 9.0, "steps": 61, "stable": False}}
    assert "had not become stable" in words(page(unstable, SAMPLES))


OPTIONAL = (
    "when", "scenario", "throughput", "overhead", "overhead_tracked", "live", "warm_up", "enough",
    "advice", "early_stopping", "floor",
    "start_up", "memory", "engine_build", "scan", "conditions", "energy", "gpu", "detector",
)  # fmt: skip


@pytest.mark.parametrize(
    "gone", [*[(name,) for name in OPTIONAL], OPTIONAL], ids=lambda gone: gone[0] if len(gone) == 1 else "all"
)
@pytest.mark.parametrize("missing", [False, True])
def test_what_was_not_measured_is_not_on_the_page(gone: tuple[str, ...], missing: bool) -> None:
    report = {name: value for name, value in REPORT.items() if name not in gone}
    if not missing:
        report |= dict.fromkeys(gone)
    said = words(page(report, SAMPLES))
    assert "None" not in said and "null" not in said
    headings = {"live": " Live ", "floor": "The work of one update", "energy": " Energy ", "scan": "By faces"}
    for name, heading in headings.items():
        assert (heading in said) == (name not in gone)


def branches(tree: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for name, inner in tree.items() if isinstance(tree, dict) else ():
        yield (*before, name)
        yield from branches(inner, (*before, name))


KEPT = {
    "bundle",
    "source",
    "steps",
    "seconds",
    "stages",
    "precision",
    "threads",
    "graphs",
    "machine",
    "versions",
}
INSIDE = [
    *(
        where
        for where in branches({name: value for name, value in REPORT.items() if name not in KEPT | {"scan"}})
        if where[:2] != ("gpu", "graphs") or len(where) < 4  # one figure of a GPU is shown as any other
    ),
    *(("stages", "face", name) for name in ("low", "high", "mean", "min", "max", "cv")),
    ("stages", "latency"),
]


def test_any_figure_may_be_none() -> None:
    for where in INSIDE:
        report = copy.deepcopy(REPORT)
        inner: Any = report
        for name in where[:-1]:
            inner = inner[name]
        inner[where[-1]] = None
        text = page(report, SAMPLES if where[0] == "stages" else {})  # plots of samples are of stages alone
        assert "None" not in words(text), where


def test_text_is_text() -> None:
    nasty = "<script>\"&'</script>"
    report = measured.report(
        SAMPLES,
        bundle=nasty,
        source=nasty.replace("/", ""),
        when=nasty,
        detector=nasty,
        machine={"processor": nasty, nasty: nasty},
        versions={nasty: nasty},
        conditions={
            "before": {nasty: nasty},
            "after": {nasty: [nasty]},
            "throttled": [nasty],
            "warnings": [nasty],
        },
        energy={"source": nasty, "watts": None, "rails": {nasty: 1.0}},
        engine_build={nasty: 1.0},
        scan={nasty: [{"value": nasty, "update": REPORT["stages"]["update"]}]},
        graphs={nasty: {"engine": nasty, "encoding": nasty}},
    )
    report["stages"][nasty] = report["stages"]["face"]
    report["floor"]["graphs"][nasty] = report["floor"]["graphs"]["face"]
    text = page(report, SAMPLES, nasty)
    assert "<script" not in text
    assert words(text).count(nasty) >= 15
    assert not any(map(outside, pictures(text)))


def test_the_distribution_is_that_of_the_samples() -> None:
    # Of 1000 latencies 1, 2, ... ms: p50 is 500, p90 is 900, p99 is 990, and the curve ends at the largest.
    seconds = [index / 1000 for index in range(1000, 0, -1)]
    figures = {
        "p50": 500.0,
        "p99": 990.0,
        "low": {"p50": 480.0, "p99": None},
        "high": {"p50": 520.0, "p99": 1000.0},
    }
    found = picture(charts.distribution({"update": figures}, {"update": seconds}))
    (curve,) = paths(found, "line update")
    assert curve == sorted(curve, key=lambda point: (point[0], -point[1]))
    ticks = {
        one.text: float(one.attrib["x"]) for one in found.iter() if one.attrib.get("text-anchor") == "middle"
    }
    heights = {
        one.text: float(one.attrib["y"]) - 4 for one in found.iter() if one.attrib.get("text-anchor") == "end"
    }
    at = {
        share: min(curve, key=lambda point: abs(point[0] - ticks[share]))[1]
        for share in ("p50", "p90", "p99")
    }
    assert at["p50"] == pytest.approx(heights["500"], abs=0.5)
    decade = heights["10"] - heights["100"]
    assert heights["1000"] - at["p90"] == pytest.approx(-decade * 0.0458, abs=0.5)  # lg(1000/900)
    assert curve[-1][1] == pytest.approx(heights["1000"], abs=0.1)
    ((top, *_), *others) = paths(found, "whisker")
    assert top[0] == pytest.approx(ticks["p50"], abs=0.1) and not others


def test_the_distribution_ends_at_the_largest() -> None:
    found = picture(charts.distribution({}, {"update": [*[0.001] * 99, 0.02]}))
    (curve,) = paths(found, "line update")
    (height,) = (float(one.attrib["y"]) - 4 for one in found.iter() if one.text == "20")
    assert curve[-1][1] == pytest.approx(height, abs=0.1) and curve[-2][1] == curve[0][1] > height


def test_the_timeline_knows_the_steps_with_detection() -> None:
    every = [0.001, 0.006, 0.001, 0.002, 0.006, 0.001]
    found = picture(charts.timeline({"step_all": every, "step": [0.006, 0.006]}))
    (tracked,), (detected,) = paths(found, "dots tracking"), paths(found, "dots detection")
    places = [point[0] for point in detected[::2]]
    assert len(tracked) == 2 * 4 and len(places) == 2
    assert places[1] - places[0] == pytest.approx(3 * (tracked[2][0] - tracked[0][0]) / 2, abs=0.2)
    assert max(y for _, y in detected) < min(y for _, y in tracked)  # upwards is slower


def test_a_long_timeline_keeps_its_extremes() -> None:
    every = [0.001] * 20_000
    every[12_345] = 0.5
    text = charts.timeline({"step_all": every})
    found = picture(text)
    (spans,) = paths(found, "span tracking")
    assert len(text) < 20_000 and not paths(found, "dots tracking")
    heights = [y for _, y in spans]
    (column,) = {x for x, y in spans if y == min(heights)}
    low, high = min(x for x, _ in spans), max(x for x, _ in spans)
    assert (column - low) / (high - low) == pytest.approx(12_345 / 20_000, abs=0.005)
    (running,) = paths(found, "line running tracking")
    assert {y for _, y in running} == {max(heights)}  # a single slow step moves no median


def bars(found: ElementTree.Element) -> list[tuple[str, float]]:
    drawn = [one for one in found.iter() if one.tag.endswith("rect")]
    return [(one.attrib["class"], float(one.attrib["width"])) for one in drawn]


def test_the_stack_holds_the_medians_of_each_kind_of_hop() -> None:
    # Milliseconds of five hops, the second and the fourth with detection; voice ran in three of them.
    hops = {
        "capture": [1.0, 9.0, 1.2, 9.5, 0.8],
        "detect": [4.0, 5.0],
        "face": [0.5, 2.0, 0.6, 2.5, 0.4],
        "voice": [0.3, 0.7, 0.2],
        "decide": [0.1, 1.0, 0.2, 1.5, 0.3],
        "deliver": [0.2, 0.9, 0.4, 0.7, 0.3],
        "step": [8.0, 9.0],
        "step_tracked": [0.8, 0.9, 0.7],
        "step_all": [0.8, 8.0, 0.9, 9.0, 0.7],
    }
    samples = {name: [1e-3 * value for value in values] for name, values in hops.items()}
    found = picture(charts.stack(samples, ["face", "voice"], {"face": 0.125}))
    # Medians are nearest ranks, as in a report.
    expected = [
        *(
            ("capture", 9.0),
            ("detect", 4.0),
            ("face", 2.0),
            ("voice", 0.3),
            ("decide", 1.0),
            ("deliver", 0.7),
        ),
        *(("capture", 1.0), ("face", 0.5), ("voice", 0.3), ("decide", 0.2), ("deliver", 0.3)),
        ("face", 0.125),
    ]
    drawn = bars(found)
    assert [kind for kind, _ in drawn] == [kind for kind, _ in expected]
    unit = drawn[0][1] / 9.0
    for (_, wide), (_, value) in zip(drawn, expected, strict=True):
        assert wide == pytest.approx(value * unit, abs=0.2)
    left = min(float(one.attrib["x"]) for one in found.iter() if one.tag.endswith("rect"))
    marks = [mark[0][0] - left for mark in paths(found, "whisker")]
    assert marks == pytest.approx([17.9 * unit, 2.0 * unit], abs=0.2)  # whole hops: 17.9, 19.2; 2.0, 2.5, 1.8


def test_a_stack_of_one_kind_of_hop_has_one_row() -> None:
    tracked = {"face": [0.5, 0.6], "step_tracked": [0.8, 0.9], "step_all": [0.8, 0.9]}
    assert [kind for kind, _ in bars(picture(charts.stack(tracked, ["face"], {})))] == ["face"]
    detected = {"detect": [0.5, 0.6], "step": [0.8, 0.9], "step_all": [0.8, 0.9]}
    assert [kind for kind, _ in bars(picture(charts.stack(detected, ["face"], {})))] == ["detect"]


def test_scaling_is_a_line_through_its_medians() -> None:
    entries = [{"value": faces, "update": {"p50": 2.0 * faces, "p99": 3.0 * faces}} for faces in (1, 2, 4)]
    found = picture(charts.scaling(entries, "faces"))
    (middle,), (high,) = paths(found, "line update"), paths(found, "line high update")
    slope = (middle[1][1] - middle[0][1]) / (middle[1][0] - middle[0][0])
    assert (middle[2][1] - middle[1][1]) / (middle[2][0] - middle[1][0]) == pytest.approx(slope, rel=0.01)
    assert (high[1][1] - high[0][1]) / (high[1][0] - high[0][0]) == pytest.approx(1.5 * slope, rel=0.01)


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing/page\.html: cannot be written: No such file.*name a file"):
        write_page(REPORT, SAMPLES, tmp_path / "missing" / "page.html")


def test_no_path_of_this_machine_is_on_the_page() -> None:
    gpu = copy.deepcopy(REPORT["gpu"])
    gpu["graphs"]["face"]["trtexec"] = "trtexec '--loadEngine=/home/Anna Smith/face.engine' --noTF32"
    report = {**REPORT, "gpu": gpu, "source": "/home/Anna Smith/my clip.mp4"}
    command = "edgeemo bench --source '/home/Anna Smith/my clip.mp4' --html=/home/anna/page.html"
    text = page(report, SAMPLES, command)
    assert "Smith" not in text and "anna" not in text and "/home" not in text
    said = words(text)
    assert "command edgeemo bench --source 'my clip.mp4' --html=page.html" in said
    assert "trtexec trtexec '--loadEngine=face.engine' --noTF32" in said and "source my clip.mp4" in said


@pytest.mark.parametrize(
    ("joules", "said"), [(5e-5, "0.0500 mJ"), (0.175, "175 mJ"), (1.75, "1,750 mJ"), (50.0, "50,000 mJ")]
)
def test_energy_is_never_with_an_exponent(joules: float, said: str) -> None:
    report = {**REPORT, "energy": {"watts": 1234.5, "joules_per_emotion": joules}}
    text = words(page(report, SAMPLES))
    assert f"energy a hop {said}" in text and "power 1,234 W" in text and "e+" not in text


def test_large_figures_are_written_out() -> None:
    floor = {**REPORT["floor"], "rates": {"int8": 9999.8}}
    report = {**REPORT, "seconds": 36_000.4, "throughput": 12345.6, "floor": floor}
    text = words(page(report, SAMPLES))
    assert "steps in 36,000 s of" in text and "12,346 hops a second" in text and "INT8 10,000" in text


def test_a_graph_that_does_not_run_in_every_hop_is_told() -> None:
    note = "A graph that did not run in every hop"
    assert note not in words(page(REPORT, SAMPLES))
    assert note in words(page(REPORT, {**SAMPLES, "voice": SAMPLES["voice"][::2]}))
