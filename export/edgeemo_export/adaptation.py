"""A bundle adapted to the place where it is used: recordings in, a new bundle and a report out."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

import edgeemo
from edgeemo.errors import CheckFailed, InputError
from edgeemo.evaluate import Item, evaluate, read_manifest
from edgeemo.figures import Report
from edgeemo.inference.bundle import Bundle
from edgeemo.recognition.recognizer import Recognizer

from . import bundle as bundles
from . import proving, results, to_onnx
from .adaptation_report import Observed, compare, page
from .data import recordings, sounds
from .data.own import named, write_items
from .data.splits import split_items
from .encoders.presence import SpeechAware, outputs_of
from .encoders.restore import VoicePart, restore_voice, set_voice_temperature
from .encoders.voice import SAMPLE_RATE, VoiceEncoder
from .recipes import adapt as recipe
from .recipes import presence
from .words import counted

log = logging.getLogger("edgeemo.export")

SOURCE_SHARES = {"train": 0.6, "develop": 0.15, "test": 0.25}
MOST_PIECES = {"adapt": 1000, "held": 300}
WINDOWS = 6  # contexts of each clip of which the tokens are compared
READER = "edgeemo-export adapt"


@dataclass(frozen=True)
class Material:
    """What is adapted to, and what is held back to measure on.

    Attributes:
        source: samples of the labelled clips, and
        labels: theirs ``[n]``.
        develop: samples of labelled clips of other speakers, by which the temperature is set, and
        develop_labels: theirs.
        target: pieces of the place.
        held_source: items of speakers that are in neither.
        held_target: pieces of other sessions.
        labelled: labelled items of the place that were not adapted to.
    """

    source: list[Tensor]
    labels: Tensor
    develop: list[Tensor]
    develop_labels: Tensor
    target: list[Tensor]
    held_source: list[Item]
    held_target: list[Tensor]
    labelled: list[Item]


def adapt(
    folder: Path,
    target: Path,
    source: Path,
    out: Path,
    labelled: Path | None = None,
    config: recipe.Config = recipe.DEFAULTS,
    unproven: str = "",
) -> dict[str, Any]:
    """Adapt a bundle to recordings of a place; what is written beside it says what changed.

    Args:
        folder: the bundle.
        target: unlabelled recordings of the place, a folder each session.
        source: manifest of labelled voices with their speakers, and perhaps ``split`` (train, develop, test):
            to learn from, to set the temperature by and to measure on.
        out: folder of the new bundle, which is there only if it is not worse. The report is written to
            ``OUT.report.json`` and ``OUT.report.md`` in either case.
        labelled: manifest of labelled voices of the place, measured and not learnt from.
        config: of the training.
        unproven: why its INT8 is not proven on what was held back; empty to prove it.

    Returns:
        the report.

    Raises:
        InputError: something cannot be used, or ``out`` is there already.
        SourceError: a file of a manifest cannot be read.
        BundleError: the bundle is not of the default architecture.
        CheckFailed: the new bundle is worse, or its INT8 is not proven; the message says how.
    """
    if out.exists():
        raise InputError(f"{out}: it is there already; give the new bundle a folder of its own")
    old = Bundle.read(folder)
    part = restore_voice(old)
    material = gather(old, target, source, labelled, config.schedule.seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        work, made = Path(scratch) / "adapt", Path(scratch) / "bundle"
        before = observe(folder, material, Path(scratch))
        encoder = recipe.learn(part, material.source, material.labels, material.target, work, config)
        temperature = recipe.calibrate(part, encoder, material.develop, material.develop_labels)
        encoder = with_presence(part, encoder, material, config.schedule.seed)
        origin = provenance(old, source, material, config)
        try:
            write(old, encoder, temperature, made, material, origin, unproven)
        finally:
            for proof, kept in zip(proving.pages(made), proving.pages(out), strict=True):
                if proof.exists():
                    proof.replace(kept)
        after = observe(made, material, Path(scratch))
        report = compare(before, after, old.labels, asdict(config))
        out.with_name(f"{out.name}.report.json").write_text(json.dumps(report, indent=1) + "\n")
        out.with_name(f"{out.name}.report.md").write_text(page(report))
        if report["refused"]:
            raise CheckFailed(f"the adapted bundle is refused: {'; '.join(report['refused'])}")
        note_results(made, after)
        made.rename(out)
    return report


def gather(old: Bundle, target: Path, source: Path, labelled: Path | None, seed: int) -> Material:
    """Read all recordings and hold some back, by session and by speaker.

    What is measured on is compared by what is heard with all that is learnt from: people copy files, and a
    recording of the place may be labelled, or of the source, too.

    Raises:
        InputError: there are too few, speakers are missing or in two parts, or nothing is left to measure on.
        SourceError: a file of a manifest cannot be read.
    """
    items = read_manifest(source, ("voice",), old.labels, reader=READER)
    items = split_items(source, items, SOURCE_SHARES, unknown=False, seed=seed)
    of = {split: [item for item in items if item.split == split] for split in SOURCE_SHARES}
    known = [] if labelled is None else read_manifest(labelled, ("voice",), old.labels, reader=READER)
    place = recordings.find(target, seed)
    parts = {
        split: recordings.read([item for item in place if item.split == split], most, seed)
        for split, most in MOST_PIECES.items()
    }
    learnt = [_load(source, item) for item in of["train"]]
    heard = recordings.digests(item for item in place if item.split == "adapt")
    heard |= {recordings.digest(samples) for samples in learnt}
    develop = unheard(source, of["develop"], heard)
    return Material(
        source=learnt,
        labels=_labels(old, of["train"]),
        develop=[_load(source, item) for item in develop],
        develop_labels=_labels(old, develop),
        target=parts["adapt"],
        held_source=unheard(source, of["test"], heard),
        held_target=parts["held"],
        labelled=[] if labelled is None else unheard(labelled, known, heard),
    )


def unheard(path: Path, items: Sequence[Item], heard: Collection[str]) -> list[Item]:
    """The items of a manifest that nothing is learnt from, whatever their files are called.

    Args:
        path: the manifest, as messages name it.
        items: of it, at least one.
        heard: digests of what is learnt from.

    Raises:
        InputError: none is left.
        SourceError: a file cannot be read.
    """
    left = [item for item in items if recordings.digest(_load(path, item)) not in heard]
    gone = [item for item in items if item not in left]
    if not gone:
        return left
    which = f"among them line {gone[0].line} ({gone[0].paths['voice'].name})"
    why = "what is heard in them is among the recordings that are adapted to or learnt from"
    if not left:
        split = items[0].split
        part = f"every item of the split {split}" if split else "every item"
        raise InputError(f"{path}: {part} is left out, {which}: {why}; give others")
    log.warning("%s: %s left out, %s: %s", path, counted(len(gone), "item"), which, why)
    return left


def _load(path: Path, item: Item) -> Tensor:
    with named(path, item, "voice"):
        return sounds.load(item.paths["voice"])


def _labels(old: Bundle, items: Sequence[Item]) -> Tensor:
    return torch.tensor([old.labels.index(item.label) for item in items])


# --- what a bundle says


def observe(folder: Path, material: Material, scratch: Path) -> Observed:
    """What the bundle says of all that was held back, as the runtime runs it."""
    part = restore_voice(Bundle.read(folder))
    held = [sounds.load(item.paths["voice"]) for item in material.held_source]
    with edgeemo.load(folder) as model:
        return Observed(
            target=np.stack([_probabilities(model, piece) for piece in material.held_target]),
            source_tokens=_tokens(part.encoder, held),
            target_tokens=_tokens(part.encoder, material.held_target),
            source=_measured(model, material.held_source, scratch),
            labelled=_measured(model, material.labelled, scratch) if material.labelled else None,
            temperature=part.temperature,
        )


def _measured(model: Recognizer, items: Sequence[Item], scratch: Path) -> Report:
    manifest = scratch / "held.csv"
    write_items(manifest, items)
    return evaluate(manifest, model)


def _probabilities(model: Recognizer, piece: Tensor) -> NDArray[np.float64]:
    emotion = model.recognize(voice=piece.numpy(), sample_rate=SAMPLE_RATE)
    if emotion.probabilities is None:
        return np.full(len(model.labels), np.nan)
    return np.array([emotion.probabilities[label] for label in model.labels])


@torch.no_grad()
def _tokens(encoder: VoiceEncoder, heard: Sequence[Tensor]) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.cat([encoder(sounds.draw(sounds.contexts(x), WINDOWS, random)) for x in heard])


# --- the new bundle


def with_presence(part: VoicePart, encoder: VoiceEncoder, material: Material, seed: int) -> VoiceEncoder:
    """The adapted encoder, with a head that says what the bundle's said where it tells who speaks.

    The threshold stays: the new head learns from the old one, on recordings of both sides and made noises.
    """
    if part.presence is None:
        return encoder
    before, heard = SpeechAware(part.encoder, part.presence), [*material.source, *material.target]
    return SpeechAware(encoder, presence.follow(before, encoder, heard, seed))


def write(
    old: Bundle,
    encoder: VoiceEncoder,
    temperature: float,
    folder: Path,
    material: Material,
    origin: dict[str, Any],
    unproven: str,
) -> None:
    """Write the old bundle with another voice encoder, its INT8 encodings calibrated on both sides.

    Args:
        old: whose other graphs are taken, the fusion's with another temperature of the voice alone, the rest
            byte by byte.
        encoder: the adapted one, in the form in which it was restored; `SpeechAware` where the old one is.
        temperature: that temperature.
        folder: of the new bundle.
        material: training clips of the source and pieces of the place, for calibration.
        origin: of the adaptation, for the provenance.
        unproven: why its INT8 is not proven on what was held back; empty to prove it.
    """
    folder.mkdir(parents=True)
    kept = old.files.keys() - old.graphs["voice"].files.values()
    for name in kept:
        (folder / name).write_bytes(old.read_file(name))
    example = {"voice": torch.randn(1, VoiceEncoder.context) * 0.05}
    to_onnx.write(encoder, example, outputs_of(encoder), folder / "voice.fp32.onnx")
    manifest = json.loads((old.path / "manifest.json").read_text())
    digest = hashlib.sha256((folder / "voice.fp32.onnx").read_bytes()).hexdigest()[:8]
    manifest["version"] = f"{old.version}{'.' if '+' in old.version else '+'}adapted.{digest}"
    manifest["graphs"]["voice"]["files"] = {name: f"voice.{name}.onnx" for name in bundles.ENCODINGS}
    adaptations = [*manifest["provenance"].get("adaptations", []), origin]
    manifest["provenance"]["adaptations"] = adaptations
    manifest["results"] = []
    _recalibrate(folder / old.graphs["fusion"].files["fp32"], manifest, temperature)
    held = {"source": material.held_source, "place": material.labelled}
    proof = unproven or proving.on_items(held)
    bundles.finish(folder, manifest, {"voice": _feeds(material, origin["seed"])}, kept, proof=proof)


def _recalibrate(path: Path, manifest: dict[str, Any], temperature: float) -> None:
    """Put the temperature of the voice alone into the fusion's graph and beside it into the manifest.

    What both modalities say together keeps its temperature: nobody's face was recorded with these voices.
    """
    fusion = onnx.load(path)
    try:
        set_voice_temperature(fusion, temperature)
    except KeyError:
        log.warning("the fusion's graph has no temperature of the voice, which keeps the one that it has")
        return
    path.write_bytes(fusion.SerializeToString())
    if "temperatures" in (calibration := manifest.get("calibration", {})):
        calibration["temperatures"]["voice"] = round(temperature, 4)


def _feeds(material: Material, seed: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Contexts for calibration, in turn of the source and of the place."""
    random = torch.Generator().manual_seed(seed)
    sides = (material.source, material.target)
    for turn in range(bundles.CALIBRATION_ITEMS):
        side = sides[turn % 2]
        samples = side[int(torch.randint(len(side), (), generator=random))]
        yield {"voice": sounds.draw(sounds.contexts(samples), 1, random).numpy()}


