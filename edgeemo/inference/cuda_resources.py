"""What a CUDA device holds until it is freed: buffers of the device and of the host, graphs and events."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeemo.errors import BackendError
from edgeemo.inference.cuda_driver import CudaError, Driver, HostMemory


@dataclass(eq=False)
class Holder:
    """What every resource of one device shares.

    Attributes:
        driver: the binding.
        context: has the primary context current for as long as a `with` lasts.
        stream: the stream, as the binding knows it.
        held: the resources that were not freed, the oldest first.
    """

    driver: Driver
    context: AbstractContextManager[None]
    stream: Any
    held: dict[int, Resource] = field(default_factory=dict)


class Resource:
    """A thing on the device that is freed once: by its owner, or with the device.

    Args:
        holder: what it shares with the others of its device.
        handle: what the binding knows it by.
        destroy: frees it.
    """

    def __init__(self, holder: Holder, handle: Any, destroy: Callable[[Any], None]) -> None:
        self._holder = holder
        self._handle = handle
        self._destroy = destroy
        holder.held[id(self)] = self

    @property
    def handle(self) -> Any:
        """What the binding knows it by.

        Raises:
            BackendError: it was freed.
        """
        if self._handle is None:
            raise BackendError(f"this {type(self).__name__} was freed; make a new one")
        return self._handle

    def free(self) -> None:
        """Free it; nothing on the stream may still need it. Again is harmless, and so is a lost context.

        Raises:
            CudaError: the driver said no.
        """
        if self._handle is None:
            return
        try:
            with self._holder.context:
                self.drop()
        except CudaError as error:
            if not error.context_lost:
                raise

    def drop(self) -> None:
        """Free it; the context is current."""
        handle = self._handle
        self.forget()
        self._destroy(handle)

    def forget(self) -> None:
        """Know nothing of it any more."""
        self._handle = None
        self._holder.held.pop(id(self), None)


class DeviceBuffer(Resource):
    """Memory of the device.

    Attributes:
        address: where it is for the device; 0 when it was freed.
        size: bytes; 0 when it was freed.
    """

    def __init__(self, holder: Holder, handle: Any, address: int, size: int) -> None:
        super().__init__(holder, handle, holder.driver.free)
        self.address = address
        self.size = size

    def forget(self) -> None:
        """Know nothing of it any more."""
        super().forget()
        self.address = self.size = 0


class PinnedBuffer(Resource):
    """Page-locked memory of the host.

    Attributes:
        array: the memory, uint8 [size]; of size 0 when it was freed, and then no older view may be touched.
        address: where it is for the host.
        device_address: where it is for the device, None where the device does not see it.
        size: bytes; 0 when it was freed.
    """

    def __init__(self, holder: Holder, memory: HostMemory) -> None:
        super().__init__(holder, memory, holder.driver.unpin)
        self.array = memory.array
        self.address = memory.address
        self.device_address = memory.device_address
        self.size = memory.array.size

    def forget(self) -> None:
        """Know nothing of it any more."""
        super().forget()
        self.array = np.empty(0, np.uint8)
        self.address = self.size = 0
        self.device_address = None


class CudaGraph(Resource):
    """Work that was recorded, to be put on the stream in one call."""

    def __init__(self, holder: Holder, handle: Any) -> None:
        super().__init__(holder, handle, holder.driver.destroy_graph)

    def launch(self) -> None:
        """Put the work on the stream; whatever it reads and writes must still be there.

        Raises:
            CudaError: the driver said no.
        """
        with self._holder.context:
            self._holder.driver.launch(self.handle, self._holder.stream)


class Event(Resource):
    """A mark on the stream, with the time at which it was passed."""

    def __init__(self, holder: Holder, handle: Any) -> None:
        super().__init__(holder, handle, holder.driver.destroy_event)

    def record(self) -> None:
        """Put it on the stream, behind all work so far.

        Raises:
            CudaError: the driver said no.
        """
        with self._holder.context:
            self._holder.driver.record(self.handle, self._holder.stream)

    def synchronize(self) -> None:
        """Wait until the stream has passed it.

        Raises:
            CudaError: work before it failed.
        """
        with self._holder.context:
            self._holder.driver.wait(self.handle)


def check_size(size: int) -> None:
    """Check that `size` bytes can be allocated at all.

    Raises:
        BackendError: they are none.
    """
    if size < 1:
        raise BackendError(f"a buffer of {size} bytes; it must be at least 1")


def check_fit(size: int, source: DeviceBuffer | PinnedBuffer, target: DeviceBuffer | PinnedBuffer) -> None:
    """Check that a copy of `size` bytes is one, and that both buffers have room for it.

    Raises:
        BackendError: it is not; a buffer that was freed has no room.
    """
    if not 1 <= size <= min(source.size, target.size):
        raise BackendError(
            f"a copy of {size} bytes, from a buffer of {source.size} to one of {target.size}; it must be at "
            "least 1 and fit both (a buffer that was freed has 0)"
        )
