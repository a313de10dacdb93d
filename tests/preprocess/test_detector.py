from __future__ import annotations

import hashlib
import http.client
import math
import os
import urllib.request
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeemo.errors import BackendError, InputError, SourceError
from edgeemo.preprocess import detector
from edgeemo.preprocess.detector import (
    DETECTOR_VARIABLE,
    CascadeFinder,
    FaceFinder,
    WholePicture,
    YuNetFinder,
    detector_path,
    fetch_detector,
    open_finder,
)
from edgeemo.preprocess.face import Face

needs_cascade = pytest.mark.skipif(
    not hasattr(cv2, "CascadeClassifier"), reason=f"OpenCV {cv2.__version__} has no cascades"
)
MODEL = "models/face_detection_yunet_2023mar.onnx"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(DETECTOR_VARIABLE, raising=False)


@pytest.fixture(params=["yunet", pytest.param("cascade", marks=needs_cascade)])
def finder(request: pytest.FixtureRequest, data: Path) -> FaceFinder:
    return YuNetFinder(data / MODEL) if request.param == "yunet" else CascadeFinder()


@pytest.fixture(scope="module")
def face(data: Path) -> NDArray[np.uint8]:
    """The mean of FER+ faces that most raters call neutral: a face, and nobody's."""
    with np.load(data / "ferplus" / "valid.npz") as file:
        images, votes = file["images"], file["votes"]
    mean = images[votes[:, 0] >= 8].mean(axis=0)
    return np.asarray(cv2.normalize(mean, None, 20, 235, cv2.NORM_MINMAX), np.uint8)


def scene(
    face: NDArray[np.uint8], sides: list[int], height: int = 480, width: int = 640
) -> NDArray[np.uint8]:
    """A camera picture with faces of some sizes, from left to right."""
    picture = np.full((height, width, 3), 120, np.uint8)
    for number, side in enumerate(sides):
        left = int((number + 0.5) * width / len(sides) - side / 2)
        top = (height - side) // 2
        picture[top : top + side, left : left + side] = cv2.resize(face, (side, side))[:, :, None]
    return picture


@pytest.mark.parametrize("side", [100, 200, 360])
@pytest.mark.parametrize("grey", [False, True])
def test_a_face_is_found_in_place(finder: FaceFinder, face: NDArray[np.uint8], side: int, grey: bool) -> None:
    picture = scene(face, [side])
    (found,) = finder.find(picture[:, :, 0] if grey else picture)
    x, y, width, height = found.box
    assert (x + width / 2, y + height / 2) == pytest.approx((320, 240), abs=0.12 * side)
    assert 0.7 * side < math.sqrt(width * height) < 1.2 * side
    assert 0 < found.score <= 1


def test_the_largest_face_comes_first(finder: FaceFinder, face: NDArray[np.uint8]) -> None:
    found = finder.find(scene(face, [120, 240, 160]))
    centres = [round(f.box[0] + f.box[2] / 2, -2) for f in found]
    assert centres == [300, 500, 100]


@pytest.mark.parametrize("side", [48, 64, 224])
def test_a_face_that_fills_its_picture_is_found(
    finder: FaceFinder, face: NDArray[np.uint8], side: int
) -> None:
    (found,) = finder.find(np.asarray(cv2.resize(face, (side, side)), np.uint8))
    x, y, width, height = found.box
    assert (x + width / 2, y + height / 2) == pytest.approx((side / 2, side / 2), abs=0.1 * side)
    assert 0.75 * side < math.sqrt(width * height) < 1.1 * side


@pytest.mark.parametrize("shape", [(1, 1), (1, 1000), (1000, 1), (3, 2000, 3), (2, 2, 4), (480, 640, 3)])
def test_nothing_is_found_where_nothing_is(finder: FaceFinder, shape: tuple[int, ...]) -> None:
    assert finder.find(np.full(shape, 90, np.uint8)) == []


def test_what_is_no_picture_is_refused(finder: FaceFinder) -> None:
    with pytest.raises(InputError, match="float64"):
        finder.find(np.zeros((48, 48)))  # type: ignore[arg-type]


def test_eyes_are_the_left_of_the_picture_first(data: Path, face: NDArray[np.uint8]) -> None:
    (found,) = YuNetFinder(data / MODEL).find(scene(face, [200]))
    assert found.eyes is not None
    (left, right) = found.eyes
    assert left[0] < 320 < right[0]
    assert math.dist(left, right) == pytest.approx(0.37 * 200, rel=0.15)
    assert left[1] == pytest.approx(right[1], abs=8)


def test_the_cascade_needs_opencv_4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "CascadeClassifier", raising=False)
    with pytest.raises(BackendError, match=r"opencv-python-headless<5.*--detector"):
        CascadeFinder()


def test_a_whole_picture_is_one_face() -> None:
    (found,) = WholePicture().find(np.zeros((3, 5, 3), np.uint8))
    assert (found.box, found.score, found.eyes) == ((0.0, 0.0, 5.0, 3.0), 1.0, None)


