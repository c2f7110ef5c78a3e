"""The page of a model in production, and the ledger: on days of answers by the real recorder."""

import re
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from tests.console_work import finished, fire, looking, one_home, send, token_of
from tests.homes import inline_jobs

from bascule.app import open_alerts, open_catalogue
from bascule.console.pages.monitoring import FRESH_S, alerting, is_due
from bascule.jobs import Job, Jobs, Task
from bascule.jobs.schema import jobs as jobs_table
from bascule.monitoring import Ledger
from bascule.monitoring.reporting import report_of


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return one_home(tmp_path_factory.mktemp("production"))


@pytest.fixture
def pages(home):
    with looking(home) as client:
        yield client


@pytest.fixture(scope="module")
def measured(home):
    asked = {"model": "late", "since_s": 7 * 86_400.0}
    return inline_jobs(home).answer(Task(kind="monitor", input=asked))


def test_the_report_puts_the_column_that_drifted_first_with_both_distributions(measured):
    (version,) = report_of(measured).versions
    first = version.columns[0]
    assert first.where == "input"
    assert first.alarms > 0
    assert first.name in first.latest["sentence"]
    by_name = {one.name: one for one in version.columns}
    assert by_name["wind"].alarms > 0
    assert 'class="bar other"' in first.chart
    assert all(one.alarms <= first.alarms for one in version.columns)
    assert "AA" in by_name["carrier"].chart


def test_the_report_has_metrics_beside_the_held_out_rows_and_says_how_late_truths_come(measured):
    report = report_of(measured)
    accuracy = next(one for one in report.metrics if one.name == "accuracy")
    for share in (accuracy.value, accuracy.recorded):
        assert 0 < float(share.removesuffix("%")) <= 100
    assert " - " in accuracy.interval
    assert report.delay.startswith(("Truths come late", "Half of the known truths"))
    assert {name for name, _, _ in report.tiles} >= {"alarms", "requests", "truths known"}


def test_a_report_without_truths_and_profiles_says_what_is_missing(measured):
    bare = {**measured, "performance": None, "truths": {**measured["truths"], "delay_s": None}}
    bare["drift"] = {**measured["drift"], "versions": [
        {**one, "distributions": {}} for one in measured["drift"]["versions"]
    ]}  # fmt: skip
    report = report_of(bare)
    assert report.metrics == []
    assert "No truth is known yet" in report.delay
    assert all(one.chart is None for one in report.versions[0].columns)


def test_the_first_visit_measures_and_the_page_then_shows_when_it_was_measured(pages):
    first = pages.get("/monitoring/late").text
    assert "Measuring drift and performance" in first
    assert 'hx-get="/monitoring/late/report?days=7"' in first
    finished(pages)
    part = pages.get("/monitoring/late/report?days=7").text
    assert "<html" not in part
    assert "hx-get" not in part, "nothing is asked for again once the report is there"
    page = pages.get("/monitoring/late").text
    assert "Measured <time" in page
    assert "Drift of version 1" in page
    assert "<svg" in page
    assert " style=" not in page


def test_measuring_again_is_a_form_that_makes_a_newer_report(pages):
    pages.get("/monitoring/late")
    finished(pages)
    (before,) = pages.app.state.control.jobs().find(kind="monitor")
    page = pages.get("/monitoring/late").text
    answer = pages.post("/monitoring/late/measure?days=7", data={"csrf": token_of(page)})
    assert answer.headers["location"] == "/monitoring/late?days=7"
    finished(pages)
    (after,) = pages.app.state.control.jobs().find(kind="monitor")
    assert (after.state, after.id != before.id) == ("done", True)


NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def a_job(ended_s=None, took_s=4.0, state="done"):
    """A measurement that ended so many seconds before `NOW`; one under way by default."""
    ended = None if ended_s is None else NOW - timedelta(seconds=ended_s)
    began = (ended or NOW) - timedelta(seconds=took_s)
    return Job(
        kind="monitor", input={}, id="1", state=state if ended else "running", progress={},
        created_at=began, started_at=began, updated_at=ended or NOW, ended_at=ended,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("latest", "due"),
    [
        (None, True),
        (a_job(), False),
        (a_job(FRESH_S - 1), False),
        (a_job(FRESH_S + 1), True),
        (a_job(FRESH_S + 1, state="failed"), True),
        (a_job(FRESH_S - 1, state="failed"), False),
        (a_job(1_000, took_s=120), False),
        (a_job(1_300, took_s=120), True),
    ],
)
def test_a_measurement_is_due_when_it_is_old_for_what_it_takes(latest, due):
    assert is_due(latest, NOW) == due


def test_an_open_alert_on_a_column_is_shown_beside_what_was_measured_earlier():
    alerts = [
        {"version": "1", "column": "wind", "state": "firing"},
        {"version": "1", "column": "wind", "state": "pending"},
        {"version": "1", "column": "", "state": "firing"},
    ]
    assert alerting(alerts) == {("1", "wind"): "firing"}


