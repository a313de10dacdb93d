"""Mixed precision: which 16-bit type the matrix products of training have on a device."""

from __future__ import annotations

import torch


def half(device: torch.device) -> torch.dtype:
    """bfloat16 on a CPU and on GPUs that compute in it, float16 on older ones.

    bfloat16 has the range of float32, so that its gradients need no scaling; float16's do.

    Example:
        >>> half(torch.device("cpu"))
        torch.bfloat16
    """
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def mixed(device: torch.device) -> torch.autocast:
    """The context of a forward pass in mixed precision; losses are computed outside of it, in float32."""
    return torch.autocast(device.type, half(device))
