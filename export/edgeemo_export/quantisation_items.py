"""What the study of calibration measures ranges on: items of the training splits, and wrong ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .data import ferplus, sounds, voices
from .data.labels import LABELS
from .data.pictures import jitter

TRAINING, NOISE, NARROW = "training", "noise", "narrow"
NARROWED = {
    "face": "the darkest quarter of the pictures of one class (FER+ does not say who is in a picture)",
    "voice": "one actor of RAVDESS",
}
"""What the items of the source `NARROW` are, another class or actor for each seed."""

NOISES = {"face": "uniformly random pictures", "voice": "white noise of 10 to 50 dB below full scale"}
"""What the items of the source `NOISE` are."""

BATCH = 32  # faces of a feed
QUIET, LOUD = -50.0, -10.0  # dBFS, between which noise is drawn

Array = NDArray[Any]


def draw(data: Path, name: str, source: str, count: int, seed: int) -> Array:
    """Items of a source; but for noise, the first ones of a draw are those of a smaller one with its seed.

    Args:
        data: the corpora.
        name: ``'face'`` or ``'voice'``.
        source: `TRAINING`, as bundles are calibrated: as many faces of each label, every second one jittered,
            or a context of each clip in turn, every second one distorted; `NOISE`, uniformly random pictures
            or white noise of any loudness; or `NARROW`, as training items but of `NARROWED` alone.
        count: of the items.
        seed: of the draw.

    Returns:
        uint8 ``[count, 48, 48, 1]``, or float32 ``[count, 16000]``.
    """
    if source == NOISE:
        return noise(name, count, seed)
    if name == "voice":
        clips = voices.read(data, "train")
        if source == NARROW:
            actors = sorted({clip.speaker for clip in clips if clip.corpus == "ravdess"})
            clips = [clip for clip in clips if clip.speaker == actors[seed % len(actors)]]
        return contexts(clips, count, seed)
    faces = ferplus.read(data / "ferplus", "train")
    labels = faces.majority
    if source == NARROW:
        frequent = np.argsort(-np.bincount(labels[labels >= 0], minlength=len(LABELS)), kind="stable")
        rows = np.flatnonzero(labels == frequent[seed % len(LABELS)])
        light = faces.images[rows].mean(axis=(1, 2))
        rows = rows[np.argsort(light, kind="stable")[: max(1, len(rows) // 4)]]
        faces, labels = faces.take(rows), labels[rows]
    return crops(faces.images, labels, count, seed)


def noise(name: str, count: int, seed: int) -> Array:
    """Uniformly random pictures, or white noise between `QUIET` and `LOUD`, as `draw` gives them."""
    random = np.random.default_rng(seed)
    if name == "face":
        return random.integers(0, 256, (count, 48, 48, 1), dtype=np.uint8)
    level = 10.0 ** (random.uniform(QUIET, LOUD, (count, 1)) / 20.0)
    made = level * random.standard_normal((count, sounds.CONTEXT))
    return np.asarray(made.clip(-1.0, 1.0), np.float32)


def crops(images: NDArray[np.uint8], labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.uint8]:
    """Face crops of each label in turn, every second one of a label jittered, ``[count, H, W, 1]``.

    Args:
        images: uint8 ``[n, H, W]``.
        labels: ``[n]``, -1 where a picture is not to be used.
        count: of the crops; pictures of a label that has fewer come again.
        seed: of the draw.
    """
    random = np.random.default_rng(seed)
    present = [label for label in range(len(LABELS)) if (labels == label).any()]
    order = {label: random.permutation(np.flatnonzero(labels == label)) for label in present}
    each = -(-count // len(present))
    rows = np.stack([np.resize(order[label], each) for label in present], axis=1)
    found = images[rows]  # [each, labels, H, W]
    generator = torch.Generator().manual_seed(seed)
    for turn in range(1, each, 2):
        found[turn] = jitter(torch.from_numpy(found[turn]), generator)[..., 0].round().byte().numpy()
    return found.reshape(-1, *images.shape[1:], 1)[:count]


def contexts(clips: Sequence[voices.Clip], count: int, seed: int) -> NDArray[np.float32]:
    """A context of each clip in turn, every second one distorted, ``[count, 16000]``.

    Args:
        clips: to draw from; when all have been heard they come again, those distorted that were not.
        count: of the contexts.
        seed: of the draw.
    """
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(clips), generator=random).tolist()
    found = np.empty((count, sounds.CONTEXT), np.float32)
    for turn in range(count):
        again, place = divmod(turn, len(order))
        samples = sounds.load(clips[order[place]].path)
        if (place + again) % 2:
            samples = sounds.distort(samples, random)
        found[turn] = sounds.draw(sounds.contexts(samples), 1, random)[0].numpy()
    return found


def feeds(name: str, items: Array) -> list[dict[str, Array]]:
    """Items as the graph reads them: faces in batches, contexts one by one."""
    return list(_batches(name, items, BATCH if name == "face" else 1))


def _batches(name: str, items: Array, size: int) -> Iterator[dict[str, Array]]:
    for start in range(0, len(items), size):
        yield {name: items[start : start + size]}
