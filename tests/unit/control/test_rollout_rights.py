"""Who may deploy, approve and read rollouts over the control API, on every door to it."""

import json
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from tests.controls import asking, control_app
from tests.tiers import first_of

from bascule.app import open_alerts, open_catalogue, open_keys, open_registry
from bascule.control.link import ServerLink
from bascule.endpoints import EndpointStore
from bascule.security.keys import Permission, create_key
from bascule.serving.telemetry import Counters
from bascule.serving.transports import Authenticator
from bascule.settings import load_settings

CANARY = {"version": "rain/2", "strategy": "canary", "guards": ["errors +1 pp"]}


@pytest.fixture(scope="module")
def bundles(packed):
    X = np.arange(20.0).reshape(10, 2)
    return [
        packed("rain", LinearRegression(fit_intercept=fit).fit(X, X[:, 0]), X)
        for fit in (True, False)
    ]


@pytest.fixture
def settings(bundles, tmp_path):
    made = load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})
    registry = open_registry(made)
    for path in bundles:
        registry.push(path, by="ada")
    return made


@pytest.fixture
def door(settings, tmp_path):
    """`door(needs_approval=...)`: asks a control API as the holder of permissions."""

    def opened(**defaults):
        file, kept = tmp_path / "keys.json", []
        file.write_text("[]")
        counters = tmp_path / "counters"
        counters.touch()
        app = control_app(
            ServerLink(Counters(counters, workers=0)), partial(open_registry, settings),
            lambda _: None, Authenticator(file),
            open_endpoints=lambda: EndpointStore(open_catalogue(settings)),
            open_catalogue=partial(open_catalogue, settings), rollout_defaults=defaults,
            open_keys=partial(open_keys, settings), open_alerts=partial(open_alerts, settings),
        )  # fmt: skip
        client = stack.enter_context(asking(app))

        class Kept:
            stored = staticmethod(lambda: kept)
            add = staticmethod(kept.append)

        def ask(allow, method, path, body=None):
            allowed = [Permission.parse(one) for one in allow.split()]
            now = datetime.now(UTC)
            _, token = create_key(Kept, f"k{len(kept)}", allowed, now=now, by="ada")
            file.write_text(json.dumps([key.to_json() for key in kept]))
            header = {"Authorization": f"Bearer {token}"}
            place = path if path.startswith("/") else f"/api/v1/{path}"
            answer = client.request(method, place, json=body, headers=header)
            return answer.status_code, answer.json()

        return ask

    with ExitStack() as stack:
        yield opened


def test_a_key_that_may_deploy_begins_a_rollout_and_may_not_approve_it(door):
    ask = door()
    plain = {"name": "rain", "version": "rain/1"}
    assert ask("read:rain", "POST", "endpoints", plain)[0] == 403
    assert ask("deploy:rain", "POST", "endpoints", plain)[0] == 201
    assert ask("approve:rain", "POST", "rollouts", CANARY)[0] == 403
    assert ask("deploy:other", "POST", "deployments", CANARY)[0] == 403
    status, begun = ask("deploy:rain", "POST", "deployments", {**CANARY, "needs_approval": True})
    assert (status, begun["deployed"]) == (201, None)
    rollout = begun["begun"]["rollout"]["id"]

    for other in ("deploy:rain", "approve:other", "write:rain"):
        assert ask(other, "POST", f"rollouts/{rollout}/promote", {})[0] == 403, other
    assert ask("approve:rain", "POST", f"rollouts/{rollout}/pause", {})[0] == 403
    assert ask("approve:rain", "POST", "rollouts/none/promote", {})[0] == 404
    # To deploy the candidate at once is no way around the approval.
    at_once = {"version": "rain/2"}
    assert ask("deploy:rain", "POST", "endpoints/rain/plans", at_once)[0] == 403
    assert ask("deploy:rain approve:rain", "POST", "endpoints/rain/plans", at_once)[0] == 201
    assert ask("deploy:rain", "POST", f"rollouts/{rollout}/abort", {})[0] == 200
    assert ask("read:rain", "DELETE", "endpoints/rain?reason=x")[0] == 403
    assert ask("deploy:rain", "DELETE", "endpoints/rain?reason=x")[0] == 200


