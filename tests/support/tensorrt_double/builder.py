"""The builder: configuration, optimisation profiles, timing cache, and a network made into a plan.

A message without a source beside it is in the double's own words.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from typing import Any

from tests.support.tensorrt_double.layers import engine_layers
from tests.support.tensorrt_double.network import is_strong, new_network
from tests.support.tensorrt_double.plan import Plan
from tests.support.tensorrt_double.values import host_memory, make, say


class Builder:
    """The builder."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._threads = 1

    @property
    def logger(self) -> Any:
        return self._logger

    @property
    def num_DLA_cores(self) -> int:
        return self._trt._double.num_DLA_cores

    @property
    def max_DLA_batch_size(self) -> int:
        return 4096

    @property
    def max_threads(self) -> int:
        return self._threads

    @max_threads.setter
    def max_threads(self, value: int) -> None:
        self._threads = value

    @property
    def platform_has_fast_fp16(self) -> bool:
        return True

    @property
    def platform_has_fast_int8(self) -> bool:
        return True

    @property
    def platform_has_tf32(self) -> bool:
        return True

    def create_network(self, flags: int = 0) -> Any:
        return new_network(self, self._logger, int(flags))

    def create_builder_config(self) -> Any:
        config = make(self._trt, "IBuilderConfig", _builder=self)
        config._reset()
        return config

    def create_optimization_profile(self) -> Any:
        return make(self._trt, "IOptimizationProfile", _shapes={}, _logger=self._logger)

    def is_network_supported(self, network: Any, config: Any) -> bool:
        return not _faults(network, config)

    def build_serialized_network(self, network: Any, config: Any, kernel_text: Any = None) -> Any:
        trt = self._trt
        if kernel_text is not None:
            raise NotImplementedError("the double builds no safety engines")
        faults = _faults(network, config)
        if not faults and not _tell(config._monitor, trt._double.phases):
            faults = ["Error Code 10: Internal Error (the build was cancelled by its progress monitor)"]
        for fault in faults:
            say(self._logger, "ERROR", f"IBuilder::buildSerializedNetwork: {fault}")
        if faults:
            return None
        trt._double.builds += 1
        config._timed(network._model)
        facts = config._facts() | {"strong": is_strong(network)}
        trt._double.configs.append(facts)
        plan = Plan(
            version=trt._double.version,
            device=trt._double.device_name,
            capability=trt._double.capability,
            config=facts,
            layers=engine_layers(network),
            profiles=[
                {name: [list(shape) for shape in shapes] for name, shapes in profile._shapes.items()}
                for profile in config._profiles
            ],
            model=network._model,
        )
        return host_memory(trt, plan.pack())


def _tell(monitor: Any, phases: list[tuple[str, str | None, int]]) -> bool:
    """Tell a progress monitor of the phases; False when it cancels."""
    if monitor is None:
        return True
    going = True
    opened = []
    for name, parent, steps in phases:
        _called(monitor.phase_start, name, parent, steps)
        opened.append((name, steps))
    for name, steps in reversed(opened):
        for step in range(steps):
            going = going and _called(monitor.step_complete, name, step)
        _called(monitor.phase_finish, name)
    return going


def _called(method: Callable[..., Any], *given: Any) -> bool:
    """What a monitor answers; what it raises is printed, and cancels when a step is complete.

    So PyProgressMonitor in python/src/infer/pyCore.cpp of NVIDIA/TensorRT.
    """
    try:
        return bool(method(*given))
    except BaseException as error:
        print(f"[ERROR] Exception caught in {method.__name__}(): {error!r}", file=sys.stderr)
        return False


def _faults(network: Any, config: Any) -> list[str]:
    """What the builder says against the network or the configuration, nothing when it builds."""
    knobs = network._trt._double
    if knobs.refuse_build:
        return [str(knobs.refuse_build)]
    if knobs.out_of_memory == "build":
        # NVIDIA/TensorRT#4258, 10.3.0
        return [
            "Error Code 1: Cuda Runtime (out of memory)",
            "Error Code 10: Internal Error (Could not find any implementation for node {ForeignNode[...]}.)",
        ]
    if knobs.refuse_strong and is_strong(network):
        return [
            "Error Code 10: Internal Error (Could not find any implementation for node {ForeignNode[...]}.)"
        ]
    if not network.num_outputs:
        return ["Error Code 4: API Usage Error (Network must have at least one output)"]
    found = (_typing_fault(network, config), _profile_fault(network, config), _dla_fault(network, config))
    return [fault for fault in found if fault][:1]


