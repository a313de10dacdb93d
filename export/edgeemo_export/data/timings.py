"""When words and phones were said: TSV, CTM and TextGrid in, segments of a window out."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from edgeemo.capture.words import read_words
from edgeemo.errors import InputError

SILENCES = frozenset({"", "sil", "sp", "spn", "<eps>", "<unk>", "<sil>", "#"})
"""What aligners write where nobody speaks, or nobody knows what; such intervals are left out."""

TIERS = {"words": "words", "word": "words", "phones": "phones", "phone": "phones"}
"""What tiers are called, in small letters; 'Speaker - words' counts as 'words'."""

ARPABET_VOWEL = re.compile("(?:A[AEHOWXY]|AXR|E[HLMNRY]|I[HXY]|O[WY]|U[HWX])[012]?")
IPA_VOWELS = frozenset("iyɨʉɯuɪʏʊeøɘɵɤoəɛœɜɞʌɔæɐaɶɑɒɚɝ")  # noqa: RUF001


@dataclass(frozen=True)
class Interval:
    """Something that was said.

    Attributes:
        start: in seconds from the start of the recording.
        end: in seconds, after ``start``.
        text: a word, a phone or a syllable.
    """

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Timings:
    """What was said in one recording, in time order; a tier that is not known is empty."""

    words: tuple[Interval, ...] = ()
    phones: tuple[Interval, ...] = ()

    def of(self, granularity: str) -> tuple[Interval, ...]:
        """The intervals of ``'phone'``, ``'syllable'`` or ``'word'``, empty where they are not known."""
        if granularity == "word":
            return self.words
        if granularity == "phone":
            return self.phones
        return syllables(self.phones, self.words) if self.phones else spelled(self.words)


def read(path: Path) -> Timings:
    """Read the timings of one recording, in the format that the file's suffix says.

    Args:
        path: ``.tsv``, ``.ctm`` or ``.TextGrid``.

    Raises:
        InputError: it is of another kind, or not what its suffix says; the message names the line.
        SourceError: a table is not what it must be.
    """
    readers: dict[str, Callable[[Path], Timings]] = {
        ".tsv": read_tsv,
        ".ctm": read_ctm,
        ".textgrid": read_textgrid,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: timings are read from .tsv, .ctm and .TextGrid, not from {path.suffix!r}")
    return reader(path)


def read_tsv(path: Path) -> Timings:
    """Read the table of `edgeemo.capture.words.read_words`, the one of ``edgeemo run --text``, a word a line.

    Raises:
        SourceError: it cannot be read, or a line is something else.
    """
    return Timings(words=_tier([Interval(one.start, one.end, one.words) for one in read_words(path)]))


def read_ctm(path: Path, recording: str | None = None, tier: str = "words") -> Timings:
    """Read NIST's CTM: lines ``recording channel start duration word [confidence]``; ``;;`` begins a comment.

    Args:
        path: the file.
        recording: which one to read of a file that holds several.
        tier: whether the file holds ``'words'`` or ``'phones'``, which look alike.

    Raises:
        InputError: a line is something else, or the file holds other recordings.
    """
    found: dict[str, list[Interval]] = {}
    for number, line in _lines(path):
        fields = line.split(";;")[0].split()
        if not fields:
            continue
        if len(fields) not in (5, 6):
            raise InputError(
                f"{path}, line {number}: it has {len(fields)} fields; it must have recording, channel, "
                "start, duration, word and perhaps a confidence, without alternatives"
            )
        start, duration = (_seconds(path, number, field) for field in fields[2:4])
        said = _interval(path, number, start, start + duration, fields[4])
        found.setdefault(fields[0], []).append(said)
    if recording is None and len(found) > 1:
        raise InputError(f"{path}: it holds {len(found)} recordings; say which of {', '.join(found)}")
    if recording is not None and recording not in found:
        raise InputError(f"{path}: it does not hold {recording!r}; it holds {', '.join(found) or 'nothing'}")
    name = recording if recording is not None else next(iter(found), "")
    intervals = _tier(found.get(name, []))
    return Timings(phones=intervals) if tier == "phones" else Timings(words=intervals)


def read_textgrid(path: Path) -> Timings:
    """Read the word and the phone tier of a Praat TextGrid, in its long or its short form.

    As Praat does, only what stands free in the file is read: texts in quotes, numbers and flags. So the
    long form, which puts names before them, is the short form with words that are passed over. Of several
    tiers of one kind, one for each speaker, all are read.

    Raises:
        InputError: it is not a TextGrid, or it has no tier of words or phones.
    """
    items = _Praat(path)
    if (items.text(), items.text()) != ("ooTextFile", "TextGrid"):
        raise InputError(f'{path}, line {items.line}: it must begin with "ooTextFile" and "TextGrid"')
    items.number(), items.number()
    found: dict[str, list[Interval]] = {"words": [], "phones": []}
    tiers = [_praat_tier(items) for _ in range(items.count() if items.flag() == "<exists>" else 0)]
    kinds = [TIERS.get(name.lower().split(" - ")[-1].strip()) for name, _ in tiers]
    if not any(kinds):
        names = ", ".join(repr(name) for name, _ in tiers) or "none"
        raise InputError(f"{path}: its tiers are {names}; one must be called words or phones")
    for kind, (_, intervals) in zip(kinds, tiers, strict=True):
        if kind is not None:
            found[kind] += intervals
    return Timings(_tier(found["words"]), _tier(found["phones"]))


def _praat_tier(items: _Praat) -> tuple[str, list[Interval]]:
    """The name and the intervals of the next tier; one of points has none."""
    kind, name = items.text(), items.text()
    if kind not in ("IntervalTier", "TextTier"):
        raise InputError(
            f"{items.path}, line {items.line}: a tier is {kind!r}; it must be IntervalTier or TextTier"
        )
    items.number(), items.number()
    found = []
    for _ in range(items.count()):
        if kind == "TextTier":
            items.number(), items.text()
        else:
            start, end, text = items.number(), items.number(), items.text()
            found.append(_interval(items.path, items.line, start, end, text))
    return name, found


class _Praat:
    """What stands free in one of Praat's text files, one after the other."""

    def __init__(self, path: Path) -> None:
        self.path, self.line = path, 1
        self._text = _decoded(path)
        self._items = self._free()

    def _free(self) -> Iterator[tuple[int, str]]:
        # A text in quotes, in which two quotes stand for one; a comment; or a word, of which numbers and
        # flags are free and all others are names that explain them.
        pattern = re.compile(r'"(?:[^"]|"")*"|!.*|[^\s"]+')
        line, before = 1, 0
        for match in pattern.finditer(self._text):
            line, before = line + self._text.count("\n", before, match.start()), match.start()
            item = match.group()
            if item[0] == '"' or _NUMBER.fullmatch(item) or item in ("<exists>", "<absent>"):
                yield line, item

    def _next(self, right: str, fits: Callable[[str], bool]) -> str:
        self.line, item = next(self._items, (self._text.count("\n") + 1, "the end of the file"))
        if not fits(item):
            raise InputError(f"{self.path}, line {self.line}: {item} stands where there must be {right}")
        return item

    def text(self) -> str:
        return self._next("a text in quotes", lambda item: item[0] == '"')[1:-1].replace('""', '"')

    def number(self) -> float:
        return float(self._next("a number of seconds", lambda item: bool(_NUMBER.fullmatch(item))))

    def count(self) -> int:
        return int(self._next("a whole number", str.isdecimal))

    def flag(self) -> str:
        return self._next("<exists>", lambda item: item in ("<exists>", "<absent>"))


