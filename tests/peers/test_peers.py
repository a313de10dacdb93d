from __future__ import annotations

import doctest
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeemo.errors import InputError
from tests.peers import build, contenders, measure, page
from tests.peers.build import Facts
from tests.peers.catalogue import PEERS
from tests.peers.contenders import ALL, DETECTION, LIVE, Contender, Player, contender, scene
from tests.peers.measure import Growth, Times

NO_TORCH = "the networks of others are built with torch"
CLIP = Path(__file__).parents[2] / "edgeemo" / "demo" / "clip.mp4"


@pytest.fixture(scope="module")
def networks() -> Any:
    pytest.importorskip("torch", reason=NO_TORCH)
    from tests.peers import networks

    return networks


# --- the networks


def test_parameters_are_the_published_ones(networks: Any) -> None:
    count, kept = networks.parameters, networks.statistics
    assert count(networks.efficientnet_b0(1000)) == 5_288_548  # as in torchvision
    assert count(networks.efficientnet_b0(8)) == 5_288_548 - 1281 * (1000 - 8)
    assert count(networks.mobilefacenet(embedding=128, classes=0)) == pytest.approx(0.99e6, rel=0.02)
    # OpenCV Zoo's file, 4,791,892 bytes of FP32.
    assert 4 * count(networks.mobilefacenet()) == pytest.approx(4_791_892, rel=0.01)
    small = networks.mini_xception()
    assert count(small) + kept(small) == 58_423  # as Keras counts, which the authors round to 60,000
    assert count(networks.wav2small_like()) == pytest.approx(72_000, rel=0.03)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("efficientnet-b0", (2, 8)),
        ("mobilefacenet", (2, 7)),
        ("mini-xception", (2, 7)),
        ("wav2small-like", (2, 3)),
    ],
)
def test_answers_depend_on_what_is_read(networks: Any, name: str, shape: tuple[int, ...]) -> None:
    import torch

    with torch.no_grad():
        answers = networks.network(name)(torch.randn(2, *PEERS[name].shape[1:])).numpy()
    assert answers.shape == shape
    assert np.isfinite(answers).all()
    assert np.abs(answers[0] - answers[1]).max() > 1e-3 * np.abs(answers).max()


def test_batch_norms_leave_numbers_of_a_common_size(networks: Any) -> None:
    import torch
    from torch import nn

    network, sizes = networks.network("efficientnet-b0"), []

    def note(_: nn.Module, __: object, out: torch.Tensor) -> None:
        sizes.append(float(out.std()))

    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.register_forward_hook(note)
    with torch.no_grad():
        network(torch.randn(2, 3, 224, 224))
    assert len(sizes) == 49
    assert min(sizes) > 0.3 and max(sizes) < 3  # denormals would cost time, infinities none


@pytest.mark.slow
def test_a_small_wav2vec2_is_one_graph_for_every_window(networks: Any, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="wav2vec 2.0 comes from transformers")
    import torch

    from edgeemo.inference.ort import import_onnxruntime

    module = networks.wav2vec2(num_hidden_layers=1, hidden_size=96, intermediate_size=64).eval()
    build.export(module, (1, 32000), tmp_path / "small.onnx", any_length=True)
    session = import_onnxruntime().InferenceSession(tmp_path / "small.onnx")
    for samples in (16000, 48000):
        voice = torch.randn(1, samples)
        with torch.no_grad():
            expected = module(voice).numpy()
        np.testing.assert_allclose(session.run(None, {"input": voice.numpy()})[0], expected, atol=1e-4)


@pytest.mark.slow
def test_wav2vec2_base_has_its_95_million_parameters(networks: Any) -> None:
    pytest.importorskip("transformers", reason="wav2vec 2.0 comes from transformers")
    module = networks.wav2vec2()
    # 94,371,712 as published, of which 768 are the embedding of masks, which only training reads.
    assert networks.parameters(module.trunk) == 94_371_712 - 768


# --- the files


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason=NO_TORCH)
    folder = tmp_path_factory.mktemp("peers")
    build.build(folder, ["mini-xception"])
    return folder


