"""Does edgeemo work on this machine: one check each, and what to do about those that fail."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeemo.errors import BackendError, EdgeEmoError

if TYPE_CHECKING:
    from edgeemo.inference.choice import Contest
    from edgeemo.inference.engines import EngineStore, Unwritable
    from edgeemo.inference.trt_library import TensorRt

NOT_YET_RUN = "TensorRT: not yet run on a device"
"""Said until a device has built an engine and the page of results says which; README.md and
deploy/jetson/README.md say it in the same words."""


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found.

    Attributes:
        name: What was looked at.
        state: 'ok'; 'warn' when something optional is missing; 'fail' when something needed is.
        detail: What was found.
        advice: What to do, or empty.
    """

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Give the fields under their names."""
        return asdict(self)


def examine() -> Iterator[Check]:
    """Run every check, one after the other; none of them raises."""
    for name, check in CHECKS.items():
        try:
            state, detail, advice = check()
        except EdgeEmoError as error:
            state, detail, advice = "fail", str(error), ""  # it says what would be right
        except Exception as error:  # a broken library may raise anything, and the other checks still count
            state, detail, advice = "fail", f"{type(error).__name__}: {error}", "install edgeemo again"
        yield Check(name, state, detail, advice)


Finding = tuple[Literal["ok", "warn", "fail"], str, str]


def _python() -> Finding:
    return "ok", f"{platform.python_version()} at {sys.executable}", ""


def _system() -> Finding:
    return "ok", f"{platform.system()} {platform.release()} on {platform.machine()}", ""


def _board() -> Finding:
    from edgeemo.inference.jetson import read_jetson

    jetson = read_jetson()
    if jetson is None:
        return "ok", "no Jetson", ""
    told = f"{jetson}, power mode {jetson.power_mode or 'unknown'}"
    if jetson.linux and jetson.jetpack is None:
        return "warn", told, "see deploy/jetson/README.md: this JetPack is not among those that it lists"
    return "ok", told, ""


def _processor() -> Finding:
    from edgeemo.bench.device import processor

    return "ok", f"{processor()}, {os.cpu_count()} logical cores", ""


def library(
    module: str, *, needed: bool, without: str, advice: str, load: Callable[[], Any] | None = None
) -> Callable[[], Finding]:
    """Make the check that a library can be imported.

    Args:
        module: The name of its module.
        needed: Whether a missing one is a failure, and not a warning.
        without: What does not work without it.
        advice: What to do when it is missing.
        load: Imports it, where that takes more than its name.
    """

    def check() -> Finding:
        try:
            version = (load() if load else importlib.import_module(module)).__version__
        except (ImportError, OSError) as error:  # OSError: a shared library beneath it is missing
            return "fail" if needed else "warn", f"{error}; {without}", advice
        return "ok", version, ""

    return check


def _onnxruntime() -> Any:
    from edgeemo.inference.ort import import_onnxruntime

    return import_onnxruntime()


def _finder() -> Finding:
    from edgeemo.preprocess.detector import open_finder

    name = open_finder().name
    if name == "yunet":
        return "ok", "YuNet", ""
    return "ok", f"{name} of OpenCV", "'edgeemo fetch-detector' gets YuNet, which costs less per picture"


def _int8() -> Finding:
    from edgeemo.inference.probe import saturates

    if saturates():
        return (
            "warn",
            "this processor saturates in INT8 products, so that FP32 is used in place of INT8",
            "nothing to mend: answers are right, steps are slower",
        )
    return "ok", "products are exact", ""


def _bundle() -> Finding:
    import edgeemo

    bundle = edgeemo.load(backend="onnx").bundle  # 'auto' would build engines
    bundle.verify()
    return "ok", f"{bundle.name}: files as listed, graphs open", ""


def _tensorrt() -> Finding:
    from edgeemo.inference.readiness import survey

    machine = survey()
    otherwise = f"ONNX Runtime on the processor ({NOT_YET_RUN})"
    if machine.driver is None and machine.jetson is None:
        return "ok", f"no NVIDIA driver here; {otherwise}", ""
    obstacle = machine.obstacle()
    if obstacle is not None:
        return "warn", f"{obstacle.what}; {otherwise}", obstacle.advice
    from edgeemo.inference.cuda import CudaError, CudaUnusable
    from edgeemo.inference.trt_library import TensorRt

    try:
        library = TensorRt.open()
    except (CudaError, CudaUnusable) as error:
        return "warn", f"{error.what}; {otherwise}", machine.advise(error.what, error.remedy)
    except BackendError as error:
        return "warn", f"{error}; {otherwise}", machine.advise(str(error))
    with closing(library):
        cuda = library.cuda
        major, minor = cuda.capability
        told = f"{library.version} on {cuda.name}, compute capability {major}.{minor}, {cuda.binding}"
    if machine.hidden:
        return "warn", f"{told}, which is not JetPack's ({NOT_YET_RUN})", machine.advise("")
    return "ok", f"{told} ({NOT_YET_RUN})", ""


def _engines() -> Finding:
    from edgeemo.inference.readiness import survey

    if survey().obstacle() is not None:
        return "ok", "'auto' takes ONNX Runtime for every graph", ""
    from edgeemo.inference.engines import EngineStore
    from edgeemo.inference.trt_library import TensorRt

    try:
        library = TensorRt.open()
    except BackendError:  # the line of TensorRT says why
        return "ok", "'auto' takes ONNX Runtime for every graph", ""
    store = EngineStore.default()
    with closing(library):
        try:
            return _summary(_known(library, store), store.unwritable(), _build_advice(library))
        except BackendError as error:
            return "warn", str(error), "edgeemo build"


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of one graph.

    Attributes:
        graph: Its name.
        taken: What 'auto' takes for it, and why; empty where that is not measured yet.
        settled: Whether no build would change that.
        wrong: What is wrong with its engine; empty where nothing is, or it was never built.
    """

    graph: str
    taken: str = ""
    settled: bool = False
    wrong: str = ""


