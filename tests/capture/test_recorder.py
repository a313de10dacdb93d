from __future__ import annotations

import json
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeemo.capture import recorder as module
from edgeemo.capture.recorder import notice
from edgeemo.capture.recording import Recording
from edgeemo.capture.source import Frame, Sound
from edgeemo.errors import InputError
from tests.capture.sessions import CONSENT, Made, frame, ordinary, picture, record, recorder, sound
from tests.support.read_only import mount_read_only


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def frames(session: Path) -> list[Frame]:
    return [one for one in Recording(session) if isinstance(one, Frame)]


def test_events_pass_unchanged_and_the_source_is_closed(tmp_path: Path) -> None:
    source = Made(frame(0.0, 10), sound(0.0), frame(0.03, 20), sound(0.1))
    tap = recorder(source, tmp_path)
    given = list(tap)
    assert [type(one) for one in given] == [Frame, Sound, Frame, Sound]
    assert given[1] is source.events[1] and given[3] is source.events[3]
    shown = [one.image() for one in given if isinstance(one, Frame)]
    assert [image[0, 0, 0] for image in shown] == [10, 20]
    assert (tap.name, tap.modalities, tap.live, tap.duration) == ("made up", ("face", "voice"), False, None)
    tap.close()
    tap.close()
    assert source.closed
    assert tap.stats == {"of_the_source": 7, "unrecorded_frames": 0, "unrecorded_samples": 0}
    assert str(tap) == (
        f"recorded 1 pictures and 0.2 s of sound, in {tap.path}; 'edgeemo forget {tap.path}' deletes them"
    )


def test_the_newest_picture_of_each_hop_is_kept(tmp_path: Path) -> None:
    session = record(tmp_path, *[frame(number / 30, number) for number in range(30)])
    assert [one.time for one in frames(session)] == [number / 30 for number in range(2, 30, 3)]
    assert len(list((session / "frames").iterdir())) == 10


