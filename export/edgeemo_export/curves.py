"""The curve of a run: figures per epoch, as JSON lines and for TensorBoard."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger("edgeemo.export")


class Curve:
    """Writes the figures of each epoch to ``curve.jsonl``, and to ``tensorboard/`` where that is installed.

    Args:
        folder: of the run.
        done: epochs that a resumed run has behind it; lines of later ones, of a run that was stopped between
            its curve and its state, are dropped.
    """

    def __init__(self, folder: Path, done: int) -> None:
        self.path = folder / "curve.jsonl"
        if self.path.exists():
            lines = self.path.read_text().splitlines(keepends=True)
            self.path.write_text("".join(line for line in lines if _epoch(line) <= done))
        writer = _writer()
        self.board: Any = writer and writer(str(folder / "tensorboard"), purge_step=done + 1)

    def add(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Append the figures at the end of ``epoch``, which counts from 1."""
        line = {"epoch": epoch, **{name: float(f"{value:.5g}") for name, value in figures.items()}}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        log.info("%s %s", self.path.parent.name, line)
        if self.board:
            for name, value in figures.items():
                self.board.add_scalar(name, value, epoch)
            self.board.flush()

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self.board:
            self.board.close()


def _epoch(line: str) -> float:
    try:
        return float(json.loads(line)["epoch"])
    except ValueError:  # the half of a line that a stop left
        return float("inf")


@functools.cache  # says once what is missing
def _writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.info("tensorboard is not installed: the curves are in curve.jsonl alone")
        return None
    return SummaryWriter
