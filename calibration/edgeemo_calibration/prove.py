"""Proves the INT8 graphs of a bundle against its FP32 graphs, on labelled recordings and on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import edgeemo
from edgeemo.bench.device import machine
from edgeemo.errors import CheckFailed, InputError
from edgeemo.evaluate import Item, evaluate, read_manifest
from edgeemo.figures import Report
from edgeemo.inference.backend import open_graphs
from edgeemo.inference.bundle import MANIFEST, Bundle, files_digest
from edgeemo.inference.choice import example
from edgeemo.inference.graph import Graph
from edgeemo.inference.onnx_files import OnnxFiles
from edgeemo.inference.work import work_of
from edgeemo.logs import saying_once
from edgeemo.recognition.recognizer import Recognizer

from . import encodings, latency
from .encode import CPU
from .gate import (
    DRAWS,
    Answers,
    Floats,
    Rule,
    SetFigures,
    accuracy_rules,
    covered_rule,
    judge,
    speed_rule,
)
from .noise import TensorNoise, finite, tensor_noise
from .table import Table, write_whole
from .windows import Feeds, Recorder

SCHEMA = 1
NOISE_WINDOWS = 64
"""Windows of each graph from which the noise of its layers is measured."""

BUDGETS = {"bytes": 1_500_000, "multiply_adds": 60_000_000}
"""Of all graphs of one precision together, and of one update with one face; totals are shown beside them."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Dataset:
    """One labelled set.

    Args:
        manifest: a CSV file as ``edgeemo evaluate`` reads it.
        cropped: its pictures already are face crops.
    """

    manifest: Path
    cropped: bool = False

    @property
    def name(self) -> str:
        """What it is called: its file without the suffix."""
        return self.manifest.stem


@dataclass(frozen=True)
class SetProof:
    """What was found on one set.

    Attributes:
        name: of the set.
        cropped: its pictures already are face crops.
        given: the modalities that its items have.
        sha256: digest of labels, speakers and contents of its files, in the order of the set.
        figures: accuracy, calibration and agreement of both precisions.
    """

    name: str
    cropped: bool
    given: tuple[str, ...]
    sha256: str
    figures: SetFigures


@dataclass(frozen=True)
class GraphCost:
    """What one graph takes to keep and to call.

    Attributes:
        graph: its name.
        bytes: of each of its files, by encoding.
        every: hops between two calls.
        multiply_adds: of one call with one row.
    """

    graph: str
    bytes: Mapping[str, int]
    every: int
    multiply_adds: int


@dataclass(frozen=True)
class LayerNoise:
    """What quantisation does to the layers of one graph, the worst first.

    Attributes:
        graph: its name.
        windows: from which it was measured.
        layers: the result of each quantised operator.
    """

    graph: str
    windows: int
    layers: tuple[TensorNoise, ...]


