#!/usr/bin/env python3
"""What `check.sh` found: the facts of one Python, whether two machines agree, and the page of results.

`facts` prints facts of the Python that runs this, as JSON; `compare DIR` is status 1 if the demo's answers in
DIR do not agree; `page DIR` prints the page of what is in DIR, as Markdown.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from collections import Counter
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

TOLERANCE = 0.01
"""How far a probability may be apart: INT8 rounds a value that lies between two steps either way."""

PACKAGES = (
    "edgeemo",
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "av",
    "sounddevice",
    "onnx",
    "pytest",
)

Answers = list[dict[str, Any]]


@dataclass(frozen=True)
class Agreement:
    """How far the answers of two machines to one clip are apart.

    Attributes:
        answers: How many there are, of both together: an answer is one face at one time.
        differ: Times in seconds at which the labels or the signals differ, or only one machine answers.
        largest: Largest difference of a probability, in [0, 1].
        mean: Mean over the answers of the largest difference.
        box: Largest difference of a side of the face's box, in pixels.
    """

    answers: int
    differ: tuple[float, ...]
    largest: float
    mean: float
    box: int

    @property
    def holds(self) -> bool:
        """Whether nothing differs and no probability is further apart than `TOLERANCE`."""
        return self.answers > 0 and not self.differ and self.largest <= TOLERANCE

    def __str__(self) -> str:
        if self.differ:
            where = ", ".join(f"{time:.1f} s" for time in self.differ)
            same = f"{len(self.differ)} of {self.answers} answers differ, at {where}"
        else:
            same = f"all {self.answers} answers have the same label"
        return (
            f"{same}; probabilities are at most {self.largest:.4f} apart ({self.mean:.4f} in the mean; "
            f"allowed: {TOLERANCE}), boxes of the face at most {self.box} px"
        )


def compare(one: Answers, other: Answers) -> Agreement:
    """Compare two lists of answers as `edgeemo demo --json` writes them.

    Example:
        >>> answer = {"time": 0.1, "track": 1, "label": "fear", "modalities": ["face"], "box": [1, 2, 9, 9]}
        >>> one, other = (answer | {"probabilities": {"fear": value}} for value in (0.8, 0.7))
        >>> agreement = compare([one], [other])
        >>> agreement.differ, round(agreement.largest, 3), agreement.holds
        ((), 0.1, False)
    """
    mine, theirs = ({(each["time"], each["track"]): each for each in answers} for answers in (one, other))
    both = [(mine[key], theirs[key]) for key in mine if key in theirs]
    differ = {time for time, _ in mine.keys() ^ theirs.keys()}
    apart, boxes = [0.0], [0]
    for a, b in both:
        if (a["label"], a["modalities"]) != (b["label"], b["modalities"]):
            differ.add(a["time"])
        if a["probabilities"] and b["probabilities"]:
            apart.append(
                max(abs(value - b["probabilities"][name]) for name, value in a["probabilities"].items())
            )
        if a["box"] and b["box"]:
            boxes += [abs(x - y) for x, y in zip(a["box"], b["box"], strict=True)]
    return Agreement(
        answers=len(mine.keys() | theirs.keys()),
        differ=tuple(sorted(differ)),
        largest=max(apart),
        mean=sum(apart) / max(1, len(apart) - 1),
        box=max(boxes),
    )


@dataclass(frozen=True)
class Tests:
    """What pytest's JUnit file says.

    Attributes:
        passed: How many passed.
        failed: Names of those that failed or could not be set up.
        skipped: How many were skipped, by reason.
        minutes: How long it took.
    """

    passed: int
    failed: tuple[str, ...]
    skipped: Counter[str]
    minutes: float

    @classmethod
    def read(cls, path: Path) -> Tests:
        """Read the file that `pytest --junitxml` wrote."""
        suite = next(ElementTree.parse(path).iter("testsuite"))
        failed, skipped, cases = [], Counter[str](), 0
        for case in suite.iter("testcase"):
            cases += 1
            if case.find("failure") is not None or case.find("error") is not None:
                failed.append(f"{case.get('classname')}::{case.get('name')}")
            elif (skip := case.find("skipped")) is not None:
                # Modules that need PyTorch are many.
                reason = re.sub(r"^edgeemo_\S+ needs", "needs", skip.get("message") or "no reason")
                skipped[_without_paths(reason)] += 1
        passed = cases - len(failed) - skipped.total()
        return cls(passed, tuple(failed), skipped, float(suite.get("time") or 0) / 60)


def facts() -> dict[str, Any]:
    """Processor, Python, C library and packages of the interpreter that runs this."""
    installed = {each.metadata["Name"].lower() for each in metadata.distributions()}
    return {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
        "packages": {name: metadata.version(name) for name in PACKAGES if name in installed},
    }


def page(folder: Path) -> str:
    """Write the page of results from the files that `check.sh` left in a folder."""
    return "\n\n".join(
        [
            "# edgeemo on emulated aarch64",
            "Written by `deploy/arm64/check.sh`. The processor was emulated: this shows that the wheel, its "
            "dependencies and the answers are right on aarch64, and nothing about the speed of a device.",
            _about(folder),
            "## Unit tests",
            _tests(folder),
            "## Agreement with x86-64",
            f"Answers of `edgeemo demo --json`: {_agreement(folder)}.",
            "## Doctor",
            _doctor(_read(folder / "doctor.json")["checks"]),
            "## The demo",
            "Printed by the aarch64 Python:",
            # The first line names the file.
            "```\n" + "\n".join((folder / "demo.txt").read_text(encoding="utf-8").splitlines()[1:]) + "\n```",
        ]
    )


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _agreement(folder: Path) -> Agreement:
    machines = ("x86-64", "aarch64")
    x86, arm = (_read(folder / f"demo.{machine}.json")["emotions"] for machine in machines)
    return compare(x86, arm)


def _about(folder: Path) -> str:
    suite, mode, processor = (folder / "root").read_text(encoding="utf-8").split()
    started = "by the kernel (binfmt_misc), in a chroot" if mode == "chroot" else "by name"
    arm, x86 = (_read(folder / f"facts.{machine}.json") for machine in ("aarch64", "x86-64"))
    emulator = (folder / "emulator").read_text(encoding="utf-8").strip()
    lines = [
        "| | aarch64, emulated | x86-64, for comparison |",
        "|---|---|---|",
        f"| emulator | {emulator}, as {processor}, started {started} | |",
        f"| release | {suite} | |",
        *(f"| {name} | {arm[key]} | {x86[key]} |" for name, key in (("Python", "python"), ("libc", "libc"))),
        *(
            f"| {name} | {version} | {x86['packages'].get(name, '')} |"
            for name, version in arm["packages"].items()
        ),
    ]
    return "\n".join(lines)


def _tests(folder: Path) -> str:
    if not (folder / "tests.xml").is_file():
        return "Not run."
    tests = Tests.read(folder / "tests.xml")
    left_out = [line.split("|", 1) for line in (folder / "deselected").read_text().splitlines() if line]
    lines = [
        f"{tests.passed} passed, {len(tests.failed)} failed, {tests.skipped.total()} skipped, in "
        f"{tests.minutes:.0f} minutes, against the installed wheel.",
        "",
        *(f"- failed: `{name}`" for name in tests.failed),
        *(f"- skipped {count}: {reason}" for reason, count in sorted(tests.skipped.items())),
        "- left out: `tests/export`, which needs PyTorch, and tests marked slow or gpu",
        *(f"- left out: `{name}`: {reason}" for name, reason in left_out),
    ]
    return "\n".join(lines)


def _doctor(checks: list[dict[str, str]]) -> str:
    fine = [check["name"] for check in checks if check["state"] == "ok"]
    others = [check for check in checks if check["state"] != "ok"]
    return "\n".join(
        [
            f"ok: {', '.join(fine)}.",
            "",
            *(f"- {each['state']}: {each['name']}: {_without_paths(each['detail'])}" for each in others),
        ]
    )


def _without_paths(text: str) -> str:
    """The text without folders: a path is cut down to its last part."""
    return re.sub(r"(?<![\w.])(?:/[\w.+-]+)+/([\w.+-]+)", r"\1", text)


def main(words: list[str]) -> int:
    """Run one of the three commands and return the exit status."""
    match words:
        case ["facts"]:
            print(json.dumps(facts()))
        case ["compare", folder]:
            agreement = _agreement(Path(folder))
            print(f"{'ok' if agreement.holds else 'fail'}: {agreement}")
            return 0 if agreement.holds else 1
        case ["page", folder]:
            print(page(Path(folder)))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
