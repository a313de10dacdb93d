from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edgeemo_calibration.histogram import Histogram, divergence

STEPS = 127


def histogram_of(values: Any) -> Histogram:
    histogram = Histogram()
    histogram.add(np.asarray(values, np.float32))
    return histogram


def plain_divergence(counts: list[int], bins: int, steps: int) -> float:
    """The same as `divergence`, number by number."""
    levels = [round((place + 0.5) * steps / bins) for place in range(bins)]
    clipped = list(counts[:bins])
    clipped[-1] += sum(counts[bins:])
    total, kept = sum(clipped), sum(counts[:bins])
    found = 0.0
    for place in range(bins):
        if not clipped[place]:
            continue
        mates = [other for other in range(bins) if levels[other] == levels[place] and counts[other]]
        if not counts[place]:
            return math.inf
        share = sum(counts[other] for other in mates) / len(mates) / kept
        found += clipped[place] / total * math.log(clipped[place] / total / share)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_the_divergence_is_that_of_its_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    counts = random.integers(0, 9, 40) * random.integers(0, 2, 40)
    for bins in (1, 5, 8, 23, 40):
        if counts[:bins].any():
            expected = plain_divergence(counts.tolist(), bins, 7)
            assert divergence(counts, bins, 7) == pytest.approx(expected, abs=1e-12)


def test_an_even_distribution_is_not_clipped() -> None:
    found = histogram_of(np.linspace(0.001, 0.999, 200_000)).clip("entropy")
    assert found == pytest.approx(0.999, rel=0.01)


def test_entropy_clips_rare_numbers_far_out() -> None:
    values = np.abs(np.random.default_rng(0).normal(size=200_000))
    assert values.max() < 6
    found = histogram_of([*values, 40.0]).clip("entropy")
    assert 3.0 < found < 7.0


def test_entropy_is_the_least_of_all_candidates() -> None:
    values = np.random.default_rng(1).laplace(size=50_000)
    histogram = histogram_of(values)
    width = histogram.limit / Histogram.COARSE
    counts = np.histogram(np.abs(values.astype(np.float32)), Histogram.COARSE, (0.0, histogram.limit))[0]
    last = int(np.flatnonzero(counts)[-1]) + 1
    best = min(range(128, last + 1), key=lambda bins: divergence(counts, bins))
    assert histogram.clip("entropy") == pytest.approx(min(best * width, histogram.absmax), rel=1e-6)


def test_few_numbers_are_kept_as_they_are() -> None:
    assert histogram_of([0.001, 0.002]).clip("entropy") == pytest.approx(0.002)


@pytest.mark.parametrize("draw", ["normal", "laplace", "uniform"])
def test_mse_is_the_least_error_of_rounding_the_numbers_themselves(draw: str) -> None:
    values = getattr(np.random.default_rng(0), draw)(size=40_000)

    def error(clip: float) -> float:
        step = clip / STEPS
        return float(np.mean((values - np.clip(np.rint(values / step), -STEPS, STEPS) * step) ** 2))

    found = histogram_of(values).clip("mse")
    best = min(error(clip) for clip in np.abs(values).max() * np.linspace(0.05, 1.0, 400))
    assert error(found) <= 1.01 * best


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.9, 100.0])
def test_the_percentile_is_that_of_the_numbers(percentile: float) -> None:
    values = np.abs(np.random.default_rng(0).normal(size=20_000))
    found = histogram_of(values).clip("percentile", percentile)
    assert found == pytest.approx(np.percentile(values, percentile), rel=2e-3)


def test_no_method_clips_beyond_the_largest() -> None:
    histogram = histogram_of([0.3, 0.7, 0.9])
    for method in ("min-max", "percentile", "entropy", "mse"):
        assert 0.0 < histogram.clip(method) <= np.float32(0.9)
