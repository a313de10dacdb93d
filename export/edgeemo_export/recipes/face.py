"""The face encoder: FER+ with the raters' votes as soft labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from .. import processes
from ..config import keep, refuse
from ..data import ferplus
from ..data.labels import LABELS
from ..data.pictures import jitter
from ..encoders.face import SIZES, FaceEncoder
from ..metrics import accuracies
from ..precision import mixed
from ..train import Schedule, fit

SCHEDULE = Schedule(epochs=28, rate=3e-3, decay=0.08)


@dataclass(frozen=True)
class Config:
    """Settings of the recipe.

    Attributes:
        schedule: see `edgeemo_export.train.Schedule`.
        batch: pictures of a step.
        smoothing: share of each target that is spread over all labels.
        size: of the encoder, one of `edgeemo_export.encoders.face.SIZES`.

    Raises:
        InputError: one of them is out of its range.
    """

    schedule: Schedule = SCHEDULE
    batch: int = 128
    smoothing: float = 0.02
    size: str = "edge"

    def __post_init__(self) -> None:
        refuse(
            "face",
            self,
            ("batch", self.batch >= 1, "1 or more"),
            ("smoothing", 0 <= self.smoothing <= 1, "from 0 to 1"),
            ("size", self.size in SIZES, f"one of {', '.join(SIZES)}"),
        )


DEFAULTS = Config()


class FaceModel(nn.Module):
    """The encoder and a linear classifier on its token.

    Args:
        width: token width D.
        labels: number of classes K.
        size: of the encoder.
    """

    def __init__(self, width: int = 128, labels: int = len(LABELS), size: str = "edge") -> None:
        super().__init__()
        self.encoder = FaceEncoder(width, size)
        self.head = nn.Linear(width, labels)

    def forward(self, face: Tensor) -> Tensor:
        """Map crops ``[N, 48, 48, 1]`` to logits ``[N, K]``, balanced over the classes."""
        logits: Tensor = self.head(self.encoder(face))
        return logits


def train(data: Path, folder: Path, config: Config = DEFAULTS) -> FaceModel:
    """Train on FER+ train, less the development cut."""
    faces = ferplus.read(data / "ferplus", "train")
    shares = faces.shares
    kept = usable(faces)
    images, targets = torch.from_numpy(faces.images[kept]), torch.from_numpy(shares[kept])

    def develop(model: FaceModel, prior: Tensor) -> Mapping[str, float]:
        return score(model, data, "develop", prior)

    return learn(images, targets, develop, folder, config)


def usable(faces: ferplus.Faces) -> NDArray[np.bool_]:
    """Which pictures have votes that can be learned from, ``[n]``.

    Where most raters see contempt, no face or nothing they could name, the rest of the votes says little.
    """
    return np.asarray(faces.votes[:, :7].sum(axis=1) >= 0.5 * faces.votes.sum(axis=1))


def learn(
    images: Tensor,
    targets: Tensor,
    develop: Callable[[FaceModel, Tensor], Mapping[str, float]],
    folder: Path,
    config: Config = DEFAULTS,
) -> FaceModel:
    """Train on crops.

    The loss is the cross-entropy with the targets, of logits to which the log prior of the labels is added
    (Menon et al., 2021): the logits themselves then favour no class, which FER+, 58 % neutral and happy,
    otherwise teaches.

    Args:
        images: uint8 ``[n, 48, 48]``.
        targets: shares of the labels, ``[n, K]``, each label with some.
        develop: figures of a model and the log prior ``[K]``.
        folder: of the settings, the state and the curve.
        config: the settings.

    Raises:
        InputError: the run in ``folder`` was begun with other settings.
    """
    keep(config, folder)
    prior, where = targets.mean(dim=0).log(), processes.device()
    torch.manual_seed(config.schedule.seed)
    model = FaceModel(labels=targets.shape[1], size=config.size)
    model.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = min(config.batch, len(images))
    steps = len(images) // size

    def batches(random: torch.Generator) -> Iterator[Tensor]:
        order = torch.randperm(len(images), generator=random)
        return iter(order[: steps * size].split(size))

    def loss(model: nn.Module, rows: Tensor, random: torch.Generator) -> Tensor:
        x = jitter(images[rows], random).contiguous().to(where)
        with mixed(where):
            logits = model(x)
        logits = logits.float() + prior.to(where)
        return F.cross_entropy(logits, targets[rows].to(where), label_smoothing=config.smoothing)

    def figures(model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, FaceModel)
        return develop(model, prior)

    averaged = fit(model, batches, steps, loss, figures, config.schedule, folder)
    assert isinstance(averaged, FaceModel)
    return averaged.cpu()


@torch.no_grad()
def score(model: nn.Module, data: Path, split: str, prior: Tensor) -> dict[str, float]:
    """WA and UA by the majority protocol, balanced and with FER+'s prior put back in half and in full."""
    faces = ferplus.read(data / "ferplus", split)
    truth = torch.from_numpy(faces.majority)
    images = torch.from_numpy(faces.images)[truth >= 0, :, :, None]
    where = next(model.parameters()).device
    logits = torch.cat([model.eval()(part.to(where)).cpu() for part in images.split(256)]).float()
    figures = {}
    for name, share in (("balanced", 0.0), ("half", 0.5), ("natural", 1.0)):
        for key, value in accuracies((logits + share * prior).argmax(1), truth[truth >= 0]).items():
            figures[f"{key}_{name}"] = value
    return figures