@dataclass(frozen=True)
class Proof:
    """The figures of a bundle's INT8 graphs, and whether they pass.

    Attributes:
        bundle: its name, version and 'files', the digest of its files.
        seed: of the bootstraps and samples.
        sets: what was found on each set; none where this machine cannot run INT8.
        rules: the rules of the gate, applied.
        latency: of both precisions here; None where this machine cannot run INT8.
        costs: of each graph.
        encodings: how far the two INT8 encodings agree.
        noise: of the layers of each graph whose table of ranges was given.
        machine: what it was measured on.
        versions: of Python and the libraries.
    """

    bundle: Mapping[str, str]
    seed: int
    sets: tuple[SetProof, ...]
    rules: tuple[Rule, ...]
    latency: latency.Latency | None
    costs: tuple[GraphCost, ...]
    encodings: tuple[encodings.EncodingAgreement, ...]
    noise: tuple[LayerNoise, ...]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def passed(self) -> bool:
        """Whether INT8 passes by every rule."""
        return all(rule.passed for rule in self.rules)

    @property
    def failures(self) -> list[str]:
        """What it does not pass by, a sentence each."""
        return [f"{rule.subject}: {rule.figures}" for rule in self.rules if not rule.passed]

    def totals(self) -> dict[str, Any]:
        """Bytes of all graphs of each precision, a graph without it in FP32, and the work of one update."""
        names = dict.fromkeys(encoding for cost in self.costs for encoding in cost.bytes)
        return {
            "bytes": {
                name: sum(cost.bytes.get(name, cost.bytes["fp32"]) for cost in self.costs) for name in names
            },
            "multiply_adds": round(sum(cost.multiply_adds / cost.every for cost in self.costs)),
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON holds it, with the verdict first."""
        rest = finite(asdict(self))
        kept = ("bundle", "seed", "rules", "sets", "latency", "costs")
        return {
            "schema": SCHEMA,
            "passed": self.passed,
            "failures": self.failures,
            **{name: rest[name] for name in kept},
            "totals": self.totals(),
            "budgets": BUDGETS,
            **{name: value for name, value in rest.items() if name not in kept},
        }

    def text(self) -> str:
        """The JSON of `to_dict`, as it is written and digested."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def entry(self) -> dict[str, Any]:
        """What a manifest says of it: ``proof`` with the digest of `text`, or why there is none."""
        if not self.passed:
            return {"passed": False, "unproven": "; ".join(self.failures)}
        return {
            "passed": True,
            "sha256": hashlib.sha256(self.text().encode()).hexdigest(),
            "files": self.bundle["files"],
            "data": [
                {"name": found.name, "n": found.figures.n, "sha256": found.sha256} for found in self.sets
            ],
        }

    def check(self) -> None:
        """Raise unless it passed.

        Raises:
            CheckFailed: the message holds every failure.
        """
        if not self.passed:
            raise CheckFailed(f"INT8 is not proven: {'; '.join(self.failures)}")

    def __str__(self) -> str:
        lines = [_summary(found) for found in self.sets]
        if self.latency is not None:
            update = self.latency.update
            lines.append(
                f"update: FP32 {update.fp32:.3f} ms, INT8 {update.int8:.3f} ms, one thread, "
                f"{self.latency.rounds} rounds"
            )
        lines += [f"failed: {failure}" for failure in self.failures]
        return "\n".join([*lines, "INT8 is proven" if self.passed else "INT8 is not proven"])


def prove(
    folder: str | os.PathLike[str],
    datasets: Sequence[Dataset],
    *,
    tables: Sequence[Table] = (),
    seed: int = 0,
    draws: int = DRAWS,
    limit: float = latency.LIMIT,
    progress: Progress | None = None,
) -> Proof:
    """Hold a bundle's INT8 graphs to its FP32 graphs, in ONNX Runtime with one thread.

    Args:
        folder: the bundle.
        datasets: what it is judged on, at least one; its names must differ.
        tables: of ranges behind its INT8 files, for the noise of their layers.
        seed: of the bootstraps and of the sample of windows.
        draws: bootstrap samples.
        limit: seconds for telling which precision is faster.
        progress: called with what is done next.

    Returns:
        the figures; `Proof.check` raises where INT8 does not pass.

    Raises:
        BundleError: the bundle cannot be used.
        InputError: it has no INT8 graphs for ONNX Runtime, a set is none, or a table is of other files.
        SourceError: a file of a set cannot be read.
    """
    bundle = Bundle.read(folder)
    bundle.verify()
    if not any(CPU.suffix in spec.files for spec in bundle.graphs.values()):
        raise InputError(
            f"{folder}: it has no {CPU.suffix} graphs to prove; edgeemo-calibrate encode writes them"
        )
    names = [dataset.name for dataset in datasets]
    if not names or len(set(names)) < len(names):
        found = ", ".join(names) or "none"
        raise InputError(f"the sets are {found}; give at least one, each of another name")
    by_graph = {_graph_of(bundle, table): table for table in tables}
    told = progress or (lambda _: None)
    told("costs")
    rest: dict[str, Any] = {
        "bundle": {"name": bundle.name, "version": bundle.version, "files": files_digest(bundle.files)},
        "seed": seed,
        "costs": tuple(_cost(bundle, name) for name in bundle.graphs),
        "machine": machine(),
        "versions": _versions(),
    }
    # Where INT8 cannot run, the runtime takes FP32: there is nothing to compare.
    unusable = OnnxFiles.choose(bundle, "int8", 1).warning
    if unusable:
        rules = (Rule("usable", "this machine", False, unusable),)
        return Proof(sets=(), rules=rules, latency=None, encodings=(), noise=(), **rest)
    return _proof(bundle, datasets, by_graph, draws, limit, told, rest)


def _proof(
    bundle: Bundle,
    datasets: Sequence[Dataset],
    tables: Mapping[str, Table],
    draws: int,
    limit: float,
    told: Progress,
    rest: Mapping[str, Any],
) -> Proof:
    """What `prove` finds where INT8 can run."""
    seed = rest["seed"]
    graphs = {name: open_graphs(bundle, "onnx", name, 1) for name in ("fp32", "int8")}
    recorders = {
        name: Recorder(graph, seed=seed) for name, graph in graphs["int8"].items() if name != "fusion"
    }
    models = {
        "fp32": Recognizer(bundle, graphs["fp32"]),
        "int8": Recognizer(bundle, {**graphs["int8"], **recorders}),
    }
    sets = []
    with saying_once():
        for dataset in datasets:
            reports = {}
            for precision, model in models.items():
                told(f"{dataset.name}, {precision}")
                reports[precision] = evaluate(dataset.manifest, model, face_is_cropped=dataset.cropped)
            sets.append(_set(bundle, dataset, reports, draws, seed))
    told("the two INT8 encodings")
    windows = {name: recorder.kept for name, recorder in recorders.items()}
    agreement = encodings.compare(bundle, windows, graphs["int8"]["fusion"])
    told("noise of the layers")
    noise = tuple(_noise(bundle, name, table, windows.get(name, [])) for name, table in tables.items())
    told("latency")
    timed = latency.measure(graphs["fp32"], graphs["int8"], limit=limit, seed=seed)
    for opened in graphs.values():
        _close(opened)
    rules = [
        covered_rule(name, sum(found.figures.n for found in sets if name in found.given))
        for name, spec in bundle.graphs.items()
        if CPU.suffix in spec.files
    ]
    rules += [rule for found in sets for rule in accuracy_rules(found.name, found.figures)]
    rules.append(speed_rule(timed.update.ratio, timed.rounds))
    return Proof(
        sets=tuple(sets), rules=tuple(rules), latency=timed, encodings=agreement, noise=noise, **rest
    )


def _close(graphs: Mapping[str, Graph]) -> None:
    for graph in graphs.values():
        graph.close()


def enter(folder: Path, proof: Proof) -> None:
    """Put the entry of a proof into a bundle's manifest, in place of the one that it has.

    Raises:
        InputError: the bundle is another one than was proven.
        OSError: the manifest cannot be written; it stays as it is.
    """
    bundle = Bundle.read(folder)
    if files_digest(bundle.files) != proof.bundle["files"]:
        raise InputError(f"{folder}: its files are not those that were proven; prove it again")
    manifest = {**json.loads((folder / MANIFEST).read_text(encoding="utf-8")), "proof": proof.entry()}
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


# --- one set


def _set(bundle: Bundle, dataset: Dataset, reports: Mapping[str, Report], draws: int, seed: int) -> SetProof:
    items = read_manifest(
        dataset.manifest, bundle.modalities, bundle.labels, reader="edgeemo-calibrate prove"
    )
    answered = reports["fp32"].items
    answers = Answers(
        labels=bundle.labels,
        truth=np.array([bundle.labels.index(item.label) for item in answered]),
        fp32=_probabilities(reports["fp32"]),
        int8=_probabilities(reports["int8"]),
        speakers=tuple(item.speaker for item in answered),
    )
    given = tuple(name for name in bundle.modalities if any(name in item.given for item in items))
    figures = judge(answers, draws=draws, seed=seed)
    return SetProof(dataset.name, dataset.cropped, given, digest(items), figures)


def _probabilities(report: Report) -> Floats:
    """[n, L], NaN without an answer."""
    absent = dict.fromkeys(report.labels, float("nan"))
    tables = [item.emotion.probabilities or absent for item in report.items]
    return np.array([[table[label] for label in report.labels] for table in tables], np.float64)


def digest(items: Sequence[Item]) -> str:
    """The sha256 of labels, speakers, texts and contents of files, in order; names of files do not count.

    Args:
        items: of a manifest.

    Raises:
        OSError: a file cannot be read.
    """
    whole = hashlib.sha256()
    for item in items:
        contents = {
            name: [hashlib.sha256(file.read_bytes()).hexdigest() for file in _files(path)]
            for name, path in item.paths.items()
        }
        whole.update(json.dumps([item.label, item.speaker, item.text, contents], sort_keys=True).encode())
    return whole.hexdigest()


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]


