"""FDAN: one backbone for FER+ faces and mel pictures of RAVDESS, nEMO and EmoDB, and its fusion, at once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import processes
from ..config import keep, refuse
from ..data import ferplus, sounds, voices
from ..data.labels import LABELS, NORMS
from ..data.pictures import jitter
from ..data.tokens import NEUTRAL, FaceBank, VoiceBank, bank_faces, bank_voices
from ..encoders.resnet import Backbone, ResNet
from ..metrics import accuracies, temperature
from ..precision import mixed
from ..systems.fdan import FDAN, Network
from ..systems.fusion import Answers, Fusion, Windows
from ..train import Schedule, fit
from .fusion import Pairs, development_pairs
from .voice import record

SCHEDULE = Schedule(epochs=16, rate=2e-3, decay=0.1, average=0.99)


@dataclass(frozen=True)
class Config:
    """Settings of the recipe.

    Attributes:
        schedule: see `edgeemo_export.train.Schedule`.
        net: the backbone: the project's own small one, or a ResNet.
        weights: a file of torchvision's ImageNet weights that a ResNet starts from; empty for none.
        width: of a token.
        batch: windows of a step.
        pictures: faces of a window, and one-second contexts of its voice.
        steps: of an epoch.
        takes: how often each clip is recorded, once as it is and else distorted.
        lmmd: weight of LMMD between the modalities; 0 leaves it out.
        smoothing: share of each single picture's target that is spread over all labels.

    Raises:
        InputError: one of them is out of its range.
    """

    schedule: Schedule = SCHEDULE
    net: Literal["small", "resnet18", "resnet34"] = "small"
    weights: str = ""
    width: int = 128
    batch: int = 32
    pictures: int = 3
    steps: int = 60
    takes: int = 2
    lmmd: float = 0.05
    smoothing: float = 0.05

    def __post_init__(self) -> None:
        refuse(
            "fdan",
            self,
            ("weights", not self.weights or self.net != "small", "empty for the small net, which is ours"),
            ("width", self.width >= 1, "1 or more"),
            ("batch", self.batch >= 1, "1 or more"),
            ("pictures", self.pictures >= 1, "1 or more"),
            ("steps", self.steps >= 1, "1 or more"),
            ("takes", self.takes >= 1, "1 or more"),
            ("lmmd", self.lmmd >= 0, "0 or more"),
            ("smoothing", 0 <= self.smoothing <= 1, "from 0 to 1"),
        )


DEFAULTS = Config()


@dataclass(frozen=True)
class Trained:
    """What an export takes.

    Attributes:
        encoders: of ``'face'`` and ``'voice'``; each has its own copy of the backbone that they shared.
        fusion: calibrated on the development set.
    """

    encoders: dict[str, nn.Module]
    fusion: Answers


@dataclass(frozen=True)
class Material:
    """What a run draws from.

    Attributes:
        images: uint8 ``[n, 48, 48]``.
        shares: raters' shares of the labels, ``[n, K]``.
        faces_of: rows of the pictures of each majority label.
        takes: mel pictures of the clips, as `voice.record` gives them.
        clips_of: rows of the clips of each label.
    """

    images: Tensor
    shares: Tensor
    faces_of: list[Tensor]
    takes: list[list[Tensor]]
    clips_of: list[Tensor]


def train(data: Path, folder: Path, config: Config = DEFAULTS) -> Trained:
    """Train backbone and fusion together, then calibrate on the development set.

    A step draws labels, and for each a few faces and a few seconds of a voice, which nothing but the label
    joins. Every picture of either modality is to be classified alone, as published; the windows teach the
    attention, and their class tokens are what LMMD draws together. Faces are jittered and mirrored; mel
    pictures are only hidden in part.

    Raises:
        InputError: the run in ``folder`` was begun with other settings, or the weights do not fit.
    """
    keep(config, folder)
    where = processes.device()
    network = build(config)
    network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    fusion = network.fusion
    found: list[Material] = []

    def batches(random: torch.Generator) -> Iterator[Tensor]:
        if not found:  # a finished run that is only read back needs none
            found.append(gather(data, config))
        return (torch.randint(len(LABELS), (config.batch,), generator=random) for _ in range(config.steps))

    def loss(model: nn.Module, labels: Tensor, random: torch.Generator) -> Mapping[str, Tensor]:
        assert isinstance(model, Network)
        return losses(model, found[0], labels, config, random)

    def develop(model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, Network)
        return score(model.fusion, *development(model, data))

    fitted = fit(
        network, batches, config.steps, loss, develop, config.schedule, folder, advance=fusion.advance
    )
    assert isinstance(fitted, Network)
    fitted.cpu()
    return Trained(fitted.backbone.encoders(), calibrated(fitted.fusion, *development(fitted, data)))


def build(config: Config) -> Network:
    """A network as training begins with it."""
    torch.manual_seed(config.schedule.seed)
    backbone = Backbone(config.net, config.width)
    if config.weights:
        assert isinstance(backbone.trunk, ResNet)
        backbone.trunk.load_imagenet(Path(config.weights))
    return Network(backbone, FDAN(config.width, len(LABELS), weight=config.lmmd))


def gather(data: Path, config: Config) -> Material:
    """Read the training pictures and clips."""
    faces = ferplus.read(data / "ferplus", "train")
    clips = voices.read(data, "train")
    majority, labels = torch.from_numpy(faces.majority), torch.tensor([LABELS.index(c.label) for c in clips])
    mel = Backbone(config.net, config.width).voice.mel
    return Material(
        torch.from_numpy(faces.images),
        torch.from_numpy(faces.shares),
        [(majority == label).nonzero()[:, 0] for label in range(len(LABELS))],
        record(mel, clips, config.schedule.seed, config.takes),
        [(labels == label).nonzero()[:, 0] for label in range(len(LABELS))],
    )


def losses(
    network: Network, material: Material, labels: Tensor, config: Config, random: torch.Generator
) -> dict[str, Tensor]:
    """The parts of the loss on windows of these labels ``[n]``."""
    where, count = next(network.parameters()).device, len(labels) * config.pictures
    backbone, fusion = network.backbone, network.fusion
    rows = _seen(material, labels, config.pictures, random)
    crops = jitter(material.images[rows.flatten()], random)
    mels = sounds.mask_mel(_heard(material, labels, config, random), random)
    pictures = torch.cat([backbone.face(crops.to(where)), backbone.voice.widen(mels.to(where))])
    # Both in one pass: the norms of the shared trunk then see in training what they see afterwards, both.
    with mixed(where):
        tokens = backbone.tokens(pictures.contiguous(memory_format=torch.channels_last))
    tokens = tokens.float()
    target = F.one_hot(labels, len(LABELS)).float()
    targets = torch.cat([material.shares[rows.flatten()], target.repeat_interleave(config.pictures, 0)])
    each = F.cross_entropy(fusion.classify(tokens), targets.to(where), label_smoothing=config.smoothing)
    face, voice = (part.unflatten(0, (-1, config.pictures)) for part in tokens.split(count))
    masks = (torch.rand(2, *face.shape[:2], generator=random) < 0.8).float()
    masks[:, :, -1] = 1.0
    windows = Windows(face, masks[0].to(where), voice, masks[1].to(where), target.to(where))
    return {"each": each, **fusion.losses(windows)}


def _seen(material: Material, labels: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Rows ``[n, count]`` of the faces of windows: one telling picture, at times another one at rest instead.

    Somebody who talks looks neutral between, so any picture may be the one that tells; at least one does.
    """
    telling = _any_of(material.faces_of, labels, random)[:, None].expand(-1, count)
    resting = _any_of(material.faces_of, torch.full_like(labels, NEUTRAL), random)[:, None].expand(-1, count)
    share = torch.rand(len(labels), 1, generator=random)
    tells = torch.rand(len(labels), count, generator=random) < share
    tells[torch.arange(len(labels)), torch.randint(count, (len(labels),), generator=random)] = True
    return torch.where(tells, telling, resting)


