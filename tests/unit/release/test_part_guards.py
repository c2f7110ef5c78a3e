"""Guards on a part of a composition: counted by workers, decided by the engine of all guards."""

from __future__ import annotations

import re
from itertools import chain

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from tests.canary_stories import START, CanaryStory
from tests.tiers import first_of

import bascule
from bascule.core import DType, Field, Invalid
from bascule.endpoints import MAX_TIMED_PARTS, Arm, Plan
from bascule.monitoring.ledger import Ledger, losses_of_rows
from bascule.packing import Composition
from bascule.release.rollouts import (
    Aborted,
    Guard,
    Promoted,
    Recording,
    Rollout,
    Running,
    check_limits,
    check_rollout,
    limits_of,
    parse_guard,
    plan_of,
    prepare,
    start,
)
from bascule.release.rollouts.guards import parts_of
from bascule.release.rollouts.losses import loss_sql
from bascule.serving.calls import Answer, AnsweredBy
from bascule.serving.telemetry import Counters, MetricLabels, labels_of
from bascule.serving.telemetry.answers import BLOCK
from bascule.stats import durations

WORKERS, RUNS = 2, 200
OUTPUTS = (Field("prediction", DType.FP64),)
GUARDS = ("p95 +100 %", "p95[score] +20 %")


def rollout_of(*guards, **changes):
    return check_rollout(
        Rollout(
            id="r1", started_at=START, endpoint="credit",
            guards=tuple(map(parse_guard, guards)), step_s=0.0, min_requests=0, **{
                "candidate": "credit/2", "current": "credit/1", "strategy": "canary",
                "steps_percent": (50.0, 100.0),
            } | changes,
        )
    )  # fmt: skip


class Story(CanaryStory):
    """A canary of compositions with parts `score` and `price`, counted as a server does.

    `slow`: what the candidate's parts take, in times those of the current version; `together`: the
    most requests of a run, which have one time. Both arms run as often, whatever the candidate's
    `share` of the requests is, and a part takes as long as requests run together.
    """

    def __init__(self, folder, *guards, slow=None, together=1, share=0.5, runs_share=1.0, seed=0):
        steps = tuple(sorted({100 * share, 50.0, 100.0} - {50.0 * (share > 0.5)}))
        rollout = rollout_of(*guards, steps_percent=steps)
        super().__init__(rollout, Counters(folder / "counters", WORKERS))
        self.share, self.runs = share, 0
        self.slow, self.together = slow or {}, together
        self.runs_share, self.random = runs_share, np.random.default_rng(seed)
        before = Plan("credit", 1, (Arm("current", "credit/1", 100.0),))
        self.plan = plan_of(self.rollout, start(self.rollout, START), before)
        self.plan_number, labels = self.plan.number, labels_of(self.plan)
        self.counters.arms.name(labels, [])
        self.arms = {label.arm: [self.series(label, n) for n in range(WORKERS)] for label in labels}

    def series(self, label, worker):
        version = MetricLabels("credit", label.version[-1])
        self.counters.name(version)
        of_version = self.counters.series(worker, version)
        series = self.counters.arms.series(worker, label, of_version, version)
        by = AnsweredBy("credit", label.version[-1], "composition")
        series.count_answers().describe(by, OUTPUTS, allows_non_finite=True)
        return series

    def run_one(self):
        """Requests that ran together in one arm."""
        arm = ("candidate", "current")[self.runs % 2]
        self.runs += 1
        slow = self.slow if arm == "candidate" else {}
        share = self.share if arm == "candidate" else 1 - self.share
        crowd = 1 if share == 0.5 else round(10 * share)
        requests = int(self.random.integers(1, self.together + 1)) * crowd
        took = dict(zip(("score", "price"), self.random.lognormal(0, 0.5, 2), strict=True))
        if self.random.random() > self.runs_share:
            took["score"] = np.nan  # a router has chosen another part
        took = {part: ms * crowd * slow.get(part, 1.0) for part, ms in took.items()}
        columns = {f"{part}.ms": np.full(requests, ms) for part, ms in took.items()}
        whole_ns = int(1e6 * (20 + np.nansum(list(took.values()))))
        series = self.arms[arm][int(self.random.integers(WORKERS))]
        for place in range(requests):
            mine = {name: column[place : place + 1] for name, column in columns.items()}
            series.count(200, whole_ns, 1)
            outputs = {"prediction": np.array([1.0])}
            series.answers.add(Answer(outputs, series.answers.by, None, mine))

    def ask(self):
        for _ in range(RUNS):
            self.run_one()
        for series in chain.from_iterable(self.arms.values()):
            series.answers.tick()


