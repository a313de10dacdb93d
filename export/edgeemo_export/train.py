"""The training loop: seeded, resumable, logged, on one process or several."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeemo.errors import InputError

from . import processes, states
from .budget import budget
from .config import refuse
from .curves import Curve
from .precision import half
from .words import counted

log = logging.getLogger("edgeemo.export")

Batches = Callable[[torch.Generator], Iterable[Any]]
Loss = Callable[[nn.Module, Any, torch.Generator], Tensor | Mapping[str, Tensor]]


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

    Raises:
        InputError: one of them is out of its range.
    """

    epochs: int
    rate: float = 2e-3
    decay: float = 0.05
    warm: float = 0.1
    average: float = 0.999
    seed: int = 0

    def __post_init__(self) -> None:
        refuse(
            "schedule",
            self,
            ("epochs", self.epochs >= 1, "1 or more"),
            ("rate", self.rate > 0, "above 0"),
            ("decay", self.decay >= 0, "0 or more"),
            ("warm", 0 <= self.warm <= 1, "from 0 to 1"),
            ("average", 0 <= self.average < 1, "from 0 to below 1"),
            ("seed", self.seed >= 0, "0 or more"),
        )


def learning_rate(schedule: Schedule, step: int, steps: int) -> float:
    """Learning rate at ``step`` of ``steps``: linear warm-up, then half a cosine.

    Nothing else sets the rate: `fit` asks this function before each step, for every group of weights.

    Example:
        >>> [round(learning_rate(Schedule(1, rate=1.0, warm=0.5), step, 8), 2) for step in (0, 3, 4, 6, 7)]
        [0.25, 1.0, 1.0, 0.5, 0.15]
    """
    warm = max(1, round(schedule.warm * steps))
    if step < warm:
        return schedule.rate * (step + 1) / warm
    return schedule.rate * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / (steps - warm)))


def optimiser(model: nn.Module, schedule: Schedule, beside: nn.Module | None = None) -> torch.optim.AdamW:
    """AdamW over every trainable parameter, each once, weight decay on matrices and kernels only.

    Args:
        model: what is kept.
        schedule: gives rate and decay.
        beside: what is trained with it and then left, such as a discriminator; it may share parameters with
            the model.
    """
    parameters = _trainable(model, beside)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": schedule.decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.rate)


def fit(
    model: nn.Module,
    batches: Batches,
    steps: int,
    loss: Loss,
    develop: Callable[[nn.Module], Mapping[str, float]],
    schedule: Schedule,
    folder: Path,
    beside: nn.Module | None = None,
    advance: Callable[[float], object] | None = None,
) -> nn.Module:
    """Fit ``model`` and give back the moving average of its weights.

    The state after each epoch is kept in ``folder/state.pt``, so a run that was stopped goes on where it
    was; the curve is appended to ``folder/curve.jsonl``, and shown by TensorBoard where that is installed. An
    epoch draws everything from a generator seeded with the schedule's seed and the epoch's number, so a
    resumed run equals an uninterrupted one. What the run will cost is logged before its first step.

    Under `processes.joined` each process takes its part of every batch, all make the same step by the mean of
    their gradients, and only the first writes. A process normalises by the batch statistics of its own part;
    running statistics are the mean over the processes from the end of each epoch on. A loss that compares
    samples with each other, such as those of `alignment`, sees those of its own part: with N processes give
    it a batch N times as large. The loss draws from a generator of each process's own.

    Args:
        model: fitted in place, on the device where it is.
        batches: gives the batches of one epoch, each as `processes.share` takes it.
        steps: number of those batches.
        loss: of one batch: a scalar, or named scalars, of which the sum is minimised and each has its curve.
        develop: figures on the development set, logged every few epochs.
        schedule: see [Schedule][].
        folder: made when missing.
        beside: what the loss trains with the model and nobody keeps, such as an alignment with a
            discriminator. It is part of the state, so whatever it counts must be a buffer.
        advance: told before each step which share of all steps is done, in [0, 1), for losses that fade in.

    Raises:
        InputError: the loss trains parameters that are neither the model's nor ``beside``'s, an epoch has
            other than ``steps`` batches, or a batch does not divide among the processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for module in _modules(model, beside):
        processes.agree(module)
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    descent = _Descent(model, schedule, beside)
    first = _resume(folder, model, averaged, descent)
    if first >= schedule.epochs:
        return averaged
    work = _Work(batches, steps, loss, advance)
    _estimate(descent, work, schedule.epochs - first, folder)
    with closing(Curve(folder, first)) if processes.rank() == 0 else nullcontext() as curve:
        for epoch in range(first, schedule.epochs):
            figures = _epoch(descent, averaged, epoch, work)
            if curve is None:
                continue
            if (epoch + 1) % 5 == 0 or epoch + 1 == schedule.epochs:
                figures |= develop(averaged)
            curve.add(epoch + 1, figures)
            _keep(folder, epoch + 1, model, averaged, descent)
    return averaged


@dataclass(frozen=True)
class _Work:
    """What an epoch is made of; the attributes are arguments of `fit`."""

    batches: Batches
    steps: int
    loss: Loss
    advance: Callable[[float], object] | None

    def losses(self, model: nn.Module, batch: Any, random: torch.Generator) -> dict[str, Tensor]:
        """The loss of this process's part of a batch, and the parts that it names."""
        given = self.loss(model, processes.share(batch), random)
        if isinstance(given, Tensor):
            return {"loss": given}
        parts = {f"loss_{name}": value for name, value in given.items()}
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}


