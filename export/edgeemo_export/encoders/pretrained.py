"""Large encoders that others trained, as graphs of this project: WavLM, wav2vec 2.0, CLIP and BERT.

They come through `transformers`, which is imported when one is asked for, from a name on the Hugging Face hub
or from a local folder. Weights are read as safetensors, or as torch files of tensors alone; a pickle of
anything else is refused, and no code of a repository is run. No weights are part of this project.

Each encoder ends in the tokens of a bundle and holds its own preprocessing: a voice graph takes the PCM of
the window and gives one token a slot, a face graph takes uint8 crops, a text graph takes word pieces and
masks the padding.

What is known of them here: of small random configurations, the graphs equal the modules to 1e-4 and the
linter for TensorRT finds nothing. No figure of a large one was measured in this project. CLIP's projected
embedding is what Foal-Net's code reads, 768 wide [CODE]; its crops (whole frames there) and the averaging of
speech frames into slots are this project's own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo.errors import InputError

MASKED = 1e4  # taken from a score it vanishes in the softmax, and it still fits FP16
SPEECH = {"wavlm": "WavLMModel", "wav2vec2": "Wav2Vec2Model"}
PICTURES = {"clip": "CLIPVisionModelWithProjection", "clip_vision_model": "CLIPVisionModelWithProjection"}
TEXT = {"bert": "BertModel"}

Source = str | Path
"""A name on the Hugging Face hub, or a local folder that `save_pretrained` wrote."""


class SpeechEncoder(nn.Module):
    """WavLM or wav2vec 2.0 over the whole window: the last layer's frames, averaged into slots.

    A frame (of 20 ms, in the published models) belongs to the slot in which its middle lies. The convolutions
    are frozen, as in Foal-Net's code; what is behind them can be fine-tuned.

    Args:
        trunk: a model of `transformers` that maps ``[1, samples]`` to ``last_hidden_state``.
        context: samples of the window at 16 kHz.
        slots: tokens of the window, a divisor of ``context``.
        normalise: whether the window is brought to zero mean and unit variance, as its feature extractor
            does with ``do_normalize``. Where a stream has just begun, that counts the silence before it.

    Raises:
        InputError: a slot would hold no frame.
    """

    share: Tensor
    buckets: Tensor

    def __init__(self, trunk: Any, context: int, slots: int, normalise: bool) -> None:
        super().__init__()
        self.trunk, self.normalise = trunk, normalise
        self.width, self.context = int(trunk.config.hidden_size), context
        trunk.freeze_feature_encoder()
        shares = slot_shares(context, slots, trunk.config.conv_kernel, trunk.config.conv_stride)
        self.register_buffer("share", shares, persistent=False)
        if trunk.config.model_type == "wavlm":
            self._hold_positions(shares.shape[1])

    def _hold_positions(self, frames: int) -> None:
        """Look WavLM's buckets of relative positions up once: in a graph they would be integer arithmetic."""
        attention = self.trunk.encoder.layers[0].attention
        places = torch.arange(frames)
        buckets = attention._relative_positions_bucket(places[None, :] - places[:, None])
        self.register_buffer("buckets", buckets, persistent=False)
        attention.compute_bias = self._position_bias  # bound, so that a copy of the encoder asks its own

    def _position_bias(self, queries: int, keys: int) -> Tensor:
        embedding: nn.Module = self.trunk.encoder.layers[0].attention.rel_attn_embed
        bias: Tensor = embedding(self.buckets)
        return bias.permute(2, 0, 1)

    def forward(self, voice: Tensor) -> Tensor:
        """Map PCM ``[1, context]`` in [-1, 1] to tokens ``[slots, D]``."""
        if self.normalise:
            voice = voice - voice.mean(dim=1, keepdim=True)
            voice = voice / (voice.square().mean(dim=1, keepdim=True) + 1e-7).sqrt()
        frames = self.trunk(voice).last_hidden_state[0]
        return self.share @ frames


