from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeemo.preprocess.detector import FaceFinder
from edgeemo.preprocess.face import Face, Picture
from edgeemo_export.geometry import main, measure


class Spot:
    """Finds the brightest place, as long as it is to find."""

    name = "spot"

    def __init__(self, every: int = 1) -> None:
        self.calls = 0
        self.every = every

    def find(self, image: Picture) -> list[Face]:
        self.calls += 1
        if self.calls % self.every:
            return []
        x, y, width, height = cv2.boundingRect(np.asarray(image > 200, np.uint8))
        eyes = ((float(x), float(y)), (float(x + width), float(y)))
        return [Face((float(x), float(y), float(width), float(height)), 1.0, eyes)]


def crops(left: int, top: int, side: int) -> np.ndarray:
    images = np.full((40, 48, 48), 100, np.uint8)
    images[:, top : top + side, left : left + side] = 250
    return images


@pytest.mark.parametrize(
    ("left", "top", "side", "scale", "dx", "dy"),
    [
        (12, 12, 24, 2.0, 0.0, 0.0),
        (6, 18, 24, 2.0, 6 / 48, -6 / 48),  # the crop's centre is to the right of the box and above it
        (8, 8, 32, 1.5, 0.0, 0.0),
    ],
)
def test_a_known_box_is_measured(left: int, top: int, side: int, scale: float, dx: float, dy: float) -> None:
    measured = measure(crops(left, top, side), [Spot()])
    assert measured.geometry["spot"] == pytest.approx({"scale": scale, "dx": dx, "dy": dy}, abs=0.03)
    assert measured.geometry["eyes"] == pytest.approx({"distance": side / 48, "y": top / 48}, abs=0.03)
    assert all(value < 0.05 for value in measured.spread["spot"].values())
    assert (measured.found, measured.pictures) == ({"spot": 1.0}, 40)


def test_missed_faces_are_counted() -> None:
    assert measure(crops(12, 12, 24), [Spot(every=4)]).found == {"spot": 0.25}


def test_a_detector_that_finds_nothing_is_named() -> None:
    with pytest.raises(ValueError, match=r"40 pictures by spot"):
        measure(crops(12, 12, 24), [Spot(every=1000)])


def test_the_seed_decides() -> None:
    finder: FaceFinder = Spot()
    images = crops(6, 18, 24)
    assert measure(images, [finder], seed=1) == measure(images, [finder], seed=1)
    assert measure(images, [finder], seed=1) != measure(images, [finder], seed=2)


@pytest.mark.skipif(not hasattr(cv2, "CascadeClassifier"), reason="this OpenCV has no cascades")
@pytest.mark.slow
def test_faces_of_ferplus_are_measured(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--data", str(data), "--pictures", "60"])
    measured = json.loads(capsys.readouterr().out)
    assert measured["pictures"] == 60
    assert measured["found"]["yunet"] > 0.8
    assert measured["found"]["cascade"] > 0.65
    geometry = measured["geometry"]
    assert math.isclose(geometry["yunet"]["scale"], 1.1, abs_tol=0.12)
    assert math.isclose(geometry["cascade"]["scale"], 1.03, abs_tol=0.1)
    assert math.isclose(geometry["eyes"]["distance"], 0.37, abs_tol=0.04)
