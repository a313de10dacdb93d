"""What a step costs here, as figures: percentiles of every stage, and what they were measured on."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from edgeemo import __version__
from edgeemo.bench.device import machine
from edgeemo.bench.measure import measure
from edgeemo.recognition.recognizer import load

if TYPE_CHECKING:
    from edgeemo.bench.measure import Samples
    from edgeemo.recognition.recognizer import Recognizer

PERCENTILES = (50, 90, 95, 99)
STAGES = ("detect", "face", "voice", "fusion", "step", "step_tracked")
"""The stages in the order of a report; one that never ran is not in it."""


@dataclass(frozen=True)
class Report:
    """What was measured, and on what.

    Attributes:
        bundle: name of the bundle.
        source: what was played.
        seconds: how long that took.
        steps: hops that were measured.
        stages: milliseconds by stage and percentile ('p50', 'p90', 'p95', 'p99'), with 'n', how often it ran.
        overhead: median over the hops with detection of what is neither detection nor a graph, as a share of
            the step without detection; None where nothing was detected.
        overhead_tracked: the same over the hops without detection; None where there were none.
        backend: what was asked for.
        precision: what was asked for.
        threads: of one graph call.
        graphs: of each graph what ran it, 'engine' and 'encoding'.
        detector: the face finder, None without faces.
        machine: as `edgeemo.bench.device.machine` says it.
        versions: of edgeemo, Python and the libraries.
    """

    bundle: str
    source: str
    seconds: float
    steps: int
    stages: Mapping[str, Mapping[str, float]]
    overhead: float | None
    overhead_tracked: float | None
    backend: str
    precision: str
    threads: int
    graphs: Mapping[str, Mapping[str, str]]
    detector: str | None
    machine: Mapping[str, Any]
    versions: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON holds it."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.bundle}: {self.steps} steps in {self.seconds:.3g} s of {self.source}"]
        lines.append(f"{'ms':<14}" + "".join(f"{f'p{part}':>9}" for part in PERCENTILES) + f"{'n':>8}")
        for name, figures in self.stages.items():
            cells = "".join(f"{figures[f'p{part}']:>9.3f}" for part in PERCENTILES)
            lines.append(f"{name:<14}{cells}{figures['n']:>8.0f}")
        idle = [name for name in self.graphs if name not in self.stages]
        if idle:
            lines.append(f"{', '.join(idle)}: not measured, {self.source} has nothing for it")
        for name, share in (("overhead", self.overhead), ("overhead_tracked", self.overhead_tracked)):
            if share is not None:
                lines.append(f"{name:<17} {share:.1%}")
        ran = [f"{name} {graph['encoding']} on {graph['engine']}" for name, graph in self.graphs.items()]
        lines += [f"graphs: {'; '.join(ran)}; threads {self.threads}"]
        if self.detector:
            lines.append(f"detector: {self.detector}")
        told = [f"{name} {value}" for name, value in self.machine.items() if value is not None]
        lines.append(f"machine: {', '.join(told)}")
        lines.append(f"versions: {', '.join(f'{name} {value}' for name, value in self.versions.items())}")
        return "\n".join(lines)


def bench(
    bundle: str | os.PathLike[str] | None,
    source: str | os.PathLike[str],
    *,
    seconds: float = 10.0,
    backend: str = "auto",
    precision: str = "int8",
    detector: str | os.PathLike[str] | None = None,
    threads: int = 1,
    progress: Callable[[float], None] | None = None,
) -> Report:
    """Measure what a step of a bundle costs here.

    Args:
        bundle: its folder; None for the one in the package.
        source: a video, a sound file or a picture, played again and again.
        seconds: how long to measure, after a warm-up.
        backend: as for `load`.
        precision: as for `load`.
        detector: as for `load`.
        threads: threads of one graph call.
        progress: called after every hop with the seconds that have passed.

    Raises:
        EdgeEmoError: the bundle, the source or an engine cannot be used, as for `load` and `watch`.
    """
    model = load(bundle, backend=backend, precision=precision, threads=threads, detector=detector)
    samples = measure(model, Path(source), seconds, progress=progress)
    return _report(
        model,
        samples,
        source=str(source),
        backend=backend,
        precision=precision,
        threads=threads,
    )


def _report(
    model: Recognizer,
    samples: Samples,
    *,
    source: str,
    backend: str,
    precision: str,
    threads: int,
) -> Report:
    graphs = model.graphs.items()
    return Report(
        bundle=model.bundle.name,
        source=source,
        seconds=round(samples.seconds, 3),
        steps=samples.steps,
        stages={name: _figures(samples.stages[name]) for name in STAGES if name in samples.stages},
        overhead=_median(samples.overhead),
        overhead_tracked=_median(samples.overhead_tracked),
        backend=backend,
        precision=precision,
        threads=threads,
        graphs={name: {"engine": graph.engine, "encoding": graph.encoding} for name, graph in graphs},
        detector=model.open_finder().name if "detect" in samples.stages else None,
        machine=machine(),
        versions=_versions(),
    )


def percentile(values: Sequence[float], part: int) -> float:
    """The nearest rank: the smallest value that at least `part` per cent of all do not exceed.

    Example:
        >>> [percentile([4, 1, 3, 2], part) for part in (25, 50, 51, 99)]
        [1, 2, 3, 4]
    """
    return sorted(values)[math.ceil(part / 100 * len(values)) - 1]


def _versions() -> dict[str, str]:
    """Of edgeemo, of Python and of the libraries that were used."""
    used = [(name, sys.modules.get(name)) for name in ("numpy", "cv2", "av", "onnxruntime", "tensorrt")]
    libraries = {name: str(getattr(module, "__version__", "?")) for name, module in used if module}
    return {"edgeemo": __version__, "python": platform.python_version(), **libraries}


def _figures(seconds: Sequence[float]) -> dict[str, float]:
    figures = {f"p{part}": round(1000 * percentile(seconds, part), 4) for part in PERCENTILES}
    return {**figures, "n": len(seconds)}


def _median(shares: Sequence[float]) -> float | None:
    return round(median(shares), 4) if shares else None
