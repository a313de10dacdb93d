"""What this process holds in memory: now, at most, how it grows, and what a step leaves behind."""

from __future__ import annotations

import gc
import math
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeemo.errors import InputError

LEVEL = 0.99
"""Confidence of the interval of a growth."""

_PROCESS = Path("/proc/self")
_PARTS = 20  # of a run whose medians a growth is found of: what is freed and taken again falls within one
_LEAST = 4  # parts that have an interval at this level


# --- now and at most


def resident(process: Path = _PROCESS) -> float | None:
    """Resident memory of this process in MB (1e6 bytes); None where the system does not tell.

    On Linux `VmRSS`, which the kernel sums up lazily: it may be some hundred kilobytes behind (proc(5)).

    Args:
        process: where the system tells of this process.
    """
    return _status(process, "VmRSS")


def peak(process: Path = _PROCESS) -> float | None:
    """The most that was resident at once since the start, or since `reset_peak`, in MB; None on Windows.

    On Linux `VmHWM`, elsewhere what getrusage(2) says.

    Args:
        process: where the system tells of this process.
    """
    told = _status(process, "VmHWM")
    if told is not None:
        return told
    try:
        import resource
    except ImportError:
        return None
    # macOS counts it in bytes, the others in kilobytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def reset_peak(process: Path = _PROCESS) -> bool:
    """Let the peak begin anew at what is resident now; False where the system cannot (proc(5), clear_refs).

    Args:
        process: where the system tells of this process.
    """
    try:
        (process / "clear_refs").write_text("5")
    except OSError:  # another system, or a container that mounts it read-only
        return False
    return True


def _status(process: Path, name: str) -> float | None:
    try:
        lines = (process / "status").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024 / 1e6
    return None


# --- growth


@dataclass(frozen=True)
class Growth:
    """How memory grew over a run.

    Attributes:
        per_hour: MB an hour.
        low: lower end of its interval; None where there are too few samples for one.
        high: upper end.
    """

    per_hour: float
    low: float | None
    high: float | None

    @property
    def leaks(self) -> bool:
        """Whether it surely grows: one step up, as when a buffer is made, is no growth."""
        return self.low is not None and self.low > 0

    def __str__(self) -> str:
        between = "" if self.low is None else f" ({LEVEL:.0%} between {self.low:+.2f} and {self.high:+.2f})"
        return f"{self.per_hour:+.2f} MB an hour{between}"


def growth(times: Sequence[float], sizes: Sequence[float]) -> Growth:
    """The slope of memory over time: the median of the slopes between all pairs of parts of the run.

    Each part is told by its median. The estimate and its interval are those of P. K. Sen, Estimates of the
    Regression Coefficient Based on Kendall's Tau, Journal of the American Statistical Association 63, 1968:
    single jumps do not move them, as they do the slope of least squares.

    Args:
        times: seconds, rising.
        sizes: MB at these times.

    Raises:
        InputError: there are fewer than two samples, or the times do not rise.

    Example:
        >>> growth(range(0, 7200, 60), [100 + 0.5 * (second / 3600) for second in range(0, 7200, 60)]).leaks
        True
        >>> growth([0, 1800, 3600], [100.0, 100.0, 101.0])
        Growth(per_hour=1.0, low=None, high=None)
    """
    import numpy as np

    moments, held = np.asarray(times, np.float64), np.asarray(sizes, np.float64)
    if len(moments) != len(held) or len(moments) < 2 or not (np.diff(moments) > 0).all():
        raise InputError(
            f"{len(moments)} times and {len(held)} sizes; there must be two or more of both, "
            "and times that rise"
        )
    parts = np.array_split(np.arange(len(moments)), min(_PARTS, len(moments)))
    hours = np.array([np.median(moments[part]) for part in parts]) / 3600
    levels = np.array([np.median(held[part]) for part in parts])
    first, second = np.triu_indices(len(parts), k=1)
    slopes = np.sort((levels[second] - levels[first]) / (hours[second] - hours[first]))
    low, high = _between(len(parts))
    return Growth(
        float(np.median(slopes)),
        None if low is None else float(slopes[low]),
        None if high is None else float(slopes[high]),
    )


def _between(parts: int) -> tuple[int | None, int | None]:
    """Places of the slopes, in order, between which the true one lies (Sen's equation 4.2, by the normal)."""
    from statistics import NormalDist

    pairs = parts * (parts - 1) // 2
    half = NormalDist().inv_cdf((1 + LEVEL) / 2) * math.sqrt(parts * (parts - 1) * (2 * parts + 5) / 18)
    low = math.floor((pairs - half) / 2)
    if parts < _LEAST or low < 1:
        return None, None
    return low - 1, pairs - low


# --- what a step leaves behind


@dataclass(frozen=True)
class Allocations:
    """What Python and numpy allocate in a step; not what ONNX Runtime and OpenCV do inside.

    Attributes:
        blocks: that a step leaves behind, on average over the steps.
        kept: bytes of them.
        temporary: bytes that are taken at once within a step, and freed: the median of the steps.
        places: where most of what is kept was allocated, as 'file:line', the largest first.
    """

    blocks: float
    kept: float
    temporary: float
    places: tuple[str, ...]


def allocations(step: Callable[[], object], *, steps: int = 500, warm_up: int = 500) -> Allocations:
    """Count what a step allocates. It runs under `tracemalloc`, which makes it several times slower.

    Python keeps some freed objects for later (its free lists), which fill over hundreds of steps: some tens
    of bytes a step are no loss yet.

    Args:
        step: one step, whose answer is let go.
        steps: how many are counted.
        warm_up: how many are made before, traced too: what they leave may be replaced later, and is no loss.

    Example:
        >>> held = []
        >>> found = allocations(lambda: held.append(bytes(1000)))
        >>> 1000 <= found.kept < 1100, round(found.blocks)
        (True, 1)
    """
    from statistics import median

    tracemalloc.start()
    try:
        for _ in range(warm_up):
            step()
        before = _snapshot()
        temporary = [_temporary(step) for _ in range(steps)]
        after = _snapshot()
    finally:
        tracemalloc.stop()
    own = [tracemalloc.Filter(False, name) for name in (tracemalloc.__file__, __file__)]
    changes = after.filter_traces(own).compare_to(before.filter_traces(own), "lineno")
    growing = sorted((change for change in changes if change.size_diff > 0), key=lambda one: -one.size_diff)
    return Allocations(
        blocks=sum(change.count_diff for change in changes) / steps,
        kept=sum(change.size_diff for change in changes) / steps,
        temporary=median(temporary),
        places=tuple(str(change.traceback[0]) for change in growing[:3]),
    )


def _snapshot() -> tracemalloc.Snapshot:
    gc.collect()  # what refers to itself is freed some steps later, and no loss
    return tracemalloc.take_snapshot()


def _temporary(step: Callable[[], object]) -> int:
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    step()
    return tracemalloc.get_traced_memory()[1] - before
