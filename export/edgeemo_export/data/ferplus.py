"""FER+: web pictures of faces with the votes of ten raters (Barsoum et al., 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .labels import LABELS

# The order of the votes in the corpus; contempt, unknown and not-a-face come after these seven.
VOTES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear")
CONTEMPT, UNKNOWN, NOT_A_FACE = 7, 8, 9
DEVELOPMENT_EVERY, DEVELOPMENT_PLACE = 10, 3


@dataclass(frozen=True)
class Faces:
    """Pictures and what the raters said.

    Attributes:
        images: uint8 ``[n, 48, 48]``.
        votes: raters' votes, ``[n, 10]``.
    """

    images: NDArray[np.uint8]
    votes: NDArray[np.uint8]

    @property
    def shares(self) -> NDArray[np.float32]:
        """Share of each label among the votes for the seven, ``[n, 7]``; a row without any is zero."""
        kept = self.votes[:, [VOTES.index(name) for name in LABELS]].astype(np.float32)
        return np.asarray(kept / np.maximum(kept.sum(axis=1, keepdims=True), 1.0), dtype=np.float32)

    @property
    def majority(self) -> NDArray[np.int64]:
        """Label of the majority protocol, -1 where a picture is dropped, ``[n]``.

        Dropped are pictures whose top vote is contempt, unknown or not-a-face, or holds no more than half
        of the votes.
        """
        top = self.votes.argmax(axis=1)
        share = self.votes.max(axis=1) / np.maximum(self.votes.sum(axis=1), 1)
        place = np.array([LABELS.index(name) for name in VOTES] + [-1, -1, -1])
        return np.where(share > 0.5, place[top], -1).astype(np.int64)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Faces:
        """The pictures at ``rows``."""
        return Faces(self.images[rows], self.votes[rows])


def read(folder: Path, split: str) -> Faces:
    """Read ``'train'``, ``'develop'`` (every tenth of the corpus' train) or ``'test'`` (its valid).

    Some pictures of FER2013 are in the corpus more than once, in different splits. One that the test set
    holds is dropped from the other two, and one that the development set holds from the training set.
    """
    test = _load(folder / "valid.npz")
    if split == "test":
        return test
    corpus = _load(folder / "train.npz")
    tenth = np.arange(len(corpus.images)) % DEVELOPMENT_EVERY == DEVELOPMENT_PLACE
    develop = _without(corpus.take(tenth), test)
    return develop if split == "develop" else _without(_without(corpus.take(~tenth), test), develop)


def _load(path: Path) -> Faces:
    with np.load(path, allow_pickle=False) as file:
        return Faces(file["images"], file["votes"])


def _without(faces: Faces, others: Faces) -> Faces:
    known = {image.tobytes() for image in others.images}
    return faces.take(np.array([image.tobytes() not in known for image in faces.images], np.bool_))
