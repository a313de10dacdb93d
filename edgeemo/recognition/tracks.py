"""Which face is which, from one picture to the next, and where each is while no detector runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeemo.preprocess.detector import FaceFinder, WholePicture
from edgeemo.preprocess.face import Face, FaceGeometry, Picture, Square, as_picture

_SMALL = 160
"""Longer side of the grey copy in which faces are followed."""

_PATCH = 24
"""Side of a face in its template; it is looked for up to half a face away from where it is expected."""

_WEAK = 0.6
"""Normalised correlation below which a template is not the face any more: in recordings of speech a face
stays above 0.82 over 0.4 s in 99 of 100 cases, and 90 of 100 pairs of FER+ pictures stay below 0.57."""

_CUT = 24.0
"""Grey levels by which an average place of the picture differs, beside its mean, after a change of scene."""

_MOVED = 1.5
"""The same for something that moved; the noise of a camera stays below a half."""

_PATIENCE = 5
"""Hops for which a lost face keeps its id."""


@dataclass(frozen=True, slots=True)
class Track:
    """One face over time, as of the last picture.

    Attributes:
        id: stays while the face is followed; counts from 1 and is not used again.
        square: what to cut out of the picture.
        box: the face as left, top, width and height in whole pixels inside the picture.
        age: pictures since the face was first found.
        lost: pictures since the face was last seen, 0 when it is in this one; a lost one's square is guessed.
    """

    id: int
    square: Square
    box: tuple[int, int, int, int]
    age: int
    lost: int


@dataclass(slots=True)
class _Target:
    """A track's own state; places and sizes are those of the camera picture."""

    id: int
    face: Face
    square: Square
    template: NDArray[np.uint8]
    age: int = 0
    lost: int = 0
    unconfirmed: int = 0  # pictures since a detector saw it
    speed: tuple[float, float] = (0.0, 0.0)  # pixels per picture

    def move(self, dx: float, dy: float) -> None:
        x, y, width, height = self.face.box
        self.face = replace(self.face, box=(x + dx, y + dy, width, height))
        self.square = replace(self.square, x=self.square.x + dx, y=self.square.y + dy)


