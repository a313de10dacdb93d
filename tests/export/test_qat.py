from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeemo.errors import CheckFailed, InputError
from edgeemo.inference.ort import import_onnxruntime
from edgeemo_calibration import measure, write_encodings
from edgeemo_calibration.table import Table
from edgeemo_export import bundle, proving, qat, to_onnx, train
from edgeemo_export.cli import main
from edgeemo_export.config import keep
from edgeemo_export.data.labels import LABELS, NORMS
from edgeemo_export.encoders.fold import fold_batch_norms
from edgeemo_export.encoders.residual import ResidualBlock
from edgeemo_export.fake_quant import Quantiser, insert, unsigned_of
from edgeemo_export.qat import Config, Material
from edgeemo_export.recipes import default
from edgeemo_export.recipes.default import Trained
from edgeemo_export.recipes.face import FaceModel
from edgeemo_export.recipes.voice import VoiceModel
from edgeemo_export.systems.attention import AttentionFusion
from edgeemo_export.train import Schedule
from tests.support import made_corpora

Enliven = Callable[..., nn.Module]
ONE = Config(Schedule(epochs=1, rate=1e-3, decay=0.0, seed=3), batch=7, windows=2, takes=2)


class Small(nn.Module):
    """An encoder in small."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(ResidualBlock(1, 8, 2), ResidualBlock(8, 8))
        self.project = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.trunk(x).mean(dim=(2, 3))).relu()  # type: ignore[no-any-return]


def feed(seed: int, reach: float = 1.0) -> dict[str, NDArray[np.float32]]:
    return {"x": np.random.default_rng(seed).normal(0, reach, (32, 1, 12, 12)).astype(np.float32)}


def write(encoder: nn.Module, folder: Path) -> Path:
    path = folder / "small.fp32.onnx"
    to_onnx.write(encoder, {"x": torch.rand(3, 1, 12, 12)}, ["tokens"], path, batched=("x",))
    return path


def answers(path: Path, given: dict[str, NDArray[np.float32]]) -> Tensor:
    session = import_onnxruntime().InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, given)[0])


def material(steps: int) -> Material:
    return Material(
        batches=lambda random: range(steps),
        steps=steps,
        draw=lambda batch, random: torch.randn(32, 1, 12, 12, generator=random),
        reads=lambda encoder, x: (encoder(x),),
        answer=nn.Linear(6, 3),
        held=lambda: torch.from_numpy(feed(9)["x"]),
    )


def test_it_repairs_what_calibration_on_too_little_broke(enliven: Enliven, tmp_path: Path) -> None:
    """Ranges are of inputs a quarter as large, so INT8 clips; what is written afterwards is repaired."""
    encoder = fold_batch_norms(enliven(Small()))
    source, held = write(encoder, tmp_path), feed(9)
    floating = answers(source, held)
    poor = measure(source, [feed(1, 0.25)], method="min-max")
    before = write_encodings(source, poor, tmp_path, "before")
    kept = copy.deepcopy(encoder.state_dict())
    fake = qat.finetune(
        encoder,
        poor,
        unsigned_of(onnx.load(source), poor),
        material(60),
        tmp_path / "run",
        Config(Schedule(1, rate=1e-4, decay=0.0, average=0.9)),
    )
    assert all(torch.equal(value, kept[name]) for name, value in encoder.state_dict().items())
    (tmp_path / "new").mkdir()
    found, table = qat.graph_of(fake, lambda made: write(made, tmp_path / "new"), [feed(2)])
    after = write_encodings(tmp_path / "new" / "small.fp32.onnx", table, tmp_path, "after")
    for encoding in ("int8", "int8-cpu"):
        noises = [qat.noise(answers(paths[encoding], held), floating).item() for paths in (before, after)]
        assert qat.decibels(noises[1]) > qat.decibels(noises[0]) + 6, (encoding, noises)
    with torch.no_grad():
        assert qat.noise(fake(torch.from_numpy(held["x"])), answers(after["int8"], held)) < noises[1]
    assert table.method == "trained" and table.percentile is None and table.samples == 32
    assert table.activations.keys() == poor.activations.keys() and table.operators == poor.operators
    curve = json.loads((tmp_path / "run" / "curve.jsonl").read_text().splitlines()[-1])
    assert curve["sqnr_u8"] == pytest.approx(qat.decibels(noises[1]), abs=3.0)
    assert not any(isinstance(part, Quantiser) for part in found.modules())


@pytest.fixture
def given(enliven: Enliven) -> Trained:
    """A default system that has learnt nothing, of narrow tokens."""
    fusion = AttentionFusion(8, len(LABELS), [NORMS[name] for name in LABELS], inner=4)
    parts = (FaceModel(width=8), VoiceModel(width=8), fusion)
    return Trained(*map(enliven, parts))  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_encoders_of_the_default_system(
    given: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Read back it is the same; no test split is looked at; the tables are of the graphs that are written."""
    read = made_corpora.replace_readers(monkeypatch, made_corpora.faces)
    monkeypatch.setattr(train, "_estimate", lambda *given: None)
    configs = qat.Configs(ONE, ONE)
    kept = {name: value.clone() for name, value in given.face.state_dict().items()}
    found, tables = qat.finetune_default(given, tmp_path, tmp_path / "run", configs)
    assert read == {"faces train", "faces develop", "voices train", "voices develop"}
    assert all(torch.equal(value, kept[name]) for name, value in given.face.state_dict().items())
    assert found.fusion.state_dict().keys() == given.fusion.state_dict().keys()
    for name, table in tables.items():
        assert table.method == "trained"
        assert Table.read(tmp_path / "run" / f"{name}-qat" / qat.TABLE) == table
    again, same = qat.finetune_default(given, tmp_path, tmp_path / "run", configs)
    assert same == tables
    for name in ("face", "voice"):
        mine, theirs = getattr(found, name).state_dict(), getattr(again, name).state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in mine.items())
        (tmp_path / name).mkdir()
        path = bundle.write_encoder(tmp_path / name, name, bundle.encoders_of(found)[name])
        write_encodings(path, tables[name], tmp_path / name, name)  # it is of this very file
    with pytest.raises(InputError, match=r"other settings: schedule\.epochs was 1 and is 2"):
        other = replace(ONE, schedule=replace(ONE.schedule, epochs=2))
        qat.finetune_default(given, tmp_path, tmp_path / "run", qat.Configs(other, ONE))