def test_files_are_counted_and_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = build.facts(cache, "mini-xception")
    assert facts.parameters == 56_951
    assert facts.bytes == (cache / "mini-xception.onnx").stat().st_size
    # The convolutions by hand: the stem, four blocks on 60, 30, 15 and 8 pixels, the last one on 4.
    stem = 9 * 8 * 62**2 + 9 * 8 * 8 * 60**2
    blocks = sum(
        (side * side) * (9 * i + i * o + 9 * o + o * o) + ((side + 1) // 2) ** 2 * i * o
        for side, i, o in ((60, 8, 16), (30, 16, 32), (15, 32, 64), (8, 64, 128))
    )
    assert facts.work(None) == stem + blocks + 9 * 128 * 7 * 4**2

    monkeypatch.setattr(build, "export", None)  # a second time would fail
    build.build(cache, ["mini-xception"])


def test_another_version_is_built_anew(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = (cache / "mini-xception.onnx").read_bytes()
    monkeypatch.setattr(build, "export", lambda module, shape, path, any_length: path.write_bytes(graph))
    (tmp_path / "mini-xception.json").write_text(json.dumps({"version": "old"}))
    build.build(tmp_path, ["mini-xception"])
    assert build.facts(tmp_path, "mini-xception") == build.facts(cache, "mini-xception")


def test_a_graph_that_differs_is_refused(networks: Any, tmp_path: Path) -> None:
    import torch
    from torch import nn

    class Random(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.rand_like(x)

    with pytest.raises(build.BuildError, match="differs from its module"):
        build.export(Random(), (1, 4), tmp_path / "random.onnx")
    assert not (tmp_path / "random.onnx").exists()


def test_an_unknown_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        build.main([str(tmp_path), "resnet"])
    assert "resnet: it is none of efficientnet-b0" in capsys.readouterr().err


# --- updates


def test_contenders_run_on_the_clip(cache: Path, default_bundle: Path) -> None:
    given = scene(CLIP, longest=2.0)
    assert given.voice.shape == (160_000,)
    for name in ("edgeemo-int8", "mini-xception", DETECTION):
        one = contender(name, given, cache, 1)
        assert one.name == name and one.updates == 1
        assert one.run(one.prepare())


def test_a_live_step_is_a_hop_with_its_detections(default_bundle: Path) -> None:
    import edgeemo

    given = scene(CLIP, longest=2.0)
    player = Player(edgeemo.load(), given)
    assert [player.play(10), player.play(10), player.play(10)] == pytest.approx([10, 20, 30], abs=1)


def test_examples() -> None:
    assert doctest.testmod(contenders) == (0, 1)


def test_a_sound_alone_cannot_be_compared(tmp_path: Path) -> None:
    import wave

    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(32000))
    with pytest.raises(InputError, match="must show a face and have sound"):
        scene(tmp_path / "sound.wav")


# --- taking turns


class Clock:
    """Time that passes only where a contender spends it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


def test_each_update_is_split_and_the_first_is_told_apart() -> None:
    clock, processor, last = Clock(), Clock(), [""]

    def made(name: str, ready: float, rest: float, cold: float, updates: int = 1) -> Contender:
        def run(_: object) -> None:
            clock.spend(rest + (cold if last[0] != name else 0))
            processor.spend(rest / 2)
            last[0] = name

        return Contender(name, lambda: clock.spend(ready), run, updates)

    both = [made("small", 0.001, 0.002, 0.004), made("large", 0.010, 0.090, 0.0, updates=10)]
    times = measure.take_turns(both, 6, clock=clock, processor=processor)
    assert times.milliseconds.shape == (6, 2, 2, 3)
    assert times.median("small").value == pytest.approx(3)
    assert times.median("small", "ready").value == pytest.approx(1)
    assert times.median("small", "graphs").value == pytest.approx(2)
    assert times.median("small", "processor").value == pytest.approx(1)
    assert times.of("small", "first").max() == pytest.approx(7)
    assert times.median("large").value == pytest.approx(10)
    ratio = times.ratio(("large", "small"), "small")
    assert ratio.value == pytest.approx(13 / 3)
    assert (ratio.low, ratio.high) == pytest.approx((13 / 3, 13 / 3))


def test_intervals_hold_the_median_and_grow_with_the_noise() -> None:
    random = np.random.default_rng(1)
    widths = []
    for noise in (0.01, 0.2):
        taken = np.zeros((40, 2, 2, 3))
        taken[..., 1] = random.normal([[10.0], [1.0]], noise, (40, 2, 2))
        ratio = Times(("a", "b"), taken).ratio(("a",), "b")
        inverse = Times(("a", "b"), taken).ratio(("b",), "a")
        assert (inverse.low, inverse.high) == pytest.approx((1 / ratio.high, 1 / ratio.low), rel=0.02)
        assert ratio.low < ratio.value < ratio.high
        assert ratio.low < 10 < ratio.high
        widths.append(ratio.high - ratio.low)
    assert widths[1] > 5 * widths[0]


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(InputError, match="rounds is 5; it must be at least 6"):
        measure.take_turns([], 5)


# --- the page


def results() -> page.Results:
    names = dict.fromkeys(ALL, 1.0) | {"efficientnet-b0": 12.0, "wav2vec2": 444.0, LIVE: 4.0}
    taken = np.zeros((6, len(ALL), 2, 3))
    taken[..., 1] = np.array(list(names.values()))[None, :, None]
    taken[..., 2] = taken[..., 1] / 2
    facts = {name: Facts(1_234_567, 2_000_000, {"": 5_000_000, "3": 7_000_000}) for name in ALL}
    return page.Results(
        command="python -m tests.peers",
        source="clip.mp4",
        times=Times(tuple(names), taken),
        facts={name: one for name, one in facts.items() if name not in (LIVE, DETECTION)},
        memory={name: 12.5 for name in ALL if name != DETECTION},
        growth=Growth(
            {1.0: 150.0, 3.0: 450.0}, {("voice",): {1: 0.5, 10: 3.0}, ("face", "voice"): {10: 30.0}}
        ),
        speech_work={1.0: 7_000_000_000, 3.0: 21_200_000_000},
        machine={"processor": "one of some kind", "clock": None},
        versions={"numpy": "2.0"},
        warnings=["Another program ran."],
    )


def rows(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def test_tables_hold_the_figures_of_the_run() -> None:
    text = page.tables(results())
    found = {row[0]: row[1:] for row in rows(text)}
    assert found["EfficientNet-B0 + wav2vec 2.0 base"][0] == "456 (456 to 456) (wanted: 300)"
    assert found["EfficientNet-B0 + wav2vec 2.0 base"][5] == "114 (114 to 114)"
    assert found["detection + EfficientNet-B0 + wav2vec 2.0 base"] == ["", "", "", "", "", "114 (114 to 114)"]
    assert found["wav2vec 2.0 base, 3 s"][:2] == ["21.2 G", "450"]  # of the growth, which comes last
    assert found["wav2vec 2.0 base, 3 s"][5] == "9,000"
    off = "not on its grid"
    assert found["edgeemo, voice, stream"] == ["", "0.500", off, off, "3.00", off]
    assert "a window of 3 s of wav2vec 2.0 costs 1,500 times edgeemo's stream of a voice" in text
    assert "12 updates of each" in text
    assert "Disturbed: Another program ran." in text
    assert "clock" not in text.split("###")[0]
    widths = {len(row) for row in rows(text.split("###")[1])}
    assert widths == {11}


def test_the_page_is_rewritten_between_its_markers(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"# Title\n\n{page.BEGIN}\nold\n{page.END}\n\nrest\n")
    page.write(path, "new")
    page.write(path, "newer")
    assert path.read_text() == f"# Title\n\n{page.BEGIN}\n\nnewer\n\n{page.END}\n\nrest\n"


@pytest.mark.parametrize("text", ["no markers", page.BEGIN, f"{page.END}{page.BEGIN}"])
def test_a_page_without_markers_is_left_alone(text: str, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(text)
    with pytest.raises(InputError, match="no part between"):
        page.write(path, "new")
    assert path.read_text() == text


# --- the whole command


@pytest.mark.slow
def test_the_command_measures_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", reason="wav2vec 2.0 comes from transformers")
    pytest.importorskip("torch", reason=NO_TORCH)
    from tests.peers.__main__ import main

    path = tmp_path / "page.md"
    path.write_text(f"{page.BEGIN}\n{page.END}\n")
    assert main(["--rounds", "6", "--cache", str(tmp_path), "--page", str(path)]) == 0
    text = capsys.readouterr().out
    assert text.strip() in path.read_text()
    assert {row[0] for row in rows(text)} >= set(page.TITLES.values())