def age(pages, subject, seconds):
    """Make the measurements of a subject older."""
    catalogue = pages.app.state.control.catalogue()
    with catalogue.write() as connection:
        times = sa.select(jobs_table.c.id, jobs_table.c.started_at, jobs_table.c.ended_at)
        for row in connection.execute(times.where(jobs_table.c.subject == subject)).all():
            older = timedelta(seconds=seconds)
            connection.execute(
                sa.update(jobs_table)
                .where(jobs_table.c.id == row.id)
                .values(started_at=row.started_at - older, ended_at=row.ended_at - older)
            )


def monitors(pages):
    return pages.app.state.control.jobs().find(kind="monitor")


def test_an_old_measurement_is_shown_with_its_age_while_a_new_one_is_made(home, pages):
    pages.get("/monitoring/late?days=30")
    finished(pages)
    age(pages, "late/30", 1_920)
    fire(home)
    page = pages.get("/monitoring/late?days=30", headers={"hx-request": "true"}).text
    assert "32 min ago" in page
    assert "Measuring" not in page, "a page that stays open only follows its alerts"
    assert "alert pending" in page or "alert firing" in page
    page = pages.get("/monitoring/late?days=30").text
    assert "32 min ago" in page
    assert "Measuring drift and performance of late, 30 days" in page
    finished(pages)
    assert "32 min ago" not in pages.get("/monitoring/late?days=30").text


def test_of_a_model_one_measurement_runs_at_a_time_and_the_next_one_follows(pages):
    finished(pages)
    runner = pages.app.state.control.jobs()
    task = Task(kind="monitor", input={"model": "late", "since_s": 86_400.0}, subject="late/2")
    claim = runner.start(task)  # of a process that is still at work
    page = pages.get("/monitoring/late?days=3").text
    assert 'hx-get="/monitoring/late/report?days=3"' in page
    assert not runner.find(kind="monitor", subject="late/3")
    runner.end(claim, "done", result=None)
    pages.get("/monitoring/late/report?days=3")
    assert len(runner.find(kind="monitor", subject="late/3")) == 1


def test_a_model_without_answers_says_so_with_the_next_step(pages):
    pages.get("/monitoring/nothing")
    finished(pages)
    page = pages.get("/monitoring/nothing").text
    assert "Next:" in page
    assert "nothing" in page


def test_an_alert_is_listed_with_its_evidence_and_acknowledged_with_a_reason(home, pages):
    alert = fire(home)
    page = pages.get("/monitoring/late").text
    assert "wind has moved" in page
    assert "bascule drift late" in page
    path = f"/monitoring/late/alerts/{alert}/acknowledge?days=7"
    assert path in page
    form = {"csrf": token_of(page), "reason": "I look into it"}
    answer = pages.post(path, data=form)
    after = pages.get(answer.headers["location"]).text
    assert "I look into it" in after
    assert open_alerts(home).find(alert).acknowledgement.why == "I look into it"


def test_an_acknowledgement_without_a_reason_is_refused_on_the_page(home, pages):
    alert = fire(home, "carrier has moved")
    token = token_of(pages.get("/monitoring/late").text)
    answer = pages.post(
        f"/monitoring/late/alerts/{alert}/acknowledge", data={"csrf": token, "reason": ""}
    )
    assert 'class="flash bad"' in pages.get(answer.headers["location"]).text


def test_a_silence_lasts_as_long_as_the_form_says_and_can_be_ended(home, pages):
    alert = fire(home)
    token = token_of(pages.get("/monitoring/late").text)
    form = {"csrf": token, "alert": alert, "for": "4h", "reason": "known"}
    answer = pages.post("/monitoring/late/silences", data=form)
    page = pages.get(answer.headers["location"]).text
    assert "Silenced until" in page
    (held,) = open_alerts(home).silences(datetime.now(UTC))
    assert held.alert == alert
    assert timedelta(hours=3, minutes=59) < held.until - datetime.now(UTC) <= timedelta(hours=4)
    pages.post(f"/monitoring/late/silences/{held.id}/end", data={"csrf": token})
    assert open_alerts(home).silences(datetime.now(UTC)) == []


def test_the_list_has_models_with_alerts_first_and_finds_by_name(home, pages):
    fire(home)
    page = pages.get("/monitoring").text
    assert "1 firing" in page or "firing" in page
    assert pages.get("/monitoring?q=LAT").text.count('href="/monitoring/late"') == 1
    assert "No model has" in pages.get("/monitoring?q=zebra").text


# -- truths --


