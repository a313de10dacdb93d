"""Readers, splits and augmentation."""

from __future__ import annotations

import math
import wave
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeemo_export.data import ferplus, pictures, sounds, voices
from edgeemo_export.data.labels import EMODB, LABELS, NEMO, NORMS, RAVDESS

SPLITS = ("train", "develop", "test", "held")
HOP, SECOND = 1600, 16000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> Tensor:
    return level * torch.randn(round(seconds * SECOND), generator=seeded(seed))


# Labels


def test_labels_of_the_corpora_are_of_the_seven() -> None:
    assert len(set(LABELS)) == 7 and list(LABELS) == sorted(LABELS)
    assert set(RAVDESS.values()) == set(LABELS)
    for names in (EMODB, NEMO):
        assert set(names.values()) < set(LABELS)


def test_norms() -> None:
    assert set(NORMS) == set(LABELS)
    assert all(abs(value) <= 1 for pair in NORMS.values() for value in pair)
    assert NORMS["neutral"] == (0, 0)
    assert NORMS["happiness"][0] > 0 > NORMS["anger"][0]  # pleasant and unpleasant
    assert NORMS["anger"][1] > 0 > NORMS["sadness"][1]  # roused and not


# FER+
# Its votes: neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, not a face.


@pytest.mark.parametrize(
    ("votes", "label"),
    [
        ([10, 0, 0, 0, 0, 0, 0, 0, 0, 0], "neutral"),
        ([0, 10, 0, 0, 0, 0, 0, 0, 0, 0], "happiness"),
        ([0, 0, 10, 0, 0, 0, 0, 0, 0, 0], "surprise"),
        ([0, 0, 0, 10, 0, 0, 0, 0, 0, 0], "sadness"),
        ([0, 0, 0, 0, 10, 0, 0, 0, 0, 0], "anger"),
        ([0, 0, 0, 0, 0, 10, 0, 0, 0, 0], "disgust"),
        ([0, 0, 0, 0, 0, 0, 10, 0, 0, 0], "fear"),
        ([0, 0, 0, 0, 0, 0, 0, 10, 0, 0], None),  # contempt
        ([0, 0, 0, 0, 0, 0, 0, 0, 10, 0], None),  # unknown
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 10], None),  # not a face
        ([4, 0, 0, 6, 0, 0, 0, 0, 0, 0], "sadness"),
        ([5, 0, 0, 5, 0, 0, 0, 0, 0, 0], None),  # no more than half
        ([0, 5, 3, 0, 0, 0, 0, 0, 2, 0], None),  # half of all votes, although most of those for the seven
        ([0, 3, 0, 0, 2, 0, 0, 0, 0, 0], "happiness"),  # not everybody voted
        ([2, 0, 0, 0, 2, 0, 0, 6, 0, 0], None),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0], None),
    ],
)
def test_majority(votes: list[int], label: str | None) -> None:
    faces = ferplus.Faces(np.zeros((1, 48, 48), np.uint8), np.array([votes], np.uint8))
    assert faces.majority.tolist() == [-1 if label is None else LABELS.index(label)]


