"""Pieces of plots: where values lie, and that nothing of a picture is cut off or breaks the page."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ElementTree

import pytest

from edgeemo.html import document, figure, table
from edgeemo.plots import WIDTH, Axis, apart, bars, dots, frame, line, stacks, step, svg, text
from tests.support.pictures import outside, pictures, points

NASTY = "<b>&\"'" + "long" * 20


@pytest.mark.parametrize(
    ("axis", "value", "place"),
    [
        (Axis(0, 10, 100, 200), 2.5, 125),
        (Axis(0, 10, 200, 100), 2.5, 175),
        (Axis(0, 10, 100, 200), 99, 200),
        (Axis(0, 10, 100, 200), -1, 100),
        (Axis(1, 100, 0, 50, logarithmic=True), 10, 25),
        (Axis(1, 100, 0, 50, logarithmic=True), 0, 0),
    ],
)
def test_values_have_places(axis: Axis, value: float, place: float) -> None:
    assert axis.at(value) == pytest.approx(place)


@pytest.mark.parametrize("least", [3e-6, 0.099, 0.1, 0.52, 1.0, 7.0, 812.0])
@pytest.mark.parametrize("factor", [1.0, 1.02, 1.9, 30.0, 1e6])
def test_an_axis_of_ratios_holds_its_values_and_has_ticks(least: float, factor: float) -> None:
    axis = Axis.ratios(least, least * factor, 0, 100)
    assert axis.low <= least and least * factor <= axis.high
    assert axis.low > 0.19 * least and axis.high <= 5 * least * factor
    assert 3 <= len(axis.ticks) <= 11 and list(axis.ticks) == sorted(set(axis.ticks))
    assert axis.low <= axis.ticks[0] and axis.ticks[-1] <= axis.high


@pytest.mark.parametrize("most", [0.0004, 0.9, 1.0, 1.4, 3.99, 4.0, 10.0, 9999.0])
def test_a_linear_axis_has_some_round_ticks(most: float) -> None:
    axis = Axis.linear(most, 0, 100)
    assert axis.ticks[0] == 0 and axis.ticks[-1] == pytest.approx(axis.high)
    assert axis.high >= most > axis.high - 1.001 * step(most)
    assert 5 <= len(axis.ticks) <= 11


@pytest.mark.parametrize("wanted", [[5.0], [50.0, 50.0, 50.0], [99.0, 98.0, 1.0], [0.0, 0.0, 3.0, 4.0]])
def test_labels_keep_apart_and_stay_inside(wanted: list[float]) -> None:
    found = apart(wanted, 15, 0, 100)
    order = sorted(found)
    assert all(later - earlier >= 15 for earlier, later in itertools.pairwise(order))
    assert order[0] >= 0 and order[-1] <= 100
    assert max(abs(place - want) for place, want in zip(found, wanted, strict=True)) <= 45


def test_bars_are_as_long_as_their_values() -> None:
    picture = ElementTree.fromstring(bars([("face", {"fp32": 2.0, "int8": 1.0})], "ms", "Latency"))
    widths = {bar.attrib["class"]: float(bar.attrib["width"]) for bar in picture.iter("rect")}
    assert widths["fp32"] == pytest.approx(2 * widths["int8"], abs=0.1) and widths["int8"] > 0
    assert picture.attrib["role"] == "img" and picture.attrib["aria-label"] == "Latency"
    assert not outside(picture)


def test_parts_of_a_stack_follow_one_another() -> None:
    rows = [("detection", [("face", "face", 1.0), ("voice", "voice", 3.0), ("other", NASTY, 0.001)], 4.5)]
    picture = ElementTree.fromstring(stacks(rows, "ms", "Stages"))
    (first, second, third) = picture.iter("rect")
    ends = [float(bar.attrib["x"]) + float(bar.attrib["width"]) for bar in (first, second, third)]
    assert float(second.attrib["x"]) == pytest.approx(ends[0], abs=0.2)
    assert float(third.attrib["x"]) == pytest.approx(ends[1], abs=0.2)
    assert float(second.attrib["width"]) == pytest.approx(3 * float(first.attrib["width"]), abs=0.2)
    (mark,) = (one for one in picture.iter("path") if one.attrib["class"] == "whisker")
    assert next(points(mark.attrib["d"]))[0] > max(ends)
    assert not outside(picture)


def test_whatever_a_name_holds_the_picture_is_whole() -> None:
    x, y = Axis(0, 1, 48, 540), Axis.linear(1, 288, 28)
    drawn = [
        *frame(x, y, across="share", up="ms"),
        line(NASTY, [(50, 60)], NASTY),
        dots(NASTY, [(50, 60)], NASTY),
    ]
    page = document(
        NASTY,
        [
            bars([(NASTY, {NASTY: 1.0})], "ms", NASTY),
            stacks([(NASTY, [("face", NASTY, 1.0)], None)], "ms", NASTY),
            figure(svg(332, NASTY, drawn), NASTY),
            table(NASTY, (NASTY, ""), [("a", "b")]),
        ],
    )
    found = pictures(page)
    assert len(found) == 3 and not any(map(outside, found))
    for picture in found:
        assert picture.attrib["aria-label"] == NASTY
        assert any((one.text or "") == NASTY for one in picture.iter() if one.tag.endswith("title"))


def test_a_text_is_cut_to_its_room() -> None:
    cut = ElementTree.fromstring(text(WIDTH, 20, "x" * 40, "end", 65))
    assert cut.text == "x" * 9 + "…" and cut[0].text == "x" * 40
    assert ElementTree.fromstring(text(0, 20, "x" * 10, "start", 65)).text == "x" * 10
    assert ElementTree.fromstring(text(0, 20, "a<b>&c", "start")).text == "a<b>&c"


def test_what_is_cut_off_is_found() -> None:
    def cut(part: str) -> bool:
        return bool(outside(ElementTree.fromstring(svg(100, "", [part], 100))))

    assert cut(text(1, 50, "ab", "end")) and not cut(text(20, 50, "ab", "end"))
    assert cut('<rect x="90" y="0" width="11" height="1"/>') and cut('<circle cx="1" cy="5" r="2"/>')
    assert cut('<path d="M1 1h50v101"/>') and not cut('<path d="M1 1h50v50"/>')
