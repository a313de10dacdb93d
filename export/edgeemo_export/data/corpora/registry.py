"""The corpora by name: how each is read and divided, and what its licence allows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeemo.errors import InputError

from . import (
    affectnet,
    affwild2,
    casia,
    cremad,
    emodb,
    enterface,
    ferplus,
    iemocap,
    meld,
    nemo,
    ravdess,
    savee,
)
from .folds import folds, place
from .item import Item

log = logging.getLogger("edgeemo.export")


@dataclass(frozen=True)
class Corpus:
    """A corpus that can be read.

    Attributes:
        name: as the command line has it.
        reader: lists the items of a folder.
        layout: what the folder must hold.
        licence: as commonly stated; whoever uses the corpus reads its own.
        commercial: whether that allows commercial use; None where it does not say, or its parts differ.
        split_file: of the splits by speaker, empty where the corpus has splits of its own.
        speakers_shared: why no speaker can be kept for the test, empty where one is.
    """

    name: str
    reader: Callable[[Path], list[Item]]
    layout: str
    licence: str
    commercial: bool | None
    split_file: str = ""
    speakers_shared: str = ""

    @property
    def folds(self) -> tuple[str, ...]:
        """The divisions to choose from; none where the corpus has its own."""
        return tuple(folds(self.split_file)) if self.split_file else ()

    def read(self, folder: Path, fold: str | None = None) -> list[Item]:
        """List the items of a folder, each in its split.

        Args:
            folder: of the corpus.
            fold: one of `folds`; None is the first.

        Raises:
            InputError: the folder is not that of the corpus, there is no such fold, or a speaker is unknown.
        """
        if fold is not None and fold not in self.folds:
            right = (
                f"it must be one of {', '.join(self.folds)}" if self.folds else "it has none; leave it out"
            )
            raise InputError(f"{self.name}: the fold is {fold!r}; {right}")
        items = self.reader(folder)
        if not self.split_file:
            return items
        chosen = fold or self.folds[0]
        if fold is None and len(self.folds) > 1:
            log.info("%s: fold %s of %s", self.name, chosen, ", ".join(self.folds))
        return place(folder, items, folds(self.split_file)[chosen], self.split_file)


def find(name: str) -> Corpus:
    """The corpus of a name.

    Raises:
        InputError: there is none.
    """
    if name not in CORPORA:
        raise InputError(f"the corpus is {name!r}; it must be one of {', '.join(CORPORA)}")
    return CORPORA[name]


_ALL = (
    Corpus(
        *("ravdess", ravdess.read, ravdess.EXPECTED),
        licence="CC BY-NC-SA 4.0; commercial licences are sold",
        commercial=False,
        split_file="ravdess",
    ),
    Corpus(
        *("cremad", cremad.read, cremad.EXPECTED),
        licence="ODbL 1.0",
        commercial=True,
        split_file="cremad",
    ),
    Corpus(
        *("meld", meld.read, meld.EXPECTED),
        licence="GPL-3.0 for the tables; the clips are of a television series: see the corpus",
        commercial=None,
        speakers_shared="the official split has the same main characters in training and test",
    ),
    Corpus(
        *("iemocap", iemocap.read, iemocap.EXPECTED),
        licence="by agreement with the University of Southern California, for research: see the corpus",
        commercial=False,
        split_file="iemocap",
    ),
    Corpus(
        *("iemocap-seven", iemocap.read_seven, iemocap.EXPECTED),
        licence="by agreement with the University of Southern California, for research: see the corpus",
        commercial=False,
        split_file="iemocap",
    ),
    Corpus(
        *("emodb", emodb.read, emodb.EXPECTED),
        licence="CC0 1.0, as its maintainers at audEERING state",
        commercial=True,
        split_file="emodb",
    ),
    Corpus(
        *("enterface", enterface.read, enterface.EXPECTED),
        licence="see the corpus",
        commercial=None,
        split_file="enterface",
    ),
    Corpus(
        *("casia", casia.read, casia.EXPECTED),
        licence="by agreement with the Chinese Academy of Sciences: see the corpus",
        commercial=None,
        split_file="casia",
    ),
    Corpus(
        *("savee", savee.read, savee.EXPECTED),
        licence="on registration, for research: see the corpus",
        commercial=None,
        split_file="savee",
    ),
    Corpus(
        *("nemo", nemo.read, nemo.EXPECTED),
        licence="CC BY-NC-SA 4.0",
        commercial=False,
        split_file="nemo",
    ),
    Corpus(
        *("ferplus", ferplus.read, ferplus.EXPECTED),
        licence="MIT for the labels; the pictures are from the web, their rights are unclear",
        commercial=None,
        speakers_shared="nobody knows who is in its pictures",
    ),
    Corpus(
        *("affectnet", affectnet.read, affectnet.EXPECTED),
        licence="by agreement, for non-commercial research: see the corpus",
        commercial=False,
        speakers_shared="nobody knows who is in its pictures",
    ),
    Corpus(
        *("affwild2", affwild2.read, affwild2.EXPECTED),
        licence="by agreement, for non-commercial research: see the corpus",
        commercial=False,
    ),
)

CORPORA: Mapping[str, Corpus] = {corpus.name: corpus for corpus in _ALL}
"""Every corpus that can be read."""
