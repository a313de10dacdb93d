"""How TensorRT builds the engine of one graph on this device: network, flags, profile, timing cache."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

from edgeemo.errors import BackendError, InputError, shown
from edgeemo.inference.spec import GraphSpec, TensorSpec
from edgeemo.inference.trt_layers import Report, quantised_operators, read_layers, report
from edgeemo.inference.trt_library import TensorRt
from edgeemo.inference.trt_progress import Progress, watch

MOST = 16
"""Faces of one call that an engine is built for, unless the bundle says otherwise."""

TYPINGS = ("strong", "weak")

_LEVELS = (0, 5)
_WORKSPACES = (2**20, 2**40)  # no device has more, and TensorRT keeps it in a size_t
_QUOTED = 5  # errors of the parser that a message holds
_log = logging.getLogger("edgeemo")


@dataclass(frozen=True)
class Settings:
    """What a person may set about a build; all of it is part of what an engine is.

    Args:
        most: the largest size of the symbol N, faces of one call.
        optimization_level: 0 (builds fast) to 5 (searches longest); TensorRT's own default is 3.
        workspace: bytes of device memory that one layer's kernel may take for itself, 2**20 to 2**40.
        dla_core: the DLA core that runs what it can of an FP16 graph, None for the GPU alone.
        typing: 'strong', where each tensor has the type that the file gives it, or 'weak', where TensorRT 10
            is merely allowed FP16 and INT8.

    Raises:
        InputError: a value out of its range.

    Example:
        >>> Settings(optimization_level=9)
        Traceback (most recent call last):
        ...
        edgeemo.errors.InputError: optimization_level is 9; it must be a whole number from 0 to 5
    """

    most: int = MOST
    optimization_level: int = 3
    workspace: int = 2**30
    dla_core: int | None = None
    typing: str = "strong"

    def __post_init__(self) -> None:
        _check_whole("most", self.most, 1)
        _check_whole("optimization_level", self.optimization_level, *_LEVELS)
        _check_whole("workspace", self.workspace, *_WORKSPACES)
        if self.dla_core is not None:
            _check_whole("dla_core", self.dla_core, 0)
        if self.typing not in TYPINGS:
            raise InputError(f"typing is {shown(self.typing)}; it must be one of {', '.join(TYPINGS)}")


@dataclass(frozen=True)
class Built:
    """A built engine.

    Args:
        plan: the serialised engine.
        timing_cache: what the builder measured, for the next build on this device.
        typing: 'strong' or 'weak', whichever it was built with in the end.
        report: its layers and which quantised operators do not read INT8.
    """

    plan: bytes
    timing_cache: bytes
    typing: str
    report: Report


def shapes(tensor: TensorSpec, settings: Settings) -> list[list[int]]:
    """The smallest, the best and the largest shape of an input.

    Best is one face: a robot mostly has one person in front of it, and that step is what must be fast.

    Example:
        >>> shapes(TensorSpec("face", "uint8", ("N", 48, 48, 1)), Settings())
        [[1, 48, 48, 1], [1, 48, 48, 1], [16, 48, 48, 1]]
    """
    return [
        [axis if isinstance(axis, int) else size for axis in tensor.shape] for size in (1, 1, settings.most)
    ]


def profiles(spec: GraphSpec, settings: Settings) -> dict[str, list[list[int]]]:
    """`shapes` of each input with a free size, by name: what an engine is built for."""
    return {
        name: shapes(tensor, settings)
        for name, tensor in spec.inputs.items()
        if not all(isinstance(axis, int) for axis in tensor.shape)
    }


def build(
    library: TensorRt,
    model: bytes,
    spec: GraphSpec,
    settings: Settings,
    *,
    name: str = "the file",
    timing_cache: bytes = b"",
    progress: Progress | None = None,
) -> Built:
    """Build the engine of one graph; this takes seconds to minutes.

    Where strong typing fails on a library that has weak typing too (an early TensorRT 10), the same graph is
    built weakly typed, with a warning that says why.

    Args:
        library: TensorRT, opened.
        model: the contents of the ONNX file, all weights within.
        spec: what the file reads and answers.
        settings: how to build it.
        name: what a message calls the file.
        timing_cache: `Built.timing_cache` of an earlier build; one of another device or version is ignored.
        progress: called with the name of a phase and the fraction of the build that is done, in [0, 1]; what
            it raises ends the build. TensorRT may call it on another thread.

    Raises:
        BackendError: TensorRT cannot read the file or cannot build it; the message quotes why.
    """
    task = _Task(library, model, name, spec, timing_cache, progress)
    if settings.typing == "weak" and not library.weak:
        raise BackendError(
            f"{task.name}: TensorRT {library.version} has no weak typing; build it with typing='strong'"
        )
    settings = _typed(library, settings)
    try:
        return task.build(settings)
    except _BuilderFailed as error:
        if error.final or settings.typing == "weak" or not library.weak:
            raise
        _log.warning("%s; it is built weakly typed instead", error)
    return task.build(replace(settings, typing="weak"))


def _typed(library: TensorRt, settings: Settings) -> Settings:
    """TensorRT 10 takes a DLA's precision from the FP16 flag, which a strongly typed network refuses."""
    dla = settings.dla_core is not None and library.weak
    return replace(settings, typing="weak") if dla or not library.strong else settings


