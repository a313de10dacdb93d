"""From logits to probabilities, and from probabilities back to logarithms that can be added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEAST = 1e-12  # so that one hop which rules a label out does not decide for a whole clip


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Softmax over the last axis, in double precision.

    Args:
        logits: float [..., L].

    Example:
        >>> softmax(np.array([[1000.0, 1000.0]])).tolist()
        [[0.5, 0.5]]
    """
    powers = np.exp(np.subtract(logits, logits.max(axis=-1, keepdims=True), dtype=np.float64))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def log_probabilities(probabilities: Mapping[str, float]) -> NDArray[np.float64]:
    """Natural logarithms in the order of the labels, bounded below.

    Args:
        probabilities: by label, each in [0, 1].
    """
    values = np.fromiter(probabilities.values(), np.float64, len(probabilities))
    return np.asarray(np.log(np.maximum(values, _LEAST)))
