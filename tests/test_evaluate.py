"""A manifest in, figures out."""

from __future__ import annotations

import json
import logging
import wave
from pathlib import Path

import numpy as np
import pytest

from edgeemo.errors import EdgeEmoError, InputError, SourceError
from edgeemo.evaluate import evaluate
from edgeemo.figures import Answer, calibration_error, chance_error, report
from edgeemo.recognition.emotion import Emotion
from edgeemo.recognition.recognizer import Recognizer
from tests.capture.media import write_clip
from tests.recognition.fakes import fake_model
from tests.support.tiny import LABELS, Tiny, write_bundle


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny(channels=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Recognizer:
    return fake_model(write_bundle(tmp_path_factory.mktemp("bundle"), tiny), tiny)


def picture(path: Path, tiny: Tiny, label: str) -> str:
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), tiny.face(label))
    return path.name


def sound(path: Path, tiny: Tiny, label: str, seconds: float = 0.3) -> str:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(tiny.sample_rate)
        file.writeframes((tiny.voice(label, seconds) * 32767).astype("<i2").tobytes())
    return path.name


def manifest(folder: Path, *lines: str) -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def test_faces_and_voices_are_measured_together_and_alone(
    tmp_path: Path, model: Recognizer, tiny: Tiny
) -> None:
    # (true, face shows, voice says): fused is the level between the two.
    rows = [
        ("fear", "fear", "fear"),
        ("fear", "disgust", "happiness"),
        ("anger", "anger", "anger"),
        ("anger", "anger", "fear"),
    ]
    lines = ["label,face,voice,speaker"]
    for number, (true, shown, said) in enumerate(rows):
        face = picture(tmp_path / f"{number}.png", tiny, shown)
        lines.append(f"{true},{face},{sound(tmp_path / f'{number}.wav', tiny, said)},speaker {number}")
    done: list[tuple[int, int]] = []
    result = evaluate(
        manifest(tmp_path, *lines), model, face_is_cropped=True, progress=lambda *step: done.append(step)
    )
    assert (result.n, result.wa, result.ua, result.absent) == (4, 0.75, 0.75, 0)
    assert result.recall == {"anger": 0.5, "fear": 1.0} and result.classes == ("anger", "fear")
    assert result.single == {"face": 0.75, "voice": 0.5}
    assert result.confusion[LABELS.index("anger")] == (1, 1, 0, 0, 0, 0, 0)
    assert result.late is not None
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [(item.line, item.label, item.speaker) for item in result.items][1] == (3, "fear", "speaker 1")
    assert result.items[1].emotion.label == "fear"


def test_each_item_is_answered_as_recognize_does(tmp_path: Path, model: Recognizer, tiny: Tiny) -> None:
    for name, label in (("2.png", "anger"), ("10.png", "surprise")):
        picture(tmp_path / "many" / name, tiny, label)
    sound(tmp_path / "a.wav", tiny, "fear", 1.3)
    path = manifest(tmp_path, "voice,label,face", "a.wav,fear,many", "a.wav,fear,", ",fear,many")
    both, voice, faces = [item.emotion for item in evaluate(path, model, face_is_cropped=True).items]
    pictures = [tiny.face("anger"), tiny.face("surprise")]
    heard = np.round(tiny.voice("fear", 1.3) * 32767) / 32768
    expected = [
        model.recognize(pictures, heard, 8000, face_is_cropped=True),
        model.recognize(None, heard, 8000),
        model.recognize(pictures, face_is_cropped=True),
    ]
    for answer, right in zip((both, voice, faces), expected, strict=True):
        assert answer.probabilities == pytest.approx(right.probabilities, abs=1e-3)
        assert (answer.time, answer.modalities) == (right.time, right.modalities)


@pytest.mark.parametrize("own_sound", [True, False])
def test_a_video_keeps_its_times(tmp_path: Path, model: Recognizer, tiny: Tiny, own_sound: bool) -> None:
    # 25 pictures in the first second of three.
    images = [np.full((32, 32, 3), 128, np.uint8)] * 25
    speech = np.repeat(tiny.voice("fear", 3.0), 6)
    write_clip(tmp_path / "clip.mkv", images=images, sound=speech if own_sound else None)
    write_clip(tmp_path / "voice.wav", sound=speech)
    voice = "clip.mkv" if own_sound else "voice.wav"
    path = manifest(tmp_path, "label,face,voice", f"fear,clip.mkv,{voice}")
    face = model.graphs["face"]
    before = len(face.rows)  # type: ignore[attr-defined]
    seen = [item.emotion for item in evaluate(path, model, face_is_cropped=True).items]
    assert len(face.rows) - before == 10  # type: ignore[attr-defined]
    assert seen[0].modalities == ("face", "voice") and seen[0].time == pytest.approx(3.0, abs=0.11)


