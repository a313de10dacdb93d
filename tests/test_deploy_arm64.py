"""What deploy/arm64 says and does, as far as that can be seen without making a root."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy" / "arm64"
CHECK = FOLDER / "check.sh"
SCRIPT = CHECK.read_text(encoding="utf-8")
README = (FOLDER / "README.md").read_text(encoding="utf-8")

TAKEN = set(re.findall(r"^\s+(--[a-z-]+)\)", SCRIPT, re.MULTILINE))
"""The options that the script takes."""

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


@pytest.fixture(scope="module")
def results() -> ModuleType:
    spec = importlib.util.spec_from_file_location("deploy_arm64_results", FOLDER / "results.py")
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the script


def check(*words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the script; programs in the folder `path` are found before those of the machine."""
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([*([str(path)] if path else []), os.environ["PATH"]]),
    }
    return subprocess.run(
        ["bash", str(CHECK), *words], env=environment, capture_output=True, text=True, check=False
    )


def program(folder: Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


@needs_bash
def test_help_names_every_option_that_is_taken() -> None:
    done = check("--help")
    assert done.returncode == 0
    assert set(re.findall(r"^  (--[a-z-]+)", done.stdout, re.MULTILINE)) == TAKEN - {"--help"}


def test_the_page_names_only_options_there_are() -> None:
    own = set(re.findall(r"`(?:[^`]* )?(--[a-z][a-z-]*)|check\.sh (--[a-z][a-z-]*)", README))
    assert own
    assert {option for pair in own for option in pair if option} <= TAKEN | {"--json"}


@needs_bash
@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--rot", "x"], "--rot is not an option"),
        (["--root"], "--root needs a value"),
        (["--keep", "--suite"], "--suite needs a value"),
    ],
)
def test_wrong_usage(words: list[str], why: str) -> None:
    done = check(*words)
    assert done.returncode == 1
    assert why in done.stderr
    assert done.stdout == ""


@needs_bash
def test_an_aarch64_machine_need_not_emulate(tmp_path: Path) -> None:
    program(tmp_path / "bin", "uname", "echo aarch64")
    done = check(path=tmp_path / "bin")
    assert done.returncode == 1
    assert "nothing need be emulated" in done.stderr


@needs_bash
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="the script asks for root first")
def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    program(tmp_path / "bin", "uname", "echo x86_64")
    for name in ("debootstrap", "qemu-aarch64-static", "dpkg-deb"):
        program(tmp_path / "bin", name, "exit 1")
    program(tmp_path / "bin", "python3", "exit 0")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("years")
    done = check("--root", str(theirs), path=tmp_path / "bin")
    assert done.returncode == 1
    assert "is not empty" in done.stderr
    assert [each.name for each in theirs.iterdir()] == ["thesis.txt"]


