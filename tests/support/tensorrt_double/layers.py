"""The layers of an engine: what is fused, what each computes in, and how the inspector writes it.

A convolution or matrix product takes the addition of a residual, the activation and the quantiser behind it
into itself, and reads INT8 where its operands are dequantised; everything else stays one layer per node. A
real engine fuses more (Myelin makes one layer of a whole stretch).

The form of 10 is that of the logs in NVIDIA/TensorRT#4020 and #3737. Version 11 has 'I/O Tensors' for
'Bindings' and two fields for 'Format/Datatype' (NVIDIA's page on moving from 10 to 11, IEngineInspector);
the names of the two within a layer are taken from its example of an I/O tensor.
"""

from __future__ import annotations

from typing import Any

_DYNAMIC = "N/A due to dynamic shapes"
_FORMATS = {
    "FLOAT": "Row major linear FP32",
    "HALF": "Row major linear FP16 format",
    "INT8": "Row major Int8 format",
    "INT32": "Row major INT32 format",
    "INT64": "Row major INT64 format",
    "BOOL": "Row major Bool",
    "UINT8": "Row major UInt8",
}
_TYPES = {
    "FLOAT": "Float",
    "HALF": "Half",
    "INT8": "Int8",
    "INT32": "Int32",
    "INT64": "Int64",
    "BOOL": "Bool",
}
_PRODUCTS = {
    "CONVOLUTION": "CaskConvolution",
    "DECONVOLUTION": "CaskDeconvolution",
    "MATRIX_MULTIPLY": "CaskGemm",
}
_TACTICS = {
    "INT8": "ampere_xmma_fprop_implicit_gemm_i8i8_i8i32_f32_nchw_vect_c_32",
    "HALF": "ampere_h16816cudnn_fprop_f16f16_f16f16_f16_nhwckrsc_nhwc",
    "FLOAT": "ampere_scudnn_fprop_f32f32_f32f32_f32_nchwkcrs_nchw",
}


def engine_layers(network: Any) -> list[dict[str, Any]]:
    """The layers of the engine that `network` becomes: name, type, nodes, tensors with their types."""
    layers = list(network._layers)
    graph = _Graph(layers)
    done: set[int] = set()
    made = []
    for layer in layers:
        if id(layer) in done or layer.type.name in ("CONSTANT", "SHAPE"):
            continue
        if layer.type.name == "DEQUANTIZE" and all(graph.in_int8(user) for user in graph.users(layer)):
            continue  # part of what reads it
        group = graph.fused(layer, done)
        done |= {id(one) for one in group}
        made.append(_describe(group, graph, network._trt._double.float_layers))
    return made


class _Graph:
    """Who makes and who reads each tensor."""

    def __init__(self, layers: list[Any]) -> None:
        self._makers = {tensor.name: layer for layer in layers for tensor in layer._outputs}
        self._readers: dict[str, list[Any]] = {}
        for layer in layers:
            for tensor in layer._inputs:
                self._readers.setdefault(tensor.name, []).append(layer)

    def maker(self, tensor: Any) -> Any:
        return self._makers.get(tensor.name)

    def users(self, layer: Any) -> list[Any]:
        return [reader for tensor in layer._outputs for reader in self._readers.get(tensor.name, [])]

    def is_dequantised(self, tensor: Any) -> bool:
        maker = self.maker(tensor)
        return maker is not None and maker.type.name == "DEQUANTIZE"

    def takes_int8(self, layer: Any) -> bool:
        """Whether a layer multiplies, and reads its data through a DequantizeLinear."""
        return layer.type.name in _PRODUCTS and self.is_dequantised(layer._inputs[0])

    def in_int8(self, layer: Any) -> bool:
        """Whether a layer is a product that reads INT8, or the addition of a residual to one."""
        makers = [self.maker(tensor) for tensor in layer._inputs]
        residual = layer.type.name == "ELEMENTWISE" and any(
            maker and self.takes_int8(maker) for maker in makers
        )
        return residual or self.takes_int8(layer)

    def fused(self, layer: Any, done: set[int]) -> list[Any]:
        """A product with the addition, activation and quantiser that alone read it; else the layer itself."""
        group = [layer]
        if layer.type.name not in _PRODUCTS:
            return group
        for kind in ("ELEMENTWISE", "ACTIVATION", "QUANTIZE"):
            users = self.users(group[-1])
            seen = group[-1]._outputs[0]._side == "output"
            if len(users) == 1 and users[0].type.name == kind and id(users[0]) not in done and not seen:
                group.append(users[0])
        return group


def _describe(group: list[Any], graph: _Graph, stuck: set[str]) -> dict[str, Any]:
    first, last = group[0], group[-1]
    kind = first.type.name
    quantised = graph.takes_int8(first) and first.name not in stuck
    within = {tensor.name for layer in group for tensor in layer._outputs}
    inputs = []
    for tensor in (tensor for layer in group for tensor in layer._inputs if tensor.name not in within):
        maker = graph.maker(tensor)
        if maker is not None and maker.type.name == "DEQUANTIZE" and quantised:
            tensor, maker = maker._inputs[0], graph.maker(maker._inputs[0])
        if maker is None or maker.type.name != "CONSTANT":
            inputs.append(_tensor(tensor))
    precision = "INT8" if quantised else first._outputs[0]._dtype.name
    product = kind in _PRODUCTS
    return {
        "name": " + ".join(layer.name for layer in group),
        "type": _PRODUCTS.get(kind, "Reformat" if kind in ("QUANTIZE", "DEQUANTIZE", "CAST") else "kgen"),
        "parameter": kind.title().replace("_", ""),
        "metadata": "\x1f".join(layer.metadata for layer in group),
        "inputs": inputs,
        "outputs": [_tensor(tensor) for tensor in last._outputs],
        "weights": precision if product else "",
        "tactic": _TACTICS.get(precision, "") if product else "",
    }


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "type": tensor._dtype.name, "shape": list(tensor._shape)}


def write_layer(layer: dict[str, Any], size: int | None, *, split: bool) -> dict[str, Any]:
    """A layer as the inspector writes it with detailed verbosity.

    Args:
        layer: of `engine_layers`.
        size: what the free size is in the context that is inspected, None without one.
        split: as version 11 does, with format and type apart.
    """
    written: dict[str, Any] = {
        "Name": layer["name"],
        "LayerType": layer["type"],
        "Inputs": [_write_tensor(tensor, size, split) for tensor in layer["inputs"]],
        "Outputs": [_write_tensor(tensor, size, split) for tensor in layer["outputs"]],
        "ParameterType": layer["parameter"],
    }
    if layer["weights"]:
        written["Weights"] = {"Type": _TYPES[layer["weights"]], "Count": 1}
        written["TacticName"] = layer["tactic"]
    return written | {"TacticValue": "0x0000000000000000", "StreamId": 0, "Metadata": layer["metadata"]}


def _write_tensor(tensor: dict[str, Any], size: int | None, split: bool) -> dict[str, Any]:
    """A tensor; the format of one with a free size depends on the size, so it is not said."""
    shape = [size if axis == -1 and size else axis for axis in tensor["shape"]]
    form = _DYNAMIC if -1 in shape else _FORMATS.get(tensor["type"], tensor["type"])
    written = {"Name": tensor["name"], "Location": "Device", "Dimensions": shape}
    if split:
        return written | {"Format": form, "DataType": _TYPES.get(tensor["type"], tensor["type"])}
    return written | {"Format/Datatype": form}
