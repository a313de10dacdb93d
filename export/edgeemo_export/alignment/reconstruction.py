"""Alignment by reconstruction: target samples are sparse mixtures of source samples (IDA).

DIDAN (Zhao et al., 2023, "Deep implicit distribution alignment networks for cross-corpus speech emotion
recognition") and its successor LIDAN (Zhao et al., 2023, "Layer-adapted implicit distribution alignment
networks") align corpora by reconstructing target samples, and assume nothing about the distributions. Their
abstracts say so; solver, norms and constants are not public. What stands here is an IDA-style regulariser:
the formulas are chosen to fit what is said, and it does not claim to reproduce either system.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .sides import Alignment, Side, labels_agree, unit_rows


def sparse_code(
    target: Tensor, source: Tensor, mu: float, steps: int, allowed: Tensor | None = None
) -> Tensor:
    """Write each target sample as a sparse mixture of source samples.

    ``W = argmin_W 1/2 ||Z_t - W Z_s||_F^2 + mu ||W||_1`` by FISTA (Beck & Teboulle, 2009): gradient steps of
    size ``1 / ||Z_s Z_s^T||_2``, soft-thresholding by ``mu`` times that, momentum. No gradient flows through
    W.

    Args:
        target: ``Z_t [m, d]``.
        source: ``Z_s [n, d]``.
        mu: weight of the sparsity; from ``max |Z_t Z_s^T|`` on, W is zero.
        steps: number of steps.
        allowed: ``[m, n]`` of booleans, false where W is held at zero; without it, all may be used.

    Returns:
        ``W [m, n]``.

    Example:
        >>> source = torch.eye(3)
        >>> sparse_code(source[[2, 0]], source, mu=0.25, steps=10)
        tensor([[0.0000, 0.0000, 0.7500],
                [0.7500, 0.0000, 0.0000]])
    """
    target, source = target.detach(), source.detach()
    gram, match = source @ source.T, target @ source.T
    # The decomposition raises on what is not finite; such a step is for the gradient scaler to skip.
    norm = torch.linalg.matrix_norm(gram.nan_to_num(), ord=2)
    step = 1.0 / norm.clamp(min=torch.finfo(gram.dtype).eps)
    code = ahead = torch.zeros_like(match)
    pace = 1.0
    for _ in range(steps):
        moved = ahead - step * (ahead @ gram - match)
        moved = moved.sign() * (moved.abs() - step * mu).clamp(min=0.0)
        if allowed is not None:
            moved = moved * allowed
        faster = (1.0 + (1.0 + 4.0 * pace**2) ** 0.5) / 2.0
        ahead = moved + (pace - 1.0) / faster * (moved - code)
        code, pace = moved, faster
    return code


class IDA(Alignment):
    """Implicit distribution alignment: what is left of the target when source samples have rebuilt it.

    ``L = ||Z_t - W Z_s||_F^2 / (n_t d)``, with ``Z_s [n_s, d]`` and ``Z_t [n_t, d]`` the features of source
    (first side) and target (second side), each row scaled to length one, and ``W [n_t, n_s]`` their
    [sparse code][sparse_code] in this batch. The gradient flows through both Z, not through W.

    Known of DIDAN's regulariser: it reconstructs target samples and so aligns without moments. Open: the
    exact loss, the sparsity and its weight, the solver, the layer. Chosen: an L1 penalty; W solved anew for
    each batch on detached features, which is alternating minimisation with batches as blocks; rows of length
    one, for otherwise features that shrink to zero would minimise L.

    Args:
        mu: weight of the sparsity, relative to cosines.
        steps: steps of FISTA.
        within: whether a target sample is rebuilt only from source samples of its own class, by the
            greatest label of each; one whose class no source sample has is left out. Needs labels.
    """

    def __init__(self, mu: float = 0.1, steps: int = 50, *, within: bool = False) -> None:
        super().__init__()
        self.mu, self.steps, self.within = mu, steps, within

    def loss(self, first: Side, second: Side) -> Tensor:
        """IDA of source ``[n_s, d]`` and target ``[n_t, d]``."""
        allowed = None
        if self.within:
            allowed, _ = labels_agree(second.given_labels(), first.given_labels())
        if not len(first) or not len(second):
            return self.nothing(first, second)
        source, target = unit_rows(first.features), unit_rows(second.features)
        code = sparse_code(target, source, self.mu, self.steps, allowed)
        left = (target - code @ source).square().mean(dim=1)
        if allowed is None:
            return left.mean()
        rebuilt = allowed.any(dim=1).to(left.dtype)
        return (left * rebuilt).sum() / rebuilt.sum().clamp(min=1.0)


class GranularIDA(Alignment):
    """IDA at three granularities of the label, as in LIDAN (Zhao et al., 2023).

    ``L = 1/3 [ IDA(shallow) + IDA_G(middle) + IDA_C(last) ]``: on the first fully connected layer any source
    sample may rebuild a target sample, on the middle one those of its group (by valence, or by arousal), on
    the last one those of its class. The deeper the layer, the finer what it tells apart.

    Known of LIDAN: three IDA terms that use labels at different granularity, on different fully connected
    layers. Open: the groups, the order, the weights. Chosen: what stands here, equal weights.

    Args:
        groups: ``[C, G]``, one-hot: the group of each class.
        mu: see [IDA][].
        steps: see [IDA][].

    Example:
        >>> from edgeemo_export.data.labels import LABELS, NORMS
        >>> valence = torch.tensor([NORMS[name][0] for name in LABELS])
        >>> groups = torch.nn.functional.one_hot(valence.sign().long() + 1)  # negative, neutral, positive
        >>> groups.sum(dim=0)
        tensor([4, 1, 2])
        >>> loss = GranularIDA(groups)
    """

    groups: Tensor

    def __init__(self, groups: Tensor, mu: float = 0.1, steps: int = 50) -> None:
        super().__init__()
        self.register_buffer("groups", groups.to(torch.get_default_dtype()), persistent=False)
        self.any = IDA(mu, steps)
        self.within = IDA(mu, steps, within=True)

    def forward(
        self,
        first: Side,
        second: Side,
        middle: tuple[Side, Side] | None = None,
        shallow: tuple[Side, Side] | None = None,
    ) -> Tensor:
        """The loss over three layers, a scalar.

        Args:
            first: source at the last layer ``[n_s, d]``, with labels ``[n_s, C]``.
            second: target at the last layer ``[n_t, d]``, with pseudo-labels ``[n_t, C]``.
            middle: the same samples at the middle layer, whose labels are those of the last; without them
                the last layer is read at this granularity too.
            shallow: the same at the first layer.
        """
        last = (first, second)
        coarse = (self._grouped(*sides) for sides in zip(middle or last, last, strict=True))
        terms = self.any(*(shallow or last)), self.within(*coarse), self.within(*last)
        return torch.stack(terms).mean()

    def _grouped(self, side: Side, labelled: Side) -> Side:
        # A group's probability is the sum of its classes', which half precision could make a tie.
        with torch.autocast(side.features.device.type, enabled=False):
            labels = labelled.given_labels().to(self.groups.dtype) @ self.groups
        return replace(side, labels=labels)
