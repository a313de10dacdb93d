"""Writes a trained system as a bundle: graphs, their INT8 encodings and the manifest."""

from __future__ import annotations

import json
import math
import platform
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

import edgeemo
from edgeemo.inference.bundle import describe_files
from edgeemo_calibration import lint, measure, write_encodings, write_half

from . import geometry, to_onnx
from .data import ferplus, sounds, voices
from .data.labels import LABELS, NORMS
from .data.pictures import jitter
from .data.tokens import SLOTS
from .encoders.fold import fold_batch_norms
from .encoders.voice import SAMPLE_RATE, VoiceEncoder
from .recipes.default import Trained

NAME, LICENCE = "edgeemo-default", "CC-BY-NC-SA-4.0"
NOTICE = (
    "The weights are for non-commercial use: RAVDESS and nEMO, which they were trained on, are "
    "CC BY-NC-SA 4.0. "
    "Do not infer emotions of people at work or in education: the EU AI Act prohibits it (Art. 5(1)(f)). "
    "Tell the people whose emotions are inferred (Art. 50(3))."
)
CALIBRATION_ITEMS = 512
FOR_TENSORRT = ("fp32", "fp16", "int8")
ENCODINGS = (*FOR_TENSORRT, "int8-cpu")


def write(trained: Trained, data: Path, folder: Path, seed: int = 0) -> None:
    """Export, quantise, lint and describe; ``folder`` holds a complete bundle without results afterwards.

    Args:
        trained: the three parts.
        data: the corpora, for INT8 calibration (training splits only) and the crop geometry.
        folder: made when missing.
        seed: recorded with the provenance, and seeds the choice of calibration items.

    Raises:
        ExportError: a graph is not what it must be; nothing is described then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    width = trained.face.head.in_features
    encoders = {
        "face": fold_batch_norms(trained.face.encoder.eval()),
        "voice": fold_batch_norms(trained.voice.encoder.eval()),
    }
    to_onnx.write(
        encoders["face"],
        {"face": torch.randint(0, 255, (3, 48, 48, 1), dtype=torch.uint8)},
        ["tokens"],
        folder / "face.fp32.onnx",
        batched=("face",),
    )
    to_onnx.write(
        encoders["voice"],
        {"voice": torch.randn(1, VoiceEncoder.context) * 0.05},
        ["tokens"],
        folder / "voice.fp32.onnx",
    )
    tracks, few = torch.rand(3, SLOTS).round(), torch.rand(3, SLOTS).round()
    few[1], tracks[2] = 0.0, 0.0
    to_onnx.write(
        trained.fusion,
        {
            "face_tokens": torch.rand(3, SLOTS, width),
            "face_mask": tracks,
            "voice_tokens": torch.rand(1, SLOTS, width),
            "voice_mask": few,
        },
        ["logits", "valence_arousal", "face_logits", "voice_logits"],
        folder / "fusion.fp32.onnx",
        batched=("face_tokens", "face_mask", "voice_mask"),
    )
    manifest = describe(trained, geometry.measure_corpus(data).geometry, seed, width)
    for name, feeds in (("face", face_feeds(data, seed)), ("voice", voice_feeds(data, seed))):
        manifest["graphs"][name]["calibration"] = encode(folder, name, feeds)
    check(folder, manifest)
    manifest["files"] = describe_files(folder, sorted(path.name for path in folder.glob("*.onnx")))
    write_manifest(folder, manifest)
    edgeemo.Bundle.read(folder).verify()


def encode(folder: Path, name: str, feeds: Iterable[Mapping[str, NDArray[Any]]]) -> str:
    """Write ``NAME.fp16.onnx``, ``NAME.int8.onnx`` and ``NAME.int8-cpu.onnx`` beside ``NAME.fp32.onnx``.

    Returns:
        the digest of the table of ranges that both INT8 files come from.
    """
    source = folder / f"{name}.fp32.onnx"
    write_half(source, folder, name)
    table = measure(source, feeds, method="percentile")
    write_encodings(source, table, folder, name)
    return table.digest


def check(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Lint every file that TensorRT will be given.

    Raises:
        ExportError: with what was found, each finding on a line.
    """
    found = []
    for graph in manifest["graphs"].values():
        for encoding in FOR_TENSORRT:
            if file := graph["files"].get(encoding):
                found += [f"{file}: {finding}" for finding in lint(onnx.load(folder / file))]
    if found:
        raise to_onnx.ExportError("\n".join(("TensorRT is not to be given these graphs:", *found)))


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write ``manifest.json`` whole or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".new", delete=False) as file:
        file.write(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    Path(file.name).chmod(0o644)
    Path(file.name).replace(folder / "manifest.json")


def face_feeds(data: Path, seed: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Training pictures for calibration: as many of each label, half of them jittered."""
    faces = ferplus.read(data / "ferplus", "train")
    draw = np.random.default_rng(seed)
    random = torch.Generator().manual_seed(seed)
    each = CALIBRATION_ITEMS // len(LABELS)
    for label in range(len(LABELS)):
        rows = draw.permutation(np.flatnonzero(faces.majority == label))
        rows = np.resize(
            rows, each
        )  # the rarest label has fewer: some of its pictures come twice, jittered otherwise
        plain = faces.images[rows[: each // 2], :, :, None]
        moved = jitter(torch.from_numpy(faces.images[rows[each // 2 :]]), random)
        yield {"face": np.concatenate([plain, moved.round().byte().numpy()])}


def voice_feeds(data: Path, seed: int) -> Iterator[dict[str, NDArray[Any]]]:
    """One-second contexts of training speakers for calibration, half of them distorted."""
    clips = voices.read(data, "train")
    random = torch.Generator().manual_seed(seed)
    for turn, row in enumerate(torch.randperm(len(clips), generator=random)[:CALIBRATION_ITEMS].tolist()):
        samples = sounds.load(clips[row].path)
        if turn % 2:
            samples = sounds.distort(samples, random)
        yield {"voice": sounds.draw(sounds.contexts(samples), 1, random).numpy()}


def describe(trained: Trained, crops: dict[str, Any], seed: int, width: int) -> dict[str, Any]:
    """The manifest of the default bundle, without ``files``."""
    temperatures = [round(float(value), 4) for value in trained.fusion.temperatures]
    tokens, masks = ["float32", ["N", SLOTS, width]], ["float32", ["N", SLOTS]]
    classes = ["float32", ["N", len(LABELS)]]
    return {
        "schema": 1,
        "name": NAME,
        "version": edgeemo.__version__,
        "licence": LICENCE,
        "notice": NOTICE,
        "task": "categorical",
        "labels": list(LABELS),
        "modalities": ["face", "voice"],
        "hop": sounds.HOP / SAMPLE_RATE,
        "window": SLOTS * sounds.HOP / SAMPLE_RATE,
        "face": {"size": [48, 48], "channels": 1, "geometry": crops, "most": 16},
        "voice": {"sample_rate": SAMPLE_RATE, "context": VoiceEncoder.context},
        "graphs": {
            "face": {
                "mode": "append",
                "every": 1,
                "inputs": {"face": ["uint8", ["N", 48, 48, 1]]},
                "outputs": {"tokens": ["float32", ["N", width]]},
                "files": {encoding: f"face.{encoding}.onnx" for encoding in ENCODINGS},
            },
            "voice": {
                "mode": "append",
                "every": 1,
                "inputs": {"voice": ["float32", [1, VoiceEncoder.context]]},
                "outputs": {"tokens": ["float32", [1, width]]},
                "files": {encoding: f"voice.{encoding}.onnx" for encoding in ENCODINGS},
            },
            "fusion": {
                "mode": "fuse",
                "every": 1,
                "inputs": {
                    "face_tokens": tokens,
                    "face_mask": masks,
                    "voice_tokens": ["float32", [1, SLOTS, width]],
                    "voice_mask": masks,
                },
                "outputs": {
                    "logits": classes,
                    "valence_arousal": ["float32", ["N", 2]],
                    "face_logits": classes,
                    "voice_logits": classes,
                },
                "files": {"fp32": "fusion.fp32.onnx"},
            },
        },
        "valence_arousal": {
            "derived": True,
            "source": "no recording here is labelled with valence or arousal: these are the means that the "
            "probabilities give over the ratings of the emotion words in Russell and Mehrabian (1977), "
            "Journal of Research in Personality 11, 273-294",
            "norms": {name: list(NORMS[name]) for name in LABELS},
        },
        "thresholds": {
            "confidence": 0.35,
            "silence_dbfs": round(20.0 * math.log10(sounds.SILENCE), 2),
            "dark": 25.0,
            "clipped": 0.01,
        },
        "calibration": {
            "method": "temperature, on the development splits; folded into the fusion graph",
            "temperatures": dict(zip(("face", "voice", "face+voice"), temperatures, strict=True)),
            "face_prior": [round(float(value), 4) for value in trained.fusion.prior],
        },
        "results": [],
        "provenance": {
            "recipe": "edgeemo-export train, then edgeemo-export bundle",
            "seed": seed,
            "data": [
                "FER+ train without every tenth picture",
                "RAVDESS actors 02-14",
                "nEMO EB0, IC0, KD0, KS0",
                "EmoDB 03, 08, 09",
            ],
            "development": ["every tenth picture of FER+ train", "RAVDESS actors 15 and 16", "EmoDB 10"],
            "int8": f"symmetric, percentile 99.99, {CALIBRATION_ITEMS} items of the training splits",
            "versions": {
                "python": platform.python_version(),
                **{name: metadata.version(name) for name in ("torch", "onnx", "onnxruntime", "numpy")},
            },
        },
    }
