from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeemo.errors import InputError
from edgeemo_export import train
from edgeemo_export.alignment import DANN
from edgeemo_export.precision import mixed
from edgeemo_export.recipes.face import FaceModel
from edgeemo_export.recipes.voice import VoiceModel
from edgeemo_export.systems.attention import AttentionFusion
from edgeemo_export.train import Schedule, fit, learning_rate, optimiser

STEPS = 3


@pytest.fixture(autouse=True)
def no_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are counted here; those of the estimate are not the run's own (see test_budget.py)."""
    monkeypatch.setattr(train, "_estimate", lambda *given: None)


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


class Judge(nn.Module):
    """Trained beside a `Net`, whose head it shares; it counts what it has judged."""

    seen: Tensor

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.head, self.weigh = net.head, nn.Linear(2, 1)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        assert self.training
        self.seen += 1
        return self.weigh(self.head(x.mean(dim=(2, 3)).repeat(1, 2))).square().mean() / self.seen


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


class Judged(Task):
    """Its loss has two parts, one of which a module beside the model gives and a ramp fades in."""

    share = 0.0

    def loss(self, model: nn.Module, labels: Tensor, random: torch.Generator) -> Any:
        x = torch.randn(8, 2, 6, 6, generator=random) + labels[:, None, None, None]
        return {"class": nn.functional.cross_entropy(model(x), labels), "judge": self.share * self.judge(x)}

    def advance(self, share: float) -> None:
        self.share = share

    def run(self) -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(self.schedule.seed)
        model = Net()
        self.judge = Judge(model)
        given = (model, self.batches, STEPS, self.loss, self.develop, self.schedule, self.folder)
        return self.judge, fit(*given, beside=self.judge, advance=self.advance)


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


@pytest.mark.parametrize("build", [Judge, lambda net: DANN(2)], ids=["judge", "discriminator"])
def test_parameters_beside_the_model_are_in_one_group_too(build: Callable[[Net], nn.Module]) -> None:
    net = Net()
    beside = build(net)  # a judge shares the net's head
    adam = optimiser(net, Schedule(1), beside)
    grouped = [id(p) for group in adam.param_groups for p in group["params"]]
    trainable = {id(p) for module in (net, beside) for p in module.parameters() if p.requires_grad}
    assert len(grouped) == len(trainable) and set(grouped) == trainable
    assert {id(p) for p in beside.parameters()} <= trainable


def test_what_is_beside_the_model_is_trained_and_left(tmp_path: Path) -> None:
    task = Judged(tmp_path, Schedule(2, rate=0.05))
    torch.manual_seed(0)
    new = Judge(Net()).state_dict()
    judge, kept = task.run()
    for name, value in judge.state_dict().items():
        assert not torch.equal(value, new[name]), name
    assert judge.state_dict()["seen"] == 2 * STEPS
    assert kept.state_dict().keys() == Net().state_dict().keys()


# Learning rate


# Five steps of warm-up to 0.01, then half a cosine over fifteen.
REFERENCE = [
    *(0.002, 0.004, 0.006, 0.008, 0.01, 0.01, 0.00989074, 0.00956773, 0.00904508, 0.00834565),
    *(0.0075, 0.00654508, 0.00552264, 0.00447736, 0.00345492, 0.0025, 0.00165435, 0.00095492),
    *(0.00043227, 0.00010926),
]


def test_learning_rate_is_the_reference() -> None:
    schedule = Schedule(1, rate=0.01, warm=0.25)
    assert [learning_rate(schedule, step, 20) for step in range(20)] == pytest.approx(REFERENCE, rel=1e-4)


@pytest.mark.parametrize("stop", [None, 2, 4])
def test_every_group_steps_at_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int | None
) -> None:
    """The curve, and nothing else, sets the rate: of each group, at each step, through a resume."""
    rates: list[float] = []
    whole = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, closure: None = None) -> Any:
        assert len({group["lr"] for group in self.param_groups}) == 1
        rates.append(self.param_groups[0]["lr"])
        return whole(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    monkeypatch.setitem(globals(), "STEPS", 4)
    schedule = Schedule(5, rate=0.01, warm=0.25)
    if stop is not None:
        with pytest.raises(Stopped):
            Judged(tmp_path, schedule, stop=stop).run()
        rates.pop()  # of the epoch that is made again
    Judged(tmp_path, schedule).run()
    assert rates == pytest.approx(REFERENCE, rel=1e-4)
    assert [line["rate"] for line in curve(tmp_path)] == pytest.approx(REFERENCE[3::4], rel=1e-3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 0}, "epochs 0; it must be 1 or more"),
        ({"rate": 0.0}, "rate 0.0; it must be above 0"),
        ({"decay": -1.0}, "decay -1.0"),
        ({"warm": 1.5}, "warm 1.5; it must be from 0 to 1"),
        ({"average": 1.0}, "average 1.0; it must be from 0 to below 1"),
        ({"seed": -1}, "seed -1"),
        ({"rate": math.nan}, "rate nan"),
    ],
)
def test_schedules_out_of_range_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Schedule(**{"epochs": 1, **changed})


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


@pytest.mark.parametrize("stop", [2, 3])
def test_resumed_run_with_a_module_beside_equals_an_uninterrupted_one(tmp_path: Path, stop: int) -> None:
    schedule = Schedule(3, rate=0.05, average=0.9, seed=7)
    whole, whole_average = Judged(tmp_path / "whole", schedule).run()
    with pytest.raises(Stopped):
        Judged(tmp_path / "parts", schedule, stop=stop).run()
    parts, parts_average = Judged(tmp_path / "parts", schedule).run()
    assert_bits_equal(parts.state_dict(), whole.state_dict())
    assert_bits_equal(parts_average.state_dict(), whole_average.state_dict())


