"""Alignment by an opponent: a discriminator that must not tell the sides apart (DANN)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .sides import Alignment, Side


def ramp(progress: float) -> float:
    """How much an alignment counts at a point of training: ``2 / (1 + exp(-10 p)) - 1`` (Ganin et al., 2016).

    Pseudo-labels and discriminators know nothing at first, so the loss is faded in.

    Args:
        progress: share p of the steps that are done, in [0, 1].

    Example:
        >>> [round(ramp(p), 3) for p in (0.0, 0.1, 0.5, 1.0)]
        [0.0, 0.462, 0.987, 1.0]
    """
    return 2.0 / (1.0 + math.exp(-10.0 * progress)) - 1.0


def reverse(x: Tensor) -> Tensor:
    """The gradient reversal layer (Ganin et al., 2016): ``R(x) = x`` with the gradient ``dR/dx = -I``."""
    return 2.0 * x.detach() - x


class DANN(Alignment):
    """Domain-adversarial training (Ganin et al., 2016).

    ``L = 1/2 [ mean_i -log D(R(s_i)) + mean_j -log(1 - D(R(t_j))) ]``

    with source ``s [n, d]``, target ``t [m, d]``, the gradient reversal R and a discriminator
    ``D: [., d] -> (0, 1)``, the probability of the first side. One descent on L teaches D to tell the sides
    apart and the features to hide it. The paper's lambda is the weight that L gets, see [ramp][].

    D has two hidden layers and no batch norm: normalising over a batch would tell it the shares of the
    sides, and fails on a single sample. Its weights must be in an optimiser group.

    Args:
        width: number of features d.
        hidden: width of the hidden layers.
    """

    def __init__(self, width: int, hidden: int = 256) -> None:
        super().__init__()
        self.enter = nn.Linear(width, hidden)
        self.middle = nn.Linear(hidden, hidden)
        self.leave = nn.Linear(hidden, 1)

    def discriminate(self, features: Tensor) -> Tensor:
        """Logit ``[n]`` that features ``[n, d]`` are of the first side."""
        x = features.to(self.enter.weight.dtype)
        return self.leave(F.relu(self.middle(F.relu(self.enter(x)))))[:, 0]

    def loss(self, first: Side, second: Side) -> Tensor:
        """The discriminator's cross-entropy on ``[n, d]`` and ``[m, d]``."""
        if not len(first) or not len(second):
            return self.nothing(first, second)
        logits = self.discriminate(reverse(torch.cat([first.features, second.features])))
        one, other = logits.split([len(first), len(second)])
        # -log sigmoid(x) = softplus(-x)
        return 0.5 * (F.softplus(-one).mean() + F.softplus(other).mean())
