"""How an endpoint answers is changed without another version: assignment, fallback, breaker."""

from __future__ import annotations

import json
import re
import shutil
import socket
import threading
import time
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from tests.scenarios.commands import run
from tests.shelf_store import declare

from bascule.app import open_endpoints, open_registry
from bascule.control import Served
from bascule.core import Conflict, Invalid, NotFound, Refused
from bascule.endpoints import Arm, BreakerRule, CallLimits, DeployRequest, Plan, PlanChanges
from bascule.endpoints.changes import changed, differences
from bascule.settings import load_settings

PLAN = Plan("late", 2, (Arm("current", "late/3", 95.0), Arm("candidate", "late/4", 5.0)))


# -- deciding --


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sticky_header": "x-user"}, "requests with the same header x-user get the same arm"),
        (
            {"sticky_field": "age"},
            "requests with the same header bascule-sticky, else input age get the same arm",
        ),
        ({"sticky_header": ""}, "each request gets an arm by chance"),
        ({"fallback": "late/2"}, "late/2 answers where an arm fails"),
        ({"breaker": BreakerRule(5, 30.0)}, "5 failures in a row open the breaker of an arm for "),
        ({"breaker": BreakerRule(1)}, "1 failure opens the breaker of an arm for 10 s"),
        ({"breaker": BreakerRule(0)}, "arms have no breaker"),
        ({"limits": CallLimits(0.2, 5.0)}, "a call may take 0.2 s, and 5 % may be tried once more"),
    ],
)
def test_a_change_makes_the_next_plan_and_says_what_is_different(changes, said):
    plan = changed(PLAN, PlanChanges(**changes))
    assert (plan.number, plan.arms) == (3, PLAN.arms)
    assert replace(plan, **{name: getattr(PLAN, name) for name in changes}).numbered(2) == PLAN
    (sentence,) = differences(PLAN, plan)
    assert sentence.startswith(said)


def test_what_is_set_is_given_back_to_the_settings():
    before = replace(PLAN, fallback="late/2", breaker=BreakerRule(5), limits=CallLimits(1.0))
    plan = changed(before, PlanChanges(fallback="", breaker=None, limits=None))
    assert plan == PLAN.numbered(3)
    assert len([*differences(before, plan)]) == 3


def test_a_change_of_nothing_is_refused():
    for changes in (PlanChanges(), PlanChanges(sticky_header="bascule-sticky", breaker=None)):
        with pytest.raises(Conflict, match="plan 2 of endpoint late says that already"):
            changed(PLAN, changes)


def test_the_plan_of_a_rollout_is_not_changed():
    with pytest.raises(Conflict, match=r"rollout under way.*late-1"):
        changed(replace(PLAN, rollout="late-1"), PlanChanges(fallback="late/2"))


def test_the_only_version_is_not_its_own_fallback():
    alone = Plan("late", 1, (Arm("current", "late/3", 100.0),))
    with pytest.raises(Invalid, match="late/3 is the version that answers"):
        changed(alone, PlanChanges(fallback="late/3"))
    assert changed(PLAN, PlanChanges(fallback="late/3")).fallback == "late/3"


# -- in a catalogue --


@pytest.fixture(scope="module")
def bundles(packed):
    X = np.arange(20.0).reshape(10, 2)
    models = [LinearRegression(fit_intercept=fit).fit(X, X[:, 0]) for fit in (True, False)]
    wide = LinearRegression().fit(np.c_[X, X], X[:, 0])
    return [*(packed("rain", one, X) for one in models), packed("snow", wide, np.c_[X, X])]


