"""The processes that share one training: their places, their parts of a batch, what they agree on.

``torchrun --nproc-per-node 2 -m -- edgeemo_export.cli train ...`` starts them, one a GPU, or several on the
CPU (without the bare ``--`` torchrun takes ``--run`` for an option of its own). Each holds the whole model
and takes its part of every batch; the gradients are averaged, so every process makes the same step. The
averaging is written out here and not left to DistributedDataParallel, which sees only what goes through
``forward`` of the module that it wraps: recipes call parts of a model, and train modules beside it.

A loss that compares samples with each other, such as those of `alignment`, compares the samples of its own
process alone: the gradient is the mean of the parts' gradients, which is not that of the whole batch. What
such a loss sees on one process it sees on N with a batch N times as large.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from edgeemo.errors import InputError, shown


def count() -> int:
    """How many processes train together; 1 outside of `joined`.

    Example:
        >>> count(), rank()
        (1, 0)
    """
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """The place of this process among them; the one at 0 writes and logs."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def device() -> torch.device:
    """Where this process computes: its own GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun started, if it started any, for as long as the context lasts.

    Over NCCL where there are GPUs, over gloo where there are none.

    Raises:
        InputError: there are GPUs, but fewer than processes on this machine.
    """
    if not distributed.is_torchelastic_launched():
        yield
        return
    if torch.cuda.is_available():
        place, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= gpus:
            raise InputError(f"--nproc-per-node: at most {gpus}, one process a GPU of this machine")
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextmanager
def one_by_one() -> Iterator[None]:
    """Let the first process do the body before the others do: what it stored, they read back."""
    if rank() > 0:
        distributed.barrier()
    yield
    if rank() == 0 and count() > 1:
        distributed.barrier()


def share(batch: Any) -> Any:
    """This process's part of a batch; with one process, the batch.

    Args:
        batch: samples along the first dimension of a tensor, a number of samples that the loss will draw, or
            a tuple of such.

    Raises:
        InputError: it is something else, or does not divide among the processes.
    """
    if count() == 1:
        return batch
    if isinstance(batch, tuple):
        return tuple(share(part) for part in batch)
    if not isinstance(batch, Tensor | int):
        raise InputError(f"batch: {shown(batch)}; processes can share a tensor, a number or a tuple of such")
    if samples(batch) % count():
        raise InputError(f"batch: {samples(batch)} samples; it must be a multiple of the {count()} processes")
    return batch // count() if isinstance(batch, int) else batch[rank() :: count()]


def samples(batch: Any) -> int:
    """How many samples a batch holds, as `share` understands it; 0 where it does not.

    Example:
        >>> samples((torch.zeros(8, 3), 4)), samples(None)
        (12, 0)
    """
    if isinstance(batch, tuple):
        return sum(samples(part) for part in batch)
    if isinstance(batch, Tensor):
        return len(batch)
    return batch if isinstance(batch, int) else 0


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes, in place.

    One that a process lacks counts as zero there; one that all lack stays absent.
    """
    if count() == 1:
        return
    there = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    summed = torch.cat([there, *(grad.flatten().float() for grad in grads)])
    distributed.all_reduce(summed)  # in one message: many small ones cost more
    there, *means = (summed / count()).split([len(parameters), *(p.numel() for p in parameters)])
    for p, some, grad, mean in zip(parameters, there.tolist(), grads, means, strict=True):
        if some:
            p.grad = grad.copy_(mean.view_as(p))


@torch.no_grad()
def average(values: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in place, if it is of floating point."""
    if count() == 1:
        return
    for value in values:
        if value.is_floating_point():
            sent = value.contiguous()  # as weights in channels-last order are not
            distributed.all_reduce(sent)
            value.copy_(sent / count())


@torch.no_grad()
def agree(module: nn.Module) -> None:
    """Give every process the first one's weights and buffers, in place."""
    if count() == 1:
        return
    for value in module.state_dict().values():
        sent = value.contiguous()
        distributed.broadcast(sent, src=0)
        value.copy_(sent)
