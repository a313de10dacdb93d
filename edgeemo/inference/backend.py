"""Which engine runs a bundle's graphs, and from which file of each."""

from __future__ import annotations

import logging
from typing import Literal, get_args

from edgeemo.errors import BackendError, BundleError, InputError, shown
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.graph import Graph
from edgeemo.inference.ort import OrtGraph
from edgeemo.inference.probe import saturates
from edgeemo.inference.spec import GraphSpec

Backend = Literal["auto", "onnx", "tensorrt"]
Precision = Literal["int8", "fp16", "fp32"]

_log = logging.getLogger("edgeemo")
# ONNX Runtime is fast with U8 activations alone, so that INT8 has an encoding of its own for it.
_ENCODING = {"int8": "int8-cpu", "fp16": "fp16", "fp32": "fp32"}


def open_graphs(
    bundle: Bundle, backend: str = "auto", precision: str = "int8", threads: int = 1
) -> dict[str, Graph]:
    """Open every graph of a bundle, each from the bytes whose sha256 was just found right.

    A graph without a file of the precision (fusion has FP32 alone) runs in FP32. So does the whole bundle,
    with a warning, where INT8 would saturate on this processor or where no graph has the precision.

    Args:
        bundle: the bundle.
        backend: 'auto' or 'onnx', both ONNX Runtime on the CPU; 'tensorrt' is not in this version.
        precision: 'int8', 'fp16' or 'fp32'.
        threads: threads of one run, at least 1.

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
    if backend == "tensorrt":
        raise BackendError("backend 'tensorrt' is not in this version of edgeemo; use 'onnx' or 'auto'")
    encoding = _encoding(bundle, precision)
    return {name: _open(bundle, spec, encoding, threads) for name, spec in bundle.graphs.items()}


def _encoding(bundle: Bundle, precision: str) -> str:
    encoding = _ENCODING[precision]
    if not any(encoding in spec.files for spec in bundle.graphs.values()):
        _log.warning("bundle %s has no %s graphs for ONNX Runtime: it runs in FP32", bundle.name, precision)
        return "fp32"
    if precision == "int8" and saturates():
        _log.warning(
            "INT8 products saturate on this processor (x86 without VNNI): %s runs in FP32", bundle.name
        )
        return "fp32"
    return encoding


def _open(bundle: Bundle, spec: GraphSpec, encoding: str, threads: int) -> Graph:
    if encoding not in spec.files:
        encoding = "fp32"
    model = bundle.read_file(spec.files[encoding])
    try:
        return OrtGraph(model, spec, encoding=encoding, threads=threads)
    except BundleError as error:
        raise BundleError(f"bundle {bundle.path}: {error}") from error.__cause__