def test_a_rollout_is_read_by_keys_of_its_endpoint_alone(door):
    ask = door()
    ask("deploy:rain", "POST", "endpoints", {"name": "rain", "version": "rain/1"})
    rollout = ask("deploy:rain", "POST", "rollouts", CANARY)[1]["rollout"]["id"]
    for path in ("", "/decisions", "/evidence", "/replay"):
        assert ask("read:rain", "GET", f"rollouts/{rollout}{path}")[0] == 200, path
        assert ask("read:other", "GET", f"rollouts/{rollout}{path}")[0] == 403, path
    assert len(ask("read:rain", "GET", "rollouts")[1]["items"]) == 1
    assert ask("read:other", "GET", "rollouts")[1]["items"] == []


def test_to_follow_an_alias_takes_the_right_to_deploy_its_model(door):
    ask = door()
    wanted = {"name": "rain", "version": "rain/1", "follow": "sun@champion"}
    assert ask("deploy:rain", "POST", "endpoints", wanted)[0] == 403
    assert ask("deploy:rain deploy:sun", "POST", "endpoints", wanted)[0] == 201
    moved = {**CANARY, "follow": "sun@champion"}
    assert ask("deploy:rain", "POST", "deployments", moved)[0] == 403


def test_where_the_settings_ask_for_approvals_no_request_goes_without(door):
    ask = door(needs_approval=True)
    first = {"version": "rain/1"}
    assert ask("deploy:rain", "POST", "endpoints/rain/plans", first)[0] == 403
    assert ask("deploy:rain", "POST", "deployments", first)[0] == 403
    assert ask("deploy:rain approve:rain", "POST", "deployments", first)[1]["begun"] is None
    at_once = {"version": "rain/2", "strategy": "all", "needs_approval": False}
    _, made = ask("deploy:rain", "POST", "deployments", at_once)
    assert made["begun"]["rollout"]["needs_approval"] is True
    assert made["begun"]["from_settings"] == ["needs_approval"]


def test_the_verdict_is_hold_until_a_rollout_has_ended_and_then_what_it_became(door):
    ask = door()
    ask("deploy:rain", "POST", "endpoints", {"name": "rain", "version": "rain/1"})

    def verdict(query=""):
        status, said = ask("read:rain", "POST", f"verdicts/rain{query}")
        return status, said["verdict"], said["reason"]

    assert verdict() == (200, "hold", "rain has had no rollout")
    rollout = ask("deploy:rain", "POST", "rollouts", CANARY)[1]["rollout"]["id"]
    assert verdict() == (200, "hold", "the rollout of rain/2 has not begun")
    assert verdict("?expects=abort")[0] == 409
    ask("deploy:rain", "POST", f"rollouts/{rollout}/abort", {"reason": "wrong data"})
    status, word, reason = verdict("?expects=abort")
    assert (status, word) == (200, "abort")
    assert "wrong data" in reason
    assert verdict("?expects=promote")[0] == 409
    assert ask("read:other", "POST", "verdicts/rain")[0] == 403


def test_flagger_reads_the_verdict_as_a_query_of_prometheus_with_a_key(door):
    ask = door()
    ask("deploy:rain", "POST", "endpoints", {"name": "rain", "version": "rain/1"})

    def value(query):
        status, said = ask("read:rain", "GET", f"verdicts/rain/api/v1/query?query={query}")
        assert (status, said["status"]) == (200, "success")
        (sample,) = said["data"]["result"]
        return float(sample["value"][1])

    assert value("vector(1)") == 1  # how Flagger looks whether a provider is there
    assert value("verdict") == 0
    rollout = ask("deploy:rain", "POST", "rollouts", CANARY)[1]["rollout"]["id"]
    ask("deploy:rain", "POST", f"rollouts/{rollout}/abort", {"reason": "wrong data"})
    assert value("verdict") == -1
    assert ask("read:other", "GET", "verdicts/rain/api/v1/query?query=verdict")[0] == 403


