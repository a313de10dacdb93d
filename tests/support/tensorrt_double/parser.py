"""The ONNX parser: it fills a network with one layer for each node, or refuses in TensorRT's words."""

from __future__ import annotations

from typing import Any

import onnx

from tests.support.tensorrt_double.network import new_layer, new_tensor
from tests.support.tensorrt_double.operators import SUPPORTED
from tests.support.tensorrt_double.rules import Graph, Refusal, load, name_of, parsed
from tests.support.tensorrt_double.values import make, say

# The layer that the importer of an operator adds; operators that become several layers are not told apart.
_LAYERS = {
    "ELEMENTWISE": "Add Sub Mul Div Pow Min Max Mod And Or Xor Sum Mean "
    "Equal Greater Less GreaterOrEqual LessOrEqual",
    "UNARY": "Abs Ceil Cos Erf Exp Floor IsInf IsNaN Log Neg Not Reciprocal Round Sign Sin Sqrt Tan",
    "ACTIVATION": "Relu LeakyRelu Sigmoid Tanh Elu Selu Softplus Softsign HardSigmoid HardSwish Clip Gelu",
    "SHUFFLE": "Reshape Transpose Unsqueeze Squeeze Flatten DepthToSpace SpaceToDepth",
    "POOLING": "AveragePool MaxPool GlobalAveragePool GlobalMaxPool",
    "NORMALIZATION": "LayerNormalization InstanceNormalization GroupNormalization",
    "REDUCE": "ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare "
    "ReduceLogSumExp",
    "SLICE": "Slice Split Expand Tile Pad",
    "GATHER": "Gather GatherElements GatherND",
    "TOPK": "ArgMax ArgMin TopK",
    "CONVOLUTION": "Conv",
    "DECONVOLUTION": "ConvTranspose",
    "MATRIX_MULTIPLY": "MatMul Gemm",
    "SCALE": "BatchNormalization",
    "CAST": "Cast CastLike",
    "CONCATENATION": "Concat",
    "CONSTANT": "Constant ConstantOfShape",
    "DEQUANTIZE": "DequantizeLinear",
    "EINSUM": "Einsum",
    "IDENTITY": "Identity Dropout",
    "QUANTIZE": "QuantizeLinear",
    "SHAPE": "Shape",
    "SOFTMAX": "Softmax LogSoftmax",
    "SELECT": "Where",
    "RESIZE": "Resize Upsample",
}
_KIND = {operator: layer for layer, operators in _LAYERS.items() for operator in operators.split()}
# Inputs that the importer folds into the layer when they are constants: kernels, biases, axes, shapes.
_FOLDED = ("CONVOLUTION", "DECONVOLUTION", "SHUFFLE", "REDUCE", "SLICE")


class OnnxParser:
    """The parser of one network."""

    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._logger = network, logger
        self._errors: list[Any] = []
        self._set = 0

    @property
    def flags(self) -> int:
        return self._set

    @flags.setter
    def flags(self, value: int) -> None:
        self._set = int(value)

    def set_flag(self, flag: Any) -> None:
        self._set |= 1 << int(flag)

    def clear_flag(self, flag: Any) -> None:
        self._set &= ~(1 << int(flag))

    def get_flag(self, flag: Any) -> bool:
        return bool(self._set >> int(flag) & 1)

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def clear_errors(self) -> None:
        self._errors.clear()

    def supports_operator(self, op_name: str) -> bool:
        return op_name in SUPPORTED

    def parse(self, model: Any, path: str | None = None) -> bool:
        if self._network._layers:
            say(self._logger, "ERROR", "Parse was called with a non-empty network definition")
            return False
        data = bytes(memoryview(model))
        try:
            graph, refusals = parsed(load(data))
        except Refusal as refusal:
            graph, refusals = None, [refusal]
        for refusal in refusals:
            self._refuse(refusal)
        if graph is None:
            return False
        self._network._model = data
        _fill(self._network, graph)
        return True

    def parse_from_file(self, model: str) -> bool:
        with open(model, "rb") as file:
            return self.parse(file.read())

    def _refuse(self, refusal: Refusal) -> None:
        error = make(self._trt, "ParserError", _refusal=refusal)
        self._errors.append(error)
        for text in refusal.logged:
            say(self._logger, "ERROR", text)
        if refusal.node is not None:
            node = f'[{refusal.node.op_type} -> "{refusal.node.output[0]}"]'
            say(self._logger, "ERROR", f"While parsing node number {refusal.index} {node}:")
        place = f"{refusal.file} In function {refusal.function}"
        say(self._logger, "ERROR", f"ERROR: {place}:\n[{int(error.code())}] {refusal.message}")


class ParserError:
    """One error of the parser; made by `OnnxParser.get_error`."""

    def code(self) -> Any:
        return getattr(self._trt.ErrorCode, self._refusal.code)

    def desc(self) -> str:
        return self._refusal.message

    def file(self) -> str:
        return self._refusal.file

    def line(self) -> int:
        return 0  # it differs in every release

    def func(self) -> str:
        return self._refusal.function

    def node(self) -> int:
        return self._refusal.index

    def node_name(self) -> str:
        return name_of(self._refusal.node) if self._refusal.node else ""

    def node_operator(self) -> str:
        return self._refusal.node.op_type if self._refusal.node else ""

    def local_function_stack(self) -> list[str]:
        return []

    def local_function_stack_size(self) -> int:
        return 0


def _fill(network: Any, graph: Graph) -> None:
    """One layer per node and per constant that a layer reads, producers first."""
    trt = network._trt
    tensors: dict[str, Any] = {}

    def tensor(name: str, side: str = "") -> Any:
        if name not in tensors:
            kind, shape = graph.values[name]
            tensors[name] = new_tensor(trt, name, getattr(trt.DataType, kind), list(shape), side)
            if name in graph.constants:
                network._layers.append(new_layer(network, name, "CONSTANT", "", [], [tensors[name]]))
        return tensors[name]

    for value in graph.model.graph.input:
        if value.name not in graph.constants:
            network._inputs.append(tensor(value.name, "input"))
    for node in graph.model.graph.node:
        kind = _KIND.get(node.op_type, "PLUGIN_V2")
        inputs = [tensor(name) for name in _read(node, kind, graph)]
        outputs = [tensor(name) for name in node.output if name]
        network._layers.append(new_layer(network, name_of(node), kind, name_of(node), inputs, outputs))
    for value in graph.model.graph.output:
        tensors[value.name]._side = "output"
        network._outputs.append(tensors[value.name])


def _read(node: onnx.NodeProto, kind: str, graph: Graph) -> list[str]:
    names = [name for name in node.input if name]
    if kind in ("QUANTIZE", "DEQUANTIZE"):
        return names[:2]
    if kind in _FOLDED:
        return [names[0], *(name for name in names[1:] if name not in graph.constants)]
    return names
