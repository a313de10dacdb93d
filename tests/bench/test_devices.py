"""The table of devices: its rows, what may not be published, and that the page is what the folder gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeemo.bench import devices
from edgeemo.bench.devices import (
    BEGIN,
    CLIP,
    EMPTY,
    END,
    add,
    personal,
    publish,
    rewritten,
    table,
    without_paths,
)
from edgeemo.cli import DEMO
from edgeemo.errors import InputError
from tests.support import measured

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "deploy" / "bench" / "README.md"
SAMPLES = measured.samples(50)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    (tmp_path / "README.md").write_text(f"# Devices\n\n{BEGIN}\n\n{EMPTY}\n\n{END}\n\nthe rest\n")
    return folder


def put(folder: Path, name: str, **changed: Any) -> dict[str, Any]:
    report = measured.report(SAMPLES, **changed)
    (folder / f"{name}.json").write_text(json.dumps(report))
    return report


def cells(rows: str) -> list[dict[str, str]]:
    head, rule, *lines = (line[2:-2].split(" | ") for line in rows.splitlines())
    assert set("".join(rule)) <= set("-:")
    return [dict(zip(head, line, strict=True)) for line in lines]


def test_the_page_holds_what_the_folder_gives() -> None:
    page = PAGE.read_text("utf-8")
    assert rewritten(page, table(PAGE.parent / "results")) == page


def test_published_reports_tell_of_nobody() -> None:
    for path in (PAGE.parent / "results").glob("*.json"):
        assert [*personal(json.loads(path.read_text("utf-8")))] == [], path


def test_without_a_device_the_table_says_so(results: Path) -> None:
    assert table(results) == EMPTY


@pytest.mark.parametrize("name", ["missing", "../README.md"])
def test_what_is_no_folder_has_no_table(results: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}: no such folder; name one of reports"):
        table(results / name)


def test_the_clip_of_every_device_is_the_one_in_the_package() -> None:
    assert DEMO.name == CLIP and DEMO.is_file()


def test_one_device_is_one_row(results: Path) -> None:
    stages = put(results, "Some_board_8_GB,_25_W")["stages"]
    (row,) = cells(table(results))
    assert row == {
        "device": "Some board 8 GB, 25 W",
        "processor": "Some CPU @ 2.9 GHz",
        "engine": "onnxruntime 1.23.2 CPU",
        "precision": "int8",
        "threads": "1",
        "mode": "25W",
        "update p50 / p99, ms": f"{stages['update']['p50']:.2f} / {stages['update']['p99']:.2f}",
        "step, tracking p50, ms": f"{stages['step_tracked']['p50']:.2f}",
        "step, detection p50, ms": f"{stages['step']['p50']:.2f}",
        "start-up, ms": "544",
        "memory, MB": "120",
        "power, W": "7.10",
        "mJ a hop": "12.3",
        "power of": "the processor alone",
        "versions": "edgeemo 0.1.0, python 3.11.7",
        "date": "2026-03-04",
    }


def test_what_nobody_measured_has_no_column_and_what_one_did_not_is_blank(results: Path) -> None:
    put(results, "plain", energy=None, start_up={"total": None})
    assert {"power, W", "mJ a hop", "power of", "start-up, ms"}.isdisjoint(cells(table(results))[0])
    put(results, "metered", start_up=None, stages={})
    metered, plain = cells(table(results))
    assert metered["power, W"] == "7.10" and plain["power, W"] == ""
    assert metered["update p50 / p99, ms"] == "" and plain["update p50 / p99, ms"] != ""
    assert "start-up, ms" not in plain


def test_rows_are_by_device_and_precision(results: Path) -> None:
    put(results, "beta")
    put(results, "Alpha_int8")
    put(results, "Alpha_fp32", precision="fp32", threads=4)
    assert [row["device"] for row in cells(table(results))] == ["Alpha fp32", "Alpha int8", "beta"]


def test_a_cell_cannot_break_the_table(results: Path) -> None:
    put(results, "plain", machine={"processor": "a | b\n<img> [x](y) `z`", "architecture": "x"})
    (row,) = table(results).splitlines()[2:]
    assert r"a \| b &lt;img> \[x\](y) \`z\`" in row


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", "wrong.json: it is not valid JSON: .*; give what `edgeemo bench --json` wrote"),
        ("[]", "wrong.json: it is .*; it must be a JSON object"),
        ('{"schema": 2}', "wrong.json: 'schema' is 2; it must be 1"),
        ('{"schema": 1, "bundle": "default"}', "wrong.json: 'source' is missing; .*; give what"),
        *(
            (json.dumps(measured.report(SAMPLES, **changed)), error)
            for changed, error in (
                ({"source": "anna/clip.mp4"}, "'source' is 'anna/clip.mp4', not a name alone"),
                ({"energy": {"watts": "7"}}, "wrong.json: 'energy.watts' is \"7\"; it must be a number"),
                ({"energy": {"joules_per_emotion": "7"}}, "'energy.joules_per_emotion' is \"7\"; it must"),
                ({"energy": {"scope": 7}}, "'energy.scope' is 7; it must be a text"),
                ({"start_up": {"total": "1 s"}}, "'start_up.total' is \"1 s\"; it must be a number"),
                ({"memory": {"peak": []}}, "'memory.peak' is .*; it must be a number"),
                ({"stages": {"step": {"p50": "1"}}}, "'stages.step.p50' is \"1\"; it must be a number"),
                ({"graphs": {"face": {}}}, "'graphs.face.engine' is missing; it must be a text"),
                ({"conditions": {"after": ["25W"]}}, "'conditions.after' is .*; it must be an object"),
                ({"when": None}, "'when' is null; it must be a text"),
            )
        ),
        (
            json.dumps(measured.report(SAMPLES, detector="/home/anna/yunet.onnx")),
            "'detector' holds the path '/home/anna/yunet.onnx'; add it anew",
        ),
    ],
)
def test_what_is_no_report_to_publish_is_refused(results: Path, text: str, error: str) -> None:
    (results / "wrong.json").write_text(text)
    with pytest.raises(InputError, match=error):
        table(results)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"scenario": "live"}, "it is live, of 'clip.mp4'; .*: measure with .*, without --live and --source"),
        ({"source": "visit.mp4"}, "it is single-stream, of 'visit.mp4'; the table compares the clip in the"),
        ({"source": "/home/anna/visit.mp4"}, "it is single-stream, of 'visit.mp4'; the table compares"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    results: Path, tmp_path: Path, changed: dict[str, Any], error: str
) -> None:
    mine, page = tmp_path / "mine.json", results.parent / "README.md"
    mine.write_text(json.dumps(measured.report(SAMPLES, **changed)))
    before = page.read_text()
    with pytest.raises(InputError, match=rf"mine.json: {error}"):
        add(mine, page, "My board")
    assert [*results.iterdir()] == [] and page.read_text() == before
    put(results, "theirs", **changed)
    with pytest.raises(InputError, match=rf"theirs.json: {error}"):
        table(results)


PATHS = [
    ("bench '--source=/home/Anna Smith/a b.mp4' --json", "bench '--source=a b.mp4' --json"),
    ('trtexec "--loadEngine=/home/Anna Smith/x" -v', 'trtexec "--loadEngine=x" -v'),
    ("trtexec --loadEngine=/home/anna/x -v", "trtexec --loadEngine=x -v"),
    ("--shapes=a:1x3 '--loadEngine=C:/Users/Anna Smith/x'", "--shapes=a:1x3 '--loadEngine=x'"),
    ("read C:/Users/anna/x.json again", "read x.json again"),
    ("C:/Users/Anna Smith/x.json", "x.json"),
    (r"read D:\clips\anna\x.json again", "read x.json again"),
    ("see file:///home/anna/x.html there", "see x.html there"),
    ("see file:/home/anna/x.html, file://box7/home/anna/y", "see x.html, y"),
    ("'file:///C:/Users/Anna Smith/x y.html'", "'x y.html'"),
    ("file:///home/Anna Smith/x.html", "x.html"),
    ("paths a.so:/home/anna/b.so", "paths a.so:b.so"),
    ("'/home/O'\"'\"'Brien/a b' is there", "'a b' is there"),
    ('"/home/O\'Brien/a b" is there', '"a b" is there'),
]


@pytest.mark.parametrize(("text", "left"), PATHS)
def test_a_path_is_left_its_name(text: str, left: str) -> None:
    assert without_paths({"said": [text]}) == {"said": [left]}
    found = [*personal({"said": text})]
    assert found and all("'said' holds the path" in one for one in found)
    assert [*personal({"said": left})] == []


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://guard@hall.local/1",
        "https://nvidia.com/a:/ b",
        "'5 ms / step'",
        "a:b, 1:2",
        "TensorRT 10.3: face",
        "'/sys/class/a b'",
        "1/2",
    ],
)
def test_what_is_no_path_stays(text: str) -> None:
    assert without_paths(text) == text and [*personal({"said": text})] == []


def test_commands_of_trtexec_are_not_published() -> None:
    report = measured.report(SAMPLES)
    published = publish(report)
    assert "trtexec" in json.dumps(report) and "trtexec" not in json.dumps(published)
    assert published["gpu"]["graphs"]["face"]["throughput"] == 3210.0
    assert published["gpu"]["timing"] == "cuda events"


@pytest.mark.parametrize(
    ("joules", "cell"),
    [(5e-5, "0.0500"), (0.0123, "12.3"), (0.175, "175"), (1.75, "1,750"), (50.0, "50,000"), (0.0, "0.00")],
)
def test_energy_is_never_with_an_exponent(results: Path, joules: float, cell: str) -> None:
    put(results, "board", energy={"watts": 1e3 * joules, "joules_per_emotion": joules})
    (row,) = cells(table(results))
    assert row["mJ a hop"] == row["power, W"] == cell


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/anna/visit.mp4", "visit.mp4"),
        ("/home/Anna Smith/my clip.mp4", "my clip.mp4"),
        (r"C:\Users\Anna Smith\clip.mp4", "clip.mp4"),
        ("~/clips/a.mp4", "a.mp4"),
        (
            "bench --source=/data/anna/a.mp4 --html '/data/Anna S/b.html'",
            "bench --source=a.mp4 --html 'b.html'",
        ),
        ("see /sys/devices/system/cpu/cpu0 there", "see /sys/devices/system/cpu/cpu0 there"),
        ("read from (/mnt/anna/x)", "read from (x)"),
        ("30 frames/s, 5 ms / step, https://nvidia.com/a", "30 frames/s, 5 ms / step, https://nvidia.com/a"),
        ("anna was on annas machine box7.lan: box7", "(user) was on annas machine (host): (host)"),
    ],
)
def test_what_tells_of_somebody_is_taken_out(text: str, left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_user", lambda: "anna")
    monkeypatch.setattr("platform.node", lambda: "box7.lan")
    report = {"conditions": {"warnings": [text], "before": {"said": text, "number": 3, "none": None}}}
    published = publish(report)
    inside = {"warnings": [left], "before": {"said": left, "number": 3, "none": None}}
    assert published == {"conditions": inside}
    assert [*personal(published)] == []
    assert publish(published) == published
    assert report["conditions"]["warnings"] == [text]


@pytest.mark.parametrize("user", ["jetson", "Linux", "ab", ""])
def test_a_name_that_many_have_is_nobodys(user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_user", lambda: user)
    monkeypatch.setattr("platform.node", lambda: "ubuntu")
    report = {"machine": {"system": "Linux 5.15-tegra", "said": "jetson ab ubuntu"}}
    assert publish(report) == report


@pytest.mark.parametrize(
    ("source", "left"), [("anna/visit.mp4", "visit.mp4"), (r"anna\a.mp4", "a.mp4"), ("a.mp4", "a.mp4")]
)
def test_a_source_is_left_its_name(source: str, left: str) -> None:
    assert publish({"source": source}) == {"source": left}


def test_a_report_is_added(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_user", lambda: "anna")
    page, mine = results.parent / "README.md", tmp_path / "mine.json"
    mine.write_text(json.dumps(measured.report(SAMPLES, source="/home/anna/clip.mp4")))
    added = add(mine, page, "My board, 15 W")
    assert added == results / "My_board,_15_W.json" and "anna" not in added.read_text()
    told = page.read_text()
    assert told == rewritten(told, table(results)) and told.startswith("# Devices\n")
    assert told.endswith(f"{END}\n\nthe rest\n") and "| My board, 15 W |" in told and EMPTY not in told
    mine.write_text(json.dumps(measured.report(SAMPLES, when="2026-09-09T00:00:00Z")))
    add(mine, page, "My board, 15 W")
    assert len(cells(table(results))) == 1 and "2026-09-09" in page.read_text()


@pytest.mark.parametrize("name", ["", " ", "../board", "a:b", "what?", ".hidden", "two\nlines"])
def test_a_device_is_named_as_a_file_can_be(name: str, results: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps(measured.report(SAMPLES)))
    with pytest.raises(InputError, match="not the name of a file"):
        add(mine, results.parent / "README.md", name)
    assert [*results.iterdir()] == []


def test_a_page_without_marks_is_left_as_it_is(results: Path, tmp_path: Path) -> None:
    mine, page = tmp_path / "mine.json", tmp_path / "other.md"
    mine.write_text(json.dumps(measured.report(SAMPLES)))
    page.write_text(f"{END}\n{BEGIN}\n")
    with pytest.raises(InputError, match="no place for the table"):
        add(mine, page, "board")
    assert page.read_text() == f"{END}\n{BEGIN}\n" and [*results.iterdir()] == []