class _Descent:
    """Makes steps: AdamW by the mean gradient of all processes, on a model and on what is beside it."""

    def __init__(self, model: nn.Module, schedule: Schedule, beside: nn.Module | None) -> None:
        self.model, self.schedule, self.beside = model, schedule, beside
        self.adam = optimiser(model, schedule, beside)
        self.parameters = _trainable(model, beside)
        where = self.parameters[0].device
        # float16 alone loses small gradients without a scale; elsewhere it does nothing.
        self.scaler = torch.amp.GradScaler(where.type, enabled=half(where) is torch.float16)

    def step(self, value: Tensor, rate: float) -> None:
        """Step down the gradient of a loss, at a learning rate."""
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.zero_grad()
        self.scaler.scale(value).backward()
        processes.average_gradients(self.parameters)
        self.scaler.unscale_(self.adam)
        nn.utils.clip_grad_norm_(self.parameters, 5.0)
        self.scaler.step(self.adam)
        self.scaler.update()


def _epoch(descent: _Descent, averaged: nn.Module, epoch: int, work: _Work) -> dict[str, float]:
    """Make the steps of an epoch; gives its mean losses, its last rate and its seconds."""
    model, schedule, started = descent.model, descent.schedule, time.monotonic()
    before, steps = epoch * work.steps, schedule.epochs * work.steps
    order, random = _generators(schedule.seed * 100_003 + epoch)
    _train(model, descent.beside)
    sums: dict[str, Tensor] = {}
    step, rate = before - 1, 0.0
    for step, batch in enumerate(work.batches(order), start=before):
        if work.advance is not None:
            work.advance(step / steps)
        losses = work.losses(model, batch, random)
        rate = learning_rate(schedule, step, steps)
        descent.step(losses["loss"], rate)
        # A young average forgets faster: the first weights are random.
        _follow(averaged, model, min(schedule.average, (1.0 + step) / (10.0 + step)))
        for name, value in losses.items():
            sums[name] = value.detach().double() + sums.get(name, 0.0)
    if step + 1 - before != work.steps:
        raise InputError(f"batches: {step + 1 - before} in an epoch; the schedule counts {work.steps}")
    for module in (model, averaged):
        processes.average(_statistics(module))
    processes.average(sums.values())
    figures = {name: value.item() / work.steps for name, value in sums.items()}
    return {**figures, "rate": rate, "seconds": time.monotonic() - started}


