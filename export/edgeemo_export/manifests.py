"""Writes the protocol's test sets as manifests that ``edgeemo evaluate`` reads."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import torch

from .data import ferplus, voices
from .data.labels import LABELS, RAVDESS
from .data.tokens import pair_by_label

PAIRS = 3000


def write_all(data: Path, folder: Path) -> dict[str, Path]:
    """Write the manifests of every test set under ``folder``.

    Returns:
        The manifest of each set: ``ferplus`` (cropped pictures), ``ravdess``, ``emodb`` and ``nemo``
        (voices), ``pairs`` (a cropped FER+ test picture with a RAVDESS or EmoDB test voice of the same
        label) and ``clips`` (actor 01, camera pictures with the voice of the same recording).
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = write_pictures(data, folder / "ferplus-test", "test")
    tests = voices.read(data, "test")
    manifests = {"ferplus": write_rows(folder / "ferplus.csv", pictures)}
    for corpus in ("ravdess", "emodb", "nemo"):
        rows = [voice_row(clip) for clip in tests if clip.corpus == corpus]
        manifests[corpus] = write_rows(folder / f"{corpus}.csv", rows)
    manifests["pairs"] = write_rows(
        folder / "pairs.csv", pairs(pictures, [c for c in tests if c.corpus != "nemo"])
    )
    manifests["clips"] = write_rows(folder / "clips.csv", audio_visual(data))
    return manifests


def pairs(pictures: list[dict[str, str]], clips: list[voices.Clip], seed: int = 0) -> list[dict[str, str]]:
    """Pairs of a picture and a voice with one label, every voice about equally often."""
    faces = torch.tensor([LABELS.index(row["label"]) for row in pictures])
    heard = torch.tensor([LABELS.index(clip.label) for clip in clips])
    seen, said = pair_by_label(faces, heard, PAIRS, torch.Generator().manual_seed(seed))
    return [
        {**voice_row(clips[b]), "face": pictures[a]["face"]}
        for a, b in zip(seen.tolist(), said.tolist(), strict=True)
    ]


def audio_visual(data: Path) -> list[dict[str, str]]:
    """The 26 audio-visual clips of actor 01: the folder of pictures and the sound file of one recording."""
    rows = []
    for folder in sorted((data / "ravdess_faces").iterdir()):
        voice = data / "ravdess_speech" / "actor_01" / f"03{folder.name[2:]}.flac"
        label = RAVDESS[folder.name.split("-")[2]]
        rows.append(
            {
                "label": label,
                "speaker": "ravdess-01",
                "face": str(folder.resolve()),
                "voice": str(voice.resolve()),
            }
        )
    return rows


def voice_row(clip: voices.Clip) -> dict[str, str]:
    """The line of a clip in a manifest."""
    return {"label": clip.label, "speaker": clip.speaker, "voice": str(clip.path.resolve())}


def write_pictures(data: Path, folder: Path, split: str) -> list[dict[str, str]]:
    """Write the pictures of a split of FER+ that have a majority, and give their lines of a manifest."""
    folder.mkdir(exist_ok=True)
    faces = ferplus.read(data / "ferplus", split)
    rows = []
    for place in (faces.majority >= 0).nonzero()[0].tolist():
        path = folder / f"{place:05}.png"
        if not path.exists():
            cv2.imwrite(str(path), faces.images[place])
        rows.append({"label": LABELS[faces.majority[place]], "face": str(path.resolve())})
    return rows


def write_rows(path: Path, rows: Iterable[Mapping[str, str]]) -> Path:
    """Write a manifest of lines that all have the same columns, at least one."""
    rows = list(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
