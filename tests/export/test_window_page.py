"""The page of the window: bundles that differ in the window alone, measured in turns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgeemo.bench.reel import Reel, Spent
from edgeemo.inference.bundle import Bundle
from edgeemo.recognition.recognizer import load
from edgeemo_export import window_page
from edgeemo_export.cli import main
from edgeemo_export.window_page import in_turns, ratio, with_window
from tests.capture.media import write_clip
from tests.support.tiny import Tiny

DEMO = Path(__file__).parents[2] / "edgeemo" / "demo" / "clip.mp4"


@pytest.fixture(scope="module")
def windows(default_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[window_page.Window]:
    torch.set_num_threads(1)
    given = Bundle.read(default_bundle)
    folder = tmp_path_factory.mktemp("windows")
    return [with_window(given, slots, folder / str(slots)) for slots in (5, given.slots)]


def test_bundles_differ_in_the_window_alone(windows: list[window_page.Window], default_bundle: Path) -> None:
    given = Bundle.read(default_bundle)
    for window, slots in zip(windows, (5, given.slots), strict=True):
        written = Bundle.read(window.folder)
        written.verify()
        assert (written.slots, window.slots, window.seconds) == (slots, slots, pytest.approx(0.1 * slots))
        assert written.proof is None and written.results == ()
        for name in ("face", "voice"):
            assert written.graphs[name].files == given.graphs[name].files
            for file in written.graphs[name].files.values():
                assert written.files[file] == given.files[file]
    # Nearly all of the fusion is done for each token; its attention between them grows with the square.
    assert windows[1].multiply_adds > given.slots / 5 * 0.9 * windows[0].multiply_adds


def test_models_take_turns_with_full_windows(windows: list[window_page.Window]) -> None:
    models = [load(window.folder, backend="onnx") for window in windows]
    reel = Reel.read(DEMO, 0.1)
    spent = in_turns(models, reel, 1)
    assert [len(one) for one in spent] == [reel.hops, reel.hops]
    for one in spent:
        assert all(hop.parts.keys() >= {"face", "voice", "fusion"} for hop in one)


def test_a_ratio_is_of_the_same_hops() -> None:
    one, other = [3.0, 5.0, None, 7.0] * 50, [2.0, None, 4.0, 3.5] * 50
    assert ratio(one, other) == "1.50 (1.50-2.00)"
    assert ratio([2.0], [1.0]) == "2.00"  # one hop has no interval


def test_steps_with_a_detection_are_left_out_of_their_column() -> None:
    tracked = next(quantity for quantity in window_page.QUANTITIES if quantity.title.startswith("step"))
    assert tracked.of(Spent(0.003, {"face": 0.001})) == 0.003
    assert tracked.of(Spent(0.009, {"detect": 0.006, "face": 0.001})) is None


def test_the_page(
    windows: list[window_page.Window], tmp_path: Path, default_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = {window.slots: window for window in windows}
    monkeypatch.setattr(window_page, "with_window", lambda given, slots, folder: written[slots])
    monkeypatch.setattr(window_page, "STARTS", 1)
    page = tmp_path / "pages" / "window.md"
    words = ["--bundle", str(default_bundle), "--source", str(DEMO), "--page", str(page)]
    assert main(["window", *words, "--slots", "5", "--rounds", "1"]) == 0
    text = page.read_text()
    slots = Bundle.read(default_bundle).slots
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row[1] for row in rows] == ["5", str(slots)]
    assert float(rows[0][2]) < float(rows[1][2])  # multiply-adds
    assert rows[1][4] == "1" and float(rows[0][4].split()[0]) > 0
    assert f"--slots 5,{slots} --rounds 1`" in text
    assert str(tmp_path) not in text and str(DEMO.parent) not in text


def test_a_clip_without_a_face(
    tmp_path: Path, default_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "voice.mkv", sound=Tiny(sample_rate=48000).voice("fear", 1.0))
    words = ["--bundle", str(default_bundle), "--source", str(clip), "--page", str(tmp_path / "page.md")]
    with pytest.raises(SystemExit) as ended:
        main(["window", *words])
    assert ended.value.code == 2
    assert "voice.mkv: it has voice; it must have face and voice" in capsys.readouterr().err
