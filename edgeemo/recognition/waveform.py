"""The newest samples on the bundle's grid of samples, up to a limit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Waveform:
    """Samples by position (time x sample rate), appended at the end and read as contexts; gaps are zeros.

    One buffer of fixed size: what has been read moves out at its front, at most once in three contexts.

    Args:
        context: samples that one read looks back.
        limit: most samples that wait to be read; beyond it the oldest are dropped.

    Attributes:
        end: position after the newest sample, None before the first.
    """

    def __init__(self, context: int, limit: int) -> None:
        self._context = context
        self._limit = limit
        self._buffer: NDArray[np.float32] = np.zeros(4 * context + limit, np.float32)
        self._silence: NDArray[np.float32] = np.zeros(context, np.float32)
        self._origin = 0  # position of the first sample in the buffer
        self._read = 0  # position up to which contexts were read
        self.end: int | None = None

    def append(self, position: int, samples: NDArray[np.float32]) -> int:
        """Write `samples` at `position`, not before the end; returns how many unread ones were dropped."""
        skipped = max(samples.size - self._limit, 0)
        if skipped:
            samples = samples[skipped:]
            dropped = skipped + self._restart(position + skipped)
        else:
            dropped = self._extend(position) + self._make_room(samples.size)
        assert self.end is not None
        start = self.end - self._origin
        self._buffer[start : start + samples.size] = samples
        self.end += samples.size
        return dropped

    def context(self, end: int) -> NDArray[np.float32] | None:
        """The context that ends at position `end`, a view until the next call; None before the first sample.

        Ends never go back. What is missing at either side reads as zeros.
        """
        if self.end is None:
            return None
        if end > self.end:
            self._extend(end)
        self._read = max(self._read, end)
        start = end - self._context - self._origin
        if start >= 0:
            return self._buffer[start : start + self._context]
        present = max(start + self._context, 0)
        padded = self._silence.copy()
        padded[self._context - present :] = self._buffer[:present]
        return padded

    def hush(self, start: int, end: int) -> None:
        """Overwrite the positions from `start` to `end` with zeros, as far as they are held."""
        self._buffer[max(start - self._origin, 0) : max(end - self._origin, 0)] = 0.0

    def clear(self) -> None:
        """Forget everything."""
        self._origin = self._read = 0
        self.end = None

    def _extend(self, position: int) -> int:
        """Zeros up to `position`; returns how many unread samples had to be dropped."""
        if self.end is None or position - self.end > self._limit:
            return self._restart(position)
        missing = position - self.end
        dropped = self._make_room(missing)
        start = self.end - self._origin
        self._buffer[start : start + missing] = 0.0
        self.end = position
        return dropped

    def _restart(self, position: int) -> int:
        """Begin at `position` with zeros before it; returns how many unread samples were dropped."""
        dropped = 0 if self.end is None else self.end - self._read
        self._buffer[: self._context] = 0.0
        self._origin, self._read, self.end = position - self._context, position, position
        return dropped

    def _make_room(self, count: int) -> int:
        """Let `count` samples fit behind the end, and only the limit wait; returns how many were dropped."""
        assert self.end is not None
        dropped = max(self.end + count - self._read - self._limit, 0)
        self._read += dropped
        front = self._read - self._context - self._origin
        if front >= 3 * self._context or self.end + count - self._origin > self._buffer.size:
            held = self.end - self._origin - front
            self._buffer[:held] = self._buffer[front : front + held]
            self._origin += front
        return dropped
