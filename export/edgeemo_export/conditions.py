"""Test items with face and voice each whole, degraded and absent, as tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo.evaluate import Item
from edgeemo.preprocess.detector import FaceFinder

from . import manifests
from .data import ferplus, own, sounds, voices
from .data.degrade import blurred, noisy, occluded
from .data.labels import LABELS
from .data.tokens import SLOTS, pair_by_label

FACES = ("whole", "blurred", "occluded", "absent")
VOICES = ("whole", "noisy", "absent")
CONDITIONS = tuple(
    (face, voice) for face in FACES for voice in VOICES if (face, voice) != ("absent", "absent")
)
PAIRS = 1200  # three for each test voice; more of them would repeat what those few speakers say
CORPORA = ("ravdess", "emodb")
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Items:
    """Labelled faces and voices of a test set.

    Attributes:
        faces: crops of each face in time order, ``[k, 48, 48]``.
        sounds: samples of each voice at 16 kHz.
        seen: the face of each item, ``[n]``.
        heard: the voice of each item, ``[n]``.
        labels: ``[n]``.
    """

    faces: Sequence[NDArray[np.uint8]]
    sounds: Sequence[Tensor]
    seen: Tensor
    heard: Tensor
    labels: Tensor


def label_pairs(data: Path, count: int, seed: int = 0) -> Items:
    """Pairs of a picture of FER+ valid and a voice of RAVDESS 17-20 or EmoDB 11-14 that has its label."""
    faces = ferplus.read(data / "ferplus", "test")
    clips = voices.read(data, "test", CORPORA)
    labels = torch.tensor([LABELS.index(clip.label) for clip in clips])
    random = torch.Generator().manual_seed(seed)
    pictures, heard = pair_by_label(torch.from_numpy(faces.majority), labels, count, random)
    used, seen = pictures.unique(return_inverse=True)
    crops = [faces.images[row : row + 1] for row in used.tolist()]
    return Items(crops, [sounds.load(clip.path) for clip in clips], seen, heard, labels[heard])


def audio_visual(data: Path, finder: FaceFinder) -> Items:
    """The 26 clips of RAVDESS actor 01: camera pictures, cropped, with the voice of the same recording."""
    rows = manifests.audio_visual(data)
    found = [
        own.cut(Item(line, row["label"], row["speaker"], {"face": Path(row["face"])}), finder)
        for line, row in enumerate(rows, start=2)
    ]
    heard = [sounds.load(Path(row["voice"])) for row in rows]
    each = torch.arange(len(rows))
    return Items(found, heard, each, each, torch.tensor([LABELS.index(row["label"]) for row in rows]))


def degraded_faces(faces: Sequence[NDArray[np.uint8]], seed: int = 0) -> dict[str, list[NDArray[np.uint8]]]:
    """Each face as it is, blurred, and with a third of each picture covered."""
    random = torch.Generator().manual_seed(seed)
    return {
        "whole": list(faces),
        "blurred": [blurred(pictures) for pictures in faces],
        "occluded": [occluded(pictures, random) for pictures in faces],
    }


def degraded_voices(heard: Sequence[Tensor], seed: int = 0) -> dict[str, list[Tensor]]:
    """Each voice as it is, and in white noise as loud as itself."""
    random = torch.Generator().manual_seed(seed)
    return {"whole": list(heard), "noisy": [noisy(samples, random) for samples in heard]}


@torch.no_grad()
def face_tokens(encoder: nn.Module, faces: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
    """Tokens ``[k, D]`` of each face."""
    images = torch.from_numpy(np.concatenate(faces))[..., None]
    made = torch.cat([encoder.eval()(part).float() for part in images.split(256)])
    return list(made.split([len(pictures) for pictures in faces]))


@torch.no_grad()
def voice_tokens(encoder: nn.Module, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens ``[SLOTS, D]`` and mask ``[SLOTS]`` of the last window of a voice, silent hops masked."""
    contexts, heard = (part[-SLOTS:] for part in sounds.cut(samples))
    made = encoder.eval()(contexts).float() * heard[:, None]
    before = SLOTS - len(contexts)
    return F.pad(made, (0, 0, before, 0)), F.pad(heard.float(), (before, 0))


def face_slots(count: int, hops: int) -> list[int]:
    """The slots of pictures spread evenly over a voice, of which the last window is seen; negative before it.

    Args:
        count: of the pictures.
        hops: of the voice.

    Example:
        >>> face_slots(1, 20), face_slots(3, 60)
        ([30], [-10, 10, 30])
    """
    return [SLOTS - hops + int((place + 0.5) * hops / count) for place in range(count)]


class Encoded:
    """Test items as tokens of one pair of encoders, under every condition.

    Args:
        items: of the test set.
        encoders: of ``'face'`` and ``'voice'``.
    """

    def __init__(self, items: Items, encoders: Mapping[str, nn.Module]) -> None:
        self.items = items
        self.hops = [max(1, math.ceil(len(samples) / sounds.HOP)) for samples in items.sounds]
        self.faces = {
            name: face_tokens(encoders["face"], faces) for name, faces in degraded_faces(items.faces).items()
        }
        self.voices = {
            name: [voice_tokens(encoders["voice"], samples) for samples in heard]
            for name, heard in degraded_voices(items.sounds).items()
        }

    def inputs(self, face: str, voice: str) -> Inputs:
        """What a fusion reads of every item.

        Args:
            face: one of `FACES`.
            voice: one of `VOICES`.
        """
        seen, seen_mask = self._seen("whole" if face == "absent" else face)
        heard = self.voices["whole" if voice == "absent" else voice]
        told = torch.stack([heard[row][0] for row in self.items.heard.tolist()])
        told_mask = torch.stack([heard[row][1] for row in self.items.heard.tolist()])
        seen_mask, told_mask = seen_mask * (face != "absent"), told_mask * (voice != "absent")
        return seen * seen_mask[..., None], seen_mask, told * told_mask[..., None], told_mask

    def _seen(self, face: str) -> tuple[Tensor, Tensor]:
        faces, count = self.faces[face], len(self.items.seen)
        tokens, mask = torch.zeros(count, SLOTS, faces[0].shape[1]), torch.zeros(count, SLOTS)
        for item, (row, voice) in enumerate(
            zip(self.items.seen.tolist(), self.items.heard.tolist(), strict=True)
        ):
            for token, slot in zip(faces[row], face_slots(len(faces[row]), self.hops[voice]), strict=True):
                if slot >= 0:
                    tokens[item, slot], mask[item, slot] = token, 1.0
        return tokens, mask
