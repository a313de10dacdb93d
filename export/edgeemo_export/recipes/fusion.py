"""The fusion over frozen encoders: pairs matched by label, either side of which loses tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo.errors import InputError

from .. import distil, processes, states
from ..budget import Budget, budget
from ..config import keep, refuse
from ..data import ferplus, voices
from ..data.labels import LABELS, NORMS
from ..data.pairs import ByLabel
from ..data.tokens import (
    Drawer,
    FaceBank,
    VoiceBank,
    at_random_slot,
    bank_faces,
    bank_voices,
    bank_worse_faces,
    bank_worse_voices,
    pair_by_label,
)
from ..metrics import accuracies, temperature
from ..systems.attention import AttentionFusion
from ..systems.fusion import Windows
from ..train import Schedule, fit
from .aligned import Aligned, Kind
from .face import FaceModel
from .lessons import COMPARED, Course, Lesson, Lessons
from .voice import VoiceModel

Bank = TypeVar("Bank", FaceBank, VoiceBank)

SCHEDULE = Schedule(epochs=15, rate=1e-3, decay=0.05, average=0.998)
DEVELOPMENT_PAIRS = 4000
COPIES, SEED = 4, 1  # of the tokens of the training set
SOURCES = "sources.json"


@dataclass(frozen=True)
class Config:
    """Settings of the recipe.

    Attributes:
        schedule: see `edgeemo_export.train.Schedule`.
        batch: stills of a step, and pairs of a step.
        steps: of an epoch.
        smoothing: share of each pair's target that is spread over all labels.
        given_up: what the measure of the prior may cost of the WA on stills, for the sake of the rare labels.
        alignment: what draws face and voice together while they learn to ask each other, see `Aligned`.
        align: its weight.
        distil: weight of what teachers say; above 0 there must be some, see `taught.train`.
        temperature: of the answers of student and teachers.
        relations: weight of how windows lie to each other for the teachers, beside what these say of them.
        lessons: how many are drawn, of 128 windows each; each step takes one.

    Raises:
        InputError: one of them is out of its range.
    """

    schedule: Schedule = SCHEDULE
    batch: int = 256
    steps: int = 100
    smoothing: float = 0.05
    given_up: float = 0.008
    alignment: Kind = "none"
    align: float = 0.1
    distil: float = 0.0
    temperature: float = 2.0
    relations: float = 1.0
    lessons: int = 300

    def __post_init__(self) -> None:
        refuse(
            "fusion",
            self,
            ("batch", self.batch >= 1, "1 or more"),
            ("steps", self.steps >= 1, "1 or more"),
            ("smoothing", 0 <= self.smoothing <= 1, "from 0 to 1"),
            ("given_up", self.given_up >= 0, "0 or more"),
            ("alignment", self.alignment in get_args(Kind), f"one of {', '.join(get_args(Kind))}"),
            ("align", self.align >= 0, "0 or more"),
            ("distil", self.distil >= 0, "0 or more"),
            ("temperature", self.temperature > 0, "above 0"),
            ("relations", self.relations >= 0, "0 or more"),
            ("lessons", self.lessons >= 1, "1 or more"),
        )


DEFAULTS = Config()


def train(
    data: Path,
    folder: Path,
    face: FaceModel,
    voice: VoiceModel,
    config: Config = DEFAULTS,
    *,
    tokens: Path | None = None,
    teach: Callable[[Course], Lessons] | None = None,
) -> AttentionFusion:
    """Train over tokens of frozen encoders, then calibrate on development pairs.

    The voice's pooling and both classifiers start as the encoders' own; the voice's stay as they are. All of
    it is small, and stays on the CPU, where the tokens are.

    Args:
        data: the corpora.
        folder: of the settings, the state and the curve.
        face: gives face tokens, and the classifier to start from.
        voice: gives voice tokens, pooling and classifier.
        config: the settings.
        tokens: folder in which those of the corpora are kept; ``folder`` itself without it.
        teach: gives the teachers' answers to a course; a finished run is read back without.

    Raises:
        InputError: the run in ``folder`` was begun with other settings or, beside tokens of another folder,
            over other encoders; or ``config`` asks for teachers, and there are none.
    """
    keep(config, folder)
    tokens = folder if tokens is None else tokens
    with processes.one_by_one():
        bank = banks(data, tokens, face, voice)
        _keep_sources(folder, face, voice)
        if is_finished(folder, config.schedule):
            practice = Practice(bank, voice, config)
        else:
            practice = _practice(data, tokens, bank, face, voice, config, teach)
    model, aligned = _new(face, voice, config)

    def batches(random: torch.Generator) -> Iterator[int]:
        return iter([config.batch] * config.steps)

    def loss(model: nn.Module, count: int, random: torch.Generator) -> Mapping[str, Tensor]:
        assert isinstance(model, AttentionFusion)
        return practice.losses(model, aligned, count, random)

    def develop(model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, AttentionFusion)
        return score(model, bank.develop_faces, bank.develop_voices)

    fitted = fit(model, batches, config.steps, loss, develop, config.schedule, folder, beside=aligned)
    assert isinstance(fitted, AttentionFusion)
    calibrate(fitted, bank.develop_faces, bank.develop_voices, practice.log_prior, config.given_up)
    return fitted


def cost(
    data: Path,
    tokens: Path,
    face: FaceModel,
    voice: VoiceModel,
    config: Config,
    teach: Callable[[Course], Lessons] | None = None,
) -> Budget:
    """What a training will cost, by a few of its steps; what it reads is encoded and answered before.

    The arguments are those of `train`.
    """
    practice = _practice(data, tokens, banks(data, tokens, face, voice), face, voice, config, teach)
    model, aligned = _new(face, voice, config)
    random = torch.Generator().manual_seed(0)

    def step(count: int) -> None:
        losses = practice.losses(model.train(), aligned, count, random)
        torch.stack(list(losses.values())).sum().backward()

    modules = [model] if aligned is None else [model, aligned]
    return budget(modules, step, [config.batch] * 3, config.schedule.epochs * config.steps)


class Practice:
    """What a fusion is trained on, and by which losses.

    Args:
        bank: tokens of both sets.
        voice: as which unseen speakers are confused.
        config: of the recipe.
        lessons: of teachers, where there are some.
    """

    def __init__(
        self, bank: Banks, voice: VoiceModel, config: Config, lessons: Lessons | None = None
    ) -> None:
        self.drawer = Drawer(bank.faces, bank.voices, confusion(voice, bank.develop_voices))
        self.log_prior = natural_prior(bank.faces)
        self.config, self.lessons = config, lessons

    def losses(
        self, model: AttentionFusion, aligned: Aligned | None, count: int, random: torch.Generator
    ) -> dict[str, Tensor]:
        """The losses of a step by name, each weighted."""
        losses = {"stills": _still_loss(model, self.drawer, self.log_prior, count, random)}
        windows = ByLabel(self.drawer).draw(count, random)
        losses["pairs"] = _pair_loss(model, windows, self.config.smoothing)
        if aligned is not None:
            losses["alignment"] = self.config.align * aligned(model, windows)
        if self.lessons is not None:
            lesson = self.lessons.draw(random)
            losses["lessons"] = self.config.distil * _lesson_loss(model, lesson, self.config)
        return losses


def _practice(
    data: Path,
    tokens: Path,
    bank: Banks,
    face: FaceModel,
    voice: VoiceModel,
    config: Config,
    teach: Callable[[Course], Lessons] | None,
) -> Practice:
    practice = Practice(bank, voice, config)
    if config.distil:
        if teach is None:
            raise InputError(
                f"distil {config.distil:g}: there are no teachers; name them to edgeemo-export distil"
            )
        worse = worse_banks(data, tokens, face.encoder, voice.encoder)
        practice.lessons = teach(Course(practice.drawer, *worse))
    return practice


def _new(face: FaceModel, voice: VoiceModel, config: Config) -> tuple[AttentionFusion, Aligned | None]:
    """The fusion as training begins with it, and what aligns it."""
    torch.manual_seed(config.schedule.seed)
    model = _new_model(face, voice)
    if config.alignment == "none":
        return model, None
    return model, Aligned(config.alignment, model.face_in.out_features)


def _new_model(face: FaceModel, voice: VoiceModel) -> AttentionFusion:
    model = AttentionFusion(face.head.in_features, len(LABELS), [NORMS[name] for name in LABELS])
    model.face_head.load_state_dict(face.head.state_dict())
    model.voice_head.load_state_dict(voice.head.state_dict())
    model.voice_pool.load_state_dict(voice.pool.state_dict())
    for frozen in (model.voice_head, model.voice_pool):
        frozen.requires_grad_(False)
    return model


def is_finished(folder: Path, schedule: Schedule) -> bool:
    """Whether the run in a folder has made all epochs of its schedule."""
    state = folder / "state.pt"
    return state.exists() and int(states.read(state)["epoch"]) >= schedule.epochs


def _keep_sources(folder: Path, face: FaceModel, voice: VoiceModel) -> None:
    """Note what a run is trained over; it must not go on over anything else."""
    path, given = folder / SOURCES, {"face": digest(face), "voice": digest(voice)}
    if (folder / "state.pt").exists() and path.exists() and json.loads(path.read_text()) != given:
        raise InputError(f"{folder}: the run was begun over other encoders; give another folder")
    path.write_text(json.dumps(given, indent=1) + "\n")


def natural_prior(faces: FaceBank) -> Tensor:
    """Log share of each label among the training pictures, centred, ``[7]``."""
    prior = faces.shares[faces.labels >= 0].mean(dim=0).log()
    return prior - prior.mean()


def _still_loss(
    model: AttentionFusion, drawer: Drawer, log_prior: Tensor, count: int, random: torch.Generator
) -> Tensor:
    tokens, shares = drawer.stills(count, random)
    logits = model.face_logits(tokens, torch.ones(len(tokens), 1))
    return F.cross_entropy(logits + log_prior, shares)


def _pair_loss(model: AttentionFusion, windows: Windows, smoothing: float) -> Tensor:
    labels = windows.labels.argmax(1)
    alone, fused = _answers(model, windows.first, windows.first_mask, windows.second, windows.second_mask)
    return F.cross_entropy(alone, labels, label_smoothing=smoothing) + F.cross_entropy(
        fused, labels, label_smoothing=smoothing
    )


def _answers(
    model: AttentionFusion, face: Tensor, face_mask: Tensor, voice: Tensor, voice_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits of the face alone, and of both, which do not train what the face says alone."""
    alone = model.face_logits(face, face_mask)
    fused = (
        model.weights[0] * alone.detach()
        + model.weights[1] * model.voice_logits(voice, voice_mask)
        + model.bias
    )
    return alone, fused + model.joint_logits(face, face_mask, voice, voice_mask)


