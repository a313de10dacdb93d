from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from edgeemo.errors import InputError, SourceError
from edgeemo_export.data.timings import (
    Interval,
    Timings,
    is_vowel,
    read,
    read_ctm,
    segments,
    spelled,
    syllables,
)

WORDS = (Interval(0.0, 0.5, "kids"), Interval(0.5, 0.75, "are"), Interval(1.0, 1.5, 'so-called "door"'))
PHONES = (Interval(0.0, 0.25, "K"), Interval(0.25, 0.5, "IH1"))

LONG = '''File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1.5
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "Actor 2 - words"
        xmin = 0
        xmax = 1.5
        intervals: size = 4
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = "kids"
        intervals [2]:
            xmin = 0.5
            xmax = 0.75
            text = "are"
        intervals [3]:
            xmin = 0.75
            xmax = 1
            text = ""
        intervals [4]:
            xmin = 1
            xmax = 1.5
            text = "so-called ""door"""
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 1.5
        points: size = 1
        points [1]:
            number = 0.3
            mark = "click"
    item [3]:
        class = "IntervalTier"
        name = "Actor 2 - phones"
        xmin = 0
        xmax = 1.5
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.25
            text = "K"
        intervals [2]:
            xmin = 0.25
            xmax = 0.5
            text = "IH1"
        intervals [3]:
            xmin = 0.5
            xmax = 1.5
            text = "sil"
'''

SHORT = '''"ooTextFile"
"TextGrid"
0
1.5
<exists>
2
"IntervalTier"
"words"
0
1.5
4
0
0.5
"kids"
0.5 0.75 "are" ! a comment with "quotes"
0.75
1
"sp"
1
1.5
"so-called ""door"""
"IntervalTier"
"phones"
0
1.5
2
0
0.25
"K"
0.25
0.5
"IH1"
'''


def test_tsv(tmp_path: Path) -> None:
    lines = '0.5\t0.75\tare\n0\t.5\tkids\n\n0.75\t1\t<eps>\n1.0\t1.5\tso-called "door"\n'
    for text in (lines, f"Start\tEnd\tWord\r\n{lines}", "\ufeff" + lines):
        (tmp_path / "a.tsv").write_text(text, encoding="utf-8")
        assert read(tmp_path / "a.tsv") == Timings(words=WORDS)


def test_ctm(tmp_path: Path) -> None:
    (tmp_path / "a.ctm").write_text(
        ";; by an aligner\nclip 1 0.50 0.25 are 0.9\nclip 1 0.0 0.5 kids ;; the first\n"
        "clip 1 0.8 0.1 SIL\nclip 1 0.9 0 uh\n"
    )
    assert read(tmp_path / "a.ctm") == Timings(words=WORDS[:2])
    (tmp_path / "b.ctm").write_text("one A 0 0.25 K\ntwo A 0 1 other\none A 0.25 0.25 IH1\n")
    assert read_ctm(tmp_path / "b.ctm", "one", "phones") == Timings(phones=PHONES)
    (tmp_path / "c.ctm").write_text("")
    assert read(tmp_path / "c.ctm") == Timings()


