"""How good is a model on labelled recordings: a manifest in, figures out."""

from __future__ import annotations

import csv
import heapq
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeemo.capture.clip import PICTURE_SUFFIXES, Clip, read_pictures, read_sound
from edgeemo.capture.source import Frame, Sound, Words
from edgeemo.capture.words import beside, read_words, spread
from edgeemo.errors import EdgeEmoError, InputError, SourceError
from edgeemo.figures import Answer, Report, report

if TYPE_CHECKING:
    from edgeemo.recognition.emotion import Emotion
    from edgeemo.recognition.recognizer import Recognizer

__all__ = ["Answer", "Item", "Report", "evaluate", "is_video", "read_manifest"]

_COLUMNS = ("face", "voice", "text")
_TABLE = ".tsv"

_log = logging.getLogger("edgeemo")


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a manifest.

    Attributes:
        line: in the file, the header being line 1.
        label: the true label.
        speaker: who it is, or empty.
        paths: the file or folder of each modality that is given and read.
        split: what the column `split` says, or empty; only training reads it.
        text: what was said, where it is given and read and no file.
    """

    line: int
    label: str
    speaker: str
    paths: Mapping[str, Path]
    split: str = ""
    text: str = ""

    @property
    def given(self) -> tuple[str, ...]:
        """The modalities that are given and read."""
        return (*self.paths, "text") if self.text else tuple(self.paths)


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
            time order, or a video), `voice` (a sound file or a video), `text` (what is said, or a table of
            it as `read_words` reads it, with the suffix .tsv) and `speaker`; paths absolute or relative to
            the file. A video and a table keep their times, pictures and words are spread evenly over the
            voice.
        model: the model.
        face_is_cropped: the pictures already are face crops in the manner of FER+.
        progress: called after every item with the number of items done and of all.

    Raises:
        InputError: the manifest is not as above; the message names the line.
        SourceError: a file is missing or cannot be read; the message names the line.
    """
    path = Path(manifest_csv)
    items = read_manifest(
        path, model.bundle.modalities, model.labels, reader=f"the bundle {model.bundle.name}"
    )
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
        if f"{name}_logits" in outputs and any(name in item.given for item in items)
    ]
    return report(model.labels, alone, answers)


# --- the manifest


def read_manifest(
    path: Path, modalities: Sequence[str], labels: Sequence[str] | None, *, reader: str
) -> list[Item]:
    """Read every line of a manifest, checked before the first is used.

    Args:
        path: the CSV file.
        modalities: whose columns are read; at least one of them must be there.
        labels: the labels that may stand there; None takes any that is not empty.
        reader: who reads it, as messages name it.

    Raises:
        InputError: it is not a manifest; the message names the line.
        SourceError: a file that it names is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            columns = _columns(path, table.fieldnames or (), modalities, reader)
            items = [_item(path, table.line_num, row, columns, labels) for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        if isinstance(error, UnicodeDecodeError):
            why = f"byte {error.start} is not UTF-8"
        raise InputError(f"{path}: it cannot be read ({why}); a manifest is a CSV file in UTF-8") from error
    if not items:
        raise InputError(f"{path}: it has no items; each is a line below the names of the columns")
    return items


def _columns(path: Path, names: Collection[str], reads: Sequence[str], reader: str) -> list[str]:
    """The columns of modalities that are read."""
    given = [name for name in _COLUMNS if name in names]
    if "label" not in names:
        raise InputError(f"{path}: it has no column 'label'; its first line must name the columns")
    usable = [name for name in given if name in reads]
    if not usable:
        raise InputError(
            f"{path}: it has no column {' or '.join(repr(name) for name in reads)}, "
            f"which is what {reader} reads"
        )
    if len(usable) < len(given):
        unread = ", ".join(name for name in given if name not in reads)
        _log.warning("%s: %s does not read the column %s", path, reader, unread)
    return usable


def _item(
    manifest: Path,
    line: int,
    row: Mapping[str, str | None],
    columns: Sequence[str],
    labels: Sequence[str] | None,
) -> Item:
    label, speaker, split = ((row.get(name) or "").strip() for name in ("label", "speaker", "split"))
    if not label or (labels is not None and label not in labels):
        right = "not be empty" if labels is None else f"be one of {', '.join(labels)}"
        raise InputError(f"{manifest}, line {line}: the label is {label!r}; it must {right}")
    given = {name: value for name in columns if (value := (row[name] or "").strip())}
    if not given:
        empty = "it names no file and has no text" if "text" in columns else "it names no file"
        raise InputError(f"{manifest}, line {line}: {empty}; give {' or '.join(columns)}")
    said = given.get("text", "")
    text = "" if said.lower().endswith(_TABLE) else said
    paths = {name: manifest.parent / value for name, value in given.items() if name != "text" or not text}
    for name, path in paths.items():
        if not path.exists():
            raise SourceError(f"{manifest}, line {line}: {name} is {path}, which does not exist")
    return Item(line, label, speaker, paths, split, text)


# --- one item


def _answer(item: Item, model: Recognizer, face_is_cropped: bool) -> Emotion:
    face, voice = item.paths.get("face"), item.paths.get("voice")
    if face is not None and is_video(face):
        events = _events(face, voice, _words(item, face, voice))
        return model.recognize_events(events, item.given, face_is_cropped=face_is_cropped)
    text = read_words(item.paths["text"]) if "text" in item.paths else item.text
    pictures = None if face is None else read_pictures(face)
    samples, rate = (None, None) if voice is None else read_sound(voice)
    return model.recognize(pictures, samples, rate, text or None, face_is_cropped=face_is_cropped)


def is_video(path: Path) -> bool:
    """Whether a manifest's `face` is a video, rather than a picture or a folder of pictures."""
    return not (path.is_dir() or path.suffix.lower() in PICTURE_SUFFIXES)


def _words(item: Item, face: Path, voice: Path | None) -> list[Words]:
    """What is said in a video."""
    if "text" in item.paths:
        return read_words(item.paths["text"])
    if not item.text:
        return []
    return spread(item.text, _seconds(face if voice is None else voice, "face" if voice is None else "voice"))


def _seconds(path: Path, modality: str) -> float:
    """How long a recording is, read to its end where the file does not say it."""
    clip = Clip(path, (modality,))
    return clip.duration if clip.duration is not None else max(event.time for event in clip)


def _events(face: Path, voice: Path | None, words: Sequence[Words]) -> Iterator[Frame | Sound | Words]:
    """A video, with its own sound or that of another file, and what is said, in the order of time."""
    return beside(_pictures_and_sound(face, voice), words, str(face))


def _pictures_and_sound(face: Path, voice: Path | None) -> Iterator[Frame | Sound]:
    if voice is None:
        return iter(Clip(face, ("face",)))
    sound = Clip(voice, ("voice",))  # opened by itself, because a video without sound is an error here
    if voice == face:
        return iter(Clip(face))
    return heapq.merge(Clip(face, ("face",)), sound, key=lambda event: event.time)
