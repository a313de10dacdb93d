"""What changed while a machine was measured: each warning where it is due, and none where it is not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from edgeemo.bench.conditions import changed, others_share, snapshot, throttled

CPU = "sys/devices/system/cpu/cpu"
ZONE = "sys/class/thermal/thermal_zone0"
COOLING = "sys/class/thermal/cooling_device0"
SUPPLY = "sys/class/power_supply"
HWMON = "sys/class/hwmon/hwmon4"
MODES = "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"

Files = Mapping[str, object]


def write(root: Path, files: Files) -> None:
    for path, content in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")


def cores(current: int, *, least: int = 1000, most: int = 2000, governor: str = "performance") -> Files:
    """Two cores, MHz."""
    told = {
        "scaling_cur_freq": 1000 * current,
        "scaling_min_freq": 1000 * least,
        "scaling_max_freq": 1000 * most,
        "scaling_governor": governor,
    }
    return {f"{CPU}{core}/cpufreq/{name}": value for core in (0, 1) for name, value in told.items()}


def spent(*, busy: int, idle: int, stolen: int = 0, own: int = 0) -> Files:
    """Time of two cores and of this program, hundredths of a second."""
    line = f"{busy} 0 0 {idle} 0 0 0 {stolen} 0 0"
    ours = f"{own // 2} 0 0 {own - own // 2}"
    return {
        "proc/stat": f"cpu  {line}\ncpu0 {line}\ncpu1 {line}\nintr 1",
        "proc/self/stat": f"7 (python (3) x) R 1 7 7 0 -1 4194304 97 0 0 0 {ours} 20 0 1 0 436 31 38",
    }


def trip(degrees: float) -> Files:
    return {
        f"{ZONE}/type": "cpu-thermal",
        f"{ZONE}/temp": round(1000 * degrees),
        f"{ZONE}/trip_point_0_type": "passive",
        f"{ZONE}/trip_point_0_temp": 99000,
    }


def jetson(mode: int = 2, **clocks: int) -> Files:
    return {
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1",
        "etc/nvpmodel.conf": MODES,
        "var/lib/nvpmodel/status": f"pmode:000{mode} fmode:quiet",
        "sys/class/devfreq/17000000.gpu/cur_freq": 1_020_000_000,
        "sys/class/devfreq/17000000.gpu/min_freq": 1_000_000 * clocks.get("least", 1020),
        "sys/class/devfreq/17000000.gpu/max_freq": 1_000_000 * clocks.get("most", 1020),
    }


QUIET = {**cores(1990), **spent(busy=0, idle=0), **trip(55)}
QUIET_LATER = spent(busy=210, idle=790, own=200)
"""Ten seconds of a core later, of which other programs took a tenth of a second: 1 % of two cores."""


def warnings(root: Path, before: Files, after: Files, cv: float | None = None) -> list[str]:
    write(root, before)
    first = snapshot(root)
    write(root, after)
    return changed(first, snapshot(root), cv)


FIRES: list[tuple[str, Files, Files, str]] = [
    ("governor", cores(1990, governor="schedutil"), {}, "governor of the cores is schedutil"),
    ("clock", {}, cores(1500), "fastest core fell from 1990 to 1500 MHz"),
    ("limit", {}, cores(1990, most=1400), "clock that the cores may have fell from 2000 to 1400 MHz"),
    ("trip", {}, trip(97), "cpu 97 of 99 degrees"),
    ("cooling", {}, {f"{COOLING}/type": "thermal-cpufreq-0", f"{COOLING}/cur_state": 2}, "thermal-cpufreq-0"),
    (
        "x86",
        {f"{CPU}0/thermal_throttle/core_throttle_count": 4},
        {f"{CPU}0/thermal_throttle/core_throttle_count": 5},
        "slowed down by heat",
    ),
    (
        "supply",
        {f"{HWMON}/name": "soctherm_oc", f"{HWMON}/oc3_event_cnt": 37},
        {f"{HWMON}/oc3_event_cnt": 40},
        "instantaneous over-current",
    ),
    ("mode", jetson(1), {}, "power mode is 25W, and MAXN_SUPER is the largest"),
    ("jetson_clocks", {**jetson(least=306), **cores(1990, least=729)}, {}, "sudo jetson_clocks"),
    ("others", {}, spent(busy=600, idle=400, own=200), "Other programs took 40% of the cores' time"),
    ("stolen", {}, spent(busy=200, idle=750, stolen=50, own=200), "host of this virtual machine took 5%"),
    (
        "quota",
        {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.stat": "nr_periods 9\nnr_throttled 3\n"},
        {"sys/fs/cgroup/cpu.stat": "nr_periods 90\nnr_throttled 21\n"},
        "stopped it 18 times",
    ),
    (
        "quota of version 1",
        {"proc/self/cgroup": "3:cpu,cpuacct:/box/a", "sys/fs/cgroup/cpu/box/cpu.stat": "nr_throttled 1"},
        {"sys/fs/cgroup/cpu/box/cpu.stat": "nr_throttled 3"},
        "stopped it 2 times",
    ),
    (
        "swap",
        {"proc/vmstat": "pswpin 100\npswpout 50"},
        {"proc/vmstat": "pswpin 400\npswpout 2050"},
        "swapped 2300 pages",
    ),
    (
        "battery",
        {f"{SUPPLY}/BAT0/type": "Battery", f"{SUPPLY}/BAT0/status": "Discharging"},
        {},
        "runs on its battery",
    ),
]

SILENT: list[tuple[str, Files, Files]] = [
    ("nothing", {}, {}),
    ("a clock that moves a little", {}, cores(1930)),
    ("a clock that rose", cores(800), cores(1990)),
    ("a warm machine", {}, trip(95)),
    ("a fan at work", {}, {f"{COOLING}/type": "pwm-fan", f"{COOLING}/cur_state": 3}),
    ("an old count", {f"{CPU}0/thermal_throttle/core_throttle_count": 4}, {}),
    ("an old event", {f"{HWMON}/name": "soctherm_oc", f"{HWMON}/oc2_event_cnt": 15}, {}),
    ("a count that was not there before", {}, {f"{CPU}0/thermal_throttle/core_throttle_count": 4}),
    ("the largest mode with fixed clocks", {**jetson(2), **cores(1990, least=2000)}, {}),
    (
        "fixed clocks with any governor",
        {**jetson(2), **cores(1990, least=2000, governor="schedutil")},
        {},
    ),
    (
        "a mode of a name that says nothing",
        {
            **jetson(),
            **cores(1990, least=2000),
            "etc/nvpmodel.conf": "< POWER_MODEL ID=2 NAME=OURS >\n< POWER_MODEL ID=0 NAME=MAXN >",
        },
        {},
    ),
    ("others that take little", {}, spent(busy=240, idle=760, own=200)),
    ("a host that takes little", {}, spent(busy=200, idle=795, stolen=5, own=200)),
    ("an old quota", {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.stat": "nr_throttled 3"}, {}),
    (
        "a quota of another group",
        {"proc/self/cgroup": "0::/mine", "sys/fs/cgroup/other/cpu.stat": "nr_throttled 3"},
        {"sys/fs/cgroup/other/cpu.stat": "nr_throttled 30"},
    ),
    ("a few pages", {"proc/vmstat": "pswpin 100\npswpout 50"}, {"proc/vmstat": "pswpin 120\npswpout 60"}),
    (
        "a battery that is charged",
        {
            f"{SUPPLY}/BAT0/type": "Battery",
            f"{SUPPLY}/BAT0/status": "Discharging",
            f"{SUPPLY}/AC/type": "Mains",
            f"{SUPPLY}/AC/online": 1,
        },
        {},
    ),
    (
        "the battery of a mouse",
        {
            f"{SUPPLY}/hid/type": "Battery",
            f"{SUPPLY}/hid/scope": "Device",
            f"{SUPPLY}/hid/status": "Discharging",
        },
        {},
    ),
]


@pytest.mark.parametrize(("before", "after", "expected"), [c[1:] for c in FIRES], ids=[c[0] for c in FIRES])
def test_a_warning_where_it_is_due(tmp_path: Path, before: Files, after: Files, expected: str) -> None:
    told = warnings(tmp_path, {**QUIET, **before}, {**QUIET_LATER, **after})
    assert any(expected in sentence for sentence in told), told
    assert all(sentence.endswith(".") for sentence in told)


@pytest.mark.parametrize(("before", "after"), [c[1:] for c in SILENT], ids=[c[0] for c in SILENT])
def test_no_warning_without_evidence(tmp_path: Path, before: Files, after: Files) -> None:
    assert warnings(tmp_path, {**QUIET, **before}, {**QUIET_LATER, **after}) == []


def test_an_unstable_time_comes_with_its_likely_causes(tmp_path: Path) -> None:
    told = warnings(tmp_path, QUIET, {**QUIET_LATER, **trip(98)}, cv=0.25)
    assert len(told) == 2
    assert "coefficient of variation is 0.25, more than 0.1" in told[0] and "likely causes" in told[0]
    assert "98 of 99 degrees" in told[1]


@pytest.mark.parametrize(("cv", "count"), [(0.02, 0), (None, 0), (0.1, 0), (0.11, 1)])
def test_an_unstable_time_without_a_cause_says_so(tmp_path: Path, cv: float | None, count: int) -> None:
    told = warnings(tmp_path, QUIET, QUIET_LATER, cv=cv)
    assert len(told) == count and all("does not tell why" in sentence for sentence in told)


def test_times_of_a_gpu_are_held_to_be_steadier(tmp_path: Path) -> None:
    write(tmp_path, QUIET)
    now = snapshot(tmp_path)
    assert changed(now, now, 0.05) == []
    (told,) = changed(now, now, 0.05, steady=0.025)
    assert "0.05, more than 0.025" in told


def test_what_was_throttled_by_name(tmp_path: Path) -> None:
    counts = {f"{HWMON}/name": "soctherm_oc", f"{HWMON}/oc1_event_cnt": 0, f"{HWMON}/oc2_event_cnt": 7}
    write(tmp_path, counts)
    before = snapshot(tmp_path)
    write(
        tmp_path, {f"{HWMON}/oc1_event_cnt": 1, f"{COOLING}/type": "devfreq-gpu", f"{COOLING}/cur_state": 1}
    )
    assert throttled(before, snapshot(tmp_path)) == ["under-voltage", "devfreq-gpu"]
    assert throttled(before, before) == []


def test_the_share_of_others_is_none_where_no_time_passed(tmp_path: Path) -> None:
    write(tmp_path, QUIET)
    now = snapshot(tmp_path)
    assert others_share(now, now) is None


def test_the_time_of_the_processor_in_its_parts(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/stat": "cpu  1 20 300 4000 50000 600000 7000000 80000000 1 20\ncpu0 0\ncpu11 0\n",
            "proc/self/stat": "9 (a) b) S 1 2 3 4 5 6 7 8 9 10 100 2000 30000 400000 20 0 1",
        },
    )
    told = snapshot(tmp_path)
    assert told["cpu"] == {"total": 87654321, "busy": 7600321, "stolen": 80000000, "own": 432100}
    assert told["cores"] == 2


def test_a_snapshot_of_a_jetson(tmp_path: Path) -> None:
    write(
        tmp_path, {**QUIET, **jetson(2), **cores(1500, least=729), "proc/loadavg": "0.52 0.58 0.59 2/812 1"}
    )
    write(tmp_path, {f"{CPU}1/cpufreq/scaling_cur_freq": 1_900_000})
    told = snapshot(tmp_path)
    assert told["clocks"] == {"lowest": 1500, "mean": 1700.0, "highest": 1900, "limit": 2000}
    assert told["governors"] == ["performance"] and told["load"] == [0.52, 0.58, 0.59] and told["cores"] == 2
    assert told["temperatures"] == {"cpu": 55.0} and told["trip_points"] == {"cpu": 99.0}
    assert told["gpu"] == {"clock": 1020.0, "lowest": 1020.0, "highest": 1020.0}
    assert told["power_mode"] == "MAXN_SUPER (2)" and told["power_modes"] == ["15W", "25W", "MAXN_SUPER"]
    assert told["jetson_clocks"] is False
    assert json.loads(json.dumps(told)) == told


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    told = snapshot(tmp_path)
    assert not any(told.values())
    assert changed(told, told) == [] and throttled(told, told) == []


def test_nonsense_in_every_file_raises_nothing(tmp_path: Path) -> None:
    """What a full system has, each file of it with things that are none of its own."""
    everything: dict[str, object] = {**QUIET, **jetson()}
    for _, before, after in [case[:3] for case in FIRES]:
        everything |= {**before, **after}
    write(tmp_path, {**everything, "proc/loadavg": "1.0 1.0 1.0 1/1 1"})
    full = snapshot(tmp_path)
    for nonsense in (b"", b"\xff\x00\xfe", b"-", b"cpu  1 2\n", b"9" * 6000, b"0::\n:cpu\n) a b c"):
        for path in everything:
            (tmp_path / path).write_bytes(nonsense)
        now = snapshot(tmp_path)
        changed(full, now, 0.5), changed(now, full), changed(now, now)


def test_this_machine_too() -> None:
    before = snapshot()
    assert isinstance(changed(before, snapshot()), list)
    assert json.loads(json.dumps(before)) == before