def _lesson_loss(model: AttentionFusion, lesson: Lesson, config: Config) -> Tensor:
    """What the teachers say of windows, and how these lie to each other for them."""
    found: list[Tensor] = []
    listening = model.joint.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    try:
        _, fused = _answers(model, *lesson.inputs)
    finally:
        listening.remove()
    loss = distil.soft_targets(fused, lesson.probabilities, config.temperature)
    each = [distil.relations(found[0][COMPARED], wanted) for wanted in lesson.representations]
    return loss + config.relations * torch.stack(each).mean()


@torch.no_grad()
def confusion(voice: VoiceModel, develop: VoiceBank) -> Tensor:
    """How the voices of unseen speakers are heard, ``[K, K]``, rows true labels.

    One count is added to each cell: three speakers say little about how the next one will be confused.
    """
    answers = voice.eval().classify(develop.tokens[0], develop.masks[0]).argmax(1)
    counts = torch.ones(voice.head.out_features, voice.head.out_features)
    counts.index_put_((develop.labels, answers), torch.ones(len(answers)), accumulate=True)
    return counts / counts.sum(1, keepdim=True)


@torch.no_grad()
def development_pairs(faces: FaceBank, voices: VoiceBank, moving: bool, seed: int = 1) -> Pairs:
    """Pairs of a face and an utterance of one label, out of the development set.

    Args:
        faces: bank of its pictures.
        voices: bank of its utterances.
        moving: faces are sequences of somebody who talks, made up as in training; else stills.
        seed: of the draw.
    """
    random = torch.Generator().manual_seed(seed)
    pictures, utterances = pair_by_label(faces.labels, voices.labels, DEVELOPMENT_PAIRS, random)
    labels = voices.labels[utterances]
    if moving:
        face, face_mask = Drawer(faces, voices, torch.eye(len(LABELS))).sequences(labels, random)
    else:
        face, face_mask = at_random_slot(faces.tokens[0, pictures][:, None], random)
    return Pairs((face, face_mask, voices.tokens[0, utterances], voices.masks[0, utterances]), labels)


