"""What machine this is, and how its clocks are set."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from edgeemo.bench.sysfs import ROOT, number, text


def machine(root: Path = ROOT) -> dict[str, Any]:
    """Say what a figure was measured on; None where this system does not tell.

    Args:
        root: where the system's files are.

    Returns:
        'system', 'architecture', 'processor', 'cores' (logical ones), and of its clock 'governor',
        'clock' and 'highest_clock', both in MHz, of the first core.
    """
    scaling = root / "sys/devices/system/cpu/cpu0/cpufreq"
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "processor": processor(root),
        "cores": os.cpu_count(),
        "governor": text(scaling / "scaling_governor") or None,
        "clock": _megahertz(scaling / "scaling_cur_freq"),
        "highest_clock": _megahertz(scaling / "cpuinfo_max_freq"),
    }


def processor(root: Path = ROOT) -> str:
    """The name of the processor, or of the board where that names itself, as a Jetson does."""
    board = text(root / "proc/device-tree/model")
    if board:
        return board
    for line in text(root / "proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _megahertz(path: Path) -> int | None:
    kilohertz = number(path)
    return None if kilohertz is None else kilohertz // 1000
