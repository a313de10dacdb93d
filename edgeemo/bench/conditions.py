"""Whether the machine stayed the same while it was measured, and what to do where it did not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeemo.bench import sysfs
from edgeemo.bench.statistics import UNSTABLE_CPU
from edgeemo.bench.sysfs import ROOT, found, number, text
from edgeemo.inference.jetson import read_jetson

BUSY = 0.05
"""Share of all cores' time from which on other programs count as a load."""

_FELL = 0.95
"""Share of a clock below which it fell: a governor moves within less while a core works."""

_STOLEN = 0.01
_NEAR = 3.0  # degrees
_SWAPPED = 256  # pages, 1 MB of 4 KB each: a few go out and come in on any machine


def snapshot(root: Path = ROOT) -> dict[str, Any]:
    """How the machine is now; None or empty where this system does not tell.

    Take one right before what is measured and one right after, while the processor is still warm from it.

    Args:
        root: the folder that holds /proc, /sys, /etc and /var.

    Returns:
        As JSON holds it:
        'clocks' of the cores, MHz: 'lowest', 'mean', 'highest', and 'limit', the most that they may have now;
        'governors' of the cores; 'load', the averages of 1, 5 and 15 minutes;
        'cpu', hundredths of a second since the start: 'total' of all cores, 'busy', 'stolen' (by the host of
        a virtual machine) and 'own', of this program and its ended children; 'cores';
        'temperatures' and 'trip_points', degrees Celsius by zone;
        'slowed_down', steps by cooling device, and 'throttled', counts since the start, by cause;
        'gpu' as `sysfs.gpu` says it; 'memory_clock', MHz, of a Jetson's memory;
        'power_mode' and 'power_modes' of a Jetson, and 'jetson_clocks', whether its clocks are fixed;
        'quota', how often the limit of a container stopped it; 'swapped', pages moved to and from the disk;
        'on_battery'.
    """
    jetson = read_jetson(root)
    return {
        "clocks": _clocks(root),
        "governors": sorted(set(_governors(root))),
        "load": _load(root),
        "cpu": _processor_time(root),
        "cores": len(re.findall(r"^cpu\d", text(root / "proc/stat"), re.MULTILINE)) or None,
        "temperatures": sysfs.temperatures(root),
        "trip_points": sysfs.trip_points(root),
        "slowed_down": sysfs.slowed_down(root),
        "throttled": sysfs.throttle_counts(root),
        "gpu": sysfs.gpu(root),
        "memory_clock": sysfs.memory_clock(root),
        "power_mode": (jetson.power_mode or None) if jetson else None,
        "power_modes": _power_modes(root) if jetson else [],
        "jetson_clocks": _fixed(root) if jetson else None,
        "quota": _stopped_by_quota(root),
        "swapped": _swapped(root),
        "on_battery": _on_battery(root),
    }


def changed(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    cv: float | None = None,
    *,
    steady: float = UNSTABLE_CPU,
) -> list[str]:
    """What may have made the times unstable or slower than they can be, and what to do about it.

    Args:
        before: a snapshot from right before.
        after: one from right after.
        cv: coefficient of variation of the times, where they were measured.
        steady: the largest that is still called steady.

    Returns:
        A sentence for each cause that the snapshots show, the most likely first; where the times were
        unstable, one before them that says so.
    """
    evidence = [
        *_throttling(before, after),
        *_heat(after),
        *_other_load(before, after),
        *_limits_of_others(before, after),
        *_settings(after),
    ]
    if cv is None or cv <= steady:
        return evidence
    unstable = f"The times are unstable: their coefficient of variation is {cv:.2g}, more than {steady:.3g}"
    if evidence:
        return [f"{unstable}; what follows are likely causes.", *evidence]
    return [f"{unstable}, and this machine does not tell why; close other programs and measure longer."]


