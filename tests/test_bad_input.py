"""Bad input from outside: what is refused names itself and says what would be right; the rest is answered.

A refusal is the same sentence from Python, where it is an `EdgeEmoError`, and from the command line, where it
is the only output.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgeemo
from edgeemo import cli
from edgeemo.capture.clip import Clip
from edgeemo.errors import BackendError, BundleError, EdgeEmoError, InputError, SourceError
from edgeemo.evaluate import evaluate
from edgeemo.inference.bundle import Bundle
from edgeemo.recognition.recognizer import Recognizer
from edgeemo.recognition.stream import Stream

ROOT = Path(__file__).resolve().parent.parent
Capture = pytest.CaptureFixture[str]
LOWEST, HIGHEST = 4000, 192000


@pytest.fixture(autouse=True)
def no_detector(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No YuNet of the user's, so that every machine looks for faces in the same way."""
    monkeypatch.delenv("EDGEEMO_FACE_DETECTOR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a few kilobytes that finds faces with the detectors of OpenCV."""
    pytest.importorskip("onnx", reason="the tiny bundle is written with onnx")
    from tests.support.tiny import write_bundle

    square = {"scale": 1.0, "dx": 0.0, "dy": 0.0}
    return write_bundle(tmp_path_factory.mktemp("bundle"), geometry={"cascade": square, "yunet": square})


@pytest.fixture(scope="module")
def model(bundle: Path) -> Recognizer:
    return edgeemo.load(bundle)


@pytest.fixture
def broken(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be broken."""
    return Path(shutil.copytree(bundle, tmp_path / "broken"))


def tone(seconds: float, rate: int) -> NDArray[np.float32]:
    return (0.3 * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def command(words: list[str], capsys: Capture) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of one command; no exception comes out of it."""
    capsys.readouterr()
    try:
        status: Any = cli.main(words)
    except SystemExit as exit_:  # argparse refuses by itself
        status = exit_.code
    out, err = capsys.readouterr()
    return status, out, err


def refusal(words: list[str], capsys: Capture) -> str:
    """What a command that must refuse says, in one message and nothing else."""
    status, out, err = command([*words, "--json"], capsys)
    assert (status, out) == (2, "")
    assert err.startswith("edgeemo: ") and err.count("edgeemo: ") == 1
    assert "Traceback" not in err
    return err.removeprefix("edgeemo: ").rstrip("\n")


def raised(act: Callable[[], object], error: type[EdgeEmoError]) -> str:
    with pytest.raises(EdgeEmoError) as caught:
        act()
    assert type(caught.value) is error
    return str(caught.value)


def answers(words: list[str], capsys: Capture) -> tuple[list[dict[str, Any]], str]:
    """What a command that must answer writes in JSON lines, and its messages."""
    status, out, err = command([*words, "--json"], capsys)
    assert status == 0
    assert "Traceback" not in err
    return [json.loads(line) for line in out.splitlines()], err


# --- files


def written(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def silent_wave(path: Path, seconds: float = 0.0, rate: int = 16000) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(2 * round(rate * seconds)))


def headless_mp4(path: Path) -> None:
    """What a recorder leaves that was killed: no index, which is written last."""
    write_mp4(path, index_first=False)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"moov") - 4])


def nothing(path: Path) -> None:
    """Leave the place empty."""


MEDIA: list[tuple[str, Callable[[Path], object], tuple[str, ...]]] = [
    ("missing.mp4", nothing, ("no such file", "give a video, a sound file or a picture")),
    ("no/such/folder.wav", nothing, ("no such file", "give a video, a sound file or a picture")),
    ("empty.mp4", written(b""), ("an empty file", "give a video, a sound file or a picture")),
    ("empty.wav", written(b""), ("an empty file", "give a video, a sound file or a picture")),
    ("empty.png", written(b""), ("an empty file", "give a video, a sound file or a picture")),
    ("folder", lambda path: path.mkdir(), ("a folder", "give one video, sound file or picture")),
    ("folder.mp4", lambda path: path.mkdir(), ("a folder", "give one video, sound file or picture")),
    ("text.mp4", written(b"This is not a film.\n" * 99), ("text, not media", "give a video")),
    ("page.mp4", written("<p>Nicht gefunden: für</p>".encode()), ("text, not media", "give a video")),
    ("text.png", written(b"This is not a picture.\n"), ("not a picture", "give a JPEG or PNG file")),
    ("noise.mp4", written(bytes(range(256)) * 64), ("not media", "give a video")),
    ("zeros.mkv", written(bytes(20000)), ("not media", "give a video")),
    ("headless.mp4", headless_mp4, ("index is missing", "copy or record it again")),
    ("header.wav", silent_wave, ("nothing in it can be decoded", "give an undamaged media file")),
    ("pipe.wav", lambda path: os.mkfifo(path), ("a device or a pipe", "give a video")),
    ("a\0b.mp4", nothing, ()),  # what is said differs between versions of Python
    ("x" * 300 + ".mp4", nothing, ("cannot be read",)),  # too long for the file system
]


