"""Files of trained tensors: whole or not there, and safe to read."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from edgeemo.errors import InputError
from edgeemo_export import states


class Trap:
    """Runs something when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("trapped"),)  # type: ignore[return-value]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    states.write({"epoch": 3, "model": {"weight": torch.eye(2)}}, tmp_path / "state.pt")
    read = states.read(tmp_path / "state.pt")
    assert read["epoch"] == 3 and torch.equal(read["model"]["weight"], torch.eye(2))
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    states.write({"epoch": 3}, path)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        states.write({"epoch": lambda: 4}, path)
    assert states.read(path) == {"epoch": 3}


def test_damage_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    states.write({"weight": torch.arange(1000.0)}, path)
    whole = path.read_bytes()
    for content in (b"", b"no state", whole[:-200], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"state\.pt: it is damaged or no trained state"):
            states.read(path)
    torch.save([1.0], path)
    with pytest.raises(InputError, match="it holds list; a trained state is a dictionary"):
        states.read(path)


def test_a_foreign_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "state.pt").write_bytes(pickle.dumps({"model": Trap()}))
    with pytest.raises(InputError):
        states.read(tmp_path / "state.pt")
    assert not (tmp_path / "trapped").exists()
