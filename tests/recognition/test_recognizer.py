from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeemo.capture.source import Frame, Sound
from edgeemo.errors import BackendError, BundleError, InputError
from edgeemo.recognition.recognizer import Recognizer, load
from edgeemo.recognition.stream import Stream
from tests.recognition.conftest import Build
from tests.recognition.fakes import (
    Push,
    assert_same,
    calls,
    close,
    numbers,
    play,
    voice_pushes,
)
from tests.support.tiny import Tiny, write_bundle

PICTURE = np.kron(
    np.random.default_rng(0).integers(40, 215, (20, 20), np.uint8), np.ones((5, 5), np.uint8)
).astype(np.uint8)


def test_one_picture_is_one_hop(model: Recognizer) -> None:
    emotion = model.recognize(face=PICTURE)
    assert emotion.time == close(0.1) and emotion.track == 1 and emotion.modalities == ("face",)
    assert "silence" not in emotion.reasons  # no voice was expected
    assert calls(model) == {"face": [1], "voice": [], "fusion": [1]}


def test_a_crop_and_a_voice_are_answered_by_what_they_show(model: Recognizer, tiny: Tiny) -> None:
    for label in tiny.labels:
        assert model.recognize(tiny.face(label), face_is_cropped=True).label == label
        assert model.recognize(voice=tiny.voice(label, 0.3), sample_rate=8000).label == label


def test_a_picture_without_a_face_is_absent(build: Build, tiny: Tiny) -> None:
    emotion = build(tiny).recognize(face=PICTURE)
    assert (emotion.state, emotion.label, emotion.confidence) == ("absent", None, 0.0)
    assert emotion.reasons == ("no face",)


@pytest.mark.parametrize(
    ("convert", "rate"),
    [
        (lambda sound: sound.astype(np.float64), 8000),
        (lambda sound: np.stack([sound, sound], axis=1), 8000),
        (lambda sound: np.round(sound * 32767).astype(np.int16), 8000),
        (lambda sound: sound.tolist(), 8000),
        (lambda sound: sound, np.int64(8000)),
    ],
)
def test_sound_comes_in_many_forms(model: Recognizer, tiny: Tiny, convert: Any, rate: int) -> None:
    sound = tiny.voice("fear", 0.4)
    plain = model.recognize(voice=sound, sample_rate=8000)
    assert numbers(model.recognize(voice=convert(sound), sample_rate=rate)) == close(numbers(plain), 1e-2)


def test_pictures_without_a_voice_are_one_per_hop(model: Recognizer, tiny: Tiny) -> None:
    pictures = [tiny.face(label) for label in tiny.labels[:4]]
    emotion = model.recognize(pictures, face_is_cropped=True)
    stream = Stream(model, "face", lateness=None, face_is_cropped=True)
    last = play(stream, [("face", hop * 0.1 + 0.07, picture, 0) for hop, picture in enumerate(pictures)])[-1]
    assert_same([emotion], [last])


def test_pictures_are_spread_evenly_over_the_voice(model: Recognizer, tiny: Tiny) -> None:
    # Two pictures over 0.4 s are at 0.1 and 0.3 s.
    voice, pictures = tiny.voice("neutral", 0.4), [tiny.face("anger"), tiny.face("surprise")]
    emotion = model.recognize(pictures, voice, 8000, face_is_cropped=True)
    pushes: list[Push] = [("face", 0.1, pictures[0], 0), ("face", 0.3, pictures[1], 0)]
    stream = Stream(model, lateness=None, face_is_cropped=True)
    assert_same([emotion], play(stream, [*pushes, *voice_pushes(voice, 8000, 100)])[-1:])


def test_a_long_clip_is_the_mean_of_its_hops(model: Recognizer, tiny: Tiny) -> None:
    sound = np.concatenate([tiny.voice("fear", 0.8), tiny.voice("disgust", 0.7)])
    emotion = model.recognize(voice=sound, sample_rate=8000)
    hops = play(Stream(model, "voice", lateness=None), voice_pushes(sound, 8000, 800))
    assert len(hops) == 15
    table = np.array([list(hop.probabilities.values()) for hop in hops])  # type: ignore[union-attr]
    mean = np.exp(np.log(np.maximum(table, 1e-12)).mean(axis=0))
    assert list(emotion.probabilities.values()) == close(list(mean / mean.sum()), 1e-9)  # type: ignore[union-attr]


