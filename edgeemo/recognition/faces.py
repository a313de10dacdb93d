"""The faces in view and what the face graph says of each over the last window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeemo.preprocess.face import FaceGeometry
from edgeemo.recognition.health import brightness
from edgeemo.recognition.ring import TokenRing
from edgeemo.recognition.tracks import Track, Tracks

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeemo.inference.bundle import Bundle
    from edgeemo.inference.graph import Graph
    from edgeemo.preprocess.detector import FaceFinder


class Faces:
    """Row i of the ring is track i; one graph call per hop encodes the newest crop of all of them.

    Args:
        bundle: a bundle with faces.
        graph: its face graph.
        finder: gives the face finder; called with the first picture and not before.
        ring: where the tokens go, a row for each of at most `bundle.face.most` faces.
        step: slots from one hop to the next.

    Attributes:
        tracks: the faces, those in view and those that were lost a moment ago.
        ring: their tokens.
    """

    def __init__(
        self, bundle: Bundle, graph: Graph, finder: Callable[[], FaceFinder], ring: TokenRing, step: int
    ) -> None:
        assert bundle.face is not None
        size, channels = bundle.face.size, bundle.face.channels
        self._graph = graph
        self._finder = finder
        self._geometry = FaceGeometry({"size": size, "channels": channels, "geometry": bundle.face.geometry})
        self._dark = bundle.thresholds.dark
        self._step = step
        self._every = graph.spec.every
        self._most = bundle.face.most
        self._crops: NDArray[np.uint8] = np.zeros((self._most, *size, channels), np.uint8)
        self._tracker: Tracks | None = None
        self.ring = ring
        self.reset()

    def reset(self) -> None:
        """Forget every face."""
        self.tracks: list[Track] = []
        self.ring.clear()
        self._reasons: list[tuple[str, ...]] = []
        self._rest = 0  # slots until the graph is due again
        if self._tracker is not None:
            self._tracker.reset()

    def see(self, image: NDArray[np.uint8] | None) -> None:
        """Take the picture of one hop, or None where it has none: its tokens are masked."""
        self.ring.shift(self._step)
        self._rest -= self._step
        if image is not None:
            if self._tracker is None:
                self._tracker = Tracks(self._finder(), self._geometry, most=self._most)
            self._follow(self._tracker.update(image))
            self._encode(image)
        else:
            self._reasons = [("no face",)] * len(self.tracks)
        self._forget_gone()
        # Whoever is there after a whole window without a picture need not be who was there before.
        if image is None and not self.tracks and self._tracker is not None:
            self._tracker.forget()

    def reasons(self, row: int) -> tuple[str, ...]:
        """What was missing or bad about the face of one row in this hop."""
        return self._reasons[row] if self.tracks else ("no face",)

    def _follow(self, tracks: list[Track]) -> None:
        """Let the rows be those of `tracks`; nothing moves while the faces stay the same."""
        rows = {track.id: row for row, track in enumerate(self.tracks)}
        sources = [rows.get(track.id) for track in tracks]
        if sources != list(range(self.ring.used)):
            self.ring.arrange(sources)
        self.tracks = list(tracks)

    def _encode(self, image: NDArray[np.uint8]) -> None:
        seen = [row for row, track in enumerate(self.tracks) if not track.lost]
        self._reasons = [("no face",)] * len(self.tracks)
        for place, row in enumerate(seen):
            crop = self._geometry.cut(image, self.tracks[row].square, out=self._crops[place])
            self._reasons[row] = ("too dark",) if brightness(crop) < self._dark else ()
        if seen and self._rest <= 0:
            self._rest = self._every
            self.ring.append(seen, self._graph.run({"face": self._crops[: len(seen)]})["tokens"])

    def _forget_gone(self) -> None:
        """Without new pictures a face is kept for as long as the window holds a token of it."""
        kept = [row for row in range(self.ring.used) if self.ring.mask[row].any()]
        if len(kept) < self.ring.used:
            self.ring.arrange(kept)
            self.tracks = [self.tracks[row] for row in kept]
            self._reasons = [self._reasons[row] for row in kept]
