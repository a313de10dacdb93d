"""The page of the presence of speech: how much is missed, what passes, and what masking changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from .config import kept
from .data import noises, sounds, voices
from .data.activity import spoken
from .data.labels import LABELS
from .data.tokens import SLOTS
from .encoders.presence import SpeechAware
from .encoders.voice import VoiceEncoder
from .metrics import accuracies
from .recipes import presence, voice
from .recipes.trained import restored_voice
from .voice_activity import Silero, over_contexts

REFERENCE = Path("models") / "silero_vad_16k_op15.onnx"
CONDITIONS: Mapping[str, float | None] = {
    "clean": None,
    "20 dB": 20.0,
    "10 dB": 10.0,
    "5 dB": 5.0,
    "0 dB": 0.0,
}
DETECTORS = ("presence", "Silero, mean", "Silero, maximum")
FALSE_ALARMS = 0.02
USUAL = 0.5  # at which Silero's is used
EVERY = 4  # hops between contexts that are compared
SEED = 7919  # no draw of training or development
NOISES, SECONDS = 20, 6  # recordings of each kind of noise

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """Contexts, and how likely each detector holds speech in them.

    Attributes:
        share: of each context in which somebody speaks, ``[n]``.
        scores: by detector, ``[n]``.
    """

    share: Scores
    scores: Mapping[str, Scores]

    @classmethod
    def joined(cls, parts: Sequence[Judged]) -> Judged:
        """All of them, in order."""
        return cls(
            np.concatenate([part.share for part in parts]),
            {name: np.concatenate([part.scores[name] for part in parts]) for name in DETECTORS},
        )

    def speech(self, detector: str) -> Scores:
        """Scores of the contexts with speech."""
        return self.scores[detector][self.share >= presence.ENOUGH]

    def nobody(self, detector: str) -> Scores:
        """Scores of the contexts in which nobody speaks."""
        return self.scores[detector][self.share == 0.0]


def area(speech: Scores, nobody: Scores) -> float:
    """Area under the ROC curve: the chance that speech scores above what is none; ties count half.

    Example:
        >>> area(np.array([0.9, 0.5]), np.array([0.5, 0.1]))
        0.875
    """
    order = np.sort(nobody)
    below = np.searchsorted(order, speech, "left") + np.searchsorted(order, speech, "right")
    return float(below.mean() / (2 * len(nobody)))


def missed(speech: Scores, nobody: Scores, false_alarms: float = FALSE_ALARMS) -> float:
    """Share of the speech below the threshold that so many of the others pass.

    Example:
        >>> missed(np.array([0.2, 0.9]), np.linspace(0.0, 0.5, 51), 0.02)
        0.5
    """
    return float((speech < np.quantile(nobody, 1.0 - false_alarms)).mean())


def write(data: Path, run: Path, page: Path) -> None:
    """Train the head of a run's voice encoder where that is still to be done, measure it and write the page.

    Args:
        data: the corpora, with Silero's detector beside them.
        run: folder of `edgeemo-export train` with a voice encoder; the head goes into ``presence`` in it.
        page: the Markdown page.

    Raises:
        InputError: the run has no voice encoder, or the detector is not there.
    """
    model = restored_voice(run / "voice")
    silero = Silero(data / REFERENCE)
    config = kept(run / "presence", presence.DEFAULTS)
    found = presence.train(data, run / "presence", model.encoder, config)
    ears = Ears(SpeechAware(model.encoder, found.head).eval(), silero)
    clips = voices.read(data, "test")
    by_condition = {name: ears.clips(clips, ratio) for name, ratio in CONDITIONS.items()}
    by_kind = {kind: ears.noises(kind) for kind in noises.KINDS}
    lines = [
        "# Presence of speech",
        "",
        *_introduction(config, found, by_condition["clean"]),
        *_detection(by_condition, by_kind, found.threshold),
        *_kinds(by_kind, found.threshold),
        *_cost(ears.encoder, silero),
        *_masking(model, ears.encoder, found.threshold, clips),
    ]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines).rstrip() + "\n")


class Ears:
    """All detectors over the same contexts.

    Args:
        encoder: with its head.
        silero: beside it, heard from the start of each recording on.
    """

    def __init__(self, encoder: SpeechAware, silero: Silero) -> None:
        self.encoder, self._silero = encoder, silero

    def clips(self, clips: Sequence[voices.Clip], ratio: float | None) -> Judged:
        """The contexts of clips, each beside a noise of a kind that nothing was trained on."""
        random = torch.Generator().manual_seed(SEED)
        parts = []
        for clip in clips:
            samples = sounds.load(clip.path)
            voiced = spoken(samples)
            noise = noises.scene(noises.HELD, len(samples), random)
            taken = samples if ratio is None else noises.add(samples, noise, ratio, voiced)
            parts.append(self._judged(taken, voiced))
        return Judged.joined(parts)

    def noises(self, kind: str) -> Judged:
        """The contexts of noises of one kind, in which nobody speaks."""
        random = torch.Generator().manual_seed(SEED + 1)
        parts = []
        for _ in range(NOISES):
            samples = noise(kind, random)
            parts.append(self._judged(samples, torch.zeros(len(samples), dtype=torch.bool)))
        return Judged.joined(parts)

    @torch.no_grad()
    def _judged(self, samples: Tensor, voiced: Tensor) -> Judged:
        windows, heard = sounds.cut(samples)
        share = sounds.cut(voiced.float())[0].mean(dim=1)
        rows = heard.nonzero()[::EVERY, 0]
        ends = ((rows + 1) * sounds.HOP).clamp(max=len(samples)).numpy()
        mean, highest = over_contexts(self._silero.probabilities(samples.numpy()), ends, sounds.CONTEXT)
        ours = self.encoder(windows[rows])[1].double().numpy()
        scores = dict(
            zip(DETECTORS, (ours, mean.astype(np.float64), highest.astype(np.float64)), strict=True)
        )
        return Judged(share[rows].double().numpy(), scores)


def noise(kind: str, random: torch.Generator) -> Tensor:
    """One recording of a kind of noise, some seconds at some level."""
    return noises.at_level(noises.scene((kind,), SECONDS * sounds.CONTEXT, random), random)


def _introduction(config: presence.Config, found: presence.Presence, clean: Judged) -> Iterator[str]:
    counts = int((clean.share >= presence.ENOUGH).sum()), int((clean.share == 0.0).sum())
    yield (
        "Written by `edgeemo-export presence --data DATA --run RUN --page PAGE`: FP32, one seed "
        f"({config.schedule.seed}). A head on the pooled features of the voice encoder, which it leaves as "
        "it is, tells whether somebody speaks in the last second; the runtime masks the token where nobody "
        "does. The head was trained on the training speakers beside noises that are made from random numbers "
        f"(`edgeemo_export.data.noises`: {', '.join(noises.LEARNT)}), and the threshold, "
        f"{found.threshold:.3f}, masks {config.missed:.0%} of the contexts with speech of the development "
        "speakers (clean, 20 and 10 dB). Tested are the test speakers of RAVDESS, EmoDB and nEMO beside "
        f"kinds of noise that nothing was trained on: {', '.join(noises.HELD)}."
    )
    yield ""
    yield (
        f"A context has speech when at least {presence.ENOUGH:.1f} s of its second are spoken, by level and "
        "periodicity of the clean recording (`edgeemo_export.data.activity`), and has none when nothing is; "
        f"what lies between is left out. Every {EVERY}th hop is compared: {counts[0]} contexts with speech, "
        f"{counts[1]} in the pauses. Silero's detector (version 5) hears each recording from its start in "
        "chunks of 32 ms; its mean and its maximum over the same second are taken."
    )
    yield ""


def _detection(
    by_condition: Mapping[str, Judged], by_kind: Mapping[str, Judged], threshold: float
) -> Iterator[str]:
    """Speech of each condition against its own pauses and the noises of unseen kinds."""
    alone = Judged.joined([by_kind[kind] for kind in noises.HELD])
    yield "## Speech against pauses and noises of unseen kinds"
    yield ""
    yield (
        "Missed is the share of contexts with speech below the threshold that 2 % of those without pass, set "
        "for each detector and condition. The last columns are at the thresholds in use: the bundle's, and "
        f"{USUAL:g} for the maximum of Silero's; false alarms are the share of contexts without speech that "
        "pass."
    )
    yield ""
    areas, misses = (" | ".join(f"{what}, {name}" for name in DETECTORS) for what in ("AUC", "missed"))
    used = "missed in use, presence | false alarms | missed in use, Silero | false alarms"
    yield f"| condition | {areas} | {misses} | {used} |"
    yield "|---" * 11 + "|"
    for condition, judged in by_condition.items():
        sides = {
            name: (judged.speech(name), np.concatenate([judged.nobody(name), alone.nobody(name)]))
            for name in DETECTORS
        }
        cells = [f"{area(*side):.4f}" for side in sides.values()]
        cells += [f"{missed(*side):.3f}" for side in sides.values()]
        for name, limit in ((DETECTORS[0], threshold), (DETECTORS[2], USUAL)):
            speech, nobody = sides[name]
            cells += [f"{(speech < limit).mean():.3f}", f"{(nobody >= limit).mean():.3f}"]
        yield f"| {condition} | {' | '.join(cells)} |"
    yield ""


def _kinds(by_kind: Mapping[str, Judged], threshold: float) -> Iterator[str]:
    yield "## Noise that passes as speech"
    yield ""
    yield (
        f"Share of the contexts of {NOISES} recordings of {SECONDS} s of each kind, some in a room, some "
        "mixed with a second one of the kind, at -50 to -12 dB of full scale; at the thresholds in use."
    )
    yield ""
    yield "| kind | trained on | presence | Silero, maximum |"
    yield "|---|---|---|---|"
    for kind, judged in by_kind.items():
        ours, theirs = (
            float((judged.scores[name] >= limit).mean())
            for name, limit in ((DETECTORS[0], threshold), (DETECTORS[2], USUAL))
        )
        yield f"| {kind} | {'no' if kind in noises.HELD else 'yes'} | {ours:.3f} | {theirs:.3f} |"
    yield ""


def _cost(encoder: SpeechAware, silero: Silero) -> Iterator[str]:
    head, whole = multiply_adds(encoder)
    each = silero.multiply_adds * sounds.HOP / sounds.CONTEXT
    yield "## Cost"
    yield ""
    yield (
        f"Multiply-adds of an answer, every 0.1 s: the head {head / 1e3:.1f} thousand, {head / whole:.2%} of "
        f"the {whole / 1e6:.1f} million of the voice graph that runs anyway; Silero's detector, which has to "
        f"hear all chunks, {each / 1e6:.2f} million."
    )
    yield ""


def multiply_adds(encoder: SpeechAware) -> tuple[int, int]:
    """Multiply-adds of the head, and of the whole with its front end, for one context."""
    voice_ = torch.zeros(1, VoiceEncoder.context)
    counts = []
    for part in (VoiceEncoder.forward, SpeechAware.forward):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            part(encoder, voice_)
        counts.append(counter.get_total_flops() // 2)
    return counts[1] - counts[0], counts[1]


def _masking(
    model: voice.VoiceModel, encoder: SpeechAware, threshold: float, clips: Sequence[voices.Clip]
) -> Iterator[str]:
    """What masking changes: answers to clean clips, and to noise alone."""
    yield "## What masking changes"
    yield ""
    yield (
        "Clean test clips, answered by the classifier that the encoder was trained with, from the last "
        f"window of {SLOTS} hops; a clip of which every token is masked is absent and counts as wrong."
    )
    yield ""
    columns = (
        "UA before",
        "UA masked",
        "WA before",
        "WA masked",
        "labels changed",
        "tokens masked",
        "absent",
    )
    yield f"| corpus | clips | {' | '.join(columns)} |"
    yield "|---" * 9 + "|"
    for corpus in sorted({clip.corpus for clip in clips}):
        chosen = [clip for clip in clips if clip.corpus == corpus]
        yield f"| {corpus} | {len(chosen)} | {_changed(model, encoder, threshold, chosen)} |"
    yield ""
    yield (
        f"Noise alone, the same recordings as above: share of the answers that are absent, {SECONDS} s of a "
        "stream, an answer a hop."
    )
    yield ""
    yield "| noise | absent before | absent masked |"
    yield "|---|---|---|"
    for what, kinds in (("kinds trained on", noises.LEARNT), ("unseen kinds", noises.HELD)):
        before, after = absent(encoder, threshold, kinds)
        yield f"| {what} | {before:.3f} | {after:.3f} |"


@torch.no_grad()
def _changed(
    model: voice.VoiceModel, encoder: SpeechAware, threshold: float, clips: Sequence[voices.Clip]
) -> str:
    truth = torch.tensor([LABELS.index(clip.label) for clip in clips])
    answers: dict[str, list[int]] = {"before": [], "masked": []}
    tokens_, hidden = 0, 0
    for clip in clips:
        windows, heard = sounds.cut(sounds.load(clip.path))
        tokens, speech = encoder(windows[-SLOTS:])
        heard = heard[-SLOTS:]
        masks = {"before": heard, "masked": heard & (speech >= threshold)}
        tokens_ += int(heard.sum())
        hidden += int((heard & ~masks["masked"]).sum())
        for name, mask in masks.items():
            logits = model.classify(tokens[None], mask[None].float())
            answers[name].append(int(logits.argmax()) if mask.any() else -1)
    before, masked = (torch.tensor(answers[name]) for name in answers)
    figures = [accuracies(found, truth) for found in (before, masked)]
    cells = [f"{one[key]:.3f}" for key in ("ua", "wa") for one in figures]
    changed = float((before != masked).float().mean())
    return " | ".join(
        [*cells, f"{changed:.3f}", f"{hidden / max(tokens_, 1):.3f}", str(int((masked < 0).sum()))]
    )


@torch.no_grad()
def absent(encoder: SpeechAware, threshold: float, kinds: Sequence[str]) -> tuple[float, float]:
    """Share of the hops of noises alone that have no token in their window: before masking, and masked."""
    counts = np.zeros(2)
    hops = 0
    for kind in kinds:
        random = torch.Generator().manual_seed(SEED + 1)
        for _ in range(NOISES):
            windows, heard = sounds.cut(noise(kind, random))
            present = heard & (encoder(windows)[1] >= threshold)
            hops += len(windows)
            counts += [_empty_windows(mask) for mask in (heard, present)]
    before, after = (counts / hops).tolist()
    return before, after


def _empty_windows(mask: Tensor) -> int:
    """Hops whose window, they and the slots ahead of them, holds no token."""
    padded = torch.nn.functional.pad(mask.float(), (SLOTS - 1, 0))
    return int((padded.unfold(0, SLOTS, 1).amax(dim=1) == 0.0).sum())
