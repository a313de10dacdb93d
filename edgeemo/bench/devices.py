"""The table of devices: what people measured, each with `edgeemo bench`, side by side."""

from __future__ import annotations

import getpass
import json
import math
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeemo.bench.against import read_report
from edgeemo.errors import InputError
from edgeemo.inference.manifest import ManifestError, Section

Figures = Mapping[str, Any]

CLIP = "clip.mp4"
"""What every device plays, so that all steps do the same work: the clip in the package."""

BEGIN, END = "<!-- table of devices: begin -->", "<!-- table of devices: end -->"
"""What a page has above and below the table."""

EMPTY = "No device has been measured yet."

_COMMON = {"root", "user", "users", "home", "admin", "localhost", "linux", "ubuntu", "debian"}
_COMMON |= {"jetson", "nvidia", "orin", "thor", "tegra", "onnx", "auto"}
_SYSTEM = ("/sys/", "/proc/", "/dev/")  # every machine has these
# Where a path begins: at the root, at home, at a drive, or as a URL of a file.
_BEGIN = r"(?:file:(?://[^/\s'\"]*)?/|/(?!/)|~/|[A-Za-z]:[\\/])"
# A path in quotes may hold blanks, be what an option is set to, and hold an apostrophe as a shell has it.
_PATH = re.compile(
    rf"""(?P<quote>['"])(?P<option>(?:[^'"\s]*?[=:,;])??)"""
    rf"""(?P<quoted>{_BEGIN}(?:(?!(?P=quote)).|'"'"')*)(?P=quote)"""
    rf"""|(?<![^\s'"=(,;:\[])(?P<bare>{_BEGIN}[^\s'"),;\]]+)"""
)
_MOST = 1e15  # of any figure; a number beyond is none


def table(folder: Path) -> str:
    """The devices of a folder as a table in Markdown.

    Args:
        folder: of reports as `publish` makes them, '*.json', each named for its device.

    Returns:
        a row for each file, by device and precision; no column that would be empty in all of them.

    Raises:
        InputError: there is no such folder; or a file is no such report, is of another scenario or another
            source than all others, or holds what is nobody else's business.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name one of reports, such as deploy/bench/results")
    reports = [(path.stem.replace("_", " "), _read(path)) for path in sorted(folder.glob("*.json"))]
    if not reports:
        return EMPTY
    reports.sort(key=lambda pair: (pair[0].lower(), pair[1]["precision"], pair[1]["threads"]))
    rows = [{head: cell(name, report) for head, cell in _COLUMNS.items()} for name, report in reports]
    heads = [head for head in _COLUMNS if any(row[head] for row in rows)]
    rule = ["---:" if head in _NUMBERS else "---" for head in heads]
    lines = [heads, rule, *([row[head] for head in heads] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def publish(report: Figures) -> dict[str, Any]:
    """A report as everybody may see it.

    Of every path but those that any system has, its name alone is left; this user's name is replaced by
    '(user)' and this host's by '(host)', wherever they stand as words. Names that many machines have, such
    as 'ubuntu', stay. Commands of trtexec are left out, which are of use where the engine is alone.

    Example:
        >>> publish({"source": "/home/anna/visit.mp4", "warnings": ["see /proc/stat"]})
        {'source': 'visit.mp4', 'warnings': ['see /proc/stat']}
    """
    named = {"(user)": _user(), "(host)": platform.node(), "(host) ": platform.node().partition(".")[0]}
    names = {
        re.compile(rf"(?<!\w){re.escape(name)}(?!\w)"): said.strip()
        for said, name in named.items()
        if len(name) > 2 and name.lower() not in _COMMON
    }
    cleaned: dict[str, Any] = _cleaned(_without(report, "trtexec"), names)
    if isinstance(report.get("source"), str):
        cleaned["source"] = _cleaned(_last(report["source"]), names)
    return cleaned


def without_paths(value: Any) -> Any:
    """A text, or all texts of a tree, with the last name alone of every path but those any system has.

    Example:
        >>> without_paths("trtexec '--loadEngine=/home/Anna Smith/face.engine' --noTF32")
        "trtexec '--loadEngine=face.engine' --noTF32"
    """
    return _cleaned(value, {})


def personal(report: Figures) -> Iterator[str]:
    """What a report holds that tells where things are on somebody's machine, one sentence each.

    Those are paths from the root, but for the system's own, and a `source` with folders.
    """
    source = report.get("source")
    if isinstance(source, str) and _last(source) != source:
        yield f"'source' is {source!r}, not a name alone"
    for where, text in _texts(report):
        for path in _paths(text):
            yield f"{where!r} holds the path {path!r}"


def add(file: Path, page: Path, name: str) -> Path:
    """Add a report to a page of devices, or take a newer one of the same device.

    Args:
        file: what `edgeemo bench --json` wrote.
        page: the page; reports are in the folder 'results' beside it.
        name: of the device as the table is to call it, such as 'Jetson Orin Nano 8 GB, 25 W'.

    Returns:
        the file that was added.

    Raises:
        InputError: the file is no report, or is one of a live source or of another than the clip of the
            package; the name is not for a file; or the page has no place for a table.
    """
    if not name.strip() or set(name) & set('/\\:*?"<>|\n\0') or name.startswith("."):
        raise InputError(f"device {name!r}: not the name of a file; give one without slashes and colons")
    published = publish(_opened(file))
    target = page.parent / "results" / f"{name.strip().replace(' ', '_')}.json"
    before = page.read_text("utf-8")
    rewritten(before, "")
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(published, indent=1) + "\n", "utf-8")
    page.write_text(rewritten(before, table(target.parent)), "utf-8")
    return target


def rewritten(page: str, rows: str) -> str:
    r"""A page with another table between its two marks.

    Raises:
        InputError: the page has not both marks, in order.

    Example:
        >>> print(rewritten(f"# Devices\n{BEGIN}\nold\n{END}\n", "new"), end="")
        # Devices
        <!-- table of devices: begin -->
        <BLANKLINE>
        new
        <BLANKLINE>
        <!-- table of devices: end -->
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, foot = rest.partition(END)
    if not begin or not end:
        raise InputError(f"the page has no place for the table: it needs the lines {BEGIN!r} and {END!r}")
    return f"{head}{BEGIN}\n\n{rows}\n\n{END}{foot}"


