"""The default architecture on a user's own labelled faces and voices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo.errors import InputError

from .. import processes
from ..config import keep, kept, refuse, seeded
from ..data.labels import NORMS
from ..data.own import Own
from ..data.pictures import jitter
from ..data.tokens import SLOTS, VoiceBank, bank_voices, pair_by_label
from ..metrics import accuracies, temperature
from ..systems.attention import AttentionFusion
from ..train import Schedule, fit
from . import face, fusion, voice
from .face import FaceModel
from .fusion import Pairs
from .voice import VoiceModel

SCHEDULE = Schedule(epochs=10, rate=1e-3, decay=0.05, average=0.99)
COPIES = 4
STILLS = 8  # crops of one recording that the face encoder learns from: more of them hardly differ
RIDGE = 0.02


@dataclass(frozen=True)
class FusionConfig:
    """Settings of the fusion.

    Attributes:
        schedule: see `edgeemo_export.train.Schedule`.
        batch: windows of a step.
        steps: of an epoch.

    Raises:
        InputError: one of them is out of its range.
    """

    schedule: Schedule = SCHEDULE
    batch: int = 256
    steps: int = 50

    def __post_init__(self) -> None:
        refuse(
            "fusion",
            self,
            ("batch", self.batch >= 1, "1 or more"),
            ("steps", self.steps >= 1, "1 or more"),
        )


@dataclass(frozen=True)
class Config:
    """Settings of the three parts; their seeds are that of the run."""

    face: face.Config = face.DEFAULTS
    voice: voice.Learning = voice.LEARNING
    fusion: FusionConfig = FusionConfig()


DEFAULTS = Config()


@dataclass(frozen=True)
class Windows(VoiceBank):
    """Tokens of faces or of voices, and what they are of.

    Attributes:
        items: place in its split of the item that each is of, ``[n]``.
    """

    items: Tensor


@dataclass(frozen=True)
class Trained:
    """What a run on own data trained; a part is None where no item has its modality."""

    labels: tuple[str, ...]
    face: FaceModel | None
    voice: VoiceModel | None
    fusion: AttentionFusion


def train(own: Own, config: Config = DEFAULTS) -> Trained:
    """Train what there is a modality for, or finish what an earlier call began.

    Raises:
        InputError: a part was begun with other settings, or no face was found for one of the labels.
    """
    config = seeded(config, own.origin.seed)
    with processes.one_by_one():
        if "face" in own.modalities:
            own.crops("train")  # the first process cuts them
    faces = train_face(own, config.face) if "face" in own.modalities else None
    voices = train_voice(own, config.voice) if "voice" in own.modalities else None
    return Trained(own.labels, faces, voices, train_fusion(own, faces, voices, config.fusion))


def settings(own: Own) -> Config:
    """The settings that each part of a run was begun with."""
    return Config(
        kept(own.folder / "face", DEFAULTS.face),
        kept(own.folder / "voice", DEFAULTS.voice),
        kept(own.folder / "fusion", DEFAULTS.fusion),
    )


def norms_of(labels: Sequence[str]) -> list[tuple[float, float]] | None:
    """Valence and arousal of each label, None where one of them has no published rating here.

    Example:
        >>> norms_of(["anger", "neutral"]), norms_of(["anger", "boredom"])
        ([(-0.51, 0.59), (0.0, 0.0)], None)
    """
    return [NORMS[name] for name in labels] if all(name in NORMS for name in labels) else None


def train_face(own: Own, config: face.Config) -> FaceModel:
    """Train the face encoder on single crops, each with the label of its recording.

    Raises:
        InputError: no face was found for one of the labels.
    """
    images, labels = _stills(own, "train")
    seen = set(labels.tolist())
    missing = [name for place, name in enumerate(own.labels) if place not in seen]
    if missing:
        raise InputError(f"{own.folder}: no face was found in the training pictures of {', '.join(missing)}")
    develop_images, truth = _stills(own, "develop")

    @torch.no_grad()
    def develop(model: FaceModel, prior: Tensor) -> Mapping[str, float]:
        if not len(truth):
            return {}
        where = next(model.parameters()).device
        parts = [model.eval()(part[..., None].to(where)).cpu() for part in develop_images.split(256)]
        return accuracies(torch.cat(parts).argmax(1), truth)

    targets = F.one_hot(labels, len(own.labels)).float()
    return face.learn(images, targets, develop, own.folder / "face", config)


def _stills(own: Own, split: str) -> tuple[Tensor, Tensor]:
    """Crops ``[n, 48, 48]`` of a split, a few of each recording, and their labels ``[n]``."""
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for item, crops in zip(own.of(split), own.crops(split), strict=True):
        if len(crops):
            kept = np.linspace(0, len(crops) - 1, min(len(crops), STILLS)).round().astype(int)
            images.append(crops[kept])
            labels += [own.labels.index(item.label)] * len(kept)
    empty = np.zeros((0, 48, 48), np.uint8)
    return torch.from_numpy(np.concatenate([empty, *images])), torch.tensor(labels, dtype=torch.long)


def train_voice(own: Own, config: voice.Learning) -> VoiceModel:
    """Train the voice encoder, its pooling and its classifier."""
    held = own.clips("develop")

    def develop(model: VoiceModel) -> Mapping[str, float]:
        return voice.score(model, held, own.labels)

    return voice.learn(own.clips("train"), own.labels, develop, own.folder / "voice", config)


def train_fusion(
    own: Own, faces: FaceModel | None, voices: VoiceModel | None, config: FusionConfig
) -> AttentionFusion:
    """Train what reads the tokens of frozen encoders, then calibrate it on the development split.

    As in the default recipe pooling and classifiers start as the encoders' own, and the voice's stay so. A
    system without faces has nothing left to learn then.
    """
    torch.manual_seed(config.schedule.seed)
    norms = norms_of(own.labels) or [(0.0, 0.0)] * len(own.labels)
    model = AttentionFusion(_width(faces, voices), len(own.labels), norms)
    if faces is not None:
        model.face_head.load_state_dict(faces.head.state_dict())
    if voices is not None:
        model.voice_head.load_state_dict(voices.head.state_dict())
        model.voice_pool.load_state_dict(voices.pool.state_dict())
    for frozen in (model.voice_head, model.voice_pool):
        frozen.requires_grad_(False)
    seen = [None if faces is None else _face_windows(own, faces, split) for split in ("train", "develop")]
    heard = [None if voices is None else _voice_windows(own, voices, split) for split in ("train", "develop")]
    if seen[0] is not None:
        drawer = Drawer(seen[0], heard[0], len(own.labels))
        if voices is not None and heard[1] is not None:
            drawer.confusion = fusion.confusion(voices, heard[1])
        keep(config, own.folder / "fusion")
        figures = functools.partial(score, faces=seen[1], voices=heard[1])
        model = _fit(model, drawer, figures, own.folder / "fusion", config)
    calibrate(model, seen[1], heard[1])
    return model


def _width(faces: FaceModel | None, voices: VoiceModel | None) -> int:
    if faces is not None:
        return faces.head.in_features
    assert voices is not None
    return voices.head.in_features // 2


def _fit(
    model: AttentionFusion,
    drawer: Drawer,
    figures: Callable[[AttentionFusion], Mapping[str, float]],
    folder: Path,
    config: FusionConfig,
) -> AttentionFusion:
    def batches(random: torch.Generator) -> Iterator[int]:
        return iter([config.batch] * config.steps)

    def loss(model: nn.Module, count: int, random: torch.Generator) -> Tensor:
        assert isinstance(model, AttentionFusion)
        return _loss(model, drawer, count, random)

    def develop(model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, AttentionFusion)
        return figures(model)

    fitted = fit(model, batches, config.steps, loss, develop, config.schedule, folder)
    assert isinstance(fitted, AttentionFusion)
    return fitted


def _loss(model: AttentionFusion, drawer: Drawer, count: int, random: torch.Generator) -> Tensor:
    labels, rows, voice_rows = drawer.rows(count, random)
    face_tokens, face_mask = thin(drawer.faces, rows, 3.0, random)
    alone = model.face_logits(face_tokens, face_mask)
    loss = F.cross_entropy(alone, labels, label_smoothing=0.05)
    if drawer.voices is None:
        return loss
    voice_tokens, voice_mask = thin(drawer.voices, voice_rows, 2.0, random)
    fused = model.weights[0] * alone.detach() + model.bias
    fused = fused + model.weights[1] * model.voice_logits(voice_tokens, voice_mask)
    fused = fused + model.joint_logits(face_tokens, face_mask, voice_tokens, voice_mask)
    return loss + F.cross_entropy(fused, labels, label_smoothing=0.05)


class Drawer:
    """Draws a face and a voice of one label, half of them of one recording where there are such.

    The encoder knows the voices of its training speakers by heart. In the other half a voice is therefore
    drawn whose label is exchanged as unseen speakers of the development set are confused.

    Args:
        faces: of the training split.
        voices: of the training split, None without voices.
        labels: number of classes.

    Attributes:
        confusion: ``[K, K]``, rows the true labels: how unseen speakers are heard.

    Raises:
        InputError: no label has both a face and a voice.
    """

    def __init__(self, faces: Windows, voices: Windows | None, labels: int) -> None:
        self.faces, self.voices, self.confusion = faces, voices, torch.eye(labels)
        self.faces_of = [(faces.labels == label).nonzero()[:, 0] for label in range(labels)]
        self.voices_of, self.pairs_of = self.faces_of, [torch.zeros(0, 2, dtype=torch.long)] * labels
        if voices is not None:
            self.voices_of = [(voices.labels == label).nonzero()[:, 0] for label in range(labels)]
            pairs = joined(faces, voices)
            self.pairs_of = [pairs[faces.labels[pairs[:, 0]] == label] for label in range(labels)]
        usable = [
            label for label in range(labels) if len(self.faces_of[label]) and len(self.voices_of[label])
        ]
        if not usable:
            raise InputError("no label has both a face and a voice in the training split: give some of both")
        self.usable = torch.tensor(usable)

    def rows(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Labels, rows of faces and rows of voices, ``[count]`` each."""
        labels = self.usable[torch.randint(len(self.usable), (count,), generator=random)]
        faces = _any_of(self.faces_of, labels, random)
        if self.voices is None:
            return labels, faces, faces
        # What unseen speakers are taken for may be a label that no training voice has.
        heard = torch.multinomial(self.confusion[labels], 1, generator=random)[:, 0]
        there = torch.tensor([len(rows) > 0 for rows in self.voices_of])
        voices = _any_of(self.voices_of, torch.where(there[heard], heard, labels), random)
        paired = torch.tensor([len(pairs) > 0 for pairs in self.pairs_of])[labels]
        paired &= torch.rand(count, generator=random) < 0.5
        pairs = _any_of(self.pairs_of, labels[paired], random)
        faces[paired], voices[paired] = pairs[:, 0], pairs[:, 1]
        return labels, faces, voices


