"""The presence of speech: its head beside the tokens, its graph, what it learns from and what it learns."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from edgeemo.errors import InputError
from edgeemo.inference.bundle import Bundle, describe_files
from edgeemo_calibration import lint, measure, write_encodings, write_half
from edgeemo_export import bundle, to_onnx
from edgeemo_export.data import noises, sounds, voices
from edgeemo_export.data.activity import spoken
from edgeemo_export.encoders.fold import fold_batch_norms
from edgeemo_export.encoders.presence import SpeechAware, features_of, outputs_of, presence_head
from edgeemo_export.encoders.restore import load_weights, restore_voice
from edgeemo_export.encoders.voice import VoiceEncoder
from edgeemo_export.recipes import presence
from edgeemo_export.train import Schedule

Enliven = Callable[..., nn.Module]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def buzz(seconds: float, pitch: float = 120.0, level: float = 0.1) -> Tensor:
    """A vowel of sorts: many harmonics of a pitch."""
    time = torch.arange(round(seconds * 16000)) / 16000
    return level * sum(
        (torch.sin(2 * torch.pi * pitch * place * time) / place for place in range(1, 20)), torch.zeros(1)
    )


@pytest.fixture
def aware(enliven: Enliven) -> SpeechAware:
    encoder = enliven(VoiceEncoder(8))
    assert isinstance(encoder, VoiceEncoder)
    head = enliven(presence_head(features_of(encoder)), seed=1)
    assert isinstance(head, nn.Sequential)
    with torch.no_grad():
        head[3].weight.mul_(0.05)  # presences that are neither 0 nor 1
    return SpeechAware(encoder, head).eval()


# --- the encoder and its graph


def test_tokens_are_those_of_the_encoder_to_the_bit(enliven: Enliven) -> None:
    encoder = enliven(VoiceEncoder(8))
    assert isinstance(encoder, VoiceEncoder)
    sound = torch.randn(3, 16000, generator=seeded(0)) * 0.1
    with torch.no_grad():
        before = encoder(sound)
        tokens, speech = SpeechAware(encoder).eval()(sound)
    assert torch.equal(before, tokens)
    assert speech.shape == (3,) and bool(((speech >= 0) & (speech <= 1)).all())


def test_weights_keep_their_names(aware: SpeechAware) -> None:
    names = set(aware.state_dict())
    assert set(VoiceEncoder(8).state_dict()) < names
    assert {name.partition(".")[0] for name in names - set(VoiceEncoder(8).state_dict())} == {"presence"}


@pytest.fixture
def graph(aware: SpeechAware, tmp_path: Path) -> Path:
    path = tmp_path / "voice.fp32.onnx"
    fold_batch_norms(aware)
    to_onnx.write(aware, {"voice": torch.randn(1, 16000) * 0.05}, outputs_of(aware), path)
    return path


def test_folding_changes_nothing_but_rounding(aware: SpeechAware) -> None:
    sound = torch.randn(4, 16000, generator=seeded(1)) * 0.1
    folded = fold_batch_norms(copy.deepcopy(aware))
    assert not any(isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) for part in folded.modules())
    with torch.no_grad():
        for before, after in zip(aware(sound), folded(sound), strict=True):
            torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


def test_every_encoding_is_clean_and_keeps_the_head_in_floating_point(graph: Path, tmp_path: Path) -> None:
    feeds = [
        {"voice": np.random.default_rng(seed).normal(0, 0.1, (1, 16000)).astype(np.float32)}
        for seed in range(8)
    ]
    table = measure(graph, feeds, method="percentile")
    assert all(operator.weight.startswith("trunk.") for operator in table.operators.values())
    paths = [
        graph,
        write_half(graph, tmp_path, "voice"),
        *write_encodings(graph, table, tmp_path, "voice").values(),
    ]
    for path in paths:
        model = onnx.load(path)
        assert [(value.name, len(value.type.tensor_type.shape.dim)) for value in model.graph.output] == [
            ("tokens", 2),
            ("speech", 1),
        ]
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        heads = [values for name, values in weights.items() if name.startswith(("presence.", "project."))]
        assert heads and all(values.dtype == np.float32 for values in heads)
        if "int8-cpu" not in path.name:
            assert lint(model) == []
        session = onnxruntime.InferenceSession(path)
        for feed in feeds[:2]:
            (speech,) = session.run(["speech"], feed)
            assert speech.shape == (1,) and 0.0 <= speech[0] <= 1.0


def test_the_head_comes_back_out_of_the_graph(aware: SpeechAware, graph: Path) -> None:
    """`aware` was folded for the graph."""
    encoder = VoiceEncoder(8).eval()
    again = SpeechAware(encoder, presence_head(features_of(encoder)).eval())
    fold_batch_norms(again)
    load_weights(again, onnx.load(graph))
    for name, value in aware.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize("size", ["edge", "base"])
def test_an_encoder_of_any_size_comes_back_out_of_a_bundle(
    size: str, default_bundle: Path, enliven: Enliven, tmp_path: Path
) -> None:
    encoder = enliven(VoiceEncoder(128, size))
    assert isinstance(encoder, VoiceEncoder)
    aware = SpeechAware(encoder, presence_head(features_of(encoder))).eval()
    fold_batch_norms(aware)
    folder = Path(shutil.copytree(default_bundle, tmp_path / "b"))
    manifest = json.loads((folder / "manifest.json").read_text())
    to_onnx.write(
        aware, {"voice": torch.randn(1, 16000) * 0.05}, outputs_of(aware), folder / "voice.fp32.onnx"
    )
    manifest["graphs"]["voice"]["outputs"]["speech"] = ["float32", [1]]
    manifest["thresholds"]["speech"] = 0.25
    manifest.pop("proof", None)
    manifest["files"] = describe_files(folder, manifest["files"])
    (folder / "manifest.json").write_text(json.dumps(manifest))
    part = restore_voice(Bundle.read(folder))
    assert part.presence is not None
    sound = 0.1 * torch.randn(2, 16000, generator=seeded(8))
    with torch.no_grad():
        for right, found in zip(aware(sound), SpeechAware(part.encoder, part.presence)(sound), strict=True):
            torch.testing.assert_close(found, right, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("threshold", [None, 0.123456])
def test_a_bundle_says_what_its_voice_tells(threshold: float | None, aware: SpeechAware) -> None:
    told = None if threshold is None else presence.Presence(aware.presence, threshold)
    fusion = SimpleNamespace(temperatures=torch.ones(3), prior=torch.zeros(7))
    trained: Any = SimpleNamespace(
        voice=SimpleNamespace(encoder=VoiceEncoder(8)), fusion=fusion, presence=told, taught=("voice",)
    )
    manifest = bundle.describe(trained, {}, 0, 8)
    outputs = manifest["graphs"]["voice"]["outputs"]
    assert list(outputs) == outputs_of(bundle.voice_encoder(trained))
    assert outputs.get("speech") == (["float32", [1]] if told else None)
    assert manifest["thresholds"].get("speech") == (0.1235 if told else None)
    assert "speech" not in bundle.THRESHOLDS
    assert manifest["provenance"]["recipe"] == "edgeemo-export distil of voice, then edgeemo-export bundle"


# --- what is learnt from


def test_speech_is_what_is_loud_and_periodic() -> None:
    random = seeded(0)
    hiss = 0.1 * torch.randn(16000, generator=random)
    quiet = 0.001 * torch.randn(16000, generator=random)
    recording = torch.cat([quiet, buzz(1.0), quiet, 0.01 * hiss, buzz(1.0, level=0.0005)])
    share = spoken(recording).float().split(16000)
    # A tenth of a second around the vowel is spoken too; what is 46 dB quieter than it is not.
    assert [round(float(part.mean()), 1) for part in share] == [0.1, 1.0, 0.1, 0.0, 0.0]


def test_nothing_is_spoken_in_silence_or_noise() -> None:
    assert not spoken(torch.zeros(16000)).any()
    assert not spoken(0.1 * torch.randn(32000, generator=seeded(0))).any()
    assert spoken(torch.zeros(100)).shape == (100,)


@pytest.mark.parametrize("kind", noises.KINDS)
def test_a_noise_is_what_its_seed_says(kind: str) -> None:
    one, again, other = (noises.make(kind, 24000, seeded(seed)) for seed in (1, 1, 2))
    assert one.shape == (24000,) and bool(one.isfinite().all())
    assert float(one.square().mean()) == pytest.approx(1.0, abs=1e-3)
    assert torch.equal(one, again) and not torch.equal(one, other)


@pytest.mark.parametrize("count", [1, 37])
def test_a_noise_may_be_short(count: int) -> None:
    for kind in noises.KINDS:
        assert noises.make(kind, count, seeded(0)).shape == (count,)


def test_kinds_for_testing_are_not_learnt() -> None:
    assert set(noises.HELD) | set(noises.LEARNT) == set(noises.KINDS)
    assert not set(noises.HELD) & set(noises.LEARNT)


@pytest.mark.parametrize("ratio", [0.0, 10.0, 30.0])
def test_noise_is_added_at_a_ratio_to_what_is_spoken(ratio: float) -> None:
    speech = torch.cat([buzz(0.5), torch.zeros(24000)])
    voiced = torch.arange(len(speech)) < 8000
    noise = noises.make("pink", len(speech), seeded(0))
    added = noises.add(speech, noise, ratio, voiced)
    assert float(added.abs().max()) <= 1.0
    scale = float((added[voiced] @ speech[voiced]) / (speech[voiced] @ speech[voiced]))
    rest = added - speech
    if float(added.abs().max()) < 1.0:
        found = 10 * torch.log10(speech[voiced].square().mean() / rest.square().mean())
        assert float(found) == pytest.approx(ratio, abs=0.1)
    assert scale > 0.3


def test_shares_belong_to_the_contexts_of_a_stream() -> None:
    samples = torch.cat([0.01 * torch.randn(16000, generator=seeded(0)), buzz(1.0)])
    voiced = torch.arange(32000) >= 16000
    windows, share = presence.contexts(samples, voiced)
    assert windows.shape == (20, 16000)
    expected = [0.0] * 10 + [0.1 * hop for hop in range(1, 11)]
    assert share.tolist() == pytest.approx(expected, abs=1e-6)


# --- what is learnt


@pytest.fixture
def clips(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Vowels between pauses, in place of the corpora; the splits that were read are noted."""
    read: list[str] = []

    def listed(folder: Path, split: str) -> list[voices.Clip]:
        read.append(split)
        count = 12 if split == "train" else 4
        return [voices.Clip(Path(f"{split}-{n}"), "ravdess", split, "anger", split) for n in range(count)]

    def load(path: Path) -> Tensor:
        split, _, place = path.name.partition("-")
        random = seeded(int(place) + 100 * ("train", "develop").index(split))
        pitch = 90.0 + 120.0 * float(torch.rand((), generator=random))
        pause = 1e-3 * torch.randn(20000, generator=random)
        return torch.cat([pause, buzz(1.0, pitch), pause])

    monkeypatch.setattr(voices, "read", listed)
    monkeypatch.setattr(sounds, "load", load)
    return read


