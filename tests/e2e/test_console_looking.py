"""The pages that look into production and act, in a real browser, with real processes."""

from __future__ import annotations

import csv
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression
from tests.browsers import served, visiting
from tests.console_work import fire, one_home
from tests.consoles import CountedServer, control
from tests.homes import finished

from bascule.app import open_catalogue, open_rollouts
from bascule.batch import job_of
from bascule.jobs import Schedule, Schedules, Task
from bascule.kinds import runner_of
from bascule.monitoring import Ledger

pytestmark = pytest.mark.slow
PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
MOST_BYTES = 150_000
PATIENCE_MS = 240_000
"""For what a niced process makes meanwhile: machines are loaded."""
PATHS = {
    "monitoring-models": "/monitoring",
    "monitoring": "/monitoring/late",
    "batch": "/batch",
    "batch-run": "/batch/{run}",
    "jobs": "/jobs",
    "job": "/jobs/{job}",
    "ledger": "/ledger?model=late&span=7d",
    "usage": "/usage?by=model",
    "prediction": "/ledger?id={id}",
    "try-names": "/try",
    "try": "/try/late",
    "deploy": "/deploy",
    "deploy-version": "/deploy?version=late/2",
    "score": "/score",
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Four days of production with an alert; a schedule, and a run with rows in quarantine."""
    made = one_home(tmp_path_factory.mktemp("looking"))
    fire(made, "wind has moved by 1.5 standard deviations on 2 days", severity="critical")
    job = {"model": "late/1", "from": "rows.csv", "to": "scored/"}
    Schedules(open_catalogue(made)).add(
        Schedule(name="nightly", cron="0 2 * * *", job=job, created_at=datetime.now(UTC)), by="ada"
    )
    rows = made.home.parent / "rows.csv"
    with rows.open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["wind", "distance", "carrier"])
        writer.writerows([n % 30, n, "AA"] for n in range(200))
        writer.writerow(["windy", 7, "AA"])
    return made


@pytest.fixture(scope="module")
def app(settings):
    return control(settings, CountedServer(settings), jobs=runner_of(settings))


@pytest.fixture(scope="module")
def places(settings, app):
    """What the addresses of pages name."""
    found = Ledger(settings.home).query("SELECT id FROM predictions WHERE status = 200 LIMIT 1")
    rows = settings.home.parent / "rows.csv"
    job = {"model": "late/1", "from": str(rows), "to": str(rows.with_name("scored")) + "/",
           "max_quarantined": 1.0, "checks": ["rows >= 100"]}  # fmt: skip
    jobs = app.state.control.jobs()
    task = Task(kind="batch", input=job_of(job).to_json(), by="ada", folder=str(rows.parent))
    run = jobs.wait(jobs.submit(task), PATIENCE_MS / 1_000)
    return {"id": found["id"][0].as_py(), "run": run.subject, "job": run.id}


@pytest.fixture(scope="module")
def address(app):
    with served(app) as url:
        yield url


@pytest.mark.parametrize("width", ["phone", "desk"])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PATHS)
def test_every_page_is_clean_in_light_and_dark_on_a_phone_and_on_a_desk(
    chromium, address, app, places, tmp_path, name, theme, width
):
    with visiting(chromium, theme=theme, width=width) as visit:
        path = address + PATHS[name].format(**places)
        visit.open(path)
        finished(app.state.control.jobs(), PATIENCE_MS / 1_000)
        page = visit.open(path)
        visit.check()
        assert not visit.is_wider_than_screen()
        if folder := os.environ.get("BASCULE_SHOTS"):
            Path(folder).mkdir(exist_ok=True)
            page.screenshot(path=f"{folder}/{name}-{theme}-{width}.png", full_page=True)


@pytest.mark.parametrize(
    ("path", "shown"), [("/docs", "Bascule control API"), ("/redoc", "Bascule")]
)
def test_the_documentation_is_shown_under_its_policy(chromium, address, path, shown):
    with visiting(chromium) as visit:
        page = visit.open(address + path)
        page.get_by_text(shown, exact=False).first.wait_for()
        page.get_by_text("/api/v1/models", exact=False).first.wait_for()
        # ReDoc asks for its logo there, and the policy refuses it.
        problems = [*visit.problems, *visit.elsewhere]
        assert [problem for problem in problems if "cdn.redoc.ly" not in problem] == []


def test_the_report_appears_by_itself_when_it_is_measured(chromium, address):
    with visiting(chromium) as visit:
        page = visit.open(f"{address}/monitoring/late?days=30")
        page.get_by_text("Drift of version 1").wait_for(timeout=PATIENCE_MS)
        page.get_by_text("Measured", exact=False).first.wait_for()
        visit.check()


def test_an_alert_is_acknowledged_with_the_mouse(chromium, address, settings):
    with visiting(chromium) as visit:
        page = visit.open(f"{address}/monitoring/late")
        page.locator("summary", has_text="Acknowledge").click()
        page.get_by_label("Reason").locator("visible=true").fill("a storm")
        page.get_by_role("button", name="Acknowledge").locator("visible=true").click()
        page.get_by_text("works on it").wait_for()
        visit.check()


def test_a_prediction_is_asked_again_and_the_difference_appears(chromium, address, places):
    with visiting(chromium) as visit:
        page = visit.open(f"{address}/ledger?id={places['id']}")
        page.get_by_label("Of which version").select_option("late/2")
        page.get_by_role("button", name="Ask again").click()
        page.get_by_text("other answers").wait_for(timeout=PATIENCE_MS)
        visit.check()


@pytest.mark.parametrize("width", ["phone", "desk"])
def test_a_recorded_prediction_is_explained_where_it_is_opened(chromium, address, places, width):
    with visiting(chromium, width=width) as visit:
        page = visit.open(f"{address}/ledger?id={places['id']}")
        page.locator("summary", has_text="Why").click()
        page.locator("svg.waterfall").first.wait_for(timeout=PATIENCE_MS)
        page.get_by_text("What each column adds to", exact=False).first.wait_for()
        visit.check()
        assert not visit.is_wider_than_screen()
        if folder := os.environ.get("BASCULE_SHOTS"):
            Path(folder).mkdir(exist_ok=True)
            page.screenshot(path=f"{folder}/why-{width}.png", full_page=True)


def test_a_person_deploys_a_model_from_a_file_and_sees_what_each_strategy_costs(
    chromium, address, settings, tmp_path
):
    random = np.random.default_rng(0)
    X = random.normal(size=(300, 2))
    y = (X[:, 0] > 0).astype(int)
    skops.io.dump(LogisticRegression().fit(X, y), tmp_path / "model.skops")
    with (tmp_path / "rows.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "y"])
        writer.writerows([*row, truth] for row, truth in zip(X.tolist(), y.tolist(), strict=True))
    with visiting(chromium) as visit:
        page = visit.open(f"{address}/deploy")
        page.get_by_label("Model: .onnx").set_input_files(tmp_path / "model.skops")
        page.get_by_label("Name of the model").fill("sign")
        page.get_by_text("Rows that it was trained and tested on").click()
        page.get_by_label("Training rows").set_input_files(tmp_path / "rows.csv")
        page.get_by_label("Test rows").set_input_files(tmp_path / "rows.csv")
        page.get_by_label("Column of the truth").fill("y")
        page.get_by_role("button", name="Pack and check").click()
        page.wait_for_url(re.compile(r"version=sign"), timeout=PATIENCE_MS)
        page.get_by_role("heading", name="All at once", exact=True).wait_for(timeout=PATIENCE_MS)
        page.locator("summary", has_text="Deploy all at once").click()
        page.get_by_role("button", name="Deploy sign/1").locator("visible=true").click()
        page.get_by_role("status").get_by_text("Deployed sign/1").wait_for()
        visit.check()
    plan = open_rollouts(settings).endpoints.endpoint("sign").current.plan
    assert plan.current.version == "sign/1"


def test_a_file_is_scored_and_downloaded_with_the_mouse(chromium, address, settings):
    with visiting(chromium) as visit:
        page = visit.open(f"{address}/score")
        page.get_by_label("Rows: .csv").set_input_files(settings.home.parent / "rows.csv")
        page.get_by_label("Model", exact=True).fill("late/1")
        page.get_by_role("button", name="Show ten rows").click()
        page.get_by_text("The first rows, scored").first.wait_for(timeout=PATIENCE_MS)
        page.get_by_role("button", name="Score all rows").click()
        page.get_by_text("Download the scored file").wait_for(timeout=PATIENCE_MS)
        with page.expect_download() as download:
            page.get_by_role("link", name="Download the scored file").click()
        rows = Path(download.value.path()).read_text().splitlines()
        assert len(rows) == 201
        assert "prediction_id" in rows[0]
        visit.check()


def test_a_file_that_is_too_large_or_of_another_kind_is_refused_on_the_page(
    chromium, address, tmp_path
):
    (tmp_path / "model.pkl").write_bytes(b"\x80\x04")
    with visiting(chromium) as visit:
        page = visit.open(f"{address}/deploy")
        page.get_by_label("Model: .onnx").set_input_files(tmp_path / "model.pkl")
        page.get_by_label("Name of the model").fill("evil")
        page.get_by_role("button", name="Pack and check").click()
        page.get_by_text("pickles run code when they are read").wait_for()


SHOWN = {
    "console-monitoring": "/monitoring/late",
    "console-deploy": "/deploy?version=late/2",
    "console-prediction": "/ledger?id={id}",
}


@pytest.mark.parametrize("name", SHOWN)
def test_the_pictures_of_the_docs_are_there_and_small(chromium, app, address, places, name):
    """`BASCULE_WRITE_PICTURES=1` makes them anew."""
    file = PICTURES / f"{name}.png"
    if os.environ.get("BASCULE_WRITE_PICTURES"):
        with visiting(chromium) as visit:
            path = address + SHOWN[name].format(**places)
            visit.open(path)
            finished(app.state.control.jobs(), PATIENCE_MS / 1_000)
            visit.open(path).screenshot(path=file)
    assert file.read_bytes().startswith(b"\x89PNG")
    assert file.stat().st_size <= MOST_BYTES


def test_a_row_is_asked_of_the_real_server_and_its_answer_has_a_prediction_set(
    chromium, settings, serve
):
    env = {"BASCULE_HOME": str(settings.home), "BASCULE_MONITORING__LEDGER": "on"}
    server = serve("late/1", env=env)
    with visiting(chromium) as visit:
        page = visit.open(f"http://127.0.0.1:{server.control_port}/try/late")
        page.get_by_role("button", name="Ask").click()
        page.get_by_text("answered in").wait_for()
        assert page.get_by_text("Extra outputs", exact=True).is_visible()
        assert page.locator("svg.waterfall").is_visible()
        visit.check()
        if folder := os.environ.get("BASCULE_SHOTS"):
            page.screenshot(path=f"{folder}/try-why.png", full_page=True)
        page.locator("#answer + *, a[href^='/ledger?id=']").last.click()
        page.get_by_role("heading", name="Inputs").wait_for()
