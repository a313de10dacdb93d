"""One graph's engine in TensorRT, on the GPU."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeemo.errors import BackendError
from edgeemo.inference.cuda import Cuda, CudaError, CudaGraph, DeviceBuffer, Event, PinnedBuffer
from edgeemo.inference.graph import FeedCheck
from edgeemo.inference.spec import GraphSpec, TensorSpec
from edgeemo.inference.trt_library import PlanRefused, TensorRt

__all__ = ["QueryTimes", "TensorRt", "Timing", "TrtGraph"]

_log = logging.getLogger("edgeemo")
_Put = TypeVar("_Put")
_Taken = TypeVar("_Taken")
_ALIGNMENT = 256  # bytes, of the memory that contexts share


@dataclass(frozen=True)
class QueryTimes:
    """What the parts of one query took, in milliseconds.

    Attributes:
        enqueue: on the host, putting the computation on the stream.
        h2d: on the GPU, copying the inputs in; 0 without transfers.
        compute: on the GPU, computing.
        d2h: on the GPU, copying the outputs out; 0 without transfers.
    """

    enqueue: float
    h2d: float
    compute: float
    d2h: float

    @property
    def latency(self) -> float:
        """What the GPU took for the query: both copies and the computation."""
        return self.h2d + self.compute + self.d2h


@dataclass(frozen=True)
class Timing:
    """Queries of one graph with events of CUDA between their parts.

    A query is put on the stream before the one ahead of it is waited for, as trtexec does: on an idle stream
    an event is passed before the host has put there what follows it, and that wait would count.

    Attributes:
        transfers: whether a query copies inputs in and outputs out.
        captured: whether the computation is launched as a CUDA graph.
        spin_wait: whether the host spins until a query is done, or sleeps.
        in_place: whether the GPU reads and writes the host's memory itself, so that there is nothing to copy.
        queries: makes queries as long as they are asked for; each raises what `TrtGraph.run` raises.
        launches: makes launches as `TrtGraph.run` does, copies and computation in one CUDA graph, and gives
            their milliseconds on the GPU; none where `run` has no such graph.
    """

    transfers: bool
    captured: bool
    spin_wait: bool
    in_place: bool
    queries: Callable[[], Iterator[QueryTimes]]
    launches: Callable[[], Iterator[float]]


class TrtGraph:
    """A graph's engine in TensorRT; a run answers arrays that the next run overwrites.

    Each size of N that is asked for gets an execution context, views of its inputs and outputs and, where the
    CUDA binding can capture, a CUDA graph of copying in, computing and copying out. All of it is made at the
    first run of that size; later ones allocate nothing. Inputs and outputs lie in page-locked memory, which
    an integrated GPU reads and writes itself. Opening computes one answer to zeros, so that the first real
    run is not the slow one.

    Args:
        plan: the serialised engine; it is not kept.
        spec: what it must read and answer.
        library: TensorRT, opened; it must stay open.
        encoding: which of the spec's files it was built from.
        most: the largest N.
        dla_core: the DLA core that it was built for, None for the GPU alone.

    Raises:
        PlanRefused: TensorRT refuses the plan, or the engine is not what the spec says.
        BackendError: memory runs out, or CUDA fails.
    """

    def __init__(
        self,
        plan: bytes,
        spec: GraphSpec,
        library: TensorRt,
        *,
        encoding: str,
        most: int = 16,
        dla_core: int | None = None,
    ) -> None:
        self.spec = spec
        self.encoding = encoding
        self.engine = f"tensorrt {library.version} on {library.cuda.name}"
        self._library = library
        self._cuda = library.cuda
        self._most = most
        self._name = f"graph {spec.name!r}"
        self._check = FeedCheck(spec)
        self._symbol = _symbol(spec)
        # A CUDA graph cannot hold what a DLA computes.
        self._captures = library.cuda.captures and dla_core is None
        self._buffers: dict[str, _Buffer] = {}
        self._memory: DeviceBuffer | None = None
        self._steps: dict[int, _Step] = {}
        self._engine: Any = library.deserialise(plan, self._name, dla_core)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Compute the outputs for `feeds`; copy what you keep, the next run writes into the same arrays.

        Args:
            feeds: one array per input of the spec, of its dtype and shape.

        Raises:
            BackendError: `feeds` do not fit the spec, N is larger than the engine was built for,
                TensorRT or CUDA failed, or the graph was closed.
        """
        self._check(feeds)
        self._demand_open()
        size = self._size(feeds)
        if size > self._most:
            raise BackendError(f"{self._name}: N is {size}; its engine was built for 1 to {self._most}")
        with self._failures():
            step = self._steps.get(size) or self._prepare(size)
            for name, view in step.inputs.items():
                np.copyto(view, feeds[name])
            self._compute(step)
        return step.outputs

    @contextlib.contextmanager
    def timed(
        self,
        feeds: Mapping[str, NDArray[Any]],
        *,
        transfers: bool = True,
        captured: bool = True,
        spin_wait: bool = False,
    ) -> Iterator[Timing]:
        """Time the parts of queries, beside `run`, which keeps its own context and CUDA graph.

        A run puts copying in, computing and copying out on the stream in one launch, into which no event
        goes. So a query makes the three one after the other, with events between; what is captured is the
        computation alone, in an execution context of its own. This is what trtexec times, and how it splits.

        Args:
            feeds: as for `run`; every query computes them.
            transfers: whether queries copy in and out, where there is anything to copy.
            captured: whether the computation is launched as a CUDA graph, where it can be captured.
            spin_wait: whether the host spins until a query is done, or sleeps.

        Raises:
            BackendError: as for `run`, of which the first one is made here.
        """
        self.run(feeds)  # the inputs are in place from now on, on the device too
        size = self._size(feeds)
        in_place = all(buffer.device is None for buffer in self._buffers.values())
        with contextlib.ExitStack() as stack:
            with self._failures():
                step = self._new_step(size)
                stack.callback(self._drop, step)
                first = self._marks(stack, blocking=not spin_wait)
                marks = (first, self._marks(stack, blocking=not spin_wait))
                self._execute(step)  # in its first run TensorRT may still allocate
                self._cuda.synchronize()
                if captured and self._captures:
                    step.graph = self._capture(lambda: self._execute(step))
            transfers = transfers and not in_place
            yield Timing(
                transfers=transfers,
                captured=step.graph is not None,
                spin_wait=spin_wait,
                in_place=in_place,
                queries=lambda: _one_ahead(
                    marks,
                    lambda these: self._put_query(step, transfers, these),
                    lambda these, enqueue: self._take_query(transfers, these, enqueue),
                ),
                launches=lambda: self._launches(size, marks),
            )

    def close(self) -> None:
        """Free the engine and its buffers; a later `run` raises `BackendError`. It never raises."""
        steps, self._steps = list(self._steps.values()), {}
        buffers, self._buffers = list(self._buffers.values()), {}
        memory, self._memory = self._memory, None
        with contextlib.ExitStack() as stack:
            # A context that was lost or closed cannot be entered; it took along what it held.
            with contextlib.suppress(BackendError):
                stack.enter_context(self._cuda.current())
            # A CUDA graph calls into its context, a context into its engine, and all three use the buffers.
            _free(step.graph for step in steps)
            for step in steps:
                step.context = None
            self._engine = None
            _free([memory, *(part for buffer in buffers for part in (buffer.device, buffer.pinned))])

    def _open(self) -> None:
        with self._failures():
            self._hold_to_spec()
            for tensor in (*self.spec.inputs.values(), *self.spec.outputs.values()):
                self._buffers[tensor.name] = _Buffer.allocate(self._cuda, _bytes(tensor, self._most))
            if self._library.shares_memory:
                # Steps follow each other on one stream, so one block serves the contexts of all sizes.
                self._memory = self._cuda.allocate(max(int(self._engine.device_memory_size_v2), _ALIGNMENT))
            step = self._prepare(1)
            for view in step.inputs.values():
                view.fill(0)
            self._compute(step)

    def _hold_to_spec(self) -> None:
        """Refuse an engine whose tensors are not the spec's, such as one of another file."""
        modes = self._library.module.TensorIOMode
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        sides = (("input", modes.INPUT, self.spec.inputs), ("output", modes.OUTPUT, self.spec.outputs))
        for side, mode, specs in sides:
            given = [name for name in names if self._engine.get_tensor_mode(name) == mode]
            if set(given) != set(specs):
                raise self._stale(f"its {side}s are {', '.join(given)}; the manifest says {', '.join(specs)}")
            for tensor in specs.values():
                self._check_tensor(side, tensor)
        if self._symbol is not None:
            name, axis = self._symbol
            largest = tuple(self._engine.get_tensor_profile_shape(name, 0)[2])[axis]
            if largest < self._most:
                raise self._stale(f"it was built for N of 1 to {largest}; {self._most} must be possible")

    def _check_tensor(self, side: str, tensor: TensorSpec) -> None:
        types = self._library.module.DataType
        dtype = self._engine.get_tensor_dtype(tensor.name)
        shape = tuple(self._engine.get_tensor_shape(tensor.name))
        # -1 is a size that TensorRT learns from the inputs; `_prepare` checks what it comes to.
        fits = len(shape) == len(tensor.shape) and all(
            given == right or given == -1 for given, right in zip(shape, tensor.shape, strict=True)
        )
        wanted = {"uint8": types.UINT8, "int32": types.INT32, "float32": types.FLOAT}[tensor.dtype]
        if dtype != wanted or not fits:
            raise self._stale(f"{side} {tensor.name!r} is {dtype} {list(shape)}; the manifest says {tensor}")

    def _demand_open(self) -> None:
        if self._engine is None:
            raise BackendError(f"{self._name} was closed; open it again to run it")

    def _size(self, feeds: Mapping[str, NDArray[Any]]) -> int:
        """The N of feeds that fit the spec."""
        return 1 if self._symbol is None else int(feeds[self._symbol[0]].shape[self._symbol[1]])

    def _prepare(self, size: int) -> _Step:
        """Make what a run with N = size needs; the first run then captures it."""
        step = self._steps[size] = self._new_step(size)
        return step

    def _new_step(self, size: int) -> _Step:
        step = _Step(
            self._context(), self._views(self.spec.inputs, size), self._views(self.spec.outputs, size)
        )
        try:
            self._set_up(step, size)
        except BaseException:
            step.context = None  # the error keeps this frame, which must keep nothing of the device
            raise
        return step

    def _set_up(self, step: _Step, size: int) -> None:
        """Tell a new context its shapes and where its tensors are."""
        for tensor in self.spec.inputs.values():
            if not step.context.set_input_shape(tensor.name, _shape(tensor, size)):
                raise self._failed(f"TensorRT refuses input {tensor.name!r} of {list(_shape(tensor, size))}")
        for tensor in self.spec.outputs.values():
            shape = tuple(step.context.get_tensor_shape(tensor.name))
            if shape != _shape(tensor, size):
                raise self._stale(
                    f"output {tensor.name!r} is {list(shape)} for N = {size}; it must be {tensor}"
                )
        for name, buffer in self._buffers.items():
            if not step.context.set_tensor_address(name, buffer.address):
                raise self._failed(f"TensorRT refuses the buffer of {name!r}")

    def _views(self, tensors: Mapping[str, TensorSpec], size: int) -> dict[str, NDArray[Any]]:
        return {name: self._buffers[name].view(tensor, size) for name, tensor in tensors.items()}

    def _context(self) -> Any:
        self._library.messages.clear()
        if self._memory is None:
            context = self._engine.create_execution_context()
        else:
            strategies = self._library.module.ExecutionContextAllocationStrategy
            context = self._engine.create_execution_context(strategies.USER_MANAGED)
        if context is None:
            raise self._failed("TensorRT makes no execution context")
        if self._memory is not None:
            context.set_device_memory(self._memory.address, self._memory.size)
        return context

    def _compute(self, step: _Step) -> None:
        if step.graph is not None:
            step.graph.launch()
            self._cuda.synchronize()
            return
        self._enqueue(step)
        self._cuda.synchronize()
        if self._captures:
            step.graph = self._capture(lambda: self._enqueue(step))

    def _enqueue(self, step: _Step) -> None:
        self._upload(step)
        self._execute(step)
        self._download(step)

    def _upload(self, step: _Step) -> None:
        for name, view in step.inputs.items():
            self._buffers[name].upload(self._cuda, view.nbytes)

    def _execute(self, step: _Step) -> None:
        self._library.messages.clear()
        if not step.context.execute_async_v3(self._cuda.stream):
            raise self._failed("TensorRT failed to run it")

    def _download(self, step: _Step) -> None:
        for name, view in step.outputs.items():
            self._buffers[name].download(self._cuda, view.nbytes)

    def _capture(self, work: Callable[[], None]) -> CudaGraph | None:
        """Make a CUDA graph of work that was done once: in the first run TensorRT may still allocate."""
        try:
            return self._cuda.capture(work)
        except BackendError as error:
            self._captures = False
            _log.warning("%s runs without CUDA graphs, which takes longer: %s", self._name, error)
            self._cuda.synchronize()
            return None

    def _marks(self, stack: contextlib.ExitStack, *, blocking: bool) -> _Marks:
        """The events of a query, which the stack frees."""
        marks: list[Event] = []
        stack.callback(_free, marks)
        for _ in range(4):
            marks.append(self._cuda.event(blocking=blocking))
        return _Marks(*marks)

    def _put_query(self, step: _Step, transfers: bool, marks: _Marks) -> float:
        """Put a query on the stream; the milliseconds that putting the computation there took the host."""
        self._demand_open()
        with self._failures():
            if transfers:
                marks.copying_in.record()
                self._upload(step)
            marks.computing.record()
            begin = time.perf_counter()
            if step.graph is None:
                self._execute(step)
            else:
                step.graph.launch()
            enqueue = 1e3 * (time.perf_counter() - begin)
            marks.computed.record()
            if transfers:
                self._download(step)
                marks.copied_out.record()
        return enqueue

    def _take_query(self, transfers: bool, marks: _Marks, enqueue: float) -> QueryTimes:
        self._demand_open()
        with self._failures():
            (marks.copied_out if transfers else marks.computed).synchronize()
            return QueryTimes(
                enqueue=enqueue,
                h2d=self._cuda.elapsed(marks.copying_in, marks.computing) if transfers else 0.0,
                compute=self._cuda.elapsed(marks.computing, marks.computed),
                d2h=self._cuda.elapsed(marks.computed, marks.copied_out) if transfers else 0.0,
            )

    def _put_launch(self, graph: CudaGraph, marks: _Marks) -> None:
        self._demand_open()
        with self._failures():
            marks.computing.record()
            graph.launch()
            marks.computed.record()

    def _take_launch(self, marks: _Marks) -> float:
        self._demand_open()
        with self._failures():
            marks.computed.synchronize()
            return self._cuda.elapsed(marks.computing, marks.computed)

    def _launches(self, size: int, marks: tuple[_Marks, _Marks]) -> Iterator[float]:
        self._demand_open()
        graph = self._steps[size].graph
        if graph is None:
            return iter(())
        return _one_ahead(
            marks, lambda these: self._put_launch(graph, these), lambda these, _: self._take_launch(these)
        )

    def _drop(self, step: _Step) -> None:
        """Free a step of its own; it never raises."""
        with contextlib.ExitStack() as stack:
            # A context that was lost or closed cannot be entered; it took along what it held.
            with contextlib.suppress(BackendError):
                stack.enter_context(self._cuda.current())
                self._cuda.synchronize()  # a query may be on its way
            _free([step.graph])
            step.context = None

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Enter the device's context; say which graph a CUDA error is of, and remember a lost context."""
        if self._library.lost:
            raise BackendError(
                f"{self._name}: the CUDA context was lost ({self._library.lost}); open the model again"
            )
        try:
            with self._cuda.current():
                yield
        except CudaError as error:
            try:
                self._cuda.synchronize()
            except CudaError:  # an error that stays is one of the context, not of the call
                self._library.lost = str(error)
            what = "is out of memory on the device" if error.out_of_memory else "failed in CUDA"
            raise BackendError(f"{self._name} {what}: {error}") from error

    def _failed(self, what: str) -> BackendError:
        return BackendError(f"{self._name}: {what}{self._library.messages.said()}")

    def _stale(self, what: str) -> PlanRefused:
        return PlanRefused(f"{self._name}: the engine does not fit the manifest: {what}")


