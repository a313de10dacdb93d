"""Emotions of a clip, a camera or a microphone, while it runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgeemo.capture.source import Frame, Sound, Source, Words, open_source
from edgeemo.capture.words import beside, read_words
from edgeemo.errors import InputError, shown
from edgeemo.recognition.emotion import Emotion
from edgeemo.recognition.feed import feed
from edgeemo.recognition.recognizer import Recognizer, load
from edgeemo.recognition.stream import LATENESS, Stream

_log = logging.getLogger("edgeemo")


def watch(
    source: str | Path | Source | None = None,
    *,
    camera: int | str | None = None,
    microphone: int | str | None = None,
    model: Recognizer | None = None,
    bundle: str | os.PathLike[str] | None = None,
    hop: float | None = None,
    text: str | Path | None = None,
) -> Iterator[Emotion]:
    """Answer a source hop by hop: per hop one Emotion per face, or one without a face.

    The source is closed when it or the iteration ends. A picture or a piece of sound that cannot be used is
    left out: the first is a warning, and their number is logged at the end, at the level INFO, with what
    else `Stream.stats` counted. When nothing could be used that first error is raised at the end.

    Args:
        source: the path of a video, a sound file, a picture or a recorded session, or an opened source.
        camera: the index of a camera, its device file or its stream address.
        microphone: 'default', or the index or a part of the name of an input device.
        model: a loaded model; without it `bundle` is loaded.
        bundle: the folder of a bundle, the one in the package by default.
        hop: seconds between two answers, a multiple of the bundle's, which is the default.
        text: a table of what is said in a file, a line per word or sentence: `start<TAB>end<TAB>words`.

    Raises:
        InputError: no source or more than one, or nothing in it that the model reads or can use; a model and
            a bundle; a hop that does not fit; a text for a live source, or for a model that reads none.
        SourceError: the source or the text cannot be read.
        BundleError: the bundle cannot be used.
        BackendError: an engine failed.
    """
    if model is not None and bundle is not None:
        raise InputError("bundle: a loaded model was given too; name either a model or a bundle, not both")
    if source is None or isinstance(source, str | Path):
        source = open_source(source, camera=camera, microphone=microphone)
    elif not hasattr(source, "modalities"):
        right = f"camera={source}" if isinstance(source, int) else "the path of a file, such as 'clip.mp4'"
        raise InputError(f"source: {shown(source)} is neither a path nor an opened source; give {right}")
    elif camera is not None or microphone is not None:
        raise InputError(f"{source.name}: name either a source, or a camera and a microphone, not both")
    try:
        yield from _answers(source, model or load(bundle), hop, text)
    finally:
        source.close()


def _answers(
    source: Source, model: Recognizer, hop: float | None, text: str | Path | None
) -> Iterator[Emotion]:
    reads = model.bundle.modalities
    holds, events = _with_text(source, model, text)
    if not set(holds) & set(reads):
        raise InputError(
            f"{source.name}: it holds {' and '.join(source.modalities)} only; "
            f"the bundle {model.bundle.name} reads {' and '.join(reads)}"
        )
    lateness = LATENESS if source.live else None  # a file is waited for however long it takes
    stream = Stream(model, hop=model.bundle.hop if hop is None else hop, lateness=lateness)
    bad, first, answered = 0, "", False

    def left_out(error: InputError) -> None:
        nonlocal bad, first
        bad += 1
        first = first or str(error)
        # The first is worth a warning; a source that is broken all the way must not fill the log. That of a
        # file waits for an answer, because without any it is raised.
        warns = bad == 1 and (answered or source.live)
        _log.log(logging.WARNING if warns else logging.DEBUG, "%s: %s", source.name, error)

    for emotion in feed(stream, events, holds, in_order=not source.live, on_error=left_out):
        if first and not answered and not source.live:
            _log.warning("%s: %s", source.name, first)
        answered = True
        yield emotion
    if first and not answered:
        raise InputError(f"{source.name}: {first}")
    lost = {name: count for name, count in {"bad_chunks": bad, **stream.stats}.items() if count}
    if lost:
        _log.info("%s: %s", source.name, ", ".join(f"{count} {name}" for name, count in lost.items()))


def _with_text(
    source: Source, model: Recognizer, text: str | Path | None
) -> tuple[tuple[str, ...], Iterable[Frame | Sound | Words]]:
    """The modalities and the events of a source and of the text beside it."""
    if text is None:
        return source.modalities, source
    model.check_modalities(["text"])
    if source.live:
        raise InputError(
            f"{source.name}: it is live, and a text with times belongs to a recording; "
            "Stream.push_text takes what is said now"
        )
    return (*source.modalities, "text"), beside(source, read_words(text), source.name)
