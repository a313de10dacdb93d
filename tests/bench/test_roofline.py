from __future__ import annotations

import json

import pytest

from edgeemo.bench.roofline import _DEVICES, GRAPH, STREAM, devices, find_device, roofline
from edgeemo.errors import InputError
from edgeemo.inference.work import Work


def work(weights: int = 0, ends: int = 0, products: int = 1, **multiply_adds: int) -> Work:
    return Work(multiply_adds, weights, activations=5 * weights, ends=ends, products=products, operators=9)


# Orin Nano 8GB: 20 TOPS INT8 dense, 1.28 TFLOPS FP32, 68 GB/s
@pytest.mark.parametrize(
    ("given", "bound", "slowest"),
    [
        (work(int8=10_000_000_000), "compute", 1e-3),  # two operations a multiply-add
        (work(int8=1_000_000_000, fp32=64_000_000), "compute", 0.2e-3),  # 0.1 ms of each
        (work(weights=60_000_000, ends=8_000_000, fp32=1000), "memory", 1e-3),
        (work(weights=1000, products=20, int8=1_000_000), "launch", 20 * GRAPH),
    ],
)
def test_the_bound_is_what_takes_most(given: Work, bound: str, slowest: float) -> None:
    found = roofline({"face": given}, "orin-nano-8gb").graphs["face"]
    assert found.bound == bound
    assert max(found.compute, found.memory, found.graph) == pytest.approx(slowest)


def test_launching_is_no_floor() -> None:
    """It is an estimate: an engine may merge products, and then it launches fewer kernels."""
    few, many = (
        roofline({"face": work(weights=68_000, int8=1_000_000, products=count)}, "orin-nano-8gb").graphs[
            "face"
        ]
        for count in (1, 20)
    )
    assert few.floor == many.floor == few.memory == pytest.approx(1e-6)
    assert (few.bound, many.bound) == ("memory", "launch") and many.graph > many.floor
    by_rate = roofline({"face": work(weights=68_000, int8=20_000_000)}, "orin-nano-8gb").graphs["face"]
    assert by_rate.floor == by_rate.compute == pytest.approx(2e-6)


def test_intensity_launches_and_what_no_cache_would_cost() -> None:
    given = work(weights=300_000, ends=100_000, products=10, int8=20_000_000)
    found = roofline({"face": given}, "orin-nano-8gb").graphs["face"]
    assert found.operations == 40_000_000
    assert found.intensity == 100
    assert found.stream == pytest.approx(10 * STREAM) and STREAM > GRAPH > 0
    assert found.uncached == pytest.approx(6 * 300_000 / 68e9)


def test_rates_of_the_data_sheets() -> None:
    """FP16 is half of INT8 on Orin; MAXN_SUPER raises a device; what NVIDIA's headline counts is not here."""
    headlines = {"orin-nano-8gb": 40, "orin-nx-16gb": 100, "orin-nx-16gb-super": 157, "agx-orin-64gb": 275}
    for name in devices():
        device = find_device(name)
        assert device.source.startswith("NVIDIA") and "DS-1" in device.source
        assert 0 < device.rates["fp32"] < device.rates["fp16"]
        if "int8" in device.rates:
            assert device.rates["int8"] == 2 * device.rates["fp16"]
            assert device.rates["int8"] <= headlines.get(name, 1e9) / 2
            # 1,024 dense INT8 operations a clock and Tensor Core, 8 times 128 CUDA cores of 2 in FP32: what
            # the sheets say of both rates must agree within their rounding.
            assert device.rates["int8"] / device.rates["fp32"] == pytest.approx(16, rel=0.04)
        if name.endswith("-super"):
            plain = find_device(name.removesuffix("-super"))
            assert device.rates["int8"] > plain.rates["int8"] and device.bandwidth >= plain.bandwidth
    assert len(set(devices())) == len(_DEVICES)


def test_a_table_and_json() -> None:
    face = work(weights=400_000, products=15, int8=30_000_000)
    works = {"face": face, "fusion": work(ends=9000, fp32=2_000_000)}
    found = roofline(works, "agx-orin-64gb")
    lines = str(found).splitlines()
    assert lines[0].startswith("Jetson AGX Orin 64GB: INT8 85, FP16 42.5, FP32 5.32 x 10^12 dense")
    assert lines[1].split()[-1] == "bound" and lines[2].split()[0] == "face" and lines[2].endswith("launch")
    assert len({len(line) for line in lines[1:4]}) == 1
    assert "DS-10662-001" in lines[-1]
    told = json.loads(json.dumps(found.to_dict()))
    assert told["device"] == "agx-orin-64gb" and told["rates"]["int8"] == 85
    row = told["graphs"]["face"]
    assert (row["operations"], row["bytes"], row["bound"]) == (60_000_000, 400_000, "launch")
    assert row["launch"] == pytest.approx(0.0075)  # milliseconds
    assert row["floor"] == row["memory"] == pytest.approx(0.4 / 204.8, abs=1e-5)
    assert lines[1].replace("no graph", "no_graph").split()[4:] == [
        *("compute", "memory", "floor", "launch", "no_graph", "bound")
    ]
    assert lines[2].split()[4:] == ["0.7", "2.0", "2.0", "7.5", "13.5", "launch"]
    assert "launch: an estimate" in lines[-2] and "floor: the larger of compute and memory" in lines[-2]


@pytest.mark.parametrize(
    ("given", "device", "message"),
    [
        (
            work(int8=1),
            "jetson",
            "device 'jetson' is not known; it must be one of orin-nano-4gb, .*thor-t5000",
        ),
        (work(int8=1), "thor-t5000", "no INT8 rate of it, and graph 'face' .* give graphs in fp16 and fp32"),
    ],
)
def test_what_has_no_roofline(given: Work, device: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        roofline({"face": given}, device)
