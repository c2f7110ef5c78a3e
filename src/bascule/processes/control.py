"""The control process: as a supervisor starts it, with `python -m` and this name, or alone."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.app import cluster_of, control_parts, models_with, watcher_of
from bascule.bundle.programs import die_with
from bascule.control import (
    Answers,
    Parts,
    ServerLink,
    anchoring,
    facts_of,
    following_plans,
    holding_served,
    is_path,
    open_keys_file,
    serve_api,
    turning,
    volunteer_for_the_oom_killer,
)
from bascule.core import BasculeError
from bascule.kinds import judging, runner_of
from bascule.serving.execution import Meters
from bascule.serving.telemetry import Counters, start_logging
from bascule.serving.transports import Authenticator
from bascule.serving.workers import Command, Peer, bind

if TYPE_CHECKING:
    from bascule.monitoring.alerts.sources import ServerFacts
    from bascule.serving import ModelSpec
    from bascule.settings import Settings

log = logging.getLogger(__name__)

_BEAT_EVERY_S = 0.2
_PAUSE_S = 1.0
AS_LONG_AS_IT_TAKES_S = 86_400.0
"""For what has no bound of its own: a copy from a bucket, and what waits for one."""
_NOT_STARTED_EXIT = 3


def command(
    settings: Settings,
    listener: socket.socket,
    *,
    every_endpoint: bool = False,
    may_wait: bool = False,
) -> Command:
    """What a supervisor starts; the process keeps these settings if their files change.

    `every_endpoint`: whether the server serves every endpoint of the catalogue. `may_wait`: whether
    it may begin while the catalogue of the keys is away.
    """
    from bascule.settings import to_json

    plain = to_json(settings)
    argv = (sys.executable, "-m", "bascule.processes.control")
    question = {
        "settings": plain, "every_endpoint": every_endpoint, "may_wait": may_wait,
        "listener_fd": listener.fileno(), "control_port": listener.getsockname()[1],
    }  # fmt: skip
    return Command(argv, fds=(listener.fileno(),), question=question)


def main() -> int:
    """Run the control process of a supervisor; the exit code is 3 if there are no keys to read."""
    supervisor_pid, descriptor = map(int, sys.argv[1:])
    die_with(supervisor_pid)
    gc.set_threshold(10_000)  # a sixth of the time of a start went into it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which a supervisor that stops ignores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor to act on
    volunteer_for_the_oom_killer()
    answers: Future[Answers] = Future()
    end = socket.socket(fileno=descriptor)
    peer = Peer(end, lambda what, said: answers.result()(what, said), name="the supervisor")
    peer.start()
    config = json.load(sys.stdin)
    counters = Counters(Path(f"/dev/fd/{config['counters_fd']}"), config["workers"])
    meters = Meters(Path(f"/dev/fd/{config['meters_fd']}"))
    turned = _beat_until_set(counters)
    settings = _settings_of(config)
    _start_logging(settings)
    parts = _parts_of(settings)
    answers.set_result(mine := Answers(parts))
    try:
        guard, token = _start_keys(config["keys_fd"], counters, parts, may_wait=config["may_wait"])
    except BasculeError as error:
        log.error("keys cannot be read: %s", error)  # noqa: TRY400 -- in one line, by design
        mine.settle_keys(error)
        peer.ended.wait(1.0)  # the supervisor may be about to read why
        return _NOT_STARTED_EXIT
    mine.settle_keys(None)
    peer.ask("begin", AS_LONG_AS_IT_TAKES_S)
    server = ServerLink(counters, peer, host=config["host"], port=config["port"], token=token)
    parts = replace(parts, open_jobs=cache(partial(runner_of, settings, server)))
    listener = socket.socket(fileno=config["listener_fd"])

    def beat() -> None:
        if not peer.ended.is_set():  # without a supervisor to ask, this process is of no use
            counters.beat_control()

    every_endpoint = config["every_endpoint"]
    with _watching(settings, counters, parts, (server.place, partial(facts_of, server))):
        _serve(
            server, listener, beat, mine, parts, guard, turned, settings, meters,
            every_endpoint=every_endpoint,
        )  # fmt: skip
    return 0


def _serve(
    server: ServerLink,
    listener: socket.socket,
    beat: Callable[[], None],
    answers: Answers,
    parts: Parts,
    guard: Authenticator | None,
    turned: threading.Event,
    settings: Settings,
    meters: Meters,
    *,
    every_endpoint: bool,
) -> None:
    # The supervisor must not load SQL.
    from bascule.control import rolling_out, running_rollouts

    def on_turn() -> None:
        turned.set()
        beat()

    with holding_served(
        lambda: server.services, parts.open_registry, server_pid=os.getppid(), after=turned
    ) as hold:

        def find_and_hold(reference: str) -> ModelSpec:
            spec = answers.find(reference)
            if not is_path(reference):  # a folder is not the registry's, which may be away
                hold(spec)
            return spec

        assert parts.open_endpoints is not None
        assert parts.open_catalogue is not None
        assert parts.outcome_cohorts is not None
        with (
            following_plans(
                server, parts.open_endpoints, find_and_hold, parts.open_registry,
                every_endpoint=every_endpoint, own_arms=settings.serving.arms == "own",
                after=turned,
            ),
            running_rollouts(
                server, parts.open_catalogue, parts.outcome_cohorts, parts.open_rollouts,
                after=turned,
            ),
            rolling_out(parts.open_fleet, settings.home, after=turned),
            _running_jobs(parts, after=turned),
            _routing(settings, parts, after=turned),
            _sharing(settings, meters, parts),
            _choosing_reviews(parts, after=turned),
            anchoring(settings.audit.anchors, parts.open_catalogue, after=turned),
        ):  # fmt: skip
            serve_api(server, listener, parts, find_and_hold, guard, on_turn=on_turn)


@contextmanager
def _watching(
    settings: Settings,
    counters: Counters,
    parts: Parts,
    server: tuple[str, Callable[[], ServerFacts]] | None = None,
) -> Iterator[None]:
    """Watch for alerts meanwhile, if the settings ask for it."""
    assert parts.open_jobs is not None
    watcher = watcher_of(settings, server, judging(parts.open_jobs), counters.note_catalogue)
    if watcher is None:
        yield
        return
    watcher.start()
    try:
        yield
    finally:
        watcher.stop()


def _start_keys(
    descriptor: int | None, counters: Counters, parts: Parts, *, may_wait: bool = False
) -> tuple[Authenticator | None, str]:
    """Keep the file of the keys up to date until the process ends; None where none are needed.

    And the token of the key by which this process asks the server.
    """
    if descriptor is None:
        return None, ""
    keys, token = open_keys_file(descriptor, counters, parts, may_wait=may_wait)
    keys.start()
    return Authenticator(keys.path, held_ns=counters.keys_held_ns), token


def run_control(settings: Settings, announce: Callable[[int, bool, str], None]) -> None:
    """Serve the control API alone, with no server beside it, until SIGINT or SIGTERM.

    Args:
        settings: How.
        announce: Called once, before the first request is taken, with the port, whether callers
            need keys, and the path of a one-time link to sign in; empty where nothing asks for one.

    Raises:
        Conflict: The port is in use.
        Unavailable: Callers need keys, and the catalogue cannot be read.
    """
    from bascule.app import callers_need_keys

    chosen = settings.serving
    _start_logging(settings)
    with ExitStack() as stack:
        listener = stack.enter_context(
            bind(chosen.host, chosen.control_port, 1, option="--control-port")[0]
        )
        # Open for as long as the process: a thread writes the keys.
        counters_fd, keys_fd = map(os.memfd_create, ("bascule-counters", "bascule-keys"))
        counters = Counters(Path(f"/dev/fd/{counters_fd}"), workers=0)
        parts = _parts_of(settings)
        needs_keys = callers_need_keys(settings)
        guard, _ = _start_keys(keys_fd if needs_keys else None, counters, parts)
        port = listener.getsockname()[1]
        server, answers = ServerLink(counters), Answers(parts)
        at_once = threading.Event()
        at_once.set()
        stack.enter_context(_watching(settings, counters, parts))
        stack.enter_context(_routing(settings, parts, after=at_once))
        stack.enter_context(_running_jobs(parts, after=at_once))
        stack.enter_context(_choosing_reviews(parts, after=at_once))
        assert parts.open_catalogue is not None
        anchors = anchoring(settings.audit.anchors, parts.open_catalogue, after=at_once)
        stack.enter_context(anchors)
        announce(port, needs_keys, answers.sign_in_link())
        serve_api(server, listener, parts, answers.find, guard)


def _routing(
    settings: Settings, parts: Parts, *, after: threading.Event
) -> AbstractContextManager[None]:
    from bascule.control import routing_plans

    assert parts.open_endpoints is not None
    routers = settings.rollouts.routers
    return routing_plans(
        routers, parts.open_endpoints, parts.open_registry,
        cluster=cluster_of(settings) if routers else None, after=after,
    )  # fmt: skip


def _sharing(settings: Settings, meters: Meters, parts: Parts) -> AbstractContextManager[None]:
    """Share the limits of callers with other servers, where the settings have any.

    At once: calls wait for their budgets.
    """
    from bascule.control import sharing_budgets
    from bascule.monitoring import Quotas
    from bascule.monitoring.alerts import AlertStore, sources

    assert parts.open_catalogue is not None
    open_catalogue = parts.open_catalogue
    if not settings.policies:
        return nullcontext()
    at_once = threading.Event()
    at_once.set()
    models = models_with(settings, "throttle")

    def throttled() -> list[tuple[str, str]]:
        alerts = AlertStore(open_catalogue()).alerts() if models else ()
        return sources.throttled_counters([alert.finding for alert in alerts], models)

    open_quotas = cache(lambda: Quotas(open_catalogue()))
    return sharing_budgets(meters, open_quotas, throttled, after=at_once)


def _choosing_reviews(parts: Parts, *, after: threading.Event) -> AbstractContextManager[None]:
    from bascule.control import choosing_reviews

    assert parts.open_catalogue is not None
    assert parts.home is not None
    if parts.review_rules and parts.usage.unknown:
        log.warning("no answer is chosen for review: %s", parts.usage.unknown.partition(": ")[2])
    return choosing_reviews(parts.review_rules, parts.open_catalogue, parts.home, after=after)


def _running_jobs(parts: Parts, *, after: threading.Event) -> AbstractContextManager[None]:
    def run(ended: threading.Event) -> None:
        assert parts.open_jobs is not None
        parts.open_jobs().run(ended)

    return turning("jobs", run, after=after, pause_s=_PAUSE_S)


def _parts_of(settings: Settings) -> Parts:
    jobs = cache(partial(runner_of, settings))  # opened late: what reads the catalogue is large
    return replace(
        control_parts(settings), open_jobs=jobs, places=settings.batch.places,
        callbacks=settings.deferred.callbacks,
    )  # fmt: skip


def _settings_of(config: dict[str, Any]) -> Settings:
    from bascule.settings import from_json

    return from_json(config["settings"])


def _beat_until_set(counters: Counters) -> threading.Event:
    """Beat on a thread until the event loop of the API does."""
    turned = threading.Event()

    def beat() -> None:
        while not turned.wait(_BEAT_EVERY_S):
            counters.beat_control()

    counters.beat_control()
    threading.Thread(target=beat, name="bascule-beats", daemon=True).start()
    return turned


def _start_logging(settings: Settings) -> None:
    start_logging(settings.serving.log, level=logging.WARNING)
    logging.getLogger("bascule.remotes").setLevel(logging.INFO)


if __name__ == "__main__":
    code = 1
    try:
        code = main()
    except BasculeError as problem:
        log.error("the control process ends: %s", problem)  # noqa: TRY400 -- in one line
    except Exception:
        log.exception("the control process ends")
    finally:
        sys.stderr.flush()
        os._exit(code)  # a question that is still being answered must not keep the process
