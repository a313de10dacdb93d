"""Adaptation to a place: what is held back, what is learnt, what is refused."""

from __future__ import annotations

import copy
import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import nn

import edgeemo
from edgeemo.capture.clip import read_sound
from edgeemo.errors import CheckFailed, InputError, SourceError
from edgeemo_export import adaptation, adaptation_report, bundle
from edgeemo_export.adaptation_report import effective, page, refusals
from edgeemo_export.cli import main
from edgeemo_export.data import recordings
from edgeemo_export.data.sounds import contexts
from edgeemo_export.encoders.fold import fold_batch_norms
from edgeemo_export.encoders.restore import VoicePart, restore_voice
from edgeemo_export.encoders.voice import AttentivePool, VoiceEncoder
from edgeemo_export.recipes import adapt
from edgeemo_export.systems.answers import VoiceAnswers
from edgeemo_export.systems.attention import AttentionFusion
from edgeemo_export.train import Schedule
from tests.support import own_corpus

LABELS = ("calm", "joy", "grief")


def report(**changed: Any) -> dict[str, Any]:
    """A report of a good adaptation, but for what is changed: (before, after)."""
    values = {"distance": (0.5, 0.3), "classes": (4.0, 3.9), "ua": (0.70, 0.69)} | changed
    both = {key: {"before": before, "after": after} for key, (before, after) in values.items()}
    return {
        "distance": both["distance"],
        "target": {"classes": both["classes"]},
        "source": {"ua": both["ua"]},
        **({"labelled": {"ua": both["labelled"]}} if "labelled" in both else {}),
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, None),
        ({"ua": (0.70, 0.75)}, None),
        ({"ua": (0.70, 0.67)}, None),
        ({"ua": (0.70, 0.66)}, "UA on held-out speakers of the source falls from 0.700 to 0.660"),
        ({"labelled": (0.70, 0.67)}, None),
        ({"labelled": (0.70, 0.66)}, "UA on labelled items of the place falls from 0.700 to 0.660"),
        ({"classes": (4.0, 3.0)}, None),
        ({"classes": (4.0, 2.9)}, "fall together, from 4.00 classes in effect to 2.90"),
        ({"classes": (1.0, 1.0)}, None),
        ({"distance": (0.5, 0.5)}, "no closer to the source"),
        ({"distance": (0.5, 0.6)}, "no closer to the source"),
        ({"distance": (0.5, float("nan"))}, "no closer to the source"),
    ],
)
def test_a_worse_bundle_is_refused(changed: dict[str, Any], message: str | None) -> None:
    found = refusals(report(**changed))
    if message is None:
        assert found == []
    else:
        (reason,) = found
        assert message in reason


def test_every_reason_is_named() -> None:
    assert len(refusals(report(ua=(0.7, 0.1), classes=(4.0, 1.0), distance=(0.1, 0.2)))) == 3


def test_effective_classes_count_by_their_shares() -> None:
    assert effective(np.full(4, 0.25)) == pytest.approx(4.0)
    # One stray answer is no class of its own.
    assert effective(np.array([0.98, 0.02, 0.0, 0.0])) < 1.2


def recording(folder: Path, name: str, seconds: float = 1.0, label: int = 0, take: int = 0) -> Path:
    return own_corpus.write_sound(folder / name, own_corpus.tone(label, 0, take, seconds, dull=0.5))


def test_sessions_are_held_back_whole(tmp_path: Path) -> None:
    for number in range(12):
        recording(tmp_path, f"day {number // 3}/{number}.wav", take=number)
    items = recordings.find(tmp_path)
    homes = {
        item.speaker: {other.split for other in items if other.speaker == item.speaker} for item in items
    }
    assert len(homes) == 4 and all(len(splits) == 1 for splits in homes.values())
    assert {split for splits in homes.values() for split in splits} == {"adapt", "held"}


def test_files_of_one_folder_are_sessions_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        recording(tmp_path, f"{number}.wav", take=number)
    assert {item.split for item in recordings.find(tmp_path)} == {"adapt", "held"}
    assert "each file is taken for a session" in caplog.text


