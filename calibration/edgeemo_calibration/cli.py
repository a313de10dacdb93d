"""``edgeemo-calibrate``: from recordings to a bundle whose INT8 has been proven."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from edgeemo.console import Console, OutputError, forget_output, unwound_by_sigterm
from edgeemo.errors import CheckFailed, EdgeEmoError

from .commands import encode, prove, ranges, select

VERBS = {
    "select": (select, "choose a small calibration set that stands for hours of recordings"),
    "ranges": (ranges, "measure the ranges of a bundle's tensors on a calibration set"),
    "encode": (encode, "write a bundle's INT8 graphs from measured ranges"),
    "prove": (prove, "compare INT8 with FP32 on labelled recordings and write a page with the verdict"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status.

    0 is done, 1 a check that failed, 2 wrong usage or input, 130 interrupted from the keyboard, 143 ended by
    SIGTERM.

    Args:
        argv: the words after the program's name; by default those of this process.

    Raises:
        SystemExit: the words are not a command (status 2), or ask for help (0), or SIGTERM came (143).
    """
    console = Console(sys.stdout, sys.stderr, "edgeemo-calibrate")
    # What OpenCV warns of on the way to an error is in the error's words; it reads this when it is imported.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    with console.showing_log(), unwound_by_sigterm():
        try:
            arguments = _parser().parse_args(argv)
            status: int = arguments.run(arguments, console)
            return status
        except EdgeEmoError as error:
            console.message(str(error))
            return 1 if isinstance(error, CheckFailed) else 2
        except BrokenPipeError:
            # Not 0: what was not read may be the verdict of a gate.
            forget_output()
            console.message("standard output cannot be written: its reader has gone")
            return 2
        except OutputError as error:
            forget_output()
            console.message(str(error))
            return 2
        except OSError as error:
            console.message(_said(error))
            return 2
        except KeyboardInterrupt:
            console.message("interrupted")
            return 130


def _said(error: OSError) -> str:
    """The file, and what is wrong; of a copy both files, for either may be at fault."""
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    said = error.strerror or str(error)
    return f"{' to '.join(names)}: {said}" if names else said


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeemo-calibrate", description="Turn recordings into INT8 graphs that are proven."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, (module, what) in VERBS.items():
        verb = verbs.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        verb.set_defaults(run=module.run)
        verb.add_argument("--json", action="store_true", help="write JSON to standard output, nothing else")
        module.add_options(verb)
    return parser
