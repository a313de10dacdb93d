"""Emotions as lines to read: equal answers of neighbouring hops, joined into one timeline."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeemo.recognition.emotion import Emotion

COLOURS = {
    "anger": 31,
    "disgust": 32,
    "fear": 35,
    "happiness": 33,
    "sadness": 34,
    "surprise": 36,
    "uncertain": 2,
    "absent": 2,
}
"""ANSI codes by what a line shows; names that are not here stay plain."""


def shown(emotion: Emotion) -> str:
    """Name what one emotion shows: its label, or its state where it has none."""
    return emotion.label or emotion.state


@dataclass(slots=True)
class Segment:
    """A stretch of time in which one track showed one thing.

    Attributes:
        start: Start of its first hop, in seconds on the source's clock.
        end: End of its last hop, likewise.
        track: The face, or None where there was none.
        shown: The label, or 'uncertain' or 'absent'.
        hops: How many answers it holds.
    """

    start: float
    end: float
    track: int | None
    shown: str
    hops: int = 0
    _confidence: float = 0.0
    _modalities: Counter[str] = field(default_factory=Counter)
    _reasons: Counter[str] = field(default_factory=Counter)

    def add(self, emotion: Emotion) -> None:
        """Take one more answer of the same track that shows the same."""
        self.end = emotion.time
        self.hops += 1
        self._confidence += emotion.confidence
        self._modalities.update(emotion.modalities)
        self._reasons.update(emotion.reasons)

    @property
    def confidence(self) -> float:
        """The mean confidence, in [0, 1]."""
        return self._confidence / self.hops

    @property
    def modalities(self) -> tuple[str, ...]:
        """What was used in at least half of the answers."""
        return tuple(name for name, count in self._modalities.items() if 2 * count >= self.hops)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What was missing or bad in at least half of the answers."""
        return tuple(name for name, count in self._reasons.items() if 2 * count >= self.hops)


class Timeline:
    """Join equal answers of neighbouring hops into segments, per track.

    Args:
        hop: Seconds between two answers.

    Attributes:
        hops: How many answers showed each label or state.
    """

    def __init__(self, hop: float) -> None:
        self.hop = hop
        self.hops: Counter[str] = Counter()
        self._open: dict[int | None, Segment] = {}
        self._faces: set[int] = set()

    def add(self, emotion: Emotion) -> list[Segment]:
        """Take the next answer (times never go back) and return the segments that are over, oldest first."""
        name = shown(emotion)
        self.hops[name] += 1
        if emotion.track is not None:
            self._faces.add(emotion.track)
        current = self._open.get(emotion.track)
        # A track that was in the hop before still runs; half a hop more, for times are not exact.
        over = [
            segment
            for segment in self._open.values()
            if segment.end < emotion.time - 1.5 * self.hop or (segment is current and segment.shown != name)
        ]
        for segment in over:
            del self._open[segment.track]
        if emotion.track not in self._open:
            self._open[emotion.track] = Segment(emotion.time - self.hop, emotion.time, emotion.track, name)
        self._open[emotion.track].add(emotion)
        return sorted(over, key=_by_start)

    def close(self) -> list[Segment]:
        """End the segments that still run and return them, oldest first."""
        over = sorted(self._open.values(), key=_by_start)
        self._open.clear()
        return over

    def summary(self) -> str:
        """Say how the answers, of which there must be one, divide between labels and states."""
        total = sum(self.hops.values())
        faces = len(self._faces)
        over = f" over {faces} faces" if faces > 1 else ""
        shares = ", ".join(f"{100 * count / total:.0f} % {name}" for name, count in self.hops.most_common())
        return f"In all{over}: {shares}"


def segment_line(segment: Segment, *, colour: bool = False) -> str:
    """Write one segment for people, without a line end.

    Args:
        segment: What to write.
        colour: Whether to use ANSI colours.
    """
    filled = round(10 * segment.confidence)
    name = f"{segment.shown:<10}"
    if colour and segment.shown in COLOURS:
        name = f"\x1b[{COLOURS[segment.shown]}m{name}\x1b[0m"
    parts = [f"{segment.start:7.1f} -{segment.end:6.1f} s"]
    if segment.track is not None:
        parts.append(f"face {segment.track}")
    parts += [name, f"[{'#' * filled:.<10}] {segment.confidence:.2f}"]
    if segment.modalities:
        parts.append(" + ".join(segment.modalities))
    if segment.reasons:
        parts.append(f"({', '.join(segment.reasons)})")
    return "  ".join(parts)


def _by_start(segment: Segment) -> tuple[float, int]:
    return segment.start, -1 if segment.track is None else segment.track
