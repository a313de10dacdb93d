"""The presence of speech: a small head on the voice encoder's pooled features, the encoder left as it is."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo.errors import InputError

from .. import processes
from ..config import keep, refuse
from ..data import noises, sounds, voices
from ..data.activity import spoken
from ..encoders.fold import fold_batch_norms
from ..encoders.presence import SpeechAware, features_of, presence_head
from ..encoders.voice import SAMPLE_RATE, VoiceEncoder
from ..train import Schedule, fit

log = logging.getLogger("edgeemo.export")

SCHEDULE = Schedule(epochs=10, rate=2e-3, decay=0.05, average=0.99)
ENOUGH = 0.2
"""Share of a context in which somebody speaks, from which on it counts as speech: 0.2 s, a syllable."""

RATIOS = (0.0, 30.0)  # dB of speech over noise in training
NOISE_SECONDS = 3
FOLLOWED = 3  # contexts of a recording from which a head learns what it said before
RIDGE = 0.1  # variance of a feature that counts for nothing there, of the whole
Ear = Callable[[Tensor], Tensor]
"""Maps contexts ``[n, 16000]`` to what a head reads, ``[n, F]``."""


@dataclass(frozen=True)
class Config:
    """Settings of the recipe.

    Attributes:
        schedule: see `edgeemo_export.train.Schedule`.
        batch: contexts of a step.
        takes: how often each clip is heard, once as it is, else distorted and beside a noise.
        windows: contexts of a take; as many are drawn of a noise without anybody.
        missed: share of the development speakers' contexts with speech that the threshold may mask.

    Raises:
        InputError: one of them is out of its range.
    """

    schedule: Schedule = SCHEDULE
    batch: int = 256
    takes: int = 4
    windows: int = 4
    missed: float = 0.02

    def __post_init__(self) -> None:
        refuse(
            "presence",
            self,
            ("batch", self.batch >= 2, "2 or more"),
            ("takes", self.takes >= 1, "1 or more"),
            ("windows", self.windows >= 1, "1 or more"),
            ("missed", 0 <= self.missed < 1, "from 0 to below 1"),
        )


DEFAULTS = Config()


@dataclass(frozen=True)
class Presence:
    """What was learnt.

    Attributes:
        head: reads the pooled features of the encoder that it was trained on, and of no other.
        threshold: presence below which nobody speaks.
    """

    head: nn.Sequential
    threshold: float


@dataclass(frozen=True)
class Heard:
    """Contexts as a head reads them.

    Attributes:
        features: ``[n, F]``.
        share: of each context in which somebody speaks, ``[n]``.
    """

    features: Tensor
    share: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Heard]) -> Heard:
        """All of them, in order."""
        return cls(torch.cat([part.features for part in parts]), torch.cat([part.share for part in parts]))


def train(data: Path, folder: Path, encoder: VoiceEncoder, config: Config = DEFAULTS) -> Presence:
    """Train on the training speakers and on noises that are made here, and set the threshold.

    Args:
        data: folder with ``ravdess_speech``, ``nemo`` and ``emodb``.
        folder: of the settings, the state and the curve.
        encoder: heard through, and left as it is.
        config: the settings.

    Raises:
        InputError: the run in ``folder`` was begun with other settings, or nobody is heard to speak in the
            clips of the development speakers.
    """
    keep(config, folder)
    ear, where = listener(encoder), processes.device()
    seed = config.schedule.seed
    torch.manual_seed(seed)
    found: list[Heard] = []
    count = len(voices.read(data, "train")) * config.takes * 2 * config.windows
    steps = max(1, count // config.batch)

    def batches(random: torch.Generator) -> Iterator[Tensor]:
        if not found:  # a finished run that is only read back needs none
            found.append(record(ear, voices.read(data, "train"), config))
        order = torch.randperm(count, generator=random)
        return iter(order[: steps * config.batch].split(config.batch))

    def loss(model: nn.Module, rows: Tensor, random: torch.Generator) -> Tensor:
        target = (found[0].share[rows] / ENOUGH).clamp(max=1.0).to(where)
        logits = model(found[0].features[rows].to(where))[:, 0]
        return F.binary_cross_entropy_with_logits(logits, target)

    develop = developing(ear, voices.read(data, "develop"), seed)

    def figures(model: nn.Module) -> Mapping[str, float]:
        threshold, false = _threshold(model, develop, config.missed)
        return {"threshold": threshold, "false_alarms": false}

    head = presence_head(features_of(encoder)).to(where)
    averaged = fit(head, batches, steps, loss, figures, config.schedule, folder).cpu()
    assert isinstance(averaged, nn.Sequential)
    threshold, false = _threshold(averaged, develop, config.missed)
    log.info("presence: threshold %.3f masks %.1f %% of the noise", threshold, 100.0 * (1.0 - false))
    return Presence(averaged, threshold)


def listener(encoder: VoiceEncoder) -> Ear:
    """What a head reads of an encoder, which is put into evaluation mode."""
    encoder.eval()

    @torch.no_grad()
    def ear(windows: Tensor) -> Tensor:
        return encoder.pooled(encoder.front(windows))

    return ear


def record(ear: Ear, clips: Sequence[voices.Clip], config: Config) -> Heard:
    """Takes of every clip, and after each as many contexts of a noise without anybody."""
    random = torch.Generator().manual_seed(config.schedule.seed)
    parts = []
    for clip in clips:
        samples = sounds.load(clip.path)
        voiced = spoken(samples)
        for take in range(config.takes):
            windows, share = _take(samples, voiced, random, plain=take == 0)
            rows = torch.randint(len(windows), (config.windows,), generator=random)
            noise = empty(noises.LEARNT, NOISE_SECONDS, random)
            drawn = sounds.draw(noise, config.windows, random)
            parts.append(Heard(ear(torch.cat([windows[rows], drawn])), F.pad(share[rows], (0, len(drawn)))))
    return Heard.joined(parts)


def _take(samples: Tensor, voiced: Tensor, random: torch.Generator, *, plain: bool) -> tuple[Tensor, Tensor]:
    if plain:
        return contexts(samples, voiced)
    samples = sounds.distort(samples, random)
    # A distorted clip may be faster or slower.
    voiced = F.interpolate(voiced.float()[None, None], size=len(samples))[0, 0] > 0.5
    ratio = RATIOS[0] + (RATIOS[1] - RATIOS[0]) * float(torch.rand((), generator=random))
    noise = noises.scene(noises.LEARNT, len(samples), random)
    return contexts(noises.add(samples, noise, ratio, voiced), voiced)


def contexts(samples: Tensor, voiced: Tensor) -> tuple[Tensor, Tensor]:
    """The contexts of a clip that are not silent, ``[hops, 16000]``, and the spoken share of each.

    Args:
        samples: ``[n]``.
        voiced: which of them are spoken, bool ``[n]``.
    """
    windows, heard = sounds.cut(samples)
    share = sounds.cut(voiced.float())[0].mean(dim=1)
    return (windows[heard], share[heard]) if heard.any() else (windows[-1:], share[-1:])


def empty(kinds: Sequence[str], seconds: float, random: torch.Generator) -> Tensor:
    """Contexts of a noise without anybody, ``[hops, 16000]``."""
    noise = noises.scene(kinds, int(seconds * SAMPLE_RATE), random)
    return sounds.contexts(noises.at_level(noise, random))


def developing(ear: Ear, clips: Sequence[voices.Clip], seed: int) -> Heard:
    """Every context of the development speakers, clean and at 20 and 10 dB, and one noise for each clip."""
    random = torch.Generator().manual_seed(seed + 1)
    parts = []
    for clip in clips:
        samples = sounds.load(clip.path)
        voiced = spoken(samples)
        noise = noises.scene(noises.LEARNT, len(samples), random)
        for taken in (samples, *(noises.add(samples, noise, ratio, voiced) for ratio in (20.0, 10.0))):
            windows, share = contexts(taken, voiced)
            parts.append(Heard(ear(windows[::4]), share[::4]))
        windows = empty(noises.LEARNT, NOISE_SECONDS, random)[::4]
        parts.append(Heard(ear(windows), torch.zeros(len(windows))))
    return Heard.joined(parts)


@torch.no_grad()
def _threshold(head: nn.Module, heard: Heard, missed: float) -> tuple[float, float]:
    """The presence below which the allowed share of speech lies, and the share of the rest above it."""
    where = next(head.parameters()).device
    presence = torch.sigmoid(head(heard.features.to(where)))[:, 0].cpu()
    speech, none = presence[heard.share >= ENOUGH], presence[heard.share == 0.0]
    if not len(speech):
        raise InputError("presence: nobody is heard to speak in the clips of the development speakers")
    threshold = float(speech.quantile(missed))
    return threshold, float((none >= threshold).float().mean())


@torch.no_grad()
def follow(before: SpeechAware, encoder: VoiceEncoder, heard: Sequence[Tensor], seed: int) -> nn.Sequential:
    """The head of an encoder that was trained on: it says of each context what it said before.

    Heard are recordings of people and as many noises that are made here; nobody needs to say who speaks when,
    and the threshold stays what it was. The first layer learns by a ridge regression that begins at its old
    weights, rather than at zero, to give from the new features what it gave from the old ones.

    Args:
        before: the encoder as it was, with its head.
        encoder: what it became.
        heard: samples of recordings, of each of which a few contexts are heard.
        seed: of the noises, and of which contexts.

    Returns:
        the head, its norm folded away.
    """
    random = torch.Generator().manual_seed(seed)
    head = copy.deepcopy(before.presence).eval()
    fold_batch_norms(head)
    layer = head[1]
    assert isinstance(layer, nn.Linear)
    ears = listener(before), listener(encoder)
    found: tuple[list[Tensor], list[Tensor]] = [], []
    for samples in heard:
        pieces = sounds.contexts(samples), empty(noises.LEARNT, NOISE_SECONDS, random)
        windows = torch.cat([sounds.draw(piece, FOLLOWED, random) for piece in pieces])
        for ear, features in zip(ears, found, strict=True):
            features.append(ear(windows))
    old, new = (torch.cat(features) for features in found)
    centre, spread = new.mean(dim=0), new.std(dim=0).clamp(min=1e-4)
    scaled = ((new - centre) / spread).double()
    error = (layer(old) - layer(new)).double()
    mean = error.mean(dim=0)
    normal = scaled.T @ scaled + RIDGE * len(scaled) * torch.eye(scaled.shape[1], dtype=torch.float64)
    change = torch.linalg.solve(normal, scaled.T @ (error - mean)).T / spread
    layer.weight.add_(change.float())
    layer.bias.add_((mean - change @ centre.double()).float())
    return head
