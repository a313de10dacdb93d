from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sys
import wave
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from edgeemo.capture.clip import Clip, _mono, read_pictures, read_sound
from edgeemo.capture.source import Frame, Sound
from edgeemo.errors import InputError, SourceError
from tests.capture.media import RATE, SIDE, cut, end, pictures, tone, write_clip

INDEX_FIRST = {"movflags": "faststart"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    return write_clip(folder / "clip.mov", images=pictures(2, 1), sound=tone(2, 1), options=INDEX_FIRST)


def split(source: Clip) -> tuple[list[Frame], list[Sound]]:
    items = list(source)
    assert [item.time for item in items] == sorted(item.time for item in items)
    frames = [item for item in items if isinstance(item, Frame)]
    return frames, [item for item in items if isinstance(item, Sound)]


def joined(sounds: list[Sound]) -> np.ndarray:
    for before, after in itertools.pairwise(sounds):
        assert after.time == pytest.approx(end(before), abs=1e-9)
    return np.concatenate([sound.samples for sound in sounds])


def blank(path: Path, target: Path, packets: slice) -> Path:
    """Copy a clip with some of its video packets all zeros."""
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for packet in [packet for packet in container.demux(container.streams.video[0]) if packet.size][
            packets
        ]:
            assert packet.pos is not None
            content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    target.write_bytes(content)
    return target


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "edgeemo"]