@pytest.mark.parametrize("form", [LONG, SHORT])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_textgrid(form: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.TextGrid"
    path.write_text(form, encoding=encoding)
    assert read(path) == Timings(WORDS, PHONES)


def test_textgrid_of_two_speakers(tmp_path: Path) -> None:
    tier = '"IntervalTier" "{} - words" 0 1 1 {} "{}" '
    tiers = tier.format("a", "0.5 1", "later") + tier.format("b", "0 0.5", "first")
    path = tmp_path / "a.textgrid"
    path.write_text(f'"ooTextFile" "TextGrid" 0 1 <exists> 2 {tiers}')
    assert [word.text for word in read(path).words] == ["first", "later"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", r"a\.txt: timings are read from \.tsv, \.ctm and \.TextGrid, not from '\.txt'"),
        ("a.tsv", "0\t1\ta\n0\t1\n", r"line 2: it has 2 fields; it must be start, end"),
        ("a.ctm", b"clip 1 0 1 \xff\xfe\xfa", r"a\.ctm: it is not text in UTF-8 or UTF-16"),
        ("a.ctm", "\nclip 1 0 1\n", r"line 2: it has 4 fields; it must have recording, channel, start,"),
        ("a.ctm", "clip 1 0 -1 a\n", r"line 1: 'a' lies from 0 to -1 s"),
        ("a.ctm", "clip 1 x 1 a\n", r"line 1: 'x' stands where there must be seconds"),
        ("a.ctm", "one 1 0 1 a\ntwo 1 0 1 a\n", r"it holds 2 recordings; say which of one, two"),
        ("a.TextGrid", "", r'line 1: the end of the file stands where there must be a text in quotes'),
        ("a.TextGrid", '"ooTextFile"\n"Pitch"', r'line 2: it must begin with "ooTextFile" and "TextGrid"'),
        (
            "a.TextGrid",
            SHORT.replace('0.5 0.75 "are"', '0.5 "are"'),
            r'line 15: "are" stands where there must be a number of seconds',
        ),
        ("a.TextGrid", SHORT.replace('"kids"', "kids"), r"line 15: 0\.5 stands where there must be a text"),
        ("a.TextGrid", SHORT.replace('1.5\n4\n', '1.5\n4.5\n'), r"line 11: 4\.5 .* must be a whole number"),
        ("a.TextGrid", SHORT.replace('<exists>', '7'), r"line 5: 7 stands where there must be <exists>"),
        ("a.TextGrid", SHORT.replace("0\n0.5\n", "0.6\n0.5\n"), r"line 14: 'kids' lies from 0\.6 to 0\.5 s"),
        ("a.TextGrid", SHORT[: SHORT.index('"IH1"')], r"the end of the file stands where"),
        ("a.TextGrid", SHORT.replace('"IntervalTier"', '"Tier"'), r"a tier is 'Tier'; it must be Int"),
        (
            "a.TextGrid",
            SHORT.replace('"words"', '"orthography"').replace('"phones"', '"sounds"'),
            r"its tiers are 'orthography', 'sounds'; one must be called words or phones",
        ),
        ("a.TextGrid", '"ooTextFile" "TextGrid" 0 1 <absent>', r"its tiers are none"),
    ],
)  # fmt: skip
def test_errors(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(SourceError if name == "a.tsv" else InputError, match=message) as raised:
        read(path)
    assert str(path) in str(raised.value)


def test_a_recording_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.ctm").write_text("one 1 0 1 a\n")
    with pytest.raises(InputError, match="does not hold 'two'; it holds one"):
        read_ctm(tmp_path / "a.ctm", "two")


# Syllables


@pytest.mark.parametrize(
    ("phone", "vowel"),
    [
        *[(phone, True) for phone in ("AH0", "ER", "EH1_B", "AXR", "ɔ", "ɛ\u0303", "ai", "n\u0329", "a")],
        *[(phone, False) for phone in ("HH", "K_S", "N", "tɕ", "j", "b")],
    ],
)
def test_vowels(phone: str, vowel: bool) -> None:
    assert is_vowel(phone) == vowel


def said(*phones: str, start: float = 0.0) -> list[Interval]:
    return [Interval(start + k / 10, start + (k + 1) / 10, phone) for k, phone in enumerate(phones)]


@pytest.mark.parametrize(
    ("phones", "expected"),
    [
        (["AA"], ["AA"]),
        (["S", "T", "AA", "P", "S"], ["S T AA P S"]),
        (["AA", "IY"], ["AA", "IY"]),
        (["D", "AA", "G", "IY"], ["D AA", "G IY"]),
        (["S", "IH", "T", "IH", "NG"], ["S IH", "T IH NG"]),
        (["AE", "K", "S", "T", "R", "AH"], ["AE K", "S T R AH"]),
        (["S", "T"], ["S T"]),
        ([], []),
    ],
)
def test_syllables(phones: list[str], expected: list[str]) -> None:
    found = syllables(said(*phones))
    assert [syllable.text for syllable in found] == expected
    if phones:
        assert found[0].start == 0.0 and found[-1].end == pytest.approx(len(phones) / 10)
        assert all(one.end == other.start for one, other in itertools.pairwise(found))


def test_no_syllable_reaches_over_a_word_or_a_pause() -> None:
    phones = said("B", "AY", "DH", "AH")
    assert [one.text for one in syllables(phones)] == ["B AY", "DH AH"]
    words = [Interval(0.0, 0.3, "buyth"), Interval(0.3, 0.4, "a")]
    assert [one.text for one in syllables(phones, words)] == ["B AY DH", "AH"]
    apart = said("S", "T") + said("AA", start=1.0)
    assert [one.text for one in syllables(apart)] == ["S T", "AA"]


def test_syllables_of_spelling() -> None:
    words = [Interval(0.0, 0.9, "Różnorodny"), Interval(1.0, 1.2, "w")]
    made = spelled(words)
    assert [one.start for one in made] == pytest.approx([0.0, 0.225, 0.45, 0.675, 1.0])
    assert made[-1] == Interval(1.0, 1.2, "w")


def test_granularities() -> None:
    both = Timings(WORDS, PHONES)
    assert both.of("word") == WORDS and both.of("phone") == PHONES
    assert [one.text for one in both.of("syllable")] == ["K IH1"]  # of the phones, which are known
    assert both.of("syllable")[0].end == 0.5
    alone = Timings(words=WORDS)
    assert alone.of("syllable") == spelled(WORDS) and alone.of("phone") == ()


# Segments


def test_segments_are_plain_means_of_whole_slots() -> None:
    matrix = segments([*said("a", "b", "c"), Interval(0.3, 0.8, "d")], slots=10, end=1.0)
    expected = torch.zeros(4, 10)
    expected[[0, 1, 2], [0, 1, 2]] = 1.0
    expected[3, 3:8] = 0.2
    assert torch.equal(matrix, expected)


def test_a_slot_at_the_edge_counts_by_its_share() -> None:
    (row,) = segments([Interval(0.05, 0.225, "a")], slots=4, end=0.4)
    torch.testing.assert_close(row, torch.tensor([0.05, 0.1, 0.025, 0.0]) / 0.175)


def test_a_segment_within_a_slot_is_the_slot() -> None:
    assert segments([Interval(0.12, 0.15, "a")], slots=2, end=0.2).tolist() == [[0.0, 1.0]]


def test_what_lies_outside_the_window_is_left_out() -> None:
    early, cut, late = Interval(0.0, 1.0, "a"), Interval(0.9, 1.2, "b"), Interval(2.0, 2.5, "c")
    assert segments([early, cut, late], slots=10, end=2.0).tolist() == [[0.5, 0.5, *[0.0] * 8]]
    assert segments([], slots=10, end=2.0).shape == (0, 10)


def test_seconds_of_a_slot() -> None:
    matrix = segments([Interval(0.02, 0.06, "a")], slots=5, end=0.1, hop=0.02)
    torch.testing.assert_close(matrix, torch.tensor([[0.0, 0.5, 0.5, 0.0, 0.0]]))
