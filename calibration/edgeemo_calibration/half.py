"""One FP16 graph for TensorRT: the trunk's sums of products in half precision, everything else in FP32.

FP16 ends at 65504 and loses digits below 6e-5. A front end leaves that range (a full-scale power spectrum
of 512 points reaches 262144); a mask of 1e9 is beyond it, an epsilon of 1e-8 is zero in it, a variance taken
as E[x^2] - E[x]^2 is mostly rounding, and a softmax or a root adds its own. So it is not guessed what would
survive: FP16 are the convolutions and matrix products whose weight is in the trunk, where nearly all of the
time goes, and the ReLUs and additions between them. The rest, pooling and heads with it, costs next to
nothing in FP32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeemo.errors import InputError

from .model import check_model, read_model
from .trunk import QUANTISED, Trunk, member, plan

ALONG = ("Relu", "Add")
"""What is computed in FP16 between operators of the trunk."""


def write_half(model: str | Path, folder: str | Path, name: str, *, trunk: Trunk = "trunk.") -> Path:
    """Write ``NAME.fp16.onnx`` from an FP32 file.

    Args:
        model: the FP32 ONNX file.
        folder: where to write.
        name: of the graph, the first part of the file's name.
        trunk: prefix of the initialiser names of what becomes FP16, or a predicate on such a name.

    Returns:
        the path of the file.

    Raises:
        InputError: the file cannot be read, no operator belongs to the trunk, or one of the trunk's weights
            does not fit FP16.
    """
    source, _ = read_model(model)
    path = Path(folder) / f"{name}.fp16.onnx"
    onnx.save_model(halve(source, trunk), path)
    return path


def halve(model: onnx.ModelProto, trunk: Trunk = "trunk.") -> onnx.ModelProto:
    """Cast the trunk of an FP32 graph to FP16.

    Inputs and outputs keep their names, types and shapes. A tensor is cast once, whoever reads it, and only
    where FP32 meets FP16. The exporter's notes on nodes are left out.

    Raises:
        InputError: no operator belongs to the trunk, or one of its weights does not fit FP16.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    operators, _ = plan(result.graph, trunk)
    if not operators:
        raise InputError(f"no constant weight of a {'/'.join(QUANTISED)} is in the trunk {trunk!r}")
    cast(result.graph, operators, trunk)
    check_model(result, f"FP16 cast of {model.graph.name!r}")
    return result


def cast(graph: onnx.GraphProto, operators: Collection[str], trunk: Trunk = "trunk.") -> None:
    """Cast operators of a graph, and what lies between them, to FP16 in place.

    Args:
        graph: FP32, but for Q and DQ beside other operators than these.
        operators: by the tensor that each writes.
        trunk: prefix of the names of the constants that may become FP16, or a predicate on such a name.

    Raises:
        InputError: a weight does not fit FP16.
    """
    _Writer(graph, _along(graph, operators, trunk)).write()


def _along(graph: onnx.GraphProto, operators: Collection[str], trunk: Trunk) -> set[str]:
    """What is computed in FP16, by the tensor that each node writes.

    Those are the operators, then every ReLU and addition that reads nothing but what these write and
    constants of the trunk.
    """
    belongs = member(trunk)
    constants = {tensor.name for tensor in graph.initializer}
    chosen: set[str] = set()
    for node in graph.node:
        follows = node.op_type in ALONG and all(
            belongs(name) if name in constants else name in chosen for name in node.input
        )
        if node.output[0] in operators or follows:
            chosen.add(node.output[0])
    return chosen


class _Writer:
    """Rewrites one graph in place."""

    def __init__(self, graph: onnx.GraphProto, chosen: set[str]) -> None:
        self.graph, self.chosen = graph, chosen
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        halves, floats = (
            {
                name
                for node in graph.node
                if (node.output[0] in chosen) is wanted
                for name in node.input
                if name  # an optional input that is left out has no name
            }
            for wanted in (True, False)
        )
        self.read_half, self.read_float = halves, floats | self.outputs

    def write(self) -> None:
        """Cast where FP32 meets FP16, and store the constants that FP16 nodes read in FP16."""
        nodes = list(self._casts(value.name for value in self.graph.input))
        for old in self.graph.node:
            nodes.append(self._retyped(old))
            nodes += self._casts(old.output)
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        del self.graph.value_info[:]  # says what was FP32
        kept = [tensor for tensor in self.constants.values() if tensor.name in self.read_float]
        kept += [_halved(self.constants[name], self._half(name)) for name in self._constants()]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _constants(self) -> list[str]:
        return [name for name in self.constants if name in self.read_half]

    def _retyped(self, old: onnx.NodeProto) -> onnx.NodeProto:
        node = onnx.NodeProto()
        node.CopyFrom(old)
        del node.metadata_props[:]
        half = old.output[0] in self.chosen
        for place, name in enumerate(old.input):
            if name:
                node.input[place] = self._half(name) if half else self._float(name)
        if half:
            node.output[0] = self._half(old.output[0])
        return node

    def _casts(self, names: Iterable[str]) -> list[onnx.NodeProto]:
        """The cast of each of these tensors that is read in the precision it is not computed in."""
        casts = []
        for name in names:
            half, whole = self._half(name), self._float(name)
            if name in self.chosen and name in self.read_float:
                casts.append(helper.make_node("Cast", [half], [whole], f"{whole}.cast", to=TensorProto.FLOAT))
            if name not in self.chosen and name in self.read_half:
                casts.append(
                    helper.make_node("Cast", [whole], [half], f"{half}.cast", to=TensorProto.FLOAT16)
                )
        return casts

    def _half(self, name: str) -> str:
        """What a tensor is called in FP16: as before, unless that is taken in FP32."""
        if name in self.chosen:
            return f"{name}.half" if name in self.outputs else name
        computed = name not in self.constants
        return f"{name}.half" if computed or name in self.read_float else name

    def _float(self, name: str) -> str:
        """What a tensor is called in FP32."""
        return f"{name}.float" if name in self.chosen and name not in self.outputs else name


def _halved(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    largest, limit = float(np.abs(values).max(initial=0.0)), float(np.finfo(np.float16).max)
    if not largest <= limit:
        raise InputError(f"weight {tensor.name!r} reaches {largest:g}; FP16 holds at most {limit:g}")
    return numpy_helper.from_array(values.astype(np.float16), name)
