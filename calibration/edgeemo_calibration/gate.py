"""What INT8 must keep of FP32, and the statistics by which that is judged."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeemo.figures import BINS, bins, chance_error

DRAWS = 10_000
"""Bootstrap samples of an interval."""

LEVEL = 0.95
"""Of the intervals of accuracy and calibration."""

LARGE = 500
"""Items from which on a set is judged by the share that INT8 keeps, and not by a test of significance."""

KEPT = 0.99
"""Share of FP32's WA and of its UA that INT8 must keep on a large set."""

SIGNIFICANT = 0.05
"""McNemar p below which a loss is none of chance."""

_CELLS = 2_000_000  # of one block of bootstrap samples

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure of both precisions, and INT8 less FP32 on the same items."""

    fp32: Interval
    int8: Interval
    difference: Interval


@dataclass(frozen=True, slots=True)
class Changes:
    """Items on which one precision is right and the other wrong.

    Attributes:
        lost: answered right by FP32 alone.
        won: answered right by INT8 alone.
        p: of McNemar's exact test, two-sided.
    """

    lost: int
    won: int
    p: float

    @property
    def is_loss(self) -> bool:
        """Whether INT8 loses more than it wins, and by more than chance."""
        return self.lost > self.won and self.p < SIGNIFICANT


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class that the set has."""

    label: str
    n: int
    recall: Compared
    changes: Changes


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin of a reliability curve.

    Attributes:
        n: items whose top probability is in it.
        confidence: mean of these probabilities.
        accuracy: share of these items that is answered right.
    """

    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the answers of both precisions are apart.

    Attributes:
        labels: share of the items with the same most probable label.
        mean: mean difference of a probability, without its sign.
        worst: the largest one.
    """

    labels: float
    mean: float
    worst: float


@dataclass(frozen=True, slots=True)
class SetFigures:
    """What both precisions answer to one set.

    Attributes:
        n: items.
        unit: what the bootstrap draws, 'speakers' or 'items'.
        units: how many of them there are.
        wa: share of the items that are answered right.
        ua: mean recall of the classes present.
        ece: expected calibration error of the top probability.
        ece_chance: what a calibrated model would show of it, by `edgeemo.figures.chance_error`, with the top
            probabilities of FP32 and of INT8.
        classes: the classes present.
        changes: items of which the answer became wrong or right.
        agreement: of the answers.
        reliability: the bins that hold an item, of FP32 and of INT8.
        absent: items without an answer, of FP32 and of INT8; they count as wrong.
    """

    n: int
    unit: str
    units: int
    wa: Compared
    ua: Compared
    ece: Compared
    ece_chance: tuple[float, float]
    classes: tuple[ClassFigures, ...]
    changes: Changes
    agreement: Agreement
    reliability: tuple[tuple[Bin, ...], tuple[Bin, ...]]
    absent: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the gate, applied.

    Attributes:
        name: of the rule: 'usable', 'covered', 'kept', 'set', 'class' or 'faster'.
        subject: what it is applied to.
        passed: whether INT8 may pass by it.
        figures: what was measured, in words.
    """

    name: str
    subject: str
    passed: bool
    figures: str


@dataclass(frozen=True)
class Answers:
    """The items of one set with what both precisions answer.

    Args:
        labels: the classes of the model.
        truth: index of the true label of each item, ``[n]``, n >= 1.
        fp32: probabilities ``[n, L]`` of the FP32 graphs, NaN where there is no answer.
        int8: the same of the INT8 graphs.
        speakers: who each item is of; empty texts where the set does not say it.
    """

    labels: tuple[str, ...]
    truth: NDArray[np.int64]
    fp32: Floats
    int8: Floats
    speakers: tuple[str, ...]


# --- statistics


def mcnemar(lost: int, won: int) -> float:
    """McNemar's exact test, two-sided: how likely changes this lopsided are where neither side is favoured.

    Twice the lower tail of the binomial distribution of ``lost + won`` throws of a fair coin, 1 at most
    (McNemar, 1947, Psychometrika 12; the exact form in Fagerland, Lydersen and Laake, 2013, BMC Medical
    Research Methodology 13:91). It takes items for independent of each other.

    Args:
        lost: items on which the first alone is right.
        won: items on which the second alone is right.

    Example:
        >>> mcnemar(0, 5), mcnemar(5, 0), mcnemar(3, 3), mcnemar(0, 0)
        (0.0625, 0.0625, 1.0, 1.0)
    """
    throws = lost + won
    tail = sum(math.comb(throws, heads) for heads in range(min(lost, won) + 1))
    return min(1.0, float(2 * tail / 2**throws))


def resampled(units: int, draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Bootstrap samples: how often each unit is drawn, ``[k, units]`` in blocks of ``draws`` altogether.

    Args:
        units: as many as are drawn in each sample.
        draws: number of samples.
        seed: of the samples.
    """
    random = np.random.default_rng(seed)
    block = max(1, _CELLS // units)
    for start in range(0, draws, block):
        count = min(block, draws - start)
        drawn = random.integers(units, size=(count, units)) + units * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * units).reshape(count, units)


