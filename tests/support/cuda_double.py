"""One emulated CUDA device behind modules that look like `cuda.bindings.driver` and `pycuda.driver`.

Memory of the device is memory of this process at its real addresses, so that a double of TensorRT can work on
it by address. What the driver would refuse is refused with its code: a call without a context, a handle that
was destroyed, a synchronisation while the stream captures, memory beyond the device's. An illegal address is
found when the operation runs and loses the context for good, as on a device.

    with cuda_double.installed("cuda-python") as device:
        cuda = open_cuda()
        device.fail("cuMemcpyHtoDAsync", "CUDA_ERROR_ILLEGAL_ADDRESS", after=3)
        ...
        cuda.close()
        device.assert_clean()
"""

from __future__ import annotations

import functools
import operator
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from tests.support import cuda_facades
from tests.support.cuda_codes import NUMBERS

# After one of these every call answers it until the context is destroyed.
STICKY = frozenset(
    "CUDA_ERROR_" + name
    for name in (
        "ECC_UNCORRECTABLE",
        "ILLEGAL_ADDRESS",
        "LAUNCH_TIMEOUT",
        "ASSERT",
        "HARDWARE_STACK_ERROR",
        "ILLEGAL_INSTRUCTION",
        "MISALIGNED_ADDRESS",
        "INVALID_ADDRESS_SPACE",
        "INVALID_PC",
        "LAUNCH_FAILED",
    )
)
ALIGNMENT = 256
FRESH, FREED = 0xA5, 0xDD  # what memory holds that nobody wrote, and that was freed

CU_STREAM_NON_BLOCKING = 1
CU_EVENT_FLAGS = 7  # blocking, without time, for another process
CU_MEMHOSTALLOC_DEVICEMAP = 2
CAPTURE_RELAXED = 2


class CudaFailure(Exception):
    """A call of the driver that answered something else than CUDA_SUCCESS."""

    def __init__(self, call: str, code: str) -> None:
        super().__init__(f"{call}: {code}")
        self.call = call
        self.code = code
        self.number = NUMBERS[code]


@dataclass(eq=False)
class Memory:
    """A range of memory: 'device memory', 'pinned memory' (host alone) or 'mapped memory' (both)."""

    kind: str
    address: int
    size: int
    bytes: NDArray[np.uint8]


@dataclass(eq=False)
class Stream:
    flags: int
    queue: list[Callable[[], None]] = field(default_factory=list)
    captured: list[Callable[[], None]] | None = None  # operations of the capture that is going on
    invalid: bool = False
    mode: int = 0
    thread: int = 0
    kind: str = "stream"


@dataclass(eq=False)
class Event:
    flags: int
    at: float | None = None
    recorded: bool = False
    captured: bool = False
    kind: str = "event"


@dataclass(eq=False)
class Graph:
    operations: list[Callable[[], None]]
    kind: str = "graph"


@dataclass(eq=False)
class Exec:
    operations: list[Callable[[], None]]
    kind: str = "executable graph"


@dataclass(eq=False)
class Context:
    handle: int
    users: int = 0
    lost: str | None = None
    destroyed: bool = False
    objects: dict[int, Any] = field(default_factory=dict)  # handle or address -> what it stands for


@dataclass
class Fault:
    code: str
    after: int
    times: int | None


Call = TypeVar("Call", bound=Callable[..., Any])


def driver_call(*, context: bool = True) -> Callable[[Call], Call]:
    """A call of the driver: counted, failing where a fault was asked for; `context`: it needs one."""

    def wrap(function: Call) -> Call:
        name = function.__name__

        @functools.wraps(function)
        def guarded(self: Device, *arguments: Any) -> Any:
            with self.lock:
                self.calls[name] += 1
                if not self.initialised and name not in ("cuInit", "cuDriverGetVersion"):
                    raise CudaFailure(name, "CUDA_ERROR_NOT_INITIALIZED")
                if context:
                    self.context_of(name)
                self.raise_fault(name)
                return function(self, *arguments)

        return cast(Call, guarded)

    return wrap