@pytest.mark.parametrize("lacking", [("face_logits",), ("face_logits", "voice_logits")])
def test_what_a_modality_alone_shows_is_not_made_up(
    tmp_path: Path, model: Recognizer, tiny: Tiny, lacking: tuple[str, ...]
) -> None:
    entries = json.loads((model.bundle.path / "manifest.json").read_text("utf-8"))
    outputs = entries["graphs"]["fusion"]["outputs"]
    entries["graphs"]["fusion"]["outputs"] = {
        name: spec for name, spec in outputs.items() if name not in lacking
    }
    bundle = write_bundle(tmp_path / "bundle", tiny, graphs=entries["graphs"])
    lesser = fake_model(bundle, tiny)
    fusion = lesser.graphs["fusion"]
    compute = fusion.compute  # type: ignore[attr-defined]
    fusion.compute = lambda feeds: {  # type: ignore[attr-defined]
        name: values for name, values in compute(feeds).items() if name not in lacking
    }
    face, voice = picture(tmp_path / "a.png", tiny, "fear"), sound(tmp_path / "a.wav", tiny, "fear")
    result = evaluate(
        manifest(tmp_path, "label,face,voice", f"fear,{face},{voice}"), lesser, face_is_cropped=True
    )
    assert (result.wa, result.single, result.late) == (1.0, None, None)
    assert "alone" not in str(result)


def test_a_set_that_is_wholly_silent_shows_nothing_by_voice(
    tmp_path: Path, model: Recognizer, tiny: Tiny
) -> None:
    face = picture(tmp_path / "a.png", tiny, "fear")
    write_clip(tmp_path / "silence.wav", sound=np.zeros(14400, np.float32))
    path = manifest(tmp_path, "label,face,voice", f"fear,{face},silence.wav")
    result = evaluate(path, model, face_is_cropped=True)
    assert result.single == {"face": 1.0, "voice": 0.0} and result.late == 1.0


