"""A tiny model whose graphs are numpy and count their calls, and the answers that it must give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeemo.inference.bundle import Bundle, GraphSpec
from edgeemo.inference.graph import check_feeds
from edgeemo.preprocess.face import Face
from edgeemo.recognition.emotion import Emotion
from edgeemo.recognition.recognizer import Recognizer
from edgeemo.recognition.stream import Stream
from tests.support.tiny import Tiny

GEOMETRY = {"fake": {"scale": 1.0, "dx": 0.0, "dy": 0.0}}


class CountingGraph:
    """Runs a function, counts the rows of every call, and reuses its output arrays as an engine may."""

    encoding = "fp32"
    engine = "numpy"

    def __init__(self, spec: GraphSpec, compute: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
        self.spec = spec
        self.compute = compute
        self.rows: list[int] = []
        self._outputs: list[Any] = []

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        check_feeds(self.spec, feeds)
        assert all(feed.flags.c_contiguous for feed in feeds.values()), "an engine would have to copy"
        for output in self._outputs:
            output.fill(np.nan)
        outputs = self.compute(feeds)
        self._outputs = list(outputs.values())
        self.rows.append(max(len(feed) for feed in feeds.values()))
        return outputs

    def close(self) -> None:
        pass


class FakeFinder:
    """Finds the faces that it was told, whatever the picture shows."""

    name = "fake"

    def __init__(self, *boxes: tuple[float, float, float, float]) -> None:
        self.boxes: Sequence[tuple[float, float, float, float]] = boxes
        self.calls = 0

    def find(self, image: Any) -> list[Face]:
        self.calls += 1
        return [Face(box, 0.9) for box in sorted(self.boxes, key=lambda box: -box[2] * box[3])]


def fake_model(folder: Path, tiny: Tiny, *boxes: tuple[float, float, float, float]) -> Recognizer:
    """A model of the tiny bundle in `folder` that finds faces at `boxes`."""
    bundle = Bundle.read(folder)
    computes = {"face": _face(tiny), "voice": _voice(tiny), "text": _text(tiny), "fusion": _fusion(tiny)}
    graphs = {name: CountingGraph(spec, computes[name]) for name, spec in bundle.graphs.items()}
    return Recognizer(bundle, graphs, FakeFinder(*boxes))


def calls(model: Recognizer) -> dict[str, list[int]]:
    """The rows of every call of every graph."""
    return {name: graph.rows for name, graph in model.graphs.items() if isinstance(graph, CountingGraph)}


def _face(tiny: Tiny) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda feeds: {"tokens": np.stack([tiny.face_token(crop) for crop in feeds["face"]])}


def _voice(tiny: Tiny) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    def compute(feeds: Mapping[str, Any]) -> dict[str, Any]:
        context = feeds["voice"][0]
        hops = 1 if tiny.voice_mode == "append" else tiny.slots
        heard = [context[: tiny.context - back * tiny.samples] for back in reversed(range(hops))]
        answer = {"tokens": np.stack([tiny.voice_token(one) for one in heard])}
        if tiny.speech:
            answer["speech"] = np.concatenate([tiny.voice_speech(one) for one in heard])
        return answer

    return compute


def _text(tiny: Tiny) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda feeds: {"tokens": tiny.text_tokens(feeds["text"])}


def _fusion(tiny: Tiny) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    def compute(feeds: Mapping[str, Any]) -> dict[str, Any]:
        alone = {}
        for name in tiny.modalities:
            mask, tokens = feeds[f"{name}_mask"], feeds[f"{name}_tokens"]
            tokens = np.broadcast_to(tokens, (len(mask), *tokens.shape[1:]))
            alone[name] = np.stack(
                [tiny.modality_logits(name, token, row) for token, row in zip(tokens, mask, strict=True)]
            )
        logits = np.sum(list(alone.values()), axis=0)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        norms = (powers / powers.sum(axis=1, keepdims=True) @ tiny.norms).astype(np.float32)
        return {
            "logits": logits,
            "valence_arousal": norms,
            **{f"{name}_logits": values.copy() for name, values in alone.items()},
        }

    return compute


Push = tuple[str, float, Any, int]
"""('face', time, picture, 0), ('voice', time, samples, rate) or ('text', end, (words, start), 0)."""


def voice_pushes(samples: Any, rate: int, chunk: int, start: float = 0.0) -> list[Push]:
    return [
        ("voice", start + first / rate, samples[first : first + chunk], rate)
        for first in range(0, len(samples), chunk)
    ]


def push(stream: Stream, one: Push) -> None:
    kind, time, what, rate = one
    if kind == "face":
        stream.push_frame(what, time)
    elif kind == "text":
        stream.push_text(what[0], what[1], time)
    else:
        stream.push_audio(what, rate, time)


def play(stream: Stream, pushes: Iterable[Push], *, poll_every: int = 1, end: bool = True) -> list[Emotion]:
    """Push everything, polling now and then, and end every modality."""
    emotions = []
    for count, one in enumerate(pushes, start=1):
        push(stream, one)
        if count % poll_every == 0:
            emotions += stream.poll()
    if end:
        for modality in stream.modalities:
            stream.end(modality)
    return emotions + stream.poll()


def assert_same(first: Sequence[Emotion], second: Sequence[Emotion], tolerance: float = 1e-5) -> None:
    """Answers are equal, numbers to within `tolerance`."""
    assert [emotion.time for emotion in first] == [emotion.time for emotion in second]
    for one, other in zip(first, second, strict=True):
        for name in ("label", "state", "reasons", "track", "box", "modalities"):
            assert getattr(one, name) == getattr(other, name), (one, other)
        assert numbers(one) == close(numbers(other), tolerance), (one, other)


def numbers(emotion: Emotion) -> list[float]:
    alone = [value for by_label in emotion.by_modality.values() for value in by_label.values()]
    values = [*(emotion.probabilities or {}).values(), *alone, emotion.confidence]
    return [*values, emotion.valence or 0.0, emotion.arousal or 0.0]


def close(values: Any, tolerance: float = 1e-5) -> Any:
    import pytest

    return pytest.approx(values, abs=tolerance)


def reference(
    tiny: Tiny,
    hops: int,
    faces: Mapping[int, Any],
    samples: Any,
    *,
    muted: Mapping[str, set[int]] | None = None,
) -> list[dict[str, float] | None]:
    """The probabilities of hops 0 to `hops` - 1 worked out from the definition, without a stream.

    Args:
        faces: the crop of each hop that has one.
        samples: sound from 0 s at the rate of the bundle, or None.
    """
    muted = muted or {}
    tokens: dict[str, dict[int, Any]] = {"face": {}, "voice": {}}
    tokens["face"] = {
        hop: tiny.face_token(crop) for hop, crop in faces.items() if hop not in muted.get("face", ())
    }
    if samples is not None:
        size = tiny.samples
        sound = np.zeros(tiny.context + hops * size, np.float32)
        sound[tiny.context : tiny.context + len(samples)] = samples[: hops * size]
        for hop in range(hops):
            if hop in muted.get("voice", ()):
                sound[tiny.context + hop * size : tiny.context + (hop + 1) * size] = 0
        for hop in range(hops):
            context = sound[(hop + 1) * size : (hop + 1) * size + tiny.context]
            if hop not in muted.get("voice", ()) and np.sqrt(np.mean(context**2)) >= 1e-3:
                tokens["voice"][hop] = tiny.voice_token(context)
    answers: list[dict[str, float] | None] = []
    for hop in range(hops):
        window = range(hop - tiny.slots + 1, hop + 1)
        empty = np.zeros(tiny.width, np.float32)
        rings = {
            name: np.stack([tokens[name].get(slot, empty) for slot in window]) for name in tiny.modalities
        }
        masks = {
            name: np.array([slot in tokens[name] for slot in window], np.float32) for name in tiny.modalities
        }
        if not any(mask.any() for mask in masks.values()):
            answers.append(None)
            continue
        logits = tiny.logits(rings, masks).astype(np.float64)
        powers = np.exp(logits - logits.max())
        answers.append(dict(zip(tiny.labels, (powers / powers.sum()).tolist(), strict=True)))
    return answers


def assert_answers(emotions: Sequence[Emotion], expected: Sequence[dict[str, float] | None]) -> None:
    assert len(emotions) == len(expected)
    for emotion, probabilities in zip(emotions, expected, strict=True):
        if probabilities is None:
            assert emotion.state == "absent" and emotion.probabilities is None
        else:
            assert emotion.probabilities == close(probabilities), emotion
