"""Which part of a camera picture is the crop that a face encoder reads, and the crop itself.

Detectors draw their boxes differently. A bundle therefore carries, for each detector, where its training
crops lie relative to that detector's box; so the crop is the same whichever detector found the face.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeemo.errors import InputError

Picture = NDArray[np.uint8]

WHOLE = "whole"
"""The name of the finder for which a picture already is a face crop."""


@dataclass(frozen=True, slots=True)
class Face:
    """One face in a picture, in pixels of that picture.

    Attributes:
        box: left, top, width and height; parts of it may lie outside the picture.
        score: how sure the detector is, in [0, 1].
        eyes: the centres (x, y) of both eyes, the one at the left of an upright picture (the person's right
            eye) first; None from a detector that does not see eyes.
    """

    box: tuple[float, float, float, float]
    score: float
    eyes: tuple[tuple[float, float], tuple[float, float]] | None = None


@dataclass(frozen=True, slots=True)
class Square:
    """The part of a picture that becomes the crop.

    Attributes:
        x: horizontal centre in pixels; the left border of the picture is 0, its right border the width.
        y: vertical centre in pixels, from the top.
        side: width in pixels.
        angle: roll in radians; the square's own horizontal points this far below the picture's.
        stretch: height divided by width; other than 1 only for a whole picture that is not square.
    """

    x: float
    y: float
    side: float
    angle: float = 0.0
    stretch: float = 1.0


def as_picture(image: object) -> Picture:
    """Return a picture as H x W grey or H x W x 3 BGR, without copying where that is possible.

    Args:
        image: a uint8 array of H x W, H x W x 1 (grey), H x W x 3 (BGR) or H x W x 4 (BGRA), at least 1 x 1.

    Raises:
        InputError: it is anything else.

    Example:
        >>> as_picture(np.zeros((48, 64, 1), np.uint8)).shape
        (48, 64)
    """
    wanted = "a picture is a uint8 array of H x W (grey), H x W x 3 (BGR) or H x W x 4 (BGRA)"
    if not isinstance(image, np.ndarray):
        raise InputError(f"got {type(image).__name__} for a picture; {wanted}")
    if image.dtype != np.uint8:
        raise InputError(f"got a picture of {image.dtype}; {wanted}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)) or image.size == 0:
        raise InputError(f"got a picture of shape {image.shape}; {wanted}")
    if image.ndim == 3 and image.shape[2] != 3:
        image = image[:, :, 0] if image.shape[2] == 1 else image[:, :, :3]
    return np.ascontiguousarray(image)


class FaceGeometry:
    """Where a bundle's face crops lie in a picture, read from the manifest's entry ``face``.

    The crop's side is ``scale`` times the detector's box side (the root of width times height), its centre
    the box centre moved by (dx, dy) crop sides. Where the detector sees eyes they turn the crop upright. They
    do not size it: over FER+ the box predicts the size of the picture better than the distance of the eyes,
    which shrinks when a head turns.

    Args:
        entry: ``{"size": [height, width], "channels": 1 or 3, "geometry": {finder: {"scale", "dx", "dy"},
            "eyes": {"distance", "y"}}}``, checked by who read the bundle; the distance of the eyes is in crop
            sides.

    Example:
        >>> geometry = FaceGeometry({"size": [48, 48], "channels": 1,
        ...                          "geometry": {"yunet": {"scale": 1.5, "dx": 0.0, "dy": 0.1}}})
        >>> geometry.square(Face(box=(100.0, 50.0, 80.0, 80.0), score=0.9), "yunet")
        Square(x=140.0, y=102.0, side=120.0, angle=0.0, stretch=1.0)
    """

    def __init__(self, entry: Mapping[str, Any]) -> None:
        height, width = entry["size"]
        self.size: tuple[int, int] = (height, width)
        self.channels: int = entry["channels"]
        boxes = dict(entry["geometry"])
        eyes = boxes.pop("eyes", None)
        self._boxes: dict[str, tuple[float, float, float]] = {
            finder: (box["scale"], box["dx"], box["dy"]) for finder, box in boxes.items()
        }
        self._eye_distance: float | None = None if eyes is None else eyes["distance"]

    def square(self, face: Face, finder: str) -> Square:
        """Return the part of the picture that becomes the crop of a face.

        Args:
            face: a face as the finder returned it.
            finder: the name of that finder; ``whole`` takes the box as it is, stretched to the crop.

        Raises:
            InputError: the bundle has no geometry for this finder.
        """
        x, y, width, height = face.box
        centre = x + width / 2, y + height / 2
        if finder == WHOLE:
            return Square(*centre, side=width, stretch=height / width)
        if finder not in self._boxes:
            raise InputError(
                f"this bundle has no face geometry for the finder {finder!r}; it has {sorted(self._boxes)}"
            )
        scale, dx, dy = self._boxes[finder]
        side = scale * math.sqrt(width * height)
        angle = self._roll(face, side)
        cos, sin = math.cos(angle) * side, math.sin(angle) * side
        return Square(centre[0] + cos * dx - sin * dy, centre[1] + sin * dx + cos * dy, side, angle)

    def _roll(self, face: Face, side: float) -> float:
        """Return the roll of the line through the eyes, or 0 where it is not known."""
        if face.eyes is None or self._eye_distance is None:
            return 0.0
        (left_x, left_y), (right_x, right_y) = face.eyes
        apart = math.hypot(right_x - left_x, right_y - left_y)
        # In profile the eyes lie on one another and their line says nothing: fade out, so that nothing jumps.
        trust = min(1.0, apart / (0.5 * self._eye_distance * side))
        return trust * math.atan2(right_y - left_y, right_x - left_x)

    def cut(self, image: Picture, square: Square, out: Picture | None = None) -> Picture:
        """Return the crop, averaged over what each of its pixels covers.

        Outside the picture its border pixels go on. A picture of the crop's size that is cut whole comes back
        unchanged.

        Args:
            image: the picture that the square lies in, as :func:`as_picture` returns it.
            square: the part to cut; it may lie outside the picture, in part or whole.
            out: where to write the crop; a C-contiguous uint8 array of height x width x channels.

        Returns:
            ``out``, or a new array of that shape.
        """
        if square.angle == 0:
            crop = _upright(image, square, self.size, self.channels)
        else:
            crop = _turned(image, square, self.size, self.channels)
        crop = crop.reshape(*self.size, self.channels)
        if out is None:
            return crop
        out[...] = crop
        return out


def _coloured(part: Picture, channels: int) -> Picture:
    """Return a part of a picture as grey or BGR."""
    import cv2

    if (part.ndim == 3) == (channels == 3):
        return part
    return cv2.cvtColor(part, cv2.COLOR_GRAY2BGR if channels == 3 else cv2.COLOR_BGR2GRAY)  # type: ignore[return-value]


def _upright(image: Picture, square: Square, size: tuple[int, int], channels: int) -> Picture:
    """Cut a square that is not turned; its borders are rounded to whole pixels."""
    import cv2

    height, width = image.shape[:2]
    wide = max(1, round(square.side))
    high = max(1, round(square.side * square.stretch))
    left, top = round(square.x - wide / 2), round(square.y - high / 2)
    columns, before_x, after_x = _overlap(left, wide, width)
    rows, before_y, after_y = _overlap(top, high, height)
    part = _coloured(image[rows, columns], channels)
    if before_x or after_x or before_y or after_y:
        part = cv2.copyMakeBorder(part, before_y, after_y, before_x, after_x, cv2.BORDER_REPLICATE)  # type: ignore[assignment]
    shrinks = high >= size[0] and wide >= size[1]
    # Area averaging only averages; when it enlarges it repeats pixels.
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(part, size[::-1], interpolation=method)  # type: ignore[return-value]


def _overlap(start: int, length: int, limit: int) -> tuple[slice, int, int]:
    """Return what [start, start + length) has in common with [0, limit), and what is missing on both sides.

    Where nothing is in common the nearest pixel stands for all.
    """
    first = min(max(start, 0), limit - 1)
    end = max(min(start + length, limit), 1)
    end = max(end, first + 1)
    before = min(max(0, -start), length - 1)
    return slice(first, end), before, length - before - (end - first)


def _turned(image: Picture, square: Square, size: tuple[int, int], channels: int) -> Picture:
    """Cut a turned square: shrink by a whole number, turn at twice the crop's size, average 2 x 2 pixels."""
    import cv2

    high, wide = 2 * size[0], 2 * size[1]
    shrink = max(1, round(square.side / max(high, wide)))
    # What the turned square covers, with room for interpolation, in whole blocks of the shrinking.
    reach = square.side * (abs(math.cos(square.angle)) + abs(math.sin(square.angle))) / 2 + 2 * shrink
    columns, left = _blocks(square.x - reach, square.x + reach, image.shape[1], shrink)
    rows, top = _blocks(square.y - reach, square.y + reach, image.shape[0], shrink)
    part = _coloured(image[rows, columns], channels)
    small = (max(1, part.shape[1] // shrink), max(1, part.shape[0] // shrink))
    if shrink > 1:
        part = cv2.resize(part, small, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    # From a pixel centre of the enlarged crop to one of the shrunken part.
    step_x = square.side / wide / shrink
    step_y = square.side / high / shrink
    cos, sin = math.cos(square.angle), math.sin(square.angle)
    turn = np.array([[cos * step_x, -sin * step_y], [sin * step_x, cos * step_y]])
    centre = np.array([(square.x - left) / shrink - 0.5, (square.y - top) / shrink - 0.5])
    shift = centre - turn @ np.array([(wide - 1) / 2, (high - 1) / 2])
    turned = cv2.warpAffine(
        part,
        np.column_stack([turn, shift]),
        (wide, high),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return cv2.resize(turned, size[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _blocks(low: float, high: float, limit: int, block: int) -> tuple[slice, int]:
    """Return the pixels from low to high that are in the picture, in whole blocks where it has them."""
    first = min(max(math.floor(low), 0), limit - 1)
    last = min(max(math.ceil(high), first + 1), limit)
    length = last - first
    whole = math.ceil(length / block) * block
    if first + whole > limit:
        # At the far border of the picture a part of a block is left away.
        whole = length // block * block
    return slice(first, first + (whole or length)), first
