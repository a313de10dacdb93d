"""Co-attention of voice and text: RAVDESS and nEMO with what is said in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo.preprocess.text import WordPiece

from .. import processes, states
from ..config import keep, refuse
from ..data import sounds, timings, transcripts, voices, wordpiece
from ..data.labels import LABELS, NORMS
from ..data.tokens import SLOTS, VoiceBank, bank_voices
from ..encoders.text import TextEncoder, counting
from ..encoders.voice import SAMPLE_RATE
from ..metrics import accuracies, temperature
from ..results import Interval, bootstrap_ua
from ..systems.co_attention import STRIDES, CoAttention, VoiceAndText, strides
from ..systems.fusion import Answers
from ..train import Schedule, fit
from .fusion import stored
from .voice import VoiceModel

SCHEDULE = Schedule(epochs=8, rate=1e-3, decay=0.05, average=0.99)
RIDGE = 0.02
CALIBRATED = "calibrated.pt"
SUFFIXES = (".TextGrid", ".ctm", ".tsv")


@dataclass(frozen=True)
class Config:
    """Settings of the recipe.

    Attributes:
        schedule: see `edgeemo_export.train.Schedule`.
        batch: utterances of a step.
        steps: of an epoch.
        copies: how often each utterance is recorded, once as it is and else distorted.
        pieces: size of the vocabulary.
        width: of a text token.
        layers: of the text encoder.
        inner: width of the co-attention.
        granularities: of its branches; see `edgeemo_export.systems.co_attention.STRIDES`.
        cut: share of the texts that end early, as a stream reads them before the last word is said.

    Raises:
        InputError: one of them is out of its range.
    """

    schedule: Schedule = SCHEDULE
    batch: int = 64
    steps: int = 40
    copies: int = 4
    pieces: int = 400
    width: int = 128
    layers: int = 2
    inner: int = 64
    granularities: tuple[str, ...] = ("frame", "syllable", "word")
    cut: float = 0.5

    def __post_init__(self) -> None:
        known = STRIDES.keys() >= set(self.granularities)
        refuse(
            "co-attention",
            self,
            ("batch", self.batch >= 1, "1 or more"),
            ("steps", self.steps >= 1, "1 or more"),
            ("copies", self.copies >= 1, "1 or more"),
            ("pieces", self.pieces >= 1, "1 or more"),
            ("width", self.width >= 4 and self.width % 4 == 0, "a multiple of 4, the heads"),
            ("layers", self.layers >= 1, "1 or more"),
            ("inner", self.inner >= 4 and self.inner % 4 == 0, "a multiple of 4, the heads"),
            ("granularities", bool(self.granularities) and known, f"some of {', '.join(STRIDES)}"),
            ("cut", 0 <= self.cut <= 1, "from 0 to 1"),
        )


DEFAULTS = Config()


@dataclass(frozen=True)
class Trained:
    """What a run trained.

    Attributes:
        voice: whose encoder makes the voice tokens; it was given.
        model: text encoder and fusion.
        pieces: the vocabulary, by id.
        temperatures: of the voice alone, of the text alone, and of both.
    """

    voice: VoiceModel
    model: VoiceAndText
    pieces: tuple[str, ...]
    temperatures: tuple[float, float, float]

    def answers(self) -> Answers:
        """The fusion graph of a bundle, calibrated."""
        return Answers(self.model.fusion, self.temperatures, [NORMS[name] for name in LABELS])


@dataclass(frozen=True)
class Utterances:
    """Voice tokens of utterances with what is said in them.

    Attributes:
        bank: the tokens.
        texts: of each.
        segments: by granularity ``[n, K, SLOTS]``, of the first copy of each; see `Segmented`.
    """

    bank: VoiceBank
    texts: Sequence[str]
    segments: Mapping[str, Tensor]


def train(
    data: Path,
    voice: VoiceModel,
    folder: Path,
    config: Config = DEFAULTS,
    aligned: Path | None = None,
    tokens: Path | None = None,
) -> Trained:
    """Train a text encoder and the fusion over tokens of a frozen voice encoder, then calibrate.

    EmoDB is left out, because nothing here tells what is said in its recordings. What the voice says alone
    stays as its recipe left it. The weights of the late fusion are left to the speakers of the development
    set: training knows its own speakers too well to tell what a voice is worth.

    Args:
        data: folder with ``ravdess_speech`` and ``nemo``.
        voice: trained.
        folder: of the settings, the state and the curve.
        config: the settings.
        aligned: folder with word or phone timings, for each recording a file of its name that ends in one of
            `SUFFIXES`; a recording without one has segments of fixed strides.
        tokens: folder in which the tokens of the utterances are kept for other runs; ``folder`` without it.

    Raises:
        InputError: the run in ``folder`` was begun with other settings, or a recording's text is not known.
    """
    keep(config, folder)
    clips = {split: voices.read(data, split, transcripts.CORPORA) for split in ("train", "develop")}
    texts = {split: transcripts.read(data, clips[split]) for split in clips}
    pieces = wordpiece.vocabulary(texts["train"], config.pieces)
    torch.manual_seed(config.schedule.seed)
    model = new_model(voice, len(pieces), config)
    reader = reader_of(pieces)

    path = (tokens or folder) / f"spoken-{config.copies}.pt"
    known = _known(voice, clips, texts, path, config, aligned)
    drawer = Drawer(known["train"], [clip.corpus for clip in clips["train"]], reader, config)

    def batches(random: torch.Generator) -> Iterator[Tensor]:
        return drawer.epoch(random)

    def loss(model: nn.Module, rows: Tensor, random: torch.Generator) -> Mapping[str, Tensor]:
        assert isinstance(model, VoiceAndText)
        return model.losses(*drawer.windows(rows, random))

    def develop(model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, VoiceAndText)
        labels = known["develop"].bank.labels
        return _figures(_each(model, known["develop"], reader), labels)

    fitted = fit(model, batches, config.steps, loss, develop, config.schedule, folder)
    assert isinstance(fitted, VoiceAndText)
    weigh(fitted, known["develop"], reader)
    labels = known["develop"].bank.labels
    found = _each(fitted, known["develop"], reader)
    voice_, text, both = (temperature(found[name], labels) for name in ("voice", "text", "both"))
    if processes.rank() == 0:
        calibrated = {"model": fitted.state_dict(), "temperatures": [voice_, text, both], "pieces": pieces}
        states.write(calibrated, folder / CALIBRATED)
    return Trained(voice, fitted, tuple(pieces), (voice_, text, both))


def _known(
    voice: VoiceModel,
    clips: Mapping[str, Sequence[voices.Clip]],
    texts: Mapping[str, Sequence[str]],
    path: Path,
    config: Config,
    aligned: Path | None,
) -> dict[str, Utterances]:
    """The utterances of each split; their tokens are read back from ``path``, or made and kept there."""

    def heard() -> list[VoiceBank]:
        copies = {"train": config.copies, "develop": 1}
        return [bank_voices(voice.encoder, clips[split], copies[split], seed=1) for split in clips]

    with processes.one_by_one():
        banks = stored(path, voice.encoder, VoiceBank, heard)
        return {
            split: Utterances(
                bank,
                texts[split],
                {} if aligned is None else segments(clips[split], aligned, config.granularities),
            )
            for split, bank in zip(clips, banks, strict=True)
        }


def read(voice: VoiceModel, folder: Path, config: Config = DEFAULTS) -> Trained:
    """What `train` gave, without the corpora.

    Args:
        voice: that it was trained with.
        folder: of a finished run.
        config: the settings of the run.
    """
    kept = states.read(folder / CALIBRATED)
    model = new_model(voice, len(kept["pieces"]), config)
    model.load_state_dict(kept["model"])
    first, second, both = kept["temperatures"]
    return Trained(voice, model.eval(), tuple(kept["pieces"]), (first, second, both))


def new_model(voice: VoiceModel, pieces: int, config: Config = DEFAULTS) -> VoiceAndText:
    """An untrained model, of which only what the voice says alone is trained and frozen."""
    width = voice.head.in_features // 2
    fusion = CoAttention(
        width,
        config.width,
        voice.head.out_features,
        SLOTS,
        granularities=config.granularities,
        inner=config.inner,
    )
    fusion.voice_head.load_state_dict(voice.head.state_dict())
    fusion.voice_pool.load_state_dict(voice.pool.state_dict())
    for frozen in (fusion.voice_head, fusion.voice_pool):
        frozen.requires_grad_(False)
    return VoiceAndText(TextEncoder(pieces, config.width, SLOTS, config.layers), fusion)


def reader_of(pieces: Sequence[str]) -> WordPiece:
    """The runtime's tokeniser for a vocabulary."""
    return WordPiece({piece: place for place, piece in enumerate(pieces)}, length=SLOTS, lowercase=True)


