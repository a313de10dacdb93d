"""Words to ids: by hand, and as the tokenisers do that models are trained with."""

from __future__ import annotations

import random
import string
from typing import Any

import numpy as np
import pytest

from edgeemo.errors import InputError
from edgeemo.preprocess.text import WordPiece, read_vocabulary

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = (*string.ascii_letters, *string.digits, *"ąćęłńóśźżäöüßéñışσςо\u0301\u0307你好世界👍")
PIECES = (
    *("well", "play", "##ed", "un", "##want", "##able", "zażółć", "zazołc", "ges", "##icht", "Ges", "naive"),
    *("straße", "ich", "bin", "Łódź", "łodz", "glück", "gluck", "##lich", "世", "hell", "hello", "[", "]"),
)
VOCABULARY = tuple(
    dict.fromkeys(
        (*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *string.punctuation, *"„”…«—", *PIECES)
    )
)
IDS = {token: number for number, token in enumerate(VOCABULARY)}

TABLE = [
    "",
    " \t\n",
    "well played!",
    "Well, WELL... unwantable?",
    "can't $5 <b> ^_^ a`b #1 50% me@example.org",
    "naïve café résumé Ångström",
    "e\u0301 o\u0308 \u0301",  # combining marks, one of them without a letter
    "Zażółć gęślą jaźń, ŁÓDŹ i Łódź.",
    "„Ich bin glücklich“, sagte er — Straße, STRASSE, ẞ …",
    "世界你好 hello世界ok",
    "ｈｅｌｌｏ　ｆｕｌｌ　ｗｉｄｔｈ",  # noqa: RUF001
    "안녕 мир שלום नमस्ते",
    "I \u2764\ufe0f you 👍👍🏽 👩‍👩‍👧 \U0001fae0",
    "ΟΔΟΣ σίγμα İstanbul ışık",  # noqa: RUF001
    "a\u00adb zero\u200bwidth no\u00a0break line\u2028line new\u0085line",
    "bell\x07 null\x00 tab\tend\r\nunit\x1fend \ufffd private\ue000use",
    "w" * 100 + " " + "w" * 101,
    "well" * 25 + " " + "well" * 25 + "s",
    "xyz日本語123ąę!?",
    "﷽ ﬁ ½ x² ™",
    "quote\u2019s «guillemets» 《CJK》、。",
]


def tokeniser(*, lowercase: bool, length: int = 200) -> WordPiece:
    return WordPiece(IDS, length=length, lowercase=lowercase)


def tokens(text: str, *, lowercase: bool = True) -> list[str]:
    words = tokeniser(lowercase=lowercase).words(text)
    return [VOCABULARY[number] for word in words for number in word]


@pytest.mark.parametrize(
    ("text", "lowercase", "expected"),
    [
        ("Well played!", True, ["well", "play", "##ed", "!"]),
        ("Well", False, ["W", "##e", "##l", "##l"]),
        ("unwanted", True, ["un", "##want", "##ed"]),
        ("hello hell helloed", True, ["hello", "hell", "hello", "##ed"]),  # the longest first
        ("played\u4e00", True, ["play", "##ed", "[UNK]"]),  # a CJK character stands alone
        ("世界", True, ["世", "界"]),
        ("Zażółć", False, ["Z", "##a", "##ż", "##ó", "##ł", "##ć"]),
        ("zażółć", False, ["zażółć"]),
        ("ZAŻÓŁĆ", True, ["zazołc"]),  # a stroke is no accent
        ("Glücklich", True, ["gluck", "##lich"]),
        ("glücklich", False, ["glück", "##lich"]),
        ("Straße", False, ["S", "##t", "##r", "##a", "##ß", "##e"]),
        ("straße", True, ["straße"]),
        ("a\u00adb", True, ["a", "##b"]),
        ("\u200b\u0301\x00", True, []),
        ("well-played", True, ["well", "-", "play", "##ed"]),
        ("w" * 100, True, ["w", *["##w"] * 99]),
        ("w" * 101, True, ["[UNK]"]),
        ("weЖll", True, ["[UNK]"]),  # one letter that is unknown, and the whole word is
        ("[CLS] [SEP]", False, ["[", "C", "##L", "##S", "]", "[", "S", "##E", "##P", "]"]),
        ("[PAD]", True, ["[", "p", "##a", "##d", "]"]),
    ],
)
def test_pieces_by_hand(text: str, lowercase: bool, expected: list[str]) -> None:
    assert tokens(text, lowercase=lowercase) == expected


