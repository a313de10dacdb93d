"""The runtime: plans back into engines, contexts that compute with ONNX Runtime, and the inspector.

A message without a source beside it is in the double's own words.
"""

from __future__ import annotations

import contextlib
import json
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

from tests.support.cuda_double import CudaFailure
from tests.support.tensorrt_double.layers import write_layer
from tests.support.tensorrt_double.plan import Plan, Refused, unpack
from tests.support.tensorrt_double.rules import Graph, load
from tests.support.tensorrt_double.values import host_memory, make, say

NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
_ALIGNMENT = 256  # bytes, of the memory that a context is given
_UNKNOWN_NAME = (
    "Error Code 3: API Usage Error (Given invalid tensor name: {}. Get valid tensor names with "
    "getIOTensorName())"
)


class Runtime:
    """The runtime."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._core = -1

    @property
    def logger(self) -> Any:
        return self._logger

    @property
    def num_DLA_cores(self) -> int:
        return self._trt._double.num_DLA_cores

    @property
    def DLA_core(self) -> int:
        return self._core

    @DLA_core.setter
    def DLA_core(self, value: int) -> None:
        self._core = int(value)

    def deserialize_cuda_engine(
        self, serialized_engine: Any = None, stream_reader: Any = None, stream_reader_v2: Any = None
    ) -> Any:
        if serialized_engine is None:
            raise NotImplementedError("the double reads no streams")
        trt = self._trt
        try:
            if trt._double.refuse_plan:
                raise Refused(
                    "IRuntime::deserializeCudaEngine: Error Code 4: Internal Error (Engine deserialization "
                    "failed.)"
                )
            plan = unpack(bytes(memoryview(serialized_engine)), trt._double.version, trt._double.capability)
        except Refused as refused:
            say(self._logger, "ERROR", str(refused))
            return None
        return _engine(trt, plan, self._logger)


def _engine(trt: Any, plan: Plan, logger: Any) -> Any:
    graph = Graph(load(plan.model))
    inputs = [value.name for value in graph.model.graph.input if value.name not in graph.constants]
    outputs = [value.name for value in graph.model.graph.output]
    engine = make(
        trt,
        "ICudaEngine",
        _plan=plan,
        _logger=logger,
        _session=_session(plan.model),
        _tensors={name: graph.values[name] for name in inputs + outputs},
        _inputs=inputs,
        _outputs=outputs,
    )
    if not _hold_memory(trt, engine, len(plan.model)):
        say(
            logger,
            "ERROR",
            "IRuntime::deserializeCudaEngine: Error Code 2: OutOfMemory (Requested size was "
            f"{len(plan.model)} bytes.)",
        )
        return None
    return engine


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _hold_memory(trt: Any, owner: Any, size: int) -> bool:
    """Take memory of the device for as long as `owner` lives; False when there is none."""
    device = trt._double.device
    try:
        address = device.alloc(size)
    except CudaFailure:
        return False

    def give_back() -> None:
        with contextlib.suppress(CudaFailure):  # a lost context took its memory along
            device.free(address)

    weakref.finalize(owner, give_back)
    return True


class ICudaEngine:
    """An engine; made by `Runtime.deserialize_cuda_engine`."""

    @property
    def name(self) -> str:
        return "Unnamed Network 0"

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def num_layers(self) -> int:
        return len(self._plan.layers)

    @property
    def num_optimization_profiles(self) -> int:
        return max(1, len(self._plan.profiles))

    @property
    def refittable(self) -> bool:
        return False

    @property
    def device_memory_size(self) -> int:
        return 1 << 20

    @property
    def device_memory_size_v2(self) -> int:
        return 1 << 20

    @property
    def num_aux_streams(self) -> int:
        return 0

    @property
    def profiling_verbosity(self) -> Any:
        return getattr(self._trt.ProfilingVerbosity, self._plan.config["verbosity"])

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._trt.TensorIOMode
        return modes.INPUT if name in self._inputs else modes.OUTPUT if name in self._outputs else modes.NONE

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self._trt.DataType, self._tensors[name][0])

    def get_tensor_shape(self, name: str) -> Any:
        return self._trt.Dims(self._tensors[name][1])

    def get_tensor_location(self, name: str) -> Any:
        return self._trt.TensorLocation.DEVICE

    def is_shape_inference_io(self, name: str) -> bool:
        return False

    def get_tensor_format(self, name: str, profile_index: int = 0) -> Any:
        return self._trt.TensorFormat.LINEAR

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
        shapes = [self._tensors[name][1]] * 3
        if self._plan.profiles:
            shapes = self._plan.profiles[profile_index].get(name, shapes)
        return [self._trt.Dims(shape) for shape in shapes]

    def serialize(self) -> Any:
        return host_memory(self._trt, self._plan.pack())

    def create_engine_inspector(self) -> Any:
        return make(self._trt, "EngineInspector", _engine=self, _context=None)

    def create_runtime_config(self) -> Any:
        return make(
            self._trt, "IRuntimeConfig", _strategy=self._trt.ExecutionContextAllocationStrategy.STATIC
        )

    def create_execution_context(self, strategy: Any = None, runtime_config: Any = None) -> Any:
        trt = self._trt
        if runtime_config is not None:
            strategy = runtime_config._strategy
        strategy = strategy or trt.ExecutionContextAllocationStrategy.STATIC
        context = make(
            trt,
            "IExecutionContext",
            _engine=self,
            _strategy=strategy,
            _shapes={name: list(self._tensors[name][1]) for name in self._inputs},
            _addresses={},
            _profile=0,
            _memory=0,
            _name="",
        )
        size = self.device_memory_size_v2
        own = strategy.name != "USER_MANAGED"
        if trt._double.out_of_memory == "context" or (own and not _hold_memory(trt, context, size)):
            # NVIDIA/TensorRT#3017
            say(
                self._logger,
                "ERROR",
                "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
            )
            say(
                self._logger,
                "WARNING",
                f"Requested amount of GPU memory ({size} bytes) could not be allocated.",
            )
            say(
                self._logger,
                "ERROR",
                "ICudaEngine::createExecutionContext: Error Code 2: OutOfMemory (no further information)",
            )
            return None
        trt._double.contexts += 1
        return context


class IRuntimeConfig:
    """How a context is made; version 11."""

    def get_execution_context_allocation_strategy(self) -> Any:
        return self._strategy

    def set_execution_context_allocation_strategy(self, strategy: Any = None) -> None:
        self._strategy = strategy or self._trt.ExecutionContextAllocationStrategy.STATIC


class IExecutionContext:
    """A context; made by `ICudaEngine.create_execution_context`."""

    @property
    def engine(self) -> Any:
        return self._engine

    @property
    def name(self) -> str:
        return self._name

    @name.setter
    def name(self, value: str) -> None:
        self._name = value

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    @property
    def all_binding_shapes_specified(self) -> bool:
        return not self._missing()

    def _missing(self) -> list[str]:
        return [name for name, shape in self._shapes.items() if -1 in shape]

    def _error(self, method: str, text: str) -> bool:
        say(self._engine._logger, "ERROR", f"IExecutionContext::{method}: {text}")
        return False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            return self._error(
                "setOptimizationProfileAsync",
                "Error Code 3: API Usage Error (Parameter check failed, condition: profileIndex >= 0 && "
                "profileIndex < mEngine.getNbOptimizationProfiles().)",
            )
        self._profile = int(profile_index)
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        engine, sizes = self._engine, [int(size) for size in shape]
        if name not in self._shapes:
            return self._error("setInputShape", _UNKNOWN_NAME.format(name))
        fixed = engine._tensors[name][1]
        if len(fixed) != len(sizes) or any(f not in (-1, s) for f, s in zip(fixed, sizes, strict=True)):
            return self._error(
                "setInputShape",
                "Error Code 3: API Usage Error (Parameter check failed, condition: engineDims.d[i] == "
                f"dims.d[i]. Static dimension mismatch while setting input shape for {name}. Set dimensions "
                f"are {_text(sizes)}. Expected dimensions are {_text(fixed)}.)",
            )
        if -1 in fixed:
            least, _, most = engine._plan.profiles[self._profile][name]
            if not all(a <= size <= b for a, size, b in zip(least, sizes, most, strict=True)):
                # Logs of 10 have it so, word for word.
                return self._error(
                    "setInputShape",
                    "Error Code 3: API Usage Error (Parameter check failed, condition: satisfyProfile. Set "
                    f"dimension {_text(sizes)} for tensor {name} does not satisfy any optimization profiles. "
                    f"Valid range for profile {self._profile}: {_text(least)}..{_text(most)}.)",
                )
        self._shapes[name] = sizes
        return True

    def get_tensor_shape(self, name: str) -> Any:
        if name in self._shapes:
            return self._trt.Dims(self._shapes[name])
        size = self._free_size()
        return self._trt.Dims(
            [size if axis == -1 and size else axis for axis in self._engine._tensors[name][1]]
        )

    def _free_size(self) -> int | None:
        """What the free size is in the shapes that are set; None where it is not set, or not one number."""
        tensors = self._engine._tensors
        sizes = {
            size
            for name, shape in self._shapes.items()
            for axis, size in zip(tensors[name][1], shape, strict=True)
            if axis == -1
        }
        return sizes.pop() if len(sizes) == 1 and -1 not in sizes else None

    def infer_shapes(self) -> list[str]:
        return self._missing()

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._tensors:
            return self._error("setTensorAddress", _UNKNOWN_NAME.format(name))
        self._addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def set_device_memory(self, memory: int, size: int) -> None:
        needed = self._engine.device_memory_size_v2
        if memory % _ALIGNMENT or size < needed:
            self._error(
                "setDeviceMemoryV2",
                f"Error Code 3: API Usage Error (memory of {size} bytes at {memory:#x} is given; {needed} "
                f"bytes, aligned to {_ALIGNMENT}, are needed)",
            )
            return
        self._memory = int(memory)

    def execute_async_v3(self, stream_handle: int) -> bool:
        trt = self._trt
        fault = self._fault()
        if fault:
            return self._error("enqueueV3", fault)
        work = _work(trt._double.device, self._engine, dict(self._shapes), dict(self._addresses))
        try:
            trt._double.device.enqueue(int(stream_handle), work)
        except CudaFailure as failure:
            return self._error("enqueueV3", f"Error Code 1: Cuda Runtime ({failure})")
        return True

    def _fault(self) -> str | None:
        """What stands against computing now."""
        knobs, engine = self._trt._double, self._engine
        if knobs.refuse_execute:
            knobs.refuse_execute -= 1
            return "Error Code 1: Cask (Cask convolution execution)"
        missing = self._missing()
        if missing:
            return f"Error Code 3: API Usage Error (not all dimensions are specified: {', '.join(missing)})"
        for name in engine._tensors:
            if not self._addresses.get(name):
                side = "input" if name in engine._inputs else "output"
                # Logs of 10; a string of libnvinfer.so.10
                return (
                    "Error Code 3: API Usage Error (Parameter check failed, condition: "
                    "mContext.profileObliviousBindings.at(profileObliviousIndex) || "
                    "getPtrOrNull(mOutputAllocators, profileObliviousIndex). Neither address or allocator "
                    f"is set for {side} tensor {name}.)"
                )
        if self._strategy.name == "USER_MANAGED" and not self._memory:
            return "Error Code 3: API Usage Error (no device memory is set)"
        if any(-1 in self.get_tensor_shape(name) for name in engine._outputs):
            return f"Error Code 7: Internal Error (the inputs' shapes {self._shapes} do not agree)"
        return None


def _text(shape: list[int]) -> str:
    return str(shape).replace(" ", "")


def _work(
    device: Any, engine: Any, shapes: dict[str, list[int]], addresses: dict[str, int]
) -> Callable[[], None]:
    """What runs on the stream: shapes and addresses as they are now, contents as they are then."""

    def run() -> None:
        feeds = {}
        for name, shape in shapes.items():
            dtype = np.dtype(NUMPY[engine._tensors[name][0]])
            size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            feeds[name] = np.frombuffer(bytes(device.read(addresses[name], size)), dtype).reshape(shape)
        for name, answer in zip(engine._outputs, engine._session.run(engine._outputs, feeds), strict=True):
            device.write(addresses[name], np.ascontiguousarray(answer).tobytes())

    return run


class EngineInspector:
    """The inspector; made by `ICudaEngine.create_engine_inspector`."""

    @property
    def execution_context(self) -> Any:
        return self._context

    @execution_context.setter
    def execution_context(self, value: Any) -> None:
        self._context = value

    def _layer(self, layer: dict[str, Any]) -> Any:
        """A layer as it is written: wholly with detailed verbosity, else its name."""
        if self._engine.profiling_verbosity.name != "DETAILED":
            return layer["name"]
        size = self._context._free_size() if self._context else None
        return write_layer(layer, size, split=self._trt._double.major > 10)

    def get_engine_information(self, format: Any) -> str:
        engine = self._engine
        if format.name != "JSON":
            raise NotImplementedError("the double writes JSON alone")
        none = engine.profiling_verbosity.name == "NONE"
        written: dict[str, Any] = {
            "Layers": [] if none else [self._layer(layer) for layer in engine._plan.layers]
        }
        if self._trt._double.major > 10:
            return json.dumps({"I/O Tensors": [self._io_tensor(name) for name in engine._tensors]} | written)
        return json.dumps(written | {"Bindings": list(engine._tensors)})

    def _io_tensor(self, name: str) -> dict[str, Any]:
        kind, shape = self._engine._tensors[name]
        return {
            "Name": name,
            "IOMode": self._engine.get_tensor_mode(name).name.title(),
            "DataType": {"FLOAT": "Float", "HALF": "Half", "UINT8": "UInt8"}.get(kind, kind.title()),
            "Dimensions": shape,
            "Location": "Device",
            "IsShapeInferenceIO": False,
        }

    def get_layer_information(self, layer_index: int, format: Any) -> str:
        if format.name != "JSON":
            raise NotImplementedError("the double writes JSON alone")
        return json.dumps(self._layer(self._engine._plan.layers[layer_index]))
