"""Writes a trained system as a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

import edgeemo
from edgeemo.errors import InputError

from . import bundle, proving
from .data import sounds, wordpiece
from .data.own import face_entry
from .data.tokens import SLOTS
from .data.transfer import transfer
from .encoders.voice import SAMPLE_RATE
from .recipes import didan
from .recipes.by_name import Trained
from .systems.fusion import Answers
from .systems.jca import JCA

VOCAB = "vocab.txt"
SAID = ("RAVDESS actors 02-14", "nEMO EB0, IC0, KD0, KS0")
LISTENED = {"emodb": "EmoDB 03, 08, 09, 10", "nemo": "nEMO EB0, IC0, KD0, KS0"}
VOTES = "votes of CREMA-D's raters (ODbL 1.0), without actor 1001"
OWN_AFFECT = (
    "no recording here is labelled with valence or arousal: a head of its own was trained by the concordance "
    "correlation coefficient towards the ratings of each label's emotion word in Russell and Mehrabian "
    "(1977), Journal of Research in Personality 11, 273-294"
)


def write(trained: Trained, data: Path, folder: Path, unproven: str = "") -> None:
    """Export, quantise, lint and describe; ``folder`` holds a complete bundle without results afterwards.

    Args:
        trained: the system.
        data: the corpora, for INT8 calibration (training splits only).
        folder: made when missing; see `bundle.check_folder`.
        unproven: why INT8 is not proven on the development splits; empty to prove it.

    Raises:
        InputError: its faces are action units, which no camera gives, or the folder holds something else.
        ExportError: a graph is not what it must be; nothing is described then.
        CheckFailed: INT8 is not proven; nothing is described then.
    """
    if getattr(trained.config, "pairs", "") == "units":
        raise InputError(
            f"{trained.system}: it reads action units, which no graph here makes of a picture; "
            "a bundle needs a run with pairs=label or pairs=votes"
        )
    bundle.check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    widths = token_widths(trained)
    alone = trained.encoders if len(trained.encoders) > 1 else ()
    outputs = ["logits", "valence_arousal", *(f"{name}_logits" for name in alone)]
    manifest = describe(trained, outputs, widths)
    bundle.write_graphs(folder, trained.encoders, trained.fusion, outputs, widths)
    beside = []
    if trained.pieces:
        wordpiece.write(trained.pieces, folder / VOCAB)
        beside.append(VOCAB)
    bundle.finish(folder, manifest, feeds(trained, data), beside, proof=unproven or prover(trained, data))


def prover(trained: Trained, data: Path) -> proving.Prover:
    """Proves it on its development splits: a study across corpora has that of its source alone."""
    corpora = ("ravdess",) if isinstance(trained.config, didan.Config) else proving.DEVELOPED_ON
    return proving.on_corpora(data, tuple(trained.encoders), trained.labels, corpora)


@torch.no_grad()
def token_widths(trained: Trained) -> dict[str, int]:
    """Width of a token of each modality, by an example."""
    examples = {
        "face": torch.zeros(1, 48, 48, 1, dtype=torch.uint8),
        "voice": torch.zeros(1, sounds.CONTEXT),
        "text": torch.zeros(1, SLOTS, dtype=torch.int32),
    }
    return {name: int(encoder.eval()(examples[name]).shape[-1]) for name, encoder in trained.encoders.items()}


def describe(trained: Trained, outputs: list[str], widths: Mapping[str, int]) -> dict[str, Any]:
    """The manifest, without ``files``."""
    modalities = list(trained.encoders)
    named = (*modalities, "+".join(modalities)) if len(modalities) > 1 else modalities
    temperatures = [round(float(value), 4) for value in trained.fusion.temperatures]
    manifest = {
        "schema": 1,
        "name": f"edgeemo-{trained.system}",
        "version": edgeemo.__version__,
        "licence": bundle.LICENCE,
        "notice": notice(trained),
        "task": "categorical",
        "labels": list(trained.labels),
        "modalities": modalities,
        "hop": sounds.HOP / SAMPLE_RATE,
        "window": SLOTS * sounds.HOP / SAMPLE_RATE,
        "voice": bundle.VOICE,
        "graphs": bundle.graph_entries(modalities, outputs, widths, len(trained.labels)),
        "valence_arousal": affect_entry(trained),
        "thresholds": bundle.THRESHOLDS,
        "calibration": {
            "method": "temperature, on the development splits; folded into the fusion graph",
            "temperatures": dict(zip(named, temperatures, strict=True)),
        },
        "results": [],
        "provenance": provenance(trained),
    }
    if "face" in modalities:
        manifest["face"] = face_entry()
    if "text" in modalities:
        manifest["text"] = {"vocab": VOCAB, "length": SLOTS, "lowercase": True}
    return manifest


def notice(trained: Trained) -> str:
    """What a user of the weights must know."""
    if isinstance(trained.config, didan.Config) and trained.config.target != "nemo":
        return bundle.NOTICE.format(corpora="RAVDESS", are="is")
    return bundle.NOTICE_OF_BOTH


def affect_entry(trained: Trained) -> dict[str, Any]:
    """The manifest's ``valence_arousal``: means over the labels' ratings, or what a head of its own says."""
    entry = bundle.affect_entry(trained.labels)
    own = isinstance(trained.fusion, Answers) and isinstance(trained.fusion.fusion, JCA)
    return {**entry, "source": OWN_AFFECT} if own else entry


def provenance(trained: Trained) -> dict[str, Any]:
    """What the weights come from."""
    data, development = list(bundle.DATA), list(bundle.DEVELOPMENT)
    if isinstance(trained.config, didan.Config):
        # The target's labels are read by the supervised ceiling alone.
        heard = "with labels" if trained.config.alignment == "supervised" else "without labels"
        data, development = ["RAVDESS actors 02-14"], ["RAVDESS actors 15 and 16"]
        if trained.config.alignment != "source":
            data.append(f"{LISTENED[trained.config.target]}, {heard}")
    if "text" in trained.encoders:
        # The voice's encoder has heard EmoDB; co-attention has not, since nothing tells what is said in it.
        data = [*data[1:], f"the words of {' and of '.join(SAID)}"]
        development = development[1:]
    if getattr(trained.config, "pairs", "") == "votes":
        data.append(VOTES)
    return {
        "recipe": f"edgeemo-export train --system {trained.system}, then edgeemo-export bundle",
        "seed": trained.seed,
        "data": data,
        "development": development,
        "int8": f"symmetric, percentile 99.99, {bundle.CALIBRATION_ITEMS} items of the training splits",
        "versions": bundle.versions(),
    }


def feeds(trained: Trained, data: Path) -> dict[str, Iterable[Mapping[str, NDArray[Any]]]]:
    """Calibration items of each encoder that is quantised, out of the training splits."""
    if isinstance(trained.config, didan.Config):
        study = transfer(data, trained.config.target)
        return {"voice": bundle.contexts_of([*study.train, *study.listen], trained.seed)}
    make = {"face": bundle.face_feeds, "voice": bundle.voice_feeds}
    return {name: make[name](data, trained.seed) for name in trained.encoders if name in make}
