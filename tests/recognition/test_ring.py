from __future__ import annotations

import numpy as np
import pytest

from edgeemo.recognition.ring import TokenRing


def ring_with(*rows: list[float]) -> TokenRing:
    """A ring of 4 slots whose token values are `rows`; 0 is an empty slot."""
    ring = TokenRing(3, 4, 1)
    ring.arrange([None] * len(rows))
    for row, values in enumerate(rows):
        ring.tokens[row, :, 0] = values
        ring.mask[row] = np.array(values) != 0
    return ring


def shown(ring: TokenRing) -> list[list[float]]:
    assert np.array_equal(ring.mask, ring.tokens[:, :, 0] != 0)
    return ring.tokens[:, :, 0].tolist()


EMPTY = [0.0] * 4


@pytest.mark.parametrize(
    ("slots", "after"),
    [(1, [2, 3, 4, 0]), (3, [4, 0, 0, 0]), (4, EMPTY), (9, EMPTY)],
)
def test_shift_makes_room_at_the_end(slots: int, after: list[float]) -> None:
    ring = ring_with([1, 2, 3, 4])
    ring.shift(slots)
    assert shown(ring) == [after, EMPTY, EMPTY]


def test_the_newest_token_is_in_the_last_slot() -> None:
    ring = ring_with([1, 2, 3, 4], [5, 6, 7, 8])
    ring.shift(1)
    ring.append([1], np.array([[9.0]], np.float32))
    assert shown(ring) == [[2, 3, 4, 0], [6, 7, 8, 9], EMPTY]


@pytest.mark.parametrize(
    ("sources", "after"),
    [
        ([1, 0], [[5, 6, 7, 8], [1, 2, 3, 4], EMPTY]),
        ([1], [[5, 6, 7, 8], EMPTY, EMPTY]),
        ([None, 1, 0], [EMPTY, [5, 6, 7, 8], [1, 2, 3, 4]]),
        ([], [EMPTY, EMPTY, EMPTY]),
    ],
)
def test_rows_move_with_their_tracks(sources: list[int | None], after: list[list[float]]) -> None:
    ring = ring_with([1, 2, 3, 4], [5, 6, 7, 8])
    ring.arrange(sources)
    assert shown(ring) == after and ring.used == len(sources)


def test_rows_of_any_count_are_one_block() -> None:
    ring = ring_with([1, 2, 3, 4], [5, 6, 7, 8])
    assert ring.tokens[:2].flags.c_contiguous and ring.mask[:2].flags.c_contiguous
