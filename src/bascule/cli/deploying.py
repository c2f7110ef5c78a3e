"""The commands that deploy versions to endpoints, and roll back."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, Reason, Ref
from bascule.cli.screen import note, print_json, say
from bascule.core import Invalid, seconds_of

if TYPE_CHECKING:
    from bascule.endpoints import Deployed
    from bascule.release.rollouts import Begun, RolloutBook

EndpointName = Annotated[str, typer.Argument(help="The endpoint's name.", show_default=False)]


def deploy(
    version: Ref,
    to: Annotated[
        str, typer.Option(help="The endpoint. Default: the name of the model.", show_default=False)
    ] = "",
    strategy: Annotated[
        str,
        typer.Option(
            help="all: it answers every request at once; blue-green: the same, and the version of "
            "before stays loaded; canary, shadow, ab, bandit, contextual: evidence decides, step "
            "by step. "
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
            "'accuracy -2 pp', 'mae +5 %', 'answers +20 pp', 'disagreement +5 pp'; of a part of a "
            "composition 'p95[PART] +20 %'. With one, all and blue-green are guarded too.",
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
    outcomes_sample: Annotated[
        float | None,
        typer.Option(
            help="The share of predictions that get an outcome; others are not waited for.",
            show_default="1.0",
        ),
    ] = None,
    approve: Annotated[
        bool, typer.Option(help="Wait for `rollout promote` before the last step.")
    ] = False,
    allow_answers: Annotated[
        bool,
        typer.Option(
            "--allow-answers",
            help="Its answers may differ from those of the current version by more than the guard "
            "'answers' allows.",
        ),
    ] = False,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--context",
            show_default=False,
            help="Of strategy contextual: an input by which requests are steered. Can be repeated.",
        ),
    ] = None,
    reason: Reason = "",
    follow: Annotated[
        str,
        typer.Option(
            help="The alias whose moves deploy from now on, in the same way: late@champion. "
            "none: no alias any more.",
            show_default=False,
        ),
    ] = "",
    dry_run: Annotated[bool, typer.Option(help="Tell what would happen, and stop.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask. Needed without a terminal.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a version answer an endpoint: bascule deploy late/4."""
    from bascule.release.rollouts import RolloutRequest

    asked = RolloutRequest(
        version=version, endpoint=to, strategy=strategy, guards=tuple(guard or ()),
        steps_percent=_steps(steps), step_s=_seconds(step_for, "--step-for"),
        bake_s=_seconds(bake_for, "--bake-for"), max_s=_seconds(within, "--within"),
        min_requests=min_requests, alpha=alpha, beta=beta, needs_approval=approve or None,
        outcomes_sample=outcomes_sample, allow_answers=allow_answers, reason=reason, follow=follow,
        context=tuple(by or ()),
    )  # fmt: skip
    book, user = context.rollouts(), context.user()
    if not (yes or dry_run or as_json):
        _confirm(book.deploy(asked, by=user, dry_run=True), book)
    made = book.deploy(asked, by=user, dry_run=dry_run)
    _tell_made(made, dry_run=dry_run, as_json=as_json)
    if (yes or dry_run) and not as_json:
        _note_earlier(made, book)


def _confirm(trial: Deployed | Begun, book: RolloutBook) -> None:
    """Go on if a person at a terminal says so, once the consequences are shown."""
    if not sys.stdin.isatty():
        raise Invalid(
            "there is no terminal to confirm the deployment on",
            hint="add --yes to deploy, or --dry-run to see what would happen",
        )
    _tell_made(trial, dry_run=True, as_json=False)
    _note_earlier(trial, book)
    if not typer.confirm("go on?", default=True, err=True):
        raise typer.Exit(1)


def _note_earlier(trial: Deployed | Begun, book: RolloutBook) -> None:
    """Say so where this version was rolled back at this endpoint before."""
    from bascule.endpoints import Deployed

    if isinstance(trial, Deployed):
        endpoint, version = trial.plan.endpoint, trial.plan.current.version
    else:
        endpoint, version = trial.rollout.endpoint, trial.rollout.candidate
    for stored in reversed(book.rollouts(endpoint)):
        if stored.rollout.candidate == version and stored.state == "aborted" and stored.latest:
            note(f"before, on {stored.ended_at:%Y-%m-%d %H:%M} UTC: {stored.latest.sentence}")
            return


def _tell_made(made: Deployed | Begun, *, dry_run: bool, as_json: bool) -> None:
    from bascule.endpoints import Deployed

    if isinstance(made, Deployed):
        tell_plan(made, dry_run=dry_run, as_json=as_json)
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
    if assumed := {one.assumed for one in begun.forecasts} - {""}:
        note(f"assumed rates of the current version: {', '.join(sorted(assumed))}")
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
    endpoint: EndpointName,
    reason: Annotated[str, typer.Option(help="Why, for the history.", show_default=False)],
    to: Annotated[
        int | None,
        typer.Option(help="The plan to serve again. Default: the last that served others."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve an earlier plan of an endpoint again."""
    made = context.endpoints().roll_back(endpoint, by=context.user(), reason=reason, to=to)
    tell_plan(made, dry_run=False, as_json=as_json)


def tell_plan(made: Deployed, *, dry_run: bool, as_json: bool) -> None:
    """Say what plan was made, or would be."""
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
        say(made.prospect)
    else:
        say(made.sentence)
        note("servers follow within a second: bascule endpoints")
