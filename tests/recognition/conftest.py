from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeemo.recognition.recognizer import Recognizer
from tests.recognition.fakes import GEOMETRY, fake_model
from tests.support.tiny import Tiny, write_bundle

Build = Callable[..., Recognizer]


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"), tiny, geometry=GEOMETRY)


@pytest.fixture
def model(tiny_folder: Path, tiny: Tiny) -> Recognizer:
    """The tiny model with numpy graphs; its finder sees one face."""
    return fake_model(tiny_folder, tiny, (20.0, 20.0, 40.0, 40.0))


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Builds a model of other sizes: build(Tiny(...), boxes, **keys of the manifest)."""

    def made(tiny: Tiny, *boxes: tuple[float, float, float, float], **changes: object) -> Recognizer:
        return fake_model(write_bundle(tmp_path / "bundle", tiny, geometry=GEOMETRY, **changes), tiny, *boxes)

    return made
