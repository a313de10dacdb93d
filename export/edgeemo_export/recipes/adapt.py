"""Adapts a bundle's voice encoder to unlabelled recordings, by an alignment with labelled ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..alignment import BY_NAME, Side
from ..config import keep, refuse
from ..data import sounds
from ..data.tokens import SLOTS
from ..encoders.restore import VoicePart
from ..encoders.voice import AttentivePool, VoiceEncoder
from ..metrics import temperature
from ..train import Schedule, fit
from . import voice

KNOWN = ("coral", "mmd", "lmmd", "ida")
SCHEDULE = Schedule(epochs=10, rate=5e-4, decay=0.0, average=0.98)


@dataclass(frozen=True)
class Config:
    """Settings of an adaptation.

    Attributes:
        schedule: of the training.
        batch: clips of the source in a step, and pieces of the target.
        windows: one-second contexts of each.
        takes: of each, the first as it is, the others distorted.
        alignment: one of `KNOWN`: those of `alignment.BY_NAME` that need nothing to be made.
        weight: of the alignment, beside a cross-entropy of weight 1.
        anchor: weight of how far source tokens move, in their own variance.

    Raises:
        InputError: one of them is out of its range.
    """

    schedule: Schedule = SCHEDULE
    batch: int = 32
    windows: int = 6
    takes: int = 3
    alignment: str = "lmmd"
    weight: float = 0.5
    anchor: float = 0.1

    def __post_init__(self) -> None:
        refuse(
            "adaptation",
            self,
            ("batch", self.batch >= 1, "1 or more"),
            ("windows", self.windows >= 1, "1 or more"),
            ("takes", self.takes >= 1, "1 or more"),
            ("alignment", self.alignment in KNOWN, f"one of {', '.join(KNOWN)}"),
            ("weight", self.weight >= 0, "0 or more"),
            ("anchor", self.anchor >= 0, "0 or more"),
        )


DEFAULTS = Config()


class Adapting(nn.Module):
    """The encoder, with the pooling and the classifier that stay as they are.

    What reads the tokens is left alone: it is shared with the face, which nobody recorded at the place, and
    it was calibrated with care. The encoder learns to say what the place sounds like in the words that the
    rest already knows.
    """

    def __init__(self, part: VoicePart) -> None:
        super().__init__()
        self.encoder: VoiceEncoder = copy.deepcopy(part.encoder)
        self.pool: AttentivePool = copy.deepcopy(part.pool).requires_grad_(False)
        self.head: nn.Linear = copy.deepcopy(part.head).requires_grad_(False)


def learn(
    part: VoicePart,
    source: Sequence[Tensor],
    labels: Tensor,
    target: Sequence[Tensor],
    folder: Path,
    config: Config = DEFAULTS,
) -> VoiceEncoder:
    """Fine-tune the encoder: right on the source, which keeps its place, with the target drawn to it.

    The loss is the cross-entropy of labelled source clips, plus the alignment of what the classifier reads
    (``[n, 2 D]``, the pooled tokens of a few contexts) between source and target, whose labels are the
    model's own answers, plus how far source tokens have moved from where they were: the rest of the fusion
    knows them there.

    Args:
        part: of the bundle; left as it is.
        source: samples of the labelled clips.
        labels: of these, ``[n]``.
        target: samples of unlabelled pieces.
        folder: of the settings, the state and the curve.
        config: the settings.
    """
    keep(config, folder)
    seed = config.schedule.seed
    heard, unknown = (voice.takes_of(part.encoder.front, x, seed, config.takes) for x in (source, target))
    steps = max(1, max(len(source), len(target)) // config.batch)
    places = [(labels == label).nonzero()[:, 0] for label in labels.unique()]
    before, align = copy.deepcopy(part.encoder).eval(), BY_NAME[config.alignment]()

    def batches(random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(steps):
            drawn = torch.randint(len(places), (config.batch,), generator=random).tolist()
            rows = [places[c][torch.randint(len(places[c]), (), generator=random)] for c in drawn]
            yield torch.stack(rows), torch.randint(len(target), (config.batch,), generator=random)

    def loss(model: nn.Module, rows: tuple[Tensor, Tensor], random: torch.Generator) -> Mapping[str, Tensor]:
        assert isinstance(model, Adapting)
        mels = torch.cat([_mels(heard, rows[0], config, random), _mels(unknown, rows[1], config, random)])
        tokens = model.encoder.encode(mels)
        pooled = model.pool(tokens.unflatten(0, (-1, config.windows)))
        logits = model.head(pooled)
        count = len(rows[0])
        known = Side(pooled[:count], F.one_hot(labels[rows[0]], logits.shape[1]).float())
        guessed = Side(pooled[count:], logits[count:].detach().softmax(dim=1))
        with torch.no_grad():
            old = before.encode(mels[: count * config.windows])
        moved = (tokens[: len(old)] - old).square().mean() / old.var(dim=0).mean().clamp(min=1e-6)
        return {
            "source": F.cross_entropy(logits[:count], labels[rows[0]], label_smoothing=0.05),
            "alignment": config.weight * align(known, guessed),
            "anchor": config.anchor * moved,
        }

    fitted = fit(Adapting(part), batches, steps, loss, lambda model: {}, config.schedule, folder)
    assert isinstance(fitted, Adapting)
    return fitted.encoder.eval()


@torch.no_grad()
def calibrate(part: VoicePart, encoder: VoiceEncoder, heard: Sequence[Tensor], labels: Tensor) -> float:
    """The temperature of the voice alone under another encoder: the bundle's, times what the new one changed.

    One speaker is easier to tell than the next, so a temperature of a few speakers is that of these. The
    ratio of the temperatures that suit the new and the old encoder depends less on who speaks.

    Args:
        part: of the bundle, whose encoder, pooling, classifier and temperature are used.
        encoder: the adapted one.
        heard: samples of labelled clips that nothing was learnt from.
        labels: of these, ``[n]``.
    """
    contexts = [sounds.contexts(samples)[-SLOTS:] for samples in heard]
    before, after = (
        temperature(torch.cat([part.head(part.pool(one(x)[None])) for x in contexts]), labels)
        for one in (part.encoder, encoder)
    )
    return part.temperature * after / before


def _mels(takes: list[list[Tensor]], rows: Tensor, config: Config, random: torch.Generator) -> Tensor:
    """A few contexts of one take of each row, partly hidden, ``[n * windows, 1, bands, frames]``."""
    drawn = torch.randint(len(takes), (len(rows),), generator=random).tolist()
    mels = [
        sounds.draw(takes[take][row], config.windows, random)
        for take, row in zip(drawn, rows.tolist(), strict=True)
    ]
    return sounds.mask_mel(torch.stack(mels).float().flatten(0, 1)[:, None], random)
