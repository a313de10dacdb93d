"""The voice encoder: RAVDESS, nEMO and EmoDB."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import processes
from ..config import keep, refuse
from ..data import sounds, voices
from ..data.labels import LABELS
from ..encoders.voice import SIZES, AttentivePool, VoiceEncoder
from ..metrics import accuracies
from ..precision import mixed
from ..train import Schedule, fit

SCHEDULE = Schedule(epochs=70, rate=2e-3, decay=0.1, average=0.995)


@dataclass(frozen=True)
class Learning:
    """Settings of learning from clips, whosever they are.

    Attributes:
        schedule: see `edgeemo_export.train.Schedule`.
        batch: clips of a step.
        windows: one-second contexts of a clip in a step.
        takes: how often each clip is recorded, once as it is and else distorted.
        mixed: share of the clips that are mixed with another.
        smoothing: share of each target that is spread over all labels.
        alone: weight of the answers by single contexts.
        size: of the encoder, one of `edgeemo_export.encoders.voice.SIZES`.
        varied: share of the clips that `edgeemo_export.data.sounds.vary` makes another speaker's.

    Raises:
        InputError: one of them is out of its range.
    """

    schedule: Schedule = SCHEDULE
    batch: int = 32
    windows: int = 6
    takes: int = 8
    mixed: float = 0.33
    smoothing: float = 0.05
    alone: float = 0.3
    size: str = "edge"
    varied: float = 0.0

    def __post_init__(self) -> None:
        refuse(
            "voice",
            self,
            ("batch", self.batch >= 1, "1 or more"),
            ("windows", self.windows >= 1, "1 or more"),
            ("takes", self.takes >= 1, "1 or more"),
            ("mixed", 0 <= self.mixed <= 1, "from 0 to 1"),
            ("smoothing", 0 <= self.smoothing <= 1, "from 0 to 1"),
            ("alone", self.alone >= 0, "0 or more"),
            ("varied", 0 <= self.varied <= 1, "from 0 to 1"),
            ("size", self.size in SIZES, f"one of {', '.join(SIZES)}"),
        )


@dataclass(frozen=True)
class Config(Learning):
    """Settings of the recipe, which are about its corpora too.

    Attributes:
        emodb: how often a clip of EmoDB, which has 111 beside 780 and 480, is heard in an epoch.

    Raises:
        InputError: one of them is out of its range.
    """

    emodb: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse("voice", self, ("emodb", self.emodb >= 1, "1 or more"))


LEARNING = Learning()
DEFAULTS = Config()


class VoiceModel(nn.Module):
    """The encoder, attentive pooling of its tokens over time and a linear classifier.

    Args:
        width: token width D.
        labels: number of classes K.
        size: of the encoder.
    """

    def __init__(self, width: int = 128, labels: int = len(LABELS), size: str = "edge") -> None:
        super().__init__()
        self.encoder = VoiceEncoder(width, size)
        self.pool = AttentivePool(width)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(2 * width, labels)

    def classify(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map tokens ``[N, T, D]`` to logits ``[N, K]``."""
        logits: Tensor = self.head(self.drop(self.pool(tokens, mask)))
        return logits


def train(data: Path, folder: Path, config: Config = DEFAULTS) -> VoiceModel:
    """Train on the training speakers of RAVDESS, nEMO and EmoDB."""

    def develop(model: VoiceModel) -> Mapping[str, float]:
        return score(model, voices.read(data, "develop"))

    return learn(training_clips(data, config), LABELS, develop, folder, config)


def training_clips(data: Path, config: Config) -> list[voices.Clip]:
    """The clips of the training speakers, each as often as an epoch hears it."""
    repeats = {"emodb": config.emodb}
    return [clip for clip in voices.read(data, "train") for _ in range(repeats.get(clip.corpus, 1))]


