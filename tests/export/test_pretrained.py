from __future__ import annotations

import copy
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeemo.errors import InputError
from edgeemo_calibration.lint import lint
from edgeemo_export import to_onnx
from edgeemo_export.encoders import pretrained
from edgeemo_export.encoders.pretrained import PictureEncoder, SpeechEncoder, TextEncoder, slot_shares

WIDTH, SLOTS, CONTEXT, SIDE, PROJECTED, LENGTH, WORDS = 16, 40, 64000, 24, 10, 12, 30
SMALL = {"hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
PICTURE = {**SMALL, "image_size": SIDE, "patch_size": 8, "projection_dim": PROJECTED}
MEAN, DEVIATION = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
# Kernels and strides stay the published ones, so that frames lie 20 ms apart.
SPEECH = {
    **SMALL,
    "num_hidden_layers": 2,  # WavLM's second layer asks for the first one's positions
    "conv_dim": [4] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
Folder = Callable[[str], Path]


def build(kind: str) -> Any:
    """A random small model of `transformers`, as it would be trained."""
    torch.manual_seed(0)
    if kind == "clip":
        words = {**SMALL, "vocab_size": 20, "bos_token_id": 1, "eos_token_id": 2}
        config = transformers.CLIPConfig(vision_config=PICTURE, text_config=words, projection_dim=PROJECTED)
        return transformers.CLIPModel(config)
    if kind == "clip tower":
        return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**PICTURE))
    if kind == "bert":
        config = transformers.BertConfig(**SMALL, vocab_size=WORDS, max_position_embeddings=LENGTH)
        return transformers.BertModel(config)
    if kind == "wavlm":
        return transformers.WavLMModel(transformers.WavLMConfig(**SPEECH))
    # The large ones have layer norms in their convolutions and before the attention.
    config = transformers.Wav2Vec2Config(**SPEECH, feat_extract_norm="layer", do_stable_layer_norm=True)
    return transformers.Wav2Vec2Model(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Gives a model's folder as its publisher would have written it."""
    root = tmp_path_factory.mktemp("models")

    def folder(kind: str) -> Path:
        path = root / kind
        if not path.exists():
            build(kind).save_pretrained(path)
            said = {"do_normalize": True, "image_mean": MEAN, "image_std": DEVIATION}
            if kind != "bert":
                (path / "preprocessor_config.json").write_text(json.dumps(said))
        return path

    return folder


def sound(samples: int = CONTEXT, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return 0.02 + 0.1 * torch.randn(1, samples, generator=random)


def crops(rows: int, channels: int) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (rows, SIDE, SIDE, channels), generator=random, dtype=torch.uint8)


def sentence(*pieces: int, length: int = LENGTH) -> Tensor:
    return torch.tensor([[2, *pieces, 3] + [0] * (length - 2 - len(pieces))], dtype=torch.int32)


@torch.no_grad()
def run(module: nn.Module, *given: Tensor) -> Tensor:
    tokens: Tensor = module(*given)
    return tokens


def answer(path: Path, **feeds: Tensor) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (tokens,) = session.run(None, {name: value.numpy() for name, value in feeds.items()})
    return np.asarray(tokens)


# Speech


@pytest.mark.parametrize("kind", ["wavlm", "wav2vec2"])
def test_a_voice_graph(folder: Folder, kind: str, tmp_path: Path) -> None:
    encoder = pretrained.speech(folder(kind))
    assert (encoder.width, encoder.context) == (WIDTH, CONTEXT)
    to_onnx.write(encoder, {"voice": sound()}, ["tokens"], tmp_path / "voice.onnx")
    other = sound(seed=7)
    found = answer(tmp_path / "voice.onnx", voice=other)
    assert found.shape == (SLOTS, WIDTH)
    np.testing.assert_allclose(found, run(encoder, other).numpy(), atol=1e-4)
    assert lint(onnx.load(tmp_path / "voice.onnx")) == []


@pytest.mark.parametrize("kind", ["wavlm", "wav2vec2"])
@pytest.mark.parametrize("normalise", [None, True, False])
def test_tokens_are_means_of_the_published_frames(folder: Folder, kind: str, normalise: bool | None) -> None:
    encoder = pretrained.speech(folder(kind), context=6400, slots=4, normalise=normalise)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=normalise is not False)
    voice = sound(6400)
    given = extractor(voice[0].numpy(), sampling_rate=16000, return_tensors="pt").input_values
    frames = run_frames(transformers.AutoModel.from_pretrained(folder(kind)), given)
    # 19 frames of 400 samples every 320, whose middles are 200, 520, ...; a slot has 1600 samples.
    assert len(frames) == 19
    expected = [frames[first:last].mean(0) for first, last in ((0, 5), (5, 10), (10, 15), (15, 19))]
    torch.testing.assert_close(run(encoder, voice), torch.stack(expected), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def run_frames(model: Any, given: Tensor) -> Tensor:
    frames: Tensor = model.eval()(given).last_hidden_state[0]
    return frames


def test_loudness_and_offset_are_normalised_away(folder: Folder) -> None:
    voice = sound(6400)
    for normalise, same in ((True, True), (False, False)):
        encoder = pretrained.speech(folder("wav2vec2"), context=6400, slots=4, normalise=normalise)
        found, louder = run(encoder, voice), run(encoder, 3.0 * voice + 0.1)
        assert torch.allclose(found, louder, atol=1e-3) == same
        assert run(encoder, torch.zeros(1, 6400)).isfinite().all()


def test_a_copy_of_wavlm_asks_its_own_weights(folder: Folder) -> None:
    encoder = pretrained.speech(folder("wavlm"), context=6400, slots=4)
    before = run(encoder, sound(6400))
    other = copy.deepcopy(encoder)
    with torch.no_grad():
        other.trunk.encoder.layers[0].attention.rel_attn_embed.weight.normal_(0.0, 3.0)
    assert not torch.allclose(run(other, sound(6400)), before, atol=1e-3)
    torch.testing.assert_close(run(encoder, sound(6400)), before)


@pytest.mark.parametrize("kind", ["wavlm", "wav2vec2"])
def test_fine_tuning_reaches_all_but_the_convolutions(folder: Folder, kind: str) -> None:
    encoder = pretrained.speech(folder(kind), context=6400, slots=4).train()
    encoder(sound(6400)).square().sum().backward()
    for name, value in encoder.named_parameters():
        frozen = name.startswith("trunk.feature_extractor")
        assert value.requires_grad != frozen, name
        assert (value.grad is None) == frozen, name


@pytest.mark.parametrize("slots", [1, 2, 4, 8, 10])
def test_every_frame_counts_once(slots: int) -> None:
    shares = slot_shares(6400, slots, [10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2])
    assert shares.shape == (slots, 19)
    torch.testing.assert_close(shares.sum(1), torch.ones(slots))
    assert ((shares > 0).sum(0) == 1).all()
    assert (shares.argmax(0).diff() >= 0).all()


# Pictures


@pytest.mark.parametrize("channels", [1, 3])
def test_a_face_graph(folder: Folder, channels: int, tmp_path: Path) -> None:
    encoder = pretrained.pictures(folder("clip"))
    assert (encoder.width, encoder.size) == (PROJECTED, SIDE)
    given = {"face": crops(3, channels)}
    to_onnx.write(encoder, given, ["tokens"], tmp_path / "face.onnx", batched=("face",))
    for rows in (1, 5):
        found = answer(tmp_path / "face.onnx", face=crops(rows, channels))
        assert found.shape == (rows, PROJECTED)
        np.testing.assert_allclose(found, run(encoder, crops(rows, channels)).numpy(), atol=1e-4)
    assert lint(onnx.load(tmp_path / "face.onnx")) == []


@pytest.mark.parametrize("kind", ["clip", "clip tower"])
@torch.no_grad()
def test_tokens_are_the_projected_embeddings(folder: Folder, kind: str) -> None:
    tower = transformers.CLIPVisionModelWithProjection.from_pretrained(folder(kind)).eval()
    for channels in (1, 3):
        face = crops(2, channels)
        red_first = face.flip(3) if channels == 3 else face.expand(-1, -1, -1, 3)
        pixels = (red_first / 255.0 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
        expected = tower(pixels.permute(0, 3, 1, 2)).image_embeds
        torch.testing.assert_close(
            run(pretrained.pictures(folder(kind)), face), expected, atol=1e-5, rtol=1e-4
        )


def test_all_of_the_tower_is_trained(folder: Folder) -> None:
    encoder = pretrained.pictures(folder("clip")).train()
    encoder(crops(2, 3)).square().sum().backward()
    assert all(value.grad is not None for value in encoder.parameters())


# Text


def test_a_text_graph(folder: Folder, tmp_path: Path) -> None:
    encoder = pretrained.text(folder("bert"), length=LENGTH)
    assert (encoder.width, encoder.length) == (WIDTH, LENGTH)
    to_onnx.write(encoder, {"text": sentence(5, 6, 7)}, ["tokens"], tmp_path / "text.onnx")
    other = sentence(9, 8, 29, 11)
    found = answer(tmp_path / "text.onnx", text=other)
    assert found.shape == (LENGTH, WIDTH)
    np.testing.assert_allclose(found, run(encoder, other).numpy(), atol=1e-4)
    assert lint(onnx.load(tmp_path / "text.onnx")) == []


@torch.no_grad()
def test_tokens_are_those_of_bert(folder: Folder) -> None:
    bert = transformers.BertModel.from_pretrained(folder("bert")).eval()
    given = sentence(5, 6, 7)
    expected = bert(given.long(), attention_mask=(given != 0).long()).last_hidden_state[0]
    found = run(pretrained.text(folder("bert"), length=LENGTH), given)
    torch.testing.assert_close(found[:5], expected[:5], atol=1e-5, rtol=1e-4)


def test_padding_changes_no_token(folder: Folder) -> None:
    short = run(pretrained.text(folder("bert"), length=6), sentence(5, 6, 7, length=6))
    long = run(pretrained.text(folder("bert"), length=LENGTH), sentence(5, 6, 7))
    torch.testing.assert_close(long[:5], short[:5])
    more = run(pretrained.text(folder("bert"), length=LENGTH), sentence(5, 6, 7, 8))
    assert not torch.allclose(more[:4], long[:4], atol=1e-4)


# Sources


def test_weights_of_a_torch_file(folder: Folder, tmp_path: Path) -> None:
    path = altered(folder("bert"), tmp_path)
    weights = _weights(path)
    (path / "model.safetensors").unlink()
    torch.save(weights, path / "pytorch_model.bin")
    found = run(pretrained.text(path, length=LENGTH), sentence(5))
    torch.testing.assert_close(found, run(pretrained.text(folder("bert"), length=LENGTH), sentence(5)))


class Burglar:
    """What a pickle can do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_not_run(folder: Folder, tmp_path: Path) -> None:
    path, trace = altered(folder("bert"), tmp_path), tmp_path / "entered"
    (path / "model.safetensors").unlink()
    torch.save({"embeddings.word_embeddings.weight": Burglar(trace)}, path / "pytorch_model.bin")
    with pytest.raises(InputError, match="no model can be read"):
        pretrained.text(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Burglar(trace)))
    assert trace.exists()


def altered(source: Path, target: Path) -> Path:
    """A copy of a model's folder, to be broken."""
    path = target / "model"
    path.mkdir()
    for file in source.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    return path


def _weights(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path / "model.safetensors")


def _lose_a_weight(path: Path) -> None:
    from safetensors.torch import save_file

    weights = _weights(path)
    del weights[next(name for name in weights if name.endswith("LayerNorm.weight"))]
    save_file(weights, path / "model.safetensors", {"format": "pt"})


def _cut_weights(path: Path) -> None:
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[: len(content) // 2])


def _forget_means(path: Path) -> None:
    (path / "preprocessor_config.json").write_text('{"size": 24}')


@pytest.mark.parametrize(
    ("kind", "spoil", "load", "message"),
    [
        ("bert", _lose_a_weight, pretrained.text, "1 weights are missing, such as 'e"),
        ("bert", _cut_weights, pretrained.text, "no model can be read"),
        ("wavlm", lambda path: (path / "preprocessor_config.json").unlink(), pretrained.speech,
         "its preprocessor_config.json cannot be read"),
        ("clip", lambda path: (path / "preprocessor_config.json").write_text("{"), pretrained.pictures,
         "its preprocessor_config.json cannot be read"),
        ("clip", _forget_means, pretrained.pictures, "does not say image_mean and image_std"),
        ("bert", lambda path: (path / "config.json").unlink(), pretrained.text, "no model can be read"),
    ],
    ids=["weight", "cut", "no preprocessing", "broken preprocessing", "no means", "no config"],
)  # fmt: skip
def test_a_broken_folder_is_refused(
    folder: Folder,
    tmp_path: Path,
    kind: str,
    spoil: Callable[[Path], object],
    load: Callable[[Path], nn.Module],
    message: str,
) -> None:
    path = altered(folder(kind), tmp_path)
    spoil(path)
    with pytest.raises(InputError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "load", "message"),
    [
        ("bert", lambda path: pretrained.speech(path, normalise=True), "'bert' model; 'wavlm' or 'wav2vec2'"),
        ("wavlm", pretrained.pictures, "holds a 'wavlm' model; 'clip' or 'clip_vision_model' is right"),
        ("wavlm", pretrained.text, "holds a 'wavlm' model; 'bert' is right"),
        (
            "bert",
            lambda path: pretrained.text(path, length=13),
            "a length of 13 word pieces; 1 to 12 is right",
        ),
        ("bert", lambda path: pretrained.text(path, length=0), "a length of 0 word pieces; 1 to 12 is right"),
        ("wavlm", lambda path: pretrained.speech(path, context=6400, slots=3), "do not divide into 3 slots"),
        ("wavlm", lambda path: pretrained.speech(path, context=6400, slots=40), "leave one without a frame"),
        ("wavlm", lambda path: pretrained.speech(path, context=320, slots=1), "leave one without a frame"),
    ],
)
def test_what_does_not_fit_is_refused(
    folder: Folder, kind: str, load: Callable[[Path], nn.Module], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load(folder(kind))


@pytest.mark.parametrize("load", [pretrained.speech, pretrained.pictures, pretrained.text])
def test_without_transformers_it_says_what_to_install(
    load: Callable[[str], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        InputError, match=r"need the package transformers: pip install 'edgeemo\[pretrained\]'"
    ):
        load("some/model")


def test_the_kinds_of_encoder(folder: Folder) -> None:
    assert isinstance(pretrained.speech(folder("wavlm")), SpeechEncoder)
    assert isinstance(pretrained.pictures(folder("clip")), PictureEncoder)
    assert isinstance(pretrained.text(folder("bert"), length=LENGTH), TextEncoder)
