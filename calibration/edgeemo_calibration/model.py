"""Reads FP32 ONNX files, and holds graphs to the versions that every engine reads."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx

from edgeemo.errors import InputError

OPSETS = (17, 18)
NEWEST_IR = 10


def read_model(path: str | Path) -> tuple[onnx.ModelProto, str]:
    """Read an FP32 ONNX file, with the sha256 of its bytes.

    Raises:
        InputError: the file is missing, is not a valid ONNX graph, keeps its weights elsewhere, or is of an
            opset or IR that the engines do not share.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's decoding errors share no public root across its versions
        raise InputError(f"{path}: is not an ONNX file: {error}") from error
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise InputError(f"{path}: keeps weights in other files; export it with the weights inside")
    check_model(model, str(path))
    return model, hashlib.sha256(content).hexdigest()


def check_model(model: onnx.ModelProto, name: str) -> None:
    """Hold a graph to the ONNX rules and to the versions that every engine reads.

    Raises:
        InputError: the opset is not 17 or 18, the IR is above 10, or the graph is not valid; the message
            begins with ``name``.
    """
    opset = {imported.domain: imported.version for imported in model.opset_import}.get("", 0)
    if opset not in OPSETS:
        raise InputError(f"{name}: opset is {opset}; it must be {' or '.join(map(str, OPSETS))}")
    if model.ir_version > NEWEST_IR:
        raise InputError(f"{name}: IR version is {model.ir_version}; it must be at most {NEWEST_IR}")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InputError(f"{name}: is not a valid ONNX graph: {error}") from error
