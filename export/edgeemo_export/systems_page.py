"""The results page of the published systems and their ablations: trains what is missing, and measures it."""

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
from edgeemo.preprocess.detector import open_finder

from .conditions import CONDITIONS, PAIRS, Encoded, Inputs, Items, audio_visual, label_pairs, voice_tokens
from .config import kept, override, seeded
from .data import pairs, sounds, voices
from .data.degrade import SIGMA, noisy
from .data.labels import LABELS
from .data.tokens import VoiceBank
from .metrics import accuracies
from .recipes import by_name, co_attention, fdan, systems
from .systems.fusion import Answers, Fusion

log = logging.getLogger("edgeemo.export")

DETECTOR = "face_detection_yunet_2023mar.onnx"
REAL = (("whole", "whole"), ("whole", "noisy"), ("whole", "absent"), ("absent", "whole"), ("absent", "noisy"))
PROTOCOL = (
    "Splits are by speaker: RAVDESS actors 02-14 train, 15 and 16 develop, 17-20 test; EmoDB 03, 08, 09 "
    "train, 10 develops, 11-14 test; nEMO EB0, IC0, KD0, KS0 train, MP0, SM0, WR0 test; of FER+ train "
    "every tenth picture develops, and valid tests; of CREMA-D there are only votes, without those for "
    "actor 1001. Temperatures, and the weights of co-attention's late fusion, come from the development "
    "split. The number of epochs is fixed, and what is measured is the moving average after the last. Seven "
    "classes; calm counts as neutral."
)
ENCODERS = (
    "The systems read the project's own small encoders (a face of 48 pixels, one second of a voice, 128 "
    "numbers each); FDAN has a small residual net that both modalities share. ResNet-34, WavLM, CLIP, "
    "wav2vec 2.0 and BERT, which the papers use, are tested only from tiny random configurations, for "
    "export and parity: no figure here is of them, and none reproduces a paper's."
)
PAIRED = (
    "A label-matched pair is a picture of FER+ valid, in the middle of a voice of RAVDESS 17-20 or EmoDB "
    "11-14 that has its label: two people, so there is nothing in the pair beyond what each shows."
)
BY_VOTES = (
    "Pairs by votes: a picture whose raters' shares are near those of the face of a CREMA-D clip, and a "
    "voice of the label that one vote for the clip's voice named; the target is what raters of both said. "
    "CREMA-D has no surprise, so that seventh of the windows is matched by label."
)
Figures = Mapping[tuple[str, str], Mapping[str, float]]
"""WA and UA under each condition of face and voice."""


