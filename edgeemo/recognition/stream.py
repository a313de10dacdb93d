"""From pictures, sound and words with times to Emotions, hop by hop, while they come."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeemo.errors import InputError, shown
from edgeemo.preprocess.detector import WholePicture
from edgeemo.preprocess.face import as_picture
from edgeemo.preprocess.voice import to_mono
from edgeemo.recognition.clock import HopGrid, before, moment, number
from edgeemo.recognition.emotion import Emotion
from edgeemo.recognition.lane import Lane
from edgeemo.recognition.pictures import Picture, Pictures
from edgeemo.recognition.placement import Placement
from edgeemo.recognition.step import Step
from edgeemo.recognition.transcript import Transcript
from edgeemo.recognition.waveform import Waveform

if TYPE_CHECKING:
    from types import TracebackType

    from edgeemo.recognition.recognizer import Recognizer

LATENESS = 0.2
"""Seconds that a live modality is waited for."""

BACKLOG = 60.0
"""Seconds of pictures, sound and hops that may wait for `poll`."""

_MOST_WORDS = 65_536  # that may wait: seven hours at 150 a minute
_LONGEST_GAP = 86_400.0
"""Seconds by which a time may be ahead of what came before: of more a clock is wrong, not a source silent."""

_log = logging.getLogger("edgeemo")

_STATS = (
    "late_frames",
    "late_samples",
    "late_words",
    "gap_samples",
    "overlap_samples",
    "dropped_frames",
    "dropped_samples",
    "dropped_words",
    "dropped_hops",
    "bad_frames",
)


class Stream:
    """Answers once per hop; how its input is cut into pushes does not change an answer.

    Push pictures, sound and words with their times on one clock that starts at 0, then `poll`. A hop is
    answered when every open modality that is not muted has passed its end, or when one is `lateness` ahead of
    it; what comes for it later is counted and dropped, but for words, which later hops know. An error of a
    push leaves the stream as it was. Not to be used by two threads at once.

    Args:
        model: a model that `load` gave; it may serve several streams, one after the other.
        modalities: which of the model's modalities will come; all by default.
        hop: seconds between two answers, a multiple of the bundle's hop.
        lateness: seconds that one modality may be ahead of another before hops are answered without the
            other; None waits for ever, as for files.
        face_is_cropped: every picture already is a face crop.

    Attributes:
        stats: counts of what was lost: pictures, samples and words that were late ('late_*'), beyond the
            backlog of 60 s or 65536 words ('dropped_*', also hops) or unusable ('bad_frames'), samples that
            were missing ('gap_samples') or there already ('overlap_samples'). Samples are counted at the
            bundle's rate, punctuation marks as words.

    Raises:
        InputError: a modality that the model does not read, a hop that does not fit, a lateness below 0.
    """

    def __init__(
        self,
        model: Recognizer,
        modalities: Iterable[str] | None = None,
        hop: float = 0.1,
        *,
        lateness: float | None = LATENESS,
        face_is_cropped: bool = False,
    ) -> None:
        bundle = model.bundle
        self._grid = HopGrid.of(hop, bundle.hop)
        self._lateness = None if lateness is None else number("lateness", lateness)
        if self._lateness is not None and self._lateness < 0:
            raise InputError(
                f"lateness: {lateness} s is negative; it must be at least 0, or None to wait for ever"
            )
        self.modalities = model.check_modalities(modalities)
        self._model = model
        self._lanes = {modality: Lane() for modality in self.modalities}
        finder = WholePicture if face_is_cropped else model.open_finder
        self._step = Step(bundle, model.graphs, finder, self.modalities, self._grid.multiple)
        self._limit = max(round(BACKLOG / self._grid.hop), 1)
        self._pictures = Pictures(self._limit)
        self.stats: dict[str, int] = dict.fromkeys(_STATS, 0)
        self._rate = bundle.voice.sample_rate if bundle.voice is not None else 0
        if "voice" in self._lanes:
            assert bundle.voice is not None
            self._placement = Placement(self._rate, self.stats)
            self._waveform = Waveform(bundle.voice.context, round(BACKLOG * self._rate))
            # Hops before one that its context may touch.
            self._reach = int(bundle.voice.context / (self._grid.hop * self._rate)) + 1
        if "text" in self._lanes:
            assert model.tokeniser is not None
            self._tokeniser = model.tokeniser
            self._transcript = Transcript(self._grid, bundle.window, _MOST_WORDS)
        self._closed = False
        self._next: int | None = None  # the next hop to answer, None before the first of anything
        self._due = 0  # hops before this one are closed: nothing more is taken for them
        # Answers by hop, of which there are some between two polls only where a graph failed after them.
        self._answered: deque[list[Emotion]] = deque(maxlen=self._limit)

    def push_frame(self, image: Picture, time: float) -> None:
        """Take one picture; of several in one hop the newest counts, and the others cost nothing.

        Args:
            image: BGR uint8 [H, W, 3] (grey and BGRA are taken too), or a callable that makes it when its hop
                is answered. It is not copied: do not write into it before its hop was answered.
            time: seconds on the source's clock, at least 0, and at most a day after all that came before.

        Raises:
            InputError: not a picture, not such a time, or no face is expected here.
        """
        lane = self._open_lane("face")
        time = self._moment(time)
        picture = image if callable(image) else as_picture(image)
        hop = self._grid.index(time)
        if hop < self._due:
            self.stats["late_frames"] += 1
        else:
            self._begin(hop)
            self.stats["dropped_frames"] += self._pictures.put(hop, time, picture)
        lane.time = max(lane.time, time)
        lane.hops = max(lane.hops, hop + 1)
        self._close_hops()

    def push_audio(self, samples: NDArray[Any], sample_rate: int, time: float) -> None:
        """Take a chunk of sound of any length.

        Args:
            samples: float in [-1, 1] or integers, [n] or [n, channels].
            sample_rate: in Hz, 4000 to 192000.
            time: of the first sample, in seconds on the source's clock as for a picture; a chunk within 5 ms
                of the end of the one before continues it.

        Raises:
            InputError: not finite samples, not a rate or such a time, or no voice is expected here.
        """
        lane = self._open_lane("voice")
        time = self._moment(time)
        mono = to_mono(samples)
        if mono.size == 0:
            return
        position, count = self._placement.place(mono, sample_rate, time)
        if count == 0:
            return
        end = position + count
        late = min(max(self._position(self._due) - position, 0), count)
        self.stats["late_samples"] += late
        if late < count:
            self._begin(self._grid.index((position + late) / self._rate))
        if self._placement.waiting >= self._position(1):
            self._hear()
        lane.time = max(lane.time, end / self._rate)
        lane.hops = max(lane.hops, self._grid.index((end - 1) / self._rate) + 1)
        self._close_hops()

    def push_text(self, words: str, start: float, end: float) -> None:
        """Take words that were said together: one, or all of a sentence.

        A hop knows those that have ended by its end, and of them those that end within the window, in the
        order of their starts. Later hops also know words that come late. Where words seldom come, `advance`
        says that there are none, or every hop waits until another modality is ahead by the lateness.

        Args:
            words: with white space between them.
            start: of the first, in seconds on the source's clock as for a picture.
            end: of the last, not before the start: all of them are known from then on.

        Raises:
            InputError: not text or such times, or no text is expected here.
        """
        lane = self._open_lane("text")
        if not isinstance(words, str):
            raise InputError(f"words: {shown(words)} is not text; it must be a str")
        start, end = self._moment(start, "start"), self._moment(end, "end")
        if end < start:
            raise InputError(f"end: {end:g} s is before the start, {start:g} s; it must not be")
        pieces = self._tokeniser.words(words)
        if not pieces:
            return
        time = before(end)
        hop = self._grid.index(time)
        if hop < self._due:
            self.stats["late_words"] += len(pieces)
        else:
            self._begin(hop)
        known = max(hop, self._due)
        self.stats["dropped_words"] += self._transcript.add(pieces, start, end, hop, known)
        lane.time = max(lane.time, time)
        lane.hops = max(lane.hops, hop + 1)
        self._close_hops()

    def poll(self) -> list[Emotion]:
        """Answer the hops that are ready: per hop one Emotion per face, or one without a face.

        Raises:
            BackendError: a graph failed; the next call gives the answers from before that, and goes on with
                the hop after.
        """
        if self._next is None:
            return []
        self._skip_backlog()
        while self._next < self._due:
            hop = self._next
            self._next += 1
            answer = self._answer(hop)
            self.stats["dropped_hops"] += len(self._answered) == self._limit
            self._answered.append(answer)
        emotions = [emotion for answer in self._answered for emotion in answer]
        self._answered.clear()
        return emotions

    def advance(self, modality: str, time: float) -> None:
        """Say that nothing of a modality from before `time` will come, so that hops need not wait for it.

        Raises:
            InputError: not a time as for a picture, or not a modality that is expected here.
        """
        lane = self._open_lane(modality)
        lane.time = max(lane.time, self._moment(time))
        self._close_hops()

    def mute(self, modality: str, muted: bool = True) -> None:
        """Mask a modality from the first hop on that is not closed yet, or use it again.

        It is used again from the first hop on of which nothing was pushed yet. A muted modality is not waited
        for, and a muted voice is not heard later either: where the context of a later hop reaches back into a
        muted one it is silent. Words that end in a muted hop are not known later, whenever they come. So a
        robot that mutes voice and text while it talks never hears itself.

        Raises:
            InputError: not a modality of this stream.
        """
        lane = self._lane(modality)
        lane.mute(muted, self._due if muted else max(self._due, lane.hops))
        self._close_hops()

    def end(self, modality: str) -> None:
        """Say that nothing more of a modality will come; when all have ended the rest can be polled.

        Raises:
            InputError: not a modality of this stream.
        """
        self._lane(modality).open = False
        self._close_hops()

    def reset(self) -> None:
        """Begin anew, as a new stream does."""
        for lane in self._lanes.values():
            lane.reset()
        self._step.reset()
        self._pictures.clear()
        if "voice" in self._lanes:
            self._placement.reset()
            self._waveform.clear()
        if "text" in self._lanes:
            self._transcript.clear()
        self.stats.update(dict.fromkeys(_STATS, 0))
        self._next, self._due = None, 0
        self._answered.clear()

    def close(self) -> None:
        """Drop what waits; nothing can be pushed any more."""
        self.reset()
        self._closed = True

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- which hops are ready

    def _begin(self, hop: int) -> None:
        """The first hop is that of the first picture, sample or word in time, whichever was pushed first."""
        if self._next is None or hop < self._next:
            self._next = hop

    def _close_hops(self) -> None:
        """Find how many hops are complete; at every push, so that the time of a `poll` does not matter."""
        waiting = [lane for lane in self._lanes.values() if lane.open]
        if waiting:
            heard = [lane for lane in waiting if not lane.muted] or waiting
            time = min(lane.time for lane in heard)
            if self._lateness is not None:
                time = max(time, max(lane.time for lane in waiting) - self._lateness)
            due = self._grid.index(time)
        else:
            due = max(lane.hops for lane in self._lanes.values())
        if due > self._due:
            if "voice" in self._lanes:
                self._hear()
            self._due = due

    def _hear(self) -> None:
        """Resample what was pushed since the last call.

        No hop has closed since: what is late now was late when it was pushed.
        """
        first = self._position(self._due)
        for position, run in self._placement.take():
            late = max(first - position, 0)
            if late < run.size:
                self.stats["dropped_samples"] += self._waveform.append(position + late, run[late:])

    def _skip_backlog(self) -> None:
        """Leave out the oldest hops of more than a minute that were never polled."""
        assert self._next is not None
        excess = self._due - self._next - self._limit
        if excess > 0:
            if "voice" in self._lanes:
                self._hush_muted(max(self._next, self._next + excess - self._reach), self._next + excess)
            if "text" in self._lanes:
                first = self._next + excess - self._transcript.reach
                self._forget_muted(max(self._next, first), self._next + excess)
            self._next += excess
            self.stats["dropped_hops"] += excess
            self.stats["dropped_frames"] += self._pictures.drop_before(self._next)
            self._step.skip(excess)

    def _hush_muted(self, first: int, end: int) -> None:
        """Silence the muted ones of hops that are left out, because contexts of later hops reach back."""
        for hop in range(first, end):
            if self._lanes["voice"].muted_in(hop):
                self._waveform.hush(self._position(hop), self._position(hop + 1))

    def _forget_muted(self, first: int, end: int) -> None:
        """Let later hops not know the words of the muted ones of hops that are left out."""
        for hop in range(first, end):
            if self._lanes["text"].muted_in(hop):
                self._transcript.mute(hop)

    # --- one hop

    def _answer(self, hop: int) -> list[Emotion]:
        muted = [modality for modality, lane in self._lanes.items() if lane.muted_in(hop)]
        picture = self._pictures.take(hop)
        image = None if picture is None or "face" in muted else self._made(picture)
        context = self._context(hop, "voice" in muted) if "voice" in self._lanes else None
        words = self._known(hop, "text" in muted) if "text" in self._lanes else None
        return self._step.answer(self._grid.end(hop), image, context, words, muted)

    def _made(self, picture: Picture) -> NDArray[np.uint8] | None:
        """The picture itself; one that cannot be made counts as missing, because the stream must go on."""
        try:
            return as_picture(picture()) if callable(picture) else picture
        except Exception as error:  # whatever a decoder or a caller's function raises
            self.stats["bad_frames"] += 1
            # Where none can be made, a line for each would fill the log.
            level = logging.WARNING if self.stats["bad_frames"] == 1 else logging.DEBUG
            _log.log(level, "a picture could not be used: %s", error)
            return None

    def _context(self, hop: int, muted: bool) -> NDArray[np.float32] | None:
        start, end = self._position(hop), self._position(hop + 1)
        context = self._waveform.context(end)
        if muted:
            self._waveform.hush(start, end)
        return context

    def _known(self, hop: int, muted: bool) -> NDArray[np.int32] | None:
        if muted:
            self._transcript.mute(hop)
        words = self._transcript.known(hop)
        return self._tokeniser.row(words) if words else None

    def _position(self, hop: int) -> int:
        """The first sample of a hop."""
        return round(hop * self._grid.hop * self._rate)

    # --- what is legal

    def _moment(self, time: Any, name: str = "time") -> float:
        """A time on the clock of what came before: the stream would wait for ever behind a wrong one."""
        seconds = moment(time, name)
        newest = max(lane.time for lane in self._lanes.values())
        if seconds > newest + _LONGEST_GAP and (newest > 0 or self._next is not None):
            raise InputError(
                f"{name}: {seconds:g} s is more than a day after {newest:g} s, the last before it; it must "
                "be in seconds on one clock, or reset() begins anew"
            )
        return seconds

    def _lane(self, modality: str) -> Lane:
        if self._closed:
            raise InputError("the stream is closed; open a new one")
        if not isinstance(modality, str) or modality not in self._lanes:
            self._model.check_modalities([modality])
            raise InputError(
                f"{modality}: the stream was opened for {' and '.join(self.modalities)}; name it there"
            )
        return self._lanes[modality]

    def _open_lane(self, modality: str) -> Lane:
        lane = self._lane(modality)
        if not lane.open:
            raise InputError(f"{modality}: it has ended; reset() begins anew")
        return lane
