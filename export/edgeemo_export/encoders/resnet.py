"""One image backbone for faces and for log-mel pictures: ResNet-18, ResNet-34, or a small net of our own."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo.errors import InputError

from .face import FaceFrontEnd
from .residual import Size, stem, trunk
from .voice import SAMPLE_RATE, LogMel

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP = 48
LARGEST = 64  # pixels of a side: beyond it, training without a GPU takes days
WINDOW = 400  # samples of a frame of `LogMel`


class BasicBlock(nn.Sequential):
    """Two 3x3 convolutions beside a skip path (He et al., 2016), in torchvision's names.

    Shapes: ``[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]``.
    """

    # A Sequential, because then every normalisation stands behind its convolution, where an export folds it.

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            bn1=nn.BatchNorm2d(outputs),
            relu=nn.ReLU(),
            conv2=nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            bn2=nn.BatchNorm2d(outputs),
        )
        if inputs != outputs or stride != 1:
            layers["downsample"] = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        super().__init__(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, inputs, H, W]`` to ``[N, outputs, H', W']``."""
        conv1, bn1, relu, conv2, bn2, *downsample = self
        skip = downsample[0](x) if downsample else x
        return F.relu(skip + bn2(conv2(relu(bn1(conv1(x))))))


class ResNet(nn.Sequential):
    """ResNet-18 or ResNet-34 (He et al., 2016), with the parameters of torchvision's by name and shape.

    It begins with a 7x7 convolution and a pooling, each of stride 2, whatever the size of the picture, so
    that trained weights mean what they were trained to: of 64 pixels, 2x2 positions reach the end.

    Args:
        depth: 18 or 34.
        classes: of a classifier on the features, None without one.

    Example:
        >>> ResNet(18, classes=None).eval()(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 512])
    """

    features = 512

    def __init__(self, depth: int = 34, classes: int | None = 1000) -> None:
        if depth not in DEPTHS:
            raise InputError(f"depth {depth}: it must be one of {', '.join(map(str, DEPTHS))}")
        self.depth = depth
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            bn1=nn.BatchNorm2d(64),
            relu=nn.ReLU(),
            maxpool=nn.MaxPool2d(3, 2, 1),
        )
        before = 64
        for place, count in enumerate(DEPTHS[depth]):
            width = 64 * 2**place
            blocks = [BasicBlock(before, width, 1 if place == 0 else 2)]
            blocks += [BasicBlock(width, width) for _ in range(count - 1)]
            layers[f"layer{place + 1}"] = nn.Sequential(*blocks)
            before = width
        if classes is not None:
            layers["fc"] = nn.Linear(before, classes)
        super().__init__(layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures ``[N, 3, H, W]``, normalised as ImageNet's, to features ``[N, 512]`` or logits."""
        for name, layer in self.named_children():
            if name == "fc":
                return layer(x.mean(dim=(2, 3)))
            x = layer(x)
        return x.mean(dim=(2, 3))

    def load_imagenet(self, path: Path) -> None:
        """Take the weights of a state dict of torchvision, written by ``torch.save`` or as safetensors.

        The file's classifier is left out where this net has none.

        Args:
            path: such as ``resnet34-b627a593.pth``.

        Raises:
            InputError: it cannot be read, or holds something else than the weights of this net.
        """
        given = _read_state(path)
        own = self.state_dict()
        if "fc.weight" not in own:
            given = {name: value for name, value in given.items() if not name.startswith("fc.")}
        # Files from before PyTorch 0.4.1 count no batches; nothing reads those counts.
        own = {name: value for name, value in own.items() if not name.endswith("num_batches_tracked")}
        given = {name: value for name, value in given.items() if not name.endswith("num_batches_tracked")}
        wanted = f"{path}: not the weights of a ResNet-{self.depth} of torchvision"
        for name in [*own, *given]:
            if name not in given or name not in own:
                wrong = "it has no" if name in own else "it has another layer,"
                raise InputError(f"{wanted}: {wrong} {name!r}")
            if given[name].shape != own[name].shape:
                shapes = [list(state[name].shape) for state in (given, own)]
                raise InputError(f"{wanted}: {name!r} has shape {shapes[0]}; it should be {shapes[1]}")
        self.load_state_dict(given, strict=False)


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            state: Any = _read_safetensors(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except InputError:
        raise
    except Exception as error:  # what an unpickler raises on a file of another kind has no root of its own
        raise InputError(
            f"{path}: not a state dict; it should hold tensors by name, from torch.save or as safetensors"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(
            f"{path}: it holds {type(state).__name__}, not a state dict of tensors by name; "
            "save model.state_dict()"
        )
    return dict(state)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise InputError(f"{path}: to read it, install safetensors, or give a file of torch.save") from error
    return load_file(path)


class Resize(nn.Module):
    """Bilinear resizing of square pictures from one fixed size to another, as two matrix products.

    It gives what `torch.nn.functional.interpolate` gives without aligned corners, whose exported graph
    computes sizes at run time.

    Args:
        before: pixels of a side.
        after: pixels of a side.

    Example:
        >>> Resize(2, 4)(torch.tensor([[[[0.0, 4.0], [0.0, 4.0]]]]))[0, 0, 0]
        tensor([0., 1., 3., 4.])
    """

    weight: Tensor

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        place = ((torch.arange(after) + 0.5) * before / after - 0.5).clamp(0.0, before - 1.0)
        weight = (1.0 - (place[:, None] - torch.arange(before)).abs()).clamp(min=0.0)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, before, before]`` to ``[N, C, after, after]``."""
        return self.weight @ x @ self.weight.T


class FacePicture(nn.Module):
    """Grey crops as the pictures that ResNet knows: RGB of one grey, ImageNet's mean and deviation.

    Stays FP32 in every precision.

    Args:
        size: pixels of a side of the picture.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, size: int = LARGEST) -> None:
        super().__init__()
        self.resize = Resize(CROP, size) if size != CROP else nn.Identity()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEVIATION)[:, None, None], persistent=False)

    def forward(self, face: Tensor) -> Tensor:
        """Map ``[N, 48, 48, 1]`` (uint8, or float in [0, 255] in training) to ``[N, 3, size, size]``."""
        grey = self.resize(face.float().permute(0, 3, 1, 2) / 255.0)
        return (grey - self.mean) / self.deviation


