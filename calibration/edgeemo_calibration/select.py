"""Which few of many candidates stand for all of them: a quota for each stratum, then greedy k-center.

Pure functions over arrays; where the candidates come from is not their business.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .pool import Stratum

_ROWS = 1024  # whose distances are looked at at once


def quotas(held: Mapping[Stratum, int], seen: Mapping[Stratum, int], count: int) -> dict[Stratum, int]:
    """How many to choose of each stratum.

    First every stratum gets one; where they are more than ``count`` those come first whose group, label and
    level together were given least so far. The rest goes evenly to the groups, in each evenly to its labels,
    and within these to light or loudness as often as it came by (by D'Hondt's highest averages).

    Args:
        held: candidates of each stratum that can be chosen.
        seen: candidates of each stratum that came by, the weights within group and label.
        count: how many to choose; all where fewer are held.

    Returns:
        a quota of each stratum, at most what it holds; their sum is ``count`` or what is held.

    Example:
        >>> quiet, loud, other = Stratum("a", "", -60), Stratum("a", "", -30), Stratum("b", "", -30)
        >>> held = {quiet: 9, loud: 9, other: 9}
        >>> list(quotas(held, {quiet: 10, loud: 90, other: 20}, 10).values())
        [1, 4, 5]
    """
    strata = sorted(stratum for stratum, number in held.items() if number)
    chosen = dict.fromkeys(strata, 0)
    parts: Counter[tuple[int, str | int]] = Counter()
    waiting = list(strata)
    left = min(count, sum(held[stratum] for stratum in strata))
    while waiting and left:
        least = min(waiting, key=lambda stratum: (sum(parts[part] for part in _parts(stratum)), stratum))
        waiting.remove(least)
        parts.update(_parts(least))
        chosen[least] += 1
        left -= 1
    weights = _weights(strata, seen)
    room = np.array([held[stratum] for stratum in strata])
    given = np.array([chosen[stratum] for stratum in strata])
    for _ in range(left):
        place = int(np.argmax(np.where(given < room, weights / (given + 1), -1.0)))
        given[place] += 1
    return dict(zip(strata, given.tolist(), strict=True))


def _weights(strata: Sequence[Stratum], seen: Mapping[Stratum, int]) -> NDArray[np.float64]:
    """1 for each group, divided evenly among its labels, and within these as often as each level came by."""
    labels: dict[str, set[str]] = {}
    whole: Counter[tuple[str, str]] = Counter()
    for stratum in strata:
        labels.setdefault(stratum.group, set()).add(stratum.label)
        whole[stratum.group, stratum.label] += seen[stratum]
    return np.array(
        [
            seen[stratum] / whole[stratum.group, stratum.label] / len(labels[stratum.group])
            for stratum in strata
        ]
    )


def _parts(stratum: Stratum) -> list[tuple[int, str | int]]:
    return [(0, stratum.group), (1, stratum.label), (2, stratum.level)]


def normalised(tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    """Tokens [n, D] at a length of 1; one of zeros stays zero."""
    lengths = np.linalg.norm(tokens, axis=1, keepdims=True)
    return np.asarray(tokens / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def k_center(
    tokens: NDArray[np.float32], strata: Sequence[Stratum], quota: Mapping[Stratum, int]
) -> list[int]:
    """Choose the candidate that is farthest from all that were chosen, until every quota is filled.

    Gonzalez (1985), Clustering to minimize the maximum intercluster distance: without quotas no candidate is
    then farther from the chosen ones than twice the least that is possible. Candidates of a stratum whose
    quota is filled count as places to be covered no more, but distances are to the chosen of all strata.

    Args:
        tokens: float32 [n, D] of length 1; the first is chosen first, so that their order is the seed.
        strata: of each candidate.
        quota: how many to choose of each stratum.

    Returns:
        places in the order in which they were chosen.

    Example:
        >>> line = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], np.float32)
        >>> k_center(line, [Stratum("a", "", 0)] * 3, {Stratum("a", "", 0): 2})
        [0, 2]
    """
    numbers = {stratum: number for number, stratum in enumerate(quota)}
    member = np.array([numbers[stratum] for stratum in strata])
    left = np.array(list(quota.values()))
    points = tokens.astype(np.float64)
    squares = (points**2).sum(axis=1)
    nearest = np.full(len(tokens), np.inf)
    free = np.ones(len(tokens), bool)
    chosen: list[int] = []
    while (open_ := free & (left[member] > 0)).any():
        place = int(np.argmax(np.where(open_, nearest, -np.inf)))
        chosen.append(place)
        free[place] = False
        left[member[place]] -= 1
        nearest = np.minimum(nearest, squares + squares[place] - 2.0 * points @ points[place])
    return chosen


def radius(tokens: NDArray[np.float32], chosen: Sequence[int]) -> float:
    """The largest distance of a candidate to the nearest chosen one, 0 to 2 for tokens of length 1.

    Args:
        tokens: float32 [n, D] of length 1.
        chosen: places of the chosen ones, at least one.
    """
    centres = tokens[list(chosen)].astype(np.float64)
    farthest = 0.0
    for start in range(0, len(tokens), _ROWS):
        # In double precision a difference of squares leaves enough digits.
        points = tokens[start : start + _ROWS].astype(np.float64)
        squares = (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1) - 2.0 * points @ centres.T
        farthest = max(farthest, float(squares.min(axis=1).max()))
    return math.sqrt(farthest)
