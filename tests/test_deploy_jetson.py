"""What deploy/jetson says and does, as far as that can be seen without a Jetson."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from packaging.specifiers import SpecifierSet

from edgeemo import cli, doctor
from tests.capture.devices import CameraBench

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy" / "jetson"
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
INSTALL = FOLDER / "install.sh"
DOCKERFILES = {12: FOLDER / "Dockerfile.jetpack6", 13: FOLDER / "Dockerfile.jetpack7"}


# --- the page


def shell_lines(text: str) -> list[str]:
    """Commands of the bash blocks of a page, continued lines joined, comments dropped."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    joined = "".join(blocks).replace("\\\n", " ")
    return [" ".join(shlex.split(line, comments=True)) for line in joined.splitlines() if line.strip()]


def own_commands() -> list[str]:
    """What the page gives to `edgeemo`, also in a container."""
    found = []
    for line in shell_lines(PAGE):
        match = re.match(r"(?:edgeemo|docker run .* edgeemo:jetpack\d)(?: |$)(.*)", line)
        if match:
            found.append(match.group(1).partition(" > ")[0] or "doctor")
    return found


@pytest.mark.parametrize("words", own_commands())
def test_command_of_the_page(words: str) -> None:
    verb, *rest = words.split(" ", 1)
    arguments = rest[0] if rest else ""
    pipeline = re.search(r"(nvarguscamerasrc .*)", arguments)  # one word on the page
    split = arguments.split() if not pipeline else [*arguments[: pipeline.start()].split(), pipeline.group(1)]
    assert callable(cli._parser().parse_args([verb, *split]).verb)


def test_the_page_goes_from_the_board_to_the_figures() -> None:
    verbs = {words.split()[0] for words in own_commands()}
    assert {"doctor", "build", "demo", "run", "compare", "bench"} <= verbs


def test_every_own_word_of_the_text_is_a_verb() -> None:
    verbs = set(re.findall(r"`edgeemo ([a-z-]+)", PAGE))
    assert verbs
    for verb in verbs:
        with pytest.raises(SystemExit) as ended:
            cli._parser().parse_args([verb, "--help"])
        assert ended.value.code == 0, verb


def test_links_resolve() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert target.startswith("https://") or (FOLDER / target).exists(), target


def test_files_that_the_page_names_are_there() -> None:
    for name in re.findall(r"deploy/jetson/([\w.]+)", PAGE):
        assert (FOLDER / name).is_file(), name


def test_the_page_says_what_no_device_has_done() -> None:
    assert doctor.NOT_YET_RUN in PAGE
    assert "have\nnot been built" in PAGE  # the images


# --- versions: the extra of the package, the script, the images and the page say the same


def bindings(text: str) -> dict[int, SpecifierSet]:
    """Requirements of cuda-bindings in a text, by the major version that they ask for."""
    found = re.findall(r"'cuda-bindings(>=(\d+)[^']*)'", text)
    return {int(major): SpecifierSet(bounds) for bounds, major in found}


def test_the_extra_admits_what_the_script_asks_for() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extra = re.search(r'^tensorrt = \["cuda-bindings([^";]*)', project, re.MULTILINE)
    assert extra, "pyproject.toml has no extra 'tensorrt' of cuda-bindings alone"
    allowed = SpecifierSet(extra.group(1))
    for version in ("12.8.0", "12.9.10", "13.0.0", "13.4.4"):  # with wheels for Python 3.10 on aarch64
        assert version in allowed
        assert any(version in one for one in bindings(INSTALL.read_text()).values())
    assert "14.0.0" not in allowed


def test_the_images_and_the_page_ask_for_what_the_script_asks_for() -> None:
    asked = bindings(INSTALL.read_text())
    assert set(asked) == set(DOCKERFILES)
    assert bindings(PAGE) == asked
    for major, path in DOCKERFILES.items():
        assert bindings(path.read_text()) == {major: asked[major]}


def test_a_requirement_of_another_major_would_be_seen() -> None:
    assert bindings("'cuda-bindings>=11,<12'") == {11: SpecifierSet(">=11,<12")}


# --- the images


INSTRUCTIONS = {"ARG", "FROM", "ADD", "RUN", "COPY", "ENV", "VOLUME", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}


def instructions(path: Path) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile with their arguments, continued lines joined, comments dropped."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


