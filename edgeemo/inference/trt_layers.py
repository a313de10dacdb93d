"""What an engine's layers compute in, and which quantised operators of the network do not read INT8 there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

INT8 = "int8"
UNKNOWN = "unknown"  # TensorRT does not say, as for every tensor of an engine with dynamic shapes

# How the inspector writes a data type: "Int8", "Half", "Row major linear FP32 format (kLINEAR)", ...
_PRECISIONS = (
    ("uint8", r"\buint8\b"),
    (INT8, r"\bint8\b|\bkint8\b|\bi8\b"),
    ("bf16", r"\bbf16\b|\bbfloat16\b"),
    ("fp16", r"\bhalf\b|\bfp16\b|\bfloat16\b"),
    ("fp8", r"\bfp8\b"),
    ("fp32", r"\bfloat\b|\bfp32\b|\bfloat32\b"),
    ("int64", r"\bint64\b"),
    ("int32", r"\bint32\b"),
    ("bool", r"\bbool\b"),
)
# Kernels name what they multiply: 'sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_...'.
_INT8_TACTIC = re.compile(r"i8i8|(?:^|_)int8|imma")
_FLOAT_TACTIC = re.compile(r"(?:^|_)(?:f32f32|f16f16|tf32|s1688|h1688|h16816|hmma|sgemm|hgemm)")
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


@dataclass(frozen=True)
class Layer:
    """One layer of an engine; TensorRT fuses several nodes of the ONNX file into one.

    Args:
        name: TensorRT's name of it.
        type: TensorRT's type of it, empty where it does not say.
        inputs: the precision of each tensor that it reads, such as 'int8', 'fp16', 'fp32' or 'unknown'.
        outputs: the precision of each tensor that it writes.
        weights: the precision of its weights, empty where it has none.
        tactic: the kernel, empty where TensorRT does not say.
        nodes: the nodes of the ONNX file in it.
    """

    name: str
    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: str
    tactic: str
    nodes: tuple[str, ...]

    @property
    def precision(self) -> str:
        """What the layer multiplies: by its inputs, else its weights, else the name of its kernel.

        Example:
            >>> Layer("conv", "CaskConvolution", ("unknown",), ("unknown",), "int8", "", ("conv",)).precision
            'int8'
        """
        if INT8 in self.inputs:
            return INT8
        known = [precision for precision in self.inputs if precision != UNKNOWN]
        if known:
            return known[0]
        if self.weights not in ("", UNKNOWN):
            return self.weights
        if _INT8_TACTIC.search(self.tactic):
            return INT8
        return "float" if _FLOAT_TACTIC.search(self.tactic) else UNKNOWN


@dataclass(frozen=True)
class Report:
    """The layers of an engine beside the quantised operators of the network that it was built from.

    Args:
        operators: names of the convolutions and matrix products that read through DequantizeLinear nodes.
        layers: the engine's layers, in order.
        findings: one sentence for each operator that no layer is seen to compute in INT8.
    """

    operators: tuple[str, ...]
    layers: tuple[Layer, ...]
    findings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """What goes into a JSON file."""
        layers = [asdict(layer) | {"precision": layer.precision} for layer in self.layers]
        return {"operators": list(self.operators), "layers": layers, "findings": list(self.findings)}


def quantised_operators(network: Any, types: Any) -> tuple[str, ...]:
    """Name the convolutions and matrix products of a parsed network whose operands are dequantised.

    Args:
        network: the `INetworkDefinition`.
        types: TensorRT's `LayerType`.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    dequantised = {layer.get_output(0).name for layer in layers if layer.type == types.DEQUANTIZE}
    products = (types.CONVOLUTION, types.DECONVOLUTION, types.MATRIX_MULTIPLY)
    return tuple(
        layer.name
        for layer in layers
        if layer.type in products and all(name in dequantised for name in _operands(layer))
    )


def _operands(layer: Any) -> list[str]:
    """The tensors that a product multiplies: its data and, where the layer does not hold them, weights."""
    tensors = [layer.get_input(index) for index in range(min(layer.num_inputs, 2))]
    return [tensor.name for tensor in tensors if tensor is not None]


