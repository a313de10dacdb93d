"""What the encoders of a bundle would be given while a recording plays: face crops and voice contexts.

Nothing is cropped or cut here. The recording runs through the runtime's own stream, whose graphs are replaced
by taps that note what they are given; so a candidate is, bit for bit, an input of the bundle's encoder.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeemo.capture.clip import Clip, read_pictures
from edgeemo.capture.recording import ABOUT as SESSION
from edgeemo.capture.recording import Recording
from edgeemo.capture.source import Frame, Sound
from edgeemo.errors import InputError, SourceError
from edgeemo.evaluate import Item, read_manifest
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.spec import GraphSpec
from edgeemo.recognition.feed import feed
from edgeemo.recognition.health import brightness, level
from edgeemo.recognition.recognizer import Recognizer
from edgeemo.recognition.stream import Stream

MODALITIES = ("face", "voice")
TEST = "test"
READER = "edgeemo-calibrate select"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One recording: a session, a sound, a video, a picture, or a folder of pictures in time order.

    Attributes:
        path: the file or folder.
        source: place of the argument that named it.
        kind: 'session', 'clip' or 'pictures' (a folder of them in time order).
        modalities: what to read of it; what it does not hold is passed over.
        speaker: who it is, empty where nobody said it.
        group: the speaker, or else the session, the folder or the manifest that it belongs to.
        label: the class, empty where nobody said it.
        must: it was named, so that it must be readable; what a folder happens to hold need not be.
    """

    path: Path
    source: int
    kind: str
    modalities: tuple[str, ...]
    speaker: str = ""
    group: str = ""
    label: str = ""
    must: bool = True


