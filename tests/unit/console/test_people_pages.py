"""The pages of history and settings: what they show to whom, and what their forms do."""

from datetime import UTC, datetime, timedelta

import pytest
from tests.unit.control.signed_in import COOKIE, site_of

from bascule.app import open_catalogue, open_registry
from bascule.console.pages.history import PAGE, Filters, more_of, path_of
from bascule.console.pages.settings import roles_in_words, settings_sections
from bascule.console.site import add_console
from bascule.control import SettingsShown
from bascule.control.history import Act
from bascule.jobs import Schedule, Schedules
from bascule.monitoring.alerts.sinks import Receiver
from bascule.registry import CatalogueKeys
from bascule.registry.stores import Records
from bascule.security import csrf_of
from bascule.settings import load_settings

T0 = datetime(2026, 5, 4, 12, tzinfo=UTC)


def act(number, about="model", name="late"):
    at = T0 + timedelta(minutes=number)
    return Act(number, at, "ada", about, name, "pushed", f"late/{number} pushed", "", {})


def test_a_page_of_the_history_leads_to_the_next_under_the_same_filter():
    acts = [act(number) for number in range(PAGE + 1, 0, -1)]

    assert more_of(acts, Filters(by=" a&b ")) == "/history?by=a%26b&after=2"


def test_the_last_page_of_the_history_leads_nowhere():
    assert more_of([act(1)], Filters()) == ""


def test_acts_on_models_and_endpoints_lead_to_their_pages():
    acts = [act(3), act(2, "endpoint", "a/b"), act(1, "schedule", "nightly")]

    assert [path_of(one) for one in acts] == ["/models/late", "/endpoints/a%2Fb", ""]


def test_settings_are_told_in_words_and_secrets_are_not_among_them():
    shown = settings_sections(
        {"": {"home": "/srv"}, "serving": {"workers": 2, "multi_model": False, "models": {}},
         "rollouts": {"guards": ["errors +1 pp"]}}
    )  # fmt: skip

    assert shown[""] == {"home": "/srv"}
    assert shown["serving"] == {"workers": "2", "multi_model": "no", "models": "-"}
    assert shown["rollouts"] == {"guards": "errors +1 pp"}
    assert roles_in_words()["approver"] == "approve, read"


@pytest.fixture(scope="module")
def site(tmp_path_factory, cancer_bundle):
    settings = load_settings(environ={"BASCULE_HOME": str(tmp_path_factory.mktemp("home"))})
    open_registry(settings).push(cancer_bundle, by="root")
    catalogue = open_catalogue(settings)
    job = {"model": "gb/1", "source": "in.csv", "sink": "out"}
    Schedules(catalogue).add(
        Schedule(name="nightly", cron="0 3 * * *", job=job, created_at=T0), by="ada"
    )
    pager = Receiver(
        name="pager", kind="webhook", url="http://127.0.0.1:1/secret-path", timeout_s=1.0
    )
    made = site_of(
        tmp_path_factory.mktemp("site"), open_registry(settings), catalogue,
        open_keys=lambda: CatalogueKeys(Records(catalogue)),
        shown=SettingsShown({"": {"home": "/srv"}}, lambda: [pager]),
    )  # fmt: skip
    add_console(made.app)
    return made


def form(browser, **fields):
    return {"data": {"csrf": csrf_of(browser.cookies[COOKIE]), **fields}}


def test_a_key_is_shown_once_and_can_be_revoked(site):
    with site.signed_in("admin") as browser:
        made = browser.post(
            "/settings/keys", **form(browser, name="ci", allow="operator:gb, infer:late")
        )
        listed = browser.get("/settings").text
        key = next(one for one in browser.get("/api/v1/keys").json()["items"])
        ended = browser.post(f"/settings/keys/{key['id']}/revoke", **form(browser))

        assert "bsc_" in made.text
        assert made.headers["cache-control"] == "no-store"
        assert "bsc_" not in listed
        assert "operator:gb" in listed
        assert (ended.status_code, ended.headers["location"]) == (303, "/settings")
        assert browser.get("/api/v1/keys").json()["items"][0]["state"] == "revoked"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "x", "allow": ""}, "allow nothing"),
        ({"name": "x", "allow": "owner:late"}, "owner"),
        ({"name": "x", "allow": "viewer:*", "lasts": "soon"}, "lasts"),
    ],
)
def test_a_key_that_cannot_be_is_refused_with_the_field(site, fields, said):
    with site.signed_in("admin") as browser:
        answer = browser.post("/settings/keys", **form(browser, **fields))
        shown = answer.text if answer.status_code != 303 else browser.get("/settings").text
    assert said in shown


def test_who_may_not_see_keys_sees_neither_keys_nor_sessions(site):
    with site.signed_in("viewer:*") as browser:
        page, history = browser.get("/settings").text, browser.get("/history?by=ada").text
    assert 'href="/history/export?by=ada&amp;format=csv"' in history
    assert "Make a key" not in page
    assert "Sessions that hold" not in page
    assert 'value="sign_in_link"' not in history
    assert "nightly" in page


def test_the_trial_of_a_receiver_says_why_it_was_not_taken_and_no_secret(site):
    with site.signed_in("operator:*") as browser:
        sent = browser.post("/settings/receivers/pager/test", **form(browser))
        page = browser.get("/settings").text
    assert sent.status_code == 303
    assert "receiver pager" in page
    assert "secret-path" not in page


def test_the_history_is_filtered_by_its_address_and_a_wrong_day_is_told(site):
    with site.signed_in("viewer:*") as browser:
        models = browser.get("/history?about=model").text
        wrong = browser.get("/history?since=yesterday")
        table = browser.get("/history/export?about=model").text
    assert "gb/1 pushed" in models
    assert "schedule added" not in models
    assert (wrong.status_code, "since" in wrong.text) == (400, True)
    assert len(table.splitlines()) == 2


def test_a_page_without_a_session_leads_to_signing_in_and_back(site):
    asked = site.client().get("/history?by=ada")
    part = site.client().get("/history", headers={"HX-Request": "true"})

    assert asked.headers["location"] == "/sign-in?next=/history%3Fby%3Dada"
    assert (part.status_code, part.headers["hx-redirect"]) == (401, "/sign-in?next=/")
