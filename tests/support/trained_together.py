"""What several processes train: torchrun starts this file with a folder, where each stores what it has."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edgeemo.errors import InputError
from edgeemo_export import config, processes
from edgeemo_export.train import Schedule, fit

STEPS, BATCH = 4, 12
SCHEDULE = Schedule(3, rate=0.02, average=0.8, seed=5)


class Plain(nn.Module):
    """Nothing in it depends on how a batch is cut; its weights are in channels-last order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 6, 3), nn.Linear(6, 3)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean(dim=(2, 3)))  # type: ignore[no-any-return]


class Normed(Plain):
    """With batch statistics, dropout, and a part that some processes do not use."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(2), nn.Dropout(0.5)
        self.rare, self.unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(super().forward(self.norm(x)))
        return x * self.rare if processes.rank() == processes.count() - 1 else x


class Judge(nn.Module):
    """Trained beside a model."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Linear(3, 1)


DATA = torch.randn(STEPS * BATCH, 2, 5, 5, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(3, (STEPS * BATCH,), generator=torch.Generator().manual_seed(2))


def train(kind: type[Plain], folder: Path, schedule: Schedule = SCHEDULE) -> dict[str, nn.Module]:
    """The model, its average and what was beside it, however many processes there are."""
    torch.manual_seed(schedule.seed + processes.rank())  # weights that a recipe forgot to seed
    model, judge = kind(), Judge()

    def batches(random: torch.Generator) -> Iterator[Tensor]:
        return iter(torch.randperm(len(DATA), generator=random).split(BATCH))

    def loss(model: nn.Module, rows: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        logits = model(DATA[rows])
        classes = nn.functional.cross_entropy(logits, LABELS[rows])
        return {"classes": classes, "judge": 0.1 * judge.weigh(logits).square().mean()}

    averaged = fit(model, batches, STEPS, loss, lambda model: {"one": 1.0}, schedule, folder, beside=judge)
    return {"model": model, "averaged": averaged, "judge": judge}


@dataclass(frozen=True)
class Config:
    schedule: Schedule = SCHEDULE


def refused(batch: object) -> str:
    """What is said of a batch that cannot be shared."""
    try:
        processes.share(batch)
    except InputError as error:
        return str(error)
    return ""


def main(folder: Path) -> None:
    """Train with the other processes, and store under the process's rank what it got."""
    torch.set_num_threads(1)
    with processes.joined():
        config.keep(Config(), folder / "plain")
        kept: dict[str, object] = {
            "shares": (processes.share(torch.arange(6)), processes.share((torch.arange(4), 10))),
            "refused": [refused(torch.arange(5)), refused(7), refused([4])],
            "device": str(processes.device()),
        }
        for kind in (Plain, Normed):
            for name, module in train(kind, folder / kind.__name__.lower()).items():
                kept[f"{kind.__name__.lower()} {name}"] = module.state_dict()
        torch.save(kept, folder / f"rank{processes.rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
