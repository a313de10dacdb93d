"""The CUDA layer on a real device."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeemo.errors import BackendError
from edgeemo.inference.cuda import Cuda, CudaError, DeviceBuffer, open_cuda

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]
MEGABYTE = 1 << 20


def in_thread(work: Callable[[], Any]) -> Any:
    """What `work` answers, or its error, on a thread of its own."""
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(work())
        except BaseException as error:
            answers.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(answers[0], BaseException):
        raise answers[0]
    return answers[0]


def round_trip(cuda: Cuda, size: int = MEGABYTE) -> None:
    """Random bytes to the device and back."""
    source, target, memory = cuda.pin(size), cuda.pin(size), cuda.allocate(size)
    source.array[:] = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    target.array[:] = 0
    cuda.upload(memory, source, size)
    cuda.download(target, memory, size)
    cuda.synchronize()
    assert np.array_equal(source.array, target.array)
    for one in (source, target, memory):
        one.free()


def test_what_the_device_is(cuda: Cuda, gpu: str, record_property: Callable[[str, object], None]) -> None:
    record_property("gpu", gpu)
    assert cuda.name and cuda.stream
    assert cuda.capability >= (5, 0)
    assert cuda.driver >= (11, 0)
    assert cuda.memory > 256 * MEGABYTE


@pytest.mark.parametrize("size", [1, 4097, 16 * MEGABYTE])
def test_a_copy_to_the_device_and_back(cuda: Cuda, size: int) -> None:
    round_trip(cuda, size)


def test_the_device_sees_mapped_memory_in_place(cuda: Cuda) -> None:
    source, target = cuda.pin(MEGABYTE), cuda.pin(MEGABYTE)
    if not (cuda.integrated and cuda.maps_memory):
        assert source.device_address is None
        pytest.skip(f"{cuda.name} has memory of its own, so that nothing is mapped")
    assert source.device_address
    seen = cuda.allocate(1)
    seen.address, seen.size = source.device_address, source.size
    source.array[:] = np.arange(MEGABYTE, dtype=np.uint32).astype(np.uint8)
    cuda.download(target, seen, MEGABYTE)
    cuda.synchronize()
    assert np.array_equal(source.array, target.array)


def test_the_time_of_a_copy(cuda: Cuda) -> None:
    pinned, memory = cuda.pin(32 * MEGABYTE), cuda.allocate(32 * MEGABYTE)
    start, end = cuda.event(), cuda.event()
    start.record()
    cuda.upload(memory, pinned, 32 * MEGABYTE)
    end.record()
    end.synchronize()
    assert 0.01 < cuda.elapsed(start, end) < 1000


def test_a_graph_repeats_what_was_captured(cuda: Cuda) -> None:
    source, target, memory = cuda.pin(64), cuda.pin(64), cuda.allocate(64)

    def work() -> None:
        cuda.upload(memory, source, 64)
        cuda.download(target, memory, 64)

    if not cuda.captures:
        with pytest.raises(BackendError, match="cannot capture"):
            cuda.capture(work)
        pytest.skip(f"{cuda.binding} cannot capture")
    source.array[:], target.array[:] = 1, 0
    graph = cuda.capture(work)
    cuda.synchronize()
    assert not target.array.any()
    for value in (5, 6):
        source.array[:] = value
        graph.launch()
        cuda.synchronize()
        assert (target.array == value).all()


@pytest.mark.parametrize("forbidden", ["synchronize", "raise"])
def test_a_capture_that_goes_wrong_leaves_the_stream_usable(cuda: Cuda, forbidden: str) -> None:
    if not cuda.captures:
        pytest.skip(f"{cuda.binding} cannot capture")
    if forbidden == "synchronize":
        with pytest.raises(CudaError) as raised:
            cuda.capture(cuda.synchronize)
        assert raised.value.code.startswith("CUDA_ERROR_STREAM_CAPTURE")
    else:
        with pytest.raises(ZeroDivisionError):
            cuda.capture(lambda: print(1 // 0))
    round_trip(cuda)


def test_opened_used_and_closed_on_three_threads(gpu: str) -> None:
    cuda: Cuda = in_thread(open_cuda)
    in_thread(lambda: round_trip(cuda))
    round_trip(cuda)
    in_thread(cuda.close)
    with pytest.raises(BackendError, match="was closed"):
        cuda.synchronize()


def test_two_of_one_device(cuda: Cuda) -> None:
    other = open_cuda()
    assert other.stream != cuda.stream
    round_trip(other)
    other.close()
    round_trip(cuda)


def test_opening_often_leaks_nothing(gpu: str) -> None:
    for _ in range(20):
        cuda = open_cuda()
        cuda.allocate(MEGABYTE)
        cuda.pin(MEGABYTE)
        cuda.event()
        cuda.close()


def test_too_little_memory(cuda: Cuda) -> None:
    with pytest.raises(CudaError) as raised:
        cuda.allocate(64 * cuda.memory)
    assert raised.value.out_of_memory and not raised.value.context_lost
    round_trip(cuda)


# Every GPU of compute capability 7.5 and later takes it: the driver compiles it for its own.
BAD_STORE = """
.version 7.0
.target sm_75
.address_size 64
.visible .entry bad_store()
{
    .reg .u64 %address;
    .reg .u32 %value;
    mov.u64 %address, 64;
    mov.u32 %value, 1;
    st.global.u32 [%address], %value;
    ret;
}
"""


def launch_bad_store(cuda: Cuda) -> object:
    """Launch a kernel that writes to an address that is nobody's; answers what must outlive it."""
    ptx = BAD_STORE.encode() + b"\0"
    if cuda.binding.startswith("pycuda"):
        import pycuda.driver

        module = pycuda.driver.module_from_buffer(ptx)
        module.get_function("bad_store")(block=(1, 1, 1), grid=(1, 1))
        pycuda.driver.Context.synchronize()
        return module
    from cuda.bindings import driver

    error, module = driver.cuModuleLoadData(ptx)
    assert error == driver.CUresult.CUDA_SUCCESS, error
    error, function = driver.cuModuleGetFunction(module, b"bad_store")
    assert error == driver.CUresult.CUDA_SUCCESS, error
    (error,) = driver.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, cuda.stream, 0, 0)
    assert error == driver.CUresult.CUDA_SUCCESS, error
    return module


def lose_the_context() -> None:
    """What the test below runs in a process of its own, for a lost context may be lost for the process."""
    cuda = open_cuda()
    memory: DeviceBuffer = cuda.allocate(64)
    try:
        with cuda.current():
            launch_bad_store(cuda)
        cuda.synchronize()
        raise AssertionError("the bad store was not noticed")
    except CudaError as error:
        assert error.context_lost, error
        print(error)
    except Exception as error:  # pycuda's own, from its own synchronisation
        assert cuda.binding.startswith("pycuda"), error
    try:
        cuda.synchronize()
        raise AssertionError("a lost context works")
    except CudaError as error:
        assert error.context_lost, error
    memory.free()
    cuda.close()
    try:
        again = open_cuda()
        round_trip(again)
        again.close()
        print("opened again")
    except CudaError as error:
        print(f"not opened again: {error}")


def test_a_lost_context(gpu: str, record_property: Callable[[str, object], None]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from tests.gpu import test_cuda_device as t; t.lose_the_context()"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record_property("after the loss", done.stdout.splitlines()[-1])
