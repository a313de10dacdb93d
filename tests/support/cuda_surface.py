"""What edgeemo uses of the real bindings of CUDA's driver: names and arguments, for the tests to hold to.

Run as `python -m tests.support.cuda_surface` where cuda-bindings is installed, it says how that differs.
"""

from __future__ import annotations

import inspect
from typing import Any

# Read from `cuda.bindings.driver` of cuda-bindings 12.9.10 and 13.5.0, which agree in all of it.
CUDA_PYTHON = {
    "cuCtxPopCurrent": (),
    "cuCtxPushCurrent": ("ctx",),
    "cuDeviceGet": ("ordinal",),
    "cuDeviceGetAttribute": ("attrib", "dev"),
    "cuDeviceGetName": ("length", "dev"),
    "cuDevicePrimaryCtxRelease": ("dev",),
    "cuDevicePrimaryCtxRetain": ("dev",),
    "cuDeviceTotalMem": ("dev",),
    "cuDriverGetVersion": (),
    "cuEventCreate": ("Flags",),
    "cuEventDestroy": ("hEvent",),
    "cuEventElapsedTime": ("hStart", "hEnd"),
    "cuEventRecord": ("hEvent", "hStream"),
    "cuEventSynchronize": ("hEvent",),
    "cuGetErrorString": ("error",),
    "cuGraphDestroy": ("hGraph",),
    "cuGraphExecDestroy": ("hGraphExec",),
    "cuGraphInstantiate": ("hGraph", "flags"),
    "cuGraphLaunch": ("hGraphExec", "hStream"),
    "cuInit": ("Flags",),
    "cuMemAlloc": ("bytesize",),
    "cuMemFree": ("dptr",),
    "cuMemFreeHost": ("p",),
    "cuMemHostAlloc": ("bytesize", "Flags"),
    "cuMemHostGetDevicePointer": ("p", "Flags"),
    "cuMemcpyDtoHAsync": ("dstHost", "srcDevice", "ByteCount", "hStream"),
    "cuMemcpyHtoDAsync": ("dstDevice", "srcHost", "ByteCount", "hStream"),
    "cuStreamBeginCapture": ("hStream", "mode"),
    "cuStreamCreate": ("Flags",),
    "cuStreamDestroy": ("hStream",),
    "cuStreamEndCapture": ("hStream",),
    "cuStreamSynchronize": ("hStream",),
}
CUDA_PYTHON_ENUMS = {
    "CUdevice_attribute": {
        "CU_DEVICE_ATTRIBUTE_INTEGRATED": 18,
        "CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY": 19,
        "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR": 75,
        "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR": 76,
    },
    "CUevent_flags": {"CU_EVENT_DEFAULT": 0, "CU_EVENT_BLOCKING_SYNC": 1},
    "CUstream_flags": {"CU_STREAM_DEFAULT": 0, "CU_STREAM_NON_BLOCKING": 1},
    "CUstreamCaptureMode": {
        "CU_STREAM_CAPTURE_MODE_GLOBAL": 0,
        "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL": 1,
        "CU_STREAM_CAPTURE_MODE_RELAXED": 2,
    },
}
# The methods by which each class of handles is read; none of them has arithmetic.
CUDA_PYTHON_HANDLES = (
    "CUcontext",
    "CUdevice",
    "CUdeviceptr",
    "CUevent",
    "CUgraph",
    "CUgraphExec",
    "CUstream",
)
CU_MEMHOSTALLOC_DEVICEMAP = 2

# Read from the source of pycuda 2026.1 (src/wrapper/wrap_cudadrv.cpp); its functions carry no signature that
# Python could ask for. A name behind "/" can be given by its name, the others by their place alone.
PYCUDA = {
    "Context.detach": "self /",
    "Context.pop": "/",
    "Context.push": "self /",
    "Device.__init__": "self ordinal /",
    "Device.compute_capability": "self /",
    "Device.get_attribute": "self attr /",
    "Device.name": "self /",
    "Device.retain_primary_context": "/ self",
    "Device.total_memory": "self /",
    "DeviceAllocation.free": "self /",
    "Event.__init__": "self / flags",
    "Event.record": "self / stream",
    "Event.synchronize": "self /",
    "Event.time_till": "self end /",
    "PagelockedHostAllocation.free": "self /",
    "PagelockedHostAllocation.get_device_pointer": "self /",
    "Stream.__init__": "self / flags",
    "Stream.synchronize": "self /",
    "get_driver_version": "/",
    "init": "/ flags",
    "mem_alloc": "bytes /",
    "memcpy_dtoh_async": "/ dest src stream",
    "memcpy_htod_async": "/ dest src stream",
    "pagelocked_empty": "/ shape dtype order mem_flags",
}
# Of pycuda's development version, after 2026.1.
PYCUDA_CAPTURE = {
    "Graph.instantiate": "self /",
    "GraphExec.launch": "self / stream",
    "Stream.begin_capture": "self / capture_mode",
    "Stream.end_capture": "self /",
}
PYCUDA_NAMES = {
    "device_attribute.CAN_MAP_HOST_MEMORY": 19,
    "device_attribute.INTEGRATED": 18,
    "event_flags.BLOCKING_SYNC": 1,
    "event_flags.DEFAULT": 0,
    "host_alloc_flags.DEVICEMAP": 2,
}
PYCUDA_ERRORS = ("Error", "LaunchError", "LogicError", "MemoryError", "RuntimeError")


def differences(api: Any) -> list[str]:
    """How a module differs from what is written here of `cuda.bindings.driver`."""
    found = []
    for name, arguments in CUDA_PYTHON.items():
        function = getattr(api, name, None)
        given = tuple(inspect.signature(function).parameters) if function else None
        if given != arguments:
            found.append(f"{name}: {given}, not {arguments}")
    for kind, members in CUDA_PYTHON_ENUMS.items():
        for name, value in members.items():
            member = getattr(getattr(api, kind, None), name, None)
            if member is None or int(member) != value:
                found.append(f"{kind}.{name}: {member}, not {value}")
    for name in CUDA_PYTHON_HANDLES:
        handle = getattr(api, name)(7)
        if int(handle) != 7 or hasattr(handle, "__add__"):
            found.append(f"{name}: no handle of 7")
    if api.CU_MEMHOSTALLOC_DEVICEMAP != CU_MEMHOSTALLOC_DEVICEMAP:
        found.append(f"CU_MEMHOSTALLOC_DEVICEMAP: {api.CU_MEMHOSTALLOC_DEVICEMAP}")
    return found


if __name__ == "__main__":
    import cuda.bindings
    import cuda.bindings.driver

    print(cuda.bindings.__version__, differences(cuda.bindings.driver) or "agrees")
