"""Makes the demo clip: a face and a voice of nobody, through the seven labels.

A face is the average of at least ``LEAST`` aligned FER+ training pictures of one label, so it shows no
person; the voice is espeak-ng's. Run from the project's root::

    python -m edgeemo_export.demo_clip --data ../shared/data --out edgeemo/demo/clip.mp4
"""

from __future__ import annotations

import argparse
import logging
import math
import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeemo.errors import EdgeEmoError, InputError, SourceError

from .data.ferplus import VOTES

Picture = NDArray[np.float32]
Points = NDArray[np.float64]

LEAST = 100  # an average over fewer pictures is refused: it might still show somebody
KEPT = 120  # pictures in an average ...
POOL = 180  # ... the most typical of this many, chosen by the votes

SHEET = 192  # side of the square on which faces are averaged, pixels
EYES = np.array([[0.345, 0.38], [0.655, 0.38]]) * SHEET

HOLD, MORPH = 2.0, 0.5  # seconds on one label, and between two
WIDTH, HEIGHT, FRAME_RATE = 480, 360, 15
ZOOM = 4 / 3  # from a sheet to the picture
SAMPLE_RATE = 22050  # espeak-ng's own


@dataclass(frozen=True, slots=True)
class Act:
    """What is said under one label, and how.

    Attributes:
        label: One of the seven labels.
        sentence: Neutral in meaning, so that only the prosody carries the label.
        speed: Words per minute.
        pitch: espeak-ng's pitch, 0 to 99.
        span: Pitch range, percent of the voice's own.
        amplitude: espeak-ng's amplitude, 0 to 200.
    """

    label: str
    sentence: str
    speed: int
    pitch: int
    span: int
    amplitude: int


# Directions of the prosody after Banse and Scherer (1996), "Acoustic profiles in vocal emotion expression",
# Journal of Personality and Social Psychology 70, 614-636. The order makes neighbours alike, for the morphs.
ACTS = (
    Act("neutral", "The bus stops at the corner by the bridge.", 175, 45, 90, 90),
    Act("happiness", "There are apples and pears in the kitchen.", 195, 65, 190, 120),
    Act("surprise", "The blue door was open again this morning?", 190, 78, 220, 115),
    Act("fear", "Somebody left a letter for the two of us under the window.", 235, 85, 70, 100),
    Act("sadness", "It rained again on Sunday.", 118, 28, 30, 45),
    Act("disgust", "This is the soup from Monday.", 128, 22, 110, 85),
    Act("anger", "I put the keys on the table, right there!", 225, 42, 160, 160),
)
DURATION = len(ACTS) * HOLD + (len(ACTS) - 1) * MORPH


@dataclass(frozen=True, slots=True)
class Candidate:
    """A picture that may enter an average.

    Attributes:
        picture: uint8 ``[48, 48]``.
        points: Right eye, left eye, nose, right and left corner of the mouth (as the person has them), pixels
            ``[5, 2]``.
    """

    picture: NDArray[np.uint8]
    points: Points


# Which pictures


def rank(votes: NDArray[np.uint8], label: str) -> NDArray[np.int64]:
    """Rows that the raters gave ``label``, the clearest first.

    Args:
        votes: ``[n, 10]``, FER+'s columns.
        label: One of the seven.

    Returns:
        Rows in which no other column has more votes, by the lead over the next one; ties keep the order.

    Example:
        >>> rank(np.array([[6, 4, 0], [1, 9, 0], [10, 0, 0]], dtype=np.uint8), "neutral").tolist()
        [2, 0]
    """
    own = VOTES.index(label)
    share = votes / np.maximum(votes.sum(axis=1, keepdims=True), 1)
    lead = share[:, own] - np.delete(share, own, axis=1).max(axis=1)
    order = np.argsort(-lead, kind="stable")
    return np.asarray(order[lead[order] >= 0], dtype=np.int64)


def landmarks(detector: cv2.FaceDetectorYN, picture: NDArray[np.uint8]) -> Points | None:
    """Five landmarks of the face in a 48x48 crop, in its pixels, or None where none is found.

    The crop is enlarged and gets a border: the detector knows larger faces, with something around them.
    """
    scale, border = 4, 64
    large = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    large = cv2.copyMakeBorder(large, border, border, border, border, cv2.BORDER_REPLICATE)
    detector.setInputSize((large.shape[1], large.shape[0]))
    found = detector.detect(cv2.cvtColor(large, cv2.COLOR_GRAY2BGR))[1]
    if found is None:
        return None
    points = np.asarray(found[0][4:14], dtype=np.float64).reshape(5, 2)
    return (points - border + 0.5) / scale - 0.5


