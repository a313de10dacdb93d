"""Stages of a step under a watch that goes as the test says: what is found where."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeemo.bench import looped
from edgeemo.bench.measure import LEAST, Hop, Live, Samples, measure
from edgeemo.bench.statistics import WarmUp
from edgeemo.capture.source import Frame, Sound
from edgeemo.errors import BackendError, EdgeEmoError, InputError, SourceError
from edgeemo.inference.fallback import FallbackGraph
from edgeemo.recognition.recognizer import Recognizer
from edgeemo.recognition.stream import Stream
from tests.capture.media import write_clip
from tests.recognition.fakes import GEOMETRY, CountingGraph, FakeFinder, fake_model
from tests.support.tiny import Tiny, write_bundle

BOX = (20.0, 10.0, 30.0, 30.0)
PAUSE = 0.05
GRAPHS = ("face", "voice", "fusion")


class Watch:
    """Seconds that pass only when it is looked at, a microsecond each time, and when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now

    def wait(self, seconds: float = PAUSE) -> None:
        self.now += seconds


class Beats:
    """A second in which each hop holds a block of sound and then a picture."""

    name, live, duration, stats = "beats", False, 1.0, {}
    modalities = ("face", "voice")

    def __init__(self, tiny: Tiny, before: Callable[[], object] = lambda: None) -> None:
        self._tiny, self._before = tiny, before

    def __iter__(self) -> Iterator[Frame | Sound]:
        image = picture()
        sound = self._tiny.voice("happiness", self._tiny.hop)
        for hop in range(10):
            self._before()
            yield Sound(hop * self._tiny.hop, sound, self._tiny.sample_rate)
            yield Frame((hop + 0.5) * self._tiny.hop, image.copy)

    def close(self) -> None:
        pass


def picture() -> Any:
    """With something in it that can be followed."""
    image = np.full((64, 128, 3), 90, np.uint8)
    image[15:35, 25:45] = 200
    return image


