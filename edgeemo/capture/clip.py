"""Pictures and sound from files, with the times that the files give them."""

from __future__ import annotations

import codecs
import heapq
import logging
import re
import threading
from collections.abc import Callable, Collection, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeemo.capture.source import Frame, SampleTimes, Sound
from edgeemo.errors import InputError, SourceError, shown

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

_log = logging.getLogger("edgeemo")

_KINDS: dict[str, Literal["video", "audio"]] = {"face": "video", "voice": "audio"}
PICTURE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
"""Names of files with these endings are still pictures."""
# Bare streams do not tell their length; FFmpeg guesses it from the bit rate.
_GUESSED_LENGTH = frozenset(("aac", "ac3", "amr", "dts", "eac3", "h264", "hevc", "loas", "m4v", "mpegvideo"))
# Between a millisecond, the coarsest unit of common containers, and 20 ms, the length of short packets.
_STAMP_TOLERANCE = 0.01
# Headers round, and codecs pad: what ends this many seconds before the declared end was cut off.
_MISSING = 0.15
_MOST_SILENCE = 60.0  # seconds of silence that one gap becomes at most; a longer one is a broken stamp
_MOST_FAILED_READS = 100


class Clip:
    """A video, a sound file or a picture, read in the order of time; 0 is the start of its first stream.

    Every iteration starts at the beginning. A file that was cut off is read up to the cut; damaged packets
    are left out. `stats` counts `bad_packets` and says `truncated` (0 or 1) for the last iteration, and a
    warning is logged at its end.

    Args:
        path: The file.
        modalities: What to read of it: 'face', 'voice' or both.

    Raises:
        InputError: An unknown modality.
        SourceError: The file is missing, empty, a folder, not media, or has none of the modalities.
    """

    live: bool = False

    def __init__(self, path: str | Path, modalities: Collection[str] = ("face", "voice")) -> None:
        if not modalities or any(name not in _KINDS for name in modalities):
            given = ", ".join(map(shown, modalities)) or "none"
            raise InputError(f"modalities: {given}; give 'face', 'voice' or both")
        self.name = str(path)
        self.stats: dict[str, int] = {"bad_packets": 0, "truncated": 0}
        self._path = Path(path)
        self._closed = False
        self._picture: NDArray[np.uint8] | None = None
        self.duration: float | None = 0.0
        # FFmpeg takes a picture's name with % or * in it for a pattern.
        kinds, still = ({"video"}, True) if self._path.suffix.lower() in PICTURE_SUFFIXES else self._look()
        self.modalities: tuple[str, ...] = tuple(
            name for name, kind in _KINDS.items() if name in modalities and kind in kinds
        )
        if not self.modalities:
            wanted = " or ".join({"face": "picture", "voice": "sound"}[name] for name in modalities)
            raise SourceError(f"{path}: holds no {wanted} that can be decoded")
        if still:
            self._picture = _read_picture(self._path)

    def _look(self) -> tuple[set[str], bool]:
        """Note the duration; the kinds of streams in the file, and whether it is a single picture."""
        with _open(self._path) as container:
            still = container.format.name == "image2" or container.format.name.endswith("_pipe")
            if not still:
                self.duration = None if container.duration is None else container.duration / 1e6
            return set(_streams(container)), still

    def __iter__(self) -> Iterator[Frame | Sound]:
        if self._closed:
            return
        self.stats.update(bad_packets=0, truncated=0)
        if self._picture is not None:
            yield Frame(0.0, self._picture.copy)
            return
        readers: dict[str, Callable[[], Generator[Frame | Sound, None, None]]]
        readers = {"face": self._frames, "voice": self._sounds}
        parts = [readers[name]() for name in self.modalities]
        empty = True
        try:
            for item in heapq.merge(*parts, key=lambda item: item.time):
                if self._closed:
                    return
                empty = False
                yield item
        finally:
            for part in parts:
                part.close()
        if empty and not self._closed:
            raise SourceError(f"{self.name}: nothing in it can be decoded: give an undamaged media file")
        self._report()

    def close(self) -> None:
        """End the iterations that are under way; a closed clip gives nothing more."""
        self._closed = True

    def _frames(self) -> Generator[Frame | Sound, None, None]:
        convert = _Converter()
        last: float | None = None
        for frame, stream, start in self._decoded("video"):
            if frame.pts is not None:
                time = float(frame.pts * frame.time_base) - start
            else:
                time = 0.0 if last is None else last + 1.0 / float(stream.average_rate or 25)
            # Where a file understates its reordering, the decoder lets a frame out too late to be of use.
            if last is None or time >= last:
                last = time
                yield Frame(time, partial(convert, frame))

    def _sounds(self) -> Generator[Frame | Sound, None, None]:
        times = SampleTimes(_STAMP_TOLERANCE)
        for block, _, start in self._decoded("audio"):
            samples = _mono(block)
            stamp = None if block.pts is None else float(block.pts * block.time_base) - start
            yield Sound(times.place(stamp, len(samples), block.sample_rate), samples, block.sample_rate)

    def _decoded(self, kind: Literal["video", "audio"]) -> Iterator[tuple[Any, Any, float]]:
        """What one stream holds, from a demuxer of its own, with the stream and the start in seconds."""
        import av

        with _open(self._path) as container:
            streams = _streams(container)
            stream = streams[kind]
            stream.thread_type = "AUTO"
            start = _start(container)
            reach = _Reach(container)
            for packet in self._packets(container, reach):
                if packet.stream.index != stream.index:
                    continue
                try:
                    decoded = packet.decode()
                except av.FFmpegError:
                    self.stats["bad_packets"] += 1
                    continue
                for frame in decoded:
                    yield frame, stream, start
            if reach.short():
                self.stats["truncated"] = 1

    def _packets(self, container: InputContainer, reach: _Reach) -> Iterator[av.Packet[Any]]:
        import av

        failed = 0
        while failed < _MOST_FAILED_READS:
            try:
                for packet in container.demux():
                    reach.note(packet)
                    yield packet
                    failed = 0
                return
            except av.FFmpegError:  # demuxing goes on behind a damaged place; at a lasting error it does not
                failed += 1
                self.stats["bad_packets"] += 1
        self.stats["truncated"] = 1

    def _report(self) -> None:
        damaged = self.stats["bad_packets"]
        if self.stats["truncated"]:
            _log.warning("%s: the file was cut off; read up to the cut", self.name)
        elif damaged:
            _log.warning("%s: %d damaged packets were left out", self.name, damaged)


