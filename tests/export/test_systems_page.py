"""The page of the systems: what is measured is what its conditions say, and it is written whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeemo.errors import InputError
from edgeemo_export import conditions, systems_page
from edgeemo_export.cli import main
from edgeemo_export.conditions import CONDITIONS, Encoded, Items
from edgeemo_export.data import sounds
from edgeemo_export.data.labels import LABELS
from edgeemo_export.data.tokens import SLOTS
from edgeemo_export.systems_page import Variant
from tests.support import made_corpora
from tests.support.made_corpora import Made


class Level(nn.Module):
    """Mean of what is given, and 1, as a token."""

    def forward(self, given: Tensor) -> Tensor:
        mean = given.float().flatten(1).abs().mean(dim=1)
        return torch.stack([mean, torch.ones_like(mean)], dim=1)


def items() -> Items:
    """Two faces, of two pictures and of one; a voice of 5 s, and one of 1 s whose first half is silent."""
    random = np.random.default_rng(0)
    faces = [random.integers(0, 256, (2, 48, 48), dtype=np.uint8), np.full((1, 48, 48), 90, np.uint8)]
    late = torch.cat([torch.zeros(16000), 0.1 * torch.sin(torch.arange(8000.0))])
    heard = [0.1 * torch.sin(torch.arange(80000.0)), late]
    return Items(faces, heard, torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))


def test_conditions_are_all_but_nothing() -> None:
    assert len(CONDITIONS) == 11 and ("absent", "absent") not in CONDITIONS


def test_inputs_of_each_condition() -> None:
    encoded = Encoded(items(), {"face": Level(), "voice": Level()})
    whole = encoded.inputs("whole", "whole")
    face, face_mask, voice, voice_mask = whole
    assert face.shape == voice.shape == (3, SLOTS, 2)
    # 50 hops, of which the last 40 are seen: pictures at hops 12 and 37; the single one in the middle.
    assert face_mask[0].nonzero()[:, 0].tolist() == [2, 27]
    assert face_mask[1].nonzero()[:, 0].tolist() == [15]
    assert face_mask[2].nonzero()[:, 0].tolist() == [25 + 7]
    assert voice_mask[:2].all() and voice_mask[2].nonzero()[:, 0].tolist() == [35, 36, 37, 38, 39]
    for tokens, mask in ((face, face_mask), (voice, voice_mask)):
        assert torch.equal(tokens[..., 1], mask)
    assert face[1, 15, 0] == 90.0
    for condition in CONDITIONS:
        given = encoded.inputs(*condition)
        assert bool(given[1].any()) == (condition[0] != "absent")
        assert bool(given[3].any()) == (condition[1] != "absent")
        assert torch.equal(given[0], whole[0]) == (condition[0] == "whole")
        assert torch.equal(given[2], whole[2]) == (condition[1] == "whole")
    *_, noisy, noisy_mask = encoded.inputs("whole", "noisy")
    assert noisy_mask[2].sum() == 15  # noise is heard where the voice is silent
    assert noisy[0, -1, 0] > 1.2 * voice[0, -1, 0]


@torch.no_grad()
def test_voice_tokens_are_those_of_a_stream() -> None:
    samples = made_corpora.sound(made_corpora.clips("test")[0].path)
    tokens, mask = conditions.voice_tokens(Level(), samples)
    expected = Level()(sounds.contexts(samples))
    assert mask.sum() == len(expected) == 5
    torch.testing.assert_close(tokens[-5:], expected)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(systems_page, "PAIRS", 20)
        yield made_corpora.make(tmp_path_factory.mktemp("corpora"), patch)


def test_pairs_are_of_one_label_and_of_test_speakers(made: Made) -> None:
    made.read.clear()
    pairs = conditions.label_pairs(made.data, 30)
    assert made.read == {"faces test", "voices test"}
    faces, clips = made_corpora.faces("test"), made_corpora.clips("test")
    assert len(pairs.labels) == 30
    for seen, heard, label in zip(
        *(x.tolist() for x in (pairs.seen, pairs.heard, pairs.labels)), strict=True
    ):
        (place,) = (faces.images == pairs.faces[seen]).all(axis=(1, 2)).nonzero()[0]
        assert faces.majority[place] == label == LABELS.index(clips[heard].label)


def test_variants_that_are_alike_share_their_runs() -> None:
    alike = systems_page.STUDIES["Pairs by label against pairs by CREMA-D's votes"][0]
    assert alike.name == systems_page.FOAL_NET[-1].name == "foal-net"
    names = [v.name for study in systems_page.STUDIES.values() for v in study]
    assert len(set(names)) == 10  # two of the twelve are in two studies
    command = Variant("", "jca", ("joint=false",)).command()
    assert "--encoders ENCODERS --set joint=false --seed SEED --run RUNS/jca-joint=false/SEED" in command
    assert "--encoders" not in Variant("", "fdan").command()


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--seeds 3: give two or more"):
        systems_page.write(tmp_path, tmp_path, tmp_path, tmp_path / "page.md", [3])


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    studies = {
        "JCA: joint against plain": (Variant("joint", "jca"), Variant("plain", "jca", ("joint=false",)))
    }
    monkeypatch.setattr(systems_page, "STUDIES", studies)
    monkeypatch.setattr(systems_page, "SYSTEMS", (Variant("FDAN", "fdan"), Variant("JCA", "jca")))
    monkeypatch.setattr(systems_page, "UNITS", (Variant("with units", "jca", ("pairs=units",)),))
    control = systems_page.co_attention.Control(
        9,
        1 / 6,
        0.5,
        0.2,
        0.5,
        *(systems_page.co_attention.Interval(x, x - 0.1, x + 0.1) for x in (0.0, 0.01, 0.02)),
    )
    monkeypatch.setattr(systems_page.co_attention, "control", lambda trained, data: control)


@pytest.mark.slow
def test_the_page_is_written_from_runs(
    made: Made, few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, runs = tmp_path / "results" / "systems.md", tmp_path / "runs"
    words = ["systems", "--data", str(made.data), "--encoders", str(made.encoders), "--runs", str(runs)]
    words += ["--page", str(page), "--seeds", "0", "1", "--threads", "1"]
    assert main(words) == 0
    text = page.read_text()
    assert sorted(path.name for path in runs.iterdir()) == [
        "co-attention",
        "fdan",
        "jca",
        "jca-joint=false",
        "jca-pairs=units",
    ]
    tables = [line for line in text.splitlines() if line.startswith("| whole | noisy |")]
    assert len(tables) == 3  # the systems, the study and the real pairs
    assert all(line.count("±") == 4 for line in tables[:2]) and tables[2].count("±") == 2
    assert "| 0 | 0.500 | 0.200 | 0.500 | 0.000 (-0.100 to 0.100) |" in text
    assert "| ravdess | " in text and "n = 20." in text and "n = 7;" in text
    assert text.count("paired by seed: ") == 2  # the study and the real pairs
    assert "Audio-visual clips" not in text and "gain in the last two columns would be leakage" in text
    assert str(tmp_path) not in text
    monkeypatch.setattr(systems_page.by_name, "train", None)  # what is there is not trained again
    assert main(words) == 0
    assert page.read_text() == text


def test_a_figure_is_of_the_runs_that_it_names(made: Made, few: None, tmp_path: Path) -> None:
    desk = systems_page.Desk(made.data, made.encoders, tmp_path, (0, 1))
    variant = systems_page.SYSTEMS[1]
    pairs = conditions.label_pairs(made.data, 20)
    found = desk.measure(variant, pairs)
    for seed, figures in zip((0, 1), found, strict=True):
        trained = desk.train(variant, seed)
        assert trained.seed == seed
        inputs = Encoded(pairs, trained.encoders).inputs("occluded", "absent")
        with torch.no_grad():
            answers = trained.fusion(*inputs)[0].argmax(1)
        assert figures["occluded", "absent"]["wa"] == pytest.approx(
            (answers == pairs.labels).float().mean().item()
        )
    others = tmp_path / "others"
    for name in ("face", "voice"):
        state = torch.load(made.encoders / name / "state.pt", weights_only=True)
        first = next(iter(state["averaged"].values()))
        first += 1.0
        (others / name).mkdir(parents=True)
        torch.save(state, others / name / "state.pt")
    with pytest.raises(InputError, match="begun over other encoders"):
        systems_page.Desk(made.data, others, tmp_path, (0, 1)).train(variant, 0)
    table = systems_page._table((variant,), {variant.name: found}, [("whole", "whole")])
    ua = [figures["whole", "whole"]["ua"] for figures in found]
    assert table.endswith(f"/ {np.mean(ua):.3f} ± {np.std(ua, ddof=1):.3f} |")


def test_differences_are_paired_by_seed_and_by_system() -> None:
    variants = (Variant("a", "jca"), Variant("b", "jca", ("joint=false",)), Variant("c", "fdan"))
    conditions = [("whole", "whole"), ("whole", "absent")]
    uas = {
        "jca": ((0.5, 0.3), (0.7, 0.5)),
        "jca-joint=false": ((0.6, 0.4), (0.9, 0.5)),
        "fdan": ((0, 0), (0, 0)),
    }
    measured = {
        name: [{c: {"wa": 0.0, "ua": ua} for c, ua in zip(conditions, seed, strict=True)} for seed in seeds]
        for name, seeds in uas.items()
    }
    said = systems_page._differences(variants, measured, conditions)
    assert said.endswith("2 conditions, paired by seed: b less a: +0.100 ± 0.000.")
