"""Writes the graph that `edgeemo.inference.probe` ships: a MatMulInteger, U8 [1, 8] by a constant S8 [8, 8].

Run as `python -m tests.support.probe_graph`. The constant is 127 throughout: where U8 by S8 products are
summed in pairs in 16 bits, 2 * 255 * 127 does not fit. Seen to saturate with onnxruntime 1.31.1 on the
Haswell and the Skylake-Server that `qemu-x86_64 -cpu` emulates.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

import edgeemo.inference

SHIPPED = Path(edgeemo.inference.__path__[0]) / "u8s8.onnx"


def build() -> ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["product"])],
        "u8s8",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [1, 8])],
        [helper.make_tensor_value_info("product", TensorProto.INT32, [1, 8])],
        [numpy_helper.from_array(np.full((8, 8), 127, np.int8), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    SHIPPED.write_bytes(build().SerializeToString(deterministic=True))
