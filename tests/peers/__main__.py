"""`python -m tests.peers`: measure all contenders in one run, print the tables, and write the page."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import edgeemo
from edgeemo import cache
from edgeemo.bench import conditions
from edgeemo.bench.device import machine
from edgeemo.errors import CheckFailed, EdgeEmoError

from . import build, measure, page, resident
from .contenders import ALL, DETECTION, contender, scene

_ROOT = Path(__file__).parents[2]
_CLIP = _ROOT / "edgeemo" / "demo" / "clip.mp4"
_GROWTH_SHARE = 10  # rounds for one of the growth, which has longer windows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 when done, 1 when a contender failed, 2 at wrong input."""
    given = _parser().parse_args(arguments)
    try:
        text = page.tables(_run(given))
        if given.page is not None:
            page.write(given.page, text)
    except EdgeEmoError as error:
        print(f"python -m tests.peers: {error}", file=sys.stderr)
        return 1 if isinstance(error, CheckFailed) else 2
    print(text)
    return 0


def _run(given: argparse.Namespace) -> page.Results:
    _build(given.cache)
    clip = scene(given.source)
    opened = [contender(name, clip, given.cache, given.threads, given.bundle) for name in ALL]
    before = conditions.snapshot()
    _say(f"{given.rounds} rounds of {len(opened)} contenders")
    times = measure.take_turns(opened, given.rounds)
    after = conditions.snapshot()
    del opened
    _say("growth with the rate and the window")
    rounds = max(1, given.rounds // _GROWTH_SHARE)
    growth = measure.grow(clip, given.cache, rounds, threads=given.threads, bundle=given.bundle)
    _say("memory, a process each")
    # The detector is there already with the clip.
    networks = [name for name in ALL if name != DETECTION]
    memory = {name: resident.growth(name, given.source, given.cache, given.threads) for name in networks}
    return page.Results(
        command=f"python -m tests.peers --threads {given.threads} --rounds {given.rounds}",
        source=given.source.name,
        times=times,
        facts=measure.all_facts(given.cache, given.bundle),
        memory=memory,
        growth=growth,
        speech_work=measure.speech_work(given.cache),
        machine={**machine(), "threads": given.threads},
        versions=_versions(),
        warnings=conditions.changed(before, after),
    )


def _build(folder: Path) -> None:
    """In a process of its own, so that torch is not in the one that measures."""
    _say(f"networks of others in {folder}, built where they are missing")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, "-m", build.__name__, str(folder)]
    if subprocess.run(words, cwd=_ROOT, env=environment, check=False).returncode:
        raise CheckFailed(
            "the networks of others could not be built; with pip install 'edgeemo[pretrained]' they can"
        )


def _versions() -> dict[str, str]:
    names = ("onnxruntime", "numpy", "opencv-python-headless")
    libraries = {name: importlib.metadata.version(name) for name in names}
    return {"edgeemo": edgeemo.__version__, "python": platform.python_version(), **libraries}


def _say(text: str) -> None:
    print(f"peers: {text}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.peers", description=__doc__)
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of a graph call")
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="each with two updates of each")
    parser.add_argument("--source", type=Path, default=_CLIP, metavar="CLIP", help="with a face and a voice")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="edgeemo's; the package's own by default")
    parser.add_argument(
        "--cache", type=Path, default=cache.folder("peers"), metavar="DIR", help="of the networks"
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="page to put the tables into")
    return parser


if __name__ == "__main__":
    sys.exit(main())
