from __future__ import annotations

import logging
import sys

import numpy as np
import pytest

from edgeemo.capture.microphone import Microphone
from edgeemo.capture.source import Sound
from edgeemo.errors import InputError, SourceError
from tests.capture.devices import SoundBench


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SoundBench:
    return SoundBench().install(monkeypatch)


@pytest.mark.parametrize(
    ("device", "chosen", "rate"),
    [("default", None, 48000), ("2", 2, 16000), (0, 0, 48000), ("USB", "USB", 16000)],
)
def test_which_device_is_opened(
    device: int | str, chosen: int | str | None, rate: int, bench: SoundBench
) -> None:
    Microphone(device).close()
    options = bench.streams[0].options
    assert (options["device"], options["samplerate"], options["channels"]) == (chosen, rate, 1)
    assert options["blocksize"] == rate // 50


@pytest.mark.parametrize(
    ("device", "refuses"),
    [("no such", ""), (1, ""), (7, ""), ("default", "open")],  # 1 is the loudspeaker
)
def test_a_microphone_that_cannot_be_opened_names_the_others(
    device: int | str, refuses: str, bench: SoundBench
) -> None:
    bench.refuses = refuses
    with pytest.raises(SourceError, match=r"cannot be opened.*0 \(Built-in\), 2 \(USB array\)") as caught:
        Microphone(device)
    assert f"microphone {device}" in str(caught.value)
    assert "Loudspeaker" not in str(caught.value)


def test_what_names_no_device_is_refused() -> None:
    with pytest.raises(InputError, match=r"^microphone: ndarray; give 'default'"):
        Microphone(np.zeros(3))  # type: ignore[arg-type]


def test_a_device_that_does_not_start(bench: SoundBench) -> None:
    bench.refuses = "start"
    with pytest.raises(SourceError, match="does not start"):
        iter(Microphone())


class _Missing:
    """Makes `import sounddevice` fail in the way that it is told."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def find_spec(self, name: str, *_: object) -> None:
        if name == "sounddevice":
            raise self._error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError("PortAudio library not found"), "apt install libportaudio2"),
        (ImportError("No module named 'sounddevice'"), "pip install sounddevice"),
    ],
)
def test_what_is_missing_is_named(error: Exception, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [_Missing(error), *sys.meta_path])
    with pytest.raises(SourceError, match=says):
        Microphone()


def test_blocks_follow_each_other_whatever_the_jitter(bench: SoundBench) -> None:
    microphone = Microphone("USB")
    items = iter(microphone)
    for k, jitter in enumerate((0.0, 0.03, 0.001, 0.06, 0.0)):
        bench.now = 0.02 * (k + 1) + jitter
        bench.streams[0].give(0.1 * k)
    sounds = [next(items) for _ in range(5)]
    assert [sound.time for sound in sounds] == pytest.approx([0.0, 0.02, 0.04, 0.06, 0.08])
    assert all(isinstance(sound, Sound) and sound.sample_rate == 16000 for sound in sounds)
    first = sounds[1]
    assert isinstance(first, Sound)
    assert first.samples.dtype == np.float32
    assert first.samples.tolist() == pytest.approx([0.1] * 320)  # a copy: the block was used again since
    assert microphone.stats["gaps"] == 0


@pytest.mark.parametrize("latency", [0.0, 0.04])
def test_a_block_that_is_handed_over_late_is_no_gap(latency: float, bench: SoundBench) -> None:
    microphone = Microphone("USB")
    items = iter(microphone)
    # The third waits for 0.15 s, and what was recorded meanwhile comes at once.
    handed_over = [0.02, 0.04, 0.21, 0.21, 0.21, 0.21, 0.21, 0.21, 0.21, 0.21, 0.22]
    for k, now in enumerate(handed_over):
        bench.now = now + latency
        bench.streams[0].give(0.0, captured=0.02 * k)
    assert [next(items).time for _ in handed_over] == pytest.approx([0.02 * k for k in range(11)])
    assert microphone.stats["gaps"] == 0


def test_what_a_driver_lost_is_a_gap(bench: SoundBench) -> None:
    microphone = Microphone("USB")
    items = iter(microphone)
    for captured in (0.0, 0.02, 0.54, 0.56):
        bench.now = captured + 0.05
        bench.streams[0].give(0.0, captured=captured)
    assert [next(items).time for _ in range(4)] == pytest.approx([0.0, 0.02, 0.54, 0.56])
    assert microphone.stats["gaps"] == 1


@pytest.mark.parametrize("captured", [-990.0, 1e9])  # long ago, and not yet
def test_a_capture_time_of_another_clock_is_not_believed(captured: float, bench: SoundBench) -> None:
    microphone = Microphone("USB")
    items = iter(microphone)
    for now in (0.02, 0.04, 0.06):
        bench.now = now
        bench.streams[0].give(0.0, captured=captured)
    assert [next(items).time for _ in range(3)] == pytest.approx([0.0, 0.02, 0.04])


def test_a_pause_of_the_device_is_a_gap(bench: SoundBench) -> None:
    microphone = Microphone("USB")
    items = iter(microphone)
    for now in (0.02, 0.04, 0.56, 0.58):
        bench.now = now
        bench.streams[0].give(0.0)
    assert [next(items).time for _ in range(4)] == pytest.approx([0.0, 0.02, 0.54, 0.56])
    assert microphone.stats["gaps"] == 1


def test_a_reader_that_falls_behind_loses_the_oldest(bench: SoundBench) -> None:
    microphone = Microphone("USB")
    items = iter(microphone)
    for k in range(130):
        bench.now = 0.02 * (k + 1)
        bench.streams[0].give(0.0)
    assert microphone.stats["dropped_sounds"] == 30
    assert next(items).time == pytest.approx(30 * 0.02)  # true times: the loss shows as a gap


def test_an_overflow_is_counted_and_not_fatal(bench: SoundBench) -> None:
    microphone = Microphone()
    items = iter(microphone)
    bench.streams[0].give(0.0, overflow=True)
    bench.streams[0].give(2.0)
    next(items)
    loud = next(items)
    assert isinstance(loud, Sound)
    assert loud.samples.max() == 1.0
    assert microphone.stats["overflows"] == 1


def test_unplugging_ends_the_sound(bench: SoundBench, caplog: pytest.LogCaptureFixture) -> None:
    microphone = Microphone()
    items = iter(microphone)
    bench.streams[0].give(0.0)
    with caplog.at_level(logging.WARNING, "edgeemo"):
        bench.streams[0].unplug()
        assert len(list(items)) == 1
    assert "microphone default stopped giving sound" in caplog.text


def test_a_driver_that_says_nothing_when_unplugged(
    bench: SoundBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edgeemo.capture.microphone._PATIENCE", 0.05)
    microphone = Microphone()
    items = iter(microphone)
    bench.streams[0].give(0.0)
    with caplog.at_level(logging.WARNING, "edgeemo"):
        assert len(list(items)) == 1
    assert "nothing came" in caplog.text


def test_closing_is_quiet(bench: SoundBench, caplog: pytest.LogCaptureFixture) -> None:
    microphone = Microphone()
    items = iter(microphone)
    bench.streams[0].give(0.0)
    microphone.close()
    microphone.close()
    assert list(items) == []
    assert caplog.text == ""
