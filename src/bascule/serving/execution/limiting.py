"""Bounds what each caller, and each group of callers, may ask of a model: rates and budgets.

A caller is a key, or, where none is needed, an address. What it has used is in `meters`, the same
for all workers of a server; budgets are reserved in the catalogue, the same for all servers. A call
that is within what the catalogue may still have waits until that is reserved (`GRANT_S`).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, NamedTuple

from bascule.bundle.disk import read_manifest
from bascule.bundle.programs import ONNX, count_unknowns
from bascule.core import BasculeError, Overloaded, Refused, TooLarge, Unavailable
from bascule.serving.calls import (
    Answer,
    Call,
    Cancel,
    Context,
    Deliver,
    DeliverParts,
    Parts,
    PartsOutcome,
)
from bascule.serving.execution.meters import (
    AWAY,
    DAY_S,
    EXHAUSTED,
    Meter,
    Meters,
    today,
)
from bascule.serving.execution.policies import PolicyFacts
from bascule.serving.execution.predictors import AroundParts, AroundPredictor, Predictor

GRANT_S = 0.02
"""How often a call that waits for its budget looks whether that is reserved."""
_MAX_WAITING = 64
_MAX_KNOWN = 4_096
_CREDIT_CALLS, _CREDIT_S = 64, 0.01
"""How much a worker may admit, and for how long, before it notes it, far from every limit."""
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
    """

    rate: str = ""
    burst: float = 0.0
    budget_rows_per_day: int = 0
    budget_unknowns_per_day: float = 0.0
    groups: tuple[str, ...] = ()
    group_rate: str = ""
    group_budget_rows_per_day: int = 0
    group_budget_unknowns_per_day: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rate", "group_rate"):
            if (text := getattr(self, name)) and _RATE.fullmatch(text) is None:
                raise ValueError(f"{name}: {text!r} is not like '100/s' or '5000 rows/min'")
        for name in (
            "burst", "budget_rows_per_day", "budget_unknowns_per_day",
            "group_budget_rows_per_day", "group_budget_unknowns_per_day",
        ):  # fmt: skip
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: {getattr(self, name):g} is not >= 0")


class Rate(NamedTuple):
    """A token bucket: what a request and a row cost, and what a full bucket has, in nanoseconds."""

    request_ns: int
    row_ns: int
    burst_ns: int
    text: str

    @classmethod
    def parse(cls, text: str, burst: float = 0.0) -> Rate | None:
        """The rate of `100/s` or `5000 rows/min`; None for an empty text or one of 0."""
        match = _RATE.fullmatch(text)
        if match is None or not float(match[1]):
            return None
        amount, of_rows, unit_s = float(match[1]), bool(match[2]), _UNITS_S[match[3]]
        cost_ns = round(unit_s * 1e9 / amount)
        burst_ns = round(cost_ns * max(1.0, burst or amount))
        return cls(0 if of_rows else cost_ns, cost_ns if of_rows else 0, burst_ns, text)

    def cost_ns(self, rows: int, calls: int = 1) -> int:
        return calls * self.request_ns + rows * self.row_ns


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one caller, or one group, may have. `rows` is of a day; 0 for no budget."""

    rate: Rate | None
    rows: int
    of: str
    """The prefix of the settings that it is from: empty, or `group_`."""

    @property
    def is_empty(self) -> bool:
        return self.rate is None and not self.rows


class _Metered(NamedTuple):
    meter: Meter
    allowance: Allowance
    who: str


_Counted = tuple[_Metered, ...]


class _Caller:
    """A caller's counters, and the calls that it may make before these are looked at again."""

    __slots__ = ("calls", "counted", "credit_rows", "last_ns", "rows")

    def __init__(self, counted: _Counted) -> None:
        self.counted = counted
        self.calls = self.rows = self.credit_rows = self.last_ns = 0


