"""An endpoint in one worker: its plan chooses the version of each call, and a shadow may follow.

The plan is replaced as a whole between two calls. A call keeps the arm that it got.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from random import random
from typing import NamedTuple

from bascule.core import BasculeError
from bascule.endpoints import (
    CANDIDATE,
    CURRENT,
    HOLDBACK,
    KEY_UNITS,
    ContextPolicy,
    Plan,
    splits,
    unit,
)
from bascule.serving.calls import (
    Answer,
    AnsweredBy,
    Call,
    Cancel,
    Context,
    Deliver,
    DeliverParts,
    Outcome,
    PartsOutcome,
)
from bascule.serving.execution.predictors import AroundPredictor, Facts, Predictor
from bascule.serving.execution.resilient import call_for, has_outputs
from bascule.serving.execution.served import ServedModel
from bascule.serving.execution.shadows import GatheredText, PairRunner, ShadowRunner
from bascule.serving.specs import ModelSpec
from bascule.serving.telemetry import BOUND_UNIT, ArmSeries, BoundSeries

ARM_HEADER = b"bascule-arm"
"""The request header of testers: the name of the arm that is to answer."""


class PlannedArm:
    """One arm in one worker: its version, and where its answers are counted.

    `bound` counts requests whose arm is not drawn for them, and `unit` is what the ledger keeps of
    those: both where a rollout counts them apart.
    """

    __slots__ = (
        "_by_fallback", "bound", "by", "direct", "is_alike", "model", "name", "pairs", "series",
        "unit",
    )  # fmt: skip

    def __init__(self, endpoint: str, name: str, model: Predictor, series: ArmSeries) -> None:
        self.name = name
        self.model = model
        self.series = series
        self.bound: ArmSeries | BoundSeries = series
        self.unit: int | None = None
        notice = model.service.notice
        self.by = model.by._replace(
            endpoint=endpoint, arm=name, notice=() if notice is None else notice.headers
        )
        self.is_alike = False
        """Its program reads what requests are decoded into, and it has the same extra outputs."""
        self.direct: ServedModel | None = None
        """The version, where it answers as it is: alike, without a policy and without a shadow."""
        self.pairs: PairRunner | None = None
        """Of the candidate of a rollout."""
        self._by_fallback: dict[AnsweredBy, AnsweredBy] = {}

    def answered_by(self, by: AnsweredBy) -> AnsweredBy:
        """An answer of the fallback, with endpoint and arm."""
        known = self._by_fallback.get(by)
        if known is None:
            known = by._replace(endpoint=self.by.endpoint, arm=self.name)
            self._by_fallback[by] = known
        return known


class _Followed(NamedTuple):
    """A plan, and what this worker has for it."""

    plan: Plan
    arms: Mapping[str, PlannedArm]
    current: PlannedArm
    splits: tuple[tuple[PlannedArm, float], ...]
    shadow: ShadowRunner | None
    sticky_header: bytes
    counts_keys: bool
    round_number: int = 0


class PlannedPredictor(AroundPredictor):
    """An endpoint (a `Predictor`). On the event loop only.

    Requests are decoded by the signature and the extra outputs of the current version; other arms
    get the same values in the dtypes that their programs read.
    """

    def __init__(
        self,
        endpoint: str,
        current: Predictor,
        program: Facts,
        *,
        check_tester: Callable[[str, str], None],
    ) -> None:
        """`follow` a plan before the first call.

        Args:
            endpoint: Its name.
            current: The version that metadata describe.
            program: What columns are decoded into.
            check_tester: Raises `Refused` unless the caller of this id may name an arm of this
                endpoint.
        """
        super().__init__(current)
        self.name = endpoint
        self.current = current
        # Of no version: every answer says by which version it is.
        self.by = AnsweredBy(endpoint, current.version, program.name, endpoint=endpoint)
        self.service = ModelSpec(endpoint, "", current.service.path)
        self.program = program
        self.needs = "infer"
        self.asks_headers = frozenset()
        self._check_tester = check_tester
        self._followed: _Followed

    def follow(
        self, plan: Plan, arms: Mapping[str, PlannedArm], shadow: ShadowRunner | None
    ) -> None:
        """Answer by this plan from the next call on."""
        header = plan.sticky_header.encode()
        asked = (arm.model.asks_headers for arm in arms.values())
        self.asks_headers = frozenset({ARM_HEADER, header} - {b""}).union(*asked)
        for arm in arms.values():
            if plan.rollout:
                arm.bound, arm.unit = arm.series.bound, BOUND_UNIT
                if plan.context is not None:
                    arm.series.bound.leave_out_durations()
            same = arm.model.program.inputs == self.program.inputs
            arm.is_alike = same and arm.model.extras is self.extras
            model = arm.model
            if arm.is_alike and shadow is None and isinstance(model, ServedModel):
                arm.direct = model
        split = tuple((arms[arm.name], taken) for arm, taken in splits(plan))
        current, counts = arms[plan.current.name], len(split) - (HOLDBACK in arms) == 1
        self._followed = _Followed(plan, arms, current, split, shadow, header, counts)

    def begin_round(self, number: int) -> None:
        """Count keys again that counted in an earlier round. The arms of heads are forgotten."""
        self._followed = self._followed._replace(round_number=number)

    @property
    def plan(self) -> Plan:
        return self._followed.plan

    def check_room(self, allowed_s: float) -> None:
        """Refuses nothing before the call: each arm has a queue of its own."""

    def answer(
        self, call: Call, context: Context, allowed_s: float, deliver: Deliver
    ) -> Cancel | None:
        """See `Predictor.answer`.

        Raises:
            Invalid: The caller names an arm that the plan does not have.
            Refused: The caller names an arm, and may not.
        """
        followed, memo = self._followed, context.memo
        if memo is not None and memo.plan is followed and not call.extras:
            arm: PlannedArm = memo.arm
            context.series, context.unit = arm.bound, arm.unit
        else:
            arm = self._arm_of(followed, call, context)
        direct, pairs = arm.direct, arm.pairs
        if pairs is not None and not pairs.is_drawn():
            pairs = None
        is_plain = pairs is None and not (call.extras or context.shows)
        if is_plain and direct is not None and direct.engine is not None:
            return direct.answer_as(arm.by, call, allowed_s, deliver)
        return self._answer_through(followed, arm, call, context, allowed_s, deliver, pairs)

    def _answer_through(
        self, followed: _Followed, arm: PlannedArm, call: Call, context: Context,
        allowed_s: float, deliver: Deliver, pairs: PairRunner | None,
    ) -> Cancel | None:  # fmt: skip
        """Have an arm answer whose outcome has to be looked at."""
        model, shadow, series = arm.model, followed.shadow, context.series
        asked = call if arm.is_alike else call_for(call, model, self)

        def take(outcome: Outcome) -> None:
            if isinstance(outcome, BasculeError):
                deliver(outcome)
                return
            by = arm.by
            if outcome.by is not model.by:
                series.count_fallback()
                by = arm.answered_by(outcome.by)
            context.show(by)
            outcome = Answer(outcome.outputs, by, outcome.original, outcome.inputs)
            deliver(outcome)
            if shadow is not None:
                shadow.offer(call, outcome)
            if pairs is not None:
                pairs.offer(call, outcome)

        return model.answer(asked, context, allowed_s, take)

    def answer_in_parts(
        self, call: Call, context: Context, allowed_s: float, deliver: DeliverParts
    ) -> Cancel:
        """See `Predictor.answer_in_parts`; raises as `answer`. A shadow follows of texts."""
        followed = self._followed
        arm, shadow = self._arm_of(followed, call, context), followed.shadow

        def take(outcome: PartsOutcome) -> None:
            if not isinstance(outcome, BasculeError):
                outcome.by = arm.by
                context.show(arm.by)
                if shadow is not None and shadow.is_of_texts:
                    outcome = GatheredText(outcome, partial(shadow.offer, call))
            deliver(outcome)

        asked = call if arm.is_alike else call_for(call, arm.model, self)
        return arm.model.answer_in_parts(asked, context, allowed_s, take)

    def _arm_of(self, followed: _Followed, call: Call, context: Context) -> PlannedArm:
        header = context.header
        if named := header(ARM_HEADER):
            self._check_tester(context.caller, self.name)
            return _bind(followed.arms[followed.plan.arm(named.decode("latin-1")).name], context)
        if not followed.splits:
            context.series = followed.current.series
            return followed.current
        sticky = followed.sticky_header
        sent = header(sticky) if sticky else b""
        key = sent.decode("latin-1") if sent else _key_of(followed.plan.sticky_field, call)
        chosen = followed.current
        drawn = 0.0
        for arm, taken in followed.splits:  # as `endpoints.choose`, without its search
            drawn = unit(self.name, arm.name, key) if key else random()
            if drawn < taken:
                chosen = arm
                break
        if sent and (memo := context.memo) is not None:
            memo.plan, memo.arm = followed, chosen
        if call.extras and any(_lacks(arm, call) for arm, _ in followed.splits):
            # Some of these requests cannot have their arm, so none of them is evidence.
            return _bind(followed.current if _lacks(chosen, call) else chosen, context)
        if not key:
            if (policy := followed.plan.context) is not None and chosen.name != HOLDBACK:
                return _steer(followed, policy, call, context)
            context.series = chosen.series
            return chosen
        _bind(chosen, context)
        if (
            followed.counts_keys
            and chosen.name != HOLDBACK
            and isinstance(chosen.bound, BoundSeries)
        ):
            number = int(drawn * KEY_UNITS)
            first = chosen.bound.first_of(number, followed.round_number)
            if first is not None:
                context.series, context.unit = first, number
        return chosen


def _bind(arm: PlannedArm, context: Context) -> PlannedArm:
    """Count a request apart whose arm is not drawn for it."""
    context.series, context.unit = arm.bound, arm.unit
    return arm


def _steer(followed: _Followed, policy: ContextPolicy, call: Call, context: Context) -> PlannedArm:
    """The arm by the context. Requests that do not explore are counted apart: they are no sample.

    The ledger keeps the propensity beside the unit (see `calls.Context`).
    """
    steered = policy.steer(call.columns, random())
    arm = followed.arms[CANDIDATE if steered.is_candidate else CURRENT]
    context.series = arm.series if steered.is_explored else arm.bound
    unit_text = "" if steered.is_explored else str(BOUND_UNIT)
    context.unit = unit_text, "", "", f"{steered.propensity:.6g}"
    return arm


def _lacks(arm: PlannedArm, call: Call) -> bool:
    return not arm.is_alike and not has_outputs(arm.model, call)


def _key_of(sticky_field: str, call: Call) -> str:
    column = call.columns.get(sticky_field)
    if column is None or not len(column):
        return ""
    first = column[0]
    return first.tobytes().hex() if getattr(first, "ndim", 0) else str(first)


def decoded_into(arms: list[Predictor]) -> Facts:
    """What the columns of an endpoint are decoded into; the current version comes first.

    As its program reads them; as the signature has them if another program reads other dtypes, so
    that no arm gets values that were rounded for another.
    """
    current = arms[0]
    if all(_dtypes(arm) == _dtypes(current) for arm in arms[1:]):
        return current.program
    return current.program._replace(inputs=current.signature.inputs)


def _dtypes(predictor: Predictor) -> list[object]:
    return [field.dtype for field in predictor.program.inputs]
