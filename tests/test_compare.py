"""Runners of one bundle side by side: what is compared, what disagrees, and what is said of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeemo import cli
from edgeemo import compare as comparing
from edgeemo.agreement import TOLERANCES, Answers, Comparison, Difference, EndDifference
from edgeemo.compare import compare
from edgeemo.errors import BackendError, BundleError, CheckFailed, EdgeEmoError, InputError, SourceError
from edgeemo.inference.bundle import Bundle, describe_files
from edgeemo.inference.ort import OrtGraph
from edgeemo.inference.trt_library import TensorRt
from tests.capture.media import cut, write_clip
from tests.recognition.fakes import GEOMETRY, FakeFinder
from tests.support import cuda_double, tensorrt_double
from tests.support.tiny import Tiny, write_bundle

ENCODINGS = ("fp32", "fp16", "int8", "int8-cpu")
BOX = (20.0, 10.0, 30.0, 30.0)


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "saturates", lambda: False)  # whatever processor runs the tests


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a picture that grows lighter and of a sound that grows fainter."""
    images = [np.full((64, 128, 3), 40 + 4 * number, np.uint8) for number in range(50)]
    sound = Tiny(sample_rate=48000).voice("happiness", 2.0) * np.linspace(1.0, 0.3, 96000, dtype=np.float32)
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mkv", images=images, sound=sound)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "tiny", encodings=ENCODINGS, geometry=GEOMETRY)


def run(folder: Path, source: Path, **options: Any) -> Comparison:
    return compare(Bundle.read(folder), source, finder=FakeFinder(BOX), **options)


def alter(folder: Path, file: str, constant: str, change: Callable[[NDArray[Any]], Any]) -> None:
    """Change one constant of one graph, and the manifest with it."""
    model = onnx.load(str(folder / file))
    (tensor,) = [one for one in model.graph.initializer if one.name == constant]
    value = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(value), value.dtype), constant))
    (folder / file).write_bytes(model.SerializeToString())
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["files"] |= describe_files(folder, [file])
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")


class Engine:
    """ONNX Runtime in the place of another engine: it reuses its outputs, as that one may."""

    def __init__(self, graph: OrtGraph) -> None:
        self._graph = graph
        self.spec, self.encoding = graph.spec, graph.encoding
        self.engine = "another engine 1.0"
        self.outputs: dict[str, NDArray[Any]] = {}
        self.closed = False

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        for values in self.outputs.values():
            values.fill(np.nan)
        self.outputs = self._graph.run(feeds)
        return self.outputs

    def close(self) -> None:
        self.closed = True


class Engines:
    """Opens `Engine` where TensorRT would be; `opened` holds all of them."""

    def __init__(self) -> None:
        self.opened: list[Engine] = []

    def __call__(self, bundle: Bundle, backend: str, precision: str) -> dict[str, Engine]:
        assert backend == "tensorrt"
        graphs = {}
        for name, spec in bundle.graphs.items():
            encoding = precision if precision in spec.files else "fp32"
            model = bundle.read_file(spec.files[encoding])
            graphs[name] = Engine(OrtGraph(model, spec, encoding=encoding))
        self.opened += graphs.values()
        return graphs


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Engines:
    engines = Engines()
    monkeypatch.setattr(comparing, "_absence", lambda *, insists: "")
    monkeypatch.setattr(comparing, "open_graphs", engines)
    return engines


# --- what is compared


def test_every_encoding_is_held_to_fp32(folder: Path, clip: Path) -> None:
    found = run(folder, clip, backend="onnx")
    assert found.failures == [] and not found.skipped
    found.check()
    assert set(found.windows) == {"face", "voice", "fusion"}
    assert all(19 <= count <= 22 for count in found.windows.values())
    runners = ("onnx fp16", "onnx int8-cpu", "onnx int8")
    rows = [(part.graph, part.output, part.runner, part.against) for part in found.graphs]
    assert rows == [
        (graph, "tokens", runner, "onnx fp32") for graph in ("face", "voice") for runner in runners
    ]
    assert [(part.runner, part.against) for part in found.answers] == [
        (runner, "onnx fp32") for runner in runners
    ]
    assert {part.kind for part in found.graphs} == {"fp16", "int8"}
    for part in found.graphs:  # the four files of a tiny graph hold the same one
        assert part.rows >= found.windows[part.graph]
        assert (part.maximum, part.cosine) == (0.0, pytest.approx(1.0))
    for end in found.answers:
        assert end.answers >= 20
        assert (end.maximum, end.labels, end.states) == (0.0, 1.0, 1.0)


