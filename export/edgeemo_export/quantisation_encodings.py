"""Do the two INT8 encodings of a bundle agree: answers and numbers of both on the same real windows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edgeemo.errors import InputError
from edgeemo.inference.backend import open_graphs
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.graph import Graph
from edgeemo.inference.ort import import_onnxruntime
from edgeemo.recognition.fusion import Fusion
from edgeemo.recognition.ring import TokenRing
from edgeemo_calibration.view import View, is_dequantiser, is_quantiser

from .data import ferplus, sounds, voices

WINDOWS = 500  # of each modality
STEPS = 127  # S8 clips above these, U8 with zero point 0 goes on to 255
CALLS = 200  # of a variant, of which the median is its latency
Array = NDArray[Any]


@dataclass(frozen=True)
class Variant:
    """One way to store the steps of a graph.

    Attributes:
        name: as the page shows it.
        file: the bundle's file that it comes from, ``'int8'`` or ``'int8-cpu'``.
        steps: the type and zero point of the activations, where they are not those of the file.
    """

    name: str
    file: str
    steps: tuple[type, int] | None = None


TENSORRT = Variant("TensorRT's file", "int8")
CPU = Variant("the CPU's file", "int8-cpu")
ALL_ROUNDED = Variant("the CPU's file with S8 steps", "int8-cpu", (np.int8, 0))
NONE_ROUNDED = Variant("TensorRT's file with U8 steps, zero point 128", "int8", (np.uint8, 128))
CLIPPED = Variant("the CPU's file with zero point 128 throughout", "int8-cpu", (np.uint8, 128))
VARIANTS = (TENSORRT, CPU, ALL_ROUNDED, NONE_ROUNDED, CLIPPED)

PAIRS = (
    (TENSORRT, CPU, False),
    (TENSORRT, CPU, True),
    (ALL_ROUNDED, CPU, False),
    (ALL_ROUNDED, CPU, True),
    (TENSORRT, NONE_ROUNDED, False),
    (TENSORRT, NONE_ROUNDED, True),
)
"""What is compared, and whether ONNX Runtime optimises the graphs."""


@dataclass(frozen=True)
class Agreement:
    """Two variants on the same windows.

    Attributes:
        windows: their number.
        labels: share of them with equal labels.
        equal: share of them of which all numbers that leave the trunk are equal.
        largest: difference of a number that leaves the trunk, in steps of the trunk's last quantiser.
        within: share of the numbers that differ by one step at most.
    """

    windows: int
    labels: float
    equal: float
    largest: float
    within: float


@dataclass(frozen=True)
class Encodings:
    """How the variants of one graph compare.

    Attributes:
        graph: ``'face'`` or ``'voice'``.
        saturated: share of the windows in which the CPU's file holds a number beyond 127 steps.
        pairs: of each of `PAIRS` all windows, and those that do not saturate; None where all do.
        optimised: the CPU's file without optimisations and with them, likewise.
        milliseconds: median latency of a window, of each of `VARIANTS`, optimised, one thread.
    """

    graph: str
    saturated: float
    pairs: Sequence[tuple[Agreement, Agreement | None]]
    optimised: tuple[Agreement, Agreement | None]
    milliseconds: Sequence[float]


def windows(data: Path, name: str, count: int = WINDOWS, seed: int = 0) -> Iterator[dict[str, Array]]:
    """Pictures of FER+ valid under the majority protocol, or contexts of test speakers, one of a clip.

    Args:
        data: the corpora.
        name: ``'face'`` or ``'voice'``.
        count: of them.
        seed: of the draw.
    """
    draw = np.random.default_rng(seed)
    if name == "face":
        faces = ferplus.read(data / "ferplus", "test")
        for row in draw.permutation(np.flatnonzero(faces.majority >= 0))[:count]:
            yield {"face": faces.images[row][None, :, :, None]}
        return
    clips = voices.read(data, "test")
    for row in draw.permutation(len(clips))[:count]:
        heard = sounds.contexts(sounds.load(clips[row].path))
        yield {"voice": heard[int(draw.integers(len(heard)))][None].numpy()}


def compare(bundle: Bundle, name: str, feeds: Sequence[Mapping[str, Array]]) -> Encodings:
    """Run the variants of one graph over the same windows.

    Args:
        bundle: with both encodings of the graph.
        name: ``'face'`` or ``'voice'``.
        feeds: what the graph reads, one window each.

    Raises:
        InputError: the bundle has not both encodings of the graph.
    """
    files = bundle.graphs[name].files
    if not {"int8", "int8-cpu"} <= files.keys():
        raise InputError(
            f"bundle {bundle.path}: graph {name!r} has {', '.join(files)}; int8 and int8-cpu are compared"
        )
    models = {variant: stored(bundle, name, variant) for variant in VARIANTS}
    trunk = leaving(models[CPU])
    label = labeller(bundle, name)
    answers: dict[tuple[Variant, bool], tuple[Array, Array]] = {}
    for variant, optimised in [*((v, o) for a, b, o in PAIRS for v in (a, b)), (CPU, False), (CPU, True)]:
        if (variant, optimised) not in answers:
            session = _session(models[variant], [trunk.tensor], optimised=optimised)
            found = [session.run(["tokens", trunk.tensor], dict(feed)) for feed in feeds]
            labels = np.array([label(tokens) for tokens, _ in found])
            answers[variant, optimised] = labels, np.stack([values.ravel() for _, values in found])
    clean = ~saturates(models[CPU], feeds)

    def both(first: tuple[Variant, bool], second: tuple[Variant, bool]) -> tuple[Agreement, Agreement | None]:
        everything = _agreement(answers[first], answers[second], trunk.step, np.ones_like(clean))
        return everything, _agreement(
            answers[first], answers[second], trunk.step, clean
        ) if clean.any() else None

    return Encodings(
        name,
        float(1.0 - clean.mean()),
        [both((one, optimised), (other, optimised)) for one, other, optimised in PAIRS],
        both((CPU, False), (CPU, True)),
        _latencies([models[variant] for variant in VARIANTS], feeds[0]),
    )


def _agreement(
    first: tuple[Array, Array], second: tuple[Array, Array], step: float, rows: NDArray[np.bool_]
) -> Agreement:
    differences = np.abs(first[1][rows] - second[1][rows]) / step
    return Agreement(
        windows=int(rows.sum()),
        labels=float((first[0][rows] == second[0][rows]).mean()),
        equal=float((differences == 0.0).all(axis=1).mean()),
        largest=float(differences.max()),
        within=float((differences <= 1.0).mean()),
    )


def stored(bundle: Bundle, name: str, variant: Variant) -> onnx.ModelProto:
    """The graph as a variant stores it: the same scales and weights, other steps of the activations."""
    model = onnx.load_model_from_string(bundle.read_file(bundle.graphs[name].files[variant.file]))
    if variant.steps is not None:
        kind, zero = variant.steps
        points = {node.input[2] for node in model.graph.node if is_quantiser(node)}
        for tensor in model.graph.initializer:
            if tensor.name in points:
                tensor.CopyFrom(numpy_helper.from_array(np.array(zero, kind), tensor.name))
    return model


@dataclass(frozen=True)
class Leaving:
    """The tensor that a trunk ends in, and the step of its last quantiser."""

    tensor: str
    step: float


def leaving(model: onnx.ModelProto) -> Leaving:
    """Follow the last operator in INT8 of the CPU's encoding up to what the head reads.

    Raises:
        InputError: the graph has no such operator, or its result is not rounded.
    """
    view = View(model, "trunk.")
    # A head that reads a rounded trunk has its weights, or the shares of a pooling, in floating point.
    last = [node for node in view.nodes if view.quantised(node) and all(map(view.rounded, node.input[:2]))]
    if not last:
        raise InputError(f"graph {model.graph.name!r}: no operator of it runs in INT8")
    tensor, name, step = last[-1].output[0], last[-1].output[0], None
    while len(readers := view.readers.get(name, [])) == 1:
        (node,) = readers
        if node.op_type in ("Add", "Relu"):
            tensor = node.output[0]
        elif is_quantiser(node):
            scale = view.array(node.input[1])
            assert scale is not None
            step = float(scale)
        elif not is_dequantiser(node):
            break
        name = node.output[0]
    if step is None:
        raise InputError(f"graph {model.graph.name!r}: the result of {last[-1].output[0]!r} is not rounded")
    return Leaving(tensor, step)


def saturates(model: onnx.ModelProto, feeds: Sequence[Mapping[str, Array]]) -> NDArray[np.bool_]:
    """In which windows a U8 encoding holds a number beyond the steps that S8 has, ``[n]``."""
    view = View(model, "trunk.")
    further = [
        node.output[0] for node in filter(is_quantiser, view.nodes) if not np.any(view.array(node.input[2]))
    ]
    session = _session(model, further, optimised=False)
    return np.array(
        [any((steps > STEPS).any() for steps in session.run(further, dict(feed))) for feed in feeds]
    )


def labeller(bundle: Bundle, name: str) -> Callable[[NDArray[np.float32]], int]:
    """What the bundle answers when one token of one modality is all that it has."""
    graphs: dict[str, Graph] = open_graphs(bundle, "onnx", "fp32")
    rings = {
        modality: TokenRing(1, bundle.slots, int(bundle.graphs[modality].outputs["tokens"].shape[-1]))
        for modality in bundle.modalities
    }
    fusion = Fusion(bundle, graphs["fusion"], rings)

    def label(tokens: NDArray[np.float32]) -> int:
        rings[name].append([0], tokens)
        probabilities = fusion.answer(0.0, [], 0, [()])[0].probabilities
        assert probabilities is not None
        return int(np.argmax([probabilities[one] for one in bundle.labels]))

    return label


def _session(model: onnx.ModelProto, more: Sequence[str], *, optimised: bool) -> Any:
    """A session on one thread that answers some inner tensors too."""
    onnxruntime = import_onnxruntime()
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    typed = onnx.shape_inference.infer_shapes(probed)
    kinds = {value.name: value.type.tensor_type.elem_type for value in typed.graph.value_info}
    probed.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), None) for name in more
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        probed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _latencies(models: Sequence[onnx.ModelProto], feed: Mapping[str, Array]) -> list[float]:
    """Median milliseconds of a call of each graph; they take turns, so that load is unfair to none."""
    sessions = [_session(model, [], optimised=True) for model in models]
    times = np.empty((CALLS, len(sessions)))
    for call in range(CALLS):
        for place, session in enumerate(sessions):
            began = time.perf_counter()
            session.run(["tokens"], dict(feed))
            times[call, place] = time.perf_counter() - began
    return [float(value) for value in np.median(times, axis=0) * 1000.0]