def test_named_losses_have_their_curves(tmp_path: Path) -> None:
    Judged(tmp_path, Schedule(2)).run()
    for line in curve(tmp_path):
        assert line["loss"] == pytest.approx(line["loss_class"] + line["loss_judge"], rel=1e-3)
        assert line["loss_judge"] > 0


def test_losses_are_told_how_far_a_run_is(tmp_path: Path) -> None:
    shares: list[float] = []
    for epochs, stop in ((2, 2), (2, None)):
        task = Judged(tmp_path, Schedule(epochs), stop)
        task.advance = lambda share, task=task: (shares.append(share), Judged.advance(task, share))  # type: ignore[method-assign,misc]
        try:
            task.run()
        except Stopped:
            shares.pop()
    assert shares == [step / (2 * STEPS) for step in range(2 * STEPS)]


@pytest.mark.parametrize("given", [STEPS - 1, STEPS + 1, 0])
def test_an_epoch_of_other_than_its_steps_is_refused(tmp_path: Path, given: int) -> None:
    task = Task(tmp_path, Schedule(2))
    few = [torch.tensor([0, 1] * 4)] * given
    with pytest.raises(InputError, match=f"batches: {given} in an epoch; the schedule counts {STEPS}"):
        fit(Net(), lambda random: few, STEPS, task.loss, task.develop, task.schedule, tmp_path)


# Mixed precision


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old GPU's float16, whose gradients are scaled, on this CPU."""
    monkeypatch.setattr(train, "half", lambda device: torch.float16)


def test_scaled_gradients_make_the_same_steps(tmp_path: Path, scaled: None) -> None:
    found, _ = Task(tmp_path / "scaled", Schedule(2, rate=0.05)).run()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(train, "half", lambda device: torch.bfloat16)
        expected, _ = Task(tmp_path / "plain", Schedule(2, rate=0.05)).run()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_a_step_whose_gradients_overflow_is_left_out(tmp_path: Path, scaled: None) -> None:
    model, seen = nn.ParameterDict({"x": nn.Parameter(torch.ones(()))}), []

    def loss(model: nn.Module, batch: int, random: torch.Generator) -> Tensor:
        assert isinstance(model, nn.ParameterDict)
        seen.append(model["x"].item())
        return model["x"] * (math.inf if batch == 1 else 1.0)

    schedule = Schedule(1, rate=0.01, decay=0.0, average=0.0)
    kept = fit(model, lambda random: range(3), 3, loss, lambda model: {}, schedule, tmp_path)
    assert seen[0] > seen[1] == seen[2] and math.isfinite(model["x"].item())
    assert kept["x"].item() == pytest.approx(model["x"].item())  # type: ignore[index]


def test_the_scale_is_part_of_the_state(tmp_path: Path, scaled: None) -> None:
    schedule = Schedule(4, rate=0.05, average=0.9, seed=7)
    whole, _ = Task(tmp_path / "whole", schedule).run()
    with pytest.raises(Stopped):
        Task(tmp_path / "parts", schedule, stop=3).run()
    parts, _ = Task(tmp_path / "parts", schedule).run()
    assert_bits_equal(parts.state_dict(), whole.state_dict())
    state = torch.load(tmp_path / "parts" / "state.pt", weights_only=True)
    assert state["scaler"]["_growth_tracker"] == 4 * STEPS  # steps since the scale last changed


@pytest.mark.gpu
def test_a_model_on_a_gpu_is_fitted_there_and_goes_on(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")

    class Elsewhere(Task):
        def loss(self, model: nn.Module, labels: Tensor, random: torch.Generator) -> Tensor:
            x = torch.randn(8, 2, 6, 6, generator=random) + labels[:, None, None, None]
            with mixed(torch.device("cuda")):
                logits = model(x.cuda())
            return nn.functional.cross_entropy(logits.float(), labels.cuda())

        def run(self) -> tuple[nn.Module, nn.Module]:
            torch.manual_seed(0)
            model = Net().cuda()
            return model, fit(model, self.batches, STEPS, self.loss, self.develop, self.schedule, self.folder)

    with pytest.raises(Stopped):
        Elsewhere(tmp_path, Schedule(4, rate=0.05), stop=3).run()
    _, kept = Elsewhere(tmp_path, Schedule(4, rate=0.05)).run()
    assert all(value.is_cuda for value in kept.state_dict().values())
    lines = curve(tmp_path)
    assert len(lines) == 4 and lines[-1]["loss"] < lines[0]["loss"]


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
    written = {path.name for path in tmp_path.iterdir()} - {"tensorboard"}
    assert written == {"curve.jsonl", "state.pt"}


def test_finished_run_is_read_back(tmp_path: Path) -> None:
    _, kept = Task(tmp_path, Schedule(2)).run()
    again = Task(tmp_path, Schedule(2))
    _, read = again.run()
    assert again.epochs == 0 and again.developed == 0
    assert_bits_equal(read.state_dict(), kept.state_dict())
    assert len(curve(tmp_path)) == 2


def test_checkpoint_is_weights_only(tmp_path: Path) -> None:
    torch.save({"epoch": 1, "model": Stopped("an object whose class would be run")}, tmp_path / "state.pt")
    with pytest.raises(InputError, match=r"state\.pt: it is damaged or no trained state"):
        Task(tmp_path, Schedule(2)).run()


def test_stop_while_a_state_is_written_loses_nothing(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        Task(tmp_path, Schedule(3), stop=2).run()
    (tmp_path / "state.new").write_bytes(b"half of a state")
    Task(tmp_path, Schedule(3)).run()
    assert [line["epoch"] for line in curve(tmp_path)] == [1, 2, 3]
