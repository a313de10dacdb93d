"""What is answered for one face, or for one voice without a face, at one time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_UNITS = 10_000  # probabilities are printed with four decimals


@dataclass(frozen=True, slots=True)
class Emotion:
    """One answer.

    Attributes:
        label: the emotion, one of the model's labels, or None when `state` is not 'ok'.
        probabilities: calibrated probability of every label, in the model's order, summing to 1; None when
            absent.
        valence: unpleasant to pleasant, [-1, 1], or None.
        arousal: calm to excited, [-1, 1], or None.
        confidence: the top probability, [0, 1]; 0 when absent.
        state: 'ok', 'uncertain' (the confidence is below the model's threshold) or 'absent' (nothing to judge
            by).
        reasons: what was missing or bad, e.g. ('no face', 'silence'); also when the state is 'ok'.
        time: end of the hop, in seconds on the source's clock.
        track: the face, an id that stays the same from hop to hop, or None.
        box: x, y, width and height of the face in pixels, or None.
        modalities: what was used, e.g. ('face', 'voice').
        by_modality: the probabilities that each used modality alone gives, where the model has them.

    Example:
        >>> values = {"fear": 0.8, "neutral": 0.2}
        >>> print(Emotion("fear", values, None, None, 0.8, "ok", time=1.5, modalities=("voice",)))
        1.5 s: fear 0.80 by voice
    """

    label: str | None
    probabilities: Mapping[str, float] | None
    valence: float | None
    arousal: float | None
    confidence: float
    state: str
    reasons: tuple[str, ...] = ()
    time: float = 0.0
    track: int | None = None
    box: tuple[int, int, int, int] | None = None
    modalities: tuple[str, ...] = ()
    by_modality: Mapping[str, Mapping[str, float]] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON holds it: probabilities with four decimals that sum to 1, the time with three.

        Example:
            >>> third = {"fear": 1 / 3, "anger": 1 / 3, "neutral": 1 / 3}
            >>> Emotion(None, third, None, None, 1 / 3, "uncertain").to_dict()["probabilities"]
            {'fear': 0.3334, 'anger': 0.3333, 'neutral': 0.3333}
        """
        probabilities = None if self.probabilities is None else _printed(self.probabilities)
        return {
            "label": self.label,
            "probabilities": probabilities,
            "valence": None if self.valence is None else round(self.valence, 4),
            "arousal": None if self.arousal is None else round(self.arousal, 4),
            # The confidence is one of the probabilities, and stays so when these are printed.
            "confidence": max(probabilities.values()) if probabilities else 0.0,
            "state": self.state,
            "reasons": list(self.reasons),
            "time": round(self.time, 3),
            "track": self.track,
            "box": None if self.box is None else list(self.box),
            "modalities": list(self.modalities),
        }

    def __str__(self) -> str:
        face = "" if self.track is None else f" face {self.track}:"
        sure = "" if self.state == "absent" else f" {self.confidence:.2f}"
        used = f" by {' and '.join(self.modalities)}" if self.modalities else ""
        reasons = f" ({', '.join(self.reasons)})" if self.reasons else ""
        return f"{self.time:.1f} s:{face} {self.label or self.state}{sure}{used}{reasons}"


def _printed(probabilities: Mapping[str, float]) -> dict[str, float]:
    """Four decimals each; what rounding down leaves goes to the largest remainders, so the sum stays 1."""
    units = {label: int(value * _UNITS) for label, value in probabilities.items()}
    order = sorted(probabilities, key=lambda label: units[label] - probabilities[label] * _UNITS)
    for label in order[: _UNITS - sum(units.values())]:
        units[label] += 1
    return {label: count / _UNITS for label, count in units.items()}
