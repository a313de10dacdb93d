"""The page of quantisation methods: runs what is missing of the study, and writes it."""

from __future__ import annotations

import logging
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from edgeemo.inference.bundle import Bundle

from . import manifests, results
from .quantisation import (
    METHODS,
    TESTS,
    TRAINED,
    WRONG_SIZE,
    Bench,
    Figures,
    Heard,
    Job,
    Method,
    jobs,
    study,
)
from .quantisation_encodings import PAIRS, VARIANTS, Agreement, Encodings, Variant, compare, windows
from .quantisation_items import NARROW, NARROWED, NOISE, NOISES, TRAINING
from .quantisation_trained import Finetuner

log = logging.getLogger("edgeemo.export")

PROTOCOL = (
    "Splits are by speaker. Calibration items are of the training splits alone (FER+ train without every "
    "tenth picture; RAVDESS 02-14, nEMO EB0, IC0, KD0, KS0, EmoDB 03, 08, 09): as many pictures of each "
    "label, every second one jittered; a context of each clip in turn, every second one distorted. Every "
    "method gets the same draws, and a smaller set is the beginning of a larger one. What is measured is the "
    "encoding for the CPU, by `edgeemo evaluate`'s own code with the graph in the place of the FP32 one; the "
    "rest of the bundle is the same."
)
MEASURES = (
    "Figures are mean and standard deviation over the draws. SQNR is the energy of the FP32 tokens of the "
    "test set over that of their difference in INT8, in dB. Labels changed is the share of the items that "
    "INT8 answers otherwise than FP32, rightly or not."
)
LEARNT = (
    "Quantisation-aware training begins with the bundle's encoder and the percentile's ranges on as many "
    "items as bundles are calibrated on, learns to say in INT8 what the encoder says in FP32, on all of the "
    "training splits, and is done anew for each seed. Its SQNR is to the FP32 tokens of the encoder before."
)
Rows = Mapping[Job, Mapping[str, Figures]]


def write(
    data: Path,
    folder: Path,
    page: Path,
    sizes: Sequence[int],
    seeds: int,
    *,
    kept: Path | None = None,
    run: Path | None = None,
) -> None:
    """Measure what is missing of the study, compare the encodings, and write the page.

    Args:
        data: the corpora.
        folder: the bundle.
        page: the Markdown page.
        sizes: of the calibration sets.
        seeds: number of draws of each.
        kept: folder of the figures, with which it goes on where it stopped; one of its own that is thrown
            away without it.
        run: that the bundle was written from; with it there is a row of quantisation-aware training.

    Raises:
        InputError: the bundle lacks a graph, or the folder holds figures of other graphs.
        CheckFailed: INT8 cannot be measured on this processor.
    """
    bundle = Bundle.read(folder)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = Bench(bundle, manifests.write_all(data, scratch / "sets"))
        finetuner = None if run is None else Finetuner(run, data, bundle)
        todo = jobs(sizes, seeds, train=finetuner is not None)
        rows = study(bench, data, kept or scratch / "figures", todo, finetuner)
        references = {test: heard for name in TESTS for test, heard in bench.reference(name).items()}
        encodings = [compare(bundle, name, list(windows(data, name))) for name in TESTS]
    lines = _head(bundle, sizes, seeds, trained=run is not None)
    for name, tests in TESTS.items():
        for test in tests:
            lines += _section(name, test, references[test], rows, sizes)
    lines += _encodings(encodings)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines) + "\n")


def _head(bundle: Bundle, sizes: Sequence[int], seeds: int, *, trained: bool) -> list[str]:
    numbers, run = ",".join(map(str, sizes)), " --run RUN" if trained else ""
    lines = [
        "# Methods of quantisation",
        "",
        "Written by `edgeemo-export quantisation --data DATA --bundle BUNDLE --page PAGE "
        f"--sizes {numbers} --seeds {seeds}{run}`, of {bundle.name} {bundle.version}. {PROTOCOL}",
        "",
        f"{MEASURES} There are {seeds} draws, of the seeds 0 to {seeds - 1}; one draw has no deviation."
        if seeds > 1
        else f"{MEASURES} There is one draw, of the seed 0.",
    ]
    return [*lines, "", LEARNT] if trained else lines


# --- methods


def _section(name: str, test: str, reference: Heard, rows: Rows, sizes: Sequence[int]) -> list[str]:
    report = reference.report
    title, _ = results.SETS[test]
    lines = [
        "",
        f"## {title}",
        "",
        f"The {name} graph, {report.n:,} items, {len(reference.tokens):,} tokens. In FP32: "
        f"WA {report.wa:.3f}, UA {report.ua:.3f}.",
    ]
    columns = [f"{size:,} items" for size in sizes]
    for title, cell in MEASURED.items():
        found = {}
        for method in (*METHODS, TRAINED):
            given = [_of(rows, name, test, method, TRAINING, size) for size in sizes]
            if any(given):
                found[method] = [cell(figures) if figures else "" for figures in given]
        lines += ["", f"**{title}**", "", *_grid(columns, found)]
    return [*lines, "", *_best(name, test, rows, sizes), *_wrong(name, test, rows, sizes)]


def _of(rows: Rows, name: str, test: str, method: Method, source: str, size: int) -> list[Figures]:
    """The figures of every draw."""
    return [
        figures[test]
        for job, figures in rows.items()
        if (job.graph, job.method, job.source, job.size) == (name, method, source, size)
    ]


def _spread(values: Sequence[float], form: str) -> str:
    mean = f"{statistics.mean(values):{form}}"
    return f"{mean} ± {statistics.stdev(values):{form}}" if len(values) > 1 else mean