def test_one_picture_over_minutes_of_sound_loses_nothing(model: Recognizer, tiny: Tiny) -> None:
    emotion = model.recognize(tiny.face("fear"), tiny.voice("fear", 150.0), 8000, face_is_cropped=True)
    assert emotion.label == "fear" and emotion.modalities == ("face", "voice")
    assert len(calls(model)["voice"]) == 1500 and calls(model)["face"] == [1]


def test_of_several_faces_the_largest_first_one_is_followed(build: Build, tiny: Tiny) -> None:
    model = build(tiny, (5.0, 5.0, 20.0, 20.0), (50.0, 40.0, 40.0, 40.0))
    emotion = model.recognize([PICTURE, PICTURE])
    assert emotion.box is not None and emotion.box[2] == 40


def test_calls_after_one_another_do_not_know_of_each_other(model: Recognizer, tiny: Tiny) -> None:
    first = model.recognize(tiny.face("fear"), tiny.voice("fear", 0.3), 8000, face_is_cropped=True)
    model.recognize(tiny.face("anger"), tiny.voice("sadness", 2.3), 8000, face_is_cropped=True)
    with pytest.raises(InputError):
        model.recognize(tiny.face("anger"), tiny.voice("sadness", 2.3), 3, face_is_cropped=True)
    assert_same(
        [model.recognize(tiny.face("fear"), tiny.voice("fear", 0.3), 8000, face_is_cropped=True)], [first]
    )


def test_events_keep_their_own_times(model: Recognizer, tiny: Tiny) -> None:
    events: list[Frame | Sound] = [
        Sound(1.0, tiny.voice("fear", 0.2), 8000),
        Frame(1.05, lambda: tiny.face("fear")),
        Frame(1.19, lambda: tiny.face("anger")),
        Sound(1.2, tiny.voice("fear", 0.2), 8000),
    ]
    emotion = model.recognize_events(events, face_is_cropped=True)
    assert emotion.time == close(1.4)
    voice = model.recognize_events(events, ["voice"])
    assert voice.modalities == ("voice",) and voice.label == "fear"


