"""Writes a trained system as a bundle: graphs, their INT8 encodings and the manifest."""

from __future__ import annotations

import json
import logging
import math
import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

import edgeemo
from edgeemo.errors import InputError
from edgeemo.inference.bundle import describe_files
from edgeemo.inference.wiring import SPEECH
from edgeemo_calibration import Table, lint, measure, write_encodings, write_half
from edgeemo_calibration.table import write_whole

from . import geometry, proving, to_onnx
from .data import ferplus, sounds, voices
from .data.labels import LABELS, NORMS
from .data.pictures import jitter
from .data.tokens import SLOTS
from .encoders.fold import fold_batch_norms
from .encoders.presence import SpeechAware, outputs_of
from .encoders.voice import SAMPLE_RATE, VoiceEncoder
from .recipes.default import Trained

log = logging.getLogger("edgeemo.export")

NAME, LICENCE = "edgeemo-default", "CC-BY-NC-SA-4.0"
DATA = (
    "FER+ train without every tenth picture",
    "RAVDESS actors 02-14",
    "nEMO EB0, IC0, KD0, KS0",
    "EmoDB 03, 08, 09",
)
DEVELOPMENT = ("every tenth picture of FER+ train", "RAVDESS actors 15 and 16", "EmoDB 10")
DUTIES = (
    "Do not infer emotions of people at work or in education: the EU AI Act prohibits it (Art. 5(1)(f)). "
    "Tell the people whose emotions are inferred (Art. 50(3))."
)
NOTICE = (
    "The weights are for non-commercial use: {corpora}, which they were trained on, {are} CC BY-NC-SA 4.0. "
    + DUTIES
)
NOTICE_OF_BOTH = NOTICE.format(corpora="RAVDESS and nEMO", are="are")
CALIBRATION_ITEMS = 512
FOR_TENSORRT = ("fp32", "fp16", "int8")
ENCODINGS = (*FOR_TENSORRT, "int8-cpu")
_GRAPH_FILE = re.compile(rf"(face|voice|text|fusion)\.({'|'.join(ENCODINGS)})\.onnx")
VOICE = {"sample_rate": SAMPLE_RATE, "context": VoiceEncoder.context}
THRESHOLDS = {
    "confidence": 0.35,
    "silence_dbfs": round(20.0 * math.log10(sounds.SILENCE), 2),
    "dark": 25.0,
    "clipped": 0.01,
}


def write(
    trained: Trained,
    data: Path,
    folder: Path,
    seed: int = 0,
    unproven: str = "",
    tables: Mapping[str, Table] | None = None,
) -> None:
    """Export, quantise, lint and describe; ``folder`` holds a complete bundle without results afterwards.

    Args:
        trained: the three parts.
        data: the corpora, for INT8 calibration (training splits only) and the crop geometry.
        folder: made when missing; see `check_folder`.
        seed: recorded with the provenance, and seeds the choice of calibration items.
        unproven: why INT8 is not proven on the development splits; empty to prove it.
        tables: of encoders that were trained in steps of INT8, by modality; the others are measured.

    Raises:
        InputError: the folder holds something else than a bundle, or a table is of other weights.
        ExportError: a graph is not what it must be; nothing is described then.
        CheckFailed: INT8 is not proven; nothing is described then.
    """
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    width = trained.face.head.in_features
    outputs = ["logits", "valence_arousal", "face_logits", "voice_logits"]
    write_graphs(folder, encoders_of(trained), trained.fusion, outputs, width)
    manifest = describe(trained, geometry.measure_corpus(data).geometry, seed, width)
    if tables:
        manifest["provenance"]["int8"] += f"; quantisation-aware training of {' and '.join(tables)}"
    feeds = {"face": face_feeds(data, seed), "voice": voice_feeds(data, seed)}
    proof = unproven or proving.on_corpora(data, manifest["modalities"], manifest["labels"])
    finish(folder, manifest, feeds, proof=proof, tables=tables)


def encoders_of(trained: Trained) -> dict[str, nn.Module]:
    """The encoders of the bundle, by modality."""
    return {"face": trained.face.encoder, "voice": voice_encoder(trained)}


def voice_encoder(trained: Trained) -> nn.Module:
    """The voice encoder, with the presence of speech where that was trained."""
    encoder = trained.voice.encoder
    return encoder if trained.presence is None else SpeechAware(encoder, trained.presence.head)


