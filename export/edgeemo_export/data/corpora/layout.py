"""Whether a folder is what a reader expects, and which one near it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from edgeemo.errors import InputError

LOOKED_AT = 500  # folders below a wrong one; more would take long on a network drive
NAMED = 6


def require(folder: Path, fits: Callable[[Path], bool], expected: str) -> None:
    """Check that a folder is that of a corpus.

    Args:
        folder: as the user gave it.
        fits: whether a folder is one.
        expected: what a right one holds, for the message.

    Raises:
        InputError: it is not; the message says what is there and which folder near it would do.
    """
    if not folder.is_dir():
        what = "it is a file" if folder.exists() else "there is no such folder"
        raise InputError(f"{folder}: {what}; give a folder that holds {expected}")
    if fits(folder):
        return
    here = folder.absolute()
    near: list[Path] = []
    for place in (*_below(folder), *islice(here.parents, 2)):
        if fits(place) and place.parent not in near:
            near.append(place)
    hint = f"; give {' or '.join(str(place) for place in near[:3])}" if near else ""
    raise InputError(f"{folder}: it must hold {expected}; it holds {_contents(folder)}{hint}")


def _below(folder: Path) -> Iterator[Path]:
    """Folders in it and in those, nearest first."""
    children = list(islice(_folders(folder), LOOKED_AT))
    yield from children
    yield from islice((inner for child in children for inner in _folders(child)), LOOKED_AT)


def _folders(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != ".")


def _contents(folder: Path) -> str:
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more if names else "nothing"


def first_folder(places: Iterable[Path]) -> Path | None:
    """The first of these that is a folder."""
    return next((place for place in places if place.is_dir()), None)


def first_file(places: Iterable[Path]) -> Path | None:
    """The first of these that is a file."""
    return next((place for place in places if place.is_file()), None)


def files(folder: Path, patterns: Iterable[str], suffixes: Iterable[str]) -> list[Path]:
    """Files with these endings, in small letters, in any folder that a pattern names ('' is the folder).

    Hidden files are no data: macOS writes ``._name`` beside each name.
    """
    wanted, found = frozenset(suffixes), set()
    for pattern in patterns:
        for place in folder.glob(pattern) if pattern else (folder,):
            if place.is_dir():
                found |= {path for path in place.iterdir() if path.suffix.lower() in wanted}
    return sorted(path for path in found if path.name[0] != "." and path.is_file())