def _known(library: TensorRt, store: EngineStore) -> list[_Known]:
    """What is known of each graph of the default bundle."""
    from edgeemo.inference.accelerated import contest_of, encoding
    from edgeemo.inference.bundle import Bundle
    from edgeemo.inference.onnx_files import OnnxFiles
    from edgeemo.inference.supply import EngineSupply
    from edgeemo.recognition.recognizer import DEFAULT_BUNDLE

    bundle = Bundle.read(DEFAULT_BUNDLE)
    files = OnnxFiles.choose(bundle, "int8", threads=1)
    supply = EngineSupply(bundle, library, store)
    known = []
    for spec in bundle.graphs.values():
        with closing(files.open(spec)) as onnx:
            contest = contest_of(supply, spec, encoding(spec, "int8"), onnx, threads=1)
            known.append(_look_up(store, contest))
    return known


def _look_up(store: EngineStore, contest: Contest) -> _Known:
    from edgeemo.inference.choice import recall
    from edgeemo.inference.engines import Missing

    name = contest.key.graph
    found, choice = store.find(contest.key), recall(store, contest)
    wrong = found.reason if isinstance(found, Missing) else ""
    if choice is not None and (choice.winner == "onnx" or not isinstance(found, Missing)):
        faster = "TensorRT" if choice.winner == "tensorrt" else "ONNX Runtime"
        measured = f"TensorRT {choice.tensorrt:.2f} ms, ONNX Runtime {choice.onnx:.2f} ms"
        return _Known(name, f"{faster} for {name} ({measured})", settled=True)
    failure = store.failure(contest.key) if isinstance(found, Missing) else ""
    if failure:
        return _Known(name, f"ONNX Runtime for {name} (the last build of its engine failed: {failure})")
    return _Known(name, wrong=wrong)


def _summary(known: list[_Known], unwritable: Unwritable | None, build: str) -> Finding:
    """One line for all graphs; `build` is the advice where building helps."""
    taken = [graph.taken for graph in known if graph.taken]
    unknown = [graph.graph for graph in known if not graph.taken]
    told = []
    if taken:
        told.append(f"'auto' takes {'; '.join(taken)}")
    if unknown:
        told.append(f"not measured yet for {', '.join(unknown)}")
    for graph in known:  # what is wrong with the folder is said once, below
        if graph.wrong and not (unwritable and unwritable.reason in graph.wrong):
            told.append(graph.wrong)
    if all(graph.settled for graph in known):
        return "ok", "; ".join(told), ""
    if unwritable is None:
        return "warn", "; ".join(told), build
    told.append(f"engines cannot be kept ({unwritable})")
    return (
        "warn",
        "; ".join(told),
        unwritable.remedy or "name a folder that can be written with EDGEEMO_CACHE",
    )


def _build_advice(library: TensorRt) -> str:
    from edgeemo.inference.jetson import free_memory
    from edgeemo.inference.trt_builder import Settings

    free, wanted = free_memory(), Settings().workspace
    if library.cuda.integrated and free is not None and free < wanted:
        return (
            f"edgeemo build; only {free // 2**20} MB are free, and a layer may ask for {wanted // 2**20}: "
            "stop other programs first"
        )
    return "edgeemo build"


def _cameras() -> Finding:
    if sys.platform != "linux":
        return "ok", "not listed on this system; try 'edgeemo run --camera 0'", ""
    nodes = sorted(Path("/dev").glob("video*"))
    if not nodes:
        return "warn", "none found; clips and microphones still work", "connect a camera"
    closed = [str(node) for node in nodes if not os.access(node, os.R_OK | os.W_OK)]
    if closed:
        return "warn", f"no permission to open {', '.join(closed)}", "add your user to the group 'video'"
    return "ok", ", ".join(map(str, nodes)), ""


def _microphones() -> Finding:
    try:
        import sounddevice

        devices = sounddevice.query_devices()
    except Exception as error:  # PortAudio's own error class exists only where it can be imported
        return "warn", f"{error}; clips and cameras still work", "see the line of sounddevice"
    names = [device["name"] for device in devices if device["max_input_channels"] > 0]
    if not names:
        return "warn", "none found; clips and cameras still work", "connect a microphone"
    return "ok", ", ".join(names), ""


CHECKS: dict[str, Callable[[], Finding]] = {
    "python": _python,
    "system": _system,
    "board": _board,
    "processor": _processor,
    "numpy": library("numpy", needed=True, without="nothing works", advice="pip install numpy"),
    "onnxruntime": library(
        "onnxruntime",
        needed=True,
        without="no graph can run",
        advice="pip install 'onnxruntime>=1.23'",
        load=_onnxruntime,
    ),
    "opencv": library(
        "cv2",
        needed=True,
        without="no face is found",
        advice="pip install 'opencv-python-headless>=4.8,<5'",
    ),
    "av": library("av", needed=False, without="clips cannot be read", advice="pip install 'av>=12'"),
    "sounddevice": library(
        "sounddevice",
        needed=False,
        without="microphones cannot be read",
        advice="pip install sounddevice; on Debian and Ubuntu also: apt install libportaudio2",
    ),
    "face detector": _finder,
    "int8": _int8,
    "bundle": _bundle,
    "tensorrt": _tensorrt,
    "engines": _engines,
    "cameras": _cameras,
    "microphones": _microphones,
}
"""The checks by name, in the order in which they are shown."""
