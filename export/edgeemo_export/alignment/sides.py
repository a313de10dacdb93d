"""What is aligned: two sides, and the form that every loss between them has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

NORM_FLOOR = 1e-8  # squared; far below any feature, and it keeps the gradient at a zero row finite


@dataclass(frozen=True)
class Side:
    """One side of an alignment: a batch of a corpus, of a modality, of predictions.

    Attributes:
        features: ``[n, d]``; d is the same on both sides, n need not be.
        labels: ``[n, C]``, one-hot or probabilities (pseudo-labels); a row of zeros is a sample without
            a label. No gradient flows through them.
        mask: ``[n]``, not 0 where a row counts; without one, all do. A row that does not count may hold
            anything.

    Raises:
        ValueError: if the shapes are not these.
    """

    features: Tensor
    labels: Tensor | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if self.features.ndim != 2:
            raise ValueError(f"features have shape {list(self.features.shape)}; it should be [n, d]")
        n = len(self.features)
        if self.labels is not None and (self.labels.ndim != 2 or len(self.labels) != n):
            raise ValueError(f"labels have shape {list(self.labels.shape)}; it should be [{n}, C]")
        if self.mask is not None and self.mask.shape != (n,):
            raise ValueError(f"the mask has shape {list(self.mask.shape)}; it should be [{n}]")

    def __len__(self) -> int:
        return len(self.features)

    @property
    def width(self) -> int:
        """Number of features d."""
        return self.features.shape[1]

    def given_labels(self) -> Tensor:
        """The labels.

        Raises:
            ValueError: if there are none.
        """
        if self.labels is None:
            raise ValueError("this alignment needs the labels of both sides, one-hot or probabilities [n, C]")
        return self.labels

    def counting(self) -> Tensor:
        """Which rows count, ``[n]`` of booleans."""
        if self.mask is None:
            return torch.ones(len(self), dtype=torch.bool, device=self.features.device)
        return self.mask != 0

    def rows(self, kept: Tensor, dtype: torch.dtype) -> Side:
        """The rows where ``kept [n]`` is true, in ``dtype``, without a mask."""
        labels = None if self.labels is None else self.labels.detach()[kept].to(dtype)
        return Side(self.features[kept].to(dtype), labels)


class Alignment(nn.Module):
    """A loss between two sides: ``forward(first, second)`` gives a scalar.

    It is finite, and so is its gradient, whatever the batch: where nothing can be aligned (an empty side, a
    single sample, a class on one side only) it is a zero that still hangs in the graph. It is computed
    outside autocast, in float32 or, of float64 features, in float64.

    A subclass writes `loss`, which sees only the rows that count.
    """

    paired = False
    """Whether row i of the first side belongs to row i of the second; a pair counts where both rows do."""

    def forward(self, first: Side, second: Side) -> Tensor:
        """The loss between two sides, a scalar.

        Raises:
            ValueError: if the sides do not fit each other, or the loss needs labels and there are none.
        """
        with torch.autocast(first.features.device.type, enabled=False):
            return self.loss(*self._prepared(first, second))

    def loss(self, first: Side, second: Side) -> Tensor:
        """The loss between sides ``[n, d]`` and ``[m, d]`` whose rows all count, a scalar."""
        raise NotImplementedError

    def nothing(self, first: Side, second: Side) -> Tensor:
        """A zero to which every feature and parameter is connected, each with a gradient of zero.

        Parameters too, because data-parallel training waits for the gradient of each.
        """
        parts = (first.features, second.features, *self.parameters())
        return torch.stack([part.flatten()[:0].sum() for part in parts]).sum()

    def _prepared(self, first: Side, second: Side) -> tuple[Side, Side]:
        if first.width != second.width:
            raise ValueError(
                f"the sides have {first.width} and {second.width} features; it should be the same number"
            )
        kept_first, kept_second = first.counting(), second.counting()
        if self.paired:
            if len(first) != len(second):
                raise ValueError(f"the sides have {len(first)} and {len(second)} rows, which should be pairs")
            kept_first = kept_second = kept_first & kept_second
        dtype = torch.promote_types(first.features.dtype, second.features.dtype)
        dtype = torch.promote_types(dtype, torch.float32)
        return first.rows(kept_first, dtype), second.rows(kept_second, dtype)


def unit_rows(x: Tensor) -> Tensor:
    """Rows of ``[n, d]`` scaled to length one; a row of zeros stays one.

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    return x * (x.square().sum(dim=1, keepdim=True) + NORM_FLOOR).rsqrt()


def top_label(labels: Tensor) -> Tensor:
    """Index ``[n]`` of the greatest label of each row of ``[n, C]``, -1 of a row without a label.

    Example:
        >>> top_label(torch.tensor([[0.2, 0.8], [1.0, 0.0], [0.0, 0.0]]))
        tensor([ 1,  0, -1])
    """
    top = labels.max(dim=1)
    return torch.where(top.values > 0, top.indices, -1)


def labels_agree(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Compare each row of labels ``[n, C]`` with each of ``[m, C]``.

    Returns:
        Two ``[n, m]`` of booleans: where the greatest labels are the same, and where they are not. A row
        without a label is in neither.
    """
    one, other = top_label(first)[:, None], top_label(second)[None, :]
    known = (one >= 0) & (other >= 0)
    return known & (one == other), known & (one != other)
