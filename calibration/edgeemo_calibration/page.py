"""The page of a proof: one HTML file that needs no other, and JSON with the same figures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from edgeemo.html import document, figure, table
from edgeemo.plots import bars

from . import plots
from .gate import KEPT, LARGE, SIGNIFICANT
from .prove import Proof
from .table import write_whole

Figures = Mapping[str, Any]

RULES = {
    "usable": "This machine runs INT8; where its products saturate the runtime takes FP32.",
    "covered": "Each INT8 graph is reached by items of a set.",
    "kept": f"A set of {LARGE} items or more keeps {KEPT:.0%} of the WA and of the UA of FP32.",
    "set": f"A smaller set does not lose with a McNemar p below {SIGNIFICANT}.",
    "class": f"No class of any set loses with a McNemar p below {SIGNIFICANT}.",
    "faster": "One update with one face takes less time than in FP32.",
}
METHOD = (
    "Intervals are 95 % percentile bootstrap intervals. Speakers are drawn with all their items where a "
    "set names them, items otherwise; both precisions answer each draw, so differences are paired. With "
    "few speakers an interval is too narrow.",
    "McNemar's test is the exact one, two-sided, over the items that only one precision answers right. "
    "Each class is tested by itself, without a correction for how many there are: the gate guards every "
    "class, and a correction would let a plain loss in one pass because others were looked at too. Each "
    f"test fails a graph that changes answers by chance alone in at most {SIGNIFICANT / 2:.1%} of all "
    "cases. It takes items for independent.",
    "Latency is that of ONNX Runtime with one thread, an update in FP32 and one in INT8 taking turns. The "
    "ratio of the medians has a 99 % bootstrap interval over the rounds, looked at after 200, 400, 800, 1600 "
    "and 3200 of them, until it does not hold 1 or the time is up. INT8 is faster when all of it is below 1.",
)


def write(proof: Proof, html: Path, json: Path) -> Path:
    """Write the page and the JSON, whose sha256 the page shows.

    Args:
        proof: what was found.
        html: the page.
        json: the figures.

    Returns:
        the path of the page.
    """
    text = proof.text()
    write_whole(json, text)
    write_whole(html, page(proof.to_dict(), hashlib.sha256(text.encode()).hexdigest()))
    return html


def page(proof: Figures, digest: str) -> str:
    """The page as XHTML.

    Args:
        proof: as `Proof.to_dict` gives it.
        digest: sha256 of its JSON.
    """
    bundle = proof["bundle"]
    title = f"{bundle['name']} {bundle['version']}: INT8 against FP32"
    body = [f"<h1>{escape(title)}</h1>", *_verdict(proof), LEGEND]
    for found in proof["sets"]:
        body += _set(found)
    if proof["latency"] is not None:
        body += _latency(proof["latency"])
    body += _costs(proof)
    if proof["encodings"]:
        body += _encodings(proof["encodings"])
    for graph in proof["noise"]:
        body += _noise(graph)
    body += ["<h2>How it was judged</h2>", *(f"<p>{escape(text)}</p>" for text in METHOD)]
    body += _origin(proof, digest)
    return document(title, body, STYLE)


# --- sections


def _verdict(proof: Figures) -> list[str]:
    passed = proof["passed"]
    word = "INT8 is proven." if passed else "INT8 is not proven."
    rows = []
    for name, rule in RULES.items():
        applied = [entry for entry in proof["rules"] if entry["name"] == name]
        if not applied:
            continue
        broken = [entry for entry in applied if not entry["passed"]]
        shown = broken if name == "class" else applied
        said = "; ".join(f"{entry['subject']}: {entry['figures']}" for entry in shown)
        rows.append((rule, "fail" if broken else "pass", said or f"{len(applied)} classes, none loses"))
    cells = [(escape(rule), _mark(word), escape(said)) for rule, word, said in rows]
    return [
        f'<p class="verdict {"pass" if passed else "fail"}">{word}</p>',
        table("The rules", ("Rule", "", "Figures"), cells, numbers=False),
    ]


def _mark(word: str) -> str:
    return f'<strong class="{word}">{word}</strong>'


def _set(found: Figures) -> list[str]:
    figures = found["figures"]
    cropped = ", face crops" if found["cropped"] else ""
    drawn = f"{figures['units']:,} {figures['unit']} drawn"
    given = " and ".join(found["given"])
    return [
        f"<h2>{escape(found['name'])}</h2>",
        f"<p>{figures['n']:,} items ({given}{cropped}), {drawn} for the intervals.</p>",
        _accuracy(found["name"], figures),
        _classes(found["name"], figures["classes"]),
        figure(plots.recall_bars(figures["classes"]), "Recall of each class with its 95 % interval."),
        *_reliability(figures),
    ]


def _accuracy(name: str, figures: Figures) -> str:
    rows = []
    for said, key in (("WA", "wa"), ("UA", "ua"), ("calibration error (ECE)", "ece")):
        pair = figures[key]
        kept = ""
        if key != "ece" and pair["fp32"]["value"] > 0:
            kept = f"{pair['int8']['value'] / pair['fp32']['value']:.2%}"
        rows.append(
            (said, *(_interval(pair[side]) for side in ("fp32", "int8")), _interval(pair["difference"]), kept)
        )
    agreement, changes, absent = figures["agreement"], figures["changes"], figures["absent"]
    said = (
        f"{agreement['labels']:.2%} of the labels are equal; a probability differs by "
        f"{agreement['mean']:.4f} in the mean and by {agreement['worst']:.3f} at most. {changes['lost']} "
        f"items lost and {changes['won']} won, McNemar p = {changes['p']:.3g}. Without an answer: FP32 "
        f"{absent[0]}, INT8 {absent[1]}. A calibrated model with the same top probabilities of as many items "
        f"would show an ECE of {figures['ece_chance'][0]:.3f} and {figures['ece_chance'][1]:.3f} on average."
    )
    head = ("", "FP32", "INT8", "INT8 less FP32", "kept")
    return table(f"Accuracy and calibration on {name}", head, rows) + f"\n<p>{said}</p>"


def _classes(name: str, classes: Sequence[Figures]) -> str:
    rows = []
    for entry in classes:
        recall, changes = entry["recall"], entry["changes"]
        loses = changes["lost"] > changes["won"] and changes["p"] < SIGNIFICANT
        rows.append(
            (
                escape(entry["label"]),
                f"{entry['n']:,}",
                *(_interval(recall[side]) for side in ("fp32", "int8", "difference")),
                f"{changes['lost']} / {changes['won']}",
                f"{changes['p']:.3g}" + (f" {_mark('fail')}" if loses else ""),
            )
        )
    head = ("class", "n", "FP32", "INT8", "INT8 less FP32", "lost / won", "p")
    return table(f"Recall of each class of {name}", head, rows)


def _reliability(figures: Figures) -> list[str]:
    fp32, int8 = figures["reliability"]
    if not fp32 or not int8:
        return []
    said = "Share of right answers over the top probability; calibrated is on the diagonal."
    rows = [
        (name, f"{entry['confidence']:.3f}", f"{entry['accuracy']:.3f}", f"{entry['n']:,}")
        for (_, name), curve in zip(plots.PRECISIONS, (fp32, int8), strict=True)
        for entry in curve
    ]
    bins = table("The bins of the curves", ("", "mean top probability", "share right", "n"), rows)
    return [
        figure(plots.reliability(fp32, int8), said),
        f"<details><summary>The curves as figures</summary>\n{bins}\n</details>",
    ]


def _latency(latency: Figures) -> list[str]:
    rows, drawn = [], []
    for entry in (*latency["graphs"], latency["update"]):
        fp32, int8 = entry["encodings"]
        ratio = entry["ratio"]
        same = fp32 == int8
        said = "the same file" if same else _interval(ratio)
        faster = "" if same else f"{1 / ratio['value']:.2f}x"
        name = escape(entry["graph"])
        rows.append((name, f"{entry['fp32']:.3f}", f"{entry['int8']:.3f}", said, faster))
        drawn.append((entry["graph"], {"fp32": entry["fp32"], "int8": entry["int8"]}))
    head = ("", "FP32, ms", "INT8, ms", "INT8 over FP32, 99 %", "faster")
    title = f"Medians of {latency['rounds']:,} rounds, one thread; an update has one face"
    picture = bars(drawn, "milliseconds", "Median latency of each graph and of an update, FP32 above INT8")
    return ["<h2>Latency here</h2>", table(title, head, rows), figure(picture, "Medians.")]


def _costs(proof: Figures) -> list[str]:
    totals, budgets = proof["totals"], proof["budgets"]
    kinds = list(totals["bytes"])
    rows = [
        (
            escape(cost["graph"]),
            *(f"{cost['bytes'][kind] / 1000:,.0f}" if kind in cost["bytes"] else "FP32" for kind in kinds),
            f"{cost['multiply_adds'] / 1e6:,.1f}",
        )
        for cost in proof["costs"]
    ]
    kilobytes = {kind: size / 1000 for kind, size in totals["bytes"].items()}
    work = totals["multiply_adds"] / 1e6
    rows.append(("all, an update", *(f"{size:,.0f}" for size in kilobytes.values()), f"{work:,.1f}"))
    head = ("", *(f"{kind}, kB" for kind in kinds), "million multiply-adds")
    said = (
        f"A small bundle is meant to keep within {budgets['bytes'] / 1000:,.0f} kB for the graphs of one "
        f"precision and {budgets['multiply_adds'] / 1e6:,.0f} million multiply-adds an update; the verdict "
        "does not ask. Multiply-adds are those of Conv, Gemm and MatMul with one face."
    )
    rising = [(kind, {kind: size}) for kind, size in kilobytes.items()]
    picture = bars(rising, "kilobytes", "Size of all graphs of each precision")
    return [
        "<h2>Size and work</h2>",
        table("Files and multiply-adds of each graph", head, rows),
        f"<p>{said}</p>",
        figure(picture, "All graphs of one precision together; a graph without it counts in FP32."),
    ]


def _encodings(encodings: Sequence[Figures]) -> list[str]:
    rows = [
        (
            escape(entry["graph"]),
            f"{entry['windows']:,}",
            f"{entry['labels']:.2%}",
            f"{entry['within']:.2%}",
            str(entry["worst"]),
            f"{entry['clear']:,}",
            "-" if entry["clear_worst"] is None else str(entry["clear_worst"]),
        )
        for entry in encodings
    ]
    head = (
        "",
        "windows",
        "labels equal",
        "values within a step",
        "largest difference, steps",
        "windows without saturation",
        "largest difference there",
    )
    said = (
        "The same windows through the encoding for TensorRT (S8) and that for ONNX Runtime (U8), both in "
        "ONNX Runtime. Labels are those of each window alone; values are compared where the trunk ends, "
        "in steps of its last quantiser. The S8 encoding leaves results unrounded, and its tensors "
        "without negative numbers saturate at 127 steps, those of U8 at 255."
    )
    return ["<h2>The two INT8 encodings</h2>", table("Their agreement", head, rows), f"<p>{said}</p>"]


def _noise(graph: Figures) -> list[str]:
    layers = graph["layers"][:10]
    rows = [
        (
            escape(layer["tensor"]),
            layer["kind"],
            *(_decibels(layer[key]) for key in ("sqnr_db", "rounding_db")),
            f"{layer['clipped']:.4%}",
        )
        for layer in layers
    ]
    head = ("layer", "", "signal to noise, dB", "of its own rounding, dB", "clipped")
    title = f"The {len(rows)} worst of {len(graph['layers'])}, on {graph['windows']} windows"
    return [f"<h2>Noise of the layers of {escape(graph['graph'])}</h2>", table(title, head, rows)]


def _decibels(value: float | None) -> str:
    return "no noise" if value is None else f"{value:.1f}"


def _origin(proof: Figures, digest: str) -> list[str]:
    rows = [("bundle, sha256 of its files", proof["bundle"]["files"]), ("proof.json, sha256", digest)]
    rows += [(f"data of {found['name']}, sha256", found["sha256"]) for found in proof["sets"]]
    rows.append(("seed", str(proof["seed"])))
    told = {**proof["machine"], **proof["versions"]}
    rows += [(name.replace("_", " "), str(value)) for name, value in told.items() if value is not None]
    cells = [(escape(name), f"<code>{escape(value)}</code>") for name, value in rows]
    return [
        "<h2>Of what, and on what</h2>",
        table("Digests, machine and versions", ("", ""), cells, numbers=False),
    ]


# --- elements


def _interval(figure: Figures) -> str:
    return f"{figure['value']:.4f} <small>({figure['low']:.4f} to {figure['high']:.4f})</small>"


LEGEND = (
    '<p class="legend"><span class="fp32"></span>FP32 <span class="int8"></span>INT8 '
    "<small>lines: 95 % intervals</small></p>"
)
STYLE = """
:root { --fp32: #6b7785; --fp16: #8f6fc4; --int8: #0b7a75; --cpu: #4fa8a3; }
@media (prefers-color-scheme: dark) { :root { --fp32: #97a3b1; --fp16: #b89bea; --int8: #35b5ae;
  --cpu: #7fcfc9; } }
.verdict { font-size: 1.3rem; font-weight: 600; border-left: .4rem solid; padding-left: .8rem; }
.pass { color: var(--pass); } .fail { color: var(--fail); }
.ideal { stroke: var(--soft); stroke-dasharray: 4 4; fill: none; }
.line.fp32 { stroke: var(--fp32); } .line.int8 { stroke: var(--int8); }
rect.fp32, circle.fp32 { fill: var(--fp32); } rect.fp16 { fill: var(--fp16); }
rect.int8, circle.int8 { fill: var(--int8); } rect.int8-cpu { fill: var(--cpu); }
.legend .fp32 { background: var(--fp32); } .legend .int8 { background: var(--int8); }
"""
