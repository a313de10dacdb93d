"""Pairs of a face and a voice to train a fusion on: by label, by CREMA-D's votes, or of one recording."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgeemo.errors import InputError

from ..systems.fusion import Windows
from .labels import LABELS
from .tokens import Drawer, FaceBank, VoiceBank, at_random_slot
from .voices import Clip

CREMAD = {"A": "anger", "D": "disgust", "F": "fear", "H": "happiness", "N": "neutral", "S": "sadness"}
HELD = "1001"  # the actor of CREMA-D whom the tests show
SURPRISE = LABELS.index("surprise")
CANDIDATES = 64  # pictures of each label among which the nearest to a clip's votes is looked for
STILLS = 4  # one window in so many has a still, the others a face in motion


class Source(Protocol):
    """Gives training windows."""

    def draw(self, count: int, random: torch.Generator) -> Windows:
        """Windows with a face and a voice each, ``count`` of them."""
        ...


class ByLabel:
    """A face and a voice of one label, all labels equally often.

    Args:
        drawer: of pictures and utterances.
    """

    def __init__(self, drawer: Drawer) -> None:
        self.drawer = drawer

    def draw(self, count: int, random: torch.Generator) -> Windows:
        """Windows whose target is the label that both have."""
        labels = torch.randint(len(LABELS), (count,), generator=random)
        face, face_mask = _faces(self.drawer, labels, random)
        voice, voice_mask = self.drawer.utterances(labels, random)
        return Windows(face, face_mask, voice, voice_mask, F.one_hot(labels, len(LABELS)).float())


@dataclass(frozen=True)
class Votes:
    """What raters said of clips: shares over the seven labels, ``[clips, 7]`` each; surprise has none.

    Attributes:
        voice: of those who heard the voice alone.
        face: of those who saw the face alone.
        both: of those who saw and heard.
    """

    voice: Tensor
    face: Tensor
    both: Tensor


def read_votes(folder: Path) -> Votes:
    """Read ``tabulatedVotes.csv`` of CREMA-D, without the actor whom the tests show.

    Its rows have a number of six digits, of which the first says what the raters were given: 1 the voice,
    2 the face, 3 both.

    Raises:
        InputError: the file is not that table.
    """
    path = folder / "tabulatedVotes.csv"
    given: dict[str, dict[str, list[float]]] = {"1": {}, "2": {}, "3": {}}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if not row["fileName"].startswith(HELD):
                    given[row[""][0]][row["fileName"]] = [float(row[name]) for name in CREMAD]
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise InputError(
            f"{path}: no table of votes ({error!r}); it must have a number, fileName and {', '.join(CREMAD)}"
        ) from error
    clips = [name for name in given["3"] if name in given["1"] and name in given["2"]]
    if not clips:
        raise InputError(f"{path}: no clip has votes for its voice, its face and both; each must have them")
    places = [LABELS.index(label) for label in CREMAD.values()]
    shares = []
    for kind in ("1", "2", "3"):
        counts = torch.tensor([given[kind][name] for name in clips])
        table = torch.zeros(len(clips), len(LABELS))
        table[:, places] = counts / counts.sum(dim=1, keepdim=True).clamp(min=1.0)
        shares.append(table)
    return Votes(*shares)


class ByVotes(Drawer):
    """A face and a voice that raters would judge as those of a clip of CREMA-D; the target is what they said.

    The face is the picture, out of a few hundred drawn evenly over the labels, whose raters' shares are
    nearest to those of the clip's face in total variation. Nobody rated the voices, so one vote for the
    clip's voice is drawn and a voice of that label is taken: over many draws what is heard is spread as the
    votes are. The target are the shares of those who saw and heard the clip.

    Labels are first drawn evenly, then a clip in proportion to its audio-visual share of the label, so that
    no label is favoured by how often raters said it. CREMA-D has no surprise: that seventh of the windows is
    matched by label.

    Args:
        faces: bank of the training pictures.
        voices: bank of the training utterances.
        confusion: how unseen speakers are heard, ``[7, 7]``; for surprise only, as votes say it of the rest.
        votes: of CREMA-D's raters.
    """

    def __init__(self, faces: FaceBank, voices: VoiceBank, confusion: Tensor, votes: Votes) -> None:
        super().__init__(faces, voices, confusion)
        self.votes = votes
        self.heard = Drawer(faces, voices, torch.eye(len(LABELS)))

    def draw(self, count: int, random: torch.Generator) -> Windows:
        """Windows whose target are shares."""
        labels = torch.randint(len(LABELS), (count,), generator=random)
        surprised = labels == SURPRISE
        clips = self.clips(labels[~surprised], random)
        face, face_mask = _faces(self, len(LABELS) + clips, random)
        said = torch.multinomial(self.votes.voice[clips], 1, generator=random)[:, 0]
        voice, voice_mask = self.heard.utterances(said, random)
        rest = labels[surprised]
        seen, seen_mask = _faces(self, rest, random)
        told, told_mask = self.utterances(rest, random)
        return Windows(
            torch.cat([face, seen]),
            torch.cat([face_mask, seen_mask]),
            torch.cat([voice, told]),
            torch.cat([voice_mask, told_mask]),
            torch.cat([self.votes.both[clips], F.one_hot(rest, len(LABELS)).float()]),
        )

    def clips(self, labels: Tensor, random: torch.Generator) -> Tensor:
        """A clip for each label, in proportion to its audio-visual share of it, ``[n]``."""
        return torch.multinomial(self.votes.both.T[labels], 1, generator=random)[:, 0]

    def _any_of(self, groups: list[Tensor], labels: Tensor, random: torch.Generator) -> Tensor:
        """Rows of labels, and of clips, which are numbered after the labels."""
        if not (labels >= len(LABELS)).any():
            return super()._any_of(groups, labels, random)
        evenly = torch.arange(len(LABELS)).repeat_interleave(CANDIDATES)
        candidates = super()._any_of(groups, evenly, random)
        wanted = self.votes.face[labels - len(LABELS)]
        distance = 0.5 * torch.cdist(wanted, self.faces.shares[candidates], p=1.0)
        # Of pictures that are equally near, any: most of a label's are as unanimous as its clips.
        tied = 0.02 * torch.rand(distance.shape, generator=random)
        return candidates[(distance + tied).argmin(dim=-1)]


def _faces(drawer: Drawer, labels: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Stills and faces in motion, mixed: tokens ``[n, SLOTS, D]`` and masks ``[n, SLOTS]``."""
    count = len(labels) // STILLS
    stills, still_mask = at_random_slot(drawer.pictures(labels[:count, None], random), random)
    moving, moving_mask = drawer.sequences(labels[count:], random)
    return torch.cat([stills, moving]), torch.cat([still_mask, moving_mask])