def _heard(material: Material, labels: Tensor, config: Config, random: torch.Generator) -> Tensor:
    """Mel pictures ``[n * pictures, 1, bands, frames]`` of a clip of each label."""
    drawn = torch.randint(len(material.takes), (len(labels),), generator=random).tolist()
    clips = _any_of(material.clips_of, labels, random).tolist()
    mels = [
        sounds.draw(material.takes[take][clip], config.pictures, random)
        for take, clip in zip(drawn, clips, strict=True)
    ]
    return torch.cat(mels).float()[:, None]


def _any_of(groups: Sequence[Tensor], labels: Tensor, random: torch.Generator) -> Tensor:
    """For each label a row of its group."""
    places = torch.rand(len(labels), generator=random)
    drawn = [
        groups[label][int(place * len(groups[label]))] for label, place in zip(labels, places, strict=True)
    ]
    return torch.stack(drawn)


def development(network: Network, data: Path) -> tuple[FaceBank, VoiceBank]:
    """Tokens of the development set."""
    encoders = {name: encoder.eval().cpu() for name, encoder in network.backbone.encoders().items()}
    faces, clips = ferplus.read(data / "ferplus", "develop"), voices.read(data, "develop")
    return bank_faces(encoders["face"], faces, 1, 0), bank_voices(encoders["voice"], clips, 1, 0)


