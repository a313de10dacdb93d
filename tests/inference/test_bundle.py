from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeemo.errors import BundleError
from edgeemo.inference.bundle import Bundle, describe_files, files_digest
from edgeemo.inference.spec import TensorSpec, TextInput, Thresholds
from tests.support.tiny import Tiny, write_bundle

Manifest = dict[str, Any]
GEOMETRY = {"yunet": {"scale": 1.2, "dx": 0.0, "dy": -0.1}, "eyes": {"distance": 0.4, "y": 0.4}}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny", geometry=GEOMETRY)


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "tiny"))


def edit(folder: Path, change: Callable[[Manifest], None]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), "utf-8")


def put(path: str, value: Any) -> Callable[[Manifest], None]:
    """Set the value at a dotted path; a slash stands for a dot within a key."""
    *parents, last = (key.replace("/", ".") for key in path.split("."))

    def change(manifest: Manifest) -> None:
        for key in parents:
            manifest = manifest[key]
        manifest[last] = value

    return change


def drop(path: str) -> Callable[[Manifest], None]:
    *parents, last = path.split(".")

    def change(manifest: Manifest) -> None:
        for key in parents:
            manifest = manifest[key]
        del manifest[last]

    return change


def test_read_gives_typed_access(written: Path) -> None:
    bundle = Bundle.read(str(written))
    tiny = Tiny()
    assert bundle.path == written
    assert (bundle.name, bundle.version, bundle.licence) == ("tiny", "1.0", "CC0-1.0")
    assert bundle.labels == tiny.labels
    assert bundle.modalities == ("face", "voice")
    assert (bundle.hop, bundle.window, bundle.slots) == (0.1, 0.5, 5)
    assert bundle.face is not None and bundle.voice is not None
    assert (bundle.face.size, bundle.face.channels) == ((8, 8), 1)
    assert bundle.face.geometry == GEOMETRY
    assert bundle.face.most == 16
    assert (bundle.voice.sample_rate, bundle.voice.context) == (8000, 1600)
    assert bundle.thresholds == Thresholds(confidence=0.35, silence_dbfs=-60.0, dark=5.0, clipped=0.5)
    assert list(bundle.graphs) == ["face", "voice", "fusion"]
    assert bundle.graphs["face"].inputs == {"face": TensorSpec("face", "uint8", ("N", 8, 8, 1))}
    assert bundle.graphs["voice"].files["int8-cpu"] == "voice.int8-cpu.onnx"
    assert bundle.valence_arousal is not None and bundle.valence_arousal["derived"] is True
    assert bundle.manifest["schema"] == 1


@pytest.mark.parametrize(
    ("tiny", "present"),
    [
        (Tiny(modalities=("face",)), ["face", "fusion"]),
        (Tiny(modalities=("voice",)), ["voice", "fusion"]),
        (Tiny(modalities=("voice",), voice_mode="replace", voice_every=5, context=4000), ["voice", "fusion"]),
        (Tiny(labels=("no", "yes"), size=(4, 6), channels=3, width=2), ["face", "voice", "fusion"]),
        (Tiny(modalities=("text",)), ["text", "fusion"]),
        (Tiny(modalities=("voice", "text"), slots=3), ["voice", "text", "fusion"]),
        (Tiny(modalities=("face", "voice", "text")), ["face", "voice", "text", "fusion"]),
    ],
)
def test_read_other_shapes(tiny: Tiny, present: list[str], tmp_path: Path) -> None:
    bundle = Bundle.read(write_bundle(tmp_path, tiny))
    assert list(bundle.graphs) == present
    assert (bundle.face is None, bundle.voice is None) == ("face" not in present, "voice" not in present)
    assert (bundle.text is None) == ("text" not in present)
    if bundle.text:
        assert bundle.text == TextInput("vocab.txt", tiny.slots, True)
        assert "[PAD]" in bundle.read_file("vocab.txt").decode()