class LimitedPredictor(AroundPredictor):
    """One version whose callers are bounded. On the event loop only."""

    def __init__(self, model: Predictor, settings: LimitSettings, facts: PolicyFacts) -> None:
        super().__init__(model)
        assert facts.callers is not None
        self.meters: Meters = facts.callers.meters
        self.loop = facts.loop
        self.section = facts.section
        self.shares = facts.callers.shares_budgets
        self.waiting = 0
        self._groups = settings.groups
        self._name_of = facts.callers.name_of
        self._of_caller, self._of_group = allowances(settings, model)
        self._known: dict[str, _Caller] = {}
        self._credited: list[_Caller] = []
        self._far = 2 * self.meters.workers * _CREDIT_CALLS
        """Calls that must fit into a limit, for some to be admitted before they are noted."""

    def answer(
        self, call: Call, context: Context, allowed_s: float, deliver: Deliver
    ) -> Cancel | None:
        """See `Predictor.answer`.

        Raises:
            Overloaded: A limit of the caller or of its group is reached.
            TooLarge: A call with so many rows is above a limit by itself.
            Unavailable: The budget cannot be read.
        """
        rows = call.rows
        caller = self._known.get(context.caller or context.address)
        if caller is not None and caller.calls and caller.rows >= rows:
            caller.calls -= 1
            caller.rows -= rows
        else:
            caller = self._caller(context)
            if not self.admit(caller, rows):
                begin = partial(self.model.answer, call, context)
                return _Waiting(self, caller, rows, begin, deliver, allowed_s).start()
        try:
            return self.model.answer(call, context, allowed_s, deliver)
        except BasculeError:
            note(caller.counted, rows, sign=-1)
            raise

    def answer_in_parts(
        self, call: Call, context: Context, allowed_s: float, deliver: DeliverParts
    ) -> Cancel:
        """See `Predictor.answer_in_parts`: rows beyond those of the call count as they come."""
        caller, begun = self._caller(context), list[Cancel]()

        def take(outcome: PartsOutcome) -> None:
            if not isinstance(outcome, BasculeError):
                outcome = _CountedParts(outcome, self, caller, call.rows, begun)
            deliver(outcome)

        begin = partial(self.model.answer_in_parts, call, context)
        if not self.admit(caller, call.rows):
            begun.append(_Waiting(self, caller, call.rows, begin, take, allowed_s).start())
            return begun[0]
        try:
            begun.append(begin(allowed_s, take))
        except BasculeError:
            note(caller.counted, call.rows, sign=-1)
            raise
        return begun[0]

    def admit(self, caller: _Caller, rows: int) -> bool:
        """Note a call of so many rows; False where its budget is to be reserved first.

        A caller that comes often and is far from its limits has the next calls noted together: half
        of what is left would do for those of all workers.

        Raises:
            BasculeError: See `answer`. Nothing is noted.
        """
        now_ns, day, counted = time.monotonic_ns(), today(), caller.counted
        if caller.credit_rows:
            self._note_credit(caller)
        is_far = now_ns - caller.last_ns < _CREDIT_S * 1e9
        caller.last_ns = now_ns
        for metered in counted:
            meter, allowance, _ = metered
            rate = allowance.rate
            if rate is not None:
                cost_ns = rate.cost_ns(rows)
                room_ns = meter.room_ns(rate.burst_ns, now_ns)
                if cost_ns > room_ns:
                    self._refuse_for_rate(metered, rate, rows, cost_ns - room_ns)
                is_far = is_far and room_ns >= self._far * cost_ns
            if allowance.rows:
                of_day = meter.day(day)
                used = meter.rows(of_day)
                left = (meter.granted(of_day) if self.shares else allowance.rows) - used
                if rows > left and not self._wants_more(metered, used + rows, rows):
                    return False
                is_far = is_far and left >= self._far * rows
        note(counted, rows)
        if is_far:
            caller.calls, caller.rows = _CREDIT_CALLS, _CREDIT_CALLS * rows
            caller.credit_rows = caller.rows
            if not self._credited:
                self.loop.call_later(_CREDIT_S, self._note_credits)
            self._credited.append(caller)
        return True

    def _note_credits(self) -> None:
        credited, self._credited = self._credited, []
        for caller in credited:
            self._note_credit(caller)

    def _note_credit(self, caller: _Caller) -> None:
        calls, rows = _CREDIT_CALLS - caller.calls, caller.credit_rows - caller.rows
        caller.calls = caller.rows = caller.credit_rows = 0
        if rows:
            note(caller.counted, rows, calls)

    def _wants_more(self, metered: _Metered, used: int, rows: int) -> bool:
        """Ask for more of a budget: False; raises where there is no more."""
        meter, allowance, who = metered
        budget = f"policies.{self.section}.{allowance.of}budget_*_per_day"
        if rows > allowance.rows:
            raise self._counted_refusal("budget", TooLarge(
                f"{rows} rows in one request are more than the {allowance.rows} of a day that "
                f"{who} may have of {self.section} ({budget})",
                hint="send fewer rows",
            ))  # fmt: skip
        day = meter.day(today())
        if self.shares and used <= allowance.rows and meter.state(day) != EXHAUSTED:
            meter.want(used, day)
            if meter.state(day) != AWAY:
                return False
            raise self._counted_refusal("catalogue", Unavailable(
                f"the budget of {who} cannot be reserved: the catalogue is away",
                hint="retry later", retry_after_s=1,
            ))  # fmt: skip
        if self.shares:
            meter.want(0, day)
        raise self._counted_refusal("budget", Overloaded(
            f"{who} has used its {allowance.rows} rows of a day of {self.section} ({budget})",
            hint="retry after 00:00 UTC, or have the budget raised",
            retry_after_s=DAY_S - int(time.time()) % DAY_S,
        ))  # fmt: skip

    def _refuse_for_rate(self, metered: _Metered, rate: Rate, rows: int, wait_ns: int) -> None:
        place = f"{rate.text}, policies.{self.section}.{metered.allowance.of}rate"
        if rate.cost_ns(rows) > rate.burst_ns:
            raise self._counted_refusal("rate", TooLarge(
                f"{rows} rows in one request are more than {metered.who} may send at once "
                f"({place})",
                hint="send fewer rows a request",
            ))  # fmt: skip
        raise self._counted_refusal("rate", Overloaded(
            f"{metered.who} asks more of {self.section} than it may ({place})",
            hint="send requests less often",
            retry_after_s=-(-wait_ns // 1_000_000_000),
        ))  # fmt: skip

    def _counted_refusal(self, reason: str, error: BasculeError) -> BasculeError:
        self.model.series.count_refusal(reason)
        return error

    def _caller(self, context: Context) -> _Caller:
        name = context.caller or context.address
        caller = self._known.get(name)
        if caller is None or not all(metered.meter.is_current for metered in caller.counted):
            counted = self._count(name, is_key=bool(context.caller))
            caller = self._known[name] = _Caller(counted)
        return caller

    def _count(self, caller: str, *, is_key: bool) -> _Counted:
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        name = self._name_of(caller) if is_key else ""
        who = f"key {name or caller}" if is_key else f"address {caller or 'unknown'}"
        own = "key:" + caller if is_key else "address:" + network_of(caller)
        counted = [(own, self._of_caller, who)] + [
            ("group:" + group, self._of_group, f"group {group}")
            for group in self._groups
            if group == _EVERYBODY or (is_key and is_in(name, group))
        ]
        return tuple(
            _Metered(self.meters.meter(self.section, counter, of.rows), of, words)
            for counter, of, words in counted
            if counter == own or not of.is_empty
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
        allowances(settings, model)


@dataclass(slots=True, eq=False)
class _Waiting:
    """A call whose budget is being reserved."""

    _limited: LimitedPredictor
    _caller: _Caller
    _rows: int
    _begin: Callable[[float, Any], Cancel | None]
    _deliver: Callable[[Any], None]
    _allowed_s: float
    _until_s: float = 0.0
    _cancel_run: Cancel | None = None
    _timer: Any = field(default=None)

    def start(self) -> Cancel:
        limited = self._limited
        if limited.waiting >= _MAX_WAITING:
            raise Overloaded(
                f"{limited.waiting} calls wait for budgets of {limited.section}",
                hint="retry later",
                retry_after_s=1,
            )
        limited.waiting += 1
        self._until_s = limited.loop.time() + self._allowed_s
        self._timer = limited.loop.call_later(GRANT_S, self._look)
        return self.cancel

    def cancel(self) -> None:
        """The caller has gone."""
        self._end()
        if self._cancel_run is not None:
            self._cancel_run()

    def _end(self) -> None:
        if self._timer is not None:
            self._limited.waiting -= 1
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        limited = self._limited
        left_s = self._until_s - limited.loop.time()
        try:
            if not limited.admit(self._caller, self._rows):
                self._wait_on(left_s)
                return
            self._end()
            self._run(left_s)
        except BasculeError as error:
            self._end()
            self._deliver(error)

    def _run(self, left_s: float) -> None:
        try:
            self._cancel_run = self._begin(left_s, self._deliver)
        except BasculeError:
            note(self._caller.counted, self._rows, sign=-1)
            raise

    def _wait_on(self, left_s: float) -> None:
        if left_s <= GRANT_S:
            raise Unavailable(
                f"the budget of {self._caller.counted[0].who} was not reserved in time",
                hint="retry",
                retry_after_s=1,
            )
        self._timer = self._limited.loop.call_later(GRANT_S, self._look)


class _CountedParts(AroundParts):
    """An answer in parts whose rows beyond those of the call are admitted as they come."""

    def __init__(
        self, parts: Parts, limited: LimitedPredictor, caller: _Caller, paid_rows: int,
        begun: list[Cancel],
    ) -> None:  # fmt: skip
        """`begun`: what ends the answer, once it has begun."""
        super().__init__(parts)
        self._limited, self._caller, self._begun = limited, caller, begun
        self._paid_rows = paid_rows

    def take(self, part: Answer) -> bool:
        """See `calls.Receiver`; what is over a limit ends the answer."""
        rows = len(next(iter(part.outputs.values())))
        paid, self._paid_rows = self._paid_rows, max(0, self._paid_rows - rows)
        if rows > paid:
            try:
                # A part cannot wait: what is not reserved yet is noted, and counts for the next.
                if not self._limited.admit(self._caller, rows - paid):
                    note(self._caller.counted, rows - paid)
            except BasculeError as error:
                self._begun[0]()
                self.finish(error)
                return False
        return super().take(part)


def note(counted: _Counted, rows: int, calls: int = 1, *, sign: int = 1) -> None:
    """Count calls of so many rows in all; with -1, those that were counted and have not run."""
    day = today()
    for meter, allowance, _ in counted:
        rate = allowance.rate
        cost_ns = 0 if rate is None else sign * rate.cost_ns(rows, calls)
        meter.take(cost_ns, sign * rows, meter.day(day))


def allowances(settings: LimitSettings, model: Predictor) -> tuple[Allowance, Allowance]:
    """Of one caller and of one group; raises `Refused` where unknowns cannot be counted."""
    own = _allowance(
        model, Rate.parse(settings.rate, settings.burst),
        settings.budget_rows_per_day, settings.budget_unknowns_per_day, "",
    )  # fmt: skip
    group = _allowance(
        model, Rate.parse(settings.group_rate),
        settings.group_budget_rows_per_day, settings.group_budget_unknowns_per_day, "group_",
    )  # fmt: skip
    return own, group


def _allowance(
    model: Predictor, rate: Rate | None, rows: int, unknowns: float, of: str
) -> Allowance:
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
    return Allowance(rate, rows, of)


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
