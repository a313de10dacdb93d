"""What a machine says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeemo.bench.device import machine, processor


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"proc/cpuinfo": "processor : 0\nmodel name\t: AMD EPYC 9R14\nflags : sse\n"}, "AMD EPYC 9R14"),
        (
            {"proc/device-tree/model": "NVIDIA Jetson AGX Orin\0", "proc/cpuinfo": "model name : ARMv8\n"},
            "NVIDIA Jetson AGX Orin",
        ),
    ],
)
def test_a_processor_by_its_name(tmp_path: Path, files: dict[str, str], name: str) -> None:
    for path, text in files.items():
        write(tmp_path, path, text)
    assert processor(tmp_path) == name


def test_clocks_where_they_are_told(tmp_path: Path) -> None:
    scaling = "sys/devices/system/cpu/cpu0/cpufreq"
    write(tmp_path, f"{scaling}/scaling_governor", "schedutil\n")
    write(tmp_path, f"{scaling}/scaling_cur_freq", "729600\n")
    write(tmp_path, f"{scaling}/cpuinfo_max_freq", "2201600\n")
    told = machine(tmp_path)
    assert (told["governor"], told["clock"], told["highest_clock"]) == ("schedutil", 729, 2201)


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    told = machine(tmp_path)
    assert told["governor"] is None and told["clock"] is None and told["highest_clock"] is None
    assert isinstance(told["processor"], str) and told["system"] and told["cores"] >= 1
