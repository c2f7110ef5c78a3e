"""Endpoints in one worker: the arm of a request, what is counted for it, and shadows."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from bascule.core import DType, Field, Refused, Unavailable
from bascule.endpoints import (
    KEY_UNITS,
    Arm,
    BreakerRule,
    CallLimits,
    ContextFeature,
    ContextPolicy,
    Plan,
    Shadow,
    choose,
    unit,
)
from bascule.serving.execution import ResiliencePolicy
from bascule.serving.execution.shadows import MAX_WAITING, agree
from bascule.serving.specs import ModelSpec, check_unplanned, planned
from bascule.serving.telemetry import Counters, MetricLabels, labels_of
from bascule.serving.telemetry.arms import PLACES
from bascule.serving.workers.planned_endpoints import (
    PlannedEndpoints,
    check_plans,
    find_version,
    policy_of,
)
from bascule.stats.durations import place_of

INFER = "/v2/models/m/infer"


def canary(share=50.0, **more):
    arms = (Arm("current", "m/1", 100.0 - share), Arm("candidate", "m/2", share))
    return Plan("m", 1, arms, **more)


@pytest.fixture
def served(serve_models, fake, inline):
    """`served(plan, more versions...)`: m/1 and m/2 behind a plan."""

    def serve(plan, *paces, testers=None, **more):
        programs = [fake(), fake(), fake()]
        models = [
            (f"m/{number}", program, pace)
            for number, program, pace in zip(
                (1, 2, 3), programs, paces or (inline,) * 3, strict=True
            )
        ]
        server = serve_models(*models, **more)
        server.programs = programs

        def check_tester(caller, endpoint):
            if testers is not None and caller not in testers:
                raise Refused(f"the key does not allow test:{endpoint}")

        endpoints = PlannedEndpoints(
            server.counters, 0, server.loop, check_tester,
            lambda reference: find_version(reference, server.models),
        )  # fmt: skip

        def follow(plan):
            server.counters.arms.name(labels_of(plan), [])
            (endpoint,) = endpoints.follow((plan,)).values()
            for model in server.models:
                model.needs = "manage"
            server.serve(endpoint, *server.models)

        follow(plan)
        server.follow = follow
        server.endpoints = endpoints
        server.arms = lambda: {one.arm: one for one in server.counters.arms.totals()}
        return server

    return serve


def headers(key):
    return f"Bascule-Sticky: {key}\r\n"


# -- which arm --


def test_a_sticky_key_gets_the_arm_of_the_plan_over_every_protocol(
    served, ask, grpc_client, ask_grpc
):
    plan = canary()
    server = served(plan)
    client, request = grpc_client(server), ask_grpc([1, 2])
    request.model_name = "m"
    bodies = {
        INFER: ask([1, 2]),
        "/invocations": {"instances": [[1, 2]]},
        "/v1/models/m:predict": {"instances": [[1, 2]]},
    }
    with server.client() as http:
        for key in ("ada", "bob", "eve", "kim", "lea"):
            arm = choose(plan, key)
            for path, body in bodies.items():
                answer = http.request("POST", path, body, headers(key)).answer()
                assert answer.status == 200
                assert answer.headers["bascule-version"] == arm.version
                assert answer.headers["bascule-arm"] == arm.name
            sent = request.SerializeToString()
            answer, call = client.method("ModelInfer").with_call(
                sent, metadata=[("bascule-sticky", key)]
            )
            told = dict(call.initial_metadata())
            assert (told["bascule-version"], told["bascule-arm"]) == (arm.version, arm.name)
            assert arm.version.encode()[2:] in answer


def test_a_known_sticky_key_gets_the_arm_of_the_next_plan(served, ask):
    """The arm of a head is remembered for as long as the plan is the same."""
    server = served(canary(20.0))
    with server.client() as client:
        for plan in (canary(20.0), canary(60.0).numbered(2), canary(20.0).numbered(3)):
            server.follow(plan)
            for key in [f"user{number}" for number in range(20)] * 3:
                answer = client.request("POST", INFER, ask([1, 2]), headers(key)).answer()
                arm = choose(plan, key)
                assert answer.headers["bascule-version"] == arm.version
                assert answer.headers["bascule-arm"] == arm.name
                assert answer.json["model_version"] == arm.version[2:]
    assert sum(arm.requests for arm in server.arms().values()) >= 60


def test_without_a_header_the_first_value_of_the_sticky_field_is_the_key(served, ask):
    plan = canary(sticky_field="x", sticky_header="")
    server = served(plan)
    with server.client() as client:
        for first in range(20):
            row = np.array([first, 2.0])
            answer = client.request("POST", INFER, ask(row)).answer()
            expected = choose(plan, row.tobytes().hex()).version
            assert answer.headers["bascule-version"] == expected


def test_a_held_back_request_is_answered_by_the_current_version_and_says_so(served, ask):
    plan = replace(canary(30.0), holdback_percent=20.0, rollout="r1")
    server = served(plan)
    drawn = {key: choose(plan, key) for key in [f"user{number}" for number in range(60)]}
    with server.client() as client:
        for key, arm in drawn.items():
            answer = client.request("POST", INFER, ask([1, 2]), headers(key)).answer()
            assert answer.headers["bascule-arm"] == arm.name
            assert answer.headers["bascule-version"] == arm.version
    names = [arm.name for arm in drawn.values()]
    counted = server.arms()
    assert {name: counted[name].requests for name in counted} == Counter(names)
    # Keys of the rollout are counted by its own draw; one that is held back is none of them.
    units = {
        name: {int(unit("m", "candidate", key) * KEY_UNITS) for key in drawn
               if drawn[key].name == name}
        for name in ("current", "candidate")
    }  # fmt: skip
    for name, keys in units.items():
        assert {place for place, flags in enumerate(counted[name].firsts) if flags} == keys
    assert not any(counted["holdback"].firsts)


def test_of_requests_that_are_steered_a_share_is_held_back_too(served, ask):
    policy = ContextPolicy((ContextFeature("x", "x"),))
    server = served(replace(canary(), holdback_percent=50.0, context=policy, rollout="r1"))
    with server.client() as client:
        arms = Counter(
            client.request("POST", INFER, ask([1, 2])).answer().headers["bascule-arm"]
            for _ in range(100)
        )
    assert 20 < arms["holdback"] < 80
    assert min(arms["current"], arms["candidate"]) > 5
    counted = server.arms()
    assert {name: counted[name].requests for name in counted} == arms


def test_a_tester_cannot_have_a_request_held_back(served, ask):
    server = served(replace(canary(), holdback_percent=20.0))
    with server.client() as client:
        answer = client.request("POST", INFER, ask([1, 2]), "Bascule-Arm: holdback\r\n").answer()
    assert answer.status == 400


def test_a_tester_names_the_arm(served, ask):
    server = served(canary(0.0), testers={""})
    with server.client() as client:
        answer = client.request("POST", INFER, ask([1, 2]), "Bascule-Arm: candidate\r\n").answer()
        assert answer.headers["bascule-version"] == "m/2"
        answer = client.request("POST", INFER, ask([1, 2]), "Bascule-Arm: other\r\n").answer()
        assert (answer.status, answer.json["error"]) == (
            400, "endpoint m has no arm 'other'; its arms are current, candidate",
        )  # fmt: skip


def test_a_caller_without_the_right_does_not(served, ask, grpc_client, ask_grpc):
    server = served(canary(0.0), testers={"tester"})
    with server.client() as client:
        answer = client.request("POST", INFER, ask([1, 2]), "Bascule-Arm: candidate\r\n").answer()
        assert (answer.status, "test:m" in answer.json["error"]) == (403, True)
        assert client.request("POST", INFER, ask([1, 2])).answer().status == 200
    request = ask_grpc([1, 2])
    request.model_name = "m"
    code, _ = grpc_client(server).refusal(
        "ModelInfer", request.SerializeToString(), metadata=[("bascule-arm", "candidate")]
    )
    assert code == "PERMISSION_DENIED"
    assert {arm.requests for arm in server.arms().values()} == {0, 1}


def test_versions_beneath_an_endpoint_are_asked_by_who_may_manage_alone(served):
    server = served(canary())
    routes = server.site.routes
    assert routes[INFER.encode()][b"POST"].action == "infer"
    beneath = routes[b"/v2/models/m/versions/2/infer"][b"POST"]
    assert (beneath.action, beneath.model) == ("manage", "m")


def test_a_change_of_shares_keeps_the_routes(served, ask):
    server = served(canary(0.0))
    with server.client() as client:
        assert client.request("POST", INFER, ask([1, 2])).answer().json["model_version"] == "1"
        server.follow(canary(100.0).numbered(2))
        assert client.request("POST", INFER, ask([1, 2])).answer().json["model_version"] == "2"


def test_every_description_of_an_endpoint_is_answered(served, grpc_client):
    server = served(canary())
    with server.client() as client:
        for path, methods in server.site.routes.items():
            if b"GET" in methods:
                assert client.request("GET", path.decode()).answer().status == 200, path
        told = client.request("GET", "/v2/models/m").answer().json
        assert (told["name"], told["versions"]) == ("m", ["1", "2", "3"])
        index = client.request("POST", "/v2/repository/index").answer().json
        assert [one["version"] for one in index] == ["1", "2", "3"]
    client = grpc_client(server)
    assert [one.name for one in client.told("RepositoryIndex").models] == ["m"] * 3


# -- what is counted --


def test_requests_errors_and_slow_answers_are_counted_exactly_by_arm(served, ask):
    server = served(canary(100.0, slower_than_s=(1e-9, 3_600.0)))
    server.programs[1].poison = 7.0
    with server.client() as client:
        for value, expected in ((1, 200), (7, 500), (2, 200), (7, 500), (3, 200)):
            answer = client.request("POST", INFER, ask([value, 2], [value, 3])).answer()
            assert answer.status == expected
        assert client.request("POST", INFER, b"{").answer().status == 400
    arms = server.arms()
    candidate = arms["candidate"]
    assert (candidate.requests, candidate.errors, candidate.rows) == (5, 2, 6)
    assert (candidate.slower, candidate.version) == ((5, 0), "m/2")
    assert arms["current"].requests == 0
    # The counters of the version have the same.
    assert server.totals()[2].by_status == {200: 3, 500: 2}


def test_the_fallback_of_the_plan_answers_where_an_arm_fails(served, ask):
    server = served(canary(100.0, fallback="m/1"))
    server.programs[1].poison = 7.0
    with server.client() as client:
        answer = client.request("POST", INFER, ask([7, 2])).answer()
    assert (answer.status, answer.headers["bascule-version"]) == (200, "m/1")
    assert answer.headers["bascule-arm"] == "candidate"
    candidate = server.arms()["candidate"]
    assert (candidate.requests, candidate.errors, candidate.fallbacks) == (1, 0, 1)


def test_the_breaker_of_the_plan_spares_an_arm_that_fails_and_outlives_a_change_of_shares(
    served, ask
):
    server = served(canary(100.0, breaker=BreakerRule(2, 600.0)))
    server.programs[1].poison = 7.0

    def statuses(*values):
        with server.client() as client:
            answers = [client.request("POST", INFER, ask([value, 2])).answer() for value in values]
        return [answer.status for answer in answers]

    assert statuses(7, 1, 7, 7, 1) == [500, 200, 500, 500, 503]
    assert len(server.programs[1].runs) == 4
    server.follow(canary(99.999_999, breaker=BreakerRule(2, 600.0)).numbered(2))
    assert statuses(1) == [503]
    server.follow(canary(100.0).numbered(3))
    assert statuses(1, 7, 7, 7, 1) == [200, 500, 500, 500, 200]


def test_a_plan_overrides_the_settings_of_the_model_and_leaves_others():
    settings = ResiliencePolicy(1.0, 5, 10.0, 20.0, "m/9")
    assert policy_of(canary(), settings) == settings
    plan = canary(breaker=BreakerRule(0), limits=CallLimits(0.5), fallback="m/1")
    assert policy_of(plan, settings) == ResiliencePolicy(0.5, 0, 10.0, 0.0, "m/1")


def test_a_recorder_is_told_the_endpoint_and_the_arm_also_of_failures(served, ask):
    kept = []

    class Kept:
        def add(self, context, call, answer, label, status, duration_ns):
            kept.append((label.endpoint, label.arm, label.version, status, answer))

    server = served(canary(100.0), recorder=Kept())
    server.programs[1].poison = 7.0
    with server.client() as client:
        for value in (1, 7):
            client.request("POST", INFER, ask([value, 2])).answer()
    assert [one[:4] for one in kept] == [
        ("m", "candidate", "2", 200), ("m", "candidate", "2", 500),
    ]  # fmt: skip
    by = kept[0][4].by
    assert (by.endpoint, by.arm, by.name) == ("m", "candidate", "m/2")


def test_an_arm_whose_program_reads_other_dtypes_gets_no_rounded_values(served, ask, fake):
    server = served(canary(100.0))
    narrow = server.models[0]
    narrow.program = narrow.program._replace(inputs=(Field("x", DType.FP32, (2,)),))
    server.follow(canary(100.0).numbered(2))
    exact = 1.0000000001
    with server.client() as client:
        answer = client.request("POST", INFER, ask([exact, 2])).answer()
    assert answer.json["outputs"][0]["data"][0] == 2 * exact


# -- shadows --


def settled(server, compared):
    server.until(lambda: server.arms()["shadow"].requests == compared)
    return server.arms()["shadow"]


def test_a_shadow_answers_the_same_requests_on_its_thread_and_is_compared(served, ask):
    server = served(canary(0.0, shadow=Shadow("m/3", 100.0)))
    threads = []
    shadow, run = server.programs[2], server.programs[2].run
    shadow.run = lambda *said: threads.append(threading.current_thread().name) or run(*said)
    with server.client() as client:
        for value in range(5):
            answer = client.request("POST", INFER, ask([value, 2])).answer()
            assert answer.headers["bascule-version"] == "m/1"
        found = settled(server, 5)
        assert (found.disagreements, found.errors, found.dropped) == (0, 0, 0)
        shadow.run = lambda columns, outputs=None: {
            name: column + 1e-3 for name, column in run(columns, outputs).items()
        }
        client.request("POST", INFER, ask([1, 2])).answer()
        assert settled(server, 6).disagreements == 1
        server.follow(canary(0.0, shadow=Shadow("m/3", 100.0, tolerance=0.01)).numbered(2))
        client.request("POST", INFER, ask([1, 2])).answer()
        assert settled(server, 1).disagreements == 0
    assert set(threads) == {"bascule-m/3"}
    assert server.counted() == {200: 7}


def test_a_shadow_that_fails_is_counted_and_invisible(served, ask):
    server = served(canary(0.0, shadow=Shadow("m/3", 100.0)))
    server.programs[2].poison = 1.0
    with server.client() as client:
        assert client.request("POST", INFER, ask([1, 2])).answer().status == 200
    found = settled(server, 1)
    assert (found.errors, found.disagreements) == (1, 0)
    assert server.counted() == {200: 1}


def test_a_shadow_that_stalls_delays_nobody_and_its_queue_is_bounded(served, ask):
    server = served(canary(0.0, shadow=Shadow("m/3", 100.0)))
    shadow = server.programs[2]
    shadow.gate.clear()
    with server.client() as client:
        for _ in range(MAX_WAITING + 5):
            assert client.request("POST", INFER, ask([1, 2])).answer().status == 200
        assert server.arms()["shadow"].dropped == 5
        shadow.gate.set()
        settled(server, MAX_WAITING)
        client.request("POST", INFER, ask([1, 2])).answer()
        assert settled(server, MAX_WAITING + 1).dropped == 5


@pytest.mark.parametrize(
    ("one", "other", "tolerance", "expected"),
    [
        ([1.0, np.nan], [1.0, np.nan], 0.0, True),
        ([1.0], [1.5], 0.5, True),
        ([1.0], [1.5], 0.49, False),
        ([1], [2], 5.0, False),
        (["a"], ["a"], 0.0, True),
        ([1.0], [1.0, 1.0], 0.0, False),
        ([1e6], [1e6 * (1 + 1e-9)], 0.0, True),  # of another program of the same model
        ([0.5], [0.5001], 0.0, False),
        ([1], [1.0], 0.0, True),
    ],
)
def test_answers_agree_if_they_are_equal_or_numbers_within_the_tolerance(
    one, other, tolerance, expected
):
    found = agree({"y": np.array(one)}, {"y": np.array(other)}, tolerance)
    assert found is expected
    assert not agree({}, {"y": np.array(other)}, tolerance)


# -- lists and counters --


def test_plans_bring_their_versions_and_take_those_away_that_none_needs(tmp_path):
    one, two, other = (
        ModelSpec("m", "1", tmp_path), ModelSpec("m", "2", tmp_path), ModelSpec("n", "1", tmp_path),
    )  # fmt: skip
    served = planned((one, other), (canary(),), (one, two))
    assert served == (other, one, two)
    assert [each.is_planned for each in served] == [False, True, True]
    alone = Plan("m", 2, (Arm("current", "m/2", 100.0),))
    assert planned(served, (alone,), (two,)) == (other, two)
    # A version that is served under its own name too stays so.
    elsewhere = Plan("fast", 1, (Arm("current", "n/1", 100.0),))
    assert [each.is_planned for each in planned((other,), (elsewhere,), (other,))] == [False]
    check_unplanned((canary(),), "n")
    with pytest.raises(Exception, match="'m' is an endpoint, and plan 1 says"):
        check_unplanned((canary(),), "m")


def test_a_plan_whose_version_is_absent_or_has_another_signature_is_refused(served):
    server = served(canary())
    check_plans((canary(),), server.models)
    with pytest.raises(Refused, match="m/9 is not loaded"):
        check_plans((canary(shadow=Shadow("m/9", 1.0)),), server.models)
    other = server.models[1]
    other.signature = replace(other.signature, inputs=(Field("z", DType.FP64, (2,)),))
    with pytest.raises(Refused, match="m/2 has other inputs or outputs than m/1"):
        check_plans((canary(),), server.models)


@pytest.mark.parametrize(("most", "is_so"), [(3.4028234663852886e38, True), (1e6, False)])
def test_versions_with_bounds_that_no_number_meets_share_an_endpoint(served, most, is_so):
    """Those of FP32 beside none: two libraries, one table."""
    server = served(canary())
    other = server.models[1]
    inputs = tuple(replace(one, bounds=(-most, most)) for one in other.signature.inputs)
    other.signature = replace(other.signature, inputs=inputs)
    with nullcontext() if is_so else pytest.raises(Refused, match="other inputs"):
        check_plans((canary(),), server.models)


def test_versions_of_which_one_takes_missing_values_share_an_endpoint(served):
    """Which of them may come first is decided when they are deployed."""
    server = served(canary())
    one = server.models[0]
    inputs = tuple(replace(each, nullable=not each.nullable) for each in one.signature.inputs)
    one.signature = replace(one.signature, inputs=inputs)
    check_plans((canary(),), server.models)


def test_places_of_old_plans_are_given_to_new_ones_and_late_answers_are_counted_nowhere(tmp_path):
    counters = Counters(tmp_path / "counters", 2)
    version = MetricLabels("m", "1")
    counters.name(version)
    base = counters.series(1, version)

    def label(number):
        return labels_of(Plan("m", number, (Arm("current", "m/1", 100.0),)))

    counters.arms.name(label(1), [])
    first = counters.arms.series(1, label(1)[0], base, version)
    first.count(200, 5, 2)
    assert [(one.plan_number, one.requests, one.rows) for one in counters.arms.totals()] == [
        (1, 1, 2)
    ]
    counters.arms.name([one for number in range(2, PLACES + 1) for one in label(number)], [])
    counters.arms.name(label(PLACES + 1), label(PLACES))
    found = counters.arms.totals()
    assert [one.plan_number for one in found] == [*range(2, PLACES + 2)]
    first.count(200, 5, 2)
    assert {one.requests for one in counters.arms.totals()} == {0}
    assert base.totals().requests == 2


def test_durations_are_counted_for_plans_of_rollouts_and_gone_with_their_place(tmp_path):
    counters = Counters(tmp_path / "counters", 2)
    version = MetricLabels("m", "1")
    counters.name(version)

    def series(plan, worker):
        (label,) = labels_of(plan)
        counters.arms.name([label], [label])
        return counters.arms.series(worker, label, counters.series(worker, version), version)

    arms = (Arm("current", "m/1", 100.0),)
    answers = [(200, 5_000_000, 1), (200, 5_000_000, 20), (400, 9, 0), (504, 10**9, 0)]
    for plan in (Plan("m", 1, arms), Plan("m", 2, arms, rollout="r1")):
        for worker in (0, 1):
            for answer in answers:
                series(plan, worker).count(*answer)
    plain, compared = counters.arms.totals([("m", 1), ("m", 2)])
    assert plain.durations == ()
    assert compared.durations == (place_of(5_000_000, 1), 2, place_of(5_000_000, 20), 2)
    assert counters.arms.totals()[1].durations == ()
    more = [Plan("m", number, arms, rollout="r2") for number in range(3, PLACES + 3)]
    counters.arms.name([label for plan in more for label in labels_of(plan)], [])
    every = [("m", number) for number in range(PLACES + 3)]
    assert {total.durations for total in counters.arms.totals(every)} == {()}


def test_more_arms_than_places_are_refused(tmp_path):
    counters = Counters(tmp_path / "counters", 1)
    plans = [Plan(f"m{number}", 1, (Arm("current", "m/1", 100.0),)) for number in range(PLACES + 1)]
    kept = [label for plan in plans[:PLACES] for label in labels_of(plan)]
    counters.arms.name(kept, [])
    with pytest.raises(Unavailable, match="more than 1,024 arms"):
        counters.arms.name(labels_of(plans[PLACES]), kept)


# -- requests whose arm is not drawn --


def kept(server, arm):
    """The units of an arm that have counted, each with its round and flags."""
    firsts = server.arms()[arm].firsts
    return {place: (state >> 4, state & 15) for place, state in enumerate(firsts) if state}


def test_of_a_key_the_first_request_of_a_rollout_is_counted_apart(served, ask):
    plan = canary(rollout="r1", fallback="")
    server = served(plan)
    for program in server.programs[:2]:
        program.poison = 7.0
    with server.client() as client:
        for value in (7, 1, 1):
            for key in ("ada", "bob", "eve"):
                client.request("POST", INFER, ask([value, 2]), headers(key)).answer()
        for _ in range(20):
            client.request("POST", INFER, ask([1, 2])).answer()
    arms = server.arms()
    assert sum(arm.requests for arm in arms.values()) == 29
    assert sum(arm.bound for arm in arms.values()) == 9
    assert sum(arm.bound_errors for arm in arms.values()) == 3
    for key in ("ada", "bob", "eve"):
        place = int(unit("m", "candidate", key) * KEY_UNITS)
        assert kept(server, choose(plan, key).name)[place] == (0, 7)
    assert sum(len(kept(server, name)) for name in arms) == 3
    server.endpoints.tick()
    plan_answers = server.counters.arms.totals([("m", 1)])
    assert sum(arm.answers.looked for arm in plan_answers) == 20  # three keys failed at first


def test_a_key_counts_again_in_the_next_round_and_no_worker_goes_back(served, ask):
    plan = canary(rollout="r1")
    server = served(plan)
    endpoint = server.endpoints._made["m"]
    place, arm = int(unit("m", "candidate", "ada") * KEY_UNITS), choose(plan, "ada").name
    with server.client() as client:
        for number, expected in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2)):
            endpoint.begin_round(number)
            for _ in range(2):
                client.request("POST", INFER, ask([1, 2]), headers("ada")).answer()
            assert kept(server, arm) == {place: (expected, 3)}
    assert server.arms()[arm].bound == 10


def test_a_tester_is_counted_apart_and_a_plan_without_a_rollout_counts_all_alike(served, ask):
    server = served(canary(0.0, rollout="r1"), testers={""})
    with server.client() as client:
        client.request("POST", INFER, ask([1, 2]), "Bascule-Arm: candidate\r\n").answer()
        assert (server.arms()["candidate"].requests, server.arms()["candidate"].bound) == (1, 1)
        assert kept(server, "candidate") == {}
        server.follow(canary(50.0).numbered(2))
        for key in ("ada", "bob"):
            client.request("POST", INFER, ask([1, 2]), headers(key)).answer()
    counted = [one for one in server.counters.arms.totals() if one.plan_number == 2]
    assert [sum(one.requests for one in counted), sum(one.bound for one in counted)] == [2, 0]


def test_a_first_request_that_falls_back_says_so(served, ask):
    server = served(canary(100.0, rollout="r1", fallback="m/3"))
    server.programs[1].poison = 7.0
    with server.client() as client:
        answer = client.request("POST", INFER, ask([7, 2]), headers("ada")).answer()
        assert (answer.status, answer.headers["bascule-version"]) == (200, "m/3")
    candidate = server.arms()["candidate"]
    assert (candidate.fallbacks, candidate.bound_fallbacks) == (1, 1)
    assert list(kept(server, "candidate").values()) == [(0, 11)]


def test_a_place_that_is_given_to_another_arm_forgets_its_keys(tmp_path):
    arms = Counters(tmp_path / "counters", 1).arms
    first, second = ([one] for one in labels_of(canary(rollout="r1"))[:2])
    small = type(arms)(memoryview(bytearray(arms.size_of(1, 1))), 1, 1)
    small.name(first, [])
    series = Counters(tmp_path / "counters", 1).series(0)
    old = small.series(0, first[0], series, MetricLabels()).bound
    old.first_of(5, 0).count(200, 1, 1)
    assert sum(small.totals()[0].firsts) == 3
    late = old.first_of(6, 0)
    small.name(second, [])
    late.count(200, 1, 1)
    assert old.first_of(7, 0) is None
    new = small.series(0, second[0], series, MetricLabels()).bound
    new.count(200, 1, 1)
    assert sum(small.totals()[0].firsts) == 0