def write_wave(path: Path, values: np.ndarray, rate: int = 16000, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(values.dtype.itemsize)
        file.setframerate(rate)
        file.writeframes(values.tobytes())
    return path


def test_everything_comes_once_and_in_time_order(clip: Path) -> None:
    source = Clip(clip)
    frames, sounds = split(source)
    assert source.modalities == ("face", "voice")
    assert source.duration == pytest.approx(2.0)
    assert not source.live
    assert [frame.time for frame in frames] == pytest.approx([k / 25 for k in range(50)])
    assert sounds[0].time == 0
    assert np.abs(joined(sounds) - tone(2, 1)).max() < 1e-3
    assert source.stats == {"bad_packets": 0, "truncated": 0}


def test_every_iteration_starts_anew(clip: Path) -> None:
    source = Clip(clip)
    assert len(list(source)) == len(list(source))


def test_flash_and_click_fall_together(clip: Path) -> None:
    frames, sounds = split(Clip(clip))
    flash = next(frame.time for frame in frames if frame.image().mean() > 150)
    click = np.flatnonzero(np.abs(joined(sounds)) > 0.1)[0] / RATE
    assert flash == pytest.approx(click, abs=0.002)


@pytest.mark.parametrize("name", ["late.mkv", "late.mov"])
def test_time_is_zero_where_the_file_starts(name: str, folder: Path) -> None:
    path = write_clip(folder / name, images=pictures(1, 0.5), sound=tone(1, 0.5), begin=7.0)
    frames, sounds = split(Clip(path))
    assert frames[0].time == pytest.approx(0, abs=1e-3)
    assert sounds[0].time == pytest.approx(0, abs=1e-3)
    assert Clip(path).stats["truncated"] == 0


def test_sound_that_all_lies_behind_the_pictures_is_merged(folder: Path) -> None:
    path = write_clip(
        folder / "apart.mov",
        images=pictures(2, 1),
        sound=tone(2, 1),
        options={"max_interleave_delta": "1"},
    )
    with av.open(str(path)) as container:
        kinds = [
            packet.stream.type
            for packet in sorted(
                (packet for packet in container.demux() if packet.pos is not None and packet.size),
                key=lambda packet: packet.pos,
            )
        ]
    assert set(kinds[:40]) == {"video"}
    assert set(kinds[60:120]) == {"audio"}
    frames, sounds = split(Clip(path))
    assert (len(frames), len(joined(sounds))) == (50, 2 * RATE)


def test_pictures_are_converted_only_when_asked_for(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("edgeemo.capture.clip._Converter.__call__", lambda self, frame: asked.append(frame))
    frames, _ = split(Clip(clip))
    assert asked == []
    frames[3].image()
    assert len(asked) == 1


def test_a_picture_is_bgr(folder: Path) -> None:
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[..., 0] = 200  # blue
    path = write_clip(folder / "blue.mov", images=[image] * 3)
    frames, _ = split(Clip(path))
    mean = frames[1].image().mean(axis=(0, 1))
    assert mean[0] > 150
    assert mean[2] < 60
    assert frames[1].image().dtype == np.uint8


@pytest.mark.skipif(not hasattr(av.VideoFrame, "rotation"), reason="this PyAV does not tell the rotation")
@pytest.mark.parametrize(
    ("degrees", "matrix"), [(90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))]
)
def test_a_turned_video_is_upright(degrees: int, matrix: tuple[int, ...], clip: Path, folder: Path) -> None:
    content = bytearray(clip.read_bytes())
    # The 3x3 matrix of the track header: 16.16 numbers, then the last row.
    plain = b"".join((value << 16).to_bytes(4, "big") for value in (1, 0, 0, 0, 1, 0))
    turned = [matrix[0], matrix[1], 0, matrix[2], matrix[3], 0]
    place = content.index(plain, content.index(b"tkhd"))
    content[place : place + 24] = b"".join((value << 16 & 0xFFFFFFFF).to_bytes(4, "big") for value in turned)
    path = folder / f"turned{degrees}.mov"
    path.write_bytes(content)
    straight = next(iter(Clip(clip, ("face",))))
    upright = next(iter(Clip(path, ("face",))))
    assert isinstance(straight, Frame)
    assert isinstance(upright, Frame)
    expected = np.rot90(straight.image(), -degrees // 90)  # clockwise
    assert np.array_equal(upright.image(), expected)


@pytest.mark.parametrize(
    ("modalities", "kinds"),
    [(("face",), {Frame}), (("voice",), {Sound}), (("voice", "face"), {Frame, Sound})],
)
def test_only_what_is_wanted_is_read(modalities: tuple[str, ...], kinds: set[type], clip: Path) -> None:
    source = Clip(clip, modalities)
    assert {type(item) for item in source} == kinds
    assert set(source.modalities) == set(modalities)


@pytest.mark.parametrize("modalities", [(), ("smell",), ("face", "text")])
def test_unknown_modalities_are_refused(modalities: tuple[str, ...], clip: Path) -> None:
    with pytest.raises(InputError, match="'face', 'voice' or both"):
        Clip(clip, modalities)


def test_a_closed_clip_ends(clip: Path) -> None:
    source = Clip(clip)
    items = iter(source)
    next(items)
    source.close()
    assert list(items) == []
    assert list(source) == []


def test_leaving_an_iteration_closes_the_file(clip: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else None
    if before is None:
        pytest.skip("no /proc to count open files in")
    for _ in range(5):
        with contextlib.closing(iter(Clip(clip))) as items:  # type: ignore[type-var]
            next(items)
    assert len(os.listdir("/proc/self/fd")) == before


# What cannot be opened.


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.mp4", None, "no such file"),
        ("empty.mp4", b"", "empty file"),
        ("text.mp4", b"this is no film\n" * 50, "text, not media"),
        ("text.txt", b"this is no film\n" * 50, "text, not media"),  # FFmpeg would draw it as a terminal
        ("text.nfo", "Äpfel sind kein Film\n".encode() * 50, "text, not media"),
        ("noise.bin", bytes(range(251)) * 40, "not media"),
        (
            "list.m3u8",
            b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://[::1]/a.ts\n",
            "text, not media",
        ),
        ("list.ffconcat", b"ffconcat version 1.0\nfile other.mp4\n", "text, not media"),
        ("half.jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01", "not"),
    ],
)
def test_what_is_not_media_is_refused(name: str, content: bytes | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=says) as caught:
        Clip(path)
    assert str(path) in str(caught.value)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="a folder"):
        Clip(tmp_path)


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="needs a device file")
def test_a_device_file_is_refused() -> None:
    with pytest.raises(SourceError, match="a device or a pipe"):
        Clip("/dev/null")


def test_a_name_that_no_system_takes_is_refused() -> None:
    with pytest.raises(SourceError, match=r"cannot be read|no such file"):
        Clip("a\0b.mp4")


def test_a_clip_without_sound_has_no_voice(folder: Path) -> None:
    path = write_clip(folder / "silent.mov", images=pictures(1, 0.5))
    assert Clip(path).modalities == ("face",)
    with pytest.raises(SourceError, match="no sound"):
        read_sound(path)


def test_a_file_of_which_nothing_can_be_decoded_is_refused(folder: Path) -> None:
    path = write_clip(folder / "blank.mov", images=pictures(1, 0.5))
    blank(path, path, slice(None))
    with pytest.raises(SourceError, match="nothing in it can be decoded"):
        list(Clip(path))


# What is damaged.


