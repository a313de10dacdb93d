"""Who is learnt from, listened to and tested when a model goes from one corpus of voices to another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeemo.errors import InputError

from . import voices
from .labels import LABELS

SOURCE = "ravdess"
TARGETS = ("emodb", "nemo")


@dataclass(frozen=True)
class Transfer:
    """The clips of a study across corpora, over the classes that both corpora have.

    Attributes:
        target: name of the target corpus.
        labels: the classes, in the order of the logits.
        train: labelled clips of the source.
        develop: labelled clips of other speakers of the source.
        listen: clips of the target, of these classes; only the supervised ceiling learns their labels.
        test: clips of other speakers of the target.
    """

    target: str
    labels: tuple[str, ...]
    train: list[voices.Clip]
    develop: list[voices.Clip]
    listen: list[voices.Clip]
    test: list[voices.Clip]


def transfer(data: Path, target: str) -> Transfer:
    """From RAVDESS to another corpus.

    Args:
        data: the corpora.
        target: one of `TARGETS`.

    Raises:
        InputError: the target is not one of these, or has no clips under ``data``.
    """
    if target not in TARGETS:
        raise InputError(f"target {target!r}: it must be one of {', '.join(TARGETS)}")
    listen = [clip for split in ("train", "develop") for clip in voices.read(data, split, (target,))]
    train, develop = (voices.read(data, split, (SOURCE,)) for split in ("train", "develop"))
    test = voices.read(data, "test", (target,))
    for corpus, clips in ((SOURCE, train), (target, listen), (target, test)):
        if not clips:
            raise InputError(f"{data}: it holds no clips of {corpus}; give the folder of the corpora")
    both = {clip.label for clip in train} & {clip.label for clip in listen}
    labels = tuple(label for label in LABELS if label in both)

    def kept(clips: list[voices.Clip]) -> list[voices.Clip]:
        return [clip for clip in clips if clip.label in labels]

    return Transfer(target, labels, kept(train), kept(develop), kept(listen), kept(test))
