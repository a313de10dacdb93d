"""The TensorRT library and the device it runs on, opened once; why it cannot be, in words."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections import deque
from typing import Any

from edgeemo.errors import BackendError
from edgeemo.inference.cuda import Cuda, open_cuda

_log = logging.getLogger("edgeemo")
_QUOTED = 4  # lines of TensorRT's errors that a message holds
_PLAN_TAG = b"ftrt"  # a plan starts with it, then the version of its own layout, 0


class PlanRefused(BackendError):
    """An engine that TensorRT does not take back, or that is not what the manifest says."""


class TensorRt:
    """The TensorRT library and the device it runs on, opened once for all graphs.

    What a version can do is asked of its module, never of its number.

    Attributes:
        module: the module `tensorrt`.
        version: its version, such as '10.3.0'.
        cuda: the device.
        logger: what every object of the library is made with.
        messages: what the library said last.
        strong: whether it builds strongly typed networks.
        weak: whether it builds weakly typed ones that may choose FP16 and INT8; TensorRT 11 does not.
        shares_memory: whether contexts can be given their device memory.
        lost: why the CUDA context is lost, empty while it is not.
    """

    def __init__(self, module: Any, cuda: Cuda) -> None:
        self.module = module
        self.version = str(module.__version__)
        self.cuda = cuda
        self.messages = Messages(f"TensorRT {self.version}")
        self.logger = _logger(module, self.messages)
        self.weak = hasattr(module.BuilderFlag, "FP16") and hasattr(module.BuilderFlag, "INT8")
        self.strong = hasattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") or not self.weak
        self.shares_memory = hasattr(
            getattr(module, "ExecutionContextAllocationStrategy", None), "USER_MANAGED"
        ) and hasattr(module.ICudaEngine, "device_memory_size_v2")
        self.lost = ""
        self._runtime: Any = self._start(module.Runtime)

    @classmethod
    def open(cls, device: int = 0) -> TensorRt:
        """Open TensorRT on a CUDA device; nothing of either is imported before.

        Raises:
            BackendError: the module is not installed, its libraries cannot be loaded, it is too old, there
                is no CUDA binding, driver or device, or TensorRT does not start; the message says which.
        """
        module = _import()
        cuda = open_cuda(device)
        try:
            return cls(module, cuda)
        except BaseException:
            cuda.close()
            raise

    def builder(self) -> Any:
        """A new builder.

        Raises:
            BackendError: TensorRT makes none on this device; the message says why.
        """
        return self._start(self.module.Builder)

    def _start(self, kind: Any) -> Any:
        try:
            with self.cuda.current():
                return kind(self.logger)
        except TypeError as error:
            if "nullptr" not in str(error):
                raise
            # What the binding makes of a library that answers with nothing.
            raise BackendError(
                f"TensorRT {self.version} does not start on {self.cuda.name} ({_line(error)})"
                + self.messages.said()
            ) from error

    @property
    def dla_cores(self) -> int:
        """DLA cores that this TensorRT can use on this device."""
        return int(self._runtime.num_DLA_cores)

    def deserialise(self, plan: bytes, name: str, dla_core: int | None = None) -> Any:
        """Make an engine of a plan.

        Args:
            plan: the serialised engine.
            name: what an error calls it.
            dla_core: the DLA core that it was built for, None for the GPU alone.

        Raises:
            PlanRefused: TensorRT refuses the plan; the message names the version that built it and this one.
        """
        self.messages.clear()
        with self.cuda.current():
            if dla_core is not None:
                self._runtime.DLA_core = dla_core
            engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise PlanRefused(
                f"{name}: TensorRT {self.version} on {self.cuda.name} refuses the engine, which TensorRT "
                f"{plan_version(plan) or 'of an unknown version'} built{self.messages.said()}"
            )
        return engine

    def close(self) -> None:
        """Free the library and the device; close its graphs first. It never raises."""
        with contextlib.suppress(BackendError), self.cuda.current():
            self._runtime = None
        self._runtime = None
        self.cuda.close()


class Messages:
    """The last errors that TensorRT logged, for the exception that follows them.

    Args:
        name: who said them.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._errors: deque[str] = deque(maxlen=_QUOTED)

    def add(self, text: str) -> None:
        """Keep one error."""
        self._errors.append(" ".join(text.split()))

    def clear(self) -> None:
        """Forget the errors of an earlier call."""
        self._errors.clear()

    def quote(self) -> str:
        """The errors on one line; empty when there are none."""
        return " / ".join(self._errors)

    def said(self) -> str:
        """The errors as the end of a sentence, for example ': TensorRT 10.3.0 says: ...'."""
        return f": {self._name} says: {self.quote()}" if self._errors else f", and {self._name} says nothing"

    @property
    def out_of_memory(self) -> bool:
        """Whether one of them is that memory ran out."""
        text = self.quote().lower()
        return any(
            sign in text for sign in ("out of memory", "outofmemory", "out_of_memory", "memoryallocation")
        )


def plan_version(plan: bytes) -> str | None:
    """Read which version of TensorRT wrote a plan, as `trtexec --getPlanVersionOnly` does.

    None where the bytes are not laid out as a plan's.

    Example:
        >>> plan_version(b"ftrt" + bytes(20) + bytes([10, 3, 0, 26]))
        '10.3.0.26'
    """
    if len(plan) < 28 or plan[:4] != _PLAN_TAG or any(plan[4:8]):
        return None
    return ".".join(map(str, plan[24:28]))


def _import() -> Any:
    try:
        # By name: the module has no types, and type checkers need not find it.
        module = importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            raise BackendError(f"TensorRT's Python module cannot be imported: {error}") from error
        raise BackendError(
            "TensorRT's Python module is not installed; JetPack has it as python3-libnvinfer, for the "
            "system's Python (a virtual environment sees it with --system-site-packages)"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(f"TensorRT's libraries cannot be loaded: {_line(error)}") from error
    needed = {"IExecutionContext": "execute_async_v3", "ICudaEngine": "get_tensor_profile_shape"}
    for name, method in needed.items():
        if not hasattr(getattr(module, name, None), method):
            raise BackendError(
                f"TensorRT {getattr(module, '__version__', 'of an unknown version')} has no {name}.{method}; "
                "10.3 or later is needed, JetPack 6.1 has it"
            )
    return module


def _logger(module: Any, messages: Messages) -> Any:
    severities = module.ILogger.Severity
    errors = (severities.INTERNAL_ERROR, severities.ERROR)

    class Logger(module.ILogger):  # type: ignore[misc]
        """Keeps errors for the exception that follows; nothing goes to standard error."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in errors:
                messages.add(msg)
                _log.debug("TensorRT error: %s", msg)
            elif severity == severities.WARNING:
                _log.debug("TensorRT warning: %s", msg)

    return Logger()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
