from __future__ import annotations

import io
import json
import stat
import zipfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeemo.errors import InputError
from edgeemo.inference.bundle import Bundle
from edgeemo_calibration.sets import CalibrationSet, check_new, new_folder
from tests.support.tiny import Tiny, write_bundle

RANDOM = np.random.default_rng(0)
FACE = RANDOM.integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
VOICE = RANDOM.normal(0, 0.1, (3, 1600)).astype(np.float32)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    CalibrationSet({"face": FACE, "voice": VOICE}, {"seed": 3}).write(tmp_path / "set")
    return tmp_path / "set"


def test_what_is_written_is_read(written: Path) -> None:
    whole = CalibrationSet.read(written)
    np.testing.assert_array_equal(whole.arrays["face"], FACE)
    np.testing.assert_array_equal(whole.arrays["voice"], VOICE)
    assert whole.about["seed"] == 3
    assert whole.about["sha256"] == whole.sha256


def test_arrays_of_any_order_in_memory_are_written(tmp_path: Path) -> None:
    whole = CalibrationSet({"voice": np.asfortranarray(VOICE)}, {})
    whole.write(tmp_path / "set")
    np.testing.assert_array_equal(CalibrationSet.read(tmp_path / "set").arrays["voice"], VOICE)


def test_the_files_are_private(written: Path) -> None:
    assert [stat.S_IMODE(path.stat().st_mode) for path in sorted(written.iterdir())] == [0o600, 0o600]
    assert stat.S_IMODE(written.stat().st_mode) == 0o700
    assert "pictures and sound of people" in json.loads((written / "set.json").read_text())["private"]


def test_the_digest_is_of_names_types_shapes_and_values() -> None:
    digest = CalibrationSet({"face": FACE, "voice": VOICE}, {}).sha256
    assert CalibrationSet({"voice": VOICE, "face": FACE}, {"seed": 1}).sha256 == digest
    changed = VOICE.copy()
    changed[2, 5] += 1
    others: list[dict[str, Any]] = [
        {"face": FACE},
        {"face": FACE, "voice": changed},
        {"face": FACE[::-1], "voice": VOICE},
    ]
    for arrays in others:
        assert CalibrationSet(arrays, {}).sha256 != digest
    assert (
        CalibrationSet({"voice": VOICE}, {}).sha256
        != CalibrationSet({"voice": VOICE.reshape(6, 800)}, {}).sha256
    )


def test_feeds_hold_sixteen_faces_or_one_voice() -> None:
    whole = CalibrationSet({"face": FACE, "voice": VOICE}, {})
    assert [feed["face"].shape[0] for feed in whole.feeds("face")] == [16, 4]
    np.testing.assert_array_equal(np.concatenate([feed["face"] for feed in whole.feeds("face")]), FACE)
    assert [feed["voice"].shape for feed in whole.feeds("voice")] == [(1, 1600)] * 3
    with pytest.raises(InputError, match="no voice; it has face"):
        next(CalibrationSet({"face": FACE}, {}).feeds("voice"))


@pytest.mark.parametrize(
    ("arrays", "error"),
    [
        ({}, "is empty"),
        ({"text": FACE}, "holds 'text'"),
        ({"face": FACE[:0]}, "none of them 0"),
        ({"face": FACE[0]}, "with 4 axes"),
        ({"face": FACE.astype(np.float32)}, "float32"),
        ({"voice": VOICE.astype(np.float64)}, "float64"),
        ({"voice": np.full((1, 4), np.nan, np.float32)}, "not finite"),
    ],
)
def test_arrays_that_no_encoder_reads_are_refused(arrays: dict[str, Any], error: str) -> None:
    with pytest.raises(InputError, match=error):
        CalibrationSet(arrays, {})


@pytest.mark.parametrize(
    ("tiny", "error"),
    [
        (Tiny(), None),
        (Tiny(size=(8, 9)), r"face of the calibration set is \[8, 8, 1\] each; tiny reads \[8, 9, 1\]"),
        (Tiny(context=800), r"voice of the calibration set is \[1600\] each"),
        (Tiny(modalities=("voice",)), "has face, which tiny does not read"),
    ],
)
def test_shapes_are_held_to_the_bundle(tmp_path: Path, tiny: Tiny, error: str | None) -> None:
    bundle = Bundle.read(write_bundle(tmp_path, tiny))
    whole = CalibrationSet({"face": FACE, "voice": VOICE}, {})
    if error is None:
        whole.check(bundle)
    else:
        with pytest.raises(InputError, match=error):
            whole.check(bundle)


