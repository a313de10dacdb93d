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
    largest one of the first picture with a face is followed. When it has left, it may have been found again
    under a new id: a face that was never seen beside it is taken for it.

    Args:
        bundle: the bundle whose stream answers the hops.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._hops = 0
        self._followed: int | None = None
        self._others: set[int] = set()  # those in the last hop that are known to be somebody else
        self._last: Emotion | None = None
        self._fused = _Mean()
        self._alone = {modality: _Mean() for modality in bundle.modalities}
        self._affect = _Mean()
        self._used: set[str] = set()
        self._reasons: Counter[str] = Counter()

    def add(self, emotions: Sequence[Emotion]) -> None:
        """Take the Emotions of the next hop as a stream gives them: the largest face first, at first."""
        self._hops += 1
        chosen = self._choose(emotions)
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

    def _choose(self, emotions: Sequence[Emotion]) -> Emotion | None:
        """The answer for the face that is followed, or the one without a face."""
        chosen = next((emotion for emotion in emotions if emotion.track in (self._followed, None)), None)
        if chosen is None:
            chosen = next((emotion for emotion in emotions if emotion.track not in self._others), None)
        tracks = {emotion.track for emotion in emotions if emotion.track is not None}
        if chosen is None or chosen.track is None:
            self._others &= tracks  # an id that is gone is not used again
            return chosen
        self._followed = chosen.track
        # Beside a face that is out of view there may be the same one under its new id.
        in_view = "no face" not in chosen.reasons
        self._others = (tracks if in_view else self._others & tracks) - {self._followed}
        return chosen

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
