"""A wrong folder is named, with what is in it and which one is meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeemo.errors import InputError
from edgeemo_export.data.corpora.registry import CORPORA

TREES = {
    "ravdess": ("Actor_01/03-01-01-01-01-01-01.wav", "Actor_01"),
    "cremad": ("AudioWAV/1001_DFA_ANG_XX.wav", "AudioWAV"),
    "meld": (
        "train_sent_emo.csv dev_sent_emo.csv test_sent_emo.csv train_splits/dia0_utt0.mp4",
        "train_splits",
    ),
    "iemocap": ("Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", "Session1"),
    "iemocap-seven": ("Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", "Session1/dialog"),
    "emodb": ("wav/03a01Fa.wav lablaut/03a01Fa.lablaut", "lablaut"),
    "enterface": ("subject_1/anger/sentence_1/s1_an_1.avi", "subject_1"),
    "casia": ("liuchanhg/angry/201.wav", "liuchanhg/angry"),
    "savee": ("AudioData/DC/a01.wav", "AudioData"),
    "nemo": ("data.tsv samples/EB0_anger_1.wav", "samples"),
    "ferplus": ("fer2013new.csv fer2013.csv images/x.png", "images"),
    "affectnet": ("train_set/annotations/0_exp.npy val_set/annotations/0_exp.npy", "train_set/annotations"),
    "affwild2": ("cropped_aligned/v/00001.jpg annotations/VA_Set/Train_Set/v.txt", "cropped_aligned/v"),
}


def test_every_corpus_has_a_tree() -> None:
    assert TREES.keys() == CORPORA.keys()


@pytest.mark.parametrize("name", TREES)
def test_a_level_too_high_or_too_low(name: str, plant: Callable[..., Path]) -> None:
    corpus, (files, inner) = CORPORA[name], TREES[name]
    right = plant(*(f"all/{name}/{file}" for file in files.split())) / "all" / name
    for wrong in (right.parent, right.parent.parent, right / inner):
        with pytest.raises(InputError) as caught:
            corpus.read(wrong)
        message = str(caught.value)
        assert message.startswith(f"{wrong}: it must hold {corpus.layout}; it holds ")
        assert message.endswith(f"; give {right}")
        assert sorted(wrong.iterdir())[0].name in message


def test_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "emodb.zip").write_bytes(b"PK")
    for name, what in (("nowhere", "there is no such folder"), ("emodb.zip", "it is a file")):
        with pytest.raises(InputError) as caught:
            CORPORA["emodb"].read(tmp_path / name)
        assert f"{name}: {what}; give a folder that holds wav of .wav" in str(caught.value)


def test_a_folder_with_nothing_near(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: it must hold .*; it holds nothing$"):
        CORPORA["savee"].read(tmp_path / "empty")


def test_a_corpus_of_which_nothing_can_be_used(plant: Callable[..., Path]) -> None:
    folder = plant("wav/03a01La.wav", "wav/notes.wav")
    with pytest.raises(InputError) as caught:
        CORPORA["emodb"].read(folder)
    assert "no item of it can be used; left out: 1 of boredom (first: " in str(caught.value)
