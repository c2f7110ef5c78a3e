"""The commands about endpoints: list, show, change how one answers, delete."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from bascule.cli import context
from bascule.cli.context import AsJson, Reason
from bascule.cli.deploying import EndpointName, tell_plan
from bascule.cli.screen import print_either, table, when
from bascule.core import Invalid, seconds_of

if TYPE_CHECKING:
    from bascule.endpoints import BreakerRule, Endpoint, EndpointBook, PlanChanges, PlanEvent


class _ShowsByDefault(TyperGroup):
    """`bascule endpoints [NAME]` is short for `bascule endpoints show [NAME]`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["show", *args])


endpoints_group = typer.Typer(
    cls=_ShowsByDefault, help="List endpoints, show one, change how it answers, or delete one."
)


@endpoints_group.command()
def delete(
    name: EndpointName,
    reason: Annotated[str, typer.Option(help="Why, for the history.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Delete an endpoint; its plans and its history stay, and its name is that of the model."""
    said = context.rollouts().delete_endpoint(name, by=context.user(), reason=reason)
    print_either({"deleted": name, "sentence": said}, said, as_json=as_json)


_OF_SETTINGS = "default"
"""As the value of an option: what `[serving.models.NAME]` says."""


@endpoints_group.command(name="set")
def set_(
    name: EndpointName,
    sticky: Annotated[
        list[str] | None,
        typer.Option(
            show_default=False,
            help="What decides the arm of a request: header:NAME, field:INPUT, or none for chance; "
            "repeat it for a header and, without it, an input.",
        ),
    ] = None,
    fallback: Annotated[
        str | None,
        typer.Option(help="The version that answers where an arm fails: late/3, or none."),
    ] = None,
    breaker: Annotated[
        str | None,
        typer.Option(
            help="FAILURES[:OPEN], as 5:30s: after so many failures in a row an arm is not asked "
            "for so long. 0: no breaker; default: that of the settings."
        ),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            help="How long an arm may take: 200ms, 2s; 0s: until the deadline of the request; "
            "default: this and --retry as the settings say."
        ),
    ] = None,
    retry: Annotated[
        float | None,
        typer.Option(
            help="The percentage of calls that are tried once more when a model's process died."
        ),
    ] = None,
    holdback: Annotated[
        float | None,
        typer.Option(
            help="The percentage of requests, or keys, that get the arm holdback, on which callers "
            "do not act: their outcomes train and judge models. 0: none."
        ),
    ] = None,
    reason: Reason = "",
    dry_run: Annotated[bool, typer.Option(help="Tell what would happen, and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Change how an endpoint answers, with the same versions: arms of users, fallback, breaker."""
    book = context.endpoints()
    changes = _changes(book, name, sticky, fallback, breaker, timeout, retry, holdback)
    made = book.change(name, changes, by=context.user(), reason=reason, dry_run=dry_run)
    tell_plan(made, dry_run=dry_run, as_json=as_json)


def _changes(
    book: EndpointBook, name: str, sticky: Sequence[str] | None, fallback: str | None,
    breaker: str | None, timeout: str | None, retry: float | None, holdback: float | None,
) -> PlanChanges:  # fmt: skip
    from bascule.endpoints import CallLimits, PlanChanges

    given: dict[str, Any] = {}
    if sticky:
        given |= _sticky(sticky)
    if fallback is not None:
        given["fallback"] = "" if fallback in ("none", _OF_SETTINGS) else fallback
    if breaker is not None:
        given["breaker"] = _breaker(breaker)
    if timeout == _OF_SETTINGS:
        given["limits"] = None
    elif timeout is not None or retry is not None:
        plans = [one.current.plan for one in book.endpoints() if one.name == name]
        before = plans[0].limits if plans and plans[0].limits else CallLimits()
        given["limits"] = CallLimits(
            before.timeout_s if timeout is None else seconds_of(timeout, "--timeout"),
            before.retry_percent if retry is None else retry,
        )
    if holdback is not None:
        given["holdback_percent"] = holdback
    if not given:
        raise Invalid(
            "nothing to change",
            hint="--sticky, --fallback, --breaker, --timeout, --retry or --holdback",
        )
    return PlanChanges(**given)


def _sticky(texts: Sequence[str]) -> dict[str, str]:
    made = {"sticky_header": "", "sticky_field": ""}
    for text in texts:
        kind, mark, key = text.partition(":")
        if text == "none":
            continue
        if kind not in ("header", "field") or not mark or not key:
            raise Invalid(
                f"--sticky: {text!r} is neither header:NAME nor field:INPUT nor none",
                hint="--sticky header:bascule-sticky is what new endpoints have",
            )
        made[f"sticky_{kind}"] = key.lower() if kind == "header" else key
    return made


def _breaker(text: str) -> BreakerRule | None:
    from bascule.endpoints import BreakerRule

    if text == _OF_SETTINGS:
        return None
    failures, mark, open_for = text.partition(":")
    if not failures.isdecimal():
        raise Invalid(f"--breaker: {text!r} is not FAILURES[:OPEN]", hint="write 5 or 5:30s")
    rule = BreakerRule(int(failures))
    return BreakerRule(rule.failures, seconds_of(open_for, "--breaker")) if mark else rule


@endpoints_group.command(name="show")
def endpoints(
    name: Annotated[
        str | None,
        typer.Argument(help="One endpoint, with its history. Default: all.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the endpoints, their plans and what answers them; or the history of one."""
    book = context.endpoints()
    if name is None:
        found = book.endpoints()
        shown = table(
            ("endpoint", "plan", "answers", "since", "by"), map(_row, found),
            empty="no endpoint has a plan; bascule deploy MODEL/VERSION makes one",
        )  # fmt: skip
        print_either([one.to_json() for one in found], shown, as_json=as_json)
        return
    plans, history = book.plans(name), book.history(name)[::-1]
    print_either(
        {
            "plans": [one.to_json() for one in plans],
            "history": [one.to_json() for one in history],
        },
        story(history[::-1]),
        as_json=as_json,
    )


def story(history: Sequence[PlanEvent]) -> str:
    """The history of an endpoint, the oldest first: days, times, sentences, and who and why."""
    width = max(min(shutil.get_terminal_size().columns, 120), 40)
    made, day = [], ""
    for one in history:
        moment = when(one.at)
        if moment[:10] != day:
            day = moment[:10]
            made.append(day)
        sentence = one.sentence or one.kind
        who = f"{one.by}: {one.reason}" if one.reason else one.by
        lines = [(f"  {moment[11:]}  ", sentence)]
        if one.reason or f" by {one.by}" not in sentence:
            lines.append((" " * 12, who))
        for first, text in lines:
            made += textwrap.wrap(
                text, width, initial_indent=first, subsequent_indent=" " * 12,
                break_on_hyphens=False,
            )  # fmt: skip
    return "\n".join(made)


def _row(endpoint: Endpoint) -> tuple[str, ...]:
    stored = endpoint.current
    follows = f" (follows {endpoint.follows})" if endpoint.follows else ""
    said = endpoint.answers + follows
    return endpoint.name, str(stored.plan.number), said, when(stored.made_at), stored.made_by
