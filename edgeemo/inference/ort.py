"""One graph in ONNX Runtime, on the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeemo.errors import BackendError, BundleError, InputError, shown
from edgeemo.inference.graph import FeedCheck, mismatch
from edgeemo.inference.spec import GraphSpec, TensorSpec

if TYPE_CHECKING:
    import onnxruntime

PROVIDER = "CPUExecutionProvider"
TELEMETRY_VARIABLE = "ORT_DISABLE_TELEMETRY"


class OrtGraph:
    """A graph in ONNX Runtime; each run answers new arrays, which the caller may keep.

    Opening holds the file to its spec and runs it once on zeros, so that a graph that cannot run, or answers
    other shapes than it says, is refused here and the first real run is not the slow one.

    Args:
        model: the contents of the ONNX file, all weights within; they are not kept.
        spec: what the file must read and answer.
        encoding: which of the spec's files it is.
        threads: threads of one run, at least 1.

    Raises:
        BundleError: ONNX Runtime cannot read the file, or the file is not what the spec says.
        BackendError: ONNX Runtime is missing, or does not run on the CPU provider.
        InputError: `threads` is not a whole number of at least 1.
    """

    def __init__(self, model: bytes, spec: GraphSpec, *, encoding: str = "fp32", threads: int = 1) -> None:
        self.spec = spec
        self.encoding = encoding
        self._session: onnxruntime.InferenceSession | None = open_session(
            model, f"{spec.files.get(encoding, 'model')} (graph {spec.name!r})", threads
        )
        self.engine = f"onnxruntime {_version()} {PROVIDER}"
        self._outputs = list(spec.outputs)
        self._check = FeedCheck(spec)
        self._hold_to_spec()

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Compute the outputs for `feeds`.

        Args:
            feeds: one array per input of the spec, of its dtype and shape.

        Raises:
            BackendError: `feeds` do not fit the spec, ONNX Runtime failed, or the graph was closed.
        """
        self._check(feeds)
        if self._session is None:
            raise BackendError(f"graph {self.spec.name!r} was closed; open it again to run it")
        try:
            values = self._session.run(self._outputs, feeds)
        except Exception as error:  # onnxruntime's errors have no common class of their own
            raise BackendError(f"graph {self.spec.name!r}: ONNX Runtime failed: {_line(error)}") from error
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        """Free the session; a later `run` raises `BackendError`."""
        self._session = None

    def _hold_to_spec(self) -> None:
        assert self._session is not None
        name = self.spec.files.get(self.encoding, "model")
        sides = (
            ("input", self._session.get_inputs(), self.spec.inputs),
            ("output", self._session.get_outputs(), self.spec.outputs),
        )
        for side, arguments, specs in sides:
            given = {argument.name: argument for argument in arguments}
            if given.keys() != specs.keys():
                raise BundleError(
                    f"{name}: its {side}s are {', '.join(given)}; the manifest says {', '.join(specs)}"
                )
            for spec in specs.values():
                argument = given[spec.name]
                if argument.type != _TYPES[spec.dtype] or not _fits(argument.shape, spec.shape):
                    raise BundleError(
                        f"{name}: {side} {spec.name!r} is {argument.type} {argument.shape}; "
                        f"the manifest says {spec}"
                    )
        try:
            answers = self.run({spec.name: _zeros(spec) for spec in self.spec.inputs.values()})
        except BackendError as error:
            raise BundleError(f"{name}: it cannot run on zeros: {error}") from error
        wrong = mismatch(self.spec.outputs, answers)
        if wrong:
            raise BundleError(f"{name}: output {wrong}")


def open_session(model: bytes, name: str, threads: int = 1) -> onnxruntime.InferenceSession:
    """Open a session on the CPU that prints nothing, does not spin and does not keep `model`.

    Args:
        model: the contents of the ONNX file.
        name: what an error calls it.
        threads: threads of one run, at least 1.

    Raises:
        BundleError: ONNX Runtime cannot read the file.
        BackendError: ONNX Runtime is missing, or does not run on the CPU provider.
        InputError: `threads` is not a whole number of at least 1.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads is {shown(threads)}; it must be a whole number of at least 1")
    try:
        onnxruntime = import_onnxruntime()
    except ImportError as error:
        raise BackendError(f"ONNX Runtime cannot be imported ({error}); install onnxruntime") from error
    try:
        session = onnxruntime.InferenceSession(
            model, _options(threads), providers=[PROVIDER], enable_fallback=0
        )
    except Exception as error:  # onnxruntime's errors have no common class of their own
        raise BundleError(f"{name}: ONNX Runtime cannot open it: {_line(error)}") from error
    if session.get_providers() != [PROVIDER]:
        raise BackendError(f"{name}: opened on {session.get_providers()}; it must be {PROVIDER} alone")
    # The Python session keeps the file's contents for the fallback that is switched off above.
    session._model_bytes = None
    return session


def import_onnxruntime() -> Any:
    """Import ONNX Runtime without its telemetry; nothing of edgeemo imports it otherwise.

    From 1.29 on it sends events about the device and its sessions to Microsoft and leaves an identifier in
    the user's home, unless this variable is set before it is first imported. Who sets it keeps what it says.

    Raises:
        ImportError: it is not installed, or cannot be loaded.
    """
    os.environ.setdefault(TELEMETRY_VARIABLE, "1")
    import onnxruntime

    return onnxruntime


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = import_onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A step takes a few milliseconds of each 100: threads that spin between steps would burn the rest.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Measured on a residual face trunk: as fast without the arena and its pattern, and the memory of a batch
    # of 16 faces is given back when it has passed, which an arena keeps.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 4  # errors come as exceptions
    return options


_TYPES = {"uint8": "tensor(uint8)", "int32": "tensor(int32)", "float32": "tensor(float)"}


def _fits(given: list[int | str | None], right: tuple[int | str, ...]) -> bool:
    """Whether a file's shape can be the spec's: a size is the same size, a symbol may be anything."""
    return len(given) == len(right) and all(
        not isinstance(size, int) or size == axis for size, axis in zip(given, right, strict=True)
    )


def _zeros(spec: TensorSpec) -> NDArray[Any]:
    return np.zeros([axis if isinstance(axis, int) else 1 for axis in spec.shape], spec.dtype)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _version() -> str:
    return str(import_onnxruntime().__version__)
