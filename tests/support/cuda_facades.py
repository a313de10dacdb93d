"""Modules that look like `cuda.bindings.driver` and `pycuda.driver`, over the device of `cuda_double`.

A facade has the names that `edgeemo.inference` uses, with the real arguments, accepts what the real one
accepts or less, and fails as the real one fails: cuda-python answers a code first, pycuda raises. The tests
hold both to the real modules.
"""

from __future__ import annotations

import functools
import inspect
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.support.cuda_codes import CODES, TEXTS

if TYPE_CHECKING:
    from tests.support.cuda_double import Device

NO_LIBRARY = "libcuda.so.1: cannot open shared object file: No such file or directory"


# Which modules `import` finds.


@contextmanager
def importable(modules: Mapping[str, ModuleType | Exception | None]) -> Iterator[None]:
    """Let `import` find these modules, not those that are None, and raise the errors, while it lasts."""
    roots = tuple(name for name in modules if "." not in name)
    kept = {name: one for name, one in sys.modules.items() if name.split(".")[0] in roots}
    for name in kept:
        del sys.modules[name]
    errors = {name: one for name, one in modules.items() if isinstance(one, Exception)}
    finder = _Refusing(errors)
    sys.meta_path.insert(0, finder)
    sys.modules.update(  # type: ignore[arg-type]  # None is what `import` takes for "not there"
        {name: one for name, one in modules.items() if name not in errors}
    )
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] in roots]:
            del sys.modules[name]
        sys.modules.update(kept)


class _Refusing(MetaPathFinder, Loader):
    """Finds modules whose import raises."""

    def __init__(self, errors: Mapping[str, Exception]) -> None:
        self.errors = errors

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in self.errors else None

    def exec_module(self, module: ModuleType) -> None:
        raise self.errors[module.__name__]


# cuda-python.

CUresult = IntEnum("CUresult", {name: number for number, name, _ in CODES})  # type: ignore[misc]


class CUdevice_attribute(IntEnum):
    CU_DEVICE_ATTRIBUTE_INTEGRATED = 18
    CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY = 19
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76


class CUstream_flags(IntEnum):
    CU_STREAM_DEFAULT = 0
    CU_STREAM_NON_BLOCKING = 1


class CUevent_flags(IntEnum):
    CU_EVENT_DEFAULT = 0
    CU_EVENT_BLOCKING_SYNC = 1


class CUstreamCaptureMode(IntEnum):
    CU_STREAM_CAPTURE_MODE_GLOBAL = 0
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1
    CU_STREAM_CAPTURE_MODE_RELAXED = 2


class _Number:
    """A handle or an address: `int()` reads it, arithmetic does not work on it."""

    def __init__(self, init_value: int = 0) -> None:
        self._value = operator.index(init_value)

    def __int__(self) -> int:
        return self._value

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._value:#x}>"


class CUdevice(_Number): ...


class CUdeviceptr(_Number): ...


class CUcontext(_Number): ...


class CUstream(_Number): ...


class CUevent(_Number): ...


class CUgraph(_Number): ...


class CUgraphExec(_Number): ...


def _size(given: int) -> int:
    """A size_t."""
    size = operator.index(given)
    if size < 0:
        raise OverflowError("can't convert negative value to size_t")
    return size


def _value(given: Any, kind: type[_Number]) -> int:
    """What a handle's argument stands for: one of its own class, a number, or None."""
    if given is None:
        return 0
    return int(given if isinstance(given, kind) else kind(given))


def cuda_python(
    device: Device, module: str, *, driver: bool, version: str | None
) -> dict[str, ModuleType | Exception | None]:
    """The package cuda-python: 'cuda-python' has `cuda.bindings.driver`, 'cuda.cuda' has that alone."""
    version = version or ("13.5.0" if module == "cuda-python" else "12.0.0")
    calls = _CudaPython(device, driver)
    names = {
        name: getattr(calls, name)
        for name in dir(calls)
        if name.startswith("cu") and not name.startswith("cuda_")
    }
    names |= {
        kind.__name__: kind
        for kind in (CUdevice, CUdeviceptr, CUcontext, CUstream, CUevent, CUgraph, CUgraphExec, CUresult)
    }
    names |= {kind.__name__: kind for kind in (CUdevice_attribute, CUstream_flags, CUevent_flags)}
    names |= {"CUstreamCaptureMode": CUstreamCaptureMode, "CU_MEMHOSTALLOC_DEVICEMAP": 2}
    if module == "cuda.cuda":
        return {"cuda": package("cuda", cuda=(low := _module("cuda.cuda", names)), __version__=version)} | {
            "cuda.cuda": low
        }
    low = _module("cuda.bindings.driver", names)
    middle = package("cuda.bindings", driver=low, __version__=version)
    return {"cuda": package("cuda", bindings=middle), "cuda.bindings": middle, "cuda.bindings.driver": low}


