"""TensorRT opened over the doubles of its module and of CUDA, and engines built there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from edgeemo.inference.bundle import Bundle
from edgeemo.inference.trt import TensorRt, TrtGraph
from edgeemo.inference.trt_builder import Built, Settings, build
from tests.support import cuda_double, tensorrt_double
from tests.support.real_tensorrt import VERSIONS

BINDINGS = ("cuda-python", "pycuda")


@dataclass(frozen=True)
class Opened:
    """An opened library with the emulated device and the module below it."""

    library: TensorRt
    device: cuda_double.Device
    trt: Any

    @property
    def knobs(self) -> Any:
        return self.trt._double

    def build(self, bundle: Bundle, name: str, encoding: str = "fp32", **options: Any) -> Built:
        """Build a graph of a bundle; `options` are of `Settings` and of `build`."""
        spec = bundle.graphs[name]
        model = bundle.read_file(spec.files[encoding])
        called = {key: options.pop(key) for key in ("timing_cache", "progress") if key in options}
        return build(self.library, model, spec, Settings(**options), **called)

    def open(self, bundle: Bundle, name: str, encoding: str = "fp32", most: int = 16) -> TrtGraph:
        """Build a graph of a bundle and open its engine."""
        plan = self.build(bundle, name, encoding, most=most).plan
        return TrtGraph(plan, bundle.graphs[name], self.library, encoding=encoding, most=most)


@contextmanager
def opened(
    version: str = VERSIONS[0], binding: str = BINDINGS[0], *, clean: bool = True, **options: Any
) -> Iterator[Opened]:
    """Open TensorRT on an emulated device; what is not freed when it is closed fails the test.

    Args:
        version: of TensorRT.
        binding: of CUDA.
        clean: whether a healthy device must be left clean.
        options: of `cuda_double.installed`.
    """
    with (
        cuda_double.installed(binding, **options) as device,
        tensorrt_double.installed(version, device) as trt,
    ):
        library = TensorRt.open()
        try:
            yield Opened(library, device, trt)
        finally:
            library.close()
        if clean:
            device.assert_clean()
