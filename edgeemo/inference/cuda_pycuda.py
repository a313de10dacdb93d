"""CUDA's driver over `pycuda.driver`, never over `pycuda.autoinit`, which makes a context of its own."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from edgeemo.inference.cuda_driver import (
    CU_EVENT_BLOCKING_SYNC,
    CU_EVENT_DEFAULT,
    CU_STREAM_NON_BLOCKING,
    CudaError,
    Facts,
    HostMemory,
)

# pycuda's errors carry the driver's description of a code and not the code.
CODES = {
    "invalid argument": "CUDA_ERROR_INVALID_VALUE",
    "out of memory": "CUDA_ERROR_OUT_OF_MEMORY",
    "initialization error": "CUDA_ERROR_NOT_INITIALIZED",
    "driver shutting down": "CUDA_ERROR_DEINITIALIZED",
    "CUDA driver is a stub library": "CUDA_ERROR_STUB_LIBRARY",
    "API call is not supported in the installed CUDA driver": "CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER",
    "CUDA-capable device(s) is/are busy or unavailable": "CUDA_ERROR_DEVICE_UNAVAILABLE",
    "no CUDA-capable device is detected": "CUDA_ERROR_NO_DEVICE",
    "invalid device ordinal": "CUDA_ERROR_INVALID_DEVICE",
    "invalid device context": "CUDA_ERROR_INVALID_CONTEXT",
    "uncorrectable ECC error encountered": "CUDA_ERROR_ECC_UNCORRECTABLE",
    "OS call failed or operation not supported on this OS": "CUDA_ERROR_OPERATING_SYSTEM",
    "invalid resource handle": "CUDA_ERROR_INVALID_HANDLE",
    "the operation cannot be performed in the present state": "CUDA_ERROR_ILLEGAL_STATE",
    "device not ready": "CUDA_ERROR_NOT_READY",
    "an illegal memory access was encountered": "CUDA_ERROR_ILLEGAL_ADDRESS",
    "too many resources requested for launch": "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
    "the launch timed out and was terminated": "CUDA_ERROR_LAUNCH_TIMEOUT",
    "context is destroyed": "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "device-side assert triggered": "CUDA_ERROR_ASSERT",
    "hardware stack error": "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "an illegal instruction was encountered": "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "misaligned address": "CUDA_ERROR_MISALIGNED_ADDRESS",
    "operation not supported on global/shared address space": "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "invalid program counter": "CUDA_ERROR_INVALID_PC",
    "unspecified launch failure": "CUDA_ERROR_LAUNCH_FAILED",
    "operation not permitted": "CUDA_ERROR_NOT_PERMITTED",
    "operation not supported": "CUDA_ERROR_NOT_SUPPORTED",
    "system not yet initialized": "CUDA_ERROR_SYSTEM_NOT_READY",
    "system has unsupported display driver / cuda driver combination": "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
    "forward compatibility was attempted on non supported HW": "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
    "operation not permitted when stream is capturing": "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
    "operation failed due to a previous error during capture": "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
    "unknown error": "CUDA_ERROR_UNKNOWN",
}


class Owned:
    """Holds the one reference to an object of pycuda, which frees with its last reference what it stands for.

    The handle of a stream may live on in the frames of an error that somebody keeps; what is in it does not.

    Attributes:
        thing: the object, None when it was freed.
    """

    __slots__ = ("thing",)

    def __init__(self, thing: Any) -> None:
        self.thing = thing


class PyCuda:
    """The calls of `Driver` over pycuda, which prints what goes wrong when it frees instead of raising it.

    Args:
        api: the module `pycuda.driver`.
    """

    def __init__(self, api: ModuleType) -> None:
        self.binding = f"pycuda {importlib.import_module('pycuda').VERSION_TEXT}"
        # No release up to 2026.1 captures; its development version does.
        self.captures = hasattr(api.Stream, "begin_capture")
        self._api = api
        self._context: Any = None

    def open(self, device: int) -> Facts:
        """Initialise the driver and retain the primary context of a device."""
        self._call(self._api.init)
        chosen = self._call(self._api.Device, device)
        version = self._call(self._api.get_driver_version)
        attributes = self._api.device_attribute
        facts = Facts(
            name=self._call(chosen.name),
            capability=self._call(chosen.compute_capability),
            driver=(version // 1000, version % 1000 // 10),
            integrated=bool(self._call(chosen.get_attribute, attributes.INTEGRATED)),
            maps_memory=bool(self._call(chosen.get_attribute, attributes.CAN_MAP_HOST_MEMORY)),
            memory=int(self._call(chosen.total_memory)),
        )
        self._context = self._call(chosen.retain_primary_context)
        return facts

    def push(self) -> None:
        """Make the context current on this thread."""
        self._call(self._context.push)

    def pop(self) -> None:
        """Make the context current that was so before."""
        self._call(self._api.Context.pop)

    def release(self) -> None:
        """Give the primary context back."""
        failures: list[CudaError] = []

        def detach() -> None:
            # On another thread than the one that retained it, pycuda releases a context only when it is
            # active. It must be detached in any case: pycuda ends the process when it cannot activate a
            # context that it believes to be there, to free something in it.
            for call in (self.push, self._context.detach):
                try:
                    self._call(call)
                except CudaError as error:
                    failures.append(error)

        # detach() leaves a primary context on the driver's stack of the thread that calls it; the stack of a
        # thread that ends right after is nobody's.
        thread = threading.Thread(target=detach, name="edgeemo-cuda-release")
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending, and this thread with it
            detach()
        else:
            thread.join()
        if failures:
            raise failures[0]

    def create_stream(self) -> tuple[Owned, int]:
        """A stream and its raw handle."""
        stream = Owned(self._call(self._api.Stream, CU_STREAM_NON_BLOCKING))
        return stream, int(stream.thing.handle)

    def destroy_stream(self, stream: Owned) -> None:
        """Destroy a stream."""
        stream.thing = None

    def synchronize(self, stream: Owned) -> None:
        """Wait until all work on the stream is done."""
        self._call(stream.thing.synchronize)

    def allocate(self, size: int) -> tuple[Any, int]:
        """Device memory and its address."""
        memory = self._call(self._api.mem_alloc, size, size=size)
        return memory, int(memory)

    def free(self, memory: Any) -> None:
        """Free device memory."""
        self._call(memory.free)

    def pin(self, size: int, mapped: bool) -> HostMemory:
        """Page-locked host memory, mapped for the device or not."""
        flags = self._api.host_alloc_flags.DEVICEMAP if mapped else 0
        array = self._call(self._api.pagelocked_empty, size, np.uint8, mem_flags=flags, size=size)
        seen = int(self._call(array.base.get_device_pointer)) if mapped else None
        return HostMemory(array.base, array, int(array.ctypes.data), seen)

    def unpin(self, memory: HostMemory) -> None:
        """Free page-locked host memory."""
        self._call(memory.handle.free)

    def upload(self, target: int, source: HostMemory, size: int, stream: Owned) -> None:
        """Copy the first `size` bytes to the device."""
        self._call(self._api.memcpy_htod_async, target, source.array[:size], stream.thing)

    def download(self, target: HostMemory, source: int, size: int, stream: Owned) -> None:
        """Copy the first `size` bytes from the device."""
        self._call(self._api.memcpy_dtoh_async, target.array[:size], source, stream.thing)

    def begin_capture(self, stream: Owned) -> None:
        """Begin to record."""
        # Thread-local: an allocation on another thread meanwhile neither fails nor spoils the capture.
        self._call(stream.thing.begin_capture, self._api.capture_mode.THREAD_LOCAL)

    def end_capture(self, stream: Owned) -> Owned:
        """The executable graph of what was recorded."""
        return Owned(self._call(self._call(stream.thing.end_capture).instantiate))

    def abandon_capture(self, stream: Owned) -> None:
        """End a capture and throw its graph away."""
        self._call(stream.thing.end_capture)

    def launch(self, graph: Owned, stream: Owned) -> None:
        """Put a graph's work on the stream."""
        self._call(graph.thing.launch, stream.thing)

    def destroy_graph(self, graph: Owned) -> None:
        """Destroy an executable graph."""
        graph.thing = None

    def create_event(self, blocking: bool) -> Owned:
        """An event that takes the time."""
        flags = CU_EVENT_BLOCKING_SYNC if blocking else CU_EVENT_DEFAULT
        return Owned(self._call(self._api.Event, flags))

    def record(self, event: Owned, stream: Owned) -> None:
        """Put the event on the stream."""
        self._call(event.thing.record, stream.thing)

    def wait(self, event: Owned) -> None:
        """Wait until the stream has passed the event."""
        self._call(event.thing.synchronize)

    def elapsed(self, start: Owned, end: Owned) -> float:
        """Milliseconds between two events."""
        return float(self._call(start.thing.time_till, end.thing))

    def destroy_event(self, event: Owned) -> None:
        """Destroy an event."""
        event.thing = None

    def _call(
        self, function: Callable[..., Any], *arguments: Any, size: int | None = None, **options: Any
    ) -> Any:
        """Make a call; `size` is for the message alone."""
        try:
            return function(*arguments, **options)
        except self._api.Error as error:
            del function, arguments, options  # the error keeps this frame, which must keep nothing of pycuda
            call, _, description = str(error).partition(" failed: ")
            description, _, _ = description.partition(" - ")  # behind it pycuda puts remarks of its own
            told = call if size is None else f"{call} of {size} bytes"
            raise CudaError(told, CODES.get(description, "CUDA_ERROR_UNKNOWN"), description) from error
