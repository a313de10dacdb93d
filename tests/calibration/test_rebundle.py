from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeemo.inference.bundle import Bundle, describe_files, files_digest
from edgeemo_calibration import cli, prove
from edgeemo_calibration.sets import CalibrationSet
from edgeemo_calibration.table import Table
from tests.support.tiny import Tiny, write_bundle

Words = Callable[..., list[str]]
RESULTS = [
    {"data": "a", "given": "face", "precision": precision, "n": 3, "wa": 0.5, "ua": 0.5, "ece": 0.1}
    for precision in ("fp32", "int8")
]


def quantisable(tiny: Tiny, random: np.random.Generator) -> onnx.ModelProto:
    """A face graph with a trunk of two convolutions, where the tiny one has none."""
    constants = {
        "trunk.a.weight": random.normal(size=(4, 1, 3, 3)),
        "trunk.a.bias": random.normal(size=4),
        "trunk.b.weight": random.normal(size=(tiny.width, 4, 3, 3)),
        "trunk.b.bias": random.normal(size=tiny.width),
    }
    nodes = [
        helper.make_node("Cast", ["face"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["picture"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["picture", "gain"], ["x"]),
        helper.make_node("Conv", ["x", "trunk.a.weight", "trunk.a.bias"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["a.relu"]),
        helper.make_node("Conv", ["a.relu", "trunk.b.weight", "trunk.b.bias"], ["b"], pads=[1] * 4),
        helper.make_node("Relu", ["b"], ["b.relu"]),
        helper.make_node("GlobalAveragePool", ["b.relu"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["tokens"]),
    ]
    graph = helper.make_graph(
        nodes,
        "face",
        [helper.make_tensor_value_info("face", TensorProto.UINT8, ["N", *tiny.size, 1])],
        [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["N", tiny.width])],
        [
            numpy_helper.from_array(np.asarray(value, np.float32), name)
            for name, value in {**constants, "gain": np.float32(1 / 255)}.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle whose face graph can be quantised and whose voice graph is FP32 alone."""
    tiny = Tiny()
    folder = write_bundle(
        tmp_path / "bundle", tiny, results=RESULTS, proof={"passed": False, "unproven": "new"}
    )
    model = quantisable(tiny, np.random.default_rng(0)).SerializeToString()
    for encoding in ("fp32", "int8", "int8-cpu"):
        (folder / f"face.{encoding}.onnx").write_bytes(model)
    for encoding in ("int8", "int8-cpu"):
        (folder / f"voice.{encoding}.onnx").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["graphs"]["voice"]["files"] = {"fp32": "voice.fp32.onnx"}
    manifest["files"] = describe_files(
        folder, manifest["files"].keys() - {"voice.int8.onnx", "voice.int8-cpu.onnx"}
    )
    (folder / "manifest.json").write_text(json.dumps(manifest))
    Bundle.read(folder).verify()
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    faces = np.random.default_rng(1).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    CalibrationSet({"face": faces}, {}).write(tmp_path / "set")
    return tmp_path / "set"


@pytest.fixture
def words(bundle: Path, tmp_path: Path) -> Words:
    def made(verb: str, **options: Any) -> list[str]:
        known: dict[str, dict[str, Any]] = {
            "ranges": {"bundle": bundle, "set": tmp_path / "set", "out": tmp_path / "tables"},
            "encode": {"bundle": bundle, "tables": tmp_path / "tables", "out": tmp_path / "new"},
        }
        given = [verb]
        for name, value in {**known[verb], **options}.items():
            given.append(f"--{name.replace('_', '-')}")
            given += [] if value is True else [str(value)]
        return given

    return made


def manifest_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def test_ranges_writes_a_table_and_names_the_worst(
    words: Words, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words("ranges")) == 0
    table = Table.read(tmp_path / "tables" / "face.ranges.json")
    assert (table.method, table.percentile, table.samples) == ("percentile", 99.99, 40)
    told = capsys.readouterr().out
    assert table.digest in told
    assert "worst tensors: " in told
    assert "b.relu (Conv)" in told
    assert "tokens: " in told


def test_ranges_says_the_same_as_json(
    words: Words, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"method": "mse", "equalise": True, "correct": True, "keep_floating": "auto"}
    assert cli.main([*words("ranges", **options), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    table = Table.read(tmp_path / "tables" / "face.ranges.json")
    assert said["set"] == CalibrationSet.read(data).sha256
    (entry,) = said["graphs"].values()
    assert entry["digest"] == table.digest
    assert entry["method"] == table.method == "mse"
    assert entry["equalised"] == list(table.equalisation) == ["a.relu"]
    assert entry["corrected"] == list(table.corrections) == [name for name in "ab" if name in table.operators]
    assert entry["floating"] == list(table.floating) == entry["choice"]["floating"]
    assert {one["operator"] for one in entry["choice"]["candidates"]} == {"a", "b"}
    ratios = [one["sqnr_db"] for one in entry["worst"]]
    assert ratios == sorted(ratios)
    assert entry["sqnr_db"]["tokens"] > 20.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"set": "gone"}, "no such folder"),
        ({"graph": "voice"}, "graph 'voice' has no INT8 encoding; those that have are face"),
        ({"graph": "fusion"}, "graph 'fusion' has no INT8 encoding"),
        ({"percentile": 0}, "percentile 0.0 is outside"),
    ],
)
def test_ranges_needs_data_and_graphs(
    words: Words,
    data: Path,
    tmp_path: Path,
    options: dict[str, Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(words("ranges", **options)) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("tables/*"))


def test_a_set_without_the_input_of_a_graph_is_an_error(
    words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    CalibrationSet({"voice": np.ones((2, 1600), np.float32)}, {}).write(tmp_path / "set")
    assert cli.main(words("ranges")) == 2
    assert "the calibration set has no face" in capsys.readouterr().err


def test_a_graph_that_cannot_be_measured_leaves_no_table(
    words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    CalibrationSet({"face": np.zeros((2, 8, 8, 1), np.uint8)}, {}).write(tmp_path / "set")
    assert cli.main(words("ranges")) == 2
    assert "is zero in all 2 samples" in capsys.readouterr().err
    assert not (tmp_path / "tables").exists()


def test_an_unproven_bundle_is_refused_and_nothing_is_left(
    words: Words, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words("ranges")) == 0
    before = sorted(tmp_path.iterdir())
    assert cli.main(words("encode")) == 1
    assert "give --prove MANIFEST.csv" in capsys.readouterr().err
    assert cli.main(words("encode", unproven=True, prove="set.csv")) == 2
    for page in ("new", "new/proof"):
        assert cli.main(words("encode", prove="set.csv", page=tmp_path / page)) == 2
        assert "it is in the new bundle" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_encode_writes_a_bundle_of_the_tables(
    words: Words, bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words("ranges", correct=True)) == 0
    capsys.readouterr()
    assert cli.main([*words("encode", unproven=True), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    table = Table.read(tmp_path / "tables" / "face.ranges.json")
    made, old = Bundle.read(tmp_path / "new"), Bundle.read(bundle)
    made.verify()
    assert made.graphs["face"].calibration == table.digest == said["graphs"]["face"]["digest"]
    assert said["proven"] is False
    for encoding, kind in (("int8", TensorProto.INT8), ("int8-cpu", TensorProto.UINT8)):
        graph = onnx.load(made.path / made.graphs["face"].files[encoding]).graph
        points = [one for one in graph.initializer if one.name.endswith("zero_point") and not one.dims]
        assert points
        assert {one.data_type for one in points} == {kind}
    assert made.files["face.fp32.onnx"] == old.files["face.fp32.onnx"]
    assert made.files["fusion.fp32.onnx"] == old.files["fusion.fp32.onnx"]
    assert made.files["face.int8.onnx"] != old.files["face.int8.onnx"]
    manifest = manifest_of(tmp_path / "new")
    assert [entry["precision"] for entry in manifest["results"]] == ["fp32"]
    assert manifest["proof"] == {"passed": False, "unproven": "encoded with --unproven"}
    assert manifest["provenance"]["int8"] == (
        "face: symmetric, percentile 99.99, biases corrected, 40 samples"
    )
    assert manifest_of(bundle)["results"] == RESULTS


class Verdict:
    """A proof whose verdict is given; what proves is tested where it lives."""

    def __init__(self, folder: Path, passed: bool) -> None:
        self.bundle = {"files": files_digest(Bundle.read(folder).files)}
        self.passed = passed

    def __str__(self) -> str:
        return "lost 3 items"

    def entry(self) -> dict[str, Any]:
        return {"passed": True, "sha256": "0" * 64, "files": self.bundle["files"], "data": []}


@pytest.mark.parametrize("passed", [True, False])
def test_only_what_passes_is_left(
    words: Words,
    data: Path,
    tmp_path: Path,
    passed: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from edgeemo_calibration import page

    asked: list[Any] = []

    def verdict(folder: Path, sets: Any, **rest: Any) -> Verdict:
        asked.append((sets, rest["tables"]))
        return Verdict(folder, passed)

    monkeypatch.setattr(prove, "prove", verdict)
    monkeypatch.setattr(page, "write", lambda proof, html, figures: html.write_text("page"))
    assert cli.main(words("ranges")) == 0
    status = cli.main(words("encode", prove="voices.csv", cropped="faces.csv"))
    assert status == (0 if passed else 1)
    (sets, tables) = asked[0]
    assert [(one.name, one.cropped) for one in sets] == [("voices", False), ("faces", True)]
    assert tables == [Table.read(tmp_path / "tables" / "face.ranges.json")]
    assert (tmp_path / "new-proof" / "proof.html").is_file()
    assert (tmp_path / "new").exists() is passed
    if passed:
        assert manifest_of(tmp_path / "new")["proof"]["passed"] is True
        Bundle.read(tmp_path / "new").verify()
    else:
        assert "lost 3 items" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == (
        {"bundle", "set", "tables", "new-proof"} | ({"new"} if passed else set())
    )


def test_the_same_tables_give_the_same_files_and_what_was_measured_holds(
    words: Words, data: Path, tmp_path: Path
) -> None:
    assert cli.main(words("ranges")) == 0
    assert cli.main(words("encode", unproven=True)) == 0
    manifest = manifest_of(tmp_path / "new")
    manifest["results"] = RESULTS
    (tmp_path / "new" / "manifest.json").write_text(json.dumps(manifest))
    assert cli.main(words("encode", bundle=tmp_path / "new", out=tmp_path / "again", unproven=True)) == 0
    again = manifest_of(tmp_path / "again")
    assert again["files"] == manifest["files"]
    assert again["results"] == RESULTS


def test_tables_that_do_not_fit_are_named(
    words: Words, bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words("encode", unproven=True)) == 2
    assert "it must be a folder with a NAME.ranges.json" in capsys.readouterr().err
    assert cli.main(words("ranges")) == 0
    table = tmp_path / "tables" / "face.ranges.json"
    table.rename(tmp_path / "tables" / "hand.ranges.json")
    assert cli.main(words("encode", unproven=True)) == 2
    assert "has no graph 'hand'; it has face, voice, fusion" in capsys.readouterr().err
    (tmp_path / "tables" / "hand.ranges.json").rename(tmp_path / "tables" / "voice.ranges.json")
    assert cli.main(words("encode", unproven=True)) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'tables' / 'voice.ranges.json'}: it was measured on a graph with the sha256" in said
    assert not (tmp_path / "new").exists()


def test_a_damaged_bundle_and_a_full_folder_are_refused(
    words: Words, bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words("ranges")) == 0
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "note").write_text("mine")
    assert cli.main(words("encode", unproven=True)) == 2
    assert "name a new folder, or an empty one" in capsys.readouterr().err
    (bundle / "voice.fp32.onnx").write_bytes((bundle / "voice.fp32.onnx").read_bytes()[::-1])
    assert cli.main(words("encode", out=tmp_path / "other", unproven=True)) == 2
    assert "voice.fp32.onnx has the sha256" in capsys.readouterr().err


def test_what_tensorrt_would_refuse_is_not_left(
    words: Words,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from edgeemo_calibration import rebundle

    monkeypatch.setattr(rebundle, "lint", lambda model: ["scale: 'x': a scale is 0"])
    assert cli.main(words("ranges")) == 0
    assert cli.main(words("encode", unproven=True)) == 1
    assert "face.int8.onnx: scale: 'x': a scale is 0" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
