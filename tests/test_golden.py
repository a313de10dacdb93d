"""Real recordings: the command line, `watch`, a `Stream`, `recognize` and `evaluate` agree on them."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgeemo
from edgeemo import cli
from edgeemo.capture.clip import Clip, read_sound
from edgeemo.capture.source import Frame, Sound
from edgeemo.evaluate import evaluate
from edgeemo.recognition.emotion import Emotion
from edgeemo.recognition.recognizer import Recognizer
from edgeemo.recognition.stream import Stream

ANGRY, HAPPY, SAD = (f"cremad/1001_DFA_{name}_XX.flv" for name in ("ANG", "HAP", "SAD"))
SURPRISED = "ravdess_video/01-01-08-01-01-02-01.mp4"
CALM = "ravdess_video/01-01-01-01-01-01-01.mp4"
CLIPS = (ANGRY, HAPPY, SAD, CALM, SURPRISED)
SIZES = {".flv": (480, 360), ".mp4": (1280, 720)}
HOP = 0.1
KEYS = [
    "label",
    "probabilities",
    "valence",
    "arousal",
    "confidence",
    "state",
    "reasons",
    "time",
    "track",
    "box",
    "modalities",
]
SAME = 1e-5
"""How far probabilities may be apart that must be the same; sums depend on the order a little."""
CHUNKS = (1, 7, 333, 1601, 4999)


@pytest.fixture(scope="module", autouse=True)
def no_detector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No YuNet of the user's, so that every machine looks for faces in the same way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("EDGEEMO_FACE_DETECTOR", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def model(default_bundle: Path) -> Recognizer:
    return edgeemo.load(default_bundle)


@pytest.fixture(scope="module")
def watched(data: Path, model: Recognizer) -> dict[str, list[Emotion]]:
    """What `watch` answers for each clip."""
    return {name: list(edgeemo.watch(data / name, model=model)) for name in CLIPS}


def run_json(path: Path, bundle: Path) -> list[dict[str, Any]]:
    """The lines of `edgeemo run --json`, which must write nothing else."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(["run", str(path), "--bundle", str(bundle), "--json"])
    assert (status, err.getvalue()) == (0, "")
    return [json.loads(line, parse_constant=pytest.fail) for line in out.getvalue().splitlines()]


def check_same(answers: list[Emotion], expected: list[Emotion]) -> None:
    """The same answers but for rounding: by hop and face, with what was used and what was missing."""
    assert [what(answer) for answer in answers] == [what(answer) for answer in expected]
    for answer, right in zip(answers, expected, strict=True):
        assert answer.probabilities == close(right.probabilities)
        assert answer.by_modality.keys() == right.by_modality.keys()
        for modality, alone in right.by_modality.items():
            assert answer.by_modality[modality] == close(alone)
        assert (answer.valence, answer.arousal) == close((right.valence, right.arousal))


def what(emotion: Emotion) -> tuple[object, ...]:
    """All of an answer but its probabilities, valence and arousal."""
    names = ("time", "track", "box", "state", "label", "modalities", "reasons")
    return tuple(getattr(emotion, name) for name in names)


def close(value: Any) -> Any:
    return None if value is None else pytest.approx(value, abs=SAME)


def sound_of(path: Path) -> tuple[NDArray[np.float32], int, float]:
    """All samples of a clip, their rate and the time of the first."""
    blocks = [block for block in Clip(path, ("voice",)) if isinstance(block, Sound)]
    for one, next_one in itertools.pairwise(blocks):
        end = one.time + one.samples.size / one.sample_rate
        assert next_one.time == pytest.approx(end, abs=1e-3)  # no gaps: chunks may be cut anywhere
    return np.concatenate([block.samples for block in blocks]), blocks[0].sample_rate, blocks[0].time


def push_sound(stream: Stream, path: Path, until: float = np.inf, *, poll: bool = False) -> list[Emotion]:
    """Push the samples before `until` in chunks of odd sizes; what was polled meanwhile."""
    samples, rate, begin = sound_of(path)
    samples = samples[: round(min(max(until - begin, 0) * rate, samples.size))]
    answers, start, sizes = [], 0, itertools.cycle(CHUNKS)
    while start < samples.size:
        size = next(sizes)
        stream.push_audio(samples[start : start + size], rate, begin + start / rate)
        start += size
        answers += stream.poll() if poll else []
    return answers


def push_pictures(stream: Stream, path: Path, until: float = np.inf, *, poll: bool = False) -> list[Emotion]:
    """Push the pictures before `until`; what was polled meanwhile."""
    answers = []
    for frame in Clip(path, ("face",)):
        assert isinstance(frame, Frame)
        if frame.time >= until:
            break
        stream.push_frame(frame.image, frame.time)
        answers += stream.poll() if poll else []
    return answers


