"""Which networks stand beside edgeemo, what each reads, and what is published of its size."""

from __future__ import annotations

from dataclasses import dataclass

SAMPLE_RATE = 16000
SPEECH_WINDOW = 3.0
"""Seconds of sound that a peer reads in each update."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One network of others, rebuilt with random weights: time does not depend on them.

    Attributes:
        name: of its file and in the options.
        title: in a table.
        reads: 'face' or 'voice'.
        shape: of its input, float32: [1, channels, height, width], or [1, samples] for a voice.
        published: its size as its authors give it, and where.
    """

    name: str
    title: str
    reads: str
    shape: tuple[int, ...]
    published: str


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "efficientnet-b0",
            "EfficientNet-B0, 224 px (HSEmotion, EmotiEffLib)",
            "face",
            (1, 3, 224, 224),
            "5.3 M with 1000 classes, 4.0 M with 8 (Tan and Le, 2019)",
        ),
        Peer(
            "mobilefacenet",
            "MobileFaceNet, 112 px (OpenCV Zoo)",
            "face",
            (1, 3, 112, 112),
            "0.99 M with an embedding of 128 (Chen et al., 2018); OpenCV Zoo's file is 4.79 MB",
        ),
        Peer(
            "mini-xception",
            "mini-Xception, 64 px (face_classification)",
            "face",
            (1, 1, 64, 64),
            "about 60 k (Arriaga et al., 2017)",
        ),
        Peer(
            "wav2vec2",
            f"wav2vec 2.0 base, {SPEECH_WINDOW:g} s",
            "voice",
            (1, int(SPEECH_WINDOW * SAMPLE_RATE)),
            "95 M (Baevski et al., 2020)",
        ),
        Peer(
            "wav2small-like",
            f"Wav2Small-like, {SPEECH_WINDOW:g} s",
            "voice",
            (1, int(SPEECH_WINDOW * SAMPLE_RATE)),
            "72 k (Kounadis-Bastian et al., 2024)",
        ),
    )
}
"""By name, in the order of the tables."""
