"""``edgeemo-export``: train, bundle, evaluate."""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from edgeemo.errors import CheckFailed, EdgeEmoError, InputError

if TYPE_CHECKING:
    from .recipes.default import Trained

C = TypeVar("C")
_Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``edgeemo-export`` and give its exit status.

    0 is done, 1 a check that failed, 2 wrong usage or input, 130 interrupted from the keyboard.
    """
    parser = _parser()
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    for name in ("onnx_ir", "onnxscript"):  # their notes on one export are in the hundreds
        logging.getLogger(name).setLevel(logging.WARNING)
    # It misses torchvision, of which no graph here has an operator.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    try:
        _run(chosen)
    except CheckFailed as error:
        parser.exit(1, f"edgeemo-export: {error}\n")
    except EdgeEmoError as error:
        parser.exit(2, f"edgeemo-export: {error}\n")
    except OSError as error:
        name = error.filename if error.filename2 is None else error.filename2
        told = str(error) if name is None or error.strerror is None else f"{name}: {error.strerror}"
        parser.exit(2, f"edgeemo-export: {told}\n")
    except KeyboardInterrupt:
        parser.exit(130, "edgeemo-export: interrupted\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edgeemo-export", description="Train, export and measure a bundle.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for add in (
        _add_train,
        _add_distil,
        _add_qat,
        _add_bundle,
        _add_adapt,
        _add_data,
        _add_measures,
        _add_studies,
    ):
        add(verbs)
    return parser


def _add_train(verbs: _Verbs) -> None:
    train = verbs.add_parser(
        "train",
        help="train the default system, a published one, or the default's architecture on your own data; "
        "run it again to go on where it stopped",
    )
    on = train.add_mutually_exclusive_group(required=True)
    on.add_argument("--data", type=Path, help="folder of the corpora of the default system")
    on.add_argument(
        "--manifest",
        type=Path,
        help="your own data: the CSV file of edgeemo evaluate, with a column speaker, and split if you made "
        "splits (train, develop, test)",
    )
    train.add_argument(
        "--face-is-cropped", action="store_true", help="the manifest's pictures already are face crops"
    )
    train.add_argument(
        "--speakers-unknown",
        action="store_true",
        help="the manifest does not say who speaks: splits are not by speaker, figures are optimistic",
    )
    train.add_argument(
        "--system",
        choices=("foal-net", "jca", "fdan", "co-attention", "didan"),
        help="a published system, with --data",
    )
    train.add_argument(
        "--encoders",
        type=Path,
        help="with --system: finished run whose face and voice it reads; fdan and didan train their own",
    )
    train.add_argument(
        "--aligned",
        type=Path,
        help="with --system co-attention: folder with word or phone timings, a file of the recording's name "
        "each (.TextGrid, .ctm or .tsv); fixed strides stand for what has none",
    )
    train.add_argument("--run", type=Path, default=Path("runs/default"), help="folder of states and curves")
    train.add_argument("--seed", type=int, default=0)
    _settable(train, "change a setting, such as voice.schedule.epochs=5 (more than once for several)")
    train.add_argument(
        "--threads",
        type=_count,
        default=_threads(),
        help="of each process; several are started by torchrun --nproc-per-node N -m -- edgeemo_export.cli "
        "train ...",
    )


def _add_distil(verbs: _Verbs) -> None:
    distil = verbs.add_parser(
        "distil",
        help="train a part of a run of the default system with finished runs as teachers; run it again to go "
        "on where it stopped",
    )
    distil.add_argument("--data", type=Path, required=True, help="folder of the corpora")
    distil.add_argument(
        "--run", type=Path, required=True, help="run of the default system, of which a part is made"
    )
    distil.add_argument(
        "--teachers",
        type=Path,
        nargs="+",
        required=True,
        help="finished runs: of the default system or of foal-net, jca and fdan",
    )
    distil.add_argument(
        "--part",
        choices=("face", "voice", "fusion"),
        default="fusion",
        help="which; the fusion needs the run's face and voice, and its teachers are fusions; those of an "
        "encoder are runs of the default system, of whatever size",
    )
    distil.add_argument("--seed", type=int, default=0)
    _settable(distil, "change a setting of the part, such as distil=0.5, alignment=avel or schedule.epochs=5")
    distil.add_argument("--threads", type=_count, default=os.cpu_count() or 1)


def _add_qat(verbs: _Verbs) -> None:
    qat = verbs.add_parser(
        "qat",
        help="fine-tune the encoders of a finished run of the default system so that they say in INT8 what "
        "they say in FP32; run it again to go on where it stopped. bundle --qat always writes them",
    )
    qat.add_argument("--data", type=Path, required=True, help="folder of the corpora")
    qat.add_argument(
        "--run",
        type=Path,
        default=Path("runs/default"),
        help="of the default system; its folders face-qat and voice-qat have the training",
    )
    qat.add_argument("--parts", nargs="+", choices=("face", "voice"), default=("face", "voice"))
    qat.add_argument("--seed", type=int, default=0)
    _settable(qat, "change a setting, such as face.schedule.epochs=1 or voice.learned=false")
    qat.add_argument("--threads", type=_count, default=os.cpu_count() or 1)


def _add_bundle(verbs: _Verbs) -> None:
    bundle = verbs.add_parser(
        "bundle", help="write a finished run as a bundle: graphs, INT8 encodings, manifest"
    )
    bundle.add_argument(
        "--data",
        type=Path,
        help="folder of the corpora (INT8 calibration, crop geometry); not for a run of --manifest",
    )
    bundle.add_argument("--run", type=Path, default=Path("runs/default"))
    bundle.add_argument("--seed", type=int, default=0)
    bundle.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    bundle.add_argument("--name", help="of a model trained by --manifest")
    bundle.add_argument("--licence", help="of the weights of a model trained by --manifest")
    bundle.add_argument(
        "--qat",
        choices=("auto", "always", "never"),
        default="auto",
        help="quantisation-aware training of the default system's encoders: where INT8 answers worse than "
        "the gate allows, always, or never",
    )
    bundle.add_argument(
        "--unproven",
        metavar="WHY",
        type=_reason,
        help="write it though INT8 is not held to FP32; the manifest says why",
    )
    bundle.add_argument("--threads", type=_count, default=os.cpu_count() or 1)


def _add_adapt(verbs: _Verbs) -> None:
    adapt = verbs.add_parser(
        "adapt",
        help="adapt a bundle's voice to recordings of the place where it is used, without their labels",
    )
    adapt.add_argument("--bundle", type=Path, required=True, help="folder of the bundle to adapt")
    adapt.add_argument(
        "--target", type=Path, required=True, help="folder of recordings of the place, a folder each session"
    )
    adapt.add_argument(
        "--source",
        type=Path,
        required=True,
        help="labelled voices: the CSV file of edgeemo evaluate, with a column speaker",
    )
    adapt.add_argument("--out", type=Path, required=True, help="folder of the new bundle")
    adapt.add_argument(
        "--unproven",
        metavar="WHY",
        type=_reason,
        help="write it though INT8 is not held to FP32; the manifest says why",
    )
    adapt.add_argument(
        "--labelled", type=Path, help="labelled voices of the place, measured and not learnt from: a CSV file"
    )
    adapt.add_argument("--seed", type=int, default=0)
    _settable(adapt, "change a setting, such as alignment=coral, weight=0.3 or schedule.epochs=5")
    adapt.add_argument("--threads", type=_count, default=os.cpu_count() or 1)


def _add_data(verbs: _Verbs) -> None:
    corpus = verbs.add_parser(
        "corpus", help="write the manifest of a corpus, in the layout in which it is received"
    )
    corpus.add_argument("name", help="such as ravdess, iemocap or meld; another name lists them all")
    corpus.add_argument("--data", type=Path, required=True, help="folder of the corpus")
    corpus.add_argument("--out", type=Path, required=True, help="CSV file to write")
    corpus.add_argument("--fold", help="of a corpus with several; the first without it")
    corpus.add_argument(
        "--speakers-unknown",
        action="store_true",
        help="accept splits that share speakers, or of which nobody knows them: figures are optimistic",
    )
    manifests = verbs.add_parser("manifests", help="write the test sets as manifests for edgeemo evaluate")
    manifests.add_argument("--data", type=Path, required=True)
    manifests.add_argument("--out", type=Path, required=True)


def _add_measures(verbs: _Verbs) -> None:
    results = verbs.add_parser(
        "results", help="measure a bundle on the test sets and write the figures where they are shown"
    )
    results.add_argument("--data", type=Path, required=True)
    results.add_argument("--bundle", type=Path, required=True)
    results.add_argument(
        "--work", type=Path, default=Path("runs/results"), help="folder for the manifests of the test sets"
    )
    results.add_argument("--page", type=Path, help="results page to write")
    results.add_argument(
        "--documents", type=Path, nargs="*", default=[], help="documents whose marked part is rewritten"
    )
    seeds = verbs.add_parser("seeds", help="score finished runs of several seeds and write mean and spread")
    seeds.add_argument("--data", type=Path, required=True)
    seeds.add_argument("--runs", type=Path, nargs="+", required=True, help="two or more run folders")
    seeds.add_argument("--page", type=Path, required=True, help="page to write")
    encoders = verbs.add_parser("encoders", help="score encoders of finished runs beside their teachers")
    encoders.add_argument("--data", type=Path, required=True)
    encoders.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of distil and train")
    encoders.add_argument("--teachers", type=Path, nargs="+", default=[], help="those that taught the others")
    encoders.add_argument("--page", type=Path, required=True, help="page to write")
    encoders.add_argument("--threads", type=_count, default=os.cpu_count() or 1)


def _add_studies(verbs: _Verbs) -> None:
    systems = verbs.add_parser(
        "systems", help="train what is missing of the published systems and their ablations, and measure all"
    )
    systems.add_argument("--data", type=Path, required=True)
    systems.add_argument("--encoders", type=Path, required=True, help="finished run of the default system")
    systems.add_argument("--runs", type=Path, required=True, help="folder of the systems' runs")
    systems.add_argument("--page", type=Path, required=True, help="page to write")
    systems.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    systems.add_argument(
        "--clips", action="store_true", help="look at the audio-visual clips too, once everything is settled"
    )
    systems.add_argument("--threads", type=_count, default=os.cpu_count() or 1)
    fusion = verbs.add_parser(
        "fusion",
        help="train what is missing of the default fusion with alignment and with teachers, and measure all",
    )
    fusion.add_argument("--data", type=Path, required=True)
    fusion.add_argument(
        "--run",
        type=Path,
        required=True,
        help="run of the default system; its folder fusions has the study's",
    )
    fusion.add_argument(
        "--teachers", type=Path, nargs="+", required=True, help="finished runs, as for distil"
    )
    fusion.add_argument("--page", type=Path, required=True, help="page to write")
    fusion.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    fusion.add_argument(
        "--clips", action="store_true", help="look at the audio-visual clips too, once everything is settled"
    )
    _settable(fusion, "change a setting of all variants")
    fusion.add_argument("--threads", type=_count, default=os.cpu_count() or 1)
    transfer = verbs.add_parser(
        "transfer", help="train what is missing of the study across corpora of voices, and write its page"
    )
    transfer.add_argument("--data", type=Path, required=True)
    transfer.add_argument("--runs", type=Path, required=True, help="folder of its runs")
    transfer.add_argument("--page", type=Path, required=True, help="page to write")
    transfer.add_argument("--targets", nargs="+", default=["emodb", "nemo"], choices=("emodb", "nemo"))
    transfer.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    _settable(transfer, "change a setting of all runs")
    transfer.add_argument("--threads", type=_count, default=os.cpu_count() or 1)
    _add_quantisation(verbs)
    _add_presence(verbs)
    _add_window(verbs)


def _add_quantisation(verbs: _Verbs) -> None:
    quantisation = verbs.add_parser(
        "quantisation",
        help="measure methods of quantisation on sets of calibration items, and whether the INT8 encodings "
        "of a bundle agree, and write the page",
    )
    quantisation.add_argument("--data", type=Path, required=True)
    quantisation.add_argument("--bundle", type=Path, required=True)
    quantisation.add_argument("--page", type=Path, required=True, help="page to write")
    quantisation.add_argument(
        "--sizes",
        type=_counts,
        default=(32, 128, 512, 2048),
        help="of the calibration sets, such as 32,128,512,2048",
    )
    quantisation.add_argument("--seeds", type=_count, default=3, help="number of draws of each set")
    quantisation.add_argument(
        "--keep", type=Path, help="folder of what was measured, from which a study that stopped goes on"
    )
    quantisation.add_argument(
        "--run",
        type=Path,
        help="finished run that the bundle was written from: quantisation-aware training is measured too",
    )
    quantisation.add_argument(
        "--threads", type=_count, default=os.cpu_count() or 1, help="of a training; graphs run on one"
    )


def _add_presence(verbs: _Verbs) -> None:
    presence = verbs.add_parser(
        "presence",
        help="measure the presence of speech of a finished run beside Silero's detector, and write the page",
    )
    presence.add_argument(
        "--data", type=Path, required=True, help="folder of the corpora, with models/silero_vad_16k_op15.onnx"
    )
    presence.add_argument("--run", type=Path, default=Path("runs/default"))
    presence.add_argument("--page", type=Path, required=True, help="page to write")
    presence.add_argument("--threads", type=_count, default=os.cpu_count() or 1)


def _add_window(verbs: _Verbs) -> None:
    window = verbs.add_parser(
        "window", help="measure what fusions of shorter and longer windows cost, and write the page"
    )
    window.add_argument("--bundle", type=Path, help="the one in the package by default")
    window.add_argument("--source", type=Path, required=True, help="clip with a face and a voice")
    window.add_argument("--page", type=Path, required=True, help="page to write")
    window.add_argument(
        "--slots", type=_counts, default=(10, 40, 160), help="tokens in a window, such as 10,40,160"
    )
    window.add_argument("--rounds", type=_count, default=50, help="how often the clip is played")


def _settable(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="settings", help=what
    )


def _run(chosen: argparse.Namespace) -> None:
    if chosen.verb == "corpus":
        from .data.corpora import manifest, registry

        found = registry.find(chosen.name)
        manifest.write(found, chosen.data, chosen.out, chosen.fold, speakers_unknown=chosen.speakers_unknown)
        return
    if chosen.verb == "manifests":
        from . import manifests

        manifests.write_all(chosen.data, chosen.out)
        return
    if chosen.verb == "results":
        from . import results

        results.write(chosen.bundle, chosen.data, chosen.work, chosen.page, chosen.documents)
        return
    if chosen.verb == "seeds":
        from . import spread

        spread.write(chosen.runs, chosen.data, chosen.page)
        return
    if chosen.verb == "window":
        from . import window_page

        window_page.write(chosen.bundle, chosen.source, chosen.page, chosen.slots, chosen.rounds)
        return
    import torch

    torch.set_num_threads(chosen.threads)
    verbs = {
        "train": _train_together,
        "distil": _distil,
        "qat": _qat,
        "bundle": _bundle,
        "adapt": _adapt,
        "systems": _systems,
        "fusion": _fusion,
        "transfer": _transfer,
        "quantisation": _quantisation,
        "presence": _presence,
        "encoders": _encoders,
    }
    verbs[chosen.verb](chosen)


def _train_together(chosen: argparse.Namespace) -> None:
    from . import processes

    with processes.joined():
        if processes.rank() > 0:
            logging.getLogger().setLevel(logging.WARNING)
        _train(chosen)


def _threads() -> int:
    """The cores, shared by the processes that torchrun started on this machine."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number, 1 or more")
    return value


