"""Whether an update costs the same when a stream is ten hours old as when it was a minute old."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeemo.bench.memory import Allocations, Growth, allocations, growth, resident
from edgeemo.bench.reel import Reel, Spent, Walk
from edgeemo.bench.statistics import summarise
from edgeemo.errors import CheckFailed, InputError

if TYPE_CHECKING:
    from edgeemo.bench.watches import Clock
    from edgeemo.recognition.recognizer import Recognizer

AGES = (60.0, 600.0, 3600.0, 36000.0)
"""Seconds at which a stream is measured on its way; 36,000 are ten hours."""

YOUNG = 60.0
"""Seconds that the stream that it is laid beside has lived when they begin."""

TOLERANCE = 0.05
"""Share by which a cost may differ and still be the same."""

_ROUNDS, _MOST_ROUNDS = 4, 64  # of the reel at one age: until the first look, and until the last
_EACH = 60.0  # seconds of the stream's clock between two looks at memory

Verdict = Literal["flat", "grows", "open"]
_SAID: Mapping[Verdict, str] = {
    "flat": f"the cost is flat: within {TOLERANCE:.0%}",
    "grows": f"the cost grows by more than {TOLERANCE:.0%}",
    "open": f"whether the cost is flat within {TOLERANCE:.0%} is not clear: other load, or changing clocks",
}


@dataclass(frozen=True)
class Ratio:
    """What an old stream pays for what a young one gets.

    Attributes:
        value: the median of the hops' ratios, old over young, of the same picture and sound at one time.
        low: lower end of its 99 % interval; None where there are too few hops for one.
        high: upper end.
        old: median milliseconds of the old stream.
        young: median milliseconds of the young one.
    """

    value: float
    low: float | None
    high: float | None
    old: float
    young: float

    @classmethod
    def of(cls, old: Sequence[float], young: Sequence[float]) -> Ratio:
        """The ratio of seconds, hop by hop.

        Example:
            >>> found = Ratio.of([0.003, 0.002] * 50, [0.002, 0.002] * 50)
            >>> found.value, found.low, found.high, found.old
            (1.0, 1.0, 1.5, 2.0)
        """
        shares = summarise([one / other for one, other in zip(old, young, strict=True)])
        medians = [round(1e3 * summarise(side).percentiles["p50"], 4) for side in (old, young)]
        return cls(shares.percentiles["p50"], shares.low["p50"], shares.high["p50"], medians[0], medians[1])

    @property
    def verdict(self) -> Verdict:
        """'flat' where it is surely no more than `TOLERANCE`, 'grows' where it surely is, else 'open'."""
        if self.high is not None and self.high <= 1 + TOLERANCE:
            return "flat"
        return "grows" if self.low is not None and self.low > 1 + TOLERANCE else "open"


@dataclass(frozen=True)
class Age:
    """A stream at one age beside one that is a minute old, in turns, hop by hop.

    Attributes:
        age: seconds.
        update: of the graphs of a hop together.
        step: of all that edgeemo does for a hop.
        detections: how many searches for faces the old and the young stream made of as many hops.
        hops: how many hops were laid side by side.
        resident: MB of this process.
    """

    age: float
    update: Ratio
    step: Ratio
    detections: tuple[int, int]
    hops: int
    resident: float | None


@dataclass(frozen=True)
class Endurance:
    """A stream's life.

    Attributes:
        hops: that the stream answered.
        seconds: that took.
        ages: what was measured on the way.
        growth: of the resident memory per hour of the stream's clock; None where the system does not tell.
        allocations: of a step at the end.
    """

    hops: int
    seconds: float
    ages: tuple[Age, ...]
    growth: Growth | None
    allocations: Allocations

    @property
    def verdict(self) -> Verdict:
        """The worst of all ages, of update and step."""
        all_of_them = {ratio.verdict for age in self.ages for ratio in (age.update, age.step)}
        return next(verdict for verdict in ("grows", "open", "flat") if verdict in all_of_them)

    def check(self) -> None:
        """Raise where the cost grows.

        Raises:
            CheckFailed: the message names the age and the ratio.
        """
        for age in self.ages:
            for name, ratio in (("update", age.update), ("step", age.step)):
                if ratio.verdict == "grows":
                    raise CheckFailed(
                        f"a stream of {age.age:g} s pays {ratio.value:.3f} times what one of {YOUNG:g} s "
                        f"pays for the same {name}; it should be within {TOLERANCE:.0%}"
                    )

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON holds it."""
        return {**asdict(self), "verdict": self.verdict}

    def __str__(self) -> str:
        lines = [f"{self.hops} hops in {self.seconds:.3g} s, each beside that of a stream of {YOUNG:g} s"]
        titles = ((8, "age s"), (11, "update ms"), (8, "ratio"), (15, "99 %"), (10, "step ms"), (8, "ratio"))
        lines.append("".join(f"{title:>{wide}}" for wide, title in (*titles, (15, "99 %"))))
        for age in self.ages:
            cells = "".join(
                f"{ratio.old:>{wide}.3f}{ratio.value:>8.3f}{_ends(ratio):>15}"
                for wide, ratio in ((11, age.update), (10, age.step))
            )
            lines.append(f"{age.age:>8.0f}{cells}")
        lines.append(_SAID[self.verdict])
        if self.growth is not None:
            lines.append(f"memory: {self.growth} of the stream's time")
        kept = self.allocations
        lines.append(
            f"a step leaves {kept.kept:.0f} bytes in {kept.blocks:.2f} blocks "
            f"and takes {kept.temporary:.0f} meanwhile"
        )
        return "\n".join(lines)


