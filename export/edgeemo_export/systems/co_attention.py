"""Co-attention of voice and text: early fusion, late fusion and several granularities.

The system of Zhao, Wang and Wang, "Multi-level fusion of wav2vec 2.0 and BERT for multimodal emotion
recognition" (Interspeech 2022, arXiv 2207.04697).

What its abstract tells, and is here: pretrained encoders of speech and of text; early fusion by co-attention,
where each modality is represented by what it finds in the other; late fusion with models of each; and speech
as frames and as segments of phones, syllables and words. As formulas, for speech ``S [T, d]`` and text
``T [L, d]``:

``S' = LN(S + MHA(S, T, T)),  S'' = LN(S' + FFN(S'))``, and for the text the same with the roles exchanged.
Both are pooled over what counts, put side by side and classified (early fusion). The mean of the frames of a
segment ``[b_k, e_k)`` is ``s_k = mean_t h_t``, and each granularity has such a branch of its own. Late fusion
adds the log-probabilities of the voice alone, of the text alone and of each branch, with weights that sum to
one.

Published protocol and numbers: IEMOCAP, unweighted accuracy (UA); the abstract claims 1.3 % of UA over the
best of its baselines, and no more is known here. Nothing of it is reproduced: IEMOCAP needs a licence,
and the absolute figures, the sizes of the encoders, which of their layers are read, whether they are tuned,
the aligner, the cross-validation and the optimiser were not to be found.

Decided here:

- Widths: both sequences are projected to ``inner``. The mean over a segment and that projection can be
  exchanged, so frames are projected once for all branches. Pooling is attentive: mean and deviation.
- Late fusion: each term is trained by its own cross-entropy, as a model of its own would be, and the weights
  by that of the sum, which leaves the terms alone. Where a modality is missing, its terms take no part and
  the weights of the others are scaled to sum to one, so what the voice says alone is the voice's term.
- Segments: at run time nobody aligns, so the graph has segments of a fixed stride (`STRIDES`). In training
  they come from word timings where there are any (`edgeemo_export.data.timings`).

Avoided: the benchmark's usual leakage. Its scripted sentences come back in every session, so a text model
that knows the script is right about speakers whom it never heard. Splits of this project are by speaker, and
its control is a corpus in which each sentence is said in every emotion, where text must add nothing.

Data needs: utterances with what is said, and emotion labels; word or phone timings are optional.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders.text import FeedForward, TextEncoder, counting
from ..encoders.voice import AttentivePool
from .attention import CrossAttention
from .fusion import Fusion, Windows

STRIDES = {"frame": 1, "phone": 1, "syllable": 2, "word": 4}
"""Slots of 0.1 s of a segment without timings.