@pytest.mark.parametrize(("count", "message"), [(None, "not a folder"), (0, "holds 0"), (1, "holds 1")])
def test_too_few_recordings_are_refused(count: int | None, message: str, tmp_path: Path) -> None:
    if count is not None:
        (tmp_path / "place").mkdir()
        (tmp_path / "place" / ".hidden").write_text("")
    for number in range(count or 0):
        recording(tmp_path / "place", f"{number}.wav")
    with pytest.raises(InputError, match=message):
        recordings.find(tmp_path / "place")


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    for name in ("a/1.wav", "b/2.wav", "b/.2.wav", ".trash/3.wav"):
        recording(tmp_path, name, take=len(name) + ord(name[0]))
    assert {item.paths["voice"].name for item in recordings.find(tmp_path)} == {"1.wav", "2.wav"}


def test_copies_of_what_is_held_are_not_adapted_to(tmp_path: Path) -> None:
    first = recording(tmp_path, "a/1.wav", take=1)
    recording(tmp_path, "a/2.wav", take=2)
    for name in ("b", "c", "d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "copy.wav").write_bytes(first.read_bytes())
    items = recordings.find(tmp_path)
    splits = {
        item.split: {item.paths["voice"].read_bytes() for item in items if item.split == split}
        for item in items
        for split in [item.split]
    }
    assert not splits["adapt"] & splits["held"]


def test_pieces_of_a_recording(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recording(tmp_path, "a/long.wav", seconds=9.0)
    own_corpus.write_sound(tmp_path / "a/silent.wav", np.zeros(32000, np.float32))
    (tmp_path / "b").mkdir()
    (tmp_path / "b/notes.txt").write_text("no sound")
    items = [replace(item, split="adapt") for item in recordings.find(tmp_path)]
    found = recordings.read(items, 100, seed=0)
    assert [len(piece) for piece in found] == [64000, 64000, 16000]
    assert "notes.txt" in caplog.text and "passed over" in caplog.text
    assert len(recordings.read(items, 2, seed=0)) == 2
    with pytest.raises(InputError, match="nothing is heard in the adapt recordings"):
        recordings.read([item for item in items if item.paths["voice"].name != "long.wav"], 9, seed=0)


@pytest.fixture
def part(enliven: Callable[..., nn.Module]) -> VoicePart:
    encoder = enliven(VoiceEncoder(16))
    fold_batch_norms(encoder)
    assert isinstance(encoder, VoiceEncoder)
    torch.manual_seed(0)
    return VoicePart(encoder, AttentivePool(16), nn.Linear(32, len(LABELS)), 1.0)


SMALL = adapt.Config(schedule=Schedule(epochs=1, rate=1e-3), batch=6, windows=2, takes=1)


def test_only_the_encoder_learns_and_the_bundles_stays(part: VoicePart, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in part.encoder.state_dict().items()}
    source = [torch.from_numpy(own_corpus.tone(label, 1, take)) for take in range(2) for label in range(3)]
    target = [torch.from_numpy(own_corpus.tone(label, 2, 9, dull=0.5)) for label in range(3)]
    labels = torch.arange(3).repeat(2)
    encoder = adapt.learn(part, source, labels, target, tmp_path, SMALL)
    assert not encoder.training
    state = torch.load(tmp_path / "state.pt", weights_only=True)["model"]
    for name, module in (("pool", part.pool), ("head", part.head)):
        for key, value in module.state_dict().items():
            assert torch.equal(state[f"{name}.{key}"], value)
    assert all(torch.equal(value, before[name]) for name, value in part.encoder.state_dict().items())
    moved = [name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])]
    assert "stem.0.weight" in moved and "project.2.weight" in moved


