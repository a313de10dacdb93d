"""What every verb of ``edgeemo-calibrate`` does when its output, its disk or its process ends."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from edgeemo_calibration import cli
from edgeemo_calibration.commands import select

ARGUMENTS = ["select", "nowhere", "--out", "set"]


def says(arguments: Any, console: Any) -> int:
    console.result("a line")
    return 0


def ends(arguments: Any, console: Any) -> int:
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError("SIGTERM did not end it")


def raising(error: BaseException) -> Callable[[Any, Any], int]:
    def run(arguments: Any, console: Any) -> int:
        raise error

    return run


class Gone(io.StringIO):
    """Standard output whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


class Full(io.StringIO):
    """Standard output on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (Gone(), "standard output cannot be written: its reader has gone"),
        (Full(), "standard output cannot be written: No space left on device"),
        (None, "standard output is closed: there is nowhere to write the answer"),
    ],
)
def test_output_that_ends_is_one_line(
    out: io.StringIO | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(select, "run", says)
    monkeypatch.setattr("sys.stdout", out)
    assert cli.main(ARGUMENTS) == 2
    assert capsys.readouterr().err == f"edgeemo-calibrate: {message}\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(28, "No space left on device", "a"), "a: No space left on device"),
        (OSError(28, "No space left on device", "a", None, "b"), "a to b: No space left on device"),
        (OSError("gone"), "gone"),
    ],
)
def test_a_disk_that_fails_is_one_line(
    error: OSError, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(select, "run", raising(error))
    assert cli.main(ARGUMENTS) == 2
    assert capsys.readouterr().err == f"edgeemo-calibrate: {message}\n"


def test_sigterm_unwinds(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a failure must not end the tests
    monkeypatch.setattr(select, "run", ends)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main(ARGUMENTS)
        assert ended.value.code == 143
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_thread_can_run_a_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "run", says)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(cli.main(ARGUMENTS)))
    thread.start()
    thread.join()
    assert found == [0]


def test_without_onnx_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['onnx'] = None; import edgeemo_calibration.cli"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("right is: pip install 'edgeemo[calibration]'")
