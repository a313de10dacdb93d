"""A `tensorrt` that computes with ONNX Runtime and is held to the real modules of two versions.

    with tensorrt_double.installed("10.3.0", device) as trt:
        ...                                   # `import tensorrt` gives this module
        trt._double.refuse_build = "..."      # see `Knobs`

Its names and signatures are exactly those of the version (`guard`, `surface`); what it refuses, it refuses in
TensorRT's words (`rules`, `builder`, `plan`, `runtime`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.tensorrt_double import builder, network, parser, runtime, values
from tests.support.tensorrt_double.guard import make_module
from tests.support.tensorrt_double.knobs import Knobs
from tests.support.tensorrt_double.surface import load_surface

BEHAVIOUR: dict[str, type] = {
    name: vars(module)[name]
    for module, names in (
        (values, ("ILogger", "Logger", "IProgressMonitor", "Dims", "IHostMemory", "DataType")),
        (network, ("INetworkDefinition", "ILayer", "ITensor")),
        (parser, ("OnnxParser", "ParserError")),
        (builder, ("Builder", "IBuilderConfig", "ITimingCache", "IOptimizationProfile")),
        (runtime, ("Runtime", "ICudaEngine", "IExecutionContext", "EngineInspector", "IRuntimeConfig")),
    )
    for name in names
}


class _Functions:
    """The functions of the module."""

    @staticmethod
    def volume(iterable: Any) -> int:
        product = 1
        for item in iterable:
            product *= item
        return product

    @staticmethod
    def nptype(trt_type: Any) -> Any:
        try:
            return runtime.NUMPY[trt_type.name]
        except KeyError:
            raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.") from None

    @staticmethod
    def init_libnvinfer_plugins(logger: Any, namespace: str) -> bool:
        return True


@contextmanager
def installed(version: str, device: Any) -> Iterator[Any]:
    """Put the double of `version` into `sys.modules` as `tensorrt`, and what was there back after.

    Args:
        version: '10.3.0' or '11.4.0.106'.
        device: the emulated CUDA device: `enqueue(stream, work)`, `read(address, size)`, `write(address,
        data)`.
    """
    module = make_module(version, load_surface(version), {**BEHAVIOUR, "module": _Functions})
    module._double = Knobs(device, version)
    before = sys.modules.get("tensorrt")
    sys.modules["tensorrt"] = module
    try:
        yield module
    finally:
        del sys.modules["tensorrt"]
        if before is not None:
            sys.modules["tensorrt"] = before
