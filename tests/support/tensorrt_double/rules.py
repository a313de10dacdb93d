"""What the ONNX parser of TensorRT 10.3 refuses, and in which words.

The words are of onnx/onnx-tensorrt at commit 0137504e2b25fe5253bd85d26b073378fb67805b (10.6, the version
nearest to 10.3 that could be read); each is named by its file and function there. Line numbers are left out:
they differ in every release. What TensorRT itself says inside the parser is from logs in the issues named.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper, shape_inference

from tests.support.tensorrt_double.operators import KNOWN_UNSUPPORTED, SUPPORTED

TYPES = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.DOUBLE: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
}


class Refusal(Exception):
    """One error of the parser.

    Args:
        code: the name of the error code.
        message: in TensorRT's words.
        function: of the parser that refuses, as `IParserError.func` says.
        file: that it stands in.
        logged: what TensorRT itself logs before.
    """

    def __init__(
        self,
        code: str,
        message: str,
        function: str,
        file: str = "onnxOpImporters.cpp",
        logged: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.function, self.file, self.logged = code, message, function, file, logged
        self.index = -1
        self.node: onnx.NodeProto | None = None

    def at(self, index: int, node: onnx.NodeProto) -> Refusal:
        """The same of a node."""
        self.index, self.node = index, node
        return self


Values = dict[str, tuple[str, list[int]]]
"""The type and shape of each tensor by name; -1 where a size is free."""


class Graph:
    """A graph with the types and shapes of its tensors."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.constants = {constant.name: constant for constant in model.graph.initializer}
        self.outputs = {value.name for value in model.graph.output}
        self.values: Values = {
            name: (TYPES.get(constant.data_type, "?"), list(constant.dims))
            for name, constant in self.constants.items()
        }
        inferred = shape_inference.infer_shapes(model, data_prop=True).graph
        for value in [*inferred.value_info, *inferred.input, *inferred.output]:
            kind = value.type.tensor_type
            sizes = [size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim]
            self.values[value.name] = (TYPES.get(kind.elem_type, "?"), sizes)

    def type(self, name: str) -> str:
        """The type of a tensor, '?' where nothing says it."""
        return self.values[name][0] if name in self.values else "?"


def name_of(node: onnx.NodeProto) -> str:
    """The parser's name of a node (getNodeName)."""
    return node.name or f"node_of_{node.output[0]}"


def static_refusals(model: onnx.ModelProto) -> list[Refusal]:
    """What the static checkers refuse, all of it, before any shape is known (parseGraph)."""
    refusals = []
    for index, node in enumerate(model.graph.node):
        if node.op_type in KNOWN_UNSUPPORTED:
            # onnxOpCheckers.cpp, DEFINE_OP_CHECKER(DFT) and the like: STATIC_CHECK(false, kUNSUPPORTED_NODE),
            # a macro whose message is its condition.
            refusal = Refusal("UNSUPPORTED_NODE", "false", f"check{node.op_type}", "onnxOpCheckers.cpp")
        elif node.op_type not in SUPPORTED:
            # onnxOpCheckers.cpp, DEFINE_OP_CHECKER(FallbackPluginImporter); with code 6 in the log of 10.x in
            # open-mmlab/mmdeploy#2758.
            refusal = Refusal(
                "INVALID_NODE",
                'creator && "Plugin not found, are the plugin name, version, and namespace correct?"',
                "checkFallbackPluginImporter",
                "onnxOpCheckers.cpp",
            )
        else:
            continue
        refusals.append(refusal.at(index, node))
    return refusals


def refusal_of(graph: Graph) -> Refusal | None:
    """What the importers refuse, the first of it, None when they take the graph (parseNode)."""
    for index, node in enumerate(graph.model.graph.node):
        for rule in RULES:
            refusal = rule(node, graph)
            if refusal:
                return refusal.at(index, node)
    return None


def _asserted(
    code: str, condition: str, message: str, function: str, file: str = "onnxOpImporters.cpp"
) -> Refusal:
    """What ONNXTRT_CHECK_NODE makes of a condition that does not hold."""
    return Refusal(code, f"Assertion failed: {condition}: {message}", function, file)


def _unsupported_type(name: str) -> Refusal:
    # importerUtils.cpp, checkNotInvalidType
    return _asserted(
        "UNSUPPORTED_NODE",
        "status.is_success()",
        f"Found unsupported input type of {name}",
        "checkNotInvalidType",
        "importerUtils.cpp",
    )


