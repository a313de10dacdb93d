"""What the kernel's sensors say, and that nonsense tells nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeemo.bench import sysfs


def write(root: Path, files: dict[str, object]) -> None:
    for path, content in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())


ZONE = "sys/class/thermal/thermal_zone"
COOLING = "sys/class/thermal/cooling_device"
CPU = "sys/devices/system/cpu/cpu"
INA = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("42", 42),
        ("-256000", -256000),
        (" 7 ", 7),
        ("", None),
        ("4.2", None),
        ("none", None),
        ("12 34", None),
        ("9" * 5000, None),
        (b"\xff\xfe\x00", None),
    ],
)
def test_the_number_in_a_file(tmp_path: Path, content: object, expected: int | None) -> None:
    write(tmp_path, {"value": content})
    assert sysfs.number(tmp_path / "value") == expected
    assert sysfs.number(tmp_path) is None and sysfs.number(tmp_path / "none") is None


def test_zones_by_their_names_with_the_highest_passive_point(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            f"{ZONE}0/type": "cpu-thermal",
            f"{ZONE}0/temp": 61500,
            f"{ZONE}0/trip_point_0_type": "passive",
            f"{ZONE}0/trip_point_0_temp": 70000,
            f"{ZONE}0/trip_point_1_type": "passive",
            f"{ZONE}0/trip_point_1_temp": 99000,
            f"{ZONE}0/trip_point_2_type": "critical",
            f"{ZONE}0/trip_point_2_temp": 104500,
            f"{ZONE}1/type": "GPU-therm",
            f"{ZONE}1/temp": -256000,
            f"{ZONE}2/type": "acpitz",
            f"{ZONE}2/temp": "hot",
        },
    )
    assert sysfs.temperatures(tmp_path) == {"cpu": 61.5}
    assert sysfs.trip_points(tmp_path) == {"cpu": 99.0}


@pytest.mark.parametrize(
    ("kind", "state", "expected"),
    [
        ("thermal-cpufreq-0", 3, {"thermal-cpufreq-0": 3}),
        ("17000000.gpu", 1, {"17000000.gpu": 1}),
        ("Processor", 2, {"Processor": 2}),
        ("thermal-cpufreq-0", 0, {}),
        ("intel_powerclamp", -1, {}),  # says so when it is off
        ("pwm-fan", 3, {}),
        ("cpu-fan", 3, {}),
        ("TCC Offset", 10, {}),
    ],
)
def test_what_is_slowed_down_and_no_fan(
    tmp_path: Path, kind: str, state: int, expected: dict[str, int]
) -> None:
    write(tmp_path, {f"{COOLING}0/type": kind, f"{COOLING}0/cur_state": state})
    assert sysfs.slowed_down(tmp_path) == expected


def test_counts_of_an_x86_processor_are_added(tmp_path: Path) -> None:
    counts = {f"{CPU}{core}/thermal_throttle/core_throttle_count": core + 1 for core in range(3)}
    write(tmp_path, {**counts, f"{CPU}0/thermal_throttle/package_throttle_count": 10})
    assert sysfs.throttle_counts(tmp_path) == {"heat": 16}


def test_counts_of_a_jetsons_supply(tmp_path: Path) -> None:
    chip = "sys/class/hwmon/hwmon4"
    write(tmp_path, {f"{chip}/name": "soctherm_oc", f"{chip}/oc1_event_cnt": 2, f"{chip}/oc3_event_cnt": 5})
    assert sysfs.throttle_counts(tmp_path) == {"under-voltage": 2, "instantaneous over-current": 5}


@pytest.mark.parametrize("name", ["17000000.gpu", "17000000.ga10b", "17000000.gv11b", "gpu-gpc-0"])
def test_the_clock_of_a_jetsons_gpu(tmp_path: Path, name: str) -> None:
    folder = f"sys/class/devfreq/{name}"
    write(
        tmp_path,
        {
            f"{folder}/cur_freq": 624750000,
            f"{folder}/min_freq": 306000000,
            f"{folder}/max_freq": 1020000000,
            "sys/class/devfreq/15480000.nvdec/cur_freq": 1,
            "sys/devices/platform/gpu.0/load": 412,
        },
    )
    assert sysfs.gpu(tmp_path) == {"clock": 624.75, "lowest": 306.0, "highest": 1020.0, "load": 0.412}


def test_the_clock_of_the_memory(tmp_path: Path) -> None:
    write(tmp_path, {"sys/class/devfreq/bwmgr/cur_freq": 4266000000})
    assert sysfs.memory_clock(tmp_path) == 4266.0


def measured(root: Path) -> dict[str, float | None]:
    return {name: sysfs.watts(files) for name, files in sysfs.rails(root).items()}


def test_rails_of_an_orin_nano(tmp_path: Path) -> None:
    labels = {1: "VDD_IN", 2: "VDD_CPU_GPU_CV", 3: "NC", 7: "sum of shunt voltages"}
    write(tmp_path, {f"{INA}/in{index}_label": name for index, name in labels.items()})
    write(tmp_path, {f"{INA}/in{index}_input": 5000 for index in labels})
    write(tmp_path, {f"{INA}/curr{index}_input": 100 * index for index in labels})
    assert measured(tmp_path) == {"VDD_IN": 0.5, "VDD_CPU_GPU_CV": 1.0}


def test_the_input_of_a_thor(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "sys/class/hwmon/hwmon1/name": "ina3221",
            "sys/class/hwmon/hwmon1/in1_label": "VDD_GPU",
            "sys/class/hwmon/hwmon1/in1_input": 12000,
            "sys/class/hwmon/hwmon1/curr1_input": 500,
            "sys/class/hwmon/hwmon2/name": "ina238",
            "sys/class/hwmon/hwmon2/power1_input": 28906000,
            "sys/class/hwmon/hwmon9/name": "nvme",
            "sys/class/hwmon/hwmon9/in1_label": "NVME",
            "sys/class/hwmon/hwmon9/in1_input": 3300,
            "sys/class/hwmon/hwmon9/curr1_input": 100,
        },
    )
    assert measured(tmp_path) == {"VDD_GPU": 6.0, "VIN": 28.906}


def test_a_rail_that_cannot_be_read_has_no_power(tmp_path: Path) -> None:
    write(tmp_path, {f"{INA}/in1_label": "VDD_IN", f"{INA}/in1_input": 5000, f"{INA}/curr1_input": "?"})
    assert measured(tmp_path) == {"VDD_IN": None}


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    nothing: list[Any] = [
        sysfs.core_clocks(tmp_path),
        sysfs.temperatures(tmp_path),
        sysfs.trip_points(tmp_path),
        sysfs.slowed_down(tmp_path),
        sysfs.throttle_counts(tmp_path),
        sysfs.gpu(tmp_path),
        sysfs.memory_clock(tmp_path),
        sysfs.rails(tmp_path),
    ]
    assert not any(nothing)
