"""Losses that draw two sides together: two corpora, two modalities, a prediction and its truth.

Every loss is an [Alignment][]: called with two [Side][]s it gives a scalar, to be weighed and added to the
task's loss. They are used in training alone: an encoder is exported without them. Some hold parameters of
their own (`DANN`, `AVEL`, a matcher in `MEM`), which belong into an optimiser group.

Example:
    >>> import torch
    >>> source = Side(torch.eye(4))
    >>> align = BY_NAME["mmd"]()
    >>> float(align(source, source)), float(align(source, Side(torch.eye(4) + 1.0))) > 1.0
    (0.0, True)
"""

from __future__ import annotations

from collections.abc import Callable

from .adversarial import DANN, ramp
from .concordance import CCC
from .contrastive import AVEL, MEM
from .discrepancy import LMMD, MMD
from .moments import CORAL
from .reconstruction import IDA, GranularIDA
from .sides import Alignment, Side

__all__ = [
    "AVEL",
    "BY_NAME",
    "CCC",
    "CORAL",
    "DANN",
    "IDA",
    "LMMD",
    "MEM",
    "MMD",
    "Alignment",
    "GranularIDA",
    "Side",
    "ramp",
]

BY_NAME: dict[str, Callable[..., Alignment]] = {
    "coral": CORAL,
    "mmd": MMD,
    "lmmd": LMMD,
    "dann": DANN,
    "ida": IDA,
    "granular-ida": GranularIDA,
}
"""The losses between a labelled source corpus (first side) and an unlabelled target corpus (second side).

`DANN` takes the width of the features and `GranularIDA` the groups of the classes; the others need nothing.
"""
