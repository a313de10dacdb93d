from __future__ import annotations

import itertools

import pytest

from edgeemo.recognition.clock import HopGrid, before
from edgeemo.recognition.transcript import Transcript

GRID = HopGrid(0.1)


def transcript(window: float = 0.5, limit: int = 100, grid: HopGrid = GRID) -> Transcript:
    return Transcript(grid, window, limit)


def add(held: Transcript, number: int, start: float, end: float, known: int = 0, grid: HopGrid = GRID) -> int:
    """Add the word `number` as a stream does, which has closed the hops before `known`."""
    hop = grid.index(before(end))
    return held.add([(number,)], start, end, hop, max(hop, known))


def known(held: Transcript, hop: int) -> list[int]:
    return [number for (number,) in held.known(hop)]


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        (0.0, 0.0, 0, 3),
        (0.0, 0.05, 0, 4),
        (0.0, 0.1, 0, 4),  # hop 0 ends at 0.1 s, and hop 5 looks back to 0.1 s
        (0.0, 0.1000001, 0, 4),  # times are not exact
        (0.0, 0.101, 1, 5),
        (0.25, 0.3, 2, 6),
        (0.0, 0.3, 2, 6),  # however long it is
        (0.7, 0.7, 6, 10),
        (36000.0, 36000.7, 360006, 360010),
    ],
)
def test_a_hop_knows_what_ended_by_its_end_within_the_window(
    start: float, end: float, first: int, last: int
) -> None:
    held = transcript()
    add(held, 7, start, end)
    hops = range(max(first - 3, 0), last + 4)
    assert [hop for hop in hops if known(held, hop)] == list(range(first, last + 1))


def test_longer_hops_know_the_same_window() -> None:
    grid = HopGrid(0.1, 3)
    held = transcript(grid=grid)
    for number, end in enumerate((0.1, 0.35, 0.4, 0.6, 0.61)):
        add(held, number, 0.0, end, grid=grid)
    assert known(held, 0) == [0]
    assert known(held, 1) == [1, 2, 3]  # from 0.1 to 0.6 s; the first ended at 0.1 s
    assert known(held, 2) == [3, 4]


def test_words_are_in_the_order_in_which_they_were_said_whatever_comes_first() -> None:
    said = [(1, 0.0, 0.2), (2, 0.0, 0.3), (3, 0.1, 0.15), (4, 0.25, 0.3)]
    for order in itertools.permutations(said):
        held = transcript()
        for number, start, end in order:
            add(held, number, start, end)
        assert known(held, 1) == [1, 3]
        assert known(held, 2) == [1, 2, 3, 4]


def test_words_of_the_same_times_stay_as_they_came() -> None:
    held = transcript()
    held.add([(5,), (3,)], 0.0, 0.1, 0, 0)
    held.add([(4,)], 0.0, 0.1, 0, 0)
    assert known(held, 0) == [5, 3, 4]


def test_what_comes_late_is_known_from_then_on() -> None:
    held = transcript()
    add(held, 1, 0.0, 0.1)
    assert known(held, 0) == [1]
    add(held, 2, 0.0, 0.05, known=3)
    add(held, 3, 0.1, 0.2, known=3)
    assert known(held, 2) == [1]
    assert known(held, 3) == [2, 1, 3]
    assert known(held, 4) == [2, 1, 3]
    assert known(held, 5) == [3] and known(held, 6) == []


def test_words_of_muted_hops_are_not_known_whenever_they_come() -> None:
    held = transcript()
    add(held, 1, 0.0, 0.1)
    add(held, 2, 0.1, 0.2)
    for hop in (1, 2):
        held.mute(hop)
    add(held, 3, 0.2, 0.25, known=3)  # late
    add(held, 4, 0.2, 0.35)
    assert known(held, 3) == [1, 4]


def test_words_beyond_the_limit_are_dropped_from_the_oldest() -> None:
    held = transcript(limit=3)
    assert [add(held, number, 0.01 * number, 0.05) for number in range(5)] == [0, 0, 0, 1, 1]
    assert held.add([(5,), (6,)], 0.0, 0.0, 0, 0) == 2  # which are older than those that are held
    assert known(held, 0) == [2, 3, 4]


def test_a_long_run_holds_no_more_than_the_window() -> None:
    held = transcript()
    for hop in range(5000):
        add(held, hop, hop * 0.1, hop * 0.1 + 0.05)
        held.mute(hop)
        held.known(hop)
    assert len(held._words) <= 6 and len(held._muted) <= 2 * held.reach
    held.clear()
    assert known(held, 5000) == []
    add(held, 1, 0.0, 0.05)
    assert known(held, 0) == [1]
