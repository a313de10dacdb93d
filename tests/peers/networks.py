"""The networks of others as torch modules with random weights, as their authors describe them.

Every network is left in evaluation mode with statistics of its batch norms taken from random input, so that
what flows through it is neither zero nor denormal, which some processors multiply more slowly.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from edgeemo_export.encoders.voice import LogMel

from .catalogue import PEERS

_BATCHES, _ROWS = 3, 4  # of random input for the statistics of the batch norms


# --- EfficientNet-B0


class _SqueezeExcitation(nn.Module):
    """Channels weighed by what their means say of each other (Hu et al., 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(2, 3), keepdim=True)
        weights: Tensor = self.excite(nn.functional.silu(self.squeeze(mean))).sigmoid()
        return x * weights


class _MBConv(nn.Module):
    """An inverted residual with squeeze and excitation."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.skip = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            *(_conv(inputs, wide, 1, activation=nn.SiLU) if expansion > 1 else ()),
            *_conv(wide, wide, kernel, stride, groups=wide, activation=nn.SiLU),
            _SqueezeExcitation(wide, inputs // 4),
            *_conv(wide, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.skip else out


def efficientnet_b0(classes: int = 8) -> nn.Module:
    """EfficientNet-B0 (Tan and Le, 2019, table 1), HSEmotion's architecture, ``[N, 3, 224, 224]``.

    Args:
        classes: 1000 in the paper, 8 in HSEmotion's `enet_b0_8`.
    """
    # expansion, channels, repetitions, stride of the first, kernel
    stages = (
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    )
    layers, channels = [*_conv(3, 32, 3, 2, activation=nn.SiLU)], 32
    for expansion, width, repetitions, stride, kernel in stages:
        for place in range(repetitions):
            layers.append(_MBConv(channels, width, expansion, kernel, stride if place == 0 else 1))
            channels = width
    layers += _conv(channels, 1280, 1, activation=nn.SiLU)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, classes))


# --- MobileFaceNet


class _Bottleneck(nn.Module):
    """MobileNetV2's inverted residual with PReLU, as MobileFaceNet has it."""

    def __init__(self, inputs: int, outputs: int, wide: int, stride: int) -> None:
        super().__init__()
        self.skip = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            *_conv(inputs, wide, 1),
            nn.PReLU(wide),
            *_conv(wide, wide, 3, stride, groups=wide),
            nn.PReLU(wide),
            *_conv(wide, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.skip else out


def mobilefacenet(embedding: int = 512, classes: int = 7) -> nn.Module:
    """MobileFaceNet (Chen et al., 2018, table 1) with a layer for the classes, ``[N, 3, 112, 112]``.

    Args:
        embedding: 128 in the paper; OpenCV Zoo's file has the size of 512.
        classes: outputs; 0 for the embedding itself.
    """
    # channels, repetitions, stride of the first, expansion
    stages = ((64, 5, 2, 2), (128, 1, 2, 4), (128, 6, 1, 2), (128, 1, 2, 4), (128, 2, 1, 2))
    layers: list[nn.Module] = [*_conv(3, 64, 3, 2), nn.PReLU(64), *_conv(64, 64, 3, groups=64), nn.PReLU(64)]
    channels = 64
    for width, repetitions, stride, expansion in stages:
        for place in range(repetitions):
            layers.append(_Bottleneck(channels, width, channels * expansion, stride if place == 0 else 1))
            channels = width
    layers += [*_conv(channels, 512, 1), nn.PReLU(512)]
    # The global depthwise convolution: every place of the last map has a weight of its own.
    layers += [nn.Conv2d(512, 512, 7, groups=512, bias=False), nn.BatchNorm2d(512)]
    layers += [*_conv(512, embedding, 1), nn.Flatten()]
    return nn.Sequential(*layers, *([nn.Linear(embedding, classes)] if classes else []))


# --- mini-Xception


class _SeparableResidual(nn.Module):
    """Two separable convolutions and a pooling beside one strided convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.beside = nn.Sequential(*_conv(inputs, outputs, 1, 2))
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
            *_conv(inputs, outputs, 1, activation=nn.ReLU),
            nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs, bias=False),
            *_conv(outputs, outputs, 1),
            nn.MaxPool2d(3, stride=2, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x) + self.beside(x)
        return out


def mini_xception(classes: int = 7) -> nn.Module:
    """mini-Xception (Arriaga et al., 2017) as `face_classification` builds it, ``[N, 1, 64, 64]`` grey."""
    widths = (8, 16, 32, 64, 128)
    return nn.Sequential(
        *_conv(1, 8, 3, padding=0, activation=nn.ReLU),
        *_conv(8, 8, 3, padding=0, activation=nn.ReLU),
        *(_SeparableResidual(inputs, outputs) for inputs, outputs in pairwise(widths)),
        nn.Conv2d(128, classes, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Softmax(dim=1),
    )


# --- of voices


class _SpeechClassifier(nn.Module):
    """A speech model's frames projected, averaged and classified, as `transformers` does it."""

    def __init__(self, trunk: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.project, self.classify = nn.Linear(width, 256), nn.Linear(256, classes)

    def forward(self, voice: Tensor) -> Tensor:
        frames = self.trunk(voice).last_hidden_state
        logits: Tensor = self.classify(self.project(frames).mean(dim=1))
        return logits


def wav2vec2(classes: int = 7, **changes: int) -> nn.Module:
    """wav2vec 2.0 base (Baevski et al., 2020) as an emotion classifier, PCM ``[1, samples]`` at 16 kHz.

    Args:
        classes: outputs.
        changes: of the published configuration, such as `num_hidden_layers`, to try with less.
    """
    import transformers

    # The default configuration is the base; masks and skipped layers are of the pretraining.
    options: dict[str, Any] = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "layerdrop": 0.0, **changes}
    config = transformers.Wav2Vec2Config(**options)
    config._attn_implementation = "eager"  # plain products, which every exporter knows
    return _SpeechClassifier(transformers.Wav2Vec2Model(config), config.hidden_size, classes)


class _Wav2SmallLike(nn.Module):
    """See `wav2small_like`."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.mel = LogMel(bands=26, window=320, hop=160)
        self.layers = nn.Sequential(
            *_conv(1, width, 3, activation=nn.ReLU),
            *_conv(width, width, 3, activation=nn.ReLU),
            *_conv(width, width, 3, activation=nn.ReLU),
            nn.MaxPool2d(3, stride=2, padding=1),
            *(layer for _ in range(4) for layer in _conv(width, width, 3, activation=nn.ReLU)),
        )
        self.values, self.weights = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.answer = nn.Linear(13 * width + width * width, outputs)

    def forward(self, voice: Tensor) -> Tensor:
        maps = self.layers(self.mel(voice))
        pooled = (self.values(maps) * self.weights(maps).softmax(dim=3)).sum(dim=3)
        products = pooled @ pooled.transpose(1, 2)
        answers: Tensor = self.answer(torch.cat([pooled.flatten(1), products.flatten(1)], dim=1))
        return answers


def wav2small_like(width: int = 34, outputs: int = 3) -> nn.Module:
    """A net in the manner of Wav2Small (Kounadis-Bastian et al., 2024), PCM ``[N, samples]`` at 16 kHz.

    Log-mel energies, seven convolutions 3 x 3 of one width with one pooling after the third, frames weighed
    by attention, second-order products, and arousal, dominance and valence: the plan of the model card. The
    width is chosen for the 72 k parameters of the paper, of which it gives no layout that could be followed
    here; the energies are those of this project, 26 bands every 10 ms, where the card has 2 ms, so that this
    net does less work than one that follows the card.

    Args:
        width: channels.
        outputs: three in the paper.
    """
    return _Wav2SmallLike(width, outputs)


# --- all of them

_MAKERS: dict[str, Callable[[], nn.Module]] = {
    "efficientnet-b0": efficientnet_b0,
    "mobilefacenet": mobilefacenet,
    "mini-xception": mini_xception,
    "wav2vec2": wav2vec2,
    "wav2small-like": wav2small_like,
}


def network(name: str, seed: int = 0) -> nn.Module:
    """A peer with random weights, ready to run.

    Args:
        name: one of `PEERS`.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    return settled(_MAKERS[name](), PEERS[name].shape)


def settled(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Take the statistics of all batch norms from random input, and leave the module in evaluation mode."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    if norms:
        for norm in norms:
            norm.momentum = None  # the mean over the batches
        module.train()
        with torch.no_grad():
            for _ in range(_BATCHES):
                module(torch.randn(_ROWS, *shape[1:]))
    return module.eval()


def parameters(module: nn.Module) -> int:
    """Trained numbers of a network: no statistics of batch norms, no tables of a front end."""
    return sum(parameter.numel() for parameter in module.parameters())


def statistics(module: nn.Module) -> int:
    """Means and variances of the batch norms, which Keras counts as parameters."""
    return sum(2 * part.num_features for part in module.modules() if isinstance(part, nn.BatchNorm2d))


def _conv(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    *,
    groups: int = 1,
    padding: int | None = None,
    activation: Callable[[], nn.Module] | None = None,
) -> tuple[nn.Module, ...]:
    """A convolution without bias, its batch norm, and what follows; of its own size without `padding`."""
    around = kernel // 2 if padding is None else padding
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, around, groups=groups, bias=False)
    return (convolution, nn.BatchNorm2d(outputs), *((activation(),) if activation else ()))