@dataclass(frozen=True, slots=True)
class Candidate:
    """One input of one encoder.

    Attributes:
        modality: 'face' or 'voice'.
        values: uint8 [H, W, C], or float32 [context].
        time: end of its hop, in seconds from the start of the recording.
    """

    modality: str
    values: NDArray[Any]
    time: float

    def traits(self) -> dict[str, int]:
        """The bins that it falls into, by their lower edges.

        Of a voice ``loudness``, 10 dB wide from -200 to -10 dBFS (RMS); of a face ``light``, its mean level,
        32 wide, and ``contrast``, the standard deviation of its grey levels, 16 wide.

        Example:
            >>> Candidate("voice", np.full(100, 0.02, np.float32), 0.1).traits()
            {'loudness': -40}
            >>> Candidate("face", np.full((4, 4, 1), 100, np.uint8), 0.1).traits()
            {'light': 96, 'contrast': 0}
        """
        if self.modality == "voice":
            loudness = min(max(level(self.values), -200.0), -0.1)
            return {"loudness": int(loudness // 10) * 10}
        grey = self.values.mean(axis=-1)
        return {"light": int(brightness(self.values) // 32) * 32, "contrast": int(grey.std() // 16) * 16}


@dataclass(slots=True)
class Heard:
    """What became of one recording.

    Attributes:
        taken: candidates by modality.
        silent: hops whose sound was below the bundle's threshold, or that had none.
        faceless: pictures in which no face was found.
        unusable: pictures and pieces of sound that could not be used.
        digests: sha256 of what was decoded, by modality: one for the sound or the pictures of a clip, one for
            each picture of a folder.
        expires: when it must be deleted, where it is a session.
    """

    taken: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODALITIES, 0))
    silent: int = 0
    faceless: int = 0
    unusable: int = 0
    digests: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    expires: datetime | None = None


# --- which recordings there are


def find_recordings(
    paths: Sequence[Path], modalities: Sequence[str]
) -> tuple[list[Recorded], list[Recorded]]:
    """List the recordings that paths name: first those to use, then those of a manifest's split 'test'.

    A path is a session, a manifest (a CSV file of ``edgeemo evaluate``), a media file, or a folder of
    sessions and media files. A recording that is named twice in the same way is listed once.

    Args:
        paths: what the user named.
        modalities: what the bundle reads.

    Raises:
        InputError: a path does not exist, or a manifest is none.
        SourceError: a file that a manifest names is missing.
    """
    used: dict[Recorded, None] = {}
    test: dict[Recorded, None] = {}
    for place, path in enumerate(paths):
        if not path.exists():
            raise InputError(
                f"{path}: there is nothing; name a session, a manifest, a media file or a folder"
            )
        if path.is_dir():
            used.update(dict.fromkeys(_walk(path, place, tuple(modalities))))
        elif path.suffix.lower() == ".csv":
            for item in read_manifest(path, modalities, None, reader=READER):
                into = test if item.split == TEST else used
                into.update(dict.fromkeys(_of_item(item, path, place)))
        else:
            used[Recorded(path, place, "clip", tuple(modalities), group=path.resolve().parent.name)] = None
    return list(used), list(test)


def _walk(folder: Path, place: int, modalities: tuple[str, ...]) -> Iterator[Recorded]:
    """The sessions and files below a folder; links to folders are not followed."""
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        name = here.resolve().name
        if SESSION in files:
            folders.clear()
            yield Recorded(here, place, "session", modalities, group=name, must=here == folder)
            continue
        folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
        for file in sorted(files):
            if not file.startswith("."):
                yield Recorded(here / file, place, "clip", modalities, group=name, must=False)


def _of_item(item: Item, manifest: Path, place: int) -> Iterator[Recorded]:
    """The recordings of one line; face and voice of one video are one."""
    who = partial(
        Recorded,
        source=place,
        speaker=item.speaker,
        group=item.speaker or manifest.name,
        label=item.label,
    )
    face, voice = item.paths.get("face"), item.paths.get("voice")
    if face is not None and face == voice:
        yield who(face, kind="clip", modalities=MODALITIES)
        return
    if face is not None:
        yield who(face, kind="pictures" if face.is_dir() else "clip", modalities=("face",))
    if voice is not None:
        yield who(voice, kind="clip", modalities=("voice",))


# --- what the encoders are given


class Listener:
    """Plays recordings through the runtime's stream and notes what its encoders are given.

    Args:
        bundle: the bundle.
        face_is_cropped: every picture already is a face crop.
        detector: a YuNet file; None for what the runtime finds.
    """

    def __init__(self, bundle: Bundle, *, face_is_cropped: bool = False, detector: str | None = None) -> None:
        self._hop = bundle.hop
        self._cropped = face_is_cropped
        self._noted: list[tuple[str, NDArray[Any]]] = []  # inputs of the hop that is under way
        self._hops: list[list[tuple[str, NDArray[Any]]]] = []  # those of the hops that fusion has seen
        taps = {name: _Tap(spec, partial(self._note, name)) for name, spec in bundle.graphs.items()}
        self._model = Recognizer(bundle, taps, detector=detector)
        self._streams: dict[tuple[str, ...], Stream] = {}

    def hear(self, recorded: Recorded, take: Callable[[Candidate], None]) -> Heard:
        """Play one recording, and hand over every input of an encoder.

        Args:
            recorded: the recording.
            take: gets the candidates in the order of time; their arrays are its own.

        Raises:
            SourceError: the recording cannot be read, or is a session that has expired.
            BackendError: there is no face detector.
        """
        source, modalities = _open(recorded, self._hop)
        stream = self._stream(modalities)
        heard, content = Heard(), _Content(source)
        emotions = feed(
            stream, content, modalities, in_order=True, on_error=lambda _: _count(heard, "unusable")
        )
        answered = 0
        try:
            for time, hop in itertools.groupby(emotions, key=lambda emotion: emotion.time):
                rows = list(hop)
                heard.silent += "silence" in rows[0].reasons
                # Fusion runs in the hops that have a token in their window, so in all that ran an encoder.
                if all(row.state == "absent" for row in rows):
                    continue
                inputs = self._hops.pop(0)
                answered += any(name == "face" for name, _ in inputs)
                for name, values in inputs:
                    heard.taken[name] += 1
                    take(Candidate(name, values, time))
            heard.unusable += stream.stats["bad_frames"]
        finally:
            stream.reset()
            self._noted, self._hops = [], []
        heard.expires = source.about.expires if isinstance(source, Recording) else None
        heard.faceless = content.pictures - answered
        heard.digests = content.digests(each=recorded.kind == "pictures")
        return heard

    def _stream(self, modalities: tuple[str, ...]) -> Stream:
        if modalities not in self._streams:
            self._streams[modalities] = Stream(
                self._model, modalities, self._hop, lateness=None, face_is_cropped=self._cropped
            )
        return self._streams[modalities]

    def _note(self, name: str, feeds: Mapping[str, NDArray[Any]]) -> None:
        if name == "fusion":
            self._hops.append(self._noted)
            self._noted = []
        elif name in MODALITIES:
            self._noted += [(name, row.copy()) for row in feeds[name]]


class _Tap:
    """Stands for a graph: hands over what it is given, and answers ones."""

    encoding = "fp32"
    engine = "tap"

    def __init__(self, spec: GraphSpec, note: Callable[[Mapping[str, NDArray[Any]]], None]) -> None:
        self.spec = spec
        self._note = note

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self._note(feeds)
        rows = max(len(array) for array in feeds.values())
        return {
            name: np.ones([rows if axis == "N" else int(axis) for axis in tensor.shape], np.float32)
            for name, tensor in self.spec.outputs.items()
        }

    def close(self) -> None:
        """There is nothing to free."""


class _Content:
    """Events on their way, with digests of the samples and of the pictures that are looked at."""

    def __init__(self, events: Iterable[Frame | Sound]) -> None:
        self._events = events
        self._sound = hashlib.sha256()
        self._rate = 0
        self._seen: list[bytes] = []

    @property
    def pictures(self) -> int:
        """How many pictures were looked at: the newest of each hop."""
        return len(self._seen)

    def __iter__(self) -> Iterator[Frame | Sound]:
        for event in self._events:
            if isinstance(event, Frame):
                yield Frame(event.time, partial(self._look, event.image))
                continue
            if event.sample_rate != self._rate:
                self._rate = event.sample_rate
                self._sound.update(f"{self._rate} ".encode())
            self._sound.update(np.ascontiguousarray(event.samples).tobytes())
            yield event

    def digests(self, *, each: bool) -> dict[str, tuple[bytes, ...]]:
        """The digests by modality; of pictures one for all of them, or one for each."""
        found: dict[str, tuple[bytes, ...]] = {}
        if self._seen:
            alone = each or len(self._seen) == 1
            found["face"] = tuple(self._seen) if alone else (hashlib.sha256(b"".join(self._seen)).digest(),)
        if self._rate:
            found["voice"] = (self._sound.digest(),)
        return found

    def _look(self, image: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        picture = image()
        shape = f"{picture.shape} ".encode()
        self._seen.append(hashlib.sha256(shape + np.ascontiguousarray(picture).tobytes()).digest())
        return picture


def _open(recorded: Recorded, hop: float) -> tuple[Iterable[Frame | Sound], tuple[str, ...]]:
    """The events of a recording, and which of the wanted modalities it holds."""
    if recorded.kind == "pictures":
        pictures = read_pictures(recorded.path)
        return [Frame(k * hop, picture.copy) for k, picture in enumerate(pictures)], ("face",)
    if recorded.kind == "session":
        session = Recording(recorded.path)
        held = tuple(name for name in recorded.modalities if name in session.modalities)
        if not held:
            raise SourceError(f"{recorded.path}: holds neither {' nor '.join(recorded.modalities)}")
        return session, held
    clip = Clip(recorded.path, recorded.modalities)
    return clip, clip.modalities


def _count(heard: Heard, name: str) -> None:
    setattr(heard, name, getattr(heard, name) + 1)
