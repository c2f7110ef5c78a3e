"""The endpoints of a worker: from plans and loaded versions to predictors."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from bascule.bundle.disk import generates_text
from bascule.core import Refused, Unavailable
from bascule.endpoints import CANDIDATE, CURRENT, HOLDBACK, Plan, is_exchangeable
from bascule.serving.calls import AnsweredBy
from bascule.serving.execution import (
    OWN_SECTION,
    PAIRS_SHARE,
    CallerFacts,
    Chain,
    PairRunner,
    PlannedArm,
    PlannedPredictor,
    PolicyFacts,
    Predictor,
    ResiliencePolicy,
    ServedModel,
    ShadowRunner,
    around,
    decoded_into,
)
from bascule.serving.specs import Plans
from bascule.serving.telemetry import (
    ROUND_S,
    SHADOW_ARM,
    ArmLabel,
    ArmSeries,
    Counters,
    MetricLabels,
    labels_of,
)

_UnderPolicies = dict[tuple[Any, ...], Predictor]
"""By endpoint, version and policies."""


class PlannedEndpoints:
    """See the module. On the event loop only."""

    def __init__(
        self,
        counters: Counters,
        worker: int,
        loop: asyncio.AbstractEventLoop,
        check_tester: Callable[[str, str], None],
        find: Callable[[str], ServedModel | None],
        policies: Mapping[str, Chain] | None = None,
        callers: CallerFacts | None = None,
    ) -> None:
        """`find` gives a loaded version by its reference; `policies` are those of models."""
        self._counters = counters
        self._worker = worker
        self._loop = loop
        self._check_tester = check_tester
        self._find = find
        self._policies = policies or {}
        self._facts = PolicyFacts(find, loop, callers=callers)
        self._under: _UnderPolicies = {}
        self._made: dict[str, PlannedPredictor] = {}
        self._series: dict[ArmLabel, ArmSeries] = {}
        # Kept: recorders know a label by its identity.
        self._metric_labels: dict[MetricLabels, MetricLabels] = {}
        self._shadows_alone: frozenset[AnsweredBy] = frozenset()
        self._since_s: dict[Plan, float] = {}

    def follow(self, plans: Plans) -> dict[str, Predictor]:
        """The endpoints by name; those that stay are kept, so that their routes are."""
        before, self._series = self._series, {}
        kept, self._under = self._under, {}
        now_s = self._loop.time()
        self._since_s = {plan: self._since_s.get(plan, now_s) for plan in plans}
        self._made = {plan.endpoint: self._follow(plan, before, kept) for plan in plans}
        arms = {version for plan in plans for version in _answering(plan)}
        self._shadows_alone = frozenset(
            self._of(plan.shadow.version).by
            for plan in plans
            if plan.shadow is not None and plan.shadow.version not in arms
        )
        return dict(self._made)

    def shadows_alone(self) -> frozenset[AnsweredBy]:
        """The versions that answer no client."""
        return self._shadows_alone

    def _follow(
        self, plan: Plan, before: dict[ArmLabel, ArmSeries], kept: _UnderPolicies
    ) -> PlannedPredictor:
        series = {label.arm: self._series_of(label, before) for label in labels_of(plan)}
        versions = {arm.name: self._of(arm.version) for arm in plan.arms}
        current = versions[plan.current.name]
        others = [one for one in versions.values() if one is not current]
        program = decoded_into([current, *others])
        if plan.holdback_percent:
            versions[HOLDBACK] = current
        made = self._made.get(plan.endpoint)
        if made is None or made.current is not current or made.program != program:
            made = PlannedPredictor(
                plan.endpoint, current, program, check_tester=self._check_tester
            )
        arms = {
            name: PlannedArm(
                plan.endpoint, name, self._under_policies(one, plan, kept), series[name]
            )
            for name, one in versions.items()
        }
        shadow = self._shadow_of(plan, series)
        if plan.rollout:
            self._compare(arms, versions)
        made.follow(plan, arms, shadow)
        if plan.rollout:
            self._turn_rounds(made, plan, self._since_s[plan])
        return made

    def _turn_rounds(self, made: PlannedPredictor, plan: Plan, since_s: float) -> None:
        """Begin the round of keys that is due now, and each later one in its time."""
        if made.plan is not plan:
            return
        age_s = self._loop.time() - since_s
        number = bisect_right(ROUND_S, age_s)
        made.begin_round(number)
        if number < len(ROUND_S):
            wait_s = ROUND_S[number] - age_s
            self._loop.call_later(wait_s, self._turn_rounds, made, plan, since_s)

    def _compare(self, arms: Mapping[str, PlannedArm], versions: Mapping[str, ServedModel]) -> None:
        """Count the answers of a rollout, and have the current version answer in pairs."""
        for name, arm in arms.items():
            _count_answers(arm.series, arm.by, versions[name])
        candidate, current = arms.get(CANDIDATE), versions.get(CURRENT)
        if candidate is None or current is None:
            return
        if not generates_text(current.signature):  # generating each answer twice costs too much
            candidate.pairs = PairRunner(current, candidate.series, self._loop, share=PAIRS_SHARE)

    def tick(self) -> None:
        """Once a second: count the answers that wait for others of their block."""
        for series in self._series.values():
            if series.answers is not None:
                series.answers.tick()

    def _shadow_of(self, plan: Plan, series: dict[str, ArmSeries]) -> ShadowRunner | None:
        shadow = plan.shadow
        if shadow is None:
            return None
        model = self._of(shadow.version)
        if plan.rollout:
            _count_answers(series[SHADOW_ARM], model.by, model)
        return ShadowRunner(
            model, series[SHADOW_ARM], self._loop,
            share=shadow.share_percent / 100, tolerance=shadow.tolerance,
            find_embedder=partial(self._find, shadow.embedding) if shadow.embedding else None,
        )  # fmt: skip

    def _under_policies(self, model: ServedModel, plan: Plan, kept: _UnderPolicies) -> Predictor:
        """The version under its policies in this plan; a breaker outlives a change of shares.

        A section `[policies.ENDPOINT]` counts in the place of that of the version's model.
        """
        chain = dict(self._policies.get(model.name, {}))
        policy = policy_of(plan, chain.pop(OWN_SECTION, ResiliencePolicy()))
        own = dict(self._policies.get(plan.endpoint, {}))
        own.pop(OWN_SECTION, None)
        facts = self._facts._replace(section=plan.endpoint if own else model.name)
        chain = own or chain
        if self._find(policy.fallback) is model:
            policy = replace(policy, fallback="")
        if policy != ResiliencePolicy():
            chain[OWN_SECTION] = policy
        key = plan.endpoint, model, *chain.items()
        self._under[key] = kept.get(key) or around(model, chain, facts)
        return self._under[key]

    def _series_of(self, label: ArmLabel, before: dict[ArmLabel, ArmSeries]) -> ArmSeries:
        known = before.get(label)
        if known is None:
            model, _, version = label.version.partition("/")
            metric = MetricLabels(model, version, label.endpoint, label.arm, label.plan)
            known = self._counters.arms.series(
                self._worker,
                label,
                self._of(label.version).series,
                self._metric_labels.setdefault(metric, metric),
            )
        self._series[label] = known
        return known

    def _of(self, version: str) -> ServedModel:
        found = self._find(version)
        if found is None:
            raise Unavailable(f"{version} is not loaded", hint="see the server's log")
        return found


def _count_answers(series: ArmSeries, by: AnsweredBy, model: ServedModel) -> None:
    series.count_answers().describe(
        by, model.signature.outputs, allows_non_finite=model.allows_non_finite
    )


def check_plans(plans: Plans, models: Iterable[ServedModel]) -> None:
    """Raise `Refused` where a version of a plan is not served, or has another signature."""
    models = list(models)
    for plan in plans:
        found = {version: find_version(version, models) for version in plan.versions}
        current = found[plan.current.version]
        for version, model in found.items():
            if model is None or current is None:
                raise Refused(f"{version} is not loaded, and plan {plan.number} needs it")
            if not is_exchangeable(model.signature, current.signature):
                raise Refused(
                    f"{version} has other inputs or outputs than {plan.current.version}, the "
                    f"current version of endpoint {plan.endpoint}",
                    hint="deploy it to an endpoint of its own",
                )


def policy_of(plan: Plan, policy: ResiliencePolicy) -> ResiliencePolicy:
    """The policy of an arm: that of its model, where the plan says nothing else."""
    if plan.breaker is not None:
        policy = replace(
            policy, breaker_failures=plan.breaker.failures, breaker_open_s=plan.breaker.open_s
        )
    if plan.limits is not None:
        policy = replace(
            policy, timeout_s=plan.limits.timeout_s, retry_percent=plan.limits.retry_percent
        )
    return replace(policy, fallback=plan.fallback or policy.fallback)


def find_version(reference: str, models: Iterable[ServedModel]) -> ServedModel | None:
    """The version of this name, `MODEL/VERSION`, or the default one of `MODEL`."""
    name, _, version = reference.partition("/")
    fitting = (one for one in models if one.name == name and version in ("", one.version))
    return next(fitting, None)


def _answering(plan: Plan) -> set[str]:
    return {arm.version for arm in plan.arms} | {plan.fallback} - {""}
