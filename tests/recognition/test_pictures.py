from __future__ import annotations

import numpy as np

from edgeemo.recognition.pictures import Pictures


def picture(value: int) -> np.ndarray:
    return np.full((1, 1), value, np.uint8)


def test_the_newest_of_a_hop_is_kept_and_of_equal_times_the_last() -> None:
    pictures = Pictures(10)
    for time, value in ((0.3, 1), (0.5, 2), (0.4, 3), (0.5, 4)):
        pictures.put(7, time, picture(value))
    assert pictures.take(7) == picture(4)
    assert pictures.take(7) is None


def test_beyond_the_limit_the_oldest_is_dropped() -> None:
    pictures = Pictures(3)
    assert [pictures.put(hop, hop, picture(hop)) for hop in (4, 5, 2, 6, 6, 7)] == [0, 0, 0, 1, 0, 1]
    assert [pictures.take(hop) is not None for hop in range(8)] == [*[False] * 5, *[True] * 3]


def test_what_is_skipped_is_counted() -> None:
    pictures = Pictures(10)
    for hop in range(5):
        pictures.put(hop, hop, picture(hop))
    assert pictures.drop_before(3) == 3
    assert pictures.take(2) is None and pictures.take(3) is not None
