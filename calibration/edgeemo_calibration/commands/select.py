"""``edgeemo-calibrate select``: which few inputs stand for hours of recordings."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeemo.console import Console
from edgeemo.inference.bundle import Bundle
from edgeemo.recognition.recognizer import DEFAULT_BUNDLE

from ..representative import COUNT, select
from ..sets import CalibrationSet, check_new

_UNITS = {"light": "mean grey level from", "contrast": "deviation of grey from", "loudness": "dBFS from"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="SOURCE",
        help="a recorded session, a manifest (CSV; its rows of the split 'test' are held out), a media file, "
        "or a folder of sessions and media files",
    )
    parser.add_argument(
        "--bundle", type=Path, default=DEFAULT_BUNDLE, metavar="DIR", help="default: the one in the package"
    )
    parser.add_argument(
        "--count", type=int, default=COUNT, metavar="N", help=f"inputs for each encoder (default: {COUNT})"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="SET", help="the new folder of the set")
    parser.add_argument(
        "--not",
        dest="exclude",
        nargs="+",
        action="extend",
        default=[],
        type=Path,
        metavar="TEST",
        help="test material, named like a SOURCE: nothing of it, and nobody in it, may be in the set",
    )
    parser.add_argument(
        "--face-is-cropped", action="store_true", help="the pictures are face crops in the manner of FER+"
    )
    parser.add_argument(
        "--detector", metavar="FILE", help="a YuNet face detector (default: see 'edgeemo doctor')"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples (default: 0)")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Choose, write the set, and say what it covers.

    Raises:
        EdgeEmoError: as `select` and `CalibrationSet.write` do.
        OSError: the set cannot be written.
    """
    check_new(arguments.out)
    scratch = arguments.out.resolve().parent
    scratch.mkdir(parents=True, exist_ok=True)
    chosen = select(
        arguments.sources,
        Bundle.read(arguments.bundle),
        count=arguments.count,
        exclude=arguments.exclude,
        face_is_cropped=arguments.face_is_cropped,
        detector=arguments.detector,
        seed=arguments.seed,
        # Not the system's folder for temporary files, which often is in memory.
        scratch=scratch,
        progress=console.status,
    )
    chosen.write(arguments.out)
    if arguments.json:
        console.json({"set": str(arguments.out), **summary(chosen)})
    else:
        for line in lines(chosen):
            console.result(line)
        console.result(f"written to {arguments.out}, readable for its owner alone")
    return 0


def summary(chosen: CalibrationSet) -> dict[str, Any]:
    """What is said about a set, without a line for each of its inputs."""
    about = dict(chosen.about)
    about["chosen"] = {
        name: {key: value for key, value in entry.items() if key != "items"}
        for name, entry in about["chosen"].items()
    }
    return {**about, "sha256": chosen.sha256}


def lines(chosen: CalibrationSet) -> Iterator[str]:
    """The same as text."""
    about = chosen.about
    yield f"bundle: {about['bundle']['name']} {about['bundle']['version']}, seed {about['seed']}"
    for source in about["sources"]:
        yield _source(source)
    held = about["test"]
    if held["recordings"]:
        yield f"held out: {held['recordings']} recordings of test material, {held['speakers']} speakers"
    for name, entry in about["chosen"].items():
        yield ""
        yield (
            f"{name}: {entry['count']} of {entry['candidates']} ({entry['compared']} compared), "
            f"{entry['strata']['chosen']} of {entry['strata']['seen']} strata"
        )
        yield (
            f"  largest distance of a token to the nearest chosen one: {entry['radius']['chosen']:.3f} "
            f"(random choice: {entry['radius']['random']:.3f})"
        )
        for attribute, counts in entry["coverage"].items():
            unit = f" ({_UNITS[attribute]})" if attribute in _UNITS else ""
            yield f"  {attribute}{unit}: {_counts(counts)}"
    yield ""
    if "expires_first" in about:
        yield (
            f"its sessions expire from {about['expires_first']} to {about['expires_last']}: delete the set "
            "by the first"
        )
    yield f"sha256 {chosen.sha256}"


def _source(source: Mapping[str, Any]) -> str:
    taken = ", ".join(f"{number} {name}" for name, number in source["candidates"].items()) or "nothing"
    left = {
        "unreadable": "files are not media",
        "silent_hops": "hops are silent",
        "pictures_without_face": "pictures have no face",
        "unusable_events": "events could not be used",
    }
    out = [f"{source[key]} {what}" for key, what in left.items() if source[key]]
    text = f"{source['name']}: {source['recordings']} recordings, candidates: {taken}"
    return f"{text}; {', '.join(out)}" if out else text


def _counts(counts: Mapping[str, list[int]]) -> str:
    return ", ".join(f"{value or '-'} {chosen}/{seen}" for value, (seen, chosen) in counts.items())