# --- reading


def _opened(path: Path) -> dict[str, Any]:
    report = read_report(path)
    try:
        _validate(Section(report))
    except ManifestError as error:
        raise InputError(f"report {path}: {error}; give what `edgeemo bench --json` wrote") from error
    source = _last(report["source"])
    if report["scenario"] != "single-stream" or source != CLIP:
        raise InputError(
            f"report {path}: it is {report['scenario']}, of {source!r}; the table compares the clip in the "
            "package, played at once: measure with `edgeemo bench --seconds 60 --json`, without --live and "
            "--source"
        )
    return report


def _validate(report: Section) -> None:
    """Hold a report to what the table reads of it and `read_report` does not."""
    graphs = report.section("graphs")
    for name in graphs:
        graphs.section(name).text("engine")
    if "energy" in report:
        energy = report.section("energy")
        if "watts" in energy:
            energy.number("watts", 0, _MOST)
        if "scope" in energy:
            energy.text("scope")
    if "conditions" in report and "after" in (conditions := report.section("conditions")):
        conditions.section("after")


def _read(path: Path) -> dict[str, Any]:
    report = _opened(path)
    found = [*personal(report)]
    if found:
        raise InputError(f"{path}: {'; '.join(found)}; add it anew, so that only names remain")
    return report


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run as a number
        return ""


def _texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a tree, the names of its branches too, and where it is."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            place = f"{where}.{name}" if where else str(name)
            yield place, str(name)
            yield from _texts(inner, place)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{where}[{index}]")
    elif isinstance(value, str):
        yield where, value


def _paths(text: str) -> Iterator[str]:
    for found in _PATH.finditer(text):
        path = found["quoted"] or found["bare"]
        if not path.startswith(_SYSTEM):
            yield path


def _without(value: Any, key: str) -> Any:
    """A tree less all that is under a key."""
    if isinstance(value, Mapping):
        return {name: _without(inner, key) for name, inner in value.items() if name != key}
    return [_without(inner, key) for inner in value] if isinstance(value, list | tuple) else value