@torch.no_grad()
def score(model: AttentionFusion, faces: FaceBank, voices: VoiceBank) -> dict[str, float]:
    """UA of the fusion, of each modality and of their sum, on pairs; WA and UA on stills."""
    model.eval()
    figures: dict[str, float] = {}
    for kind, moving in (("still", False), ("moving", True)):
        pairs = development_pairs(faces, voices, moving)
        logits, _, face, voice = model(*pairs.inputs)
        late = face.log_softmax(1) + voice.log_softmax(1)
        answers = {"fused": logits, "late": late, "face": face, "voice": voice}
        figures |= {
            f"ua_{kind}_{name}": accuracies(value.argmax(1), pairs.labels)["ua"]
            for name, value in answers.items()
        }
    kept = faces.labels >= 0
    stills = model.face_logits(faces.tokens[0, kept][:, None], torch.ones(int(kept.sum()), 1)) + model.prior
    for name, value in accuracies(stills.argmax(1), faces.labels[kept]).items():
        figures[name] = value
    return figures


@torch.no_grad()
def calibrate(
    model: AttentionFusion, faces: FaceBank, voices: VoiceBank, log_prior: Tensor, given_up: float
) -> None:
    """Set the measure of the prior and the three temperatures by the development set, in place."""
    model.eval()
    kept = faces.labels >= 0
    stills, truth = (
        model.face_logits(faces.tokens[0, kept][:, None], torch.ones(int(kept.sum()), 1)),
        faces.labels[kept],
    )
    model.prior.copy_(_measure_of_prior(stills, truth, log_prior, given_up) * log_prior)
    model.temperatures.fill_(1.0)
    model.temperatures[0] = temperature(stills + model.prior, truth)
    model.temperatures[1] = temperature(model.voice_logits(voices.tokens[0], voices.masks[0]), voices.labels)
    kinds = [development_pairs(faces, voices, moving) for moving in (False, True)]
    pairs = Pairs(
        tuple(torch.cat(parts) for parts in zip(*(kind.inputs for kind in kinds), strict=True)),
        torch.cat([kind.labels for kind in kinds]),
    )
    weigh(model, pairs)
    model.temperatures[2] = temperature(model(*pairs.inputs)[0], pairs.labels)


