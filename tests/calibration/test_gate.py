from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from edgeemo.figures import calibration_error, chance_error, recalls
from edgeemo_calibration.gate import (
    Answers,
    Changes,
    Interval,
    SetFigures,
    accuracy_rules,
    covered_rule,
    judge,
    mcnemar,
    resampled,
    speed_rule,
)

LABELS = ("anger", "calm", "joy")
Cells = Mapping[tuple[int, bool, bool], int]
"""How many items there are of a class that FP32, and that INT8, answers right."""


def answers(cells: Cells, speakers: tuple[str, ...] = ()) -> Answers:
    rows = [cell for cell, count in cells.items() for _ in range(count)]
    truth = np.array([label for label, _, _ in rows])
    tables = []
    for side in (1, 2):
        chosen = [row[0] if row[side] else (row[0] + 1) % 3 for row in rows]
        tables.append(np.where(np.eye(3)[chosen] > 0, 0.8, 0.1))
    return Answers(LABELS, truth, *tables, speakers or ("",) * len(rows))


def judged(cells: Cells) -> SetFigures:
    return judge(answers(cells), draws=50)


@pytest.mark.parametrize(
    ("lost", "won", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 * 1/2
        (3, 3, 1.0),  # twice the tail is more than 1
        (5, 0, 2 / 32),
        (6, 0, 2 / 64),
        (0, 6, 2 / 64),
        (8, 1, 2 * (1 + 9) / 512),
        (10, 2, 2 * (1 + 12 + 66) / 4096),
        (2, 10, 2 * (1 + 12 + 66) / 4096),
    ],
)
def test_mcnemar_is_the_two_sided_binomial(lost: int, won: int, p: float) -> None:
    assert mcnemar(lost, won) == pytest.approx(p, rel=1e-12)


def test_mcnemar_holds_many_items() -> None:
    assert mcnemar(2000, 2000) == 1.0
    assert mcnemar(1100, 1000) == pytest.approx(0.0307, abs=5e-4)  # z = (100 - 1) / sqrt(2100), two-sided


@pytest.mark.parametrize(
    ("lost", "won", "is_loss"), [(5, 0, False), (6, 0, True), (0, 6, False), (0, 0, False), (10, 2, True)]
)
def test_only_what_is_lost_beyond_chance_is_a_loss(lost: int, won: int, is_loss: bool) -> None:
    assert Changes(lost, won, mcnemar(lost, won)).is_loss is is_loss


@pytest.mark.parametrize(
    ("cells", "broken"),
    [
        # 500 items: the share that is kept. 495 of 500 are exactly 99 %.
        ({(0, True, True): 250, (1, True, True): 245, (1, True, False): 5}, []),
        (
            {(0, True, True): 248, (1, True, True): 246, (0, True, False): 2, (1, True, False): 4},
            [("kept", "WA of set"), ("kept", "UA of set")],
        ),
        # A rare class: the WA is kept, the UA is not; five losses are within chance.
        ({(0, True, True): 485, (1, True, True): 10, (1, True, False): 5}, [("kept", "UA of set")]),
        # 499 items: six losses of all are beyond chance, and five are not, though 98.8 % are kept.
        (
            {(0, True, True): 246, (0, True, False): 3, (1, True, True): 247, (1, True, False): 3},
            [("set", "set")],
        ),
        ({(0, True, True): 30, (0, True, False): 3, (1, True, True): 30, (1, True, False): 2}, []),
        # A class of a large set, while the set keeps more than 99 %.
        ({(0, True, True): 994, (0, True, False): 6, (1, True, True): 1000}, [("class", "anger in set")]),
        # A class that loses what another wins.
        (
            {(0, True, True): 20, (0, True, False): 6, (1, False, True): 6, (1, True, True): 20},
            [("class", "anger in set")],
        ),
        ({(0, True, True): 300, (1, True, True): 300, (2, False, False): 5}, []),
        ({(0, False, True): 300, (1, True, True): 300}, []),
        ({(0, False, False): 500, (1, False, False): 10}, []),  # nothing to keep
        ({(0, False, False): 1}, []),
    ],
)
def test_rules(cells: Cells, broken: list[tuple[str, str]]) -> None:
    rules = accuracy_rules("set", judged(cells))
    assert [(rule.name, rule.subject) for rule in rules if not rule.passed] == broken
    large = sum(cells.values()) >= 500
    present = {label for label, _, _ in cells}
    kinds = ["kept", "kept"] if large else ["set"]
    assert [rule.name for rule in rules] == kinds + ["class"] * len(present)


@pytest.mark.parametrize(("n", "kinds"), [(499, {"set", "class"}), (500, {"kept", "class"})])
def test_a_large_set_has_500_items(n: int, kinds: set[str]) -> None:
    rules = accuracy_rules("set", judged({(0, True, True): n}))
    assert {rule.name for rule in rules} == kinds and all(rule.passed for rule in rules)