def test_optional_keys(folder: Path) -> None:
    edit(folder, drop("valence_arousal"))
    edit(folder, drop("calibration"))
    bundle = Bundle.read(folder)
    assert bundle.valence_arousal is None
    assert bundle.calibration == {}


def test_fusion_may_answer_less(folder: Path) -> None:
    edit(folder, drop("graphs.fusion.outputs.valence_arousal"))
    edit(folder, drop("graphs.fusion.outputs.face_logits"))
    assert list(Bundle.read(folder).graphs["fusion"].outputs) == ["logits", "voice_logits"]


PROOF = {"passed": True, "sha256": "1" * 64, "files": "0" * 64, "data": []}


def test_a_proof_is_of_the_files_that_are_listed(tmp_path: Path) -> None:
    files = files_digest(Bundle.read(write_bundle(tmp_path)).files)
    data = [{"name": "crops", "n": 600, "sha256": "2" * 64}]
    proof = {**PROOF, "files": files, "data": data}
    bundle = Bundle.read(write_bundle(tmp_path, proof=proof))
    assert bundle.proof == proof
    assert "int8: proven on crops (n 600); sha256 of the proof 111111111111..." in repr(bundle)
    for wrong in ({"n": 0}, {"name": ""}, {"sha256": "2"}):
        write_bundle(tmp_path, proof={**proof, "data": [{**data[0], **wrong}]})
        with pytest.raises(BundleError, match=rf"proof\.data\[0\]\.{next(iter(wrong))}"):
            Bundle.read(tmp_path)


