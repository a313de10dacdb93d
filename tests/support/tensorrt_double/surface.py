"""What one version of the real module offers, and whether a call fits it.

The committed surface says every signature as pybind11 prints it; `Overload` reads one and binds a call to it
by the rules of pybind11: by position or name, no extra arguments, and each value of the kind that is named.
"""

from __future__ import annotations

import functools
import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from tests.support.real_tensorrt import SURFACES, split


@functools.cache
def load_surface(version: str) -> dict[str, Any]:
    """Read the committed surface of `version`; nobody changes it."""
    surface: dict[str, Any] = json.loads((SURFACES / f"{version}.json").read_text("utf-8"))
    return surface


@dataclass(frozen=True)
class Argument:
    """One argument of a signature; `kind` is the type as text."""

    name: str
    kind: str
    optional: bool


@dataclass(frozen=True)
class Overload:
    """One signature of a function."""

    text: str
    arguments: tuple[Argument, ...]
    answer: str
    anything: bool = False

    @staticmethod
    @functools.cache
    def read(text: str) -> Overload:
        """Read a signature of the committed surface."""
        inside, _, answer = text.rpartition(" -> ") if " -> " in text else (text, "", "?")
        arguments = []
        for part in split(inside[1:-1]):
            left, default, _ = part.partition(" = ")
            name, _, kind = left.partition(": ")
            arguments.append(Argument(name, kind or "?", bool(default)))
        return Overload(text, tuple(arguments), answer, anything="*args" in inside)

    def bind(
        self, module: ModuleType, given: tuple[Any, ...], named: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """The arguments by name, None when the call does not fit."""
        if len(given) > len(self.arguments):
            return None
        bound = dict(zip((argument.name for argument in self.arguments), given, strict=False))
        for name, value in named.items():
            # pybind11 names what its author left unnamed arg0, arg1, ...: those bind by position alone.
            if name in bound or re.fullmatch(r"arg\d+", name):
                return None
            bound[name] = value
        known = {argument.name: argument for argument in self.arguments}
        if bound.keys() - known.keys():
            return None
        for name, argument in known.items():
            if name not in bound:
                if not argument.optional:
                    return None
            elif not fits(module, argument.kind, bound[name]) and not (
                argument.optional and bound[name] is None
            ):
                return None
        return bound


def fits(module: ModuleType, kind: str, value: Any) -> bool:
    """Whether pybind11 takes `value` for an argument of `kind`."""
    kind = _NAMES.sub("tensorrt.", kind)
    if kind in _PLAIN:
        return _PLAIN[kind](value)
    items = _LIST.fullmatch(kind)
    if items:
        return isinstance(value, (list, tuple)) and all(fits(module, items[1], item) for item in value)
    if kind.startswith("tensorrt."):
        wanted = module
        for name in kind.split(".")[1:]:
            wanted = getattr(wanted, _CALLED.get(name, name), None)
        if wanted is None:
            return True
        # A sequence of whole numbers becomes a Dims by itself.
        return isinstance(value, wanted) or (kind == "tensorrt.Dims" and _is_shape(value))
    return True


def _is_shape(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(_is_whole, value))


def _is_whole(value: Any) -> bool:
    """Whether some integer of C++ holds it."""
    return hasattr(value, "__index__") and -(2**63) <= operator.index(value) < 2**64


def _is_buffer(value: Any) -> bool:
    try:
        memoryview(value)
    except TypeError:
        return False
    return True


def _is_a(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


_NAMES = re.compile(r"(nvinfer1|nvonnxparser)::(v_\d_\d::)?")
_CALLED = {"IParserError": "ParserError", "IBuilder": "Builder", "IRuntime": "Runtime"}
_LIST = re.compile(r"(?:List|list|collections\.abc\.Sequence)\[(.*)\]")
_PLAIN: dict[str, Callable[[Any], bool]] = {
    "None": lambda value: value is None,
    "int": _is_whole,
    "typing.SupportsInt": _is_whole,
    "float": _is_a(int, float, np.floating),
    "typing.SupportsFloat": _is_a(int, float, np.floating),
    "bool": _is_a(bool, np.bool_),
    "str": _is_a(str),
    "bytes": _is_a(bytes),
    "tuple": _is_a(tuple),
    "list": _is_a(list),
    "buffer": _is_buffer,
    "Buffer": _is_buffer,
}
