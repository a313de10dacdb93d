"""Small media files made on the spot."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from edgeemo.capture.source import Sound

FPS, RATE, SIDE = 25, 48000, 64


def end(sound: Sound) -> float:
    """The time just after the last sample."""
    return sound.time + len(sound.samples) / sound.sample_rate


def pictures(seconds: float, flash: float) -> list[NDArray[np.uint8]]:
    """Dark pictures with a white one at `flash`."""
    made = [np.full((SIDE, 2 * SIDE, 3), 30, np.uint8) for _ in range(round(seconds * FPS))]
    made[round(flash * FPS)][:] = 230
    return made


def tone(seconds: float, click: float) -> NDArray[np.float32]:
    """A faint tone that is loud for 10 ms at `click`."""
    sound = 0.01 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)
    sound[round(click * RATE) : round((click + 0.01) * RATE)] *= 80
    return sound.astype(np.float32)


def write_clip(
    path: Path,
    *,
    images: list[NDArray[np.uint8]] | None = None,
    sound: NDArray[np.float32] | None = None,
    begin: float = 0.0,
    options: dict[str, str] | None = None,
) -> Path:
    """Write MPEG-4 video and 16-bit PCM sound, all pictures before all sound."""
    with av.open(str(path), "w", options=options or {}) as container:
        video = container.add_stream("mpeg4", rate=FPS) if images is not None else None
        audio = container.add_stream("pcm_s16le", rate=RATE, layout="mono") if sound is not None else None
        if video is not None and images is not None:
            video.width, video.height, video.pix_fmt = images[0].shape[1], images[0].shape[0], "yuv420p"
            video.codec_context.time_base = Fraction(1, FPS)
            for number, image in enumerate(images):
                frame = av.VideoFrame.from_ndarray(image, format="bgr24")
                frame.pts, frame.time_base = number + round(begin * FPS), Fraction(1, FPS)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio is not None and sound is not None:
            for first in range(0, len(sound), 960):
                block = (sound[None, first : first + 960] * 32767).astype(np.int16)
                samples = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
                samples.sample_rate, samples.time_base = RATE, Fraction(1, RATE)
                samples.pts = first + round(begin * RATE)
                container.mux(audio.encode(samples))
            container.mux(audio.encode(None))
    return path


def cut(path: Path, target: Path, share: float = 0.6) -> Path:
    """The first part of a file."""
    content = path.read_bytes()
    target.write_bytes(content[: int(len(content) * share)])
    return target
