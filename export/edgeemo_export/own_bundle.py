"""Writes a run on a user's own data as a bundle, with figures of its own test split."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgeemo
from edgeemo.errors import InputError
from edgeemo.evaluate import evaluate

from . import bundle, proving, results
from .data import sounds
from .data.own import Own, face_entry
from .data.tokens import SLOTS
from .encoders.voice import SAMPLE_RATE
from .recipes.own import Trained, norms_of
from .systems.answers import answers
from .words import counted

log = logging.getLogger("edgeemo.export")

OPTIMISTIC = "speakers unknown: the model may have heard or seen them in training, so figures are optimistic"


def write(trained: Trained, own: Own, folder: Path, name: str, licence: str, unproven: str = "") -> None:
    """Export, quantise on the run's own training items, describe, and measure on its test split.

    Args:
        trained: the parts.
        own: the run's items.
        folder: made when missing; see `bundle.check_folder`.
        name: of the model.
        licence: of the weights, as an SPDX expression or in words.
        unproven: why INT8 is not proven on the development split; empty to prove it.

    Raises:
        InputError: the name or the licence is empty, or the folder holds something else than a bundle.
        ExportError: a graph is not what it must be; nothing is described then.
        CheckFailed: INT8 is not proven; nothing is described then.
    """
    if not name.strip() or not licence.strip():
        raise InputError("--name and --licence: one is empty; a bundle needs a name and a licence of its own")
    bundle.check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"face": trained.face, "voice": trained.voice}
    encoders = {key: part.encoder for key, part in parts.items() if part is not None}
    affect = norms_of(own.labels) is not None
    fusion, outputs = answers(trained.fusion, own.modalities, affect)
    width = trained.fusion.face_head.in_features
    bundle.write_graphs(folder, encoders, fusion, outputs, width)
    manifest = {"schema": 1, "name": name, "licence": licence, **describe(trained, own, outputs, width)}
    develop = {"develop": own.of("develop")}
    proof = unproven or proving.on_items(develop, cropped=own.origin.face_is_cropped)
    bundle.finish(folder, manifest, feeds(own), proof=proof)
    manifest["results"] = measure(own, folder)
    bundle.write_manifest(folder, manifest)


def feeds(own: Own) -> dict[str, Iterable[Mapping[str, NDArray[Any]]]]:
    """Calibration items of each encoder, out of the training split."""
    given: dict[str, Iterable[Mapping[str, NDArray[Any]]]] = {}
    if "face" in own.modalities:
        shown = own.crops("train")
        labels = [own.labels.index(item.label) for item in own.of("train")]
        each = np.repeat(labels, [len(crops) for crops in shown])
        given["face"] = bundle.crops_of(np.concatenate(shown), each, len(own.labels), own.origin.seed)
    if "voice" in own.modalities:
        given["voice"] = bundle.contexts_of(own.clips("train"), own.origin.seed)
    return given


def describe(trained: Trained, own: Own, outputs: list[str], width: int) -> dict[str, Any]:
    """The manifest, without schema, name, licence, ``files`` and ``results``."""
    temperatures = [round(float(value), 4) for value in trained.fusion.temperatures]
    named = dict(zip(("face", "voice", "face+voice"), temperatures, strict=True))
    kept = own.modalities if len(own.modalities) == 1 else tuple(named)
    manifest = {
        "version": "1",
        "notice": bundle.DUTIES,
        "task": "categorical",
        "labels": list(own.labels),
        "modalities": list(own.modalities),
        "hop": sounds.HOP / SAMPLE_RATE,
        "window": SLOTS * sounds.HOP / SAMPLE_RATE,
        "graphs": bundle.graph_entries(own.modalities, outputs, width, len(own.labels)),
        "thresholds": bundle.THRESHOLDS,
        "calibration": {
            "method": "temperature, on the development split; folded into the fusion graph",
            "temperatures": {key: named[key] for key in kept},
        },
        "results": [],
        "provenance": provenance(own),
    }
    if "face" in own.modalities:
        manifest["face"] = face_entry()
    if "voice" in own.modalities:
        manifest["voice"] = bundle.VOICE
    if "valence_arousal" in outputs:
        manifest["valence_arousal"] = bundle.affect_entry(own.labels)
    return manifest


def provenance(own: Own) -> dict[str, Any]:
    """What the weights come from: counts and digests, no names of files or people."""
    splits = {split: own.of(split) for split in ("train", "develop", "test")}
    said = {
        split: counted(len(items), "item")
        if own.origin.speakers_unknown
        else f"{counted(len(items), 'item')} of {counted(len({item.speaker for item in items}), 'speaker')}"
        for split, items in splits.items()
    }
    return {
        "recipe": "edgeemo-export train --manifest, then edgeemo-export bundle",
        "seed": own.origin.seed,
        "data": [f"{said['train']} of a manifest with sha256 {own.origin.sha256}"],
        "development": [said["develop"]],
        "test": said["test"],
        "speakers": OPTIMISTIC if own.origin.speakers_unknown else "no speaker is in two splits",
        "int8": f"symmetric, percentile 99.99, at most {bundle.CALIBRATION_ITEMS} training items",
        "versions": bundle.versions(),
    }


def measure(own: Own, folder: Path) -> list[dict[str, Any]]:
    """WA, UA and calibration error of the bundle on the test split, at INT8 and FP32."""
    test = own.of("test")
    unseen = counted(len({item.speaker for item in test}), "unseen speaker")
    data = f"own test split, {OPTIMISTIC if own.origin.speakers_unknown else unseen}"
    given = " and ".join(own.modalities) + (", cropped" if own.origin.face_is_cropped else "")
    entries = []
    for precision in ("int8", "fp32"):
        with edgeemo.load(folder, precision=precision) as model:
            report = evaluate(own.folder / "test.csv", model, face_is_cropped=own.origin.face_is_cropped)
        entries.append(results.entry(data, given, "test", precision, report))
        log.info("%s, %s:\n%s", data, precision, report)
    (own.folder / "results.json").write_text(json.dumps(entries, indent=1) + "\n")
    return entries
