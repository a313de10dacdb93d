"""Emotions joined into a timeline."""

from __future__ import annotations

from typing import Any

import pytest

from edgeemo.delivery.lines import Timeline, segment_line
from edgeemo.recognition.emotion import Emotion


def answer(hop: int, label: str | None = "fear", track: int | None = 1, **fields: Any) -> Emotion:
    """The answer of hop `hop` on a grid of 0.1 s; without a label it is uncertain."""
    given: dict[str, Any] = {
        "label": label,
        "probabilities": {"fear": 0.8, "neutral": 0.2},
        "valence": None,
        "arousal": None,
        "confidence": 0.8,
        "state": "ok" if label else "uncertain",
        "time": (hop + 1) * 0.1,
        "track": track,
        "modalities": ("face",),
    }
    return Emotion(**(given | fields))


def stretches(*answers: Emotion) -> list[tuple[float, float, int | None, str]]:
    timeline = Timeline(0.1)
    over = [segment for emotion in answers for segment in timeline.add(emotion)] + timeline.close()
    return [(round(one.start, 3), round(one.end, 3), one.track, one.shown) for one in over]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], []),
        ([answer(0)], [(0.0, 0.1, 1, "fear")]),
        ([answer(0), answer(1), answer(2)], [(0.0, 0.3, 1, "fear")]),
        ([answer(0), answer(1, "anger")], [(0.0, 0.1, 1, "fear"), (0.1, 0.2, 1, "anger")]),
        # Uncertain and absent are shown as such, not as the label that was there before.
        ([answer(0), answer(1, None)], [(0.0, 0.1, 1, "fear"), (0.1, 0.2, 1, "uncertain")]),
        ([answer(0, None, None, state="absent")], [(0.0, 0.1, None, "absent")]),
        # A face that was away for two hops and shows the same again did not show it in between.
        ([answer(0), answer(3)], [(0.0, 0.1, 1, "fear"), (0.3, 0.4, 1, "fear")]),
        # Two faces at once: neither ends the other's stretch.
        (
            [answer(0), answer(0, "anger", 2), answer(1), answer(1, "anger", 2)],
            [(0.0, 0.2, 1, "fear"), (0.0, 0.2, 2, "anger")],
        ),
        # A face that leaves is written when it is gone, not at the end of the stream.
        (
            [answer(0), answer(0, "anger", 2), answer(1), answer(2), answer(3, "neutral")],
            [(0.0, 0.1, 2, "anger"), (0.0, 0.3, 1, "fear"), (0.3, 0.4, 1, "neutral")],
        ),
        # Neighbouring hops whose times are not exact are neighbours all the same.
        ([answer(0, time=0.1), answer(1, time=0.2004), answer(2, time=0.2996)], [(0.0, 0.3, 1, "fear")]),
    ],
)
def test_stretches(answers: list[Emotion], expected: list[tuple[float, float, int | None, str]]) -> None:
    assert stretches(*answers) == expected


def test_a_stretch_is_returned_as_soon_as_it_is_over() -> None:
    timeline = Timeline(0.1)
    assert timeline.add(answer(0)) == []
    (over,) = timeline.add(answer(1, "anger"))
    assert (over.shown, over.end) == ("fear", pytest.approx(0.1))
    assert [one.shown for one in timeline.close()] == ["anger"]
    assert timeline.close() == []


def test_a_stretch_says_what_held_for_half_of_it() -> None:
    timeline = Timeline(0.1)
    timeline.add(answer(0, confidence=0.9, modalities=("face", "voice"), reasons=("too dark",)))
    timeline.add(answer(1, confidence=0.6, modalities=("face",)))
    timeline.add(answer(2, confidence=0.6, modalities=("face",), reasons=("silence",)))
    timeline.add(answer(3, confidence=0.5, modalities=("face", "voice"), reasons=("silence",)))
    (segment,) = timeline.close()
    assert segment.confidence == pytest.approx(0.65)
    assert segment.modalities == ("face", "voice")
    assert segment.reasons == ("silence",)


@pytest.mark.parametrize(
    ("emotion", "expected"),
    [
        (answer(11), "    1.1 -   1.2 s  face 1  fear        [########..] 0.80  face"),
        (
            answer(
                0, None, None, confidence=0.0, state="absent", modalities=(), reasons=("no face", "silence")
            ),
            "    0.0 -   0.1 s  absent      [..........] 0.00  (no face, silence)",
        ),
        (
            answer(0, None, None, confidence=0.3, modalities=("voice",), reasons=("no face",)),
            "    0.0 -   0.1 s  uncertain   [###.......] 0.30  voice  (no face)",
        ),
        (answer(0, confidence=1.0), "    0.0 -   0.1 s  face 1  fear        [##########] 1.00  face"),
        # A bundle may have labels that this module does not know, and longer ones.
        (
            answer(0, "contemptuousness"),
            "    0.0 -   0.1 s  face 1  contemptuousness  [########..] 0.80  face",
        ),
    ],
)
def test_segment_line(emotion: Emotion, expected: str) -> None:
    timeline = Timeline(0.1)
    timeline.add(emotion)
    (segment,) = timeline.close()
    assert segment_line(segment) == expected


def test_colour_changes_nothing_but_colour() -> None:
    timeline = Timeline(0.1)
    timeline.add(answer(0, "anger"))
    (segment,) = timeline.close()
    coloured = segment_line(segment, colour=True)
    assert coloured.count("\x1b[") == 2
    assert coloured.replace("\x1b[31m", "").replace("\x1b[0m", "") == segment_line(segment)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (
            [answer(0), answer(1), answer(2, "anger"), answer(3, None)],
            "In all: 50 % fear, 25 % anger, 25 % uncertain",
        ),
        ([answer(0), answer(0, "anger", 2)], "In all over 2 faces: 50 % fear, 50 % anger"),
    ],
)
def test_summary(answers: list[Emotion], expected: str) -> None:
    timeline = Timeline(0.1)
    for emotion in answers:
        timeline.add(emotion)
    timeline.close()
    assert timeline.summary() == expected
