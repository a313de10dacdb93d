"""The sound of the last moment and what the voice graph says of it over the last window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeemo.recognition.health import clipped, level
from edgeemo.recognition.ring import TokenRing

if TYPE_CHECKING:
    from edgeemo.inference.bundle import Bundle
    from edgeemo.inference.graph import Graph


class Voice:
    """One ring of voice tokens; one graph call per hop encodes the context that ends there.

    Args:
        bundle: a bundle with a voice.
        graph: its voice graph.
        ring: where the tokens go, one row.
        step: slots from one hop to the next.

    Attributes:
        ring: its tokens, one row.
        reasons: what was missing or bad about the sound of this hop.
    """

    def __init__(self, bundle: Bundle, graph: Graph, ring: TokenRing, step: int) -> None:
        self._graph = graph
        self._silence = bundle.thresholds.silence_dbfs
        self._clipped = bundle.thresholds.clipped
        self._step = step
        self._every = graph.spec.every
        self._replaces = graph.spec.mode == "replace"
        self.ring = ring
        self.reset()

    def reset(self) -> None:
        """Forget every sound."""
        self.ring.arrange([None])
        self.reasons: tuple[str, ...] = ()
        self._rest = 0  # slots until the graph is due again

    def hear(self, context: NDArray[np.float32] | None) -> None:
        """Take the context of one hop, float32 [context]; the token of None, or of silence, is masked."""
        if not self._replaces:
            self.ring.shift(self._step)
        self._rest -= self._step
        if context is None or level(context) < self._silence:
            self.reasons = ("silence",)
            # A graph that replaces the ring listens to the whole window; when it hears nothing, nothing is
            # left.
            if self._replaces and self._rest <= 0:
                self.ring.arrange([None])
            return
        self.reasons = ("clipped sound",) if clipped(context) > self._clipped else ()
        if self._rest <= 0:
            self._rest = self._every
            self._encode(context)

    def _encode(self, context: NDArray[np.float32]) -> None:
        tokens = self._graph.run({"voice": context[np.newaxis]})["tokens"]
        if self._replaces:
            self.ring.tokens[0], self.ring.mask[0] = tokens, 1.0
        else:
            self.ring.append([0], tokens)
