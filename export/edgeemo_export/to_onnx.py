"""Writes a module as an ONNX graph and proves that the graph computes the same."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edgeemo.inference.ort import import_onnxruntime

OPSET, HIGHEST_IR = 18, 10
TOLERANCE = 1e-4


class ExportError(RuntimeError):
    """A graph that does not compute what the module computes, or is not what a bundle may hold."""


def write(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: list[str],
    path: Path,
    batched: tuple[str, ...] = (),
) -> None:
    """Write ``module`` in evaluation mode to ``path`` and compare the file with it.

    Args:
        module: called with the inputs in their order.
        inputs: an example of each input; where ``batched``, with at least two rows.
        outputs: a name for each output.
        path: the ONNX file.
        batched: inputs whose first axis is the symbolic ``N``.

    Raises:
        ExportError: if opset or IR are not what a bundle may hold, or outputs differ by more than 1e-4.
    """
    module.eval()
    rows = torch.export.Dim("N", min=1, max=64)
    shapes = {name: ({0: rows} if name in batched else {}) for name in inputs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=tuple(shapes.values()) if batched else None,
            verbose=False,
        )
        assert program is not None
    model = _clean(program.model_proto).SerializeToString()
    _compare(module, inputs, model, path.name)
    path.write_bytes(model)


def _clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what the exporter notes about the machine it ran on, and check versions."""
    for item in [
        model,
        model.graph,
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
    ]:
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    for tensor in model.graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")
    model.graph.ClearField("value_info")
    model.producer_name, model.producer_version = "edgeemo", ""
    model.ir_version = min(model.ir_version, HIGHEST_IR)
    opsets = {item.domain: item.version for item in model.opset_import if item.domain in ("", "ai.onnx")}
    if list(opsets.values()) not in ([17], [18]) or model.functions:
        raise ExportError(
            f"the graph has opset {opsets} and {len(model.functions)} functions; "
            "it should have opset 17 or 18 and none"
        )
    onnx.checker.check_model(model, full_check=True)
    return model


def _compare(module: nn.Module, inputs: Mapping[str, Tensor], model: bytes, name: str) -> None:
    session = import_onnxruntime().InferenceSession(model, providers=["CPUExecutionProvider"])
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    with torch.no_grad():
        expected = module(*inputs.values())
    expected = expected if isinstance(expected, tuple) else (expected,)
    for value, reference, output in zip(found, expected, session.get_outputs(), strict=True):
        worst = float(np.abs(value - reference.numpy()).max())
        if not worst <= TOLERANCE:
            raise ExportError(
                f"{name}: output '{output.name}' differs from the module by {worst:.2g}; "
                f"at most {TOLERANCE} is right"
            )
