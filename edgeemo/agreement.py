"""How far two runners of one bundle are apart, and how far they may be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeemo.errors import CheckFailed

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far apart two runners may be before they disagree.

    Attributes:
        cosine: least mean cosine over the rows of an output.
        worst: least cosine of any row.
        relative: largest difference in an output, as a share of the largest value of the reference.
        probability: largest difference of a probability in an answer.
        agreement: least share of rows of logits, and of answers, with the same label and the same state.
    """

    cosine: float
    worst: float
    relative: float
    probability: float
    agreement: float


TOLERANCES: Mapping[str, Tolerance] = {
    # Two engines add in another order: 1e-7 per sum, some 1e-6 after all layers, and up to ten times that
    # where one convolves by Winograd. TF32 keeps 10 bits of a factor, which moves the tokens of the default
    # bundle by 4e-4 and more of their largest value: that must be found.
    "fp32": Tolerance(0.99999, 0.9999, 2e-4, 1e-3, 0.99),
    # A step of FP16 is 2^-11 of the value: with sums in FP32, some 3e-3 after 30 layers that err
    # independently; with sums in FP16 over a thousand products, up to ten times that. A noise of 3 % of the
    # signal is a cosine of 1 - 0.03^2 / 2 = 0.9995.
    "fp16": Tolerance(0.9995, 0.999, 0.05, 0.05, 0.95),
    # Rounding to steps of range / 127 is noise of step^2 / 12. With a range of four to eight times the RMS
    # that is 3e-4 of a tensor's power; some 30 tensors (weights and activations) make 1 %, a cosine of 0.995.
    # Twice that noise may be, in the mean; a single row that leaves the calibrated ranges is cut off besides.
    "int8": Tolerance(0.99, 0.95, 0.3, 0.3, 0.9),
    # One INT8 graph in two engines: values that lie at the border between two steps fall to either side, and
    # each such step is carried on. That cannot add more noise than rounding itself, and most values do not
    # lie there: a fifth of the noise that INT8 may have.
    "int8 engines": Tolerance(0.998, 0.99, 0.15, 0.15, 0.95),
}
"""By what is compared: a graph of this precision with the one in FP32; 'int8 engines' with itself."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One output of one graph, computed by two runners from the same windows.

    Attributes:
        graph: the graph.
        output: the output.
        runner: who computed it, such as 'onnx int8'.
        against: whose values are taken for right.
        kind: the key of the tolerance.
        rows: vectors along the last axis, of all windows.
        bad_rows: those of the runner that are not finite; all figures are then NaN.
        maximum: largest absolute difference.
        mean: mean absolute difference.
        relative: `maximum` over the largest absolute value of the reference.
        cosine: mean over the rows.
        worst: least of any row.
        agreement: share of the rows with the same arg max; None for what are no logits.
    """

    graph: str
    output: str
    runner: str
    against: str
    kind: str
    rows: int
    bad_rows: int
    maximum: float
    mean: float
    relative: float
    cosine: float
    worst: float
    agreement: float | None

    @classmethod
    def of(
        cls, graph: str, output: str, runner: str, against: str, kind: str, given: Rows, right: Rows
    ) -> Difference:
        """Measure `given` against `right`, both [rows, width], the latter finite."""
        figures = [math.nan] * 5
        agreement = None
        bad = int(np.count_nonzero(~np.isfinite(given).all(axis=1)))
        if not bad:
            apart = np.abs(given.astype(np.float64) - right)
            largest = max(float(np.abs(right).max()), float(np.finfo(np.float32).tiny))
            cosines = cosine(given, right)
            figures = [apart.max(), apart.mean(), apart.max() / largest, cosines.mean(), cosines.min()]
            if output.endswith("logits"):
                agreement = float(np.mean(given.argmax(axis=1) == right.argmax(axis=1)))
        maximum, mean, relative, mean_cosine, worst = map(float, figures)
        return cls(
            graph=graph,
            output=output,
            runner=runner,
            against=against,
            kind=kind,
            rows=len(given),
            bad_rows=bad,
            maximum=maximum,
            mean=mean,
            relative=relative,
            cosine=mean_cosine,
            worst=worst,
            agreement=agreement,
        )

    def failures(self) -> list[str]:
        """What is beyond tolerance, one sentence each."""
        where = f"graph {self.graph!r}, output {self.output!r}: {self.runner}"
        if self.bad_rows:
            return [f"{where} is not finite in {self.bad_rows} of {self.rows} rows"]
        limit = TOLERANCES[self.kind]
        return [
            f"{where} against {self.against}: {wrong}"
            for wrong in (
                _below("the mean cosine", self.cosine, limit.cosine),
                _below("the cosine of a row", self.worst, limit.worst),
                _above("the relative difference", self.relative, limit.relative),
                _below("the share of equal labels", self.agreement, limit.agreement),
            )
            if wrong
        ]


