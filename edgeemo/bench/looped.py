"""A file played again and again as one long recording, at once or as a camera and a microphone give it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from edgeemo.capture.mailbox import Mailbox
from edgeemo.capture.source import Frame, Sound, Source, open_source
from edgeemo.errors import InputError

_DEPTH = {"face": 1, "voice": 64}
"""Items that wait in each lane of a live source, as of a camera and of a microphone."""


class Looped:
    """A source whose file begins anew where it ends, while time goes on. It has no end of its own.

    Args:
        path: a video, a sound file, a picture or a recorded session.
        hop: seconds; every round begins on a multiple of it, so that all rounds are cut alike.

    Raises:
        SourceError: the file cannot be read.
        InputError: there is nothing in it, when it is played.
    """

    live: bool = False
    duration: float | None = None

    def __init__(self, path: Path, hop: float) -> None:
        self._hop = hop
        self._source: Source = open_source(path)
        self.name = self._source.name
        self.modalities = self._source.modalities

    @property
    def stats(self) -> dict[str, int]:
        """Those of the file's last round."""
        return self._source.stats

    def __iter__(self) -> Iterator[Frame | Sound]:
        start = 0
        while True:
            end: float | None = None
            for event in self._source:
                yield replace(event, time=start * self._hop + event.time)
                end = max(end or 0.0, end_of(event))
            if end is None:
                raise InputError(f"{self.name}: there is nothing in it to play; give a longer recording")
            start += max(1, math.ceil(end / self._hop - 1e-6))

    def close(self) -> None:
        """Release the file."""
        self._source.close()


class Paced:
    """A source that gives what another holds when its time has come, and loses what is not taken in time.

    A thread hands each picture out at its time and each block of sound when its last sample has been heard.
    Pictures are decoded in that thread, since a camera's are there before anybody asks.

    Args:
        source: gives what is played; it is closed with this one.
        clock: seconds, monotonic.

    Attributes:
        origin: what the clock said at the source's time 0, None before the first iteration.
    """

    live: bool = True
    duration: float | None = None

    def __init__(self, source: Source, clock: Callable[[], float] = time.perf_counter) -> None:
        self._source, self._clock = source, clock
        self.name, self.modalities = source.name, source.modalities
        self.origin: float | None = None
        self.stats: dict[str, int] = {"dropped_pictures": 0, "dropped_blocks": 0}
        self.given = {"face": 0, "voice": 0}
        self._mailbox = Mailbox()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._play, name="edgeemo bench", daemon=True)
        self._error: Exception | None = None
        for lane in self.modalities:
            self._mailbox.open(lane, _DEPTH[lane])

    def __iter__(self) -> Iterator[Frame | Sound]:
        if self.origin is None:
            self.origin = self._clock()
            self._thread.start()
        yield from self._mailbox
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop the thread and release the source."""
        self._stopped.set()
        for lane in self.modalities:
            self._mailbox.close(lane, discard=True)
        if self._thread.ident is not None:
            self._thread.join()
        self._source.close()

    def _play(self) -> None:
        assert self.origin is not None
        try:
            for event in self._source:
                left = self.origin + end_of(event) - self._clock()
                if self._stopped.wait(max(left, 0.0)):
                    return
                self._hand_out(event)
        except Exception as error:  # the reader's thread raises it
            self._error = error
        finally:
            for lane in self.modalities:
                self._mailbox.close(lane)

    def _hand_out(self, event: Frame | Sound) -> None:
        if isinstance(event, Frame):
            image = event.image()
            event = Frame(event.time, lambda: image)
        lane, lost = ("face", "dropped_pictures") if isinstance(event, Frame) else ("voice", "dropped_blocks")
        self.given[lane] += 1
        self.stats[lost] += self._mailbox.put(lane, event)


def end_of(event: Frame | Sound) -> float:
    """When an event is complete: the time of a picture, that of the last sample of a sound."""
    return event.time if isinstance(event, Frame) else event.time + len(event.samples) / event.sample_rate
