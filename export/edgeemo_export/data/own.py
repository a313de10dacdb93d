"""A user's own labelled recordings: a manifest that became a run's items, each in its split."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeemo.capture.clip import Clip as Recording
from edgeemo.capture.clip import read_pictures
from edgeemo.capture.source import Frame
from edgeemo.errors import EdgeEmoError, InputError
from edgeemo.evaluate import Item, is_video, read_manifest
from edgeemo.inference.bundle import Bundle
from edgeemo.preprocess.detector import FaceFinder, WholePicture, open_finder
from edgeemo.preprocess.face import FaceGeometry
from edgeemo.recognition.recognizer import DEFAULT_BUNDLE

from ..encoders.voice import SAMPLE_RATE
from . import sounds, voices
from .sounds import HOP
from .splits import SPLITS, split_items
from .tokens import SLOTS

log = logging.getLogger("edgeemo.export")

MODALITIES = ("face", "voice")
STATE, SPLIT_FILE, CROP_FILE = "own.json", "splits.csv", "crops.npz"


@dataclass(frozen=True)
class Origin:
    """What a run was begun with.

    Attributes:
        manifest: the CSV file.
        sha256: of its content.
        seed: of the splits, and of training.
        face_is_cropped: the pictures already are face crops.
        speakers_unknown: nobody knows who speaks, so that the splits are not by speaker.
    """

    manifest: str
    sha256: str
    seed: int
    face_is_cropped: bool
    speakers_unknown: bool


@dataclass(frozen=True)
class Own:
    """The items of a run.

    Attributes:
        origin: what the run was begun with.
        folder: the run's.
        items: with their splits; paths are absolute.
        labels: sorted.
        modalities: those that items have.
    """

    origin: Origin
    folder: Path
    items: tuple[Item, ...]
    labels: tuple[str, ...]
    modalities: tuple[str, ...]

    def of(self, split: str) -> list[Item]:
        """The items of a split."""
        return [item for item in self.items if item.split == split]

    def clips(self, split: str) -> list[voices.Clip]:
        """The voices of a split, in the order of its items."""
        return [
            voices.Clip(item.paths["voice"], "own", item.speaker, item.label, split)
            for item in self.of(split)
            if "voice" in item.paths
        ]

    def crops(self, split: str) -> list[NDArray[np.uint8]]:
        """The face crops ``[m, 48, 48]`` of each item of a split, m = 0 without a face.

        They are cut once a run and kept in its folder.
        """
        path = self.folder / CROP_FILE
        if not path.exists():
            finder = WholePicture() if self.origin.face_is_cropped else open_finder()
            stored = {str(item.line): cut(item, finder) for item in self.items if "face" in item.paths}
            with path.with_suffix(".new").open("wb") as file:
                np.savez(file, **stored)  # type: ignore[arg-type]
            path.with_suffix(".new").replace(path)
        with np.load(path, allow_pickle=False) as stored_crops:
            nothing = np.zeros((0, *geometry().size), np.uint8)
            return [
                stored_crops[str(item.line)] if "face" in item.paths else nothing for item in self.of(split)
            ]


def begin(manifest: Path, folder: Path, *, seed: int, face_is_cropped: bool, speakers_unknown: bool) -> Own:
    """Read a manifest, divide its items and note all that in the run's folder; or go on with that run.

    Args:
        manifest: the CSV file of ``edgeemo evaluate``, with a column ``speaker`` and perhaps ``split``.
        folder: of the run.
        seed: of splits and training.
        face_is_cropped: the pictures already are face crops in the manner of FER+.
        speakers_unknown: the manifest does not say who speaks.

    Raises:
        InputError: the manifest cannot be used, or the folder holds another run.
        SourceError: a file is missing or cannot be read; the message names line and column.
    """
    try:
        digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{manifest}: it cannot be read ({error})") from error
    origin = Origin(str(manifest.resolve()), digest, seed, face_is_cropped, speakers_unknown)
    if (folder / STATE).exists():
        return _go_on(folder, origin)
    if any((folder / part / "state.pt").exists() for part in ("face", "voice", "fusion")):
        raise InputError(f"{folder}: it holds a run on other data; give another folder")
    items = read_manifest(manifest, MODALITIES, None, reader="edgeemo-export train")
    items = split_items(manifest, items, unknown=speakers_unknown, seed=seed)
    check_labels(manifest, items)
    check_files(manifest, items)
    folder.mkdir(parents=True, exist_ok=True)
    write_items(folder / SPLIT_FILE, items)
    write_items(folder / "test.csv", [item for item in items if item.split == "test"])
    (folder / STATE).write_text(json.dumps(asdict(origin), indent=1) + "\n")
    return reopen(folder)


def _go_on(folder: Path, origin: Origin) -> Own:
    begun = reopen(folder)
    before, now = asdict(begun.origin), asdict(origin)
    changed = [name for name in before if name != "manifest" and before[name] != now[name]]
    if changed:
        raise InputError(
            f"{folder}: it holds a run with another {', '.join(changed)} (of {begun.origin.manifest}); "
            "give another folder, or what that run was begun with"
        )
    return begun


def reopen(folder: Path) -> Own:
    """Read back what `begin` noted.

    Raises:
        InputError: the folder holds no run of a manifest, or a file of it is gone.
    """
    try:
        origin = Origin(**json.loads((folder / STATE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{folder}: {STATE} cannot be read ({error}); it must hold a run of --manifest"
        ) from error
    items = tuple(read_manifest(folder / SPLIT_FILE, MODALITIES, None, reader="edgeemo-export"))
    labels = tuple(sorted({item.label for item in items}))
    modalities = tuple(name for name in MODALITIES if any(name in item.paths for item in items))
    return Own(origin, folder, items, labels, modalities)


def check_labels(path: Path, items: Sequence[Item]) -> None:
    """Refuse what cannot be learnt, and warn of what cannot be measured.

    Raises:
        InputError: there is one label only, a label has no training item of a modality that is used, or a
            split lacks a modality.
    """
    labels = {item.label for item in items}
    if len(labels) < 2:
        raise InputError(f"{path}: every item has the label {labels.pop()}; there must be at least two")
    for split in SPLITS:
        here = [item for item in items if item.split == split]
        missing = ", ".join(sorted(labels - {item.label for item in here}))
        if missing and split == "train":
            raise InputError(f"{path}: no item of the split train has the label {missing}")
        if missing:
            log.warning("%s: no item of the split %s has the label %s", path, split, missing)
        for name in MODALITIES:
            if not any(name in item.paths for item in items):
                continue
            given = {item.label for item in here if name in item.paths}
            if not given:
                raise InputError(f"{path}: no item of the split {split} has a {name}, while others have one")
            # An encoder learns by the log prior of its labels, which of a label without items is infinite.
            if split == "train" and given != labels:
                lacking = ", ".join(sorted(labels - given))
                raise InputError(f"{path}: no item of the split train with the label {lacking} has a {name}")


def check_files(path: Path, items: Iterable[Item]) -> None:
    """Refuse a file that cannot be read while it is known which line names it, and before hours of training.

    Sounds are read whole; of a video the first picture.

    Raises:
        SourceError: a file cannot be read; the message names manifest, line and column.
    """
    for item in items:
        if "face" in item.paths:
            with named(path, item, "face"):
                next(iter(_pictures(item.paths["face"])), None)
        if "voice" in item.paths:
            with named(path, item, "voice"):
                sounds.load(item.paths["voice"])


@contextmanager
def named(path: Path, item: Item, column: str) -> Iterator[None]:
    """Let an error of the body say which manifest, line and column named the file."""
    try:
        yield
    except EdgeEmoError as error:
        raise type(error)(f"{path}, line {item.line}, column {column!r}: {error}") from error


def write_items(path: Path, items: Iterable[Item]) -> None:
    """Write a manifest with absolute paths, whole or not at all."""
    given = list(items)  # links are not followed: the name says whether it is a picture or a video
    modalities = [name for name in MODALITIES if any(name in item.paths for item in given)]
    new = path.with_suffix(".new")
    with new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("label", "speaker", "split", *modalities))
        for item in given:
            files = [str(item.paths[name].absolute()) if name in item.paths else "" for name in modalities]
            writer.writerow((item.label, item.speaker, item.split, *files))
    new.replace(path)


# --- faces


def face_entry() -> dict[str, Any]:
    """The manifest's ``face``: size and crop geometry of the default bundle, whose encoder this is."""
    entry = Bundle.read(DEFAULT_BUNDLE).manifest["face"]
    assert isinstance(entry, dict)
    return dict(entry)