def test_a_graph_of_other_steps_is_refused(
    enliven: Enliven, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the graph does not compute what was trained, the table is not handed out."""
    encoder = fold_batch_norms(enliven(Small()))
    table = measure(write(encoder, tmp_path), [feed(1)], method="min-max")
    fake = insert(encoder, table)

    def coarser(fake: nn.Module, measured: Table) -> Table:
        first, *others = measured.activations.items()
        return replace(measured, activations=dict([(first[0], replace(first[1], scale=0.5)), *others]))

    monkeypatch.setattr(qat, "trained", coarser)
    with pytest.raises(to_onnx.ExportError, match="dB from the module that was trained"):
        qat.graph_of(fake, lambda made: write(made, tmp_path), [feed(2)])


def test_dropout_stays_off() -> None:
    student = qat.Student(nn.Dropout(0.5)).train()
    assert torch.equal(student.encoder(torch.ones(99)), torch.ones(99))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch": 0}, "batch 0; it must be 1 or more"),
        ({"answers": -1.0}, "answers -1.0; it must be 0 or more"),
        ({"windows": 0}, "windows 0; it must be 1 or more"),
        ({"takes": 0}, "takes 0; it must be 1 or more"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"qat: {message}"):
        Config(**values)


class Verbs:
    """Stands for training and writing: notes what is called, and lets INT8 miss the gate by given rules."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, missed: tuple[str, ...] = ()) -> None:
        self.run, self.out, self.missed = folder / "run", folder / "bundle", missed
        self.calls: list[Any] = []
        (self.run / "fusion").mkdir(parents=True)
        (self.run / "fusion" / "state.pt").write_text("")
        monkeypatch.setattr(default, "train", lambda *given: "parts")
        monkeypatch.setattr(qat, "finetune_default", self.finetune)
        monkeypatch.setattr(bundle, "write", self.write)

    def finetune(self, parts: str, data: Path, run: Path, configs: qat.Configs, *parts_only: Any) -> Any:
        self.calls.append(("trained", parts, run, configs, *parts_only))
        return "new parts", {"face": "table"}

    def write(self, parts: str, data: Path, out: Path, seed: int, unproven: str, tables: Any = None) -> None:
        self.calls.append(("written", parts, tables))
        if tables is None and self.missed and not unproven:
            rules = [
                {"name": name, "passed": name not in self.missed} for name in ("kept", "class", "faster")
            ]
            proving.pages(out)[1].write_text(json.dumps({"rules": rules}))
            raise CheckFailed("INT8 is not proven")

    def call(self, verb: str, *words: str) -> None:
        main([verb, "--data", "corpora", "--run", str(self.run), "--threads", "1", *words])


PLAIN, AGAIN = ("written", "parts", None), ("written", "new parts", {"face": "table"})


@pytest.mark.parametrize(
    ("words", "missed", "expected"),
    [
        ([], (), [PLAIN]),
        ([], ("class",), [PLAIN, "trained", AGAIN]),
        ([], ("kept", "faster"), [PLAIN, "trained", AGAIN]),
        ([], ("faster",), [PLAIN, CheckFailed]),  # training makes nothing faster
        (["--qat", "never"], ("class",), [PLAIN, CheckFailed]),
        (["--qat", "always"], (), ["trained", AGAIN]),
        (["--unproven", "a toy"], ("class",), [PLAIN]),
    ],
)
def test_a_bundle_is_trained_in_int8_where_it_misses_the_gate(
    words: list[str],
    missed: tuple[str, ...],
    expected: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    verbs = Verbs(tmp_path, monkeypatch, missed)
    if CheckFailed in expected:
        with pytest.raises(SystemExit) as stopped:
            verbs.call("bundle", "--out", str(verbs.out), *words)
        assert stopped.value.code == 1
        expected = expected[:-1]
    else:
        verbs.call("bundle", "--out", str(verbs.out), *words)
    assert [call if call[0] == "written" else "trained" for call in verbs.calls] == expected


def test_a_bundle_takes_the_training_that_was_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    verbs = Verbs(tmp_path, monkeypatch)
    keep(ONE, verbs.run / "face-qat")
    verbs.call("bundle", "--out", str(verbs.out), "--qat", "always", "--seed", "3")
    voice = replace(qat.VOICE, schedule=replace(qat.VOICE.schedule, seed=3))
    assert verbs.calls[0] == ("trained", "parts", verbs.run, qat.Configs(ONE, voice))


def test_the_verb_takes_settings_and_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    verbs = Verbs(tmp_path, monkeypatch)
    verbs.call("qat", "--parts", "voice", "--seed", "2", "--set", "voice.learned=false")
    ((_, parts, run, configs, chosen),) = verbs.calls
    assert (parts, run, chosen) == ("parts", verbs.run, ["voice"])
    assert not configs.voice.learned and configs.face.learned
    assert configs.face.schedule.seed == configs.voice.schedule.seed == 2


def test_the_verb_wants_a_finished_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verbs = Verbs(tmp_path, monkeypatch)
    (verbs.run / "fusion" / "state.pt").unlink()
    with pytest.raises(SystemExit) as stopped:
        verbs.call("qat")
    assert stopped.value.code == 2 and not verbs.calls
    assert "it holds no finished run" in capsys.readouterr().err
