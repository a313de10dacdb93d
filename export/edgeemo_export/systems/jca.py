"""Joint cross-attention of a face and a voice (JCA), for emotion, valence and arousal.

Praveen et al., "A Joint Cross-Attention Model for Audio-Visual Fusion in Dimensional Emotion Recognition"
(CVPR workshops, 2022, arXiv 2203.14779). What is said of it here is from its abstract, from its released
code, or (inferred) from both; its body was not at hand.

Published protocol (code): Aff-Wild2, a window of 256 pictures in L = 8 sub-sequences; I3D and a TCN on faces
of 224 pixels and a ResNet-18 on log-mel spectrograms, both frozen, 512 features each; one model for valence
and one for arousal; the target of a sub-sequence is the rating of its last picture; Adam at 1e-3, batch 96,
30 epochs, the rate times 0.8 every second epoch after the fifth; the best epoch by the validation set. Its
fusion has 181,889 parameters once its regressor is as wide as its features, 231,041 as released (counted).

Published numbers, CCC on Aff-Wild2, test (validation). Each is of one edition of its challenge, which has
splits of its own, so they cannot be compared with each other, nor with what is trained here on other data:

- JCA (abstract, third edition): valence .374 (.663), arousal .363 (.584); the challenge's own baseline .180
  (.310) and .170 (.170).
- Gated and recursive, GRJCA (abstract, arXiv 2503.12261; the eighth edition, inferred): valence .561 (.623),
  arousal .620 (.660).

JCA's validation figures are likely too high: the frozen voice encoder comes from a model trained on another
edition's splits (inferred); frames without a rating were scored, as zeros that were predicted right (code;
measured on a made series, a fifth of such frames turns a CCC of .443 into .545); and predictions were
smoothed by a centred filter, which reads up to 25 frames ahead (code).

Needs windows with tokens of both modalities, and either labels with published valence and arousal, or
ratings (`RatedWindows`), with which labels may be missing. For a modality that will be missing, windows in
which it is masked belong into the training.

Defects of the released code that are not repeated: its regressor is 640 wide for 256 features and crashes;
before that it read the visual features themselves, so the voice entered only through the attention to it;
the learning rate jumped tenfold when a second rule set it; a masked covariance was divided by the unmasked
number of frames; frames without a rating were scored, and smoothing looked ahead (above); its recursion was
never run, and its layers did not share their weights.

Decided here, where the code is silent or the task another one:

- A sub-sequence is the mean of those of its tokens that count, projected. One without any is zero, stays
  zero through every iteration and has no vote.
- The heads are affine, as published. So the mean over sub-sequences of what they say is what they say of the
  mean, which is how it is computed: of each modality over the sub-sequences where it is there. A head for
  the labels stands beside that for valence and arousal.
- Valence and arousal are held in [-1, 1] when they are answered, as the published evaluation does, and not in
  the loss: what is clipped has no gradient, and clipping never takes an answer further from a truth in that
  range. A tanh in their place was tried: while answers hardly vary yet, the CCC's gradient is steep, and it
  drove the tanh where it is flat, from where it did not come back.
- Causal: the equations mix all sub-sequences of a window, so what they say of an earlier one has read later
  ones, up to seven (inferred). Here a window says one thing, of the moment at which it ends. What is to be
  said at the end of an earlier sub-sequence is asked of the window that ended there (`JCA.trace`), as in a
  stream, where nothing later exists.
- The gate's form is inferred from the abstract: a softmax over versions of the same features, of what went
  into an attention and what came out, and then of the iterations.
- Plain cross-attention, ``joint=False``, differs in nothing but that each modality asks the other alone. What
  is asked is then half as wide, so the attention maps get more columns for as many parameters: with the
  defaults 60 instead of 32, and 8,704 parameters instead of 8,768 for each modality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo.errors import InputError

from ..alignment import CCC, Side
from .fusion import Fusion, Windows

DIMENSIONS = ("valence", "arousal")

Modality = tuple[Tensor, Tensor]
"""Sub-sequences of a modality ``[N, L, d]``, and where it is there ``[N, L]``."""


@dataclass(frozen=True)
class RatedWindows(Windows):
    """Windows whose valence and arousal somebody rated; a row of ``labels`` of zeros has no label.

    Attributes:
        ratings: valence and arousal on [-1, 1], ``[n, 2]`` when the window ends, or ``[n, L, 2]`` at the end
            of each of its sub-sequences; anything where there is no rating.
        rated: 1 where there is one, ``[n]`` or ``[n, L]``.
    """

    ratings: Tensor
    rated: Tensor


class SubSequences(nn.Module):
    """Consecutive tokens to sub-sequences: the mean of those that count, projected.

    Args:
        width: token width D.
        inner: width d of a sub-sequence.
        length: number L of sub-sequences.
        slots: number T of tokens, a multiple of ``length``.
    """

    def __init__(self, width: int, inner: int, length: int, slots: int) -> None:
        super().__init__()
        self.shape = (length, slots // length)
        self.project = nn.Linear(width, inner)

    def forward(self, tokens: Tensor, mask: Tensor) -> Modality:
        """Map ``[N, T, D]``, or ``[1, T, D]`` that all rows share, and ``[N, T]`` to sub-sequences."""
        counts = mask.unflatten(1, self.shape)
        shares = counts / counts.sum(2, keepdim=True).clamp(min=1.0)
        # A product of matrices takes the one row of a shared voice for all rows of the masks.
        means = (shares[:, :, None, :] @ tokens.unflatten(1, self.shape)).squeeze(2)
        there = counts.amax(2)
        return self.project(means) * there[..., None], there


class JointAttention(nn.Module):
    """Features of one modality attend to ``J``, the features of both, through time.

    ``C = tanh(X^T W_j J / sqrt(w))``, ``H = ReLU(C W_c + X^T W)``, ``X_att = (H W_h)^T + X``

    with ``X [L, d]``, ``J [L, w]``, ``W_j [L, L]``, ``W_c [w, k]``, ``W [L, k]`` and ``W_h [k, L]``; w = 2d
    where J is of both (Praveen et al., 2022). No softmax: feature relates to feature, and L is fixed.

    Args:
        length: number L of sub-sequences.
        asked: width w of what is asked.
        maps: number k of columns of an attention map.
    """

    def __init__(self, length: int, asked: int, maps: int) -> None:
        super().__init__()
        self.relate = nn.Linear(length, length, bias=False)  # W_j
        self.weigh = nn.Linear(asked, maps, bias=False)  # W_c
        self.keep = nn.Linear(length, maps, bias=False)  # W
        self.spread = nn.Linear(maps, length, bias=False)  # W_h

    def forward(self, x: Tensor, asked: Tensor) -> Tensor:
        """Map ``X [N, L, d]`` and ``J [N, L, w]`` to ``X_att [N, L, d]``."""
        turned = x.transpose(1, 2)
        related = torch.tanh(self.relate(turned) @ asked * asked.shape[2] ** -0.5)
        hidden = F.relu(self.weigh(related) + self.keep(turned))
        return self.spread(hidden).transpose(1, 2) + x


class Gate(nn.Module):
    """A mean of versions of the same features, weighed by a softmax that reads them all.

    Args:
        inner: width d of the features.
        versions: number V of versions.
    """

    def __init__(self, inner: int, versions: int) -> None:
        super().__init__()
        self.score = nn.Linear(versions * inner, versions)

    def forward(self, versions: Sequence[Tensor]) -> Tensor:
        """Map V tensors ``[N, L, d]`` to one."""
        weights = torch.softmax(self.score(torch.cat(list(versions), dim=2)), dim=2).split(1, dim=2)
        return sum((x * weight for x, weight in zip(versions, weights, strict=True)), torch.zeros(()))


class Branch(nn.Module):
    """One modality: its sub-sequences, its attention and its gates.

    Args:
        parts: makes its sub-sequences.
        attention: of this modality to what it asks.
        inner: width d of its features.
        recursion: how many times it attends.
        gated: whether it may keep what it had.
    """

    def __init__(
        self, parts: SubSequences, attention: JointAttention, inner: int, recursion: int, gated: bool
    ) -> None:
        super().__init__()
        self.parts, self.attention = parts, attention
        self.gate = Gate(inner, 2) if gated else None
        self.gate_iterations = Gate(inner, recursion) if gated and recursion > 1 else None

    def attend(self, x: Tensor, asked: Tensor, there: Tensor) -> Tensor:
        """One iteration: ``[N, L, d]`` to the same, zero where the modality is not there ``[N, L]``."""
        # What the others would write where it is missing is no evidence of it.
        attended = self.attention(x, asked) * there[..., None]
        return attended if self.gate is None else self.gate((x, attended))

    def outcome(self, iterations: Sequence[Tensor], there: Tensor) -> Tensor:
        """Mean over time ``[N, d]`` of the last iteration, or with a gate of what it takes of all.

        It is taken over where the modality is there ``[N, L]``, and zero where it never is.
        """
        x = iterations[-1] if self.gate_iterations is None else self.gate_iterations(iterations)
        return (x * there[..., None]).sum(1) / there.sum(1, keepdim=True).clamp(min=1.0)


class JCA(Fusion):
    """Tokens to emotion, valence and arousal by joint cross-attention.

    Args:
        width: token width D.
        labels: number of classes K.
        slots: number T of tokens of a window.
        length: number L of sub-sequences, a divisor of ``slots``.
        inner: width d of a sub-sequence.
        maps: number k of columns of an attention map.
        recursion: how many times the attention is applied, with the same weights (RJCA).
        gated: whether gates weigh features against attended ones, and iterations against each other (GRJCA).
        joint: whether each modality attends to both, or, for comparison, to the other alone.
        dropout: in the heads.
        norms: valence and arousal of each label on [-1, 1], ``[K, 2]``, which windows without ratings are
            trained on; None where nobody rated the labels.

    Raises:
        InputError: the sub-sequences do not divide the slots, there is no iteration, or the norms are not K.

    Example:
        >>> model = JCA(16, 7).eval()
        >>> tokens, mask = torch.ones(3, 40, 16), torch.ones(3, 40)
        >>> list(model(tokens, mask, tokens[:1], mask).shape)  # three faces share one voice
        [3, 7]
    """

    norms: Tensor | None

    def __init__(
        self,
        width: int,
        labels: int,
        slots: int = 40,
        *,
        length: int = 8,
        inner: int = 128,
        maps: int = 32,
        recursion: int = 1,
        gated: bool = False,
        joint: bool = True,
        dropout: float = 0.6,
        norms: Sequence[tuple[float, float]] | None = None,
    ) -> None:
        super().__init__()
        if length < 1 or slots < 1 or slots % length:
            raise InputError(f"length: {length} sub-sequences of {slots} slots; it should divide the slots")
        if recursion < 1:
            raise InputError(f"recursion: {recursion}; it should be 1 or more")
        if norms is not None and len(norms) != labels:
            raise InputError(f"norms: {len(norms)} for {labels} labels; there should be one for each")
        self.length, self.recursion, self.joint = length, recursion, joint
        asked = 2 * inner if joint else inner
        if not joint:  # as many parameters, up to the rounding
            maps = round(maps * (2 * inner + 2 * length) / (inner + 2 * length))

        def branch() -> Branch:
            parts = SubSequences(width, inner, length, slots)
            return Branch(parts, JointAttention(length, asked, maps), inner, recursion, gated)

        self.first, self.second = branch(), branch()
        self.emotion, self.ratings = _head(inner, labels, dropout), _head(inner, 2, dropout)
        self.ccc = CCC()
        self.register_buffer("norms", None if norms is None else torch.tensor(tuple(norms)), persistent=False)

    def forward(self, first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor) -> Tensor:
        """Logits ``[N, K]``, see [Fusion.forward][]."""
        return self.emotion(self._attended(*self._parted(first, first_mask, second, second_mask)))

    def affect(self, first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor) -> Tensor:
        """Valence and arousal ``[N, 2]`` on [-1, 1] at the end of each window."""
        return self._affect(*self._parted(first, first_mask, second, second_mask)).clamp(-1.0, 1.0)

    def trace(self, first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor) -> Tensor:
        """Valence and arousal ``[N, L, 2]`` at the end of each sub-sequence, from it and earlier ones.

        Each is `affect` of the window that ended there, in a stream that began where this window begins.
        """
        return self._trace(*self._parted(first, first_mask, second, second_mask)).clamp(-1.0, 1.0)

    def losses(self, windows: Windows) -> dict[str, Tensor]:
        """Cross-entropy of the labels, and one minus the CCC of valence and of arousal.

        Targets of the CCC are the ratings of `RatedWindows`, else the labels' norms. A row without a label, a
        moment without a rating and one before anything was seen or heard count in no mean and no moment.

        Raises:
            InputError: there are neither ratings nor norms.
        """
        parts = self._parted(windows.first, windows.first_mask, windows.second, windows.second_mask)
        attended = self._attended(*parts)
        labelled = (windows.labels.sum(1) > 0).float()
        each = F.cross_entropy(self.emotion(attended), windows.labels, label_smoothing=0.05, reduction="none")
        losses = {"emotion": (each * labelled).sum() / labelled.sum().clamp(min=1.0)}
        targets, counts = self._targets(windows, labelled)
        there = torch.maximum(parts[0][1], parts[1][1])
        if targets.ndim == 3:
            answers, counts = self._trace(*parts), counts * there.cummax(1).values
        else:
            answers, counts = self.ratings(attended), counts * there.amax(1)
        for place, name in enumerate(DIMENSIONS):
            said, true = (x[..., place].flatten()[:, None] for x in (answers, targets))
            losses[name] = self.ccc(Side(said, mask=counts.flatten()), Side(true))
        return losses

    def _targets(self, windows: Windows, labelled: Tensor) -> tuple[Tensor, Tensor]:
        """Valence and arousal to be said, and where they count."""
        if isinstance(windows, RatedWindows):
            return windows.ratings, windows.rated
        if self.norms is None:
            raise InputError("norms: None, and the windows have no ratings; training needs one or the other")
        return windows.labels @ self.norms, labelled

    def _parted(
        self, first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor
    ) -> tuple[Modality, Modality]:
        return self.first.parts(first, first_mask), self.second.parts(second, second_mask)

    def _attended(self, first: Modality, second: Modality) -> Tensor:
        """What both modalities come to, ``[N, 2d]``."""
        (x, there_x), (y, there_y) = first, second
        xs: list[Tensor] = []
        ys: list[Tensor] = []
        for _ in range(self.recursion):
            both = torch.cat([x, y], dim=2)
            asked_by_x, asked_by_y = (both, both) if self.joint else (y, x)
            x, y = self.first.attend(x, asked_by_x, there_x), self.second.attend(y, asked_by_y, there_y)
            xs.append(x)
            ys.append(y)
        return torch.cat([self.first.outcome(xs, there_x), self.second.outcome(ys, there_y)], dim=1)

    def _affect(self, first: Modality, second: Modality) -> Tensor:
        return self.ratings(self._attended(first, second))

    def _trace(self, first: Modality, second: Modality) -> Tensor:
        later = range(self.length - 1, -1, -1)
        return torch.stack([self._affect(_ended(first, n), _ended(second, n)) for n in later], dim=1)


def _head(inner: int, answers: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2 * inner, 128), nn.Dropout(dropout), nn.Linear(128, answers))


def _ended(modality: Modality, later: int) -> Modality:
    """The window that ended ``later`` sub-sequences earlier, where nothing was before the first."""
    x, there = modality
    kept = x.shape[1] - later
    return F.pad(x[:, :kept], (0, 0, later, 0)), F.pad(there[:, :kept], (later, 0))


def causal_mean(values: Tensor, length: int) -> Tensor:
    """The mean at each time of the last ``length`` values up to it, for smoothing as a stream can.

    Args:
        values: of one recording, ``[T]`` or ``[T, d]``; the first ones are means of fewer.
        length: 1 or more.

    Raises:
        InputError: the length is less.

    Example:
        >>> causal_mean(torch.tensor([1.0, 3.0, 5.0, 7.0]), 2)
        tensor([1., 2., 4., 6.])
    """
    if length < 1:
        raise InputError(f"length: {length}; it should be 1 or more")
    sums = values.double().cumsum(0)
    before = torch.cat([torch.zeros_like(sums[:length]), sums[:-length]])
    counts = torch.arange(1, len(values) + 1, device=values.device).clamp(max=length)
    return ((sums - before) / counts.reshape(-1, *[1] * (values.ndim - 1))).to(values.dtype)


@torch.no_grad()
def agreement(predicted: Tensor, truth: Tensor, valid: Tensor) -> dict[str, float]:
    """CCC of valence and of arousal over the frames that have a rating, and over no others.

    Args:
        predicted: valence and arousal ``[n, 2]`` of the frames of all recordings.
        truth: their ratings ``[n, 2]``; anything where there is none.
        valid: 1 where there is one, ``[n]``.

    Returns:
        ``ccc_valence`` and ``ccc_arousal``, each on [-1, 1]; NaN where the ratings do not vary.

    Example:
        >>> truth = torch.tensor([[0.5, 0.2], [-0.5, 0.4], [-5.0, -5.0]])
        >>> agreement(truth.clamp(min=-1.0), truth, torch.tensor([1, 1, 0]))
        {'ccc_valence': 1.0, 'ccc_arousal': 1.0}
    """
    found = {}
    for place, name in enumerate(DIMENSIONS):
        said, true = predicted[valid != 0, place, None], truth[valid != 0, place, None]
        varies = len(true) > 0 and bool(true.max() > true.min())
        found[f"ccc_{name}"] = 1.0 - CCC()(Side(said), Side(true)).item() if varies else float("nan")
    return found