@pytest.mark.parametrize("guard", first_of(["p95[score] +20 %", "latency[score] +20 %"], 2))
def test_a_part_that_got_slow_rolls_back_though_the_whole_is_within_its_guard(tmp_path, guard):
    story = Story(tmp_path, "p95 +20 %", guard, slow={"score": 2.0})
    assert story.run() is Aborted
    assert (
        f"part score of credit/2 is slower than part score of credit/1 by more than {guard} allows"
        in story.sentence
    )


def test_a_part_that_is_slower_by_less_than_the_margin_is_promoted(tmp_path):
    story = Story(tmp_path, "p50[score] +60 %", slow={"score": 1.1})
    assert story.run(120) is Promoted, story.sentence


def test_a_part_is_not_slower_because_more_requests_run_together_in_the_larger_arm(tmp_path):
    story = Story(tmp_path, "p50[score] +60 %", share=0.9)
    assert story.run() is Running, story.sentence


def test_a_part_is_not_shown_to_be_fast_where_fewer_requests_run_together(tmp_path):
    story = Story(tmp_path, "p50[score] +60 %", share=0.1, slow={"score": 2.0})
    assert story.run() is Running
    assert "not shown yet to be within p50[score] +60 %" in story.sentence


def test_a_canary_in_which_a_part_could_never_be_shown_is_refused():
    message = r"p95\[score\] \+20 % is compared where each version has 50 % of the requests"
    for changes in ({"steps_percent": (5.0, 49.0, 100.0)}, {"strategy": "all"}):
        with pytest.raises(Invalid, match=message) as refused:
            rollout_of(*GUARDS, **changes)
        assert refused.value.hint == "--strategy canary --steps 5,25,50,100"


def test_another_part_that_got_slow_is_none_of_the_guard(tmp_path):
    story = Story(tmp_path, "p95 +100 %", "p50[price] +60 %", slow={"score": 3.0})
    assert story.run(120) is not Aborted, story.sentence


def test_until_a_part_is_shown_to_be_within_its_guard_the_rollout_waits_and_names_it(tmp_path):
    story = Story(tmp_path, "p95[score] +20 %")
    story.run(3)
    assert isinstance(story.state, Running)
    assert "not shown yet to be within p95[score] +20 %" in story.sentence
    assert "of the answers of part score of credit/2 are over the limit" in story.sentence


def of_part(story, part, arm="current"):
    place = parts_of(story.rollout.guards).index(part)
    counts = durations.dense(getattr(story.before, arm).durations)
    return int(counts[durations.PARTS[place]].sum())


def test_requests_that_ran_together_count_once_and_a_part_that_did_not_run_not_at_all(tmp_path):
    story = Story(tmp_path, "p95[price] +20 %", "p95[score] +20 %", together=8, runs_share=0.25)
    story.turn()
    prices, scores = (
        sum(of_part(story, part, arm) for arm in ("current", "candidate"))
        for part in ("price", "score")
    )
    assert prices == RUNS
    assert 0.15 * RUNS < scores < 0.35 * RUNS


def test_a_run_of_more_requests_than_are_counted_at_once_counts_once(tmp_path):
    story = Story(tmp_path, "p95[price] +20 %", together=3 * BLOCK)
    story.turn()
    assert sum(of_part(story, "price", arm) for arm in ("current", "candidate")) == RUNS


