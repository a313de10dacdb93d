"""The face encoder: FER+ with the raters' votes as soft labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import ferplus
from ..data.labels import LABELS
from ..data.pictures import jitter
from ..encoders.face import FaceEncoder
from ..metrics import accuracies
from ..train import Schedule, fit

BATCH = 128
SCHEDULE = Schedule(epochs=28, rate=3e-3, decay=0.08)


class FaceModel(nn.Module):
    """The encoder and a linear classifier on its token.

    Args:
        width: token width D.
    """

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.encoder = FaceEncoder(width)
        self.head = nn.Linear(width, len(LABELS))

    def forward(self, face: Tensor) -> Tensor:
        """Map crops ``[N, 48, 48, 1]`` to logits ``[N, 7]``, balanced over the classes."""
        logits: Tensor = self.head(self.encoder(face))
        return logits


def train(data: Path, folder: Path, schedule: Schedule = SCHEDULE) -> FaceModel:
    """Train on FER+ train, less the development cut.

    The loss is the cross-entropy with the raters' shares, of logits to which the log prior of the labels is
    added (Menon et al., 2021): the logits themselves then favour no class, which FER+, 58 % neutral and
    happy, otherwise teaches.
    """
    faces = ferplus.read(data / "ferplus", "train")
    shares = faces.shares
    # Where most raters see contempt, no face or nothing they could name, the rest of the votes says little.
    kept = faces.votes[:, :7].sum(axis=1) >= 0.5 * faces.votes.sum(axis=1)
    images, targets = torch.from_numpy(faces.images[kept]), torch.from_numpy(shares[kept])
    prior = targets.mean(dim=0).log()
    torch.manual_seed(schedule.seed)
    model = FaceModel()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = len(images) // BATCH

    def batches(random: torch.Generator) -> Iterator[Tensor]:
        order = torch.randperm(len(images), generator=random)
        return iter(order[: steps * BATCH].split(BATCH))

    def loss(model: nn.Module, rows: Tensor, random: torch.Generator) -> Tensor:
        x = jitter(images[rows], random).contiguous()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(x)
        return F.cross_entropy(logits.float() + prior, targets[rows], label_smoothing=0.02)

    def develop(model: nn.Module) -> Mapping[str, float]:
        return score(model, data, "develop", prior)

    averaged = fit(model, batches, steps, loss, develop, schedule, folder)
    assert isinstance(averaged, FaceModel)
    return averaged


@torch.no_grad()
def score(model: nn.Module, data: Path, split: str, prior: Tensor) -> dict[str, float]:
    """WA and UA by the majority protocol, balanced and with FER+'s prior put back in half and in full."""
    faces = ferplus.read(data / "ferplus", split)
    truth = torch.from_numpy(faces.majority)
    images = torch.from_numpy(faces.images)[truth >= 0, :, :, None]
    logits = torch.cat([model.eval()(part) for part in images.split(256)]).float()
    figures = {}
    for name, share in (("balanced", 0.0), ("half", 0.5), ("natural", 1.0)):
        for key, value in accuracies((logits + share * prior).argmax(1), truth[truth >= 0]).items():
            figures[f"{key}_{name}"] = value
    return figures
