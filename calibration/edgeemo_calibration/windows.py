"""What the encoders of a bundle are given while it answers a set: a sample of their inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeemo.inference.graph import Graph

Feeds = Mapping[str, NDArray[Any]]

MOST = 1000
_BYTES = 64 << 20  # of all that is kept of one graph


class Recorder:
    """A graph that keeps a uniform sample of what it is given, copied; otherwise it is the graph.

    Every window has the same chance to be kept (reservoir sampling, Vitter's algorithm R, 1985).

    Args:
        graph: what is called.
        most: windows that are kept; fewer where they are large.
        seed: of the sample.

    Attributes:
        kept: the windows.
        seen: how many there were.
    """

    def __init__(self, graph: Graph, most: int = MOST, seed: int = 0) -> None:
        self._graph = graph
        self._most = most
        self._random = np.random.default_rng(seed)
        self.spec, self.encoding, self.engine = graph.spec, graph.encoding, graph.engine
        self.kept: list[Feeds] = []
        self.seen = 0

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Answer as the graph does, and perhaps keep what was given."""
        size = sum(values.nbytes for values in feeds.values())
        room = max(1, min(self._most, _BYTES // max(size, 1)))
        self.seen += 1
        place = len(self.kept) if len(self.kept) < room else int(self._random.integers(self.seen))
        if place < room:
            self.kept[place : place + 1] = [{name: values.copy() for name, values in feeds.items()}]
        return self._graph.run(feeds)

    def close(self) -> None:
        """Close the graph; what was kept stays."""
        self._graph.close()
