"""What a worker serves, and how that changes while it answers.

What is new is opened, run on its example rows and measured on a thread, beside the traffic. Only
then are the routes replaced, all at once, on the event loop. What is served no more finishes the
calls that it has, and gives its memory, threads and processes back.

Where a budget of memory is set, a version that does not fit is known and unloaded: it has its
routes, and is loaded at its first request, in the place of the versions least recently used.

The rules:
- until the commit nothing is changed, and a change that was given up leaves nothing behind;
- a version that stays is kept as it is, with its queue and its process;
- a version with calls under way is not unloaded;
- what may take long (files, digests, a child's start and end) is done on the loader's thread.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from bascule.bundle import composition_of, open_program, pinned_program, places_of
from bascule.bundle.disk import EXAMPLE, Manifest, read_file, read_manifest
from bascule.bundle.extras import open_extras
from bascule.bundle.features import FilledProgram, declared
from bascule.bundle.programs import COMPOSITION, check_providers, obstacles
from bascule.bundle.statements import column_names, names_of_projections
from bascule.core import (
    BasculeError,
    Columns,
    Field,
    ModelFailed,
    NoRoom,
    Unavailable,
    Untrusted,
)
from bascule.serving.execution import (
    OWN_SECTION,
    BufferBudget,
    CallerFacts,
    Chain,
    DeprecatedPredictor,
    Engine,
    Facts,
    PolicyFacts,
    Predictor,
    ServedModel,
    around,
    check_chain,
    measure_pace,
    switching_within,
)
from bascule.serving.limits import Limits
from bascule.serving.protocols import Decoder
from bascule.serving.specs import ModelSpec, ModelSpecs, Plans
from bascule.serving.telemetry import Counters, MetricLabels, MetricSeries
from bascule.serving.workers.memory import Resident, choose_evicted, resident_bytes
from bascule.serving.workers.planned_endpoints import (
    PlannedEndpoints,
    check_plans,
    find_version,
)
from bascule.serving.workers.providers import ProviderCheck, providers_of

log = logging.getLogger(__name__)

Argument = TypeVar("Argument")
Result = TypeVar("Result")

_RUNTIMES: set[str] = set()
_LOOK_FOR_ROOM_S = 0.02
LOAD_TIMEOUT_S = 150.0
"""After so long the loader does not come back. The supervisor has given up before."""
_LOADING_SWITCH_S = 0.0005
"""How soon a loading thread lets the event loop go on; Python's own 5 ms would be felt there."""


@dataclass
class _Change:
    """A change on its way: what is to be served, and what was loaded for it so far."""

    services: ModelSpecs
    plans: Plans
    new: dict[ModelSpec, ServedModel] = field(default_factory=dict)


def _anybody_tests(caller: str, endpoint: str) -> None:
    """Where callers need no keys."""