class _BuilderFailed(BackendError):
    """The builder gave no engine for a network that the parser had read; `final` where none can be had."""

    def __init__(self, message: str, final: bool) -> None:
        super().__init__(message)
        self.final = final


@dataclass(frozen=True)
class _Task:
    """One graph to build, and where."""

    library: TensorRt
    model: bytes
    file: str
    spec: GraphSpec
    timing_cache: bytes
    progress: Progress | None

    @property
    def name(self) -> str:
        return f"graph {self.spec.name!r}"

    def build(self, settings: Settings) -> Built:
        trt = self.library.module
        with self.library.cuda.current():
            self.library.messages.clear()
            builder = self.library.builder()
            network = builder.create_network(_network_flags(trt, settings))
            parser = self._parse(network)  # noqa: F841, the network reads weights that the parser holds
            kinds = _Kinds.of(network, trt)
            self._check_inputs(network)
            config = self._configure(builder, network, kinds, settings)
            plan = self._serialise(builder, network, config, settings)
            timing = config.get_timing_cache()
            return Built(
                plan,
                b"" if timing is None else bytes(timing.serialize()),
                settings.typing,
                self._report(plan, quantised_operators(network, trt.LayerType), settings),
            )

    def _parse(self, network: Any) -> Any:
        parser = self.library.module.OnnxParser(network, self.library.logger)
        if parser.parse(self.model):
            return parser
        errors = [_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
        more = f"; and {len(errors) - _QUOTED} more" if len(errors) > _QUOTED else ""
        # An error of the parser may be no more than the condition that failed; the log says what of.
        raise BackendError(
            f"{self.name}: TensorRT {self.library.version} cannot read {self.file}: "
            + "; ".join(errors[:_QUOTED])
            + more
            + self.library.messages.said()
        )

    def _check_inputs(self, network: Any) -> None:
        names = [network.get_input(index).name for index in range(network.num_inputs)]
        if set(names) != set(self.spec.inputs):
            raise BackendError(
                f"{self.name}: the file's inputs are {', '.join(names)}; the manifest says "
                f"{', '.join(self.spec.inputs)}"
            )

    def _configure(self, builder: Any, network: Any, kinds: _Kinds, settings: Settings) -> Any:
        trt = self.library.module
        config = builder.create_builder_config()
        # FP32 is to mean FP32, not products of 10 bits.
        config.clear_flag(trt.BuilderFlag.TF32)
        config.builder_optimization_level = settings.optimization_level
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace)
        # Everything runs on the one stream that is waited for and captured.
        config.max_aux_streams = 0
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        self._add_profile(builder, config, settings)
        self._use_dla(config, kinds, settings)
        if settings.typing == "weak":
            _allow_precisions(trt, config, network, kinds)
        self._use_timing_cache(config)
        return config

    def _add_profile(self, builder: Any, config: Any, settings: Settings) -> None:
        ranges = profiles(self.spec, settings)
        if not ranges:
            return
        profile = builder.create_optimization_profile()
        for name, (smallest, best, largest) in ranges.items():
            profile.set_shape(name, smallest, best, largest)
        if config.add_optimization_profile(profile) < 0:
            raise BackendError(
                f"{self.name}: TensorRT refused its sizes {ranges}{self.library.messages.said()}"
            )

    def _use_dla(self, config: Any, kinds: _Kinds, settings: Settings) -> None:
        if settings.dla_core is None:
            return
        trt, cores = self.library.module, self.library.dla_cores
        if settings.dla_core >= cores:
            raise BackendError(
                f"{self.name}: dla_core is {settings.dla_core}; TensorRT {self.library.version} on "
                f"{self.library.cuda.name} has {cores or 'no'} DLA cores"
            )
        if kinds.quantised or not kinds.half:
            what = "is quantised, and a DLA takes no Q/DQ" if kinds.quantised else "is FP32"
            raise BackendError(
                f"{self.name}: a DLA runs FP16 graphs alone; this one {what}; use precision 'fp16'"
            )
        if settings.most > 1 and profiles(self.spec, settings):
            raise BackendError(
                f"{self.name}: a DLA takes fixed shapes alone; build it for one face (most=1) or on the GPU"
            )
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = settings.dla_core
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)

    def _use_timing_cache(self, config: Any) -> None:
        cache = config.create_timing_cache(self.timing_cache)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return
        if self.timing_cache:
            _log.info(
                "%s: the timing cache is of another device or version; every kernel is timed anew", self.name
            )
        self.library.messages.clear()
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)

    def _serialise(self, builder: Any, network: Any, config: Any, settings: Settings) -> bytes:
        phases = watch(self.library.module, config, self.progress)
        with phases.holding_interrupts():
            plan = builder.build_serialized_network(network, config)
        if phases.error is not None:
            raise phases.error
        if plan is None:
            raise self._failure(settings)
        return bytes(plan)

    def _failure(self, settings: Settings) -> _BuilderFailed:
        """Why the builder gave nothing, from what it said."""
        messages, cuda = self.library.messages, self.library.cuda
        said = messages.quote().lower()
        what, help_, final = "TensorRT built no engine", "try another precision or optimisation level", False
        if messages.out_of_memory:
            what, final = "out of memory while TensorRT built it", True
            help_ = "close what else uses the device's memory, or build with a smaller workspace or level"
        elif "is not supported by this tensorrt release" in said:
            final = True
            help_ = "install a TensorRT for {} (compute capability {}.{})".format(cuda.name, *cuda.capability)
        elif "workspace" in said:
            help_ = f"give it more workspace than {settings.workspace / 2**20:.10g} MiB"
        return _BuilderFailed(
            f"{self.name}: {what} ({settings.typing} typing){messages.said()}; {help_}", final
        )

    def _report(self, plan: bytes, operators: tuple[str, ...], settings: Settings) -> Report:
        trt = self.library.module
        engine = self.library.deserialise(plan, self.name, settings.dla_core)
        ranges = profiles(self.spec, settings)
        context = engine.create_execution_context() if ranges else None
        if context is not None:
            for name, (_, best, _) in ranges.items():
                context.set_input_shape(name, best)
        inspector = engine.create_engine_inspector()
        layers = read_layers(inspector, engine.num_layers, trt.LayerInformationFormat.JSON, context)
        return report(operators, layers)