def test_an_engine_is_held_to_fp32_and_in_int8_to_the_same_file(
    folder: Path, clip: Path, engines: Engines
) -> None:
    found = run(folder, clip)
    assert found.failures == [] and not found.skipped
    assert found.engines["tensorrt int8"] == "another engine 1.0"
    kinds = {(part.graph, part.runner, part.against): part.kind for part in found.graphs}
    assert kinds["face", "tensorrt fp32", "onnx fp32"] == "fp32"
    assert kinds["face", "tensorrt fp16", "onnx fp32"] == "fp16"
    assert kinds["face", "tensorrt int8", "onnx fp32"] == "int8"
    assert kinds["voice", "tensorrt int8", "onnx int8"] == "int8 engines"
    # Fusion has FP32 alone: it is compared as that, once.
    assert [key for key in kinds if key[0] == "fusion"] == [("fusion", "tensorrt fp32", "onnx fp32")]
    assert kinds["fusion", "tensorrt fp32", "onnx fp32"] == "fp32"
    labels = {part.output: part.agreement for part in found.graphs if part.graph == "fusion"}
    assert labels == {"logits": 1.0, "valence_arousal": None, "face_logits": 1.0, "voice_logits": 1.0}
    assert [end.kind for end in found.answers if end.runner == "tensorrt int8"] == ["int8", "int8 engines"]
    assert len(engines.opened) == 9 and all(engine.closed for engine in engines.opened)


@pytest.mark.parametrize(("version", "backend"), [("10.3.0", "auto"), ("11.4.0.106", "tensorrt")])
def test_tensorrt_agrees_or_fails_or_is_absent(
    folder: Path, clip: Path, version: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEEMO_CACHE", str(tmp_path / "cache"))
    with (
        cuda_double.installed("cuda-python") as device,
        tensorrt_double.installed(version, device) as tensorrt,
    ):
        found = run(folder, clip, backend="tensorrt")
        assert found.failures == [] and found.skipped == {}
        assert found.engines["tensorrt int8"].startswith(f"tensorrt {version} on ")
        parts = {(part.graph, part.runner, part.against): part.cosine for part in found.graphs}
        assert parts["voice", "tensorrt int8", "onnx int8"] == pytest.approx(1.0)
        assert len([end for end in found.answers if end.runner.startswith("tensorrt ")]) == 4
        monkeypatch.setenv("EDGEEMO_CACHE", str(tmp_path / "empty"))
        for knob, value, why in (
            ("refuse_build", "Could not find any implementation for node", "any implementation for node"),
            ("out_of_memory", "context", "memory"),
        ):
            before = getattr(tensorrt._double, knob)
            setattr(tensorrt._double, knob, value)
            found = run(folder, clip, backend=backend)
            setattr(tensorrt._double, knob, before)
            assert found.skipped == {}
            named = [failure.partition(": graph 'face'")[0] for failure in found.failures]
            assert named == ["tensorrt fp32", "tensorrt fp16", "tensorrt int8"]
            assert all(why in failure.lower() for failure in found.failures)
            with pytest.raises(CheckFailed, match="tensorrt fp32: graph 'face'"):
                found.check()
    with cuda_double.installed("cuda-python", driver=False), tensorrt_double.installed(version, device):
        skipped = run(folder, clip).skipped
    assert set(skipped) == {"tensorrt fp32", "tensorrt fp16", "tensorrt int8"}
    assert all("libcuda" in why and "\n" not in why for why in skipped.values())


def test_one_window_has_as_many_faces_as_a_call_may_hold(folder: Path, clip: Path) -> None:
    found = run(folder, clip, backend="onnx")
    rows = {part.graph: part.rows for part in found.graphs}
    assert rows["face"] == found.windows["face"] - 1 + 16 and rows["voice"] == found.windows["voice"]


def test_windows_are_few_evenly_spread_copies() -> None:
    windows = comparing._Windows()
    value = np.zeros((1, 4), np.float32)
    for number in range(1000):
        value[:] = number
        windows.add({"x": value})
    numbers = [int(feeds["x"][0, 0]) for feeds in windows.kept]
    assert numbers == list(range(0, 1000, 8))
    assert comparing._WINDOWS / 2 < len(numbers) <= comparing._WINDOWS


def test_windows_take_little_memory_however_large_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "_WINDOW_BYTES", 4000)
    windows = comparing._Windows()
    for _ in range(100):
        windows.add({"x": np.zeros(250, np.float32), "y": np.zeros(250, np.float32)})
        assert 1 <= len(windows.kept) <= 2
    monkeypatch.setattr(comparing, "_WINDOW_BYTES", 10)
    windows.add({"x": np.zeros(250, np.float32)})
    assert len(windows.kept) >= 1


