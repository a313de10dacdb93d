from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeemo.errors import InputError
from edgeemo_export.data import pairs
from edgeemo_export.data.labels import LABELS
from edgeemo_export.data.tokens import SLOTS, Drawer, FaceBank, VoiceBank
from edgeemo_export.data.voices import Clip
from edgeemo_export.systems.fusion import Windows

K, WIDTH = len(LABELS), 40


def shares(**votes: float) -> Tensor:
    return torch.tensor([votes.get(name, 0.0) for name in LABELS])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def banks(sure: float = 0.8) -> tuple[FaceBank, VoiceBank]:
    """Faces whose token is their shares, some unanimous and some not; voices whose token is their label."""
    labels = torch.arange(K).repeat(20)
    votes = torch.full((len(labels), K), (1 - sure) / (K - 1))
    votes[torch.arange(len(labels)), labels] = sure
    votes[::2] = torch.eye(K)[labels[::2]]
    faces = FaceBank(torch.nn.functional.pad(votes, (0, WIDTH - K))[None], votes, labels)
    tokens = torch.nn.functional.pad(torch.eye(K)[labels], (0, WIDTH - K))[:, None].expand(-1, SLOTS, -1)
    return faces, VoiceBank(tokens[None], torch.ones(1, len(labels), SLOTS), labels)


def said(windows: Windows) -> Tensor:
    """The label of each voice."""
    return windows.second[:, -1, :K].argmax(dim=1)


def test_pairs_by_label_share_it() -> None:
    windows = pairs.ByLabel(Drawer(*banks(), torch.eye(K))).draw(700, seeded())
    labels = windows.labels.argmax(dim=1)
    assert torch.equal(windows.labels, torch.eye(K)[labels])
    assert torch.equal(said(windows), labels)
    assert np.bincount(labels.numpy(), minlength=K).min() > 70
    for tokens, mask in ((windows.first, windows.first_mask), (windows.second, windows.second_mask)):
        assert tokens.shape == (700, SLOTS, WIDTH) and (mask.sum(dim=1) >= 1).all()
        assert not (tokens * (1 - mask[..., None])).any()
    stills = windows.first_mask.sum(dim=1) == 1
    shown = windows.first[stills].sum(dim=1)[:, :K].argmax(dim=1)
    # One sequence in a few has a single token too, in which what is told hardly shows.
    assert (shown == labels[stills]).float().mean() > 0.7
    assert torch.equal(windows.first[:175].sum(dim=1)[:, :K].argmax(dim=1), labels[:175])


def voted(face: Tensor, voice: Tensor, both: Tensor, clips: int = 30) -> pairs.Votes:
    return pairs.Votes(voice.expand(clips, -1), face.expand(clips, -1), both.expand(clips, -1))


