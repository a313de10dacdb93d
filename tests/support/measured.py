"""A made measurement: samples that drift and spread as those of a machine do, and the report of them."""

from __future__ import annotations

import math
from statistics import fmean, pstdev
from typing import Any

import numpy as np

from edgeemo.bench.charts import STAGES

PARTS = ("p50", "p90", "p95", "p99")
_MEDIANS = {"capture": 1.1, "face": 0.31, "voice": 0.22, "fusion": 0.09, "decide": 0.06, "deliver": 0.02}


def samples(steps: int, *, every: int = 5, seed: int = 0) -> dict[str, list[float]]:
    """Seconds by stage of a run with a detection in every so-many-th step; 0 for none."""
    random = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for index in range(steps):
        slow = (1 + 0.15 * index / steps) * (8 if random.random() < 0.004 else 1)
        parts = {name: 1e-3 * middle * slow * random.lognormal(0, 0.08) for name, middle in _MEDIANS.items()}
        detected = every > 0 and index % every == 0
        if detected:
            parts["detect"] = 4.2e-3 * slow * random.lognormal(0, 0.1)
        graphs = sum(parts[name] for name in ("face", "voice", "fusion"))
        step = graphs + parts["decide"] + parts.get("detect", 0.0)
        parts |= {"update": graphs, "step" if detected else "step_tracked": step, "step_all": step}
        parts["latency"] = step + parts["deliver"]
        for name, seconds in parts.items():
            found.setdefault(name, []).append(float(seconds))
    return found


def figures(seconds: list[float]) -> dict[str, Any]:
    """The figures of one stage in milliseconds, with intervals that are 3 % wide."""
    ranked = sorted(seconds)
    middle = {part: 1e3 * ranked[math.ceil(int(part[1:]) * len(ranked) / 100) - 1] for part in PARTS}
    return {
        **middle,
        "low": {part: 0.98 * value for part, value in middle.items()},
        "high": {part: 1.01 * value if part != "p99" else None for part, value in middle.items()},
        "mean": 1e3 * fmean(seconds),
        "min": 1e3 * min(seconds),
        "max": 1e3 * max(seconds),
        "cv": pstdev(seconds) / fmean(seconds),
        "n": len(seconds),
    }


def _conditions(clock: int, degrees: float, load: list[float], ticks: int) -> dict[str, Any]:
    return {
        "clocks": {"lowest": clock - 100, "mean": clock - 50, "highest": clock, "limit": None},
        "governors": [],
        "load": load,
        "cpu": {"total": ticks, "busy": ticks // 2, "stolen": 0, "own": 5},
        "temperatures": {"x86_pkg_temp": degrees},
        "gpu": None,
        "power_mode": "25W",
        "power_modes": ["15W", "25W"],
        "on_battery": False,
    }


def report(found: dict[str, list[float]], **changed: Any) -> dict[str, Any]:
    """The report of samples with every figure that one can have; `changed` replaces some."""
    stages = {name: figures(found[name]) for name in STAGES if name in found}
    graphs = {
        name: {
            "multiply_adds": {"int8": adds, "fp32": adds // 10},
            "bytes": {"weights": size, "activations": 80_000},
            "operators": 61,
            "floor": 0.4 * stages[name]["p50"],
            "ratio": 2.5,
        }
        for name, adds, size in (
            ("face", 21_000_000, 310_000),
            ("voice", 14_000_000, 220_000),
            ("fusion", 4_000_000, 90_000),
        )
        if name in stages
    }
    scanned = [
        {
            "value": faces,
            "update": figures([(0.3 + 0.3 * faces) * seconds for seconds in found["update"]]),
            "face": figures([(0.3 + 0.4 * faces) * seconds for seconds in found["face"]]),
            "encodings": {"face": "int8-cpu", "voice": "fp32"},
        }
        for faces in (1, 2, 4, 8, 16)
    ]
    made = {
        "schema": 1,
        "bundle": "default",
        "source": "clip.mp4",
        "when": "2026-03-04T10:11:12Z",
        "seconds": 60.0,
        "steps": len(found["step_all"]),
        "scenario": "single-stream",
        "stages": stages,
        "throughput": 412.3,
        "overhead": 0.041,
        "overhead_tracked": 0.083,
        "live": {
            "result_age": figures([0.05 + seconds for seconds in found["update"]]),
            "dropped": {"dropped_frames": 3},
            "drop_rate": 0.0125,
        },
        "warm_up": {"seconds": 0.8, "steps": 61, "stable": True},
        "enough": {"p50": True, "p99": False},
        "early_stopping": {"update": {"p90": 0.61, "p99": None}, "latency": {"p90": 4.2, "p99": None}},
        "advice": "p99 from 500 samples: give --seconds 60",
        "floor": {
            "rates": {"int8": 193.0, "fp32": 49.0},
            "graphs": graphs,
            "update": {"floor": sum(one["floor"] for one in graphs.values()), "ratio": 2.5},
        },
        "start_up": {
            "import": 141.0,
            "load": 92.0,
            "first": 311.0,
            "total": 544.0,
            "lowest": {"import": 131.0, "load": 82.0, "first": 301.0, "total": 514.0},
            "processor": 612.0,
            "runs": 5,
            "compiled": 77,
        },
        "memory": {"import": 41.0, "loaded": 88.5, "steady": 102.3, "peak": 119.7},
        "engine_build": {"face": 31.5},
        "scan": {
            "faces": scanned,
            "precision": [{**scanned[0], "value": "int8"}, {**scanned[1], "value": "fp32"}],
        },
        "conditions": {
            "before": _conditions(2900, 51.0, [0.1, 0.1, 0.0], 7_000),
            "after": _conditions(3100, 63.5, [0.9, 0.3, 0.1], 19_000),
            "throttled": ["cpu-throttle-alert"],
            "warnings": ["Coefficient of variation 12 %: clocks changed"],
        },
        "energy": {
            "source": "rapl",
            "scope": "the processor alone",
            "watts": 7.1,
            "idle_watts": 2.25,
            "joules_per_emotion": 0.0123,
            "joules_per_emotion_above_idle": 0.0084,
            "rails": {"package-0": 7.1},
        },
        "gpu": {
            "timing": "cuda events",
            "transfers": True,
            "graph": True,
            "spin_wait": False,
            "graphs": {
                "face": {
                    "engine": "tensorrt 10.3",
                    "encoding": "fp16",
                    "throughput": 3210.0,
                    **{part: figures(found["face"]) for part in ("latency", "enqueue", "compute")},
                    "trtexec": "trtexec --loadEngine=face.engine --useSpinWait",
                }
            },
        },
        "backend": "auto",
        "precision": "int8",
        "threads": 1,
        "graphs": {name: {"engine": "onnxruntime 1.23.2 CPU", "encoding": "int8-cpu"} for name in graphs},
        "detector": "cascade",
        "machine": {
            "system": "Linux 6.1",
            "architecture": "x86_64",
            "processor": "Some CPU @ 2.9 GHz",
            "cores": 8,
            "governor": None,
            "clock": None,
            "highest_clock": None,
        },
        "versions": {"edgeemo": "0.1.0", "python": "3.11.7", "onnxruntime": "1.23.2"},
    }
    return {**made, **changed}