def _counts(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(map(_count, text.split(","))))


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; say why in a few words")
    return text


def _train(chosen: argparse.Namespace) -> None:
    from . import processes
    from .data import own
    from .recipes import by_name, default
    from .recipes import own as recipe

    if chosen.system is not None:
        _train_system(chosen)
        return
    if chosen.encoders is not None:
        raise InputError("--encoders is for --system; leave it out")
    if chosen.aligned is not None:
        raise InputError("--aligned is for --system co-attention; leave it out")
    if by_name.is_begun(chosen.run):
        raise InputError(f"{chosen.run}: it holds a run of --system; name that, or give another --run")
    if chosen.manifest is not None:
        with processes.one_by_one():
            begun = own.begin(
                chosen.manifest,
                chosen.run,
                seed=chosen.seed,
                face_is_cropped=chosen.face_is_cropped,
                speakers_unknown=chosen.speakers_unknown,
            )
        recipe.train(begun, _settings(recipe.DEFAULTS, chosen))
        return
    _check_corpora(chosen)
    default.train(chosen.data, chosen.run, _settings(default.DEFAULTS, chosen))


def _train_system(chosen: argparse.Namespace) -> None:
    from .recipes import by_name

    if chosen.data is None:
        raise InputError("--system is trained on the corpora: give --data in place of --manifest")
    if (chosen.run / "voice").exists():
        raise InputError(f"{chosen.run}: it holds a run of the default system; give another --run")
    _check_corpora(chosen)
    config = _settings(by_name.DEFAULTS[chosen.system], chosen)
    by_name.train(chosen.system, chosen.data, chosen.encoders, chosen.run, config, chosen.aligned)


