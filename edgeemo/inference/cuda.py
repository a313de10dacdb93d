"""A CUDA device as an engine needs it: one context, one stream, and what is copied and launched on it."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import ModuleType, TracebackType

from edgeemo.errors import BackendError
from edgeemo.inference import cuda_pycuda, cuda_python
from edgeemo.inference.cuda_driver import NO_DRIVER, OLD_DRIVER, CudaError, CudaUnusable, Driver, Facts
from edgeemo.inference.cuda_resources import (
    CudaGraph,
    DeviceBuffer,
    Event,
    Holder,
    PinnedBuffer,
    check_fit,
    check_size,
)
from edgeemo.inference.readiness import BINDINGS

__all__ = [
    "Cuda",
    "CudaError",
    "CudaGraph",
    "CudaUnusable",
    "DeviceBuffer",
    "Event",
    "PinnedBuffer",
    "open_cuda",
]

_log = logging.getLogger("edgeemo")
_INSTALL = (
    f"pip install '{BINDINGS[12]}' for CUDA 12 (JetPack 6) or '{BINDINGS[13]}' for CUDA 13 (JetPack 7), "
    "or pycuda"
)


def open_cuda(device: int = 0) -> Cuda:
    """Open a device over cuda-python, or over pycuda where cuda-python is not installed.

    Args:
        device: which one, counted from 0 as CUDA counts them.

    Raises:
        BackendError: there is no binding, no driver, no device, or the driver is too old; the message says
            which, and what to install. `CudaError` where the driver itself said no.
    """
    driver = _binding()
    facts = driver.open(device)
    try:
        return Cuda(driver, facts)
    except CudaError:
        with suppress(CudaError):  # the first error is the one to tell
            driver.release()
        raise


def _binding() -> Driver:
    """The first binding that can be imported."""
    problems = []
    choices: tuple[tuple[Callable[[ModuleType], Driver], str], ...] = (
        (cuda_python.CudaPython, "cuda.bindings.driver"),
        (cuda_python.CudaPython, "cuda.cuda"),
        (cuda_pycuda.PyCuda, "pycuda.driver"),
    )
    for kind, name in choices:
        try:
            return kind(importlib.import_module(name))
        except ImportError as error:
            # Not installed, unless it is there and lacks something of its own.
            if not (isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.")):
                problems.append(_unimportable(name, error))
    if not problems:
        raise CudaUnusable("no CUDA binding for Python is installed", _INSTALL)
    if len(problems) == 1:
        raise problems[0]
    raise BackendError("; ".join(map(str, problems)))


def _unimportable(name: str, error: ImportError) -> CudaUnusable:
    """Why a module that is there cannot be imported; pycuda needs the driver for that already."""
    if "undefined symbol: cu" in str(error):
        return CudaUnusable(f"the NVIDIA driver is too old for {name} ({error})", OLD_DRIVER)
    if "libcuda.so" in str(error):
        return CudaUnusable(f"{name} does not find the NVIDIA driver's libcuda.so.1 ({error})", NO_DRIVER)
    return CudaUnusable(
        f"{name} is installed but cannot be imported ({error})", "install it anew for this CUDA and Python"
    )


class Cuda:
    """The primary context of one device and one stream on it.

    It may be used from any thread, by one at a time: every call makes the context current and then the one
    that was so before, so that nobody else's context is disturbed.

    Args:
        driver: the binding, with the primary context retained.
        facts: what the device is.

    Attributes:
        binding: what it goes through, such as 'cuda-python 13.5.0'.
        captures: whether that can capture graphs.
        stream: the raw handle of the stream, which does not wait for the legacy default stream.
        name: the device's name, such as 'Orin'.
        capability: its compute capability, such as (8, 7).
        driver: the newest CUDA that its driver supports, such as (12, 6).
        integrated: whether it shares the host's memory.
        maps_memory: whether it can read and write page-locked host memory itself.
        memory: its memory in bytes.
    """

    def __init__(self, driver: Driver, facts: Facts) -> None:
        self.binding = driver.binding
        self.captures = driver.captures
        self.name = facts.name
        self.capability = facts.capability
        self.driver = facts.driver
        self.integrated = facts.integrated
        self.maps_memory = facts.maps_memory
        self.memory = facts.memory
        self._driver = driver
        context = _Current(driver)
        with context:
            stream, self.stream = driver.create_stream()
        self._holder = Holder(driver, context, stream)

    def current(self) -> AbstractContextManager[None]:
        """Make the context current on this thread, for as long as the `with` lasts; it may be nested.

        Raises:
            BackendError: it was closed.
        """
        return self._holder.context

    def allocate(self, size: int) -> DeviceBuffer:
        """Allocate memory on the device.

        Args:
            size: bytes, at least 1.

        Raises:
            CudaError: there is too little (`out_of_memory`), or the context is lost.
            BackendError: `size` is below 1.
        """
        check_size(size)
        with self._holder.context:
            return DeviceBuffer(self._holder, *self._driver.allocate(size), size)

    def pin(self, size: int) -> PinnedBuffer:
        """Allocate page-locked memory of the host, which an integrated GPU that can sees in place.

        Args:
            size: bytes, at least 1.

        Raises:
            CudaError: there is too little (`out_of_memory`), or the context is lost.
            BackendError: `size` is below 1.
        """
        check_size(size)
        with self._holder.context:
            return PinnedBuffer(self._holder, self._driver.pin(size, self.integrated and self.maps_memory))

    def upload(self, target: DeviceBuffer, source: PinnedBuffer, size: int) -> None:
        """Copy the first `size` bytes to the device, on the stream: `source` must stay as it is until then.

        Raises:
            CudaError: the driver said no.
            BackendError: one of the two is smaller, or was freed.
        """
        check_fit(size, source, target)
        with self._holder.context:
            self._driver.upload(target.address, source.handle, size, self._holder.stream)

    def download(self, target: PinnedBuffer, source: DeviceBuffer, size: int) -> None:
        """Copy the first `size` bytes from the device, on the stream: they are there after `synchronize`.

        Raises:
            CudaError: the driver said no.
            BackendError: one of the two is smaller, or was freed.
        """
        check_fit(size, source, target)
        with self._holder.context:
            self._driver.download(target.handle, source.address, size, self._holder.stream)

    def synchronize(self) -> None:
        """Wait until all work on the stream is done.

        Raises:
            CudaError: some of it failed.
        """
        with self._holder.context:
            self._driver.synchronize(self._holder.stream)

    def capture(self, work: Callable[[], None]) -> CudaGraph:
        """Record what `work` puts on the stream, without doing it, as a graph that is launched in one call.

        Args:
            work: puts its work on `stream`; it must neither allocate nor synchronise.

        Raises:
            CudaError: the driver said no, or `work` did what may not be captured.
            BackendError: the binding cannot capture.
            Exception: whatever `work` raised. The stream can be used again in each case.
        """
        if not self.captures:
            raise BackendError(f"{self.binding} cannot capture CUDA graphs; install cuda-bindings for that")
        with self._holder.context:
            self._driver.begin_capture(self._holder.stream)
            try:
                work()
            except BaseException:
                with suppress(CudaError):  # the first error is the one to tell
                    self._driver.abandon_capture(self._holder.stream)
                raise
            return CudaGraph(self._holder, self._driver.end_capture(self._holder.stream))

    def event(self, *, blocking: bool = False) -> Event:
        """A mark to put on the stream.

        Args:
            blocking: whether a thread that waits for it sleeps, which leaves the core to others; else it
                spins, which ends sooner.

        Raises:
            CudaError: the driver said no.
        """
        with self._holder.context:
            return Event(self._holder, self._driver.create_event(blocking))

    def elapsed(self, start: Event, end: Event) -> float:
        """Milliseconds between two events that the stream has passed.

        Raises:
            CudaError: one was not recorded, or the stream has not passed it.
        """
        with self._holder.context:
            return self._driver.elapsed(start.handle, end.handle)

    def close(self) -> None:
        """Wait for the stream, free everything and give the context back; again is harmless.

        What fails is logged and not raised; a context that was lost takes everything along.
        """
        holder = self._holder
        context, holder.context = holder.context, _Closed()
        if isinstance(context, _Closed):
            return
        with _logged(), context:
            try:
                self._driver.synchronize(holder.stream)
            except CudaError as error:
                if error.context_lost:
                    raise  # nothing can be freed in it, and pycuda would print that for each thing
                _log.warning("closing the CUDA device: %s", error)
            for resource in reversed(list(holder.held.values())):
                with _logged():
                    resource.drop()
            with _logged():
                self._driver.destroy_stream(holder.stream)
        with _logged():
            self._driver.release()
        holder.stream = None
        # A context that was lost, or could not be made current, took along what is left.
        for resource in list(holder.held.values()):
            resource.forget()


class _Current(AbstractContextManager[None]):
    """Has the context current; without state, so that one serves every thread and nesting."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def __enter__(self) -> None:
        self._driver.push()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._driver.pop()
        except CudaError:
            if error is None:  # else the first error is the one to tell
                raise


class _Closed(AbstractContextManager[None]):
    """Stands where the context was."""

    def __enter__(self) -> None:
        raise BackendError("the CUDA device was closed; open it again")

    def __exit__(self, *_: object) -> None:
        """Never reached."""


@contextmanager
def _logged() -> Iterator[None]:
    """Log what fails while closing; that a context is lost was told when it was lost."""
    try:
        yield
    except CudaError as error:
        if not error.context_lost:
            _log.warning("closing the CUDA device: %s", error)
