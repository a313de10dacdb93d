"""What `import edgeemo` costs and offers."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

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
