"""The split files: nobody in two splits of a fold, everybody tested once over the folds."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import pytest

from edgeemo.errors import InputError
from edgeemo_export.data.corpora.folds import FOLDER, folds, place
from edgeemo_export.data.corpora.item import Item
from edgeemo_export.data.corpora.registry import CORPORA
from edgeemo_export.data.splits import SPLITS

FILES = sorted(path.stem for path in FOLDER.glob("*.csv"))
TURNS = {"savee": 4, "casia": 4, "iemocap": 10}
SPEAKERS = {"ravdess": 24, "cremad": 91, "emodb": 10, "nemo": 9, "enterface": 44, **TURNS, "iemocap": 10}


def test_every_file_is_used_and_every_corpus_has_splits() -> None:
    assert {corpus.split_file for corpus in CORPORA.values()} - {""} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_fold_names_each_speaker_once_in_all_three_splits(name: str) -> None:
    rows = (FOLDER / f"{name}.csv").read_text().splitlines()[1:]
    told = Counter(tuple(row.split(",")[:2]) for row in rows)
    assert set(told.values()) == {1}
    found = folds(name)
    assert len(found) == TURNS.get(name, 1)
    for fold in found.values():
        assert len(fold.splits) == SPEAKERS[name]
        assert set(fold.splits.values()) == set(SPLITS)


@pytest.mark.parametrize("name", TURNS)
def test_folds_test_everybody_once(name: str) -> None:
    for scripts in {fold.scripts for fold in folds(name).values()}:
        turns = [fold for fold in folds(name).values() if fold.scripts == scripts]
        for split in ("test", "develop"):
            counts = Counter(who for fold in turns for who, where in fold.splits.items() if where == split)
            assert set(counts.values()) == {1} and len(counts) == SPEAKERS[name]


@pytest.mark.parametrize("fold", folds("iemocap"))
def test_a_session_of_iemocap_is_in_one_split(fold: str) -> None:
    splits = folds("iemocap")[fold].splits
    for session in "12345":
        assert splits[f"iemocap-{session}F"] == splits[f"iemocap-{session}M"]
    assert splits[f"iemocap-{fold[0]}F"] == "test"


def test_who_tests_in_the_project_never_trains() -> None:
    held = {"ravdess": ("01", "17", "18", "19", "20"), "cremad": ("1001",), "emodb": ("11", "12", "13", "14")}
    held["nemo"] = ("MP0", "SM0", "WR0")
    for name, people in held.items():
        splits = folds(name)["1"].splits
        assert {splits[f"{name}-{who}"] for who in people} == {"test"}


def test_folds_without_scripts_drop_them(caplog: pytest.LogCaptureFixture) -> None:
    items = [
        Item("anger", f"iemocap-{session}{sex}", script=script)
        for session in "12345"
        for sex in "FM"
        for script in ("", "script01_1")
    ]
    found = folds("iemocap")
    with caplog.at_level(logging.INFO):
        kept = place(Path("x"), items, found["2-improvised"], "iemocap")
    assert len(kept) == 10 and not any(item.script for item in kept)
    assert "left out: 10 of a scripted dialogue" in caplog.text
    assert {item.speaker for item in kept if item.split == "test"} == {"iemocap-2F", "iemocap-2M"}
    assert len(place(Path("x"), items, found["2"], "iemocap")) == 20


def test_an_unknown_speaker_and_an_unknown_fold() -> None:
    with pytest.raises(
        InputError, match=r"x: the speaker savee-XY is not in .*savee\.csv; it must be one of"
    ):
        place(Path("x"), [Item("anger", "savee-XY")], folds("savee")["1"], "savee")
    with pytest.raises(InputError, match="savee: the fold is '5'; it must be one of 1, 2, 3, 4"):
        CORPORA["savee"].read(Path("x"), "5")
    with pytest.raises(InputError, match="meld: the fold is '1'; it has none; leave it out"):
        CORPORA["meld"].read(Path("x"), "1")
