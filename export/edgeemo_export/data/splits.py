"""Which speaker is in which split, and what one split could know of another."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeemo.capture.clip import PICTURE_SUFFIXES
from edgeemo.errors import InputError
from edgeemo.evaluate import Item

from ..words import counted

log = logging.getLogger("edgeemo.export")

SPLITS: Mapping[str, float] = {"train": 0.7, "develop": 0.15, "test": 0.15}
"""The splits and how much of the items each should have."""

TRIALS, WORK = 50, 50_000


def split_items(
    path: Path, items: Sequence[Item], shares: Mapping[str, float] = SPLITS, *, unknown: bool, seed: int = 0
) -> list[Item]:
    """Give every item a split: that of the manifest, which is checked, or one by speaker that is made here.

    A file that is in several splits is kept in the last of them, and its items are dropped from the others
    with a warning: pictures and recordings are copied about, and a copy in training is a question answered
    beforehand.

    Args:
        path: the manifest, as messages name it.
        items: its items.
        shares: the splits, in the order in which they are used, and their shares of the items.
        unknown: not every item says who speaks; one that does not is taken for a speaker of its own.
        seed: of the splits that are made.

    Raises:
        InputError: speakers are missing or too few, one is in two splits, or a split is empty.
    """
    _check_speakers(path, items, unknown)
    if any(item.split for item in items):
        check_splits(path, items, tuple(shares))
        placed = list(items)
    else:
        speakers = [f"speaker {item.speaker}" if item.speaker else f"line {item.line}" for item in items]
        chosen = assign(path, speakers, [item.label for item in items], shares, seed)
        placed = [replace(item, split=split) for item, split in zip(items, chosen, strict=True)]
    return without_copies(path, placed, tuple(shares))


def _check_speakers(path: Path, items: Sequence[Item], unknown: bool) -> None:
    nameless = next((item.line for item in items if not item.speaker), None)
    if unknown and nameless is None:
        raise InputError(f"{path}: it names the speaker of every line; leave --speakers-unknown out")
    if not unknown and nameless is not None:
        raise InputError(
            f"{path}, line {nameless}: it names no speaker, so nobody can be kept for the test; "
            "fill the column 'speaker', or say --speakers-unknown and take the figures for optimistic"
        )


def check_splits(path: Path, items: Sequence[Item], splits: Sequence[str]) -> None:
    """The leakage check: every item has a split, every split has items, and nobody is in two.

    Raises:
        InputError: naming the line or the speaker.
    """
    home: dict[str, Item] = {}
    for item in items:
        if item.split not in splits:
            raise InputError(
                f"{path}, line {item.line}: the split is {item.split!r}; "
                f"it must be one of {', '.join(splits)}"
            )
        first = home.setdefault(item.speaker, item) if item.speaker else item
        if first.split != item.split:
            raise InputError(
                f"{path}: the speaker {item.speaker} is in {first.split} (line {first.line}) and in "
                f"{item.split} (line {item.line}); a speaker must be in one split"
            )
    for split in splits:
        if not any(item.split == split for item in items):
            raise InputError(
                f"{path}: no item is in the split {split}; each of {', '.join(splits)} needs some"
            )


def assign(
    path: Path, speakers: Sequence[str], labels: Sequence[str], shares: Mapping[str, float], seed: int
) -> list[str]:
    """Divide speakers so that each split has about its share of every label.

    Greedy: the largest speaker first, each to where it lessens most the distance
    ``sum (count - wanted)^2 / wanted`` over splits and labels; in several random orders, of which the one
    with the fewest labels missing from a split, then the least distance, is kept.

    Args:
        path: the manifest, as messages name it.
        speakers: of each item.
        labels: of each item.
        shares: the splits and their shares.
        seed: of the orders.

    Returns:
        The split of each item.

    Raises:
        InputError: there are fewer speakers than splits.

    Example:
        >>> speakers, labels = [name for name in "abcdef" for _ in range(2)], ["joy", "fear"] * 6
        >>> made = assign(Path("m.csv"), speakers, labels, {"train": 0.5, "test": 0.5}, seed=0)
        >>> made.count("train"), len({who for who, split in zip(speakers, made) if split == "train"})
        (6, 3)
    """
    names, classes = sorted(set(speakers)), sorted(set(labels))
    if len(names) < len(shares):
        raise InputError(
            f"{path}: it has {counted(len(names), 'speaker')}; {counted(len(shares), 'split')} "
            f"({', '.join(shares)}) need at least one each"
        )
    table = np.zeros((len(names), len(classes)))
    places = {name: place for place, name in enumerate(names)}
    for speaker, label in zip(speakers, labels, strict=True):
        table[places[speaker], classes.index(label)] += 1
    random = np.random.default_rng(seed)
    trials = int(np.clip(WORK // len(names), 1, TRIALS))
    tried = [_greedy(table, np.array(list(shares.values())), random) for _ in range(trials)]
    best = min(tried, key=lambda trial: trial[0])[1]
    return [list(shares)[best[places[speaker]]] for speaker in speakers]


def _greedy(
    table: np.ndarray, shares: np.ndarray, random: np.random.Generator
) -> tuple[tuple[int, int, float], np.ndarray]:
    """One division of speakers ``[s, k]``: what is wrong with it, and the place of each speaker's split."""
    wanted = shares[:, None] * table.sum(axis=0)
    counts, chosen = np.zeros_like(wanted), np.empty(len(table), int)
    order = random.permutation(len(table))
    order = order[np.argsort(-table[order].sum(axis=1), kind="stable")]
    for left, row in zip(range(len(order), 0, -1), order, strict=True):
        gain = (((counts + table[row] - wanted) ** 2 - (counts - wanted) ** 2) / wanted).sum(axis=1)
        empty = counts.sum(axis=1) == 0
        if left <= empty.sum():  # the last speakers go where nobody is yet
            gain[~empty] = np.inf
        chosen[row] = int(gain.argmin())
        counts[chosen[row]] += table[row]
    missing = (counts == 0).sum(axis=1)
    distance = float(((counts - wanted) ** 2 / wanted).sum())
    return (int(missing[0]), int(missing[1:].sum()), distance), chosen