def test_every_part_of_the_loss_is_learnt_from(part: VoicePart, tmp_path: Path) -> None:
    source = [torch.from_numpy(own_corpus.tone(label, 1, take)) for take in range(2) for label in range(3)]
    target = [torch.from_numpy(own_corpus.tone(label, 2, 9, dull=0.5)) for label in range(3)]
    labels = torch.arange(3).repeat(2)
    settings = {
        "all": replace(SMALL, alignment="mmd", schedule=Schedule(epochs=2, rate=1e-3), anchor=1.0),
        "weight": replace(
            SMALL, alignment="mmd", schedule=Schedule(epochs=2, rate=1e-3), anchor=1.0, weight=0.0
        ),
        "anchor": replace(SMALL, alignment="mmd", schedule=Schedule(epochs=2, rate=1e-3), anchor=0.0),
    }
    found = {
        name: adapt.learn(part, source, labels, target, tmp_path / name, config).state_dict()["stem.0.weight"]
        for name, config in settings.items()
    }
    assert not torch.equal(found["all"], found["weight"])
    assert not torch.equal(found["all"], found["anchor"])
    last = json.loads((tmp_path / "all" / "curve.jsonl").read_text().splitlines()[-1])
    assert min(last[f"loss_{name}"] for name in ("source", "alignment", "anchor")) > 0


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose voice answers nonsense, quickly made."""
    torch.manual_seed(1)
    encoder = VoiceEncoder(16)
    for parameter in encoder.parameters():
        if parameter.ndim == 1:  # as after training: zeros and ones hide what a path does
            nn.init.uniform_(parameter, 0.1, 0.5)
    fusion = AttentionFusion(16, len(LABELS), [(0.0, 0.0)] * len(LABELS), inner=4).eval()
    fusion.temperatures.fill_(1.5)
    folder = tmp_path_factory.mktemp("bundles") / "old"
    folder.mkdir()
    bundle.write_graphs(folder, {"voice": encoder}, VoiceAnswers(fusion, False), ["logits"], 16)
    manifest = {
        "schema": 1,
        "name": "old",
        "version": "3",
        "licence": "CC0-1.0",
        "notice": bundle.DUTIES,
        "task": "categorical",
        "labels": list(LABELS),
        "modalities": ["voice"],
        "hop": 0.1,
        "window": 4.0,
        "voice": bundle.VOICE,
        "graphs": bundle.graph_entries(("voice",), ["logits"], 16, len(LABELS)),
        "thresholds": bundle.THRESHOLDS,
        "calibration": {"method": "none", "temperatures": {"voice": 1.5}},
        "results": [{"data": "old", "n": 1}],
        "provenance": {"recipe": "none"},
    }
    noise = np.random.default_rng(0).normal(0, 0.1, (8, 1, 16000)).astype(np.float32)
    bundle.finish(folder, manifest, {"voice": [{"voice": row} for row in noise]}, proof="untrained")
    return folder


@pytest.fixture
def made(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bundle, "CALIBRATION_ITEMS", 8)
    return Path(shutil.copytree(written, tmp_path / "old"))


@pytest.fixture
def place(tmp_path: Path) -> dict[str, Path]:
    """A labelled source, recordings of a place in sessions, and labels for two of them."""
    source = own_corpus.write_corpus(tmp_path / "source", LABELS, speakers=3, modalities=("voice",))
    rows = []
    for number in range(8):
        label = number % 3
        path = recording(tmp_path / "place", f"day {number // 2}/{number}.wav", 0.5, label, number)
        rows.append({"label": LABELS[label], "speaker": "x", "voice": str(path)})
    labelled = own_corpus.write_manifest(tmp_path / "labelled.csv", rows)
    return {"source": source, "target": tmp_path / "place", "labelled": labelled}


def run(old: Path, place: dict[str, Path], out: Path) -> dict[str, Any]:
    return adaptation.adapt(old, place["target"], place["source"], out, place["labelled"], SMALL, "untrained")


def test_an_adapted_bundle_is_whole_and_says_what_it_is(
    made: Path, place: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed: list[adaptation.Observed] = []

    def compare(*given: Any) -> dict[str, Any]:
        observed.extend(given[:2])
        return {"refused": []}

    monkeypatch.setattr(adaptation, "compare", compare)
    monkeypatch.setattr(adaptation, "page", lambda report: "page")
    monkeypatch.setattr(adapt, "calibrate", lambda *given: 0.75)
    assert run(made, place, tmp_path / "new") == {"refused": []}
    assert not torch.equal(observed[0].source_tokens, observed[1].source_tokens)
    old, new = edgeemo.Bundle.read(made), edgeemo.Bundle.read(tmp_path / "new")
    new.verify()
    assert new.version.startswith("3+adapted.") and new.name == "old" and new.licence == old.licence
    assert [one.temperature for one in observed] == [pytest.approx(1.5), pytest.approx(0.75)]
    assert new.calibration["temperatures"] == {"voice": 0.75}
    assert all(new.files[name] != old.files[name] for name in old.graphs["voice"].files.values())
    assert new.graphs["voice"].calibration != old.graphs["voice"].calibration
    (origin,) = new.provenance["adaptations"]  # type: ignore[misc, attr-defined]
    assert origin["from"] == "old 3" and origin["config"]["alignment"] == "lmmd"
    assert [entry["data"] for entry in new.results] == [
        "held-out speakers of the source",
        "labelled items of the place",
    ]
    restore_voice(new)  # so it can be adapted again
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".", "new"))) == [
        "new",
        "new.report.json",
        "new.report.md",
    ]


def test_a_refused_bundle_leaves_a_report_and_nothing_else(
    made: Path, place: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is learnt, so nothing comes closer.
    monkeypatch.setattr(adapt, "learn", lambda part, *given: part.encoder)
    with pytest.raises(CheckFailed, match="the adapted bundle is refused: ") as caught:
        run(made, place, tmp_path / "new")
    found = json.loads((tmp_path / "new.report.json").read_text())
    assert found["refused"] and all(reason in str(caught.value) for reason in found["refused"])
    assert found["distance"]["before"] == found["distance"]["after"] and found["target"]["pieces"] >= 2
    assert found["labelled"]["n"] == found["target"]["pieces"]
    assert "Refused:" in (tmp_path / "new.report.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".", "new"))) == [
        "new.report.json",
        "new.report.md",
    ]


def test_what_was_adapted_to_is_not_measured(made: Path, place: dict[str, Path]) -> None:
    old = edgeemo.Bundle.read(made)
    gathered = adaptation.gather(old, place["target"], place["source"], place["labelled"], seed=0)
    assert len(gathered.target) + len(gathered.held_target) == 8
    assert len(gathered.labelled) == len(gathered.held_target)
    held = {item.speaker for item in gathered.held_source}
    assert len(held) == 1 and len(gathered.source) == len(gathered.develop) == 2 * len(LABELS)


def flac(path: Path, of: Path) -> Path:
    """A copy in another format, whose bytes say nothing of where it comes from."""
    samples, rate = read_sound(of)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=rate, layout="mono")
        pcm = (samples * 32768).round().astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return path


def with_splits(manifest: Path) -> list[dict[str, str]]:
    """Write the split of each speaker into the place's source."""
    splits = {"s0": "train", "s1": "develop", "s2": "test"}
    with manifest.open(newline="") as file:
        rows = [row | {"split": splits[row["speaker"]]} for row in csv.DictReader(file)]
    own_corpus.write_manifest(manifest, rows)
    return rows