@pytest.mark.parametrize(
    ("ratio", "passed", "said"),
    [
        (Interval(0.4, 0.39, 0.41), True, "0.400 (0.390 to 0.410)"),
        (Interval(0.97, 0.95, 0.9999), True, "0.970"),
        (Interval(0.97, 0.95, 1.0), False, "200 rounds could not tell"),
        (Interval(1.2, 1.1, 1.3), False, "1.200 (1.100 to 1.300)"),
    ],
)
def test_int8_must_be_faster(ratio: Interval, passed: bool, said: str) -> None:
    rule = speed_rule(ratio, 200)
    assert rule.passed is passed and said in rule.figures
    assert ("could not tell" in rule.figures) is (ratio.low < 1 <= ratio.high)


def made(n: int = 60, speakers: int = 6, seed: int = 3) -> Answers:
    random = np.random.default_rng(seed)
    truth = random.integers(3, size=n)
    fp32 = random.dirichlet([1, 1, 1], size=n) + 1.5 * np.eye(3)[truth] * random.random((n, 1))
    fp32 /= fp32.sum(axis=1, keepdims=True)
    int8 = np.abs(fp32 + random.normal(0, 0.1, fp32.shape)) + 0.01
    int8 /= int8.sum(axis=1, keepdims=True)
    fp32[0], int8[:2] = np.nan, np.nan
    return Answers(LABELS, truth, fp32, int8, tuple(f"s{row % speakers}" for row in range(n)))


def test_figures_are_those_of_evaluate() -> None:
    given = made()
    found = judge(given, draws=20)
    for table, side, place in ((given.fp32, "fp32", 0), (given.int8, "int8", 1)):
        chosen = np.where(np.isnan(table[:, 0]), -1, np.nan_to_num(table).argmax(axis=1))
        recall = recalls(given.truth, chosen)
        assert getattr(found.wa, side).value == pytest.approx(np.mean(chosen == given.truth))
        assert getattr(found.ua, side).value == pytest.approx(np.mean(list(recall.values())))
        assert getattr(found.ece, side).value == pytest.approx(calibration_error(table, given.truth))
        assert found.ece_chance[place] == pytest.approx(chance_error(table))
        assert [getattr(entry.recall, side).value for entry in found.classes] == pytest.approx(
            list(recall.values())
        )
        curve = found.reliability[place]
        gaps = sum(entry.n * abs(entry.accuracy - entry.confidence) for entry in curve)
        answered = sum(entry.n for entry in curve)
        assert gaps / answered == pytest.approx(getattr(found.ece, side).value)
    assert found.absent == (1, 2)
    both = ~np.isnan(given.fp32[:, 0]) & ~np.isnan(given.int8[:, 0])
    apart = np.abs(given.int8 - given.fp32)[both]
    assert (found.agreement.mean, found.agreement.worst) == pytest.approx((apart.mean(), apart.max()))
    lost = [entry.changes.lost for entry in found.classes]
    assert sum(lost) == found.changes.lost > 0


def test_intervals_are_drawn_by_seed() -> None:
    first, again, other = (judge(made(), draws=200, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.ua.fp32 != other.ua.fp32 and first.ua.fp32.value == other.ua.fp32.value
    for pair in (first.wa, first.ua, first.ece, *(entry.recall for entry in first.classes)):
        for figure in (pair.fp32, pair.int8):
            assert figure.low <= figure.value <= figure.high


def test_differences_are_paired() -> None:
    found = judge(answers({(0, True, True): 50, (1, False, False): 50}), draws=500)
    assert (found.wa.difference.low, found.wa.difference.high) == (0.0, 0.0)
    assert found.wa.fp32.high - found.wa.fp32.low > 0.1


def test_speakers_are_drawn_with_all_their_items() -> None:
    cells = {(0, True, True): 50, (1, False, False): 50}
    by_item = judge(answers(cells), draws=500)
    by_speaker = judge(answers(cells, ("a",) * 50 + ("b",) * 50), draws=500)
    assert (by_item.unit, by_item.units) == ("items", 100)
    assert (by_speaker.unit, by_speaker.units) == ("speakers", 2)
    assert (by_speaker.wa.fp32.low, by_speaker.wa.fp32.high) == (0.0, 1.0)
    assert by_item.wa.fp32.low > 0.35


@pytest.mark.parametrize("speakers", [("a",) * 4, ("a", "b", "", "c")])
def test_items_are_drawn_where_speakers_are_not_known(speakers: tuple[str, ...]) -> None:
    assert judge(answers({(0, True, True): 4}, speakers), draws=5).unit == "items"


def test_the_interval_of_a_share_is_that_of_the_binomial() -> None:
    found = judge(answers({(0, True, True): 80, (0, False, False): 20}), draws=4000).wa.fp32
    assert (found.low, found.high) == pytest.approx((0.72, 0.87), abs=0.015)


def test_a_sample_draws_as_many_units_as_there_are() -> None:
    blocks = list(resampled(7, 30, seed=0))
    counts = np.concatenate(blocks)
    assert counts.shape == (30, 7) and (counts.sum(axis=1) == 7).all() and counts.max() > 1


@pytest.mark.parametrize(("items", "passed"), [(0, False), (1, True), (500, True)])
def test_a_graph_that_no_item_reached_is_not_proven(items: int, passed: bool) -> None:
    rule = covered_rule("voice", items)
    assert (rule.name, rule.passed) == ("covered", passed)
    assert ("no item has a voice; give a set that does" in rule.figures) is not passed