MEASURED: Mapping[str, Callable[[Sequence[Figures]], str]] = {
    "UA": lambda found: _spread([one.ua for one in found], ".3f"),
    "WA": lambda found: _spread([one.wa for one in found], ".3f"),
    "SQNR of the tokens, dB": lambda found: _spread([one.sqnr for one in found], ".1f"),
    "labels changed, %": lambda found: _spread([100.0 * one.changed for one in found], ".1f"),
}


def _grid(columns: Sequence[str], cells: Mapping[Method, Sequence[str]]) -> list[str]:
    lines = ["| method | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    return lines + [f"| {method.name} | " + " | ".join(row) + " |" for method, row in cells.items()]


def _best(name: str, test: str, rows: Rows, sizes: Sequence[int]) -> list[str]:
    """Which method keeps most of the signal, and what it gains with more items."""
    heard = {
        (method, size): statistics.mean(one.sqnr for one in _of(rows, name, test, method, TRAINING, size))
        for method in METHODS
        for size in sizes
    }
    least, most = min(sizes), max(sizes)
    best = max(METHODS, key=lambda method: heard[method, most])
    fewer = f"; with {least:,} it has {heard[best, least]:.1f} dB" if least < most else ""
    return [
        f"With {most:,} items {best.name} has the highest SQNR, {heard[best, most]:.1f} dB{fewer}. It is "
        f"the best of {len(METHODS)} by these test items, so that figure flatters."
    ]


def _wrong(name: str, test: str, rows: Rows, sizes: Sequence[int]) -> list[str]:
    lines = [
        "",
        f"Calibrated on {WRONG_SIZE:,} wrong items: noise ({NOISES[name]}), or {NARROWED[name]}.",
        "",
    ]
    sources = {NOISE: "noise", NARROW: "narrow"}
    if WRONG_SIZE in sizes:
        sources = {TRAINING: "training items", **sources}
    columns = [f"{shown}: {measure}" for shown in sources.values() for measure in ("UA", "SQNR", "changed")]
    cells: dict[Method, list[str]] = {}
    for method in METHODS:
        if not method.wrong:
            continue
        cells[method] = []
        for source in sources:
            found = _of(rows, name, test, method, source, WRONG_SIZE)
            cells[method] += [
                MEASURED[key](found) for key in ("UA", "SQNR of the tokens, dB", "labels changed, %")
            ]
    return [*lines, *_grid(columns, cells)]


# --- the two encodings


def _encodings(found: Sequence[Encodings]) -> list[str]:
    total = sum(one.pairs[0][0].windows for one in found)
    lines = [
        "",
        "## The two encodings",
        "",
        f"The bundle's own files on {total:,} real windows, pictures of FER+ valid and a context of clips of "
        "test speakers each, drawn with the seed 0, in ONNX Runtime on one thread. A label is what the "
        "fusion answers to the one token. Differences are of all numbers that leave the trunk, in steps of "
        "its last quantiser. Two things set the encodings apart. S8 clips at 127 steps, and U8 with zero "
        "point 0 goes on to 255: a window saturates when it holds such a number anywhere. And the CPU's file "
        "rounds every result, also those before a residual sum, which TensorRT's leaves in floating point so "
        "that the convolution and the sum fuse. Files with other steps have the scales, the weights and the "
        "places of rounding of the file that they are made of: they take one cause away.",
    ]
    for one in found:
        lines += ["", f"**{one.graph}**: {one.saturated:.1%} of the windows saturate.", "", *_pairs(one)]
        lines += ["", *_latencies(one)]
    return [*lines, "", *_verdict(found)]


def _pairs(found: Encodings) -> list[str]:
    lines = [
        "| pair | optimised | windows | equal labels | windows all equal | largest difference, steps | "
        "within one step |",
        "|---" * 7 + "|",
    ]
    named = [(_pair(one, other), "yes" if optimised else "no") for one, other, optimised in PAIRS]
    named.append(("the CPU's file without optimisations and with them", "no, yes"))
    for (pair, optimised), both in zip(named, [*found.pairs, found.optimised], strict=True):
        for kind, agreement in zip(("all", "unsaturated"), both, strict=True):
            if agreement is not None:
                lines.append(f"| {pair} | {optimised} | {_agreement(kind, agreement)} |")
    return lines


def _pair(one: Variant, other: Variant) -> str:
    return f"{one.name} and {other.name}"


def _agreement(kind: str, found: Agreement) -> str:
    shares = f"{found.labels:.1%} | {found.equal:.1%} | {found.largest:.2f} | {found.within:.2%}"
    return f"{kind}, {found.windows} | {shares}"


def _latencies(found: Encodings) -> list[str]:
    times = ", ".join(
        f"{variant.name} {value:.2f}" for variant, value in zip(VARIANTS, found.milliseconds, strict=True)
    )
    return [f"Median milliseconds of a call here, one thread, optimised: {times}."]


def _verdict(found: Sequence[Encodings]) -> list[str]:
    """What holds of equal labels and equal numbers, for the files as they are and with one cause gone."""
    lines = []
    for place, (one, other, optimised) in enumerate(PAIRS):
        clean = [both[1] for encodings in found if (both := encodings.pairs[place])[1] is not None]
        if optimised or not clean:
            continue
        windows = sum(agreement.windows for agreement in clean)
        labels = sum(agreement.labels * agreement.windows for agreement in clean) / windows
        exact = all(agreement.equal == 1.0 for agreement in clean)
        largest = max(agreement.largest for agreement in clean)
        numbers = "all numbers are equal" if exact else f"numbers differ by up to {largest:.1f} steps"
        lines.append(
            f"- {_pair(one, other)}, where nothing saturates ({windows:,} windows): {labels:.1%} of the "
            f"labels are equal, and {numbers}."
        )
    return ["What holds, without optimisations:", "", *lines]
