"""Which of a bundle's files ONNX Runtime runs."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from edgeemo.errors import BundleError
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.ort import OrtGraph
from edgeemo.inference.probe import saturates
from edgeemo.inference.spec import GraphSpec

_log = logging.getLogger("edgeemo")
# ONNX Runtime is fast with U8 activations alone, so that INT8 has an encoding of its own for it.
_ENCODING = {"int8": "int8-cpu", "fp16": "fp16", "fp32": "fp32"}


@dataclass(frozen=True)
class OnnxFiles:
    """Which files of a bundle ONNX Runtime runs.

    Args:
        bundle: the bundle.
        encoding: of every graph that has it; the others run in FP32.
        threads: threads of one run.
        warning: why it is not the encoding that was asked for, empty when it is.
    """

    bundle: Bundle
    encoding: str
    threads: int
    warning: str = ""

    @classmethod
    def choose(cls, bundle: Bundle, precision: str, threads: int) -> OnnxFiles:
        """The files for a precision; FP32 where the bundle or the processor is not made for it."""
        encoding = _ENCODING[precision]
        if not any(encoding in spec.files for spec in bundle.graphs.values()):
            why = f"bundle {bundle.name} has no {precision} graphs for ONNX Runtime: it runs in FP32"
            return cls(bundle, "fp32", threads, why)
        if precision == "int8" and saturates():
            why = f"INT8 products saturate on this processor (x86 without VNNI): {bundle.name} runs in FP32"
            return cls(bundle, "fp32", threads, why)
        return cls(bundle, encoding, threads)

    def warn(self) -> None:
        """Say why it is another encoding."""
        if self.warning:
            _log.warning("%s", self.warning)

    def file(self, spec: GraphSpec) -> tuple[str, str]:
        """Encoding and name of the file of one graph."""
        encoding = self.encoding if self.encoding in spec.files else "fp32"
        return encoding, spec.files[encoding]

    def open(self, spec: GraphSpec) -> OrtGraph:
        """Open one graph.

        Raises:
            BackendError, BundleError, InputError: as `OrtGraph` does.
        """
        encoding, file = self.file(spec)
        model = self.bundle.read_file(file)
        try:
            return OrtGraph(model, spec, encoding=encoding, threads=self.threads)
        except BundleError as error:
            raise BundleError(f"bundle {self.bundle.path}: {error}") from error.__cause__
