"""Distances of two distributions by the means of their features in a kernel's space: MMD and LMMD."""

from __future__ import annotations

import torch
from torch import Tensor

from .kernels import pooled_kernel
from .sides import Alignment, Side, top_label


class MMD(Alignment):
    """Maximum mean discrepancy (Gretton et al., 2012), with five kernels as in DAN (Long et al., 2015).

    ``L = mean(K_ss) + mean(K_tt) - 2 mean(K_st)`` with ``K_ss [n, n]``, ``K_tt [m, m]``, ``K_st [n, m]``.

    This is the biased estimate, a squared distance: never below zero, and zero for identical sides.
    """

    def loss(self, first: Side, second: Side) -> Tensor:
        """MMD of ``[n, d]`` and ``[m, d]``."""
        if not len(first) or not len(second):
            return self.nothing(first, second)
        uniform = [side.features.new_full((len(side), 1), 1.0 / len(side)) for side in (first, second)]
        return _discrepancies(first, second, *uniform).sum()


class LMMD(Alignment):
    """Local MMD: the classes of two sides are drawn together, each to its own.

    ``L = 1/|S| sum_{c in S} [ sum_ij w_ic w_jc k(s_i, s_j) + sum_ij v_ic v_jc k(t_i, t_j)
    - 2 sum_ij w_ic v_jc k(s_i, t_j) ]``,

    source ``s [n, d]`` with labels ``y [n, C]``, target ``t [m, d]`` with labels or probabilities
    ``p [m, C]``; ``w_ic = y_ic / sum_k y_kc`` and ``v_jc = p_jc / sum_k p_kc``, so that the weights of a
    class sum to one on each side. S are the classes that are the greatest label of some sample on either
    side; where there is none, L = 0.

    From DSAN (Zhu et al., 2020, "Deep subdomain adaptation network for image classification") and its form
    in the DeepDA toolkit, which take batches of one size.

    Example:
        >>> labels = torch.eye(2)
        >>> side = Side(torch.tensor([[0.0, 1.0], [2.0, 0.0]]), labels)
        >>> swapped = Side(side.features.flip(0), labels)
        >>> round(float(LMMD()(side, side)), 4), float(LMMD()(side, swapped)) > 1.0
        (0.0, True)
    """

    def loss(self, first: Side, second: Side) -> Tensor:
        """LMMD of ``[n, d]`` and ``[m, d]`` with labels ``[n, C]`` and ``[m, C]``."""
        labels = first.given_labels(), second.given_labels()
        if not len(first) or not len(second):
            return self.nothing(first, second)
        shared = (_present(labels[0]) & _present(labels[1])).to(first.features.dtype)
        each = _discrepancies(first, second, *(_class_weights(one) for one in labels))
        return (shared * each).sum() / shared.sum().clamp(min=1.0)


def _discrepancies(first: Side, second: Side, weights: Tensor, others: Tensor) -> Tensor:
    # With signed weights u = [w; -v] the three sums of a class are the one quadratic form u^T K u.
    signed = torch.cat([weights, -others])
    kernel = pooled_kernel(first.features, second.features)
    return ((kernel @ signed) * signed).sum(dim=0)


def _present(labels: Tensor) -> Tensor:
    classes = torch.arange(labels.shape[1], device=labels.device)
    return (top_label(labels)[:, None] == classes).any(dim=0)


def _class_weights(labels: Tensor) -> Tensor:
    totals = labels.sum(dim=0, keepdim=True)
    return labels / totals.clamp(min=torch.finfo(labels.dtype).tiny)
