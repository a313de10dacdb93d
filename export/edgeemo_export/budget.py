"""What a run will cost, measured before it begins."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from . import processes
from .words import counted

TIMED = 2


@dataclass(frozen=True)
class Budget:
    """The cost of a run.

    Attributes:
        parameters: of the model and of what is trained beside it.
        trained: those of them that are not frozen.
        multiply_adds: of convolutions and matrix products, forward and backward, per sample of a batch; None
            where the batches do not say how many samples they hold.
        steps: still to be made.
        seconds: that they will take on this machine by the time of two of them, without the figures on the
            development set.
        state: bytes of weights, their average, gradients and the optimiser's moments; without activations,
            which the size of a batch decides.
        where: device, threads and processes.
    """

    parameters: int
    trained: int
    multiply_adds: float | None
    steps: int
    seconds: float
    state: int
    where: str

    def __str__(self) -> str:
        parts = [f"{_short(self.parameters)} parameters ({_short(self.trained)} trained)"]
        if self.multiply_adds is not None:
            parts.append(f"{_short(self.multiply_adds)} multiply-adds a sample and step")
        parts.append(f"{counted(self.steps, 'step')} of {_duration(self.seconds / self.steps)}")
        parts.append(f"about {_duration(self.seconds)} on {self.where}")
        parts.append(f"{self.state / 2**20:.3g} MiB of state")
        return ", ".join(parts)


def budget(
    modules: Sequence[nn.Module], step: Callable[[Any], object], batches: Iterable[Any], steps: int
) -> Budget:
    """Time a few steps, and put everything that they changed back as it was.

    Args:
        modules: what is trained; the first is the model, of whose weights an average is kept.
        step: makes a step on a batch; it may change the modules, their gradients and torch's random state.
        batches: at least one; the first is not timed, since it warms up caches.
        steps: of the run.
    """
    before = [copy.deepcopy(module.state_dict()) for module in modules]
    parameters = list(nn.ModuleList(modules).parameters())
    where = parameters[0].device
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        operations, held, seconds = _measured(step, batches, where)
    for module, state in zip(modules, before, strict=True):
        module.load_state_dict(state)
    for parameter in parameters:
        parameter.grad = None
    trained = [p for p in parameters if p.requires_grad]
    kept = sum(_size(state.values()) for state in [before[0], *before])
    return Budget(
        parameters=sum(p.numel() for p in parameters),
        trained=sum(p.numel() for p in trained),
        multiply_adds=operations / held if held else None,
        steps=steps,
        seconds=seconds * steps,
        state=kept + 3 * _size(trained),  # a gradient and two moments
        where=_described(where),
    )


def _measured(
    step: Callable[[Any], object], batches: Iterable[Any], where: torch.device
) -> tuple[float, int, float]:
    """Multiply-adds of a step, the samples that it had, and the seconds that one takes."""
    remaining = iter(batches)
    first = next(remaining)
    with FlopCounterMode(display=False) as counter:
        step(first)
    seconds = []
    _wait(where)
    started = time.perf_counter()
    for batch in islice(remaining, TIMED):
        step(batch)
        _wait(where)
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
    if not seconds:  # an epoch of one step
        step(first)
        _wait(where)
        seconds.append(time.perf_counter() - started)
    held = processes.samples(processes.share(first))
    return counter.get_total_flops() / 2, held, sum(seconds) / len(seconds)


def _wait(where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.synchronize(where)


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _described(where: torch.device) -> str:
    if where.type == "cuda":
        named = torch.cuda.get_device_name(where)
    else:
        named = f"the CPU, {counted(torch.get_num_threads(), 'thread')}"
    return named if processes.count() == 1 else f"{processes.count()} processes, each with {named}"


def _short(value: float) -> str:
    """A count with three digits.

    Example:
        >>> _short(999), _short(1_234_567), _short(45.6e9)
        ('999', '1.23 M', '45.6 G')
    """
    for unit in ("", " k", " M", " G"):
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g} T"


def _duration(seconds: float) -> str:
    """Seconds as one reads them.

    Example:
        >>> _duration(0.0462), _duration(90), _duration(3 * 3600 + 60)
        ('46.2 ms', '1.5 min', '3.02 h')
    """
    for size, unit in ((3600.0, "h"), (60.0, "min"), (1.0, "s")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{1e3 * seconds:.3g} ms"
