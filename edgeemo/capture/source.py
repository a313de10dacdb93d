"""What a source of pictures and sound is, and how one is opened; and what comes beside it, words."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeemo.errors import InputError


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture at one time.

    Attributes:
        time: Seconds on the source's clock.
        image: Makes the picture when called, and not before: BGR uint8 of shape (height, width, 3).
    """

    time: float
    image: Callable[[], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Sound:
    """A block of mono sound.

    Attributes:
        time: Seconds on the source's clock of the first sample.
        samples: float32 of shape (n,), within [-1, 1].
        sample_rate: Samples per second.
    """

    time: float
    samples: NDArray[np.float32]
    sample_rate: int


class Words(NamedTuple):
    """Words that were said together.

    Attributes:
        words: One or more, with white space between them.
        start: Seconds on the source's clock.
        end: Likewise; the words are known from then on.
    """

    words: str
    start: float
    end: float

    @property
    def time(self) -> float:
        """Seconds on the source's clock at which they are known."""
        return self.end


class Source(Protocol):
    """Pictures and sound in the order of their times; iterate over it, then close it.

    Attributes:
        name: What the source is called in messages.
        modalities: 'face' where there are pictures, 'voice' where there is sound.
        duration: Seconds, or None where it is not known or has no end.
        live: Whether time passes whether or not anyone reads.
        stats: Counts of what was lost or damaged, by name.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def modalities(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def duration(self) -> float | None: ...  # noqa: D102
    @property
    def live(self) -> bool: ...  # noqa: D102
    @property
    def stats(self) -> dict[str, int]: ...  # noqa: D102

    def __iter__(self) -> Iterator[Frame | Sound]: ...

    def close(self) -> None:
        """Release what the source holds; an iteration that is under way ends."""


class SampleTimes:
    """Times of successive blocks of sound that follow the sample count as long as the stamps agree with it.

    Stamps jitter (a container counts in milliseconds, a callback runs late), samples do not: taken at their
    word, the stamps would tear small gaps between blocks that belong together.

    Example:
        >>> times = SampleTimes(tolerance=0.01)
        >>> [round(times.place(stamp, 480, 48000), 3) for stamp in (0.0, 0.013, 0.5)]
        [0.0, 0.01, 0.5]
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._anchor: float | None = None  # the time that the count starts at
        self._count = 0
        self._rate = 0
        self.gaps = 0  # how often a stamp was too far off

    def place(self, stamp: float | None, samples: int, sample_rate: int) -> float:
        """The time in seconds of a block stamped `stamp` (None: directly after the one before)."""
        if self._anchor is None:
            self._begin(stamp or 0.0, sample_rate)
        expected = self._expected()
        if stamp is not None and abs(stamp - expected) > self._tolerance:
            self.gaps += 1
            self._begin(stamp, sample_rate)
        elif sample_rate != self._rate:
            self._begin(expected, sample_rate)
        time = self._expected()
        self._count += samples
        return time

    def _begin(self, anchor: float, sample_rate: int) -> None:
        self._anchor, self._count, self._rate = anchor, 0, sample_rate

    def _expected(self) -> float:
        assert self._anchor is not None
        return self._anchor + self._count / self._rate


def without_password(device: int | str) -> str:
    """A camera's name for messages and records: a stream address loses its user and password.

    Example:
        >>> without_password("rtsp://guard:s3cret@10.0.0.7/hall")
        'rtsp://10.0.0.7/hall'
    """
    return re.sub(r"(?<=://)[^/\s]*@", "", str(device))


def open_source(
    path: str | Path | None = None,
    *,
    camera: int | str | None = None,
    microphone: int | str | None = None,
) -> Source:
    """Open a file or a recorded session, or a camera, a microphone or both.

    Args:
        path: A video, a sound file or a picture, or the folder of a session that `Recorder` wrote.
        camera: The index of a camera, its device file or its stream address.
        microphone: 'default', or the index or a part of the name of an input device.

    Raises:
        InputError: Nothing was named, or a file and a device.
        SourceError: It cannot be opened.
    """
    if path is not None:
        if camera is not None or microphone is not None:
            raise InputError(f"{path}: name either a file, or a camera and a microphone, not both")
        if os.path.isdir(path):
            from edgeemo.capture.recording import Recording

            return Recording(path)
        from edgeemo.capture.clip import Clip

        return Clip(path)
    if camera is not None and microphone is not None:
        from edgeemo.capture.session import Session

        return Session(camera, microphone)
    if camera is not None:
        from edgeemo.capture.camera import Camera

        return Camera(camera)
    if microphone is not None:
        from edgeemo.capture.microphone import Microphone

        return Microphone(microphone)
    raise InputError("no source: name a file, a camera (such as 0) or a microphone (such as 'default')")
