from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeemo_calibration.pool import Kept, Pool, Stratum

Given = tuple[Stratum, NDArray[np.float32], tuple[str, float]]


def candidates(*sizes: int) -> list[Given]:
    random = np.random.default_rng(0)
    return [
        (
            Stratum(f"s{place}", "", 0),
            random.normal(0, 1, 4).astype(np.float32),
            (f"s{place}.wav", number / 10),
        )
        for place, size in enumerate(sizes)
        for number in range(size)
    ]


def fill(given: list[Given], most: int, folder: Path, seed: int = 0) -> tuple[Pool, list[Kept]]:
    pool = Pool(most, seed, folder)
    for stratum, values, origin in given:
        pool.add(stratum, values, origin, {"loudness": -20})
    return pool, pool.finish()


@pytest.mark.parametrize(
    ("sizes", "most", "expected"),
    [
        ((5, 5), 20, (5, 5)),
        ((1000, 5), 20, (15, 5)),
        ((1000, 800, 3), 23, (10, 10, 3)),
        ((400,) * 5, 20, (4,) * 5),
    ],
)
def test_strata_share_evenly(
    sizes: tuple[int, ...], most: int, expected: tuple[int, ...], tmp_path: Path
) -> None:
    pool, kept = fill(candidates(*sizes), most, tmp_path)
    found = Counter(one.stratum.group for one in kept)
    assert tuple(found[f"s{place}"] for place in range(len(sizes))) == expected
    assert pool.seen.total == sum(sizes)
    assert pool.seen.traits["loudness"] == {-20: sum(sizes)}


def test_what_stays_holds_its_own_input(tmp_path: Path) -> None:
    given = candidates(300, 200)
    values = {origin: content for _, content, origin in given}
    pool, kept = fill(given, 50, tmp_path)
    assert len({one.slot for one in kept}) == 50
    for one in kept:
        np.testing.assert_array_equal(pool.values(one), values[one.origin])


@pytest.mark.parametrize("order", range(4))
def test_the_order_of_the_candidates_changes_nothing(order: int, tmp_path: Path) -> None:
    given = candidates(700, 30, 200)
    expected = [(one.key, one.origin) for one in fill(given, 64, tmp_path)[1]]
    shuffled = [given[place] for place in np.random.default_rng(order).permutation(len(given))]
    assert [(one.key, one.origin) for one in fill(shuffled, 64, tmp_path)[1]] == expected


def test_a_trimmed_pool_is_what_one_with_room_for_all_would_keep(tmp_path: Path) -> None:
    """Dropping early loses nothing: the sample is the same as that over everything at once."""
    given = candidates(500, 40, 3)
    rounds: Counter[Stratum] = Counter()
    order = []
    for one in fill(given, len(given), tmp_path)[1]:
        order.append((rounds[one.stratum], one.key))
        rounds[one.stratum] += 1
    assert {one.key for one in fill(given, 37, tmp_path)[1]} == {key for _, key in sorted(order)[:37]}


def test_seeds_draw_other_samples(tmp_path: Path) -> None:
    given = candidates(500)
    first, again, other = ({one.origin for one in fill(given, 50, tmp_path, seed)[1]} for seed in (0, 0, 1))
    assert first == again != other


def test_a_sample_is_spread_over_time(tmp_path: Path) -> None:
    _, kept = fill(candidates(3000), 300, tmp_path)
    times = np.array([one.origin[1] for one in kept])
    thirds = np.histogram(times, bins=3, range=(0, 300))[0]
    assert (thirds > 70).all(), "a fair third is 100, with a standard deviation of 8"


def test_equal_inputs_are_one_candidate(tmp_path: Path) -> None:
    same = np.ones(4, np.float32)
    given = [(Stratum("a", "", 0), same, (name, 1.0)) for name in ("c.wav", "b.wav", "d.wav")]
    given.append((Stratum("b", "", 0), same, ("e.wav", 1.0)))
    pool, kept = fill(given, 10, tmp_path)
    assert sorted(one.origin[0] for one in kept) == ["b.wav", "e.wav"]
    assert pool.seen.total == 4


def test_nothing_is_left_in_the_folder(tmp_path: Path) -> None:
    pool, _ = fill(candidates(50), 20, tmp_path)
    assert not list(tmp_path.iterdir())
    with pool:
        pass
    with pytest.raises(ValueError, match="closed"):
        pool.values(pool.finish()[0])
