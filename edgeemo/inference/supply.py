"""Where the engine of a graph comes from: the kept one that fits, else one built here and now, and kept."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgeemo.errors import BackendError, InputError
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.cuda import CudaError
from edgeemo.inference.engines import EngineKey, EngineStore, Missing, Stored, Unwritable
from edgeemo.inference.spec import GraphSpec
from edgeemo.inference.trt import TensorRt, TrtGraph
from edgeemo.inference.trt_builder import Built, Settings, build, profiles
from edgeemo.inference.trt_library import PlanRefused
from edgeemo.inference.trt_progress import Progress

_log = logging.getLogger("edgeemo")
_progress = logging.getLogger("edgeemo.progress")  # a program may show it where its user waits


@dataclass(frozen=True)
class Supplied:
    """An opened engine.

    Args:
        graph: runs it.
        stored: what it is, and where it lies.
        built: whether it was built for this call.
    """

    graph: TrtGraph
    stored: Stored
    built: bool


class EngineSupply:
    """Opens the engines of one bundle.

    Args:
        bundle: the bundle.
        library: TensorRT, opened.
        store: where engines are kept.
        settings: how engines are built; None takes, for each graph, what the last 'edgeemo build' on this
            device was told, and the defaults where there was none.
        rebuild: build also where a kept engine fits.
        progress: told how far a build is, as `trt_builder.build` takes it; None logs it.

    Attributes:
        unkept: why an engine could not be kept, None as long as all were.
    """

    def __init__(
        self,
        bundle: Bundle,
        library: TensorRt,
        store: EngineStore,
        *,
        settings: Settings | None = None,
        rebuild: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.bundle = bundle
        self.library = library
        self.store = store
        self.most = most_faces(bundle)
        self._settings = settings
        self._rebuild = rebuild
        self._progress = progress
        self._waited = False
        self.unkept: Unwritable | None = None

    def key(self, spec: GraphSpec, encoding: str) -> EngineKey:
        """What the engine of a graph must have been built from and for."""
        return self._key(spec, encoding, self._settings_for(spec, encoding))

    def open(self, spec: GraphSpec, encoding: str) -> Supplied:
        """Open the engine of a graph from its file in an encoding.

        Raises:
            BackendError: TensorRT cannot build it, or cannot run what it built.
            BundleError: the graph's file is not the one that the manifest describes.
        """
        settings = self._settings_for(spec, encoding)
        key = self._key(spec, encoding, settings)
        found = self._find(spec, key, settings)
        if isinstance(found, Supplied):
            return found
        with self.store.locked(self.say_waiting) as unwritable:
            # While this process waited another one may have built it.
            found = self._find(spec, key, settings)
            if isinstance(found, Supplied):
                return found
            self._announce(spec, found, unwritable)
            try:
                return self._build(spec, key, settings, unwritable)
            except BackendError as error:
                if not unwritable:
                    with contextlib.suppress(OSError):  # what cannot be looked up later is told now
                        self.store.note_failure(key, str(error))
                raise

    def say_waiting(self) -> None:
        """Say, once, that another process has the store's lock."""
        if not self._waited:
            self._waited = True
            _log.warning("another process builds engines in %s: waiting until it is done", self.store.place)

    def _find(self, spec: GraphSpec, key: EngineKey, settings: Settings) -> Supplied | str:
        """The kept engine, or why there is none that can be used; empty when there never was one."""
        if self._rebuild:
            return ""
        stored = self.store.find(key)
        if isinstance(stored, Missing):
            return stored.reason
        try:
            return Supplied(self._open(stored, spec, settings), stored, built=False)
        except BackendError as error:
            if not _plan_is_at_fault(self.library, error):
                raise
            return f"the engine of {spec.name} cannot be used ({error})"

    def _build(
        self, spec: GraphSpec, key: EngineKey, settings: Settings, unwritable: Unwritable | None
    ) -> Supplied:
        start = time.monotonic()
        try:
            built = self._built(spec, key, settings)
            report = {
                "seconds": round(time.monotonic() - start, 3),
                "typing": built.typing,
                **built.report.to_dict(),
            }
            # Opened before it is kept: a plan that TensorRT does not take back is never found again.
            stored = Stored(key, built.plan, report)
            graph = self._open(stored, spec, settings)
        except PlanRefused as error:
            if not _plan_is_at_fault(self.library, error):
                raise
            raise BackendError(
                f"{error}; it was built here and now, so that another build will not help"
            ) from error
        return Supplied(graph, self._keep(stored, built.timing_cache, unwritable), built=True)

    def _built(self, spec: GraphSpec, key: EngineKey, settings: Settings) -> Built:
        file = spec.files[key.encoding]
        return build(
            self.library,
            self.bundle.read_file(file),
            spec,
            settings,
            name=str(self.bundle.path / file),
            timing_cache=self.store.timing_cache(key),
            progress=self._progress or _Logged(spec.name),
        )

    def _open(self, stored: Stored, spec: GraphSpec, settings: Settings) -> TrtGraph:
        return TrtGraph(
            stored.plan,
            spec,
            self.library,
            encoding=stored.key.encoding,
            most=settings.most,
            dla_core=settings.dla_core,
        )

    def _keep(self, stored: Stored, timing_cache: bytes, unwritable: Unwritable | None) -> Stored:
        if unwritable is None:
            try:
                self.store.keep_timing_cache(stored.key, timing_cache)
                return self.store.publish(stored)
            except OSError as error:
                unwritable = Unwritable.of(error)
        self._note_unkept(unwritable)
        return stored

    def _note_unkept(self, unwritable: Unwritable) -> None:
        """Remember that an engine is not kept; say it once to those who did not ask for a build."""
        if self.unkept is None and self._progress is None:
            _log.warning(
                "engines cannot be kept (%s): they are built again at each start; %s",
                unwritable,
                unwritable.remedy
                or "name a folder that can be written with EDGEEMO_CACHE, or build there with 'edgeemo build "
                "--cache DIR' and start with EDGEEMO_CACHE=DIR",
            )
        self.unkept = self.unkept or unwritable

    def _announce(self, spec: GraphSpec, reason: str, unwritable: Unwritable | None) -> None:
        """Say why a build starts; to those who did not ask for it also how to have it done before."""
        if self._progress is not None:
            if reason:
                _log.warning("%s: it is built again", reason)
            return
        if unwritable is not None:
            self._note_unkept(unwritable)
            if unwritable.reason in reason:
                reason = ""
        _log.warning(
            "%sbuilding the TensorRT engine of %s for %s%s",
            reason and f"{reason}; ",
            spec.name,
            self.library.cuda.name,
            ", which may take minutes"
            if unwritable or self.unkept
            else ": once per device, which may take minutes; 'edgeemo build' does it ahead",
        )

    def _key(self, spec: GraphSpec, encoding: str, settings: Settings) -> EngineKey:
        library = self.library
        chosen = asdict(settings)
        del chosen["most"]  # the profiles say it where it matters
        return EngineKey(
            bundle=self.bundle.name,
            graph=spec.name,
            model=self.bundle.files[spec.files[encoding]][1],
            encoding=encoding,
            profiles=profiles(spec, settings),
            tensorrt=library.version,
            cuda=library.cuda.driver[0],
            capability=".".join(map(str, library.cuda.capability)),
            device=library.cuda.name,
            settings=chosen,
            calibration=spec.calibration,
        )

    def _settings_for(self, spec: GraphSpec, encoding: str) -> Settings:
        if self._settings is not None:
            return for_graph(self._settings, spec, encoding, self.most)
        defaults = for_graph(Settings(), spec, encoding, self.most)
        asked = self.store.settings(self._key(spec, encoding, defaults)) or {}
        chosen: dict[str, Any] = {
            name: asked[name] for name in ("optimization_level", "workspace", "dla_core") if name in asked
        }
        try:
            return for_graph(replace(defaults, **chosen), spec, encoding, self.most)
        except InputError:  # a description that an older edgeemo wrote, or a person
            return defaults


