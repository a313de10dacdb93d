"""Whether the two INT8 encodings of a bundle say the same to the same windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeemo.inference.bundle import Bundle
from edgeemo.inference.graph import Graph
from edgeemo.inference.ort import open_session

from .encode import CPU, TENSORRT
from .table import STEPS
from .windows import Feeds

Steps = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class EncodingAgreement:
    """The S8 and the U8 encoding of one graph, both run by ONNX Runtime.

    Attributes:
        graph: its name.
        windows: that both were given.
        labels: share of the windows with the same label, each judged alone by the fusion.
        worst: largest difference where the trunk ends, in steps of its quantiser there.
        within: share of the values there that are equal or next to each other.
        clear: windows in which no step of the U8 encoding lies where S8 would clip it, or is clipped itself.
        clear_worst: largest difference in those, in steps; None without any.
    """

    graph: str
    windows: int
    labels: float
    worst: int
    within: float
    clear: int
    clear_worst: int | None


def compare(
    bundle: Bundle, windows: Mapping[str, Sequence[Feeds]], fusion: Graph
) -> tuple[EncodingAgreement, ...]:
    """Run both encodings of each graph that has them on its windows.

    What is compared lies where the trunk ends, since what comes behind it is in floating point: steps of the
    U8 encoding with the values of the S8 encoding rounded to the same steps, for it leaves them unrounded.

    Args:
        bundle: the bundle.
        windows: by graph.
        fusion: the opened fusion graph, which judges what tokens say.

    Raises:
        BundleError: a file is not what the manifest says, or ONNX Runtime cannot open it.
        BackendError: the fusion failed.
    """
    found = []
    for name, given in windows.items():
        files = bundle.graphs[name].files
        if given and {TENSORRT.suffix, CPU.suffix} <= files.keys():
            s8 = onnx.load_model_from_string(bundle.read_file(files[TENSORRT.suffix]))
            u8 = onnx.load_model_from_string(bundle.read_file(files[CPU.suffix]))
            pair = _Pair(name, s8, u8)
            found.append(_measured(name, [pair.run(feeds) for feeds in given], fusion))
    return tuple(found)


@dataclass(frozen=True)
class _Window:
    """What both made of one window: tokens of each, steps where the trunk ends, and whether one saturates."""

    tokens: tuple[NDArray[np.float32], NDArray[np.float32]]
    apart: Steps
    saturates: bool


class _Pair:
    """Both encodings, opened so that they show where their trunk ends."""

    def __init__(self, name: str, s8: onnx.ModelProto, u8: onnx.ModelProto) -> None:
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in u8.graph.initializer}
        quantisers = [node for node in u8.graph.node if node.op_type == "QuantizeLinear"]
        self.zeros = {node.output[0]: int(constants[node.input[2]]) for node in quantisers}
        last = list(_last_quantisers(u8.graph))
        self.ends = {node.output[0]: constants[node.input[1]] for node in last}
        written = {output for node in s8.graph.node for output in node.output}
        # A graph that ends in its trunk writes its outputs under their own names.
        names = [node.input[0] for node in last]
        self.reals = [name if name in written else name.removesuffix(".float") for name in names]
        self.s8 = open_session(_showing(s8, self.reals), f"{name}, {TENSORRT.suffix}")
        self.u8 = open_session(_showing(u8, list(self.zeros)), f"{name}, {CPU.suffix}")

    def run(self, feeds: Feeds) -> _Window:
        """Both on one window."""
        first, *reals = self.s8.run(["tokens", *self.reals], feeds)
        second, *shown = self.u8.run(["tokens", *self.zeros], feeds)
        steps = {
            name: stored.astype(np.int32) - zero
            for (name, zero), stored in zip(self.zeros.items(), shown, strict=True)
        }
        apart = []
        for real, (name, scale) in zip(reals, self.ends.items(), strict=True):
            ours = np.rint(real / scale).clip(-self.zeros[name], 255 - self.zeros[name]).astype(np.int32)
            apart.append(np.abs(steps[name] - ours).ravel())
        full = any(saturated(values, self.zeros[name]) for name, values in steps.items())
        return _Window((first, second), np.concatenate(apart), full)


def saturated(steps: Steps, zero: int) -> bool:
    """Whether a tensor of the U8 encoding leaves what both encodings hold.

    Args:
        steps: of the tensor, less its zero point.
        zero: the zero point; from 0 on U8 holds what S8 clips, with 128 both have the same ends.
    """
    if zero == 0:
        return bool((steps > STEPS).any())
    return bool(((steps <= -zero) | (steps >= 255 - zero)).any())


def _last_quantisers(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The quantisers from which no other is reached."""
    behind: set[str] = set()  # tensors from which a quantiser is reached
    for node in reversed(graph.node):
        if node.op_type == "QuantizeLinear" and behind.isdisjoint(node.output):
            yield node
        if node.op_type == "QuantizeLinear" or not behind.isdisjoint(node.output):
            behind.update(node.input)


def _showing(model: onnx.ModelProto, names: Sequence[str]) -> bytes:
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    content: bytes = model.SerializeToString()
    return content


def _measured(name: str, windows: Sequence[_Window], fusion: Graph) -> EncodingAgreement:
    labels = [[_labels(tokens, name, fusion) for tokens in window.tokens] for window in windows]
    clear = [window.apart for window in windows if not window.saturates]
    return EncodingAgreement(
        graph=name,
        windows=len(windows),
        labels=float(np.mean([first == second for first, second in labels])),
        worst=int(max(window.apart.max() for window in windows)),
        within=float(np.mean(np.concatenate([window.apart for window in windows]) <= 1)),
        clear=len(clear),
        clear_worst=int(max(apart.max() for apart in clear)) if clear else None,
    )


def _labels(tokens: NDArray[np.float32], name: str, fusion: Graph) -> list[int]:
    """What the fusion answers to the tokens of one window alone: to each face, or to one voice or text."""
    slots = int(fusion.spec.inputs[f"{name}_mask"].shape[1])
    rows = [tokens] if len(tokens) == slots else [row[None] for row in tokens]
    return [int(fusion.run(_alone(fusion, name, row))["logits"].argmax()) for row in rows]


def _alone(fusion: Graph, name: str, tokens: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Feeds in which the newest slots of one modality hold the tokens, and all others are masked."""
    feeds: dict[str, NDArray[Any]] = {
        key: np.zeros([axis if isinstance(axis, int) else 1 for axis in spec.shape], np.float32)
        for key, spec in fusion.spec.inputs.items()
    }
    feeds[f"{name}_tokens"][0, -len(tokens) :] = tokens
    feeds[f"{name}_mask"][0, -len(tokens) :] = 1.0
    return feeds
