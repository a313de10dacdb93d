"""Where built engines are kept, which of them fits, and why one does not."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeemo.cache import folder as cache_folder

FORMAT = 1
"""Raised when edgeemo builds another engine from the same file and settings."""

KEPT = 4
"""Engines of one graph, encoding and device that stay: several TensorRT versions or settings side by side."""

LOCK = "engines.lock"
_ROOT = 0  # the user that may do everything anyway

_NO_FOLDER = "this user has no home and so no cache folder"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NAMES = {
    "model": "graph",
    "encoding": "encoding",
    "profiles": "profiles",
    "tensorrt": "TensorRT",
    "cuda": "CUDA",
    "capability": "compute capability",
    "device": "device",
    "settings": "settings",
    "calibration": "calibration",
    "format": "builder",
}


@dataclass(frozen=True)
class EngineKey:
    """What an engine was built from and for: where one of these differs, it is another engine.

    Args:
        bundle: name of the bundle, in the file's name alone.
        graph: name of the graph, in the file's name alone.
        model: sha256 of the ONNX file.
        encoding: which of the graph's files it is.
        profiles: of each input with a free size, its smallest, best and largest shape.
        tensorrt: exact version of TensorRT.
        cuda: major version of CUDA.
        capability: compute capability of the device, such as '8.7'.
        device: name of the device.
        settings: how the builder was set, as JSON takes it.
        calibration: digest of the ranges behind an INT8 file, empty where none is named.
        format: `FORMAT` of the edgeemo that built it.
    """

    bundle: str
    graph: str
    model: str
    encoding: str
    profiles: Mapping[str, Any]
    tensorrt: str
    cuda: int
    capability: str
    device: str
    settings: Mapping[str, Any]
    calibration: str = ""
    format: int = FORMAT

    @property
    def fields(self) -> dict[str, Any]:
        """What is hashed, by name, as it is read back from JSON."""
        fields = {name: value for name, value in asdict(self).items() if name in _NAMES}
        return dict(json.loads(_canonical(fields)))

    @property
    def digest(self) -> str:
        """The sha256 of `fields` as canonical JSON."""
        return hashlib.sha256(_canonical(self.fields)).hexdigest()

    @property
    def stem(self) -> str:
        """The start of the names of all engines of this graph in this encoding."""
        return f"{_safe(self.bundle)}-{_safe(self.graph)}-{_safe(self.encoding)}"

    @property
    def name(self) -> str:
        """The name of the engine's files, less their suffix."""
        return f"{self.stem}-{self.digest[:16]}"


@dataclass(frozen=True)
class Stored:
    """An engine as it was kept, or would be kept where nothing can be written.

    Args:
        key: what it was built from and for.
        plan: the serialized engine.
        report: what the builder said: seconds, layers, findings.
        path: its file, None where nothing could be kept.
    """

    key: EngineKey
    plan: bytes = field(repr=False)
    report: Mapping[str, Any] = field(repr=False)
    path: Path | None = None

    @property
    def sha256(self) -> str:
        """The digest of the plan."""
        return hashlib.sha256(self.plan).hexdigest()


@dataclass(frozen=True)
class Missing:
    """Why there is no engine.

    Args:
        reason: what is wrong with the one that there is or was; empty when none was ever built.
    """

    reason: str = ""


@dataclass(frozen=True)
class Unwritable:
    """Why nothing can be kept in a folder.

    Args:
        reason: what is wrong.
        remedy: what mends the folder; empty where another one is needed.
    """

    reason: str
    remedy: str = ""

    @classmethod
    def of(cls, error: OSError) -> Unwritable:
        """What an attempt to write says."""
        if isinstance(error, _Distrusted):
            return cls(error.reason, error.remedy)
        return cls(said(error), "make room there" if error.errno in _FULL else "")

    def __str__(self) -> str:
        return self.reason