@pytest.mark.parametrize("path", DOCKERFILES.values(), ids=lambda path: path.name)
def test_image(path: Path) -> None:
    found = instructions(path)
    assert {name for name, _ in found} <= INSTRUCTIONS
    assert [name for name, _ in found][:2] == ["ARG", "FROM"]
    for name, arguments in found:
        if name == "RUN":
            subprocess.run(["bash", "-n", "-c", arguments], check=True)
        if name == "COPY":
            *sources, _ = arguments.split()
            assert all((ROOT / source).exists() for source in sources)
    values = dict(found)
    assert values["USER"] == "edgeemo"
    assert [name for name, _ in found].index("USER") > max(
        index for index, (name, _) in enumerate(found) if name == "RUN"
    )
    cache = re.search(r"EDGEEMO_CACHE=(\S+)", values["ENV"])
    assert cache and values["VOLUME"] == cache.group(1)
    assert f"install -d -o edgeemo -g edgeemo {cache.group(1)}" in path.read_text()


@pytest.mark.parametrize("path", DOCKERFILES.values(), ids=lambda path: path.name)
def test_an_image_gets_all_that_the_wheel_is_made_of(path: Path) -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = re.search(r"^packages = \[(.*)\]$", project, re.MULTILINE)
    assert packages
    copied = " ".join(arguments for name, arguments in instructions(path) if name == "COPY").split()
    for package in re.findall(r'"([^"]+)"', packages.group(1)):
        assert package.split("/")[0] in copied
    assert {"pyproject.toml", "README.md", "LICENSE"} <= set(copied)


def test_repository_and_base_are_of_one_release() -> None:
    values = dict(instructions(DOCKERFILES[12])[::-1])
    base = re.fullmatch(r"BASE=nvcr\.io/nvidia/l4t-jetpack:(r\d+\.\d+)\.\d+", values["ARG"])
    assert base
    assert f"ARG JETSON_LINUX={base.group(1)}\n" in DOCKERFILES[12].read_text()


def test_apt_packages_are_those_of_the_script() -> None:
    script = INSTALL.read_text()
    for path in DOCKERFILES.values():
        for package in ("libportaudio2", "python3-libnvinfer", "python3-venv", "tensorrt-libs"):
            assert package in path.read_text() and package in script and package in PAGE


# --- the script


PYTHON = """#!/usr/bin/env bash
echo "python3 $*" >>"$LOG"
if [[ $1 == - ]]; then echo "$CUDA_MAJOR"; fi
if [[ $1 == -m && $2 == venv ]]; then
  mkdir -p "$4/bin"
  echo 'include-system-site-packages = true' >"$4/pyvenv.cfg"
  cp "$0" "$4/bin/python"
  printf '#!/usr/bin/env bash\\necho "edgeemo $*" >>"$LOG"\\nexit "${DOCTOR:-0}"\\n' >"$4/bin/edgeemo"
  chmod +x "$4/bin/edgeemo"
fi
"""
SUDO = '#!/usr/bin/env bash\necho "sudo $*" >>"$LOG"\n'
DPKG = '#!/usr/bin/env bash\n[[ " $INSTALLED " == *" ${@: -1} "* ]] && echo -n "install ok installed"\n'
PACKAGES = "python3-venv libportaudio2 tensorrt-libs python3-libnvinfer"


