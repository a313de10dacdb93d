from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeemo.inference.sharing import Sharing


def graph(name: str, events: list[str]) -> Any:
    return SimpleNamespace(
        spec=name,
        encoding="fp32",
        engine="a fake",
        run=lambda feeds: {"from": name},
        close=lambda: events.append(name),
    )


@pytest.fixture
def events() -> list[str]:
    return []


def test_it_is_the_graph_that_it_holds(events: list[str]) -> None:
    shared = Sharing(lambda: None).add(graph("face", events))
    assert (shared.spec, shared.encoding, shared.engine) == ("face", "fp32", "a fake")
    assert shared.run({}) == {"from": "face"}


def test_what_is_shared_is_closed_once_with_the_last(events: list[str]) -> None:
    sharing = Sharing(lambda: events.append("library"))
    face, voice = (sharing.add(graph(name, events)) for name in ("face", "voice"))
    face.close()
    face.close()
    assert events == ["face"]
    voice.close()
    assert events == ["face", "voice", "library"]


def test_graphs_that_nobody_holds_are_closed(events: list[str]) -> None:
    sharing = Sharing(lambda: events.append("library"))
    graphs = [sharing.add(graph(name, events)) for name in ("face", "voice")]
    assert not events
    graphs.clear()
    gc.collect()
    assert sorted(events) == ["face", "library", "voice"] and events[-1] == "library"


def test_graphs_are_closed_when_the_interpreter_ends() -> None:
    code = (
        "from types import SimpleNamespace\n"
        "from edgeemo.inference.sharing import Sharing\n"
        "held = Sharing(lambda: print('library')).add(SimpleNamespace(\n"
        "    spec=None, encoding='', engine='', run=None, close=lambda: print('graph')))\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == "graph\nlibrary\n"
