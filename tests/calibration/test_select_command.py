from __future__ import annotations

import json
import shutil
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeemo.errors import CheckFailed, InputError, SourceError
from edgeemo.inference.backend import open_graphs
from edgeemo.inference.bundle import Bundle
from edgeemo_calibration.cli import main
from edgeemo_calibration.representative import select
from edgeemo_calibration.sets import CalibrationSet
from tests.calibration.test_candidates import write_session
from tests.support.recordings import noise, write_flac, write_manifest, write_picture, write_wav
from tests.support.tiny import Tiny, write_bundle

SPEAKERS = ("anna", "bela", "cora", "dino")
LABELS = ("anger", "fear")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.read(write_bundle(tmp_path_factory.mktemp("bundle"), Tiny()))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four speakers, two classes and three loudnesses, as a manifest; a picture each."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for place, speaker in enumerate(SPEAKERS):
        for number, label in enumerate(LABELS):
            for step, amplitude in enumerate((0.005, 0.03, 0.2)):
                name = f"{speaker}-{label}-{step}"
                write_wav(folder / f"{name}.wav", noise(100 * place + 10 * number + step, 0.6, amplitude))
                write_picture(folder / f"{name}.png", 30 + 60 * step + 10 * place + number)
                rows.append((label, speaker, f"{name}.png", f"{name}.wav"))
    write_manifest(folder / "all.csv", ("label", "speaker", "face", "voice"), rows)
    return folder


def chosen(corpus: Path, bundle: Bundle, **options: Any) -> CalibrationSet:
    return select([corpus / "all.csv"], bundle, face_is_cropped=True, **{"count": 24, **options})


def test_every_speaker_class_and_bin_is_covered(corpus: Path, bundle: Bundle) -> None:
    whole = chosen(corpus, bundle)
    whole.check(bundle)
    voice, face = whole.about["chosen"]["voice"], whole.about["chosen"]["face"]
    assert voice["strata"] == {"seen": 24, "chosen": 24}
    assert voice["candidates"] == 24 * 6
    assert voice["coverage"]["loudness"].keys() == {"-50", "-40", "-20"}
    for entry in (voice, face):
        assert entry["count"] == 24
        for attribute in ("speaker", "label"):
            assert all(after > 0 for _, after in entry["coverage"][attribute].values())
        for counts in entry["coverage"].values():
            assert sum(after for _, after in counts.values()) == 24
            assert sum(before for before, _ in counts.values()) == entry["candidates"]
    assert [item["speaker"] for item in voice["items"]].count("anna") == 6


def test_few_still_cover_everybody(corpus: Path, bundle: Bundle) -> None:
    voice = chosen(corpus, bundle, count=4).about["chosen"]["voice"]
    assert Counter(item["speaker"] for item in voice["items"]) == dict.fromkeys(SPEAKERS, 1)
    assert Counter(item["label"] for item in voice["items"]) == dict.fromkeys(LABELS, 2)
    assert len({item["loudness"] for item in voice["items"]}) == 3


def test_the_same_sources_give_the_same_set(corpus: Path, bundle: Bundle) -> None:
    first, again = chosen(corpus, bundle), chosen(corpus, bundle)
    assert first.sha256 == again.sha256
    assert first.about == again.about
    assert chosen(corpus, bundle, seed=1).sha256 != first.sha256


def test_the_order_of_the_sources_changes_nothing(corpus: Path, bundle: Bundle, tmp_path: Path) -> None:
    parts = []
    for speaker in SPEAKERS:
        rows = [("fear", speaker, f"{corpus}/{speaker}-fear-{step}.wav") for step in range(3)]
        parts.append(write_manifest(tmp_path / f"{speaker}.csv", ("label", "speaker", "voice"), rows))
    session = write_session(tmp_path / "s", noise(9, 0.5))
    sources = [*parts, session]
    # A limit below what there is, so that candidates are dropped on the way.
    first, second = (select(order, bundle, count=10, most=12) for order in (sources, sources[::-1]))
    assert first.about == second.about
    assert first.sha256 == second.sha256


