"""What the text graph says of the words of the last window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeemo.preprocess.text import PAD
from edgeemo.recognition.ring import TokenRing

if TYPE_CHECKING:
    from edgeemo.inference.graph import Graph


class Text:
    """One ring of text tokens; the graph reads the words again only where they are others than before.

    Args:
        graph: the text graph of a bundle.
        ring: where the tokens go, one row.

    Attributes:
        ring: its tokens, one row.
        reasons: what was missing about the text of this hop.
    """

    def __init__(self, graph: Graph, ring: TokenRing) -> None:
        self._graph = graph
        self.ring = ring
        self.reset()

    def reset(self) -> None:
        """Forget every word."""
        self.ring.arrange([None])
        self.reasons: tuple[str, ...] = ("no text",)
        self._ids: NDArray[np.int32] | None = None  # what the ring holds the tokens of

    def read(self, ids: NDArray[np.int32] | None) -> None:
        """Take the words that one hop knows, int32 [1, length]; None, where there are none, is masked."""
        self.reasons = ("no text",) if ids is None else ()
        if ids is None:
            if self._ids is not None:
                self.ring.arrange([None])
        elif self._ids is None or not np.array_equal(ids, self._ids):
            tokens = self._graph.run({"text": ids})["tokens"]
            self.ring.mask[0] = ids[0] != PAD
            # An encoder answers something for [PAD] too, and slots without a token are zeros.
            np.multiply(tokens, self.ring.mask[0, :, np.newaxis], out=self.ring.tokens[0])
        self._ids = ids
