"""Reads trained encoders back, whatever size they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from edgeemo.errors import InputError

from .. import states
from ..encoders import face as face_encoders
from ..encoders import voice as voice_encoders
from .face import FaceModel
from .voice import VoiceModel


def restored(folder: Path, name: str, option: str = "--encoders") -> nn.Module:
    """A face or a voice of a run of the default recipe, of whichever size it is.

    Args:
        folder: of that part of the run.
        name: ``'face'`` or ``'voice'``.
        option: by which the run was named.

    Raises:
        InputError: the folder holds none.
    """
    path = folder / "state.pt"
    if not path.exists():
        raise InputError(f"{path}: it is missing; {option} must name a run of edgeemo-export train --data")
    try:
        return loaded(name, states.read(path)["averaged"])
    except (InputError, RuntimeError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: it is not the state of a {name}; {option} must name a run of "
            "edgeemo-export train --data"
        ) from error


def loaded(name: str, state: Mapping[str, Any]) -> nn.Module:
    """A face or a voice of whichever size these weights are.

    Raises:
        InputError: they are of none.
    """
    shapes = {key: value.shape for key, value in state.items()}
    for size in face_encoders.SIZES if name == "face" else voice_encoders.SIZES:
        model: nn.Module = FaceModel(size=size) if name == "face" else VoiceModel(size=size)
        if {key: value.shape for key, value in model.state_dict().items()} == shapes:
            model.load_state_dict(state)
            return model.eval()
    raise InputError(f"weights: they are of no {name} of a size that there is; give those of another run")


def restored_face(folder: Path, option: str = "--run") -> FaceModel:
    """As [restored][], of a face."""
    model = restored(folder, "face", option)
    assert isinstance(model, FaceModel)
    return model


def restored_voice(folder: Path, option: str = "--run") -> VoiceModel:
    """As [restored][], of a voice."""
    model = restored(folder, "voice", option)
    assert isinstance(model, VoiceModel)
    return model
