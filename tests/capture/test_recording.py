from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeemo.capture import open_source
from edgeemo.capture.recording import WAVE_HEADER, Recording, wave_header
from edgeemo.capture.source import Frame, Sound
from edgeemo.errors import InputError, SourceError
from tests.capture.sessions import alter, expire, frame, ordinary, picture, record, sound


@pytest.fixture
def session(tmp_path: Path) -> Path:
    return ordinary(tmp_path / "sessions")


def test_a_session_is_a_source(session: Path) -> None:
    recording = open_source(session)
    assert isinstance(recording, Recording)
    assert (recording.name, recording.live) == (str(session), False)
    assert recording.modalities == ("face", "voice")
    assert recording.duration == pytest.approx(0.5)
    for _ in range(2):
        events = list(recording)
        assert [one.time for one in events] == sorted(one.time for one in events)
        frames = [one for one in events if isinstance(one, Frame)]
        assert [one.time for one in frames] == [hop * 0.1 + 0.05 for hop in range(5)]
        for hop, one in enumerate(frames):
            assert np.abs(one.image().astype(int) - picture(20 * hop)).max() <= 3
        heard = [one for one in events if isinstance(one, Sound)]
        expected = np.concatenate([sound(0.0, seed=hop).samples for hop in range(5)])
        np.testing.assert_array_equal(np.concatenate([one.samples for one in heard]), expected)
    assert recording.stats == {"missing_frames": 0, "truncated": 0}
    recording.close()
    assert list(recording) == []


@pytest.mark.parametrize(("wanted", "kind"), [(("face",), Frame), (("voice",), Sound)])
def test_one_modality_of_two(session: Path, wanted: tuple[str, ...], kind: type) -> None:
    recording = Recording(session, wanted)
    assert recording.modalities == wanted
    assert {type(one) for one in recording} == {kind}


def test_gaps_and_rates_of_the_sound_are_kept(tmp_path: Path) -> None:
    blocks = [
        sound(1 / 3, 0.25, seed=1),
        sound(1 / 3 + 0.25, 0.1, seed=2),
        sound(2.0, 0.1, seed=3),  # after a gap
        sound(2.0999, 0.1, seed=4),  # too early by a tenth of a millisecond
        sound(3.0, 0.1, 48000, seed=5),  # at another rate
    ]
    session = record(tmp_path, *blocks)
    assert len((session / "sound.tsv").read_text().splitlines()) == 1 + 4
    heard = [one for one in Recording(session) if isinstance(one, Sound)]
    for block in blocks:
        begun = [one for one in heard if one.time == block.time]
        assert begun or block is blocks[1]
    samples = np.concatenate([one.samples for one in heard])
    np.testing.assert_array_equal(samples, np.concatenate([one.samples for one in blocks]))
    assert [one.sample_rate for one in heard][-1] == 48000
    assert Recording(session).duration == pytest.approx(3.1)


def test_the_sound_is_an_ordinary_file_too(session: Path) -> None:
    from edgeemo.capture.clip import read_sound

    samples, rate = read_sound(session / "sound.wav")
    assert rate == 16000
    np.testing.assert_array_equal(
        samples,
        np.concatenate([one.samples for one in Recording(session, ("voice",)) if isinstance(one, Sound)]),
    )


def test_a_length_that_a_header_cannot_hold_is_left_open() -> None:
    assert wave_header(16000, 1 << 30) == wave_header(16000, None)
    assert wave_header(16000, 0) != wave_header(16000, None)


def test_pictures_come_in_the_order_of_their_times(session: Path) -> None:
    path = session / "frames.tsv"
    head, *lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([head, *lines[::-1]]))
    times = [one.time for one in Recording(session, ("face",))]
    assert times == sorted(times) and len(times) == 5


# --- damaged and foreign sessions


