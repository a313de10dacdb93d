"""The residual stage of plain 3x3 convolutions that both encoders are made of."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


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


def trunk(
    stem_stride: int | tuple[int, int],
    widths: list[int],
    blocks: list[int],
    strides: list[int | tuple[int, int]],
) -> nn.Sequential:
    """Stack a stem and residual stages.

    Args:
        stem_stride: stride of the stem's 3x3 convolution, which reads one channel.
        widths: channels of the stem and of each stage, one more entry than ``blocks``.
        blocks: residual blocks of each stage.
        strides: stride of the first block of each stage.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(1, widths[0], 3, stem_stride, 1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
    ]
    for before, width, count, stride in zip(widths[:-1], widths[1:], blocks, strides, strict=True):
        layers += [ResidualBlock(before, width, stride)]
        layers += [ResidualBlock(width, width) for _ in range(count - 1)]
    return nn.Sequential(*layers)
