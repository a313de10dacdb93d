"""What the documents say is true: commands and programs of the README run, and examples of docstrings too."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import wave
from pathlib import Path
from types import ModuleType

import pytest

import edgeemo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGES = {"edgeemo": ROOT, "edgeemo_calibration": ROOT / "calibration", "edgeemo_export": ROOT / "export"}

NOT_RUN = {
    "python3 -m venv .*": "makes an environment; .ci/run does it",
    "edgeemo run --camera .*": "needs a camera",
    "edgeemo fetch-detector": "needs a network",
    "edgeemo build": "needs an NVIDIA GPU",
    "edgeemo-calibrate encode .*": "its verdict on speed hangs on what else the machine does",
}
PROGRAMS = {"edgeemo": "edgeemo.cli", "edgeemo-calibrate": "edgeemo_calibration.cli"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line]
RUN = [line for line in COMMANDS if not any(re.fullmatch(kept, line) for kept in NOT_RUN)]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README speaks of."""
    import cv2

    from edgeemo.capture.clip import Clip
    from edgeemo.capture.source import Frame

    folder = tmp_path_factory.mktemp("desk")
    shutil.copy(ROOT / "edgeemo" / "demo" / "clip.mp4", folder / "clip.mp4")
    frame = next(one for one in Clip(folder / "clip.mp4") if isinstance(one, Frame))
    cv2.imwrite(str(folder / "face.jpg"), frame.image())
    (manifest,) = blocks("csv")
    (folder / "manifest.csv").write_text(manifest)
    recorded = run(command("edgeemo run clip.mp4 --record sessions --consent"), folder)
    assert recorded.returncode == 0, recorded.stderr
    with wave.open(str(folder / "test.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(range(256)) * 125)
    (folder / "test.csv").write_text("voice,label\ntest.wav,neutral\n")
    return folder


def command(line: str) -> list[str]:
    program, *words = shlex.split(line)
    start = f"import sys; from {PROGRAMS[program]} import main; sys.exit(main())"
    return [sys.executable, "-c", start, *words]


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([*map(str, PACKAGES.values()), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("line", RUN)  # in order: one may use what an earlier one made
def test_command_of_the_readme(line: str, desk: Path) -> None:
    done = run(command(line), desk)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_commands_that_are_not_run_are_in_the_readme() -> None:
    assert [kept for kept in NOT_RUN if not any(re.fullmatch(kept, line) for line in COMMANDS)] == []


def test_programs_of_the_readme(desk: Path) -> None:
    # In one go, for the later ones use what the earlier ones made.
    done = run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", "\n".join(blocks("python"))], desk
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_changelog_has_this_version() -> None:
    assert f"## [{edgeemo.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def modules() -> list[str]:
    names = []
    for package, root in PACKAGES.items():
        names.append(package)
        names += [
            one.name for one in pkgutil.walk_packages([str(root / package)], f"{package}.", onerror=print)
        ]
    return sorted(name for name in names if not name.endswith("__main__"))


def imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "onnx", "onnxscript", "sounddevice", "av", "soundfile"):
            pytest.skip(f"{name} needs {error.name}, which is not installed")
        raise


@pytest.mark.parametrize("name", modules())
def test_examples_of_docstrings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed, _ = doctest.testmod(imported(name), optionflags=doctest.ELLIPSIS)
    assert failed == 0
