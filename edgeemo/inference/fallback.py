"""What happens when the engine of a running stream fails."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from edgeemo.errors import BackendError
from edgeemo.inference.graph import FeedCheck, Graph

_log = logging.getLogger("edgeemo")


class FallbackGraph:
    """One graph in two engines: the second takes over, for good, where the first fails.

    The feeds of the call that failed are answered by the second, so that nothing is lost. Both are opened
    ahead: the moment in which a device is lost is no moment to find that a file is gone.

    Args:
        first: runs it as long as it can.
        second: the same graph in another engine.
        most: the largest free size that the first was built for; both are held to it.
    """

    def __init__(self, first: Graph, second: Graph, most: int) -> None:
        self.spec = first.spec
        self._spare: Graph | None = second
        self._check = FeedCheck(first.spec, most)
        self._use(first)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Compute the outputs for `feeds`; copy what you keep.

        Args:
            feeds: one array per input of the spec, of its dtype and shape.

        Raises:
            BackendError: `feeds` do not fit the spec or are too many, both engines failed, or the graph was
                closed.
        """
        self._check(feeds)  # wrong feeds are no fault of the engine
        try:
            return self._graph.run(feeds)
        except BackendError as error:
            spare = self._spare
            if spare is None:
                raise
            answers = spare.run(feeds)
            failed, self._spare = self._graph, None
            self._use(spare)
            _log.warning("%s; %s runs graph %r from now on", error, spare.engine, self.spec.name)
            failed.close()
            return answers

    def _use(self, graph: Graph) -> None:
        self._graph, self.encoding, self.engine = graph, graph.encoding, graph.engine

    def close(self) -> None:
        """Free both engines; a later `run` raises `BackendError`."""
        spare, self._spare = self._spare, None
        self._graph.close()
        if spare is not None:
            spare.close()