class Tracks:
    """Follows faces: a detector now and then, a small template in between.

    At most one detection is made per picture: every `detect_every` pictures, and at once when a face is lost,
    the scene changes, or something moves while nobody is in view. The same pictures give the same tracks.

    Args:
        finder: the detector; with :class:`WholePicture` every picture is one track that never ends.
        geometry: from what it finds to the crop.
        detect_every: pictures from one detection to the next while every face is followed.
        most: how many faces are followed; the largest are taken first, and those in view stay.
    """

    def __init__(
        self, finder: FaceFinder, geometry: FaceGeometry, *, detect_every: int = 5, most: int = 16
    ) -> None:
        self._finder = finder
        self._geometry = geometry
        self._detect_every = detect_every
        self._most = most
        self.reset()

    def reset(self) -> None:
        """Forget every face; ids count from 1 again."""
        self.forget()
        self._next_id = 1
        self._since = 0  # pictures since the last detection
        self._shape: tuple[int, int] = (0, 0)

    def forget(self) -> None:
        """Lose every face at once, as after a time without pictures; ids go on."""
        self._targets: list[_Target] = []
        self._scene: NDArray[np.float32] | None = None  # what the last detection saw

    def update(self, image: Picture) -> list[Track]:
        """Take the next picture and return the faces, oldest first, with those that were lost a moment ago.

        Args:
            image: a picture as :func:`edgeemo.preprocess.face.as_picture` takes it.

        Raises:
            InputError: it is not a picture; nothing has changed then.
        """
        picture = as_picture(image)
        if isinstance(self._finder, WholePicture):
            return [self._whole(picture)]
        if picture.shape[:2] != self._shape:
            self._shape = (picture.shape[0], picture.shape[1])
            self.forget()
        grey = _small(picture)
        scene = _scene(grey)
        change = math.inf if self._scene is None else float(np.abs(scene - self._scene).mean())
        scale = max(self._shape) / max(grey.shape)
        self._since += 1
        for target in self._targets:
            target.age += 1
            target.unconfirmed += 1
            _follow(target, grey, scale)
        if self._must_detect(change):
            self._detect(picture, grey, scale, cut=change > _CUT)
            self._since, self._scene = 0, scene
        patience = 2 * self._detect_every
        self._targets = [t for t in self._targets if t.lost <= _PATIENCE and t.unconfirmed <= patience]
        return [self._track(target) for target in self._targets]

    def _must_detect(self, change: float) -> bool:
        if self._since >= self._detect_every or change > _CUT:
            return True
        if not self._targets:
            return change > _MOVED
        return any(target.lost for target in self._targets)

    def _detect(self, picture: Picture, grey: Picture, scale: float, *, cut: bool) -> None:
        """Find the faces anew: confirm those that are there, lose those that another covers, add new ones."""
        found = []
        for face in self._finder.find(picture)[: self._most]:
            square = self._geometry.square(face, self._finder.name)
            found.append((face, square, _patch(grey, square, scale, _PATCH)))
        # After a cut another face may be in the place of one that was there.
        pairs = _pairs(self._targets, found, least=_WEAK if cut else -1.0)
        for i, j in pairs.items():
            _confirm(self._targets[i], *found[j][:2])
            self._targets[i].template = _patch(grey, self._targets[i].square, scale, _PATCH)
        confirmed = [self._targets[i] for i in pairs]
        for i, target in enumerate(self._targets):
            if i not in pairs and not target.lost and any(_covers(other, target) for other in confirmed):
                target.lost = 1
        if cut:
            self._targets = [t for i, t in enumerate(self._targets) if i in pairs or not t.lost]
        for j, (face, square, patch) in enumerate(found):
            if j not in pairs.values() and self._has_room():
                self._targets.append(_Target(self._next_id, face, square, patch))
                self._next_id += 1

    def _has_room(self) -> bool:
        """Return whether a face can be added; a full list gives up the face that is lost for longest."""
        if len(self._targets) >= self._most:
            longest = max(self._targets, key=lambda target: target.lost)
            if not longest.lost:
                return False
            self._targets.remove(longest)
        return True

    def _track(self, target: _Target) -> Track:
        height, width = self._shape
        x, y, w, h = target.face.box
        left, right = (min(max(round(value), 0), width) for value in (x, x + w))
        top, bottom = (min(max(round(value), 0), height) for value in (y, y + h))
        box = (left, top, right - left, bottom - top)
        return Track(target.id, target.square, box, target.age, target.lost)

    def _whole(self, picture: Picture) -> Track:
        face = self._finder.find(picture)[0]
        self._since += 1
        height, width = picture.shape[:2]
        square = self._geometry.square(face, self._finder.name)
        return Track(1, square, (0, 0, width, height), self._since - 1, 0)


