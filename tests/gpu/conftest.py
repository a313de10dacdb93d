"""Tests on a real GPU; they skip, with the reason that edgeemo itself gives, where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgeemo.errors import BackendError
from edgeemo.inference.cuda import Cuda, open_cuda


@pytest.fixture(scope="session", autouse=True)
def gpu() -> str:
    """What the tests run on, as 'Orin, compute capability 8.7, CUDA 12.6, over cuda-python 12.9.10'."""
    try:
        cuda = open_cuda()
    except BackendError as error:
        pytest.skip(f"no GPU to run on: {error}")
    try:
        capability, driver = (".".join(map(str, pair)) for pair in (cuda.capability, cuda.driver))
        return f"{cuda.name}, compute capability {capability}, CUDA {driver}, over {cuda.binding}"
    finally:
        cuda.close()


@pytest.fixture
def cuda(gpu: str) -> Iterator[Cuda]:
    """The device, opened for one test."""
    cuda = open_cuda()
    yield cuda
    cuda.close()
