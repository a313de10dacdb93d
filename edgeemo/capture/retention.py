"""When a recorded session is over, and how it is deleted without touching anything else."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from edgeemo.capture.recording import (
    ABOUT,
    FRAMES,
    PICTURE_NAME,
    PICTURES,
    SOUND,
    WAVE,
    About,
    seen_as_session,
)
from edgeemo.errors import InputError, SourceError

_log = logging.getLogger("edgeemo")

ABOUT_NEW = f".{ABOUT}.new"
"""What `session.json` is called until all of it is written."""

# The last one tells that the folder is a session, so that a deletion that was interrupted can be repeated.
_FILES = (FRAMES, SOUND, WAVE, ABOUT_NEW, ABOUT)


def sessions(path: str | Path) -> list[Path]:
    """The session at `path`, or the sessions directly in it, in the order of their names; links are none.

    Raises:
        InputError: there are none.
    """
    folder = Path(path)
    found = [folder] if seen_as_session(folder) else _inside(folder)
    if not found:
        raise InputError(
            f"{path}: no recorded session, nor a folder that holds any; give the folder that "
            "'edgeemo run --record' named (not a link to it)"
        )
    return found


def forget(session: Path) -> list[Path]:
    """Delete a session: its pictures, its sound, its tables and its folder.

    Only files that a session consists of are deleted, by their names and only where they are files: a link is
    neither followed nor deleted. Whatever else lies there stays, with a warning, and so does the folder then.

    Returns:
        What stayed.

    Raises:
        InputError: it is not a session.
        SourceError: a file cannot be deleted.
    """
    if not seen_as_session(session):
        raise InputError(f"{session}: not a recorded session (a link is none either); nothing was deleted")
    try:
        stayed = _forget_pictures(session / PICTURES)
        for name in _FILES[:-1]:
            _delete_file(session / name)
        stayed += [entry for entry in sorted(session.iterdir()) if entry.name not in (ABOUT, PICTURES)]
        _delete_file(session / ABOUT)
        if not stayed:
            session.rmdir()
    except OSError as error:
        raise SourceError(f"{session}: cannot be deleted ({error})") from error
    if stayed:
        _log.warning(
            "%s: the session is deleted; left because they are not of it: %s",
            session,
            ", ".join(str(path.relative_to(session)) for path in stayed),
        )
    return stayed


def forget_expired(folder: str | Path) -> list[Path]:
    """Delete the sessions directly in a folder whose time is over; returns them.

    One that cannot be deleted is a warning.
    """
    gone = []
    for session in _inside(Path(folder)):
        try:
            if About.read(session).expired():
                forget(session)
                gone.append(session)
        except (InputError, SourceError) as error:
            _log.warning("%s", error)
    return gone


def _inside(folder: Path) -> list[Path]:
    try:
        return [entry for entry in sorted(folder.iterdir()) if seen_as_session(entry)]
    except (OSError, ValueError):
        return []


def _forget_pictures(folder: Path) -> list[Path]:
    try:
        kind = folder.lstat().st_mode
    except FileNotFoundError:
        return []
    if not stat.S_ISDIR(kind):
        return [folder]
    for name in os.listdir(folder):
        if PICTURE_NAME.fullmatch(name):
            _delete_file(folder / name)
    stayed = sorted(folder.iterdir())
    if not stayed:
        folder.rmdir()
    return stayed


def _delete_file(path: Path) -> None:
    try:
        if stat.S_ISREG(path.lstat().st_mode):
            path.unlink()
    except FileNotFoundError:
        pass