class _CudaPython:
    """The functions of `cuda.bindings.driver`: each answers a tuple with a CUresult first."""

    def __init__(self, device: Device, driver: bool) -> None:
        self._device = device
        self._driver = driver

    def _answer(self, call: Callable[..., Any], *arguments: Any, outputs: int = 1) -> tuple[Any, ...]:
        from tests.support.cuda_double import CudaFailure

        if not self._driver:
            raise RuntimeError("Failed to dlopen libcuda.so.1")
        try:
            value = call(*arguments)
        except CudaFailure as failure:
            return (CUresult(failure.number), *[None] * outputs)
        return (CUresult(0), value) if outputs else (CUresult(0),)

    def _make(self, kind: type[_Number], call: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
        error, value = self._answer(call, *arguments)
        return error, None if value is None else kind(value)

    def _do(self, call: Callable[..., Any], *arguments: Any) -> tuple[Any]:
        (error,) = self._answer(call, *arguments, outputs=0)
        return (error,)

    def cuGetErrorString(self, error: Any) -> tuple[Any, ...]:
        return (CUresult(0), TEXTS[CUresult(error).name].encode())

    def cuInit(self, Flags: int) -> tuple[Any, ...]:
        return self._do(self._device.cuInit, operator.index(Flags))

    def cuDriverGetVersion(self) -> tuple[Any, ...]:
        return self._answer(self._device.cuDriverGetVersion)

    def cuDeviceGet(self, ordinal: int) -> tuple[Any, ...]:
        return self._make(CUdevice, self._device.cuDeviceGet, operator.index(ordinal))

    def cuDeviceGetName(self, length: int, dev: Any) -> tuple[Any, ...]:
        error, name = self._answer(self._device.cuDeviceGetName, _value(dev, CUdevice))
        # The real one hands out its whole buffer: blanks, with a C string at their start.
        return error, None if name is None else (name.encode() + b"\0").ljust(length)[:length]

    def cuDeviceTotalMem(self, dev: Any) -> tuple[Any, ...]:
        return self._answer(self._device.cuDeviceTotalMem, _value(dev, CUdevice))

    def cuDeviceGetAttribute(self, attrib: CUdevice_attribute, dev: Any) -> tuple[Any, ...]:
        if not isinstance(attrib, CUdevice_attribute):
            raise TypeError(f"attrib is {attrib!r}")
        return self._answer(self._device.cuDeviceGetAttribute, int(attrib), _value(dev, CUdevice))

    def cuDevicePrimaryCtxRetain(self, dev: Any) -> tuple[Any, ...]:
        return self._make(CUcontext, self._device.cuDevicePrimaryCtxRetain, _value(dev, CUdevice))

    def cuDevicePrimaryCtxRelease(self, dev: Any) -> tuple[Any, ...]:
        return self._do(self._device.cuDevicePrimaryCtxRelease, _value(dev, CUdevice))

    def cuCtxPushCurrent(self, ctx: Any) -> tuple[Any, ...]:
        return self._do(self._device.cuCtxPushCurrent, _value(ctx, CUcontext))

    def cuCtxPopCurrent(self) -> tuple[Any, ...]:
        return self._make(CUcontext, self._device.cuCtxPopCurrent)

    def cuStreamCreate(self, Flags: int) -> tuple[Any, ...]:
        return self._make(CUstream, self._device.cuStreamCreate, operator.index(Flags))

    def cuStreamDestroy(self, hStream: Any) -> tuple[Any, ...]:
        return self._do(self._device.cuStreamDestroy, _value(hStream, CUstream))

    def cuStreamSynchronize(self, hStream: Any) -> tuple[Any, ...]:
        return self._do(self._device.cuStreamSynchronize, _value(hStream, CUstream))

    def cuStreamBeginCapture(self, hStream: Any, mode: CUstreamCaptureMode) -> tuple[Any, ...]:
        if not isinstance(mode, CUstreamCaptureMode):
            raise TypeError(f"mode is {mode!r}")
        return self._do(self._device.cuStreamBeginCapture, _value(hStream, CUstream), int(mode))

    def cuStreamEndCapture(self, hStream: Any) -> tuple[Any, ...]:
        return self._make(CUgraph, self._device.cuStreamEndCapture, _value(hStream, CUstream))

    def cuGraphInstantiate(self, hGraph: Any, flags: int) -> tuple[Any, ...]:
        return self._make(
            CUgraphExec, self._device.cuGraphInstantiate, _value(hGraph, CUgraph), operator.index(flags)
        )

    def cuGraphLaunch(self, hGraphExec: Any, hStream: Any) -> tuple[Any, ...]:
        graph = _value(hGraphExec, CUgraphExec)
        return self._do(self._device.cuGraphLaunch, graph, _value(hStream, CUstream))

    def cuGraphDestroy(self, hGraph: Any) -> tuple[Any, ...]:
        return self._do(self._device.cuGraphDestroy, _value(hGraph, CUgraph))

    def cuGraphExecDestroy(self, hGraphExec: Any) -> tuple[Any, ...]:
        return self._do(self._device.cuGraphExecDestroy, _value(hGraphExec, CUgraphExec))

    def cuEventCreate(self, Flags: int) -> tuple[Any, ...]:
        return self._make(CUevent, self._device.cuEventCreate, operator.index(Flags))

    def cuEventRecord(self, hEvent: Any, hStream: Any) -> tuple[Any, ...]:
        return self._do(self._device.cuEventRecord, _value(hEvent, CUevent), _value(hStream, CUstream))

    def cuEventSynchronize(self, hEvent: Any) -> tuple[Any, ...]:
        return self._do(self._device.cuEventSynchronize, _value(hEvent, CUevent))

    def cuEventElapsedTime(self, hStart: Any, hEnd: Any) -> tuple[Any, ...]:
        start, end = _value(hStart, CUevent), _value(hEnd, CUevent)
        return self._answer(self._device.cuEventElapsedTime, start, end)

    def cuEventDestroy(self, hEvent: Any) -> tuple[Any, ...]:
        return self._do(self._device.cuEventDestroy, _value(hEvent, CUevent))

    def cuMemAlloc(self, bytesize: int) -> tuple[Any, ...]:
        return self._make(CUdeviceptr, self._device.cuMemAlloc, _size(bytesize))

    def cuMemFree(self, dptr: Any) -> tuple[Any, ...]:
        return self._do(self._device.cuMemFree, _value(dptr, CUdeviceptr))

    def cuMemHostAlloc(self, bytesize: int, Flags: int) -> tuple[Any, ...]:
        return self._answer(self._device.cuMemHostAlloc, _size(bytesize), operator.index(Flags))

    def cuMemFreeHost(self, p: int) -> tuple[Any, ...]:
        return self._do(self._device.cuMemFreeHost, operator.index(p))

    def cuMemHostGetDevicePointer(self, p: int, Flags: int) -> tuple[Any, ...]:
        return self._make(
            CUdeviceptr, self._device.cuMemHostGetDevicePointer, operator.index(p), operator.index(Flags)
        )

    def cuMemcpyHtoDAsync(
        self, dstDevice: Any, srcHost: int, ByteCount: int, hStream: Any
    ) -> tuple[Any, ...]:
        target, stream = _value(dstDevice, CUdeviceptr), _value(hStream, CUstream)
        size = _size(ByteCount)
        return self._do(self._device.cuMemcpyHtoDAsync, target, operator.index(srcHost), size, stream)

    def cuMemcpyDtoHAsync(
        self, dstHost: int, srcDevice: Any, ByteCount: int, hStream: Any
    ) -> tuple[Any, ...]:
        source, stream = _value(srcDevice, CUdeviceptr), _value(hStream, CUstream)
        size = _size(ByteCount)
        return self._do(self._device.cuMemcpyDtoHAsync, operator.index(dstHost), source, size, stream)


# pycuda.


def pycuda(
    device: Device, *, driver: bool, version: str | None, captures: bool
) -> dict[str, ModuleType | Exception | None]:
    """The package pycuda; without the driver its module cannot be imported."""
    top = package("pycuda", VERSION_TEXT=version or "2026.1")
    if not driver:
        return {"pycuda": top, "pycuda.driver": ImportError(NO_LIBRARY)}
    low = _module("pycuda.driver", _pycuda_names(device, captures))
    top.driver = low  # type: ignore[attr-defined]
    return {"pycuda": top, "pycuda.driver": low}


def _pycuda_names(device: Device, captures: bool) -> dict[str, Any]:
    import threading

    from tests.support.cuda_double import CudaFailure

    class Error(Exception): ...

    class MemoryError(Error): ...

    class LogicError(Error): ...

    class LaunchError(Error): ...

    class RuntimeError(Error): ...

    kinds = {
        "CUDA_ERROR_OUT_OF_MEMORY": MemoryError,
        "CUDA_ERROR_NO_DEVICE": RuntimeError,
        "CUDA_ERROR_NOT_READY": RuntimeError,
        "CUDA_ERROR_ECC_UNCORRECTABLE": RuntimeError,
        "CUDA_ERROR_LAUNCH_FAILED": LaunchError,
        "CUDA_ERROR_LAUNCH_TIMEOUT": LaunchError,
        "CUDA_ERROR_UNKNOWN": Error,
    }
    stacks = threading.local()

    def stack() -> list[Context]:
        """pycuda's own stack of contexts of this thread; only the top one is on the driver's stack too."""
        if not hasattr(stacks, "contexts"):
            stacks.contexts = []
        found: list[Context] = stacks.contexts
        while found and not found[-1].valid:
            found.pop()
        return found

    def do(call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except CudaFailure as failure:
            kind = kinds.get(failure.code, LogicError)
            raise kind(f"{failure.call} failed: {TEXTS[failure.code]}") from None

    def active() -> Context:
        if not stack():
            raise LogicError(
                "explicit_context_dependent failed: invalid device context - no currently active context?"
            )
        return stack()[-1]

    def clean(ward: Context | None, call: Callable[..., Any], *arguments: Any) -> None:
        """Free something where its context is active or can be made so; failures are printed, not raised."""
        if ward is None or not ward.valid:
            return
        switched = not stack() or stack()[-1] is not ward
        if switched:
            if threading.get_ident() != ward.thread:
                device.warnings.append(f"{call.__name__} in out-of-thread context could not be cleaned up")
                return
            ward.push()
        try:
            call(*arguments)
        except CudaFailure as failure:
            if device.lost is None:
                device.warnings.append(f"a clean-up operation failed: {failure}")
        if switched:
            Context.pop()

    class Context:
        def __init__(self) -> None:
            raise TypeError("This class cannot be instantiated from Python")

        @classmethod
        def _of(cls, handle: int) -> Context:
            new = object.__new__(cls)
            new.handle, new.valid, new.thread = handle, True, threading.get_ident()
            return new

        handle: int
        valid: bool
        thread: int

        def push(self, /) -> None:
            if stack():
                do(device.cuCtxPopCurrent)
            do(device.cuCtxPushCurrent, self.handle)
            stack().append(self)

        @staticmethod
        def pop() -> None:
            if stack():
                do(device.cuCtxPopCurrent)
            if not stack():
                raise LogicError(
                    "context::pop failed: invalid device context - cannot pop non-current context"
                )
            stack().pop()
            if stack():
                do(device.cuCtxPushCurrent, stack()[-1].handle)

        def detach(self, /) -> None:
            if not self.valid:
                raise LogicError(
                    "context::detach failed: invalid device context - cannot detach from invalid context"
                )
            was_active = bool(stack()) and stack()[-1] is self
            if was_active:
                do(device.cuDevicePrimaryCtxRelease, 0)
            elif self.thread == threading.get_ident():
                do(device.cuCtxPushCurrent, self.handle)
                do(device.cuDevicePrimaryCtxRelease, 0)
            self.valid = False
            if was_active and stack():
                do(device.cuCtxPushCurrent, stack()[-1].handle)

        def __del__(self) -> None:
            if getattr(self, "valid", False):
                self.detach()

    class Device:
        def __init__(self, ordinal: int, /) -> None:
            self._ordinal = do(device.cuDeviceGet, operator.index(ordinal))

        def name(self, /) -> str:
            return str(do(device.cuDeviceGetName, self._ordinal))

        def compute_capability(self, /) -> tuple[int, int]:
            return (
                do(device.cuDeviceGetAttribute, 75, self._ordinal),
                do(device.cuDeviceGetAttribute, 76, self._ordinal),
            )

        def total_memory(self, /) -> int:
            return int(do(device.cuDeviceTotalMem, self._ordinal))

        def get_attribute(self, attr: device_attribute, /) -> int:
            if not isinstance(attr, device_attribute):
                raise TypeError(f"attr is {attr!r}")
            return int(do(device.cuDeviceGetAttribute, int(attr), self._ordinal))

        def retain_primary_context(self) -> Context:
            return Context._of(do(device.cuDevicePrimaryCtxRetain, self._ordinal))

    class device_attribute(IntEnum):
        INTEGRATED = 18
        CAN_MAP_HOST_MEMORY = 19

    class event_flags(IntEnum):
        DEFAULT, BLOCKING_SYNC = 0, 1

    class host_alloc_flags:
        PORTABLE, DEVICEMAP, WRITECOMBINED = 1, 2, 4

    class DeviceAllocation:
        def __init__(self) -> None:
            raise TypeError("This class cannot be instantiated from Python")

        @classmethod
        def _of(cls, address: int) -> DeviceAllocation:
            new = object.__new__(cls)
            new._address, new._ward, new._valid = address, active(), True
            return new

        _address: int
        _ward: Context | None
        _valid: bool

        def __int__(self) -> int:
            return self._address

        __index__ = __int__

        def free(self, /) -> None:
            if not self._valid:
                raise LogicError("device_allocation::free failed: invalid resource handle")
            clean(self._ward, device.cuMemFree, self._address)
            self._ward, self._valid = None, False

        def __del__(self) -> None:
            if getattr(self, "_valid", False):
                self.free()

    class PagelockedHostAllocation:
        def __init__(self) -> None:
            raise TypeError("This class cannot be instantiated from Python")

        @classmethod
        def _of(cls, address: int, shape: Any, dtype: Any) -> PagelockedHostAllocation:
            new = object.__new__(cls)
            new._address, new._ward, new._valid = address, active(), True
            new.__array_interface__ = {
                "version": 3,
                "shape": shape,
                "typestr": np.dtype(dtype).str,
                "data": (address, False),
            }
            return new

        _address: int
        _ward: Context | None
        _valid: bool
        __array_interface__: dict[str, Any]

        def get_device_pointer(self, /) -> int:
            return int(do(device.cuMemHostGetDevicePointer, self._address, 0))

        def free(self, /) -> None:
            if not self._valid:
                raise LogicError("pagelocked_host_allocation::free failed: invalid resource handle")
            clean(self._ward, device.cuMemFreeHost, self._address)
            self._ward, self._valid = None, False

        def __del__(self) -> None:
            if getattr(self, "_valid", False):
                self.free()

    def pagelocked_empty(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> Any:
        assert order == "C"
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        size = _size(int(np.dtype(dtype).itemsize * np.prod(shape, dtype=np.int64)))
        address = do(device.cuMemHostAlloc, size, operator.index(mem_flags))
        return np.asarray(PagelockedHostAllocation._of(address, shape, dtype))

    class Stream:
        def __init__(self, /, flags: int = 0) -> None:
            self._ward = active()
            self._handle = do(device.cuStreamCreate, operator.index(flags))

        @property
        def handle(self) -> int:
            return int(self._handle)

        def synchronize(self, /) -> None:
            do(device.cuStreamSynchronize, self._handle)

        def __del__(self) -> None:
            if hasattr(self, "_handle"):
                clean(self._ward, device.cuStreamDestroy, self._handle)

    class CapturingStream(Stream):
        def begin_capture(self, /, capture_mode: capture_mode | None = None) -> None:
            mode = 0 if capture_mode is None else int(capture_mode)
            do(device.cuStreamBeginCapture, self._handle, mode)

        def end_capture(self, /) -> Graph:
            graph = object.__new__(Graph)
            graph._handle = do(device.cuStreamEndCapture, self._handle)
            graph._ward = active()
            return graph

    class capture_mode(IntEnum):
        GLOBAL, THREAD_LOCAL, RELAXED = 0, 1, 2

    class Graph:
        _handle: int
        _ward: Context

        def instantiate(self, /) -> GraphExec:
            new = object.__new__(GraphExec)
            new._handle = do(device.cuGraphInstantiate, self._handle, 0)
            new._ward = active()
            return new

        def __del__(self) -> None:
            if hasattr(self, "_handle"):
                clean(self._ward, device.cuGraphDestroy, self._handle)

    class GraphExec:
        _handle: int
        _ward: Context

        def launch(self, /, stream: Stream | None = None) -> None:
            do(device.cuGraphLaunch, self._handle, stream._handle if stream else 0)

        def __del__(self) -> None:
            if hasattr(self, "_handle"):
                clean(self._ward, device.cuGraphExecDestroy, self._handle)

    class Event:
        def __init__(self, /, flags: int = 0) -> None:
            self._ward = active()
            self._handle = do(device.cuEventCreate, operator.index(flags))

        def record(self, /, stream: Stream | None = None) -> Event:
            do(device.cuEventRecord, self._handle, stream._handle if stream else 0)
            return self

        def synchronize(self, /) -> Event:
            do(device.cuEventSynchronize, self._handle)
            return self

        def time_till(self, end: Event, /) -> float:
            return float(do(device.cuEventElapsedTime, self._handle, end._handle))

        def __del__(self) -> None:
            if hasattr(self, "_handle"):
                clean(self._ward, device.cuEventDestroy, self._handle)

    def init(flags: int = 0) -> None:
        do(device.cuInit, operator.index(flags))

    def get_driver_version() -> int:
        return int(do(device.cuDriverGetVersion))

    def mem_alloc(bytes: int, /) -> DeviceAllocation:
        return DeviceAllocation._of(do(device.cuMemAlloc, _size(bytes)))

    def memcpy_htod_async(dest: Any, src: Any, stream: Stream | None = None) -> None:
        source = np.frombuffer(src, np.uint8)
        do(
            device.cuMemcpyHtoDAsync,
            operator.index(dest),
            source.ctypes.data,
            source.size,
            stream._handle if stream else 0,
        )

    def memcpy_dtoh_async(dest: Any, src: Any, stream: Stream | None = None) -> None:
        target = np.frombuffer(dest, np.uint8)
        assert target.flags.writeable
        do(
            device.cuMemcpyDtoHAsync,
            target.ctypes.data,
            operator.index(src),
            target.size,
            stream._handle if stream else 0,
        )

    def native(function: Callable[..., Any]) -> Callable[..., Any]:
        """As if it were not written in Python: an error of it keeps no frame alive, and nothing in one."""

        @functools.wraps(function)
        def called(*arguments: Any, **options: Any) -> Any:
            try:
                return function(*arguments, **options)
            except Error as error:
                failure = type(error)(*error.args)
            del arguments, options
            try:
                raise failure
            finally:
                del failure

        return called

    for kind in (Context, Device, DeviceAllocation, PagelockedHostAllocation, Stream, CapturingStream):
        _wrap_methods(kind, native)
    for kind in (Graph, GraphExec, Event):
        _wrap_methods(kind, native)
    functions = (pagelocked_empty, init, get_driver_version, mem_alloc, memcpy_htod_async, memcpy_dtoh_async)
    names: dict[str, Any] = {one.__name__: native(one) for one in functions} | {
        one.__name__: one
        for one in (
            *(Error, MemoryError, LogicError, LaunchError, RuntimeError),
            *(Context, Device, DeviceAllocation, PagelockedHostAllocation, Stream, Event),
            *(device_attribute, event_flags, host_alloc_flags),
        )
    }
    if captures:
        names |= {
            "Stream": CapturingStream,
            "capture_mode": capture_mode,
            "Graph": Graph,
            "GraphExec": GraphExec,
        }
    return names


def _wrap_methods(kind: type, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    for name, one in list(vars(kind).items()):
        if isinstance(one, staticmethod):
            setattr(kind, name, staticmethod(wrap(one.__func__)))
        elif inspect.isfunction(one) and name != "__del__":
            setattr(kind, name, wrap(one))


def _module(name: str, names: Mapping[str, Any]) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(names)
    return module


def package(name: str, **names: Any) -> ModuleType:
    """A package with these names and no files."""
    made = _module(name, names)
    made.__path__ = []
    return made
