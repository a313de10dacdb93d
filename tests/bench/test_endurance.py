"""A stream's cost over its life, under a clock that the test moves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeemo.bench import endurance
from edgeemo.bench.endurance import Endurance, Ratio, endure
from edgeemo.errors import CheckFailed, InputError
from edgeemo.recognition.recognizer import Recognizer, load
from edgeemo.recognition.stream import Stream
from tests.capture.media import write_clip
from tests.recognition.fakes import fake_model
from tests.support.tiny import Tiny, write_bundle


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sound = Tiny(sample_rate=48000).voice("happiness", 1.0)
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mkv", sound=sound)


@pytest.fixture
def model(tmp_path: Path) -> Recognizer:
    tiny = Tiny(modalities=("voice",))
    return fake_model(write_bundle(tmp_path / "tiny", tiny), tiny)


Lived = Callable[..., Endurance]


@pytest.fixture
def lived(model: Recognizer, clip: Path, monkeypatch: pytest.MonkeyPatch) -> Lived:
    """Live under a clock by which a poll takes `cost(hop, turn)` milliseconds, and a graph a millisecond."""

    def live(cost: Callable[[int, int], float], age: float = 200.0, **options: Any) -> Endurance:
        now, turn = 0.0, 0
        poll = Stream.poll

        def slow(stream: Stream) -> Any:
            nonlocal now, turn
            now += 1e-3 * cost(stream._due, turn)
            turn += 1
            return poll(stream)

        for graph in model.graphs.values():
            compute = graph.compute  # type: ignore[attr-defined]

            def slower(feeds: Any, compute: Any = compute) -> Any:
                nonlocal now
                now += 1e-3
                return compute(feeds)

            graph.compute = slower  # type: ignore[attr-defined]
        monkeypatch.setattr(Stream, "poll", slow)
        return endure(model, clip, age, ages=(60.0,), clock=lambda: now, **options)

    return live


def test_a_cost_that_does_not_change_is_flat(lived: Lived) -> None:
    passed: list[float] = []
    found = lived(lambda hop, turn: 2.0, progress=passed.append)
    assert found.verdict == "flat"
    assert [age.age for age in found.ages] == pytest.approx([60.0, 200.0])
    for age in found.ages:
        assert (age.step.old, age.step.young) == (4.0, 4.0)  # voice and fusion, and what is around them
        assert (age.update.old, age.update.value) == (2.0, pytest.approx(1.0))
        assert age.step.value == age.step.low == age.step.high == pytest.approx(1.0)
    assert passed == pytest.approx([60.0, 124.0, 184.0, 200.0])
    assert "the cost is flat: within 5%" in str(found)
    found.check()
    assert json.loads(json.dumps(found.to_dict()))["verdict"] == "flat"


def test_a_cost_that_grows_with_the_stream_is_found(lived: Lived) -> None:
    found = lived(lambda hop, turn: 2.0 if hop < 1500 else 2.3)
    assert [age.step.verdict for age in found.ages] == ["flat", "grows"]
    assert found.ages[1].step.value == pytest.approx(4.3 / 4.0)
    assert found.ages[1].update.verdict == "flat"
    assert found.verdict == "grows" and "grows by more than 5%" in str(found)
    with pytest.raises(CheckFailed, match=r"a stream of 200 s pays 1\.075 times .* for the same step"):
        found.check()


def test_a_machine_that_becomes_slower_is_not_blamed_on_the_stream(lived: Lived) -> None:
    assert lived(lambda hop, turn: 2.0 + turn / 1000).verdict == "flat"


def test_the_streams_get_the_same_pictures_and_sound_at_every_age(lived: Lived) -> None:
    found = lived(lambda hop, turn: 1.0 + hop % 10, age=200.3)  # a reel of ten hops, of unequal cost
    assert found.ages[1].age == pytest.approx(200.3)
    assert found.ages[1].step.low == found.ages[1].step.high == pytest.approx(1.0)


def test_noise_is_measured_for_longer_and_then_said_to_be_open(
    lived: Lived, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endurance, "_MOST_ROUNDS", 8)
    draw = np.random.default_rng(0)
    found = lived(lambda hop, turn: float(draw.uniform(0.0, 20.0)))
    assert found.verdict == "open" and "not clear" in str(found)
    assert all(age.hops == 8 * 10 for age in found.ages)


def test_an_age_below_that_of_the_young_one(model: Recognizer, clip: Path) -> None:
    for age in (59.0, float("nan")):
        with pytest.raises(InputError, match=r"age: .* at least 60 s"):
            endure(model, clip, age)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.9, 1.05, "flat"),
        (1.06, 1.2, "grows"),
        (1.0, 1.1, "open"),
        (None, None, "open"),
        (1.04, None, "open"),
    ],
)
def test_a_verdict_is_given_where_the_interval_allows_one(
    low: float | None, high: float | None, verdict: str
) -> None:
    assert Ratio(1.0, low, high, 1.0, 1.0).verdict == verdict


@pytest.mark.slow
def test_ten_hours_of_the_runtime_cost_no_more_an_hour_than_a_minute(tmp_path: Path, clip: Path) -> None:
    """Tiny graphs, so that what is measured is all that is around them, over 360,000 hops."""
    folder = write_bundle(tmp_path / "tiny", Tiny(modalities=("voice",)))
    with load(folder, backend="onnx") as model:
        found = endure(model, clip, 36_000.0)
    assert found.hops >= 360_000
    assert found.verdict != "grows", str(found)
    assert found.allocations.kept < 100, str(found)
    if found.growth is not None:
        assert found.growth.per_hour < 0.5, str(found)
