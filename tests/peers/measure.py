"""How long an update of each contender takes, by rounds in which all take turns, and how that grows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgeemo
from edgeemo.errors import InputError
from edgeemo.inference.choice import example
from edgeemo.inference.work import work_of

from .build import WINDOWS, Facts, facts
from .catalogue import PEERS, SAMPLE_RATE, SPEECH_WINDOW
from .contenders import OURS, Contender, Player, Scene, contender

Floats = NDArray[np.float64]
Clock = Callable[[], float]

RATES = (1, 2, 5, 10, 20)
"""Updates a second."""

LEVEL = 0.95
"""Confidence of an interval."""

LEAST = 6
"""Rounds: of fewer no interval of a median has this confidence, by order statistics."""

_DRAWS = 2000
_PLAYED = 2  # seconds of stream in each round of the growth
_SPEECH = "wav2vec2"


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its bootstrap interval."""

    value: float
    low: float
    high: float


# --- taking turns


@dataclass(frozen=True)
class Times:
    """What was measured.

    Attributes:
        names: of the contenders.
        milliseconds: [rounds, contenders, 2, 3] of one update: the first after another contender's, and the
            one after it; what is made ready, the rest, and the processor's time for both, of all threads.
    """

    names: tuple[str, ...]
    milliseconds: Floats

    def of(self, name: str, part: str = "update") -> Floats:
        """Of each round one time.

        Args:
            name: of the contender.
            part: of the second update in a row 'update', all of it, 'ready', what is made ready, 'graphs',
                the rest, or 'processor', the processor's time; or 'first', all of the first update after
                another contender's.
        """
        first, second = self.milliseconds[:, self.names.index(name)].swapaxes(0, 1)
        parts = {
            "update": second[:, :2].sum(axis=1),
            "ready": second[:, 0],
            "graphs": second[:, 1],
            "processor": second[:, 2],
            "first": first[:, :2].sum(axis=1),
        }
        return np.asarray(parts[part])

    def median(self, name: str, part: str = "update") -> Interval:
        """The median over the rounds, in milliseconds."""
        return _interval(np.median(_drawn(self.of(name, part)), axis=1))

    def ratio(self, over: Sequence[str], under: str, part: str = "update") -> Interval:
        """How many times the cost of one contender others together are: of medians over the rounds.

        Bootstrap samples are of rounds, which keeps together what was measured while the machine was alike.

        Args:
            over: contenders whose medians are added.
            under: the one that the sum is divided by.
            part: of an update, as for `of`.
        """
        above = sum(np.median(_drawn(self.of(name, part)), axis=1) for name in over)
        return _interval(above / np.median(_drawn(self.of(under, part)), axis=1))


def _drawn(values: Floats) -> Floats:
    """The values themselves, and bootstrap samples of them: of the same rounds whatever the values."""
    rounds = len(values)
    rows = np.random.default_rng(0).integers(rounds, size=(_DRAWS, rounds))
    return np.concatenate([values[None], values[rows]])


