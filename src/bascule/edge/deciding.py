"""What a device does next, by its plan. Pure: states, facts and the time in; states and acts out.

A version comes to serve in this order: named by the channel, fetched and proven into a slot, tried
on requests that the version that serves has answered, put in its place. The device returns from a
version that does not open, does not stay up, or fails too many requests; its digest is refused
then.

Durations are of a monotonic clock: the device's own clock may be wrong, and may jump.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from bascule.core import Invalid
from bascule.edge.channels import Channel, Offer
from bascule.edge.slots import State

_MAX_RECORDED_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How careful a device is.

    Attributes:
        look_s: Between two looks at the channel.
        retry_s: After a fetch that failed; twice as long each time, up to an hour.
        hours: First and last hour of the day, by the device's clock, in which bundles are fetched:
            (22, 5) is the night. None for any time.
        budget_bytes: The most bytes that one fetch may receive; None for no bound.
        trial_requests: How many requests a candidate answers too before it serves.
        trial_s: When its trial ends though fewer came.
        check_s: The longest that a trial, or the check of recorded answers, may take.
        settle_s: How long a version must stay up for its start to count as a good one.
        max_starts: Starts in a row without that, after which the device returns.
        min_requests: Below that many no share of errors is judged.
        max_error_ratio: The largest share of failed requests, of the last 200.
        report_s: Between two reports of counts.
        outbox_bytes: The most bytes of reports that wait for the server.
        sample_rows: How many answered rows, drawn uniformly, each report holds.
        private: Fields whose values leave the device neither in profiles nor in rows.
    """

    look_s: float = 300.0
    retry_s: float = 60.0
    hours: tuple[int, int] | None = None
    budget_bytes: int | None = None
    trial_requests: int = 50
    trial_s: float = 3600.0
    check_s: float = 600.0
    settle_s: float = 60.0
    max_starts: int = 3
    min_requests: int = 20
    max_error_ratio: float = 0.1
    report_s: float = 3600.0
    outbox_bytes: int = 1 << 20
    sample_rows: int = 0
    private: tuple[str, ...] = ()


def read_plan(file: Path | None) -> Plan:
    """The plan of a JSON file, with defaults for what it leaves out; raises `Invalid`."""
    try:
        return Plan() if file is None else msgspec.json.decode(file.read_bytes(), type=Plan)
    except (OSError, msgspec.MsgspecError) as problem:
        raise Invalid(f"{file} is no plan: {problem}", hint="see Plan in bascule.edge") from None


