"""The command `edgeemo`: one verb each.

Exit status: 0 done, 1 a check said no, 2 wrong usage or input, 130 interrupted from the keyboard, 143
ended by SIGTERM; both close what is open first, such as a session that is recorded. A reader that closes the
pipe early has what it wanted, so that is 0.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# Everything heavy is imported by the verb that needs it: `edgeemo --help` must answer at once.
from edgeemo import __version__
from edgeemo.bench.command import add_options as _add_bench_options
from edgeemo.console import Console, OutputError, forget_output, unwound_by_sigterm
from edgeemo.errors import CheckFailed, EdgeEmoError, InputError

if TYPE_CHECKING:
    from edgeemo.capture.recorder import Consent, Recorder
    from edgeemo.capture.source import Source
    from edgeemo.inference.trt_builder import Settings
    from edgeemo.recognition.emotion import Emotion
    from edgeemo.recognition.recognizer import Recognizer

DEMO = Path(__file__).parent / "demo" / "clip.mp4"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status.

    Args:
        argv: The words after the program's name; by default those of this process.

    Raises:
        SystemExit: The words are not a command (status 2), or ask for help (0), or SIGTERM came (143).
    """
    console = Console(sys.stdout, sys.stderr)
    # Standard error is ours: what OpenCV warns of on the way to an error is in the error's words. It reads
    # this when it is imported.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    with console.showing_log(), unwound_by_sigterm():
        try:
            words = sys.argv[1:] if argv is None else list(argv)
            arguments = _parser().parse_args(words)
            arguments.words = words
            status: int = arguments.verb(arguments, console)
            return status
        except EdgeEmoError as error:
            console.message(str(error))
            return 1 if isinstance(error, CheckFailed) else 2
        except KeyboardInterrupt:
            console.message("interrupted")
            return 130
        except BrokenPipeError:
            forget_output()
            return 0
        except OutputError as error:
            forget_output()
            console.message(str(error))
            return 2


# --- verbs: each takes its arguments and the console and returns the exit status


def _run(arguments: argparse.Namespace, console: Console) -> int:
    live = arguments.camera is not None or arguments.microphone is not None
    if live == (arguments.source is not None):
        arguments.usage("name either a clip, or --camera and/or --microphone")
    if arguments.record is None and (arguments.consent or arguments.keep is not None):
        arguments.usage("--consent and --keep go with --record")
    consent = None if arguments.record is None else _consent(arguments, console)
    with _watched(arguments, console, consent) as (emotions, hop):
        if arguments.json:
            for emotion in emotions:
                console.json(emotion.to_dict())
        else:
            _write_timeline(emotions, hop, console)
    return 0


def _demo(arguments: argparse.Namespace, console: Console) -> int:
    arguments.source, arguments.camera, arguments.microphone = DEMO, None, None
    arguments.hop = arguments.text = None
    with _watched(arguments, console) as (emotions, hop):
        if arguments.json:
            console.json({"source": str(DEMO), "emotions": [emotion.to_dict() for emotion in emotions]})
        else:
            console.result(f"An averaged face and a synthetic voice, nobody's, through the labels: {DEMO}")
            _write_timeline(emotions, hop, console)
    return 0


def _evaluate(arguments: argparse.Namespace, console: Console) -> int:
    from edgeemo.evaluate import evaluate

    with _load(arguments) as model:
        report = evaluate(
            arguments.manifest,
            model,
            face_is_cropped=arguments.face_is_cropped,
            progress=lambda done, total: console.status(f"{done} of {total}"),
        )
    if arguments.json:
        console.json(report.to_dict())
    else:
        console.result(str(report))
    return 0


def _compare(arguments: argparse.Namespace, console: Console) -> int:
    from edgeemo.compare import compare
    from edgeemo.inference.bundle import Bundle
    from edgeemo.recognition.recognizer import DEFAULT_BUNDLE

    bundle = Bundle.read(DEFAULT_BUNDLE if arguments.bundle is None else arguments.bundle)
    found = compare(bundle, arguments.source, backend=arguments.backend, progress=console.status)
    if arguments.json:
        console.json(found.to_dict())
    else:
        console.result(str(found))
    found.check()
    return 0


def _bench(arguments: argparse.Namespace, console: Console) -> int:
    from edgeemo.bench import command

    return command.run(arguments, console, shlex.join(["edgeemo", *arguments.words]))


