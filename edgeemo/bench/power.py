"""The energy that was used meanwhile, from whatever on this machine measures it."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from edgeemo.bench.sysfs import ROOT, found, number, rails, text, watts
from edgeemo.bench.tegrastats import Tegrastats

INTERVAL = 0.1
"""Seconds between two readings of power, which are integrated."""

INTERVAL_OF_COUNTERS = 30.0
"""Seconds between two readings of a counter of energy: it must not pass its own range unseen between two."""

_MODULE = "the module, without its carrier board"
_BOARD = "the whole board"

# A Jetson's rails that make up the whole, the best first. On Orin Nano and NX (VDD_IN) and on Thor's carrier
# (VIN) one rail is the input and all others are parts of it. AGX Orin has no such rail: its VIN_SYS_5V0 is
# what memory and the inputs and outputs take and holds neither CPU nor GPU, and VDDQ_VDD2_1V8AO is a part of
# it (NVIDIA's forum, topic 217088; jetson_stats, issue 344). The last is a Thor on a carrier without INA238.
_WHOLE = {
    ("VDD_IN",): _MODULE,
    ("VIN",): _BOARD,
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"): _MODULE,
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"): _MODULE,
}


def whole(parts: Mapping[str, float]) -> float | None:
    """What all of a Jetson takes, of its rails: no total is added to its parts.

    Args:
        parts: watts, or joules, by rail.

    Returns:
        None where it is not known which of these rails make up the whole.

    Example:
        >>> whole({"VDD_IN": 5.0, "VDD_CPU_GPU_CV": 2.0, "VDD_SOC": 1.5})
        5.0
        >>> whole({"VDD_GPU_SOC": 3.0, "VDD_CPU_CV": 1.0, "VIN_SYS_5V0": 4.0, "VDDQ_VDD2_1V8AO": 0.5})
        8.0
    """
    names = _making_up(parts)
    return sum(parts[name] for name in names) if names else None


def _making_up(parts: Mapping[str, float]) -> tuple[str, ...]:
    """The rails that make up the whole, of those that are told; none where that is not known."""
    return next((names for names in _WHOLE if all(name in parts for name in names)), ())


class Energy:
    """Joules of each rail, added up from readings of its power.

    Example:
        >>> energy = Energy()
        >>> for moment, watts in ((0.0, 4.0), (1.0, 6.0), (3.0, 6.0)):
        ...     energy.add(moment, {"VDD_IN": watts})
        >>> energy.joules
        {'VDD_IN': 17.0}
    """

    def __init__(self) -> None:
        self.joules: dict[str, float] = {}
        self._before: dict[str, tuple[float, float]] = {}

    def add(self, moment: float, told: Mapping[str, float]) -> None:
        """Take watts of one moment (seconds): trapezoids, over the gap where a rail was not told."""
        for name, now in told.items():
            if name in self._before:
                since, before = self._before[name]
                self.joules[name] = self.joules.get(name, 0.0) + (moment - since) * (now + before) / 2
            self._before[name] = (moment, now)


class Counted:
    """Joules of each rail, from readings of a counter that begins again at 0 when it is full.

    Args:
        ranges: joules by rail at which its counter begins again; a rail without one never does.

    Example:
        >>> counted = Counted({"package-0": 100.0})
        >>> for count in (90.0, 95.0, 5.0):
        ...     counted.add(0.0, {"package-0": count})
        >>> counted.joules
        {'package-0': 15.0}
    """

    def __init__(self, ranges: Mapping[str, float]) -> None:
        self.joules: dict[str, float] = {}
        self._ranges = ranges
        self._before: dict[str, float] = {}

    def add(self, _moment: float, counts: Mapping[str, float]) -> None:
        """Take readings of the counters, in joules."""
        for name, now in counts.items():
            if name in self._before:
                used = now - self._before[name]
                if used < 0:
                    used += self._ranges.get(name, 0.0)
                # One without a range that fell was reset: what it counted before that is lost.
                self.joules[name] = self.joules.get(name, 0.0) + max(used, 0.0)
            self._before[name] = now


class Source(Protocol):
    """Something that measures power or counts energy."""

    name: str
    scope: str
    """Of what, such as 'the whole board'."""

    @property
    def interval(self) -> float:
        """Seconds between two readings."""

    def open(self) -> bool:
        """Make it ready; False where it does not answer."""

    def close(self) -> None:
        """Let go of it."""

    def read(self) -> dict[str, float]:
        """Watts now, or joules since some moment, by rail; empty where nothing was told."""

    def sum(self) -> Energy | Counted:
        """What adds its readings up, from nothing."""

    def total(self, parts: Mapping[str, float]) -> float | None:
        """The whole of what it measured, of its rails."""


class Meter:
    """The energy that was used inside `with`.

    Where power is measured, a thread of its own reads it ten times a second. After the `with` the figures
    stay; another `with` begins again from nothing.

    Args:
        source: what measures.
        clock: tells seconds.

    Attributes:
        source: 'ina3221', 'tegrastats', 'rapl' or 'nvml'.
        scope: what it measures, such as 'the whole board': figures of two machines differ by it too.
        idle: watts at rest, as `measure_idle` found them; None before.
    """

    def __init__(self, source: Source, clock: Callable[[], float] = time.monotonic) -> None:
        self.source = source.name
        self.scope = source.scope
        self.idle: float | None = None
        self._from = source
        self._clock = clock
        self._sum: Energy | Counted = source.sum()
        self._begin = self._end = 0.0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Meter:
        self._done.clear()
        self._from.open()
        self._sum = self._from.sum()
        self._read()
        self._begin = self._end
        self._thread = threading.Thread(target=self._keep_reading, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        self._read()
        self._from.close()

    @property
    def seconds(self) -> float:
        """How long was measured."""
        return self._end - self._begin

    @property
    def joules(self) -> float | None:
        """Energy of the whole, never of a total and its parts added; None where nothing was told."""
        return self._from.total(self._sum.joules) if self.seconds > 0 else None

    @property
    def watts(self) -> float | None:
        """Mean power of the whole; None where nothing was told."""
        joules = self.joules
        return None if joules is None else joules / self.seconds

    @property
    def above_idle(self) -> float | None:
        """Joules beyond what it takes at rest; None before `measure_idle`; noise can make it negative."""
        joules = self.joules
        return None if joules is None or self.idle is None else joules - self.idle * self.seconds

    @property
    def rails(self) -> dict[str, float]:
        """Mean watts by rail: the whole as well as its parts, so they are not to be added."""
        seconds = self.seconds
        return {name: joules / seconds for name, joules in self._sum.joules.items()} if seconds > 0 else {}

    def measure_idle(
        self, seconds: float = 2.0, sleep: Callable[[float], object] = time.sleep
    ) -> float | None:
        """Measure what the machine takes while this program does nothing, before there is work.

        Args:
            seconds: how long.
            sleep: waits so many seconds.

        Returns:
            Watts, which `idle` then is too.
        """
        with self:
            sleep(seconds)
        self.idle = self.watts
        return self.idle

    def _keep_reading(self) -> None:
        while not self._done.wait(self._from.interval):
            self._read()

    def _read(self) -> None:
        told = self._from.read()
        self._end = self._clock()
        self._sum.add(self._end, told)


def energy_meter(root: Path = ROOT, *, gpu: bool = False) -> Meter | None:
    """What measures energy here, the best first.

    A Jetson's own power monitors (INA3221), read from the kernel or else through tegrastats; of other
    machines the counters of an x86 processor (RAPL) or of an NVIDIA GPU (NVML).

    Args:
        root: the folder that holds /sys and /usr.
        gpu: whether the work is done on an NVIDIA GPU: NVML is then asked before RAPL.

    Returns:
        None where nothing measures; `why_no_meter` says why.
    """
    for made in _sources(root, gpu):
        if not isinstance(made, str):
            return Meter(made)
    return None


def why_no_meter(root: Path = ROOT) -> tuple[str, ...]:
    """Of each source of energy that cannot be used here, why not.

    Args:
        root: as for `energy_meter`.
    """
    return tuple(made for made in _sources(root, gpu=False) if isinstance(made, str))


def _sources(root: Path, gpu: bool) -> Iterator[Source | str]:
    """Each source, or a sentence why it is none, made when it is asked for."""
    yield _ina3221(root)
    yield _tegrastats(root)
    if gpu:
        yield _nvml()
    yield _rapl(root)
    if not gpu:
        yield _nvml()


# --- a Jetson's power monitors


class _Rails:
    """Rails of a Jetson, as the kernel tells them."""

    name = "ina3221"
    scope = _MODULE
    interval = INTERVAL

    def __init__(self, root: Path) -> None:
        self._files = rails(root)  # found once: a reading is to cost what is measured little

    def open(self) -> bool:
        names = _making_up(self.read())
        self.scope = _WHOLE.get(names, self.scope)
        return bool(names)

    def close(self) -> None:
        """Nothing is held."""

    def read(self) -> dict[str, float]:
        told = {name: watts(files) for name, files in self._files.items()}
        return {name: power for name, power in told.items() if power is not None}

    def sum(self) -> Energy:
        return Energy()

    def total(self, parts: Mapping[str, float]) -> float | None:
        return whole(parts)


class _ToldRails(_Rails):
    """Rails of a Jetson, as its tegrastats prints them."""

    name = "tegrastats"

    def __init__(self, tool: Path) -> None:
        self._tool = Tegrastats(tool, INTERVAL)

    def open(self) -> bool:
        return self._tool.start() and super().open()

    def close(self) -> None:
        self._tool.stop()

    def read(self) -> dict[str, float]:
        said = self._tool.newest
        return dict(said.rails) if said else {}


def _ina3221(root: Path) -> Source | str:
    source = _Rails(root)
    if source.open():
        return source
    names = ", ".join(source.read())
    if names:
        return f"INA3221: of the rails {names} it is not known which make up the whole board"
    return "INA3221: no power monitor that can be read; only a Jetson has them"


def _tegrastats(root: Path) -> Source | str:
    tool = root / "usr/bin/tegrastats"
    if not tool.is_file():
        return f"tegrastats: there is no {tool}; only a Jetson has it"
    source = _ToldRails(tool)
    answers = source.open()
    source.close()
    return source if answers else f"tegrastats: {tool} prints no power of the whole board"


# --- counters of an x86 processor


class _Rapl:
    """Energy of the packages of a processor; what lies inside a package is not asked for."""

    name = "rapl"
    scope = "the processor alone: no GPU, disk or power supply"
    interval = INTERVAL_OF_COUNTERS

    def __init__(self, packages: Mapping[str, Path]) -> None:
        self._packages = packages

    def open(self) -> bool:
        return bool(self.read())

    def close(self) -> None:
        """Nothing is held."""

    def read(self) -> dict[str, float]:
        counts = {name: number(folder / "energy_uj") for name, folder in self._packages.items()}
        return {name: count / 1e6 for name, count in counts.items() if count is not None}

    def sum(self) -> Counted:
        ranges = {name: number(folder / "max_energy_range_uj") for name, folder in self._packages.items()}
        return Counted({name: full / 1e6 for name, full in ranges.items() if full is not None})

    def total(self, parts: Mapping[str, float]) -> float | None:
        return sum(parts.values()) if parts else None


def _rapl(root: Path) -> Source | str:
    zones = {text(zone / "name"): zone for zone in found(root, "sys/class/powercap/intel-rapl:*")}
    packages = {name: zone for name, zone in zones.items() if name.startswith("package")}
    if not packages:
        return "RAPL: this system counts no energy of its processor, as in most virtual machines"
    source = _Rapl(packages)
    if source.open():
        return source
    first = next(iter(packages.values()))
    return f"RAPL: {first / 'energy_uj'} is for root alone (CVE-2020-8694); run as root, or let it be read"


# --- an NVIDIA GPU, through the library of its driver


class _Nvml:
    """The first NVIDIA GPU: its counter of energy, or its power where it has no counter.

    Args:
        library: libnvidia-ml.
    """

    name = "nvml"
    scope = "the GPU alone: no processor, disk or power supply"

    def __init__(self, library: Any) -> None:
        self._library = library
        self._device = ctypes.c_void_p()
        self._counts = True
        self._rail = "GPU 0"

    @property
    def interval(self) -> float:
        return INTERVAL_OF_COUNTERS if self._counts else INTERVAL

    def open(self) -> bool:
        if self._library.nvmlInit_v2() != 0:
            return False
        if self._library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(0), ctypes.byref(self._device)) != 0:
            self.close()
            return False
        self._counts = self._millijoules() is not None
        if not self.read():
            self.close()
            return False
        return True

    def close(self) -> None:
        self._library.nvmlShutdown()

    def read(self) -> dict[str, float]:
        told = self._millijoules() if self._counts else self._milliwatts()
        return {} if told is None else {self._rail: told / 1000}

    def sum(self) -> Energy | Counted:
        return Counted({}) if self._counts else Energy()

    def total(self, parts: Mapping[str, float]) -> float | None:
        return parts.get(self._rail)

    def _millijoules(self) -> int | None:
        value = ctypes.c_ulonglong()
        call = self._library.nvmlDeviceGetTotalEnergyConsumption  # Volta and later
        return int(value.value) if call(self._device, ctypes.byref(value)) == 0 else None

    def _milliwatts(self) -> int | None:
        value = ctypes.c_uint()
        failed = self._library.nvmlDeviceGetPowerUsage(self._device, ctypes.byref(value))
        return None if failed else int(value.value)


def _nvml() -> Source | str:
    library = _load_nvml()
    if library is None:
        return "NVML: there is no libnvidia-ml.so.1, which comes with NVIDIA's driver"
    source = _Nvml(library)
    try:
        answers = source.open()
        if answers:
            source.close()
    except AttributeError as error:  # a library so old, or so cut down, that it lacks a call
        return f"NVML: {error}"
    return source if answers else "NVML: no NVIDIA GPU here tells its energy or its power"


def _load_nvml() -> Any:
    try:
        return ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