def _typing_fault(network: Any, config: Any) -> str | None:
    flags = network._trt.BuilderFlag
    if is_strong(network):
        for name in ("FP16", "BF16", "INT8", "FP8", "INT4"):
            if hasattr(flags, name) and config.get_flag(getattr(flags, name)):
                # NVIDIA/TensorRT#4253, #4228
                return (
                    "Error Code 3: API Usage Error (Parameter check failed, condition: "
                    f"!config.getFlag(BuilderFlag::k{name}). )"
                )
        return None
    if not config.get_flag(flags.INT8) and any(layer.type.name == "QUANTIZE" for layer in network._layers):
        # NVIDIA/trt-samples-for-hackathon-cn, cookbook, on Q/DQ networks
        return (
            "Error Code 4: Internal Error (Int8 precision has been set for a layer or layer output, but int8 "
            "is not configured in the builder)"
        )
    return None


def _profile_fault(network: Any, config: Any) -> str | None:
    free = [tensor for tensor in network._inputs if -1 in tensor._shape]
    if free and not config._profiles:
        # onnx/onnx-tensorrt#518; "API Usage Error" since 10
        return (
            "Error Code 4: API Usage Error (Network has dynamic or shape inputs, but no optimization profile "
            "has been defined.)"
        )
    for number, profile in enumerate(config._profiles):
        for tensor in free:
            for shape in profile._shapes.get(tensor.name, [()]):
                if len(shape) != len(tensor._shape) or any(
                    fixed not in (-1, size) for fixed, size in zip(tensor._shape, shape, strict=True)
                ):
                    return (
                        f"Error Code 4: API Usage Error ({tensor.name}: optimization profile {number} has no "
                        f"shapes that fit {tensor._shape})"
                    )
    return None


# DLA runs these; what has no other place falls back to the GPU.
_DLA = "ACTIVATION CONCATENATION CONVOLUTION DECONVOLUTION ELEMENTWISE LRN PARAMETRIC_RELU POOLING REDUCE "
_ON_DLA = frozenset((_DLA + "RESIZE SCALE SHUFFLE SLICE SOFTMAX UNARY").split())


def _dla_fault(network: Any, config: Any) -> str | None:
    trt = network._trt
    if config._device != trt.DeviceType.DLA:
        return None
    if not 0 <= config._core < trt._double.num_DLA_cores:
        return (
            f"Error Code 3: API Usage Error (DLA core {config._core} is asked for, of "
            f"{trt._double.num_DLA_cores} that there are)"
        )
    if config.get_flag(trt.BuilderFlag.GPU_FALLBACK):
        return None
    left = next((layer for layer in network._layers if not config.can_run_on_DLA(layer)), None)
    if left is None:
        return None
    # A log of 10.3 on Orin NX, where constants and casts fell to the GPU; no Q/DQ:
    # NVIDIA/Model-Optimizer#1661
    return (
        f"Error Code 2: Internal Error (Assertion allowGPUFallback failed. Layer '{left.name}' is not "
        "supported on DLA but GPU fallback is not enabled.)"
    )


