"""The page of encoders and teachers, on made-up pictures and sounds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgeemo.errors import InputError
from edgeemo_export import encoders_page, states
from edgeemo_export.recipes import distilled
from edgeemo_export.recipes.face import FaceModel
from edgeemo_export.recipes.voice import VoiceModel
from tests.support import made_corpora


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    made_corpora.replace_readers(monkeypatch)
    torch.manual_seed(0)
    for name, size in (("small", "edge"), ("one", "base"), ("two", "base")):
        for part, model in (("face", FaceModel(size=size)), ("voice", VoiceModel(size=size))):
            (tmp_path / name / part).mkdir(parents=True)
            states.write({"averaged": model.state_dict()}, tmp_path / name / part / "state.pt")
    (tmp_path / "small" / "face" / distilled.TEACHERS).write_text("")
    return [tmp_path / name for name in ("small", "one", "two")]


def test_every_encoder_and_the_teachers_together_have_a_row(runs: list[Path], tmp_path: Path) -> None:
    encoders_page.write(tmp_path, runs, runs[1:], tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    faces, voices = (part.splitlines() for part in text.split("## Faces")[1].split("## Voices"))
    for lines in (faces, voices):
        table = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
        assert [row[0] for row in table] == ["run", "small", "one", "two", "together"]
        assert len({len(row) for row in table}) == 1
        work = [float(row[2].removesuffix(" M")) for row in table[1:]]
        assert work[0] < work[1] == work[2]
        assert work[3] == pytest.approx(2 * work[1], abs=1.0)
        assert all(0.0 <= float(cell) <= 1.0 for row in table[1:] for cell in row[4:])
    (taught,) = (line for line in text.splitlines() if "| yes |" in line)
    assert taught.startswith("| small |") and taught in faces


def test_a_teacher_that_is_no_run_is_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="elsewhere: it is not among --runs"):
        encoders_page.write(tmp_path, runs, [tmp_path / "elsewhere"], tmp_path / "page.md")
