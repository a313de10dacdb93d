"""Emotion from a face and a voice, on the device that sees and hears.

The public names are found when they are first used, so that `import edgeemo` costs next to nothing:
onnxruntime comes with the first bundle, OpenCV with the first picture.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from edgeemo.errors import EdgeEmoError

if TYPE_CHECKING:
    from edgeemo.inference.bundle import Bundle
    from edgeemo.recognition.emotion import Emotion
    from edgeemo.recognition.recognizer import Recognizer, load
    from edgeemo.recognition.stream import Stream
    from edgeemo.recognition.watch import watch

__version__ = "0.1.0"

__all__ = ["Bundle", "EdgeEmoError", "Emotion", "Recognizer", "Stream", "__version__", "load", "watch"]

_HOMES = {
    "Bundle": "edgeemo.inference.bundle",
    "Emotion": "edgeemo.recognition.emotion",
    "Recognizer": "edgeemo.recognition.recognizer",
    "Stream": "edgeemo.recognition.stream",
    "load": "edgeemo.recognition.recognizer",
    "watch": "edgeemo.recognition.watch",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgeemo' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
