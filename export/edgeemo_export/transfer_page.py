"""Runs the study across corpora, every alignment with several seeds, and writes its page."""

from __future__ import annotations

import json
import logging
import shlex
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .config import keep, override
from .data.transfer import Transfer, transfer
from .recipes import didan
from .words import counted

log = logging.getLogger("edgeemo.export")

FILE = "figures.json"


@dataclass(frozen=True)
class Method:
    """A row of the page.

    Attributes:
        name: as the page shows it.
        settings: what differs from the recipe's defaults.
        compared: whether it is one of the alignments whose best is named; the others show where they stand.
    """

    name: str
    settings: tuple[str, ...]
    compared: bool = True

    @property
    def besides(self) -> tuple[str, ...]:
        """The settings that are none of the alignment's."""
        return tuple(one for one in self.settings if one.split("=")[0] not in ("alignment", "weight"))


METHODS = (
    Method("source only", ("alignment=source",), compared=False),
    Method("both corpora in the batch norms, no loss", ("alignment=norms",), compared=False),
    Method("CORAL", ("alignment=coral", "weight=1000")),
    Method("MMD", ("alignment=mmd", "weight=1")),
    Method("DANN", ("alignment=dann", "weight=0.3")),
    Method("LMMD", ("alignment=lmmd", "weight=1")),
    Method("IDA", ("alignment=ida", "weight=100")),
    Method("IDA at three granularities", ("alignment=granular-ida", "weight=100")),
    Method("supervised ceiling", ("alignment=supervised",), compared=False),
)

LONGER = ("schedule.epochs=60", "schedule.average=0.995")
ATTEMPTS: Mapping[str, tuple[Method, ...]] = {
    "nemo": (
        Method("source only, longer", ("alignment=source", *LONGER), compared=False),
        Method("DANN, longer", ("alignment=dann", "weight=0.3", *LONGER)),
        Method("LMMD, longer", ("alignment=lmmd", "weight=1", *LONGER)),
        Method("supervised ceiling, longer", ("alignment=supervised", *LONGER), compared=False),
    )
}
"""More rows of a target on which those above gain little."""

AIM = 0.05  # of UA over source only, what an alignment is expected to gain


def write(
    data: Path,
    runs: Path,
    page: Path,
    targets: Sequence[str],
    seeds: Sequence[int],
    settings: Sequence[str] = (),
    methods: Sequence[Method] | None = None,
) -> None:
    """Train what is missing under ``runs``, then write the page.

    Args:
        data: the corpora.
        runs: folder of all runs; what is finished there is read back.
        page: the Markdown page.
        targets: corpora that RAVDESS is carried over to.
        seeds: of the runs, two or more.
        settings: changes of the recipe's defaults for all rows.
        methods: the rows, for each schedule one of the source alone; without them `METHODS`, and the target's
            of `ATTEMPTS`.

    Raises:
        InputError: a run was begun with other settings.
    """
    parts = []
    for target in targets:
        rows = methods or (*METHODS, *ATTEMPTS.get(target, ()))
        parts.append(_study(transfer(data, target), runs / target, seeds, settings, rows))
    lines = [*_head(targets, seeds, settings), *(line for part in parts for line in part)]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines) + "\n")


def _study(
    study: Transfer, runs: Path, seeds: Sequence[int], settings: Sequence[str], methods: Sequence[Method]
) -> list[str]:
    heard: didan.Spectrograms | None = None
    figures: dict[str, list[dict[str, float]]] = {}
    for method in methods:
        for seed in seeds:
            config = override(didan.DEFAULTS, [f"target={study.target}", *settings, *method.settings])
            config = replace(config, schedule=replace(config.schedule, seed=seed))
            folder = runs / f"{_slug(method)}-{seed}"
            keep(config, folder)  # what is read back is what these settings gave
            if not (folder / FILE).exists():
                heard = heard or didan.hear(study, config.takes)
                _measure(heard, folder, config)
            figures.setdefault(method.name, []).append(json.loads((folder / FILE).read_text()))
            log.info(
                "%s, %s, seed %d: UA %.3f", study.target, method.name, seed, figures[method.name][-1]["ua"]
            )
    return _section(study, figures, methods, settings)


def _slug(method: Method) -> str:
    return "-".join(setting.split("=")[1] for setting in method.settings)


def _measure(heard: didan.Spectrograms, folder: Path, config: didan.Config) -> None:
    began = time.monotonic()
    model = didan.train(heard, folder, config)
    study = heard.transfer
    figures = didan.score(model, heard.test, study.test, study.labels)
    source = didan.score(model, heard.develop, study.develop, study.labels)
    listened = didan.score(model, heard.listen[0], study.listen, study.labels)
    figures |= {"source_ua": source["ua"], "listened_ua": listened["ua"], "seconds": time.monotonic() - began}
    (folder / FILE).write_text(json.dumps(figures) + "\n")


