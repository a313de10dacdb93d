"""Whether a bundle that is written may carry its INT8 graphs: they are proven, or somebody says why not."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeemo.errors import CheckFailed, InputError
from edgeemo.evaluate import Item
from edgeemo_calibration import page
from edgeemo_calibration.prove import Dataset, Proof, prove

from . import manifests
from .data import transcripts, voices
from .data.own import write_items

log = logging.getLogger("edgeemo.export")

Prover = Callable[[Path], Proof]
"""Proves the bundle in a folder."""

DEVELOPED_ON = ("ravdess", "emodb")
"""The corpora of voices that have a development split."""


def entry(
    folder: Path,
    manifest: dict[str, Any],
    write: Callable[[Path, dict[str, Any]], None],
    proof: Prover | str | None,
) -> dict[str, Any] | None:
    """The manifest's ``proof`` of a bundle whose files are written and described; None without INT8 graphs.

    The page and the figures of a proof, passed or not, are written to ``FOLDER.proof.html`` and ``.json``.

    Args:
        folder: of the bundle, which need not have a manifest yet.
        manifest: with its ``files``.
        write: writes a manifest into a folder.
        proof: proves the bundle, or says why its INT8 graphs stay unproven.

    Raises:
        CheckFailed: INT8 does not pass, or there is neither a proof nor a reason.
    """
    encodings = {encoding for graph in manifest["graphs"].values() for encoding in graph["files"]}
    if not encodings & {"int8", "int8-cpu"}:
        return None
    if isinstance(proof, str) and proof.strip():
        log.warning("%s: its INT8 graphs are not proven: %s", folder, proof)
        return {"passed": False, "unproven": proof}
    if proof is None or isinstance(proof, str):
        raise CheckFailed(f"{folder}: its INT8 graphs are not proven; prove them, or say why they stay so")
    with (
        tempfile.TemporaryDirectory() as scratch
    ):  # a copy, so that nothing unproven describes itself in the folder
        copy = Path(scratch) / "bundle"
        copy.mkdir()
        for name in manifest["files"]:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, copy / name)
        write(copy, manifest)
        found = proof(copy)
    html, json = pages(folder)
    page.write(found, html, json)
    log.info("%s\n%s", html, found)
    if not found.passed:
        raise CheckFailed(
            f"{folder}: INT8 is not proven: {'; '.join(found.failures)}; {html} says more. "
            "With --unproven WHY it is written all the same"
        )
    return found.entry()


def pages(folder: Path) -> tuple[Path, Path]:
    """Where the page of a bundle's proof and its figures lie: beside the folder."""
    return folder.with_name(f"{folder.name}.proof.html"), folder.with_name(f"{folder.name}.proof.json")


def on_corpora(
    data: Path, modalities: Sequence[str], labels: Sequence[str], corpora: Sequence[str] = DEVELOPED_ON
) -> Prover:
    """Proves on the development splits: the cut of FER+ as crops, and the voices of each corpus.

    Args:
        data: the corpora.
        modalities: of the bundle; with a text, what is said is given where that is known.
        labels: of the bundle; what has another one is left out.
        corpora: of voices.
    """

    def prover(folder: Path) -> Proof:
        with tempfile.TemporaryDirectory() as scratch:
            work, sets = Path(scratch), []
            if "face" in modalities:
                rows = manifests.write_pictures(data, work / "pictures", "develop")
                sets.append(_listed(work / "ferplus-develop.csv", rows, labels, cropped=True))
            for corpus in corpora if "voice" in modalities else ():
                rows = _voices(data, corpus, "text" in modalities)
                sets.append(_listed(work / f"{corpus}-develop.csv", rows, labels))
            return prove(folder, sets)

    return prover


def _voices(data: Path, corpus: str, texts: bool) -> list[dict[str, str]]:
    clips = voices.read(data, "develop", (corpus,))
    rows = [manifests.voice_row(clip) for clip in clips]
    if texts and corpus in transcripts.CORPORA:
        said = transcripts.read(data, clips)
        rows = [{**row, "text": text} for row, text in zip(rows, said, strict=True)]
    return rows


def _listed(
    path: Path, rows: Sequence[Mapping[str, str]], labels: Sequence[str], *, cropped: bool = False
) -> Dataset:
    known = [row for row in rows if row["label"] in labels]
    if not known:
        raise InputError(
            f"{path.stem}: no item has one of the labels {', '.join(labels)}; INT8 cannot be proven on it"
        )
    manifests.write_rows(path, known)
    return Dataset(path, cropped)


def on_items(sets: Mapping[str, Sequence[Item]], *, cropped: bool = False) -> Prover:
    """Proves on items of manifests.

    Args:
        sets: items of each set, by its name; a set without any is left out.
        cropped: their pictures already are face crops.
    """

    def prover(folder: Path) -> Proof:
        with tempfile.TemporaryDirectory() as scratch:
            datasets = []
            for name, items in sets.items():
                if items:
                    write_items(Path(scratch) / f"{name}.csv", items)
                    datasets.append(Dataset(Path(scratch) / f"{name}.csv", cropped))
            return prove(folder, datasets)

    return prover