def ended(stream: Stream) -> list[Emotion]:
    for modality in stream.modalities:
        stream.end(modality)
    return stream.poll()


# --- the timeline of each clip


@pytest.mark.parametrize("name", CLIPS)
def test_run_answers_a_real_clip_on_the_grid_of_hops(
    name: str, data: Path, default_bundle: Path, model: Recognizer, watched: dict[str, list[Emotion]]
) -> None:
    lines = run_json(data / name, default_bundle)
    assert lines == [emotion.to_dict() for emotion in watched[name]]
    assert all(list(line) == KEYS for line in lines)
    times = sorted({line["time"] for line in lines})
    assert times == [round((hop + 1) * HOP, 3) for hop in range(len(times))]
    duration = Clip(data / name).duration
    assert duration is not None and times[-1] - HOP <= duration + 0.05 and duration <= times[-1] + 2 * HOP
    by_track = defaultdict(list)
    for line in lines:
        by_track[line["track"]].append(line["time"])
    for times_of_one in by_track.values():
        assert all(later > earlier for earlier, later in itertools.pairwise(times_of_one))


@pytest.mark.parametrize("name", CLIPS)
def test_every_answer_is_consistent_with_itself(
    name: str, model: Recognizer, watched: dict[str, list[Emotion]]
) -> None:
    width, height = SIZES[Path(name).suffix]
    for emotion in watched[name]:
        assert emotion.probabilities is not None  # a face is there from the first hop on
        assert tuple(emotion.probabilities) == model.labels
        assert sum(emotion.probabilities.values()) == pytest.approx(1.0, abs=1e-6)
        assert emotion.confidence == max(emotion.probabilities.values())
        sure = emotion.confidence >= model.bundle.thresholds.confidence
        top = max(emotion.probabilities, key=emotion.probabilities.__getitem__)
        assert (emotion.state, emotion.label) == (("ok", top) if sure else ("uncertain", None))
        assert ("low confidence" in emotion.reasons) == (not sure)
        assert emotion.valence is not None and -1 <= emotion.valence <= 1
        assert emotion.arousal is not None and -1 <= emotion.arousal <= 1
        assert tuple(emotion.by_modality) == emotion.modalities
        assert emotion.box is not None
        x, y, wide, high = emotion.box
        assert 0 < x + wide / 2 < width and 0 < y + high / 2 < height
        assert height / 8 < high < height  # one person, from the shoulders up


@pytest.mark.parametrize("name", CLIPS)
def test_one_face_is_followed_and_both_modalities_are_used(
    name: str, watched: dict[str, list[Emotion]]
) -> None:
    emotions = watched[name]
    ((track, count),) = Counter(emotion.track for emotion in emotions).most_common(1)
    assert track is not None and count >= 0.9 * len(emotions)
    assert sum("no face" not in emotion.reasons for emotion in emotions) >= 0.9 * len(emotions)
    heard = ["voice" in emotion.modalities for emotion in emotions]
    assert heard == sorted(heard)  # once heard, the voice stays in the window of 4 s
    assert all(emotion.modalities == ("face", "voice") for emotion in emotions if emotion.time > 1.5)
    for emotion, voice in zip(emotions, heard, strict=True):
        assert voice or {"silence", "no speech"} & set(emotion.reasons)


def test_a_happy_clip_looks_and_sounds_happier_than_the_others(watched: dict[str, list[Emotion]]) -> None:
    def happiness(name: str) -> float:
        return float(np.mean([(emotion.probabilities or {})["happiness"] for emotion in watched[name]]))

    assert happiness(HAPPY) > 0.4
    assert happiness(HAPPY) > 2 * max(happiness(ANGRY), happiness(SAD))


# --- chunks, order and cuts


@pytest.mark.parametrize("name", [HAPPY, pytest.param(SURPRISED, marks=pytest.mark.slow)])
def test_a_stream_in_odd_chunks_answers_as_watch_does(
    name: str, data: Path, model: Recognizer, watched: dict[str, list[Emotion]]
) -> None:
    with Stream(model, lateness=None) as stream:
        # All sound before the first picture.
        answers = push_sound(stream, data / name)
        answers += push_pictures(stream, data / name, poll=True)
        answers += ended(stream)
        check_same(answers, watched[name])
        assert not any(stream.stats.values())
        # All pictures before the first sample, on the same stream.
        stream.reset()
        answers = push_pictures(stream, data / name)
        answers += push_sound(stream, data / name, poll=True)
        answers += ended(stream)
        check_same(answers, watched[name])


