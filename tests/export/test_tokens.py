"""Banks of tokens and what is drawn from them."""

from __future__ import annotations

import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeemo_export.data import sounds, voices
from edgeemo_export.data.ferplus import VOTES, Faces
from edgeemo_export.data.labels import LABELS
from edgeemo_export.data.tokens import (
    NEUTRAL,
    SLOTS,
    Drawer,
    FaceBank,
    VoiceBank,
    at_random_slot,
    bank_faces,
    bank_voices,
    pair_by_label,
)

CLASSES, EACH, COPIES = len(LABELS), 6, 3
WIDTH = CLASSES + 1


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_hot(labels: Tensor) -> Tensor:
    """Tokens that say their label, with a last entry that is never zero."""
    tokens = nn.functional.one_hot(labels, CLASSES).float()
    return torch.cat([tokens, torch.ones(*labels.shape, 1)], dim=-1)


@pytest.fixture
def faces() -> FaceBank:
    """Six pictures of each label and some without one, whose token is all twos."""
    labels = torch.arange(CLASSES).repeat(EACH)
    tokens = torch.cat([one_hot(labels), torch.full((5, WIDTH), 2.0)])
    shares = nn.functional.one_hot(labels, CLASSES).float() * 0.8 + 0.2 / CLASSES
    return FaceBank(
        tokens.expand(COPIES, -1, -1),
        torch.cat([shares, torch.zeros(5, CLASSES)]),
        torch.cat([labels, torch.full((5,), -1)]),
    )


@pytest.fixture
def utterances() -> VoiceBank:
    """Six utterances of each label, of 1 to 40 hops."""
    labels = torch.arange(CLASSES).repeat(EACH)
    lengths = torch.randint(1, SLOTS + 1, (COPIES, len(labels)), generator=seeded())
    masks = (torch.arange(SLOTS) >= SLOTS - lengths[..., None]).float()
    return VoiceBank(one_hot(labels)[None, :, None] * masks[..., None], masks, labels)


@pytest.fixture
def drawer(faces: FaceBank, utterances: VoiceBank) -> Drawer:
    return Drawer(faces, utterances, torch.eye(CLASSES))


# Banks


