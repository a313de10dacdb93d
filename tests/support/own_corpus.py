"""A labelled corpus of tones and bars: the pitch and the width of the bars are the label.

Speakers differ in what must not matter: how loud and how dull they sound, how bright their pictures are.
"""

from __future__ import annotations

import csv
import wave
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE = 16000


def tone(label: int, speaker: int, take: int, seconds: float = 0.4, dull: float = 0.0) -> NDArray[np.float32]:
    """A tone with its octave, in noise; ``dull`` mixes each sample with the one before."""
    random = np.random.default_rng((label, speaker, take))
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = 250.0 * 1.8**label * random.uniform(0.97, 1.03)
    wave_ = np.sin(2 * np.pi * pitch * time) + 0.4 * np.sin(4 * np.pi * pitch * time)
    wave_ += 0.05 * random.normal(size=len(time))
    wave_[1:] += (dull + 0.05 * speaker) * wave_[:-1]
    return np.asarray(0.08 * (1 + 0.2 * speaker) * wave_, np.float32)


def bars(label: int, speaker: int, take: int) -> NDArray[np.uint8]:
    """A grey crop ``[48, 48]`` of bars, wider for later labels."""
    random = np.random.default_rng((label, speaker, take, 1))
    wave_ = np.sin(np.arange(48) * 2 * np.pi / (4.0 * 1.9**label) + random.uniform(0, 6.28))
    picture = 110 + 10 * speaker + 70 * wave_[:, None] + random.normal(0, 4, (48, 48))
    return np.asarray(picture.clip(0, 255), np.uint8)


def write_sound(path: Path, samples: NDArray[np.float32]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return path


def write_picture(path: Path, picture: NDArray[np.uint8]) -> Path:
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture)
    return path


def write_manifest(path: Path, rows: Iterable[Mapping[str, str]]) -> Path:
    given = list(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(key for row in given for key in row)))
        writer.writeheader()
        writer.writerows(given)
    return path


def write_corpus(
    folder: Path,
    labels: tuple[str, ...],
    speakers: int = 4,
    takes: int = 2,
    modalities: tuple[str, ...] = ("face", "voice"),
) -> Path:
    """Write pictures, sounds and ``manifest.csv``; two pictures an item, paths relative."""
    rows = []
    for speaker in range(speakers):
        for place, label in enumerate(labels):
            for take in range(takes):
                name = f"{label}-{speaker}-{take}"
                row = {"label": label, "speaker": f"s{speaker}"}
                if "voice" in modalities:
                    write_sound(folder / f"{name}.wav", tone(place, speaker, take))
                    row["voice"] = f"{name}.wav"
                if "face" in modalities:
                    for number in range(2):
                        picture = bars(place, speaker, 2 * take + number)
                        write_picture(folder / name / f"{number}.png", picture)
                    row["face"] = name
                rows.append(row)
    return write_manifest(folder / "manifest.csv", rows)