def test_a_model_may_be_used_while_it_answers_events(model: Recognizer, tiny: Tiny) -> None:
    sound = tiny.voice("fear", 0.2)

    def events() -> Any:
        for hop in range(4):
            assert model.recognize(voice=tiny.voice("anger", 0.3), sample_rate=8000).label == "anger"
            yield Sound(hop * 0.1, sound[:800], 8000)

    assert model.recognize_events(events(), ["voice"]).label == "fear"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to judge by: the bundle tiny reads face and voice"),
        ({"text": "hello"}, "text: the bundle tiny reads face and voice"),
        ({"face": PICTURE, "text": "hello"}, "text: the bundle tiny reads face and voice"),
        ({"voice": np.zeros(800)}, "sample_rate: it is missing"),
        ({"voice": np.zeros(800), "sample_rate": 0}, "sample_rate: 0"),
        ({"voice": np.zeros(800), "sample_rate": -8000}, "sample_rate: -8000"),
        ({"voice": np.zeros(800), "sample_rate": 8000.5}, "sample_rate: 8000.5"),
        ({"voice": np.zeros(800), "sample_rate": "8 kHz"}, "sample_rate: '8 kHz'"),
        ({"voice": np.zeros(800), "sample_rate": np.zeros(800)}, "^sample_rate: ndarray is not a rate"),
        ({"voice": np.zeros(800), "sample_rate": 100}, "rate 100"),
        ({"voice": np.zeros(0), "sample_rate": 8000}, "voice: no samples"),
        ({"voice": np.full(800, np.nan), "sample_rate": 8000}, "NaN"),
        ({"voice": "voice.wav", "sample_rate": 8000}, "samples"),
        ({"face": []}, "face: an empty list"),
        ({"face": PICTURE.astype(np.float32)}, "float32"),
        ({"face": [PICTURE, None]}, "NoneType"),
        ({"face": "face.png"}, "str"),
        ({"face": np.stack([PICTURE] * 5)}, "shape"),
    ],
)
def test_what_cannot_be_recognized(model: Recognizer, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.recognize(**arguments)


def test_a_modality_that_the_bundle_lacks(build: Build, tiny: Tiny) -> None:
    model = build(Tiny(modalities=("voice",)))
    assert model.recognize(voice=tiny.voice("fear", 0.3), sample_rate=8000).label == "fear"
    for call in (lambda: model.recognize(face=PICTURE), lambda: Stream(model, "face")):
        with pytest.raises(InputError, match="face: the bundle tiny reads voice; leave face out"):
            call()


def test_a_bundle_with_faces_alone(build: Build) -> None:
    tiny = Tiny(modalities=("face",), channels=3)
    model = build(tiny, (20.0, 20.0, 40.0, 40.0))
    assert model.recognize(tiny.face("sadness"), face_is_cropped=True).label == "sadness"
    assert model.recognize(np.dstack([PICTURE] * 3)).modalities == ("face",)


# --- load


def test_a_loaded_bundle_answers_as_the_definition_says(
    tiny_folder: Path, model: Recognizer, tiny: Tiny
) -> None:
    loaded = load(tiny_folder)
    sound = np.random.default_rng(0).uniform(-0.9, 0.9, 9600).astype(np.float32)
    sound *= np.linspace(0, 1, 9600, dtype=np.float32)
    pictures = [tiny.face(label) for label in tiny.labels]
    pushes: list[Push] = [("face", hop * 0.1, picture, 0) for hop, picture in enumerate(pictures)]
    pushes += voice_pushes(sound, 8000, 700)
    answers = [
        play(Stream(one, lateness=None, face_is_cropped=True), pushes, poll_every=3)
        for one in (loaded, model)
    ]
    assert_same(*answers, tolerance=1e-4)
    assert len(answers[0]) == 12


def test_a_closed_model_says_so_and_holds_no_graph(tiny_folder: Path, tiny: Tiny) -> None:
    with load(tiny_folder) as model:
        assert model.recognize(tiny.face("fear"), face_is_cropped=True).label == "fear"
    with pytest.raises(BackendError, match="graph 'face' was closed"):
        model.recognize(tiny.face("fear"), face_is_cropped=True)
    model.close()


def test_a_call_holds_at_most_so_many_faces_as_the_manifest_says(build: Build, tiny: Tiny) -> None:
    model = build(tiny, (0, 0, 30, 30), (30, 30, 30, 30), (60, 60, 30, 30))
    assert model.bundle.face is not None
    model.bundle = replace(model.bundle, face=replace(model.bundle.face, most=2))
    with Stream(model, ("face",)) as stream:
        stream.push_frame(PICTURE, 0.05)
        stream.end("face")
        assert len(list(stream.poll())) == 2
    assert calls(model)["face"] == [2]


def test_printing_a_model_shows_its_contract_and_what_runs_it(tiny_folder: Path) -> None:
    lines = repr(load(tiny_folder, threads=2)).splitlines()
    assert "bundle: tiny 1.0" in lines and "threads: 2" in lines
    assert any(line.startswith("backend: ") and "nnx" in line for line in lines)
    assert any(line.startswith("precision: {face: ") and line.endswith("fusion: fp32}") for line in lines)
    assert "detector: opened with the first picture" in lines
    assert "precision: {face: fp32, voice: fp32, fusion: fp32}" in repr(load(tiny_folder, precision="fp32"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backend": "cuda"}, InputError, "auto"),
        ({"precision": "int4"}, InputError, "int8"),
        ({"detector": "no/such.onnx"}, InputError, "no file at no/such.onnx"),
        ({"detector": "x" * 300}, InputError, "no file at xxx"),  # too long for the file system
        ({"detector": 5}, InputError, "detector: 5 is not a path"),
        ({"detector": b"yunet.onnx"}, InputError, "detector: bytes is not a path"),
    ],
)
def test_what_cannot_be_loaded(
    tiny_folder: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load(tiny_folder, **options)


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="manifest"):
        load(tmp_path)


def test_every_picture_of_any_shape_can_be_looked_at(tmp_path: Path, tiny: Tiny) -> None:
    geometry = {name: {"scale": 1.0, "dx": 0.0, "dy": 0.0} for name in ("cascade", "yunet")}
    model = load(write_bundle(tmp_path / "bundle", tiny, geometry=geometry))
    for shape in ((1, 1), (1, 500), (500, 1, 3), (3, 3, 4), (48, 48, 1), (480, 640, 3)):
        assert model.recognize(face=np.full(shape, 128, np.uint8)).state == "absent", shape
