"""How samples get from the threads of cameras and microphones to the one that reads them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from edgeemo.capture.source import Frame, Sound

_log = logging.getLogger("edgeemo")

Clock = Callable[[], float]


def start_clock() -> Clock:
    """A monotonic clock in seconds that starts at 0 now.

    Example:
        >>> clock = start_clock()
        >>> 0 <= clock() <= clock() < 60
        True
    """
    origin = time.monotonic()
    return lambda: time.monotonic() - origin


class _Lane:
    def __init__(self, depth: int, patience: float | None) -> None:
        self.items: deque[Frame | Sound] = deque(maxlen=depth)
        self.patience = patience
        self.heard = time.monotonic()
        self.open = True


class Mailbox:
    """Named lanes of bounded depth that one reader empties in order of time; a full lane loses its oldest.

    Example:
        >>> import numpy as np
        >>> box = Mailbox()
        >>> box.open("voice", depth=2)
        >>> [box.put("voice", Sound(t, np.zeros(1, np.float32), 1)) for t in (0.0, 1.0, 2.0)]
        [False, False, True]
        >>> box.close("voice")
        >>> [sound.time for sound in box]
        [1.0, 2.0]
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lanes: dict[str, _Lane] = {}

    def open(self, lane: str, depth: int, patience: float | None = None) -> None:
        """Add a lane that holds at most `depth` items.

        Args:
            lane: Its name, which messages give.
            depth: How many items wait at most.
            patience: Seconds without an item after which the lane is closed with a warning, or None.
        """
        with self._changed:
            self._lanes[lane] = _Lane(depth, patience)

    def put(self, lane: str, item: Frame | Sound) -> bool:
        """Add an item; what comes to a closed lane is ignored.

        Returns:
            Whether an older item had to go.
        """
        with self._changed:
            target = self._lanes[lane]
            if not target.open:
                return False
            full = len(target.items) == target.items.maxlen
            target.items.append(item)
            target.heard = time.monotonic()
            self._changed.notify()
            return full

    def close(self, lane: str, *, discard: bool = False) -> None:
        """Let a lane end after what waits in it, or at once with `discard`."""
        with self._changed:
            self._lanes[lane].open = False
            if discard:
                self._lanes[lane].items.clear()
            self._changed.notify()

    def __iter__(self) -> Iterator[Frame | Sound]:
        while (item := self._next()) is not None:
            yield item

    def _next(self) -> Frame | Sound | None:
        with self._changed:
            while True:
                waiting = [lane for lane in self._lanes.values() if lane.items]
                if waiting:
                    return min(waiting, key=lambda lane: lane.items[0].time).items.popleft()
                if not any(lane.open for lane in self._lanes.values()):
                    return None
                self._changed.wait(self._time_left())
                self._close_silent()

    def _time_left(self) -> float | None:
        now = time.monotonic()
        left = [
            lane.heard + lane.patience - now
            for lane in self._lanes.values()
            if lane.open and lane.patience is not None
        ]
        return max(min(left), 0.0) if left else None

    def _close_silent(self) -> None:
        now = time.monotonic()
        for name, lane in self._lanes.items():
            if lane.open and lane.patience is not None and now - lane.heard >= lane.patience:
                lane.open = False
                _log.warning("%s: nothing came for %.1f s; going on without it", name, lane.patience)