def _distil(chosen: argparse.Namespace) -> None:
    _check_default(chosen.run)
    {"face": _distil_face, "voice": _distil_voice, "fusion": _distil_fusion}[chosen.part](chosen)


def _distil_face(chosen: argparse.Namespace) -> None:
    from .recipes import distilled

    teachers = [distilled.teaching_face(run) for run in chosen.teachers]
    distilled.face_of(chosen.data, chosen.run / "face", teachers, _settings(distilled.FACE, chosen))


def _distil_voice(chosen: argparse.Namespace) -> None:
    from .recipes import distilled

    teachers = [distilled.teaching_voice(run) for run in chosen.teachers]
    distilled.voice_of(chosen.data, chosen.run / "voice", teachers, _settings(distilled.VOICE, chosen))


def _distil_fusion(chosen: argparse.Namespace) -> None:
    from .recipes import taught

    face, voice = taught.encoders(chosen.run)
    config = _settings(taught.DEFAULTS, chosen)
    taught.train(chosen.data, chosen.run / "fusion", face, voice, chosen.teachers, config)


def _fusion(chosen: argparse.Namespace) -> None:
    from . import fusion_page

    fusion_page.write(
        chosen.data,
        chosen.run,
        chosen.teachers,
        chosen.page,
        chosen.seeds,
        settings=chosen.settings,
        clips=chosen.clips,
    )