@dataclass(slots=True)
class Trial:
    """Requests that a candidate is to answer, recorded since `since_s`: at most `most`."""

    digest: str
    since_s: float
    most: int
    requests: list[tuple[bytes, int]] = field(default_factory=list)
    size_bytes: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.requests) >= self.most or self.size_bytes >= _MAX_RECORDED_BYTES

    def record(self, body: bytes, json_bytes: int) -> None:
        """Keep a request as it came, where there is room."""
        if not self.is_full:
            self.requests.append((body, json_bytes))
            self.size_bytes += len(body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """How a candidate did; `problem` alone where its trial has ended without an answer."""

    digest: str
    requests: int = 0
    failed: int = 0
    differing: int = 0
    problem: str = ""


@dataclass(slots=True, kw_only=True)
class Facts:
    """What is known besides the state: the channel, what is in slots, and when to ask again.

    `hour` is of the day, by the device's clock; nothing is fetched before `fetch_at_s`. `trial` is
    what is recorded, `tried` what came of it.
    """

    channel: Channel | None = None
    look_at_s: float = 0.0
    fetch_at_s: float = 0.0
    slots: Collection[str] = ()
    trial: Trial | None = None
    tried: Tried | None = None
    hour: int = 0


class Act(NamedTuple):
    """One step and its reason, if it has one; `offer` is of all but `rest` and `look`."""

    verb: Literal["rest", "look", "fetch", "record", "try", "install", "refuse"]
    offer: Offer | None = None
    reason: str = ""


def offer_for(channel: Channel, state: State) -> Offer | None:
    """What the channel has this device run; None where all of that was refused here."""
    offers = [channel.stable]
    candidate = channel.candidate
    if candidate is not None and candidate.takes(state.device):
        offers.insert(0, Offer(candidate.version, candidate.digest))
    return next((offer for offer in offers if offer.digest not in state.refused), None)


def next_act(state: State, facts: Facts, plan: Plan, now_s: float) -> Act:
    """The next step from what serves to what the channel names."""
    if now_s >= facts.look_at_s:
        return Act("look")
    if facts.channel is None:
        return Act("rest", reason="no channel was read yet")
    offer = offer_for(facts.channel, state)
    if offer is None:
        return Act("rest", reason="every version of the channel was refused")
    if state.current is not None and offer.digest == state.current.digest:
        return Act("rest")
    if offer.digest in facts.slots:
        is_first = state.current is None
        return Act("install", offer) if is_first else _after_trial(offer, facts, plan, now_s)
    if now_s < facts.fetch_at_s:
        return Act("rest", reason="the last fetch failed")
    if not may_fetch(plan, facts.hour):
        return Act("rest", reason="nothing is fetched at this hour")
    return Act("fetch", offer)


def may_fetch(plan: Plan, hour: int) -> bool:
    """Whether bundles are fetched in an hour; the last one counts."""
    if plan.hours is None:
        return True
    first, last = plan.hours
    return first <= hour <= last if first <= last else hour >= first or hour <= last


def _after_trial(offer: Offer, facts: Facts, plan: Plan, now_s: float) -> Act:
    tried, trial = facts.tried, facts.trial
    if tried is not None and tried.digest == offer.digest:
        if reason := _failure(tried, plan):
            return Act("refuse", offer, reason)
        return Act("install", offer, f"{tried.differing} of {tried.requests} differ")
    if trial is None or trial.digest != offer.digest:
        return Act("record", offer)
    if trial.is_full or now_s - trial.since_s >= plan.trial_s:
        return Act("try" if trial.requests else "install", offer)
    return Act("rest", reason=f"{len(trial.requests)} of {trial.most} requests were recorded")


def _failure(tried: Tried, plan: Plan) -> str:
    """Why a candidate is refused after its trial; empty where it is not."""
    if tried.failed > plan.max_error_ratio * tried.requests:
        return f"in trial, {tried.failed} of {tried.requests} requests failed: {tried.problem}"
    return "" if tried.requests else tried.problem


def breach(window: Collection[bool], plan: Plan) -> str:
    """Why the version that answered these requests is bad; empty where it is not."""
    failed = sum(window)
    if len(window) < plan.min_requests or failed <= plan.max_error_ratio * len(window):
        return ""
    return f"{failed} of {len(window)} requests failed"


# -- states after events --


def started(state: State, plan: Plan) -> tuple[State, str]:
    """The state to write before what serves is opened, and why the device returned, if it did.

    Without a version to return to, the only one is tried for ever.
    """
    if state.current is None:
        return state, ""
    if state.starts >= plan.max_starts and state.last_good is not None:
        reason = f"it was started {state.starts} times and never stayed up for {plan.settle_s:g} s"
        return returned(state, reason), reason
    return replace(state, starts=state.starts + 1), ""


def settled(state: State) -> State:
    """What serves has stayed up, or the agent ends in good order, which speaks against none."""
    return replace(state, starts=0)


def installed(state: State, offer: Offer) -> State:
    """It serves. What served before is what to return to, if it had stayed up."""
    before = state.current
    last_good = None if state.last_good == offer else state.last_good
    if before is not None and not state.starts:
        last_good = before
    return replace(state, current=offer, last_good=last_good, starts=1)


def refused(state: State, offer: Offer, reason: str) -> State:
    """It is never installed again, nor returned to."""
    last_good = state.last_good
    if last_good is not None and last_good.digest == offer.digest:
        last_good = None
    return replace(state, last_good=last_good, refused={**state.refused, offer.digest: reason})


def returned(state: State, reason: str) -> State:
    """What served last serves again; without it nothing does, and the channel names what comes.

    What serves now is refused for the reason; it may come again where that is empty.
    """
    assert state.current is not None
    if reason:
        state = refused(state, state.current, reason)
    return replace(state, current=state.last_good, last_good=None, starts=0)