def bootstrap(sums: Floats, labels: int, draws: int, seed: int) -> Floats:
    """The figures of bootstrap samples of items, or of speakers with all their items.

    Args:
        sums: of each unit what `_tallies` counts, ``[units, k]``.
        labels: number of classes.
        draws: number of samples.
        seed: of the samples.

    Returns:
        ``[draws, 2, 3 + labels]``: for FP32 and INT8 the WA, the UA, the calibration error and the recall of
        each class, NaN where a sample has none of the class.
    """
    blocks = resampled(len(sums), draws, seed)
    return np.concatenate([_figures(counts @ sums, labels) for counts in blocks])


def judge(answers: Answers, *, draws: int = DRAWS, seed: int = 0) -> SetFigures:
    """Every figure of one set, with 95 % percentile bootstrap intervals.

    Speakers are drawn with all their items where every item has one and there are two or more; items
    otherwise. Each sample is drawn for both precisions, so the interval of a difference is a paired one.

    Args:
        answers: the set.
        draws: bootstrap samples.
        seed: of the samples.
    """
    labels = len(answers.labels)
    tallies = _tallies(answers)
    known = len(set(answers.speakers)) > 1 and all(answers.speakers)
    sums = _by_speaker(tallies, answers.speakers) if known else tallies
    value = _figures(tallies.sum(axis=0, keepdims=True), labels)[0]
    drawn = bootstrap(sums, labels, draws, seed)
    chosen = _chosen(answers.fp32), _chosen(answers.int8)
    right = chosen[0] == answers.truth, chosen[1] == answers.truth
    present = np.unique(answers.truth).tolist()
    return SetFigures(
        n=len(answers.truth),
        unit="speakers" if known else "items",
        units=len(sums),
        wa=_compared(value, drawn, 0),
        ua=_compared(value, drawn, 1),
        ece=_compared(value, drawn, 2),
        ece_chance=(chance_error(answers.fp32), chance_error(answers.int8)),
        classes=tuple(
            ClassFigures(
                label=answers.labels[place],
                n=int(np.count_nonzero(answers.truth == place)),
                recall=_compared(value, drawn, 3 + place),
                changes=_changes(*right, answers.truth == place),
            )
            for place in present
        ),
        changes=_changes(*right, np.ones(len(answers.truth), np.bool_)),
        agreement=_agreement(answers, *chosen),
        reliability=(_reliability(answers.fp32, right[0]), _reliability(answers.int8, right[1])),
        absent=(int(np.count_nonzero(chosen[0] < 0)), int(np.count_nonzero(chosen[1] < 0))),
    )


# --- rules


def accuracy_rules(name: str, figures: SetFigures) -> list[Rule]:
    """The rules of one set: the share that a large one keeps, the losses of a small one and of each class.

    A class is tested by itself, without a correction for how many there are: the gate guards each class, and
    a correction would let pass a loss that is plain in one class because others were looked at too. The price
    is a false alarm now and then, on which one calibrates anew.

    Args:
        name: of the set.
        figures: of it.
    """
    if figures.n >= LARGE:
        rules = [_kept(f"{what} of {name}", pair) for what, pair in (("WA", figures.wa), ("UA", figures.ua))]
    else:
        rules = [Rule("set", name, not figures.changes.is_loss, _said(figures.n, figures.changes))]
    for entry in figures.classes:
        said = _said(entry.n, entry.changes)
        rules.append(Rule("class", f"{entry.label} in {name}", not entry.changes.is_loss, said))
    return rules


def _kept(subject: str, pair: Compared) -> Rule:
    kept = pair.int8.value / pair.fp32.value if pair.fp32.value > 0 else 1.0
    # Means of the same recalls are not always the same to the last bit.
    passed = kept >= KEPT - 1e-12
    return Rule("kept", subject, passed, f"{kept:.2%} of {pair.fp32.value:.4f} kept: {pair.int8.value:.4f}")


def _said(n: int, changes: Changes) -> str:
    return f"of {n} items {changes.lost} lost and {changes.won} won, p = {changes.p:.3g}"


def covered_rule(graph: str, items: int) -> Rule:
    """The rule of one INT8 graph: a set must have items that reach it, or nothing was said of it.

    Args:
        graph: its name, which is that of its modality.
        items: of all sets that have this modality.
    """
    said = f"{items} items" if items else f"no item has a {graph}; give a set that does"
    return Rule("covered", f"graph {graph}", items > 0, said)


