from __future__ import annotations

import pytest

from edgeemo.capture import open_source
from edgeemo.capture.session import Session
from edgeemo.capture.source import Frame, Sound
from edgeemo.errors import SourceError
from tests.capture.devices import CameraBench, SoundBench


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> SoundBench:
    return SoundBench().install(monkeypatch)


def test_both_devices_are_on_one_clock(sound: SoundBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeemo.capture.session.start_clock", sound.clock)
    camera = CameraBench(0, 1, -1, 2).install(monkeypatch)
    session = Session(0, "default")
    items = iter(session)
    assert camera.exhausted.wait(5)  # picture 1 has come, at time 0
    sound.now = 5.0
    sound.streams[0].give(0.0)
    got = [next(items), next(items)]
    assert [type(item) for item in got] == [Frame, Sound]
    assert [item.time for item in got] == pytest.approx([0.0, 4.98])
    camera.go_on.set()
    newest = next(items)
    assert isinstance(newest, Frame)
    assert newest.time == 5.0
    session.close()
    assert list(items) == []


def test_sound_goes_on_when_the_camera_is_unplugged(
    sound: SoundBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = CameraBench(0, 1).install(monkeypatch)
    session = Session(0, "default")
    items = iter(session)
    assert camera.exhausted.wait(5)
    assert isinstance(next(items), Frame)
    for _ in range(3):
        sound.streams[0].give(0.0)
    assert [type(next(items)) for _ in range(3)] == [Sound] * 3
    assert session.stats["read_failures"] == 1
    sound.streams[0].unplug()
    assert list(items) == []  # both have ended
    session.close()


def test_the_camera_is_released_when_the_microphone_cannot_be_opened(
    sound: SoundBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = CameraBench(0).install(monkeypatch)
    with pytest.raises(SourceError, match="microphone nothing"):
        Session(0, "nothing")
    assert camera.released == 1


def test_a_session_closed_before_it_was_read_is_empty(
    sound: SoundBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    CameraBench(0).install(monkeypatch)
    session = Session(0, "default")
    session.close()
    assert list(session) == []


@pytest.mark.parametrize(
    ("devices", "modalities"),
    [
        ({"camera": 0}, ("face",)),
        ({"microphone": "default"}, ("voice",)),
        ({"camera": 0, "microphone": "default"}, ("face", "voice")),
    ],
)
def test_devices_are_opened_by_name(
    devices: dict[str, int | str],
    modalities: tuple[str, ...],
    sound: SoundBench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    CameraBench(0).install(monkeypatch)
    source = open_source(**devices)  # type: ignore[arg-type]
    assert (source.modalities, source.live, source.duration) == (modalities, True, None)
    source.close()