def test_what_is_chosen_is_closer_to_all_than_chance(default_bundle: Path, tmp_path: Path) -> None:
    """Tones of 9 pitches, one far more often than the others: a random choice misses some of them."""
    time = np.arange(6400) / 8000
    for number in range(16):
        pitch = 150.0 if number < 8 else 100.0 * 1.5 ** (number - 8)
        tone = np.rint(3000 * np.sin(2 * np.pi * pitch * time)) + noise(number, 0.8, 0.001)
        write_wav(tmp_path / "tones" / f"{number}.wav", tone.astype(np.int16))
    bundle = Bundle.read(default_bundle)
    few, everything = (select([tmp_path / "tones"], bundle, count=count) for count in (10, 1000))
    radius = few.about["chosen"]["voice"]["radius"]
    assert radius["chosen"] < 0.9 * radius["random"]
    graph = open_graphs(bundle, "onnx", "fp32")["voice"]
    near, all_ = (
        np.concatenate([graph.run(feed)["tokens"].copy() for feed in one.feeds("voice")])
        for one in (few, everything)
    )
    near, all_ = (tokens / np.linalg.norm(tokens, axis=1, keepdims=True) for tokens in (near, all_))
    distances = np.linalg.norm(all_[:, None] - near[None], axis=2)
    assert radius["chosen"] == pytest.approx(float(distances.min(axis=1).max()), abs=1e-4)


def test_text_about_the_set_names_no_folder(corpus: Path, bundle: Bundle) -> None:
    text = json.dumps(chosen(corpus, bundle).about)
    assert str(corpus) not in text
    assert corpus.name not in text
    assert "anna-fear-0.wav" in text


def test_silence_and_pictures_without_faces_are_left_out_and_counted(bundle: Bundle, tmp_path: Path) -> None:
    write_wav(tmp_path / "h" / "1.wav", noise(1, 0.5))
    write_wav(tmp_path / "h" / "2.wav", noise(1, 0.5) * 0)
    (tmp_path / "h" / "notes.txt").write_text("not media")
    source = select([tmp_path / "h"], bundle, count=3).about["sources"][0]
    assert source["silent_hops"] >= 5
    assert source["recordings"] == 2
    assert source["unreadable"] == 1
    with pytest.raises(
        InputError, match=r"nothing to calibrate on in .*2\.wav: 1 recordings .* 5 silent hops"
    ):
        select([tmp_path / "h" / "2.wav"], bundle)


@pytest.mark.parametrize(
    ("options", "error"),
    [({"count": 0}, "at least 1"), ({"count": 30, "most": 20}, "at least the count, 30")],
)
def test_counts_are_checked(corpus: Path, bundle: Bundle, options: dict[str, int], error: str) -> None:
    with pytest.raises(InputError, match=error):
        chosen(corpus, bundle, **options)


# --- leakage


def same_file(corpus: Path, folder: Path) -> list[Path]:
    return [corpus / "anna-fear-1.wav"]


def other_name(corpus: Path, folder: Path) -> list[Path]:
    (folder / "test").mkdir()
    shutil.copy(corpus / "cora-fear-2.wav", folder / "test" / "harmless.wav")
    return [folder / "test"]


def other_format(corpus: Path, folder: Path) -> list[Path]:
    return [write_flac(folder / "harmless.flac", noise(110, 0.6, 0.005))]  # bela, fear, step 0: 100 + 10


def same_picture(corpus: Path, folder: Path) -> list[Path]:
    shutil.copy(corpus / "anna-fear-1.png", folder / "x.png")
    return [folder / "x.png"]


def same_speaker(corpus: Path, folder: Path) -> list[Path]:
    write_wav(folder / "new.wav", noise(77, 0.5))
    return [write_manifest(folder / "t.csv", ("label", "speaker", "voice"), [("fear", "cora", "new.wav")])]


def test_row(corpus: Path, folder: Path) -> list[Path]:
    rows = [("fear", "", f"{corpus}/dino-fear-0.wav")]
    return [write_manifest(folder / "t.csv", ("label", "speaker", "voice"), rows)]