def check_folder(folder: Path) -> None:
    """Refuse to write a bundle among other things; an old bundle, or an unfinished one, may be written over.

    Args:
        folder: of the bundle, which need not be there.

    Raises:
        InputError: it is a file, or it holds something and no bundle.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: it is a file; a bundle is a folder")
    there = sorted(path.name for path in folder.iterdir())
    if not _is_bundle(folder) and not all(_GRAPH_FILE.fullmatch(name) for name in there):
        raise InputError(
            f"{folder}: it holds {', '.join(there[:4])}{', ...' if len(there) > 4 else ''} and no bundle; "
            "give a folder that is empty or not there yet, or an old bundle to write over"
        )


def _is_bundle(folder: Path) -> bool:
    """Whether it describes itself as one; its files may be damaged."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and {"schema", "graphs", "files"} <= manifest.keys()


def write_graphs(
    folder: Path,
    encoders: Mapping[str, nn.Module],
    fusion: nn.Module,
    outputs: list[str],
    width: int | Mapping[str, int],
) -> None:
    """Write the FP32 graph of each encoder, batch normalisations folded, and of the fusion.

    Args:
        folder: of the bundle.
        encoders: by modality; they are folded in place.
        fusion: reads tokens and mask of each of these modalities, in the order of the encoders.
        outputs: the names of what it answers.
        width: of a token, or that of each modality.
    """
    for name, encoder in encoders.items():
        write_encoder(folder, name, encoder)
    widths = _widths(encoders, width)
    write_fusion(folder, fusion, {name: widths[name] for name in encoders}, outputs)


def write_fusion(
    folder: Path, fusion: nn.Module, widths: Mapping[str, int], outputs: list[str], slots: int = SLOTS
) -> Path:
    """Write ``fusion.fp32.onnx``.

    Args:
        folder: where to.
        fusion: reads tokens and mask of each of these modalities, in their order.
        widths: of a token, by modality.
        outputs: the names of what it answers.
        slots: tokens in the window of a modality.
    """
    inputs: dict[str, torch.Tensor] = {}
    for place, (name, width) in enumerate(widths.items()):
        mask = torch.rand(3, slots).round()
        mask[2 - place] = 0.0  # one row lacks the first modality, another one the second
        inputs[f"{name}_tokens"] = torch.rand(3 if name == "face" else 1, slots, width)
        inputs[f"{name}_mask"] = mask
    batched = tuple(name for name in inputs if name not in ("voice_tokens", "text_tokens"))
    path = folder / "fusion.fp32.onnx"
    to_onnx.write(fusion, inputs, outputs, path, batched=batched)
    return path


def write_encoder(folder: Path, name: str, encoder: nn.Module) -> Path:
    """Write ``NAME.fp32.onnx``; the same weights always give the same bytes.

    Args:
        folder: where to.
        name: modality of the encoder.
        encoder: its batch normalisations are folded in place.
    """
    examples = {
        "face": torch.randint(0, 255, (3, 48, 48, 1), dtype=torch.uint8),
        "voice": torch.randn(1, VoiceEncoder.context) * 0.05,
        "text": torch.randint(
            0, 4, (1, SLOTS), dtype=torch.int32
        ),  # every vocabulary has four special pieces
    }
    path = folder / f"{name}.fp32.onnx"
    to_onnx.write(
        fold_batch_norms(encoder.eval()),
        {name: examples[name]},
        outputs_of(encoder),
        path,
        batched=(name,) if name == "face" else (),
    )
    return path


def _widths(modalities: Iterable[str], width: int | Mapping[str, int]) -> Mapping[str, int]:
    return dict.fromkeys(modalities, width) if isinstance(width, int) else width


