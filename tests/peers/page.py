"""The tables of a run, and the page whose part between two markers they replace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeemo.errors import InputError

from .build import Facts
from .catalogue import PEERS, SPEECH_WINDOW
from .contenders import ALL, DETECTION, LIVE
from .measure import RATES, Growth, Interval, Times, work_of_update

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"

TITLES = {
    "edgeemo-int8": "**edgeemo, INT8**: face, voice and fusion",
    "edgeemo-fp32": "**edgeemo, FP32**: face, voice and fusion",
    LIVE: "**edgeemo, live step**, INT8, with its detections",
    **{peer.name: peer.title for peer in PEERS.values()},
    DETECTION: "one face detection, which each live pipeline adds",
}

SUMS = (
    ("efficientnet-b0", "wav2vec2"),
    ("efficientnet-b0",),
    ("wav2vec2",),
    ("mobilefacenet",),
    ("mobilefacenet", "wav2small-like"),
    ("mini-xception",),
    ("mini-xception", "wav2small-like"),
    ("wav2small-like",),
    (DETECTION, "efficientnet-b0", "wav2vec2"),
    (DETECTION, "mobilefacenet", "wav2small-like"),
)
"""What edgeemo is laid beside: a face, a voice, or one of each, and with a detection for each update."""

WANTED = {("efficientnet-b0", "wav2vec2"): 300.0, ("efficientnet-b0",): 10.0}
"""Ratios to the INT8 update that this project sets itself."""


@dataclass(frozen=True)
class Results:
    """A whole run.

    Attributes:
        command: that made it.
        source: name of the clip.
        times: of the updates.
        facts: by contender, without those that are no network.
        memory: MB by contender, None where the system does not tell or nothing is opened.
        growth: with rate and window.
        speech_work: multiply-adds of wav2vec 2.0 by window.
        machine: as `edgeemo.bench.device.machine` says it.
        versions: of the libraries.
        warnings: what may have disturbed the run.
    """

    command: str
    source: str
    times: Times
    facts: Mapping[str, Facts]
    memory: Mapping[str, float | None]
    growth: Growth
    speech_work: Mapping[float, int]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    warnings: Sequence[str]


def tables(results: Results) -> str:
    """Everything that stands between the markers."""
    return "\n".join(
        [
            *_header(results),
            "",
            "### One update",
            "",
            *_updates(results),
            "",
            "### How many times an update of edgeemo",
            "",
            *_ratios(results.times),
            "",
            "### As the update rate and the window grow",
            "",
            *_growth(results),
        ]
    )


def write(page: Path, text: str) -> None:
    """Put the text between the page's markers.

    Raises:
        InputError: the page has no such markers.
    """
    before, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(
            f"{page}: it has no part between {BEGIN} and {END}; both must be in it, in this order"
        )
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", "utf-8")


def _header(results: Results) -> Iterator[str]:
    rounds = len(results.times.milliseconds)
    told = [f"{name} {value}" for name, value in results.machine.items() if value is not None]
    yield f"Written by `{results.command}` with {results.source}: {2 * rounds} updates of each, in turns."
    yield ""
    yield f"Machine: {', '.join(told)}. Versions: {', '.join(map(' '.join, results.versions.items()))}."
    if results.warnings:
        yield ""
        yield "Disturbed: " + " ".join(results.warnings)


def _updates(results: Results) -> Iterator[str]:
    yield (
        "| | update, ms (95 %) | p90 | processor's time | of it made ready | first after others | memory, MB "
        "| file, MB | multiply-adds | parameters | published |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for name in ALL:
        yield _row(name, results)


def _row(name: str, results: Results) -> str:
    times, known = results.times, results.facts.get(name)
    memory = results.memory.get(name)
    cells = [
        TITLES[name],
        _between(times.median(name)),
        _number(float(np.percentile(times.of(name), 90))),
        _number(times.median(name, "processor").value),
        # The live step makes its input ready in the midst of its work.
        "" if name in (LIVE, DETECTION) else _number(times.median(name, "ready").value),
        "" if name == LIVE else _number(times.median(name, "first").value),
        "" if memory is None else f"{memory:.1f}",
        "" if known is None else f"{known.bytes / 1e6:.2f}",
        "" if known is None else f"{work_of_update(known, name) / 1e6:,.1f} M",
        "" if known is None else f"{known.parameters:,}",
        PEERS[name].published if name in PEERS else "",
    ]
    return f"| {' | '.join(cells)} |"


def _ratios(times: Times) -> Iterator[str]:
    yield (
        "| others | INT8 update | the same, processor's time | its graph calls alone "
        "| each first after others | FP32 update | live step with detection |"
    )
    yield "|---|---|---|---|---|---|---|"
    for names in SUMS:
        live = times.ratio(names, LIVE)
        updates = [
            times.ratio(names, "edgeemo-int8"),
            times.ratio(names, "edgeemo-int8", "processor"),
            times.ratio(names, "edgeemo-int8", "graphs"),
            times.ratio(names, "edgeemo-int8", "first"),
            times.ratio(names, "edgeemo-fp32"),
        ]
        # An update of edgeemo has no detection in it.
        cells = [""] * len(updates) if DETECTION in names else [_between(one) for one in updates]
        cells[0] += f" (wanted: {WANTED[names]:g})" if names in WANTED else ""
        yield f"| {' + '.join(map(_short, names))} | {' | '.join([*cells, _between(live)])} |"


def _short(name: str) -> str:
    return PEERS[name].title.partition(",")[0] if name in PEERS else name


def _growth(results: Results) -> Iterator[str]:
    growth = results.growth
    yield "Milliseconds of the processor's time for one second of stream; above 1000 one core falls behind."
    yield ""
    yield f"| | multiply-adds of an update |{''.join(f' {rate} a second |' for rate in RATES)}"
    yield f"|---|---|{'---|' * len(RATES)}"
    for window, spent in growth.speech.items():
        work = f"{results.speech_work[window] / 1e9:.1f} G"
        cells = [_number(rate * spent) for rate in RATES]
        yield f"| wav2vec 2.0 base, {window:g} s | {work} | {' | '.join(cells)} |"
    for modalities, by_rate in growth.streams.items():
        both = len(modalities) > 1
        work = f"{work_of_update(results.facts['edgeemo-int8'], 'edgeemo-int8') / 1e6:.1f} M" if both else ""
        cells = [_number(by_rate[rate]) if rate in by_rate else "not on its grid" for rate in RATES]
        yield f"| edgeemo, {' and '.join(modalities)}, stream | {work} | {' | '.join(cells)} |"
    seconds, spent = SPEECH_WINDOW, growth.speech[SPEECH_WINDOW]
    best = max(growth.streams[("voice",)])
    times = best * spent / growth.streams[("voice",)][best]
    yield ""
    yield (
        f"At {best} updates a second, a window of {seconds:g} s of wav2vec 2.0 costs {times:,.0f} times "
        "edgeemo's stream of a voice."
    )


def _between(one: Interval) -> str:
    return f"{_number(one.value)} ({_number(one.low)} to {_number(one.high)})"


def _number(value: float) -> str:
    """Three significant places, whole from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")