@pytest.mark.parametrize(("name", "make", "says"), MEDIA, ids=[ascii(name)[1:20] for name, *_ in MEDIA])
def test_a_file_that_cannot_be_read_is_refused(
    name: str,
    make: Callable[[Path], object],
    says: tuple[str, ...],
    bundle: Path,
    model: Recognizer,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    path = tmp_path / name
    make(path)
    said = refusal(["run", str(path), "--bundle", str(bundle)], capsys)
    assert said == raised(lambda: list(edgeemo.watch(path, model=model)), SourceError)
    assert said.startswith(f"{path}: ")
    assert all(words in said for words in says)


def test_a_file_without_what_the_bundle_reads_is_refused(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("onnx", reason="the tiny bundle is written with onnx")
    from tests.support.tiny import Tiny, write_bundle

    bundle = write_bundle(tmp_path / "faces", Tiny(modalities=("face",)))
    sound = tmp_path / "sound.wav"
    silent_wave(sound, 0.5)
    said = refusal(["run", str(sound), "--bundle", str(bundle)], capsys)
    assert said == raised(lambda: list(edgeemo.watch(sound, bundle=bundle)), InputError)
    assert said.startswith(f"{sound}: ") and "holds voice only" in said and "reads face" in said


def write_mp4(path: Path, seconds: float = 3.0, *, index_first: bool) -> Path:
    """Grey pictures and a tone, interleaved, with the index (moov) before or behind them."""
    import av

    options = {"movflags": "faststart"} if index_first else {}
    rate, fps = 44100, 25
    with av.open(str(path), "w", options=options) as container:
        video = container.add_stream("mpeg4", rate=fps)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=rate, layout="mono")
        samples = tone(seconds, rate)
        for number in range(round(seconds * fps)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, np.uint8), format="bgr24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(video.encode(frame))
            start = number * rate // fps
            block = samples[None, start : (number + 1) * rate // fps]
            sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = rate, start, Fraction(1, rate)
            container.mux(audio.encode(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path


def halved(path: Path, target: Path) -> Path:
    content = path.read_bytes()
    target.write_bytes(content[: len(content) // 2])
    return target


def check_cut_clip(whole: Path, cut: Path, bundle: Path, capsys: Capture) -> None:
    """A cut clip is answered up to the cut, as the whole one was, with one warning that names it."""
    before, quiet = answers(["run", str(whole), "--bundle", str(bundle)], capsys)
    after, err = answers(["run", str(cut), "--bundle", str(bundle)], capsys)
    assert quiet == ""
    assert err == f"edgeemo: warning: {cut}: the file was cut off; read up to the cut\n"
    assert 5 <= len(after) < len(before)
    # A file holds pictures and sound in turns, and the cut takes more of the one than of the other.
    reach = min(max(event.time for event in Clip(cut, (modality,))) for modality in ("face", "voice"))
    common = [one for one in after if one["time"] <= reach]
    assert len(common) >= 5
    assert common == before[: len(common)]


def test_an_mp4_that_was_cut_off_is_answered_up_to_the_cut(
    bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    whole = write_mp4(tmp_path / "whole.mp4", index_first=True)
    check_cut_clip(whole, halved(whole, tmp_path / "cut.mp4"), bundle, capsys)


def test_a_real_mp4_that_was_cut_off_is_answered_up_to_the_cut(
    bundle: Path, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    whole = min((data / "ravdess_video").glob("*.mp4"))
    check_cut_clip(whole, halved(whole, tmp_path / "cut.mp4"), bundle, capsys)


def test_a_real_mp4_of_which_only_the_index_is_left_is_refused(
    bundle: Path, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    content = min((data / "ravdess_video").glob("*.mp4")).read_bytes()
    path = tmp_path / "index.mp4"
    path.write_bytes(content[: content.index(b"mdat") + 100])
    said = refusal(["run", str(path), "--bundle", str(bundle)], capsys)
    assert said == f"{path}: nothing in it can be decoded: give an undamaged media file"


# --- pictures


PICTURES: list[tuple[Any, str]] = [
    (np.zeros((4, 4, 3), np.float32), "float32"),
    (np.zeros((4, 4, 3), np.float64), "float64"),
    (np.zeros((4, 4), np.uint16), "uint16"),
    (np.zeros((4, 4), bool), "bool"),
    (np.zeros((0, 4, 3), np.uint8), "(0, 4, 3)"),
    (np.zeros((4, 0), np.uint8), "(4, 0)"),
    (np.zeros((4, 4, 2), np.uint8), "(4, 4, 2)"),
    (np.zeros((2, 4, 4, 3), np.uint8), "(2, 4, 4, 3)"),  # a stack is not a list
    (np.zeros(4, np.uint8), "(4,)"),
    ([[1, 2], [3, 4]], "list"),
    ("face.jpg", "str"),
    (None, "NoneType"),
]


@pytest.mark.parametrize(("image", "names"), PICTURES, ids=[names for _, names in PICTURES])
def test_what_is_no_picture_is_refused_and_the_stream_goes_on(
    image: Any, names: str, model: Recognizer
) -> None:
    good = np.full((8, 8, 3), 90, np.uint8)
    right = "a picture is a uint8 array of H x W (grey), H x W x 3 (BGR) or H x W x 4 (BGRA)"
    said = raised(lambda: model.recognize([good, image], face_is_cropped=True), InputError)
    assert f" {names}" in said and right in said
    with Stream(model, ("face",), face_is_cropped=True) as stream:
        stream.push_frame(good, 0.0)
        assert raised(lambda: stream.push_frame(image, 0.1), InputError) == said
        stream.push_frame(good, 0.1)
        stream.end("face")
        assert [(emotion.time, emotion.state) for emotion in stream.poll()] == [(0.1, "ok"), (0.2, "ok")]


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1),
        (1, 1, 1),
        (1, 1, 3),
        (1, 1, 4),
        (2, 1, 3),
        (1, 4000, 3),
        (4000, 1),
        (60, 80),
        (60, 80, 1),
        (60, 80, 3),
        (60, 80, 4),
    ],
)
def test_every_shape_of_a_picture_is_answered(shape: tuple[int, ...], model: Recognizer) -> None:
    image = np.full(shape, 90, np.uint8)
    searched = model.recognize(image)
    assert (searched.state, searched.label, searched.reasons) == ("absent", None, ("no face",))
    crop = model.recognize(image, face_is_cropped=True)
    expected = model.recognize(np.full((8, 8, 3), 90, np.uint8), face_is_cropped=True)
    assert crop.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
    assert crop.state == "ok" and crop.box is not None


def test_a_face_is_found_in_bgr_grey_and_bgra_alike(model: Recognizer) -> None:
    import cv2

    frame = next(iter(Clip(cli.DEMO, ("face",))))
    assert not hasattr(frame, "samples")
    image = frame.image()
    grey: Any = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    shapes = [image, np.dstack([image, np.full(image.shape[:2], 7, np.uint8)]), grey, grey[:, :, None]]
    # One stream each: what a track learnt from another picture must not help.
    seen = [edgeemo.load(model.bundle.path).recognize(shape) for shape in shapes]
    assert all(emotion.state == "ok" and emotion.track is not None for emotion in seen)
    for emotion in seen:
        assert emotion.probabilities == pytest.approx(seen[0].probabilities, abs=0.05)
        assert emotion.box == pytest.approx(seen[0].box, abs=4)


def test_pictures_may_change_their_size(model: Recognizer) -> None:
    frames = [np.full(shape, 90, np.uint8) for shape in ((60, 80, 3), (1, 1, 3), (120, 50), (60, 80, 4))]
    assert model.recognize(frames).reasons == ("no face",)
    assert model.recognize(frames, face_is_cropped=True).state == "ok"


# --- sound


RATES = (4000, 8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000)


@pytest.mark.parametrize("rate", [*RATES, 4001, 191999, np.int64(16000)])
def test_every_rate_is_answered(rate: int, model: Recognizer) -> None:
    emotion = model.recognize(voice=tone(0.5, int(rate)), sample_rate=rate)
    assert emotion.state == "ok" and emotion.modalities == ("voice",)
    assert emotion.time == pytest.approx(0.5, abs=0.11)
    expected = model.recognize(voice=tone(0.5, 8000), sample_rate=8000)
    assert emotion.label == expected.label  # one loudness, whatever the rate


@pytest.mark.parametrize(
    "rate", [3999, 200000, 192001, 16000.5, 0, -1, -16000, True, "16000", None, float("nan")]
)
def test_other_rates_are_refused_and_the_stream_goes_on(rate: Any, model: Recognizer) -> None:
    said = raised(lambda: model.recognize(voice=tone(0.1, 8000), sample_rate=rate), InputError)
    assert "rate" in said and (rate is None or repr(rate) in said)
    with Stream(model, ("voice",)) as stream:
        stream.push_audio(tone(0.1, 8000), 8000, 0.0)
        pushed = raised(lambda: stream.push_audio(tone(0.1, 8000), rate, 0.1), InputError)
        assert repr(rate) in pushed and f"{LOWEST} to {HIGHEST}" in pushed
        stream.push_audio(tone(0.1, 8000), 8000, 0.1)
        assert [(emotion.time, emotion.state) for emotion in stream.poll()] == [(0.1, "ok"), (0.2, "ok")]
        assert not any(stream.stats.values())


def spoilt(value: float, dtype: Any = np.float32) -> NDArray[Any]:
    samples = tone(0.1, 8000).astype(dtype)
    samples[400] = value
    return samples


SAMPLES: list[tuple[str, Any, tuple[str, ...]]] = [
    ("NaN", spoilt(np.nan), ("NaN or infinity", "give finite numbers")),
    ("infinity", spoilt(np.inf), ("NaN or infinity", "give finite numbers")),
    ("minus infinity", spoilt(-np.inf, np.float64), ("NaN or infinity", "give finite numbers")),
    ("beyond float32", spoilt(1e300, np.float64), ("NaN or infinity", "give finite numbers")),
    ("int64", np.zeros(800, np.int64), ("int64", "give floating point, int16, int32 or uint8")),
    ("uint16", np.zeros(800, np.uint16), ("uint16", "give floating point, int16, int32 or uint8")),
    ("complex", np.zeros(800, complex), ("complex128", "give floating point")),
    ("objects", np.array([None] * 9), ("object", "give floating point")),
    ("a number", 0.5, ("shape ()", "(n,) or (n, channels)")),
    ("text", "hello", ("shape ()", "(n,) or (n, channels)")),
    ("three axes", np.zeros((9, 2, 2)), ("shape (9, 2, 2)", "(n,) or (n, channels)")),
    ("no channel", np.zeros((9, 0)), ("shape (9, 0)", "(n, channels)")),
    ("channels first", np.zeros((2, 800)), ("shape (2, 800)", "transpose")),
    ("ragged", [[0.1, 0.2], [0.3]], ("no array", "(n,) or (n, channels)")),
]


@pytest.mark.parametrize(("samples", "says"), [row[1:] for row in SAMPLES], ids=[row[0] for row in SAMPLES])
def test_what_is_no_sound_is_refused_and_the_stream_goes_on(
    samples: Any, says: tuple[str, ...], model: Recognizer
) -> None:
    said = raised(lambda: model.recognize(voice=samples, sample_rate=8000), InputError)
    assert "samples" in said and all(words in said for words in says)
    with Stream(model, ("voice",)) as stream, Stream(model, ("voice",)) as untouched:
        for start in range(5):
            for each in (stream, untouched):
                each.push_audio(tone(0.1, 8000), 8000, start / 10)
            # A bad chunk neither counts nor takes the place of a good one.
            assert raised(lambda: stream.push_audio(samples, 8000, 0.5), InputError) == said
        assert stream.poll() == untouched.poll()
        assert stream.stats == untouched.stats


def test_sound_far_beyond_full_scale_gives_no_nan(default_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(default_bundle, tmp_path / "b"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["thresholds"].pop("speech", None)  # nobody speaks in a tone, and it is to be answered
    (folder / "manifest.json").write_text(json.dumps(manifest))
    model = edgeemo.load(folder, precision="fp32")
    with Stream(model, ("voice",)) as stream:
        for second, gain in enumerate((1.0, 1e6, 1e19, 1e38, 1.0)):
            stream.push_audio(tone(1.0, 16000) * np.float32(gain), 16000, float(second))
        emotions = stream.poll()
    assert len(emotions) == 50
    for emotion in emotions:
        assert emotion.probabilities is not None
        assert sum(emotion.probabilities.values()) == pytest.approx(1.0)
        json.dumps(emotion.to_dict(), allow_nan=False)


# --- text


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that reads voice and text."""
    pytest.importorskip("onnx", reason="the tiny bundle is written with onnx")
    from tests.support.tiny import Tiny, write_bundle

    return write_bundle(tmp_path_factory.mktemp("reader"), Tiny(modalities=("voice", "text")))


WORDS: list[tuple[bytes | None, tuple[str, ...]]] = [
    (None, (": it cannot be read (", "each line must be start, end (in seconds) and words")),
    (b"\xff\xfe0\x00", (": it cannot be read (byte 0 is not UTF-8)",)),
    (b"0 1 fear\n", (", line 1: it has 1 fields", "with a tab between each")),
    (b"0,1,fear\n", (", line 1: it has 1 fields",)),
    (b"start\tend\twords\n0\t1\n", (", line 2: it has 2 fields",)),
    (b"0\t1\tfear\n\n2\tnan\tfear\n", (", line 3: the end is 'nan'", "seconds of at least 0")),
    (b"-1\t1\tfear\n", (", line 1: the start is '-1'",)),
    (b"1\t0.5\tfear\n", (", line 1: the end, 0.5 s, is before the start, 1 s",)),
    (b"\x89PNG\r\n\x1a\n", (": it cannot be read (byte 0 is not UTF-8)",)),
]


@pytest.mark.parametrize(("content", "says"), WORDS)
def test_a_table_of_words_that_is_none_is_refused(
    content: bytes | None, says: tuple[str, ...], reader: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "words.tsv"
    if content is not None:
        path.write_bytes(content)
    said = refusal(["run", str(cli.DEMO), "--bundle", str(reader), "--text", str(path)], capsys)
    assert said == raised(lambda: list(edgeemo.watch(cli.DEMO, bundle=reader, text=path)), SourceError)
    assert said.startswith(f"{path}{says[0]}") and all(words in said for words in says)


def test_a_table_of_words_for_a_bundle_that_reads_none_is_refused(
    bundle: Path, model: Recognizer, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "words.tsv"
    path.write_text("0\t1\tfear\n")
    said = refusal(["run", str(cli.DEMO), "--bundle", str(bundle), "--text", str(path)], capsys)
    assert said == raised(lambda: list(edgeemo.watch(cli.DEMO, model=model, text=path)), InputError)
    assert said == "text: the bundle tiny reads face and voice; leave text out"


def test_a_table_without_words_and_one_beyond_the_clip_are_answered(
    reader: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "words.tsv"
    words = ["run", str(cli.DEMO), "--bundle", str(reader)]
    plain, _ = answers(words, capsys)
    for content in ("", "start\tend\twords\n", "0\t1\t\n"):
        path.write_text(content)
        assert answers([*words, "--text", str(path)], capsys) == (plain, "")
    end = plain[-1]["time"]
    path.write_text(f"{end - 0.3}\t{end + 0.3}\tfear\n")
    longer, _ = answers([*words, "--text", str(path)], capsys)
    assert longer[: len(plain)] == plain
    assert [one["modalities"] for one in longer[len(plain) :]][-1:] == [["voice", "text"]]
    path.write_text(f"{end + 0.3}\t{end + 0.6}\tfear\n")
    beyond, said = answers([*words, "--text", str(path)], capsys)
    assert beyond == plain and "clip.mp4: 1 of its words begin after it has ended" in said


@pytest.mark.parametrize("time", [-1.0, float("nan"), float("inf"), "soon", None, 1e308])
def test_what_is_no_time_is_refused_and_the_stream_goes_on(time: Any, model: Recognizer) -> None:
    good = np.full((8, 8), 90, np.uint8)
    with Stream(model, face_is_cropped=True) as stream:
        stream.push_audio(tone(0.1, 8000), 8000, 0.0)
        stream.push_frame(good, 0.0)
        assert raised(lambda: stream.push_frame(good, time), InputError).startswith("time: ")
        assert raised(lambda: stream.push_audio(tone(0.1, 8000), 8000, time), InputError).startswith("time: ")
        stream.push_audio(tone(0.1, 8000), 8000, 0.1)
        stream.push_frame(good, 0.1)
        stream.end("face")
        stream.end("voice")
        assert [emotion.modalities for emotion in stream.poll()] == [("face", "voice")] * 2


@pytest.mark.parametrize("rate", [3000, 384000])
def test_a_file_of_another_rate_is_refused(
    rate: int, bundle: Path, model: Recognizer, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "sound.wav"
    silent_wave(path, 0.5, rate)
    said = refusal(["run", str(path), "--bundle", str(bundle)], capsys)
    with pytest.raises(EdgeEmoError) as caught:
        list(edgeemo.watch(path, model=model))
    assert said == str(caught.value)
    assert str(path) in said and str(rate) in said and f"{LOWEST} to {HIGHEST}" in said


@pytest.mark.parametrize("rate", [LOWEST, HIGHEST])
def test_a_file_of_each_legal_rate_is_answered(
    rate: int, bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    silent_wave(tmp_path / "sound.wav", 0.5, rate)
    told, err = answers(["run", str(tmp_path / "sound.wav"), "--bundle", str(bundle)], capsys)
    assert (len(told), err) == (5, "")


@pytest.mark.parametrize("hop", [0, 0.05, 0.15, -0.1, float("nan"), "often"])
def test_a_hop_off_the_grid_is_refused(hop: Any, model: Recognizer) -> None:
    for act in (
        lambda: list(edgeemo.watch(cli.DEMO, model=model, hop=hop)),
        lambda: Stream(model, hop=hop),
    ):
        assert raised(act, InputError).startswith("hop: ")


# --- nothing to judge by


def test_no_face_and_silence_are_answered_absent(model: Recognizer) -> None:
    dark, quiet = np.zeros((60, 80, 3), np.uint8), np.zeros(4000, np.float32)
    for emotion, reasons in [
        (model.recognize(dark), ("no face",)),
        (model.recognize(voice=quiet, sample_rate=8000), ("silence",)),
        (model.recognize([dark] * 5, quiet, 8000), ("no face", "silence")),
    ]:
        assert (emotion.state, emotion.label, emotion.probabilities) == ("absent", None, None)
        assert (emotion.confidence, emotion.modalities, emotion.reasons) == (0.0, (), reasons)


def test_a_silent_file_is_answered_absent(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "silence.wav"
    silent_wave(path, 0.5)
    told, err = answers(["run", str(path), "--bundle", str(bundle)], capsys)
    assert err == ""
    assert [one["time"] for one in told] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert all((one["state"], one["label"], one["confidence"]) == ("absent", None, 0.0) for one in told)
    assert all("silence" in one["reasons"] for one in told)


def test_a_picture_without_a_face_is_answered_absent(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    # The smallest PNG there is: one grey pixel.
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
    (tmp_path / "pixel.png").write_bytes(base64.b64decode(pixel))
    told, _ = answers(["run", str(tmp_path / "pixel.png"), "--bundle", str(bundle)], capsys)
    assert [(one["state"], one["track"]) for one in told] == [("absent", None)]
    assert "no face" in told[0]["reasons"]


def test_nothing_at_all_is_refused(model: Recognizer) -> None:
    no_sound = np.zeros(0, np.float32)
    for act, says in [
        (lambda: model.recognize(), "give face or voice"),
        (lambda: model.recognize([]), "give a picture"),
        (lambda: model.recognize(voice=no_sound, sample_rate=8000), "leave it out where there is no sound"),
        (lambda: model.recognize(text="hello"), "leave text out"),
        (lambda: list(edgeemo.watch(model=model)), "name a file, a camera (such as 0) or a microphone"),
        (lambda: list(edgeemo.watch("a.mp4", camera=0, model=model)), "name either a file, or a camera"),
        (lambda: list(edgeemo.watch(0, model=model)), "camera"),  # type: ignore[arg-type]  # as OpenCV takes it
        (lambda: list(edgeemo.watch(b"a.mp4", model=model)), "file"),  # type: ignore[arg-type]
    ]:
        assert says in raised(act, InputError)


# --- bundles


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def check_bundle(folder: Path, capsys: Capture, *says: str) -> None:
    """`info` and Python refuse the folder alike."""

    def examine() -> None:
        bundle = Bundle.read(folder)
        bundle.verify()

    said = refusal(["info", "--bundle", str(folder)], capsys)
    assert said == raised(examine, BundleError)
    assert said.startswith(f"bundle {folder}: ")
    assert all(words in said for words in says), said


def check_unusable(folder: Path, capsys: Capture, *says: str, precision: str = "int8") -> None:
    """`run` and `load` refuse the folder too, before anything is answered."""
    words = ["run", str(cli.DEMO), "--bundle", str(folder), "--precision", precision]
    said = refusal(words, capsys)
    assert said == raised(lambda: edgeemo.load(folder, precision=precision), BundleError)
    assert said.startswith(f"bundle {folder}: ")
    assert all(words in said for words in says), said


GRAPHS = (
    "face.fp32.onnx",
    "face.int8.onnx",
    "face.int8-cpu.onnx",
    "voice.fp32.onnx",
    "voice.int8.onnx",
    "voice.int8-cpu.onnx",
    "fusion.fp32.onnx",
)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_flipped_bit_is_found(name: str, broken: Path, capsys: Capture) -> None:
    flip(broken / name)
    says = (f"{name} has the sha256", "where manifest.json says", "copy or download the bundle again")
    check_bundle(broken, capsys, *says)
    if name == "fusion.fp32.onnx" or "int8-cpu" in name:  # what INT8 runs here
        check_unusable(broken, capsys, *says)
    if "fp32" in name:
        check_unusable(broken, capsys, *says, precision="fp32")


def test_a_flipped_bit_in_each_file_of_the_default_bundle_is_found(
    default_bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = Path(shutil.copytree(default_bundle, tmp_path / "default"))
    names = json.loads((folder / "manifest.json").read_text("utf-8"))["files"]
    assert {"face.int8-cpu.onnx", "voice.int8-cpu.onnx", "fusion.fp32.onnx"} <= set(names)
    for name in names:
        flip(folder / name)
        check_bundle(folder, capsys, f"{name} has the sha256")
        flip(folder / name)
    Bundle.read(folder).verify()


@pytest.mark.parametrize("name", [*GRAPHS, "manifest.json"])
def test_a_missing_file_is_named(name: str, broken: Path, capsys: Capture) -> None:
    (broken / name).unlink()
    what = "a bundle is a folder with a manifest.json" if name == "manifest.json" else "copy or download"
    check_bundle(broken, capsys, name, what)
    check_unusable(broken, capsys, name, what)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not valid JSON"),
        (b"schema: 1\n", "not valid JSON"),
        (b'{"schema": 1', "not valid JSON"),  # cut off
        (b"\x00\xff\x80", "UTF-8"),
        (b"[]", "must be a JSON object"),
        (b"{}", "'schema' is missing; it must be 1"),
        (b'{"schema": 2}', "'schema' is 2; it must be 1, the only one that this version of edgeemo reads"),
        (b'{"schema": 0}', "'schema' is 0; it must be 1"),
        (b'{"schema": "1"}', "it must be 1"),
        (b'{"schema": 1.0}', "'schema' is 1.0; it must be 1"),
    ],
)
def test_another_manifest_is_refused(content: bytes, says: str, broken: Path, capsys: Capture) -> None:
    (broken / "manifest.json").write_bytes(content)
    check_bundle(broken, capsys, "manifest.json", says)
    check_unusable(broken, capsys, "manifest.json", says)


def rename_graph(folder: Path, name: str) -> None:
    """Let the manifest look for a graph elsewhere, and put it there."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["files"][name] = manifest["files"].pop("face.fp32.onnx")
    manifest["graphs"]["face"]["files"]["fp32"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")


@pytest.mark.parametrize("where", ["../face.onnx", "graphs/../../face.onnx", "{outside}/face.onnx"])
def test_a_path_that_leaves_the_bundle_is_refused(where: str, broken: Path, capsys: Capture) -> None:
    name = where.format(outside=broken.parent)
    shutil.move(broken / "face.fp32.onnx", broken.parent / "face.onnx")  # whole, in the wrong place
    (broken / "graphs").mkdir()
    rename_graph(broken, name)
    says = (repr(name), "not a plain path inside the folder", "it must be relative")
    check_bundle(broken, capsys, *says)
    check_unusable(broken, capsys, *says, precision="fp32")


def test_a_link_that_leaves_the_bundle_is_refused(broken: Path, capsys: Capture) -> None:
    outside = broken.parent / "face.onnx"
    shutil.move(broken / "face.fp32.onnx", outside)
    (broken / "face.fp32.onnx").symlink_to(outside)
    says = ("face.fp32.onnx is a link that leaves the folder", "every file must lie in the folder")
    check_bundle(broken, capsys, *says)
    check_unusable(broken, capsys, *says, precision="fp32")


def test_a_linked_folder_that_leaves_the_bundle_is_refused(broken: Path, capsys: Capture) -> None:
    (broken.parent / "outside").mkdir()
    shutil.move(broken / "face.fp32.onnx", broken.parent / "outside")
    (broken / "graphs").symlink_to(broken.parent / "outside")
    rename_graph(broken, "graphs/face.fp32.onnx")
    check_bundle(broken, capsys, "graphs/face.fp32.onnx is a link that leaves the folder")


def test_what_is_no_bundle_is_refused(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty").mkdir()
    right = "a bundle is a folder with a manifest.json"
    for folder, says in [
        (tmp_path / "nowhere", "does not exist"),
        (tmp_path / "empty", "manifest.json cannot be read"),
        (bundle / "manifest.json", "is a file"),
    ]:
        check_bundle(folder, capsys, says, right)
        check_unusable(folder, capsys, says, right)


# --- backends and detectors


@pytest.mark.parametrize(
    ("option", "value", "legal"),
    [
        ("backend", "cuda", ("auto", "onnx", "tensorrt")),
        ("backend", "", ("auto", "onnx", "tensorrt")),
        ("precision", "int4", ("int8", "fp16", "fp32")),
        ("precision", "INT8", ("int8", "fp16", "fp32")),
    ],
)
def test_an_unknown_engine_is_refused_with_the_known_ones(
    option: str, value: str, legal: tuple[str, ...], bundle: Path, capsys: Capture
) -> None:
    options: dict[str, Any] = {option: value}
    said = raised(lambda: edgeemo.load(bundle, **options), InputError)
    assert option in said and repr(value) in said and all(name in said for name in legal)
    words = ["run", str(cli.DEMO), "--bundle", str(bundle), f"--{option}", value, "--json"]
    status, out, err = command(words, capsys)
    assert (status, out) == (2, "")
    assert f"--{option}" in err and repr(value) in err and all(name in err for name in legal)


def test_tensorrt_is_refused_with_what_to_use(
    bundle: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    (tmp_path / "m.csv").write_text("label,face\n")
    right = raised(lambda: edgeemo.load(bundle, backend="tensorrt"), BackendError)
    assert right.startswith("backend 'tensorrt' cannot be opened: TensorRT's Python module is not installed")
    assert right.endswith("; or use 'onnx' or 'auto'")
    for words in (["run", str(cli.DEMO)], ["evaluate", str(tmp_path / "m.csv")], ["demo"]):
        assert refusal([*words, "--bundle", str(bundle), "--backend", "tensorrt"], capsys) == right


@pytest.mark.parametrize(
    ("name", "content"), [("missing.onnx", None), ("text.onnx", b"no graph"), ("empty.onnx", b"")]
)
def test_a_detector_that_is_none_is_refused(
    name: str, content: bytes | None, bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    said = refusal(["run", str(cli.DEMO), "--bundle", str(bundle), "--detector", str(path)], capsys)
    assert str(path) in said and "YuNet" in said


# --- cameras and microphones


@pytest.mark.parametrize("camera", ["99", "99999999999999", "/dev/video99", "no such camera"])
def test_a_camera_that_is_not_there_is_refused(
    camera: str, bundle: Path, model: Recognizer, capsys: Capture
) -> None:
    said = refusal(["run", "--camera", camera, "--bundle", str(bundle)], capsys)
    assert said == raised(lambda: list(edgeemo.watch(camera=camera, model=model)), SourceError)
    assert said.startswith(f"camera {camera} cannot be opened") and "plug it in" in said


def test_a_file_is_no_camera(bundle: Path, capsys: Capture) -> None:
    said = refusal(["run", "--camera", str(cli.DEMO), "--bundle", str(bundle)], capsys)
    assert said == f"{cli.DEMO}: a file, not a camera: give it as the file to open"


class NoDevices:
    """sounddevice on a machine without sound hardware."""

    class PortAudioError(Exception):
        pass

    def query_devices(self, device: object = None, kind: str | None = None) -> Any:
        if kind is None:
            return []
        if device is None:
            raise self.PortAudioError("Error querying device -1")
        raise ValueError(f"No input device matching {device!r}")


def without_library(error: Exception) -> Callable[[str], Any]:
    def find(name: str) -> Any:
        assert name == "sounddevice"
        raise error

    return find


@pytest.mark.parametrize(
    ("find", "says"),
    [
        (without_library(ModuleNotFoundError("No module named 'sounddevice'")), "pip install sounddevice"),
        (without_library(OSError("PortAudio library not found")), "apt install libportaudio2"),
        (lambda name: NoDevices(), "there are none on this machine"),
    ],
    ids=["no package", "no PortAudio", "no device"],
)
@pytest.mark.parametrize("name", ["default", "7", "USB"])
def test_a_microphone_that_is_not_there_is_refused(
    find: Callable[[str], Any],
    says: str,
    name: str,
    bundle: Path,
    model: Recognizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    from edgeemo.capture import microphone

    monkeypatch.setattr(microphone, "importlib", SimpleNamespace(import_module=find))
    said = refusal(["run", "--microphone", name, "--bundle", str(bundle)], capsys)
    assert said == raised(lambda: list(edgeemo.watch(microphone=name, model=model)), SourceError)
    assert "microphone" in said and says in said


# --- manifests of evaluate


@pytest.mark.parametrize(
    ("content", "error", "line", "says"),
    [
        (None, InputError, None, ("cannot be read", "a CSV file in UTF-8")),
        (b"", InputError, None, ("no column 'label'", "first line must name the columns")),
        (b"\n\n", InputError, None, ("no column 'label'",)),
        (b"label,voice\n", InputError, None, ("no items", "a line below the names of the columns")),
        (b"voice\nsound.wav\n", InputError, None, ("no column 'label'",)),
        (b"label,speaker\nfear,1\n", InputError, None, ("no column 'face' or 'voice'", "bundle tiny")),
        (b"label,text\nfear,hello\n", InputError, None, ("no column 'face' or 'voice'",)),
        (b"label,voice\nfear,sound.wav\njoy,sound.wav\n", InputError, 3, ("'joy'", "anger, disgust, fear")),
        (b"label,voice\nFear,sound.wav\n", InputError, 2, ("'Fear'", "it must be one of")),
        (b"label,voice\n,sound.wav\n", InputError, 2, ("label is ''", "it must be one of")),
        (b"label,voice\nfear,\n", InputError, 2, ("names no file", "give voice")),
        (b"label,voice\nfear\n", InputError, 2, ("names no file", "give voice")),
        (b"label,voice\nfear,gone.wav\n", SourceError, 2, ("gone.wav", "does not exist")),
        (b"label,face\nfear,gone\n", SourceError, 2, ("gone", "does not exist")),
        (b"label,voice\nfear,sound.wav\nfear,text.wav\n", SourceError, 3, ("text.wav", "not media")),
        (b"label,face\nfear,text.png\n", SourceError, 2, ("text.png", "not a picture", "give a JPEG or PNG")),
        (b"label,face\nfear,folder\n", SourceError, 2, ("a folder without pictures",)),
        (b"label,voice\nfear,folder\n", SourceError, 2, ("a folder", "give one video, sound file")),
        (b"label,face\nfear,sound.wav\n", SourceError, 2, ("sound.wav", "holds no picture")),
        (b"label,voice\nfear,sound.wav\xff\n", InputError, None, ("cannot be read", "UTF-8")),
        (b"PK\x03\x04\x00\x00", InputError, None, ("manifest.csv",)),  # a spreadsheet
    ],
)
def test_a_manifest_that_is_wrong_is_refused(
    content: bytes | None,
    error: type[EdgeEmoError],
    line: int | None,
    says: tuple[str, ...],
    bundle: Path,
    model: Recognizer,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    silent_wave(tmp_path / "sound.wav", 0.3)
    for name in ("text.wav", "text.png"):
        (tmp_path / name).write_text("neither sound nor picture\n")
    (tmp_path / "folder").mkdir()
    path = tmp_path / "manifest.csv"
    if content is not None:
        path.write_bytes(content)
    said = refusal(["evaluate", str(path), "--bundle", str(bundle)], capsys)
    assert said == raised(lambda: evaluate(path, model), error)
    assert said.startswith(f"{path}: " if line is None else f"{path}, line {line}: ")
    assert all(words in said for words in says), said


def test_a_folder_is_no_manifest(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    said = refusal(["evaluate", str(tmp_path), "--bundle", str(bundle)], capsys)
    assert str(tmp_path) in said and "a manifest is a CSV file" in said


# --- what a shell sees


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "{tmp}/text.mp4"], "text, not media"),
        (["run", "{demo}", "--backend", "tensorrt"], "use 'onnx' or 'auto'"),
        (["info", "--bundle", "{tmp}"], "manifest.json cannot be read"),
    ],
)
def test_a_process_ends_without_a_traceback(
    words: list[str], says: str, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.mp4").write_text("not a film\n")
    filled = [word.format(tmp=tmp_path, demo=cli.DEMO) for word in words]
    if "--bundle" not in filled:
        filled += ["--bundle", str(bundle)]
    done = subprocess.run(
        [sys.executable, "-m", "edgeemo", *filled, "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("edgeemo: ") and done.stderr.count("\n") == 1
    assert says in done.stderr and "Traceback" not in done.stderr


def test_a_refusal_leaves_nothing_behind(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    """The next command in the same process neither repeats a message nor lacks one."""
    for _ in range(2):
        refusal(["run", str(tmp_path / "missing.mp4"), "--bundle", str(bundle)], capsys)
    assert not logging.getLogger("edgeemo").handlers
    with contextlib.closing(edgeemo.watch(cli.DEMO, bundle=bundle)) as emotions:
        assert next(emotions).time == pytest.approx(0.1)
