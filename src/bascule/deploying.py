"""Deployments from Python: deploy, watch and command rollouts, roll back, deprecate.

They work on the registry of the settings; where `BASCULE_SERVER` names a control API, over it, as
commands do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from bascule.core import Reference, user_name
from bascule.documents import Plot, Plots, Table, Text, lettered, notebook

if TYPE_CHECKING:
    from bascule.endpoints import Deployed, Endpoint, EndpointBook
    from bascule.registry import ModelRegistry, Version
    from bascule.release.rollouts import Begun, Command, RolloutBook, StoredDecision, StoredRollout
    from bascule.stats import Estimate
    from bascule_client.control import ControlClient

One = TypeVar("One")

_WIDTH = 160


class Rows(list[One], Generic[One]):
    """A list that is shown as a table, in a console and in a notebook."""

    def __init__(
        self, found: Sequence[One], headings: Sequence[str], row: Callable[[One], Sequence[str]]
    ) -> None:
        super().__init__(found)
        rows = tuple(tuple(str(cell) for cell in row(one)) for one in found)
        self._table = Table(tuple(headings), rows)

    def __repr__(self) -> str:
        return lettered([self._table], _WIDTH)

    def _repr_html_(self) -> str:
        return notebook(self._table)


class LiveRollout:
    """A rollout: where it stands now, its story, and what can be done with it."""

    def __init__(self, book: RolloutBook, stored: StoredRollout) -> None:
        self._book = book
        self._stored = stored

    @property
    def id(self) -> str:
        return self._stored.rollout.id

    def status(self) -> StoredRollout:
        """Where it stands now: `rollout`, `latest` (the last look), `ended_at`."""
        self._stored = self._book.get(self.id)
        return self._stored

    @property
    def state(self) -> str:
        """`asked`, `running`, `waiting`, `paused`, `baking`, `promoted`, `passed` or `aborted`."""
        return self.status().state

    @property
    def sentence(self) -> str:
        """The last look, in a sentence."""
        stored = self.status()
        asked = f"asked for; a server that serves {stored.rollout.endpoint} begins it"
        return asked if stored.latest is None else stored.latest.sentence

    def decisions(self) -> Rows[StoredDecision]:
        """Every decision so far, with its reason."""
        return Rows(
            self._book.decisions(self.id), ("when", "candidate", "decision"),
            lambda one: (
                f"{one.at:%Y-%m-%d %H:%M:%S}", f"{one.decision.shares.candidate_percent:g} %",
                one.decision.sentence,
            ),
        )  # fmt: skip

    def pause(self, *, reason: str = "") -> str:
        """Keep the shares as they are. Harm still rolls back."""
        return self._command("pause", reason)

    def resume(self, *, reason: str = "") -> str:
        """Go on with a paused rollout."""
        return self._command("resume", reason)

    def abort(self, *, reason: str = "") -> str:
        """Give all traffic back to the current version."""
        return self._command("abort", reason)

    def promote(self, *, reason: str = "", allow_answers: bool = False) -> str:
        """Approve the last step, or give the candidate all traffic before there is proof.

        `allow_answers`: also where its answers differ from those of the current version.
        """
        return self._command("promote", reason, allow_answers=allow_answers)

    def replay(self) -> list[str]:
        """Make every decision again from the stored evidence; a sentence for each that differs."""
        return self._book.replay(self.id)

    def values(self) -> dict[str, Estimate]:
        """Of a contextual bandit, what each version and the policy would have earned."""
        return self._book.values(self.id).values

    def _command(self, command: Command, reason: str, *, allow_answers: bool = False) -> str:
        return self._book.command(
            self.id, command, by=user_name(), reason=reason, allow_answers=allow_answers
        ).sentence

    def __repr__(self) -> str:
        said, rollout = self.sentence, self._stored.rollout
        state = self._stored.state
        is_told = said.startswith(state)
        shown = said if is_told else f"{state}: {said}"
        return f"rollout {rollout.id} of {rollout.candidate} ({rollout.strategy}): {shown}"

    def _repr_html_(self) -> str:
        from bascule.release.rollouts import evidence_chart

        chart = evidence_chart(self._stored.rollout, [*enumerate(self._book.evidence(self.id))])
        caption = "After each interval, as odds. Dashed: the odds that end the rollout."
        plots = () if chart is None else (Plots((Plot("Evidence of harm", caption, chart),)),)
        return notebook(Text(repr(self)), self.decisions()._table, *plots)


def deploy(
    version: Version | str, *, dry_run: bool = False, **options: Any
) -> Deployed | LiveRollout | Begun:
    """Make a version answer an endpoint: `deploy("good/2")`. Servers follow within a second.

    Args:
        version: The version, or a reference.
        dry_run: Check and decide, and change nothing.
        **options: `to` (the endpoint; the name of the model by default), `strategy`, `reason`,
            `follow` (an alias whose moves deploy from now on), and of a rollout `guards`,
            `steps_percent`, `step_s`, `max_s`, `min_requests`, `alpha`, `beta`, `bake_s`,
            `needs_approval`, `outcomes_sample`, `load_tries`, `allow_answers`,
            `context`: see `RolloutRequest`. What is not said takes `[rollouts]` of the settings.

    Returns:
        The plan that was made, or the rollout that was asked for; of a dry run its forecasts.

    Raises:
        NotFound: There is no such version.
        Refused: It is retired, its gates failed, or it has another signature than the version
            that answers now.
        Conflict: The endpoint serves it already, or has a rollout under way.
        Invalid: An option has no meaning.
    """
    from bascule.endpoints import request_of
    from bascule.release.rollouts import Begun, RolloutRequest

    asked, book = request_of(RolloutRequest, version, options), _rollouts()
    made = book.deploy(asked, by=user_name(), dry_run=dry_run)
    if isinstance(made, Begun) and not dry_run:
        return LiveRollout(book, book.get(made.rollout.id))
    return made


def rollouts(endpoint: str | None = None) -> Rows[LiveRollout]:
    """Every rollout, or those of an endpoint, the oldest first."""
    book = _rollouts()
    return Rows(
        [LiveRollout(book, one) for one in book.rollouts(endpoint)],
        ("rollout", "candidate", "strategy", "state", "asked"),
        lambda one: (
            one.id, one._stored.rollout.candidate, one._stored.rollout.strategy,
            one._stored.state, f"{one._stored.rollout.started_at:%Y-%m-%d %H:%M:%S}",
        ),
    )  # fmt: skip


def rollout(name: str) -> LiveRollout:
    """One by its id, or the latest of an endpoint; raises `NotFound`."""
    book = _rollouts()
    return LiveRollout(book, book.get(name))


def list_endpoints() -> Rows[Endpoint]:
    """The endpoints that have a plan, by name."""
    return Rows(
        _endpoints().endpoints(), ("endpoint", "plan", "answers", "follows", "by"),
        lambda one: (
            one.name, str(one.current.plan.number), one.answers, one.follows,
            one.current.made_by,
        ),
    )  # fmt: skip


def rollback(endpoint: str, *, reason: str, to: int | None = None) -> Deployed:
    """Serve an earlier plan of an endpoint again: the last with other versions, or `to`.

    Raises:
        NotFound: There is no such endpoint or plan.
        Conflict: No earlier plan differs.
    """
    return _endpoints().roll_back(endpoint, by=user_name(), reason=reason, to=to)


def set_endpoint(name: str, *, reason: str = "", dry_run: bool = False, **changes: Any) -> Deployed:
    """Change how an endpoint answers, with the same versions.

    Args:
        name: The endpoint.
        reason: Why, for the history.
        dry_run: Check and decide, and change nothing.
        **changes: `sticky_header`, `sticky_field`, `fallback`, `holdback_percent`, `breaker` (a
            `BreakerRule`) and `limits` (a `CallLimits`) of `bascule.endpoints`: see `PlanChanges`.

    Raises:
        NotFound: Nothing answers this name yet; or there is no such fallback.
        Conflict: A rollout is under way, or nothing changes.
        Invalid: A change has no meaning.
    """
    from bascule.core import Invalid
    from bascule.endpoints import PlanChanges

    known = PlanChanges.__struct_fields__
    if unknown := sorted(set(changes) - set(known)):
        raise Invalid(
            f"an endpoint has no {unknown[0]!r} to set", hint=f"it has {', '.join(known)}"
        )
    made = PlanChanges(**changes)
    return _endpoints().change(name, made, by=user_name(), reason=reason, dry_run=dry_run)


def delete_endpoint(name: str, *, reason: str) -> str:
    """Delete an endpoint; its plans and history stay. A sentence says what answers its name.

    Raises:
        NotFound: There is no such endpoint.
        Conflict: It has a rollout under way.
    """
    return _rollouts().delete_endpoint(name, by=user_name(), reason=reason)


def deprecate(
    version: Version | str,
    *,
    sunset: date | datetime | None = None,
    successor: Version | str = "",
    reason: str = "",
) -> Version:
    """Announce that a version will go away: answers say so, and end at the sunset.

    Args:
        version: The version: `good/2`.
        sunset: From then on it is answered 410; a day begins at midnight UTC.
        successor: The version to use instead.
        reason: Why.

    Raises:
        NotFound: There is no such version or successor.
        Invalid: The sunset is in the past.
    """
    if sunset is not None and not isinstance(sunset, datetime):
        sunset = datetime.combine(sunset, time(), UTC)
    model, number = _numbered(version)
    return _registry().deprecate(
        model, number, by=user_name(), sunset=sunset, successor=str(successor), reason=reason
    )


def undeprecate(version: Version | str, *, reason: str = "") -> Version:
    """Withdraw a deprecation; raises `Conflict` where there is none."""
    model, number = _numbered(version)
    return _registry().undeprecate(model, number, by=user_name(), reason=reason)


def _server() -> ControlClient | None:
    """The control API that `BASCULE_SERVER` names, as of commands; None for the settings."""
    server = os.environ.get("BASCULE_SERVER", "")
    if not server:
        return None
    from bascule_client.control import ControlClient

    return ControlClient(server, key=os.environ.get("BASCULE_KEY", ""))


def _rollouts() -> RolloutBook:
    if client := _server():
        from bascule.release.rollouts import RemoteRollouts

        return RemoteRollouts(client)
    from bascule.app import open_rollouts
    from bascule.settings import load_settings

    return open_rollouts(load_settings())


def _endpoints() -> EndpointBook:
    if client := _server():
        from bascule.endpoints import RemoteEndpoints

        return RemoteEndpoints(client)
    from bascule.app import open_endpoints
    from bascule.settings import load_settings

    return open_endpoints(load_settings())


def _registry() -> ModelRegistry:
    if client := _server():
        from bascule.registry import RemoteRegistry

        return RemoteRegistry(client)
    from bascule.app import open_registry
    from bascule.settings import load_settings

    return open_registry(load_settings())


def _numbered(version: Version | str) -> tuple[str, int]:
    """Model and number: no alias may decide which version goes away."""
    from bascule.core import Invalid

    named = Reference.parse(str(version))
    if named.number is None:
        raise Invalid(f"{version!r} does not say which version", hint=f'"{named.model}/3" does')
    return named.model, named.number
