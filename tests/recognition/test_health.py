from __future__ import annotations

import math

import numpy as np
import pytest

from edgeemo.recognition.health import REASONS, brightness, clipped, in_order, level


@pytest.mark.parametrize(
    ("samples", "decibels"),
    [
        (np.ones(1000), 0.0),
        (np.full(1000, -0.001), -60.0),
        (np.sin(np.arange(8000) * 0.1), -3.01),
        (np.zeros(1000), -math.inf),
        (np.zeros(0), -math.inf),
        (np.full(1000, 1e30), math.inf),  # its power is beyond float32; a warning would fail the test
    ],
)
def test_level(samples: np.ndarray, decibels: float) -> None:
    assert level(samples.astype(np.float32)) == pytest.approx(decibels, abs=0.01)


@pytest.mark.parametrize(
    ("samples", "share"),
    [
        ([0.0, 0.998, -0.998], 0.0),
        ([1.0, 0.0, 0.0, 0.0], 0.25),
        ([-1.0, 0.0, 0.0, 0.0], 0.25),
        ([32767 / 32768, -32768 / 32768], 1.0),  # 16-bit sound at its limits
        ([3.0, -2.0, 0.5, 0.5], 0.5),  # floating point may exceed full scale
        ([], 0.0),
    ],
)
def test_clipped(samples: list[float], share: float) -> None:
    assert clipped(np.array(samples, np.float32)) == share


def test_brightness_of_a_large_white_crop_does_not_overflow() -> None:
    assert brightness(np.full((300, 300, 3), 255, np.uint8)) == 255.0
    assert brightness(np.array([[[0, 1], [2, 5]]], np.uint8)) == 2.0


def test_reasons_are_listed_in_one_order() -> None:
    assert in_order(tuple(reversed(REASONS))) == REASONS
    assert in_order(()) == ()
