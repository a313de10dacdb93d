from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from edgeemo.errors import BackendError, BundleError, InputError
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.ort import PROVIDER, OrtGraph
from edgeemo.inference.spec import TensorSpec
from tests.support.tiny import Tiny, write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.read(write_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture
def face(bundle: Bundle) -> OrtGraph:
    return open_graph(bundle, "face")


def open_graph(bundle: Bundle, name: str, **options: Any) -> OrtGraph:
    spec = bundle.graphs[name]
    return OrtGraph(bundle.read_file(spec.files["fp32"]), spec, **options)


def test_run(face: OrtGraph) -> None:
    tiny = Tiny()
    crops = np.stack([tiny.face("fear"), tiny.face("sadness"), tiny.face("anger")])
    tokens = face.run({"face": crops})["tokens"]
    assert tokens.dtype == np.float32
    np.testing.assert_allclose(tokens, [tiny.face_token(crop) for crop in crops], rtol=1e-5)


def test_ids_are_run_as_they_are_and_nothing_else_is(tmp_path: Path) -> None:
    tiny = Tiny(modalities=("text",))
    text = open_graph(Bundle.read(write_bundle(tmp_path, tiny)), "text")
    ids = np.array([[2, 6, 5, 3, 0]], np.int32)
    np.testing.assert_allclose(text.run({"text": ids})["tokens"], tiny.text_tokens(ids), rtol=1e-5)
    with pytest.raises(BackendError, match=r"'text' is int64 \[1, 5\]; it must be int32 \[1, 5\]"):
        text.run({"text": ids.astype(np.int64)})


def test_outputs_are_not_reused(face: OrtGraph) -> None:
    tiny = Tiny()
    first = face.run({"face": tiny.face("fear")[None]})["tokens"]
    kept = first.copy()
    face.run({"face": tiny.face("sadness")[None]})
    np.testing.assert_array_equal(first, kept)


def test_feeds_may_be_views(face: OrtGraph) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 1), np.uint8)
    view = picture[:, ::2, ::-2]
    np.testing.assert_array_equal(
        face.run({"face": view})["tokens"], face.run({"face": view.copy()})["tokens"]
    )


def test_cpu_alone_and_a_quiet_session(face: OrtGraph) -> None:
    assert face._session is not None
    options = face._session.get_session_options()
    assert face._session.get_providers() == [PROVIDER]
    assert face.engine.startswith("onnxruntime ") and face.engine.endswith(PROVIDER)
    assert options.intra_op_num_threads == options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert not options.enable_cpu_mem_arena


def test_the_model_is_not_kept(bundle: Bundle) -> None:
    spec = bundle.graphs["face"]
    model = bundle.read_file(spec.files["fp32"])
    before = sys.getrefcount(model)
    graph = OrtGraph(model, spec)
    assert sys.getrefcount(model) == before
    graph.close()