@dataclass(frozen=True, slots=True)
class Answers:
    """What one runner answered to a whole source; row i of each is answer i.

    Attributes:
        probabilities: [n, L], NaN where the answer is 'absent'.
        states: [n].
    """

    probabilities: Rows
    states: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EndDifference:
    """The answers of two runners to one source.

    Attributes:
        runner: whose answers.
        against: whose answers are taken for right.
        kind: the key of the tolerance.
        answers: how many there are.
        maximum: largest difference of a probability.
        mean: mean difference of the probabilities.
        labels: share of the answers whose most probable label is the same.
        states: share of the answers with the same state.
    """

    runner: str
    against: str
    kind: str
    answers: int
    maximum: float
    mean: float
    labels: float
    states: float

    @classmethod
    def of(cls, runner: str, against: str, kind: str, given: Answers, right: Answers) -> EndDifference:
        """Measure `given` against `right`, which answer the same hops and faces."""
        apart = np.abs(given.probabilities.astype(np.float64) - right.probabilities)
        judged = ~np.isnan(apart).any(axis=1)
        same = np.array(given.states) == np.array(right.states)
        labels = given.probabilities.argmax(axis=1) == right.probabilities.argmax(axis=1)
        return cls(
            runner=runner,
            against=against,
            kind=kind,
            answers=len(given.states),
            maximum=float(apart[judged].max(initial=0.0)),
            mean=float(apart[judged].mean()) if judged.any() else 0.0,
            labels=float(np.mean(np.where(judged, labels, same))),
            states=float(np.mean(same)),
        )

    def failures(self) -> list[str]:
        """What is beyond tolerance, one sentence each."""
        limit = TOLERANCES[self.kind]
        return [
            f"answers: {self.runner} against {self.against}: {wrong}"
            for wrong in (
                _above("the difference of a probability", self.maximum, limit.probability),
                _below("the share of equal labels", self.labels, limit.agreement),
                _below("the share of equal states", self.states, limit.agreement),
            )
            if wrong
        ]