class _Reach:
    """How far the packets of all streams go, to tell a file that was cut off from one that ends."""

    def __init__(self, container: InputContainer) -> None:
        self._ends: dict[int, float] = {}
        self._partial = False  # whether the last packet was shorter than its header says
        self._start = _start(container)
        self._declared: dict[int, float] = {}
        self._whole: float | None = None
        if container.format.name not in _GUESSED_LENGTH:
            self._whole = None if container.duration is None else container.duration / 1e6
            for stream in _streams(container).values():
                if stream.duration is not None:
                    first = (stream.start_time or 0) * stream.time_base
                    self._declared[stream.index] = float(first + stream.duration * stream.time_base)

    def note(self, packet: av.Packet[Any]) -> None:
        if packet.pts is None or packet.time_base is None:
            return
        end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
        index = packet.stream.index
        self._ends[index] = max(end, self._ends.get(index, end))
        self._partial = packet.is_corrupt

    def short(self) -> bool:
        last = max(self._ends.values(), default=0.0)
        # A container counts its length from 0 or from its first stamp; either will do.
        whole = self._whole is not None and max(last, last - self._start) < self._whole - _MISSING
        return (
            self._partial
            or whole
            or any(self._ends.get(index, 0.0) < end - _MISSING for index, end in self._declared.items())
        )


