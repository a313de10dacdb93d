"""Writes the graphs that `edgeemo.bench.rate` ships: the product of two given matrices, in each precision.

Run as `python -m tests.support.product_graphs`. INT8 is U8 by S8, as in the graphs for ONNX Runtime.
"""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto, TensorProto, checker, helper

import edgeemo.bench

FOLDER = Path(edgeemo.bench.__path__[0])
SHIPPED = {precision: FOLDER / f"product.{precision}.onnx" for precision in ("int8", "fp32")}
_FORMS = {
    "int8": ("MatMulInteger", TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32),
    "fp32": ("MatMul", TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT),
}


def build(precision: str) -> ModelProto:
    operator, first, second, result = _FORMS[precision]
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["product"])],
        f"product in {precision}",
        [
            helper.make_tensor_value_info("a", first, ["M", "K"]),
            helper.make_tensor_value_info("b", second, ["K", "N"]),
        ],
        [helper.make_tensor_value_info("product", result, ["M", "N"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    for precision, path in SHIPPED.items():
        path.write_bytes(build(precision).SerializeToString(deterministic=True))
