"""Agreement of predicted and true valence and arousal: CCC."""

from __future__ import annotations

import torch
from torch import Tensor

from .sides import Alignment, Side


class CCC(Alignment):
    """One minus the concordance correlation coefficient (Lin, 1989), averaged over the outputs.

    ``L = 1/|D| sum_{k in D} (1 - CCC_k)``,
    ``CCC_k = 2 cov(x_k, y_k) / (var(x_k) + var(y_k) + (mean(x_k) - mean(y_k))^2)``,

    with predictions ``x [n, d]`` (first side) and truth ``y [n, d]`` (second side). A frame counts where the
    masks of both sides say so, and only those frames enter any moment. Moments are of the population, 1/n.

    D are the outputs whose truth varies over at least two frames: without variance there is nothing to agree
    with, and where D is empty, L = 0. Predictions without variance have CCC = 0, with a gradient that draws
    them apart.

    Example:
        >>> truth = torch.tensor([[-0.5], [0.0], [0.5]])
        >>> round(float(CCC()(Side(0.5 * truth), Side(truth))), 3)
        0.2
    """

    paired = True

    def loss(self, first: Side, second: Side) -> Tensor:
        """One minus the mean CCC of predictions ``[n, d]`` and truth ``[n, d]``."""
        if not len(first):
            return self.nothing(first, second)
        x, y = first.features, second.features
        from_x, from_y = x - x.mean(dim=0), y - y.mean(dim=0)
        covariance = (from_x * from_y).mean(dim=0)
        spread = from_x.square() + from_y.square()
        whole = spread.mean(dim=0) + (x.mean(dim=0) - y.mean(dim=0)).square()
        varies = (y.amax(dim=0) > y.amin(dim=0)) & (whole > torch.finfo(x.dtype).tiny)
        # Not 0 / 0 even where it is not taken: its gradient would be NaN all the same.
        ratio = 2.0 * covariance / whole.masked_fill(~varies, 1.0)
        return (1.0 - ratio).masked_fill(~varies, 0.0).sum() / varies.sum().clamp(min=1)
