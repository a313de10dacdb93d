"""How long each part of a step takes, while a stream is given a source at once or as it comes."""

from __future__ import annotations

import json
import os
import time
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
    from edgeemo.recognition.emotion import Emotion

LEAST = 25
"""Steps that are measured however long they take, so that a slow machine too has some with a detection."""

_LOOKS = 20
"""How often somebody looks at the newest result between two of them, evenly spread."""

Deliver = Callable[[Sequence["Emotion"]], object]


@dataclass(frozen=True)
class Hop:
    """What one hop took, or several that were answered at once.

    Attributes:
        ends: where each ends, in seconds on the clock of the source.
        parts: seconds of 'detect' and of each graph, of those that ran.
        capture: seconds until the step began to take what the hop consists of: reading and decoding where
            the source is played at once; waiting for the rest of the hop, and in the queue, where it is live.
        step: seconds of all that edgeemo does for a hop: taking its pictures and its sound, and answering.
        deliver: seconds of handing the answer on.
    """

    ends: tuple[float, ...]
    parts: Mapping[str, float]
    capture: float
    step: float
    deliver: float

    @property
    def latency(self) -> float:
        """Seconds from the end of the last hop, its last sample being captured, until it was delivered."""
        return self.capture + self.step + self.deliver


@dataclass
class Samples:
    """What was measured.

    Attributes:
        stages: seconds by stage in the order of time, an entry for each hop in which it ran: 'capture',
            'detect', the graphs, 'decide' (a step less detection and graphs), 'deliver'; 'update', the calls
            of all graphs of the hop; 'step' for a hop with detection, 'step_tracked' for one without and
            'step_all' for both; 'latency', see [Hop][].
        seconds: how long that took.
        overhead: of each hop with detection, (step - detect - graphs) / (step - detect).
        overhead_tracked: of each hop without, (step - graphs) / step.
        warm_up: how it was before.
        live: what was seen of a live source alone, None otherwise.
    """

    stages: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    overhead: list[float] = field(default_factory=list)
    overhead_tracked: list[float] = field(default_factory=list)
    warm_up: WarmUp = field(default_factory=WarmUp)
    live: Live | None = None

    @property
    def steps(self) -> int:
        """Hops that were measured."""
        return len(self.overhead) + len(self.overhead_tracked)

    def add(self, hop: Hop) -> None:
        """Take one hop.

        Example:
            >>> samples = Samples()
            >>> samples.add(Hop((0.1,), {"detect": 0.006, "face": 0.003}, 0.001, 0.010, 0.0))
            >>> sorted(samples.stages)
            ['capture', 'decide', 'deliver', 'detect', 'face', 'latency', 'step', 'step_all', 'update']
            >>> round(samples.overhead[0], 3), round(samples.stages["decide"][0], 3)
            (0.25, 0.001)
        """
        detect = hop.parts.get("detect", 0.0)
        graphs = sum(seconds for name, seconds in hop.parts.items() if name != "detect")
        decide = hop.step - detect - graphs
        detected = "detect" in hop.parts
        (self.overhead if detected else self.overhead_tracked).append(decide / (hop.step - detect))
        found = {
            "capture": hop.capture,
            **hop.parts,
            "decide": decide,
            "deliver": hop.deliver,
            **({"update": graphs} if hop.parts.keys() - {"detect"} else {}),
            "step" if detected else "step_tracked": hop.step,
            "step_all": hop.step,
            "latency": hop.latency,
        }
        for name, seconds in found.items():
            self.stages.setdefault(name, []).append(seconds)


class Live:
    """What a live source shows beside the stages.

    Args:
        hop: seconds.

    Attributes:
        result_age: seconds since the end of the hop that the newest result is of, as somebody finds it who
            looks at any time.
        lost: counts of what was not taken in time, of the source and of the stream.

    Example:
        >>> live = Live(hop=0.1)
        >>> live.add(Hop((0.1,), {}, 0.02, 0.01, 0.0)); live.add(Hop((0.3,), {}, 0.02, 0.01, 0.0))
        >>> live.answered, live.expected, round(live.drop_rate, 2)
        (2, 3, 0.33)
        >>> round(min(live.result_age), 3), round(max(live.result_age), 3)
        (0.035, 0.225)
    """

    def __init__(self, hop: float) -> None:
        self._hop = hop
        self._first: float | None = None
        self._last = 0.0
        self._latency = 0.0
        self.answered = 0
        self.result_age: list[float] = []
        self.lost: dict[str, int] = {}

    def add(self, hop: Hop) -> None:
        """Take what was answered next."""
        if self._first is None:
            self._first = hop.ends[0]
        else:
            until = hop.ends[-1] + hop.latency - self._last - self._latency
            looks = (until * (look + 0.5) / _LOOKS for look in range(_LOOKS))
            self.result_age += [self._latency + waited for waited in looks]
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
        hops = _at_once(stream, played, watches, deliver, clock)
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
            samples.live.lost = {**paced.stats, **stream.stats}
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
        if len(hop.ends) == 1:  # several at once have no time of their own
            samples.add(hop)
        if progress is not None:
            progress(samples.seconds)
        if samples.seconds >= seconds and samples.steps >= LEAST:
            return


def _at_once(
    stream: Stream, source: Source, watches: Watches, deliver: Deliver, clock: Clock
) -> Generator[Hop, None, None]:
    """Push what comes and poll, as whoever owns the loop does; what leads to an answer is its step."""
    capture = step = 0.0
    begin = clock()
    for event in source:
        if modality_of(event) not in stream.modalities:
            continue
        push = _pushing(stream, event)
        captured = clock()
        push()
        for modality in stream.modalities:
            stream.advance(modality, event.time)
        emotions = stream.poll()
        answered = clock()
        capture, step = capture + captured - begin, step + answered - captured
        begin = answered
        if emotions:
            deliver(emotions)
            yield Hop(_ends(emotions), watches.take(), capture, step, clock() - answered)
            capture = step = 0.0
            begin = clock()


def _live(
    stream: Stream, source: Paced, watches: Watches, deliver: Deliver, clock: Clock
) -> Generator[Hop, None, None]:
    """Take what comes when it comes, and poll; what was neither step nor delivery was waiting."""
    step = 0.0
    for event in source:
        begin = clock()
        if modality_of(event) not in stream.modalities:
            continue
        _pushing(stream, event)()
        emotions = stream.poll()
        answered = clock()
        step += answered - begin
        if emotions:
            deliver(emotions)
            delivered = clock()
            ends = _ends(emotions)
            assert source.origin is not None
            waited = delivered - source.origin - ends[-1] - step - (delivered - answered)
            yield Hop(ends, watches.take(), waited, step, delivered - answered)
            step = 0.0


def _ends(emotions: Sequence[Emotion]) -> tuple[float, ...]:
    return tuple(dict.fromkeys(emotion.time for emotion in emotions))


def _pushing(stream: Stream, event: Frame | Sound) -> Callable[[], None]:
    """What pushes an event whose picture, as a camera's, is there before."""
    if isinstance(event, Frame):
        image, moment = event.image(), event.time
        return lambda: stream.push_frame(image, moment)
    sound = event
    return lambda: stream.push_audio(sound.samples, sound.sample_rate, sound.time)


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
