"""The published systems by name: trained, or read back from a run that says which one it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeemo.errors import InputError

from .. import processes, states
from ..config import kept
from ..data.labels import LABELS
from ..data.transfer import transfer
from ..systems.didan import VoiceAnswers
from ..systems.fusion import Answers
from . import co_attention, didan, fdan, systems
from .face import FaceModel
from .trained import loaded, restored
from .voice import VoiceModel

DEFAULTS: Mapping[str, Any] = {
    "foal-net": systems.FOAL_NET,
    "jca": systems.JCA_DEFAULTS,
    "fdan": fdan.DEFAULTS,
    "co-attention": co_attention.DEFAULTS,
    "didan": didan.DEFAULTS,
}
ENCODERS: Mapping[str, tuple[str, ...]] = {
    "foal-net": ("face", "voice"),
    "jca": ("face", "voice"),
    "fdan": (),
    "co-attention": ("voice",),
    "didan": (),
}
"""The encoders of the default recipe that a system reads as they are; what is not here it trains itself."""

FILE, WEIGHTS = "system.json", "encoders.pt"


@dataclass(frozen=True)
class Trained:
    """A trained system.

    Attributes:
        system: its name, one of `DEFAULTS`.
        config: the settings that it was trained with.
        encoders: of its modalities, in the order in which the fusion reads them.
        fusion: calibrated.
        labels: its classes, in the order of the logits.
        pieces: the vocabulary of a system that reads text, by id.
        made: what its recipe gave, where that is more.
    """

    system: str
    config: Any
    encoders: Mapping[str, nn.Module]
    fusion: Answers | VoiceAnswers
    labels: tuple[str, ...] = LABELS
    pieces: tuple[str, ...] = ()
    made: co_attention.Trained | None = None

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.config.schedule.seed)


def train(
    system: str, data: Path, encoders: Path | None, folder: Path, config: Any, aligned: Path | None = None
) -> Trained:
    """Train a system, or finish what an earlier call began.

    Args:
        system: one of `DEFAULTS`.
        data: the corpora.
        encoders: run of the default recipe with those of `ENCODERS`; tokens that it has not encoded yet are
            kept where its own fusion keeps them.
        folder: of the settings, the state, the curve and copies of the encoders, so that it can be bundled
            alone.
        config: the settings.
        aligned: folder with word or phone timings, of co-attention alone; see its recipe.

    Raises:
        InputError: encoders are missing, the run in ``folder`` was begun with other settings or encoders, or
            there are timings for a system that reads no words.
    """
    if aligned is not None and system != "co-attention":
        raise InputError(f"--aligned: {system} reads no words; leave it out")
    if aligned is not None and not aligned.is_dir():
        raise InputError(f"--aligned {aligned}: it is no folder; give that of the files with timings")
    wanted = ENCODERS[system]
    if not wanted and encoders is not None:
        raise InputError(f"--encoders: {system} trains its own; leave it out")
    if wanted and encoders is None:
        raise InputError(
            f"--encoders: {system} reads the {' and the '.join(wanted)} of a run; name its folder"
        )
    if not data.is_dir():  # tokens that are kept would do without
        raise InputError(f"--data: {data} is no folder; give that of the corpora")
    other = _told(folder)
    if other not in ("", system):
        raise InputError(f"{folder}: it holds a run of {other}; give another --run")
    found = _found(system, encoders)
    folder.mkdir(parents=True, exist_ok=True)
    with processes.one_by_one():
        if (folder / WEIGHTS).exists():
            _refuse_others(found, folder)
        else:
            states.write({name: model.state_dict() for name, model in found.items()}, folder / WEIGHTS)
    tokens = folder if encoders is None else encoders / "fusion"
    trained = _made(system, data, tokens, folder, config, found, aligned)
    if processes.rank() == 0:
        said = {"system": system, "temperatures": trained.fusion.temperatures.tolist()}
        (folder / FILE).write_text(json.dumps(said, indent=1) + "\n")
    return trained


def check_encoders(system: str, encoders: Path | None, folder: Path) -> None:
    """Check that a run was begun over these encoders.

    Args:
        system: one of `DEFAULTS`.
        encoders: see `train`.
        folder: of the run, which has copies.

    Raises:
        InputError: it was begun over others.
    """
    _refuse_others(_found(system, encoders), folder)


def is_begun(folder: Path) -> bool:
    """Whether a folder holds a run of a system, finished or not."""
    return (folder / WEIGHTS).exists()


def is_run(folder: Path) -> bool:
    """Whether a folder holds a finished run of a system."""
    return (folder / FILE).exists()


def read(folder: Path, data: Path) -> Trained:
    """Read back a finished run; of its encoders it holds copies.

    Args:
        folder: of the run.
        data: the corpora, which tell DIDAN's classes, and by whose development part FDAN is calibrated again.

    Raises:
        InputError: the folder holds no finished run.
    """
    try:
        said = json.loads((folder / FILE).read_text())
        system, temperatures = said["system"], tuple(map(float, said["temperatures"]))
        otherwise = DEFAULTS[system]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / FILE}: it cannot be read ({error!r}); the folder must hold a finished run of "
            f"edgeemo-export train --system {'|'.join(DEFAULTS)}"
        ) from error
    config, stored = kept(folder, otherwise), states.read(folder / WEIGHTS)
    found = {name: loaded(name, stored[name]) for name in ENCODERS[system]}
    if isinstance(config, systems.Config):
        width = _face(found).head.in_features
        first, second, both = temperatures
        fusion = systems.read(folder, width, config, (first, second, both))
        return Trained(system, config, _encoders(found), fusion)
    if system == "didan":
        labels = transfer(data, config.target).labels
        return _didan(config, didan.read(folder, labels, *temperatures), labels)
    if system == "co-attention":
        return _co_attention(config, co_attention.read(_voice(found), folder, config))
    return _made(system, data, folder, folder, config, found)


def _told(folder: Path) -> str:
    """The system of a finished run; empty where there is none, or none that says it."""
    try:
        return str(json.loads((folder / FILE).read_text())["system"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _made(
    system: str,
    data: Path,
    tokens: Path,
    folder: Path,
    config: Any,
    found: Mapping[str, nn.Module],
    aligned: Path | None = None,
) -> Trained:
    """Call the recipe, which only reads back what is finished."""
    if system == "fdan":
        alone = fdan.train(data, folder, config)
        return Trained(system, config, alone.encoders, alone.fusion)
    if system == "didan":
        return _didan(config, didan.carry(data, folder, config), transfer(data, config.target).labels)
    if system == "co-attention":
        made = co_attention.train(data, _voice(found), folder, config, aligned, tokens)
        return _co_attention(config, made)
    fusion = systems.train(data, folder, _face(found), _voice(found), tokens, config)
    return Trained(system, config, _encoders(found), fusion)


def _co_attention(config: co_attention.Config, made: co_attention.Trained) -> Trained:
    encoders = {"voice": made.voice.encoder, "text": made.model.text}
    return Trained("co-attention", config, encoders, made.answers().eval(), LABELS, made.pieces, made)


def _didan(config: didan.Config, fusion: VoiceAnswers, labels: tuple[str, ...]) -> Trained:
    return Trained("didan", config, {"voice": fusion.model.encoder}, fusion, labels)


def _face(found: Mapping[str, nn.Module]) -> FaceModel:
    face = found["face"]
    assert isinstance(face, FaceModel)
    return face


def _voice(found: Mapping[str, nn.Module]) -> VoiceModel:
    voice = found["voice"]
    assert isinstance(voice, VoiceModel)
    return voice


def _encoders(found: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    return {name: model.get_submodule("encoder") for name, model in found.items()}


def _found(system: str, encoders: Path | None) -> dict[str, nn.Module]:
    return {name: restored(encoders / name, name) for name in ENCODERS[system]} if encoders else {}


def _refuse_others(found: Mapping[str, nn.Module], folder: Path) -> None:
    before = states.read(folder / WEIGHTS)
    same = before.keys() == found.keys() and all(
        torch.equal(value, before[name][key])
        for name, model in found.items()
        for key, value in model.state_dict().items()
    )
    if not same:
        raise InputError(
            f"{folder}: the run was begun over other encoders; give --encoders those, or another --run"
        )
