"""What a recorded session holds: a folder of pictures and sound with their times, read like a clip.

```
session.json     what it is, who agreed to it, and when it expires; null for counts that its end would write
frames.tsv       time and name of each picture, a line each, written before the picture
frames/          the pictures, 00000000.jpg and on
sound.tsv        time, first sample and sample rate of each piece that follows the one before with a gap
sound.wav        all samples of all pieces, mono, 32-bit floating point
```

All times are seconds on the clock of the source that was recorded.
"""

from __future__ import annotations

import heapq
import json
import logging
import re
import stat
import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeemo.capture.source import Frame, Sound
from edgeemo.errors import InputError, SourceError, shown

_log = logging.getLogger("edgeemo")

SCHEMA = 1
"""Version of the format that is written and read."""

ABOUT = "session.json"
FRAMES, FRAMES_HEAD = "frames.tsv", "time\tfile"
SOUND, SOUND_HEAD = "sound.tsv", "time\tsample\tsample_rate"
WAVE = "sound.wav"
PICTURES = "frames"
PICTURE_NAME = re.compile(r"[0-9]{8,12}\.jpg")
"""Names of the pictures of a session, and of nothing else."""

DATE = "%Y-%m-%dT%H:%M:%SZ"
"""How session.json writes a moment, in UTC."""

# RIFF; a format chunk for mono 32-bit floating point; a fact chunk, which that needs; and the data.
WAVE_HEADER = struct.Struct("<4sI4s 4sIHHIIHHH 4sII 4sI")
UNFINISHED = 0xFFFFFFFF
"""In place of a size: as much as there is."""

_TABLES = {"face": FRAMES, "voice": SOUND}
_MOST_ABOUT = 1 << 20  # bytes
LONGEST = 1e9
"""Seconds, thirty years, beyond which a time was not meant as seconds."""

RATES = range(4000, 192001)
"""Samples per second that are recorded and replayed."""

_BLOCK = 0.1  # seconds of sound that are read at once


def wave_header(sample_rate: int, samples: int | None) -> bytes:
    """The head of `sound.wav`; None where the number of samples is not known yet, or is more than it can say.

    Example:
        >>> len(wave_header(16000, None))
        58
    """
    known = samples is not None and samples <= (UNFINISHED - WAVE_HEADER.size) // 4
    data = 4 * samples if samples is not None and known else UNFINISHED
    whole = data + WAVE_HEADER.size - 8 if known else UNFINISHED
    form = (3, 1, sample_rate, 4 * sample_rate, 4, 32, 0)
    count = data // 4 if known else UNFINISHED
    return WAVE_HEADER.pack(b"RIFF", whole, b"WAVE", b"fmt ", 18, *form, b"fact", 4, count, b"data", data)


@dataclass(frozen=True)
class About:
    """What `session.json` says that the reader needs.

    Attributes:
        modalities: 'face', 'voice' or both.
        expires: from then on it is not replayed.
        finished: whether the recording came to its end; a process that was killed could not say so.
        fields: all of it.
    """

    modalities: tuple[str, ...]
    expires: datetime
    finished: bool
    fields: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> About:
        """Read it.

        Raises:
            SourceError: it is missing, or not what edgeemo writes.
        """
        path = folder / ABOUT
        fields = _fields(path)
        if fields.get("schema") != SCHEMA or fields["schema"] is True:
            raise SourceError(
                f"{path}: schema {shown(fields.get('schema'))}; this version of edgeemo reads {SCHEMA}"
            )
        modalities = fields.get("modalities")
        if (
            not isinstance(modalities, list)
            or not modalities
            or any(one not in ("face", "voice") for one in modalities)
        ):
            raise SourceError(f"{path}: modalities must list 'face', 'voice' or both")
        _moment(path, fields, "created")
        return cls(
            tuple(name for name in _TABLES if name in modalities),
            _moment(path, fields, "expires"),
            fields.get("seconds") is not None,
            fields,
        )

    def expired(self) -> bool:
        """Whether the time for which it was to be kept is over."""
        return self.expires <= datetime.now(timezone.utc)


class Picture(NamedTuple):
    """One line of `frames.tsv`."""

    time: float
    file: str


class Piece(NamedTuple):
    """One line of `sound.tsv`: from this sample on, until the next piece, sound without a gap."""

    time: float
    sample: int
    sample_rate: int


