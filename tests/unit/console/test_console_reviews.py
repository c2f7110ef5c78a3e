"""Reviews in the console and over the control API: rights and answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from tests.console_work import looking, token_of
from tests.unit.monitoring.test_reviews import record

from bascule.app import open_catalogue
from bascule.monitoring import Ledger
from bascule.monitoring.reviews import ReviewRule, ReviewStore
from bascule.settings import load_settings

API = "/api/v1/models/late/reviews"


def open_reviews(settings):
    return ReviewStore(open_catalogue(settings), settings.home)


@pytest.fixture
def settings(tmp_path):
    chosen = load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})
    open_catalogue(chosen).create()
    record(chosen.home, rows=40)
    rule, now = ReviewRule(outlier_p=0.05, base_rate=0.001), datetime.now(UTC)
    since, until = now - timedelta(days=1), now + timedelta(seconds=1)
    open_reviews(chosen).look("late", rule, since, until)
    return chosen


@pytest.fixture
def pages(settings):
    with looking(settings) as client:
        yield client


def test_a_row_is_shown_and_answered_on_the_page(settings, pages):
    first, *others = open_reviews(settings).reviews("late")
    page = pages.get("/review/late").text
    assert "outlying; chosen with probability 1" in page
    assert f"{first.prediction_id}#0" in page
    assert "<dt>outlier_p</dt><dd>0.01</dd>" in page
    form = {"csrf": token_of(page)}
    pages.post(f"/review/late/{first.id}", data={**form, "truth": "1"})
    assert [review.id for review in open_reviews(settings).reviews("late")] == [
        review.id for review in others
    ]
    (outcome,) = Ledger(settings.home).query("SELECT * FROM outcomes").to_pylist()
    assert (outcome["id"], outcome["truth"], outcome["probability"]) == (
        first.prediction_id, "1", 1.0,
    )  # fmt: skip


def test_the_api_lists_and_answers(settings, pages):
    listed = pages.get(API, params={"limit": 3}).json()
    assert len(listed["items"]) == 3
    review = listed["items"][0]["id"]
    rest = pages.get(API, params={"cursor": listed["next"]}).json()["items"]
    assert not {one["id"] for one in rest} & {one["id"] for one in listed["items"]}
    ada, bob = {"bascule-user": "ada"}, {"bascule-user": "bob"}
    answered = pages.post(f"{API}/{review}/answer", json={"truth": 1}, headers=ada)
    refused = pages.post(f"{API}/{review}/answer", json={"truth": 0}, headers=bob)
    assert refused.status_code == 409
    assert "is answered" in refused.json()["detail"]
    assert (answered.json()["state"], answered.json()["truth"]) == ("answered", "1")
    assert pages.get(API, params={"state": "answered"}).json()["items"][0]["id"] == review
    assert pages.post(f"{API}/nothing/answer", json={"truth": 1}).status_code == 404
