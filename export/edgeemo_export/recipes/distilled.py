"""Edge encoders that learn from larger ones: labels, and what teachers answer to the same takes.

A take is a picture or a recording as augmentation makes it. Takes are drawn once, the teachers answer each of
them once, and every epoch the student meets them in another draw: teachers of ten times its work then cost
as much as a few of its epochs.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo.errors import InputError

from .. import distil, processes
from ..config import keep, kept, refuse
from ..data import ferplus, sounds, voices
from ..data.labels import LABELS
from ..data.pictures import jitter
from ..precision import mixed
from ..train import Schedule, fit
from . import face, voice
from .face import FaceModel
from .fusion import digest, is_finished
from .trained import restored_face, restored_voice
from .voice import VoiceModel

log = logging.getLogger("edgeemo.export")

SCHEDULE = Schedule(epochs=50, rate=3e-3, decay=0.05)
VOICE_SCHEDULE = replace(voice.SCHEDULE, epochs=240)
TEACHERS = "teachers.sha256"
TOGETHER = 32
"""Rows that `distil.relations` compares."""


@dataclass(frozen=True)
class Lesson:
    """How much of what is learned comes from the teachers.

    Attributes:
        answers: share of the teachers' answers beside the labels.
        temperature: of these answers.
        tokens: weight of the tokens of the first teacher.
        relations: weight of how those lie to each other.

    Raises:
        InputError: one of them is out of its range.
    """

    answers: float = 0.7
    temperature: float = 2.0
    tokens: float = 0.5
    relations: float = 0.5

    def __post_init__(self) -> None:
        refuse(
            "lesson",
            self,
            ("answers", 0 <= self.answers <= 1, "from 0 to 1"),
            ("temperature", self.temperature > 0, "above 0"),
            ("tokens", self.tokens >= 0, "0 or more"),
            ("relations", self.relations >= 0, "0 or more"),
        )


@dataclass(frozen=True)
class FaceConfig(face.Config):
    """Settings of the face.

    Attributes:
        takes: of each picture.
        lesson: see [Lesson][].

    Raises:
        InputError: one of them is out of its range.
    """

    schedule: Schedule = SCHEDULE
    smoothing: float = 0.0
    takes: int = 8
    lesson: Lesson = Lesson()

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse("face", self, ("takes", self.takes >= 1, "1 or more"))


@dataclass(frozen=True)
class VoiceConfig(voice.Config):
    """Settings of the voice.

    It learns for far longer than without teachers: from 70 epochs to 240 it gained most on speakers that
    nothing was trained on.

    Attributes:
        lesson: see [Lesson][].
    """

    schedule: Schedule = VOICE_SCHEDULE
    varied: float = 0.2
    lesson: Lesson = Lesson()


FACE, VOICE = FaceConfig(), VoiceConfig()


def is_run(folder: Path) -> bool:
    """Whether a folder holds an encoder that was taught, finished or not."""
    return (folder / TEACHERS).exists()


def teaching_face(run: Path) -> FaceModel:
    """The face of a run, of whatever size, as a teacher.

    Raises:
        InputError: the run has none.
    """
    return restored_face(run / "face", "--teachers")


def teaching_voice(run: Path) -> VoiceModel:
    """The voice of a run, of whatever size, as a teacher.

    Raises:
        InputError: the run has none.
    """
    return restored_voice(run / "voice", "--teachers")


def read_face(folder: Path) -> FaceModel:
    """A face that has been taught.

    Raises:
        InputError: its run has not finished.
    """
    _refuse_unfinished(folder, kept(folder, FACE))
    return restored_face(folder)


def read_voice(folder: Path) -> VoiceModel:
    """A voice that has been taught.

    Raises:
        InputError: its run has not finished.
    """
    _refuse_unfinished(folder, kept(folder, VOICE))
    return restored_voice(folder)


def _refuse_unfinished(folder: Path, config: FaceConfig | VoiceConfig) -> None:
    if not is_finished(folder, config.schedule):
        raise InputError(f"{folder}: its teachers have not finished; call edgeemo-export distil again")


def face_of(data: Path, folder: Path, teachers: Sequence[FaceModel], config: FaceConfig) -> FaceModel:
    """Teach a face encoder on FER+ train, less the development cut.

    The teachers also answer the pictures that the raters could not agree on, which have no label here.

    Args:
        data: the corpora.
        folder: of the settings, the state and the curve.
        teachers: their logits are averaged; the tokens are those of the first.
        config: the settings.

    Raises:
        InputError: the run in ``folder`` was begun with other settings or teachers, or there is no teacher.
    """
    _begin(folder, config, teachers)
    faces = ferplus.read(data / "ferplus", "train")
    labelled = torch.from_numpy(face.usable(faces))
    shares = torch.from_numpy(faces.shares)
    prior = shares[labelled].mean(dim=0).log()
    where = processes.device()
    torch.manual_seed(config.schedule.seed)
    student = FaceModel(size=config.size)
    student.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    adapter = _adapter(student.head.in_features, teachers[0].head.in_features).to(where)
    takes: list[Answered] = []
    steps = len(shares) // config.batch

    def batches(random: torch.Generator) -> Iterator[Tensor]:
        if not takes:  # a finished run that is only read back needs none
            takes.extend(_pictures(torch.from_numpy(faces.images), teachers, prior, config))
        order = torch.randperm(len(shares), generator=random)
        return iter(order[: steps * config.batch].split(config.batch))

    def loss(model: nn.Module, rows: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        assert isinstance(model, FaceModel)
        take = takes[int(torch.randint(config.takes, (), generator=random))]
        images = take.given[rows].float()
        mirrored = torch.rand(len(rows), generator=random) < 0.5
        images = torch.where(mirrored[:, None, None], images.flip(2), images)[..., None]
        with mixed(where):
            tokens = model.encoder(images.contiguous().to(where))
            logits = model.head(tokens)
        logits = logits.float() + prior.to(where)
        parts = _taught(config.lesson, adapter, logits, tokens.float(), take, rows)
        known = labelled[rows]
        targets = shares[rows][known].to(where)
        labels = F.cross_entropy(logits[known], targets, label_smoothing=config.smoothing)
        return {"labels": (1.0 - config.lesson.answers) * labels, **parts}

    def develop(model: nn.Module) -> Mapping[str, float]:
        return face.score(model, data, "develop", prior)

    averaged = fit(student, batches, steps, loss, develop, config.schedule, folder, beside=adapter)
    assert isinstance(averaged, FaceModel)
    return averaged.cpu()


@dataclass(frozen=True)
class Answered:
    """One take of every item, and what the teachers answer to it.

    Attributes:
        given: pictures ``[n, 48, 48]`` uint8; without those of recordings, which `voice.record` keeps.
        probabilities: at the lesson's temperature, ``[n, K]``.
        tokens: of the first teacher, ``[n, D]``.
    """

    given: Tensor
    probabilities: Tensor
    tokens: Tensor


@torch.no_grad()
def _pictures(
    images: Tensor, teachers: Sequence[FaceModel], prior: Tensor, config: FaceConfig
) -> Iterator[Answered]:
    """Takes of every picture, answered."""
    random, where = torch.Generator().manual_seed(config.schedule.seed), processes.device()
    models = [teacher.eval().to(where, memory_format=torch.channels_last) for teacher in teachers]  # type: ignore[call-overload]
    for count in range(config.takes):
        given, answers, tokens = [], [], []
        for part in images.split(256):
            take = jitter(part, random).round().byte()
            given.append(take[..., 0])
            with mixed(where):
                found = [model.encoder(take.to(where)) for model in models]
                said = [model.head(one) for model, one in zip(models, found, strict=True)]
            natural = [one.float().cpu() + prior for one in said]
            answers.append(distil.ensemble(natural, config.lesson.temperature))
            tokens.append(found[0].bfloat16().cpu())
        log.info("face: the teachers have answered take %d of %d", count + 1, config.takes)
        yield Answered(torch.cat(given), torch.cat(answers), torch.cat(tokens))


def _taught(
    lesson: Lesson, adapter: nn.Module, logits: Tensor, tokens: Tensor, take: Answered, rows: Tensor
) -> dict[str, Tensor]:
    """What a lesson costs beside the labels."""
    where = logits.device
    wanted = take.tokens[rows].float().to(where)
    told = distil.soft_targets(logits, take.probabilities[rows].to(where), lesson.temperature)
    return {
        "answers": lesson.answers * told,
        "tokens": lesson.tokens * distil.tokens(tokens, wanted, adapter),
        "relations": lesson.relations * distil.relations(tokens[:TOGETHER], wanted[:TOGETHER]),
    }


@dataclass(frozen=True)
class Heard:
    """One take of every clip, and what the teachers answer to it.

    Attributes:
        mels: log-mel of each clip's contexts, ``[hops, bands, frames]``.
        probabilities: of whole clips, ``[n, K]``, by the class shares of the training set.
        tokens: of the first teacher, ``[hops, D]`` of each clip.
    """

    mels: list[Tensor]
    probabilities: Tensor
    tokens: list[Tensor]


def voice_of(data: Path, folder: Path, teachers: Sequence[VoiceModel], config: VoiceConfig) -> VoiceModel:
    """Teach a voice encoder on the training speakers of RAVDESS, nEMO and EmoDB.

    Clips that are mixed with another are answered as the teachers answer the two, mixed alike: they are what
    has no label here.

    Args:
        data: the corpora.
        folder: of the settings, the state and the curve.
        teachers: their answers to whole clips are averaged; the tokens are those of the first.
        config: the settings; the temperature of its lesson is that of single contexts and of clips.

    Raises:
        InputError: the run in ``folder`` was begun with other settings or teachers, or there is no teacher.
    """
    _begin(folder, config, teachers)
    clips, lesson, where = voice.training_clips(data, config), config.lesson, processes.device()
    torch.manual_seed(config.schedule.seed)
    student = VoiceModel(size=config.size)
    front = copy.deepcopy(student.encoder.front)  # stays on the CPU, where sounds are recorded
    student.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    adapter = _adapter(student.head.in_features // 2, teachers[0].head.in_features // 2).to(where)
    labels = F.one_hot(torch.tensor([LABELS.index(clip.label) for clip in clips]), len(LABELS)).float()
    prior = labels.mean(dim=0).log()
    takes: list[Heard] = []
    steps = len(clips) // config.batch

    def batches(random: torch.Generator) -> Iterator[Tensor]:
        if not takes:
            recorded = voice.record(front, clips, config.schedule.seed, config.takes)
            takes.extend(_heard(one, teachers, prior, lesson.temperature) for one in recorded)
        order = torch.randperm(len(clips), generator=random)
        return iter(order[: steps * config.batch].split(config.batch))

    def loss(model: nn.Module, rows: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        assert isinstance(model, VoiceModel)
        mels, wanted, told = _drawn(takes, rows, config, random)
        both = torch.cat([labels[rows], told], dim=1)
        mels = sounds.vary(mels.float(), config.varied, random)
        mels, both, strange = voice.mix(mels, both, config.mixed, random)
        target, told = (part.to(where) for part in both.split(len(LABELS), dim=1))
        mels = sounds.mask_mel(mels.flatten(0, 1)[:, None], random).to(where)
        with mixed(where):
            tokens = model.encoder.encode(mels.contiguous(memory_format=torch.channels_last))
        tokens = tokens.float()
        logits = model.classify(tokens.unflatten(0, (len(rows), config.windows))) + prior.to(where)
        own = (strange == 0).repeat_interleave(config.windows).to(where)
        wanted = wanted.flatten(0, 1).float().to(where)[own]
        answers = voice.loss_of(model, tokens, target, prior.to(where), config)
        return {
            "labels": (1.0 - lesson.answers) * answers,
            "answers": lesson.answers * distil.soft_targets(logits, told, lesson.temperature),
            "tokens": lesson.tokens * distil.tokens(tokens[own], wanted, adapter),
            "relations": lesson.relations * distil.relations(tokens[own][:TOGETHER], wanted[:TOGETHER]),
        }

    def develop(model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, VoiceModel)
        return voice.score(model, voices.read(data, "develop"))

    averaged = fit(student, batches, steps, loss, develop, config.schedule, folder, beside=adapter)
    assert isinstance(averaged, VoiceModel)
    return averaged.cpu()


def _drawn(
    takes: Sequence[Heard], rows: Tensor, config: VoiceConfig, random: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Contexts of a take of each clip, the teacher's tokens of these, and its answers to the clip."""
    drawn = torch.randint(len(takes), (len(rows),), generator=random).tolist()
    mels, tokens, answers = [], [], []
    for take, row in zip(drawn, rows.tolist(), strict=True):
        heard = takes[take]
        places = sounds.draw(torch.arange(len(heard.mels[row])), config.windows, random)
        mels.append(heard.mels[row][places])
        tokens.append(heard.tokens[row][places])
        answers.append(heard.probabilities[row])
    return torch.stack(mels), torch.stack(tokens), torch.stack(answers)


