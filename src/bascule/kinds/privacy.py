"""Privacy as jobs: people erased with a proof, and what is held about them found."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.app import open_catalogue, open_ledger
from bascule.core import Limits, secret_in
from bascule.jobs import Kind, Live, Task, half_of_memory
from bascule.privacy import ERASED, Erasure, Person, export_about, proof_of

if TYPE_CHECKING:
    from bascule.settings import Settings

_DAY_S = 86_400.0


def parsed(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The input of an erasure, with its id. Raises `Invalid`."""
    person = Person(str(content.get("field", "")), str(content.get("subject", "")))
    return {
        "field": person.field, "subject": person.text, "model": content.get("model") or "*",
        "id": content.get("id") or secrets.token_hex(8),
    }  # fmt: skip


def erase(settings: Settings, task: Task, live: Live) -> dict[str, Any]:
    """Erase, or go on where another process has ended."""
    if task.input["subject"] == ERASED:
        return proof_of(open_ledger(settings).home, task.input["id"])
    erasure = _erasure(settings, task, live)
    live.begin(erasure.subject, {})
    return erasure.run()


def find(settings: Settings, task: Task, live: Live) -> list[dict[str, Any]]:
    """What an erasure would erase; or, of an export, the rows themselves."""
    subject = task.input
    if subject["is_export"]:
        home = open_ledger(settings).home
        person = Person(subject["field"], subject["subject"])
        return export_about(home, open_catalogue(settings), person, subject["model"], task.by)
    places: list[dict[str, Any]] = msgspec.to_builtins(_erasure(settings, task, live).find())
    return places


def _erasure(settings: Settings, task: Task, live: Live) -> Erasure:
    subject = task.input
    return Erasure(
        id=subject["id"], home=open_ledger(settings).home, catalogue=open_catalogue(settings),
        person=Person(subject["field"], subject["subject"]), model=subject["model"], by=task.by,
        late_days=settings.privacy.late_days, objects=secret_in(settings.registry.objects),
        tell=lambda step: live.tell({"step": step}),
    )  # fmt: skip


ERASURE = Kind(
    name="erasure", run=erase, parse=parsed, right="erase", can_resume=True, retries=20, kept=None,
    is_private=True, places=1, limits=Limits(_DAY_S, half_of_memory(), is_nice=True),
)  # fmt: skip
HELD = Kind(
    name="held", run=find, right="erase", is_private=True,
    limits=Limits(3_600.0, half_of_memory(), answer_bytes=1 << 30, is_nice=True),
)  # fmt: skip
