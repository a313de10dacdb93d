"""How much resident memory one contender takes: `python -m tests.peers.resident NAME CLIP CACHE THREADS`.

Run in a process of its own, in which the libraries and a short clip are there before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from edgeemo.bench.memory import resident
from edgeemo.errors import CheckFailed
from edgeemo.inference.ort import import_onnxruntime

from .contenders import contender, scene

_UPDATES = 5
_ENOUGH = 2.0  # seconds of the clip


def growth(name: str, clip: Path, cache: Path, threads: int) -> float | None:
    """MB (1e6 bytes) by which a child process grows when it opens a contender and makes some updates.

    Args:
        name: of the contender.
        clip: the source.
        cache: where `build` wrote the peers.
        threads: of one graph call.

    Returns:
        None where the system does not tell.

    Raises:
        CheckFailed: the child failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name, name, str(clip), str(cache), str(threads)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CheckFailed(f"{name}: its memory could not be measured: {done.stderr.strip()[-500:]}")
    told: float | None = json.loads(done.stdout.splitlines()[-1])
    return told


def _grown(name: str, clip: Path, cache: Path, threads: int) -> float | None:
    import_onnxruntime()
    given = scene(clip, _ENOUGH)  # OpenCV is loaded with it
    before = resident()
    opened = contender(name, given, cache, threads)
    for _ in range(_UPDATES):
        opened.run(opened.prepare())
    after = resident()
    return None if before is None or after is None else after - before


if __name__ == "__main__":
    print(json.dumps(_grown(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))))
