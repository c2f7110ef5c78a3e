"""Rollouts over devices: which devices take the candidate, and what comes next. Pure.

A device is a cluster of requests: it gives one outcome a phase. It is *sick* where it failed its
golden check, refused or left a version, or has at least twice the share of errors of its own time
before; *silent* where nothing came from it in the latter half of the phase so far; else *well*, or,
if it reports and has not taken the candidate, of no outcome yet.

The salt draws the devices of each phase at random from those that stay, and both arms are judged by
one rule at one moment of the server's clock. So reports may come late, twice or never, and sooner
from the well: what is late in both arms is no evidence, and silence counts only against the silence
of the devices that stay. Devices that were silent before the phase do not count.

Evidence is `stats.two_proportions` of the two arms at each look. Looks see the same devices, so
that their e-values depend on each other: they are averaged over all looks of all phases (Vovk and
Wang 2021, section 3). A sum of which parts are still to come can only grow, so by Markov's
inequality a version that harms at most `ALLOWED` of the devices is found harmful with a chance of
at most `ERROR`, and one that harms at least the margin of a phase passes it with no more. A device
without an outcome counts as sick against safety, and not as harm.

Early looks count the sick alone: most devices have had no time to report then.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

import msgspec

from bascule.core import Invalid
from bascule.edge import Candidate, Channel, Offer
from bascule.stats import Evidence, hypergeometric_tail, log_mean, two_proportions

PHASES, HOLD_S = (0.01, 0.1, 0.5, 1.0), 86_400.0
LOOKS = (1 / 24, 1 / 6, 1 / 2, 1.0, 2.0, 4.0)
"""When a phase is looked at, in `hold_s`. From 1 on silence counts, and the phase may be passed."""
_FULL_LOOKS = sum(look >= 1 for look in LOOKS)
ERROR = 0.05
ALLOWED = 0.02
"""Of the devices; it covers too that devices report sooner after an update."""
_MARGIN_OF_FIRST, _MARGIN = 0.2, 0.05
"""The harm that a phase excludes: 60 devices can show the first, 900 the other."""
_DOUBLED_P = 1e-3
"""Of chance alone: so few of the devices count as sick whose errors only seem to have doubled."""
_NO_EVIDENCE = -math.inf

Outcome = Literal["sick", "silent", "well", "none"]
Counted = tuple[int, int]
"""Requests, and errors among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlan:
    """What was asked for: `phases` are shares of the devices of a group.

    The last phase has all devices, and none to compare with. A phase lasts for `hold_s` at least,
    and for four times as long at most.
    """

    id: str
    group: str
    stable: str
    stable_digest: str
    candidate: str
    candidate_digest: str
    salt: str
    phases: tuple[float, ...] = PHASES
    hold_s: float = HOLD_S

    def check(self) -> None:
        """Raise `Invalid` where it cannot be followed."""
        shares = list(self.phases)
        if not shares or shares != sorted(set(shares)) or not shares[0] > 0 or shares[-1] != 1:
            raise Invalid("phases: shares grow to all devices", hint="for example 1,10,50,100")
        if not 60 <= self.hold_s <= 5 * 86_400:
            raise Invalid("hold: a phase takes between 1 minute and 5 days", hint="for example 1d")


@dataclass(frozen=True, slots=True)
class Look:
    """What the look of that `number` in `LOOKS` saw in a phase, from 0; full ones count the silent.

    `exposed` are the devices that count and take the candidate since this phase, `others` those
    that stay. Evidence is in natural logarithms; that of safety is None at early looks.
    """

    phase: int
    number: int
    at: datetime
    exposed: int
    bad: int
    unknown: int
    others: int
    others_bad: int
    log_e_worse: float
    log_e_safe: float | None


@dataclass(frozen=True, slots=True)
class DeviceState:
    """Where a rollout stands; its phase, from 0, began at `since`. All but `running` is final."""

    status: Literal["running", "promoted", "halted", "aborted"]
    phase: int
    since: datetime
    sentence: str
    looks: tuple[Look, ...] = ()


class Seen(NamedTuple):
    """What reports say of one device since a phase began, and in the `hold_s` before.

    `stayed` and `candidate` were answered since, by other versions and by the candidate. It
    `is_bad` where it failed a golden check, refused or left a version since.
    """

    device: str
    before: Counted = (0, 0)
    stayed: Counted = (0, 0)
    candidate: Counted = (0, 0)
    is_bad: bool = False
    has_taken: bool = False
    was_heard: bool = True
    seen_at: datetime | None = None


def begun(plan: DevicePlan, now: datetime) -> DeviceState:
    """The first state."""
    return _entered(plan, DeviceState("running", -1, now, ""), now, "")


def look_due(plan: DevicePlan, state: DeviceState, now: datetime) -> int | None:
    """The place in `LOOKS` of the latest look that is due and was not taken; None for none."""
    passed = (now - state.since) / timedelta(seconds=plan.hold_s)
    taken = [look.number for look in state.looks if look.phase == state.phase]
    due = [number for number, look in enumerate(LOOKS) if look <= passed]
    if state.status != "running" or not due or due[-1] in taken:
        return None
    return due[-1]


