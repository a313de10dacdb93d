"""FDAN: one image backbone for faces and mel pictures, cross-attention, LMMD between the two.

The feature distribution adaptation network (Li, Ji, Song, Sun, Zheng; arXiv 2410.22023) as far as its
abstract and the code its authors released tell; the paper's body was not at hand, and no number of it is
claimed here. [CODE] was read in that code or in that of DeepDA, which it derives from, [IMG] in the
authors' pictures of their tables, [INF] is inferred, [UNK] unknown.

**Published.** One ResNet-34 of ImageNet reads pictures of faces and pictures of mel spectrograms, one
bottleneck ``Linear(512, 256) + ReLU`` and one classifier follow; one layer of cross-attention of two heads,
inner width 64 [CODE]. The loss is ``CE_s + CE_t + w LMMD`` with true labels on both sides: the features of
a class are to lie in one place, whether seen or heard. Batches of the two are drawn apart; one picture is
answered, without the attention [CODE]. SGD of rate 1e-3, momentum 0.9, weight decay 5e-4, a tenth of the
rate on the backbone, ``1e-3 (1 + 3e-4 t)^-0.75`` at step t, batch 32, 2,000 steps; w defaults to 10, which
suits MMD, while DeepDA sets 0.5 for LMMD, and the ramp of w is ``2 / (1 + exp(-p)) - 1``, which ends at
0.462, where DSAN's, with ``-10 p``, ends at 1 [CODE]. WAR and UAR of 81.16 and 75.91 on MELD and of 86.66
and 86.19 on SAVEE [IMG], the best epoch by the set that is reported [CODE]. Mel parameters, the face
detector, pictures of an utterance, classes and splits are [UNK].

**Defects of the released code that are not here** [CODE]. Its attention runs along the batch, so that a
batch's first sample takes all others for its context, and an answer depends on who else was asked: here it
runs over the tokens of one utterance. Its attention is in no group of the optimiser: here `train.fit`
refuses a loss that trains what nobody optimises. Its epoch is chosen on the test set: here none is chosen,
and settings are tuned on development speakers. Its mel pictures are flipped and cropped like photographs,
so time runs backwards: here only faces are mirrored. Labels enter the loss alone; an answer needs none.

**Decided here.** A modality's class token is an attention-weighted mean of its tokens, for a token is one
picture or one second. What is answered by both is the mean of the logits that the one classifier gives to
the two attended class tokens, and by one, as published, its class token without attention. LMMD compares
class tokens before the attention: behind it each side has looked at the other, and nothing need be alike
for it to be small. Its ramp is DSAN's, but its weight a tenth of theirs: the estimate is never negative,
and of five samples of a class, as a batch has, largely chance, which only shrinking a class to a point
would lower; a net that starts from random weights did so at 0.5, and told single pictures apart no more.
AdamW with a half cosine takes the place of SGD, and norms stand around the bottleneck, since the small net
starts from nothing. A face and a voice of one class are of two people: this is transfer between corpora,
not between two sensors on one person.

**Needs** pictures with labels and utterances with labels, in no pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..alignment import LMMD, Side, ramp
from ..encoders.resnet import Backbone
from .attention import MASKED, FacePool
from .fusion import Fusion, Windows


class ClassAttention(nn.Module):
    """The class token of one modality asks the tokens of the other (Chen et al., 2021, CrossViT).

    ``q = f(c)``, ``o = q + MHA(LN(q), LN([q; X]), LN([q; X]))``, ``c' = g(o)``, over the tokens X of the same
    window. f and g start as identities and the attention's part small, so that the classifier knows c' from
    the first step.

    Args:
        width: of the tokens.
        heads: a divisor of ``inner``.
        inner: width of queries, keys and values.
    """

    def __init__(self, width: int, heads: int = 2, inner: int = 64) -> None:
        super().__init__()
        self.heads = heads
        self.enter, self.leave = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.out = nn.Linear(inner, width)
        for identity in (self.enter, self.leave):
            nn.init.eye_(identity.weight)
            nn.init.zeros_(identity.bias)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)

    def forward(self, asking: Tensor, asked: Tensor, mask: Tensor) -> Tensor:
        """Attend.

        Args:
            asking: class tokens ``[N, D]``.
            asked: tokens of the other modality, ``[N, T, D]`` or, where all rows share them, ``[1, T, D]``.
            mask: 1 where one of these counts, ``[N, T]``.

        Returns:
            ``[N, D]``.
        """
        q = self.enter(asking)[:, None]
        own, others = self.norm(q), self.norm(asked)
        query = self._split(self.query(own)) * (self.query.out_features // self.heads) ** -0.5
        # The class token's part stands apart, so that tokens which all rows share stay one row.
        to_own = (query * self._split(self.key(own))).sum(dim=3, keepdim=True)
        to_others = (
            query @ self._split(self.key(others)).transpose(2, 3) + (mask[:, None, None, :] - 1.0) * MASKED
        )
        weights = torch.softmax(torch.cat([to_own, to_others], dim=3), dim=3)
        mixed = weights[..., :1] * self._split(self.value(own))
        mixed = mixed + weights[..., 1:] @ self._split(self.value(others))
        return self.leave(q + self.out(mixed.transpose(1, 2).flatten(2)))[:, 0]

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class FDAN(Fusion):
    """The fusion of FDAN, over tokens of a backbone that both modalities share.

    Args:
        width: of the tokens.
        labels: number of classes K.
        weight: of LMMD; 0 leaves it out.
        heads: of the attention.
        inner: width of the attention.
    """

    def __init__(
        self, width: int, labels: int, *, weight: float = 0.05, heads: int = 2, inner: int = 64
    ) -> None:
        super().__init__()
        self.weight, self.faded = weight, 1.0
        self.first_pool, self.second_pool = FacePool(width), FacePool(width)
        self.to_second, self.to_first = (ClassAttention(width, heads, inner) for _ in range(2))
        self.drop = nn.Dropout(0.2)
        self.classifier = nn.Linear(width, labels)
        self.lmmd = LMMD()

    def advance(self, progress: float) -> None:
        """Fade LMMD in: ``progress`` is the share of the training that is done, in [0, 1]."""
        self.faded = ramp(progress)

    def class_tokens(
        self, first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The class token ``[N, D]`` of each modality, zero where it is missing."""
        return self.first_pool(first, first_mask), self.second_pool(second, second_mask)

    def forward(self, first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor) -> Tensor:
        """Logits ``[N, K]`` of what the masks leave: of both, of one as it is, or zeros."""
        return self._answer(first, first_mask, second, second_mask)[0]

    def losses(self, windows: Windows) -> dict[str, Tensor]:
        """Cross-entropy of the answer by both and of those by each alone, and LMMD.

        A window without one of the modalities counts for the other alone.
        """
        masks = windows.first_mask, windows.second_mask
        logits, classes = self._answer(windows.first, masks[0], windows.second, masks[1])
        here = [mask.amax(1) for mask in masks]
        alone = [
            (there * self.cross_entropy(self.classify(tokens), windows.labels)).mean()
            for tokens, there in zip(classes, here, strict=True)
        ]
        parts = {
            "emotion": self.cross_entropy(logits, windows.labels).mean(),
            "alone": 0.5 * torch.stack(alone).sum(),
        }
        if self.weight:
            sides = [Side(tokens, windows.labels, there) for tokens, there in zip(classes, here, strict=True)]
            parts["lmmd"] = self.weight * self.faded * self.lmmd(*sides)
        return parts

    def classify(self, tokens: Tensor) -> Tensor:
        """Map tokens ``[..., D]`` of either modality to logits ``[..., K]``."""
        logits: Tensor = self.classifier(self.drop(tokens))
        return logits

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of each row, ``[N]``, with a little of each target spread over all labels."""
        return F.cross_entropy(logits, labels, label_smoothing=0.05, reduction="none")

    def _answer(
        self, first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Logits, and the class tokens before the attention."""
        classes = self.class_tokens(first, first_mask, second, second_mask)
        has_first, has_second = first_mask.amax(1, keepdim=True), second_mask.amax(1, keepdim=True)
        both = has_first * has_second
        asked_second = self.to_second(classes[0], second, second_mask)
        asked_first = self.to_first(classes[1], first, first_mask)
        one = both * asked_second + (1.0 - both) * classes[0]
        other = both * asked_first + (1.0 - both) * classes[1]
        logits = has_first * self.classify(one) + has_second * self.classify(other)
        return logits / (has_first + has_second).clamp(min=1.0), classes


class Network(nn.Module):
    """What is trained: the shared backbone and the fusion over its tokens.

    Args:
        backbone: see `Backbone`.
        fusion: of tokens as wide as the backbone's.
    """

    def __init__(self, backbone: Backbone, fusion: FDAN) -> None:
        super().__init__()
        self.backbone, self.fusion = backbone, fusion

    def forward(self, pictures: Tensor) -> Tensor:
        """Classify pictures ``[N, 1 or 3, size, size]`` of either modality alone: logits ``[N, K]``."""
        return self.fusion.classify(self.backbone.tokens(pictures))
