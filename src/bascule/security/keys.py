"""Keys: who a caller is, and what it may do. Pure: facts and the time in, a verdict out.

A key is shown once, when it is made, and kept as a hash. Its secret is 256 bits of the system's
random numbers, so one round of SHA-256 is enough: what slow hashes protect is what people think up
(NIST SP 800-63B, section 5.1.2.2, asks for a plain approved hash where a secret has 112 bits or
more). A permission names an action and a model, `infer:late`, all models, `read:*`, those whose
names begin alike, `read:team-*`, or those of a project (see `projects`).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, Protocol, get_args

from bascule.core import Conflict, Invalid, NotFound, Refused, Unauthenticated, check_name

Action = Literal[
    "infer", "read", "health", "metrics", "manage", "download", "write", "deploy", "approve",
    "test", "keys", "outcome", "review", "erase", "private", "report",
]  # fmt: skip
"""What a route does: predict; describe; tell the health; tell the counters; load and unload; give
out a model; change the registry; change the plan of an endpoint; approve a step of a rollout; name
the arm of an endpoint that answers; list, make and revoke keys, which is an administrator's right:
a key may be made with any permission; add and read outcomes. A key that predicts may not say what
was true: no other action includes `outcome`; nor `review`, to answer for rows that were chosen.
Erase a person; read encrypted values of people. Report as a device: its key can do nothing else."""

OPEN_ACTIONS: frozenset[Action] = frozenset(("health",))
"""What needs no key: health probes have none."""

GRANTABLE = tuple(action for action in get_args(Action) if action not in OPEN_ACTIONS)
ON_MODELS: frozenset[Action] = frozenset(
    (
        "infer", "read", "manage", "download", "write", "deploy", "approve", "test", "outcome",
        "review", "erase", "private",
    )
)  # fmt: skip
"""What is done to a model, or to an endpoint."""
INCLUDED: Mapping[Action, tuple[Action, ...]] = {
    "infer": ("read",),
    "download": ("read",),
    "write": ("read", "download"),
    "deploy": ("read",),
    "approve": ("read",),
    "review": ("read",),
    "test": ("infer", "read"),
    "erase": ("read",),
    "private": ("read",),
}
"""What an action includes. Reading a model's metadata does not include the model itself."""
ANY, PROJECT = "*", "project="
SERVER_KEY = "console"
"""The id of the key of a control process, by which it asks its server. In no catalogue."""
ON_BEHALF = " for "
"""In an `Authorization` between that key's token and the id of the caller that it asks for."""
_PREFIX = "bsc"
_TOKEN = re.compile(rf"{_PREFIX}_[0-9a-f]{{12}}_[A-Za-z0-9_-]{{43}}")
_MAX_AUTHORIZATION = 256
"""Longer values are no keys: accepted headers are cached as a whole."""

_HOW = "send Authorization: Bearer KEY; bascule keys create NAME --allow infer:MODEL makes one"


@dataclass(frozen=True, slots=True)
class Permission:
    """One action on one model, on all (`*`), on those of a prefix or on those of a project.

    An action includes those of `INCLUDED`, and a key with any permission may read the metadata of
    the server.
    """

    action: Action
    model: str = ANY

    @classmethod
    def parse(cls, text: str) -> Permission:
        """The permission of `infer:late`, `read:*` or `metrics`; raises `Invalid`.

        An action on models names one, a prefix of several (`team-*`), all of them (`*`), or a
        project (`project=fraud`).
        """
        action, colon, model = text.partition(":")
        if not colon and action in ON_MODELS:
            raise Invalid(
                f"permission {text!r} names no model",
                hint=f"write {action}:MODEL, or {action}:{ANY} for every model",
            )
        if action not in GRANTABLE:
            raise Invalid(
                f"permission {text!r}: {action!r} is no action",
                hint=f"actions are {', '.join(GRANTABLE)}; write for example infer:late or read:*",
            )
        if colon:
            check_models(model)
        found: Any = action
        return cls(found, model if colon else ANY)

    def __str__(self) -> str:
        return f"{self.action}:{self.model}"

    @property
    def project(self) -> str:
        """The project whose models it is on; empty for none."""
        return self.model.removeprefix(PROJECT) if self.model.startswith(PROJECT) else ""

    def covers(self, action: Action, model: str) -> bool:
        """Whether it allows an action; `model` is empty where that is on no model.

        One of a project allows nothing until `projects.in_force` has put its models there.
        """
        does = self.action == action or action in INCLUDED.get(self.action, ())
        return does and not self.project and (not model or matches(self.model, model))


