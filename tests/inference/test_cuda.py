"""The CUDA layer over an emulated device, through both bindings."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgeemo.errors import BackendError
from edgeemo.inference import cuda_driver, cuda_pycuda, cuda_python, readiness
from edgeemo.inference.cuda import Cuda, CudaError, open_cuda
from tests.support import cuda_codes, cuda_double, cuda_facades, cuda_surface
from tests.support.cuda_double import Device

ROOT = Path(__file__).parents[2]
BINDINGS = ("cuda-python", "pycuda")
Opened = tuple[Cuda, Device]


@pytest.fixture(params=BINDINGS)
def binding(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def opened(binding: str) -> Iterator[Opened]:
    """A device that works behind its calls, opened; it must be left clean."""
    with cuda_double.installed(binding) as device:
        device.asynchronous = True
        cuda = open_cuda()
        yield cuda, device
        cuda.close()
        device.assert_clean()


@pytest.fixture(params=BINDINGS)
def capturing(request: pytest.FixtureRequest) -> Iterator[Opened]:
    """The same with a pycuda that captures, as its development version does."""
    with cuda_double.installed(request.param, captures=True) as device:
        device.asynchronous = True
        cuda = open_cuda()
        assert cuda.captures
        yield cuda, device
        cuda.close()
        device.assert_clean()


def in_thread(work: Callable[[], Any]) -> Any:
    """What `work` answers, on a thread of its own."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(work()))
    thread.start()
    thread.join()
    return answers[0]


# What it is.


def test_nothing_of_cuda_is_imported_before_a_device_is_opened() -> None:
    program = (
        "import sys, edgeemo.inference.cuda\n"
        "assert not {'cuda', 'pycuda', 'tensorrt'} & {name.split('.')[0] for name in sys.modules}"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("binding", "version", "told"),
    [
        ("cuda-python", None, "cuda-python 13.5.0"),
        ("cuda-python", "12.9.10", "cuda-python 12.9.10"),
        ("cuda.cuda", None, "cuda-python 12.0.0"),
        ("pycuda", None, "pycuda 2026.1"),
    ],
)
def test_what_a_device_is(binding: str, version: str | None, told: str) -> None:
    with cuda_double.installed(binding, version=version, integrated=True) as device:
        cuda = open_cuda()
        assert cuda.binding == told
        assert cuda.captures == (binding != "pycuda")
        assert (cuda.name, cuda.capability, cuda.driver) == ("Emulated Orin", (8, 7), (12, 6))
        assert (cuda.integrated, cuda.maps_memory, cuda.memory) == (True, True, 1 << 30)
        cuda.close()
        device.assert_clean()


def test_the_stream_is_there_by_its_handle_and_waits_for_no_default_stream(opened: Opened) -> None:
    cuda, device = opened
    seen: list[str] = []
    device.enqueue(cuda.stream, lambda: seen.append("ran"))
    assert not seen
    cuda.synchronize()
    assert seen == ["ran"]
    assert device.flags(cuda.stream) == 1  # CU_STREAM_NON_BLOCKING


def test_cuda_python_is_preferred() -> None:
    with cuda_double.installed("cuda-python") as device:
        sys.modules.update(
            {
                name: module
                for name, module in cuda_facades.pycuda(
                    device, driver=True, version=None, captures=False
                ).items()
                if isinstance(module, ModuleType)
            }
        )
        cuda = open_cuda()
        assert cuda.binding.startswith("cuda-python")
        cuda.close()


