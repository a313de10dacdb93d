"""What teachers are worth: encoders of every size, taught and untaught, beside the teachers together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from edgeemo.errors import InputError

from .data import ferplus, voices
from .data.labels import LABELS
from .encoders.voice import VoiceEncoder
from .metrics import accuracies
from .recipes import distilled, face, voice
from .recipes.face import FaceModel
from .recipes.trained import restored_face, restored_voice
from .recipes.voice import VoiceModel

PRIORS = {"half": 0.5, "natural": 1.0}
NEWEST = -40
"""Contexts of a clip that are answered from on, as in training."""


@dataclass(frozen=True)
class Scored:
    """One encoder, or several that answer together.

    Attributes:
        name: of the run.
        parameters: of the encoder, 0 for several.
        multiply_adds: of an answer.
        taught: whether it had teachers.
        logits: of the test set, ``[n, K]``; those of several are their mean log-probabilities.
    """

    name: str
    parameters: int
    multiply_adds: float
    taught: bool
    logits: Tensor

    def row(self, figures: Mapping[str, float]) -> str:
        """A line of a table."""
        size = f"{self.parameters / 1e3:.0f} k" if self.parameters else ""
        cells = [self.name, size, f"{self.multiply_adds / 1e6:.0f} M", "yes" if self.taught else "no"]
        return f"| {' | '.join([*cells, *(f'{value:.3f}' for value in figures.values())])} |"


def write(data: Path, runs: Sequence[Path], teachers: Sequence[Path], page: Path) -> None:
    """Score encoders of finished runs on the test sets, in FP32, and write a page.

    Args:
        data: the corpora.
        runs: folders with a ``face``, a ``voice`` or both.
        teachers: those of them that taught the others; together they are the ceiling.
        page: the Markdown page.

    Raises:
        InputError: a teacher is not among the runs, or no run has an encoder.
    """
    if strange := [run for run in teachers if run not in runs]:
        raise InputError(f"--teachers {strange[0]}: it is not among --runs; name it there too")
    lines = [
        "# Encoders and their teachers",
        "",
        f"Written by `edgeemo-export encoders --runs {' '.join(run.name for run in runs)} --teachers "
        f"{' '.join(run.name for run in teachers)}`: test splits (FER+ valid by the majority protocol; "
        "RAVDESS 17-20, EmoDB 11-14, nEMO MP0, SM0, WR0), FP32, each encoder with the classifier that it was "
        "trained with. Runs that end in a digit differ by their seed. `half` and `natural` say how much of "
        "FER+'s class prior the logits carry. `together` is the mean of the teachers' log-probabilities: the "
        "most that was there to be learned.",
        "",
        *_faces(data, runs, teachers),
        *_voices(data, runs, teachers),
    ]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines).rstrip() + "\n")


def _faces(data: Path, runs: Sequence[Path], teachers: Sequence[Path]) -> Iterator[str]:
    faces = ferplus.read(data / "ferplus", "test")
    truth = torch.from_numpy(faces.majority)
    images = torch.from_numpy(faces.images)[truth >= 0, :, :, None]
    pictures = ferplus.read(data / "ferplus", "train")
    prior = torch.from_numpy(pictures.shares[face.usable(pictures)]).mean(dim=0).log()
    yield "## Faces"
    yield ""
    yield from _head([f"FER+ {key.upper()}, {name}" for name in PRIORS for key in ("wa", "ua")])
    for scored in _together([_face(run, images) for run in runs if _has(run, "face")], teachers):
        figures: dict[str, float] = {}
        for name, share in PRIORS.items():
            answers = (scored.logits + share * prior).argmax(1)
            figures |= {
                f"{key} {name}": value for key, value in accuracies(answers, truth[truth >= 0]).items()
            }
        yield scored.row(figures)
    yield ""


def _voices(data: Path, runs: Sequence[Path], teachers: Sequence[Path]) -> Iterator[str]:
    clips = voices.read(data, "test")
    truth = torch.tensor([LABELS.index(clip.label) for clip in clips])
    corpora = sorted({clip.corpus for clip in clips})
    yield "## Voices"
    yield ""
    yield from _head([f"UA, {corpus}" for corpus in corpora])
    for scored in _together([_voice(run, clips) for run in runs if _has(run, "voice")], teachers):
        figures = {}
        for corpus in corpora:
            rows = torch.tensor([clip.corpus == corpus for clip in clips])
            figures[corpus] = accuracies(scored.logits[rows].argmax(1), truth[rows])["ua"]
        yield scored.row(figures)


def _has(run: Path, part: str) -> bool:
    return (run / part / "state.pt").exists()


def _head(figures: Sequence[str]) -> Iterator[str]:
    columns = ["run", "parameters", "multiply-adds", "taught", *figures]
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"


def _together(scored: Sequence[Scored], teachers: Sequence[Path]) -> list[Scored]:
    """All of them, and the teachers as one."""
    names = {teacher.name for teacher in teachers}
    those = [one for one in scored if one.name in names]
    if len(those) < 2:
        return list(scored)
    logits = torch.stack([one.logits.log_softmax(1) for one in those]).mean(dim=0)
    work = sum(one.multiply_adds for one in those)
    return [*scored, Scored("together", 0, work, False, logits)]


@torch.no_grad()
def _face(run: Path, images: Tensor) -> Scored:
    model = restored_face(run / "face", "--runs").eval()
    logits = torch.cat([model(part) for part in images.split(256)])
    return _scored(run / "face", model, images[:1], logits)


@torch.no_grad()
def _voice(run: Path, clips: Sequence[voices.Clip]) -> Scored:
    model = restored_voice(run / "voice", "--runs").eval()
    logits = torch.cat([model.classify(tokens[None, NEWEST:]) for tokens in voice.tokens_of(model, clips)])
    return _scored(run / "voice", model, torch.zeros(1, VoiceEncoder.context), logits)


def _scored(folder: Path, model: FaceModel | VoiceModel, given: Tensor, logits: Tensor) -> Scored:
    with FlopCounterMode(display=False) as counter:
        model.encoder(given)
    parameters = sum(value.numel() for value in model.encoder.parameters())
    name = folder.parent.name
    return Scored(name, parameters, counter.get_total_flops() / 2, distilled.is_run(folder), logits)
