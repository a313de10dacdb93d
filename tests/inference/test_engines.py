from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeemo.inference import engines
from edgeemo.inference.engines import KEPT, EngineKey, EngineStore, Missing, Stored
from tests.support.read_only import mount_read_only

KEY = EngineKey(
    bundle="tiny",
    graph="face",
    model="ab" * 32,
    encoding="int8",
    profiles={"face": [[1, 8, 8, 1], [1, 8, 8, 1], [16, 8, 8, 1]]},
    tensorrt="10.3.0",
    cuda=12,
    capability="8.7",
    device="Orin",
    settings={"optimization_level": 3, "workspace": 1 << 28},
)
PLAN = b"a plan " * 100
REPORT = {"seconds": 1.5, "layers": [{"name": "conv", "precision": "int8"}], "findings": []}


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    return EngineStore(tmp_path / "cache" / "engines")


def keep(store: EngineStore, key: EngineKey = KEY, plan: bytes = PLAN) -> Path:
    with store.locked(never) as wrong:
        assert not wrong
        path = store.publish(Stored(key, plan, REPORT)).path
    assert path is not None
    return path


def never() -> None:
    raise AssertionError("nobody holds the lock")


def reason(store: EngineStore, key: EngineKey = KEY) -> str:
    found = store.find(key)
    assert isinstance(found, Missing)
    return found.reason


# --- keys


@pytest.mark.parametrize(
    ("name", "value", "change"),
    [
        ("model", "cd" * 32, "another graph"),
        ("encoding", "fp16", "encoding int8 -> fp16"),
        (
            "profiles",
            {"face": [[1, 8, 8, 1], [1, 8, 8, 1], [4, 8, 8, 1]]},
            "profiles: face [[1, 8, 8, 1], [1, 8, 8, 1], [16, 8, 8, 1]] -> "
            "[[1, 8, 8, 1], [1, 8, 8, 1], [4, 8, 8, 1]]",
        ),
        ("tensorrt", "10.7.0", "TensorRT 10.3.0 -> 10.7.0"),
        ("cuda", 13, "CUDA 12 -> 13"),
        ("capability", "11.0", "compute capability 8.7 -> 11.0"),
        ("device", "Thor", "device Orin -> Thor"),
        ("settings", {**KEY.settings, "optimization_level": 5}, "settings: optimization_level 3 -> 5"),
        ("calibration", "ef" * 32, "another calibration"),
        ("format", 2, "builder 1 -> 2"),
    ],
)
def test_another_of_these_is_another_engine(name: str, value: Any, change: str, store: EngineStore) -> None:
    changed: EngineKey = replace(KEY, **{name: value})
    assert changed.digest != KEY.digest
    keep(store)
    # An engine in another encoding stands beside it, and replaces nothing.
    assert reason(store, changed) == ("" if name == "encoding" else f"the engine of face is stale ({change})")


def test_names_alone_are_no_other_engine() -> None:
    assert replace(KEY, bundle="robot").digest == KEY.digest


@pytest.mark.parametrize("bundle", ["../../etc", "my model", "a.json", "\0", "x" * 500, "été"])
def test_a_name_of_a_bundle_leaves_the_folder_never(bundle: str, store: EngineStore) -> None:
    key = replace(KEY, bundle=bundle)
    assert keep(store, key).parent == store.place
    assert isinstance(store.find(key), Stored)


# --- found and not found


def test_what_was_kept_is_found(store: EngineStore) -> None:
    assert store.find(KEY) == Missing()
    path = keep(store)
    assert path.name == f"tiny-face-int8-{KEY.digest[:16]}.engine"
    found = store.find(KEY)
    assert isinstance(found, Stored)
    assert (found.plan, found.report, found.path) == (PLAN, REPORT, path)
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert sidecar["plan"] == {"bytes": len(PLAN), "sha256": found.sha256}
    assert sidecar["key"] == KEY.fields


