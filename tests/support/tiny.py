"""A bundle of a few kilobytes whose answers a test can work out.

`write_bundle` writes it, `Tiny` says its sizes and works its answers out in numpy. What the graphs compute:

* A face is its mean level in [0, 1] (0 black, 1 white), a voice the RMS of the last hop of its context, a
  text the mean value of its words, later words weighing more: that of `tiny.value('fear')` is 'fear'. Such a
  number v becomes the token v * code with code = (1/D, 2/D, ..., 1).
* Fusion takes, per modality, the mean of v over the valid slots, newer slots weighing more, and gives every
  label the logit -GAIN * (v - centre)^2 (less what is common to all labels) with the centres (i + 0.5) / L.
  So a face or voice of v = `tiny.value('fear')` alone is answered 'fear' with a probability above 0.95, and
  face and voice together by the label nearest to the mean of the two.
* A bump of at most BUMP per label grows with the weight of the valid slots, so that each slot of each mask
  changes the logits even when all tokens are equal. A modality without any valid slot adds 0.
* Valence and arousal are the probabilities times the norms, which are points on the unit circle.

A voice in mode 'replace' gives one token per hop of the window, each the RMS of its hop. With `speech` it
also gives the presence of speech of each token, 1 - |mean| / RMS of its hop: a wave speaks, a constant does
not. A text gives as many, all alike, also for [PAD].
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

from edgeemo.inference.bundle import describe_files

LABELS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
GAIN = 200.0
BUMP = 0.3
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Tiny:
    """The sizes of a tiny bundle, and its answers worked out without ONNX."""

    modalities: tuple[str, ...] = ("face", "voice")
    labels: tuple[str, ...] = LABELS
    size: tuple[int, int] = (8, 8)
    channels: int = 1
    hop: float = 0.1
    slots: int = 5
    sample_rate: int = 8000
    context: int = 1600
    width: int = 4
    voice_mode: str = "append"
    voice_every: int = 1
    speech: bool = False

    @property
    def samples(self) -> int:
        """Samples of one hop."""
        return round(self.hop * self.sample_rate)

    @property
    def code(self) -> Array:
        return np.arange(1, self.width + 1, dtype=np.float32) / self.width

    @property
    def centres(self) -> Array:
        return ((np.arange(len(self.labels)) + 0.5) / len(self.labels)).astype(np.float32)

    @property
    def recency(self) -> Array:
        """The weight of each slot in the mean, oldest first."""
        return (1 + np.arange(self.slots, dtype=np.float32) / self.slots).astype(np.float32)

    @property
    def presence(self) -> Array:
        """The weight of each slot in the bump; roots, so that two sets of slots hardly weigh the same."""
        roots = np.sqrt(np.arange(1, self.slots + 1, dtype=np.float32))
        return np.asarray(roots / roots.sum(), np.float32)

    @property
    def norms(self) -> Array:
        angle = 2 * np.pi * np.arange(len(self.labels)) / len(self.labels)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Special tokens, the labels, and words that stand for the same values as the labels, in turn."""
        special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
        return (*special, *self.labels, "so", "##und", "well", "##s", ".", "zażółć", "fur", "!")

    @property
    def word_values(self) -> Array:
        """The value of every id; special tokens have none, and are no words."""
        count = len(self.vocabulary) - 4
        return np.concatenate([np.zeros(4), np.resize(self.centres, count)]).astype(np.float32)

    def bump(self, modality: str) -> Array:
        phase = {"face": 1.0, "voice": 2.0, "text": 3.0}[modality]
        return (BUMP * np.cos(phase * np.arange(len(self.labels)) + phase)).astype(np.float32)

    def value(self, label: str) -> float:
        """The level or RMS in [0, 1] that is answered with `label`."""
        return float(self.centres[self.labels.index(label)])

    def face(self, label: str) -> NDArray[np.uint8]:
        """A crop [H, W, C] that is answered with `label`; any picture filled with its level is."""
        return np.full((*self.size, self.channels), round(255 * self.value(label)), np.uint8)

    def voice(self, label: str, seconds: float, sample_rate: int | None = None) -> Array:
        """Sound [n] that is answered with `label`: a square wave of 16 samples a period."""
        count = round(seconds * (sample_rate or self.sample_rate))
        return np.where(np.arange(count) // 8 % 2 == 0, 1, -1).astype(np.float32) * np.float32(
            self.value(label)
        )

    def face_token(self, crop: NDArray[np.uint8]) -> Array:
        return (np.float32(crop.mean() / 255) * self.code).astype(np.float32)

    def voice_token(self, context: Array) -> Array:
        return (np.sqrt(np.mean(context[-self.samples :] ** 2)) * self.code).astype(np.float32)

    def voice_speech(self, context: Array) -> Array:
        """The presence of speech [1] in the last hop of a context."""
        hop = context[-self.samples :]
        return np.array([1 - abs(hop.mean()) / max(np.sqrt(np.mean(hop**2)), 1e-6)], np.float32)

    def text_tokens(self, ids: NDArray[np.int32]) -> Array:
        """Tokens [slots, D] of ids [1, slots]."""
        weights = (ids[0] > 3) * np.arange(1, self.slots + 1)
        value = (weights @ self.word_values[ids[0]]) / max(weights.sum(), 1e-6)
        return np.tile(np.float32(value) * self.code, (self.slots, 1)).astype(np.float32)

    def logits(self, tokens: Mapping[str, Array], masks: Mapping[str, Array]) -> Array:
        """The logits [L] of one track, from tokens [slots, D] and masks [slots] by modality."""
        return sum(
            (self.modality_logits(name, tokens[name], masks[name]) for name in tokens),
            np.zeros(len(self.labels), np.float32),
        )

    def modality_logits(self, modality: str, tokens: Array, mask: Array) -> Array:
        """What one modality alone adds to the logits [L]."""
        if not mask.any():
            return np.zeros(len(self.labels), np.float32)
        weights = mask * self.recency
        value = (weights @ tokens / weights.sum()) @ self.code / (self.code @ self.code)
        nearness = GAIN * (2 * self.centres * value - self.centres**2)
        return (nearness + self.bump(modality) * (mask @ self.presence)).astype(np.float32)


