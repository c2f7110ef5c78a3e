"""What a page offers, the session may do: no button, form or link of the console leads to a 403."""

import html
import re
import shutil
from datetime import UTC, datetime
from functools import partial
from urllib.parse import urldefrag

import pytest
from tests.console_work import fire, one_home
from tests.consoles import CountedServer, roll_out
from tests.homes import finished, inline_jobs
from tests.tiers import first_of
from tests.unit.control.signed_in import COOKIE, site_of

from bascule.app import open_alerts, open_catalogue, open_registry, rollout_defaults
from bascule.console.site import add_console
from bascule.console.table import PAGES
from bascule.endpoints import EndpointStore
from bascule.jobs import Schedule, Schedules, Task
from bascule.monitoring import Ledger
from bascule.registry import CatalogueKeys
from bascule.registry.stores import Records
from bascule.security import csrf_of
from bascule.settings import load_settings

FORM = re.compile(r'<form method="post" action="([^"]+)"')
LINK = re.compile(r'<a [^>]*?href="(/[^"]*)"')
REFUSED = "ask an administrator"
ELSEWHERE = ("/sign-out", "/docs", "/health", "/api/", "/console/")
ROLES = [
    "viewer:late", "approver:late", "operator:late", "viewer:*", "operator:other viewer:*",
    "operator:*", "admin:*",
]  # fmt: skip


@pytest.fixture(scope="module")
def first_home(tmp_path_factory):
    """A home with a rollout, an alert, a schedule, a batch job that failed, and predictions."""
    settings = one_home(tmp_path_factory.mktemp("buttons"))
    fire(settings)
    catalogue = open_catalogue(settings)
    roll_out(settings, CountedServer(settings), "late/2")
    job = {"model": "late", "from": "nothing.parquet", "to": "scored.parquet"}
    now = datetime.now(UTC)
    schedule = Schedule(name="nightly", cron="0 2 * * *", job=job, created_at=now)
    Schedules(catalogue).add(schedule, by="ada")
    return settings


@pytest.fixture
def settings(first_home, tmp_path):
    shutil.copytree(first_home.home, tmp_path / "home")
    return load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})


@pytest.fixture
def jobs(settings):
    return inline_jobs(settings)


@pytest.fixture
def site(settings, jobs, tmp_path):
    catalogue = open_catalogue(settings)
    (tmp_path / "site").mkdir()
    made = site_of(
        tmp_path / "site", open_registry(settings), catalogue, jobs=jobs, home=settings.home,
        open_keys=lambda: CatalogueKeys(Records(catalogue)),
        open_endpoints=lambda: EndpointStore(catalogue),
        open_alerts=partial(open_alerts, settings), rollout_defaults=rollout_defaults(settings),
    )  # fmt: skip
    add_console(made.app)
    made.app.state.before_end()
    made.with_key("infer:late")
    return made


def places_of(settings, jobs):
    """The pages that are looked at, with those of things that exist."""
    (row,) = Ledger(settings.home).query("SELECT id FROM predictions LIMIT 1").to_pylist()
    job = jobs.submit(Task(kind="monitor", input={"model": "late", "since_s": 60.0}, by="ada"))
    finished(jobs)
    return [
        *(page.path for page in PAGES if page.name),
        "/endpoints/late", "/models/late", "/models/late/1", "/models/late/2/compare",
        "/monitoring/late", "/try/late",
        f"/ledger?id={row['id']}", "/deploy?version=late/2", "/jobs", f"/jobs/{job.id}", "/score",
    ]  # fmt: skip


@pytest.mark.parametrize("roles", first_of(ROLES, 1))
def test_no_button_of_a_page_leads_to_a_refusal(site, settings, jobs, roles):
    places = places_of(settings, jobs)
    with site.signed_in(*roles.split()) as browser:
        pages = {place: browser.get(place) for place in places}
        finished(jobs)
        seen = {place: page.text for place, page in pages.items() if page.status_code < 400}
        assert "/" in seen
        links, forms = set(), set()
        for text in seen.values():
            links |= {urldefrag(html.unescape(path))[0] for path in LINK.findall(text)}
            forms |= {html.unescape(path) for path in FORM.findall(text)}
        for path in {kind_of(path): path for path in sorted(links)}.values():
            if not path.startswith(ELSEWHERE):
                answer = browser.get(path)
                assert answer.status_code != 403, (path, [p for p in seen if path in seen[p]])
                assert REFUSED not in answer.text, path
        form = {"csrf": csrf_of(browser.cookies[COOKIE])}
        for path in sorted(forms):
            if not path.startswith(ELSEWHERE):
                answer = browser.post(path, data=form)
                assert answer.status_code != 403, path
                if "location" in answer.headers:
                    answer = browser.get(answer.headers["location"])
                assert REFUSED not in answer.text, path
        assert expected_of(roles) <= {
            re.sub(r"[0-9a-f]{12,}|late-\S+?(?=/)", "ID", f) for f in forms
        }


def kind_of(path):
    """The same for links that need the same right: of a number, day, id or kind of document."""
    return re.sub(r"(?<=/documents/).*|[0-9a-f]{12,}|\d+", "N", path)


def expected_of(roles):
    """Forms that must be there, so that hiding all of them is no way to pass."""
    of_operator = {
        "/monitoring/late/silences?days=7", "/monitoring/late/truths?days=7",
        "/batch/runs#start", "/deploy/models", "/ledger/ask",
        "/batch/schedules/nightly/pause", "/endpoints/late/rollouts/ID/abort",
    }  # fmt: skip
    return {
        "approver:late": {"/endpoints/late/rollouts/ID/promote"},
        "operator:late": of_operator - {"/batch/schedules/nightly/pause", "/batch/runs#start"},
        "operator:*": of_operator,
        "admin:*": of_operator | {"/settings/keys", "/endpoints/late/rollouts/ID/promote"},
    }.get(roles, set())