test_row.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("exclude", "error"),
    [
        (same_file, "anna-fear-1.wav is anna-fear-1.wav of the test material"),
        (other_name, "cora-fear-2.wav is harmless.wav"),
        (other_format, "bela-fear-0.wav is harmless.flac"),
        (same_picture, r"anna-fear-1.png is x.png of the test material \(face\)"),
        (same_speaker, "the same speakers: cora;"),
        (test_row, "dino-fear-0.wav is dino-fear-0.wav"),
    ],
)
def test_test_material_is_refused(
    corpus: Path,
    bundle: Bundle,
    tmp_path: Path,
    exclude: Callable[[Path, Path], list[Path]],
    error: str,
) -> None:
    with pytest.raises(CheckFailed, match=error):
        chosen(corpus, bundle, exclude=exclude(corpus, tmp_path))


def test_other_material_is_no_leak(corpus: Path, bundle: Bundle, tmp_path: Path) -> None:
    nearly = noise(0, 0.6, 0.005)
    nearly[17] += 1
    write_wav(tmp_path / "new.wav", nearly)
    rows = [("fear", "emil", "new.wav"), ("fear", "", "new.wav")]
    other = write_manifest(tmp_path / "t.csv", ("label", "speaker", "voice"), rows)
    whole = chosen(corpus, bundle, exclude=[other])
    assert whole.about["test"] == {"recordings": 2, "speakers": 1}
    assert whole.sha256 == chosen(corpus, bundle).sha256


def test_test_material_that_is_none_is_an_error(corpus: Path, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "notes.txt").write_text("not media")
    with pytest.raises(InputError, match="it holds no recording"):
        chosen(corpus, bundle, exclude=[tmp_path / "test"])


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([("train", "anna", "anna-fear-0"), ("test", "bela", "bela-fear-0")], None),
        ([("train", "anna", "anna-fear-0"), ("test", "anna", "anna-fear-1")], "the same speakers: anna"),
        ([("train", "", "anna-fear-0"), ("test", "", "anna-fear-0")], "anna-fear-0.wav is anna-fear-0.wav"),
    ],
)
def test_rows_of_the_split_test_are_held_out(
    corpus: Path, bundle: Bundle, tmp_path: Path, rows: list[tuple[str, str, str]], error: str | None
) -> None:
    lines = [("fear", split, speaker, f"{corpus}/{name}.wav") for split, speaker, name in rows]
    manifest = write_manifest(tmp_path / "m.csv", ("label", "split", "speaker", "voice"), lines)
    if error is not None:
        with pytest.raises(CheckFailed, match=error):
            select([manifest], bundle)
        return
    items = select([manifest], bundle).about["chosen"]["voice"]["items"]
    assert {item["recording"] for item in items} == {"anna-fear-0.wav"}


# --- sessions


def test_a_set_says_when_its_sessions_expire(bundle: Bundle, tmp_path: Path) -> None:
    for number, year in enumerate((2990, 2980, 2995)):
        expires = f"{year}-01-01T00:00:00Z"
        write_session(tmp_path / "all" / f"s{number}", noise(number, 0.5), expires)
    about = select([tmp_path / "all"], bundle, count=6).about
    assert about["expires_first"] == "2980-01-01T00:00:00Z"
    assert about["expires_last"] == "2995-01-01T00:00:00Z"
    assert about["chosen"]["voice"]["coverage"]["speaker"].keys() == {"s0", "s1", "s2"}
    one = select([tmp_path / "all"], bundle, count=1).about
    (item,) = one["chosen"]["voice"]["items"]
    year = {"s0": 2990, "s1": 2980, "s2": 2995}[item["recording"]]
    assert one["expires_first"] == one["expires_last"] == f"{year}-01-01T00:00:00Z"


