from __future__ import annotations

import ctypes
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeemo.inference import readiness
from edgeemo.inference.jetson import Jetson
from edgeemo.inference.readiness import BINDINGS, Machine, survey

APT = {"python3-libnvinfer": "10.3.0.30-1+cuda12.5"}
ORIN = Jetson("Orin", "36.4.3", APT)
SYSTEM = Path("/usr/lib/python3.10/dist-packages/tensorrt")
INDEX = Path("/home/me/edgeemo/lib/python3.10/site-packages/tensorrt")
# All is there.
JETSON = Machine(ORIN, (12, 6), SYSTEM, bindings=True, python=(3, 10))
DESK = Machine(None, (13, 0), INDEX, bindings=True, python=(3, 12))


@pytest.mark.parametrize(
    ("machine", "what", "advice"),
    [
        (JETSON, None, None),
        (DESK, None, None),
        (replace(JETSON, driver=None), "no NVIDIA driver here", "--runtime nvidia"),
        (replace(DESK, tensorrt=None), "no TensorRT for this Python", "pip install tensorrt-cu13"),
        (
            replace(JETSON, tensorrt=None, jetson=replace(ORIN, packages={})),
            "JetPack's TensorRT is not installed",
            "sudo apt install tensorrt-libs python3-libnvinfer; then /usr/bin/python3 -m venv --system-site",
        ),
        (
            replace(JETSON, tensorrt=None, jetson=replace(ORIN, linux="36.3.0")),
            "JetPack 6.0 brings TensorRT 8.6; 10.3 is needed",
            "flash JetPack 6.1",
        ),
        (
            replace(JETSON, tensorrt=None),
            "JetPack's TensorRT 10.3.0.30 is installed, but this Python does not see it",
            "venv --system-site-packages",
        ),
        (
            replace(JETSON, tensorrt=None, python=(3, 12)),
            "does not see it (it is for Python 3.10, this is 3.12)",
            "/usr/bin/python3 -m venv",
        ),
        (
            replace(JETSON, tensorrt=None, jetson=Jetson("Orin", "99.0.0", APT)),
            "is installed, but this Python does not see it",
            "venv",
        ),
        (replace(JETSON, bindings=False), "no CUDA binding", "pip install 'cuda-bindings>=12.8,<13'"),
        (replace(DESK, bindings=False), "no CUDA binding", "pip install 'cuda-bindings>=13,<14'"),
        (replace(DESK, bindings=False, driver=(11, 8)), "no CUDA binding", "pip install 'cuda-bindings'"),
    ],
)
def test_obstacle(machine: Machine, what: str | None, advice: str | None) -> None:
    found = machine.obstacle()
    if what is None or advice is None:
        assert found is None
    else:
        assert found is not None
        assert what in found.what and advice in found.advice


@pytest.mark.parametrize(
    ("machine", "failure", "advice"),
    [
        (replace(JETSON, tensorrt=INDEX), "whatever", "pip uninstall tensorrt: it hides JetPack's"),
        (JETSON, "libnvdla_compiler.so: cannot open", "--runtime nvidia, and on JetPack 7"),
        (JETSON, "CUDA_ERROR_OUT_OF_MEMORY (out of memory)", "restart the board"),
        (JETSON, "TensorRT's libraries cannot be loaded: x", "apt install --reinstall tensorrt-libs"),
        (DESK, "TensorRT's libraries cannot be loaded: x", "install TensorRT again"),
        (JETSON, "TensorRT 8.6.2 has no X; 10.3 or later is needed", "flash JetPack 6.1"),
        (DESK, "TensorRT 8.6.2 has no X; 10.3 or later is needed", "pip install --upgrade tensorrt"),
        (DESK, "error 35", "pip install 'cuda-bindings>=13,<14'; in a container"),
    ],
)
def test_advice_for_what_does_not_open(machine: Machine, failure: str, advice: str) -> None:
    assert advice in machine.advise(failure)


def test_what_the_failure_itself_says_helps_best() -> None:
    assert DESK.advise("error 35", "update the driver") == "update the driver"
    assert "hides JetPack's" in replace(JETSON, tensorrt=INDEX).advise("error 35", "update the driver")


def test_only_on_a_jetson_does_a_wheel_hide_anything() -> None:
    assert replace(JETSON, tensorrt=INDEX).hidden
    assert not JETSON.hidden and not DESK.hidden
    assert not replace(JETSON, tensorrt=INDEX, jetson=replace(ORIN, packages={})).hidden


@pytest.mark.parametrize(
    ("version", "failed", "told"), [(12060, 0, (12, 6)), (13020, 0, (13, 2)), (0, 0, None), (12060, 1, None)]
)
def test_driver(
    version: int, failed: int, told: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(pointer: ctypes._Pointer[ctypes.c_int]) -> int:
        pointer._obj.value = version  # type: ignore[attr-defined]
        return failed

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(cuDriverGetVersion=answer))
    assert survey().driver == told


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert survey().driver is None


@pytest.mark.parametrize("module", ["cuda.bindings", "pycuda"])
def test_bindings_are_found_and_not_imported(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path.joinpath(*module.split("."))
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('it was imported')\n")
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text("raise AssertionError('it was imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("cuda", module):
        monkeypatch.delitem(sys.modules, name, raising=False)
    machine = survey()
    assert machine.bindings
    assert machine.tensorrt == tmp_path / "tensorrt"
    monkeypatch.delitem(sys.modules, "cuda", raising=False)  # a namespace, which finding made


def test_nothing_is_found_where_nothing_is() -> None:
    assert readiness._folder("edgeemo_is_not_called_this.at_all") is None
    assert readiness._folder("edgeemo_is_not_called_this") is None
    assert readiness._folder("json") == Path(sys.modules["json"].__file__ or "").parent


def test_the_installer_asks_for_the_same_bindings() -> None:
    script = (Path(__file__).parents[2] / "deploy" / "jetson" / "install.sh").read_text()
    for major, requirement in BINDINGS.items():
        assert f"{major}) bindings='{requirement}'" in script
