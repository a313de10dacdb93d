"""The real TensorRT binding modules, read on a machine that has neither a GPU nor TensorRT.

The wheels `tensorrt-cu12-bindings` hold the binding module alone. It loads when three libraries with the
right sonames export the nine functions that it names, so empty ones are written here, and the whole surface
of the module (classes, enums, methods with their arguments, properties) can be read. Two versions cannot live
in one process, so each is read in a process of its own.

    python -m tests.support.real_tensorrt          writes tensorrt_surface/VERSION.json for each of VERSIONS

EDGEEMO_TENSORRT_WHEELS names a folder that has the wheels; without it pip fetches them into a cache.
"""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
import json
import os
import platform
import re
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VERSIONS = ("10.3.0", "11.4.0.106")
SURFACES = Path(__file__).resolve().parent / "tensorrt_surface"
PACKAGE = "tensorrt-cu12-bindings"
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)


class Unavailable(Exception):
    """The real module cannot be had here; the message says why."""


def read_surface(version: str) -> dict[str, Any]:
    """Read the surface of the real module of `version` in a process of its own.

    Raises:
        Unavailable: there is no such module for this platform and Python, or the index cannot be reached.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Unavailable(
            f"empty libraries are written for Linux on x86-64, not {sys.platform} {platform.machine()}"
        )
    wheel = _wheel(version)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        for library in LIBRARIES:
            soname = f"lib{library}.so.{version.split('.')[0]}"
            (Path(folder) / soname).write_bytes(empty_library(soname, FUNCTIONS))
        done = subprocess.run(
            [sys.executable, __file__, folder], capture_output=True, text=True, check=False, timeout=120
        )
    if done.returncode:
        raise Unavailable(f"the module of {wheel.name} does not load: {done.stderr.strip()[-300:]}")
    surface: dict[str, Any] = json.loads(done.stdout)
    return surface


def _wheel(version: str) -> Path:
    named = os.environ.get("EDGEEMO_TENSORRT_WHEELS")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(named) if named else Path(cache) / "edgeemo" / "tests"
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    pattern = f"{PACKAGE.replace('-', '_')}-{version}-{tag}-*x86_64.whl"
    if not (named or list(folder.glob(pattern))):
        _download(version, folder)
    wheels = sorted(folder.glob(pattern))
    if not wheels:
        raise Unavailable(f"no {pattern} in {folder}")
    return wheels[0]


def _download(version: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--retries", "0", "--timeout", "15", "--dest", str(folder), f"{PACKAGE}=={version}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["pip says nothing"]
        raise Unavailable(f"pip finds no {PACKAGE}=={version} for this Python: {lines[-1].strip()}")


def empty_library(soname: str, functions: tuple[str, ...]) -> bytes:
    """An ELF shared object for x86-64 whose `functions` take nothing and return 0.

    Two pages: headers, symbols and code in one, the dynamic section, which the loader writes to, in the
    other. The layout is that of the System V ABI, chapters 4 (object files) and 5 (program loading).
    """
    page = 0x1000
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in (soname, *functions))
    offsets = [strings.index(b"\0" + name.encode() + b"\0") + 1 for name in (soname, *functions)]
    count = len(functions) + 1
    at_hash = 64 + 4 * 56
    # DT_HASH with one bucket: its chain runs through all symbols.
    table = struct.pack("<3I", 1, count, 1) + struct.pack(f"<{count}I", 0, *range(2, count), 0)
    at_symbols = -(-(at_hash + len(table)) // 8) * 8
    at_strings = at_symbols + 24 * count
    at_code = at_strings + len(strings)
    code = b"\x31\xc0\xc3"  # xor eax, eax; ret
    size = at_code + len(code)
    assert size < page
    symbols = bytes(24) + b"".join(
        struct.pack("<IBBHQQ", offset, 0x12, 0, 1, at_code, len(code)) for offset in offsets[1:]
    )
    dynamic = b"".join(
        struct.pack("<qQ", tag, value)
        for tag, value in (
            (14, offsets[0]),  # DT_SONAME
            (4, at_hash),
            (5, at_strings),
            (10, len(strings)),
            (6, at_symbols),
            (11, 24),
            (0, 0),
        )
    )
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 4, 0, 0, 0)
    segments = b"".join(
        struct.pack("<IIQQQQQQ", kind, flags, at, at, at, length, length, align)
        for kind, flags, at, length, align in (
            (1, 5, 0, size, page),  # PT_LOAD, read and execute
            (1, 6, page, len(dynamic), page),  # PT_LOAD, read and write
            (2, 6, page, len(dynamic), 8),  # PT_DYNAMIC
            (0x6474E551, 6, 0, 0, 16),  # PT_GNU_STACK, not executable
        )
    )
    image = bytearray(page + len(dynamic))
    for at, part in (
        (0, header),
        (64, segments),
        (at_hash, table),
        (at_symbols, symbols),
        (at_strings, strings),
        (at_code, code),
        (page, dynamic),
    ):
        image[at : at + len(part)] = part
    return bytes(image)


def load(folder: Path) -> Any:
    """Load the module that was unpacked into `folder` as `tensorrt`; once in a process."""
    for library in LIBRARIES:
        (path,) = folder.glob(f"lib{library}.so.*")
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    package = folder / "tensorrt_bindings"
    spec = importlib.util.spec_from_file_location(
        "tensorrt", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tensorrt"] = module
    spec.loader.exec_module(module)
    return module


_SLOT = type(object.__init__)
_ODD = {"__enter__", "__exit__", "__len__", "__getitem__", "__setitem__", "__int__", "__index__", "__lt__"}


def describe(module: Any) -> dict[str, Any]:
    """What `module` offers: the form of the committed surfaces."""
    surface: dict[str, Any] = {"version": module.__version__, "classes": {}, "enums": {}, "functions": {}}
    surface["constants"] = {}
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or inspect.ismodule(value):
            continue
        if inspect.isclass(value):
            _describe_class(surface, name, value)
        elif callable(value):
            surface["functions"][name] = _signatures(value)
        else:
            surface["constants"][name] = str(value)
    return surface


def _describe_class(surface: dict[str, Any], name: str, value: type) -> None:
    if hasattr(value, "__members__"):
        surface["enums"][name] = {
            "members": {key: int(member) for key, member in value.__members__.items()},
            "properties": sorted(
                key
                for key, item in vars(value).items()
                if isinstance(item, property) and not key.startswith("_")
            ),
        }
        return
    # pybind11 gives a class without a constructor the slot of its root, which refuses every call.
    init = None if isinstance(vars(value)["__init__"], _SLOT) else _signatures(vars(value)["__init__"])
    entry: dict[str, Any] = {
        "bases": [base.__name__ for base in value.__bases__ if base.__module__.startswith("tensorrt")],
        "init": init,
        "methods": {},
        "properties": {},
        "odd": sorted(_ODD & vars(value).keys()),
    }
    for key, item in sorted(vars(value).items()):
        if key.startswith("_"):
            continue
        if isinstance(item, property):
            entry["properties"][key] = [
                _type(item.fget),
                _type(item.fset, setter=True) if item.fset else None,
            ]
        elif inspect.isclass(item):
            nested = item.__qualname__
            if nested == f"{name}.{key}":
                _describe_class(surface, nested, item)
            entry.setdefault("nested", {})[key] = nested
        elif callable(item) or isinstance(item, staticmethod):
            entry["methods"][key] = _signatures(item)
        else:
            entry.setdefault("constants", {})[key] = str(item)
    surface["classes"][name] = entry


def _signatures(function: Any) -> list[str]:
    doc = function.__doc__ or ""
    name = function.__name__ if hasattr(function, "__name__") else "__init__"
    found = re.findall(rf"^(?:\d+\. )?{re.escape(name)}(\(.*\) -> .*)$", doc, re.MULTILINE)
    if not found:
        return (
            ["(*args, **kwargs)"] if not inspect.isfunction(function) else [str(inspect.signature(function))]
        )
    return [_plain(text) for text in found]


def _type(function: Any, setter: bool = False) -> str:
    found = re.match(r"\(.*\) -> .*", function.__doc__ or "") if function else None
    if not found:
        return "?"
    signature = _plain(found.group())
    arguments, _, answer = signature.rpartition(" -> ")
    return list(split(arguments[1:-1]))[-1].partition(": ")[2] if setter else answer


def _plain(signature: str) -> str:
    """A signature without `self`, defaults' values, and the name of the inner module."""
    signature = signature.replace("tensorrt.tensorrt.", "tensorrt.").strip()
    # These two have other homes in later Pythons.
    signature = re.sub(r"(typing_extensions|collections\.abc|types)\.(Buffer|CapsuleType)", r"\2", signature)
    arguments, _, answer = signature.rpartition(" -> ")
    kept = []
    for argument in split(arguments[1:-1]):
        if argument == "self" or argument.startswith("self:"):
            continue
        left, equals, _ = argument.partition(" = ")
        kept.append(left + (" = ..." if equals else ""))
    return f"({', '.join(kept)}) -> {answer}"


def surface_text(surface: dict[str, Any]) -> str:
    """The text of a committed surface: one line per name, so that versions can be compared."""
    return json.dumps(surface, indent=1, sort_keys=True) + "\n"


def write_surface(version: str) -> None:
    """Write the committed surface of `version` from its real module."""
    (SURFACES / f"{version}.json").write_text(surface_text(read_surface(version)), "utf-8")


def split(arguments: str) -> Iterator[str]:
    """Cut a list of arguments at its outermost commas."""
    depth, start = 0, 0
    for position, letter in enumerate(arguments):
        depth += (letter in "([{<") - (letter in ")]}>" and arguments[position - 1] != "-")
        if letter == "," and depth == 0:
            yield arguments[start:position].strip()
            start = position + 1
    if arguments[start:].strip():
        yield arguments[start:].strip()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(describe(load(Path(sys.argv[1])))))
    else:
        for wanted in VERSIONS:
            write_surface(wanted)