def test_a_tuple_in_a_key_is_the_list_that_it_becomes(store: EngineStore) -> None:
    key = replace(KEY, profiles={"face": ((1, 8, 8, 1),)})
    keep(store, key)
    assert isinstance(store.find(key), Stored)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(sidecar: Path, **values: Any) -> None:
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **values}))


@pytest.mark.parametrize(
    ("harm", "wrong"),
    [
        (lambda engine, sidecar: flip(engine), "damaged: its file is not the one that was written"),
        (lambda engine, sidecar: engine.write_bytes(PLAN[:-1]), "damaged: its file is not the one"),
        (lambda engine, sidecar: engine.write_bytes(b""), "damaged: its file is not the one"),
        (lambda engine, sidecar: engine.unlink(), "damaged: its file is missing"),
        (lambda engine, sidecar: sidecar.unlink(), "half-written: its description is missing"),
        (lambda engine, sidecar: sidecar.write_bytes(b""), "damaged: its description is no JSON"),
        (lambda engine, sidecar: sidecar.write_bytes(b"\xff\xfe"), "damaged: its description is no JSON"),
        (lambda engine, sidecar: sidecar.write_bytes(b"[" * 100_000), "damaged: its description is no JSON"),
        (lambda engine, sidecar: sidecar.write_text("[]"), "damaged: its description does not say"),
        (lambda engine, sidecar: edit(sidecar, report=None), "damaged: its description does not say"),
        (lambda engine, sidecar: edit(sidecar, key={}), "damaged: its description is that of another"),
        (lambda engine, sidecar: (engine.unlink(), engine.mkdir()), "not used: Is a directory"),
    ],
)
def test_what_is_damaged_is_not_handed_out(harm: Any, wrong: str, store: EngineStore) -> None:
    engine = keep(store)
    harm(engine, engine.with_suffix(".json"))
    assert reason(store).startswith(f"the engine of face is {wrong}")


def test_what_is_damaged_is_replaced(store: EngineStore) -> None:
    flip(keep(store))
    keep(store)
    assert isinstance(store.find(KEY), Stored)


def test_no_path_of_a_description_is_followed(store: EngineStore, tmp_path: Path) -> None:
    (tmp_path / "evil").write_bytes(b"evil")
    edit(keep(store).with_suffix(".json"), path=str(tmp_path / "evil"), name="../evil")
    found = store.find(KEY)
    assert isinstance(found, Stored) and found.plan == PLAN


# --- trust


@pytest.mark.parametrize("suffix", [".engine", ".json"])
@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_that_others_may_write_is_refused(suffix: str, mode: int, store: EngineStore) -> None:
    path = keep(store).with_suffix(suffix)
    path.chmod(mode)
    assert f"others may write to {path}" in reason(store)
    assert "chmod go-w" in reason(store)


def test_a_folder_that_others_may_write_is_refused_and_not_written(store: EngineStore) -> None:
    place = keep(store).parent
    place.chmod(0o775)
    assert f"others may write to {place}" in reason(store)
    with store.locked(never) as wrong:
        assert wrong is not None and wrong == store.unwritable()
        assert wrong.reason == f"others may write to {place}, and an engine is code"
        assert wrong.remedy == f"'chmod go-w {place}' says that they may not"


def test_a_folder_of_another_user_is_not_written(store: EngineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    place = keep(store).parent
    user = place.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: user + 1000)
    monkeypatch.setattr(engines, "_ROOT", user + 1)
    with store.locked(never) as wrong:
        assert wrong is not None and wrong == store.unwritable()
        assert wrong.reason == f"{place} belongs to user {user}, and an engine is code"
        assert wrong.remedy == f"'sudo chown -R {user + 1000} {place}' gives it to this user"