def _interval(figures: Floats) -> Interval:
    """Of the figure itself, which comes first, and those of the bootstrap samples."""
    low, high = np.quantile(figures[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(figures[0]), float(low), float(high))


def take_turns(
    contenders: Sequence[Contender],
    rounds: int,
    *,
    clock: Clock = time.perf_counter,
    processor: Clock = time.process_time,
    seed: int = 0,
) -> Times:
    """Let every contender make two updates in each round, in an order that changes.

    The first finds the caches as another contender left them, the second as its own first left them: a live
    process lies between. Whatever else the machine does falls on all; but a long update is interrupted by it
    and a short one is not, so there the processor's time is what can be compared.

    Args:
        contenders: opened; each makes one update before the first round.
        rounds: how often.
        clock: seconds, monotonic.
        processor: seconds that this process has computed.
        seed: of the order.

    Raises:
        InputError: there are too few rounds.
    """
    if rounds < LEAST:
        raise InputError(f"rounds is {rounds}; it must be at least {LEAST}, or no median is known")
    for one in contenders:
        one.run(one.prepare())
    random = np.random.default_rng(seed)
    taken = np.zeros((rounds, len(contenders), 2, 3))
    for turn in range(rounds):
        for place in random.permutation(len(contenders)):
            for again in range(2):
                taken[turn, place, again] = _update(contenders[place], clock, processor)
    return Times(tuple(one.name for one in contenders), taken)


def _update(one: Contender, clock: Clock, processor: Clock) -> Floats:
    """Milliseconds of one update: of what is made ready, of the rest, and of the processor."""
    idle, begin = processor(), clock()
    made = one.prepare()
    ready = clock()
    one.run(made)
    end, done = clock(), processor()
    return 1e3 * np.array([ready - begin, end - ready, done - idle]) / one.updates


# --- what is known without a clock


def our_facts(bundle: Path | None, precision: str) -> Facts:
    """Size and work of edgeemo's graphs with one face, as they run on the CPU here.

    Args:
        bundle: its folder; None for the one in the package.
        precision: 'int8' or 'fp32'.

    Returns:
        Parameters are the numbers that the products of the FP32 graphs read, tables of the front end among
        them; the work is that of a picture and a voice together.
    """
    with edgeemo.load(bundle, precision=precision) as model:
        described = model.bundle
        chosen = [(graph.spec, graph.spec.files[graph.encoding]) for graph in model.graphs.values()]
    size = sum((described.path / file).stat().st_size for _, file in chosen)
    total = sum(work_of(described.read_file(file), example(spec), file).total for spec, file in chosen)
    references = [
        work_of(described.read_file(spec.files["fp32"]), example(spec), spec.name) for spec, _ in chosen
    ]
    return Facts(sum(one.weights for one in references) // 4, size, {"": total})


def all_facts(cache: Path, bundle: Path | None) -> dict[str, Facts]:
    """Of edgeemo at both precisions and of every peer, by name."""
    ours = {name: our_facts(bundle, precision) for name, precision in OURS.items()}
    return {**ours, **{name: facts(cache, name) for name in PEERS}}


# --- as the rate and the window grow


@dataclass(frozen=True)
class Growth:
    """Milliseconds of the processor's time, of all threads: medians over rounds.

    Attributes:
        speech: of one update of wav2vec 2.0, by seconds of its window.
        streams: of edgeemo for one second of stream, by its modalities and updates a second; without
            the rates that its grid of hops does not have.
    """

    speech: Mapping[float, float]
    streams: Mapping[tuple[str, ...], Mapping[int, float]]


def grow(
    given: Scene,
    cache: Path,
    rounds: int,
    *,
    threads: int = 1,
    bundle: Path | None = None,
    processor: Clock = time.process_time,
) -> Growth:
    """Measure windows of wav2vec 2.0 and update rates of edgeemo, all in turns.

    Args:
        given: the scene.
        cache: where `build` wrote the peers.
        rounds: how often.
        threads: of one graph call.
        bundle: of edgeemo; None for the one in the package.
        processor: seconds that this process has computed.
    """
    speech = contender(_SPEECH, given, cache, threads)
    voices = {window: given.voice[None, : int(window * SAMPLE_RATE)] for window in WINDOWS}
    players = {
        (modalities, rate): Player(edgeemo.load(bundle, threads=threads), given, modalities, 1 / rate)
        for modalities in (("voice",), ("face", "voice"))
        for rate in _possible(bundle)
    }
    turns: dict[Any, Callable[[], object]] = {
        **{window: partial(speech.run, voice) for window, voice in voices.items()},
        **{(read, rate): partial(player.play, _PLAYED * rate) for (read, rate), player in players.items()},
    }
    medians = {key: float(np.median(taken)) for key, taken in _turns(turns, rounds, processor).items()}
    streams: dict[tuple[str, ...], dict[int, float]] = {}
    for read, rate in players:
        streams.setdefault(read, {})[rate] = medians[read, rate] / _PLAYED
    return Growth({window: medians[window] for window in voices}, streams)


def _possible(bundle: Path | None) -> list[int]:
    """The rates that a bundle's grid of hops has."""
    with edgeemo.load(bundle) as model:
        hop = model.bundle.hop
    return [rate for rate in RATES if math.isclose(round(1 / rate / hop) * hop, 1 / rate)]


def _turns(turns: Mapping[Any, Callable[[], object]], rounds: int, clock: Clock) -> dict[Any, list[float]]:
    """Milliseconds of each turn in each round, after one round that does not count."""
    taken: dict[Any, list[float]] = {key: [] for key in turns}
    for turn in range(rounds + 1):
        for key, make in turns.items():
            begin = clock()
            make()
            if turn:
                taken[key].append(1e3 * (clock() - begin))
    return taken


def speech_work(cache: Path) -> dict[float, int]:
    """Multiply-adds of one update of wav2vec 2.0, by seconds of its window."""
    known = facts(cache, _SPEECH)
    return {window: known.work(window) for window in WINDOWS}


def work_of_update(known: Facts, name: str) -> int:
    """Multiply-adds of one update of a contender, as it was timed."""
    voice = name in PEERS and PEERS[name].reads == "voice"
    return known.work(SPEECH_WINDOW if voice else None)
