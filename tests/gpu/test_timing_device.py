"""Queries timed by events on the GPU at hand."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeemo.bench.gpu import LIKE, time_graph
from edgeemo.errors import BackendError
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.choice import example
from edgeemo.inference.cuda import Cuda
from edgeemo.inference.trt import TensorRt, TrtGraph
from edgeemo.inference.trt_builder import Settings, build

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def graph(request: pytest.FixtureRequest) -> Iterator[TrtGraph]:
    """The face graph in FP32."""
    folder: Path = request.getfixturevalue("default_bundle")
    bundle = Bundle.read(folder)
    try:
        library = TensorRt.open()
    except BackendError as error:
        pytest.skip(str(error))
    spec = bundle.graphs["face"]
    plan = build(library, bundle.read_file(spec.files["fp32"]), spec, Settings(most=1)).plan
    opened = TrtGraph(plan, spec, library, encoding="fp32", most=1)
    yield opened
    opened.close()
    library.close()


@pytest.mark.parametrize("blocking", [False, True])
def test_an_event_is_waited_for_either_way(cuda: Cuda, blocking: bool) -> None:
    pinned, memory = cuda.pin(32 * MEGABYTE), cuda.allocate(32 * MEGABYTE)
    start, end = (cuda.event(blocking=blocking) for _ in range(2))
    start.record()
    cuda.upload(memory, pinned, 32 * MEGABYTE)
    end.record()
    end.synchronize()
    assert 0.01 < cuda.elapsed(start, end) < 1000


@pytest.mark.parametrize("like", LIKE)
def test_a_graph_s_times(graph: TrtGraph, like: str, record_property: Callable[[str, object], None]) -> None:
    asked = LIKE[like]
    times = time_graph(graph, asked, seconds=0.5)
    record_property(f"face fp32 as {like}", str(times))
    assert times.states.spin_wait == asked.spin_wait
    assert times.states.transfers == (asked.transfers and not times.in_place)
    assert times.compute.min > 0 and times.enqueue.min > 0
    assert (times.h2d.min > 0) == (times.d2h.min > 0) == times.states.transfers
    # The GPU cannot compute longer than the host waits; events tell half a microsecond.
    assert times.total_compute < times.walltime


def test_queries_answer_as_runs_do(graph: TrtGraph) -> None:
    feeds = example(graph.spec)
    outputs = graph.run(feeds)
    right = outputs["tokens"].copy()
    for captured in (False, True):
        outputs["tokens"].fill(0)
        with graph.timed(feeds, captured=captured) as timing:
            next(timing.queries())
        assert abs(outputs["tokens"] - right).max() < 1e-4


def test_one_launch_takes_about_what_its_parts_take(graph: TrtGraph) -> None:
    with graph.timed(example(graph.spec)) as timing:
        parts = [one.latency for one in itertools.islice(timing.queries(), 200)]
        launches = list(itertools.islice(timing.launches(), 200))
    if not launches:
        pytest.skip("steps are not captured over this binding")
    assert 0.2 < statistics.median(launches) / statistics.median(parts) < 5
