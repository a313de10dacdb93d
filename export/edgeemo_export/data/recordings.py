"""Unlabelled recordings of a place: sessions, and pieces as long as a window."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from edgeemo.errors import InputError, SourceError
from edgeemo.evaluate import Item

from ..words import counted
from . import sounds
from .splits import assign, without_copies
from .tokens import SLOTS

log = logging.getLogger("edgeemo.export")

PIECE = SLOTS * sounds.HOP
SHARES = {"adapt": 0.7, "held": 0.3}


def find(folder: Path, seed: int = 0) -> list[Item]:
    """List the recordings of a folder and divide its sessions into a part to adapt to and one held back.

    A session is a folder. Where all recordings lie in one, each file is a session of its own.

    Args:
        folder: searched with everything below it; hidden files and folders are passed over.
        seed: of the division.

    Returns:
        Items without a label, whose speaker is the session and whose split is ``'adapt'`` or ``'held'``.

    Raises:
        InputError: there are fewer than two recordings, or one part holds only copies of the other.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: not a folder; it must hold recordings of the place, a folder each session"
        )
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part[0] == "." for part in path.relative_to(folder).parts)
    ]
    if len(files) < 2:
        raise InputError(
            f"{folder}: it holds {counted(len(files), 'recording')}; it must hold two sessions or more"
        )
    sessions = [str(path.parent.relative_to(folder)) for path in files]
    if len(set(sessions)) == 1:
        log.warning(
            "%s: all recordings lie in one folder; each file is taken for a session, so what is held back "
            "may be of the same minutes as what is adapted to",
            folder,
        )
        sessions = [path.name for path in files]
    splits = assign(folder, sessions, [""] * len(files), SHARES, seed)
    items = [
        Item(number, "", session, {"voice": path}, split)
        for number, (path, session, split) in enumerate(zip(files, sessions, splits, strict=True), start=1)
    ]
    return without_copies(folder, items, tuple(SHARES))


def pieces(samples: Tensor) -> list[Tensor]:
    """Cut a recording into pieces of a window's length, without those in which nothing is heard.

    Args:
        samples: ``[n]`` at 16 kHz.

    Example:
        >>> loud, silent = torch.ones(64000), torch.zeros(64000)
        >>> [len(piece) for piece in pieces(torch.cat([loud, silent, loud[:500]]))]
        [64000, 500]
    """
    level = sounds.SILENCE**2
    return [piece for piece in samples.split(PIECE) if piece.square().mean() >= level]


def read(items: Sequence[Item], most: int, seed: int) -> list[Tensor]:
    """Pieces of recordings, at most so many, drawn evenly over all of them.

    Files without sound are passed over with a warning.

    Raises:
        InputError: nothing is heard in any.
    """
    heard: list[Tensor] = []
    for item in items:
        try:
            heard += pieces(sounds.load(item.paths["voice"]))
        except SourceError as error:
            log.warning("%s; it is passed over", error)
    if not heard:
        raise InputError(
            f"{items[0].paths['voice'].parent}: nothing is heard in the {items[0].split} recordings"
        )
    rows = torch.randperm(len(heard), generator=torch.Generator().manual_seed(seed))[:most].tolist()
    return [heard[row] for row in sorted(rows)]


def digest(samples: Tensor) -> str:
    """Digest of what is heard: that of a file and of its copy in another lossless format are the same."""
    return hashlib.sha256(samples.contiguous().numpy().tobytes()).hexdigest()


def digests(items: Iterable[Item]) -> set[str]:
    """The digest of each recording, without files that hold no sound."""
    found = set()
    for item in items:
        with suppress(SourceError):
            found.add(digest(sounds.load(item.paths["voice"])))
    return found