class EngineStore:
    """A folder of engines, each with a sidecar that says what it is.

    A plan is code: TensorRT runs what it holds. So only files that this user or root wrote, and nobody else
    can write, are handed out, and only after their checksum was found right. Finding takes no lock and
    writes nothing, so that a folder that was made elsewhere may be read-only.

    Args:
        place: the folder; by default `engines` in the cache. None where this user has none.
    """

    def __init__(self, place: Path | None) -> None:
        self.place = place

    @classmethod
    def default(cls) -> EngineStore:
        """The store in this user's cache."""
        try:
            return cls(cache_folder("engines"))
        except RuntimeError:  # a service may have no home
            return cls(None)

    def find(self, key: EngineKey) -> Stored | Missing:
        """The engine of this key, or why there is none."""
        engine = f"the engine of {key.graph}"
        try:
            sidecar = self._sidecar(f"{key.name}.json")
            plan = self.read(f"{key.name}.engine")
        except FileNotFoundError:
            return Missing(self._absent(key))
        except OSError as error:
            return Missing(f"{engine} is not used: {said(error)}")
        except ValueError as error:
            return Missing(f"{engine} is damaged: {error}")
        if sidecar["key"] != key.fields:
            return Missing(f"{engine} is damaged: its description is that of another")
        if sidecar["plan"] != {"bytes": len(plan), "sha256": hashlib.sha256(plan).hexdigest()}:
            return Missing(f"{engine} is damaged: its file is not the one that was written")
        assert self.place is not None  # what was read lies in it
        return Stored(key, plan, sidecar["report"], self.place / f"{key.name}.engine")

    def settings(self, key: EngineKey) -> Mapping[str, Any] | None:
        """The settings of the engine of this graph, encoding and device that was built or asked for last.

        So what 'edgeemo build' was told holds for later starts, and over an update of TensorRT.
        """
        for sidecar in self._newest(key):
            settings = sidecar["key"].get("settings")
            if isinstance(settings, dict):
                return settings
        return None

    def unwritable(self) -> Unwritable | None:
        """Why nothing can be kept, None where it seems that it can; nothing is made for that."""
        if self.place is None:
            return Unwritable(_NO_FOLDER)
        try:
            with contextlib.suppress(FileNotFoundError):
                _demand_trust(self.place, os.stat(self.place))
        except OSError as error:
            return Unwritable.of(error)
        nearest = next(path for path in (self.place, *self.place.absolute().parents) if path.exists())
        if not os.access(nearest, os.W_OK | os.X_OK):
            return Unwritable(f"{nearest} cannot be written")
        return None

    @contextlib.contextmanager
    def locked(self, waiting: Callable[[], None]) -> Iterator[Unwritable | None]:
        """Hold the folder's lock; the value is why nothing can be kept there, None when it can.

        There is one lock for the folder, and not one per engine: a builder times kernels, and two at once
        would time each other.

        Args:
            waiting: called once when another process holds the lock.
        """
        try:
            handle = self._open_lock()
        except OSError as error:
            yield Unwritable.of(error)
            return
        try:
            _take(handle, waiting)
            yield None
        finally:
            _release(handle)

    def publish(self, stored: Stored) -> Stored:
        """Keep an engine, under the lock, so that others see all of it or nothing; drop the oldest.

        The sidecar comes last. A reader between the two finds a checksum that does not fit, waits for the
        lock, and finds the pair.

        Raises:
            OSError: it cannot be written; then nothing is left of it, and of another one before it all or
                nothing.
        """
        key = stored.key
        now = _now()
        sidecar = {
            "bundle": key.bundle,
            "graph": key.graph,
            "key": key.fields,
            "plan": {"bytes": len(stored.plan), "sha256": stored.sha256},
            "built": now,
            "chosen": now,
            "report": stored.report,
        }
        self._sweep()
        try:
            self.write(f"{key.name}.engine", stored.plan)
            self.write(f"{key.name}.json", _canonical(sidecar))
        except OSError:
            if isinstance(self.find(key), Missing):
                self._remove_all(key.name)
            raise
        self._remove([_failure_name(key)])
        self._drop_oldest(key)
        assert self.place is not None  # what was written lies in it
        return Stored(key, stored.plan, stored.report, self.place / f"{key.name}.engine")

    def prefer(self, key: EngineKey) -> None:
        """Make an engine that was found the last one asked for, under the lock.

        Raises:
            OSError: it cannot be written.
        """
        sidecar = self._sidecar(f"{key.name}.json")
        self.write(f"{key.name}.json", _canonical({**sidecar, "chosen": _now()}))

    def note_failure(self, key: EngineKey, why: str) -> None:
        """Remember why an engine could not be built, under the lock, until one is published.

        Raises:
            OSError: it cannot be written.
        """
        self.write(_failure_name(key), why.encode())

    def failure(self, key: EngineKey) -> str:
        """Why the last build of an engine failed; empty where none did."""
        try:
            return self.read(_failure_name(key)).decode(errors="replace")
        except OSError:
            return ""

    def timing_cache(self, key: EngineKey) -> bytes:
        """What the builder learnt on this device with this TensorRT; empty where that is nothing."""
        try:
            return self.read(_timing_name(key))
        except OSError:
            return b""

    def keep_timing_cache(self, key: EngineKey, content: bytes) -> None:
        """Keep what the builder learnt, under the lock.

        Raises:
            OSError: it cannot be written.
        """
        self.write(_timing_name(key), content)

    def read(self, name: str) -> bytes:
        """The contents of one file of the folder.

        Raises:
            OSError: it cannot be read, or others than this user and root could have written it.
        """
        if self.place is None:
            raise FileNotFoundError(errno.ENOENT, _NO_FOLDER)
        _demand_trust(self.place, os.stat(self.place))
        path = self.place / name
        with path.open("rb") as file:
            _demand_trust(path, os.fstat(file.fileno()))
            return file.read()

    def write(self, name: str, content: bytes) -> None:
        """Write one file of the folder, under the lock, so that others see all of it or the one before.

        Raises:
            OSError: it cannot be written.
        """
        if self.place is None:
            raise FileNotFoundError(errno.ENOENT, _NO_FOLDER)
        temporary = self.place / f".{name}.{secrets.token_hex(4)}.tmp"
        # With these bits no umask lets others write.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                # A robot is switched off at the plug: without this the name may outlive the contents.
                os.fsync(file.fileno())
            os.replace(temporary, self.place / name)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(self.place)

    def _open_lock(self) -> int:
        if self.place is None:
            raise FileNotFoundError(errno.ENOENT, _NO_FOLDER)
        self.place.mkdir(mode=0o755, parents=True, exist_ok=True)
        _demand_trust(self.place, os.stat(self.place))
        return os.open(self.place / LOCK, os.O_RDWR | os.O_CREAT, 0o644)

    def _absent(self, key: EngineKey) -> str:
        """Why a file is not there: half of an engine, another engine in its place, or nothing ever."""
        files = self._files()
        if f"{key.name}.engine" in files:
            return f"the engine of {key.graph} is half-written: its description is missing"
        if f"{key.name}.json" in files:
            return f"the engine of {key.graph} is damaged: its file is missing"
        for sidecar in self._newest(key, any_device=True):
            return f"the engine of {key.graph} is stale ({_changes(sidecar['key'], key.fields)})"
        return ""

    def _sidecar(self, name: str) -> dict[str, Any]:
        """The description beside an engine.

        Raises:
            OSError: it cannot be read or trusted.
            ValueError: it is not what this module writes.
        """
        right = {"key": dict, "plan": dict, "report": dict, "chosen": str}
        try:
            value = json.loads(self.read(name))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"its description is no JSON ({error})") from None
        if not isinstance(value, dict) or not all(isinstance(value.get(k), t) for k, t in right.items()):
            raise ValueError("its description does not say what it must")
        return value

    def _newest(self, key: EngineKey, any_device: bool = False) -> list[dict[str, Any]]:
        """The descriptions of this graph's engines in this encoding, the last one asked for first."""
        pattern = re.compile(re.escape(key.stem) + "-[0-9a-f]{16}[.]json")
        sidecars = []
        for name in filter(pattern.fullmatch, self._files()):
            with contextlib.suppress(OSError, ValueError):
                sidecar = self._sidecar(name)
                if any_device or sidecar["key"].get("device") == key.device:
                    sidecars.append({**sidecar, "name": name.removesuffix(".json")})
        return sorted(sidecars, key=lambda sidecar: str(sidecar["chosen"]), reverse=True)

    def _drop_oldest(self, key: EngineKey) -> None:
        """Remove all but the newest engines of this graph, encoding and device, with what belongs to them."""
        for sidecar in self._newest(key)[KEPT:]:
            self._remove_all(sidecar["name"])

    def _sweep(self) -> None:
        """Remove what processes left that died while they wrote: under the lock nobody writes."""
        self._remove(file for file in self._files() if file.startswith(".") and file.endswith(".tmp"))

    def _files(self) -> list[str]:
        try:
            return [] if self.place is None else os.listdir(self.place)
        except OSError:
            return []

    def _remove_all(self, name: str) -> None:
        """Remove an engine with what belongs to it."""
        self._remove(file for file in self._files() if file.startswith(f"{name}."))

    def _remove(self, files: Iterable[str]) -> None:
        assert self.place is not None  # what was listed lies in it
        for file in files:
            with contextlib.suppress(OSError):
                (self.place / file).unlink()


