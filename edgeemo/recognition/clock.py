"""Which hop does a time belong to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from edgeemo.errors import InputError, shown

TOLERANCE = 1e-6
"""Seconds by which a time may miss the start of a hop and still belong to it: 0.3 is not 3 * 0.1 here."""

FARTHEST = 1e11
"""Seconds beyond which a number was not meant as seconds: three thousand years, or two minutes in
nanoseconds."""


@dataclass(frozen=True, slots=True)
class HopGrid:
    """The grid of hops from 0 on the source's clock: hop k covers [k * hop, (k + 1) * hop) seconds.

    Args:
        base: the hop of the bundle, in seconds.
        multiple: how many of them make one hop of this grid.

    Example:
        >>> grid = HopGrid.of(0.2, base=0.1)
        >>> grid.index(0.6), grid.end(2), grid.multiple
        (3, 0.6, 2)
    """

    base: float
    multiple: int = 1

    @classmethod
    def of(cls, hop: float, base: float) -> HopGrid:
        """The grid of `hop` seconds.

        Raises:
            InputError: `hop` is not a multiple of `base`.
        """
        wanted = number("hop", hop)
        multiple = round(wanted / base)
        if multiple < 1 or abs(multiple * base - wanted) > TOLERANCE:
            raise InputError(f"hop: {hop:g} s is not a multiple of the bundle's {base:g} s; try {base:g}")
        return cls(base, multiple)

    @property
    def hop(self) -> float:
        """Seconds of one hop."""
        return self.multiple * self.base

    def index(self, time: float) -> int:
        """The hop that `time` belongs to, which is also the number of hops that end at or before it."""
        return math.floor((time + TOLERANCE) / self.hop)

    def end(self, index: int) -> float:
        """End of a hop in seconds."""
        return round((index + 1) * self.hop, 9)


def number(name: str, value: Any) -> float:
    """A finite number of seconds.

    Raises:
        InputError: it is not one; the message names it `name`.
    """
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{name}: {shown(value)} is not a number; it must be one, in seconds") from None
    except OverflowError:  # an integer of hundreds of digits
        result = math.inf
    if not math.isfinite(result):
        raise InputError(f"{name}: {result} is not finite; it must be a number of seconds")
    if abs(result) > FARTHEST:
        raise InputError(f"{name}: {result:g} s is beyond {FARTHEST:g} s; is it in seconds?")
    return result


def before(time: float) -> float:
    """A moment before `time` that belongs to the hop that ends with it, if one does.

    Example:
        >>> grid = HopGrid(0.1)
        >>> grid.index(0.3), grid.index(before(0.3)), grid.index(before(0.31))
        (3, 2, 3)
    """
    return max(time - 2 * TOLERANCE, 0.0)


def moment(time: Any, name: str = "time") -> float:
    """A time on the source's clock, in seconds.

    Raises:
        InputError: it is not a finite number of at least 0, or so large that it is not in seconds; the
            message names it `name`.
    """
    seconds = number(name, time)
    if seconds < -TOLERANCE:
        raise InputError(f"{name}: {seconds:g} s is before the clock starts; it must be at least 0")
    return max(seconds, 0.0)