def _section(
    study: Transfer,
    figures: Mapping[str, Sequence[Mapping[str, float]]],
    methods: Sequence[Method],
    settings: Sequence[str],
) -> list[str]:
    listened, tested = (sorted({clip.speaker for clip in clips}) for clips in (study.listen, study.test))
    lines = [
        "",
        f"## RAVDESS to {study.target}",
        "",
        f"Classes: {', '.join(study.labels)} (chance {1 / len(study.labels):.3f}). Listened to without "
        f"labels: {', '.join(listened)} ({len(study.listen)} clips). Tested: "
        f"{', '.join(tested)} ({len(study.test)} clips).",
        "",
        "| alignment | UA | WA | UA gained on source only | UA of the speakers listened to | UA of unseen "
        "source speakers | seconds | command |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method in methods:
        found, base = figures[method.name], _base(method, methods)
        columns = [_spread([one[key] for one in found]) for key in ("ua", "wa")]
        columns += ["" if method is base else _spread(_gains(found, figures[base.name]), "+.3f")]
        columns += [_spread([one[key] for one in found]) for key in ("listened_ua", "source_ua")]
        columns += [f"{statistics.mean(one['seconds'] for one in found):.0f}"]
        command = f"`{_command([f'target={study.target}', *settings, *method.settings])}`"
        lines.append(f"| {method.name} | " + " | ".join([*columns, command]) + " |")
    return [*lines, "", *_verdict(figures, methods, listened)]


def _verdict(
    figures: Mapping[str, Sequence[Mapping[str, float]]], methods: Sequence[Method], speakers: Sequence[str]
) -> list[str]:
    gains = {
        method.name: statistics.mean(_gains(figures[method.name], figures[_base(method, methods).name]))
        for method in methods
    }
    compared = [method.name for method in methods if method.compared]
    best = max(compared, key=lambda name: gains[name])
    lines = [
        f"The best alignment, {best}, gains {100 * gains[best]:+.1f} points of UA on source only. It is the "
        f"best of {len(compared)} by the tested speakers themselves, so that figure flatters."
    ]
    ceilings = [method.name for method in methods if "alignment=supervised" in method.settings]
    if gains[best] < AIM and ceilings:
        ceiling = max(ceilings, key=lambda name: gains[name])
        listened, tested = (
            statistics.mean(one[key] for one in figures[ceiling]) for key in ("listened_ua", "ua")
        )
        known = counted(len(speakers), "speaker")
        told = (
            "So there is more to be learnt of these speakers than an alignment without their labels found."
            if gains[ceiling] >= AIM
            else f"So even the labels of these {known} gain others less than that."
        )
        lines += [
            "",
            f"That is less than {100 * AIM:.0f} points. What could be gained: {ceiling}, which learns the "
            f"labels of the speakers listened to, answers these with a UA of {listened:.3f} and the tested "
            f"ones with {tested:.3f}, {100 * gains[ceiling]:+.1f} points on source only. {told}",
        ]
    return lines


def _base(method: Method, methods: Sequence[Method]) -> Method:
    """The row of the source alone that has a method's schedule."""
    return next(one for one in methods if one.settings == ("alignment=source", *method.besides))


def _gains(found: Sequence[Mapping[str, float]], base: Sequence[Mapping[str, float]]) -> list[float]:
    return [one["ua"] - other["ua"] for one, other in zip(found, base, strict=True)]


def _spread(values: Sequence[float], form: str = ".3f") -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{form}} ± {deviation:.3f}"


def _command(settings: Sequence[str]) -> str:
    given = " ".join(f"--set {shlex.quote(setting)}" for setting in settings)
    return f"edgeemo-export train --system didan --data DATA {given} --seed SEED --run RUN"


def _head(targets: Sequence[str], seeds: Sequence[int], settings: Sequence[str]) -> list[str]:
    given = "".join(f" --set {shlex.quote(setting)}" for setting in settings)
    numbers = " ".join(map(str, seeds))
    more = "Rows called longer were added where the others gained little. "
    tried = more if ATTEMPTS.keys() & {*targets} else ""
    return [
        "# From one corpus of voices to another",
        "",
        f"Written by `edgeemo-export transfer --data DATA --runs RUNS --page PAGE --targets "
        f"{' '.join(targets)} --seeds {numbers}{given}`. The system is DIDAN "
        "(`edgeemo_export.systems.didan`), the labelled corpus is RAVDESS (actors 02 to 14; 15 and 16 are "
        "the unseen source speakers). No label of a target is learnt, but by the supervised ceiling, which "
        "learns those of the speakers that the others only listen to; labels say which of their clips are of "
        "classes that both corpora have. Nothing of the test speakers is used before the test. Weights and "
        "schedule were chosen on RAVDESS to EmoDB, by the labels of the speakers listened to, for nEMO too. "
        f"{tried}Rows of one schedule differ in their alignment alone: net, spectrograms and batches are the "
        "same.",
        "",
        f"UA and WA over whole clips, mean and standard deviation over the seeds {numbers}; gains are paired "
        "by seed, on source only of the same schedule. Seconds are of wall-clock, on a shared CPU.",
    ]
