"""Whether TensorRT 10.3 and 11 take a graph as a strongly typed network, and run it as it is meant.

A strongly typed network computes every layer in the types that the graph says, so what is written is what
runs: a scale that is not FP32, a pair of Q and DQ on the wrong side of a sum or a front end in FP16 costs
speed or digits without a word. The rules are data, `RULES`; each looks at the whole graph and names nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from .half import ALONG
from .model import NEWEST_IR, OPSETS
from .operators import TENSORRT_10_3
from .trunk import QUANTISED, Trunk, attribute
from .view import MOVES, View, is_dequantiser, is_quantiser

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
INT8, UINT8 = TensorProto.INT8, TensorProto.UINT8
INTEGERS = (TensorProto.INT32, TensorProto.INT64)


@dataclass(frozen=True, slots=True)
class Finding:
    """What TensorRT would refuse, or run otherwise than it is meant.

    Args:
        rule: a key of `RULES`, or 'valid' where ONNX itself refuses the graph.
        node: the first tensor that the node writes, or the graph's input or output; empty for the whole file.
        wrong: what is wrong.
        right: what would be right.

    Example:
        >>> print(Finding("operator", "spectrum", "STFT is unknown to the parser", "a framed DFT by Conv"))
        operator: 'spectrum': STFT is unknown to the parser; right is a framed DFT by Conv
    """

    rule: str
    node: str
    wrong: str
    right: str

    def __str__(self) -> str:
        place = f"{self.node!r}: " if self.node else ""
        return f"{self.rule}: {place}{self.wrong}; right is {self.right}"


def lint(model: onnx.ModelProto, *, trunk: Trunk = "trunk.") -> list[Finding]:
    """Find what keeps a graph from being a good strongly typed network.

    Args:
        model: an FP32 graph, its FP16 cast or its S8 encoding. The U8 encoding is for ONNX Runtime alone
            and has findings in every layer.
        trunk: prefix of the initialiser names of the weights that are quantised or cast, or a predicate on
            such a name. A graph without any is computed in FP32 throughout.

    Returns:
        the findings, in the order of `RULES`; none where all is well.
    """
    try:
        typed = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        untyped = str(error).strip().replace("\n", " ")
        found = [Finding("version", *details) for details in _version(View(model, trunk))]
        return [*found, Finding("valid", "", untyped, "a graph whose types and shapes ONNX can infer")]
    view = View(typed, trunk)
    return [Finding(name, *details) for name, rule in RULES.items() for details in rule(view)]


Details = tuple[str, str, str]
"""Node, what is wrong and what would be right."""


def _name(kind: int | None) -> str:
    return str(TensorProto.DataType.Name(kind or 0))


# What the parser takes


def _version(view: View) -> Iterator[Details]:
    opsets = {item.domain: item.version for item in view.model.opset_import if item.domain in ("", "ai.onnx")}
    for version in set(opsets.values()) - set(OPSETS):
        yield "", f"the opset is {version}", " or ".join(map(str, OPSETS))
    if view.model.ir_version > NEWEST_IR:
        yield "", f"the IR version is {view.model.ir_version}", f"{NEWEST_IR} at most"


def _operator(view: View) -> Iterator[Details]:
    for node in view.nodes:
        name = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        if name not in TENSORRT_10_3:
            yield node.output[0], f"the parser of TensorRT 10.3 has no {name}", "operators of its list"
        elif any(item.type in (item.GRAPH, item.GRAPHS) for item in node.attribute):
            yield node.output[0], f"{name} holds a graph, which is not looked into", "one flat graph"


def _io(view: View) -> Iterator[Details]:
    # Ids of words come in as INT32; nothing goes out as such.
    sides = ((view.graph.input, (FLOAT, UINT8, TensorProto.INT32)), (view.graph.output, (FLOAT, UINT8)))
    for values, kinds in sides:
        for value in values:
            kind = value.type.tensor_type.elem_type
            if kind not in kinds:
                right = " or ".join(_name(one) for one in kinds)
                yield value.name, f"the graph's input or output is {_name(kind)}", right


def _uint8(view: View) -> Iterator[Details]:
    for node in view.nodes:
        leaves = node.op_type == "Cast" and node.output[0] in view.outputs
        if view.computes(node, UINT8) and not (leaves or is_quantiser(node)):  # steps have their own rule
            yield node.output[0], f"{node.op_type} works on UINT8", "a Cast at the graph's input or output"


def _integers(view: View) -> Iterator[Details]:
    inputs = {value.name for value in view.graph.input}
    for node in view.nodes:
        begins = not view.reads(node, *INTEGERS) or not inputs.isdisjoint(node.input)
        if view.computes(node, *INTEGERS) and begins:
            kind = _name(view.types.get(node.output[0]))
            yield (
                node.output[0],
                f"{node.op_type} computes {kind}, with which arithmetic of shapes or ids, or a Cast, begins",
                "constant shapes and indices, and broadcasting",
            )


def _type(view: View) -> Iterator[Details]:
    known = (FLOAT, HALF, INT8, UINT8, *INTEGERS)
    for node in view.nodes:
        if any(view.types.get(name, FLOAT) not in known for name in node.output):
            kind = _name(view.types.get(node.output[0]))
            yield node.output[0], f"{node.op_type} computes {kind}", "FLOAT, and FLOAT16 or INT8 in the trunk"


# Q and DQ


def _zero_point(view: View) -> Iterator[Details]:
    for node, kind in view.steps():
        zeros = view.array(node.input[2]) if len(node.input) > 2 else np.zeros(1)
        if kind != INT8:
            yield node.output[0], f"steps are {_name(kind)}", "INT8 with zero point 0"
        elif zeros is None or zeros.any():
            found = "computed" if zeros is None else f"{zeros.flat[np.flatnonzero(zeros)[0]]}"
            yield node.output[0], f"the zero point is {found}", "0, for TensorRT quantises symmetrically"


def _scale(view: View) -> Iterator[Details]:
    for node, _ in view.steps():
        scale, kind = view.array(node.input[1]), view.types.get(node.input[1])
        if scale is None or kind != FLOAT:
            found = "computed" if scale is None else _name(kind)
            yield node.output[0], f"the scale is {found}", "a constant in FP32"
        elif not (np.isfinite(scale) & (scale >= np.finfo(np.float32).tiny)).all():
            yield node.output[0], f"a scale is {scale.min():g}", "a positive number with all digits of FP32"


def _pair(view: View) -> Iterator[Details]:
    for node in view.nodes:
        quantiser = view.quantiser(node)
        if quantiser is not None and not all(map(view.same, quantiser.input[1:], node.input[1:])):
            wrong = f"scale or zero point differ from those of {quantiser.output[0]!r}, which it reads"
            yield node.output[0], wrong, "one pair with one scale"


def _channels(view: View) -> Iterator[Details]:
    for node, _ in view.steps():
        scale, weight = view.array(node.input[1]), view.array(node.input[0])
        if scale is None or (weight is None and not is_quantiser(node)):
            continue
        if weight is None:
            if scale.size != 1:
                yield node.output[0], f"an activation has {scale.size} scales", "one, for the whole tensor"
            continue
        across = [reader for reader in view.readers.get(node.output[0], []) if _channels_last(reader)]
        axis = attribute(node, "axis", 1) % max(weight.ndim, 1)
        for reader in across:
            found = f"{reader.op_type} has its output channels on axis 1 of the weight"
            yield reader.output[0], found, "a Gemm with transB = 1, which has them on axis 0"
        if not across and (scale.shape != weight.shape[:1] or axis != 0):
            found = f"the weight {list(weight.shape)} has scales {list(scale.shape)} on axis {axis}"
            yield node.output[0], found, "one for each output channel, on axis 0"


def _channels_last(node: onnx.NodeProto) -> bool:
    """Whether an operator's output channels are the columns of its weight."""
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0))


