from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeemo.capture.source import Frame, Sound
from edgeemo.errors import EdgeEmoError, InputError
from edgeemo.recognition.recognizer import Recognizer
from edgeemo.recognition.watch import watch
from tests.recognition.conftest import Build
from tests.recognition.fakes import GEOMETRY, close
from tests.support.tiny import Tiny


class FakeSource:
    """Gives the events that it was given, and knows whether it was closed."""

    name = "fake source"
    duration: float | None = None

    def __init__(
        self, *events: Frame | Sound, live: bool = False, modalities: tuple[str, ...] = ("face", "voice")
    ) -> None:
        self.events = events
        self.live = live
        self.modalities = modalities
        self.stats: dict[str, int] = {}
        self.closed = False

    def __iter__(self) -> Iterator[Frame | Sound]:
        return iter(self.events)

    def close(self) -> None:
        self.closed = True


def sounds(tiny: Tiny, seconds: float, start: float = 0.0) -> list[Sound]:
    return [
        Sound(start + hop * 0.1, tiny.voice("fear", 0.1), tiny.sample_rate)
        for hop in range(round(seconds * 10))
    ]


def frame(time: float, level: int = 100) -> Frame:
    return Frame(time, lambda: np.full((60, 60, 3), level, np.uint8))


def in_time(*events: Frame | Sound) -> list[Frame | Sound]:
    return sorted(events, key=lambda event: event.time)


def test_a_file_is_answered_to_its_end_and_closed(model: Recognizer, tiny: Tiny) -> None:
    source = FakeSource(*in_time(*sounds(tiny, 2.0), *[frame(hop / 30) for hop in range(30)]))
    emotions = list(watch(source, model=model))
    assert [emotion.time for emotion in emotions] == close([(hop + 1) * 0.1 for hop in range(20)])
    assert source.closed
    assert emotions[9].modalities == ("face", "voice") and emotions[-1].modalities == ("voice",)


class Noting(FakeSource):
    """Notes the time of what was read last."""

    read = 0.0

    def __iter__(self) -> Iterator[Frame | Sound]:
        for event in self.events:
            self.read = event.time
            yield event


def test_answers_come_while_the_file_is_read(model: Recognizer, tiny: Tiny) -> None:
    # The pictures end early: no answer waits for them, or for the end.
    source = Noting(*in_time(frame(0.0), *sounds(tiny, 100.0)))
    for count, emotion in enumerate(watch(source, model=model), start=1):
        assert source.read <= emotion.time + 0.2, count
    assert count == 1000


def test_a_file_without_sound_says_so(model: Recognizer) -> None:
    source = FakeSource(frame(0.0), frame(0.1), modalities=("face",))
    assert [emotion.reasons for emotion in watch(source, model=model)] == [("silence",)] * 2


def test_a_live_source_waits_200_ms(model: Recognizer, tiny: Tiny) -> None:
    events = [frame(0.0), *sounds(tiny, 0.5), frame(0.15), frame(0.45)]
    source = FakeSource(*events, live=True)
    emotions = list(watch(source, model=model))
    assert len(emotions) == 5
    # The voice was at 0.5 s when the picture of 0.15 s came: hops up to 0.3 s were answered.
    assert ["no face" in emotion.reasons for emotion in emotions] == [False, True, True, True, False]


TEXT = Tiny(modalities=("voice", "text"))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "words.tsv"
    path.write_text("0.3\t0.5\tanger\n0\t0.2\tfear\n", "utf-8")
    return path


def test_words_of_a_table_are_answered_beside_the_source(build: Build, table: Path) -> None:
    model = build(TEXT)
    source = FakeSource(*sounds(TEXT, 1.0), modalities=("voice",))
    emotions = list(watch(source, model=model, text=table))
    assert len(emotions) == 10 and source.closed
    assert ["text" in emotion.modalities for emotion in emotions] == [False] + [True] * 8 + [False]
    first = model.recognize(voice=TEXT.voice("fear", 0.2), sample_rate=8000, text=[("fear", 0.0, 0.2)])
    assert emotions[1].probabilities == close(first.probabilities)
    without = list(watch(FakeSource(*sounds(TEXT, 1.0), modalities=("voice",)), model=model))
    assert all(emotion.modalities == ("voice",) for emotion in without)
    assert all("no text" in emotion.reasons for emotion in without)


