"""Which operators of the trunk are worth their time in floating point."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeemo.errors import InputError
from edgeemo.inference.ort import import_onnxruntime

from .encode import CPU, encode
from .model import read_model
from .noise import finite, output_noise
from .probe import Feed, Feeds, repeatable
from .ranges import keep_floating
from .table import Table

TARGET_DB = 30.0
BUDGET = 0.1
ROUNDS, WARM_UP = 60, 3
SHORTEST_MS = 1e-4
"""Below the resolution of a clock: what keeps a gain for nothing from being infinite."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One operator that was left in floating point alone.

    Args:
        operator: the tensor that it writes.
        gain_db: what the outputs' signal-to-quantisation-noise ratio gains, in decibels.
        cost_ms: what a run takes longer, in milliseconds; below the noise floor it may be negative.
        per_ms: gain in decibels for each millisecond, the cost taken as the noise floor at least.
    """

    operator: str
    gain_db: float
    cost_ms: float
    per_ms: float


@dataclass(frozen=True, slots=True)
class Choice:
    """What stays in floating point, and what it is worth.

    Args:
        floating: the operators that were chosen, in the order of the graph.
        before_db: signal-to-quantisation-noise ratio of the worst output with none of them, in decibels.
        after_db: the same with all of them.
        before_ms: median time of a run with none of them, in milliseconds.
        after_ms: the same with all of them.
        floor_ms: noise floor of a difference of times: see `choose`.
        candidates: every operator; first what makes a run faster, then the best bargain.
    """

    floating: tuple[str, ...]
    before_db: float
    after_db: float
    before_ms: float
    after_ms: float
    floor_ms: float
    candidates: tuple[Candidate, ...]

    def to_dict(self) -> dict[str, Any]:
        """The choice as JSON can hold it, ratios without noise as null."""
        found: dict[str, Any] = finite(asdict(self))
        return found


def choose(
    model: str | Path,
    table: Table,
    feeds: Feeds,
    *,
    target_db: float = TARGET_DB,
    budget: float = BUDGET,
    rounds: int = ROUNDS,
    threads: int = 1,
) -> Choice:
    """Leave operators in floating point, the best bargain first, until the outputs are good or time is up.

    An operator's gain is that of the worst output's signal-to-quantisation-noise ratio when it alone stays in
    floating point. Its cost is the median difference of the times of a run of the CPU's encoding with and
    without it, on one sample, taken in turn so that what else the machine does hits all alike. The noise
    floor is how far a second session of the very same graph lies from the first, or two standard errors of
    that median where they are more: no cost counts as less. What brings nothing is never chosen; what brings
    something and makes the run faster by more than the floor always is. So may a stem: over a single channel
    INT8 saves less than its quantiser costs.

    Args:
        model: the FP32 file that the table was measured on.
        table: its ranges.
        feeds: recordings, which are read once for each operator and once for each that is chosen.
        target_db: stop when the worst output has this ratio, in decibels.
        budget: share of the time of a run that all of them may cost together.
        rounds: how often each graph is timed.
        threads: threads of the inference engine.

    Raises:
        InputError: the table is of another file, or the feeds cannot be read twice or hold nothing.
    """
    if not (target_db > 0.0 and budget >= 0.0 and rounds > 0):
        raise InputError(f"target {target_db} dB, budget {budget}, rounds {rounds}: each must be positive")
    again = repeatable(feeds, "the choice of what stays in floating point")
    source, _ = read_model(model)

    def ratio(names: Sequence[str]) -> float:
        return min(output_noise(model, keep_floating(source, table, names), again, threads).values())

    timed = _Timer(source, table, _sample(again()), rounds, threads)
    names = tuple(table.operators) if len(table.operators) > 1 else ()
    costs, floor, before_ms = timed.costs([(name,) for name in names])
    before_db = ratio(())
    found = [
        Candidate(name, gain, cost, gain / max(cost, floor))
        for name, cost in zip(names, costs, strict=True)
        for gain in (ratio((name,)) - before_db,)
    ]
    found.sort(key=lambda one: (one.cost_ms < -floor, one.per_ms), reverse=True)
    chosen: list[str] = []
    after_db, left = before_db, budget * before_ms
    for one in found:
        price = 0.0 if one.cost_ms < -floor else max(one.cost_ms, floor)
        pays = price == 0.0 or (after_db < target_db and price <= left)
        if pays and one.gain_db > 0.0 and len(chosen) < len(names) - 1:
            chosen.append(one.operator)
            after_db, left = ratio(chosen), left - price
    added, _, _ = timed.costs([tuple(chosen)])
    return Choice(
        floating=keep_floating(source, table, chosen).floating,
        before_db=before_db,
        after_db=after_db,
        before_ms=before_ms,
        after_ms=before_ms + added[0] if chosen else before_ms,
        floor_ms=floor,
        candidates=tuple(found),
    )


def _sample(feeds: Iterable[Feed]) -> dict[str, NDArray[Any]]:
    """The first sample of the first feed."""
    for feed in feeds:
        return {name: array[:1] if array.ndim else array for name, array in feed.items()}
    raise InputError("there is no calibration data; give at least one feed")


class _Timer:
    """Times variants of one graph against the graph itself."""

    def __init__(
        self, source: onnx.ModelProto, table: Table, sample: Feed, rounds: int, threads: int
    ) -> None:
        self.source, self.table, self.sample, self.rounds = source, table, dict(sample), rounds
        self._onnxruntime = import_onnxruntime()
        self._options = self._onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads

    def costs(self, variants: Sequence[tuple[str, ...]]) -> tuple[list[float], float, float]:
        """What each choice of floating operators adds to a run, the noise floor, and the run, all in ms."""
        sessions = [self._session(names) for names in ((), (), *variants)]
        times = np.array([self._round(sessions) for _ in range(self.rounds + WARM_UP)])[WARM_UP:]
        added = times[:, 1:] - times[:, :1]
        twin = added[:, 0]
        # The standard error of a median is 1.2533 of that of the mean, and a deviation 1.4826 of the median
        # absolute one, where the times are normal.
        deviation = 1.4826 * float(np.median(np.abs(twin - np.median(twin))))
        error = 1.2533 * deviation / math.sqrt(self.rounds)
        floor = max(abs(float(np.median(twin))), 2.0 * error, SHORTEST_MS)
        return np.median(added[:, 1:], axis=0).tolist(), floor, float(np.median(times[:, 0]))

    def _session(self, names: tuple[str, ...]) -> Any:
        model = encode(self.source, keep_floating(self.source, self.table, names), CPU)
        return self._onnxruntime.InferenceSession(
            model.SerializeToString(), self._options, providers=["CPUExecutionProvider"]
        )

    def _round(self, sessions: Sequence[Any]) -> list[float]:
        """One run of each, in milliseconds."""
        times = []
        for session in sessions:
            start = time.perf_counter()
            session.run(None, self.sample)
            times.append(1e3 * (time.perf_counter() - start))
        return times