@pytest.mark.parametrize(
    ("votes", "shares"),
    [
        ([4, 0, 0, 6, 0, 0, 0, 0, 0, 0], {"neutral": 0.4, "sadness": 0.6}),
        ([1, 2, 0, 0, 0, 0, 1, 3, 2, 1], {"neutral": 0.25, "happiness": 0.5, "fear": 0.25}),
        ([0, 0, 1, 0, 1, 2, 0, 0, 0, 0], {"surprise": 0.25, "anger": 0.25, "disgust": 0.5}),
        ([0, 0, 0, 0, 0, 0, 0, 4, 4, 2], {}),
    ],
)
def test_shares(votes: list[int], shares: dict[str, float]) -> None:
    faces = ferplus.Faces(np.zeros((1, 48, 48), np.uint8), np.array([votes], np.uint8))
    assert faces.shares.dtype == np.float32
    np.testing.assert_allclose(faces.shares[0], [shares.get(name, 0.0) for name in LABELS], atol=1e-7)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A FER+ folder whose pictures are their own numbers; those of valid.npz start at 1000."""
    for name, first, count in (("train", 0, 57), ("valid", 1000, 5)):
        numbers = np.arange(first, first + count)
        images = np.zeros((count, 48, 48), np.uint8)
        images[:, 0, 0], images[:, 0, 1] = numbers // 256, numbers % 256
        votes = np.tile(np.arange(10), (count, 1))
        np.savez(tmp_path / f"{name}.npz", images=images, votes=votes.astype(np.uint8), index=numbers)
    return tmp_path


def numbers_of(faces: ferplus.Faces) -> list[int]:
    assert len(faces.images) == len(faces.votes)
    return (faces.images[:, 0, 0].astype(int) * 256 + faces.images[:, 0, 1]).tolist()


def test_development_cut_is_a_tenth_of_train_and_apart(corpus: Path) -> None:
    cuts = {split: numbers_of(ferplus.read(corpus, split)) for split in ("train", "develop", "test")}
    assert set(cuts["train"]).isdisjoint(cuts["develop"])
    assert sorted(cuts["train"] + cuts["develop"]) == list(range(57))
    assert cuts["develop"] == [3, 13, 23, 33, 43, 53]
    assert cuts["test"] == list(range(1000, 1005))


def test_ferplus_counts(data: Path) -> None:
    found = {}
    for split in ("train", "develop", "test"):
        faces = ferplus.read(data / "ferplus", split)
        assert faces.images.shape == (len(faces.votes), 48, 48) and faces.votes.shape[1] == 10
        assert set(faces.majority.tolist()) == set(range(-1, 7))
        found[split] = (len(faces.images), int((faces.majority >= 0).sum()))
    assert found == {"train": (25148, 19156), "develop": (2827, 2146), "test": (3579, 2857)}


def test_no_picture_is_in_two_splits_of_ferplus(data: Path) -> None:
    known = [
        {image.tobytes() for image in ferplus.read(data / "ferplus", split).images}
        for split in ("train", "develop", "test")
    ]
    assert not known[0] & known[1] and not known[0] & known[2] and not known[1] & known[2]


# Voices


@pytest.mark.parametrize(
    ("name", "speaker", "label", "split"),
    [
        ("ravdess_speech/actor_01/03-01-05-01-01-01-01.flac", "ravdess-01", "anger", "held"),
        ("ravdess_speech/actor_02/03-01-01-01-01-01-02.flac", "ravdess-02", "neutral", "train"),
        ("ravdess_speech/actor_02/03-01-02-01-01-01-02.flac", "ravdess-02", "neutral", "train"),  # calm
        ("ravdess_speech/actor_14/03-01-03-01-02-01-14.flac", "ravdess-14", "happiness", "train"),
        ("ravdess_speech/actor_15/03-01-04-01-02-01-15.flac", "ravdess-15", "sadness", "develop"),
        ("ravdess_speech/actor_16/03-01-06-01-02-01-16.flac", "ravdess-16", "fear", "develop"),
        ("ravdess_speech/actor_17/03-01-07-01-02-01-17.flac", "ravdess-17", "disgust", "test"),
        ("ravdess_speech/actor_20/03-01-08-02-02-02-20.flac", "ravdess-20", "surprise", "test"),
        ("emodb/03a01Fa.flac", "emodb-03", "happiness", "train"),
        ("emodb/08a01Wa.flac", "emodb-08", "anger", "train"),
        ("emodb/09b03Td.flac", "emodb-09", "sadness", "train"),
        ("emodb/10a04Nb.flac", "emodb-10", "neutral", "develop"),
        ("emodb/11a04Nb.flac", "emodb-11", "neutral", "test"),
        ("emodb/14a04Nb.flac", "emodb-14", "neutral", "test"),
        ("nemo/EB0_surprised_7.flac", "nemo-EB0", "surprise", "train"),
        ("nemo/KS0_fear_20.flac", "nemo-KS0", "fear", "train"),
        ("nemo/MP0_happiness_1.flac", "nemo-MP0", "happiness", "test"),
        ("nemo/WR0_anger_1.flac", "nemo-WR0", "anger", "test"),
    ],
)
def test_clip(tmp_path: Path, name: str, speaker: str, label: str, split: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.touch()
    corpus = speaker.split("-")[0]
    for other in SPLITS:
        expected = [voices.Clip(path, corpus, speaker, label, split)] if other == split else []
        assert voices.read(tmp_path, other) == expected
    assert not voices.read(tmp_path, split, tuple({"ravdess", "emodb", "nemo"} - {corpus}))


def test_speakers_are_in_one_split_each(data: Path) -> None:
    clips = {split: voices.read(data, split) for split in SPLITS}
    speakers = {split: {clip.speaker for clip in found} for split, found in clips.items()}
    assert sum(map(len, speakers.values())) == len(set().union(*speakers.values()))
    assert speakers["held"] == {"ravdess-01"}
    for split in ("train", "develop", "test"):
        assert not any("actor_01" in clip.path.parts for clip in clips[split])
        assert not any(clip.corpus == "ravdess" and clip.path.stem.endswith("-01") for clip in clips[split])
    paths = [clip.path for found in clips.values() for clip in found]
    assert len(paths) == len(set(paths)) == 1200 + 266 + 776
    assert all(clip.path.is_file() for clip in clips["develop"])


def test_voice_counts(data: Path) -> None:
    found = {split: Counter(clip.corpus for clip in voices.read(data, split)) for split in SPLITS}
    assert found == {
        "train": {"ravdess": 780, "emodb": 111, "nemo": 480},
        "develop": {"ravdess": 120, "emodb": 21},
        "test": {"ravdess": 240, "emodb": 134, "nemo": 296},
        "held": {"ravdess": 60},
    }
    for split in ("train", "develop", "test"):
        assert {clip.label for clip in voices.read(data, split)} == set(LABELS)


# Sounds


@pytest.mark.parametrize("rate", [16000, 48000, 44100])
def test_load(tmp_path: Path, rate: int) -> None:
    time = np.arange(rate // 2) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((tone * 32767).astype("<i2").tobytes())
    samples = sounds.load(tmp_path / "tone.wav")
    assert samples.dtype == torch.float32 and samples.ndim == 1
    assert len(samples) == pytest.approx(8000, abs=100)
    middle = samples[2000:6000]
    assert middle.square().mean().sqrt().item() == pytest.approx(0.5 / math.sqrt(2), rel=0.01)
    assert torch.fft.rfft(middle).abs().argmax() * 4 == pytest.approx(440, abs=4)


def reference_contexts(samples: Tensor) -> list[Tensor]:
    """Hop by hop, as a stream hears a clip."""
    made, context = [], torch.zeros(SECOND)
    for start in range(0, len(samples), HOP):
        hop = torch.zeros(HOP)
        hop[: len(samples) - start] = samples[start : start + HOP]
        context = torch.cat([context[HOP:], hop])
        if context.double().square().mean().sqrt() >= 1e-3:
            made.append(context)
    return made


@pytest.mark.parametrize(
    ("samples", "count"),
    [
        (noise(0.01), 1),  # shorter than a hop
        (noise(0.1), 1),
        (noise(0.25), 3),  # the last hop is filled up with zeros
        (noise(1.2), 12),
        # Silence at the start is dropped up to the hop in which it ends.
        (torch.cat([torch.zeros(4 * HOP), noise(0.25)]), 3),
        # A second after the sound the context has none of it.
        (torch.cat([noise(0.1), torch.zeros(12 * HOP), noise(0.1)]), 11),
        # Loud enough over a second at last: 1e-3 of it is 3.2e-3 over a tenth.
        (torch.full((SECOND,), 1.5e-3), 6),
    ],
)
def test_contexts_are_those_of_a_stream(samples: Tensor, count: int) -> None:
    found = sounds.contexts(samples)
    expected = reference_contexts(samples)
    assert len(expected) == count
    assert torch.equal(found, torch.stack(expected))


@pytest.mark.parametrize("samples", [torch.zeros(0), torch.zeros(5), torch.zeros(2 * SECOND), noise(1, 1e-4)])
def test_of_silence_one_context_is_left(samples: Tensor) -> None:
    found = sounds.contexts(samples)
    assert found.shape == (1, SECOND)
    assert found.abs().max() < 1e-3


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "samples",
    [noise(0.4), torch.zeros(3000), noise(0.2, 3.0).clamp(-1, 1), noise(0.001)],
    ids=["usual", "silence", "clipped", "16 samples"],
)
def test_distort(samples: Tensor, seed: int) -> None:
    before = samples.clone()
    made = sounds.distort(samples, seeded(seed))
    assert torch.equal(made, sounds.distort(samples, seeded(seed)))
    assert torch.equal(samples, before)
    assert made.ndim == 1 and made.isfinite().all() and made.abs().max() <= 1
    assert len(samples) / 1.13 - 1 <= len(made) <= len(samples) / 0.87 + 1
    if before.any():
        assert not torch.equal(made, sounds.distort(samples, seeded(seed + 100)))
        assert made.square().mean() > 1e-3 * before.square().mean()


def test_distort_draws_each_kind() -> None:
    click = torch.zeros(3000)
    click[1500:1504] = 0.3
    takes = [sounds.distort(click, seeded(seed)) for seed in range(60)]
    heard = torch.tensor([(take.abs() > 1e-5 * take.abs().max()).sum() for take in takes])
    assert (heard < 12).any()  # dry and clean
    assert ((heard > 400) & (heard < 2000)).any()  # only what comes after the click is filled: a room
    assert (heard > 2400).any()  # noise everywhere
    assert len({len(take) for take in takes}) > 30  # speeds
    loudest = torch.tensor([take.abs().max() for take in takes])
    assert loudest.min() < 0.2 and loudest.max() > 0.45  # levels


@pytest.mark.parametrize(("have", "count"), [(9, 6), (6, 6), (2, 6), (9, 1)])
def test_draw(have: int, count: int) -> None:
    windows = torch.arange(have * 12).reshape(have, 3, 4)
    drawn = sounds.draw(windows, count, seeded(1))
    assert drawn.shape == (count, 3, 4)
    assert torch.equal(drawn, sounds.draw(windows, count, seeded(1)))
    rows = drawn[:, 0, 0] // 12
    assert torch.equal(drawn, windows[rows])
    assert rows.tolist() == sorted(rows.tolist())  # in time order
    if have >= count:
        assert len(set(rows.tolist())) == count


@pytest.mark.parametrize("have", [5, 2])
def test_draw_reaches_each(have: int) -> None:
    drawn = torch.cat([sounds.draw(torch.arange(have), 3, seeded(seed)) for seed in range(30)])
    assert drawn.unique().tolist() == list(range(have))


def test_mask_mel() -> None:
    mel = torch.ones(200, 1, 64, 66)
    made = sounds.mask_mel(mel, seeded())
    assert torch.equal(made, sounds.mask_mel(mel, seeded()))
    assert bool((mel == 1).all())  # in a copy
    hidden = made[:, 0] == 0
    bands, frames = hidden.all(dim=2), hidden.all(dim=1)
    assert torch.equal(hidden, bands[:, :, None] | frames[:, None, :])
    for lines, widest in ((bands, 12), (frames, 14)):
        counts = lines.sum(dim=1)
        assert 0 < counts.max() <= widest and counts.min() <= 2
        # One stretch: it starts at most once.
        assert ((lines[:, 1:] & ~lines[:, :-1]).sum(dim=1) + lines[:, 0] <= 1).all()


# Pictures


def gradient(count: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    rows = torch.arange(48)[:, None] * 3 + torch.arange(48) * 2
    return rows.expand(count, 48, 48).to(dtype)


@pytest.mark.parametrize(
    "images",
    [
        gradient(32),
        gradient(32, torch.float32),
        torch.zeros(32, 48, 48, dtype=torch.uint8),
        torch.full((32, 48, 48), 255, dtype=torch.uint8),
    ],
)
def test_jitter(images: Tensor) -> None:
    before = images.clone()
    made = pictures.jitter(images, seeded())
    assert made.shape == (32, 48, 48, 1) and made.dtype == torch.float32
    assert made.isfinite().all() and made.min() >= 0 and made.max() <= 255
    assert torch.equal(made, pictures.jitter(images, seeded()))
    assert torch.equal(images, before)
    other = pictures.jitter(images, seeded(1))
    assert all(not torch.equal(a, b) for a, b in zip(made, other, strict=True))
    assert len(made.unique(dim=0)) == 32  # each picture is drawn for


def test_jitter_keeps_the_picture_recognisable() -> None:
    images = gradient(64)
    made = pictures.jitter(images, seeded())[..., 0]
    upright, mirrored = images.float(), images.float().flip(2)

    def likeness(a: Tensor, b: Tensor) -> Tensor:
        a, b = (x.flatten(1) - x.flatten(1).mean(dim=1, keepdim=True) for x in (a, b))
        return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))

    direct, turned = likeness(made, upright), likeness(made, mirrored)
    assert torch.maximum(direct, turned).median() > 0.8
    assert 12 < (direct > turned).sum() < 52  # about half are mirrored


@pytest.mark.parametrize(
    ("step", "share"),
    [(pictures._blur, 0.25), (pictures._cover, 0.5)],
    ids=["blur", "cover"],
)
def test_some_pictures_are_left_alone(
    step: Callable[[Tensor, torch.Generator], Tensor], share: float
) -> None:
    images = 255 * torch.rand(400, 1, 48, 48, generator=seeded())
    made = step(images, seeded(1))
    changed = (made != images).flatten(1).any(dim=1).float().mean().item()
    assert changed == pytest.approx(share, abs=0.08)
