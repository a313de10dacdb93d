from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from edgeemo.inference.spec import GraphSpec, TensorSpec
from edgeemo_calibration import latency


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """A graph that takes what it is told, by a clock of its own."""

    engine = "made"

    def __init__(
        self, clock: Clock, cost: Callable[[], float], encoding: str, every: int = 1, name: str = "face"
    ) -> None:
        tensor = TensorSpec("x", "float32", ("N", 2))
        self.spec = GraphSpec(name, "append", every, {"x": tensor}, {}, {})
        self.encoding = encoding
        self._clock, self._cost = clock, cost

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        assert feeds["x"].shape == (1, 2)
        self._clock.now += self._cost()
        return {}

    def close(self) -> None:
        pass


def test_an_update_is_the_sum_of_its_graphs() -> None:
    clock = Clock()
    fp32 = {
        "face": Timed(clock, lambda: 0.004, "fp32"),
        "voice": Timed(clock, lambda: 0.020, "fp32", every=10),
        "fusion": Timed(clock, lambda: 0.001, "fp32"),
    }
    int8 = {
        "face": Timed(clock, lambda: 0.001, "int8-cpu"),
        "voice": Timed(clock, lambda: 0.010, "int8-cpu", every=10),
        "fusion": Timed(clock, lambda: 0.003, "fp32"),  # another session of the same file
    }
    found = latency.measure(fp32, int8, clock=clock)
    assert (found.update.fp32, found.update.int8) == pytest.approx((8.0, 4.0))
    assert found.update.ratio.value == pytest.approx(0.5) and found.rounds == 200
    assert [timing.graph for timing in found.graphs] == ["face", "voice", "fusion"]
    assert [timing.ratio.value for timing in found.graphs] == pytest.approx([0.25, 0.5, 1.0])
    assert found.graphs[2].encodings == ("fp32", "fp32")


def noisy(clock: Clock, mean: float, encoding: str, seed: int) -> dict[str, Timed]:
    """A graph that an interrupted machine makes wait now and then."""
    random = np.random.default_rng(seed)

    def cost() -> float:
        return mean * max(random.normal(1.0, 0.3), 0.2) + 0.1 * (random.random() < 0.1)

    return {"face": Timed(clock, cost, encoding)}


@pytest.mark.parametrize(("ratio", "faster"), [(0.7, True), (1.0, False), (1.4, False)])
def test_noise_does_not_change_the_verdict(ratio: float, faster: bool) -> None:
    for seed in range(3):
        clock = Clock()
        fp32, int8 = noisy(clock, 0.001, "fp32", seed), noisy(clock, 0.001 * ratio, "int8-cpu", 100 + seed)
        found = latency.measure(fp32, int8, clock=clock, limit=1000.0).update.ratio
        assert (found.high < 1.0) is faster


def test_it_goes_on_until_it_is_clear_or_late() -> None:
    rounds = []
    for limit in (1000.0, 2.0):
        clock = Clock()
        found = latency.measure(
            noisy(clock, 0.001, "fp32", 0), noisy(clock, 0.00101, "int8-cpu", 1), clock=clock, limit=limit
        )
        rounds.append(found.rounds)
        assert found.update.ratio.low < 1.0 < found.update.ratio.high
    assert rounds == [latency.MOST, latency.LEAST]


def test_updates_take_turns() -> None:
    clock = Clock()
    order: list[str] = []

    def cost(call: str) -> Callable[[], float]:
        return lambda: order.append(call) or 0.001  # type: ignore[func-returns-value]

    graphs = {
        precision: {name: Timed(clock, cost(f"{name} {precision}"), precision) for name in ("face", "fusion")}
        for precision in ("fp32", "int8-cpu")
    }
    latency.measure(graphs["fp32"], graphs["int8-cpu"], clock=clock, limit=0.1)
    assert order[-8:] == ["face fp32", "fusion fp32", "face int8-cpu", "fusion int8-cpu"] * 2