@dataclass
class _Step:
    """What runs of one size share: the context that knows it, views, the CUDA graph once captured."""

    context: Any
    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]
    graph: CudaGraph | None = None


@dataclass(frozen=True)
class _Marks:
    """Events on the stream, in their order."""

    copying_in: Event
    computing: Event
    computed: Event
    copied_out: Event


@dataclass(frozen=True)
class _Buffer:
    """Where one tensor lies: in host memory, and on the device unless the device reads the host's."""

    pinned: PinnedBuffer
    device: DeviceBuffer | None
    address: int

    @classmethod
    def allocate(cls, cuda: Cuda, size: int) -> _Buffer:
        pinned = cuda.pin(size)
        if pinned.device_address is not None:
            return cls(pinned, None, pinned.device_address)
        try:
            device = cuda.allocate(size)
        except CudaError:
            pinned.free()
            raise
        return cls(pinned, device, device.address)

    def view(self, tensor: TensorSpec, size: int) -> NDArray[Any]:
        """The start of the host's memory as the tensor with N = `size`."""
        view: NDArray[Any] = self.pinned.array[: _bytes(tensor, size)].view(tensor.dtype)
        return view.reshape(_shape(tensor, size))

    def upload(self, cuda: Cuda, size: int) -> None:
        if self.device is not None:
            cuda.upload(self.device, self.pinned, size)

    def download(self, cuda: Cuda, size: int) -> None:
        if self.device is not None:
            cuda.download(self.pinned, self.device, size)