def write_bundle(
    folder: Path,
    tiny: Tiny | None = None,
    *,
    encodings: Sequence[str] = ("fp32", "int8", "int8-cpu"),
    geometry: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write a complete bundle and answer its folder.

    Args:
        folder: made when it is not there.
        tiny: the sizes; those of `Tiny()` when None.
        encodings: the files of each encoder; all hold the same graph, fusion has fp32 alone.
        geometry: `face.geometry` of the manifest.
        changes: keys of the manifest to replace (`thresholds={...}`, `results=[...]`).
    """
    tiny = tiny or Tiny()
    folder.mkdir(parents=True, exist_ok=True)
    models = {"face": face_graph, "voice": voice_graph, "text": text_graph, "fusion": fusion_graph}
    files: dict[str, dict[str, str]] = {}
    for name in (*tiny.modalities, "fusion"):
        model = models[name](tiny)
        files[name] = {}
        for encoding in encodings if name != "fusion" else ("fp32",):
            model.doc_string = encoding
            files[name][encoding] = f"{name}.{encoding}.onnx"
            (folder / files[name][encoding]).write_bytes(model.SerializeToString(deterministic=True))
    entries = manifest(tiny, files, geometry or {})
    names = [file for by_name in files.values() for file in by_name.values()]
    if "text" in tiny.modalities:
        (folder / "vocab.txt").write_text("\n".join(tiny.vocabulary) + "\n", "utf-8")
        names.append("vocab.txt")
    entries["files"] = describe_files(folder, names)
    (folder / "manifest.json").write_text(json.dumps(entries | changes, indent=1), "utf-8")
    return folder


def manifest(
    tiny: Tiny, files: Mapping[str, Mapping[str, str]], geometry: Mapping[str, Any]
) -> dict[str, Any]:
    """The manifest of a tiny bundle, without its `files`."""
    slots, width, count = tiny.slots, tiny.width, len(tiny.labels)
    graphs: dict[str, Any] = {
        "face": {
            "mode": "append",
            "every": 1,
            "inputs": {"face": ["uint8", ["N", *tiny.size, tiny.channels]]},
            "outputs": {"tokens": ["float32", ["N", width]]},
        },
        "voice": {
            "mode": tiny.voice_mode,
            "every": tiny.voice_every,
            "inputs": {"voice": ["float32", [1, tiny.context]]},
            "outputs": {"tokens": ["float32", [1 if tiny.voice_mode == "append" else slots, width]]},
        },
        "text": {
            "mode": "replace",
            "every": 1,
            "inputs": {"text": ["int32", [1, slots]]},
            "outputs": {"tokens": ["float32", [slots, width]]},
        },
        "fusion": {"mode": "fuse", "every": 1, "inputs": {}, "outputs": {}},
    }
    answers = graphs["fusion"]["outputs"]
    answers["logits"] = ["float32", ["N", count]]
    answers["valence_arousal"] = ["float32", ["N", 2]]
    for name in tiny.modalities:
        rows = "N" if name == "face" else 1
        graphs["fusion"]["inputs"][f"{name}_tokens"] = ["float32", [rows, slots, width]]
        graphs["fusion"]["inputs"][f"{name}_mask"] = ["float32", ["N", slots]]
        answers[f"{name}_logits"] = ["float32", ["N", count]]
    entries: dict[str, Any] = {
        "schema": 1,
        "name": "tiny",
        "version": "1.0",
        "licence": "CC0-1.0",
        "notice": "Made by a test; it knows nothing about emotions.",
        "task": "categorical",
        "labels": list(tiny.labels),
        "modalities": list(tiny.modalities),
        "hop": tiny.hop,
        "window": tiny.slots * tiny.hop,
        "graphs": {name: {**graphs[name], "files": dict(files[name])} for name in files},
        "valence_arousal": {
            "derived": True,
            "source": "the unit circle",
            "norms": dict(zip(tiny.labels, tiny.norms.tolist(), strict=True)),
        },
        "thresholds": {"confidence": 0.35, "silence_dbfs": -60.0, "dark": 5.0, "clipped": 0.5},
        "calibration": {"method": "none"},
        "results": [],
        "provenance": {},
    }
    if tiny.speech:
        graphs["voice"]["outputs"]["speech"] = ["float32", [1 if tiny.voice_mode == "append" else slots]]
        entries["graphs"]["voice"]["outputs"] = graphs["voice"]["outputs"]
        entries["thresholds"]["speech"] = 0.5
    if "face" in tiny.modalities:
        entries["face"] = {"size": list(tiny.size), "channels": tiny.channels, "geometry": dict(geometry)}
    if "voice" in tiny.modalities:
        entries["voice"] = {"sample_rate": tiny.sample_rate, "context": tiny.context}
    if "text" in tiny.modalities:
        entries["text"] = {"vocab": "vocab.txt", "length": slots, "lowercase": True}
    return entries


def face_graph(tiny: Tiny) -> ModelProto:
    """[N, H, W, C] uint8 -> [N, D], the mean level times the code."""
    nodes = [
        helper.make_node("Cast", ["face"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["level"]),
        helper.make_node("Unsqueeze", ["level", "last"], ["column"]),
        helper.make_node("Mul", ["column", "code"], ["tokens"]),
    ]
    constants = {"white": np.float32(255), "last": np.array([1]), "code": tiny.code[None]}
    return _model(
        "face",
        nodes,
        constants,
        {"face": (TensorProto.UINT8, ["N", *tiny.size, tiny.channels])},
        {"tokens": (TensorProto.FLOAT, ["N", tiny.width])},
    )


def voice_graph(tiny: Tiny) -> ModelProto:
    """[1, context] -> [1, D], the RMS of the last hop times the code; [slots, D] in mode 'replace'."""
    hops = 1 if tiny.voice_mode == "append" else tiny.slots
    if hops * tiny.samples > tiny.context:
        raise ValueError(f"context is {tiny.context} samples; {hops} hops need {hops * tiny.samples}")
    nodes = [
        helper.make_node("Slice", ["voice", "start", "stop", "axis"], ["newest"]),
        helper.make_node("Reshape", ["newest", "by_hop"], ["hops"]),
        helper.make_node("Mul", ["hops", "hops"], ["power"]),
        helper.make_node("ReduceMean", ["power"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Sqrt", ["mean"], ["rms"]),
        helper.make_node("Mul", ["rms", "code"], ["tokens"]),
    ]
    constants = {
        "start": np.array([tiny.context - hops * tiny.samples]),
        "stop": np.array([tiny.context]),
        "axis": np.array([1]),
        "by_hop": np.array([hops, tiny.samples]),
        "code": tiny.code[None],
    }
    outputs: dict[str, tuple[int, list[Any]]] = {"tokens": (TensorProto.FLOAT, [hops, tiny.width])}
    if tiny.speech:
        outputs["speech"] = (TensorProto.FLOAT, [hops])
        nodes += [
            helper.make_node("ReduceMean", ["hops"], ["centre"], axes=[1], keepdims=1),
            helper.make_node("Abs", ["centre"], ["constant"]),
            helper.make_node("Max", ["rms", "least"], ["divisor"]),
            helper.make_node("Div", ["constant", "divisor"], ["still"]),
            helper.make_node("Sub", ["one", "still"], ["moving"]),
            helper.make_node("Squeeze", ["moving", "axis"], ["speech"]),
        ]
        constants |= {"least": np.float32(1e-6), "one": np.float32(1)}
    return _model("voice", nodes, constants, {"voice": (TensorProto.FLOAT, [1, tiny.context])}, outputs)


def text_graph(tiny: Tiny) -> ModelProto:
    """[1, slots] int32 -> [slots, D], everywhere the weighted mean of the words' values times the code."""
    nodes = [
        helper.make_node("Gather", ["values", "text"], ["value"]),
        helper.make_node("Gather", ["are_words", "text"], ["is_word"]),
        helper.make_node("Mul", ["is_word", "positions"], ["weights"]),
        helper.make_node("Mul", ["value", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted"], ["sum"]),
        helper.make_node("ReduceSum", ["weights"], ["weight"]),
        helper.make_node("Max", ["weight", "tiny"], ["divisor"]),
        helper.make_node("Div", ["sum", "divisor"], ["mean"]),
        helper.make_node("Mul", ["mean", "codes"], ["tokens"]),
    ]
    constants = {
        "values": tiny.word_values,
        "are_words": (np.arange(len(tiny.vocabulary)) > 3).astype(np.float32),
        "positions": np.arange(1, tiny.slots + 1, dtype=np.float32)[None],
        "tiny": np.float32(1e-6),
        "codes": np.tile(tiny.code, (tiny.slots, 1)),
    }
    return _model(
        "text",
        nodes,
        constants,
        {"text": (TensorProto.INT32, [1, tiny.slots])},
        {"tokens": (TensorProto.FLOAT, [tiny.slots, tiny.width])},
    )


def fusion_graph(tiny: Tiny) -> ModelProto:
    """Tokens and masks -> logits, valence and arousal, the logits of each modality."""
    nodes: list[NodeProto] = []
    constants: dict[str, Any] = {
        "recency": tiny.recency[None],
        "presence": tiny.presence[:, None],
        "read": (tiny.code / (tiny.code @ tiny.code))[:, None],
        "slope": 2 * GAIN * tiny.centres[None],
        "offset": GAIN * tiny.centres[None] ** 2,
        "norms": tiny.norms,
        "tiny": np.float32(1e-6),
        "one": np.array([1]),
    }
    inputs: dict[str, tuple[int, list[Any]]] = {}
    for name in tiny.modalities:
        nodes += _modality_nodes(name)
        constants[f"{name}_bump"] = tiny.bump(name)[None]
        rows = "N" if name == "face" else 1
        inputs[f"{name}_tokens"] = (TensorProto.FLOAT, [rows, tiny.slots, tiny.width])
        inputs[f"{name}_mask"] = (TensorProto.FLOAT, ["N", tiny.slots])
    nodes += [
        helper.make_node("Sum", [f"{name}_logits" for name in tiny.modalities], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("MatMul", ["probabilities", "norms"], ["valence_arousal"]),
    ]
    count = len(tiny.labels)
    outputs: dict[str, tuple[int, list[Any]]] = {
        "logits": (TensorProto.FLOAT, ["N", count]),
        "valence_arousal": (TensorProto.FLOAT, ["N", 2]),
    }
    outputs |= {f"{name}_logits": (TensorProto.FLOAT, ["N", count]) for name in tiny.modalities}
    return _model("fusion", nodes, constants, inputs, outputs)


def _modality_nodes(name: str) -> list[NodeProto]:
    steps = [
        ("Mul", ["mask", "recency"], "weights"),
        ("Unsqueeze", ["weights", "one"], "rows"),
        ("MatMul", ["rows", "tokens"], "weighted"),
        ("Squeeze", ["weighted", "one"], "summed"),
        ("ReduceSum", ["weights", "one"], "weight"),
        ("Max", ["weight", "tiny"], "divisor"),
        ("Div", ["summed", "divisor"], "pooled"),
        ("MatMul", ["pooled", "read"], "value"),
        ("Mul", ["value", "slope"], "scaled"),
        ("Sub", ["scaled", "offset"], "nearness"),
        ("ReduceMax", ["mask"], "any"),
        ("Mul", ["nearness", "any"], "present"),
        ("MatMul", ["mask", "presence"], "share"),
        ("Mul", ["share", "bump"], "bumps"),
        ("Add", ["present", "bumps"], "logits"),
    ]
    shared = {"recency", "one", "tiny", "read", "slope", "offset", "presence"}
    nodes = []
    for kind, reads, writes in steps:
        names = [read if read in shared else f"{name}_{read}" for read in reads]
        options = {"axes": [1], "keepdims": 1} if kind == "ReduceMax" else {}
        nodes.append(helper.make_node(kind, names, [f"{name}_{writes}"], **options))
    return nodes


def _model(
    name: str,
    nodes: list[NodeProto],
    constants: Mapping[str, Any],
    inputs: Mapping[str, tuple[int, list[Any]]],
    outputs: Mapping[str, tuple[int, list[Any]]],
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(key, *value) for key, value in inputs.items()],
        [helper.make_tensor_value_info(key, *value) for key, value in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    return model
