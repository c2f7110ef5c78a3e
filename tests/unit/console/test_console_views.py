"""What pages say, as pure functions of facts."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest

from bascule.console.facts import EndpointFacts, ServerFacts, endpoint_facts
from bascule.console.kept import Kept
from bascule.console.live import Looks, Sample, live_view
from bascule.console.pages.endpoint import diagram
from bascule.console.pages.overview import todos_of
from bascule.console.paging import pager_of
from bascule.console.story import (
    COMMANDS,
    coarse,
    sequences_of,
    some_of,
    steps_of,
    story_of,
)
from bascule.console.table import PAGES, Page
from bascule.console.words import actor, ago, duration, latency, number, percent, tone
from bascule.endpoints import Arm, Endpoint, Plan, Shadow, StoredPlan
from bascule.release.rollouts import (
    FINAL,
    Aborted,
    ArmCounts,
    Decision,
    Guard,
    Interval,
    Promoted,
    Rollout,
    Running,
    Shares,
    State,
    StoredDecision,
    StoredRollout,
    Waiting,
)
from bascule.serving.telemetry import BUCKETS_S

T0 = datetime(2026, 11, 28, 12, tzinfo=UTC)
PLAN = Plan("late", 3, (Arm("current", "late/1", 75.0), Arm("candidate", "late/2", 25.0)))
ENDPOINT = Endpoint("late", "", StoredPlan(PLAN, T0, "ada"))
ROLLOUT = Rollout(
    id="late-1", started_at=T0, endpoint="late", candidate="late/2", current="late/1",
    strategy="canary", guards=(Guard("errors", 0.01, "pp"),), steps_percent=(5.0, 25.0, 100.0),
)  # fmt: skip


def stored(state: State | None, sentence="held", log_e=0.0, intervals=0):
    latest = None
    if state is not None:
        latest = Decision(
            state=state, shares=Shares(25.0), sentence=sentence, log_e={"all": log_e},
            intervals=intervals,
        )  # fmt: skip
    return StoredRollout(ROLLOUT, 1, latest, intervals, None, "ada", "")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_199, "120 min"), (7_200, "2 h"), (3e5, "3 d")],
)
def test_a_duration_is_in_the_largest_unit_of_which_there_are_two(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(9, "now"), (-9, "now"), (200, "3 min ago"), (-7_200, "in 2 h")]
)
def test_a_time_is_so_long_ago_or_in_so_long(seconds, said):
    assert ago(T0 - timedelta(seconds=seconds), T0) == said


def test_numbers_are_short_and_what_is_not_known_is_a_dash():
    assert [number(one) for one in (None, 1234.0, 0.12345)] == ["-", "1,234", "0.123"]
    assert [percent(one) for one in (None, 0, 0.0123, 1)] == ["-", "0 %", "1.23 %", "100 %"]
    assert [latency(one) for one in (None, 0.00042, 1.5)] == ["-", "0.42 ms", "1.50 s"]


def test_every_state_of_a_rollout_has_a_tone():
    names = [one.__name__.lower() for one in State.__args__]
    assert all(tone(name) != "plain" for name in names)
    assert tone("a state of tomorrow") == "plain"


def test_a_page_is_marked_on_its_own_paths_only():
    assert [page.name for page in PAGES if page.name and page.is_at("/endpoints/late")] == [
        "Endpoints"
    ]
    assert [page.name for page in PAGES if page.name and page.is_at("/")] == ["Overview"]
    assert not Page("a", "/try").is_at("/tryst")
    assert Page("a", "/try", "Try", ("/score",)).is_at("/score")


@pytest.mark.parametrize(
    ("served", "there", "state"),
    [(3, True, "live"), (2, True, "behind"), (0, True, "not served"), (0, False, "planned")],
)
def test_an_endpoint_is_live_where_the_newest_plan_is_served(served, there, state):
    server = ServerFacts(is_there=there, plans={"late": served} if served else {})
    assert endpoint_facts(ENDPOINT, server, None).state == state


def test_the_most_severe_stands_first_among_what_waits():
    behind = EndpointFacts(ENDPOINT, None, 2, has_server=True, requests=0, errors=0)
    server = ServerFacts(is_there=True, workers=2, alive=1)
    todos = todos_of(server, [behind], [stored(Waiting(1, T0))], [])
    assert [one.tone for one in todos] == ["bad", "warn", "warn"]
    assert todos[0].text == "1 of 2 workers answer."


@pytest.mark.parametrize(
    ("state", "now", "done"),
    [(None, [], []), (Running(1, T0), [1], [0]), (Waiting(2, T0), [2], [0, 1]),
     (Promoted(T0), [], [0, 1, 2]), (Aborted(T0), [], [])],
)  # fmt: skip
def test_steps_are_done_before_the_stage_and_all_of_them_once_promoted(state, now, done):
    steps = steps_of(stored(state))
    assert [at for at, one in enumerate(steps) if one.is_now] == now
    assert [at for at, one in enumerate(steps) if one.is_done] == done


def test_commands_are_those_that_have_a_meaning_in_the_state():
    assert "promote" in COMMANDS["waiting"]
    assert "pause" not in COMMANDS["paused"]
    assert not {one.__name__.lower() for one in FINAL} & set(COMMANDS)


def test_a_story_tells_the_latest_first_and_a_look_that_changed_nothing_apart():
    decided = [
        StoredDecision(
            number=at, at=T0, made_by="host", before=None, plan_number=at,
            decision=Decision(
                state=Running(at, T0), shares=Shares(5.0), sentence=f"step {at}", log_e=log_e
            ),
        )
        for at, log_e in ((1, {}), (2, {"all": 1.1}))
    ]  # fmt: skip
    story = story_of(
        stored(Running(2, T0), "held: 3 more minutes"), decided, [(0, None), (1, 0.5), (2, 1.1)]
    )
    told = [(line.decision.sentence, evidence) for line, _, evidence in story["told"]]
    assert told == [("step 2", "evidence of 3 to 1"), ("step 1", "")]
    assert story["now"] == "held: 3 more minutes"
    assert story["needed"] == "20 to 1"
    assert "boundary 20 to 1" in story["chart"]
    at_once = story_of(stored(Running(2, T0), "step 2"), decided, [])
    assert at_once["now"] == ""
    assert at_once["chart"] is None


def test_evidence_over_the_boundary_is_marked():
    over = story_of(stored(Aborted(T0)), [], [(0, 0.0), (1, 3.1)])["chart"]
    under = story_of(stored(Running(0, T0)), [], [(0, 0.0), (1, 2.9)])["chart"]
    assert 'class="alarm"' in over
    assert 'class="alarm"' not in under


def test_a_confidence_sequence_closes_in_on_the_difference():
    def interval(at, requests):
        return Interval(
            at, 0, ArmCounts(requests, requests // 100), ArmCounts(requests, requests // 20)
        )

    short, long = (
        sequences_of(ROLLOUT, [interval(at, 500) for at in range(count)], [])[0]
        for count in (4, 60)
    )
    widths = []
    for one in (short, long):
        lower, upper = one.caption.split("between ")[1].split(".  Dashed")[0].split(" and ")[:2]
        widths.append(float(upper.split(". ")[0]) - float(lower))
    assert widths[1] < widths[0] / 2
    assert "+4.00 points" in long.caption
    assert sequences_of(ROLLOUT, [], []) == []


def test_neighbours_of_a_stage_are_added_up_and_stages_stay_apart():
    table = np.ones((10, 3))
    table[:, 0] = [0] * 5 + [1] * 5
    made = coarse(table, 5)
    assert made[:, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert made[:, 1].tolist() == [2, 2, 1, 1, 2, 2]
    assert coarse(table, 10) is table


@pytest.mark.parametrize(
    ("count", "drawn"), [(0, 0), (99, 99), (104, 100), (119, 110), (5_432, 5_400)]
)
def test_of_many_intervals_so_many_are_drawn_that_the_next_look_is_often_the_same(count, drawn):
    assert some_of(count) == drawn


def sample(at_s, current, candidate, errors=0, fast=0):
    buckets = (fast,) + (0,) * len(BUCKETS_S)
    return Sample(at_s, {"current": (current, 0), "candidate": (candidate, errors)}, buckets, 3)


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("vm-1.example:7304", "controller (process 7304 on vm-1.example)"),
        ("ada", "ada"),
        ("ada@example.com", "ada@example.com"),
        ("ada@example.com:7304", "ada@example.com:7304"),
        ("oidc:ada", "oidc:ada"),
    ],
)
def test_what_a_control_process_did_itself_is_told_as_done_by_the_controller(by, said):
    assert actor(by) == said
    assert said.startswith(actor(by, is_short=True))


def test_rates_are_those_between_the_last_two_looks_and_failures_those_of_the_window():
    looks = [sample(0, 0, 0), sample(10, 100, 0), sample(20, 400, 100, errors=5, fast=500)]
    view = live_view(PLAN, looks)
    assert view["per_s"] == 40.0
    assert [one.per_s for one in view["arms"]] == [30.0, 10.0]
    assert [one.share for one in view["arms"]] == [0.8, 0.2]
    assert view["error_share"] == 5 / 500
    assert 0 < view["p50_s"] <= BUCKETS_S[0]
    assert view["over_s"] == 20


def test_a_first_look_knows_no_rate_and_a_former_plan_is_left_out():
    view = live_view(PLAN, [replace(sample(0, 900, 0), plan=2), sample(5, 7, 0)])
    assert view["per_s"] == 0
    assert view["error_share"] is None
    assert view["p50_s"] is None
    assert [one.requests for one in view["arms"]] == [7, 0]


def test_looks_are_a_second_apart_however_many_pages_ask():
    class Server:
        labels = ()
        asked = 0

        def totals(self):
            return []

        def arm_totals(self, _compared=""):
            self.asked += 1
            return []

    now, server = [0.0], Server()
    looks = Looks(clock_s=lambda: now[0])
    for at in (0.0, 0.5, 0.9, 1.0, 1.5, 2.0):
        now[0] = at
        kept = looks.look(server, PLAN)
    assert server.asked == len(kept) == 3
    assert all(b.at_s - a.at_s >= 1 for a, b in pairwise(kept))


def test_a_diagram_names_every_arm_its_shadow_and_its_fallback():
    plan = replace(PLAN, shadow=Shadow("late/9", 10.0), fallback="late/7")
    said = diagram(plan)
    for version in ("late/1", "late/2", "late/9", "late/7"):
        assert version in said
    assert "10 % copied" in said


def test_what_is_kept_is_made_once_and_makes_room_for_the_newest():
    kept, made = Kept(2), []
    for name in "abccb":
        assert kept.get(name, lambda name=name: made.append(name) or name.upper()) == name.upper()
    assert made == ["a", "b", "c"]
    kept.get("a", lambda: made.append("a") or "A")
    assert made == ["a", "b", "c", "a"]


def test_the_pages_of_a_list_lead_to_each_other_and_keep_the_search():
    first, middle, last = (pager_of("/models", start, 25, 60, q="a&b") for start in (0, 25, 50))
    assert (first.back, first.more) == ("", "/models?q=a%26b&start=25")
    assert (middle.back, middle.more) == ("/models?q=a%26b&start=0", "/models?q=a%26b&start=50")
    assert (last.back, last.more) == ("/models?q=a%26b&start=25", "")
    assert last.said == "51 to 60 of 60"
