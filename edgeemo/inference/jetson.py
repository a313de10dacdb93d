"""Which Jetson this is, and what its JetPack brought: read from files alone, nothing is run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class JetPack:
    """One release of NVIDIA's software for Jetson.

    Attributes:
        version: As NVIDIA names it, such as '6.2.1'.
        tensorrt: TensorRT that it brings, (major, minor).
        cuda: CUDA that it brings and that its driver knows, (major, minor).
        python: Python of its Ubuntu, for which its TensorRT binding is built, (major, minor).
    """

    version: str
    tensorrt: tuple[int, int]
    cuda: tuple[int, int]
    python: tuple[int, int]


def _releases() -> dict[str, JetPack]:
    jammy, noble = (3, 10), (3, 12)
    named = (
        ("6.0 DP", (8, 6), (12, 2), jammy, "36.2.0"),
        ("6.0", (8, 6), (12, 2), jammy, "36.3.0"),
        ("6.1", (10, 3), (12, 6), jammy, "36.4.0"),
        ("6.2", (10, 3), (12, 6), jammy, "36.4.3"),
        ("6.2.1", (10, 3), (12, 6), jammy, "36.4.4 36.4.7"),
        ("6.2.2", (10, 3), (12, 6), jammy, "36.5.0"),
        ("7.0", (10, 13), (13, 0), noble, "38.2.0 38.2.1 38.2.2"),
        ("7.1", (10, 13), (13, 0), noble, "38.4.0"),
        ("7.2", (10, 16), (13, 2), noble, "39.2.0"),
        ("7.2.1", (10, 16), (13, 2), noble, "39.2.1"),
    )
    return {
        linux: JetPack(version, tensorrt, cuda, python)
        for version, tensorrt, cuda, python, releases in named
        for linux in releases.split()
    }


RELEASES = _releases()
"""The JetPack of each release of Jetson Linux, for those that deploy/jetson/README.md has a source for."""


@dataclass(frozen=True, slots=True)
class Jetson:
    """One board and its software.

    Attributes:
        board: The name that the board gives itself, such as 'NVIDIA Jetson AGX Orin Developer Kit'.
        linux: Release of Jetson Linux (L4T), such as '36.4.3'; empty where nothing tells it.
        packages: Version of each installed Debian package of JetPack's that matters here.
        power_mode: Name and number of the power mode, such as 'MAXN_SUPER (2)'; empty where nothing tells it.
    """

    board: str
    linux: str
    packages: dict[str, str] = field(default_factory=dict)
    power_mode: str = ""

    @property
    def jetpack(self) -> JetPack | None:
        """The JetPack of this release of Jetson Linux; None for a release that is not known here."""
        return RELEASES.get(self.linux)

    @property
    def tensorrt(self) -> str:
        """Version of the TensorRT that apt installed, such as '10.3.0.30'; empty where it installed none.

        Example:
            >>> Jetson("", "", {"python3-libnvinfer": "10.3.0.30-1+cuda12.5"}).tensorrt
            '10.3.0.30'
        """
        return self.packages.get("python3-libnvinfer", "").partition("-")[0]

    def __str__(self) -> str:
        if not self.linux:
            return f"{self.board}, Jetson Linux of unknown release"
        known = self.jetpack
        jetpack = f"JetPack {known.version}" if known else "unknown"
        return f"{self.board}, Jetson Linux {self.linux} ({jetpack})"


def read_jetson(root: Path = _ROOT) -> Jetson | None:
    """Tell which Jetson this is; None on any other machine.

    A container sees the board's device tree but may lack the files of its Jetson Linux: what they would tell
    is empty then.

    Args:
        root: The folder that holds /etc, /proc and /var.
    """
    release = _text(root / "etc/nv_tegra_release")
    # Carrier boards of others name themselves as they like, but each has NVIDIA's chip.
    if not release and "nvidia,tegra" not in _text(root / "proc/device-tree/compatible"):
        return None
    packages = _packages(_text(root / "var/lib/dpkg/status"))
    return Jetson(
        board=_text(root / "proc/device-tree/model").strip("\0\n ") or "Jetson without a name",
        linux=_linux(release, packages.get("nvidia-l4t-core", "")),
        packages=packages,
        power_mode=_power_mode(_text(root / "var/lib/nvpmodel/status"), _text(root / "etc/nvpmodel.conf")),
    )


def free_memory(root: Path = _ROOT) -> int | None:
    """Bytes that programs can still get, of which a Jetson's GPU gets its own; None where nothing tells it.

    Args:
        root: The folder that holds /proc.
    """
    told = re.search(r"^MemAvailable:\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    return 1024 * int(told.group(1)) if told else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # it is not there, or not for this user
        return ""


def _linux(release: str, core: str) -> str:
    """Jetson Linux as '36.4.3', from the release file or else the version of the package nvidia-l4t-core."""
    told = re.search(r"R(\d+) \(release\), REVISION: (\d+)\.(\d+)", release)
    if told:
        return ".".join(told.groups())
    packaged = re.match(r"\d+\.\d+(\.\d+)?", core)
    return packaged.group() if packaged else ""


_WANTED = re.compile(r"nvidia-jetpack|nvidia-l4t-core|tensorrt|python3-libnvinfer|libnvinfer\d+")


def _packages(status: str) -> dict[str, str]:
    """Versions of the wanted packages that are installed (one removed without --purge is still listed)."""
    found = {}
    for stanza in status.split("\n\n"):
        name = re.match(r"\n*Package: (\S+)", stanza)
        if name and _WANTED.fullmatch(name.group(1)) and "\nStatus: install ok installed\n" in stanza:
            version = re.search(r"^Version: (\S+)", stanza, re.MULTILINE)
            if version:
                found[name.group(1)] = version.group(1)
    return found


def _power_mode(status: str, modes: str) -> str:
    """The mode that nvpmodel wrote down last, with its name in the board's own list."""
    told = re.search(r"pmode:(\d+)", status)
    if not told:
        return ""
    number = int(told.group(1))
    name = re.search(rf"<\s*POWER_MODEL\s+ID={number}\s+NAME=(\S+?)\s*>", modes)
    return f"{name.group(1)} ({number})" if name else f"mode {number}"
