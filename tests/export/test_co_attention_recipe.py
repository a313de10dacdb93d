"""The recipe on made-up sounds and sentences: what it draws, what it trains, what it says of its control."""

from __future__ import annotations

import functools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeemo.errors import InputError
from edgeemo.preprocess.text import read_vocabulary
from edgeemo_export.config import override
from edgeemo_export.data import sounds, transcripts, voices, wordpiece
from edgeemo_export.data.labels import LABELS
from edgeemo_export.data.tokens import SLOTS, VoiceBank
from edgeemo_export.recipes import co_attention
from edgeemo_export.recipes.co_attention import Config, Drawer, Utterances, reader_of
from edgeemo_export.recipes.voice import VoiceModel
from edgeemo_export.results import bootstrap_ua
from edgeemo_export.systems.co_attention import STRIDES, strides
from edgeemo_export.train import Schedule

WIDTH = 8
SENTENCES = (
    "kids are talking by the door",
    "dogs are sitting by the door",
    "miasto nocą",
    "żołwica to siostra",
)
SMALL = Config(Schedule(epochs=1, average=0.9), batch=8, steps=3, copies=2, width=8, layers=1, inner=8)


def clips(split: str) -> list[voices.Clip]:
    """Each of two sentences of each corpus in each of its labels, by one speaker."""
    speakers = {"train": "2", "develop": "15", "test": "17"}
    return [
        voices.Clip(Path(f"{speakers[split]}-{corpus}-{label}-{k}.flac"), corpus, f"{corpus}-1", label, split)
        for corpus, labels in (("ravdess", LABELS), ("nemo", [x for x in LABELS if x != "disgust"]))
        if not (split == "develop" and corpus == "nemo")
        for label in labels
        for k in range(2)
    ]


def text_of(clip: voices.Clip) -> str:
    return SENTENCES[2 * (clip.corpus == "nemo") + int(clip.path.stem[-1])]


def tones(clip: voices.Clip) -> Tensor:
    """Tokens of an utterance: its label, not quite sure."""
    random = torch.Generator().manual_seed(sum(map(ord, clip.path.stem)))
    known = torch.zeros(SLOTS, WIDTH)
    known[:, LABELS.index(clip.label)] = 1.0
    return (known + 0.3 * torch.randn(SLOTS, WIDTH, generator=random)).relu()