def throttled(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What slowed the processors down: causes whose count rose meanwhile, and cooling devices at work now.

    Example:
        >>> before = {"throttled": {"heat": 3}, "slowed_down": {}}
        >>> throttled(before, {"throttled": {"heat": 5}, "slowed_down": {"cpufreq-cpu0": 2}})
        ['heat', 'cpufreq-cpu0']
    """
    counts = before.get("throttled") or {}
    rose = [name for name, count in (after.get("throttled") or {}).items() if count > counts.get(name, count)]
    return rose + list(after.get("slowed_down") or {})


# --- evidence, and what to do


def _throttling(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    causes = throttled(before, after)
    supply = [name for name in causes if name.endswith(("under-voltage", "over-current"))]
    if supply:
        yield (
            f"The board slowed itself down for its supply ({', '.join(supply)}); use a stronger one, or a "
            "smaller power mode."
        )
    heat = [name for name in causes if name not in supply]
    if heat:
        yield f"The processor was slowed down by heat ({', '.join(heat)}); cool it better or let it cool."
    for name, now, then in _fell(before, after):
        yield (
            f"{name} fell from {then:.0f} to {now:.0f} MHz meanwhile; cool the machine, and fix its clocks "
            "(on a Jetson: sudo jetson_clocks; elsewhere: governor performance)."
        )


def _fell(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, float, float]]:
    """Clocks that fell: that of the core at work, and what a processor may have."""
    # The core that works has the highest clock; the lowest and the mean follow how many others sleep.
    named = (
        ("The clock of the fastest core", "clocks", "highest"),
        ("The highest clock that the cores may have", "clocks", "limit"),
        ("The highest clock that the GPU may have", "gpu", "highest"),
    )
    for name, part, key in named:
        then, now = (before.get(part) or {}).get(key), (after.get(part) or {}).get(key)
        if then and now and now < _FELL * then:
            yield name, now, then


def _heat(after: Mapping[str, Any]) -> Iterator[str]:
    degrees, points = after.get("temperatures") or {}, after.get("trip_points") or {}
    near = [name for name in degrees if name in points and degrees[name] >= points[name] - _NEAR]
    if near:
        told = ", ".join(f"{name} {degrees[name]:.0f} of {points[name]:.0f} degrees" for name in near)
        yield f"The machine is as hot as it may get before it is slowed down ({told}); cool it better."


def _other_load(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    share = others_share(before, after)
    if share is not None and share >= BUSY:
        yield (
            f"Other programs took {share:.0%} of the cores' time meanwhile; end them ('top' names them), or "
            "keep cores for this one (taskset)."
        )
    stolen = _share(before, after, "stolen")
    if stolen is not None and stolen >= _STOLEN:
        yield (
            f"The host of this virtual machine took {stolen:.0%} of its time for others; measure on a "
            "machine of its own."
        )


def _limits_of_others(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    stopped = _rise(before, after, "quota")
    if stopped:
        yield (
            f"The CPU limit of this container stopped it {stopped} times meanwhile; raise the limit "
            "(docker run --cpus), or take it away."
        )
    pages = _rise(before, after, "swapped")
    if pages and pages >= _SWAPPED:
        yield f"The system swapped {pages} pages meanwhile: memory is short; close other programs."


def _settings(after: Mapping[str, Any]) -> Iterator[str]:
    mode = _smaller_mode(after)
    if mode:
        yield f"The power mode is {mode[0]}, and {mode[1]} is the largest; set it with 'sudo nvpmodel -m'."
    if after.get("jetson_clocks") is False:
        yield "The clocks are not fixed and follow the load; fix them with 'sudo jetson_clocks'."
    slow = [name for name in after.get("governors") or [] if name != "performance"]
    if slow and not after.get("jetson_clocks"):  # which leaves the governor and sets lowest = highest
        yield (
            f"The governor of the cores is {', '.join(slow)}, so their clocks follow the load; set "
            "'performance' (cpupower frequency-set -g performance)."
        )
    if after.get("on_battery"):
        yield "The machine runs on its battery, which limits its clocks; plug it in."


def others_share(before: Mapping[str, Any], after: Mapping[str, Any]) -> float | None:
    """Share of all cores' time, 0 to 1, that other programs took between two snapshots; None where not told.

    Example:
        >>> before = {"cpu": {"total": 0, "busy": 0, "stolen": 0, "own": 0}}
        >>> others_share(before, {"cpu": {"total": 400, "busy": 150, "stolen": 0, "own": 100}})
        0.125
    """
    busy, own = _share(before, after, "busy"), _share(before, after, "own")
    # Both are counted in ticks of their own, so a quiet machine can come out below nothing.
    return None if busy is None or own is None else max(busy - own, 0.0)


def _share(before: Mapping[str, Any], after: Mapping[str, Any], part: str) -> float | None:
    """A part of all cores' time between two snapshots."""
    then, now = before.get("cpu"), after.get("cpu")
    if not then or not now or now["total"] <= then["total"]:
        return None
    return float(now[part] - then[part]) / float(now["total"] - then["total"])


def _rise(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> int | None:
    then, now = before.get(name), after.get(name)
    return None if then is None or now is None else now - then


def _smaller_mode(after: Mapping[str, Any]) -> tuple[str, str] | None:
    """The power mode and the largest, where that is another one; None where their names do not tell."""
    mode = (after.get("power_mode") or "").partition(" (")[0]
    sizes = {name: size for name in after.get("power_modes") or [] if (size := _size(name)) is not None}
    if mode not in sizes:
        return None
    largest = max(sizes, key=lambda name: sizes[name])
    return (mode, largest) if sizes[mode] < sizes[largest] else None


def _size(mode: str) -> float | None:
    """A number that is larger for a mode that allows more: watts; MAXN and MAXN_SUPER have no limit."""
    watts = re.search(r"(\d+)W", mode)
    if mode.startswith("MAXN"):
        return 10_000.0 + ("SUPER" in mode)
    return float(watts.group(1)) if watts else None


# --- what the system tells


def _clocks(root: Path) -> dict[str, float] | None:
    clocks = sysfs.core_clocks(root)
    if not clocks:
        return None
    limits = sysfs.core_clocks(root, "scaling_max_freq")
    mean = round(sum(clocks) / len(clocks), 1)
    told = {"lowest": min(clocks), "mean": mean, "highest": max(clocks)}
    return {**told, **({"limit": max(limits)} if limits else {})}


def _governors(root: Path) -> list[str]:
    files = found(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")
    return [name for file in files if (name := text(file))]


def _load(root: Path) -> list[float] | None:
    told = re.match(r"(\d+\.\d+) (\d+\.\d+) (\d+\.\d+) ", text(root / "proc/loadavg"))
    return [float(one) for one in told.groups()] if told else None


def _processor_time(root: Path) -> dict[str, int] | None:
    """Of all cores and of this process, in ticks (proc(5)); guests are within the time of users."""
    told = re.match(r"cpu +((?:\d+ ?){8,})", text(root / "proc/stat"))
    # The name stands in brackets and may hold spaces and brackets itself.
    own = text(root / "proc/self/stat").rpartition(")")[2].split()
    if not told or len(own) < 15 or not all(re.fullmatch(r"-?\d{1,19}", one) for one in own[11:15]):
        return None
    user, nice, system, idle, waiting, irq, softirq, stolen = map(int, told.group(1).split()[:8])
    busy = user + nice + system + irq + softirq
    return {
        "total": busy + idle + waiting + stolen,
        "busy": busy,
        "stolen": stolen,
        "own": sum(int(one) for one in own[11:15]),
    }


def _power_modes(root: Path) -> list[str]:
    return re.findall(r"<\s*POWER_MODEL\s+ID=\d+\s+NAME=(\S+?)\s*>", text(root / "etc/nvpmodel.conf"))


def _fixed(root: Path) -> bool | None:
    """Whether no clock of the cores and of the GPU can change, which is what jetson_clocks sets."""
    lowest, highest = (sysfs.core_clocks(root, f"scaling_{which}_freq") for which in ("min", "max"))
    if not lowest or len(lowest) != len(highest):
        return None
    gpu = sysfs.gpu(root) or {}
    return lowest == highest and gpu.get("lowest") == gpu.get("highest")


def _stopped_by_quota(root: Path) -> int | None:
    """How often the group of this process, or one above it, had used up its time (cgroup, both versions)."""
    counts = []
    for line in text(root / "proc/self/cgroup").splitlines():
        _, _, group = line.partition(":")
        controllers, _, path = group.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        own = top / path.strip("/")
        # In a container its own group is at the top, whatever path the host has for it.
        folders = [folder for folder in (own, *own.parents) if folder == top or top in folder.parents]
        told = [re.search(r"^nr_throttled (\d+)$", text(one / "cpu.stat"), re.MULTILINE) for one in folders]
        counts += [int(count.group(1)) for count in told if count]
    return sum(counts) if counts else None


def _swapped(root: Path) -> int | None:
    told = re.findall(r"^pswp(?:in|out) (\d+)$", text(root / "proc/vmstat"), re.MULTILINE)
    return sum(map(int, told)) if told else None


def _on_battery(root: Path) -> bool | None:
    """None without a battery of the machine itself; a mouse has one too."""
    supplies = [one for one in found(root, "sys/class/power_supply/*") if text(one / "scope") != "Device"]
    states = [text(one / "status") for one in supplies if text(one / "type") == "Battery"]
    plugged = any(number(one / "online") == 1 for one in supplies if text(one / "type") == "Mains")
    return None if not states else "Discharging" in states and not plugged
