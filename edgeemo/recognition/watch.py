"""Emotions of a clip, a camera or a microphone, while it runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from edgeemo.capture.source import Source, open_source
from edgeemo.errors import InputError
from edgeemo.recognition.emotion import Emotion
from edgeemo.recognition.feed import feed
from edgeemo.recognition.recognizer import Recognizer, load
from edgeemo.recognition.stream import Stream

LIVE_LATENESS = 0.2
"""Seconds that a live modality is waited for; a file is waited for however long it takes."""

_log = logging.getLogger("edgeemo")


def watch(
    source: str | Path | Source | None = None,
    *,
    camera: int | str | None = None,
    microphone: int | str | None = None,
    model: Recognizer | None = None,
    bundle: str | os.PathLike[str] | None = None,
    hop: float | None = None,
) -> Iterator[Emotion]:
    """Answer a source hop by hop: per hop one Emotion per face, or one without a face.

    The source is closed when it or the iteration ends. A picture or a piece of sound that cannot be used is
    logged and left out.

    Args:
        source: a video, a sound file or a picture, or an opened source.
        camera: the index of a camera, its device file or its stream address.
        microphone: 'default', or the index or a part of the name of an input device.
        model: a loaded model; without it `bundle` is loaded.
        bundle: the folder of a bundle, the one in the package by default.
        hop: seconds between two answers, a multiple of the bundle's, which is the default.

    Raises:
        InputError: no source or more than one, or nothing in it that the model reads.
        SourceError: the source cannot be read.
        BundleError: the bundle cannot be used.
        BackendError: an engine failed.
    """
    if source is None or isinstance(source, str | Path):
        source = open_source(source, camera=camera, microphone=microphone)
    elif camera is not None or microphone is not None:
        raise InputError(f"{source.name}: name either a source, or a camera and a microphone, not both")
    try:
        yield from _answers(source, model or load(bundle), hop)
    finally:
        source.close()


def _answers(source: Source, model: Recognizer, hop: float | None) -> Iterator[Emotion]:
    reads = model.bundle.modalities
    if not set(source.modalities) & set(reads):
        raise InputError(
            f"{source.name}: it holds {' and '.join(source.modalities)} only; "
            f"the bundle {model.bundle.name} reads {' and '.join(reads)}"
        )
    lateness = LIVE_LATENESS if source.live else None
    stream = Stream(model, hop=hop or model.bundle.hop, lateness=lateness)

    def left_out(error: InputError) -> None:
        # The first is worth a line; a source that is broken all the way must not fill the log.
        source.stats["bad_chunks"] = source.stats.get("bad_chunks", 0) + 1
        _log.log(
            logging.WARNING if source.stats["bad_chunks"] == 1 else logging.DEBUG,
            "%s: %s",
            source.name,
            error,
        )

    yield from feed(stream, source, source.modalities, in_order=not source.live, on_error=left_out)
    lost = {name: count for name, count in stream.stats.items() if count}
    if lost:
        _log.info("%s: %s", source.name, ", ".join(f"{count} {name}" for name, count in lost.items()))
