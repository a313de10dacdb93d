from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeemo_export.data.labels import LABELS, NORMS
from edgeemo_export.systems.attention import AttentionFusion, CrossAttention, FacePool

WIDTH, SLOTS, TRACKS, CLASSES = 16, 7, 4, len(LABELS)
TEMPERATURES = (1.5, 0.8, 1.25)
NAMES = ("logits", "valence_arousal", "face_logits", "voice_logits")
Inputs = dict[str, Tensor]


def new_fusion() -> AttentionFusion:
    return AttentionFusion(WIDTH, CLASSES, [NORMS[name] for name in LABELS], inner=8, heads=2)


@pytest.fixture
def fusion(enliven: Callable[..., nn.Module]) -> AttentionFusion:
    """A fusion as after training and calibration, in which nothing is zero or one."""
    model = new_fusion()
    enliven(model, seed=1)
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        model.bias.normal_(generator=random)
        model.prior.normal_(generator=random)
        model.temperatures.copy_(torch.tensor(TEMPERATURES))
    return model


def window(tracks: int = TRACKS) -> Inputs:
    """Tokens as encoders give them, not negative, in about half of the slots; empty slots are zero."""
    random = torch.Generator().manual_seed(3)
    given: Inputs = {}
    for modality, rows in (("face", tracks), ("voice", 1)):
        mask = (torch.rand(tracks, SLOTS, generator=random) < 0.5).float()
        mask[:, -1] = 1.0
        mask[:, 0] = 0.0
        tokens = torch.randn(rows, SLOTS, WIDTH, generator=random).relu()
        given |= {f"{modality}_tokens": tokens, f"{modality}_mask": mask}
    given["face_tokens"] *= given["face_mask"][..., None]
    return given


@torch.no_grad()
def run(model: AttentionFusion, given: Inputs) -> dict[str, Tensor]:
    return dict(zip(NAMES, model(**given), strict=True))


def without(given: Inputs, *modalities: str) -> Inputs:
    masks = {f"{name}_mask": torch.zeros_like(given[f"{name}_mask"]) for name in modalities}
    return {**given, **masks}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    for name in NAMES:
        torch.testing.assert_close(found[name], expected[name], atol=tolerance, rtol=tolerance, msg=name)


def test_shapes(fusion: AttentionFusion) -> None:
    shapes = {name: tuple(value.shape) for name, value in run(fusion, window()).items()}
    classes = (TRACKS, CLASSES)
    assert shapes == dict(zip(NAMES, (classes, (TRACKS, 2), classes, classes), strict=True))


# Masks


@pytest.mark.parametrize("held", [-5.0, 50.0, 1000.0])
def test_masked_slots_have_no_influence(fusion: AttentionFusion, held: float) -> None:
    given = window()
    # The voice is one for all tracks, so only what no track counts is masked in it.
    given["voice_mask"] = given["voice_mask"][:1].expand(TRACKS, -1).clone()
    filled = dict(given)
    for modality in ("face", "voice"):
        mask = given[f"{modality}_mask"][: len(given[f"{modality}_tokens"]), :, None]
        tokens = given[f"{modality}_tokens"]
        noise = held * torch.rand(tokens.shape, generator=torch.Generator().manual_seed(4))
        filled[f"{modality}_tokens"] = torch.where(mask > 0, tokens, noise)
        assert not torch.equal(filled[f"{modality}_tokens"], tokens)
    assert_same(run(fusion, filled), run(fusion, given))


@pytest.mark.parametrize("modality", ["face", "voice"])
@pytest.mark.parametrize("slot", range(SLOTS))
def test_each_valid_slot_has_influence(fusion: AttentionFusion, modality: str, slot: int) -> None:
    given = window(1)
    given["face_mask"], given["voice_mask"] = torch.ones(1, SLOTS), torch.ones(1, SLOTS)
    changed = dict(given)
    changed[f"{modality}_tokens"] = given[f"{modality}_tokens"].clone()
    changed[f"{modality}_tokens"][0, slot] += 1.0
    assert (run(fusion, changed)["logits"] - run(fusion, given)["logits"]).abs().max() > 1e-3