@dataclass(frozen=True)
class Variant:
    """A system with some settings.

    Attributes:
        title: as a table names it.
        system: one of `by_name.DEFAULTS`.
        settings: as ``--set`` takes them.
    """

    title: str
    system: str
    settings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the folder with its runs; variants that are alike share them."""
        return "-".join((self.system, *self.settings))

    def command(self) -> str:
        """What trains it."""
        given = "".join(f" --set {setting}" for setting in self.settings)
        encoders = " --encoders ENCODERS" if by_name.ENCODERS[self.system] else ""
        return (
            f"edgeemo-export train --data DATA --system {self.system}{encoders}{given} --seed SEED "
            f"--run RUNS/{self.name}/SEED"
        )


PLAIN = ("avel=0", "mem=0")
FOAL_NET = (
    Variant("fusion alone", "foal-net", PLAIN),
    Variant("+ AVEL", "foal-net", ("mem=0",)),
    Variant("+ MEM", "foal-net", ("avel=0",)),
    Variant("+ both", "foal-net"),
)
STUDIES: Mapping[str, tuple[Variant, ...]] = {
    "Foal-Net: the fusion alone, with alignment before it, with matching after it": FOAL_NET,
    "JCA: joint against plain cross-attention": (
        Variant("joint", "jca"),
        Variant("plain", "jca", ("joint=false",)),
    ),
    "FDAN: without LMMD and with it": (
        Variant("LMMD 0", "fdan", ("lmmd=0",)),
        Variant(f"LMMD {fdan.DEFAULTS.lmmd:g}", "fdan"),
    ),
    "Pairs by label against pairs by CREMA-D's votes": (
        Variant("Foal-Net, label", "foal-net"),
        Variant("Foal-Net, votes", "foal-net", ("pairs=votes",)),
        Variant("JCA, label", "jca"),
        Variant("JCA, votes", "jca", ("pairs=votes",)),
    ),
}
UNITS = tuple(Variant(v.title, v.system, ("pairs=units", *v.settings)) for v in FOAL_NET)
SYSTEMS = (Variant("FDAN", "fdan"), Variant("Foal-Net", "foal-net"), Variant("JCA", "jca"))
TEXT = Variant("Co-attention", "co-attention")


def write(
    data: Path, encoders: Path, runs: Path, page: Path, seeds: Sequence[int], *, clips: bool = False
) -> None:
    """Train what is missing, measure all on the test speakers, and write the page.

    Args:
        data: the corpora.
        encoders: finished run of the default recipe.
        runs: folder of the systems' runs, one a variant and seed; finished ones are read back.
        page: the Markdown page.
        seeds: two or more.
        clips: look at the audio-visual clips too: once, when nothing will be changed any more.

    Raises:
        InputError: there is one seed only, or a run was begun with other settings or encoders.
    """
    if len(set(seeds)) < 2:
        raise InputError(f"--seeds {' '.join(map(str, seeds))}: give two or more, of which there is a spread")
    desk = Desk(data, encoders, runs, tuple(seeds))
    variants = [*SYSTEMS, TEXT, *(v for study in STUDIES.values() for v in study), *UNITS]
    for variant in variants:
        for seed in seeds:
            desk.train(variant, seed)
    sets = {"Label-matched pairs of test speakers": label_pairs(data, PAIRS)}
    if clips:
        finder = open_finder(data / "models" / DETECTOR)
        sets["Audio-visual clips, RAVDESS actor 01"] = audio_visual(data, finder)
    sections = [_head(seeds, clips), desk.budgets(variants)]
    for title, items in sets.items():
        measured = {v.name: desk.measure(v, items) for v in variants if v not in (TEXT, *UNITS)}
        sections.append(f"## {title}\n\nn = {len(items.labels)}. WA / UA, mean ± standard deviation.")
        sections.append(_table(SYSTEMS, measured, CONDITIONS))
        for study, compared in STUDIES.items():
            sections += [f"### {study}", _table(compared, measured, CONDITIONS)]
            sections.append(_differences(compared, measured, CONDITIONS))
    sections += [desk.real(), desk.text()]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n\n".join(sections) + "\n")


class Desk:
    """What the measurements share: runs, and tokens that several systems read.

    Args:
        data: the corpora.
        encoders: run of the frozen encoders.
        runs: folder of the systems' runs.
        seeds: of the runs.
    """

    def __init__(self, data: Path, encoders: Path, runs: Path, seeds: tuple[int, ...]) -> None:
        self.data, self.encoders, self.runs, self.seeds = data, encoders, runs, seeds
        self.shared: dict[int, Encoded] = {}

    def train(self, variant: Variant, seed: int) -> by_name.Trained:
        """A trained variant; a finished run is read back, if it has the settings that are wanted.

        Raises:
            InputError: a run was begun with other settings, or over other encoders.
        """
        folder = self.runs / variant.name / str(seed)
        config = override(seeded(by_name.DEFAULTS[variant.system], seed), variant.settings)
        encoders = self.encoders if by_name.ENCODERS[variant.system] else None
        if by_name.is_run(folder) and kept(folder, config) == config:
            by_name.check_encoders(variant.system, encoders, folder)
            return by_name.read(folder, self.data)
        log.info("%s, seed %d", variant.name, seed)
        return by_name.train(variant.system, self.data, encoders, folder, config)

    def measure(self, variant: Variant, items: Items) -> list[Figures]:
        """Figures of each seed under every condition."""
        return [self._figures(self.train(variant, seed), items) for seed in self.seeds]

    def _figures(self, trained: by_name.Trained, items: Items) -> Figures:
        if by_name.ENCODERS[trained.system]:
            # Tokens of the frozen encoders are those of every system over them.
            if id(items) not in self.shared:
                self.shared[id(items)] = Encoded(items, trained.encoders)
            encoded = self.shared[id(items)]
        else:
            encoded = Encoded(items, trained.encoders)
        return figures(_fusion(trained), encoded.inputs, items.labels, CONDITIONS)

    def real(self) -> str:
        """The study on real pairs: action units as face tokens beside the voice of the same recording."""
        clips = voices.read(self.data, "test", ("ravdess",))
        trained = {v.name: [self.train(v, seed) for seed in self.seeds] for v in UNITS}
        voice = trained[UNITS[0].name][0].encoders["voice"]
        labels = torch.tensor([LABELS.index(clip.label) for clip in clips])
        heard = [sounds.load(clip.path) for clip in clips]
        random = torch.Generator().manual_seed(0)
        inputs = {
            name: _of_units(self.data, clips, [voice_tokens(voice, x) for x in given], labels)
            for name, given in (("whole", heard), ("noisy", [noisy(x, random) for x in heard]))
        }

        def given(face: str, told: str) -> Inputs:
            seen, seen_mask, *_ = inputs["whole"]
            *_, voices_, voice_mask = inputs["noisy" if told == "noisy" else "whole"]
            return seen, seen_mask * (face != "absent"), voices_, voice_mask * (told != "absent")

        measured = {
            name: [figures(_fusion(one), given, labels, REAL) for one in each]
            for name, each in trained.items()
        }
        return (
            "## Real pairs: action units and voice of one recording\n\nRAVDESS actors 17-20, "
            f"n = {len(labels)}; the face tokens are OpenFace action units, means over a clip, so these runs "
            "study fusion and alignment and cannot be bundled. WA / UA, mean ± standard deviation.\n\n"
            + _table(UNITS, measured, REAL)
            + "\n\n"
            + _differences(UNITS, measured, REAL)
        )

    def text(self) -> str:
        """Co-attention of voice and text, with its control."""
        trained = [self.train(TEXT, seed).made for seed in self.seeds]
        made = [one for one in trained if one is not None]
        scores = [co_attention.score(one, self.data) for one in made]
        controls = [co_attention.control(one, self.data) for one in made]
        lines = ["## Co-attention: voice and text", "", "UA, test speakers, mean ± standard deviation.", ""]
        lines += ["| corpus | voice | text | both |", "|---" * 4 + "|"]
        for corpus in ("ravdess", "nemo"):
            if f"ua_both_{corpus}" in scores[0]:
                cells = [
                    _spread([s[f"ua_{way}_{corpus}"] for s in scores]) for way in ("voice", "text", "both")
                ]
                lines.append(f"| {corpus} | {' | '.join(cells)} |")
        lines += [
            "",
            "Control: each of nEMO's sentences is said in all of its emotions, so its text must be at chance "
            f"({controls[0].chance:.3f}), and both exchanging the sentences and an unknown word for every "
            "text must change nothing: a gain in the last two columns would be leakage. The column before "
            "them holds besides what does not hang on the words: the branches hear the voice once more with "
            f"weights of their own. n = {controls[0].n}; 95 % bootstrap intervals over the utterances.",
            "",
            "| seed | voice | text | both | both less voice | both less both with sentences exchanged | both "
            "less both with an unknown word |",
            "|---" * 7 + "|",
        ]
        for seed, one in zip(self.seeds, controls, strict=True):
            ways = " | ".join(f"{value:.3f}" for value in (one.voice, one.text, one.both))
            lines.append(f"| {seed} | {ways} | {one.gain} | {one.content} | {one.words} |")
        return "\n".join(lines)

    def budgets(self, variants: Sequence[Variant]) -> str:
        """What each variant cost, and the command that trains it."""
        lines = [
            "## Commands and cost",
            "",
            "Training time without encoding the corpora, wall-clock on a shared CPU; mean over the seeds.",
            "",
            "| run | seconds | command |",
            "|---|---|---|",
        ]
        for name, variant in {v.name: v for v in variants}.items():
            spent = [seconds(self.runs / name / str(seed)) for seed in self.seeds]
            lines.append(f"| {name} | {statistics.mean(spent):.0f} | `{variant.command()}` |")
        return "\n".join(lines)


def figures(
    fusion: Fusion,
    inputs: Callable[[str, str], Inputs],
    labels: Tensor,
    conditions: Sequence[tuple[str, str]],
) -> Figures:
    """WA and UA of a fusion under each condition."""
    return {
        (face, voice): accuracies(systems.answers(fusion, inputs(face, voice)).argmax(1), labels)
        for face, voice in conditions
    }


def _fusion(trained: by_name.Trained) -> Fusion:
    assert isinstance(trained.fusion, Answers)
    return trained.fusion.fusion


def seconds(run: Path) -> float:
    """How long the epochs of a run took together."""
    return sum(float(json.loads(line)["seconds"]) for line in (run / "curve.jsonl").read_text().splitlines())


def _of_units(
    data: Path, clips: Sequence[voices.Clip], heard: Sequence[tuple[Tensor, Tensor]], labels: Tensor
) -> Inputs:
    tokens, masks = (torch.stack(parts)[None] for parts in zip(*heard, strict=True))
    windows = systems.real_pairs(pairs.real(data, clips, VoiceBank(tokens, masks, labels)))
    first, first_mask, second, second_mask = windows.inputs
    return first, first_mask, second, second_mask


def _table(
    variants: Sequence[Variant],
    measured: Mapping[str, Sequence[Figures]],
    conditions: Sequence[tuple[str, str]],
) -> str:
    lines = [
        "| face | voice | " + " | ".join(variant.title for variant in variants) + " |",
        "|---" * (len(variants) + 2) + "|",
    ]
    for condition in conditions:
        cells = []
        for variant in variants:
            found = [one[condition] for one in measured[variant.name]]
            cells.append(" / ".join(_spread([figure[key] for figure in found]) for key in ("wa", "ua")))
        lines.append(f"| {' | '.join((*condition, *cells))} |")
    return "\n".join(lines)


def _differences(
    variants: Sequence[Variant],
    measured: Mapping[str, Sequence[Figures]],
    conditions: Sequence[tuple[str, str]],
) -> str:
    """What each variant gains on the first one of its system, in words."""
    said = []
    for variant in variants:
        base = next(other for other in variants if other.system == variant.system)
        if base is variant:
            continue
        pairs_of_seeds = zip(measured[variant.name], measured[base.name], strict=True)
        gains = [
            statistics.mean(one[condition]["ua"] - other[condition]["ua"] for condition in conditions)
            for one, other in pairs_of_seeds
        ]
        gained = f"{statistics.mean(gains):+.3f} ± {statistics.stdev(gains):.3f}"
        said.append(f"{variant.title} less {base.title}: {gained}.")
    return f"UA, mean over the {len(conditions)} conditions, paired by seed: {' '.join(said)}"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def _head(seeds: Sequence[int], clips: bool) -> str:
    given = " ".join(map(str, seeds))
    return "\n\n".join(
        [
            "# Systems and ablations",
            "Written by `edgeemo-export systems --data DATA --encoders ENCODERS --runs RUNS --page PAGE "
            f"--seeds {given}{' --clips' if clips else ''}`. FP32, mean and standard deviation over "
            f"{len(seeds)} seeds. All seeds share the frozen encoders, so the spread is that of what is "
            "trained over them; FDAN trains its own.",
            PROTOCOL,
            ENCODERS,
            f"{PAIRED} Noisy: white noise of 0 dB over the recording. Blurred: a Gaussian of {SIGMA:g} of 48 "
            "pixels. Occluded: one rectangle over a third of the picture. Absent: masked.",
            BY_VOTES,
        ]
    )
