"""Where on the bundle's grid of samples does a chunk of sound go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeemo.preprocess.voice import Resampler

if TYPE_CHECKING:
    from collections.abc import MutableMapping

JITTER = 0.005
"""Seconds by which the time of a chunk may miss the end of the one before and still continue it.

Containers round times to a millisecond and sound cards let them tremble; as zeros and cuts that would be
audible.
"""


class Placement:
    """Turns chunks with times into resampled runs with positions, which never overlap.

    A chunk that continues the one before is resampled with its history. One that starts later leaves a gap;
    of one that starts earlier the part that is already there is dropped. What a sample becomes depends on its
    time alone, not on how the sound was cut into chunks.

    Args:
        rate: sample rate of the grid in Hz.
        stats: where 'gap_samples' and 'overlap_samples' are counted, on the grid.
    """

    def __init__(self, rate: int, stats: MutableMapping[str, int]) -> None:
        self._rate = rate
        self._stats = stats
        # Kept over resets: it takes longer to make than a second to resample.
        self._resampler: Resampler | None = None
        self._source_rate = 0
        self.reset()

    def reset(self) -> None:
        """Forget every chunk."""
        self._anchor = 0.0  # time from which samples are counted
        self._count = 0  # samples at the source's rate since then
        self._position: int | None = None  # of the next run
        self._inside = False  # the chunk before lay wholly in what is already there
        self._runs: list[tuple[int, NDArray[np.float32]]] = []
        self._begun = 0  # position of the first sample that waits in the resampler

    def place(self, samples: NDArray[np.float32], source_rate: int, time: float) -> tuple[int, int]:
        """Position of the first sample on the grid, and how many there are at the grid's rate.

        They wait to be taken: several chunks that are resampled at once cost little more than one.

        Args:
            samples: float32 [n], mono.
            source_rate: in Hz.
            time: of the first sample, in seconds.

        Raises:
            InputError: a rate that cannot be resampled; nothing is changed then.
        """
        resampler = self._resampler
        # A rate is compared only when it is a number: Resampler refuses an array.
        whole = isinstance(source_rate, int | np.integer)
        if resampler is None or not whole or source_rate != self._source_rate:
            resampler = Resampler(source_rate, self._rate)
        samples = self._align(samples, source_rate, time, resampler)
        position = self._position
        assert position is not None
        count = resampler.take(samples)
        self._count += samples.size
        self._position = position + count
        return position, count

    @property
    def waiting(self) -> int:
        """Samples that were placed and not taken."""
        resampling = 0 if self._position is None else self._position - self._begun
        return resampling + sum(len(run) for _, run in self._runs)

    def take(self) -> list[tuple[int, NDArray[np.float32]]]:
        """What waits: runs without a gap, each with the position of its first sample."""
        self._finish()
        runs, self._runs = self._runs, []
        return runs

    def _finish(self) -> None:
        """End a run where the newest sample is."""
        if self._resampler is not None and self._position is not None and self._begun < self._position:
            self._runs.append((self._begun, self._resampler.give()))
            self._begun = self._position

    def _align(
        self, samples: NDArray[np.float32], source_rate: int, time: float, resampler: Resampler
    ) -> NDArray[np.float32]:
        """Find where the chunk starts, against the end of the one before; returns the new samples."""
        if self._position is None:
            self._restart(time, round(time * self._rate), source_rate, resampler)
            return samples
        error = time - (self._anchor + self._count / self._source_rate)
        slack = 0.5 / source_rate if self._inside else JITTER
        if error < -slack:
            cut = min(round(-error * source_rate), samples.size)
            self._inside = cut == samples.size
            self._stats["overlap_samples"] += round(cut * self._rate / source_rate)
            samples = samples[cut:]
            time += cut / source_rate
        else:
            self._inside = False
        if error > slack:
            position = max(round(time * self._rate), self._position)
            self._stats["gap_samples"] += position - self._position
            self._restart(time, position, source_rate, resampler)
        elif source_rate != self._source_rate and not self._inside:
            self._restart(time, self._position, source_rate, resampler)
        return samples

    def _restart(self, time: float, position: int, source_rate: int, resampler: Resampler) -> None:
        self._finish()
        resampler.reset()
        self._resampler, self._source_rate = resampler, source_rate
        self._anchor, self._count, self._position = time, 0, position
        self._begun = position
