"""Every page of what runs, asked for as a browser asks; and what its forms do."""

import re
from functools import partial

import pytest
from tests.consoles import browsing, control, roll_out, token_of
from tests.homes import Inline

from bascule.app import open_catalogue, open_rollouts
from bascule.console.pages.compare import judgement, parts_of, shown
from bascule.console.table import PAGES
from bascule.jobs import JobRunner
from bascule.kinds import KINDS
from bascule.registry import Change

PATHS = ["/", "/endpoints", "/endpoints/rain", "/models", "/models/rain", "/models/rain/1"]


@pytest.mark.parametrize("path", PATHS)
def test_every_page_is_a_page_of_html_that_allows_no_script_of_others(pages, path):
    answer = pages.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["cache-control"] == "no-store"
    assert len(re.findall(r"<h1>", answer.text)) == 1
    assert " style=" not in answer.text
    assert not re.findall(r"<script(?! src=)|\son[a-z]+=", answer.text)


@pytest.mark.parametrize("path", PATHS)
def test_pages_ask_for_nothing_from_elsewhere(pages, path):
    found = re.findall(r'(?:src|href|action)="([^"]*)"', pages.get(path).text)
    assert found
    assert all(one.startswith(("/", "#", "?")) for one in found)


def test_every_link_of_the_navigation_leads_to_a_page(pages):
    named = [page for page in PAGES if page.name]
    assert len(named) >= 3
    for page in named:
        assert pages.get(page.path).status_code == 200
        assert f'<a href="{page.path}" aria-current="page">' in pages.get(page.path).text


def test_static_files_carry_the_same_policy(pages):
    for file in ("console.css", "console.js", "vendor/htmx-2.0.11.min.js"):
        answer = pages.get(f"/console/static/{file}")
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_overview_says_what_runs_and_with_which_shares(pages, server):
    server.answer(500)
    page = pages.get("/").text
    assert "rain/1 100 %" in page
    assert ">live<" in page.replace("\n", "")
    assert ">500<" in page


def test_the_overview_asks_for_a_decision_where_a_rollout_waits(settings, server, pages):
    assert "Waits for a decision" not in pages.get("/").text
    roll_out(settings, server, "rain/2", turns=6, requests=20_000, needs_approval=True)
    page = pages.get("/").text
    assert "rain/2 waits for an approval" in page
    assert 'href="/endpoints/rain#rollout"' in page


def test_the_overview_says_that_workers_are_down(pages, server):
    server.is_alive = False
    assert "0 of 1 workers answer" in pages.get("/").text


def test_a_rollout_that_aborts_tells_why_on_the_page_of_its_endpoint(settings, server, pages):
    server.bad_every = 10
    roll_out(settings, server, "rain/2", turns=5)
    page = pages.get("/endpoints/rain").text
    assert "rolled back to rain/1" in page
    assert "of the answers of rain/2 failed" in page
    assert "evidence of" in page
    assert "Abort…" not in page  # it has ended


def test_the_sequences_of_a_rollout_are_drawn_with_their_margin(settings, server, pages):
    name = roll_out(settings, server, "rain/2", turns=3)
    answer = pages.get(f"/endpoints/rain/rollouts/{name}/sequences")
    assert answer.status_code == 200
    assert "errors +1 pp" in answer.text
    assert 'class="band"' in answer.text
    assert 'class="limit"' in answer.text
    assert pages.get(f"/endpoints/other/rollouts/{name}/sequences").status_code == 404


def test_an_abort_on_the_page_aborts_and_its_reason_is_in_the_history(settings, server, pages):
    name = roll_out(settings, server, "rain/2", turns=1)
    page = pages.get("/endpoints/rain").text
    form = {"csrf": token_of(page), "reason": "wrong version"}
    answer = pages.post(f"/endpoints/rain/rollouts/{name}/abort", data=form)
    assert answer.status_code == 303
    assert open_rollouts(settings).get(name).state == "aborted"
    after = pages.get(answer.headers["location"]).text
    assert "wrong version" in after
    assert 'class="flash good"' in after
    assert 'class="flash good"' not in pages.get("/endpoints/rain").text  # shown once


def test_an_approval_promotes(settings, server, pages):
    name = roll_out(settings, server, "rain/2", turns=6, requests=20_000, needs_approval=True)
    page = pages.get("/endpoints/rain").text
    assert "Approve…" in page
    path = f"/endpoints/rain/rollouts/{name}/promote"
    assert pages.post(path, data={"csrf": token_of(page)}).status_code == 303
    assert open_rollouts(settings).get(name).state == "promoted"


