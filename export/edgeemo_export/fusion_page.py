"""The results page of the default fusion, aligned and taught: trains what is missing, and measures all."""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from edgeemo.errors import InputError
from edgeemo.figures import calibration_error
from edgeemo.preprocess.detector import open_finder

from . import distil
from .conditions import CONDITIONS, PAIRS, Encoded, Inputs, Items, audio_visual, label_pairs
from .config import override, seeded
from .data.degrade import SIGMA
from .data.tokens import SHARES, SIGMAS
from .metrics import accuracies
from .recipes import by_name, fusion, taught
from .recipes.aligned import MEM
from .recipes.face import FaceModel
from .recipes.lessons import WINDOWS, WORSE
from .recipes.taught import Tutor
from .recipes.voice import VoiceModel
from .systems.attention import AttentionFusion
from .systems_page import DETECTOR, PAIRED, seconds
from .words import counted

log = logging.getLogger("edgeemo.export")

RUNS = "fusions"
Figures = Mapping[tuple[str, str], Mapping[str, float]]
"""WA, UA and ECE under each condition of face and voice."""


@dataclass(frozen=True)
class Variant:
    """The fusion with some settings.

    Attributes:
        title: as a table names it.
        name: of the folder with its runs.
        settings: as ``--set`` takes them.
    """

    title: str
    name: str
    settings: tuple[str, ...] = ()


TAUGHT = f"distil={taught.DEFAULTS.distil:g}"
BOTH = "alignment=avel+mem"
VARIANTS = (
    Variant("plain", "plain"),
    Variant("+ LMMD", "lmmd", ("alignment=lmmd",)),
    Variant("+ AVEL", "avel", ("alignment=avel",)),
    Variant("+ AVEL, MEM", "avel-mem", (BOTH,)),
    Variant("+ teachers", "teachers", (TAUGHT,)),
    Variant("+ AVEL, MEM, teachers", "avel-mem-teachers", (BOTH, TAUGHT)),
)
PLAIN = VARIANTS[0]


def write(
    data: Path,
    run: Path,
    teachers: Sequence[Path],
    page: Path,
    seeds: Sequence[int],
    *,
    settings: Sequence[str] = (),
    clips: bool = False,
) -> None:
    """Train what is missing, measure all on the test speakers, and write the page.

    The runs are kept in a folder ``fusions`` of the run, one a variant and seed; finished ones are read back.

    Args:
        data: the corpora.
        run: of the default recipe, with the face and the voice that all variants are over.
        teachers: folders of finished runs.
        page: the Markdown page.
        seeds: two or more.
        settings: of all variants, as ``--set`` takes them.
        clips: look at the audio-visual clips too: once, when nothing will be changed any more.

    Raises:
        InputError: there is one seed only, no teacher, or a run was begun with others or with other settings.
    """
    if len(set(seeds)) < 2:
        raise InputError(f"--seeds {' '.join(map(str, seeds))}: give two or more, of which there is a spread")
    desk = Desk(data, run, teachers, tuple(seeds), tuple(settings))
    desk.estimate()
    trained = {v.name: [desk.train(v, seed) for seed in seeds] for v in VARIANTS}
    sets = {"Label-matched pairs of test speakers": label_pairs(data, PAIRS)}
    if clips:
        sets["Audio-visual clips, RAVDESS actor 01"] = audio_visual(
            data, open_finder(data / "models" / DETECTOR)
        )
    sections = [_head(desk, clips), _cost(desk)]
    for title, items in sets.items():
        sections += _measured(title, items, desk, trained)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n\n".join(sections) + "\n")


PROTOCOL = (
    "All variants share the frozen encoders of the run, so the spread is that of the fusion alone. Weights "
    "were settled by short trainings on development pairs, before anything here was measured. What is "
    "measured is the moving average after the last epoch, calibrated on development pairs."
)
ALIGNED = (
    "Alignment (LMMD, AVEL, AVEL with MEM) acts on what the cross-attention reads, the means of the "
    "projected face and voice tokens of label-matched pairs: over frozen encoders nothing before that can be "
    "aligned. Nothing of it is in the exported graph."
)
LESSONS = (
    "Each teacher reads tokens of its own encoders, of the same pictures and sounds as the student's. Half "
    "of the windows are label-matched pairs. The others have no label: any picture of FER+ train, also one "
    "without a majority, or a sequence, beside an utterance that half of the time has nothing to do with it; "
    f"{WORSE:.0%} of the faces and {WORSE:.0%} of the voices are made worse (blurred by {SIGMAS[0]:g} to "
    f"{SIGMAS[-1]:g} pixels or covered by {SHARES[0]:.0%} to {SHARES[-1]:.0%}; white noise from 15 dB below "
    "the voice to 5 dB above). What is measured below lies among these degrees, and the plain fusion never "
    "meets any: a gain where something is made worse may come from having met it rather than from the "
    "teachers."
)


