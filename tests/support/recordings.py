"""Tiny recordings that a test makes: sounds and pictures whose content it knows."""

from __future__ import annotations

import csv
import wave
from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

RATE = 8000


def noise(seed: int, seconds: float, amplitude: float = 0.1) -> NDArray[np.int16]:
    """White noise, 16 bits at 8 kHz, of about `amplitude` RMS."""
    samples = np.random.default_rng(seed).normal(0, amplitude, round(seconds * RATE))
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def write_wav(path: Path, samples: NDArray[np.int16], rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def write_flac(path: Path, samples: NDArray[np.int16], rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=rate)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return path


def write_picture(path: Path, level: int, size: int = 8, seed: int = 0) -> Path:
    """A picture of about the grey `level`, by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.random.default_rng([level, seed]).integers(level - 3, level + 4, (size, size))
    assert cv2.imwrite(str(path), np.clip(grey, 0, 255).astype(np.uint8))
    return path


def write_manifest(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path
