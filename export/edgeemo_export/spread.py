"""How much the encoders' figures hang on the seed: mean and standard deviation over runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from edgeemo.errors import InputError

from .data import ferplus, voices
from .recipes import face, voice
from .recipes.trained import restored_face, restored_voice


def write(runs: Sequence[Path], data: Path, page: Path) -> None:
    """Score the face and the voice encoder of each finished run on the test sets, in FP32, and write a page.

    Each encoder is scored with the classifier that it was trained with: the face's over stills, balanced and
    with FER+'s prior put back in half and in full, the voice's over whole clips.

    Args:
        runs: folders of `edgeemo-export train`, one a seed; what not all of them have is left out.
        data: the corpora.
        page: the Markdown page.

    Raises:
        InputError: fewer than two runs, or none of the encoders is in all of them.
    """
    parts = [part for part in ("face", "voice") if all((run / part / "state.pt").exists() for run in runs)]
    if len(runs) < 2 or not parts:
        raise InputError(
            f"{', '.join(map(str, runs))}: give two or more runs that all have a face or a voice encoder"
        )
    scored = [_score(run, data, parts) for run in runs]
    lines = [
        "# Encoders over seeds",
        "",
        f"Written by `edgeemo-export seeds --runs {' '.join(run.name for run in runs)}`: test splits, FP32, "
        f"{len(runs)} seeds, mean and standard deviation. `balanced`, `half` and `natural` say how much of "
        "FER+'s class prior the logits carry; the bundle's measure is chosen on the development set.",
        "",
        "| figure | " + " | ".join(run.name for run in runs) + " | mean | standard deviation |",
        "|---" * (len(runs) + 3) + "|",
    ]
    for name in scored[0]:
        values = [figures[name] for figures in scored]
        spread = f"{statistics.mean(values):.3f} | {statistics.stdev(values):.3f}"
        lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + f" | {spread} |")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines) + "\n")


def _score(run: Path, data: Path, parts: Sequence[str]) -> dict[str, float]:
    figures: dict[str, float] = {}
    if "face" in parts:
        model = restored_face(run / "face", "--runs")
        shares = torch.from_numpy(ferplus.read(data / "ferplus", "train").shares)
        prior = shares[shares.sum(dim=1) > 0].mean(dim=0).log()
        figures |= {f"FER+ {key}": value for key, value in face.score(model, data, "test", prior).items()}
    if "voice" in parts:
        heard = restored_voice(run / "voice", "--runs")
        figures |= voice.score(heard, voices.read(data, "test"))
    return figures