def matches(models: str, model: str) -> bool:
    """Whether `models`, a name, a prefix (`team-*`) or `*`, has a model, or all of a prefix."""
    is_of_prefix = models.endswith(ANY) and model.startswith(models[:-1])
    return models in (ANY, model) or is_of_prefix


def check_models(text: str) -> None:
    """Raise `Invalid` unless `text` is what a permission may be on."""
    if text.startswith(PROJECT):
        check_name(text.removeprefix(PROJECT), what="project")
    elif text != ANY:
        check_name(text.removesuffix(ANY).rstrip("-_.") if text.endswith(ANY) else text)


def permits(permissions: Iterable[Permission], action: Action, model: str) -> bool:
    """Whether one of the permissions covers the action: the decision for keys and for sessions."""
    return any(permission.covers(action, model) for permission in permissions)


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key. The secret is not.

    Attributes:
        id: What it is called in lists and logs; part of the token, and no secret.
        name: Whose it is, in people's words.
        token_sha256: Of the whole token, in hexadecimal.
        permissions: What it allows.
        created_at: When it was made.
        created_by: Who made it.
        expires_at: When it ends by itself; None for never.
        revoked_at: When it was ended; None while it lives.
        revoked_by: Who ended it; empty while it lives.
    """

    id: str
    name: str
    token_sha256: str
    permissions: tuple[Permission, ...]
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_by: str = ""

    def state(self, now: datetime) -> Literal["live", "expired", "revoked"]:
        """Whether it opens anything at `now`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and now >= self.expires_at else "live"

    def allows(self, action: Action, model: str) -> bool:
        """Whether a permission covers the action. Says nothing of whether the key is live."""
        return permits(self.permissions, action, model)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "token_sha256": self.token_sha256,
            "permissions": [str(permission) for permission in self.permissions],
            "created_at": self.created_at.isoformat(),
            "created_by": self.created_by,
            "expires_at": _said(self.expires_at),
            "revoked_at": _said(self.revoked_at),
            "revoked_by": self.revoked_by,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Key:
        return cls(
            id=value["id"],
            name=value["name"],
            token_sha256=value["token_sha256"],
            permissions=tuple(map(Permission.parse, value["permissions"])),
            created_at=datetime.fromisoformat(value["created_at"]),
            created_by=value["created_by"],
            expires_at=_moment(value["expires_at"]),
            revoked_at=_moment(value["revoked_at"]),
            revoked_by=value["revoked_by"],
        )


