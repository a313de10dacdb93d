"""Splits by speaker: made, checked, and free of copies."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import pytest

from edgeemo.errors import InputError
from edgeemo.evaluate import Item
from edgeemo_export.data.splits import SPLITS, assign, contents, split_items

PATH = Path("m.csv")


def item(line: int, speaker: str, split: str = "", label: str = "joy", path: Path | None = None) -> Item:
    return Item(line, label, speaker, {} if path is None else {"voice": path}, split)


def whole(*given: Item) -> list[Item]:
    """These and an item of a speaker of its own in each split."""
    return [item(2, "x", "train"), item(3, "y", "develop"), item(4, "z", "test"), *given]


@pytest.mark.parametrize(
    ("items", "unknown", "message"),
    [
        (
            whole(item(5, "ann", "train"), item(6, "ann", "test")),
            False,
            "ann is in train (line 5) and in test (line 6)",
        ),
        (whole(item(5, "z", "develop")), False, "z is in test (line 4) and in develop (line 5)"),
        (
            whole(item(5, "ann", "trial")),
            False,
            "line 5: the split is 'trial'; it must be one of train, develop, test",
        ),
        (whole(item(5, "ann")), False, "line 5: the split is ''"),
        (whole()[:2], False, "no item is in the split test"),
        ([item(2, "ann"), item(3, "")], False, "line 3: it names no speaker"),
        (
            [item(2, "ann"), item(3, "bob")],
            True,
            "it names the speaker of every line; leave --speakers-unknown out",
        ),
        ([item(2, "ann")], False, "it has 1 speaker; 3 splits"),
        ([item(2, "ann"), item(3, "bob"), item(4, "bob")], False, "it has 2 speakers; 3 splits"),
        ([item(2, ""), item(3, "")], True, "it has 2 speakers; 3 splits"),
    ],
)
def test_leaks_and_gaps_are_refused(items: list[Item], unknown: bool, message: str) -> None:
    with pytest.raises(InputError) as caught:
        split_items(PATH, items, unknown=unknown)
    assert message in str(caught.value)


def test_splits_of_the_manifest_are_kept() -> None:
    items = whole(item(5, "x", "train"), item(6, "ann", "test"))
    assert split_items(PATH, items, unknown=False) == items


def test_unknown_speakers_may_be_in_any_split() -> None:
    items = [item(line, "", split) for line, split in enumerate(("train", "develop", "test", "train"), 2)]
    assert split_items(PATH, items, unknown=True) == items
    made = split_items(PATH, [item(line, "") for line in range(2, 42)], unknown=True)
    assert Counter(item.split for item in made) == {"train": 28, "develop": 6, "test": 6}


def test_speakers_that_are_named_stay_together_where_others_are_not() -> None:
    items = [item(line, "ann" if line % 2 else "") for line in range(2, 42)]
    made = split_items(PATH, items, unknown=True)
    assert len({one.split for one in made if one.speaker == "ann"}) == 1
    assert len({one.split for one in made}) == 3


@pytest.mark.parametrize("count", [3, 4, 10, 30])
def test_no_speaker_is_in_two_splits_and_labels_are_spread(count: int) -> None:
    speakers, labels = [], []
    for number in range(count):
        for label in ("anger", "joy", "fear"):
            takes = 1 + (number + len(label)) % 4
            speakers += [f"s{number}"] * takes
            labels += [label] * takes
    made = assign(PATH, speakers, labels, SPLITS, seed=0)
    homes: dict[str, set[str]] = {}
    for speaker, split in zip(speakers, made, strict=True):
        homes.setdefault(speaker, set()).add(split)
    assert all(len(home) == 1 for home in homes.values())
    assert {split for home in homes.values() for split in home} == set(SPLITS)
    assert made == assign(PATH, speakers, labels, SPLITS, seed=0)
    if count == 30:
        counts = Counter(zip(made, labels, strict=True))
        for label in set(labels):
            for split, share in SPLITS.items():
                assert counts[split, label] == pytest.approx(share * labels.count(label), abs=3)
        assert made != assign(PATH, speakers, labels, SPLITS, seed=1)


def test_a_label_of_few_speakers_is_learnt_first() -> None:
    # Only two of eight speakers show disgust; one of them must train.
    speakers = [f"s{number}" for number in range(8)] + ["s6", "s7"]
    labels = ["joy"] * 8 + ["disgust"] * 2
    made = assign(PATH, speakers, labels, SPLITS, seed=0)
    assert ("disgust", "train") in set(zip(labels, made, strict=True))


def test_copies_are_dropped_from_the_earlier_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, text in (("a", "1"), ("b", "2"), ("c", "3"), ("copy of c", "3"), ("d", "4")):
        (tmp_path / name).write_text(text)
    items = [
        item(2, "x", "train", path=tmp_path / "a"),
        item(3, "x", "train", path=tmp_path / "copy of c"),
        item(4, "y", "develop", path=tmp_path / "b"),
        item(5, "z", "test", path=tmp_path / "c"),
        item(6, "z", "test", path=tmp_path / "d"),
    ]
    with caplog.at_level(logging.WARNING):
        kept = split_items(PATH, items, unknown=False)
    assert [item.line for item in kept] == [2, 4, 5, 6]
    assert "m.csv: 1 item dropped, of which a file is in another split too" in caplog.text
    assert "line 3 (train, copy of c), whose copy is in line 5 (test, c)" in caplog.text
    with pytest.raises(InputError, match="every item of the split train is a copy"):
        split_items(PATH, items[1:], unknown=False)


def test_copies_within_a_split_stay(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    items = whole(item(5, "x", "train", path=tmp_path / "a"), item(6, "x", "train", path=tmp_path / "a"))
    assert split_items(PATH, items, unknown=False) == items


def test_a_folder_is_the_contents_of_its_pictures(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    for name, text in (("faces/1.png", "1"), ("faces/2.png", "2"), ("faces/notes.txt", "3"), ("4.png", "2")):
        (tmp_path / name).write_text(text)
    folder = contents(Item(2, "joy", "x", {"face": tmp_path / "faces"}))
    assert len(folder) == 2
    assert contents(Item(3, "joy", "y", {"face": tmp_path / "4.png"})) < folder
