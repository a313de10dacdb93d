"""A calibration set: the encoder inputs that ranges are measured on, as a folder of two files.

``set.json`` says where they come from and ``items.npz`` holds them: ``face`` uint8 [n, H, W, C] and ``voice``
float32 [n, context]. They show and sound like the people who were recorded, so both files are private.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeemo.capture.recording import DATE
from edgeemo.errors import InputError, shown
from edgeemo.inference.bundle import Bundle

SCHEMA = 1
ABOUT, ITEMS = "set.json", "items.npz"
PRIVATE = (
    "items.npz holds pictures and sound of people. Keep it where only those can read it whom these people "
    "have allowed to, and delete it with the recordings that it came from."
)
_BATCH = 16
_MOST_ABOUT = 1 << 26  # bytes of set.json
_FORMS: Mapping[str, tuple[np.dtype[Any], int]] = {
    "face": (np.dtype(np.uint8), 4),
    "voice": (np.dtype(np.float32), 2),
}


@dataclass(frozen=True)
class CalibrationSet:
    """Inputs of a bundle's encoders.

    Args:
        arrays: ``face`` uint8 [n, H, W, C] and/or ``voice`` float32 [n, context], n at least 1.
        about: what JSON can hold: where they come from and how they were chosen.

    Raises:
        InputError: there is no array, or one is not as above or not finite.

    Example:
        >>> whole = CalibrationSet({"voice": np.zeros((3, 8), np.float32)}, {"seed": 0})
        >>> [feed["voice"].shape for feed in whole.feeds("voice")]
        [(1, 8), (1, 8), (1, 8)]
    """

    arrays: Mapping[str, NDArray[Any]]
    about: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not self.arrays:
            raise InputError(f"a calibration set is empty; it must hold {' or '.join(_FORMS)}")
        for name, array in self.arrays.items():
            if name not in _FORMS:
                raise InputError(f"a calibration set holds {name!r}; it must hold {' or '.join(_FORMS)}")
            dtype, axes = _FORMS[name]
            if array.dtype != dtype or array.ndim != axes or not array.size:
                raise InputError(
                    f"{name} of a calibration set is {array.dtype} {list(array.shape)}; it must be {dtype} "
                    f"with {axes} axes, none of them 0"
                )
            if not np.isfinite(array).all():
                raise InputError(f"{name} of a calibration set holds values that are not finite")

    @property
    def sha256(self) -> str:
        """The digest of the arrays in the order of their names, in hexadecimal digits."""
        digest = hashlib.sha256()
        for name in sorted(self.arrays):
            array = self.arrays[name]
            digest.update(f"{name} {array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def feeds(self, name: str) -> Iterator[dict[str, NDArray[Any]]]:
        """What the encoder of a modality is given, run by run: up to 16 faces, or one voice.

        Raises:
            InputError: the set has nothing of this modality.
        """
        if name not in self.arrays:
            raise InputError(f"the calibration set has no {name}; it has {' and '.join(self.arrays)}")
        array, rows = self.arrays[name], _BATCH if name == "face" else 1
        for start in range(0, len(array), rows):
            yield {name: array[start : start + rows]}

    def check(self, bundle: Bundle) -> None:
        """Hold the shapes to what a bundle reads.

        Raises:
            InputError: the message names both shapes.
        """
        entries = {"face": bundle.face, "voice": bundle.voice}
        for name, array in self.arrays.items():
            entry = entries[name]
            if entry is None:
                raise InputError(f"the calibration set has {name}, which {bundle.name} does not read")
            if array.shape[1:] != entry.tensor.shape[1:]:
                raise InputError(
                    f"{name} of the calibration set is {list(array.shape[1:])} each; "
                    f"{bundle.name} reads {list(entry.tensor.shape[1:])}"
                )

    def refuse_expired(self, now: datetime) -> None:
        """Hold the set to how long the sessions that it comes from may be kept.

        Raises:
            InputError: one of them has expired, or ``about`` does not say when in a way that can be read.
        """
        expires = self.about.get("expires_first")
        if expires is None:
            return
        try:
            last = datetime.strptime(expires, DATE).replace(tzinfo=timezone.utc)
        except (TypeError, ValueError):
            raise InputError(
                f"the calibration set says expires_first {shown(expires)}; it must be like {now:{DATE}}"
            ) from None
        if last <= now:
            raise InputError(
                f"the calibration set holds recordings that were to be deleted by {expires}: delete it, and "
                "select from sessions that have not expired"
            )

    def write(self, folder: str | Path) -> None:
        """Write both files, readable for their owner alone; ``set.json``, which makes it a set, comes last.

        Args:
            folder: a new or an empty one.

        Raises:
            InputError: the folder holds something, or what ``about`` says is not JSON.
            OSError: it cannot be written; nothing is left behind in the folder then.
        """
        path = Path(folder)
        check_new(path)
        try:
            text = json.dumps(self._entries(), indent=1, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"what is said about the calibration set is not JSON: {error}") from error
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with open(path / ITEMS, "xb", opener=_private) as file:
                rows = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
                np.savez(file, **rows)  # type: ignore[arg-type]
            with open(path / ABOUT, "x", encoding="utf-8", opener=_private) as file:
                file.write(text + "\n")
        except BaseException as error:
            if isinstance(error, OSError) and error.errno and error.filename is None:
                error.filename = str(path)  # a full disk does not say where
            (path / ABOUT).unlink(missing_ok=True)
            (path / ITEMS).unlink(missing_ok=True)
            raise

    def _entries(self) -> dict[str, Any]:
        arrays = {
            name: {"dtype": str(array.dtype), "shape": list(array.shape)}
            for name, array in sorted(self.arrays.items())
        }
        return {
            "schema": SCHEMA,
            "private": PRIVATE,
            **self.about,
            "arrays": arrays,
            "sha256": self.sha256,
        }

    @classmethod
    def read(cls, folder: str | Path) -> CalibrationSet:
        """Read a set, and find it whole: the arrays are those that ``set.json`` describes.

        Nothing is unpickled, nothing outside the folder is opened, and no more memory is taken than the file
        has bytes.

        Raises:
            InputError: it is no such set; the message names the file and what is wrong.
        """
        path = Path(folder)
        about = _read_about(path)
        described = about.get("arrays")
        if not isinstance(described, dict):
            raise InputError(f"{path / ABOUT}: 'arrays' must be an object with an entry for each array")
        arrays = _read_items(_inside(path, ITEMS), described)
        try:
            whole = cls(arrays, about)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        if about.get("sha256") != whole.sha256:
            raise InputError(
                f"{path / ITEMS}: its arrays have the sha256 {whole.sha256}, {ABOUT} says "
                f"{about.get('sha256')}; select anew"
            )
        return whole


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Make a folder for results where there is none, before hours of work; it goes again if it stays empty.

    Raises:
        InputError: a file is there.
        OSError: it cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: it is a file; name a folder")
    there = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if not there:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()
        raise


def check_new(folder: Path) -> None:
    """Refuse a folder that a set cannot be written to, before hours of work.

    Raises:
        InputError: it is a file, or holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: it is there already; name a new folder, or an empty one")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _inside(folder: Path, name: str) -> Path:
    """A regular file of the folder; a link that leaves it is not followed."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; a calibration set is a folder with {ABOUT} and {ITEMS}")
    path = folder / name
    if not path.is_file():
        raise InputError(f"{folder}: it has no {name}; a calibration set is what 'select' wrote")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path}: it is a link that leaves the folder; the file itself must be there")
    return path


def _read_about(folder: Path) -> dict[str, Any]:
    path = _inside(folder, ABOUT)
    try:
        if path.stat().st_size > _MOST_ABOUT:
            raise InputError(f"{path}: it is larger than {_MOST_ABOUT >> 20} MiB, which no set needs")
        about = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not a JSON file: {error}") from error
    if not isinstance(about, dict) or about.get("schema") != SCHEMA or about["schema"] is True:
        raise InputError(f'{path}: is not of a calibration set: it must be an object with "schema": {SCHEMA}')
    return about


def _read_items(path: Path, described: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays of the file, of which each must be as it is described before it is read."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            found = sorted(info.filename for info in archive.infolist())
            if found != sorted(f"{name}.npy" for name in described):
                held, said = (", ".join(map(ascii, names)) for names in (found, described))
                raise InputError(f"{path}: it holds {held}; {ABOUT} says {said}")
            for info in archive.infolist():
                _check_member(path, archive, info, described[info.filename.removesuffix(".npy")])
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                return {name: stored[name] for name in described}
    except (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: is not a file of arrays as NumPy writes it: {error}") from error


def _check_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, entry: Any) -> None:
    """Hold one array's header, and how many bytes it has, to what is said about it."""
    name = info.filename
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > path.stat().st_size:
        raise InputError(f"{path}: {name} is compressed; a calibration set is stored as it is")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise InputError(f"{path}: {name} has version {version} of the format; it must be (1, 0)")
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
        size = info.file_size - file.tell()
    right = isinstance(entry, dict) and entry == {"dtype": str(dtype), "shape": list(shape)}
    if by_columns:
        raise InputError(f"{path}: {name} is in the order of columns; a calibration set is in that of rows")
    if not right:
        raise InputError(f"{path}: {name} is {dtype} {list(shape)}; {ABOUT} says {entry}")
    if dtype.hasobject or size != dtype.itemsize * int(np.prod(shape, dtype=object)):
        raise InputError(f"{path}: {name} has {size} bytes, which is not {dtype} {list(shape)}")
