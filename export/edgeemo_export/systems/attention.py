"""The default fusion: attention over time in each modality, cross-attention between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders.voice import AttentivePool

MASKED = 1e4  # added to a score it vanishes in the softmax, and it still fits FP16


class CrossAttention(nn.Module):
    """One modality asks the other: ``LN(Q + MHA(Q, K, K))`` (Vaswani et al., 2017).

    Args:
        width: width d of the queries.
        heads: number of heads, a divisor of ``width``.
        asked: width e of the keys; that of the queries where it is None.
        drop: share of what is mixed that dropout leaves out in training.
    """

    def __init__(self, width: int, heads: int, asked: int | None = None, drop: float = 0.0) -> None:
        super().__init__()
        asked = width if asked is None else asked
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(asked, width)
        self.value, self.out = nn.Linear(asked, width), nn.Linear(width, width)
        self.norm, self.drop = nn.LayerNorm(width), nn.Dropout(drop)

    def forward(self, asking: Tensor, asked: Tensor, mask: Tensor) -> Tensor:
        """Map queries ``[N, Tq, d]`` and keys ``[N, Tk, e]`` with mask ``[N, Tk]`` to ``[N, Tq, d]``.

        Queries or keys that all rows share have one row, which is projected once.
        """
        q, k, v = (
            self._split(f(x)) for f, x in ((self.query, asking), (self.key, asked), (self.value, asked))
        )
        scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5) + (mask[:, None, None, :] - 1.0) * MASKED
        weights = torch.softmax(scores, dim=-1) * mask[:, None, None, :]
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        return self.norm(asking + self.drop(self.out(mixed)))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class FacePool(nn.Module):
    """Attention over face tokens; of a single token, the token itself.

    Somebody who talks looks neutral most of the time, so a mean over time calls everybody neutral: the
    score, trained on sequences in which only some pictures carry the emotion, picks the telling ones.
    """

    def __init__(self, width: int, hidden: int = 32) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Map tokens ``[N, T, D]`` and mask ``[N, T]`` to ``[N, D]``, zero where no token counts."""
        score = self.score(torch.tanh(self.hidden(tokens))).transpose(1, 2) + (mask[:, None] - 1.0) * MASKED
        weight = torch.softmax(score, dim=2) * mask[:, None]
        return (weight @ tokens).flatten(1)


class AttentionFusion(nn.Module):
    """Face tokens and voice tokens to emotion.

    With both modalities the logits are ``a_f l_f + a_v l_v + j + b``: those of the face and of the voice
    alone, weighted, and a joint term ``j`` out of cross-attention in both directions. With one, they are
    that one's own. Temperatures that make each of the three a calibrated probability are part of the graph.

    The face's class prior (of web pictures, where most people smile or do nothing) is added in the measure
    ``1 / n`` of the pictures seen: a single still is judged as a still from the web, a stream without a
    prior.

    Args:
        width: token width D.
        labels: number of classes K.
        norms: valence and arousal of each label on [-1, 1], ``[K, 2]``.
        inner: width of the cross-attention.
        heads: heads of the cross-attention.
    """

    prior: Tensor
    temperatures: Tensor
    norms: Tensor

    def __init__(
        self, width: int, labels: int, norms: Sequence[tuple[float, float]], inner: int = 48, heads: int = 2
    ) -> None:
        super().__init__()
        self.face_pool, self.face_head = FacePool(width), nn.Linear(width, labels)
        self.voice_pool, self.voice_head = AttentivePool(width), nn.Linear(2 * width, labels)
        self.face_in, self.voice_in = nn.Linear(width, inner), nn.Linear(width, inner)
        self.to_voice, self.to_face = CrossAttention(inner, heads), CrossAttention(inner, heads)
        self.face_joint, self.voice_joint = AttentivePool(inner), AttentivePool(inner)
        last = nn.Linear(inner, labels)
        nn.init.zeros_(last.weight)
        self.joint = nn.Sequential(nn.Dropout(0.3), nn.Linear(4 * inner, inner), nn.ReLU(), last)
        self.weights = nn.Parameter(torch.ones(2))
        self.bias = nn.Parameter(torch.zeros(labels))
        self.drop = nn.Dropout(0.2)
        self.register_buffer("prior", torch.zeros(labels))
        self.register_buffer("temperatures", torch.ones(3))  # of the face alone, the voice alone, both
        self.register_buffer("norms", torch.tensor(norms), persistent=False)

    def forward(
        self, face_tokens: Tensor, face_mask: Tensor, voice_tokens: Tensor, voice_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Fuse one window of N tracks.

        Args:
            face_tokens: ``[N, Tf, D]``.
            face_mask: ``[N, Tf]``, 1 where a token counts.
            voice_tokens: ``[1, Tv, D]`` (in training ``[N, Tv, D]``).
            voice_mask: ``[N, Tv]``.

        Returns:
            Calibrated logits ``[N, K]``, valence and arousal ``[N, 2]``, and the calibrated logits of the
            face alone and of the voice alone, ``[N, K]`` each (zero where the modality is missing).
        """
        face, voice = self.face_logits(face_tokens, face_mask), self.voice_logits(voice_tokens, voice_mask)
        has_face, has_voice = face_mask.amax(1, keepdim=True), voice_mask.amax(1, keepdim=True)
        pictures = face_mask.sum(1, keepdim=True).clamp(min=1.0)
        face_alone = (face + self.prior / pictures) / self.temperatures[0] * has_face
        voice_alone = voice / self.temperatures[1] * has_voice
        fused = self.weights[0] * face + self.weights[1] * voice + self.bias
        fused = (
            fused + self.joint_logits(face_tokens, face_mask, voice_tokens, voice_mask)
        ) / self.temperatures[2]
        both = has_face * has_voice
        logits = both * fused + (1.0 - both) * (face_alone + voice_alone)
        return logits, torch.softmax(logits, dim=1) @ self.norms, face_alone, voice_alone

    def face_logits(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits of the face alone, before prior and temperature, ``[N, K]``."""
        logits: Tensor = self.face_head(self.drop(self.face_pool(tokens, mask)))
        return logits

    def voice_logits(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits of the voice alone, before temperature, ``[N, K]``."""
        logits: Tensor = self.voice_head(self.drop(self.voice_pool(tokens, mask)))
        return logits

    def joint_logits(
        self, face_tokens: Tensor, face_mask: Tensor, voice_tokens: Tensor, voice_mask: Tensor
    ) -> Tensor:
        """What the two modalities say together beyond their sum, ``[N, K]``."""
        face, voice = self.projected(face_tokens, voice_tokens)
        joint: Tensor = self.joint(self.joined(face, face_mask, voice, voice_mask))
        return joint

    def projected(self, face_tokens: Tensor, voice_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of both in the space in which they ask each other, ``[N, T, d]`` each."""
        face = F.relu(self.face_in(self.drop(face_tokens)))
        # One voice stays one row: what it is projected to is broadcast where it meets the faces. Repeating it
        # would cost its projections N times over, and shape arithmetic in the exported graph.
        return face, F.relu(self.voice_in(self.drop(voice_tokens)))

    def joined(self, face: Tensor, face_mask: Tensor, voice: Tensor, voice_mask: Tensor) -> Tensor:
        """What projected tokens found in each other, ``[N, 4 d]``: the face's half, then the voice's."""
        asked_voice = self.to_voice(face, voice, voice_mask)
        asked_face = self.to_face(voice, face, face_mask)
        pooled = [self.face_joint(asked_voice, face_mask), self.voice_joint(asked_face, voice_mask)]
        return torch.cat(pooled, dim=1)
