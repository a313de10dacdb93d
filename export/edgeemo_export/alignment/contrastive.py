"""Alignment of two modalities by what belongs together: AVEL and MEM of Foal-Net (Li et al., 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .sides import Alignment, Side, labels_agree, unit_rows

HIGHEST_SCALE = 100.0  # as in CLIP (Radford et al., 2021)


class AVEL(Alignment):
    """Audio-video emotion alignment: a contrastive loss whose positives are all pairs of one label.

    ``L = 1/2 (L_ab + L_ba)``,
    ``L_ab = -1/|A| sum_{i in A} 1/|P_i| sum_{j in P_i} log softmax_j(e^l a_i . b_j)``,

    with rows of length one ``a [n, d]`` and ``b [m, d]``, ``P_i`` the rows of b with the label of ``a_i``, A
    the rows of a that have such a row, and l a learnt logarithm of the scale (one over the temperature).

    From Foal-Net (Li et al., 2024, "Fusion occurs after alignment"), with two departures: its code divides
    by a temperature that starts at 2.66 and may cross zero, where ``e^l`` here starts at 1 / 0.07 and is held
    in [1, 100]; and it sums over the positives, so that the loss grows with the batch, where here it is
    their mean, as in SupCon (Khosla et al., 2020).

    Args:
        temperature: at the start of training.
    """

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def scale(self) -> Tensor:
        """What cosines are multiplied by, in [1, 100]."""
        # The parameter itself is held: clamped in passing, it would get no gradient outside and never return.
        with torch.no_grad():
            self.log_scale.clamp_(0.0, math.log(HIGHEST_SCALE))
        return self.log_scale.exp()

    def loss(self, first: Side, second: Side) -> Tensor:
        """AVEL of ``[n, d]`` and ``[m, d]`` with labels ``[n, C]`` and ``[m, C]``."""
        positive, _ = labels_agree(first.given_labels(), second.given_labels())
        if not len(first) or not len(second):
            return self.nothing(first, second)
        logits = self.scale() * (unit_rows(first.features) @ unit_rows(second.features).T)
        return 0.5 * (_towards(logits, positive) + _towards(logits.T, positive.T))


def _towards(logits: Tensor, positive: Tensor) -> Tensor:
    """One direction: mean over rows ``[n, m]`` that have positives of the mean over those."""
    logs = torch.log_softmax(logits, dim=1).masked_fill(~positive, 0.0).sum(dim=1)
    counts = positive.sum(dim=1)
    rows = (counts > 0).sum().clamp(min=1)
    return -(logs / counts.clamp(min=1)).sum() / rows


def hardest(similarity: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """The most similar among the allowed columns of each row.

    Args:
        similarity: ``[n, m]`` with m of at least 1.
        allowed: ``[n, m]`` of booleans.

    Returns:
        Its index ``[n]``, and whether there is one ``[n]``; where there is none, the index means nothing.

    Example:
        >>> similarity = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.3, 0.4]])
        >>> hardest(similarity, torch.tensor([[False, True, True], [False, False, False]]))
        (tensor([2, 0]), tensor([ True, False]))
    """
    return similarity.masked_fill(~allowed, -torch.inf).argmax(dim=1), allowed.any(dim=1)


class MEM(Alignment):
    """Matching: a matcher tells pairs of one sample from similar ones of another emotion.

    Row i of both sides is one sample. ``L = 1/2 (L_a + L_b)``, with the logit ``h(a, b)`` that two rows
    belong together, and

    ``L_a = 1/(2 |N|) sum_{i in N} [ -log sig(h(a_i, b_i)) - log(1 - sig(h(a_i, b_n(i)))) ]``,

    ``n(i)`` the other row of b most similar to ``a_i`` of those of another label, N the rows that have one;
    ``L_b`` the same from b to a. Where a batch has a single label, L = 0: there, Foal-Net's code takes a
    sample of the same label for a negative.

    From Foal-Net (Li et al., 2024), whose code draws ``n(i)`` with the softmax of the similarity; the
    greatest is taken here, so that the loss is a function of its batch.

    Args:
        matcher: maps features ``[k, d]`` and ``[k, d]`` to logits ``[k]``, or ``[k, H]`` of H heads whose
            losses are averaged. As a module it becomes part of this one, and so do its parameters.
    """

    paired = True

    def __init__(self, matcher: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.matcher = matcher

    def loss(self, first: Side, second: Side) -> Tensor:
        """MEM of the pairs ``[n, d]`` and ``[n, d]`` with labels ``[n, C]``."""
        _, other = labels_agree(first.given_labels(), second.given_labels())
        if not len(first):
            return self.nothing(first, second)
        a, b = first.features, second.features
        similarity = (unit_rows(a) @ unit_rows(b).T).detach()
        return matching(similarity, other, lambda of_a, of_b: self.matcher(a[of_a], b[of_b]))


def matching(similarity: Tensor, other: Tensor, matcher: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The loss of `MEM` with a matcher that is told rows, where what it compares is more than a vector.

    Args:
        similarity: of the rows of a to those of b, ``[n, n]`` with n of at least 1.
        other: where they have different labels, ``[n, n]`` of booleans.
        matcher: maps indices of rows of a ``[k]`` and of b ``[k]`` to logits ``[k]`` or ``[k, H]``.
    """
    own = torch.arange(len(similarity), device=similarity.device)
    other = other & (own[:, None] != own)
    (of_b, has_b), (of_a, has_a) = hardest(similarity, other), hardest(similarity.T, other.T)
    logits = matcher(torch.cat([own, own, of_a]), torch.cat([own, of_b, own])).reshape(3 * len(own), -1)
    belonging, wrong_b, wrong_a = logits.split(len(own))
    # -log sig(x) = softplus(-x), -log(1 - sig(x)) = softplus(x)
    right = F.softplus(-belonging).mean(dim=1)
    return 0.5 * (
        _mean_where(has_b, right + F.softplus(wrong_b).mean(dim=1))
        + _mean_where(has_a, right + F.softplus(wrong_a).mean(dim=1))
    )


def _mean_where(has: Tensor, of_two: Tensor) -> Tensor:
    return of_two.masked_fill(~has, 0.0).sum() / (2.0 * has.sum().clamp(min=1))