def _any_of(groups: Sequence[Tensor], labels: Tensor, random: torch.Generator) -> Tensor:
    """One row at random of the group of each label."""
    sizes = torch.tensor([len(group) for group in groups])[labels]
    places = (torch.rand(len(labels), generator=random) * sizes).long()
    rows = groups[0].new_empty((len(labels), *groups[0].shape[1:]))
    for label, group in enumerate(groups):
        rows[labels == label] = group[places[labels == label]]
    return rows


def joined(faces: Windows, voices: Windows) -> Tensor:
    """Rows of a face and of a voice that are of one recording, ``[pairs, 2]``."""
    return (faces.items[:, None] == voices.items[None, :]).nonzero()


def thin(windows: Windows, rows: Tensor, octaves: float, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """A copy of each row at random, of whose tokens a share between ``2 ** -octaves`` and 1 is kept.

    Returns:
        Tokens ``[n, SLOTS, D]`` and masks ``[n, SLOTS]``; the newest token is always kept.
    """
    copies = torch.randint(len(windows.tokens), rows.shape, generator=random)
    mask = windows.masks[copies, rows]
    share = torch.exp2(-octaves * torch.rand(len(rows), 1, generator=random))
    kept = torch.rand(mask.shape, generator=random) < share
    kept[:, -1] = True
    mask = mask * kept
    return windows.tokens[copies, rows] * mask[..., None], mask


@torch.no_grad()
def _face_windows(own: Own, model: FaceModel, split: str) -> Windows:
    """Tokens of the crops of each recording, and of jittered copies where they are to be trained on."""
    random = torch.Generator().manual_seed(1)
    copies = COPIES if split == "train" else 1
    crops = own.crops(split)
    items = [place for place, shown in enumerate(crops) if len(shown)]
    width = model.head.in_features
    tokens, masks = torch.zeros(copies, len(items), SLOTS, width), torch.zeros(copies, len(items), SLOTS)
    model.eval()
    for row, place in enumerate(items):
        images = torch.from_numpy(crops[place])
        for copy in range(copies):
            made = model.encoder(jitter(images, random) if copy else images[..., None]).float()
            tokens[copy, row, SLOTS - len(made) :] = made
            masks[copy, row, SLOTS - len(made) :] = 1.0
    labels = [own.labels.index(own.of(split)[place].label) for place in items]
    return Windows(tokens, masks, torch.tensor(labels, dtype=torch.long), torch.tensor(items))


def _voice_windows(own: Own, model: VoiceModel, split: str) -> Windows:
    copies = COPIES if split == "train" else 1
    bank = bank_voices(model.encoder, own.clips(split), copies, 1, own.labels)
    items = [place for place, item in enumerate(own.of(split)) if "voice" in item.paths]
    return Windows(bank.tokens, bank.masks, bank.labels, torch.tensor(items))


def development_pairs(faces: Windows, voices: Windows) -> Pairs | None:
    """Faces with the voice of the same recording, else of the same label; None where no label has both."""
    rows = joined(faces, voices)
    if not len(rows):
        matched = pair_by_label(faces.labels, voices.labels, 1000, torch.Generator().manual_seed(1))
        rows = torch.stack(matched, dim=1)
    if not len(rows):
        return None
    seen, heard = rows.unbind(dim=1)
    inputs = (faces.tokens[0, seen], faces.masks[0, seen], voices.tokens[0, heard], voices.masks[0, heard])
    return Pairs(inputs, faces.labels[seen])


@torch.no_grad()
def score(model: AttentionFusion, faces: Windows | None, voices: Windows | None) -> dict[str, float]:
    """UA of the face, and on pairs with a voice that of each and of the fusion; nothing without a face."""
    model.eval()
    if faces is None or not len(faces.labels):
        return {}
    if voices is None:
        logits = model.face_logits(faces.tokens[0], faces.masks[0])
        return {"ua_face": accuracies(logits.argmax(1), faces.labels)["ua"]}
    pairs = development_pairs(faces, voices)
    if pairs is None:
        return {}
    fused, _, face, voice = model(*pairs.inputs)
    answers = {"fused": fused, "face": face, "voice": voice}
    return {f"ua_{name}": accuracies(value.argmax(1), pairs.labels)["ua"] for name, value in answers.items()}


@torch.no_grad()
def calibrate(model: AttentionFusion, faces: Windows | None, voices: Windows | None) -> None:
    """Set the temperatures, and of two modalities the measures, by the development split, in place."""
    model.eval()
    model.temperatures.fill_(1.0)
    if faces is not None and len(faces.labels):
        logits = model.face_logits(faces.tokens[0], faces.masks[0])
        model.temperatures[0] = temperature(logits, faces.labels)
    if voices is not None:
        logits = model.voice_logits(voices.tokens[0], voices.masks[0])
        model.temperatures[1] = temperature(logits, voices.labels)
    pairs = None if faces is None or voices is None else development_pairs(faces, voices)
    if pairs is not None:
        fusion.weigh(model, pairs, RIDGE)
        model.temperatures[2] = temperature(model(*pairs.inputs)[0], pairs.labels)
