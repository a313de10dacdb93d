"""A file played again and again as one long recording, at once or as a camera and a microphone give it."""

from __future__ import annotations

import heapq
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeemo.capture.mailbox import Mailbox
from edgeemo.capture.source import Frame, Sound, Source, open_source
from edgeemo.errors import InputError

BLOCKS = 5
"""Blocks of sound in a hop: of 0.1 s they are 20 ms long, as those of a microphone."""

_DEPTH = {"face": 1, "voice": 100}
"""Items that wait in each lane of a live source, as of a camera and of a microphone."""

_AHEAD = 32  # events that are decoded before their time, about half a second


class Looped:
    """A source whose file begins anew where it ends, while time goes on. It has no end of its own.

    Whatever blocks a file has, sound comes in blocks as a microphone's that end with the hops, and all comes
    in the order in which it is complete. What is missing up to the next round is silence.

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
        return in_order_of_ends(self._rounds(), self._hop / BLOCKS)

    def close(self) -> None:
        """Release the file."""
        self._source.close()

    def _rounds(self) -> Iterator[Frame | Sound]:
        start = 0.0
        while True:
            end: float | None = None
            sound: Sound | None = None
            for event in self._source:
                yield replace(event, time=start + event.time)
                end = max(end or 0.0, end_of(event))
                sound = event if isinstance(event, Sound) else sound
            if end is None:
                raise InputError(f"{self.name}: there is nothing in it to play; give a longer recording")
            whole = self._hop * max(1, math.ceil(end / self._hop - 1e-6))
            if sound is not None:
                missing = round((whole - end_of(sound)) * sound.sample_rate)
                silence = np.zeros(max(missing, 0), np.float32)
                yield Sound(start + end_of(sound), silence, sound.sample_rate)
            start = round(start + whole, 6)


class Paced:
    """A source that gives what another holds when its time has come, and loses what is not taken in time.

    A picture is handed out at its time and a block of sound when its last sample has been heard. What a file
    takes that a camera does not, opening and decoding, is done ahead by a thread of its own.

    Args:
        source: gives what is played, in the order in which it is complete; it is closed with this one.
        clock: seconds, monotonic.

    Attributes:
        origin: what the clock said at the source's time 0, None before anything was handed out.
    """

    live: bool = True
    duration: float | None = None

    def __init__(self, source: Source, clock: Callable[[], float] = time.perf_counter) -> None:
        self._source, self._clock = source, clock
        self.name, self.modalities = source.name, source.modalities
        self.origin: float | None = None
        self.stats: dict[str, int] = {"dropped_pictures": 0, "dropped_blocks": 0}
        self._mailbox = Mailbox()
        self._ready: queue.Queue[Frame | Sound | None] = queue.Queue(_AHEAD)
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=target, name="edgeemo bench", daemon=True)
            for target in (self._read, self._play)
        ]
        self._error: Exception | None = None
        for lane in self.modalities:
            self._mailbox.open(lane, _DEPTH[lane])

    def __iter__(self) -> Iterator[Frame | Sound]:
        for thread in self._threads:
            if thread.ident is None:
                thread.start()
        yield from self._mailbox
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop the threads and release the source."""
        self._stopped.set()
        for lane in self.modalities:
            self._mailbox.close(lane, discard=True)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self._source.close()

    def _read(self) -> None:
        """Decode what comes next, as far ahead as there is room."""
        try:
            for event in self._source:
                if isinstance(event, Frame):
                    image = event.image()
                    event = Frame(event.time, lambda image=image: image)  # type: ignore[misc]
                if not self._put(event):
                    return
        except Exception as error:  # the reader's thread raises it
            self._error = error
        self._put(None)

    def _put(self, event: Frame | Sound | None) -> bool:
        while not self._stopped.is_set():
            try:
                self._ready.put(event, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def _play(self) -> None:
        """Hand out each event at its time, from when there is enough to begin with."""
        while not self._ready.full() and self._threads[0].is_alive():
            if self._stopped.wait(0.005):
                return
        self.origin = self._clock()
        while not self._stopped.is_set():
            try:
                event = self._ready.get(timeout=0.1)
            except queue.Empty:
                continue
            if event is None:
                break
            if self._stopped.wait(max(self.origin + end_of(event) - self._clock(), 0.0)):
                return
            lane = "face" if isinstance(event, Frame) else "voice"
            lost = "dropped_pictures" if lane == "face" else "dropped_blocks"
            self.stats[lost] += self._mailbox.put(lane, event)
        for lane in self.modalities:
            self._mailbox.close(lane)


def end_of(event: Frame | Sound) -> float:
    """When an event is complete: the time of a picture, that of the last sample of a sound."""
    return event.time if isinstance(event, Frame) else event.time + len(event.samples) / event.sample_rate


def in_order_of_ends(events: Iterator[Frame | Sound], block: float) -> Iterator[Frame | Sound]:
    """Cut sound at multiples of `block` seconds, and give everything in the order in which it is complete.

    Args:
        events: in the order of their times.
        block: seconds.

    Example:
        >>> sound = Sound(0.0, np.zeros(300, np.float32), 10000)
        >>> picture = Frame(0.025, lambda: np.zeros((2, 2, 3), np.uint8))
        >>> [round(end_of(event), 3) for event in in_order_of_ends(iter([sound, picture]), 0.02)]
        [0.02, 0.025, 0.03]
    """
    waiting: list[tuple[float, int, Frame | Sound]] = []
    count = 0
    for event in events:
        for piece in _blocks(event, block) if isinstance(event, Sound) else (event,):
            # A picture of the very end of a block is of what comes after it.
            heapq.heappush(waiting, (_last(piece), count, piece))
            count += 1
        while waiting and waiting[0][0] <= event.time:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


def _last(event: Frame | Sound) -> float:
    """The time of a picture or of the last sample of a sound."""
    return event.time if isinstance(event, Frame) else end_of(event) - 1.0 / event.sample_rate


def _blocks(sound: Sound, block: float) -> Iterator[Sound]:
    rate, begin = sound.sample_rate, 0
    number = math.floor(sound.time / block + 1e-6) + 1
    while begin < len(sound.samples):
        # The first sample of a block is at its time or after it, and no sample of the block before.
        end = min(max(math.ceil((number * block - sound.time) * rate - 1e-3), begin), len(sound.samples))
        if end > begin:
            yield Sound(sound.time + begin / rate, sound.samples[begin:end], rate)
        begin, number = end, number + 1
