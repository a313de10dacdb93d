"""Writes down what a source gives while it is answered: a tap between capture and recognition."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeemo import __version__
from edgeemo.capture.recording import (
    ABOUT,
    DATE,
    FRAMES,
    FRAMES_HEAD,
    LONGEST,
    PICTURES,
    RATES,
    SCHEMA,
    SOUND,
    SOUND_HEAD,
    WAVE,
    wave_header,
)
from edgeemo.capture.retention import ABOUT_NEW, forget
from edgeemo.capture.source import Frame, Sound, Source
from edgeemo.errors import EdgeEmoError, InputError

_log = logging.getLogger("edgeemo")

KEPT_DAYS = 30
"""Days for which a session is kept when nothing else was asked for."""

# JPEG at 95: of three clips (238 hops) no label changed, and no probability by more than 0.03. What changes
# is where the detector sees the face, and no higher quality changes less. PNG replays exactly, but takes
# 22 ms and 345 kB for a picture of 1280x720 on x86-64 where JPEG takes 1.6 ms and 85 kB.
_QUALITY = 95
_WAITING_PICTURES = 8  # of a live source: 50 MB at 1920x1080
_WAITING = 1000  # pictures and pieces of sound in all: 20 s of a microphone
_PATIENCE = 30.0  # seconds for which the end waits for a disk


@dataclass(frozen=True)
class Consent:
    """Who agreed to a recording, and to what.

    Attributes:
        asked: The words.
        given: How: on the 'terminal', or by an 'option' that says that it was obtained already.
        time: When, in UTC.
    """

    asked: str
    given: str
    time: datetime

    @classmethod
    def now(cls, asked: str, given: str) -> Consent:
        """Consent that is given at this moment."""
        return cls(asked, given, datetime.now(timezone.utc))


def notice(folder: str | Path, source: str, modalities: Collection[str], days: int) -> str:
    """What must be known before anything is recorded: what is kept, where, for how long, how to delete it.

    Args:
        folder: Where sessions go.
        source: What is recorded, in words.
        modalities: 'face' where pictures are kept, 'voice' where sound is.
        days: How long a session is kept.
    """
    until = datetime.now(timezone.utc) + timedelta(days=days)
    kept = {"face": "pictures of faces, up to one for each answer", "voice": "all sound"}
    what = ", and ".join(words for name, words in kept.items() if name in modalities)
    return (
        f"of {source} will be kept in {folder}: {what}. People can be recognised by it. Nothing is sent "
        "anywhere: the files can be read by this user alone and leave this machine only by your own hand. "
        f"They are kept for {days} days, until {until:%Y-%m-%d}; then they are not replayed any more, and "
        f"the next recording into {folder} deletes them. 'edgeemo forget {folder}' deletes them at any time"
    )


class Recorder:
    """A source that gives what another one gives and writes it to a new session, for `Recording` to replay.

    Of each hop the newest picture is kept, which is the one that recognition uses, and all sound. A thread
    of its own encodes and writes. A live source never waits for it: when the disk is too slow, what does not
    fit is left out. When the disk fails, a warning says so, the recording ends and the source goes on.
    `stats` has the counts of the source and `unrecorded_frames` and `unrecorded_samples`. It is iterated
    once. A session into which nothing came is removed.

    Args:
        source: What is recorded; it is closed with the recorder.
        folder: Where the session becomes a folder of its own, named for the time; it is made when missing.
        consent: Who agreed.
        hop: Seconds of a hop, for the record.
        index: The number of the hop that a time belongs to.
        days: How long the session is kept.

    Attributes:
        path: The folder of the session.

    Raises:
        InputError: The folder cannot be written.
    """

    def __init__(
        self,
        source: Source,
        folder: str | Path,
        *,
        consent: Consent,
        hop: float,
        index: Callable[[float], int],
        days: int = KEPT_DAYS,
    ) -> None:
        if "face" in source.modalities:
            # Here and not in the thread: two threads that import OpenCV at once both get half of it.
            import cv2  # noqa: F401
        self._source = source
        self._index = index
        try:
            self._session = _Session(Path(folder), _about(source, consent, hop, days), source.modalities)
        except OSError as error:
            raise InputError(
                f"--record {folder}: cannot be written ({error.strerror}); name a folder of yours"
            ) from error
        self.path = self._session.path
        self._lost = {"unrecorded_frames": 0, "unrecorded_samples": 0}
        self._counting = threading.Lock()
        self._newest: Frame | None = None  # of the hop that is under way
        self._queue: queue.Queue[Frame | Sound | None] = queue.Queue(_WAITING)
        self._room = threading.BoundedSemaphore(_WAITING_PICTURES)
        self._failed = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"recorder of {source.name}", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """The name of the source."""
        return self._source.name

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities of the source."""
        return self._source.modalities

    @property
    def duration(self) -> float | None:
        """The duration of the source."""
        return self._source.duration

    @property
    def live(self) -> bool:
        """Whether the source is live."""
        return self._source.live

    @property
    def stats(self) -> dict[str, int]:
        """The counts of the source, and what could not be recorded of it."""
        return {**self._source.stats, **self._lost}

    def __iter__(self) -> Iterator[Frame | Sound]:
        for event in self._source:
            if isinstance(event, Frame):
                event = Frame(event.time, _Once(event.image))
            try:
                yield event
            finally:  # after it was answered, so that the thread works while the next one is waited for
                self._keep(event)

    def close(self) -> None:
        """Close the source, write what waits, and end the session."""
        self._source.close()
        if self._closed:
            return
        self._closed = True
        if self._newest is not None:
            self._submit(self._newest)
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=_PATIENCE)
        self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            _log.warning("%s: the disk does not answer; the recording has no end", self.path)
        elif self._session.empty:
            try:
                forget(self.path)
            except EdgeEmoError as error:
                _log.warning("%s", error)

    def __str__(self) -> str:
        """What was recorded, in a sentence."""
        if self._session.empty:
            return "nothing was recorded"
        lost = [f"{count} {name.removeprefix('unrecorded_')}" for name, count in self._lost.items() if count]
        return (
            f"recorded {self._session.frames} pictures and {self._session.heard:.1f} s of sound"
            f"{', without ' + ' and '.join(lost) if lost else ''}, in {self.path}; "
            f"'edgeemo forget {self.path}' deletes them"
        )

    def _keep(self, event: Frame | Sound) -> None:
        if self._closed:
            return
        if not _can_be_kept(event):
            self._lose(event)
        elif isinstance(event, Frame):
            self._hold(event)
        else:
            self._submit(event)

    def _hold(self, frame: Frame) -> None:
        """Keep a picture back until its hop is over: only the newest is used."""
        held = self._newest
        if held is not None and (self._index(held.time) != self._index(frame.time) or frame.time < held.time):
            self._submit(held)
        self._newest = frame

    def _submit(self, event: Frame | Sound) -> None:
        """Hand it to the thread, which a file waits for and a live source does not."""
        patient = not self.live
        if isinstance(event, Frame) and not self._room.acquire(blocking=patient):
            self._lose(event)
            return
        try:
            self._queue.put(event, block=patient)
        except queue.Full:
            if isinstance(event, Frame):
                self._room.release()
            self._lose(event)

    def _lose(self, event: Frame | Sound) -> None:
        with self._counting:
            if isinstance(event, Frame):
                self._lost["unrecorded_frames"] += 1
            else:
                self._lost["unrecorded_samples"] += event.samples.size

    def _run(self) -> None:
        while (event := self._queue.get()) is not None:
            self._record(event)
            if isinstance(event, Frame):
                self._room.release()
        try:
            self._session.finish(self._lost)
        except OSError as error:
            self._give_up(error)

    def _record(self, event: Frame | Sound) -> None:
        if self._failed:
            self._lose(event)
            return
        try:
            if isinstance(event, Frame):
                self._session.see(event.time, event.image())
            else:
                self._session.hear(event)
        except OSError as error:
            self._lose(event)
            self._give_up(error)
        except Exception as error:  # whatever a decoder raises: the stream says so too, and goes on
            self._lose(event)
            _log.debug("%s: it cannot be recorded: %s", self.name, error)

    def _give_up(self, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            _log.warning(
                "%s: the recording has stopped (%s); the answers go on", self.path, error.strerror or error
            )


class _Once:
    """Makes a picture for the first who asks, so that recognition and the recorder share it."""

    def __init__(self, make: Callable[[], NDArray[np.uint8]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._picture: NDArray[np.uint8] | None = None

    def __call__(self) -> NDArray[np.uint8]:
        with self._lock:
            if self._picture is None:
                self._picture = self._make()
            return self._picture


class _Session:
    """The files of a session while they are written; every line and picture reaches the system at once.

    Attributes:
        path: its folder.
        frames: pictures that were written.
        heard: seconds of sound that were written.
    """

    def __init__(self, folder: Path, about: dict[str, Any], modalities: tuple[str, ...]) -> None:
        self._about = about
        self._samples = 0
        self._rate = 0
        self._anchor, self._start = 0.0, 0  # time and number of the first sample of the piece
        self._end = 0.0
        self._named = 0  # pictures that have a name
        self.frames = 0
        self.heard = 0.0
        self.path = _new_folder(folder)
        self._tables: dict[str, int] = {}
        self._wave: int | None = None
        try:
            self._begin(modalities)
        except BaseException:
            self._undo()
            raise

    def _begin(self, modalities: tuple[str, ...]) -> None:
        # First of all: a session that breaks off here can be told to be one, and be deleted.
        self._write_about()
        if "face" in modalities:
            os.mkdir(self.path / PICTURES, 0o700)
            self._tables[FRAMES] = _create(self.path / FRAMES)
            self._line(FRAMES, FRAMES_HEAD)
        if "voice" in modalities:
            self._tables[SOUND] = _create(self.path / SOUND)
            self._line(SOUND, SOUND_HEAD)

    def _undo(self) -> None:
        """Take away what was begun: nothing was recorded, and without all of it it is no session."""
        with contextlib.suppress(OSError):
            for handle in self._tables.values():
                os.close(handle)
            for name in (FRAMES, SOUND, ABOUT_NEW, ABOUT):
                (self.path / name).unlink(missing_ok=True)
            if (self.path / PICTURES).exists():
                (self.path / PICTURES).rmdir()
            self.path.rmdir()

    @property
    def empty(self) -> bool:
        """Whether nothing was written."""
        return not (self.frames or self._samples)

    def see(self, time: float, image: NDArray[np.uint8]) -> None:
        """Write one picture, its line first: no picture lies there that the table does not name."""
        import cv2

        good, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        if not good:
            raise ValueError("a picture that cannot be encoded")
        name = f"{self._named:08d}.jpg"
        self._named += 1
        self._line(FRAMES, f"{float(time)!r}\t{name}")
        handle = _create(self.path / PICTURES / name)
        try:
            _write(handle, content.tobytes())
        finally:
            os.close(handle)
        self.frames += 1
        self._end = max(self._end, float(time))

    def hear(self, sound: Sound) -> None:
        """Write one block of sound, and where it does not continue the one before, a line of its time."""
        if not sound.samples.size:
            return
        rate = int(sound.sample_rate)
        if self._wave is None:
            self._wave = _create(self.path / WAVE)
            _write(self._wave, wave_header(rate, None))
            self._about["sound"] = {"sample_rate": rate, "format": "float32"}
        time, since = float(sound.time), self._samples - self._start
        if rate != self._rate or time != self._anchor + since / rate:
            self._anchor, self._start, self._rate = time, self._samples, rate
            self._line(SOUND, f"{time!r}\t{self._samples}\t{rate}")
        _write(self._wave, np.ascontiguousarray(sound.samples, "<f4").tobytes())
        self._samples += sound.samples.size
        self.heard += sound.samples.size / rate
        self._end = max(self._end, time + sound.samples.size / rate)

    def finish(self, lost: dict[str, int]) -> None:
        """Write the sizes, and close everything."""
        with contextlib.ExitStack() as closing:
            for handle in (*self._tables.values(), *([] if self._wave is None else [self._wave])):
                closing.callback(os.close, handle)
            if self._wave is not None:
                os.lseek(self._wave, 0, os.SEEK_SET)
                _write(self._wave, wave_header(self._about["sound"]["sample_rate"], self._samples))
            self._about.update(frames=self.frames, seconds=round(self._end, 3), lost=dict(lost))
            self._write_about()

    def _line(self, table: str, text: str) -> None:
        _write(self._tables[table], f"{text}\n".encode())

    def _write_about(self) -> None:
        """All of it or what was there before, also when the power goes."""
        new = self.path / ABOUT_NEW
        handle = _create(new)
        try:
            _write(handle, (json.dumps(self._about, indent=2, allow_nan=False) + "\n").encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(new, self.path / ABOUT)


def _can_be_kept(event: Frame | Sound) -> bool:
    """Whether its time and rate are such that it can be replayed: recognition leaves out what is not."""
    in_time = 0 <= event.time <= LONGEST
    return in_time and (isinstance(event, Frame) or event.sample_rate in RATES)


def _about(source: Source, consent: Consent, hop: float, days: int) -> dict[str, Any]:
    created = datetime.now(timezone.utc)
    return {
        "schema": SCHEMA,
        "created": created.strftime(DATE),
        "expires": (created + timedelta(days=days)).strftime(DATE),
        "source": source.name,
        "modalities": list(source.modalities),
        "consent": {
            "asked": consent.asked,
            "given": consent.given,
            "time": consent.time.strftime(DATE),
        },
        "picture": {"format": "jpeg", "quality": _QUALITY, "hop": hop},
        "sound": None,
        "software": f"edgeemo {__version__}",
        "frames": None,
        "seconds": None,
    }


def _new_folder(parent: Path) -> Path:
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    number = 1
    while True:
        path = parent / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(mode=0o700)
            return path
        except FileExistsError:  # another of the same second
            number += 1


def _create(path: Path) -> int:
    # For this user alone, whatever the umask.
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)


def _write(handle: int, content: bytes) -> None:
    """All of it: a disk that is nearly full takes a part."""
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]
