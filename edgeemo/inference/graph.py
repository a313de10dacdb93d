"""What every engine offers for one graph of a bundle, and the check of what goes into it and comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeemo.errors import BackendError
from edgeemo.inference.spec import GraphSpec, TensorSpec

_DTYPES = {"uint8": np.dtype(np.uint8), "int32": np.dtype(np.int32), "float32": np.dtype(np.float32)}


class Graph(Protocol):
    """One opened graph.

    Attributes:
        spec: the graph's entry in the manifest.
        encoding: the file it was opened from: 'fp32', 'fp16', 'int8' or 'int8-cpu'.
        engine: what runs it, with its version.
    """

    spec: GraphSpec
    encoding: str
    engine: str

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Compute the outputs for `feeds`; an engine may reuse them in its next run, so copy what you keep.

        Args:
            feeds: one array per input of `spec`, of its dtype and shape.

        Raises:
            BackendError: `feeds` do not fit the spec, or the engine failed.
        """
        ...

    def close(self) -> None:
        """Free the engine; a later `run` raises `BackendError`."""
        ...


def check_feeds(spec: GraphSpec, feeds: Mapping[str, NDArray[Any]]) -> None:
    """Check that `feeds` are what the graph reads: names, dtypes, shapes and one size for each symbol.

    Raises:
        BackendError: the message names the graph, the input, what it is and what it must be.

    Example:
        >>> face = TensorSpec("face", "uint8", ("N", 2, 2, 1))
        >>> spec = GraphSpec("f", "append", 1, {"face": face}, {}, {})
        >>> check_feeds(spec, {"face": np.zeros((3, 2, 2, 1), np.uint8)})
        >>> check_feeds(spec, {"face": np.zeros((3, 4, 1), np.uint8)})
        Traceback (most recent call last):
        ...
        edgeemo.errors.BackendError: graph 'f': input 'face' is uint8 [3, 4, 1]; it must be uint8 [N, 2, 2, 1]
    """
    wrong = mismatch(spec.inputs, feeds)
    if wrong:
        raise BackendError(f"graph {spec.name!r}: input {wrong}")


class FeedCheck:
    """`check_feeds` for one graph, which looks only once at feeds of the same names, types and shapes.

    A step gives a graph the same ones hop after hop, and a look takes as long as some operators.

    Args:
        spec: what feeds must be.
        most: the largest N; None for any.

    Example:
        >>> face = TensorSpec("face", "uint8", ("N", 2, 2, 1))
        >>> check = FeedCheck(GraphSpec("f", "append", 1, {"face": face}, {}, {}))
        >>> check({"face": np.zeros((3, 2, 2, 1), np.uint8)})
    """

    def __init__(self, spec: GraphSpec, most: int | None = None) -> None:
        self._spec, self._most = spec, most
        self._right: set[Any] = set()

    def __call__(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """As `check_feeds`.

        Raises:
            BackendError: the message names the graph, the input, what it is and what it must be.
        """
        try:
            seen = tuple((name, type(array), array.dtype, array.shape) for name, array in feeds.items())
        except AttributeError:  # not all of them are arrays
            seen = None
        if seen is None or seen not in self._right:
            check_feeds(self._spec, feeds)
            self._check_sizes(feeds)
            if len(self._right) < _REMEMBERED:
                self._right.add(seen)

    def _check_sizes(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        if self._most is None:
            return
        for tensor in self._spec.inputs.values():
            for axis, size in zip(tensor.shape, feeds[tensor.name].shape, strict=True):
                if isinstance(axis, str) and size > self._most:
                    raise BackendError(
                        f"graph {self._spec.name!r}: {axis} is {size}; it must be 1 to {self._most}"
                    )


_REMEMBERED = 64  # sets of feeds: one for each number of faces


def mismatch(specs: Mapping[str, TensorSpec], arrays: Mapping[str, NDArray[Any]]) -> str | None:
    """Say how `arrays` differ from `specs`, None when they do not."""
    if arrays.keys() != specs.keys():
        return f"names are {', '.join(arrays) or 'none'}; they must be {', '.join(specs)}"
    sizes: dict[str, int] = {}
    for name, spec in specs.items():
        array = arrays[name]
        if not isinstance(array, np.ndarray):
            return f"{name!r} is {type(array).__name__}; it must be an array, {spec}"
        if array.dtype != _DTYPES[spec.dtype] or array.ndim != len(spec.shape):
            return _differs(spec, array)
        for size, axis in zip(array.shape, spec.shape, strict=True):
            right = axis if isinstance(axis, int) else sizes.setdefault(axis, size)
            if size != right or size == 0:
                symbols = "".join(f", {symbol} = {number}" for symbol, number in sizes.items() if number)
                return _differs(spec, array) + symbols
    return None


def _differs(spec: TensorSpec, array: NDArray[Any]) -> str:
    return f"{spec.name!r} is {array.dtype} {list(array.shape)}; it must be {spec}"