def is_usable(points: Points, height: int = 48) -> bool:
    """Whether a face looks ahead and its crop reaches the chin.

    Nose and mouth are to lie in the middle between the eyes, within an eighth or so of the eyes' distance,
    and the crop is to go on below the mouth for 0.4 of the distance from eyes to mouth.

    Example:
        >>> is_usable(np.array([[15, 18], [33, 18], [24, 27], [17, 36], [31, 36.0]]))
        True
        >>> is_usable(np.array([[15, 18], [33, 18], [30, 27], [17, 36], [31, 36.0]]))
        False
    """
    across = points[1] - points[0]
    distance = float(np.hypot(*across))
    across = across / distance
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    turn = abs(float((points[2] - (eyes + mouth) / 2) @ across)) / distance
    lean = abs(float((mouth - eyes) @ across)) / distance
    below = float(height - 1 - mouth[1]) - 0.4 * float(mouth[1] - eyes[1])
    return turn <= 0.12 and lean <= 0.14 and below >= 0


def thumbnail(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A 12x12 vector of length one without its mean: the product of two is their correlation."""
    small = cv2.resize(picture, (12, 12), interpolation=cv2.INTER_AREA).astype(np.float64).ravel()
    small -= small.mean()
    return np.asarray(small / max(float(np.linalg.norm(small)), 1e-9))


def choose(
    images: NDArray[np.uint8], order: NDArray[np.int64], detector: cv2.FaceDetectorYN, most: int = POOL
) -> list[Candidate]:
    """The first ``most`` usable, distinct pictures with contrast along ``order``.

    The corpus holds some photographs several times; a repetition (correlation of the thumbnails above 0.97)
    is passed over, since it would let one person count twice.
    """
    chosen: list[Candidate] = []
    seen = np.empty((0, 144))
    for row in order:
        if len(chosen) == most:
            break
        picture = images[row]
        if picture[8:40, 8:40].std() < 25:
            continue
        mark = thumbnail(picture)
        if seen.size and float((seen @ mark).max()) > 0.97:
            continue
        points = landmarks(detector, picture)
        if points is not None and is_usable(points):
            chosen.append(Candidate(picture, points))
            seen = np.vstack([seen, mark])
    return chosen


# One face from many


def similarity(source: Points, target: Points) -> Points:
    """Least-squares rotation, scale and shift, ``[2, 3]``, from ``source`` to ``target`` (Umeyama 1991).

    Example:
        >>> similarity(np.array([[0, 0], [1, 0.0]]), np.array([[2, 3], [2, 5.0]])).round(6).tolist()
        [[0.0, -2.0, 2.0], [2.0, 0.0, 3.0]]
    """
    a = (source - source.mean(axis=0)) @ np.array([1, 1j])
    b = (target - target.mean(axis=0)) @ np.array([1, 1j])
    turn = (a.conj() @ b) / (a.conj() @ a).real
    matrix = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return np.column_stack([matrix, target.mean(axis=0) - matrix @ source.mean(axis=0)])


def affine(source: Points, target: Points) -> Points:
    """Least-squares affine map, ``[2, 3]``, that takes ``source`` to ``target``."""
    homogeneous = np.column_stack([source, np.ones(len(source))])
    return np.asarray(np.linalg.lstsq(homogeneous, target, rcond=None)[0].T)


def moved(points: Points, matrix: Points) -> Points:
    """Points ``[n, 2]`` under a ``[2, 3]`` map."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


def mean_shape(shapes: Sequence[Points]) -> Points:
    """Procrustes mean of landmark sets, placed so that its eyes are at ``EYES``."""
    mean = moved(shapes[0], similarity(shapes[0][:2], EYES))
    for _ in range(5):
        mean = np.mean([moved(shape, similarity(shape, mean)) for shape in shapes], axis=0)
        mean = moved(mean, similarity(mean[:2], EYES))
    return mean


def face_distance() -> Picture:
    """How far from the middle of a sheet each pixel is, 1 on the outline of the face, which is an egg."""
    y, x = np.mgrid[:SHEET, :SHEET].astype(np.float32) / SHEET
    lower = np.clip((y - 0.5) / 0.45, 0, 1)
    return np.asarray(np.hypot((x - 0.5) / (0.335 - 0.10 * lower**2), (y - 0.5) / 0.465), dtype=np.float32)


INSIDE = face_distance() < 0.9


def standardised(sheet: Picture) -> Picture:
    """The sheet with mean 0 and deviation 1 inside the face."""
    deviation = max(float(sheet[INSIDE].std()), 1e-6)
    return np.asarray((sheet - sheet[INSIDE].mean()) / deviation, dtype=np.float32)


def as_bytes(sheet: Picture) -> NDArray[np.uint8]:
    """A standardised sheet as the optical flow wants it."""
    return np.clip(128 + 50 * sheet, 0, 255).astype(np.uint8)


def blurred(picture: Picture, sigma: float) -> Picture:
    """Gaussian blur; ``sigma`` in pixels."""
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), dtype=np.float32)


