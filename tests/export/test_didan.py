"""DIDAN and the study across corpora, on tones of two made-up corpora."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import edgeemo
from edgeemo.errors import InputError
from edgeemo_calibration import lint
from edgeemo_export import bundle, system_bundle, to_onnx, transfer_page
from edgeemo_export.alignment import BY_NAME
from edgeemo_export.config import override
from edgeemo_export.data import sounds, voices
from edgeemo_export.data.labels import LABELS, NORMS
from edgeemo_export.data.transfer import TARGETS, Transfer, transfer
from edgeemo_export.encoders.fold import fold_batch_norms
from edgeemo_export.recipes import by_name, didan
from edgeemo_export.systems.didan import DIDAN, Layers, VoiceAnswers
from edgeemo_export.train import Schedule, optimiser

KEPT = ("anger", "neutral", "sadness")
TINY = didan.Config(Schedule(epochs=1, rate=1e-3), batch=4, takes=2)
ALIGNMENTS = (*didan.WITHOUT, *BY_NAME)


def sound(path: Path) -> Tensor:
    """A second of a tone whose pitch is the label; the target corpus is duller and louder."""
    time = torch.arange(16000) / 16000
    tone = 0.1 * torch.sin(2 * torch.pi * 200 * (1 + LABELS.index(path.stem)) * time + len(str(path)))
    return tone * 3 + 0.05 if "emodb" in str(path) else tone


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Transfer:
    monkeypatch.setattr(sounds, "load", sound)

    def read(folder: Path, split: str, corpora: tuple[str, ...]) -> list[voices.Clip]:
        (corpus,) = corpora
        labels = LABELS if corpus == "ravdess" else KEPT
        if (corpus, split) == ("emodb", "develop"):
            return []
        return [
            voices.Clip(
                Path(f"{corpus}/{split}/{take}/{label}.flac"), corpus, f"{corpus}-{split}", label, split
            )
            for take in range(3)
            for label in labels
        ]

    monkeypatch.setattr(voices, "read", read)
    return transfer(Path(), "emodb")


@pytest.fixture
def heard(study: Transfer) -> didan.Spectrograms:
    return didan.hear(study, takes=2)


def test_transfer_keeps_the_classes_of_both_and_disjoint_speakers(study: Transfer) -> None:
    assert study.labels == KEPT
    everyone = [study.train, study.develop, study.listen, study.test]
    assert all({clip.label for clip in clips} == set(KEPT) for clips in everyone)
    speakers = [{clip.speaker for clip in clips} for clips in everyone]
    assert len(set.union(*speakers)) == sum(map(len, speakers))


@pytest.mark.parametrize(
    ("target", "message"), [("casia", "one of emodb, nemo"), ("emodb", "no clips of ravdess")]
)
def test_no_such_target(tmp_path: Path, target: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        transfer(tmp_path, target)


@pytest.mark.parametrize("target", TARGETS)
def test_splits_of_the_real_corpora(target: str, data: Path) -> None:
    study = transfer(data, target)
    tested = {"emodb": {"11", "12", "13", "14"}, "nemo": {"MP0", "SM0", "WR0"}}[target]
    listened = {"emodb": {"03", "08", "09", "10"}, "nemo": {"EB0", "IC0", "KD0", "KS0"}}[target]
    assert {clip.speaker for clip in study.test} == {f"{target}-{name}" for name in tested}
    assert {clip.speaker for clip in study.listen} == {f"{target}-{name}" for name in listened}
    assert {clip.speaker for clip in study.train} == {f"ravdess-{actor:02}" for actor in range(2, 15)}
    assert len(study.labels) == {"emodb": 4, "nemo": 6}[target]


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_every_alignment_trains(heard: didan.Spectrograms, tmp_path: Path, alignment: str) -> None:
    model = didan.train(heard, tmp_path, replace(TINY, alignment=alignment))
    figures = json.loads((tmp_path / "curve.jsonl").read_text())
    assert ("loss_alignment" in figures) == (alignment in BY_NAME)
    assert ("loss_target" in figures) == (alignment == "supervised")
    assert 0 <= didan.score(model, heard.test, heard.transfer.test, KEPT)["ua"] <= 1
    again = didan.train(heard, tmp_path, replace(TINY, alignment=alignment))
    assert all(
        torch.equal(x, y)
        for x, y in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_labels_of_the_target_are_not_read(heard: didan.Spectrograms, tmp_path: Path) -> None:
    turned = [replace(clip, label=KEPT[KEPT.index(clip.label) - 1]) for clip in heard.transfer.listen]
    other = replace(heard, transfer=replace(heard.transfer, listen=turned))

    def weights(heard: didan.Spectrograms, alignment: str, folder: str) -> Tensor:
        return didan.train(heard, tmp_path / folder, replace(TINY, alignment=alignment)).last.weight

    for alignment in ("norms", *BY_NAME):
        assert torch.equal(weights(heard, alignment, alignment), weights(other, alignment, f"{alignment}-2"))
    assert not torch.equal(weights(heard, "supervised", "s"), weights(other, "supervised", "s-2"))


def test_source_only_hears_the_source_alone(heard: didan.Spectrograms, tmp_path: Path) -> None:
    deaf = replace(heard, listen=[[torch.full_like(x, float("nan")) for x in take] for take in heard.listen])
    model = didan.train(deaf, tmp_path, replace(TINY, alignment="source"))
    assert all(value.isfinite().all() for value in model.state_dict().values())


def layers(count: int, seed: int = 0) -> Layers:
    random = torch.Generator().manual_seed(seed)
    return Layers(*(torch.randn(count, width, generator=random).requires_grad_() for width in (256, 128, 3)))


@pytest.mark.parametrize("alignment", BY_NAME)
def test_alignment_fades_in_and_weighs(alignment: str) -> None:
    labels = torch.eye(3)[[0, 1, 2, 0]]
    align = didan.Aligning(KEPT, alignment, 2.0, 128)
    source, target = layers(4), layers(4, 1)
    values = []
    for progress in (0.0, 1.0):
        align.advance(progress)
        values.append(align(source, labels, target).item())
    assert values[0] == 0.0
    half = didan.Aligning(KEPT, alignment, 1.0, 128)
    half.load_state_dict(align.state_dict())
    assert values[1] > 0.0
    assert half(source, labels, target).item() == pytest.approx(values[1] / 2)
    align(source, labels, target).backward()
    assert source.middle.grad is not None and source.middle.grad.abs().sum() > 0
    assert (source.first.grad is not None) == (alignment == "granular-ida")


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_every_parameter_is_in_an_optimiser_group(alignment: str) -> None:
    model, align = DIDAN(3), didan.Aligning(KEPT, alignment, 1.0, 128)
    grouped = {
        id(p) for group in optimiser(model, TINY.schedule, align).param_groups for p in group["params"]
    }
    assert grouped == {id(p) for p in [*model.parameters(), *align.parameters()]}


def test_permuting_the_batch_permutes_the_answers(enliven: Callable[..., nn.Module]) -> None:
    model = enliven(DIDAN(3))
    assert isinstance(model, DIDAN)
    mels, order = torch.randn(5, 1, 64, 65), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(model.layers(mels).last[order], model.layers(mels[order]).last)


def test_masked_tokens_say_nothing(enliven: Callable[..., nn.Module]) -> None:
    model = enliven(DIDAN(3))
    assert isinstance(model, DIDAN)
    tokens, mask = torch.randn(1, 5, 128), torch.tensor([[0.0, 1, 1, 0, 1], [0, 0, 0, 0, 0]])
    found = model.classify(tokens, mask)
    torch.testing.assert_close(found[0], model.last(tokens[0, [1, 2, 4]].mean(0)))
    torch.testing.assert_close(found[1], model.last.bias)


def test_exported_graphs_hold_no_alignment(enliven: Callable[..., nn.Module], tmp_path: Path) -> None:
    model = enliven(DIDAN(3))
    assert isinstance(model, DIDAN)
    tokens, mask = torch.rand(1, 40, 128), torch.rand(3, 40).round()
    answers = VoiceAnswers(model, 1.5, [NORMS[label] for label in KEPT])
    inputs = {"voice_tokens": tokens, "voice_mask": mask}
    to_onnx.write(
        answers, inputs, ["logits", "valence_arousal"], tmp_path / "fusion.onnx", batched=("voice_mask",)
    )
    voice = torch.randn(1, 16000) * 0.05
    before = model.encoder(voice)
    encoder = fold_batch_norms(model.encoder)
    torch.testing.assert_close(encoder(voice), before, atol=1e-4, rtol=1e-4)
    to_onnx.write(encoder, {"voice": voice}, ["tokens"], tmp_path / "voice.onnx")
    for name in ("fusion", "voice"):
        graph = onnx.load(tmp_path / f"{name}.onnx")
        assert not lint(graph)
        weights = sum(len(value.raw_data) // 4 for value in graph.graph.initializer if value.data_type == 1)
        expected = sum(p.numel() for p in (model.last if name == "fusion" else encoder).parameters())
        assert (
            weights < expected + 2 * 257 * 400 + 64 * 257 + 1000
        )  # the DFT and the filters of the front end


@pytest.mark.usefixtures("study")
def test_bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bundle, "CALIBRATION_ITEMS", 8)
    heard: list[str] = []
    monkeypatch.setattr(sounds, "load", lambda path: (heard.append(str(path)), sound(path))[1])
    trained = by_name.train("didan", Path(), None, tmp_path / "run", TINY)
    assert heard and not any("/test/" in path for path in heard)
    again = by_name.read(tmp_path / "run", Path())
    for name, value in trained.fusion.state_dict().items():
        assert torch.equal(value, again.fusion.state_dict()[name]), name
    system_bundle.write(again, Path(), tmp_path / "bundle", "a toy")
    provenance = edgeemo.Bundle.read(tmp_path / "bundle").provenance
    assert provenance["data"] == ["RAVDESS actors 02-14", "EmoDB 03, 08, 09, 10, without labels"]
    samples = sound(Path("emodb/test/0/anger.flac"))
    with torch.no_grad():
        tokens = trained.encoders["voice"].eval()(sounds.contexts(samples))
        expected = trained.fusion(tokens[None], torch.ones(1, len(tokens)))[0].softmax(1)[0]
    for precision, tolerance in (("fp32", 1e-4), ("int8", 0.1)):
        with edgeemo.load(tmp_path / "bundle", backend="onnx", precision=precision) as model:
            assert (model.labels, model.bundle.modalities) == (KEPT, ("voice",))
            with edgeemo.Stream(model) as stream:
                stream.push_audio(samples.numpy(), 16000, 0.0)
                stream.end("voice")
                last = stream.poll()[-1]
        assert last.probabilities is not None and last.probabilities.keys() == set(KEPT)
        assert list(last.probabilities.values()) == pytest.approx(expected.tolist(), abs=tolerance)


def test_page(study: Transfer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(transfer_page, "transfer", lambda data, target: study)
    settings = ("schedule.epochs=1", "batch=4", "takes=1")
    methods = [transfer_page.METHODS[place] for place in (0, 5, 8)]

    def write() -> str:
        page = tmp_path / "page.md"
        transfer_page.write(Path(), tmp_path / "runs", page, ["emodb"], [0, 1], settings, methods)
        return page.read_text()

    page = write()
    figures = [
        json.loads((tmp_path / "runs" / "emodb" / f"{name}-{seed}" / "figures.json").read_text())["ua"]
        for name in ("source", "lmmd-1")
        for seed in (0, 1)
    ]
    gain = 100 * (sum(figures[2:]) - sum(figures[:2])) / 2
    assert f"The best alignment, LMMD, gains {gain:+.1f} points" in page
    assert "best of 1 by the tested speakers" in page and "longer" not in page
    assert f"| {sum(figures[:2]) / 2:.3f} ± {abs(figures[0] - figures[1]) / 2**0.5:.3f} |" in page
    assert "--set alignment=lmmd --set weight=1 --seed SEED" in page
    for method in transfer_page.METHODS:
        override(didan.DEFAULTS, method.settings)  # every command of the page is one that the recipe takes
    monkeypatch.setattr(didan, "train", None)
    assert write() == page  # finished runs are read back
    with pytest.raises(InputError, match="batch was 4 and is 5"):  # nor taken for runs of other settings
        transfer_page.write(
            Path(), tmp_path / "runs", tmp_path / "other.md", ["emodb"], [0], ("batch=5",), methods
        )
    assert not (tmp_path / "other.md").exists()


METHODS = {method.name: method for method in (*transfer_page.METHODS, *transfer_page.ATTEMPTS["nemo"])}


@pytest.mark.parametrize(
    ("ceiling", "told"), [(0.75, "there is more to be learnt"), (0.62, "even the labels of these 1 speaker")]
)
def test_gains_are_on_source_only_of_the_same_schedule(study: Transfer, ceiling: float, told: str) -> None:
    uas = {"source only": 0.4, "LMMD": 0.43, "source only, longer": 0.6, "LMMD, longer": 0.61}
    uas["supervised ceiling, longer"] = ceiling
    figures = {
        name: [{"ua": ua, "wa": ua, "listened_ua": 0.9, "source_ua": 0.9, "seconds": 1.0}]
        for name, ua in uas.items()
    }
    lines = transfer_page._section(study, figures, [METHODS[name] for name in uas], ())
    gains = {line.split(" | ")[0][2:]: line.split(" | ")[3] for line in lines if line.startswith("| ")}
    assert [gains[name] for name in uas][:4] == ["", "+0.030 ± 0.000", "", "+0.010 ± 0.000"]
    page = "\n".join(lines)
    assert "The best alignment, LMMD, gains +3.0 points" in page and told in page
