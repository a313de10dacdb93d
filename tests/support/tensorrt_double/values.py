"""Loggers, shapes, memory and the other values that the library passes about."""

from __future__ import annotations

import sys
from typing import Any


def make(trt: Any, name: str, **state: Any) -> Any:
    """Make an object that the library makes itself, with `state` as its own attributes."""
    cls = getattr(trt, name)
    made = cls.__new__(cls, *(state.pop("_new", ())))
    object.__setattr__(made, "_begun", True)
    for key, value in state.items():
        object.__setattr__(made, key, value)
    return made


def say(logger: Any, severity: str, text: str) -> None:
    """Log `text` through the logger that the user gave."""
    logger.log(getattr(type(logger).Severity, severity), text)


class ILogger:
    """A logger that a user derives; the library calls `log`."""

    def __init__(self) -> None: ...

    def log(self, severity: Any, msg: str) -> None:
        raise RuntimeError('Tried to call pure virtual function "nvinfer1::ILogger::log"')


class Logger:
    """The library's own logger, to standard error."""

    def __init__(self, min_severity: Any = None) -> None:
        self._least = min_severity or self._trt.Logger.WARNING

    @property
    def min_severity(self) -> Any:
        return self._least

    @min_severity.setter
    def min_severity(self, value: Any) -> None:
        self._least = value

    def log(self, severity: Any, msg: str) -> None:
        if int(severity) <= int(self._least):
            letter = {"INTERNAL_ERROR": "F"}.get(severity.name, severity.name[0])
            print(f"[TRT] [{letter}] {msg}", file=sys.stderr)


class IProgressMonitor:
    """A monitor that a user derives; the library calls its three methods."""

    def __init__(self) -> None: ...

    def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None: ...

    def phase_finish(self, phase_name: str) -> None: ...

    def step_complete(self, phase_name: str, step: int) -> bool:
        return True


class Dims:
    """A shape: a sequence of sizes, -1 where it is free."""

    def __init__(self, shape: Any = ()) -> None:
        self._sizes = [int(size) for size in shape]

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: Any) -> Any:
        return tuple(self._sizes[index]) if isinstance(index, slice) else self._sizes[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._sizes[index] = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (tuple, list, self._trt.Dims)) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(tuple(self._sizes))

    def __repr__(self) -> str:
        return str(tuple(self._sizes))

    @property
    def MAX_DIMS(self) -> int:
        return 8


def _refuse(name: str) -> Any:
    def refuse(self: Any, *given: Any) -> Any:
        raise TypeError(f"object of type 'tensorrt.tensorrt.IHostMemory' has no {name}")

    return refuse


class IHostMemory(bytes):
    """Memory that the library made: readable through the buffer protocol alone.

    A class in Python can offer a buffer only when it derives from one that does, so this is a `bytes` whose
    other behaviour is taken away.
    """

    __len__ = _refuse("len()")
    __getitem__ = _refuse("item")
    __iter__ = _refuse("iterator")
    __add__ = _refuse("sum")
    __contains__ = _refuse("item")
    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name not in ("dtype", "nbytes"):
            raise AttributeError(f"'tensorrt.tensorrt.IHostMemory' object has no attribute {name!r}")
        return object.__getattribute__(self, name)

    @property
    def nbytes(self) -> int:
        return bytes.__len__(self)

    @property
    def dtype(self) -> Any:
        return self._trt.DataType.INT8


def host_memory(trt: Any, data: bytes) -> Any:
    return make(trt, "IHostMemory", _new=(data,))


class DataType:
    """What the package adds to the enumeration of types."""

    itemsize = property(lambda self: _SIZES.get(self.name))


_SIZES = {
    "FLOAT": 4,
    "HALF": 2,
    "BF16": 2,
    "INT8": 1,
    "INT32": 4,
    "INT64": 8,
    "BOOL": 1,
    "UINT8": 1,
    "FP8": 1,
}
_SIZES |= {"INT4": 0.5, "FP4": 0.5}
