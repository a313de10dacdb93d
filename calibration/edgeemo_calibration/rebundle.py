"""A copy of a bundle with INT8 graphs that come from other tables of ranges."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from edgeemo.errors import CheckFailed, InputError
from edgeemo.inference.bundle import MANIFEST, Bundle, describe_files
from edgeemo.inference.spec import GraphSpec

from .encode import CPU, TENSORRT, write_encodings
from .lint import lint
from .table import Table

TABLE = "{}.ranges.json"
"""The name of a graph's table in a folder of tables."""


def is_quantised(spec: GraphSpec) -> bool:
    """Whether a graph of a bundle has an INT8 encoding."""
    return not {TENSORRT.suffix, CPU.suffix}.isdisjoint(spec.files)


def read_tables(folder: str | Path, bundle: Bundle) -> dict[str, Table]:
    """The tables of a folder, by the graph of the bundle that each was measured on.

    Raises:
        BundleError: a graph of the bundle is not what its manifest says.
        InputError: there is none, one is no table, or one is of a graph that the bundle does not have.
    """
    path = Path(folder)
    suffix = TABLE.format("")
    files = sorted(path.glob(f"*{suffix}")) if path.is_dir() else []
    if not files:
        raise InputError(f"{folder}: it must be a folder with a NAME{suffix} for at least one graph")
    tables = {}
    for file in files:
        name = file.name.removesuffix(suffix)
        if name not in bundle.graphs:
            raise InputError(
                f"{file}: {bundle.name} has no graph {name!r}; it has {', '.join(bundle.graphs)}"
            )
        tables[name] = Table.read(file)
        original = hashlib.sha256(bundle.read_file(bundle.graphs[name].files["fp32"])).hexdigest()
        if tables[name].model_sha256 != original:
            raise InputError(
                f"{file}: it was measured on a graph with the sha256 {tables[name].model_sha256}; "
                f"{name} of {bundle.name} is {original}: measure its ranges anew"
            )
    return tables


def rewrite(bundle: Bundle, tables: Mapping[str, Table], folder: Path) -> None:
    """Write a bundle whose INT8 graphs come from these tables.

    What a manifest says of INT8 files that are no longer the same goes: measured results and the proof.

    Args:
        bundle: stays as it is.
        tables: by graph; graphs without one keep their files.
        folder: a new or an empty one.

    Raises:
        BundleError: a file of the bundle is not what its manifest says.
        InputError: a table is of another FP32 file.
        CheckFailed: TensorRT would not take a graph.
        OSError: a file cannot be written.
    """
    bundle.verify()
    folder.mkdir(parents=True, exist_ok=True)
    for file in bundle.files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path / file, folder / file)
    manifest: dict[str, Any] = json.loads((bundle.path / MANIFEST).read_text(encoding="utf-8"))
    beside = set(bundle.files)
    for name, table in tables.items():
        entry = manifest["graphs"][name]
        written = write_encodings(folder / entry["files"]["fp32"], table, folder, name)
        _check(written[TENSORRT.suffix])
        stale = {entry["files"].get(encoding) for encoding in written}
        entry["files"].update({encoding: path.name for encoding, path in written.items()})
        entry["calibration"] = table.digest
        beside = (beside - stale) | {path.name for path in written.values()}
        for file in stale - beside - {None}:
            (folder / file).unlink()
    files = describe_files(folder, beside)
    if files != manifest["files"]:
        _forget(manifest, tables)
    manifest["files"] = files
    (folder / MANIFEST).write_text(
        json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    Bundle.read(folder).verify()


def mark_unproven(folder: Path, why: str) -> None:
    """Enter into a bundle's manifest that its INT8 graphs were not held to FP32."""
    path = folder / MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["proof"] = {"passed": False, "unproven": why}
    path.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def described(table: Table) -> str:
    """How a table came about, in a line of provenance."""
    parts = [table.method if table.percentile is None else f"{table.method} {table.percentile:g}"]
    parts += ["equalised"] if table.equalisation else []
    parts += ["biases corrected"] if table.corrections else []
    parts += [f"{', '.join(table.floating)} in floating point"] if table.floating else []
    return f"symmetric, {', '.join(parts)}, {table.samples} samples"


def _check(path: Path) -> None:
    if found := lint(onnx.load(path)):
        lines = [f"{path.name}: {finding}" for finding in found]
        raise CheckFailed("\n".join(("TensorRT is not to be given this graph:", *lines)))


def _forget(manifest: dict[str, Any], tables: Mapping[str, Table]) -> None:
    """Take away what was said of other INT8 files."""
    manifest.pop("proof", None)
    manifest["results"] = [
        entry
        for entry in manifest.get("results", [])
        if not str(entry.get("precision", "")).startswith("int8")
    ]
    said = "; ".join(f"{name}: {described(table)}" for name, table in tables.items())
    manifest["provenance"] = {**manifest.get("provenance", {}), "int8": said}