def speed_rule(ratio: Interval, rounds: int) -> Rule:
    """INT8 is faster when all of the interval of its time over FP32's is below 1.

    Args:
        ratio: of the time of one update, INT8 over FP32.
        rounds: that were measured.
    """
    said = f"INT8 takes {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) of the time of FP32"
    undecided = ratio.low < 1.0 <= ratio.high
    if undecided:
        said += f"; {rounds} rounds could not tell which is faster"
    return Rule("faster", "one update with one face", ratio.high < 1.0, said)


# --- one set, counted


def _tallies(answers: Answers) -> Floats:
    """Of each item what figures are made of by adding, ``[n, 3L + 2 * BINS + 2]``.

    Of each class whether the item is of it, and whether FP32 and INT8 find it; of each bin of either
    precision the gap between right and the top probability; and whether either answers.
    """
    labels = len(answers.labels)
    own = np.eye(labels)[answers.truth]
    columns, gaps, answered = [own], [], []
    for table in (answers.fp32, answers.int8):
        chosen = _chosen(table)
        there = chosen >= 0
        right = chosen == answers.truth
        top = np.where(there, np.nan_to_num(table).max(axis=1), 0.0)
        columns.append(own * right[:, None])
        gaps.append(np.eye(BINS)[bins(top)] * np.where(there, right - top, 0.0)[:, None])
        answered.append(there[:, None].astype(np.float64))
    return np.concatenate([*columns, *gaps, *answered], axis=1)


def _by_speaker(tallies: Floats, speakers: Sequence[str]) -> Floats:
    _, places = np.unique(np.array(speakers), return_inverse=True)
    sums = np.zeros((int(places.max()) + 1, tallies.shape[1]))
    np.add.at(sums, places.ravel(), tallies)
    return sums


def _figures(sums: Floats, labels: int) -> Floats:
    """Figures ``[d, 2, 3 + L]`` of sums ``[d, k]`` of tallies."""
    counts = sums[:, None, :labels]
    right = sums[:, labels : 3 * labels].reshape(-1, 2, labels)
    gaps = sums[:, 3 * labels : -2].reshape(-1, 2, BINS)
    there = counts > 0
    recall = np.where(there, right / np.where(there, counts, 1.0), np.nan)
    wa = right.sum(axis=2) / counts.sum(axis=2)
    ua = np.nansum(recall, axis=2) / there.sum(axis=2)
    ece = np.abs(gaps).sum(axis=2) / np.maximum(sums[:, -2:], 1.0)
    return np.concatenate([np.stack([wa, ua, ece], axis=2), recall], axis=2)


def _compared(value: Floats, drawn: Floats, column: int) -> Compared:
    both, apart = drawn[:, :, column], drawn[:, 1, column] - drawn[:, 0, column]
    return Compared(
        fp32=interval(float(value[0, column]), both[:, 0]),
        int8=interval(float(value[1, column]), both[:, 1]),
        difference=interval(float(value[1, column] - value[0, column]), apart),
    )


def interval(value: float, drawn: Floats, level: float = LEVEL) -> Interval:
    """A figure with the percentile interval of its bootstrap samples, but for those that are NaN.

    Example:
        >>> interval(2.0, np.arange(1.0, 4.0), level=1.0)
        Interval(value=2.0, low=1.0, high=3.0)
    """
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def _chosen(table: Floats) -> NDArray[np.int64]:
    """The most probable label of each item, -1 without an answer."""
    answered = ~np.isnan(table[:, 0])
    return np.where(answered, np.nan_to_num(table).argmax(axis=1), -1)


def _changes(fp32: NDArray[np.bool_], int8: NDArray[np.bool_], rows: NDArray[np.bool_]) -> Changes:
    lost, won = (int(np.count_nonzero(found & rows)) for found in (fp32 & ~int8, int8 & ~fp32))
    return Changes(lost, won, mcnemar(lost, won))


def _agreement(answers: Answers, fp32: NDArray[np.int64], int8: NDArray[np.int64]) -> Agreement:
    apart = np.abs(answers.int8 - answers.fp32)[(fp32 >= 0) & (int8 >= 0)]
    mean = float(apart.mean()) if apart.size else 0.0
    return Agreement(float(np.mean(fp32 == int8)), mean, float(apart.max(initial=0.0)))


def _reliability(table: Floats, right: NDArray[np.bool_]) -> tuple[Bin, ...]:
    answered = ~np.isnan(table[:, 0])
    top, hit = table[answered].max(axis=1, initial=0.0), right[answered]
    places = bins(top)
    return tuple(
        Bin(int(rows.sum()), float(top[rows].mean()), float(hit[rows].mean()))
        for rows in (places == place for place in range(BINS))
        if rows.any()
    )
