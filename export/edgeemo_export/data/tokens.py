"""Banks of tokens that frozen encoders made, and the windows and pairs drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import sounds, voices
from .degrade import blurred, noisy, occluded
from .ferplus import Faces
from .labels import LABELS
from .pictures import jitter

SLOTS = 40
NEUTRAL = LABELS.index("neutral")
SIGMAS, SHARES = (1.0, 2.0, 3.0, 4.0), (0.2, 0.35, 0.5)  # of what blurs and what covers pictures made worse


@dataclass(frozen=True)
class FaceBank:
    """Tokens of still pictures.

    Attributes:
        tokens: ``[copies, n, D]``; copy 0 is the picture as it is, the others are jittered.
        shares: raters' shares of the seven labels, ``[n, 7]``.
        labels: majority labels, -1 where there is none, ``[n]``.
    """

    tokens: Tensor
    shares: Tensor
    labels: Tensor


@dataclass(frozen=True)
class VoiceBank:
    """Tokens of utterances, the newest at the last slot.

    Attributes:
        tokens: ``[copies, n, SLOTS, D]``; copy 0 is the utterance as it is, the others are distorted.
        masks: ``[copies, n, SLOTS]``.
        labels: ``[n]``.
    """

    tokens: Tensor
    masks: Tensor
    labels: Tensor


@torch.no_grad()
def bank_faces(encoder: nn.Module, faces: Faces, copies: int, seed: int) -> FaceBank:
    """Encode pictures, once as they are and ``copies - 1`` times jittered."""
    random = torch.Generator().manual_seed(seed)
    images = torch.from_numpy(faces.images)
    encoder.eval()
    made = []
    for copy in range(copies):
        parts = [
            encoder(jitter(part, random) if copy else part[..., None]).float() for part in images.split(512)
        ]
        made.append(torch.cat(parts))
    return FaceBank(torch.stack(made), torch.from_numpy(faces.shares), torch.from_numpy(faces.majority))


def bank_voices(
    encoder: nn.Module, clips: Sequence[voices.Clip], copies: int, seed: int, labels: Sequence[str] = LABELS
) -> VoiceBank:
    """Encode the last four seconds of utterances, once as they are and ``copies - 1`` times distorted."""

    def takes(samples: Tensor, random: torch.Generator) -> list[Tensor]:
        return [samples, *(sounds.distort(samples, random) for _ in range(copies - 1))]

    return _bank(encoder, clips, takes, seed, labels)


def bank_worse_faces(encoder: nn.Module, faces: Faces, seed: int) -> FaceBank:
    """Encode pictures made worse: one copy blurred, one with something in front of the face."""
    random = torch.Generator().manual_seed(seed)
    hidden = _by_degree(faces.images, random, SHARES, lambda part, share: occluded(part, random, share))
    dull = _by_degree(faces.images, random, SIGMAS, blurred)
    banks = [bank_faces(encoder, Faces(images, faces.votes), 1, seed) for images in (dull, hidden)]
    return replace(banks[0], tokens=torch.cat([bank.tokens for bank in banks]))


def bank_worse_voices(encoder: nn.Module, clips: Sequence[voices.Clip], seed: int) -> VoiceBank:
    """Encode utterances in white noise, from 15 dB below them to 5 dB above."""

    def takes(samples: Tensor, random: torch.Generator) -> list[Tensor]:
        return [noisy(samples, random, 20.0 * float(torch.rand((), generator=random)) - 5.0)]

    return _bank(encoder, clips, takes, seed, LABELS)


def _by_degree(
    images: NDArray[np.uint8],
    random: torch.Generator,
    degrees: Sequence[float],
    change: Callable[[NDArray[np.uint8], float], NDArray[np.uint8]],
) -> NDArray[np.uint8]:
    """Pictures each changed by one of some degrees, drawn at random."""
    drawn = torch.randint(len(degrees), (len(images),), generator=random).numpy()
    changed = images.copy()
    for place, degree in enumerate(degrees):
        changed[drawn == place] = change(images[drawn == place], degree)
    return changed


@torch.no_grad()
def _bank(
    encoder: nn.Module,
    clips: Sequence[voices.Clip],
    takes: Callable[[Tensor, torch.Generator], list[Tensor]],
    seed: int,
    labels: Sequence[str],
) -> VoiceBank:
    """Encode the last four seconds of some takes of each utterance."""
    random = torch.Generator().manual_seed(seed)
    encoder.eval()
    tokens, masks = [], []
    for clip in clips:
        for samples in takes(sounds.load(clip.path), random):
            heard = sounds.contexts(samples)[-SLOTS:]
            made = encoder(heard).float()
            before = SLOTS - len(made)
            tokens.append(torch.cat([made.new_zeros(before, made.shape[1]), made]))
            masks.append(torch.cat([torch.zeros(before), torch.ones(len(made))]))
    stacked, mask = (torch.stack(x).unflatten(0, (len(clips), -1)).transpose(0, 1) for x in (tokens, masks))
    return VoiceBank(stacked, mask, torch.tensor([labels.index(clip.label) for clip in clips]))


class Drawer:
    """Draws training windows: stills, sequences of faces, utterances and pairs of them.

    Args:
        faces: bank of the training pictures.
        voices: bank of the training utterances.
        confusion: ``[7, 7]``, rows the true labels: how unseen speakers of each label are heard.
    """

    def __init__(self, faces: FaceBank, voices: VoiceBank, confusion: Tensor) -> None:
        self.faces, self.voices, self.confusion = faces, voices, confusion
        self.pictures_of = [(faces.labels == label).nonzero()[:, 0] for label in range(len(LABELS))]
        self.voices_of = [(voices.labels == label).nonzero()[:, 0] for label in range(len(LABELS))]

    def _any_of(self, groups: list[Tensor], labels: Tensor, random: torch.Generator) -> Tensor:
        sizes = torch.tensor([len(group) for group in groups])[labels]
        places = (torch.rand(labels.shape, generator=random) * sizes).long()
        rows = torch.empty_like(labels)
        for label, group in enumerate(groups):
            chosen = labels == label
            rows[chosen] = group[places[chosen]]
        return rows

    def stills(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Tokens ``[count, 1, D]`` of stills in the corpus' own mix of labels, and the raters' shares."""
        kept = (self.faces.labels >= 0).nonzero()[:, 0]
        rows = kept[torch.randint(len(kept), (count,), generator=random)]
        copies = torch.randint(len(self.faces.tokens), (count,), generator=random)
        return self.faces.tokens[copies, rows][:, None], self.faces.shares[rows]

    def pictures(self, labels: Tensor, random: torch.Generator) -> Tensor:
        """Tokens of pictures of the majority ``labels``, which may have any shape: ``[..., D]``."""
        return self._takes(self._any_of(self.pictures_of, labels, random), random)

    def _takes(self, rows: Tensor, random: torch.Generator) -> Tensor:
        copies = torch.randint(len(self.faces.tokens), rows.shape, generator=random)
        return self.faces.tokens[copies, rows]

    def sequences(self, labels: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sequences of faces of people who talk: ``labels`` show some of the time, weakly, or never.

        A sequence is made of one resting face and one telling face, each seen in different takes: the frames
        of one person err alike, so that averaging many of them must not help as it would with many people.
        Somebody who talks looks neutral most of the time, and what shows is weaker than in a still that
        somebody found worth a photograph: it lies between the two tokens, at a place drawn for the sequence;
        in a quarter of the sequences nothing shows.

        Returns:
            Tokens ``[n, SLOTS, D]`` and masks ``[n, SLOTS]``.
        """
        count = len(labels)
        share = 0.1 + 0.9 * torch.rand(count, 1, 1, generator=random)
        telling = torch.rand(count, SLOTS, 1, generator=random) < share
        strength = 0.2 + 0.8 * torch.rand(count, 1, 1, generator=random)
        strength = strength * (torch.rand(count, 1, 1, generator=random) >= 0.25)
        strength = strength * (0.6 + 0.4 * torch.rand(count, SLOTS, 1, generator=random)) * telling
        neutral = torch.full((count,), NEUTRAL)
        resting, told = (
            self._takes(self._any_of(self.pictures_of, shown, random)[:, None].expand(-1, SLOTS), random)
            for shown in (neutral, labels)
        )
        tokens = resting.lerp(told, strength)
        # Now and then a picture says something else: a blink, a blurred or badly cropped frame.
        stray = self.pictures(torch.randint(len(LABELS), (count, SLOTS), generator=random), random)
        tokens = torch.where(torch.rand(count, SLOTS, 1, generator=random) < 0.05, stray, tokens)
        # At least the last picture, and from there between one in eight and all of them.
        kept = torch.rand(count, SLOTS, generator=random) < torch.exp2(
            -3.0 * torch.rand(count, 1, generator=random)
        )
        kept[:, -1] = True
        return tokens * kept[..., None], kept.float()

    def utterances(self, labels: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Utterances as an encoder that never heard their speakers would give them.

        The encoder knows its training speakers by heart, so on them a fusion would learn to believe every
        voice. Labels are first exchanged as unseen speakers of the development set are confused.

        Returns:
            Tokens ``[n, SLOTS, D]`` and masks ``[n, SLOTS]``.
        """
        heard = torch.multinomial(self.confusion[labels], 1, generator=random)[:, 0]
        rows = self._any_of(self.voices_of, heard, random)
        copies = torch.randint(len(self.voices.tokens), rows.shape, generator=random)
        mask = self.voices.masks[copies, rows]
        kept = torch.rand(mask.shape, generator=random) < torch.exp2(
            -2.0 * torch.rand(len(rows), 1, generator=random)
        )
        kept[:, -1] = True
        mask = mask * kept
        return self.voices.tokens[copies, rows] * mask[..., None], mask


def at_random_slot(token: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Put single tokens ``[n, 1, D]`` each at a random slot: ``[n, SLOTS, D]`` and masks ``[n, SLOTS]``."""
    mask = torch.zeros(len(token), SLOTS)
    mask[torch.arange(len(token)), torch.randint(SLOTS, (len(token),), generator=random)] = 1.0
    return token * mask[..., None], mask


def pair_by_label(
    first: Tensor, second: Tensor, count: int, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw at most ``count`` pairs of rows with equal labels, each row of ``second`` about equally often.

    Args:
        first: labels, negative where a row is not to be used.
        second: labels.
        count: number of pairs; fewer are given where labels of ``second`` are not in ``first``.
        random: source of every draw.
    """
    rows = torch.cat([torch.randperm(len(second), generator=random) for _ in range(-(-count // len(second)))])
    partners, kept = [], []
    for row in rows.tolist():
        fitting = (first == second[row]).nonzero()[:, 0]
        if len(fitting):
            partners.append(int(fitting[torch.randint(len(fitting), (), generator=random)]))
            kept.append(row)
    return torch.tensor(partners[:count], dtype=torch.long), torch.tensor(kept[:count], dtype=torch.long)
