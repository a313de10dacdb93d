"""How far TensorRT's builder is, as one fraction."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

Progress = Callable[[str, float], None]
"""Called with the name of a phase and the fraction of the build that is done, in [0, 1]."""


class Phases:
    """Makes one fraction of TensorRT's phases, which lie within each other.

    Args:
        progress: what is told; when it raises, the builder is asked to stop.

    Attributes:
        error: what `progress` or a handler of a signal raised, for whoever called the builder to raise.
        monitor: the `IProgressMonitor` that tells of the phases, which must live as long as the build.

    Example:
        >>> phases = Phases(lambda name, fraction: print(name, fraction))
        >>> phases.start("build", None, 2)
        build 0.0
        >>> phases.start("tactics", "build", 4)
        tactics 0.0
        >>> phases.step("tactics", 1)
        tactics 0.25
        True
    """

    def __init__(self, progress: Progress) -> None:
        self.error: BaseException | None = None
        self.monitor: Any = None
        self._progress = progress
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._fraction = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps began, within another or by itself."""
        with self._lock:
            self._phases[name] = _Phase(parent if parent in self._phases else None, max(steps, 1))
            self._tell(name)

    def step(self, name: str, step: int) -> bool:
        """A step of a phase, counted from 0, is done; answers whether to go on."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = step + 1
                self._tell(name)
            return self.error is None

    def finish(self, name: str) -> None:
        """A phase is done."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = self._phases[name].steps
                self._tell(name)
                del self._phases[name]

    @contextmanager
    def holding_interrupts(self) -> Iterator[None]:
        """Have Ctrl-C, and what a handler of SIGTERM raises, ask the builder to stop while the `with` lasts.

        Python would raise it as soon as TensorRT calls back to log or to tell how far it is; there
        TensorRT's binding prints it, and goes on or says that the build failed.
        """
        with ExitStack() as held:
            if threading.current_thread() is threading.main_thread():
                for number in (signal.SIGINT, signal.SIGTERM):
                    held.enter_context(self._holding(number))
            yield

    @contextmanager
    def _holding(self, number: signal.Signals) -> Iterator[None]:
        handler = signal.getsignal(number)
        if not callable(handler):
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            try:
                handler(number, frame)
            except BaseException as error:
                self.error = self.error or error

        signal.signal(number, note)
        try:
            yield
        finally:
            if signal.getsignal(number) is note:  # else the handler made another one its successor
                signal.signal(number, handler)

    def _tell(self, name: str) -> None:
        # Several phases of one height may follow each other: the fraction never falls.
        root = name
        while (above := self._phases[root].parent) in self._phases:  # it may have finished before its child
            root = above
        self._fraction = max(self._fraction, self._value(root))
        if self.error is not None:
            return
        try:
            self._progress(name, self._fraction)
        except BaseException as error:  # must not cross TensorRT; raised again when the builder returns
            self.error = error

    def _value(self, name: str) -> float:
        phase = self._phases[name]
        within = sum(self._value(child) for child, inner in self._phases.items() if inner.parent == name)
        return min(1.0, (phase.done + min(within, 1.0)) / phase.steps)


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


def watch(trt: Any, config: Any, progress: Progress | None) -> Phases:
    """Have a builder's configuration tell `progress`, and stop when that raises, where this TensorRT can.

    Args:
        trt: the module `tensorrt`.
        config: the `IBuilderConfig`.
        progress: what is told, None for nobody.
    """
    phases = Phases(progress or (lambda phase, fraction: None))
    if not hasattr(trt, "IProgressMonitor"):
        return phases

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return phases.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    phases.monitor = config.progress_monitor = Monitor()
    return phases
