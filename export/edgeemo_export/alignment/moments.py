"""Distance of two distributions by their second moments: CORAL."""

from __future__ import annotations

from torch import Tensor

from .sides import Alignment, Side


class CORAL(Alignment):
    """Correlation alignment (Sun & Saenko, 2016, "Deep CORAL").

    ``L = ||C_s - C_t||_F^2 / (4 d^2)``, with the covariances ``C [d, d]`` of the features of each side.

    A side of a single sample has no covariance: then L = 0.
    """

    def loss(self, first: Side, second: Side) -> Tensor:
        """CORAL of ``[n, d]`` and ``[m, d]``."""
        if len(first) < 2 or len(second) < 2:
            return self.nothing(first, second)
        difference = covariance(first.features) - covariance(second.features)
        return difference.square().sum() / (4.0 * first.width**2)


def covariance(x: Tensor) -> Tensor:
    """Covariance ``[d, d]`` of the columns of ``[n, d]``, with ``1 / (n - 1)``."""
    centred = x - x.mean(dim=0)
    return centred.T @ centred / (len(x) - 1)