SMALL = presence.Config(Schedule(epochs=30, rate=5e-3, average=0.9), batch=16, takes=1, windows=3)


def test_a_head_tells_vowels_from_noise(clips: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = VoiceEncoder(8).eval()
    before = copy.deepcopy(encoder.state_dict())
    found = presence.train(tmp_path, tmp_path / "run", encoder, SMALL)
    assert set(clips) == {"train", "develop"}
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    aware = SpeechAware(encoder, found.head).eval()
    random = seeded(99)
    with torch.no_grad():
        speech = aware(torch.stack([buzz(1.0, pitch) for pitch in (95.0, 130.0, 180.0)]))[1]
        noise = aware(torch.stack([0.1 * noises.make("white", 16000, random) for _ in range(3)]))[1]
    assert float(speech.min()) > float(noise.max())
    assert float(speech.min()) >= found.threshold > float(noise.max())
    clips.clear()
    again = presence.train(tmp_path, tmp_path / "run", encoder, SMALL)
    assert again.threshold == found.threshold
    assert all(
        torch.equal(value, found.head.state_dict()[name]) for name, value in again.head.state_dict().items()
    )


def test_a_threshold_lets_the_asked_share_of_speech_go() -> None:
    class Read(nn.Module):
        """Gives the feature back as a logit."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x

    speech = torch.linspace(0.0, 4.0, 101)
    none = torch.linspace(-4.0, 1.0, 51)
    heard = presence.Heard(
        torch.cat([speech, none, torch.tensor([9.0])])[:, None],
        torch.cat([torch.full((101,), 0.5), torch.zeros(51), torch.tensor([0.1])]),  # the last is neither
    )
    threshold, false = presence._threshold(Read(), heard, 0.1)
    assert threshold == pytest.approx(float(torch.sigmoid(torch.tensor(0.4))), abs=1e-5)
    assert false == pytest.approx(7 / 51)
    with pytest.raises(InputError, match="nobody is heard"):
        presence._threshold(Read(), presence.Heard(none[:, None], torch.zeros(51)), 0.1)


def test_a_head_follows_an_encoder_that_moved(aware: SpeechAware) -> None:
    random, heard = seeded(4), [buzz(1.5, pitch) for pitch in range(90, 250, 5)]
    windows = torch.stack(
        [*(buzz(1.0, pitch) for pitch in (92.0, 143.0, 201.0))]
        + [0.1 * noises.make(kind, 16000, random) for kind in noises.LEARNT]
    )
    norm = aware.presence[0]
    assert isinstance(norm, nn.BatchNorm1d) and norm.running_mean is not None and norm.running_var is not None
    features = presence.listener(aware)(windows)
    norm.running_mean.copy_(features.mean(dim=0))
    norm.running_var.copy_(features.var(dim=0))
    with torch.no_grad():
        aware.presence[3].weight.mul_(10.0)  # type: ignore[operator]
    moved = copy.deepcopy(aware)
    with torch.no_grad():
        for parameter in moved.trunk.parameters():
            parameter.add_(0.1 * parameter.abs().mean() * torch.randn(parameter.shape, generator=seeded(3)))
    told = presence.follow(aware, moved, heard, seed=0)
    with torch.no_grad():
        right, stale, new = (
            one(windows)[1] for one in (aware, SpeechAware(moved, aware.presence), SpeechAware(moved, told))
        )
    assert float(right.std()) > 0.01  # there is something to follow
    assert float((new - right).abs().median()) < 0.5 * float((stale - right).abs().median())


@pytest.mark.parametrize(
    ("setting", "value"), [("batch", 1), ("takes", 0), ("windows", 0), ("missed", 1.0), ("missed", -0.1)]
)
def test_settings_out_of_range_are_refused(setting: str, value: float) -> None:
    with pytest.raises(InputError, match=f"presence: {setting}"):
        presence.Config(**{setting: value})  # type: ignore[arg-type]
