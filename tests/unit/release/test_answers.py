"""Guard `answers`: other answers hold and ask, a constant one rolls back, the same ones pass."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from tests.tiers import first_of

from bascule.core import Conflict, DType, Field
from bascule.release.rollouts import (
    FINAL,
    Aborted,
    ArmCounts,
    Baking,
    Interval,
    Paused,
    Promoted,
    Rollout,
    Running,
    Waiting,
    check_rollout,
    decide,
    obey,
    parse_guard,
    summed,
    table_of,
)
from bascule.release.rollouts.evidence import less
from bascule.serving.calls import AnsweredBy
from bascule.serving.telemetry import AnswerCounts, Event, PairCounts
from bascule.serving.telemetry.answers import AnswerRegions

START = datetime(2026, 1, 1, tzinfo=UTC)
LATER = START + timedelta(hours=1)
LAST = Running(1, START)
SAME = (0.3, 0.6, 0.8)


def rollout(**changes):
    made = {
        "id": "r1", "started_at": START, "endpoint": "late", "candidate": "late/5",
        "current": "late/4", "strategy": "canary", "steps_percent": (20.0, 50.0, 100.0),
        "guards": tuple(map(parse_guard, ("errors +1 pp", "answers +20 pp"))), "step_s": 60.0,
    }  # fmt: skip
    return check_rollout(Rollout(**made | changes))


def arm(draw, n, shares, *, changes=0.9, unusable=0.0):
    """Counts of nested events, as of a number that is compared with bounds."""
    answers = draw.random(n)
    return ArmCounts(
        requests=n,
        answers=AnswerCounts(
            looked=n, unusable=int(draw.binomial(n, unusable)), compared=n,
            changes=int(draw.binomial(n, changes)),
            events=tuple(int((answers <= share).sum()) for share in shares),
        ),
    )  # fmt: skip


def intervals(candidate=SAME, *, count=40, pairs=(9, 1, 0), seed=0, stage=1, **more):
    draw = np.random.default_rng(seed)
    told = pairs if isinstance(pairs, PairCounts) else PairCounts(*pairs)
    return [
        Interval(number, stage, arm(draw, 100, SAME), arm(draw, 100, candidate, **more), pairs=told)
        for number in range(count)
    ]


def decided(state=LAST, plan=None, at=LATER, **more):
    return decide(plan or rollout(), state, table_of(intervals(**more)), now=at)


def test_the_same_answers_to_the_same_rows_are_promoted():
    assert isinstance(decided().state, Promoted)


@pytest.mark.parametrize("state", [LAST, Waiting(1, START), Paused(1, START), Baking(2, START)])
def test_other_answers_hold_in_every_state_and_ask_a_person(state):
    decision = decided(state, candidate=(0.3, 0.95, 1.0))
    assert decision.state == state
    assert decision.held_by == "answers"
    assert "late/5 answers otherwise than late/4" in decision.sentence
    assert "95% of the answers of late/5 and 61% of those of late/4" in decision.sentence
    assert "--allow-answers" in decision.sentence


def test_answers_that_are_not_shown_to_be_within_the_margin_hold_without_asking():
    plan = rollout(guards=(parse_guard("answers +20 pp"),))
    decision = decided(plan=plan, count=2)
    assert (decision.state, decision.held_by) == (LAST, "")
    assert decision.sentence.startswith("waits: not shown yet to be within answers +20 pp")
    assert "otherwise" not in decision.sentence


def test_answers_that_a_person_allows_do_not_hold():
    plan = rollout(allow_answers=True)
    assert isinstance(decided(plan=plan, candidate=(0.3, 0.95, 1.0)).state, Promoted)
    still = PairCounts(ties=1, still=1)
    constant = decided(plan=plan, candidate=(0.0, 1.0, 1.0), changes=0.0, pairs=still)
    assert isinstance(constant.state, Aborted), "harm stays harm"


def test_a_rollout_that_nobody_answers_ends_after_its_longest_time():
    late = START + timedelta(days=8)
    decision = decided(candidate=(0.3, 0.95, 1.0), at=late)
    assert isinstance(decision.state, Aborted)
    assert "ended without a promotion after 7 d: waits: late/5 answers" in decision.sentence


def test_mixed_up_rows_hold_though_the_answers_have_the_same_distribution():
    decision = decided(pairs=(2, 2, 0))
    assert (decision.state, decision.held_by) == (LAST, "answers")
    assert "of 160 pairs of requests that both answered, 80 are in the same order" in (
        decision.sentence
    )


def test_rows_are_not_taken_for_the_same_before_pairs_show_it():
    decision = decided(pairs=(0, 0, 0), count=6)
    assert (decision.state, decision.held_by) == (LAST, "")
    assert "pairs of requests" in decision.sentence


@pytest.mark.parametrize(
    ("pairs", "passes"),
    [((0, 0, 1), True), ((1, 1, 20), True), ((1, 1, 10), False)],
)
def test_pairs_that_cannot_be_ordered_show_nothing_and_are_not_waited_for(pairs, passes):
    """An event in ten at least tells something."""
    assert isinstance(decided(pairs=pairs).state, Promoted) is passes


def test_without_pairs_and_comparisons_a_rollout_goes_on_after_many_requests():
    few = [Interval(0, 1, ArmCounts(900), ArmCounts(900))]
    many = [Interval(0, 1, ArmCounts(1_000), ArmCounts(1_000))]
    plan = rollout(guards=(parse_guard("answers +20 pp"),))
    assert decide(plan, LAST, table_of(few), now=LATER).state == LAST
    assert isinstance(decide(plan, LAST, table_of(many), now=LATER).state, Promoted)


def test_a_constant_answer_is_rolled_back_where_the_current_version_varies():
    still = PairCounts(ties=2, still=2)
    decision = decided(candidate=(0.0, 1.0, 1.0), changes=0.0, count=5, pairs=still)
    assert isinstance(decision.state, Aborted)
    assert "late/5 gives the same answer to every request, and late/4 does not" in decision.sentence


def test_a_constant_answer_to_a_caller_that_asks_for_one_row_is_no_harm():
    """The current version answers these requests alike too, as pairs show."""
    pairs = PairCounts(ties=1)
    decision = decided(candidate=(0.0, 1.0, 1.0), changes=0.0, count=5, pairs=pairs)
    assert not isinstance(decision.state, Aborted)
    pairs = PairCounts(ties=1, still=1)
    decision = decided(candidate=(0.0, 1.0, 1.0), changes=0.0, count=10, pairs=pairs)
    assert isinstance(decision.state, Aborted)


def test_callers_that_keep_their_arm_make_no_difference_of_the_versions():
    """The arms answer different requests; to the same ones both versions answer alike."""
    few = PairCounts(9, 1, compared=20, gained=(1, 1), lost=(1, 0))
    decision = decided(candidate=(0.3, 0.95, 1.0), pairs=few)
    assert isinstance(decision.state, Promoted), decision.sentence
    other = PairCounts(9, 1, compared=20, gained=(0, 8), lost=(1, 0))
    decision = decided(candidate=(0.3, 0.95, 1.0), pairs=other)
    assert decision.held_by == "answers"


def test_pairs_show_what_the_arms_do_not():
    gained = PairCounts(9, 1, compared=20, gained=(0, 12), lost=(1, 0))
    assert decided(count=5, pairs=gained).held_by == "answers"


def test_constant_traffic_rolls_nothing_back():
    draw = np.random.default_rng(0)
    both = [
        Interval(
            number, 1, arm(draw, 100, (1.0,), changes=0.0), arm(draw, 100, (1.0,), changes=0.0),
            pairs=PairCounts(ties=3),
        )
        for number in range(40)
    ]  # fmt: skip
    assert isinstance(decide(rollout(), LAST, table_of(both), now=LATER).state, Promoted)


def test_answers_that_are_not_finite_are_failures():
    decision = decided(unusable=0.05, count=20)
    assert isinstance(decision.state, Aborted)
    assert "of the answers of late/5 hold NaN or an infinite value, and 0.00% of late/4" in (
        decision.sentence
    )


def test_a_few_answers_that_are_not_finite_are_within_the_margin_of_errors():
    assert isinstance(decided(unusable=0.001).state, Promoted)


def test_a_person_promotes_over_the_answers_only_where_that_is_said():
    with pytest.raises(Conflict, match="waits: the answers of late/5 differ") as refused:
        obey(rollout(), LAST, "promote", "ada", "", LATER, held_by="answers")
    assert "--allow-answers" in refused.value.hint
    assert isinstance(obey(rollout(), LAST, "promote", "ada", "", LATER).state, FINAL)
    aborted = obey(rollout(), LAST, "abort", "ada", "", LATER, held_by="answers")
    assert isinstance(aborted.state, Aborted)


def test_counts_of_servers_add_up_and_come_apart_again():
    first, second = intervals(count=2)
    both = summed([first, second])
    assert both.candidate.answers.compared == 200
    assert both.pairs == PairCounts(18, 2)
    assert less(both, first).candidate.answers == second.candidate.answers
    assert less(both, first).pairs == second.pairs


def classes(count, dtype):
    outputs = [Field("label", dtype), Field("probabilities", DType.FP64, (count,))]
    return outputs, np.array([f"class {n}" if dtype is DType.BYTES else n for n in range(count)])


def seen_in_pairs(count, dtype, relabelled, *, with_probabilities, pairs=400):
    """Two versions of one classifier of balanced classes; of one the labels are changed."""
    draw = np.random.default_rng(0)
    outputs, names = classes(count, dtype)
    outputs = outputs if with_probabilities else outputs[:1]
    regions = AnswerRegions(memoryview(bytearray(AnswerRegions.size_of(1, 1))), 1, 1)
    counter = regions.counter(0, 0, lambda: True)
    counter.describe(AnsweredBy("late", "5", "onnx"), outputs, allows_non_finite=False)
    both = [Event(0, view, True) for view in range(2)]
    regions.set_events(0, both[:1])
    for _ in range(pairs):
        values = []
        for _ in range(2):
            scores = draw.dirichlet(np.ones(count))
            label = int(scores.argmax())
            answers = [
                {"label": names[[place]].astype(object), "probabilities": scores[None]}
                for place in (relabelled(label, count, draw), label)
            ]
            values.append(np.concatenate([counter.values([one])[0] for one in answers]))
        counter.count_pairs(*values)
    return regions.totals(0)[1]


def next_one(label, count, draw):
    return (label + 1) % count


def any_one(label, count, draw):
    return int(draw.integers(count))


def mostly_the_same(label, count, draw):
    return label if draw.random() < 0.7 else int(draw.integers(count))


@pytest.mark.parametrize("with_probabilities", [False, True])
@pytest.mark.parametrize("dtype", first_of([DType.BYTES, DType.INT64]))
@pytest.mark.parametrize("count", [2, 40])
@pytest.mark.parametrize(
    ("relabelled", "state"), [(next_one, Running), (any_one, Running), (mostly_the_same, Promoted)]
)
def test_exchanged_labels_of_balanced_classes_are_found_by_pairs(
    relabelled, state, count, dtype, with_probabilities
):
    """Their distribution is what it was, and so may be the probabilities beside them."""
    pairs = seen_in_pairs(count, dtype, relabelled, with_probabilities=with_probabilities)
    counted = [*intervals(pairs=PairCounts()), Interval(40, 1, pairs=pairs)]
    decision = decide(rollout(), LAST, table_of(counted), now=LATER)
    assert isinstance(decision.state, state), decision.sentence
    assert decision.held_by == ("answers" if state is Running else "")
