"""What keeps TensorRT from running on this machine, and what to install; nothing of it is imported here."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from edgeemo.inference.jetson import Jetson, read_jetson

OLDEST_TENSORRT = (10, 3)

BINDINGS = {12: "cuda-bindings>=12.8,<13", 13: "cuda-bindings>=13,<14"}
"""What pip is asked for, by the driver's major version of CUDA: the bindings follow it, and the index has
wheels for aarch64 and Python 3.10 from 12.8 on."""

_APT = "sudo apt install tensorrt-libs python3-libnvinfer"
_ENVIRONMENT = "/usr/bin/python3 -m venv --system-site-packages"
_RUNTIME = "in a container: start it with --runtime nvidia"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One thing that keeps TensorRT from running.

    Attributes:
        what: What is wrong.
        advice: What to do.
    """

    what: str
    advice: str


@dataclass(frozen=True, slots=True)
class Machine:
    """What of TensorRT there is on this machine.

    Attributes:
        jetson: The board; None on any other machine.
        driver: CUDA that the driver knows, (major, minor); None where there is no driver.
        tensorrt: Folder of the module `tensorrt` that this Python finds; None where it finds none.
        bindings: Whether this Python finds a CUDA binding.
        python: This Python, (major, minor).
    """

    jetson: Jetson | None
    driver: tuple[int, int] | None
    tensorrt: Path | None
    bindings: bool
    python: tuple[int, int]

    @property
    def hidden(self) -> bool:
        """Whether a TensorRT of the package index hides JetPack's: it may have no code for this GPU."""
        packaged = self.jetson is not None and self.jetson.tensorrt != ""
        return packaged and self.tensorrt is not None and "dist-packages" not in self.tensorrt.parts

    def obstacle(self) -> Obstacle | None:
        """The first thing that is missing; None where all is there that can be seen without importing it."""
        return self._no_driver() or self._no_tensorrt() or self._no_bindings()

    def _no_driver(self) -> Obstacle | None:
        if self.driver is not None:
            return None
        what = "no NVIDIA driver here (libcuda cannot be loaded)"
        return Obstacle(what, f"flash the board anew; {_RUNTIME}" if self.jetson else _RUNTIME)

    def _no_tensorrt(self) -> Obstacle | None:
        if self.tensorrt is not None:
            return None
        if self.jetson is None:
            major = self.driver[0] if self.driver else 12
            return Obstacle("no TensorRT for this Python", f"pip install tensorrt-cu{major}")
        jetpack = self.jetson.jetpack
        if jetpack is not None and jetpack.tensorrt < OLDEST_TENSORRT:
            brought = "{}.{}".format(*jetpack.tensorrt)
            return Obstacle(
                f"JetPack {jetpack.version} brings TensorRT {brought}; 10.3 is needed",
                "flash JetPack 6.1 or newer",
            )
        if not self.jetson.tensorrt:
            return Obstacle("JetPack's TensorRT is not installed", f"{_APT}; then {_ENVIRONMENT}")
        what = f"JetPack's TensorRT {self.jetson.tensorrt} is installed, but this Python does not see it"
        if jetpack is not None and jetpack.python != self.python:
            own, its = ("{}.{}".format(*version) for version in (self.python, jetpack.python))
            what += f" (it is for Python {its}, this is {own})"
        return Obstacle(what, f"make the environment anew: {_ENVIRONMENT}")

    def _no_bindings(self) -> Obstacle | None:
        if self.bindings:
            return None
        return Obstacle("no CUDA binding for this Python", self.install_bindings())

    def install_bindings(self) -> str:
        """The command that installs the CUDA binding for this driver."""
        major = self.driver[0] if self.driver else 0
        return f"pip install '{BINDINGS.get(major, 'cuda-bindings')}'"

    def advise(self, failure: str, remedy: str = "") -> str:
        """What to do when TensorRT was found but does not open.

        Args:
            failure: What it said.
            remedy: What it said that would help.
        """
        said = failure.lower()
        if self.hidden:
            return "pip uninstall tensorrt: it hides JetPack's, which knows this GPU"
        if "libnvdla" in said:
            return f"a TensorRT of JetPack 6: {_RUNTIME}, and on JetPack 7 use an image for JetPack 7"
        if "out_of_memory" in said or "out of memory" in said:
            return "stop other programs that use the GPU, or restart the board"
        if "libraries cannot be loaded" in said:
            return _APT.replace("install", "install --reinstall") if self.jetson else "install TensorRT again"
        if "10.3 or later" in said:
            return "flash JetPack 6.1 or newer" if self.jetson else "pip install --upgrade tensorrt"
        return remedy or f"{self.install_bindings()}; {_RUNTIME}"


def survey() -> Machine:
    """Look at this machine."""
    return Machine(
        jetson=read_jetson(),
        driver=_driver(),
        tensorrt=_folder("tensorrt"),
        bindings=any(_folder(name) is not None for name in ("cuda.bindings", "cuda.cuda", "pycuda")),
        python=sys.version_info[:2],
    )


def _driver() -> tuple[int, int] | None:
    """CUDA that the driver knows; asking for it opens no device."""
    version = ctypes.c_int()
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        failed = library.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    if failed or not version.value:
        return None
    return version.value // 1000, version.value % 1000 // 10


def _folder(module: str) -> Path | None:
    """Where a module would be imported from, without importing more of it than its parents."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # its parent is missing, or was put together by hand
        return None
    if found is None:
        return None
    places = list(found.submodule_search_locations or []) or [str(Path(found.origin or "").parent)]
    return Path(places[0])
