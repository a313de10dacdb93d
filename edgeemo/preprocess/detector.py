"""Which detector finds the faces of a picture, where its model comes from, and what it found."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeemo.cache import folder as cache_folder
from edgeemo.errors import BackendError, InputError, SourceError
from edgeemo.preprocess.face import WHOLE, Face, Picture, as_picture

_LOG = logging.getLogger("edgeemo")

DETECTOR_VARIABLE = "EDGEEMO_FACE_DETECTOR"
DETECTOR_URL = (
    "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet/"
    "face_detection_yunet_2023mar.onnx"
)
DETECTOR_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"

_SMALLEST = 160
"""Longer side to which smaller pictures are enlarged: a face of less than about 20 pixels is missed."""

_CLOSE_UP = 160
"""Longer side, without its margin, of the copy in which a face that fills the picture is looked at again."""

_FILLING = 0.7
"""Share of the shorter side beyond which a box is not trusted: without a margin around the face the cascade's
box is a fifth too small and YuNet's too low by 6 % of a crop."""

_NARROWEST = 12
"""Shorter side of a copy, in pixels, in which YuNet can find a face."""

_WITHIN = 0.6
"""Share of a box within a larger one from which on it is no face of its own."""


class FaceFinder(Protocol):
    """Finds the faces of a picture.

    Attributes:
        name: the key of this finder in a manifest's face geometry.
    """

    name: str

    def find(self, image: Picture) -> list[Face]:
        """Return the faces of a picture, largest first; an empty list when there is none.

        Args:
            image: a picture as :func:`edgeemo.preprocess.face.as_picture` takes it.

        Raises:
            InputError: it is not a picture.
        """
        ...


class YuNetFinder:
    """OpenCV's YuNet: boxes and eyes, small faces and turned heads; about 4 ms for 320 x 240 on one core.

    Args:
        model_path: the ONNX file.
        width: longer side in pixels of the copy that is searched; faces of 12 pixels in it are found.

    Raises:
        InputError: the file is missing or is not a YuNet.
    """

    name = "yunet"

    def __init__(self, model_path: str | Path, width: int = 320) -> None:
        import cv2

        path = Path(model_path)
        wanted = "it must be the ONNX file of OpenCV's YuNet"
        try:
            if not path.is_file():
                raise InputError(f"no face detector at {path}; {wanted}")
            content = path.read_bytes()
            str(path).encode()  # OpenCV crashes at a name that is not Unicode
        except (OSError, ValueError) as error:
            raise InputError(f"the face detector {path} cannot be read ({error}); {wanted}") from error
        self._width = width
        if not all(output in content for output in (b"cls_32", b"obj_32", b"bbox_32", b"kps_32")):
            # Not left to OpenCV: version 5 opens any network, and crashes when it reads other outputs.
            raise InputError(f"{path} is not a face detector; it must be OpenCV's YuNet as ONNX")
        self._size = (_SMALLEST, _SMALLEST)
        try:
            self._net = cv2.FaceDetectorYN.create(str(path), "", self._size, score_threshold=0.6)
            self._net.detect(np.zeros((_SMALLEST, _SMALLEST, 3), np.uint8))
        except cv2.error as error:
            raise InputError(f"{path} cannot be read; {wanted}") from error

    def find(self, image: Picture) -> list[Face]:
        """Return the faces of a picture, with eyes, largest first."""
        picture = as_picture(image)
        faces = self._search(_copy(picture, self._width))
        if faces and _fills(faces[0], picture):
            return self._search(_close_up(picture)) or faces
        return faces

    def _search(self, part: _Copy) -> list[Face]:
        import cv2

        copy = part.image
        # In a strip narrower than its smallest face YuNet now and then sees faces that are not there.
        if min(copy.shape[:2]) < _NARROWEST:
            return []
        if copy.ndim == 2:
            copy = cv2.cvtColor(copy, cv2.COLOR_GRAY2BGR)  # type: ignore[assignment]
        size = (copy.shape[1], copy.shape[0])
        if size != self._size:
            self._net.setInputSize(size)
            self._size = size
        _, rows = self._net.detect(copy)
        if rows is None:
            return []
        # Box, then five landmarks (the first two are the eyes), then the score.
        table: NDArray[np.float64] = np.array(rows, np.float64)
        table[:, :14:2] *= part.scale_x
        table[:, 1:14:2] *= part.scale_y
        table[:, [0, 4, 6]] -= part.left
        table[:, [1, 5, 7]] -= part.top
        faces = []
        for x, y, width, height, first_x, first_y, second_x, second_y, *_, score in table.tolist():
            if width > 0 and height > 0:
                left, right = sorted(((first_x, first_y), (second_x, second_y)))
                faces.append(Face((x, y, width, height), min(score, 1.0), (left, right)))
        return _largest_first(faces)


