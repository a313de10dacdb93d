"""``edgeemo-export``: train, bundle, evaluate."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from edgeemo.errors import EdgeEmoError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``edgeemo-export`` and give its exit status: 0 done, 2 wrong usage or input."""
    parser = argparse.ArgumentParser(prog="edgeemo-export", description="Train, export and measure a bundle.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    train = verbs.add_parser("train", help="train the default system; run it again to go on where it stopped")
    train.add_argument("--data", type=Path, required=True, help="folder of the corpora")
    train.add_argument("--run", type=Path, default=Path("runs/default"), help="folder of states and curves")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    bundle = verbs.add_parser(
        "bundle", help="write a finished run as a bundle: graphs, INT8 encodings, manifest"
    )
    bundle.add_argument(
        "--data", type=Path, required=True, help="folder of the corpora (INT8 calibration, crop geometry)"
    )
    bundle.add_argument("--run", type=Path, default=Path("runs/default"))
    bundle.add_argument("--seed", type=int, default=0)
    bundle.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    manifests = verbs.add_parser("manifests", help="write the test sets as manifests for edgeemo evaluate")
    manifests.add_argument("--data", type=Path, required=True)
    manifests.add_argument("--out", type=Path, required=True)
    results = verbs.add_parser(
        "results", help="measure a bundle on the test sets and write the figures where they are shown"
    )
    results.add_argument("--data", type=Path, required=True)
    results.add_argument("--bundle", type=Path, required=True)
    results.add_argument(
        "--work", type=Path, default=Path("runs/results"), help="folder for the manifests of the test sets"
    )
    results.add_argument("--page", type=Path, help="results page to write")
    results.add_argument(
        "--documents", type=Path, nargs="*", default=[], help="documents whose marked part is rewritten"
    )
    seeds = verbs.add_parser("seeds", help="score finished runs of several seeds and write mean and spread")
    seeds.add_argument("--data", type=Path, required=True)
    seeds.add_argument("--runs", type=Path, nargs="+", required=True, help="two or more run folders")
    seeds.add_argument("--page", type=Path, required=True, help="page to write")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        _run(chosen)
    except (EdgeEmoError, OSError) as error:
        parser.exit(2, f"edgeemo-export: {error}\n")
    return 0


def _run(chosen: argparse.Namespace) -> None:
    if chosen.verb == "manifests":
        from . import manifests

        manifests.write_all(chosen.data, chosen.out)
        return
    if chosen.verb == "results":
        from . import results

        results.write(chosen.bundle, chosen.data, chosen.work, chosen.page, chosen.documents)
        return
    if chosen.verb == "seeds":
        from . import spread

        spread.write(chosen.runs, chosen.data, chosen.page)
        return
    import torch

    from .recipes import default

    torch.set_num_threads(getattr(chosen, "threads", 1))
    trained = default.train(chosen.data, chosen.run, chosen.seed)
    if chosen.verb == "bundle":
        from . import bundle

        bundle.write(trained, chosen.data, chosen.out, chosen.seed)


if __name__ == "__main__":
    raise SystemExit(main())
