"""Imports point one way: a layer knows those below it and none above."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the top; modules of one line do not know each other.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"doctor", "console"},
    {"bench"},
    {"delivery"},
    {"evaluate", "compare", "build"},
    {"figures", "agreement", "plots", "html"},
    {"recognition"},
    {"inference", "preprocess", "capture"},
    {"errors", "cache", "logs"},
)
HEIGHT = {part: height for height, layer in enumerate(reversed(LAYERS)) for part in layer}

RUNTIME = sorted(path for path in (ROOT / "edgeemo").rglob("*.py") if path.name != "__init__.py")


def imported(path: Path) -> set[str]:
    """Absolute names of every module that a file imports, wherever in it, but for type checking alone."""
    names = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for part in node.body
        for inner in ast.walk(part)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", RUNTIME, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_runtime_imports_downwards(path: Path) -> None:
    own = path.relative_to(ROOT / "edgeemo").parts[0].removesuffix(".py")
    for name in imported(path):
        if not name.startswith("edgeemo."):
            assert name.split(".")[0] not in {"torch", "onnx", "edgeemo_export", "edgeemo_calibration"}
            continue
        other = name.split(".")[1]
        assert other == own or HEIGHT[other] < HEIGHT[own], f"{own} imports {name}"


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [("calibration", {"torch", "edgeemo_export"}), ("edgeemo", {"torch", "onnx"})],
)
def test_nothing_below_export_knows_a_training_framework(package: str, forbidden: set[str]) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert not {name.split(".")[0] for name in imported(path)} & forbidden, path
