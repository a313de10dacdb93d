"""IEMOCAP: five sessions of two actors each, scripted and improvised (Busso et al., 2008).

``IEMOCAP_full_release/SessionN`` has, for each dialogue, ``dialog/EmoEvaluation/Ses01F_impro01.txt`` (a
line for each utterance: times, name, majority label, valence, activation and dominance from 1 to 5, then
what each rater said), ``dialog/transcriptions/*.txt`` (name, times, words) and
``sentences/wav/DIALOGUE/UTTERANCE.wav`` (its README). The letter after the session is who wears the
markers; who speaks is the letter in the utterance's last part. The videos show two people side by side
and are not read.

The scripted dialogues are the same three scripts in every session: in leave-one-session-out folds each
line of a test is in training too, said by others. That does no harm to what hears, and all to what reads;
the folds whose names end in ``-improvised`` leave the scripts out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from .item import Item, Tally
from .layout import require

EXPECTED = (
    "folders Session1 to Session5 of dialog/EmoEvaluation/*.txt, dialog/transcriptions/*.txt and "
    "sentences/wav/*/*.wav, as IEMOCAP_full_release does"
)
FOUR = {"ang": "anger", "exc": "happiness", "hap": "happiness", "neu": "neutral", "sad": "sadness"}
"""The four classes of most papers, excited counted as happy: 5,531 utterances in the whole corpus."""

SEVEN = {**FOUR, "dis": "disgust", "fea": "fear", "sur": "surprise"}
EVALUATION = re.compile(
    r"\[[\d.]+ - [\d.]+\]\s+((Ses0\d)\w+_([FM])\w*\d+)\s+(\w{3})\s+\[([\d.]+), ([\d.]+), [\d.]+\]"
)
WORDS = re.compile(r"(Ses\w+) \[[\d.]+-[\d.]+\]:\s*(.*)")
SCRIPT = re.compile(r"script\d\d_\d")
MIDDLE, REACH = 3.0, 2.0  # of the raters' scale from 1 to 5


def read(folder: Path) -> list[Item]:
    """List the utterances of the four classes.

    Raises:
        InputError: the folder is not that of the corpus.
    """
    return _read(folder, FOUR)


def read_seven(folder: Path) -> list[Item]:
    """List the utterances of all seven labels; there is next to no disgust, and little fear.

    Raises:
        InputError: the folder is not that of the corpus.
    """
    return _read(folder, SEVEN)


def fits(folder: Path) -> bool:
    """Whether it holds a session with evaluations."""
    return any(folder.glob("Session[1-5]/dialog/EmoEvaluation"))


def _read(folder: Path, labels: Mapping[str, str]) -> list[Item]:
    require(folder, fits, EXPECTED)
    left, items = Tally(folder), []
    for session in sorted(folder.glob("Session[1-5]")):
        texts = {found[0]: found[1] for found in _lines(session / "dialog" / "transcriptions", WORDS)}
        lines = _lines(session / "dialog" / "EmoEvaluation", EVALUATION)
        for name, prefix, sex, code, valence, arousal in lines:
            dialogue = name.rpartition("_")[0]
            voice = session / "sentences" / "wav" / dialogue / f"{name}.wav"
            if code not in labels:
                left.drop(f"of the label {code}", name)
            elif not voice.is_file():
                left.drop("whose sound is missing", voice)
            else:
                script = SCRIPT.search(dialogue)
                items.append(
                    Item(
                        labels[code],
                        f"iemocap-{prefix[-1]}{sex}",
                        voice=voice,
                        text=texts.get(name, "").strip(),
                        valence=_centred(valence),
                        arousal=_centred(arousal),
                        script=script[0] if script else "",
                    )
                )
    return left.finish(items)


def _lines(folder: Path, line: re.Pattern[str]) -> Iterator[tuple[str, ...]]:
    """The groups of every line of that form in a folder's texts; macOS left hidden files beside some."""
    for path in sorted(folder.glob("*.txt")):
        if path.name[0] != ".":
            for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
                if found := line.match(text):
                    yield found.groups()


def _centred(rating: str) -> float:
    """From 1 to 5 to [-1, 1]; a few means lie half a point outside, where a rater did."""
    return max(-1.0, min(1.0, (float(rating) - MIDDLE) / REACH))
