"""The commands about endpoints: deploy, roll back, list."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from bascule.cli import context
from bascule.cli.context import AsJson, Ref
from bascule.cli.screen import note, print_json, print_table, say, when
from bascule.core import Invalid, seconds_of

if TYPE_CHECKING:
    from bascule.endpoints import (
        BreakerRule,
        Deployed,
        Endpoint,
        EndpointBook,
        PlanChanges,
        PlanEvent,
    )
    from bascule.release.rollouts import Begun

_Endpoint = Annotated[str, typer.Argument(help="The endpoint's name.", show_default=False)]
_WhyDeploy = Annotated[str, typer.Option(help="Why, for the history.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (deploy, rollback):
        app.command()(command)
    app.add_typer(_group, name="endpoints")


class _ShowsByDefault(TyperGroup):
    """`bascule endpoints [NAME]` is short for `bascule endpoints show [NAME]`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["show", *args])


_group = typer.Typer(
    cls=_ShowsByDefault, help="List endpoints, show one, change how it answers, or delete one."
)


@_group.command()
def delete(
    name: _Endpoint,
    reason: Annotated[str, typer.Option(help="Why, for the history.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Delete an endpoint; its plans and its history stay, and its name is that of the model."""
    said = context.rollouts().delete_endpoint(name, by=context.user(), reason=reason)
    if as_json:
        print_json({"deleted": name, "sentence": said})
    else:
        say(said)


_INFINITIVES = {"deployed": "deploy", "changed": "change"}
_OF_SETTINGS = "default"
"""As the value of an option: what `[serving.models.NAME]` says."""


@_group.command(name="set")
def set_(
    name: _Endpoint,
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
    reason: _WhyDeploy = "",
    dry_run: Annotated[bool, typer.Option(help="Tell what would happen, and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Change how an endpoint answers, with the same versions: arms of users, fallback, breaker."""
    book = context.endpoints()
    changes = _changes(book, name, sticky, fallback, breaker, timeout, retry)
    made = book.change(name, changes, by=context.user(), reason=reason, dry_run=dry_run)
    _tell(made, dry_run=dry_run, as_json=as_json)


def _changes(
    book: EndpointBook, name: str, sticky: Sequence[str] | None, fallback: str | None,
    breaker: str | None, timeout: str | None, retry: float | None,
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
    if not given:
        raise Invalid(
            "nothing to change", hint="--sticky, --fallback, --breaker, --timeout or --retry"
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


def deploy(
    version: Ref,
    to: Annotated[
        str, typer.Option(help="The endpoint. Default: the name of the model.", show_default=False)
    ] = "",
    strategy: Annotated[
        str,
        typer.Option(
            help="all: it answers every request at once; blue-green: the same, and the version of "
            "before stays loaded; canary, shadow, ab, bandit: evidence decides, step by step. "
            "Default: rollouts.strategy of bascule.toml, or all.",
            show_default=False,
        ),
    ] = "",
    guard: Annotated[
        list[str] | None,
        typer.Option(
            "--guard",
            "-g",
            show_default=False,
            help="What it may not do worse: 'errors +1 pp', 'p95 +20 %', 'latency +20 %', "
            "'accuracy -2 pp', 'disagreement +5 pp'. With one, all and blue-green are guarded too.",
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(help="Its share in each step, in percent: 5,25,50,100.", show_default=False),
    ] = None,
    step_for: Annotated[
        str | None,
        typer.Option(help="How long a step lasts at least: 30s, 10m, 1h.", show_default="5m"),
    ] = None,
    bake_for: Annotated[
        str | None,
        typer.Option(
            help="How long 5 % stay with the version of before, to compare with.",
            show_default="0s",
        ),
    ] = None,
    within: Annotated[
        str | None,
        typer.Option(help="When it ends without a promotion: 12h, 7d.", show_default="7d"),
    ] = None,
    min_requests: Annotated[
        int | None, typer.Option(min=0, help="Of the candidate, in each step.", show_default="100")
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="The promised share of good versions that are rolled back.", show_default="0.05"
        ),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(
            help="The promised share of versions at a guard that are promoted.",
            show_default="0.05",
        ),
    ] = None,
    approve: Annotated[
        bool, typer.Option(help="Wait for `rollout promote` before the last step.")
    ] = False,
    reason: _WhyDeploy = "",
    follow: Annotated[
        str,
        typer.Option(
            help="The alias whose moves deploy from now on, in the same way: late@champion. "
            "none: no alias any more.",
            show_default=False,
        ),
    ] = "",
    dry_run: Annotated[bool, typer.Option(help="Tell what would happen, and stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a version answer an endpoint: bascule deploy late/4."""
    from bascule.release.rollouts import RolloutRequest

    asked = RolloutRequest(
        version=version, endpoint=to, strategy=strategy, guards=tuple(guard or ()),
        steps_percent=_steps(steps), step_s=_seconds(step_for, "--step-for"),
        bake_s=_seconds(bake_for, "--bake-for"), max_s=_seconds(within, "--within"),
        min_requests=min_requests, alpha=alpha, beta=beta, needs_approval=approve or None,
        reason=reason, follow=follow,
    )  # fmt: skip
    book, user = context.rollouts(), context.user()
    if sys.stdin.isatty() and not (yes or dry_run or as_json):
        _tell_made(book.deploy(asked, by=user, dry_run=True), dry_run=True, as_json=False)
        if not typer.confirm("go on?", default=True, err=True):
            raise typer.Exit(1)
    _tell_made(book.deploy(asked, by=user, dry_run=dry_run), dry_run=dry_run, as_json=as_json)


def _tell_made(made: Deployed | Begun, *, dry_run: bool, as_json: bool) -> None:
    from bascule.endpoints import Deployed

    if isinstance(made, Deployed):
        _tell(made, dry_run=dry_run, as_json=as_json)
    else:
        _tell_begun(made, dry_run=dry_run, as_json=as_json)


def _tell_begun(begun: Begun, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        import msgspec

        print_json(
            {
                "rollout": msgspec.to_builtins(begun.rollout), "sentence": begun.sentence,
                "forecasts": [msgspec.to_builtins(one) for one in begun.forecasts],
                "from_settings": begun.from_settings, "dry_run": dry_run,
            }
        )  # fmt: skip
        return
    say(begun.sentence)
    for one in begun.forecasts:
        say(f"  {one.sentence}")
    if begun.forecasts:
        said = ", ".join(
            sorted({f"{one.guard.partition(' ')[0]} {one.rate:.0%}" for one in begun.forecasts})
        )
        note(f"assumed rates of the current version: {said}")
    if begun.from_settings:
        note(f"from the settings: {', '.join(begun.from_settings)}")
    if not dry_run:
        note(f"bascule rollout status {begun.rollout.id} --follow")


def _seconds(text: str | None, option: str) -> float | None:
    return None if text is None else seconds_of(text, option)


def _steps(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(one) for one in text.split(","))
    except ValueError:
        raise Invalid(f"--steps: {text!r} are no numbers", hint="write 5,25,50,100") from None


def rollback(
    endpoint: _Endpoint,
    reason: Annotated[str, typer.Option(help="Why, for the history.", show_default=False)],
    to: Annotated[
        int | None,
        typer.Option(help="The plan to serve again. Default: the last that served others."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve an earlier plan of an endpoint again."""
    made = context.endpoints().roll_back(endpoint, by=context.user(), reason=reason, to=to)
    _tell(made, dry_run=False, as_json=as_json)


@_group.command(name="show")
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
        if as_json:
            print_json([one.to_json() for one in found])
        else:
            print_table(
                ("endpoint", "plan", "answers", "since", "by"), map(_row, found),
                empty="no endpoint has a plan; bascule deploy MODEL/VERSION makes one",
            )  # fmt: skip
        return
    plans, history = book.plans(name), book.history(name)[::-1]
    if as_json:
        print_json(
            {
                "plans": [one.to_json() for one in plans],
                "history": [one.to_json() for one in history],
            }
        )
        return
    say(story(history[::-1]))


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


def _tell(made: Deployed, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        before = made.before
        print_json(
            {
                "plan": made.plan.to_json(),
                "before": None if before is None else before.to_json(),
                "sentence": made.sentence,
                "dry_run": dry_run,
            }
        )
    elif dry_run:
        done, _, rest = made.sentence.partition(" ")
        say(f"would {_INFINITIVES.get(done, done)} {rest}")
    else:
        say(made.sentence)
        note("servers follow within a second: bascule endpoints")