def _one_ahead(
    marks: tuple[_Marks, _Marks], put: Callable[[_Marks], _Put], take: Callable[[_Marks, _Put], _Taken]
) -> Iterator[_Taken]:
    """Take one thing after the other from the stream, each when the next is on it."""
    now, then = marks
    given = put(now)
    while True:
        following = put(then)
        yield take(now, given)
        now, then, given = then, now, following


def _symbol(spec: GraphSpec) -> tuple[str, int] | None:
    """Where a run's N is read: an input and an axis of it; None where every size is fixed."""
    places = {
        axis: (tensor.name, index)
        for tensor in spec.inputs.values()
        for index, axis in enumerate(tensor.shape)
        if isinstance(axis, str)
    }
    if len(places) > 1:
        raise BackendError(
            f"graph {spec.name!r} has several free sizes ({', '.join(places)}); engines are built for one"
        )
    return next(iter(places.values()), None)


def _shape(tensor: TensorSpec, size: int) -> tuple[int, ...]:
    return tuple(axis if isinstance(axis, int) else size for axis in tensor.shape)


def _bytes(tensor: TensorSpec, size: int) -> int:
    return int(np.prod(_shape(tensor, size))) * np.dtype(tensor.dtype).itemsize


def _free(parts: Iterable[CudaGraph | DeviceBuffer | Event | PinnedBuffer | None]) -> None:
    for part in parts:
        if part is not None:
            with contextlib.suppress(BackendError):
                part.free()
