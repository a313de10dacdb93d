"""The tokens of the last window, as the fusion graph reads them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class TokenRing:
    """Tokens and their masks, the newest in the last slot; row for row one face, or row 0 for the voice.

    Slots without a token are zeros with mask 0. The arrays are shifted in place (20 kB per face and hop), so
    that any number of rows is one contiguous block that goes into the graph without a copy.

    Args:
        rows: most rows.
        slots: tokens in the window.
        width: size of a token.

    Attributes:
        tokens: float32 [rows, slots, width].
        mask: float32 [rows, slots], 1 where there is a token.
        used: rows in use, always the first ones.
    """

    def __init__(self, rows: int, slots: int, width: int) -> None:
        self.tokens: NDArray[np.float32] = np.zeros((rows, slots, width), np.float32)
        self.mask: NDArray[np.float32] = np.zeros((rows, slots), np.float32)
        self.used = 0

    def shift(self, slots: int) -> None:
        """Make room for new tokens in the last `slots` slots."""
        tokens, mask = self.tokens[: self.used], self.mask[: self.used]
        kept = mask.shape[1] - slots
        if kept > 0:
            tokens[:, :kept] = tokens[:, slots:]
            mask[:, :kept] = mask[:, slots:]
        tokens[:, max(kept, 0) :] = 0.0
        mask[:, max(kept, 0) :] = 0.0

    def append(self, rows: Sequence[int], tokens: NDArray[np.float32]) -> None:
        """Put one token [width] per named row into its last slot."""
        self.tokens[rows, -1] = tokens
        self.mask[rows, -1] = 1.0

    def arrange(self, sources: Sequence[int | None]) -> None:
        """Let row i be what row sources[i] was, or empty for None; other rows are emptied."""
        tokens, mask = self.tokens[: self.used].copy(), self.mask[: self.used].copy()
        self.clear()
        for row, source in enumerate(sources):
            if source is not None:
                self.tokens[row], self.mask[row] = tokens[source], mask[source]
        self.used = len(sources)

    def clear(self) -> None:
        """Empty every row; none is in use."""
        self.tokens[: self.used] = 0.0
        self.mask[: self.used] = 0.0
        self.used = 0
