"""Sound in which nobody speaks: its tokens are masked, and the reason says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeemo.errors import BackendError
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.graph import Graph
from edgeemo.recognition.recognizer import Recognizer, load
from edgeemo.recognition.ring import TokenRing
from edgeemo.recognition.stream import Stream
from edgeemo.recognition.voice import Voice
from tests.recognition.fakes import GEOMETRY, CountingGraph, fake_model
from tests.support.tiny import Tiny, write_bundle

SPEAKS = Tiny(speech=True)
NOBODY: tuple[str, ...] = ("no speech",)


def sound(tiny: Tiny, *hops: str) -> Any:
    """One hop each of speech that sounds like a label, of a hum that nobody speaks in, or of nothing."""
    parts = {
        "hum": np.full(tiny.samples, tiny.value("fear"), np.float32),
        "none": np.zeros(tiny.samples, np.float32),
        **{label: tiny.voice(label, tiny.hop) for label in tiny.labels},
    }
    return np.concatenate([parts[hop] for hop in hops])


def contexts(tiny: Tiny, *hops: str) -> list[Any]:
    """The context that ends with each hop."""
    padded = np.concatenate([np.zeros(tiny.context, np.float32), sound(tiny, *hops)])
    return [padded[end : end + tiny.context] for end in range(tiny.samples, len(padded), tiny.samples)][
        : len(hops)
    ]


def heard(folder: Path, tiny: Tiny, **changes: Any) -> tuple[Voice, CountingGraph]:
    model = fake_model(write_bundle(folder, tiny, geometry=GEOMETRY, **changes), tiny)
    graph = model.graphs["voice"]
    assert isinstance(graph, CountingGraph)
    return Voice(model.bundle, graph, TokenRing(1, tiny.slots, tiny.width), 1), graph


def answered(folder: Path, tiny: Tiny, *hops: str) -> list[tuple[str, tuple[str, ...]]]:
    """State and reasons, without that of being unsure, of each hop of a stream."""
    model = fake_model(write_bundle(folder, tiny, geometry=GEOMETRY), tiny)
    stream = Stream(model, "voice", lateness=None)
    stream.push_audio(sound(tiny, *hops), tiny.sample_rate, 0.0)
    stream.end("voice")
    return [(one.state, tuple(set(one.reasons) - {"low confidence"})) for one in stream.poll()]


def test_a_hum_is_answered_absent_and_speech_is_not(tmp_path: Path) -> None:
    found = answered(
        tmp_path, Tiny(modalities=("voice",), speech=True), "hum", "hum", "fear", "hum", *["none"] * 6
    )
    assert found[:4] == [("absent", NOBODY), ("absent", NOBODY), ("ok", ()), ("ok", NOBODY)]
    assert found[6] == ("ok", ("silence",))  # the window still holds the token of the third hop


def test_without_the_output_a_hum_is_answered_as_before(tmp_path: Path) -> None:
    found = answered(tmp_path, Tiny(modalities=("voice",)), "hum", "hum")
    assert [state for state, _ in found] == ["ok", "ok"] and all("no speech" not in why for _, why in found)


def test_an_output_without_a_threshold_masks_nothing(tmp_path: Path) -> None:
    thresholds = {"confidence": 0.35, "silence_dbfs": -60.0, "dark": 5.0, "clipped": 0.5}
    voice, _ = heard(tmp_path, SPEAKS, thresholds=thresholds)
    for context in contexts(SPEAKS, "hum", "fear"):
        voice.hear(context)
        assert voice.reasons == ()
    assert voice.ring.mask[0].tolist() == [0, 0, 0, 1, 1]


def test_the_ring_holds_the_tokens_that_somebody_spoke(tmp_path: Path) -> None:
    voice, graph = heard(tmp_path, SPEAKS)
    told = []
    for context in contexts(SPEAKS, "fear", "hum", "anger", "hum", "hum"):
        voice.hear(context)
        told.append(voice.reasons)
    assert told == [(), NOBODY, (), NOBODY, NOBODY]
    assert voice.ring.mask[0].tolist() == [1, 0, 1, 0, 0]
    np.testing.assert_allclose(voice.ring.tokens[0, 0], SPEAKS.value("fear") * SPEAKS.code, rtol=1e-5)
    assert not voice.ring.tokens[0, [1, 3, 4]].any()
    assert len(graph.rows) == 5
    voice.reset()
    assert not voice.reasons and not voice.ring.mask.any()


@pytest.mark.parametrize(("presence", "kept"), [(0.5, 1.0), (np.nextafter(np.float32(0.5), 0), 0.0)])
def test_a_presence_at_the_threshold_is_speech(presence: float, kept: float, tmp_path: Path) -> None:
    voice, graph = heard(tmp_path, SPEAKS)
    tokens = np.ones((1, SPEAKS.width), np.float32)
    graph.compute = lambda feeds: {"tokens": tokens, "speech": np.array([presence], np.float32)}
    voice.hear(contexts(SPEAKS, "fear")[0])
    assert voice.ring.mask[0, -1] == kept


def test_between_two_calls_of_the_graph_the_last_one_counts(tmp_path: Path) -> None:
    voice, graph = heard(tmp_path, Tiny(speech=True, voice_every=2))
    told = []
    for context in contexts(SPEAKS, "hum", "fear", "fear", "hum"):
        voice.hear(context)
        told.append(voice.reasons)
    assert told == [NOBODY, NOBODY, (), ()] and len(graph.rows) == 2


def test_of_a_window_each_token_is_masked_by_itself(tmp_path: Path) -> None:
    tiny = Tiny(modalities=("voice",), speech=True, voice_mode="replace", context=4000)
    voice, _ = heard(tmp_path, tiny)
    for context in contexts(tiny, "fear", "hum", "anger", "hum", "fear")[-1:]:
        voice.hear(context)
    assert voice.reasons == () and voice.ring.mask[0].tolist() == [1, 0, 1, 0, 1]
    assert not voice.ring.tokens[0, [1, 3]].any() and voice.ring.tokens[0, [0, 2, 4]].all()
    voice.hear(contexts(tiny, *["hum"] * 5)[-1])
    assert voice.reasons == NOBODY and not voice.ring.mask.any()


def test_a_presence_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    voice, graph = heard(tmp_path, SPEAKS)
    compute: Callable[[Any], dict[str, Any]] = graph.compute
    graph.compute = lambda feeds: {**compute(feeds), "speech": np.array([np.nan], np.float32)}
    with pytest.raises(BackendError, match="presence of speech that is not finite"):
        voice.hear(contexts(SPEAKS, "fear")[0])


def test_a_graph_in_onnx_tells_it_too(tmp_path: Path) -> None:
    tiny = Tiny(modalities=("voice",), speech=True)
    model: Recognizer = load(write_bundle(tmp_path, tiny))
    hum = model.recognize(voice=sound(tiny, "hum", "hum", "hum"), sample_rate=tiny.sample_rate)
    assert (hum.state, hum.reasons) == ("absent", NOBODY)
    assert model.recognize(voice=sound(tiny, "hum", "fear"), sample_rate=tiny.sample_rate).label == "fear"
    graph: Graph = model.graphs["voice"]
    context = contexts(tiny, "hum", "fear", "hum")[1]
    assert graph.run({"voice": context[None]})["speech"] == pytest.approx(
        tiny.voice_speech(context), abs=1e-5
    )


def test_the_bundle_says_what_it_hears(tmp_path: Path) -> None:
    bundle = Bundle.read(write_bundle(tmp_path, SPEAKS))
    assert bundle.thresholds.speech == 0.5
    assert "out speech: float32 [1]" in repr(bundle)
