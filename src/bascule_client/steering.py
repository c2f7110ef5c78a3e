"""What a client does over the control API: endpoints, rollouts, registered models and alerts.

Answers are the JSON of the routes (`docs/reference/control-api.md`); errors are of the kinds that
the server raised. A request that changes something is done once, even if its answer is lost.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable
from datetime import datetime
from typing import Any

from bascule_client.control import ControlClient, path_of

Item = dict[str, Any]
Items = list[Item]
Names = list[str]


class _Part:
    """One part of a control API."""

    def __init__(self, open_client: Callable[[], ControlClient]) -> None:
        self._open = open_client

    def _get(self, *parts: object, **query: Any) -> Any:
        return self._open().ask("GET", path_of(*parts), **query)

    def _items(self, *parts: object, **query: Any) -> Items:
        return [*self._open().items(path_of(*parts), **query)]

    def _change(
        self, method: str, parts: tuple[object, ...], body: Item | None = None, **query: Any
    ) -> Any:
        return self._open().ask(method, path_of(*parts), body, user=_user(), **query)


class Endpoints(_Part):
    """The endpoints: which versions answer a name, with which shares."""

    def list(self) -> Items:
        """Every endpoint that has a plan, by name."""
        return self._items("endpoints")

    def get(self, name: str) -> Item:
        """One endpoint and its current plan. Raises `NotFound`."""
        found: Item = self._get("endpoints", name)
        return found

    def plans(self, name: str) -> Items:
        """Every plan of an endpoint, the newest first."""
        return self._items("endpoints", name, "plans")

    def history(self, name: str) -> Items:
        """What happened to an endpoint, the latest first."""
        return self._items("endpoints", name, "history")

    def deploy(self, version: str, *, to: str = "", dry_run: bool = False, **options: Any) -> Item:
        """Make a version answer an endpoint, at once or by a rollout: `deploy("good/2")`.

        Args:
            version: The version, or a reference: `good/2`, `good@next`.
            to: The endpoint; the name of the model by default.
            dry_run: Check and decide, and change nothing.
            **options: `strategy`, `reason`, `guards`, `steps_percent`, `step_s`, `max_s`,
                `min_requests`, `alpha`, `beta`, `bake_s`, `needs_approval`, `outcomes_sample`,
                `load_tries`, `allow_answers`, `follow`. What is not said takes `[rollouts]` of the
                server's settings.

        Returns:
            `deployed`, the plan that was made at once, or `begun`, the rollout that was asked for;
            the other is None.

        Raises:
            NotFound: There is no such version.
            Refused: The gates of the version failed, or the key may not deploy it.
            Conflict: The endpoint serves it already, or has a rollout under way.
        """
        body = {"version": version, "endpoint": to, "dry_run": dry_run, **options}
        made: Item = self._change("POST", ("deployments",), body)
        return made

    def rollback(self, name: str, *, reason: str, to: int | None = None) -> Item:
        """Serve an earlier plan again: the last with other versions, or number `to`."""
        body = {"reason": reason, "to": to}
        made: Item = self._change("POST", ("endpoints", name, "rollback"), body)
        return made

    def delete(self, name: str, *, reason: str) -> Item:
        """Delete an endpoint; its plans and its history stay."""
        made: Item = self._change("DELETE", ("endpoints", name), reason=reason)
        return made


class Rollouts(_Part):
    """The rollouts. A rollout is named by its id, or by its endpoint for the latest one."""

    def list(self, endpoint: str | None = None) -> Items:
        """The rollouts, the latest first; of one endpoint, if it is named."""
        return self._items("rollouts", endpoint=endpoint)

    def get(self, rollout: str) -> Item:
        """One rollout and where it stands. Raises `NotFound`."""
        found: Item = self._get("rollouts", rollout)
        return found

    def decisions(self, rollout: str) -> Items:
        """The decisions of a rollout with their reasons, in order."""
        return self._items("rollouts", rollout, "decisions")

    def pause(self, rollout: str, *, reason: str = "") -> Item:
        """Keep the shares as they are. Harm still rolls back."""
        return self._command(rollout, "pause", reason)

    def resume(self, rollout: str, *, reason: str = "") -> Item:
        """Go on with a paused rollout."""
        return self._command(rollout, "resume", reason)

    def abort(self, rollout: str, *, reason: str = "") -> Item:
        """Give all traffic back to the current version."""
        return self._command(rollout, "abort", reason)

    def promote(self, rollout: str, *, reason: str = "", allow_answers: bool = False) -> Item:
        """Approve the last step, or give the candidate all traffic before there is proof.

        `allow_answers`: also where its answers differ from those of the current version.
        """
        more = {"allow_answers": True} if allow_answers else {}
        return self._command(rollout, "promote", reason, **more)

    def _command(self, rollout: str, command: str, reason: str, **more: bool) -> Item:
        body = {"reason": reason, **more}
        made: Item = self._change("POST", ("rollouts", rollout, command), body)
        return made


class Models(_Part):
    """The registered models. Called, it gives the names of what the server serves."""

    def __init__(
        self, open_client: Callable[[], ControlClient], served: Callable[[], Names]
    ) -> None:
        super().__init__(open_client)
        self._served = served

    def __call__(self) -> Names:
        """The names of what is served, as the prediction port tells them."""
        return self._served()

    def list(self) -> Items:
        """Every registered model by name, with its newest version and its aliases."""
        return self._items("models")

    def get(self, model: str) -> Item:
        """One model. Raises `NotFound`."""
        found: Item = self._get("models", model)
        return found

    def versions(self, model: str) -> Items:
        """Every version, the newest first."""
        return self._items("models", model, "versions")

    def history(self, model: str) -> Items:
        """The events of a model, the latest first."""
        return self._items("models", model, "history")

    def set_alias(self, model: str, alias: str, number: int, *, reason: str = "") -> Item:
        """Have an alias point to a version whose gates have not failed."""
        body = {"number": number, "reason": reason}
        made: Item = self._change("PUT", ("models", model, "aliases", alias), body)
        return made

    def drop_alias(self, model: str, alias: str, *, reason: str = "") -> Item:
        """Remove an alias."""
        parts = ("models", model, "aliases", alias)
        made: Item = self._change("DELETE", parts, reason=reason or None)
        return made

    def monitor(self, model: str, *, days: float = 7.0) -> Item:
        """Health, drift, truths and the ledger of a model in production."""
        found: Item = self._get("models", model, "monitor", days=days)
        return found

    def drift(self, model: str, *, days: float = 30.0) -> Item:
        """Drift of production against the baseline."""
        found: Item = self._get("models", model, "drift", days=days)
        return found

    def performance(self, model: str, *, days: float = 30.0) -> Item:
        """Performance on the truths that came."""
        found: Item = self._get("models", model, "performance", days=days)
        return found


class Alerts(_Part):
    """What is wrong, and which notifications are kept back."""

    def list(self, model: str | None = None, *, resolved: bool = False) -> Items:
        """The alerts that are not resolved, or all; of one model, if it is named."""
        return self._items("alerts", model=model, resolved=str(resolved).lower())

    def get(self, alert: str) -> Item:
        """One alert. Raises `NotFound`."""
        found: Item = self._get("alerts", alert)
        return found

    def acknowledge(self, alert: str, *, why: str) -> Item:
        """Note that a person works on it: it is not repeated."""
        made: Item = self._change("PUT", ("alerts", alert, "acknowledgement"), {"why": why})
        return made

    def silences(self) -> Items:
        """The silences that hold."""
        return self._items("silences")

    def silence(
        self, *, until: datetime, why: str, model: str = "*", source: str = "", alert: str = ""
    ) -> Item:
        """Keep notifications back until a time, which has a time zone."""
        body = {
            "until": until.isoformat(), "why": why, "model": model, "source": source,
            "alert": alert,
        }  # fmt: skip
        made: Item = self._change("POST", ("silences",), body)
        return made

    def end_silence(self, silence: str) -> Item:
        """End a silence now."""
        made: Item = self._change("DELETE", ("silences", silence))
        return made


def _user() -> str:
    """The name for histories, where callers need no keys."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
