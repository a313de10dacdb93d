"""The fusion over frozen encoders: pairs matched by label, either side of which loses tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import processes
from ..config import keep, refuse
from ..data import ferplus, voices
from ..data.labels import LABELS, NORMS
from ..data.tokens import (
    Drawer,
    FaceBank,
    VoiceBank,
    at_random_slot,
    bank_faces,
    bank_voices,
    pair_by_label,
)
from ..metrics import accuracies, temperature
from ..systems.attention import AttentionFusion
from ..train import Schedule, fit
from .face import FaceModel
from .voice import VoiceModel

Bank = TypeVar("Bank", FaceBank, VoiceBank)

SCHEDULE = Schedule(epochs=15, rate=1e-3, decay=0.05, average=0.998)
DEVELOPMENT_PAIRS = 4000


@dataclass(frozen=True)
class Config:
    """Settings of the recipe.

    Attributes:
        schedule: see `edgeemo_export.train.Schedule`.
        batch: stills of a step, and pairs of a step.
        steps: of an epoch.
        smoothing: share of each pair's target that is spread over all labels.
        given_up: what the measure of the prior may cost of the WA on stills, for the sake of the rare labels.

    Raises:
        InputError: one of them is out of its range.
    """

    schedule: Schedule = SCHEDULE
    batch: int = 256
    steps: int = 100
    smoothing: float = 0.05
    given_up: float = 0.008

    def __post_init__(self) -> None:
        refuse(
            "fusion",
            self,
            ("batch", self.batch >= 1, "1 or more"),
            ("steps", self.steps >= 1, "1 or more"),
            ("smoothing", 0 <= self.smoothing <= 1, "from 0 to 1"),
            ("given_up", self.given_up >= 0, "0 or more"),
        )


DEFAULTS = Config()


def train(
    data: Path, folder: Path, face: FaceModel, voice: VoiceModel, config: Config = DEFAULTS
) -> AttentionFusion:
    """Train over tokens of frozen encoders, then calibrate on development pairs.

    The voice's pooling and both classifiers start as the encoders' own; the voice's stay as they are. All of
    it is small, and stays on the CPU, where the tokens are.

    Raises:
        InputError: the run in ``folder`` was begun with other settings.
    """
    keep(config, folder)
    with processes.one_by_one():
        bank = banks(data, folder, face, voice)
    torch.manual_seed(config.schedule.seed)
    model = AttentionFusion(face.head.in_features, len(LABELS), [NORMS[name] for name in LABELS])
    model.face_head.load_state_dict(face.head.state_dict())
    model.voice_head.load_state_dict(voice.head.state_dict())
    model.voice_pool.load_state_dict(voice.pool.state_dict())
    for frozen in (model.voice_head, model.voice_pool):
        frozen.requires_grad_(False)
    drawer = Drawer(bank.faces, bank.voices, confusion(voice, bank.develop_voices))
    log_prior = natural_prior(bank.faces)

    def batches(random: torch.Generator) -> Iterator[int]:
        return iter([config.batch] * config.steps)

    def loss(model: nn.Module, count: int, random: torch.Generator) -> Tensor:
        assert isinstance(model, AttentionFusion)
        still = _still_loss(model, drawer, log_prior, count, random)
        return still + _pair_loss(model, drawer, count, config.smoothing, random)

    def develop(model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, AttentionFusion)
        return score(model, bank.develop_faces, bank.develop_voices)

    model = fit(model, batches, config.steps, loss, develop, config.schedule, folder)  # type: ignore[assignment]
    calibrate(model, bank.develop_faces, bank.develop_voices, log_prior, config.given_up)
    return model


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


def _pair_loss(
    model: AttentionFusion, drawer: Drawer, count: int, smoothing: float, random: torch.Generator
) -> Tensor:
    labels = torch.randint(len(LABELS), (count,), generator=random)
    stills, still_mask = at_random_slot(drawer.pictures(labels[: count // 4, None], random), random)
    moving, moving_mask = drawer.sequences(labels[count // 4 :], random)
    face, face_mask = torch.cat([stills, moving]), torch.cat([still_mask, moving_mask])
    voice, voice_mask = drawer.utterances(labels, random)
    alone = model.face_logits(face, face_mask)
    fused = (
        model.weights[0] * alone.detach()
        + model.weights[1] * model.voice_logits(voice, voice_mask)
        + model.bias
    )
    fused = fused + model.joint_logits(face, face_mask, voice, voice_mask)
    return F.cross_entropy(alone, labels, label_smoothing=smoothing) + F.cross_entropy(
        fused, labels, label_smoothing=smoothing
    )


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
            (ferplus.read(data / "ferplus", name), copies) for name, copies in (("train", 4), ("develop", 1))
        ]
        return [bank_faces(face.encoder, pictures, copies, seed=1) for pictures, copies in splits]

    def heard() -> list[VoiceBank]:
        splits = [(voices.read(data, name), copies) for name, copies in (("train", 4), ("develop", 1))]
        return [bank_voices(voice.encoder, clips, copies, seed=1) for clips, copies in splits]

    folder.mkdir(parents=True, exist_ok=True)
    fitted = folder / "state.pt"  # a fusion of other tokens cannot be gone on with
    train_faces, develop_faces = stored(folder / "faces.pt", face.encoder, FaceBank, faces, fitted)
    train_voices, develop_voices = stored(folder / "voices.pt", voice.encoder, VoiceBank, heard, fitted)
    return Banks(train_faces, develop_faces, train_voices, develop_voices)


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
    digest = hashlib.sha256(
        b"".join(value.contiguous().numpy().tobytes() for value in encoder.state_dict().values())
    ).hexdigest()
    if path.exists():
        kept = torch.load(path, weights_only=True)
        if kept["encoder"] == digest:
            return [kind(**parts) for parts in kept["banks"]]
    made = make()
    if outdated is not None:
        outdated.unlink(missing_ok=True)
    torch.save({"encoder": digest, "banks": [vars(bank) for bank in made]}, path)
    return made