def test_a_rollback_after_a_rollout_returns_to_no_step_of_it(settings, server, pages):
    def rolled_back():
        page = pages.get("/endpoints/rain").text
        assert "Roll back" in page
        form = {"csrf": token_of(page), "reason": "still not well"}
        answer = pages.post("/endpoints/rain/rollback", data=form)
        return pages.get(answer.headers["location"]).text

    server.bad_every = 10
    roll_out(settings, server, "rain/2", turns=5)
    assert "Roll back" not in pages.get("/endpoints/rain").text, "nothing else was served before"
    server.bad_every = 0
    name = roll_out(settings, server, "rain/2", turns=6, requests=20_000, needs_approval=True)
    form = {"csrf": token_of(pages.get("/endpoints/rain").text), "reason": ""}
    pages.post(f"/endpoints/rain/rollouts/{name}/promote", data=form)
    assert open_rollouts(settings).endpoints.endpoint("rain").answers.startswith("rain/2 100 %")
    assert "rain/1 answers" in rolled_back()
    assert open_rollouts(settings).endpoints.endpoint("rain").answers == "rain/1 100 %"


def test_a_rollback_serves_the_earlier_plan_and_a_missing_reason_is_refused(
    settings, server, pages
):
    from bascule.release.rollouts import RolloutRequest

    open_rollouts(settings).deploy(RolloutRequest(version="rain/2", strategy="all"), by="ada")
    token = token_of(pages.get("/endpoints/rain").text)
    refused = pages.post("/endpoints/rain/rollback", data={"csrf": token, "reason": " "})
    assert "a rollback needs a reason" in pages.get(refused.headers["location"]).text
    done = pages.post("/endpoints/rain/rollback", data={"csrf": token, "reason": "slow", "to": ""})
    page = pages.get(done.headers["location"]).text
    assert "rolled back rain from plan 2 to plan 1" in page
    plan = open_rollouts(settings).endpoints.endpoint("rain").current.plan
    assert plan.current.version == "rain/1"


@pytest.mark.parametrize("token", ["", "x", "ü"])
def test_a_form_without_the_token_of_the_session_changes_nothing(settings, server, pages, token):
    name = roll_out(settings, server, "rain/2", turns=1)
    path = f"/endpoints/rain/rollouts/{name}/abort"
    answer = pages.post(path, data={"csrf": token, "reason": "x"})
    assert answer.status_code == 403
    assert "load the page again" in answer.text
    assert open_rollouts(settings).get(name).state != "aborted"


def test_without_keys_another_machine_may_look_and_change_nothing(settings, server):
    name = roll_out(settings, server, "rain/2", turns=1)
    with browsing(control(settings, server), client=("10.1.2.3", 5_000)) as far:
        page = far.get("/endpoints/rain").text
        assert "Abort…" not in page
        token = far.app.state.console.sessions._csrf  # of every page without signing in
        path = f"/endpoints/rain/rollouts/{name}/abort"
        answer = far.post(path, data={"csrf": token, "reason": "x"})
        assert answer.status_code == 403
        assert "only from this machine" in answer.text
    assert open_rollouts(settings).get(name).state != "aborted"


def test_the_live_part_counts_requests_a_second_between_two_looks(settings, server, pages):
    ticks = iter([100.0, 102.0, 104.0])
    pages.app.state.console.looks._clock_s = lambda: next(ticks)
    pages.get("/endpoints/rain/live?plan=1")
    server.answer(500)
    part = pages.get("/endpoints/rain/live?plan=1").text
    assert "<html" not in part
    assert "<dd>250.0</dd>" in part
    assert 'hx-get="/endpoints/rain/live?plan=1"' in part
    assert "has replaced" not in part
    assert "Plan 1 has replaced plan 9" in pages.get("/endpoints/rain/live?plan=9").text


def test_a_model_shows_its_versions_with_aliases_and_the_endpoints_that_need_them(pages):
    page = pages.get("/models/rain").text
    assert page.index("rain/3") < page.index("rain/2") < page.index("rain/1")
    assert "@champion" in page
    assert 'href="/endpoints/rain"' in page


def test_a_version_shows_card_lineage_and_parity(pages):
    page = pages.get("/models/rain/1").text
    assert 'aria-label="Lineage: ' in page
    assert "then endpoint rain" in page
    assert "Parity: " in page
    assert "It is meant for rows like those" in page


