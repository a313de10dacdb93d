"""Lines of tegrastats, as each Jetson prints them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from edgeemo.bench.tegrastats import Core, Tegra, Tegrastats, parse

OFF = Core(None, None)

ORIN_NANO_8 = (
    "11-20-2026 09:14:03 RAM 2871/7620MB (lfb 9x4MB) SWAP 12/3810MB (cached 0MB) "
    "CPU [23%@1510,4%@1510,off,0%@729,100%@729,7%@729] EMC_FREQ 3%@2133 GR3D_FREQ 37%@[611] NVDEC off "
    "NVJPG off NVJPG1 off VIC off OFA off APE 200 cpu@47.125C soc2@46.5C soc0@45.968C gpu@46.75C "
    "tj@47.125C soc1@46.281C VDD_IN 5321mW/4870mW VDD_CPU_GPU_CV 1214mW/903mW VDD_SOC 1518mW/1431mW"
)
ORIN_NANO_4 = (
    "11-20-2026 10:01:44 RAM 1904/3425MB (lfb 2x1MB) SWAP 310/1713MB (cached 4MB) "
    "CPU [9%@1190,3%@1190,0%@1190,2%@1190,off,off] GR3D_FREQ 12%@[305] cpu@41.5C gpu@-256C tj@41.5C "
    "VDD_IN 3120mW/3096mW VDD_CPU_GPU_CV 402mW/398mW VDD_SOC 1004mW/1001mW"
)
ORIN_NANO_SUPER = (
    "11-20-2026 10:20:10 RAM 3360/7620MB (lfb 5x4MB) SWAP 0/3810MB (cached 0MB) "
    "CPU [61%@1728,58%@1728,60%@1728,57%@1728,2%@1728,1%@1728] EMC_FREQ 18%@3199 GR3D_FREQ 99%@[1007] "
    "cpu@58.2C soc2@57.1C soc0@56C gpu@59.062C tj@59.062C soc1@57C "
    "VDD_IN 14890mW/13010mW VDD_CPU_GPU_CV 6820mW/5704mW VDD_SOC 3120mW/2960mW"
)
ORIN_NX_JETPACK_5 = (
    "03-02-2023 08:00:59 RAM 4105/15523MB (lfb 2214x4MB) SWAP 0/7761MB (cached 0MB) "
    "CPU [2%@729,0%@729,1%@729,0%@729,off,off,off,off] EMC_FREQ 0%@2133 GR3D_FREQ 45%@917 GR3D2_FREQ 45%@0 "
    "VIC_FREQ 729 APE 174 CV0@-256C CPU@46.812C SOC2@45.5C SOC0@46C CV1@-256C GPU@44.9C tj@46.812C "
    "SOC1@45.312C CV2@-256C VDD_IN 4760mW/4721mW VDD_CPU_GPU_CV 680mW/671mW VDD_SOC 1360mW/1355mW"
)
AGX_ORIN = (
    "04-11-2025 10:36:27 RAM 5120/62801MB (lfb 1702x4MB) SWAP 20/31400MB (cached 1MB) "
    "CPU [3%@2201,1%@2201,0%@2201,0%@2201,off,off,off,off,0%@729,0%@729,0%@729,5%@729] EMC_FREQ 1%@3199 "
    "GR3D_FREQ 62%@[1300,1298] VIC_FREQ 729 APE 174 CV0@-256C CPU@48.125C Tboard@35C SOC2@43.5C "
    "Tdiode@36.25C SOC0@44C CV1@-256C GPU@45.5C tj@48.125C SOC1@44.812C CV2@-256C "
    "VDD_GPU_SOC 9210mW/8044mW VDD_CPU_CV 1174mW/1002mW VIN_SYS_5V0 5231mW/5180mW NC 0mW/0mW "
    "VDDQ_VDD2_1V8AO 804mW/790mW NC 0mW/0mW"
)
THOR = (
    "08-08-2026 20:58:23 RAM 9120/125749MB (lfb 31x4MB) SWAP 0/0MB (cached 0MB) CPU [12%,5%,off]@2601 "
    "EMC_FREQ 34%@4266 GR3D_FREQ @[1574,1573,1574] NVENC0_FREQ @1691 VIC off cpu@58.25C/61.75C "
    "tj@66.5C/66.625C gpu@56.937C/66.625C soc012@55.375C/58.781C soc345@55.812C/60.031C "
    "VDD_GPU 31200mW/8660mW/37939mW VDD_CPU_SOC_MSS 22400mW/12281mW/30059mW "
    "VIN_SYS_5V0 14100mW/7424mW/15486mW VIN 98700mW/36487mW/124486mW LATER_FIELD 3 other@x"
)


def test_every_field_of_an_orin_nano() -> None:
    assert parse(ORIN_NANO_8) == Tegra(
        ram=(2871, 7620),
        swap=(12, 3810),
        cores=(Core(23, 1510), Core(4, 1510), OFF, Core(0, 729), Core(100, 729), Core(7, 729)),
        emc_load=3,
        emc_clock=2133,
        gpu_load=37,
        gpu_clocks=(611,),
        temperatures={
            "cpu": 47.125,
            "soc2": 46.5,
            "soc0": 45.968,
            "gpu": 46.75,
            "tj": 47.125,
            "soc1": 46.281,
        },
        rails={"VDD_IN": 5.321, "VDD_CPU_GPU_CV": 1.214, "VDD_SOC": 1.518},
    )


@pytest.mark.parametrize(
    ("line", "cores", "on", "gpu", "emc", "hottest", "rails"),
    [
        (ORIN_NANO_4, 6, 4, (12, (305,)), (None, None), 41.5, ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]),
        (ORIN_NANO_SUPER, 6, 6, (99, (1007,)), (18, 3199), 59.062, ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]),
        (ORIN_NX_JETPACK_5, 8, 4, (45, (917, 0)), (0, 2133), 46.812, ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]),
        (
            AGX_ORIN,
            12,
            8,
            (62, (1300, 1298)),
            (1, 3199),
            48.125,
            ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"],
        ),
        (
            THOR,
            3,
            2,
            (None, (1574, 1573, 1574)),
            (34, 4266),
            66.5,
            ["VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0", "VIN"],
        ),
    ],
    ids=["Orin Nano 4 GB", "Orin Nano Super", "Orin NX", "AGX Orin", "Thor"],
)
def test_each_board(
    line: str,
    cores: int,
    on: int,
    gpu: tuple[int | None, tuple[int, ...]],
    emc: tuple[int | None, int | None],
    hottest: float,
    rails: list[str],
) -> None:
    said = parse(line)
    assert said is not None
    assert len(said.cores) == cores and sum(core != OFF for core in said.cores) == on
    assert (said.gpu_load, said.gpu_clocks) == gpu
    assert (said.emc_load, said.emc_clock) == emc
    assert max(said.temperatures.values()) == hottest and min(said.temperatures.values()) > 0
    assert list(said.rails) == rails


def test_what_counts_is_the_power_now_and_not_its_mean_or_peak() -> None:
    said = parse(THOR)
    assert said is not None and said.rails["VIN"] == 98.7 and said.temperatures["cpu"] == 58.25


def test_one_clock_for_all_cores_of_a_thor() -> None:
    said = parse(THOR)
    assert said is not None and said.cores == (Core(12, 2601), Core(5, 2601), OFF)


@pytest.mark.parametrize(
    ("field", "load", "clocks"),
    [
        ("GR3D_FREQ 0%@[0,0]", 0, (0, 0)),
        ("GR3D_FREQ 99%@[918]", 99, (918,)),
        ("GR3D_FREQ 20%@[0, 300]", 20, (0, 300)),
        ("GR3D_FREQ 45%@318", 45, (318,)),
        ("GR3D_FREQ @[1574,1574,1574]", None, (1574, 1574, 1574)),
        ("GR3D_FREQ @918", None, (918,)),
        ("GR3D_FREQ 7%", 7, ()),
        ("GR3D_FREQ off", None, ()),
        ("GR3D_FREQ", None, ()),
        ("", None, ()),
    ],
)
def test_forms_of_the_gpu(field: str, load: int | None, clocks: tuple[int, ...]) -> None:
    said = parse(f"RAM 1/2MB {field}")
    assert said is not None and (said.gpu_load, said.gpu_clocks) == (load, clocks)


@pytest.mark.parametrize(
    "line",
    ["", "\n", "tegrastats: not found", "Error: Run this script as root", "VDD_IN", "\0\xff", "RAM x/yMB"],
)
def test_a_line_that_is_none(line: str) -> None:
    assert parse(line) is None


def test_a_line_that_was_cut_tells_what_it_holds() -> None:
    said = parse(ORIN_NANO_8[: ORIN_NANO_8.index("%@729,7%")])
    assert said is not None and said.ram == (2871, 7620) and said.cores == () and said.rails == {}


@pytest.mark.skipif(os.name != "posix", reason="a shell script stands in for the tool")
def test_the_running_tool(tmp_path: Path) -> None:
    tool = script(
        tmp_path, f'echo "$@" > {tmp_path}/arguments; echo "a greeting"; echo "{THOR}"; exec sleep 60'
    )
    running = Tegrastats(tool, interval=0.25)
    assert running.start()
    assert running.newest == parse(THOR)
    assert (tmp_path / "arguments").read_text() == "--interval 250\n"
    process = running._process
    assert process is not None
    running.stop()
    assert process.returncode == -signal.SIGTERM
    running.stop()


@pytest.mark.skipif(os.name != "posix", reason="a shell script stands in for the tool")
@pytest.mark.parametrize("body", ["exit 1", "echo nothing of use"])
def test_a_tool_that_says_nothing(tmp_path: Path, body: str) -> None:
    assert not Tegrastats(script(tmp_path, body)).start(patience=30)


def test_a_tool_that_is_none(tmp_path: Path) -> None:
    assert not Tegrastats(tmp_path / "tegrastats").start()


def script(folder: Path, body: str) -> Path:
    tool = folder / "tegrastats"
    tool.write_text(f"#!/bin/sh\n{body}\n")
    tool.chmod(0o755)
    return tool
