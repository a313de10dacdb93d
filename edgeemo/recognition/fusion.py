"""What the fusion graph answers for every face, and for what is said, in one hop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeemo.errors import BackendError
from edgeemo.recognition.emotion import Emotion
from edgeemo.recognition.health import in_order
from edgeemo.recognition.probabilities import softmax

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeemo.inference.bundle import Bundle
    from edgeemo.inference.graph import Graph
    from edgeemo.recognition.ring import TokenRing
    from edgeemo.recognition.tracks import Track


class Fusion:
    """One call per hop for all faces; without a face one row for the voice and the text.

    Args:
        bundle: the bundle.
        graph: its fusion graph.
        rings: the tokens of each modality of the bundle; the graph reads them where they lie.
    """

    def __init__(self, bundle: Bundle, graph: Graph, rings: Mapping[str, TokenRing]) -> None:
        self._labels = bundle.labels
        self._threshold = bundle.thresholds.confidence
        self._graph = graph
        self._rings = rings
        rows = max(ring.mask.shape[0] for ring in rings.values())
        # Voice and text count for one row; the graph reads a mask of each for every row.
        self._masks: dict[str, NDArray[np.float32]] = {
            name: np.zeros((rows, bundle.slots), np.float32) for name in rings if name != "face"
        }

    def answer(
        self, time: float, tracks: Sequence[Track], owner: int, reasons: Sequence[tuple[str, ...]]
    ) -> list[Emotion]:
        """One Emotion per track, the owner of what is said first; without tracks one that names no track.

        Args:
            time: end of the hop.
            tracks: row i of the face ring is track i.
            owner: the row that voice and text count for, 0 without tracks.
            reasons: what was missing or bad, per row.

        Raises:
            BackendError: the graph failed, or answered what is not finite.
        """
        count = max(len(tracks), 1)
        feeds = self._feeds(count, owner)
        used = self._used(feeds, count)
        outputs = self._run(feeds, count) if any(used) else {}
        order = [owner, *(row for row in range(count) if row != owner)]
        return [
            self._emotion(time, tracks[row] if tracks else None, row, used[row], reasons[row], outputs)
            for row in order
        ]

    def _feeds(self, count: int, owner: int) -> dict[str, NDArray[np.float32]]:
        feeds = {}
        for modality, ring in self._rings.items():
            mask = self._masks.get(modality)
            if mask is not None:
                mask[:count] = 0.0
                mask[owner] = ring.mask[0]
                feeds[f"{modality}_tokens"], feeds[f"{modality}_mask"] = ring.tokens, mask[:count]
            else:
                feeds[f"{modality}_tokens"] = ring.tokens[:count]
                feeds[f"{modality}_mask"] = ring.mask[:count]
        return feeds

    def _used(self, feeds: Mapping[str, NDArray[np.float32]], count: int) -> list[tuple[str, ...]]:
        """Of each row the modalities with a token in the window."""
        valid = [(name, feeds[f"{name}_mask"].max(axis=1).tolist()) for name in self._rings]
        return [tuple(modality for modality, rows in valid if rows[row]) for row in range(count)]

    def _run(self, feeds: Mapping[str, NDArray[np.float32]], count: int) -> dict[str, list[list[float]]]:
        """Probabilities under the names 'logits' and '<modality>_logits', and valence and arousal."""
        raw = self._graph.run(feeds)
        names = [name for name in raw if name.endswith("logits")]
        logits = np.concatenate([raw[name] for name in names])
        if not np.isfinite(logits).all():
            raise _not_finite("logits")
        rows = softmax(logits).tolist()
        outputs = {name: rows[i * count : (i + 1) * count] for i, name in enumerate(names)}
        if "valence_arousal" in raw:
            affect = raw["valence_arousal"]
            if not np.isfinite(affect).all():
                raise _not_finite("valence and arousal")
            outputs["valence_arousal"] = np.clip(affect, -1.0, 1.0).tolist()
        return outputs

    def _emotion(
        self,
        time: float,
        track: Track | None,
        row: int,
        used: tuple[str, ...],
        reasons: tuple[str, ...],
        outputs: Mapping[str, list[list[float]]],
    ) -> Emotion:
        face = None if track is None else track.id
        box = None if track is None else track.box
        if not used:
            return Emotion(None, None, None, None, 0.0, "absent", in_order(reasons), time, face, box)
        values = outputs["logits"][row]
        confidence = max(values)
        sure = confidence >= self._threshold
        valence, arousal = outputs["valence_arousal"][row] if "valence_arousal" in outputs else (None, None)
        return Emotion(
            label=self._labels[values.index(confidence)] if sure else None,
            probabilities=dict(zip(self._labels, values, strict=True)),
            valence=valence,
            arousal=arousal,
            confidence=confidence,
            state="ok" if sure else "uncertain",
            reasons=in_order(reasons if sure else (*reasons, "low confidence")),
            time=time,
            track=face,
            box=box,
            modalities=used,
            by_modality={
                modality: dict(zip(self._labels, outputs[f"{modality}_logits"][row], strict=True))
                for modality in used
                if f"{modality}_logits" in outputs
            },
        )


def _not_finite(what: str) -> BackendError:
    return BackendError(f"graph 'fusion' answered {what} that are not finite; try another precision")