class Board:
    """A root folder and a PATH in which install.sh finds what a test puts there."""

    def __init__(self, root: Path, release: str | None) -> None:
        self.root = root
        self.log = root / "log"
        self.log.touch()
        for name, text in {"usr/bin/python3": PYTHON, "bin/sudo": SUDO, "bin/dpkg-query": DPKG}.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        if release is not None:
            (root / "etc").mkdir()
            (root / "etc" / "nv_tegra_release").write_text(f"# {release}, GCID: 1, BOARD: generic\n")
        self.environment = {
            "PATH": f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(root),
            "LOG": str(self.log),
            "EDGEEMO_INSTALL_ROOT": str(root),
            "INSTALLED": PACKAGES,
            "CUDA_MAJOR": "12",
        }

    def install(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        return subprocess.run(
            ["bash", str(INSTALL), *words],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def done(self) -> list[str]:
        return self.log.read_text().splitlines()


ORIN = "R36 (release), REVISION: 4.3"


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path, ORIN)


def test_the_script_is_bash() -> None:
    subprocess.run(["bash", "-n", str(INSTALL)], check=True)
    assert "set -euo pipefail" in INSTALL.read_text()
    assert os.access(INSTALL, os.X_OK)


def test_an_installation_from_the_start(board: Board) -> None:
    venv = board.root / "edgeemo"
    ended = board.install(INSTALLED="python3-venv libportaudio2")
    assert ended.returncode == 0, ended.stderr
    assert board.done() == [
        "sudo apt-get update",
        "sudo apt-get install -y --no-install-recommends tensorrt-libs python3-libnvinfer",
        f"python3 -m venv --system-site-packages {venv}",
        "python3 -",
        f"python3 -m pip install --upgrade {ROOT}[tensorrt] cuda-bindings>=12.8,<13",
        "edgeemo doctor",
        "edgeemo build",
    ]
    assert f"source {venv}/bin/activate" in ended.stdout


def test_a_second_installation_keeps_what_is_there(board: Board) -> None:
    board.install()
    assert board.install("--no-build", CUDA_MAJOR="13").returncode == 0
    assert board.done() == [
        "python3 -",
        f"python3 -m pip install --upgrade {ROOT}[tensorrt] cuda-bindings>=13,<14",
        "edgeemo doctor",
    ]


def test_a_wheel_and_a_folder_of_one_s_own(board: Board) -> None:
    venv = board.root / "my robot"
    assert board.install("--venv", str(venv), "--wheel", "/x/edgeemo-1-py3-none-any.whl").returncode == 0
    assert any("/x/edgeemo-1-py3-none-any.whl[tensorrt]" in line for line in board.done())
    assert (venv / "pyvenv.cfg").is_file()


@pytest.mark.parametrize(
    ("release", "words", "environment", "message"),
    [
        (None, [], {}, "no /etc/nv_tegra_release: this is not a Jetson"),
        ("R35 (release), REVISION: 4.1", ["--force"], {}, "35.4.1 brings TensorRT 8; edgeemo needs 10.3"),
        ("R36 (release), REVISION: 3.0", [], {}, "36.3.0 brings TensorRT 8; edgeemo needs 10.3"),
        ("R41 (release), REVISION: 1.0", [], {}, "'41.1.0' is not known"),
        (ORIN, ["--frobnicate"], {}, "--frobnicate is not an option"),
        (ORIN, ["--venv"], {}, "--venv needs a value"),
        (ORIN, ["--no-apt"], {"INSTALLED": "python3-venv"}, "missing: sudo apt-get install libportaudio2"),
        (ORIN, [], {"CUDA_MAJOR": "0"}, "the CUDA driver is version '0'"),
    ],
)
def test_refusals(
    release: str | None, words: list[str], environment: dict[str, str], message: str, tmp_path: Path
) -> None:
    board = Board(tmp_path, release)
    ended = board.install(*words, **environment)
    assert ended.returncode == 1
    assert message in ended.stderr
    assert not any("pip install" in line for line in board.done())


def test_an_environment_that_does_not_see_the_system(board: Board) -> None:
    (board.root / "edgeemo").mkdir()
    (board.root / "edgeemo" / "pyvenv.cfg").write_text("include-system-site-packages = false\n")
    ended = board.install()
    assert ended.returncode == 1 and "does not see the system's packages" in ended.stderr


def test_a_tensorrt_of_the_index_is_not_kept(board: Board) -> None:
    board.install()
    (board.root / "edgeemo" / "lib" / "python3.10" / "site-packages" / "tensorrt").mkdir(parents=True)
    ended = board.install()
    assert ended.returncode == 1 and "hides JetPack's TensorRT" in ended.stderr


def test_a_workstation_by_force_gets_no_tensorrt(tmp_path: Path) -> None:
    board = Board(tmp_path, None)
    assert board.install("--force", CUDA_MAJOR="0", INSTALLED="python3-venv libportaudio2").returncode == 0
    assert board.done()[-2:] == [f"python3 -m pip install --upgrade {ROOT}", "edgeemo doctor"]


def test_what_doctor_says_no_to_is_not_built(board: Board) -> None:
    assert board.install(DOCTOR="1").returncode == 1
    assert board.done()[-1] == "edgeemo doctor"


# --- cameras of the page


@pytest.fixture
def jpeg_server() -> Iterator[int]:
    """The port of a server that sends pictures as GStreamer's multipartmux does."""
    cv2 = pytest.importorskip("cv2")
    level = cv2.imencode(".jpg", np.full((48, 64, 3), 200, np.uint8))[1].tobytes()
    head = b"--ThisRandomString\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(level)
    stop = threading.Event()

    def feed(connection: socket.socket) -> None:
        with connection:
            while not stop.wait(0.02):
                try:
                    connection.sendall(head + level + b"\r\n")
                except OSError:
                    return

    def serve(listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:  # it was closed
                return
            threading.Thread(target=feed, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        stop.set()
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def test_a_camera_that_gstreamer_serves(jpeg_server: int) -> None:
    from edgeemo.capture.camera import Camera

    camera = Camera(f"tcp://127.0.0.1:{jpeg_server}")
    frames = iter(camera)
    levels = [int(next(frames).image()[24, 32, 0]) for _ in range(3)]  # type: ignore[union-attr]
    camera.close()
    assert all(abs(level - 200) <= 2 for level in levels)


def test_the_pipeline_of_the_page_reaches_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeemo.capture.camera import Camera

    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda backend: backend == cv2.CAP_GSTREAMER)
    (pipeline,) = re.findall(r"^edgeemo run --camera '(nvarguscamerasrc [^']+)'$", PAGE, re.MULTILINE)
    bench = CameraBench(0).install(monkeypatch)
    Camera(pipeline).close()
    assert bench.devices == [pipeline]
