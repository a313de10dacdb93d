"""What a run is said to cost, and that saying so leaves no trace in it."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgeemo.errors import InputError
from edgeemo_export import budget as budgets
from edgeemo_export import train
from edgeemo_export.budget import TIMED, Budget, budget
from edgeemo_export.train import Schedule, fit


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(4, 3)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(self.head(self.drop(self.norm(self.conv(x)).mean(dim=(2, 3)))))  # type: ignore[no-any-return]


def step_of(*modules: nn.Module, batch: int = 6) -> torch.Tensor:
    x = torch.randn(batch, 2, 5, 5)
    for module in modules:
        x = module(x)
    return x.square().mean()


def test_counts_of_a_budget() -> None:
    net, judge = Net(), nn.Linear(3, 1)

    def step(rows: Tensor) -> None:
        step_of(net, judge, batch=len(rows)).backward()

    found = budget([net, judge], step, [torch.arange(6)] * 5, steps=100)
    conv, head = 2 * 4 * 9, 4 * 3
    assert found.trained == conv + 8 + head + 3 + 3 + 1
    assert found.parameters == found.trained + 9 + 3
    # Of the convolution forward and for its weights (its input needs no gradient), of the others both; of the
    # frozen layer no gradient for its weights.
    assert found.multiply_adds == 2 * conv * 9 + 3 * head + 2 * 9 + 3 * 3
    assert found.steps == 100 and found.seconds > 0
    # Weights, frozen ones and running statistics of float32, a counter of int64; the average of the model's.
    model = 4 * (conv + 8 + 8 + head + 3 + 9 + 3) + 8
    assert found.state == 2 * model + 4 * 4 + 3 * 4 * found.trained
    assert "CPU, 1 thread" in found.where


@pytest.mark.parametrize(("batch", "held"), [(4, 4), ((torch.zeros(2), 3), 5), ("six", None)])
def test_samples_of_a_batch_are_known_or_not(batch: object, held: int | None) -> None:
    head = nn.Linear(7, 11)
    found = budget([head], lambda batch: head(torch.zeros(20, 7)), [batch] * 3, steps=1)
    assert found.multiply_adds == (None if held is None else 20 * 7 * 11 / held)
    assert ("multiply-adds" in str(found)) == (held is not None)


@pytest.mark.parametrize(("there", "made"), [(9, 1 + TIMED), (2, 2), (1, 2)])
def test_a_few_steps_are_timed_and_the_first_is_not(
    monkeypatch: pytest.MonkeyPatch, there: int, made: int
) -> None:
    clock, calls = [0.0], []

    def step(batch: object) -> None:
        calls.append(batch)
        clock[0] += 50.0 if len(calls) == 1 else 2.0

    monkeypatch.setattr(budgets.time, "perf_counter", lambda: clock[0])
    found = budget([nn.Linear(1, 1)], step, [None] * there, steps=30)
    assert len(calls) == made and found.seconds == 60.0


def test_a_budget_leaves_everything_as_it_was() -> None:
    net = Net().to(memory_format=torch.channels_last)
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    adam = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1.0)

    def step(batch: object) -> None:
        step_of(net).backward()
        adam.step()
        assert not torch.equal(net.conv.weight, before["conv.weight"])

    budget([net], step, [None] * 4, steps=1)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_budget_as_text() -> None:
    found = Budget(1_234_567, 1_200_000, 45_670_000, 7000, 7200.0, 20 * 2**20, "the CPU, 2 threads")
    assert str(found) == (
        "1.23 M parameters (1.2 M trained), 45.7 M multiply-adds a sample and step, 7,000 steps of 1.03 s, "
        "about 2 h on the CPU, 2 threads, 20 MiB of state"
    )


# In a run


def fitted(folder: Path, epochs: int = 2, more: nn.Module | None = None) -> dict[str, Tensor]:
    torch.manual_seed(3)
    net = Net()

    def batches(random: torch.Generator) -> Iterator[Tensor]:
        return iter(torch.randperm(18, generator=random).split(6))

    def loss(model: nn.Module, rows: Tensor, random: torch.Generator) -> Tensor:
        x = torch.randn(len(rows), 2, 5, 5, generator=random)
        logits = model(x) if more is None else more(model(x))
        return nn.functional.cross_entropy(logits, rows % 3)

    averaged = fit(net, batches, 3, loss, lambda model: {}, Schedule(epochs, seed=4), folder)
    return {
        **net.state_dict(),
        **{f"averaged.{name}": value for name, value in averaged.state_dict().items()},
    }


def test_a_run_with_an_estimate_equals_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "edgeemo.export"):
        estimated = fitted(tmp_path / "estimated")
    assert "estimated: 107 parameters (95 trained)" in caplog.messages[0] and "6 steps" in caplog.messages[0]
    monkeypatch.setattr(train, "_estimate", lambda *given: None)
    plain = fitted(tmp_path / "plain")
    assert all(torch.equal(value, plain[name]) for name, value in estimated.items())


def test_what_is_left_is_estimated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fitted(tmp_path, epochs=2)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.save({**state, "epoch": 1}, tmp_path / "state.pt")
    with caplog.at_level(logging.INFO, "edgeemo.export"):
        caplog.clear()  # of the first run, where something made the logger speak before
        fitted(tmp_path, epochs=2)
        assert "3 steps" in caplog.messages[0]
        caplog.clear()
        fitted(tmp_path, epochs=2)
        assert not caplog.messages  # nothing is left


def test_a_loss_that_trains_what_no_optimiser_has_is_refused(tmp_path: Path) -> None:
    forgotten = nn.Linear(3, 3)
    with pytest.raises(InputError, match=r"trains 2 parameters .* \[\[3\], \[3, 3\]\]|\[\[3, 3\], \[3\]\]"):
        fitted(tmp_path, more=forgotten)
    assert not (tmp_path / "state.pt").exists()
    fitted(tmp_path, more=forgotten.requires_grad_(False))


def test_time_is_measured_with_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow() -> Iterator[None]:
        for _ in range(3):
            time.sleep(0.02)
            yield None

    assert budget([nn.Linear(1, 1)], lambda batch: None, slow(), steps=10).seconds >= 0.2
