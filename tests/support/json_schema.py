"""Holds a JSON value to a JSON schema (draft 2020-12), as far as the schemas of this repository go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}
SAID = {"$schema", "$defs", "title", "description", "format"}  # nothing to hold a value to
HELD = {
    "$ref", "type", "const", "enum", "minimum", "maximum", "items",
    "properties", "required", "additionalProperties",
}  # fmt: skip


def problems(value: object, schema: Mapping[str, Any]) -> list[str]:
    """What is wrong with a value, by its path; empty where nothing is.

    A key that the schema does not name is wrong too, though a reader would pass over it: the tests hold what
    is written, where it can only be misspelt. An object whose schema names no keys at all is free.

    Raises:
        ValueError: the schema has a keyword that is not understood here, so that nothing would be held to it.
    """
    return list(_problems(value, schema, schema, "$"))


def _problems(value: object, schema: Mapping[str, Any], root: Mapping[str, Any], path: str) -> Iterator[str]:
    schema = _resolved(schema, root)
    if unknown := schema.keys() - SAID - HELD:
        raise ValueError(f"{path}: no check for {', '.join(sorted(unknown))}")
    if "type" in schema and not any(_is(value, name) for name in _listed(schema["type"])):
        yield f"{path} is {value!r}; it must be of type {' or '.join(_listed(schema['type']))}"
        return
    if "const" in schema and value != schema["const"]:
        yield f"{path} is {value!r}; it must be {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path} is {value!r}; it must be one of {schema['enum']}"
    if isinstance(value, int | float):
        if value < schema.get("minimum", value):
            yield f"{path} is {value!r}; it must be at least {schema['minimum']}"
        if value > schema.get("maximum", value):
            yield f"{path} is {value!r}; it must be at most {schema['maximum']}"
    if isinstance(value, list) and "items" in schema:
        for place, item in enumerate(value):
            yield from _problems(item, schema["items"], root, f"{path}[{place}]")
    if isinstance(value, dict):
        yield from _in_object(value, schema, root, path)


def _in_object(
    value: dict[str, object], schema: Mapping[str, Any], root: Mapping[str, Any], path: str
) -> Iterator[str]:
    for key in schema.get("required", ()):
        if key not in value:
            yield f"{path}.{key} is missing"
    named, rest = schema.get("properties", {}), schema.get("additionalProperties")
    for key, item in value.items():
        if key in named:
            yield from _problems(item, named[key], root, f"{path}.{key}")
        elif isinstance(rest, dict):
            yield from _problems(item, rest, root, f"{path}.{key}")
        elif named:
            yield f"{path}.{key} is not in the schema"


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema with what it refers to; of both `required` counts."""
    if "$ref" not in schema:
        return schema
    named: Any = root
    for part in schema["$ref"].removeprefix("#/").split("/"):
        named = named[part]
    own = {key: item for key, item in schema.items() if key != "$ref"}
    named = _resolved(named, root)
    required = [*named.get("required", ()), *own.get("required", ())]
    if clash := (named.keys() & own.keys()) - SAID - {"required"}:
        raise ValueError(
            f"{schema['$ref']}: both the reference and its neighbour say {', '.join(sorted(clash))}"
        )
    return {**named, **own, "required": required}


def _is(value: object, name: str) -> bool:
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
