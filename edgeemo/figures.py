"""Figures of merit: from true labels and answers to recalls, confusion and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeemo.recognition.probabilities import log_probabilities

if TYPE_CHECKING:
    from edgeemo.recognition.emotion import Emotion

BINS = 15
"""Equal-width bins of the top probability in the expected calibration error."""

_DIGITS = 6  # of the rates in `to_dict`


@dataclass(frozen=True, slots=True)
class Answer:
    """One item and what was answered.

    Attributes:
        line: line of the manifest, the header being line 1.
        label: the true label.
        speaker: who it is, or empty.
        emotion: the answer.
    """

    line: int
    label: str
    speaker: str
    emotion: Emotion


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured; rates are in [0, 1].

    What counts is the arg max of the probabilities, whatever the state; an item without any is wrong.

    Attributes:
        n: items.
        wa: share of the items that are answered right.
        ua: mean of the recalls of the classes present.
        recall: by class present.
        confusion: counts, a row per true label and a column per answer, both in the order of `labels`.
        labels: all classes of the model.
        ece: expected calibration error over the answered items, in 15 equal-width bins of the top
            probability.
        ece_chance: what a calibrated model would show as `ece` with the same top probabilities of as many
            items, on average; see [chance_error][].
        single: UA of each modality alone; None with one modality, or where the model does not say what two
            modalities alone show.
        late: UA of the added log-probabilities of the modalities; None with `single`.
        classes: the classes present, in the order of `labels`.
        absent: items without an answer, which are in no column of `confusion`.
        items: every item with its answer, in the order of the manifest; not in `to_dict`.
    """

    n: int
    wa: float
    ua: float
    recall: Mapping[str, float]
    confusion: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    ece: float
    ece_chance: float
    single: Mapping[str, float] | None
    late: float | None
    classes: tuple[str, ...]
    absent: int
    items: tuple[Answer, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The figures under their names, as JSON holds them."""
        return {
            "n": self.n,
            "wa": round(self.wa, _DIGITS),
            "ua": round(self.ua, _DIGITS),
            "recall": _rounded(self.recall),
            "confusion": [list(row) for row in self.confusion],
            "labels": list(self.labels),
            "ece": round(self.ece, _DIGITS),
            "ece_chance": round(self.ece_chance, _DIGITS),
            "single": None if self.single is None else _rounded(self.single),
            "late": None if self.late is None else round(self.late, _DIGITS),
            "classes": list(self.classes),
            "absent": self.absent,
        }

    def __str__(self) -> str:
        ece = f"ECE {self.ece:.3f} ({self.ece_chance:.3f} by chance)"
        lines = [f"n {self.n}, WA {self.wa:.1%}, UA {self.ua:.1%}, {ece}, absent {self.absent}"]
        if self.single is not None and self.late is not None:
            alone = ", ".join(f"{modality} {ua:.1%}" for modality, ua in self.single.items())
            lines.append(f"UA alone: {alone}; added log-probabilities {self.late:.1%}")
        width = max(len(label) for label in self.labels)
        lines.append(f"{'':<{width}}  recall  " + " ".join(f"{label[:5]:>5}" for label in self.labels))
        for label, row in zip(self.labels, self.confusion, strict=True):
            if label in self.recall:
                counts = " ".join(f"{count:>5}" for count in row)
                lines.append(f"{label:<{width}}  {self.recall[label]:>6.1%}  {counts}")
        return "\n".join(lines)


def report(labels: tuple[str, ...], alone: Sequence[str], items: Sequence[Answer]) -> Report:
    """The figures of `items`, of which there is at least one.

    Args:
        labels: the classes of the model.
        alone: the modalities that were given and that the model also answers alone; of two each is also
            measured alone, and their late fusion.
        items: items with labels out of `labels`.
    """
    truth = np.array([labels.index(item.label) for item in items])
    fused = _table([item.emotion.probabilities for item in items], len(labels))
    chosen = _best(fused)
    recall = recalls(truth, chosen)
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (truth[chosen >= 0], chosen[chosen >= 0]), 1)
    tables = {
        modality: _table([item.emotion.by_modality.get(modality) for item in items], len(labels))
        for modality in alone
    }
    joined = len(alone) > 1
    return Report(
        n=len(items),
        wa=float(np.mean(truth == chosen)),
        ua=_mean(recall),
        recall={labels[index]: value for index, value in recall.items()},
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        labels=labels,
        ece=calibration_error(np.exp(fused), truth),
        ece_chance=chance_error(np.exp(fused)),
        single={name: _ua(truth, logs) for name, logs in tables.items()} if joined else None,
        late=_ua(truth, _added(list(tables.values()))) if joined else None,
        classes=tuple(labels[index] for index in recall),
        absent=int(np.count_nonzero(chosen < 0)),
        items=tuple(items),
    )


def recalls(truth: NDArray[np.int64], chosen: NDArray[np.int64]) -> dict[int, float]:
    """Recall of every class that is in `truth`; -1 in `chosen` is no answer.

    Example:
        >>> recalls(np.array([0, 0, 2, 2]), np.array([0, -1, 2, 2]))
        {0: 0.5, 2: 1.0}
    """
    return {int(label): float(np.mean(chosen[truth == label] == label)) for label in np.unique(truth)}


def calibration_error(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """Expected calibration error (Guo et al., 2017, equation 3) of the top probability, but for rows of NaN.

    Args:
        probabilities: [n, L].
        truth: index of the true label of each row.

    Example:
        >>> calibration_error(np.array([[0.75, 0.25]] * 4), np.array([0, 0, 0, 1]))
        0.0
    """
    answered = ~np.isnan(probabilities[:, 0])
    top = probabilities[answered].max(axis=1)
    right = probabilities[answered].argmax(axis=1) == truth[answered]
    return float(np.abs(_by_bin(top, right - top)).sum() / max(top.size, 1))


def chance_error(probabilities: NDArray[np.float64]) -> float:
    """The expected calibration error that a calibrated model shows on average, as its items are few.

    Where each answer is right with its top probability p, the gap of a bin has the variance sum(p (1 - p)),
    and is on average sqrt(2 / pi) times its root, by the normal distribution; of bins with one
    or two items that is up to a tenth too little. An error below it says nothing against a model: Roelofs et
    al., Mitigating Bias in Calibration Error Estimation, 2022, show how the estimate grows as items become
    fewer.

    Args:
        probabilities: [n, L]; rows of NaN are left out.

    Example:
        >>> [round(chance_error(np.array([[0.75, 0.25]] * n)), 3) for n in (10, 1000)]
        [0.109, 0.011]
    """
    answered = ~np.isnan(probabilities[:, 0])
    top = probabilities[answered].max(axis=1)
    spread = np.sqrt(2.0 / np.pi * _by_bin(top, top * (1.0 - top)))
    return float(spread.sum() / max(top.size, 1))


def _by_bin(top: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    sums: NDArray[np.float64] = np.bincount(bins(top), weights=values, minlength=BINS).astype(np.float64)
    return sums


def bins(top: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each top probability; a bin holds its upper end, as in the formula, and the first also 0.

    Example:
        >>> bins(np.array([0.0, 1 / 15, 0.07, 1.0])).tolist()
        [0, 0, 1, 14]
    """
    places: NDArray[np.int64] = np.clip(np.ceil(top * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return places


def _table(rows: Sequence[Mapping[str, float] | None], width: int) -> NDArray[np.float64]:
    """Log-probabilities [n, width], NaN where there are none."""
    absent = np.full(width, np.nan)
    return np.stack([log_probabilities(row) if row else absent for row in rows])


def _best(logs: NDArray[np.float64]) -> NDArray[np.int64]:
    """The arg max of every row, -1 where there is none."""
    answered = ~np.isnan(logs[:, 0])
    return np.where(answered, np.argmax(np.where(answered[:, None], logs, 0.0), axis=1), -1)


def _added(tables: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The sum over the modalities that each item has."""
    stacked = np.stack(tables)
    given = np.count_nonzero(~np.isnan(stacked[:, :, 0]), axis=0)
    return np.where(given[:, None] > 0, np.nansum(stacked, axis=0), np.nan)


def _ua(truth: NDArray[np.int64], logs: NDArray[np.float64]) -> float:
    return _mean(recalls(truth, _best(logs)))


def _mean(values: Mapping[int, float]) -> float:
    return float(np.mean(list(values.values())))


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, _DIGITS) for name, value in values.items()}
