"""The command line: what it writes where, and its exit status."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import edgeemo
from edgeemo import cli, doctor
from edgeemo.capture import source as capture_source
from edgeemo.capture.source import Frame
from edgeemo.errors import BackendError, CheckFailed, SourceError
from edgeemo.recognition.emotion import Emotion
from tests.capture.sessions import Made, expire, frame, ordinary, sound

LABELS = ("fear", "neutral")


def answer(hop: int, label: str = "fear") -> Emotion:
    other = LABELS[1 - LABELS.index(label)]
    return Emotion(
        label,
        {label: 0.8, other: 0.2},
        0.1,
        0.2,
        0.8,
        "ok",
        time=(hop + 1) * 0.1,
        track=1,
        modalities=("face",),
    )


class Fakes:
    """A model and a source in place of the real ones; `emotions` is what the source will show."""

    def __init__(self) -> None:
        self.emotions: Callable[[], Iterator[Emotion]] = lambda: iter(
            [answer(0), answer(1), answer(2, "neutral")]
        )
        self.loaded: dict[str, Any] = {}
        self.opened: dict[str, Any] = {}
        self.hop = 0.0
        self.text: str | None = None
        self.closed = False

    def load(self, folder: str | None = None, **options: Any) -> Any:
        self.loaded = {"folder": folder, **options}
        return contextlib.nullcontext(SimpleNamespace(bundle=SimpleNamespace(hop=0.1)))

    def open_source(self, path: str | None = None, **devices: Any) -> Any:
        self.opened = {"path": path, **devices}
        return SimpleNamespace(duration=0.3, close=self.close)

    def close(self) -> None:
        self.closed = True

    def watch(self, source: Any, *, model: Any, hop: float, text: str | None) -> Iterator[Emotion]:
        self.hop, self.text = hop, text
        return self.emotions()


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    fakes = Fakes()
    monkeypatch.setitem(vars(edgeemo), "load", fakes.load)
    monkeypatch.setitem(vars(edgeemo), "watch", fakes.watch)
    monkeypatch.setattr(capture_source, "open_source", fakes.open_source)
    return fakes


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# --- usage


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["run", "--help"], 0),
        ([], 2),
        (["dance"], 2),
        (["run"], 2),  # nothing to watch
        (["run", "clip.mp4", "--camera", "0"], 2),  # two things to watch
        (["run", "clip.mp4", "--microphone", "default"], 2),
        (["run", "clip.mp4", "--precision", "int4"], 2),
        (["run", "clip.mp4", "--backend", "cuda"], 2),
        (["run", "clip.mp4", "--hop", "0"], 2),
        (["run", "clip.mp4", "--hop", "-0.1"], 2),
        (["run", "clip.mp4", "--hop", "nan"], 2),
        (["run", "clip.mp4", "--hop", "often"], 2),
        (["run", "clip.mp4", "--consent"], 2),  # nothing would be recorded
        (["run", "clip.mp4", "--keep", "3"], 2),
        (["run", "clip.mp4", "--record", "sessions", "--keep", "0"], 2),
        (["run", "clip.mp4", "--record", "sessions", "--keep", "1.5"], 2),
        (["run", "clip.mp4", "--record", ""], 2),
        (["forget"], 2),
        (["forget", ""], 2),
        (["evaluate"], 2),
    ],
)
def test_usage(words: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(words)
    assert exit_.value.code == status
    out, err = capsys.readouterr()
    assert (out == "") == (status == 2)
    assert (err == "") == (status == 0)


@pytest.mark.parametrize("text", ["often", "0", "-0.1", "nan", ""])
def test_a_hop_that_is_none_is_explained(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", "clip.mp4", f"--hop={text}"])
    assert f"argument --hop: {text!r}: give seconds above 0, such as 0.1\n" in capsys.readouterr().err


def test_an_empty_name_is_not_the_default_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--bundle", ""]) == 2
    out, err = capsys.readouterr()
    assert (out, err[:17]) == ("", "edgeemo: bundle .")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, edgeemo.cli\n"
        "try: edgeemo.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'onnxruntime', 'cv2', 'av', 'sounddevice', 'torch', 'onnx'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- run


def test_run_json_is_one_object_per_answer(fakes: Fakes, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "clip.mp4", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == [one.to_dict() for one in fakes.emotions()]
    assert err == ""
    assert fakes.closed


def test_run_shows_a_timeline(fakes: Fakes, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "clip.mp4"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "    0.0 -   0.2 s  face 1  fear        [########..] 0.80  face",
        "    0.2 -   0.3 s  face 1  neutral     [########..] 0.80  face",
        "In all: 67 % fear, 33 % neutral",
    ]
    assert err == ""


@pytest.mark.parametrize(
    ("words", "opened", "hop"),
    [
        (["clip.mp4"], {"path": "clip.mp4", "camera": None, "microphone": None}, 0.1),
        (["--camera", "0"], {"path": None, "camera": 0, "microphone": None}, 0.1),
        (["--camera", "/dev/video2"], {"path": None, "camera": "/dev/video2", "microphone": None}, 0.1),
        (["--microphone", "default"], {"path": None, "camera": None, "microphone": "default"}, 0.1),
        (
            ["--camera", "1", "--microphone", "3", "--hop", "0.5"],
            {"path": None, "camera": 1, "microphone": 3},
            0.5,
        ),
    ],
)
def test_run_opens_what_was_named(words: list[str], opened: dict[str, Any], hop: float, fakes: Fakes) -> None:
    assert cli.main(["run", *words]) == 0
    assert fakes.opened == opened
    assert fakes.hop == hop


@pytest.mark.parametrize(("words", "text"), [([], None), (["--text", "words.tsv"], "words.tsv")])
def test_run_gives_the_text_beside_the_clip(words: list[str], text: str | None, fakes: Fakes) -> None:
    assert cli.main(["run", "clip.mp4", *words]) == 0
    assert fakes.text == text


def test_options_reach_the_model(fakes: Fakes) -> None:
    words = ["--bundle", "own", "--backend", "onnx", "--precision", "fp32", "--detector", "yunet.onnx"]
    assert cli.main(["run", "clip.mp4", *words]) == 0
    assert fakes.loaded == {"folder": "own", "backend": "onnx", "precision": "fp32", "detector": "yunet.onnx"}


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (SourceError("camera 0: it was unplugged"), 2, "edgeemo: camera 0: it was unplugged\n"),
        (BackendError("voice: it failed"), 2, "edgeemo: voice: it failed\n"),
        (CheckFailed("int8 is worse"), 1, "edgeemo: int8 is worse\n"),
        (KeyboardInterrupt(), 130, "edgeemo: interrupted\n"),
    ],
)
def test_what_was_seen_before_the_end_is_shown(
    error: BaseException, status: int, message: str, fakes: Fakes, capsys: pytest.CaptureFixture[str]
) -> None:
    def emotions() -> Iterator[Emotion]:
        yield answer(0)
        raise error

    fakes.emotions = emotions
    assert cli.main(["run", "clip.mp4"]) == status
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "    0.0 -   0.1 s  face 1  fear        [########..] 0.80  face",
        "In all: 100 % fear",
    ]
    assert err == message
    assert fakes.closed


def test_warnings_of_the_library_go_to_standard_error(
    fakes: Fakes, capsys: pytest.CaptureFixture[str]
) -> None:
    def emotions() -> Iterator[Emotion]:
        yield answer(0)
        logging.getLogger("edgeemo").warning("clip.mp4: cut off after %.1f s", 0.1)

    fakes.emotions = emotions
    assert cli.main(["run", "clip.mp4", "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert err == "edgeemo: warning: clip.mp4: cut off after 0.1 s\n"
    assert not logging.getLogger("edgeemo").handlers  # a second command would show it twice


def test_a_reader_that_has_enough(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed_pipe:
        monkeypatch.setattr(sys, "stdout", closed_pipe)
        assert cli.main(["run", "clip.mp4", "--json"]) == 0
    assert fakes.closed


@pytest.mark.parametrize(
    ("redirected", "status", "said"),
    [
        (">/dev/full", 2, "edgeemo: standard output cannot be written: No space left on device\n"),
        (">&-", 2, "edgeemo: standard output is closed: there is nowhere to write the answer\n"),
        (">/dev/null 2>&-", 0, ""),
    ],
)
def test_an_output_that_takes_nothing(redirected: str, status: int, said: str) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    words = ["sh", "-c", f'"{sys.executable}" -m edgeemo info {redirected}']
    done = subprocess.run(
        words, cwd=Path(cli.__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (status, said)


# --- recording


@pytest.fixture
def source(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Made:
    """What is recorded; its answers come while it is read."""
    made = Made(*[one for hop in range(3) for one in (sound(hop / 10), frame(hop / 10 + 0.05))], live=True)

    def open_source(path: str | None = None, **devices: Any) -> Made:
        fakes.opened = {"path": path, **devices}
        return made

    def watch(source: Any, **given: Any) -> Iterator[Emotion]:
        for _ in source:
            yield answer(0)

    monkeypatch.setattr(capture_source, "open_source", open_source)
    monkeypatch.setitem(vars(edgeemo), "watch", watch)
    return made


def typed(text: str, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put somebody at a terminal; what they are shown."""
    shown = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(text))
    monkeypatch.setattr(sys, "stderr", shown)
    return shown


