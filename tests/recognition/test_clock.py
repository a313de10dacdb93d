from __future__ import annotations

import math

import numpy as np
import pytest

from edgeemo.errors import InputError
from edgeemo.recognition.clock import HopGrid, before, moment, number


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


@pytest.mark.parametrize(
    ("end", "hop"),
    [(0, 0), (0.05, 0), (0.1, 0), (0.1000005, 0), (0.10001, 1), (0.3, 2), (0.7, 6), (1.7e9, 16_999_999_999)],
)
def test_what_ends_with_a_hop_belongs_to_it(end: float, hop: int) -> None:
    assert HopGrid(0.1).index(before(end)) == hop


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


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "x: NoneType is not a number"),
        ("soon", "x: 'soon' is not a number"),
        ([1], "x: list is not a number"),
        (np.full((2, 2), 77, np.uint8), "x: ndarray is not a number"),  # what it holds is nobody's business
        (math.nan, "x: nan is not finite"),
        (-math.inf, "x: -inf is not finite"),
        (10**400, "x: inf is not finite"),  # float() overflows
        (1e308, "x: 1e+308 s is beyond 1e+11 s"),
        (-1e12, "x: -1e+12 s is beyond 1e+11 s"),
        (1.7e9 * 1e9, "x: 1.7e+18 s is beyond 1e+11 s; is it in seconds?"),  # a clock in nanoseconds
    ],
)
def test_what_is_no_number_of_seconds(value: object, says: str) -> None:
    with pytest.raises(InputError) as caught:
        number("x", value)
    assert str(caught.value).startswith(says) and "77" not in str(caught.value)


@pytest.mark.parametrize("value", [0, -1.5, "2.5", np.float32(0.5), 1e11])
def test_what_is_one(value: object) -> None:
    assert number("x", value) == float(value)  # type: ignore[arg-type]


def test_a_time_is_at_least_0() -> None:
    assert moment(-1e-7) == 0.0  # what rounding leaves
    with pytest.raises(InputError, match="before the clock starts"):
        moment(-0.01)


@pytest.mark.parametrize("time", [1e308, 1.7e18, 10**400])
def test_a_time_that_cannot_be_in_seconds(time: float) -> None:
    with pytest.raises(InputError, match=r"^time: "):
        moment(time)


def test_a_time_is_called_what_it_is() -> None:
    for wrong in (-1.0, "soon", 1e308):
        with pytest.raises(InputError, match=r"^start: "):
            moment(wrong, "start")


def test_a_hop_that_cannot_be_in_seconds() -> None:
    with pytest.raises(InputError, match=r"^hop: 1e\+308 s is beyond 1e\+11 s"):
        HopGrid.of(1e308, 0.1)
