"""One update of each contender on the same clip: what is made ready for its graphs, and their calls.

No contender's update holds face detection, which all of them need alike and which `detection` measures; the
live step of edgeemo does hold it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgeemo
from edgeemo.capture.source import Frame, Sound, open_source
from edgeemo.errors import InputError
from edgeemo.inference.choice import example
from edgeemo.inference.ort import import_onnxruntime
from edgeemo.preprocess.detector import open_finder
from edgeemo.preprocess.face import Face, FaceGeometry, Picture
from edgeemo.preprocess.voice import Resampler
from edgeemo.recognition.recognizer import Recognizer
from edgeemo.recognition.stream import Stream

from .catalogue import PEERS, SAMPLE_RATE

Floats = NDArray[np.float32]

OURS = {"edgeemo-int8": "int8", "edgeemo-fp32": "fp32"}
"""Updates of edgeemo by the precision of its graphs."""

LIVE, DETECTION = "edgeemo-live", "detection"
ALL = (*OURS, LIVE, *PEERS, DETECTION)

_LONGEST = 10.0  # seconds of a source that are held in memory
_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_IMAGENET_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


# --- the clip


@dataclass(frozen=True, slots=True)
class Scene:
    """What every contender is given.

    Attributes:
        events: pictures and sound of the source with their times, decoded.
        seconds: how long they last.
        picture: one of them with a face, BGR uint8.
        face: that face.
        finder: the name of what found it.
        voice: 10 seconds of the sound at 16 kHz; a shorter one is repeated.
    """

    events: Sequence[Frame | Sound]
    seconds: float
    picture: Picture
    face: Face
    finder: str
    voice: Floats


def scene(path: Path, longest: float = _LONGEST) -> Scene:
    """Decode a source.

    Args:
        path: a video with a face and a voice.
        longest: seconds that are read of it.

    Raises:
        SourceError: it cannot be read.
        InputError: there is no face or no sound in it.
    """
    with closing(open_source(path)) as source:
        read = itertools.takewhile(lambda event: event.time < longest, source)
        events = [_decoded(event) for event in read]
    sounds = [event for event in events if isinstance(event, Sound)]
    frames = [event for event in events if isinstance(event, Frame)]
    finder = open_finder(None)
    found = ((frame.image(), faces) for frame in frames if (faces := finder.find(frame.image())))
    picture, faces = next(found, (None, []))
    if picture is None or not sounds:
        raise InputError(f"{path}: it must show a face and have sound, for what is compared reads both")
    resampler = Resampler(sounds[0].sample_rate, SAMPLE_RATE)
    voice = np.concatenate([resampler.push(sound.samples) for sound in sounds])
    seconds = max(sound.time + sound.samples.size / sound.sample_rate for sound in sounds)
    return Scene(
        events, seconds, picture, faces[0], finder.name, np.resize(voice, int(_LONGEST * SAMPLE_RATE))
    )


def _decoded(event: Frame | Sound) -> Frame | Sound:
    if isinstance(event, Sound):
        return event
    image = event.image()
    return replace(event, image=lambda: image)


# --- contenders


@dataclass(frozen=True, slots=True)
class Contender:
    """One that is measured.

    Attributes:
        name: one of `ALL`.
        prepare: makes what `run` takes, from the scene.
        run: the graph calls, or what else there is to do.
        updates: how many updates one `run` makes.
    """

    name: str
    prepare: Callable[[], Any]
    run: Callable[[Any], object]
    updates: int = 1


def contender(name: str, given: Scene, cache: Path, threads: int, bundle: Path | None = None) -> Contender:
    """Open one.

    Args:
        name: one of `ALL`.
        given: what it is to look at and to listen to.
        cache: where `build` wrote the peers.
        threads: of one graph call.
        bundle: folder of edgeemo's bundle; None for the one in the package.

    Raises:
        EdgeEmoError: a graph or the detector cannot be used.
    """
    if name in PEERS:
        return _peer(name, given, cache, threads)
    if name == DETECTION:
        finder = open_finder(None)
        return Contender(name, lambda: given.picture, finder.find)
    if name == LIVE:
        player = Player(edgeemo.load(bundle, threads=threads), given)
        hops = round(1.0 / player.hop)
        return Contender(name, lambda: hops, player.play, hops)
    return _ours(name, given, threads, bundle)


def _ours(name: str, given: Scene, threads: int, bundle: Path | None) -> Contender:
    """The graph calls of one hop with one face; tokens and masks of the fusion are random numbers."""
    model = edgeemo.load(bundle, precision=OURS[name], threads=threads)
    described = model.bundle.face
    assert described is not None and model.bundle.voice is not None
    geometry = FaceGeometry(
        {"size": described.size, "channels": described.channels, "geometry": described.geometry}
    )
    context = model.bundle.voice.context
    square = geometry.square(given.face, given.finder)
    fusion = example(model.graphs["fusion"].spec)

    def prepare() -> tuple[Picture, Floats]:
        return geometry.cut(given.picture, square)[None], given.voice[None, -context:].copy()

    def run(made: tuple[Picture, Floats]) -> object:
        model.graphs["face"].run({"face": made[0]})
        model.graphs["voice"].run({"voice": made[1]})
        return model.graphs["fusion"].run(fusion)

    return Contender(name, prepare, run)


def _peer(name: str, given: Scene, cache: Path, threads: int) -> Contender:
    """A peer in ONNX Runtime as its users open it: the defaults, but for the threads."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(cache / f"{name}.onnx"), options, providers=["CPUExecutionProvider"]
    )
    peer = PEERS[name]
    readers: Mapping[str, Callable[[], Floats]] = {
        "efficientnet-b0": lambda: _colour(given, peer.shape[-1], _IMAGENET_MEAN, _IMAGENET_DEVIATION),
        "mobilefacenet": lambda: _colour(given, peer.shape[-1], np.float32(0.5), np.float32(0.5)),
        "mini-xception": lambda: _grey(given, peer.shape[-1]),
        "wav2vec2": lambda: standardised(given.voice[-peer.shape[-1] :]),
        "wav2small-like": lambda: given.voice[None, -peer.shape[-1] :].copy(),
    }
    return Contender(name, readers[name], lambda made: session.run(None, {"input": made}))


