"""The face encoder: uint8 crops in, one token a face out."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .residual import Size, stem, trunk

SIZES = {
    "edge": Size((24, 24, 56, 96), (1, 2, 2)),
    "base": Size((32, 32, 64, 128), (1, 2, 2)),
    "large": Size((48, 64, 128, 256), (2, 2, 2)),
}
"""For a device, half as much again, and a teacher of seven times the work."""


class FaceFrontEnd(nn.Module):
    """Standardise each crop to zero mean and unit variance, so that light and contrast cancel.

    Stays FP32 in every precision.
    """

    def forward(self, face: Tensor) -> Tensor:
        """Map ``[N, H, W, 1]`` (uint8, or float in [0, 255] in training) to ``[N, 1, H, W]``."""
        x = face.float().permute(0, 3, 1, 2)
        x = x - x.mean(dim=(2, 3), keepdim=True)
        # The floor of 4 grey levels keeps the noise of a blank picture from being blown up to full scale.
        return x / (x.square().mean(dim=(2, 3), keepdim=True) + 16.0).sqrt()


class FaceEncoder(nn.Module):
    """A residual net over a 48x48 grey crop.

    Args:
        width: token width D.
        size: one of `SIZES`.
    """

    def __init__(self, width: int = 128, size: str = "edge") -> None:
        super().__init__()
        self.front = FaceFrontEnd()
        self.stem = stem(SIZES[size].widths[0], 1)
        self.trunk = trunk(SIZES[size], [2, 2, 2])
        self.drop = nn.Dropout(0.3)
        self.project = nn.Linear(SIZES[size].channels, width)

    def forward(self, face: Tensor) -> Tensor:
        """Map crops ``[N, 48, 48, 1]`` to tokens ``[N, D]``."""
        x = self.trunk(self.stem(self.front(face))).mean(dim=(2, 3))
        return F.relu(self.project(self.drop(x.float())))
