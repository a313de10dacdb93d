"""Which engine runs a bundle's graphs."""

from __future__ import annotations

import importlib.util
import sys
from typing import Literal, get_args

from edgeemo.errors import InputError, shown
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.graph import Graph
from edgeemo.inference.onnx_files import OnnxFiles

Backend = Literal["auto", "onnx", "tensorrt"]
Precision = Literal["int8", "fp16", "fp32"]


def open_graphs(
    bundle: Bundle, backend: str = "auto", precision: str = "int8", threads: int = 1
) -> dict[str, Graph]:
    """Open every graph of a bundle, each from the bytes whose sha256 was just found right.

    A graph without a file of the precision (fusion has FP32 alone) runs in FP32. So does the whole bundle,
    with a warning, where INT8 would saturate on this processor or where no graph has the precision.

    TensorRT runs engines that 'edgeemo build' built and kept; what is missing is built now, which takes
    minutes, and kept.

    Args:
        bundle: the bundle.
        backend: 'onnx', ONNX Runtime on the CPU; 'tensorrt', on an NVIDIA GPU; 'auto', for each graph the
            faster of the two on this device, and ONNX Runtime where there is no TensorRT or where it fails,
            also in the middle of a stream.
        precision: 'int8', 'fp16' or 'fp32'.
        threads: threads of one run in ONNX Runtime, at least 1.

    Returns:
        The opened graphs by name: one per modality, and 'fusion'.

    Raises:
        InputError: an unknown backend or precision, or `threads` below 1.
        BackendError: the backend is not there.
        BundleError: a file is not the one that the manifest describes.
    """
    if backend not in get_args(Backend):
        raise InputError(f"backend is {shown(backend)}; it must be one of {', '.join(get_args(Backend))}")
    if precision not in get_args(Precision):
        raise InputError(
            f"precision is {shown(precision)}; it must be one of {', '.join(get_args(Precision))}"
        )
    if backend == "onnx" or (backend == "auto" and not tensorrt_installed()):
        files = OnnxFiles.choose(bundle, precision, threads)
        files.warn()
        return {name: files.open(spec) for name, spec in bundle.graphs.items()}
    # Nothing of CUDA is imported where no engine is asked for.
    from edgeemo.inference import accelerated

    if backend == "tensorrt":
        return accelerated.open_tensorrt(bundle, precision)
    return accelerated.open_faster(bundle, precision, threads)


def tensorrt_installed() -> bool:
    """Whether there is a Python module of TensorRT; it is not imported, so it may still not work."""
    return "tensorrt" in sys.modules or importlib.util.find_spec("tensorrt") is not None
