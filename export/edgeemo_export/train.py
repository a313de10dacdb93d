"""The training loop: seeded, resumable, logged."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger("edgeemo.export")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a model is fitted.

    Attributes:
        epochs: passes over the data.
        rate: peak learning rate of AdamW.
        decay: weight decay of matrices and kernels; vectors (biases, norms) have none.
        warm: share of the steps with a rising learning rate; a half cosine follows, down to zero.
        average: decay of the exponential moving average of the weights, which is what is kept.
        seed: seeds initial weights, order and augmentation.
    """

    epochs: int
    rate: float = 2e-3
    decay: float = 0.05
    warm: float = 0.1
    average: float = 0.999
    seed: int = 0


def learning_rate(schedule: Schedule, step: int, steps: int) -> float:
    """Learning rate at ``step`` of ``steps``: linear warm-up, then half a cosine.

    Example:
        >>> [round(learning_rate(Schedule(1, rate=1.0, warm=0.5), step, 8), 2) for step in (0, 3, 4, 6, 7)]
        [0.25, 1.0, 1.0, 0.5, 0.15]
    """
    warm = max(1, round(schedule.warm * steps))
    if step < warm:
        return schedule.rate * (step + 1) / warm
    return schedule.rate * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / (steps - warm)))


def optimiser(model: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW over every trainable parameter, weight decay on matrices and kernels only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": schedule.decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.rate)


def fit(
    model: nn.Module,
    batches: Callable[[torch.Generator], Iterable[Any]],
    steps: int,
    loss: Callable[[nn.Module, Any, torch.Generator], Tensor],
    develop: Callable[[nn.Module], Mapping[str, float]],
    schedule: Schedule,
    folder: Path,
) -> nn.Module:
    """Fit ``model`` and give back the moving average of its weights.

    The state after each epoch is kept in ``folder/state.pt``, so a run that was stopped goes on where it
    was; the curve is appended to ``folder/curve.jsonl``. An epoch draws everything from a generator seeded
    with the schedule's seed and the epoch's number, so a resumed run equals an uninterrupted one.

    Args:
        model: fitted in place.
        batches: gives the batches of one epoch.
        steps: number of those batches.
        loss: of one batch, a scalar.
        develop: figures on the development set, logged every few epochs.
        schedule: see [Schedule][].
        folder: made when missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    adam = optimiser(model, schedule)
    first = _resume(folder, model, averaged, adam)
    for epoch in range(first, schedule.epochs):
        started, total = time.monotonic(), 0.0
        random = torch.Generator().manual_seed(schedule.seed * 100_003 + epoch)
        torch.manual_seed(schedule.seed * 100_003 + epoch)  # dropout draws from the global generator
        model.train()
        for step, batch in enumerate(batches(random), start=epoch * steps):
            for group in adam.param_groups:
                group["lr"] = learning_rate(schedule, step, steps * schedule.epochs)
            value = loss(model, batch, random)
            adam.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            adam.step()
            _follow(averaged, model, min(schedule.average, (1.0 + step) / (10.0 + step)))
            total += value.item()
        figures = {"epoch": epoch + 1, "loss": total / steps, "seconds": time.monotonic() - started}
        if (epoch + 1) % 5 == 0 or epoch + 1 == schedule.epochs:
            figures |= develop(averaged)
        _keep(folder, epoch + 1, figures, model, averaged, adam)
    return averaged


@torch.no_grad()
def _follow(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    # Running means and variances of the norms follow as the weights do; counters are copied.
    for mine, theirs in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
        if mine.is_floating_point():
            mine.lerp_(theirs, 1.0 - decay)
        else:
            mine.copy_(theirs)


def _keep(
    folder: Path,
    epoch: int,
    figures: Mapping[str, float],
    model: nn.Module,
    averaged: nn.Module,
    adam: torch.optim.AdamW,
) -> None:
    state = {
        "epoch": epoch,
        "model": model.state_dict(),
        "averaged": averaged.state_dict(),
        "adam": adam.state_dict(),
    }
    torch.save(state, folder / "state.new")
    (folder / "state.new").replace(folder / "state.pt")
    line = {name: round(value, 5) for name, value in figures.items()}
    with (folder / "curve.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    log.info("%s %s", folder.name, line)


def _resume(folder: Path, model: nn.Module, averaged: nn.Module, adam: torch.optim.AdamW) -> int:
    if not (folder / "state.pt").exists():
        return 0
    state = torch.load(folder / "state.pt", weights_only=True)
    model.load_state_dict(state["model"])
    averaged.load_state_dict(state["averaged"])
    adam.load_state_dict(state["adam"])
    return int(state["epoch"])
