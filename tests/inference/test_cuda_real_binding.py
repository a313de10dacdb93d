"""The CUDA layer over the real cuda-python, which finds a stand-in of libcuda.so.1."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests" / "support" / "libcuda_double.c"
COMPILER = shutil.which("cc")


def installed() -> bool:
    """Whether cuda-bindings is; asking imports no more than its package."""
    try:
        return importlib.util.find_spec("cuda.bindings") is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built stand-in."""
    if not sys.platform.startswith("linux"):
        pytest.skip("libcuda.so.1 is of Linux")
    if COMPILER is None:
        pytest.skip("there is no C compiler (cc) for the stand-in of libcuda.so.1")
    folder = tmp_path_factory.mktemp("libcuda")
    flags = ["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([COMPILER, *flags, "-o", folder / "libcuda.so.1", SOURCE], check=True)
    return folder


@pytest.mark.skipif(not installed(), reason="cuda-bindings is not installed")
def test_the_real_cuda_python_drives_a_stand_in(library: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.libcuda_drive"],
        cwd=ROOT,
        env={**os.environ, "LD_LIBRARY_PATH": str(library)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[-1] for line in lines] == ["copies", "events", "loss"]
    assert all(line.startswith("cuda-python ") for line in lines)