class Drawer:
    """Draws training windows: each label of each corpus as often as any other.

    So a text, which tells the corpus, tells no label but that the corpus has none of it.

    Args:
        known: the training set.
        corpora: the corpus of each of its utterances.
        reader: makes ids of texts.
        config: the settings.
    """

    def __init__(self, known: Utterances, corpora: Sequence[str], reader: WordPiece, config: Config) -> None:
        self.known, self.reader, self.config = known, reader, config
        self.words = [reader.words(text) for text in known.texts]
        kinds = list(zip(corpora, known.bank.labels.tolist(), strict=True))
        self.chances = torch.tensor([1.0 / kinds.count(kind) for kind in kinds])

    def epoch(self, random: torch.Generator) -> Iterator[Tensor]:
        """Rows ``[batch]`` of each step."""
        count = self.config.steps * self.config.batch
        return iter(torch.multinomial(self.chances, count, True, generator=random).split(self.config.batch))

    def windows(
        self, rows: Tensor, random: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """A copy of each utterance with a part of its slots, and all or the beginning of its text.

        Returns:
            Voice tokens ``[n, SLOTS, D]``, mask ``[n, SLOTS]``, ids ``[n, SLOTS]``, labels ``[n, K]`` and the
            segments of each granularity that has timings.
        """
        bank = self.known.bank
        copies = torch.randint(len(bank.tokens), rows.shape, generator=random)
        mask = bank.masks[copies, rows]
        share = torch.exp2(-2.0 * torch.rand(len(rows), 1, generator=random))
        kept = torch.rand(mask.shape, generator=random) < share
        kept[:, -1] = True
        mask = mask * kept
        ids = []
        for row, draw in zip(rows.tolist(), torch.rand(len(rows), 2, generator=random).tolist(), strict=True):
            words = self.words[row]
            last = 1 + int(draw[1] * len(words)) if draw[0] < self.config.cut else len(words)
            ids.append(torch.from_numpy(self.reader.row(words[:last])))
        labels = F.one_hot(bank.labels[rows], len(LABELS)).float()
        return bank.tokens[copies, rows], mask, torch.cat(ids), labels, self._segments(rows, copies)

    def _segments(self, rows: Tensor, copies: Tensor) -> dict[str, Tensor]:
        """Those of the timings for utterances as they are; distorted ones have another speed."""
        drawn = {}
        for name, known in self.known.segments.items():
            fixed = _padded(strides(SLOTS, STRIDES[name]), known.shape[1])
            drawn[name] = torch.where((copies == 0)[:, None, None], known[rows], fixed)
        return drawn


def segments(clips: Sequence[voices.Clip], aligned: Path, granularities: Sequence[str]) -> dict[str, Tensor]:
    """The segments of each granularity but the frame in the last slots of each clip, ``[n, K, SLOTS]``.

    Args:
        clips: the recordings.
        aligned: folder with their timings; see `train`.
        granularities: some of `STRIDES`.
    """
    made: dict[str, list[Tensor]] = {name: [] for name in granularities if name != "frame"}
    for clip in clips:
        paths = [aligned / f"{clip.path.stem}{suffix}" for suffix in SUFFIXES]
        path = next((path for path in paths if path.is_file()), None)
        said = timings.Timings() if path is None else timings.read(path)
        heard = _heard(sounds.load(clip.path)) if path is not None else torch.ones(SLOTS, dtype=torch.bool)
        for name, matrices in made.items():
            matrices.append(_shares(said.of(name), heard, STRIDES[name]))
    found = {}
    for name, matrices in made.items():
        most = max(len(matrix) for matrix in matrices)
        found[name] = torch.stack([_padded(matrix, most) for matrix in matrices])
    return found


def _shares(said: Sequence[timings.Interval], heard: Tensor, stride: int) -> Tensor:
    """The segments ``[K, SLOTS]`` of what was said, over the last of the hops that were heard."""
    fixed = strides(SLOTS, stride)
    hops = len(heard)
    whole = timings.segments(said, hops, hops * sounds.HOP / SAMPLE_RATE)[:, heard][:, -SLOTS:]
    kept = F.pad(whole, (SLOTS - whole.shape[1], 0))
    kept = kept[kept.sum(dim=1) > 0]
    # A matrix has as many rows as fixed strides have at least, so that either fits where the other does.
    return _padded(kept / kept.sum(dim=1, keepdim=True), len(fixed)) if len(kept) else fixed


def _padded(matrix: Tensor, count: int) -> Tensor:
    return F.pad(matrix, (0, 0, 0, max(0, count - len(matrix))))


def _heard(samples: Tensor) -> Tensor:
    """Which hops of a recording `sounds.contexts` keeps, ``[hops]``."""
    _, heard = sounds.cut(samples)
    heard[-1] |= not heard.any()
    return heard


@torch.no_grad()
def _each(
    model: VoiceAndText, known: Utterances, reader: WordPiece, texts: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Log-probabilities ``[n, K]`` of the voice alone, the text alone and both, of utterances as they are."""
    inputs = _inputs(model, known, reader, texts)
    both, voice, text = model.fusion.each(*inputs)
    return {"voice": voice, "text": text, "both": both}


@torch.no_grad()
def _inputs(
    model: VoiceAndText, known: Utterances, reader: WordPiece, texts: Sequence[str] | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the fusion reads of utterances as they are, or of their voices with other ``texts``."""
    model.eval()
    written = known.texts if texts is None else texts
    ids = torch.cat([torch.from_numpy(reader.encode(text)) for text in written])
    return known.bank.tokens[0], known.bank.masks[0], model.text.encode(ids), counting(ids)


def _figures(found: Mapping[str, Tensor], labels: Tensor) -> dict[str, float]:
    return {f"ua_{name}": accuracies(value.argmax(1), labels)["ua"] for name, value in found.items()}


def weigh(model: VoiceAndText, known: Utterances, reader: WordPiece) -> None:
    """Set the weights of the late fusion to those of least cross-entropy on the development set, in place.

    They are few and so are its speakers: a ridge draws them to equal weights.
    """
    inputs = _inputs(model, known, reader)
    fusion, labels = model.fusion, known.bank.labels
    with torch.no_grad():
        terms = fusion.terms(*inputs)
        even = 1.0 / torch.bincount(labels, minlength=terms[0].shape[1]).clamp(min=1)
    # How sure the sum may be is found along with it: a temperature is left to calibration.
    found = torch.zeros(len(terms) + 1, requires_grad=True)
    solver = torch.optim.LBFGS([found], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        weights = torch.softmax(found[:-1], dim=0)
        fused = sum(weight * term for weight, term in zip(weights, terms, strict=True)) * found[-1].exp()
        value = F.cross_entropy(fused, labels, weight=even) + RIDGE * found[:-1].square().mean()
        value.backward()
        return value

    solver.step(loss)
    with torch.no_grad():
        fusion.measures.copy_(found[:-1])


def score(trained: Trained, data: Path, split: str = "test") -> dict[str, float]:
    """UA of the voice alone, the text alone and both, of each corpus of a split."""
    reader = reader_of(trained.pieces)
    figures: dict[str, float] = {}
    for corpus in transcripts.CORPORA:
        clips = voices.read(data, split, (corpus,))
        if clips:
            known = _utterances(trained.voice, clips, transcripts.read(data, clips))
            found = _figures(_each(trained.model, known, reader), known.bank.labels)
            figures |= {f"{name}_{corpus}": value for name, value in found.items()}
    return figures


def _utterances(voice: VoiceModel, clips: Sequence[voices.Clip], texts: Sequence[str]) -> Utterances:
    return Utterances(bank_voices(voice.encoder, clips, 1, seed=1), texts, {})


@dataclass(frozen=True)
class Control:
    """Whether text adds something where it cannot: nEMO's sentences each come in all six emotions.

    Attributes:
        n: utterances of nEMO's test speakers.
        chance: UA of whoever answers by the text alone.
        voice: UA of the voice alone.
        text: UA of the text alone.
        both: UA of both.
        gain: UA of both less that of the voice alone; paired bootstrap. More than chance would have it is
            leakage, or the branches, which hear the voice once more with weights of their own, or the
            language, which tells the corpus and so which labels there are.
        content: UA of both less that with the sentences exchanged among the utterances, which leaves branches
            and language; more than chance would have it is leakage.
        words: UA of both less that with an unknown word for every text, which leaves the branches; more than
            chance would have it is leakage or the language.
    """

    n: int
    chance: float
    voice: float
    text: float
    both: float
    gain: Interval
    content: Interval
    words: Interval


def control(trained: Trained, data: Path, seed: int = 0) -> Control:
    """Hold the text to nEMO's test speakers, where it must be at chance and add nothing to the voice.

    Args:
        trained: on the other speakers.
        data: the corpora.
        seed: of the exchange of sentences.
    """
    clips = voices.read(data, "test", ("nemo",))
    texts = transcripts.read(data, clips)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    known = _utterances(trained.voice, clips, texts)
    reader = reader_of(trained.pieces)
    found = _each(trained.model, known, reader)
    exchanged = _each(trained.model, known, reader, [texts[place] for place in order])["both"]
    unknown = _each(trained.model, known, reader, ["?"] * len(texts))["both"]
    truth = known.bank.labels.numpy()
    both, alone, other, nothing = (
        x.argmax(1).numpy() for x in (found["both"], found["voice"], exchanged, unknown)
    )
    ua = _figures(found, known.bank.labels)
    return Control(
        len(clips),
        1.0 / len(set(truth.tolist())),
        ua["ua_voice"],
        ua["ua_text"],
        ua["ua_both"],
        bootstrap_ua(truth, both, len(LABELS), alone),
        bootstrap_ua(truth, both, len(LABELS), other),
        bootstrap_ua(truth, both, len(LABELS), nothing),
    )
