"""``edgeemo-calibrate encode``: a copy of a bundle with INT8 graphs from other ranges, proven or marked."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from edgeemo.console import Console
from edgeemo.errors import CheckFailed, InputError
from edgeemo.inference.bundle import Bundle
from edgeemo.recognition.recognizer import DEFAULT_BUNDLE

from ..rebundle import mark_unproven, read_tables, rewrite
from ..sets import check_new, new_folder
from ..table import Table
from .prove import add_sets


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "--bundle", type=Path, default=DEFAULT_BUNDLE, metavar="DIR", help="default: the one in the package"
    )
    parser.add_argument(
        "--tables",
        type=Path,
        required=True,
        metavar="TABLES",
        help="what edgeemo-calibrate ranges has written",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="NEW_BUNDLE", help="a new folder")
    add_sets(parser, "--prove", "labelled sets on which INT8 is held to FP32")
    add_sets(parser, "--cropped", "the same, of pictures that already are face crops")
    parser.add_argument(
        "--page", type=Path, metavar="FOLDER", help="takes the proof's page (default: NEW_BUNDLE-proof)"
    )
    parser.add_argument(
        "--unproven", action="store_true", help="leave INT8 graphs that were not held to FP32, and say so"
    )


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Write the bundle, prove it or mark it; nothing is left where it is neither.

    Raises:
        CheckFailed: no proof was asked for, or INT8 did not pass.
        InputError: a table is of another file, the new folder holds something, or the page would be in it.
        BundleError: the bundle cannot be used.
        OSError: a file cannot be written.
    """
    asked = bool(arguments.prove or arguments.cropped)
    if asked == arguments.unproven:
        if asked:
            raise InputError("--unproven beside --prove: give one of them")
        raise CheckFailed(
            "INT8 graphs that nobody held to FP32 are not left behind; give --prove MANIFEST.csv, --cropped "
            "MANIFEST.csv, or --unproven"
        )
    out: Path = arguments.out
    check_new(out)
    page: Path | None = None
    if asked:
        page = arguments.page or out.with_name(f"{out.name}-proof")
        if page.resolve().is_relative_to(out.resolve()):
            raise InputError(f"--page {page}: it is in the new bundle; name another folder")
    bundle = Bundle.read(arguments.bundle)
    tables = read_tables(arguments.tables, bundle)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{out.name}.", dir=out.parent) as scratch:
        staged = Path(scratch) / out.name
        rewrite(bundle, tables, staged)
        if page is None:
            mark_unproven(staged, "encoded with --unproven")
        else:
            _prove(staged, tables, arguments, page, console)
        if out.exists():
            out.rmdir()
        staged.rename(out)
    _report(Bundle.read(out), tables, page, arguments.json, console)
    return 0


def _prove(
    folder: Path, tables: dict[str, Table], arguments: argparse.Namespace, page: Path, console: Console
) -> None:
    # The gate brings the whole runtime along; most uses of this verb's parser do without.
    from .. import page as pages
    from .. import prove

    sets = [prove.Dataset(path) for path in arguments.prove]
    sets += [prove.Dataset(path, cropped=True) for path in arguments.cropped]
    with new_folder(page):
        proof = prove.prove(folder, sets, tables=list(tables.values()), progress=console.status)
        pages.write(proof, page / "proof.html", page / "proof.json")
    if not proof.passed:
        raise CheckFailed(f"{proof}\n{page / 'proof.html'}")
    prove.enter(folder, proof)


def _report(
    bundle: Bundle, tables: dict[str, Table], page: Path | None, as_json: bool, console: Console
) -> None:
    graphs: dict[str, Any] = {
        name: {
            "digest": table.digest,
            "files": {
                encoding: file for encoding, file in bundle.graphs[name].files.items() if "int8" in encoding
            },
        }
        for name, table in tables.items()
    }
    if as_json:
        proven = bool(bundle.proof and bundle.proof["passed"])
        said = {"bundle": str(bundle.path), "proven": proven, "page": None if page is None else str(page)}
        console.json({**said, "graphs": graphs})
        return
    for name, entry in graphs.items():
        console.result(f"{name}: {', '.join(entry['files'].values())}, digest {entry['digest']}")
    told = "not proven" if page is None else f"proven, {page / 'proof.html'}"
    console.result(f"{bundle.path}: {told}")
