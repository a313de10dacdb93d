"""What draws face and voice of the default fusion together while it is trained, and is not part of it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..alignment import AVEL, LMMD, Side
from ..alignment.contrastive import matching
from ..alignment.sides import labels_agree, unit_rows
from ..systems.attention import AttentionFusion
from ..systems.foal_net import masked_mean
from ..systems.fusion import Windows

Kind = Literal["none", "lmmd", "avel", "avel+mem"]
MEM = 0.1  # weight of the matching beside the alignment, as in Foal-Net
MATCHED = 4  # one window in so many is matched: each costs the fusion three more


class Aligned(nn.Module):
    """Alignment of pairs in the space in which the two modalities ask each other.

    The tokens come from frozen encoders, so only what reads them can be aligned: the masked means of both
    modalities' projected tokens, which are the queries and the keys of the cross-attention. LMMD draws the
    classes of the two together, each to its own; AVEL draws pairs of one label together and apart from those
    of others; MEM has heads of its own tell, by what the tokens found in each other, pairs of one window from
    similar ones of another label. See `edgeemo_export.alignment` for the losses.

    Args:
        kind: which of them.
        inner: width of the space.

    Example:
        >>> sorted(name for name, _ in Aligned("avel+mem", 4).named_parameters())
        ['align.log_scale', 'match_face.bias', 'match_face.weight', 'match_voice.bias', 'match_voice.weight']
    """

    def __init__(self, kind: Kind, inner: int) -> None:
        super().__init__()
        self.align = LMMD() if kind == "lmmd" else AVEL()
        self.matches = kind == "avel+mem"
        if self.matches:
            self.match_face, self.match_voice = nn.Linear(2 * inner, 1), nn.Linear(2 * inner, 1)

    def forward(self, model: AttentionFusion, windows: Windows) -> Tensor:
        """The loss of windows that all have both modalities, a scalar."""
        face, voice = model.projected(windows.first, windows.second)
        one, other = masked_mean(face, windows.first_mask), masked_mean(voice, windows.second_mask)
        loss: Tensor = self.align(Side(one, windows.labels), Side(other, windows.labels))
        if not self.matches:
            return loss
        # Of every so many: windows with a still come first, and both kinds are to be matched.
        some = slice(None, None, MATCHED)
        parts = face[some], windows.first_mask[some], voice[some], windows.second_mask[some]
        _, differ = labels_agree(windows.labels[some], windows.labels[some])
        similarity = (unit_rows(one[some]) @ unit_rows(other[some]).T).detach()

        def matcher(of_face: Tensor, of_voice: Tensor) -> Tensor:
            found = model.joined(parts[0][of_face], parts[1][of_face], parts[2][of_voice], parts[3][of_voice])
            seen, heard = found.chunk(2, dim=1)
            return torch.cat([self.match_face(seen), self.match_voice(heard)], dim=1)

        return loss + MEM * matching(similarity, differ, matcher)
