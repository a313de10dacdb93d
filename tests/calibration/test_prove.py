"""A made bundle whose FP32 graphs answer made pictures right, and INT8 graphs that do or do not."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edgeemo.errors import BundleError, CheckFailed, InputError
from edgeemo.inference import onnx_files
from edgeemo.inference.bundle import Bundle, describe_files, files_digest
from edgeemo.inference.ort import open_session
from edgeemo.inference.probe import saturates
from edgeemo_calibration import Table, encodings, latency, measure, page, prove, write_encodings
from edgeemo_calibration.cli import main
from edgeemo_calibration.gate import Interval
from edgeemo_calibration.prove import Dataset, Proof
from tests.support.tiny import LABELS, Tiny, write_bundle

SIDE = 16
TINY = Tiny(modalities=("face",), size=(SIDE, SIDE))


def picture(label: str, random: np.random.Generator) -> NDArray[np.uint8]:
    level = 255 * TINY.value(label) + random.normal(0, 12, (SIDE, SIDE)) + random.normal(0, 4)
    return level.clip(0, 255).astype(np.uint8)


def face_graph(new_net: type[Any]) -> onnx.ModelProto:
    """Pictures through a trunk of random convolutions and a head that was fitted to their level."""
    net = new_net(seed=5)
    x = net.add("Cast", ["face"], "float", to=TensorProto.FLOAT)
    x = net.add(
        "Transpose", [net.add("Div", [x, net.constant("white", 255.0)], "unit")], "x", perm=[0, 3, 1, 2]
    )
    x = net.relu(net.conv(x, "trunk.stem", 1, 16))
    x = net.block(x, "trunk.0", 16, 16, False)
    net.add("Flatten", [net.add("GlobalAveragePool", [x], "pooled")], "tokens")
    shape = (TensorProto.UINT8, ["N", SIDE, SIDE, 1])
    features = net.model({"face": shape}, {"tokens": (TensorProto.FLOAT, ["N", 16])})
    random = np.random.default_rng(1)
    shown = np.stack([picture(label, random) for label in LABELS for _ in range(60)])[..., None]
    levels = np.repeat([TINY.value(label) for label in LABELS], 60)
    session = open_session(features.SerializeToString(), "features")
    (pooled,) = session.run(None, {"face": shown})
    rows = np.concatenate([pooled, np.ones((len(pooled), 1))], axis=1)
    fit = np.linalg.solve(rows.T @ rows + 1e-3 * np.eye(17), rows.T @ levels)
    net.nodes[-1].output[0] = "flat"
    weight = net.constant("head.weight", np.outer(TINY.code, fit[:-1]))
    net.add("Gemm", ["flat", weight, net.constant("head.bias", TINY.code * fit[-1])], "tokens", transB=1)
    made: onnx.ModelProto = net.model({"face": shape}, {"tokens": (TensorProto.FLOAT, ["N", TINY.width])})
    return made


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory, new_net: type[Any]) -> Path:
    folder = write_bundle(tmp_path_factory.mktemp("made") / "bundle", TINY)
    onnx.save_model(face_graph(new_net), folder / "face.fp32.onnx")
    random = np.random.default_rng(2)
    feeds = [{"face": np.stack([picture(label, random) for label in LABELS])[..., None]} for _ in range(8)]
    table = measure(folder / "face.fp32.onnx", feeds, method="min-max")
    write_encodings(folder / "face.fp32.onnx", table, folder, "face")
    table.write(folder.parent / "face.json")
    describe(folder, calibration=table.digest)
    return folder


def describe(folder: Path, calibration: str | None = None) -> None:
    """Bring the manifest up to date with the files."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = describe_files(folder, manifest["files"])
    if calibration is not None:
        manifest["graphs"]["face"]["calibration"] = calibration
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def bundle(_made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(_made, tmp_path / "bundle"))


