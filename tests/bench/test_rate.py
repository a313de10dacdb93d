from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from edgeemo.bench import rate
from edgeemo.bench.rate import best_rate, matrix_rate
from edgeemo.errors import BackendError, InputError
from tests.support import product_graphs


class Machine:
    """A clock, and products that take `seconds` of a side, the next that are listed as they are."""

    def __init__(self, seconds: dict[int, list[float]]) -> None:
        self.now = 100.0
        self.seconds = seconds
        self.ran: list[int] = []

    def clock(self) -> float:
        return self.now

    def run(self, side: int) -> None:
        taken = self.seconds[side]
        self.now += taken.pop(0) if len(taken) > 1 else taken[0]
        self.ran.append(side)


@pytest.mark.parametrize(
    ("seconds", "ran", "best"),
    [
        # The first product is not counted; then all cubes that fit into a second, again and again.
        ({10: [9.0, 0.0625], 20: [0.25]}, [10, 10, 20, 10, 20, 10, 20, 10], 20**3 / 0.25),
        # The best of several, not their mean.
        ({10: [0.0625], 20: [0.375, 0.25]}, [10, 10, 20, 10, 20, 10, 10, 10, 10], 20**3 / 0.25),
        # What is too long for the time that is left is left out.
        ({10: [0.3], 20: [2.4]}, [10, 10, 10, 10, 10], 10**3 / 0.3),
        # A machine that is too slow for anything: the smallest, for its least number of runs.
        ({10: [5.0], 20: [40.0]}, [10, 10, 10, 10], 10**3 / 5.0),
    ],
)
def test_the_best_cube_counts(seconds: dict[int, list[float]], ran: list[int], best: float) -> None:
    machine = Machine(seconds)
    assert best_rate(machine.run, 1.0, (10, 20), machine.clock) == pytest.approx(best)
    assert machine.ran == ran


def test_rates_are_of_both_precisions_in_thousand_millions() -> None:
    """A clock that ticks 1 ms at every look makes each product take one or two ticks."""
    now = [0.0]

    def clock() -> float:
        now[0] += 0.001
        return now[0]

    found = matrix_rate(1, seconds=0.05, cubes=(32, 64), clock=clock)
    assert found == pytest.approx({"int8": 64**3 / 1e6, "fp32": 64**3 / 1e6})


def test_products_are_right() -> None:
    """Of every cube, also after another one."""
    for precision in ("int8", "fp32"):
        product = rate._Product(precision, 1, 48)
        for side in (48, 16, 48):
            product._product[:] = 0
            product.run(side)
            a, b, found = (
                flat[: side * side].reshape(side, side).astype(float)
                for flat in (product._a, product._b, product._product)
            )
            assert found == pytest.approx(a @ b, rel=1e-4)


def test_threads_are_checked() -> None:
    with pytest.raises(InputError, match="threads is 0"):
        matrix_rate(0)


def test_a_product_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rate._GRAPHS, "int8", rate._GRAPHS["fp32"])
    with pytest.raises(BackendError, match="two matrices of 256x256 failed"):
        matrix_rate(1)


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_the_shipped_graphs_are_those_that_are_built(precision: str) -> None:
    path: Path = product_graphs.SHIPPED[precision]
    assert onnx.load(path) == product_graphs.build(precision)
    assert path.stat().st_size < 500
