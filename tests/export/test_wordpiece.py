from __future__ import annotations

from pathlib import Path

import pytest

from edgeemo.errors import InputError
from edgeemo.preprocess.text import WordPiece, read_vocabulary
from edgeemo_export.data.wordpiece import SPECIAL, vocabulary, write

TEXTS = [
    "Kids are talking by the door",
    "dogs are sitting, by the door!",
    "Żołwica to siostra męża.",
    "ȷ̇ 漢字",
]


def reader(pieces: list[str], lowercase: bool = True) -> WordPiece:
    return WordPiece({piece: k for k, piece in enumerate(pieces)}, length=60, lowercase=lowercase)


@pytest.mark.parametrize("size", [80, 100, 400])
@pytest.mark.parametrize("lowercase", [True, False])
def test_every_training_word_is_known(size: int, lowercase: bool) -> None:
    pieces = vocabulary(TEXTS, size, lowercase=lowercase)
    assert tuple(pieces[:4]) == SPECIAL
    assert len(set(pieces)) == len(pieces) <= size
    for text in [*TEXTS, "gradka radości ąę" if lowercase else "gradka"]:  # and words of known letters
        ids = [piece for word in reader(pieces, lowercase).words(text) for piece in word]
        assert ids and pieces.index("[UNK]") not in ids
        spelled = "".join(pieces[piece].removeprefix("##") for piece in ids)
        assert len(spelled) >= len(text.replace(" ", "")) - 1  # a dot above a letter is an accent
    unknown = reader(pieces, lowercase).words("x9")
    assert unknown == [(pieces.index("[UNK]"),)]


def test_pairs_that_come_often_are_joined_first() -> None:
    pieces = vocabulary(["aab"] * 3 + ["aac"] * 2 + ["bc"], 40)
    # Letters first and within a word; then a+a (5 times), aa+b (3), aa+c (2); b+c comes once.
    assert pieces[4:] == ["a", "b", "c", "##a", "##b", "##c", "aa", "aab", "aac"]
    assert pieces[: 4 + 7] == vocabulary(["aac", "aab", "bc"] + ["aac"] + ["aab"] * 2, 11)


def test_a_vocabulary_is_what_the_runtime_reads(tmp_path: Path) -> None:
    pieces = vocabulary(TEXTS, 120)
    write(pieces, tmp_path / "vocab.txt")
    assert read_vocabulary((tmp_path / "vocab.txt").read_bytes()) == {p: k for k, p in enumerate(pieces)}


@pytest.mark.parametrize(
    ("texts", "size", "message"),
    [
        ([], 100, "vocabulary: 0 letters and the special pieces make 4; there must be words"),
        ([" "], 100, "vocabulary: 0 letters"),
        (["abc"], 9, "3 letters and the special pieces make 10; there must be words, and size, which is 9,"),
    ],
)
def test_errors(texts: list[str], size: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        vocabulary(texts, size)
