"""Sound from a microphone, in small blocks."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeemo.capture.mailbox import Clock, Mailbox, start_clock
from edgeemo.capture.source import Frame, SampleTimes, Sound
from edgeemo.errors import InputError, SourceError, shown

_log = logging.getLogger("edgeemo")

_BLOCK = 0.02  # seconds of sound per callback
_WAITING = 100  # blocks that wait at most: 2 s
_DRIFT = 0.1  # seconds by which the sample count and the clock may differ
_MOST_WAITED = 2.0  # seconds; no driver keeps a block for longer before it hands it over
_PATIENCE = 3.0  # seconds without a block after which a microphone counts as gone: not every driver says so


class Microphone:
    """The first channel of an input device at the device's own rate.

    The clock starts with the first iteration. A block's time is that of its capture, or its arrival less its
    duration where the driver does not tell; the next ones follow the first by their number of samples until
    that is more than 0.1 s off. So a block that is only handed over late tears no gap.

    Args:
        device: 'default', or the index or a part of the name of an input device.

    Raises:
        InputError: `device` is none of these.
        SourceError: It cannot be opened, or PortAudio is missing.
    """

    modalities: tuple[str, ...] = ("voice",)
    duration: float | None = None
    live: bool = True

    def __init__(self, device: int | str = "default") -> None:
        if not isinstance(device, int | str):
            raise InputError(f"microphone: {shown(device)}; give 'default', an index or a part of a name")
        self.name = f"microphone {device}"
        self.stats: dict[str, int] = {"overflows": 0, "dropped_sounds": 0, "gaps": 0}
        self._times = SampleTimes(_DRIFT)
        self._mailbox: Mailbox | None = None
        self._clock: Clock = start_clock()
        self._closing = False
        portaudio = _portaudio()
        try:
            self._stream, self._rate = self._open(portaudio, device)
        except (ValueError, portaudio.PortAudioError) as error:
            raise SourceError(
                f"{self.name} cannot be opened ({error}): name one of the input devices: {_inputs(portaudio)}"
            ) from error

    def start(self, mailbox: Mailbox, clock: Clock) -> None:
        """Put sound into the mailbox from now on, with times from `clock`.

        Raises:
            SourceError: The device does not start.
        """
        mailbox.open(self.name, depth=_WAITING, patience=_PATIENCE)
        self._mailbox = mailbox
        self._clock = clock
        try:
            self._stream.start()
        except _portaudio().PortAudioError as error:
            mailbox.close(self.name)
            raise SourceError(f"{self.name} does not start ({error}): is it in use?") from error

    def __iter__(self) -> Iterator[Frame | Sound]:
        if self._mailbox is None:
            self.start(Mailbox(), start_clock())
            assert self._mailbox is not None
        return iter(self._mailbox)

    def close(self) -> None:
        """Stop listening and release the device."""
        self._closing = True
        self._stream.close()
        if self._mailbox is None:
            self._mailbox = Mailbox()  # an empty one: a closed microphone has nothing more to say
        else:
            self._mailbox.close(self.name, discard=True)

    def _open(self, portaudio: Any, device: int | str) -> tuple[Any, int]:
        chosen = int(device) if str(device).isdecimal() else None if device == "default" else device
        rate = round(portaudio.query_devices(chosen, "input")["default_samplerate"])
        stream = portaudio.InputStream(
            device=chosen,
            channels=1,
            samplerate=rate,
            blocksize=round(_BLOCK * rate),
            dtype="float32",
            callback=self._receive,
            finished_callback=self._finish,
        )
        return stream, rate

    def _receive(self, block: NDArray[np.float32], count: int, stamps: Any, status: Any) -> None:
        arrival = self._clock()
        if self._mailbox is None:
            return
        self.stats["overflows"] += bool(status and status.input_overflow)
        # PortAudio reuses the block after the callback.
        samples = np.clip(block[:, 0], -1.0, 1.0)
        captured = arrival - self._waited(count, stamps.inputBufferAdcTime)
        time = self._times.place(max(captured, 0.0), count, self._rate)
        self.stats["gaps"] = self._times.gaps
        self.stats["dropped_sounds"] += self._mailbox.put(self.name, Sound(time, samples, self._rate))

    def _waited(self, count: int, captured: float) -> float:
        """Seconds since the first of `count` samples, whose time on the driver's clock is `captured`."""
        if captured > 0:
            # Not the callback's `currentTime`: that is from before it had to wait for the interpreter.
            waited = float(self._stream.time) - captured
            if 0 <= waited <= _MOST_WAITED:
                return waited
        return count / self._rate  # some drivers give 0, or a time of another clock

    def _finish(self) -> None:
        if not self._closing and self._mailbox is not None:
            _log.warning("%s stopped giving sound; going on without it", self.name)
            self._mailbox.close(self.name)


def _portaudio() -> Any:
    try:
        return importlib.import_module("sounddevice")
    except ImportError as error:
        raise SourceError("a microphone needs the package sounddevice: pip install sounddevice") from error
    except OSError as error:  # the package is there, the library that it binds is not
        raise SourceError(
            "a microphone needs PortAudio, which was not found: install it, for example with "
            "apt install libportaudio2"
        ) from error


def _inputs(portaudio: Any) -> str:
    devices = [
        f"{index} ({device['name']})"
        for index, device in enumerate(portaudio.query_devices())
        if device["max_input_channels"] > 0
    ]
    return ", ".join(devices) if devices else "there are none on this machine"
