"""What was measured, as one readable JSON file: which operators are quantised and with which scales."""

from __future__ import annotations

import hashlib
import json
import math
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgeemo.errors import InputError

SCHEMA = 2
MEASURED = ("min-max", "percentile", "entropy", "mse")
METHODS = (*MEASURED, "trained")
STEPS = 127
"""Steps on either side of zero: a symmetric scale is the clipping point divided by this."""


@dataclass(frozen=True, slots=True)
class Activation:
    """The range of one tensor: its largest magnitude in the data, and the size of a step."""

    absmax: float
    scale: float


@dataclass(frozen=True, slots=True)
class Weight:
    """The sizes of the steps of one weight, one for each output channel along ``axis``."""

    axis: int
    scales: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Operator:
    """One quantised Conv, Gemm or MatMul; its ``result`` is the output behind its ReLU if it has one."""

    kind: str
    input: str
    weight: str
    result: str


@dataclass(frozen=True, slots=True)
class Table:
    """Symmetric ranges of one FP32 graph, from which every INT8 encoding is written.

    Args:
        method: ``min-max``, ``percentile``, ``entropy`` or ``mse``, or ``trained`` where quantisation-aware
            training gave the scales.
        percentile: share of the non-zero magnitudes that is kept, in percent; None with the other methods.
        samples: number of samples that were measured.
        data_sha256: digest of every sample, in order.
        model_sha256: digest of the FP32 file, as it is before equalisation.
        activations: ranges of the tensors that are quantised, by tensor.
        weights: steps of the weights, by initialiser.
        operators: what runs in INT8, by the tensor that the operator writes.
        residuals: the input that comes by the skip path, by the tensor that the residual addition writes.
        equalisation: divisors of the channels of a tensor between operators of the trunk, by that tensor: the
            operator that writes it is divided by them and those that read it are multiplied. All scales are
            those of the equalised graph.
        corrections: what is added to each channel of an operator's bias in INT8, by the tensor that the
            operator writes.
        floating: operators of the trunk that stay in floating point, by the tensor that each writes, in the
            order of the graph.

    Raises:
        InputError: an entry is not what it must be, or names another that is missing.
    """

    method: str
    percentile: float | None
    samples: int
    data_sha256: str
    model_sha256: str
    activations: Mapping[str, Activation]
    weights: Mapping[str, Weight]
    operators: Mapping[str, Operator]
    residuals: Mapping[str, str]
    equalisation: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    corrections: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    floating: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_source()
        self._check_scales()
        self._check_channels()
        self._check_names()

    def _check_source(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method {self.method!r} is unknown; it must be one of {', '.join(METHODS)}")
        if (self.percentile is not None) != (self.method == "percentile"):
            raise InputError(f"percentile is {self.percentile} with the method {self.method!r}")
        if self.percentile is not None and not 0.0 < self.percentile <= 100.0:
            raise InputError(f"percentile {self.percentile} is outside (0, 100]")
        if self.samples < 1:
            raise InputError(f"samples is {self.samples}; a table comes from at least one sample")
        for name in ("data_sha256", "model_sha256"):
            if not re.fullmatch("[0-9a-f]{64}", getattr(self, name)):
                raise InputError(f"{name} must be 64 hexadecimal digits, not {getattr(self, name)!r}")

    def _check_scales(self) -> None:
        for name, activation in self.activations.items():
            if not (_is_positive(activation.scale) and _is_positive(activation.absmax)):
                raise InputError(f"activation {name!r}: absmax and scale must be positive, not {activation}")
        for name, weight in self.weights.items():
            if not weight.scales or not all(map(_is_positive, weight.scales)):
                raise InputError(f"weight {name!r}: scales must be positive numbers, at least one")

    def _check_channels(self) -> None:
        for name, divisors in self.equalisation.items():
            if not divisors or not all(map(_is_positive, divisors)):
                raise InputError(f"equalisation {name!r}: divisors must be positive numbers, at least one")
        for name, added in self.corrections.items():
            if not added or not all(map(_is_finite, added)):
                raise InputError(f"corrections {name!r} must be finite numbers, at least one")

    def _check_names(self) -> None:
        if not self.operators:
            raise InputError("operators is empty; at least one operator must be quantised")
        for name, operator in self.operators.items():
            for known, wanted in (
                (self.activations, operator.input),
                (self.activations, operator.result),
                (self.weights, operator.weight),
            ):
                if wanted not in known:
                    raise InputError(f"operator {name!r} needs {wanted!r}, which has no scale")
        for name, skip in self.residuals.items():
            if skip not in self.activations:
                raise InputError(f"residual {name!r} needs {skip!r}, which has no scale")
        for name in self.corrections:
            if name not in self.operators:
                raise InputError(f"corrections {name!r}: no operator of this name is quantised")
        for name in self.floating:
            if name in self.operators:
                raise InputError(f"floating {name!r} is among the quantised operators too")

    @property
    def digest(self) -> str:
        """The sha256 of what the table says as JSON with sorted keys and no spaces, in hexadecimal digits.

        What came with schema 2 counts only where it says something: without, a table has the digest that it
        had in schema 1.
        """
        entries = self._entries()
        told = {name: value for name, value in entries.items() if value or name not in _SINCE_2}
        if told.keys() == entries.keys() - _SINCE_2:
            told["schema"] = 1
        text = json.dumps(told, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def _entries(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    def write(self, path: str | Path) -> None:
        """Write the table as indented JSON, with the scales of each weight on one line.

        Raises:
            OSError: it cannot be written; what was there before is then.
        """
        text = json.dumps(self._entries(), indent=1, allow_nan=False)
        flat = re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found.group().split()), text)
        write_whole(Path(path), flat + "\n")

    @classmethod
    def read(cls, path: str | Path) -> Table:
        """Read and check a table.

        Raises:
            InputError: the file is missing, is not JSON, is of another schema or holds wrong entries.
        """
        try:
            return _from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: is not a JSON file: {error}") from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


_SINCE_2 = {"equalisation", "corrections", "floating"}
"""Entries that schema 1 did not have."""


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole, or leave what is there.

    Raises:
        OSError: it cannot be written; the error names the path.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def shortest(value: float) -> float:
    """The number with the fewest decimal digits that is read back as the same FP32 value.

    Example:
        >>> shortest(2.9 / 127)
        0.022834646
    """
    return float(str(np.float32(value)))


def _is_positive(number: float) -> bool:
    """Whether a number is finite and positive in FP32 too, without being subnormal there."""
    limits = np.finfo(np.float32)
    return math.isfinite(number) and float(limits.tiny) <= number <= float(limits.max)


def _is_finite(number: float) -> bool:
    """Whether a number is finite in FP32 too."""
    return abs(number) <= float(np.finfo(np.float32).max)


def _is_number(value: Any) -> bool:
    # JSON has integers that no floating-point number can hold.
    small = not isinstance(value, int) or _is_finite(value)
    return isinstance(value, (int, float)) and not isinstance(value, bool) and small


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": _is_number,
    "float | None": lambda value: value is None or _is_number(value),
    "tuple[float, ...]": lambda value: isinstance(value, list) and all(map(_is_number, value)),
    "tuple[str, ...]": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    "Mapping[str, str]": lambda value: (
        isinstance(value, dict) and all(isinstance(name, str) for name in value.values())
    ),
    "Mapping[str, tuple[float, ...]]": lambda value: (
        isinstance(value, dict) and all(map(_CHECKS["tuple[float, ...]"], value.values()))
    ),
}
_SECTIONS: dict[str, type] = {"activations": Activation, "weights": Weight, "operators": Operator}

