"""Folds batch normalisations into the layers beside them, for export."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval

from .residual import ResidualBlock


@torch.no_grad()
def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Fold each batch normalisation into the layer before it, or the linear one after it, in place.

    The module must be in evaluation mode; its outputs stay the same up to rounding. What is folded already
    stays as it is.
    """
    for child in module.children():
        fold_batch_norms(child)
    if isinstance(module, ResidualBlock) and isinstance(module.norm1, nn.BatchNorm2d):
        module.conv1 = fuse_conv_bn_eval(module.conv1, module.norm1)
        module.conv2 = fuse_conv_bn_eval(module.conv2, module.norm2)
        module.norm1, module.norm2 = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    elif isinstance(module, nn.Sequential):
        places = [place for place, layer in enumerate(module) if not isinstance(layer, nn.Dropout)]
        for before, after in pairwise(places):
            first, second = module[before], module[after]
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                module[before], module[after] = fuse_conv_bn_eval(first, second), nn.Identity()
            elif isinstance(first, nn.Linear) and isinstance(second, nn.BatchNorm1d):
                module[before], module[after] = fuse_linear_bn_eval(first, second), nn.Identity()
            elif isinstance(first, nn.BatchNorm1d) and isinstance(second, nn.Linear):
                module[before], module[after] = nn.Identity(), _behind(first, second)
    return module


def _behind(norm: nn.BatchNorm1d, linear: nn.Linear) -> nn.Linear:
    """The linear layer that does ``linear(norm(x))``."""
    assert norm.running_var is not None and norm.running_mean is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    linear.bias.add_(linear.weight @ (norm.bias - scale * norm.running_mean))
    linear.weight.mul_(scale)
    return linear
