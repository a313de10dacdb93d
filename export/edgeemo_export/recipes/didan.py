"""DIDAN from RAVDESS to another corpus of voices, and the alignments that it is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import states
from ..alignment import BY_NAME
from ..config import keep, refuse
from ..data import sounds, voices
from ..data.labels import NORMS
from ..data.tokens import SLOTS
from ..data.transfer import TARGETS, Transfer, transfer
from ..encoders.voice import LogMel
from ..metrics import accuracies, temperature
from ..precision import mixed
from ..systems.didan import DIDAN, WITHOUT, Aligning, Layers, VoiceAnswers
from ..train import Schedule, fit
from . import voice

SCHEDULE = Schedule(epochs=20, rate=2e-3, decay=0.05, average=0.99)


@dataclass(frozen=True)
class Config:
    """Settings of the recipe.

    Attributes:
        schedule: see `edgeemo_export.train.Schedule`.
        target: corpus that RAVDESS is carried over to, one of `transfer.TARGETS`.
        batch: clips of the source in a step, and as many of the target.
        takes: how often each clip is recorded, once as it is and else distorted.
        alignment: one of `alignment.BY_NAME`; ``'source'`` hears the source alone, ``'norms'`` hears the
            target in the batch norms alone, ``'supervised'`` learns the labels of both.
        weight: of the alignment beside a cross-entropy of weight 1, when it is faded in.
        smoothing: share of each target that is spread over all labels.

    Raises:
        InputError: one of them is out of its range.
    """

    schedule: Schedule = SCHEDULE
    target: str = "emodb"
    batch: int = 48
    takes: int = 4
    alignment: str = "ida"
    weight: float = 1.0
    smoothing: float = 0.05

    def __post_init__(self) -> None:
        known = (*WITHOUT, *BY_NAME)
        refuse(
            "didan",
            self,
            ("target", self.target in TARGETS, f"one of {', '.join(TARGETS)}"),
            ("batch", self.batch >= 2, "2 or more"),
            ("takes", self.takes >= 1, "1 or more"),
            ("alignment", self.alignment in known, f"one of {', '.join(known)}"),
            ("weight", self.weight >= 0, "0 or more"),
            ("smoothing", 0 <= self.smoothing <= 1, "from 0 to 1"),
        )


DEFAULTS = Config()


@dataclass(frozen=True)
class Spectrograms:
    """A transfer, heard: log-mel pictures of the contexts of every clip, ``[hops, bands, frames]`` each.

    They depend on neither alignment nor seed of a run, so a study makes them once.

    Attributes:
        transfer: who they are of.
        train: takes of the source.
        listen: takes of the target.
        develop: of other speakers of the source.
        test: of other speakers of the target.
    """

    transfer: Transfer
    train: list[list[Tensor]]
    listen: list[list[Tensor]]
    develop: list[Tensor]
    test: list[Tensor]


def hear(study: Transfer, takes: int = DEFAULTS.takes) -> Spectrograms:
    """Make the pictures of a transfer's clips."""
    front = LogMel()
    train, listen = (voice.record(front, x, 0, takes) for x in (study.train, study.listen))
    develop, test = (voice.record(front, x, 0, 1)[0] for x in (study.develop, study.test))
    return Spectrograms(study, train, listen, develop, test)