def _colour(given: Scene, side: int, mean: Any, deviation: Any) -> Floats:
    """The face as [1, 3, side, side] RGB, resized and normalised."""
    import cv2

    crop = cv2.cvtColor(cv2.resize(_cropped(given), (side, side)), cv2.COLOR_BGR2RGB)
    pixels = (crop.astype(np.float32) / 255.0 - mean) / deviation
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)


def _grey(given: Scene, side: int) -> Floats:
    """The face as [1, 1, side, side] in [-1, 1], as `face_classification` does it."""
    import cv2

    crop = cv2.resize(cv2.cvtColor(_cropped(given), cv2.COLOR_BGR2GRAY), (side, side))
    pixels: Floats = (crop.astype(np.float32) / 255.0 - 0.5) * 2.0
    return pixels[None, None]


def _cropped(given: Scene) -> Picture:
    x, y, width, height = (max(0, round(value)) for value in given.face.box)
    return given.picture[y : y + height, x : x + width]


def standardised(voice: Floats) -> Floats:
    """A window [1, samples] of zero mean and unit variance, as wav2vec 2.0's feature extractor makes it.

    Example:
        >>> standardised(np.array([0.0, 2.0], np.float32)).round(3).tolist()
        [[-1.0, 1.0]]
    """
    window: Floats = (voice - voice.mean()) / np.sqrt(voice.var() + 1e-7)
    return window[None]


# --- the live step


class Player:
    """A stream of edgeemo that is given a scene again and again, as whoever owns the loop does it.

    Args:
        model: opened.
        given: the scene.
        modalities: which of the model's are used.
        hop: seconds between two answers; None for the bundle's.
    """

    def __init__(
        self,
        model: Recognizer,
        given: Scene,
        modalities: Sequence[str] = ("face", "voice"),
        hop: float | None = None,
    ) -> None:
        self.hop = model.bundle.hop if hop is None else hop
        self._stream = Stream(model, modalities, self.hop, lateness=None)
        self._events = _repeated(given, self.hop)
        self._wanted = self._answered = 0

    def play(self, hops: int) -> int:
        """Push what comes next until so many more hops were answered; returns how many were, altogether."""
        stream = self._stream
        self._wanted += hops
        for event in self._events:
            if isinstance(event, Sound):
                stream.push_audio(event.samples, event.sample_rate, event.time)
            elif "face" in stream.modalities:
                stream.push_frame(event.image, event.time)
            for modality in stream.modalities:
                stream.advance(modality, event.time)
            self._answered += len({emotion.time for emotion in stream.poll()})
            if self._answered >= self._wanted:
                break
        return self._answered


def _repeated(given: Scene, hop: float) -> Iterator[Frame | Sound]:
    """The events for ever; every round begins on a hop, so that all are cut alike."""
    length = np.ceil(given.seconds / hop) * hop
    for turn in itertools.count():
        for event in given.events:
            yield replace(event, time=event.time + float(turn * length))