@torch.no_grad()
def _heard(mels: list[Tensor], teachers: Sequence[VoiceModel], prior: Tensor, temperature: float) -> Heard:
    """One take, answered."""
    where = processes.device()
    models = [teacher.eval().to(where, memory_format=torch.channels_last) for teacher in teachers]  # type: ignore[call-overload]
    answers, tokens = [], []
    for mel in mels:
        with mixed(where):
            found = [model.encoder.encode(mel[:, None].float().to(where)).float() for model in models]
        said = [model.classify(one[None]).cpu() + prior for model, one in zip(models, found, strict=True)]
        answers.append(distil.ensemble(said, temperature))
        tokens.append(found[0].bfloat16().cpu())
    return Heard(mels, torch.cat(answers), tokens)


def _begin(folder: Path, config: FaceConfig | VoiceConfig, teachers: Sequence[nn.Module]) -> None:
    """Keep the settings, and hold a run that was begun to its teachers."""
    if not teachers:
        raise InputError("--teachers: there is none; name one finished run or more")
    keep(config, folder)
    given, path = digest(nn.ModuleList(teachers)), folder / TEACHERS
    if not path.exists():
        path.write_text(given + "\n")
    elif path.read_text().strip() != given:
        raise InputError(f"{path}: the run was begun with other teachers; give those, or another folder")


def _adapter(student: int, teacher: int) -> nn.Linear:
    """Between widths of tokens; it begins as no change where they are equal."""
    made = nn.Linear(student, teacher)
    if student == teacher:
        nn.init.eye_(made.weight)
        nn.init.zeros_(made.bias)
    return made
