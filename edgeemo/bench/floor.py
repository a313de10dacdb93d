"""The physical floor of a latency: the multiply-adds of a graph over the rate that this machine gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeemo.inference.work import Work


def floor(work: Work, rates: Mapping[str, float]) -> float | None:
    """The least time of a call, where nothing but its multiply-adds took any: their sum over the precisions.

    Args:
        work: of the call.
        rates: 10^9 multiply-adds a second by precision, see `edgeemo.bench.rate.matrix_rate`.

    Returns:
        seconds; None where the rate of one of its precisions is not known.

    Example:
        >>> call = Work({"int8": 40_000_000, "fp32": 5_000_000}, 0, 0, 0, 2, 2)
        >>> f"{1e3 * floor(call, {'int8': 200.0, 'fp32': 50.0}):.2f} ms"
        '0.30 ms'
    """
    if not work.multiply_adds.keys() <= rates.keys():
        return None
    return sum(count / (1e9 * rates[precision]) for precision, count in work.multiply_adds.items())


@dataclass(frozen=True)
class Floors:
    """The floor of each graph and of an update, beside what was measured.

    Attributes:
        rates: 10^9 multiply-adds a second by precision.
        works: of one call of each graph.
        every: hops between two calls of each graph; 1 where it is not named.
        measured: milliseconds, the median (p50) of each graph and of 'update', of those that were measured.

    Example:
        >>> half = Work({"int8": 100_000_000}, 0, 0, 0, 1, 1)
        >>> found = Floors({"int8": 200.0}, {"face": half, "voice": half}, {"voice": 2}, {"update": 1.5})
        >>> found.to_dict()["update"]
        {'floor': 0.75, 'ratio': 2.0}
    """

    rates: Mapping[str, float]
    works: Mapping[str, Work]
    every: Mapping[str, int]
    measured: Mapping[str, float]

    def graph(self, name: str) -> float | None:
        """The floor of a call in milliseconds; None where a rate is not known."""
        seconds = floor(self.works[name], self.rates)
        return None if seconds is None else 1e3 * seconds

    def update(self) -> float | None:
        """That of the calls of one hop, each weighing 1 / every: what a hop costs in the long run."""
        found = {name: self.graph(name) for name in self.works}
        known = [value / self.every.get(name, 1) for name, value in found.items() if value is not None]
        return sum(known) if known and len(known) == len(found) else None

    def to_dict(self) -> dict[str, Any]:
        """As a report holds it: milliseconds, and of each how many times its floor was measured."""
        return {
            "rates": {precision: round(rate, 1) for precision, rate in self.rates.items()},
            "graphs": {
                name: {**work.to_dict(), **self._beside(name, self.graph(name))}
                for name, work in self.works.items()
            },
            "update": self._beside("update", self.update()),
        }

    def _beside(self, name: str, least: float | None) -> dict[str, float | None]:
        measured = self.measured.get(name)
        return {
            "floor": None if least is None else round(least, 4),
            "ratio": round(measured / least, 3) if measured is not None and least else None,
        }
