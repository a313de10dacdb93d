from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeemo_export import curves
from edgeemo_export.curves import Curve


@pytest.fixture(autouse=True)
def said_anew() -> Iterator[None]:
    """What is said once a process is said again."""
    curves._writer.cache_clear()
    yield
    curves._writer.cache_clear()


@pytest.fixture
def without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def write(folder: Path, done: int, epochs: range) -> None:
    curve = Curve(folder, done)
    for epoch in epochs:
        curve.add(epoch, {"loss": 1.0 / epoch, "rate": 1.23456789e-7})
    curve.close()


def test_a_line_an_epoch(tmp_path: Path, without_tensorboard: None) -> None:
    write(tmp_path, 0, range(1, 4))
    assert lines(tmp_path)[2] == {"epoch": 3, "loss": 0.33333, "rate": 1.2346e-07}
    assert [line["epoch"] for line in lines(tmp_path)] == [1, 2, 3]
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize("rest", ["", '{"epoch": 4, "los', "\n"])
def test_lines_beyond_the_state_are_dropped(tmp_path: Path, without_tensorboard: None, rest: str) -> None:
    write(tmp_path, 0, range(1, 4))
    with (tmp_path / "curve.jsonl").open("a") as file:
        file.write(rest)
    write(tmp_path, 2, range(3, 5))
    assert [line["epoch"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_a_run_that_begins_anew_has_no_lines_of_another(tmp_path: Path, without_tensorboard: None) -> None:
    write(tmp_path, 0, range(1, 4))
    write(tmp_path, 0, range(1, 2))
    assert len(lines(tmp_path)) == 1


def test_missing_tensorboard_is_told_once(
    tmp_path: Path, without_tensorboard: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "edgeemo.export"):
        write(tmp_path / "..", 0, range(0))
        write(tmp_path, 0, range(1, 2))
    said = [record for record in caplog.records if "not installed" in record.message]
    assert len(said) == 1 and said[0].levelno == logging.INFO


def test_curves_in_tensorboard(tmp_path: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write(tmp_path, 0, range(1, 5))
    time.sleep(1.0 - time.time() % 1.0)  # files are read in the order of their names, which hold the second
    write(tmp_path, 3, range(4, 6))  # the fourth epoch is made again
    events = reading.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "rate"}
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(epoch, pytest.approx(1.0 / epoch)) for epoch in range(1, 6)]
