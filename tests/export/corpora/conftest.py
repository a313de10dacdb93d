from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest


@pytest.fixture
def plant(tmp_path: Path) -> Callable[..., Path]:
    """Makes a tree of files: of each name its content, or the name itself, so that none is a copy."""

    def grow(*names: str, texts: Mapping[str, str] | None = None, root: str = "corpus") -> Path:
        folder = tmp_path / root
        for name, text in {**{name: name for name in names}, **(texts or {})}.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return folder

    return grow
