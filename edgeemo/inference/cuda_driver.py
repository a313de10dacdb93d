"""What a binding of CUDA's driver must offer, and how a failure of the driver is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeemo.errors import BackendError

CU_STREAM_NON_BLOCKING = 1  # so that nobody's work on the legacy default stream makes ours wait
CU_EVENT_DEFAULT = 0  # who waits for it spins
CU_EVENT_BLOCKING_SYNC = 1  # who waits for it sleeps

# After one of these the driver answers every call with it until the context is destroyed.
_LOST = frozenset(
    {
        "CUDA_ERROR_ECC_UNCORRECTABLE",
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        "CUDA_ERROR_LAUNCH_TIMEOUT",
        "CUDA_ERROR_CONTEXT_IS_DESTROYED",
        "CUDA_ERROR_ASSERT",
        "CUDA_ERROR_HARDWARE_STACK_ERROR",
        "CUDA_ERROR_ILLEGAL_INSTRUCTION",
        "CUDA_ERROR_MISALIGNED_ADDRESS",
        "CUDA_ERROR_INVALID_ADDRESS_SPACE",
        "CUDA_ERROR_INVALID_PC",
        "CUDA_ERROR_LAUNCH_FAILED",
    }
)
_IN_CONTAINER = "in a container start it with NVIDIA's runtime (docker run --runtime nvidia)"
NO_DRIVER = f"install NVIDIA's driver, which JetPack has on a Jetson; {_IN_CONTAINER}"
OLD_DRIVER = (
    "update NVIDIA's driver (on a Jetson: JetPack), or install a binding for the CUDA that it supports"
)
_REMEDIES = {
    "CUDA_ERROR_OUT_OF_MEMORY": "end other programs that use the GPU, or allow fewer faces",
    "CUDA_ERROR_STUB_LIBRARY": f"libcuda.so.1 is the toolkit's stub, not the driver: {NO_DRIVER}",
    "CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER": OLD_DRIVER,
    "CUDA_ERROR_DEVICE_UNAVAILABLE": "end the program that has the GPU for itself",
    "CUDA_ERROR_NO_DEVICE": f"no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it; {_IN_CONTAINER}",
    "CUDA_ERROR_INVALID_DEVICE": "devices are counted from 0",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": f"libcuda.so.1 is not of the driver that runs: {OLD_DRIVER}",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": f"this GPU takes no compatibility package: {OLD_DRIVER}",
}


class CudaUnusable(BackendError):
    """CUDA that cannot be used at all.

    Args:
        what: what is wrong.
        remedy: what helps.
    """

    def __init__(self, what: str, remedy: str) -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(f"{what}: {remedy}")


class CudaError(BackendError):
    """A call of CUDA's driver that failed.

    Attributes:
        call: the call, such as 'cuMemAlloc of 4096 bytes'.
        code: the driver's name of the failure, such as 'CUDA_ERROR_OUT_OF_MEMORY'.

    Example:
        >>> raise CudaError("cuStreamSynchronize", "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address")
        Traceback (most recent call last):
        ...
        edgeemo.inference.cuda_driver.CudaError: cuStreamSynchronize failed: CUDA_ERROR_MISALIGNED_ADDRESS \
