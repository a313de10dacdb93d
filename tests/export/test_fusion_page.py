"""The page of the aligned and taught fusion: what it measures, and that it is written whole and resumed."""

from __future__ import annotations

import logging
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from edgeemo.errors import InputError
from edgeemo_export import conditions, fusion_page
from edgeemo_export.cli import main
from edgeemo_export.conditions import CONDITIONS, Encoded
from edgeemo_export.recipes import by_name
from tests.support import made_corpora
from tests.support.made_corpora import DEFAULTS, Made

TINY = [w for s in ("schedule.epochs=1", "steps=2", "batch=16", "lessons=2") for w in ("--set", s)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusion_page, "PAIRS", 20)
        yield made_corpora.make(tmp_path_factory.mktemp("corpora"), patch)


def test_figures_are_of_every_condition(made: Made) -> None:
    items = conditions.label_pairs(made.data, 14)
    flat = {"face": torch.nn.Flatten(), "voice": torch.nn.Flatten()}
    flat["voice"] = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.AdaptiveAvgPool1d(2304))
    encoded = Encoded(items, flat)
    right = torch.nn.functional.one_hot(items.labels, 7).float()

    def answer(inputs: tuple[Tensor, ...]) -> Tensor:
        """Right and half sure where there is a face, else always the first label."""
        seen = inputs[1].amax(1, keepdim=True)
        first = torch.zeros(7)
        first[0] = 1.0
        return (seen * right + (1 - seen) * first) * torch.log(torch.tensor(6.0))

    found = fusion_page.figures(answer, encoded)
    assert found.keys() == set(CONDITIONS)
    for (face, _), values in found.items():
        assert values["ua"] == pytest.approx(1.0 if face != "absent" else 1 / len(items.labels.unique()))
        share = 1.0 if face != "absent" else (items.labels == 0).float().mean().item()
        assert values["ece"] == pytest.approx(abs(share - 0.5), abs=1e-6)


def test_differences_are_paired_by_seed() -> None:
    def figures(ua: float) -> dict[tuple[str, str], dict[str, float]]:
        return {c: {"ua": ua + (c[0] == "absent") * 0.1, "ece": 0.1} for c in CONDITIONS}

    measured = {v.name: [figures(0.5), figures(0.7)] for v in fusion_page.VARIANTS}
    measured["lmmd"] = [figures(0.52), figures(0.74)]
    row = next(
        line for line in fusion_page._differences(measured).splitlines() if line.startswith("| UA, all (11)")
    )
    gain, spread = statistics.mean([0.02, 0.04]), statistics.stdev([0.02, 0.04])
    assert row.split(" | ")[1] == f"{gain:+.3f} ± {spread:.3f}"
    assert row.split(" | ")[2] == "+0.000 ± 0.000"
    sizes = [int(n) for n in re.findall(r"\| UA, [^(]*\((\d+)\)", fusion_page._differences(measured))]
    assert sizes == [1, 5, 5, 11]


def test_the_page_is_written_and_resumed(
    made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = (fusion_page.PLAIN, fusion_page.VARIANTS[1], fusion_page.VARIANTS[-1])
    monkeypatch.setattr(fusion_page, "VARIANTS", few)
    caplog.set_level(logging.INFO)
    by_name.train("jca", made.data, made.encoders, tmp_path / "jca", DEFAULTS["jca"])
    page = tmp_path / "page.md"
    words = ["fusion", "--data", str(made.data), "--run", str(made.encoders), "--page", str(page), *TINY]
    words += ["--teachers", str(tmp_path / "jca"), "--seeds", "0", "1", "--threads", "1"]
    assert main(words) == 0
    assert "6 fusions to train, about" in caplog.text
    text = page.read_text()
    assert "1 run of jca" in text and "nan" not in text
    assert len(re.findall(r"^\| (whole|blurred|occluded|absent) \|", text, re.M)) == 2 * len(CONDITIONS)
    assert "Audio-visual clips" not in text
    for variant in few:
        for seed in ("0", "1"):
            assert (made.encoders / "fusions" / variant.name / seed / "state.pt").exists()
    (made.encoders / "fusions" / "lmmd" / "1" / "state.pt").unlink()
    caplog.clear()
    assert main(words) == 0
    assert "1 fusion to train, about" in caplog.text
    told = re.compile(r"^\| [+\w, ]+ \| .* \| \d+ \|$", re.M)  # seconds differ
    assert told.sub("", page.read_text()) == told.sub("", text)
    with pytest.raises(SystemExit) as left:
        main([*words, "--set", "batch=8"])
    assert left.value.code == 2


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--seeds 3: give two or more"):
        fusion_page.write(tmp_path, tmp_path, [tmp_path], tmp_path / "page.md", [3])
