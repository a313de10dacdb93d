from __future__ import annotations

import logging
import threading

import numpy as np
import pytest

from edgeemo.capture.mailbox import Mailbox
from edgeemo.capture.source import Frame, Sound


def sound(time: float) -> Sound:
    return Sound(time, np.zeros(1, np.float32), 16000)


def frame(time: float) -> Frame:
    return Frame(time, lambda: np.zeros((1, 1, 3), np.uint8))


def test_lanes_are_merged_by_time() -> None:
    box = Mailbox()
    box.open("face", 2)
    box.open("voice", 3)
    for lane, item in (
        ("face", frame(0.1)),
        ("voice", sound(0.0)),
        ("voice", sound(0.2)),
        ("face", frame(0.3)),
    ):
        box.put(lane, item)
    box.close("face")
    box.close("voice")
    assert [item.time for item in box] == [0.0, 0.1, 0.2, 0.3]


def test_a_full_lane_loses_its_oldest() -> None:
    box = Mailbox()
    box.open("face", 1)
    assert [box.put("face", frame(time)) for time in (0.0, 0.1, 0.2)] == [False, True, True]
    box.close("face")
    assert [item.time for item in box] == [0.2]


@pytest.mark.parametrize(("discard", "left"), [(False, [0.0]), (True, [])])
def test_what_waits_when_a_lane_is_closed(discard: bool, left: list[float]) -> None:
    box = Mailbox()
    box.open("face", 1)
    box.put("face", frame(0.0))
    box.close("face", discard=discard)
    assert not box.put("face", frame(1.0))
    assert [item.time for item in box] == left


def test_closing_wakes_the_reader() -> None:
    box = Mailbox()
    box.open("face", 1)
    got: list[object] = []
    reader = threading.Thread(target=lambda: got.extend(box))
    reader.start()
    box.put("face", frame(0.0))
    box.close("face")
    reader.join(timeout=5)
    assert not reader.is_alive()
    assert len(got) == 1


def test_a_lane_that_falls_silent_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    box = Mailbox()
    box.open("microphone x", 4, patience=0.05)
    box.put("microphone x", sound(0.0))
    with caplog.at_level(logging.WARNING, "edgeemo"):
        assert [item.time for item in box] == [0.0]
    assert "microphone x: nothing came" in caplog.text
