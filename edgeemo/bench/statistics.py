"""What samples of a latency say, and how surely: percentiles, intervals, a warm-up, how many are enough."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeemo.errors import InputError

PERCENTILES = (50, 90, 95, 99)

LEVEL = 0.99
"""Confidence of an interval: the level that MLPerf asks for."""

KNOWN_WITHIN = {50: 0.05, 90: 0.10, 95: 0.10, 99: 0.15}
"""How far the ends of its interval may lie from a percentile that is known well enough, as shares of it."""

UNSTABLE_GPU = 0.025
"""Coefficient of variation of GPU times above which they are unstable: where trtexec warns."""

UNSTABLE_CPU = 0.10
"""The same of times on a CPU: where pyperf warns. A core that runs an operating system too is never as steady
as a GPU: an interrupt of some microseconds in a step of a tenth of a millisecond is a few per cent, and no
fault that anybody could mend."""

_SIGNIFICANT = 5  # places of a written figure: finer than any clock keeps its rate
_MOST = 10**6  # independent samples that a run may be asked for: an hour of steps of 4 ms

Values = Sequence[float] | NDArray[Any]


@dataclass(frozen=True)
class Distribution:
    """Samples of one quantity, in its unit.

    An interval holds the true percentile with a confidence of `LEVEL`, whatever the distribution; it is wider
    where samples that follow each other are alike, as such samples say less.

    Attributes:
        n: how many samples.
        mean: of all of them.
        min: the smallest.
        max: the largest.
        cv: coefficient of variation, the standard deviation over the mean; None of one sample, or of a mean
            of 0.
        percentiles: by name ('p50', 'p90', 'p95', 'p99'), the nearest ranks.
        low: lower ends of their intervals; None where there are too few samples for one.
        high: upper ends of their intervals; None where there are too few samples for one.
        effective: of each percentile how many independent samples these are worth, at most n.
        needed: of each percentile how many more such samples would make it known within `KNOWN_WITHIN`, 0
            where it is; None where more would not: it lies between short and long samples, so that a million
            would not do, or all these follow one drift.
    """

    n: int
    mean: float
    min: float
    max: float
    cv: float | None
    percentiles: Mapping[str, float]
    low: Mapping[str, float | None]
    high: Mapping[str, float | None]
    effective: Mapping[str, int]
    needed: Mapping[str, int | None]

    @property
    def enough(self) -> dict[str, bool]:
        """Of each percentile whether it is known well enough."""
        return {name: more == 0 for name, more in self.needed.items()}

    def advice(self, seconds: float) -> str:
        """What to do for the percentiles that are not known well enough; empty where all are.

        Args:
            seconds: how long it took to take these samples.

        Example:
            >>> samples = summarise([10 + number * 37 % 100 / 100 for number in range(120)])
            >>> samples.advice(12.0)
            'p99 from 120 samples: give --seconds 60'
        """
        lines = []
        short = {name: more for name, more in self.needed.items() if more}
        if short:
            longer = seconds * (1 + max(short.values()) / self.n)
            step = 10.0 ** math.floor(math.log10(longer))
            enough = math.ceil(longer / step) * step
            lines.append(f"{', '.join(short)} from {self.n} samples: give --seconds {enough:g}")
        for name, more in self.needed.items():
            if more is None:
                drift = f"{self.n} samples that drift, worth {self.effective[name]}"
                torn = "between short and long samples, where more of them settle nothing"
                lines.append(f"{name}: {drift if _drifts(self.n, self.effective[name]) else torn}")
        return "; ".join(lines)

    def to_dict(self, factor: float = 1.0) -> dict[str, Any]:
        """The figures as a report holds them, of five significant places.

        Args:
            factor: from the unit of the samples to that of the report, as 1000 from seconds to milliseconds.

        Example:
            >>> written = summarise([0.001, 0.002, 0.003]).to_dict(1000)
            >>> written["p50"], written["low"]["p50"], written["mean"], written["n"]
            (2.0, None, 2.0, 3)
        """
        return {
            **_scaled(self.percentiles, factor),
            "low": _scaled(self.low, factor),
            "high": _scaled(self.high, factor),
            "mean": _places(self.mean * factor),
            "min": _places(self.min * factor),
            "max": _places(self.max * factor),
            "cv": None if self.cv is None else _places(self.cv),
            "n": self.n,
        }


def summarise(values: Values) -> Distribution:
    """The distribution of `values`, which stand in the order in which they were taken.

    Raises:
        InputError: there are none, or one is not finite.
    """
    taken = np.asarray(values, np.float64)
    if not taken.size or not np.isfinite(taken).all():
        raise InputError(
            f"{taken.size} samples to summarise, {np.count_nonzero(~np.isfinite(taken))} of them not finite; "
            "give one or more finite numbers"
        )
    ordered = np.sort(taken)
    mean = float(taken.mean())
    known = {f"p{part}": _Known.of(taken, ordered, part) for part in PERCENTILES}
    return Distribution(
        n=taken.size,
        mean=mean,
        min=float(ordered[0]),
        max=float(ordered[-1]),
        cv=float(taken.std() / mean) if taken.size > 1 and mean else None,
        percentiles={name: one.value for name, one in known.items()},
        low={name: one.low for name, one in known.items()},
        high={name: one.high for name, one in known.items()},
        effective={name: one.effective for name, one in known.items()},
        needed={name: one.needed for name, one in known.items()},
    )


def ranks(n: int, part: int, level: float = LEVEL) -> tuple[int | None, int | None]:
    """The order statistics between which a percentile lies, of independent samples of any distribution.

    The l-th and the u-th smallest of n, with P(B < l) and P(B >= u) at most (1 - level) / 2 each, where B has
    the binomial distribution of n and part / 100 (H. A. David and H. N. Nagaraja, Order Statistics, 3rd ed.,
    2003, section 7.1).

    Args:
        n: how many samples, at least 1.
        part: the percentile, from 1 to 99.
        level: confidence, in (0, 1).

    Returns:
        l and u, from 1 to n; None for an end that n samples cannot give.

    Example:
        >>> ranks(1000, 50), ranks(1000, 99), ranks(500, 99)
        ((459, 542), (981, 998), (488, None))
    """
    first, chances = _binomial(n, part / 100)
    spare = (1 - level) / 2
    low = first + int(np.count_nonzero(np.cumsum(chances) <= spare))
    above = np.cumsum(chances[::-1])[::-1]  # P(B >= k): from the far end, where the small ones are
    high = first + int(np.count_nonzero(above > spare))
    return (low if low >= 1 else None), (high if high <= n else None)


def early_stopping(values: Values, part: int, level: float = LEVEL) -> float | None:
    """The percentile as MLPerf gives it of a run that is short: one that holds with a confidence of `level`.

    The t-th largest value, of the largest t for which a chance of at most 1 - level lets t or fewer values
    lie above the true percentile (MLCommons, Inference Rules, early stopping; as there, the values are taken
    for independent).

    Returns:
        The estimate, at or above the nearest rank; None below MLPerf's least number of queries: 64 for p90
        and 662 for p99.

    Example:
        >>> early_stopping(range(1, 1001), 90)
        923
    """
    taken = np.asarray(values)
    _, high = ranks(taken.size, part, 2 * level - 1)  # one-sided
    if high is None or high == taken.size:
        return None
    value: float = np.partition(taken, high)[high].item()
    return value


def effective_size(flags: NDArray[Any]) -> int:
    """How many independent samples a series of them is worth: n / (1 + 2 x the sum of its autocorrelations).

    Which samples lie below a percentile is such a series, and the variance of its mean is that of the
    percentile's rank (P. Heidelberger and P. A. W. Lewis, Quantile Estimation in Dependent Sequences,
    Operations Research 32(1), 1984). The sum is that of the initial monotone sequence of C. J. Geyer,
    Practical Markov Chain Monte Carlo, Statistical Science 7(4), 1992.

    Args:
        flags: the series [n], in the order in which it was taken.

    Returns:
        From 1 to n: a series that swings back faster than chance is not counted for more.

    Example:
        >>> effective_size(np.arange(1000) % 20 < 10) < 1000 // 2 < effective_size(np.arange(1000) % 2)
        True
    """
    n = len(flags)
    centred = flags - np.mean(flags, dtype=np.float64)
    if n < 4 or not centred.any():
        return n
    spectrum = np.fft.rfft(centred, 1 << (2 * n - 1).bit_length())  # padded: no lag wraps round
    covariances = np.fft.irfft(spectrum.real**2 + spectrum.imag**2)[: n - n % 2]
    pairs = (covariances[0::2] + covariances[1::2]) / covariances[0]
    ends = np.flatnonzero(pairs <= 0)
    kept = np.minimum.accumulate(pairs[: ends[0]] if ends.size else pairs)
    return max(1, int(n / max(1.0, 2 * float(kept.sum()) - 1)))


@dataclass(frozen=True)
class _Known:
    """A percentile and how well it is known."""

    value: float
    low: float | None
    high: float | None
    effective: int
    needed: int | None

    @classmethod
    def of(cls, taken: NDArray[np.float64], ordered: NDArray[np.float64], part: int) -> _Known:
        n = taken.size
        value = float(ordered[_rank(n, part) - 1])
        effective = effective_size(taken <= value)
        first, last = ranks(effective, part)
        # The ranks of as many independent samples, at the same shares of these, rounded outwards.
        low = None if first is None else float(ordered[(first - 1) * n // effective])
        high = None if last is None else float(ordered[-(-last * n // effective) - 1])
        within = KNOWN_WITHIN[part] * abs(value)
        known = low is not None and high is not None and max(value - low, high - value) <= within
        return cls(value, low, high, effective, 0 if known else _needed(ordered, part, effective))


def _needed(ordered: NDArray[np.float64], part: int, effective: int) -> int | None:
    """How many more samples, spread as these are, would give an interval that is narrow enough."""
    n = len(ordered)
    if _drifts(n, effective):
        return None
    shares = (np.arange(n) + 0.5) / n
    value = float(np.interp(part / 100, shares, ordered))
    count = effective
    while (count := math.ceil(1.1 * count)) < _MOST:
        first, last = ranks(count, part)
        if first is None or last is None:
            continue
        low, high = np.interp([(first - 0.5) / count, (last - 0.5) / count], shares, ordered)
        if max(value - low, high - value) <= KNOWN_WITHIN[part] * abs(value):
            return -(-count * n // effective) - n
    return None


def _drifts(n: int, effective: int) -> bool:
    """Whether many samples are worth so few that what more of them would be worth cannot be told."""
    return n >= 100 and effective < 10


def _rank(n: int, part: int) -> int:
    """The nearest rank from 1 to n, in whole numbers: 0.55 x 100 is above 55 in floating point."""
    return -(-part * n // 100)


def _binomial(n: int, chance: float) -> tuple[int, NDArray[np.float64]]:
    """P(B = k) for every k that has any to speak of, and the first k."""
    far = 12 * math.sqrt(n * chance * (1 - chance)) + 30
    first, last = max(0, math.floor(n * chance - far)), min(n, math.ceil(n * chance + far))
    counts = np.arange(first, last)
    steps = np.log((n - counts) / (counts + 1) * (chance / (1 - chance)))
    logs = np.concatenate([[0.0], np.cumsum(steps)])
    chances = np.exp(logs - logs.max())
    return first, chances / chances.sum()


def _scaled(figures: Mapping[str, float | None], factor: float) -> dict[str, float | None]:
    return {name: None if value is None else _places(value * factor) for name, value in figures.items()}


def _places(value: float) -> float:
    return float(f"{value:.{_SIGNIFICANT}g}")


# --- warm-up


class WarmUp:
    """Says when the steps of a run have become as long as they will be.

    They have when the medians of the three thirds of the later half of all steps lie within `within` of each
    other. Medians, and parts that grow with the run, let single slow steps and noise pass; what still drifts
    differs the more between the parts the longer it is watched. It is asked at each quarter more of steps, so
    that luck has few chances.

    Args:
        least: seconds, however soon the steps agree.
        steps: the fewest steps, at least 6.
        most: seconds after which it is done, stable or not.
        within: how far the medians may lie apart, as a share of the least of them.

    Attributes:
        steps: how many were taken.
        seconds: from the begin of the first to the end of the last.
        stable: whether the steps agreed in the end.

    Example:
        >>> warm_up = WarmUp(least=0.1, most=5.0)
        >>> lengths = [0.02 if number < 20 else 0.01 for number in range(100)]
        >>> moments = np.cumsum(lengths)
        >>> next(n for n, step in enumerate(lengths, 1) if warm_up.add(step, moments[n - 1])), warm_up.stable
        (38, True)
    """

    def __init__(
        self, *, least: float = 0.5, steps: int = 30, most: float = 10.0, within: float = 0.05
    ) -> None:
        self.seconds = 0.0
        self.stable = False
        self._least = least
        self._most = most
        self._within = within
        self._next = steps
        self._begin: float | None = None
        self._taken: list[float] = []

    @property
    def steps(self) -> int:
        """How many were taken."""
        return len(self._taken)

    def add(self, seconds: float, now: float) -> bool:
        """Take one step; True when the warm-up is over.

        Args:
            seconds: its length. Where some steps do more, as those with a detection, give what all have.
            now: when it ended, in seconds of any clock.
        """
        if self._begin is None:
            self._begin = now - seconds
        self._taken.append(seconds)
        self.seconds = now - self._begin
        if self.steps >= self._next and self.seconds >= self._least:
            self._next = math.ceil(1.25 * self.steps)
            self.stable = self._agree()
        return self.stable or self.seconds >= self._most

    def to_dict(self) -> dict[str, Any]:
        """As a report holds it."""
        return {"seconds": round(self.seconds, 3), "steps": self.steps, "stable": self.stable}

    def _agree(self) -> bool:
        later = np.array(self._taken[self.steps // 2 :])
        medians = [float(np.median(third)) for third in np.array_split(later, 3)]
        return max(medians) - min(medians) <= self._within * min(medians)
