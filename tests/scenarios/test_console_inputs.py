"""Markup and hostile values in everything that the console shows of production, or takes in."""

import io
import tarfile
import zipfile
from datetime import UTC, datetime

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from tests.console_work import finished, looking, token_of
from tests.ledger_rows import Answers, spool

from bascule.app import open_alerts, open_catalogue, open_registry
from bascule.batch import Status
from bascule.catalogue import Leases
from bascule.core import Invalid
from bascule.jobs import Jobs, Schedule, Schedules, Task
from bascule.monitoring.alerts import Finding, Observation, Routing, Rules
from bascule.settings import load_settings

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}"
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def bundle(packed):
    X = np.arange(40.0).reshape(20, 2)
    return packed("rain", LinearRegression().fit(X, X[:, 0]), X)


@pytest.fixture
def settings(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})
    open_registry(made).push(bundle, by=EVIL)
    return made


@pytest.fixture
def pages(settings):
    with looking(settings) as client:
        yield client


def assert_is_text(page):
    """Nothing that was put in is markup, and it is shown."""
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "{{7*7}}" in page, "shown as it is, and not evaluated"


def test_the_sentence_and_the_reasons_of_alerts_are_text(settings, pages):
    finding = Finding("drift", EVIL, "rain", "warning", EVIL, 1.0, 0.5, NOW, version=EVIL,
                      column=EVIL, place=EVIL, evidence=EVIL)  # fmt: skip
    catalogue = open_catalogue(settings)
    leases = Leases(catalogue)
    lease = leases.acquire("alerts", "test", 30.0)
    store = open_alerts(settings)
    seen = [Observation("drift", EVIL, "rain", (finding,))]
    store.take(lease, seen, Rules(), Routing(), {}, NOW)
    page = pages.get("/monitoring/rain").text
    assert_is_text(page)
    token = token_of(page)
    path = f"/monitoring/rain/alerts/{finding.id}/acknowledge"
    pages.post(path, data={"csrf": token, "reason": EVIL})
    form = {"csrf": token, "for": "1h", "reason": EVIL, "source": EVIL}
    pages.post("/monitoring/rain/silences", data={**form, "source": ""})
    after = pages.get("/monitoring/rain").text
    assert after.count("&lt;script&gt;alert(1)") > page.count("&lt;script&gt;alert(1)")
    assert_is_text(after)


def test_ids_callers_and_values_of_recorded_predictions_are_text(settings, pages):
    spool(settings.home, Answers([EVIL], model="rain", caller=EVIL))
    assert_is_text(pages.get("/ledger?model=rain").text)
    assert_is_text(pages.get("/ledger", params={"id": EVIL}).text)


@pytest.mark.parametrize(
    "path",
    ["/ledger?id={}", "/ledger?model={}", "/ledger?model=rain&until={}", "/monitoring?q={}",
     "/deploy?version={}", "/try/{}", "/batch/{}", "/score?model={}"],
)  # fmt: skip
def test_what_an_address_says_comes_back_as_text(pages, path):
    from urllib.parse import quote

    answer = pages.get(path.format(quote(EVIL, safe="")))
    assert answer.status_code < 500
    if answer.headers["content-type"] == "application/problem+json":
        return  # of an address without a page; no browser takes it for HTML
    assert "<script>alert" not in answer.text
    assert "<img src=x" not in answer.text


def test_what_runs_and_jobs_say_is_text(settings, pages):
    jobs, run = Jobs(open_catalogue(settings)), "0123456789abcdef"
    content = {"model": EVIL, "from": EVIL, "to": "out/", "where": EVIL, "checks": [EVIL]}
    task = Task(kind="batch", input=content, title=EVIL, by=EVIL, folder="/tmp")
    claim = jobs.start(task)
    status = Status(run=run, model=EVIL, source=EVIL, sink=EVIL, findings=[EVIL])
    jobs.begin(claim, run, progress=status.progress() | {EVIL: EVIL})
    job = jobs.end(claim, "failed", error=Invalid(EVIL, hint=EVIL), log=[EVIL])
    for path in ("/batch", f"/batch/{run}", "/jobs", f"/jobs/{job.id}"):
        assert_is_text(pages.get(path).text)


def test_jobs_and_outcomes_of_schedules_are_text(settings, pages):
    # Braces name a date of the job, and another name is refused.
    model = EVIL.replace("{{7*7}}", "")
    plan = Schedule(name="nightly", cron="0 2 * * *", job={"model": model}, created_at=NOW)
    schedules = Schedules(open_catalogue(settings))
    schedules.add(plan, by=EVIL)
    schedules.ended("nightly", NOW, {"error": EVIL}, by=EVIL)
    assert_is_text(pages.get("/batch").text)


