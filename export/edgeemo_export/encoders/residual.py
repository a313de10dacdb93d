"""The stem and the residual stages of plain 3x3 convolutions that both encoders are made of."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Size:
    """How large a trunk is.

    Attributes:
        widths: channels of the stem and of each stage.
        blocks: residual blocks of each stage, one entry fewer than ``widths``.
        squeezed: channels of a 1x1 convolution behind the last stage, 0 for none.
    """

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    squeezed: int = 0

    @property
    def channels(self) -> int:
        """Channels of what the trunk gives."""
        return self.squeezed or self.widths[-1]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation beside an identity or a 1x1 projection (He et al., 2016).

    Plain convolutions quantise and run better than depthwise ones, on TensorRT and on ONNX Runtime.

    Shapes: ``[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]``.
    """

    def __init__(self, inputs: int, outputs: int, stride: int | tuple[int, int] = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.skip: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            self.skip = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        # A block starts as its skip path, which keeps the first steps of a deep stack stable (Goyal et al.,
        # 2017).
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, inputs, H, W]`` to ``[N, outputs, H', W']``."""
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.skip(x) + self.norm2(self.conv2(inner)))


def stem(channels: int, stride: int | tuple[int, int]) -> nn.Sequential:
    """The first 3x3 convolution, which reads one channel.

    It stays in floating point: ONNX Runtime computes its few products sooner than it rounds what goes in and
    out, and what rounding takes from the input no later layer brings back.

    Args:
        channels: that it gives.
        stride: in both directions, or in each.
    """
    return _rectified(nn.Conv2d(1, channels, 3, stride, 1, bias=False))


def trunk(size: Size, strides: list[int | tuple[int, int]]) -> nn.Sequential:
    """Stack residual stages behind a stem.

    Args:
        size: channels and blocks.
        strides: stride of the first block of each stage.
    """
    layers: list[nn.Module] = []
    for before, width, count, stride in zip(
        size.widths[:-1], size.widths[1:], size.blocks, strides, strict=True
    ):
        layers += [ResidualBlock(before, width, stride)]
        layers += [ResidualBlock(width, width) for _ in range(count - 1)]
    if size.squeezed:
        layers += _rectified(nn.Conv2d(size.widths[-1], size.squeezed, 1, bias=False))
    return nn.Sequential(*layers)


def _rectified(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU())
