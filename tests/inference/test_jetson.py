from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeemo.inference.jetson import RELEASES, JetPack, Jetson, free_memory, read_jetson

# What the boards' own files say.
ORIN_NANO = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
    "DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n",
    "var/lib/dpkg/status": """\
Package: adduser
Status: install ok installed
Version: 3.118ubuntu5

Package: libnvinfer10
Status: install ok installed
Priority: optional
Version: 10.3.0.30-1+cuda12.5

Package: nvidia-jetpack
Status: deinstall ok config-files
Version: 6.1+b123

Package: python3-libnvinfer
Status: install ok installed
Architecture: arm64
Version: 10.3.0.30-1+cuda12.5
Depends: libnvinfer10 (= 10.3.0.30-1+cuda12.5)
Description: Python 3 bindings for TensorRT standard runtime
 .
 Package: not-one
 Version: 1
""",
    "var/lib/nvpmodel/status": "pmode:0002 fmode:fan_mode_quiet",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=25W >\n"
    "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n< POWER_MODEL ID=3 NAME=7W >\n< PM_CONFIG DEFAULT=1 >\n",
}
ORIN_NX = {
    "proc/device-tree/model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0000\0nvidia,p3767-0000\0nvidia,tegra234\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.4, GCID: 41062509, BOARD: generic\n",
}
AGX_ORIN = {
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3737-0000+p3701-0005\0nvidia,p3701-0005\0nvidia,tegra234\0",
    "etc/nv_tegra_release": "# R39 (release), REVISION: 2.0, GCID: 45755727, BOARD: generic, EABI: aarch64\n",
    "var/lib/dpkg/status": "Package: python3-libnvinfer\nStatus: install ok installed\n"
    "Version: 10.16.2.10-1+cuda13.2\n\nPackage: nvidia-jetpack\nStatus: install ok installed\n"
    "Version: 7.2-b187\n",
    "var/lib/nvpmodel/status": "pmode:0000",
}
THOR = {
    "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p4071-0000+p3834-0008\0nvidia,p3834-0008\0nvidia,tegra264\0",
    "etc/nv_tegra_release": "# R38 (release), REVISION: 4.0, GCID: 1, BOARD: generic, EABI: aarch64\n",
    "var/lib/nvpmodel/status": "pmode:0001",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >\n",
}
XAVIER = {
    "proc/device-tree/model": "NVIDIA Jetson Xavier NX Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3509-0000+p3668-0000\0nvidia,tegra194\0",
    "etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref\n",
}
# A container on an Orin of another maker: the device tree, and the packages of its base image.
CONTAINER = {
    "proc/device-tree/model": "Somebody's Box\0",
    "proc/device-tree/compatible": "nvidia,p3767-0000\0nvidia,tegra234\0",
    "var/lib/dpkg/status": "Package: nvidia-l4t-core\nStatus: install ok installed\n"
    "Version: 36.4.0-20240912212859\n",
}


def lay(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def read(root: Path, files: dict[str, str]) -> Jetson:
    found = read_jetson(lay(root, files))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("files", "told", "jetpack", "tensorrt", "power"),
    [
        (
            ORIN_NANO,
            "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super, "
            "Jetson Linux 36.4.3 (JetPack 6.2)",
            JetPack("6.2", (10, 3), (12, 6), (3, 10)),
            "10.3.0.30",
            "MAXN_SUPER (2)",
        ),
        (
            ORIN_NX,
            "NVIDIA Jetson Orin NX Engineering Reference Developer Kit, Jetson Linux 36.4.4 (JetPack 6.2.1)",
            JetPack("6.2.1", (10, 3), (12, 6), (3, 10)),
            "",
            "",
        ),
        (
            AGX_ORIN,
            "NVIDIA Jetson AGX Orin Developer Kit, Jetson Linux 39.2.0 (JetPack 7.2)",
            JetPack("7.2", (10, 16), (13, 2), (3, 12)),
            "10.16.2.10",
            "mode 0",  # its list of modes is not to be read
        ),
        (
            THOR,
            "NVIDIA Jetson AGX Thor Developer Kit, Jetson Linux 38.4.0 (JetPack 7.1)",
            JetPack("7.1", (10, 13), (13, 0), (3, 12)),
            "",
            "120W (1)",
        ),
        (XAVIER, "NVIDIA Jetson Xavier NX Developer Kit, Jetson Linux 35.4.1 (unknown)", None, "", ""),
        (
            CONTAINER,
            "Somebody's Box, Jetson Linux 36.4.0 (JetPack 6.1)",
            JetPack("6.1", (10, 3), (12, 6), (3, 10)),
            "",
            "",
        ),
    ],
    ids=["orin nano", "orin nx", "agx orin", "thor", "xavier", "container"],
)
def test_board(
    files: dict[str, str], told: str, jetpack: JetPack | None, tensorrt: str, power: str, tmp_path: Path
) -> None:
    found = read(tmp_path, files)
    assert str(found) == told
    assert found.jetpack == jetpack
    assert found.tensorrt == tensorrt
    assert found.power_mode == power


def test_packages_that_were_removed_are_not_installed(tmp_path: Path) -> None:
    assert read(tmp_path, ORIN_NANO).packages == {
        "libnvinfer10": "10.3.0.30-1+cuda12.5",
        "python3-libnvinfer": "10.3.0.30-1+cuda12.5",
    }


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/device-tree/model": "Raspberry Pi 5\0", "proc/device-tree/compatible": "raspberrypi,5\0"},
        {"var/lib/dpkg/status": ORIN_NANO["var/lib/dpkg/status"]},  # TensorRT on a workstation
    ],
)
def test_no_jetson(files: dict[str, str], tmp_path: Path) -> None:
    assert read_jetson(lay(tmp_path, files)) is None


def test_a_jetson_that_tells_nothing(tmp_path: Path) -> None:
    found = read(tmp_path, {"etc/nv_tegra_release": "unreadable\n"})
    assert str(found) == "Jetson without a name, Jetson Linux of unknown release"
    assert found.jetpack is None and found.tensorrt == "" and found.power_mode == ""


def test_files_that_cannot_be_read_tell_nothing(tmp_path: Path) -> None:
    # A folder raises OSError as a file of root's does.
    (lay(tmp_path, ORIN_NX) / "var/lib/nvpmodel/status").mkdir(parents=True)
    assert read_jetson(tmp_path) is not None


def test_free_memory(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None
    lay(tmp_path, {"proc/meminfo": "MemTotal:  7802904 kB\nMemFree: 1 kB\nMemAvailable:  6500000 kB\n"})
    assert free_memory(tmp_path) == 6_656_000_000


def test_this_machine() -> None:
    assert read_jetson() is None or Path("/proc/device-tree").exists()


def test_the_releases_are_those_of_the_page() -> None:
    page = (Path(__file__).parents[2] / "deploy" / "jetson" / "README.md").read_text(encoding="utf-8")
    row = r"^\| (\S+(?: DP)?) \| ([\d., ]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|"
    rows = re.findall(row, page, re.MULTILINE)
    told = {
        linux: (version, cuda, tensorrt, python)
        for version, releases, cuda, tensorrt, python in rows
        for linux in releases.split(", ")
    }
    assert told == {
        linux: (one.version, *("{}.{}".format(*pair) for pair in (one.cuda, one.tensorrt, one.python)))
        for linux, one in RELEASES.items()
    }