def test_threads_change_no_answer(bundle: Bundle) -> None:
    tiny = Tiny()
    feeds = {"voice": tiny.voice("fear", 0.2)[None]}
    one, two = (open_graph(bundle, "voice", threads=threads).run(feeds)["tokens"] for threads in (1, 2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("threads", [0, -1, 1.0, True, "1", None])
def test_threads_that_are_none(bundle: Bundle, threads: Any) -> None:
    with pytest.raises(InputError, match=r"threads is .*; it must be a whole number of at least 1"):
        open_graph(bundle, "face", threads=threads)


def test_wrong_feeds_leave_the_graph_usable(face: OrtGraph) -> None:
    with pytest.raises(BackendError, match="graph 'face': input 'face' is uint8"):
        face.run({"face": np.zeros((1, 8, 9, 1), np.uint8)})
    face.run({"face": np.zeros((1, 8, 8, 1), np.uint8)})


def test_a_closed_graph(face: OrtGraph) -> None:
    face.close()
    face.close()
    with pytest.raises(BackendError, match="graph 'face' was closed"):
        face.run({"face": np.zeros((1, 8, 8, 1), np.uint8)})


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x08"])
def test_a_file_that_is_no_graph(bundle: Bundle, content: bytes) -> None:
    with pytest.raises(BundleError, match=r"face\.fp32\.onnx \(graph 'face'\): ONNX Runtime cannot open it"):
        OrtGraph(content, bundle.graphs["face"])


@pytest.mark.parametrize(
    ("side", "tensor", "wrong"),
    [
        (
            "inputs",
            TensorSpec("crop", "uint8", ("N", 8, 8, 1)),
            "its inputs are face; the manifest says crop",
        ),
        ("inputs", TensorSpec("face", "float32", ("N", 8, 8, 1)), r"input 'face' is tensor\(uint8\)"),
        ("inputs", TensorSpec("face", "uint8", ("N", 8, 9, 1)), r"the manifest says uint8 \[N, 8, 9, 1\]"),
        ("inputs", TensorSpec("face", "uint8", ("N", 8, 8)), r"the manifest says uint8 \[N, 8, 8\]"),
        (
            "outputs",
            TensorSpec("token", "float32", ("N", 4)),
            "its outputs are tokens; the manifest says token",
        ),
        ("outputs", TensorSpec("tokens", "float32", ("N", 5)), r"output 'tokens' is tensor\(float\)"),
    ],
)
def test_a_file_that_is_not_what_the_manifest_says(
    bundle: Bundle, side: str, tensor: TensorSpec, wrong: str
) -> None:
    spec = replace(bundle.graphs["face"], **{side: {tensor.name: tensor}})
    with pytest.raises(BundleError, match=rf"face\.fp32\.onnx.*{wrong}"):
        OrtGraph(bundle.read_file("face.fp32.onnx"), spec)


def test_a_symbol_in_the_file_may_stand_for_the_one_size_that_is_asked_for(bundle: Bundle) -> None:
    one = TensorSpec("face", "uint8", (1, 8, 8, 1))
    OrtGraph(bundle.read_file("face.fp32.onnx"), replace(bundle.graphs["face"], inputs={"face": one}))


def graph_of(*nodes: NodeProto, reads: Sequence[int | str] = ("N", 8, 8, 1)) -> bytes:
    """A graph from 'face' over 'x' to 'tokens', which declares no sizes for them."""
    graph = helper.make_graph(
        [*nodes, helper.make_node("Cast", ["x"], ["tokens"], to=TensorProto.FLOAT)],
        "graph",
        [helper.make_tensor_value_info("face", TensorProto.UINT8, reads)],
        [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["rows", "columns"])],
        [helper.make_tensor("far", TensorProto.INT64, [1], [100])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def test_a_file_with_a_fixed_batch(bundle: Bundle) -> None:
    model = graph_of(helper.make_node("Flatten", ["face"], ["x"]), reads=(1, 8, 8, 1))
    with pytest.raises(BundleError, match=r"\[1, 8, 8, 1\]; the manifest says uint8 \[N, 8, 8, 1\]"):
        OrtGraph(model, bundle.graphs["face"])


def test_a_file_that_answers_shapes_known_only_when_it_runs(bundle: Bundle) -> None:
    nodes = helper.make_node("NonZero", ["face"], ["where"]), helper.make_node("Transpose", ["where"], ["x"])
    model = graph_of(*nodes)
    with pytest.raises(
        BundleError, match=r"output 'tokens' is float32 \[0, 4\]; it must be float32 \[N, 4\]"
    ):
        OrtGraph(model, bundle.graphs["face"])


def test_a_file_that_fails_when_it_runs(bundle: Bundle) -> None:
    model = graph_of(
        helper.make_node("Shape", ["face"], ["shape"]),
        helper.make_node("Add", ["shape", "far"], ["beyond"]),
        helper.make_node("Flatten", ["face"], ["pixels"]),
        helper.make_node("Gather", ["pixels", "beyond"], ["x"], axis=1),
    )
    with pytest.raises(
        BundleError, match=r"face\.fp32\.onnx: it cannot run on zeros: graph 'face': ONNX Runtime"
    ):
        OrtGraph(model, bundle.graphs["face"])


def test_nothing_is_printed(bundle: Bundle) -> None:
    code = f"""
from edgeemo.errors import BundleError
from edgeemo.inference.backend import open_graphs
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.ort import OrtGraph
bundle = Bundle.read({str(bundle.path)!r})
open_graphs(bundle)
for content in (b"", b"not a graph"):
    try:
        OrtGraph(content, bundle.graphs["face"])
    except BundleError:
        continue
    raise SystemExit("opened")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