def test_truths_are_sent_as_a_table_and_a_row_that_is_refused_is_named(home, pages):
    token = token_of(pages.get("/monitoring/late").text)
    name = an_id(home)
    table = f"flight,was\n{name}#0,late\n{name}#1,\n".encode()
    sent = send(pages, "/monitoring/late/truths/files", "truths.csv", table, token).json()

    form = {"csrf": token, "file": sent["id"], "id": "flight", "truth": "was"}
    answer = pages.post("/monitoring/late/truths", data=form)

    page = pages.get(answer.headers["location"]).text
    assert "1 truths of late are kept, and 1 are refused; row 2: no truth" in page
    kept = Ledger(home.home).query(f"SELECT truth FROM outcomes WHERE id = '{name}' AND row = 0")
    assert kept.num_rows == 1


def test_truths_without_the_named_column_are_refused_with_those_that_are_there(pages):
    token = token_of(pages.get("/monitoring/late").text)
    sent = send(pages, "/monitoring/late/truths/files", "x.csv", b"id,was\n1,late\n", token).json()
    form = {"csrf": token, "file": sent["id"], "id": "id", "truth": "truth"}

    answer = pages.post("/monitoring/late/truths", data=form)

    page = pages.get(answer.headers["location"]).text
    assert 'class="flash bad"' in page
    assert "was" in page


# -- ledger --


def an_id(home):
    found = Ledger(home.home).query(
        "SELECT id FROM predictions WHERE status = 200 ORDER BY time DESC, id LIMIT 1"
    )
    return found["id"][0].as_py()


def test_a_prediction_is_found_by_its_id_with_inputs_answer_and_truth(home, pages):
    name = an_id(home)
    page = pages.get("/ledger", params={"id": name}).text
    for field in ("wind", "distance", "carrier"):
        assert f'<th scope="row">{field}</th>' in page
    assert "label" in page
    assert "late/1" in page
    assert re.search(r">(late|ok) <span", page), "a truth beside its answer"


def test_a_row_of_a_request_is_found_by_the_id_of_the_row(home, pages):
    assert pages.get("/ledger", params={"id": an_id(home) + "#3"}).status_code == 200


def test_the_latest_rows_of_a_model_are_listed_page_by_page(home, pages):
    page = pages.get("/ledger?model=late&span=7d").text
    assert page.count("<code>1-") == 25
    assert "start=25" in page
    second = pages.get("/ledger?model=late&span=7d&start=25").text
    assert "start=0" in second
    assert re.findall(r"<code>(1-[^<]*)", page) != re.findall(r"<code>(1-[^<]*)", second)


def test_times_of_the_search_bound_what_is_found(home, pages):
    assert "No row of late" in pages.get("/ledger?model=late&until=2020-01-01T00:00").text
    wrong = pages.get("/ledger?model=late&until=yesterday")
    assert wrong.status_code == 422
    assert "2026-11-26T15:00" in wrong.text


@pytest.mark.parametrize("query", [{"id": "nothing"}, {"model": "nothing"}, {"id": "x" * 520}])
def test_what_the_ledger_does_not_have_is_told_with_the_next_step(pages, query):
    answer = pages.get("/ledger", params=query)
    assert answer.status_code == 422
    assert "Next:" in answer.text or "not from 1 to 512" in answer.text


def test_asked_again_on_its_own_version_a_prediction_has_the_same_bits(home, pages):
    name = an_id(home)
    token = token_of(pages.get("/ledger", params={"id": name}).text)
    answer = pages.post("/ledger/ask", data={"csrf": token, "id": name, "on": ""})
    finished(pages)
    page = pages.get(answer.headers["location"].partition("#")[0]).text
    assert "the same bits" in page
    assert "late/1 was asked" in page


def test_asked_again_on_another_version_the_differences_are_shown(home, pages):
    name = an_id(home)
    page = pages.get("/ledger", params={"id": name}).text
    assert '<option value="late/2">' in page
    answer = pages.post("/ledger/ask", data={"csrf": token_of(page), "id": name, "on": "late/2"})
    finished(pages)
    page = pages.get(answer.headers["location"].partition("#")[0]).text
    assert "other answers" in page
    assert "the largest difference is" in page


def test_what_another_person_asked_is_not_shown(home, pages):
    work = Jobs(open_catalogue(home)).submit(Task(kind="replay", input={}, by="eve"))
    answer = pages.get("/ledger", params={"id": an_id(home), "work": work.id})
    assert answer.status_code == 422
    assert "another person" in answer.text


def test_from_another_machine_the_inputs_of_people_are_not_shown(home):
    with looking(home, client=("10.1.2.3", 5_000)) as far:
        page = far.get("/ledger", params={"id": an_id(home)}).text
        assert "only from this machine" in page
        assert "carrier" not in page
        assert "only from this machine" in far.get("/ledger?model=late").text
        for path in ("/api/v1/predictions?model=late", f"/api/v1/prediction?id={an_id(home)}"):
            assert far.get(path).status_code == 403
