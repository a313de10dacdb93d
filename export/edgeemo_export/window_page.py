"""What an answer costs as the window grows: exports fusions of several windows, and writes the page."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from edgeemo.bench.device import machine
from edgeemo.bench.reel import Reel, Spent, Walk
from edgeemo.bench.startup import start_up
from edgeemo.bench.statistics import summarise
from edgeemo.errors import InputError
from edgeemo.inference.bundle import MANIFEST, Bundle, describe_files
from edgeemo.inference.choice import example
from edgeemo.inference.work import work_of
from edgeemo.recognition.recognizer import DEFAULT_BUNDLE, Recognizer, load

from .bundle import write_fusion, write_manifest
from .data.labels import NORMS
from .systems.attention import AttentionFusion

log = logging.getLogger("edgeemo.export")

STARTS = 3
"""Processes whose memory is measured, of each window."""

_MODALITIES = ("face", "voice")


@dataclass(frozen=True)
class Quantity:
    """A column of times.

    Attributes:
        title: of the column.
        of: seconds of a hop; None where it has none.
    """

    title: str
    of: Callable[[Spent], float | None]


QUANTITIES = (
    Quantity("fusion", lambda spent: spent.parts.get("fusion")),
    Quantity("update", lambda spent: spent.update),
    Quantity("step without detection", lambda spent: None if spent.detected else spent.step),
)


@dataclass(frozen=True)
class Window:
    """A bundle with a fusion of some window.

    Attributes:
        slots: tokens of a modality.
        seconds: that an answer looks back.
        folder: of the bundle.
        multiply_adds: of a call of the fusion, with one face.
    """

    slots: int
    seconds: float
    folder: Path
    multiply_adds: int


def write(bundle: Path | None, source: Path, page: Path, slots: Sequence[int], rounds: int) -> None:
    """Export a fusion for each window, measure all in turns, and write the page.

    The weights are random, as time does not depend on them; the encoders are those of the bundle.

    Args:
        bundle: with the attention fusion over a face and a voice; None for the one in the package.
        source: a clip with both.
        page: the Markdown page.
        slots: tokens in a window; those of the bundle itself are always among them.
        rounds: how often the clip is played.

    Raises:
        InputError: the bundle's modalities, or those of the source, are others.
    """
    given = Bundle.read(DEFAULT_BUNDLE if bundle is None else bundle)
    reel = Reel.read(source, given.hop)
    for name, modalities in ((given.name, given.modalities), (str(source), reel.modalities)):
        if modalities != _MODALITIES:
            raise InputError(f"{name}: it has {' and '.join(modalities)}; it must have face and voice")
    with tempfile.TemporaryDirectory() as scratch:
        windows = [
            with_window(given, count, Path(scratch) / str(count)) for count in sorted({*slots, given.slots})
        ]
        log.info("%d windows exported", len(windows))
        models = [load(window.folder, backend="onnx") for window in windows]
        spent = in_turns(models, reel, rounds)
        memory = [
            start_up(window.folder, source, backend="onnx", runs=STARTS).memory["peak"] for window in windows
        ]
    own = next(place for place, window in enumerate(windows) if window.slots == given.slots)
    parts = [_head(given, source, windows, rounds, reel), _table(windows, spent, memory, own), _machine()]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n\n".join(parts) + "\n")


def with_window(given: Bundle, slots: int, folder: Path) -> Window:
    """Write a bundle that is `given` with another window: its fusion has random weights, and no proof.

    Args:
        given: whose encoders are taken.
        slots: tokens of a modality.
        folder: where to.
    """
    folder.mkdir(parents=True)
    for name in given.files:
        if name != given.graphs["fusion"].files["fp32"]:
            shutil.copy(given.path / name, folder / name)
    fusion = given.graphs["fusion"]
    widths = {name: int(fusion.inputs[f"{name}_tokens"].shape[-1]) for name in given.modalities}
    torch.manual_seed(0)
    norms = [NORMS.get(label, (0.0, 0.0)) for label in given.labels]
    module = AttentionFusion(widths["face"], len(given.labels), norms)
    path = write_fusion(folder, module, widths, list(fusion.outputs), slots)
    manifest = json.loads((given.path / MANIFEST).read_text("utf-8"))
    entry = manifest["graphs"]["fusion"]
    entry["files"] = {"fp32": path.name}
    for _, shape in entry["inputs"].values():
        shape[1] = slots
    manifest |= {"window": round(slots * given.hop, 6), "results": []}
    manifest.pop("proof", None)
    files = {name for graph in manifest["graphs"].values() for name in graph["files"].values()}
    manifest["files"] = describe_files(folder, sorted(files))
    write_manifest(folder, manifest)
    written = Bundle.read(folder)
    work = work_of(path.read_bytes(), example(written.graphs["fusion"]), path.name)
    return Window(slots, written.window, folder, work.total)


def in_turns(models: Sequence[Recognizer], reel: Reel, rounds: int) -> list[list[Spent]]:
    """What each hop of a clip takes each of some models, each with a stream whose window is full.

    In every hop the models take turns, beginning with another one each time.

    Args:
        models: the models.
        reel: the clip.
        rounds: how often it is played, at least 1.
    """
    walks = [Walk(model, reel) for model in models]
    longest = max(model.bundle.slots for model in models)
    for walk in walks:
        while walk.hops < longest or walk.hops % reel.hops:
            walk.step()
    spent: list[list[Spent]] = [[] for _ in models]
    for hop in range(rounds * reel.hops):
        for turn in range(len(models)):
            place = (hop + turn) % len(models)
            spent[place].append(walks[place].step())
    return spent


def ratio(one: Sequence[float | None], other: Sequence[float | None]) -> str:
    """The median of ratios hop by hop, with its 99 % interval; hops that one of them has not are left out."""
    both = [a / b for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    found = summarise(both)
    low, high = found.low["p50"], found.high["p50"]
    value = f"{found.percentiles['p50']:.2f}"
    return value if low is None or high is None else f"{value} ({low:.2f}-{high:.2f})"


def _table(
    windows: Sequence[Window],
    spent: Sequence[Sequence[Spent]],
    memory: Sequence[float | None],
    own: int,
) -> str:
    titles = ["window, s", "tokens", "multiply-adds of fusion, M"]
    titles += [part for quantity in QUANTITIES for part in (f"{quantity.title}, ms", "ratio (99 %)")]
    lines = [f"| {' | '.join([*titles, 'peak memory, MB'])} |", "|---" * (len(titles) + 1) + "|"]
    for place, window in enumerate(windows):
        cells = [f"{window.seconds:g}", str(window.slots), f"{window.multiply_adds / 1e6:.2f}"]
        for quantity in QUANTITIES:
            times = [quantity.of(one) for one in spent[place]]
            median = summarise([seconds for seconds in times if seconds is not None]).percentiles["p50"]
            beside = [quantity.of(one) for one in spent[own]]
            cells += [f"{1e3 * median:.3f}", "1" if place == own else ratio(times, beside)]
        held = memory[place]
        cells.append("not told" if held is None else f"{held:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _head(given: Bundle, source: Path, windows: Sequence[Window], rounds: int, reel: Reel) -> str:
    slots = ",".join(str(window.slots) for window in windows)
    kept = given.graphs["fusion"]
    own = work_of(given.read_file(kept.files["fp32"]), example(kept), kept.files["fp32"]).total
    return "\n\n".join(
        [
            "# The cost of a window",
            f"Written by `edgeemo-export window --bundle BUNDLE --source CLIP --page PAGE --slots {slots} "
            f"--rounds {rounds}`, with the encoders of {given.name} {given.version} in INT8 and its kind of "
            "fusion in FP32, exported for each window with random weights, of which time does not depend. "
            f"The bundle's own fusion, of {given.slots} tokens, has {own / 1e6:.2f} M multiply-adds.",
            f"{source.name} is played {rounds} times, {rounds * reel.hops} hops, to a stream of each window, "
            "which is full before it begins. In every hop the streams take turns on one thread of ONNX "
            "Runtime, and a ratio is the median of the hops' ratios to the bundle's own window, with its "
            "99 % interval, so whatever else the machine did falls on all. An update is a call of each "
            "graph, with one face; a step is all that is done for a hop. The peak of memory is that of a new "
            f"process that loads the bundle and answers the clip, the median of {STARTS}.",
        ]
    )


def _machine() -> str:
    told: Mapping[str, object] = machine()
    return "Measured on " + ", ".join(f"{name} {value}" for name, value in told.items() if value is not None)