class Desk:
    """What the trainings and the measurements share.

    Args:
        data: the corpora.
        run: with the face and the voice.
        teachers: folders of finished runs.
        seeds: of the runs.
        settings: of all variants.
    """

    def __init__(
        self,
        data: Path,
        run: Path,
        teachers: Sequence[Path],
        seeds: tuple[int, ...],
        settings: tuple[str, ...],
    ) -> None:
        self.data, self.run, self.teachers, self.seeds = data, run, tuple(teachers), seeds
        self.settings = settings
        self.face, self.voice = taught.encoders(run)
        self.tokens = run / "fusion"

    @property
    def encoders(self) -> dict[str, torch.nn.Module]:
        """Of the student."""
        return {"face": self.face.encoder, "voice": self.voice.encoder}

    def config(self, variant: Variant, seed: int) -> fusion.Config:
        """The settings of a run."""
        return override(seeded(fusion.DEFAULTS, seed), [*self.settings, *variant.settings])

    def folder(self, variant: Variant, seed: int) -> Path:
        """Of a run."""
        return self.run / RUNS / variant.name / str(seed)

    def train(self, variant: Variant, seed: int) -> AttentionFusion:
        """A trained variant; a finished run is read back, if it has the settings that are wanted."""
        config, folder = self.config(variant, seed), self.folder(variant, seed)
        if not config.distil:
            return fusion.train(self.data, folder, self.face, self.voice, config, tokens=self.tokens)
        return taught.train(self.data, folder, self.face, self.voice, self.teachers, config, self.tokens)

    def estimate(self) -> None:
        """Log how long all trainings that are missing will take, by a few steps of each variant."""
        missing = {v: sum(not self._is_there(v, seed) for seed in self.seeds) for v in VARIANTS}
        total = 0.0
        for variant, count in missing.items():
            if count:
                config = self.config(variant, self.seeds[0])
                school = taught.School(*self._given, self.tutors() if config.distil else [], config)
                total += count * fusion.cost(*self._given, config, school).seconds
        log.info("%s to train, about %.0f min", counted(sum(missing.values()), "fusion"), total / 60)

    @property
    def _given(self) -> tuple[Path, Path, FaceModel, VoiceModel]:
        return self.data, self.tokens, self.face, self.voice

    def _is_there(self, variant: Variant, seed: int) -> bool:
        config = self.config(variant, seed)
        return fusion.is_finished(self.folder(variant, seed), config.schedule)

    def tutors(self) -> list[Tutor]:
        """The teachers."""
        return [taught.read(run, self.data) for run in self.teachers]


@torch.no_grad()
def figures(answer: Callable[[Inputs], Tensor], encoded: Encoded) -> Figures:
    """WA, UA and ECE of calibrated logits under each condition."""
    found, labels = {}, encoded.items.labels
    for condition in CONDITIONS:
        logits = answer(encoded.inputs(*condition))
        ece = calibration_error(logits.softmax(1).double().numpy(), labels.numpy())
        found[condition] = {**accuracies(logits.argmax(1), labels), "ece": ece}
    return found


def _of_teachers(items: Items, tutors: Sequence[Tutor]) -> Figures:
    """What the teachers say together, each over its own encoders."""
    said: dict[tuple[str, str], list[Tensor]] = {condition: [] for condition in CONDITIONS}
    encoded: dict[str, Encoded] = {}
    for tutor in tutors:
        if tutor.encoded not in encoded:
            encoded[tutor.encoded] = Encoded(items, tutor.encoders)
        for condition in CONDITIONS:
            said[condition].append(tutor.teacher(encoded[tutor.encoded].inputs(*condition))[0])
    return {
        condition: accuracies(distil.ensemble(logits, 1.0).argmax(1), items.labels)
        for condition, logits in said.items()
    }


def _measured(
    title: str, items: Items, desk: Desk, trained: Mapping[str, Sequence[AttentionFusion]]
) -> list[str]:
    encoded = Encoded(items, desk.encoders)
    measured = {
        name: [figures(lambda inputs, model=model: model.eval()(*inputs)[0], encoded) for model in models]  # type: ignore[misc]
        for name, models in trained.items()
    }
    teachers = _of_teachers(items, desk.tutors())
    return [
        f"## {title}\n\nn = {len(items.labels)}. UA, mean ± standard deviation. The teachers answer "
        "together, each over its own encoders.",
        _table(measured, "ua", teachers),
        "### Difference to the plain fusion\n\nUA and ECE less those of the plain fusion of the same seed, "
        f"mean over conditions, then mean ± standard deviation over the {len(desk.seeds)} seeds.",
        _differences(measured),
        "### Calibration\n\nECE (15 bins), mean ± standard deviation.",
        _table(measured, "ece"),
    ]