def _generators(seed: int) -> tuple[torch.Generator, torch.Generator]:
    """That of the order, the same in all processes, and that of the loss, each process's own.

    A process alone has one for both. Dropout draws from torch's global generator, which is seeded too.
    """
    order = torch.Generator().manual_seed(seed)
    own = seed + 1_000_000_007 * processes.rank()
    torch.manual_seed(own)
    return order, order if processes.count() == 1 else torch.Generator().manual_seed(own + 500_000_003)


def _estimate(descent: _Descent, work: _Work, epochs: int, folder: Path) -> None:
    """Log what the run will cost, by a few steps that are not the run's own and leave nothing behind."""
    model, schedule, beside = descent.model, descent.schedule, descent.beside
    trial = _Descent(model, schedule, beside)
    order, random = _generators(schedule.seed * 100_003 + schedule.epochs)  # an epoch that the run has not
    _train(model, beside)

    def step(batch: Any) -> None:
        value = work.losses(model, batch, random)["loss"]
        _refuse_strangers(value, trial.parameters)
        trial.step(value, schedule.rate)

    found = budget(_modules(model, beside), step, work.batches(order), epochs * work.steps)
    if processes.rank() == 0:
        log.info("%s: %s", folder.name, found)


def _refuse_strangers(value: Tensor, known: Iterable[nn.Parameter]) -> None:
    """Raise where a loss would train parameters that no optimiser has."""
    grouped = {id(parameter) for parameter in known}
    shapes, seen, waiting = [], set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)  # of the nodes that gather a gradient
        if isinstance(leaf, nn.Parameter) and id(leaf) not in grouped:
            shapes.append(list(leaf.shape))
        waiting += [parent for parent, _ in node.next_functions]
    if shapes:
        raise InputError(
            f"loss: it trains {counted(len(shapes), 'parameter')} without a group of the optimiser, of the "
            f"shapes {shapes[:4]}; give their module as 'beside', or freeze what they belong to"
        )


def _modules(model: nn.Module, beside: nn.Module | None) -> list[nn.Module]:
    return [model] if beside is None else [model, beside]


def _trainable(model: nn.Module, beside: nn.Module | None) -> list[nn.Parameter]:
    return [p for p in nn.ModuleList(_modules(model, beside)).parameters() if p.requires_grad]


def _train(model: nn.Module, beside: nn.Module | None) -> None:
    for module in _modules(model, beside):
        module.train()


def _statistics(module: nn.Module) -> list[Tensor]:
    """What a state has besides parameters: the running statistics of norms, and what else is gathered."""
    parameters = dict(module.named_parameters())
    return [value for name, value in module.state_dict().items() if name not in parameters]


@torch.no_grad()
def _follow(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    # Running means and variances of the norms follow as the weights do; counters are copied.
    for mine, theirs in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
        if mine.is_floating_point():
            mine.lerp_(theirs, 1.0 - decay)
        else:
            mine.copy_(theirs)


def _keep(folder: Path, epoch: int, model: nn.Module, averaged: nn.Module, descent: _Descent) -> None:
    state: dict[str, Any] = {
        "epoch": epoch,
        "model": model.state_dict(),
        "averaged": averaged.state_dict(),
        "adam": descent.adam.state_dict(),
    }
    if descent.beside is not None:
        state["beside"] = descent.beside.state_dict()
    if descent.scaler.is_enabled():
        state["scaler"] = descent.scaler.state_dict()
    states.write(state, folder / "state.pt")


def _resume(folder: Path, model: nn.Module, averaged: nn.Module, descent: _Descent) -> int:
    if not (folder / "state.pt").exists():
        return 0
    where = descent.parameters[0].device
    state = states.read(folder / "state.pt", where)
    model.load_state_dict(state["model"])
    averaged.load_state_dict(state["averaged"])
    descent.adam.load_state_dict(state["adam"])
    if descent.beside is not None:
        descent.beside.load_state_dict(state["beside"])
    if descent.scaler.is_enabled() and "scaler" in state:  # not in that of a run that went on elsewhere
        descent.scaler.load_state_dict(state["scaler"])
    return int(state["epoch"])
