from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of several threads are in any order; and small nets are faster on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@torch.no_grad()
def _enliven(module: nn.Module, seed: int = 0) -> nn.Module:
    random = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=random)
        else:
            parameter.uniform_(0.5, 1.5, generator=random)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.normal_(0.0, 0.5, generator=random)
            part.running_var.uniform_(0.5, 2.0, generator=random)
            part.bias.normal_(0.0, 0.3, generator=random)
    return module.eval()


@pytest.fixture
def enliven() -> Callable[..., nn.Module]:
    """Gives a module weights as after training: a new one has zeros and ones, which hide what a path does."""
    return _enliven
