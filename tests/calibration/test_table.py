from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeemo.errors import InputError
from edgeemo_calibration.table import Activation, Operator, Table, Weight, shortest

TABLE = Table(
    method="percentile",
    percentile=99.9,
    samples=3,
    data_sha256="0" * 64,
    model_sha256="a" * 64,
    activations={"x": Activation(1.0, shortest(1 / 127)), "y": Activation(2.0, 0.01)},
    weights={"trunk.weight": Weight(0, (0.01, shortest(1 / 3)))},
    operators={"c": Operator("Conv", "x", "trunk.weight", "y")},
    residuals={"sum": "x"},
)
NEW = ("equalisation", "corrections", "floating")
FULL = dataclasses.replace(
    TABLE,
    equalisation={"x": (0.5, 2.0, 1.0)},
    corrections={"c": (0.001, -0.25)},
    floating=("d", "e"),
)


@pytest.mark.parametrize("table", [TABLE, FULL])
def test_a_table_is_read_back_as_it_was_written(table: Table, tmp_path: Path) -> None:
    table.write(tmp_path / "t.json")
    assert Table.read(tmp_path / "t.json") == table
    assert Table.read(tmp_path / "t.json").digest == table.digest


def canonical(entries: dict[str, Any]) -> str:
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_digest_is_that_of_the_canonical_json(tmp_path: Path) -> None:
    FULL.write(tmp_path / "t.json")
    entries = json.loads((tmp_path / "t.json").read_text())
    assert entries["schema"] == 2
    assert FULL.digest == canonical(entries)


def test_a_table_of_schema_1_is_read_and_keeps_its_digest(tmp_path: Path) -> None:
    entries = json.loads(json.dumps(dataclasses.asdict(TABLE)))
    old = {"schema": 1, **{name: value for name, value in entries.items() if name not in NEW}}
    (tmp_path / "old.json").write_text(json.dumps(old))
    table = Table.read(tmp_path / "old.json")
    assert table == TABLE
    assert table.digest == canonical(old)
    assert (table.equalisation, table.corrections, table.floating) == ({}, {}, ())


@pytest.mark.parametrize("name", NEW)
def test_what_is_new_is_in_the_digest(name: str) -> None:
    changed = dataclasses.replace(TABLE, **{name: getattr(FULL, name)})
    assert changed.digest not in (TABLE.digest, FULL.digest)


def test_any_other_scale_has_another_digest() -> None:
    moved = dataclasses.replace(TABLE, activations={**TABLE.activations, "y": Activation(2.0, 0.010000001)})
    turned = dataclasses.replace(TABLE, activations=dict(reversed(TABLE.activations.items())))
    assert moved.digest != TABLE.digest
    assert turned.digest == TABLE.digest  # the order of the entries says nothing


def test_each_weight_takes_one_line(tmp_path: Path) -> None:
    TABLE.write(tmp_path / "t.json")
    assert '   "scales": [ 0.01, 0.33333334 ]\n' in (tmp_path / "t.json").read_text()


@pytest.mark.parametrize("value", [1 / 127, 1e-30, 3.4e38, 0.1])
def test_shortest_is_the_same_number_in_fp32(value: float) -> None:
    assert np.float32(shortest(value)) == np.float32(value)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["schema"], 3, '"schema": 1 or 2'),
        (["schema"], True, '"schema": 1 or 2'),
        (["equalisation", "x"], [1.0, 0.0], "equalisation 'x': divisors must be positive"),
        (["equalisation", "x"], "1", "equalisation must be Mapping"),
        (["corrections", "c"], [1.0, float("inf")], "corrections 'c' must be finite"),
        (["corrections", "z"], [1.0], "corrections 'z': no operator of this name is quantised"),
        (["floating"], "c", "floating must be tuple"),
        (["floating"], ["c"], "floating 'c' is among the quantised operators too"),
        (["method"], "magic", "method 'magic' is unknown; it must be one of min-max"),
        (["percentile"], None, "percentile is None with the method 'percentile'"),
        (["samples"], 0, "samples is 0"),
        (["samples"], True, "samples must be int, not True"),
        (["percentile"], float("nan"), "percentile nan is outside (0, 100]"),
        (["percentile"], 100.5, "percentile 100.5 is outside (0, 100]"),
        (["activations", "x", "scale"], 10**400, "activations 'x': scale must be float, not 1000"),
        (["weights", "trunk.weight", "scales"], [10**400], "scales must be tuple[float, ...]"),
        (["corrections", "c"], [10**400], "corrections must be Mapping"),
        (["corrections", "c"], [1e39], "corrections 'c' must be finite"),  # infinite in FP32
        (["model_sha256"], "xyz", "model_sha256 must be 64 hexadecimal digits"),
        (["extra"], 1, "must have exactly the keys"),
        (["activations"], [], "activations must be an object"),
        (["activations", "x"], {"scale": 1.0}, "activations 'x' must have exactly the keys absmax, scale"),
        (["activations", "x", "scale"], 0.0, "activation 'x': absmax and scale must be positive"),
        (["activations", "x", "scale"], float("nan"), "activation 'x': absmax and scale must be positive"),
        (["activations", "x", "scale"], 1e-50, "activation 'x'"),  # zero in FP32
        (["activations", "x", "scale"], "1", "activations 'x': scale must be float, not '1'"),
        (["weights", "trunk.weight", "scales"], [], "weight 'trunk.weight': scales must be positive"),
        (
            ["weights", "trunk.weight", "scales"],
            [1.0, -1.0],
            "weight 'trunk.weight': scales must be positive",
        ),
        (["weights", "trunk.weight", "axis"], 0.5, "axis must be int"),
        (["operators"], {}, "operators is empty"),
        (["operators", "c", "input"], "gone", "operator 'c' needs 'gone', which has no scale"),
        (["operators", "c", "weight"], "gone", "operator 'c' needs 'gone', which has no scale"),
        (["operators", "c", "result"], "gone", "operator 'c' needs 'gone', which has no scale"),
        (["residuals", "sum"], "gone", "residual 'sum' needs 'gone', which has no scale"),
        (["residuals", "sum"], 1, "residuals must be Mapping"),
    ],
)
def test_a_wrong_entry_is_named(place: list[str], value: Any, message: str, tmp_path: Path) -> None:
    found = {"schema": 2, **json.loads(json.dumps(dataclasses.asdict(FULL)))}
    inner = found
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path = tmp_path / "t.json"
    path.write_text(json.dumps(found))
    with pytest.raises(InputError) as caught:
        Table.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "JSON"),
        ("[]", "JSON object"),
        pytest.param("[" * 100_000, "JSON", id="deep"),
    ],
)
def test_a_file_that_is_no_table_is_named(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        Table.read(path)


def test_a_message_does_not_repeat_all_of_a_wrong_entry(tmp_path: Path) -> None:
    found = {"schema": 2, **dataclasses.asdict(FULL), "floating": [0] * 10_000}
    (tmp_path / "t.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match="floating must be tuple") as caught:
        Table.read(tmp_path / "t.json")
    assert len(str(caught.value)) < 300


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.json"
    TABLE.write(path)

    def fails(self: Path, text: str, **rest: Any) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fails)
    with pytest.raises(OSError, match="No space left on device") as caught:
        FULL.write(path)
    assert caught.value.filename == str(path)
    assert Table.read(path) == TABLE
    assert list(tmp_path.iterdir()) == [path]