def _small(picture: Picture) -> Picture:
    """Return a grey copy with a longer side of at most _SMALL."""
    import cv2

    height, width = picture.shape[:2]
    scale = min(1.0, _SMALL / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Grey first: averaging areas of three channels takes twice as long.
    grey: Any = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    # OpenCV is fast where it averages two by two: 640 x 480 takes less than a quarter of the time.
    while grey.shape[0] >= 2 * size[1] and grey.shape[1] >= 2 * size[0] and _is_even(grey.shape):
        grey = cv2.resize(grey, (grey.shape[1] // 2, grey.shape[0] // 2), interpolation=cv2.INTER_AREA)
    small: Picture = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return small


def _is_even(shape: tuple[int, ...]) -> bool:
    return shape[0] % 2 == shape[1] % 2 == 0


def _scene(grey: Picture) -> NDArray[np.float32]:
    """Return a few coarse grey levels, less their mean, which is what exposure changes."""
    import cv2

    coarse: NDArray[np.float32] = np.array(
        cv2.resize(grey, (16, 12), interpolation=cv2.INTER_AREA), np.float32
    )
    coarse -= coarse.mean()
    return coarse


def _patch(grey: Picture, square: Square, scale: float, size: int) -> NDArray[np.uint8]:
    """Return size x size grey levels around a square's centre, of which it takes up _PATCH, not turned."""
    import cv2

    step = square.side / scale / _PATCH
    middle = (size - 1) / 2
    at = np.array(
        [
            [step, 0.0, square.x / scale - 0.5 - middle * step],
            [0.0, step, square.y / scale - 0.5 - middle * step],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(grey, at, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[return-value]


def _follow(target: _Target, grey: Picture, scale: float) -> None:
    """Move a target to where its template fits best, or on at its speed when it fits nowhere."""
    import cv2

    was = target.square
    target.move(*target.speed)
    # A face that was lost is found again by a detector alone.
    if target.lost or cv2.meanStdDev(target.template)[1].item() < 1.0:
        target.lost += 1
        return
    around = _patch(grey, target.square, scale, 2 * _PATCH)
    fit = np.asarray(cv2.matchTemplate(around, target.template, cv2.TM_CCOEFF_NORMED), np.float32)
    _, best, _, (column, row) = cv2.minMaxLoc(fit)
    if best < _WEAK:
        target.lost = 1
        return
    step = target.square.side / _PATCH
    target.move(
        (column + _summit(fit[row], column) - _PATCH / 2) * step,
        (row + _summit(fit[:, column], row) - _PATCH / 2) * step,
    )
    moved = target.square.x - was.x, target.square.y - was.y
    target.speed = ((target.speed[0] + moved[0]) / 2, (target.speed[1] + moved[1]) / 2)


def _summit(values: NDArray[np.float32], index: int) -> float:
    """Return how far the summit of the parabola through a maximum and its neighbours is from the maximum."""
    if not 0 < index < len(values) - 1:
        return 0.0
    before, best, after = (float(value) for value in values[index - 1 : index + 2])
    bend = before - 2 * best + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0


def _pairs(
    targets: list[_Target], found: list[tuple[Face, Square, NDArray[np.uint8]]], least: float
) -> dict[int, int]:
    """Return which target is which found face: nearest and most alike first, none less alike than `least`."""
    costs = []
    for i, target in enumerate(targets):
        # The guess of where a lost face is gets worse.
        reach = 0.7 + 0.1 * target.lost
        for j, (_, square, patch) in enumerate(found):
            far = math.hypot(square.x - target.square.x, square.y - target.square.y) / target.square.side
            grown = abs(math.log(square.side / target.square.side))
            if far < reach and grown < 0.7:
                alike = _correlation(target.template, patch)
                if alike >= least:
                    costs.append((far + grown + 0.5 * (1.0 - alike), i, j))
    pairs: dict[int, int] = {}
    for _, i, j in sorted(costs):
        if i not in pairs and j not in pairs.values():
            pairs[i] = j
    return pairs


def _correlation(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Return the normalised correlation of two patches, 0 where one is flat."""
    a, b = first - first.mean(), second - second.mean()
    norm = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / norm if norm else 0.0


def _confirm(target: _Target, face: Face, square: Square) -> None:
    """Take over what a detector saw; a small difference is its jitter and is halved."""
    far = math.hypot(square.x - target.square.x, square.y - target.square.y) / target.square.side
    grown = abs(math.log(square.side / target.square.side))
    if not target.lost and far < 0.1 and grown < 0.1:
        old = target.square
        square = Square(
            (old.x + square.x) / 2,
            (old.y + square.y) / 2,
            (old.side + square.side) / 2,
            (old.angle + square.angle) / 2,
        )
    target.face, target.square = face, square
    target.lost = target.unconfirmed = 0


def _covers(one: _Target, other: _Target) -> bool:
    """Return whether two targets lie on one face."""
    apart = math.hypot(one.square.x - other.square.x, one.square.y - other.square.y)
    return apart < 0.4 * max(one.square.side, other.square.side)
