from __future__ import annotations

import numpy as np
import pytest

from edgeemo.recognition.waveform import Waveform


def ramp(start: int, end: int) -> np.ndarray:
    return np.arange(start, end, dtype=np.float32)


def read(waveform: Waveform, end: int) -> list[float]:
    context = waveform.context(end)
    assert context is not None and context.flags.c_contiguous
    return context.tolist()


def test_nothing_is_there_before_the_first_sample() -> None:
    assert Waveform(4, 100).context(10) is None


def test_contexts_reach_back_into_zeros_before_the_start() -> None:
    waveform = Waveform(4, 100)
    waveform.append(10, ramp(10, 16))
    assert read(waveform, 8) == [0, 0, 0, 0]  # a hop that ended before the sound began
    assert read(waveform, 12) == [0, 0, 10, 11]
    assert read(waveform, 16) == [12, 13, 14, 15]


def test_gaps_and_what_has_not_come_are_zeros() -> None:
    waveform = Waveform(4, 100)
    waveform.append(10, ramp(10, 12))
    waveform.append(13, ramp(13, 14))
    assert read(waveform, 14) == [10, 11, 0, 13]
    assert read(waveform, 16) == [0, 13, 0, 0]
    waveform.append(16, ramp(16, 17))
    assert read(waveform, 17) == [13, 0, 0, 16]


@pytest.mark.parametrize("chunk", [1, 3, 7, 50])
def test_any_length_of_sound_reads_back(chunk: int) -> None:
    waveform = Waveform(8, 60)
    for start in range(0, 5000, chunk):
        assert waveform.append(start, ramp(start, start + chunk)) == 0
        end = start + chunk
        assert read(waveform, end) == np.maximum(np.arange(end - 8, end), 0).tolist()


def test_beyond_the_limit_the_oldest_are_dropped_and_counted() -> None:
    waveform = Waveform(4, 20)
    assert waveform.append(0, ramp(0, 15)) == 0
    assert waveform.append(15, ramp(15, 30)) == 10
    assert read(waveform, 30) == [26, 27, 28, 29]
    assert waveform.append(30, ramp(30, 100)) == 50  # one chunk longer than the limit
    assert read(waveform, 84) == [80, 81, 82, 83]
    assert read(waveform, 100) == [96, 97, 98, 99]


def test_a_long_gap_drops_what_nobody_read() -> None:
    waveform = Waveform(4, 20)
    waveform.append(0, ramp(0, 15))
    assert read(waveform, 5) == [1, 2, 3, 4]
    assert waveform.append(10**12, ramp(1, 3)) == 10
    assert read(waveform, 10) == [0, 0, 0, 0]
    assert read(waveform, 10**12 + 2) == [0, 0, 1, 2]


def test_hushed_positions_are_zeros_in_later_contexts() -> None:
    waveform = Waveform(4, 100)
    waveform.append(0, ramp(1, 13))
    read(waveform, 6)
    waveform.hush(4, 6)
    assert read(waveform, 8) == [0, 0, 7, 8]
    waveform.hush(-50, 2)  # mostly before the start
    assert read(waveform, 10) == [7, 8, 9, 10]


def test_clear_forgets_all() -> None:
    waveform = Waveform(4, 100)
    waveform.append(0, ramp(1, 13))
    waveform.clear()
    assert waveform.context(5) is None
    waveform.append(2, ramp(1, 3))
    assert read(waveform, 4) == [0, 0, 1, 2]
