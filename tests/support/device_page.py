"""The page that says on which devices the GPU tests ran: `pytest -m gpu --device-page FILE`."""

from __future__ import annotations

import platform
import re
from collections import Counter
from pathlib import Path

import pytest

from edgeemo.errors import BackendError

TITLE = "# Devices that the GPU tests ran on\n"
ENGINES = "test_engine_device.py"
NOT_YET_RUN = "**TensorRT: not yet run on a device.**"
_SECTION = "\n## "


class DevicePage:
    """Collects the outcome of every GPU test of a run and writes it as one section of the page.

    A section is of one device with one TensorRT: running there again replaces it, and leaves the others.

    Args:
        path: the page.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._outcomes: dict[str, tuple[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the outcome of a test, or of a set-up that kept it from running."""
        if "gpu" not in report.keywords or not (report.when == "call" or report.outcome != "passed"):
            return
        # An error while taking down follows a test that passed, and is what counts.
        self._outcomes[report.nodeid] = report.outcome, _reason(report)

    def pytest_sessionfinish(self) -> None:
        """Write the page."""
        before = self.path.read_text("utf-8") if self.path.is_file() else ""
        self.path.write_text(rewritten(before, device(), self.section()), "utf-8")

    def section(self) -> str:
        """The outcomes: counts by file, then each that did not pass with its reason."""
        files = sorted({node.partition("::")[0] for node in self._outcomes})
        rows = []
        for file in files:
            counts = Counter(
                state for node, (state, _) in self._outcomes.items() if node.startswith(f"{file}::")
            )
            cells = " | ".join(str(counts[state]) for state in ("passed", "failed", "skipped"))
            rows.append(f"| `{Path(file).name}` | {cells} |")
        reasons = Counter((state, why) for state, why in self._outcomes.values() if state != "passed")
        told = [f"- {count} {state}: {why}" for (state, why), count in reasons.items()]
        head = ["| tests | passed | failed | skipped |", "|---|---|---|---|"]
        return "\n".join([software(), "", *head, *rows, "", *told]).rstrip()


def rewritten(page: str, name: str, section: str) -> str:
    """The page with the section of one device put in the place of what it said before.

    Args:
        page: the page as it was, empty where there was none.
        name: the device.
        section: what there is to say of it now.
    """
    sections = dict(
        part.partition("\n")[::2] for part in page.split(_SECTION)[1:]
    )  # what is below each title
    sections[name] = f"\n{section}\n"
    ran = any(re.search(rf"\| `{ENGINES}` \| [1-9]", text) for text in sections.values())
    head = [TITLE, "Written by `pytest -m gpu --device-page deploy/DEVICES.md`, on each device in turn.\n"]
    if not ran:
        head.append(NOT_YET_RUN + "\n")
    return "\n".join(head) + "".join(f"{_SECTION}{title}\n{text}" for title, text in sections.items())


def device() -> str:
    """What the tests run on: the GPU by its name, or that there is none."""
    from edgeemo.inference.cuda import open_cuda

    try:
        cuda = open_cuda()
    except BackendError:
        return f"{platform.machine()}, no NVIDIA GPU"
    try:
        capability, driver = (".".join(map(str, pair)) for pair in (cuda.capability, cuda.driver))
        return f"{cuda.name}, compute capability {capability}, CUDA {driver}, over {cuda.binding}"
    finally:
        cuda.close()


def software() -> str:
    """Which Python and TensorRT, or why there is none."""
    from edgeemo.inference.trt import TensorRt

    python = f"{platform.system()} on {platform.machine()}, Python {platform.python_version()}"
    try:
        library = TensorRt.open()
    except BackendError as error:
        return f"{python}; no TensorRT: {error}."
    library.close()
    return f"{python}, TensorRT {library.version}."


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):  # of a skip: file, line, reason
        return report.longrepr[2].removeprefix("Skipped: ")
    return report.longreprtext.strip().rpartition("\n")[2]
