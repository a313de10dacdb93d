from __future__ import annotations

import gc
import logging
import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeemo.errors import BackendError, EdgeEmoError, InputError
from edgeemo.recognition.recognizer import Recognizer
from edgeemo.recognition.stream import BACKLOG, Stream
from tests.recognition.conftest import Build
from tests.recognition.fakes import (
    Push,
    assert_answers,
    assert_same,
    calls,
    close,
    play,
    push,
    reference,
    voice_pushes,
)
from tests.support.tiny import Tiny

HOPS = 12


@pytest.fixture
def sound(tiny: Tiny) -> Any:
    """Sound of `HOPS` hops whose level changes all the time."""
    random = np.random.default_rng(1)
    level = np.repeat(random.uniform(0.05, 0.9, HOPS * 4), tiny.samples // 4)
    return (level * random.uniform(-1, 1, len(level))).astype(np.float32)


@pytest.fixture
def crops(tiny: Tiny) -> dict[int, Any]:
    """A face crop for each hop."""
    levels = np.random.default_rng(2).integers(20, 250, HOPS)
    return {hop: np.full((*tiny.size, 1), level, np.uint8) for hop, level in enumerate(levels)}


def frames(crops: dict[int, Any], offset: float = 0.03) -> list[Push]:
    return [("face", hop * 0.1 + offset, crop, 0) for hop, crop in crops.items()]


def in_time(*pushes: list[Push]) -> list[Push]:
    return sorted((one for many in pushes for one in many), key=lambda one: one[1])


def files(model: Recognizer, modalities: Any = None, hop: float = 0.1) -> Stream:
    return Stream(model, modalities, hop, lateness=None, face_is_cropped=True)


# --- what is answered


def test_answers_are_those_of_the_definition(model: Recognizer, tiny: Tiny, crops: Any, sound: Any) -> None:
    emotions = play(files(model), in_time(frames(crops), voice_pushes(sound, 8000, 500)))
    assert_answers(emotions, reference(tiny, HOPS, crops, sound))
    assert [emotion.time for emotion in emotions] == close([0.1 * (hop + 1) for hop in range(HOPS)], 1e-9)
    assert all(emotion.modalities == ("face", "voice") and emotion.track == 1 for emotion in emotions)


def test_a_hop_without_a_picture_and_a_silent_hop_are_masked(
    model: Recognizer, tiny: Tiny, crops: Any, sound: Any
) -> None:
    for hop in (0, 4, 5):
        del crops[hop]
    sound[: 2 * tiny.samples] = 0
    sound[5 * tiny.samples : 8 * tiny.samples] = 0
    emotions = play(files(model), in_time(frames(crops), voice_pushes(sound, 8000, 800)))
    assert_answers(emotions, reference(tiny, HOPS, crops, sound))
    assert emotions[0].state == "absent" and emotions[0].reasons == ("no face", "silence")
    assert emotions[4].reasons == ("no face",) and emotions[4].track == 1
    # The context is two hops long, so that it is silent from the second silent hop on.
    assert [emotion.reasons for emotion in emotions[5:9]] == [("no face",), ("silence",), ("silence",), ()]
    assert len(calls(model)["voice"]) == HOPS - 4
    assert len(calls(model)["face"]) == HOPS - 3


def test_the_newest_frame_of_a_hop_counts_and_others_are_never_made(model: Recognizer, tiny: Tiny) -> None:
    made = []

    def picture(level: int) -> Callable[[], Any]:
        def make() -> Any:
            made.append(level)
            return np.full((9, 9, 3), level, np.uint8)

        return make

    stream = files(model, "face")
    for time, level in ((0.0, 10), (0.09, 200), (0.05, 30), (0.1, 40), (0.19, 100)):
        stream.push_frame(picture(level), time)
    stream.end("face")
    emotions = stream.poll()
    assert made == [200, 100]
    expected = {hop: np.full((8, 8, 1), level) for hop, level in enumerate(made)}
    assert_answers(emotions, reference(tiny, 2, expected, None))


@pytest.mark.parametrize("multiple", [2, 3, 7])
def test_with_longer_hops_tokens_are_that_many_slots_apart(
    model: Recognizer, tiny: Tiny, crops: Any, sound: Any, multiple: int
) -> None:
    pushes = in_time(frames(crops), voice_pushes(sound, 8000, 500))
    emotions = play(files(model, hop=multiple * 0.1), pushes)
    count = math.ceil(HOPS / multiple)
    assert [emotion.time for emotion in emotions] == close(
        [0.1 * multiple * (hop + 1) for hop in range(count)]
    )
    ends = [multiple * (hop + 1) - 1 for hop in range(count)]
    padded = np.concatenate([sound, np.zeros(multiple * tiny.samples, np.float32)])
    newest = {end: crops[min(end, HOPS - 1)] for end in ends}
    for answer, end in zip(emotions, ends, strict=True):
        assert answer.probabilities == close(
            _answer(tiny, newest, padded, [hop for hop in ends if hop <= end])
        )
    assert len(calls(model)["face"]) == count >= len(calls(model)["voice"])


def _answer(tiny: Tiny, crops: Any, sound: Any, hops: list[int]) -> dict[str, float]:
    """The probabilities when the hops `hops` of the bundle's grid have tokens and the others have none."""
    rings = {name: np.zeros((tiny.slots, tiny.width), np.float32) for name in tiny.modalities}
    masks = {name: np.zeros(tiny.slots, np.float32) for name in tiny.modalities}
    before = np.concatenate([np.zeros(tiny.context, np.float32), sound])
    for hop in hops:
        slot = tiny.slots - 1 - (hops[-1] - hop)
        if slot >= 0:
            end = tiny.context + (hop + 1) * tiny.samples
            context = before[end - tiny.context : end]
            rings["face"][slot], masks["face"][slot] = tiny.face_token(crops[hop]), 1
            if context.any():
                rings["voice"][slot], masks["voice"][slot] = tiny.voice_token(context), 1
    logits = tiny.logits(rings, masks).astype(np.float64)
    powers = np.exp(logits - logits.max())
    return dict(zip(tiny.labels, (powers / powers.sum()).tolist(), strict=True))


@pytest.mark.parametrize("every", [1, 3])
def test_a_voice_graph_that_replaces_the_ring_runs_every_so_many_hops(build: Build, every: int) -> None:
    tiny = Tiny(voice_mode="replace", voice_every=every, context=4000)
    model = build(tiny)
    sound = np.concatenate([tiny.voice("fear", 0.4), np.zeros(7200, np.float32), tiny.voice("neutral", 0.3)])
    emotions = play(files(model, "voice"), voice_pushes(sound, 8000, 300))
    tokens = {}
    before = np.concatenate([np.zeros(4000, np.float32), sound])
    for hop, emotion in enumerate(emotions):
        context = before[(hop + 1) * 800 : (hop + 1) * 800 + 4000]
        if hop % every == 0 or tokens.get(hop - 1) is None:
            tokens[hop] = None
            if np.abs(context).max() > 0:
                hops = [np.sqrt(np.mean(part**2)) * tiny.code for part in context.reshape(5, 800)]
                tokens[hop] = np.stack(hops).astype(np.float32)
        else:
            tokens[hop] = tokens[hop - 1]
        if tokens[hop] is None:
            assert emotion.state == "absent"
        else:
            logits = tiny.modality_logits("voice", tokens[hop], np.ones(5, np.float32))
            powers = np.exp(logits - logits.max())
            assert list(emotion.probabilities.values()) == close(list(powers / powers.sum()))  # type: ignore[union-attr]
        if every == 3 and hop == 11:
            break
    assert len(calls(model)["voice"]) < len(emotions)


def test_a_partial_last_hop_is_padded_with_zeros(model: Recognizer, tiny: Tiny, sound: Any) -> None:
    cut = sound[: 3 * tiny.samples + 100]
    padded = np.concatenate([cut, np.zeros(700, np.float32)])
    answers = play(files(model, "voice"), voice_pushes(cut, 8000, 333))
    assert_same(answers, play(files(model, "voice"), voice_pushes(padded, 8000, 800)))
    assert len(answers) == 4


# --- invariants of streaming


@pytest.mark.parametrize("chunk", [1, 7, 80, 799, 800, 801, 4000, 9600])
def test_audio_chunks_do_not_change_answers(
    model: Recognizer, tiny: Tiny, crops: Any, sound: Any, chunk: int
) -> None:
    pushes = in_time(frames(crops), voice_pushes(sound, 8000, chunk))
    assert_answers(play(files(model), pushes), reference(tiny, HOPS, crops, sound))


@pytest.mark.parametrize("rate", [4000, 11025, 16000, 44100, 48000])
@pytest.mark.parametrize("chunk", [1, 97, 441, 5000])
def test_chunks_at_other_rates_do_not_change_answers(model: Recognizer, rate: int, chunk: int) -> None:
    random = np.random.default_rng(3)
    seconds = 0.13 if chunk == 1 else 0.43
    sound = random.uniform(-0.8, 0.8, round(seconds * rate)).astype(np.float32)
    whole = play(files(model, "voice"), voice_pushes(sound, rate, len(sound)))
    assert len(whole) == math.ceil(seconds / 0.1)
    stream = files(model, "voice")
    assert_same(play(stream, voice_pushes(sound, rate, chunk), poll_every=50), whole)
    assert not any(stream.stats.values())


@pytest.mark.parametrize("rate", [8000, 44100])
def test_sound_may_be_written_over_once_it_was_pushed(model: Recognizer, rate: int) -> None:
    sound = np.random.default_rng(3).uniform(-0.8, 0.8, rate).astype(np.float32)
    block = np.zeros(rate // 50, np.float32)  # one buffer of a sound card
    stream = files(model, "voice")
    emotions = []
    for start in range(0, len(sound), len(block)):
        block[:] = sound[start : start + len(block)]
        stream.push_audio(block, rate, start / rate)
        block[:] = 0.9
        emotions += stream.poll()
    assert_same(emotions, play(files(model, "voice"), voice_pushes(sound, rate, len(sound))))


def test_a_hop_that_is_not_waited_for_hears_what_there_is_of_it(
    model: Recognizer, tiny: Tiny, crops: Any, sound: Any
) -> None:
    stream = Stream(model, face_is_cropped=True)
    half = tiny.samples // 2
    stream.push_audio(sound[:half], 8000, 0.0)
    for hop in range(4):  # closes the hops before 0.1 s
        stream.push_frame(crops[hop], hop * 0.1 + 0.05)
    (emotion,) = stream.poll()
    assert emotion.modalities == ("face", "voice")
    heard = sound.copy()
    heard[half:] = 0
    assert_answers([emotion], reference(tiny, 1, crops, heard))
    assert stream.stats["late_samples"] == 0
    stream.push_audio(sound[half : 2 * tiny.samples], 8000, half / 8000)
    assert stream.stats["late_samples"] == tiny.samples - half


@pytest.mark.parametrize("start", [0.0, 0.0437, 3.21, 36000.05])
def test_a_start_between_hops_and_samples_does_not_change_what_chunks_answer(
    model: Recognizer, sound: Any, start: float
) -> None:
    whole = play(files(model, "voice"), voice_pushes(sound, 44100, len(sound), start))
    for chunk in (3, 64, 4410):
        stream = files(model, "voice")
        assert_same(play(stream, voice_pushes(sound, 44100, chunk, start), poll_every=100), whole)
        assert not any(stream.stats.values())
    assert whole[0].time == close(math.floor(start / 0.1 + 1e-6) * 0.1 + 0.1)


def test_interleaving_does_not_change_answers(model: Recognizer, tiny: Tiny, crops: Any, sound: Any) -> None:
    expected = reference(tiny, HOPS, crops, sound)
    faces, voices = frames(crops), voice_pushes(sound, 8000, 250)
    random = np.random.default_rng(4)
    orders = [faces + voices, voices + faces]
    for _ in range(5):
        merged, left, right = [], faces[:], voices[:]
        while left or right:
            merged.append((left if left and (not right or random.random() < 0.3) else right).pop(0))
        orders.append(merged)
    for order in orders:
        for poll_every in (1, 5, 1000):
            assert_answers(play(files(model), order, poll_every=poll_every), expected)


@pytest.mark.parametrize("cut", [0.1, 0.35, 0.6, 0.95])
def test_cutting_the_input_changes_no_answer_before_the_cut(
    model: Recognizer, crops: Any, sound: Any, cut: float
) -> None:
    rate = 44100  # so that the resampler is held to it too
    sound = np.repeat(sound, 6)[: HOPS * 4410]
    pushes = in_time(frames(crops), voice_pushes(sound, rate, 300))
    early = [one for one in pushes if one[0] == "face" and one[1] < cut]
    early += voice_pushes(sound[: math.ceil(cut * rate)], rate, 300)
    whole = [emotion for emotion in play(files(model), pushes) if emotion.time <= cut + 1e-9]
    short = [emotion for emotion in play(files(model), in_time(early)) if emotion.time <= cut + 1e-9]
    assert len(whole) == math.floor(cut / 0.1 + 1e-9)
    assert_same(short, whole)


def test_what_comes_later_changes_no_answer_before(model: Recognizer, crops: Any, sound: Any) -> None:
    other = sound.copy()
    other[6 * 800 :] = 0.7
    changed = {hop: crop if hop < 6 else 255 - crop for hop, crop in crops.items()}
    first = play(files(model), in_time(frames(crops), voice_pushes(sound, 8000, 300)))
    second = play(files(model), in_time(frames(changed), voice_pushes(other, 8000, 300)))
    assert_same(first[:6], second[:6])
    assert first[6].probabilities != close(second[6].probabilities)


def test_reset_equals_a_new_stream(model: Recognizer, crops: Any, sound: Any) -> None:
    pushes = in_time(frames(crops), voice_pushes(sound, 44100, 300))
    expected = play(files(model), pushes)
    stream = files(model)
    play(stream, [*frames(crops, 7.0), ("voice", 7.5, sound, 48000), ("voice", 9.0, sound, 48000)], end=False)
    stream.mute("voice")
    stream.end("face")
    stream.reset()
    assert not any(stream.stats.values())
    assert_same(play(stream, pushes), expected)


def test_when_it_is_polled_does_not_matter_to_what_is_late(model: Recognizer, crops: Any, sound: Any) -> None:
    pushes = [*voice_pushes(sound[:4800], 8000, 800), *frames(crops)]
    runs = []
    for poll_every in (1, 3, 1000):
        stream = Stream(model, lateness=0.2, face_is_cropped=True)
        runs.append((play(stream, pushes, poll_every=poll_every), dict(stream.stats)))
    for answers, stats in runs[1:]:
        assert_same(answers, runs[0][0])
        assert stats == runs[0][1]
    assert runs[0][1]["late_frames"] == 4


# --- which hops are ready


def test_a_hop_waits_for_both_modalities_and_for_its_end(model: Recognizer, crops: Any, sound: Any) -> None:
    stream = files(model)
    steps: list[tuple[Push, int]] = [
        (("voice", 0.0, sound[:1600], 8000), 0),  # no picture has passed the end of hop 0
        (("face", 0.05, crops[0], 0), 0),
        (("face", 0.0999, crops[0], 0), 0),
        (("face", 0.1, crops[1], 0), 1),
        (("face", 0.35, crops[3], 0), 1),  # the voice has come to 0.2 s only
        (("voice", 0.2, sound[1600:2399], 8000), 0),
        (("voice", 0.299875, sound[2399:2400], 8000), 1),
    ]
    for one, ready in steps:
        push(stream, one)
        assert len(stream.poll()) == ready, one


def test_without_lateness_a_hop_waits_for_ever(model: Recognizer, sound: Any) -> None:
    stream = files(model)
    for second in range(20):
        stream.push_audio(np.tile(sound, 2)[:8000], 8000, second)
        assert stream.poll() == []


@pytest.mark.parametrize("lateness", [0.0, 0.2, 0.25, 1.0])
def test_one_modality_may_be_late_by_lateness(model: Recognizer, sound: Any, lateness: float) -> None:
    stream = Stream(model, lateness=lateness)
    answered = 0
    for one in voice_pushes(sound, 8000, 80):
        push(stream, one)
        answered += len(stream.poll())
        passed = one[1] + 0.01
        assert answered == max(math.floor((passed - lateness) / 0.1 + 1e-6), 0)


def test_what_is_late_is_dropped_and_counted(model: Recognizer, tiny: Tiny, crops: Any, sound: Any) -> None:
    stream = Stream(model, face_is_cropped=True)  # the lateness of 0.2 s is the default
    emotions = []
    for one in frames(crops):
        push(stream, one)
        emotions += stream.poll()
    assert len(emotions) == 9  # the newest picture is at 1.13 s
    stream.push_audio(sound, 8000, 0.0)
    assert stream.stats["late_samples"] == 9 * tiny.samples
    stream.push_frame(crops[0], 0.89)
    assert stream.stats["late_frames"] == 1
    for modality in stream.modalities:
        stream.end(modality)
    emotions += stream.poll()
    heard = sound.copy()
    heard[: 9 * tiny.samples] = 0
    assert_answers(emotions, reference(tiny, HOPS, crops, heard))


def test_advance_says_that_nothing_more_comes_before_a_time(model: Recognizer, sound: Any) -> None:
    stream = files(model)
    stream.push_audio(sound, 8000, 0.0)
    stream.advance("face", 0.55)
    assert len(stream.poll()) == 5
    stream.advance("face", 0.2)  # time does not go back
    assert stream.poll() == []


def test_the_first_hop_is_that_of_the_earliest_input(model: Recognizer, crops: Any, sound: Any) -> None:
    stream = files(model)
    stream.push_frame(crops[0], 5.37)
    stream.push_audio(sound[:1600], 8000, 5.25)
    for modality in stream.modalities:
        stream.end(modality)
    assert [emotion.time for emotion in stream.poll()] == close([5.3, 5.4, 5.5])


def test_times_that_are_not_exact_in_binary_belong_to_the_hop_they_name(
    model: Recognizer, crops: Any
) -> None:
    stream = files(model, "face")
    for hop in range(300):
        stream.push_frame(crops[0], 36000 + hop * 0.1)
        assert len(stream.poll()) == (1 if hop else 0), hop


def test_an_ended_modality_is_not_waited_for(model: Recognizer, crops: Any, sound: Any) -> None:
    stream = files(model)
    stream.push_audio(sound, 8000, 0.0)
    stream.push_frame(crops[0], 0.02)
    stream.end("face")
    assert len(stream.poll()) == HOPS
    stream.end("voice")
    assert stream.poll() == []
    with pytest.raises(InputError, match="voice: it has ended"):
        stream.push_audio(sound, 8000, 2.0)


# --- muting


def test_a_muted_voice_is_masked_and_not_heard_later(
    model: Recognizer, tiny: Tiny, crops: Any, sound: Any
) -> None:
    stream = files(model)
    emotions = []
    for one in in_time(frames(crops, 0.0), voice_pushes(sound, 8000, 800)):
        if one[:2] == ("face", close(0.4)):
            stream.mute("voice")
        if one[:2] == ("face", close(0.7)):
            stream.mute("voice", False)
        push(stream, one)
        emotions += stream.poll()
    for modality in stream.modalities:
        stream.end(modality)
    emotions += stream.poll()
    # Hop 3 is not closed when the picture of 0.4 s has not come yet; the sound up to hop 7 came while muted.
    muted = [hop for hop, emotion in enumerate(emotions) if "voice muted" in emotion.reasons]
    assert muted == [3, 4, 5, 6, 7]
    assert_answers(emotions, reference(tiny, HOPS, crops, sound, muted={"voice": set(muted)}))
    assert len(calls(model)["voice"]) == HOPS - 5


@pytest.mark.parametrize("chunk", [800, 250])
def test_what_was_pushed_while_muted_is_not_heard_after(
    model: Recognizer, tiny: Tiny, crops: Any, sound: Any, chunk: int
) -> None:
    stream = files(model)
    stream.mute("voice")
    for one in voice_pushes(sound[:5500], 8000, chunk):  # up to hop 6; no picture has come yet
        push(stream, one)
    stream.mute("voice", False)
    stream.mute("voice")
    stream.mute("voice", False)
    emotions = play(stream, [*voice_pushes(sound[5500:], 8000, chunk, 5500 / 8000), *frames(crops)])
    muted = set(range(7))
    assert {hop for hop, emotion in enumerate(emotions) if "voice muted" in emotion.reasons} == muted
    assert_answers(emotions, reference(tiny, HOPS, crops, sound, muted={"voice": muted}))


def test_muted_hops_that_nobody_polled_are_not_heard_after(model: Recognizer, tiny: Tiny) -> None:
    contexts = []
    voice = model.graphs["voice"]
    run = voice.run
    voice.run = lambda feeds: contexts.append(feeds["voice"].copy()) or run(feeds)  # type: ignore[method-assign, func-returns-value]
    stream = files(model, "voice")
    stream.mute("voice")
    for second in range(3):
        stream.push_audio(np.full(8000, 0.9, np.float32), 8000, second)
    stream.mute("voice", False)
    for second in range(3, 63):  # the hops up to 3 s fall out of the backlog
        stream.push_audio(np.full(8000, 0.1, np.float32), 8000, second)
    assert len(stream.poll()) == round(BACKLOG / 0.1) and stream.stats["dropped_hops"] == 30
    assert max(context.max() for context in contexts) == np.float32(0.1)
    assert contexts[0][0, 0] == 0.0  # the context is two hops long


def test_a_muted_face_is_neither_made_nor_found(model: Recognizer, sound: Any) -> None:
    stream = files(model)
    stream.mute("face")
    stream.push_frame(lambda: pytest.fail("made"), 0.0)
    stream.push_audio(sound, 8000, 0.0)
    emotions = stream.poll()
    assert len(emotions) == HOPS  # the muted face is not waited for
    assert all(emotion.reasons == ("face muted",) and emotion.track is None for emotion in emotions)
    assert calls(model)["face"] == []


def test_tokens_from_before_the_mute_stay_in_the_window(model: Recognizer, tiny: Tiny, crops: Any) -> None:
    stream = files(model, "face")
    for hop in range(3):
        stream.push_frame(crops[hop], hop * 0.1)
    assert len(stream.poll()) == 2
    stream.mute("face")
    for hop in range(3, 10):
        stream.push_frame(crops[hop], hop * 0.1)
    emotions = stream.poll()
    assert [emotion.state == "absent" for emotion in emotions] == [False] * 4 + [True] * 3
    assert emotions[3].track == 1 and emotions[4].track is None


def test_with_everything_muted_time_goes_on(model: Recognizer, sound: Any) -> None:
    stream = files(model, "voice")
    stream.mute("voice")
    stream.push_audio(sound, 8000, 0.0)
    emotions = stream.poll()
    assert [emotion.reasons for emotion in emotions] == [("voice muted",)] * HOPS
    assert {emotion.state for emotion in emotions} == {"absent"}


def test_muting_at_one_time_is_the_same_whenever_it_is_polled(
    model: Recognizer, crops: Any, sound: Any
) -> None:
    runs = []
    for poll_every in (1, 4, 1000):
        stream = files(model)
        emotions = []
        for count, one in enumerate(in_time(frames(crops, 0.0), voice_pushes(sound, 8000, 800)), start=1):
            push(stream, one)
            if count in (6, 14):
                stream.mute("voice", count == 6)
            if count % poll_every == 0:
                emotions += stream.poll()
        for modality in stream.modalities:
            stream.end(modality)
        runs.append(emotions + stream.poll())
    assert_same(runs[1], runs[0])
    assert_same(runs[2], runs[0])
    assert any("voice muted" in emotion.reasons for emotion in runs[0])


# --- sound with faulty times


def test_a_gap_is_zeros_and_counted(model: Recognizer, tiny: Tiny, sound: Any) -> None:
    stream = files(model, "voice")
    emotions = play(stream, [("voice", 0.0, sound[:2000], 8000), ("voice", 0.6, sound[4800:], 8000)])
    heard = sound.copy()
    heard[2000:4800] = 0
    assert_answers(emotions, reference(tiny, HOPS, {}, heard))
    assert stream.stats["gap_samples"] == 2800


@pytest.mark.parametrize("chunk", [1, 33, 790, 1600])
def test_an_overlap_is_dropped_and_counted(model: Recognizer, tiny: Tiny, sound: Any, chunk: int) -> None:
    stream = files(model, "voice")
    again = voice_pushes(np.concatenate([-sound[800:1600], sound[1600:]]), 8000, chunk, start=0.1)
    emotions = play(stream, [("voice", 0.0, sound[:1600], 8000), *again])
    assert_answers(emotions, reference(tiny, HOPS, {}, sound))
    assert stream.stats["overlap_samples"] == 800


def test_jitter_of_times_leaves_no_gaps(model: Recognizer, tiny: Tiny, sound: Any) -> None:
    random = np.random.default_rng(5)
    pushes = [
        (kind, max(time + random.uniform(-0.004, 0.004), 0.0) if time else 0.0, samples, rate)
        for kind, time, samples, rate in voice_pushes(sound, 8000, 160)
    ]
    stream = files(model, "voice")
    assert_answers(play(stream, pushes), reference(tiny, HOPS, {}, sound))
    assert not any(stream.stats.values())


def test_the_rate_may_change_on_the_way(model: Recognizer) -> None:
    time = np.arange(48000) / 48000
    wave = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    stream = files(model, "voice")
    pushes = [*voice_pushes(wave[:24000], 48000, 4800), *voice_pushes(wave[::6][4000:], 8000, 800, 0.5)]
    emotions = play(stream, pushes)
    assert len(emotions) == 10 and not any(stream.stats.values())
    steady = emotions[4].probabilities
    assert emotions[9].probabilities == close(steady, 0.05)


# --- faces


def _texture(height: int, width: int, seed: int = 0) -> Any:
    """A picture that a tracker can hold on to."""
    blocks = np.random.default_rng(seed).integers(40, 215, (height // 5, width // 5), np.uint8)
    return np.ascontiguousarray(np.kron(blocks, np.ones((5, 5), np.uint8)))


def test_faces_share_one_call_of_each_graph(build: Build, tiny: Tiny) -> None:
    model = build(tiny, (10.0, 10.0, 20.0, 20.0), (50.0, 50.0, 40.0, 40.0), (100.0, 10.0, 30.0, 30.0))
    picture = _texture(120, 160)
    emotions = play(
        Stream(model, "face", lateness=None), [("face", hop * 0.1, picture, 0) for hop in range(3)]
    )
    assert len(emotions) == 9
    assert calls(model)["face"] == calls(model)["fusion"] == [3, 3, 3]
    assert len({emotion.track for emotion in emotions[:3]}) == 3
    assert emotions[0].box is not None and emotions[0].box[2] == 40  # the largest first


def test_the_voice_counts_for_the_largest_face_alone(build: Build, tiny: Tiny) -> None:
    model = build(tiny, (10.0, 10.0, 20.0, 20.0), (60.0, 50.0, 40.0, 40.0))
    picture = _texture(120, 160)
    pushes: list[Push] = [("face", 0.0, picture, 0), ("voice", 0.0, tiny.voice("surprise", 0.1), 8000)]
    large, small = play(Stream(model, lateness=None), pushes)
    assert large.modalities == ("face", "voice") and small.modalities == ("face",)
    assert set(large.by_modality) == {"face", "voice"} and set(small.by_modality) == {"face"}
    assert large.probabilities != close(small.probabilities)
    alone = model.recognize(face=picture)
    assert alone.track == large.track


def test_the_owner_of_the_voice_keeps_it_while_no_other_face_is_clearly_larger(
    build: Build, tiny: Tiny
) -> None:
    model = build(tiny)
    finder = model.open_finder()
    stream = Stream(model, lateness=None)
    owners = []
    for phase, side in enumerate((30, 46, 60, 36, 30)):  # beside a face of 40
        finder.boxes = [(10.0, 10.0, 40.0, 40.0), (90.0, 50.0, side, side)]  # type: ignore[attr-defined]
        for hop in range(5 * phase, 5 * phase + 5):  # a detection is made within five pictures
            stream.push_frame(_texture(120, 160), hop * 0.1)
            stream.push_audio(tiny.voice("anger", 0.1), 8000, hop * 0.1)
            stream.advance("face", hop * 0.1 + 0.1)
            owner, other = stream.poll()
        assert owner.box is not None and other.modalities == ("face",)
        owners.append(owner.box[0])
    assert owners == [10, 10, 90, 90, 10]


def test_a_voice_without_a_face_has_no_track(build: Build, tiny: Tiny) -> None:
    model = build(tiny)
    pushes: list[Push] = [("face", 0.0, _texture(50, 50), 0), ("voice", 0.0, tiny.voice("fear", 0.1), 8000)]
    (emotion,) = play(Stream(model, lateness=None), pushes)
    assert (emotion.label, emotion.track, emotion.box) == ("fear", None, None)
    assert emotion.modalities == ("voice",) and emotion.reasons == ("no face",)
    assert calls(model) == {"face": [], "voice": [1], "fusion": [1]}


def test_a_face_that_left_takes_its_tokens_along(build: Build, tiny: Tiny) -> None:
    model = build(tiny, (20.0, 20.0, 40.0, 40.0))
    finder = model.open_finder()
    stream = Stream(model, "face", lateness=None)
    emotions = []
    for hop in range(20):
        stream.push_frame(_texture(80, 80, seed=hop // 5), hop * 0.1)
        emotions += stream.poll()
        if hop == 5:
            finder.boxes = []  # type: ignore[attr-defined]
    assert emotions[0].track == 1 and emotions[-1].track is None and emotions[-1].state == "absent"
    assert emotions[-1].reasons == ("no face",)


@pytest.mark.parametrize("gap", ["mute", "no pictures", "nobody polled"])
def test_after_a_window_without_pictures_a_face_has_a_new_id(build: Build, tiny: Tiny, gap: str) -> None:
    model = build(tiny, (20.0, 20.0, 40.0, 40.0))
    stream = Stream(model, "face", lateness=None)
    picture = _texture(80, 80)
    last = 700 if gap == "nobody polled" else 10
    stream.push_frame(picture, 0.0)
    stream.push_frame(picture, 0.1)
    emotions = stream.poll()
    if gap == "mute":
        stream.mute("face")
        for hop in range(2, last):
            stream.push_frame(picture, hop * 0.1)
        stream.mute("face", False)
    for hop in range(last, last + 2):
        stream.push_frame(picture, hop * 0.1)
    stream.end("face")
    emotions += stream.poll()
    assert emotions[0].track == 1
    assert [emotion.track for emotion in emotions[-2:]] == [2, 2]


def test_a_face_keeps_its_id_over_a_shorter_gap(build: Build, tiny: Tiny) -> None:
    model = build(tiny, (20.0, 20.0, 40.0, 40.0))
    pushes: list[Push] = [("face", hop * 0.1, _texture(80, 80), 0) for hop in (0, 1, 4, 5)]
    assert {emotion.track for emotion in play(Stream(model, "face", lateness=None), pushes)} == {1}


# --- health


def test_reasons_name_what_is_bad(model: Recognizer, tiny: Tiny) -> None:
    dark, bright = np.full((8, 8), 2, np.uint8), np.full((8, 8), 200, np.uint8)
    loud = np.sign(tiny.voice("fear", 0.1)).astype(np.float32)
    table: list[tuple[Any, Any, tuple[str, ...]]] = [
        (bright, tiny.voice("fear", 0.1), ()),
        (dark, tiny.voice("fear", 0.1), ("too dark",)),
        (bright, loud, ()),  # half of the context is clipped, which is not more than the threshold of 0.5
        (dark, loud, ("too dark", "clipped sound")),
        (dark, loud * 0, ("too dark",)),
        (bright, loud * 0, ("silence",)),
    ]
    stream = files(model)
    for hop, (picture, sound, _) in enumerate(table):
        stream.push_frame(picture, hop * 0.1)
        stream.push_audio(sound, 8000, hop * 0.1)
    for modality in stream.modalities:
        stream.end(modality)
    for emotion, (_, _, reasons) in zip(stream.poll(), table, strict=True):
        assert tuple(name for name in emotion.reasons if name != "low confidence") == reasons


def test_an_unsure_answer_has_probabilities_and_no_label(build: Build, tiny: Tiny) -> None:
    thresholds = {"confidence": 1.0, "silence_dbfs": -60.0, "dark": 5.0, "clipped": 0.5}
    model = build(tiny, thresholds=thresholds)
    emotion = model.recognize(voice=tiny.voice("fear", 0.1), sample_rate=8000)
    assert (emotion.state, emotion.label, emotion.reasons) == ("uncertain", None, ("low confidence",))
    assert emotion.probabilities is not None and emotion.confidence == max(emotion.probabilities.values())


# --- bad input


BAD: list[tuple[Callable[[Stream], object], str]] = [
    (lambda s: s.push_audio(np.array([0.1, math.nan]), 8000, 0.5), "NaN"),
    (lambda s: s.push_audio(np.array([math.inf]), 8000, 0.5), "infinity"),
    (lambda s: s.push_audio(np.zeros(80), 8000, math.nan), "time: nan"),
    (lambda s: s.push_audio(np.zeros(80), 8000, -0.5), "before the clock starts"),
    (lambda s: s.push_audio(np.zeros(80), 0, 0.5), "rate 0"),
    (lambda s: s.push_audio(np.zeros(80), 1_000_000, 0.5), "rate 1000000"),
    (lambda s: s.push_audio(np.zeros(80), None, 0.5), "rate None"),  # type: ignore[arg-type]
    (lambda s: s.push_audio("hello", 8000, 0.5), "samples"),  # type: ignore[arg-type]
    (lambda s: s.push_frame(np.zeros((4, 4), np.float32), 0.5), "float32"),
    (lambda s: s.push_frame(np.zeros((0, 4), np.uint8), 0.5), "shape"),
    (lambda s: s.push_frame(None, 0.5), "NoneType"),  # type: ignore[arg-type]
    (lambda s: s.push_frame(np.zeros((4, 4), np.uint8), "soon"), "time: 'soon'"),  # type: ignore[arg-type]
    (lambda s: s.push_text("well", 0.0, 0.5), "reads face and voice"),
    (lambda s: s.mute("text"), "reads face and voice"),
    (lambda s: s.mute(["voice"]), "list: the bundle tiny reads face and voice"),  # type: ignore[arg-type]
    (lambda s: s.push_frame(0.5, np.full((4, 4), 77, np.uint8)), "^time: ndarray is not a number"),  # type: ignore[arg-type]  # swapped
    (lambda s: s.push_frame(np.zeros((4, 4), np.uint8), 1e308), "beyond"),
    (lambda s: s.push_audio(np.zeros(80), 8000, 0.5e9), "time: 5e.08 s is more than a day after .* seconds"),
    (lambda s: s.advance("voice", 1e6), "more than a day after .* reset"),
    (lambda s: s.push_audio(np.zeros(80), np.zeros(9), 0.5), "rate"),  # type: ignore[arg-type]
    (lambda s: s.end("smell"), "smell: the bundle tiny reads face and voice"),
    (lambda s: s.advance("voice", math.inf), "time: inf"),
]


@pytest.mark.parametrize(("act", "message"), BAD)
def test_bad_input_is_an_error_and_changes_nothing(
    model: Recognizer, crops: Any, sound: Any, act: Callable[[Stream], object], message: str
) -> None:
    pushes = in_time(frames(crops), voice_pushes(sound, 44100, 500))
    expected = play(files(model), pushes)
    stream = files(model)
    emotions = play(stream, pushes[:10], end=False)
    with pytest.raises(InputError, match=message):
        act(stream)
    assert_same(emotions + play(stream, pushes[10:]), expected)
    assert not any(stream.stats.values())


def test_a_picture_that_cannot_be_made_counts_as_missing(
    model: Recognizer, crops: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "edgeemo")

    def broken() -> Any:
        raise RuntimeError("decoder failed")

    stream = files(model, "face")
    emotions = play(
        stream, [("face", 0.0, crops[0], 0), ("face", 0.1, broken, 0), ("face", 0.2, lambda: None, 0)]
    )
    assert [emotion.reasons for emotion in emotions] == [(), ("no face",), ("no face",)]
    assert stream.stats["bad_frames"] == 2
    assert [record.levelname for record in caplog.records] == ["WARNING", "DEBUG"]
    assert "decoder failed" in caplog.records[0].message


def test_no_sound_is_no_error(model: Recognizer, sound: Any) -> None:
    stream = files(model, "voice")
    stream.push_audio(np.zeros(0, np.float32), 8000, 9.0)
    assert_same(
        play(stream, voice_pushes(sound, 8000, 800)),
        play(files(model, "voice"), voice_pushes(sound, 8000, 800)),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hop": 0.15}, "not a multiple"),
        ({"hop": 0.0}, "not a multiple"),
        ({"hop": -0.1}, "not a multiple"),
        ({"hop": math.nan}, "hop: nan"),
        ({"hop": "fast"}, "hop: 'fast'"),
        ({"hop": 1e308}, "hop: 1e.308 s is beyond"),
        ({"lateness": -1}, "negative"),
        ({"modalities": ("face", "text")}, "text: the bundle tiny reads face and voice"),
        ({"modalities": ()}, "nothing to judge by"),
        ({"modalities": 5}, "modalities: 5 is not a list of names; the bundle tiny reads face and voice"),
        ({"modalities": ("face", 5)}, "5: the bundle tiny reads face and voice"),
        ({"modalities": [np.zeros(3)]}, "ndarray: the bundle tiny reads face and voice"),
    ],
)
def test_a_stream_that_cannot_be(model: Recognizer, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Stream(model, **options)


def test_pushing_what_the_stream_was_not_opened_for(model: Recognizer, crops: Any) -> None:
    with pytest.raises(InputError, match="opened for voice"):
        Stream(model, "voice").push_frame(crops[0], 0.0)


def test_a_closed_stream_takes_nothing(model: Recognizer, crops: Any) -> None:
    with Stream(model) as stream:
        stream.push_frame(crops[0], 0.0)
    with pytest.raises(EdgeEmoError, match="closed"):
        stream.push_frame(crops[0], 0.1)
    assert stream.poll() == []


def test_a_graph_that_fails_ends_one_poll_and_not_the_stream(model: Recognizer, sound: Any) -> None:
    fusion = model.graphs["fusion"]
    compute = fusion.compute  # type: ignore[attr-defined]
    stream = files(model, "voice")
    stream.push_audio(sound[:800], 8000, 0.0)
    fusion.compute = lambda feeds: {**compute(feeds), "logits": np.full((1, 7), np.nan, np.float32)}  # type: ignore[attr-defined]
    with pytest.raises(EdgeEmoError, match="not finite"):
        stream.poll()
    fusion.compute = compute  # type: ignore[attr-defined]
    stream.push_audio(sound[800:1600], 8000, 0.1)
    assert [emotion.time for emotion in stream.poll()] == close([0.2])


def failing_once(model: Recognizer, name: str, call: int) -> None:
    """Let the numbered call of a graph fail."""
    graph = model.graphs[name]
    compute = graph.compute  # type: ignore[attr-defined]
    count = 0

    def fail(feeds: Any) -> Any:
        nonlocal count
        count += 1
        if count == call:
            raise BackendError(f"graph '{name}' failed")
        return compute(feeds)

    graph.compute = fail  # type: ignore[attr-defined]


def test_answers_from_before_a_failure_come_with_the_next_poll(model: Recognizer, sound: Any) -> None:
    expected = play(files(model, "voice"), voice_pushes(sound, 8000, 800))
    failing_once(model, "fusion", 4)
    stream = files(model, "voice")
    stream.push_audio(sound, 8000, 0.0)
    with pytest.raises(BackendError, match="fusion"):
        stream.poll()
    assert_same(stream.poll(), expected[:3] + expected[4:])
    assert stream.poll() == []


def test_a_reset_forgets_the_answers_from_before_a_failure(model: Recognizer, sound: Any) -> None:
    failing_once(model, "fusion", 4)
    stream = files(model, "voice")
    stream.push_audio(sound, 8000, 0.0)
    with pytest.raises(BackendError):
        stream.poll()
    stream.reset()
    stream.push_audio(sound[:800], 8000, 0.0)
    assert len(stream.poll()) == 1


def test_failures_without_end_need_no_memory_without_end(model: Recognizer, tiny: Tiny) -> None:
    fusion, limit = model.graphs["fusion"], round(BACKLOG / 0.1)
    compute = fusion.compute  # type: ignore[attr-defined]
    made = 0

    def every_other(feeds: Any) -> Any:
        nonlocal made
        made += 1
        if made % 2 == 0:
            raise BackendError("failed")
        return compute(feeds)

    fusion.compute = every_other  # type: ignore[attr-defined]
    stream = files(model, "voice")
    for hop in range(0, 2 * limit + 20, 2):
        stream.push_audio(tiny.voice("fear", 0.2), 8000, hop * 0.1)
        with pytest.raises(BackendError):
            stream.poll()
    assert len(stream.poll()) == limit and stream.stats["dropped_hops"] == 10


def test_a_face_that_fails_leaves_the_voice_in_step(
    model: Recognizer, tiny: Tiny, crops: Any, sound: Any
) -> None:
    failing_once(model, "face", 3)
    stream = files(model)
    for one in in_time(frames(crops), voice_pushes(sound, 8000, 800)):
        push(stream, one)
    for modality in stream.modalities:
        stream.end(modality)
    with pytest.raises(BackendError, match="face"):
        stream.poll()
    emotions = stream.poll()
    seen = {hop: crop for hop, crop in crops.items() if hop != 2}
    expected = reference(tiny, HOPS, seen, sound)
    assert_answers(emotions, expected[:2] + expected[3:])


@pytest.mark.parametrize("name", ["logits", "valence_arousal", "voice_logits"])
def test_no_output_that_is_not_finite_gets_out(model: Recognizer, sound: Any, name: str) -> None:
    fusion = model.graphs["fusion"]
    compute = fusion.compute  # type: ignore[attr-defined]

    def broken(feeds: Any) -> Any:
        outputs = compute(feeds)
        outputs[name][0, 1] = math.nan
        return outputs

    fusion.compute = broken  # type: ignore[attr-defined]
    stream = files(model, "voice")
    stream.push_audio(sound[:800], 8000, 0.0)
    with pytest.raises(BackendError, match=r"graph 'fusion' answered .* not finite"):
        stream.poll()


# --- what a long stream costs


def test_the_cost_of_a_hop_does_not_grow(model: Recognizer, tiny: Tiny) -> None:
    chunk, crop = tiny.voice("fear", 0.1), tiny.face("fear")
    stream = Stream(model, lateness=None, face_is_cropped=True)

    def run(first: int) -> int:
        """Bytes that 100 hops leave behind."""
        for hop in range(first, first + 200):
            if hop == first + 100:
                for rows in calls(model).values():
                    rows.clear()
                gc.collect()
                tracemalloc.start()
            stream.push_frame(crop, hop * 0.1)
            stream.push_audio(chunk, 8000, hop * 0.1)
            stream.poll()
        left, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert calls(model) == {name: [1] * 100 for name in ("face", "voice", "fusion")}
        return left

    early, late = run(600), run(36000 * 10)
    # Python keeps small objects for reuse; a hundred chunks of sound would be 320 kB.
    assert early < 100_000 and late < 100_000


@pytest.mark.slow
def test_an_hour_needs_no_more_memory_than_its_first_minutes(model: Recognizer, tiny: Tiny) -> None:
    chunk, crop = tiny.voice("fear", 0.1), tiny.face("fear")
    stream = Stream(model, lateness=None, face_is_cropped=True)
    for graph in model.graphs.values():
        shapes = {
            name: [1 if axis == "N" else axis for axis in spec.shape]
            for name, spec in graph.spec.outputs.items()
        }
        made = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
        graph.run = lambda feeds, made=made: made  # type: ignore[method-assign, misc]
    sizes = []
    tracemalloc.start()
    for hop in range(36000):
        stream.push_frame(crop, hop * 0.1)
        stream.push_audio(chunk, 8000, hop * 0.1)
        assert len(stream.poll()) == (1 if hop else 0)
        if hop % 6000 == 3000:
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert max(sizes) < sizes[0] + 20_000


def test_what_nobody_polls_is_bounded_and_counted(model: Recognizer, tiny: Tiny) -> None:
    chunk, crop = tiny.voice("fear", 1.0), tiny.face("fear")
    stream = Stream(model, lateness=None, face_is_cropped=True)
    for second in range(100):
        stream.push_audio(chunk, 8000, second)
        for hop in range(10):
            stream.push_frame(crop, second + hop * 0.1)
    emotions = stream.poll()
    limit = round(BACKLOG / 0.1)
    assert len(emotions) == limit
    assert stream.stats["dropped_hops"] == 999 - limit
    assert stream.stats["dropped_frames"] == 1000 - limit
    assert stream.stats["dropped_samples"] == (100 - 60) * 8000
    assert emotions[-1].time == close(99.9) and emotions[-1].label == "fear"
    stream.push_audio(chunk, 8000, 100.0)
    stream.end("face")
    assert len(stream.poll()) == 11


def test_one_modality_far_ahead_is_bounded_too(model: Recognizer, tiny: Tiny) -> None:
    stream = Stream(model, lateness=None, face_is_cropped=True)
    for hop in range(1000):
        stream.push_frame(tiny.face("fear"), hop * 0.1)
    assert stream.stats["dropped_frames"] == 400
    stream.push_audio(tiny.voice("fear", 100.0), 8000, 0.0)
    assert stream.stats["dropped_samples"] == 40 * 8000


def test_a_clock_that_jumps_answers_no_more_than_the_backlog(
    model: Recognizer, crops: Any, sound: Any
) -> None:
    stream = files(model)
    pushes: list[Push] = [("face", 0.0, crops[0], 0), ("voice", 0.0, sound, 8000)]
    pushes += [("face", 8e4, crops[1], 0), ("voice", 8e4, sound, 8000)]
    emotions = play(stream, pushes)
    assert len(emotions) <= round(BACKLOG / 0.1) + 2 * HOPS + 1
    assert emotions[-1].time == close(8e4 + 1.2)
    assert stream.stats["dropped_hops"] > 790_000


def test_hops_without_number_that_were_muted_are_left_out_at_once(model: Recognizer, crops: Any) -> None:
    stream = files(model)
    stream.mute("voice")
    stream.push_frame(crops[0], 0.0)
    for day in range(1, 10_000):
        stream.push_frame(crops[0], day * 86_400.0)
    assert len(stream.poll()) == round(BACKLOG / 0.1)
    assert stream.stats["dropped_hops"] > 8e9


@pytest.mark.parametrize("start", [0.0, 1.7e9])
def test_a_clock_may_start_anywhere_and_not_run_away(model: Recognizer, crops: Any, start: float) -> None:
    stream = files(model, "face")
    stream.push_frame(crops[0], start)
    for ahead in (86_401.0, 1e9):
        with pytest.raises(InputError, match="seconds on one clock, or reset"):
            stream.push_frame(crops[1], start + ahead)
    stream.push_frame(crops[1], start + 0.1)
    assert len(stream.poll()) == 1
    stream.reset()
    stream.push_frame(crops[1], start + 1e9)
    stream.push_frame(crops[1], start + 1e9 + 86_400)


@pytest.mark.parametrize("rate", [4000, 44100, 48000, 192000])
def test_a_hop_of_sound_is_enough_for_its_answer(model: Recognizer, rate: int) -> None:
    stream = files(model, "voice")
    for hop in range(3):
        stream.push_audio(np.full(rate // 10, 0.3, np.float32), rate, hop * 0.1)
        assert len(stream.poll()) == 1
