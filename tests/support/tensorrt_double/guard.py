"""Classes that offer what one version of the real module offers, no more, and accept only its calls.

`make_module` takes the surface of a version and the behaviour that the double has (plain classes, the names
of both versions together) and makes the classes of that version: a name that the version lacks is not there,
a call that fits no signature is a TypeError, a property without a setter cannot be written, and what the
version has but the double lacks raises NotImplementedError. Names that start with an underscore are the
double's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from tests.support.tensorrt_double.surface import Overload, fits


class Class(type):
    """The metaclass of all classes: it refuses what pybind11 refuses."""

    def __call__(cls, *given: Any, **named: Any) -> Any:
        made = super().__call__(*given, **named)
        if not getattr(made, "_begun", False):
            base = next(base for base in cls.__mro__ if base.__module__ == "tensorrt")
            raise TypeError(
                f"tensorrt.tensorrt.{base.__name__}.__init__() must be called when overriding __init__"
            )
        return made


def make_module(version: str, surface: Mapping[str, Any], behaviour: Mapping[str, type]) -> ModuleType:
    """Make the module `tensorrt` of `version`.

    Args:
        version: what `__version__` says.
        surface: the committed surface of the version.
        behaviour: the double's own classes by the name of the class whose behaviour they have.
    """
    module = ModuleType("tensorrt")
    module.__version__ = version
    for name, entry in surface["enums"].items():
        made = make_enum(name.rpartition(".")[2], entry, behaviour.get(name))
        if "." not in name:
            setattr(module, name, made)
        else:
            module.__dict__.setdefault("_nested", {})[name] = made
    done: dict[str, type] = {}
    for name in surface["classes"]:
        _make_class(module, name, surface, behaviour, done)
    for name, signatures in surface["functions"].items():
        own = getattr(behaviour["module"], name, None)
        setattr(module, name, _function(module, name, name, signatures, own, method=False))
    for name, text in surface["constants"].items():
        value = _constant(module, text)
        if value is not None:
            setattr(module, name, value)
    return module


def _constant(module: ModuleType, text: str) -> Any:
    owner, _, name = text.rpartition(".")
    return getattr(module.__dict__.get(owner), name, None)


def make_enum(name: str, entry: Mapping[str, Any], own: type | None = None) -> type:
    """Make an enumeration as pybind11 has it: no int, but one can be made of it; no `1 << member`."""

    def make(cls: type, value: int) -> Any:
        return cls._values[int(value)]

    def refuse(self: Any, name: str, value: Any) -> None:
        raise AttributeError(f"'tensorrt.tensorrt.{type(self).__name__}' object has no attribute {name!r}")

    space: dict[str, Any] = {
        "__module__": "tensorrt",
        "__new__": make,
        "__init__": lambda self, value: None,
        "__int__": lambda self: self._value,
        "__index__": lambda self: self._value,
        "__eq__": lambda self, other: self is other,
        "__hash__": lambda self: self._value,
        "__repr__": lambda self: f"<{name}.{self._name}: {self._value}>",
        "__str__": lambda self: f"{name}.{self._name}",
        "__setattr__": refuse,
        "__reduce__": lambda self: (type(self), (self._value,)),
        "name": property(lambda self: self._name),
        "value": property(lambda self: self._value),
        "_values": {},
        "__members__": {},
    }
    if "name" not in entry["properties"]:
        # TensorRT 10.3 has `name` of ErrorCode as a method, by mistake.
        space["name"] = lambda self: self._name
    for key in entry["properties"]:
        if key not in space and own is not None:
            space[key] = getattr(own, key)
    made = type(name, (), space)
    for key, value in entry["members"].items():
        member = object.__new__(made)
        object.__setattr__(member, "_name", key)
        object.__setattr__(member, "_value", value)
        made._values.setdefault(value, member)
        made.__members__[key] = member
        setattr(made, key, member)
    return made


def _make_class(
    module: ModuleType,
    name: str,
    surface: Mapping[str, Any],
    behaviour: Mapping[str, type],
    done: dict[str, type],
) -> type:
    if name in done:
        return done[name]
    entry = surface["classes"][name]
    bases = [_make_class(module, base, surface, behaviour, done) for base in entry["bases"] if base != name]
    own = behaviour.get(name)
    space: dict[str, Any] = {
        "__module__": "tensorrt",
        "_trt": module,
        "__init__": _init(module, name, entry, own),
    }
    if own is not None:
        for key, item in vars(own).items():
            if key.startswith("_") and key not in _OF_PYTHON:
                space.setdefault(key, item)
    space["__setattr__"] = _set_attribute
    for key, signatures in entry["methods"].items():
        item = vars(own).get(key) if own is not None else None
        space[key] = _function(module, name, key, signatures, item)
    for key, (kind, setter) in entry["properties"].items():
        space[key] = _property(
            module, name, key, kind, setter, vars(own).get(key) if own is not None else None
        )
    for key, nested in entry.get("nested", {}).items():
        space[key] = module.__dict__["_nested"].get(nested)
    for key, text in entry.get("constants", {}).items():
        space[key] = space["Severity"].__members__[text.rpartition(".")[2]]
    native = () if bases else tuple(own.__bases__ if own is not None else ())
    made = Class(name, tuple(bases) or native, space)
    done[name] = made
    setattr(module, name, made)
    return made


# What `type` gives a class by itself, and the constructor, which `_init` guards.
_MADE = "__module__ __dict__ __weakref__ __qualname__ __doc__ __firstlineno__ __static_attributes__ "
_OF_PYTHON = frozenset((_MADE + "__init__ __annotations__ __annotate__ __annotate_func__").split())


def _set_attribute(self: Any, name: str, value: Any) -> None:
    # What a user derives in Python (a logger, a progress monitor) has attributes of its own.
    derived = type(self).__module__ != "tensorrt"
    if not (derived or name.startswith("_") or isinstance(getattr(type(self), name, None), property)):
        raise AttributeError(f"'tensorrt.tensorrt.{type(self).__name__}' object has no attribute {name!r}")
    object.__setattr__(self, name, value)


def _init(module: ModuleType, name: str, entry: Mapping[str, Any], own: type | None) -> Callable[..., None]:
    overloads = [Overload.read(text) for text in entry["init"] or ()]

    def begin(self: Any, *given: Any, **named: Any) -> None:
        if not overloads:
            raise TypeError(f"tensorrt.tensorrt.{name}: No constructor defined!")
        bound = _bind(module, "__init__", overloads, given, named)[1]
        if own is None:
            raise NotImplementedError(f"the double has no {name}")
        object.__setattr__(self, "_begun", True)
        if "__init__" in vars(own):
            own.__init__(self, **bound)

    return begin


def _bind(
    module: ModuleType, name: str, overloads: list[Overload], given: tuple[Any, ...], named: Mapping[str, Any]
) -> tuple[Overload, dict[str, Any]]:
    for overload in overloads:
        bound = overload.bind(module, given, named)
        if bound is not None:
            return overload, bound
    kind = "constructor" if name == "__init__" else "function"
    shown = "".join(f"\n    {number}. {one.text}" for number, one in enumerate(overloads, 1))
    raise TypeError(
        f"{name}(): incompatible {kind} arguments. The following argument types are supported:{shown}"
        f"\n\nInvoked with: {', '.join([*map(repr, given), *(f'{k}={v!r}' for k, v in named.items())])}"
    )


def _function(
    module: ModuleType, owner: str, name: str, signatures: list[str], own: Any, *, method: bool = True
) -> Callable[..., Any]:
    overloads = [Overload.read(text) for text in signatures]

    def call(*given: Any, **named: Any) -> Any:
        self, rest = (given[:1], given[1:]) if method else ((), given)
        if any(overload.anything for overload in overloads):
            raise NotImplementedError(f"the double does not know the arguments of {owner}.{name}")
        overload, bound = _bind(module, name, overloads, rest, named)
        if own is None:
            raise NotImplementedError(f"the double has no {owner}.{name}")
        answer = own(*self, **bound)
        return _hold(module, f"{owner}.{name}", overload.answer, answer)

    call.__name__ = call.__qualname__ = name
    return call


def _hold(module: ModuleType, name: str, kind: str, answer: Any) -> Any:
    assert kind == "?" or (answer is None and kind not in _NEVER_NONE) or fits(module, kind, answer), (
        f"the double's {name} answers {answer!r}; the real one answers {kind}"
    )
    return answer


_NEVER_NONE = ("int", "bool", "str", "float")


def _property(
    module: ModuleType, owner: str, name: str, kind: str, setter: str | None, own: property | None
) -> property:
    def read(self: Any) -> Any:
        if own is None or own.fget is None:
            raise NotImplementedError(f"the double has no {owner}.{name}")
        return _hold(module, f"{owner}.{name}", kind, own.fget(self))

    def write(self: Any, value: Any) -> None:
        assert setter is not None
        if not fits(module, setter, value) and not (
            value is None and setter.startswith(("tensorrt.", "nvinfer"))
        ):
            raise TypeError(
                f"(): incompatible function arguments. The following argument types are supported:"
                f"\n    1. (arg0: tensorrt.tensorrt.{owner}, arg1: {setter}) -> None\n\nInvoked with: "
                f"{value!r}"
            )
        if own is None or own.fset is None:
            raise NotImplementedError(f"the double cannot write {owner}.{name}")
        own.fset(self, value)

    return property(read, write if setter else None)