def train(heard: Spectrograms, folder: Path, config: Config = DEFAULTS) -> DIDAN:
    """Train on labelled source clips and unlabelled target clips, each through one random context a step.

    Source labels come equally often; the target comes as it is.

    Raises:
        InputError: the run in ``folder`` was begun with other settings.
    """
    keep(config, folder)
    torch.manual_seed(config.schedule.seed)
    labels = heard.transfer.labels
    model = DIDAN(len(labels)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    align = Aligning(labels, config.alignment, config.weight, model.last.in_features)
    known, foreign = (_targets(clips, labels) for clips in (heard.transfer.train, heard.transfer.listen))
    places = [(known[:, label] > 0).nonzero()[:, 0] for label in range(len(labels))]
    steps = max(1, len(known) // config.batch)

    def batches(random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(steps):
            drawn = torch.randint(len(places), (config.batch,), generator=random).tolist()
            rows = [places[c][torch.randint(len(places[c]), (), generator=random)] for c in drawn]
            yield torch.stack(rows), torch.randint(len(foreign), (config.batch,), generator=random)

    def loss(model: nn.Module, rows: tuple[Tensor, Tensor], random: torch.Generator) -> Mapping[str, Tensor]:
        assert isinstance(model, DIDAN)
        mels = _mels(heard.train, rows[0], random)
        if config.alignment != "source":
            mels = torch.cat([mels, _mels(heard.listen, rows[1], random)])
        with mixed(mels.device):
            both = model.layers(mels)
        count = len(rows[0])
        source, target = (
            Layers(*(x[part].float() for x in both)) for part in (slice(count), slice(count, None))
        )
        parts = {"source": F.cross_entropy(source.last, known[rows[0]], label_smoothing=config.smoothing)}
        if config.alignment == "supervised":
            parts["target"] = F.cross_entropy(target.last, foreign[rows[1]], label_smoothing=config.smoothing)
        elif align.loss is not None:
            parts["alignment"] = align(source, known[rows[0]], target)
        return parts

    def develop(model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, DIDAN)
        return score(model, heard.develop, heard.transfer.develop, labels)

    fitted = fit(model, batches, steps, loss, develop, config.schedule, folder, align, align.advance)
    assert isinstance(fitted, DIDAN)
    return fitted.eval()


def _targets(clips: Sequence[voices.Clip], labels: Sequence[str]) -> Tensor:
    return F.one_hot(torch.tensor([labels.index(clip.label) for clip in clips]), len(labels)).float()


def _mels(takes: list[list[Tensor]], rows: Tensor, random: torch.Generator) -> Tensor:
    """One context of one take of each row, partly hidden, ``[n, 1, bands, frames]``."""
    drawn = torch.randint(len(takes), (len(rows),), generator=random).tolist()
    mels = [sounds.draw(takes[t][row], 1, random) for t, row in zip(drawn, rows.tolist(), strict=True)]
    return sounds.mask_mel(torch.stack(mels).float(), random).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def answers(model: DIDAN, pictures: Sequence[Tensor]) -> Tensor:
    """Logits ``[n, K]`` of clips, of the last window of each."""
    given = []
    for picture in pictures:
        with mixed(picture.device):
            middle = model.layers(picture[-SLOTS:].float()[:, None]).middle
        given.append(model.classify(middle.float()[None], torch.ones(1, len(middle))))
    return torch.cat(given)


def score(
    model: DIDAN, pictures: Sequence[Tensor], clips: Sequence[voices.Clip], labels: Sequence[str]
) -> dict[str, float]:
    """WA and UA over whole clips."""
    truth = torch.tensor([labels.index(clip.label) for clip in clips])
    return accuracies(answers(model.eval(), pictures).argmax(1), truth)


def carry(data: Path, folder: Path, config: Config = DEFAULTS) -> VoiceAnswers:
    """Train on the corpora, and calibrate by unseen speakers of the source: the target has no labels.

    Args:
        data: the corpora.
        folder: of the settings, the state and the curve.
        config: the settings.
    """
    study = replace(transfer(data, config.target), test=[])  # nothing of the test speakers is heard here
    heard = hear(study, config.takes)
    model = train(heard, folder, config)
    truth = _targets(study.develop, study.labels).argmax(1)
    return graph(model, temperature(answers(model, heard.develop), truth), study.labels)


def read(folder: Path, labels: Sequence[str], warmth: float) -> VoiceAnswers:
    """What `carry` gave, of a finished run.

    Args:
        folder: of the run.
        labels: its classes.
        warmth: the temperature that its calibration found.
    """
    model = DIDAN(len(labels))
    model.load_state_dict(states.read(folder / "state.pt")["averaged"])
    return graph(model, warmth, labels)


def graph(model: DIDAN, warmth: float, labels: Sequence[str]) -> VoiceAnswers:
    """The fusion graph of the bundle."""
    answering = VoiceAnswers(model, warmth, [NORMS[label] for label in labels])
    return answering.eval()