class _Converter:
    """Makes BGR pictures of decoded frames, upright, with one scaler for all frames of a clip."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._scaler = VideoReformatter()
        self._rounding = _exact_rounding()
        self._lock = threading.Lock()  # a scaler serves one thread at a time

    def __call__(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        with self._lock:
            try:
                # Threads cost more to start than the conversion takes.
                converted = self._scaler.reformat(frame, format="bgr24", threads=1, **self._rounding)
            except TypeError:  # older versions of PyAV use one anyway
                converted = self._scaler.reformat(frame, format="bgr24", **self._rounding)
        picture = np.asarray(converted.to_ndarray(), np.uint8)
        # Counterclockwise, in degrees; older versions of PyAV do not say.
        turns = round(getattr(frame, "rotation", 0) / 90) % 4
        return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _exact_rounding() -> dict[str, Any]:
    """Ask FFmpeg for the same picture on every processor; by default x86-64 takes a short cut of its own."""
    from av.video.reformatter import Interpolation

    try:
        return {"interpolation": Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT}
    except AttributeError:  # older versions of PyAV do not know these
        return {}


def read_sound(path: str | Path) -> tuple[NDArray[np.float32], int]:
    """Read all sound of a file, mono; sample 0 is at the start of the file, and gaps are silence.

    Where the times jump by more than a minute, forwards or back, a minute of silence or nothing is put in,
    and what follows is placed from there.

    Returns:
        float32 samples of shape (n,) within [-1, 1], and their rate per second.

    Raises:
        SourceError: The file cannot be read or has no sound.
    """
    parts: list[NDArray[np.float32]] = []
    rate, length = 0, 0
    jumped = 0  # samples by which the times are ahead of what was read
    for sound in Clip(path, ("voice",)):
        assert isinstance(sound, Sound)
        rate = rate or sound.sample_rate
        if sound.sample_rate != rate:
            raise SourceError(
                f"{path}: its sample rate changes from {rate} to {sound.sample_rate} at {sound.time:.2f} s: "
                "convert it to one rate"
            )
        offset = round(sound.time * rate) - jumped - length
        most = round(_MOST_SILENCE * rate)
        if abs(offset) > most:
            kept = most if offset > 0 else 0
            jumped += offset - kept
            offset = kept
        samples = sound.samples[max(-offset, 0) :]
        parts += [np.zeros(max(offset, 0), np.float32), samples]
        length += max(offset, 0) + len(samples)
    return np.concatenate(parts), rate


def read_pictures(path: str | Path) -> list[NDArray[np.uint8]]:
    """Read a picture, or the pictures of a folder in the order of their names (2.png before 10.png).

    Files of a folder that are not named as pictures are passed over.

    Returns:
        BGR uint8 arrays of shape (height, width, 3).

    Raises:
        SourceError: It is missing, a folder without pictures, or a picture in it cannot be decoded.
    """
    path = Path(path)
    if not path.is_dir():
        return [_read_picture(path)]
    files = [
        file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES and file.name[0] != "."
    ]
    if not files:
        raise SourceError(f"{path}: a folder without pictures ({', '.join(sorted(PICTURE_SUFFIXES))})")
    return [_read_picture(file) for file in sorted(files, key=_natural)]


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(digits or 0), text) for digits, text in re.findall(r"(\d+)|(\D+)", path.name)]


def _read_picture(path: Path) -> NDArray[np.uint8]:
    import cv2

    _check_file(path)
    try:
        # Not imread: it answers unusual names and unreadable files alike with None.
        picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error) as error:
        raise SourceError(f"{path}: cannot be read ({error}): give a JPEG or PNG file") from error
    if picture is None:
        raise SourceError(f"{path}: not a picture, or a damaged one: give a JPEG or PNG file")
    return np.asarray(picture, np.uint8)


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise SourceError(f"{path}: a folder: give one video, sound file or picture")
        if not path.exists():
            raise SourceError(f"{path}: no such file: give a video, a sound file or a picture")
        if not path.is_file():
            raise SourceError(f"{path}: a device or a pipe: give a video, a sound file or a picture")
        if path.stat().st_size == 0:
            raise SourceError(f"{path}: an empty file: give a video, a sound file or a picture")
    except (OSError, ValueError) as error:  # a name that the system refuses, or a folder without permission
        raise SourceError(f"{path}: cannot be read ({error})") from error


def _open(path: Path) -> InputContainer:
    _check_file(path)
    try:
        import av
    except ImportError as error:
        raise SourceError(f"{path}: clips need the package av (PyAV): pip install av") from error
    head = b""
    try:
        with path.open("rb") as file:
            head = file.read(512)
        # FFmpeg draws text as pictures of a terminal, and waits for ever for what a playlist names.
        if _is_text(head):
            raise SourceError(f"{path}: text, not media: give a video, a sound file or a picture")
        # Without options: given any, PyAV up to 16 crashes where the streams are not in the header (FLV).
        container: InputContainer = av.open(f"file:{path}", **_tolerant(av.__version__))
        return container
    except (av.FFmpegError, OSError, ValueError) as error:
        raise SourceError(f"{path}: {_why_not(head, error)}") from error


def _tolerant(version: str) -> dict[str, Any]:
    """What makes a title readable that is not UTF-8: PyAV below 19 raises without it, 19 does not know it."""
    return {"metadata_errors": "replace"} if int(version.split(".")[0]) < 19 else {}


def _is_text(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # a character may be cut at the end
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character.isspace() for character in text)


def _why_not(head: bytes, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "this user may not read it"
    if head[4:8] == b"ftyp":
        return "an MP4 file whose index is missing: it was cut off or never finished; copy or record it again"
    return "not media that FFmpeg can read, or a damaged file: give a video, a sound file or a picture"


def _streams(container: InputContainer) -> dict[str, Any]:
    """The first stream of pictures and the first of sound that can be decoded, by kind."""
    found: dict[str, Any] = {}
    for stream in container.streams:
        decodable = getattr(stream, "codec_context", None) is not None
        if stream.type in _KINDS.values() and decodable and not _is_cover(stream):
            found.setdefault(stream.type, stream)
    return found


def _is_cover(stream: Any) -> bool:
    """Whether a stream of pictures is the cover of an album."""
    disposition = getattr(stream, "disposition", None)  # older versions of PyAV have none
    flag = getattr(type(disposition), "attached_pic", None)
    return disposition is not None and flag is not None and bool(disposition & flag)


def _start(container: InputContainer) -> float:
    streams = _streams(container).values()
    stamps = [stream.start_time * stream.time_base for stream in streams if stream.start_time is not None]
    return float(min(stamps, default=0.0))


def _mono(block: av.AudioFrame) -> NDArray[np.float32]:
    """The mean of the channels as float32 within [-1, 1], whatever the layout and format of the block."""
    values: NDArray[Any] = block.to_ndarray()
    if not block.format.is_planar:
        values = values.reshape(block.samples, -1).T
    if values.dtype.kind == "f":
        # Sound in floating point may hold anything.
        scaled = np.nan_to_num(values.astype(np.float32), nan=0.0)
    elif values.dtype.kind == "u":
        scaled = values.astype(np.float32) / 128.0 - 1.0
    else:
        scaled = values.astype(np.float32) / float(1 << (8 * values.dtype.itemsize - 1))
    mixed = scaled[0] if len(scaled) == 1 else scaled.mean(axis=0, dtype=np.float32)
    limited: NDArray[np.float32] = np.clip(mixed, -1.0, 1.0)
    return limited