class Recording:
    """A recorded session as a source: at most one picture per hop and all sound, in the order of time.

    Every iteration starts at the beginning. A session that was cut off by a kill or a loss of power is read
    as far as it was written. `stats` counts `missing_frames`, pictures that the table names and the folder
    does not hold, and says `truncated` (0 or 1); a warning is logged at the end of an iteration.

    Args:
        path: The folder of the session.
        modalities: What to read of it: 'face', 'voice' or both.

    Raises:
        InputError: An unknown modality.
        SourceError: No session, a damaged or an expired one, or one with none of the modalities.
    """

    live: bool = False

    def __init__(self, path: str | Path, modalities: Collection[str] = ("face", "voice")) -> None:
        if not modalities or any(name not in _TABLES for name in modalities):
            given = ", ".join(map(shown, modalities)) or "none"
            raise InputError(f"modalities: {given}; give 'face', 'voice' or both")
        self.name = str(path)
        self._path = Path(path)
        self.about = About.read(self._path)
        if self.about.expired():
            raise SourceError(
                f"{path}: this session was to be kept until {self.about.expires:%Y-%m-%d} and is not "
                f"replayed any more: delete it with 'edgeemo forget {path}'"
            )
        self._closed = False
        self._torn = False  # a table ends in the middle of a line
        self._pictures = self._table(FRAMES, FRAMES_HEAD, _picture) if "face" in self.about.modalities else []
        self._pictures.sort(key=lambda one: one.time)
        self._pieces = self._table(SOUND, SOUND_HEAD, _piece) if "voice" in self.about.modalities else []
        if any(later.sample < piece.sample for piece, later in pairwise(self._pieces)):
            raise SourceError(f"{self._path / SOUND}: a piece begins before the one in front of it")
        self._samples = self._sound_length() if self._pieces else 0
        held = {"face": bool(self._pictures), "voice": self._samples > 0}
        self.modalities: tuple[str, ...] = tuple(
            name for name in _TABLES if name in modalities and held[name]
        )
        if not self.modalities:
            wanted = " or ".join({"face": "picture", "voice": "sound"}[name] for name in modalities)
            raise SourceError(f"{path}: the session holds no {wanted}")
        self.duration: float | None = self._end()
        self.stats: dict[str, int] = {"missing_frames": 0, "truncated": 0}

    def __iter__(self) -> Iterator[Frame | Sound]:
        if self._closed:
            return
        self.stats.update(missing_frames=0, truncated=int(self._torn or not self.about.finished))
        readers: dict[str, Callable[[], Iterator[Frame | Sound]]]
        readers = {"face": self._frames, "voice": self._sounds}
        parts = [readers[name]() for name in self.modalities]
        for item in heapq.merge(*parts, key=lambda item: item.time):
            if self._closed:
                return
            yield item
        self._report()

    def close(self) -> None:
        """End the iterations that are under way; a closed recording gives nothing more."""
        self._closed = True

    def _frames(self) -> Iterator[Frame | Sound]:
        folder = self._path / PICTURES
        inside = not folder.is_symlink()  # a link may lead out of the session
        for picture in self._pictures:
            path = folder / picture.file
            if inside and _is_file(path):
                yield Frame(picture.time, partial(_read_picture, path))
            else:
                self.stats["missing_frames"] += 1

    def _sounds(self) -> Iterator[Frame | Sound]:
        path = self._path / WAVE
        with _opened(path) as file:
            for number, piece in enumerate(self._pieces):
                step = round(_BLOCK * piece.sample_rate)
                end = self._piece_end(number)
                for first in range(piece.sample, end, step):
                    file.seek(WAVE_HEADER.size + 4 * first)
                    content = file.read(4 * min(step, end - first))
                    samples = np.frombuffer(content[: len(content) // 4 * 4], "<f4").astype(np.float32)
                    # A disk that failed may hold anything.
                    samples = np.clip(np.nan_to_num(samples, nan=0.0), -1.0, 1.0)
                    time = piece.time + (first - piece.sample) / piece.sample_rate
                    yield Sound(time, samples, piece.sample_rate)

    def _piece_end(self, number: int) -> int:
        later = self._pieces[number + 1].sample if number + 1 < len(self._pieces) else self._samples
        return min(later, self._samples)

    def _end(self) -> float:
        ends = [self._pictures[-1].time] if "face" in self.modalities else []
        if "voice" in self.modalities:
            ends += [
                piece.time + max(self._piece_end(number) - piece.sample, 0) / piece.sample_rate
                for number, piece in enumerate(self._pieces)
            ]
        return max(ends)

    def _sound_length(self) -> int:
        """Samples that the sound file holds."""
        path = self._path / WAVE
        size = _size(path)
        if _is_file(path) and size < WAVE_HEADER.size:  # it was cut off before the first sample
            self._torn = True
            return 0
        with _opened(path) as file:
            found = file.read(WAVE_HEADER.size)
        rate = self._pieces[0].sample_rate
        samples = (size - WAVE_HEADER.size) // 4
        told = WAVE_HEADER.unpack(found)[-1]
        if found != wave_header(rate, None if told == UNFINISHED else told // 4):
            raise SourceError(
                f"{path}: not the sound of a session at {rate} samples per second: mono, 32-bit floating "
                "point, as edgeemo writes it"
            )
        if told != UNFINISHED and told // 4 != samples:
            self._torn = True
            samples = min(samples, told // 4)
        return samples

    def _table(self, name: str, head: str, entry: Callable[[list[str]], _Entry]) -> list[_Entry]:
        """The lines of a table; what a loss of power left of the last one is passed over."""
        path = self._path / name
        with _opened(path) as file:
            content = file.read()
        # What was not on the disk yet when the power went reads as zeros.
        content, zeros, _ = content.partition(b"\0")
        *lines, rest = content.split(b"\n")
        self._torn |= bool(zeros or rest)
        entries: list[_Entry] = []
        for number, line in enumerate(lines, start=1):
            try:
                text = line.decode("ascii")
                if number == 1:
                    if text != head:
                        raise ValueError
                    continue
                entries.append(entry(text.split("\t")))
            except ValueError as error:
                right = head.replace("\t", ", ")
                raise SourceError(
                    f"{path}, line {number}: {line[:80]!r} is not what edgeemo writes: {right}, with a tab "
                    "between each, times in seconds and names of pictures in the session"
                ) from error
        return entries

    def _report(self) -> None:
        missing = self.stats["missing_frames"]
        if missing:
            _log.warning("%s: %d of its pictures are missing and were left out", self.name, missing)
        if self.stats["truncated"]:
            _log.warning("%s: the recording was cut off; read as far as it was written", self.name)


def seen_as_session(folder: Path) -> bool:
    """Whether a folder, not a link to one, holds a `session.json` of edgeemo, expired or not."""
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            return False
        About.read(folder)
    except (SourceError, OSError, ValueError):
        return False
    return True


_Entry = TypeVar("_Entry", Picture, Piece)


def _picture(fields: list[str]) -> Picture:
    time, name = fields
    if not PICTURE_NAME.fullmatch(name):
        raise ValueError(name)
    return Picture(_seconds(time), name)


def _piece(fields: list[str]) -> Piece:
    time, sample, rate = fields
    piece = Piece(_seconds(time), int(sample), int(rate))
    if piece.sample < 0 or piece.sample_rate not in RATES:
        raise ValueError(fields)
    return piece


def _seconds(field: str) -> float:
    seconds = float(field)
    if not 0 <= seconds <= LONGEST:
        raise ValueError(field)
    return seconds


def _fields(path: Path) -> dict[str, Any]:
    if not _is_file(path):
        raise SourceError(
            f"{path.parent}: a folder without {ABOUT}: give one video, sound file or picture, or the folder "
            "of one recorded session"
        )
    if _size(path) > _MOST_ABOUT:
        raise SourceError(f"{path}: larger than {_MOST_ABOUT} bytes; edgeemo did not write this")
    with _opened(path) as file:
        content = file.read(_MOST_ABOUT)
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: not JSON, or damaged; what edgeemo wrote there is lost") from error
    if not isinstance(fields, dict):
        raise SourceError(f"{path}: {shown(fields)}, not the JSON object that edgeemo writes")
    return fields


def _moment(path: Path, fields: dict[str, Any], name: str) -> datetime:
    given = fields.get(name)
    try:
        if not isinstance(given, str):
            raise ValueError
        return datetime.strptime(given, DATE).replace(tzinfo=timezone.utc)
    except ValueError:
        raise SourceError(
            f"{path}: {name} is {shown(given)}; it must be a moment in UTC, such as 2026-01-31T12:00:00Z"
        ) from None


def _is_file(path: Path) -> bool:
    """Whether it is a file itself: a link may lead out of the session, a pipe may never end."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); the session is not whole") from error


def _opened(path: Path) -> Any:
    if not _is_file(path):
        raise SourceError(f"{path}: missing, or not a file; the session is not whole")
    try:
        return path.open("rb")
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error


def _read_picture(path: Path) -> NDArray[np.uint8]:
    import cv2

    try:
        content = np.fromfile(path, np.uint8)
        # Older versions of OpenCV fill up a picture that was cut off with grey.
        whole = content[-2:].tobytes() == b"\xff\xd9"
        picture = cv2.imdecode(content, cv2.IMREAD_COLOR) if whole else None
    except (OSError, cv2.error) as error:
        raise SourceError(f"{path}: cannot be read ({error})") from error
    if picture is None:
        raise SourceError(f"{path}: not a picture, or one that was cut off")
    return np.asarray(picture, np.uint8)