def test_two_versions_stand_side_by_side_and_the_address_says_which(pages):
    page = pages.get("/models/rain/2/compare?with=1").text
    assert "rain: version 1 beside version 2" in page
    assert '<option value="1" selected>' in page
    differs, _, same = page.partition("The same in both")
    assert "fit_intercept" in differs
    assert "Signature (" in same
    assert "<summary>Signature" not in differs
    former = pages.get("/models/rain/2?with=1")
    assert (former.status_code, former.headers["location"]) == (
        303,
        "/models/rain/2/compare?with=1",
    )
    assert "version 2 beside version 3" in pages.get("/models/rain/3/compare").text
    assert "version 2 beside version 1" in pages.get("/models/rain/1/compare").text
    assert pages.get("/models/rain/1/compare?with=1").status_code == 404
    assert 'href="/models/rain/3/compare"' in pages.get("/models/rain").text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Change("metrics", "accuracy", 0.8, 0.9), "better"),
        (Change("metrics", "log_loss", 0.2, 0.3), "worse"),
        (Change("metrics", "neg_log_loss", -0.3, -0.2), "better"),
        (Change("metrics", "profit", 1.0, 2.0), ""),
        (Change("metrics", "accuracy", None, 0.9), ""),
        (Change("gates", "accuracy >= 0.7", "passed", "failed"), "worse"),
        (Change("cost", "onnx: 1 row, us", 2.0, 1.0), ""),
    ],
)
def test_a_change_is_better_or_worse_where_the_direction_is_known(change, said):
    assert judgement(change) == said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Change("cost", "onnx: 1 row, us", 2e4, 1e4), ("20 ms", "10 ms", "-50.0 %")),
        (Change("program", "size_bytes", 2_000_000, 3_000_000), ("2.00 MB", "3.00 MB", "+50.0 %")),
        (
            Change("data", "x", "sha256:" + 64 * "a", None),
            ("sha256:" + 12 * "a", "\u2013", "removed"),
        ),
        (Change("metrics", "r2", 0.5, 0.75), ("0.5", "0.75", "+0.25 (+50.0%)")),
    ],
)
def test_values_side_by_side_are_in_units_for_people(change, said):
    assert shown(change) == said


def test_figures_of_other_held_out_rows_say_so():
    rows = Change("data", "test.sha256", "sha256:1", "sha256:2")
    metrics, data = parts_of([Change("metrics", "r2", 0.1, 0.2), rows])
    assert "held-out rows are not the same" in metrics.note
    assert data.note == ""
    (alone,) = parts_of([metrics.changes[0]])
    assert "held-out rows" not in alone.note
    assert "may be chance" in alone.note


def test_a_version_is_folded_but_for_what_is_needed_first(pages):
    page = pages.get("/models/rain/2").text
    folded = [part.partition("</summary>")[0] for part in page.split("<details")[1:]]
    assert "At a glance" not in " ".join(folded)
    assert {"Inputs", "Limits", "Parity"} <= set(re.findall("<h2>([^<]+)</h2>", " ".join(folded)))
    assert not re.search("<details[^>]* open", page)
    assert 'hx-trigger="toggle from:closest details once"' in page
    assert 'href="/deploy?version=rain/2"' in page


def test_the_plots_of_a_version_are_drawn_once_by_another_process(settings, server):
    drawn = []

    class Drawing(Inline):
        def answer(self, take=None):
            drawn.append(self._task.input["model"])
            plot = {
                "title": "Residuals",
                "caption": "c",
                "svg": "<svg></svg>",
                "section": "Quality",
            }
            return {"result": [plot]}

    jobs = JobRunner(open_catalogue(settings), KINDS, partial(Drawing, settings))
    with browsing(control(settings, server, jobs=jobs)) as client:
        for _ in range(2):
            assert "<svg></svg>" in client.get("/models/rain/1/plots").text
    assert drawn == ["rain/1"]


def test_the_slices_of_a_version_are_found_in_its_held_out_rows(settings, server):
    jobs = JobRunner(open_catalogue(settings), KINDS, partial(Inline, settings))
    with browsing(control(settings, server, jobs=jobs)) as client:
        assert 'hx-get="/models/rain/1/slices"' in client.get("/models/rain/1").text
        text = client.get("/models/rain/1/slices").text
    assert "is worse than the other rows." in text or "points worse" in text


def test_a_version_has_its_compliance_documents_to_download(pages):
    assert "/models/rain/1/documents/annex-iv?form=html" in pages.get("/models/rain/1").text
    answer = pages.get("/models/rain/1/documents/article-12?form=markdown")
    assert answer.headers["content-disposition"].endswith('"rain-1-article-12.md"')
    assert "**evidence: logs**" in answer.text
    assert pages.get("/models/rain/1/documents/annex-v").status_code == 404


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/models/snow", 404, "snow"),
        ("/models/rain/9", 404, "9"),
        ("/models/rain/0", 400, "greater than or equal to 1"),
        ("/endpoints/snow", 404, "no endpoint"),
        ("/endpoints/rain?rollout=nope", 404, "no rollout"),
    ],
)
def test_what_is_not_there_is_a_page_with_the_next_step(pages, path, status, words):
    answer = pages.get(path)
    assert answer.status_code == status
    assert words in answer.text
    assert "Next:" in answer.text or status == 400


def test_names_that_look_like_markup_are_shown_as_text(settings, server, pages):
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    from bascule.release.rollouts import RolloutRequest

    open_rollouts(settings).deploy(RolloutRequest(version="rain/2", strategy="all"), by=evil)
    form = {"csrf": token_of(pages.get("/endpoints/rain").text), "reason": evil}
    answer = pages.post("/endpoints/rain/rollback", data=form)
    page = pages.get(answer.headers["location"]).text
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_message_that_this_server_did_not_sign_is_not_shown(pages):
    pages.cookies.set("bascule_flash_8082", "eyJ0b25lIjoiZ29vZCIsInRleHQiOiJnb3QgeW91In0=.00")
    assert "got you" not in pages.get("/").text
