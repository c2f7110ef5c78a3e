"""Sessions and one-time links in the catalogue: their beginning and end are events of its history.

So they need no table of their own, every control process of the catalogue knows them, and the audit
shows who signed in. Subjects are hashes: no token can be read from the history.

Each look at a session looks at its maker too: the session of a link that a key made, or another
session, holds no longer than that and allows no more than that allows now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from bascule.core import Invalid, NotFound, Refused, Unauthenticated
from bascule.security import (
    MAX_TOKEN,
    NO_MAKER,
    Link,
    Maker,
    Permission,
    Session,
    hash_of,
    new_token,
    within,
)

if TYPE_CHECKING:
    import sqlalchemy as sa

    from bascule.catalogue import Catalogue, events

SESSION, LINK = "session", "sign_in_link"
"""Kinds of subjects. What they are about is a hash."""

LINK_LASTS = timedelta(minutes=10)
LASTS = timedelta(hours=12)
_MAX_USER = 128
_MAX_DEPTH = 4
"""Sessions in a row that each made the link of the next one: a look at the last reads all."""

Bound = TypeVar("Bound", Link, Session)


class Sessions:
    """The sessions of a catalogue."""

    def __init__(self, open_catalogue: Callable[[], Catalogue], lasts: timedelta = LASTS) -> None:
        """Nothing is opened yet; `lasts` is how long a session holds."""
        self._open = open_catalogue
        self._lasts = lasts

    def offer(
        self,
        user: str,
        permissions: Iterable[Permission],
        *,
        by: str,
        lasts: timedelta = LINK_LASTS,
        maker: Maker = NO_MAKER,
    ) -> str:
        """The code of a link that begins a session of `user` once.

        Raises:
            Refused: Too many sessions in a row made links.
            Unauthenticated: The session that makes it has ended.
        """
        from bascule.catalogue import events

        code, now, depth = new_token(), datetime.now(UTC), 0
        catalogue = self._open()
        catalogue.create()
        with catalogue.write() as connection:
            if maker.session:
                parent = self._held(connection, maker.session, now)
                if parent is None:
                    raise Unauthenticated("the session that makes the link has ended")
                depth, maker = parent.depth + 1, replace(maker, key=parent.maker.key)
            if depth > _MAX_DEPTH:
                raise Refused(
                    f"{_MAX_DEPTH} sessions in a row have made links",
                    hint="make it with a key, or sign in again",
                )
            body = _body(check_user(user), permissions, ends_at=now + lasts)
            body |= _body_of_maker(maker, depth)
            subject = events.Subject(LINK, hash_of(code))
            _append(connection, subject, "link_offered", now, by, body)
        return code

    def offered(self, code: str) -> Link:
        """What a link begins, without using it. Raises `Unauthenticated` as `redeem` does."""
        try:
            with self._open().read() as connection:
                return self._link(connection, code, datetime.now(UTC))
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
            link = self._link(connection, code, now)
            token = new_token()
            session = Session(
                hash_of(token), link.user, link.permissions, "link", now, now + self._lasts,
                link.maker, link.key_name, link.depth,
            )  # fmt: skip
            bound = self._bound(connection, session, now)
            if bound is None:  # its maker has ended this moment
                raise _used_up()
            _append(connection, subject, "link_used", now, bound.subject, {})
            _begin(connection, bound)
            return token, bound

    def begin(
        self, user: str, permissions: Iterable[Permission], source: Literal["link", "oidc"]
    ) -> tuple[str, Session]:
        """A new session and its token."""
        catalogue = self._open()
        catalogue.create()
        token, now = new_token(), datetime.now(UTC)
        session = Session(
            hash_of(token), check_user(user), tuple(permissions), source, now, now + self._lasts
        )
        with catalogue.write() as connection:
            _begin(connection, session)
        return token, session

    def find(self, token: str) -> Session | None:
        """The session of a token, if it holds."""
        if not 0 < len(token) <= MAX_TOKEN or not token.isascii():
            return None
        try:
            with self._open().read() as connection:
                return self._held(connection, hash_of(token), datetime.now(UTC))
        except NotFound:
            return None

    def end(self, session: Session, *, by: str = "") -> None:
        """End a session, and with it those of the links that it made.

        Signing out is the same without `by`, which names another person that ends it. Fine where
        it has ended already.
        """
        from bascule.catalogue import events

        kind = "session_ended" if by else "signed_out"
        with self._open().write() as connection:
            subject = events.Subject(SESSION, session.id)
            events.lock(connection, subject)
            if len(events.find(connection, subject=subject)) == 1:
                body = {"user": session.user} if by else {}
                _append(connection, subject, kind, datetime.now(UTC), by or session.subject, body)

    def end_named(self, short_id: str, *, by: str) -> Session:
        """End the session of a `Session.short_id`; fine where it has ended already.

        Raises:
            NotFound: None began within the time that a session lasts.
        """
        begun = [one for one in map(_of_event, self._begun()) if one.short_id == short_id]
        if not begun:
            raise NotFound(f"no session {short_id!r}", hint="bascule sessions list shows them")
        for session in begun:
            self.end(session, by=by)
        return begun[0]

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

        since = datetime.now(UTC) - self._lasts
        try:
            with self._open().read() as connection:
                return events.find(
                    connection, subject_kind=SESSION, kinds=("signed_in",), since=since,
                    latest_first=True,
                )  # fmt: skip
        except NotFound:
            return []

    def _held(self, connection: sa.Connection, name: str, now: datetime) -> Session | None:
        """The session of an id, as its maker bounds it; None where it or its maker has ended."""
        from bascule.catalogue import events

        found = events.find(connection, subject=events.Subject(SESSION, name))
        if len(found) != 1:  # none, or one that was ended
            return None
        session = _of_event(found[0])
        # Also one that began when sessions lasted longer.
        ends_at = min(session.ends_at, session.began_at + self._lasts)
        return self._bound(connection, replace(session, ends_at=ends_at), now)

    def _link(self, connection: sa.Connection, code: str, now: datetime) -> Link:
        from bascule.catalogue import events

        found = []
        if 0 < len(code) <= MAX_TOKEN and code.isascii():
            found = events.find(connection, subject=events.Subject(LINK, hash_of(code)))
        if len(found) == 1:
            body = found[0].body
            link = Link(
                body["user"], _permissions(body), datetime.fromisoformat(body["ends_at"]),
                *_maker_of(body),
            )  # fmt: skip
            bound = self._bound(connection, link, now)
            if bound is not None:
                return bound
        raise _used_up()

    def _bound(self, connection: sa.Connection, made: Bound, now: datetime) -> Bound | None:
        """A link or a session with what its maker has left of it; None for nothing."""
        from bascule.registry.stores import SqlTransaction

        ends_at, permissions, key_name = made.ends_at, made.permissions, ""
        if made.maker.key:
            keys = SqlTransaction(connection).keys()
            key = next((one for one in keys if one.id == made.maker.key), None)
            if key is None or key.state(now) != "live":
                return None
            ends_at, key_name = min(ends_at, key.expires_at or ends_at), key.name
            permissions = within(permissions, key.permissions)
        if made.maker.session:
            parent = self._held(connection, made.maker.session, now)
            if parent is None:
                return None
            ends_at = min(ends_at, parent.ends_at)
            permissions = within(permissions, parent.permissions)
        if now >= ends_at or not permissions:
            return None
        return replace(made, ends_at=ends_at, permissions=permissions, key_name=key_name)


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

    events.append(connection, events.Event(subject, kind, at, by, "", body))


def _body(user: str, permissions: Iterable[Permission], *, ends_at: datetime) -> dict[str, Any]:
    return {
        "user": user, "permissions": [str(one) for one in permissions],
        "ends_at": ends_at.isoformat(),
    }  # fmt: skip


def _begin(connection: sa.Connection, session: Session) -> None:
    from bascule.catalogue import events

    body = _body(session.user, session.permissions, ends_at=session.ends_at)
    body |= {"source": session.source} | _body_of_maker(session.maker, session.depth)
    subject = events.Subject(SESSION, session.id)
    _append(connection, subject, "signed_in", session.began_at, session.subject, body)


def _body_of_maker(maker: Maker, depth: int) -> dict[str, Any]:
    named = {"key": maker.key, "session": maker.session, "depth": depth}
    return {name: value for name, value in named.items() if value}


def _maker_of(body: Mapping[str, Any]) -> tuple[Maker, str, int]:
    """The maker, its key's name, which is looked up, and the depth."""
    return Maker(body.get("key", ""), body.get("session", "")), "", body.get("depth", 0)


def _used_up() -> Unauthenticated:
    return Unauthenticated(
        "the sign-in link was used, or has expired", hint="bascule sign-in makes a new one"
    )


def _of_event(event: Any) -> Session:
    body = event.body
    return Session(
        event.subject.name, body["user"], _permissions(body), body["source"], event.at,
        datetime.fromisoformat(body["ends_at"]), *_maker_of(body),
    )  # fmt: skip


def _permissions(body: Mapping[str, Any]) -> tuple[Permission, ...]:
    return tuple(map(Permission.parse, body["permissions"]))