@pytest.mark.parametrize("speaker", ["s1", "s2"])
@pytest.mark.parametrize("duplicate", [shutil.copyfile, lambda of, to: flac(to.with_suffix(".flac"), of)])
def test_what_the_place_holds_too_is_not_held_back(
    speaker: str,
    duplicate: Callable[[Path, Path], object],
    made: Path,
    place: dict[str, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = with_splits(place["source"])
    before = adaptation.gather(edgeemo.Bundle.read(made), place["target"], place["source"], None, seed=0)
    adapted = next(i for i in recordings.find(place["target"]) if i.split == "adapt").paths["voice"]
    name = next(row["voice"] for row in rows if row["speaker"] == speaker)
    duplicate(place["source"].parent / name, adapted.with_name("copy.wav"))
    after = adaptation.gather(edgeemo.Bundle.read(made), place["target"], place["source"], None, seed=0)
    lost = {"s1": len(before.develop) - len(after.develop), "s2": 0}
    lost["s2"] = len(before.held_source) - len(after.held_source)
    assert lost == {"s1": 0, "s2": 0} | {speaker: 1}
    assert f"manifest.csv: 1 item left out, among them line {2 + [r['voice'] for r in rows].index(name)}" in (
        caplog.text
    )


def test_a_source_that_is_the_place_is_refused(made: Path, place: dict[str, Path]) -> None:
    rows = with_splits(place["source"])
    adapted = next(i for i in recordings.find(place["target"]) if i.split == "adapt").paths["voice"]
    for row in rows:
        if row["speaker"] == "s2":
            shutil.copy(place["source"].parent / row["voice"], adapted.parent)
    with pytest.raises(InputError, match="every item of the split test is left out, among them line"):
        adaptation.gather(edgeemo.Bundle.read(made), place["target"], place["source"], None, seed=0)


def test_labels_that_were_learnt_are_not_measured(made: Path, place: dict[str, Path]) -> None:
    rows = with_splits(place["source"])
    learnt = [{"label": row["label"], "voice": f"source/{row['voice']}"} for row in rows[:2]]
    own_corpus.write_manifest(place["labelled"], learnt)
    old = edgeemo.Bundle.read(made)
    with pytest.raises(InputError, match=r"labelled\.csv: every item is left out, among them line 2"):
        adaptation.gather(old, place["target"], place["source"], place["labelled"], seed=0)


@pytest.mark.parametrize("which", ["source", "labelled"])
def test_a_file_without_sound_is_named_with_its_line(which: str, made: Path, place: dict[str, Path]) -> None:
    with place[which].open(newline="") as file:
        name = list(csv.DictReader(file))[1]["voice"]
    (place[which].parent / name).write_text("no sound")
    with pytest.raises(
        SourceError, match=rf"{place[which].name}, line 3, column 'voice': .*{Path(name).name}"
    ):
        adaptation.gather(
            edgeemo.Bundle.read(made), place["target"], place["source"], place["labelled"], seed=0
        )


def test_the_temperature_changes_by_what_the_new_encoder_changed(part: VoicePart) -> None:
    """An encoder whose tokens are twice as large makes logits as sure; speakers do not matter to that."""
    heard = [torch.from_numpy(own_corpus.tone(label, 1, take)) for take in range(2) for label in range(3)]
    louder = copy.deepcopy(part.encoder)
    with torch.no_grad():
        part.head.weight.mul_(30.0)
        part.head.bias.zero_()
        part.pool.hidden.weight.zero_()  # an even mean, and so logits in proportion to the tokens
        louder.project[2].weight.mul_(2.0)
        louder.project[2].bias.mul_(2.0)
        logits = torch.cat([part.head(part.pool(part.encoder(contexts(x))[None])) for x in heard])
    right = logits.argmax(1)
    labels = torch.where(torch.arange(6) < 4, right, (right + 1) % 3)
    cold = replace(part, temperature=1.5)
    assert adapt.calibrate(cold, part.encoder, heard, labels) == 1.5
    # The pooled deviations have a floor, so they do not quite double.
    assert adapt.calibrate(cold, louder, heard, labels) == pytest.approx(3.0, rel=0.05)


def test_both_sides_calibrate_the_new_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "CALIBRATION_ITEMS", 4)
    source, target = [torch.full((16000,), 0.1)], [torch.full((16000,), -0.1)]
    none = torch.zeros(0, dtype=torch.long)
    material = adaptation.Material(source, torch.zeros(1, dtype=torch.long), [], none, target, [], [], [])
    fed = [float(item["voice"].sum()) for item in adaptation._feeds(material, seed=0)]
    assert [value > 0 for value in fed] == [True, False, True, False]


def test_a_development_split_of_the_source_sets_the_temperature(made: Path, place: dict[str, Path]) -> None:
    rows = with_splits(place["source"])
    gathered = adaptation.gather(edgeemo.Bundle.read(made), place["target"], place["source"], None, seed=0)
    assert {item.speaker for item in gathered.held_source} == {"s2"}
    labels = [LABELS.index(row["label"]) for row in rows if row["speaker"] == "s1"]
    assert gathered.develop_labels.tolist() == labels
    assert torch.equal(
        gathered.develop[0], torch.from_numpy(read_sound(place["source"].parent / rows[6]["voice"])[0])
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out": "old"}, "it is there already"),
        ({"source": "label,voice,speaker\nrage,a.wav,x\n"}, "the label is 'rage'; it must be one of calm"),
        ({"source": "label,voice\ncalm,a.wav\n"}, "it names no speaker"),
        ({"set": "alignment=dann"}, "adaptation: alignment 'dann'; it must be one of coral, mmd"),
        ({"set": "weight=-1"}, "adaptation: weight -1.0; it must be 0 or more"),
        ({"set": "epochs=1"}, "--set epochs=1: no setting 'epochs'; there are schedule, batch"),
        ({"set": "schedule.seed=3"}, "all have that of --seed"),
    ],
)
def test_wrong_input_ends_with_status_2(
    change: dict[str, str],
    message: str,
    made: Path,
    place: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recording(tmp_path, "a.wav")
    source = place["source"]
    if "source" in change:
        source = tmp_path / "source.csv"
        source.write_text(change["source"])
    words = ["adapt", "--bundle", str(made), "--target", str(place["target"]), "--source", str(source)]
    words += ["--set", change["set"]] if "set" in change else []
    with pytest.raises(SystemExit) as ended:
        main([*words, "--out", str(tmp_path / change.get("out", "new"))])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_failed_check_ends_with_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*given: Any) -> None:
        raise CheckFailed("the adapted bundle is refused: it is worse")

    monkeypatch.setattr(adaptation, "adapt", refuse)
    words = ["adapt", "--bundle", "b", "--target", "t", "--source", "s", "--out", str(tmp_path / "new")]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 1 and "it is worse" in capsys.readouterr().err


