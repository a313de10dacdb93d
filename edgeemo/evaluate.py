"""How good is a model on labelled recordings: a manifest in, figures out."""

from __future__ import annotations

import csv
import heapq
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeemo.capture.clip import PICTURE_SUFFIXES, Clip, read_pictures, read_sound
from edgeemo.capture.source import Frame, Sound
from edgeemo.errors import EdgeEmoError, InputError, SourceError
from edgeemo.figures import Answer, Report, report

if TYPE_CHECKING:
    from edgeemo.recognition.emotion import Emotion
    from edgeemo.recognition.recognizer import Recognizer

__all__ = ["Answer", "Report", "evaluate"]

_COLUMNS = ("face", "voice", "text")

_log = logging.getLogger("edgeemo")


@dataclass(frozen=True, slots=True)
class _Item:
    """One line of a manifest: the true label, and the file of each modality that the model reads."""

    line: int
    label: str
    speaker: str
    paths: Mapping[str, Path]


def evaluate(
    manifest_csv: str | os.PathLike[str],
    model: Recognizer,
    *,
    face_is_cropped: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Answer every item of a manifest as `Recognizer.recognize` does, and compare with the labels.

    Args:
        manifest_csv: a CSV file with a column `label` and any of `face` (a picture, a folder of pictures in
            time order, or a video), `voice` (a sound file or a video), `text` and `speaker`; paths absolute
            or relative to the file. A video keeps its times, pictures are spread evenly over the voice.
        model: the model.
        face_is_cropped: the pictures already are face crops in the manner of FER+.
        progress: called after every item with the number of items done and of all.

    Raises:
        InputError: the manifest is not as above; the message names the line.
        SourceError: a file is missing or cannot be read; the message names the line.
    """
    path = Path(manifest_csv)
    items = _read(path, model)
    answers = []
    for done, item in enumerate(items, start=1):
        try:
            emotion = _answer(item, model, face_is_cropped)
        except EdgeEmoError as error:
            raise type(error)(f"{path}, line {item.line}: {error}") from error
        answers.append(Answer(item.line, item.label, item.speaker, emotion))
        if progress is not None:
            progress(done, len(items))
    outputs = model.bundle.graphs["fusion"].outputs
    alone = [
        name
        for name in model.bundle.modalities
        if f"{name}_logits" in outputs and any(name in item.paths for item in items)
    ]
    return report(model.labels, alone, answers)


# --- the manifest


def _read(path: Path, model: Recognizer) -> list[_Item]:
    """Every line, checked before the first is answered."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            columns = _columns(path, table.fieldnames or (), model)
            items = [_item(path, table.line_num, row, columns, model) for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        if isinstance(error, UnicodeDecodeError):
            why = f"byte {error.start} is not UTF-8"
        raise InputError(f"{path}: it cannot be read ({why}); a manifest is a CSV file in UTF-8") from error
    if not items:
        raise InputError(f"{path}: it has no items; each is a line below the names of the columns")
    return items


def _columns(path: Path, names: Iterable[str], model: Recognizer) -> list[str]:
    """The columns of modalities that the model reads."""
    given, reads = [name for name in _COLUMNS if name in names], model.bundle.modalities
    if "label" not in names:
        raise InputError(f"{path}: it has no column 'label'; its first line must name the columns")
    usable = [name for name in given if name in reads]
    if not usable:
        raise InputError(
            f"{path}: it has no column {' or '.join(repr(name) for name in reads)}, "
            f"which is what the bundle {model.bundle.name} reads"
        )
    if len(usable) < len(given):
        unread = ", ".join(name for name in given if name not in reads)
        _log.warning("%s: the bundle %s does not read the column %s", path, model.bundle.name, unread)
    return usable


def _item(
    manifest: Path, line: int, row: Mapping[str, str | None], columns: Iterable[str], model: Recognizer
) -> _Item:
    label = (row["label"] or "").strip()
    if label not in model.labels:
        raise InputError(
            f"{manifest}, line {line}: the label is {label!r}; it must be one of {', '.join(model.labels)}"
        )
    paths = {name: manifest.parent / value for name in columns if (value := (row[name] or "").strip())}
    if not paths:
        raise InputError(f"{manifest}, line {line}: it names no file; give {' or '.join(columns)}")
    for name, path in paths.items():
        if not path.exists():
            raise SourceError(f"{manifest}, line {line}: {name} is {path}, which does not exist")
    return _Item(line, label, (row.get("speaker") or "").strip(), paths)


# --- one item


def _answer(item: _Item, model: Recognizer, face_is_cropped: bool) -> Emotion:
    face, voice = item.paths.get("face"), item.paths.get("voice")
    if face is not None and _is_video(face):
        return model.recognize_events(_events(face, voice), item.paths, face_is_cropped=face_is_cropped)
    pictures = None if face is None else read_pictures(face)
    samples, rate = (None, None) if voice is None else read_sound(voice)
    return model.recognize(pictures, samples, rate, face_is_cropped=face_is_cropped)


def _is_video(path: Path) -> bool:
    return not (path.is_dir() or path.suffix.lower() in PICTURE_SUFFIXES)


def _events(face: Path, voice: Path | None) -> Iterator[Frame | Sound]:
    """A video, with its own sound or that of another file, in the order of time."""
    if voice is None:
        return iter(Clip(face, ("face",)))
    sound = Clip(voice, ("voice",))  # opened by itself, because a video without sound is an error here
    if voice == face:
        return iter(Clip(face))
    return heapq.merge(Clip(face, ("face",)), sound, key=lambda event: event.time)