@pytest.mark.parametrize("name", ["cut.mov", "cut.mkv", "cut.avi"])
def test_a_file_that_was_cut_off_is_read_up_to_the_cut(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = write_clip(
        tmp_path / f"whole{name}", images=pictures(2, 1), sound=tone(2, 1), options=INDEX_FIRST
    )
    source = Clip(cut(whole, tmp_path / name))
    with caplog.at_level(logging.WARNING, "edgeemo"):
        frames, sounds = split(source)
    assert 0.8 < frames[-1].time < 1.6
    assert 0.8 < sounds[-1].time < 1.6
    assert source.stats["truncated"] == 1
    assert warnings(caplog) == [f"{tmp_path / name}: the file was cut off; read up to the cut"]


def test_an_mp4_without_its_index_says_so(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", images=pictures(2, 1))
    with pytest.raises(SourceError, match="index is missing"):
        Clip(cut(whole, tmp_path / "cut.mp4"))


def test_damaged_packets_are_left_out_and_counted(
    clip: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = blank(clip, folder / "damaged.mov", slice(20, 25))
    source = Clip(path)
    with caplog.at_level(logging.WARNING, "edgeemo"):
        frames, sounds = split(source)
    assert len(frames) in range(40, 51)
    assert frames[-1].time == pytest.approx(1.96)
    assert len(joined(sounds)) == 2 * RATE
    assert source.stats["bad_packets"] == 5
    assert source.stats["truncated"] == 0
    assert warnings(caplog) == [f"{path}: 5 damaged packets were left out"]


# Sound.


@pytest.mark.parametrize(
    ("form", "values"),
    [
        ("u8", np.array([[0, 64, 128, 192]], np.uint8)),
        ("s16", np.array([[-32768, -16384, 0, 16384]], np.int16)),
        ("s16p", np.array([[-32768, -16384, 0, 16384]], np.int16)),
        ("s32", np.array([[-(2**31), -(2**30), 0, 2**30]], np.int32)),
        ("flt", np.array([[-1, -0.5, 0, 0.5]], np.float32)),
        ("fltp", np.array([[-3, -0.5, np.nan, 0.5]], np.float32)),  # over full scale and not a number
        ("dbl", np.array([[-np.inf, -0.5, 0, 0.5]], np.float64)),
    ],
)
def test_every_format_of_samples_is_scaled(form: str, values: np.ndarray) -> None:
    samples = _mono(av.AudioFrame.from_ndarray(values, format=form, layout="mono"))
    assert samples.dtype == np.float32
    assert samples.tolist() == [-1.0, -0.5, 0.0, 0.5]


@pytest.mark.parametrize(
    ("form", "values"),
    [("s16", [[16384, 0, -16384, 16384]]), ("s16p", [[16384, -16384], [0, 16384]])],
)
def test_channels_are_averaged(form: str, values: list[list[int]]) -> None:
    frame = av.AudioFrame.from_ndarray(np.array(values, np.int16), format=form, layout="stereo")
    assert _mono(frame).tolist() == [0.25, 0.0]


def test_sound_is_read_to_the_sample(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-32768, 32767, 20_001).astype(np.int16)
    samples, rate = read_sound(write_wave(tmp_path / "a.wav", values, 22050))
    assert rate == 22050
    assert np.array_equal(samples, values.astype(np.float32) / 32768)


def write_blocks(path: Path, starts: list[float], rate: int = 8000) -> Path:
    """Blocks of 0.1 s at 0.25 of full scale, with these times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        for start in starts:
            values = np.full((1, rate // 10), 8192, np.int16)
            block = av.AudioFrame.from_ndarray(values, format="s16", layout="mono")
            block.sample_rate, block.pts = rate, round(start * rate)
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("starts", "read"),
    [
        ([0.0, 0.1, 0.7, 0.8], [0.0, 0.1, 0.7, 0.8]),
        # A longer gap than a minute becomes one, and only once.
        ([0.0, 500.0, 500.1, 500.4], [0.0, 60.1, 60.2, 60.5]),
        ([0.0, 500.0, 1000.0, 1000.1], [0.0, 60.1, 120.2, 120.3]),
    ],
)
def test_a_gap_is_silence(starts: list[float], read: list[float], tmp_path: Path) -> None:
    samples, rate = read_sound(write_blocks(tmp_path / "gap.mkv", starts))
    assert rate == 8000
    expected = np.zeros(round((read[-1] + 0.1) * rate), np.float32)
    for start in read:
        expected[round(start * rate) : round((start + 0.1) * rate)] = 0.25
    assert np.array_equal(samples, expected)


def test_sound_after_a_broken_stamp_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    times, block = (0.0, 1e6, 0.2, 0.3, 0.35), np.full(800, 0.25, np.float32)
    sounds = [Sound(time, block, 8000) for time in times]
    monkeypatch.setattr("edgeemo.capture.clip.Clip", lambda *_: sounds)
    samples, _ = read_sound("broken.wav")
    assert (
        len(samples) == 8000 * 60 + 4.5 * 800
    )  # a minute of silence; of the last block half is there already
    assert np.count_nonzero(samples) == 4.5 * 800


def test_without_pyav_the_message_says_what_to_install(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SourceError, match=r"clip\.mov: .* pip install av") as caught:
        Clip(clip)
    assert str(clip) in str(caught.value)
    with pytest.raises(SourceError, match="no such file"):  # that comes first
        Clip(clip.with_name("missing.mp4"))


def test_sound_that_was_cut_off_is_read_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = write_wave(tmp_path / "whole.wav", np.full(32000, 100, np.int16))
    with caplog.at_level(logging.WARNING, "edgeemo"):
        samples, _ = read_sound(cut(whole, tmp_path / "cut.wav"))
    assert len(samples) == pytest.approx(0.6 * 32000, abs=100)
    assert len(warnings(caplog)) == 1


@pytest.mark.skipif(
    not hasattr(av.stream, "Disposition"), reason="this PyAV cannot tell a cover from a video"
)
def test_the_cover_of_an_album_is_no_video(folder: Path) -> None:
    path = folder / "cover.flac"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=16000, layout="mono")
        block = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), format="s16", layout="mono")
        block.sample_rate, block.pts = 16000, 0
        container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    image = cv2.imencode(".png", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    fields = (3, 9, b"image/png", 0, 16, 16, 24, 0, len(image), image)
    picture = b"".join(field.to_bytes(4, "big") if isinstance(field, int) else field for field in fields)
    content = path.read_bytes()
    header = 4 + 4 + 34  # the mark and the first metadata block
    block_header = bytes([6]) + len(picture).to_bytes(3, "big")
    path.write_bytes(content[:header] + block_header + picture + content[header:])
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    assert Clip(path).modalities == ("voice",)


# Pictures.


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "50%d off: a.png", "ä [1]*?.jpg"])
def test_a_picture_is_a_clip_of_one_frame(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    image = np.full((30, 40, 3), (200, 100, 50), np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    source = Clip(path)
    frames, sounds = split(source)
    assert (source.modalities, source.duration, sounds) == (("face",), 0.0, [])
    assert [frame.time for frame in frames] == [0.0]
    assert np.abs(frames[0].image().astype(int) - image).max() <= 3


def test_pictures_of_a_folder_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number in (10, 9, 100, 1):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), np.full((4, 4, 3), number, np.uint8))
    (tmp_path / "notes.txt").write_text("not a picture")
    assert [int(image[0, 0, 0]) for image in read_pictures(tmp_path)] == [1, 9, 10, 100]
    assert len(read_pictures(tmp_path / "frame9.png")) == 1


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing", None, "no such file"),
        ("empty.png", b"", "empty file"),
        ("text.png", b"text", "not a picture"),
        (".", None, "without pictures"),
    ],
)
def test_pictures_that_cannot_be_read(name: str, content: bytes | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=says):
        read_pictures(tmp_path / name)


# Real recordings.


def test_a_recorded_mp4(data: Path) -> None:
    path = sorted((data / "ravdess_video").glob("*.mp4"))[0]
    source = Clip(path)
    frames, sounds = split(source)
    assert len(frames) / 30000 * 1001 == pytest.approx(source.duration, abs=0.05)
    assert end(sounds[-1]) == pytest.approx(source.duration, abs=0.05)
    assert frames[40].image().shape == (720, 1280, 3)
    assert source.stats == {"bad_packets": 0, "truncated": 0}


def test_a_recorded_flv(data: Path) -> None:
    path = sorted((data / "cremad").glob("*.flv"))[0]
    source = Clip(path)
    frames, sounds = split(source)
    assert frames[0].time == pytest.approx(0.027)  # the sound starts first
    assert sounds[0].time == 0
    assert len(joined(sounds)) / sounds[0].sample_rate == pytest.approx(source.duration, abs=0.1)
    assert source.stats == {"bad_packets": 0, "truncated": 0}


@pytest.mark.parametrize("pattern", ["cremad/*.flv", "emodb/*.flac"])
def test_a_recording_that_was_cut_off(pattern: str, data: Path, tmp_path: Path) -> None:
    path = sorted(data.glob(pattern))[0]
    source = Clip(cut(path, tmp_path / path.name))
    _, sounds = split(source)
    assert source.duration is not None
    assert 0.3 * source.duration < end(sounds[-1]) < 0.8 * source.duration
    assert source.stats["truncated"] == 1
