"""The settings of a run: changed by name, and kept beside what was trained with them.

A recipe has one frozen dataclass ``Config``, whose fields are numbers, words, tuples of these, or such
dataclasses in turn. ``DEFAULTS`` is one of it, and ``train(..., config=DEFAULTS)`` reads from it whatever a
run can be set to; it begins with ``keep(config, folder)``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union

from edgeemo.errors import InputError, shown

from . import processes

C = TypeVar("C")
FILE = "config.json"


def override(config: C, assignments: Sequence[str]) -> C:
    """Settings with some of them changed.

    Args:
        config: a dataclass, which is left as it is.
        assignments: such as ``'schedule.epochs=5'``; the items of a tuple are separated by commas.

    Raises:
        InputError: there is no such setting, or the value is not of its type.

    Example:
        >>> from edgeemo_export.train import Schedule
        >>> override(Schedule(epochs=70), ["epochs=5", "rate=1e-3"])
        Schedule(epochs=5, rate=0.001, decay=0.05, warm=0.1, average=0.999, seed=0)
    """
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment}: it must be NAME=VALUE, such as schedule.epochs=5")
        config = _replaced(config, name.strip().split("."), text.strip(), assignment)
    return config


def refuse(what: str, config: Any, *rules: tuple[str, bool, str]) -> None:
    """Raise for the first setting that is out of its range.

    Args:
        what: the settings, as the message names them.
        config: these.
        rules: name of a setting, whether it is right, and what it must be.

    Raises:
        InputError: one is not right.
    """
    for name, right, range_ in rules:
        if not right:
            raise InputError(f"{what}: {name} {shown(getattr(config, name))}; it must be {range_}")


def seeded(config: C, seed: int) -> C:
    """Settings with another seed, wherever among them there is one.

    Example:
        >>> from edgeemo_export.train import Schedule
        >>> seeded(Schedule(epochs=5), 3).seed
        3
    """
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            changed[field.name] = seeded(value, seed)
        elif field.name == "seed":
            changed[field.name] = seed
    return dataclasses.replace(config, **changed)  # type: ignore[type-var]


def keep(config: Any, folder: Path) -> None:
    """Write the settings into the run's folder; where it has some, they must be these.

    With several processes the first one writes.

    Args:
        config: a dataclass.
        folder: of the run; made when missing.

    Raises:
        InputError: the run was begun with other settings; the message names them.
    """
    with processes.one_by_one():
        path, given = folder / FILE, flat(config)
        if path.exists():
            _refuse_others(path, _stored(path), given)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def kept(folder: Path, otherwise: C) -> C:
    """The settings that a run was begun with, or ``otherwise`` where its folder has none.

    Raises:
        InputError: they are not settings of this recipe.
    """
    path = folder / FILE
    if not path.exists():
        return otherwise
    try:
        return _rebuilt(type(otherwise), json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: it holds no settings of this recipe ({error})") from error


def _replaced(config: C, names: Sequence[str], text: str, assignment: str) -> C:
    known = {field.name: field for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    first, rest = names[0], names[1:]
    if first not in known:
        raise InputError(f"--set {assignment}: no setting {first!r}; there are {', '.join(known)}")
    value = getattr(config, first)
    if dataclasses.is_dataclass(value):
        if not rest:
            inner = ", ".join(f"{first}.{field.name}" for field in dataclasses.fields(value))
            raise InputError(f"--set {assignment}: {first} is a group; set one of {inner}")
        changed: Any = _replaced(value, rest, text, assignment)
    elif rest:
        raise InputError(f"--set {assignment}: {first} has no settings of its own")
    else:
        try:
            changed = _parsed(typing.get_type_hints(type(config))[first], text)
        except ValueError as error:
            raise InputError(f"--set {assignment}: {error}") from None
    return dataclasses.replace(config, **{first: changed})  # type: ignore[type-var]


def _parsed(kind: Any, text: str) -> Any:
    """A value of a type out of its text; ValueError says what it must be."""
    origin, given = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        if text == "none":
            return None
        (kind,) = (one for one in given if one is not type(None))
        return _parsed(kind, text)
    if origin is tuple:
        return tuple(_parsed(given[0], part.strip()) for part in text.split(",") if part.strip())
    if origin is typing.Literal:
        if text not in given:
            raise ValueError(f"it must be one of {', '.join(given)}")
        return text
    if kind is bool:
        if text not in ("true", "false"):
            raise ValueError("it must be true or false")
        return text == "true"
    return text if kind is str else _number(kind, text)


def _number(kind: type[int] | type[float], text: str) -> int | float:
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(f"it must be {'a whole' if kind is int else 'a'} number") from None
    if not math.isfinite(value):
        raise ValueError("it must be finite")
    return value


def flat(config: Any, before: str = "") -> dict[str, Any]:
    """Each setting under its dotted name, as JSON would give it back.

    Args:
        config: a dataclass, or a mapping as JSON holds one.
        before: the name of the group that it is.

    Example:
        >>> flat({"weight": 0.5, "schedule": {"epochs": 10}})
        {'weight': 0.5, 'schedule.epochs': 10}
    """
    if dataclasses.is_dataclass(config):
        config = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    if not isinstance(config, Mapping):
        return {before: list(config) if isinstance(config, tuple) else config}
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flat(value, f"{before}.{name}" if before else name)
    return found


def _stored(path: Path) -> dict[str, Any]:
    try:
        return flat(json.loads(path.read_text()))
    except ValueError as error:
        raise InputError(f"{path}: it is not JSON ({error}); use another folder") from error


def _refuse_others(path: Path, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    differences = [
        f"{name} was {stored.get(name, 'not set')} and is {given.get(name, 'no longer set')}"
        for name in [*stored, *(name for name in given if name not in stored)]
        if name not in stored or name not in given or stored[name] != given[name]
    ]
    if differences:
        raise InputError(
            f"{path}: the run was begun with other settings: {'; '.join(differences)}; "
            "give those, or another folder"
        )


def _rebuilt(kind: type[C], stored: Mapping[str, Any]) -> C:
    hints = typing.get_type_hints(kind)
    if not isinstance(stored, Mapping):
        raise ValueError(f"{stored!r} where there must be {', '.join(hints)}")
    if stored.keys() != hints.keys():
        raise ValueError(f"its settings are {', '.join(stored)}; they must be {', '.join(hints)}")
    values = {}
    for name, value in stored.items():
        if dataclasses.is_dataclass(hints[name]):
            value = _rebuilt(hints[name], value)
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
