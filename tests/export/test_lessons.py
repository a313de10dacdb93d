"""Alignment of the default fusion, and its teachers: the same windows for all, nothing left in the graph."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo.errors import InputError
from edgeemo_export.cli import main
from edgeemo_export.config import override
from edgeemo_export.data import ferplus
from edgeemo_export.data.labels import LABELS
from edgeemo_export.data.tokens import (
    SLOTS,
    Drawer,
    FaceBank,
    VoiceBank,
    bank_faces,
    bank_voices,
    bank_worse_faces,
    bank_worse_voices,
)
from edgeemo_export.recipes import by_name, fusion, lessons, taught
from edgeemo_export.recipes.aligned import Aligned
from edgeemo_export.recipes.face import FaceModel
from edgeemo_export.recipes.voice import VoiceModel
from edgeemo_export.systems.attention import AttentionFusion
from edgeemo_export.systems.fdan import FDAN
from edgeemo_export.systems.fusion import Windows
from edgeemo_export.systems.jca import JCA
from tests.support import made_corpora
from tests.support.made_corpora import DEFAULTS, ONE, Made

K = len(LABELS)
TINY = fusion.Config(ONE, batch=16, steps=2, lessons=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with pytest.MonkeyPatch.context() as patch:
        yield made_corpora.make(tmp_path_factory.mktemp("corpora"), patch)


class Levels(nn.Module):
    """A few means of what is given as a token, times a factor; and 1, by which a token is known from none."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, given: Tensor) -> Tensor:
        levels = given / 255 if given.dtype == torch.uint8 else given.abs()
        parts = F.adaptive_avg_pool1d(levels.flatten(1)[:, None], 3)[:, 0]
        return torch.cat([self.factor * parts, torch.ones(len(parts), 1)], dim=1)


def undecided(split: str) -> ferplus.Faces:
    """Made-up pictures, of which the raters did not agree on the last four."""
    faces = made_corpora.faces(split)
    votes = faces.votes.copy()
    votes[-4:] = 1
    return ferplus.Faces(faces.images, votes)


def course(encoder: nn.Module) -> lessons.Course:
    faces, clips = undecided("train"), made_corpora.clips("train")
    known = Drawer(bank_faces(encoder, faces, 3, 1), bank_voices(encoder, clips, 3, 1), torch.eye(K))
    return lessons.Course(known, bank_worse_faces(encoder, faces, 1), bank_worse_voices(encoder, clips, 1))


@pytest.fixture(scope="module")
def courses(made: Made) -> tuple[lessons.Course, lessons.Course]:
    """One course in the tokens of two encoders, of which the second's are twice as large."""
    return course(Levels()), course(Levels(2.0))


def doubled(tokens: Tensor) -> Tensor:
    return tokens * torch.tensor([2.0, 2.0, 2.0, 1.0])


def test_banks_of_two_encoders_are_of_the_same_takes(courses: tuple[lessons.Course, lessons.Course]) -> None:
    one, other = courses
    for name in ("known", "worse"):
        mine, theirs = getattr(one, name), getattr(other, name)
        torch.testing.assert_close(doubled(mine.faces.tokens), theirs.faces.tokens)
        torch.testing.assert_close(doubled(mine.voices.tokens), theirs.voices.tokens)
        assert torch.equal(mine.voices.masks, theirs.voices.masks)
        copies = mine.faces.tokens
        assert not torch.equal(copies[0], copies[1])  # so that a wrong row or copy would be seen
    for bank in (one.known.faces, one.known.voices):
        assert (bank.tokens.flatten(2).std(dim=1) > 0).any()


def test_a_lesson_is_the_same_for_every_encoder(courses: tuple[lessons.Course, lessons.Course]) -> None:
    for number in (0, 1, 7):
        mine, theirs = (each.lesson(number) for each in courses)
        for place in (0, 2):
            assert mine[place].shape == (lessons.WINDOWS, SLOTS, 4)
            torch.testing.assert_close(doubled(mine[place]), theirs[place])
            assert torch.equal(mine[place + 1], theirs[place + 1])
    assert not torch.equal(courses[0].lesson(0)[0], courses[0].lesson(1)[0])