def test_settings_reach_the_training_the_bundle_and_the_report(
    made: Path, place: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapt, "DEFAULTS", SMALL)
    monkeypatch.setattr(adaptation_report, "refusals", lambda report: [])
    trained: list[adapt.Config] = []

    def learn(part: VoicePart, *given: Any) -> VoiceEncoder:
        trained.append(given[-1])
        return part.encoder

    monkeypatch.setattr(adapt, "learn", learn)
    words = ["adapt", "--bundle", str(made), "--target", str(place["target"]), "--threads", "1"]
    words += ["--source", str(place["source"]), "--out", str(tmp_path / "new"), "--seed", "2"]
    words += ["--set", "alignment=coral", "--set", "weight=0.25", "--set", "schedule.epochs=3"]
    assert main(words) == 0
    expected = replace(SMALL, alignment="coral", weight=0.25, schedule=Schedule(epochs=3, rate=1e-3, seed=2))
    assert trained == [expected]
    (origin,) = edgeemo.Bundle.read(tmp_path / "new").provenance["adaptations"]  # type: ignore[misc, attr-defined]
    report = json.loads((tmp_path / "new.report.json").read_text())
    assert origin["config"] == report["config"] == asdict(expected)
    text = (tmp_path / "new.report.md").read_text()
    assert "schedule.epochs 3" in text and "alignment coral, weight 0.25" in text
    assert "| temperature of the voice alone | 1.500 |" in text


