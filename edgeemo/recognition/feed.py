"""Pictures and sound of a source into a stream, answers out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from edgeemo.capture.source import Frame, Sound
from edgeemo.errors import InputError

if TYPE_CHECKING:
    from edgeemo.recognition.emotion import Emotion
    from edgeemo.recognition.stream import Stream


def feed(
    stream: Stream,
    events: Iterable[Frame | Sound],
    modalities: Collection[str],
    *,
    in_order: bool,
    on_error: Callable[[InputError], None] | None = None,
) -> Iterator[Emotion]:
    """Push every event, yield every answer, and end the stream with the events.

    Args:
        stream: a new or reset stream.
        events: pictures and sound; what the stream does not read is passed over.
        modalities: what the events hold; what else the stream reads is ended at once.
        in_order: the times of the events never go back, as in a file. No hop then waits for a modality that
            has nothing more, or nothing for a while, however far the other goes on.
        on_error: takes the error of an event that cannot be used, and the feed goes on; None raises it.

    Raises:
        InputError: an event that cannot be used.
    """
    expected = [modality for modality in stream.modalities if modality in modalities]
    for modality in stream.modalities:
        if modality not in expected:
            stream.end(modality)
    for event in events:
        if ("face" if isinstance(event, Frame) else "voice") not in expected:
            continue
        try:
            _push(stream, event)
            if in_order:
                for modality in expected:
                    stream.advance(modality, event.time)
        except InputError as error:
            if on_error is None:
                raise
            on_error(error)
        yield from stream.poll()
    for modality in expected:
        stream.end(modality)
    yield from stream.poll()


def _push(stream: Stream, event: Frame | Sound) -> None:
    if isinstance(event, Frame):
        stream.push_frame(event.image, event.time)
    else:
        stream.push_audio(event.samples, event.sample_rate, event.time)