def without_copies(path: Path, items: Sequence[Item], splits: Sequence[str]) -> list[Item]:
    """Drop from each split the items of which a file has the same content as one of a later split.

    Raises:
        InputError: nothing is left of a split.
    """
    known: dict[str, Item] = {}
    kept: list[Item] = []
    dropped: list[tuple[Item, Item]] = []
    for split in reversed(splits):
        here = [(item, contents(item)) for item in items if item.split == split]
        for item, digests in here:
            twin = next((known[digest] for digest in sorted(digests) if digest in known), None)
            if twin is None:
                kept.append(item)
            else:
                dropped.append((item, twin))
        for item, digests in here:
            known |= dict.fromkeys(digests, item)
    if dropped:
        item, twin = dropped[0]
        log.warning(
            "%s: %s dropped, of which a file is in another split too; the first is line %d (%s, %s), whose "
            "copy is in line %d (%s, %s)",
            *(path, counted(len(dropped), "item")),
            *(item.line, item.split, next(iter(item.paths.values())).name),
            *(twin.line, twin.split, next(iter(twin.paths.values())).name),
        )
    left = Counter(item.split for item in kept)
    for split in splits:
        if not left[split]:
            raise InputError(f"{path}: every item of the split {split} is a copy of one in another split")
    return sorted(kept, key=lambda item: item.line)


def contents(item: Item) -> set[str]:
    """Digests of the content of each of its files; of a folder those of its pictures."""
    files: list[Path] = []
    for path in item.paths.values():
        if path.is_dir():
            files += [file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES]
        else:
            files.append(path)
    return {hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
