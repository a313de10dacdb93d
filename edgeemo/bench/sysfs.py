"""What the kernel's sensors say now: clocks, temperatures, what is slowed down, and rails of power.

Nothing here raises: a file that is missing, closed to this user or nonsense tells nothing.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

ROOT = Path("/")

_NUMBER = re.compile(r"-?[0-9]{1,19}")
_SLOWS_DOWN = re.compile(r"cpu|gpu|freq|processor|powerclamp|throttle", re.IGNORECASE)
_GPU = re.compile(r".*\.(gpu|ga10b|gv11b|gp10b)|gpu-gpc-0")


def text(path: Path) -> str:
    """What a file says, without space around it; empty where it cannot be read."""
    try:
        return path.read_text("utf-8", errors="replace").strip(" \t\n\0")
    except OSError:  # not on this system, or not for this user; a sensor without power answers so too
        return ""


def number(path: Path) -> int | None:
    """The whole number that a file holds; None where it holds none."""
    told = text(path)
    return int(told) if _NUMBER.fullmatch(told) else None


def found(root: Path, pattern: str) -> list[Path]:
    """Files or folders under a root by a pattern, in the order of their names."""
    try:
        return sorted(root.glob(pattern))
    except OSError:
        return []


def core_clocks(root: Path, which: str = "scaling_cur_freq") -> list[int]:
    """MHz of each core that is on and tells it.

    Args:
        root: the folder that holds /sys.
        which: the file of cpufreq, such as 'scaling_cur_freq' or 'scaling_max_freq'.
    """
    files = found(root, f"sys/devices/system/cpu/cpu[0-9]*/cpufreq/{which}")
    return [kilohertz // 1000 for file in files if (kilohertz := number(file)) is not None]


def temperatures(root: Path) -> dict[str, float]:
    """Degrees Celsius by zone, such as 'cpu' or 'tj'; a zone whose sensor has no power is left out."""
    told = {_zone(zone): number(zone / "temp") for zone in found(root, "sys/class/thermal/thermal_zone*")}
    return {
        name: value / 1000 for name, value in told.items() if name and value is not None and value > -100e3
    }


def trip_points(root: Path) -> dict[str, float]:
    """Degrees Celsius by zone at which the kernel begins to slow down what heats it.

    Of several passive points the highest: a lower one may only raise an alarm.
    """
    points = {}
    for zone in found(root, "sys/class/thermal/thermal_zone*"):
        kinds = found(zone, "trip_point_*_type")
        passive = [kind.with_name(kind.name[:-4] + "temp") for kind in kinds if text(kind) == "passive"]
        degrees = [value / 1000 for file in passive if (value := number(file)) is not None and value > 0]
        if degrees and _zone(zone):
            points[_zone(zone)] = max(degrees)
    return points


def slowed_down(root: Path) -> dict[str, int]:
    """Steps by which each processor is slowed down to cool it, by the name of its cooling device; no fans."""
    steps: dict[str, int] = {}
    for device in found(root, "sys/class/thermal/cooling_device*"):
        kind, state = text(device / "type"), number(device / "cur_state")
        if state is not None and state > 0 and _SLOWS_DOWN.search(kind) and "fan" not in kind.lower():
            steps[kind] = max(state, steps.get(kind, 0))
    return steps


def throttle_counts(root: Path) -> dict[str, int]:
    """How often the hardware slowed itself down since it was started.

    Returns:
        'heat': of the cores and packages of an x86 processor, added; on a Jetson 'under-voltage',
        'average over-current' and 'instantaneous over-current' of its supply (its oc1 to oc3). Only those
        that this machine counts.
    """
    counts: dict[str, int] = {}
    for file in found(root, "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count"):
        counts["heat"] = counts.get("heat", 0) + (number(file) or 0)
    names = {1: "under-voltage", 2: "average over-current", 3: "instantaneous over-current"}
    for chip in found(root, "sys/class/hwmon/hwmon*"):
        if text(chip / "name") == "soctherm_oc":
            told = {name: number(chip / f"oc{index}_event_cnt") for index, name in names.items()}
            counts |= {name: count for name, count in told.items() if count is not None}
    return counts


def gpu(root: Path) -> dict[str, float] | None:
    """The clock of a Jetson's GPU.

    Returns:
        Of 'clock', 'lowest' and 'highest' (MHz; what it may be set to now) and 'load' (share of time, 0 to 1)
        those that can be read; None without such a GPU.
    """
    folders = [one for one in found(root, "sys/class/devfreq/*") if _GPU.fullmatch(one.name)]
    if not folders:
        return None
    files = {"clock": "cur_freq", "lowest": "min_freq", "highest": "max_freq"}
    told = {name: number(folders[0] / file) for name, file in files.items()}
    facts = {name: hertz / 1e6 for name, hertz in told.items() if hertz is not None}
    loads = ("sys/devices/platform/gpu.0/load", "sys/devices/gpu.0/load")
    per_mille = [load for file in loads if (load := number(root / file)) is not None]
    return {**facts, **({"load": per_mille[0] / 1000} if per_mille else {})} or None


def memory_clock(root: Path) -> float | None:
    """MHz of a Jetson's memory (EMC); most systems tell it to root alone."""
    for file in ("sys/kernel/debug/bpmp/debug/clk/emc/rate", "sys/class/devfreq/bwmgr/cur_freq"):
        hertz = number(root / file)
        if hertz is not None:
            return hertz / 1e6
    return None


def rails(root: Path) -> dict[str, tuple[Path, ...]]:
    """The files of each rail that a power monitor (INA3221, INA238) measures, for `watts`.

    An INA3221 tells volts and amperes of three rails; a Jetson Thor's INA238 tells the watts of its input.

    Returns:
        By the name on the board; VIN for an INA238 to which the kernel gives no name.
    """
    files: dict[str, tuple[Path, ...]] = {}
    chips = found(root, "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*") + found(root, "sys/class/hwmon/hwmon*")
    for chip in chips:
        kind = text(chip / "name")
        if kind == "ina238":
            name = text(chip / "in1_label") or text(chip / "power1_label") or "VIN"
            files[name] = (chip / "power1_input",)
        elif kind == "ina3221" or chip.parents[2].name == "ina3221":
            # Further labels of this chip are of sums of shunt voltages; NC is not connected.
            for index in (1, 2, 3):
                name = text(chip / f"in{index}_label")
                if name and name != "NC":
                    files[name] = (chip / f"in{index}_input", chip / f"curr{index}_input")
    return files


def watts(files: tuple[Path, ...]) -> float | None:
    """The power of a rail now, of one file in microwatts or two in mV and mA; None where it is not told."""
    told = [value for file in files if (value := number(file)) is not None]
    return math.prod(told) / 1e6 if len(told) == len(files) else None


def _zone(folder: Path) -> str:
    """'cpu' for a zone of type 'cpu-thermal' (JetPack 6) or 'CPU-therm' (JetPack 5)."""
    return re.sub(r"[-_]therm(al)?$", "", text(folder / "type").lower())
