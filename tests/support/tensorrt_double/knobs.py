"""What a test can make the double do, and what it saw."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Knobs:
    """The state behind `trt._double`.

    Attributes:
        device: the emulated CUDA device.
        version: the version that is played.
        device_name, capability: written into a plan; a plan of another capability is refused.
        refuse_build: what the builder logs as an error before it answers None; empty when it builds.
        refuse_strong: the builder refuses strongly typed networks, and only those.
        refuse_plan: the runtime answers None for every plan.
        out_of_memory: 'build' or 'context': where the device's memory does not suffice.
        phases: what a progress monitor is told: (name, parent, steps), a phase after its parent. A real
            builder tells of a hundredth of its time, in bursts.
        float_layers: names of quantised layers for which no INT8 tactic is found.
        num_DLA_cores: DLA cores of the device.
        refuse_execute: so many executions answer False and log an error.
        builds, contexts: engines built, execution contexts made.
        configs: how each engine was built.
    """

    device: Any
    version: str
    device_name: str = ""
    capability: tuple[int, int] = (0, 0)
    refuse_build: str = ""
    refuse_strong: bool = False
    refuse_plan: bool = False
    out_of_memory: str = ""
    phases: list[tuple[str, str | None, int]] = field(
        default_factory=lambda: [
            ("Building Engine", None, 2),
            ("Tactic Selection", "Building Engine", 4),
        ]
    )
    float_layers: set[str] = field(default_factory=set)
    num_DLA_cores: int = 0
    refuse_execute: int = 0
    builds: int = 0
    contexts: int = 0
    configs: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device_name = self.device_name or self.device.name
        if self.capability == (0, 0):
            self.capability = tuple(self.device.capability)

    @property
    def major(self) -> int:
        """The major version that is played."""
        return int(self.version.split(".")[0])
