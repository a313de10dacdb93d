"""Where quantisation loses most: the signal-to-quantisation-noise ratio of every tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeemo.errors import InputError

from .encode import CPU, encode, read_source, rounded
from .equalise import apply
from .probe import Feeds, once, values
from .table import STEPS, Table

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TensorNoise:
    """What quantisation does to the result of one operator.

    Args:
        tensor: the result, behind its ReLU if it has one.
        kind: ``Conv``, ``Gemm`` or ``MatMul``.
        sqnr_db: signal-to-quantisation-noise ratio of the quantised graph at this tensor, in decibels; all
            that went before is in it.
        rounding_db: what rounding this one tensor of the FP32 graph to steps of S8 would leave, in decibels.
        clipped: share of the FP32 graph's numbers here that lie beyond the last step of S8, in [0, 1]; where
            its zero point is 0, U8 goes on to twice that.
    """

    tensor: str
    kind: str
    sqnr_db: float
    rounding_db: float
    clipped: float


def tensor_noise(model: str | Path, table: Table, feeds: Feeds, threads: int = 1) -> list[TensorNoise]:
    """Compare the quantised graph with the FP32 one at the result of every quantised operator.

    What is compared is what the CPU's encoding says, Q and DQ by themselves, with the equalised FP32 graph.

    Args:
        model: the FP32 file that the table was measured on.
        table: its ranges.
        feeds: recordings.
        threads: threads of the inference engine.

    Returns:
        the worst first.

    Raises:
        InputError: the table is of another file, or there is no data.
    """
    source = read_source(model, table)
    kinds = {operator.result: operator.kind for operator in table.operators.values()}
    sums = _compare(source, table, feeds, list(kinds), threads)
    found = [
        TensorNoise(
            name, kinds[name], one.decibels(one.error), one.decibels(one.rounding), one.clipped / one.count
        )
        for name, one in sums.items()
    ]
    return sorted(found, key=lambda one: one.sqnr_db)


def output_noise(model: str | Path, table: Table, feeds: Feeds, threads: int = 1) -> dict[str, float]:
    """Signal-to-quantisation-noise ratio of every output of the graph, in decibels.

    Args and errors are those of `tensor_noise`.
    """
    source = read_source(model, table)
    names = [output.name for output in source.graph.output]
    sums = _compare(source, table, feeds, names, threads)
    return {name: one.decibels(one.error) for name, one in sums.items()}


def decibels(signal: float, noise: float) -> float:
    """The ratio of two sums of squares, infinite without noise.

    Example:
        >>> decibels(100.0, 1.0), decibels(1.0, 0.0)
        (20.0, inf)
    """
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def finite(value: Any) -> Any:
    """The same with None for what JSON has no number for: the ratio of a signal without noise.

    Example:
        >>> finite({"sqnr_db": (20.0, math.inf)})
        {'sqnr_db': [20.0, None]}
    """
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(slots=True)
class _Sums:
    """Sums of squares of one tensor over data."""

    signal: float = 0.0
    error: float = 0.0
    rounding: float = 0.0
    clipped: int = 0
    count: int = 0

    def add(self, expected: Array, found: Array, scale: float | None) -> None:
        self.signal += _square(expected)
        self.error += _square(expected - found)
        self.count += expected.size
        if scale is not None:
            steps = np.rint(expected / np.float32(scale))
            self.rounding += _square(expected - np.clip(steps, -STEPS, STEPS) * np.float32(scale))
            self.clipped += int((np.abs(steps) > STEPS).sum())

    def decibels(self, noise: float) -> float:
        return decibels(self.signal, noise)


def _square(array: Array) -> float:
    return float(np.square(array, dtype=np.float64).sum())


def _compare(
    source: onnx.ModelProto, table: Table, feeds: Feeds, names: list[str], threads: int
) -> Mapping[str, _Sums]:
    """Both graphs side by side, one feed at a time."""
    sums = {name: _Sums() for name in names}
    quantised = encode(source, table, CPU)
    tensors = [rounded(source.graph, table, name) for name in names]
    outputs = {output.name for output in source.graph.output}
    tensors = [name if name in outputs else tensor for name, tensor in zip(names, tensors, strict=True)]
    pair = (apply(source, table.equalisation), names, False), (quantised, tensors, True)
    runs = [
        values(graph, part, wanted, threads, exact)
        for part, (graph, wanted, exact) in zip(tee(once(feeds)), pair, strict=True)
    ]
    for (_, _, expected), (_, _, found) in zip(*runs, strict=True):
        for name, one, other in zip(names, expected, found, strict=True):
            known = table.activations.get(name)
            sums[name].add(one, other, known.scale if known else None)
    if not all(one.count for one in sums.values()):
        raise InputError("there is no data to compare on; give at least one feed")
    return sums
