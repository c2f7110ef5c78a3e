"""One run at a time writes to a sink, which says so itself to every home and host.

The holder of a *claim* renews it. No clocks are compared: another process takes over a claim that
it has seen unchanged for 20 s, or at once where the holder was a process of this machine that is
gone. A holder that was stopped meanwhile finds another's token at its next commit: the fence.
"""

from __future__ import annotations

import fcntl
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

import msgspec

from bascule.core import (
    BasculeError,
    Conflict,
    holder_name,
    is_alive,
    library,
    own_process,
    writing,
)

TTL_S = 20.0
"""How long a claim of another host must be unchanged before it is taken over."""
_RENEW_S = 5.0
_LOOK_S = 0.5
CONDITIONAL = {"s3": "s3", "gs": "gs", "gcs": "gs", "abfs": "abfs", "abfss": "abfss"}
"""Schemes of stores that replace an object on a condition, and the names obstore has for them."""
_held: set[str] = set()
"""The tokens of this process."""


class Claim(msgspec.Struct, frozen=True):
    """What a sink says about its writer; `token` is empty once that has ended.

    `process` names the machine (or container), the process, and when that began.
    """

    run: str = ""
    token: str = ""
    beat: int = 0
    holder: str = ""
    process: str = ""


class Cell(Protocol):
    """Where a sink keeps its claim."""

    def read(self) -> Claim | None: ...

    def swap(self, seen: Claim | None, new: Claim) -> bool:
        """Put `new` in place of `seen`; not where another process has written meanwhile."""


@contextmanager
def held(cell: Cell, run: str, place: str) -> Iterator[Claim]:
    """Hold the claim of a cell while the block runs; `Conflict` where another process has it."""
    claim, ended = _taken(cell, run, place), threading.Event()

    def put(**changes: Any) -> None:
        with suppress(BasculeError):  # away; each commit asks for the token
            now = cell.read()
            if now is not None and now.token == claim.token:
                cell.swap(now, msgspec.structs.replace(now, beat=now.beat + 1, **changes))

    def renew() -> None:
        while not ended.wait(_RENEW_S):
            put()

    thread = threading.Thread(target=renew, name="bascule-claim", daemon=True)
    thread.start()
    try:
        yield claim
    finally:
        ended.set()
        thread.join()
        _held.discard(claim.token)
        put(token="")


def _taken(cell: Cell, run: str, place: str) -> Claim:
    new = Claim(run, secrets.token_hex(8), 0, holder_name(), own_process())
    seen, since_s = cell.read(), time.monotonic()
    while True:
        alive = seen is not None and bool(seen.token) and _lives(seen)
        if alive is False or time.monotonic() - since_s >= TTL_S:
            if cell.swap(seen, new):
                _held.add(new.token)
                return new
        elif alive is None:
            time.sleep(_LOOK_S)
        now = cell.read()
        renewed = seen is not None and now is not None and now.token == seen.token and now != seen
        if now is not None and now.token and (alive or renewed):
            facts = {"under_way": run} if now.run == run else {"run": now.run}
            raise Conflict(
                f"run {now.run} is under way in another process, {now.holder}, and writes to "
                f"{place}",
                hint="wait until it has ended, and give the command again", **facts,
            )  # fmt: skip
        if now != seen:
            seen, since_s = now, time.monotonic()


def check_token(place: str, token: str, now: Claim | None) -> None:
    """Raise `Conflict` where a sink has the token of another process: the fence."""
    if now is None or now.token != token:
        by = f"run {now.run} of {now.holder}" if now else "another process"
        raise Conflict(
            f"{place} was taken over by {by} while this process did not answer",
            hint="give the command again",
        )


class FileCell:
    """A file on a disk, which is replaced whole under a lock."""

    def __init__(self, path: Path, place: str) -> None:
        self._path, self._place = path, place

    def read(self) -> Claim | None:
        with writing(self._place), suppress(FileNotFoundError):
            return msgspec.json.decode(self._path.read_bytes(), type=Claim)
        return None

    def swap(self, seen: Claim | None, new: Claim) -> bool:
        with writing(self._place):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.with_name(f"{self._path.name}-lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if self.read() != seen:
                    return False
                draft = self._path.with_name(f"{self._path.name}-new")
                draft.write_bytes(msgspec.json.encode(new))
                draft.replace(self._path)
        return True


class ObjectCell:
    """An object of a bucket."""

    def __init__(self, url: str, name: str, place: str) -> None:
        self._store, self._name, self._place = _store_of(url), name, place

    def _got(self) -> tuple[Claim | None, Any]:
        import obstore

        try:
            got = obstore.get(self._store, self._name)
        except FileNotFoundError:
            return None, "create"
        version = {name: got.meta[name] for name in ("e_tag", "version") if got.meta[name]}
        return msgspec.json.decode(bytes(got.bytes()), type=Claim), version

    def read(self) -> Claim | None:
        from bascule.places import explaining

        with explaining(self._place):
            return self._got()[0]

    def swap(self, seen: Claim | None, new: Claim) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        from bascule.places import explaining

        with explaining(self._place):
            now, version = self._got()
            if now == seen:
                with suppress(AlreadyExistsError, PreconditionError, FileNotFoundError):
                    obstore.put(self._store, self._name, msgspec.json.encode(new), mode=version)
            # Asked again: a request whose answer was lost is sent twice, and refused then.
            return self._got()[0] == new


def _store_of(url: str) -> Any:
    """A client of the place, options and credentials that `places.open_place` reads in a URL."""
    parts = urlsplit(url)
    asked = dict(parse_qsl(parts.query))
    if host := asked.get("endpoint_override"):
        asked["endpoint"] = f"{asked.get('scheme', 'https')}://{host}"
    asked |= {"access_key_id": parts.username or "", "secret_access_key": parts.password or ""}
    names = ("endpoint", "region", "access_key_id", "secret_access_key")
    config: Any = {name: asked[name] for name in names if asked.get(name)}
    whole = f"{CONDITIONAL[parts.scheme]}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return library("obstore.store", "s3").from_url(
        whole, config=config, client_options={"allow_http": True}
    )


def _lives(claim: Claim) -> bool | None:
    """Whether the holder is there; None where it is of another machine or container."""
    alive = is_alive(claim.process)
    return claim.token in _held if alive and claim.process == own_process() else alive
