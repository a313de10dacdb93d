"""A recording held in memory and cut into hops, for streams that are fed as fast as they go."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeemo.bench.watches import Watches
from edgeemo.capture.source import Frame, open_source
from edgeemo.errors import CheckFailed, InputError
from edgeemo.recognition.stream import Stream

if TYPE_CHECKING:
    from edgeemo.bench.watches import Clock
    from edgeemo.preprocess.face import Picture
    from edgeemo.recognition.recognizer import Recognizer

LONGEST = 10.0
"""Seconds that are held: 640 x 480 pixels ten times a second are 9 MB a second."""


@dataclass(frozen=True)
class Reel:
    """A recording that begins anew where it ends, without a gap.

    Attributes:
        hop: seconds.
        pictures: of each hop the newest, None where it has none; empty where there are none at all.
        sound: float32 [n], as long as the hops together; empty where there is none.
        sample_rate: of the sound in Hz.
        hops: how many there are.
    """

    hop: float
    pictures: Sequence[Picture | None]
    sound: NDArray[np.float32]
    sample_rate: int
    hops: int

    @classmethod
    def read(cls, path: str | Path, hop: float) -> Reel:
        """The first `LONGEST` seconds of a file, in whole hops.

        Args:
            path: a video, a sound file, a picture or a recorded session.
            hop: seconds.

        Raises:
            InputError: it is shorter than a hop, or its sample rate changes.
            SourceError: it cannot be read.
        """
        pictures: dict[int, Picture] = {}
        blocks: list[NDArray[np.float32]] = []
        rates: set[int] = set()
        with closing(open_source(path)) as source:
            for event in source:
                if event.time >= LONGEST:
                    break
                if isinstance(event, Frame):
                    pictures[int(event.time / hop + 1e-6)] = event.image()
                else:
                    blocks.append(event.samples)
                    rates.add(event.sample_rate)
        if len(rates) > 1:
            raise InputError(f"{path}: its sample rate changes; give a recording of one rate")
        rate = max(rates, default=0)
        sound = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
        ends = [max(pictures) + 1] if pictures else []
        ends += [int(len(sound) / rate / hop + 1e-6)] if rate else []
        hops = min(ends, default=0)
        if hops < 1:
            raise InputError(f"{path}: it is shorter than a hop of {hop:g} s; give a longer recording")
        shown = [pictures.get(number) for number in range(hops)] if pictures else []
        return cls(hop, shown, sound[: round(hops * hop * rate)], rate, hops)

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it holds."""
        held = {"face": len(self.pictures), "voice": len(self.sound)}
        return tuple(name for name, count in held.items() if count)

    def heard(self, number: int) -> tuple[float, NDArray[np.float32]]:
        """The sound of one hop of as many as one likes: its time in seconds, and its samples."""
        # All that the hop takes in, also where it is no whole number of samples.
        begin, end = (math.ceil(place * self.hop * self.sample_rate - 1e-6) for place in (number, number + 1))
        places = np.arange(begin, end) % len(self.sound)
        return begin / self.sample_rate, self.sound[places]


@dataclass(frozen=True)
class Spent:
    """What one hop took.

    Attributes:
        step: seconds of all that edgeemo did for it.
        parts: seconds of 'detect' and of each graph, of those that ran.
    """

    step: float
    parts: Mapping[str, float]

    @property
    def update(self) -> float:
        """Seconds of the graphs together."""
        return sum(seconds for name, seconds in self.parts.items() if name != "detect")

    @property
    def detected(self) -> bool:
        """Whether the faces were searched for."""
        return "detect" in self.parts


class Walk:
    """One stream of a model, fed with a reel hop by hop and timed.

    Args:
        model: the model; several walks may share it and take turns.
        reel: what the stream is given, from its first hop on.
        clock: seconds, monotonic.

    Attributes:
        hops: how many were answered.

    Raises:
        InputError: the reel holds nothing that the model reads.
    """

    def __init__(self, model: Recognizer, reel: Reel, clock: Clock = time.perf_counter) -> None:
        self._watches = Watches(model, clock)
        self._reel, self._clock = reel, clock
        names = [name for name in model.bundle.modalities if name in reel.modalities]
        self._stream = Stream(self._watches.model, names, reel.hop, lateness=None)
        self.hops = 0

    @property
    def age(self) -> float:
        """Seconds that the stream has lived, by its own clock."""
        return self.hops * self._reel.hop

    def step(self) -> Spent:
        """Feed one more hop and take its answer.

        Raises:
            CheckFailed: it was not answered, or at another time, or something of it was lost.
            BackendError: a graph failed.
        """
        stream, number = self._stream, self.hops
        pictures = self._reel.pictures if "face" in stream.modalities else ()
        picture = pictures[number % self._reel.hops] if pictures else None
        begin, samples = self._reel.heard(number) if "voice" in stream.modalities else (0.0, None)
        end = round((number + 1) * self._reel.hop, 9)
        self._watches.take()
        clocked = self._clock()
        if picture is not None:
            stream.push_frame(picture, (number + 0.5) * self._reel.hop)
        if samples is not None:
            stream.push_audio(samples, self._reel.sample_rate, begin)
        for modality in stream.modalities:
            stream.advance(modality, end)
        emotions = stream.poll()
        spent = self._clock() - clocked
        lost = {name: count for name, count in stream.stats.items() if count}
        if {emotion.time for emotion in emotions} != {end} or lost:
            answered = ", ".join(f"{emotion.time:g}" for emotion in emotions) or "nothing"
            raise CheckFailed(
                f"a stream at {end:g} s answered {answered}{f' and lost {lost}' if lost else ''}; every hop "
                "must be answered once, and nothing be lost"
            )
        self.hops += 1
        return Spent(spent, self._watches.take())

    def go(self, age: float) -> None:
        """Feed hops until the stream is `age` seconds old."""
        for _ in range(self.hops, math.ceil(age / self._reel.hop - 1e-6)):
            self.step()