@pytest.mark.parametrize(("given", "missing"), [("face", "voice"), ("voice", "face")])
def test_one_modality_answers_for_itself(fusion: AttentionFusion, given: str, missing: str) -> None:
    both = window()
    alone = run(fusion, without(both, missing))
    torch.testing.assert_close(alone["logits"], alone[f"{given}_logits"])
    assert alone[f"{given}_logits"].abs().max() > 0.1
    assert not alone[f"{missing}_logits"].any()
    # What one modality says does not depend on the other.
    torch.testing.assert_close(alone[f"{given}_logits"], run(fusion, both)[f"{given}_logits"])
    other = without(both, missing) | {f"{missing}_tokens": both[f"{missing}_tokens"] + 9.0}
    assert_same(run(fusion, other), alone)


def test_nothing_seen_or_heard_says_nothing(fusion: AttentionFusion) -> None:
    made = run(fusion, without(window(), "face", "voice"))
    for name in ("logits", "face_logits", "voice_logits"):
        assert not made[name].any()
    mean = np.mean([NORMS[name] for name in LABELS], axis=0)
    np.testing.assert_allclose(made["valence_arousal"].numpy(), np.tile(mean, (TRACKS, 1)), atol=1e-6)


@pytest.mark.parametrize("modality", ["face", "voice"])
def test_dropping_or_zeroing_a_modality_changes_the_answer(fusion: AttentionFusion, modality: str) -> None:
    given = window()
    fused = run(fusion, given)["logits"]
    zeroed = {**given, f"{modality}_tokens": torch.zeros_like(given[f"{modality}_tokens"])}
    for changed in (without(given, modality), zeroed):
        difference = (run(fusion, changed)["logits"] - fused).abs().amax(dim=1)
        assert (difference > 1e-2).all()


def test_the_joint_term_listens_to_both(fusion: AttentionFusion) -> None:
    given = window()
    with torch.no_grad():
        joint = fusion.joint_logits(*given.values())
        for modality in ("face", "voice"):
            tokens = torch.zeros_like(given[f"{modality}_tokens"])
            changed = fusion.joint_logits(*{**given, f"{modality}_tokens": tokens}.values())
            assert (changed - joint).abs().max() > 1e-2


# Tracks


def test_permuting_tracks_permutes_answers(fusion: AttentionFusion) -> None:
    given, order = window(), [3, 1, 0, 2]
    moved = {name: value if name == "voice_tokens" else value[order] for name, value in given.items()}
    assert_same(run(fusion, moved), {name: value[order] for name, value in run(fusion, given).items()})


def test_tracks_with_one_voice_equal_single_calls(fusion: AttentionFusion) -> None:
    given = window(5)
    given["face_mask"][1] = 0.0
    given["voice_mask"][2:4] = 0.0  # the voice counts for the others only
    together = run(fusion, given)
    for row in range(5):
        single = {n: v if n == "voice_tokens" else v[row : row + 1] for n, v in given.items()}
        expected = {name: value[row : row + 1] for name, value in together.items()}
        assert_same(run(fusion, single), expected)


@pytest.mark.parametrize("tracks", [1, 3, 16])
@pytest.mark.parametrize("missing", [(), ("face",), ("voice",), ("face", "voice")])
def test_one_voice_equals_the_voice_repeated(
    fusion: AttentionFusion, tracks: int, missing: tuple[str, ...]
) -> None:
    given = without(window(tracks), *missing)
    repeated = {**given, "voice_tokens": given["voice_tokens"].expand(tracks, -1, -1)}
    assert_same(run(fusion, given), run(fusion, repeated), tolerance=1e-6)


def test_one_voice_is_projected_once(fusion: AttentionFusion) -> None:
    rows: dict[str, int] = {}
    parts = {
        "voice_in": fusion.voice_in,
        "key": fusion.to_voice.key,
        "value": fusion.to_voice.value,
        "query": fusion.to_face.query,
    }
    for name, part in parts.items():
        part.register_forward_hook(lambda part, read, made, name=name: rows.update({name: len(made)}))
    run(fusion, window())
    assert rows == dict.fromkeys(parts, 1)


def test_a_voice_for_each_row_equals_single_calls(fusion: AttentionFusion) -> None:
    given = window()
    random = torch.Generator().manual_seed(5)
    given["voice_tokens"] = torch.randn(TRACKS, SLOTS, WIDTH, generator=random).relu()
    together = run(fusion, given)
    for row in range(TRACKS):
        single = {name: value[row : row + 1] for name, value in given.items()}
        assert_same(run(fusion, single), {name: value[row : row + 1] for name, value in together.items()})


# Temperatures, prior, weights