def test_an_expired_session_is_not_used(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_session(tmp_path / "all" / "new", noise(1, 0.5))
    old = write_session(tmp_path / "all" / "old", noise(2, 0.5), "2020-01-01T00:00:00Z")
    about = select([tmp_path / "all"], bundle, count=6).about
    assert about["chosen"]["voice"]["coverage"]["speaker"].keys() == {"new"}
    assert "not replayed any more" in caplog.text
    with pytest.raises(SourceError, match="not replayed any more"):
        select([old], bundle)


# --- the command


def command(corpus: Path, bundle: Bundle, out: Path, *more: str) -> int:
    words = ["select", str(corpus / "all.csv"), "--face-is-cropped", "--bundle", str(bundle.path)]
    return main([*words, "--out", str(out), "--count", "8", *more])


def test_the_command_writes_a_set(
    corpus: Path, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(corpus, bundle, tmp_path / "set") == 0
    text = capsys.readouterr().out
    whole = CalibrationSet.read(tmp_path / "set")
    assert whole.sha256 in text
    assert "all.csv: 48 recordings, candidates: 24 face, 144 voice" in text
    assert "speaker: anna 2/36, bela 2/36, cora 2/36, dino 2/36" in text
    assert stat.S_IMODE((tmp_path / "set" / "items.npz").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
    assert [len(array) for array in whole.arrays.values()] == [8, 8]
    graphs = whole.about["bundle"]["graphs"]
    assert graphs == {name: bundle.files[f"{name}.fp32.onnx"][1] for name in ("face", "voice")}


def test_the_command_answers_in_json(
    corpus: Path, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(corpus, bundle, tmp_path / "set", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    whole = CalibrationSet.read(tmp_path / "set")
    assert said["sha256"] == whole.sha256
    assert said["chosen"]["voice"]["coverage"] == whole.about["chosen"]["voice"]["coverage"]
    assert "items" not in said["chosen"]["voice"]


@pytest.mark.parametrize(
    ("more", "status", "error"),
    [
        (("--not", "{corpus}/anna-fear-1.wav"), 1, "recordings are test material (1 found)"),
        (("--not", "{corpus}/nowhere.csv"), 2, "nowhere.csv: there is nothing"),
        (("--count", "0"), 2, "count is 0"),
        (("--seed", "-1"), 2, "seed is -1"),
        (("--bundle", "{corpus}"), 2, "manifest.json cannot be read"),
    ],
)
def test_the_command_fails_without_a_trace(
    corpus: Path,
    bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    status: int,
    error: str,
) -> None:
    words = [word.format(corpus=corpus) for word in more]
    assert command(corpus, bundle, tmp_path / "set", *words) == status
    assert error in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_replaces_nothing(
    corpus: Path, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    assert command(corpus, bundle, tmp_path) == 2
    assert "name a new folder, or an empty one" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


# --- real recordings


def test_real_voices_are_covered(data: Path, default_bundle: Path, tmp_path: Path) -> None:
    """Two actors of RAVDESS: every emotion and loudness of both, closer together than chance leaves them."""
    names = {"01": "neutral", "03": "happiness", "04": "sadness", "05": "anger"}
    rows = [
        (names[clip.stem.split("-")[2]], clip.parent.name, clip)
        for actor in ("actor_02", "actor_03")
        for clip in sorted((data / "ravdess_speech" / actor).glob("*-01-01-??.flac"))
        if clip.stem.split("-")[2] in names
    ]
    manifest = write_manifest(tmp_path / "m.csv", ("label", "speaker", "voice"), rows)
    entry = select([manifest], Bundle.read(default_bundle), count=64).about["chosen"]["voice"]
    assert entry["strata"]["seen"] == entry["strata"]["chosen"]
    assert entry["radius"]["chosen"] < entry["radius"]["random"]


def test_real_crops_are_covered(data: Path, default_bundle: Path, tmp_path: Path) -> None:
    import cv2

    with np.load(data / "ferplus" / "train.npz") as stored:
        crops = stored["images"][:200]
    (tmp_path / "faces").mkdir()
    for number, crop in enumerate(crops):
        assert cv2.imwrite(str(tmp_path / "faces" / f"{number}.png"), crop)
    whole = select([tmp_path / "faces"], Bundle.read(default_bundle), count=32, face_is_cropped=True)
    pictures = {crop.tobytes() for crop in crops}
    assert all(crop.tobytes() in pictures for crop in whole.arrays["face"])
    entry = whole.about["chosen"]["face"]
    assert entry["radius"]["chosen"] < entry["radius"]["random"]
    assert all(after > 0 for _, after in entry["coverage"]["light"].values())
