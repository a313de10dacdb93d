"""Foal-Net and JCA over tokens of frozen small encoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from .. import processes, states
from ..config import keep, refuse
from ..data import pairs, voices
from ..data.labels import LABELS, NORMS
from ..data.tokens import SLOTS, Drawer
from ..metrics import accuracies, temperature
from ..systems.foal_net import FoalNet
from ..systems.fusion import Answers, Fusion, Windows
from ..systems.jca import JCA
from ..train import Schedule, fit
from . import fusion as fusions
from .face import FaceModel
from .fusion import Banks, Pairs
from .voice import VoiceModel

SCHEDULE = Schedule(epochs=6, rate=1e-3, decay=0.05, average=0.99)
DEVELOPMENT_PAIRS = 400
CHUNK = 256
Temperatures = tuple[float, float, float]


@dataclass(frozen=True)
class Config:
    """Settings that both systems have.

    Attributes:
        schedule: see `edgeemo_export.train.Schedule`.
        batch: windows of a step.
        steps: of an epoch.
        pairs: what a window is made of: a picture and a voice of one ``'label'``, or such that raters'
            ``'votes'`` of CREMA-D fit both, or the action ``'units'`` and the voice of one recording.
        missing: share of the windows that lack the face, and of those that lack the voice.

    Raises:
        InputError: one of them is out of its range.
    """

    schedule: Schedule = SCHEDULE
    batch: int = 64
    steps: int = 40
    pairs: Literal["label", "votes", "units"] = "label"
    missing: float = 0.2

    def __post_init__(self) -> None:
        refuse(
            "system",
            self,
            ("batch", self.batch >= 2, "2 or more"),
            ("steps", self.steps >= 1, "1 or more"),
            ("pairs", self.pairs in ("label", "votes", "units"), "label, votes or units"),
            ("missing", 0 <= self.missing <= 0.5, "from 0 to 0.5"),
        )

    def build(self, width: int) -> Fusion:
        """The system, untrained, for tokens of this width."""
        raise NotImplementedError

    def prepared(self, windows: Windows, random: torch.Generator) -> Windows:
        """Windows as this system is trained on them."""
        return windows


@dataclass(frozen=True)
class FoalNetConfig(Config):
    """Settings of Foal-Net.

    Attributes:
        avel: weight of the alignment of the two modalities before they are fused.
        mem: weight of telling fused pairs of one emotion from those of two.
        tokens: of each modality that a training window keeps at most: attention costs their square, and its
            answer hangs on no place in time.
    """

    avel: float = 1.0
    mem: float = 0.1
    tokens: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse(
            "foal-net",
            self,
            ("avel", self.avel >= 0, "0 or more"),
            ("mem", self.mem >= 0, "0 or more"),
            ("tokens", 1 <= self.tokens <= SLOTS, f"from 1 to {SLOTS}"),
        )

    def build(self, width: int) -> Fusion:
        """Foal-Net, untrained, for tokens of this width."""
        return FoalNet(width, len(LABELS), avel=self.avel, mem=self.mem)

    def prepared(self, windows: Windows, random: torch.Generator) -> Windows:
        """Windows with few tokens, those that count first."""
        return thinned(windows, self.tokens, random)


@dataclass(frozen=True)
class JCAConfig(Config):
    """Settings of JCA.

    Attributes:
        joint: attend to the joint representation, or to the other modality alone.
        recursion: how often the attention is applied.
        gated: weigh what went into the attention against what came out.
    """

    joint: bool = True
    recursion: int = 1
    gated: bool = False

    def build(self, width: int) -> Fusion:
        """JCA, untrained, for tokens of this width."""
        norms = [NORMS[label] for label in LABELS]
        return JCA(
            width,
            len(LABELS),
            SLOTS,
            joint=self.joint,
            recursion=self.recursion,
            gated=self.gated,
            norms=norms,
        )


FOAL_NET, JCA_DEFAULTS = FoalNetConfig(), JCAConfig()


def train(
    data: Path, folder: Path, face: FaceModel, voice: VoiceModel, tokens: Path, config: Config
) -> Answers:
    """Train over tokens of frozen encoders, then calibrate on development pairs.

    Args:
        data: the corpora.
        folder: of the settings, the state and the curve.
        face: gives face tokens.
        voice: gives voice tokens.
        tokens: folder in which those of the corpora are kept, for the next run over the same encoders.
        config: the settings.

    Returns:
        The fusion graph of a bundle.

    Raises:
        InputError: the run in ``folder`` was begun with other settings.
    """
    keep(config, folder)
    with processes.one_by_one():
        banks = fusions.banks(data, tokens, face, voice)
    source, develop = material(data, banks, voice, config.pairs)

    def batches(random: torch.Generator) -> Iterator[int]:
        return iter([config.batch] * config.steps)

    def loss(model: nn.Module, count: int, random: torch.Generator) -> Mapping[str, Tensor]:
        assert isinstance(model, Fusion)
        windows = config.prepared(source.draw(count, random), random)
        return model.losses(without_some(windows, config.missing, random))

    def figures(model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, Fusion)
        return score(model, develop, ("face", "voice"))

    model = new_model(config, face.head.in_features)
    fitted = fit(model, batches, config.steps, loss, figures, config.schedule, folder)
    assert isinstance(fitted, Fusion)
    return graph(fitted, calibrate(fitted, develop))


def new_model(config: Config, width: int) -> Fusion:
    """A system as training begins with it."""
    torch.manual_seed(config.schedule.seed)
    return config.build(width)


def read(folder: Path, width: int, config: Config, temperatures: Temperatures) -> Answers:
    """What `train` gave, without the corpora.

    Args:
        folder: of a finished run.
        width: of the tokens that it reads.
        config: the settings of the run.
        temperatures: that its calibration found.
    """
    fusion = new_model(config, width)
    fusion.load_state_dict(states.read(folder / "state.pt")["averaged"])
    return graph(fusion, temperatures)


def graph(fusion: Fusion, temperatures: Temperatures) -> Answers:
    """The graph of a bundle; valence and arousal are the labels' where the system has no head for them."""
    return Answers(fusion, temperatures, [NORMS[label] for label in LABELS]).eval()


