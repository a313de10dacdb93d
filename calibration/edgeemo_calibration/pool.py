"""Which candidates stay while hours of recordings pass, in bounded memory and whatever their order."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Stratum(NamedTuple):
    """Candidates that count as alike before their tokens are compared.

    Attributes:
        group: who it is, or what it belongs to where nobody said so.
        label: the class, or empty.
        level: lower edge of the bin of light or loudness.
    """

    group: str
    label: str
    level: int


@dataclass(slots=True)
class Kept:
    """One candidate that stayed.

    Attributes:
        key: digest of seed, stratum and content, by which candidates are ordered; equal ones are one.
        stratum: what it counts for.
        origin: name of its recording, and its time there in seconds.
        traits: its bins.
        slot: its place in the file of inputs.
    """

    key: bytes
    stratum: Stratum
    origin: tuple[str, float]
    traits: Mapping[str, int]
    slot: int = -1


@dataclass(slots=True)
class Seen:
    """How many candidates came by, with those that did not stay.

    Attributes:
        strata: by stratum.
        traits: by the name of a trait, by bin.
    """

    strata: Counter[Stratum] = field(default_factory=Counter)
    traits: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def total(self) -> int:
        """All of them."""
        return self.strata.total()


class Pool:
    """At most ``most`` candidates of one modality, spread evenly over the strata that came by.

    Within a stratum those with the smallest keys stay, a uniform sample without replacement; over strata the
    first of each come before the second of each. What stays does not depend on the order in which candidates
    came: one that was dropped has ``most`` others before it for good. The inputs lie in a file without a
    name, which is gone with the process.

    Args:
        most: how many candidates may stay.
        seed: of the sample.
        folder: where the file is; it takes up to 5/4 of ``most`` inputs.
    """

    def __init__(self, most: int, seed: int, folder: Path) -> None:
        self.seen = Seen()
        self._most = most
        self._seed = seed
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - the pool closes it
        self._kept: dict[bytes, Kept] = {}
        self._free: list[int] = []
        self._barred: dict[Stratum, bytes] = {}  # from which key on a candidate of a stratum has no chance
        self._dtype: np.dtype[Any] = np.dtype(np.uint8)
        self._shape: tuple[int, ...] = ()

    def add(
        self, stratum: Stratum, values: NDArray[Any], origin: tuple[str, float], traits: Mapping[str, int]
    ) -> None:
        """Let a candidate come by.

        Args:
            stratum: what it counts for.
            values: the encoder's input; one dtype and shape for all of a pool.
            origin: name of its recording and its time there.
            traits: its bins.
        """
        self.seen.strata[stratum] += 1
        for name, value in traits.items():
            self.seen.traits[name][value] += 1
        content = np.ascontiguousarray(values).tobytes()
        key = hashlib.sha256(f"{self._seed} {stratum!r} ".encode() + content).digest()
        if key in self._kept:
            self._kept[key].origin = min(self._kept[key].origin, origin)
            return
        barred = self._barred.get(stratum)
        if barred is not None and key >= barred:
            return
        self._dtype, self._shape = values.dtype, values.shape
        slot = self._free.pop() if self._free else len(self._kept)
        self._file.seek(slot * len(content))
        self._file.write(content)
        self._kept[key] = Kept(key, stratum, origin, traits, slot)
        if len(self._kept) >= self._most + max(self._most // 4, 1):
            self._trim()

    def finish(self) -> list[Kept]:
        """Those that stay, by their keys."""
        self._trim()
        return [self._kept[key] for key in sorted(self._kept)]

    def values(self, kept: Kept) -> NDArray[Any]:
        """The input of a candidate."""
        size = self._dtype.itemsize * int(np.prod(self._shape))
        self._file.seek(kept.slot * size)
        return np.frombuffer(self._file.read(size), self._dtype).reshape(self._shape).copy()

    def _trim(self) -> None:
        rounds: Counter[Stratum] = Counter()
        order = []
        for key in sorted(self._kept):
            stratum = self._kept[key].stratum
            order.append((rounds[stratum], key))
            rounds[stratum] += 1
        for _, key in sorted(order)[self._most :]:
            dropped = self._kept.pop(key)
            self._free.append(dropped.slot)
            self._barred[dropped.stratum] = min(key, self._barred.get(dropped.stratum, key))

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
