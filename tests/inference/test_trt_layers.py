from __future__ import annotations

import json
from typing import Any

import pytest

from edgeemo.inference.bundle import Bundle
from edgeemo.inference.trt_layers import Layer, precision_of, read_layers, report
from tests.support.tensorrt_opened import VERSIONS, opened

FORM = object()


class Inspector:
    """An inspector that answers given texts."""

    def __init__(self, engine: str, *layers: str) -> None:
        self.engine = engine
        self.layers = layers
        self.with_context = ""
        self.execution_context: object = None

    def get_engine_information(self, form: object) -> str:
        assert form is FORM
        return self.engine if self.execution_context is None else self.with_context

    def get_layer_information(self, index: int, form: object) -> str:
        assert form is FORM
        return self.layers[index]


def entry(**values: Any) -> dict[str, Any]:
    return {
        "Name": "conv1 + relu1",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", "Format/Datatype": "Int8 NC/32HW32"}],
        "Outputs": [{"Name": "y", "Format/Datatype": "Half"}],
        "Metadata": "[ONNX Layer: conv1]\x1e[ONNX Layer: relu1]",
        **values,
    }


def read(*entries: Any) -> tuple[Layer, ...]:
    return read_layers(Inspector(json.dumps({"Layers": entries})), len(entries), FORM)


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("Int8", "int8"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Row major linear FP32 format (kLINEAR)", "fp32"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Half(64,1:8,1)", "fp16"),
        ("Float", "fp32"),
        ("BFloat16", "bf16"),
        ("UINT8", "uint8"),
        ("Int32", "int32"),
        ("Int64", "int64"),
        ("Bool", "bool"),
        ("FP8", "fp8"),
        ("N/A due to dynamic shapes", "unknown"),
        ("", "unknown"),
    ],
)
def test_precisions(text: str, precision: str) -> None:
    assert precision_of(text) == precision


def test_a_layer_of_tensorrt_10() -> None:
    (layer,) = read(entry(TacticName="sm80_xmma_i8i8", Weights={"Type": "Int8", "Count": 9}))
    assert layer == Layer(
        "conv1 + relu1",
        "CaskConvolution",
        ("int8",),
        ("fp16",),
        "int8",
        "sm80_xmma_i8i8",
        ("conv1", "relu1"),
    )


def test_format_and_type_may_be_keys_of_their_own() -> None:
    (layer,) = read(entry(Inputs=[{"Name": "x", "Format": "Linear", "DataType": "Int8", "Dimensions": [1]}]))
    assert layer.inputs == ("int8",)


def test_a_name_is_no_format() -> None:
    (layer,) = read(entry(Inputs=[{"Name": "int8 x", "Format/Datatype": "Float"}]))
    assert layer.inputs == ("fp32",)


def test_nodes_are_named_by_metadata_or_by_the_name() -> None:
    (layer,) = read(entry(Name="w.dequantise + conv1 + relu1", Metadata=""))
    assert layer.nodes == ("w.dequantise", "conv1", "relu1")


def test_names_alone() -> None:
    (layer,) = read("conv1 + relu1")
    assert (layer.name, layer.precision, layer.nodes) == ("conv1 + relu1", "unknown", ("conv1", "relu1"))


def test_broken_json_is_read_layer_by_layer() -> None:
    inspector = Inspector(
        '{"Layers": [{"Name": "a "quoted" name"}]}', json.dumps(entry()), '{"Name": "a "b""}'
    )
    layers = read_layers(inspector, 2, FORM)
    assert layers[0].name == "conv1 + relu1"
    assert layers[1].name == "layer 1, which TensorRT describes in broken JSON"


@pytest.mark.parametrize(("with_context", "precision"), [(entry(), "int8"), (None, "unknown")])
def test_a_context_tells_what_free_sizes_hide(with_context: Any, precision: str) -> None:
    hidden = entry(Inputs=[{"Format/Datatype": "N/A due to dynamic shapes"}])
    inspector = Inspector(json.dumps({"Layers": [hidden]}))
    inspector.with_context = json.dumps({"Layers": [with_context]}) if with_context else ""
    (layer,) = read_layers(inspector, 1, FORM, context=object())
    assert layer.precision == precision


