"""Builds the engines of a bundle ahead, says what they are, and times them against ONNX Runtime."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from edgeemo.errors import InputError
from edgeemo.inference.accelerated import contest_of, encoding, warn_of_precision
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.choice import Choice, decide
from edgeemo.inference.engines import EngineStore, Unwritable
from edgeemo.inference.onnx_files import OnnxFiles
from edgeemo.inference.spec import GraphSpec
from edgeemo.inference.supply import EngineSupply, Supplied, for_graph, most_faces
from edgeemo.inference.trt import TensorRt
from edgeemo.inference.trt_builder import Settings
from edgeemo.inference.trtexec import MAJORS, command, line

THREADS = 1
"""Threads of ONNX Runtime that engines are timed against: what `edgeemo.load` takes by default."""


@dataclass(frozen=True)
class Engine:
    """The engine of one graph.

    Args:
        graph: the graph's name.
        encoding: the file that it was built from.
        path: its file; the description beside it, '.json', lists every layer. None where it was not kept.
        built: whether it was built now, and not found.
        seconds: what building it took.
        size: bytes of the plan.
        typing: 'strong', or 'weak' where TensorRT 10 was merely allowed FP16 and INT8.
        dla_core: the DLA core that runs what it can, None for the GPU alone.
        layers: how many layers compute in which precision.
        findings: quantised operators that are not seen to compute in INT8, one sentence each.
        choice: medians of one call here, in milliseconds.
    """

    graph: str
    encoding: str
    path: str | None
    built: bool
    seconds: float
    size: int
    typing: str
    dla_core: int | None
    layers: Mapping[str, int]
    findings: tuple[str, ...]
    choice: Choice

    def to_dict(self) -> dict[str, Any]:
        """Give the fields under their names, and the winner."""
        return {**asdict(self), "choice": {**asdict(self.choice), "winner": self.choice.winner}}

    def __str__(self) -> str:
        state = f"built in {self.seconds:.1f} s" if self.built else "found"
        where = "the GPU" if self.dla_core is None else f"DLA core {self.dla_core}"
        layers = ", ".join(f"{count} {precision}" for precision, count in self.layers.items())
        winner = {"tensorrt": "TensorRT", "onnx": "ONNX Runtime"}[self.choice.winner]
        lines = [
            f"{self.graph}: {self.encoding} on {where}, {state}, {self.size / 1e6:.1f} MB, "
            f"{self.typing} typing: {self.path or 'not kept'}",
            f"  layers: {layers or 'TensorRT names none'}",
            *(f"  ! {finding}" for finding in self.findings),
            f"  one call: TensorRT {self.choice.tensorrt:.3f} ms, ONNX Runtime {self.choice.onnx:.3f} ms; "
            f"'auto' takes {winner}",
        ]
        return "\n".join(lines)


class Workbench:
    """Builds the engines of one bundle; a context, which frees the device in the end.

    Args:
        bundle: the bundle.
        precision: 'int8', 'fp16' or 'fp32'.
        settings: how engines are built; `most` is the bundle's.
        store: where they are kept.
        rebuild: build also where a kept engine fits.
        progress: called with the name of a graph, the phase of its build and the fraction that is done.

    Raises:
        BackendError: TensorRT cannot be opened; the message says exactly why.
        InputError: nothing can be kept in the store, the device has no such DLA core, or one is asked for in
            another precision than FP16.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str = "int8",
        settings: Settings | None = None,
        store: EngineStore | None = None,
        rebuild: bool = False,
        progress: Callable[[str, str, float], None] | None = None,
    ) -> None:
        settings = settings or Settings()
        _check_dla(settings, precision)
        self._bundle = bundle
        self._precision = precision
        self._progress = progress or (lambda graph, phase, fraction: None)
        self._graph = ""
        self._unkept: dict[str, int] = {}
        self._library = TensorRt.open()
        self._supply = EngineSupply(
            bundle,
            self._library,
            store or EngineStore.default(),
            settings=settings,
            rebuild=rebuild,
            progress=lambda phase, fraction: self._progress(self._graph, phase, fraction),
        )
        try:
            _check_core(settings, self._library)
            self._check_store()
        except BaseException:
            self._library.close()
            raise

    def __enter__(self) -> Workbench:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._library.close()

    @property
    def machine(self) -> dict[str, Any]:
        """What engines are built on and for."""
        cuda = self._library.cuda
        return {
            "device": cuda.name,
            "capability": ".".join(map(str, cuda.capability)),
            "tensorrt": self._library.version,
            "cuda": ".".join(map(str, cuda.driver)),
            "binding": cuda.binding,
        }

    def engines(self) -> Iterator[Engine]:
        """Build and time the engine of each graph, one after the other.

        Raises:
            BackendError: TensorRT cannot build an engine, or an engine failed.
            BundleError: a file is not the one that the manifest describes.
        """
        warn_of_precision(self._bundle, self._precision)
        files = OnnxFiles.choose(self._bundle, self._precision, THREADS)
        for spec in self._bundle.graphs.values():
            self._graph = spec.name
            supplied = self._supply.open(spec, encoding(spec, self._precision))
            with contextlib.closing(supplied.graph):
                if supplied.stored.path is None:
                    self._unkept[spec.name] = len(supplied.stored.plan)
                self._prefer(supplied)
                yield self._timed(spec, supplied, files)

    def check_kept(self) -> None:
        """Raise unless every engine was kept.

        Raises:
            InputError: the message names the engines, the folder, the bytes that they need and why not.
        """
        if self._unkept:
            unkept = self._supply.unkept
            raise InputError(
                f"the engines of {', '.join(self._unkept)} were not kept in {self._supply.store.place} "
                f"({unkept}); they need {sum(self._unkept.values())} bytes: {_remedy(unkept)}"
            )

    def _timed(self, spec: GraphSpec, supplied: Supplied, files: OnnxFiles) -> Engine:
        self._progress(spec.name, "timing it", 1.0)
        with contextlib.closing(files.open(spec)) as onnx:
            key, report = supplied.stored.key, supplied.stored.report
            contest = contest_of(self._supply, spec, key.encoding, onnx, THREADS)
            choice = decide(self._supply.store, contest, supplied.graph, onnx, self._supply.say_waiting)
        return Engine(
            graph=spec.name,
            encoding=key.encoding,
            path=None if supplied.stored.path is None else str(supplied.stored.path),
            built=supplied.built,
            seconds=report["seconds"],
            size=len(supplied.stored.plan),
            typing=report["typing"],
            dla_core=key.settings["dla_core"],
            layers=dict(Counter(layer["precision"] for layer in report["layers"])),
            findings=tuple(report["findings"]),
            choice=choice,
        )

    def _prefer(self, supplied: Supplied) -> None:
        """What was asked for last is what later starts take."""
        if supplied.built:
            return
        with self._supply.store.locked(self._supply.say_waiting) as unwritable:
            if not unwritable:
                with contextlib.suppress(OSError):
                    self._supply.store.prefer(supplied.stored.key)

    def _check_store(self) -> None:
        with self._supply.store.locked(self._supply.say_waiting) as unwritable:
            if unwritable:
                raise InputError(f"engines cannot be kept: {unwritable}; {_remedy(unwritable)}")