Entry = TypeVar("Entry")


def _from_json(found: Any) -> Table:
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema not in (1, SCHEMA) or isinstance(schema, bool):
        raise InputError(f'is not a table: it must be a JSON object with "schema": 1 or {SCHEMA}')
    values = {name: value for name, value in found.items() if name != "schema"}
    if schema == 1:
        values = {**{name: [] if name == "floating" else {} for name in _SINCE_2 - values.keys()}, **values}
    for section, kind in _SECTIONS.items():
        entries = values.get(section, {})
        if not isinstance(entries, dict):
            raise InputError(f"{section} must be an object of named entries")
        values[section] = {
            name: _entry(f"{section} {name!r}", kind, value) for name, value in entries.items()
        }
    return _entry("table", Table, values)


def _entry(place: str, kind: type[Entry], found: Any) -> Entry:
    """Build one dataclass from a JSON object that must have exactly its fields."""
    types = {field.name: str(field.type) for field in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(found, dict) or found.keys() != types.keys():
        raise InputError(f"{place} must have exactly the keys {', '.join(types)}")
    for name, wanted in types.items():
        if wanted in _CHECKS and not _CHECKS[wanted](found[name]):
            raise InputError(f"{place}: {name} must be {wanted}, not {reprlib.repr(found[name])}")
    return kind(**{name: _frozen(value) for name, value in found.items()})


def _frozen(value: Any) -> Any:
    """A JSON value with tuples for lists, down to one level of names."""
    if isinstance(value, dict):
        return {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}
    return tuple(value) if isinstance(value, list) else value