def test_what_a_picture_is_does_not_depend_on_the_machine(
    tmp_path: Path, model: Recognizer, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimetypes.guess_type", lambda *_, **__: (None, None))  # knows no .png or .webp
    lines = [f"{label},{picture(tmp_path / name, tiny, label)},{sound(tmp_path / 'a.wav', tiny, label, 0.4)}"
             for label, name in (("fear", "a.webp"), ("fear", "a.PNG"))]  # fmt: skip
    emotions = [item.emotion for item in evaluate(
        manifest(tmp_path, "label,face,voice", *lines), model, face_is_cropped=True).items]  # fmt: skip
    # A picture lies in the middle of the voice; the only one of a video would be at its start.
    expected = model.recognize(
        tiny.face("fear"), np.round(tiny.voice("fear", 0.4) * 32767) / 32768, 8000, face_is_cropped=True
    )
    for emotion in emotions:
        assert emotion.probabilities == pytest.approx(expected.probabilities, abs=1e-3)


def test_an_item_without_an_answer_is_wrong(tmp_path: Path, model: Recognizer, tiny: Tiny) -> None:
    face = picture(tmp_path / "face.png", tiny, "fear")
    path = manifest(tmp_path, "label,face", f"fear,{face}", f"anger,{face}")
    result = evaluate(path, model)  # the finder of this model finds nothing
    assert (result.n, result.wa, result.ua, result.absent, result.ece) == (2, 0.0, 0.0, 2, 0.0)
    assert np.sum(result.confusion) == 0 and result.single is None and result.late is None


def test_a_report_is_json_and_text(tmp_path: Path, model: Recognizer, tiny: Tiny) -> None:
    face = picture(tmp_path / "face.png", tiny, "fear")
    result = evaluate(manifest(tmp_path, "label,face", f"fear,{face}"), model, face_is_cropped=True)
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert set(written) == {
        "n", "wa", "ua", "recall", "confusion", "labels", "ece", "ece_chance", "single", "late", "classes",
        "absent",
    }  # fmt: skip
    assert written["labels"] == list(LABELS) and np.shape(written["confusion"]) == (7, 7)
    assert "UA 100.0%" in str(result) and "fear" in str(result)


# --- text


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    tiny = Tiny(channels=3, modalities=("face", "voice", "text"))
    return fake_model(write_bundle(tmp_path_factory.mktemp("listener"), tiny), tiny)


def test_text_is_measured_alone_and_with_the_rest(tmp_path: Path, listener: Recognizer, tiny: Tiny) -> None:
    (tmp_path / "said.TSV").write_text("start\tend\twords\n0.1\t0.2\tfear\n", "utf-8")
    (tmp_path / "silence.tsv").write_text("", "utf-8")
    face, voice = picture(tmp_path / "a.png", tiny, "fear"), sound(tmp_path / "a.wav", tiny, "fear")
    path = manifest(
        tmp_path,
        "label,face,voice,text",
        "fear,,,fear",
        'anger,,,"Anger, anger!"',
        f"fear,,{voice},said.TSV",
        f"fear,{face},{voice},fear fear",
        f"fear,,{voice},silence.tsv",
    )
    result = evaluate(path, listener, face_is_cropped=True)
    items = [item.emotion for item in result.items]
    assert [item.modalities for item in items] == [
        ("text",), ("text",), ("voice", "text"), ("face", "voice", "text"), ("voice",)
    ]  # fmt: skip
    assert items[0].label == "fear" and result.single is not None and set(result.single) >= {"text", "voice"}
    heard = np.round(tiny.voice("fear", 0.3) * 32767) / 32768
    expected = [
        listener.recognize(text="fear"),
        listener.recognize(text="Anger, anger!"),
        listener.recognize(voice=heard, sample_rate=8000, text=[("fear", 0.1, 0.2)]),
        listener.recognize(tiny.face("fear"), heard, 8000, "fear fear", face_is_cropped=True),
        listener.recognize(voice=heard, sample_rate=8000),
    ]
    for answer, right in zip(items, expected, strict=True):
        assert answer.probabilities == pytest.approx(right.probabilities, abs=1e-3)
        assert (answer.time, answer.reasons) == (right.time, right.reasons)


def test_text_beside_a_video_is_spread_over_it_or_keeps_its_times(
    tmp_path: Path, listener: Recognizer, tiny: Tiny
) -> None:
    images = [np.full((32, 32, 3), 128, np.uint8)] * 15
    write_clip(tmp_path / "clip.mkv", images=images, sound=np.repeat(tiny.voice("fear", 0.6), 6))
    (tmp_path / "early.tsv").write_text("0\t0.05\tfear\n", "utf-8")
    (tmp_path / "late.tsv").write_text("0.2\t0.55\tfear\n", "utf-8")
    path = manifest(
        tmp_path,
        "label,face,voice,text",
        "fear,clip.mkv,clip.mkv,anger fear",
        "fear,clip.mkv,,anger fear",
        "fear,clip.mkv,clip.mkv,late.tsv",
        "fear,clip.mkv,clip.mkv,early.tsv",
        "fear,clip.mkv,clip.mkv,",
    )
    items = [item.emotion for item in evaluate(path, listener, face_is_cropped=True).items]
    assert [item.modalities for item in items] == [
        ("face", "voice", "text"), ("face", "text"),
        *[("face", "voice", "text")] * 2, ("face", "voice"),
    ]  # fmt: skip
    assert len({str(item.probabilities) for item in items}) == 5


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        (["label,text", "fear,gone.tsv"], SourceError, r"line 2: text is .*gone\.tsv, which does not exist"),
        (["label,text", "fear,bad.tsv"], SourceError, r"line 2: .*bad\.tsv, line 2: the start is 'x'"),
        (["label,text", "fear,empty.tsv"], InputError, "line 2: nothing to judge by"),
        (["label,voice,text", "fear,,"], InputError, "line 2: it names no file and has no text; give"),
        (["label", "fear"], InputError, "no column 'face' or 'voice' or 'text', which is"),
    ],
)
def test_a_manifest_whose_text_cannot_be_used(
    tmp_path: Path, listener: Recognizer, lines: list[str], error: type[EdgeEmoError], message: str
) -> None:
    (tmp_path / "bad.tsv").write_text("0\t1\twell\nx\t1\twell\n", "utf-8")
    (tmp_path / "empty.tsv").write_text("", "utf-8")
    with pytest.raises(error, match=message):
        evaluate(manifest(tmp_path, *lines), listener)