def test_how_an_endpoint_answers_is_changed_by_who_may_deploy_it_and_its_fallback(door):
    ask = door()
    assert ask("deploy:rain", "POST", "endpoints", {"name": "rain", "version": "rain/2"})[0] == 201
    change = {"fallback": "rain/1", "breaker": {"failures": 5, "open_s": 30}, "reason": "night"}
    assert ask("read:rain", "PATCH", "endpoints/rain", change)[0] == 403
    status, said = ask("deploy:rain", "PATCH", "endpoints/rain", {**change, "dry_run": True})
    assert (status, said["plan"]["number"]) == (200, 2)
    status, said = ask("deploy:rain", "PATCH", "endpoints/rain", change)
    assert (status, said["plan"]["fallback"]) == (200, "rain/1")
    assert said["plan"]["breaker"] == {"failures": 5, "open_s": 30.0}
    assert said["sentence"].startswith("changed rain: rain/1 answers where an arm fails; 5 fail")
    other = {"fallback": "snow/1"}
    assert ask("deploy:rain", "PATCH", "endpoints/rain", other)[0] == 403, "of another model"
    assert ask("deploy:rain", "PATCH", "endpoints/rain", {"breaker": None})[0] == 200
    assert ask("deploy:rain", "PATCH", "endpoints/rain", {"breaker": None})[0] == 409
    assert ask("deploy:rain", "PATCH", "endpoints/rain", {"share": 5})[0] == 400
    refused = ask("deploy:rain", "PATCH", "endpoints/rain", {"limits": {"timeout_s": -1}})
    assert refused[0] in (400, 422)


def test_the_plan_of_a_rollout_under_way_and_of_approvals_is_not_changed(door):
    ask = door(needs_approval=True)
    both = "deploy:rain approve:rain"
    assert ask(both, "POST", "endpoints", {"name": "rain", "version": "rain/2"})[0] == 201
    assert ask("deploy:rain", "PATCH", "endpoints/rain", {"fallback": "rain/1"})[0] == 403
    assert ask(both, "PATCH", "endpoints/rain", {"fallback": "rain/1"})[0] == 200


MAY_ALL_BUT_APPROVE = "deploy:rain deploy:other write:rain manage:rain infer:rain"
MAY_ALL = f"{MAY_ALL_BUT_APPROVE} approve:rain approve:other"
SUNSET = {"sunset": "2999-01-01T00:00:00Z"}


def document(**spec):
    return {"document": {"version": 1, "endpoints": {"rain": spec}}}


ACTS = [
    ("POST", "endpoints", {"name": "rain", "version": "rain/1"}),
    ("POST", "endpoints", {"name": "other", "version": "rain/1"}),
    ("POST", "endpoints/rain/plans", {"version": "rain/1"}),
    ("POST", "endpoints/rain/plans", {"version": "rain/1", "strategy": "blue-green"}),
    ("POST", "endpoints/rain/plans", {"version": "rain/1", "dry_run": True}),
    ("POST", "deployments", {"version": "rain/1", "endpoint": "other"}),
    ("PATCH", "endpoints/rain", {"breaker": {"failures": 5, "open_s": 30}}),
    ("DELETE", "endpoints/rain?reason=x", None),
    ("POST", "endpoints/rain/rollback", {"reason": "x", "to": 1}),
    ("PUT", "models/rain/versions/2/deprecation", SUNSET),  # from then on it is answered 410
    ("PUT", "configuration", document(absent=True)),
    ("PUT", "configuration", document(
        plan={"arms": [{"name": "current", "version": "rain/1", "share_percent": 100}]}
    )),
    ("PUT", "configuration", {"document": {"version": 1, "endpoints": {
        "other": {"version": "rain/1"}
    }}}),
]  # fmt: skip
"""`strategy all`, deleting and making again, and `rollback --to N` were ways around approvals."""