def test_each_word_has_its_pieces() -> None:
    words = tokeniser(lowercase=True).words("Well played, naïve 世界")
    assert [[VOCABULARY[number] for number in word] for word in words] == [
        ["well"], ["play", "##ed"], [","], ["naive"], ["世"], ["界"]
    ]  # fmt: skip


@pytest.fixture(scope="module")
def theirs() -> Any:
    """Ids of a text without special tokens, as `BertTokenizer` of transformers makes them by this library."""
    library = pytest.importorskip("tokenizers", reason="needs the tokenisers of transformers")
    made = {
        lowercase: library.BertWordPieceTokenizer(dict(IDS), lowercase=lowercase)
        for lowercase in (True, False)
    }
    return lambda text, lowercase: made[lowercase].encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("text", TABLE, ids=ascii)
def test_ids_are_theirs(text: str, lowercase: bool, theirs: Any) -> None:
    ours = tokeniser(lowercase=lowercase).words(text)
    assert [number for word in ours for number in word] == theirs(text, lowercase)


def test_ids_of_random_text_are_theirs(theirs: Any) -> None:
    choose = random.Random(0)
    letters = [*"".join(TABLE), *LETTERS]
    for _ in range(300):
        text = "".join(choose.choices(letters, k=choose.randrange(40)))
        for lowercase in (True, False):
            ours = tokeniser(lowercase=lowercase).words(text)
            assert [number for word in ours for number in word] == theirs(text, lowercase), ascii(text)


def test_a_row_is_theirs_between_special_tokens(theirs: Any) -> None:
    ours = tokeniser(lowercase=True, length=12).encode("well played, hello!")
    first, last = IDS["[CLS]"], IDS["[SEP]"]
    assert ours.tolist() == [[first, *theirs("well played, hello!", True), last, 0, 0, 0, 0]]


# --- rows


def test_words_that_are_cut_by_white_space_are_the_same_one_by_one() -> None:
    made = tokeniser(lowercase=True)
    for text in TABLE:
        parts = [word for part in text.split(" ") for word in made.words(part)]
        assert parts == made.words(text), ascii(text)


@pytest.mark.parametrize(
    ("text", "length", "expected"),
    [
        ("", 5, "[CLS] [SEP] [PAD] [PAD] [PAD]"),
        ("well", 5, "[CLS] well [SEP] [PAD] [PAD]"),
        ("hello well played", 6, "[CLS] hello well play ##ed [SEP]"),
        ("hello well played", 5, "[CLS] well play ##ed [SEP]"),  # the newest are kept
        ("hello played well", 4, "[CLS] well [SEP] [PAD]"),  # each whole
        ("unwanted", 4, "[CLS] ##want ##ed [SEP]"),  # or the end of the one that is too long
        ("well unwanted", 3, "[CLS] ##ed [SEP]"),
        ("hello " * 1000 + "well", 3, "[CLS] well [SEP]"),
    ],
)
def test_a_row_has_the_newest_words(text: str, length: int, expected: str) -> None:
    row = tokeniser(lowercase=True, length=length).encode(text)
    assert (row.dtype, row.shape) == (np.int32, (1, length))
    assert " ".join(VOCABULARY[number] for number in row[0]) == expected


# --- vocabularies


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_a_vocabulary_is_numbered_by_its_lines(end: str, last: bool) -> None:
    lines = ["[PAD]", "[UNK]", "a\u2028b", "", "[CLS]", "\u0085", "[SEP]", "zażółć"]
    content = (end.join(lines) + end * last).encode()
    assert read_vocabulary(content) == {token: number for number, token in enumerate(lines)}


def test_of_a_token_that_is_there_twice_the_last_counts() -> None:
    assert read_vocabulary(b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nx\nx\n")["x"] == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"it has no \[UNK\]; it must hold one token a line, among them \[UNK\]"),
        (b"[PAD]\n[UNK]\n[CLS]\nwell\n", r"it has no \[SEP\]"),
        (b"[UNK]\n[PAD]\n[CLS]\n[SEP]\n", r"its first line is not \[PAD\]"),
        (b"[UNK]\n[CLS]\n[SEP]\n", r"its first line is not \[PAD\]"),
        (b"\xef\xbb\xbf[PAD]\n[UNK]\n[CLS]\n[SEP]\n", r"its first line is not \[PAD\]"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n\xff\n", "byte 24 is not UTF-8"),
        (b'{"[PAD]": 0}', r"it has no \[UNK\]"),
    ],
)
def test_what_is_no_vocabulary(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_vocabulary(content)
