from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgeemo.capture.retention import forget, forget_expired, sessions
from edgeemo.errors import InputError
from tests.capture.sessions import expire, frame, ordinary, record


def test_a_session_is_deleted_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    session = ordinary(tmp_path)
    (session / ".session.json.new").write_text("{")  # what a kill left
    (session / "frames" / "00000099.jpg").write_bytes(b"")  # a picture whose line the power took
    assert forget(session) == []
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_of_the_session_stays_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session, outside = ordinary(tmp_path / "sessions"), tmp_path / "outside"
    outside.mkdir()
    (outside / "00000000.jpg").write_text("mine")
    (outside / "sound.wav").write_text("mine")
    (session / "sound.wav").unlink()
    (session / "sound.wav").symlink_to(outside / "sound.wav")
    (session / "frames" / "00000000.jpg").unlink()
    (session / "frames" / "00000000.jpg").symlink_to(outside / "00000000.jpg")
    (session / "frames" / "holiday.jpg").write_text("mine")
    (session / "frames" / "00000010.jpg").mkdir()
    (session / "notes.txt").write_text("mine")
    stayed = forget(session)
    assert [str(path.relative_to(session)) for path in stayed] == [
        "frames/00000000.jpg",
        "frames/00000010.jpg",
        "frames/holiday.jpg",
        "notes.txt",
        "sound.wav",
    ]
    assert "left because they are not of it: frames/00000000.jpg" in caplog.text
    assert {path.read_text() for path in outside.iterdir()} == {"mine"}
    assert sorted(path.name for path in session.rglob("*.jpg")) == [
        "00000000.jpg",
        "00000010.jpg",
        "holiday.jpg",
    ]
    assert not (session / "session.json").exists()


def test_pictures_behind_a_link_are_not_of_the_session(tmp_path: Path) -> None:
    session = ordinary(tmp_path / "sessions")
    outside = tmp_path / "outside"
    shutil.move(session / "frames", outside)
    (session / "frames").symlink_to(outside)
    assert forget(session) == [session / "frames"]
    assert len(list(outside.iterdir())) == 5


@pytest.mark.parametrize("kind", ["missing", "file", "plain folder", "link", "broken"])
def test_what_is_no_session_is_not_touched(tmp_path: Path, kind: str) -> None:
    session, path = ordinary(tmp_path / "sessions"), tmp_path / "path"
    if kind == "file":
        path.write_text("mine")
    elif kind == "plain folder":
        path.mkdir()
        (path / "frames.tsv").write_text("mine")
    elif kind == "link":
        path.symlink_to(session)
    elif kind == "broken":
        shutil.copytree(session, path)
        (path / "session.json").write_text('{"schema": 1}')
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="no"):
        forget(path)
    with pytest.raises(InputError, match="no recorded session"):
        sessions(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_sessions_of_a_folder(tmp_path: Path) -> None:
    first, second = sorted([ordinary(tmp_path), ordinary(tmp_path)])
    expire(second)
    (tmp_path / "link").symlink_to(first)
    (tmp_path / "other").mkdir()
    assert sessions(tmp_path) == [first, second]
    assert sessions(str(first)) == [first]


def test_only_sessions_whose_time_is_over_are_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept, over, outside = (record(tmp_path / name, frame(0.0)) for name in ("a", "a", "b"))
    expire(over)
    expire(outside)
    (tmp_path / "a" / "link").symlink_to(outside)
    (tmp_path / "a" / "notes.txt").write_text("mine")
    shutil.copytree(over, tmp_path / "a" / "folder" / "deeper")
    assert forget_expired(tmp_path / "a") == [over]
    assert not over.exists()
    assert kept.exists() and outside.exists() and (tmp_path / "a" / "folder" / "deeper").exists()
    assert forget_expired(tmp_path / "none") == []
    assert caplog.text == ""
