"""Stages of a step under a watch: what is found where, never how long it takes here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeemo.bench import measure as measuring
from edgeemo.bench.measure import LEAST, Samples, measure
from edgeemo.errors import BackendError, EdgeEmoError, InputError, SourceError
from edgeemo.inference.fallback import FallbackGraph
from edgeemo.preprocess.face import Face
from edgeemo.recognition.recognizer import Recognizer
from tests.capture.media import write_clip
from tests.recognition.fakes import GEOMETRY, CountingGraph, FakeFinder, fake_model
from tests.support.tiny import Tiny, write_bundle

BOX = (20.0, 10.0, 30.0, 30.0)
PAUSE = 0.02


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of pictures, with something in them that can be followed, and of sound."""
    image = np.full((64, 128, 3), 90, np.uint8)
    image[15:35, 25:45] = 200
    sound = Tiny(sample_rate=48000).voice("happiness", 1.0)
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mkv", images=[image] * 25, sound=sound)


@pytest.fixture
def model(tmp_path: Path) -> Recognizer:
    return fake_model(write_bundle(tmp_path / "tiny", geometry=GEOMETRY), Tiny(), BOX)


def medians(samples: Samples) -> dict[str, float]:
    return {name: float(np.median(seconds)) for name, seconds in samples.stages.items()}


def test_every_stage_of_every_hop(model: Recognizer, clip: Path) -> None:
    passed: list[float] = []
    samples = measure(model, clip, 0.3, warm_up=0.0, progress=passed.append)
    stages = {name: len(seconds) for name, seconds in samples.stages.items()}
    assert set(stages) == {"detect", "face", "voice", "fusion", "step", "step_tracked"}
    assert stages["step"] == stages["detect"] == len(samples.overhead) > 0
    assert stages["step_tracked"] == len(samples.overhead_tracked) > 0
    assert stages["fusion"] == samples.steps == len(passed) == stages["step"] + stages["step_tracked"]
    assert passed == sorted(passed)
    assert samples.steps >= LEAST and samples.seconds == passed[-1] >= 0.3
    assert samples.steps == LEAST or passed[-2] < 0.3
    for share in (*samples.overhead, *samples.overhead_tracked):
        assert 0 < share < 1


def slow_graph(name: str) -> Callable[[Recognizer], None]:
    def slow(model: Recognizer) -> None:
        graph = model.graphs[name]
        assert isinstance(graph, CountingGraph)
        compute = graph.compute

        def late(feeds: Mapping[str, Any]) -> dict[str, Any]:
            time.sleep(PAUSE)
            return compute(feeds)

        graph.compute = late

    return slow


def slow_finder(model: Recognizer) -> None:
    finder = model.open_finder()
    assert isinstance(finder, FakeFinder)
    find = finder.find

    def late(image: Any) -> list[Face]:
        time.sleep(PAUSE)
        return find(image)

    finder.find = late  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("stage", "slow"),
    [
        ("detect", slow_finder),
        ("face", slow_graph("face")),
        ("voice", slow_graph("voice")),
        ("fusion", slow_graph("fusion")),
    ],
)
def test_a_pause_is_found_in_its_stage(
    stage: str, slow: Callable[[Recognizer], None], model: Recognizer, clip: Path
) -> None:
    slow(model)
    found = medians(measure(model, clip, 0.3, warm_up=0.0))
    others = {"detect", "face", "voice", "fusion"} - {stage}
    assert found[stage] >= PAUSE
    assert all(found[other] < PAUSE for other in others)
    assert found["step"] >= PAUSE
    if stage == "detect":
        assert found["step_tracked"] < found["step"]
    else:
        assert found["step_tracked"] >= PAUSE


def test_a_pause_between_the_stages_is_overhead(
    model: Recognizer, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeemo.recognition.stream import Stream

    quick = measure(model, clip, 0.2, warm_up=0.0)
    push = Stream.push_audio

    def late(self: Stream, *given: Any) -> None:
        time.sleep(PAUSE)
        push(self, *given)

    monkeypatch.setattr(Stream, "push_audio", late)
    samples = measure(model, clip, 0.3, warm_up=0.0)
    assert max(medians(samples)[name] for name in ("detect", "face", "voice", "fusion")) < PAUSE
    assert min(samples.stages["step_tracked"]) >= PAUSE
    assert np.median(samples.overhead_tracked) > np.median(quick.overhead_tracked)


def test_the_warm_up_is_not_measured(model: Recognizer, clip: Path) -> None:
    graph = model.graphs["fusion"]
    assert isinstance(graph, CountingGraph)
    compute = graph.compute

    def warming(feeds: Mapping[str, Any]) -> dict[str, Any]:
        if not graph.rows:
            time.sleep(0.3)
        return compute(feeds)

    graph.compute = warming
    samples = measure(model, clip, 0.2, warm_up=1.5)
    assert len(samples.stages["fusion"]) < len(graph.rows)


def test_a_voice_alone(tmp_path: Path) -> None:
    tiny = Tiny(modalities=("voice",))
    model = fake_model(write_bundle(tmp_path / "tiny", tiny), tiny)
    sound = write_clip(tmp_path / "voice.wav", sound=Tiny(sample_rate=48000).voice("fear", 0.5))
    samples = measure(model, sound, 0.1, warm_up=0.0)
    assert set(samples.stages) == {"voice", "fusion", "step_tracked"}
    assert samples.overhead == [] and samples.overhead_tracked


def test_a_single_picture_is_a_hop(model: Recognizer, tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "face.png"), np.full((64, 128, 3), 90, np.uint8))
    samples = measure(model, tmp_path / "face.png", 0.1, warm_up=0.0)
    assert set(samples.stages) == {"detect", "face", "fusion", "step"}


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
        measure(model, tmp_path / source, 0.1, warm_up=0.0)


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
        measure(both, clip, 0.3, warm_up=0.0)
    assert "graph 'voice' failed in CUDA" in caplog.text


def test_a_source_without_a_hop(model: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing(list[Any]):
        modalities = ("face", "voice")

        def close(self) -> None:
            pass

    monkeypatch.setattr(measuring, "open_source", lambda path: Nothing())
    with pytest.raises(InputError, match=r"empty\.mkv: there is no hop in it to measure"):
        measure(model, Path("empty.mkv"), 0.1)


def test_shares_by_hand() -> None:
    samples = Samples()
    samples.add(0.020, {"detect": 0.010, "face": 0.004, "fusion": 0.001})
    samples.add(0.010, {"fusion": 0.002})
    assert samples.overhead == [pytest.approx(0.5)] and samples.overhead_tracked == [pytest.approx(0.8)]
    assert samples.stages == {
        "detect": [0.010],
        "face": [0.004],
        "fusion": [0.001, 0.002],
        "step": [0.020],
        "step_tracked": [0.010],
    }
