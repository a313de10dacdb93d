"""Banks of tokens that frozen encoders made, and the windows and pairs drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from . import sounds, voices
from .ferplus import Faces
from .labels import LABELS
from .pictures import jitter

SLOTS = 40
NEUTRAL = LABELS.index("neutral")


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


@torch.no_grad()
def bank_voices(
    encoder: nn.Module, clips: Sequence[voices.Clip], copies: int, seed: int, labels: Sequence[str] = LABELS
) -> VoiceBank:
    """Encode the last four seconds of utterances, once as they are and ``copies - 1`` times distorted."""
    random = torch.Generator().manual_seed(seed)
    encoder.eval()
    tokens, masks = [], torch.zeros(copies, len(clips), SLOTS)
    for place, clip in enumerate(clips):
        samples = sounds.load(clip.path)
        for copy in range(copies):
            heard = sounds.contexts(sounds.distort(samples, random) if copy else samples)[-SLOTS:]
            made = encoder(heard).float()
            tokens.append(torch.cat([made.new_zeros(SLOTS - len(made), made.shape[1]), made]))
            masks[copy, place, SLOTS - len(made) :] = 1.0
    stacked = torch.stack(tokens).unflatten(0, (len(clips), copies)).transpose(0, 1)
    return VoiceBank(stacked, masks, torch.tensor([labels.index(clip.label) for clip in clips]))


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