def finish(
    folder: Path,
    manifest: dict[str, Any],
    feeds: Mapping[str, Iterable[Mapping[str, NDArray[Any]]]],
    beside: Iterable[str] = (),
    *,
    proof: proving.Prover | str | None = None,
    tables: Mapping[str, Table] | None = None,
) -> None:
    """Write the encodings of each encoder, lint all graphs, prove INT8, describe the files and check it all.

    Whatever else lies in the folder is named in a warning and left alone.

    Args:
        folder: holds the FP32 graphs.
        manifest: its ``files`` are made anew; the digests of the calibration tables are put into it.
        feeds: calibration items of each encoder.
        beside: names of files of the bundle that are no graphs.
        proof: proves the INT8 graphs, or says why they stay unproven; there must be one where there are such.
        tables: by which encoders are encoded in place of measuring their items.

    Raises:
        ExportError: the linter found something; nothing is described then.
        CheckFailed: INT8 is not proven; nothing is described then.
    """
    # That of a bundle which is written over would describe files that are no longer there.
    (folder / "manifest.json").unlink(missing_ok=True)
    for name, items in feeds.items():
        manifest["graphs"][name]["calibration"] = encode(folder, name, items, (tables or {}).get(name))
    check(folder, manifest)
    manifest.pop("proof", None)  # of the bundle that this one was made of
    graphs = (name for graph in manifest["graphs"].values() for name in graph["files"].values())
    manifest["files"] = describe_files(folder, {*graphs, *beside})
    proven = proving.entry(folder, manifest, write_manifest, proof)
    if proven is not None:
        manifest["proof"] = proven
    write_manifest(folder, manifest)
    foreign = sorted({path.name for path in folder.iterdir()} - {"manifest.json", *manifest["files"]})
    if foreign:
        log.warning("%s: %s there too, and no part of the bundle", folder, _are(foreign))
    edgeemo.Bundle.read(folder).verify()


def _are(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'lies' if len(names) == 1 else 'lie'}"


