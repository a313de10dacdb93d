"""What are the token ids of words: BERT's WordPiece, from a vocabulary of one token a line."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeemo.errors import InputError

PAD = 0
"""The id of [PAD], which text graphs mask: a vocabulary has it in its first line."""

_SPECIAL = ("[UNK]", "[CLS]", "[SEP]")
_LONGEST = 100  # characters; a longer word is [UNK]

_CJK = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
_REPLACEMENT = "\ufffd"  # stands for what could not be decoded


class WordPiece:
    """Words to ids as BERT makes them (Devlin et al., 2019): basic tokens, then the longest pieces first.

    Control characters are left out, each CJK character and each punctuation mark is a word of its own, and
    with `lowercase` letters lose their case and their accents. A word becomes the longest piece of the
    vocabulary that it starts with, then the longest that goes on with it, written with ##; [UNK] where there
    is none. What the text says is never taken for a special token.

    Args:
        vocabulary: id of every token, as `read_vocabulary` gives it.
        length: ids in a row, at least 3.
        lowercase: whether the vocabulary is of lower-case letters without accents.

    Example:
        >>> tokens = "[PAD] [UNK] [CLS] [SEP] well play ##ed !".split()
        >>> vocabulary = {token: number for number, token in enumerate(tokens)}
        >>> WordPiece(vocabulary, length=8, lowercase=True).encode("Well played!").tolist()
        [[2, 4, 5, 6, 7, 3, 0, 0]]
    """

    def __init__(self, vocabulary: Mapping[str, int], *, length: int, lowercase: bool) -> None:
        self._vocabulary = vocabulary
        self._length = length
        self._lowercase = lowercase
        self._unknown, self._first, self._last = (vocabulary[name] for name in _SPECIAL)

    def encode(self, text: str) -> NDArray[np.int32]:
        """The row of a text, int32 [1, length]."""
        return self.row(self.words(text))

    def words(self, text: str) -> list[tuple[int, ...]]:
        """The ids of each word; a punctuation mark and a CJK character count as words."""
        return [self._pieces(word) for word in _basic(text, self._lowercase)]

    def row(self, words: Sequence[tuple[int, ...]]) -> NDArray[np.int32]:
        """[CLS], the ids of the words, [SEP] and [PAD] to the end, int32 [1, length].

        Of too many the newest words are kept, each whole; of a last word that is itself too long, its end.
        """
        room = self._length - 2
        ids: list[int] = []
        for word in reversed(words):
            if ids and len(ids) + len(word) > room:
                break
            ids[:0] = word[-room:]
        row: NDArray[np.int32] = np.full((1, self._length), PAD, np.int32)
        row[0, : len(ids) + 2] = (self._first, *ids, self._last)
        return row

    def _pieces(self, word: str) -> tuple[int, ...]:
        if len(word) > _LONGEST:
            return (self._unknown,)
        ids = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                piece = self._vocabulary.get(prefix + word[start:end])
                if piece is not None:
                    break
            else:
                return (self._unknown,)
            ids.append(piece)
            start = end
        return tuple(ids)


def read_vocabulary(content: bytes) -> dict[str, int]:
    r"""The id of every token of a `vocab.txt`: the number of its line, from 0.

    Args:
        content: UTF-8 with one token a line, [PAD] first; [UNK], [CLS] and [SEP] anywhere.

    Raises:
        InputError: it is not UTF-8, or a special token is not where it must be.

    Example:
        >>> read_vocabulary(b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nwell\n")["well"]
        4
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"byte {error.start} is not UTF-8; it must hold one token a line") from None
    # Only a line feed ends a line: others that Python takes for an end are tokens of some vocabularies.
    lines = text.removesuffix("\n").split("\n")
    vocabulary = {line.removesuffix("\r"): number for number, line in enumerate(lines)}
    for token in _SPECIAL:
        if token not in vocabulary:
            raise InputError(f"it has no {token}; it must hold one token a line, among them {token}")
    if vocabulary.get("[PAD]") != PAD:
        raise InputError("its first line is not [PAD]; it must be, as the graphs mask id 0")
    return vocabulary


def _basic(text: str, lowercase: bool) -> Iterator[str]:
    """The basic tokens: cleaned, split at white space, around CJK characters and around punctuation."""
    cleaned = "".join(map(_cleaned, text))
    if lowercase:
        apart = unicodedata.normalize("NFD", cleaned)
        # Letter by letter, as the tokenisers that models are trained with do: no sigma is a final one.
        cleaned = "".join(letter.lower() for letter in apart if unicodedata.category(letter) != "Mn")
    for word in cleaned.split():
        start = 0
        for place, letter in enumerate(word):
            if _is_punctuation(letter):
                if start < place:
                    yield word[start:place]
                yield letter
                start = place + 1
        if start < len(word):
            yield word[start:]


def _cleaned(letter: str) -> str:
    if letter in "\t\n\r":
        return " "
    category = unicodedata.category(letter)
    if letter == _REPLACEMENT or (category[0] == "C" and category != "Cn"):
        return ""
    if category[0] == "Z":
        return " "
    code = ord(letter)
    return f" {letter} " if any(first <= code <= last for first, last in _CJK) else letter


def _is_punctuation(letter: str) -> bool:
    """Unicode's, and every mark of ASCII, such as $ and ^, that Unicode calls a symbol."""
    return ("!" <= letter <= "~" and not letter.isalnum()) or unicodedata.category(letter)[0] == "P"