def test_a_plan_without_guards_on_parts_times_none_and_is_read_by_earlier_releases(tmp_path):
    story = Story(tmp_path, "p95 +20 %")
    story.turn()
    assert story.plan.to_json()["schema"] == 1
    assert durations.dense(story.before.current.durations)[list(durations.PARTS)].sum() == 0
    timed = Story(tmp_path, *GUARDS).plan
    assert timed.to_json()["timed_parts"] == ["score"]
    assert Plan.from_json(timed.to_json()) == timed
    over = plan_of(rollout_of(*GUARDS), timed_out(), timed)
    assert over.timed_parts == ()


def timed_out():
    decision = start(rollout_of(*GUARDS), START)
    return msgspec.structs.replace(decision, state=Aborted(START))


def test_guards_on_the_whole_have_the_limits_that_they_have_without_guards_on_parts(tmp_path):
    """So that decisions of earlier releases are made again."""
    story = Story(tmp_path, "p95 +100 %", "p99[score] +20 %", "p50 +50 %", "p50[price] +50 %")
    for _ in range(3):
        story.turn()
    guards = story.rollout.guards
    limits = limits_of(guards, story.raw)
    alone = limits_of([guard for guard in guards if not guard.part], story.raw)
    assert {of: limits[of] for of in alone if of in durations.WORK} == {
        of: bins for of, bins in alone.items() if of in durations.WORK
    }
    score, price = (limits[of] for of in durations.PARTS[:2])
    assert [len(bins) for bins in (*score, *price)] == [2, 2, 2, 2]
    assert [limits_of([guards[1]], story.raw)[durations.PARTS[0]]] == [score]


@pytest.mark.parametrize("text", ["p99.9[a_1] +20 %", "latency[s] +5 ms", "accuracy[s] -2 pp"])
def test_a_guard_on_a_part_is_written_as_it_is_read(text):
    guard = parse_guard(text.upper().replace("PP", "pp").replace("MS", "ms"))
    assert str(guard) == text
    assert msgspec.convert(msgspec.to_builtins(guard), Guard) == guard


@pytest.mark.parametrize(
    "text", ["errors[score] +1 pp", "answers[score.label] +20 pp", "mae[score] +5 %"]
)
def test_what_is_not_compared_for_a_part_is_refused_with_what_is(text):
    with pytest.raises(Invalid, match="is not compared for a part") as refused:
        parse_guard(text)
    assert "latency, p50" in refused.value.hint


def test_one_part_more_than_are_kept_is_refused():
    guards = [f"p95[part{number}] +20 %" for number in range(MAX_TIMED_PARTS + 1)]
    rollout = rollout_of("latency +20 %", "latency[part0] +20 %", *guards[:-1])
    check_limits(rollout.guards)
    assert len(durations.PARTS) == MAX_TIMED_PARTS == len(parts_of(rollout.guards))
    with pytest.raises(Invalid, match="the times of 5 parts"):
        check_limits(rollout_of(*guards).guards)
    with pytest.raises(Invalid, match="there twice"):
        rollout_of("p95[score] +20 %", "p95[score] +30 %")


@pytest.mark.parametrize("runs", first_of([8, 200]))
@pytest.mark.parametrize("together", first_of([8, 1]))
def test_versions_at_the_margin_of_guards_on_parts_are_seldom_rolled_back(tmp_path, runs, together):
    """All guards share one alpha of 5 %, however many parts they name."""
    guards = (
        "errors +1 pp", "p95 +20 %", "latency[score] +20 %", "p95[price] +20 %", "p50[price] +20 %",
    )  # fmt: skip
    slow = {"score": 1.2, "price": 1.2}
    ends = []
    for seed in range(runs):
        folder = tmp_path / str(seed)
        folder.mkdir()
        ends.append(Story(folder, *guards, slow=slow, together=together, seed=seed).run(12))
    assert ends.count(Aborted) <= 0.05 * runs + 2 * (0.05 * 0.95 * runs) ** 0.5


