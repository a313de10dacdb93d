from __future__ import annotations

from pathlib import Path

import pytest

from edgeemo.capture.source import Words
from edgeemo.capture.words import read_words, spread
from edgeemo.errors import SourceError


@pytest.mark.parametrize(
    "content",
    [
        b"0.1\t0.4\twell\n0.4\t1\tplayed, you two\n",
        b"start\tend\twords\n0.1\t0.4\twell\n0.4\t1\tplayed, you two",
        b"start\tend\tword\n0.1\t0.4\twell\n0.4\t1\tplayed, you two\n",
        b"\xef\xbb\xbfStart\tEnd\tWords\r\n0.1\t0.4\twell\r\n\r\n 0.4 \t1.0\t played, you two \r\n\r\n",
        b"0.1\t0.4\twell\n \t \t \n0.4\t1\tplayed, you two\n",
        b"0.1\t0.4\twell\n0.9\t0.9\t\n0.4\t1e0\tplayed, you two\n",
    ],
)
def test_a_table_is_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "words.tsv").write_bytes(content)
    words = read_words(tmp_path / "words.tsv")
    assert words == [Words("well", 0.1, 0.4), Words("played, you two", 0.4, 1.0)]
    assert [one.time for one in words] == [0.4, 1.0]


def test_letters_of_every_script_are_read_and_nothing_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "words.tsv"
    path.write_text("0\t1\tzażółć 世界 👍\u2028end\n", "utf-8")
    assert read_words(str(path)) == [Words("zażółć 世界 👍\u2028end", 0.0, 1.0)]
    for nothing in ("", "start\tend\twords\n", "\n\n"):
        path.write_text(nothing, "utf-8")
        assert read_words(path) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0.1 0.4 well", "it has 1 fields; it must be start, end"),
        ("0.1\t0.4", "it has 2 fields"),
        ("0.1\t0.4\twell\tplayed", "it has 4 fields"),
        ("start\tend\twords", "the start is 'start'; it must be a number"),  # not in the first line
        ("soon\t0.4\twell", "the start is 'soon'; it must be a number of seconds of at least 0"),
        ("0.1\tnan\twell", "the end is 'nan'"),
        ("0.1\tinf\twell", "the end is 'inf'"),
        ("0,1\t0.4\twell", "the start is '0,1'"),
        ("-0.1\t0.4\twell", "the start is '-0.1'"),
        ("0.5\t0.4\twell", "the end, 0.4 s, is before the start, 0.5 s; it must not be"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "words.tsv"
    path.write_text(f"start\tend\twords\n\n0\t1\twell\n{line}\n", "utf-8")
    with pytest.raises(SourceError) as caught:
        read_words(path)
    assert str(caught.value).startswith(f"{path}, line 4: ")
    assert message in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bytes.tsv").write_bytes(b"0\t1\t\xff\n")
    for name, why in [
        ("none.tsv", "No such file or directory"),
        (".", "Is a directory"),
        ("bytes.tsv", "byte 4 is not UTF-8"),
        ("a\0b.tsv", "null"),
    ]:
        with pytest.raises(SourceError, match="it cannot be read") as caught:
            read_words(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name)) and why in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds", "expected"),
    [
        ("", 2.0, []),
        (" \n", 2.0, []),
        ("one", 2.0, [("one", 0.0, 2.0)]),
        (" one  two\nthree ", 0.3, [("one", 0.0, 0.1), ("two", 0.1, 0.2), ("three", 0.2, 0.3)]),
        ("one two", 0.0, [("one", 0.0, 0.0), ("two", 0.0, 0.0)]),
    ],
)
def test_words_are_spread_evenly(text: str, seconds: float, expected: list[tuple[str, float, float]]) -> None:
    words = spread(text, seconds)
    assert [one.words for one in words] == [word for word, _, _ in expected]
    times = [time for one in words for time in (one.start, one.end)]
    assert times == pytest.approx([time for _, start, end in expected for time in (start, end)])
    assert not words or words[-1].end == seconds