(misaligned address): the CUDA context is lost; close the model and load it again, and if that fails too, \
restart the program
    """

    def __init__(self, call: str, code: str, description: str) -> None:
        self.call = call
        self.code = code
        self.what = f"{call} failed: {code} ({description})"
        self.remedy = _REMEDIES.get(code, "")
        if self.context_lost:
            self.remedy = (
                "the CUDA context is lost; close the model and load it again, and if that fails too, "
                "restart the program"
            )
        super().__init__(f"{self.what}: {self.remedy}" if self.remedy else self.what)

    @property
    def out_of_memory(self) -> bool:
        """Whether there was too little memory."""
        return self.code == "CUDA_ERROR_OUT_OF_MEMORY"

    @property
    def context_lost(self) -> bool:
        """Whether every later call will fail too, until the context is destroyed."""
        return self.code in _LOST


@dataclass(frozen=True)
class Facts:
    """What a device is.

    Attributes:
        name: its name, such as 'Orin'.
        capability: its compute capability, such as (8, 7).
        driver: the newest CUDA that its driver supports, such as (12, 6).
        integrated: whether it shares the host's memory.
        maps_memory: whether it can read and write page-locked host memory itself.
        memory: its memory in bytes.
    """

    name: str
    capability: tuple[int, int]
    driver: tuple[int, int]
    integrated: bool
    maps_memory: bool
    memory: int


@dataclass(frozen=True)
class HostMemory:
    """Page-locked memory of the host.

    Attributes:
        handle: what the binding frees it by.
        array: the memory itself.
        address: where it is for the host.
        device_address: where it is for the device, None when it is not mapped.
    """

    handle: Any
    array: NDArray[np.uint8]
    address: int
    device_address: int | None


class Driver(Protocol):
    """The calls of one binding that edgeemo makes, over the primary context of one device and one stream.

    Every call raises `CudaError` when the driver answers anything but success. All but `open`, `push` and
    `release` need the context to be current.

    Attributes:
        binding: the binding and its version.
        captures: whether it can capture graphs.
    """

    binding: str
    captures: bool

    def open(self, device: int) -> Facts:
        """Initialise the driver and retain the primary context of a device."""
        ...

    def push(self) -> None:
        """Make the context current on this thread."""
        ...

    def pop(self) -> None:
        """Make the context current that was so before the last `push`."""
        ...

    def release(self) -> None:
        """Give the primary context back; no thread has it current any more."""
        ...

    def create_stream(self) -> tuple[Any, int]:
        """A stream that does not wait for the legacy default stream, and its raw handle."""
        ...

    def destroy_stream(self, stream: Any) -> None:
        """Destroy a stream."""
        ...

    def synchronize(self, stream: Any) -> None:
        """Wait until all work on the stream is done."""
        ...

    def allocate(self, size: int) -> tuple[Any, int]:
        """Device memory of `size` bytes, and its address."""
        ...

    def free(self, memory: Any) -> None:
        """Free device memory."""
        ...

    def pin(self, size: int, mapped: bool) -> HostMemory:
        """Page-locked host memory of `size` bytes, mapped for the device or not."""
        ...

    def unpin(self, memory: HostMemory) -> None:
        """Free page-locked host memory."""
        ...

    def upload(self, target: int, source: HostMemory, size: int, stream: Any) -> None:
        """Put on the stream: copy the first `size` bytes to the device's address."""
        ...

    def download(self, target: HostMemory, source: int, size: int, stream: Any) -> None:
        """Put on the stream: copy the first `size` bytes from the device's address."""
        ...

    def begin_capture(self, stream: Any) -> None:
        """Record what this thread puts on the stream from now on, and do none of it."""
        ...

    def end_capture(self, stream: Any) -> Any:
        """The graph of what was recorded, ready to be launched."""
        ...

    def abandon_capture(self, stream: Any) -> None:
        """End a capture and throw away what was recorded."""
        ...

    def launch(self, graph: Any, stream: Any) -> None:
        """Put a graph's work on the stream."""
        ...

    def destroy_graph(self, graph: Any) -> None:
        """Destroy an executable graph."""
        ...

    def create_event(self, blocking: bool) -> Any:
        """An event that takes the time; a thread that waits for it sleeps (blocking) or spins."""
        ...

    def record(self, event: Any, stream: Any) -> None:
        """Put the event on the stream."""
        ...

    def wait(self, event: Any) -> None:
        """Wait until the stream has passed the event."""
        ...

    def elapsed(self, start: Any, end: Any) -> float:
        """Milliseconds between two events."""
        ...

    def destroy_event(self, event: Any) -> None:
        """Destroy an event."""
        ...
