"""CUDA's driver over cuda-python: `cuda.bindings.driver` of 12.x and 13.x, `cuda.cuda` before it."""

from __future__ import annotations

import ctypes
import importlib
import re
from contextlib import suppress
from types import ModuleType
from typing import Any

import numpy as np

from edgeemo.inference.cuda_driver import (
    CU_EVENT_BLOCKING_SYNC,
    CU_EVENT_DEFAULT,
    CU_STREAM_NON_BLOCKING,
    NO_DRIVER,
    OLD_DRIVER,
    CudaError,
    CudaUnusable,
    Facts,
    HostMemory,
)

# How the binding says that libcuda.so.1 is there but lacks a function.
_NO_FUNCTION = re.compile(r"cuGetProcAddress|function \"?cu\w+\"? (is )?not found", re.IGNORECASE)
_UNKNOWN_CODE = re.compile(r"(\d+) is not a valid CUresult")
_NAME_LENGTH = 256


class CudaPython:
    """The calls of `Driver` over cuda-python.

    Args:
        api: the module `cuda.bindings.driver`, or `cuda.cuda`.
    """

    def __init__(self, api: ModuleType) -> None:
        parent = importlib.import_module(api.__name__.rpartition(".")[0])
        self.binding = f"cuda-python {getattr(parent, '__version__', '(version unknown)')}"
        self.captures = True
        self._api = api
        self._device: Any = None
        self._context: Any = None

    def open(self, device: int) -> Facts:
        """Initialise the driver and retain the primary context of a device.

        Raises:
            BackendError: libcuda.so.1 is not there, or older than the binding can do with.
            CudaError: a call failed.
        """
        self._call("cuInit", 0)
        self._device = self._call("cuDeviceGet", device)
        attributes = self._api.CUdevice_attribute
        version = self._call("cuDriverGetVersion")
        facts = Facts(
            # The binding hands out the whole buffer that the driver wrote a C string into.
            name=self._call("cuDeviceGetName", _NAME_LENGTH, self._device).split(b"\0")[0].decode(),
            capability=(
                self._attribute(attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
                self._attribute(attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
            ),
            driver=(version // 1000, version % 1000 // 10),
            integrated=bool(self._attribute(attributes.CU_DEVICE_ATTRIBUTE_INTEGRATED)),
            maps_memory=bool(self._attribute(attributes.CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY)),
            memory=int(self._call("cuDeviceTotalMem", self._device)),
        )
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        return facts

    def push(self) -> None:
        """Make the context current on this thread."""
        self._call("cuCtxPushCurrent", self._context)

    def pop(self) -> None:
        """Make the context current that was so before."""
        self._call("cuCtxPopCurrent")

    def release(self) -> None:
        """Give the primary context back."""
        self._call("cuDevicePrimaryCtxRelease", self._device)

    def create_stream(self) -> tuple[Any, int]:
        """A stream and its raw handle."""
        stream = self._call("cuStreamCreate", CU_STREAM_NON_BLOCKING)
        return stream, int(stream)

    def destroy_stream(self, stream: Any) -> None:
        """Destroy a stream."""
        self._call("cuStreamDestroy", stream)

    def synchronize(self, stream: Any) -> None:
        """Wait until all work on the stream is done."""
        self._call("cuStreamSynchronize", stream)

    def allocate(self, size: int) -> tuple[Any, int]:
        """Device memory and its address."""
        memory = self._call("cuMemAlloc", size, size=size)
        return memory, int(memory)

    def free(self, memory: Any) -> None:
        """Free device memory."""
        self._call("cuMemFree", memory)

    def pin(self, size: int, mapped: bool) -> HostMemory:
        """Page-locked host memory, mapped for the device or not."""
        address = self._call(
            "cuMemHostAlloc", size, self._api.CU_MEMHOSTALLOC_DEVICEMAP if mapped else 0, size=size
        )
        try:
            seen = int(self._call("cuMemHostGetDevicePointer", address, 0)) if mapped else None
        except CudaError:
            with suppress(CudaError):  # the first error is the one to tell
                self._call("cuMemFreeHost", address)
            raise
        array = np.ctypeslib.as_array((ctypes.c_ubyte * size).from_address(address))
        return HostMemory(address, array, address, seen)

    def unpin(self, memory: HostMemory) -> None:
        """Free page-locked host memory."""
        self._call("cuMemFreeHost", memory.handle)

    def upload(self, target: int, source: HostMemory, size: int, stream: Any) -> None:
        """Copy the first `size` bytes to the device."""
        self._call("cuMemcpyHtoDAsync", target, source.address, size, stream)

    def download(self, target: HostMemory, source: int, size: int, stream: Any) -> None:
        """Copy the first `size` bytes from the device."""
        self._call("cuMemcpyDtoHAsync", target.address, source, size, stream)

    def begin_capture(self, stream: Any) -> None:
        """Begin to record."""
        # Thread-local: an allocation on another thread meanwhile neither fails nor spoils the capture.
        mode = self._api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)

    def end_capture(self, stream: Any) -> Any:
        """The executable graph of what was recorded."""
        graph = self._call("cuStreamEndCapture", stream)
        try:
            executable = self._call("cuGraphInstantiate", graph, 0)
        except CudaError:
            with suppress(CudaError):  # the first error is the one to tell
                self._call("cuGraphDestroy", graph)
            raise
        self._call("cuGraphDestroy", graph)
        return executable

    def abandon_capture(self, stream: Any) -> None:
        """End a capture and throw its graph away."""
        self._call("cuGraphDestroy", self._call("cuStreamEndCapture", stream))

    def launch(self, graph: Any, stream: Any) -> None:
        """Put a graph's work on the stream."""
        self._call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        """Destroy an executable graph."""
        self._call("cuGraphExecDestroy", graph)

    def create_event(self, blocking: bool) -> Any:
        """An event that takes the time."""
        return self._call("cuEventCreate", CU_EVENT_BLOCKING_SYNC if blocking else CU_EVENT_DEFAULT)

    def record(self, event: Any, stream: Any) -> None:
        """Put the event on the stream."""
        self._call("cuEventRecord", event, stream)

    def wait(self, event: Any) -> None:
        """Wait until the stream has passed the event."""
        self._call("cuEventSynchronize", event)

    def elapsed(self, start: Any, end: Any) -> float:
        """Milliseconds between two events."""
        return float(self._call("cuEventElapsedTime", start, end))

    def destroy_event(self, event: Any) -> None:
        """Destroy an event."""
        self._call("cuEventDestroy", event)

    def _attribute(self, attribute: Any) -> int:
        return int(self._call("cuDeviceGetAttribute", attribute, self._device))

    def _call(self, name: str, *arguments: Any, size: int | None = None) -> Any:
        """Make a call and answer what it gives beside its code; `size` is for the message alone."""
        told = name if size is None else f"{name} of {size} bytes"
        try:
            code, *values = getattr(self._api, name)(*arguments)
        except (
            RuntimeError
        ) as error:  # the binding loads libcuda.so.1, and functions of it, when they are called
            raise self._unreachable(error) from error
        except ValueError as error:  # a driver newer than the binding has codes that the binding cannot say
            unknown = _UNKNOWN_CODE.search(str(error))
            if not unknown:
                raise
            raise CudaError(told, f"CUDA_ERROR_{unknown[1]}", "a code unknown to the binding") from error
        if code:
            raise CudaError(told, code.name, self._description(code))
        return values[0] if values else None

    def _unreachable(self, error: RuntimeError) -> CudaUnusable:
        if _NO_FUNCTION.search(str(error)):
            return CudaUnusable(f"the NVIDIA driver is too old for {self.binding} ({error})", OLD_DRIVER)
        what = f"{self.binding} does not find the NVIDIA driver's libcuda.so.1 ({error})"
        return CudaUnusable(what, NO_DRIVER)

    def _description(self, code: Any) -> str:
        failed, text = self._api.cuGetErrorString(code)
        return "no description" if failed else text.decode()