@pytest.mark.parametrize(
    ("encodings", "proof", "said"),
    [
        (("fp32",), None, "int8: none"),
        (("fp32", "int8"), None, "int8: the bundle does not say whether it is proven"),
        (("fp32", "int8"), {"passed": False, "unproven": "a toy"}, "int8: not proven: a toy"),
    ],
)
def test_what_is_not_proven_is_said(
    encodings: tuple[str, ...], proof: dict[str, object] | None, said: str, tmp_path: Path
) -> None:
    assert said in repr(Bundle.read(write_bundle(tmp_path, encodings=encodings, proof=proof))).splitlines()


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (drop("schema"), "'schema' is missing; it must be 1"),
        (put("schema", 2), "'schema' is 2; it must be 1, the only one"),
        (put("proof", []), "'proof' is []; it must be an object"),
        (put("proof", {"passed": 1}), "'proof.passed' is 1; it must be true or false"),
        (put("proof", {"passed": False}), "'proof.unproven' is missing; it must be a text"),
        (put("proof", {"passed": True}), "'proof.sha256' is missing"),
        (put("proof", PROOF), "'proof.files' is \"000"),  # of other files
        (put("schema", None), "'schema' is null; it must be 1"),
        (put("schema", True), "'schema' is true; it must be 1"),  # equal to 1 in Python
        (drop("name"), "'name' is missing; it must be a text"),
        (put("licence", " "), "'licence' is \" \"; it must be a text"),
        (put("task", "dimensional"), "'task' is \"dimensional\"; it must be one of categorical"),
        (put("labels", ["anger", "fear", "anger"]), "'labels' is"),
        (put("labels", ["anger"]), "a list of at least 2 texts, each different"),
        (put("labels", "anger"), "'labels' is \"anger\"; it must be a list"),
        (put("modalities", []), "'modalities' is []"),
        (put("modalities", ["face", "smell"]), "it must be a list of any of face, voice, text"),
        (put("modalities", ["face", "text"]), "'text' is missing; it must be an object"),
        (put("hop", 0), "'hop' is 0; it must be a number in [0.001, 60]"),
        (put("hop", True), "'hop' is true"),  # a bool is an int in Python
        (put("hop", "0.1"), "'hop' is \"0.1\""),
        (put("window", 0.55), "'window' is 0.55; it must be a multiple of the hop, 0.1 s"),
        (put("face.size", [8]), "'face.size' is [8]; it must be [height, width]"),
        (put("face.size", [8, True]), "'face.size' is [8, true]"),
        (put("face.channels", 2), "'face.channels' is 2; it must be 1 (grey) or 3 (BGR)"),
        (put("face.most", 0), "'face.most' is 0; it must be a whole number from 1 to 256"),
        (put("face.most", 257), "'face.most' is 257; it must be a whole number from 1 to 256"),
        (
            put("graphs.face.calibration", "percentile"),
            "'graphs.face.calibration' is \"percentile\"; it must be",
        ),
        (drop("face.geometry"), "'face.geometry' is missing; it must be an object"),
        (drop("voice"), "'voice' is missing; it must be an object"),
        (put("voice.sample_rate", 16.0), "'voice.sample_rate' is 16.0; it must be a whole number"),
        (put("voice.context", 0), "'voice.context' is 0; it must be a whole number from 1 to 480000"),
        (put("voice.context", 480001), "'voice.context' is 480001"),  # more than 60 s
        (
            put("voice.sample_rate", 10**10),
            "'voice.sample_rate' is 10000000000; it must be a whole",
        ),
        (put("voice.sample_rate", 3999), "a whole number from 4000 to 192000"),
        (
            put("face.size", [8, 1025]),
            "'face.size' is [8, 1025]; it must be [height, width] in pixels, at",
        ),
        (put("window", 500.0), "'window' is 500.0; it must be a multiple of the hop, 0.1 s, of at most 4096"),
        (
            put("face.geometry.yunet.scale", -1),
            "'face.geometry.yunet.scale' is -1; it must be a number in [0.01, 100]",
        ),
        (put("face.geometry.yunet.scale", 0), "'face.geometry.yunet.scale' is 0"),
        (put("face.geometry.yunet.dx", None), "'face.geometry.yunet.dx' is null; it must be a number in"),
        (drop("face.geometry.yunet.dy"), "'face.geometry.yunet.dy' is missing"),
        (put("face.geometry.eyes.distance", 0), "'face.geometry.eyes.distance' is 0"),
        (put("face.geometry.cascade", 1.0), "'face.geometry.cascade' is 1.0; it must be an object"),
        (put("thresholds.confidence", 1.5), "'thresholds.confidence' is 1.5; it must be a number in [0, 1]"),
        (drop("thresholds.dark"), "'thresholds.dark' is missing"),
        (put("thresholds.speech", 1.5), "'thresholds.speech' is 1.5; it must be a number in [0, 1]"),
        (
            put("thresholds.speech", 0.5),
            "'thresholds.speech' is of no use without an output 'speech'",
        ),  # no graph answers it
        (put("graphs.voice.outputs.speech", ["float32", [2]]), "it must be float32 [1]"),
        (
            put("graphs.voice.outputs.loudness", ["float32", [1]]),
            "holds tokens, loudness; it must hold tokens",
        ),
        (put("graphs.face.outputs.speech", ["float32", ["N"]]), "holds tokens, speech; it must hold tokens"),
        (put("results", {}), "'results' is an object; it must be a list of objects"),
        (put("valence_arousal.norms.fear", [2, 0]), "'valence_arousal.norms.fear' is [2, 0]"),
        (put("valence_arousal.norms", {"joy": [0, 0]}), "an object whose keys are labels"),
        (drop("graphs.fusion"), "'graphs.fusion' is missing"),
        (
            put("graphs.text", {}),
            "'graphs.text' is of no use; there must be one graph for each of face, voice, fusion",
        ),
        (put("graphs.face.mode", "replace"), "'graphs.face.mode' is \"replace\"; it must be one of append"),
        (put("graphs.voice.every", 0), "'graphs.voice.every' is 0"),
        (drop("graphs.voice.files.fp32"), "'graphs.voice.files.fp32' is missing"),
        (
            put("graphs.voice.files.int4", "voice.fp32.onnx"),
            "'graphs.voice.files.int4' is no encoding; legal are fp32",
        ),
        (put("graphs.voice.files.fp32", "other.onnx"), "it must be a file that is listed under 'files'"),
        (put("graphs.face.inputs.face", ["int8", ["N", 8, 8, 1]]), "'graphs.face.inputs.face' is"),
        (put("graphs.face.inputs.face", ["uint8", ["M", 8, 8, 1]]), 'an axis being a size or "N"'),
        (put("graphs.face.inputs.face", [["uint8"], []]), "'graphs.face.inputs.face' is"),
        (
            put("graphs.face.inputs.face", ["uint8", ["N", 8, 9, 1]]),
            "uint8 [N, 8, 9, 1]; it must be uint8 [N, 8, 8, 1]",
        ),
        (put("graphs.face.outputs", {}), "must hold 'tokens' with a fixed last axis"),
        (put("graphs.face.outputs.tokens", ["float32", ["N", 5]]), "it must be float32 [N, 5, 5]"),
        (put("graphs.face.outputs.tokens", ["float32", ["N", 10**9]]), "their width, of at most 4096"),
        (
            put("graphs.voice.mode", "replace"),
            "'graphs.voice.outputs.tokens' is float32 [1, 4]; it must be float32 [5, 4]",
        ),
        (
            drop("graphs.fusion.inputs.voice_mask"),
            "'graphs.fusion.inputs' holds face_tokens, face_mask, voice_tokens",
        ),
        (drop("graphs.fusion.outputs.logits"), "it must hold logits, valence_arousal"),
        (put("graphs.fusion.outputs.logits", ["float32", ["N", 6]]), "it must be float32 [N, 7]"),
        (put("files.face/fp32/onnx.sha256", "00"), "it must be 64 hexadecimal digits"),
        (put("files.face/fp32/onnx.bytes", -1), "'files.face.fp32.onnx.bytes' is -1"),
        (put("files.face/fp32/onnx", 7), "'files.face.fp32.onnx' is 7; it must be an object"),
        (put("files", []), "'files' is []; it must be an object"),
    ],
)
def test_a_wrong_key_is_named(folder: Path, change: Callable[[Manifest], None], wrong: str) -> None:
    edit(folder, change)
    with pytest.raises(BundleError) as caught:
        Bundle.read(folder)
    assert str(caught.value).startswith(f"bundle {folder}: manifest.json: ")
    assert wrong in str(caught.value)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (drop("text"), "'text' is missing; it must be an object"),
        (drop("text.vocab"), "'text.vocab' is missing; it must be a text"),
        (
            put("text.vocab", "words.txt"),
            "'text.vocab' is \"words.txt\"; it must be a file that is listed under 'files'",
        ),
        (put("text.length", 6), "'text.length' is 6; it must be 5, the hops of the window"),
        (put("text.length", 2), "'text.length' is 2; it must be a whole number of at least 3"),
        (put("text.length", 5.0), "'text.length' is 5.0; it must be a whole number"),
        (put("text.lowercase", 1), "'text.lowercase' is 1; it must be true or false"),
        (drop("text.lowercase"), "'text.lowercase' is missing; it must be true or false"),
        (drop("graphs.text"), "'graphs.text' is missing; it must be an object"),
        (put("graphs.text.mode", "append"), "'graphs.text.mode' is \"append\"; it must be one of replace"),
        (put("graphs.text.every", 2), "'graphs.text.every' is 2; it must be 1: a text is"),
        (
            put("graphs.text.inputs.text", ["float32", [1, 5]]),
            "'graphs.text.inputs.text' is float32 [1, 5]; it must be int32 [1, 5]",
        ),
        (put("graphs.text.inputs.text", ["int64", [1, 5]]), "'graphs.text.inputs.text' is"),
        (put("graphs.text.inputs.text", ["int32", [1, 6]]), "it must be int32 [1, 5]"),
        (put("graphs.text.outputs.tokens", ["float32", [1, 4]]), "it must be float32 [5, 4]"),
        (
            drop("graphs.fusion.inputs.text_mask"),
            "it must hold voice_tokens, voice_mask, text_tokens, text_mask",
        ),
        (put("graphs.fusion.inputs.text_tokens", ["float32", ["N", 5, 4]]), "it must be float32 [1, 5, 4]"),
        (put("modalities", ["voice"]), "'graphs.text' is of no use"),
    ],
)
def test_a_wrong_key_of_a_text_is_named(
    tmp_path: Path, change: Callable[[Manifest], None], wrong: str
) -> None:
    folder = write_bundle(tmp_path / "tiny", Tiny(modalities=("voice", "text")))
    edit(folder, change)
    with pytest.raises(BundleError) as caught:
        Bundle.read(folder)
    assert str(caught.value).startswith(f"bundle {folder}: manifest.json: ")
    assert wrong in str(caught.value)


