from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeemo.errors import InputError
from edgeemo.preprocess.face import Face, FaceGeometry, Square, as_picture

ENTRY: dict[str, Any] = {
    "size": [48, 48],
    "channels": 1,
    "geometry": {
        "yunet": {"scale": 1.5, "dx": 0.0, "dy": 0.1},
        "cascade": {"scale": 1.2, "dx": 0.05, "dy": 0.0},
        "eyes": {"distance": 0.4, "y": 0.4},
    },
}
GEOMETRY = FaceGeometry(ENTRY)


def texture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth grey noise, whose crops can be compared."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 6)
    return np.asarray(cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX), np.uint8)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 1), (1, 1)),
        ((5, 7), (5, 7)),
        ((5, 7, 1), (5, 7)),
        ((5, 7, 3), (5, 7, 3)),
        ((5, 7, 4), (5, 7, 3)),
    ],
)
def test_pictures_become_grey_or_bgr(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    image = np.arange(math.prod(shape), dtype=np.uint8).reshape(shape)
    picture = as_picture(image)
    assert picture.shape == expected
    assert picture.flags.c_contiguous
    np.testing.assert_array_equal(picture.reshape(*expected[:2], -1), image.reshape(*shape[:2], -1)[:, :, :3])


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (None, "NoneType"),
        ([[1, 2]], "list"),
        (np.zeros((4, 4), np.float32), "float32"),
        (np.zeros((4, 4), bool), "bool"),
        (np.zeros(4, np.uint8), r"\(4,\)"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"\(2, 4, 4, 3\)"),  # a clip
        (np.zeros((0, 4), np.uint8), r"\(0, 4\)"),
        (np.zeros((4, 0, 3), np.uint8), r"\(4, 0, 3\)"),
    ],
)
def test_what_is_no_picture_is_refused(image: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        as_picture(image)


@pytest.mark.parametrize(
    ("finder", "expected"),
    [
        # Box side 40 * 90 = 60 ** 2, centre (120, 145).
        ("yunet", Square(120.0, 145.0 + 0.1 * 90, 90.0)),
        ("cascade", Square(120.0 + 0.05 * 72, 145.0, 72.0)),
        ("whole", Square(120.0, 145.0, 40.0, stretch=90 / 40)),
    ],
)
def test_square_from_the_box(finder: str, expected: Square) -> None:
    square = GEOMETRY.square(Face((100.0, 100.0, 40.0, 90.0), 0.9), finder)
    assert (square.x, square.y, square.side) == pytest.approx((expected.x, expected.y, expected.side))
    assert (square.angle, square.stretch) == (0.0, expected.stretch)


def test_an_unknown_finder_is_refused() -> None:
    with pytest.raises(InputError, match=r"'mine'.*cascade.*yunet"):
        GEOMETRY.square(Face((0.0, 0.0, 9.0, 9.0), 1.0), "mine")


def test_eyes_turn_the_square_and_its_offset() -> None:
    angle = 0.3
    half = 15 * math.cos(angle), 15 * math.sin(angle)
    eyes = (100 - half[0], 100 - half[1]), (100 + half[0], 100 + half[1])
    square = GEOMETRY.square(Face((80.0, 90.0, 40.0, 40.0), 0.9, eyes), "yunet")
    assert square.angle == pytest.approx(angle)
    assert (square.x, square.y) == pytest.approx((100 - 6 * math.sin(angle), 110 + 6 * math.cos(angle)))


@pytest.mark.parametrize(
    ("apart", "trusted"),
    # Eyes of a frontal face are 0.4 * 60 = 24 apart; from half of that on they are trusted.
    [(24.0, 1.0), (12.0, 1.0), (6.0, 0.5), (0.0, 0.0)],
)
def test_eyes_of_a_profile_turn_less(apart: float, trusted: float) -> None:
    step = apart / math.sqrt(2) / 2
    eyes = (50 - step, 50 - step), (50 + step, 50 + step)
    square = GEOMETRY.square(Face((30.0, 30.0, 40.0, 40.0), 0.9, eyes), "yunet")
    assert square.angle == pytest.approx(trusted * math.pi / 4)


@pytest.mark.parametrize("bgr", [False, True])
def test_a_crop_that_is_cut_whole_is_unchanged(bgr: bool) -> None:
    crop = texture(48, 48)
    image = np.repeat(crop[:, :, None], 3, axis=2) if bgr else crop
    np.testing.assert_array_equal(GEOMETRY.cut(image, Square(24.0, 24.0, 48.0))[:, :, 0], crop)


def test_a_whole_picture_is_stretched_to_the_crop() -> None:
    image = np.zeros((96, 192), np.uint8)
    image[48:, :] = 200
    image[:, 96:] += 50
    square = GEOMETRY.square(Face((0.0, 0.0, 192.0, 96.0), 1.0), "whole")
    crop = GEOMETRY.cut(image, square)[:, :, 0]
    for rows, columns, level in ((0, 0, 0), (0, 24, 50), (24, 0, 200), (24, 24, 250)):
        assert np.all(crop[rows : rows + 24, columns : columns + 24] == level)


@pytest.mark.parametrize("angle", [0.0, 0.01, 0.4, -1.2, math.pi])
@pytest.mark.parametrize("side", [60.0, 200.0, 310.0])
def test_a_crop_looks_the_same_at_every_size_and_angle(side: float, angle: float) -> None:
    face = texture(48, 48)
    high, wide = 720, 900
    x, y = 451.3, 348.7
    step = side / 48
    cos, sin = step * math.cos(angle), step * math.sin(angle)
    # Paste by a forward map: the centre of the crop to (x, y), turned and enlarged.
    turn = np.array([[cos, -sin], [sin, cos]])
    shift = np.array([x - 0.5, y - 0.5]) - turn @ np.array([23.5, 23.5])
    image = cv2.warpAffine(
        face,
        np.column_stack([turn, shift]),
        (wide, high),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    crop = GEOMETRY.cut(as_picture(image), Square(x, y, side, angle))[:, :, 0]
    # Half a pixel of rounding where the square is upright, and twice an interpolation.
    assert np.abs(crop.astype(float) - face).mean() < 4.0


@pytest.mark.parametrize("angle", [0.0, 0.2])
def test_a_fine_pattern_is_averaged_and_not_aliased(angle: float) -> None:
    # Stripes of one pixel: a crop that picks single pixels would show some of them.
    image = np.zeros((480, 640), np.uint8)
    image[:, ::2] = 200
    crop = GEOMETRY.cut(image, Square(320.0, 240.0, 385.0, angle))
    assert np.abs(crop.astype(float) - 100).max() < 12


@pytest.mark.parametrize("angle", [0.0, 0.5])
@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (-500.0, 50.0, 10),  # left of the picture
        (700.0, 50.0, 90),
        (5.0, -900.0, 10),
        (95.0, 900.0, 90),
    ],
)
def test_outside_the_picture_its_border_goes_on(x: float, y: float, expected: int, angle: float) -> None:
    image = np.full((100, 100), 10, np.uint8)
    image[:, 50:] = 90
    side = 8.0 if abs(y) > 200 else 60.0
    assert np.all(GEOMETRY.cut(image, Square(x, y, side, angle)) == expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 2), (47, 51, 3)])
