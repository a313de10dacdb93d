"""Pictures, sound and words of a source into a stream, answers out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from edgeemo.capture.source import Frame, Sound, Words
from edgeemo.errors import InputError
from edgeemo.recognition.clock import before

if TYPE_CHECKING:
    from edgeemo.recognition.emotion import Emotion
    from edgeemo.recognition.stream import Stream


def feed(
    stream: Stream,
    events: Iterable[Frame | Sound | Words],
    modalities: Collection[str],
    *,
    in_order: bool,
    on_error: Callable[[InputError], None] | None = None,
) -> Iterator[Emotion]:
    """Push every event, yield every answer, and end the stream with the events.

    Args:
        stream: a new or reset stream.
        events: pictures, sound and words; what the stream does not read is passed over.
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
        if modality_of(event) not in expected:
            continue
        try:
            _push(stream, event)
            if in_order:
                for modality in expected:
                    # Words may end at this very time and come after it.
                    stream.advance(modality, before(event.time) if modality == "text" else event.time)
        except InputError as error:
            if on_error is None:
                raise
            on_error(error)
        yield from stream.poll()
    for modality in expected:
        stream.end(modality)
    yield from stream.poll()


def modality_of(event: Frame | Sound | Words) -> str:
    """What an event is for."""
    return "face" if isinstance(event, Frame) else "voice" if isinstance(event, Sound) else "text"


def _push(stream: Stream, event: Frame | Sound | Words) -> None:
    if isinstance(event, Frame):
        stream.push_frame(event.image, event.time)
    elif isinstance(event, Words):
        stream.push_text(event.words, event.start, event.end)
    else:
        stream.push_audio(event.samples, event.sample_rate, event.time)