def _adjacent(view: View) -> Iterator[Details]:
    for node in view.nodes:
        if is_dequantiser(node) and view.quantiser(node) is None and node.input[0] not in view.constants:
            writer = view.writers.get(node.input[0])
            found = writer.op_type if writer is not None else "the graph's input"
            yield node.output[0], f"it reads {found}", "a DequantizeLinear straight behind its Q or weight"
        writers = [view.writers[name] for name in node.input if name in view.writers]
        if node.op_type in MOVES and any(map(is_dequantiser, writers)):
            wrong = f"{node.op_type} lies between DequantizeLinear and what runs in INT8"
            yield node.output[0], wrong, "the move before QuantizeLinear"
        if any(map(is_quantiser, writers)) and not is_dequantiser(node) and node.op_type not in MOVES:
            yield (
                node.output[0],
                f"{node.op_type} reads steps",
                "a DequantizeLinear behind each QuantizeLinear",
            )


def _operands(view: View) -> Iterator[Details]:
    if not any(map(view.quantised, view.nodes)):
        return
    for node in view.nodes:
        missing = [name for name in node.input[:2] if not view.rounded(name)]
        if node.output[0] in view.trunk and missing and not view.kept(node.output[0]):
            names = " and ".join(map(repr, missing))
            wrong = f"{node.op_type} reads {names} in float"
            yield node.output[0], wrong, "Q and DQ before both inputs, or FP16"