def _said(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _moment(said: str | None) -> datetime | None:
    return None if said is None else datetime.fromisoformat(said)


class KeyStore(Protocol):
    """Where keys are kept."""

    def stored(self) -> Sequence[Key]:
        """All that were ever made, in the order of making; none where there is no store yet."""

    def add(self, key: Key) -> None:
        """Keep a new key; raises `Conflict` where another process was first with its name."""

    def revoke(self, key_id: str, *, at: datetime, by: str) -> None:
        """End a key; one that was revoked before stays as it is."""


def check_is_free(name: str, keys: Iterable[Key], *, now: datetime) -> None:
    """Raise `Conflict` where a live key has the name."""
    if any(key.name == name and key.state(now) == "live" for key in keys):
        raise Conflict(
            f"there is a key {name}", hint=f"take another name, or bascule keys revoke {name}"
        )


def create_key(
    store: KeyStore,
    name: str,
    permissions: Sequence[Permission],
    *,
    now: datetime,
    by: str,
    expires_at: datetime | None = None,
) -> tuple[Key, str]:
    """A new key and its token, which cannot be shown again.

    Raises:
        Invalid: It would allow nothing, or has ended before it begins.
        Conflict: A live key has that name.
    """
    check_name(name)
    if not permissions:
        raise Invalid(
            f"key {name} would allow nothing", hint="give --allow, for example --allow infer:late"
        )
    if expires_at is not None and expires_at <= now:
        raise Invalid(f"key {name} would have expired at {expires_at.isoformat()} already")
    check_is_free(name, store.stored(), now=now)
    key, token = new_key(name, permissions, now=now, by=by, expires_at=expires_at)
    store.add(key)
    return key, token


def new_key(
    name: str,
    permissions: Sequence[Permission],
    *,
    now: datetime,
    by: str,
    expires_at: datetime | None = None,
    key_id: str = "",
) -> tuple[Key, str]:
    """A key that is kept nowhere, and its token; `key_id` is random unless it is given."""
    token = f"{_PREFIX}_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"
    key = Key(
        id=key_id or token.split("_")[1],
        name=name,
        token_sha256=_hash(token),
        permissions=tuple(dict.fromkeys(permissions)),
        created_at=now,
        created_by=by,
        expires_at=expires_at,
    )
    return key, token


def revoke_key(store: KeyStore, name: str, *, now: datetime, by: str) -> Key:
    """End the key with that id, or the live one of that name; fine if it has ended already.

    Raises:
        NotFound: There is none.
    """
    keys = store.stored()
    found = [key for key in keys if key.id == name] or [
        key
        for key in sorted(keys, key=lambda key: (key.revoked_at is None, key.created_at))
        if key.name == name
    ]
    if not found:
        raise NotFound(f"no key {name!r}", hint="bascule keys list shows them")
    key = found[-1]
    if key.revoked_at is None:
        store.revoke(key.id, at=now, by=by)
        key = replace(key, revoked_at=now, revoked_by=by)
    return key


class KnownKeys:
    """The keys that are known at one moment, by the hashes of their tokens."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._by_hash = {key.token_sha256: key for key in keys}

    def __len__(self) -> int:
        return len(self._by_hash)

    def with_id(self, key_id: str) -> Key | None:
        """The key of an id."""
        return next((key for key in self._by_hash.values() if key.id == key_id), None)

    def identify(self, authorization: str | None, *, now: datetime) -> Key:
        """The live key of an `Authorization` header (RFC 6750, section 2.1).

        Raises:
            Unauthenticated: There is none, it is not known, or it has ended. Which of these is
                not told apart but for keys that were good once.
        """
        if not authorization:
            raise Unauthenticated("this needs a key, and none was sent", hint=_HOW)
        own, on_behalf, caller = authorization.partition(ON_BEHALF)
        if on_behalf:
            return self._caller_of(self.identify(own, now=now), caller, now)
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        is_long = len(authorization) > _MAX_AUTHORIZATION
        if is_long or scheme.lower() != "bearer" or not _TOKEN.fullmatch(token):
            raise Unauthenticated("what was sent as Authorization is no key", hint=_HOW)
        # A dictionary may take longer for some hashes than for others; that depends on the hash,
        # from which the token cannot be computed.
        key = self._by_hash.get(_hash(token))
        if key is None:
            raise Unauthenticated("the key is not known here", hint=_HOW)
        state = key.state(now)
        if state != "live":
            raise Unauthenticated(f"key {key.name} ({key.id}) is {state}", hint="ask for a new one")
        return key

    def _caller_of(self, server: Key, caller: str, now: datetime) -> Key:
        """The live key for which the control process asks."""
        key = self.with_id(caller) if server.id == SERVER_KEY else None
        if key is None or key.id == SERVER_KEY or key.state(now) != "live":
            raise Unauthenticated("the key of the caller has ended", hint="ask for a new one")
        return key

    def judge(
        self, authorization: str | None, action: Action, model: str, *, now: datetime
    ) -> Key | None:
        """The key by which a caller may do something; None for what needs none.

        Raises:
            Unauthenticated: There is no live key.
            Refused: It does not allow this.
        """
        if action in OPEN_ACTIONS:
            return None
        key = self.identify(authorization, now=now)
        if not key.allows(action, model):
            raise not_allowed(key, action, model)
        return key


def not_allowed(key: Key, action: Action, model: str) -> Refused:
    """Why a key that is good does not open this."""
    what = f"{action} {model}" if model else action
    return Refused(
        f"key {key.name} ({key.id}) may not do this: {what}",
        hint=f"it allows {', '.join(map(str, key.permissions))}",
    )


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
