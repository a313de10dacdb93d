"""Where pictures and sound come from: files, cameras and microphones, each on one clock."""

from __future__ import annotations

from edgeemo.capture.source import Frame, Sound, Source, open_source

__all__ = ["Frame", "Sound", "Source", "open_source"]
