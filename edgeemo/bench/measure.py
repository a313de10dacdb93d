"""How long each part of a step takes, while a stream is given a source at once or as it comes."""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgeemo.bench.looped import Looped, Paced
from edgeemo.bench.statistics import WarmUp
from edgeemo.bench.watches import Clock, Watches
from edgeemo.capture.source import Frame, Sound, Source
from edgeemo.errors import InputError
from edgeemo.logs import saying_once
from edgeemo.recognition.feed import modality_of
from edgeemo.recognition.recognizer import Recognizer
from edgeemo.recognition.stream import LATENESS, Stream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeemo.recognition.emotion import Emotion

LEAST = 25
"""Steps that are measured however long they take, so that a slow machine too has some with a detection."""

_GOLDEN = 0.5 * (
    5**0.5 - 1
)  # its multiples, less their whole parts, are spread evenly however many there are
_SEAM = ("gap_samples", "overlap_samples")  # rounding where a round of the file ends

Deliver = Callable[[Sequence["Emotion"]], object]


@dataclass(frozen=True)
class Hop:
    """What one hop took, or several that were answered at once.

    Attributes:
        ends: where each ends, in seconds on the clock of the source.
        parts: seconds of 'detect' and of each graph, of those that ran.
        capture: reading and decoding, in seconds, where the source is played at once; where it is live,
            waiting from the end of the last hop until what completes it was taken.
        step: seconds of all that edgeemo does for a hop: taking its pictures and its sound, and answering.
        deliver: seconds of handing the answer on.
        faces: in view, of the last hop.
        late: of a live source, seconds from the end of the last hop until it was delivered.
    """

    ends: tuple[float, ...]
    parts: Mapping[str, float]
    capture: float
    step: float
    deliver: float
    faces: int = 1
    late: float | None = None

    @property
    def latency(self) -> float:
        """Seconds from when the last hop was captured until it was delivered.

        Of a live source all waiting is in it. A source that is played at once is there when the step begins:
        what its file takes is not in it, as MLPerf's samples are loaded before they are asked for.
        """
        return self.step + self.deliver if self.late is None else self.late


@dataclass
class Samples:
    """What was measured.

    Attributes:
        stages: seconds by stage in the order of time, an entry for each hop in which it ran: 'capture',
            'detect', the graphs, 'decide' (a step less detection and graphs), 'deliver'; 'update', the calls
            of all graphs of the hop; 'step' for a hop with detection, 'step_tracked' for one without and
            'step_all' for both; 'latency', see [Hop][]. Hops that were answered together have a latency each
            and nothing else.
        seconds: how long that took.
        overhead: of each hop with detection, (step - detect - graphs) / (step - detect).
        overhead_tracked: of each hop without, (step - graphs) / step.
        kinds: of each entry of 'update', which parts ran for how many faces.
        warm_up: how it was before.
        live: what was seen of a live source alone, None otherwise.
    """

    stages: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    overhead: list[float] = field(default_factory=list)
    overhead_tracked: list[float] = field(default_factory=list)
    kinds: list[tuple[frozenset[str], int]] = field(default_factory=list)
    warm_up: WarmUp = field(default_factory=WarmUp)
    live: Live | None = None

    @property
    def steps(self) -> int:
        """Hops that were measured, each by itself."""
        return len(self.overhead) + len(self.overhead_tracked)

    @property
    def answered(self) -> int:
        """All hops that were answered."""
        return len(self.stages.get("latency", ()))

    @property
    def faces(self) -> int:
        """In view in most hops, at least 1."""
        counts = Counter(faces for _, faces in self.kinds)
        return max(1, counts.most_common(1)[0][0]) if counts else 1

    @property
    def alike(self) -> list[float]:
        """The updates of the most frequent kind: what differs between them is not what they had to do."""
        kind = Counter(self.kinds).most_common(1)[0][0]
        return [one for one, other in zip(self.stages["update"], self.kinds, strict=True) if other == kind]

    @property
    def throughput(self) -> float:
        """Hops that were answered a second: of a live source by the clock, else of step and delivery."""
        if self.live is not None:
            return self.answered / self.seconds
        return self.steps / (sum(self.stages["step_all"]) + sum(self.stages["deliver"]))

    def add(self, hop: Hop) -> None:
        """Take one hop, or several.

        Example:
            >>> samples = Samples()
            >>> samples.add(Hop((0.1,), {"detect": 0.006, "face": 0.003}, 0.001, 0.010, 0.0))
            >>> sorted(samples.stages)
            ['capture', 'decide', 'deliver', 'detect', 'face', 'latency', 'step', 'step_all', 'update']
            >>> round(samples.overhead[0], 3), round(samples.stages["decide"][0], 3)
            (0.25, 0.001)
        """
        for end in hop.ends:
            self.stages.setdefault("latency", []).append(hop.latency + hop.ends[-1] - end)
        if len(hop.ends) == 1:
            self._add_parts(hop)

    def _add_parts(self, hop: Hop) -> None:
        detect = hop.parts.get("detect", 0.0)
        graphs = sum(seconds for name, seconds in hop.parts.items() if name != "detect")
        decide = hop.step - detect - graphs
        detected = "detect" in hop.parts
        (self.overhead if detected else self.overhead_tracked).append(decide / (hop.step - detect))
        ran = frozenset(hop.parts) - {"detect"}
        if ran:
            self.kinds.append((ran, hop.faces))
        found = {
            "capture": hop.capture,
            **hop.parts,
            "decide": decide,
            "deliver": hop.deliver,
            **({"update": graphs} if ran else {}),
            "step" if detected else "step_tracked": hop.step,
            "step_all": hop.step,
        }
        for name, seconds in found.items():
            self.stages.setdefault(name, []).append(seconds)


