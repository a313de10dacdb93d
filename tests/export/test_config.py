from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from pathlib import Path
from typing import Literal

import pytest

from edgeemo.errors import InputError
from edgeemo_export import config
from edgeemo_export.train import Schedule


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    steps: int = 3


SCHEDULE = Schedule(epochs=70)


@dataclass(frozen=True)
class Config:
    inner: Inner = Inner()
    schedule: Schedule = SCHEDULE
    name: str = "voice"
    mixed: bool = True
    widths: tuple[int, ...] = (24, 40)
    alignment: Literal["lmmd", "ida"] = "lmmd"
    limit: int | None = None


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        ([], Config()),
        (["inner.steps=5"], Config(inner=Inner(steps=5))),
        (["inner.rate=5"], Config(inner=Inner(rate=5.0))),
        (["inner.rate = 1e-3 ", "inner.steps=-2"], Config(inner=Inner(rate=1e-3, steps=-2))),
        (["inner.steps=4", "inner.steps=6"], Config(inner=Inner(steps=6))),
        (["schedule.epochs=5"], Config(schedule=Schedule(epochs=5))),
        (["name=a=b"], Config(name="a=b")),
        (["mixed=false"], Config(mixed=False)),
        (["widths=8, 16,32"], Config(widths=(8, 16, 32))),
        (["widths="], Config(widths=())),
        (["alignment=ida"], Config(alignment="ida")),
        (["limit=7"], Config(limit=7)),
        (["limit=7", "limit=none"], Config()),
    ],
)
def test_settings_are_changed_by_name(assignments: list[str], expected: Config) -> None:
    given = Config()
    found = config.override(given, assignments)
    assert found == expected and given == Config()
    for field in fields(expected):
        assert type(getattr(found, field.name)) is type(getattr(expected, field.name))
    assert isinstance(found.inner.rate, float)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("inner.steps", "must be NAME=VALUE"),
        ("epochs=5", "no setting 'epochs'; there are inner, schedule, name"),
        ("schedule.epoch=5", "no setting 'epoch'; there are epochs, rate"),
        ("inner=5", "inner is a group; set one of inner.rate, inner.steps"),
        ("name.long=5", "name has no settings of its own"),
        ("inner.steps=5.5", "it must be a whole number"),
        ("inner.rate=fast", "it must be a number"),
        ("inner.rate=nan", "it must be finite"),
        ("mixed=yes", "it must be true or false"),
        ("alignment=mmd", "it must be one of lmmd, ida"),
        ("widths=8,x", "it must be a whole number"),
        ("limit=", "it must be a whole number"),
        ("schedule.epochs=0", "epochs 0; it must be 1 or more"),
        ("=5", "no setting ''"),
    ],
)
def test_what_cannot_be_set_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        config.override(Config(), [assignment])
    assert message in str(refused.value)


def test_settings_are_kept_with_the_run_and_read_back(tmp_path: Path) -> None:
    given = Config(inner=Inner(rate=0.1), widths=(1, 2, 3), limit=4, alignment="ida")
    config.keep(given, tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["inner"] == {"rate": 0.1, "steps": 3} and stored["widths"] == [1, 2, 3]
    before = (tmp_path / "run" / "config.json").stat().st_mtime_ns
    config.keep(given, tmp_path / "run")
    assert (tmp_path / "run" / "config.json").stat().st_mtime_ns == before
    assert config.kept(tmp_path / "run", Config()) == given
    assert config.kept(tmp_path / "none", Config()) == Config()


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    config.keep(Config(), tmp_path)
    other = replace(Config(), schedule=Schedule(epochs=5), widths=(8,))
    with pytest.raises(InputError) as refused:
        config.keep(other, tmp_path)
    message = str(refused.value)
    assert message.startswith(f"{tmp_path / 'config.json'}: the run was begun with other settings: ")
    assert "schedule.epochs was 70 and is 5; widths was [24, 40] and is [8]; give those" in message
    assert "inner" not in message
    assert config.kept(tmp_path, Config()) == Config()


def test_settings_of_another_version_are_named(tmp_path: Path) -> None:
    config.keep(Config(), tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["inner"]["rate"]
    stored["old"] = 1
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(
        InputError, match=r"old was 1 and is no longer set; inner.rate was not set and is 0.5"
    ):
        config.keep(Config(), tmp_path)
    with pytest.raises(InputError, match=r"config.json: it holds no settings of this recipe"):
        config.kept(tmp_path, Config())


@pytest.mark.parametrize("text", ["{", "[1, 2]", '"word"', '{"inner": 3}'])
def test_a_broken_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        config.keep(Config(), tmp_path)
    with pytest.raises(InputError, match=r"config\.json"):
        config.kept(tmp_path, Config())


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().name = "face"  # type: ignore[misc]
