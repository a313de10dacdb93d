"""Makes a vocabulary of word pieces from the texts of a training set."""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgeemo.errors import InputError
from edgeemo.preprocess.text import WordPiece

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
CONTINUES = "##"


def vocabulary(texts: Sequence[str], size: int, *, lowercase: bool = True) -> list[str]:
    """The pieces that the words of texts are split into, the special ones first.

    Every letter is a piece, at the start of a word and within it, so that a word of known letters is never
    unknown. Then, as byte pair encoding does (Sennrich et al., 2016), the two pieces that most often stand
    side by side become one, until the vocabulary is full or no two stand together twice. Of two pairs as
    frequent, the first in the alphabet is joined, so a vocabulary depends on its texts alone.

    Args:
        texts: of the training set, each as often as it is said.
        size: most pieces.
        lowercase: letters lose their case and their accents, as the runtime takes them then.

    Returns:
        Pieces by id; those within a word begin with ``##``.

    Raises:
        InputError: there is no word, or the special pieces and the letters alone are more than ``size``.

    Example:
        >>> pieces = vocabulary(["Low, lower", "low"], 20)
        >>> pieces[4:10], pieces[16:]
        ([',', 'e', 'l', 'o', 'r', 'w'], ['##ow', 'low'])
    """
    counts = Counter(_words(texts, lowercase))
    letters = sorted({letter for word in counts for letter in word})
    pieces = [*SPECIAL, *letters, *(CONTINUES + letter for letter in letters)]
    if not letters or len(pieces) > size:
        raise InputError(
            f"vocabulary: {len(letters)} letters and the special pieces make {len(pieces)}; there must be "
            f"words, and size, which is {size}, must be that or more"
        )
    split = {word: [word[0], *(CONTINUES + letter for letter in word[1:])] for word in counts}
    while len(pieces) < size:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < 2:
            break
        joined = best[0] + best[1].removeprefix(CONTINUES)
        pieces.append(joined)
        split = {word: _join(parts, best, joined) for word, parts in split.items()}
    return pieces


def _words(texts: Sequence[str], lowercase: bool) -> Iterable[str]:
    """The words of texts as the runtime splits them, which spells them by a vocabulary of letters."""
    marks = "".join(texts)
    letters = sorted({*marks, *unicodedata.normalize("NFD", marks).lower()})
    pieces = [*SPECIAL, *letters, *(CONTINUES + letter for letter in letters)]
    speller = WordPiece({piece: place for place, piece in enumerate(pieces)}, length=3, lowercase=lowercase)
    for text in texts:
        for word in speller.words(text):
            yield "".join(pieces[place].removeprefix(CONTINUES) for place in word)


def _join(parts: list[str], pair: tuple[str, str], joined: str) -> list[str]:
    made: list[str] = []
    for part in parts:
        # A piece that was joined just now is not the first of the next pair.
        if made and (made[-1], part) == pair:
            made[-1] = joined
        else:
            made.append(part)
    return made


def write(pieces: Iterable[str], path: Path) -> None:
    """Write a ``vocab.txt``: a piece on each line, whose number from zero is its id."""
    path.write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