Read speech has about 12 phones, 5 syllables and 3 words a second. A phone is shorter than a slot, so without
timings the phone branch is a second frame branch.
"""

SMOOTHING = 0.05


@dataclass(frozen=True)
class Segmented(Windows):
    """Windows of voice and text with segments of known times.

    Attributes:
        segments: by granularity ``[n, K, T]``, each row the shares of the slots in the mean over a segment
            and zero where there are fewer than K; a granularity that is missing has fixed strides.
    """

    segments: Mapping[str, Tensor]


class CoAttentionBranch(nn.Module):
    """Early fusion at one granularity: each sequence asks the other, is pooled, and both are classified.

    Args:
        width: of both sequences.
        labels: number of classes K.
        heads: of the attention, a divisor of ``width``.
    """

    def __init__(self, width: int, labels: int, heads: int) -> None:
        super().__init__()
        self.to_text, self.to_voice = CrossAttention(width, heads), CrossAttention(width, heads)
        self.voice_thinks, self.text_thinks = FeedForward(width), FeedForward(width)
        self.voice_pool, self.text_pool = AttentivePool(width), AttentivePool(width)
        self.classify = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(4 * width, width), nn.ReLU(), nn.Linear(width, labels)
        )

    def forward(self, voice: Tensor, voice_mask: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """Map ``[N or 1, K, width]``, ``[N, K]``, ``[N or 1, L, width]``, ``[N, L]`` to logits ``[N, K]``."""
        spoken = self.voice_thinks(self.to_text(voice, text, text_mask))
        said = self.text_thinks(self.to_voice(text, voice, voice_mask))
        pooled = [self.voice_pool(spoken, voice_mask), self.text_pool(said, text_mask)]
        logits: Tensor = self.classify(torch.cat(pooled, dim=1))
        return logits


class CoAttention(Fusion):
    """Voice tokens (first) and text tokens (second) to emotion.

    Args:
        voice_width: width of a voice token.
        text_width: width of a text token.
        labels: number of classes K.
        slots: voice tokens of a window, T.
        granularities: which branches there are, of `STRIDES`.
        inner: width of the co-attention.
        heads: of the co-attention, a divisor of ``inner``.

    Raises:
        ValueError: there is no granularity, or an unknown one.
    """

    def __init__(
        self,
        voice_width: int,
        text_width: int,
        labels: int,
        slots: int = 40,
        *,
        granularities: Sequence[str] = tuple(STRIDES),
        inner: int = 64,
        heads: int = 4,
    ) -> None:
        super().__init__()
        if not granularities or not STRIDES.keys() >= set(granularities):
            raise ValueError(
                f"granularities are {', '.join(granularities) or 'none'}; they must be some of "
                f"{', '.join(STRIDES)}"
            )
        self.voice_pool, self.voice_head = AttentivePool(voice_width), nn.Linear(2 * voice_width, labels)
        self.text_pool, self.text_head = AttentivePool(text_width), nn.Linear(2 * text_width, labels)
        self.voice_in, self.text_in = nn.Linear(voice_width, inner), nn.Linear(text_width, inner)
        self.drop = nn.Dropout(0.2)
        self.branches = nn.ModuleDict(
            {name: CoAttentionBranch(inner, labels, heads) for name in granularities}
        )
        for name in granularities:
            self.register_buffer(f"{name}_strides", strides(slots, STRIDES[name])[None], persistent=False)
        self.measures = nn.Parameter(torch.zeros(2 + len(granularities)))

    @property
    def weights(self) -> Tensor:
        """Weights of the late fusion, which sum to one: of the voice, of the text, of each branch."""
        return torch.softmax(self.measures, dim=0)

    def forward(
        self,
        first: Tensor,
        first_mask: Tensor,
        second: Tensor,
        second_mask: Tensor,
        segments: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Log-probabilities of windows.

        Args:
            first: voice tokens ``[N or 1, T, voice_width]``.
            first_mask: ``[N, T]``.
            second: text tokens ``[N or 1, L, text_width]``.
            second_mask: ``[N, L]``.
            segments: see [Segmented][].

        Returns:
            ``[N, K]``, before temperature; zero where both masks are.
        """
        terms = self.terms(first, first_mask, second, second_mask, segments)
        return self.late(terms, first_mask, second_mask)

    def each(
        self, first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities ``[N, K]`` of what is there together, of the voice alone and of the text alone.

        They are those of `forward` with nothing, the text or the voice masked away, of one pass. A modality
        that is not there says zero.
        """
        terms = self.terms(first, first_mask, second, second_mask)
        voice, text, _ = _there(first_mask, second_mask)
        return self.late(terms, first_mask, second_mask), terms[0] * voice, terms[1] * text

    def terms(
        self,
        first: Tensor,
        first_mask: Tensor,
        second: Tensor,
        second_mask: Tensor,
        segments: Mapping[str, Tensor] | None = None,
    ) -> list[Tensor]:
        """Log-probabilities ``[N, K]`` of the voice alone, of the text alone, and of each branch.

        The arguments are those of `forward`. A term whose modality is masked away means nothing.
        """
        alone = [
            self.voice_head(self.drop(self.voice_pool(first, first_mask))),
            self.text_head(self.drop(self.text_pool(second, second_mask))),
        ]
        voice, text = self.voice_in(self.drop(first)), self.text_in(self.drop(second))
        early = []
        for name, branch in self.branches.items():
            spoken, mask = voice, first_mask
            if name != "frame":
                matrix = (segments or {}).get(name, self.get_buffer(f"{name}_strides"))
                spoken, mask = segment_means(voice, first_mask, matrix)
            early.append(branch(spoken, mask, text, second_mask))
        return [torch.log_softmax(logits, dim=1) for logits in (*alone, *early)]

    def late(self, terms: Sequence[Tensor], first_mask: Tensor, second_mask: Tensor) -> Tensor:
        """The weighted sum of those of the `terms` whose modalities are there, ``[N, K]``."""
        there = _there(first_mask, second_mask)
        weights = [weight * present for weight, present in self._weighted(there)]
        total = torch.stack([weight * term for weight, term in zip(weights, terms, strict=True)]).sum(dim=0)
        # A floor below any weight: where nothing is there, the answer is zero and not a division by it.
        return total / torch.stack(weights).sum(dim=0).clamp(min=1e-6)

    def losses(self, windows: Windows) -> dict[str, Tensor]:
        """Cross-entropies of the late fusion, of the voice alone, of the text alone and of the early fusion.

        Each term is trained as if it were a system of its own, on the windows that have its modalities; the
        first of the four trains the weights alone.
        """
        segments = windows.segments if isinstance(windows, Segmented) else None
        masks = windows.first_mask, windows.second_mask
        terms = self.terms(windows.first, masks[0], windows.second, masks[1], segments)
        fused = self.late([term.detach() for term in terms], *masks)
        has_voice, has_text, has_both = _there(*masks)
        early = [_cross_entropy(term, windows.labels, has_both) for term in terms[2:]]
        return {
            "emotion": _cross_entropy(fused, windows.labels, (has_voice + has_text).clamp(max=1.0)),
            "voice": _cross_entropy(terms[0], windows.labels, has_voice),
            "text": _cross_entropy(terms[1], windows.labels, has_text),
            "early": torch.stack(early).mean(),
        }

    def _weighted(self, there: tuple[Tensor, Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Each weight, with where its term counts ``[N, 1]``."""
        voice, text, both = there
        return list(zip(self.weights, (voice, text, *[both] * len(self.branches)), strict=True))


class VoiceAndText(nn.Module):
    """A text encoder and the fusion that reads it, trained together over a frozen voice encoder.

    Args:
        text: the text encoder.
        fusion: reads its tokens as the second modality.
    """

    def __init__(self, text: TextEncoder, fusion: CoAttention) -> None:
        super().__init__()
        self.text, self.fusion = text, fusion

    def forward(self, voice: Tensor, voice_mask: Tensor, ids: Tensor) -> Tensor:
        """Map voice tokens ``[N, T, D]``, mask ``[N, T]`` and ids ``[N, L]`` to logits ``[N, K]``."""
        return self.fusion(voice, voice_mask, self.text.encode(ids), counting(ids))

    def losses(
        self, voice: Tensor, voice_mask: Tensor, ids: Tensor, labels: Tensor, segments: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The fusion's losses on windows of which the text is given as ids ``[N, L]``."""
        text = self.text.encode(ids)
        return self.fusion.losses(Segmented(voice, voice_mask, text, counting(ids), labels, segments))


def strides(slots: int, stride: int) -> Tensor:
    """Segments of a fixed stride, counted from the newest slot: ``[K, slots]``.

    Example:
        >>> strides(3, 2)
        tensor([[1.0000, 0.0000, 0.0000],
                [0.0000, 0.5000, 0.5000]])
    """
    count = -(-slots // stride)
    owner = count - 1 - (slots - 1 - torch.arange(slots)) // stride
    matrix = F.one_hot(owner, count).T.float()
    return matrix / matrix.sum(dim=1, keepdim=True)


def segment_means(x: Tensor, mask: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
    """Means over segments, of the slots that count.

    Args:
        x: ``[N or 1, T, d]``.
        mask: ``[N, T]``, 1 where a slot counts.
        segments: ``[N or 1, K, T]``, the share of each slot in a segment, not negative.

    Returns:
        Means ``[N, K, d]``, and ``[N, K]``, 1 where a segment has a slot that counts; elsewhere its mean is
        zero.

    Example:
        >>> x = torch.tensor([[[1.0], [3.0], [5.0], [9.0]]])
        >>> means, mask = segment_means(x, torch.tensor([[1.0, 1.0, 1.0, 0.0]]), strides(4, 2)[None])
        >>> means[..., 0], mask
        (tensor([[2., 5.]]), tensor([[1., 1.]]))
    """
    shares = segments * mask[:, None, :]
    total = shares.sum(dim=2)
    # Less than a ten-thousandth of a slot is no segment; the step of a comparison would be a boolean.
    counts = (total * 1e4).clamp(max=1.0).floor()
    return (shares / total.clamp(min=1e-4)[..., None]) @ x * counts[..., None], counts


def _there(first_mask: Tensor, second_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows have a voice, a text, and both, ``[N, 1]`` each."""
    voice, text = first_mask.amax(1, keepdim=True), second_mask.amax(1, keepdim=True)
    return voice, text, voice * text


def _cross_entropy(logits: Tensor, labels: Tensor, there: Tensor) -> Tensor:
    """The mean over the rows that are there, zero without any."""
    each = F.cross_entropy(logits, labels, label_smoothing=SMOOTHING, reduction="none")
    return (each * there[:, 0]).sum() / there.sum().clamp(min=1.0)