def slot_shares(context: int, slots: int, kernels: Sequence[int], strides: Sequence[int]) -> Tensor:
    """What each frame of a stack of convolutions counts in the mean of each slot, ``[slots, frames]``.

    Args:
        context: samples that the stack reads, without padding.
        slots: equal parts of them.
        kernels: of the convolutions, in samples of each one's input.
        strides: of the convolutions.

    Raises:
        InputError: the slots do not divide the samples, or one holds no frame's middle.

    Example:
        >>> slot_shares(16, 2, kernels=[4], strides=[4])
        tensor([[0.5000, 0.5000, 0.0000, 0.0000],
                [0.0000, 0.0000, 0.5000, 0.5000]])
    """
    if context % slots:
        raise InputError(f"voice: {context} samples do not divide into {slots} slots")
    stride, field = 1, 1
    for kernel, step in zip(kernels, strides, strict=True):
        field += (kernel - 1) * stride
        stride *= step
    frames = max(0, (context - field) // stride + 1)
    middles = torch.arange(frames) * stride + field // 2
    belongs = (middles[None, :] // (context // slots) == torch.arange(slots)[:, None]).float()
    counts = belongs.sum(dim=1, keepdim=True)
    if not counts.all():
        raise InputError(
            f"voice: {context} samples in {slots} slots leave one without a frame; frames of {field} samples "
            f"begin {stride} apart, so fewer slots are right"
        )
    return belongs / counts


class PictureEncoder(nn.Module):
    """CLIP's picture tower: one projected embedding a crop.

    Args:
        trunk: a ``CLIPVisionModelWithProjection``.
        mean: of the channels red, green and blue, of pixels in [0, 1].
        deviation: of the same.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, trunk: Any, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.trunk = trunk
        self.width, self.size = int(trunk.config.projection_dim), int(trunk.config.image_size)
        trunk.vision_model.embeddings = _PictureEmbeddings(trunk.vision_model.embeddings)
        self.register_buffer("mean", torch.tensor(tuple(mean))[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(tuple(deviation))[:, None, None], persistent=False)

    def forward(self, face: Tensor) -> Tensor:
        """Map crops ``[N, size, size, C]`` (uint8, C is 1 for grey or 3 for BGR) to tokens ``[N, D]``."""
        pixels = face.float().permute(0, 3, 1, 2) / 255.0
        if face.shape[3] == 3:
            pixels = torch.cat([pixels[:, 2:3], pixels[:, 1:2], pixels[:, 0:1]], dim=1)
        embeddings: Tensor = self.trunk((pixels - self.mean) / self.deviation).image_embeds
        return embeddings


class _PictureEmbeddings(nn.Module):
    """CLIP's embeddings without a repetition of the class token by the number of pictures.

    That number is known when the graph runs, and a repetition by it is shape arithmetic: here the class token
    is the first row of a table that is added to the patches behind a row of zeros.
    """

    def __init__(self, parts: Any) -> None:
        super().__init__()
        self.class_embedding = parts.class_embedding
        self.patch_embedding, self.position_embedding = parts.patch_embedding, parts.position_embedding

    def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        positions: Tensor = self.position_embedding.weight
        table = positions + F.pad(self.class_embedding[None], (0, 0, 0, len(positions) - 1))
        return F.pad(patches, (0, 0, 1, 0)) + table


class TextEncoder(nn.Module):
    """BERT: one token a word piece, of which padding is not attended to.

    Args:
        trunk: a ``BertModel``.
        length: word pieces of one call.

    Raises:
        InputError: the model has fewer positions.
    """

    positions: Tensor
    kinds: Tensor

    def __init__(self, trunk: Any, length: int) -> None:
        super().__init__()
        most = int(trunk.config.max_position_embeddings)
        if not 0 < length <= most:
            raise InputError(f"text: a length of {length} word pieces; 1 to {most} is right for this model")
        self.trunk, self.pad = trunk, int(trunk.config.pad_token_id or 0)
        self.width, self.length = int(trunk.config.hidden_size), length
        self.register_buffer("positions", torch.arange(length)[None], persistent=False)
        self.register_buffer("kinds", torch.zeros(1, length, dtype=torch.long), persistent=False)

    def forward(self, text: Tensor) -> Tensor:
        """Map word pieces ``[1, length]`` (int32) to tokens ``[length, D]``."""
        mask = (text.float() - self.pad).abs().clamp(max=1.0)
        tokens: Tensor = self.trunk(
            input_ids=text,
            attention_mask=(mask[:, None, None, :] - 1.0) * MASKED,
            token_type_ids=self.kinds,
            position_ids=self.positions,
        ).last_hidden_state
        return tokens[0]


def speech(
    source: Source, *, context: int = 64000, slots: int = 40, normalise: bool | None = None
) -> SpeechEncoder:
    """WavLM or wav2vec 2.0.

    Args:
        source: where the weights are.
        context: see [SpeechEncoder][].
        slots: see [SpeechEncoder][].
        normalise: None for what the source's own preprocessing says.

    Raises:
        InputError: `transformers` is missing, or the source is not what it must be.
    """
    transformers = _transformers()
    if normalise is None:
        said = _preprocessing(source)
        normalise = bool(said.get("do_normalize", True))
    # Masks and skipped layers are of the pretraining; without them no weight is there that only they use.
    options = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "layerdrop": 0.0}
    return SpeechEncoder(_model(transformers, source, SPEECH, options), context, slots, normalise)


def pictures(source: Source) -> PictureEncoder:
    """CLIP's picture tower, of a whole CLIP or of the tower alone.

    Raises:
        InputError: `transformers` is missing, or the source is not what it must be.
    """
    transformers = _transformers()
    said = _preprocessing(source)
    if not {"image_mean", "image_std"} <= said.keys():
        raise InputError(f"{source}: its preprocessing does not say image_mean and image_std")
    return PictureEncoder(_model(transformers, source, PICTURES, {}), said["image_mean"], said["image_std"])


def text(source: Source, *, length: int = 40) -> TextEncoder:
    """BERT.

    Args:
        source: where the weights are.
        length: see [TextEncoder][].

    Raises:
        InputError: `transformers` is missing, or the source is not what it must be.
    """
    return TextEncoder(_model(_transformers(), source, TEXT, {"add_pooling_layer": False}), length)


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            "pretrained encoders need the package transformers: pip install 'edgeemo[pretrained]'"
        ) from error
    return transformers


def _preprocessing(source: Source) -> dict[str, Any]:
    """What a source says of its preprocessing, as a file: the classes for it ask for more packages."""
    from transformers.utils.hub import cached_file

    try:
        path = cached_file(str(source), "preprocessor_config.json")
        said: dict[str, Any] = json.loads(Path(str(path)).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: its preprocessor_config.json cannot be read: {error}") from error
    return said


def _model(
    transformers: ModuleType, source: Source, kinds: dict[str, str], options: dict[str, Any]
) -> nn.Module:
    """A model with all its weights, of one of these kinds."""
    try:
        kind = transformers.AutoConfig.from_pretrained(str(source)).model_type
        if kind not in kinds:
            raise InputError(f"{source}: holds a {kind!r} model; {' or '.join(map(repr, kinds))} is right")
        model, report = getattr(transformers, kinds[kind]).from_pretrained(
            str(source),
            attn_implementation="eager",  # plain products, which every exporter knows
            dtype=torch.float32,
            weights_only=True,
            output_loading_info=True,
            **options,
        )
    except InputError:
        raise
    except Exception as error:  # those of files, of the hub, of safetensors and of pickles share no root
        raise InputError(f"{source}: no model can be read: {error}") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise InputError(f"{source}: {len(missing)} weights are missing, such as {missing[0]!r}")
    fitted: nn.Module = model.eval()
    return fitted
