"""The page of devices: what stands on it after a run, and that everyone says the same of TensorRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeemo import doctor
from tests.support.device_page import NOT_YET_RUN, DevicePage, rewritten

ROOT = Path(__file__).parents[1]
RAN = "| `test_engine_device.py` | 20 | 0 | 7 |"
SKIPPED = "| `test_engine_device.py` | 0 | 0 | 27 |"


def report(test: str, when: str, outcome: str, longrepr: Any = None, mark: str = "gpu") -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=f"tests/gpu/{test}",
        location=("", 0, ""),
        keywords={mark: 1},
        outcome=outcome,  # type: ignore[arg-type]
        longrepr=longrepr,
        when=when,  # type: ignore[arg-type]
    )


def test_a_run_is_told_by_file_and_by_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.device_page.device", lambda: "Orin")
    monkeypatch.setattr("tests.support.device_page.software", lambda: "Python, TensorRT")
    page = DevicePage(tmp_path / "DEVICES.md")
    page.pytest_runtest_logreport(report("test_cuda_device.py::a", "setup", "passed"))
    page.pytest_runtest_logreport(report("test_cuda_device.py::a", "call", "passed"))
    page.pytest_runtest_logreport(report("test_cuda_device.py::b", "call", "passed"))
    page.pytest_runtest_logreport(report("test_cuda_device.py::b", "teardown", "failed", "E  leaked"))
    page.pytest_runtest_logreport(
        report("test_engine_device.py::c", "setup", "skipped", ("file", 1, "Skipped: no TensorRT"))
    )
    page.pytest_runtest_logreport(report("test_other.py::d", "call", "failed", mark="slow"))
    page.pytest_sessionfinish()
    written = page.path.read_text("utf-8")
    assert "## Orin\n\nPython, TensorRT\n" in written and NOT_YET_RUN in written
    assert "| `test_cuda_device.py` | 1 | 1 | 0 |\n| `test_engine_device.py` | 0 | 0 | 1 |\n" in written
    assert written.endswith("- 1 failed: E  leaked\n- 1 skipped: no TensorRT\n")
    page.pytest_sessionfinish()
    assert page.path.read_text("utf-8") == written


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ([("Orin", RAN)], False),
        ([("none", SKIPPED)], True),
        ([("none", SKIPPED), ("Orin", RAN)], False),
        ([("Orin", RAN), ("none", SKIPPED)], False),  # the others stay
        ([("Orin", RAN), ("Orin", SKIPPED)], True),  # the same device is written again
        ([("Orin", "| `test_cuda_device.py` | 14 | 0 | 0 |")], True),
    ],
)
def test_only_engines_that_ran_take_the_sentence_away(sections: list[tuple[str, str]], said: bool) -> None:
    page = ""
    for name, section in sections:
        page = rewritten(page, name, section)
    assert (NOT_YET_RUN in page) == said
    assert page.count("\n## ") == len(dict(sections))


def test_everyone_says_of_tensorrt_what_the_page_says() -> None:
    page = (ROOT / "deploy" / "DEVICES.md").read_text("utf-8")
    assert doctor.NOT_YET_RUN in NOT_YET_RUN
    for document in ("README.md", "deploy/jetson/README.md"):
        told = doctor.NOT_YET_RUN in (ROOT / document).read_text("utf-8")
        assert told == (NOT_YET_RUN in page), document
