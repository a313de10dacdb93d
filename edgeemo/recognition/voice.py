"""The sound of the last moment and what the voice graph says of it over the last window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeemo.errors import BackendError
from edgeemo.inference.wiring import SPEECH
from edgeemo.recognition.health import clipped, level
from edgeemo.recognition.ring import TokenRing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeemo.inference.bundle import Bundle
    from edgeemo.inference.graph import Graph

_ALL: NDArray[np.bool_] = np.ones((), np.bool_)


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
        self._speech = bundle.thresholds.speech
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
        self._nobody: tuple[str, ...] = ()  # what the graph's last call said of who speaks

    def hear(self, context: NDArray[np.float32] | None) -> None:
        """Take the context of one hop, float32 [context].

        The token of None or of silence is masked, and so is one that the graph heard nobody speak in.

        Raises:
            BackendError: the graph failed, or its presence of speech is not a number.
        """
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
        self.reasons += self._nobody

    def _encode(self, context: NDArray[np.float32]) -> None:
        answer = self._graph.run({"voice": context[np.newaxis]})
        spoken = self._spoken(answer)
        self._nobody = () if spoken.any() else ("no speech",)
        if self._replaces:
            self.ring.tokens[0], self.ring.mask[0] = answer["tokens"], spoken
            self.ring.tokens[0, self.ring.mask[0] == 0.0] = 0.0
        elif not self._nobody:
            self.ring.append([0], answer["tokens"])

    def _spoken(self, answer: Mapping[str, NDArray[np.float32]]) -> NDArray[np.bool_]:
        """Of each token, or of all of them at once, whether somebody speaks in what it was heard in."""
        if self._speech is None:
            return _ALL
        presence = answer[SPEECH]
        if not np.isfinite(presence).all():
            raise BackendError(
                "graph 'voice' answered a presence of speech that is not finite; try another precision"
            )
        return presence >= self._speech
