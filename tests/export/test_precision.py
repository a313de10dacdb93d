from __future__ import annotations

import pytest
import torch

from edgeemo_export import precision


@pytest.mark.parametrize(
    ("device", "native", "expected"),
    [
        ("cpu", False, torch.bfloat16),
        ("cuda", True, torch.bfloat16),
        ("cuda", False, torch.float16),
    ],
)
def test_the_type_that_a_device_computes_in(
    monkeypatch: pytest.MonkeyPatch, device: str, native: bool, expected: torch.dtype
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert precision.half(torch.device(device)) is expected


def test_products_are_mixed_and_weights_are_not() -> None:
    layer = torch.nn.Linear(3, 2)
    with precision.mixed(torch.device("cpu")):
        assert layer(torch.zeros(1, 3)).dtype is torch.bfloat16
    assert layer(torch.zeros(1, 3)).dtype is layer.weight.dtype is torch.float32