def _build(arguments: argparse.Namespace, console: Console) -> int:
    from edgeemo.build import Workbench, trtexec
    from edgeemo.inference.bundle import Bundle
    from edgeemo.inference.engines import EngineStore
    from edgeemo.recognition.recognizer import DEFAULT_BUNDLE

    bundle = Bundle.read(DEFAULT_BUNDLE if arguments.bundle is None else arguments.bundle)
    settings = _build_settings(arguments)
    if arguments.print_trtexec:
        _write_trtexec(trtexec(bundle, arguments.precision, settings), arguments.json, console)
        return 0
    workbench = Workbench(
        bundle,
        precision=arguments.precision,
        settings=settings,
        store=None if arguments.cache is None else EngineStore(arguments.cache / "engines"),
        rebuild=arguments.rebuild,
        progress=lambda graph, phase, fraction: console.status(f"{graph}: {phase}, {fraction:.0%}"),
    )
    with workbench:
        if not arguments.json:
            console.result(
                "{device}, TensorRT {tensorrt}, CUDA {cuda}, {binding}".format(**workbench.machine)
            )
        engines = []
        for engine in workbench.engines():
            engines.append(engine.to_dict())
            if not arguments.json:
                console.result(str(engine))
        if arguments.json:
            console.json({"bundle": str(bundle.path), **workbench.machine, "engines": engines})
        workbench.check_kept()
    return 0


def _build_settings(arguments: argparse.Namespace) -> Settings:
    from edgeemo.inference.trt_builder import Settings

    given = {
        "optimization_level": arguments.optimization_level,
        "workspace": None if arguments.workspace is None else arguments.workspace << 20,
        "dla_core": arguments.dla,
    }
    return Settings(**{name: value for name, value in given.items() if value is not None})


def _write_trtexec(commands: dict[str, dict[str, str]], as_json: bool, console: Console) -> None:
    if as_json:
        console.json({"trtexec": commands})
        return
    for major, graphs in commands.items():
        for graph, line in graphs.items():
            console.result(f"# {graph}, TensorRT {major}\n{line}\n")


def _forget(arguments: argparse.Namespace, console: Console) -> int:
    from edgeemo.capture.retention import forget, sessions

    found = sessions(arguments.path)
    names = ", ".join(map(str, found))
    if not arguments.yes:
        answer = console.ask(f"delete {names}: pictures, sound and all, for ever?")
        if answer is None:
            raise InputError(f"{arguments.path}: there is no terminal to ask on; --yes deletes {names}")
        if not answer:
            raise InputError(f"{arguments.path}: nothing was deleted")
    for session in found:
        forget(session)
        if not arguments.json:
            console.result(f"deleted {session}")
    if arguments.json:
        console.json({"deleted": [str(session) for session in found]})
    return 0


def _info(arguments: argparse.Namespace, console: Console) -> int:
    from edgeemo.inference.bundle import Bundle
    from edgeemo.recognition.recognizer import DEFAULT_BUNDLE

    bundle = Bundle.read(DEFAULT_BUNDLE if arguments.bundle is None else arguments.bundle)
    bundle.verify()
    if arguments.json:
        console.json({"path": str(bundle.path), **bundle.manifest})
    else:
        console.result(repr(bundle))
    return 0


def _doctor(arguments: argparse.Namespace, console: Console) -> int:
    from edgeemo.doctor import examine

    checks = []
    for check in examine():
        checks.append(check)
        if not arguments.json:
            console.result(f"{check.state:<5} {check.name:<14} {check.detail}")
            if check.advice:
                console.result(f"{'':<5} {'':<14} -> {check.advice}")
    works = all(check.state != "fail" for check in checks)
    if arguments.json:
        console.json({"works": works, "checks": [check.to_dict() for check in checks]})
    return 0 if works else 1


def _fetch_detector(arguments: argparse.Namespace, console: Console) -> int:
    from edgeemo.preprocess.detector import fetch_detector

    path = str(fetch_detector())
    if arguments.json:
        console.json({"path": path})
    else:
        console.result(path)
    return 0


# --- what verbs share


def _load(arguments: argparse.Namespace) -> Recognizer:
    import edgeemo

    return edgeemo.load(
        arguments.bundle,
        backend=arguments.backend,
        precision=arguments.precision,
        detector=arguments.detector,
    )


