from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeemo_export.recipes.face import FaceModel
from edgeemo_export.recipes.voice import VoiceModel
from edgeemo_export.systems.attention import AttentionFusion
from edgeemo_export.train import Schedule, fit, learning_rate, optimiser

STEPS = 3


class Net(nn.Module):
    """Whatever a resumed run could forget: batch statistics, dropout, a layout of weights, frozen weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu().mean(dim=(2, 3))
        return self.frozen(self.head(self.drop(x)))  # type: ignore[no-any-return]


class Stopped(Exception):
    pass


class Task:
    """Trains a `Net` on noise around two levels; stops in the middle of an epoch where it is told to."""

    def __init__(self, folder: Path, schedule: Schedule, stop: int | None = None) -> None:
        self.folder, self.schedule, self.stop = folder, schedule, stop
        self.epochs, self.developed = 0, 0

    def batches(self, random: torch.Generator) -> Iterator[Tensor]:
        self.epochs += 1
        for step in range(STEPS):
            if self.epochs == self.stop and step == 1:
                raise Stopped
            yield torch.randint(2, (8,), generator=random)

    def loss(self, model: nn.Module, labels: Tensor, random: torch.Generator) -> Tensor:
        assert model.training
        x = torch.randn(8, 2, 6, 6, generator=random) + labels[:, None, None, None]
        return nn.functional.cross_entropy(model(x), labels)

    def develop(self, model: nn.Module) -> Mapping[str, float]:
        assert not model.training
        self.developed += 1
        return {"size": sum(p.abs().sum().item() for p in model.parameters())}

    def run(self) -> tuple[nn.Module, nn.Module]:
        """The model as fitted and the average that `fit` gives back."""
        torch.manual_seed(self.schedule.seed)
        model = Net().to(memory_format=torch.channels_last)
        return model, fit(model, self.batches, STEPS, self.loss, self.develop, self.schedule, self.folder)


def curve(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    for line in lines:
        assert line.pop("seconds") >= 0
    return lines


def assert_bits_equal(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


# Optimiser


@pytest.mark.parametrize(
    "build",
    [Net, lambda: FaceModel(8), lambda: VoiceModel(8), lambda: AttentionFusion(8, 2, [(0, 0), (1, 1)], 4, 2)],
    ids=["net", "face", "voice", "fusion"],
)
def test_each_trainable_parameter_is_in_one_group(build: Callable[[], nn.Module]) -> None:
    model = build()
    adam = optimiser(model, Schedule(1, rate=0.5, decay=0.25))
    grouped = [id(p) for group in adam.param_groups for p in group["params"]]
    trainable = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trainable)
    for group in adam.param_groups:
        assert group["lr"] == 0.5
        for p in group["params"]:
            assert group["weight_decay"] == (0.25 if p.ndim > 1 else 0.0)


# Learning rate


@pytest.mark.parametrize(
    ("warm", "steps", "expected"),
    [
        (
            0.3,
            10,
            [1 / 3, 2 / 3, 1, *(0.5 + 0.5 * math.cos(math.pi * k / 7) for k in range(7))],
        ),
        (0.5, 4, [0.5, 1, 1, 0.5]),
        (0.0, 4, [1, 1, 0.75, 0.25]),  # one step of warm-up at least
        (1.0, 4, [0.25, 0.5, 0.75, 1]),
        (0.1, 1, [1]),
    ],
)
def test_learning_rate(warm: float, steps: int, expected: list[float]) -> None:
    schedule = Schedule(1, rate=0.02, warm=warm)
    found = [learning_rate(schedule, step, steps) for step in range(steps)]
    assert found == pytest.approx([0.02 * value for value in expected])


def test_weights_move_at_the_rate_of_the_step(tmp_path: Path) -> None:
    # AdamW with a constant gradient and no decay moves by the learning rate.
    schedule = Schedule(2, rate=0.01, decay=0.0, warm=0.5)
    model, seen = nn.ParameterDict({"x": nn.Parameter(torch.zeros(()))}), []

    def loss(model: nn.Module, batch: int, random: torch.Generator) -> Tensor:
        assert isinstance(model, nn.ParameterDict)
        seen.append(model["x"].item())
        return model["x"] * 1.0

    fit(model, lambda random: range(3), 3, loss, lambda model: {}, schedule, tmp_path)
    seen.append(model["x"].item())
    moved = [before - after for before, after in pairwise(seen)]
    assert moved == pytest.approx([learning_rate(schedule, step, 6) for step in range(6)], rel=1e-4)


# The loop


@pytest.mark.parametrize("average", [0.999, 0.15])
def test_kept_is_the_moving_average_of_the_weights(tmp_path: Path, average: float) -> None:
    model, seen = nn.ParameterDict({"x": nn.Parameter(torch.ones(()))}), []

    def loss(model: nn.Module, batch: int, random: torch.Generator) -> Tensor:
        assert isinstance(model, nn.ParameterDict)
        seen.append(model["x"].item())
        return (model["x"] + 1.0).square()

    schedule = Schedule(2, rate=0.1, average=average)
    kept = fit(model, lambda random: range(4), 4, loss, lambda model: {}, schedule, tmp_path)
    seen.append(model["x"].item())
    mean = seen[0]
    for step, value in enumerate(seen[1:]):
        # Young averages forget faster: the first weights are random.
        decay = min(average, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * value
    assert isinstance(kept, nn.ParameterDict)
    assert kept["x"].item() == pytest.approx(mean, rel=1e-5)
    assert abs(mean - seen[-1]) > 1e-4


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, stop: int) -> None:
    schedule = Schedule(4, rate=0.05, average=0.9, seed=7)
    whole, whole_average = Task(tmp_path / "whole", schedule).run()
    with pytest.raises(Stopped):
        Task(tmp_path / "parts", schedule, stop=stop).run()
    assert len(curve(tmp_path / "parts")) == stop - 1
    second = Task(tmp_path / "parts", schedule)
    parts, parts_average = second.run()
    assert second.epochs == 4 - (stop - 1)
    assert_bits_equal(parts.state_dict(), whole.state_dict())
    assert_bits_equal(parts_average.state_dict(), whole_average.state_dict())
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")


def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(tmp_path: Path) -> None:
    first, again, other = (
        Task(tmp_path / name, Schedule(2, seed=seed)).run()[1].state_dict()
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert_bits_equal(again, first)
    assert not torch.equal(other["conv.weight"], first["conv.weight"])


def test_epochs_differ(tmp_path: Path) -> None:
    # Each epoch has a generator of its own: order and augmentation are not those of the epoch before.
    drawn: list[list[int]] = []

    class Watched(Task):
        def loss(self, model: nn.Module, labels: Tensor, random: torch.Generator) -> Tensor:
            drawn.append(labels.tolist())
            return super().loss(model, labels, random)

    Watched(tmp_path, Schedule(2)).run()
    assert drawn[:STEPS] != drawn[STEPS:]


def test_frozen_weights_stay_and_others_move(tmp_path: Path) -> None:
    torch.manual_seed(0)
    new = Net().state_dict()
    model, kept = Task(tmp_path, Schedule(1)).run()
    for state in (model.state_dict(), kept.state_dict()):
        for name, value in new.items():
            moved = not torch.equal(state[name], value)
            assert moved == (not name.startswith("frozen.")), name
    assert not any(p.requires_grad for p in kept.parameters())


def test_curve(tmp_path: Path) -> None:
    task = Task(tmp_path, Schedule(7))
    task.run()
    lines = curve(tmp_path)
    assert [line["epoch"] for line in lines] == list(range(1, 8))
    assert all(0 < line["loss"] < 5 for line in lines)
    # Every fifth epoch and the last.
    assert [line["epoch"] for line in lines if "size" in line] == [5, 7]
    assert task.developed == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.jsonl", "state.pt"]


def test_finished_run_is_read_back(tmp_path: Path) -> None:
    _, kept = Task(tmp_path, Schedule(2)).run()
    again = Task(tmp_path, Schedule(2))
    _, read = again.run()
    assert again.epochs == 0 and again.developed == 0
    assert_bits_equal(read.state_dict(), kept.state_dict())
    assert len(curve(tmp_path)) == 2


def test_checkpoint_is_weights_only(tmp_path: Path) -> None:
    torch.save({"epoch": 1, "model": Stopped("an object whose class would be run")}, tmp_path / "state.pt")
    with pytest.raises(pickle.UnpicklingError, match="Stopped"):
        Task(tmp_path, Schedule(2)).run()


def test_stop_while_a_state_is_written_loses_nothing(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        Task(tmp_path, Schedule(3), stop=2).run()
    (tmp_path / "state.new").write_bytes(b"half of a state")
    Task(tmp_path, Schedule(3)).run()
    assert [line["epoch"] for line in curve(tmp_path)] == [1, 2, 3]
