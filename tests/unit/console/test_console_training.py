"""The pages of training: runs side by side, the loop of a model, a run and a pause by a form."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.consoles import CountedServer, browsing, control, token_of
from tests.homes import finished, inline_jobs
from typer.testing import CliRunner

from bascule.app import open_catalogue
from bascule.cli.commands import app as commands
from bascule.jobs import Schedules
from bascule.settings import load_settings

FIT = """
from sklearn.linear_model import LogisticRegression

def fit(X, y, run, strength=1.0):
    for step in range(4):
        run.log("train_loss", 1 / (1 + step), step)
    return LogisticRegression(C=strength).fit(X, y)
"""
TOML = """
[pipeline.late]
data = "rows.parquet"
target = "late"
fit = "train.py:fit"
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a pipeline that was run twice by the form: the second run failed."""
    folder = tmp_path_factory.mktemp("training")
    rng = np.random.default_rng(0)
    distance = rng.normal(size=200)
    late = (distance + rng.normal(size=200) > 0).astype(int)
    pq.write_table(pa.table({"distance": distance, "late": late}), folder / "rows.parquet")
    (folder / "train.py").write_text(FIT)
    (folder / "pipeline.toml").write_text(TOML)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        settings = load_settings(folder, {"BASCULE_HOME": str(folder / "home")})
        runner = inline_jobs(settings)
        with browsing(control(settings, CountedServer(settings), jobs=runner)) as pages:
            for strength, why in (("2", "the first"), ("none", "again <b>")):
                form = {
                    "csrf": token_of(pages.get("/training").text), "file": "pipeline.toml",
                    "pipeline": "late", "parameters": f"strength = {strength}\n", "why": why,
                }  # fmt: skip
                answer = pages.post("/training/runs", data=form)
                assert answer.status_code == 303, answer.text
                assert re.fullmatch(r"/jobs/\w+", answer.headers["location"])
                finished(runner)
    return folder


@pytest.fixture
def pages(trained, monkeypatch):
    monkeypatch.chdir(trained)
    monkeypatch.setenv("BASCULE_HOME", str(trained / "home"))
    settings = load_settings(trained, {"BASCULE_HOME": str(trained / "home")})
    with browsing(control(settings, CountedServer(settings))) as client:
        yield client


def add_trigger(name):
    words = ("trigger", "add", name, "--on", "drift", "--pipeline", "late")
    assert CliRunner().invoke(commands, words).exit_code == 0


def test_a_run_is_started_by_a_form_and_listed_with_verdict_figures_and_reason(pages):
    page = pages.get("/training").text
    assert "late/1 wins: there is no champion yet" in page
    assert "held_out_accuracy" in page
    assert "train.py:fit failed: " in page
    assert "again &lt;b&gt;" in page
    assert page.index("again &lt;b&gt;") < page.index("the first")


def test_runs_stand_side_by_side_with_parameters_metrics_and_curves(pages):
    ids = re.findall(r'name="run" value="(\w+)"', pages.get("/training").text)
    assert len(ids) == 2
    page = pages.get(f"/training/runs?run={ids[0]}&run={ids[1]}").text
    assert "2 runs side by side" in page
    assert re.search(r">strength</th>\s*<td[^>]*><strong>none</strong></td>\s*<td", page)
    assert "train_loss by step: at the end 0.25 in" in page
    assert len(re.findall(r'class="line c1"', page)) == 2  # of the second column, and its sample
    assert pages.get(f"/training/runs?run={ids[0][:8]}").status_code == 200
    assert pages.get("/training/runs?run=none").status_code == 404
    assert pages.get("/training/runs").status_code == 400


def test_the_loop_of_a_model_has_champion_challengers_triggers_and_runs(pages):
    add_trigger("drifted")
    page = pages.get("/training/loops/late").text
    assert "late/1 is the champion, by late@champion" in page
    assert "there is no champion yet" in page
    assert ">drifted<" in page
    assert pages.get("/training/loops/other").status_code == 404


def test_a_trigger_is_paused_and_resumed_by_its_form(pages, trained):
    add_trigger("monthly")
    settings = load_settings(trained, {"BASCULE_HOME": str(trained / "home")})
    schedules = Schedules(open_catalogue(settings))
    for command, is_paused in (("pause", True), ("resume", False)):
        form = {"csrf": token_of(pages.get("/training").text), "reason": "holidays"}
        answer = pages.post(f"/training/triggers/monthly/{command}", data=form)
        assert (answer.status_code, answer.headers["location"]) == (303, "/training")
        assert schedules.get("monthly").schedule.is_paused is is_paused
    form = {"csrf": token_of(pages.get("/training").text)}
    assert pages.post("/training/triggers/monthly/remove", data=form).status_code == 404


def test_a_run_that_cannot_be_started_says_why_on_the_page(pages):
    form = {"csrf": token_of(pages.get("/training").text), "file": "pipeline.toml",
            "pipeline": "late"}  # fmt: skip
    page = pages.post("/training/runs", data={**form, "parameters": "strength 2"})
    assert page.status_code == 400
    assert "write NAME=VALUE" in page.text
    assert pages.post("/training/runs", data={**form, "csrf": "other"}).status_code == 403
