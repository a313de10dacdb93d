"""Files of trained tensors: written whole or not at all, read without running what may be in them."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgeemo.errors import InputError

# A damaged file fails in whatever way its bytes have it.
_BROKEN = (RuntimeError, LookupError, ValueError, TypeError, EOFError, pickle.UnpicklingError)


def write(state: Mapping[str, Any], path: Path) -> None:
    """Write tensors and plain values, so that ``path`` holds all of them or what it held before."""
    new = path.with_suffix(".new")
    torch.save(dict(state), new)
    new.replace(path)


def read(path: Path, where: torch.device | None = None) -> dict[str, Any]:
    """Read what `write` wrote; tensors and plain values only, so a foreign file runs nothing.

    Args:
        path: the file.
        where: the device of the tensors; the one that they were on, without it.

    Raises:
        InputError: it is damaged, or holds something else.
        OSError: it cannot be read.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        state = torch.load(content, weights_only=True, map_location=where)
    except _BROKEN as error:
        raise InputError(
            f"{path}: it is damaged or no trained state; copy it again, or remove it to begin anew"
        ) from error
    if not isinstance(state, dict):
        raise InputError(f"{path}: it holds {type(state).__name__}; a trained state is a dictionary")
    return state
