"""A trained system becomes a bundle that the runtime reads, with either modality alone too."""

from __future__ import annotations

import csv
import shutil
import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

import edgeemo
from edgeemo.errors import InputError
from edgeemo.evaluate import evaluate
from edgeemo_calibration import lint
from edgeemo_export import bundle, system_bundle
from edgeemo_export.cli import main
from edgeemo_export.data.labels import LABELS
from edgeemo_export.recipes import by_name
from tests.support import made_corpora
from tests.support.made_corpora import DEFAULTS, Made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "CALIBRATION_ITEMS", 14)
        yield made_corpora.make(tmp_path_factory.mktemp("corpora"), patch)


def train(made: Made, name: str, folder: Path) -> by_name.Trained:
    return by_name.train(
        name, made.data, made.encoders if by_name.ENCODERS[name] else None, folder, DEFAULTS[name]
    )


def test_a_run_of_action_units_is_no_bundle(made: Made, tmp_path: Path) -> None:
    config = replace(DEFAULTS["jca"], pairs="units")
    trained = by_name.train("jca", made.data, made.encoders, tmp_path / "run", config)
    with pytest.raises(InputError, match="jca: it reads action units"):
        system_bundle.write(trained, made.data, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_the_manifest_says_what_the_weights_come_from(made: Made, tmp_path: Path) -> None:
    trained = train(made, "jca", tmp_path / "run")
    outputs = ["logits", "valence_arousal", "face_logits", "voice_logits"]
    widths = system_bundle.token_widths(trained)
    assert widths == {"face": 128, "voice": 128}
    said = system_bundle.describe(trained, outputs, widths)
    assert said["calibration"]["temperatures"].keys() == {"face", "voice", "face+voice"}
    assert (said["name"], said["provenance"]["seed"]) == ("edgeemo-jca", 0)
    assert "of its own" in said["valence_arousal"]["source"]
    assert system_bundle.VOTES not in said["provenance"]["data"]
    by_votes = replace(trained, config=replace(trained.config, pairs="votes"))
    assert system_bundle.VOTES in system_bundle.provenance(by_votes)["data"]
    text = train(made, "co-attention", tmp_path / "text")
    said = system_bundle.describe(text, ["logits"], system_bundle.token_widths(text))
    assert said["modalities"] == ["voice", "text"] and "face" not in said
    assert not any("FER+" in line for line in said["provenance"]["data"])
    assert said["graphs"]["text"]["outputs"] == {"tokens": ["float32", [40, 128]]}
    assert "of its own" not in said["valence_arousal"]["source"]


def manifest(folder: Path, *rows: tuple[str, str, str]) -> Path:
    """A test set of one crop and one voice of half a second."""
    cv2.imwrite(str(folder / "face.png"), made_corpora.faces("test").images[0])
    samples = made_corpora.sound(made_corpora.clips("test")[0].path).numpy()
    with wave.open(str(folder / "voice.wav"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(16000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("label", "face", "voice"), *rows])
    return folder / "list.csv"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["foal-net", "jca", "fdan"])
def test_a_bundle_answers_by_face_by_voice_and_by_both(made: Made, tmp_path: Path, name: str) -> None:
    train(made, name, tmp_path / "run")
    words = ["bundle", "--data", str(made.data), "--threads", "1", "--run", str(tmp_path / "run")]
    assert main([*words, "--out", str(tmp_path / "bundle"), "--unproven", "a toy"]) == 0
    written = edgeemo.Bundle.read(tmp_path / "bundle")
    written.verify()
    for graph in written.graphs.values():
        for encoding in {"fp32", "fp16", "int8"} & graph.files.keys():
            assert lint(onnx.load(written.path / graph.files[encoding])) == []
    shown = [("anger", "face.png", "voice.wav"), ("anger", "face.png", ""), ("anger", "", "voice.wav")]
    path = manifest(tmp_path, *shown)
    for precision in ("fp32", "int8"):
        with edgeemo.load(tmp_path / "bundle", precision=precision) as model:
            report = evaluate(path, model, face_is_cropped=True)
        answers = [item.emotion for item in report.items]
        assert [answer.modalities for answer in answers] == [("face", "voice"), ("face",), ("voice",)]
        given = np.array([[answer.probabilities[label] for label in LABELS] for answer in answers])
        np.testing.assert_allclose(given.sum(axis=1), 1.0, atol=1e-5)
        assert all(np.abs(given[a] - given[b]).max() > 1e-4 for a, b in ((0, 1), (0, 2), (1, 2)))
        assert all(-1 <= answer.valence <= 1 for answer in answers)
    shutil.rmtree(tmp_path / "bundle")


@pytest.mark.slow
def test_a_bundle_reads_text(made: Made, tmp_path: Path) -> None:
    trained = train(made, "co-attention", tmp_path / "run")
    system_bundle.write(trained, made.data, tmp_path / "bundle", "a toy")
    samples = made_corpora.sound(made_corpora.clips("test")[0].path).numpy()
    for precision in ("fp32", "int8"):
        with edgeemo.load(tmp_path / "bundle", precision=precision) as model:
            voice = model.recognize(voice=samples, sample_rate=16000)
            both = model.recognize(voice=samples, sample_rate=16000, text="kids are talking by the door")
        assert (voice.modalities, both.modalities) == (("voice",), ("voice", "text"))
        assert voice.probabilities != both.probabilities
