"""Measures a bundle on the protocol's test sets and writes the figures into the places that show them."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgeemo
from edgeemo.errors import InputError
from edgeemo.evaluate import evaluate
from edgeemo.figures import Report

from . import bundle as bundles
from . import manifests

log = logging.getLogger("edgeemo.export")

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
DRAWS = 10_000
SETS = {
    "ferplus": ("FER+ valid, majority protocol", "face, cropped"),
    "ravdess": ("RAVDESS, actors 17-20", "voice"),
    "emodb": ("EmoDB, speakers 11-14", "voice"),
    "nemo": ("nEMO, MP0, SM0, WR0", "voice"),
    "pairs": (
        "label-matched pairs, FER+ valid with RAVDESS 17-20 and EmoDB 11-14",
        "face, cropped, and voice",
    ),
    "clips": ("audio-visual clips, RAVDESS actor 01", "camera pictures and voice"),
}


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def ua(truth: NDArray[np.int64], answers: NDArray[np.int64], labels: int) -> float:
    """Mean recall over the classes present.

    Example:
        >>> ua(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
        0.75
    """
    present = np.bincount(truth, minlength=labels)
    right = np.bincount(truth[answers == truth], minlength=labels)
    return float((right[present > 0] / present[present > 0]).mean())


def bootstrap_ua(
    truth: NDArray[np.int64],
    answers: NDArray[np.int64],
    labels: int,
    baseline: NDArray[np.int64] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """UA, or its difference from a baseline's on the same items, with a percentile bootstrap over items.

    Args:
        truth: labels ``[n]``.
        answers: answers ``[n]``, -1 where there is none.
        labels: number of classes.
        baseline: answers to compare with, paired by item.
        draws: bootstrap samples.
        seed: of the samples.
    """

    def figure(rows: NDArray[np.int64]) -> float:
        value = ua(truth[rows], answers[rows], labels)
        return value if baseline is None else value - ua(truth[rows], baseline[rows], labels)

    random, count = np.random.default_rng(seed), len(truth)
    drawn = [figure(random.integers(count, size=count)) for _ in range(draws)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(figure(np.arange(count)), float(low), float(high))


def write(folder: Path, data: Path, work: Path, page: Path | None, documents: Sequence[Path]) -> None:
    """Measure the bundle in ``folder`` at INT8 and FP32, and write the figures.

    Args:
        folder: the bundle; its manifest's ``results`` are replaced.
        data: the corpora.
        work: folder for the manifests of the test sets.
        page: results page to write.
        documents: texts whose part between the two markers is replaced by the table.

    Raises:
        InputError: a document has no such part.
    """
    for document in documents:
        _marked(document)
    tests = manifests.write_all(data, work)
    entries, sections = [], []
    for name, path in tests.items():
        reports = {}
        for precision in ("int8", "fp32"):
            model = edgeemo.load(folder, precision=precision)
            reports[precision] = evaluate(path, model, face_is_cropped="cropped" in SETS[name][1])
            entries.append(entry(*SETS[name], name, precision, reports[precision]))
            log.info("%s %s: WA %.3f, UA %.3f", name, precision, reports[precision].wa, reports[precision].ua)
        sections.append(_section(name, reports))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["results"] = entries
    bundles.write_manifest(folder, manifest)
    table = _table(entries)
    for document in documents:
        before, after = _marked(document)
        document.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(_page(manifest, table, sections))


def _marked(document: Path) -> tuple[str, str]:
    text = document.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise InputError(
            f"{document}: it should have the lines {BEGIN} and {END} once each, around the figures"
        )
    return text.split(BEGIN)[0], text.split(END)[1]


def entry(data: str, given: str, name: str, precision: str, report: Report) -> dict[str, Any]:
    """One entry of a manifest's ``results``.

    Args:
        data: what was measured on.
        given: the modalities.
        name: of the test set's manifest.
        precision: of the graphs.
        report: what `edgeemo evaluate` measured.
    """
    entry: dict[str, Any] = {"data": data, "given": given, "precision": precision, "n": report.n}
    entry |= {"wa": round(report.wa, 4), "ua": round(report.ua, 4), "ece": round(report.ece, 4)}
    entry["ece_chance"] = round(report.ece_chance, 4)
    if report.single is not None and report.late is not None:
        entry["single"] = {key: round(value, 4) for key, value in report.single.items()}
        entry["late"] = round(report.late, 4)
    cropped = " --face-is-cropped" if "cropped" in given else ""
    entry["command"] = f"edgeemo evaluate {name}.csv{cropped} --precision {precision}"
    return entry


def _table(entries: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| test set | given | precision | n | WA | UA | ECE | ECE by chance "
        "| UA of the face, of the voice, of both added |",
        "|---" * 9 + "|",
    ]
    for entry in entries:
        alone = ""
        if "single" in entry:
            alone = ", ".join(f"{value:.3f}" for value in (*entry["single"].values(), entry["late"]))
        figures = " | ".join(f"{entry[key]:.3f}" for key in ("wa", "ua", "ece", "ece_chance"))
        named = " | ".join(str(entry[key]) for key in ("data", "given", "precision", "n"))
        lines.append(f"| {named} | {figures} | {alone} |")
    return "\n".join(lines)


def _section(name: str, reports: dict[str, Report]) -> str:
    """Intervals, recalls and what fusion and INT8 make of one test set."""
    report = reports["int8"]
    truth, answers = _answers(report, None)
    lines = [
        f"## {SETS[name][0]}",
        "",
        f"INT8: UA {bootstrap_ua(truth, answers, len(report.labels))}, {report.absent} without an answer.",
    ]
    recalls = ", ".join(f"{label} {value:.2f}" for label, value in report.recall.items())
    lines += [f"Recall: {recalls}.", f"INT8 keeps {report.wa / reports['fp32'].wa:.1%} of the WA of FP32."]
    if report.single is not None:
        best = max(report.single, key=lambda modality: report.single[modality])  # type: ignore[index]
        for what, baseline in ((f"the {best} alone", best), ("the added log-probabilities", "late")):
            gain = bootstrap_ua(truth, answers, len(report.labels), _answers(report, baseline)[1])
            lines.append(f"The fusion's UA less that of {what}, paired bootstrap: {gain}.")
    return "\n\n".join(["\n".join(lines[:1]), "\n".join(lines[2:])])


def _answers(report: Report, which: str | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """True labels, and answers of the fusion (None), of one modality or of their sum ('late')."""
    truth, answers = [], []
    for item in report.items:
        alone = item.emotion.by_modality
        if which is None:
            scores = item.emotion.probabilities
        elif which == "late":
            scores = (
                {
                    label: sum(float(np.log(max(table[label], 1e-12))) for table in alone.values())
                    for label in report.labels
                }
                if alone
                else None
            )
        else:
            scores = alone.get(which)
        truth.append(report.labels.index(item.label))
        answers.append(
            -1 if not scores else report.labels.index(max(scores, key=lambda label: scores[label]))
        )
    return np.array(truth), np.array(answers)


def _page(manifest: dict[str, Any], table: str, sections: Sequence[str]) -> str:
    provenance = manifest["provenance"]
    return (
        "\n\n".join(
            [
                f"# Results of {manifest['name']} {manifest['version']}",
                "Written by `edgeemo-export results`; one trained model, seed "
                f"{provenance['seed']}. Splits are by speaker. Trained on {'; '.join(provenance['data'])}; "
                f"calibrated on {'; '.join(provenance['development'])}. "
                f"Intervals are 95 % percentile bootstrap intervals over the items ({DRAWS:,} draws). "
                "ECE by chance is what a calibrated model would show on average, with the same top "
                "probabilities of as many items.",
                table,
                *sections,
            ]
        )
        + "\n"
    )
