"""Which words does a hop know: those that had ended by its end, within the window."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence

from edgeemo.recognition.clock import TOLERANCE, HopGrid

Pieces = tuple[int, ...]
"""The ids of one word."""


class Transcript:
    """Words in the order in which they were said, whatever the order in which they came.

    They are ordered by start, then by end; those with the same times stay in the order in which they came.

    Args:
        grid: the hops.
        window: seconds that a hop looks back.
        limit: most words that are held; beyond it the oldest are dropped.

    Attributes:
        reach: hops back to the oldest word that a hop may know.
    """

    def __init__(self, grid: HopGrid, window: float, limit: int) -> None:
        self._grid = grid
        self._window = window
        self._limit = limit
        self.reach = math.ceil(window / grid.hop) + 1
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        # Start, end, which one it was, the hop of its end, the first hop that knows it, and its ids.
        self._words: list[tuple[float, float, int, int, int, Pieces]] = []
        self._count = 0
        self._muted: set[int] = set()

    def add(self, words: Sequence[Pieces], start: float, end: float, hop: int, known: int) -> int:
        """Take words that were said together; returns how many were dropped for the limit.

        Args:
            words: the ids of each.
            start: in seconds.
            end: likewise, not before the start.
            hop: the first hop that ends at or after their end.
            known: the first hop that is to know them; a later one where they are late.
        """
        for pieces in words:
            insort(self._words, (start, end, self._count, hop, known, pieces))
            self._count += 1
        excess = max(len(self._words) - self._limit, 0)
        del self._words[:excess]
        return excess

    def mute(self, hop: int) -> None:
        """Let no hop know the words that end in `hop`, also those that are still to come."""
        self._muted.add(hop)
        if len(self._muted) > 2 * self.reach:
            self._muted = {muted for muted in self._muted if muted > hop - self.reach}

    def known(self, hop: int) -> list[Pieces]:
        """The words that `hop` knows, oldest first; hops that are asked for never go back."""
        time = self._grid.end(hop)
        oldest = time - self._window + TOLERANCE
        begun = bisect_left(self._words, (time + 2 * TOLERANCE,))
        kept = [word for word in self._words[:begun] if word[1] > oldest]
        if len(kept) < begun:
            self._words[:begun] = kept
        return [word[5] for word in kept if word[4] <= hop and word[3] not in self._muted]