def test_what_is_left_out_is_there_and_has_a_reason() -> None:
    block = re.search(r"^DESELECTED=\(\n(.*?)^\)", SCRIPT, re.DOTALL | re.MULTILINE)
    assert block
    for line in block[1].splitlines():
        name, _, reason = line.strip().strip("'\"").partition("|")
        path, _, test = name.partition("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        assert not test or f"def {test.split('[')[0]}(" in text
        assert reason


# --- agreement


def answer(time: float, label: str | None, fear: float, **more: Any) -> dict[str, Any]:
    return {
        "time": time,
        "track": 1,
        "label": label,
        "probabilities": {"fear": fear, "anger": 1 - fear},
        "modalities": ["face", "voice"],
        "box": [10, 20, 30, 40],
        **more,
    }


ONE = [answer(0.1, "fear", 0.8), answer(0.2, "fear", 0.7)]


@pytest.mark.parametrize(
    ("other", "differ", "largest", "holds"),
    [
        (ONE, (), 0.0, True),
        ([ONE[0], answer(0.2, "fear", 0.706)], (), 0.006, True),
        ([ONE[0], answer(0.2, "fear", 0.72)], (), 0.02, False),
        ([ONE[0], answer(0.2, None, 0.7)], (0.2,), 0.0, False),
        ([ONE[0], answer(0.2, "fear", 0.7, modalities=["voice"])], (0.2,), 0.0, False),
        ([ONE[0], answer(0.2, "fear", 0.7, track=2)], (0.2,), 0.0, False),
        ([ONE[0]], (0.2,), 0.0, False),
        ([], (0.1, 0.2), 0.0, False),
    ],
)
def test_agreement(
    other: list[dict[str, Any]],
    differ: tuple[float, ...],
    largest: float,
    holds: bool,
    results: ModuleType,
) -> None:
    for pair in ((ONE, other), (other, ONE)):
        agreement = results.compare(*pair)
        assert agreement.differ == differ
        assert agreement.largest == pytest.approx(largest)
        assert agreement.holds is holds


def test_no_answers_at_all_are_no_agreement(results: ModuleType) -> None:
    assert not results.compare([], []).holds


def test_absent_answers_have_nothing_to_be_apart(results: ModuleType) -> None:
    absent = [answer(0.1, None, 0.5, probabilities=None, box=None)]
    assert results.compare(absent, absent).holds


# --- the page of results

SUITE = """<testsuites><testsuite time="150"><testcase classname="a" name="passes"/>
<testcase classname="a" name="fails"><failure message="no"/></testcase>
<testcase classname="a" name="breaks"><error message="no"/></testcase>
<testcase classname="a" name="skips"><skipped message="none at /opt/secret/data; EDGEEMO_DATA"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def found(tmp_path: Path, results: ModuleType) -> Path:
    """A folder as the script leaves it."""
    checks = [
        {"name": "numpy", "state": "ok", "detail": "2.4.6"},
        {"name": "cameras", "state": "warn", "detail": "/dev/secret/video0 cannot be opened"},
    ]
    files = {
        "tests.xml": SUITE,
        "deselected": "tests/test_a.py::test_b|measures seconds\n",
        "doctor.json": json.dumps({"checks": checks}),
        "demo.txt": "A clip: /opt/secret/clip.mp4\n    0.0 -   1.8 s  face 1  neutral\n",
        "emulator": "qemu-aarch64 version 7.2\n",
        "root": "bookworm chroot cortex-a76\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for machine in ("aarch64", "x86-64"):
        facts = {"machine": machine, "python": "3.11", "libc": "glibc 2.36", "packages": {"numpy": "2.4.6"}}
        (tmp_path / f"facts.{machine}.json").write_text(json.dumps(facts))
        (tmp_path / f"demo.{machine}.json").write_text(json.dumps({"emotions": ONE}))
    return tmp_path


def test_the_page_says_what_ran_and_no_path(found: Path, results: ModuleType) -> None:
    page = results.page(found)
    assert "1 passed, 2 failed, 1 skipped" in page
    assert "`a::fails`" in page and "`a::breaks`" in page
    assert "skipped 1: none at data; EDGEEMO_DATA" in page
    assert "`tests/test_a.py::test_b`: measures seconds" in page
    assert "video0 cannot be opened" in page
    assert page.endswith("```\n    0.0 -   1.8 s  face 1  neutral\n```")
    assert "secret" not in page


def test_a_page_without_tests_says_so(found: Path, results: ModuleType) -> None:
    (found / "tests.xml").unlink()
    assert "Not run." in results.page(found)


def test_disagreement_is_the_exit_status(
    found: Path, results: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert results.main(["compare", str(found)]) == 0
    (found / "demo.aarch64.json").write_text(json.dumps({"emotions": [ONE[0], answer(0.2, "anger", 0.3)]}))
    assert results.main(["compare", str(found)]) == 1
    assert capsys.readouterr().out.splitlines()[1].startswith("fail: 1 of 2 answers differ, at 0.2 s")


def test_facts_are_of_this_python(results: ModuleType) -> None:
    facts = results.facts()
    assert facts["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert set(facts["packages"]) >= {"numpy", "onnxruntime", "pytest"}


def test_the_page_states_the_tolerance(results: ModuleType) -> None:
    assert f"probability within {results.TOLERANCE}" in README
