"""A page of HTML that needs no other file: its shell, its style, tables and figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What a browser may load for a page: nothing, and run no script; its style is in it."""


def document(title: str, body: Iterable[str], style: str = "") -> str:
    """A page as XHTML, in light or dark colours as its reader's system has them.

    Args:
        title: in plain text.
        body: elements.
        style: CSS beside `STYLE`.
    """
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html xmlns="http://www.w3.org/1999/xhtml" lang="en">',
            '<head><meta charset="utf-8"/>',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}{style}</style></head>",
            "<body><main>",
            *body,
            "</main></body></html>\n",
        ]
    )


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = True) -> str:
    """A table whose rows begin with their names.

    Args:
        caption: in plain text.
        head: plain texts, one for each column; all empty for none.
        rows: cells as HTML, escaped already.
        numbers: whether cells but the first are aligned at the right.

    Example:
        >>> print(table("Medians", ("", "ms"), [("face", "0.2")]))
        <div class="wide"><table class="numbers"><caption>Medians</caption>
        <thead><tr><th scope="col"></th><th scope="col">ms</th></tr></thead>
        <tbody>
        <tr><th scope="row">face</th><td>0.2</td></tr>
        </tbody></table></div>
    """
    kind = ' class="numbers"' if numbers else ""
    lines = [f'<div class="wide"><table{kind}><caption>{escape(caption)}</caption>']
    if any(head):
        lines.append(
            "<thead><tr>" + "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head) + "</tr></thead>"
        )
    lines.append("<tbody>")
    for first, *rest in rows:
        cells = "".join(f"<td>{cell}</td>" for cell in rest)
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    return "\n".join([*lines, "</tbody></table></div>"])


def figure(picture: str, said: str) -> str:
    """A picture with a sentence, in plain text, below it."""
    return f'<figure>\n<div class="wide">{picture}</div>\n<figcaption>{escape(said)}</figcaption></figure>'


STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --soft: #5b6570; --line: #d5dae0;
  --pass: #11703a; --fail: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --paper: #14171a; --soft: #a3adb8;
  --line: #39414a; --pass: #5ec98a; --fail: #ff8a80; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: 1rem 0; min-width: 16rem; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0; }
tr { border-bottom: 1px solid var(--line); }
th { font-weight: 600; } tbody th { font-weight: 400; } small, figcaption { color: var(--soft); }
.numbers td, .numbers thead th + th { text-align: right; font-variant-numeric: tabular-nums; }
.numbers td small { white-space: nowrap; } code { overflow-wrap: anywhere; }
figure { margin: 1.5rem 0; } svg { max-width: 100%; height: auto; }
svg[width="640"] { min-width: 30rem; }
svg text { fill: var(--ink); font-size: 12px; }
.grid { stroke: var(--line); fill: none; }
.whisker { stroke: var(--ink); fill: none; stroke-width: 1.5; } .line { fill: none; stroke-width: 2; }
.legend span { display: inline-block; width: 1em; height: .8em; margin: 0 .3em 0 .8em; }
"""
