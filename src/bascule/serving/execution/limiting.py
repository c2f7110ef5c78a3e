"""Bounds what each caller, and each group of callers, may ask of a model: rates and budgets.

A caller is a key, or, where none is needed, an address. What it has used is in `meters`, the same
for all workers of a server; budgets are reserved in the catalogue, the same for all servers. A call
that is within what the catalogue may still have waits until that is reserved (`GRANT_S`).
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bascule.bundle.disk import read_manifest
from bascule.bundle.programs import ONNX, count_unknowns
from bascule.core import BasculeError, Overloaded, Refused, TooLarge, Unavailable
from bascule.serving.calls import Call, Cancel, Context, Deliver, DeliverParts
from bascule.serving.execution.meters import (
    AWAY,
    DAY_S,
    EXHAUSTED,
    GRANTED,
    ROWS,
    STATE,
    THROTTLED_NS,
    WANTED,
    Meter,
    today,
)
from bascule.serving.execution.policies import PolicyFacts
from bascule.serving.execution.predictors import AroundPredictor, Predictor

GRANT_S = 0.02
"""How often a call that waits for its budget looks whether that is reserved."""
_MAX_WAITING = 64
_HELD_S = 5
"""When to retry where running calls hold what is lacking: answers take seconds."""
_MAX_KNOWN = 4_096
_MOST_FREE_ROWS, _FREE_PARTS, _FREE_NS = 64, 64, 100_000_000
"""What a worker may admit and not note: that part of what is left, for so long."""
_UNITS_S = {"s": 1, "min": 60, "h": 3_600}
_RATE = re.compile(r"(\d+(?:\.\d+)?)( rows)?/(s|min|h)")
_EVERYBODY = "*"


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """The keys of `[policies.NAME]` that bound callers; 0 or an empty text is no limit.

    Attributes:
        rate: Of one caller, of requests or rows: `100/s`, `5000 rows/min`.
        burst: How many requests or rows at once; 0 for those of one unit of `rate`.
        budget_rows_per_day: Rows that one caller gets in a day, in UTC, of all servers.
        budget_unknowns_per_day: The same, in values of answers per unknown of the model: with 0.5,
            half as many values as the model has weights or leaves.
        groups: Groups of callers, each a key's name or a prefix of names, `partner-*`; `*` is all
            callers together.
        group_rate: Of each group.
        group_budget_rows_per_day: Of each group.
        group_budget_unknowns_per_day: Of each group.
        on_suspicious_queries: What becomes of a caller whose queries look like a search for the
            model: nothing, an alert, or also `throttled_rate` for as long as the alert fires.
        throttled_rate: As `rate`.
    """

    rate: str = ""
    burst: float = 0.0
    budget_rows_per_day: int = 0
    budget_unknowns_per_day: float = 0.0
    groups: tuple[str, ...] = ()
    group_rate: str = ""
    group_budget_rows_per_day: int = 0
    group_budget_unknowns_per_day: float = 0.0
    on_suspicious_queries: Literal["ignore", "alert", "throttle"] = "ignore"
    throttled_rate: str = "1/s"

    def __post_init__(self) -> None:
        for name in ("rate", "group_rate", "throttled_rate"):
            if (text := getattr(self, name)) and _RATE.fullmatch(text) is None:
                raise ValueError(f"{name}: {text!r} is not like '100/s' or '5000 rows/min'")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not value >= 0:
                raise ValueError(f"{field.name}: {value:g} is not >= 0")


class Allowance(NamedTuple):
    """What one caller, or one group, may have: a token bucket in time, and a budget.

    Attributes:
        of: The prefix of the settings that it is from: empty, or `group_`.
        rows: Of a day; 0 for no budget.
        rate: As in the settings.
        request_ns: What a request takes of the bucket; 0 without a rate of requests.
        row_ns: What each of its rows takes; 0 without a rate of rows.
        burst_ns: What a full bucket has.
    """

    of: str
    rows: int
    rate: str = ""
    request_ns: int = 0
    row_ns: int = 0
    burst_ns: int = 0

    def cost_ns(self, rows: int, calls: int = 1) -> int:
        """What calls of so many rows in all take of the bucket."""
        return calls * self.request_ns + rows * self.row_ns


def allowance(model: Predictor, settings: LimitSettings, of: str) -> Allowance:
    """Of one caller, or of one group; raises `Refused` where unknowns cannot be counted."""
    rate: str = getattr(settings, of + "rate")
    rows: int = getattr(settings, of + "budget_rows_per_day", 0)
    unknowns: float = getattr(settings, of + "budget_unknowns_per_day", 0.0)
    if unknowns:
        total = unknowns_of(model.service.path, model.digest)
        if not total:
            raise Refused(
                f"the unknowns of {model.name}/{model.version} cannot be counted: it has no "
                "compiled weights or leaves",
                hint=f"set {of}budget_rows_per_day instead of {of}budget_unknowns_per_day",
            )
        within = max(1, int(unknowns * total / values_of_row(model)))
        rows = min(rows, within) if rows else within
    match = _RATE.fullmatch(rate)
    if match is None or not float(match[1]):
        return Allowance(of, rows)
    amount, is_of_rows, unit_s = float(match[1]), bool(match[2]), _UNITS_S[match[3]]
    cost_ns = round(unit_s * 1e9 / amount)
    burst_ns = round(cost_ns * max(1.0, (not of and settings.burst) or amount))
    costs_ns = (0, cost_ns) if is_of_rows else (cost_ns, 0)
    return Allowance(of, rows, rate, *costs_ns, burst_ns)


class _Metered(NamedTuple):
    meter: Meter
    of: Allowance
    who: str


class Caller:
    """A caller's counters, and its calls that this worker has admitted and not noted yet.

    Attributes:
        counted: Its own counter and those of its groups; those without a limit are left out.
        free_rows: What may be admitted unnoted until `free_until_ns`.
        since_ns: When the first of the `calls` that are not noted may have come, of so many `rows`.
        held_rows: What calls that run here have taken, of which they may give some back.
    """

    __slots__ = (
        "calls", "counted", "free_rows", "free_until_ns", "held_rows", "rows", "since_ns",
    )  # fmt: skip

    def __init__(self, counted: tuple[_Metered, ...]) -> None:
        self.counted = counted
        self.free_rows = self.free_until_ns = self.since_ns = self.calls = self.rows = 0
        self.held_rows = 0


class LimitedPredictor(AroundPredictor):
    """One version whose callers are bounded. On the event loop only."""

    unit, counter = "rows", ""
    """What is limited, and what the names of its counters begin with."""
    budget_key, rate_key = "{}budget_*_per_day", "{}rate"
    """The settings, of a caller or a group."""

    def __init__(self, model: Predictor, settings: LimitSettings, facts: PolicyFacts) -> None:
        super().__init__(model)
        assert facts.callers is not None
        self._meters = facts.callers.meters
        self._loop = facts.loop
        self._section = facts.section
        self._shares = facts.callers.shares_budgets
        self._name_of = facts.callers.name_of
        self._groups = settings.groups
        self._of_caller = allowance(model, settings, "")
        self._of_group = allowance(model, settings, "group_")
        self._of_throttled = allowance(model, settings, "throttled_")
        self._throttles = settings.on_suspicious_queries == "throttle"
        self._known: dict[str, Caller] = {}
        self._waiting: set[asyncio.Task[None]] = set()

    def answer(
        self, call: Call, context: Context, allowed_s: float, deliver: Deliver
    ) -> Cancel | None:
        """See `Predictor.answer`.

        Raises:
            Overloaded: A limit of the caller or of its group is reached.
            TooLarge: A call with so many rows is above a limit by itself.
            Unavailable: The budget cannot be read.
        """
        cancel: Cancel | None = self._begin(self.model.answer, call, context, allowed_s, deliver)
        return cancel

    def answer_in_parts(
        self, call: Call, context: Context, allowed_s: float, deliver: DeliverParts
    ) -> Cancel:
        """See `Predictor.answer_in_parts`; raises as `answer`. The rows of the call count."""
        ask = self.model.answer_in_parts
        cancel: Cancel = self._begin(ask, call, context, allowed_s, deliver)
        return cancel

    def _begin(
        self, ask: Callable[..., Any], call: Call, context: Context, allowed_s: float, deliver: Any
    ) -> Any:
        rows, caller = self.units(call), self._known.get(context.caller or context.address)
        if (
            caller is not None
            and rows <= caller.free_rows
            and time.monotonic_ns() < caller.free_until_ns
        ):
            caller.free_rows -= rows
            caller.rows += rows
            caller.calls += 1
        else:
            caller = self._caller(context)
            if not self._admit(caller, rows):
                return self._wait(ask, caller, rows, call, context, allowed_s, deliver)
        return self.ask(ask, caller, rows, call, context, allowed_s, deliver)

    def units(self, call: Call) -> int:
        """What a call counts as."""
        return call.rows

    def ask(
        self, ask: Callable[..., Any], caller: Caller, rows: int, call: Call, context: Context,
        allowed_s: float, deliver: Any,
    ) -> Any:  # fmt: skip
        """Have an admitted call answered; what it took is given back where that begins not."""
        try:
            return ask(call, context, allowed_s, deliver)
        except BasculeError:
            self.take_back(caller, rows, today())
            raise

    def take_back(self, caller: Caller, rows: int, day: int) -> None:
        """Note that so many of the rows of a call of that day were not used; below 0 for more."""
        with self._meters:
            for meter, of, _ in caller.counted:
                if not meter.is_current:  # a long answer: its place is another caller's now
                    continue
                if rows >= 0:
                    meter.take_back(of.cost_ns(rows), rows, day)
                elif day == today():
                    meter.take(of.cost_ns(-rows), -rows, time.monotonic_ns())

    def _wait(
        self, ask: Callable[..., Any], caller: Caller, rows: int, call: Call, context: Context,
        allowed_s: float, deliver: Any,
    ) -> Cancel:  # fmt: skip
        """Have the call run once its budget is reserved."""
        if len(self._waiting) >= _MAX_WAITING:
            raise Overloaded(
                f"{len(self._waiting)} calls wait for budgets of {self._section}",
                hint="retry later",
                retry_after_s=1,
            )
        until_s = self._loop.time() + allowed_s
        running: list[Cancel] = []

        async def wait() -> None:
            try:
                await asyncio.sleep(GRANT_S)
                while not self._admit(caller, rows):
                    if self._loop.time() + GRANT_S >= until_s:
                        raise Unavailable(
                            f"the budget of {caller.counted[0].who} was not reserved in time",
                            hint="retry",
                            retry_after_s=1,
                        )
                    await asyncio.sleep(GRANT_S)
                left_s = until_s - self._loop.time()
                if cancel_run := self.ask(ask, caller, rows, call, context, left_s, deliver):
                    running.append(cancel_run)
            except BasculeError as error:
                deliver(error)

        task = self._loop.create_task(wait())
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

        def cancel() -> None:
            task.cancel()
            for cancel_run in running:
                cancel_run()

        return cancel

    def _admit(self, caller: Caller, rows: int) -> bool:
        """Note a call of so many rows; False where its budget is to be reserved first.

        Of what is far from its limit, a worker admits a little more before it takes the lock again.

        Raises:
            BasculeError: See `answer`. Nothing is noted.
        """
        now_ns, day, free_rows = time.monotonic_ns(), today(), _MOST_FREE_ROWS
        with self._meters:
            self._note(caller)
            counted = caller.counted
            if self._throttles:
                counted = tuple(self._throttled(metered, now_ns) for metered in counted)
            for metered in counted:
                meter, of, _ = metered
                meter.begin(day)
                if of.rate:
                    cost_ns, room_ns = of.cost_ns(rows), meter.room_ns(of.burst_ns, now_ns)
                    if cost_ns > room_ns:
                        raise self._over_rate(metered, rows, cost_ns - room_ns)
                    free_rows = min(free_rows, room_ns // of.cost_ns(1) // _FREE_PARTS)
                if of.rows:
                    used = meter.words[ROWS]
                    may_have = meter.words[GRANTED] if self._shares else of.rows
                    if used + rows > may_have:
                        self._want(metered, used, rows, caller.held_rows)
                        return False
                    free_rows = min(free_rows, (may_have - used) // _FREE_PARTS)
            for meter, of, _ in counted:
                meter.take(of.cost_ns(rows), rows, now_ns)
        if len(caller.counted) < 2:  # a group has many callers, which were all given some
            caller.free_rows = free_rows
            caller.since_ns, caller.free_until_ns = now_ns, now_ns + _FREE_NS
        return True

    def _throttled(self, metered: _Metered, now_ns: int) -> _Metered:
        """With the rate of those whose queries are suspicious, if its caller is one."""
        if metered.meter.words[THROTTLED_NS] <= now_ns:
            return metered
        return metered._replace(of=self._of_throttled._replace(rows=metered.of.rows))

    @staticmethod
    def _note(caller: Caller) -> None:
        """Note what was admitted unnoted, as of when that began: it fills the bucket no later."""
        if caller.calls:
            for meter, of, _ in caller.counted:
                meter.take(of.cost_ns(caller.rows, caller.calls), caller.rows, caller.since_ns)
        caller.free_rows = caller.calls = caller.rows = 0

    def _want(self, metered: _Metered, used: int, rows: int, held_rows: int) -> None:
        """Ask for more of a budget; raises where there is no more."""
        meter, of, who = metered
        budget = f"policies.{self._section}.{self.budget_key.format(of.of)}"
        if rows > of.rows:
            raise self._refusal("budget", TooLarge(
                f"{rows} {self.unit} in one request are more than the {of.rows} of a day that "
                f"{who} may have of {self._section} ({budget})",
                hint=f"ask for fewer {self.unit}",
            ))  # fmt: skip
        is_over = used + rows > of.rows
        if not is_over:
            meter.words[WANTED] = max(meter.words[WANTED], used + rows)
        if is_over or meter.words[STATE] == EXHAUSTED:
            if held_rows and used + rows - held_rows <= of.rows:
                raise self._refusal("budget", Overloaded(
                    f"running calls of {who} hold the rest of its {of.rows} {self.unit} of a day "
                    f"of {self._section} ({budget})",
                    hint="retry when they have ended", retry_after_s=_HELD_S,
                ))  # fmt: skip
            raise self._refusal("budget", Overloaded(
                f"{who} has used its {of.rows} {self.unit} of a day of {self._section} ({budget})",
                hint="retry after 00:00 UTC, or have the budget raised",
                retry_after_s=DAY_S - int(time.time()) % DAY_S,
            ))  # fmt: skip
        if meter.words[STATE] == AWAY:
            raise self._refusal("catalogue", Unavailable(
                f"the budget of {who} cannot be reserved: the catalogue is away",
                hint="retry later", retry_after_s=1,
            ))  # fmt: skip

    def _over_rate(self, metered: _Metered, rows: int, lacking_ns: int) -> BasculeError:
        _, of, who = metered
        place = f"{of.rate}, policies.{self._section}.{self.rate_key.format(of.of)}"
        if of.cost_ns(rows) > of.burst_ns:
            return self._refusal("rate", TooLarge(
                f"{rows} {self.unit} in one request are more than {who} may send at once "
                f"({place})",
                hint=f"ask for fewer {self.unit} a request",
            ))  # fmt: skip
        return self._refusal("rate", Overloaded(
            f"{who} asks more of {self._section} than it may ({place})",
            hint="send requests less often",
            retry_after_s=-(-lacking_ns // 1_000_000_000),
        ))  # fmt: skip

    def _refusal(self, reason: str, error: BasculeError) -> BasculeError:
        self.model.series.count_refusal(reason)
        return error

    def _caller(self, context: Context) -> Caller:
        name = context.caller or context.address
        caller = self._known.get(name)
        if caller is None or not all(metered.meter.is_current for metered in caller.counted):
            if len(self._known) >= _MAX_KNOWN:
                with self._meters:
                    for known in self._known.values():
                        self._note(known)
                self._known.clear()
            counted = self._count(name, is_key=bool(context.caller))
            caller = self._known[name] = Caller(counted)
        return caller

    def _count(self, caller: str, *, is_key: bool) -> tuple[_Metered, ...]:
        name = self._name_of(caller) if is_key else ""
        who = f"key {name or caller}" if is_key else f"address {caller or 'unknown'}"
        own = "key:" + caller if is_key else "address:" + network_of(caller)
        counted = [(own, self._of_caller, who)] + [
            ("group:" + group, self._of_group, f"group {group}")
            for group in self._groups
            if group == _EVERYBODY or (is_key and is_in(name, group))
        ]
        return tuple(
            _Metered(self._meters.meter(self._section, self.counter + counter, of.rows), of, words)
            for counter, of, words in counted
            if of.rate or of.rows or self._throttles
        )


class Limits:
    """Rates and budgets of callers; see `Policy`."""

    settings = LimitSettings

    @staticmethod
    def around(model: Predictor, settings: LimitSettings, facts: PolicyFacts) -> Predictor:
        """See `Policy.around`; a process without the shared file has no bounds."""
        return model if facts.callers is None else LimitedPredictor(model, settings, facts)

    @staticmethod
    def check(
        model: Predictor,
        settings: LimitSettings,
        find: Callable[[str], Predictor | None],  # noqa: ARG004
    ) -> None:
        """Refuse budgets in unknowns of a model whose unknowns cannot be counted."""
        for of in ("", "group_"):
            allowance(model, settings, of)


def values_of_row(model: Predictor) -> int:
    """How many equations on its unknowns a row's answer is: of c probabilities, c - 1 are free."""
    return max(1, sum(
        math.prod(field.shape) - field.name.startswith("probabilities")
        for field in model.signature.outputs
        if not field.name.startswith("label")
    ))  # fmt: skip


@lru_cache(maxsize=256)
def unknowns_of(path: Path, digest: str) -> int:  # noqa: ARG001 -- a bundle may be replaced
    """The unknowns of the bundle at `path`; 0 where it has no compiled graph to count them in."""
    manifest = read_manifest(path, verify=False)
    entry = next((entry for entry in manifest.programs if entry.kind == ONNX), None)
    return 0 if entry is None else count_unknowns((path / entry.file).read_bytes())


def is_in(name: str, group: str) -> bool:
    """Whether the key of that name is of a group."""
    return name.startswith(group[:-1]) if group.endswith("*") else name == group


def network_of(address: str) -> str:
    """The address of a caller, or the network that one user of IPv6 has to herself (/64)."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return parsed.exploded[:19]
    return address