@torch.no_grad()
def score(fusion: Fusion, faces: FaceBank, heard: VoiceBank) -> dict[str, float]:
    """WA and UA of single faces, of voices, and of pairs of one label; of these also by added answers."""
    figures: dict[str, float] = {}
    for name, (logits, truth) in _answers(fusion, faces, heard).items():
        for key, value in accuracies(logits.argmax(1), truth).items():
            figures[f"{key}_{name}"] = value
    return figures


@torch.no_grad()
def calibrated(fusion: FDAN, faces: FaceBank, heard: VoiceBank) -> Answers:
    """The fusion with the temperatures that fit the development set best."""
    found = _answers(fusion, faces, heard)
    both = [torch.cat(parts) for parts in zip(found["still"], found["moving"], strict=True)]
    temperatures = [temperature(*found["face"]), temperature(*found["voice"]), temperature(both[0], both[1])]
    return Answers(fusion, temperatures, [NORMS[name] for name in LABELS]).eval()


def _answers(fusion: Fusion, faces: FaceBank, heard: VoiceBank) -> dict[str, tuple[Tensor, Tensor]]:
    """Logits and labels: of stills and utterances alone, of pairs with a still face and with a moving one."""
    fusion = copy.deepcopy(fusion).cpu().eval()
    kept = faces.labels >= 0
    stills, utterances = faces.tokens[0, kept][:, None], heard.tokens[0]
    nothing = torch.zeros(1, 1, stills.shape[2])
    no_face, no_voice = torch.zeros(len(utterances), 1), torch.zeros(len(stills), 1)
    answers = {
        "face": (fusion(stills, torch.ones(len(stills), 1), nothing, no_voice), faces.labels[kept]),
        "voice": (fusion(nothing, no_face, utterances, heard.masks[0]), heard.labels),
    }
    for name, moving in (("still", False), ("moving", True)):
        pairs = development_pairs(faces, heard, moving)
        answers[name] = fusion(*pairs.inputs), pairs.labels
        answers[f"late_{name}"] = _added(fusion, pairs), pairs.labels
    return answers


def _added(fusion: Fusion, pairs: Pairs) -> Tensor:
    """Log-probabilities of either modality alone, added: what a fusion must be better than."""
    face, face_mask, voice, voice_mask = pairs.inputs
    alone = (
        fusion(face, face_mask, voice, torch.zeros_like(voice_mask)),
        fusion(face, torch.zeros_like(face_mask), voice, voice_mask),
    )
    return alone[0].log_softmax(1) + alone[1].log_softmax(1)
