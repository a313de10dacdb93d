"""Sources that tests record, and sessions that they replay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeemo.capture.recorder import Consent, Recorder
from edgeemo.capture.source import Frame, Sound
from edgeemo.recognition.clock import HopGrid

RATE = 16000
CONSENT = Consent("may we?", "terminal", datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc))


def picture(level: int) -> NDArray[np.uint8]:
    """A slope of greys, which JPEG keeps well."""
    slope = np.linspace(level, level + 40, 64).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(slope[None, :, None], (48, 64, 3)))


def frame(time: float, level: int = 100) -> Frame:
    return Frame(time, lambda: picture(level))


def sound(time: float, seconds: float = 0.1, rate: int = RATE, seed: int = 0) -> Sound:
    noise = np.random.default_rng(seed).uniform(-1, 1, round(seconds * rate))
    return Sound(time, noise.astype(np.float32), rate)


class Made:
    """Gives the events that it was given, and knows whether it was closed."""

    name = "made up"
    duration: float | None = None

    def __init__(
        self, *events: Frame | Sound, live: bool = False, modalities: tuple[str, ...] = ("face", "voice")
    ) -> None:
        self.events = events
        self.live = live
        self.modalities = modalities
        self.stats: dict[str, int] = {"of_the_source": 7}
        self.closed = False

    def __iter__(self) -> Iterator[Frame | Sound]:
        return iter(self.events)

    def close(self) -> None:
        self.closed = True


def recorder(source: Any, folder: Path, **options: Any) -> Recorder:
    given = {"consent": CONSENT, "hop": 0.1, "index": HopGrid(0.1).index, **options}
    return Recorder(source, folder, **given)


def record(folder: Path, *events: Frame | Sound, **options: Any) -> Path:
    """Record these events to the end; the folder of the session."""
    tap = recorder(Made(*events, **options), folder)
    list(tap)
    tap.close()
    return tap.path


def ordinary(folder: Path) -> Path:
    """A session of half a second with pictures and sound."""
    events = [
        one for hop in range(5) for one in (sound(hop * 0.1, seed=hop), frame(hop * 0.1 + 0.05, 20 * hop))
    ]
    return record(folder, *events)


def alter(session: Path, **fields: Any) -> None:
    """Write other values into its session.json; None removes nothing, it is written as null."""
    path = session / "session.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def expire(session: Path) -> None:
    alter(session, expires="2020-01-01T00:00:00Z")
