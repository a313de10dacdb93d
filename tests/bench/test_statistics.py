"""What samples of a latency say: held to exact sums, to published figures of MLPerf, and to made samples."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgeemo.bench
from edgeemo.bench.statistics import (
    KNOWN_WITHIN,
    PERCENTILES,
    WarmUp,
    early_stopping,
    effective_size,
    ranks,
    summarise,
)
from edgeemo.errors import EdgeEmoError, InputError
from tests.support.json_schema import problems

NORMAL = {50: 0.0, 90: 1.2815515655446004, 95: 1.6448536269514722, 99: 2.3263478740408408}  # its percentiles


def autoregressive(rng: np.random.Generator, n: int, memory: float) -> NDArray[np.float64]:
    """A standard normal series in which each value keeps `memory` of the one before."""
    noise = rng.normal(size=n) * math.sqrt(1 - memory**2)
    noise[0] /= math.sqrt(1 - memory**2)
    values = np.empty(n)
    last = 0.0
    for place, push in enumerate(noise):
        values[place] = last = memory * last + push
    return values


# --- percentiles


@pytest.mark.parametrize(
    ("values", "part", "expected"),
    [
        ([7.0], 99, 7.0),
        (list(range(1, 101)), 50, 50),
        (list(range(1, 101)), 99, 99),
        (list(range(1, 102)), 99, 100),
        ([5, 3, 1, 2, 4], 90, 5),
        ([5, 3, 1, 2, 4], 50, 3),
        (np.arange(20_000)[::-1], 95, 18_999),
    ],
)
def test_nearest_ranks(values: list[float], part: int, expected: float) -> None:
    assert summarise(values).percentiles[f"p{part}"] == expected


# --- intervals


def exact(n: int, part: int, level: Fraction) -> tuple[int | None, int | None]:
    """The ranks by sums of whole numbers, with nothing rounded."""
    chances = [math.comb(n, k) * part**k * (100 - part) ** (n - k) for k in range(n + 1)]
    spare = (1 - level) / 2 * 100**n
    lows = [low for low in range(1, n + 1) if sum(chances[:low]) <= spare]
    highs = [high for high in range(1, n + 1) if sum(chances[high:]) <= spare]
    return max(lows, default=None), min(highs, default=None)


@pytest.mark.parametrize("n", [1, 7, 8, 44, 60, 104, 130])
@pytest.mark.parametrize("part", PERCENTILES)
def test_ranks_are_those_of_exact_sums(n: int, part: int) -> None:
    assert ranks(n, part) == exact(n, part, Fraction(99, 100))
    assert ranks(n, part, 0.93) == exact(n, part, Fraction(93, 100))


def test_ranks_of_many_samples() -> None:
    # The normal limit: n p -+ 2.5758 sqrt(n p (1 - p)).
    low, high = ranks(10**7, 90)
    half = 2.5758293 * math.sqrt(10**7 * 0.09)
    assert low == pytest.approx(9e6 - half, abs=2) and high == pytest.approx(9e6 + half, abs=2)


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_intervals_hold_the_truth(memory: float) -> None:
    rng = np.random.default_rng(7)
    runs = [summarise(100 + autoregressive(rng, 1000, memory)) for _ in range(150)]
    for part in (50, 90):
        name, truth = f"p{part}", 100 + NORMAL[part]
        held = [
            (run.low[name] or -math.inf) <= truth <= (math.inf if run.high[name] is None else run.high[name])
            for run in runs
        ]
        assert np.mean(held) >= 0.96


def test_the_interval_of_samples_that_are_alike_is_wider() -> None:
    rng = np.random.default_rng(3)
    free, bound = (summarise(100 + autoregressive(rng, 4000, memory)) for memory in (0.0, 0.95))
    widths = [run.high["p50"] - run.low["p50"] for run in (free, bound)]  # type: ignore[operator]
    # Of flags above the median the sum of autocorrelations 2/pi asin(0.95^k) is 12: 25 times the variance.
    assert 3 < widths[1] / widths[0] < 8
    assert free.effective["p50"] > 3000 and 80 < bound.effective["p50"] < 400


@pytest.mark.parametrize(
    ("flags", "least", "most"),
    [
        (np.ones(100, bool), 100, 100),
        (np.array([True, False]), 2, 2),
        (np.arange(1000) % 2 == 0, 1000, 1000),  # swings back: not worth more than they are
        (np.arange(1000) % 10 == 0, 1000, 1000),
        (np.arange(1000) < 500, 1, 9),  # one change of level
        (np.random.default_rng(0).random(10_000) < 0.9, 8500, 10_000),
        (np.repeat(np.random.default_rng(0).random(1000) < 0.9, 10), 700, 1400),  # ten of each
    ],
)
def test_how_many_independent_samples_they_are_worth(flags: NDArray[Any], least: int, most: int) -> None:
    assert least <= effective_size(flags) <= most


def test_it_is_the_sum_of_the_definition() -> None:
    flags = autoregressive(np.random.default_rng(4), 301, 0.9) > 0.5
    centred = flags - flags.mean()
    lags = [float(centred[: 301 - lag] @ centred[lag:]) for lag in range(301)]
    total, least = 0.0, math.inf
    for pair in (lags[lag] + lags[lag + 1] for lag in range(0, 300, 2)):
        if pair <= 0:
            break
        least = min(least, pair)
        total += least / lags[0]
    assert total > 3
    assert effective_size(flags) == int(301 / (2 * total - 1))


def test_an_interval_is_the_same_from_both_sides() -> None:
    rng = np.random.default_rng(9)
    for n in (1000, 1010, 1024):
        values = autoregressive(rng, n, 0.8)
        up, down = summarise(values), summarise(-values)
        assert up.effective["p50"] == down.effective["p50"] < n / 2
        assert up.low["p50"] == -(down.high["p50"] or 0.0) and up.high["p50"] == -(down.low["p50"] or 0.0)


# --- MLPerf


@pytest.mark.parametrize(("part", "least"), [(90, 64), (99, 662)])
def test_the_fewest_queries_of_mlperf(part: int, least: int) -> None:
    assert early_stopping(range(least - 1), part) is None
    assert early_stopping(range(least), part) == least - 1


def test_an_estimate_of_mlperf() -> None:
    # A published log of LoadGen: 2048 queries, of which the 172 of the highest latency are discarded for p90.
    values = np.random.default_rng(0).permutation(2048)
    assert early_stopping(values, 90) == 2048 - 172 - 1


# --- distributions


def test_a_distribution_and_how_it_is_written() -> None:
    seconds = np.random.default_rng(1).permutation(np.arange(1, 1001)) / 1e6
    found = summarise(seconds)
    assert (found.n, found.min, found.max, found.mean) == (1000, 1e-6, 1e-3, pytest.approx(5.005e-4))
    assert found.cv == pytest.approx(math.sqrt((1000**2 - 1) / 12) / 500.5)
    written = found.to_dict(1000)
    assert [written[f"p{part}"] for part in PERCENTILES] == [0.5, 0.9, 0.95, 0.99]
    for name in ("p50", "p90", "p95", "p99"):
        assert written["low"][name] < written[name] < written["high"][name]
    schema = json.loads((Path(edgeemo.bench.__file__).parent / "report.schema.json").read_text("utf-8"))
    assert problems(written, {**schema["$defs"]["distribution"], "$defs": schema["$defs"]}) == []


def test_few_samples_have_no_interval() -> None:
    found = summarise([3.0, 1.0, 2.0])
    assert found.low == {"p50": None, "p90": 1.0, "p95": 1.0, "p99": 2.0}  # 3 x 0.05^2 is above 0.005
    assert found.high == dict.fromkeys(("p50", "p90", "p95", "p99"))
    assert found.enough == dict.fromkeys(("p50", "p90", "p95", "p99"), False)
    alone = summarise([2.0])
    assert alone.cv is None and alone.to_dict()["cv"] is None and alone.percentiles["p99"] == 2.0


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([], InputError, "0 samples"),
        ([1.0, math.nan], InputError, "1 of them not finite"),
        ([math.inf, math.inf], InputError, "2 of them not finite"),
    ],
)
def test_what_cannot_be_summarised(values: list[float], error: type[EdgeEmoError], message: str) -> None:
    with pytest.raises(error, match=message):
        summarise(values)


# --- enough of them


def test_as_many_more_as_it_says_are_enough() -> None:
    rng = np.random.default_rng(5)
    few = summarise(10 * np.exp(0.1 * rng.normal(size=120)))
    assert few.needed["p99"] and not few.enough["p99"]
    more = 120 + few.needed["p99"]
    assert 528 <= more < 5000  # 0.99^528 < 0.005: fewer have no upper end
    many = summarise(10 * np.exp(0.1 * rng.normal(size=2 * more)))
    assert many.needed == dict.fromkeys(("p50", "p90", "p95", "p99"), 0) and many.advice(10.0) == ""
    for part in PERCENTILES:
        name = f"p{part}"
        value, low, high = many.percentiles[name], many.low[name], many.high[name]
        assert low is not None and high is not None
        assert value * (1 - KNOWN_WITHIN[part]) <= low <= high <= value * (1 + KNOWN_WITHIN[part])


def test_no_more_are_asked_for_than_an_upper_end_takes() -> None:
    # 0.9^51, 0.95^104 and 0.99^528 are the first below 0.005; a need is found within a tenth.
    few = summarise([2.0] * 40)
    for part, least in ((90, 51), (95, 104), (99, 528)):
        more = few.needed[f"p{part}"]
        assert more is not None and least <= 40 + more <= 1.1 * least + 1
    assert few.needed["p50"] == 0


def test_the_advice_is_in_seconds() -> None:
    few = summarise(10 * np.exp(0.02 * np.random.default_rng(5).normal(size=120)))
    assert few.needed["p99"] and few.needed["p50"] == 0
    longer = 12.0 * (120 + few.needed["p99"]) / 120
    said = few.advice(12.0)
    assert "p99 from 120 samples: give --seconds " in said
    assert longer <= float(said.rsplit(" ", 1)[1]) <= 1.5 * longer


def test_where_more_samples_settle_nothing() -> None:
    rng = np.random.default_rng(2)
    detected = np.arange(1000) % 10 == 0  # p90 lies between the steps with a detection and those without
    torn = summarise(np.where(detected, 10.0, 2.0) * np.exp(0.05 * rng.normal(size=1000)))
    assert torn.needed == {"p50": 0, "p90": None, "p95": 0, "p99": 0} and not torn.enough["p90"]
    assert torn.advice(10.0).startswith("p90: between short and long samples")
    slower = summarise(np.where(np.arange(1000) < 500, 1.0, 1.3) * np.exp(0.05 * rng.normal(size=1000)))
    assert slower.needed["p50"] is None and slower.low["p50"] is None
    assert "p50: 1000 samples that drift, worth " in slower.advice(10.0)


# --- warm-up


def warmed(length: Callable[[int], float], **options: float) -> WarmUp:
    warm_up, now = WarmUp(**options), 100.0  # type: ignore[arg-type]
    for number in range(100_000):
        seconds = length(number)
        now += seconds
        if warm_up.add(seconds, now):
            return warm_up
    raise AssertionError("the warm-up has no end")


def noisy(spread: float) -> Callable[[int], float]:
    """Steps of 3 ms with noise, three of a hundred of them ten times as long."""
    rng = np.random.default_rng(11)
    return lambda _: float(0.003 * np.exp(spread * rng.normal()) * (10 if rng.random() < 0.03 else 1))


@pytest.mark.parametrize(
    ("length", "least", "most", "stable"),
    [
        (lambda _: 0.003, 0.5, 0.7, True),
        (lambda _: 0.1, 3.0, 3.1, True),  # few seconds, but too few steps
        (noisy(0.02), 0.5, 1.5, True),
        (noisy(0.3), 0.5, 9.0, True),
        (lambda number: 0.003 * (3 if number < 40 else 1), 0.5, 0.7, True),
        (lambda number: 0.003 * (1 + 2 * math.exp(-number / 100)), 1.5, 4.0, True),
        (lambda number: 0.003 * 1.003**number, 10.0, 10.5, False),
        (lambda _: 11.0, 11.0, 11.0, False),
    ],
    ids=["steady", "slow", "quiet", "loud", "settled", "decaying", "drifting", "one step"],
)
def test_a_warm_up_lasts_until_steps_are_stable(
    length: Callable[[int], float], least: float, most: float, stable: bool
) -> None:
    warm_up = warmed(length)
    assert warm_up.stable is stable
    assert least - 1e-9 <= warm_up.seconds <= most + 1e-9
    assert warm_up.to_dict() == {
        "seconds": round(warm_up.seconds, 3),
        "steps": warm_up.steps,
        "stable": stable,
    }


def test_what_was_still_slow_is_not_in_the_later_half() -> None:
    assert warmed(lambda number: 0.003 * (3 if number < 20 else 1), least=0.0).steps == 38
    assert warmed(lambda number: 0.003 * (3 if number < 25 else 1), least=0.0).steps > 38


def test_its_limits_can_be_set() -> None:
    assert warmed(lambda _: 0.01, least=0.0, steps=10).steps == 10
    assert warmed(lambda _: 0.01, least=2.0).seconds == pytest.approx(2.0, abs=0.7)
    assert not warmed(lambda number: 0.01 * 1.1**number, most=0.3).stable
    uneven = lambda number: 0.01 * (1 + 0.3 * (number % 7 == 0) + 0.001 * number)  # noqa: E731
    assert warmed(uneven, within=0.5).steps < warmed(uneven, within=0.01).steps
