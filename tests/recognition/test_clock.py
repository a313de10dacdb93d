from __future__ import annotations

import math

import pytest

from edgeemo.errors import InputError
from edgeemo.recognition.clock import HopGrid, moment, number


@pytest.mark.parametrize(
    ("time", "hop"),
    [
        (0.0, 0),
        (0.0999, 0),
        (0.0999995, 1),  # within the tolerance of the next hop
        (0.1, 1),
        (0.3, 3),  # 3 * 0.1 is 0.30000000000000004
        (0.7, 7),
        (36000.3, 360003),
        (1.7e9, 17_000_000_000),
    ],
)
def test_the_hop_of_a_time(time: float, hop: int) -> None:
    assert HopGrid(0.1).index(time) == hop


@pytest.mark.parametrize("multiple", [1, 2, 3, 10])
def test_the_end_of_a_hop_is_the_start_of_the_next(multiple: int) -> None:
    grid = HopGrid(0.1, multiple)
    for hop in (*range(2000), 360_000, 10**9):
        assert grid.index(grid.end(hop)) == hop + 1


@pytest.mark.parametrize(
    ("hop", "multiple"), [(0.1, 1), (0.2, 2), (0.30000000000000004, 3), (1, 10), (0.1000005, 1)]
)
def test_hops_that_fit(hop: float, multiple: int) -> None:
    assert HopGrid.of(hop, 0.1).multiple == multiple


@pytest.mark.parametrize("hop", [0.0, 0.05, 0.15, -0.1, 0.101, 1e-9])
def test_hops_that_do_not_fit(hop: float) -> None:
    with pytest.raises(InputError, match=r"not a multiple of the bundle's 0.1 s"):
        HopGrid.of(hop, 0.1)


@pytest.mark.parametrize("value", [None, "soon", [1], math.nan, math.inf])
def test_what_is_no_number(value: object) -> None:
    with pytest.raises(InputError, match="x: "):
        number("x", value)


def test_a_time_is_at_least_0() -> None:
    assert moment(-1e-7) == 0.0  # what rounding leaves
    with pytest.raises(InputError, match="before the clock starts"):
        moment(-0.01)