@pytest.fixture
def home(bundles, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    registry = open_registry(settings_of(tmp_path))
    for path in bundles:
        registry.push(path, by="ada")
    return tmp_path / "home"


def settings_of(folder):
    # Nothing answers on that port: what a machine serves is not asked of a server of another.
    said = {"BASCULE_HOME": str(folder / "home"), "BASCULE_SERVING__CONTROL_PORT": "1"}
    return load_settings(folder, said)


@pytest.fixture
def command(home):
    def command(*words):
        return run(home, *words, BASCULE_SERVING__CONTROL_PORT="1")

    return command


def test_a_deployment_without_a_terminal_takes_yes(command, home):
    code, said, error = command("deploy", "rain/2")

    assert (code, said) == (2, "")
    assert "there is no terminal to confirm the deployment on" in error
    assert "--yes" in error
    assert open_endpoints(settings_of(home.parent)).endpoints() == []
    assert "would deploy rain/2" in command("deploy", "rain/2", "--dry-run")[1]
    assert command("deploy", "rain/2", "--json")[0] == 0, "a program reads the answer"


def test_a_version_that_was_rolled_back_here_is_deployed_again_with_a_note(command, home):
    assert command("deploy", "rain/1", "--yes")[0] == 0
    assert command("deploy", "rain/2", "--strategy", "canary", "--yes")[0] == 0
    assert command("rollout", "abort", "rain", "--reason", "too slow")[0] == 0

    notes = [command("deploy", version, "--dry-run")[2] for version in ("rain/2", "rain/1")]

    assert re.search(r"before, on 20\d\d-\S+ \S+ UTC: aborted by \S+: too slow", notes[0])
    assert "before" not in notes[1]


def test_endpoints_set_makes_the_next_plan_and_history_tells_it(command, home):
    assert command("deploy", "rain/2", "--yes")[0] == 0
    words = (
        "--fallback", "rain/1", "--breaker", "5:30s", "--timeout", "200ms",
        "--sticky", "header:X-User", "--sticky", "field:input", "--reason", "for the night",
    )  # fmt: skip
    code, said, _ = command("endpoints", "set", "rain", *words, "--dry-run")
    assert (code, said.startswith("would change rain: requests with the same header x-user")) == (
        0, True,
    )  # fmt: skip
    code, said, _ = command("endpoints", "set", "rain", *words, "--json")
    plan = json.loads(said)["plan"]
    assert (code, plan["number"], plan["fallback"]) == (0, 2, "rain/1")
    assert (plan["sticky_header"], plan["sticky_field"]) == ("x-user", "input")
    assert plan["breaker"] == {"failures": 5, "open_s": 30.0}
    assert plan["limits"] == {"timeout_s": 0.2, "retry_percent": 0.0}
    assert "for the night" in command("endpoints", "rain")[1]

    assert command("endpoints", "set", "rain", "--retry", "5")[0] == 0, "the time-out stays"
    assert command("endpoints", "set", "rain", "--sticky", "none", "--fallback", "none")[0] == 0
    assert command("endpoints", "set", "rain", "--breaker=default", "--timeout=default")[0] == 0
    plan = json.loads(command("endpoints", "rain", "--json")[1])["plans"][0]["plan"]
    assert (plan["number"], plan["sticky_header"], plan["fallback"]) == (5, "", "")
    assert "breaker" not in plan
    assert "limits" not in plan

    # A version that the plan needs as its fallback stays in use.
    assert command("endpoints", "set", "rain", "--fallback", "rain/1")[0] == 0
    code, _, said = command("retire", "rain/1", "--reason", "old")
    assert (code, "plan 6 of endpoint rain needs it (its fallback)" in said) == (1, True)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "nothing to change"),
        (("--sticky", "user"), 2, "'user' is neither header:NAME nor field:INPUT nor none"),
        (("--sticky", "field:age"), 2, "rain/2 has no input 'age' hint: its inputs are input"),
        (("--sticky", "header:a b"), 2, "plan.sticky_header: 'a b'"),
        (
            ("--breaker", "often"),
            2,
            "--breaker: 'often' is not FAILURES[:OPEN] hint: write 5",
        ),
        (("--breaker", "5:soon"), 2, "--breaker 'soon' is not a length of time"),
        (("--timeout", "2h"), 2, "plan.limits.timeout_s: 7200.0"),
        (("--retry", "101"), 2, "plan.limits.retry_percent: 101.0"),
        (("--fallback", "rain/9"), 3, "no version 9 of model 'rain'"),
        (("--fallback", "snow/1"), 1, "of endpoint rain: input: shape [4] in place of [2]"),
    ],
)
def test_a_change_that_cannot_be_is_refused_with_its_option(command, words, code, said):
    assert command("deploy", "rain/2", "--yes")[0] == 0
    found, _, error = command("endpoints", "set", "rain", *words)
    assert (found, said in " ".join(error.split())) == (code, True), error


@pytest.fixture(scope="module")
def winds(packed):
    rows = pd.DataFrame({"dry": np.arange(20.0), "wet": np.arange(20.0) % 3})
    models = LinearRegression(), make_pipeline(SimpleImputer(), LinearRegression())
    return [packed("wind", model.fit(rows, np.arange(20.0)), rows) for model in models]


