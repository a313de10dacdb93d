"""What `import edgeemo` costs and offers."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import edgeemo

HEAVY = ("torch", "onnx", "onnxruntime", "cv2", "av", "sounddevice")


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport json, sys\nprint(json.dumps([name.split('.')[0] for name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "statement",
    [
        "import edgeemo",
        "import edgeemo; edgeemo.Bundle",  # a manifest can be read where no engine is installed
        "import edgeemo.inference.backend",  # an engine comes with the first graph
        "import edgeemo; edgeemo.load, edgeemo.watch, edgeemo.Recognizer, edgeemo.Stream, edgeemo.Emotion",
    ],
)
def test_nothing_heavy_is_loaded(statement: str) -> None:
    assert loaded_by(statement).isdisjoint(HEAVY)


def test_heavy_modules_would_be_seen() -> None:
    assert "numpy" in loaded_by("import numpy")


def test_a_model_leaves_nothing_in_the_home_and_opens_no_socket(tmp_path: Path) -> None:
    code = (
        "import sys, numpy, edgeemo\n"
        "sys.addaudithook(lambda event, _: event.startswith('socket.') and sys.exit(event))\n"
        "from edgeemo import doctor\n"
        "edgeemo.load(backend='onnx').recognize(face=numpy.zeros((48, 48, 3), numpy.uint8))\n"
        "list(doctor.examine())\n"
    )
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "EDGEEMO_CACHE", "CI")
    }
    done = subprocess.run([sys.executable, "-c", code], env={**kept, "HOME": str(tmp_path)}, check=False)
    assert done.returncode == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


NVIDIA = ("tensorrt", "cuda", "pycuda")
EVERYTHING = """
import importlib, pkgutil
import edgeemo
for module in pkgutil.walk_packages(edgeemo.__path__, "edgeemo."):
    if module.name != "edgeemo.__main__":
        importlib.import_module(module.name)
for graph in edgeemo.load(backend="onnx").graphs.values():
    graph.close()
print("a TensorRT backend is opened", flush=True)
for opened in (lambda: edgeemo.load(backend="tensorrt"), edgeemo.inference.cuda.open_cuda):
    try:
        opened()
    except edgeemo.errors.BackendError:
        pass
"""


def test_nothing_of_nvidia_is_imported_before_a_tensorrt_backend_is_opened(
    tmp_path: Path, default_bundle: Path
) -> None:
    """Packages that say when they are imported stand in: on a machine without them nothing could be seen."""
    for name in NVIDIA:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"print('imported {name}', flush=True)\n", "utf-8")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", EVERYTHING],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    before, _, after = done.stdout.partition("a TensorRT backend is opened\n")
    assert before == ""
    assert sorted(after.splitlines()) == sorted(f"imported {name}" for name in NVIDIA)


@pytest.mark.parametrize("name", edgeemo.__all__)
def test_public_name(name: str) -> None:
    assert name in dir(edgeemo)
    value = getattr(edgeemo, name)
    home = edgeemo._HOMES.get(name)
    if home:
        assert value is getattr(importlib.import_module(home), name)
        assert vars(edgeemo)[name] is value  # resolved once


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="'edgeemo' has no attribute 'recognise'"):
        _ = edgeemo.recognise
