"""When what several graphs share may be freed: with the last of them, however it goes."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from edgeemo.inference.graph import Graph


class Sharing:
    """Does one thing when the last of several graphs is gone: they share what must outlive them.

    Args:
        close: what to do.
    """

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close
        self._open = 0

    def add(self, graph: Graph) -> SharingGraph:
        """Count a graph as one of them until it is closed, collected, or the interpreter ends."""
        self._open += 1
        return SharingGraph(graph, self._leave)

    def _leave(self) -> None:
        self._open -= 1
        if not self._open:
            self._close()


class SharingGraph:
    """A graph that is closed at the latest when nobody refers to it any more.

    A library that still holds a device when the interpreter tears its modules down may crash there.

    Args:
        graph: the graph.
        closed: called once, after it was closed.
    """

    def __init__(self, graph: Graph, closed: Callable[[], None]) -> None:
        self.spec, self.encoding, self.engine = graph.spec, graph.encoding, graph.engine
        self.run = graph.run  # as fast as the graph itself
        self._finalize = weakref.finalize(self, _close, graph, closed)

    def close(self) -> None:
        """Free the engine, and with the last one what they share; a later `run` raises `BackendError`."""
        self._finalize()


def _close(graph: Graph, closed: Callable[[], None]) -> None:
    graph.close()
    closed()
