"""eNTERFACE'05: five sentences in six emotions by 44 people, face and voice (Martin et al., 2006).

Received as ``subject N/emotion/sentence N/sN_an_N.avi`` (enterface.net). The file's name cannot be relied
upon: those of subject 11 say s12, others lack the subject or repeat the suffix. So who speaks and what is
shown are taken from the folders. Sentences are a folder deeper with some subjects and not a folder at all
with others, subject 6 has one uncut take of all sentences for each emotion, and subject 23 lacks some;
albanie/mcnDatasets counts 1,293 videos with those.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from .item import Item, Tally
from .layout import require

EXPECTED = "folders 'subject 1' to 'subject 44' of anger/sentence 1/s1_an_1.avi"
LABELS = {
    "an": "anger",
    "di": "disgust",
    "fe": "fear",
    "ha": "happiness",
    "sa": "sadness",
    "su": "surprise",
}
SUBJECT = re.compile(r"subject[ _-]?(\d+)", re.IGNORECASE)
SENTENCE = re.compile(r"sentence[ _-]?\d+", re.IGNORECASE)


def read(folder: Path) -> list[Item]:
    """List the videos, each of one sentence.

    Raises:
        InputError: the folder is not that of the corpus.
    """
    require(folder, fits, EXPECTED)
    left = Tally(folder)
    takes: dict[tuple[int, str], list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        subject, *inner = path.relative_to(folder).parts
        who = SUBJECT.fullmatch(subject)
        if who and len(inner) > 1 and path.suffix.lower() == ".avi" and path.name[0] != ".":
            takes[int(who[1]), inner[0][:2].lower()].append(path)
    items = []
    for (number, emotion), paths in sorted(takes.items()):
        if emotion not in LABELS:
            left.drop("of a folder that is no emotion", paths[0], len(paths))
        elif len(paths) == 1 and not any(SENTENCE.fullmatch(part) for part in paths[0].parts):
            left.drop("uncut takes of all sentences", paths[0])
        else:
            items += [Item(LABELS[emotion], f"enterface-{number}", path, path) for path in paths]
    return left.finish(items)


def fits(folder: Path) -> bool:
    """Whether it holds a subject."""
    return any(SUBJECT.fullmatch(path.name) for path in folder.iterdir() if path.is_dir())
