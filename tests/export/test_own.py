"""A user's own data: from a manifest to a bundle that the runtime takes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import edgeemo
from edgeemo.errors import InputError, SourceError
from edgeemo.evaluate import Item, evaluate
from edgeemo_calibration import lint
from edgeemo_export.cli import main
from edgeemo_export.data import own
from edgeemo_export.data.own import Own
from edgeemo_export.data.tokens import SLOTS
from edgeemo_export.data.voices import Clip
from edgeemo_export.metrics import temperature
from edgeemo_export.recipes import adapt, face, fusion, voice
from edgeemo_export.recipes import own as recipe
from edgeemo_export.recipes.own import Drawer, Windows
from edgeemo_export.systems.answers import answers
from edgeemo_export.systems.attention import AttentionFusion
from edgeemo_export.train import Schedule
from tests.support import own_corpus

LABELS = ("calm", "joy")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes of a test: what is trained is not good, but it is trained."""
    schedule = Schedule(epochs=1, rate=1e-3)
    small = recipe.Config(
        face.Config(schedule, batch=8),
        voice.Learning(schedule, batch=8, windows=2, takes=2),
        recipe.FusionConfig(schedule, batch=16, steps=2),
    )
    monkeypatch.setattr(recipe, "DEFAULTS", small)
    monkeypatch.setattr(recipe, "COPIES", 2)


def begin(manifest: Path, folder: Path, cropped: bool = True, unknown: bool = False, seed: int = 0) -> Own:
    return own.begin(manifest, folder, seed=seed, face_is_cropped=cropped, speakers_unknown=unknown)


def column(path: Path, name: str) -> list[str]:
    with path.open(newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


def test_a_run_notes_its_splits_and_uses_them_again(tmp_path: Path) -> None:
    manifest = own_corpus.write_corpus(tmp_path / "corpus", LABELS)
    begun = begin(manifest, tmp_path / "run")
    assert begun.labels == LABELS and begun.modalities == ("face", "voice")
    splits = column(tmp_path / "run" / "splits.csv", "split")
    assert sorted(set(splits)) == ["develop", "test", "train"]
    assert all(Path(path).is_absolute() for path in column(tmp_path / "run" / "splits.csv", "voice"))
    assert set(column(tmp_path / "run" / "test.csv", "split")) == {"test"}
    # A later version may divide otherwise: what a run was begun with stays.
    rows = (
        (tmp_path / "run" / "splits.csv")
        .read_text()
        .replace(",test,", ",swap,")
        .replace(",develop,", ",test,")
    )
    (tmp_path / "run" / "splits.csv").write_text(rows.replace(",swap,", ",develop,"))
    again = begin(manifest, tmp_path / "run")
    assert {item.speaker for item in again.of("test")} == {item.speaker for item in begun.of("develop")}
    assert own.reopen(tmp_path / "run") == again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "a run with another seed"),
        ({"cropped": False}, "a run with another face_is_cropped"),
        ({"manifest": "other"}, "a run with another sha256"),
    ],
)
def test_a_run_goes_on_only_with_what_it_was_begun_with(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    manifest = own_corpus.write_corpus(tmp_path / "corpus", LABELS, modalities=("voice",))
    begin(manifest, tmp_path / "run")
    if change.pop("manifest", None):
        manifest.write_text(manifest.read_text() + "joy,s1,joy-1-0.wav\n")
    with pytest.raises(InputError, match=message):
        begin(manifest, tmp_path / "run", **change)  # type: ignore[arg-type]


def test_a_run_of_other_data_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = own_corpus.write_corpus(tmp_path / "corpus", LABELS, modalities=("voice",))
    (tmp_path / "default" / "voice").mkdir(parents=True)
    (tmp_path / "default" / "voice" / "state.pt").write_bytes(b"")
    with pytest.raises(InputError, match="it holds a run on other data"):
        begin(manifest, tmp_path / "default")
    begin(manifest, tmp_path / "own")
    with pytest.raises(SystemExit) as ended:
        main(["train", "--data", str(tmp_path), "--run", str(tmp_path / "own")])
    assert ended.value.code == 2 and "it holds a run of --manifest" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("joy", "a"), ("joy", "b"), ("joy", "c")],
            "every item has the label joy; there must be at least two",
        ),
        ([("joy", "a", "train"), ("calm", "b", "develop"), ("joy", "c", "test")], "train has the label calm"),
        ([("joy", "a"), ("", "b"), ("joy", "c")], "line 3: the label is ''; it must not be empty"),
        ([("joy", "a"), ("calm", ""), ("joy", "c")], "line 3: it names no speaker"),
    ],
)
def test_what_cannot_be_learnt_is_refused(rows: list[tuple[str, ...]], message: str, tmp_path: Path) -> None:
    given = []
    for place, row in enumerate(rows):
        own_corpus.write_sound(tmp_path / f"{place}.wav", own_corpus.tone(0, place, 0))
        given.append(dict(zip(("label", "speaker", "split"), row, strict=False)) | {"voice": f"{place}.wav"})
    manifest = own_corpus.write_manifest(tmp_path / "m.csv", given)
    with pytest.raises(InputError, match=message):
        begin(manifest, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_split_without_a_modality_is_refused(tmp_path: Path) -> None:
    manifest = own_corpus.write_corpus(tmp_path, LABELS, speakers=3)
    rows = [line.split(",") for line in manifest.read_text().splitlines()]
    lines = [",".join([*row[:3], "" if row[1] == "s2" else row[3]]) for row in rows]
    manifest.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="has a face, while others have one"):
        begin(manifest, tmp_path / "run")


