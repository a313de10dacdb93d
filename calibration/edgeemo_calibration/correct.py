"""Bias correction: what rounding shifts on average is given back to the biases.

Nagel et al. (2019), Data-Free Quantization Through Weight Equalization and Bias Correction, arXiv 1906.04721.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from .encode import CPU, encode, raw
from .equalise import apply, channel_axis
from .probe import Feed, values
from .table import Table, shortest

Array = NDArray[np.float64]


def corrections(
    model: onnx.ModelProto, table: Table, feeds: Callable[[], Iterable[Feed]], threads: int = 1
) -> dict[str, tuple[float, ...]]:
    """What to add to the biases so that no channel's mean is shifted (Nagel et al., 2019, section 4.2).

    The empirical form: the mean over data of the FP32 result less the INT8 result, before the ReLU. Operators
    come in the order of the graph, each behind those that are corrected already, so that none answers for the
    shift of another. That is one pass over the data for each operator.

    Args:
        model: the FP32 graph, as it is before equalisation.
        table: its ranges; corrections that it has are not looked at.
        feeds: called for each pass over the data.
        threads: threads of the inference engine.

    Returns:
        the corrections by the tensor that an operator writes. A MatMul has no bias and gets none.
    """
    nodes = {name: node for node in model.graph.node for name in node.output}
    axes = {name: channel_axis(nodes[name]) for name in table.operators if nodes[name].op_type != "MatMul"}
    expected = _means(apply(model, table.equalisation), feeds(), axes, threads)
    found: dict[str, tuple[float, ...]] = {}
    for name in axes:
        quantised = encode(model, dataclasses.replace(table, corrections=found), CPU)
        tensor = raw(model.graph, table, name)
        (mean,) = _means(quantised, feeds(), {tensor: axes[name]}, threads, exact=True).values()
        found[name] = tuple(shortest(value) for value in expected[name] - mean)
    return found


def _means(
    model: onnx.ModelProto, feeds: Iterable[Feed], axes: Mapping[str, int], threads: int, exact: bool = False
) -> dict[str, Array]:
    """The mean of every channel of some tensors over data."""
    sums: dict[str, Array] = {}
    counts = dict.fromkeys(axes, 0)
    for _, _, arrays in values(model, feeds, list(axes), threads, exact):
        for (name, axis), array in zip(axes.items(), arrays, strict=True):
            channels = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
            sums[name] = sums.get(name, 0.0) + channels.sum(axis=1, dtype=np.float64)
            counts[name] += channels.shape[1]
    return {name: total / counts[name] for name, total in sums.items()}