@torch.no_grad()
def weigh(model: AttentionFusion, pairs: Pairs, ridge: float = 0.0) -> None:
    """Set the measures of face, voice and joint term to those of least cross-entropy, labels weighted evenly.

    Training knows unseen voices only by their confusions, so what each term is worth is left to the
    speakers of the development set: three numbers, which thousands of pairs determine well.

    Args:
        model: changed in place.
        pairs: of the development set.
        ridge: weight of the measures' mean squared distance from 1, for few pairs, which would determine them
            badly.
    """
    inputs, labels = pairs.inputs, pairs.labels
    terms = [model.face_logits(*inputs[:2]), model.voice_logits(*inputs[2:]), model.joint_logits(*inputs)]
    even = 1.0 / torch.bincount(labels, minlength=len(model.bias)).clamp(min=1)
    measures = torch.ones(3, requires_grad=True)
    solver = torch.optim.LBFGS([measures], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        with torch.enable_grad():
            solver.zero_grad()
            fused = sum(m * term for m, term in zip(measures, terms, strict=True)) + model.bias
            value = F.cross_entropy(fused, labels, weight=even) + ridge * (measures - 1.0).square().mean()
            value.backward()
        return value

    solver.step(loss)
    model.weights.copy_(measures[:2])
    last = model.joint[-1]
    assert isinstance(last, nn.Linear)
    for parameter in (last.weight, last.bias):
        parameter.mul_(measures[2])


def _measure_of_prior(stills: Tensor, truth: Tensor, log_prior: Tensor, given_up: float) -> float:
    """The measure with the best UA among those that give up no more than ``given_up`` of the best WA."""
    tried = []
    for measure in torch.linspace(0.0, 1.0, 41).tolist():
        figures = accuracies((stills + measure * log_prior).argmax(1), truth)
        tried.append((figures["wa"], figures["ua"], measure))
    best = max(tried)[0]
    return float(max((ua, measure) for wa, ua, measure in tried if wa >= best - given_up)[1])


@dataclass(frozen=True)
class Pairs:
    """Windows with a face and a voice of one label.

    Attributes:
        inputs: the fusion's, in its order.
        labels: ``[n]``.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor


@dataclass(frozen=True)
class Banks:
    """Tokens of the training and of the development set."""

    faces: FaceBank
    develop_faces: FaceBank
    voices: VoiceBank
    develop_voices: VoiceBank


def banks(data: Path, folder: Path, face: FaceModel, voice: VoiceModel) -> Banks:
    """Encode both sets, or read back from ``folder`` what the same encoders gave before."""

    def faces() -> list[FaceBank]:
        splits = [
            (ferplus.read(data / "ferplus", name), copies)
            for name, copies in (("train", COPIES), ("develop", 1))
        ]
        return [bank_faces(face.encoder, pictures, copies, SEED) for pictures, copies in splits]

    def heard() -> list[VoiceBank]:
        splits = [(voices.read(data, name), copies) for name, copies in (("train", COPIES), ("develop", 1))]
        return [bank_voices(voice.encoder, clips, copies, SEED) for clips, copies in splits]

    folder.mkdir(parents=True, exist_ok=True)
    fitted = folder / "state.pt"  # a fusion of other tokens cannot be gone on with
    train_faces, develop_faces = stored(folder / "faces.pt", face.encoder, FaceBank, faces, fitted)
    train_voices, develop_voices = stored(folder / "voices.pt", voice.encoder, VoiceBank, heard, fitted)
    return Banks(train_faces, develop_faces, train_voices, develop_voices)


def worse_banks(data: Path, folder: Path, face: nn.Module, voice: nn.Module) -> tuple[FaceBank, VoiceBank]:
    """Encode the training set made worse, or read it back from ``folder``."""

    def faces() -> list[FaceBank]:
        return [bank_worse_faces(face, ferplus.read(data / "ferplus", "train"), SEED)]

    def heard() -> list[VoiceBank]:
        return [bank_worse_voices(voice, voices.read(data, "train"), SEED)]

    folder.mkdir(parents=True, exist_ok=True)
    (worse_faces,) = stored(folder / "worse-faces.pt", face, FaceBank, faces)
    (worse_voices,) = stored(folder / "worse-voices.pt", voice, VoiceBank, heard)
    return worse_faces, worse_voices


def stored(
    path: Path,
    encoder: nn.Module,
    kind: type[Bank],
    make: Callable[[], list[Bank]],
    outdated: Path | None = None,
) -> list[Bank]:
    """Read back banks that the same encoder made before, else make them and keep them.

    Args:
        path: where they are kept.
        encoder: that makes them.
        kind: of a bank.
        make: encodes them.
        outdated: a file that is removed when they are made anew.
    """
    made_by = digest(encoder)
    if path.exists():
        kept = torch.load(path, weights_only=True)
        if kept["encoder"] == made_by:
            return [kind(**parts) for parts in kept["banks"]]
    made = make()
    if outdated is not None:
        outdated.unlink(missing_ok=True)
    torch.save({"encoder": made_by, "banks": [vars(bank) for bank in made]}, path)
    return made


def digest(module: nn.Module) -> str:
    """SHA-256 of the weights of a module."""
    parts = (value.contiguous().numpy().tobytes() for value in module.state_dict().values())
    return hashlib.sha256(b"".join(parts)).hexdigest()