@pytest.fixture
def picky(winds, tmp_path, monkeypatch):
    """Endpoints, and two versions of `wind`: the first needs every value, the second none."""
    monkeypatch.chdir(tmp_path)
    registry = open_registry(settings_of(tmp_path))
    for path in winds:
        registry.push(path, by="ada")
    return open_endpoints(settings_of(tmp_path))


def deploy(book, version, **more):
    return book.deploy(DeployRequest(version=version, **more), by="ada")


def test_a_version_that_also_takes_missing_values_replaces_one_that_does_not_and_back(picky):
    deploy(picky, "wind/1")
    made = deploy(picky, "wind/2", strategy="blue-green")
    assert [arm.version for arm in made.plan.arms] == ["wind/2", "wind/1"]
    picky.change("wind", PlanChanges(fallback="wind/1"), by="ada", reason="")
    assert picky.roll_back("wind", by="ada", reason="slow").plan.current.version == "wind/1"


def test_a_version_that_takes_no_missing_values_does_not_replace_one_that_does(picky):
    deploy(picky, "wind/2")
    with pytest.raises(Refused, match=r"wind/1 needs a value of dry in every request") as refused:
        deploy(picky, "wind/1")
    assert "requests without dry would fail" in refused.value.message
    assert "--to NAME" in refused.value.hint
    assert deploy(picky, "wind/1", endpoint="calm").plan.endpoint == "calm"


def test_a_version_whose_inputs_are_looked_up_does_not_replace_one_that_is_sent_them(
    picky, packed, tmp_path
):
    """Servers with a feature store would not follow such a plan."""
    registry = open_registry(settings_of(tmp_path))
    path = shutil.copytree(registry.path("wind/2"), tmp_path / "wind.bundle")
    declare(path, {"source": "all", "keys": {"place": "BYTES"}, "max_age_s": {"dry": 0.0}})
    registry.push(path, by="ada")
    deploy(picky, "wind/2")
    with pytest.raises(Refused, match="wind/3 has other inputs or outputs than wind/2"):
        deploy(picky, "wind/3")
    assert deploy(picky, "wind/3", endpoint="calm").plan.endpoint == "calm"


def test_a_name_that_nothing_answers_has_nothing_to_change(home, tmp_path):
    book = open_endpoints(settings_of(tmp_path))
    with pytest.raises(NotFound, match="no endpoint 'rain' has a plan"):
        book.change("rain", PlanChanges(fallback="rain/1"), by="ada", reason="")


def test_a_retired_version_is_no_fallback(home, tmp_path, command):
    assert command("deploy", "rain/2", "--yes")[0] == 0
    assert command("retire", "rain/1", "--reason", "old")[0] == 0
    with pytest.raises(Refused, match="retired"):
        open_endpoints(settings_of(tmp_path)).change(
            "rain", PlanChanges(fallback="rain/1"), by="ada", reason=""
        )


def test_a_version_that_a_schedule_scores_with_is_not_retired(home, tmp_path, command):
    job = tmp_path / "JOB.toml"
    job.write_text('model = "rain/1"\nfrom = "in.csv"\nto = "out"\n')
    add = ("schedule", "add", "nightly", "--cron", "0 2 * * *", "--job", str(job))
    assert command(*add)[0] == 0
    for change, note in ((), ""), (("schedule", "pause", "nightly"), " (paused)"):
        assert not change or command(*change)[0] == 0
        code, _, said = command("retire", "rain/1", "--reason", "old")
        said = " ".join(said.split())
        assert (code, f"schedule nightly{note} scores with it" in said) == (1, True), said
    assert command("schedule", "remove", "nightly")[0] == 0
    assert command("retire", "rain/1", "--reason", "old")[0] == 0


def test_a_server_that_starts_just_now_is_waited_for(home, tmp_path):
    """It listens from the first, and answers once its control process runs."""
    served = Served("rain", "1", is_default=True, loaded_in=1, size_bytes=10)
    page = json.dumps({"items": [asdict(served)], "next": None}).encode()
    answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(page), page)
    )

    def start(listener):
        time.sleep(2.5)  # what a start takes
        client, _ = listener.accept()
        with client:
            client.recv(1 << 16)
            client.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        said = {
            "BASCULE_HOME": str(tmp_path / "home"), "BASCULE_SERVING__CONTROL_PORT": str(port)
        }  # fmt: skip
        starting = threading.Thread(target=start, args=(listener,), daemon=True)
        starting.start()
        made = open_endpoints(load_settings(tmp_path, said)).deploy("rain/2", by="ada")
        starting.join()
    assert made.before is not None
    assert made.before.current.version == "rain/1"