class Live:
    """What a live source shows beside the stages.

    Args:
        hop: seconds.

    Attributes:
        result_age: seconds since the end of the hop that the newest result is of, as somebody finds it who
            looks once before each next one, at any time.
        lost: counts of what was not taken in time, of the source and of the stream.

    Example:
        >>> live = Live(hop=0.1)
        >>> for end in (0.1, 0.3):
        ...     live.add(Hop((end,), {}, 0.0, 0.01, 0.0, late=0.03))
        >>> live.answered, live.expected, round(live.drop_rate, 2)
        (2, 3, 0.33)
        >>> round(live.result_age[0], 3)  # between 0.03 and 0.23
        0.154
    """

    def __init__(self, hop: float) -> None:
        self._hop = hop
        self._first: float | None = None
        self._last = 0.0
        self._latency = 0.0
        self._look = 0.0
        self.answered = 0
        self.result_age: list[float] = []
        self.lost: dict[str, int] = {}

    def add(self, hop: Hop) -> None:
        """Take what was answered next."""
        if self._first is None:
            self._first = hop.ends[0]
        else:
            until = hop.ends[-1] + hop.latency - self._last - self._latency
            self._look = (self._look + _GOLDEN) % 1.0
            self.result_age.append(self._latency + until * self._look)
        self._last, self._latency = hop.ends[-1], hop.latency
        self.answered += len(hop.ends)

    @property
    def expected(self) -> int:
        """Hops that passed between the first answer and the last, these two counted."""
        return 0 if self._first is None else round((self._last - self._first) / self._hop) + 1

    @property
    def drop_rate(self) -> float:
        """Share of the hops without an answer."""
        return 1.0 - self.answered / self.expected if self.expected else 0.0


def measure(
    model: Recognizer,
    source: Path,
    seconds: float,
    *,
    live: bool = False,
    warm_up: WarmUp | None = None,
    deliver: Deliver | None = None,
    progress: Callable[[float], object] | None = None,
    meanwhile: AbstractContextManager[object] | None = None,
    clock: Clock = time.perf_counter,
) -> Samples:
    """Play a source into a stream, again and again, and time every hop.

    A source is played at once, one hop after another as MLPerf's single stream, or live, as a camera and a
    microphone give it: then a latency holds all waiting too. The stream is warmed up at once in both cases.

    Args:
        model: the model.
        source: a video, a sound file, a picture or a recorded session.
        seconds: how long, after the warm-up and with the time for reading the source; longer where fewer than
            `LEAST` steps were made.
        live: in real time.
        warm_up: decides when to begin.
        deliver: takes the answers of a hop; by default they are written as lines of JSON to nowhere.
        progress: called after every hop with the seconds since the warm-up.
        meanwhile: is entered when the warm-up is over, and left with the last hop.
        clock: seconds, monotonic.

    Raises:
        InputError: no hop can be made of the source, or it holds nothing that the model reads: no graph ran.
        SourceError: the source cannot be read.
        BackendError: an engine failed, also where another one took over: its times are not mixed with theirs.
    """
    samples = Samples(warm_up=warm_up or WarmUp())
    with ExitStack() as opened:
        opened.enter_context(saying_once())
        deliver = deliver or opened.enter_context(_Nowhere())
        watches = Watches(model, clock)
        hop = model.bundle.hop
        played = opened.enter_context(closing(Looped(source, hop)))
        modalities = _both(model, played)
        stream = Stream(watches.model, modalities, hop, lateness=None)
        hops = _at_once(stream, played, watches, deliver, clock, hop)
        _warm(hops, samples.warm_up, clock)
        if live:
            hops.close()
            played = opened.enter_context(closing(Looped(source, hop)))
            paced = opened.enter_context(closing(Paced(played, clock)))
            stream = Stream(watches.model, modalities, hop, lateness=LATENESS)
            hops = _live(stream, paced, watches, deliver, clock)
            samples.live = Live(hop)
        with meanwhile or nullcontext():
            _collect(hops, samples, seconds, progress, clock)
        if samples.live is not None:
            lost = {**paced.stats, **stream.stats}
            samples.live.lost = {name: count for name, count in lost.items() if name not in _SEAM}
    if not samples.steps:
        raise InputError(
            f"{source}: no hop was answered by itself, as this machine is too slow; measure at once"
        )
    if not any(name in samples.stages for name in model.graphs):
        raise InputError(
            f"{source}: no graph ran on it, as it has neither a face nor a voice; name a source with one to "
            "measure"
        )
    return samples