@pytest.mark.parametrize(
    ("values", "precision"),
    [
        ({}, "int8"),
        ({"Inputs": [{"Format/Datatype": "Half"}], "Weights": {"Type": "Half"}}, "fp16"),
        ({"Inputs": [{"Format/Datatype": "Half"}, {"Format/Datatype": "Int8"}]}, "int8"),
        ({"Inputs": [{"Format/Datatype": "N/A due to dynamic shapes"}], "Weights": {"Type": "Int8"}}, "int8"),
        ({"Inputs": [], "Weights": {"Type": "Float"}}, "fp32"),
        ({"Inputs": [], "Weights": {}, "TacticName": "sm87_xmma_fprop_i8i8_i8i32_f32_nhwc"}, "int8"),
        ({"Inputs": [], "TacticName": "ampere_int8x4_fprop_tn"}, "int8"),
        ({"Inputs": [], "TacticName": "sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32"}, "float"),
        ({"Inputs": [], "TacticName": "0x00000000000003ea"}, "unknown"),
    ],
)
def test_what_a_layer_computes_in(values: dict[str, Any], precision: str) -> None:
    (layer,) = read(entry(**values))
    assert layer.precision == precision


@pytest.mark.parametrize(
    ("entries", "finding"),
    [
        ([entry()], None),
        (
            [entry(Inputs=[{"Format/Datatype": "Float"}])],
            "conv1 is quantised in the graph, but its engine layer 'conv1 + relu1' computes in fp32",
        ),
        (
            [entry(Inputs=[], Outputs=[])],
            "conv1 is quantised in the graph, but TensorRT does not say what its engine layer "
            "'conv1 + relu1' computes in",
        ),
        (
            [entry(Name="conv2", Metadata="[ONNX Layer: conv2]")],
            "conv1 is quantised in the graph, but no layer of the engine names it",
        ),
        (
            [
                entry(Name="Reformatting CopyNode for Input Tensor 0 to conv1", LayerType="Reformat"),
                entry(Inputs=[], Outputs=[]),
            ],
            "conv1 is quantised in the graph, but TensorRT does not say what its engine layer "
            "'conv1 + relu1' computes in",
        ),
        (
            [
                entry(Name="Reformatting CopyNode for Input Tensor 0 to conv1", LayerType="Reformat"),
                entry(Inputs=[{"Format/Datatype": "Float"}]),
            ],
            "conv1 is quantised in the graph, but its engine layer 'conv1 + relu1' computes in fp32",
        ),
    ],
)
def test_findings(entries: list[Any], finding: str | None) -> None:
    assert report(["conv1"], read(*entries)).findings == ((finding,) if finding else ())


def test_a_report_is_json() -> None:
    made = report(["conv1"], read(entry(Inputs=[{"Format/Datatype": "Float"}])))
    answer = json.loads(json.dumps(made.to_dict()))
    assert answer["operators"] == ["conv1"]
    assert answer["layers"][0]["precision"] == "fp32"
    assert answer["layers"][0]["nodes"] == ["conv1", "relu1"]
    assert answer["findings"] == list(made.findings)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("name", "operators"), [("face", 13), ("voice", 10)])
def test_the_bundle_in_an_engine(version: str, name: str, operators: int, default_bundle: Any) -> None:
    bundle = Bundle.read(default_bundle)
    with opened(version) as rig:
        made = rig.build(bundle, name, "int8").report
        assert len(made.operators) == operators
        assert made.findings == ()
        assert rig.build(bundle, name, "fp32").report.operators == ()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_layer_that_stayed_in_float_is_named(version: str, default_bundle: Any) -> None:
    with opened(version) as rig:
        rig.knobs.float_layers = {"node_conv2d_5"}
        (finding,) = rig.build(Bundle.read(default_bundle), "face", "int8").report.findings
        assert finding.startswith("node_conv2d_5 is quantised in the graph, but its engine layer")
        assert "computes in fp32" in finding
