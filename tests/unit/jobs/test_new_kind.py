"""A kind of job is one file and one line: then commands, API and console have it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests import echo_kind
from tests.consoles import CountedServer, browsing, control
from tests.homes import finished
from typer.testing import CliRunner

from bascule.app import open_registry
from bascule.cli.commands import app
from bascule.core import user_name
from bascule.kinds import KINDS, runner_of
from bascule.settings import load_settings


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = (str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))
    monkeypatch.setitem(KINDS.places, "echo", echo_kind.PLACE)
    found = load_settings(tmp_path, {})
    open_registry(found)
    return found


def call(*words, group="jobs", code=0):
    done = CliRunner().invoke(app, [group, *words])
    assert done.exit_code == code, done.output
    return done.stdout


def test_a_new_kind_is_run_listed_and_shown_by_commands(settings):
    made = json.loads(call("run", "echo", "text=hallo", "to=2", "--json"))
    assert (made["state"], made["by"]) == ("done", user_name())
    assert made["result"]["echo"] == "hallo"
    assert made["id"][:12] in call("list", "--kind", "echo")
    assert "2 of 2" in call("list")
    assert "hallo" in call("show", made["id"][:6])
    assert "is done" in call("follow", made["id"])


def test_a_new_kind_is_submitted_over_the_api_and_is_a_page_of_the_console(settings):
    runner = runner_of(settings)
    with browsing(control(settings, CountedServer(settings), jobs=runner)) as pages:
        made = pages.post("/api/v1/jobs", json={"kind": "echo", "input": {"text": "hallo"}})
        assert made.status_code == 201, made.text
        job = made.json()["id"]
        finished(runner)
        shown = pages.get(f"/api/v1/jobs/{job}").json()
        assert (shown["state"], shown["result"]["echo"]) == ("done", "hallo")
        listed = pages.get("/api/v1/jobs", params={"kind": "echo"}).json()["items"]
        assert [(one["id"], one["result"]) for one in listed] == [(job, None)]
        assert job[:12] in pages.get("/jobs?kind=echo").text
        page = pages.get(f"/jobs/{job}").text
        assert ">done<" in page
        assert "hallo" in page


def test_a_job_that_failed_is_retried_from_its_page(settings):
    runner = runner_of(settings)
    with browsing(control(settings, CountedServer(settings), jobs=runner)) as pages:
        body = {"kind": "echo", "input": {"refuses": True}}
        job = pages.post("/api/v1/jobs", json=body).json()["id"]
        finished(runner)
        page = pages.get(f"/jobs/{job}").text
        assert "it is refused" in page
        assert "ask for less" in page
        token = page.split('name="csrf" value="')[1].split('"')[0]
        assert pages.post(f"/jobs/{job}/resume", data={"csrf": token}).status_code == 303
        finished(runner)
        assert runner.get(job).attempt == 2


def test_a_new_kind_is_run_at_times_by_a_schedule(settings, tmp_path):
    (tmp_path / "JOB.toml").write_text('text = "hallo"\nto = 2\n')
    words = ("add", "nightly", "--cron", "0 2 * * *", "--job", "JOB.toml", "--kind", "echo")
    call(*words, group="schedule")
    assert "is done" in call("run", "nightly", group="schedule")
    with browsing(control(settings, CountedServer(settings), jobs=runner_of(settings))) as pages:
        body = {"name": "weekly", "cron": "0 2 * * 0", "kind": "echo", "job": {"to": 1}}
        assert pages.post("/api/v1/schedules", json=body).status_code == 201
        shown = pages.get("/api/v1/schedules/weekly").json()
        assert (shown["kind"], shown["job"]["to"]) == ("echo", 1)
        refused = pages.post("/api/v1/schedules", json={**body, "name": "x", "kind": "pack"})
        assert refused.status_code == 403
        assert "nightly" in pages.get("/batch").text
