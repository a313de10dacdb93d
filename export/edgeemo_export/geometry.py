"""Where FER+ pictures lie relative to what a face detector finds in them.

A FER+ picture is a crop already, and the face encoder learns from such crops. So that a camera's face is
cropped in the same way, each detector is shown FER+ pictures inside a larger picture, as a camera would show
the face. The medians over many of them go into the manifest.

    python -m edgeemo_export.geometry --data ../shared/data
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeemo.preprocess.detector import CascadeFinder, FaceFinder, YuNetFinder

from .data import ferplus

CANVAS = (240, 320)
"""Height and width of the picture around the FER+ picture: the size of the copy that a detector searches."""

SIDES = (80, 144)
"""Smallest and largest side of the FER+ picture in it: faces between a third and 60 % of the height."""


@dataclass(frozen=True)
class Measured:
    """What was measured, and how well.

    Attributes:
        geometry: the manifest's ``face.geometry``: for each detector the picture's side in box sides and the
            offset of its centre from the box centre in picture sides; for the eyes their distance and their
            height from the top, in picture sides. Medians.
        spread: the interquartile range of each of these.
        found: share of the pictures in which each detector found the face.
        pictures: how many there were.
    """

    geometry: dict[str, dict[str, float]]
    spread: dict[str, dict[str, float]]
    found: dict[str, float]
    pictures: int


def measure(images: NDArray[np.uint8], finders: Sequence[FaceFinder], seed: int = 0) -> Measured:
    """Measure the geometry of face crops for some detectors.

    Args:
        images: grey face crops ``[n, H, H]``.
        finders: the detectors; their names become the keys. Eyes are taken from those that see them.
        seed: draws size and place of each crop in its picture.

    Raises:
        ValueError: a detector found no face at all.
    """
    random = np.random.default_rng(seed)
    boxes: dict[str, list[tuple[float, ...]]] = {finder.name: [] for finder in finders}
    eyes: list[tuple[float, ...]] = []
    for image in images:
        picture, left, top, side = _inside(image, random)
        for finder in finders:
            # The border around the crop may look like a face; the face itself is the largest.
            for face in finder.find(picture)[:1]:
                x, y, width, height = face.box
                dx = (left + side / 2 - (x + width / 2)) / side
                dy = (top + side / 2 - (y + height / 2)) / side
                boxes[finder.name].append((side / math.sqrt(width * height), dx, dy))
                if face.eyes is not None:
                    middle = (face.eyes[0][1] + face.eyes[1][1]) / 2
                    eyes.append((math.dist(*face.eyes) / side, (middle - top) / side))
    missing = [name for name, rows in boxes.items() if not rows]
    if missing:
        raise ValueError(f"no face was found in {len(images)} pictures by {', '.join(missing)}")
    tables: dict[str, tuple[tuple[str, ...], list[tuple[float, ...]]]]
    tables = {name: (("scale", "dx", "dy"), rows) for name, rows in boxes.items()}
    if eyes:
        tables["eyes"] = (("distance", "y"), eyes)
    return Measured(
        geometry={name: _named(names, np.median(rows, axis=0)) for name, (names, rows) in tables.items()},
        spread={
            name: _named(names, np.subtract(*np.percentile(rows, [75, 25], axis=0)))
            for name, (names, rows) in tables.items()
        },
        found={name: round(len(rows) / len(images), 4) for name, rows in boxes.items()},
        pictures=len(images),
    )


def _inside(image: NDArray[np.uint8], random: np.random.Generator) -> tuple[NDArray[np.uint8], int, int, int]:
    """Put a crop into a larger picture whose rest goes on from its border, out of focus.

    Returns:
        The picture, and left, top and side of the crop in it.
    """
    height, width = CANVAS
    side = int(random.integers(*SIDES, endpoint=True))
    left = int(random.integers(0, width - side, endpoint=True))
    top = int(random.integers(0, height - side, endpoint=True))
    crop = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
    picture = cv2.copyMakeBorder(
        crop, top, height - side - top, left, width - side - left, cv2.BORDER_REPLICATE
    )
    # Repeated border pixels are streaks, which no camera shows and which move YuNet's boxes.
    picture = cv2.GaussianBlur(picture, (0, 0), side / 10)
    picture[top : top + side, left : left + side] = crop
    return np.asarray(picture, np.uint8), left, top, side


def _named(names: tuple[str, ...], values: NDArray[np.float64]) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in zip(names, values, strict=True)}


def measure_corpus(data: Path, pictures: int = 3000, seed: int = 0) -> Measured:
    """Measure YuNet and the cascade on pictures drawn from FER+ train.

    Args:
        data: the folder with ``ferplus`` and ``models``.
        pictures: how many are drawn.
        seed: of the draw.
    """
    faces = ferplus.read(data / "ferplus", "train")
    # What the raters could not agree on is often no face, or not one that a detector should find.
    usable = np.flatnonzero(faces.majority >= 0)
    drawn = np.random.default_rng(seed).permutation(usable)[:pictures]
    finders = (YuNetFinder(data / "models" / "face_detection_yunet_2023mar.onnx"), CascadeFinder())
    return measure(faces.images[np.sort(drawn)], finders, seed)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure YuNet and the cascade on FER+ train and print the result as JSON."""
    parser = argparse.ArgumentParser(prog="python -m edgeemo_export.geometry", description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder with ferplus/ and models/")
    parser.add_argument("--pictures", type=int, default=3000, help="how many are drawn")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    print(json.dumps(asdict(measure_corpus(given.data, given.pictures, given.seed)), indent=2))


if __name__ == "__main__":
    main()
