"""The text encoder: ids of word pieces in, one token a piece out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..systems.attention import CrossAttention

PAD = 0  # the id of a place without a word piece, first in every vocabulary


class FeedForward(nn.Module):
    """The second half of a transformer layer, ``LN(X + W2 relu(W1 X))`` (Vaswani et al., 2017).

    Args:
        width: of what is read and written.
        drop: probability of dropout before the sum.
    """

    def __init__(self, width: int, drop: float = 0.1) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.drop, self.norm = nn.Dropout(drop), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., width]`` to the same shape."""
        return self.norm(x + self.drop(self.narrow(self.wide(x).relu())))


class TransformerLayer(nn.Module):
    """A sequence asks itself, then each position thinks for itself.

    Args:
        width: of a token.
        heads: of the attention, a divisor of ``width``.
        drop: probability of dropout.
    """

    def __init__(self, width: int, heads: int, drop: float = 0.1) -> None:
        super().__init__()
        self.attend, self.think = CrossAttention(width, heads), FeedForward(width, drop)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map tokens ``[N, T, width]`` with mask ``[N, T]`` to the same shape."""
        return self.think(self.attend(x, x, mask))


class TextEncoder(nn.Module):
    """Embeddings of word pieces and of their places, and a few transformer layers over them.

    It is trained from nothing together with what reads it: a few thousand words, not a language. Places
    with the id 0 are looked at by nobody.

    Args:
        vocabulary: number of word pieces; id 0 is ``[PAD]``.
        width: token width D.
        length: ids of one call.
        layers: number of transformer layers.
        heads: of each.
        drop: probability of dropout.

    Example:
        >>> encoder = TextEncoder(30, width=8, length=5, heads=2).eval()
        >>> encoder(torch.tensor([[2, 7, 3, 0, 0]], dtype=torch.int32)).shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 128,
        length: int = 40,
        layers: int = 2,
        heads: int = 4,
        drop: float = 0.1,
    ) -> None:
        super().__init__()
        self.pieces = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.empty(length, width))
        for table in (self.pieces.weight, self.places):
            nn.init.normal_(table, std=width**-0.5)
        self.norm, self.drop = nn.LayerNorm(width), nn.Dropout(drop)
        self.layers = nn.ModuleList(TransformerLayer(width, heads, drop) for _ in range(layers))

    def encode(self, text: Tensor) -> Tensor:
        """Map ids ``[N, length]`` (int32) to tokens ``[N, length, D]``."""
        x = self.drop(self.norm(self.pieces(text) + self.places))
        mask = counting(text)
        for layer in self.layers:
            x = layer(x, mask)
        return x

    def forward(self, text: Tensor) -> Tensor:
        """Map the ids ``[1, length]`` (int32) of one text to tokens ``[length, D]``."""
        return self.encode(text)[0]


def counting(text: Tensor) -> Tensor:
    """Which ids are not ``[PAD]``, 1 or 0 as float, in the shape of the ids.

    By arithmetic: a comparison would make a tensor of booleans, which a strongly typed TensorRT network
    does not take.

    Example:
        >>> counting(torch.tensor([[2, 77, 3, 0]], dtype=torch.int32))
        tensor([[1., 1., 1., 0.]])
    """
    return text.float().clamp(max=1.0)