def _consent(arguments: argparse.Namespace, console: Console) -> Consent:
    """Say what would be recorded and ask whether it may be, before anything is opened."""
    from edgeemo.capture.recorder import KEPT_DAYS, Consent, notice
    from edgeemo.capture.source import without_password

    if arguments.keep is None:
        arguments.keep = KEPT_DAYS
    devices = {"camera": arguments.camera, "microphone": arguments.microphone}
    named = [f"{kind} {without_password(device)}" for kind, device in devices.items() if device is not None]
    seen = arguments.microphone is None or arguments.camera is not None
    heard = arguments.camera is None or arguments.microphone is not None
    modalities = [name for name, there in (("face", seen), ("voice", heard)) if there]
    source = arguments.source or " and ".join(named)
    asked = notice(arguments.record, source, modalities, arguments.keep)
    console.message(asked)
    if arguments.consent:
        return Consent.now(asked, "option")
    answer = console.ask("Does everybody who is seen or heard agree?")
    if answer is None:
        raise InputError(
            "--record: there is no terminal to ask on; --consent says that everybody who is seen or heard "
            "has agreed"
        )
    if not answer:
        raise InputError("--record: without consent nothing was opened or recorded; run without --record")
    return Consent.now(asked, "terminal")


def _record(
    source: Source, consent: Consent, hop: float, arguments: argparse.Namespace, console: Console
) -> Recorder:
    """Delete the sessions whose time is over and begin a new one."""
    from edgeemo.capture.recorder import Recorder
    from edgeemo.capture.retention import forget_expired
    from edgeemo.recognition.clock import HopGrid

    for session in forget_expired(arguments.record):
        console.message(f"{session}: its time was over; deleted")
    index = HopGrid(hop).index
    return Recorder(source, arguments.record, consent=consent, hop=hop, index=index, days=arguments.keep)


@contextlib.contextmanager
def _watched(
    arguments: argparse.Namespace, console: Console, consent: Consent | None = None
) -> Iterator[tuple[Iterator[Emotion], float]]:
    """Open the source that the arguments name; give its emotions and the hop, and show how far it is.

    With consent the source is recorded too.
    """
    import edgeemo
    from edgeemo.capture.source import open_source

    with contextlib.ExitStack() as opened:
        model = opened.enter_context(_load(arguments))
        hop = model.bundle.hop if arguments.hop is None else arguments.hop
        source = open_source(arguments.source, camera=arguments.camera, microphone=arguments.microphone)
        opened.enter_context(contextlib.closing(source))
        if consent is not None:
            # At the bundle's own hop, so that the session can be replayed at any.
            recorder = _record(source, consent, model.bundle.hop, arguments, console)
            opened.callback(lambda: console.message(str(recorder)))
            source = opened.enter_context(contextlib.closing(recorder))
        total = "" if source.duration is None else f" of {source.duration:.1f}"

        def followed() -> Iterator[Emotion]:
            for emotion in edgeemo.watch(source, model=model, hop=hop, text=arguments.text):
                yield emotion
                console.status(f"{emotion.time:.1f}{total} s")

        yield followed(), hop


def _write_timeline(emotions: Iterator[Emotion], hop: float, console: Console) -> None:
    from edgeemo.delivery.lines import Timeline, segment_line

    timeline = Timeline(hop)
    try:
        for emotion in emotions:
            for segment in timeline.add(emotion):
                console.result(segment_line(segment, colour=console.colour))
    finally:
        # Also when it was interrupted or the source broke: what was shown until then is still true.
        for segment in timeline.close():
            console.result(segment_line(segment, colour=console.colour))
        if timeline.hops:
            console.result(timeline.summary())


