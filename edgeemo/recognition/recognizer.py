"""What does a picture, a voice, a text or a clip show: one model, and one answer per input."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeemo.capture.source import Frame, Sound, Words
from edgeemo.capture.words import spread
from edgeemo.errors import BundleError, InputError, shown
from edgeemo.inference.bundle import Bundle
from edgeemo.preprocess.detector import FaceFinder, open_finder
from edgeemo.preprocess.face import as_picture
from edgeemo.preprocess.text import WordPiece, read_vocabulary
from edgeemo.preprocess.voice import to_mono
from edgeemo.recognition.clip import ClipAnswer
from edgeemo.recognition.clock import moment
from edgeemo.recognition.emotion import Emotion
from edgeemo.recognition.feed import feed
from edgeemo.recognition.stream import Stream

if TYPE_CHECKING:
    from edgeemo.inference.graph import Graph
    from edgeemo.inference.spec import TextInput

DEFAULT_BUNDLE = Path(__file__).parent.parent / "bundles" / "default"
"""The bundle that comes with the package."""

_PIECE = 1.0  # seconds of sound that are pushed at once


class Recognizer:
    """A bundle, its opened graphs and a face finder.

    `print(model)` shows what goes in, what comes out, and what runs it. Use a model from one thread at a
    time. As a context manager it is closed in the end.

    Args:
        bundle: the bundle.
        graphs: its opened graphs, by name.
        finder: finds the faces of pictures; None opens one with the first picture.
        detector: the YuNet file that is opened then, None for what `open_finder` finds.
        threads: threads of a graph, as `repr` shows them.

    Attributes:
        bundle: the bundle.
        graphs: its opened graphs, by name.
        labels: the classes, in the order of the probabilities.
        tokeniser: makes ids of words, None where the bundle reads no text.

    Raises:
        BundleError: the vocabulary of the bundle is none, or not the one that the manifest describes.
    """

    def __init__(
        self,
        bundle: Bundle,
        graphs: Mapping[str, Graph],
        finder: FaceFinder | None = None,
        *,
        detector: str | os.PathLike[str] | None = None,
        threads: int = 1,
    ) -> None:
        self.bundle = bundle
        self.graphs = graphs
        self.labels = bundle.labels
        self.tokeniser = None if bundle.text is None else _tokeniser(bundle, bundle.text)
        self._finder = finder
        self._detector = detector
        self._threads = threads
        self._spare: dict[tuple[tuple[str, ...], bool], Stream] = {}

    def recognize(
        self,
        face: NDArray[np.uint8] | Sequence[NDArray[np.uint8]] | None = None,
        voice: ArrayLike | None = None,
        sample_rate: int | None = None,
        text: str | Sequence[tuple[str, float, float]] | None = None,
        *,
        face_is_cropped: bool = False,
    ) -> Emotion:
        """Answer one face, one voice, one text, or a clip of them.

        A clip up to the window is answered by its last hop, a longer one by the mean log-probability of its
        hops; of several faces the largest of the first picture with a face is followed.

        Args:
            face: one camera picture, BGR uint8 [H, W, 3], or a list of them in time order: spread evenly over
                the voice, or one per hop without a voice.
            voice: float in [-1, 1] or integers, [n] or [n, channels].
            sample_rate: of the voice in Hz, needed with it.
            text: what was said: a string, whose words are spread evenly over the voice, or over the pictures
                without a voice, or are all known at once when it is alone; or (words, start, end) in a list,
                in seconds from the start of the voice.
            face_is_cropped: the pictures already are face crops.

        Raises:
            InputError: nothing to judge by, something that the model does not read, or not a picture, sound
            or rate. BackendError: an engine failed.
        """
        given = {"face": face, "voice": voice, "text": text}
        modalities = self.check_modalities([name for name, value in given.items() if value is not None])
        pictures = [] if face is None else _pictures(face)
        samples = None if voice is None else _samples(voice, sample_rate)
        rate, hop = sample_rate or 0, self.bundle.hop
        seconds = len(pictures) * hop if samples is None else samples.size / rate
        words = [] if text is None else _words(text, seconds)
        events = _events(pictures, samples, words, rate, hop)
        return self.recognize_events(events, modalities, face_is_cropped=face_is_cropped)

    def recognize_events(
        self,
        events: Iterable[Frame | Sound | Words],
        modalities: Collection[str] | None = None,
        *,
        face_is_cropped: bool = False,
    ) -> Emotion:
        """Answer a clip whose pictures, sound and words have times of their own, as `Clip` gives them.

        Args:
            events: pictures, sound and words in the order of their times.
            modalities: which of the model's to use of them; all by default.
            face_is_cropped: the pictures already are face crops.

        Raises:
            InputError: a modality that the model does not read, or an event that cannot be used.
            BackendError: an engine failed.
        """
        key = (self.check_modalities(modalities), face_is_cropped)
        # A reset stream equals a new one. It is out of the dictionary while it is used, so that no two calls
        # share it.
        stream = self._spare.pop(key, None)
        if stream is None:
            stream = Stream(self, key[0], self.bundle.hop, lateness=None, face_is_cropped=face_is_cropped)
        answer = ClipAnswer(self.bundle)
        emotions = feed(stream, events, stream.modalities, in_order=True)
        for _, hop in itertools.groupby(emotions, key=lambda emotion: emotion.time):
            answer.add(list(hop))
        stream.reset()
        self._spare[key] = stream
        return answer.result()

    def check_modalities(self, modalities: Iterable[str] | None) -> tuple[str, ...]:
        """The given modalities in the bundle's order; all of them for None.

        Raises:
            InputError: none is given, or one that the bundle does not read; the message says what it reads.
        """
        reads = self.bundle.modalities
        readable = f"the bundle {self.bundle.name} reads {' and '.join(reads)}"
        if modalities is None:
            given = reads
        elif isinstance(modalities, str):
            given = (modalities,)
        elif isinstance(modalities, Iterable):
            given = tuple(modalities)
        else:
            raise InputError(f"modalities: {shown(modalities)} is not a list of names; {readable}")
        for modality in given:
            if not isinstance(modality, str) or modality not in reads:
                name = modality if isinstance(modality, str) else shown(modality)
                raise InputError(f"{name}: {readable}; leave {name} out")
        if not given:
            raise InputError(f"nothing to judge by: {readable}; give {' or '.join(reads)}")
        return tuple(modality for modality in reads if modality in given)

    def open_finder(self) -> FaceFinder:
        """The face finder, opened when it is first asked for.

        Raises:
            InputError: the detector's file cannot be used.
            BackendError: there is no detector at all.
        """
        if self._finder is None:
            self._finder = open_finder(None if self._detector is None else Path(self._detector))
        return self._finder

    def close(self) -> None:
        """Free the graphs and what they hold on a device; a later call that needs one raises `BackendError`.

        Without it they are freed with the last reference to the model, which a program that loads another one
        after a device was lost had better not wait for.
        """
        self._spare.clear()
        for graph in self.graphs.values():
            graph.close()

    def __enter__(self) -> Recognizer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        engines = ", ".join(dict.fromkeys(graph.engine for graph in self.graphs.values()))
        encodings = ", ".join(f"{name}: {graph.encoding}" for name, graph in self.graphs.items())
        detector = self._finder.name if self._finder else self._detector or "opened with the first picture"
        lines = [f"backend: {engines}", f"precision: {{{encodings}}}", f"threads: {self._threads}"]
        if "face" in self.bundle.modalities:
            lines.append(f"detector: {detector}")
        return "\n".join([repr(self.bundle), *lines])


def load(
    folder: str | os.PathLike[str] | None = None,
    *,
    backend: str = "auto",
    precision: str = "int8",
    threads: int = 1,
    detector: str | os.PathLike[str] | None = None,
) -> Recognizer:
    """Load a bundle: the one in the package, or the one in `folder`.

    Args:
        folder: a folder with a manifest and its graphs.
        backend: 'auto', 'onnx' or 'tensorrt'.
        precision: 'int8', 'fp16' or 'fp32'.
        threads: threads of one graph call, at least 1.
        detector: a YuNet file; by default the environment variable EDGEEMO_FACE_DETECTOR, the fetched one, or
            the cascade of OpenCV.

    Raises:
        BundleError: the folder is no bundle, or a file in it is not what its manifest says, or no
            vocabulary.
        BackendError: the backend is not there.
        InputError: an unknown backend or precision, or no file at `detector`.
    """
    if detector is not None:
        _check_detector(detector)
    from edgeemo.inference.backend import open_graphs

    bundle = Bundle.read(DEFAULT_BUNDLE if folder is None else folder)
    graphs = open_graphs(bundle, backend, precision, threads)
    return Recognizer(bundle, graphs, detector=detector, threads=threads)


def _check_detector(path: str | os.PathLike[str]) -> None:
    right = "it must be the ONNX file of OpenCV's YuNet"
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"detector: {shown(path)} is not a path; {right}")
    if not os.path.isfile(path):
        raise InputError(f"detector: no file at {path}; {right}")


def _pictures(face: Any) -> list[NDArray[np.uint8]]:
    if not isinstance(face, list | tuple):
        return [as_picture(face)]
    if not face:
        raise InputError("face: an empty list; give a picture or a list of pictures in time order")
    return [as_picture(picture) for picture in face]


def _samples(voice: ArrayLike, sample_rate: int | None) -> NDArray[np.float32]:
    if sample_rate is None:
        raise InputError("sample_rate: it is missing; give the rate of the voice in Hz, such as 16000")
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, int | np.integer) or sample_rate < 1:
        raise InputError(
            f"sample_rate: {shown(sample_rate)} is not a rate; it must be a whole number of Hz, such as 16000"
        )
    samples = to_mono(voice)
    if samples.size == 0:
        raise InputError("voice: no samples; leave it out where there is no sound")
    return samples


def _words(text: Any, seconds: float) -> list[Words]:
    if isinstance(text, str):
        words = spread(text, seconds)
    elif isinstance(text, Sequence) and not isinstance(text, bytes):
        words = [_timed(entry) for entry in text]
    else:
        raise InputError(f"text: {shown(text)} is no text; give a str, or a list of (words, start, end)")
    if not words:
        raise InputError("text: no words; leave it out where nothing was said")
    return words


def _timed(entry: Any) -> Words:
    if not isinstance(entry, tuple | list) or len(entry) != 3 or not isinstance(entry[0], str):
        raise InputError(f"text: {shown(entry)} in the list; each must be (words, start, end)")
    return Words(entry[0], moment(entry[1], "start"), moment(entry[2], "end"))


def _events(
    pictures: Sequence[NDArray[np.uint8]],
    samples: NDArray[np.float32] | None,
    words: Sequence[Words],
    rate: int,
    hop: float,
) -> Iterator[Frame | Sound | Words]:
    """What a clip holds with times, in order; of equal times the sound comes first."""
    if samples is None:
        times = [index * hop for index in range(len(pictures))]
        sounds: list[Sound] = []
    else:
        spread = samples.size / rate / max(len(pictures), 1)
        times = [(index + 0.5) * spread for index in range(len(pictures))]
        size = max(round(_PIECE * rate), 1)
        sounds = [
            Sound(start / rate, samples[start : start + size], rate) for start in range(0, samples.size, size)
        ]
    frames = [_frame(time, picture) for time, picture in zip(times, pictures, strict=True)]
    events: list[Frame | Sound | Words] = [*sounds, *frames, *words]
    return iter(sorted(events, key=lambda event: event.time))


def _tokeniser(bundle: Bundle, text: TextInput) -> WordPiece:
    try:
        vocabulary = read_vocabulary(bundle.read_file(text.vocab))
    except InputError as error:
        raise BundleError(f"bundle {bundle.path}: {text.vocab}: {error}") from None
    return WordPiece(vocabulary, length=text.length, lowercase=text.lowercase)


def _frame(time: float, picture: NDArray[np.uint8]) -> Frame:
    return Frame(time, lambda: picture)
