"""How far one modality of a stream has come, and in which hops it is muted."""

from __future__ import annotations

from collections import deque


class Lane:
    """The state of one modality.

    Attributes:
        open: more of it may come.
        muted: it is muted from the hop of the last change on.
        time: everything before this time has come, in seconds.
        hops: hops up to and with the one of its newest picture or sample.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew: open, not muted, at time 0."""
        self.open = True
        self.muted = False
        self.time = 0.0
        self.hops = 0
        self._hushed = False
        self._changes: deque[tuple[int, bool]] = deque()

    def mute(self, muted: bool, hop: int) -> None:
        """Mute or unmute from `hop` on, or from the hop of the change before on when that is later."""
        if muted == self.muted:
            return
        self.muted = muted
        if self._changes:
            hop = max(hop, self._changes[-1][0])
        # There and back within one hop is no change, so that no more changes wait than hops.
        if self._changes and self._changes[-1][0] == hop:
            self._changes.pop()
        else:
            self._changes.append((hop, muted))

    def muted_in(self, hop: int) -> bool:
        """Whether it is muted in `hop`; hops that are asked for never go back."""
        while self._changes and self._changes[0][0] <= hop:
            self._hushed = self._changes.popleft()[1]
        return self._hushed
