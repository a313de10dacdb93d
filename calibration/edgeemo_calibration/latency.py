"""Whether INT8 is faster than FP32 on this machine, by calls that take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeemo.inference.choice import example
from edgeemo.inference.graph import Graph

from .gate import Floats, Interval, interval, resampled

LEVEL = 0.99
"""Of an interval: it is looked at up to five times, and 99 % each time leaves 95 % for all of them."""

LEAST, MOST = 200, 3200
"""Rounds until the first look, and until the last; each has twice the rounds of the one before."""

LIMIT = 60.0
"""Seconds after which no more rounds are begun, but for those until the first look."""

_WARM_UP = 10
_DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Timing:
    """What one graph, or one update, takes.

    Attributes:
        graph: its name; 'update' for all of them.
        encodings: of the files that ran as FP32 and as INT8; one file may be both.
        fp32: median in milliseconds.
        int8: the same.
        ratio: INT8 over FP32, with its 99 % bootstrap interval over the rounds.
    """

    graph: str
    encodings: tuple[str, str]
    fp32: float
    int8: float
    ratio: Interval


@dataclass(frozen=True, slots=True)
class Latency:
    """What was measured, one thread.

    Attributes:
        rounds: each calls every graph once in either precision.
        update: one update with one face, the sum of the graphs' medians; a graph that runs every n hops
            counts by one n-th.
        graphs: one after another.
    """

    rounds: int
    update: Timing
    graphs: tuple[Timing, ...]


def measure(
    fp32: Mapping[str, Graph],
    int8: Mapping[str, Graph],
    *,
    limit: float = LIMIT,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Time both in turns, until it is clear which is faster.

    One update in FP32 and one in INT8 take turns, so that whatever else the machine does falls on both, and
    each call finds the caches as the other update left them. After 200, 400, ... rounds the interval of
    the ratio of the medians is made; when it does not hold 1, or at the limit, that is the result. So noise
    costs time and does not change a verdict: two that are about equal are told so.

    Args:
        fp32: opened graphs by name.
        int8: the same of the other precision.
        limit: seconds.
        seed: of the bootstrap.
        clock: seconds, monotonic.

    Raises:
        BackendError: a graph failed.
    """
    feeds = [example(graph.spec) for graph in fp32.values()]
    updates = [list(zip((graphs[name] for name in fp32), feeds, strict=True)) for graphs in (fp32, int8)]
    for _ in range(_WARM_UP):
        _round(updates, clock)
    end = clock() + limit
    times: list[list[list[float]]] = []
    look = LEAST
    while True:
        while len(times) < look and (len(times) < LEAST or clock() < end):
            times.append(_round(updates, clock))
        found = _latency(np.array(times), fp32, int8, seed)
        clear = found.update.ratio.high < 1.0 or found.update.ratio.low > 1.0
        if clear or look >= MOST or clock() >= end:
            return found
        look *= 2


def _round(
    updates: Sequence[Sequence[tuple[Graph, Mapping[str, NDArray[np.generic]]]]], clock: Callable[[], float]
) -> list[list[float]]:
    """Milliseconds of each graph in an update of one precision, and in one of the other."""
    taken: list[list[float]] = []
    for update in updates:
        taken.append([])
        for graph, given in update:
            begin = clock()
            graph.run(given)
            taken[-1].append(1e3 * (clock() - begin))
    return taken


def _latency(times: Floats, fp32: Mapping[str, Graph], int8: Mapping[str, Graph], seed: int) -> Latency:
    """The medians of times ``[rounds, 2, graphs]``, and their sum."""
    times = times.swapaxes(1, 2).copy()
    for place, name in enumerate(fp32):
        if int8[name].encoding == fp32[name].encoding:  # one file, of which all calls count for both
            times[:, place] = times[:, place].mean(axis=1, keepdims=True)
    share = np.array([1 / graph.spec.every for graph in fp32.values()])
    value = np.median(times, axis=0)
    drawn = np.stack(
        [
            np.median(times[np.repeat(np.arange(len(times)), row)], axis=0)
            for counts in resampled(len(times), _DRAWS, seed)
            for row in counts
        ]
    )
    graphs = [
        _timing(name, (fp32[name].encoding, int8[name].encoding), value[place], drawn[:, place])
        for place, name in enumerate(fp32)
    ]
    return Latency(
        len(times), _timing("update", ("fp32", "int8"), share @ value, share @ drawn), tuple(graphs)
    )


def _timing(name: str, encodings: tuple[str, str], value: Floats, drawn: Floats) -> Timing:
    """Of medians ``[2]`` and those of the bootstrap samples ``[draws, 2]``."""
    fp32, int8 = value.tolist()
    ratio = interval(int8 / fp32, drawn[:, 1] / drawn[:, 0], LEVEL)
    return Timing(name, encodings, fp32, int8, ratio)
