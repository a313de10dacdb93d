"""Where real recordings and the default model are, for the tests that need them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.device_page import DevicePage

ROOT = Path(__file__).resolve().parent.parent

# Tests import ONNX Runtime themselves; edgeemo sees to this before it does.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device-page", type=Path, metavar="FILE", help="page that the GPU tests report to")


def pytest_configure(config: pytest.Config) -> None:
    page = config.getoption("--device-page")
    if page is not None:
        config.pluginmanager.register(DevicePage(page))


@pytest.fixture(autouse=True)
def _no_cache_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that names a cache by XDG_CACHE_HOME must not be overruled."""
    monkeypatch.delenv("EDGEEMO_CACHE", raising=False)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real recordings: EDGEEMO_DATA, else shared/data next to the project."""
    folder = Path(os.environ.get("EDGEEMO_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no recordings at {folder}; EDGEEMO_DATA names their folder")
    return folder


@pytest.fixture(scope="session")
def default_bundle() -> Path:
    """The folder of the bundle in the wheel."""
    folder = ROOT / "edgeemo" / "bundles" / "default"
    if not (folder / "manifest.json").is_file():
        pytest.skip(f"no default bundle at {folder}")
    return folder
