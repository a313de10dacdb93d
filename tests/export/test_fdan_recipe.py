"""FDAN's recipe on made-up pictures and sounds: it runs, goes on, draws what it should, and learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from edgeemo.errors import InputError
from edgeemo_calibration import lint
from edgeemo_export import bundle
from edgeemo_export.data import ferplus, sounds
from edgeemo_export.data.labels import LABELS
from edgeemo_export.data.tokens import NEUTRAL, SLOTS, FaceBank, VoiceBank
from edgeemo_export.encoders.resnet import ResNet
from edgeemo_export.recipes import fdan, fusion
from edgeemo_export.systems.fdan import Network
from edgeemo_export.systems.fusion import Fusion
from edgeemo_export.train import Schedule
from tests.support import made_corpora

CLASSES = len(LABELS)


def faces(split: str) -> ferplus.Faces:
    """A bright bar whose height is the label, which mirroring leaves where it is."""
    random = np.random.default_rng(len(split))
    images = random.normal(100, 8, (35, 48, 48))
    votes = np.zeros((35, 10), np.uint8)
    for place in range(35):
        kind = place % CLASSES
        images[place, 3 + 6 * kind : 9 + 6 * kind] += 100
        votes[place, kind] = 10
    return ferplus.Faces(images.clip(0, 255).astype(np.uint8), votes)


@pytest.fixture
def corpora(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Replaces readers and sizes; the splits that were read are noted."""
    return made_corpora.replace_readers(monkeypatch, faces)


ONE = Schedule(epochs=1, rate=1e-3, seed=3)
SMALL = fdan.Config(ONE, width=16, batch=7, pictures=2, steps=2, takes=2)


def weights(trained: fdan.Trained) -> dict[str, Tensor]:
    parts = {**trained.encoders, "fusion": trained.fusion}
    return {
        f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()
    }


