"""The control process of a server: keys, registry, API. The supervisor starts and watches it.

It answers the supervisor's questions (what a reference means) and asks its own (what is served);
see `serving.workers.peer`. Keys come first: workers cannot let a caller in without them. The API
begins when the workers answer. An event loop that stands still beats no more, and the supervisor
replaces the process.
"""

from __future__ import annotations

import gc
import logging
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from bascule.control import references
from bascule.control.parts import Parts
from bascule.core import BasculeError, Invalid
from bascule.endpoints import own_part
from bascule.security import SERVER_KEY, Permission, new_key
from bascule.serving import ModelSpec
from bascule.serving.telemetry import Counters
from bascule.serving.transports import Authenticator, KeysFile
from bascule.serving.workers import Message

if TYPE_CHECKING:
    from bascule.control.link import ServerLink
    from bascule.endpoints import Plan

log = logging.getLogger(__name__)

_OUT_OF_MEMORY_SCORE = "500"


class Answers:
    """What a control process answers its supervisor."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._keys_settled = threading.Event()
        self._keys_problem: BasculeError | None = None

    def settle_keys(self, problem: BasculeError | None) -> None:
        """Note that the keys can be used; or why not."""
        self._keys_problem = problem
        self._keys_settled.set()

    def __call__(self, what: str, said: Message) -> Any:
        match what:
            case "keys":
                self._keys_settled.wait()
                if self._keys_problem is not None:
                    raise self._keys_problem
                return None
            case "resolve":
                return self.resolve(said["reference"], Path(said["folder"])).to_json()
            case "sign_in_link":
                return self.sign_in_link()
            case "aliased":
                return references.aliased(self._parts.open_registry)
            case "planned":
                names = None if said["every"] else said["names"]
                return self.planned(names)
            case "find_named":
                spec = references.put_there(said["name"], Path(said["folder"]))
                self._parts.check_signature(spec.path)
                return spec.to_json()
            case _:
                raise Invalid(f"there is no question {what!r}")

    def resolve(self, reference: str, folder: Path) -> ModelSpec:
        """The version that a reference means; what lies in a bucket is copied into `folder`."""
        from bascule.remotes import fetch, is_address

        if is_address(reference):
            copy = folder / str(len(list(folder.iterdir()))) / "bundle"
            copy.parent.mkdir()
            fetch(reference, copy, tell=logging.getLogger("bascule.remotes").info)
            reference = str(copy)
        return self._checked(reference)

    def sign_in_link(self) -> str:
        """The path of a link by which the user that starts a server signs in as administrator.

        Empty where the catalogue cannot be written, which is no reason not to serve.
        """
        from bascule.control.people.sessions import path_of_link
        from bascule.core import user_name
        from bascule.security import ADMINISTRATOR

        user = user_name()
        try:
            assert self._parts.sessions is not None
            return path_of_link(self._parts.sessions.offer(user, ADMINISTRATOR, by=user))
        except BasculeError:
            return ""

    def planned(self, names: list[str] | None) -> list[Message]:
        """The plans of these endpoints, or of all of them, each with the versions that it needs."""
        if self._parts.open_endpoints is None:
            return []
        return [
            self._findable(endpoint.current.plan)
            for endpoint in self._parts.open_endpoints().endpoints(names)
        ]

    def _findable(self, plan: Plan) -> Message:
        """A plan without the versions that are gone or broken, which must keep no server from it.

        The server tries the whole plan again (`following`), and says what is wrong.
        """
        specs: dict[str, ModelSpec] = {}
        for version in plan.versions:
            try:
                specs[version] = self.find(version)
            except BasculeError as error:
                if version == plan.current.version:
                    raise
                log.error("%s is left out of the plans that need it: %s", version, error)  # noqa: TRY400 -- in one line
        part = plan if len(specs) == len(plan.versions) else own_part(plan, specs) or plan
        return {
            "plan": part.to_json(),
            "versions": [specs[version].to_json() for version in part.versions],
        }

    def find(self, reference: str) -> ModelSpec:
        """The same for a caller of the API, whose folders must be this user's alone."""
        if references.is_path(reference):
            references.check_is_ours(Path(reference))
        return self._checked(reference)

    def _checked(self, reference: str) -> ModelSpec:
        spec = references.spec_of(reference, self._parts.open_registry)
        if spec.path == Path(reference).resolve():  # of the others, the registry takes care
            self._parts.check_signature(spec.path)
        return spec


def open_keys_file(
    descriptor: int, counters: Counters, parts: Parts, *, may_wait: bool = False
) -> tuple[KeysFile, str]:
    """The file of the keys, with what an earlier control process has left in it; and a token.

    The token is of a key of this process alone, which asks the server for people that are signed
    in. It is in no catalogue, and ends when the next process writes the file.
    """
    permissions = (Permission("infer"),)
    own, token = new_key(
        SERVER_KEY, permissions, now=datetime.now(UTC), by=SERVER_KEY, key_id=SERVER_KEY
    )
    file = KeysFile(
        descriptor,
        lambda: parts.open_keys().in_force(),
        counters.hold_keys,
        stale_s=parts.keys_stale_s,
        written_read_ns=counters.keys_read_ns(),
        may_wait=may_wait,
        own=(own,),
    )
    return file, token


def serve_api(
    server: ServerLink,
    listener: socket.socket,
    parts: Parts,
    find: Callable[[str], ModelSpec],
    guard: Authenticator | None,
    *,
    on_turn: Callable[[], None] = lambda: None,
) -> None:
    """Serve the API on this thread until SIGTERM, or SIGINT where it is not ignored."""
    from bascule.control.api.application import control_app
    from bascule.control.api.connections import ControlServer, leave
    from bascule.control.api.hosts import answering_to
    from bascule.serving.transports import policy_of

    async def out_of_memory(*_: object) -> NoReturn:
        leave()

    hosts = policy_of(listener, parts.allowed_hosts, asks_for_keys=guard is not None)
    app = control_app(server, find, guard, parts)
    if parts.add_console is not None:
        parts.add_console(app)
    app.add_exception_handler(MemoryError, out_of_memory)
    answering = app if hosts is None else answering_to(hosts, app)
    api = ControlServer(answering, parts.tls, on_turn=on_turn)
    gc.collect()
    gc.freeze()  # what was loaded stays: the collector need not look through it

    def stop(*_: object) -> None:
        api.should_exit = True
        getattr(app.state, "before_end", lambda: None)()  # what would go on for long

    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, stop)
    api.run(sockets=[listener])


def volunteer_for_the_oom_killer() -> None:
    """Have the kernel, when memory runs out, end this process before a worker."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OUT_OF_MEMORY_SCORE, encoding="ascii")
