from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from edgeemo.errors import InputError
from edgeemo.recognition.placement import Placement


def placed(*chunks: tuple[float, int, int], rate: int = 8000) -> tuple[list[tuple[int, int]], Counter[str]]:
    """Positions and lengths of chunks (time, length, source rate), and the counts."""
    stats: Counter[str] = Counter()
    placement = Placement(rate, stats)
    runs = [placement.place(np.ones(length, np.float32), source, time) for time, length, source in chunks]
    return runs, +stats


@pytest.mark.parametrize(
    ("chunks", "runs", "counts"),
    [
        ([(0.5, 80, 8000), (0.51, 80, 8000)], [(4000, 80), (4080, 80)], {}),
        # Within 5 ms a chunk continues the one before.
        ([(0.5, 80, 8000), (0.5149, 80, 8000)], [(4000, 80), (4080, 80)], {}),
        ([(0.5, 80, 8000), (0.5051, 80, 8000)], [(4000, 80), (4080, 80)], {}),
        ([(0.5, 80, 8000), (0.52, 80, 8000)], [(4000, 80), (4160, 80)], {"gap_samples": 80}),
        ([(0.5, 800, 8000), (0.55, 800, 8000)], [(4000, 800), (4800, 400)], {"overlap_samples": 400}),
        ([(0.5, 800, 8000), (0.55, 100, 8000)], [(4000, 800), (4800, 0)], {"overlap_samples": 100}),
        ([(0.5, 4800, 48000), (0.6, 48, 48000)], [(4000, 800), (4800, 8)], {}),
        # A change of the rate where one chunk ends and the other starts leaves nothing between.
        ([(0.5, 4800, 48000), (0.6, 441, 44100)], [(4000, 800), (4800, 80)], {}),
        ([(0.5, 4800, 48000), (0.55, 4410, 44100)], [(4000, 800), (4800, 400)], {"overlap_samples": 400}),
        # Clocks that drift apart are put right every 5 ms and not before.
        ([(hop * 0.1002, 800, 8000) for hop in range(26)], None, {}),
        ([(hop * 0.1002, 800, 8000) for hop in range(27)], None, {"gap_samples": 42}),
    ],
)
def test_where_chunks_go(
    chunks: list[tuple[float, int, int]], runs: list[tuple[int, int]] | None, counts: dict[str, int]
) -> None:
    found, stats = placed(*chunks)
    assert dict(stats) == counts
    if runs is not None:
        assert found == runs
    for (position, length), (following, _) in itertools.pairwise(found):
        assert following >= position + length


@pytest.mark.parametrize("source", [8000, 16000, 44100])
def test_what_waits_is_what_each_chunk_alone_would_be(source: int) -> None:
    sound = np.random.default_rng(0).uniform(-1, 1, source).astype(np.float32)
    # Three chunks on end, a gap, two on end, another rate, an overlap.
    chunks = [
        *[(k * 0.02, k * source // 50, source) for k in range(3)],
        *[(0.2 + k * 0.02, k * source // 50, source) for k in range(2)],
        (0.24, 0, 48000),
        (0.25, 0, source),
    ]
    at_once, one_by_one = Placement(8000, Counter()), Placement(8000, Counter())
    single: list[tuple[int, np.ndarray]] = []
    for time, start, rate in chunks:
        piece = sound[start : start + rate // 50]
        given = piece.copy()
        position, count = at_once.place(given, rate, time)
        given[:] = 9.0  # whoever gave it may write into it
        assert one_by_one.place(piece, rate, time) == (position, count)
        single += one_by_one.take()
        assert one_by_one.waiting == 0 and one_by_one.take() == []
    assert at_once.waiting == sum(len(run) for _, run in single)
    runs = at_once.take()
    starts = [position for position, _ in runs]
    assert starts == sorted(starts) and len(runs) < len(single) and at_once.waiting == 0

    def laid(found: list[tuple[int, np.ndarray]]) -> np.ndarray:
        grid = np.full(4000, np.nan)
        for position, run in found:
            assert np.isnan(grid[position : position + len(run)]).all()
            grid[position : position + len(run)] = run
        return grid

    np.testing.assert_allclose(laid(runs), laid(single), rtol=0, atol=1e-7)


def test_what_waits_is_forgotten_with_the_rest() -> None:
    placement = Placement(8000, Counter())
    placement.place(np.ones(80, np.float32), 8000, 0.0)
    placement.reset()
    assert placement.waiting == 0 and placement.take() == []
    assert placement.place(np.zeros(80, np.float32), 8000, 1.0) == (8000, 80)
    ((position, run),) = placement.take()
    assert position == 8000 and run.tolist() == [0.0] * 80


def test_a_rate_that_cannot_be_changes_nothing() -> None:
    stats: Counter[str] = Counter()
    placement = Placement(8000, stats)
    placement.place(np.ones(80, np.float32), 8000, 0.0)
    with pytest.raises(InputError, match="rate"):
        placement.place(np.ones(80, np.float32), 3, 5.0)
    assert placement.place(np.ones(80, np.float32), 8000, 0.01)[0] == 80
    assert not stats


def test_after_a_reset_the_same_sound_gives_the_same_run() -> None:
    placement = Placement(8000, Counter())
    sound = np.random.default_rng(0).uniform(-1, 1, 4410).astype(np.float32)
    first = placement.place(sound, 44100, 0.25)
    placement.place(sound, 44100, 9.0)
    placement.reset()
    second = placement.place(sound, 44100, 0.25)
    assert first[0] == second[0] and np.array_equal(first[1], second[1])