@pytest.mark.parametrize(
    ("column_", "spoil", "why"),
    [
        ("voice", lambda path: path.write_text("no sound"), "joy-1-0.wav"),
        ("face", lambda path: (path / "1.png").write_text("no picture"), "1.png"),
        ("face", lambda path: [file.unlink() for file in path.iterdir()], "a folder without pictures"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_manifest_line_and_column(
    column_: str, spoil: Callable[[Path], object], why: str, tmp_path: Path
) -> None:
    manifest = own_corpus.write_corpus(tmp_path, LABELS, speakers=3)
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    line = 2 + [row["voice"] for row in rows].index("joy-1-0.wav")
    spoil(tmp_path / rows[line - 2][column_])
    with pytest.raises(SourceError) as caught:
        begin(manifest, tmp_path / "run")
    assert str(caught.value).startswith(f"{manifest}, line {line}, column '{column_}': ")
    assert why in str(caught.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["face", "voice"])
def test_a_label_without_one_of_the_modalities_in_training_is_refused(name: str, tmp_path: Path) -> None:
    manifest = own_corpus.write_corpus(tmp_path, LABELS, speakers=3)
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = [
        row | {name: "" if row["label"] == "joy" and row["speaker"] != "s0" else row[name]} for row in rows
    ]
    splits = {"s0": "test", "s1": "train", "s2": "develop"}
    own_corpus.write_manifest(manifest, [row | {"split": splits[row["speaker"]]} for row in rows])
    with pytest.raises(InputError, match=f"no item of the split train with the label joy has a {name}"):
        begin(manifest, tmp_path / "run")


def test_links_keep_their_names(tmp_path: Path) -> None:
    """Behind one may lie a file that does not say whether it is a picture or a video."""
    picture = own_corpus.write_picture(tmp_path / "stored.png", own_corpus.bars(0, 0, 0))
    picture.rename(tmp_path / "stored")
    (tmp_path / "a.png").symlink_to(tmp_path / "stored")
    own.write_items(tmp_path / "m.csv", [Item(2, "joy", "x", {"face": tmp_path / "a.png"}, "test")])
    assert column(tmp_path / "m.csv", "face") == [str(tmp_path / "a.png")]


def test_crops_are_those_of_the_pictures_and_cut_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = begin(own_corpus.write_corpus(tmp_path, LABELS, modalities=("face",)), tmp_path / "run")
    shown = begun.crops("test")
    assert [crops.shape for crops in shown] == [(2, 48, 48)] * len(begun.of("test"))
    item = begun.of("test")[0]
    first = own_corpus.bars(LABELS.index(item.label), int(item.speaker[1:]), 0)
    assert np.array_equal(shown[0][0], first)  # a picture of the crop's size is taken as it is
    monkeypatch.setattr(own, "cut", None)
    assert all(np.array_equal(a, b) for a, b in zip(begun.crops("test"), shown, strict=True))


def test_faces_are_found_and_cropped_like_a_cameras(tmp_path: Path, default_bundle: Path) -> None:
    # The demo's made-up face, as a video and as a picture of it; bars are no face.
    clip = default_bundle.parents[1] / "demo" / "clip.mp4"
    finder = own.open_finder()
    crops = own.cut(Item(2, "joy", "x", {"face": clip}), finder)
    assert crops.shape == (SLOTS, 48, 48) and crops.std() > 10
    picture = own_corpus.write_picture(tmp_path / "bars.png", own_corpus.bars(0, 0, 0))
    nothing = own.cut(Item(3, "joy", "x", {"face": picture}), finder)
    assert nothing.shape == (0, 48, 48)


@pytest.mark.parametrize("modalities", [("face",), ("voice",), ("face", "voice")])
def test_training_goes_on_where_it_stopped(modalities: tuple[str, ...], small: None, tmp_path: Path) -> None:
    begun = begin(own_corpus.write_corpus(tmp_path, LABELS, modalities=modalities), tmp_path / "run")
    trained = recipe.train(begun, recipe.DEFAULTS)
    assert (trained.face is not None, trained.voice is not None) == tuple(
        name in modalities for name in ("face", "voice")
    )
    states = [path.read_text() for path in sorted((tmp_path / "run").glob("*/curve.jsonl"))]
    assert len(states) == (3 if len(modalities) == 2 else 2 if modalities == ("face",) else 1)
    again = recipe.train(own.reopen(tmp_path / "run"), recipe.settings(begun))
    assert states == [path.read_text() for path in sorted((tmp_path / "run").glob("*/curve.jsonl"))]
    for key, value in trained.fusion.state_dict().items():
        assert torch.equal(value, again.fusion.state_dict()[key]), key
    assert (trained.fusion.temperatures > 0).all()


def test_each_split_has_its_use(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = begin(own_corpus.write_corpus(tmp_path, LABELS), tmp_path / "run")
    learnt: dict[str, int] = {}
    calibrated: list[Windows] = []
    learn_face, learn_voice, calibrate = face.learn, voice.learn, recipe.calibrate

    def spy_face(images: torch.Tensor, *given: Any) -> face.FaceModel:
        learnt["face"] = len(images)
        return learn_face(images, *given)

    def spy_voice(clips: list[Clip], *given: Any) -> voice.VoiceModel:
        learnt["voice"] = len(clips)
        assert {clip.split for clip in clips} == {"train"}
        return learn_voice(clips, *given)

    def spy_calibrate(model: AttentionFusion, *given: Windows) -> None:
        calibrated.extend(given)
        calibrate(model, *given)

    monkeypatch.setattr(face, "learn", spy_face)
    monkeypatch.setattr(voice, "learn", spy_voice)
    monkeypatch.setattr(recipe, "calibrate", spy_calibrate)
    trained = recipe.train(begun, recipe.DEFAULTS)
    count, few = len(begun.of("train")), len(begun.of("develop"))
    assert count != few and learnt == {"face": 2 * count, "voice": count}  # two pictures an item
    assert [len(given.labels) for given in calibrated] == [few, few]
    # The voice's classifier stays as the encoder's own.
    assert trained.voice is not None
    assert torch.equal(trained.fusion.voice_head.weight, trained.voice.head.weight)


def test_each_modality_is_calibrated_by_its_own_answers() -> None:
    torch.manual_seed(0)
    model = AttentionFusion(8, 2, [(0.0, 0.0)] * 2, inner=4)
    faces, voices = windows([0, 1, 0, 1], [0, 1, 2, 3]), windows([0, 1, 1, 0], [4, 5, 6, 7])
    with torch.no_grad():  # the faces are always right, the voices always wrong
        faces.labels[:] = model.eval().face_logits(faces.tokens[0], faces.masks[0]).argmax(1)
        voices.labels[:] = 1 - model.voice_logits(voices.tokens[0], voices.masks[0]).argmax(1)
    recipe.calibrate(model, faces, voices)
    for place, given, answer in ((0, faces, model.face_logits), (1, voices, model.voice_logits)):
        with torch.no_grad():
            logits = answer(given.tokens[0], given.masks[0])
        assert model.temperatures[place].item() == pytest.approx(temperature(logits, given.labels))
    assert model.temperatures[0] < 1.0 < model.temperatures[1]


def windows(labels: list[int], items: list[int]) -> Windows:
    tokens = torch.zeros(1, len(labels), SLOTS, 8)
    tokens[0, torch.arange(len(labels)), -1, torch.tensor(labels)] = 1.0
    masks = torch.zeros(1, len(labels), SLOTS)
    masks[:, :, -1] = 1.0
    return Windows(tokens, masks, torch.tensor(labels), torch.tensor(items))


def test_half_of_the_pairs_are_of_one_recording() -> None:
    faces, voices = windows([0, 0, 1, 1, 2], [0, 1, 2, 3, 4]), windows([0, 0, 1, 3], [0, 1, 7, 8])
    drawer = Drawer(faces, voices, 4)
    labels, seen, heard = drawer.rows(4000, torch.Generator().manual_seed(0))
    assert set(labels.tolist()) == {0, 1}  # of the others there is only one side
    assert torch.equal(faces.labels[seen], labels) and torch.equal(voices.labels[heard], labels)
    of_one = (faces.items[seen] == voices.items[heard]).float()
    assert of_one[labels == 0].mean() == pytest.approx(0.75, abs=0.05)  # half of the rest by chance
    assert not of_one[labels == 1].any()


def test_unpaired_voices_are_confused_as_unseen_speakers_are() -> None:
    faces, voices = windows([0, 1], [0, 1]), windows([0, 1], [2, 3])
    drawer = Drawer(faces, voices, 3)
    drawer.confusion = torch.tensor([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    labels, _, heard = drawer.rows(4000, torch.Generator().manual_seed(0))
    taken = voices.labels[heard]
    assert (taken[labels == 0] == 1).float().mean() == pytest.approx(0.3, abs=0.04)
    assert (taken[labels == 1] == 1).all()


def test_no_label_with_both_modalities_is_refused() -> None:
    with pytest.raises(InputError, match="no label has both a face and a voice"):
        Drawer(windows([0], [0]), windows([1], [1]), 2)


@pytest.mark.parametrize("modalities", [("face",), ("voice",), ("face", "voice")])
@pytest.mark.parametrize("affect", [False, True])
def test_answers_of_a_part_are_those_of_the_whole(modalities: tuple[str, ...], affect: bool) -> None:
    torch.manual_seed(0)
    whole = AttentionFusion(8, 3, [(0.1, 0.2), (0.3, -0.4), (-1.0, 0.0)], inner=4).eval()
    whole.temperatures.copy_(torch.tensor([0.5, 2.0, 1.5]))
    inputs = {
        "face_tokens": torch.rand(2, SLOTS, 8),
        "face_mask": torch.ones(2, SLOTS) * ("face" in modalities),
        "voice_tokens": torch.rand(1, SLOTS, 8),
        "voice_mask": torch.ones(2, SLOTS) * ("voice" in modalities),
    }
    module, names = answers(whole, modalities, affect)
    found = module(*(value for name, value in inputs.items() if name.split("_")[0] in modalities))
    expected = dict(
        zip(
            ("logits", "valence_arousal", "face_logits", "voice_logits"), whole(*inputs.values()), strict=True
        )
    )
    assert ("valence_arousal" in names) == affect
    for name, value in zip(names, found, strict=True):
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--manifest", "none.csv", "--run", "run"], "none.csv: it cannot be read"),
        (["train", "--data", ".", "--run", "run", "--speakers-unknown"], "are for --manifest"),
        (["train", "--data", ".", "--set", "face.schedule.seed=1"], "all have that of --seed"),
        (["train", "--data", ".", "--set", "voice.takes=0"], "voice: takes 0; it must be 1 or more"),
        (["train", "--run", "run"], "one of the arguments --data --manifest is required"),
        (["train", "--data", ".", "--manifest", "m.csv"], "not allowed with argument"),
        (["bundle", "--run", "run", "--out", "out"], "give --name and --licence"),
        (
            ["bundle", "--run", "run", "--out", "out", "--name", "n", "--licence", "l"],
            "own.json cannot be read",
        ),
        (["bundle", "--run", "run", "--out", "out", "--data", ".", "--name", "n"], "leave them out"),
    ],
)
def test_wrong_usage_ends_with_status_2(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_part_has_no_seed_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = own_corpus.write_corpus(tmp_path, LABELS, modalities=("voice",))
    words = ["train", "--manifest", str(manifest), "--run", str(tmp_path / "run"), "--seed", "2"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--set", "voice.schedule.seed=1"])
    assert ended.value.code == 2 and "all have that of --seed" in capsys.readouterr().err
    assert not (tmp_path / "run" / "voice").exists()


def test_a_setting_of_corpora_that_a_manifest_has_not_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = own_corpus.write_corpus(tmp_path, LABELS, modalities=("voice",))
    words = ["train", "--manifest", str(manifest), "--run", str(tmp_path / "run"), "--set", "voice.emodb=3"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "--set voice.emodb=3: no setting 'emodb'; there are schedule, batch, windows" in said


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: face.Config(batch=0), "face: batch 0; it must be 1 or more"),
        (lambda: voice.Config(windows=0), "voice: windows 0; it must be 1 or more"),
        (lambda: voice.Config(mixed=1.5), "voice: mixed 1.5; it must be from 0 to 1"),
        (lambda: voice.Learning(takes=0), "voice: takes 0; it must be 1 or more"),
        (lambda: voice.Config(emodb=0), "voice: emodb 0; it must be 1 or more"),
        (lambda: fusion.Config(smoothing=-0.1), "fusion: smoothing -0.1; it must be from 0 to 1"),
        (lambda: recipe.FusionConfig(steps=0), "fusion: steps 0; it must be 1 or more"),
        (lambda: adapt.Config(weight=-1.0), "adaptation: weight -1.0; it must be 0 or more"),
        (
            lambda: adapt.Config(alignment="dann"),
            "adaptation: alignment 'dann'; it must be one of coral, mmd",
        ),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.slow
@pytest.mark.parametrize("labels", [LABELS, ("anger", "joyful", "sadness"), ("anger", "sadness")])
def test_from_a_manifest_to_a_bundle(
    labels: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Trained for real on a corpus that is easy, and by another path for each number of modalities."""
    modalities = {LABELS: ("voice",), ("anger", "sadness"): ("face",)}.get(labels, ("face", "voice"))
    schedule = Schedule(epochs=12, rate=2e-3, average=0.9)
    quick = recipe.Config(
        face.Config(schedule, batch=16),
        voice.Learning(schedule, batch=8, windows=3, takes=2),
        recipe.FusionConfig(Schedule(epochs=3, rate=1e-3, average=0.9)),
    )
    monkeypatch.setattr(recipe, "DEFAULTS", quick)
    monkeypatch.setattr(face, "jitter", lambda images, random: images.float()[..., None])
    corpus = own_corpus.write_corpus(tmp_path / "corpus", labels, speakers=6, takes=4, modalities=modalities)
    run, out = str(tmp_path / "run"), tmp_path / "bundle"
    words = ["train", "--manifest", str(corpus), "--run", run, "--threads", "1", "--face-is-cropped"]
    assert main(words) == 0
    named = ["--name", "kiosk", "--licence", "CC0-1.0"]
    assert (
        main(["bundle", "--run", run, "--out", str(out), "--threads", "1", "--unproven", "a toy", *named])
        == 0
    )
    made = edgeemo.Bundle.read(out)
    made.verify()
    assert (made.name, made.licence, made.labels, made.modalities) == ("kiosk", "CC0-1.0", labels, modalities)
    assert (made.valence_arousal is not None) == (labels == ("anger", "sadness"))
    assert [entry["precision"] for entry in made.results] == ["int8", "fp32"]
    for graph in made.graphs.values():
        for encoding in {"fp32", "fp16", "int8"} & graph.files.keys():
            assert lint(onnx.load(made.path / graph.files[encoding])) == [], (graph.name, encoding)
    with edgeemo.load(out, precision="fp32") as model:
        report = evaluate(tmp_path / "run" / "test.csv", model, face_is_cropped=True)
    (entry,) = (entry for entry in made.results if entry["precision"] == "fp32")
    assert report.ua == pytest.approx(entry["ua"], abs=1e-3)
    assert report.ua > 0.8
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == [dict(e) for e in made.results]
