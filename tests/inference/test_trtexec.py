from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import Any

import pytest

from edgeemo.errors import InputError
from edgeemo.inference.spec import GraphSpec, TensorSpec
from edgeemo.inference.trt_builder import Settings
from edgeemo.inference.trtexec import command, line

FILES = {"fp32": "f.fp32.onnx", "fp16": "f.fp16.onnx", "int8": "f.int8.onnx"}
TENSORS = {
    "face_tokens": TensorSpec("face_tokens", "float32", ("N", 40, 128)),
    "face_mask": TensorSpec("face_mask", "float32", ("N", 40)),
    "voice_tokens": TensorSpec("voice_tokens", "float32", (1, 40, 128)),
}
SPEC = GraphSpec("fusion", "fuse", 1, TENSORS, {}, FILES)


def test_tensorrt_10() -> None:
    assert command("/models/f.int8.onnx", SPEC, Settings(), 10) == [
        "trtexec",
        "--onnx=/models/f.int8.onnx",
        "--saveEngine=f.int8.plan",
        "--stronglyTyped",
        "--noTF32",
        "--minShapes=face_tokens:1x40x128,face_mask:1x40",
        "--optShapes=face_tokens:1x40x128,face_mask:1x40",
        "--maxShapes=face_tokens:16x40x128,face_mask:16x40",
        "--builderOptimizationLevel=3",
        "--memPoolSize=workspace:1024",
        "--maxAuxStreams=0",
        "--timingCacheFile=f.int8.timing",
        "--profilingVerbosity=detailed",
        "--exportLayerInfo=f.int8.layers.json",
        "--useCudaGraph",
    ]


def test_tensorrt_11_measures_the_same_with_other_defaults() -> None:
    ten = command("f.int8.onnx", SPEC, Settings(), 10)
    eleven = command("f.int8.onnx", SPEC, Settings(), 11)
    assert [flag for flag in ten if flag not in eleven] == ["--stronglyTyped", "--useCudaGraph"]
    assert [flag for flag in eleven if flag not in ten] == ["--includeDataTransfers", "--noSpinWait"]


def test_settings_are_passed_on() -> None:
    settings = Settings(most=4, optimization_level=5, workspace=2**28 + 2**19)
    flags = command("f.fp32.onnx", SPEC, settings, 11)
    assert "--maxShapes=face_tokens:4x40x128,face_mask:4x40" in flags
    assert "--builderOptimizationLevel=5" in flags
    assert "--memPoolSize=workspace:256.5" in flags
    most = command("f.fp32.onnx", SPEC, Settings(workspace=2**40), 11)
    assert "--memPoolSize=workspace:1048576" in most


def test_a_graph_of_fixed_sizes_has_no_shapes() -> None:
    spec = replace(SPEC, inputs={"voice_tokens": TENSORS["voice_tokens"]})
    assert not [flag for flag in command("f.int8.onnx", spec, Settings(), 10) if "Shapes" in flag]


@pytest.mark.parametrize(
    ("model", "settings", "major", "there", "missing"),
    [
        ("f.int8.onnx", {"typing": "weak"}, 10, ["--int8", "--fp16"], ["--stronglyTyped"]),
        ("f.fp16.onnx", {"typing": "weak"}, 10, ["--fp16"], ["--stronglyTyped", "--int8"]),
        ("f.fp32.onnx", {"typing": "weak"}, 10, [], ["--stronglyTyped", "--int8", "--fp16"]),
        (
            "f.fp16.onnx",
            {"dla_core": 1},
            10,
            ["--fp16", "--useDLACore=1", "--allowGPUFallback"],
            ["--stronglyTyped", "--useCudaGraph"],
        ),
        (
            "f.fp16.onnx",
            {"dla_core": 0},
            11,
            ["--useDLACore=0", "--allowGPUFallback", "--noCudaGraph"],
            ["--fp16"],
        ),
    ],
)
def test_typing_and_dla(
    model: str, settings: dict[str, Any], major: int, there: list[str], missing: list[str]
) -> None:
    flags = command(model, SPEC, Settings(**settings), major)
    assert [flag for flag in flags if flag in there] == there
    assert not set(flags) & set(missing)


@pytest.mark.parametrize(
    ("model", "typing", "major", "wrong"),
    [
        ("f.int8.onnx", "strong", 9, "major is 9; trtexec is known for TensorRT 10 and 11"),
        ("f.int8.onnx", "weak", 11, "typing is 'weak'; TensorRT 11 builds strongly typed networks alone"),
        ("g.onnx", "strong", 10, "model is 'g.onnx'; it must be a file of graph 'fusion': f.fp32.onnx, "),
    ],
)
def test_what_there_is_no_command_for(model: str, typing: str, major: int, wrong: str) -> None:
    with pytest.raises(InputError, match=wrong):
        command(model, SPEC, Settings(typing=typing), major)


def test_a_line_survives_a_shell() -> None:
    arguments = command("/my models/it's $1/f.int8.onnx", SPEC, Settings(), 10)
    printed = subprocess.run(
        ["sh", "-c", "printf '%s\\n' " + line(arguments)], capture_output=True, text=True, check=True
    )
    assert printed.stdout.splitlines() == arguments