def _both(model: Recognizer, source: Source) -> list[str]:
    """What the source holds and the model reads."""
    both = [name for name in model.bundle.modalities if name in source.modalities]
    if not both:
        raise InputError(
            f"{source.name}: it holds {' and '.join(source.modalities)} only; the bundle {model.bundle.name} "
            f"reads {' and '.join(model.bundle.modalities)}"
        )
    return both


def _warm(hops: Iterator[Hop], warm_up: WarmUp, clock: Clock) -> None:
    for hop in hops:
        if warm_up.add(hop.step - hop.parts.get("detect", 0.0), clock()):
            return


def _collect(
    hops: Iterator[Hop],
    samples: Samples,
    seconds: float,
    progress: Callable[[float], object] | None,
    clock: Clock,
) -> None:
    """Take hops until there are enough."""
    begin = clock()
    for hop in hops:
        samples.seconds = clock() - begin
        if samples.live is not None:
            samples.live.add(hop)
        samples.add(hop)
        if progress is not None:
            progress(samples.seconds)
        if samples.seconds >= seconds and samples.answered >= LEAST:
            return


def _at_once(
    stream: Stream, source: Source, watches: Watches, deliver: Deliver, clock: Clock, hop: float
) -> Generator[Hop, None, None]:
    """Push what comes, and poll whenever a hop is complete; what leads to an answer is its step."""
    capture = step = 0.0
    decoding = _Decoding(clock)
    due: int | None = None
    begin = clock()
    for event in source:
        if modality_of(event) not in stream.modalities:
            continue
        captured = clock()
        capture += captured - begin
        reached = math.floor(event.time / hop + 1e-6)
        # One hop after another, also where a source has nothing for several.
        for end in range(reached if due is None else due, reached + 1):
            for modality in stream.modalities:
                stream.advance(modality, end * hop)
            emotions = stream.poll()
            answered = clock()
            if emotions:
                deliver(emotions)
                delivered = clock()
                decoded = decoding.take()
                step += answered - captured - decoded
                yield _hop(emotions, watches, capture + decoded, step, delivered - answered)
                capture = step = 0.0
                captured = clock()
        due = reached + 1
        decoding.push(stream, event)
        begin = clock()
        step += begin - captured


def _live(
    stream: Stream, source: Paced, watches: Watches, deliver: Deliver, clock: Clock
) -> Generator[Hop, None, None]:
    """Take what comes when it comes, and poll; much of a step is done while its hop still goes on."""
    decoding = _Decoding(clock)
    step = 0.0
    for event in source:
        begin = clock()
        if modality_of(event) not in stream.modalities:
            continue
        decoding.push(stream, event)
        emotions = stream.poll()
        answered = clock()
        step += answered - begin
        if emotions:
            deliver(emotions)
            delivered = clock()
            assert source.origin is not None
            end = source.origin + emotions[-1].time
            late = delivered - end
            yield _hop(emotions, watches, begin - end, step, delivered - answered, late)
            step = 0.0


def _hop(
    emotions: Sequence[Emotion],
    watches: Watches,
    capture: float,
    step: float,
    deliver: float,
    late: float | None = None,
) -> Hop:
    ends = _ends(emotions)
    faces = sum(emotion.time == ends[-1] for emotion in emotions)
    return Hop(ends, watches.take(), capture, step, deliver, faces, late)


def _ends(emotions: Sequence[Emotion]) -> tuple[float, ...]:
    return tuple(dict.fromkeys(emotion.time for emotion in emotions))


class _Decoding:
    """Pushes events, and tells how long their pictures took to be made: a camera's are there."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._spent = 0.0

    def take(self) -> float:
        """Seconds since the last call."""
        spent, self._spent = self._spent, 0.0
        return spent

    def push(self, stream: Stream, event: Frame | Sound) -> None:
        """Push one event; a picture is made when its hop is answered, if it is the newest of it."""
        if isinstance(event, Frame):
            stream.push_frame(lambda: self._made(event), event.time)
        else:
            stream.push_audio(event.samples, event.sample_rate, event.time)

    def _made(self, frame: Frame) -> NDArray[np.uint8]:
        begin = self._clock()
        image = frame.image()
        self._spent += self._clock() - begin
        return image


class _Nowhere:
    """Takes answers as `edgeemo run --json` writes them, a line each, to a file that keeps nothing."""

    def __enter__(self) -> Deliver:
        self._file = open(os.devnull, "w", encoding="utf-8", buffering=1)
        return self._write

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _write(self, emotions: Sequence[Emotion]) -> None:
        for emotion in emotions:
            self._file.write(json.dumps(emotion.to_dict(), allow_nan=False) + "\n")