class LoadedModels:
    """The versions of one worker. On the event loop only."""

    def __init__(
        self,
        counters: Counters,
        worker: int,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        serve: Callable[[Iterable[Predictor]], None],
        *,
        policies: Mapping[str, Chain],
        held: BufferBudget,
        check_tester: Callable[[str, str], None] = _anybody_tests,
        callers: CallerFacts | None = None,
    ) -> None:
        """Nothing is served yet.

        Args:
            counters: Where answers are counted.
            worker: The number of this worker.
            limits: The bounds to keep.
            loop: The event loop.
            serve: Has exactly these models answer from now on.
            policies: The policies of models, by their names.
            held: The account of what waits, that the connections of the worker have too.
            check_tester: See `PlannedPredictor`.
            callers: See `PolicyFacts`.
        """
        self._held = held
        self._endpoints = PlannedEndpoints(
            counters, worker, loop, check_tester, self._find, policies, callers
        )
        self._plans: Plans = ()
        self._policies = policies
        self._facts = PolicyFacts(self._find, loop, callers=callers)
        self._counters = counters
        self._worker = worker
        self._limits = limits
        self._loop = loop
        self._serve = serve
        self._budget_bytes = limits.memory_budget_mb * 1_000_000
        self._models: dict[ModelSpec, ServedModel] = {}
        # What routes speak to, by what it is about: routes are kept while it is the same.
        self._predictors: dict[ServedModel, Predictor] = {}
        self._loading: set[ServedModel] = set()
        self._leaving: set[ServedModel] = set()
        self._closing: set[asyncio.Future[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticked_s = loop.time()
        self._changes: dict[int, _Change] = {}
        self._thread = ThreadPoolExecutor(1, "bascule-loader")
        self._loading_since_s = 0.0
        self.is_stuck = False

    def start(self, services: ModelSpecs, plans: Plans = ()) -> None:
        """Serve the first list; what cannot be loaded is raised. It blocks: no caller waits yet."""
        check_providers(self._limits.providers)
        budget_bytes = self._budget_bytes or math.inf
        is_full = False
        for service in services:
            with naming(service):
                self._models[service] = model = self._describe(service)
                model.size_bytes = size = _size_on_disk(model)
                if is_full or self._taken_bytes() + size > budget_bytes:
                    continue
                model.loaded(self._open(model))
                self._check_fits(model)
            if self._taken_bytes() > budget_bytes:
                self._close(model)  # it takes more than its file
                is_full = True  # and each of those that follow could be loaded in vain
        self._check_policies(self._models.values(), plans)
        check_plans(plans, self._models.values())
        self._plans = plans
        self._serve(self._every_predictor())

    async def prepare(self, number: int, services: ModelSpecs, plans: Plans = ()) -> bool:
        """Load what is new in a list. False if the change was given up meanwhile.

        Raises:
            BasculeError: A version cannot be loaded. Nothing of the change is left.
        """
        change = self._changes[number] = _Change(services, plans)
        try:
            for service in services:
                if service not in self._models:
                    with naming(service):
                        model = await self._on_thread(self._describe, service)
                        engine = await self._on_thread(self._open, model)
                        model.loaded(engine)
                        change.new[service] = model
                        self._check_fits(model)
                    if number not in self._changes:
                        self._let_go(change.new.values())
                        return False
            models = [self._models.get(service) or change.new[service] for service in services]
            await self._on_thread(partial(self._check_policies, models), plans)
            check_plans(plans, models)
        except BaseException:
            self.abandon(number)
            raise
        return number in self._changes

    def commit(self, number: int) -> None:
        """Serve the list of a change that was prepared."""
        change = self._changes.pop(number)
        before = self._models
        self._models = {
            service: before[service] if service in before else change.new[service]
            for service in change.services
        }
        self._plans = change.plans
        for model, service in zip(self._models.values(), change.services, strict=True):
            # A version that stays may have other labels, or a notice.
            has_new_notice = model.service.notice != service.notice
            model.service = service
            if has_new_notice:
                self._predictors.pop(model, None)
            predictor = self._predictor_of(model)
            predictor.service = service
            predictor.needs = "manage" if service.is_planned else "infer"
        self._serve(self._every_predictor())
        self._let_go(model for service, model in before.items() if service not in self._models)
        self._make_room(0)

    def abandon(self, number: int) -> None:
        """Let go of what was loaded for a change; one that is not known is gone already."""
        change = self._changes.pop(number, None)
        if change is not None:
            self._let_go(change.new.values())
            change.new = {}

    def tick(self) -> None:
        """Once a second: look again at where the calls of each model run, and that runs end."""
        now_s = self._loop.time()
        if self._loading_since_s and now_s - self._loading_since_s > LOAD_TIMEOUT_S:
            log.error("a model was not loaded in %g s", LOAD_TIMEOUT_S)
            self.is_stuck = True
        passed_s, self._ticked_s = now_s - self._ticked_s, now_s
        engines = [model.engine for model in self._models.values() if model.engine is not None]
        called = sum(engine.calls > 0 for engine in engines)
        shadows = self._endpoints.shadows_alone()
        for engine in engines:
            is_stuck = engine.batcher.end_overdue()
            # No client waits for a shadow: its thread stays, and the worker too.
            self.is_stuck |= is_stuck and engine.by not in shadows
            if engine.calls:
                engine.revisit(passed_s, others_called=called > 1)
        self._endpoints.tick()
        for model in self._models.values():
            runs = 0 if model.engine is None else model.engine.new_runs()
            model.series.note_work(runs, model.open_calls)
            if model.engine is not None:
                model.series.count_parts(model.engine.program.new_part_counts())

    def is_running(self) -> bool:
        """Whether a run is under way on a model's thread."""
        return any(m.engine and m.engine.is_running for m in self._models.values())

    def tell(self) -> list[dict[str, Any]]:
        """How each version is; see `supervisor.ModelState`."""
        return [
            {
                "model": model.name,
                "version": model.version,
                "is_loaded": model.engine is not None,
                "size_bytes": model.size_bytes,
                "inline_rows": 0 if model.engine is None else model.engine.inline_rows,
                "open_calls": model.open_calls,
            }
            for model in self._models.values()
        ]

    # -- on the loader's thread --

    def _describe(self, service: ModelSpec) -> ServedModel:
        series = self._counters.series(self._worker, MetricLabels(service.model, service.version))
        model = describe(service, self._limits, series, self._loop, self._held)
        model.request_load = self._begin_load
        return model

    def _predictor_of(self, model: ServedModel) -> Predictor:
        """The version itself, or under its policy, or with its notice."""
        predictor = self._predictors.get(model)
        if predictor is None:
            facts = self._facts._replace(section=model.name)
            predictor = around(model, self._policies.get(model.name, {}), facts)
            if model.service.notice is not None:
                predictor = DeprecatedPredictor(predictor, model.service.notice)
            self._predictors[model] = predictor
        return predictor

    def _every_predictor(self) -> list[Predictor]:
        """Endpoints before the versions of their name; what a plan says comes first."""
        endpoints = self._endpoints.follow(self._plans)
        predictors: list[Predictor] = []
        for model in self._models.values():
            endpoint = endpoints.pop(model.name, None)
            if endpoint is not None:
                predictors.append(endpoint)
            predictors.append(self._predictor_of(model))
        return [*predictors, *endpoints.values()]

    def _open(self, model: ServedModel) -> Engine:
        self._loading_since_s = self._loop.time()
        try:
            with switching_within(_LOADING_SWITCH_S):
                return open_engine(model, self._loop)
        finally:
            self._loading_since_s = 0.0

    # -- policies --

    def _find(self, reference: str) -> ServedModel | None:
        return find_version(reference, self._models.values())

    def _check_policies(self, models: Iterable[ServedModel], plans: Plans) -> None:
        models = list(models)
        find = partial(find_version, models=models)
        for model in models:
            check_chain(model, self._policies.get(model.name, {}), find)
        for plan in plans:
            own = dict(self._policies.get(plan.endpoint, {}))
            own.pop(OWN_SECTION, None)
            for version in map(find, plan.versions):
                if version is not None:
                    check_chain(version, own, find)

    # -- loading at the first request, and unloading --

    def _begin_load(self, model: ServedModel) -> None:
        if model not in self._loading:
            self._loading.add(model)
            if model not in self._models.values():
                # A call that chose it before a change took it away: it leaves again afterwards.
                self._leaving.add(model)
            task = self._loop.create_task(self._load(model))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _load(self, model: ServedModel) -> None:
        try:
            await self._room_for(model)
            engine = await self._on_thread(self._open, model)
        except BasculeError as error:
            model.load_failed(_cannot_load(model, error))
        except Exception:
            log.exception("%s/%s could not be loaded", model.name, model.version)
            model.load_failed(_cannot_load(model, ModelFailed("it failed")))
        else:
            model.loaded(engine)
            self._make_room(0, but=model)
        finally:
            self._loading.discard(model)
            if model in self._leaving:
                self._leaving.discard(model)
                self._close(model)

    async def _room_for(self, model: ServedModel) -> None:
        """Wait until the model fits, as it did when it was loaded before."""
        until_s = self._loop.time() + self._limits.deadline_s
        while not self._make_room(model.size_bytes):
            if self._loop.time() > until_s:
                raise Unavailable("all that could make room is busy", retry_after_s=1)
            await asyncio.sleep(_LOOK_FOR_ROOM_S)
        if self._closing:
            await asyncio.wait(self._closing, timeout=_LOOK_FOR_ROOM_S * 20)

    def _make_room(self, needed_bytes: int, *, but: ServedModel | None = None) -> bool:
        """Unload the versions least recently used; False where even that is not enough."""
        if not self._budget_bytes:
            return True
        residents = [
            Resident(
                model, model.size_bytes, model.last_used_s, bool(model.open_calls) or model is but
            )
            for model in self._models.values()
            if model.engine is not None
        ]
        evicted = choose_evicted(residents, needed_bytes, self._budget_bytes)
        for model in evicted or ():
            log.debug("%s/%s is unloaded", model.name, model.version)
            self._close(model)
        return evicted is not None

    def _taken_bytes(self) -> int:
        return sum(m.size_bytes for m in self._models.values() if m.engine is not None)

    def _check_fits(self, model: ServedModel) -> None:
        if self._budget_bytes and model.size_bytes > self._budget_bytes:
            raise NoRoom(
                f"{model.name}/{model.version} takes {model.size_bytes / 1e6:.0f} MB, and "
                f"serving.memory_budget_mb is {self._limits.memory_budget_mb}",
                hint="raise it, or serve a smaller model",
            )

    def _let_go(self, models: Iterable[ServedModel]) -> None:
        for model in models:
            self._predictors.pop(model, None)
            if model in self._loading:
                self._leaving.add(model)  # calls that wait are answered first
            else:
                self._close(model)

    def _close(self, model: ServedModel) -> None:
        engine = model.unload()
        model.series.note_work(0 if engine is None else engine.new_runs(), 0)
        if engine is not None:
            closed: asyncio.Future[None] = self._loop.create_future()
            self._closing.add(closed)
            engine.stop(partial(self._close_engine, engine, closed))

    def _close_engine(self, engine: Engine, closed: asyncio.Future[None]) -> None:
        # The thread has the last reference: to take a large model apart takes time as well.
        self._thread.submit(_close, engine)
        trimmed = self._thread.submit(_give_back_memory)  # not before the thread has dropped it
        trimmed.add_done_callback(lambda _: self._tell_closed(closed))

    def _tell_closed(self, closed: asyncio.Future[None]) -> None:
        with suppress(RuntimeError):  # the loop has ended, and with it what waited
            self._loop.call_soon_threadsafe(self._was_closed, closed)

    def _was_closed(self, closed: asyncio.Future[None]) -> None:
        self._closing.discard(closed)
        closed.set_result(None)

    def _on_thread(
        self, call: Callable[[Argument], Result], argument: Argument
    ) -> asyncio.Future[Result]:
        return self._loop.run_in_executor(self._thread, call, argument)


@contextmanager
def naming(service: ModelSpec) -> Iterator[None]:
    """Have errors name the version that could not be loaded, as the fact `version`."""
    try:
        yield
    except BasculeError as error:
        error.facts.setdefault("version", f"{service.model}/{service.version}")
        raise
    except MemoryError:
        raise NoRoom(
            f"there is no memory left to load {service.model}/{service.version}",
            hint="unload another model first", version=f"{service.model}/{service.version}",
        ) from None  # fmt: skip


def _cannot_load(model: ServedModel, why: BasculeError) -> Unavailable:
    # What a model's own code says is for the log: its callers are not its makers.
    reason = why.message
    if isinstance(why, ModelFailed):
        log.error("%s/%s could not be loaded: %s", model.name, model.version, why)
        reason = "it failed"
    return Unavailable(
        f"{model.name}/{model.version} cannot be loaded now: {reason}",
        hint="retry later; see the server's log",
        retry_after_s=1,
    )


def describe(
    service: ModelSpec,
    limits: Limits,
    series: MetricSeries,
    loop: asyncio.AbstractEventLoop,
    held: BufferBudget,
) -> ServedModel:
    """Verify a bundle and read what is to be known of it; nothing is loaded."""
    manifest = read_manifest(service.path)
    name = pinned_program(service.path, manifest)
    entry = manifest.program(name)
    for lacking, next_step in obstacles(manifest.programs).items():
        log.warning(
            "%s/%s: its program %s cannot run here; %s",
            service.model, service.version, lacking, next_step,
        )  # fmt: skip
    signature = manifest.signature
    inputs = signature.inputs if entry is None else entry.inputs
    example: Columns | None = _example(service.path, manifest, inputs, limits)
    features = declared(service.path, manifest) if limits.feature_store else None
    if features is not None:
        signature = replace(signature, inputs=features.fields(signature.inputs))
        inputs, example = features.fields(inputs), None  # no keys are known
    return ServedModel(
        service,
        signature=signature,
        program=Facts(name, inputs, signature.outputs),
        digest=manifest.digest,
        batch_invariant=entry is not None
        and entry.batch_invariant
        and not providers_of(entry, limits),
        pace=None,
        series=series,
        limits=limits,
        loop=loop,
        extras=open_extras(service.path, manifest, {"confidence": limits.confidence}),
        example=example,
        places=places_of(manifest),
        held=held,
        columns=column_names(signature, manifest.classes, manifest.targets)
        | names_of_projections(service.path, manifest),
        allows_non_finite=manifest.allows_non_finite,
        sources=composition_of(service.path, manifest)[0].sources
        if manifest.original.format == COMPOSITION
        else {},
    )


def open_engine(model: ServedModel, loop: asyncio.AbstractEventLoop) -> Engine:
    """Open the program of a model, run its example rows, measure its pace and its memory.

    Raises:
        Untrusted: The bundle is not the one that was described.
    """
    path = model.service.path
    manifest = read_manifest(path, verify=False)
    if manifest.digest != model.digest:
        raise Untrusted(f"the bundle at {path} is another one now", hint="load it again")
    if model.limits.memory_budget_mb:
        _load_runtime(path, manifest, model.program.name, model.limits)
        _give_back_memory()  # or the model is put into what is free, and seems to add nothing
    name = model.program.name
    entry = manifest.program(name)
    providers = providers_of(entry, model.limits)
    check = None
    if providers and entry is not None:
        example = _example(path, manifest, entry.inputs, model.limits)
        check = ProviderCheck(path, manifest, name, example, providers)
    before_bytes = resident_bytes()
    program = open_program(path, manifest, name=name, threads=1, isolated=True, providers=providers)
    features = declared(path, manifest) if model.limits.feature_store else None
    try:
        if check is not None:
            check.compare(program)
        example = _example(path, manifest, program.inputs, model.limits)
        pace = measure_pace(program, example, model.limits)
        if features is not None:
            limits = model.limits
            program = FilledProgram(
                program, features, manifest.signature, limits.feature_store,
                limits.feature_timeout_s,
            )  # fmt: skip
    except BaseException:
        program.close()
        raise
    if program.may_block or features is not None:
        pace = replace(pace, inline_rows=0)
    if model.limits.memory_budget_mb:
        _give_back_memory()  # what was needed for the loading alone is not the model's
    own_bytes = resident_bytes() - before_bytes
    model.size_bytes = max(own_bytes, _size_on_disk(model), model.size_bytes)
    if program.pid is not None:
        model.size_bytes = max(model.size_bytes, resident_bytes(program.pid))
    return Engine(
        program, pace, model.limits, loop,
        by=model.by, held=model.held, size_bytes=model.size_bytes,
        batch_invariant=model.batch_invariant,
    )  # fmt: skip


def _load_runtime(path: Path, manifest: Manifest, program: str, limits: Limits) -> None:
    """Once per kind of program: what all models share is not to be charged to the first."""
    entry = manifest.program(program)
    if entry is not None and entry.kind not in {COMPOSITION, *_RUNTIMES}:
        _RUNTIMES.add(entry.kind)
        providers = providers_of(entry, limits)
        first = open_program(path, manifest, name=program, threads=1, providers=providers)
        measure_pace(first, _example(path, manifest, first.inputs, limits), limits)


def _size_on_disk(model: ServedModel) -> int:
    """The size of the program's file: it takes no less in memory."""
    manifest = read_manifest(model.service.path, verify=False)
    entry = manifest.program(model.program.name)
    file = manifest.original.file if entry is None else entry.file
    return (model.service.path / file).stat().st_size


def _example(path: Path, manifest: Manifest, inputs: tuple[Field, ...], limits: Limits) -> Columns:
    decode = Decoder().for_fields(
        manifest.signature.inputs, inputs, manifest.signature.outputs, limits.max_rows
    )
    _, call, _ = decode(read_file(path, manifest, EXAMPLE))
    return call.columns


def _close(engine: Engine) -> None:
    try:
        engine.close()
    except Exception:
        log.exception("a model could not be closed")


def _give_back_memory() -> None:
    """Return what is free to the system: the allocator would keep it for this process."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, others need none
        if trim is not None:
            trim(0)