def _systems(chosen: argparse.Namespace) -> None:
    from . import systems_page

    systems_page.write(
        chosen.data, chosen.encoders, chosen.runs, chosen.page, chosen.seeds, clips=chosen.clips
    )


def _transfer(chosen: argparse.Namespace) -> None:
    from . import transfer_page

    transfer_page.write(
        chosen.data, chosen.runs, chosen.page, chosen.targets, chosen.seeds, tuple(chosen.settings)
    )


def _quantisation(chosen: argparse.Namespace) -> None:
    from . import quantisation_page

    quantisation_page.write(
        chosen.data,
        chosen.bundle,
        chosen.page,
        chosen.sizes,
        chosen.seeds,
        kept=chosen.keep,
        run=chosen.run,
    )


def _presence(chosen: argparse.Namespace) -> None:
    from . import presence_page

    presence_page.write(chosen.data, chosen.run, chosen.page)


def _encoders(chosen: argparse.Namespace) -> None:
    from . import encoders_page

    encoders_page.write(chosen.data, chosen.runs, chosen.teachers, chosen.page)


def _settings(defaults: C, chosen: argparse.Namespace) -> C:
    """The settings of a run: all its parts have one seed, by which `bundle` finds them again."""
    from .config import override, seeded

    config = override(seeded(defaults, chosen.seed), chosen.settings)
    if config != seeded(config, chosen.seed):
        raise InputError("--set: it gives a part a seed of its own; all have that of --seed")
    return config


