from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edgeemo.recognition.emotion import Emotion
from tests.support.tiny import LABELS

PROBABILITIES = dict(zip(LABELS, (0.7, 0.1, 0.1, 0.05, 0.03, 0.02, 0.0), strict=True))


def emotion(**changes: Any) -> Emotion:
    values: dict[str, Any] = {
        "label": "anger",
        "probabilities": PROBABILITIES,
        "valence": -0.123456,
        "arousal": 0.6,
        "confidence": 0.7,
        "state": "ok",
        "reasons": ("silence",),
        "time": 1.23456,
        "track": 3,
        "box": (1, 2, 30, 40),
        "modalities": ("face",),
        "by_modality": {"face": PROBABILITIES},
    }
    return Emotion(**(values | changes))


def test_json_holds_the_documented_names_and_nothing_else() -> None:
    assert json.loads(json.dumps(emotion().to_dict(), allow_nan=False)) == {
        "label": "anger",
        "probabilities": PROBABILITIES,
        "valence": -0.1235,
        "arousal": 0.6,
        "confidence": 0.7,
        "state": "ok",
        "reasons": ["silence"],
        "time": 1.235,
        "track": 3,
        "box": [1, 2, 30, 40],
        "modalities": ["face"],
    }


def test_json_of_an_absent_answer() -> None:
    absent = Emotion(None, None, None, None, 0.0, "absent", ("no face",), 0.1).to_dict()
    assert absent["probabilities"] is absent["label"] is absent["valence"] is absent["box"] is None
    assert absent["confidence"] == 0.0 and absent["modalities"] == []


def test_printed_probabilities_sum_to_one_and_are_nearly_those_that_were_meant() -> None:
    random = np.random.default_rng(0)
    for sharpness in (0.1, 1.0, 10.0, 100.0):
        for _ in range(200):
            powers = np.exp(sharpness * random.normal(size=7))
            exact = dict(zip(LABELS, (powers / powers.sum()).tolist(), strict=True))
            written = emotion(probabilities=exact).to_dict()
            assert sum(round(value * 10_000) for value in written["probabilities"].values()) == 10_000
            assert list(written["probabilities"]) == list(LABELS)
            assert written["probabilities"] == pytest.approx(exact, abs=1.01e-4)
            assert written["confidence"] == max(written["probabilities"].values())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "1.2 s: face 3: anger 0.70 by face (silence)"),
        (
            {"track": None, "reasons": (), "modalities": ("face", "voice")},
            "1.2 s: anger 0.70 by face and voice",
        ),
        ({"label": None, "state": "uncertain", "track": None}, "1.2 s: uncertain 0.70 by face (silence)"),
        (
            {"label": None, "probabilities": None, "state": "absent", "track": None, "modalities": ()},
            "1.2 s: absent (silence)",
        ),
    ],
)
def test_one_line_for_people(changes: dict[str, Any], line: str) -> None:
    assert str(emotion(**changes)) == line


def test_what_each_modality_says_is_left_out_of_the_repr() -> None:
    assert "by_modality" not in repr(emotion())
