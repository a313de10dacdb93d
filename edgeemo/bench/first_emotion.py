"""From `import edgeemo` to the first emotion of a source, under a clock.

`edgeemo.bench.startup` runs the text of this module in new processes: run as a module it would have imported
edgeemo before its first line.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

_STEADY = 100  # hops after which memory is looked at again, or as many as there are


def main(paths: str, *arguments: str) -> None:
    """Print one line of JSON: what `timed` says, or the 'error' that ended it, with its class.

    Args:
        paths: where modules are found, with the system's separator between them.
        arguments: as of `timed`.
    """
    sys.path[:] = paths.split(os.pathsep)
    told: dict[str, Any]
    try:
        told = timed(*arguments)
    except Exception as error:
        from edgeemo import EdgeEmoError

        if not isinstance(error, EdgeEmoError):
            raise
        public = next(kind for kind in type(error).__mro__ if kind.__module__ == EdgeEmoError.__module__)
        told = {"error": [public.__name__, str(error)]}
    import json

    print(f"\n{json.dumps(told)}")


def timed(
    source: str, bundle: str, backend: str, precision: str, threads: str, detector: str
) -> dict[str, Any]:
    """Seconds of each phase, of the processor too, MB after it, and how many modules had to be compiled.

    Args:
        source: as for `edgeemo.watch`.
        bundle: as for `edgeemo.load`, empty for None.
        backend: likewise.
        precision: likewise.
        threads: likewise.
        detector: likewise, empty for None.
    """
    worked = time.process_time()
    begin = time.perf_counter()
    from edgeemo import load, watch

    imported = time.perf_counter()
    from edgeemo.bench.memory import peak, resident  # it imports nothing that is not there already

    memory = {"import": resident()}
    resumed = time.perf_counter()
    model = load(
        bundle or None,
        backend=backend,
        precision=precision,
        threads=int(threads),
        detector=detector or None,
    )
    loaded = time.perf_counter()
    memory["loaded"] = resident()
    watched = time.perf_counter()
    emotions = watch(source, model=model)
    emotion = next(emotions, None)
    first = time.perf_counter()
    worked = time.process_time() - worked
    if emotion is None:
        from edgeemo.errors import InputError

        raise InputError(f"{source}: there is no hop in it to answer; give a longer recording")
    memory["first"] = resident()
    for _ in zip(range(_STEADY), emotions):  # noqa: B905  # whichever ends first
        pass
    memory |= {"steady": resident(), "peak": peak()}
    modules = [module.__spec__ for name, module in sys.modules.items() if name.split(".")[0] == "edgeemo"]
    kept = [spec.cached for spec in modules if spec is not None and spec.cached]
    return {
        "seconds": {"import": imported - begin, "load": loaded - resumed, "first": first - watched},
        "processor": worked,
        "memory": memory,
        "compiled": sum(not os.path.exists(path) for path in kept),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