PARTS = {
    "risk": {"model": "risk"},
    "twice": {"ensemble": ["risk", "risk"]},
    "cheap": {"model": "risk"},
    "dear": {"model": "risk"},
    "chosen": {"router": [{"when": "x > 0", "part": "cheap"}, {"part": "dear"}]},
    "decision": {"rules": [{"when": "risk.label == 'bad'", "then": {"offer": "no"}},
                           {"then": {"offer": "yes"}}]},
}  # fmt: skip


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """`credit/1`; `credit/2` in another order; `credit/3` of other parts; `risk/1`, no graph."""
    folder, random = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)
    X = pd.DataFrame({"x": random.normal(size=200), "y": random.normal(size=200)})
    model = LogisticRegression().fit(X, np.where(X.x > 0, "bad", "good"))
    options = {"measure": False, "explain": False, "outliers": False}
    risk = bascule.pack(model, name="risk", train=X, to=folder / "risk", **options)
    packed = {"risk/1": risk, "risk/2": risk}
    order = ["dear", "cheap", "risk", "chosen", "twice", "decision"]
    versions = (PARTS, {name: PARTS[name] for name in order}, {"score": PARTS["risk"]})
    for number, parts in enumerate(versions, 1):
        document = Composition({"parts": parts}, lambda _: risk)
        to = folder / f"credit{number}"
        packed[f"credit/{number}"] = bascule.pack(document, name="credit", to=to, **options)
    return packed


def prepared(bundles, tmp_path, *guards, current="credit/1", candidate="credit/2", **private):
    rollout = rollout_of(*guards, current=current, candidate=candidate)
    recording = Recording(True, private.get("private", {}), 1_024)
    return prepare(rollout, bundles.__getitem__, Ledger(tmp_path), recording)


def test_versions_with_the_same_parts_in_another_order_are_compared(bundles, tmp_path):
    guards = ("p95[decision] +20 %", "p50[cheap] +20 %", "latency[risk] +20 %")
    assert parts_of(prepared(bundles, tmp_path, *guards).guards) == ("decision", "cheap", "risk")


@pytest.mark.parametrize(
    ("guard", "versions", "message"),
    [
        ("p95[risks] +20 %", {}, "credit/1 has no part 'risks'.*risk, twice, cheap"),
        ("p95[risk] +20 %", {"candidate": "credit/3"}, "credit/3 has no part 'risk'.*are score"),
        ("p95[risk] +20 %", {"current": "risk/1", "candidate": "risk/2"}, "it is no composition"),
        ("accuracy[decision] -2 pp", {}, "part decision of credit/1 is a model for other"),
        ("accuracy[cheap] -2 pp", {}, "part cheap of credit/1 .* rows that a router chooses"),
        ("accuracy[risk] -2 pp", {"private": {"label": "hash"}}, "does not keep risk.label"),
        ("accuracy[risk] -2 pp", {"private": {"risk.label": "omit"}}, "does not keep risk.label"),
    ],
)
def test_a_guard_that_cannot_be_counted_is_refused_before_the_rollout(
    bundles, tmp_path, guard, versions, message
):
    with pytest.raises(Invalid) as refused:
        prepared(bundles, tmp_path, guard, **versions)
    assert re.search(message, f"{refused.value} {refused.value.hint}")


def test_the_answers_of_a_part_are_compared_with_the_truths_of_the_part(bundles, tmp_path):
    guards = prepared(bundles, tmp_path, "accuracy[risk] -2 pp", "roc_auc[twice] -1 pp").guards
    rows = {"x": np.array([2.0, 2.0, -2.0]), "y": np.zeros(3)}
    program = bundles["credit/1"].program()
    (columns,) = program.complete([rows])
    program.close()
    columns = {f"input.{name}": column for name, column in columns.items()}
    truths = np.array(["bad", "good", "good"], object)
    wrong = losses_of_rows(loss_sql("accuracy", guards[0].loss, 0), columns, truths)
    assert wrong.tolist() == [0, 1, 0]
    pairs = loss_sql("roc_auc", guards[1].loss, 1)
    assert '"input.twice.probabilities"' in pairs
    assert '"output.' not in pairs
