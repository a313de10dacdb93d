"""What machine this is, and how its clocks are set."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

_ROOT = Path("/")


def machine(root: Path = _ROOT) -> dict[str, Any]:
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
        "governor": _text(scaling / "scaling_governor") or None,
        "clock": _megahertz(scaling / "scaling_cur_freq"),
        "highest_clock": _megahertz(scaling / "cpuinfo_max_freq"),
    }


def processor(root: Path = _ROOT) -> str:
    """The name of the processor, or of the board where that names itself, as a Jetson does."""
    board = _text(root / "proc/device-tree/model").rstrip("\0")
    if board:
        return board
    for line in _text(root / "proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace").strip()
    except OSError:  # not on this system, or not for this user
        return ""


def _megahertz(path: Path) -> int | None:
    kilohertz = _text(path)
    return int(kilohertz) // 1000 if kilohertz.isdecimal() else None