@dataclass(frozen=True)
class _Kinds:
    """What of a network decides how it may be built.

    Args:
        quantised: whether it has Q/DQ.
        half: whether it computes in FP16.
        front: the layers in FP32 that no quantised tensor reaches: the front end, or all of an FP32 graph.
    """

    quantised: bool
    half: bool
    front: tuple[int, ...]

    @classmethod
    def of(cls, network: Any, trt: Any) -> _Kinds:
        """Walk a parsed network once; its layers are in the order of the file, producers first."""
        quantised, half, front = False, False, []
        reached: set[str] = set()
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            outputs = [layer.get_output(number) for number in range(layer.num_outputs)]
            inputs = [layer.get_input(number) for number in range(layer.num_inputs)]
            if layer.type == trt.LayerType.QUANTIZE or any(
                tensor is not None and tensor.name in reached for tensor in inputs
            ):
                reached |= {tensor.name for tensor in outputs}
            elif layer.type not in _untyped(trt) and all(
                tensor.dtype == trt.DataType.FLOAT for tensor in outputs
            ):
                front.append(index)
            quantised |= layer.type in (trt.LayerType.QUANTIZE, trt.LayerType.DEQUANTIZE)
            # Constants may be stored in FP16 and computed with in FP32, as the tables of a front end are.
            computed = layer.type != trt.LayerType.CONSTANT
            half |= computed and any(tensor.dtype == trt.DataType.HALF for tensor in outputs)
        return cls(quantised, half, tuple(front))


def _untyped(trt: Any) -> tuple[Any, ...]:
    """Layers whose precision is not TensorRT's to choose."""
    types = trt.LayerType
    return types.CONSTANT, types.DEQUANTIZE, types.CAST, types.SHAPE


def _network_flags(trt: Any, settings: Settings) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    # A version without the flag types strongly or not at all.
    if settings.typing == "weak" or not hasattr(flags, "STRONGLY_TYPED"):
        return 0
    return 1 << int(flags.STRONGLY_TYPED)


def _allow_precisions(trt: Any, config: Any, network: Any, kinds: _Kinds) -> None:
    """Let TensorRT 10 choose INT8 and FP16 where the graph has them, and hold its front end to FP32.

    A power spectrum at full scale leaves FP16's range, so the choice is not left to TensorRT before the first
    quantiser.
    """
    if not (kinds.quantised or kinds.half):
        return
    config.set_flag(trt.BuilderFlag.FP16)
    if kinds.quantised:
        config.set_flag(trt.BuilderFlag.INT8)
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for index in kinds.front:
        layer = network.get_layer(index)
        layer.precision = trt.DataType.FLOAT
        for number in range(layer.num_outputs):
            layer.set_output_type(number, trt.DataType.FLOAT)


def _parser_error(error: Any) -> str:
    what = " ".join(error.desc().split()).rstrip(".")
    if error.node() < 0:  # it is of the file as a whole
        return what
    return f"node {error.node()} {error.node_name()!r} ({error.node_operator()}): {what}"


def _check_whole(name: str, value: object, least: int, most: int | None = None) -> None:
    if type(value) is int and value >= least and (most is None or value <= most):
        return
    right = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise InputError(f"{name} is {shown(value)}; it must be a whole number {right}")