# Why it is not there.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"binding": None}, ("no CUDA binding", "pip install", *readiness.BINDINGS.values(), "pycuda")),
        (
            {"binding": "cuda-python", "driver": False},
            ("libcuda.so.1", "install NVIDIA's driver", "docker run"),
        ),
        ({"binding": "cuda.cuda", "driver": False}, ("libcuda.so.1", "install NVIDIA's driver")),
        ({"binding": "pycuda", "driver": False}, ("libcuda.so.1", "install NVIDIA's driver", "docker run")),
        ({"binding": "cuda-python", "count": 0}, ("cuInit", "CUDA_ERROR_NO_DEVICE", "no NVIDIA GPU")),
        ({"binding": "pycuda", "count": 0}, ("cuInit", "CUDA_ERROR_NO_DEVICE", "no NVIDIA GPU")),
    ],
)
def test_why_no_device_can_be_opened(options: dict[str, Any], words: tuple[str, ...]) -> None:
    with cuda_double.installed(**options), pytest.raises(BackendError) as raised:
        open_cuda()
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ImportError("/x/_driver.so: undefined symbol: cuCtxCreate_v4"),
            ("driver is too old", "cuCtxCreate_v4"),
        ),
        (
            ImportError("numpy.core.multiarray failed to import"),
            ("installed but cannot be imported", "numpy"),
        ),
        (ModuleNotFoundError("No module named 'pytools'", name="pytools"), ("cannot be imported", "pytools")),
    ],
)
def test_why_a_binding_cannot_be_imported(error: ImportError, words: tuple[str, ...]) -> None:
    modules = {"cuda": None, "pycuda": cuda_facades.package("pycuda"), "pycuda.driver": error}
    with cuda_facades.importable(modules), pytest.raises(BackendError) as raised:
        open_cuda()
    for word in ("pycuda.driver", *words):
        assert word in str(raised.value)


def test_a_broken_cuda_python_does_not_hide_pycuda() -> None:
    with cuda_double.installed("pycuda"):
        broken = ModuleNotFoundError("No module named 'cuda.pathfinder'", name="cuda.pathfinder")
        middle = cuda_facades.package("cuda.bindings")
        sys.modules.update({"cuda": cuda_facades.package("cuda"), "cuda.bindings": middle})
        with cuda_facades.importable({"cuda.bindings.driver": broken}):
            cuda = open_cuda()
        assert cuda.binding.startswith("pycuda")
        cuda.close()
        sys.modules["pycuda"] = None  # type: ignore[assignment]
        with (
            cuda_facades.importable({"cuda.bindings.driver": broken}),
            pytest.raises(BackendError, match=r"cuda.bindings.driver is installed but cannot .*pathfinder"),
        ):
            open_cuda()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Failed to get cuGetProcAddress_v2", "driver is too old for cuda-python"),
        ("function cuInit is not found", "driver is too old for cuda-python"),
        ('Function "cuInit" not found', "driver is too old for cuda-python"),
        ("Failed to open cuda", "does not find the NVIDIA driver"),
        ('"cuda" is an NVIDIA driver library and can only be found via system search', "does not find"),
    ],
)
def test_cuda_python_finds_the_driver_in_its_first_call(message: str, words: str) -> None:
    with cuda_double.installed("cuda-python"):

        def fails(Flags: int) -> Any:
            raise RuntimeError(message)

        sys.modules["cuda.bindings.driver"].cuInit = fails  # type: ignore[attr-defined]
        with pytest.raises(BackendError, match=words):
            open_cuda()


OPENING = [
    ("cuInit", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "not of the driver that runs"),
    ("cuInit", "CUDA_ERROR_STUB_LIBRARY", "stub, not the driver"),
    ("cuInit", "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", "compatibility package"),
    ("cuInit", "CUDA_ERROR_UNKNOWN", "unknown error"),
    ("cuDeviceGet", "CUDA_ERROR_INVALID_DEVICE", "counted from 0"),
    ("cuDriverGetVersion", "CUDA_ERROR_INVALID_VALUE", "invalid argument"),
    ("cuDeviceGetName", "CUDA_ERROR_INVALID_VALUE", "invalid argument"),
    ("cuDeviceTotalMem", "CUDA_ERROR_INVALID_VALUE", "invalid argument"),
    ("cuDeviceGetAttribute", "CUDA_ERROR_INVALID_VALUE", "invalid argument"),
    ("cuDevicePrimaryCtxRetain", "CUDA_ERROR_DEVICE_UNAVAILABLE", "for itself"),
    ("cuDevicePrimaryCtxRetain", "CUDA_ERROR_OUT_OF_MEMORY", "end other programs"),
    ("cuCtxPushCurrent", "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"),
    ("cuStreamCreate", "CUDA_ERROR_OUT_OF_MEMORY", "end other programs"),
]


