from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import edgeemo
from edgeemo.errors import CheckFailed
from edgeemo.evaluate import Item
from edgeemo.inference.bundle import files_digest
from edgeemo_calibration import page
from edgeemo_calibration.prove import Dataset
from edgeemo_export import bundle, cli, manifests, proving
from edgeemo_export.data import ferplus, voices
from tests.support.tiny import write_bundle

WHY = "a toy"


class Found:
    """What a prover found, without its figures."""

    failures = ("happiness in ferplus-develop: of 80 items 9 lost and 1 won, p = 0.0215",)

    def __init__(self, folder: Path, passed: bool) -> None:
        self.passed = passed
        self.files = edgeemo.Bundle.read(folder).files

    def entry(self) -> dict[str, Any]:
        data = [{"name": "made", "n": 1, "sha256": "2" * 64}]
        return {"passed": True, "sha256": "1" * 64, "files": files_digest(self.files), "data": data}


def prover(passed: bool, asked: list[Path] | None = None) -> proving.Prover:
    def prove(folder: Path) -> Any:
        if asked is not None:
            asked.append(folder)
        return Found(folder, passed)

    return prove


@pytest.fixture(autouse=True)
def pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        page, "write", lambda found, html, figures: [p.write_text("page") for p in (html, figures)]
    )


@pytest.fixture
def encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Any]]:
    """A folder whose graphs are written, with the manifest that is not."""
    folder = write_bundle(tmp_path / "made")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    monkeypatch.setattr(bundle, "check", lambda folder, manifest: None)
    return folder, manifest


def test_a_proven_graph_is_written(encoded: tuple[Path, dict[str, Any]]) -> None:
    folder, manifest = encoded
    asked: list[Path] = []
    bundle.finish(folder, manifest, {}, proof=prover(True, asked))
    made = edgeemo.Bundle.read(folder)
    assert made.proof is not None and made.proof["passed"] is True
    assert asked and not asked[0].is_relative_to(folder)
    assert sorted(path.name for path in folder.parent.iterdir()) == [
        "made",
        "made.proof.html",
        "made.proof.json",
    ]


@pytest.mark.parametrize(
    ("proof", "message"),
    [
        (None, "its INT8 graphs are not proven"),
        ("", "its INT8 graphs are not proven"),
        (" ", "its INT8 graphs are not proven"),
        (
            prover(False),
            "INT8 is not proven: happiness in ferplus-develop: of 80 items 9 lost .* --unproven WHY",
        ),
    ],
)
def test_an_unproven_graph_is_refused(proof: Any, message: str, encoded: tuple[Path, dict[str, Any]]) -> None:
    folder, manifest = encoded
    (folder / "manifest.json").write_text("of the bundle that is written over")
    with pytest.raises(CheckFailed, match=message):
        bundle.finish(folder, manifest, {}, proof=proof)
    assert not (folder / "manifest.json").exists()
    assert (folder.parent / "made.proof.html").exists() is callable(proof)


def test_it_is_written_when_told_so(
    encoded: tuple[Path, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    folder, manifest = encoded
    bundle.finish(folder, {**manifest, "proof": {"passed": True}}, {}, proof=WHY)
    made = edgeemo.Bundle.read(folder)
    assert made.proof == {"passed": False, "unproven": WHY}
    assert f"not proven: {WHY}" in caplog.text and f"int8: not proven: {WHY}" in repr(made)


def test_without_int8_there_is_nothing_to_prove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_bundle(tmp_path / "made", encodings=("fp32",))
    monkeypatch.setattr(bundle, "check", lambda folder, manifest: None)
    bundle.finish(folder, json.loads((folder / "manifest.json").read_text()), {})
    assert edgeemo.Bundle.read(folder).proof is None


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool, list[str]]]:
    """The sets that a prover is given: name, whether cropped, and the labels of the items."""
    found: list[tuple[str, bool, list[str]]] = []

    def prove(folder: Path, datasets: list[Dataset]) -> None:
        for dataset in datasets:
            _, *lines = dataset.manifest.read_text().splitlines()
            found.append((dataset.name, dataset.cropped, [line.split(",")[0] for line in lines]))

    monkeypatch.setattr(proving, "prove", prove)
    return found


def test_it_is_proven_on_the_development_splits(
    shown: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(folder: Path, split: str, corpora: tuple[str, ...]) -> list[voices.Clip]:
        assert split == "develop"
        labels = ("anger", "disgust")
        return [voices.Clip(tmp_path / "a.flac", corpora[0], "s", label, split) for label in labels]

    def faces(folder: Path, split: str) -> ferplus.Faces:
        assert split == "develop"
        votes = np.zeros((2, 10), np.uint8)
        votes[[0, 1], [1, 4]] = 10  # happiness, anger
        return ferplus.Faces(np.zeros((2, 48, 48), np.uint8), votes)

    monkeypatch.setattr(voices, "read", read)
    monkeypatch.setattr(ferplus, "read", faces)
    labels = ("anger", "happiness")
    proving.on_corpora(tmp_path, ("face", "voice"), labels)(tmp_path)
    assert shown == [
        ("ferplus-develop", True, ["happiness", "anger"]),
        ("ravdess-develop", False, ["anger"]),
        ("emodb-develop", False, ["anger"]),
    ]
    shown.clear()
    proving.on_corpora(tmp_path, ("voice",), labels, ("ravdess",))(tmp_path)
    assert [name for name, _, _ in shown] == ["ravdess-develop"]


def test_it_is_proven_on_items(shown: list[Any], tmp_path: Path) -> None:
    items: Mapping[str, list[Item]] = {
        "source": [Item(2, "anger", "s", {"voice": tmp_path / "a.wav"}, "test")],
        "place": [],
    }
    proving.on_items(items)(tmp_path)
    assert shown == [("source", False, ["anger"])]


def test_pictures_of_a_split_become_a_manifest(data: Path, tmp_path: Path) -> None:
    rows = manifests.write_pictures(data, tmp_path / "pictures", "develop")
    assert len(rows) > 2000 and all(Path(row["face"]).is_file() for row in rows[:20])


@pytest.mark.parametrize("verb", ["bundle", "adapt"])
def test_the_reason_is_an_option(verb: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    asked: list[SimpleNamespace] = []
    monkeypatch.setattr(cli, f"_{verb}", lambda chosen: asked.append(chosen))
    words = [verb, "--out", "out", "--bundle", "b", "--target", "t", "--source", "s"]
    given = words[:3] if verb == "bundle" else words
    assert cli.main([*given, "--unproven", WHY]) == 0 and cli.main(given) == 0
    assert [chosen.unproven for chosen in asked] == [WHY, None]
    with pytest.raises(SystemExit):
        cli.main([*given, "--unproven", " "])
    assert "it is empty; say why" in capsys.readouterr().err
