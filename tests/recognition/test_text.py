"""Text in a stream and in a clip: what a hop knows, what is late, what is muted, and what is read again."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeemo.capture.source import Sound, Words
from edgeemo.errors import BackendError, BundleError, InputError
from edgeemo.inference.bundle import describe_files
from edgeemo.preprocess.text import WordPiece
from edgeemo.recognition.feed import feed
from edgeemo.recognition.recognizer import Recognizer, load
from edgeemo.recognition.ring import TokenRing
from edgeemo.recognition.stream import Stream
from edgeemo.recognition.text import Text
from tests.recognition.conftest import Build
from tests.recognition.fakes import (
    GEOMETRY,
    CountingGraph,
    Push,
    assert_answers,
    assert_same,
    calls,
    close,
    fake_model,
    play,
    voice_pushes,
)
from tests.support.tiny import LABELS, Tiny, write_bundle

BOTH = Tiny(modalities=("voice", "text"))
ALONE = Tiny(modalities=("text",))
ALL = Tiny(modalities=("face", "voice", "text"))
HOPS = 14

SAID = [
    ("fear", 0.0, 0.12),
    ("anger", 0.15, 0.3),
    ("surprise", 0.3, 0.41),
    ("neutral", 0.41, 0.41),
    ("well well", 0.5, 0.75),
    ("nonsense", 0.9, 1.01),
    ("sadness !", 0.95, 1.25),
]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[tuple[str, ...], Path]:
    return {
        tiny.modalities: write_bundle(tmp_path_factory.mktemp("text"), tiny, geometry=GEOMETRY)
        for tiny in (BOTH, ALONE, ALL)
    }


@pytest.fixture
def both(folders: Mapping[tuple[str, ...], Path]) -> Recognizer:
    return fake_model(folders[BOTH.modalities], BOTH)


@pytest.fixture
def alone(folders: Mapping[tuple[str, ...], Path]) -> Recognizer:
    return fake_model(folders[ALONE.modalities], ALONE)


@pytest.fixture
def everything(folders: Mapping[tuple[str, ...], Path]) -> Recognizer:
    return fake_model(folders[ALL.modalities], ALL, (10.0, 10.0, 20.0, 20.0), (60.0, 50.0, 40.0, 40.0))


@pytest.fixture
def sound() -> Any:
    """Sound of `HOPS` hops whose level changes all the time."""
    level = np.repeat(np.random.default_rng(1).uniform(0.05, 0.9, HOPS * 4), BOTH.samples // 4)
    return (level * np.where(np.arange(len(level)) // 8 % 2, 1, -1)).astype(np.float32)


def texts(said: Iterable[tuple[str, float, float]] = SAID) -> list[Push]:
    return [("text", end, (words, start), 0) for words, start, end in said]


def in_time(*pushes: list[Push]) -> list[Push]:
    return sorted((one for many in pushes for one in many), key=lambda one: one[1])


def files(model: Recognizer, modalities: Any = None, hop: float = 0.1) -> Stream:
    return Stream(model, modalities, hop, lateness=None, face_is_cropped=True)


def ids_of(tiny: Tiny, words: list[str]) -> Any:
    """[CLS], words and [SEP], of too many the newest, by hand for words that are one token each."""
    numbers = [tiny.vocabulary.index(word) if word in tiny.vocabulary else 1 for word in words]
    row = [2, *numbers[-(tiny.slots - 2) :], 3]
    return np.array([row + [0] * (tiny.slots - len(row))], np.int32)


def known_at(hop: int, said: Iterable[tuple[str, float, float]], window: float = 0.5) -> list[str]:
    """The definition: what ended by the end of the hop, and later than a window before it."""
    time = (hop + 1) * 0.1
    kept = [(start, end, words) for words, start, end in said if time - window + 1e-6 < end <= time + 1e-6]
    return [word for _, _, words in sorted(kept, key=lambda one: one[:2]) for word in words.split()]


def expected(
    tiny: Tiny, hops: int, said: Iterable[tuple[str, float, float]], samples: Any = None
) -> list[dict[str, float] | None]:
    """The probabilities of hops 0 to `hops` - 1 from the definition, without a stream."""
    said = list(said)
    answers: list[dict[str, float] | None] = []
    padded = np.concatenate([np.zeros(tiny.context), [] if samples is None else samples]).astype(np.float32)
    for hop in range(hops):
        tokens = {name: np.zeros((tiny.slots, tiny.width), np.float32) for name in tiny.modalities}
        masks = {name: np.zeros(tiny.slots, np.float32) for name in tiny.modalities}
        words = known_at(hop, said)
        if words:
            ids = ids_of(tiny, words)
            tokens["text"], masks["text"] = tiny.text_tokens(ids), (ids[0] != 0).astype(np.float32)
        for slot in range(tiny.slots if samples is not None else 0):
            end = (hop - tiny.slots + slot + 2) * tiny.samples
            if 0 < end <= len(samples):
                tokens["voice"][slot] = tiny.voice_token(padded[end : end + tiny.context])
                masks["voice"][slot] = 1
        if not any(mask.any() for mask in masks.values()):
            answers.append(None)
            continue
        logits = tiny.logits(tokens, masks).astype(np.float64)
        powers = np.exp(logits - logits.max())
        answers.append(dict(zip(tiny.labels, (powers / powers.sum()).tolist(), strict=True)))
    return answers


# --- the lane


@pytest.fixture
def read() -> list[Any]:
    """The ids that the graph of `text` was given."""
    return []


@pytest.fixture
def text(alone: Recognizer, read: list[Any]) -> Text:
    """A lane whose tokens are those of the definition and 1."""

    def compute(feeds: Mapping[str, Any]) -> dict[str, Any]:
        read.append(feeds["text"].copy())
        return {"tokens": ALONE.text_tokens(feeds["text"]) + 1}

    graph = CountingGraph(alone.graphs["text"].spec, compute)
    return Text(graph, TokenRing(1, ALONE.slots, ALONE.width))


def test_the_ring_holds_the_tokens_of_the_ids_and_zeros_for_pad(text: Text) -> None:
    assert text.reasons == ("no text",) and not text.ring.mask.any() and text.ring.used == 1
    ids = ids_of(ALONE, ["fear"])
    text.read(ids)
    assert text.reasons == ()
    assert text.ring.mask.tolist() == [[1, 1, 1, 0, 0]]
    assert np.array_equal(text.ring.tokens[0, :3], (ALONE.text_tokens(ids) + 1)[:3])
    assert not text.ring.tokens[0, 3:].any()
    text.read(None)
    assert text.reasons == ("no text",) and not text.ring.mask.any() and not text.ring.tokens.any()


def test_the_graph_runs_when_the_ids_change_and_not_otherwise(text: Text, read: list[Any]) -> None:
    first, second = ids_of(ALONE, ["fear"]), ids_of(ALONE, ["fear", "anger"])
    for ids in (None, first, first.copy(), second, second, first, None, None, first):
        text.read(ids)
    assert [row.tolist() for row in read] == [one.tolist() for one in (first, second, first, first)]
    text.reset()
    assert not text.ring.mask.any()
    text.read(first)
    assert len(read) == 5


def test_words_that_the_graph_failed_on_are_read_again(alone: Recognizer) -> None:
    graph: Any = alone.graphs["text"]
    compute = graph.compute
    right = play(files(alone), texts())
    failures = [BackendError("graph 'text' failed")]
    graph.compute = lambda feeds: compute(feeds) if not failures else _raise(failures.pop())
    stream = files(alone)
    for one in texts([("fear", 0.0, 0.2)]):
        stream.push_text(one[2][0], one[2][1], one[1])
    stream.advance("text", 0.4)
    with pytest.raises(BackendError, match="'text' failed"):
        stream.poll()
    assert stream.poll()[0].by_modality == right[0].by_modality


def _raise(error: Exception) -> Any:
    raise error


# --- what is answered


def test_answers_are_those_of_the_definition(both: Recognizer, sound: Any) -> None:
    emotions = play(files(both), in_time(voice_pushes(sound, 8000, 300), texts()))
    assert_answers(emotions, expected(BOTH, HOPS, SAID, sound))
    for hop, emotion in enumerate(emotions):
        spoken = bool(known_at(hop, SAID))
        assert emotion.modalities == (("voice", "text") if spoken else ("voice",))
        assert set(emotion.by_modality) == set(emotion.modalities)
        assert ("no text" in emotion.reasons) != spoken
    assert not known_at(0, SAID) and known_at(1, SAID) == ["fear"]


def test_text_alone_is_answered(alone: Recognizer) -> None:
    stream = files(alone)
    emotions = play(stream, texts())
    last = expected(ALONE, 13, SAID)
    assert_answers(emotions, last[1:])  # the first hop is that which first knows a word
    assert emotions[0].time == close(0.2) and emotions[-1].time == close(1.3)
    assert emotions[0].label == "fear" and emotions[0].modalities == ("text",)
    assert list(emotions[0].by_modality) == ["text"]
    stream.reset()
    stream.push_text("fear", 0.0, 0.1)
    stream.advance("text", 3.0)
    emotions = stream.poll()
    assert [emotion.modalities for emotion in emotions[:6]] == [("text",)] * 5 + [()]
    assert (emotions[5].state, emotions[5].reasons) == ("absent", ("no text",))


def test_the_graph_runs_once_for_each_set_of_words(both: Recognizer, sound: Any) -> None:
    play(files(both), in_time(voice_pushes(sound, 8000, 800), texts()))
    sets = [tuple(known_at(hop, SAID)[-3:]) for hop in range(HOPS)]
    changes = [now for before, now in itertools.pairwise([(), *sets]) if now and now != before]
    assert len(calls(both)["text"]) == len(changes) < HOPS
    assert len(calls(both)["fusion"]) == HOPS


def test_text_counts_for_the_face_that_the_voice_counts_for(everything: Recognizer) -> None:
    blocks = np.random.default_rng(0).integers(40, 215, (24, 32), np.uint8)
    picture = np.kron(blocks, np.ones((5, 5), np.uint8)).astype(np.uint8)
    pushes: list[Push] = [
        ("face", 0.0, picture, 0),
        ("voice", 0.0, ALL.voice("surprise", 0.1), 8000),
        ("text", 0.1, ("surprise", 0.0), 0),
    ]
    large, small = play(Stream(everything, lateness=None), pushes)
    assert large.modalities == ("face", "voice", "text") and small.modalities == ("face",)
    assert set(large.by_modality) == {"face", "voice", "text"}
    del pushes[1]
    large, small = play(Stream(everything, lateness=None), pushes)
    assert large.modalities == ("face", "text") and small.modalities == ("face",)
    large, small = play(Stream(everything, lateness=None), pushes[:1])
    assert "no text" in large.reasons and "no text" not in small.reasons


@pytest.mark.parametrize("multiple", [2, 3])
def test_longer_hops_know_the_same_words(both: Recognizer, sound: Any, multiple: int) -> None:
    stream = files(both, "text", hop=multiple * 0.1)
    alone = {round(emotion.time, 3): emotion for emotion in play(stream, texts())}
    short = play(files(both, "text"), texts())
    shared = [emotion for emotion in short if round(emotion.time, 3) in alone]
    assert len(shared) >= 3
    assert_same([alone[round(emotion.time, 3)] for emotion in shared], shared)


# --- invariants of streaming


def test_how_words_are_cut_into_pushes_changes_nothing(both: Recognizer, sound: Any) -> None:
    said = [
        ("fear anger", 0.0, 0.2),
        ("surprise neutral well", 0.15, 0.7),
        ("sadness !", 0.7, 0.7),
        ("so . so", 0.7, 1.3),
    ]
    cut = [(word, start, end) for words, start, end in said for word in words.split()]
    for chunk in (100, 800):
        voice = voice_pushes(sound, 8000, chunk)
        for modalities in (None, "text"):
            whole, parts = files(both, modalities), files(both, modalities)
            pushes = [[one for one in in_time(voice, texts(each)) if modalities is None or one[0] == "text"]
                      for each in (said, cut)]  # fmt: skip
            answers = play(whole, pushes[0]), play(parts, pushes[1])
            assert_same(*answers)
            assert not any(whole.stats.values()) and not any(parts.stats.values())
    assert answers[0][0].modalities == ("text",)


def test_the_order_in_which_words_come_changes_nothing(both: Recognizer, sound: Any) -> None:
    right = expected(BOTH, HOPS, SAID, sound)
    voice = voice_pushes(sound, 8000, 500)
    random = np.random.default_rng(2)
    for poll_every in (1, 4, 1000):
        for _ in range(5):
            pushes = texts()
            random.shuffle(pushes)  # type: ignore[arg-type]
            stream = files(both)
            # Before the sound comes no hop is closed, whatever the words are.
            assert_answers(play(stream, [*pushes, *voice], poll_every=poll_every), right)
            assert not any(stream.stats.values())


def test_polling_changes_nothing(both: Recognizer, sound: Any) -> None:
    pushes = in_time(voice_pushes(sound, 8000, 300), texts())
    runs = [play(files(both), pushes, poll_every=every) for every in (1, 3, 1000)]
    assert_same(runs[1], runs[0])
    assert_same(runs[2], runs[0])


@pytest.mark.parametrize("cut", [0.1, 0.3, 0.41, 0.76, 1.0])
def test_nothing_depends_on_later_words(both: Recognizer, sound: Any, cut: float) -> None:
    early = [one for one in SAID if one[2] <= cut]
    other = [*early, ("disgust", 0.0, cut + 0.11), ("sadness sadness", cut + 0.2, cut + 0.2)]
    voice = voice_pushes(sound, 8000, 300)
    runs = [play(files(both), in_time(voice, texts(said))) for said in (SAID, early, other)]
    hops = math.floor(cut / 0.1 + 1e-6)
    for run in runs[1:]:
        assert_same(run[:hops], runs[0][:hops])
    assert runs[0][hops + 3].probabilities != close(runs[2][hops + 3].probabilities)


def test_reset_equals_a_new_stream(both: Recognizer, sound: Any) -> None:
    pushes = in_time(voice_pushes(sound, 8000, 300), texts())
    right = play(files(both), pushes)
    stream = files(both)
    play(stream, texts([("disgust", 0.3, 0.4), ("anger", 5.0, 9.0)]), end=False)
    stream.mute("text")
    stream.end("voice")
    stream.reset()
    assert not any(stream.stats.values())
    assert_same(play(stream, pushes), right)


# --- which hops are ready, and what is late


def test_a_hop_waits_for_the_words_that_may_still_end_with_it(both: Recognizer, sound: Any) -> None:
    stream = files(both)
    stream.push_audio(sound, 8000, 0.0)
    steps: list[tuple[Callable[[], object], int]] = [
        (lambda: stream.push_text("fear", 0.0, 0.1), 0),  # another word may end at 0.1 s
        (lambda: stream.push_text("anger", 0.0, 0.1), 0),
        (lambda: stream.push_text("", 0.3, 0.3), 0),  # nothing is nothing
        (lambda: stream.push_text("well", 0.2, 0.25), 2),
        (lambda: stream.advance("text", 0.3), 1),  # as of everything else, nothing before that time will come
        (lambda: stream.end("text"), HOPS - 3),
    ]
    for act, ready in steps:
        act()
        assert len(stream.poll()) == ready
    with pytest.raises(InputError, match="text: it has ended"):
        stream.push_text("late", 0.3, 0.4)


@pytest.mark.parametrize("lateness", [0.0, 0.2, 0.5])
def test_words_are_waited_for_by_the_lateness(both: Recognizer, sound: Any, lateness: float) -> None:
    stream = Stream(both, lateness=lateness)
    stream.push_audio(sound[:8000], 8000, 0.0)
    assert len(stream.poll()) == round((1.0 - lateness) / 0.1)


def test_late_words_are_counted_and_known_to_later_hops(both: Recognizer, sound: Any) -> None:
    runs = []
    for poll_every in (1, 1000):
        stream = Stream(both, lateness=0.2)
        pushes = voice_pushes(sound[:4800], 8000, 800)  # up to 0.6 s, so that hops up to 0.4 s are closed
        pushes += texts([("fear !", 0.1, 0.3), ("anger", 0.3, 0.4), ("neutral", 0.4, 0.41)])
        pushes += [("voice", 0.6 + time, samples, rate)
                   for _, time, samples, rate in voice_pushes(sound[4800:], 8000, 800)]  # fmt: skip
        emotions = play(stream, pushes, poll_every=poll_every)
        assert stream.stats["late_words"] == 3
        runs.append(emotions)
    assert_same(*runs)
    assert ["text" in emotion.modalities for emotion in runs[0]] == [False] * 4 + [True] * 5 + [False] * 5
    for hop, words in ((4, ["!", "anger", "neutral"]), (7, ["anger", "neutral"]), (8, ["neutral"])):
        ids = ids_of(BOTH, words)
        logits = BOTH.modality_logits("text", BOTH.text_tokens(ids), (ids[0] != 0).astype(np.float32))
        powers = np.exp(logits - logits.max())
        assert list(runs[0][hop].by_modality["text"].values()) == close(list(powers / powers.sum())), hop


def test_words_that_are_later_than_the_window_are_counted_and_have_no_effect(alone: Recognizer) -> None:
    stream = files(alone)
    stream.push_text("fear", 1.9, 2.0)
    stream.push_text("anger well", 0.0, 0.5)
    stream.end("text")
    (emotion,) = stream.poll()
    assert (emotion.label, stream.stats["late_words"]) == ("fear", 2)


def test_words_without_number_are_bounded_and_counted(
    alone: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeemo.recognition.stream._MOST_WORDS", 10)
    stream = files(alone)
    for number in range(30):
        stream.push_text("well", 5.0, 5.0 + number / 1000)
    stream.end("text")
    assert stream.stats["dropped_words"] == 20
    assert stream.poll()[-1].modalities == ("text",)


def test_hops_that_nobody_polled_are_left_out_and_text_goes_on(alone: Recognizer) -> None:
    stream = files(alone)
    for second in range(100):
        stream.push_text("fear", second, second + 0.5)
    stream.mute("text")
    stream.advance("text", 200.0)
    emotions = stream.poll()
    assert stream.stats["dropped_hops"] == 1996 - 600
    assert {emotion.reasons for emotion in emotions} == {("text muted",)}


# --- muting


def test_muted_text_is_masked_and_not_known_later(both: Recognizer, sound: Any) -> None:
    for poll_every in (1, 1000):
        stream = files(both)
        before = in_time(voice_pushes(sound[:4000], 8000, 800), texts([one for one in SAID if one[2] < 0.5]))
        emotions = play(stream, before, end=False, poll_every=poll_every)
        stream.advance("text", 0.5)
        stream.mute("text")  # from the hop on that begins at 0.5 s
        said = [("disgust disgust", 0.55, 0.65), ("anger", 0.6, 0.69)]
        voice = voice_pushes(sound[4000:5600], 8000, 800, 0.5)
        emotions += play(stream, in_time(voice, texts(said)), end=False)
        stream.mute("text", False)
        later = [("so", 0.6, 0.75), ("disgust", 0.5, 0.6)]  # the last comes late, from when it was muted
        emotions += play(stream, in_time(voice_pushes(sound[5600:], 8000, 800, 0.7), texts(later)))
        assert len(emotions) == HOPS
        muted = [hop for hop, emotion in enumerate(emotions) if "text muted" in emotion.reasons]
        assert muted == [5, 6]
        assert all("text" not in emotions[hop].modalities for hop in muted)
        assert all("no text" not in emotions[hop].reasons for hop in muted)
        heard = [one for one in SAID if one[2] < 0.5] + [("so", 0.6, 0.75)]
        right = expected(BOTH, HOPS, heard, sound)
        silent = expected(BOTH, HOPS, [], sound)
        assert_answers(emotions, [silent[hop] if hop in muted else right[hop] for hop in range(HOPS)])


def test_muted_text_is_not_waited_for(both: Recognizer, sound: Any) -> None:
    stream = files(both)
    stream.mute("text")
    stream.push_audio(sound, 8000, 0.0)
    assert [emotion.reasons for emotion in stream.poll()] == [("text muted",)] * HOPS
    assert calls(both)["text"] == []


def test_words_of_muted_hops_that_nobody_polled_are_not_known(both: Recognizer) -> None:
    stream = files(both)
    stream.mute("text")
    for second in range(3):
        stream.push_audio(np.full(8000, 0.1, np.float32), 8000, second)
    stream.push_text("fear", 2.9, 2.95)
    stream.mute("text", False)
    stream.advance("text", 63.0)
    for second in range(3, 63):  # the hops up to 3 s fall out of the backlog
        stream.push_audio(np.full(8000, 0.1, np.float32), 8000, second)
    emotions = stream.poll()
    assert stream.stats["dropped_hops"] == 30 and len(emotions) == 600
    assert all(emotion.modalities == ("voice",) for emotion in emotions)


# --- clips


def test_a_text_alone_is_known_at_once(alone: Recognizer) -> None:
    for label in LABELS:
        emotion = alone.recognize(text=f" {label.upper()}\n")
        assert (emotion.label, emotion.modalities, emotion.time) == (label, ("text",), 0.1)
    assert calls(alone)["text"] == [1] * len(LABELS)
    tail = alone.recognize(text="fear " * 50 + "anger so well")
    assert_same([tail], [alone.recognize(text="anger so well")])


def test_a_text_is_spread_evenly_over_the_voice(both: Recognizer, sound: Any) -> None:
    emotion = both.recognize(voice=sound[:3200], sample_rate=8000, text="fear anger well so")
    said = [("fear", 0.0, 0.1), ("anger", 0.1, 0.2), ("well", 0.2, 0.3), ("so", 0.3, 0.4)]
    pushes = in_time(texts(said), voice_pushes(sound[:3200], 8000, 800))
    assert_same([emotion], play(files(both), pushes)[-1:])
    assert_same([emotion], [both.recognize(voice=sound[:3200], sample_rate=8000, text=said)])
    assert emotion.modalities == ("voice", "text")


def test_a_text_is_spread_over_the_pictures_where_there_is_no_voice(everything: Recognizer) -> None:
    pictures = [ALL.face(label) for label in ("fear", "anger", "neutral", "neutral")]
    emotion = everything.recognize(pictures, text="fear anger", face_is_cropped=True)
    stream = files(everything, ("face", "text"))
    pushes: list[Push] = [("face", hop * 0.1, picture, 0) for hop, picture in enumerate(pictures)]
    pushes = in_time(pushes, texts([("fear", 0.0, 0.2), ("anger", 0.2, 0.4)]))
    assert_same([emotion], play(stream, pushes)[-1:])
    assert emotion.modalities == ("face", "text")
    assert everything.recognize(pictures[0], text="fear", face_is_cropped=True).modalities == ("face", "text")


def test_a_long_clip_is_the_mean_of_its_hops(both: Recognizer, sound: Any) -> None:
    emotion = both.recognize(voice=sound, sample_rate=8000, text=SAID)
    hops = play(files(both), in_time(voice_pushes(sound, 8000, 800), texts()))
    table = np.array([list(hop.probabilities.values()) for hop in hops])  # type: ignore[union-attr]
    mean = np.exp(np.log(np.maximum(table, 1e-12)).mean(axis=0))
    assert list(emotion.probabilities.values()) == close(list(mean / mean.sum()), 1e-9)  # type: ignore[union-attr]
    assert emotion.modalities == ("voice", "text") and set(emotion.by_modality) == {"voice", "text"}


def test_words_change_the_answer_and_their_absence_is_named(both: Recognizer) -> None:
    voice = BOTH.voice("neutral", 0.4)
    silent = both.recognize(voice=voice, sample_rate=8000)
    spoken = both.recognize(voice=voice, sample_rate=8000, text="anger anger")
    assert silent.modalities == ("voice",) and "no text" not in silent.reasons  # none was expected
    assert silent.probabilities != close(spoken.probabilities)
    hop = play(files(both), voice_pushes(voice, 8000, 800))[-1]
    assert hop.reasons == ("no text",)


def test_events_with_words_keep_their_times_and_may_tie(both: Recognizer, sound: Any) -> None:
    sounds = [Sound(hop * 0.1, sound[hop * 800 : hop * 800 + 800], 8000) for hop in range(5)]
    words = [Words("fear", 0.0, 0.2), Words("anger", 0.1, 0.2), Words("well", 0.2, 0.3)]
    right = play(files(both), in_time(texts(words), voice_pushes(sound[:4000], 8000, 800)))
    for first, second in ((words, sounds), (sounds, words)):
        events = sorted([*first, *second], key=lambda event: event.time)
        assert_same(list(feed(files(both), events, ("voice", "text"), in_order=True)), right)
        assert_same([both.recognize_events(events)], right[-1:])


BAD_TEXT: list[tuple[Any, str]] = [
    ("", "text: no words; leave it out"),
    (" \n", "text: no words"),
    ([], "text: no words"),
    (5, r"text: 5 is no text; give a str, or a list of \(words, start, end\)"),
    (b"fear", "text: bytes is no text"),
    (["fear"], r"text: 'fear' in the list; each must be \(words, start, end\)"),
    ([("fear", 0.0)], "text: tuple in the list"),
    ([(5, 0.0, 0.1)], "text: tuple in the list"),
    ([("fear", "soon", 0.1)], "start: 'soon' is not a number"),
    ([("fear", 0.0, math.nan)], "end: nan is not finite"),
    ([("fear", -1.0, 0.1)], "start: -1 s is before the clock starts"),
    ([("fear", 0.3, 0.1)], "end: 0.1 s is before the start, 0.3 s"),
    ([("fear", 0.0, 1e300)], "end: 1e.300 s is beyond"),
]


@pytest.mark.parametrize(("text", "message"), BAD_TEXT)
def test_what_is_no_text(both: Recognizer, text: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        both.recognize(voice=BOTH.voice("fear", 0.3), sample_rate=8000, text=text)
    assert both.recognize(text="fear").label == "fear"


BAD_PUSH: list[tuple[Callable[[Stream], object], str]] = [
    (lambda s: s.push_text(b"fear", 0.5, 0.6), "words: bytes is not text; it must be a str"),  # type: ignore[arg-type]
    (lambda s: s.push_text(None, 0.5, 0.6), "words: NoneType is not text"),  # type: ignore[arg-type]
    (lambda s: s.push_text(["fear"], 0.5, 0.6), "words: list is not text"),  # type: ignore[arg-type]
    (lambda s: s.push_text("fear", "soon", 0.6), "start: 'soon' is not a number"),  # type: ignore[arg-type]
    (lambda s: s.push_text("fear", 0.5, None), "end: NoneType is not a number"),  # type: ignore[arg-type]
    (lambda s: s.push_text("fear", math.nan, 0.6), "start: nan is not finite"),
    (lambda s: s.push_text("fear", 0.5, math.inf), "end: inf is not finite"),
    (lambda s: s.push_text("fear", -0.5, 0.6), "start: -0.5 s is before the clock starts"),
    (lambda s: s.push_text("fear", 0.6, 0.5), "end: 0.5 s is before the start, 0.6 s; it must not be"),
    (lambda s: s.push_text("fear", 0.5, 1e308), "end: 1e.308 s is beyond"),
    (lambda s: s.push_text("fear", 0.5, 1e6), "end: 1e.06 s is more than a day after .* reset"),
    (lambda s: s.push_frame(np.zeros((4, 4), np.uint8), 0.5), "face: the bundle tiny reads voice and text"),
    (lambda s: s.advance("words", 0.5), "words: the bundle tiny reads voice and text"),
]


@pytest.mark.parametrize(("act", "message"), BAD_PUSH)
def test_a_bad_push_is_an_error_and_changes_nothing(
    both: Recognizer, sound: Any, act: Callable[[Stream], object], message: str
) -> None:
    pushes = in_time(voice_pushes(sound, 8000, 500), texts())
    right = play(files(both), pushes)
    stream = files(both)
    emotions = play(stream, pushes[:10], end=False)
    with pytest.raises(InputError, match=message):
        act(stream)
    assert_same(emotions + play(stream, pushes[10:]), right)
    assert not any(stream.stats.values())


def test_text_that_is_nothing_and_text_that_is_strange(alone: Recognizer) -> None:
    stream = files(alone)
    for nothing in ("", " \t\n", "\u200b", "\x00\x07", "\ud800"):
        stream.push_text(nothing, 5.0, 5.0)
    assert stream.poll() == [] and not any(stream.stats.values())
    for strange in ("👍", "日本語" * 100, "x" * 10_000, "[PAD] [CLS]", "Zażółć\u0301", "a\ud800b"):
        emotion = alone.recognize(text=strange)
        assert emotion.probabilities is not None and emotion.modalities == ("text",), ascii(strange)


def test_a_stream_that_was_not_opened_for_text(both: Recognizer, build: Build) -> None:
    with pytest.raises(InputError, match="text: the stream was opened for voice; name it there"):
        Stream(both, "voice").push_text("fear", 0.0, 0.1)
    assert build(Tiny()).tokeniser is None


# --- real graphs, and bundles whose vocabulary is none


def test_a_loaded_bundle_answers_as_the_definition_says(
    folders: Mapping[tuple[str, ...], Path], both: Recognizer, sound: Any
) -> None:
    pushes = in_time(voice_pushes(sound, 8000, 700), texts())
    with load(folders[BOTH.modalities], backend="onnx") as loaded:
        assert_same(play(files(loaded), pushes), play(files(both), pushes), tolerance=1e-4)
        assert loaded.recognize(text="fear").label == "fear"
        assert "text: WordPiece of vocab.txt, lower case, 5 tokens" in repr(loaded)


def test_a_cased_bundle_keeps_case(build: Build) -> None:
    text = {"vocab": "vocab.txt", "length": 5, "lowercase": False}
    cased = build(ALONE, text=text)
    assert isinstance(cased.tokeniser, WordPiece)
    assert cased.tokeniser.encode("fear Fear").tolist() == [[2, ALONE.vocabulary.index("fear"), 1, 3, 0]]


def test_a_vocabulary_that_is_none_or_altered_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", ALONE)
    path = folder / "vocab.txt"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"fear", b"joys"))
    with pytest.raises(BundleError, match=r"vocab\.txt has the sha256 .* copy or download"):
        load(folder, backend="onnx")
    path.unlink()
    with pytest.raises(BundleError, match=r"vocab\.txt is missing"):
        load(folder, backend="onnx")
    path.write_bytes(b"well\n")
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["files"] |= describe_files(folder, ["vocab.txt"])
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(BundleError, match=rf"bundle {folder}: vocab\.txt: it has no \[UNK\]; it must hold"):
        load(folder, backend="onnx")


def test_a_stream_without_text_reads_none(everything: Recognizer, sound: Any) -> None:
    stream = files(everything, ("face", "voice"))
    emotions = play(stream, voice_pushes(sound, 8000, 800))
    assert calls(everything)["text"] == [] and len(calls(everything)["fusion"]) == HOPS
    assert all("no text" not in emotion.reasons for emotion in emotions)