def encode(
    folder: Path, name: str, feeds: Iterable[Mapping[str, NDArray[Any]]], table: Table | None = None
) -> str:
    """Write ``NAME.fp16.onnx``, ``NAME.int8.onnx`` and ``NAME.int8-cpu.onnx`` beside ``NAME.fp32.onnx``.

    Args:
        folder: of the graphs.
        name: of the graph.
        feeds: calibration items, which are measured where there is no table yet.
        table: of trained steps.

    Returns:
        the digest of the table of ranges that both INT8 files come from.
    """
    source = folder / f"{name}.fp32.onnx"
    write_half(source, folder, name)
    table = table or measure(source, feeds, method="percentile")
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
    write_whole(folder / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def face_feeds(data: Path, seed: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Training pictures for calibration: as many of each label, half of them jittered."""
    faces = ferplus.read(data / "ferplus", "train")
    return crops_of(faces.images, faces.majority, len(LABELS), seed)


def crops_of(
    images: NDArray[np.uint8], labels: NDArray[np.int64], count: int, seed: int
) -> Iterator[dict[str, NDArray[Any]]]:
    """Face crops for calibration: as many of each of ``count`` labels, half of them jittered."""
    draw = np.random.default_rng(seed)
    random = torch.Generator().manual_seed(seed)
    each = CALIBRATION_ITEMS // count
    for label in range(count):
        rows = draw.permutation(np.flatnonzero(labels == label))
        # The rarest label has fewer: some of its pictures come twice, jittered otherwise.
        rows = np.resize(rows, each)
        plain = images[rows[: each // 2], :, :, None]
        moved = jitter(torch.from_numpy(images[rows[each // 2 :]]), random)
        yield {"face": np.concatenate([plain, moved.round().byte().numpy()])}


def voice_feeds(data: Path, seed: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Contexts of training speakers for calibration, as `contexts_of` draws them."""
    return contexts_of(voices.read(data, "train"), seed)


def contexts_of(clips: Sequence[voices.Clip], seed: int) -> Iterator[dict[str, NDArray[Any]]]:
    """One-second contexts for calibration, one a clip, every second one distorted."""
    random = torch.Generator().manual_seed(seed)
    for turn, row in enumerate(torch.randperm(len(clips), generator=random)[:CALIBRATION_ITEMS].tolist()):
        samples = sounds.load(clips[row].path)
        if turn % 2:
            samples = sounds.distort(samples, random)
        yield {"voice": sounds.draw(sounds.contexts(samples), 1, random).numpy()}


def describe(trained: Trained, crops: dict[str, Any], seed: int, width: int) -> dict[str, Any]:
    """The manifest of the default bundle, without ``files``."""
    temperatures = [round(float(value), 4) for value in trained.fusion.temperatures]
    outputs = ["logits", "valence_arousal", "face_logits", "voice_logits"]
    graphs, thresholds = graph_entries(("face", "voice"), outputs, width, len(LABELS)), dict(THRESHOLDS)
    if trained.presence is not None:
        graphs["voice"]["outputs"][SPEECH] = ["float32", [1]]
        thresholds[SPEECH] = round(trained.presence.threshold, 4)
    return {
        "schema": 1,
        "name": NAME,
        "version": edgeemo.__version__,
        "licence": LICENCE,
        "notice": NOTICE_OF_BOTH,
        "task": "categorical",
        "labels": list(LABELS),
        "modalities": ["face", "voice"],
        "hop": sounds.HOP / SAMPLE_RATE,
        "window": SLOTS * sounds.HOP / SAMPLE_RATE,
        "face": {"size": [48, 48], "channels": 1, "geometry": crops, "most": 16},
        "voice": VOICE,
        "graphs": graphs,
        "valence_arousal": affect_entry(LABELS),
        "thresholds": thresholds,
        "calibration": {
            "method": "temperature, on the development splits; folded into the fusion graph",
            "temperatures": dict(zip(("face", "voice", "face+voice"), temperatures, strict=True)),
            "face_prior": [round(float(value), 4) for value in trained.fusion.prior],
        },
        "results": [],
        "provenance": {
            "recipe": _recipe(trained.taught),
            "seed": seed,
            "data": list(DATA),
            "development": list(DEVELOPMENT),
            "int8": f"symmetric, percentile 99.99, {CALIBRATION_ITEMS} items of the training splits",
            "versions": versions(),
        },
    }


def _recipe(taught: Sequence[str]) -> str:
    by = f"edgeemo-export distil of {', '.join(taught)}" if taught else "edgeemo-export train"
    return f"{by}, then edgeemo-export bundle"


def graph_entries(
    modalities: Sequence[str], outputs: Sequence[str], width: int | Mapping[str, int], labels: int
) -> dict[str, dict[str, Any]]:
    """The manifest's ``graphs``: an encoder for each modality, and the fusion.

    Args:
        modalities: some of ``'face'``, ``'voice'`` and ``'text'``.
        outputs: what the fusion answers.
        width: of a token, or that of each modality.
        labels: number of classes.
    """
    reads = {
        "face": ({"face": ["uint8", ["N", 48, 48, 1]]}, "N"),
        "voice": ({"voice": ["float32", [1, VoiceEncoder.context]]}, 1),
        "text": ({"text": ["int32", [1, SLOTS]]}, 1),
    }
    widths = _widths(modalities, width)
    entries: dict[str, dict[str, Any]] = {}
    fused: dict[str, Any] = {}
    for name in modalities:
        inputs, rows = reads[name]
        # A text is read anew whenever it has grown, so all of its tokens are. That is once a word, by a net
        # without a trunk of convolutions: it stays in FP32.
        mode, count = ("replace", SLOTS) if name == "text" else ("append", rows)
        encodings = ("fp32",) if name == "text" else ENCODINGS
        entries[name] = {
            "mode": mode,
            "every": 1,
            "inputs": inputs,
            "outputs": {"tokens": ["float32", [count, widths[name]]]},
            "files": {encoding: f"{name}.{encoding}.onnx" for encoding in encodings},
        }
        fused[f"{name}_tokens"] = ["float32", [rows, SLOTS, widths[name]]]
        fused[f"{name}_mask"] = ["float32", ["N", SLOTS]]
    entries["fusion"] = {
        "mode": "fuse",
        "every": 1,
        "inputs": fused,
        "outputs": {name: ["float32", ["N", 2 if name == "valence_arousal" else labels]] for name in outputs},
        "files": {"fp32": "fusion.fp32.onnx"},
    }
    return entries


def affect_entry(labels: Sequence[str]) -> dict[str, Any]:
    """The manifest's ``valence_arousal`` for labels that all have a rating."""
    return {
        "derived": True,
        "source": "no recording here is labelled with valence or arousal: these are the means that the "
        "probabilities give over the ratings of the emotion words in Russell and Mehrabian (1977), "
        "Journal of Research in Personality 11, 273-294",
        "norms": {name: list(NORMS[name]) for name in labels},
    }


def versions() -> dict[str, str]:
    """Versions of what took part, as provenance names them."""
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "onnx", "onnxruntime", "numpy")},
    }
