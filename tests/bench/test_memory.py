"""What a process holds, as the system tells it, and whether a growth and a leak are found."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgeemo.bench import memory
from edgeemo.bench.memory import Growth, allocations, growth, peak, reset_peak, resident
from edgeemo.errors import InputError

STATUS = "Name:\tpython\nVmPeak:\t  900000 kB\nVmHWM:\t  150000 kB\nVmRSS:\t  125000 kB\nThreads:\t1\n"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="no /proc")


def test_kilobytes_of_the_kernel_are_1024_bytes(tmp_path: Path) -> None:
    (tmp_path / "status").write_text(STATUS)
    assert (resident(tmp_path), peak(tmp_path)) == (128.0, 153.6)


@LINUX
def test_what_is_taken_is_resident() -> None:
    before = resident()
    taken = np.ones(8_000_000)
    after = resident()
    assert before is not None and after is not None
    assert after - before == pytest.approx(taken.nbytes / 1e6, rel=0.1)


@LINUX
def test_a_peak_stays_until_it_is_reset() -> None:
    def most() -> float:
        told = peak()
        assert told is not None
        return told

    before = resident()
    taken = np.ones(20_000_000)
    high = most()
    assert before is not None and high >= before + 0.9 * taken.nbytes / 1e6
    del taken
    assert most() == pytest.approx(high, abs=2)  # the kernel sums up lazily
    if not reset_peak():
        pytest.skip("clear_refs cannot be written here")
    assert most() < high - 100


@pytest.mark.parametrize(("platform", "megabytes"), [("darwin", 0.05), ("linux", 51.2), ("freebsd14", 51.2)])
def test_without_proc_the_peak_is_what_getrusage_says(
    platform: str, megabytes: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=50_000))
    monkeypatch.setitem(sys.modules, "resource", usage)  # type: ignore[arg-type]
    monkeypatch.setattr(memory.sys, "platform", platform)
    assert peak(tmp_path) == megabytes
    assert resident(tmp_path) is None
    assert not reset_peak(tmp_path / "none")


def test_on_windows_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)  # type: ignore[arg-type]
    assert (resident(tmp_path), peak(tmp_path)) == (None, None)


def of_minutes(change: Sequence[float]) -> Growth:
    return growth([60.0 * minute for minute in range(len(change))], change)


NOISE = np.random.default_rng(0).normal(0, 0.2, 120)


@pytest.mark.parametrize(
    ("sizes", "per_hour", "leaks"),
    [
        ([100.0] * 60, 0.0, False),
        ([100.0 + 0.01 * minute for minute in range(60)], 0.6, True),
        (list(100 + NOISE), 0.0, False),
        (list(100 + NOISE + 0.02 * np.arange(120)), 1.2, True),
        ([100.0] * 30 + [110.0] * 30, None, False),  # a buffer that was made once
        ([100.0, *[130.0] * 59], 0.0, False),
        (list(100 + np.tile([0.0, 5.0, 0.0, 5.0], 30)), 0.0, False),  # taken and freed again
        (list(200 - 0.1 * np.arange(60)), -6.0, False),
    ],
)
def test_a_growth_is_told_from_noise_and_steps(
    sizes: Sequence[float], per_hour: float | None, leaks: bool
) -> None:
    found = of_minutes(sizes)
    assert found.leaks == leaks
    assert found.low is not None and found.high is not None
    assert found.low <= found.per_hour <= found.high
    if per_hour is not None:
        assert found.per_hour == pytest.approx(per_hour, abs=0.2)


def test_the_interval_holds_the_slope_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    inside = 0
    for _ in range(300):
        found = of_minutes(100 + 0.005 * np.arange(200) + draw.normal(0, 1, 200))
        assert found.low is not None and found.high is not None
        inside += found.low <= 0.3 <= found.high
    assert 0.97 * 300 <= inside < 300


@pytest.mark.parametrize(
    ("times", "sizes"), [([], []), ([1.0], [5.0]), ([1.0, 2.0], [5.0]), ([2.0, 1.0], [5.0, 5.0])]
)
def test_what_no_growth_can_be_found_of(times: list[float], sizes: list[float]) -> None:
    with pytest.raises(InputError, match="two or more of both, and times that rise"):
        growth(times, sizes)


def test_a_step_that_keeps_nothing() -> None:
    found = allocations(lambda: np.zeros(1000).sum())
    assert found.kept < 20 and abs(found.blocks) < 0.5
    assert 8000 <= found.temporary < 10_000


def test_a_step_that_keeps_an_array_is_found_and_named() -> None:
    held: list[object] = []
    found = allocations(lambda: held.append(np.zeros(1000)))
    assert 8000 <= found.kept < 9000
    assert 1 <= found.blocks < 4
    assert found.places[0].startswith(__file__)


@pytest.fixture
def _no_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collection")
def test_what_refers_to_itself_is_not_kept() -> None:
    def step() -> None:
        held: list[object] = [np.zeros(1000)]
        held.append(held)

    assert allocations(step).kept < 20


def test_what_replaces_what_was_there_before_is_not_kept() -> None:
    held = [np.zeros(1000)]

    def step() -> None:
        held[0] = np.zeros(1000)

    assert allocations(step).kept < 20


def test_tracing_ends_where_a_step_fails() -> None:
    import tracemalloc

    def broken() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        allocations(broken, warm_up=0)
    assert not tracemalloc.is_tracing()
