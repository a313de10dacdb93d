"""Which of two engines answers a graph sooner on this device, measured and remembered."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeemo.inference.engines import EngineKey, EngineStore, Stored
from edgeemo.inference.graph import Graph
from edgeemo.inference.spec import GraphSpec

TIE = 0.05
"""Share by which TensorRT must be faster to be taken. A smaller lead may be gone in the next measurement; and
ONNX Runtime needs no memory of the GPU, no context that can be lost, and leaves the GPU to others."""

_WARM_UP = 5
_LEAST = 7
_MOST = 200
_BUDGET = 0.6  # seconds, for both engines together


@dataclass(frozen=True)
class Choice:
    """What was measured of one graph.

    Args:
        tensorrt: median of one call in milliseconds.
        onnx: the same in ONNX Runtime.

    Example:
        >>> Choice(tensorrt=0.9, onnx=2.1).winner, Choice(tensorrt=0.98, onnx=1.0).winner
        ('tensorrt', 'onnx')
    """

    tensorrt: float
    onnx: float

    @property
    def winner(self) -> Literal["tensorrt", "onnx"]:
        """The faster one; ONNX Runtime where they are about equal."""
        return "tensorrt" if self.tensorrt < (1 - TIE) * self.onnx else "onnx"


@dataclass(frozen=True)
class Contest:
    """Two engines of one graph: what a measurement holds for.

    Args:
        key: TensorRT's engine.
        onnxruntime: ONNX Runtime, with its version.
        model: sha256 of the file that ONNX Runtime runs.
        threads: threads of one run in ONNX Runtime.
    """

    key: EngineKey
    onnxruntime: str
    model: str
    threads: int

    @property
    def name(self) -> str:
        """The name of the file that remembers it."""
        fields = [self.key.digest, self.onnxruntime, self.model, self.threads]
        return f"{self.key.name}.{hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:8]}.choice.json"


def recall(store: EngineStore, contest: Contest) -> Choice | None:
    """What was measured of a contest; None where nothing was, or nothing that can be used."""
    try:
        value = json.loads(store.read(contest.name))
        choice = Choice(tensorrt=value["tensorrt"], onnx=value["onnx"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    usable = all(isinstance(median, float) and 0 < median < math.inf for median in asdict(choice).values())
    return choice if usable else None


def record(store: EngineStore, contest: Contest, choice: Choice) -> None:
    """Remember a measurement, under the store's lock.

    Raises:
        OSError: it cannot be written.
    """
    value = {**asdict(choice), "onnxruntime": contest.onnxruntime, "threads": contest.threads}
    store.write(contest.name, json.dumps(value).encode())


def decide(
    store: EngineStore, contest: Contest, tensorrt: Graph, onnx: Graph, waiting: Callable[[], None]
) -> Choice:
    """Measure both and remember it beside TensorRT's engine, where that was kept.

    It holds the store's lock, so that no other process builds an engine meanwhile.

    Args:
        store: remembers it.
        contest: what the measurement is of.
        tensorrt: the graph in TensorRT.
        onnx: the same graph in ONNX Runtime.
        waiting: called once when another process holds the lock.

    Raises:
        BackendError: one of them failed.
    """
    with store.locked(waiting) as unwritable:
        choice = measure(tensorrt, onnx)
        if not unwritable and isinstance(store.find(contest.key), Stored):
            with contextlib.suppress(OSError):  # it is measured again at the next start
                record(store, contest, choice)
    return choice


def measure(tensorrt: Graph, onnx: Graph, clock: Callable[[], float] = time.perf_counter) -> Choice:
    """Time one call of each, for one face, after a warm-up.

    They take turns, so that a change of the clocks and whatever else the machine does falls on both; and the
    GPU waits between two calls, as it does in a stream.

    Args:
        tensorrt: the graph in TensorRT.
        onnx: the same graph in ONNX Runtime.
        clock: seconds, monotonic.

    Raises:
        BackendError: one of them failed.
    """
    feeds = example(tensorrt.spec)
    for _ in range(_WARM_UP):  # first calls capture graphs, allocate and wake clocks
        tensorrt.run(feeds)
        onnx.run(feeds)
    times: tuple[list[float], list[float]] = ([], [])
    end = clock() + _BUDGET
    while len(times[0]) < _LEAST or (len(times[0]) < _MOST and clock() < end):
        for graph, taken in zip((tensorrt, onnx), times, strict=True):
            start = clock()
            graph.run(feeds)
            taken.append(1e3 * (clock() - start))
    return Choice(*map(statistics.median, times))


def example(spec: GraphSpec, rows: int = 1) -> Mapping[str, NDArray[Any]]:
    """Feeds with values as pictures, sound and masks have them: no zeros, which may be fast.

    Args:
        spec: the graph that reads them.
        rows: faces, where the graph takes several.
    """
    random = np.random.default_rng(0)
    feeds: dict[str, NDArray[Any]] = {}
    for name, tensor in spec.inputs.items():
        shape = [axis if isinstance(axis, int) else rows for axis in tensor.shape]
        if tensor.dtype == "uint8":
            feeds[name] = random.integers(0, 256, shape, np.uint8)
        elif tensor.dtype == "int32":
            feeds[name] = np.ones(shape, np.int32)  # a token that every vocabulary has, and not [PAD]
        else:
            feeds[name] = random.random(shape, np.float32)
    return feeds