@pytest.mark.parametrize("name", [ANGRY, CALM])
@pytest.mark.parametrize("cut", [0.5, 1.0, 1.57])
def test_a_cut_changes_no_answer_before_it(
    name: str, cut: float, data: Path, model: Recognizer, watched: dict[str, list[Emotion]]
) -> None:
    complete = round(cut / HOP - 0.5 + 1e-9)  # hops that end at or before the cut
    with Stream(model, lateness=None) as stream:
        push_sound(stream, data / name, cut)
        push_pictures(stream, data / name, cut)
        before = stream.poll()
        # The last picture before the cut does not tell that none follows it in its hop.
        assert complete - 1 <= len(before) <= complete
        after = before + ended(stream)
    assert len(after) == complete + (cut > complete * HOP + 1e-6)
    check_same(after[:complete], watched[name][:complete])


# --- recognize and evaluate


def newest_pictures(path: Path, hops: int) -> list[NDArray[np.uint8]]:
    """The newest picture of each of the first hops."""
    newest: dict[int, Frame] = {}
    for frame in Clip(path, ("face",)):
        assert isinstance(frame, Frame)
        if frame.time >= hops * HOP - 1e-6:
            break
        newest[int((frame.time + 1e-6) / HOP)] = frame
    return [newest[hop].image() for hop in range(hops)]


@pytest.mark.parametrize("name", [SAD, CALM])
def test_recognize_answers_decoded_pictures_and_sound_as_watch_does(
    name: str, data: Path, model: Recognizer, watched: dict[str, list[Emotion]]
) -> None:
    hops = 18  # all have a picture in every clip; spread evenly over as much sound each falls into its hop
    pictures = newest_pictures(data / name, hops)
    samples, rate = read_sound(data / name)
    samples = samples[: round(hops * HOP * rate)]
    check_same([model.recognize(pictures, samples, rate)], watched[name][hops - 1 : hops])
    # One modality alone: what by_modality says of it, for the other is masked there.
    for alone, modality in (
        (model.recognize(pictures), "face"),
        (model.recognize(voice=samples, sample_rate=rate), "voice"),
    ):
        assert alone.modalities == (modality,) and alone.time == pytest.approx(hops * HOP)
        assert alone.by_modality[modality] == close(watched[name][hops - 1].by_modality[modality])


def test_a_voice_longer_than_the_window_is_answered_by_the_mean_of_its_hops(
    data: Path, model: Recognizer
) -> None:
    samples, rate = read_sound(data / SURPRISED)
    twice = np.concatenate([samples, samples])
    assert twice.size > model.bundle.window * rate
    with Stream(model, ("voice",), lateness=None) as stream:
        for start in range(0, twice.size, 1237):
            stream.push_audio(twice[start : start + 1237], rate, start / rate)
        hops = ended(stream)
    logarithms = [np.log(list(hop.probabilities.values())) for hop in hops if hop.probabilities is not None]
    mean = np.exp(np.mean(logarithms, axis=0))
    answer = model.recognize(voice=twice, sample_rate=rate)
    assert answer.probabilities is not None
    assert list(answer.probabilities.values()) == close((mean / mean.sum()).tolist())
    assert 0 < len(logarithms) < len(hops)  # it starts with silence, which has no probabilities


def test_evaluate_answers_a_clip_as_watch_does(
    data: Path, model: Recognizer, watched: dict[str, list[Emotion]], tmp_path: Path
) -> None:
    manifest = tmp_path / "clips.csv"
    rows = [("happiness", HAPPY), ("sadness", SAD)]
    lines = [f"{label},{data.resolve() / name},{data.resolve() / name}" for label, name in rows]
    manifest.write_text("\n".join(["label,face,voice", *lines]) + "\n")
    report = evaluate(manifest, model)
    # Both are shorter than the window, which makes the last hop the answer.
    check_same([item.emotion for item in report.items], [watched[name][-1] for _, name in rows])


EMOTIONS = {
    "01": "neutral",
    "02": "neutral",
    "03": "happiness",
    "04": "sadness",
    "05": "anger",
    "06": "fear",
    "07": "disgust",
    "08": "surprise",
}


@pytest.mark.slow
def test_unseen_voices_are_told_apart_far_better_than_by_chance(
    data: Path, default_bundle: Path, tmp_path: Path
) -> None:
    voices = sorted(
        path for actor in range(17, 21) for path in (data / f"ravdess_speech/actor_{actor}").glob("*.flac")
    )[::4]
    assert len(voices) == 60
    rows = [f"{EMOTIONS[path.name[6:8]]},{path.resolve()}" for path in voices]
    manifest = tmp_path / "voices.csv"
    manifest.write_text("\n".join(["label,voice", *rows]) + "\n")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = cli.main(["evaluate", str(manifest), "--bundle", str(default_bundle), "--json"])
    told = json.loads(out.getvalue())
    assert status == 0 and told["n"] == 60
    assert np.sum(told["confusion"]) == 60  # every voice is heard
    assert len(told["classes"]) == 7
    # Chance is 1 in 7, and the largest class has less than a third of the voices.
    assert told["wa"] > 0.4 and told["ua"] > 0.35