def _zero_point(node: onnx.NodeProto, graph: Graph) -> Refusal | None:
    """A quantiser is symmetric and of INT8."""
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return None
    # onnxOpImporters.cpp, QuantDequantLinearHelper: both inputs go through checkNotInvalidType. Earlier ones
    # warn that "TensorRT will use INT8 instead" and compute other numbers; the double refuses in any case.
    data = [node.input[0]] if node.op_type == "DequantizeLinear" else node.input[2:]
    if any(graph.type(name) == "UINT8" for name in data):
        return _unsupported_type("UINT8")
    constant = graph.constants.get(node.input[2]) if len(node.input) > 2 else None
    if constant is None or not np.any(numpy_helper.to_array(constant)):
        return None
    # onnxOpImporters.cpp, QuantDequantLinearHelper
    return _asserted(
        "INVALID_NODE",
        "shiftIsAllZeros(zeroPoint)",
        "TensorRT only supports symmetric quantization. The zero point for the "
        "QuantizeLinear/DequantizeLinear operator must be all zeros.",
        "QuantDequantLinearHelper",
    )


def _whole_dequantised(node: onnx.NodeProto, graph: Graph) -> Refusal | None:
    """What a DequantizeLinear reads is INT8: a bias in INT32 is refused by TensorRT, within the parser."""
    if node.op_type != "DequantizeLinear" or graph.type(node.input[0]) != "INT32":
        return None
    # microsoft/onnxruntime#14229, onnx/onnx-tensorrt#850, lyuwenyu/RT-DETR#343; the explanation around it is
    # ModelImporter.cpp, makeErrorExplanation.
    said = (
        f"ITensor::getDimensions: Error Code 3: API Usage Error ({name_of(node)}: only activation types "
        "allowed as input to this layer.)"
    )
    return Refusal(
        "INVALID_NODE", f"Invalid Node - {name_of(node)}\n{said}", "parseNode", "ModelImporter.cpp", (said,)
    )


# importerUtils.cpp, getUnaryOpName: what unaryHelper imports, but for those that take whole numbers.
_UPPER = "Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor IsInf Log Round Sin Sinh Sqrt Tan"
_UNARY = {name: name.upper() for name in _UPPER.split()} | {"Reciprocal": "RECIP"}
_PAIRS = "Add Sub Mul Div Pow Max Min Sum Mean Mod Equal Greater Less GreaterOrEqual LessOrEqual"
_PAIRED = frozenset(_PAIRS.split())


def _types(node: onnx.NodeProto, graph: Graph) -> Refusal | None:
    """Whole numbers, truth values and UINT8 only where the table of operators has them."""
    read = node.input if node.op_type in _PAIRED else node.input[:1]
    wrong = [
        kind
        for kind in map(graph.type, read)
        if kind in ("INT32", "INT64", "BOOL", "UINT8") and kind not in SUPPORTED[node.op_type]
    ]
    if not wrong:
        return None
    if node.op_type == "Pow":
        # importerUtils.cpp, elementwiseCheck
        return _asserted(
            "UNSUPPORTED_NODE",
            "!std::any_of(inputs.begin(), inputs.end(), [](TensorOrWeights const& input) "
            "{ return input.isBool() || input.isInt32() || input.isInt64(); })",
            "Elementwise layer does not support operator POW with boolean or integer types.",
            "elementwiseCheck",
            "importerUtils.cpp",
        )
    if node.op_type in _UNARY:
        # importerUtils.cpp, unaryHelper
        return _asserted(
            "UNSUPPORTED_NODE",
            "validUnaryType",
            f"This version of TensorRT does not support the given operator {_UNARY[node.op_type]} with the "
            f"given input data type {wrong[0]}.",
            "unaryHelper",
            "importerUtils.cpp",
        )
    return _unsupported_type(wrong[0])


def _uint8_within(node: onnx.NodeProto, graph: Graph) -> Refusal | None:
    """UINT8 is for the inputs and outputs of the network."""
    if not any(graph.type(name) == "UINT8" and name not in graph.outputs for name in node.output):
        return None
    # ModelImporter.cpp, parseNode
    return _asserted(
        "UNSUPPORTED_NODE",
        "legalUINT8",
        "TensorRT does not support UINT8 types for intermediate tensors!",
        "parseNode",
        "ModelImporter.cpp",
    )


RULES: tuple[Callable[[onnx.NodeProto, Graph], Refusal | None], ...] = (
    _zero_point,
    _whole_dequantised,
    _types,
    _uint8_within,
)


def parsed(model: onnx.ModelProto) -> tuple[Graph | None, list[Refusal]]:
    """The graph as the parser takes it, or what it says against it."""
    refusals = static_refusals(model)
    if refusals:
        return None, refusals
    graph = Graph(model)
    refusal = refusal_of(graph)
    return (None, [refusal]) if refusal else (graph, [])


def load(data: bytes) -> Any:
    """Read an ONNX file.

    Raises:
        Refusal: it is none (ModelImporter.cpp, deserializeOnnxModel).
    """
    try:
        model = onnx.load_model_from_string(data)
    except Exception:  # protobuf's errors have no common class of their own
        model = None
    if model is None or not model.graph.output:
        raise Refusal(
            "MODEL_DESERIALIZE_FAILED",
            "Failed to parse the ONNX model.",
            "deserializeOnnxModel",
            "onnxProtoUtils.cpp",
        )
    return model