@pytest.mark.parametrize("angle", [0.0, 0.3])
def test_any_picture_can_be_cut(shape: tuple[int, ...], angle: float) -> None:
    image = np.full(shape, 77, np.uint8)
    for side in (0.4, 30.0, 700.0):
        assert np.all(GEOMETRY.cut(image, Square(shape[1] / 2, shape[0] / 2, side, angle)) == 77)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bgr", [False, True])
@pytest.mark.parametrize("angle", [0.0, 0.1])
def test_crops_have_the_channels_of_the_bundle(channels: int, bgr: bool, angle: float) -> None:
    geometry = FaceGeometry({**ENTRY, "size": [32, 40], "channels": channels})
    grey = texture(120, 160)
    image = np.dstack([grey, grey, grey]) if bgr else grey
    out = np.zeros((32, 40, channels), np.uint8)
    crop = geometry.cut(image, Square(80.0, 60.0, 70.0, angle), out=out)
    assert crop is out
    np.testing.assert_array_equal(out, geometry.cut(image, Square(80.0, 60.0, 70.0, angle)))
    assert out.std() > 10
    assert np.ptp(out, axis=2).max() == 0


def test_colour_is_weighed_as_opencv_weighs_it() -> None:
    image = np.zeros((60, 60, 3), np.uint8)
    image[:, :] = (255, 0, 0)
    assert np.all(GEOMETRY.cut(image, Square(30.0, 30.0, 50.0)) == 29)  # 0.114 * 255