# --- what disagrees


@pytest.mark.parametrize(
    ("file", "constant", "change", "message"),
    [
        (
            "face.int8.onnx",
            "code",
            lambda code: code[:, ::-1],
            "graph 'face', output 'tokens': onnx int8 against onnx fp32: the mean cosine is 0.66",
        ),
        (
            "voice.int8-cpu.onnx",
            "code",
            lambda code: code * 2,  # the direction is right
            "graph 'voice', output 'tokens': onnx int8-cpu against onnx fp32: the relative difference is 1, "
            "more than 0.3",
        ),
        (
            "face.fp16.onnx",
            "white",
            lambda white: white * 1.06,  # within what INT8 may
            "graph 'face', output 'tokens': onnx fp16 against onnx fp32: the relative difference is 0.05",
        ),
        (
            "voice.int8.onnx",
            "code",
            lambda code: code * np.nan,
            "graph 'voice', output 'tokens': onnx int8 is not finite in 2",
        ),
    ],
)
def test_a_file_that_disagrees_is_named(
    folder: Path, clip: Path, file: str, constant: str, change: Callable[[Any], Any], message: str
) -> None:
    alter(folder, file, constant, change)
    found = run(folder, clip, backend="onnx")
    with pytest.raises(CheckFailed) as caught:
        found.check()
    assert message in str(caught.value)
    graph, encoding, _ = file.split(".")
    for failure in found.failures:
        assert failure.startswith((f"graph {graph!r}", "answers")) and f"onnx {encoding} " in failure
    assert "<- beyond" in str(found)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["agrees"] is False


def test_a_presence_of_speech_is_compared_too(tmp_path: Path, clip: Path) -> None:
    folder = write_bundle(tmp_path / "speech", Tiny(speech=True), encodings=ENCODINGS, geometry=GEOMETRY)
    found = run(folder, clip)
    assert {(part.graph, part.output) for part in found.graphs} >= {("voice", "tokens"), ("voice", "speech")}
    assert found.failures == []
    alter(folder, "voice.int8-cpu.onnx", "one", lambda one: one * 0.3)
    assert any("output 'speech'" in failure for failure in run(folder, clip).failures)


def test_a_presence_of_nothing_has_a_direction() -> None:
    rows = [comparing._rows("speech", np.array([value], np.float32)) for value in (0.0, 1e-30, 0.25)]
    assert [row.tolist() for row in rows] == [[[0.0, 1.0]], [[pytest.approx(1e-30), 1.0]], [[0.25, 0.75]]]
    # Both are as good as zero, and a single number has no cosine with zero.
    assert not Difference.of("voice", "speech", "a", "b", "fp32", rows[0], rows[1]).failures()


def test_answers_are_held_too(folder: Path, clip: Path) -> None:
    # A quarter is within what a graph may be off, but the labels of the tiny bundle lie a seventh apart.
    alter(folder, "face.int8.onnx", "code", lambda code: code * 1.25)
    alter(folder, "voice.int8.onnx", "code", lambda code: code * 1.25)
    failures = run(folder, clip, backend="onnx").failures
    assert failures and all(one.startswith("answers: onnx int8 against onnx fp32: ") for one in failures)
    assert any("the share of equal labels" in one for one in failures)


