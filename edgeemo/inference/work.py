"""How much work one call of a graph is: multiply-adds by precision, bytes and operators."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

from edgeemo.errors import BackendError, BundleError, InputError
from edgeemo.inference.ort import PROVIDER, import_onnxruntime

BYTES = {"int8": 1, "fp16": 2, "fp32": 4}
"""Precisions of a product, and bytes of one number in each."""

# Which inputs of a product are its two operands; the second is the weight where it is a constant.
_FLOAT = dict.fromkeys(("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul"), (0, 1))
_INTEGER = {
    "QLinearConv": (0, 3),
    "ConvInteger": (0, 1),
    "QGemm": (0, 3),
    "QLinearMatMul": (0, 3),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1),
    "DynamicQuantizeMatMul": (0, 1),
}
_OPERANDS = {**_FLOAT, **_INTEGER}
# Operators that hold products of their own: leaving them out would make a floor of nothing.
_UNKNOWN = frozenset(
    (
        *("Attention", "GroupQueryAttention", "MultiHeadAttention", "PackedAttention", "QAttention"),
        *("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM", "DeformConv", "NhwcFusedConv", "WordConvEmbedding"),
        *("Einsum", "FusedMatMul", "MatMulNBits", "MatMulBnb4", "SparseToDenseMatMul"),
    )
)
# These fusions hide the shapes of the products; without them each product is an operator of its own.
_NOT_FUSED = ["AttentionFusion", "MatMulScaleFusion", "MatmulTransposeFusion"]
_VIEWS = frozenset(("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"))
_CONVERSIONS = frozenset(("Cast", "QuantizeLinear", "DequantizeLinear"))
_STORED = {"float16": "fp16", "int8": "int8", "uint8": "int8"}


@dataclass(frozen=True)
class Work:
    """What one call of a graph has to do.

    Attributes:
        multiply_adds: of its convolutions and matrix products, by precision ('int8', 'fp16', 'fp32'): a sum
            of products of length K counts as K, a bias as none.
        weights: bytes of the constants that the products read; of constants that several products share, no
            more than the file holds.
        activations: bytes of the other operands of the products and of their results, each read or written
            once: what passes through memory when nothing stays in a cache and all between two products is
            done on the way.
        ends: bytes of the inputs and outputs of the call.
        products: how many convolutions and matrix products.
        operators: what is computed or moved after ONNX Runtime's fusions, products too; views of a tensor and
            conversions of its type are none.
    """

    multiply_adds: Mapping[str, int]
    weights: int
    activations: int
    ends: int
    products: int
    operators: int

    @property
    def total(self) -> int:
        """Multiply-adds of all precisions."""
        return sum(self.multiply_adds.values())

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "multiply_adds": dict(self.multiply_adds),
            "bytes": {"weights": self.weights, "activations": self.activations, "ends": self.ends},
            "products": self.products,
            "operators": self.operators,
        }


def work_of(model: bytes, feeds: Mapping[str, NDArray[Any]], name: str = "the model") -> Work:
    """Count the work of one call, from what ONNX Runtime says that it ran.

    The graph is run once under its profiler, which gives the shape of every operand as it is. What a product
    counts as is the precision of its file: FP16, and INT8 that this processor has no kernels for, are
    converted and run in FP32 here, and are told by their weights.

    Args:
        model: the contents of an ONNX file, all weights within.
        feeds: one array per input; the work is that of a call with these shapes.
        name: what an error calls it.

    Raises:
        BundleError: ONNX Runtime cannot read the file.
        BackendError: ONNX Runtime is missing, or could not run the model on `feeds`.
        InputError: it holds an operator whose products cannot be counted.
    """
    events, outputs = _profile(model, feeds, name)
    unknown = sorted({event["op_name"] for event in events} & _UNKNOWN)
    if unknown:
        raise InputError(
            f"{name}: the multiply-adds of {', '.join(unknown)} are not counted; give a graph of "
            "convolutions and matrix products"
        )
    stored = _stored(events)
    products = [_product(event, stored) for event in events if event["op_name"] in _OPERANDS]
    sums: Counter[str] = Counter()
    for product in products:
        sums[product.precision] += product.multiply_adds
    return Work(
        multiply_adds={precision: sums[precision] for precision in BYTES if sums[precision]},
        weights=min(sum(product.weights for product in products), len(model)),
        activations=sum(product.activations for product in products),
        ends=sum(array.nbytes for array in (*feeds.values(), *outputs)),
        products=len(products),
        operators=sum(event["op_name"] not in _VIEWS | _CONVERSIONS for event in events),
    )


# --- what ran


def _profile(
    model: bytes, feeds: Mapping[str, NDArray[Any]], name: str
) -> tuple[list[dict[str, Any]], list[NDArray[Any]]]:
    """What the profiler says of each operator that ran, and what the graph answered."""
    try:
        onnxruntime = import_onnxruntime()
    except ImportError as error:
        raise BackendError(f"ONNX Runtime cannot be imported ({error}); install onnxruntime") from error
    with TemporaryDirectory(prefix="edgeemo-") as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # errors come as exceptions
        # The next level lays tensors out for this processor, and their shapes are no longer the graph's.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        # A weight that was packed for its kernel is gone from the profile.
        options.add_session_config_entry("session.disable_prepacking", "1")
        try:
            session = onnxruntime.InferenceSession(
                model, options, providers=[PROVIDER], enable_fallback=0, disabled_optimizers=_NOT_FUSED
            )
        except Exception as error:  # onnxruntime's errors have no common class of their own
            raise BundleError(f"{name}: ONNX Runtime cannot open it: {error}") from error
        try:
            outputs = session.run(None, dict(feeds))
        except Exception as error:
            raise BackendError(f"{name}: ONNX Runtime failed: {error}") from error
        finally:
            path = Path(session.end_profiling())
        events = json.loads(path.read_text("utf-8"))
    ran = [event["args"] for event in events if event["cat"] == "Node"]
    return [event for event in ran if "output_type_shape" in event], outputs


@dataclass(frozen=True)
class _Product:
    precision: str
    multiply_adds: int
    weights: int
    activations: int


def _product(event: Mapping[str, Any], stored: Collection[tuple[str, tuple[int, ...]]]) -> _Product:
    operator = event["op_name"]
    operands = [_tensor(event["input_type_shape"][place]) for place in _OPERANDS[operator]]
    (kind, first), (_, second) = operands
    _, result = _tensor(event["output_type_shape"][0])
    precision = "int8" if operator in _INTEGER else _STORED.get(kind, "fp32")
    constant = int(event["parameter_size"]) >= math.prod(second) * BYTES[precision]
    if precision == "fp32" and not constant:
        for given in ("int8", "fp16"):
            if (given, second) in stored:
                precision, constant = given, True
    moved = math.prod(first) + math.prod(result) + (0 if constant else math.prod(second))
    return _Product(
        precision,
        _multiply_adds(operator, first, second, result),
        math.prod(second) * BYTES[precision] if constant else 0,
        moved * BYTES[precision],
    )


def _multiply_adds(
    operator: str, first: tuple[int, ...], second: tuple[int, ...], result: tuple[int, ...]
) -> int:
    if operator == "ConvTranspose":  # the weight is read once for each place of the input
        return math.prod(first) * math.prod(second[1:])
    if (
        "Conv" in operator
    ):  # the weight [outputs, inputs / groups, *kernel], once for each place of the output
        return math.prod(result) * math.prod(second[1:])
    if "Gemm" in operator:  # two axes, the first operand perhaps transposed: [M, K] or [K, M] to [M, N]
        return math.prod(first) * result[1]
    return math.prod(result) * first[-1]


def _stored(events: Iterable[Mapping[str, Any]]) -> set[tuple[str, tuple[int, ...]]]:
    """Constants that are converted to FP32 before they are used, perhaps by several: precision and shape."""
    found = set()
    for event in events:
        if event["op_name"] in ("Cast", "DequantizeLinear") and int(event["activation_size"]) == 0:
            kind, shape = _tensor(event["input_type_shape"][0])
            if kind in _STORED:
                found.add((_STORED[kind], shape))
    return found


def _tensor(entry: Mapping[str, list[int]]) -> tuple[str, tuple[int, ...]]:
    """Type and shape of one operand, as the profiler writes them."""
    ((kind, shape),) = entry.items()
    return kind, tuple(shape)
