"""Runs a server in the foreground: the workers, and the control API beside them."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bascule.app import check_signature, holding_served
from bascule.cli.screen import note, print_json, say
from bascule.core.errors import Refused
from bascule.core.scratch import Scratch, sweep
from bascule.remotes import fetch, is_address
from bascule.serving import ModelSpec, RequestLogConfig, ResiliencePolicy, Supervisor, bind
from bascule.serving.telemetry.logs import start_logging
from bascule.serving.transports.hosts import policy_of

if TYPE_CHECKING:
    from bascule.registry import Registry
    from bascule.settings import Settings


log = logging.getLogger(__name__)
fetching_log = logging.getLogger("bascule.remotes")

_LOOK_EVERY_S = 0.2


class _Stop(BaseException):
    """The user, or the system, asked for the end."""


@dataclass(slots=True)
class _Signals:
    """Whether a signal asked for the end, and whether it may interrupt what is being done.

    What a handler raises may be lost, in a destructor for example, and a signal may come just
    before a wait that it was meant to end. So whoever waits also looks now and then.
    """

    came: bool = False
    interrupt: bool = True


def run_server(
    services: Sequence[ModelSpec],
    settings: Settings,
    *,
    find: Callable[[str], ModelSpec],
    find_named: Callable[[str, Path], ModelSpec],
    as_json: bool,
) -> None:
    """Serve until SIGINT or SIGTERM, then let what is under way finish.

    Args:
        services: What to serve at first.
        settings: How.
        find: Finds the version that a reference means, when one is to be loaded later.
        find_named: Finds what is in a folder, to be served under a name, where callers may load.
        as_json: Whether to tell where it serves as a JSON document.

    Raises:
        Conflict: A port is in use.
        Untrusted: Keys are required, and none of them signed what is to be served.
        BasculeError: A worker could not load what it was told to serve.
    """
    from bascule.app import callers_need_keys, limits_of, open_keys, protocols_of, tls_of
    from bascule.settings import ServingSettings

    chosen = settings.serving
    with suppress(OSError):  # there may be no such folder, and none may be needed
        sweep(Path(tempfile.gettempdir()))
    start_logging(chosen.log, level=logging.WARNING)
    if chosen.port == ServingSettings().control_port:
        log.warning(
            "predictions are on port %d, the default of the control API, which is on %s",
            chosen.port, chosen.control_port or "a free one",
        )  # fmt: skip

    if chosen.multi_model and not chosen.memory_budget_mb:
        log.warning("serving.memory_budget_mb is not set: nothing bounds what callers may load")

    def find_trusted(name: str, folder: Path) -> ModelSpec:
        service = find_named(name, folder)
        check_signature(settings, service.path)
        return service

    for service in services:
        check_signature(settings, service.path)
    with _stop_on_signals() as signals, ExitStack() as stack:
        supervisor = Supervisor(
            services,
            host=chosen.host,
            port=chosen.port,
            workers=chosen.workers,
            limits=limits_of(settings),
            keys=open_keys(settings).stored if callers_need_keys(settings) else None,
            keys_stale_s=settings.security.keys_stale_s,
            tls=tls_of(settings),
            unix_socket=Path(chosen.unix_socket) if chosen.unix_socket else None,
            protocols=protocols_of(chosen),
            grpc_port=None if chosen.grpc_port < 0 else chosen.grpc_port,
            policies={name: ResiliencePolicy(**asdict(one)) for name, one in chosen.models.items()},
            journal=RequestLogConfig(
                chosen.log, chosen.access_log, chosen.trace_endpoint, chosen.log_exception_texts
            ),
            find=find_trusted if chosen.multi_model else None,
            allowed_hosts=chosen.allowed_hosts,
        )
        stack.callback(supervisor.stop)
        control = stack.enter_context(
            bind(chosen.host, chosen.control_port, 1, option="--control-port")[0]
        )
        try:
            supervisor.start()
            _announce(supervisor, control.getsockname()[1], settings, as_json=as_json)
            # Only now: loading what the control API needs must not keep predictions waiting.
            signals.interrupt = False
            hold = stack.enter_context(holding_served(lambda: supervisor.services, settings))

            def find_and_hold(reference: str) -> ModelSpec:
                service = find(reference)
                check_signature(settings, service.path)
                hold(service)
                return service

            stack.callback(_start_control(supervisor, control, settings, find_and_hold))
            signals.interrupt = True
            while not signals.came:
                time.sleep(_LOOK_EVERY_S)
        except _Stop:
            pass
        _ignore_signals()
        if not as_json:
            note("stopping: answering what is under way")


@contextmanager
def fetching(references: Sequence[str], settings: Settings) -> Iterator[list[str]]:
    """The references, with the folder of a local copy where one is the address of a place.

    Nobody else can look at the copies or change them, and they are gone after the block. From the
    first byte on, SIGINT and SIGTERM end the command as they end a server.
    """
    if not any(is_address(one) for one in references):
        yield list(references)
        return
    start_logging(settings.serving.log, level=logging.WARNING)
    fetching_log.setLevel(logging.INFO)
    with _stop_on_signals() as signals, ExitStack() as copies:
        try:
            local = [_copy_of(one, copies) if is_address(one) else one for one in references]
            if signals.came:
                raise _Stop
            yield local
        except _Stop:
            raise typer.Exit from None
        finally:
            _ignore_signals()


def _copy_of(url: str, copies: ExitStack) -> str:
    # A worker may start, or a model wake, at any time: the copy stays as long as the server.
    folder = copies.enter_context(Scratch()).resolve() / "bundle"
    fetch(url, folder, tell=fetching_log.info)
    return str(folder)


def check_is_ours(folder: Path) -> None:
    """Refuse a folder that another user of this machine could have put there, or could change.

    A bundle may hold code, and whoever can reach the control port may name a folder. Nobody but
    this user (and root) is to have code run in this user's name.

    Raises:
        Refused: It belongs to somebody else, or others may write to it or on the way to it.
    """
    for place in (folder, *folder.resolve().parents):
        try:
            found = place.stat()
        except OSError:
            return  # loading it will say what is wrong
        if not may_be_trusted(found.st_uid, found.st_mode, os.getuid()):
            raise Refused(
                f"{folder} is not loaded: other users may write to {place}",
                hint="push it to the registry, or load it from a folder of the server's own user",
            )


def may_be_trusted(owner: int, mode: int, user: int) -> bool:
    """Whether only `user` and root decide what is in a folder; in a sticky one each has its own."""
    others_write = bool(mode & (stat.S_IWGRP | stat.S_IWOTH)) and not mode & stat.S_ISVTX
    return owner in (user, 0) and not others_write


def _start_control(
    supervisor: Supervisor,
    listener: socket.socket,
    settings: Settings,
    find: Callable[[str], ModelSpec],
) -> Callable[[], None]:
    """Serve the control API on a thread; returns what ends it."""
    from bascule.app import open_registry, tls_of
    from bascule.console import ControlServer, answering_to, control_app

    def registry() -> Registry:
        return open_registry(settings)

    guard = supervisor.guard()
    hosts = policy_of(listener, settings.serving.allowed_hosts, asks_for_keys=guard is not None)
    app = control_app(supervisor, registry, find, guard)
    server = ControlServer(app if hosts is None else answering_to(hosts, app), tls_of(settings))
    # What was loaded stays: the collector need not look through it, not even at the end.
    gc.collect()
    gc.freeze()
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="bascule-control", daemon=True
    )
    thread.start()

    def end() -> None:
        server.should_exit = True
        thread.join(2.0)

    return end


def _announce(
    supervisor: Supervisor, control_port: int, settings: Settings, *, as_json: bool
) -> None:
    scheme = "https" if settings.serving.tls_certificate else "http"
    host = url_host(supervisor.host)
    base = f"{scheme}://{host}"
    grpc = None if supervisor.grpc_port is None else f"{host}:{supervisor.grpc_port}"
    unix_socket = settings.serving.unix_socket
    with_keys = supervisor.keys_file is not None
    served = [
        {
            "model": service.model,
            "version": service.version,
            "infer": f"{base}:{supervisor.port}/v2/models/{service.model}"
            + ("" if supervisor.is_default(service) else f"/versions/{service.version}")
            + "/infer",
        }
        for service in supervisor.services
    ]
    if as_json:
        print_json(
            {
                "serving": served,
                "predictions": f"{base}:{supervisor.port}",
                **({} if grpc is None else {"grpc": grpc}),
                "control": f"{base}:{control_port}",
                "callers": "keys" if with_keys else "anybody",
                "unix_socket": unix_socket or None,
            }
        )
        return
    for one in served:
        say(f"serving {one['model']}/{one['version']} at {one['infer']}")
    if not served:
        say(f"serving no model yet; POST {base}:{supervisor.port}/models loads one")
    if grpc is not None:
        say(f"gRPC at {grpc}")
    workers = len(supervisor.statuses())
    say(f"{workers} worker{'s' if workers > 1 else ''}; control API at {base}:{control_port}/docs")
    if unix_socket:
        say(f"also at {unix_socket}")
    if with_keys:
        note("callers need a key: bascule keys create NAME --allow infer:MODEL")
    note("Ctrl-C stops it")


def url_host(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


@contextmanager
def _stop_on_signals() -> Iterator[_Signals]:
    signals = _Signals()

    def stop(*_: Any) -> None:
        signals.came = True
        if signals.interrupt:
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
