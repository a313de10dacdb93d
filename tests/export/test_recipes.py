"""The recipes on made-up pictures and sounds: they run, go on, and learn from what they should."""

from __future__ import annotations

import importlib
import inspect
import json
import pickle
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeemo.errors import InputError
from edgeemo_export import recipes
from edgeemo_export.cli import main
from edgeemo_export.data import ferplus, sounds, voices
from edgeemo_export.data.labels import LABELS, NORMS
from edgeemo_export.data.pairs import ByLabel
from edgeemo_export.data.tokens import SLOTS, Drawer, FaceBank, VoiceBank
from edgeemo_export.encoders.restore import VoicePart
from edgeemo_export.recipes import adapt, default, face, fusion, presence, voice
from edgeemo_export.recipes.aligned import Aligned
from edgeemo_export.recipes.lessons import Teacher
from edgeemo_export.systems.attention import AttentionFusion
from edgeemo_export.train import Schedule
from tests.support import made_corpora

CLASSES = len(LABELS)


def faces(split: str) -> ferplus.Faces:
    """Bars whose direction is the label; every eighth picture shows contempt, which is no label."""
    random = np.random.default_rng({"train": 0, "develop": 1, "test": 2}[split])
    images = np.empty((32, 48, 48), np.uint8)
    votes = np.zeros((32, 10), np.uint8)
    rows, columns = np.mgrid[:48, :48]
    for place in range(32):
        kind = place % 8
        angle = np.pi * kind / 8
        wave = np.sin((rows * np.sin(angle) + columns * np.cos(angle)) / 3)
        images[place] = (120 + 60 * wave + random.normal(0, 5, (48, 48))).clip(0, 255)
        votes[place, kind], votes[place, (kind + 1) % 7] = 8, 2
    return ferplus.Faces(images, votes)


