"""``edgeemo-calibrate ranges``: a table of ranges for each encoder of a bundle, from a calibration set."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeemo.console import Console
from edgeemo.errors import InputError
from edgeemo.inference.bundle import Bundle
from edgeemo.recognition.recognizer import DEFAULT_BUNDLE

from ..correct import corrections
from ..floating import Choice, choose
from ..model import read_model
from ..noise import TensorNoise, finite, output_noise, tensor_noise
from ..ranges import keep_floating, measure
from ..rebundle import TABLE, is_quantised
from ..sets import CalibrationSet, new_folder
from ..table import MEASURED, Table

WORST = 5
"""Tensors that are named."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "--bundle", type=Path, default=DEFAULT_BUNDLE, metavar="DIR", help="default: the one in the package"
    )
    parser.add_argument(
        "--set", type=Path, required=True, metavar="SET", help="what edgeemo-calibrate select has written"
    )
    parser.add_argument(
        "--method", choices=MEASURED, default="percentile", help="of clipping (default: percentile)"
    )
    parser.add_argument(
        "--percentile",
        type=float,
        default=99.99,
        metavar="P",
        help="share of the non-zero magnitudes to keep, in percent (default: 99.99)",
    )
    parser.add_argument(
        "--equalise", action="store_true", help="even out the channels between two operators first"
    )
    parser.add_argument("--correct", action="store_true", help="correct biases for what rounding shifts")
    parser.add_argument(
        "--keep-floating",
        choices=("auto", "none"),
        default="none",
        help="auto: leave operators in floating point where that is worth its time (default: none)",
    )
    parser.add_argument(
        "--graph",
        nargs="+",
        metavar="NAME",
        help="encoders to measure (default: all that have INT8 graphs)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="TABLES", help="the folder that takes NAME.ranges.json"
    )


@dataclass(frozen=True)
class Measured:
    """One graph's table, and what it leaves."""

    table: Table
    choice: Choice | None
    outputs: dict[str, float]
    layers: list[TensorNoise]

    def to_dict(self, path: Path) -> dict[str, Any]:
        """What ``--json`` prints of one graph; a ratio without noise is null."""
        table = self.table
        return {
            "table": str(path),
            "digest": table.digest,
            "method": table.method,
            "percentile": table.percentile,
            "samples": table.samples,
            "equalised": list(table.equalisation),
            "corrected": list(table.corrections),
            "floating": list(table.floating),
            "choice": None if self.choice is None else self.choice.to_dict(),
            "sqnr_db": finite(self.outputs),
            "worst": [finite(dataclasses.asdict(layer)) for layer in self.layers[:WORST]],
        }


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Measure every graph, write its table, and say what is worst.

    Raises:
        InputError: there is no such graph, or no data for it.
        BundleError: the bundle cannot be used.
        OSError: a table cannot be written.
    """
    bundle = Bundle.read(arguments.bundle)
    data = CalibrationSet.read(arguments.set)
    data.check(bundle)
    data.refuse_expired(datetime.now(timezone.utc))
    names = _graphs(bundle, arguments.graph)
    for name in names:
        next(data.feeds(name))  # what has no data is said before the first graph takes its minutes
    measured = {}
    with new_folder(arguments.out):
        for name in names:
            console.status(f"{name}: {arguments.method}")
            measured[name] = _measure(bundle, name, data, arguments)
        # Not before: tables of some of the graphs alone would be taken for all of them.
        for name, found in measured.items():
            found.table.write(arguments.out / TABLE.format(name))
    report: dict[str, Any] = {}
    for name, found in measured.items():
        path = arguments.out / TABLE.format(name)
        report[name] = found.to_dict(path)
        if not arguments.json:
            for line in _lines(name, found, path):
                console.result(line)
    if arguments.json:
        console.json({"bundle": bundle.name, "set": data.sha256, "graphs": report})
    return 0


def _graphs(bundle: Bundle, wanted: Sequence[str] | None) -> list[str]:
    able = [name for name, spec in bundle.graphs.items() if is_quantised(spec)]
    if not able:
        raise InputError(f"{bundle.path}: none of its graphs has an INT8 encoding")
    for name in wanted or ():
        if name not in able:
            raise InputError(f"graph {name!r} has no INT8 encoding; those that have are {', '.join(able)}")
    return list(dict.fromkeys(wanted or able))


def _measure(bundle: Bundle, name: str, data: CalibrationSet, arguments: argparse.Namespace) -> Measured:
    bundle.read_file(bundle.graphs[name].files["fp32"])  # what is measured is what the manifest describes
    path = bundle.path / bundle.graphs[name].files["fp32"]

    def feeds() -> Iterator[dict[str, Any]]:
        return data.feeds(name)

    table = measure(
        path,
        feeds,
        method=arguments.method,
        percentile=arguments.percentile,
        equalise=arguments.equalise,
    )
    source, _ = read_model(path)
    choice = None
    if arguments.keep_floating == "auto":
        choice = choose(path, table, feeds)
        table = keep_floating(source, table, choice.floating)
    if arguments.correct:
        table = dataclasses.replace(table, corrections=corrections(source, table, feeds))
    return Measured(table, choice, output_noise(path, table, feeds), tensor_noise(path, table, feeds))


def _lines(name: str, found: Measured, path: Path) -> Iterator[str]:
    table = found.table
    used = [table.method if table.percentile is None else f"{table.method} {table.percentile:g}"]
    used += [f"{len(table.equalisation)} tensors equalised"] if table.equalisation else []
    used += [f"{len(table.corrections)} operators corrected"] if table.corrections else []
    yield f"{name}: {', '.join(used)}; {table.samples} samples"
    for output, value in found.outputs.items():
        yield f"  {output}: {value:.1f} dB signal to quantisation noise"
    yield "  worst tensors: " + ", ".join(
        f"{layer.tensor} ({layer.kind}) {layer.sqnr_db:.1f} dB" for layer in found.layers[:WORST]
    )
    if found.choice is not None:
        yield f"  in floating point: {_chosen(found.choice)}"
    yield f"  {path}, digest {table.digest}"


def _chosen(choice: Choice) -> str:
    if not choice.floating:
        return f"nothing, at {choice.before_db:.1f} dB"
    ratios, times = f"{choice.before_db:.1f} to {choice.after_db:.1f} dB", (choice.before_ms, choice.after_ms)
    return f"{', '.join(choice.floating)} ({ratios}, {times[0]:.3f} to {times[1]:.3f} ms)"
