"""What one hop answers, given its picture, its sound, its words and what came before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeemo.recognition.emotion import Emotion
from edgeemo.recognition.faces import Faces
from edgeemo.recognition.fusion import Fusion
from edgeemo.recognition.ring import TokenRing
from edgeemo.recognition.text import Text
from edgeemo.recognition.voice import Voice

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from edgeemo.inference.bundle import Bundle
    from edgeemo.inference.graph import Graph
    from edgeemo.preprocess.detector import FaceFinder

_LARGER = 1.2  # another face takes over what is said when it is larger by more than this


class Step:
    """The live step: at most one detection and one call of each graph per hop, whatever came before.

    Args:
        bundle: the bundle.
        graphs: its opened graphs.
        finder: gives the face finder; called with the first picture and not before.
        modalities: which of the bundle's are used.
        step: slots from one hop to the next.
    """

    def __init__(
        self,
        bundle: Bundle,
        graphs: Mapping[str, Graph],
        finder: Callable[[], FaceFinder],
        modalities: Collection[str],
        step: int,
    ) -> None:
        self._slots = bundle.slots
        rows = dict.fromkeys(bundle.modalities, 1)
        if "face" in modalities and bundle.face is not None:
            rows["face"] = bundle.face.most
        self._rings = {
            name: TokenRing(rows[name], bundle.slots, _width(bundle, name)) for name in bundle.modalities
        }
        self._faces = (
            Faces(bundle, graphs["face"], finder, self._rings["face"], step) if "face" in modalities else None
        )
        self._voice = (
            Voice(bundle, graphs["voice"], self._rings["voice"], step) if "voice" in modalities else None
        )
        self._text = Text(graphs["text"], self._rings["text"]) if "text" in modalities else None
        self._fusion = Fusion(bundle, graphs["fusion"], self._rings)
        self._owner: int | None = None  # id of the track that voice and text count for

    def reset(self) -> None:
        """Forget everything that came before."""
        for part in (self._faces, self._voice, self._text):
            if part is not None:
                part.reset()
        self._owner = None

    def skip(self, hops: int) -> None:
        """Let time pass without pictures, sound or answers; words do not depend on the hop before."""
        for _ in range(min(hops, self._slots)):  # after a window nothing is left that could still pass
            if self._faces is not None:
                self._faces.see(None)
            if self._voice is not None:
                self._voice.hear(None)

    def answer(
        self,
        time: float,
        image: NDArray[np.uint8] | None = None,
        context: NDArray[np.float32] | None = None,
        words: NDArray[np.int32] | None = None,
        muted: Collection[str] = (),
    ) -> list[Emotion]:
        """The Emotions of one hop, the one that voice and text count for first.

        Args:
            time: end of the hop in seconds.
            image: its picture, as `as_picture` gives it; None where it has none.
            context: float32 [context], the sound that ends with the hop; None where there was none.
            words: int32 [1, length], the words that the hop knows; None where it knows none.
            muted: modalities that are not to be used in this hop; what is given of them is ignored.

        Raises:
            BackendError: a graph failed.
        """
        faces, voice, text = self._faces, self._voice, self._text
        try:
            if faces is not None:
                faces.see(None if "face" in muted else image)
        finally:  # the tokens of both move on by one hop, or they would be out of step for a window
            if voice is not None:
                voice.hear(None if "voice" in muted else context)
        if text is not None:
            text.read(None if "text" in muted else words)
        tracks = faces.tracks if faces is not None else []
        owner = self._speaker()
        reasons = []
        for row in range(max(len(tracks), 1)):
            found: tuple[str, ...] = ()
            if faces is not None:
                found = ("face muted",) if "face" in muted else faces.reasons(row)
            if voice is not None and row == owner:
                found += ("voice muted",) if "voice" in muted else voice.reasons
            if text is not None and row == owner:
                found += ("text muted",) if "text" in muted else text.reasons
            reasons.append(found)
        return self._fusion.answer(time, tracks, owner, reasons)

    def _speaker(self) -> int:
        """The row that voice and text count for: the largest face, until another is clearly larger."""
        if self._faces is None or not self._faces.tracks:
            return 0
        tracks = self._faces.tracks
        sides = [track.square.side for track in tracks]
        largest = sides.index(max(sides))
        for row, track in enumerate(tracks):
            if track.id == self._owner and sides[largest] <= _LARGER * sides[row]:
                return row
        self._owner = tracks[largest].id
        return largest


def _width(bundle: Bundle, modality: str) -> int:
    return int(bundle.graphs[modality].outputs["tokens"].shape[-1])