@pytest.mark.parametrize("there", [(False, False), (True, False), (False, True)])
def test_without_a_terminal_or_consent_nothing_is_opened(
    there: tuple[bool, bool], source: Made, fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, streams = io.StringIO(), [Terminal("yes\n") if one else io.StringIO("yes\n") for one in there]
    monkeypatch.setattr(sys, "stdin", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    monkeypatch.setattr(sys, "stdout", out)
    assert cli.main(["run", "--camera", "0", "--record", str(tmp_path / "sessions"), "--json"]) == 2
    assert "there is no terminal to ask on; --consent says" in streams[1].getvalue()
    assert out.getvalue() == "" and fakes.opened == {} and fakes.loaded == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("said", ["", "\n", "n\n", "no\n", "maybe\n"])
def test_the_default_answer_is_no(
    said: str, source: Made, fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = typed(said, monkeypatch)
    assert cli.main(["run", "--camera", "0", "--record", str(tmp_path / "sessions")]) == 2
    assert "Does everybody who is seen or heard agree? [y/N] " in shown.getvalue()
    assert "without consent nothing was opened or recorded" in shown.getvalue()
    assert fakes.opened == {} and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "given", "days"),
    [([], "terminal", 30), (["--consent"], "option", 30), (["--keep", "2"], "terminal", 2)],
)
def test_what_was_agreed_to_is_recorded(
    words: list[str],
    given: str,
    days: int,
    source: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = typed("" if given == "option" else "Yes\n", monkeypatch)
    devices = ["--camera", "0", "--microphone", "default"]
    assert cli.main(["run", *devices, "--record", str(tmp_path), "--json", *words]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [answer(0).to_dict()] * 6
    (session,) = tmp_path.iterdir()
    about = json.loads((session / "session.json").read_text())
    assert (about["frames"], about["consent"]["given"]) == (3, given)
    assert about["consent"]["asked"] in shown.getvalue()
    assert f"of camera 0 and microphone default will be kept in {tmp_path}" in about["consent"]["asked"]
    kept = [datetime.strptime(about[name], "%Y-%m-%dT%H:%M:%SZ") for name in ("created", "expires")]
    assert kept[1] - kept[0] == timedelta(days=days) and f"{days} days" in about["consent"]["asked"]
    assert ("[y/N]" in shown.getvalue()) == (given == "terminal")
    assert f"recorded 3 pictures and 0.3 s of sound, in {session}" in shown.getvalue()
    assert source.closed


def test_a_service_that_is_stopped_finishes_its_session(
    source: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watch(source: Any, **given: Any) -> Iterator[Emotion]:
        for event in source:
            if isinstance(event, Frame) and event.time > 0.1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield answer(0)

    monkeypatch.setitem(vars(edgeemo), "watch", watch)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a failure must not end the tests
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main(["run", "--camera", "0", "--record", str(tmp_path), "--consent", "--json"])
        assert ended.value.code == 143
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    (session,) = tmp_path.iterdir()
    assert json.loads((session / "session.json").read_text())["frames"] == 2
    assert source.closed


def test_a_password_of_a_camera_is_not_recorded(source: Made, tmp_path: Path) -> None:
    words = ["--camera", "rtsp://guard:s3cret@hall.local/1", "--record", str(tmp_path), "--consent"]
    assert cli.main(["run", *words]) == 0
    (session,) = tmp_path.iterdir()
    about = (session / "session.json").read_text()
    assert "of camera rtsp://hall.local/1 will be kept" in about and "s3cret" not in about


def test_sessions_whose_time_is_over_go_when_a_new_one_begins(
    source: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, over = ordinary(tmp_path), ordinary(tmp_path).rename(tmp_path / "over")
    expire(over)
    assert cli.main(["run", "--camera", "0", "--record", str(tmp_path), "--consent"]) == 0
    assert f"edgeemo: {over}: its time was over; deleted\n" in capsys.readouterr().err
    assert kept.exists() and not over.exists() and len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_recorded_to_is_refused(
    source: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert cli.main(["run", "clip.mp4", "--record", str(tmp_path / "file"), "--consent", "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and f"--record {tmp_path / 'file'}: cannot be written" in err
    assert source.closed


@pytest.mark.parametrize(
    ("words", "said", "status", "left"),
    [
        (["--yes"], "", 0, 0),
        (["--yes", "--json"], "", 0, 0),
        ([], "y\n", 0, 0),
        ([], "\n", 2, 1),
    ],
)
def test_forget(
    words: list[str],
    said: str,
    status: int,
    left: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    session = ordinary(tmp_path)
    shown = typed(said, monkeypatch)
    assert cli.main(["forget", str(tmp_path), *words]) == status
    out = capsys.readouterr().out
    if "--json" in words:
        assert json.loads(out) == {"deleted": [str(session)]}
    else:
        assert out == ("" if left else f"deleted {session}\n")
    assert len(list(tmp_path.iterdir())) == left
    assert (f"delete {session}" in shown.getvalue()) == (not words)


def test_forget_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = ordinary(tmp_path)
    assert cli.main(["forget", str(session)]) == 2
    assert f"there is no terminal to ask on; --yes deletes {session}" in capsys.readouterr().err
    assert cli.main(["forget", str(tmp_path / "none"), "--yes"]) == 2
    assert "no recorded session" in capsys.readouterr().err
    assert session.exists()


# --- terminals


@pytest.mark.parametrize(
    ("terminal", "variables", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),  # empty counts as not set
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_colour(
    terminal: bool, variables: dict[str, str], coloured: bool, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    out = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    assert cli.main(["run", "clip.mp4"]) == 0
    assert ("\x1b[" in out.getvalue()) == coloured


def test_progress_is_shown_on_a_terminal_and_taken_back(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    err = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", err)
    assert cli.main(["run", "clip.mp4"]) == 0
    assert err.getvalue() == "0.1 of 0.3 s\r\x1b[2K"


@pytest.mark.parametrize(
    ("terminal", "shown"), [(True, "engine of face: 10 % built (Tactics)\r\x1b[2K"), (False, "")]
)
def test_a_build_on_the_way_is_shown_on_a_terminal(
    terminal: bool, shown: str, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*given: Any, **options: Any) -> Any:
        logging.getLogger("edgeemo.progress").info("engine of %s: %d %% built (%s)", "face", 10, "Tactics")
        raise BackendError("enough")

    err = Terminal() if terminal else io.StringIO()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setitem(vars(edgeemo), "load", load)
    assert cli.main(["run", "clip.mp4"]) == 2
    assert err.getvalue() == f"{shown}edgeemo: enough\n"
    assert logging.getLogger("edgeemo.progress").level == logging.NOTSET  # as a program had it


def test_names_that_the_terminal_cannot_show(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "Gefühl")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "name": "\udcff"}))  # no character at all
    done = subprocess.run(
        [sys.executable, "-m", "edgeemo", "info", "--bundle", str(copy)],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        cwd=Path(cli.__file__).parent.parent,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"bundle: \\udcff 1.0" in done.stdout and b"Gef\\xfchl" in done.stdout


# --- the other verbs


def test_evaluate_reports(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import edgeemo.evaluate

    asked: dict[str, Any] = {}

    class Report:
        def to_dict(self) -> dict[str, Any]:
            return {"n": 2, "ua": 0.5}

        def __str__(self) -> str:
            return "2 items"

    def evaluate(
        manifest: str, model: Any, *, face_is_cropped: bool, progress: Callable[[int, int], None]
    ) -> Report:
        progress(1, 2)
        asked.update(manifest=manifest, face_is_cropped=face_is_cropped)
        return Report()

    monkeypatch.setattr(edgeemo.evaluate, "evaluate", evaluate)
    assert cli.main(["evaluate", "manifest.csv", "--face-is-cropped", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"n": 2, "ua": 0.5}
    assert asked == {"manifest": "manifest.csv", "face_is_cropped": True}
    assert cli.main(["evaluate", "manifest.csv"]) == 0
    assert capsys.readouterr() == ("2 items\n", "")
    assert asked["face_is_cropped"] is False


@pytest.mark.parametrize("words", [["fetch-detector"], ["fetch-detector", "--json"]])
def test_fetch_detector(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgeemo.preprocess import detector

    monkeypatch.setattr(detector, "fetch_detector", lambda: Path("yunet.onnx"))
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert (json.loads(out) if "--json" in words else out) == (
        {"path": "yunet.onnx"} if "--json" in words else "yunet.onnx\n"
    )


def _broken() -> doctor.Finding:
    raise OSError("libsomething.so: not found")


def _missing() -> doctor.Finding:
    return "warn", "none found", "connect one"


@pytest.mark.parametrize(
    ("checks", "status"),
    [
        ({"python": lambda: ("ok", "3.12", "")}, 0),
        ({"python": lambda: ("ok", "3.12", ""), "cameras": _missing}, 0),  # no one needs everything
        ({"broken": _broken, "cameras": _missing}, 1),
    ],
)
def test_doctor(
    checks: dict[str, Any], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", checks)
    assert cli.main(["doctor", "--json"]) == status
    told = json.loads(capsys.readouterr().out)
    assert told["works"] == (status == 0)
    assert [check["name"] for check in told["checks"]] == list(checks)
    assert cli.main(["doctor"]) == status
    out = capsys.readouterr().out
    assert all(check["detail"] in out and check["advice"] in out for check in told["checks"])


def test_doctor_explains_a_broken_library() -> None:
    check = doctor.library("edgeemo_is_not_called_this", needed=True, without="no sound", advice="install it")
    assert check() == ("fail", "No module named 'edgeemo_is_not_called_this'; no sound", "install it")
    optional = doctor.library(
        "edgeemo_is_not_called_this", needed=False, without="no sound", advice="install it"
    )
    assert optional()[0] == "warn"


def test_doctor_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("XDG_CACHE_HOME", "EDGEEMO_FACE_DETECTOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(doctor, "CHECKS", {"face detector": doctor.CHECKS["face detector"]})
    (check,) = doctor.examine()
    assert (check.state, check.detail) == ("ok", "cascade of OpenCV")


# --- the real runtime, with a bundle of a few kilobytes


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx", reason="the tiny bundle is written with onnx")
    from tests.support.tiny import write_bundle

    geometry = {
        "cascade": {"scale": 1.0, "dx": 0.0, "dy": 0.0},
        "yunet": {"scale": 1.0, "dx": 0.0, "dy": 0.0},
    }
    return write_bundle(tmp_path_factory.mktemp("bundle"), geometry=geometry)


@pytest.fixture
def no_detector(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No YuNet of the user's: every machine finds the faces of the clip with the same detector."""
    monkeypatch.delenv("EDGEEMO_FACE_DETECTOR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("no_detector")
def test_run_answers_a_clip_from_its_start_to_its_end(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", str(cli.DEMO), "--bundle", str(bundle), "--json"]) == 0
    out, err = capsys.readouterr()
    answers = [json.loads(line) for line in out.splitlines()]
    times = sorted({one["time"] for one in answers})  # one or more faces per hop
    with contextlib.closing(capture_source.open_source(cli.DEMO)) as clip:
        duration = clip.duration
    assert err == ""
    assert times == [round((hop + 1) * 0.1, 3) for hop in range(len(times))]
    assert times[-1] == pytest.approx(duration, abs=0.2)
    assert any(one["modalities"] == ["face", "voice"] for one in answers)


def replayed(
    clip: Path, bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> list[list[dict[str, Any]]]:
    """The answers of a clip while it is recorded, and those of the recording."""
    words = ["--bundle", str(bundle), "--json"]
    assert cli.main(["run", str(clip), *words, "--record", str(folder), "--consent"]) == 0
    first = capsys.readouterr().out
    (session,) = folder.iterdir()
    assert cli.main(["run", str(session), *words]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return [[json.loads(line) for line in text.splitlines()] for text in (first, out)]


def test_a_recorded_voice_is_answered_exactly_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx", reason="the tiny bundle is written with onnx")
    from tests.support.tiny import Tiny, write_bundle

    bundle = write_bundle(tmp_path / "bundle", Tiny(modalities=("voice",)))
    first, again = replayed(cli.DEMO, bundle, tmp_path / "sessions", capsys)
    assert len(first) > 100 and again == first


@pytest.mark.usefixtures("no_detector")
def test_a_recorded_clip_is_answered_as_it_was(
    default_bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Up to what JPEG does to the pictures."""
    clip = min((data / "ravdess_video").glob("*.mp4"))
    first, again = replayed(clip, default_bundle, tmp_path / "sessions", capsys)
    same = ("time", "state", "track", "modalities", "reasons")
    assert [[one[name] for name in same] for one in again] == [[one[name] for name in same] for one in first]
    for one, other in zip(first, again, strict=True):
        assert other["probabilities"] == pytest.approx(one["probabilities"], abs=0.12)
        rival = one["probabilities"][other["label"] or one["label"]]
        assert rival > one["confidence"] - 0.2  # another label only where the two were about as likely


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("missing.mp4", None),
        ("empty.mp4", b""),
        ("text.mp4", b"This is not a film.\n" * 100),
        (".", None),  # a folder
    ],
)
def test_run_refuses_what_is_not_media(
    name: str, content: bytes | None, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert cli.main(["run", str(path), "--bundle", str(bundle)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("edgeemo: ")
    assert str(path) in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("no_detector")
def test_run_answers_a_truncated_clip_up_to_the_cut(
    bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (data / "cremad" / "1001_DFA_HAP_XX.flv").read_bytes()
    (tmp_path / "cut.flv").write_bytes(whole[: len(whole) // 2])
    assert cli.main(["run", str(tmp_path / "cut.flv"), "--bundle", str(bundle), "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) >= 5
    assert err.startswith("edgeemo: warning: ")
    assert "cut.flv" in err


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that reads voice and text."""
    pytest.importorskip("onnx", reason="the tiny bundle is written with onnx")
    from tests.support.tiny import Tiny, write_bundle

    return write_bundle(tmp_path_factory.mktemp("reader"), Tiny(modalities=("voice", "text")))


def test_run_reads_the_words_of_a_clip(
    reader: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "words.tsv"
    table.write_text("start\tend\twords\n0.95\t1.25\tfear!\n0.1\t0.35\tso well\n", "utf-8")
    words = ["run", str(cli.DEMO), "--bundle", str(reader), "--json"]
    assert cli.main([*words, "--text", str(table)]) == 0
    out, err = capsys.readouterr()
    spoken = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    # A hop knows a word from its end on, for a window of 0.5 s.
    times = [one["time"] for one in spoken if "text" in one["modalities"]]
    assert times == [0.4, 0.5, 0.6, 0.7, 0.8, 1.3, 1.4, 1.5, 1.6, 1.7]
    assert all(("no text" in one["reasons"]) != ("text" in one["modalities"]) for one in spoken)
    assert cli.main(words) == 0
    silent = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(silent) == len(spoken) and not any("text" in one["modalities"] for one in silent)
    assert silent[3]["probabilities"] != spoken[3]["probabilities"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "it cannot be read (No such file or directory); each line must be start, end"),
        ("0\t1\twell\n1\t0.5\twell\n", "line 2: the end, 0.5 s, is before the start, 1 s"),
        ("0 1 well\n", "line 1: it has 1 fields; it must be start, end (in seconds) and words"),
    ],
)
def test_run_names_the_line_of_the_words_that_is_wrong(
    content: str | None, says: str, reader: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "words.tsv"
    if content is not None:
        table.write_text(content, "utf-8")
    assert cli.main(["run", str(cli.DEMO), "--bundle", str(reader), "--text", str(table), "--json"]) == 2
    out, err = capsys.readouterr()
    separator = ": " if content is None else ", "
    assert out == "" and err.startswith(f"edgeemo: {table}{separator}{says}") and err.count("\n") == 1


def test_run_says_that_a_bundle_reads_no_text(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "words.tsv").write_text("0\t1\twell\n", "utf-8")
    words = ["run", str(cli.DEMO), "--bundle", str(bundle), "--text", str(tmp_path / "words.tsv")]
    assert cli.main(words) == 2
    said = "edgeemo: text: the bundle tiny reads face and voice; leave text out\n"
    assert capsys.readouterr() == ("", said)


def test_info_prints_the_contract(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--bundle", str(bundle)]) == 0
    out = capsys.readouterr().out
    assert "CC0-1.0" in out and "notice: Made by a test; it knows nothing about emotions." in out
    assert cli.main(["info", "--bundle", str(bundle), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"path": str(bundle), **json.loads((bundle / "manifest.json").read_text())}


def test_info_refuses_an_altered_bundle(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "altered"))
    graph = copy / "face.fp32.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1  # the size stays
    graph.write_bytes(content)
    assert cli.main(["info", "--bundle", str(copy)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "face.fp32.onnx" in err


@pytest.mark.usefixtures("no_detector")
def test_evaluate_measures_a_manifest(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(f"face,voice,label\n{cli.DEMO},{cli.DEMO},fear\n")
    assert cli.main(["evaluate", str(manifest), "--bundle", str(bundle), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"n", "wa", "ua", "recall", "confusion", "labels", "ece", "single", "late"} <= set(told)
    assert told["n"] == 1


def test_evaluate_names_the_line_that_is_wrong(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("face,label\nnowhere.jpg,fear\n")
    assert cli.main(["evaluate", str(manifest), "--bundle", str(bundle)]) == 2
    assert capsys.readouterr().err.startswith(f"edgeemo: {manifest}, line 2: ")


@pytest.mark.usefixtures("no_detector")
def test_demo(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--bundle", str(bundle)]) == 0
    out = capsys.readouterr().out
    assert str(cli.DEMO) in out
    assert out.splitlines()[-1].startswith("In all")
    assert cli.main(["demo", "--bundle", str(bundle), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["emotions"]) > 100