@pytest.fixture
def corpora(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Replaces readers and encoding; what was read is noted."""
    read: set[str] = set()

    def read_voices(folder: Path, split: str, wanted: tuple[str, ...] = ()) -> list[voices.Clip]:
        read.add(f"{split} {','.join(wanted)}")
        return [clip for clip in clips(split) if clip.corpus in wanted]

    def bank(encoder: object, said: list[voices.Clip], copies: int, seed: int) -> VoiceBank:
        tokens = torch.stack([tones(clip) for clip in said]).repeat(copies, 1, 1, 1)
        masks = torch.ones(tokens.shape[:3])
        masks[:, :, : SLOTS // 2] = 0.0
        return VoiceBank(tokens, masks, torch.tensor([LABELS.index(clip.label) for clip in said]))

    monkeypatch.setattr(voices, "read", read_voices)
    monkeypatch.setattr(transcripts, "read", lambda folder, said: [text_of(clip) for clip in said])
    monkeypatch.setattr(co_attention, "bank_voices", bank)
    monkeypatch.setattr(co_attention, "bootstrap_ua", functools.partial(bootstrap_ua, draws=200))
    return read


def voice_model() -> VoiceModel:
    torch.manual_seed(0)
    return VoiceModel(WIDTH).eval()


def test_training(corpora: set[str], tmp_path: Path) -> None:
    voice = voice_model()
    trained = co_attention.train(tmp_path, voice, tmp_path / "run", SMALL)
    assert corpora == {"train ravdess,nemo", "develop ravdess,nemo"}  # nothing of the test split
    (line,) = (tmp_path / "run" / "curve.jsonl").read_text().splitlines()
    parts = {"loss", *(f"loss_{name}" for name in ("emotion", "voice", "text", "early"))}
    figures = {"ua_voice", "ua_text", "ua_both"}
    assert json.loads(line).keys() == {"epoch", "rate", "seconds"} | parts | figures
    fusion = trained.model.fusion
    for mine, theirs in ((fusion.voice_head, voice.head), (fusion.voice_pool, voice.pool)):
        assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in mine.state_dict().items())
    torch.manual_seed(SMALL.schedule.seed)
    fresh = co_attention.new_model(voice, len(trained.pieces), SMALL)
    assert not torch.equal(trained.model.text.pieces.weight, fresh.text.pieces.weight)
    assert fusion.weights.sum().item() == pytest.approx(1.0) and fusion.measures.any()
    assert all(value > 0 for value in trained.temperatures)
    wordpiece.write(trained.pieces, tmp_path / "vocab.txt")
    assert (
        len(read_vocabulary((tmp_path / "vocab.txt").read_bytes()))
        == trained.model.text.pieces.num_embeddings
    )

    again = co_attention.train(tmp_path, voice, tmp_path / "run", SMALL)
    for key, value in again.model.state_dict().items():
        assert torch.equal(value, trained.model.state_dict()[key]), key
    assert again.temperatures == trained.temperatures
    with pytest.raises(InputError, match="inner was 8 and is 16"):
        co_attention.train(tmp_path, voice, tmp_path / "run", replace(SMALL, inner=16))


def test_figures_and_control(corpora: set[str], tmp_path: Path) -> None:
    trained = co_attention.train(tmp_path, voice_model(), tmp_path / "run", SMALL)
    figures = co_attention.score(trained, tmp_path)
    assert figures.keys() == {
        f"ua_{name}_{corpus}" for name in ("voice", "text", "both") for corpus in ("ravdess", "nemo")
    }
    found = co_attention.control(trained, tmp_path)
    assert found.n == 12 and found.chance == pytest.approx(1 / 6)
    # Each sentence in each emotion: whatever a text says, it is right once in six.
    assert found.text == pytest.approx(1 / 6, abs=1e-6)
    assert found.gain.value == pytest.approx(found.both - found.voice, abs=1e-6)
    assert found.gain.low <= found.gain.value <= found.gain.high
    assert (found.voice, found.both) == pytest.approx((figures["ua_voice_nemo"], figures["ua_both_nemo"]))


def test_a_leak_shows_in_the_control(
    corpora: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sentences that tell the emotion are what the control is to find."""
    leaky = {label: " ".join([label] * 3) for label in LABELS}
    monkeypatch.setattr(transcripts, "read", lambda folder, said: [leaky[clip.label] for clip in said])
    config = replace(SMALL, schedule=Schedule(epochs=3, rate=1e-2, average=0.9), steps=15, batch=32, cut=0.0)
    trained = co_attention.train(tmp_path, voice_model(), tmp_path / "run", config)
    found = co_attention.control(trained, tmp_path)
    assert found.text > 0.8 and min(found.gain.low, found.content.low, found.words.low) > 0.1


# Drawing


@pytest.fixture
def drawer() -> Drawer:
    """Three utterances of anger and one of fear of one corpus, one of anger of another."""
    labels = torch.tensor([0, 0, 0, 2, 0])
    tokens = torch.arange(1.0, 11.0).reshape(2, 5, 1, 1).expand(2, 5, SLOTS, 3)
    masks = (torch.arange(SLOTS) >= SLOTS - 10).float().expand(2, 5, SLOTS)
    texts = ["one two three", "one", "one", "one two", "three"]
    pieces = wordpiece.vocabulary(texts, 60)
    known = Utterances(VoiceBank(tokens, masks, labels), texts, {})
    corpora = ["a", "a", "a", "a", "b"]
    return Drawer(known, corpora, reader_of(pieces), replace(SMALL, batch=600, steps=5))


def test_each_label_of_each_corpus_is_drawn_as_often(drawer: Drawer) -> None:
    batches = list(drawer.epoch(torch.Generator().manual_seed(0)))
    assert [len(rows) for rows in batches] == [600] * 5
    counts = torch.bincount(torch.cat(batches), minlength=5) / 3000
    np.testing.assert_allclose(counts, [1 / 9, 1 / 9, 1 / 9, 1 / 3, 1 / 3], atol=0.03)


def test_windows(drawer: Drawer) -> None:
    rows = torch.arange(5).repeat(200)
    voice, mask, ids, labels, segments = drawer.windows(rows, torch.Generator().manual_seed(0))
    assert voice.shape == (1000, SLOTS, 3) and not segments
    assert mask[:, -1].all() and not mask[:, : SLOTS - 10].any() and 0.3 < mask[:, -10:].mean() < 0.8
    assert set(voice[rows == 0, 0, 0].tolist()) == {1.0, 6.0}  # both copies
    assert torch.equal(labels.argmax(1), drawer.known.bank.labels[rows])
    assert ids.dtype == torch.int32 and ids.shape == (1000, SLOTS)
    full = {text: drawer.reader.encode(text)[0].tolist() for text in ("one", "one two", "one two three")}
    read = Counter(tuple(row) for row in ids[rows == 0].tolist())
    assert {tuple(row) for row in full.values()} == read.keys()
    assert read[tuple(full["one two three"])] / 200 == pytest.approx(2 / 3, abs=0.1)
    uncut = Drawer(drawer.known, ["a"] * 5, drawer.reader, replace(SMALL, cut=0.0))
    assert {tuple(row) for row in uncut.windows(rows, torch.Generator())[2][rows == 0].tolist()} == {
        tuple(full["one two three"])
    }


def test_timings_count_for_utterances_as_they_are(drawer: Drawer) -> None:
    timed = torch.zeros(5, SLOTS, SLOTS)
    timed[:, 0, -3:] = 1 / 3
    drawer.known = replace(drawer.known, segments={"word": timed})
    rows = torch.arange(5).repeat(20)
    voice, _, _, _, segments = drawer.windows(rows, torch.Generator().manual_seed(0))
    first = voice[:, 0, 0] <= 5
    assert 20 < first.sum() < 80
    assert torch.equal(segments["word"][first], timed[rows][first])
    fixed = strides(SLOTS, STRIDES["word"])
    assert all(torch.equal(matrix[: len(fixed)], fixed) for matrix in segments["word"][~first])
    assert not segments["word"][~first][:, len(fixed) :].any()


# Timings


def test_segments_of_recordings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    heard = torch.ones(16000)  # one second of sound, and two seconds of silence after it
    monkeypatch.setattr(sounds, "load", lambda path: torch.cat([0.1 * heard, torch.zeros(32000)]))
    said = [voices.Clip(Path(f"{name}.flac"), "nemo", "nemo-1", "fear", "train") for name in ("a", "b")]
    (tmp_path / "a.tsv").write_text("0.0\t0.5\tkids\n0.5\t0.8\tare\n2.5\t3.0\tnever heard\n")
    made = co_attention.segments(said, tmp_path, ("frame", "syllable", "word"))
    assert made.keys() == {"syllable", "word"}
    kept = len(sounds.contexts(sounds.load(Path())))
    assert kept == 19  # the last hop of which something is in the context of a second
    word = made["word"][0]
    expected = torch.zeros(SLOTS)
    expected[SLOTS - kept : SLOTS - kept + 5] = 0.2
    torch.testing.assert_close(word[0], expected)
    assert word.sum(dim=1).tolist() == pytest.approx([1.0, 1.0, *[0.0] * (len(word) - 2)])
    # Without a file, fixed strides.
    fixed = strides(SLOTS, STRIDES["syllable"])
    assert torch.equal(made["syllable"][1][: len(fixed)], fixed)


@pytest.mark.parametrize("samples", [torch.zeros(100), torch.zeros(40000), 0.1 * torch.ones(7999)])
def test_heard_hops_are_those_of_the_contexts(samples: Tensor) -> None:
    random = torch.Generator().manual_seed(0)
    loud = samples.clone()
    loud[len(loud) // 2 : len(loud) // 2 + 300] = 0.5 * torch.randn(300, generator=random)[: len(loud) // 2]
    for x in (samples, loud):
        assert int(co_attention._heard(x).sum()) == len(sounds.contexts(x))


# Settings


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("batch=0", "co-attention: batch 0; it must be 1 or more"),
        ("inner=10", "inner 10; it must be a multiple of 4, the heads"),
        ("granularities=frame,sentence", "granularities .*; it must be some of frame, phone, syllable, word"),
        ("granularities=", "granularities .*; it must be some of"),
        ("cut=2", "cut 2.0; it must be from 0 to 1"),
        ("layers=0", "layers 0; it must be 1 or more"),
    ],
)
def test_settings(assignment: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        override(co_attention.DEFAULTS, [assignment])