@pytest.mark.parametrize(("call", "code", "words"), OPENING)
def test_an_opening_that_fails_says_why_and_leaves_nothing(
    binding: str, call: str, code: str, words: str
) -> None:
    with cuda_double.installed(binding) as device:
        device.fail(call, code)
        with pytest.raises(CudaError) as raised:
            open_cuda()
        assert raised.value.code == code
        for word in (call, code, words):
            assert word in str(raised.value)
        device.assert_clean()


def test_a_device_that_is_not_there(binding: str) -> None:
    with cuda_double.installed(binding), pytest.raises(CudaError, match="CUDA_ERROR_INVALID_DEVICE"):
        open_cuda(3)


# Buffers and copies.


def test_a_copy_to_the_device_and_back(opened: Opened) -> None:
    cuda, device = opened
    source, target = cuda.pin(16), cuda.pin(16)
    memory = cuda.allocate(16)
    assert source.array.dtype == np.uint8 and source.array.shape == (16,) and source.array.flags.writeable
    assert source.array.ctypes.data == source.address
    source.array[:] = np.arange(16)
    target.array[:] = 0
    cuda.upload(memory, source, 16)
    cuda.download(target, memory, 10)
    assert not target.array.any()  # nothing is promised before the stream was waited for
    cuda.synchronize()
    assert target.array.tolist() == [*range(10), *[0] * 6]
    assert device.read(memory.address, 16) == bytes(range(16))


@pytest.mark.parametrize("size", [0, -1, 9])
def test_a_copy_must_fit_both_buffers(opened: Opened, size: int) -> None:
    cuda, _ = opened
    small, large, pinned = cuda.allocate(8), cuda.allocate(16), cuda.pin(8)
    for copy in (
        lambda: cuda.upload(large, pinned, size),
        lambda: cuda.download(pinned, large, size),
        lambda: cuda.upload(small, cuda.pin(16), size),
    ):
        with pytest.raises(BackendError, match=f"a copy of {size} bytes"):
            copy()


def test_what_was_freed_is_not_used(opened: Opened) -> None:
    cuda, device = opened
    memory, pinned, event = cuda.allocate(8), cuda.pin(8), cuda.event()
    for one in (memory, pinned, event):
        one.free()
        one.free()
    assert device.live == {"primary context": 1, "stream": 1}
    assert (memory.address, memory.size, pinned.address, pinned.size) == (0, 0, 0, 0)
    assert pinned.array.size == 0 and pinned.device_address is None
    with pytest.raises(BackendError, match="freed"):
        cuda.upload(cuda.allocate(8), pinned, 8)
    with pytest.raises(BackendError, match="freed"):
        cuda.upload(memory, cuda.pin(8), 8)
    with pytest.raises(BackendError, match="this Event was freed"):
        cuda.elapsed(event, event)


