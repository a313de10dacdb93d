"""Tests on a real GPU; they skip, with the reason that edgeemo itself gives, where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgeemo.errors import BackendError
from edgeemo.inference.cuda import Cuda, open_cuda
from tests.support.device_page import device


@pytest.fixture(scope="session", autouse=True)
def gpu() -> str:
    """What the tests run on, as 'Orin, compute capability 8.7, CUDA 12.6, over cuda-python 12.9.10'."""
    try:
        open_cuda().close()
    except BackendError as error:
        pytest.skip(f"no GPU to run on: {error}")
    return device()


@pytest.fixture
def cuda(gpu: str) -> Iterator[Cuda]:
    """The device, opened for one test."""
    cuda = open_cuda()
    yield cuda
    cuda.close()
