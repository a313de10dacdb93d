"""A corpus as a manifest: read back by the runtime and by the training, its splits without leaks."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeemo.errors import InputError
from edgeemo.evaluate import Item as Line
from edgeemo.evaluate import read_manifest
from edgeemo_export.cli import main
from edgeemo_export.data import own
from edgeemo_export.data.corpora import manifest
from edgeemo_export.data.corpora.item import Item
from edgeemo_export.data.corpora.registry import CORPORA, Corpus
from tests.support import own_corpus

ROOT = Path(__file__).parents[3]
Plant = Callable[..., Path]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def made(*items: Item) -> Corpus:
    """A corpus of these items, in splits of its own."""
    return Corpus("made", lambda folder: list(items), "nothing", "none", True)


def savee(folder: Path, **copies: str) -> Path:
    """Sounds of four people; a copy has the samples of another."""
    for place, who in enumerate(("DC", "JE", "JK", "KL")):
        for label, code in enumerate(("a", "h")):
            name = f"{who}_{code}01"
            own_corpus.write_sound(folder / f"{name}.wav", own_corpus.tone(label, place, 0))
    for name, other in copies.items():
        (folder / f"{name}.wav").write_bytes((folder / f"{other}.wav").read_bytes())
    return folder


def test_savee_is_read_back_and_begins_a_run(tmp_path: Path) -> None:
    folder, out = savee(tmp_path / "savee"), tmp_path / "savee-2.csv"
    assert main(["corpus", "savee", "--data", str(folder), "--out", str(out), "--fold", "2"]) == 0
    lines = read_manifest(out, ("face", "voice"), None, reader="the test")
    assert {(line.speaker, line.split) for line in lines} == {
        ("savee-DC", "train"),
        ("savee-JE", "test"),
        ("savee-JK", "develop"),
        ("savee-KL", "train"),
    }
    assert all(line.paths["voice"] == folder / f"{line.speaker[-2:]}_{line.label[0]}01.wav" for line in lines)
    begun = own.begin(out, tmp_path / "run", seed=0, face_is_cropped=False, speakers_unknown=False)
    assert begun.labels == ("anger", "happiness") and begun.modalities == ("voice",)
    assert {item.speaker for item in begun.of("test")} == {"savee-JE"}


def test_a_copy_in_two_splits_is_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = savee(tmp_path / "savee", JK_a01="DC_a01")
    lines = manifest.write(CORPORA["savee"], folder, tmp_path / "m.csv")
    assert len(lines) == 7 and not any("JK_a01" in row["voice"] for row in table(tmp_path / "m.csv"))
    assert "1 item dropped, of which a file is in another split too" in caplog.text


def test_a_speaker_in_two_splits_is_refused(plant: Plant, tmp_path: Path) -> None:
    folder = plant("1.wav", "2.wav", "3.wav", "4.wav", "faces/00001.jpg")
    items = [
        Item("anger", who, folder / "faces", folder / f"{number}.wav", split=split, frames=(1, 2))
        for number, (who, split) in enumerate(
            [("a", "train"), ("b", "develop"), ("c", "test"), ("a", "test")], start=1
        )
    ]
    with pytest.raises(InputError, match=r"the speaker a is in train \(line 2\) and in test \(line 5\)"):
        manifest.write(made(*items), folder, tmp_path / "m.csv")
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def meld(plant: Plant) -> Path:
    head = "Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID\n"
    parts = (
        ("train", "train_splits"),
        ("dev", "dev_splits_complete"),
        ("test", "output_repeated_splits_test"),
    )
    return plant(
        *(f"{name}/dia0_utt{number}.mp4" for _, name in parts for number in range(2)),
        texts={
            f"{part}_sent_emo.csv": f'{head}"Well, {part}",Ann,joy,0,0\n"Ćao!",Ann,anger,0,1\n'
            for part, _ in parts
        },
    )


def test_an_official_split_that_shares_speakers_needs_consent(
    plant: Plant, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, out = meld(plant), tmp_path / "meld.csv"
    with pytest.raises(
        InputError, match="the same main characters in training and test; say --speakers-unknown"
    ):
        manifest.write(CORPORA["meld"], folder, out)
    manifest.write(CORPORA["meld"], folder, out, speakers_unknown=True)
    rows = table(out)
    assert {row["speaker"] for row in rows} == {""} and len(rows) == 6
    assert [row["text"] for row in rows[:2]] == ["Well, train", "Ćao!"]
    assert "1 of 2 test items say word for word what a training item says" in caplog.text
    items = read_manifest(out, ("face", "voice", "text"), None, reader="the test")
    assert all(set(item.paths) == {"face", "voice"} for item in items)
    assert [item.text for item in items] == [row["text"] for row in rows]


def test_consent_without_need_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="savee: its splits are by speaker; leave --speakers-unknown out"):
        manifest.write(CORPORA["savee"], tmp_path, tmp_path / "m.csv", speakers_unknown=True)


def test_a_folder_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "m.csv").mkdir()
    with pytest.raises(InputError, match=r"m\.csv: it is a folder; name the CSV file to write"):
        manifest.write(CORPORA["savee"], tmp_path, tmp_path / "m.csv")


def test_runs_of_frames_become_folders_of_links(
    plant: Plant, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    videos = {"a": "train", "b": "develop", "c": "test"}
    folder = plant(*(f"{video}/{number:05}.jpg" for video in videos for number in (1, 2, 4, 5)))
    items = [
        Item("fear", video, folder / video, valence=-0.5, arousal=0.25, split=split, frames=(2, 5))
        for video, split in videos.items()
    ]
    rated = replace(items[0], label="", frames=(5, 6))
    out = tmp_path / "m.csv"
    with caplog.at_level(logging.INFO):
        for _ in range(2):  # the second finds the links of the first
            manifest.write(made(*items, rated), folder, out)
    row = table(out)[0]
    pictures = sorted(Path(row["face"]).iterdir())
    assert [path.name for path in pictures] == ["00002.jpg", "00004.jpg"]
    assert pictures[0].read_text() == "a/00002.jpg"
    assert (row["valence"], row["arousal"]) == ("-0.5000", "0.2500") and "voice" not in row
    assert "1 without a label, with valence and arousal alone" in caplog.text


def test_pictures_of_a_table_become_files(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    votes = np.zeros((8, 10), np.uint8)
    votes[::2, 4], votes[1::2, 0] = 10, 10
    images = random.integers(0, 256, (8, 48, 48), dtype=np.uint8)
    np.savez(tmp_path / "train.npz", images=images, votes=votes)
    np.savez(tmp_path / "valid.npz", images=images[:2][:, ::-1], votes=votes[:2])
    out = tmp_path / "m.csv"
    words = ["corpus", "ferplus", "--data", str(tmp_path), "--out", str(out), "--speakers-unknown"]
    assert main(words) == 0
    lines = read_manifest(out, ("face",), None, reader="the test")
    assert [(line.label, line.split) for line in lines[2:5]] == [
        ("anger", "train"),
        ("neutral", "develop"),
        ("anger", "train"),
    ]
    assert (cv2.imread(str(lines[3].paths["face"]), cv2.IMREAD_GRAYSCALE) == images[3]).all()
    begun = own.begin(out, tmp_path / "run", seed=0, face_is_cropped=True, speakers_unknown=True)
    assert [len(begun.of(split)) for split in ("train", "develop", "test")] == [7, 1, 2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fer", "--data", "x"], "the corpus is 'fer'; it must be one of ravdess, cremad, meld"),
        (["emodb", "--data", "x"], "x: there is no such folder; give a folder that holds wav of .wav"),
    ],
)
def test_wrong_usage_ends_with_status_2(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["corpus", *words, "--out", str(tmp_path / "m.csv")])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_the_licence_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        manifest.write(CORPORA["savee"], savee(tmp_path / "savee"), tmp_path / "m.csv")
    assert "savee: licence on registration, for research: see the corpus; commercial use: see" in caplog.text
    assert "savee: fold 1 of 1, 2, 3, 4" in caplog.text


def test_the_readme_lists_every_corpus() -> None:
    text = (ROOT / "export" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|.*\| (yes|no|see the corpus) \|$", text, re.MULTILINE)
    allowed = {True: "yes", False: "no", None: "see the corpus"}
    assert rows == [(name, allowed[corpus.commercial]) for name, corpus in CORPORA.items()]


def test_trimmed_copies_become_manifests(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counts = {}
    for name, place in (("ravdess", "ravdess_speech"), ("emodb", "emodb"), ("nemo", "nemo")):
        lines: list[Line] = manifest.write(CORPORA[name], data / place, tmp_path / f"{name}.csv")
        counts[name] = [sum(line.split == split for line in lines) for split in ("train", "develop", "test")]
        assert len(read_manifest(tmp_path / f"{name}.csv", ("voice",), None, reader="the test")) == len(lines)
    assert counts == {"ravdess": [780, 120, 300], "emodb": [111, 21, 134], "nemo": [360, 120, 296]}
    assert "296 of 296 test items say word for word what a training item says" in caplog.text
