"""The voice encoder: RAVDESS, nEMO and EmoDB."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import sounds, voices
from ..data.labels import LABELS
from ..encoders.voice import AttentivePool, VoiceEncoder
from ..metrics import accuracies
from ..train import Schedule, fit

BATCH, WINDOWS, TAKES = 32, 6, 8
SCHEDULE = Schedule(epochs=70, rate=2e-3, decay=0.1, average=0.995)
# EmoDB has 111 training clips beside 780 and 480: each is heard twice an epoch.
REPEATS = {"emodb": 2}


class VoiceModel(nn.Module):
    """The encoder, attentive pooling of its tokens over time and a linear classifier.

    Args:
        width: token width D.
    """

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.encoder = VoiceEncoder(width)
        self.pool = AttentivePool(width)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(2 * width, len(LABELS))

    def classify(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map tokens ``[N, T, D]`` to logits ``[N, 7]``."""
        logits: Tensor = self.head(self.drop(self.pool(tokens, mask)))
        return logits


def train(data: Path, folder: Path, schedule: Schedule = SCHEDULE) -> VoiceModel:
    """Train on the training speakers; an utterance is heard through a few of its one-second contexts.

    The loss counts the answer by all of them and the answer by each alone, so that a stream that has heard
    one second is answered as well as can be. Log-mel pictures are mixed (mix-up; Zhang et al., 2018) and
    partly hidden, so the encoder cannot learn speakers by heart.
    """
    clips = [clip for clip in voices.read(data, "train") for _ in range(REPEATS.get(clip.corpus, 1))]
    torch.manual_seed(schedule.seed)
    model = VoiceModel()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    takes: list[list[Tensor]] = []
    targets = F.one_hot(torch.tensor([LABELS.index(clip.label) for clip in clips]), len(LABELS)).float()
    prior = targets.mean(dim=0).log()
    steps = len(clips) // BATCH

    def batches(random: torch.Generator) -> Iterator[Tensor]:
        if not takes:  # a finished run that is only read back needs none
            takes.extend(record(model.encoder.front, clips, schedule.seed))
        order = torch.randperm(len(clips), generator=random)
        return iter(order[: steps * BATCH].split(BATCH))

    def loss(model: nn.Module, rows: Tensor, random: torch.Generator) -> Tensor:
        assert isinstance(model, VoiceModel)
        drawn = torch.randint(TAKES, (len(rows),), generator=random).tolist()
        mels = torch.stack(
            [
                sounds.draw(takes[take][row], WINDOWS, random)
                for take, row in zip(drawn, rows.tolist(), strict=True)
            ]
        )
        mels, target = _mix(mels.float(), targets[rows], random)
        mels = sounds.mask_mel(mels.flatten(0, 1)[:, None], random)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = model.encoder.encode(mels.contiguous(memory_format=torch.channels_last))
        tokens = tokens.float()
        whole = model.classify(tokens.unflatten(0, (len(rows), WINDOWS)))
        each = model.classify(tokens[:, None])
        return F.cross_entropy(whole + prior, target, label_smoothing=0.05) + 0.3 * F.cross_entropy(
            each + prior, target.repeat_interleave(WINDOWS, 0), label_smoothing=0.05
        )

    def develop(model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, VoiceModel)
        return score(model, voices.read(data, "develop"))

    averaged = fit(model, batches, steps, loss, develop, schedule, folder)
    assert isinstance(averaged, VoiceModel)
    return averaged


@torch.no_grad()
def record(front: nn.Module, clips: Sequence[voices.Clip], seed: int) -> list[list[Tensor]]:
    """Takes of every clip, the first as it is, the others distorted: ``[hops, bands, frames]`` each.

    Distorting is slower than training, so it is done once.
    """
    random = torch.Generator().manual_seed(seed)
    heard = [sounds.load(clip.path) for clip in clips]
    return [
        [front(sounds.contexts(sounds.distort(x, random) if take else x))[:, 0].bfloat16() for x in heard]
        for take in range(TAKES)
    ]


def _mix(mels: Tensor, targets: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mix a third of the clips ``[n, windows, bands, frames]`` with another, and their targets."""
    count = len(mels)
    other = torch.randperm(count, generator=random)
    share = 0.5 * torch.rand(count, generator=random) * (torch.rand(count, generator=random) < 0.33)
    mixed = mels.lerp(mels[other], share[:, None, None, None])
    return mixed, targets.lerp(targets[other], share[:, None])


@torch.no_grad()
def tokens_of(model: VoiceModel, clips: Sequence[voices.Clip]) -> list[Tensor]:
    """Tokens of every heard hop of each clip, ``[hops, D]`` each."""
    model.eval()
    return [model.encoder(sounds.contexts(sounds.load(clip.path))).float() for clip in clips]


@torch.no_grad()
def score(model: VoiceModel, clips: Sequence[voices.Clip]) -> dict[str, float]:
    """WA and UA per corpus, over whole clips."""
    answers = torch.cat([model.classify(tokens[None, -40:]).argmax(1) for tokens in tokens_of(model, clips)])
    figures = {}
    for corpus in sorted({clip.corpus for clip in clips}):
        rows = torch.tensor([place for place, clip in enumerate(clips) if clip.corpus == corpus])
        truth = torch.tensor([LABELS.index(clips[row].label) for row in rows.tolist()])
        for key, value in accuracies(answers[rows], truth).items():
            figures[f"{key}_{corpus}"] = value
    return figures