def _cleaned(value: Any, names: Mapping[re.Pattern[str], str]) -> Any:
    if isinstance(value, Mapping):
        # Keys are the program's own words, or names of sensors: a user who is called 'face' changes none.
        return {_PATH.sub(_name_alone, name): _cleaned(inner, names) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(inner, names) for inner in value]
    if not isinstance(value, str):
        return value
    # A text that begins with a path may be one with blanks.
    begin = _PATH.match(value)
    whole = begin is not None and begin["bare"] and not value.startswith(_SYSTEM)
    text = _last(value) if whole else _PATH.sub(_name_alone, value)
    for name, said in names.items():
        text = name.sub(said, text)
    return text


def _name_alone(found: re.Match[str]) -> str:
    path, quote, option = found["quoted"] or found["bare"], found["quote"] or "", found["option"] or ""
    return found[0] if path.startswith(_SYSTEM) else f"{quote}{option}{_last(path)}{quote}"


def _last(path: str) -> str:
    """The name of a file, whichever way the slashes lean."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


# --- cells


def readable(value: float) -> str:
    """A number with three places that count, or all before the point, and never with an exponent.

    Example:
        >>> [readable(value) for value in (0.05, 7.1, 175.4, 50_000)]
        ['0.0500', '7.10', '175', '50,000']
    """
    size = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(2 - size, 0)}f}"


def _stage(stage: str, *parts: str) -> Callable[[str, Figures], str]:
    def cell(name: str, report: Figures) -> str:
        figures = report["stages"].get(stage) or {}
        found = [figures.get(part) for part in parts]
        return "" if None in found else " / ".join(f"{value:.2f}" for value in found)

    return cell


def _figure(form: Callable[[float], str], *names: str, times: float = 1.0) -> Callable[[str, Figures], str]:
    def cell(name: str, report: Figures) -> str:
        found: Any = report
        for key in names:
            found = (found or {}).get(key)
        return "" if found is None else form(times * found)

    return cell


def _engines(name: str, report: Figures) -> str:
    return _plain(", ".join(dict.fromkeys(graph["engine"] for graph in report["graphs"].values())))


def _versions(name: str, report: Figures) -> str:
    found = report["versions"]
    return _plain(", ".join(f"{part} {found[part]}" for part in ("edgeemo", "python") if part in found))


def _mode(name: str, report: Figures) -> str:
    """A Jetson's power mode, elsewhere what sets the processor's clocks."""
    after = (report.get("conditions") or {}).get("after") or {}
    return _plain(after.get("power_mode") or report["machine"].get("governor") or "")


def _plain(text: object) -> str:
    r"""A text as a cell of a table shows it, whatever is in it.

    Example:
        >>> _plain("a|b <i>")
        'a\\|b &lt;i>'
    """
    escaped = re.sub(r"([\\`*_\[\]|])", r"\\\1", " ".join(str(text).split()))
    return escaped.replace("<", "&lt;")


_COLUMNS: dict[str, Callable[[str, Figures], str]] = {
    "device": lambda name, report: _plain(name),
    "processor": lambda name, report: _plain(report["machine"].get("processor") or ""),
    "engine": _engines,
    "precision": lambda name, report: _plain(report["precision"]),
    "threads": lambda name, report: _plain(report["threads"]),
    "mode": _mode,
    "update p50 / p99, ms": _stage("update", "p50", "p99"),
    "step, tracking p50, ms": _stage("step_tracked", "p50"),
    "step, detection p50, ms": _stage("step", "p50"),
    "start-up, ms": _figure("{:,.0f}".format, "start_up", "total"),
    "memory, MB": _figure("{:,.0f}".format, "memory", "peak"),
    "power, W": _figure(readable, "energy", "watts"),
    "mJ a hop": _figure(readable, "energy", "joules_per_emotion", times=1e3),
    "power of": lambda name, report: _plain((report.get("energy") or {}).get("scope") or ""),
    "versions": _versions,
    "date": lambda name, report: _plain((report.get("when") or "")[:10]),
}
_NUMBERS = [
    head for head in _COLUMNS if ", ms" in head or head.endswith(("MB", ", W", "threads")) or "mJ" in head
]