@pytest.mark.parametrize(("place", "changed"), [(0, "face_logits"), (1, "voice_logits"), (2, "logits")])
def test_a_temperature_divides_its_logits_alone(fusion: AttentionFusion, place: int, changed: str) -> None:
    given = window()
    before = run(fusion, given)
    fusion.temperatures[place] *= 2.0
    after = run(fusion, given)
    for name in ("face_logits", "voice_logits", "logits"):
        torch.testing.assert_close(after[name], before[name] / (2.0 if name == changed else 1.0))


@pytest.mark.parametrize("pictures", [1, 2, SLOTS])
def test_the_prior_counts_by_the_pictures_seen(fusion: AttentionFusion, pictures: int) -> None:
    given = without(window(1), "voice")
    given["face_mask"] = torch.zeros(1, SLOTS)
    given["face_mask"][:, -pictures:] = 1.0
    with torch.no_grad():
        plain = fusion.face_logits(given["face_tokens"], given["face_mask"])
    expected = (plain + fusion.prior / pictures) / TEMPERATURES[0]
    made = run(fusion, given)
    torch.testing.assert_close(made["face_logits"], expected)
    torch.testing.assert_close(made["logits"], expected)


def test_both_are_weighed_without_the_prior(fusion: AttentionFusion) -> None:
    given = window()
    with torch.no_grad():
        face = fusion.face_logits(given["face_tokens"], given["face_mask"])
        voice = fusion.voice_logits(given["voice_tokens"], given["voice_mask"])
        joint = fusion.joint_logits(*given.values())
        weighted = fusion.weights[0] * face + fusion.weights[1] * voice
        expected = (weighted + joint + fusion.bias) / TEMPERATURES[2]
    fused = run(fusion, given)["logits"]
    torch.testing.assert_close(fused, expected)
    fusion.prior += 1.0 + torch.arange(CLASSES)
    assert torch.equal(run(fusion, given)["logits"], fused)


def test_new_fusion_adds_what_face_and_voice_say() -> None:
    made = run(new_fusion().eval(), window())
    bias = made["logits"] - made["face_logits"] - made["voice_logits"]
    # Of the joint term only the bias of its last layer is left, the same for every track.
    torch.testing.assert_close(bias, bias[:1].expand_as(bias), atol=1e-5, rtol=1e-5)


def test_valence_and_arousal_lie_between_the_norms(fusion: AttentionFusion) -> None:
    made = run(fusion, window())
    norms = np.array([NORMS[name] for name in LABELS])
    probabilities = torch.softmax(made["logits"], dim=1).numpy()
    np.testing.assert_allclose(made["valence_arousal"].numpy(), probabilities @ norms, atol=1e-6)
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    directions = np.stack([np.cos(angles), np.sin(angles)])
    reach = made["valence_arousal"].numpy() @ directions
    assert (reach <= (norms @ directions).max(axis=0) + 1e-6).all()


# Parts


def test_face_pool_of_one_token_is_the_token(enliven: Callable[..., nn.Module]) -> None:
    pool = enliven(FacePool(WIDTH))
    tokens = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    with torch.no_grad():
        made = pool(tokens, mask)
    assert torch.equal(made[0], tokens[0, 1])
    assert not made[1].any()


def test_cross_attention_equals_multi_head_attention(enliven: Callable[..., nn.Module]) -> None:
    mine = enliven(CrossAttention(12, 3))
    assert isinstance(mine, CrossAttention)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).eval()
    random = torch.Generator().manual_seed(0)
    asking, asked = torch.randn(2, 5, 12, generator=random), torch.randn(2, 4, 12, generator=random)
    mask = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
    with torch.no_grad():
        inward = (mine.query, mine.key, mine.value)
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in inward]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in inward]))
        theirs.out_proj.load_state_dict(mine.out.state_dict())
        mixed, _ = theirs(asking, asked, asked, key_padding_mask=mask == 0)
        torch.testing.assert_close(mine(asking, asked, mask), mine.norm(asking + mixed), atol=1e-5, rtol=1e-5)


def test_cross_attention_to_nothing_leaves_the_query(enliven: Callable[..., nn.Module]) -> None:
    model = enliven(CrossAttention(12, 3))
    assert isinstance(model, CrossAttention)
    random = torch.Generator().manual_seed(0)
    asking, asked = torch.randn(1, 5, 12, generator=random), torch.randn(1, 4, 12, generator=random)
    with torch.no_grad():
        made = model(asking, asked, torch.zeros(1, 4))
        torch.testing.assert_close(made, model.norm(asking + model.out.bias))
