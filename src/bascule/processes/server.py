"""Runs a server in the foreground: supervises the workers and the control process."""

from __future__ import annotations

import logging
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.app import supervisor_of
from bascule.control import is_path, named_folder, spec_of_folder
from bascule.core import Reference, Scratch, sweep
from bascule.endpoints import Plan
from bascule.processes.control import AS_LONG_AS_IT_TAKES_S, command
from bascule.remotes import is_address
from bascule.serving import ModelSpec, ModelSpecs, Plans, planned
from bascule.serving.telemetry import start_logging
from bascule.serving.workers import Supervisor, bind

if TYPE_CHECKING:
    from bascule.settings import Settings


log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.2
_LINK_S = 30.0


class _Stop(BaseException):
    """The user, or the system, asked for the end."""


@dataclass(slots=True)
class _Signals:
    """Whether a signal asked for the end.

    What a handler raises may be lost, in a destructor for example, and a signal may come just
    before a wait that it was meant to end. So what waits also looks now and then.
    """

    came: bool = False


Announce = Callable[[Supervisor, int, str], None]
"""Tells what is served: the supervisor, the port of the control API, and the path of a one-time
link to sign in, which is empty where nothing asks for one."""


def run_server(
    references: Sequence[str] | None,
    settings: Settings,
    announce: Announce,
    on_stop: Callable[[], None],
) -> None:
    """Serve until SIGINT or SIGTERM, then let what is under way finish.

    This process supervises and no more: what needs HTTP or SQL is asked of the control process.

    Args:
        references: What to serve at first; None for all that `SERVED_ALIASES` names.
        settings: How.
        announce: Called once, when every worker answers.
        on_stop: Called when the end begins, before what is under way is answered.

    Raises:
        Conflict: A port is in use.
        Untrusted: Keys are required, and none of them signed what is to be served.
        BasculeError: A reference cannot be resolved, or a worker could not load.
    """
    with suppress(OSError):  # there may be no such folder, and none may be needed
        sweep(Path(tempfile.gettempdir()))
    chosen = settings.serving
    start_logging(chosen.log, level=logging.WARNING)
    _warn_of_odd_settings(settings)
    with _stop_on_signals() as signals, ExitStack() as stack:
        listener = stack.enter_context(
            bind(chosen.host, chosen.control_port, 1, option="--control-port")[0]
        )
        with suppress(_Stop):
            every = references is None
            # What an image has in it needs no catalogue: a pod starts while that is away.
            of_image = references is not None and [*references] == [chosen.default_model]
            control = command(settings, listener, every_endpoint=every, may_wait=of_image)
            supervisor = supervisor_of(settings, control)
            stack.callback(supervisor.stop)
            supervisor.start(*_resolve(references, supervisor, settings, stack))
            control_port = listener.getsockname()[1]
            link = supervisor.start_control().ask("sign_in_link", _LINK_S) if every else ""
            announce(supervisor, control_port, link)
            supervisor.start_control()
            while not signals.came:
                time.sleep(_LOOK_EVERY_S)
        _ignore_signals()
        on_stop()


def _warn_of_odd_settings(settings: Settings) -> None:
    from bascule.settings import ServingSettings

    chosen = settings.serving
    if chosen.port == ServingSettings().control_port:
        log.warning(
            "predictions are on port %d, the default of the control API, which is on %s",
            chosen.port, chosen.control_port or "a free one",
        )  # fmt: skip
    if chosen.multi_model and not chosen.memory_budget_mb:
        log.warning("serving.memory_budget_mb is not set: nothing bounds what callers may load")


def _resolve(
    references: Sequence[str] | None,
    supervisor: Supervisor,
    settings: Settings,
    stack: ExitStack,
) -> tuple[ModelSpecs, Plans]:
    """What references mean, each once, and the plans of endpoints among their names.

    Folders need no registry, so the control process is started for nothing else, and only after
    the workers answer: what it loads must not keep predictions waiting.
    """
    from bascule.app import check_signature

    if supervisor.keys_file is not None:
        supervisor.start_control()
    every = references is None
    if references is None:
        references = supervisor.start_control().ask("aliased", AS_LONG_AS_IT_TAKES_S)
    copies = Path()
    if any(map(is_address, references)):
        # A worker may start, or a model wake, at any time: the copies stay as long as the server.
        copies = stack.enter_context(Scratch()).resolve()
    folders = {one: spec for one in references if (spec := _folder_of(one)) is not None}
    registered = [one for one in references if one not in folders and not is_address(one)]
    plans, needed = _planned(registered, supervisor, every=every)
    endpoints = {plan.endpoint for plan in plans}
    found: list[ModelSpec] = []
    for reference in references:
        if reference in registered and Reference.parse(reference).model in endpoints:
            continue  # its plan says what answers
        if reference in folders:
            spec = folders[reference]
            check_signature(settings, spec.path)
        else:
            spec = ModelSpec.from_json(
                supervisor.start_control().ask(
                    "resolve", AS_LONG_AS_IT_TAKES_S, reference=reference, folder=str(copies)
                )
            )
        found.append(spec)
    return planned(tuple(dict.fromkeys(found)), plans, needed), plans


def _folder_of(reference: str) -> ModelSpec | None:
    """The bundle of a reference that means a folder of this machine."""
    if is_address(reference):
        return None
    named = named_folder(reference)
    if named is not None:
        return spec_of_folder(named[1], named[0])
    return spec_of_folder(Path(reference)) if is_path(reference) else None


def _planned(
    references: Sequence[str], supervisor: Supervisor, *, every: bool
) -> tuple[Plans, ModelSpecs]:
    """The plans of endpoints with the names of these references, or of all, and what they need."""
    if not references and not every:
        return (), ()
    names = [Reference.parse(one).model for one in references]
    found = supervisor.start_control().ask(
        "planned", AS_LONG_AS_IT_TAKES_S, names=names, every=every
    )
    plans = tuple(Plan.from_json(one["plan"]) for one in found)
    needed = (ModelSpec.from_json(each) for one in found for each in one["versions"])
    return plans, tuple(dict.fromkeys(needed))


@contextmanager
def _stop_on_signals() -> Iterator[_Signals]:
    signals = _Signals()

    def stop(*_: Any) -> None:
        signals.came = True
        raise _Stop

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    # A second Ctrl-C must not leave half of the workers, or of a copy, behind.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