def at_once() -> WarmUp:
    return WarmUp(least=0.0, steps=6, most=0.0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of pictures and of sound."""
    sound = Tiny(sample_rate=48000).voice("happiness", 1.0)
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mkv", images=[picture()] * 25, sound=sound)


@pytest.fixture
def model(tmp_path: Path) -> Recognizer:
    return fake_model(write_bundle(tmp_path / "tiny", geometry=GEOMETRY), Tiny(), BOX)


def medians(samples: Samples) -> dict[str, float]:
    return {name: float(np.median(seconds)) for name, seconds in samples.stages.items()}


def test_every_stage_of_every_hop(model: Recognizer, clip: Path) -> None:
    passed: list[float] = []
    samples = measure(model, clip, 0.3, warm_up=at_once(), progress=passed.append)
    stages = {name: len(seconds) for name, seconds in samples.stages.items()}
    always = {"capture", *GRAPHS, "decide", "deliver", "update", "step_all", "latency"}
    assert set(stages) == {*always, "detect", "step", "step_tracked"}
    assert stages["step"] == stages["detect"] == len(samples.overhead) > 0
    assert stages["step_tracked"] == len(samples.overhead_tracked) > 0
    assert {stages[name] for name in always} == {samples.steps} == {len(passed)}
    assert samples.steps == stages["step"] + stages["step_tracked"] >= LEAST
    assert passed == sorted(passed) and samples.seconds == passed[-1] >= 0.3
    assert samples.steps == LEAST or passed[-2] < 0.3
    for share in (*samples.overhead, *samples.overhead_tracked):
        assert 0 < share < 1
    assert samples.live is None


def late(watch: Watch, call: Callable[..., Any]) -> Callable[..., Any]:
    def waiting(*given: Any, **named: Any) -> Any:
        watch.wait()
        return call(*given, **named)

    return waiting


def slow(stage: str, watch: Watch, model: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one stage take a pause longer."""
    if stage in model.graphs:
        graph = model.graphs[stage]
        assert isinstance(graph, CountingGraph)
        graph.compute = late(watch, graph.compute)
    elif stage == "detect":
        finder = model.open_finder()
        assert isinstance(finder, FakeFinder)
        monkeypatch.setattr(finder, "find", late(watch, finder.find))
    elif stage == "decide":
        monkeypatch.setattr(Stream, "push_frame", late(watch, Stream.push_frame))


def found_with(stage: str, model: Recognizer, monkeypatch: pytest.MonkeyPatch, watch: Watch) -> Samples:
    slow(stage, watch, model, monkeypatch)
    before = watch.wait if stage == "capture" else lambda: None
    monkeypatch.setattr(looped, "open_source", lambda path: Beats(Tiny(), before))
    deliver = (lambda emotions: watch.wait()) if stage == "deliver" else (lambda emotions: None)
    return measure(model, Path("beats"), 0.001, warm_up=at_once(), deliver=deliver, clock=watch)


@pytest.mark.parametrize(
    "stage", ["capture", "detect", "face", "voice", "fusion", "decide", "deliver", "nowhere"]
)
def test_a_pause_is_found_in_its_stage_and_in_no_other(
    stage: str, model: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = found_with(stage, model, monkeypatch, Watch())
    found = medians(samples)
    near = 0.02 * PAUSE
    for name in ("capture", "detect", "face", "voice", "fusion", "decide", "deliver"):
        assert found[name] == pytest.approx(PAUSE if name == stage else 0.0, abs=near), name
    inside = stage in (*GRAPHS, "decide")
    assert found["step_tracked"] == pytest.approx(PAUSE * inside, abs=near)
    assert found["step"] == pytest.approx(PAUSE * (inside or stage == "detect"), abs=near)
    assert found["update"] == pytest.approx(PAUSE * (stage in GRAPHS), abs=near)
    assert found["latency"] == pytest.approx(PAUSE * (inside or stage == "deliver"), abs=near)


@pytest.mark.parametrize("stage", ["decide", "fusion"])
def test_what_is_neither_detection_nor_a_graph_is_overhead(
    stage: str, model: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = found_with(stage, model, monkeypatch, Watch())
    shares = [*samples.overhead, *samples.overhead_tracked]
    assert min(shares) > 0.98 if stage == "decide" else max(shares) < 0.02


def test_the_stages_of_a_hop_add_up_to_its_latency(model: Recognizer, clip: Path) -> None:
    samples = measure(model, clip, 0.2, warm_up=at_once())
    detect = iter(samples.stages["detect"])
    parts = ("decide", "deliver", "update")
    whole = [sum(hop) for hop in zip(*(samples.stages[name] for name in parts), strict=True)]
    over = np.array(samples.stages["latency"]) - whole
    detected = over > 1e-9
    assert over[detected] == pytest.approx(list(detect)) and abs(over[~detected]).max() < 1e-9


def test_the_warm_up_is_not_measured(model: Recognizer, clip: Path) -> None:
    graph = model.graphs["fusion"]
    assert isinstance(graph, CountingGraph)
    warm_up = WarmUp(least=0.0, steps=12, most=60.0, within=1e9)
    entered = []

    class Meanwhile:
        def __enter__(self) -> None:
            entered.append(len(graph.rows))

        def __exit__(self, *_: object) -> None:
            entered.append(len(graph.rows))

    samples = measure(model, clip, 0.1, warm_up=warm_up, meanwhile=Meanwhile())
    assert samples.warm_up is warm_up and (warm_up.steps, warm_up.stable) == (12, True)
    assert entered == [12, 12 + samples.steps]


def test_answers_are_delivered(model: Recognizer, clip: Path) -> None:
    delivered: list[Sequence[Any]] = []
    samples = measure(model, clip, 0.1, warm_up=at_once(), deliver=delivered.append)
    assert len(delivered) == 1 + samples.steps  # one warmed up
    times = [emotions[0].time for emotions in delivered]
    assert times == pytest.approx([0.1 * (hop + 1) for hop in range(len(times))])


# --- live


def test_a_live_source_waits_for_time(model: Recognizer, clip: Path) -> None:
    samples = measure(model, clip, 0.5, live=True, warm_up=at_once())
    assert samples.live is not None and samples.steps >= LEAST
    assert samples.seconds >= 0.9 * 0.1 * (LEAST - 2)  # it was not played faster than it goes
    # The last picture or block that a hop needs comes with its end or after, so no answer is early.
    assert min(samples.stages["latency"]) > 0 and min(samples.live.result_age) > 0
    assert max(samples.live.result_age) >= 0.1
    assert samples.live.lost["late_frames"] >= 0 and "dropped_pictures" in samples.live.lost


def hop(*ends: float, latency: float = 0.03) -> Hop:
    return Hop(ends, {}, 0.01, 0.01, 0.0, late=latency)


@pytest.mark.parametrize(
    ("hops", "answered", "expected", "ages"),
    [
        ([hop(0.1)], 1, 1, None),
        ([hop(0.1), hop(0.2)], 2, 2, (0.03, 0.13)),
        ([hop(0.1), hop(0.3)], 2, 3, (0.03, 0.23)),
        ([hop(0.1), hop(0.2, 0.3, latency=0.05)], 3, 3, (0.03, 0.25)),
    ],
)
def test_what_a_live_source_shows(
    hops: list[Hop], answered: int, expected: int, ages: tuple[float, float] | None
) -> None:
    live = Live(0.1)
    for one in hops:
        live.add(one)
    assert (live.answered, live.expected) == (answered, expected)
    assert live.drop_rate == pytest.approx(1 - answered / expected)
    assert len(live.result_age) == len(hops) - 1
    if ages is not None:
        assert all(ages[0] <= age <= ages[1] for age in live.result_age)


def test_somebody_looks_at_any_time_between_two_results() -> None:
    live = Live(0.1)
    for number in range(1000):
        live.add(hop(0.1 * number))
    assert np.percentile(live.result_age, [1, 50, 99]) == pytest.approx([0.031, 0.08, 0.129], abs=2e-3)


def test_hops_that_are_answered_together_have_a_latency_each() -> None:
    samples = Samples()
    samples.add(hop(0.1))
    samples.add(hop(0.2, 0.3, 0.4, latency=0.05))
    assert samples.stages["latency"] == pytest.approx([0.03, 0.25, 0.15, 0.05])
    assert (samples.answered, samples.steps) == (4, 1)


def test_unsteady_is_what_differs_between_hops_that_do_the_same() -> None:
    samples = Samples()
    for number in range(10):
        ran = {"voice": 0.002} if number % 5 else {"voice": 0.002, "face": 0.009}
        samples.add(Hop((0.1 * number,), ran, 0.0, 0.02, 0.0, faces=1))
    assert samples.alike == pytest.approx([0.002] * 8) and samples.faces == 1


# --- sources


def test_a_voice_alone(tmp_path: Path) -> None:
    tiny = Tiny(modalities=("voice",))
    model = fake_model(write_bundle(tmp_path / "tiny", tiny), tiny)
    sound = write_clip(tmp_path / "voice.wav", sound=Tiny(sample_rate=48000).voice("fear", 0.5))
    samples = measure(model, sound, 0.1, warm_up=at_once())
    assert not {"detect", "face", "step"} & set(samples.stages)
    assert samples.overhead == [] and samples.overhead_tracked


def test_a_single_picture_is_played_hop_after_hop(model: Recognizer, tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "face.png"), picture())
    samples = measure(model, tmp_path / "face.png", 0.1, warm_up=at_once())
    assert not {"voice"} & set(samples.stages)
    assert samples.stages["step"] and samples.stages["step_tracked"]  # the same face, hop after hop


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("missing.mp4", SourceError, "no such file"),
        ("picture.png", InputError, "it holds face only; the bundle tiny reads voice"),
    ],
)
def test_a_source_that_cannot_be_measured(
    tmp_path: Path, name: str, error: type[EdgeEmoError], message: str
) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "picture.png"), np.full((64, 64, 3), 90, np.uint8))
    tiny = Tiny(modalities=("voice",))
    with pytest.raises(error, match=message):
        measure(fake_model(write_bundle(tmp_path / "tiny", tiny), tiny), tmp_path / name, 0.1)


