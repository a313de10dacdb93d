"""A camera and a sound library that do what a test tells them."""

from __future__ import annotations

import threading
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray


class FakeCapture:
    """Stands for cv2.VideoCapture; what it gives is up to its bench."""

    def __init__(self, bench: CameraBench, device: int | str | None) -> None:
        self._bench = bench
        bench.devices.append(device)
        self.released = False

    def isOpened(self) -> bool:
        return self._bench.opens

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        level = self._bench.next()
        return (False, None) if level is None else (True, np.full((4, 6, 3), level, np.uint8))

    def release(self) -> None:
        self.released = True
        self._bench.released += 1


class CameraBench:
    """What the cameras of one test give: pictures of these levels, None a failed read, -1 a pause."""

    def __init__(self, *levels: int | None, opens: bool = True) -> None:
        self.opens = opens
        self.devices: list[int | str | None] = []
        self.backends: list[int] = []
        self.released = 0
        self.exhausted = threading.Event()
        self.go_on = threading.Event()  # ends the pause
        self._levels = list(levels)

    def next(self) -> int | None:
        if self._levels and self._levels[0] == -1:
            self._levels.pop(0)
            self.exhausted.set()
            self.go_on.wait(5)
        if not self._levels:
            self.exhausted.set()
            return None
        return self._levels.pop(0)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> CameraBench:
        def open_capture(device: int | str | None = None, backend: int | None = None) -> FakeCapture:
            self.backends += [] if backend is None else [backend]
            return FakeCapture(self, device)

        monkeypatch.setattr("cv2.VideoCapture", open_capture)
        monkeypatch.setattr("edgeemo.capture.camera._RETRIES", (0.001, 0.001, 0.001))
        return self


class PortAudioError(Exception):
    """Stands for sounddevice.PortAudioError."""


class FakeStream:
    """Stands for sounddevice.InputStream; the test calls `give` and `unplug` in place of PortAudio."""

    def __init__(self, bench: SoundBench, **options: Any) -> None:
        if bench.refuses == "open":
            raise PortAudioError("Device unavailable")
        self._bench = bench
        self.options = options
        self.running = False
        bench.streams.append(self)

    def start(self) -> None:
        if self._bench.refuses == "start":
            raise PortAudioError("Device busy")
        self.running = True

    def close(self) -> None:
        if self.running:
            self.running = False
            self.options["finished_callback"]()

    @property
    def time(self) -> float:
        return self._bench.now + 1000.0  # a clock of its own

    def give(
        self, level: float, count: int | None = None, overflow: bool = False, captured: float | None = None
    ) -> None:
        """Hand over a block now; `captured` is the time of its first sample, None where none is told."""
        block = np.full((count or self.options["blocksize"], 1), level, np.float32)
        status = types.SimpleNamespace(input_overflow=overflow)
        stamps = types.SimpleNamespace(inputBufferAdcTime=0.0 if captured is None else captured + 1000.0)
        self.options["callback"](block, len(block), stamps, status)
        block[:] = 9.0  # PortAudio uses it for the next one

    def unplug(self) -> None:
        self.running = False
        self.options["finished_callback"]()


class SoundBench:
    """A sound library with two input devices and a loudspeaker."""

    PortAudioError = PortAudioError

    def __init__(self, refuses: str = "") -> None:
        self.refuses = refuses
        self.streams: list[FakeStream] = []
        self.now = 0.0

    def query_devices(self, device: int | str | None = None, kind: str | None = None) -> Any:
        inputs = [
            {"name": "Built-in", "max_input_channels": 2, "default_samplerate": 48000.0},
            {"name": "Loudspeaker", "max_input_channels": 0, "default_samplerate": 48000.0},
            {"name": "USB array", "max_input_channels": 6, "default_samplerate": 16000.0},
        ]
        if kind is None:
            return inputs
        if device is None:
            return inputs[0]
        for index, found in enumerate(inputs):
            if found["max_input_channels"] and (device == index or str(device) in str(found["name"])):
                return found
        raise ValueError(f"No input device matching {device!r}")

    def InputStream(self, **options: Any) -> FakeStream:
        return FakeStream(self, **options)

    def clock(self) -> Callable[[], float]:
        """A clock that the test sets with `now`."""
        return lambda: self.now

    def install(self, monkeypatch: pytest.MonkeyPatch) -> SoundBench:
        monkeypatch.setitem(__import__("sys").modules, "sounddevice", self)
        monkeypatch.setattr("edgeemo.capture.microphone.start_clock", self.clock)
        return self
