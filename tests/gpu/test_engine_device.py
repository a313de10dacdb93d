"""The bundle's engines on the GPU at hand, against ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeemo.errors import BackendError
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.ort import OrtGraph
from edgeemo.inference.trt import TensorRt, TrtGraph
from edgeemo.inference.trt_builder import Built, Settings, build

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

# Largest difference from ONNX Runtime's answer to the same file, as a share of that answer's largest value.
# FP32 differs by the order of sums; INT8 by a rounding here and there, each a step of its range.
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "int8": 5e-2}
CASES = [(name, encoding) for name in ("face", "voice", "fusion") for encoding in TOLERANCE]


@pytest.fixture(scope="module")
def library() -> Iterator[TensorRt]:
    try:
        opened = TensorRt.open()
    except BackendError as error:
        pytest.skip(str(error))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def bundle(request: pytest.FixtureRequest) -> Bundle:
    folder: Path = request.getfixturevalue("default_bundle")
    return Bundle.read(folder)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def engine(
    request: pytest.FixtureRequest, library: TensorRt, bundle: Bundle
) -> Iterator[tuple[TrtGraph, Built]]:
    name, encoding = request.param
    spec = bundle.graphs[name]
    if encoding not in spec.files:
        pytest.skip(f"graph {name!r} has no {encoding} file")
    built = build(library, bundle.read_file(spec.files[encoding]), spec, Settings())
    graph = TrtGraph(built.plan, spec, library, encoding=encoding)
    yield graph, built
    graph.close()


def feeds_of(graph: TrtGraph, size: int) -> dict[str, Any]:
    chance = np.random.default_rng(size)
    feeds: dict[str, Any] = {}
    for tensor in graph.spec.inputs.values():
        shape = [axis if isinstance(axis, int) else size for axis in tensor.shape]
        if tensor.dtype == "uint8":
            feeds[tensor.name] = chance.integers(0, 256, shape, np.uint8)
        elif "mask" in tensor.name:
            feeds[tensor.name] = np.ones(shape, np.float32)
        else:
            feeds[tensor.name] = (0.3 * chance.standard_normal(shape)).astype(np.float32)
    return feeds


def test_answers(engine: tuple[TrtGraph, Built], bundle: Bundle) -> None:
    graph, _ = engine
    right = OrtGraph(bundle.read_file(graph.spec.files[graph.encoding]), graph.spec, encoding=graph.encoding)
    free = any(isinstance(axis, str) for tensor in graph.spec.inputs.values() for axis in tensor.shape)
    for size in (1, 3, 16, 1) if free else (1, 1):
        feeds = feeds_of(graph, size)
        given, wanted = graph.run(feeds), right.run(feeds)
        for name, value in wanted.items():
            difference = np.abs(given[name] - value).max() / max(float(np.abs(value).max()), 1e-6)
            assert difference < TOLERANCE[graph.encoding], f"{name} for N = {size}"


def test_quantised_operators_read_int8(
    engine: tuple[TrtGraph, Built], record_property: Callable[[str, object], None]
) -> None:
    graph, built = engine
    record_property(f"{graph.spec.name} {graph.encoding} typing", built.typing)
    assert bool(built.report.operators) == (graph.encoding == "int8")
    assert built.report.findings == ()


def test_a_step_takes_less_than_a_hop(
    engine: tuple[TrtGraph, Built], record_property: Callable[[str, object], None]
) -> None:
    graph, _ = engine
    feeds = feeds_of(graph, 1)
    taken = []
    for _ in range(50):
        start = time.perf_counter()
        graph.run(feeds)
        taken.append(time.perf_counter() - start)
    median = sorted(taken)[25]
    record_property(f"{graph.spec.name} {graph.encoding} ms", round(1e3 * median, 3))
    assert median < 0.1