# --- the words of the command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeemo", description="Emotion from a face and a voice, on the device that sees and hears."
    )
    parser.add_argument("--version", action="version", version=f"edgeemo {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    run = _verb(verbs, "run", _run, "answer a clip, a camera and/or a microphone")
    run.set_defaults(usage=run.error)
    run.add_argument(
        "source", nargs="?", metavar="SOURCE", help="a video, a sound file, a picture or a recorded session"
    )
    run.add_argument("--camera", type=_device, metavar="N|PATH", help="a camera, such as 0")
    run.add_argument("--microphone", type=_device, metavar="NAME", help="a microphone, or 'default'")
    run.add_argument(
        "--hop", type=_seconds, metavar="S", help="seconds between answers (a multiple of the bundle's)"
    )
    run.add_argument(
        "--text", metavar="WORDS.tsv", help="what is said in the clip, a line each: start, end, words"
    )
    _record_options(run)
    _model_options(run)

    evaluate = _verb(verbs, "evaluate", _evaluate, "measure a bundle on labelled recordings")
    evaluate.add_argument(
        "manifest", metavar="MANIFEST.csv", help="columns: label, and any of face, voice, text"
    )
    evaluate.add_argument(
        "--face-is-cropped", action="store_true", help="the pictures are face crops in the manner of FER+"
    )
    _model_options(evaluate)

    compare = _verb(verbs, "compare", _compare, "hold every engine and precision of this machine to FP32")
    _bundle_option(compare)
    compare.add_argument(
        "--source", metavar="CLIP", default=DEMO, help="what they answer (default: the clip in the package)"
    )
    _backend_option(compare)

    bench = _verb(verbs, "bench", _bench, "measure what a step costs on this machine")
    bench.add_argument(
        "--source", metavar="CLIP", default=DEMO, help="what is played (default: the clip in the package)"
    )
    bench.add_argument(
        "--seconds", type=_seconds, metavar="S", default=10.0, help="how long to measure (default: 10)"
    )
    _model_options(bench)
    _add_bench_options(bench, _whole("the number of threads", 1), _seconds)

    _build_options(_verb(verbs, "build", _build, "build the TensorRT engines of a bundle ahead"))
    info = _verb(verbs, "info", _info, "say what a bundle takes, answers and may be used for")
    _bundle_option(info)
    forget = _verb(verbs, "forget", _forget, "delete recorded sessions")
    forget.add_argument("path", type=_folder, metavar="DIR", help="a session, or a folder of sessions")
    forget.add_argument("--yes", action="store_true", help="do not ask")
    _verb(verbs, "doctor", _doctor, "check that edgeemo works on this machine")
    _model_options(_verb(verbs, "demo", _demo, "answer a short clip that comes with the package"))
    _verb(verbs, "fetch-detector", _fetch_detector, "download the face detector YuNet (232 kB)")
    return parser


_Verb = Callable[[argparse.Namespace, Console], int]


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, verb: _Verb, what: str
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    parser.set_defaults(verb=verb)
    parser.add_argument("--json", action="store_true", help="write JSON to standard output, and nothing else")
    return parser


def _bundle_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", metavar="DIR", help="the model (default: the one in the package)")


def _model_options(parser: argparse.ArgumentParser) -> None:
    _bundle_option(parser)
    _backend_option(parser)
    _precision_option(parser)
    parser.add_argument(
        "--detector", metavar="FILE", help="a YuNet face detector (default: see 'edgeemo doctor')"
    )


def _record_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--record",
        type=_folder,
        metavar="DIR",
        help="keep pictures and sound in a new folder there; asks first",
    )
    parser.add_argument(
        "--consent",
        action="store_true",
        help="everybody who is seen or heard has agreed: record without asking",
    )
    parser.add_argument(
        "--keep",
        type=_whole("whole days", 1, 36500),
        metavar="DAYS",
        help="how long the recording may be kept (default: 30)",
    )


def _precision_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--precision", choices=("int8", "fp16", "fp32"), default="int8")


def _build_options(parser: argparse.ArgumentParser) -> None:
    _bundle_option(parser)
    _precision_option(parser)
    parser.add_argument(
        "--workspace",
        type=_whole("whole megabytes", 1, 1 << 20),
        metavar="MB",
        help="memory that one kernel may take (default: 1024)",
    )
    parser.add_argument(
        "--optimization-level",
        type=_whole("a level", 0, 5),
        metavar="N",
        help="0, built fast, to 5, searched longest (default: 3)",
    )
    parser.add_argument(
        "--dla",
        type=_whole("the number of a DLA core", 0),
        metavar="CORE",
        help="run what it can of FP16 graphs on this DLA core",
    )
    parser.add_argument(
        "--cache",
        type=_folder,
        metavar="DIR",
        help="keep engines there; start with EDGEEMO_CACHE=DIR to have them used",
    )
    parser.add_argument("--rebuild", action="store_true", help="build also what is there")
    parser.add_argument(
        "--print-trtexec",
        action="store_true",
        help="print the trtexec commands that build the same engines, and build nothing",
    )


def _backend_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backend", choices=("auto", "onnx", "tensorrt"), default="auto")


def _device(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError(f"{text!r}: give the name of a folder")
    return Path(text).absolute()


def _whole(what: str, least: int, most: int | None = None) -> Callable[[str], int]:
    """Make the type of an option that takes whole numbers of `what`, from `least` to `most`."""
    right = f"{what}, {least} or more" if most is None else f"{what}, {least} to {most}"

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"{text!r}: give {right}")
        return value

    return read


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: give seconds above 0, such as 0.1")
    return value