def test_windows_without_a_label_are_of_all_kinds(courses: tuple[lessons.Course, lessons.Course]) -> None:
    """Marks in the place of tokens say which picture and which utterance a window has, and whether worse."""
    known, worse = courses[0].known, courses[0].worse

    def marked(bank: FaceBank | VoiceBank, worse: float) -> Tensor:
        rows = torch.arange(len(bank.labels), dtype=torch.float32)
        marks = torch.stack([rows, bank.labels.float(), torch.full_like(rows, worse)], dim=1)
        return marks.expand(*bank.tokens.shape[:1], -1, 3)

    drawers = []
    for drawer, mark in ((known, 0.0), (worse, 1.0)):
        faces = replace(drawer.faces, tokens=marked(drawer.faces, mark))
        voices = marked(drawer.voices, mark)[:, :, None].expand(-1, -1, SLOTS, -1)
        drawers.append(Drawer(faces, replace(drawer.voices, tokens=voices), torch.eye(K)))
    marks = lessons.Course(drawers[0], drawers[1].faces, drawers[1].voices)
    stills, heard = [], []
    for number in range(20):
        face, face_mask, voice, voice_mask = marks.lesson(number)
        half, quarter = lessons.WINDOWS // 2, lessons.WINDOWS // 4
        assert (face_mask.sum(1) >= 1).all() and (voice_mask.sum(1) >= 1).all()
        rows = slice(half, half + quarter)
        assert (face_mask[rows].sum(1) == 1).all()
        stills.append(face[rows].sum(1))
        heard.append((voice[rows] * voice_mask[rows, :, None]).amax(1))
        assert (face[:half, :, 2] == 0).all() and (voice[:half, :, 2] == 0).all()
    shown, told = torch.cat(stills), torch.cat(heard)
    unlabelled = shown[:, 1] < 0
    assert unlabelled.float().mean() == pytest.approx(4 / 28, abs=0.05)
    for one in (shown, told):
        assert one[:, 2].mean() == pytest.approx(lessons.WORSE, abs=0.08)
    assert (shown[:, 2] * told[:, 2]).mean() == pytest.approx(lessons.WORSE**2, abs=0.08)
    agree = (shown[:, 1] == told[:, 1])[~unlabelled].float().mean()
    assert agree == pytest.approx(0.5 + 0.5 / K, abs=0.08)


def test_worse_is_worse(made: Made) -> None:
    faces = made_corpora.faces("train")
    keep = nn.Flatten()
    dull, hidden = bank_worse_faces(keep, faces, 1).tokens.view(2, -1, 48, 48).numpy()
    images = faces.images.astype(np.float32)
    assert (np.abs(np.diff(dull, axis=2)).mean((1, 2)) < np.abs(np.diff(images, axis=2)).mean((1, 2))).all()
    covered = (hidden != images).mean((1, 2))
    assert covered.min() > 0.15 and covered.max() < 0.55 and covered.std() > 0.05
    clips = made_corpora.clips("train")
    noisy, clean = bank_worse_voices(Levels(), clips, 1), bank_voices(Levels(), clips, 1, 1)
    assert (noisy.tokens[0, :, -1, :3].sum(1) > clean.tokens[0, :, -1, :3].sum(1)).all()


def windows(count: int = 6, width: int = 128) -> lessons.Inputs:
    random = torch.Generator().manual_seed(0)
    masks = (torch.rand(2, count, SLOTS, generator=random) < 0.7).float()
    masks[..., -1] = 1.0
    tokens = torch.rand(2, count, SLOTS, width, generator=random)
    return tokens[0], masks[0], tokens[1], masks[1]


