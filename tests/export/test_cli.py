from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from edgeemo_export import manifests, results, spread
from edgeemo_export.cli import main
from edgeemo_export.data.transfer import TARGETS
from edgeemo_export.recipes import by_name, face, voice


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--data", "nowhere", "--run", "run"],
        ["manifests", "--data", "nowhere", "--out", "out"],
    ],
)
def test_a_missing_corpus_ends_with_status_2_and_its_name(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("edgeemo-export: ") and "nowhere" in message


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["train", "--data", "data", "--system"], by_name.DEFAULTS),
        (["transfer", "--data", "data", "--runs", "runs", "--page", "page", "--targets"], TARGETS),
    ],
    ids=["systems", "targets"],
)
def test_names_to_choose_from_are_those_that_there_are(
    words: list[str], names: Iterable[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*words, "none"])
    _, _, choices = capsys.readouterr().err.partition("choose from ")
    assert sorted(re.findall(r"[\w-]+", choices)) == sorted(names)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_manifests_are_those_of_the_protocol(data: Path, tmp_path: Path) -> None:
    assert main(["manifests", "--data", str(data), "--out", str(tmp_path)]) == 0
    found = {name: rows(tmp_path / f"{name}.csv") for name in results.SETS}
    counts = {
        "ferplus": 2857,
        "ravdess": 240,
        "emodb": 134,
        "nemo": 296,
        "pairs": manifests.PAIRS,
        "clips": 26,
    }
    assert {name: len(table) for name, table in found.items()} == counts
    for name, table in found.items():
        speakers = {row["speaker"] for row in table if row.get("speaker")}
        assert ("ravdess-01" in speakers) == (name == "clips")
        for row in table[:: max(1, len(table) // 20)]:
            assert all(Path(row[column]).exists() for column in ("face", "voice") if row.get(column))


def test_pairs_share_the_label_and_use_every_voice_about_equally(data: Path, tmp_path: Path) -> None:
    paths = manifests.write_all(data, tmp_path)
    label_of = {row["face"]: row["label"] for row in rows(paths["ferplus"])}
    label_of |= {row["voice"]: row["label"] for name in ("ravdess", "emodb") for row in rows(paths[name])}
    pairs = rows(paths["pairs"])
    assert all(label_of[row["face"]] == label_of[row["voice"]] == row["label"] for row in pairs)
    uses = Counter(row["voice"] for row in pairs)
    assert len(uses) == 240 + 134 and max(uses.values()) - min(uses.values()) <= 1


@pytest.mark.parametrize("text", ["", results.BEGIN, f"{results.BEGIN}{results.END}{results.BEGIN}"])
def test_a_document_without_a_place_for_the_figures_is_refused_before_anything_is_measured(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "README.md"
    document.write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["results", "--data", "nowhere", "--bundle", "nowhere", "--documents", str(document)])
    assert ended.value.code == 2
    assert "README.md: it should have the lines" in capsys.readouterr().err


def test_spread_over_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page holds mean and standard deviation of what the recipes' own scores say of each run."""
    for place, run in enumerate(("a", "b")):
        for part, model in (("face", face.FaceModel()), ("voice", voice.VoiceModel())):
            with torch.no_grad():
                model.head.bias.fill_(float(place))
            (tmp_path / run / part).mkdir(parents=True)
            torch.save({"averaged": model.state_dict()}, tmp_path / run / part / "state.pt")

    def by_bias(model: torch.nn.Module, *given: object) -> dict[str, float]:
        return {f"ua {type(model).__name__}": 0.5 + 0.2 * float(model.head.bias[0].detach())}

    class Corpus:
        shares = torch.full((2, 7), 1 / 7).numpy()

    monkeypatch.setattr(face, "score", by_bias)
    monkeypatch.setattr(voice, "score", by_bias)
    monkeypatch.setattr(spread.ferplus, "read", lambda folder, split: Corpus)
    monkeypatch.setattr(spread.voices, "read", lambda folder, split: [])
    words = ["seeds", "--data", str(tmp_path), "--page", str(tmp_path / "page.md"), "--runs"]
    assert main([*words, str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    page = (tmp_path / "page.md").read_text()
    assert "| FER+ ua FaceModel | 0.500 | 0.700 | 0.600 | 0.141 |" in page
    assert "| ua VoiceModel | 0.500 | 0.700 | 0.600 | 0.141 |" in page


@pytest.mark.parametrize("runs", [["one"], ["one", "two"]])
def test_spread_needs_two_finished_runs(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["seeds", "--data", str(tmp_path), "--page", str(tmp_path / "page.md"), "--runs", *runs])
    assert ended.value.code == 2
    assert "give two or more runs" in capsys.readouterr().err
