"""Where a command writes: results to standard output, messages and progress to standard error."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, TextIO


class OutputError(Exception):
    """Standard output takes no more: a full disk, or no output at all."""


class Console:
    """Two streams that may be one terminal.

    Args:
        out: Standard output: what was asked for, and nothing else.
        err: Standard error: messages, and on a terminal a last line that says how far the work is. Either
            is None where the process has none.
        name: Of the program, with which its messages begin.

    Attributes:
        colour: Whether results may use ANSI colours: only on a terminal, and not with `NO_COLOR` set.
    """

    def __init__(self, out: TextIO | None, err: TextIO | None, name: str = "edgeemo") -> None:
        err = err if err is not None else io.StringIO()
        for stream in (out, err):
            # The names of files and bundles may hold what the terminal's encoding has no sign for.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        self._out = out
        self._err = err
        self._name = name
        self._next_status = 0.0
        self._status_shown = False
        self.colour = out is not None and _is_terminal(out) and not os.environ.get("NO_COLOR")

    def result(self, line: str) -> None:
        """Write one line to standard output, at once: its reader may be waiting.

        Raises:
            BrokenPipeError: Its reader has gone.
            OutputError: It cannot be written.
        """
        self._clear()
        if self._out is None:
            raise OutputError("standard output is closed: there is nowhere to write the answer")
        try:
            print(line, file=self._out, flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"standard output cannot be written: {error.strerror}") from error

    def json(self, value: Any) -> None:
        """Write one JSON value in one line to standard output; NaN and infinity are a `ValueError`."""
        self.result(json.dumps(value, allow_nan=False))

    def message(self, text: str) -> None:
        """Write one message to standard error."""
        self._clear()
        print(f"{self._name}: {text}", file=self._err, flush=True)

    def ask(self, question: str) -> bool | None:
        """Ask for a yes on the terminal; None where there is none, so that nobody could answer."""
        if sys.stdin is None or not (sys.stdin.isatty() and self._err.isatty()):
            return None
        self._clear()
        print(f"{self._name}: {question} [y/N] ", end="", file=self._err, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def status(self, text: str) -> None:
        """Replace the status line, at most ten times a second; without a terminal do nothing."""
        now = time.monotonic()
        if now < self._next_status or not _is_terminal(self._err):
            return
        self._next_status = now + 0.1
        self._clear()
        width = shutil.get_terminal_size().columns - 1  # a full line would wrap and could not be taken back
        print(text[:width], end="", file=self._err, flush=True)
        self._status_shown = True

    def _clear(self) -> None:
        if self._status_shown:
            print("\r\x1b[2K", end="", file=self._err, flush=True)
            self._status_shown = False

    @contextlib.contextmanager
    def showing_log(self) -> Iterator[None]:
        """Show what the library logs: warnings and worse as messages, how far a build is as the status.

        The status line is taken away in the end.
        """
        handlers = {"edgeemo": _Handler(self), "edgeemo.progress": _Status(self)}
        progress = logging.getLogger("edgeemo.progress")
        level = progress.level
        progress.setLevel(logging.INFO)
        for name, handler in handlers.items():
            logging.getLogger(name).addHandler(handler)
        try:
            yield
        finally:
            for name, handler in handlers.items():
                logging.getLogger(name).removeHandler(handler)
            progress.setLevel(level)
            self._clear()


class _Status(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.status(record.getMessage())


class _Handler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.message(f"{record.levelname.lower()}: {record.getMessage()}")


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


@contextlib.contextmanager
def unwound_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the work as Ctrl-C does, so that what is open is closed: `SystemExit` with 143."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def forget_output() -> None:
    """Keep the interpreter, which flushes standard output once more when it ends, from complaining."""
    with contextlib.suppress(OSError, AttributeError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
