from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeemo_calibration.pool import Stratum
from edgeemo_calibration.select import k_center, normalised, quotas, radius

ONE = Stratum("a", "", 0)


def points(count: int, seed: int, width: int = 3) -> NDArray[np.float32]:
    return normalised(np.random.default_rng(seed).normal(0, 1, (count, width)).astype(np.float32))


def brute_radius(tokens: NDArray[np.float32], chosen: tuple[int, ...]) -> float:
    return max(min(float(np.linalg.norm(token - tokens[place])) for place in chosen) for token in tokens)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_choice_is_twice_as_good(seed: int, count: int) -> None:
    """Gonzalez' bound, against every other choice."""
    tokens = points(9, seed)
    chosen = k_center(tokens, [ONE] * 9, {ONE: count})
    best = min(brute_radius(tokens, other) for other in itertools.combinations(range(9), count))
    assert len(set(chosen)) == count
    assert radius(tokens, chosen) <= 2 * best + 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_each_next_one_is_the_farthest(seed: int) -> None:
    tokens = points(30, seed)
    chosen = k_center(tokens, [ONE] * 30, {ONE: 30})
    assert chosen[0] == 0
    assert sorted(chosen) == list(range(30))
    for count in range(1, 29):
        reached = [min(float(np.linalg.norm(one - tokens[c])) for c in chosen[:count]) for one in tokens]
        assert reached[chosen[count]] == pytest.approx(max(reached), abs=1e-5)


def test_the_radius_is_the_largest_of_the_smallest_distances() -> None:
    tokens = points(2500, 1)  # more than one block
    chosen = (3, 70, 2400)
    distances = np.linalg.norm(tokens[:, None] - tokens[None, list(chosen)], axis=2)
    assert radius(tokens, chosen) == pytest.approx(float(distances.min(axis=1).max()), abs=1e-6)
    assert radius(tokens[:3], [0, 1, 2]) == pytest.approx(0, abs=1e-3)


def test_quotas_bind_the_choice() -> None:
    tokens, other = points(40, 2), Stratum("b", "", 0)
    strata = [ONE] * 30 + [other] * 10
    chosen = k_center(tokens, strata, {ONE: 3, other: 4})
    assert Counter(strata[place] for place in chosen) == {ONE: 3, other: 4}


def test_k_center_covers_better_than_chance() -> None:
    tokens = points(500, 3, width=8)
    chosen = k_center(tokens, [ONE] * 500, {ONE: 40})
    random = [
        radius(tokens, np.random.default_rng(seed).choice(500, 40, replace=False).tolist())
        for seed in range(20)
    ]
    assert radius(tokens, chosen) < min(random)


def test_zero_tokens_are_no_trouble() -> None:
    tokens = normalised(np.zeros((3, 4), np.float32))
    assert not tokens.any()
    assert len(k_center(tokens, [ONE] * 3, {ONE: 2})) == 2


def strata(*sizes: tuple[str, str, int, int]) -> dict[Stratum, int]:
    return {Stratum(group, label, level): size for group, label, level, size in sizes}


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        pytest.param([("a", "", 0, 9)], 4, [4], id="one"),
        pytest.param([("a", "", 0, 3)], 9, [3], id="no more than there are"),
        pytest.param([("a", "", 0, 0), ("b", "", 0, 5)], 2, [2], id="an empty one is none"),
        pytest.param([("a", "", 0, 1000), ("b", "", 0, 100)], 10, [5, 5], id="groups evenly"),
        pytest.param([("a", "x", 0, 1000), ("a", "y", 0, 100)], 10, [5, 5], id="classes evenly"),
        pytest.param(
            [("a", "x", 0, 50), ("a", "y", 0, 50), ("b", "", 0, 50)],
            8,
            [2, 2, 4],
            id="not a group by its classes",
        ),
        pytest.param([("a", "", 0, 75), ("a", "", 9, 25)], 8, [6, 2], id="levels as they occur"),
        pytest.param([("a", "", 0, 999), ("a", "", 9, 1)], 8, [7, 1], id="but each of them"),
        pytest.param([("a", "", 0, 2), ("b", "", 0, 100)], 10, [2, 8], id="what one lacks goes to others"),
    ],
)
def test_quotas(sizes: list[tuple[str, str, int, int]], count: int, expected: list[int]) -> None:
    held = strata(*sizes)
    assert list(quotas(held, held, count).values()) == expected


def test_every_part_is_covered_where_strata_are_too_many() -> None:
    """Five speakers, four classes, three levels: 60 strata, but 5 choices name each of them."""
    held = {
        Stratum(group, label, level): 7
        for group, label, level in itertools.product("abcde", "wxyz", (-60, -40, -20))
    }
    for count in (5, 11, 30):
        chosen = [stratum for stratum, number in quotas(held, held, count).items() for _ in range(number)]
        assert len(chosen) == count == len(set(chosen))
        for part in range(3):
            numbers = Counter(stratum[part] for stratum in chosen)
            assert len(numbers) == len({stratum[part] for stratum in held})
            assert max(numbers.values()) - min(numbers.values()) <= 1


def test_every_stratum_is_covered_where_there_is_room() -> None:
    sizes = np.random.default_rng(0).integers(1, 500, 60)
    held = {Stratum(f"s{i % 7}", f"l{i % 3}", i): int(size) for i, size in enumerate(sizes)}
    given = quotas(held, held, 100)
    assert sum(given.values()) == 100
    assert all(1 <= given[stratum] <= held[stratum] for stratum in held)