def deployed(door, allow):
    """A door to a home whose endpoint has three plans."""
    ask = door(needs_approval=True)
    assert ask(allow, "POST", "endpoints", {"name": "rain", "version": "rain/1"})[0] == 201
    breaker = {"breaker": {"failures": 3, "open_s": 30}}
    assert ask(allow, "PATCH", "endpoints/rain", breaker)[0] == 200
    assert ask(allow, "POST", "endpoints/rain/plans", {"version": "rain/2"})[0] == 201
    return ask


def test_every_act_that_changes_what_is_answered_takes_an_approval(door):
    ask = deployed(door, MAY_ALL)
    before = ask("read:*", "GET", "endpoints")[1]
    for method, path, body in ACTS:
        status, said = ask(MAY_ALL_BUT_APPROVE, method, path, body)
        assert (status, "approve" in said["error"]) == (403, True), (method, path, body)
    assert ask("read:*", "GET", "endpoints")[1] == before


@pytest.mark.parametrize(("method", "path", "body"), first_of(ACTS))
def test_and_is_done_with_one(door, method, path, body):
    assert deployed(door, MAY_ALL)(MAY_ALL, method, path, body)[0] in (200, 201)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v2/repository/models/rain/load", None),
        ("POST", "/v2/repository/models/rain/unload", None),
        ("DELETE", "server/services/rain", None),
    ],
)
def test_so_does_what_answers_a_name_without_a_plan(door, method, path, body):
    ask = door(needs_approval=True)

    status, said = ask(MAY_ALL_BUT_APPROVE, method, path, body)

    assert (status, "approve rain" in said["error"]) == (403, True)


def test_to_set_move_or_withdraw_the_end_of_what_answers_takes_an_approval(door):
    """From its sunset on a version is answered 410, and withdrawn it answers again."""
    ask = door(needs_approval=True)
    both = "deploy:rain approve:rain write:rain"
    endpoint = {"name": "rain", "version": "rain/2"}
    assert ask(both, "POST", "endpoints", endpoint)[0] == 201
    change = {"fallback": "rain/1", "reason": "night"}
    assert ask(both, "PATCH", "endpoints/rain", change)[0] == 200

    def asked(method, number, body=None, allow="write:rain deploy:rain"):
        path = f"models/rain/versions/{number}/deprecation"
        return ask(allow, method, path, body)[0]

    assert asked("PUT", 1, SUNSET) == 403, "the fallback"
    assert asked("PUT", 2, {}) == 200, "an announcement without a date ends nothing"
    assert asked("PUT", 2, SUNSET) == 403
    assert asked("DELETE", 2) == 200
    assert asked("PUT", 2, SUNSET, "write:rain approve:rain") == 200
    assert asked("PUT", 2, {"sunset": "2998-01-01T00:00:00Z"}) == 403
    assert asked("PUT", 2, {}) == 403
    assert asked("PUT", 2, {**SUNSET, "reason": "clearer"}) == 200, "the end stays where it is"
    assert asked("DELETE", 2) == 403
    assert asked("DELETE", 2, allow="write:rain approve:rain") == 200
    assert ask(both, "PATCH", "endpoints/rain", {"fallback": ""})[0] == 200
    assert asked("PUT", 1, SUNSET) == 200, "it answers nothing"


def test_so_does_the_end_of_a_version_that_answers_another_name_or_no_endpoint(door, settings):
    """The right is that of the endpoint, which need not have the name of the model."""
    ask, registry = door(needs_approval=True), open_registry(settings)
    registry.hold([registry.resolve("rain/1").digest], "server other 7", lasts_s=60.0)
    both = "deploy:rain deploy:other approve:other"
    assert ask(both, "POST", "endpoints", {"name": "other", "version": "rain/2"})[0] == 201

    def ended(number, allow):
        path = f"models/rain/versions/{number}/deprecation"
        return ask(allow, "PUT", path, SUNSET)[0]

    assert ended(2, "write:rain approve:rain") == 403
    assert ended(2, "write:rain approve:other") == 200
    assert ended(1, "write:rain") == 403, "loaded without a plan"
    assert ended(1, "write:rain approve:rain") == 200


