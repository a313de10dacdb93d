"""Words with times: from a table, or spread over a recording that has none; and beside its events."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgeemo.capture.source import Frame, Sound, Words
from edgeemo.errors import SourceError

_log = logging.getLogger("edgeemo")

_LINE = "start, end (in seconds) and words, with a tab between each"
_HEADERS = (["start", "end", "words"], ["start", "end", "word"])


def read_words(path: str | Path) -> list[Words]:
    """Read a table of words: UTF-8, `start<TAB>end<TAB>words` a line, in any order, with or without a header.

    Lines without words are passed over.

    Args:
        path: the file.

    Raises:
        SourceError: it cannot be read; or a line is not as above, and the message names it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        if isinstance(error, UnicodeDecodeError):
            why = f"byte {error.start} is not UTF-8"
        raise SourceError(f"{path}: it cannot be read ({why}); each line must be {_LINE}") from error
    words = []
    for number, line in enumerate(text.split("\n"), start=1):
        fields = [field.strip() for field in line.split("\t")]
        if not any(fields) or (number == 1 and [field.lower() for field in fields] in _HEADERS):
            continue
        entry = _entry(f"{path}, line {number}", fields)
        if entry.words:
            words.append(entry)
    return words


def spread(text: str, seconds: float) -> list[Words]:
    """The words of a text, evenly over a recording of so many seconds.

    Example:
        >>> [(one.words, one.start, one.end) for one in spread("well played", 3.0)]
        [('well', 0.0, 1.5), ('played', 1.5, 3.0)]
    """
    words = text.split()
    ends = [seconds * count / len(words) for count in range(len(words))] + [seconds]
    return [Words(word, ends[place], ends[place + 1]) for place, word in enumerate(words)]


def beside(
    events: Iterable[Frame | Sound], words: Iterable[Words], name: str
) -> Iterator[Frame | Sound | Words]:
    """The events of a recording and what is said in it, in the order of their times.

    Words that begin after the recording has ended are left out, with a warning.

    Args:
        events: of the recording, in order.
        words: in any order.
        name: what messages call the recording.
    """
    waiting, end = deque(sorted(words, key=lambda one: one.time)), 0.0
    for event in events:
        while waiting and waiting[0].time <= event.time:
            yield waiting.popleft()
        seconds = event.samples.size / event.sample_rate if isinstance(event, Sound) else 0.0
        end = max(end, event.time + seconds)
        yield event
    said = [one for one in waiting if one.start <= end]
    yield from said
    if len(said) < len(waiting):
        _log.warning(
            "%s: %d of its words begin after it has ended, at %.1f s, and are left out; times are in seconds",
            name,
            len(waiting) - len(said),
            end,
        )


def _entry(where: str, fields: list[str]) -> Words:
    if len(fields) != 3:
        raise SourceError(f"{where}: it has {len(fields)} fields; it must be {_LINE}")
    start, end = (_seconds(where, *given) for given in zip(("start", "end"), fields[:2], strict=True))
    if end < start:
        raise SourceError(f"{where}: the end, {end:g} s, is before the start, {start:g} s; it must not be")
    return Words(fields[2], start, end)


def _seconds(where: str, name: str, field: str) -> float:
    try:
        value = float(field)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise SourceError(f"{where}: the {name} is {field!r}; it must be a number of seconds of at least 0")
    return value