def flow(target: Picture, source: Picture, smooth: float) -> Picture:
    """Offsets ``[h, w, 2]`` from pixels of ``target`` to their places in ``source``: dense inverse search."""
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    offsets = search.calc(as_bytes(target), as_bytes(source), np.zeros((*target.shape, 2), np.float32))
    return blurred(np.asarray(offsets, dtype=np.float32), smooth)


def warped(sheet: Picture, offsets: Picture) -> Picture:
    """The sheet read at each pixel plus its offset."""
    y, x = np.mgrid[: sheet.shape[0], : sheet.shape[1]].astype(np.float32)
    read = cv2.remap(
        sheet, x + offsets[..., 0], y + offsets[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(read, dtype=np.float32)


def limited(offsets: Picture, reach: float) -> Picture:
    """The offsets, none of them longer than ``reach`` pixels."""
    length = np.linalg.norm(offsets, axis=-1, keepdims=True)
    return np.asarray(offsets * np.minimum(1.0, reach / np.maximum(length, 1e-6)), dtype=np.float32)


def extended(picture: NDArray[np.uint8], border: int = 16) -> Picture:
    """The picture with a border that is its edge, blurred: a plain repetition draws streaks below a face."""
    wide = cv2.copyMakeBorder(picture, border, border, border, border, cv2.BORDER_REPLICATE)
    result = blurred(wide.astype(np.float32), 5.0)
    result[border:-border, border:-border] = picture
    return result


def aligned(candidates: Sequence[Candidate]) -> list[Picture]:
    """Every candidate and its mirror image on a sheet, its landmarks moved to their mean by an affine map."""
    pictures, shapes = [], []
    for candidate in candidates:
        pictures += [candidate.picture, np.ascontiguousarray(candidate.picture[:, ::-1])]
        mirrored = (candidate.points * [-1, 1] + [candidate.picture.shape[1] - 1, 0])[[1, 0, 2, 4, 3]]
        shapes += [candidate.points, mirrored]
    mean = mean_shape(shapes)
    sheets, border = [], 16
    for picture, shape in zip(pictures, shapes, strict=True):
        wide, matrix = extended(picture, border), affine(shape + border, mean)
        sheet = cv2.warpAffine(
            wide, matrix, (SHEET, SHEET), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        sheets.append(standardised(np.asarray(sheet, dtype=np.float32)))
    return sheets


def unfolded(sheets: Sequence[Picture], rounds: int = 3, reach: float = 8.0) -> list[Picture]:
    """The sheets warped onto one another, so that their mean is sharp.

    Each round measures the flow from the mean to every sheet and takes the mean flow off, which leaves the
    shape of the face what it is on average; ``reach`` limits a displacement, in pixels.
    """
    mean = np.mean(sheets, axis=0)
    result = list(sheets)
    for _ in range(rounds):
        offsets = np.stack([flow(standardised(mean), sheet, smooth=4.5) for sheet in sheets])
        offsets -= offsets.mean(axis=0)
        offsets = limited(offsets, reach)
        result = [warped(sheet, offset) for sheet, offset in zip(sheets, offsets, strict=True)]
        mean = np.mean(result, axis=0)
    return result


def average(candidates: Sequence[Candidate], kept: int = KEPT) -> tuple[Picture, int]:
    """The face that many pictures have in common.

    Args:
        candidates: Pictures of one label.
        kept: How many enter, each with the same weight: those nearest to the mean of all, by correlation in
            the lower half of the face, so that open and closed mouths do not blur one another.

    Returns:
        The standardised sheet, float32 ``[SHEET, SHEET]``, and how many different pictures are in it.

    Raises:
        InputError: Fewer than ``LEAST`` pictures would enter.
    """
    count = min(kept, len(candidates))
    if count < LEAST:
        raise InputError(f"an average of {count} pictures might still show somebody: give at least {LEAST}")
    sheets = unfolded(aligned(candidates))
    mean = standardised(np.mean(sheets, axis=0))
    lower = INSIDE & (np.arange(SHEET)[:, None] > SHEET // 2)
    likeness = [float(np.corrcoef(sheet[lower], mean[lower])[0, 1]) for sheet in sheets]
    # A picture and its mirror image lie side by side and enter together.
    nearest = np.argsort(-(np.array(likeness[::2]) + np.array(likeness[1::2])), kind="stable")[:count]
    return standardised(np.mean([sheets[2 * i + side] for i in nearest for side in (0, 1)], axis=0)), count


def average_faces(data: Path) -> tuple[dict[str, Picture], dict[str, int]]:
    """The seven averages of ``data/ferplus/train.npz``, and the number of pictures in each."""
    corpus, model = data / "ferplus" / "train.npz", data / "models" / "face_detection_yunet_2023mar.onnx"
    for path in (corpus, model):
        if not path.is_file():
            raise SourceError(f"{path}: no such file; --data is the folder that holds ferplus/ and models/")
    with np.load(corpus, allow_pickle=False) as file:
        images, votes = file["images"], file["votes"]
    detector = cv2.FaceDetectorYN.create(str(model), "", (320, 320), 0.7)
    faces, counts = {}, {}
    for act in ACTS:
        candidates = choose(images, rank(votes, act.label), detector)
        faces[act.label], counts[act.label] = average(candidates)
    return faces, counts


# The pictures


def position(time: float) -> tuple[int, int, float]:
    """Which faces are seen at ``time`` seconds: one act's index, the next one's, and its share, 0 to 1.

    Example:
        >>> position(0.0), position(HOLD + MORPH / 2), position(DURATION)
        ((0, 0, 0.0), (0, 1, 0.5), (6, 6, 0.0))
    """
    index = min(int(time / (HOLD + MORPH)), len(ACTS) - 1)
    passed = time - index * (HOLD + MORPH)
    if passed <= HOLD or index == len(ACTS) - 1:
        return index, index, 0.0
    share = min((passed - HOLD) / MORPH, 1.0)
    return index, index + 1, share * share * (3 - 2 * share)


def toned(face: Picture) -> Picture:
    """A standardised face as grey values: sharpened, and of one brightness and contrast for all labels."""
    sharp = standardised(face + 0.8 * (face - blurred(face, 3.0)))
    return np.asarray(np.clip(150 + 38 * sharp, 12, 238), dtype=np.float32)


def morph_flow(target: Picture, source: Picture) -> Picture:
    """The flow between two labels' faces, which are symmetric.

    It is short and smooth: a closed mouth holds nothing that an open one could be made of, and a long way
    would draw what lies next to it over the chin.
    """
    offsets = flow(target, source, smooth=10.0)
    mirrored = offsets[:, ::-1] * np.array([-1, 1], np.float32)
    symmetric = np.asarray((offsets + mirrored) / 2, dtype=np.float32)
    return blurred(limited(symmetric, 5.0), 4.0)


class Morph:
    """From one face to the next: both are warped to where they meet, and cross-dissolved."""

    def __init__(self, first: Picture, second: Picture) -> None:
        self._faces = toned(first), toned(second)
        self._to_second = morph_flow(first, second)
        self._to_first = morph_flow(second, first)

    def at(self, share: float) -> Picture:
        """The face at ``share`` of the way, 0 the first and 1 the second; float32 grey ``[SHEET, SHEET]``."""
        first, second = self._faces
        return np.asarray(
            (1 - share) * warped(first, share * self._to_first)
            + share * warped(second, (1 - share) * self._to_second),
            dtype=np.float32,
        )


def skin(grey: NDArray[Any]) -> NDArray[Any]:
    """Tones of skin in BGR, 0 to 255, for grey values of 0 to 1; they are about as light as the grey."""
    return 255 * np.stack([grey**1.28, grey**1.08, grey**0.82], axis=-1)


class Scene:
    """A person before a plain wall: the face is given, and hair, neck and clothes are drawn."""

    MARGIN = 60  # drawn beyond the picture, so that a movement uncovers nothing

    def __init__(self) -> None:
        y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
        light = 208 - 38 * y / HEIGHT - 32 * np.hypot(x / WIDTH - 0.4, y / HEIGHT - 0.3)
        self._wall = np.stack([light, 0.97 * light, 0.92 * light], axis=-1)
        self._mask = blurred((face_distance() < 0.94).astype(np.float32), 3.5)
        self._body, self._alpha = self._drawn()

    def _drawn(self) -> tuple[Picture, Picture]:
        """Hair, neck and clothes in BGR ``[h, w, 3]``, premultiplied, and how much they cover ``[h, w]``."""
        size = HEIGHT + 2 * self.MARGIN, WIDTH + 2 * self.MARGIN
        body, alpha = np.zeros((*size, 3), np.float32), np.zeros(size, np.float32)
        x, y = size[1] // 2, size[0] // 2 + 6
        # The neck is in the shadow of the chin: as light as the face, it looks to the cascade like a second
        # face.
        hair, neck_skin, cloth = np.array([36, 43, 54]), skin(np.array(0.36)), np.array([104, 84, 66])
        neck = np.array([[-46, 60], [46, 60], [54, 220], [-54, 220]], dtype=np.int32)
        parts: list[tuple[Any, NDArray[Any], float]] = [
            (cv2.ellipse2Poly((x, y - 36), (91, 116), 0, 0, 360, 2), hair, 3.0),
            (neck + np.array([x, y], dtype=np.int32), neck_skin, 4.0),
            (cv2.ellipse2Poly((x, y + 250), (215, 105), 0, 0, 360, 2), cloth, 2.5),
            (cv2.ellipse2Poly((x, y + 146), (48, 24), 0, 0, 360, 2), neck_skin, 3.0),
        ]
        for outline, colour, softness in parts:
            drawn = np.zeros(size, np.float32)
            cv2.fillPoly(drawn, [outline], 1.0)
            drawn = blurred(drawn, softness)
            body = (body * (1 - drawn[..., None]) + drawn[..., None] * colour).astype(np.float32)
            alpha = alpha * (1 - drawn) + drawn
        return body, alpha

    def draw(self, face: Picture, time: float) -> NDArray[np.uint8]:
        """The camera's picture at ``time`` seconds, BGR ``[HEIGHT, WIDTH, 3]``."""
        height, width = self._alpha.shape
        left, top = (width - ZOOM * SHEET) / 2, height / 2 + 6 - 0.53 * ZOOM * SHEET
        place = np.array([[ZOOM, 0, left], [0, ZOOM, top]])
        grey = np.clip(cv2.warpAffine(face, place, (width, height), flags=cv2.INTER_CUBIC) / 255, 0, 1)
        mask = cv2.warpAffine(self._mask, place, (width, height))[..., None]
        person = self._body * (1 - mask) + skin(grey) * mask
        alpha = self._alpha[..., None] * (1 - mask) + mask
        layers = np.concatenate([person, alpha], axis=-1).astype(np.float32)
        seen = cv2.warpAffine(layers, self._motion(time), (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
        picture = self._wall * (1 - seen[..., 3:]) + seen[..., :3]
        return np.asarray(np.clip(picture + 0.5, 0, 255).astype(np.uint8))

    def _motion(self, time: float) -> Points:
        """A slow drift of the person, as somebody who stands still makes it."""
        height, width = self._alpha.shape
        roll = 2.4 * math.sin(2 * math.pi * time / 6.1)
        scale = 1.0 + 0.03 * math.sin(2 * math.pi * time / 8.7 + 1)
        turned = cv2.getRotationMatrix2D((width / 2, height / 2 + 120), roll, scale)
        matrix = np.asarray(turned, dtype=np.float64)
        matrix[0, 2] += 9 * math.sin(2 * math.pi * time / 7.3 + 0.4) - self.MARGIN
        matrix[1, 2] += 4 * math.sin(2 * math.pi * time / 4.9) - self.MARGIN
        return matrix


def frames(faces: Mapping[str, Picture]) -> Iterator[NDArray[np.uint8]]:
    """Every picture of the clip in order, BGR uint8 ``[HEIGHT, WIDTH, 3]``.

    Args:
        faces: A standardised sheet per label.
    """
    labels = [act.label for act in ACTS]
    morphs = [Morph(faces[a], faces[b]) for a, b in pairwise(labels)]
    scene = Scene()
    for number in range(round(DURATION * FRAME_RATE)):
        time = number / FRAME_RATE
        first, second, share = position(time)
        face = toned(faces[labels[first]]) if first == second else morphs[first].at(share)
        yield scene.draw(face, time)


# The voice


def speak(act: Act, espeak: str = "espeak-ng") -> Picture:
    """One sentence as espeak-ng says it.

    Args:
        act: Sentence and prosody.
        espeak: The program, a name on the path or a path.

    Returns:
        float32 mono at ``SAMPLE_RATE``, in [-1, 1], without the silence at the end.

    Raises:
        SourceError: The program is missing or fails, or speaks at another rate.
    """
    text = f"<speak><prosody range='{act.span}%'>{escape(act.sentence)}</prosody></speak>"
    prosody = ["-s", str(act.speed), "-p", str(act.pitch), "-a", str(act.amplitude)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "voice.wav"
        try:
            command = [espeak, "-v", "en-us+f3", "-m", *prosody, "-w", str(path), text]
            subprocess.run(command, check=True, capture_output=True)
        except OSError as error:
            raise SourceError(
                f"{espeak}: cannot be started ({error.strerror}); install espeak-ng (Debian and Ubuntu: "
                "apt-get install espeak-ng, macOS: brew install espeak-ng) or name it with --espeak"
            ) from error
        except subprocess.CalledProcessError as error:
            raise SourceError(f"{espeak}: failed: {error.stderr.decode(errors='replace').strip()}") from error
        with wave.open(str(path)) as file:
            rate, data = file.getframerate(), file.readframes(file.getnframes())
    if rate != SAMPLE_RATE:
        raise SourceError(f"{espeak}: speaks at {rate} Hz, where its own voices have {SAMPLE_RATE} Hz")
    samples = np.frombuffer(data, dtype="<i2").astype(np.float32) / np.float32(32768)
    loud = np.flatnonzero(np.abs(samples) > 0.003)
    return samples[: loud[-1] + 1 if loud.size else 0]


def soundtrack(espeak: str = "espeak-ng", peak: float = 0.8) -> Picture:
    """All sentences on the clip's time line, float32 mono; the loudest sample is ``peak``.

    Raises:
        InputError: A sentence is longer than its place.
        SourceError: As in ``speak``.
    """
    track = np.zeros(round(DURATION * SAMPLE_RATE), np.float32)
    for index, act in enumerate(ACTS):
        voice = speak(act, espeak)
        start = round((index * (HOLD + MORPH) + 0.05) * SAMPLE_RATE)
        end = min(round((index + 1) * (HOLD + MORPH) * SAMPLE_RATE), len(track))
        if len(voice) > end - start:
            raise InputError(
                f"the sentence for {act.label} takes {len(voice) / SAMPLE_RATE:.2f} s, where there are "
                f"{(end - start) / SAMPLE_RATE:.2f} s: shorten it or speak faster"
            )
        track[start : start + len(voice)] = voice
    return np.asarray(track * (peak / max(float(np.abs(track).max()), 1e-6)), dtype=np.float32)


# The file


def write(path: Path, pictures: Iterator[NDArray[np.uint8]], sound: Picture) -> None:
    """Write an MP4 with H.264 and AAC, without dates and versions and with one thread, so that it repeats."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    container = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(path), "w", format="mp4", options=container) as out:
        coding = {"crf": "23", "preset": "veryslow", "threads": "1"}
        video: Any = out.add_stream("libx264", rate=FRAME_RATE, options=coding)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio: Any = out.add_stream("aac", rate=SAMPLE_RATE, layout="mono", options={"flags": "+bitexact"})
        audio.bit_rate = 48000
        for picture in pictures:
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        out.mux(video.encode())
        for start in range(0, len(sound), 1024):
            block = sound[None, start : start + 1024]
            piece = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            piece.sample_rate, piece.pts = SAMPLE_RATE, start
            out.mux(audio.encode(piece))
        out.mux(audio.encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the clip; the exit status is 0, or 2 for a wrong input."""
    parser = argparse.ArgumentParser(
        prog="python -m edgeemo_export.demo_clip", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with ferplus/train.npz and models/")
    parser.add_argument("--out", type=Path, required=True, help="the MP4 to write")
    parser.add_argument("--espeak", default="espeak-ng", help="the espeak-ng program (default: %(default)s)")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    try:
        sound = soundtrack(options.espeak)
        faces, counts = average_faces(options.data)
        write(options.out, frames(faces), sound)
    except EdgeEmoError as error:
        logging.getLogger("edgeemo").error("%s", error)
        return 2
    size = options.out.stat().st_size
    print(f"{options.out}: {DURATION:.1f} s, {size} bytes; pictures in each average: {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
