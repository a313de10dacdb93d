"""The study of quantisation: every method on every calibration set, measured on the test sets."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeemo.errors import CheckFailed
from edgeemo.evaluate import evaluate
from edgeemo.figures import Report
from edgeemo.inference.backend import open_graphs
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.graph import Graph
from edgeemo.inference.ort import OrtGraph
from edgeemo.inference.probe import saturates
from edgeemo.recognition.recognizer import Recognizer
from edgeemo_calibration import CPU, Table, measure
from edgeemo_calibration.encode import encode
from edgeemo_calibration.noise import decibels
from edgeemo_calibration.trunk import plan

from . import quantisation_items as items
from .bundle import CALIBRATION_ITEMS
from .config import keep
from .quantisation_trained import Finetuner
from .words import counted

log = logging.getLogger("edgeemo.export")

WRONG_SIZE = 512
TESTS = {"face": ("ferplus",), "voice": ("ravdess", "emodb")}
"""The test sets of each graph, by their names in `manifests`."""


@dataclass(frozen=True)
class Method:
    """A way from FP32 to INT8.

    Attributes:
        name: as the page shows it.
        ranges: how clipping points are chosen: a method of tables of `edgeemo_calibration`.
        equalise: whether the reach of neighbouring channels is made equal before.
        correct: whether biases make up for the mean error of each channel.
        wrong: whether it is calibrated on wrong items too.
    """

    name: str
    ranges: str
    equalise: bool = False
    correct: bool = False
    wrong: bool = True

    @property
    def slug(self) -> str:
        """Of the files of its figures."""
        return "-".join((self.ranges, *("equalised",) * self.equalise, *("corrected",) * self.correct))


METHODS = (
    Method("min-max", "min-max"),
    Method("percentile 99.99", "percentile"),
    Method("entropy", "entropy", wrong=False),
    Method("MSE", "mse"),
    Method("MSE + equalisation", "mse", equalise=True, wrong=False),
    Method("MSE + equalisation + bias correction", "mse", equalise=True, correct=True),
)
TRAINED = Method("quantisation-aware training", "trained", wrong=False)


@dataclass(frozen=True)
class Job:
    """One calibration to measure.

    Attributes:
        graph: ``'face'`` or ``'voice'``.
        source: of the calibration items, see `quantisation_items.draw`.
        seed: of their draw.
        method: what is done with them.
        size: their number.
    """

    graph: str
    source: str
    seed: int
    method: Method
    size: int

    @property
    def draw(self) -> tuple[str, str, int]:
        """What its items are drawn by; a smaller set is the beginning of a larger one."""
        return self.graph, self.source, self.seed

    @property
    def file(self) -> str:
        """Where its figures are kept."""
        return f"{self.graph}-{self.method.slug}-{self.source}-{self.size}-{self.seed}.json"


def jobs(sizes: Sequence[int], seeds: int, *, train: bool) -> list[Job]:
    """Every calibration of the study; those of one draw follow each other.

    Args:
        sizes: of the calibration sets.
        seeds: number of draws of each.
        train: whether to train too, with as many items as the training itself measures.
    """
    found = []
    for graph in TESTS:
        for seed in range(seeds):
            found += [Job(graph, items.TRAINING, seed, one, size) for size in sizes for one in METHODS]
            for source in (items.NOISE, items.NARROW):
                found += [Job(graph, source, seed, one, WRONG_SIZE) for one in METHODS if one.wrong]
            if train:
                found.append(Job(graph, items.TRAINING, seed, TRAINED, CALIBRATION_ITEMS))
    return found


@dataclass(frozen=True)
class Figures:
    """How an INT8 graph does on a test set.

    Attributes:
        n: items.
        wa: share of right answers.
        ua: mean recall.
        sqnr: signal-to-quantisation-noise ratio of the tokens in dB, on all of the set.
        changed: share of the items with another label than in FP32.
    """

    n: int
    wa: float
    ua: float
    sqnr: float
    changed: float


@dataclass(frozen=True)
class Begun:
    """What the figures of a folder are of: the sha256 of each FP32 graph."""

    graphs: Mapping[str, str]


class Listener:
    """A graph that keeps the tokens which it answered.

    Args:
        graph: what answers.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.spec, self.encoding, self.engine = graph.spec, graph.encoding, graph.engine
        self._tokens: list[NDArray[np.float32]] = []

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """As `Graph.run`."""
        answers = self._graph.run(feeds)
        self._tokens.append(answers["tokens"].copy())
        return answers

    def close(self) -> None:
        """As `Graph.close`."""
        self._graph.close()

    @property
    def tokens(self) -> NDArray[np.float32]:
        """All tokens in their order, ``[n, D]``."""
        return np.concatenate(self._tokens)