def read_layers(inspector: Any, count: int, form: Any, context: Any = None) -> tuple[Layer, ...]:
    """Read an engine's layers from its inspector, whichever version of TensorRT wrote them.

    Args:
        inspector: the `EngineInspector` of an engine built with detailed profiling verbosity.
        count: layers of the engine.
        form: TensorRT's `LayerInformationFormat.JSON`.
        context: an execution context whose sizes are set; without one TensorRT hides the types of an engine
            with free sizes, and with one some devices say nothing at all.
    """
    for source in (context, None) if context is not None else (None,):
        inspector.execution_context = source
        try:
            return tuple(
                _layer(entry) for entry in json.loads(inspector.get_engine_information(form))["Layers"]
            )
        except (ValueError, KeyError, TypeError):
            continue
    # A name with a quotation mark in it spoils the text of the whole engine, but not of other layers.
    texts = [inspector.get_layer_information(index, form) for index in range(count)]
    return tuple(_layer(_parsed(text, index)) for index, text in enumerate(texts))


def _parsed(text: str, index: int) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return f"layer {index}, which TensorRT describes in broken JSON"


def _layer(entry: Any) -> Layer:
    if not isinstance(entry, dict):  # without detailed verbosity TensorRT gives the name alone
        return Layer(str(entry), "", (), (), "", "", _nodes(str(entry), ""))
    name = str(entry.get("Name", ""))
    weights = entry.get("Weights")
    return Layer(
        name=name,
        type=str(entry.get("LayerType", entry.get("Type", ""))),
        inputs=_tensors(entry.get("Inputs")),
        outputs=_tensors(entry.get("Outputs")),
        weights=precision_of(str(weights.get("Type", ""))) if isinstance(weights, dict) and weights else "",
        tactic=str(entry.get("TacticName", entry.get("TacticValue", ""))),
        nodes=_nodes(name, str(entry.get("Metadata", ""))),
    )


def _tensors(entries: Any) -> tuple[str, ...]:
    """TensorRT 10 writes format and type as one text, 'Format/Datatype'; separate keys are read as well."""
    if not isinstance(entries, list):
        return ()
    return tuple(
        precision_of(
            " ".join(
                str(value) for key, value in entry.items() if re.search("format|type", key, re.IGNORECASE)
            )
            if isinstance(entry, dict)
            else ""
        )
        for entry in entries
    )


def precision_of(text: str) -> str:
    """Read a data type out of the inspector's description of a tensor.

    Example:
        >>> precision_of("Int8 NC/32HW32"), precision_of("Row major linear FP32 format (kLINEAR)")
        ('int8', 'fp32')
        >>> precision_of("N/A due to dynamic shapes")
        'unknown'
    """
    lowered = text.lower()
    return next((name for name, pattern in _PRECISIONS if re.search(pattern, lowered)), UNKNOWN)


def _nodes(name: str, metadata: str) -> tuple[str, ...]:
    nodes = _ONNX_NODE.findall(metadata) + [part.strip() for part in name.split(" + ")]
    return tuple(dict.fromkeys(node for node in nodes if node))


def report(operators: Iterable[str], layers: Iterable[Layer]) -> Report:
    """Hold the engine's layers against the network's quantised operators.

    Example:
        >>> layer = Layer("conv1 + relu", "CaskConvolution", ("fp32",), ("fp32",), "", "", ("conv1", "relu"))
        >>> report(["conv1"], [layer]).findings
        ("conv1 is quantised in the graph, but its engine layer 'conv1 + relu' computes in fp32",)
    """
    operators, layers = tuple(operators), tuple(layers)
    found = (
        _finding(operator, [layer for layer in layers if operator in layer.nodes]) for operator in operators
    )
    return Report(operators, layers, tuple(finding for finding in found if finding))


def _finding(operator: str, layers: list[Layer]) -> str | None:
    # A reformat carries the operator's name too; what multiplies is told by reading INT8 or having weights.
    precisions = {layer.precision: layer for layer in layers if "reformat" not in layer.type.lower()}
    if INT8 in precisions:
        return None
    start = f"{operator} is quantised in the graph, but "
    for precision, layer in precisions.items():
        if precision != UNKNOWN:
            return f"{start}its engine layer {layer.name!r} computes in {precision}"
    if precisions:
        return f"{start}TensorRT does not say what its engine layer {precisions[UNKNOWN].name!r} computes in"
    return f"{start}no layer of the engine names it"