@needs_cascade
def test_detectors_are_looked_for_in_order(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_finder().name == "cascade"
    detector_path().parent.mkdir(parents=True)
    detector_path().write_bytes((data / MODEL).read_bytes())
    assert open_finder().name == "yunet"
    monkeypatch.setenv(DETECTOR_VARIABLE, str(tmp_path / "none.onnx"))
    with pytest.raises(InputError, match=r"EDGEEMO_FACE_DETECTOR.*none\.onnx"):
        open_finder()
    assert open_finder(data / MODEL).name == "yunet"


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def closed(path: Path) -> bool:
    raise PermissionError(13, "Permission denied", str(path))


@needs_cascade
@pytest.mark.parametrize(("name", "act"), [("home", no_home), ("is_file", closed)])
def test_without_a_home_there_is_the_cascade(name: str, act: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    finder = CascadeFinder()
    monkeypatch.setattr(detector, "CascadeFinder", lambda: finder)  # it looks for a file of OpenCV's
    monkeypatch.setattr(Path, name, act)
    assert open_finder() is finder
    with pytest.raises(SourceError, match=r"could not be fetched from https.*--detector"):
        fetch_detector()


def test_a_detector_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_file", closed)
    with pytest.raises(InputError, match=r"mine\.onnx cannot be read .*YuNet"):
        open_finder(tmp_path / "mine.onnx")


def test_a_detector_whose_name_is_not_unicode_is_refused(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "\udcff.onnx"
    try:
        path.write_bytes((data / MODEL).read_bytes())
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    monkeypatch.setattr(cv2, "FaceDetectorYN", None)  # it would crash
    with pytest.raises(InputError, match=r"cannot be read .*YuNet"):
        open_finder(path)


@pytest.mark.parametrize("content", [None, b"", b"not a network"])
def test_a_file_that_is_no_detector_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mine.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"mine\.onnx.*YuNet"):
        open_finder(path)


def test_a_damaged_detector_is_named(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.onnx"
    content = (data / MODEL).read_bytes()
    path.write_bytes(content[100_000:])
    with pytest.raises(InputError, match=r"damaged\.onnx.*YuNet"):
        open_finder(path)


def test_a_network_that_is_no_detector_is_named(data: Path) -> None:
    with pytest.raises(InputError, match=r"silero.*YuNet"):
        open_finder(data / "models" / "silero_vad_16k_op15.onnx")


def test_fetching_keeps_the_file(tmp_path: Path) -> None:
    source = tmp_path / "served.onnx"
    source.write_bytes(b"a model")
    digest = hashlib.sha256(b"a model").hexdigest()
    path = fetch_detector(source.as_uri(), digest)
    assert path == tmp_path / "cache" / "edgeemo" / "face_detection_yunet_2023mar.onnx"
    assert path.read_bytes() == b"a model"
    source.unlink()
    assert fetch_detector(source.as_uri(), digest) == path  # not read again
    assert os.listdir(path.parent) == [path.name]


def test_another_file_is_not_kept(tmp_path: Path) -> None:
    source = tmp_path / "served.onnx"
    source.write_bytes(b"a page that says no")
    with pytest.raises(SourceError, match=hashlib.sha256(b"a page that says no").hexdigest()):
        fetch_detector(source.as_uri())
    assert not detector_path().parent.exists()


@pytest.mark.parametrize("error", [OSError("no route to host"), http.client.BadStatusLine("no route")])
def test_without_a_network_the_message_says_what_to_do(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(url: str, timeout: float) -> None:
        raise error

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    with pytest.raises(
        SourceError, match=r"https://media\.githubusercontent\.com.*no route.*--detector or EDGEEMO_FACE"
    ):
        fetch_detector()


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    source = tmp_path / "served.onnx"
    source.write_bytes(b"a model")
    with pytest.raises(SourceError, match=r"cache.*--detector"):
        fetch_detector(source.as_uri(), hashlib.sha256(b"a model").hexdigest())


@needs_cascade
@pytest.mark.slow
def test_both_detectors_crop_the_same_square(data: Path) -> None:
    """On tight crops, the hardest case: centres within 4 % and sides within 10 % of the crop's side."""
    from edgeemo.preprocess.face import FaceGeometry

    geometry = FaceGeometry(
        {
            "size": [48, 48],
            "channels": 1,
            "geometry": {
                "yunet": {"scale": 1.093, "dx": 0.002, "dy": -0.014},
                "cascade": {"scale": 1.033, "dx": 0.0, "dy": 0.0},
            },
        }
    )
    finders: tuple[FaceFinder, ...] = (YuNetFinder(data / MODEL), CascadeFinder())
    far, grown = [], []
    for path in sorted((data / "ravdess_faces").glob("*/10.jpg")):
        image = np.asarray(cv2.imread(str(path)), np.uint8)
        one, other = (geometry.square(finder.find(image)[0], finder.name) for finder in finders)
        far.append(math.hypot(one.x - other.x, one.y - other.y) / one.side)
        grown.append(abs(math.log(one.side / other.side)))
    assert (np.median(far), np.median(grown)) < (0.04, 0.1)
    assert max(far) < 0.1


@pytest.mark.parametrize(
    ("box", "kept"),
    [
        ((30.0, 60.0, 40.0, 40.0), False),  # the mouth of the large face
        ((30.0, 85.0, 40.0, 40.0), True),  # 37 % within: the face of somebody in front
        ((120.0, 0.0, 40.0, 40.0), True),  # beside it
    ],
)
def test_a_box_mostly_within_a_larger_one_is_no_face(box: tuple[float, ...], kept: bool) -> None:
    large, small = Face((0.0, 0.0, 100.0, 100.0), 0.9, None), Face(box, 0.9, None)
    assert detector._largest_first([small, large]) == [large, *([small] if kept else [])]
