"""What the rules of the linter ask about a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from .trunk import QUANTISED, Trunk, member

MOVES = (
    "Concat",
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Pad",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
)
"""Operators that move numbers and compute none."""


@dataclass(frozen=True, slots=True)
class Side:
    """One input of a sum: the tensor that was computed, and whether it is rounded before the sum."""

    source: str
    rounded: bool


class View:
    """One graph: who writes and who reads a tensor, its type, where the trunk is.

    Args:
        model: with inferred types.
        trunk: prefix of the initialiser names of the trunk's weights, or a predicate on such a name.
    """

    def __init__(self, model: onnx.ModelProto, trunk: Trunk) -> None:
        self.model, self.graph = model, model.graph
        self.nodes = [node for node in self.graph.node if node.op_type != "Constant"]
        self.constants: dict[str, onnx.TensorProto] = {item.name: item for item in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
        self.writers = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        values = (*self.graph.value_info, *self.graph.input, *self.graph.output)
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}
        self.types.update({name: item.data_type for name, item in self.constants.items()})
        self.outputs = {value.name for value in self.graph.output}
        self.trunk = self._trunk(member(trunk))
        self.front = self._front()

    def _trunk(self, belongs: Callable[[str], bool]) -> set[str]:
        """The operators whose weight is in the trunk, by the tensor that each writes."""
        found = set()
        for node in self.nodes:
            if node.op_type in QUANTISED:
                weight = self.before(node.input[1])
                writer = self.writers.get(weight)
                stored = self.before(writer.input[0]) if writer and is_dequantiser(writer) else weight
                name = stored.removesuffix(".quantised").removesuffix(".half")
                if stored in self.constants and belongs(name):
                    found.add(node.output[0])
        return found

    def _front(self) -> set[str]:
        """What the trunk's operators need and do not write themselves, by the tensor that a node writes."""
        behind: set[str] = set()
        for node in self.nodes:
            if node.output[0] in self.trunk or behind.intersection(node.input):
                behind.update(node.output)
        ahead: set[str] = set()
        for node in reversed(self.nodes):
            if node.output[0] in self.trunk or ahead.intersection(node.output):
                ahead.update(node.input)
        return {
            node.output[0]
            for node in self.nodes
            if ahead.intersection(node.output) and not behind.intersection(node.output)
        }

    def array(self, name: str) -> NDArray[Any] | None:
        """The values of a constant, None for any other tensor."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def before(self, name: str) -> str:
        """The tensor that was moved to become this one, or itself."""
        writer = self.writers.get(name)
        while writer is not None and writer.op_type in MOVES:
            name = writer.input[0]
            writer = self.writers.get(name)
        return name

    def rounded(self, name: str) -> bool:
        """Whether a tensor comes from a DequantizeLinear, moved or not."""
        writer = self.writers.get(self.before(name))
        return writer is not None and is_dequantiser(writer)

    def quantised(self, node: onnx.NodeProto | None) -> bool:
        """Whether a node is an operator that could run in INT8 and reads a rounded tensor."""
        return node is not None and node.op_type in QUANTISED and any(map(self.rounded, node.input[:2]))

    def quantiser(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The quantiser straight before a dequantiser, None for any other node."""
        writer = self.writers.get(node.input[0]) if is_dequantiser(node) else None
        return writer if writer is not None and is_quantiser(writer) else None

    def steps(self) -> Iterator[tuple[onnx.NodeProto, int | None]]:
        """The nodes that say how steps are stored, each with the type of its steps.

        Those are the quantisers and what reads back constants. A dequantiser behind its quantiser is held to
        it by the rule of pairs, and an INT32 bias has a rule of its own.
        """
        for node in self.nodes:
            if is_quantiser(node) or (is_dequantiser(node) and self.quantiser(node) is None):
                kind = self.types.get(node.output[0] if is_quantiser(node) else node.input[0])
                if kind != TensorProto.INT32:
                    yield node, kind

    def same(self, first: str, second: str) -> bool:
        """Whether two constants hold the same."""
        one, other = self.array(first), self.array(second)
        return first == second or (one is not None and other is not None and np.array_equal(one, other))

    def side(self, name: str) -> Side:
        """One input of a sum: what was computed, and whether it is rounded on the way."""
        writer = self.writers.get(name)
        quantiser = self.quantiser(writer) if writer is not None else None
        return Side(name, False) if quantiser is None else Side(quantiser.input[0], True)

    def kept(self, name: str) -> bool:
        """Whether a tensor comes straight from an operator of the trunk that was left in FP16."""
        writer = self.writers.get(name)
        while writer is not None and writer.op_type == "Cast":
            writer = self.writers.get(writer.input[0])
        operator = writer if writer is not None and writer.output[0] in self.trunk else None
        return operator is not None and self.computes(operator, TensorProto.FLOAT16)

    def residual(self, node: onnx.NodeProto) -> bool:
        """Whether a node adds two computed tensors, one from a quantised operator, none from FP16."""
        if node.op_type != "Add" or set(node.input) & self.constants.keys():
            return False
        if any(map(self.kept, node.input)):
            return False
        return any(self.quantised(self.writers.get(self.side(name).source)) for name in node.input)

    def computes(self, node: onnx.NodeProto, *kinds: int) -> bool:
        """Whether a node writes one of the types."""
        return any(self.types.get(name) in kinds for name in node.output)

    def reads(self, node: onnx.NodeProto, *kinds: int) -> bool:
        """Whether a node reads a computed tensor, or an input, of one of the types."""
        return any(name not in self.constants and self.types.get(name) in kinds for name in node.input)


def is_quantiser(node: onnx.NodeProto) -> bool:
    """Whether a node rounds to steps."""
    return node.op_type == "QuantizeLinear"


def is_dequantiser(node: onnx.NodeProto) -> bool:
    """Whether a node reads steps back."""
    return node.op_type == "DequantizeLinear"
