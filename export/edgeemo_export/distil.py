"""Losses by which a student learns from teachers: their answers, their tokens, how those lie to each other.

All are functions of a batch, without parameters; an adapter between widths is the caller's module. No
gradient flows to a teacher.

Example:
    >>> import torch
    >>> teachers = [torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])]
    >>> ensemble(teachers, temperature=1.0)
    tensor([[0.5000, 0.5000]])
    >>> float(soft_targets(torch.zeros(1, 2), ensemble(teachers, 4.0), 4.0))
    0.0
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FLOOR = 1e-12  # squared; far below any feature, and it keeps a gradient at zero finite
ANGLES = 2.0  # weight of the angles against the distances, as in the paper


def ensemble(logits: Sequence[Tensor], temperature: float) -> Tensor:
    """Mean of what several teachers say, each softened: ``1/M sum_m softmax(z_m / T)``.

    Args:
        logits: calibrated, ``[n, K]`` of each teacher.
        temperature: T.

    Returns:
        Probabilities ``[n, K]``, without a gradient.
    """
    return torch.stack([F.softmax(one.detach() / temperature, dim=1) for one in logits]).mean(dim=0)


def soft_targets(logits: Tensor, probabilities: Tensor, temperature: float) -> Tensor:
    """Divergence of a student's softened answers from its teachers' (Hinton et al., 2015).

    ``L = T^2 mean_i KL(p_i || softmax(z_i / T))``. The factor ``T^2`` makes gradients as large as those of
    hard labels whatever the temperature.

    Args:
        logits: of the student, ``[n, K]``.
        probabilities: p of the teachers at the same temperature, ``[n, K]``; see [ensemble][].
        temperature: T.
    """
    said = F.log_softmax(logits / temperature, dim=1)
    wanted = probabilities.detach()
    divergence = torch.special.xlogy(wanted, wanted) - wanted * said
    return temperature**2 * divergence.sum(dim=1).mean()


def tokens(student: Tensor, teacher: Tensor, adapter: nn.Module | None = None) -> Tensor:
    """How far tokens are from a teacher's, in direction and in place.

    ``L = mean_i (1 - cos(a_i, t_i)) + sum_i |a_i - t_i|^2 / sum_i |t_i|^2``, with ``a`` what the adapter
    makes of the student's tokens. The second part is relative, so it is weighed alike whatever the scale of
    the teacher.

    Args:
        student: ``[..., d]``; rows without a token are to be left out by the caller.
        teacher: ``[..., e]`` of the same items.
        adapter: maps d to e, such as a linear layer trained beside the student; without one they are equal.

    Raises:
        ValueError: the shapes do not fit.
    """
    mapped, wanted = student if adapter is None else adapter(student), teacher.detach()
    if mapped.shape != wanted.shape:
        raise ValueError(
            f"the student's tokens have shape {list(mapped.shape)} and the teacher's {list(wanted.shape)}; "
            "it should be the same, by an adapter where widths differ"
        )
    cosine = F.cosine_similarity(mapped, wanted, dim=-1, eps=FLOOR**0.5)
    return (1.0 - cosine).mean() + (mapped - wanted).square().sum() / (wanted.square().sum() + FLOOR)


def relations(student: Tensor, teacher: Tensor) -> Tensor:
    """How differently rows lie to each other for student and teacher: RKD (Park et al., 2019).

    ``L = mean_ij h(d_ij(s) - d_ij(t)) + 2 mean_ijk h(c_ijk(s) - c_ijk(t))`` over rows that differ, with
    Huber's h of width 1. ``d_ij`` is the distance of two rows in units of the batch's mean distance, and
    ``c_ijk`` the cosine of the angle at row j between rows i and k. Turning, shifting or scaling either side
    changes nothing, and their widths need not be the same. It costs ``n^3``, so give it tens of rows.

    Args:
        student: ``[n, d]``.
        teacher: ``[n, e]`` of the same items.

    Returns:
        A scalar; zero, still in the graph, for fewer than two rows, and no angles for fewer than three.
    """
    if len(student) != len(teacher):
        raise ValueError(
            f"the student has {len(student)} rows and the teacher {len(teacher)}; it should be the same items"
        )
    if len(student) < 2:
        return student.flatten()[:0].sum()
    with torch.no_grad():
        wanted_distances, wanted_angles = _relations(teacher.detach().to(student.dtype))
    distances, angles = _relations(student)
    return F.smooth_l1_loss(distances, wanted_distances) + ANGLES * _mean_loss(angles, wanted_angles)


def _mean_loss(found: Tensor, wanted: Tensor) -> Tensor:
    return F.smooth_l1_loss(found, wanted, reduction="sum") / max(1, found.numel())


def _relations(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Distances of all pairs in units of their mean, and the cosines at every row of all pairs of others."""
    count = len(rows)
    away = rows[None, :] - rows[:, None]
    distances = (away.square().sum(dim=2) + FLOOR).sqrt()
    others = ~torch.eye(count, dtype=torch.bool, device=rows.device)
    directions = (away / distances[..., None])[others].view(count, count - 1, -1)
    cosines = directions @ directions.transpose(1, 2)
    two = torch.ones(count - 1, count - 1, dtype=torch.bool, device=rows.device).triu(1)
    apart = distances[others]
    return apart / apart.mean(), cosines[:, two]