def test_columns_that_the_bundle_does_not_read_are_left_aside(
    tmp_path: Path, model: Recognizer, tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    face = picture(tmp_path / "face.png", tiny, "fear")
    path = manifest(tmp_path, "\ufefflabel,face,text,note", f"fear,{face},hello,x")
    with caplog.at_level(logging.WARNING, "edgeemo"):
        assert evaluate(path, model, face_is_cropped=True).wa == 1.0
    assert "does not read the column text" in caplog.text


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        ([], InputError, "no column 'label'"),
        (["face", "f.png"], InputError, "no column 'label'"),
        (["label"], InputError, "no column 'face' or 'voice'"),
        (["label,text", "fear,hello"], InputError, "which is what the bundle tiny reads"),
        (["label,face"], InputError, "no items"),
        (["label,face", "fear,f.png", "joy,f.png"], InputError, "line 3: the label is 'joy'; it must be one"),
        (["label,face", ",f.png"], InputError, "line 2: the label is ''"),
        (["label,face", "fear,"], InputError, "line 2: it names no file"),
        (["label,face", "fear"], InputError, "line 2: it names no file"),
        (["label,face", "fear,f.png", "fear,g.png"], SourceError, r"line 3: face is .*g\.png, which does"),
        (["label,voice", "fear,f.png"], SourceError, r"line 2: .*f\.png"),
        (["label,face", "fear,empty"], SourceError, "line 2: .*without pictures"),
        (["label,face", "fear,broken.png"], SourceError, r"line 2: .*broken\.png"),
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_used(
    tmp_path: Path, model: Recognizer, tiny: Tiny, lines: list[str], error: type[EdgeEmoError], message: str
) -> None:
    picture(tmp_path / "f.png", tiny, "fear")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(error, match=message):
        evaluate(manifest(tmp_path, *lines), model, face_is_cropped=True)


def test_no_manifest(tmp_path: Path, model: Recognizer) -> None:
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    reasons = {
        "none.csv": "No such file or directory",
        ".": "Is a directory",
        "binary.csv": "byte 128 is not UTF-8",
    }
    for name, reason in reasons.items():
        with pytest.raises(InputError, match=rf"cannot be read \({reason}\)"):
            evaluate(tmp_path / name, model)


# --- figures


def answered(label: str, values: list[float] | None, **alone: list[float] | None) -> Answer:
    labels = ("x", "y", "z")
    probabilities = None if values is None else dict(zip(labels, values, strict=True))
    by_modality = {name: dict(zip(labels, row, strict=True)) for name, row in alone.items() if row}
    emotion = Emotion(None, probabilities, None, None, 0.0, "ok", by_modality=by_modality)
    return Answer(2, label, "", emotion)


def test_figures_by_hand() -> None:
    items = [
        answered("x", [0.8, 0.1, 0.1], face=[0.6, 0.3, 0.1], voice=[0.1, 0.7, 0.2]),  # late: 0.06, 0.21, 0.02
        answered(
            "x", [0.2, 0.7, 0.1], face=[0.1, 0.8, 0.1], voice=[0.9, 0.05, 0.05]
        ),  # late: 0.09, 0.04, 0.005
        answered("x", None),
        answered("z", [0.1, 0.1, 0.8], voice=[0.3, 0.3, 0.4]),  # late: the voice alone
    ]
    result = report(("x", "y", "z"), ("face", "voice"), items)
    assert (result.n, result.wa, result.absent) == (4, 0.5, 1)
    assert result.recall == pytest.approx({"x": 1 / 3, "z": 1.0}) and result.ua == pytest.approx(2 / 3)
    assert result.confusion == ((1, 1, 0), (0, 0, 0), (0, 0, 1))
    assert result.single == pytest.approx({"face": (1 / 3 + 0) / 2, "voice": (1 / 3 + 1) / 2})
    assert result.late == pytest.approx((1 / 3 + 1) / 2)
    # Two answers of 0.8 are right, one of 0.7 is wrong: (2 * 0.2 + 0.7) / 3.
    assert result.ece == pytest.approx((2 * 0.2 + 0.7) / 3)
    # Of 0.8 twice and 0.7 once, in bins of their own.
    spread = np.sqrt(2 * 0.8 * 0.2) + np.sqrt(0.7 * 0.3)
    assert result.ece_chance == pytest.approx(np.sqrt(2 / np.pi) * spread / 3)


def test_calibration_error_of_a_calibrated_and_of_a_boastful_model() -> None:
    random = np.random.default_rng(0)
    top = random.uniform(0.5, 1.0, 20000)
    table = np.stack([top, 1 - top], axis=1)
    truth = (random.random(20000) > top).astype(int)
    assert calibration_error(table, truth) < 0.02
    assert calibration_error(np.array([[1.0, 0.0]] * 4), np.array([0, 1, 1, 1])) == pytest.approx(0.75)
    assert calibration_error(np.full((2, 2), np.nan), np.array([0, 1])) == 0.0


@pytest.mark.parametrize("n", [100, 300, 3000])
def test_the_error_by_chance_is_what_calibrated_answers_show(n: int) -> None:
    random = np.random.default_rng(n)
    top = random.uniform(0.4, 1.0, n)
    table = np.stack([top, np.zeros(n)], axis=1)
    shown = [calibration_error(table, (random.random(n) > top).astype(int)) for _ in range(400)]
    assert chance_error(table) == pytest.approx(np.mean(shown), rel=0.04)


def test_the_error_by_chance_of_the_certain_and_of_nobody() -> None:
    assert chance_error(np.array([[1.0, 0.0]] * 4)) == 0.0
    assert chance_error(np.full((2, 2), np.nan)) == 0.0
