"""Each corpus in the layout in which it is received, with what is odd about it, as a tree of tiny files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeemo.errors import InputError
from edgeemo_export.data import ferplus as project_ferplus
from edgeemo_export.data import voices
from edgeemo_export.data.corpora import (
    affectnet,
    affwild2,
    casia,
    cremad,
    emodb,
    enterface,
    ferplus,
    iemocap,
    meld,
    nemo,
    ravdess,
    savee,
)
from edgeemo_export.data.corpora.item import Item
from edgeemo_export.data.labels import LABELS

Plant = Callable[..., Path]
Row = tuple[str, str, str, str]


def shown(folder: Path, items: list[Item]) -> list[Row]:
    """Label, speaker, face and voice of each, in the order of names."""

    def name(path: Path | None) -> str:
        return "" if path is None else path.relative_to(folder).as_posix()

    return sorted((item.label, item.speaker, name(item.face), name(item.voice)) for item in items)


def left_out(caplog: pytest.LogCaptureFixture) -> str:
    return caplog.messages[-1].partition("left out: ")[2]


@pytest.fixture(autouse=True)
def listen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edgeemo.export")


# --- RAVDESS


def test_ravdess_sounds(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    folder = plant(
        "Actor_01/03-01-01-01-01-01-01.wav",
        "Actor_02/03-01-02-01-01-01-02.wav",
        "Actor_24/03-01-08-02-02-02-24.wav",
        "Actor_24/._03-01-08-02-02-02-24.wav",
        "Actor_24/03-02-03-01-01-01-24.wav",  # a song
        "Actor_24/notes.wav",
        "audio_speech_actors_01-24/Actor_24/03-01-08-02-02-02-24.wav",  # Kaggle's archive holds all twice
    )
    assert shown(folder, ravdess.read(folder)) == [
        ("neutral", "ravdess-01", "", "Actor_01/03-01-01-01-01-01-01.wav"),
        ("neutral", "ravdess-02", "", "Actor_02/03-01-02-01-01-01-02.wav"),
        ("surprise", "ravdess-24", "", "Actor_24/03-01-08-02-02-02-24.wav"),
    ]
    told = left_out(caplog)
    assert "1 songs" in told and "1 of another name" in told and "1 second copies of a file" in told


def test_ravdess_videos_and_the_sounds_of_the_same_recordings(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    folder = plant(
        "Actor_05/03-01-05-01-01-01-05.wav",
        "Actor_05/03-01-06-01-01-01-05.wav",
        "Video_Speech_Actor_05/Actor_05/01-01-05-01-01-01-05.mp4",
        "Video_Speech_Actor_05/Actor_05/02-01-05-01-01-01-05.mp4",
        "Video_Speech_Actor_05/Actor_05/02-01-06-01-01-01-05.mp4",
        "Video_Speech_Actor_06/01-01-07-01-01-01-06.mp4",
    )
    place = "Video_Speech_Actor_05/Actor_05"
    whole = "Video_Speech_Actor_06/01-01-07-01-01-01-06.mp4"
    assert shown(folder, ravdess.read(folder)) == [
        ("anger", "ravdess-05", f"{place}/01-01-05-01-01-01-05.mp4", f"{place}/01-01-05-01-01-01-05.mp4"),
        ("disgust", "ravdess-06", whole, whole),
        ("fear", "ravdess-05", f"{place}/02-01-06-01-01-01-05.mp4", "Actor_05/03-01-06-01-01-01-05.wav"),
    ]
    assert left_out(caplog).startswith("2 parts of a recording whose video has sound")


# --- CREMA-D


def test_cremad(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    folder = plant(
        "AudioWAV/1001_DFA_ANG_XX.wav",
        "AudioWAV/1040_ITH_SAD_X.wav",
        "AudioWAV/1076_MTI_SAD_XX.wav",  # without sound
        "AudioWAV/1001_DFA_XYZ_XX.wav",
        "VideoFlash/1001_DFA_ANG_XX.flv",
        "VideoFlash/1002_IEO_HAP_HI.flv",
        "VideoDemographics.csv",
        "tabulatedVotes.csv",
    )
    assert shown(folder, cremad.read(folder)) == [
        ("anger", "cremad-1001", "VideoFlash/1001_DFA_ANG_XX.flv", "AudioWAV/1001_DFA_ANG_XX.wav"),
        ("happiness", "cremad-1002", "VideoFlash/1002_IEO_HAP_HI.flv", "VideoFlash/1002_IEO_HAP_HI.flv"),
        ("sadness", "cremad-1040", "", "AudioWAV/1040_ITH_SAD_X.wav"),
    ]
    told = left_out(caplog)
    assert "1 broken in the corpus" in told and "1 of another name" in told


def test_cremad_that_git_lfs_has_not_fetched(plant: Plant) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 71552\n"
    folder = plant(texts={"AudioWAV/1001_DFA_ANG_XX.wav": pointer})
    with pytest.raises(InputError, match=r"1001_DFA_ANG_XX\.wav: it is a pointer of Git LFS.*git lfs pull"):
        cremad.read(folder)


# --- EmoDB, nEMO, CASIA, SAVEE


def test_emodb(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    letters = {"W": "anger", "E": "disgust", "A": "fear", "F": "happiness", "T": "sadness", "N": "neutral"}
    folder = plant(*(f"wav/03a01{letter}a.wav" for letter in (*letters, "L")), "lablaut/03a01Fa.lablaut")
    items = emodb.read(folder)
    assert {item.voice.stem[5]: item.label for item in items if item.voice} == letters
    assert {item.speaker for item in items} == {"emodb-03"}
    assert left_out(caplog).startswith("1 of boredom")


def test_nemo(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    table = (
        "file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage\n"
        'EB0_surprised_1.wav\tsurprised\t"New" it is.\ta new one\t        EB0\tfemale\t24\n'
    )
    folder = plant("samples/EB0_surprised_1.wav", "samples/WR0_fear_12.wav", texts={"data.tsv": table})
    first, second = nemo.read(folder)
    assert (first.label, first.speaker, first.text) == ("surprise", "nemo-EB0", '"New" it is.')
    assert (second.label, second.speaker, second.text) == ("fear", "nemo-WR0", "")
    assert left_out(caplog).startswith("1 texts that are missing (the voice is kept)")
    (folder / "data.tsv").write_text("name\ttext\n")
    with pytest.raises(InputError, match=r"data\.tsv: it must have the columns file_id and raw_text"):
        nemo.read(folder)


def test_casia_has_four_speakers_under_eight_names(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    folder = plant(
        "相同文本300/ZhaoZuoxiang/angry/201.wav",
        "相同文本300/liuchanhg/neutral/201.wav",
        "不同文本100/Chang.Liu/normal/301.wav",
        "不同文本100/Chang.Liu/others/301.wav",
        "不同文本100/somebody/sad/301.wav",
    )
    assert shown(folder, casia.read(folder)) == [
        ("anger", "casia-zhaozuoxiang", "", "相同文本300/ZhaoZuoxiang/angry/201.wav"),
        ("neutral", "casia-liuchanhg", "", "不同文本100/Chang.Liu/normal/301.wav"),
        ("neutral", "casia-liuchanhg", "", "相同文本300/liuchanhg/neutral/201.wav"),
    ]
    told = left_out(caplog)
    assert "1 of a folder that is no emotion" in told and "1 of a speaker who is none of the four" in told
    alone = plant("wangzhe/surprise/201.wav", root="alone")
    assert shown(alone, casia.read(alone)) == [("surprise", "casia-wangzhe", "", "wangzhe/surprise/201.wav")]


def test_savee_in_folders(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    folder = plant(
        "AudioData/DC/a01.wav",
        "AudioData/DC/su15.wav",
        "AudioData/KL/sa02.wav",
        "AudioData/DC/Info.txt",
        "AudioData/DC/x01.wav",
        "AudioVisualClip/DC/a1.avi",
        "AudioVisualClip/JE/n30.avi",
    )
    assert shown(folder, savee.read(folder)) == [
        ("anger", "savee-DC", "AudioVisualClip/DC/a1.avi", "AudioData/DC/a01.wav"),
        ("neutral", "savee-JE", "AudioVisualClip/JE/n30.avi", "AudioVisualClip/JE/n30.avi"),
        ("sadness", "savee-KL", "", "AudioData/KL/sa02.wav"),
        ("surprise", "savee-DC", "", "AudioData/DC/su15.wav"),
    ]
    assert left_out(caplog).startswith("1 of another name")


def test_savee_flat(plant: Plant) -> None:
    folder = plant("JK_h07.wav", "JK_d01.wav", "KL_f01.wav")
    assert shown(folder, savee.read(folder)) == [
        ("disgust", "savee-JK", "", "JK_d01.wav"),
        ("fear", "savee-KL", "", "KL_f01.wav"),
        ("happiness", "savee-JK", "", "JK_h07.wav"),
    ]


# --- eNTERFACE'05


def test_enterface_takes_speaker_and_emotion_from_the_folders(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    odd = (
        "subject 11/anger/sentence 1/s12_an_1.avi",  # another's number
        "subject 16/surprise/sentence 3/s16_su_3avi.avi",
        "subject 3/happiness/sentence 2/s_3_ha_2.avi",
        "subject 22/sadness/sentence 1/sentence 1/s22_sa_1.avi",  # a folder deeper
        "subject 24/fear/s24_fe_1.avi",  # no folders of sentences
        "subject 24/fear/s24_fe_2.avi",
        "subject 23/disgust/sentence 1/s23_di_1.avi",  # the only one
    )
    folder = plant(
        *odd, "subject 6/anger/s6_an_1.avi", "subject 1/rest/sentence 1/a.avi", "subject 1/Thumbs.db"
    )
    assert shown(folder, enterface.read(folder)) == [
        ("anger", "enterface-11", odd[0], odd[0]),
        ("disgust", "enterface-23", odd[6], odd[6]),
        ("fear", "enterface-24", odd[4], odd[4]),
        ("fear", "enterface-24", odd[5], odd[5]),
        ("happiness", "enterface-3", odd[2], odd[2]),
        ("sadness", "enterface-22", odd[3], odd[3]),
        ("surprise", "enterface-16", odd[1], odd[1]),
    ]
    told = left_out(caplog)
    assert "1 uncut takes of all sentences" in told and "1 of a folder that is no emotion" in told


# --- MELD

MELD_HEAD = (
    "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
)


def meld_table(*rows: tuple[str, str, str, int, int]) -> str:
    return MELD_HEAD + "".join(
        f'{number},"{text}",{who},{emotion},neutral,{dialogue},{utterance},1,1,"0","1"\n'
        for number, (text, who, emotion, dialogue, utterance) in enumerate(rows)
    )


def meld_tables(place: str = "") -> dict[str, str]:
    return {
        f"{place}train_sent_emo.csv": meld_table(
            ("Well,\n  so", "Ann", "joy", 0, 0), ("Hm", "Ann", "fear", 125, 3), ("Oh", "Bob", "calm", 1, 1)
        ),
        f"{place}dev_sent_emo.csv": meld_table(
            ("Yes", "Ann", "neutral", 0, 0), ("No", "Bob", "anger", 110, 7)
        ),
        f"{place}test_sent_emo.csv": meld_table(
            ("Who", "Cem", "sadness", 0, 0), ("You", "Ann", "surprise", 0, 1)
        ),
    }


def test_meld(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    test = "test/output_repeated_splits_test"
    folder = plant(
        "train/train_splits/dia0_utt0.mp4",
        "train/train_splits/dia125_utt3.mp4",  # corrupt
        "dev_splits_complete/dia0_utt0.mp4",  # one is missing
        f"{test}/dia0_utt0.mp4",
        f"{test}/final_videos_testdia0_utt0.mp4",  # the right one
        f"{test}/dia0_utt1.mp4",
        f"{test}/dia66_utt9.mp4",  # of no line
        texts=meld_tables(),
    )
    items = meld.read(folder)
    assert [(item.label, item.speaker, item.split, item.text) for item in items] == [
        ("happiness", "meld-Ann", "train", "Well, so"),
        ("neutral", "meld-Ann", "develop", "Yes"),
        ("sadness", "meld-Cem", "test", "Who"),
        ("surprise", "meld-Ann", "test", "You"),
    ]
    assert [item.face.name for item in items if item.face] == [
        *("dia0_utt0.mp4", "dia0_utt0.mp4", "final_videos_testdia0_utt0.mp4", "dia0_utt1.mp4")
    ]
    assert all(item.voice == item.face for item in items)
    told = left_out(caplog)
    assert "1 corrupt in the corpus" in told and "1 whose clip is missing" in told
    assert "1 of the label 'calm'" in told


def test_meld_without_clips_is_text(plant: Plant) -> None:
    items = meld.read(plant(texts=meld_tables("data/MELD/")))
    assert len(items) == 5 and all(item.face is None and item.text for item in items)


def test_meld_with_other_columns(plant: Plant) -> None:
    folder = plant(texts={**meld_tables(), "dev_sent_emo.csv": "Utterance,Emotion\nYes,joy\n"})
    with pytest.raises(
        InputError, match=r"dev_sent_emo\.csv: it has no column Dialogue_ID, Speaker, Utterance_ID"
    ):
        meld.read(folder)


# --- IEMOCAP


def iemocap_tree(plant: Plant) -> Path:
    first = (
        "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
        "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]\n"
        "C-E2:\tNeutral;\t()\nA-E3:\tval 3; act 2; dom  2;\t()\n\n"
        "[10.0 - 11.0]\tSes01F_impro01_M000\texc\t[4.5000, 5.0000, 2.5000]\n"
        "[12.0 - 13.0]\tSes01F_impro01_M001\tfru\t[1.0000, 5.0000, 2.5000]\n"
        "[14.0 - 15.0]\tSes01F_impro01_M002\tsur\t[3.0000, 3.5000, 2.5000]\n"
        "[16.0 - 17.0]\tSes01F_impro01_M003\txxx\t[3.0000, 3.5000, 2.5000]\n"
    )
    second = (
        "[1.0 - 2.0]\tSes02M_script01_1b_F000\thap\t[5.5000, 3.0000, 2.5000]\n"
        "[3.0 - 4.0]\tSes02M_script01_1b_MXX0\tsad\t[1.0000, 1.0000, 2.5000]\n"
        "[5.0 - 6.0]\tSes02M_script01_1b_F001\tang\t[1.0000, 5.0000, 2.5000]\n"
    )
    one, two = "Session1/dialog", "Session2/dialog"
    wav = "sentences/wav"
    return plant(
        *(
            f"Session1/{wav}/Ses01F_impro01/Ses01F_impro01_{turn}.wav"
            for turn in ("F000", "M000", "M001", "M002")
        ),
        *(f"Session2/{wav}/Ses02M_script01_1b/Ses02M_script01_1b_{turn}.wav" for turn in ("F000", "MXX0")),
        texts={
            f"{one}/EmoEvaluation/Ses01F_impro01.txt": first,
            f"{one}/EmoEvaluation/._Ses01F_impro01.txt": first,
            f"{one}/EmoEvaluation/Categorical/Ses01F_impro01_e2_cat.txt": first,
            f"{one}/transcriptions/Ses01F_impro01.txt": (
                "Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.\nM: aside\n"
                "Ses01F_impro01_M000 [010.0000-011.0000]: Really: yes.\n"
            ),
            f"{two}/EmoEvaluation/Ses02M_script01_1b.txt": second,
        },
    )


def test_iemocap(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    items = iemocap.read(iemocap_tree(plant))
    assert [
        (item.label, item.speaker, item.valence, item.arousal, item.text, item.script) for item in items
    ] == [
        ("neutral", "iemocap-1F", -0.25, -0.25, "Excuse me.", ""),
        ("happiness", "iemocap-1M", 0.75, 1.0, "Really: yes.", ""),
        ("happiness", "iemocap-2F", 1.0, 0.0, "", "script01_1"),
        ("sadness", "iemocap-2M", -1.0, -1.0, "", "script01_1"),
    ]
    assert items[0].voice is not None and items[0].voice.name == "Ses01F_impro01_F000.wav"
    told = left_out(caplog)
    for reason in (
        "1 of the label fru",
        "1 of the label sur",
        "1 of the label xxx",
        "1 whose sound is missing",
    ):
        assert reason in told


def test_iemocap_with_all_seven_labels(plant: Plant) -> None:
    counts = Counter(item.label for item in iemocap.read_seven(iemocap_tree(plant)))
    assert counts == {"neutral": 1, "happiness": 2, "sadness": 1, "surprise": 1}


# --- FER+

PIXELS = " ".join(["7"] * 48 * 48)
VOTES_HEAD = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"


def fer_votes() -> str:
    return VOTES_HEAD + (
        "Training,fer0000000.png,0,8,2,0,0,0,0,0,0,0\n"
        "Training,fer0000001.png,5,5,0,0,0,0,0,0,0,0\n"
        "Training,,0,0,0,0,0,0,0,0,0,10\n"
        "PublicTest,fer0000003.png,0,0,0,0,9,0,1,0,0,0\n"
        "PublicTest,fer0000004.png,0,0,0,0,0,0,0,9,1,0\n"
        "PrivateTest,fer0000005.png,0,0,0,1,0,0,9,0,0,0\n"
    )


def test_ferplus_tables(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    rows = "".join(
        f"0,{PIXELS},{usage}\n" for usage in ["Training"] * 3 + ["PublicTest"] * 2 + ["PrivateTest"]
    )
    folder = plant(texts={"fer2013new.csv": fer_votes(), "fer2013.csv": "emotion,pixels,Usage\n" + rows})
    items = ferplus.read(folder)
    assert [(item.label, item.speaker, item.split, item.frames) for item in items] == [
        ("happiness", "", "train", (0, 1)),
        ("anger", "", "develop", (3, 4)),
        ("fear", "", "test", (5, 6)),
    ]
    told = left_out(caplog)
    for reason in ("1 without a majority", "1 of not a face", "1 of contempt"):
        assert reason in told
    assert ferplus.pictures(folder / "fer2013.csv").shape == (6, 48, 48)
    (folder / "fer2013.csv").write_text("emotion,pixels,Usage\n" + rows + f"0,{PIXELS},PrivateTest\n")
    with pytest.raises(InputError, match=r"it has 7 pictures, and fer2013new\.csv votes for 6"):
        ferplus.read(folder)


def test_ferplus_pictures_that_were_taken_out(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    folder = plant(
        "FER2013Train/fer0000000.png", "FER2013Valid/fer0000003.png", texts={"fer2013new.csv": fer_votes()}
    )
    assert shown(folder, ferplus.read(folder)) == [
        ("anger", "", "FER2013Valid/fer0000003.png", ""),
        ("happiness", "", "FER2013Train/fer0000000.png", ""),
    ]
    assert "1 whose picture is missing" in left_out(caplog)


def test_ferplus_of_the_project(tmp_path: Path) -> None:
    votes = np.zeros((24, 10), np.uint8)
    votes[:, 1] = 10
    images = np.arange(24, dtype=np.uint8)[:, None, None].repeat(48, 1).repeat(48, 2)
    np.savez(tmp_path / "train.npz", images=images, votes=votes)
    np.savez(tmp_path / "valid.npz", images=images[:2] + 100, votes=votes[:2])
    items = ferplus.read(tmp_path)
    for split in ("train", "develop", "test"):
        known = project_ferplus.read(tmp_path, split).images[:, 0, 0].tolist()
        rows = [item for item in items if item.split == split]
        assert [item.frames[0] + 100 * (split == "test") for item in rows if item.frames] == known


# --- AffectNet


def test_affectnet_tables(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    head = ",".join(affectnet.COLUMNS) + "\n"
    rows = [f"1/{number}.jpg,0,0,9,9,1;2,{number % 7},0.5,-0.25\n" for number in range(4)]
    rows += [
        "1/a.jpg,0,0,9,9,1;2,7,0.1,0.1\n",
        "1/b.jpg,0,0,9,9,1;2,10,-2,-2\n",
        "1/gone.jpg,0,0,9,9,1;2,1,0,0\n",
    ]
    folder = plant(
        *(
            f"Manually_Annotated/Manually_Annotated_Images/1/{name}.jpg"
            for name in (*range(4), "a", "b", "v")
        ),
        texts={
            "Manually_Annotated_file_lists/training.csv": head + "".join(rows),
            "Manually_Annotated_file_lists/validation.csv": "1/v.jpg,0,0,9,9,1;2,6,-2,-2\n",  # no header
        },
    )
    items = affectnet.read(folder)
    assert [(item.label, item.split, item.valence, item.arousal) for item in items] == [
        ("neutral", "train", 0.5, -0.25),
        ("happiness", "train", 0.5, -0.25),
        ("sadness", "train", 0.5, -0.25),
        ("surprise", "develop", 0.5, -0.25),
        ("anger", "test", None, None),
    ]
    told = left_out(caplog)
    for reason in (
        "1 of the expression contempt",
        "1 of the expression no-face",
        "1 whose picture is missing",
    ):
        assert reason in told
    (folder / "Manually_Annotated_file_lists/validation.csv").write_text("1/v.jpg,0\n")
    with pytest.raises(InputError, match=r"validation.csv, line 1: it must have the columns subDirectory"):
        affectnet.read(folder)


def test_affectnet_sets(plant: Plant) -> None:
    folder = plant("train_set/images/0.jpg", "train_set/images/12.jpg", "val_set/images/3.jpg")
    given = {("train_set", 0): (4, 0.5), ("train_set", 12): (5, -2), ("val_set", 3): (0, 0.0)}
    for (part, number), (expression, valence) in given.items():
        notes = folder / part / "annotations"
        notes.mkdir(exist_ok=True)
        np.save(notes / f"{number}_exp.npy", np.array(str(expression)))
        np.save(notes / f"{number}_val.npy", np.array(str(valence)))
        np.save(notes / f"{number}_aro.npy", np.array("-0.125"))
    rows = [(item.label, item.split, item.valence, item.arousal) for item in affectnet.read(folder)]
    assert rows == [
        ("fear", "train", 0.5, -0.125),
        ("disgust", "train", None, -0.125),
        ("neutral", "test", 0.0, -0.125),
    ]
    (folder / "val_set/annotations/3_aro.npy").unlink()
    with pytest.raises(InputError, match=r"3_aro\.npy: it cannot be read"):
        affectnet.read(folder)


# --- Aff-Wild2

EIGHT = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other"


def lines(*rows: object) -> str:
    return "".join(f"{row}\n" for row in rows)


def frames(video: str, *numbers: int) -> list[str]:
    return [f"cropped_aligned/{video}/{number:05}.jpg" for number in numbers]


def test_affwild2(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    folder = plant(
        *frames("a", 1, 2, 4, 5, 6, 7, 8),  # of frame 3 there is no face
        *frames("b_left", 1, 2),
        texts={
            "annotations/EXPR_Set/Train_Set/a.txt": lines(EIGHT, 0, 0, 0, 0, -1, 4, 7, 4),
            "annotations/VA_Set/Train_Set/a.txt": lines(
                "valence,arousal",
                "0.5,0.1",
                "0.1,0.3",
                "0.9,0.9",
                "0.3,0.2",
                "-5,-5",
                "-5,-5",
                "0.2,0.2",
                "-5,0.1",
            ),
            "annotations/VA_Set/Validation_Set/b_left.txt": lines("valence,arousal", "-1,1", "0,0"),
            "annotations/EXPR_Set/Validation_Set/c.txt": lines(EIGHT, 0),
        },
    )
    items = affwild2.read(folder)
    assert [(item.label, item.speaker, item.split, item.frames) for item in items] == [
        ("neutral", "affwild2-a", "train", (1, 5)),
        ("happiness", "affwild2-a", "train", (6, 7)),
        ("", "affwild2-a", "train", (7, 8)),
        ("happiness", "affwild2-a", "train", (8, 9)),
        ("", "affwild2-b_left", "test", (1, 3)),
    ]
    means = [(item.valence, item.arousal) for item in items]
    assert means[0] == (pytest.approx(0.3), pytest.approx(0.2)) and means[1] == (None, None)
    assert means[4] == (-0.5, 0.5)
    told = left_out(caplog)
    for reason in (
        "1 frames of another expression",
        "1 frames without a valid expression",
        "3 frames without valid valence and arousal",
        "1 annotated frames without a picture",
        "1 videos without pictures",
    ):
        assert reason in told


def test_affwild2_of_the_first_competition_in_long_runs(plant: Plant) -> None:
    folder = plant(
        *frames("v", *range(1, 301)),
        texts={
            "6th ABAW Annotations/EXPR_Recognition_Challenge/Training_Set/v.txt": lines(
                EIGHT.removesuffix(",Other"), *([5] * 300)
            )
        },
    )
    runs = affwild2.read(folder)
    assert [run.frames for run in runs] == [(1, 121), (121, 241), (241, 301)]
    assert {run.label for run in runs} == {"sadness"}


def test_affwild2_keeps_a_video_in_one_split(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    names = [f"v{number}" for number in range(9)] + ["w", "w_right"]
    train = "annotations/EXPR_Set/Train_Set"
    folder = plant(
        *(path for name in names for path in frames(name, 1)),
        texts={
            **{f"{train}/{name}.txt": lines(EIGHT, 1) for name in names},
            "annotations/VA_Set/Validation_Set/v0.txt": lines("valence,arousal", "0.5,0.5"),
        },
    )
    items = {item.speaker: item for item in affwild2.read(folder)}
    assert items["affwild2-v0"].split == "train" and items["affwild2-v0"].valence is None
    assert "1 valence and arousal of a video that is in another split by its expression" in left_out(caplog)
    assert [name for name, item in items.items() if item.split == "develop"] == ["affwild2-v3"]
    assert affwild2._developing(["a", "b", "c", "d_left", "d_right", "e"]) == {"d_left", "d_right"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("EXPR_Set/Train_Set/a.txt", lines(EIGHT, 8), r"a\.txt, line 2: it is '8'; it must count into"),
        ("VA_Set/Train_Set/a.txt", lines("valence,arousal", "0,0", "0.1"), r"a\.txt, line 3: it is '0\.1'"),
    ],
)
def test_affwild2_annotations_that_are_none(name: str, text: str, message: str, plant: Plant) -> None:
    with pytest.raises(InputError, match=message):
        affwild2.read(plant(*frames("a", 1), texts={f"annotations/{name}": text}))


# --- the project's trimmed copies


@pytest.mark.parametrize(
    ("corpus", "reader", "place"),
    [
        ("ravdess", ravdess.read, "ravdess_speech"),
        ("emodb", emodb.read, "emodb"),
        ("nemo", nemo.read, "nemo"),
    ],
)
def test_trimmed_copies_are_what_the_projects_own_reader_lists(
    corpus: str, reader: Callable[[Path], list[Item]], place: str, data: Path
) -> None:
    known = [
        clip for split in ("train", "develop", "test", "held") for clip in voices.read(data, split, (corpus,))
    ]
    items = reader(data / place)
    assert {(item.voice, item.label, item.speaker) for item in items} == {
        (clip.path, clip.label, clip.speaker) for clip in known
    }
    assert len(items) == len(known)
    if corpus == "nemo":
        assert len({item.text for item in items}) == 20 and all(item.text for item in items)


def test_trimmed_cremad_and_videos(data: Path) -> None:
    clips = cremad.read(data / "cremad")
    assert sorted(item.label for item in clips) == ["anger", "happiness", "sadness"]
    assert {item.speaker for item in clips} == {"cremad-1001"}
    assert all(item.face == item.voice for item in clips + ravdess.read(data / "ravdess_video"))


def test_trimmed_ferplus_has_the_projects_splits(data: Path) -> None:
    items = ferplus.read(data / "ferplus")
    counts = Counter((item.split, item.label) for item in items)
    assert sum(counts.values()) == len(items)
    majority = project_ferplus.read(data / "ferplus", "test").majority
    for place, label in enumerate(LABELS):
        assert counts["test", label] == int((majority == place).sum())