class CascadeFinder:
    """The boosted cascade that OpenCV's 4.x wheel carries: frontal faces, boxes only; needs no model file.

    Its cost hangs on the smallest face, not on the size of the picture. Steps of 1.2 down to an eighth of the
    shorter side cost what steps of 1.15 down to a fifth do (6.5 ms for 320 x 240 on one core), so a person
    at 1.6 times the distance is found. Two windows that agree are enough: that wins back on FER+ pictures
    what the larger steps lose, and found nothing beside the faces of the recordings that were tried.

    Args:
        width: longer side in pixels of the copy that is searched.

    Raises:
        BackendError: this OpenCV has no cascades (5.0 and later).
    """

    name = "cascade"

    def __init__(self, width: int = 320) -> None:
        import cv2

        self._width = width
        folder = getattr(getattr(cv2, "data", None), "haarcascades", "")
        path = Path(folder) / "haarcascade_frontalface_alt2.xml"
        if not hasattr(cv2, "CascadeClassifier") or not path.is_file():
            raise BackendError(
                f"OpenCV {cv2.__version__} has no face cascade; install 'opencv-python-headless<5', or get "
                f"YuNet with 'edgeemo fetch-detector', or name it with --detector or {DETECTOR_VARIABLE}"
            )
        self._cascade = cv2.CascadeClassifier(str(path))

    def find(self, image: Picture) -> list[Face]:
        """Return the faces of a picture, without eyes, largest first."""
        picture = as_picture(image)
        faces = self._search(_copy(picture, self._width), 8)
        if not faces or _fills(faces[0], picture):
            return self._search(_close_up(picture), 3) or faces
        return faces

    def _search(self, part: _Copy, smallest: int) -> list[Face]:
        """Search for faces down to the shorter side divided by `smallest`."""
        import cv2

        copy = part.image
        if copy.ndim == 3:
            copy = cv2.cvtColor(copy, cv2.COLOR_BGR2GRAY)  # type: ignore[assignment]
        least = max(20, min(copy.shape) // smallest)
        boxes, windows = self._cascade.detectMultiScale2(
            copy, scaleFactor=1.2, minNeighbors=1, minSize=(least, least)
        )
        faces = []
        for (x, y, width, height), count in zip(np.reshape(boxes, (-1, 4)), np.ravel(windows), strict=True):
            box = (
                float(x * part.scale_x - part.left),
                float(y * part.scale_y - part.top),
                float(width * part.scale_x),
                float(height * part.scale_y),
            )
            # A cascade has no probability; this grows with the number of windows that agree.
            faces.append(Face(box, float(count / (count + 2))))
        return _largest_first(faces)


class WholePicture:
    """Takes every picture as one face crop; for pictures that were cropped before."""

    name = WHOLE

    def find(self, image: Picture) -> list[Face]:
        """Return one face with the picture's own borders."""
        height, width = as_picture(image).shape[:2]
        return [Face((0.0, 0.0, float(width), float(height)), 1.0)]


def open_finder(path: str | Path | None = None) -> FaceFinder:
    """Open the face detector that there is.

    Args:
        path: a YuNet model. None takes the one named by the environment variable EDGEEMO_FACE_DETECTOR, else
            the one that :func:`fetch_detector` left in the cache, else the cascade of OpenCV's 4.x wheel.

    Raises:
        InputError: the named file is missing or is not a YuNet.
        BackendError: no model is there and this OpenCV has no cascade.
    """
    if path is not None:
        return YuNetFinder(path)
    named = os.environ.get(DETECTOR_VARIABLE)
    if named:
        try:
            return YuNetFinder(named)
        except InputError as error:
            raise InputError(f"{DETECTOR_VARIABLE}: {error}") from error
    cached = _cached()
    if cached is not None:
        return YuNetFinder(cached)
    _LOG.info("no YuNet model was fetched: faces are found by OpenCV's cascade")
    return CascadeFinder()


def _cached() -> Path | None:
    """Return where the fetched detector is, None where there is none."""
    try:
        path = detector_path()
        return path if path.is_file() else None
    except (OSError, RuntimeError):  # a service may have no home, or none that it may look into
        return None


def detector_path() -> Path:
    """Return where a fetched detector is kept, in the cache of :func:`edgeemo.cache.folder`.

    Raises:
        RuntimeError: nothing names a folder: this user has no home.
    """
    return cache_folder() / DETECTOR_URL.rsplit("/", 1)[1]


def fetch_detector(url: str = DETECTOR_URL, sha256: str = DETECTOR_SHA256) -> Path:
    """Download the YuNet model (MIT, 0.2 MB) into the cache, unless it is there, and return its path.

    Args:
        url: where it is.
        sha256: the digest that it must have.

    Raises:
        SourceError: it cannot be read or written, or it is another file; nothing is kept then.
    """
    # Only a download needs these, and they are a tenth of all that an answer imports.
    import http.client
    import urllib.request

    other = f"with the file at hand, name it with --detector or {DETECTOR_VARIABLE}"
    try:
        target = detector_path()
        if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == sha256:
            return target
        with urllib.request.urlopen(url, timeout=30) as answer:
            content: bytes = answer.read(1 << 24)
    except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
        raise SourceError(f"the face detector could not be fetched from {url} ({error}); {other}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise SourceError(
            f"{url} is not the expected face detector: its SHA-256 is {digest}, it must be {sha256}; {other}"
        )
    try:
        _write(target, content)
    except OSError as error:
        raise SourceError(f"the face detector could not be kept at {target} ({error}); {other}") from error
    return target


def _write(target: Path, content: bytes) -> None:
    """Write a file so that another process sees all of it or nothing."""
    import tempfile

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as temporary:
        try:
            temporary.write(content)
            temporary.close()
            os.replace(temporary.name, target)
        except OSError:
            os.unlink(temporary.name)
            raise


def _largest_first(faces: Sequence[Face]) -> list[Face]:
    """Sort faces by size, then by place, so that the order does not hang on that of a detector's threads.

    A box that lies mostly within a larger one is left out: it is the mouth or the neck of that face.
    """
    distinct: list[Face] = []
    for face in sorted(faces, key=lambda face: (-face.box[2] * face.box[3], face.box[:2])):
        if not any(_share_within(face, larger) > _WITHIN for larger in distinct):
            distinct.append(face)
    return distinct


def _share_within(face: Face, larger: Face) -> float:
    """Share of a face's box that lies within that of another."""
    (x, y, width, height), (left, top, wide, high) = face.box, larger.box
    across = min(x + width, left + wide) - max(x, left)
    down = min(y + height, top + high) - max(y, top)
    return max(across, 0.0) * max(down, 0.0) / (width * height)


def _fills(face: Face, picture: Picture) -> bool:
    """Return whether a face takes so much of the picture that its box needs a second look."""
    height, width = picture.shape[:2]
    return bool(math.sqrt(face.box[2] * face.box[3]) > _FILLING * min(height, width))


@dataclass(frozen=True)
class _Copy:
    """The copy that is searched: a place in it is place * scale - (left, top) in the picture."""

    image: Picture
    scale_x: float
    scale_y: float
    left: float = 0.0
    top: float = 0.0


def _copy(picture: Picture, longer: int) -> _Copy:
    """Return a copy with at most `longer` as its longer side; smaller pictures keep theirs, or grow a bit."""
    import cv2

    height, width = picture.shape[:2]
    scale = min(longer, max(_SMALLEST, height, width)) / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (width, height):
        return _Copy(picture, 1.0, 1.0)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small: Any = cv2.resize(picture, size, interpolation=method)
    return _Copy(small, width / size[0], height / size[1])


def _close_up(picture: Picture) -> _Copy:
    """Return a copy in a margin of a quarter of the picture on each side."""
    import cv2

    copy = _copy(picture, _CLOSE_UP)
    top, left = (side // 4 for side in copy.image.shape[:2])
    # An even border of the mean brightness draws no lines, as repeated border pixels do.
    wider: Any = cv2.copyMakeBorder(
        copy.image, top, top, left, left, cv2.BORDER_CONSTANT, value=cv2.mean(copy.image)
    )
    return _Copy(wider, copy.scale_x, copy.scale_y, left * copy.scale_x, top * copy.scale_y)
