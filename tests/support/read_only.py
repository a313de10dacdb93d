"""A file system that is mounted read-only, also for root, whom rights do not stop."""

from __future__ import annotations

import os
from typing import Any

import pytest


def mount_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on opening a file to write it through `os.open` fails, as on such a file system."""
    real = os.open

    def refuse(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(30, "Read-only file system", str(path))
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