def test_a_picture_is_made_once_for_recognition_and_recorder(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> NDArray[np.uint8]:
        made.append(1)
        return picture(50)

    tap = recorder(Made(Frame(0.0, make), Frame(0.05, make), Frame(0.1, make)), tmp_path)
    for one in tap:
        if one.time != 0.05:
            assert isinstance(one, Frame)
            one.image()
    tap.close()
    # The first was made for recognition alone, the second for the recorder alone, the third once for both.
    assert sum(made) == 3


def test_files_are_private_and_say_what_they_are(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        session = ordinary(tmp_path / "new" / "sessions")
    finally:
        os.umask(old)
    assert mode(session.parent) == mode(session) == mode(session / "frames") == 0o700
    assert {mode(path) for path in session.rglob("*") if path.is_file()} == {0o600}
    about = json.loads((session / "session.json").read_text())
    created, expires = about.pop("created"), about.pop("expires")
    assert created[:10] < expires[:10] and created[10:] == expires[10:]
    assert about == {
        "schema": 1,
        "source": "made up",
        "modalities": ["face", "voice"],
        "consent": {"asked": CONSENT.asked, "given": "terminal", "time": "2026-01-02T03:04:05Z"},
        "picture": {"format": "jpeg", "quality": 95, "hop": 0.1},
        "sound": {"sample_rate": 16000, "format": "float32"},
        "software": about["software"],
        "frames": 5,
        "seconds": 0.5,
        "lost": {"unrecorded_frames": 0, "unrecorded_samples": 0},
    }
    assert not list(session.glob(".*"))


def test_two_sessions_of_one_second_are_two(tmp_path: Path) -> None:
    assert ordinary(tmp_path) != ordinary(tmp_path)


def test_a_session_into_which_nothing_came_is_removed(tmp_path: Path) -> None:
    tap = recorder(Made(), tmp_path)
    assert tap.path.is_dir()
    tap.close()
    assert list(tmp_path.iterdir()) == [] and str(tap) == "nothing was recorded"


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--record .*file: cannot be written"):
        recorder(Made(), tmp_path / "file")
    mount_read_only(monkeypatch)
    with pytest.raises(InputError, match=r"--record .*: cannot be written \(Read-only file system\)"):
        recorder(Made(), tmp_path / "other")


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_session_that_cannot_begin_leaves_nothing(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, done = os.write, [0]

    def write(handle: int, content: Any) -> int:
        done[0] += 1
        if done[0] == after:
            raise OSError(28, "No space left on device")
        return real(handle, content)

    monkeypatch.setattr(module.os, "write", write)
    if after == 4:  # it has begun by then
        recorder(Made(), tmp_path).close()
    else:
        with pytest.raises(InputError, match="No space left on device"):
            recorder(Made(), tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- a disk that fails, and one that is slow


def failing(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """From now on only so many writes succeed; the last of them takes a part, as on a disk that is full."""
    real, done = os.write, [0]

    def write(handle: int, content: Any) -> int:
        done[0] += 1
        if done[0] > after:
            raise OSError(28, "No space left on device")
        return real(handle, content[:7] if done[0] == after else content)

    monkeypatch.setattr(module.os, "write", write)


def test_a_full_disk_ends_the_recording_and_not_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    events = [one for hop in range(20) for one in (sound(hop / 10, seed=hop), frame(hop / 10 + 0.05))]
    tap = recorder(Made(*events), tmp_path)
    failing(monkeypatch, after=17)
    assert [one.time for one in tap] == [one.time for one in events]
    tap.close()
    monkeypatch.undo()
    warnings = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert warnings == [f"{tap.path}: the recording has stopped (No space left on device); the answers go on"]
    lost = tap.stats
    assert 0 < lost["unrecorded_frames"] < 20 and 0 < lost["unrecorded_samples"] < 32000
    replayed = list(Recording(tap.path))
    assert len([one for one in replayed if isinstance(one, Sound)]) >= 2
    assert "without" in str(tap)


def test_a_recording_that_stopped_does_not_begin_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, done = module.os.write, [0]

    def write(handle: int, content: Any) -> int:
        done[0] += 1
        if done[0] == 4:
            raise OSError(5, "Input/output error")
        return real(handle, content)

    tap = recorder(Made(*[frame(hop / 10) for hop in range(9)]), tmp_path)
    monkeypatch.setattr(module.os, "write", write)
    list(tap)
    tap.close()
    assert len(caplog.records) == 1 and tap.stats["unrecorded_frames"] == 8
    assert len(list((tap.path / "frames").iterdir())) == 2  # one of them in part


def test_a_disk_that_takes_a_little_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.os.write
    monkeypatch.setattr(module.os, "write", lambda handle, content: real(handle, content[:1000]))
    session = ordinary(tmp_path)
    assert sum(one.samples.size for one in Recording(session) if isinstance(one, Sound)) == 8000
    assert all(one.image().shape == (48, 64, 3) for one in frames(session))


def test_a_live_source_does_not_wait_for_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    real = os.write
    monkeypatch.setattr(module, "_WAITING", 20)
    events = [frame(hop / 10) for hop in range(30)] + [sound(3 + hop / 10) for hop in range(30)]
    tap = recorder(Made(*events, live=True), tmp_path)

    def write(handle: int, content: Any) -> int:
        assert go_on.wait(20)
        return real(handle, content)

    monkeypatch.setattr(module.os, "write", write)
    assert len(list(tap)) == 60  # while nothing is written
    go_on.set()
    tap.close()
    lost = tap.stats
    assert lost["unrecorded_frames"] >= 30 - 8 - 2 and lost["unrecorded_samples"] >= 1600 * 10
    kept = list(Recording(tap.path))
    assert len([one for one in kept if isinstance(one, Frame)]) == 30 - lost["unrecorded_frames"]
    heard = [one for one in kept if isinstance(one, Sound)]
    assert sum(one.samples.size for one in heard) == 48000 - lost["unrecorded_samples"]


def test_a_file_waits_for_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAITING", 2)
    monkeypatch.setattr(module, "_WAITING_PICTURES", 1)
    real = module.os.write

    def write(handle: int, content: Any) -> int:
        threading.Event().wait(0.002)
        return real(handle, content)

    monkeypatch.setattr(module.os, "write", write)
    session = record(tmp_path, *[one for hop in range(30) for one in (frame(hop / 10), sound(hop / 10))])
    assert len(frames(session)) == 30
    assert sum(one.samples.size for one in Recording(session) if isinstance(one, Sound)) == 48000


def test_what_cannot_be_used_is_counted_and_passed_on(tmp_path: Path) -> None:
    def broken() -> NDArray[np.uint8]:
        raise RuntimeError("no data")

    nan, late = float("nan"), 1e12
    events = [
        frame(0.0),
        Frame(0.1, broken),
        frame(nan),
        frame(late),
        sound(-1.0),
        sound(0.0, rate=300),
        sound(0.1),
    ]
    tap = recorder(Made(*events), tmp_path)
    assert len(list(tap)) == 7
    tap.close()
    assert tap.stats["unrecorded_frames"] == 3 and tap.stats["unrecorded_samples"] == 1600 + 30
    assert [type(one) for one in Recording(tap.path)] == [Frame, Sound]


KILLED = """
import os, signal, sys, time
from pathlib import Path
from tests.capture.sessions import Made, frame, recorder, sound
class Endless(Made):
    def __iter__(self):
        hop = 0
        while True:
            yield sound(hop / 10, seed=hop)
            yield frame(hop / 10 + 0.05)
            hop += 1
            time.sleep(0.01)
tap = recorder(Endless(live=True), Path(sys.argv[1]))
print(tap.path, flush=True)
for event in tap: pass
"""


def test_what_was_written_before_a_kill_replays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, cwd=root, env={**os.environ, "PYTHONPATH": path}
    ) as process:
        assert process.stdout is not None
        session = Path(process.stdout.readline().strip())
        table = session / "frames.tsv"
        for _ in range(2000):
            if table.exists() and table.read_bytes().count(b"\n") > 5:
                break
            threading.Event().wait(0.01)
        process.send_signal(signal.SIGKILL)
    recording = Recording(session)
    assert not recording.about.finished
    events = list(recording)
    sounds = [one for one in events if isinstance(one, Sound)]
    pictures = [one for one in events if isinstance(one, Frame)]
    assert len([one.image() for one in pictures[:-1]]) >= 3 and len(sounds) >= 5  # the last one may be torn
    for hop, one in enumerate(sounds[:5]):
        np.testing.assert_array_equal(one.samples, sound(0.0, seed=hop).samples)
    assert recording.stats["truncated"] == 1
    assert f"{session}: the recording was cut off; read as far as it was written" in caplog.text


def test_a_session_deleted_under_the_recorder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import shutil

    class Deleted(Made):
        def __iter__(self) -> Iterator[Frame | Sound]:
            yield frame(0.0)
            shutil.rmtree(tap.path)
            yield from (frame(0.1), frame(0.2))

    tap = recorder(Deleted(), tmp_path)
    assert len(list(tap)) == 3
    tap.close()
    assert "the recording has stopped" in caplog.text and list(tmp_path.iterdir()) == []


def test_the_notice_names_what_where_how_long_and_how_to_delete() -> None:
    both = notice("sessions", "camera 0 and microphone default", ("face", "voice"), 7)
    for words in (
        "camera 0 and microphone default",
        "pictures of faces",
        "all sound",
        "sessions",
        "7 days",
        "only by your own hand",
        "'edgeemo forget sessions' deletes them",
    ):
        assert words in both
    assert "sound" not in notice("sessions", "camera 0", ("face",), 7)
    assert "pictures" not in notice("sessions", "microphone 0", ("voice",), 7)