def _bundle(chosen: argparse.Namespace) -> None:
    from . import bundle, own_bundle, system_bundle
    from .data import own
    from .recipes import by_name
    from .recipes import own as recipe

    bundle.check_folder(chosen.out)  # before anything that takes long
    if chosen.data is None:
        if chosen.name is None or chosen.licence is None:
            raise InputError(
                "give --name and --licence for a run of --manifest, or --data for one of the default"
            )
        begun = own.reopen(chosen.run)
        trained = recipe.train(begun, recipe.settings(begun))
        own_bundle.write(trained, begun, chosen.out, chosen.name, chosen.licence, chosen.unproven or "")
        return
    if chosen.name is not None or chosen.licence is not None:
        raise InputError(
            "--name and --licence are for a run of --manifest; leave them out, or leave --data out"
        )
    if by_name.is_run(chosen.run):
        system = by_name.read(chosen.run, chosen.data)
        if system.seed != chosen.seed:
            raise InputError(f"--seed: {chosen.seed}; the run in {chosen.run} has {system.seed}")
        system_bundle.write(system, chosen.data, chosen.out, chosen.unproven or "")
        return
    _write_default(chosen, _finished_default(chosen))


def _finished_default(chosen: argparse.Namespace) -> Trained:
    """The parts of a finished run of the default system."""
    from .config import seeded
    from .recipes import by_name, default

    _check_default(chosen.run)
    if by_name.is_begun(chosen.run) or not (chosen.run / "fusion" / "state.pt").exists():
        raise InputError(
            f"{chosen.run}: it holds no finished run; call edgeemo-export train, again if it stopped"
        )
    config = seeded(default.settings(chosen.run, default.DEFAULTS), chosen.seed)  # another seed is refused
    return default.train(chosen.data, chosen.run, config)