class IBuilderConfig:
    """How to build; made by `Builder.create_builder_config`."""

    def _reset(self) -> None:
        trt = self._trt
        self._flags = 1 << int(trt.BuilderFlag.TF32)
        self._profiles: list[Any] = []
        self._monitor = None
        self._cache: Any = None
        self._pools: dict[Any, int] = {}
        self._core = -1
        self._device = trt.DeviceType.GPU
        self._devices: dict[Any, Any] = {}
        self._level = 3
        self._streams = -1
        self._verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY
        self._hardware = trt.HardwareCompatibilityLevel.NONE
        self._iterations = 1
        self._stream = 0
        self._sources = 0
        self._capability = trt.EngineCapability.STANDARD

    def reset(self) -> None:
        self._reset()

    def _facts(self) -> dict[str, Any]:
        return {
            "flags": self._flags,
            "level": self._level,
            "core": self._core,
            "device": self._device.name,
            "verbosity": self._verbosity.name,
            "pools": {pool.name: size for pool, size in self._pools.items()},
        }

    def _timed(self, model: bytes) -> None:
        """Note what was timed; without a cache of the user's the builder has a local one."""
        if self._cache is None:
            self._cache = self.create_timing_cache(b"")
        self._cache._entries.add(hashlib.sha256(model).hexdigest())

    @property
    def flags(self) -> int:
        return self._flags

    @flags.setter
    def flags(self, value: int) -> None:
        self._flags = int(value)

    def set_flag(self, flag: Any) -> None:
        self._flags |= 1 << int(flag)

    def clear_flag(self, flag: Any) -> None:
        self._flags &= ~(1 << int(flag))

    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags >> int(flag) & 1)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pools[pool] = int(pool_size)

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._pools.get(pool, 8 << 30)

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    @property
    def progress_monitor(self) -> Any:
        return self._monitor

    @progress_monitor.setter
    def progress_monitor(self, value: Any) -> None:
        self._monitor = value

    @property
    def builder_optimization_level(self) -> int:
        return self._level

    @builder_optimization_level.setter
    def builder_optimization_level(self, value: int) -> None:
        self._level = int(value)

    @property
    def profiling_verbosity(self) -> Any:
        return self._verbosity

    @profiling_verbosity.setter
    def profiling_verbosity(self, value: Any) -> None:
        self._verbosity = value

    @property
    def hardware_compatibility_level(self) -> Any:
        return self._hardware

    @hardware_compatibility_level.setter
    def hardware_compatibility_level(self, value: Any) -> None:
        self._hardware = value

    @property
    def engine_capability(self) -> Any:
        return self._capability

    @engine_capability.setter
    def engine_capability(self, value: Any) -> None:
        self._capability = value

    @property
    def max_aux_streams(self) -> int:
        return self._streams

    @max_aux_streams.setter
    def max_aux_streams(self, value: int) -> None:
        self._streams = int(value)

    @property
    def avg_timing_iterations(self) -> int:
        return self._iterations

    @avg_timing_iterations.setter
    def avg_timing_iterations(self, value: int) -> None:
        self._iterations = int(value)

    @property
    def profile_stream(self) -> int:
        return self._stream

    @profile_stream.setter
    def profile_stream(self, value: int) -> None:
        self._stream = int(value)

    def get_tactic_sources(self) -> int:
        return self._sources

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        self._sources = int(tactic_sources)
        return True

    @property
    def DLA_core(self) -> int:
        return self._core

    @DLA_core.setter
    def DLA_core(self, value: int) -> None:
        self._core = int(value)

    @property
    def default_device_type(self) -> Any:
        return self._device

    @default_device_type.setter
    def default_device_type(self, value: Any) -> None:
        self._device = value

    def set_device_type(self, layer: Any, device_type: Any) -> None:
        self._devices[layer.name] = device_type

    def get_device_type(self, layer: Any) -> Any:
        return self._devices.get(layer.name, self._device)

    def is_device_type_set(self, layer: Any) -> bool:
        return layer.name in self._devices

    def reset_device_type(self, layer: Any) -> None:
        self._devices.pop(layer.name, None)

    def can_run_on_DLA(self, layer: Any) -> bool:
        return layer.type.name in _ON_DLA

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        data = bytes(memoryview(serialized_timing_cache))
        head, _, rest = data.partition(b"\n")
        if data and not head.startswith(_CACHE_TAG):
            say(
                self._builder._logger,
                "ERROR",
                "IBuilderConfig::createTimingCache: Error Code 1: Serialization (Serialization assertion "
                "magicTagRead == kMAGIC_TAG failed.Magic tag does not match)",
            )
            return None
        entries = {line for line in rest.decode().splitlines() if line}
        return make(self._trt, "ITimingCache", _entries=entries, _head=head or self._cache_head())

    def _cache_head(self) -> bytes:
        knobs = self._trt._double
        return b"%s %s %s" % (_CACHE_TAG, knobs.version.encode(), knobs.device_name.encode())

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache._head != self._cache_head() and not ignore_mismatch:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache


_CACHE_TAG = b"ptrt"


class ITimingCache:
    """Timings of tactics; made by `IBuilderConfig.create_timing_cache`."""

    def serialize(self) -> Any:
        return host_memory(
            self._trt, b"\n".join([self._head, *sorted(entry.encode() for entry in self._entries)])
        )

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        if input_cache._head != self._head and not ignore_mismatch:
            return False
        self._entries |= input_cache._entries
        return True

    def reset(self) -> bool:
        self._entries.clear()
        return True


class IOptimizationProfile:
    """Shapes to optimise for; made by `Builder.create_optimization_profile`."""

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        shapes = [tuple(int(size) for size in shape) for shape in (min, opt, max)]
        if len({len(shape) for shape in shapes}) > 1 or not all(
            a <= b <= c for a, b, c in zip(*shapes, strict=True)
        ):
            raise RuntimeError("Shape provided for max is inconsistent with other shapes.")
        self._shapes[input] = shapes

    def get_shape(self, input: str) -> list[Any]:
        return [self._trt.Dims(shape) for shape in self._shapes.get(input, ())]
