"""Encoders that learn from teachers, on made-up pictures and sounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgeemo.errors import InputError
from edgeemo_export.data import sounds
from edgeemo_export.data.labels import LABELS
from edgeemo_export.recipes import distilled
from edgeemo_export.recipes.face import FaceModel
from edgeemo_export.recipes.voice import VoiceModel
from edgeemo_export.train import Schedule
from tests.support import made_corpora

ONE = Schedule(epochs=1, rate=1e-3, seed=3)
FACE = replace(distilled.FACE, schedule=ONE, batch=7, takes=2)
VOICE = replace(distilled.VOICE, schedule=ONE, batch=7, windows=2, takes=2)
TEACHERS_ALONE = distilled.Lesson(answers=1.0, tokens=0.0, relations=0.0)
Run = Callable[..., nn.Module]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    return made_corpora.replace_readers(monkeypatch)


def run_face(folder: Path, teachers: list[FaceModel], config: distilled.FaceConfig = FACE) -> FaceModel:
    return distilled.face_of(folder, folder / "face", teachers, config)


def run_voice(folder: Path, teachers: list[VoiceModel], config: distilled.VoiceConfig = VOICE) -> VoiceModel:
    return distilled.voice_of(folder, folder / "voice", teachers, config)


def test_a_face_learns_from_larger_ones(read: set[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    teachers = [FaceModel(size="base"), FaceModel(size="large")]
    student = run_face(tmp_path, teachers)
    assert read == {"faces train", "faces develop"}
    assert {key: value.shape for key, value in student.state_dict().items()} == {
        key: value.shape for key, value in FaceModel(size="edge").state_dict().items()
    }
    (line,) = (tmp_path / "face" / "curve.jsonl").read_text().splitlines()
    figures = json.loads(line)
    assert {"loss_labels", "loss_answers", "loss_tokens", "loss_relations"} <= figures.keys()
    assert all(figures[key] > 0 for key in figures if key.startswith("loss"))
    again = run_face(tmp_path, teachers)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in student.state_dict().items())
    with pytest.raises(InputError, match="begun with other teachers"):
        run_face(tmp_path, teachers[::-1])


def test_a_voice_learns_from_larger_ones(read: set[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    teachers = [VoiceModel(size="base"), VoiceModel(size="large")]
    student = run_voice(tmp_path, teachers)
    assert read == {"voices train", "voices develop"}
    (line,) = (tmp_path / "voice" / "curve.jsonl").read_text().splitlines()
    figures = json.loads(line)
    assert all(figures[f"loss_{name}"] > 0 for name in ("labels", "answers", "tokens", "relations"))
    again = run_voice(tmp_path, teachers)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in student.state_dict().items())
    with pytest.raises(InputError, match="begun with other settings"):
        run_voice(tmp_path, teachers, replace(VOICE, varied=0.1))


def decided(model: FaceModel | VoiceModel, label: str) -> FaceModel | VoiceModel:
    """A teacher that answers one label, whatever it is given."""
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    with torch.no_grad():
        model.head.bias[LABELS.index(label)] = 30.0
    return model


def test_the_answers_of_the_teachers_are_what_is_learnt(read: set[str], tmp_path: Path) -> None:
    teacher = decided(FaceModel(), "fear")
    assert isinstance(teacher, FaceModel)
    config = replace(FACE, lesson=TEACHERS_ALONE, schedule=replace(ONE, epochs=12, rate=2e-2, average=0.0))
    student = run_face(tmp_path, [teacher], config)
    crops = torch.from_numpy(made_corpora.faces("develop").images)[..., None]
    with torch.no_grad():
        answers = student.eval()(crops).argmax(1)
    assert (answers == LABELS.index("fear")).all()


def test_without_a_teacher_it_is_refused(read: set[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--teachers"):
        run_face(tmp_path, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": 1.1}, "answers"),
        ({"temperature": 0.0}, "temperature"),
        ({"tokens": -1.0}, "tokens"),
        ({"relations": -1.0}, "relations"),
    ],
)
def test_lessons_out_of_range(change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        distilled.Lesson(**change)


def mels(seed: int) -> Tensor:
    return torch.randn(6, 3, 64, 66, generator=torch.Generator().manual_seed(seed))


def test_varied_contexts_of_a_clip_change_alike() -> None:
    given = mels(0)[:, :1].expand(-1, 3, -1, -1)
    made = sounds.vary(given, 1.0, torch.Generator().manual_seed(1))
    assert made.shape == given.shape
    for other in (1, 2):
        torch.testing.assert_close(made[:, 0], made[:, other])
    assert ((made - given).abs().mean(dim=(1, 2, 3)) > 0.05).all()


def test_varied_by_chance() -> None:
    given = mels(0)
    assert torch.equal(sounds.vary(given, 0.0, torch.Generator().manual_seed(1)), given)
    half = sounds.vary(given.repeat(50, 1, 1, 1), 0.5, torch.Generator().manual_seed(1))
    share = (half != given.repeat(50, 1, 1, 1)).flatten(1).any(dim=1).float().mean()
    assert 0.4 < share < 0.6
