"""``edgeemo-calibrate prove``: INT8 against FP32 on labelled recordings, with a page and a verdict."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeemo.console import Console
from edgeemo.errors import InputError
from edgeemo.recognition.recognizer import DEFAULT_BUNDLE


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what `run` reads."""
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", default=DEFAULT_BUNDLE, help="default: the one in the package"
    )
    add_sets(parser, "--data", "labelled sets, as edgeemo evaluate reads them")
    add_sets(parser, "--cropped", "labelled sets whose pictures already are face crops")
    parser.add_argument(
        "--ranges",
        type=Path,
        nargs="+",
        metavar="TABLE.json",
        default=[],
        help="tables that the INT8 graphs were encoded from: the page then names their worst layers",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", required=True, help="takes proof.html and proof.json"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstraps")
    parser.add_argument(
        "--write",
        action="store_true",
        help="enter the verdict into the bundle's manifest, with the sha256 of proof.json",
    )


def add_sets(parser: argparse.ArgumentParser, option: str, what: str) -> None:
    """Declare an option that takes manifests."""
    parser.add_argument(option, type=Path, nargs="+", metavar="MANIFEST.csv", default=[], help=what)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Prove, write the page, and return 1 where INT8 does not pass.

    Raises:
        EdgeEmoError: as `edgeemo_calibration.prove.prove`.
    """
    from edgeemo_calibration import page, prove
    from edgeemo_calibration.sets import new_folder
    from edgeemo_calibration.table import Table

    sets = [prove.Dataset(path) for path in arguments.data]
    sets += [prove.Dataset(path, cropped=True) for path in arguments.cropped]
    if not sets:
        raise InputError(
            "no set to prove on; give --data MANIFEST.csv, or --cropped MANIFEST.csv of face crops"
        )
    if arguments.seed < 0:
        raise InputError(f"--seed is {arguments.seed}; it must be 0 or more")
    with new_folder(arguments.out):
        proof = prove.prove(
            arguments.bundle,
            sets,
            tables=[Table.read(path) for path in arguments.ranges],
            seed=arguments.seed,
            progress=console.status,
        )
        written = page.write(proof, arguments.out / "proof.html", arguments.out / "proof.json")
    if arguments.write:
        prove.enter(arguments.bundle, proof)
    if arguments.json:
        console.json(proof.to_dict())
    else:
        console.result(f"{proof}\n{written}")
    return 0 if proof.passed else 1