@pytest.mark.slow
def test_a_dull_room_is_learnt_without_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained on tones in the open, then heard through a wall."""
    settings = ("takes=2", "windows=3", "batch=8", "schedule.epochs=12", "schedule.average=0.9")
    small = [word for setting in settings for word in ("--set", f"voice.{setting}")]
    monkeypatch.setattr(bundle, "CALIBRATION_ITEMS", 64)
    source = own_corpus.write_corpus(tmp_path / "source", LABELS, 6, takes=4, modalities=("voice",))
    run_folder, old = str(tmp_path / "run"), str(tmp_path / "old")
    assert main(["train", "--manifest", str(source), "--run", run_folder, "--threads", "1", *small]) == 0
    named = ["--name", "kiosk", "--licence", "CC0-1.0", "--threads", "1"]
    assert main(["bundle", "--run", run_folder, "--out", old, *named]) == 0
    rows = []
    for session in range(4):
        for take in range(9):
            samples = own_corpus.tone(take % 3, 1, 100 + 9 * session + take, 0.6, dull=0.9)
            samples = np.convolve(samples, np.full(6, 1 / 6)).astype(np.float32)
            samples += np.random.default_rng(take).normal(0, 0.004, len(samples)).astype(np.float32)
            path = own_corpus.write_sound(tmp_path / "place" / f"day {session}" / f"{take}.wav", samples)
            rows.append({"label": LABELS[take % 3], "speaker": "x", "voice": str(path)})
    labelled = own_corpus.write_manifest(tmp_path / "labelled.csv", rows)
    monkeypatch.setattr(
        adapt, "DEFAULTS", replace(SMALL, schedule=Schedule(6, rate=5e-4, average=0.9), batch=18)
    )
    words = ["adapt", "--bundle", old, "--target", str(tmp_path / "place"), "--source", str(source)]
    words += ["--labelled", str(labelled), "--out", str(tmp_path / "new"), "--threads", "1"]
    assert main(words) == 0
    found = json.loads((tmp_path / "new.report.json").read_text())
    assert found["distance"]["after"] < found["distance"]["before"]
    assert found["labelled"]["ua"]["after"] >= found["labelled"]["ua"]["before"]
    assert found["source"]["ece"]["after"] <= found["source"]["ece"]["before"] + 0.05
    assert page(found) == (tmp_path / "new.report.md").read_text()
    edgeemo.Bundle.read(tmp_path / "new").verify()