def _write_default(chosen: argparse.Namespace, parts: Trained) -> None:
    """Write the default bundle; its encoders are trained in INT8 where that is asked for or needed."""
    from . import bundle, proving, qat
    from .config import seeded

    if chosen.qat != "always":
        try:
            bundle.write(parts, chosen.data, chosen.out, chosen.seed, chosen.unproven or "")
            return
        except CheckFailed as error:
            _, figures = proving.pages(chosen.out)
            if chosen.qat == "never" or not qat.needed(json.loads(figures.read_text())):
                raise
            logging.getLogger("edgeemo.export").warning("%s; its encoders are trained in INT8 now", error)
    configs = seeded(qat.settings(chosen.run, qat.DEFAULTS), chosen.seed)
    parts, tables = qat.finetune_default(parts, chosen.data, chosen.run, configs)
    bundle.write(parts, chosen.data, chosen.out, chosen.seed, chosen.unproven or "", tables)


def _qat(chosen: argparse.Namespace) -> None:
    from . import qat

    configs = _settings(qat.DEFAULTS, chosen)
    qat.finetune_default(_finished_default(chosen), chosen.data, chosen.run, configs, chosen.parts)


def _adapt(chosen: argparse.Namespace) -> None:
    from . import adaptation
    from .adaptation_report import page
    from .recipes.adapt import DEFAULTS

    config = _settings(DEFAULTS, chosen)
    report = adaptation.adapt(
        chosen.bundle,
        chosen.target,
        chosen.source,
        chosen.out,
        chosen.labelled,
        config,
        chosen.unproven or "",
    )
    print(page(report))


def _check_corpora(chosen: argparse.Namespace) -> None:
    """What a training on the corpora must not be told, and where it must not go."""
    if chosen.face_is_cropped or chosen.speakers_unknown:
        raise InputError("--face-is-cropped and --speakers-unknown are for --manifest; leave them out")
    _check_default(chosen.run)


def _check_default(run: Path) -> None:
    from .data.own import STATE

    if (run / STATE).exists():
        raise InputError(f"{run}: it holds a run of --manifest; leave --data out, or give another --run")


if __name__ == "__main__":
    raise SystemExit(main())
