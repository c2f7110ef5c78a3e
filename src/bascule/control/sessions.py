"""Sessions and one-time links in the catalogue: their beginning and end are events of its history.

So they need no table of their own, every control process of the catalogue knows them, and the audit
shows who signed in. Subjects are hashes: no token can be read from the history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from bascule.core import Invalid, NotFound, Unauthenticated
from bascule.security import MAX_TOKEN, Link, Permission, Session, hash_of, new_token

if TYPE_CHECKING:
    import sqlalchemy as sa

    from bascule.catalogue import Catalogue

SESSION, LINK = "session", "sign_in_link"
"""Kinds of subjects. What they are about is a hash."""

LINK_LASTS = timedelta(minutes=10)
LASTS = timedelta(hours=12)
_MAX_USER = 128


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
    ) -> str:
        """The code of a link that begins a session of `user` once."""
        code, now = new_token(), datetime.now(UTC)
        body = _body(check_user(user), permissions, ends_at=now + lasts)
        self._open().create()
        self._record(LINK, hash_of(code), "link_offered", now, by, body)
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
            return self._begin(connection, link.user, link.permissions, "link", now)

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
                return _session(connection, hash_of(token), datetime.now(UTC))
        except NotFound:
            return None

    def end(self, session: Session) -> None:
        """Sign out: the token opens nothing from now on."""
        self._record(SESSION, session.id, "signed_out", datetime.now(UTC), session.user, {})

    def live(self) -> list[Session]:
        """The sessions that hold, the latest first."""
        from bascule.catalogue import events

        now = datetime.now(UTC)
        try:
            with self._open().read() as connection:
                recent = events.find(
                    connection, subject_kind=SESSION, since=now - self._lasts, latest_first=True
                )
        except NotFound:
            return []
        ended = {one.subject.name for one in recent if one.kind == "signed_out"}
        begun = [one for one in recent if one.kind == "signed_in" and one.subject.name not in ended]
        return [one for event in begun if (one := _of_event(event)).ends_at > now]

    def _begin(
        self,
        connection: sa.Connection,
        user: str,
        permissions: tuple[Permission, ...],
        source: Literal["link", "oidc"],
        now: datetime,
    ) -> tuple[str, Session]:
        from bascule.catalogue import events

        token = new_token()
        made = Session(hash_of(token), user, permissions, source, now, now + self._lasts)
        body = {**_body(user, permissions, ends_at=made.ends_at), "source": source}
        _append(connection, events.Subject(SESSION, made.id), "signed_in", now, user, body)
        return token, made

    def _record(
        self, about: str, name: str, kind: str, now: datetime, by: str, body: Mapping[str, Any]
    ) -> None:
        from bascule.catalogue import events

        with self._open().write() as connection:
            _append(connection, events.Subject(about, name), kind, now, by, body)


def path_of_link(code: str) -> str:
    """The path of the page that uses a link."""
    return f"/sign-in?code={code}"


def check_user(name: str) -> str:
    """A name for histories; raises `Invalid`."""
    if not name or not name.isprintable() or len(name) > _MAX_USER:
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


def _link(connection: sa.Connection, code: str, now: datetime) -> Link:
    from bascule.catalogue import events

    found = []
    if 0 < len(code) <= MAX_TOKEN and code.isascii():
        found = events.find(connection, subject=events.Subject(LINK, hash_of(code)))
    if len(found) == 1:
        body = found[0].body
        link = Link(body["user"], _permissions(body), datetime.fromisoformat(body["ends_at"]))
        if now < link.ends_at:
            return link
    raise _used_up()


def _used_up() -> Unauthenticated:
    return Unauthenticated(
        "the sign-in link was used, or has expired", hint="bascule sign-in makes a new one"
    )


def _session(connection: sa.Connection, name: str, now: datetime) -> Session | None:
    from bascule.catalogue import events

    found = events.find(connection, subject=events.Subject(SESSION, name))
    if len(found) != 1:  # none, or one that was ended
        return None
    made = _of_event(found[0])
    return made if now < made.ends_at else None


def _of_event(event: Any) -> Session:
    body = event.body
    return Session(
        event.subject.name, body["user"], _permissions(body), body["source"], event.at,
        datetime.fromisoformat(body["ends_at"]),
    )  # fmt: skip


def _permissions(body: Mapping[str, Any]) -> tuple[Permission, ...]:
    return tuple(map(Permission.parse, body["permissions"]))
