"""Training on two processes, which torchrun starts and gloo connects."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from edgeemo.errors import InputError
from edgeemo_export import processes
from tests.support import own_corpus, trained_together
from tests.support.trained_together import STEPS, Normed, Plain

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left."""
    folder = tmp_path_factory.mktemp("together")
    done = torchrun(trained_together.__file__, str(folder))
    assert done.returncode == 0, done.stderr
    return folder


ABORTED = "terminate called without an active exception"
"""What torch says when, on a busy machine, a thread of gloo outlives the group that it served."""


def torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    done = started(*words)
    return started(*words) if done.returncode and ABORTED in done.stderr else done


def started(*words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "calibration"), str(ROOT / "export")])
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [sys.executable, *start, *words],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def kept(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_two_processes_equal_one_with_the_same_batch(kept: list[dict[str, Any]], tmp_path: Path) -> None:
    for name, module in trained_together.train(Plain, tmp_path).items():
        for key, value in module.state_dict().items():
            torch.testing.assert_close(kept[0][f"plain {name}"][key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "normed"])
@pytest.mark.parametrize("part", ["model", "averaged", "judge"])
def test_all_processes_end_with_the_same_weights(kept: list[dict[str, Any]], kind: str, part: str) -> None:
    mine, theirs = (states[f"{kind} {part}"] for states in kept)
    assert mine.keys() == theirs.keys() and len(mine) > 1
    for key, value in mine.items():
        assert torch.equal(value, theirs[key]), key


def test_running_statistics_are_those_of_all_processes(kept: list[dict[str, Any]], tmp_path: Path) -> None:
    """The mean of a batch is that of its halves' means; its variance holds the spread of those means too."""
    for name, module in trained_together.train(Normed, tmp_path).items():
        if name == "judge":
            continue
        alone, found = module.state_dict(), kept[0][f"normed {name}"]
        assert found["norm.num_batches_tracked"] == 3 * STEPS == alone["norm.num_batches_tracked"]
        torch.testing.assert_close(found["norm.running_mean"], alone["norm.running_mean"])
        torch.testing.assert_close(found["norm.running_var"], alone["norm.running_var"], rtol=0.05, atol=0)


def test_a_gradient_that_one_process_lacks_counts_as_zero(kept: list[dict[str, Any]]) -> None:
    assert not torch.equal(kept[0]["normed model"]["rare"], torch.ones(3))
    # What nobody uses has no gradient, so that it does not decay either.
    assert torch.equal(kept[0]["normed model"]["unused"], torch.ones(3))


def test_only_the_first_process_writes(folder: Path, kept: list[dict[str, Any]]) -> None:
    for kind in ("plain", "normed"):
        lines = [json.loads(line) for line in (folder / kind / "curve.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == [1, 2, 3]
        assert lines[-1]["one"] == 1.0
        for board in (folder / kind).glob("tensorboard"):
            assert len(list(board.iterdir())) == 1
    state = torch.load(folder / "plain" / "state.pt", weights_only=True)
    assert torch.equal(state["model"]["head.weight"], kept[1]["plain model"]["head.weight"])
    assert json.loads((folder / "plain" / "config.json").read_text())["schedule"]["epochs"] == 3


def test_losses_on_the_curve_are_means_over_the_processes(folder: Path, tmp_path: Path) -> None:
    trained_together.train(Plain, tmp_path)
    for path, other in zip(
        *((where / "curve.jsonl").read_text().splitlines() for where in (folder / "plain", tmp_path)),
        strict=True,
    ):
        found, alone = json.loads(path), json.loads(other)
        assert found.keys() == alone.keys()
        for name in ("loss", "loss_classes", "loss_judge", "rate"):
            assert found[name] == pytest.approx(alone[name], rel=1e-3)


def test_a_run_of_two_processes_is_read_back_by_one(folder: Path, kept: list[dict[str, Any]]) -> None:
    read = trained_together.train(Plain, folder / "plain")["averaged"].state_dict()
    assert all(torch.equal(value, kept[1]["plain averaged"][key]) for key, value in read.items())


def test_shares_of_a_batch(kept: list[dict[str, Any]]) -> None:
    for rank, (rows, (few, number)) in enumerate(states["shares"] for states in kept):
        assert rows.tolist() == [rank, rank + 2, rank + 4]
        assert few.tolist() == [rank, rank + 2] and number == 5
        assert kept[rank]["refused"] == [
            "batch: 5 samples; it must be a multiple of the 2 processes",
            "batch: 7 samples; it must be a multiple of the 2 processes",
            "batch: list; processes can share a tensor, a number or a tuple of such",
        ]
        assert kept[rank]["device"] == "cpu"


def test_one_process_takes_batches_as_they_are() -> None:
    batch = [object()]
    assert processes.share(batch) is batch
    with processes.joined(), processes.one_by_one():
        assert (processes.rank(), processes.count()) == (0, 1)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.distributed, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_available=lambda: True, device_count=lambda: 1))
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(InputError, match="at most 1, one process a GPU"), processes.joined():
        pass


@pytest.mark.slow
def test_the_command_trains_on_two_processes(tmp_path: Path) -> None:
    corpus = own_corpus.write_corpus(tmp_path / "corpus", ("calm", "joy"), 3, takes=4)
    words = ["train", "--manifest", str(corpus), "--run", str(tmp_path / "run"), "--face-is-cropped"]
    for part, settings in {
        "face": ("schedule.epochs=2", "batch=4"),
        "voice": ("schedule.epochs=2", "batch=4", "windows=2", "takes=2"),
        "fusion": ("schedule.epochs=2", "batch=8", "steps=2"),
    }.items():
        words += [word for setting in settings for word in ("--set", f"{part}.{setting}")]
    done = torchrun("-m", "--", "edgeemo_export.cli", *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("2 processes, each with the CPU, 1 thread") == 3  # said once a part
    for part in ("face", "voice", "fusion"):
        lines = (tmp_path / "run" / part / "curve.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    refused = torchrun("-m", "--", "edgeemo_export.cli", *words, "--set", "voice.batch=5")
    assert refused.returncode != 0
    assert "voice/config.json: the run was begun with other settings: batch was 4 and is 5" in refused.stderr