def _summary(found: SetProof) -> str:
    figures = found.figures
    parts = [
        f"{name} {pair.fp32.value:.4f} -> {pair.int8.value:.4f} "
        f"({pair.difference.low:+.4f} to {pair.difference.high:+.4f})"
        for name, pair in (("WA", figures.wa), ("UA", figures.ua), ("ECE", figures.ece))
    ]
    same = f"{figures.agreement.labels:.2%} of the labels equal"
    return f"{found.name}: n {figures.n}, {', '.join(parts)}, {same}"


# --- what a bundle costs, where it loses, and on which machine


def _graph_of(bundle: Bundle, table: Table) -> str:
    """The graph whose INT8 files come from a table."""
    for name, spec in bundle.graphs.items():
        if bundle.files[spec.files["fp32"]][1] == table.model_sha256 and spec.calibration == table.digest:
            return name
    raise InputError(
        f"bundle {bundle.path}: no graph of it comes from the table with the digest {table.digest[:12]}...; "
        "give the tables that it was encoded from"
    )


def _noise(bundle: Bundle, name: str, table: Table, windows: Sequence[Feeds]) -> LayerNoise:
    given = windows[:NOISE_WINDOWS]
    layers = tensor_noise(bundle.path / bundle.graphs[name].files["fp32"], table, given) if given else []
    return LayerNoise(name, len(given), tuple(layers))


def _cost(bundle: Bundle, name: str) -> GraphCost:
    spec = bundle.graphs[name]
    reference = spec.files["fp32"]
    work = work_of(bundle.read_file(reference), example(spec), reference)
    sizes = {encoding: bundle.files[file][0] for encoding, file in spec.files.items()}
    return GraphCost(name, sizes, spec.every, work.total)


def _versions() -> dict[str, str]:
    libraries = ("numpy", "onnxruntime", "onnx")
    return {
        "edgeemo": edgeemo.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in libraries},
    }
