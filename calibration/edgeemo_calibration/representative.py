"""Hours of recordings in, a small calibration set out that stands for them."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeemo.capture.recording import DATE
from edgeemo.errors import EdgeEmoError, InputError, SourceError
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.graph import Graph
from edgeemo.inference.onnx_files import OnnxFiles

from .candidates import MODALITIES, Candidate, Heard, Listener, Recorded, find_recordings
from .leakage import HeldOut, refuse
from .pool import Kept, Pool, Stratum
from .select import k_center, normalised, quotas, radius
from .sets import CalibrationSet

log = logging.getLogger("edgeemo.calibration")

MOST = 20_000
"""Candidates of a modality whose tokens are compared: a voice of one second takes 64 kB of the disk."""

COUNT = 512
_LEVELS = {"face": "light", "voice": "loudness"}
_BATCH = 16


@dataclass(slots=True)
class _Source:
    """What became of one argument."""

    path: Path
    recordings: int = 0
    unreadable: int = 0
    silent: int = 0
    faceless: int = 0
    unusable: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    digests: set[bytes] = field(default_factory=set)

    def add(self, heard: Heard) -> None:
        self.recordings += 1
        self.silent += heard.silent
        self.faceless += heard.faceless
        self.unusable += heard.unusable
        self.seen.update(heard.taken)
        for modality, digests in heard.digests.items():
            self.digests.update(hashlib.sha256(modality.encode() + one).digest() for one in digests)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.path.resolve().name,
            "sha256": hashlib.sha256(b"".join(sorted(self.digests))).hexdigest(),
            "recordings": self.recordings,
            "unreadable": self.unreadable,
            "silent_hops": self.silent,
            "pictures_without_face": self.faceless,
            "unusable_events": self.unusable,
            "candidates": {name: number for name, number in sorted(self.seen.items()) if number},
        }


def select(
    sources: Sequence[str | Path],
    bundle: Bundle,
    *,
    count: int = COUNT,
    exclude: Sequence[str | Path] = (),
    face_is_cropped: bool = False,
    detector: str | None = None,
    seed: int = 0,
    most: int = MOST,
    scratch: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> CalibrationSet:
    """Choose at most ``count`` inputs of each encoder of a bundle from recordings.

    The order of the sources, and how their files are called, change nothing about the choice. Memory does not
    grow with the recordings.

    Args:
        sources: sessions, manifests of ``edgeemo evaluate`` (but for their split 'test'), media files, and
            folders of sessions and media files.
        bundle: whose encoders are given the inputs, and whose FP32 encoders say what is alike.
        count: inputs of each modality, at least 1.
        exclude: test material, named like sources. Nothing of its people or its contents may be in the set.
        face_is_cropped: the pictures already are face crops in the manner of FER+.
        detector: a YuNet file; None for what the runtime finds.
        seed: of the samples, 0 or more.
        most: candidates of a modality whose tokens are compared, at least ``count``.
        scratch: folder on the disk for the inputs of the candidates, which lie there in a file without a
            name; that of the system by default.
        progress: called with what is under way.

    Raises:
        InputError: a source is none, or nothing usable is in any of them.
        SourceError: a file that was named cannot be read, or a session that was named has expired.
        CheckFailed: a source is test material, or of one of its speakers.
        BundleError, BackendError: the bundle cannot be used.
    """
    if count < 1:
        raise InputError(f"count is {count}; it must be at least 1")
    if seed < 0:
        raise InputError(f"seed is {seed}; it must be 0 or more")
    if most < count:
        raise InputError(f"most is {most}; it must be at least the count, {count}")
    reads = tuple(name for name in MODALITIES if name in bundle.modalities)
    if not reads:
        raise InputError(f"the bundle {bundle.name} reads neither {' nor '.join(MODALITIES)}")
    say = progress or (lambda _: None)
    recordings, held_out = find_recordings([Path(path) for path in sources], reads)
    test = _held_out(held_out, [Path(path) for path in exclude], reads, bundle, say)
    test.check_speakers(recordings)
    folder = Path(tempfile.gettempdir() if scratch is None else scratch)
    with ExitStack() as stack:
        pools = {name: stack.enter_context(Pool(most, seed, folder)) for name in reads}
        listener = Listener(bundle, face_is_cropped=face_is_cropped, detector=detector)
        found = [_Source(Path(path)) for path in sources]
        expiries = _listen(recordings, listener, test, pools, found, say)
        if not any(pool.seen.total for pool in pools.values()):
            raise InputError(_nothing(found))
        arrays, entries = {}, {}
        for name, pool in pools.items():
            if pool.seen.total:
                say(f"{name}: choosing {count} of {pool.seen.total}")
                arrays[name], entries[name] = _choose(name, pool, bundle, count, seed)
    about = {
        "bundle": {"name": bundle.name, "version": bundle.version, "graphs": _digests(bundle, arrays)},
        "seed": seed,
        "count": count,
        "face_is_cropped": face_is_cropped,
        **_expiry(expiries, entries),
        "test": {"recordings": test.recordings, "speakers": len(test.speakers)},
        "sources": sorted(
            (source.to_dict() for source in found), key=lambda one: (one["sha256"], one["name"])
        ),
        "chosen": entries,
    }
    return CalibrationSet(arrays, about)


def _held_out(
    rows: Sequence[Recorded],
    paths: Sequence[Path],
    reads: Sequence[str],
    bundle: Bundle,
    say: Callable[[str], None],
) -> HeldOut:
    """What must stay unheard: the test rows of the sources, and what is at the paths."""
    test, listener = HeldOut(), Listener(bundle, face_is_cropped=True)  # no face is looked for in it

    def add(recorded: Recorded) -> None:
        say(f"test material: {test.recordings + 1}, {recorded.path.name}")
        heard = _heard(recorded, listener, lambda _: None)
        if heard is not None:
            test.add(recorded, heard)

    for recorded in rows:
        add(recorded)
    for path in paths:
        before = test.recordings
        for part in find_recordings([path], reads):
            for recorded in part:
                add(recorded)
        if test.recordings == before:
            raise InputError(
                f"{path}: it holds no recording; test material that cannot be heard holds out nothing"
            )
    return test


def _listen(
    recordings: Sequence[Recorded],
    listener: Listener,
    test: HeldOut,
    pools: Mapping[str, Pool],
    sources: Sequence[_Source],
    say: Callable[[str], None],
) -> dict[str, datetime]:
    """Let the candidates of all recordings into the pools; when the sessions expire, by their names.

    Raises:
        CheckFailed: some are test material.
    """
    leaks: list[str] = []
    expiries: dict[str, datetime] = {}
    for place, recorded in enumerate(recordings):
        say(f"recording {place + 1} of {len(recordings)}: {recorded.path.name}")
        source = sources[recorded.source]
        heard = _heard(recorded, listener, _into(pools, recorded))
        if heard is None:
            source.unreadable += 1
            continue
        source.add(heard)
        leaks += test.same(recorded, heard)
        if heard.expires is not None:
            expiries[recorded.path.resolve().name] = heard.expires
    refuse(leaks)
    return expiries


def _heard(recorded: Recorded, listener: Listener, take: Callable[[Candidate], None]) -> Heard | None:
    """What became of a recording; None for a file of a folder that is no media file, or not readable."""
    try:
        return listener.hear(recorded, take)
    except SourceError as error:
        if recorded.must:
            raise
        if recorded.kind == "session":
            log.warning("%s", error)
        return None
    except EdgeEmoError as error:
        raise type(error)(f"{recorded.path}: {error}") from error


def _into(pools: Mapping[str, Pool], recorded: Recorded) -> Callable[[Candidate], None]:
    name = recorded.path.resolve().name

    def take(candidate: Candidate) -> None:
        traits = candidate.traits()
        stratum = Stratum(recorded.group, recorded.label, traits[_LEVELS[candidate.modality]])
        pools[candidate.modality].add(stratum, candidate.values, (name, candidate.time), traits)

    return take


def _nothing(sources: Sequence[_Source]) -> str:
    recordings = sum(source.recordings for source in sources)
    unreadable = sum(source.unreadable for source in sources)
    return (
        f"there is nothing to calibrate on in {', '.join(str(source.path) for source in sources)}: "
        f"{recordings} recordings ({unreadable} more files are not media) have "
        f"{sum(source.faceless for source in sources)} pictures without a face and "
        f"{sum(source.silent for source in sources)} silent hops; give recordings of people"
    )


# --- the choice


def _choose(
    name: str, pool: Pool, bundle: Bundle, count: int, seed: int
) -> tuple[NDArray[Any], dict[str, Any]]:
    """The chosen inputs of one modality, and what is said about them."""
    kept = pool.finish()
    graph = OnnxFiles.choose(bundle, "fp32", threads=1).open(bundle.graphs[name])
    tokens = normalised(np.concatenate(list(_tokens(name, graph, pool, kept))))
    strata = [one.stratum for one in kept]
    held = Counter(strata)
    quota = quotas(held, pool.seen.strata, count)
    places = k_center(tokens, strata, quota)
    random = np.random.default_rng(seed).choice(len(kept), len(places), replace=False)
    chosen = [kept[place] for place in places]
    about = {
        "candidates": pool.seen.total,
        "compared": len(kept),
        "count": len(chosen),
        "strata": {"seen": len(pool.seen.strata), "chosen": len({one.stratum for one in chosen})},
        "radius": {
            "chosen": round(radius(tokens, places), 6),
            "random": round(radius(tokens, random.tolist()), 6),
        },
        "coverage": _coverage(pool, chosen),
        "items": [_item(one) for one in chosen],
    }
    return np.stack([pool.values(one) for one in chosen]), about


def _tokens(name: str, graph: Graph, pool: Pool, kept: Sequence[Kept]) -> Iterator[NDArray[np.float32]]:
    """The tokens of all candidates; of an encoder that answers one for each hop of a window, their mean."""
    rows = _BATCH if name == "face" else 1
    for start in range(0, len(kept), rows):
        batch = np.stack([pool.values(one) for one in kept[start : start + rows]])
        tokens = graph.run({name: batch})["tokens"]
        yield tokens.copy() if name == "face" else tokens.mean(axis=0, keepdims=True)


def _coverage(pool: Pool, chosen: Sequence[Kept]) -> dict[str, dict[str, list[int]]]:
    """Of each attribute and each of its values how many came by, and how many were chosen."""
    before: dict[str, Counter[Any]] = {"speaker": Counter(), "label": Counter()}
    for stratum, number in pool.seen.strata.items():
        before["speaker"][stratum.group] += number
        before["label"][stratum.label] += number
    before.update(pool.seen.traits)
    after: dict[str, Counter[Any]] = {
        "speaker": Counter(one.stratum.group for one in chosen),
        "label": Counter(one.stratum.label for one in chosen),
        **{trait: Counter(one.traits[trait] for one in chosen) for trait in pool.seen.traits},
    }
    return {
        attribute: {str(value): [number, after[attribute][value]] for value, number in sorted(counts.items())}
        for attribute, counts in before.items()
    }


def _item(one: Kept) -> dict[str, Any]:
    name, time = one.origin
    return {
        "recording": name,
        "time": round(time, 6),
        "speaker": one.stratum.group,
        "label": one.stratum.label,
        **one.traits,
    }


def _digests(bundle: Bundle, arrays: Mapping[str, Any]) -> dict[str, str]:
    """The sha256 of the FP32 graph of each modality."""
    return {name: bundle.files[bundle.graphs[name].files["fp32"]][1] for name in arrays}


def _expiry(expiries: Mapping[str, datetime], entries: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """When the first and the last of the sessions expire that something was chosen from."""
    names = {item["recording"] for entry in entries.values() for item in entry["items"]}
    dates = sorted(date for name, date in expiries.items() if name in names)
    return {"expires_first": f"{dates[0]:{DATE}}", "expires_last": f"{dates[-1]:{DATE}}"} if dates else {}
