from __future__ import annotations

import json

import pytest

from edgeemo.bench.floor import Floors, floor
from edgeemo.inference.work import Work


def work(**multiply_adds: int) -> Work:
    return Work(multiply_adds, weights=10, activations=20, ends=30, products=2, operators=3)


RATES = {"int8": 200.0, "fp32": 50.0}


@pytest.mark.parametrize(
    ("given", "rates", "expected"),
    [
        (work(int8=200_000_000), RATES, 1e-3),
        (work(int8=200_000_000, fp32=100_000_000), RATES, 3e-3),  # their sum, not the longer one
        (work(fp32=25_000_000), {"fp32": 50.0}, 0.5e-3),
        (work(), RATES, 0.0),
        (work(fp16=1, fp32=1), RATES, None),
        (work(int8=1), {"fp32": 50.0}, None),
    ],
)
def test_each_precision_at_its_own_rate(given: Work, rates: dict[str, float], expected: float | None) -> None:
    assert floor(given, rates) == (None if expected is None else pytest.approx(expected))


def test_an_update_weighs_its_graphs() -> None:
    works = {"face": work(int8=40_000_000), "voice": work(fp32=40_000_000), "fusion": work(fp32=1_000_000)}
    found = Floors(RATES, works, {"voice": 4}, {"face": 0.3, "update": 0.63}).to_dict()
    assert [found["graphs"][name]["floor"] for name in works] == [0.2, 0.8, 0.02]
    assert found["graphs"]["face"]["ratio"] == 1.5
    assert found["graphs"]["voice"]["ratio"] is None  # not measured
    assert found["update"] == {"floor": 0.42, "ratio": 1.5}  # 0.2 + 0.8 / 4 + 0.02


def test_a_report_of_it() -> None:
    found = Floors({"int8": 193.26}, {"face": work(int8=193_260)}, {}, {}).to_dict()
    assert json.loads(json.dumps(found)) == {
        "rates": {"int8": 193.3},
        "graphs": {
            "face": {
                "multiply_adds": {"int8": 193_260},
                "bytes": {"weights": 10, "activations": 20, "ends": 30},
                "products": 2,
                "operators": 3,
                "floor": 0.001,
                "ratio": None,
            }
        },
        "update": {"floor": 0.001, "ratio": None},
    }


@pytest.mark.parametrize("works", [{}, {"face": work(int8=1), "voice": work(fp16=1)}, {"face": work()}])
def test_no_floor_where_one_is_not_known_or_none(works: dict[str, Work]) -> None:
    found = Floors(RATES, works, {}, {"update": 0.5}).to_dict()
    assert found["update"]["ratio"] is None
    assert found["update"]["floor"] == (0.0 if works == {"face": work()} else None)
