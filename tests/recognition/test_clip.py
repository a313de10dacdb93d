from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeemo.recognition.clip import ClipAnswer
from edgeemo.recognition.emotion import Emotion
from edgeemo.recognition.recognizer import Recognizer
from tests.recognition.fakes import close
from tests.support.tiny import LABELS


def answer(hop: int, values: Any, **changes: Any) -> Emotion:
    """An answer with `values` as unnormalised probabilities of the first labels."""
    given = np.array([*values, *[1e-3] * (7 - len(values))])
    probabilities = dict(zip(LABELS, (given / given.sum()).tolist(), strict=True))
    fields: dict[str, Any] = {
        "label": "anger",
        "probabilities": probabilities,
        "valence": 0.5,
        "arousal": -0.5,
        "confidence": max(probabilities.values()),
        "state": "ok",
        "time": (hop + 1) * 0.1,
        "track": 0,
        "box": (hop, 0, 9, 9),
        "modalities": ("face",),
        "by_modality": {"face": probabilities},
    }
    return Emotion(**(fields | changes))


def absent(hop: int) -> Emotion:
    return Emotion(None, None, None, None, 0.0, "absent", ("no face",), (hop + 1) * 0.1)


def combined(model: Recognizer, hops: list[list[Emotion]]) -> Emotion:
    clip = ClipAnswer(model.bundle)
    for hop in hops:
        clip.add(hop)
    return clip.result()


def test_up_to_the_window_the_last_hop_is_the_answer(model: Recognizer) -> None:
    hops = [[answer(hop, [hop + 1, 1])] for hop in range(5)]
    assert combined(model, hops) is hops[-1][0]


def test_a_longer_clip_is_the_normalised_geometric_mean(model: Recognizer) -> None:
    rows = [[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.5, 0.5], [0.6, 0.4], [0.7, 0.3]]
    hops = [[answer(hop, row, valence=hop / 10)] for hop, row in enumerate(rows)]
    result = combined(model, hops)
    table = np.array([list(one.probabilities.values()) for (one,) in hops])  # type: ignore[union-attr]
    mean = np.exp(np.log(table).mean(axis=0))
    assert list(result.probabilities.values()) == close(list(mean / mean.sum()), 1e-12)  # type: ignore[union-attr]
    assert result.by_modality["face"] == close(result.probabilities, 1e-12)
    assert (result.label, result.state, result.time) == ("anger", "ok", close(0.6))
    assert result.valence == close(0.25) and result.arousal == -0.5
    assert result.confidence == max(result.probabilities.values())  # type: ignore[union-attr]
    assert result.box == (5, 0, 9, 9)


def test_hops_without_an_answer_do_not_count(model: Recognizer) -> None:
    hops = [[absent(0)], [absent(1)], *[[answer(hop, [0.9, 0.1])] for hop in range(2, 8)]]
    assert combined(model, hops).probabilities == close(hops[-1][0].probabilities)
    assert combined(model, [[absent(hop)] for hop in range(9)]).state == "absent"


def test_an_unsure_mean_has_no_label(model: Recognizer) -> None:
    rows = [[1.0 if label == hop % 7 else 0.2 for label in range(7)] for hop in range(7)]
    result = combined(model, [[answer(hop, row)] for hop, row in enumerate(rows)])
    assert (result.label, result.state, result.reasons) == (None, "uncertain", ("low confidence",))
    assert result.confidence == close(1 / 7, 1e-9)


def test_the_first_face_is_followed(model: Recognizer) -> None:
    voice = {"track": None, "box": None, "modalities": ("voice",), "by_modality": {}}
    hops = [
        [answer(0, [1, 1], **voice)],  # before there is a face the voice counts
        [answer(1, [5, 1], track=7), answer(1, [1, 9], track=8)],
        [answer(2, [1, 9], track=8), answer(2, [5, 1], track=7)],  # 8 has become the larger one
        [answer(3, [1, 9], track=8)],  # 7 has left
    ]
    assert combined(model, hops).track == 7 and combined(model, hops).time == close(0.3)
    longer = combined(model, [*hops, *[[answer(hop, [1, 9], track=8)] for hop in range(4, 9)]])
    assert longer.track == 7 and longer.label == "anger" and longer.modalities == ("face", "voice")


def test_a_face_that_is_found_again_under_another_id_is_followed_on(model: Recognizer) -> None:
    lost = {"reasons": ("no face",)}
    hops = [
        [answer(0, [5, 1], track=7), answer(0, [1, 9], track=8)],
        [answer(1, [5, 1], track=7, **lost), answer(1, [5, 1], track=9), answer(1, [1, 9], track=8)],
        *[[answer(hop, [1, 9], track=8), answer(hop, [5, 1], track=9)] for hop in range(2, 8)],
    ]
    result = combined(model, hops)
    assert (result.track, result.time, result.label) == (9, close(0.8), "anger")
    assert result.probabilities == close(hops[0][0].probabilities)  # 8 never counted
    # Once it is the one that is followed, who comes in beside it is somebody else.
    hops.append([answer(8, [5, 1], track=9), answer(8, [1, 9], track=10)])
    hops.append([answer(9, [1, 9], track=10)])
    assert combined(model, hops).time == close(0.9)


def test_the_voice_goes_on_with_the_face_that_is_found_again(model: Recognizer) -> None:
    both = {"modalities": ("face", "voice")}
    hops = [[answer(hop, [5, 1], track=1)] for hop in range(3)]
    hops += [[absent(3)]]
    hops += [[answer(hop, [1, 9], track=2, **both)] for hop in range(4, 30)]
    result = combined(model, hops)
    assert result.track == 2 and result.modalities == ("face", "voice") and result.time == close(3.0)
    assert result.probabilities is not None
    assert max(result.probabilities, key=result.probabilities.__getitem__) == LABELS[1]


@pytest.mark.parametrize(("dark", "reasons"), [(2, ()), (3, ("too dark",)), (6, ("too dark",))])
def test_reasons_of_a_clip_are_those_of_half_of_its_hops(
    model: Recognizer, dark: int, reasons: tuple[str, ...]
) -> None:
    hops = [
        [answer(hop, [9, 1], reasons=("too dark",) if hop < dark else ("low confidence",))]
        for hop in range(6)
    ]
    assert combined(model, hops).reasons == reasons


def test_nothing_at_all_is_absent(model: Recognizer) -> None:
    assert combined(model, []).state == "absent"