def test_every_required_key_is_missed(folder: Path) -> None:
    whole = json.loads((folder / "manifest.json").read_text("utf-8"))
    for key in set(whole) - {"valence_arousal", "calibration"}:
        manifest = copy.deepcopy(whole)
        del manifest[key]
        (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
        with pytest.raises(BundleError, match=f"'{key}' is missing; it must be"):
            Bundle.read(folder)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (b"", "not valid JSON: Expecting value at line 1, column 1"),
        (b'{"schema": 1,\n}', "not valid JSON"),
        (b"[1]", "it is [1]; it must be a JSON object"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b'{"schema": 1, "schema": 1}', "the key 'schema' is given twice"),
        (b'{"schema": 1, "hop": NaN}', "it holds NaN; numbers must be finite"),
        (b'{"schema": 1, "hop": -1e999}', "it holds -1e999; numbers must be finite"),
        (b'{"schema": 1, "hop": ' + b"9" * 500 + b".0}", "999...; numbers must be finite"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"schema": 1' + b"0" * 5000 + b"}", "it cannot be read: Exceeds the limit"),
    ],
)
def test_a_manifest_that_is_not_json(folder: Path, text: bytes, wrong: str) -> None:
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(BundleError) as caught:
        Bundle.read(folder)
    assert str(caught.value).startswith(f"bundle {folder}: manifest.json: ")
    assert wrong in str(caught.value)