def replaced(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(session: Path) -> None:
        content = (session / name).read_bytes()
        assert old in content
        (session / name).write_bytes(content.replace(old, new, 1))

    return change


def written(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda session: (session / name).write_bytes(content) and None


def removed(name: str) -> Callable[[Path], None]:
    return lambda session: (session / name).unlink()


def with_fields(**fields: Any) -> Callable[[Path], None]:
    return lambda session: alter(session, **fields)


def linked(name: str) -> Callable[[Path], None]:
    def change(session: Path) -> None:
        outside = session.parent / "outside"
        (session / name).rename(outside)
        (session / name).symlink_to(outside)

    return change


BROKEN: list[tuple[str, Callable[[Path], None], str]] = [
    (
        "no session.json",
        removed("session.json"),
        r"a folder without session.json: give one video, sound file",
    ),
    ("linked session.json", linked("session.json"), r"a folder without session.json"),
    ("empty session.json", written("session.json", b""), r"session.json: not JSON"),
    ("garbled session.json", written("session.json", b"\xff\0{"), r"session.json: not JSON"),
    ("deep session.json", written("session.json", b"[" * 100_000), r"session.json: not JSON"),
    ("a list", written("session.json", b"[1]"), r"session.json: list, not the JSON object"),
    ("a long one", written("session.json", b" " * (1 << 20) + b"{}"), r"session.json: larger than"),
    ("schema true", with_fields(schema=True), r"session.json: schema True; this version of edgeemo reads 1"),
    ("another schema", with_fields(schema=2), r"session.json: schema 2; this version of edgeemo reads 1"),
    ("no modality", with_fields(modalities=[]), r"session.json: modalities must list"),
    ("a wrong modality", with_fields(modalities=["smell"]), r"session.json: modalities must list"),
    ("nested modalities", with_fields(modalities=[["face"]]), r"session.json: modalities must list"),
    ("no date", with_fields(expires=None), r"session.json: expires is NoneType; it must be a moment"),
    ("a wrong date", with_fields(expires="soon"), r"session.json: expires is 'soon'"),
    ("a huge date", with_fields(expires=10**400), r"session.json: expires is 1000"),
    ("no frames.tsv", removed("frames.tsv"), r"frames.tsv: missing, or not a file"),
    ("linked frames.tsv", linked("frames.tsv"), r"frames.tsv: missing, or not a file"),
    ("no sound.wav", removed("sound.wav"), r"sound.wav: cannot be read"),
    ("linked sound.wav", linked("sound.wav"), r"sound.wav: missing, or not a file"),
    ("a way out", replaced("frames.tsv", b"00000001.jpg", b"../../a.jpg"), r"frames.tsv, line 3: .*not what"),
    (
        "a short way out",
        replaced("frames.tsv", b"\t00000001.jpg", b"\t../00000001.jpg"),
        r"frames.tsv, line 3",
    ),
    ("an absolute way", replaced("frames.tsv", b"00000001.jpg", b"/etc/passwd"), r"frames.tsv, line 3"),
    ("a time that is none", replaced("frames.tsv", b"0.05\t", b"soon\t"), r"frames.tsv, line 2"),
    ("a huge time", replaced("frames.tsv", b"0.05\t", b"1e300\t"), r"frames.tsv, line 2"),
    ("a time of nan", replaced("frames.tsv", b"0.05\t", b"nan\t"), r"frames.tsv, line 2"),
    ("a time before 0", replaced("frames.tsv", b"0.05\t", b"-1\t"), r"frames.tsv, line 2"),
    ("a field too many", replaced("frames.tsv", b"0.05\t", b"0.05\t\t"), r"frames.tsv, line 2"),
    ("another head", replaced("frames.tsv", b"time\t", b"place\t"), r"frames.tsv, line 1"),
    ("a rate of 0", replaced("sound.tsv", b"\t16000", b"\t0"), r"sound.tsv, line 2"),
    ("a huge rate", replaced("sound.tsv", b"\t16000", b"\t" + b"9" * 5000), r"sound.tsv, line 2"),
    (
        "another rate",
        replaced("sound.tsv", b"\t16000", b"\t8000"),
        r"sound.wav: not the sound of a session at 8",
    ),
    ("a sample before 0", replaced("sound.tsv", b"\t0\t", b"\t-5\t"), r"sound.tsv, line 2"),
    (
        "pieces out of order",
        replaced("sound.tsv", b"0.0\t0\t16000\n", b"0.0\t50\t16000\n1.0\t20\t16000\n"),
        r"sound.tsv: a piece begins before",
    ),
    ("another sound", written("sound.wav", b"RIFF" + bytes(100)), r"sound.wav: not the sound of a session"),
    ("expired", expire, r"was to be kept until 2020-01-01 .*delete it with 'edgeemo forget "),
]


@pytest.mark.parametrize(
    ("change", "message"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN]
)
def test_a_broken_session_is_refused(change: Callable[[Path], None], message: str, session: Path) -> None:
    change(session)
    with pytest.raises(SourceError, match=message) as raised:
        Recording(session)
    assert str(session) in str(raised.value)


def test_a_short_link_is_not_a_sound_that_was_cut_off(session: Path) -> None:
    (session / "sound.wav").unlink()
    (session / "sound.wav").symlink_to("away")
    with pytest.raises(SourceError, match=r"sound.wav: missing, or not a file"):
        Recording(session)


def test_pictures_beyond_a_link_are_not_followed(session: Path) -> None:
    linked("frames")(session)
    recording = Recording(session)
    assert all(isinstance(one, Sound) for one in recording)
    assert recording.stats["missing_frames"] > 0


def test_modalities_that_are_none(session: Path) -> None:
    for wanted in ((), ("smell",)):
        with pytest.raises(InputError, match="give 'face', 'voice' or both"):
            Recording(session, wanted)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    session = record(tmp_path, frame(0.0))
    assert Recording(session).modalities == ("face",)
    with pytest.raises(SourceError, match="the session holds no sound"):
        Recording(session, ("voice",))


def test_a_picture_that_is_missing_is_left_out_with_a_warning(
    session: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (session / "frames" / "00000001.jpg").unlink()
    outside = session.parent / "outside.jpg"
    (session / "frames" / "00000003.jpg").rename(outside)
    (session / "frames" / "00000003.jpg").symlink_to(outside)
    recording = Recording(session)
    assert len([one for one in recording if isinstance(one, Frame)]) == 3
    assert recording.stats["missing_frames"] == 2
    assert [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING] == [
        f"{session}: 2 of its pictures are missing and were left out"
    ]


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_picture_that_is_damaged_names_itself(
    session: Path, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = session / "frames" / "00000001.jpg"
    if content is None:
        content = path.read_bytes()[:-40]
        real = cv2.imdecode

        def filled(given: NDArray[np.uint8], flags: int) -> Any:
            """Make a picture of a part of one, as older versions of OpenCV do."""
            return picture(0) if given.tobytes() == content else real(given, flags)

        monkeypatch.setattr(cv2, "imdecode", filled)
    path.write_bytes(content)
    images = [one.image for one in Recording(session) if isinstance(one, Frame)]
    images[0]()
    with pytest.raises(SourceError, match=r"00000001.jpg: not a picture, or one that was cut off"):
        images[1]()


@pytest.mark.parametrize("cut", [1, 3, 4, 1000])
def test_a_sound_that_was_cut_off_is_read_up_to_the_cut(
    session: Path, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = session / "sound.wav"
    whole = [one.samples for one in Recording(session, ("voice",)) if isinstance(one, Sound)]
    os.truncate(path, path.stat().st_size - cut)
    recording = Recording(session, ("voice",))
    rest = [one.samples for one in recording if isinstance(one, Sound)]
    expected = np.concatenate(whole)[: 8000 - -(-cut // 4)]
    np.testing.assert_array_equal(np.concatenate(rest), expected)
    assert "the recording was cut off" in caplog.text and recording.stats["truncated"] == 1


def test_a_head_that_was_cut_off_leaves_the_pictures(session: Path) -> None:
    os.truncate(session / "sound.wav", WAVE_HEADER.size - 1)
    recording = Recording(session)
    assert recording.modalities == ("face",) and len(list(recording)) == 5
    assert recording.stats["truncated"] == 1


@pytest.mark.parametrize("tail", [b"0.4", b"0.4\t000", b"\0\0\0\0\n\0", b"0.4\t00000004.jp"])
def test_a_line_that_was_cut_off_is_passed_over(
    session: Path, tail: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with (session / "frames.tsv").open("ab") as file:
        file.write(tail)
    recording = Recording(session)
    assert len([one for one in recording if isinstance(one, Frame)]) == 5
    assert recording.stats["truncated"] == 1 and "the recording was cut off" in caplog.text


def test_sound_that_a_failing_disk_made_up_is_made_harmless(session: Path) -> None:
    content = bytearray((session / "sound.wav").read_bytes())
    values = np.array([np.nan, np.inf, -np.inf, 5.0], "<f4")
    content[WAVE_HEADER.size : WAVE_HEADER.size + 16] = values.tobytes()
    (session / "sound.wav").write_bytes(content)
    first = next(one for one in Recording(session) if isinstance(one, Sound))
    assert first.samples[:4].tolist() == [0.0, 1.0, -1.0, 1.0]