def test_the_end_of_a_version_takes_an_approval_while_a_rollout_waits_for_one(door):
    ask = door()
    assert ask("deploy:rain", "POST", "endpoints", {"name": "rain", "version": "rain/1"})[0] == 201
    path = "models/rain/versions/1/deprecation"
    assert ask("write:rain", "PUT", path, SUNSET)[0] == 200
    assert ask("write:rain", "DELETE", path)[0] == 200
    waiting = {"version": "rain/2", "strategy": "all", "needs_approval": True}
    assert ask("deploy:rain", "POST", "deployments", waiting)[0] == 201

    assert ask("write:rain", "PUT", path, SUNSET)[0] == 403


@pytest.mark.parametrize("to", [{}, {"to": 1}])
def test_the_return_to_the_last_good_version_takes_no_approval_and_a_second_one_does(door, to):
    ask = door(needs_approval=True)
    both = "deploy:rain approve:rain"
    for version in ("rain/1", "rain/2"):
        body = {"name": "rain", "version": version}
        assert ask(both, "POST", "endpoints", body)[0] == 201
    reason = {"reason": "errors since 14:00"}

    status, said = ask("deploy:rain", "POST", "endpoints/rain/rollback", {**reason, **to})

    assert (status, said["plan"]["arms"][0]["version"]) == (201, "rain/1")
    # From here the last good version would be the one that was left, or one still older.
    assert ask("deploy:rain", "POST", "endpoints/rain/rollback", {**reason, "to": 2})[0] == 403
    assert ask(both, "POST", "endpoints/rain/rollback", {**reason, "to": 2})[0] == 201


def test_a_rollout_that_waits_is_not_overtaken_by_a_deployment_at_once(door):
    ask = door()
    assert ask("deploy:rain", "POST", "endpoints", {"name": "rain", "version": "rain/1"})[0] == 201
    waiting = {"version": "rain/2", "strategy": "all", "needs_approval": True}
    assert ask("deploy:rain", "POST", "deployments", waiting)[1]["deployed"] is None
    at_once = {"version": "rain/2", "strategy": "all"}

    assert ask("deploy:rain", "POST", "deployments", at_once)[0] == 403
    assert ask("deploy:rain approve:rain", "POST", "deployments", at_once)[0] == 201


@pytest.mark.parametrize(
    "asked",
    [
        {**CANARY, "steps_percent": [100.0]},
        {**CANARY, "steps_percent": [51.0, 100.0]},
        {**CANARY, "strategy": "ab", "guards": ["accuracy -2 pp"], "steps_percent": [99.0]},
    ],
)
def test_before_the_approval_a_candidate_answers_half_of_the_requests_at_most(door, asked):
    ask = door(needs_approval=True)
    both = "deploy:rain approve:rain"
    assert ask(both, "POST", "endpoints", {"name": "rain", "version": "rain/1"})[0] == 201

    status, said = ask("deploy:rain", "POST", "rollouts", asked)

    assert (status, "50 %" in said["error"] or "accuracy" in said["error"]) == (400, True), said


def test_who_may_approve_alone_promotes(door):
    """The role approver has no right to deploy: four eyes take two people."""
    ask = door()
    assert ask("deploy:rain", "POST", "endpoints", {"name": "rain", "version": "rain/1"})[0] == 201
    waiting = {"version": "rain/2", "strategy": "all", "needs_approval": True}
    rollout = ask("deploy:rain", "POST", "rollouts", waiting)[1]["rollout"]["id"]

    status, said = ask("read:rain approve:rain", "POST", f"rollouts/{rollout}/promote", {})

    assert (status, said["state"]["type"]) == (200, "promoted")