def test_folders_that_are_none(folder: Path) -> None:
    (folder / "empty").mkdir()
    for path, wrong in [
        (folder / "nowhere", "does not exist; a bundle is a folder with a manifest.json"),
        (folder / "manifest.json", "is a file; a bundle is a folder"),
        (folder / "empty", "manifest.json cannot be read (No such file or directory)"),
        (None, "not a path"),
        ("a\0b", "bundle"),  # what is said about a null byte differs between versions of Python
    ]:
        with pytest.raises(BundleError) as caught:
            Bundle.read(path)  # type: ignore[arg-type]
        assert wrong in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "../face.onnx",
        "a/../../face.onnx",
        "/etc/hostname",
        "a\\b.onnx",
        "..\\face.onnx",
        "C:/face.onnx",
        "",
        ".",
        "./face.fp32.onnx",
        "a//b.onnx",
        "a\0.onnx",
    ],
)
def test_a_path_that_may_leave_the_folder(folder: Path, name: str) -> None:
    (folder.parent / "face.onnx").write_bytes(b"")
    edit(folder, lambda manifest: manifest["files"].update({name: {"bytes": 0, "sha256": "0" * 64}}))
    with pytest.raises(BundleError, match="is not a plain path inside the folder; it must be relative"):
        Bundle.read(folder)


