"""What every reader of a corpus gives, and what it says about the rest."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeemo.errors import InputError

from ...words import counted

log = logging.getLogger("edgeemo.export")


@dataclass(frozen=True)
class Item:
    """One recording, picture or run of pictures, and what the corpus says of it.

    Attributes:
        label: one of the project's seven, or empty where the corpus gives valence and arousal alone.
        speaker: unique over corpora, e.g. ``'ravdess-17'``; empty where nobody knows.
        face: a picture, a video, a folder of pictures, or a table of pictures (of both see ``frames``).
        voice: a sound file, or a video with sound.
        text: what is said.
        valence: in [-1, 1]; over a run of pictures the mean.
        arousal: likewise.
        split: ``'train'``, ``'develop'`` or ``'test'``; empty where the corpus has no split of its own.
        frames: which pictures of ``face`` are meant, as the corpus counts them, the second excluded.
        script: the script that is played, where several speakers play the same one; else empty.
    """

    label: str
    speaker: str
    face: Path | None = None
    voice: Path | None = None
    text: str = ""
    valence: float | None = None
    arousal: float | None = None
    split: str = ""
    frames: tuple[int, int] | None = None
    script: str = ""


class Tally:
    """Counts what is left out, by reason: nothing of a corpus is dropped in silence.

    Args:
        folder: of the corpus, as messages name it.

    Example:
        >>> left = Tally(Path("savee"))
        >>> left.drop("Thumbs.db", "Thumbs.db")
        >>> left.counts["Thumbs.db"]
        1
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: Counter[str] = Counter()
        self.firsts: dict[str, str] = {}

    def drop(self, reason: str, example: object, count: int = 1) -> None:
        """Count what is left out for a reason; the first example of each is told."""
        if count:
            self.counts[reason] += count
            self.firsts.setdefault(reason, str(example))

    def finish(self, items: Sequence[Item]) -> list[Item]:
        """Log the counts and give the items back.

        Raises:
            InputError: there are none.
        """
        told = "; ".join(
            f"{count:,} {reason} (first: {self.firsts[reason]})" for reason, count in self.counts.items()
        )
        if not items:
            raise InputError(f"{self.folder}: no item of it can be used; left out: {told or 'nothing'}")
        log.info("%s: %s; left out: %s", self.folder, counted(len(items), "item"), told or "nothing")
        return list(items)
