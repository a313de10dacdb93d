"""Drives `edgeemo.inference.cuda` over a real binding and the stand-in of libcuda_double.c.

Run as `python -m tests.support.libcuda_drive` with the folder of the built libcuda.so.1 in LD_LIBRARY_PATH;
it prints the binding and what held.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

from edgeemo.inference.cuda import Cuda, CudaError, open_cuda

LIBRARY = ctypes.CDLL("libcuda.so.1")
LAUNCH_FAILED = 719


def code(use: Callable[[], object]) -> str:
    """The code of the error that a call ends with."""
    try:
        use()
    except CudaError as error:
        return error.code
    return "none"


def copies(cuda: Cuda) -> None:
    source, target, memory = cuda.pin(16), cuda.pin(16), cuda.allocate(16)
    assert source.device_address == source.address == source.array.ctypes.data
    source.array[:] = range(16)
    target.array[:] = 0
    cuda.upload(memory, source, 16)
    cuda.download(target, memory, 10)
    assert not target.array.any()
    cuda.synchronize()
    assert target.array.tolist() == [*range(10), *[0] * 6]
    if cuda.captures:
        graph = cuda.capture(lambda: (cuda.upload(memory, source, 16), cuda.download(target, memory, 16))[0])
        source.array[:] = 9
        graph.launch()
        cuda.synchronize()
        assert target.array.tolist() == [9] * 16
        assert code(lambda: cuda.capture(cuda.synchronize)) == "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
        graph.free()
    assert code(lambda: cuda.allocate(1 << 40)) == "CUDA_ERROR_OUT_OF_MEMORY"
    for one in (source, target, memory):
        one.free()


def events(cuda: Cuda) -> None:
    start, end = cuda.event(), cuda.event(blocking=True)
    start.record()
    end.record()
    assert code(lambda: cuda.elapsed(start, end)) == "CUDA_ERROR_NOT_READY"
    end.synchronize()
    assert cuda.elapsed(start, end) == 1.5
    start.free()
    end.free()


def loss(cuda: Cuda) -> None:
    cuda.allocate(8)
    LIBRARY.double_fail(b"cuStreamSynchronize", LAUNCH_FAILED, 0)
    assert code(cuda.synchronize) == "CUDA_ERROR_LAUNCH_FAILED"
    assert code(lambda: cuda.pin(8)) == "CUDA_ERROR_LAUNCH_FAILED"


def in_thread(work: Callable[[], object]) -> None:
    """Do it on a thread of its own, whose stack of contexts it must leave empty."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
            assert LIBRARY.double_stack() == 0
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def main() -> None:
    for use in (copies, events, loss):
        cuda = open_cuda()
        assert (cuda.name, cuda.capability, cuda.driver) == ("Stand-in", (8, 7), (12, 6))
        assert cuda.integrated and cuda.maps_memory and cuda.memory == 1 << 30 and cuda.stream
        assert LIBRARY.double_live() == 2  # the context and the stream
        in_thread(lambda use=use, cuda=cuda: use(cuda))  # type: ignore[misc]
        in_thread(cuda.close)
        assert LIBRARY.double_live() == 0
        assert LIBRARY.double_stack() == 0
        print(cuda.binding, use.__name__)


if __name__ == "__main__":
    main()
