"""Energy from each of its sources, on systems made of files."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgeemo.bench import power
from edgeemo.bench.power import Counted, Energy, Meter, energy_meter, whole, why_no_meter

INA = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
RAPL = "sys/class/powercap/intel-rapl:"

ORIN_NX = {"VDD_IN": 6.0, "VDD_CPU_GPU_CV": 2.0, "VDD_SOC": 1.5}
AGX_ORIN = {"VDD_GPU_SOC": 9.0, "VDD_CPU_CV": 1.0, "VIN_SYS_5V0": 5.0}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "_load_nvml", lambda: None)


def write(root: Path, files: Mapping[str, object]) -> None:
    for path, content in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")


def ina3221(root: Path, watts: Mapping[str, float]) -> None:
    """A power monitor of up to three rails at 5 V."""
    for index, (name, power_now) in enumerate(watts.items(), 1):
        write(root, {f"{INA}/in{index}_label": name, f"{INA}/in{index}_input": 5000})
        write(root, {f"{INA}/curr{index}_input": round(1000 * power_now / 5)})


def package(root: Path, index: int, microjoules: int, full: int = 262_143_328_850) -> None:
    zone = f"{RAPL}{index}"
    write(root, {f"{zone}/name": f"package-{index}", f"{zone}/energy_uj": microjoules})
    write(root, {f"{zone}/max_energy_range_uj": full})


def ticking(step: float = 0.5) -> Iterator[float]:
    return itertools.count(10.0, step)


# --- adding up


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (ORIN_NX, 6.0),
        (AGX_ORIN, 15.0),
        ({**AGX_ORIN, "VDDQ_VDD2_1V8AO": 0.8}, 15.0),
        ({"VDD_GPU": 30.0, "VDD_CPU_SOC_MSS": 20.0, "VIN_SYS_5V0": 14.0, "VIN": 98.0}, 98.0),
        ({"VDD_GPU": 30.0, "VDD_CPU_SOC_MSS": 20.0, "VIN_SYS_5V0": 14.0}, 64.0),
        ({"VIN_SYS_5V0": 5.0, "VDD_CPU_CV": 1.0}, None),
        ({"vdd_arm": 1.0}, None),
        ({}, None),
    ],
)
def test_the_whole_is_never_a_total_and_its_parts(parts: dict[str, float], expected: float | None) -> None:
    assert whole(parts) == expected


def test_power_is_integrated_by_trapezoids_over_uneven_times_and_gaps() -> None:
    energy = Energy()
    for moment, told in ((0.0, {"a": 2.0}), (1.0, {"a": 4.0}), (1.5, {"a": 4.0, "b": 8.0}), (2.0, {})):
        energy.add(moment, told)
    energy.add(3.0, {"a": 0.0, "b": 0.0, "c": 5.0})
    assert energy.joules == pytest.approx({"a": 3.0 + 2.0 + 3.0, "b": 6.0})  # c was told once: no time passed


@pytest.mark.parametrize(
    ("counts", "ranges", "expected"),
    [
        ((5.0, 7.0, 12.0), {"p": 100.0}, 7.0),
        ((95.0, 3.0), {"p": 100.0}, 8.0),
        ((95.0, 3.0, 99.0, 1.0), {"p": 100.0}, 8.0 + 96.0 + 2.0),
        ((95.0, 3.0, 4.0), {}, 1.0),
    ],
)
def test_a_counter_that_begins_again(
    counts: tuple[float, ...], ranges: dict[str, float], expected: float
) -> None:
    counted = Counted(ranges)
    for count in counts:
        counted.add(0.0, {"p": count})
    assert counted.joules == pytest.approx({"p": expected})


# --- the meter


class Steady:
    """A source of so many watts, which counts how often it was read."""

    name, scope, interval = "steady", "a resistor", 0.001

    def __init__(self, watts: float) -> None:
        self.watts = watts
        self.reads = 0
        self.often = threading.Event()

    def open(self) -> bool:
        return True

    def close(self) -> None:
        self.often.clear()

    def read(self) -> dict[str, float]:
        self.reads += 1
        if self.reads > 5:
            self.often.set()
        return {"r": self.watts}

    def sum(self) -> Energy:
        return Energy()

    def total(self, parts: Mapping[str, float]) -> float | None:
        return parts.get("r")


def test_a_meter_reads_while_the_work_is_done() -> None:
    source = Steady(3.0)
    with Meter(source) as meter:
        assert source.often.wait(30)
    reads = source.reads
    assert meter.seconds > 0
    assert meter.joules == pytest.approx(3.0 * meter.seconds)
    assert meter.watts == pytest.approx(3.0) and meter.rails == pytest.approx({"r": 3.0})
    assert source.reads == reads, "it still reads"


def test_idle_power_is_told_apart() -> None:
    source, clock = Steady(2.0), ticking()
    meter = Meter(source, clock=lambda: next(clock))
    slept: list[float] = []
    assert meter.above_idle is None
    assert meter.measure_idle(7.0, sleep=slept.append) == pytest.approx(2.0)
    assert slept == [7.0] and meter.idle == pytest.approx(2.0)
    source.watts = 5.0
    with meter:
        pass
    assert meter.watts == pytest.approx(5.0)
    assert meter.above_idle == pytest.approx(3.0 * meter.seconds)


def test_a_meter_begins_again_from_nothing() -> None:
    clock = ticking()
    meter = Meter(Steady(4.0), clock=lambda: next(clock))
    assert meter.joules is None and meter.watts is None and meter.rails == {}
    for _ in range(2):
        with meter:
            pass
        assert meter.joules == pytest.approx(4.0 * meter.seconds)


def test_a_meter_ends_where_the_work_fails() -> None:
    meter = Meter(Steady(4.0))
    with pytest.raises(KeyError), meter:
        raise KeyError
    assert meter._thread is not None and not meter._thread.is_alive()


# --- a Jetson


@pytest.mark.parametrize(("rails", "watts"), [(ORIN_NX, 6.0), (AGX_ORIN, 15.0)])
def test_the_monitors_of_a_jetson(tmp_path: Path, rails: dict[str, float], watts: float) -> None:
    ina3221(tmp_path, rails)
    package(tmp_path, 0, 1)
    meter = energy_meter(tmp_path)
    assert meter is not None and meter.source == "ina3221" and "module" in meter.scope
    with meter:
        pass
    assert meter.watts == pytest.approx(watts) and meter.rails == pytest.approx(rails)


def test_the_input_of_a_thor_is_the_whole_board(tmp_path: Path) -> None:
    ina3221(tmp_path, {"VDD_GPU": 3.0, "VDD_CPU_SOC_MSS": 6.0, "VIN_SYS_5V0": 5.0})
    chip = "sys/class/hwmon/hwmon2"
    write(tmp_path, {f"{chip}/name": "ina238", f"{chip}/power1_input": 29_000_000})
    meter = energy_meter(tmp_path)
    assert meter is not None and meter.scope == "the whole board"
    with meter:
        pass
    assert meter.watts == pytest.approx(29.0)


def test_monitors_that_fall_silent_tell_nothing(tmp_path: Path) -> None:
    ina3221(tmp_path, ORIN_NX)
    meter = energy_meter(tmp_path)
    assert meter is not None
    for file in (tmp_path / INA).glob("curr*"):
        file.write_text("Resource temporarily unavailable")
    with meter:
        pass
    assert meter.joules is None and meter.watts is None and meter.rails == {}


@pytest.mark.skipif(os.name != "posix", reason="a shell script stands in for the tool")
def test_tegrastats_where_the_monitors_cannot_be_read(tmp_path: Path) -> None:
    tool = tmp_path / "usr/bin/tegrastats"
    line = "RAM 1/2MB CPU [1%@1] VDD_IN 4200mW/4100mW VDD_SOC 1100mW/1000mW"
    write(tmp_path, {"usr/bin/tegrastats": f'#!/bin/sh\necho "{line}"\nexec sleep 60'})
    assert "prints no power" in why_no_meter(tmp_path)[1]  # it may not be run
    tool.chmod(0o755)
    meter = energy_meter(tmp_path)
    assert meter is not None and meter.source == "tegrastats"
    with meter:
        pass
    assert meter.watts == pytest.approx(4.2) and meter.rails == pytest.approx({"VDD_IN": 4.2, "VDD_SOC": 1.1})


def test_rails_that_do_not_make_a_whole_are_no_source(tmp_path: Path) -> None:
    ina3221(tmp_path, {"vdd_arm": 1.0})
    assert energy_meter(tmp_path) is None
    assert "vdd_arm" in why_no_meter(tmp_path)[0]


# --- an x86 processor


def test_packages_alone_are_added(tmp_path: Path) -> None:
    package(tmp_path, 0, 5_000_000)
    package(tmp_path, 1, 70_000_000)
    for zone, name in (("0:0", "core"), ("0:1", "dram"), ("2", "psys")):
        write(tmp_path, {f"{RAPL}{zone}/name": name, f"{RAPL}{zone}/energy_uj": 1})
    meter = energy_meter(tmp_path)
    assert meter is not None and meter.source == "rapl" and "processor" in meter.scope
    with meter:
        package(tmp_path, 0, 8_000_000)
        package(tmp_path, 1, 72_500_000)
        write(tmp_path, {f"{RAPL}0:0/energy_uj": 90_000_000, f"{RAPL}2/energy_uj": 90_000_000})
    assert meter.joules == pytest.approx(5.5)
    assert list(meter.rails) == ["package-0", "package-1"]
    assert meter.watts == pytest.approx(5.5 / meter.seconds)


def test_a_package_whose_counter_begins_again(tmp_path: Path) -> None:
    package(tmp_path, 0, 99_000_000, full=100_000_000)
    meter = energy_meter(tmp_path)
    assert meter is not None
    with meter:
        package(tmp_path, 0, 500_000, full=100_000_000)
    assert meter.joules == pytest.approx(1.5)


def test_a_counter_for_root_alone_says_so(tmp_path: Path) -> None:
    (tmp_path / f"{RAPL}0/energy_uj").mkdir(parents=True)  # a file that cannot be read, by root either
    write(tmp_path, {f"{RAPL}0/name": "package-0"})
    assert energy_meter(tmp_path) is None
    assert any("root alone" in reason and "energy_uj" in reason for reason in why_no_meter(tmp_path))


# --- an NVIDIA GPU


class Nvml:
    """The calls of libnvidia-ml that are made; 3 is NVML_ERROR_NOT_SUPPORTED."""

    def __init__(self, *, energy: list[int] | None = None, watts: float | None = None, starts: bool = True):
        self.energy, self.watts, self.starts = energy, watts, starts
        self.users = 0

    def nvmlInit_v2(self) -> int:
        self.users += self.starts
        return 0 if self.starts else 9

    def nvmlShutdown(self) -> int:
        self.users -= 1
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:
        assert index.value == 0
        handle._obj.value = 0xF00
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Any, millijoules: Any) -> int:
        assert device.value == 0xF00 and self.users == 1
        if self.energy is None:
            return 3
        millijoules._obj.value = self.energy.pop(0) if len(self.energy) > 1 else self.energy[0]
        return 0

    def nvmlDeviceGetPowerUsage(self, device: Any, milliwatts: Any) -> int:
        assert device.value == 0xF00 and self.users == 1
        if self.watts is None:
            return 3
        milliwatts._obj.value = round(1000 * self.watts)
        return 0


def with_gpu(monkeypatch: pytest.MonkeyPatch, library: object) -> None:
    monkeypatch.setattr(power, "_load_nvml", lambda: library)


def test_the_counter_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Nvml(energy=[1000])
    with_gpu(monkeypatch, library)
    meter = energy_meter(tmp_path)
    assert meter is not None and meter.source == "nvml" and "GPU" in meter.scope and library.users == 0
    with meter:
        library.energy = [43_500]
    assert meter.joules == pytest.approx(42.5) and library.users == 0


def test_the_power_of_a_gpu_without_a_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch, Nvml(watts=71.5))
    meter = energy_meter(tmp_path)
    assert meter is not None
    with meter:
        pass
    assert meter.watts == pytest.approx(71.5)


@pytest.mark.parametrize("library", [Nvml(), Nvml(starts=False), object()])
def test_a_gpu_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: object) -> None:
    with_gpu(monkeypatch, library)
    assert energy_meter(tmp_path) is None
    assert any(reason.startswith("NVML") for reason in why_no_meter(tmp_path))
    assert getattr(library, "users", 0) == 0


def test_the_gpu_comes_first_where_it_does_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch, Nvml(watts=50.0))
    package(tmp_path, 0, 1)
    chosen = [energy_meter(tmp_path, gpu=gpu) for gpu in (False, True)]
    assert [meter.source for meter in chosen if meter] == ["rapl", "nvml"]


def test_a_system_that_measures_nothing(tmp_path: Path) -> None:
    assert energy_meter(tmp_path) is None
    names = [reason.partition(":")[0] for reason in why_no_meter(tmp_path)]
    assert names == ["INA3221", "tegrastats", "RAPL", "NVML"]