def geometry() -> FaceGeometry:
    """How a detected face becomes a crop."""
    return FaceGeometry(face_entry())


def cut(item: Item, finder: FaceFinder) -> NDArray[np.uint8]:
    """Crop the largest face of each picture of an item, ``[m, 48, 48]``.

    A video is looked at ten times a second, as a stream would; of more pictures than a window has slots that
    many are taken, spread evenly.

    Raises:
        SourceError: a file cannot be read.
    """
    path, crops, how = item.paths["face"], [], geometry()
    for picture in _pictures(path):
        if faces := finder.find(picture):
            crops.append(how.cut(picture, how.square(faces[0], finder.name))[..., 0])
    if not crops:
        log.warning("%s: no face was found; it counts as without a face", path)
        return np.zeros((0, *how.size), np.uint8)
    kept = np.linspace(0, len(crops) - 1, min(len(crops), SLOTS)).round().astype(int)
    return np.stack([crops[place] for place in kept])


def _pictures(path: Path) -> Iterator[NDArray[np.uint8]]:
    if not is_video(path):
        yield from read_pictures(path)
        return
    due, step = 0.0, HOP / SAMPLE_RATE
    for frame in Recording(path, ("face",)):
        if isinstance(frame, Frame) and frame.time >= due:
            yield frame.image()
            due = max(due + step, frame.time)