@dataclass(frozen=True)
class Heard:
    """What a graph made of a test set: the runtime's report, and every token on the way."""

    report: Report
    tokens: NDArray[np.float32]

    @property
    def answers(self) -> NDArray[np.int64]:
        """The place of the best label of each item, -1 without an answer."""
        found = [item.emotion.probabilities for item in self.report.items]
        return np.array(
            [-1 if one is None else np.argmax([one[x] for x in self.report.labels]) for one in found]
        )


class Bench:
    """Measures encoders by the runtime's own evaluation, beside the FP32 graphs of a bundle.

    Args:
        bundle: whose fusion and whose other graphs are used, in FP32.
        manifests: of the test sets, by name.
    """

    def __init__(self, bundle: Bundle, manifests: Mapping[str, Path]) -> None:
        self.bundle = bundle
        self._manifests = manifests
        self._graphs = open_graphs(bundle, "onnx", "fp32")
        self._references: dict[str, dict[str, Heard]] = {}
        self.seconds: dict[str, float] = {}

    def reference(self, name: str) -> dict[str, Heard]:
        """What the FP32 graph makes of each of its test sets."""
        if name not in self._references:
            began = time.monotonic()
            self._references[name] = {
                test: self._hear(name, self._graphs[name], test) for test in TESTS[name]
            }
            self.seconds[name] = time.monotonic() - began
        return self._references[name]

    def figures(self, name: str, model: onnx.ModelProto) -> dict[str, Figures]:
        """How a graph in the CPU's encoding does in the place of the FP32 one."""
        graph = OrtGraph(model.SerializeToString(), self.bundle.graphs[name], encoding=CPU.suffix)
        return {
            test: against(self._hear(name, graph, test), reference)
            for test, reference in self.reference(name).items()
        }

    def _hear(self, name: str, graph: Graph, test: str) -> Heard:
        listener = Listener(graph)
        model = Recognizer(self.bundle, {**self._graphs, name: listener})
        return Heard(evaluate(self._manifests[test], model, face_is_cropped=True), listener.tokens)


def against(found: Heard, reference: Heard) -> Figures:
    """The figures of a graph beside those of the one that it stands for."""
    noise = float(np.square(found.tokens - reference.tokens, dtype=np.float64).sum())
    signal = float(np.square(reference.tokens, dtype=np.float64).sum())
    return Figures(
        n=found.report.n,
        wa=found.report.wa,
        ua=found.report.ua,
        sqnr=decibels(signal, noise),
        changed=float((found.answers != reference.answers).mean()),
    )


