from __future__ import annotations

from pathlib import Path

import pytest

from edgeemo.cache import folder


@pytest.mark.parametrize(
    ("variables", "kind", "right"),
    [
        ({}, "", "home/.cache/edgeemo"),
        ({}, "engines", "home/.cache/edgeemo/engines"),
        ({"XDG_CACHE_HOME": "xdg"}, "engines", "xdg/edgeemo/engines"),
        ({"XDG_CACHE_HOME": ""}, "", "home/.cache/edgeemo"),  # empty counts as not set
        ({"EDGEEMO_CACHE": "own", "XDG_CACHE_HOME": "xdg"}, "engines", "own/engines"),
        ({"EDGEEMO_CACHE": "", "XDG_CACHE_HOME": "xdg"}, "", "xdg/edgeemo"),
    ],
)
def test_folder(variables: dict[str, str], kind: str, right: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDGEEMO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Path, "home", lambda: Path("home"))
    assert folder(kind) == Path(right)


def test_without_a_home_there_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    for name in ("EDGEEMO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match="home"):
        folder("engines")
