"""The process that does one job: `python -m bascule.kinds.child`.

It loads models and reads tables, which may be large or hostile, and ends with its parent.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.core import BasculeError, Child, NotFound, answer_parent, load_named, tell_parent
from bascule.jobs import Task, noting

if TYPE_CHECKING:
    from bascule.control import ServerLink
    from bascule.jobs import AskKind, JobRunner, Kind
    from bascule.settings import Settings

_OWN_PLACE = re.compile(r"[^\s'\"]*/(?:console/uploads/[\w-]{22}|bascule-[^/\s'\"]*)/")
"""Where uploads and what is made of them are: of no use to callers."""


def asking(settings: Settings, server: ServerLink | None = None) -> AskKind:
    """What makes the child that does a task by these settings, also where their files change.

    `server`: the one beside this process, which kinds on a thread of it ask.
    """
    from bascule.settings import to_json

    content = to_json(settings)

    def ask(place: str, task: Task) -> Any:
        kind: Kind = load_named(place)
        if kind.pause_s:
            return kind.run(settings, task, server)
        names = Task.__dataclass_fields__
        plain = {name: getattr(task, name) for name in names}
        question = {"kind": place, "task": msgspec.to_builtins(plain), "settings": content}
        what = task.title or task.kind.replace("_", " ")
        return Child("bascule.kinds.child", question, kind.limits, what=what)

    return ask


def runner_of(settings: Settings, server: ServerLink | None = None) -> JobRunner:
    """What runs the jobs of the settings' catalogue; `server` is the one beside this process."""
    from bascule.app import open_catalogue, open_keys
    from bascule.jobs import JobRunner
    from bascule.kinds.deferred import payloads_of, serves
    from bascule.kinds.kind_table import KINDS

    keys, payloads = cache(partial(open_keys, settings)), payloads_of(settings)
    return JobRunner(
        open_catalogue(settings), KINDS, asking(settings, server), lambda: keys().in_force(),
        partial(serves, payloads, server), payloads,
    )  # fmt: skip


class Told:
    """Sends progress to the parent, which keeps it; see `jobs.Live`."""

    stopped = ""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self.send = send

    def begin(self, subject: str, facts: Mapping[str, Any]) -> None:
        self.send({"begin": [subject, facts]})

    def tell(self, progress: Mapping[str, Any]) -> None:
        self.send({"tell": progress})

    def stop(self, *_: object) -> None:
        self.stopped = "its parent has stopped it"


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Do a task: `{"result": ...}`. Errors show no place of an upload."""
    from bascule.settings import from_json

    settings = from_json(question["settings"])
    kind, live = load_named(question["kind"]), Told(tell_parent)
    if kind.can_resume:
        signal.signal(signal.SIGTERM, live.stop)
    return do(settings, kind, msgspec.convert(question["task"], Task), live)


def do(settings: Settings, kind: Kind, task: Task, live: Told) -> dict[str, Any]:
    """Do a task in this process; see `answer`."""
    try:
        with noting(kind.logger, lambda line: live.send({"note": line})):
            return {"result": kind.run(settings, task, live)}
    except BasculeError as error:
        message, hint = (_OWN_PLACE.sub("", text) for text in (error.message, error.hint))
        raise type(error)(message, hint=hint, **error.facts) from None


def enter(folder: str) -> None:
    """Go to the folder that paths of a job are relative to. Raises `NotFound`."""
    try:
        os.chdir(folder or ".")
    except OSError as problem:
        raise NotFound(f"the folder of the job cannot be entered: {problem}") from None


if __name__ == "__main__":
    answer_parent(answer)