@pytest.mark.parametrize("name", ["a" * 300, "\ud800"])
def test_a_name_that_no_file_can_have(folder: Path, name: str) -> None:
    edit(folder, lambda manifest: manifest["files"].update({name: {"bytes": 0, "sha256": "0" * 64}}))
    with pytest.raises(BundleError, match=r"cannot be read .*; copy or download"):
        Bundle.read(folder)


def test_links(folder: Path) -> None:
    graph = folder / "face.fp32.onnx"
    elsewhere = folder.parent / "elsewhere.onnx"
    shutil.move(graph, elsewhere)
    os.symlink(elsewhere, graph)
    with pytest.raises(BundleError, match=r"face\.fp32\.onnx is a link that leaves the folder"):
        Bundle.read(folder)
    graph.unlink()
    os.symlink(graph.name, graph)
    with pytest.raises(BundleError, match=r"face\.fp32\.onnx is missing"):  # it leads to itself
        Bundle.read(folder)
    graph.unlink()
    shutil.move(elsewhere, folder / "inside.onnx")
    os.symlink("inside.onnx", graph)
    Bundle.read(folder).verify()
    os.symlink(folder, folder.parent / "link")
    Bundle.read(folder.parent / "link").verify()


def test_files_in_a_subfolder(folder: Path) -> None:
    (folder / "graphs").mkdir()
    shutil.move(folder / "face.fp32.onnx", folder / "graphs")

    def move(manifest: Manifest) -> None:
        manifest["graphs"]["face"]["files"]["fp32"] = "graphs/face.fp32.onnx"
        manifest["files"]["graphs/face.fp32.onnx"] = manifest["files"].pop("face.fp32.onnx")

    edit(folder, move)
    Bundle.read(folder).verify()


def test_a_file_that_is_missing_or_of_another_size(folder: Path) -> None:
    graph = folder / "voice.int8.onnx"
    content = graph.read_bytes()
    graph.write_bytes(content + b"\0")
    with pytest.raises(
        BundleError, match=rf"voice\.int8\.onnx has {len(content) + 1} bytes where .* {len(content)}"
    ):
        Bundle.read(folder)
    graph.unlink()
    with pytest.raises(BundleError, match=r"voice\.int8\.onnx is missing; copy or download"):
        Bundle.read(folder)
    graph.mkdir()
    with pytest.raises(BundleError, match=r"voice\.int8\.onnx is not a file"):
        Bundle.read(folder)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit(folder: Path) -> None:
    flip(folder / "voice.int8.onnx")
    bundle = Bundle.read(folder)  # contents are hashed when they are read
    assert bundle.read_file("voice.fp32.onnx") == (folder / "voice.fp32.onnx").read_bytes()
    wrong = rf"bundle {folder}: voice\.int8\.onnx has the sha256 .* where manifest\.json says .*; copy"
    with pytest.raises(BundleError, match=wrong):
        bundle.read_file("voice.int8.onnx")
    with pytest.raises(BundleError, match=wrong):
        bundle.verify()


def test_read_file_refuses_what_is_not_listed(folder: Path) -> None:
    with pytest.raises(
        BundleError, match=r"manifest\.json is not listed under 'files' .* listed are face\.fp32"
    ):
        Bundle.read(folder).read_file("manifest.json")


def test_a_file_that_goes_after_the_manifest_was_read(folder: Path) -> None:
    bundle = Bundle.read(folder)
    (folder / "face.fp32.onnx").unlink()
    for read in (lambda: bundle.read_file("face.fp32.onnx"), bundle.verify):
        with pytest.raises(BundleError, match=r"face\.fp32\.onnx is missing"):
            read()


def test_describe_files(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"abc")  # its sha256 is in FIPS 180-2, appendix B.1
    (tmp_path / "a.txt").write_bytes(b"")
    described = describe_files(tmp_path, ["b.txt", "a.txt", "b.txt"])
    assert list(described) == ["a.txt", "b.txt"]
    assert described["b.txt"] == {
        "bytes": 3,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }
    for name in ("c.txt", "../b.txt"):
        with pytest.raises(BundleError):
            describe_files(tmp_path, [name])