_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def _decoded(path: Path) -> str:
    """The text of a file in UTF-8 or, with a byte order mark, UTF-16, as Praat and others write."""
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: it is not text in UTF-8 or UTF-16 ({error})") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file that are not empty, with their numbers."""
    for number, line in enumerate(_decoded(path).splitlines(), start=1):
        if line.strip():
            yield number, line


def _seconds(path: Path, line: int, field: str) -> float:
    if not _NUMBER.fullmatch(field.strip()):
        raise InputError(f"{path}, line {line}: {field.strip()!r} stands where there must be seconds")
    return float(field)


def _interval(path: Path, line: int, start: float, end: float, text: str) -> Interval:
    if not 0 <= start <= end:
        raise InputError(
            f"{path}, line {line}: {text!r} lies from {start:g} to {end:g} s; it must start at 0 or later "
            "and end after that"
        )
    return Interval(start, end, text.strip())


def _tier(said: Sequence[Interval]) -> tuple[Interval, ...]:
    """Intervals in time order, without silences and without what has no length."""
    kept = [one for one in said if one.text.lower() not in SILENCES and one.end > one.start]
    return tuple(sorted(kept, key=lambda one: (one.start, one.end)))


def is_vowel(phone: str) -> bool:
    """Whether a phone is the nucleus of a syllable: a vowel, or a syllabic consonant.

    Args:
        phone: ARPABET in capitals, with or without stress (``AH0``), else IPA; Kaldi's place in the word
            (``_B``, ``_I``, ``_E``, ``_S``) is passed over.

    Example:
        >>> [is_vowel(phone) for phone in ("AH0", "IY1_E", "T", "ɔ", "ɛː", "tɕ")]
        [True, True, False, True, True, False]
    """
    bare = re.sub(r"_[BIES]$", "", phone)
    if ARPABET_VOWEL.fullmatch(bare):
        return True
    if bare.isascii() and bare[:1].isupper():
        return False
    syllabic = "\N{COMBINING VERTICAL LINE BELOW}"
    return syllabic in bare or any(letter in IPA_VOWELS for letter in unicodedata.normalize("NFD", bare))