@dataclass(frozen=True)
class Real:
    """Windows of recordings whose face and voice are one person's at one time.

    Attributes:
        units: action units of each recording, standardised, ``[n, D]``: the first are the units, the rest 0.
        voices: bank of their voices.
    """

    units: Tensor
    voices: VoiceBank

    def draw(self, count: int, random: torch.Generator) -> Windows:
        """Windows of all labels equally often, each of any take of a voice, which loses some tokens."""
        labels = self.voices.labels
        even = 1.0 / torch.bincount(labels, minlength=len(LABELS)).clamp(min=1)[labels]
        rows = torch.multinomial(even, count, replacement=True, generator=random)
        takes = torch.randint(len(self.voices.tokens), (count,), generator=random)
        mask = self.voices.masks[takes, rows]
        kept = torch.rand(mask.shape, generator=random) < torch.exp2(
            -2.0 * torch.rand(count, 1, generator=random)
        )
        kept[:, -1] = True
        return self.windows(rows, takes, mask * kept)

    def windows(self, rows: Tensor, takes: Tensor, mask: Tensor) -> Windows:
        """Windows of recordings; the units, which are means over a clip, hold wherever a voice is heard.

        Args:
            rows: of the recordings, ``[n]``.
            takes: of their voices, ``[n]``.
            mask: slots of the voice that count, ``[n, SLOTS]``.
        """
        voice = self.voices.tokens[takes, rows] * mask[..., None]
        targets = F.one_hot(self.voices.labels[rows], len(LABELS)).float()
        return Windows(self.units[rows, None] * mask[..., None], mask, voice, mask, targets)


def real(data: Path, clips: Sequence[Clip], voices: VoiceBank) -> Real:
    """Join voices with the action units of their videos; voices without any are left out.

    Args:
        data: the corpora.
        clips: the utterances that the bank is of, in its order.
        voices: their tokens.

    Raises:
        InputError: a token is narrower than the units are many.
    """
    with np.load(data / "ravdess_action_units" / "action_units.npz", allow_pickle=False) as file:
        names, units = file["clip"].tolist(), torch.from_numpy(file["units"])
    width = voices.tokens.shape[-1]
    if width < units.shape[1]:
        raise InputError(f"tokens: width {width}; it must be at least the number of units, {units.shape[1]}")
    training = units[torch.tensor([2 <= int(name.split("-")[6]) <= 14 for name in names])]
    units = (units - training.mean(dim=0)) / training.std(dim=0).clamp(min=1e-3)
    # The video of a recording has the name of its sound file, but for the first field.
    place = {f"03{name[2:]}": row for row, name in enumerate(names)}
    kept = [row for row, clip in enumerate(clips) if clip.path.stem in place]
    joined = units[[place[clips[row].path.stem] for row in kept]]
    bank = VoiceBank(voices.tokens[:, kept], voices.masks[:, kept], voices.labels[kept])
    return Real(F.pad(joined, (0, width - joined.shape[1])), bank)
