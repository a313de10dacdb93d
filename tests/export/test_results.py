"""The statistics of the results page."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeemo_export.results import Interval, bootstrap_ua, ua


def answers(truth: NDArray[np.int64], right: float, seed: int) -> NDArray[np.int64]:
    """Answers of which a share is right, the others the next label."""
    draw = np.random.default_rng(seed).random(len(truth))
    return np.where(draw < right, truth, (truth + 1) % 7)


@pytest.mark.parametrize(
    ("truth", "given", "labels", "expected"),
    [
        ([0, 1, 2], [0, 1, 2], 3, 1.0),
        ([0, 0, 0, 0, 1], [0, 0, 0, 1, 1], 2, (3 / 4 + 1) / 2),
        ([0, 0, 2], [0, 1, 2], 7, (1 / 2 + 1) / 2),  # labels that the data lacks do not count
        ([0, 1], [-1, 1], 2, 0.5),  # no answer is wrong
        ([0, 1], [-1, -1], 2, 0.0),
        ([0, 1, 1], [6, 1, 1], 7, 0.5),
    ],
)
def test_ua(truth: list[int], given: list[int], labels: int, expected: float) -> None:
    assert ua(np.array(truth), np.array(given), labels) == pytest.approx(expected)


@pytest.mark.parametrize("right", [0.5, 0.8])
def test_interval_of_one_class_is_that_of_a_share(right: float) -> None:
    # With one class UA is a share, whose standard error is known.
    truth = np.zeros(400, np.int64)
    given = np.where(np.arange(400) < right * 400, 0, 1)
    made = bootstrap_ua(truth, given, 7, draws=2000)
    reach = 1.96 * math.sqrt(right * (1 - right) / 400)
    assert made.value == pytest.approx(right)
    assert made.low == pytest.approx(right - reach, abs=0.006)
    assert made.high == pytest.approx(right + reach, abs=0.006)


def test_interval_equals_a_plain_bootstrap() -> None:
    truth = np.arange(60) % 7
    given = answers(truth, 0.6, 1)
    random, drawn = np.random.default_rng(5), []
    for _ in range(300):
        rows = random.integers(60, size=60)
        recalls = [
            np.mean([given[row] == label for row in rows if truth[row] == label])
            for label in range(7)
            if (truth[rows] == label).any()
        ]
        drawn.append(np.mean(recalls))
    made = bootstrap_ua(truth, given, 7, draws=300, seed=5)
    assert (made.low, made.high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]))
    assert made.low < made.value < made.high


def test_difference_is_paired() -> None:
    truth = np.arange(210) % 7
    better = answers(truth, 0.7, 1)
    worse = better.copy()
    worse[:35] = (truth[:35] + 1) % 7  # wrong wherever the other one is, and on some more
    made = bootstrap_ua(truth, better, 7, baseline=worse, draws=500)
    assert made.value == pytest.approx(ua(truth, better, 7) - ua(truth, worse, 7))
    assert 0 < made.low < made.value < made.high
    # Of two separate samples of this size the interval would be about five times the paired one.
    apart = [bootstrap_ua(truth, given, 7, draws=500) for given in (better, worse)]
    assert made.high - made.low < 0.8 * math.hypot(*(one.high - one.low for one in apart))
    turned = bootstrap_ua(truth, worse, 7, baseline=better, draws=500)
    assert (turned.value, turned.low, turned.high) == pytest.approx((-made.value, -made.high, -made.low))


def test_no_difference_from_itself() -> None:
    truth = np.arange(70) % 7
    given = answers(truth, 0.5, 2)
    assert bootstrap_ua(truth, given, 7, baseline=given, draws=50) == Interval(0.0, 0.0, 0.0)


def test_seed_makes_the_interval() -> None:
    truth = np.arange(70) % 7
    given = answers(truth, 0.5, 2)
    first, again, other = (bootstrap_ua(truth, given, 7, draws=50, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)
    assert first.value == other.value


def test_interval_as_text() -> None:
    assert str(Interval(0.61449, 0.5, 0.7006)) == "0.614 (0.500 to 0.701)"