@pytest.fixture
def corpora(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Replaces readers and sizes; the splits that were read are noted."""
    return made_corpora.replace_readers(monkeypatch, faces)


ONE = Schedule(epochs=1, rate=1e-3, seed=3)
SMALL = default.Config(
    face.Config(ONE, batch=7),
    voice.Config(ONE, batch=7, windows=2, takes=2),
    fusion.Config(ONE, batch=16, steps=2),
    presence.Config(ONE, batch=8, takes=1, windows=1),
)


def parts(trained: default.Trained) -> dict[str, nn.Module]:
    return {"face": trained.face, "voice": trained.voice, "fusion": trained.fusion}


def test_default_recipe(corpora: set[str], tmp_path: Path) -> None:
    trained = default.train(tmp_path, tmp_path / "run", SMALL)
    # Nothing of the test split is looked at.
    assert corpora == {"faces train", "faces develop", "voices train", "voices develop"}
    keys = {
        "face": {f"{figure}_{prior}" for figure in ("wa", "ua") for prior in ("balanced", "half", "natural")},
        "voice": {"wa_ravdess", "ua_ravdess"},
        "fusion": {
            *(
                f"ua_{kind}_{way}"
                for kind in ("still", "moving")
                for way in ("fused", "late", "face", "voice")
            ),
            "wa",
            "ua",
            "loss_stills",
            "loss_pairs",
        },
    }
    for name, module in parts(trained).items():
        assert not module.training
        assert all(value.isfinite().all() for value in module.state_dict().values())
        (line,) = (tmp_path / "run" / name / "curve.jsonl").read_text().splitlines()
        figures = json.loads(line)
        assert figures.keys() == {"epoch", "loss", "rate", "seconds"} | keys[name]
        assert figures["loss"] > 0
        assert all(0 <= figures[key] <= 1 for key in keys[name] if "loss" not in key)
    assert (trained.fusion.temperatures > 0).all()
    for mine, theirs in (
        (trained.fusion.voice_head, trained.voice.head),
        (trained.fusion.voice_pool, trained.voice.pool),
    ):
        assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in mine.state_dict().items())
    assert not torch.equal(trained.fusion.face_head.weight, trained.face.head.weight)  # trained further

    assert default.settings(tmp_path / "run", default.DEFAULTS) == SMALL
    again = default.train(tmp_path, tmp_path / "run", SMALL)
    for name, module in parts(again).items():
        expected = parts(trained)[name].state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in module.state_dict().items()), name
        assert len((tmp_path / "run" / name / "curve.jsonl").read_text().splitlines()) == 1


def test_seed_reaches_each_part(corpora: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    for module in (face, voice, fusion, presence):
        name = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(
            module,
            "train",
            lambda *given, name=name: seen.setdefault(name, given) and SimpleNamespace(encoder=name),
        )
    words = ["train", "--data", str(tmp_path), "--run", str(tmp_path / "run"), "--seed", "11"]
    assert main([*words, "--set", "voice.schedule.epochs=5", "--set", "fusion.batch=64"]) == 0
    expected = {
        "face": face.Config(replace(face.SCHEDULE, seed=11)),
        "voice": voice.Config(replace(voice.SCHEDULE, seed=11, epochs=5)),
        "fusion": fusion.Config(replace(fusion.SCHEDULE, seed=11), batch=64),
    }
    for name, config in expected.items():
        assert seen[name][-1] == config
        assert seen[name][1] == tmp_path / "run" / name
    assert [part.encoder for part in seen["fusion"][2:4]] == ["face", "voice"]
    assert seen["presence"][2] == "voice"


def test_a_part_that_was_begun_with_other_settings_is_refused(
    corpora: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    default.train(tmp_path, tmp_path / "run", SMALL)
    for part in ("face", "voice", "fusion"):
        config = getattr(SMALL, part)
        other = replace(SMALL, **{part: replace(config, smoothing=0.5)})
        with pytest.raises(InputError, match=f"{part}.*smoothing was {config.smoothing} and is 0.5; give"):
            default.train(tmp_path, tmp_path / "run", other)
    with pytest.raises(SystemExit) as ended:
        main(["train", "--data", str(tmp_path), "--run", str(tmp_path / "run"), "--set", "face.batch=7"])
    assert ended.value.code == 2
    assert "schedule.epochs was 1 and is 28" in capsys.readouterr().err


def test_face_learns_bars(corpora: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Directions do not survive mirroring and rolling, so the pictures are left as they are.
    monkeypatch.setattr(face, "jitter", lambda images, random: images.float()[..., None])
    face.train(tmp_path, tmp_path, face.Config(Schedule(epochs=10, rate=3e-3, average=0.9), batch=7))
    lines = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert lines[-1]["ua_balanced"] > 0.5


def test_voice_is_scored_by_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = [  # corpus, label, answer
        ("ravdess", "anger", "anger"),
        ("ravdess", "anger", "anger"),
        ("ravdess", "fear", "anger"),
        ("emodb", "sadness", "sadness"),
    ]
    tokens = [torch.full((50, 8), float(LABELS.index(answer))) for _, _, answer in heard]
    monkeypatch.setattr(voice, "tokens_of", lambda model, clips: tokens)
    model = voice.VoiceModel(8)

    def classify(given: Tensor, mask: Tensor | None = None) -> Tensor:
        assert given.shape == (1, 40, 8)  # the window of a stream
        return torch.eye(CLASSES)[given[:, 0, 0].long()]

    monkeypatch.setattr(model, "classify", classify)
    found = voice.score(model, [voices.Clip(Path(), corpus, "", label, "test") for corpus, label, _ in heard])
    assert found == {
        "wa_ravdess": pytest.approx(2 / 3),
        "ua_ravdess": 0.5,
        "wa_emodb": 1.0,
        "ua_emodb": 1.0,
    }


def test_takes_of_a_clip(corpora: set[str]) -> None:
    given = made_corpora.clips("develop")[:2]
    model = voice.VoiceModel(8)
    takes = voice.record(model.encoder.front, given, seed=1, takes=3)
    assert [len(take) for take in takes] == [2] * 3
    for place, clip in enumerate(given):
        plain = model.encoder.front(sounds.contexts(made_corpora.sound(clip.path)))[:, 0]
        assert torch.equal(takes[0][place], plain.bfloat16())
        assert takes[1][place].shape[1:] == plain.shape[1:]
        assert not torch.equal(takes[1][place][:1], takes[0][place][:1])
    again = voice.record(model.encoder.front, given, seed=1, takes=3)
    assert all(torch.equal(a, b) for a, b in zip(takes[1], again[1], strict=True))


def test_mixing_a_third_of_the_clips_with_others() -> None:
    labels = torch.arange(300) % CLASSES
    targets = torch.eye(CLASSES)[labels]
    mels = labels[:, None, None, None].expand(-1, 2, 3, 4).float()
    mixed, mixture, strange = voice.mix(mels, targets, 0.33, torch.Generator().manual_seed(0))
    assert mixed.shape == mels.shape
    torch.testing.assert_close(mixture.sum(dim=1), torch.ones(300))
    assert (mixture[torch.arange(300), labels] >= 0.5).all()  # the clip itself weighs most
    # Pictures and targets are mixed with the same clip in the same measure.
    torch.testing.assert_close(mixed, (mixture @ torch.arange(7.0))[:, None, None, None].expand_as(mixed))
    assert ((1.0 - mixture[torch.arange(300), labels]) <= strange + 1e-6).all()  # of whom else there is
    changed = (mixture != targets).any(dim=1).float().mean()
    assert changed == pytest.approx(0.33 * 6 / 7, abs=0.08)


def banks() -> tuple[FaceBank, VoiceBank]:
    labels = torch.arange(CLASSES).repeat(5)
    random = torch.Generator().manual_seed(0)
    looks = 0.2 * torch.rand(2, len(labels), 8, generator=random) + 0.1
    looks[:, torch.arange(len(labels)), labels] += 1.0
    lengths = torch.randint(1, SLOTS + 1, (2, len(labels)), generator=random)
    masks = (torch.arange(SLOTS) >= SLOTS - lengths[..., None]).float()
    return (
        FaceBank(looks, nn.functional.one_hot(labels, CLASSES).float() * 0.9 + 0.1 / CLASSES, labels),
        VoiceBank(looks[:, :, None] * masks[..., None], masks, labels),
    )


def new_fusion() -> AttentionFusion:
    torch.manual_seed(0)
    return AttentionFusion(8, CLASSES, [(0.0, 0.0)] * CLASSES, inner=4, heads=2).eval()


def test_fusion_learns_from_no_empty_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    # A window of which one still is left has a picture in the slot that counts.
    drawer = Drawer(*banks(), torch.eye(CLASSES))
    model, seen = new_fusion(), []
    whole = AttentionFusion.joint_logits

    def joint_logits(self: AttentionFusion, *given: Tensor) -> Tensor:
        seen.append(given)
        return whole(self, *given)

    monkeypatch.setattr(AttentionFusion, "joint_logits", joint_logits)
    windows = ByLabel(drawer).draw(400, torch.Generator().manual_seed(0))
    fusion._pair_loss(model, windows, 0.05)
    ((face_tokens, face_mask, voice_tokens, voice_mask),) = seen
    for tokens, mask in ((face_tokens, face_mask), (voice_tokens, voice_mask)):
        assert (mask.sum(dim=1) >= 1).all()
        assert (tokens.sum(dim=2)[mask > 0] > 0).all()
    stills = (face_mask.sum(dim=1) == 1).float().mean()
    assert stills == pytest.approx(0.25, abs=0.1)


def test_every_part_of_the_fusion_gets_a_gradient() -> None:
    model = new_fusion()
    nn.init.normal_(model.joint[3].weight)
    random = torch.Generator().manual_seed(0)
    drawer = Drawer(*banks(), torch.eye(CLASSES))
    prior = fusion.natural_prior(drawer.faces)
    loss = fusion._still_loss(model, drawer, prior, 32, random)
    (loss + fusion._pair_loss(model, ByLabel(drawer).draw(32, random), 0.05)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        # A key's bias moves all scores alike, which a softmax does not see.
        assert parameter.grad.any() or key.endswith("key.bias"), key


def test_natural_prior() -> None:
    labels = torch.tensor([0, 1, -1])
    shares = torch.full((3, CLASSES), 0.1)
    shares[:2, 3] = 0.4
    shares[2, 0] = 1.0  # has no label, so it does not count
    prior = fusion.natural_prior(FaceBank(torch.zeros(1, 3, 2), shares, labels))
    assert prior.mean() == pytest.approx(0.0, abs=1e-6)
    assert prior[3] - prior[0] == pytest.approx(np.log(4), rel=1e-5)


def test_confusion(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = torch.tensor([0, 0, 1, 2, 2, 6])
    labels = torch.tensor([0, 0, 0, 2, 2, 5])
    model = voice.VoiceModel(8)
    monkeypatch.setattr(model, "classify", lambda tokens, mask: torch.eye(CLASSES)[answers])
    bank = VoiceBank(torch.zeros(1, 6, SLOTS, 8), torch.ones(1, 6, SLOTS), labels)
    expected = np.ones((CLASSES, CLASSES))
    for label, answer in zip(labels.tolist(), answers.tolist(), strict=True):
        expected[label, answer] += 1
    found = fusion.confusion(model, bank)
    np.testing.assert_allclose(found.numpy(), expected / expected.sum(axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("moving", [False, True])
def test_development_pairs(moving: bool) -> None:
    faces, utterances = banks()
    pairs = fusion.development_pairs(faces, utterances, moving)
    face_tokens, face_mask, voice_tokens, voice_mask = pairs.inputs
    assert len(pairs.labels) == fusion.DEVELOPMENT_PAIRS
    if moving:
        assert (face_mask.sum(dim=1) >= 1).all() and face_mask.sum(dim=1).max() > 30
    else:
        assert (face_mask.sum(dim=1) == 1).all()
        assert torch.equal(face_tokens[face_mask > 0].argmax(dim=1), pairs.labels)
    assert torch.equal(voice_tokens[:, -1].argmax(dim=1), pairs.labels)
    assert (voice_mask[:, -1] == 1).all()
    again = fusion.development_pairs(faces, utterances, moving)
    assert torch.equal(again.inputs[0], face_tokens) and torch.equal(again.labels, pairs.labels)


def test_terms_are_weighed_by_what_they_are_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    """The face's logits are twice too large, the voice's half too small, and the joint term says nothing."""
    random = torch.Generator().manual_seed(0)
    truth = torch.arange(CLASSES).repeat(1000)
    shown = nn.functional.one_hot(truth, CLASSES)
    face, voiced, noise = (torch.randn(len(truth), CLASSES, generator=random) for _ in range(3))
    model = new_fusion()
    monkeypatch.setattr(model, "face_logits", lambda tokens, mask: 2.0 * (face + shown))
    monkeypatch.setattr(model, "voice_logits", lambda tokens, mask: 0.5 * (voiced + shown))
    monkeypatch.setattr(model, "joint_logits", lambda *given: noise)
    nn.init.ones_(model.joint[3].weight)
    empty = torch.zeros(len(truth), 1)
    fusion.weigh(model, fusion.Pairs((empty, empty, empty, empty), truth))
    assert model.weights.tolist() == pytest.approx([0.5, 2.0], rel=0.1)
    assert model.joint[3].weight.abs().max() < 0.1


def test_calibration_finds_temperatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the three logits is made so that its right temperature is known."""
    random = torch.Generator().manual_seed(0)
    count = 3000
    truth = torch.randint(CLASSES, (count,), generator=random)

    def calibrated() -> Tensor:
        # Gaussian scores around the truth: their posterior is a softmax of the scores over the variance.
        return torch.randn(count, CLASSES, generator=random) + nn.functional.one_hot(truth, CLASSES)

    model = new_fusion()
    face_logits, voice_logits, both = 2.0 * calibrated(), 0.5 * calibrated(), 3.0 * calibrated()
    monkeypatch.setattr(model, "face_logits", lambda tokens, mask: face_logits)
    monkeypatch.setattr(model, "voice_logits", lambda tokens, mask: voice_logits)
    monkeypatch.setattr(
        AttentionFusion,
        "forward",
        lambda self, *given: (torch.cat([both, both]) / self.temperatures[2], None, None, None),
    )
    tokens, mask = torch.zeros(1, count, SLOTS, 8), torch.ones(1, count, SLOTS)
    shares = nn.functional.one_hot(truth, CLASSES).float()
    pairs = fusion.Pairs((tokens[0], mask[0], tokens[0], mask[0]), truth)
    monkeypatch.setattr(fusion, "development_pairs", lambda faces, voices, moving: pairs)
    monkeypatch.setattr(fusion, "weigh", lambda model, pairs: None)  # has its own test
    model.temperatures.fill_(7.0)  # what an earlier calibration left
    banks = FaceBank(tokens[:, :, 0], shares, truth), VoiceBank(tokens, mask, truth)
    fusion.calibrate(model, *banks, torch.zeros(CLASSES), 0.008)
    assert model.temperatures.tolist() == pytest.approx([2.0, 0.5, 3.0], rel=0.08)
    assert not model.prior.any()


@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        # The rare label is found without the prior, at no cost.
        (4.0, False),
        # Without the prior everything ambiguous is called rare, which costs much of the WA.
        (0.0, True),
    ],
)
def test_prior_is_used_where_it_pays(gain: float, expected: bool) -> None:
    truth = torch.tensor([4] * 95 + [1] * 5)
    stills = torch.zeros(100, CLASSES)
    stills[:, [4, 1]] = 2.0
    stills[torch.arange(100), truth] += gain
    stills[:, 1] += 0.3
    log_prior = torch.full((CLASSES,), -3.0)
    log_prior[4] = 3.0
    measure = fusion._measure_of_prior(stills, truth, log_prior, 0.008)
    answers = (stills + measure * log_prior).argmax(dim=1)
    right = (answers == truth).float()
    if expected:
        assert measure > 0 and right.mean() == pytest.approx(0.95)
    else:
        assert right.mean() == 1.0


