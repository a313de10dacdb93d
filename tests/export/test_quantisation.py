"""The study of quantisation: what calibrates, what is measured, and that the page says what was measured."""

from __future__ import annotations

import csv
import json
import math
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import edgeemo
from edgeemo.errors import CheckFailed, InputError
from edgeemo.evaluate import evaluate
from edgeemo.inference.bundle import Bundle
from edgeemo_calibration import Table, measure
from edgeemo_export import (
    manifests,
    quantisation,
    quantisation_encodings,
    quantisation_items,
    quantisation_page,
)
from edgeemo_export.cli import main
from edgeemo_export.data import sounds, voices
from edgeemo_export.quantisation import METHODS, TRAINED, Bench, Heard, Job, Listener, jobs, study
from edgeemo_export.quantisation_encodings import (
    ALL_ROUNDED,
    CLIPPED,
    PAIRS,
    Agreement,
    Variant,
    compare,
    leaving,
    saturates,
    stored,
)
from edgeemo_export.quantisation_items import NARROW, NOISE, TRAINING, contexts, crops, draw
from edgeemo_export.quantisation_trained import Finetuner
from tests.support import made_corpora

Array = NDArray[np.float32]
TESTS = {"face": ("ferplus",), "voice": ("ravdess",)}


@pytest.fixture
def corpora(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    return made_corpora.replace_readers(monkeypatch)


@pytest.fixture
def sets(tmp_path: Path, corpora: set[str]) -> dict[str, Path]:
    """Manifests of seven pictures, and of two voices of which one is longer than the window."""
    import cv2

    faces, folder = made_corpora.faces("test"), tmp_path / "sets"
    folder.mkdir()
    rows = []
    for place in range(7):
        cv2.imwrite(str(folder / f"{place}.png"), faces.images[place])
        rows.append({"label": made_corpora.LABELS[faces.majority[place]], "face": f"{place}.png"})
    heard = []
    random = np.random.default_rng(0)
    for place, seconds in enumerate((0.5, 4.4)):
        samples = random.normal(0.0, 0.1, round(16000 * seconds)) * np.sin(
            np.arange(round(16000 * seconds)) / 900
        )
        with wave.open(str(folder / f"{place}.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes((samples * 32767).astype("<i2").tobytes())
        heard.append({"label": ("anger", "sadness")[place], "voice": f"{place}.wav"})
    return {
        "ferplus": written(folder / "ferplus.csv", rows),
        "ravdess": written(folder / "ravdess.csv", heard),
    }


def written(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def bench(default_bundle: Path, sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(quantisation, "TESTS", TESTS)
    return Bench(Bundle.read(default_bundle), sets)


# --- what calibrates


def test_crops_are_of_each_label_in_turn_and_every_second_one_is_jittered() -> None:
    images = np.random.default_rng(1).integers(0, 256, (20, 48, 48), dtype=np.uint8)
    labels = np.array([4] * 8 + [0] * 2 + [-1] * 10)
    found = crops(images, labels, 12, seed=3)
    assert found.shape == (12, 48, 48, 1) and found.dtype == np.uint8
    known = {image.tobytes(): label for image, label in zip(images, labels.tolist(), strict=True)}
    plain = [known.get(crop.tobytes()) for crop in found]
    assert plain == [0, 4, None, None, 0, 4, None, None, 0, 4, None, None]
    assert np.array_equal(found[:5], crops(images, labels, 5, seed=3)[:2].tolist() + found[2:5].tolist())
    assert not np.array_equal(found, crops(images, labels, 12, seed=4))


def test_contexts_are_of_each_clip_in_turn_and_begin_alike(corpora: set[str]) -> None:
    clips = made_corpora.clips("train")[:3]
    found = contexts(clips, 5, seed=0)
    assert found.shape == (5, sounds.CONTEXT) and found.dtype == np.float32
    assert np.array_equal(found[:2], contexts(clips, 2, seed=0))
    own = {row.tobytes() for clip in clips for row in sounds.contexts(sounds.load(clip.path)).numpy()}
    # Of three clips the second is distorted; when they come again, it is the first.
    assert [row.tobytes() in own for row in found] == [True, False, True, False, True]


def test_sources_are_of_the_training_split_or_noise(corpora: set[str], tmp_path: Path) -> None:
    for name in ("face", "voice"):
        for source in (TRAINING, NARROW, NOISE):
            found = draw(tmp_path, name, source, 9, 1)
            assert len(found) == 9 and found.std() > 0
    assert corpora == {"faces train", "voices train"}


def test_a_narrow_draw_is_of_one_actor_or_one_dark_class(
    corpora: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[set[str]] = []

    def note(clips: Sequence[voices.Clip], count: int, seed: int) -> Array:
        heard.append({clip.speaker for clip in clips})
        return np.zeros((count, 1), np.float32)

    monkeypatch.setattr(quantisation_items, "contexts", note)
    for seed in (0, 1):
        draw(tmp_path, "voice", NARROW, 2, seed)
    assert heard == [{"ravdess-02"}, {"ravdess-03"}]
    faces = made_corpora.faces("train")
    of_first = faces.images[faces.majority == np.argmax(np.bincount(faces.majority, minlength=7))]
    darkest = min(of_first, key=lambda image: image.mean())
    assert np.array_equal(draw(tmp_path, "face", NARROW, 1, 0)[0, ..., 0], darkest)


def test_jobs_are_all_and_each_has_a_file_of_its_own() -> None:
    found = jobs((32, 64), 3, train=False)
    wrong = sum(method.wrong for method in METHODS)
    assert len(found) == len({job.file for job in found}) == 2 * 3 * (2 * len(METHODS) + 2 * wrong)
    more = [job for job in jobs((32, 64), 3, train=True) if job not in found]
    assert {job.method for job in more} == {TRAINED} and len(more) == 6
    draws = [job.draw for job in found]
    assert draws == [draw for draw in dict.fromkeys(draws) for _ in range(draws.count(draw))]


# --- what is measured


def test_figures_are_those_of_evaluate(bench: Bench, sets: dict[str, Path], default_bundle: Path) -> None:
    """The graph of the bundle's own file gets what the runtime gives, voices longer than the window too."""
    runtime = edgeemo.load(default_bundle, backend="onnx", precision="int8")
    for name, tests in TESTS.items():
        model = onnx.load(default_bundle / f"{name}.int8-cpu.onnx")
        for test, figures in zip(tests, bench.figures(name, model).values(), strict=True):
            expected = evaluate(sets[test], runtime, face_is_cropped=True)
            assert (figures.n, figures.wa, figures.ua) == (expected.n, expected.wa, expected.ua)
            assert 10 < figures.sqnr < 60
        same = bench.figures(name, onnx.load(default_bundle / f"{name}.fp32.onnx"))
        assert all(one.sqnr == math.inf and one.changed == 0.0 for one in same.values())


def test_tokens_are_all_that_the_runtime_encodes(bench: Bench) -> None:
    assert len(bench.reference("face")["ferplus"].tokens) == 7
    assert len(bench.reference("voice")["ravdess"].tokens) == 5 + 44


def test_noise_and_changed_labels_beside_the_reference(bench: Bench) -> None:
    reference = bench.reference("face")["ferplus"]
    found = quantisation.against(Heard(reference.report, 0.9 * reference.tokens), reference)
    assert found.sqnr == pytest.approx(20.0, abs=1e-3) and found.changed == 0.0
    black = bench._hear("face", Blind(bench), "ferplus")
    answers = reference.answers
    changed = quantisation.against(black, reference).changed
    assert changed == np.mean(black.answers != answers) > 0.0


class Blind(Listener):
    """Sees black pictures alone."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench._graphs["face"])

    def run(self, feeds: Mapping[str, NDArray[np.uint8]]) -> dict[str, Array]:
        return super().run({"face": np.zeros_like(feeds["face"])})


def test_a_study_goes_on_where_it_stopped_and_refuses_other_graphs(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    todo = [Job("face", TRAINING, 0, METHODS[place], 14) for place in (0, 1)]
    first = study(bench, tmp_path, tmp_path / "kept", todo[:1])
    assert first[todo[0]]["ferplus"].n == 7
    measured: list[Job] = []
    calibrated = quantisation.calibrated

    def note(path: Path, job: Job, given: NDArray[np.uint8]) -> Table:
        measured.append(job)
        return calibrated(path, job, given)

    monkeypatch.setattr(quantisation, "calibrated", note)
    both = study(bench, tmp_path, tmp_path / "kept", todo)
    assert measured == todo[1:] and both[todo[0]] == first[todo[0]]
    begun = tmp_path / "kept" / "config.json"
    begun.write_text(begun.read_text().replace('"face": "', '"face": "0'))
    with pytest.raises(InputError, match=r"graphs\.face was 0"):
        study(bench, tmp_path, tmp_path / "kept", todo)


def test_int8_is_not_measured_where_it_saturates(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantisation, "saturates", lambda: True)
    with pytest.raises(CheckFailed, match="without VNNI"):
        study(bench, tmp_path, tmp_path / "kept", [])
    assert not (tmp_path / "kept").exists()


# --- the two encodings


def test_where_the_trunk_ends(default_bundle: Path) -> None:
    for name in ("face", "voice"):
        model = onnx.load(default_bundle / f"{name}.int8-cpu.onnx")
        end = leaving(model)
        writer = next(node for node in model.graph.node if end.tensor in node.output)
        readers = [node.op_type for node in model.graph.node if end.tensor in node.input]
        assert writer.op_type == "Relu" and readers and "Conv" not in readers
        assert 1e-4 < end.step < 1.0
    with pytest.raises(InputError, match="no operator of it runs in INT8"):
        leaving(onnx.load(default_bundle / "face.fp32.onnx"))


@pytest.mark.parametrize("growth", [4.0, 0.25])
def test_with_one_place_of_rounding_the_encodings_are_equal_unless_steps_saturate(
    default_bundle: Path, monkeypatch: pytest.MonkeyPatch, growth: float
) -> None:
    """Steps four times as large hold every number, and a quarter of them saturates everywhere."""
    monkeypatch.setattr(quantisation_encodings, "CALLS", 3)

    def grown(bundle: Bundle, name: str, variant: Variant) -> onnx.ModelProto:
        model = stored(bundle, name, variant)
        scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
        for tensor in model.graph.initializer:
            if tensor.name in scales:
                value = growth * onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value, np.float32), tensor.name))
        return model

    monkeypatch.setattr(quantisation_encodings, "stored", grown)
    pictures = made_corpora.faces("train").images[:6, None, :, :, None]
    found = compare(Bundle.read(default_bundle), "face", [{"face": picture} for picture in pictures])
    everything, unsaturated = found.pairs[[pair[0::2] for pair in PAIRS].index((ALL_ROUNDED, False))]
    shipped, _ = found.pairs[0]
    assert shipped.windows == 6 and shipped.equal == 0.0 and shipped.largest > 0.0
    if growth > 1:
        assert found.saturated == 0.0
        assert everything == unsaturated == Agreement(6, 1.0, 1.0, 0.0, 1.0)
    else:
        assert found.saturated == 1.0 and unsaturated is None
        assert everything.equal < 1.0 and everything.largest > 1.0 and everything.within < 1.0


def test_a_graph_saturates_where_u8_goes_beyond_s8(default_bundle: Path) -> None:
    bundle = Bundle.read(default_bundle)
    feeds = [{"face": made_corpora.faces("test").images[:1, :, :, None]}]
    model = stored(bundle, "face", quantisation_encodings.CPU)
    for tensor in model.graph.initializer:
        if tensor.name == "relu.scale":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(1e-6, np.float32), tensor.name))
    assert saturates(model, feeds).tolist() == [True]
    assert saturates(stored(bundle, "face", CLIPPED), feeds).tolist() == [False]  # no step of it lies beyond


# --- the page


def test_a_spread_is_the_sample_standard_deviation_of_several_draws() -> None:
    assert quantisation_page._spread([0.1, 0.3], ".3f") == "0.200 ± 0.141"
    assert quantisation_page._spread([0.25], ".1f") == "0.2"


class Trainer:
    """Trains nothing: gives the bundle's own graph, and ranges of noise."""

    def __init__(self, run: Path, data: Path, bundle: Bundle) -> None:
        self.folder = bundle.path

    def finetune(self, name: str, seed: int, folder: Path) -> tuple[onnx.ModelProto, Table]:
        path = self.folder / f"{name}.fp32.onnx"
        noise = quantisation_items.feeds(name, quantisation_items.noise(name, 4, seed))
        return onnx.load(path), measure(path, noise, method="min-max")


def test_the_page_has_every_figure(
    bench: Bench, default_bundle: Path, sets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantisation_page, "TESTS", TESTS)
    monkeypatch.setattr(quantisation_page, "METHODS", METHODS[:2])
    monkeypatch.setattr(quantisation, "METHODS", METHODS[:2])
    for module in (quantisation, quantisation_page):
        monkeypatch.setattr(module, "WRONG_SIZE", 8)
    monkeypatch.setattr(quantisation, "CALIBRATION_ITEMS", 8)
    monkeypatch.setattr(quantisation_page, "Finetuner", Trainer)
    monkeypatch.setattr(manifests, "write_all", lambda data, folder: sets)
    monkeypatch.setattr(quantisation_encodings, "CALLS", 3)
    page, kept = tmp_path / "page.md", tmp_path / "kept"
    folders = ["--data", str(tmp_path), "--bundle", str(default_bundle), "--keep", str(kept)]
    options = ["--sizes", "4,8", "--seeds", "2", "--threads", "1", "--page", str(page)]
    assert main(["quantisation", *folders, *options]) == 0
    text = page.read_text()
    assert "--sizes 4,8 --seeds 2`" in text and "| method | 4 items | 8 items |" in text
    values = [
        json.loads((kept / f"face-percentile-noise-8-{seed}.json").read_text())["figures"]["ferplus"]["sqnr"]
        for seed in (0, 1)
    ]
    assert f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}" in text
    assert text.count("| percentile 99.99 |") == 2 * (4 + 1) and "quantisation-aware" not in text.lower()
    assert "S8 steps and the CPU's file, where nothing saturates" in text
    assert main(["quantisation", *folders, *options, "--run", str(tmp_path)]) == 0
    again = page.read_text()
    rows = [line for line in again.splitlines() if line.startswith("| quantisation-aware training |  | ")]
    assert len(rows) == 2 * 4 and "--run RUN`" in again


def test_only_a_finished_run_is_fine_tuned(default_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished run"):
        Finetuner(tmp_path, tmp_path, Bundle.read(default_bundle))


@pytest.mark.parametrize("sizes", ["0", "32,", "many"])
def test_sizes_are_whole_numbers(sizes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["quantisation", "--data", "d", "--bundle", "b", "--page", "p", "--sizes", sizes])
    assert "give a whole number, 1 or more" in capsys.readouterr().err