def test_repr_is_the_contract(folder: Path) -> None:
    measured = {"n": 3573, "wa": 0.87123, "ua": 0.75, "ece": 0.02, "command": "edgeemo evaluate fer.csv"}
    results = [
        {"data": "FER+", "given": "face, cropped", "precision": "int8", **measured},
        {"data": "pairs", "n": 9, "ua": 0.5, "single": {"face": 0.4, "voice": 0.3}, "late": 0.45},
        {"data": "none"},
    ]
    edit(folder, put("results", results))
    edit(folder, put("notice", "For tests alone. " * 8))
    edit(folder, put("graphs.voice.every", 3))
    assert (
        repr(Bundle.read(folder))
        == f"""\
bundle: tiny 1.0
path: {folder}
licence: CC0-1.0
notice: For tests alone. For tests alone. For tests alone. For tests alone. For tests alone. For tests alone.
  For tests alone. For tests alone.
task: categorical
labels: [anger, disgust, fear, happiness, neutral, sadness, surprise]
modalities: [face, voice]
time: {{hop: 0.1 s, window: 0.5 s, slots: 5}}
face: 8x8 grey, detectors [yunet]
voice: mono at 8000 Hz, context 0.2 s
graphs:
  face: append, every hop, [fp32, int8, int8-cpu]
    in  face: uint8 [N, 8, 8, 1]
    out tokens: float32 [N, 4]
  voice: append, every 3 hops, [fp32, int8, int8-cpu]
    in  voice: float32 [1, 1600]
    out tokens: float32 [1, 4]
  fusion: fuse, every hop, [fp32]
    in  face_tokens: float32 [N, 5, 4]
    in  face_mask: float32 [N, 5]
    in  voice_tokens: float32 [1, 5, 4]
    in  voice_mask: float32 [N, 5]
    out logits: float32 [N, 7]
    out valence_arousal: float32 [N, 2]
    out face_logits: float32 [N, 7]
    out voice_logits: float32 [N, 7]
results:
  - FER+; face, cropped; int8: n 3573, WA 0.871, UA 0.750, ECE 0.020
  - pairs: n 9, UA 0.500 (UA of face 0.400, voice 0.300, both added 0.450)
  - none
int8: the bundle does not say whether it is proven"""
    )


def test_repr_of_one_modality(tmp_path: Path) -> None:
    lines = repr(Bundle.read(write_bundle(tmp_path, Tiny(modalities=("face",), channels=3)))).splitlines()
    assert "face: 8x8 BGR, detectors []" in lines
    assert not any(line.startswith("voice") for line in lines)
    assert lines[-2] == "results: none"


def test_repr_of_a_bundle_that_reads_text(tmp_path: Path) -> None:
    lines = repr(Bundle.read(write_bundle(tmp_path, Tiny(modalities=("voice", "text"))))).splitlines()
    assert "modalities: [voice, text]" in lines
    assert "text: WordPiece of vocab.txt, lower case, 5 tokens" in lines
    assert lines[lines.index("  text: replace, every hop, [fp32, int8, int8-cpu]") + 1 :][:2] == [
        "    in  text: int32 [1, 5]",
        "    out tokens: float32 [5, 4]",
    ]


def test_an_altered_vocabulary_is_found(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, Tiny(modalities=("text",)))
    flip(folder / "vocab.txt")
    bundle = Bundle.read(folder)
    for read in (lambda: bundle.read_file("vocab.txt"), bundle.verify):
        with pytest.raises(BundleError, match=r"vocab\.txt has the sha256"):
            read()


def test_the_default_bundle_is_whole(default_bundle: Path) -> None:
    Bundle.read(default_bundle).verify()