def _table(measured: Mapping[str, Sequence[Figures]], key: str, teachers: Figures | None = None) -> str:
    titles = [variant.title for variant in VARIANTS] + (["the teachers"] if teachers else [])
    lines = [f"| face | voice | {' | '.join(titles)} |", "|---" * (len(titles) + 2) + "|"]
    for condition in CONDITIONS:
        cells = [_spread([one[condition][key] for one in measured[v.name]]) for v in VARIANTS]
        if teachers:
            cells.append(f"{teachers[condition][key]:.3f}")
        lines.append(f"| {' | '.join((*condition, *cells))} |")
    return "\n".join(lines)


GROUPS: Mapping[str, Callable[[str, str], bool]] = {
    "face and voice whole": lambda face, voice: (face, voice) == ("whole", "whole"),
    "one or both made worse": lambda face, voice: (
        "absent" not in (face, voice) and (face, voice) != ("whole", "whole")
    ),
    "one absent": lambda face, voice: "absent" in (face, voice),
    "all": lambda face, voice: True,
}


def _differences(measured: Mapping[str, Sequence[Figures]]) -> str:
    lines = [
        f"| conditions | {' | '.join(variant.title for variant in VARIANTS[1:])} |",
        "|---" * len(VARIANTS) + "|",
    ]
    for key in ("ua", "ece"):
        for group, belongs in GROUPS.items():
            conditions = [condition for condition in CONDITIONS if belongs(*condition)]
            cells = []
            for variant in VARIANTS[1:]:
                both = zip(measured[variant.name], measured[PLAIN.name], strict=True)
                cells.append(
                    _spread(
                        [statistics.mean(a[c][key] - b[c][key] for c in conditions) for a, b in both], "+"
                    )
                )
            lines.append(f"| {key.upper()}, {group} ({len(conditions)}) | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float], sign: str = "") -> str:
    return f"{statistics.mean(values):{sign}.3f} ± {statistics.stdev(values):.3f}"


def _cost(desk: Desk) -> str:
    lines = [
        "## Settings and cost",
        "",
        "Wall-clock of a training without encoding the corpora and without the answers of the teachers, on a "
        "shared CPU; mean over the seeds.",
        "",
        "| variant | settings | seconds |",
        "|---|---|---|",
    ]
    for variant in VARIANTS:
        spent = [seconds(desk.folder(variant, seed)) for seed in desk.seeds]
        given = " ".join(f"`{setting}`" for setting in (*desk.settings, *variant.settings)) or "the defaults"
        lines.append(f"| {variant.title} | {given} | {statistics.mean(spent):.0f} |")
    return "\n".join(lines)


def _head(desk: Desk, clips: bool) -> str:
    given = " ".join(map(str, desk.seeds))
    settings = "".join(f" --set {setting}" for setting in desk.settings)
    config = desk.config(VARIANTS[-1], desk.seeds[0])
    return "\n\n".join(
        [
            "# The default fusion: alignment and teachers",
            "Written by `edgeemo-export fusion --data DATA --run RUN --teachers TEACHERS --page PAGE --seeds "
            f"{given}{settings}{' --clips' if clips else ''}`. FP32, mean and standard deviation over "
            f"{len(desk.seeds)} seeds. {PROTOCOL}",
            f"{ALIGNED} Its weight is {config.align:g}, MEM's {MEM:g} of that.",
            f"Teachers: {_kinds(desk)}. They answer {config.lessons} lessons of {WINDOWS} windows once. "
            f"{LESSONS} The student learns their mean probabilities at temperature {config.temperature:g} "
            f"(Hinton et al., 2015), with weight {config.distil:g}, and the distances and angles of their "
            f"representations (Park et al., 2019), with weight {config.distil * config.relations:g}.",
            f"{PAIRED} Noisy: white noise of 0 dB over the recording. Blurred: a Gaussian of {SIGMA:g} of 48 "
            "pixels. Occluded: one rectangle over a third of the picture. Absent: masked.",
        ]
    )


def _kinds(desk: Desk) -> str:
    """The teachers by their systems, in words."""
    said = [
        json.loads((run / by_name.FILE).read_text())["system"]
        if by_name.is_run(run)
        else "the default system"
        for run in desk.teachers
    ]
    return ", ".join(f"{counted(said.count(name), 'run')} of {name}" for name in sorted(set(said)))
