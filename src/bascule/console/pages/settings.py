"""`/settings`: keys and roles, sessions, schedules, receivers of alerts, stores and versions."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from fastapi import Request, Response

from bascule.console.calling import act, call
from bascule.console.facts import schedules_of
from bascule.console.flash import Flash
from bascule.console.forms import field
from bascule.console.session import current
from bascule.console.site import PageRouter, context_of, form_of, render, see
from bascule.control import operations
from bascule.core import VERSION, Invalid, NotFound, seconds_of
from bascule.registry import operations as of_registry
from bascule.security import ANY, ROLES, in_words, permissions_of_role

if TYPE_CHECKING:
    from bascule.security import Key, Session as Stored

router = PageRouter()

_SHOWN_KEYS = 200
_SHOWN_SECTIONS = ("registry", "security", "serving", "rollouts", "monitoring", "alerts", "console")


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


@router.page("GET /settings", "read", ANY)
def settings(request: Request) -> Response:
    """The page."""
    return _page(request)


@router.page("POST /settings/keys", "keys")
async def make_key(request: Request) -> Response:
    """Make a key, and show its token this once: the page is the answer, and no redirect."""
    form = form_of(request)
    wanted = _wanted(field(form, "name"), field(form, "allow"), field(form, "lasts"))
    answer = await call(request, of_registry.CREATE_KEY, body=wanted)
    if not answer.is_done:
        return see(request, "/settings", Flash("bad", answer.problem))
    return await to_thread.run_sync(_page, request, answer.body)


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


@router.page("POST /settings/keys/{key}/revoke", "keys")
async def revoke_key(request: Request, key: str) -> Response:
    """Revoke a key."""
    operation, done = of_registry.REVOKE_KEY, "The key is revoked."
    return await act(request, "/settings", operation, {"key": key}, done=done)


@router.page("POST /settings/sessions/{session}/end", "keys")
async def end_session(request: Request, session: str) -> Response:
    """End a session."""
    operation, done = operations.END_NAMED_SESSION, "The session is ended."
    return await act(request, "/settings", operation, {"session": session}, done=done)


@router.page("POST /settings/receivers/{receiver}/test", "write", ANY)
async def test_receiver(request: Request, receiver: str) -> Response:
    """Send a notification for trial."""
    answer = await call(request, operations.TRY_RECEIVER, {"receiver": receiver})
    problem = answer.problem or answer.body["problem"]
    if problem:
        return see(request, "/settings", Flash("bad", f"{receiver}: {problem}"))
    return see(request, "/settings", Flash("good", f"{receiver} has taken the trial."))


def _page(request: Request, new_key: Mapping[str, Any] | None = None) -> Response:
    context, session = context_of(request), current(request)
    shown, now = context.parts.shown, datetime.now(UTC)
    stored: Sequence[Key] | None = None
    sessions: Sequence[Stored] | None = None
    if session.allows("keys", ""):
        stored, sessions = (), ()
        with suppress(NotFound):  # this server keeps none
            stored = context.keys().stored()[::-1][:_SHOWN_KEYS]
        with suppress(NotFound):
            sessions = context.sessions().live()
    return render(
        request, "settings.html", "Settings", sessions=sessions, roles=roles_in_words(),
        keys=stored and [(one, one.state(now), in_words(one.permissions)) for one in stored],
        schedules=schedules_of(context), receivers=shown.receivers() if shown else (),
        sections=settings_sections(shown.sections if shown else {}),
        versions={"Bascule": VERSION, "Python": platform.python_version()}, new_key=new_key,
    )  # fmt: skip