def test_an_engine_that_is_not_what_its_file_says(folder: Path, clip: Path, engines: Engines) -> None:
    def wrong(self: Engine, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        scale = np.float32(1.2 if self.encoding == "int8" else 1.0)
        return {name: values * scale for name, values in self._graph.run(feeds).items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "run", wrong)
        failures = [one for one in run(folder, clip).failures if not one.startswith("answers")]
    assert len(failures) == 2  # 20 % is within what INT8 may be off from FP32, and not what engines may be
    assert all("tensorrt int8 against onnx int8: the relative difference is 0.2" in one for one in failures)


def test_a_reference_that_is_not_finite(folder: Path, clip: Path) -> None:
    alter(folder, "voice.fp32.onnx", "code", lambda code: code * np.inf)
    with pytest.raises(CheckFailed, match="graph 'voice', output 'tokens': onnx fp32 is not finite"):
        run(folder, clip)


def test_a_runner_that_fails_is_told_beside_the_others(
    folder: Path, clip: Path, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Engine, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if self.encoding == "fp16" and self.spec.name == "voice":
            raise BackendError("graph 'voice': the device was lost")
        return self._graph.run(feeds)

    monkeypatch.setattr(Engine, "run", failing)
    found = run(folder, clip)
    assert found.failures == ["tensorrt fp16: graph 'voice': the device was lost"]
    assert "tensorrt int8" in [end.runner for end in found.answers]
    assert "tensorrt fp16" not in [end.runner for end in found.answers]
    assert all(engine.closed for engine in engines.opened)


# --- what cannot be compared


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT cannot be opened."""

    def refuse() -> Any:
        raise BackendError("TensorRT cannot be imported; it comes with JetPack")

    monkeypatch.setattr(TensorRt, "open", refuse)


def test_an_engine_that_is_not_there(folder: Path, clip: Path, absent: None) -> None:
    found = run(folder, clip)
    why = "TensorRT cannot be imported; it comes with JetPack"
    assert found.skipped == {f"tensorrt {name}": why for name in ("fp32", "fp16", "int8")}
    assert f"tensorrt fp32, tensorrt fp16, tensorrt int8: not compared, {why}" in str(found).splitlines()
    found.check()
    assert run(folder, clip, backend="onnx").skipped == {}
    told: list[str] = []
    with pytest.raises(BackendError, match="it comes with JetPack"):
        run(folder, clip, backend="tensorrt", progress=told.append)
    assert told == []  # before anything else is run


def test_a_precision_that_the_bundle_has_not(tmp_path: Path, clip: Path, engines: Engines) -> None:
    folder = write_bundle(tmp_path / "tiny", encodings=("fp32", "int8"), geometry=GEOMETRY)
    found = run(folder, clip, backend="tensorrt")
    assert found.skipped == {
        "onnx fp16": "the bundle tiny has no fp16 graphs",
        "onnx int8-cpu": "the bundle tiny has no int8-cpu graphs",
        "tensorrt fp16": "the bundle tiny has no fp16 graphs",
    }
    assert found.failures == []


def test_a_processor_that_saturates(folder: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "saturates", lambda: True)
    found = run(folder, clip, backend="onnx")
    assert list(found.skipped) == ["onnx int8-cpu"] and "saturate" in found.skipped["onnx int8-cpu"]


def test_a_source_without_a_face(folder: Path, clip: Path, tmp_path: Path) -> None:
    sound = write_clip(tmp_path / "sound.wav", sound=Tiny(sample_rate=48000).voice("fear", 1.0))
    found = run(folder, sound, backend="onnx")
    assert found.windows["face"] == 0 and found.windows["voice"] >= 9
    assert {part.graph for part in found.graphs} == {"voice"}
    assert f"face: not compared, {sound} has nothing for it" in str(found).splitlines()
    found.check()


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("silence.wav", InputError, "silence.wav: it has neither a face nor a voice"),
        ("missing.mp4", SourceError, "missing.mp4: no such file"),
        (".", SourceError, "a folder"),
    ],
)
def test_a_source_that_cannot_be_used(
    folder: Path, tmp_path: Path, source: str, error: type[EdgeEmoError], message: str
) -> None:
    write_clip(tmp_path / "silence.wav", sound=np.zeros(48000, np.float32))
    with pytest.raises(error, match=message):
        run(folder, tmp_path / source)


def test_a_bundle_that_is_damaged(folder: Path, clip: Path) -> None:
    content = bytearray((folder / "voice.int8.onnx").read_bytes())
    content[-1] ^= 1
    (folder / "voice.int8.onnx").write_bytes(content)
    told: list[str] = []
    with pytest.raises(BundleError, match=r"voice\.int8\.onnx has the sha256"):
        run(folder, clip, progress=told.append)
    assert told == []


def test_a_source_that_changes_meanwhile(
    folder: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clip.mkv"
    path.write_bytes(clip.read_bytes())
    shorter = write_clip(tmp_path / "short.wav", sound=Tiny(sample_rate=48000).voice("fear", 0.5))

    def told(what: str) -> None:
        if what == "onnx int8":
            path.write_bytes(shorter.read_bytes())

    with pytest.raises(SourceError, match=r"clip\.mkv: it gave \d+ answers, and then \d+"):
        run(folder, path, progress=told)


def test_what_is_wrong_with_a_source_is_said_once(
    folder: Path, clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = cut(clip, tmp_path / "cut.mkv")
    with caplog.at_level(logging.WARNING, "edgeemo"):
        run(folder, short, backend="onnx")
        once = [record.getMessage() for record in caplog.records]
        run(folder, short, backend="onnx")  # of another run it is said again
    assert once and len(once) == len(set(once))
    assert len(caplog.records) == 2 * len(once)


# --- figures by hand


def difference(given: Any, right: Any, kind: str = "int8", output: str = "logits") -> Difference:
    rows = [np.array(values, np.float32) for values in (given, right)]
    return Difference.of("g", output, "a", "b", kind, *rows)


def test_a_difference_by_hand() -> None:
    part = difference([[3, 4], [0, 2], [0, 0]], [[4, 3], [0, 1], [0, 0]])
    assert (part.rows, part.bad_rows) == (3, 0)
    assert (part.maximum, part.mean, part.relative) == (1.0, 0.5, 0.25)
    assert part.worst == pytest.approx(0.96) and part.cosine == pytest.approx((0.96 + 1 + 1) / 3)
    assert part.agreement == pytest.approx(2 / 3)
    assert difference([[1.0]], [[1.0]], output="tokens").agreement is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_has_no_figures(bad: float) -> None:
    part = difference([[1.0, 2.0], [bad, 1.0]], [[1.0, 2.0], [1.0, 1.0]])
    assert part.failures() == ["graph 'g', output 'logits': a is not finite in 1 of 2 rows"]
    assert part.agreement is None and np.isnan(part.maximum)


@pytest.mark.parametrize(
    ("given", "right", "figures"),
    [
        # 100 rows of which one is off: the mean and the labels bear it, the row does not.
        ([[1, 0]] * 99 + [[0, 1]], [[1, 0]] * 100, ["the cosine of a row", "the relative difference"]),
        ([[1, 0.1]] * 10, [[0.1, 1]] * 10, ["the mean cosine", "a row", "relative", "equal labels"]),
        ([[1.0, 0.0]], [[1.0, 0.0]], []),
    ],
)
def test_each_figure_has_its_limit(given: Any, right: Any, figures: list[str]) -> None:
    failures = difference(given, right).failures()
    assert len(failures) == len(figures)
    for failure, figure in zip(failures, figures, strict=True):
        assert figure in failure


def answers(*rows: list[float] | None) -> Answers:
    table = np.array([[np.nan, np.nan] if row is None else row for row in rows], np.float32)
    states = ["absent" if row is None else "ok" if max(row) > 0.55 else "uncertain" for row in rows]
    return Answers(table, tuple(states))


@pytest.mark.parametrize(
    ("given", "right", "figures", "failures"),
    [
        (answers([0.8, 0.2], None), answers([0.75, 0.25], None), (0.05, 0.05, 1.0, 1.0), []),
        (
            answers([0.8, 0.2], [0.5, 0.5], None),
            answers([0.3, 0.7], [0.4, 0.6], [1, 0]),
            (0.5, 0.3, 0.0, 1 / 3),
            ["of a probability is 0.5", "equal labels is 0", "equal states is 0.333"],
        ),
        (answers(None), answers(None), (0.0, 0.0, 1.0, 1.0), []),
    ],
)
def test_answers_by_hand(
    given: Answers, right: Answers, figures: tuple[float, ...], failures: list[str]
) -> None:
    end = EndDifference.of("a", "b", "int8", given, right)
    assert (end.maximum, end.mean, end.labels, end.states) == pytest.approx(figures, abs=1e-6)
    assert len(end.failures()) == len(failures)
    for failure, part in zip(end.failures(), failures, strict=True):
        assert part in failure


# --- the default bundle, and the limits


def tf32(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounded to the ten bits after the point that TF32 has."""
    bits = values.view(np.uint32).astype(np.uint64) + 0x1000
    return (bits & 0xFFFFE000).astype(np.uint32).view(np.float32)


def test_tf32_in_place_of_fp32_is_found(default_bundle: Path) -> None:
    """Weights alone are rounded here; an engine rounds the other factor too."""
    bundle = Bundle.read(default_bundle)
    spec = bundle.graphs["face"]
    model = onnx.load_from_string(bundle.read_file(spec.files["fp32"]))
    weights = {node.input[1] for node in model.graph.node if node.op_type in ("Conv", "MatMul", "Gemm")}
    changed = [tensor for tensor in model.graph.initializer if tensor.name in weights]
    assert changed
    for tensor in changed:
        tensor.CopyFrom(numpy_helper.from_array(tf32(numpy_helper.to_array(tensor).copy()), tensor.name))
    feeds = {"face": np.random.default_rng(0).integers(0, 256, (16, 48, 48, 1)).astype(np.uint8)}
    rows = [
        OrtGraph(content, spec).run(feeds)["tokens"]
        for content in (model.SerializeToString(), bundle.read_file(spec.files["fp32"]))
    ]
    part = Difference.of("face", "tokens", "tf32", "fp32", "fp32", *rows)
    assert [failure.partition(": the ")[2][:19] for failure in part.failures()] == ["relative difference"]


@pytest.mark.slow
def test_the_default_bundle_is_well_within_its_limits(default_bundle: Path) -> None:
    found = compare(Bundle.read(default_bundle), cli.DEMO, backend="onnx")
    assert found.failures == []
    assert "onnx int8" in {part.runner for part in found.graphs}
    for part in found.graphs:
        limit = TOLERANCES[part.kind]
        assert 1 - part.cosine < (1 - limit.cosine) / 4, part
        assert part.relative < limit.relative / 2, part


# --- the command


@pytest.fixture
def heard(tmp_path: Path) -> tuple[Path, Path]:
    """A bundle that reads voices alone, so that no face is looked for, and a voice."""
    tiny = Tiny(modalities=("voice",))
    sound = write_clip(tmp_path / "voice.wav", sound=Tiny(sample_rate=48000).voice("fear", 1.0))
    return write_bundle(tmp_path / "heard", tiny, encodings=ENCODINGS), sound


def test_the_command(heard: tuple[Path, Path], capsys: pytest.CaptureFixture[str], engines: Engines) -> None:
    folder, sound = heard
    words = ["compare", "--bundle", str(folder), "--source", str(sound)]
    assert cli.main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    written = json.loads(out)
    assert set(written) == {
        "bundle", "source", "agrees", "engines", "windows", "graphs", "answers", "skipped", "failures",
        "tolerances",
    }  # fmt: skip
    assert set(written["graphs"][0]) == {
        "graph", "output", "runner", "against", "kind", "rows", "bad_rows", "maximum", "mean", "relative",
        "cosine", "worst", "agreement",
    }  # fmt: skip
    assert set(written["answers"][0]) == {
        "runner", "against", "kind", "answers", "maximum", "mean", "labels", "states",
    }  # fmt: skip
    assert (written["agrees"], written["source"], err) == (True, str(sound), "")
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "all within tolerance" and "voice: 10 windows" in lines


def test_the_command_fails_where_runners_disagree(
    heard: tuple[Path, Path], capsys: pytest.CaptureFixture[str], engines: Engines
) -> None:
    folder, sound = heard
    alter(folder, "voice.int8.onnx", "code", lambda code: code * np.nan)
    words = ["compare", "--bundle", str(folder), "--source", str(sound), "--backend", "onnx"]
    assert cli.main([*words, "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["failures"] == [
        "graph 'voice', output 'tokens': onnx int8 is not finite in 10 of 10 rows"
    ]
    assert err == f"edgeemo: {json.loads(out)['failures'][0]}\n"
    assert cli.main(words) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 beyond tolerance"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "missing.mp4"], "missing.mp4: no such file"),
        (["--bundle", "nowhere"], "bundle nowhere: does not exist"),
    ],
)
def test_the_command_with_wrong_input(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err


def test_the_command_insists_on_tensorrt(
    heard: tuple[Path, Path], capsys: pytest.CaptureFixture[str], absent: None
) -> None:
    folder, sound = heard
    words = ["compare", "--bundle", str(folder), "--source", str(sound), "--backend", "tensorrt"]
    assert cli.main(words) == 2
    assert capsys.readouterr().err == (
        "edgeemo: backend 'tensorrt' cannot be opened: TensorRT cannot be imported; it comes with JetPack; "
        "or use 'onnx' or 'auto'\n"
    )