@pytest.mark.parametrize("source", ["silence.wav", "nobody.png"])
def test_a_source_that_no_graph_runs_on(source: str, tmp_path: Path) -> None:
    import cv2

    folder = write_bundle(tmp_path / "tiny", geometry=GEOMETRY)
    model = fake_model(folder, Tiny())  # finds nobody
    write_clip(tmp_path / "silence.wav", sound=np.zeros(24000, np.float32))
    cv2.imwrite(str(tmp_path / "nobody.png"), np.full((64, 128, 3), 90, np.uint8))
    with pytest.raises(InputError, match=rf"{source}: no graph ran on it, as it has neither a face nor"):
        measure(model, tmp_path / source, 0.1, warm_up=at_once())


def test_an_engine_that_takes_over_ends_the_measurement(
    model: Recognizer, clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    second = model.graphs["voice"]
    assert isinstance(second, CountingGraph)
    first, compute = copy(second), second.compute

    def failing(feeds: Mapping[str, Any]) -> dict[str, Any]:
        if len(first.rows) > 3:
            raise BackendError("graph 'voice' failed in CUDA")
        return compute(feeds)

    first.engine, first.compute = "tensorrt 10.3.0", failing
    graphs = {**model.graphs, "voice": FallbackGraph(first, second, 16)}
    both = Recognizer(model.bundle, graphs, model.open_finder())
    with pytest.raises(
        BackendError, match=r"graph 'voice' went over from tensorrt 10\.3\.0 to .* while it was"
    ):
        measure(both, clip, 0.3, warm_up=at_once())
    assert "graph 'voice' failed in CUDA" in caplog.text


@pytest.mark.parametrize("block", [0.003, 0.02, 0.256, 1.0])
def test_the_blocks_of_a_file_do_not_matter(
    block: float, model: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = Tiny()
    sound, size = tiny.voice("happiness", 1.0), round(block * tiny.sample_rate)

    class Blocks(Beats):
        modalities = ("voice",)

        def __iter__(self) -> Iterator[Frame | Sound]:
            for begin in range(0, len(sound), size):
                yield Sound(begin / tiny.sample_rate, sound[begin : begin + size], tiny.sample_rate)

    monkeypatch.setattr(looped, "open_source", lambda path: Blocks(tiny))
    delivered: list[Sequence[Any]] = []
    samples = measure(model, Path("blocks"), 0.01, warm_up=at_once(), deliver=delivered.append)
    assert samples.steps == samples.answered >= LEAST
    times = [emotion.time for emotions in delivered for emotion in emotions]
    assert times == pytest.approx([0.1 * (number + 1) for number in range(len(times))])
    assert {emotion.label for emotions in delivered[5:] for emotion in emotions} == {"happiness"}


def test_hops_without_a_picture_of_their_own_are_steps_too(
    model: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Beats):
        modalities = ("face",)

        def __iter__(self) -> Iterator[Frame | Sound]:
            for number in range(4):
                yield Frame(0.3 * number, picture)

    monkeypatch.setattr(looped, "open_source", lambda path: Slow(Tiny()))
    samples = measure(model, Path("slow"), 0.01, warm_up=at_once())
    assert samples.steps == samples.answered >= LEAST
    assert len(samples.stages["face"]) < samples.steps  # a picture in every third hop


def test_all_comes_in_the_order_in_which_it_is_complete(clip: Path) -> None:
    source = looped.Looped(clip, 0.1)
    events = [event for event, _ in zip(source, range(400), strict=False)]
    source.close()
    ends = [looped.end_of(event) for event in events]
    assert all(later > earlier - 1 / 8000 for earlier, later in itertools.pairwise(ends))
    for event in events:
        if isinstance(event, Sound):  # no block is in two hops
            last = looped.end_of(event) - 0.5 / event.sample_rate
            assert int(event.time / 0.1 + 1e-3) == int(last / 0.1)
    spoken = [event for event in events if isinstance(event, Sound)]
    gaps = [later.time - looped.end_of(earlier) for earlier, later in itertools.pairwise(spoken)]
    assert max(map(abs, gaps)) < 1e-3  # also from one round to the next


def test_a_source_that_holds_nothing(model: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing(list[Any]):
        name = "empty.mkv"
        modalities = ("face", "voice")

        def close(self) -> None:
            pass

    monkeypatch.setattr(looped, "open_source", lambda path: Nothing())
    with pytest.raises(InputError, match=r"empty\.mkv: there is nothing in it to play"):
        measure(model, Path("empty.mkv"), 0.1)


def test_shares_by_hand() -> None:
    samples = Samples()
    samples.add(Hop((0.1,), {"detect": 0.010, "face": 0.004, "fusion": 0.001}, 0.003, 0.020, 0.001))
    samples.add(Hop((0.2,), {"fusion": 0.002}, 0.002, 0.010, 0.001))
    assert samples.overhead == [pytest.approx(0.5)] and samples.overhead_tracked == [pytest.approx(0.8)]
    assert {name: [round(one, 6) for one in seconds] for name, seconds in samples.stages.items()} == {
        "latency": [0.021, 0.011],
        "capture": [0.003, 0.002],
        "detect": [0.010],
        "face": [0.004],
        "fusion": [0.001, 0.002],
        "decide": [0.005, 0.008],
        "deliver": [0.001, 0.001],
        "update": [0.005, 0.002],
        "step": [0.020],
        "step_tracked": [0.010],
        "step_all": [0.020, 0.010],
    }