def test_a_set_does_not_replace_anything(written: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name a new folder"):
        CalibrationSet({"face": FACE}, {}).write(written)
    assert CalibrationSet.read(written).arrays.keys() == {"face", "voice"}
    (tmp_path / "empty").mkdir()
    check_new(tmp_path / "empty")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="there already"):
        check_new(tmp_path / "file")


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(file: Any, **arrays: Any) -> None:
        file.write(b"a piece")
        raise OSError("the disk is full")

    monkeypatch.setattr(np, "savez", fails)
    with pytest.raises(OSError, match="full"):
        CalibrationSet({"face": FACE}, {}).write(tmp_path / "set")
    assert not list((tmp_path / "set").iterdir())

    def is_full(file: Any, **arrays: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", is_full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        CalibrationSet({"face": FACE}, {}).write(tmp_path / "set")
    assert caught.value.filename == str(tmp_path / "set")
    with pytest.raises(InputError, match="not JSON"):
        CalibrationSet({"face": FACE}, {"seed": object()}).write(tmp_path / "other")


def rewrite(folder: Path, **arrays: Any) -> None:
    np.savez(folder / "items.npz", **arrays)


def change(folder: Path, **entries: Any) -> None:
    about = json.loads((folder / "set.json").read_text())
    (folder / "set.json").write_text(json.dumps({**about, **entries}))


def lie(folder: Path) -> None:
    """A header that asks for a hundred gigabytes, with `set.json` agreeing."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (100 << 30, 1, 1, 1)}
    )
    with zipfile.ZipFile(folder / "items.npz", "w") as archive:
        archive.writestr("face.npy", header.getvalue() + b"12345")
    change(folder, arrays={"face": {"dtype": "uint8", "shape": [100 << 30, 1, 1, 1]}})


def compress(folder: Path) -> None:
    np.savez_compressed(folder / "items.npz", face=FACE, voice=VOICE)


def leave(folder: Path) -> None:
    (folder / "items.npz").rename(folder.parent / "elsewhere.npz")
    (folder / "items.npz").symlink_to(folder.parent / "elsewhere.npz")


def pickle(folder: Path) -> None:
    rewrite(folder, face=np.array([{"a": 1}], dtype=object), voice=VOICE)
    change(
        folder,
        arrays={"face": {"dtype": "object", "shape": [1]}, "voice": {"dtype": "float32", "shape": [3, 1600]}},
    )


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda folder: (folder / "set.json").unlink(), "it has no set.json"),
        (lambda folder: (folder / "items.npz").unlink(), "it has no items.npz"),
        (lambda folder: (folder / "set.json").write_text("{"), "not a JSON file"),
        (lambda folder: (folder / "set.json").write_text("[" * 100_000), "not a JSON file"),
        (lambda folder: (folder / "set.json").write_text("[]"), '"schema": 1'),
        (lambda folder: change(folder, schema=2), '"schema": 1'),
        (lambda folder: change(folder, schema=True), '"schema": 1'),
        (lambda folder: change(folder, arrays={"a\n\x1b[31m": {}}), r"set.json says 'a\\n\\x1b\[31m'$"),
        (lambda folder: change(folder, arrays=None), "'arrays' must be an object"),
        (lambda folder: change(folder, sha256="0" * 64), "have the sha256"),
        (lambda folder: (folder / "items.npz").write_bytes(b"PK\3\4 no"), "not a file of arrays"),
        (lambda folder: rewrite(folder, face=FACE), "it holds 'face.npy'"),
        (lambda folder: rewrite(folder, face=FACE, voice=VOICE, more=VOICE), "more.npy"),
        (lambda folder: rewrite(folder, face=FACE[:5], voice=VOICE), r"face.npy is uint8 \[5, 8, 8, 1\]"),
        (lambda folder: rewrite(folder, face=FACE, voice=VOICE + 1), "have the sha256"),
        (
            lambda folder: rewrite(folder, face=FACE, voice=np.asfortranarray(VOICE)),
            "in the order of columns",
        ),
        (compress, "is compressed"),
        (lie, "has 5 bytes"),
        (leave, "a link that leaves the folder"),
        (pickle, "which is not object"),
    ],
)
def test_damaged_sets_are_named(written: Path, damage: Callable[[Path], Any], error: str) -> None:
    damage(written)
    with pytest.raises(InputError, match=error):
        CalibrationSet.read(written)


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        CalibrationSet.read(tmp_path / "nowhere")


def test_a_new_folder_stays_where_something_is_in_it(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a"):
        pass
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "b"):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "c"):
        (tmp_path / "c" / "note").write_text("kept")
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "a"):  # it was there before
        raise ZeroDivisionError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]
    with pytest.raises(InputError, match="it is a file; name a folder"), new_folder(tmp_path / "c" / "note"):
        pass


NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("about", "error"),
    [
        ({}, None),
        ({"expires_first": "2030-01-02T03:04:06Z"}, None),
        ({"expires_first": "2030-01-02T03:04:05Z"}, "were to be deleted by 2030-01-02T03:04:05Z: delete it"),
        ({"expires_first": "soon"}, "says expires_first 'soon'; it must be like 2030-01-02T03:04:05Z"),
        ({"expires_first": 7}, "says expires_first 7"),
    ],
)
def test_a_set_is_kept_as_long_as_its_sessions(about: dict[str, Any], error: str | None) -> None:
    held = CalibrationSet({"voice": np.zeros((1, 8), np.float32)}, about)
    if error is None:
        held.refuse_expired(NOW)
    else:
        with pytest.raises(InputError, match=error):
            held.refuse_expired(NOW)