def endure(
    model: Recognizer,
    source: str | Path,
    age: float,
    *,
    ages: Sequence[float] = AGES,
    progress: Callable[[float], None] | None = None,
    clock: Clock = time.perf_counter,
) -> Endurance:
    """Let a stream live as fast as it goes, and lay it at some ages beside one that is a minute old.

    Every hop is pushed and answered, with the times of its age. The pictures and the sound of the source come
    again and again. The two streams take turns in every hop and get the same, so that whatever else the
    machine does falls on both; it is measured until it is clear whether the old one pays more.

    Args:
        model: the model.
        source: a video, a sound file or a picture; its first 10 s are played.
        age: seconds that the stream lives, at least a minute.
        ages: at which it is measured, those up to `age`, and in the end.
        progress: called every minute of the stream's clock with its age.
        clock: seconds, monotonic.

    Raises:
        InputError: the age is below a minute, or the source has no hop or nothing that the model reads.
        SourceError: the source cannot be read.
        CheckFailed: a hop was not answered, or something of it was lost.
        BackendError: an engine failed.
    """
    if not age >= YOUNG:
        raise InputError(f"age: {age:g} s; it must be at least {YOUNG:g} s, that of the stream beside it")
    reel = Reel.read(source, model.bundle.hop)
    begin = clock()
    walk = Walk(model, reel, clock)
    found: list[Age] = []
    held: list[tuple[float, float]] = []
    for wanted in sorted({one for one in ages if YOUNG <= one < age} | {age}):
        while walk.age < wanted:
            walk.go(min(walk.age + _EACH, wanted))
            now = resident()
            if now is not None:
                held.append((walk.age, now))
            if progress is not None:
                progress(walk.age)
        found.append(_beside(walk, model, reel, clock))
    return Endurance(
        hops=walk.hops,
        seconds=round(clock() - begin, 1),
        ages=tuple(found),
        growth=growth(*zip(*held, strict=True)) if len(held) > 1 else None,
        allocations=allocations(walk.step),
    )


def _beside(old: Walk, model: Recognizer, reel: Reel, clock: Clock) -> Age:
    """Lay a stream beside a young one until it is clear which pays more, or for as long as is sensible."""
    age = old.age
    young = Walk(model, reel, clock)
    young.go(YOUNG)
    while (old.hops - young.hops) % reel.hops:  # the same pictures and sound, from here on
        young.step()
    pairs: list[tuple[Spent, Spent]] = []
    rounds = _ROUNDS
    while True:
        while len(pairs) < rounds * reel.hops:
            pairs.append(_pair(old, young, first=len(pairs) % 2))
        both = [
            Ratio.of([one.step for one, _ in pairs], [other.step for _, other in pairs]),
            Ratio.of([one.update for one, _ in pairs], [other.update for _, other in pairs]),
        ]
        if rounds >= _MOST_ROUNDS or all(ratio.verdict != "open" for ratio in both):
            break
        rounds *= 2
    detections = (sum(one.detected for one, _ in pairs), sum(other.detected for _, other in pairs))
    return Age(age, both[1], both[0], detections, len(pairs), resident())


def _pair(old: Walk, young: Walk, first: int) -> tuple[Spent, Spent]:
    """One hop of each; who is second finds the caches warm, so they change places."""
    if first:
        spent = young.step()
        return old.step(), spent
    return old.step(), young.step()


def _ends(ratio: Ratio) -> str:
    return "" if ratio.low is None or ratio.high is None else f"{ratio.low:.3f}-{ratio.high:.3f}"