class Levels(nn.Module):
    """Tokens of two numbers: mean and deviation of what is seen or heard."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.float().flatten(1)
        return self.drop(torch.stack([x.mean(dim=1), x.std(dim=1)], dim=1))


def test_bank_of_faces() -> None:
    images = torch.randint(0, 256, (600, 48, 48), generator=seeded(), dtype=torch.uint8)
    votes = torch.zeros(600, 10, dtype=torch.uint8)
    votes[:, VOTES.index("fear")] = 9
    votes[7] = torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, 9, 0])
    encoder = Levels().train()
    bank = bank_faces(encoder, Faces(images.numpy(), votes.numpy()), COPIES, seed=1)
    assert bank.tokens.shape == (COPIES, 600, 2) and bank.tokens.dtype == torch.float32
    torch.testing.assert_close(bank.tokens[0], encoder.eval()(images))
    for copy in range(1, COPIES):
        assert not (bank.tokens[copy] == bank.tokens[0]).any()
    assert not torch.equal(bank.tokens[1], bank.tokens[2])
    assert bank.labels.tolist() == [-1 if row == 7 else LABELS.index("fear") for row in range(600)]
    assert bank.shares.shape == (600, CLASSES) and bank.shares[0, LABELS.index("fear")] == 1
    again = bank_faces(encoder, Faces(images.numpy(), votes.numpy()), COPIES, seed=1)
    assert torch.equal(again.tokens, bank.tokens)


def test_bank_of_voices(tmp_path: Path) -> None:
    clips = []
    for seconds, label in ((0.35, "anger"), (1.0, "neutral"), (5.0, "fear")):
        count = round(16000 * seconds)
        tone = 0.3 * np.sin(np.arange(count) / 8) * np.linspace(0.2, 1, count)
        with wave.open(str(tmp_path / f"{label}.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes((tone * 32767).astype("<i2").tobytes())
        clips.append(voices.Clip(tmp_path / f"{label}.wav", "emodb", "emodb-03", label, "train"))
    encoder = Levels().train()
    bank = bank_voices(encoder, clips, COPIES, seed=1)
    assert bank.tokens.shape == (COPIES, 3, SLOTS, 2)
    assert bank.masks.shape == (COPIES, 3, SLOTS)
    assert bank.labels.tolist() == [LABELS.index(clip.label) for clip in clips]
    assert bank.masks[0].sum(dim=1).tolist() == [4, 10, 40]
    for copy in range(COPIES):
        for row in range(3):
            count = int(bank.masks[copy, row].sum())
            assert bank.masks[copy, row, SLOTS - count :].all()  # the newest at the last slot
            assert bank.tokens[copy, row, SLOTS - count :, 1].all()
            assert not bank.tokens[copy, row, : SLOTS - count].any()
    for row, clip in enumerate(clips):
        plain = encoder.eval()(sounds.contexts(sounds.load(clip.path)))[-SLOTS:]
        torch.testing.assert_close(bank.tokens[0, row, SLOTS - len(plain) :], plain)
        assert not torch.equal(bank.tokens[1, row], bank.tokens[0, row])
    again = bank_voices(encoder, clips, COPIES, seed=1)
    assert torch.equal(again.tokens, bank.tokens)


# Pairs


@pytest.mark.parametrize("count", [1, 7, 50, 1000])
def test_pairs_have_equal_labels(count: int) -> None:
    first = torch.randint(-1, CLASSES, (80,), generator=seeded(1))
    second = torch.randint(0, CLASSES, (23,), generator=seeded(2))
    rows, partners = pair_by_label(first, second, count, seeded())
    assert len(rows) == len(partners) == count
    assert torch.equal(first[rows], second[partners])
    used = Counter(partners.tolist())
    assert max(used.values()) - min(used.get(row, 0) for row in range(23)) <= 1
    assert [x.tolist() for x in pair_by_label(first, second, count, seeded())] == [
        rows.tolist(),
        partners.tolist(),
    ]


def test_pairs_spread_over_both_sides() -> None:
    first, second = torch.zeros(10, dtype=torch.long), torch.zeros(3, dtype=torch.long)
    rows, partners = pair_by_label(first, second, 300, seeded())
    assert len(set(rows.tolist())) == 10
    assert Counter(partners.tolist()) == {0: 100, 1: 100, 2: 100}


def test_rows_without_a_label_or_a_partner_are_left_out() -> None:
    first = torch.tensor([-1, 2, -1, 2])
    second = torch.tensor([2, 5, 2])
    rows, partners = pair_by_label(first, second, 30, seeded())
    assert set(rows.tolist()) == {1, 3}
    assert set(partners.tolist()) == {0, 2}


# Drawer


def said(tokens: Tensor) -> Tensor:
    """The label that each token of a `one_hot` bank says."""
    return tokens[..., :CLASSES].argmax(dim=-1)


def test_stills(drawer: Drawer, faces: FaceBank) -> None:
    tokens, shares = drawer.stills(500, seeded())
    assert tokens.shape == (500, 1, WIDTH) and shares.shape == (500, CLASSES)
    assert (tokens[..., -1] == 1).all()  # none without a majority
    assert torch.equal(said(tokens[:, 0]), shares.argmax(dim=1))
    assert set(said(tokens[:, 0]).tolist()) == set(range(CLASSES))


def test_stills_have_the_mix_of_the_corpus(faces: FaceBank, utterances: VoiceBank) -> None:
    kept = torch.tensor([0, 4, 4, 4, 4, 4, 4, 4, 4, 4])  # tokens of anger once, of neutral nine times
    bank = FaceBank(faces.tokens[:, kept], faces.shares[kept], faces.labels[kept])
    tokens, _ = Drawer(bank, utterances, torch.eye(CLASSES)).stills(1000, seeded())
    assert (said(tokens[:, 0]) == 0).float().mean() == pytest.approx(0.1, abs=0.04)


def test_sequences(drawer: Drawer) -> None:
    labels = torch.arange(CLASSES).repeat(1500)  # windows in which chance would keep no picture are rare
    tokens, mask = drawer.sequences(labels, seeded())
    assert tokens.shape == (len(labels), SLOTS, WIDTH) and mask.shape == (len(labels), SLOTS)
    assert mask.dtype == torch.float32 and set(mask.unique().tolist()) == {0, 1}
    assert (mask.sum(dim=1) >= 1).all()
    assert not tokens[mask == 0].any()
    assert (tokens >= 0).all() and (tokens[mask == 1][:, -1] > 0).all()
    valid = mask == 1
    own = (said(tokens) == labels[:, None]) & valid
    neutral = (said(tokens) == NEUTRAL) & valid
    stray = valid & ~own & ~neutral
    assert 0.01 < stray.sum() / valid.sum() < 0.07
    emotional = labels != NEUTRAL
    shares = (own.sum(dim=1) / valid.sum(dim=1))[emotional]
    # A quarter never shows anything, and what shows weakly still looks neutral.
    assert 0.4 < (shares > 0).float().mean() < 0.75
    assert 0.15 < shares.mean() < 0.5 and shares.std() > 0.15
    assert mask.mean() == pytest.approx(0.44, abs=0.05)
    assert mask.sum(dim=1).min() < 8 and mask.sum(dim=1).max() > 36


def test_a_sequence_is_one_resting_and_one_telling_face(faces: FaceBank, utterances: VoiceBank) -> None:
    # Pictures differ in the last entry: the tokens of a sequence lie between those of two of them.
    tokens = faces.tokens.clone()
    tokens[:, :, -1] = torch.arange(tokens.shape[1], dtype=torch.float32)
    drawer = Drawer(FaceBank(tokens, faces.shares, faces.labels), utterances, torch.eye(CLASSES))
    made, mask = drawer.sequences(torch.full((400,), NEUTRAL), seeded())
    neutral = (faces.labels == NEUTRAL).nonzero()[:, 0].float()
    still = 0
    for row, valid in zip(made[..., -1], mask == 1, strict=True):
        own = row[valid & (row >= neutral.min()) & (row <= neutral.max())]
        still += len(own) > 3 and bool((own - own.median()).abs().max() < 1e-4)
    assert 0.15 * 400 < still < 0.6 * 400  # nothing shows in a quarter, and some draw one picture for both


def test_utterances(drawer: Drawer, utterances: VoiceBank) -> None:
    labels = torch.arange(CLASSES).repeat(40)
    tokens, mask = drawer.utterances(labels, seeded())
    assert tokens.shape == (len(labels), SLOTS, WIDTH) and mask.shape == (len(labels), SLOTS)
    assert set(mask.unique().tolist()) == {0, 1}
    assert mask[:, -1].all()  # at least the newest
    assert not tokens[mask == 0].any()
    assert torch.equal(said(tokens[:, -1]), labels)  # nobody is misheard: the confusion is the identity
    full = utterances.masks.mean()
    assert 0.5 * full < mask.mean() < 0.9 * full  # between a quarter and all of an utterance's tokens


def test_utterances_are_exchanged_as_they_are_confused(faces: FaceBank, utterances: VoiceBank) -> None:
    confusion = torch.eye(CLASSES).roll(1, dims=1)  # anger is always heard as disgust, and so on
    confusion[NEUTRAL] = 0.0
    confusion[NEUTRAL, NEUTRAL], confusion[NEUTRAL, 0] = 0.75, 0.25
    drawer = Drawer(faces, utterances, confusion)
    labels = torch.arange(CLASSES).repeat(300)
    tokens, _ = drawer.utterances(labels, seeded())
    heard = said(tokens[:, -1])
    certain = labels != NEUTRAL
    assert torch.equal(heard[certain], (labels[certain] + 1) % CLASSES)
    shares = heard[~certain].bincount(minlength=CLASSES) / (~certain).sum()
    assert shares[NEUTRAL] == pytest.approx(0.75, abs=0.08)
    assert shares[0] == pytest.approx(0.25, abs=0.08)


def test_draws_depend_on_the_generator_alone(drawer: Drawer) -> None:
    labels = torch.arange(CLASSES).repeat(4)
    for draw in (drawer.sequences, drawer.utterances):
        first, again, other = draw(labels, seeded(1)), draw(labels, seeded(1)), draw(labels, seeded(2))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not torch.equal(first[1], other[1])


def test_copies_are_all_drawn(faces: FaceBank, utterances: VoiceBank) -> None:
    marked = FaceBank(torch.arange(1.0, COPIES + 1)[:, None, None] * faces.tokens, faces.shares, faces.labels)
    tokens, _ = Drawer(marked, utterances, torch.eye(CLASSES)).stills(100, seeded())
    assert set(tokens[..., -1].flatten().tolist()) == {1.0, 2.0, 3.0}


def test_at_random_slot() -> None:
    tokens = one_hot(torch.arange(CLASSES).repeat(60))[:, None]
    placed, mask = at_random_slot(tokens, seeded())
    assert placed.shape == (len(tokens), SLOTS, WIDTH)
    assert (mask.sum(dim=1) == 1).all()
    assert torch.equal(placed[mask == 1], tokens[:, 0])
    assert not placed[mask == 0].any()
    assert len(mask.argmax(dim=1).unique()) == SLOTS