@dataclass(frozen=True)
class Comparison:
    """What was compared and what was found.

    Attributes:
        bundle: name of the bundle.
        source: what the windows are of.
        windows: how many each graph was compared on; none where the source has nothing for it.
        engines: by runner, what runs it.
        graphs: every output of every graph.
        answers: the end result.
        skipped: by runner that could not be compared, why not.
        broken: what a runner failed with, one sentence each.
    """

    bundle: str
    source: str
    windows: Mapping[str, int]
    engines: Mapping[str, str]
    graphs: Sequence[Difference] = ()
    answers: Sequence[EndDifference] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    broken: Sequence[str] = ()

    @property
    def failures(self) -> list[str]:
        """What is beyond tolerance or broken, one sentence each; empty when all agree."""
        graphs = [failure for part in self.graphs for failure in part.failures()]
        return [*self.broken, *graphs, *(failure for part in self.answers for failure in part.failures())]

    def check(self) -> None:
        """Raise unless all agree.

        Raises:
            CheckFailed: the message holds every failure.
        """
        failures = self.failures
        if failures:
            raise CheckFailed("; ".join(failures))

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON holds it; a figure that is not finite is None."""
        return {
            "bundle": self.bundle,
            "source": self.source,
            "agrees": not self.failures,
            "engines": dict(self.engines),
            "windows": dict(self.windows),
            "graphs": [_finite(asdict(part)) for part in self.graphs],
            "answers": [_finite(asdict(part)) for part in self.answers],
            "skipped": dict(self.skipped),
            "failures": self.failures,
            "tolerances": {kind: asdict(tolerance) for kind, tolerance in TOLERANCES.items()},
        }

    def __str__(self) -> str:
        lines = [f"engines: {'; '.join(dict.fromkeys(self.engines.values()))}", ""]
        for graph, count in self.windows.items():
            if not count:
                lines += [f"{graph}: not compared, {self.source} has nothing for it", ""]
                continue
            rows = [part for part in self.graphs if part.graph == graph]
            alone = "" if rows else f", {next(iter(self.engines))} alone runs it"
            lines.append(f"{graph}: {count} window{'s' * (count > 1)}{alone}")
            lines += [*_table(_GRAPH_HEAD, [_graph_row(part) for part in rows]), ""]
        if self.answers:
            lines += [f"answers: {self.answers[0].answers}"]
            lines += [*_table(_ANSWER_HEAD, [_answer_row(part) for part in self.answers]), ""]
        reasons: dict[str, list[str]] = {}
        for runner, why in self.skipped.items():
            reasons.setdefault(why, []).append(runner)
        lines += [f"{', '.join(runners)}: not compared, {why}" for why, runners in reasons.items()]
        count = len(self.failures)
        lines.append(f"{count} beyond tolerance" if count else "all within tolerance")
        return "\n".join(lines)


def cosine(given: Rows, right: Rows) -> NDArray[np.float64]:
    """Cosine of each row with its like; 1 where both are all zeros, 0 where one is.

    Example:
        >>> cosine(np.float32([[1, 0], [0, 0], [0, 2]]), np.float32([[1, 0], [0, 0], [0, 0]])).tolist()
        [1.0, 1.0, 0.0]
    """
    a, b = given.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    product = lengths[0] * lengths[1]
    ratio = (a * b).sum(axis=1) / np.where(product > 0, product, 1.0)
    return np.where((lengths[0] == 0) & (lengths[1] == 0), 1.0, ratio)


def _below(figure: str, value: float | None, least: float) -> str:
    return f"{figure} is {value:.6g}, less than {least:g}" if value is not None and value < least else ""


def _above(figure: str, value: float, most: float) -> str:
    return f"{figure} is {value:.6g}, more than {most:g}" if value > most else ""


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


_GRAPH_HEAD = ("output", "runner", "against", "maximum", "mean", "relative", "cosine", "worst", "labels", "")
_ANSWER_HEAD = ("runner", "against", "maximum", "mean", "labels", "states", "")


def _graph_row(part: Difference) -> tuple[str, ...]:
    labels = "-" if part.agreement is None else f"{part.agreement:.3f}"
    figures = (f"{part.maximum:.3g}", f"{part.mean:.3g}", f"{part.relative:.3g}")
    cosines = (f"{part.cosine:.6f}", f"{part.worst:.6f}")
    return (part.output, part.runner, part.against, *figures, *cosines, labels, _mark(part))


def _answer_row(part: EndDifference) -> tuple[str, ...]:
    figures = (f"{part.maximum:.3g}", f"{part.mean:.3g}", f"{part.labels:.3f}", f"{part.states:.3f}")
    return (part.runner, part.against, *figures, _mark(part))


def _mark(part: Difference | EndDifference) -> str:
    return "<- beyond" if part.failures() else ""


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The rows below their head, in columns; nothing without rows."""
    cells = [head, *rows] if rows else []
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
