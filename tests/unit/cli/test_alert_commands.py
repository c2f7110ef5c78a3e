"""`bascule alerts`: in the home, and over the control API of a server."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from tests.browsers import served as serving
from tests.controls import control_app
from tests.receivers import hook
from tests.stores import open_database

from bascule.catalogue import Leases, Requests
from bascule.monitoring.alerts import AlertStore, Finding, Observation, Routing, Rules

NOW = datetime.now(UTC)
FOUND = Finding(
    "health", "error_share", "late", "critical", "30 of 100 requests failed", 0.3, 0.01, NOW, "1",
    place="one", evidence="bascule top",
)  # fmt: skip


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("BASCULE_HOME", str(tmp_path))
    monkeypatch.setattr("bascule.cli.context.user", lambda: "ada")
    catalogue = open_database(tmp_path, "sqlite")
    catalogue.create()
    lease = Leases(catalogue).acquire("alerts", "test", 60)
    made = AlertStore(catalogue)
    look = Observation("health", "one", "late", (FOUND,))
    made.take(lease, [look], Rules(), Routing(), {}, NOW)
    return made


@pytest.fixture
def served(store):
    """The address of a control API over the same alerts."""
    requests = Requests(store._catalogue)
    app = control_app(None, None, None, open_alerts=lambda: store, open_requests=lambda: requests)
    with serving(app) as url:
        yield url


def test_a_home_without_alerts_has_none(command, tmp_path, monkeypatch):
    monkeypatch.setenv("BASCULE_HOME", str(tmp_path / "home"))
    assert command("alerts", "list") == (0, "no alerts\n", "")
    assert not (tmp_path / "home").exists()


def test_an_alert_that_fires_is_listed_with_its_sentence_and_exit_code_1(command, store):
    code, out, _ = command("alerts", "list")
    assert code == 1
    assert FOUND.id in out
    assert "30 of 100 requests failed" in out
    code, out, _ = command("alerts", "list", "--json", "--model", "late")
    (alert,) = json.loads(out)["alerts"]
    assert (alert["state"], alert["value"], alert["evidence"]) == ("firing", 0.3, "bascule top")
    assert command("alerts", "list", "--model", "other")[:2] == (0, "no alerts\n")


@pytest.fixture(params=["home", "server"])
def alerts(request, command, store):
    words = ["alerts"]
    if request.param == "server":
        words = ["--server", request.getfixturevalue("served"), "alerts"]
    return lambda *rest: command(*words, *rest)


def test_an_alert_is_acknowledged_by_a_person_for_a_reason(alerts, store):
    code, out, _ = alerts("ack", FOUND.id, "--why", "rolling back")
    assert (code, out) == (0, f"acknowledged {FOUND.id}: 30 of 100 requests failed\n")
    noted = store.find(FOUND.id).acknowledgement
    assert (noted.by, noted.why) == ("ada", "rolling back")
    assert "acknowledged by ada" in " ".join(alerts("list")[1].split())


def test_an_alert_that_is_not_there_is_named(alerts):
    code, _, err = alerts("ack", "0123", "--why", "rolling back")
    assert code != 0
    assert "no alert has the id '0123'" in err


def test_a_silence_is_made_listed_and_ended(alerts, store):
    code, out, _ = alerts("silence", "--alert", FOUND.id, "--for", "2h", "--why", "planned")
    assert code == 0
    (made,) = store.silences(NOW)
    assert made.id in out
    assert (made.model, made.alert, made.by, made.why) == ("late", FOUND.id, "ada", "planned")
    assert round((made.until - made.created_at).total_seconds() / 3_600, 1) == 2.0
    _, out, err = alerts("list")
    assert "silenced" in out
    assert "planned" in err
    assert alerts("unsilence", made.id)[:2] == (0, f"ended silence {made.id}\n")
    assert store.silences(datetime.now(UTC)) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("silence", "--why", "planned"), "name --alert or --model"),
        (("silence", "--model", "late", "--for", "soon", "--why", "planned"), "--for 'soon'"),
        (("silence", "--model", "late", "--for", "0", "--why", "planned"), "is past"),
        (("test",), "there are no receivers"),
        (("test", "pager"), "there is no receiver 'pager'"),
    ],
)
def test_a_wrong_option_is_named(command, store, words, said):
    code, _, err = command("alerts", *words)
    assert code == 2
    assert said in " ".join(err.split())


def test_receivers_are_tried_and_the_one_that_is_away_is_named(command, store, monkeypatch):
    with hook() as there, hook() as away:
        away.answers = [(401, {})]
        receivers = {"here": {"url": there.url}, "gone": {"kind": "slack", "url": away.url}}
        monkeypatch.setenv("BASCULE_ALERTS__RECEIVERS", json.dumps(receivers))
        code, out, _ = command("alerts", "test")
    assert code == 1
    assert out == "here: taken\ngone: receiver gone: answered 401\n"
    assert "nothing is wrong" in there.bodies[0]["alerts"][0]["sentence"]


def test_files_for_prometheus_and_grafana_are_printed(command):
    assert "alert: BasculeErrors" in command("alerts", "rules")[1]
    assert json.loads(command("alerts", "dashboard")[1])["title"] == "Bascule"