def syllables(phones: Sequence[Interval], words: Sequence[Interval] = ()) -> tuple[Interval, ...]:
    """Join phones to syllables by a simple rule, the same for every language.

    Each vowel is the nucleus of a syllable. One consonant between two nuclei begins the second syllable; of
    several the first ends the first syllable. Consonants before the first and after the last nucleus go with
    them. No syllable reaches over a pause or, where words are given, over the end of a word; what has no
    vowel is one syllable.

    Example:
        >>> phones = "K", "IH1", "D", "N", "AH0", "P"
        >>> said = [Interval(i / 10, (i + 1) / 10, phone) for i, phone in enumerate(phones)]
        >>> [syllable.text for syllable in syllables(said)]
        ['K IH1 D', 'N AH0 P']
    """
    starts = [word.start for word in words]
    groups: list[list[Interval]] = []
    for phone in phones:
        middle = (phone.start + phone.end) / 2
        joined = groups and phone.start - groups[-1][-1].end < 1e-3
        if joined:
            before = (groups[-1][-1].start + groups[-1][-1].end) / 2
            joined = not any(before < start <= middle for start in starts)
        if joined:
            groups[-1].append(phone)
        else:
            groups.append([phone])
    return tuple(one for group in groups for one in _syllables_of_word(group))


def _syllables_of_word(phones: Sequence[Interval]) -> Iterator[Interval]:
    nuclei = [place for place, phone in enumerate(phones) if is_vowel(phone.text)]
    cuts = [first + 1 if second - first <= 2 else first + 2 for first, second in itertools.pairwise(nuclei)]
    for start, end in zip([0, *cuts], [*cuts, len(phones)], strict=True):
        part = phones[start:end]
        yield Interval(part[0].start, part[-1].end, " ".join(phone.text for phone in part))


def spelled(words: Sequence[Interval]) -> tuple[Interval, ...]:
    """Divide words evenly into as many syllables as their spelling has groups of vowels, at least one.

    A group is a run of a, e, i, o, u and y with whatever accents; that counts a mute e at the end of an
    English word, which without its sound cannot be told from one that is spoken.

    Example:
        >>> words = Interval(0.0, 1.0, "mączkę"), Interval(1.0, 1.5, "w")
        >>> [(part.start, part.end) for part in spelled(words)]
        [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5)]
    """
    parts = []
    for word in words:
        letters = unicodedata.normalize("NFD", word.text.lower())
        bare = "".join(letter for letter in letters if not unicodedata.combining(letter))
        count = max(1, len(re.findall("[aeiouy]+", bare)))
        length = (word.end - word.start) / count
        parts += [
            Interval(word.start + place * length, word.start + (place + 1) * length, word.text)
            for place in range(count)
        ]
    return tuple(parts)


def segments(said: Sequence[Interval], slots: int, end: float, hop: float = 0.1) -> Tensor:
    """Which slots of a window are in which segment, as shares of a mean.

    Slot t of T stands for the hop from ``end - (T - t) hop`` to a hop later. A slot at the edge of a segment
    counts by how much of its hop lies in the segment, so a segment whose ends lie between hops has the
    plain mean of its slots.

    Args:
        said: the segments, in seconds.
        slots: tokens of the window, T.
        end: of the window, in seconds.
        hop: seconds of a slot.

    Returns:
        ``[K, slots]``, each row summing to one; segments of which nothing lies in the window are left out.

    Example:
        >>> segments([Interval(0.0, 0.2, "no"), Interval(0.2, 0.5, "way")], slots=4, end=0.4)
        tensor([[0.5000, 0.5000, 0.0000, 0.0000],
                [0.0000, 0.0000, 0.5000, 0.5000]])
    """
    # In hops, and rounded: 0.3 / 0.1 is not 3, and a slot must not count by 1e-16.
    first = slots - end / hop
    edges = torch.arange(slots + 1, dtype=torch.float64)
    times = torch.tensor([(one.start, one.end) for one in said], dtype=torch.float64).reshape(-1, 2)
    times = (times / hop + first).mul(1e6).round().div(1e6)
    shared = torch.minimum(times[:, 1:], edges[1:]) - torch.maximum(times[:, :1], edges[:-1])
    shared = shared.clamp(min=0.0)
    kept = shared[shared.sum(dim=1) > 0]
    return (kept / kept.sum(dim=1, keepdim=True)).float()