@pytest.fixture
def table(_made: Path) -> Path:
    return _made.parent / "face.json"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of face crops of four speakers."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(7)
    with (folder / "crops.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("label", "speaker", "face"))
        for number in range(12 * len(LABELS)):
            label = LABELS[number % len(LABELS)]
            cv2.imwrite(str(folder / f"secret{number}.png"), picture(label, random))
            writer.writerow((label, f"person {number % 4}", f"secret{number}.png"))
    return folder / "crops.csv"


@pytest.fixture(autouse=True)
def int8_runs() -> None:
    if saturates():
        pytest.skip("INT8 products saturate on this processor")


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets INT8 take a share of the time of FP32, whatever this machine does meanwhile."""

    def take(share: float) -> None:
        timing = latency.Timing("update", ("fp32", "int8"), 2.0, 2 * share, Interval(share, share, share))
        found = latency.Latency(200, timing, ())
        monkeypatch.setattr(latency, "measure", lambda *given, **settings: found)

    take(0.5)
    return take


def proven(bundle: Path, pictures: Path, **settings: Any) -> Proof:
    return prove.prove(bundle, [Dataset(pictures, cropped=True)], draws=100, **settings)


def scaled(bundle: Path, factor: float, encoding: str = "int8-cpu") -> None:
    """Make the steps of all activations larger or smaller."""
    path = bundle / f"face.{encoding}.onnx"
    model = onnx.load(path)
    names = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for tensor in model.graph.initializer:
        if tensor.name in names:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * factor, tensor.name))
    onnx.save_model(model, path)
    describe(bundle)


def test_a_sound_encoding_is_proven(
    bundle: Path, pictures: Path, table: Path, clocked: Callable[[float], None]
) -> None:
    proof = proven(bundle, pictures, tables=[Table.read(table)])
    assert proof.passed, proof.failures
    proof.check()
    (found,) = proof.sets
    assert found.figures.n == 84 and found.figures.wa.fp32.value > 0.95
    assert (found.figures.unit, found.figures.units, found.given) == ("speakers", 4, ("face",))
    assert [rule.name for rule in proof.rules] == ["covered", "set", *["class"] * len(LABELS), "faster"]
    (agreement,) = proof.encodings
    assert (agreement.graph, agreement.windows) == ("face", 84) and agreement.labels > 0.95
    assert agreement.clear_worst is None or agreement.clear_worst <= 3
    (noise,) = proof.noise
    ratios = [layer.sqnr_db for layer in noise.layers]
    assert len(ratios) == 3 and ratios == sorted(ratios) and ratios[0] > 20
    totals = proof.totals()
    sizes = {path.name: path.stat().st_size for path in bundle.glob("*.onnx")}
    assert totals["bytes"]["int8-cpu"] == sizes["face.int8-cpu.onnx"] + sizes["fusion.fp32.onnx"]
    trunk = SIDE * SIDE * 16 * 9 * (1 + 16 + 16)
    assert totals["multiply_adds"] == pytest.approx(trunk, rel=0.01)


@pytest.mark.parametrize("factor", [40.0, 0.03])
def test_a_broken_encoding_is_not(
    bundle: Path, pictures: Path, factor: float, clocked: Callable[[float], None]
) -> None:
    scaled(bundle, factor)
    proof = proven(bundle, pictures)
    broken = {rule.name for rule in proof.rules if not rule.passed}
    assert "set" in broken and "class" in broken and "faster" not in broken
    assert proof.sets[0].figures.changes.lost > 10
    assert proof.encodings[0].labels < 0.9
    with pytest.raises(CheckFailed, match="INT8 is not proven: crops: of 84 items"):
        proof.check()
    entry = proof.entry()
    assert entry["passed"] is False and "crops: of 84 items" in entry["unproven"]


def test_int8_that_is_not_faster_fails(
    bundle: Path, pictures: Path, clocked: Callable[[float], None]
) -> None:
    clocked(1.1)
    proof = proven(bundle, pictures)
    assert proof.failures == [
        "one update with one face: INT8 takes 1.100 (1.100 to 1.100) of the time of FP32"
    ]


def test_a_machine_that_runs_fp32_instead_fails(
    bundle: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_files, "saturates", lambda: True)
    proof = proven(bundle, pictures)
    (failure,) = proof.failures
    assert "INT8 products saturate on this processor" in failure and "runs in FP32" in failure
    page.write(proof, tmp_path / "proof.html", tmp_path / "proof.json")
    assert failure.split(": ", 1)[1] in (tmp_path / "proof.html").read_text()


def test_a_proof_is_repeatable(bundle: Path, pictures: Path, clocked: Callable[[float], None]) -> None:
    first, again, other = (proven(bundle, pictures, seed=seed).text() for seed in (0, 0, 1))
    assert first == again != other


def test_the_digest_of_data_is_that_of_its_contents(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    def digest(path: Path) -> str:
        return prove.digest(prove.read_manifest(path, ("face",), LABELS, reader="a test"))

    moved = shutil.copytree(pictures.parent, tmp_path / "moved") / "crops.csv"
    assert digest(moved) == digest(pictures)
    (moved.parent / "secret3.png").write_bytes((moved.parent / "secret4.png").read_bytes())
    assert digest(moved) != digest(pictures)


def test_the_page_says_what_the_json_says(
    bundle: Path, pictures: Path, table: Path, tmp_path: Path, clocked: Callable[[float], None]
) -> None:
    proof = proven(bundle, pictures, tables=[Table.read(table)])
    html = page.write(proof, tmp_path / "proof.html", tmp_path / "proof.json")
    text, figures = html.read_text(), json.loads((tmp_path / "proof.json").read_text())
    assert figures["passed"] is True and figures["schema"] == prove.SCHEMA
    assert hashlib.sha256((tmp_path / "proof.json").read_bytes()).hexdigest() in text
    root = ElementTree.fromstring(text)
    words = " ".join(root.itertext())
    assert "INT8 is proven." in words
    for entry in figures["sets"][0]["figures"]["classes"]:
        assert entry["label"] in words and f"{entry['recall']['int8']['value']:.4f}" in words
    for name in ("wa", "ua", "ece"):
        assert f"{figures['sets'][0]['figures'][name]['fp32']['value']:.4f}" in words
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert {"svg", "table", "caption", "th"} <= tags and tags.isdisjoint({"script", "img", "link", "image"})
    attributes = [value for element in root.iter() for value in element.attrib.values()]
    assert not any("//" in value for value in attributes) and "url(" not in text
    for secret in ("secret", "person", str(pictures.parent)):
        assert secret not in text and secret not in (tmp_path / "proof.json").read_text()


def command(*words: Any) -> int:
    return main(["prove", *map(str, words)])


def test_the_command(
    bundle: Path, pictures: Path, tmp_path: Path, clocked: Callable[[float], None], capsys: Any
) -> None:
    words = ("--bundle", bundle, "--cropped", pictures, "--out", tmp_path / "out")
    assert command(*words, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    written = (tmp_path / "out" / "proof.json").read_text()
    assert printed == json.loads(written)
    assert Bundle.read(bundle).proof is None
    scaled(bundle, 40.0)
    assert command(*words) == 1
    assert "INT8 is not proven" in capsys.readouterr().out


def test_a_bundle_carries_its_proof(
    bundle: Path, pictures: Path, tmp_path: Path, clocked: Callable[[float], None]
) -> None:
    words = ("--bundle", bundle, "--cropped", pictures, "--out", tmp_path / "out", "--write")
    before = json.loads((bundle / "manifest.json").read_text())
    assert command(*words) == 0
    read = Bundle.read(bundle)
    assert read.proof is not None and read.proof["passed"] is True
    assert read.proof["sha256"] == hashlib.sha256((tmp_path / "out" / "proof.json").read_bytes()).hexdigest()
    assert read.proof["files"] == files_digest(read.files)
    assert "int8: proven on crops (n 84)" in repr(read)
    assert {**dict(read.manifest), "proof": None} == {**before, "proof": None}
    scaled(bundle, 40.0)  # other files: the proof is not theirs
    with pytest.raises(BundleError, match=r"'proof\.files' is .*proven anew"):
        Bundle.read(bundle)
    (bundle / "manifest.json").write_text(json.dumps(before))
    describe(bundle)
    assert command(*words) == 1
    entry = Bundle.read(bundle).proof
    assert entry is not None and entry["passed"] is False and "lost" in str(entry["unproven"])
    assert "int8: not proven: crops" in repr(Bundle.read(bundle))


def test_a_proof_is_not_entered_into_another_bundle(
    bundle: Path, pictures: Path, clocked: Callable[[float], None]
) -> None:
    proof = proven(bundle, pictures)
    scaled(bundle, 2.0)
    with pytest.raises(InputError, match="its files are not those that were proven"):
        prove.enter(bundle, proof)


def test_a_manifest_that_cannot_be_written_stays(
    bundle: Path, pictures: Path, clocked: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = proven(bundle, pictures)
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}

    def fails(self: Path, text: str, **rest: Any) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", fails)
        with pytest.raises(OSError, match="No space left on device"):
            prove.enter(bundle, proof)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no set to prove on"),
        (["--cropped", "{pictures}", "{pictures}"], "the sets are crops, crops; give at least one, each"),
        (["--data", "absent.csv"], "absent.csv: it cannot be read"),
        (["--cropped", "{pictures}", "--seed", "-1"], "--seed is -1"),
        (["--cropped", "{pictures}", "--ranges", "absent.json"], "absent.json: cannot be read"),
    ],
)
def test_wrong_usage_is_named(
    bundle: Path, pictures: Path, tmp_path: Path, words: list[str], message: str, capsys: Any
) -> None:
    given = [word.format(pictures=pictures) for word in words]
    assert command("--bundle", bundle, "--out", tmp_path / "out", *given) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_bundle_without_int8_has_nothing_to_prove(pictures: Path, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "plain", TINY, encodings=("fp32",))
    with pytest.raises(InputError, match="it has no int8-cpu graphs to prove"):
        proven(folder, pictures)


def test_a_table_of_other_files_is_refused(bundle: Path, pictures: Path, table: Path) -> None:
    describe(bundle, calibration="0" * 64)
    with pytest.raises(InputError, match="no graph of it comes from the table"):
        proven(bundle, pictures, tables=[Table.read(table)])


def test_encodings_of_other_steps_are_told_apart(
    bundle: Path, pictures: Path, clocked: Callable[[float], None]
) -> None:
    before = proven(bundle, pictures).encodings[0]
    scaled(bundle, 1.5, "int8")
    after = proven(bundle, pictures).encodings[0]
    assert after.within < before.within and after.worst > before.worst


@pytest.mark.parametrize(
    ("steps", "zero", "saturates"),
    [
        ([0, 127], 0, False),
        ([0, 128], 0, True),  # U8 holds it, S8 does not
        ([-127, 126], 128, False),
        ([-128, 0], 128, True),  # the ends may have been clipped
        ([0, 127], 128, True),
    ],
)
def test_a_window_saturates_where_an_encoding_clips(steps: list[int], zero: int, saturates: bool) -> None:
    assert encodings.saturated(np.array(steps, np.int32), zero) is saturates


def test_windows_are_a_uniform_sample() -> None:
    from edgeemo_calibration.windows import Recorder

    class Echo:
        spec, encoding, engine = None, "fp32", "made"

        def run(self, feeds: Any) -> Any:
            return feeds

    recorder = Recorder(Echo(), most=50)  # type: ignore[arg-type]
    for number in range(1000):
        recorder.run({"x": np.full(1, number)})
    kept = [int(feeds["x"][0]) for feeds in recorder.kept]
    assert len(kept) == len(set(kept)) == 50 and recorder.seen == 1000
    assert 400 < np.mean(kept) < 600 and min(kept) < 100 and max(kept) > 900


@pytest.mark.slow
def test_the_default_bundle_on_real_faces(default_bundle: Path, data: Path, tmp_path: Path) -> None:
    """Proven as it is; broken by steps sixteen times too large."""
    votes_of = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear")
    with np.load(data / "ferplus" / "valid.npz", allow_pickle=False) as file:
        images, votes = file["images"][:600], file["votes"][:600]
    with (tmp_path / "faces.csv").open("w", newline="") as listed:
        writer = csv.writer(listed)
        writer.writerow(("label", "face"))
        for place, (image, row) in enumerate(zip(images, votes, strict=True)):
            if row[:7].max() > row.sum() / 2:
                cv2.imwrite(str(tmp_path / f"{place}.png"), image)
                writer.writerow((votes_of[row[:7].argmax()], f"{place}.png"))
    sets = [Dataset(tmp_path / "faces.csv", cropped=True)]
    sound = prove.prove(default_bundle, sets, draws=200, limit=5.0)
    missing = {rule.subject for rule in sound.rules if not rule.passed and rule.name != "faster"}
    assert missing == {"graph voice"}, sound.failures  # which pictures say nothing of
    broken = Path(shutil.copytree(default_bundle, tmp_path / "bundle"))
    manifest = json.loads((broken / "manifest.json").read_text())
    (broken / "manifest.json").write_text(json.dumps({**manifest, "proof": None}))
    scaled(broken, 16.0)
    failed = prove.prove(broken, sets, draws=200, limit=5.0)
    assert {"set", "class"} <= {rule.name for rule in failed.rules if not rule.passed}, failed
