"""Sessions and one-time links in the catalogue: their beginning and end are events of its history.

So they need no table of their own, every control process of the catalogue knows them, and the audit
shows who signed in. Subjects are hashes: no token can be read from the history.

Each look at a session or a link looks at the key that made the link: neither outlives it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from bascule.core import Invalid, NotFound, Unauthenticated
from bascule.security import (
    MAX_TOKEN,
    Key,
    Link,
    Permission,
    Session,
    hash_of,
    new_token,
)

if TYPE_CHECKING:
    import sqlalchemy as sa

    from bascule.catalogue import Catalogue, events

SESSION, LINK = "session", "sign_in_link"
"""Kinds of subjects. What they are about is a hash."""

LINK_LASTS = timedelta(minutes=10)
LASTS = timedelta(hours=12)
_MAX_USER = 128


class Sessions:
    """The sessions of a catalogue."""

    def __init__(
        self, open_catalogue: Callable[[], Catalogue], lasts: timedelta = LASTS,
        projects: Mapping[str, Sequence[str]] = {},
    ) -> None:  # fmt: skip
        """Nothing is opened yet; `lasts` is how long a session holds."""
        self.projects = projects
        self._open = open_catalogue
        self._lasts = lasts

    def offer(
        self,
        user: str,
        permissions: Iterable[Permission],
        *,
        by: str,
        lasts: timedelta = LINK_LASTS,
        key_id: str = "",
    ) -> str:
        """The code of a link that begins a session of `user` once; of a key, if it has an id."""
        from bascule.catalogue import events

        code, now = new_token(), datetime.now(UTC)
        body = _body(check_user(user), permissions, ends_at=now + lasts) | {"key": key_id}
        catalogue = self._open()
        catalogue.create()
        with catalogue.write() as connection:
            _append(connection, events.Subject(LINK, hash_of(code)), "link_offered", now, by, body)
        return code

    def offered(self, code: str) -> Link:
        """What a link begins, without using it. Raises `Unauthenticated` as `redeem` does."""
        try:
            with self._open().read() as connection:
                return _link(connection, code, datetime.now(UTC))
        except NotFound:
            raise _used_up() from None

    def redeem(self, code: str) -> tuple[str, Session]:
        """Use a link: a new session and its token.

        Raises:
            Unauthenticated: The link is used, has expired, or is none.
        """
        from bascule.catalogue import events

        now = datetime.now(UTC)
        self.offered(code)  # guesses must not keep writers waiting
        with self._open().write() as connection:
            subject = events.Subject(LINK, hash_of(code))
            events.lock(connection, subject)  # of two that use it at once, one waits
            link = _link(connection, code, now)
            _append(connection, subject, "link_used", now, link.user, {})
            return self._begin(connection, link.user, link.permissions, "link", now, link.key)

    def begin(
        self, user: str, permissions: Iterable[Permission], source: Literal["link", "oidc"]
    ) -> tuple[str, Session]:
        """A new session and its token."""
        catalogue = self._open()
        catalogue.create()
        with catalogue.write() as connection:
            chosen = tuple(permissions)
            return self._begin(connection, check_user(user), chosen, source, datetime.now(UTC))

    def find(self, token: str) -> Session | None:
        """The session of a token, if it holds."""
        if not 0 < len(token) <= MAX_TOKEN or not token.isascii():
            return None
        try:
            with self._open().read() as connection:
                session = self._held(connection, hash_of(token), datetime.now(UTC))
        except NotFound:
            return None
        return session and session.in_force(self.projects)

    def end(self, session: Session, *, by: str = "") -> None:
        """Sign out, or end the session of another, where `by` names who does; twice is fine."""
        from bascule.catalogue import events

        kind, body = ("session_ended", {"user": session.user}) if by else ("signed_out", {})
        with self._open().write() as connection:
            subject = events.Subject(SESSION, session.id)
            events.lock(connection, subject)
            if len(events.find(connection, subject=subject)) == 1:
                _append(connection, subject, kind, datetime.now(UTC), by or session.subject, body)

    def end_named(self, short_id: str, *, by: str) -> Session:
        """End the session of a `Session.short_id`, also again; raises `NotFound`."""
        for event in self._begun():
            session = _of_event(event)
            if session.short_id == short_id:
                self.end(session, by=by)
                return session
        raise NotFound(f"no session {short_id!r}", hint="bascule sessions list shows them")

    def live(self) -> list[Session]:
        """The sessions that hold, the latest first."""
        now, begun = datetime.now(UTC), self._begun()
        if not begun:
            return []
        with self._open().read() as connection:
            held = [self._held(connection, event.subject.name, now) for event in begun]
        return [session for session in held if session is not None]

    def _begun(self) -> list[events.Event]:
        from bascule.catalogue import events

        since, kinds = datetime.now(UTC) - self._lasts, ("signed_in",)
        try:
            with self._open().read() as connection:
                begun = events.find(
                    connection, subject_kind=SESSION, kinds=kinds, since=since, latest_first=True
                )
                return [event for event in begun if event.body]  # not of a person forgotten
        except NotFound:
            return []

    def _held(self, connection: sa.Connection, name: str, now: datetime) -> Session | None:
        """The session of an id; None where it, or its key, has ended."""
        from bascule.catalogue import events

        found = events.find(connection, subject=events.Subject(SESSION, name))
        if len(found) != 1:  # none, or one that was ended
            return None
        key, holds = _key(connection, found[0].body, now)
        session = replace(_of_event(found[0]), key=key)
        # Also one that began when sessions lasted longer.
        ends_at = min(session.ends_at, session.began_at + self._lasts)
        return session if holds and now < ends_at else None

    def _begin(
        self,
        connection: sa.Connection,
        user: str,
        permissions: tuple[Permission, ...],
        source: Literal["link", "oidc"],
        now: datetime,
        key: Key | None = None,
    ) -> tuple[str, Session]:
        from bascule.catalogue import events

        token, ends_at = new_token(), now + self._lasts
        if key is not None and key.expires_at is not None:
            ends_at = min(ends_at, key.expires_at)
        made = Session(hash_of(token), user, permissions, source, now, ends_at, key)
        body = {**_body(user, permissions, ends_at=ends_at), "source": source}
        body["key"] = "" if key is None else key.id
        _append(connection, events.Subject(SESSION, made.id), "signed_in", now, made.subject, body)
        return token, made


def path_of_link(code: str) -> str:
    """The path of the page that uses a link."""
    return f"/sign-in?code={code}"


def check_user(name: str) -> str:
    """A name for histories; raises `Invalid`."""
    is_two = " (key " in name  # as a person with the key of its session is written
    if not name or not name.isprintable() or len(name) > _MAX_USER or is_two:
        raise Invalid(
            f"user {name[:_MAX_USER]!r}: the name of a person has 1 to {_MAX_USER} printable "
            "characters",
            hint="sign in with another account",
        )
    return name


def _append(
    connection: sa.Connection,
    subject: Any,
    kind: str,
    at: datetime,
    by: str,
    body: Mapping[str, Any],
) -> None:
    from bascule.catalogue import events

    person = body.get("user", by)
    events.append(connection, events.Event(subject, kind, at, by, "", body, person=person))


def _body(user: str, permissions: Iterable[Permission], *, ends_at: datetime) -> dict[str, Any]:
    return {
        "user": user, "permissions": [str(one) for one in permissions],
        "ends_at": ends_at.isoformat(),
    }  # fmt: skip


def _link(connection: sa.Connection, code: str, now: datetime) -> Link:
    from bascule.catalogue import events

    found = []
    if 0 < len(code) <= MAX_TOKEN and code.isascii():
        found = events.find(connection, subject=events.Subject(LINK, hash_of(code)))
    if len(found) == 1:
        body = found[0].body
        key, holds = _key(connection, body, now)
        ends_at = datetime.fromisoformat(body["ends_at"])
        if holds and now < ends_at:
            return Link(body["user"], _permissions(body), ends_at, key)
    raise _used_up()


def _used_up() -> Unauthenticated:
    return Unauthenticated(
        "the sign-in link was used, or has expired", hint="bascule sign-in makes a new one"
    )


def _key(connection: sa.Connection, body: Any, now: datetime) -> tuple[Key | None, bool]:
    """The key that made a link, as it is now, and whether it is live; true without one."""
    from bascule.registry.stores import Transaction

    if not body.get("key"):
        return None, True
    keys = Transaction(connection).keys()
    key = next((one for one in keys if one.id == body["key"]), None)
    return key, key is not None and key.state(now) == "live"


def _of_event(event: Any) -> Session:
    body = event.body
    return Session(
        event.subject.name, body["user"], _permissions(body), body["source"], event.at,
        datetime.fromisoformat(body["ends_at"]),
    )  # fmt: skip


def _permissions(body: Mapping[str, Any]) -> tuple[Permission, ...]:
    return tuple(map(Permission.parse, body["permissions"]))