def test_fields_of_a_refused_form_come_back_as_text(pages):
    token = token_of(pages.get("/batch").text)
    form = {"csrf": token, "model": EVIL, "from": EVIL, "to": EVIL, "where": EVIL, "checks": EVIL}
    answer = pages.post("/batch/runs", data=form)
    assert answer.status_code == 422
    assert_is_text(answer.text)


def test_the_values_of_a_scored_file_are_text(pages):
    token = token_of(pages.get("/score").text)
    content = f'a,b,note\n1,2,"{EVIL.replace(chr(34), chr(34) * 2)}"\n'.encode()
    headers = {"X-CSRF-Token": token, "Content-Type": "application/octet-stream"}
    sent = pages.post("/score/files", params={"name": "<b>.csv"}, content=content, headers=headers)
    form = {"csrf": token, "file": sent.json()["id"], "model": "rain/1", "act": "preview"}
    look = pages.post("/score", data=form).headers["location"].partition("#")[0]
    finished(pages)
    page = pages.get(look).text
    assert "<b>.csv" not in page
    assert "<script>alert" not in page


# -- files --


def send(pages, name, content, *, path="/deploy/files", token=None):
    token = token or token_of(pages.get("/deploy").text)
    return pages.post(
        path, params={"name": name}, content=content,
        headers={"X-CSRF-Token": token, "Content-Type": "application/octet-stream"},
    )  # fmt: skip


def test_a_file_without_the_token_of_the_session_is_not_taken(settings, pages):
    for headers in ({}, {"X-CSRF-Token": "wrong"}):
        answer = pages.post(
            "/deploy/files", params={"name": "m.onnx"}, content=b"x",
            headers={"Content-Type": "application/octet-stream", **headers},
        )  # fmt: skip
        assert answer.status_code in (400, 403)
    assert not list(settings.home.glob("console/uploads/*/*"))


def test_pickles_and_other_files_are_refused_before_a_byte_is_kept(settings, pages):
    for name in ("model.pkl", "model.joblib", "model.pt", "run.sh", "model"):
        answer = send(pages, name, b"\x80\x04")
        assert answer.status_code == 400
        assert "is not taken here" in answer.json()["detail"]
    assert not list(settings.home.glob("console/uploads/*/*"))


def a_bomb():
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b"0" * 50_000_000)
    return made.getvalue()


def a_tar_outside():
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        info = tarfile.TarInfo("../../../evil")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    return made.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [("m.onnx", b"not a model"), ("m.skops", b"not a zip"), ("m.skops", a_bomb()),
     ("b.tar", b"not a tar"), ("b.tar", a_tar_outside())],
    ids=["onnx", "skops", "bomb", "tar", "tar outside"],
)  # fmt: skip
def test_a_hostile_model_makes_no_version_and_its_refusal_says_why(
    settings, pages, tmp_path, name, content
):
    sent = send(pages, name, content).json()
    token = token_of(pages.get("/deploy").text)
    answer = pages.post("/deploy/models", data={"csrf": token, "file": sent["id"], "model": "snow"})
    finished(pages)
    page = pages.get(answer.headers["location"]).text
    assert 'class="flash bad"' in page
    assert [one.name for one in open_registry(settings).models()] == ["rain"]
    assert not list(tmp_path.parent.rglob("evil"))


def test_an_address_of_another_site_is_not_gone_on_to(pages):
    jobs = pages.app.state.control.jobs()
    claim = jobs.start(Task(kind="take_in", input={}, by=subject(pages)))
    work = jobs.end(claim, "done", result={})
    answer = pages.get(
        "/deploy/working", params={"work": work.id, "target": "https://evil.example/"}
    )
    assert "hx-redirect" not in answer.headers
    assert "evil.example" not in answer.text


def subject(pages):
    import re

    return re.search(r'class="who"[^>]*>([^<]+)<', pages.get("/deploy").text)[1]


def test_a_schedule_or_a_run_of_another_name_leads_nowhere(pages):
    token = token_of(pages.get("/batch").text)
    for path in ("/batch/..%2F..%2Fetc", "/batch/%2e%2e"):
        assert pages.get(path).status_code in (404, 200)
        assert "root:" not in pages.get(path).text
    answer = pages.post("/batch/x/destroy", data={"csrf": token})
    assert 'class="flash bad"' in pages.get("/batch").text or answer.status_code >= 400