class MelPicture(nn.Module):
    """One second of a voice as a square log-mel picture, as many bands as frames.

    Log-mel values already lie around zero and about as wide as a normalised photograph, so that ImageNet's
    mean and deviation, those of light, are not applied. Stays FP32 in every precision.

    Args:
        size: bands and frames.
        channels: 1, or 3 equal ones.
    """

    def __init__(self, size: int, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels
        self.mel = LogMel(bands=size, window=WINDOW, hop=(SAMPLE_RATE - WINDOW) // (size - 1))

    def forward(self, voice: Tensor) -> Tensor:
        """Map PCM ``[N, 16000]`` in [-1, 1] to ``[N, channels, size, size]``."""
        return self.widen(self.mel(voice))

    def widen(self, mel: Tensor) -> Tensor:
        """Map log-mel ``[N, 1, size, size]`` to ``[N, channels, size, size]``."""
        return torch.cat([mel] * self.channels, dim=1) if self.channels > 1 else mel


class RowPool(nn.Module):
    """Mean along each row: ``[N, C, H, W] -> [N, C H]``.

    Where in height something lies is kept: in a face the mouth from the brow, in a mel picture a low pitch
    from a high one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to ``[N, C H]``."""
        return x.mean(dim=3).flatten(1)


class Backbone(nn.Module):
    """What both modalities share, trunk and bottleneck, beside the front end of each.

    Args:
        net: ``'small'``, of one channel; ``'resnet18'`` or ``'resnet34'``.
        width: token width D.
        size: pixels of a side of every picture; None for 48 of the small one and 64 of a ResNet.

    Raises:
        InputError: there is no such net.
    """

    def __init__(self, net: str = "small", width: int = 128, size: int | None = None) -> None:
        super().__init__()
        self.face: nn.Module
        self.trunk: nn.Module
        self.pool: nn.Module
        if net == "small":
            size = size or CROP
            if size % 8:
                raise InputError(f"size {size}: of the small net it must be a multiple of 8")
            resize = [Resize(CROP, size)] if size != CROP else []
            self.face, self.voice = nn.Sequential(FaceFrontEnd(), *resize), MelPicture(size)
            small = Size((24, 40, 72, 128), (1, 1, 1))
            self.trunk = nn.Sequential(*stem(24, 1), *trunk(small, [2, 2, 2]))
            self.pool, features = RowPool(), 128 * size // 8
        elif net in ("resnet18", "resnet34"):
            size = size or LARGEST
            self.face, self.voice = FacePicture(size), MelPicture(size, channels=3)
            self.trunk, self.pool = ResNet(int(net[6:]), classes=None), nn.Identity()
            features = ResNet.features
        else:
            raise InputError(f"net {net!r}: it must be small, resnet18 or resnet34")
        self.size = size
        # Without the norms, features of very different size keep the net from learning for many epochs.
        self.project = nn.Sequential(
            nn.BatchNorm1d(features),
            nn.Dropout(0.2),
            nn.Linear(features, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
        )

    def tokens(self, pictures: Tensor) -> Tensor:
        """Map pictures ``[N, 1 or 3, size, size]`` of either modality to tokens ``[N, D]``."""
        tokens: Tensor = self.project(self.pool(self.trunk(pictures)).float())
        return tokens

    def encoders(self) -> dict[str, nn.Module]:
        """The encoder of each modality, ``'face'`` and ``'voice'``: copies, for an export folds them."""
        mine = self.trunk, self.pool, self.project
        return {
            name: PictureEncoder(*copy.deepcopy((front, *mine)))
            for name, front in (("face", self.face), ("voice", self.voice))
        }


class PictureEncoder(nn.Module):
    """The encoder of one modality, out of the parts of a `Backbone`: crops or PCM in, tokens out."""

    def __init__(self, front: nn.Module, trunk: nn.Module, pool: nn.Module, project: nn.Module) -> None:
        super().__init__()
        self.front, self.trunk, self.pool, self.project = front, trunk, pool, project

    def forward(self, given: Tensor) -> Tensor:
        """Map crops ``[N, 48, 48, 1]`` or PCM ``[N, 16000]`` to tokens ``[N, D]``."""
        tokens: Tensor = self.project(self.pool(self.trunk(self.front(given))).float())
        return tokens