def test_recipe(corpora: set[str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "edgeemo.export")
    trained = fdan.train(tmp_path, tmp_path / "run", SMALL)
    # Nothing of the test split is looked at.
    assert corpora == {"faces train", "faces develop", "voices train", "voices develop"}
    assert "multiply-adds" in caplog.text  # the budget
    (line,) = (tmp_path / "run" / "curve.jsonl").read_text().splitlines()
    found = json.loads(line)
    asked = ("face", "voice", "still", "moving", "late_still", "late_moving")
    losses = {f"loss_{name}" for name in ("each", "emotion", "alone", "lmmd")}
    figures = {f"{figure}_{name}" for figure in ("wa", "ua") for name in asked}
    assert found.keys() == {"epoch", "loss", "rate", "seconds", *losses, *figures}
    assert all(found[name] > 0 for name in losses) and all(0 <= found[name] <= 1 for name in figures)
    assert trained.encoders.keys() == {"face", "voice"}
    shared = {name: value for name, value in trained.encoders["face"].state_dict().items() if "trunk" in name}
    assert len(shared) > 20
    for name, value in shared.items():
        assert torch.equal(trained.encoders["voice"].state_dict()[name], value)
    with torch.no_grad():
        face = trained.encoders["face"](torch.from_numpy(faces("train").images[:3])[..., None])[:, None]
        voice = trained.encoders["voice"](0.1 * torch.randn(1, 16000))[None]
        answers = trained.fusion(face, torch.ones(3, 1), voice, torch.ones(3, 1))
    assert [list(answer.shape) for answer in answers] == [[3, CLASSES], [3, 2], [3, CLASSES], [3, CLASSES]]

    corpora.clear()
    again = fdan.train(tmp_path, tmp_path / "run", SMALL)
    assert corpora == {"faces develop", "voices develop"}  # read back, not trained again
    assert all(torch.equal(value, weights(trained)[name]) for name, value in weights(again).items())
    with pytest.raises(InputError, match=r"lmmd was 0\.05 and is 0\.0; give"):
        fdan.train(tmp_path, tmp_path / "run", replace(SMALL, lmmd=0.0))


@pytest.mark.slow
def test_what_is_trained_becomes_the_graphs_of_a_bundle(corpora: set[str], tmp_path: Path) -> None:
    trained = fdan.train(tmp_path, tmp_path / "run", SMALL)
    outputs = ["logits", "valence_arousal", "face_logits", "voice_logits"]
    bundle.write_graphs(tmp_path, trained.encoders, trained.fusion, outputs, SMALL.width)
    for name in ("face", "voice", "fusion"):
        assert lint(onnx.load(tmp_path / f"{name}.fp32.onnx")) == []


def test_a_run_that_was_stopped_goes_on_where_it_was(
    corpora: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(SMALL, schedule=Schedule(epochs=2, rate=1e-3))
    whole = fdan.train(tmp_path, tmp_path / "whole", config)
    real, begun = fdan.losses, []

    def stop(*given: object) -> dict[str, Tensor]:
        begun.append(given)
        if len(begun) > 2 + 2:  # the budget's steps, then one epoch
            raise KeyboardInterrupt
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(fdan, "losses", stop)
    with pytest.raises(KeyboardInterrupt):
        fdan.train(tmp_path, tmp_path / "stopped", config)
    assert len((tmp_path / "stopped" / "curve.jsonl").read_text().splitlines()) == 1
    monkeypatch.setattr(fdan, "losses", real)
    resumed = fdan.train(tmp_path, tmp_path / "stopped", config)
    for name, value in weights(resumed).items():
        assert torch.equal(value, weights(whole)[name]), name


def material() -> fdan.Material:
    """Pictures and clips whose every value is the label."""
    labels = torch.arange(CLASSES).repeat(4)
    rows = [(labels == label).nonzero()[:, 0] for label in range(CLASSES)]
    takes = [[torch.full((5, 8, 8), float(label)) for label in labels] for _ in range(2)]
    images = labels[:, None, None].expand(-1, 48, 48).byte()
    return fdan.Material(images, torch.eye(CLASSES)[labels], rows, takes, rows)


def test_a_window_tells_its_label_and_rests() -> None:
    drawn, labels = material(), torch.arange(CLASSES).repeat(40)
    rows = fdan._seen(drawn, labels, 4, torch.Generator().manual_seed(0))
    shown = drawn.shares[rows].argmax(2)
    tells = shown == labels[:, None]
    assert tells.any(dim=1).all() and (tells | (shown == NEUTRAL)).all()
    assert 0.4 < float(tells[labels != NEUTRAL].float().mean()) < 0.8
    assert tells[:, 0].float().mean() < 0.9  # which picture tells is drawn
    for row, told in zip(rows[labels != NEUTRAL], tells[labels != NEUTRAL], strict=True):
        assert len(row[told].unique()) == 1  # one person, seen again


def test_a_window_hears_its_label() -> None:
    labels = torch.tensor([3, 0, 6, 3])
    mels = fdan._heard(material(), labels, SMALL, torch.Generator().manual_seed(0))
    assert mels.shape == (4 * SMALL.pictures, 1, 8, 8)
    expected = labels.repeat_interleave(SMALL.pictures).float()
    assert torch.equal(mels[:, 0, 0, 0], expected)


def test_mel_pictures_are_never_flipped_or_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faces alone are jittered; what is left of a mel picture stands where it stood."""
    jittered = []
    monkeypatch.setattr(
        fdan, "jitter", lambda images, random: jittered.append(images) or images.float()[..., None]
    )
    monkeypatch.setattr(sounds, "mask_mel", lambda mel, random: mel)
    network, seen = fdan.build(SMALL), []
    monkeypatch.setattr(network.backbone, "tokens", lambda x: seen.append(x) or torch.rand(len(x), 16))
    drawn = material()
    rising = torch.arange(48 * 48.0).view(48, 48)
    drawn = replace(drawn, takes=[[rising.expand(5, -1, -1)] * 28] * 2)
    fdan.losses(network, drawn, torch.arange(3), SMALL, torch.Generator().manual_seed(0))
    count = 3 * SMALL.pictures
    (images,), (pictures,) = jittered, seen
    assert len(images) == count and len(pictures) == 2 * count
    assert all(torch.equal(picture[0], rising) for picture in pictures[count:])


def test_the_loss_reaches_every_parameter(corpora: set[str], tmp_path: Path) -> None:
    network = fdan.build(SMALL).train()
    drawn = fdan.gather(tmp_path, SMALL)
    for block in network.backbone.trunk[3:]:  # which start as their skip paths
        torch.nn.init.ones_(block.norm2.weight)
    parts = fdan.losses(network, drawn, torch.arange(14) % CLASSES, SMALL, torch.Generator().manual_seed(0))
    torch.stack(list(parts.values())).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_the_weight_of_lmmd_is_the_fusions(corpora: set[str], tmp_path: Path) -> None:
    drawn = fdan.gather(tmp_path, SMALL)
    for weight in (0.0, 1.0):
        config = replace(SMALL, lmmd=weight)
        found = fdan.losses(
            fdan.build(config), drawn, torch.arange(14) % CLASSES, config, torch.Generator().manual_seed(0)
        )
        assert ("lmmd" in found) == bool(weight)


def test_it_learns_bars_and_tones(corpora: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fdan, "jitter", lambda images, random: images.float()[..., None])
    config = replace(
        SMALL, schedule=Schedule(epochs=8, rate=3e-3, average=0.8), steps=8, batch=14, pictures=1
    )
    fdan.train(tmp_path, tmp_path / "run", config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "curve.jsonl").read_text().splitlines()]
    assert lines[-1]["loss_emotion"] < 0.8 * lines[0]["loss_emotion"]
    assert min(lines[-1][f"ua_{name}"] for name in ("face", "voice", "still")) > 0.4


class Echo(Fusion):
    """Answers what the tokens that count say, the face's twice."""

    def forward(self, first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor) -> Tensor:
        parts = ((first, first_mask, 2.0), (second, second_mask, 1.0))
        return sum(gain * (tokens * mask[..., None]).sum(1) for tokens, mask, gain in parts)  # type: ignore[return-value]


def test_figures_are_of_what_they_are_named_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faces are told in six of seven labels, voices in four, pairs as the stronger, the face, says."""
    monkeypatch.setattr(fusion, "DEVELOPMENT_PAIRS", 70)
    labels = torch.arange(CLASSES)
    looks = torch.eye(CLASSES)[torch.where(labels == 6, 0, labels)][None]
    heard = torch.zeros(1, CLASSES, SLOTS, CLASSES)
    heard[0, :, -1] = torch.eye(CLASSES)[torch.where(labels > 3, 0, labels)]
    masks = torch.zeros(1, CLASSES, SLOTS)
    masks[:, :, -1] = 1.0
    found = fdan.score(Echo(), FaceBank(looks, torch.eye(CLASSES), labels), VoiceBank(heard, masks, labels))
    assert found["ua_face"] == pytest.approx(6 / 7)
    assert found["ua_voice"] == pytest.approx(4 / 7)
    assert found["ua_still"] == pytest.approx(6 / 7)


def test_imagenets_weights_are_where_a_resnet_starts(tmp_path: Path) -> None:
    torch.manual_seed(7)
    state = ResNet(18).state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    network = fdan.build(replace(SMALL, net="resnet18", weights=str(tmp_path / "resnet18.pth")))
    assert isinstance(network, Network)
    own = network.backbone.trunk.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in own.items())
    plain = fdan.build(replace(SMALL, net="resnet18")).backbone.trunk.state_dict()
    assert not torch.equal(plain["conv1.weight"], state["conv1.weight"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"weights": "resnet34.pth"}, "weights 'resnet34.pth'; it must be empty for the small net"),
        ({"lmmd": -1.0}, "lmmd -1.0; it must be 0 or more"),
        ({"pictures": 0}, "pictures 0; it must be 1 or more"),
    ],
)
def test_settings_out_of_range(setting: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"fdan: {message}"):
        replace(SMALL, **setting)  # type: ignore[arg-type]
