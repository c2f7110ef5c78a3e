"""Usage over the control API and in the console, and projects as rights over both."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from tests.console_work import looking
from tests.ledger_rows import Answers, spool
from tests.unit.control.signed_in import site_of

from bascule.app import open_catalogue, open_keys, open_registry, terms_of
from bascule.core import Invalid
from bascule.endpoints import EndpointStore
from bascule.security import Permission, permissions_of_role
from bascule.settings import load_settings

TOML = """
[projects]
fraud = ["fraud-*", "chargeback"]
[usage]
price_per_1000_rows = {"*" = 1000.0}
"""


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "bascule.toml").write_text(TOML)
    made = load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})
    now = datetime.now(UTC)
    spool(
        made.home, Answers("ab", model="fraud-cards", caller="", at=now),
        Answers("cde", model="late", caller="", at=now),
    )  # fmt: skip
    return made


@pytest.fixture
def site(settings, tmp_path):
    """A control API that asks for keys, with the projects of the settings."""
    catalogue = open_catalogue(settings)
    catalogue.create()
    return site_of(
        tmp_path, open_registry(settings), catalogue, projects=settings.projects,
        home=settings.home, usage=terms_of(settings), open_keys=lambda: open_keys(settings),
        open_endpoints=lambda: EndpointStore(catalogue),
    )  # fmt: skip


def test_usage_is_answered_as_figures_and_as_a_table_and_shown_on_a_page(settings):
    with looking(settings, usage=terms_of(settings)) as pages:
        read = pages.get("/api/v1/usage?by=project").json()
        assert {line["name"]: line["cost"] for line in read["lines"]} == {
            "fraud": 2.0, "without a project": 3.0,
        }  # fmt: skip
        table = pages.get("/api/v1/usage/export?by=model&project=fraud")
        assert table.headers["content-type"].startswith("text/csv")
        assert len(table.text.splitlines()) == 2
        page = pages.get("/usage?by=model&project=fraud").text
        assert "fraud-cards" in page
        assert "late" not in page.partition("<main")[2]
        assert "cost, EUR" in page
        assert pages.get("/usage?project=other").status_code == 400
        assert pages.get("/usage?by=day").status_code == 400
        assert pages.get("/api/v1/usage?since=0001-01-01").status_code == 400
        assert pages.get("/api/v1/usage?until=9999-12-31").status_code == 200


def test_where_no_rows_are_kept_the_page_says_so(tmp_path):
    variables = {"BASCULE_HOME": str(tmp_path / "home"), "BASCULE_MONITORING__LEDGER": "profiles"}
    settings = load_settings(tmp_path, variables)
    with looking(settings, usage=terms_of(settings)) as pages:
        assert pages.get("/api/v1/usage").json()["total"] is None
        page = pages.get("/usage").text
    assert "Usage is not recorded" in page
    assert "Download CSV" not in page


def test_a_key_sees_the_usage_of_the_models_that_it_may_read(site):
    read = site.with_key("read:project=fraud").get("/api/v1/usage?by=model").json()
    assert ([line["id"] for line in read["lines"]], read["total"]["requests"]) == (
        ["fraud-cards"], 2,
    )  # fmt: skip
    assert site.client().get("/api/v1/usage").status_code == 401


def test_a_project_opens_its_models_to_a_key_to_its_session_and_to_people(site):
    maker = site.with_key("read:project=fraud")
    by_link = site.by_link(maker, roles=["viewer:project=fraud"])
    for caller in (maker, by_link, site.signed_in("viewer:project=fraud")):
        assert caller.get("/api/v1/models/fraud-x").status_code == 404
        assert caller.get("/api/v1/models/late").status_code == 403
        assert caller.get("/api/v1/models").status_code == 403
    more = maker.post("/api/v1/sign-in-links", json={"roles": ["operator:project=fraud"]})
    assert more.status_code == 403
    unknown = maker.post("/api/v1/sign-in-links", json={"roles": ["viewer:project=no"]})
    assert (unknown.status_code, "no project" in unknown.text) == (400, True)


def test_a_project_that_is_gone_allows_nothing(site, settings, tmp_path):
    site.keys.create("web", permissions_of_role("viewer:project=fraud"), by="root")
    (tmp_path / "bascule.toml").write_text("")
    later = open_keys(load_settings(tmp_path, {"BASCULE_HOME": str(settings.home)}))
    (key,) = later.in_force()
    assert not key.allows("read", "fraud-cards")
    assert [str(one) for one in later.stored()[0].permissions] == ["read:project=fraud"]
    with pytest.raises(Invalid, match="there is no project"):
        later.create("other", [Permission.parse("read:project=fraud")], by="root")


def test_the_command_shows_the_same_usage(settings, monkeypatch, command, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASCULE_HOME", str(settings.home))
    lines = json.loads(command("usage", "--by", "project", "--json")[1])["lines"]
    assert [line["requests"] for line in lines] == [3, 2]
    table = command("usage", "--csv", "--since", "1d")[1]
    assert table.splitlines()[1].split(",")[1:4] == ["", "without a key", "5"]
    assert "without a key" in command("usage")[1]
    code, _, message = command("usage", "--by", "day")
    assert (code, "caller, model or project" in message) == (2, True)