def provenance(old: Bundle, source: Path, material: Material, config: recipe.Config) -> dict[str, Any]:
    """What the new weights come from: counts and digests, no names of files or people."""
    return {
        "recipe": "edgeemo-export adapt",
        "from": f"{old.name} {old.version}",
        "source": f"{counted(len(material.source), 'clip')} of a manifest with sha256 "
        + hashlib.sha256(source.read_bytes()).hexdigest(),
        "target": f"{counted(len(material.target), 'unlabelled piece')} of up to "
        f"{recordings.PIECE // SAMPLE_RATE} s",
        "temperature": "of the voice alone, by what the new encoder changed on "
        f"{counted(len(material.develop), 'clip')} of other speakers",
        "seed": config.schedule.seed,
        "config": asdict(config),
        "int8": f"voice: symmetric, percentile 99.99, {bundles.CALIBRATION_ITEMS} items of source and place",
        "versions": bundles.versions(),
    }


def note_results(folder: Path, after: Observed) -> None:
    """Put the figures into the manifest, in place of those of the bundle that was adapted."""
    measured = [results.entry("held-out speakers of the source", "voice", "source", "int8", after.source)]
    if after.labelled is not None:
        measured.append(
            results.entry("labelled items of the place", "voice", "place", "int8", after.labelled)
        )
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["results"] = measured
    bundles.write_manifest(folder, manifest)