def said(error: OSError) -> str:
    """What the system said, without its number."""
    if error.strerror is None:
        return str(error)
    name = error.filename2 or error.filename  # of a file that was to be renamed the name that it was to get
    return error.strerror if name is None else f"{error.strerror}: {name}"


def _take(handle: int, waiting: Callable[[], None]) -> None:
    """Take the lock that belongs to an open file, not to the file's being there.

    The kernel gives it back when its owner dies, however it dies: no time limit has to guess whether a
    builder is dead or slow.
    """
    try:
        import fcntl
    except ImportError:  # Windows: two may build at once, and the second to finish replaces the first
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waiting()
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:  # a file system without locks; publishing is atomic without them
        return


def _release(handle: int) -> None:
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        # Closing alone would leave the lock with a process that was forked while it was held.
        fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


class _Distrusted(OSError):
    """A file or folder into which somebody else could have put code.

    Args:
        reason: what is wrong.
        remedy: what mends it.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


def _demand_trust(path: Path, status: os.stat_result) -> None:
    if not hasattr(os, "geteuid"):  # Windows has other rights, and no such engines
        return
    if status.st_uid not in (_ROOT, os.geteuid()):
        raise _Distrusted(
            f"{path} belongs to user {status.st_uid}, and an engine is code",
            f"'sudo chown -R {os.geteuid()} {shlex.quote(str(path))}' gives it to this user",
        )
    if status.st_mode & 0o022:
        raise _Distrusted(
            f"others may write to {path}, and an engine is code",
            f"'chmod go-w {shlex.quote(str(path))}' says that they may not",
        )


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between two keys: 'TensorRT 10.3.0 -> 10.7.0, graph'."""
    changes = []
    for name, title in _NAMES.items():
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changes.append(f"{title}: {_changes_within(before, after)}")
        elif name in ("model", "calibration"):  # digests, of which nobody reads the digits
            changes.append(f"another {title}")
        else:
            changes.append(f"{title} {before} -> {after}")
    return ", ".join(changes)


def _changes_within(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    names = sorted({*old, *new})
    return ", ".join(
        f"{name} {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)
    )


def _failure_name(key: EngineKey) -> str:
    return f"{key.name}.failed.txt"


def _timing_name(key: EngineKey) -> str:
    return f"timing-{_safe(key.device)}-{_safe(key.tensorrt)}.cache"


def _safe(text: str) -> str:
    """A text as a part of a file's name, whatever a manifest or a driver says."""
    return re.sub("[^A-Za-z0-9-]+", "_", text)[:40]


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def _sync_folder(path: Path) -> None:
    """Make a rename outlive a loss of power, where the system can do that for a folder."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