class Device:
    """The emulated device; its `cu...` methods are the driver's calls and raise `CudaFailure`.

    Attributes:
        asynchronous: operations wait on their stream until it is synchronised, as on a device; otherwise they
            are done when their call returns.
        calls: how often each call of the driver was made.
        costs: seconds that the operations of a call take ('enqueue' for a computation); with any, events take
            the time of a clock that nothing else moves.
        done: a list that a test may put here: the call of each operation, when its stream does it.
        leaks: what was still there when a healthy context was destroyed.
        warnings: what pycuda would have printed about a clean-up that failed.
    """

    def __init__(self, *, integrated: bool = False, maps: bool | None = None, count: int = 1) -> None:
        self.name = "Emulated Orin" if integrated else "Emulated GPU"
        self.capability = (8, 7) if integrated else (8, 6)
        self.driver_version = 12060
        self.memory = 1 << 30
        self.integrated = integrated
        self.maps = True if maps is None else maps
        self.count = count
        self.asynchronous = False
        self.initialised = False
        self.calls: Counter[str] = Counter()
        self.costs: dict[str, float] = {}
        self.done: list[str] | None = None
        self.time = 0.0
        self.leaks: list[str] = []
        self.warnings: list[str] = []
        self.lock = threading.RLock()
        self._faults: dict[str, list[Fault]] = {}
        self._primary: Context | None = None
        self._stacks: WeakKeyDictionary[threading.Thread, list[Context]] = WeakKeyDictionary()
        self._contexts: dict[int, Context] = {}
        self._handles = iter(range(0x7E00_0000_0010, 0x7F00_0000_0000, 0x10))
        self._graveyard: list[NDArray[np.uint8]] = []  # so that a dangling view reads FREED, not a crash

    # What tests and the double of TensorRT use.

    def fail(self, call: str, code: str, *, after: int = 0, times: int | None = 1) -> None:
        """Let a call of the driver fail `times` times (None: always), after it went well `after` times."""
        assert hasattr(self, call), f"the emulated driver has no {call}"
        assert code in NUMBERS, f"{code} is no CUresult"
        self._faults.setdefault(call, []).append(Fault(code, after, times))

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        """Put work on a stream: it is run now (`asynchronous`: later), or recorded while the stream captures.

        Raises:
            CudaFailure: there is no such stream, its capture is invalid, or the context is lost.
        """
        with self.lock:
            self._submit("enqueue", stream, work)

    def alloc(self, size: int) -> int:
        """Allocate device memory, as cuMemAlloc; the primary context must be there, current or not."""
        with self.lock:
            return self._allocate("cuMemAlloc", self._alive("cuMemAlloc"), "device memory", size)

    def free(self, address: int) -> None:
        """Free what `alloc` answered."""
        with self.lock:
            self._free("cuMemFree", self._alive("cuMemFree"), address, "device memory")

    def view(self, address: int, size: int) -> NDArray[np.uint8]:
        """Device or mapped memory as an array that is written through.

        Raises:
            CudaFailure: CUDA_ERROR_ILLEGAL_ADDRESS: the range is not wholly in one allocation.
        """
        with self.lock:
            context = self._alive("kernel")
            for memory in context.objects.values():
                if isinstance(memory, Memory) and memory.kind != "pinned memory":
                    start = address - memory.address
                    if start >= 0 and start + size <= memory.size:
                        return memory.bytes[start : start + size]
            raise CudaFailure("kernel", "CUDA_ERROR_ILLEGAL_ADDRESS")

    def read(self, address: int, size: int) -> bytes:
        """What device or mapped memory holds; raises as `view` does."""
        return self.view(address, size).tobytes()

    def write(self, address: int, data: bytes | NDArray[Any]) -> None:
        """Write to device or mapped memory; raises as `view` does."""
        raw = np.frombuffer(np.ascontiguousarray(data) if isinstance(data, np.ndarray) else data, np.uint8)
        self.view(address, raw.size)[:] = raw

    def capturing(self, stream: int) -> bool:
        """Whether a stream captures."""
        with self.lock:
            return self._stream("cuStreamIsCapturing", stream).captured is not None

    def flags(self, stream: int) -> int:
        """What a stream was made with: CUstream_flags."""
        with self.lock:
            return self._stream("cuStreamGetFlags", stream).flags

    def capture_mode(self, stream: int) -> int:
        """The mode of the capture that is going on: CUstreamCaptureMode."""
        assert self.capturing(stream)
        return self._stream("cuStreamIsCapturing", stream).mode

    def lose(self, code: str = "CUDA_ERROR_ILLEGAL_ADDRESS") -> None:
        """Lose the primary context, as a kernel that went wrong would."""
        with self.lock:
            self._alive("kernel").lost = code

    @property
    def lost(self) -> str | None:
        """The code that the primary context was lost with."""
        return self._primary.lost if self._primary else None

    @property
    def live(self) -> dict[str, int]:
        """How many of each kind of thing there are; empty when all is freed."""
        count: Counter[str] = Counter()
        if self._primary:
            count["primary context"] = self._primary.users
            count.update(one.kind for one in self._primary.objects.values())
        return dict(count)

    @property
    def stack(self) -> list[int]:
        """Handles of the contexts on this thread's stack, the current one last."""
        return [context.handle for context in self._stack()]

    def assert_clean(self) -> None:
        """Check that everything was freed and that no living thread has a context of ours on its stack."""
        stacks = {thread.name: len(stack) for thread, stack in self._stacks.items() if thread.is_alive()}
        assert not self.leaks, f"left when the context was released: {self.leaks}"
        assert not self.live, f"not freed: {self.live}"
        assert not any(stacks.values()), f"contexts left on the stacks of threads: {stacks}"
        assert not self.warnings, self.warnings

    # What the driver does.

    @driver_call(context=False)
    def cuInit(self, flags: int) -> None:
        if flags:
            raise CudaFailure("cuInit", "CUDA_ERROR_INVALID_VALUE")
        if not self.count:
            raise CudaFailure("cuInit", "CUDA_ERROR_NO_DEVICE")
        self.initialised = True

    @driver_call(context=False)
    def cuDriverGetVersion(self) -> int:
        return self.driver_version

    @driver_call(context=False)
    def cuDeviceGet(self, ordinal: int) -> int:
        if not 0 <= ordinal < self.count:
            raise CudaFailure("cuDeviceGet", "CUDA_ERROR_INVALID_DEVICE")
        return ordinal

    @driver_call(context=False)
    def cuDeviceGetName(self, device: int) -> str:
        return self.name

    @driver_call(context=False)
    def cuDeviceTotalMem(self, device: int) -> int:
        return self.memory

    @driver_call(context=False)
    def cuDeviceGetAttribute(self, attribute: int, device: int) -> int:
        values = {
            18: int(self.integrated),
            19: int(self.maps),
            75: self.capability[0],
            76: self.capability[1],
        }
        return values[attribute]

    @driver_call(context=False)
    def cuDevicePrimaryCtxRetain(self, device: int) -> int:
        if self._primary is None:
            self._primary = Context(next(self._handles))
            self._contexts[self._primary.handle] = self._primary
        self._primary.users += 1
        return self._primary.handle

    @driver_call(context=False)
    def cuDevicePrimaryCtxRelease(self, device: int) -> None:
        context = self._primary
        if context is None:
            raise CudaFailure("cuDevicePrimaryCtxRelease", "CUDA_ERROR_INVALID_CONTEXT")
        context.users -= 1
        if context.users:
            return
        if context.lost is None:
            self.leaks += sorted(one.kind for one in context.objects.values())
        for one in context.objects.values():
            if isinstance(one, Memory):
                self._bury(one)
        context.objects.clear()
        context.destroyed = True  # it stays on the stacks of threads, as on a device
        self._primary = None

    @driver_call(context=False)
    def cuCtxPushCurrent(self, context: int) -> None:
        found = self._contexts.get(context)
        if found is None or found.destroyed:
            raise CudaFailure("cuCtxPushCurrent", "CUDA_ERROR_INVALID_CONTEXT")
        self._stack().append(found)

    @driver_call(context=False)
    def cuCtxPopCurrent(self) -> int:
        if not self._stack():
            raise CudaFailure("cuCtxPopCurrent", "CUDA_ERROR_INVALID_CONTEXT")
        return self._stack().pop().handle

    @driver_call(context=False)
    def cuCtxGetCurrent(self) -> int:
        return self._stack()[-1].handle if self._stack() else 0

    @driver_call()
    def cuStreamCreate(self, flags: int) -> int:
        return self._add(Stream(flags))

    @driver_call()
    def cuStreamDestroy(self, stream: int) -> None:
        self._stream("cuStreamDestroy", stream)
        del self.context_of("cuStreamDestroy").objects[stream]

    @driver_call()
    def cuStreamSynchronize(self, stream: int) -> None:
        found = self._stream("cuStreamSynchronize", stream)
        if found.captured is not None:
            found.invalid = True
            raise CudaFailure("cuStreamSynchronize", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
        self._drain(found)
        self.context_of("cuStreamSynchronize")

    @driver_call()
    def cuStreamBeginCapture(self, stream: int, mode: int) -> None:
        found = self._stream("cuStreamBeginCapture", stream)
        if found.captured is not None:
            raise CudaFailure("cuStreamBeginCapture", "CUDA_ERROR_ILLEGAL_STATE")
        found.captured, found.invalid, found.mode = [], False, mode
        found.thread = threading.get_ident()

    @driver_call()
    def cuStreamEndCapture(self, stream: int) -> int:
        found = self._stream("cuStreamEndCapture", stream)
        if found.captured is None:
            raise CudaFailure("cuStreamEndCapture", "CUDA_ERROR_ILLEGAL_STATE")
        if found.mode != CAPTURE_RELAXED and found.thread != threading.get_ident():
            raise CudaFailure("cuStreamEndCapture", "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD")
        operations, found.captured = found.captured, None
        if found.invalid:
            raise CudaFailure("cuStreamEndCapture", "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
        return self._add(Graph(operations))

    @driver_call()
    def cuGraphInstantiate(self, graph: int, flags: int) -> int:
        return self._add(Exec(list(self._object("cuGraphInstantiate", graph, Graph).operations)))

    @driver_call()
    def cuGraphLaunch(self, graph: int, stream: int) -> None:
        for operation in self._object("cuGraphLaunch", graph, Exec).operations:
            self._put("cuGraphLaunch", stream, operation)

    @driver_call()
    def cuGraphDestroy(self, graph: int) -> None:
        self._object("cuGraphDestroy", graph, Graph)
        del self.context_of("cuGraphDestroy").objects[graph]

    @driver_call()
    def cuGraphExecDestroy(self, graph: int) -> None:
        self._object("cuGraphExecDestroy", graph, Exec)
        del self.context_of("cuGraphExecDestroy").objects[graph]

    @driver_call()
    def cuEventCreate(self, flags: int) -> int:
        if flags & ~CU_EVENT_FLAGS:
            raise CudaFailure("cuEventCreate", "CUDA_ERROR_INVALID_VALUE")
        return self._add(Event(flags))

    @driver_call()
    def cuEventRecord(self, event: int, stream: int) -> None:
        found = self._object("cuEventRecord", event, Event)
        found.recorded, found.at = True, None
        found.captured = self._stream("cuEventRecord", stream).captured is not None

        def record() -> None:
            found.at = self.time if self.costs else time.perf_counter()

        self._submit("cuEventRecord", stream, record)

    @driver_call()
    def cuEventSynchronize(self, event: int) -> None:
        found = self._object("cuEventSynchronize", event, Event)
        if found.captured:
            raise CudaFailure("cuEventSynchronize", "CUDA_ERROR_CAPTURED_EVENT")
        for one in list(self.context_of("cuEventSynchronize").objects.values()):
            if isinstance(one, Stream) and found.recorded and found.at is None:
                self._drain(one)
        self.context_of("cuEventSynchronize")

    @driver_call()
    def cuEventElapsedTime(self, start: int, end: int) -> float:
        times = [self._object("cuEventElapsedTime", one, Event) for one in (start, end)]
        if not all(one.recorded for one in times):
            raise CudaFailure("cuEventElapsedTime", "CUDA_ERROR_INVALID_HANDLE")
        if times[0].at is None or times[1].at is None:
            raise CudaFailure("cuEventElapsedTime", "CUDA_ERROR_NOT_READY")
        return (times[1].at - times[0].at) * 1e3

    @driver_call()
    def cuEventDestroy(self, event: int) -> None:
        self._object("cuEventDestroy", event, Event)
        del self.context_of("cuEventDestroy").objects[event]

    @driver_call()
    def cuMemAlloc(self, size: int) -> int:
        self._refuse_while_capturing("cuMemAlloc")
        return self._allocate("cuMemAlloc", self.context_of("cuMemAlloc"), "device memory", size)

    @driver_call()
    def cuMemFree(self, address: int) -> None:
        self._refuse_while_capturing("cuMemFree")
        self._free("cuMemFree", self.context_of("cuMemFree"), address, "device memory")

    @driver_call()
    def cuMemHostAlloc(self, size: int, flags: int) -> int:
        self._refuse_while_capturing("cuMemHostAlloc")
        kind = "mapped memory" if self.maps and flags & CU_MEMHOSTALLOC_DEVICEMAP else "pinned memory"
        return self._allocate("cuMemHostAlloc", self.context_of("cuMemHostAlloc"), kind, size)

    @driver_call()
    def cuMemFreeHost(self, address: int) -> None:
        self._refuse_while_capturing("cuMemFreeHost")
        self._free(
            "cuMemFreeHost", self.context_of("cuMemFreeHost"), address, "pinned memory", "mapped memory"
        )

    @driver_call()
    def cuMemHostGetDevicePointer(self, address: int, flags: int) -> int:
        memory = self.context_of("cuMemHostGetDevicePointer").objects.get(address)
        if not isinstance(memory, Memory) or memory.kind != "mapped memory":
            raise CudaFailure("cuMemHostGetDevicePointer", "CUDA_ERROR_INVALID_VALUE")
        return address

    @driver_call()
    def cuMemcpyHtoDAsync(self, target: int, source: int, size: int, stream: int) -> None:
        pinned = self._pinned("cuMemcpyHtoDAsync", source, size)
        self._submit("cuMemcpyHtoDAsync", stream, lambda: self.write(target, pinned))

    @driver_call()
    def cuMemcpyDtoHAsync(self, target: int, source: int, size: int, stream: int) -> None:
        pinned = self._pinned("cuMemcpyDtoHAsync", target, size)

        def copy() -> None:
            pinned[:] = self.view(source, size)

        self._submit("cuMemcpyDtoHAsync", stream, copy)

    # How it does it.

    def context_of(self, call: str) -> Context:
        """The current context, which must be healthy."""
        if not self._stack():
            raise CudaFailure(call, "CUDA_ERROR_INVALID_CONTEXT")
        context = self._stack()[-1]
        if context.destroyed:
            raise CudaFailure(call, "CUDA_ERROR_CONTEXT_IS_DESTROYED")
        if context.lost:
            raise CudaFailure(call, context.lost)
        return context

    def raise_fault(self, call: str) -> None:
        """Fail as `fail` was asked to; a sticky code loses the context."""
        for fault in self._faults.get(call, []):
            if fault.after:
                fault.after -= 1
                continue
            if fault.times == 0:
                continue
            if fault.times is not None:
                fault.times -= 1
            if fault.code in STICKY and self._primary:
                self._primary.lost = fault.code
            raise CudaFailure(call, fault.code)

    def _alive(self, call: str) -> Context:
        if self._primary is None:
            raise CudaFailure(call, "CUDA_ERROR_INVALID_CONTEXT")
        if self._primary.lost:
            raise CudaFailure(call, self._primary.lost)
        return self._primary

    def _stack(self) -> list[Context]:
        return self._stacks.setdefault(threading.current_thread(), [])

    def _add(self, one: Any) -> int:
        handle = next(self._handles)
        self.context_of("create").objects[handle] = one
        return handle

    def _object(self, call: str, handle: int, kind: type[Any]) -> Any:
        found = self._alive(call).objects.get(handle)
        if not isinstance(found, kind):
            raise CudaFailure(call, "CUDA_ERROR_INVALID_HANDLE")
        return found

    def _stream(self, call: str, handle: int) -> Stream:
        return cast(Stream, self._object(call, handle, Stream))

    def _submit(self, call: str, handle: int, operation: Callable[[], None]) -> None:
        def observed() -> None:
            self.time += self.costs.get(call, 0.0)
            if self.done is not None:
                self.done.append(call)
            operation()

        self._put(call, handle, operation if self.done is None and not self.costs else observed)

    def _put(self, call: str, handle: int, operation: Callable[[], None]) -> None:
        stream = self._stream(call, handle)
        if stream.captured is not None:
            if stream.invalid:
                raise CudaFailure(call, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
            stream.captured.append(operation)
            return
        stream.queue.append(operation)
        if not self.asynchronous:
            self._drain(stream)

    def _drain(self, stream: Stream) -> None:
        """Run what waits on a stream; an operation that meets a bad address loses the context."""
        while stream.queue:
            try:
                stream.queue.pop(0)()
            except CudaFailure as failure:
                stream.queue.clear()
                if self._primary and not self._primary.lost:
                    self._primary.lost = failure.code

    def _refuse_while_capturing(self, call: str) -> None:
        """Allocations may not be made while this thread captures, unless relaxed."""
        for one in self.context_of(call).objects.values():
            if isinstance(one, Stream) and one.captured is not None and one.mode != CAPTURE_RELAXED:
                one.invalid = True
                raise CudaFailure(call, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")

    def _pinned(self, call: str, address: int, size: int) -> NDArray[np.uint8]:
        """Host memory of an asynchronous copy: page-locked, for else the copy would not be asynchronous."""
        for memory in self.context_of(call).objects.values():
            if isinstance(memory, Memory) and memory.kind != "device memory":
                start = address - memory.address
                if start >= 0 and start + size <= memory.size:
                    return memory.bytes[start : start + size]
        raise CudaFailure(call, "CUDA_ERROR_INVALID_VALUE")

    def _allocate(self, call: str, context: Context, kind: str, size: int) -> int:
        size = operator.index(size)
        if size <= 0:
            raise CudaFailure(call, "CUDA_ERROR_INVALID_VALUE")
        used = sum(one.size for one in context.objects.values() if isinstance(one, Memory))
        if used + size > self.memory:
            raise CudaFailure(call, "CUDA_ERROR_OUT_OF_MEMORY")
        room = np.full(size + ALIGNMENT, FRESH, np.uint8)
        start = -int(room.ctypes.data) % ALIGNMENT
        address = int(room.ctypes.data) + start
        context.objects[address] = Memory(kind, address, size, room[start : start + size])
        return address

    def _free(self, call: str, context: Context, address: int, *kinds: str) -> None:
        memory = context.objects.get(address)
        if not isinstance(memory, Memory) or memory.kind not in kinds:
            raise CudaFailure(call, "CUDA_ERROR_INVALID_VALUE")
        for one in context.objects.values():
            if isinstance(one, Stream):
                self._drain(one)  # freeing waits for what may still use the memory
        del context.objects[address]
        self._bury(memory)

    def _bury(self, memory: Memory) -> None:
        memory.bytes[:] = FREED
        self._graveyard.append(memory.bytes)


@contextmanager
def installed(
    binding: str | None,
    *,
    integrated: bool = False,
    maps: bool | None = None,
    count: int = 1,
    driver: bool = True,
    version: str | None = None,
    captures: bool = False,
) -> Iterator[Device]:
    """Let `import` find one binding of an emulated device, and no other, while the context lasts.

    Args:
        binding: 'cuda-python' (module `cuda.bindings.driver`), 'cuda.cuda' (its older name), 'pycuda', None.
        integrated: whether the device shares the host's memory, as a Jetson's does.
        maps: whether it can map host memory (default: yes).
        count: how many devices there are.
        driver: whether libcuda.so.1 is there.
        version: what the binding says it is.
        captures: whether pycuda has stream capture, which none that was released up to 2026.1 has.
    """
    device = Device(integrated=integrated, maps=maps, count=count)
    with cuda_facades.importable(modules(device, binding, driver, version, captures)):
        yield device


def modules(
    device: Device, binding: str | None, driver: bool, version: str | None, captures: bool
) -> dict[str, ModuleType | Exception | None]:
    """What `import` is to find under each name; None and errors are what it is not to find."""
    nothing: dict[str, ModuleType | Exception | None] = {"cuda": None, "pycuda": None}
    if binding is None:
        return nothing
    if binding == "pycuda":
        return nothing | cuda_facades.pycuda(device, driver=driver, version=version, captures=captures)
    if binding in ("cuda-python", "cuda.cuda"):
        return nothing | cuda_facades.cuda_python(device, binding, driver=driver, version=version)
    raise ValueError(f"no binding {binding!r}")
