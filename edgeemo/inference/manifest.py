"""How a manifest is read: JSON, key by key, each with its type, range and a message that says where it is."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import NoReturn


class ManifestError(ValueError):
    """A manifest that does not say what it must; `Bundle.read` adds the folder and raises `BundleError`."""


def parse(text: bytes) -> Section:
    """Read the JSON object in `text`, refusing what JSON leaves open: a key given twice, NaN, infinities.

    Args:
        text: the bytes of the file, UTF-8.

    Raises:
        ManifestError: not UTF-8, not JSON, or not an object.

    Example:
        >>> parse(b'{"hop": 0.1}').number("hop", 0.001, 60)
        0.1
    """
    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_distinct,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except UnicodeDecodeError as error:
        raise ManifestError(f"it is not UTF-8 (byte {error.start}); it must be JSON in UTF-8") from None
    except json.JSONDecodeError as error:
        raise ManifestError(
            f"it is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except ManifestError:
        raise
    except ValueError as error:  # a number of more digits than Python converts
        raise ManifestError(f"it cannot be read: {error}") from None
    except RecursionError:
        raise ManifestError("it is nested too deeply; it must be JSON of a few levels") from None
    if not isinstance(value, dict):
        raise ManifestError(f"it is {_kind(value)}; it must be a JSON object")
    return Section(value)


class Section:
    """One JSON object of a manifest; every reader raises `ManifestError` with the dotted path of the key.

    Example:
        >>> Section({"every": 0}, "face").whole("every")
        Traceback (most recent call last):
        ...
        edgeemo.inference.manifest.ManifestError: 'face.every' is 0; it must be a whole number of at least 1
    """

    def __init__(self, values: dict[str, object], path: str = "") -> None:
        self.values = values
        self.path = path

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def fail(self, key: str, right: str) -> NoReturn:
        """Raise `ManifestError`: the value at `key` is not `right`."""
        where = f"{self.path}.{key}" if self.path else key
        if key not in self.values:
            raise ManifestError(f"{where!r} is missing; it must be {right}")
        raise ManifestError(f"{where!r} is {_kind(self.values[key])}; it must be {right}")

    def text(self, key: str) -> str:
        """A text that is not empty."""
        value = self.values.get(key)
        if not isinstance(value, str) or not value.strip():
            self.fail(key, "a text")
        return value

    def choice(self, key: str, legal: tuple[str, ...]) -> str:
        """One of the `legal` texts."""
        value = self.values.get(key)
        if not isinstance(value, str) or value not in legal:
            self.fail(key, "one of " + ", ".join(legal))
        return value

    def texts(self, key: str, least: int = 1) -> tuple[str, ...]:
        """A list of at least `least` different texts."""
        value = self.values.get(key)
        right = f"a list of at least {least} texts, each different"
        if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
            self.fail(key, right)
        texts = tuple(str(text) for text in value)
        if len(texts) < least or len(set(texts)) < len(texts):
            self.fail(key, right)
        return texts

    def digest(self, key: str) -> str:
        """A sha256: 64 hexadecimal digits in lower case."""
        value = self.text(key)
        if len(value) != 64 or not set(value) <= set("0123456789abcdef"):
            self.fail(key, "64 hexadecimal digits in lower case")
        return value

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.values.get(key)
        if not isinstance(value, bool):
            self.fail(key, "true or false")
        return value

    def whole(self, key: str, least: int = 1, most: int | None = None) -> int:
        """A whole number of at least `least` and at most `most`."""
        value = self.values.get(key)
        beyond = isinstance(value, int) and (value < least or (most is not None and value > most))
        if isinstance(value, bool) or not isinstance(value, int) or beyond:
            span = f"of at least {least}" if most is None else f"from {least} to {most}"
            self.fail(key, f"a whole number {span}")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        """A number in [low, high]."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.fail(key, f"a number in [{low:g}, {high:g}]")
        return float(value)

    def objects(self, key: str) -> list[dict[str, object]]:
        """A list, maybe empty, of objects."""
        value = self.values.get(key)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.fail(key, "a list of objects")
        return list(value)

    def section(self, key: str) -> Section:
        """The object at `key`."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            self.fail(key, "an object")
        return Section(value, f"{self.path}.{key}" if self.path else key)


def _kind(value: object) -> str:
    """A value as a message shows it: short, and an object or a list by its kind."""
    if isinstance(value, dict):
        return "an object"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ManifestError(f"the key {twice!r} is given twice in one object; it must be there once")
    return values


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        _refuse_constant(number if len(number) <= 60 else f"{number[:57]}...")
    return value


def _refuse_constant(constant: str) -> NoReturn:
    raise ManifestError(f"it holds {constant}; numbers must be finite")
