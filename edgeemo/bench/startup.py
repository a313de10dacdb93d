"""How long it takes from nothing to the first emotion, and how much memory, in new processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from edgeemo import errors
from edgeemo.errors import EdgeEmoError, InputError

RUNS = 5
"""Processes that are measured, after one that is not: it lets the system read the files in."""

PHASES = ("import", "load", "first")
_TEXT = Path(__file__).with_name("first_emotion.py")


@dataclass(frozen=True)
class StartUp:
    """What a start costs while the system has the files in its cache; the first after a boot also reads them.

    Attributes:
        times: median milliseconds of 'import' (of edgeemo, with its public names and numpy), 'load' (of the
            bundle, with its engine), 'first' (from opening the source to its first emotion, with the
            detector) and 'total'; the start of Python itself is not in it.
        lowest: the same of the fastest process by its total.
        processor: median milliseconds of processor time, on all cores together; where it is far below the
            total, the process waited: for a disk, or while others computed.
        memory: median MB that are resident after each phase ('import', 'loaded', 'first'), after up to 100
            hops ('steady'), and at most ('peak'); None where the system does not tell.
        runs: how many processes were measured.
        compiled: modules of edgeemo that each process had to compile, as no bytecode of them is kept: none
            of an installed package, all where PYTHONDONTWRITEBYTECODE is set.
    """

    times: Mapping[str, float]
    lowest: Mapping[str, float]
    processor: float
    memory: Mapping[str, float | None]
    runs: int
    compiled: int

    def to_dict(self) -> dict[str, Any]:
        """The times as a report holds them; the memory has a place of its own there."""
        return {
            **self.times,
            "lowest": dict(self.lowest),
            "processor": self.processor,
            "runs": self.runs,
            "compiled": self.compiled,
        }

    def __str__(self) -> str:
        parts = " + ".join(f"{name} {self.times[name]:.0f}" for name in PHASES)
        line = (
            f"start-up: {parts} = {self.times['total']:.0f} ms (lowest {self.lowest['total']:.0f}, "
            f"processor {self.processor:.0f}; {self.runs} processes, files cached)"
        )
        if self.compiled:
            line += f"; {self.compiled} modules compiled each time, as their bytecode is not kept"
        held = [f"{name} {value:.0f}" for name, value in self.memory.items() if value is not None]
        return f"{line}\nmemory: {', '.join(held)} MB" if held else line


def start_up(
    bundle: str | os.PathLike[str] | None,
    source: str | os.PathLike[str],
    *,
    backend: str = "auto",
    precision: str = "int8",
    threads: int = 1,
    detector: str | os.PathLike[str] | None = None,
    runs: int = RUNS,
) -> StartUp:
    """Start new processes that load a bundle and answer a source, one after the other.

    They get this process's environment and find the same modules. An engine that is not kept is built in the
    first, which is not measured.

    Args:
        bundle: its folder; None for the one in the package.
        source: a video, a sound file or a picture.
        backend: as for `load`.
        precision: as for `load`.
        threads: as for `load`.
        detector: as for `load`.
        runs: how many are measured, at least 1.

    Raises:
        InputError: `runs` is below 1, or the source has no hop.
        EdgeEmoError: what a process raised, of the same class; or how it ended otherwise.
    """
    if runs < 1:
        raise InputError(f"runs: {runs}; there must be 1 or more")
    arguments = [str(source), str(bundle or ""), backend, precision, str(threads), str(detector or "")]
    told = [_told(arguments) for _ in range(runs + 1)][1:]
    times = [_milliseconds(one["seconds"]) for one in told]
    return StartUp(
        times={name: round(median(one[name] for one in times), 2) for name in times[0]},
        lowest=min(times, key=lambda one: one["total"]),
        processor=round(median(1e3 * one["processor"] for one in told), 2),
        memory={name: _median([one["memory"][name] for one in told]) for name in told[0]["memory"]},
        runs=runs,
        compiled=told[-1]["compiled"],
    )


def _told(arguments: Sequence[str]) -> dict[str, Any]:
    """What one process says."""
    paths = os.pathsep.join(path for path in sys.path if isinstance(path, str))
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TEXT.read_text("utf-8"), paths, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:  # no memory for another one, or no interpreter to start
        raise EdgeEmoError(f"start-up: no process could be started: {error}; leave it out") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise EdgeEmoError(
            f"start-up: the process that was measured ended with status {done.returncode}"
            f"{f': {said[-1]}' if said else ''}"
        )
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in told:
        name, message = told["error"]
        raise getattr(errors, name)(message)
    return told


def _milliseconds(seconds: Mapping[str, float]) -> dict[str, float]:
    times = {name: round(1e3 * seconds[name], 2) for name in PHASES}
    return {**times, "total": round(1e3 * sum(seconds.values()), 2)}


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(median(known), 1) if known else None
