from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeemo.errors import BackendError
from edgeemo.inference import choice
from edgeemo.inference.choice import Choice, Contest, decide, example, measure, recall, record
from edgeemo.inference.engines import EngineKey, EngineStore, Stored
from edgeemo.inference.graph import check_feeds
from edgeemo.inference.spec import GraphSpec, TensorSpec

SPEC = GraphSpec(
    "face",
    "append",
    1,
    {"face": TensorSpec("face", "uint8", ("N", 8, 8, 1)), "mask": TensorSpec("mask", "float32", ("N", 5))},
    {},
    {},
)
KEY = EngineKey("tiny", "face", "ab", "int8", {}, "10.3.0", 12, "8.7", "Orin", {})
CONTEST = Contest(KEY, "1.23.2", "cd", 1)


class Clock:
    """Seconds that go by only while a graph runs."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """A graph whose calls take the given seconds, the last one for ever."""

    spec, encoding, engine = SPEC, "int8", "a fake"

    def __init__(self, clock: Clock, seconds: list[float]) -> None:
        self.clock, self.seconds, self.calls = clock, seconds, 0

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        check_feeds(self.spec, feeds)
        self.clock.now += self.seconds[min(self.calls, len(self.seconds) - 1)]
        self.calls += 1
        return {}

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("tensorrt", "onnx", "winner"),
    [
        (1.0, 2.0, "tensorrt"),
        (2.0, 1.0, "onnx"),
        (1.0, 1.0, "onnx"),
        (0.96, 1.0, "onnx"),
        (0.94, 1.0, "tensorrt"),
    ],
)
def test_the_faster_one_wins_and_a_tie_is_onnx_runtimes(tensorrt: float, onnx: float, winner: str) -> None:
    assert Choice(tensorrt, onnx).winner == winner


def test_the_median_after_the_warm_up_is_taken() -> None:
    clock = Clock()
    slow_start = Timed(clock, [5.0, 1.0, 1.0, 1.0, 1.0, 0.002, 0.3, 0.002])  # one call of 0.3 s is no median
    steady = Timed(clock, [0.004])
    assert measure(slow_start, steady, clock) == Choice(pytest.approx(2.0), pytest.approx(4.0))


@pytest.mark.parametrize(
    ("seconds", "calls"), [(0.00001, choice._WARM_UP + choice._MOST), (1.0, choice._WARM_UP + choice._LEAST)]
)
def test_measuring_ends(seconds: float, calls: int) -> None:
    clock = Clock()
    graph = Timed(clock, [seconds])
    measure(graph, Timed(clock, [seconds]), clock)
    assert graph.calls == calls


def test_a_graph_that_fails_is_not_measured() -> None:
    class Broken(Timed):
        def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            raise BackendError("it failed")

    with pytest.raises(BackendError, match="it failed"):
        measure(Broken(Clock(), [1.0]), Timed(Clock(), [1.0]))


def test_an_example_fits_and_is_no_zeros() -> None:
    feeds = example(SPEC)
    check_feeds(SPEC, feeds)
    assert all(len(np.unique(values)) > 4 for values in feeds.values())


def test_an_example_of_a_text_is_of_tokens_that_every_vocabulary_has() -> None:
    text = TensorSpec("text", "int32", (1, 40))
    spec = GraphSpec("text", "replace", 1, {"text": text}, {}, {})
    feeds = example(spec)
    check_feeds(spec, feeds)
    assert set(feeds["text"].ravel().tolist()) == {1}


# --- what was measured is remembered


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    store = EngineStore(tmp_path / "engines")
    with store.locked(lambda: None):
        record(store, CONTEST, Choice(1.5, 2.5))
    return store


def test_a_measurement_is_recalled(store: EngineStore) -> None:
    assert recall(store, CONTEST) == Choice(1.5, 2.5)


@pytest.mark.parametrize(
    "changed",
    [
        {"key": replace(KEY, tensorrt="10.7.0")},
        {"key": replace(KEY, device="Thor")},
        {"onnxruntime": "1.24.0"},
        {"model": "ef"},
        {"threads": 2},
    ],
)
def test_a_measurement_holds_for_what_was_measured(changed: dict[str, Any], store: EngineStore) -> None:
    assert recall(store, replace(CONTEST, **changed)) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"tensorrt": 1.5}',
        b'{"tensorrt": 1.5, "onnx": "2.5"}',
        b'{"tensorrt": 1.5, "onnx": NaN}',
        b'{"tensorrt": 1.5, "onnx": 0.0}',
        b'{"tensorrt": -1.5, "onnx": 2.5}',
        b"[" * 100_000,
    ],
)
def test_what_cannot_be_a_measurement_is_measured_again(content: bytes, store: EngineStore) -> None:
    assert store.place is not None
    (store.place / CONTEST.name).write_bytes(content)
    assert recall(store, CONTEST) is None


def test_the_record_says_what_it_is_of(store: EngineStore) -> None:
    assert json.loads(store.read(CONTEST.name)) == {
        "tensorrt": 1.5,
        "onnx": 2.5,
        "onnxruntime": "1.23.2",
        "threads": 1,
    }


def test_a_measurement_lies_beside_an_engine_alone(tmp_path: Path) -> None:
    """Where that had no room, it would be left over."""
    store = EngineStore(tmp_path / "engines")
    clock = Clock()
    graphs = Timed(clock, [0.1]), Timed(clock, [0.1])
    assert isinstance(decide(store, CONTEST, *graphs, lambda: None), Choice)
    assert recall(store, CONTEST) is None
    with store.locked(lambda: None):
        store.publish(Stored(KEY, b"a plan", {}))
    assert decide(store, CONTEST, *graphs, lambda: None) == recall(store, CONTEST)


def test_nothing_is_recalled_without_a_folder() -> None:
    assert recall(EngineStore(None), CONTEST) is None
