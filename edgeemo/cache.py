"""Where this user's files that can be made or fetched again are kept."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "EDGEEMO_CACHE"


def folder(kind: str = "") -> Path:
    """Return the folder of one kind of file; nothing is made.

    It lies in $EDGEEMO_CACHE, else in ``edgeemo`` in $XDG_CACHE_HOME, else in ``~/.cache/edgeemo``.

    Args:
        kind: its name in the cache, empty for the cache itself.

    Raises:
        RuntimeError: nothing names a folder: this user has no home.
    """
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own) / kind
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgeemo" / kind
