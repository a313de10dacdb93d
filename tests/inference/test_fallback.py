from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeemo.errors import BackendError
from edgeemo.inference.fallback import FallbackGraph
from edgeemo.inference.graph import Graph, check_feeds
from edgeemo.inference.spec import GraphSpec, TensorSpec

SPEC = GraphSpec(
    "face",
    "append",
    1,
    {"face": TensorSpec("face", "uint8", ("N", 2, 2, 1))},
    {"tokens": TensorSpec("tokens", "float32", ("N", 1))},
    {},
)


class Engine:
    """Answers its number, and fails when it is told to."""

    def __init__(self, number: int) -> None:
        self.spec, self.encoding, self.engine = SPEC, f"int{number}", f"engine {number}"
        self.number = number
        self.fails: Exception | None = None
        self.closed = 0
        self.runs = 0

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        check_feeds(self.spec, feeds)
        if self.closed:
            raise BackendError("it was closed")
        self.runs += 1
        if self.fails:
            raise self.fails
        return {"tokens": np.full((len(feeds["face"]), 1), self.number, np.float32)}

    def close(self) -> None:
        self.closed += 1


FACE = {"face": np.zeros((1, 2, 2, 1), np.uint8)}


@pytest.fixture
def engines() -> tuple[Engine, Engine]:
    return Engine(1), Engine(2)


def value(graph: Graph, feeds: Mapping[str, NDArray[Any]] = FACE) -> float:
    return float(graph.run(feeds)["tokens"][0, 0])


def test_the_second_takes_over_and_nothing_is_lost(
    engines: tuple[Engine, Engine], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = engines
    graph = FallbackGraph(first, second, 16)
    assert (value(graph), graph.engine, graph.encoding) == (1, "engine 1", "int1")
    first.fails = BackendError("graph 'face' failed in CUDA: CUDA_ERROR_ILLEGAL_ADDRESS")
    assert [value(graph) for _ in range(3)] == [2, 2, 2]
    assert (graph.engine, graph.encoding, first.closed, first.runs) == ("engine 2", "int2", 1, 2)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, f"{first.fails}; engine 2 runs graph 'face' from now on")
    ]


@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"face": np.zeros((1, 2, 2, 1), np.float32)},
        {"face": np.zeros((1, 3, 2, 1), np.uint8)},
        {"face": np.zeros((5, 2, 2, 1), np.uint8)},
    ],
)
def test_wrong_feeds_are_no_fault_of_the_engine(
    feeds: dict[str, Any], engines: tuple[Engine, Engine]
) -> None:
    graph = FallbackGraph(*engines, 4)
    with pytest.raises(BackendError, match=r"graph 'face': (names|input|N is 5; it must be 1 to 4)"):
        graph.run(feeds)
    assert graph.engine == "engine 1" and not engines[0].closed


def test_where_both_fail_the_first_is_tried_again(engines: tuple[Engine, Engine]) -> None:
    first, second = engines
    graph = FallbackGraph(first, second, 16)
    first.fails, second.fails = BackendError("the first"), BackendError("the second")
    with pytest.raises(BackendError, match="the second"):
        graph.run(FACE)
    first.fails = None
    assert value(graph) == 1


def test_a_fault_of_ours_is_not_hidden(engines: tuple[Engine, Engine]) -> None:
    engines[0].fails = TypeError("a bug")
    with pytest.raises(TypeError, match="a bug"):
        FallbackGraph(*engines, 16).run(FACE)


@pytest.mark.parametrize("failed", [False, True])
def test_close(failed: bool, engines: tuple[Engine, Engine]) -> None:
    graph = FallbackGraph(*engines, 16)
    if failed:
        engines[0].fails = BackendError("it failed")
        graph.run(FACE)
    graph.close()
    assert [engine.closed for engine in engines] == [1, 1]
    with pytest.raises(BackendError, match="closed"):
        graph.run(FACE)
