"""What an adaptation changed, how it is shown, and when the new bundle is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgeemo.figures import Report

from .alignment import MMD, Side
from .config import flat
from .words import counted

MOST_LOST = 0.03
"""By so much the UA on held-out speakers of the source, or on labelled items of the place, may fall."""

LEAST_KEPT = 0.75
"""Share of the effective number of classes answered at the place that must be left."""


@dataclass(frozen=True)
class Observed:
    """What one bundle says of the held-back recordings.

    Attributes:
        target: probabilities of each piece of the place, ``[n, K]``, NaN where nothing is answered.
        source_tokens: of held-out speakers of the source, ``[a, D]``.
        target_tokens: of the place, ``[b, D]``.
        source: figures on held-out speakers of the source.
        labelled: figures on labelled recordings of the place, None without such.
        temperature: of the voice alone.
    """

    target: NDArray[np.float64]
    source_tokens: Tensor
    target_tokens: Tensor
    source: Report
    labelled: Report | None
    temperature: float


def compare(
    before: Observed, after: Observed, labels: Sequence[str], config: Mapping[str, Any]
) -> dict[str, Any]:
    """The report: figures before and after, and why the new bundle is refused, if it is.

    Args:
        before: the bundle that was adapted.
        after: the new one, on the same recordings.
        labels: of both.
        config: settings of the adaptation, for the record.
    """
    pair = (before, after)
    answered = [one.target[~np.isnan(one.target[:, 0])] for one in pair]
    both = ~np.isnan(before.target[:, 0]) & ~np.isnan(after.target[:, 0])
    changed = before.target[both].argmax(axis=1) != after.target[both].argmax(axis=1)
    shares = [_shares(one, len(labels)) for one in answered]
    report: dict[str, Any] = {
        "distance": _both([distance(one.source_tokens, one.target_tokens) for one in pair]),
        "target": {
            "pieces": len(before.target),
            "confidence": _both([float(one.max(axis=1).mean()) if len(one) else 0.0 for one in answered]),
            "changed": round(float(changed.mean()), 4) if len(changed) else 0.0,
            "classes": _both([effective(one) for one in shares]),
            "answers": {label: _both([one[place] for one in shares]) for place, label in enumerate(labels)},
        },
        "source": _figures([one.source for one in pair]),
        "temperature": _both([one.temperature for one in pair]),
        "config": dict(config),
        "limits": {"ua_lost": MOST_LOST, "classes_kept": LEAST_KEPT},
    }
    if before.labelled is not None and after.labelled is not None:
        report["labelled"] = _figures([before.labelled, after.labelled])
    report["refused"] = refusals(report)
    return report


def refusals(report: Mapping[str, Any]) -> list[str]:
    """Why a new bundle is worse than the old one; nothing where it is not.

    It is refused when it forgets the source, when it is known to do worse at the place, when its answers
    there fall together into fewer classes (counted as the exponential of the entropy of their shares), or
    when it brings place and source no closer.
    """
    why = []
    classes, distances = report["target"]["classes"], report["distance"]
    for part, name in (
        ("source", "held-out speakers of the source"),
        ("labelled", "labelled items of the place"),
    ):
        ua = report[part]["ua"] if part in report else {"before": 0.0, "after": 0.0}
        # Rates are rounded, so that what is a loss of exactly the limit is one.
        if round(ua["before"] - ua["after"], 6) > MOST_LOST:
            why.append(
                f"UA on {name} falls from {ua['before']:.3f} to {ua['after']:.3f}; "
                f"at most {MOST_LOST} may be lost"
            )
    if classes["after"] < LEAST_KEPT * classes["before"]:
        why.append(
            f"answers at the place fall together, from {classes['before']:.2f} classes in effect to "
            f"{classes['after']:.2f}; at least {LEAST_KEPT:.0%} must be left"
        )
    if not distances["after"] < distances["before"]:
        why.append(
            f"the place is no closer to the source: the distance was {distances['before']:.4f} and is "
            f"{distances['after']:.4f}"
        )
    return why


def distance(source: Tensor, target: Tensor) -> float:
    """Squared maximum mean discrepancy between tokens ``[a, D]`` and ``[b, D]``, as `alignment.MMD` has it.

    Its kernels are as wide as the tokens lie apart, so it does not fall by making all tokens small.
    """
    return float(MMD()(Side(source), Side(target)))


def effective(shares: NDArray[np.float64]) -> float:
    """Effective number of classes, the exponential of the entropy of their shares ``[K]``.

    Example:
        >>> effective(np.array([0.5, 0.5, 0.0])), effective(np.array([0.0, 1.0, 0.0]))
        (2.0, 1.0)
    """
    given = shares[shares > 0]
    return round(float(np.exp(-(given * np.log(given)).sum())), 6)


def _shares(probabilities: NDArray[np.float64], labels: int) -> NDArray[np.float64]:
    counts = np.bincount(probabilities.argmax(axis=1), minlength=labels)
    return np.asarray(counts / max(1, counts.sum()), np.float64)


def _both(values: Sequence[float]) -> dict[str, float]:
    before, after = values
    return {"before": round(float(before), 4), "after": round(float(after), 4)}


def _figures(reports: Sequence[Report]) -> dict[str, Any]:
    return {
        "n": reports[0].n,
        "wa": _both([report.wa for report in reports]),
        "ua": _both([report.ua for report in reports]),
        "ece": _both([report.ece for report in reports]),
    }


def page(report: Mapping[str, Any]) -> str:
    """The report as a Markdown page."""
    target, source = report["target"], report["source"]
    rows = [
        ("distance between source and place (MMD of tokens)", report["distance"]),
        ("mean confidence at the place", target["confidence"]),
        ("classes answered at the place, in effect", target["classes"]),
        (f"WA, held-out speakers of the source (n {source['n']})", source["wa"]),
        (f"UA, held-out speakers of the source (n {source['n']})", source["ua"]),
        (f"ECE, held-out speakers of the source (n {source['n']})", source["ece"]),
    ]
    if "labelled" in report:
        labelled = report["labelled"]
        rows += [
            (f"{key.upper()}, labelled at the place (n {labelled['n']})", labelled[key])
            for key in ("wa", "ua", "ece")
        ]
    rows.append(("temperature of the voice alone", report["temperature"]))
    rows += [(f"share of {label} at the place", value) for label, value in target["answers"].items()]
    lines = [f"| {name} | {value['before']:.3f} | {value['after']:.3f} |" for name, value in rows]
    verdict = "\n".join(f"- {reason}" for reason in report["refused"])
    return "\n".join(
        [
            "# Adaptation",
            "",
            "Written by `edgeemo-export adapt`. What is measured here was not adapted to: "
            f"{counted(target['pieces'], 'piece')} of the place and {counted(source['n'], 'item')} of the "
            "source, of sessions and speakers of their own. The answer changed for "
            f"{target['changed']:.1%} of the pieces.",
            "",
            "| figure | before | after |",
            "|---|---|---|",
            *lines,
            "",
            f"Settings: {', '.join(f'{name} {value}' for name, value in flat(report['config']).items())}.",
            "",
            f"Refused:\n\n{verdict}" if verdict else "Accepted.",
            "",
        ]
    )
