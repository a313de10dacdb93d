"""The newest picture of each hop that waits for its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

Picture = NDArray[Any] | Callable[[], NDArray[Any]]


class Pictures:
    """At most one picture per hop, and at most `limit` of them; a picture may be a callable that makes it.

    Args:
        limit: hops that may wait; beyond it the oldest picture is dropped.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: dict[int, tuple[float, Picture]] = {}

    def put(self, hop: int, time: float, picture: Picture) -> int:
        """Keep the picture unless its hop has a newer one; returns how many were dropped for the limit."""
        held = self._waiting.get(hop)
        if held is None or held[0] <= time:
            self._waiting[hop] = (time, picture)
        if len(self._waiting) <= self._limit:
            return 0
        del self._waiting[min(self._waiting)]
        return 1

    def take(self, hop: int) -> Picture | None:
        """The picture of a hop, which is no longer kept."""
        held = self._waiting.pop(hop, None)
        return None if held is None else held[1]

    def drop_before(self, hop: int) -> int:
        """Forget the pictures of earlier hops; returns how many there were."""
        past = [waiting for waiting in self._waiting if waiting < hop]
        for waiting in past:
            del self._waiting[waiting]
        return len(past)

    def clear(self) -> None:
        """Forget all."""
        self._waiting.clear()