@pytest.mark.parametrize(
    ("integrated", "maps", "mapped"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_pinned_memory_is_mapped_on_an_integrated_device_that_can(
    binding: str, integrated: bool, maps: bool, mapped: bool
) -> None:
    with cuda_double.installed(binding, integrated=integrated, maps=maps) as device:
        cuda = open_cuda()
        pinned = cuda.pin(4)
        pinned.array[:] = (1, 2, 3, 4)
        if mapped:
            assert pinned.device_address is not None
            assert device.read(pinned.device_address, 4) == b"\1\2\3\4"
            device.write(pinned.device_address + 1, b"\7")
            assert pinned.array.tolist() == [1, 7, 3, 4]
        else:
            assert pinned.device_address is None
            with pytest.raises(cuda_double.CudaFailure, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
                device.read(pinned.address, 4)
        cuda.close()
        device.assert_clean()


def test_a_mapping_that_fails_frees_the_memory(binding: str) -> None:
    with cuda_double.installed(binding, integrated=True) as device:
        cuda = open_cuda()
        device.fail("cuMemHostGetDevicePointer", "CUDA_ERROR_INVALID_VALUE")
        with pytest.raises(CudaError, match="cuMemHostGetDevicePointer failed: CUDA_ERROR_INVALID_VALUE"):
            cuda.pin(4)
        assert device.live == {"primary context": 1, "stream": 1}
        cuda.close()
        device.assert_clean()


def test_too_little_memory(opened: Opened) -> None:
    cuda, _ = opened
    size = 1 << 40
    for allocate in (cuda.allocate, cuda.pin):
        with pytest.raises(CudaError, match=f"of {size} bytes failed: CUDA_ERROR_OUT_OF_MEMORY") as raised:
            allocate(size)
        assert raised.value.out_of_memory and not raised.value.context_lost


@pytest.mark.parametrize("size", [0, -1])
def test_an_allocation_of_nothing_is_refused(opened: Opened, size: int) -> None:
    cuda, _ = opened
    for allocate in (cuda.allocate, cuda.pin):
        with pytest.raises(BackendError, match=f"a buffer of {size} bytes; it must be at least 1"):
            allocate(size)


# Events.


def test_the_time_between_two_events(opened: Opened) -> None:
    cuda, device = opened
    start, end = cuda.event(), cuda.event()
    start.record()
    device.enqueue(cuda.stream, lambda: threading.Event().wait(0.02))
    end.record()
    with pytest.raises(CudaError, match="cuEventElapsedTime failed: CUDA_ERROR_NOT_READY"):
        cuda.elapsed(start, end)
    end.synchronize()
    assert 19 < cuda.elapsed(start, end) < 2000
    with pytest.raises(CudaError, match="CUDA_ERROR_INVALID_HANDLE"):
        cuda.elapsed(start, cuda.event())


@pytest.mark.parametrize("blocking", [False, True])
def test_who_waits_for_an_event_sleeps_or_spins(opened: Opened, blocking: bool) -> None:
    cuda, device = opened
    event = cuda.event(blocking=blocking)
    assert device._primary is not None
    made = [one for one in device._primary.objects.values() if isinstance(one, cuda_double.Event)]
    assert [one.flags for one in made] == [int(blocking)]  # CU_EVENT_BLOCKING_SYNC
    event.record()
    event.synchronize()
    event.free()


# Capture.


def test_captured_work_is_done_when_it_is_launched_and_not_before(capturing: Opened) -> None:
    cuda, device = capturing
    source, target, memory = cuda.pin(4), cuda.pin(4), cuda.allocate(4)
    runs: list[int] = []

    def work() -> None:
        cuda.upload(memory, source, 4)
        device.enqueue(cuda.stream, lambda: runs.append(1))
        cuda.download(target, memory, 4)

    source.array[:] = 1
    target.array[:] = 0
    graph = cuda.capture(work)
    cuda.synchronize()
    assert not runs and not target.array.any()
    assert device.live["executable graph"] == 1 and "graph" not in device.live
    for value in (5, 6):
        source.array[:] = value
        graph.launch()
        cuda.synchronize()
        assert target.array.tolist() == [value] * 4
    assert runs == [1, 1]
    graph.free()
    graph.free()
    assert "executable graph" not in device.live
    with pytest.raises(BackendError, match="this CudaGraph was freed"):
        graph.launch()


def test_a_capture_is_of_this_thread_alone(capturing: Opened) -> None:
    cuda, device = capturing
    modes: list[int] = []
    cuda.capture(lambda: modes.append(device.capture_mode(cuda.stream)))
    assert modes == [1]  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


def test_work_that_raises_ends_the_capture(capturing: Opened) -> None:
    cuda, device = capturing

    def work() -> None:
        device.enqueue(cuda.stream, lambda: pytest.fail("was run"))
        raise ZeroDivisionError("in work")

    with pytest.raises(ZeroDivisionError, match="in work"):
        cuda.capture(work)
    assert not device.capturing(cuda.stream)
    cuda.synchronize()
    assert device.live == {"primary context": 1, "stream": 1}


@pytest.mark.parametrize("forbidden", ["synchronize", "allocate", "pin"])
def test_what_may_not_be_captured(capturing: Opened, forbidden: str) -> None:
    cuda, device = capturing
    actions: dict[str, Callable[[], Any]] = {
        "synchronize": cuda.synchronize,
        "allocate": lambda: cuda.allocate(8),
        "pin": lambda: cuda.pin(8),
    }
    with pytest.raises(CudaError) as raised:
        cuda.capture(actions[forbidden])
    assert raised.value.code == "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"

    def hides() -> None:
        with pytest.raises(CudaError):
            actions[forbidden]()

    with pytest.raises(CudaError) as raised:
        cuda.capture(hides)
    assert raised.value.code == "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
    assert not device.capturing(cuda.stream)
    cuda.capture(lambda: None).launch()  # the stream can be used again
    cuda.synchronize()


@pytest.mark.parametrize("call", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate"])
def test_a_capture_that_fails_leaves_nothing(capturing: Opened, call: str) -> None:
    cuda, device = capturing
    device.fail(call, "CUDA_ERROR_OUT_OF_MEMORY")
    with pytest.raises(CudaError, match=f"{call} failed: CUDA_ERROR_OUT_OF_MEMORY"):
        cuda.capture(lambda: None)
    assert device.live == {"primary context": 1, "stream": 1}


def test_a_pycuda_without_capture_says_so() -> None:
    with cuda_double.installed("pycuda") as device:
        cuda = open_cuda()
        assert not cuda.captures
        with pytest.raises(
            BackendError, match=r"pycuda 2026.1 cannot capture CUDA graphs; install cuda-bindings"
        ):
            cuda.capture(lambda: pytest.fail("was run"))
        cuda.close()
        device.assert_clean()


# Errors.

FAILING: list[tuple[str, Callable[[Cuda], Any]]] = [
    ("cuCtxPushCurrent", lambda cuda: cuda.synchronize()),
    ("cuStreamSynchronize", lambda cuda: cuda.synchronize()),
    ("cuMemAlloc", lambda cuda: cuda.allocate(8)),
    ("cuMemHostAlloc", lambda cuda: cuda.pin(8)),
    ("cuMemcpyHtoDAsync", lambda cuda: cuda.upload(cuda.allocate(8), cuda.pin(8), 8)),
    ("cuMemcpyDtoHAsync", lambda cuda: cuda.download(cuda.pin(8), cuda.allocate(8), 8)),
    ("cuEventCreate", lambda cuda: cuda.event()),
    ("cuEventRecord", lambda cuda: cuda.event().record()),
    ("cuEventSynchronize", lambda cuda: cuda.event().synchronize()),
    ("cuEventElapsedTime", lambda cuda: cuda.elapsed(cuda.event(), cuda.event())),
    ("cuStreamBeginCapture", lambda cuda: cuda.capture(lambda: None)),
    ("cuStreamEndCapture", lambda cuda: cuda.capture(lambda: None)),
    ("cuGraphInstantiate", lambda cuda: cuda.capture(lambda: None)),
    ("cuGraphLaunch", lambda cuda: cuda.capture(lambda: None).launch()),
]
CODES = [
    ("CUDA_ERROR_INVALID_VALUE", "invalid argument", False),
    ("CUDA_ERROR_OUT_OF_MEMORY", "end other programs that use the GPU", False),
    ("CUDA_ERROR_ILLEGAL_ADDRESS", "the CUDA context is lost; close the model and load it again", True),
    ("CUDA_ERROR_LAUNCH_FAILED", "the CUDA context is lost; close the model and load it again", True),
]


@pytest.mark.parametrize(("code", "words", "lost"), CODES)
@pytest.mark.parametrize(("call", "use"), FAILING, ids=[call for call, _ in FAILING])
def test_every_call_is_checked(
    binding: str, call: str, use: Callable[[Cuda], Any], code: str, words: str, lost: bool
) -> None:
    with cuda_double.installed(binding, captures=True) as device:
        cuda = open_cuda()
        device.fail(call, code)
        with pytest.raises(CudaError) as raised:
            use(cuda)
        assert raised.value.code == code
        assert raised.value.context_lost == lost
        for word in (call, code, words):
            assert word in str(raised.value)
        cuda.close()
        device.assert_clean()


def test_a_free_that_fails_is_told() -> None:
    """pycuda prints such failures itself and raises nothing."""
    with cuda_double.installed("cuda-python") as device:
        cuda = open_cuda()
        memory = cuda.allocate(8)
        device.fail("cuMemFree", "CUDA_ERROR_INVALID_VALUE")
        with pytest.raises(CudaError, match="cuMemFree failed: CUDA_ERROR_INVALID_VALUE"):
            memory.free()
        memory.free()
        cuda.close()


def test_the_first_error_is_told_when_the_context_cannot_be_taken_back_either(binding: str) -> None:
    with cuda_double.installed(binding) as device:
        cuda = open_cuda()
        device.fail("cuStreamSynchronize", "CUDA_ERROR_ILLEGAL_ADDRESS")
        device.fail("cuCtxPopCurrent", "CUDA_ERROR_ILLEGAL_ADDRESS")
        with pytest.raises(CudaError, match="cuStreamSynchronize failed"):
            cuda.synchronize()


def test_an_error_of_the_way_back_is_told(binding: str) -> None:
    with cuda_double.installed(binding) as device:
        cuda = open_cuda()
        device.fail("cuCtxPopCurrent", "CUDA_ERROR_DEINITIALIZED")
        with pytest.raises(CudaError, match="cuCtxPopCurrent failed: CUDA_ERROR_DEINITIALIZED"):
            cuda.synchronize()


def test_a_code_that_the_binding_does_not_know() -> None:
    with cuda_double.installed("cuda-python") as device:
        cuda = open_cuda()

        def newer(bytesize: int) -> Any:
            raise ValueError("987 is not a valid CUresult")

        sys.modules["cuda.bindings.driver"].cuMemAlloc = newer  # type: ignore[attr-defined]
        with pytest.raises(CudaError, match="cuMemAlloc of 8 bytes failed: CUDA_ERROR_987"):
            cuda.allocate(8)
        cuda.close()
        device.assert_clean()


def test_an_error_of_pycuda_with_words_that_are_not_the_drivers() -> None:
    with cuda_double.installed("pycuda") as device:
        cuda = open_cuda()
        api = sys.modules["pycuda.driver"]

        def fails(size: int) -> Any:
            raise api.LogicError("mem_alloc failed: something else - and a remark")

        api.mem_alloc = fails  # type: ignore[attr-defined]
        with pytest.raises(
            CudaError, match=r"mem_alloc of 8 bytes failed: CUDA_ERROR_UNKNOWN \(something else\)"
        ):
            cuda.allocate(8)
        cuda.close()
        device.assert_clean()


def test_the_codes_of_pycudas_words_are_the_drivers() -> None:
    assert {code: words for words, code in cuda_pycuda.CODES.items()}.items() <= cuda_codes.TEXTS.items()


def test_every_code_that_a_message_speaks_of_can_come_from_pycuda() -> None:
    assert cuda_double.STICKY <= cuda_driver._LOST
    assert cuda_driver._LOST | cuda_driver._REMEDIES.keys() <= set(cuda_pycuda.CODES.values())
    assert cuda_driver._LOST | cuda_driver._REMEDIES.keys() <= cuda_codes.NUMBERS.keys()


# A lost context.


def test_a_lost_context_fails_every_call_and_is_closed_in_silence(
    binding: str, caplog: pytest.LogCaptureFixture
) -> None:
    with cuda_double.installed(binding) as device:
        device.asynchronous = True
        cuda = open_cuda()
        memory, pinned, event = cuda.allocate(8), cuda.pin(8), cuda.event()
        device.enqueue(cuda.stream, lambda: device.write(memory.address, bytes(9)))  # one byte too many
        for _ in range(2):
            with pytest.raises(CudaError, match=r"cuStreamSynchronize failed: CUDA_ERROR_ILLEGAL_ADDRESS"):
                cuda.synchronize()
        with pytest.raises(CudaError, match="context is lost"):
            cuda.upload(memory, pinned, 8)
        memory.free()
        with caplog.at_level(logging.DEBUG, logger="edgeemo"):
            cuda.close()
            cuda.close()
        pinned.free()
        event.free()
        assert not caplog.records
        device.assert_clean()
        again = open_cuda()
        again.synchronize()
        again.close()
        device.assert_clean()


@pytest.mark.parametrize("on", ["this thread", "another thread"])
def test_a_lost_context_that_cannot_even_be_made_current(binding: str, on: str) -> None:
    with cuda_double.installed(binding) as device:
        cuda = open_cuda()
        memory = cuda.allocate(8)
        graph_like = cuda.event()
        device.fail("cuCtxPushCurrent", "CUDA_ERROR_ILLEGAL_ADDRESS", times=None)
        memory.free()
        if on == "this thread":
            cuda.close()
        else:
            in_thread(cuda.close)
        memory.free()
        graph_like.free()
        del cuda, memory, graph_like
        assert not device.warnings and not device.stack


def test_what_fails_while_closing_is_logged(binding: str, caplog: pytest.LogCaptureFixture) -> None:
    with cuda_double.installed(binding) as device:
        cuda = open_cuda()
        cuda.allocate(8)
        device.fail("cuStreamSynchronize", "CUDA_ERROR_UNKNOWN")
        with caplog.at_level(logging.DEBUG, logger="edgeemo"):
            cuda.close()
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert (
            "closing the CUDA device: cuStreamSynchronize failed: CUDA_ERROR_UNKNOWN" in record.getMessage()
        )
        device.assert_clean()


# Closing.


def test_closing_frees_everything(binding: str) -> None:
    with cuda_double.installed(binding, captures=True) as device:
        cuda = open_cuda()
        kept = [cuda.allocate(8), cuda.pin(8), cuda.event(), cuda.capture(lambda: None)]
        cuda.allocate(8).free()
        assert device.live == {
            "primary context": 1,
            "stream": 1,
            "device memory": 1,
            "pinned memory": 1,
            "event": 1,
            "executable graph": 1,
        }
        cuda.close()
        device.assert_clean()
        for one in kept:
            one.free()
        cuda.close()
        uses: list[Callable[[], Any]] = [
            cuda.synchronize,
            cuda.event,
            lambda: cuda.allocate(8),
            lambda: cuda.pin(8),
            lambda: cuda.capture(lambda: None),
            lambda: cuda.current().__enter__(),
        ]
        for use in uses:
            with pytest.raises(BackendError, match="was closed; open it again"):
                use()


def test_two_of_one_device_do_not_know_each_other(binding: str) -> None:
    with cuda_double.installed(binding) as device:
        one, other = open_cuda(), open_cuda()
        assert one.stream != other.stream
        memory = other.allocate(8)
        one.close()
        device.write(memory.address, b"here")
        other.synchronize()
        other.close()
        device.assert_clean()


def test_a_close_while_the_interpreter_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """pycuda's context is given back on a thread, and none can be started then."""
    with cuda_double.installed("pycuda") as device:
        cuda = open_cuda()

        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't create new thread at interpreter shutdown")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        cuda.close()
        assert not device.live and not device.leaks


# Threads and other people's contexts.


def test_opened_used_and_closed_on_three_threads(binding: str) -> None:
    with cuda_double.installed(binding, captures=True) as device:
        cuda: Cuda = in_thread(open_cuda)

        def use() -> list[int]:
            source, target, memory = cuda.pin(4), cuda.pin(4), cuda.allocate(4)
            source.array[:] = 3
            cuda.upload(memory, source, 4)
            cuda.download(target, memory, 4)
            cuda.synchronize()
            graph = cuda.capture(lambda: None)
            graph.launch()
            cuda.synchronize()
            answer = target.array.tolist()
            for one in (graph, source, memory):
                one.free()
            assert device.stack == []
            return list(answer)

        assert in_thread(use) == [3] * 4
        assert device.stack == []
        in_thread(cuda.close)
        assert device.stack == []
        device.assert_clean()


def test_nobody_elses_context_is_disturbed(binding: str) -> None:
    with cuda_double.installed(binding) as device:
        device.cuInit(0)
        theirs = device.cuDevicePrimaryCtxRetain(0)
        device.cuCtxPushCurrent(theirs)
        cuda = open_cuda()
        before = device.stack
        assert before == [theirs]
        with cuda.current():
            assert len(device.stack) == 2
            with cuda.current():
                cuda.synchronize()
                cuda.allocate(8).free()
            assert len(device.stack) == 2
        assert device.stack == before
        with pytest.raises(CudaError):
            cuda.allocate(1 << 40)
        with pytest.raises(ZeroDivisionError), cuda.current():
            raise ZeroDivisionError
        assert device.stack == before
        cuda.close()
        assert device.stack == before
        device.cuCtxPopCurrent()
        device.cuDevicePrimaryCtxRelease(0)
        device.assert_clean()


# A steady step.


def test_a_steady_step_allocates_nothing(capturing: Opened) -> None:
    cuda, device = capturing
    source, target, memory = cuda.pin(64), cuda.pin(64), cuda.allocate(64)
    graph = cuda.capture(lambda: None)

    def step() -> None:
        cuda.upload(memory, source, 64)
        graph.launch()
        cuda.download(target, memory, 64)
        cuda.synchronize()

    tracemalloc.start()
    try:
        for _ in range(100):
            step()
        calls = device.calls.copy()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(1000):
            step()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # No object is smaller than 16 bytes; the interpreter's own caches of frames take some once.
    assert after - before < 16 * 1000, f"{after - before} bytes more after 1000 steps"
    made = device.calls - calls
    assert made["cuStreamSynchronize"] == 1000
    assert not {call for call in made if "Alloc" in call or "Free" in call or "Create" in call}


# The facades are the real bindings as far as they go.


def test_the_facade_of_cuda_python_has_the_real_names_and_arguments() -> None:
    with cuda_double.installed("cuda-python"):
        import cuda.bindings.driver as api

        assert cuda_surface.differences(api) == []
        public = {name for name in vars(api) if name.startswith("cu")}
        assert public == cuda_surface.CUDA_PYTHON.keys()
        assert {one.name: int(one) for one in api.CUresult} == cuda_codes.NUMBERS


@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-bindings is not installed")
def test_the_real_cuda_python_has_the_names_and_arguments() -> None:
    api = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    assert cuda_surface.differences(api) == []
    real = {one.name: int(one) for one in api.CUresult}
    later = {"CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER"}  # of 13.x
    assert {
        name: number for name, number in cuda_codes.NUMBERS.items() if name not in real and name not in later
    } == {}
    assert all(cuda_codes.NUMBERS.get(name, number) == number for name, number in real.items())


def test_the_facade_of_pycuda_has_the_real_names_and_arguments() -> None:
    with cuda_double.installed("pycuda"):
        import pycuda.driver as api

        assert arguments(api, cuda_surface.PYCUDA) == cuda_surface.PYCUDA
        assert not hasattr(api.Stream, "begin_capture")
        for name, value in cuda_surface.PYCUDA_NAMES.items():
            kind, member = name.split(".")
            assert int(getattr(getattr(api, kind), member)) == value
        assert all(issubclass(getattr(api, name), api.Error) for name in cuda_surface.PYCUDA_ERRORS)
    with cuda_double.installed("pycuda", captures=True):
        import pycuda.driver as api

        assert arguments(api, cuda_surface.PYCUDA_CAPTURE) == cuda_surface.PYCUDA_CAPTURE


def arguments(api: Any, table: dict[str, str]) -> dict[str, str]:
    """Arguments of pycuda's functions as the table writes them."""
    written = {}
    for name in table:
        found = api
        for part in name.split("."):
            found = inspect.getattr_static(found, part)
        found = found.__func__ if isinstance(found, staticmethod) else found
        parameters = inspect.signature(found).parameters.values()
        first = [one.name for one in parameters if one.kind is one.POSITIONAL_ONLY]
        rest = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
        written[name] = " ".join([*first, "/", *rest])
    return written


@pytest.mark.parametrize(
    ("binding", "kind", "call"),
    [
        ("cuda-python", cuda_python.CudaPython, "cuMemAlloc"),
        ("pycuda", cuda_pycuda.PyCuda, "mem_alloc"),
    ],
)
def test_a_misspelt_call_fails(binding: str, kind: type, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The facades have the names of the real bindings and no other, so that a wrong one shows."""
    source = inspect.getsource(kind)
    assert call in source
    scope = dict(vars(sys.modules[kind.__module__]))
    exec(source.replace(call, call + "s"), scope)
    monkeypatch.setattr(sys.modules[kind.__module__], kind.__name__, scope[kind.__name__])
    with cuda_double.installed(binding), pytest.raises(AttributeError, match=call + "s"):
        open_cuda().allocate(8)