class Counted(nn.Module):
    """An encoder that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()), requires_grad=False)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.float().flatten(1)[:, :8] * self.gain


def test_tokens_are_stored_for_the_encoder_that_gave_them(corpora: set[str], tmp_path: Path) -> None:
    faces, heard = SimpleNamespace(encoder=Counted()), SimpleNamespace(encoder=Counted())
    first = fusion.banks(tmp_path, tmp_path, faces, heard)
    assert first.faces.tokens.shape == (4, 32, 8) and first.develop_faces.tokens.shape == (1, 32, 8)
    assert first.voices.tokens.shape == (4, 21, SLOTS, 8)
    assert first.develop_voices.tokens.shape == (1, 7, SLOTS, 8)
    calls = faces.encoder.calls, heard.encoder.calls
    again = fusion.banks(tmp_path, tmp_path, faces, heard)
    assert (faces.encoder.calls, heard.encoder.calls) == calls
    for name in ("faces", "develop_faces", "voices", "develop_voices"):
        for key, value in vars(getattr(first, name)).items():
            assert torch.equal(getattr(getattr(again, name), key), value)
    faces.encoder.gain.fill_(2.0)
    other = fusion.banks(tmp_path, tmp_path, faces, heard)
    assert faces.encoder.calls == 2 * calls[0] and heard.encoder.calls == calls[1]
    torch.testing.assert_close(other.faces.tokens, 2.0 * first.faces.tokens)


@pytest.mark.parametrize("name", ["faces.pt", "voices.pt"])
def test_stored_tokens_are_weights_only(corpora: set[str], tmp_path: Path, name: str) -> None:
    torch.save({"encoder": "", "banks": OSError("an object whose class would be run")}, tmp_path / name)
    with pytest.raises(pickle.UnpicklingError):
        fusion.banks(
            tmp_path, tmp_path, SimpleNamespace(encoder=Counted()), SimpleNamespace(encoder=Counted())
        )


# Defects of published systems that no model of a recipe has


def _modules_of_recipes() -> set[type[nn.Module]]:
    """Every model that a recipe makes."""
    found: set[type[nn.Module]] = set()
    for info in pkgutil.iter_modules(recipes.__path__, f"{recipes.__name__}."):
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, nn.Module):
                found.add(value)
    return {
        kind for kind in found if kind.__module__.startswith((recipes.__name__, AttentionFusion.__module__))
    }


def answer_of_adapting(model: nn.Module, voice_: Tensor) -> Tensor:
    tokens = model.encoder(voice_.flatten(0, 1)).unflatten(0, (len(voice_), -1))
    return model.head(model.pool(tokens))  # type: ignore[no-any-return]


def answer_of_voice(model: nn.Module, voice_: Tensor) -> Tensor:
    assert isinstance(model, voice.VoiceModel)
    return model.classify(model.encoder(voice_.flatten(0, 1)).unflatten(0, (len(voice_), -1)))


def pictures(count: int) -> tuple[Tensor, ...]:
    return (torch.randint(256, (count, 48, 48, 1), dtype=torch.uint8),)


def sounds_of(count: int) -> tuple[Tensor, ...]:
    return (0.1 * torch.randn(count, 3, sounds.CONTEXT),)


def tokens_of_both(count: int) -> tuple[Tensor, ...]:
    masks = (torch.rand(2, count, SLOTS) < 0.7).float()
    return torch.rand(count, SLOTS, 8), masks[0], torch.rand(count, SLOTS, 8), masks[1]


def new_adapting() -> nn.Module:
    part = voice.VoiceModel()
    return adapt.Adapting(VoicePart(part.encoder, part.pool, part.head, 1.0))


def fusion_of_real_norms() -> nn.Module:
    return AttentionFusion(8, CLASSES, [NORMS[name] for name in LABELS], inner=4, heads=2)


MODELS: dict[type[nn.Module], tuple[Any, Any, Any]] = {  # how it is made, asked, and of what
    face.FaceModel: (face.FaceModel, None, pictures),
    voice.VoiceModel: (voice.VoiceModel, answer_of_voice, sounds_of),
    AttentionFusion: (fusion_of_real_norms, None, tokens_of_both),
    adapt.Adapting: (new_adapting, answer_of_adapting, sounds_of),
}


def test_every_model_of_a_recipe_is_tried() -> None:
    trained_with = {Aligned, Teacher}  # answer nobody, and are in no graph
    assert _modules_of_recipes() == set(MODELS) | trained_with


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_permuting_the_batch_permutes_the_answers(
    kind: type[nn.Module], enliven: Callable[..., nn.Module]
) -> None:
    """No sample's answer hangs on the others, as it does where attention runs along the batch."""
    build, ask, inputs = MODELS[kind]
    model, order = enliven(build()), torch.tensor([2, 0, 4, 3, 1])
    torch.manual_seed(1)
    given = inputs(5)
    asked = ask or (lambda model, *given: model(*given))
    answers, permuted = asked(model, *given), asked(model, *(x[order] for x in given))
    alone = asked(model, *(x[:1] for x in given))
    if isinstance(answers, Tensor):
        answers, permuted, alone = (answers,), (permuted,), (alone,)
    for whole, other, single in zip(answers, permuted, alone, strict=True):
        assert (whole[0] - whole[1]).abs().max() > 1e-3  # samples differ
        torch.testing.assert_close(other, whole[order], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(single, whole[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_an_answer_needs_no_labels(kind: type[nn.Module]) -> None:
    """Whatever a model can be asked takes what was seen and heard, and nothing that says the answer."""
    asked = {name: getattr(kind, name) for name in ("forward", "classify") if name in vars(kind)}
    for name, method in asked.items():
        parameters = list(inspect.signature(method).parameters)[1:]
        allowed = {
            "face",
            "tokens",
            "mask",
            *(f"{m}_{what}" for m in ("face", "voice") for what in ("tokens", "mask")),
        }
        assert set(parameters) <= allowed, f"{name}({', '.join(parameters)})"
