"""The one answer for a clip, from the answers of its hops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeemo.recognition.emotion import Emotion
from edgeemo.recognition.health import in_order
from edgeemo.recognition.probabilities import log_probabilities, softmax

if TYPE_CHECKING:
    from edgeemo.inference.bundle import Bundle


class ClipAnswer:
    """Adds up the hops of a clip, in memory that does not grow with it.

    Up to one window the last hop has seen the whole clip and is the answer. Of a longer clip it is the mean
    of the log-probabilities of its hops, that is their normalised geometric mean. Of several faces the
    largest one of the first picture with a face is followed.

    Args:
        bundle: the bundle whose stream answers the hops.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._hops = 0
        self._followed: int | None = None
        self._last: Emotion | None = None
        self._fused = _Mean()
        self._alone = {modality: _Mean() for modality in bundle.modalities}
        self._affect = _Mean()
        self._used: set[str] = set()
        self._reasons: Counter[str] = Counter()

    def add(self, emotions: Sequence[Emotion]) -> None:
        """Take the Emotions of the next hop as a stream gives them: the largest face first, at first."""
        self._hops += 1
        if self._followed is None:
            self._followed = emotions[0].track
        chosen = next((emotion for emotion in emotions if emotion.track in (self._followed, None)), None)
        if chosen is None:  # the face that was followed has left, and only others are there
            return
        self._last = chosen
        self._reasons.update(chosen.reasons)
        if chosen.probabilities is None:
            return
        self._used.update(chosen.modalities)
        self._fused.add(log_probabilities(chosen.probabilities))
        for modality, probabilities in chosen.by_modality.items():
            self._alone[modality].add(log_probabilities(probabilities))
        if chosen.valence is not None and chosen.arousal is not None:
            self._affect.add(np.array([chosen.valence, chosen.arousal]))

    def result(self) -> Emotion:
        """The answer for what was added."""
        last = self._last
        if last is None:
            return Emotion(None, None, None, None, 0.0, "absent")
        if self._hops <= self._bundle.slots or self._fused.count == 0:
            return last
        labels = self._bundle.labels
        values = softmax(self._fused.value).tolist()
        confidence = max(values)
        sure = confidence >= self._bundle.thresholds.confidence
        valence, arousal = self._affect.value.tolist() if self._affect.count else (None, None)
        return Emotion(
            label=labels[values.index(confidence)] if sure else None,
            probabilities=dict(zip(labels, values, strict=True)),
            valence=valence,
            arousal=arousal,
            confidence=confidence,
            state="ok" if sure else "uncertain",
            reasons=self._common_reasons(sure),
            time=last.time,
            track=last.track,
            box=last.box,
            modalities=tuple(modality for modality in self._bundle.modalities if modality in self._used),
            by_modality={
                modality: dict(zip(labels, softmax(mean.value).tolist(), strict=True))
                for modality, mean in self._alone.items()
                if mean.count
            },
        )

    def _common_reasons(self, sure: bool) -> tuple[str, ...]:
        """What was missing or bad in at least half of the hops, and how sure the whole is."""
        common = [
            name
            for name, count in self._reasons.items()
            if 2 * count >= self._hops and name != "low confidence"
        ]
        return in_order((*common, *(() if sure else ("low confidence",))))


class _Mean:
    """A running mean of arrays of one shape."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: NDArray[np.float64] = np.zeros(())

    def add(self, values: NDArray[np.float64]) -> None:
        self.count += 1
        self._sum = self._sum + values

    @property
    def value(self) -> NDArray[np.float64]:
        return np.asarray(self._sum / self.count)