@pytest.mark.parametrize(("kind", "head", "width"), [(JCA, "emotion", 256), (FDAN, "classifier", 256)])
def test_a_teacher_answers_calibrated_and_shows_what_its_answer_comes_from(
    kind: type[nn.Module], head: str, width: int
) -> None:
    torch.manual_seed(0)
    model = kind(128, K)
    teacher = lessons.Teacher(model, model.get_submodule(head), 2.0)
    logits, found = teacher(windows())
    with torch.no_grad():
        torch.testing.assert_close(logits, model(*windows()) / 2.0)
        parts = found.split(width // (1 if kind is JCA else 2), dim=1)
        torch.testing.assert_close(
            torch.stack([model.get_submodule(head)(x) for x in parts]).mean(0) / 2.0, logits
        )
    assert found.shape == (6, width) and not logits.requires_grad
    assert not model.get_submodule(head)._forward_pre_hooks


def new_fusion(width: int = 4) -> AttentionFusion:
    torch.manual_seed(0)
    model = AttentionFusion(width, K, [(0.0, 0.0)] * K, inner=4, heads=2).eval()
    last = model.joint[-1]
    assert isinstance(last, nn.Linear)
    nn.init.normal_(last.weight)
    return model


def test_who_says_the_same_as_the_teachers_has_nothing_to_learn(
    courses: tuple[lessons.Course, lessons.Course],
) -> None:
    model, config = new_fusion(), replace(TINY, temperature=3.0)
    said = lessons.ask(lessons.Teacher(model, model.joint), courses[0], 2)
    assert said.logits.shape == (2, lessons.WINDOWS, K)
    random = torch.Generator().manual_seed(0)
    lesson = lessons.Lessons(courses[0], [said, said], 3.0).draw(random)
    assert fusion._lesson_loss(model, lesson, config).item() == pytest.approx(0.0, abs=1e-4)
    with torch.no_grad():
        model.bias[0] += 3.0  # moves no representation
    changed = fusion._lesson_loss(model, lesson, config).item()
    assert changed > 0.05
    assert fusion._lesson_loss(model, lesson, replace(config, relations=0.0)).item() == pytest.approx(
        changed, abs=1e-3
    )
    with torch.no_grad():
        model.bias[0] -= 3.0
        model.face_in.weight.normal_()
    apart = [fusion._lesson_loss(model, lesson, replace(config, relations=w)).item() for w in (0.0, 1.0)]
    assert apart[1] > apart[0] + 1e-3


@pytest.mark.parametrize("kind", ["lmmd", "avel", "avel+mem"])
def test_alignment_moves_what_the_attention_reads(kind: str) -> None:
    model = new_fusion().train(False)
    labels = F.one_hot(torch.arange(12) % 3, K).float()
    face, face_mask, voice, voice_mask = windows(12, 4)
    given = Windows(face + labels[:, None, :4], face_mask, voice - labels[:, None, :4], voice_mask, labels)
    torch.manual_seed(1)
    aligned = Aligned(kind, 4)  # type: ignore[arg-type]
    descent = torch.optim.SGD([*model.parameters(), *aligned.parameters()], lr=0.05)
    before = aligned(model, given)
    before.backward()
    moved = {
        name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert {"face_in", "voice_in"} <= moved and not {"face_head", "voice_head", "joint"} & moved
    assert ("to_voice" in moved) == (kind == "avel+mem")
    assert all(p.grad is not None and p.grad.any() for p in aligned.parameters())
    for _ in range(20):
        descent.zero_grad()
        aligned(model, given).backward()
        descent.step()
    assert aligned(model, given).item() < before.item()


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keeps what the student's encoders made of the corpora."""
    return tmp_path_factory.mktemp("tokens")


@pytest.mark.parametrize("alignment", ["none", "lmmd", "avel", "avel+mem"])
def test_alignment_trains_beside_the_fusion_and_is_no_part_of_it(
    made: Made, tokens: Path, tmp_path: Path, alignment: str
) -> None:
    config = override(TINY, [f"alignment={alignment}"])
    face, voice = taught.encoders(made.encoders)
    trained = fusion.train(made.data, tmp_path, face, voice, config, tokens=tokens)
    assert trained.state_dict().keys() == AttentionFusion(128, K, [(0.0, 0.0)] * K).state_dict().keys()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    heads = {f"match_{side}.{part}" for side in ("face", "voice") for part in ("weight", "bias")}
    beside = {
        "none": set(),
        "lmmd": set(),
        "avel": {"align.log_scale"},
        "avel+mem": {"align.log_scale", *heads},
    }
    assert state.get("beside", {}).keys() == beside[alignment]
    figures = json.loads((tmp_path / "curve.jsonl").read_text())
    assert ("loss_alignment" in figures) == (alignment != "none")


@pytest.fixture(scope="module")
def teachers(made: Made, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """JCA over the student's encoders, JCA over larger ones, FDAN, and a run of the default system."""
    folder = tmp_path_factory.mktemp("teachers")
    torch.manual_seed(3)
    for name, model in (("face", FaceModel(size="base")), ("voice", VoiceModel(size="base"))):
        (folder / "base" / name).mkdir(parents=True)
        torch.save({"averaged": model.state_dict()}, folder / "base" / name / "state.pt")
    for name, encoders in (("jca", made.encoders), ("other", folder / "base")):
        by_name.train("jca", made.data, encoders, folder / name, DEFAULTS["jca"])
    by_name.train("fdan", made.data, None, folder / "fdan", DEFAULTS["fdan"])
    face, voice = taught.encoders(folder / "base")
    fusion.train(made.data, folder / "base" / "fusion", face, voice, TINY)
    return [folder / name for name in ("jca", "other", "fdan", "base")]


def test_runs_over_encoders_of_any_size_are_read(teachers: list[Path], made: Made) -> None:
    for place, size in ((0, "edge"), (1, "base"), (3, "base")):
        encoders = taught.read(teachers[place], made.data).encoders
        wanted = {"face": FaceModel(size=size).encoder, "voice": VoiceModel(size=size).encoder}
        for name, encoder in wanted.items():
            assert {k: v.shape for k, v in encoders[name].state_dict().items()} == {
                k: v.shape for k, v in encoder.state_dict().items()
            }


def test_the_fusion_is_taught_over_the_tokens_of_each_teacher(
    made: Made, teachers: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.read.clear()
    face, voice = taught.encoders(made.encoders)
    config = replace(TINY, distil=0.5, alignment="avel")
    folder = tmp_path / "fusion"
    trained = taught.train(made.data, folder, face, voice, teachers, config)
    assert not {"faces test", "voices test"} & made.read
    figures = json.loads((folder / "curve.jsonl").read_text())
    assert figures["loss_lessons"] > 0 and figures["loss_alignment"] > 0
    assert len(list((folder / "teachers").glob("answers-*.pt"))) == 4
    # Of the first the student has the encoders itself, and the second and the last share theirs.
    assert len(list((folder / "teachers").glob("*/faces.pt"))) == 2
    tutor = taught.read(teachers[1], made.data)
    kept = torch.load(folder / "teachers" / f"answers-{tutor.sha256[:16]}.pt", weights_only=True)
    known = Drawer(
        bank_faces(tutor.encoders["face"], made_corpora.faces("train"), fusion.COPIES, fusion.SEED),
        bank_voices(tutor.encoders["voice"], made_corpora.clips("train"), fusion.COPIES, fusion.SEED),
        torch.tensor(kept["key"][1]),
    )
    worse = (
        bank_worse_faces(tutor.encoders["face"], made_corpora.faces("train"), fusion.SEED),
        bank_worse_voices(tutor.encoders["voice"], made_corpora.clips("train"), fusion.SEED),
    )
    expected = lessons.ask(tutor.teacher, lessons.Course(known, *worse), 2)
    torch.testing.assert_close(kept["logits"], expected.logits)
    monkeypatch.setattr(lessons, "ask", None)  # answers are kept, and a finished run needs none
    again = fusion.train(made.data, folder, face, voice, config)
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, trained.state_dict()[name])
    with pytest.raises(InputError, match=r"begun with other teachers \(jca, other, fdan, base\)"):
        taught.train(made.data, folder, face, voice, teachers[:2], config)


def test_a_run_does_not_go_on_over_other_encoders(made: Made, tokens: Path, tmp_path: Path) -> None:
    face, voice = taught.encoders(made.encoders)
    fusion.train(made.data, tmp_path / "run", face, voice, TINY, tokens=tokens)
    voice.head.bias.data += 1.0
    with pytest.raises(InputError, match="begun over other encoders"):
        fusion.train(made.data, tmp_path / "run", face, voice, TINY, tokens=tokens)


def test_teachers_that_are_none_are_refused(
    made: Made, teachers: list[Path], tokens: Path, tmp_path: Path
) -> None:
    face, voice = taught.encoders(made.encoders)
    with pytest.raises(InputError, match="there are no teachers; name them to edgeemo-export distil"):
        fusion.train(made.data, tmp_path / "a", face, voice, replace(TINY, distil=1.0), tokens=tokens)
    with pytest.raises(InputError, match="--teachers: there are none"):
        taught.train(made.data, tmp_path / "a", face, voice, [], replace(TINY, distil=1.0))
    with pytest.raises(InputError, match="nothing of the teachers would be learnt"):
        taught.train(made.data, tmp_path / "a", face, voice, teachers, TINY)
    with pytest.raises(InputError, match="it holds no finished run"):
        taught.read(tmp_path, made.data)
    by_name.train("co-attention", made.data, made.encoders, tmp_path / "c", DEFAULTS["co-attention"])
    with pytest.raises(InputError, match="co-attention does not read a face and a voice"):
        taught.read(tmp_path / "c", made.data)
    units = override(DEFAULTS["jca"], ["pairs=units"])
    by_name.train("jca", made.data, made.encoders, tmp_path / "u", units)
    with pytest.raises(InputError, match="jca reads action units"):
        taught.read(tmp_path / "u", made.data)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("alignment=mmd", "it must be one of none, lmmd, avel, avel"),
        ("distil=-1", "distil -1.0; it must be 0 or more"),
        ("temperature=0", "temperature 0.0; it must be above 0"),
        ("distil=0", "nothing of the teachers would be learnt"),
    ],
)
def test_distil_refuses_what_it_cannot_do(
    made: Made, teachers: list[Path], capsys: pytest.CaptureFixture[str], settings: str, told: str
) -> None:
    words = ["distil", "--data", str(made.data), "--run", str(made.encoders), "--teachers", str(teachers[0])]
    with pytest.raises(SystemExit) as left:
        main([*words, "--set", settings])
    assert left.value.code == 2 and told in capsys.readouterr().err


def test_distil_makes_the_fusion_of_a_run(made: Made, teachers: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("face", "voice"):
        (run / name).mkdir(parents=True)
        (run / name / "state.pt").write_bytes((made.encoders / name / "state.pt").read_bytes())
    tiny = [w for s in ("schedule.epochs=1", "steps=2", "batch=16", "lessons=2") for w in ("--set", s)]
    words = ["--data", str(made.data), "--run", str(run), "--teachers", *map(str, teachers[:2])]
    assert main(["distil", *words, *tiny, "--seed", "4", "--threads", "1"]) == 0
    kept = json.loads((run / "fusion" / "config.json").read_text())
    assert kept["distil"] == taught.DEFAULTS.distil > 0 and kept["schedule"]["seed"] == 4
    assert [one["run"] for one in json.loads((run / "fusion" / "teachers.json").read_text())] == [
        "jca",
        "other",
    ]
    with pytest.raises(SystemExit):
        main(["distil", "--data", str(made.data), "--run", str(tmp_path), "--teachers", str(teachers[0])])
