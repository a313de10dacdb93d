"""How fast this machine multiplies matrices: the rate that no graph on it can pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeemo.errors import BackendError
from edgeemo.inference.ort import import_onnxruntime, open_session

_GRAPHS = {precision: Path(__file__).with_name(f"product.{precision}.onnx") for precision in ("int8", "fp32")}
CUBES = (256, 512, 1024, 2048)
"""Sides of the matrices, ascending. The largest has the least overhead, the smallest stays in a cache, as the
products of a small graph do, and in the slice of time that a busy processor gives it: each has been the
fastest somewhere, and the fastest is the bound."""

SECONDS = 1.0
"""For one precision."""

_ROUNDS = 3  # of the smallest cube at least, however slow the machine


def matrix_rate(
    threads: int = 1,
    *,
    seconds: float = SECONDS,
    cubes: Sequence[int] = CUBES,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Measure the best rate of matrix products in ONNX Runtime, on the CPU.

    Args:
        threads: threads of one product, as the graphs have that it is compared with.
        seconds: for each precision; where that is short or the machine slow, large cubes are left out.
        cubes: sides of the square matrices, ascending.
        clock: seconds, monotonic.

    Returns:
        by precision, 'int8' (U8 by S8, summed in 32 bits) and 'fp32', 10^9 multiply-adds a second.

    Raises:
        BackendError: ONNX Runtime is missing, or could not multiply.
        InputError: `threads` is not a whole number of at least 1.
    """
    return {
        precision: best_rate(_Product(precision, threads, cubes[-1]).run, seconds, cubes, clock) / 1e9
        for precision in _GRAPHS
    }


def best_rate(
    run: Callable[[int], object], seconds: float, cubes: Sequence[int], clock: Callable[[], float]
) -> float:
    """The best rate that a product got with any cube, in multiply-adds a second.

    Args:
        run: multiplies two square matrices of a side.
        seconds: to spend; a cube that would not fit into what is left is not begun, but for the smallest,
            which has some runs in any case.
        cubes: sides, ascending.
        clock: seconds, monotonic.
    """
    run(cubes[0])  # the first wakes the threads and the clock of the processor
    end = clock() + seconds
    best = 0.0
    rounds = 0
    while rounds < _ROUNDS or clock() < end:
        for side in cubes:
            begin = clock()
            if side > cubes[0] and begin + side**3 / best > end:
                break
            run(side)
            best = max(best, side**3 / (clock() - begin))
        rounds += 1
    return best


class _Product:
    """The product of two square matrices of any side up to `most`, into memory that is there already."""

    def __init__(self, precision: str, threads: int, most: int) -> None:
        path = _GRAPHS[precision]
        self._session = open_session(path.read_bytes(), path.name, threads)
        random = np.random.default_rng(0)
        self._a: NDArray[Any]
        self._b: NDArray[Any]
        if precision == "int8":
            self._a = random.integers(0, 256, most * most, np.uint8)
            self._b = random.integers(-127, 128, most * most, np.int8)
        else:
            self._a = random.random(most * most, np.float32)
            self._b = random.random(most * most, np.float32)
        self._product = np.zeros(most * most, np.int32 if precision == "int8" else np.float32)
        self._bound: dict[int, Any] = {}

    def run(self, side: int) -> None:
        binding = self._bound.get(side) or self._bind(side)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's errors have no common class of their own
            raise BackendError(f"the product of two matrices of {side}x{side} failed: {error}") from error

    def _bind(self, side: int) -> Any:
        value = import_onnxruntime().OrtValue.ortvalue_from_numpy
        a, b, product = (
            flat[: side * side].reshape(side, side) for flat in (self._a, self._b, self._product)
        )
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("a", value(a))
        binding.bind_ortvalue_input("b", value(b))
        binding.bind_ortvalue_output("product", value(product))
        self._bound[side] = binding
        return binding