def _readers(view: View) -> Iterator[Details]:
    for node in filter(is_dequantiser, view.nodes):
        name = node.output[0]
        if name in view.outputs:
            wrong, right = "DequantizeLinear writes an output of the graph", "what was computed, unrounded"
            yield name, wrong, right
        for reader in view.readers.get(name, []):
            if not (view.quantised(reader) or view.residual(reader) or reader.op_type in MOVES):
                wrong = f"{reader.op_type} reads the rounded {name!r}"
                yield reader.output[0], wrong, "Q and DQ for operators and sums of the trunk alone"


def _residual(view: View) -> Iterator[Details]:
    order = {name: place for place, node in enumerate(view.nodes) for name in node.output}
    for node in view.nodes:
        if not view.residual(node):
            continue
        sides = [view.side(name) for name in node.input]
        operators = [view.writers.get(side.source) for side in sides]
        rounded = [side.rounded for side in sides]
        if all(rounded):
            yield node.output[0], "both inputs of the sum are rounded", "Q and DQ at the skip input alone"
        elif not any(rounded):
            yield node.output[0], "no input of the sum is rounded", "Q and DQ at the skip input"
        else:
            starts = [
                order.get(view.side(op.input[0]).source, -1) if view.quantised(op) and op else -2
                for op in operators
            ]
            if starts[rounded.index(True)] > starts[rounded.index(False)]:
                yield (
                    node.output[0],
                    "the input that comes from the block's own convolution is rounded",
                    "Q and DQ at the skip input, so that convolution and sum fuse",
                )


def _bias(view: View) -> Iterator[Details]:
    for node in view.nodes:
        for name in node.input[2:3]:
            if not (view.quantised(node) or node.output[0] in view.trunk) or not name:
                continue
            if name not in view.constants:
                writer = view.writers.get(name)
                made = writer.op_type if writer is not None else "the graph's input"
                yield node.output[0], f"the bias {name!r} comes from {made}", "an initialiser in FP32"


# Where which precision belongs


def _front_end(view: View) -> Iterator[Details]:
    for node in view.nodes:
        if node.output[0] not in view.front or is_quantiser(node) or is_dequantiser(node):
            continue
        if view.quantised(node):
            yield node.output[0], f"{node.op_type} of the front end is quantised", "FP32 up to the trunk"
        readers = view.readers.get(node.output[0], [])
        boundary = node.op_type == "Cast" and all(reader.output[0] in view.trunk for reader in readers)
        if view.computes(node, HALF) and not view.reads(node, HALF) and not boundary:
            wrong = f"FP16 begins in the front end, at {node.op_type}"
            yield node.output[0], wrong, "FP32 up to the trunk: power spectra leave the range of FP16"


def _head(view: View) -> Iterator[Details]:
    for node in view.nodes:
        if view.quantised(node) and node.output[0] not in view.trunk | view.front:
            yield node.output[0], f"{node.op_type} behind the trunk is quantised", "heads in float"


def _half(view: View) -> Iterator[Details]:
    for node in view.nodes:
        name = node.output[0]
        spared = node.op_type in ("Cast", *ALONG) or name in view.trunk | view.front
        if not spared and (view.computes(node, HALF) or view.reads(node, HALF)):
            right = "FP16 for the trunk's operators and the ReLUs and sums between them"
            yield name, f"{node.op_type} works on FP16", right


def _cast(view: View) -> Iterator[Details]:
    for node in view.nodes:
        if node.op_type != "Cast":
            continue
        name = node.output[0]
        source, target = view.types.get(node.input[0]), view.types.get(name)
        readers = {reader.op_type for reader in view.readers.get(name, [])}
        if source == target:
            yield name, f"it casts {_name(source)} to itself", "no Cast"
        elif HALF in (source, target) and "Cast" in readers:
            yield name, "the next Cast undoes this one", "no Cast"
        elif target == HALF and not readers & {*QUANTISED, *ALONG}:
            yield name, "nothing that runs in FP16 reads it", "no Cast"


RULES: dict[str, Callable[[View], Iterator[Details]]] = {
    "version": _version,
    "operator": _operator,
    "input or output": _io,
    "uint8": _uint8,
    "integers": _integers,
    "type": _type,
    "zero point": _zero_point,
    "scale": _scale,
    "pair": _pair,
    "channels": _channels,
    "adjacent": _adjacent,
    "operands": _operands,
    "readers": _readers,
    "residual": _residual,
    "bias": _bias,
    "front end": _front_end,
    "head": _head,
    "half": _half,
    "cast": _cast,
}
"""Every rule by its name: a graph in, what it finds out."""
