"""The trtexec command that builds and measures the engine of one graph as `edgeemo build` does."""

from __future__ import annotations

import shlex
from pathlib import PurePath

from edgeemo.errors import InputError, shown
from edgeemo.inference.spec import GraphSpec
from edgeemo.inference.trt_builder import Settings, shapes

MAJORS = (10, 11)
_MIB = 2**20


def command(model: str, spec: GraphSpec, settings: Settings, major: int) -> list[str]:
    """Write the arguments of one run of trtexec, which leaves its files in the working directory.

    What trtexec 10 and 11 do by default when they measure differs. Both commands measure what a step of this
    runtime does: one CUDA graph that copies in, computes and copies out, waited for without spinning.

    With weak typing, which TensorRT 10 needs for a DLA, `edgeemo build` also holds the front end to FP32.
    For that trtexec wants the name of each layer (--layerPrecisions), so that its engine may differ.

    Args:
        model: path of the ONNX file, one of the spec's.
        spec: the graph.
        settings: how its engine is built.
        major: 10 or 11, the major version of TensorRT.

    Raises:
        InputError: another major version, a file that is not the graph's, or weak typing with TensorRT 11.
    """
    if major not in MAJORS:
        raise InputError(
            f"major is {shown(major)}; trtexec is known for TensorRT {' and '.join(map(str, MAJORS))}"
        )
    if settings.typing == "weak" and major != 10:
        raise InputError("typing is 'weak'; TensorRT 11 builds strongly typed networks alone")
    path = PurePath(model)
    encoding = next((name for name, file in spec.files.items() if file == path.name), None)
    if encoding is None:
        raise InputError(
            f"model is {shown(model)}; it must be a file of graph {spec.name!r}: "
            + ", ".join(spec.files.values())
        )
    return [
        "trtexec",
        f"--onnx={path}",
        f"--saveEngine={path.stem}.plan",
        *_typing(settings, encoding, major),
        "--noTF32",
        *_shapes(spec, settings),
        f"--builderOptimizationLevel={settings.optimization_level}",
        f"--memPoolSize=workspace:{settings.workspace / _MIB:.10g}",
        "--maxAuxStreams=0",
        f"--timingCacheFile={path.stem}.timing",
        "--profilingVerbosity=detailed",
        f"--exportLayerInfo={path.stem}.layers.json",
        *_measuring(settings, major),
    ]


def line(arguments: list[str]) -> str:
    r"""Quote a command for a POSIX shell, one argument on a line.

    Example:
        >>> print(line(["trtexec", "--onnx=my model.onnx", "--noTF32"]))
        trtexec \
            '--onnx=my model.onnx' \
            --noTF32
    """
    return " \\\n    ".join(shlex.quote(argument) for argument in arguments)


def _typing(settings: Settings, encoding: str, major: int) -> list[str]:
    if settings.dla_core is not None:
        dla = [f"--useDLACore={settings.dla_core}", "--allowGPUFallback"]
        return ["--fp16", *dla] if major == 10 else dla
    if settings.typing == "weak":
        return {"int8": ["--int8", "--fp16"], "fp16": ["--fp16"]}.get(encoding, [])
    # Version 11 is strongly typed without being asked.
    return ["--stronglyTyped"] if major == 10 else []


def _shapes(spec: GraphSpec, settings: Settings) -> list[str]:
    names = [
        tensor.name
        for tensor in spec.inputs.values()
        if not all(isinstance(axis, int) for axis in tensor.shape)
    ]
    if not names:
        return []
    sides = {name: shapes(spec.inputs[name], settings) for name in names}
    return [
        f"--{side}Shapes=" + ",".join(f"{name}:{'x'.join(map(str, sides[name][index]))}" for name in names)
        for index, side in enumerate(("min", "opt", "max"))
    ]


def _measuring(settings: Settings, major: int) -> list[str]:
    """Transfers in, CUDA graph, no spinning; a CUDA graph cannot hold what a DLA computes."""
    graph = settings.dla_core is None
    if major == 10:  # transfers and no spinning are its defaults
        return ["--useCudaGraph"] if graph else []
    return ["--includeDataTransfers", "--noSpinWait", *([] if graph else ["--noCudaGraph"])]