def learn(
    clips: Sequence[voices.Clip],
    labels: Sequence[str],
    develop: Callable[[VoiceModel], Mapping[str, float]],
    folder: Path,
    config: Learning = LEARNING,
) -> VoiceModel:
    """Train on clips; an utterance is heard through a few of its one-second contexts.

    The loss counts the answer by all of them and the answer by each alone, so that a stream that has heard
    one second is answered as well as can be. Log-mel pictures are mixed (mix-up; Zhang et al., 2018) and
    partly hidden, so the encoder cannot learn speakers by heart.

    Args:
        clips: the training set; one that is there twice is heard twice an epoch.
        labels: the classes, each with at least one clip.
        develop: figures of a model.
        folder: of the settings, the state and the curve.
        config: the settings.

    Raises:
        InputError: the run in ``folder`` was begun with other settings.
    """
    keep(config, folder)
    where = processes.device()
    torch.manual_seed(config.schedule.seed)
    model = VoiceModel(labels=len(labels), size=config.size)
    front = copy.deepcopy(model.encoder.front)  # stays on the CPU, where sounds are recorded
    model.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    takes: list[list[Tensor]] = []
    targets = F.one_hot(torch.tensor([labels.index(clip.label) for clip in clips]), len(labels)).float()
    prior = targets.mean(dim=0).log()
    size = min(config.batch, len(clips))
    steps = len(clips) // size

    def batches(random: torch.Generator) -> Iterator[Tensor]:
        if not takes:  # a finished run that is only read back needs none
            takes.extend(record(front, clips, config.schedule.seed, config.takes))
        order = torch.randperm(len(clips), generator=random)
        return iter(order[: steps * size].split(size))

    def loss(model: nn.Module, rows: Tensor, random: torch.Generator) -> Tensor:
        assert isinstance(model, VoiceModel)
        drawn = torch.randint(config.takes, (len(rows),), generator=random).tolist()
        mels = torch.stack(
            [
                sounds.draw(takes[take][row], config.windows, random)
                for take, row in zip(drawn, rows.tolist(), strict=True)
            ]
        )
        mels = sounds.vary(mels.float(), config.varied, random) if config.varied else mels.float()
        mels, target, _ = mix(mels, targets[rows], config.mixed, random)
        mels = sounds.mask_mel(mels.flatten(0, 1)[:, None], random).to(where)
        with mixed(where):
            tokens = model.encoder.encode(mels.contiguous(memory_format=torch.channels_last))
        return loss_of(model, tokens.float(), target.to(where), prior.to(where), config)

    def figures(model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, VoiceModel)
        return develop(model)

    averaged = fit(model, batches, steps, loss, figures, config.schedule, folder)
    assert isinstance(averaged, VoiceModel)
    return averaged.cpu()


def loss_of(model: VoiceModel, tokens: Tensor, target: Tensor, prior: Tensor, config: Learning) -> Tensor:
    """Cross-entropy of the answer by all tokens ``[n * windows, D]`` of a clip and of those by each alone."""
    whole = model.classify(tokens.unflatten(0, (len(target), config.windows)))
    each = model.classify(tokens[:, None])
    return F.cross_entropy(
        whole + prior, target, label_smoothing=config.smoothing
    ) + config.alone * F.cross_entropy(
        each + prior, target.repeat_interleave(config.windows, 0), label_smoothing=config.smoothing
    )


@torch.no_grad()
def record(front: nn.Module, clips: Sequence[voices.Clip], seed: int, takes: int) -> list[list[Tensor]]:
    """Takes of every clip, as `takes_of` makes them."""
    return takes_of(front, [sounds.load(clip.path) for clip in clips], seed, takes)


@torch.no_grad()
def takes_of(front: nn.Module, heard: Sequence[Tensor], seed: int, takes: int) -> list[list[Tensor]]:
    """Takes of every recording, the first as it is, the others distorted: ``[hops, bands, frames]`` each.

    Distorting is slower than training, so it is done once.
    """
    random = torch.Generator().manual_seed(seed)
    return [
        [front(sounds.contexts(sounds.distort(x, random) if take else x))[:, 0].bfloat16() for x in heard]
        for take in range(takes)
    ]


def mix(
    mels: Tensor, targets: Tensor, chance: float, random: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Mix a share of the clips ``[n, windows, bands, frames]`` with another, and their targets ``[n, K]``.

    Returns:
        Both, mixed, and how much of each clip is another's, ``[n]``.
    """
    count = len(mels)
    other = torch.randperm(count, generator=random)
    share = 0.5 * torch.rand(count, generator=random) * (torch.rand(count, generator=random) < chance)
    mixed = mels.lerp(mels[other], share[:, None, None, None])
    return mixed, targets.lerp(targets[other], share[:, None]), share


@torch.no_grad()
def tokens_of(model: VoiceModel, clips: Sequence[voices.Clip]) -> list[Tensor]:
    """Tokens of every heard hop of each clip, ``[hops, D]`` each, on the model's device."""
    model.eval()
    where = next(model.parameters()).device
    return [model.encoder(sounds.contexts(sounds.load(clip.path)).to(where)).float() for clip in clips]


@torch.no_grad()
def score(
    model: VoiceModel, clips: Sequence[voices.Clip], labels: Sequence[str] = LABELS
) -> dict[str, float]:
    """WA and UA per corpus, over whole clips."""
    answers = torch.cat(
        [model.classify(tokens[None, -40:]).argmax(1) for tokens in tokens_of(model, clips)]
    ).cpu()
    figures = {}
    for corpus in sorted({clip.corpus for clip in clips}):
        rows = torch.tensor([place for place, clip in enumerate(clips) if clip.corpus == corpus])
        truth = torch.tensor([labels.index(clips[row].label) for row in rows.tolist()])
        for key, value in accuracies(answers[rows], truth).items():
            figures[f"{key}_{corpus}"] = value
    return figures
