"""Lessons: windows, and what finished fusions say of them, from which another fusion learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import distil
from ..data.labels import LABELS
from ..data.pairs import ByLabel
from ..data.tokens import Drawer, FaceBank, VoiceBank, at_random_slot

WINDOWS = 128  # of a lesson, the first half of them labelled
COMPARED = slice(None, None, 2)  # windows whose representations are compared with each other
WORSE = 0.5  # share of the unlabelled faces, and of the voices, that are made worse
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


class Course:
    """Draws the windows of lessons, the same ones whichever encoders made the tokens.

    Banks of different encoders have tokens of the same pictures and sounds in the same rows, if they have as
    many copies and were made from one seed. A lesson is drawn by its number, and no draw hangs on a token.

    Args:
        known: draws from the training pictures and utterances.
        worse_faces: the same pictures, made worse.
        worse_voices: the same utterances, made worse.
    """

    def __init__(self, known: Drawer, worse_faces: FaceBank, worse_voices: VoiceBank) -> None:
        self.known, self.worse = known, Drawer(worse_faces, worse_voices, known.confusion)

    def lesson(self, number: int) -> Inputs:
        """What a fusion reads of `WINDOWS` windows.

        Half of them are pairs of one label, as in training. The other half have no label that all of a
        window would bear out: any picture, also one on which the raters did not agree, or a sequence of
        faces, beside an utterance that was drawn without regard to it as often as not; face and voice each
        as they are or made worse.
        """
        random = torch.Generator().manual_seed(number)
        labelled = ByLabel(self.known).draw(WINDOWS // 2, random)
        pairs = labelled.first, labelled.first_mask, labelled.second, labelled.second_mask
        others = self._unlabelled(WINDOWS // 2, random)
        first, first_mask, second, second_mask = (
            torch.cat(parts) for parts in zip(pairs, others, strict=True)
        )
        return first, first_mask, second, second_mask

    def _unlabelled(self, count: int, random: torch.Generator) -> Inputs:
        pictures = torch.randint(len(self.known.faces.labels), (count // 2,), generator=random)
        shown = torch.randint(len(LABELS), (count - count // 2,), generator=random)
        seen = torch.cat([self.known.faces.labels[pictures], shown])
        other = torch.randint(len(LABELS), (count,), generator=random)
        heard = torch.where((torch.rand(count, generator=random) < 0.5) & (seen >= 0), seen, other)
        faces, voices = [], []
        for drawer in (self.known, self.worse):
            copies = torch.randint(len(drawer.faces.tokens), (count // 2,), generator=random)
            stills = at_random_slot(drawer.faces.tokens[copies, pictures][:, None], random)
            moving = drawer.sequences(shown, random)
            faces.append([torch.cat(parts) for parts in zip(stills, moving, strict=True)])
            voices.append(drawer.utterances(heard, random))
        face, voice = (
            _chosen(torch.rand(count, generator=random) < WORSE, *each) for each in (faces, voices)
        )
        return *face, *voice


def _chosen(second: Tensor, *two: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of tokens and mask, of the second of two where that is said."""
    (tokens, mask), (others, other_mask) = two
    return torch.where(second[:, None, None], others, tokens), torch.where(second[:, None], other_mask, mask)


class Teacher(nn.Module):
    """A finished fusion as a teacher.

    Args:
        fusion: reads tokens and masks of both modalities, and answers with logits, alone or first of several.
        head: the part of it that maps its representation of both to logits.
        temperature: by which its logits are to be divided to be calibrated.
    """

    def __init__(self, fusion: nn.Module, head: nn.Module, temperature: float = 1.0) -> None:
        super().__init__()
        self.fusion, self.head, self.temperature = fusion.eval(), head, temperature

    @torch.no_grad()
    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Calibrated logits ``[n, K]`` of windows, and the representation ``[n, e]`` that they come from."""
        found: list[Tensor] = []
        listening = self.head.register_forward_pre_hook(lambda _, given: found.append(given[0]))
        try:
            said = self.fusion(*inputs)
        finally:
            listening.remove()
        logits = said if isinstance(said, Tensor) else said[0]
        return logits / self.temperature, torch.cat(found, dim=1)


@dataclass(frozen=True)
class Answers:
    """What one teacher says of the lessons.

    Attributes:
        logits: calibrated, ``[lessons, WINDOWS, K]``.
        representations: of the windows that are `COMPARED`, ``[lessons, m, e]``.
    """

    logits: Tensor
    representations: Tensor


def ask(teacher: Teacher, course: Course, lessons: int) -> Answers:
    """Have a teacher answer every lesson of a course over the tokens that it reads."""
    said = [teacher(course.lesson(number)) for number in range(lessons)]
    logits = torch.stack([one for one, _ in said])
    return Answers(logits, torch.stack([found[COMPARED] for _, found in said]))


@dataclass(frozen=True)
class Lesson:
    """Windows, and what the teachers say of them.

    Attributes:
        inputs: of the student.
        probabilities: of the teachers together, softened, ``[n, K]``.
        representations: of each teacher, of the windows that are `COMPARED`, ``[m, e]``.
    """

    inputs: Inputs
    probabilities: Tensor
    representations: tuple[Tensor, ...]


class Lessons:
    """A course over the student's tokens, with the answers of the teachers.

    Args:
        course: over tokens of the student's encoders.
        answers: of each teacher.
        temperature: of the answers.
    """

    def __init__(self, course: Course, answers: Sequence[Answers], temperature: float) -> None:
        self.course, self.answers, self.temperature = course, answers, temperature

    def draw(self, random: torch.Generator) -> Lesson:
        """Any of the lessons."""
        number = int(torch.randint(len(self.answers[0].logits), (), generator=random))
        probabilities = distil.ensemble([one.logits[number] for one in self.answers], self.temperature)
        representations = tuple(one.representations[number] for one in self.answers)
        return Lesson(self.course.lesson(number), probabilities, representations)
