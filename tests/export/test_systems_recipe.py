"""The published systems by name: trained on made-up corpora, read back, and refused what is not theirs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from edgeemo.errors import InputError
from edgeemo_export.cli import main
from edgeemo_export.config import override
from edgeemo_export.data.labels import LABELS
from edgeemo_export.data.tokens import SLOTS
from edgeemo_export.recipes import by_name, systems
from edgeemo_export.recipes.fusion import Pairs
from edgeemo_export.systems.fusion import Fusion, Windows
from tests.support import made_corpora
from tests.support.made_corpora import DEFAULTS, Made

K = len(LABELS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with pytest.MonkeyPatch.context() as patch:
        yield made_corpora.make(tmp_path_factory.mktemp("corpora"), patch)


def train(made: Made, name: str, folder: Path, *settings: str) -> by_name.Trained:
    encoders = made.encoders if by_name.ENCODERS[name] else None
    return by_name.train(name, made.data, encoders, folder, override(DEFAULTS[name], settings))


def windows(count: int = 3) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(0)
    masks = (torch.rand(2, count, SLOTS, generator=random) < 0.7).float()
    tokens = torch.rand(2, count, SLOTS, 128, generator=random)
    return tokens[0], masks[0], tokens[1], masks[1]


@pytest.mark.parametrize("name", ["foal-net", "jca", "fdan", "co-attention"])
def test_a_system_is_trained_and_read_back(made: Made, tmp_path: Path, name: str) -> None:
    trained = train(made, name, tmp_path / "run")
    assert not {"faces test", "voices test"} & made.read
    assert all((value.isfinite()).all() for value in trained.fusion.state_dict().values())
    assert list(trained.encoders) == (["voice", "text"] if name == "co-attention" else ["face", "voice"])
    assert bool(trained.pieces) == (name == "co-attention")
    (line,) = (tmp_path / "run" / "curve.jsonl").read_text().splitlines()
    assert any(key.startswith("ua_") for key in json.loads(line))
    again = by_name.read(tmp_path / "run", made.data)
    assert (again.system, again.config, again.pieces) == (name, DEFAULTS[name], trained.pieces)
    for mine, theirs in zip(again.fusion(*windows()), trained.fusion(*windows()), strict=True):
        torch.testing.assert_close(mine, theirs)
    for key, encoder in again.encoders.items():
        expected = trained.encoders[key].state_dict()
        assert all(torch.equal(value, expected[part]) for part, value in encoder.state_dict().items())
    assert len((tmp_path / "run" / "curve.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("kind", ["votes", "units"])
@pytest.mark.parametrize("name", ["foal-net", "jca"])
def test_other_pairs_can_be_trained_on(made: Made, tmp_path: Path, name: str, kind: str) -> None:
    trained = train(made, name, tmp_path / "run", f"pairs={kind}")
    assert trained.config.pairs == kind
    assert not {"faces test", "voices test"} & made.read
    logits = trained.fusion(*windows())[0]
    assert logits.isfinite().all() and (logits[0] - logits[1]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("name", "settings", "losses"),
    [
        ("foal-net", (), {"emotion", "avel", "mem"}),
        ("foal-net", ("avel=0",), {"emotion", "mem"}),
        ("foal-net", ("avel=0", "mem=0"), {"emotion"}),
        ("jca", ("joint=false", "recursion=2", "gated=true"), {"emotion", "valence", "arousal"}),
    ],
)
def test_settings_reach_the_system(
    made: Made, tmp_path: Path, name: str, settings: tuple[str, ...], losses: set[str]
) -> None:
    train(made, name, tmp_path / "run", *settings)
    (line,) = (tmp_path / "run" / "curve.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert {key.removeprefix("loss_") for key in found if key.startswith("loss_")} == losses
    assert {"ua_face", "ua_voice", "ua_both"} <= found.keys()


def test_what_does_not_fit_a_run_is_refused(made: Made, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made.encoders, tmp_path / "encoders")
    made = replace(made, encoders=tmp_path / "encoders")
    train(made, "jca", run)
    with pytest.raises(InputError, match="joint was True and is False"):
        train(made, "jca", run, "joint=false")
    state = torch.load(made.encoders / "voice" / "state.pt", weights_only=True)
    state["averaged"]["head.bias"] += 1.0
    torch.save(state, made.encoders / "voice" / "state.pt")
    with pytest.raises(InputError, match="begun over other encoders"):
        train(made, "jca", run)
    with pytest.raises(InputError, match="it holds a run of jca; give another --run"):
        train(made, "foal-net", run)
    shutil.copy(made.encoders / "voice" / "state.pt", made.encoders / "face" / "state.pt")
    with pytest.raises(InputError, match=r"face/state.pt: it is not the state of a face"):
        train(made, "jca", tmp_path / "other")
    for content in (b"", b"junk\n", b"\x80\x02}."):
        (made.encoders / "face" / "state.pt").write_bytes(content)
        with pytest.raises(InputError, match=r"face/state.pt: it is not the state of a face"):
            train(made, "jca", tmp_path / "other")
    (made.encoders / "face" / "state.pt").unlink()
    with pytest.raises(InputError, match=r"face/state.pt: it is missing; --encoders must name a run"):
        train(made, "jca", tmp_path / "other")
    with pytest.raises(InputError, match="jca reads the face and the voice of a run"):
        by_name.train("jca", made.data, None, tmp_path / "other", DEFAULTS["jca"])
    with pytest.raises(InputError, match="fdan trains its own"):
        by_name.train("fdan", made.data, made.encoders, tmp_path / "other", DEFAULTS["fdan"])
    for system, aligned, error in (
        ("jca", tmp_path, "reads no words"),
        ("co-attention", run / "x", "no folder"),
    ):
        with pytest.raises(InputError, match=error):
            by_name.train(system, made.data, made.encoders, tmp_path / "o", DEFAULTS[system], aligned)
    for text in ("", "{}", '{"system": "other", "temperatures": [1, 1, 1]}', '{"system": "jca"}'):
        (run / by_name.FILE).write_text(text)
        with pytest.raises(InputError, match="the folder must hold a finished run of"):
            by_name.read(run, made.data)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--data", "data", "--encoders", "run"], "--encoders is for --system"),
        (["--data", "data", "--aligned", "said"], "--aligned is for --system co-attention"),
        (["--manifest", "list.csv", "--system", "jca"], "give --data in place of --manifest"),
        (["--data", "data", "--system", "jca", "--set", "pairs=all"], "must be one of label, votes, units"),
        (["--data", "data", "--system", "jca", "--set", "missing=0.6"], "missing 0.6; it must be from 0"),
        (["--data", "data", "--system", "foal-net", "--set", "tokens=41"], "tokens 41; it must be from 1"),
        (["--data", "data", "--system", "foal-net", "--set", "avel=-1"], "avel -1.0; it must be 0 or more"),
        (
            ["--data", "data", "--system", "jca", "--encoders", "run"],
            "--data: data is no folder; give that of the corpora",
        ),
        (["--data", "data", "--system", "jca", "--speakers-unknown"], "are for --manifest; leave them out"),
        (["--data", "data", "--threads", "0"], "argument --threads: '0': give a whole number, 1 or more"),
    ],
)
def test_wrong_usage_ends_with_status_2(
    words: list[str],
    error: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["train", *words, "--run", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert error in capsys.readouterr().err


def test_the_command_line_trains_and_keeps_the_seed(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--data", str(made.data), "--encoders", str(made.encoders), "--threads", "1"]
    run = tmp_path / "run"
    assert main([*words, "--system", "jca", "--run", str(run), "--seed", "4", "--set", "batch=6"]) == 0
    found = by_name.read(run, made.data)
    assert (found.seed, found.config.batch) == (4, 6)
    with pytest.raises(SystemExit) as ended:
        main(["bundle", "--data", str(made.data), "--run", str(run), "--out", str(tmp_path / "bundle")])
    assert ended.value.code == 2 and "--seed: 0; the run in" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # the default system's run is left alone
        main([*words, "--system", "jca", "--run", str(made.encoders)])
    assert "it holds a run of the default system" in capsys.readouterr().err
    assert not (made.encoders / by_name.FILE).exists()
    for given in (["--data", str(made.data)], ["--manifest", str(tmp_path / "list.csv")]):
        with pytest.raises(SystemExit):  # and so is the system's
            main(["train", *given, "--run", str(run)])
        assert f"{run}: it holds a run of --system" in capsys.readouterr().err


@pytest.mark.parametrize("begun", [False, True])
def test_a_bundle_of_what_is_not_finished_trains_nothing(
    begun: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    if begun:
        run.mkdir()
        (run / by_name.WEIGHTS).touch()
    with pytest.raises(SystemExit) as ended:
        main(["bundle", "--data", str(tmp_path), "--run", str(run), "--out", str(tmp_path / "bundle")])
    assert ended.value.code == 2
    assert f"{run}: it holds no finished run" in capsys.readouterr().err


def test_interrupted_training_says_so_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(by_name, "train", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["train", "--data", str(tmp_path), "--system", "fdan", "--run", str(tmp_path / "run")])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "edgeemo-export: interrupted\n"


def test_a_run_that_is_a_file_is_named(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").touch()
    words = ["train", "--system", "jca", "--data", str(made.data), "--encoders", str(made.encoders)]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--run", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert f"edgeemo-export: {tmp_path / 'run'}: File exists" in capsys.readouterr().err


def batch(count: int) -> Windows:
    first, first_mask, second, second_mask = windows(count)
    return Windows(first, first_mask, second, second_mask, torch.eye(K)[torch.arange(count) % K])


def test_some_windows_lose_one_modality_and_none_both() -> None:
    given = batch(2000)
    found = systems.without_some(given, 0.2, torch.Generator().manual_seed(0))
    lacks_first, lacks_second = found.first_mask.sum(dim=1) == 0, found.second_mask.sum(dim=1) == 0
    assert not (lacks_first & lacks_second).any()
    assert lacks_first.float().mean() == pytest.approx(0.2, abs=0.03)
    assert lacks_second.float().mean() == pytest.approx(0.2, abs=0.03)
    assert not found.first[lacks_first].any() and not found.second[lacks_second].any()
    assert torch.equal(found.first_mask[~lacks_first], given.first_mask[~lacks_first])
    assert torch.equal(found.labels, given.labels)


def test_thinned_windows_keep_tokens_that_count() -> None:
    given = batch(50)
    given.first_mask[:25] = 0.0
    given.first_mask[:25, 7] = 1.0  # stills
    found = systems.thinned(given, 12, torch.Generator().manual_seed(0))
    assert found.first.shape == (50, 12, 128) and found.first_mask.shape == (50, 12)
    assert (found.first_mask[:25].sum(dim=1) == 1).all() and (found.first_mask[25:] == 1).all()
    torch.testing.assert_close(found.first[:25][found.first_mask[:25] > 0], given.first[:25, 7])
    for row in range(25, 50):
        kept = {tuple(token) for token in found.second[row][found.second_mask[row] > 0].tolist()}
        assert kept <= {tuple(token) for token in given.second[row][given.second_mask[row] > 0].tolist()}
    assert len(found.second_mask.sum(dim=1).unique()) == 1


class Told(Fusion):
    """Says what the first token of each modality is, added."""

    def forward(self, first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor) -> Tensor:
        return (first * first_mask[..., None])[:, 0, :K] + (second * second_mask[..., None])[:, 0, :K]


def test_each_modality_is_calibrated_and_scored_alone() -> None:
    random = torch.Generator().manual_seed(0)
    truth = torch.randint(K, (3000,), generator=random)
    # Gaussian scores around the truth: their posterior is a softmax of the scores over the variance.
    face, voice = (torch.randn(2, 3000, K, generator=random) + torch.eye(K)[truth]).unbind()
    mask = torch.ones(3000, 1)
    pairs = Pairs((2.0 * face[:, None], mask, 0.5 * voice[:, None], mask), truth)
    first, second, _ = systems.calibrate(Told(), pairs)
    assert (first, second) == (pytest.approx(2.0, rel=0.08), pytest.approx(0.5, rel=0.08))
    figures = systems.score(Told(), pairs, ("face", "voice"))
    assert figures["ua_both"] > figures["ua_face"] == pytest.approx(figures["ua_voice"], abs=0.05)


def test_answers_follow_the_order_of_the_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "CHUNK", 4)
    fusion, inputs = replace(DEFAULTS["jca"]).build(128), windows(10)
    found = systems.answers(fusion.eval(), inputs)
    with torch.no_grad():
        torch.testing.assert_close(found, fusion(*inputs))
        silent = fusion(inputs[0], inputs[1], inputs[2], inputs[3] * 0)
    torch.testing.assert_close(systems.answers(fusion, inputs, second=False), silent)