def material(data: Path, banks: Banks, voice: VoiceModel, kind: str) -> tuple[pairs.Source, Pairs]:
    """What windows are drawn from, and development pairs of the same kind; votes are developed on labels."""
    if kind == "units":
        training = pairs.real(data, voices.read(data, "train"), banks.voices)
        held = pairs.real(data, voices.read(data, "develop"), banks.develop_voices)
        return training, real_pairs(held)
    confusion = fusions.confusion(voice, banks.develop_voices)
    develop = _development(banks)
    if kind == "votes":
        votes = pairs.read_votes(data / "cremad")
        return pairs.ByVotes(banks.faces, banks.voices, confusion, votes), develop
    return pairs.ByLabel(Drawer(banks.faces, banks.voices, confusion)), develop


def real_pairs(held: pairs.Real) -> Pairs:
    """Every recording of a split once, whole."""
    bank = held.voices
    rows = torch.arange(len(bank.labels))
    windows = held.windows(rows, torch.zeros_like(rows), bank.masks[0])
    inputs = (windows.first, windows.first_mask, windows.second, windows.second_mask)
    return Pairs(inputs, bank.labels)


def _development(banks: Banks) -> Pairs:
    """Stills and faces in motion of the development set, as many of each."""
    kinds = [
        fusions.development_pairs(banks.develop_faces, banks.develop_voices, moving)
        for moving in (False, True)
    ]
    inputs = zip(*([x[:DEVELOPMENT_PAIRS] for x in kind.inputs] for kind in kinds), strict=True)
    labels = torch.cat([kind.labels[:DEVELOPMENT_PAIRS] for kind in kinds])
    return Pairs(tuple(torch.cat(parts) for parts in inputs), labels)


def without_some(windows: Windows, share: float, random: torch.Generator) -> Windows:
    """Windows of which a share lose the first modality, and as many others the second."""
    drawn = torch.rand(len(windows.labels), 1, generator=random)
    first = windows.first_mask * (drawn >= share)
    second = windows.second_mask * (drawn < 1.0 - share)
    return replace(
        windows,
        first=windows.first * first[..., None],
        first_mask=first,
        second=windows.second * second[..., None],
        second_mask=second,
    )


def thinned(windows: Windows, most: int, random: torch.Generator) -> Windows:
    """Windows of ``most`` slots: of each modality as many tokens at random, those that count first."""

    def some(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        order = mask + torch.rand(mask.shape, generator=random)
        slots = order.topk(most, dim=1).indices
        return tokens.gather(1, slots[..., None].expand(-1, -1, tokens.shape[2])), mask.gather(1, slots)

    first, first_mask = some(windows.first, windows.first_mask)
    second, second_mask = some(windows.second, windows.second_mask)
    return Windows(first, first_mask, second, second_mask, windows.labels)


@torch.no_grad()
def answers(fusion: Fusion, inputs: tuple[Tensor, ...], first: bool = True, second: bool = True) -> Tensor:
    """Logits ``[n, K]`` of windows, of which a modality can be left out.

    Args:
        fusion: asked as it answers, without dropout.
        inputs: tokens and mask of the first modality and of the second.
        first: whether the first is there.
        second: whether the second is there.
    """
    fusion.eval()
    made = []
    for x, x_mask, y, y_mask in zip(*(part.split(CHUNK) for part in inputs), strict=True):
        made.append(fusion(x, x_mask * first, y, y_mask * second))
    return torch.cat(made)


WAYS = ((True, False), (False, True), (True, True))


def score(fusion: Fusion, develop: Pairs, modalities: tuple[str, str]) -> dict[str, float]:
    """UA of each modality alone and of both, on pairs."""
    figures = {}
    for name, way in zip((*modalities, "both"), WAYS, strict=True):
        said = answers(fusion, develop.inputs, *way).argmax(1)
        figures[f"ua_{name}"] = accuracies(said, develop.labels)["ua"]
    return figures


def calibrate(fusion: Fusion, develop: Pairs) -> Temperatures:
    """Temperatures of the first modality alone, of the second alone and of both, on pairs."""
    first, second, both = (temperature(answers(fusion, develop.inputs, *way), develop.labels) for way in WAYS)
    return first, second, both