def test_pairs_by_votes_match_the_distribution() -> None:
    face, voice = shares(happiness=1.0), shares(neutral=0.6, happiness=0.3, sadness=0.1)
    both = shares(happiness=0.8, neutral=0.2)
    drawer = pairs.ByVotes(*banks(), torch.eye(K), voted(face, voice, both))
    # Labels are drawn before clips: here every label but surprise leads to a clip that has some of it.
    drawer.clips = lambda labels, random: torch.zeros_like(labels)  # type: ignore[method-assign]
    windows = drawer.draw(4000, seeded())
    surprised = windows.labels[:, pairs.SURPRISE] == 1
    assert surprised.float().mean() == pytest.approx(1 / K, abs=0.02)
    assert (said(windows)[surprised] == pairs.SURPRISE).all()
    heard = torch.bincount(said(windows)[~surprised], minlength=K) / (~surprised).sum()
    torch.testing.assert_close(heard, voice, atol=0.03, rtol=0)
    torch.testing.assert_close(windows.labels[~surprised], both.expand(int((~surprised).sum()), -1))
    stills = windows.first[: (~surprised).sum() // pairs.STILLS].sum(dim=1)[:, :K]
    torch.testing.assert_close(stills, face.expand(len(stills), -1))  # the unanimous ones, not those of 0.8


@pytest.mark.parametrize("sure", [0.8, 0.6])
def test_the_face_is_the_nearest_in_votes(sure: float) -> None:
    """A clip that is as undecided as half of the pictures is shown by those, and never by the unanimous."""
    face = torch.full((K,), (1 - sure) / (K - 1))
    face[3] = sure
    drawer = pairs.ByVotes(*banks(sure), torch.eye(K), voted(face, face, face))
    rows = drawer._any_of(drawer.pictures_of, torch.full((200,), K), seeded())
    torch.testing.assert_close(drawer.faces.shares[rows], face.expand(200, -1))
    assert len(rows.unique()) > 5


def test_clips_are_drawn_in_proportion_to_what_was_said_of_them() -> None:
    both = torch.stack([shares(anger=1.0), shares(anger=0.25, fear=0.75), shares(sadness=1.0)])
    drawer = pairs.ByVotes(*banks(), torch.eye(K), pairs.Votes(both, both, both))
    drawn = drawer.clips(torch.full((4000,), LABELS.index("anger")), seeded())
    assert torch.bincount(drawn, minlength=3).tolist() == [
        pytest.approx(3200, abs=120),
        pytest.approx(800, abs=120),
        0,
    ]


HEADER = '"","A","D","F","H","N","S","fileName"\n'


def table(folder: Path, *rows: str, header: str = HEADER) -> Path:
    (folder / "tabulatedVotes.csv").write_text(header + "".join(f"{row}\n" for row in rows))
    return folder


def test_votes_are_read_by_what_the_raters_were_given(tmp_path: Path) -> None:
    votes = pairs.read_votes(
        table(
            tmp_path,
            '"100001",9,0,0,0,0,0,"1001_IEO_ANG_XX"',
            '"200001",9,0,0,0,0,0,"1001_IEO_ANG_XX"',
            '"300001",9,0,0,0,0,0,"1001_IEO_ANG_XX"',
            '"100002",0,0,0,1,3,0,"1002_IEO_HAP_LO"',
            '"200002",0,0,0,4,0,0,"1002_IEO_HAP_LO"',
            '"300002",1,1,1,1,1,5,"1002_IEO_HAP_LO"',
            '"100003",0,0,0,1,3,0,"1003_IEO_HAP_LO"',
        )
    )
    assert votes.voice.shape == (1, K)  # without actor 1001, and without a clip of which there is a part only
    torch.testing.assert_close(votes.voice[0], shares(happiness=0.25, neutral=0.75))
    torch.testing.assert_close(votes.face[0], shares(happiness=1.0))
    torch.testing.assert_close(
        votes.both[0],
        shares(anger=0.1, disgust=0.1, fear=0.1, happiness=0.1, neutral=0.1, sadness=0.5),
    )


@pytest.mark.parametrize(
    ("rows", "header", "error"),
    [
        (['"100002",0,0,0,1,3,0,"1002_IEO_HAP_LO"'], HEADER, "no clip has votes for its voice, its face and"),
        (['"400002",0,0,0,1,3,0,"1002_IEO_HAP_LO"'], HEADER, "no table of votes"),
        (['"100002",0,0,0,x,3,0,"1002_IEO_HAP_LO"'], HEADER, "no table of votes"),
        (['"1",1'], '"","A"\n', "no table of votes"),
    ],
)
def test_another_table_is_refused(tmp_path: Path, rows: list[str], header: str, error: str) -> None:
    with pytest.raises(InputError, match=error):
        pairs.read_votes(table(tmp_path, *rows, header=header))


def recording(actor: int, emotion: int) -> str:
    return f"03-01-{emotion:02}-01-01-01-{actor:02}"


def units_of(folder: Path, names: list[str], width: int = 35) -> None:
    values = np.random.default_rng(0).uniform(1.0, 5.0, (len(names), width)).astype(np.float32)
    (folder / "ravdess_action_units").mkdir()
    path = folder / "ravdess_action_units" / "action_units.npz"
    np.savez(path, clip=np.array([f"01{name[2:]}" for name in names]), units=values)


def test_real_pairs_are_of_one_recording(tmp_path: Path) -> None:
    names = [recording(actor, emotion) for actor in (2, 3, 17) for emotion in (3, 5)]
    units_of(tmp_path, names)
    listed = [*reversed(names), "03a01Wa"]
    clips = [
        Clip(Path(f"{name}.flac"), "", "", LABELS[place % K], "train") for place, name in enumerate(listed)
    ]
    tokens = torch.arange(1.0, len(clips) + 1)[None, :, None, None].expand(2, -1, SLOTS, WIDTH)
    bank = VoiceBank(tokens, torch.ones(2, len(clips), SLOTS), torch.arange(len(clips)) % K)
    joined = pairs.real(tmp_path, clips, bank)
    assert len(joined.units) == len(names)  # a voice without a video is left out
    with np.load(tmp_path / "ravdess_action_units" / "action_units.npz") as file:
        raw = torch.from_numpy(file["units"])
    training = raw[:4]  # actor 17 is a test speaker
    expected = ((raw - training.mean(dim=0)) / training.std(dim=0)).flip(0)
    torch.testing.assert_close(joined.units[:, :35], expected)
    assert not joined.units[:, 35:].any()
    windows = joined.draw(500, seeded())
    rows = (windows.second[:, -1, 0] - 1).long()
    torch.testing.assert_close(windows.first[:, -1], joined.units[rows])
    assert torch.equal(windows.labels.argmax(dim=1), joined.voices.labels[rows])
    assert torch.equal(windows.first_mask, windows.second_mask)
    assert windows.second_mask.sum(dim=1).min() < SLOTS / 2


def test_units_need_room(tmp_path: Path) -> None:
    units_of(tmp_path, [recording(2, 3)])
    bank = VoiceBank(torch.zeros(1, 1, SLOTS, 8), torch.ones(1, 1, SLOTS), torch.tensor([0]))
    with pytest.raises(InputError, match="width 8; it must be at least the number of units, 35"):
        pairs.real(tmp_path, [Clip(Path(f"{recording(2, 3)}.flac"), "", "", "anger", "train")], bank)
