"""The verb `bench`: its options, and what it writes where."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeemo.errors import InputError

if TYPE_CHECKING:
    from edgeemo.bench.against import Comparison
    from edgeemo.bench.report import Report
    from edgeemo.console import Console


def add_options(
    parser: argparse.ArgumentParser, threads: Callable[[str], int], seconds: Callable[[str], float]
) -> None:
    """Add what `bench` takes beside a model and a source.

    Args:
        parser: of the verb.
        threads: reads a number of threads.
        seconds: reads a number of seconds.
    """
    parser.add_argument(
        "--threads", type=threads, metavar="N", default=1, help="of one graph call (default: 1)"
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="play the source as a camera and a microphone give it: latency from capture, result age, drops",
    )
    parser.add_argument(
        "--scan",
        action="append",
        choices=("faces", "precision", "threads", "backend"),
        default=[],
        metavar="AXIS",
        help="also time updates along an axis: faces, precision, threads or backend; may be given repeatedly",
    )
    parser.add_argument(
        "--like",
        choices=("edgeemo", "trtexec 10", "trtexec 11"),
        default="edgeemo",
        help="whose manner of timing a GPU (default: edgeemo, which has transfers and a CUDA graph in it)",
    )
    parser.add_argument(
        "--steps-only", action="store_true", help="leave start-up, memory and the floor out, which take 10 s"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with plots")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FILE",
        help="compare with an older report (of --json); status 1 when something became worse",
    )
    parser.add_argument(
        "--age",
        type=seconds,
        metavar="S",
        help="measure instead whether a step costs the same when a stream is so old, such as 36000; status 1 "
        "when it costs more",
    )
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="measure nothing: the roofline of the graphs on a device, such as orin-nano-8gb",
    )
    parser.add_argument(
        "--table", type=Path, metavar="DIR", help="measure nothing: the table of a folder of reports"
    )


def run(arguments: argparse.Namespace, console: Console, command: str) -> int:
    """Measure, or write what needs no measurement.

    Args:
        arguments: what `add_options` and the verb's others gave.
        console: takes the result.
        command: the words that were typed, for the page.

    Raises:
        EdgeEmoError: as `edgeemo.bench.report.bench`; CheckFailed where something became worse.
    """
    _refuse_idle(arguments)
    if arguments.table is not None:
        from edgeemo.bench.devices import table

        rows = table(arguments.table)
        _write(rows, {"table": rows}, arguments, console)
    elif arguments.device is not None:
        _roofline(arguments, console)
    elif arguments.age is not None:
        _endure(arguments, console)
    else:
        _measure(arguments, console, command)
    return 0


def _refuse_idle(arguments: argparse.Namespace) -> None:
    """Refuse options that would do nothing."""
    modes = [name for name in ("age", "device", "table") if getattr(arguments, name) is not None]
    given = {
        "--html": arguments.html is not None,
        "--against": arguments.against is not None,
        "--scan": bool(arguments.scan),
        "--live": arguments.live,
        "--like": arguments.like != "edgeemo",
        "--steps-only": arguments.steps_only,
    }
    if modes:
        idle = [f"--{name}" for name in modes[1:]] + [name for name, there in given.items() if there]
        if idle:
            raise InputError(f"--{modes[0]}: {', '.join(idle)} would do nothing beside it; leave it out")


def _demand_like(older: Mapping[str, Any], arguments: argparse.Namespace) -> None:
    """Refuse an older report of another kind of run before minutes are spent."""
    wanted = {
        "scenario": "live" if arguments.live else "single-stream",
        "precision": arguments.precision,
        "backend": arguments.backend,
        "threads": arguments.threads,
    }
    other = [f"{name} {older[name]}, not {now}" for name, now in wanted.items() if older.get(name) != now]
    if other:
        raise InputError(
            f"--against {arguments.against}: it was measured with {'; '.join(other)}; measure in the same way"
        )


def _demand_writable(page: Path) -> None:
    there = page.exists()
    try:
        page.open("a", encoding="utf-8").close()
        if not there:  # nothing is left behind when the measurement fails
            page.unlink()
    except OSError as error:
        raise InputError(
            f"--html {page}: cannot be written: {error.strerror}; name a file in a folder"
        ) from error


def _measure(arguments: argparse.Namespace, console: Console, command: str) -> None:
    from edgeemo.bench.against import read_report
    from edgeemo.bench.page import write_page
    from edgeemo.bench.report import Options, bench

    older = None if arguments.against is None else read_report(arguments.against)
    if older is not None:
        _demand_like(older, arguments)
    if arguments.html is not None:
        _demand_writable(arguments.html)
    report = bench(
        arguments.bundle,
        arguments.source,
        Options(
            seconds=arguments.seconds,
            backend=arguments.backend,
            precision=arguments.precision,
            threads=arguments.threads,
            detector=arguments.detector,
            live=arguments.live,
            scan=tuple(dict.fromkeys(arguments.scan)),
            gpu_like=arguments.like,
            steps_only=arguments.steps_only,
        ),
        progress=lambda what, seconds: console.status(f"{what}: {seconds:.1f} s"),
    )
    compared = None if older is None else _compared(older, report)
    value = report.to_dict()
    text = str(report)
    if compared is not None:
        value["against"] = compared.to_dict()
        text += f"\n\n{compared}"
    _write(text, value, arguments, console)
    if arguments.html is not None:
        write_page(report.to_dict(), report.samples, arguments.html, command)
    if compared is not None:
        compared.check()


def _compared(older: dict[str, Any], report: Report) -> Comparison:
    from edgeemo.bench.against import against

    return against(older, report.to_dict())


def _endure(arguments: argparse.Namespace, console: Console) -> None:
    from edgeemo.bench.endurance import endure
    from edgeemo.recognition.recognizer import load

    with load(
        arguments.bundle,
        backend=arguments.backend,
        precision=arguments.precision,
        threads=arguments.threads,
        detector=arguments.detector,
    ) as model:
        found = endure(
            model,
            arguments.source,
            arguments.age,
            progress=lambda age: console.status(f"{age:.0f} of {arguments.age:.0f} s of the stream"),
        )
    _write(str(found), found.to_dict(), arguments, console)
    found.check()


def _roofline(arguments: argparse.Namespace, console: Console) -> None:
    from edgeemo.bench.roofline import roofline
    from edgeemo.bench.work import works
    from edgeemo.inference.bundle import Bundle
    from edgeemo.recognition.recognizer import DEFAULT_BUNDLE

    bundle = Bundle.read(DEFAULT_BUNDLE if arguments.bundle is None else arguments.bundle)
    found = roofline(works(bundle, arguments.precision), arguments.device)
    _write(str(found), found.to_dict(), arguments, console)


def _write(text: str, value: Any, arguments: argparse.Namespace, console: Console) -> None:
    if arguments.json:
        console.json(value)
    else:
        console.result(text)
