"""What was measured, as one readable JSON file: which operators are quantised and with which scales."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgeemo.errors import InputError

SCHEMA = 1
METHODS = ("min-max", "percentile", "mse")
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
        method: ``min-max``, ``percentile`` or ``mse``.
        percentile: share of the non-zero magnitudes that is kept, in percent; None with the other methods.
        samples: number of samples that were measured.
        data_sha256: digest of every sample, in order.
        model_sha256: digest of the FP32 file.
        activations: ranges of the tensors that are quantised, by tensor.
        weights: steps of the weights, by initialiser.
        operators: what runs in INT8, by the tensor that the operator writes.
        residuals: the input that comes by the skip path, by the tensor that the residual addition writes.

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

    def __post_init__(self) -> None:
        self._check_source()
        self._check_scales()
        self._check_names()

    def _check_source(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method {self.method!r} is unknown; it must be one of {', '.join(METHODS)}")
        if (self.percentile is not None) != (self.method == "percentile"):
            raise InputError(f"percentile is {self.percentile} with the method {self.method!r}")
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

    @property
    def digest(self) -> str:
        """The sha256 of what the table says as JSON with sorted keys and no spaces, in hexadecimal digits."""
        text = json.dumps(self._entries(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def _entries(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    def write(self, path: str | Path) -> None:
        """Write the table as indented JSON, with the scales of each weight on one line."""
        text = json.dumps(self._entries(), indent=1, allow_nan=False)
        flat = re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found.group().split()), text)
        Path(path).write_text(flat + "\n", encoding="utf-8")

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
        except ValueError as error:
            raise InputError(f"{path}: is not a JSON file: {error}") from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


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


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": _is_number,
    "float | None": lambda value: value is None or _is_number(value),
    "tuple[float, ...]": lambda value: isinstance(value, list) and all(map(_is_number, value)),
    "Mapping[str, str]": lambda value: (
        isinstance(value, dict) and all(isinstance(name, str) for name in value.values())
    ),
}
_SECTIONS: dict[str, type] = {"activations": Activation, "weights": Weight, "operators": Operator}

Entry = TypeVar("Entry")


def _from_json(found: Any) -> Table:
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise InputError(f'is not a table: it must be a JSON object with "schema": {SCHEMA}')
    values = {name: value for name, value in found.items() if name != "schema"}
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
            raise InputError(f"{place}: {name} must be {wanted}, not {found[name]!r}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})