def trtexec(
    bundle: Bundle, precision: str = "int8", settings: Settings | None = None
) -> dict[str, dict[str, str]]:
    """The trtexec commands that build the same engines, for a POSIX shell; needs no TensorRT.

    Args:
        bundle: the bundle.
        precision: 'int8', 'fp16' or 'fp32'.
        settings: how engines are built.

    Returns:
        By major version of TensorRT, by name of the graph.

    Raises:
        InputError: a DLA is asked for in another precision than FP16.
    """
    settings = settings or Settings()
    _check_dla(settings, precision)
    warn_of_precision(bundle, precision)
    most = most_faces(bundle)
    commands: dict[str, dict[str, str]] = {}
    for major in MAJORS:
        commands[str(major)] = {}
        for name, spec in bundle.graphs.items():
            encoded = encoding(spec, precision)
            model = str(bundle.path / spec.files[encoded])
            own = for_graph(settings, spec, encoded, most)
            commands[str(major)][name] = line(command(model, spec, own, major))
    return commands


def _remedy(unwritable: Unwritable | None) -> str:
    elsewhere = "name a folder that can be written with --cache or EDGEEMO_CACHE"
    return f"{unwritable.remedy}, or {elsewhere}" if unwritable and unwritable.remedy else elsewhere


def _check_core(settings: Settings, library: TensorRt) -> None:
    cores = library.dla_cores if settings.dla_core is not None else 0
    if settings.dla_core is None or settings.dla_core < cores:
        return
    device = f"TensorRT {library.version} on {library.cuda.name}"
    if not cores:
        raise InputError(f"{device} has no DLA cores: leave --dla out")
    right = " or ".join(map(str, range(cores)))
    raise InputError(f"{device} has no DLA core {settings.dla_core}: give --dla {right}")


def _check_dla(settings: Settings, precision: str) -> None:
    if settings.dla_core is not None and precision != "fp16":
        raise InputError(
            f"precision is {precision!r}, and a DLA runs FP16 graphs alone; it must be 'fp16' with a DLA"
        )
