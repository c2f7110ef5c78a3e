"""A table is sent, a column picked, and a search submitted, which its page of the job shows."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.console_work import send
from tests.consoles import token_of

from bascule.console.pages.jobs import search_of
from bascule.jobs import Job
from bascule.training import Candidate, Outcome

ROWS = b"late,wind,<b>\nyes,1,2\nno,2,3\n"


@pytest.fixture
def sent(pages):
    """The form of a search in a table that was sent."""
    token = token_of(pages.get("/training/search").text)
    file = send(pages, "/deploy/files", "days.csv", ROWS, token).json()["id"]
    answer = pages.post("/training/search", data={"csrf": token, "file": file})
    assert answer.headers["location"] == f"/training/search?file={file}"
    return {"csrf": token, "file": file, "target": "late", "budget": "10s"}


def test_the_columns_of_a_table_that_was_sent_can_be_picked(pages, sent):
    page = pages.get(f"/training/search?file={sent['file']}").text
    assert "now: days.csv" in page
    assert page.count("<option>wind</option>") == 3
    assert "<option>&lt;b&gt;</option>" in page


def test_a_table_of_very_many_columns_makes_no_endless_page(pages, sent):
    names = ",".join(f"c{number}" for number in range(5_001)).encode()
    file = send(pages, "/deploy/files", "wide.csv", names + b"\n", sent["csrf"]).json()["id"]
    answer = pages.get(f"/training/search?file={file}")
    assert answer.status_code == 400
    assert "5,001 columns are over 5,000" in answer.text


def test_a_search_is_a_job_whose_page_says_why_it_failed(pages, sent):
    form = {**sent, "limits": "size <= 2 MB\n\n", "leave_out": "wind", "metric": "accuracy"}
    answer = pages.post("/training/search", data=form)
    jobs = pages.app.state.control.jobs()
    (job,) = jobs.find(kind="automl")
    assert answer.headers["location"] == f"/jobs/{job.id}"
    assert (job.input["model"], job.input["budget_s"]) == ("late", 10.0)
    assert (list(job.input["limits"]), list(job.input["leave_out"])) == (["size <= 2 MB"], ["wind"])
    jobs.wait(job, 60)
    assert "2 rows with a target are too few" in pages.get(f"/jobs/{job.id}").text


@pytest.mark.parametrize(
    ("wrong", "status", "says"),
    [
        ({"file": ""}, 404, "choose it again"),
        ({"file": "../../etc"}, 404, "choose it again"),
        ({"budget": "soon"}, 400, "budget"),
        ({"budget": "1s"}, 400, "budget_s of 10 or more"),
        ({"model": "../x"}, 400, "../x"),
        ({"target": "<b>"}, 400, "&lt;b&gt;"),
        ({"csrf": "other"}, 403, "session"),
    ],
)
def test_a_form_that_cannot_be_searched_by_is_refused_and_begins_nothing(
    pages, sent, wrong, status, says
):
    answer = pages.post("/training/search", data={**sent, **wrong})
    assert answer.status_code == status
    assert says in answer.text
    assert not pages.app.state.control.jobs().find(kind="automl")


def test_the_chart_of_a_search_is_drawn_again_and_no_markup_of_its_process_is_shown():
    outcome = Outcome("r2", [], [Candidate("linear", 1, 0.5, 1, 1), Candidate("rf", 1, 0.6, 2, 2)])
    now = datetime.now(UTC)
    result = {**outcome.to_json(), "chart": "<script>", "version": "late/1", "sentence": "done"}
    job = Job(
        kind="automl", input={}, id="0", progress={}, created_at=now, updated_at=now, result=result
    )
    found = search_of(job)
    assert "<script>" not in found["chart"]
    assert [own["is_chosen"] for own in found["candidates"]] == [True, False]
    assert found["version"] == "late/1"
