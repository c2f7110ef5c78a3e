"""`/settings`: keys and roles, sessions, schedules, receivers of alerts, stores and versions."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from fastapi import Request, Response

from bascule.console.calling import call
from bascule.console.flash import Flash
from bascule.console.forms import field
from bascule.console.session import Session, current
from bascule.console.site import context_of, form_of, page_router, render, see
from bascule.core import VERSION, Invalid, NotFound, seconds_of
from bascule.security import ANY, ROLES, in_words, permissions_of_role

if TYPE_CHECKING:
    from bascule.batch import Scheduled
    from bascule.control import ControlContext
    from bascule.monitoring.alerts.sinks import Receiver
    from bascule.security import Key, Session as Stored

router = page_router({
    "GET /settings": ("read", ANY),
    "POST /settings/keys": ("keys", ""),
    "POST /settings/keys/{key}/revoke": ("keys", ""),
    "POST /settings/receivers/{receiver}/test": ("write", ANY),
})  # fmt: skip

_SHOWN_KEYS = 200
_SHOWN_SECTIONS = ("registry", "security", "serving", "rollouts", "monitoring", "alerts", "console")


@dataclass(frozen=True, slots=True)
class NewKeyView:
    """A key that was made a moment ago; its token is shown this once."""

    name: str
    token: str
    permissions: Sequence[str]


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key in the list."""

    key: Key
    state: str

    @property
    def permissions(self) -> str:
        return in_words(self.key.permissions)


@dataclass(frozen=True, slots=True)
class SettingsView:
    """What the page shows.

    Attributes:
        keys: The keys, the latest first; None for a person that may not see them.
        sessions: The sessions that hold; None likewise.
        roles: The permissions of each role, in words.
        schedules: The schedules of batch jobs.
        receivers: The receivers of notifications.
        sections: Settings by section, without secrets.
        versions: Of Bascule and of Python.
        new_key: The key that was just made; None for none.
    """

    keys: Sequence[KeyRow] | None
    sessions: Sequence[Stored] | None
    roles: Mapping[str, str]
    schedules: Sequence[Scheduled]
    receivers: Sequence[Receiver]
    sections: Mapping[str, Mapping[str, str]]
    versions: Mapping[str, str]
    new_key: NewKeyView | None = None


def settings_sections(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Settings in words, the sections in their order. Pure."""
    home = {"": {name: str(value) for name, value in found.get("", {}).items()}}
    named = {
        section: {name: _in_words(value) for name, value in found[section].items()}
        for section in _SHOWN_SECTIONS
        if section in found
    }
    return home | named


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, dict)) and not value:
        return "-"
    if isinstance(value, list):
        return ", ".join(map(_in_words, value))
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_in_words(one)}" for name, one in value.items())
    return str(value) or "-"


def roles_in_words() -> dict[str, str]:
    """What each role allows, for a person that gives one. Pure."""
    return {
        role: ", ".join(sorted({one.action for one in permissions_of_role(f"{role}:{ANY}")}))
        for role in ROLES
    }


@router.get("/settings")
def settings(request: Request) -> Response:
    """The page."""
    return _page(request)


@router.post("/settings/keys")
async def make_key(request: Request) -> Response:
    """Make a key, and show its token this once: the page is the answer, and no redirect."""
    form = form_of(request)
    wanted = _wanted(field(form, "name"), field(form, "allow"), field(form, "lasts"))
    answer = await call(request, "POST /api/v1/keys", body=wanted)
    if not answer.is_done:
        return see(request, "/settings", Flash("bad", answer.problem))
    made = NewKeyView(answer.body["name"], answer.body["token"], answer.body["permissions"])
    return await to_thread.run_sync(_page, request, made)


def _wanted(name: str, allow: str, lasts: str) -> dict[str, Any]:
    """The request for a key: `allow` has permissions and roles, by spaces or commas."""
    permissions: list[str] = []
    for text in allow.replace(",", " ").split():
        is_role = text.partition(":")[0] in ROLES
        permissions += map(str, permissions_of_role(text)) if is_role else [text]
    if not permissions:
        raise Invalid("allow: the key would allow nothing", hint="write for example viewer:*")
    ends = None
    if lasts:
        ends = datetime.now(UTC) + timedelta(seconds=seconds_of(lasts, "lasts"))
    return {
        "name": name, "permissions": list(dict.fromkeys(permissions)),
        "expires_at": ends and ends.isoformat(),
    }  # fmt: skip


@router.post("/settings/keys/{key}/revoke")
async def revoke_key(request: Request, key: str) -> Response:
    """Revoke a key."""
    answer = await call(request, "DELETE /api/v1/keys/{key}", {"key": key})
    if answer.is_done:
        return see(request, "/settings", Flash("good", f"Key {answer.body['name']} is revoked."))
    return see(request, "/settings", Flash("bad", answer.problem))


@router.post("/settings/receivers/{receiver}/test")
async def test_receiver(request: Request, receiver: str) -> Response:
    """Send a notification for trial."""
    operation = "POST /api/v1/receivers/{receiver}/test"
    answer = await call(request, operation, {"receiver": receiver})
    problem = answer.problem or answer.body["problem"]
    if problem:
        return see(request, "/settings", Flash("bad", f"{receiver}: {problem}"))
    return see(request, "/settings", Flash("good", f"{receiver} has taken the trial."))


def _page(request: Request, new_key: NewKeyView | None = None) -> Response:
    context, session = context_of(request), current(request)
    shown = context.shown
    view = SettingsView(
        keys=_keys(context, session), sessions=_sessions(context, session),
        roles=roles_in_words(), schedules=_schedules(context),
        receivers=[] if shown is None else shown.receivers(),
        sections=settings_sections({} if shown is None else shown.sections),
        versions={"Bascule": VERSION, "Python": platform.python_version()},
        new_key=new_key,
    )  # fmt: skip
    return render(request, "settings.html", view, title="Settings")


def _keys(context: ControlContext, session: Session) -> Sequence[KeyRow] | None:
    if not session.allows("keys", ""):
        return None
    now = datetime.now(UTC)
    try:
        found = context.keys().stored()
    except NotFound:
        return []
    return [KeyRow(one, one.state(now)) for one in found[::-1][:_SHOWN_KEYS]]


def _sessions(context: ControlContext, session: Session) -> Sequence[Stored] | None:
    if not session.allows("keys", ""):
        return None
    try:
        return context.sessions().live()
    except NotFound:
        return []


def _schedules(context: ControlContext) -> Sequence[Scheduled]:
    if context.catalogue is None:
        return []
    from bascule.batch import Schedules

    return Schedules(context.catalogue()).list()