@pytest.mark.parametrize(("owner", "trusted"), [("own", True), ("root", True), ("other", False)])
def test_an_engine_of_another_user_is_refused(
    owner: str, trusted: bool, store: EngineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = keep(store)
    user = engine.stat().st_uid
    if owner == "root" and user != 0:
        pytest.skip("only root can make a file of root's")
    monkeypatch.setattr(os, "geteuid", lambda: user if owner == "own" else user + 1000)
    if owner == "other":
        monkeypatch.setattr(engines, "_ROOT", user + 1)
    found = store.find(KEY)
    assert isinstance(found, Stored) == trusted
    if isinstance(found, Missing):
        assert f"belongs to user {user}, and an engine is code" in found.reason


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_no_umask_makes_an_engine_that_is_refused(umask: int, store: EngineStore) -> None:
    before = os.umask(umask)
    try:
        keep(store)
    finally:
        os.umask(before)
    assert isinstance(store.find(KEY), Stored)


# --- where nothing can be kept


def test_without_a_folder(tmp_path: Path) -> None:
    store = EngineStore(None)
    assert store.find(KEY) == Missing()
    assert store.timing_cache(KEY) == b"" and store.settings(KEY) is None
    with store.locked(never) as wrong:
        assert str(wrong) == "this user has no home and so no cache folder"
    assert wrong == store.unwritable()


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("EDGEEMO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert EngineStore.default().place is None


def test_the_place_of_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEEMO_CACHE", str(tmp_path))
    assert EngineStore.default().place == tmp_path / "engines"


def test_a_place_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = EngineStore(tmp_path / "file" / "engines")
    assert reason(store).startswith("the engine of face is not used: Not a directory")
    with store.locked(never) as wrong:
        assert "Not a directory" in str(wrong) and str(tmp_path / "file") in str(wrong)
    found = store.unwritable()
    assert found is not None and found.reason in reason(store) and found.remedy == ""


def test_a_place_that_can_be_made_is_not_made_to_know_that(store: EngineStore, tmp_path: Path) -> None:
    assert store.unwritable() is None
    assert list(tmp_path.iterdir()) == []
    keep(store)
    assert store.unwritable() is None


def test_a_folder_without_the_right_to_write(store: EngineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    place = keep(store).parent
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != place)  # root has every right
    wrong = store.unwritable()
    assert wrong is not None and wrong.reason == f"{place} cannot be written"


def test_a_ready_made_folder_is_read_without_a_lock(
    store: EngineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (keep(store).parent / engines.LOCK).unlink()
    mount_read_only(monkeypatch)
    assert isinstance(store.find(KEY), Stored)
    with store.locked(never) as wrong:
        assert str(wrong).startswith("Read-only file system: ")


def test_a_full_disk_leaves_no_half(store: EngineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with store.locked(never), pytest.raises(OSError, match="No space"):
        store.publish(Stored(KEY, PLAN, REPORT))
    assert store.place is not None and os.listdir(store.place) == [engines.LOCK]


@pytest.mark.parametrize("rebuilt", [False, True])
def test_an_engine_without_room_for_its_description_is_taken_away(
    rebuilt: bool, store: EngineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = keep(store, replace(KEY, graph="voice")).parent
    others = set(os.listdir(place))
    if rebuilt:
        keep(store).with_name(f"{KEY.name}.abcd.choice.json").touch(mode=0o644)
    real = EngineStore.write

    def write(store: EngineStore, name: str, content: bytes) -> None:
        if name.endswith(".json"):
            raise OSError(28, "No space left on device")
        real(store, name, content)

    monkeypatch.setattr(EngineStore, "write", write)
    with store.locked(never), pytest.raises(OSError, match="No space"):
        store.publish(Stored(KEY, PLAN + b"anew", REPORT))
    assert set(os.listdir(place)) == others


def test_an_engine_that_cannot_be_replaced_stays(store: EngineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(store)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with store.locked(never), pytest.raises(OSError, match="No space"):
        store.publish(Stored(KEY, PLAN + b"anew", REPORT))
    found = store.find(KEY)
    assert isinstance(found, Stored) and found.plan == PLAN


def test_a_folder_in_the_place_of_an_engine_is_named(store: EngineStore) -> None:
    engine = keep(store)
    engine.unlink()
    engine.mkdir()
    with store.locked(never), pytest.raises(OSError, match="directory") as caught:
        store.publish(Stored(KEY, PLAN, REPORT))
    assert engines.said(caught.value) == f"Is a directory: {engine}"


# --- the lock

HOLDER = """
import sys, time
from pathlib import Path
from edgeemo.inference.engines import EngineStore
with EngineStore(Path(sys.argv[1])).locked(lambda: None) as wrong:
    print(f"held {wrong or ''}", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(store: EngineStore) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.place)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held \n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_killed_owner_holds_the_lock_no_longer(store: EngineStore, holder: subprocess.Popen[str]) -> None:
    waited = []

    def kill() -> None:
        waited.append(time.monotonic())
        holder.kill()  # as a crash, it cannot clean up

    with store.locked(kill) as wrong:
        assert not wrong
        assert time.monotonic() - waited[0] < 10
    assert len(waited) == 1


def test_a_second_lock_waits_for_the_first(store: EngineStore) -> None:
    with store.locked(never):
        pass
    with store.locked(never):  # it was given back
        pass


def test_a_file_system_without_locks(store: EngineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(handle: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    keep(store)
    assert isinstance(store.find(KEY), Stored)


# --- what is kept beside, and for how long


def test_old_engines_are_dropped_with_what_belongs_to_them(store: EngineStore) -> None:
    others = [replace(KEY, device="Thor"), replace(KEY, encoding="fp16"), replace(KEY, graph="voice")]
    for key in others:
        keep(store, key)
    keys = [replace(KEY, tensorrt=f"10.{minor}.0") for minor in range(KEPT + 2)]
    for key in keys:
        path = keep(store, key)
        path.with_name(f"{key.name}.abcd.choice.json").touch(mode=0o644)
    assert [isinstance(store.find(key), Stored) for key in keys] == [False, False] + [True] * KEPT
    assert all(isinstance(store.find(key), Stored) for key in others)
    assert store.place is not None
    assert len(list(store.place.glob("*.choice.json"))) == KEPT


def test_an_engine_that_is_asked_for_again_is_not_the_oldest(store: EngineStore) -> None:
    keys = [replace(KEY, tensorrt=f"10.{minor}.0") for minor in range(KEPT + 1)]
    for key in keys[:-1]:
        keep(store, key)
    store.prefer(keys[0])
    keep(store, keys[-1])
    assert [isinstance(store.find(key), Stored) for key in keys] == [True, False, True, True, True]


def test_the_settings_that_were_asked_for_last(store: EngineStore) -> None:
    assert store.settings(KEY) is None
    quick = replace(KEY, settings={"optimization_level": 0})
    keep(store)
    keep(store, quick)
    keep(store, replace(quick, device="Thor", settings={"optimization_level": 5}))
    assert store.settings(replace(KEY, tensorrt="10.7.0")) == quick.settings
    store.prefer(KEY)
    assert store.settings(KEY) == KEY.settings


def test_what_a_dead_writer_left_is_swept_up(store: EngineStore) -> None:
    left = keep(store).parent / ".tiny-face.abcd.tmp"
    left.touch()
    keep(store)
    assert not left.exists()


def test_why_a_build_failed_is_kept_until_one_does_not(store: EngineStore) -> None:
    assert store.failure(KEY) == ""
    with store.locked(never):
        store.note_failure(KEY, "graph 'face': out of memory")
    assert store.failure(KEY) == "graph 'face': out of memory"
    assert store.failure(replace(KEY, tensorrt="10.7.0")) == ""
    assert store.find(KEY) == Missing()
    keep(store)
    assert store.failure(KEY) == ""


def test_timing_caches(store: EngineStore) -> None:
    assert store.timing_cache(KEY) == b""
    with store.locked(never):
        store.keep_timing_cache(KEY, b"kernels")
    assert store.timing_cache(replace(KEY, graph="voice", encoding="fp16")) == b"kernels"
    assert store.timing_cache(replace(KEY, tensorrt="10.7.0")) == b""
    assert store.timing_cache(replace(KEY, device="Thor")) == b""
