from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeemo.capture import open_source
from edgeemo.capture.source import SampleTimes
from edgeemo.errors import InputError, SourceError


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({}, InputError, "no source"),
        ({"path": "a.mp4", "camera": 0}, InputError, "not both"),
        ({"path": "a.mp4", "microphone": "default"}, InputError, "not both"),
        ({"path": "no-such-file.mp4"}, SourceError, "no such file"),
    ],
)
def test_what_cannot_be_opened(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        open_source(**arguments)


def test_a_path_opens_a_clip(tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    assert open_source(tmp_path / "a.png").modalities == ("face",)


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([0.0, 0.102, 0.199], [0.0, 0.1, 0.2]),  # jitter
        ([3.0, 3.1, 3.5], [3.0, 3.1, 3.5]),  # a gap
        ([0.0, 0.1, 0.15], [0.0, 0.1, 0.15]),  # back by more than the tolerance
        ([None, None, 0.2], [0.0, 0.1, 0.2]),  # no stamps
        ([0.0, 0.104, 0.208, 0.312], [0.0, 0.1, 0.2, 0.312]),  # drift adds up
    ],
)
def test_times_follow_the_sample_count(stamps: list[float | None], expected: list[float]) -> None:
    times = SampleTimes(tolerance=0.01)
    assert [times.place(stamp, 1600, 16000) for stamp in stamps] == pytest.approx(expected, abs=1e-9)


def test_times_do_not_wander_over_hours() -> None:
    times = SampleTimes(tolerance=0.01)
    for _ in range(100_000):
        last = times.place(None, 1152, 44100)
    assert last == pytest.approx(99_999 * 1152 / 44100, abs=1e-9)


def test_a_new_rate_counts_on_from_where_the_old_one_ended() -> None:
    times = SampleTimes(tolerance=0.01)
    placed = [times.place(None, 800, rate) for rate in (8000, 8000, 16000, 16000)]
    assert placed == pytest.approx([0.0, 0.1, 0.2, 0.25])