def most_faces(bundle: Bundle) -> int:
    """The largest N of a bundle's graphs."""
    return bundle.face.most if bundle.face else 1


def for_graph(settings: Settings, spec: GraphSpec, encoding: str, most: int) -> Settings:
    """The settings for one graph of a bundle that takes `most` faces at once.

    A DLA takes FP16 graphs of fixed shapes alone: the others of the bundle stay on the GPU.
    """
    settings = replace(settings, most=most)
    fits = encoding == "fp16" and (most == 1 or not profiles(spec, settings))
    return settings if fits else replace(settings, dla_core=None)


def _plan_is_at_fault(library: TensorRt, error: BackendError) -> bool:
    """Whether another plan may help; it does not where the device has no memory or fails."""
    failed = isinstance(error, CudaError) or isinstance(error.__cause__, CudaError)
    return not (failed or library.lost or library.messages.out_of_memory)


class _Logged:
    """Logs how far a build is, when it starts and at each tenth."""

    def __init__(self, graph: str) -> None:
        self._graph = graph
        self._tenths = -1

    def __call__(self, phase: str, fraction: float) -> None:
        if int(10 * fraction) > self._tenths:
            self._tenths = int(10 * fraction)
            _progress.info("engine of %s: %d %% built (%s)", self._graph, 10 * self._tenths, phase)