def study(
    bench: Bench, data: Path, folder: Path, todo: Sequence[Job], finetuner: Finetuner | None = None
) -> dict[Job, dict[str, Figures]]:
    """Measure what is missing in a folder, and read back all of it.

    Args:
        bench: with the bundle and its test sets.
        data: the corpora, of which only training splits calibrate.
        folder: of the figures, a file each; it belongs to these graphs and is refused for others.
        todo: see `jobs`.
        finetuner: for the jobs that are trained; their folders lie in ``folder``.

    Raises:
        CheckFailed: INT8 cannot be measured on this processor.
        InputError: the folder holds the figures of other graphs.
    """
    if saturates():
        raise CheckFailed(
            "INT8 products saturate on this processor (x86 without VNNI): measure on another one"
        )
    bundle = bench.bundle
    keep(Begun({name: bundle.files[spec.files["fp32"]][1] for name, spec in bundle.graphs.items()}), folder)
    missing = [job for job in todo if not (folder / job.file).exists()]
    _foretell(bench, missing, len(todo))
    drawn = _Drawn(data, missing)
    for place, job in enumerate(missing, start=1):
        began = time.monotonic()
        source = bundle.path / bundle.graphs[job.graph].files["fp32"]
        if job.method == TRAINED:
            assert finetuner is not None
            model, table = finetuner.finetune(job.graph, job.seed, folder / f"{job.graph}-qat-{job.seed}")
        else:
            model, table = onnx.load(source), calibrated(source, job, drawn.of(job))
        figures = bench.figures(job.graph, encode(model, table, CPU))
        _write(folder / job.file, table, figures, time.monotonic() - began)
        told = ", ".join(f"{test} UA {one.ua:.3f}" for test, one in figures.items())
        log.info("%d of %d: %s: %s", place, len(missing), job.file.removesuffix(".json"), told)
    return {job: _read(folder / job.file) for job in todo}


class _Drawn:
    """The items of a job; those of the last draw are kept, for the jobs that share them follow each other."""

    def __init__(self, data: Path, todo: Sequence[Job]) -> None:
        self._data, self._todo = data, todo
        self._draw: tuple[str, str, int] | None = None
        self._items: NDArray[Any] = np.empty(0)

    def of(self, job: Job) -> NDArray[Any]:
        if self._draw != job.draw:
            most = max(one.size for one in self._todo if one.draw == job.draw)
            self._draw, self._items = job.draw, items.draw(self._data, job.graph, job.source, most, job.seed)
        return self._items[: job.size]


def calibrated(source: Path, job: Job, drawn: NDArray[Any]) -> Table:
    """The table of ranges of one method on its calibration items."""
    method = job.method
    return measure(
        source,
        items.feeds(job.graph, drawn),
        method=method.ranges,
        equalise=method.equalise,
        correct=method.correct,
    )


def _foretell(bench: Bench, missing: Sequence[Job], total: int) -> None:
    """Say how long the rest will take, by what FP32 takes on the test sets; a training is not foreseen."""
    seconds = 0.0
    trainings = sum(job.method == TRAINED for job in missing)
    for graph in dict.fromkeys(job.graph for job in missing):
        reference = bench.reference(graph)
        tokens = sum(len(heard.tokens) for heard in reference.values())
        spec = bench.bundle.graphs[graph]
        source = onnx.load(bench.bundle.path / spec.files["fp32"])
        operators = len(plan(source.graph, "trunk.")[0])
        for job in missing:
            if job.graph == graph:
                # Correction goes over the items once for each operator.
                passes = 1 + job.method.equalise + (1 + operators) * job.method.correct
                seconds += bench.seconds[graph] * (1.0 + passes * job.size / tokens)
    log.info(
        "%d of %d calibrations to measure, about %.0f minutes here%s",
        len(missing),
        total,
        seconds / 60.0,
        f" and {counted(trainings, 'training')}" if trainings else "",
    )


def _write(path: Path, table: Table, figures: Mapping[str, Figures], seconds: float) -> None:
    entry = {
        "table": table.digest,
        "seconds": round(seconds, 2),
        "figures": {test: asdict(one) for test, one in figures.items()},
    }
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps(entry, indent=1) + "\n")
    unfinished.replace(path)


def _read(path: Path) -> dict[str, Figures]:
    return {test: Figures(**entry) for test, entry in json.loads(path.read_text())["figures"].items()}
