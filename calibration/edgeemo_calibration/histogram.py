"""Where a tensor's magnitudes are cut off before they are rounded to steps: a histogram and four methods."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgeemo.errors import InputError

from .table import STEPS


class Histogram:
    """Counts of the magnitudes of a tensor over a stream, in bounded memory and independent of its order.

    The range is a power of two that doubles when a larger value comes: pairs of bins then merge exactly.

    Example:
        >>> histogram = Histogram()
        >>> histogram.add(np.array([0.0, -0.5, 3.0], np.float32))
        >>> histogram.absmax, histogram.limit
        (3.0, 4.0)
    """

    BINS = 16384
    COARSE = 2048

    def __init__(self) -> None:
        self.absmax = 0.0
        self.limit = 0.0
        self._counts = np.zeros(self.BINS, np.int64)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count the magnitudes that are not zero.

        Raises:
            InputError: a value is not finite; what was counted before stays.
        """
        magnitudes = np.abs(values).ravel()
        largest = float(magnitudes.max(initial=0.0))
        if not math.isfinite(largest):
            raise InputError("holds values that are not finite")
        if largest == 0.0:
            return
        self.absmax = max(self.absmax, largest)
        self._grow(2.0 ** math.frexp(largest)[1])
        bins = (magnitudes[magnitudes > 0.0] * np.float32(self.BINS / self.limit)).astype(np.int32)
        self._counts += np.bincount(bins, minlength=self.BINS)

    def _grow(self, limit: float) -> None:
        if limit > self.limit > 0.0:
            merged = min(int(limit / self.limit), self.BINS)
            kept = self._counts.reshape(-1, merged).sum(axis=1)
            self._counts = np.zeros(self.BINS, np.int64)
            self._counts[: kept.size] = kept
        self.limit = max(self.limit, limit)

    def clip(self, method: str, percentile: float = 100.0) -> float:
        """The magnitude from which on values are clipped, at most the largest that was seen.

        Args:
            method: ``min-max``, ``percentile``, ``entropy`` or ``mse``.
            percentile: share of the counted magnitudes to keep, in percent, for the method of that name.
        """
        if method == "percentile":
            return self._percentile(percentile)
        if method == "entropy":
            return self._least_divergence()
        return self._least_error() if method == "mse" else self.absmax

    def _percentile(self, percentile: float) -> float:
        cumulated = np.cumsum(self._counts)
        edge = int(np.searchsorted(cumulated, cumulated[-1] * percentile / 100.0))
        return min(self.absmax, (edge + 1) * self.limit / self.BINS)

    def _least_error(self) -> float:
        """The clipping point of least mean squared error, searched over shares of the largest magnitude."""
        filled = np.flatnonzero(self._counts)
        centres, counts = (filled + 0.5) * self.limit / self.BINS, self._counts[filled]
        # Below a 25th a step would be finer than two bins, and the counts would not show its error.
        candidates = self.absmax * np.geomspace(1.0, 0.04, 161)

        def error(clip: float) -> float:
            step = clip / STEPS
            rounded = np.minimum(np.rint(centres / step), STEPS) * step
            return float(np.dot(counts, (centres - rounded) ** 2))

        return float(min(candidates, key=error))

    def _least_divergence(self) -> float:
        """The clipping point of least divergence (Migacz, 2017, 8-bit Inference with TensorRT).

        Each candidate is the end of one of `COARSE` bins, from as many bins as there are steps on; of equals
        the one that clips least is taken. Where many numbers are the same, as at the floor of a log-mel
        picture, what is clipped there hides among them, and the least divergence may clip far too much.
        """
        counts = self._counts.reshape(self.COARSE, -1).sum(axis=1)
        last = int(np.flatnonzero(counts)[-1]) + 1
        candidates = reversed(range(min(STEPS + 1, last), last + 1))
        best = min(candidates, key=lambda bins: divergence(counts, bins))
        return min(self.absmax, best * self.limit / self.COARSE)


def divergence(counts: NDArray[np.int64], bins: int, steps: int = STEPS) -> float:
    """What a distribution of magnitudes loses when it is clipped and rounded to steps, in nats.

    The Kullback-Leibler divergence of the clipped counts, where all that was clipped is in the last bin kept,
    from the counts that a step has, spread evenly over those of its bins that hold anything.

    Args:
        counts: of equally wide bins from zero on.
        bins: how many of them are kept.
        steps: between zero and the end of the last bin kept.

    Returns:
        infinity where the last bin kept holds nothing but what was clipped.

    Example:
        >>> even = np.array([4, 4, 4, 4, 4, 4, 0, 0])
        >>> divergence(even, 6, 3), divergence(np.array([1, 7, 0, 0]), 2, 2)
        (0.0, 0.0)
        >>> round(divergence(np.array([6, 2]), 2, 1), 4), divergence(np.array([3, 0, 1]), 2)
        (0.0, inf)
    """
    kept = counts[:bins]
    clipped = kept.astype(np.float64)
    clipped[-1] += counts[bins:].sum()
    if clipped[-1] and not kept[-1]:
        return math.inf
    filled = kept > 0
    nearest = np.rint((np.arange(bins) + 0.5) * (steps / bins)).astype(np.int64)
    mass = np.bincount(nearest, kept, steps + 1)
    share = mass / np.maximum(np.bincount(nearest, filled, steps + 1), 1)
    rounded = share[nearest][filled] / kept.sum()
    reference = clipped[filled] / clipped.sum()
    return float(max(0.0, np.dot(reference, np.log(reference / rounded))))