def decide(
    plan: DevicePlan, state: DeviceState, number: int, seen: Sequence[Seen], now: datetime
) -> DeviceState:
    """The next state of a running rollout, after the look that is due at all its devices."""
    look = _looked(plan, state, number, seen, now)
    state = replace(state, looks=(*state.looks, look))
    bad = "sick" if LOOKS[number] < 1 else "sick or silent"
    stay = f"{look.others_bad} of the {look.others} that stay"
    what = f"{look.bad} of {look.exposed} devices are {bad}, {stay}"
    if harm(plan, state) >= -math.log(ERROR):
        return replace(state, status="halted", sentence=f"halted: {what}")
    if safety(state) >= -math.log(ERROR):
        return _entered(plan, state, now, what)
    margin = _margin(state.phase)
    unknown = f"; {look.unknown} have not taken it yet" if look.unknown else ""
    if number == len(LOOKS) - 1:
        unproven = f"halted: it is not shown that less than {margin:.0%} are harmed: {what}"
        return replace(state, status="halted", sentence=unproven + unknown)
    return replace(state, sentence=f"holds: {what}{unknown}")


def harm(plan: DevicePlan, state: DeviceState) -> float:
    """The evidence of harm in all looks so far; natural logarithm."""
    compared = sum(share < 1 for share in plan.phases)
    values = [look.log_e_worse for look in state.looks]
    return _averaged(values, len(LOOKS) * compared)


def safety(state: DeviceState) -> float:
    """The evidence that the harm is below the margin of the phase; natural logarithm."""
    looks = (look for look in state.looks if look.phase == state.phase)
    return _averaged([e for look in looks if (e := look.log_e_safe) is not None], _FULL_LOOKS)


def candidate_of(plan: DevicePlan, state: DeviceState) -> Candidate:
    """What the channel says of the candidate in a phase."""
    share = plan.phases[state.phase]
    return Candidate(plan.candidate, plan.candidate_digest, plan.id, share, plan.salt)


def content(plan: DevicePlan, state: DeviceState, now: Channel) -> Channel | None:
    """What the channel must say, given what it says; None where it says so, or is another's."""
    stable, candidate = Offer(plan.stable, plan.stable_digest), None
    if state.status == "running":
        candidate = candidate_of(plan, state)
    elif state.status == "promoted":
        stable = Offer(plan.candidate, plan.candidate_digest)
    if is_anothers(plan, state, now) or (now.stable, now.candidate) == (stable, candidate):
        return None
    return Channel(now.model, stable, now.sequence + 1, candidate)


def is_anothers(plan: DevicePlan, state: DeviceState, now: Channel) -> bool:
    """Whether the channel offers what this rollout did not write: a person has published since."""
    is_foreign = now.candidate is not None and now.candidate.rollout != plan.id
    is_promoted = state.status == "promoted" and now.stable.digest == plan.candidate_digest
    return is_foreign or not (is_promoted or now.stable.digest == plan.stable_digest)


def _entered(plan: DevicePlan, state: DeviceState, now: datetime, what: str) -> DeviceState:
    number = state.phase + 1
    share = plan.phases[number]
    phase = f"phase {number + 1} of {len(plan.phases)}, {share:.0%} of the devices"
    status: Literal["running", "promoted"] = "running"
    if share == 1:
        status, phase = "promoted", "promoted: all devices take it"
    sentence = "; ".join(filter(None, (phase, what)))
    return replace(state, status=status, phase=number, since=now, sentence=sentence)


def _looked(
    plan: DevicePlan, state: DeviceState, number: int, seen: Sequence[Seen], now: datetime
) -> Look:
    drawn, is_full = candidate_of(plan, state), LOOKS[number] >= 1
    earlier = plan.phases[state.phase - 1] if state.phase else 0.0
    drawn_before = msgspec.structs.replace(drawn, share=earlier)
    heard_since = now - (now - state.since) / 2
    arms: dict[bool, Counter[Outcome]] = {True: Counter(), False: Counter()}
    for device in seen:
        is_drawn = drawn.takes(device.device)
        is_earlier = is_drawn and earlier > 0 and drawn_before.takes(device.device)
        if device.was_heard and not is_earlier:
            arms[is_drawn][outcome_of(device, heard_since, is_drawn=is_drawn)] += 1
    bad = [arm["sick"] + is_full * arm["silent"] for arm in (arms[True], arms[False])]
    exposed, others, unknown = arms[True].total(), arms[False].total(), arms[True]["none"]

    def compared(bad_exposed: int, margin: float) -> Evidence:
        counts = [[exposed, bad_exposed, others, bad[1]]]
        return two_proportions(counts, margin=margin, bounds=False)

    worse = compared(bad[0], ALLOWED).log_e_worse
    safe = compared(bad[0] + unknown, _margin(state.phase)).log_e_safe if is_full else None
    return Look(state.phase, number, now, exposed, bad[0], unknown, others, bad[1], worse, safe)


def outcome_of(device: Seen, heard_since: datetime, *, is_drawn: bool) -> Outcome:
    """The outcome of a device; see the module."""
    since = device.candidate if is_drawn else device.stayed
    if device.is_bad or have_doubled(device.before, since):
        return "sick"
    if device.seen_at is None or device.seen_at < heard_since:
        return "silent"
    return "well" if device.has_taken or not is_drawn else "none"


def have_doubled(before: Counted, since: Counted) -> bool:
    """Whether the share of errors is at least twice that of before, and not by chance."""
    (n_0, k_0), (n, k) = before, since
    if not n_0 or not n or k * n_0 < 2 * k_0 * n:
        return False
    return hypergeometric_tail(k, n, k + k_0, n + n_0) < _DOUBLED_P


def _averaged(log_es: Sequence[float], count: int) -> float:
    """The mean of `count` e-values, of which those that are still to come are taken for 0."""
    if not log_es:
        return _NO_EVIDENCE
    return log_mean(log_es) + math.log(len(log_es) / count)


def _margin(phase: int) -> float:
    return _MARGIN if phase else _MARGIN_OF_FIRST
