"""What every fusion of two modalities is, and the graph that a bundle makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Windows:
    """A batch of windows with tokens of two modalities.

    Attributes:
        first: tokens of the first modality, the face of an audio-visual system, ``[n, T, D]``.
        first_mask: 1 where a token counts, ``[n, T]``.
        second: tokens of the second modality, ``[n, T, D]``.
        second_mask: ``[n, T]``.
        labels: one-hot or probabilities, ``[n, K]``.
    """

    first: Tensor
    first_mask: Tensor
    second: Tensor
    second_mask: Tensor
    labels: Tensor


class Fusion(nn.Module):
    """Tokens of two modalities to logits; a modality whose mask is zero takes no part.

    What only the training needs, such as projections of an alignment, is used by `losses` and not by
    `forward`, so no exported graph holds it.
    """

    def forward(self, first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor) -> Tensor:
        """Logits of windows.

        Args:
            first: ``[N, T, D]``.
            first_mask: ``[N, T]``.
            second: ``[N, T, D]``, or ``[1, T, D]`` where all rows share it, as faces share a voice.
            second_mask: ``[N, T]``.

        Returns:
            ``[N, K]``, before temperature; finite where both masks are zero.
        """
        raise NotImplementedError

    def each(
        self, first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``[N, K]`` of both modalities, of the first alone and of the second alone.

        What one says alone is what `forward` says with the other masked away. A system that can tell all
        three in one pass does.
        """
        # By a product: what makes zeros of a shape would be shape arithmetic in the exported graph.
        return (
            self(first, first_mask, second, second_mask),
            self(first, first_mask, second, second_mask * 0.0),
            self(first, first_mask * 0.0, second, second_mask),
        )

    def affect(self, first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor) -> Tensor | None:
        """Valence and arousal ``[N, 2]`` of a head of its own, None of a system without one."""
        return None

    def losses(self, windows: Windows) -> dict[str, Tensor]:
        """The parts of the training loss by name, each weighted; their sum is minimised."""
        inputs = (windows.first, windows.first_mask, windows.second, windows.second_mask)
        return {"emotion": F.cross_entropy(self(*inputs), windows.labels, label_smoothing=0.05)}


class Answers(nn.Module):
    """The fusion graph of a bundle: calibrated answers of both modalities and of each alone.

    Each row is answered by what its masks leave: by both, or by the one that is there. What one modality
    says alone is the system's own answer with the other masked away.

    Args:
        fusion: trained.
        temperatures: of the first modality alone, of the second alone, and of both.
        norms: valence and arousal of each label on [-1, 1], ``[K, 2]``; None where nobody rated them.
    """

    temperatures: Tensor
    norms: Tensor | None

    def __init__(
        self,
        fusion: Fusion,
        temperatures: Sequence[float] = (1.0, 1.0, 1.0),
        norms: Sequence[tuple[float, float]] | None = None,
    ) -> None:
        super().__init__()
        self.fusion: Fusion = fusion
        self.register_buffer("temperatures", torch.tensor(tuple(temperatures)))
        self.register_buffer("norms", None if norms is None else torch.tensor(tuple(norms)))

    def forward(
        self, first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor
    ) -> tuple[Tensor, ...]:
        """Map what `Fusion.forward` reads to calibrated answers.

        Returns:
            Logits ``[N, K]``; valence and arousal ``[N, 2]`` where there are norms or a head; logits of the
            first modality alone and of the second alone, ``[N, K]``, zero where it is missing.
        """
        has_first = first_mask.amax(1, keepdim=True)
        has_second = second_mask.amax(1, keepdim=True)
        fused, alone, other = self.fusion.each(first, first_mask, second, second_mask)
        alone = alone / self.temperatures[0] * has_first
        other = other / self.temperatures[1] * has_second
        both = has_first * has_second
        logits = both * fused / self.temperatures[2] + (1.0 - both) * (alone + other)
        affect = self.fusion.affect(first, first_mask, second, second_mask)
        if affect is None and self.norms is not None:
            affect = torch.softmax(logits, dim=1) @ self.norms
        return (logits, alone, other) if affect is None else (logits, affect, alone, other)
