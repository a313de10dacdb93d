from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from edgeemo.errors import InputError
from edgeemo_export.data import transcripts, voices
from edgeemo_export.data.voices import Clip

DATA = Path(__file__).parents[3] / "shared" / "data"
HEADER = "file_id\temotion\traw_text\tnormalized_text\n"


def clip(name: str, corpus: str) -> Clip:
    return Clip(Path(f"{name}.flac"), corpus, f"{corpus}-1", "anger", "train")


def tree(folder: Path, content: str) -> Path:
    (folder / "nemo").mkdir()
    (folder / "nemo" / "transcripts.tsv").write_text(content, encoding="utf-8")
    return folder


def test_texts_of_clips(tmp_path: Path) -> None:
    tree(
        tmp_path,
        f'{HEADER}KS0_fear_5.wav\tfear\tPrzestań!\t  Przestań  \nEB0_anger_9.wav\tanger\t„A”\t„a” "b\n',
    )
    clips = [
        clip("EB0_anger_9", "nemo"),
        clip("03-01-05-02-02-01-12", "ravdess"),
        clip("KS0_fear_5", "nemo"),
        clip("03-01-05-02-01-01-12", "ravdess"),
    ]
    expected = ['„a” "b', "dogs are sitting by the door", "przestań", "kids are talking by the door"]
    assert transcripts.read(tmp_path, clips) == expected
    assert transcripts.read(tmp_path / "nowhere", clips[1::2]) == expected[1::2]


@pytest.mark.parametrize(
    ("content", "name", "corpus", "message"),
    [
        (HEADER, "03a01Fa", "emodb", r"03a01Fa\.flac: nothing tells what is said in emodb; .* ravdess, nemo"),
        (HEADER, "KS0_fear_5", "nemo", r"KS0_fear_5\.flac: nothing tells .* a line in transcripts\.tsv"),
        (HEADER, "03-01-05-02-03-01-12", "ravdess", r"nothing tells .* statement 01 or 02 as the fifth"),
        (HEADER, "short", "ravdess", r"short\.flac: nothing tells what is said in it"),
        (
            "file_id\ttext\n",
            "KS0_fear_5",
            "nemo",
            r"line 1: its columns are file_id, text; .* normalized_text",
        ),
        (
            "",
            "KS0_fear_5",
            "nemo",
            r"line 1: its columns are none; there must be file_id and normalized_text",
        ),
        (f"{HEADER}KS0_fear_5.wav\tfear\n", "KS0_fear_5", "nemo", r"line 2: it has no normalized_text"),
    ],
)
def test_errors(content: str, name: str, corpus: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        transcripts.read(tree(tmp_path, content), [clip(name, corpus)])


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"transcripts\.tsv: no such file; nEMO comes with it"):
        transcripts.read(tmp_path, [clip("KS0_fear_5", "nemo")])


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the recordings in ../shared/data")
def test_nemo_is_a_control() -> None:
    clips = voices.read(DATA, "train", ("nemo",))
    emotions: dict[str, list[str]] = defaultdict(list)
    for one, text in zip(clips, transcripts.read(DATA, clips), strict=True):
        emotions[text].append(one.label)
    assert len(emotions) == 20
    for labels in emotions.values():  # four speakers say each sentence once in each of six emotions
        assert {label: labels.count(label) for label in labels} == dict.fromkeys(labels, 4)
        assert len(set(labels)) == 6
