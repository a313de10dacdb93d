from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.float32]
SIZE = 12


class Net:
    """Writes a small graph node by node: an FP32 front end, a trunk of convolutions, a float head."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def conv(self, source: str, name: str, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> str:
        weight = self.random.normal(0, (inputs * size * size) ** -0.5, (outputs, inputs, size, size))
        # Channels of different reach, so that one scale for all of them would be wrong.
        weight *= np.linspace(0.3, 2.0, outputs)[:, None, None, None]
        names = [self.constant(f"{name}.weight", weight)]
        names.append(self.constant(f"{name}.bias", self.random.normal(0, 0.1, outputs)))
        return self.add(
            "Conv",
            [source, *names],
            name,
            pads=[size // 2] * 4,
            strides=[stride] * 2,
            kernel_shape=[size] * 2,
        )

    def relu(self, source: str) -> str:
        return self.add("Relu", [source], f"{source}.relu")

    def block(self, source: str, name: str, inputs: int, outputs: int, skip_first: bool) -> str:
        stride = 1 if inputs == outputs else 2
        inner = self.relu(self.conv(source, f"{name}.conv1", inputs, outputs, stride=stride))
        inner = self.conv(inner, f"{name}.conv2", outputs, outputs)
        skip = source if stride == 1 else self.conv(source, f"{name}.skip", inputs, outputs, 1, stride)
        return self.relu(self.add("Add", [skip, inner] if skip_first else [inner, skip], f"{name}.sum"))

    def model(
        self, inputs: dict[str, Any], outputs: dict[str, Any], opset: int = 18, ir: int = 10
    ) -> onnx.ModelProto:
        def values(entries: dict[str, Any]) -> list[onnx.ValueInfoProto]:
            return [helper.make_tensor_value_info(name, *entry) for name, entry in entries.items()]

        graph = helper.make_graph(self.nodes, "net", values(inputs), values(outputs), self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def residual_net(skip_first: bool = False, **versions: int) -> onnx.ModelProto:
    """Uint8 faces through a float convolution, a stem, an identity and a projected block, mean and head."""
    net = Net()
    x = net.add("Cast", ["face"], "float", to=TensorProto.FLOAT)
    x = net.add(
        "Sub", [net.add("Div", [x, net.constant("levels", 255.0)], "unit"), net.constant("half", 0.5)], "x"
    )
    x = net.conv(x, "front.basis", 1, 2)
    x = net.relu(net.conv(x, "trunk.stem", 2, 8))
    x = net.block(x, "trunk.0", 8, 8, skip_first)
    x = net.block(x, "trunk.1", 8, 16, skip_first)
    x = net.add("Flatten", [net.add("GlobalAveragePool", [x], "pooled")], "flat")
    weight = net.constant("head.weight", net.random.normal(0, 0.25, (4, 16)))
    net.add("Gemm", [x, weight, net.constant("head.bias", np.ones(4))], "tokens", transB=1)
    face = (TensorProto.UINT8, ["N", 1, SIZE, SIZE])
    return net.model({"face": face}, {"tokens": (TensorProto.FLOAT, ["N", 4])}, **versions)


@pytest.fixture
def save(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    def write(model: onnx.ModelProto) -> Path:
        path = tmp_path / "net.fp32.onnx"
        onnx.save_model(model, path)
        return path

    return write


@pytest.fixture
def residual() -> Callable[..., onnx.ModelProto]:
    return residual_net


@pytest.fixture(scope="session")
def new_net() -> type[Net]:
    return Net


@pytest.fixture
def faces() -> list[dict[str, NDArray[np.uint8]]]:
    random = np.random.default_rng(1)
    return [{"face": random.integers(0, 256, (4, 1, SIZE, SIZE), dtype=np.uint8)} for _ in range(4)]
