"""What a Jetson's `tegrastats` says of it: load, clocks, temperatures and power, a line at a time."""

from __future__ import annotations

import re
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_MEMORY = re.compile(r"\b(RAM|SWAP) (\d+)/(\d+)MB")
_CORES = re.compile(r"\bCPU \[([^\]]*)\](?:@(\d+))?")
_CORE = re.compile(r"(\d+)%(?:@(\d+))?")
_ENGINE = r"\b{}_FREQ (?=[\d@])(?:(\d+)%)?(?:@(?:\[([^\]]*)\]|(\d+)))?"
_EMC = re.compile(_ENGINE.format("EMC"))
# JetPack 5.0 gave the second cluster of the GPU a field of its own, GR3D2_FREQ.
_GPU = re.compile(_ENGINE.format(r"GR3D\d*"))
_TEMPERATURE = re.compile(r"\b([A-Za-z][\w-]*)@(-?\d+(?:\.\d+)?)C\b")
_RAIL = re.compile(r"\b([A-Z]\w*) (\d+)mW")
_NO_POWER = -100.0
"""Degrees below which a sensor says that it has no power (tegrastats prints -256)."""


@dataclass(frozen=True, slots=True)
class Core:
    """One core of the processor.

    Attributes:
        load: share of time that it worked, per cent; None for one that is off.
        clock: MHz; None for one that is off.
    """

    load: int | None
    clock: int | None


@dataclass(frozen=True, slots=True)
class Tegra:
    """One line of tegrastats; None or empty where the line does not say it.

    Attributes:
        ram: (used, there) as tegrastats prints them, in MiB.
        swap: the same of the swap space.
        cores: of the processor, in their order.
        emc_load: share of the memory's bandwidth that is used, per cent.
        emc_clock: of the memory, MHz.
        gpu_load: share of time that the GPU worked, per cent; a Thor does not say it.
        gpu_clocks: of each cluster of the GPU, MHz.
        temperatures: degrees Celsius by sensor, names in lower case ('cpu', 'gpu', 'tj', 'soc0').
        rails: watts now, by rail.
    """

    ram: tuple[int, int] | None = None
    swap: tuple[int, int] | None = None
    cores: tuple[Core, ...] = ()
    emc_load: int | None = None
    emc_clock: int | None = None
    gpu_load: int | None = None
    gpu_clocks: tuple[int, ...] = ()
    temperatures: dict[str, float] = field(default_factory=dict)
    rails: dict[str, float] = field(default_factory=dict)


def parse(line: str) -> Tegra | None:
    """Read one line, as Orin Nano, Orin NX, AGX Orin (JetPack 5 and 6) and Thor (JetPack 7) print it.

    Fields that are not known are skipped. Of a rail or a temperature that comes with its mean or its peak
    ('4200mW/4100mW', '45C/50C') what counts is the first, which is now.

    Args:
        line: with or without the date in front.

    Returns:
        None for a line that is none of tegrastats.

    Example:
        >>> said = parse("RAM 2900/7620MB CPU [7%@1344,off] GR3D_FREQ 31%@[624] VDD_IN 5100mW/4900mW")
        >>> said.cores, said.gpu_clocks, said.rails
        ((Core(load=7, clock=1344), Core(load=None, clock=None)), (624,), {'VDD_IN': 5.1})
    """
    memory = {name: (int(used), int(there)) for name, used, there in _MEMORY.findall(line)}
    cores = _CORES.search(line)
    if not memory and cores is None:
        return None
    emc_load, emc_clocks = _engine(_EMC, line)
    gpu_load, gpu_clocks = _engine(_GPU, line)
    degrees = {name.lower(): float(value) for name, value in _TEMPERATURE.findall(line)}
    return Tegra(
        ram=memory.get("RAM"),
        swap=memory.get("SWAP"),
        cores=_cores(cores) if cores else (),
        emc_load=emc_load,
        emc_clock=emc_clocks[0] if emc_clocks else None,
        gpu_load=gpu_load,
        gpu_clocks=tuple(gpu_clocks),
        temperatures={name: value for name, value in degrees.items() if value > _NO_POWER},
        rails={name: int(value) / 1000 for name, value in _RAIL.findall(line) if name != "NC"},
    )


class Tegrastats:
    """The running tool; `newest` is what it said last.

    Args:
        tool: the program.
        interval: seconds between two lines.
    """

    def __init__(self, tool: Path, interval: float = 0.1) -> None:
        self._command = [str(tool), "--interval", str(round(1000 * interval))]
        self._process: subprocess.Popen[str] | None = None
        self._said = threading.Event()
        self.newest: Tegra | None = None

    def start(self, patience: float = 3.0) -> bool:
        """Start the tool and wait for its first line; False where it cannot run or says nothing."""
        self.newest = None
        self._said.clear()
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                errors="replace",
            )
        except OSError:
            return False
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        self._said.wait(patience)
        if self.newest is None:
            self.stop()
        return self.newest is not None

    def stop(self) -> None:
        """End the tool."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout, suppress(ValueError):
            for line in process.stdout:
                said = parse(line)
                if said is not None:
                    self.newest = said
                    self._said.set()
        self._said.set()  # a tool that ended is not waited for


def _cores(told: re.Match[str]) -> tuple[Core, ...]:
    """A Thor prints one clock for all cores, behind the bracket; others one for each."""
    listed, shared = told.groups()
    cores = []
    for entry in listed.split(","):
        core = _CORE.search(entry)
        clock = (core.group(2) or shared) if core else None
        cores.append(Core(int(core.group(1)) if core else None, int(clock) if clock else None))
    return tuple(cores)


def _engine(kind: re.Pattern[str], line: str) -> tuple[int | None, list[int]]:
    """Load in per cent of a field such as '31%@[624,624]', '31%@624', '@[624]' or '31%', and its clocks."""
    load, clocks = None, []
    for percent, several, one in kind.findall(line):
        load = int(percent) if percent and load is None else load
        clocks += [int(clock) for clock in re.findall(r"\d+", several or one)]
    return load, clocks
