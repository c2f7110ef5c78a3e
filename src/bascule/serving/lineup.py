"""What a worker serves, and how that changes while it answers.

What is new is opened, run on its example rows and measured on a thread, beside the traffic. Only
then are the routes replaced, all at once, on the event loop. What is served no more finishes the
calls that it has, and gives its memory, threads and processes back.

The rules:
- until the turn nothing is changed, and a change that was given up leaves nothing behind;
- a version that stays is kept as it is, with its queue and its process;
- whatever may take long (files, digests, a child's start and end) is done on the loader's thread.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from bascule.bundle.calibration import read_calibration
from bascule.bundle.format import EXAMPLE, Manifest, open_program, read_file, read_manifest
from bascule.bundle.programs import runnable
from bascule.core.fields import Columns
from bascule.core.programs import Program
from bascule.serving.counters import Counters, Label, Slot
from bascule.serving.engine import Engine, measure_pace
from bascule.serving.limits import Limits
from bascule.serving.models import ServedModel
from bascule.serving.protocols.oip_json import Decoder
from bascule.serving.services import Service, Services

log = logging.getLogger(__name__)

_LOADING_SWITCH_S = 0.0005
"""How soon a loading thread lets the event loop go on; Python's own 5 ms would be felt there."""


@dataclass
class _Change:
    """A change on its way: what is to be served, and what was loaded for it so far."""

    services: Services
    new: dict[Service, ServedModel] = field(default_factory=dict)


class Lineup:
    """The versions of one worker. On the event loop only."""

    def __init__(
        self,
        counters: Counters,
        worker: int,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        serve: Callable[[Iterable[ServedModel]], None],
    ) -> None:
        """Nothing is served yet.

        Args:
            counters: Where answers are counted.
            worker: The number of this worker.
            limits: The bounds to keep.
            loop: The event loop.
            serve: Has exactly these models answer from now on.
        """
        self._counters = counters
        self._worker = worker
        self._limits = limits
        self._loop = loop
        self._serve = serve
        self._models: dict[Service, ServedModel] = {}
        self._changes: dict[int, _Change] = {}
        self._thread = ThreadPoolExecutor(1, "bascule-loader")

    def start(self, services: Services) -> None:
        """Serve the first list; what cannot be loaded is raised. It blocks: nobody waits yet."""
        self._models = {service: self._open(service) for service in services}
        self._serve(self._models.values())

    async def prepare(self, number: int, services: Services) -> bool:
        """Load what is new in a list. False if the change was given up meanwhile.

        Raises:
            BasculeError: A version cannot be loaded. Nothing of the change is left.
        """
        change = self._changes[number] = _Change(services)
        try:
            for service in services:
                if service not in self._models:
                    model = await self._loop.run_in_executor(self._thread, self._open, service)
                    change.new[service] = model
                    if number not in self._changes:
                        self._let_go(change.new.values())
                        return False
        except BaseException:
            self.abandon(number)
            raise
        return True

    def commit(self, number: int) -> None:
        """Serve the list of a change that was prepared."""
        change = self._changes.pop(number)
        before = self._models
        self._models = {
            service: before[service] if service in before else change.new[service]
            for service in change.services
        }
        self._serve(self._models.values())
        self._let_go(model for service, model in before.items() if service not in self._models)

    def abandon(self, number: int) -> None:
        """Let go of what was loaded for a change; one that is not known is gone already."""
        change = self._changes.pop(number, None)
        if change is not None:
            self._let_go(change.new.values())
            change.new = {}

    def _open(self, service: Service) -> ServedModel:
        switch_s = sys.getswitchinterval()
        sys.setswitchinterval(_LOADING_SWITCH_S)
        try:
            slot = self._counters.slot(self._worker, Label(service.model, service.version))
            return load_model(service, self._limits, slot, self._loop)
        finally:
            sys.setswitchinterval(switch_s)

    def _let_go(self, models: Iterable[ServedModel]) -> None:
        for model in models:
            engine = model.engine
            engine.stop(partial(self._close, engine))

    def _close(self, engine: Engine) -> None:
        # The thread has the last reference: to take a large model apart takes time as well.
        self._thread.submit(_close, engine)
        self._thread.submit(_give_back_memory)  # not before the thread has dropped it


def load_model(
    service: Service, limits: Limits, slot: Slot, loop: asyncio.AbstractEventLoop
) -> ServedModel:
    """Verify and open a bundle, run its example rows, and measure its pace."""
    manifest = read_manifest(service.path)
    program = open_program(service.path, manifest, threads=1, isolated=True)
    try:
        return _measured(service, manifest, program, limits, slot, loop)
    except BaseException:
        close = getattr(program, "close", None)
        if close is not None:
            close()
        raise


def _measured(
    service: Service,
    manifest: Manifest,
    program: Program,
    limits: Limits,
    slot: Slot,
    loop: asyncio.AbstractEventLoop,
) -> ServedModel:
    entry = manifest.program(program.name)
    for lacking in {entry.name for entry in manifest.programs} - {*runnable(manifest.programs)}:
        log.warning(
            "%s/%s: its program %s cannot run here; pip install 'bascule[%s]'",
            service.model,
            service.version,
            lacking,
            lacking,
        )
    example = _example(service.path, manifest, program, limits)
    pace = measure_pace(program, example, limits)
    if getattr(program, "may_block", False):
        pace = replace(pace, inline_rows=0)
    return ServedModel(
        service,
        signature=manifest.signature,
        program=program,
        digest=manifest.digest,
        batch_invariant=entry is not None and entry.batch_invariant,
        pace=pace,
        slot=slot,
        limits=limits,
        loop=loop,
        calibration=read_calibration(service.path, manifest),
    )


def _example(path: Path, manifest: Manifest, program: Program, limits: Limits) -> Columns:
    decode = Decoder().for_fields(
        manifest.signature.inputs, program.inputs, manifest.signature.outputs, limits.max_rows
    )
    _, call = decode(read_file(path, manifest, EXAMPLE))
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