def test_words_from_after_the_end_are_left_out(
    build: Build, table: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with table.open("a") as file:
        file.write("0.9\t1.2\tfear\n1.5\t1.8\tanger\n200000\t200001\tanger\n")
    source = FakeSource(*sounds(TEXT, 1.0), modalities=("voice",))
    emotions = list(watch(source, model=build(TEXT), text=table))
    assert len(emotions) == 12  # to the end of the words that were begun before the sound ended
    assert "fake source: 2 of its words begin after it has ended, at 1.0 s" in caplog.text


def test_answers_come_while_a_file_with_a_table_is_read(build: Build, table: Path) -> None:
    source = Noting(*sounds(TEXT, 20.0), modalities=("voice",))
    for emotion in watch(source, model=build(TEXT), text=str(table)):
        assert source.read <= emotion.time + 0.2


def test_a_table_alone_is_answered_where_the_bundle_reads_nothing_of_the_source(
    build: Build, table: Path
) -> None:
    model = build(Tiny(modalities=("text",)))
    emotions = list(watch(FakeSource(frame(0.0), frame(0.9)), model=model, text=table))
    assert [emotion.time for emotion in emotions] == close([0.2, 0.3, 0.4, 0.5])
    assert [emotion.label for emotion in emotions[:3]] == ["fear"] * 3


def test_a_text_that_cannot_be_used(model: Recognizer, build: Build, tiny: Tiny, table: Path) -> None:
    source = FakeSource(*sounds(tiny, 1.0))
    with pytest.raises(InputError, match="text: the bundle tiny reads face and voice; leave text out"):
        next(watch(source, model=model, text=table))
    assert source.closed
    with pytest.raises(InputError, match="fake source: it is live, and a text with times belongs to a recor"):
        next(watch(FakeSource(live=True), model=build(TEXT), text=table))
    with pytest.raises(EdgeEmoError, match=r"none\.tsv: it cannot be read"):
        next(watch(FakeSource(*sounds(tiny, 1.0)), model=build(TEXT), text=table.parent / "none.tsv"))


def test_the_source_is_closed_when_the_caller_stops(model: Recognizer, tiny: Tiny) -> None:
    source = FakeSource(*sounds(tiny, 1.0), modalities=("voice",))
    answers = watch(source, model=model)
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert source.closed


def test_the_source_is_closed_when_the_model_cannot_be_loaded(tmp_path: Path) -> None:
    source = FakeSource(frame(0.0))
    with pytest.raises(EdgeEmoError):
        next(watch(source, bundle=tmp_path))
    assert source.closed


def test_bad_pieces_are_left_out_logged_once_and_counted(
    model: Recognizer, tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Any:
        raise OSError("no data")

    bad = [Sound(0.1 * hop, np.full(10, np.nan, np.float32), 8000) for hop in range(3)]
    source = FakeSource(*in_time(*sounds(tiny, 0.5), *bad, Frame(0.25, broken), frame(0.35)))
    with caplog.at_level(logging.INFO, "edgeemo"):
        emotions = list(watch(source, model=model))
    assert len(emotions) == 5 and source.stats == {}  # which is the source's own
    assert sum("NaN" in record.message for record in caplog.records) == 1
    assert "3 bad_chunks" in caplog.text and "1 bad_frames" in caplog.text


class LiveSource(FakeSource):
    """Counts as a session of two devices does, which adds up the counts of both at each access."""

    @property
    def stats(self) -> dict[str, int]:  # type: ignore[override]
        return {"overflows": 0}

    @stats.setter
    def stats(self, value: dict[str, int]) -> None:
        pass


@pytest.mark.parametrize("bad_from", [0, 3])
def test_a_live_source_with_bad_pieces_goes_on(
    model: Recognizer, tiny: Tiny, caplog: pytest.LogCaptureFixture, bad_from: int
) -> None:
    good = sounds(tiny, 0.5)
    bad = [Sound(0.1 * hop, np.full(10, np.nan, np.float32), 8000) for hop in range(2)]
    source = LiveSource(*good[:bad_from], *bad, *good[bad_from:], live=True, modalities=("voice",))
    with caplog.at_level(logging.INFO, "edgeemo"):
        assert len(list(watch(source, model=model))) == 5
    assert [record.levelname for record in caplog.records if "NaN" in record.message] == ["WARNING"]
    assert "2 bad_chunks" in caplog.text


@pytest.mark.parametrize("live", [False, True])
def test_a_source_of_which_nothing_can_be_used_is_an_error(
    model: Recognizer, tiny: Tiny, caplog: pytest.LogCaptureFixture, live: bool
) -> None:
    bad = [Sound(0.1 * hop, np.zeros(10, np.float32), rate) for hop, rate in enumerate((3000, 300, 300))]
    source = FakeSource(*bad, live=live, modalities=("voice",))
    with pytest.raises(InputError, match=r"^fake source: sample rate 3000: give an integer from 4000"):
        list(watch(source, model=model))
    assert source.closed
    # Who listens to a device must not wait for its end; of a file the error says it all.
    assert [record.levelname for record in caplog.records] == ["WARNING"] * live


def test_a_wrong_clock_ends_neither_the_stream_nor_goes_unheard(
    model: Recognizer, tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = Sound(0.2e9, tiny.voice("fear", 0.1), 8000)  # nanoseconds
    source = FakeSource(*sounds(tiny, 0.2), wrong, *sounds(tiny, 0.3, 0.2), modalities=("voice",))
    assert len(list(watch(source, model=model))) == 5
    assert "2e+08 s is more than a day after 0.2 s" in caplog.text


def test_the_hop_is_that_of_the_bundle_or_a_multiple(model: Recognizer, tiny: Tiny) -> None:
    for hop, count in ((None, 10), (0.2, 5), (0.5, 2)):
        source = FakeSource(*sounds(tiny, 1.0), modalities=("voice",))
        assert len(list(watch(source, model=model, hop=hop))) == count


def test_nothing_that_the_model_reads_is_an_error(build: Build) -> None:
    model = build(Tiny(modalities=("voice",)))
    source = FakeSource(frame(0.0), modalities=("face",))
    with pytest.raises(InputError, match="fake source: it holds face only; the bundle tiny reads voice"):
        list(watch(source, model=model))
    assert source.closed


def test_no_source_or_two(model: Recognizer) -> None:
    with pytest.raises(InputError, match="no source"):
        next(watch(model=model))
    with pytest.raises(InputError, match="either"):
        next(watch(FakeSource(), camera=0, model=model))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": 0}, "^source: 0 is neither .* give camera=0$"),  # as OpenCV takes it
        ({"source": b"a.mp4"}, "^source: bytes is neither .* give the path of a file"),
        ({"source": ["a.mp4"]}, "^source: list is neither"),
        ({"source": FakeSource(), "hop": 0}, "^hop: 0 s is not a multiple"),
        ({"source": FakeSource(), "bundle": "folder"}, "^bundle: .* either a model or a bundle"),
    ],
)
def test_arguments_that_cannot_be(model: Recognizer, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        next(watch(**arguments, model=model))


@pytest.mark.slow
def test_a_real_clip(data: Path, tmp_path: Path, tiny: Tiny) -> None:
    from tests.support.tiny import write_bundle

    geometry = {**GEOMETRY, **{name: {"scale": 1.2, "dx": 0.0, "dy": 0.0} for name in ("cascade", "yunet")}}
    folder = write_bundle(tmp_path / "bundle", tiny, geometry=geometry)
    clip = sorted((data / "ravdess_video").glob("*.mp4"))[0]
    emotions = list(watch(clip, bundle=folder))
    assert 30 <= len(emotions) <= 50
    assert sum(emotion.modalities == ("face", "voice") for emotion in emotions) > 15
    assert {emotion.track for emotion in emotions if emotion.track is not None} == {1}
