from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeemo.errors import BackendError
from edgeemo.inference import probe
from tests.support import probe_graph


class Session:
    def __init__(self, product: int | Exception) -> None:
        self.product = product

    def run(self, names: None, feeds: dict[str, Any]) -> list[Any]:
        assert feeds["a"].min() == 255
        if isinstance(self.product, Exception):
            raise self.product
        return [np.full((1, 8), self.product, np.int32)]


@pytest.mark.parametrize(
    ("product", "saturated"),
    [
        (8 * 255 * 127, False),
        (131068, True),  # what Haswell and Skylake-Server answer: four pairs, each cut at 32767
    ],
)
def test_products(product: int, saturated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "open_session", lambda *_: Session(product))
    assert probe.saturates.__wrapped__() is saturated


def test_a_probe_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "open_session", lambda *_: Session(RuntimeError("no kernel")))
    with pytest.raises(BackendError, match="could not run: no kernel"):
        probe.saturates.__wrapped__()


def flags() -> set[str]:
    listing = Path("/proc/cpuinfo")
    return set(listing.read_text().split()) if listing.is_file() else set()


@pytest.mark.skipif(
    platform.machine() in ("x86_64", "AMD64") and not flags() & {"avx512_vnni", "avx_vnni"},
    reason="x86 that is not known to have VNNI",
)
def test_processors_with_exact_products() -> None:
    assert probe.saturates() is False


def test_it_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = probe.saturates()
    monkeypatch.setattr(probe, "open_session", None)  # a second look would fail
    assert probe.saturates() is first


def test_the_shipped_graph_is_the_one_that_is_built() -> None:
    assert onnx.load(probe_graph.SHIPPED) == probe_graph.build()
    assert probe_graph.SHIPPED.stat().st_size < 500
