"""Outcomes through the control API: every form of body, pages, rights and limits."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.controls import asking, control_app
from tests.tiers import first_of
from tests.unit.control.test_control_api import FakeSupervisor, find

from bascule.catalogue import Requests
from bascule.monitoring.ledger.operations import ADD_OUTCOMES
from bascule.registry import open_registry

PATH = "/api/v1/models/late/outcomes"
PARQUET = {"content-type": "application/vnd.apache.parquet"}
CSV = {"content-type": "text/csv; charset=utf-8"}


@pytest.fixture
def client(tmp_path, cancer_bundle):
    registry = open_registry(tmp_path / "home")
    registry.push(cancer_bundle, by="ada")
    requests = Requests(registry._records._catalogue)
    app = control_app(
        FakeSupervisor(), lambda: registry, find,
        open_requests=lambda: requests, home=tmp_path / "home",
    )  # fmt: skip
    with asking(app) as client:
        yield client


def kept(client, limit=100):
    found, cursor = [], {}
    while cursor is not None:
        page = client.get(PATH, params={"limit": limit, **cursor}).json()
        found += [(one["id"], one["row"], one["truth"]) for one in page["items"]]
        cursor = None if page["next"] is None else {"cursor": page["next"]}
    return found


def parquet(**columns):
    made = io.BytesIO()
    pq.write_table(pa.table(columns), made)
    return made.getvalue()


def test_json_csv_and_parquet_say_the_same(client):
    said = [{"id": "007", "truth": 1}, {"id": "a#3", "truth": 0}, {"id": "", "truth": 1}]
    answers = [
        client.post(PATH, json={"outcomes": said}),
        client.post(PATH, content=b"id,truth\n007,1\na#3,0\n,1\n", headers=CSV),
        client.post(
            PATH + "?id_column=flight&truth_column=late", headers=PARQUET,
            content=parquet(flight=["007", "a#3", ""], late=[1, 0, 1], other=["x"] * 3),
        ),
    ]  # fmt: skip
    for answer in answers:
        assert answer.status_code == 207, answer.text
        assert answer.json() == {"taken": 2, "refused": [{"index": 2, "id": "", "reason": "no id"}]}
        assert kept(client) == [("007", 0, "1"), ("a", 3, "0")]


@pytest.mark.parametrize("limit", first_of([1, 2, 5, 6], 2))
def test_outcomes_come_in_pages_by_id_and_row(client, limit):
    said = [{"id": one, "truth": 1} for one in ("b", "a#10", "a#9", "a!", "ü'")]
    client.post(PATH, json={"outcomes": said})
    assert [one[:2] for one in kept(client, limit)] == [
        ("a!", 0), ("a", 9), ("a", 10), ("b", 0), ("ü'", 0),
    ]  # fmt: skip
    assert client.get(PATH, params={"cursor": "WzFd"}).status_code == 400


def test_the_same_request_again_is_answered_again_and_adds_nothing(client, tmp_path):
    send = {"json": {"outcomes": [{"id": "a", "truth": 1}]}, "headers": {"Idempotency-Key": "one"}}
    first, second = client.post(PATH, **send), client.post(PATH, **send)
    assert first.json() == second.json() == {"taken": 1, "refused": []}
    assert second.headers["Idempotency-Replayed"] == "true"
    (file,) = (tmp_path / "home" / "outcomes" / "late").iterdir()
    assert len(file.read_bytes().splitlines()) == 1


def test_verdicts_of_a_judge_are_not_taken_from_callers(client):
    verdict = {"outcomes": [{"id": "a", "truth": 1}]}
    answer = client.post(PATH.replace("/late/", "/_judge.strict/"), json=verdict)
    assert (answer.status_code, "is not allowed" in answer.text) == (400, True)


def test_what_cannot_be_read_is_refused_with_the_next_step(client):
    for options, status, words in [
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "text/csv"),
        ({"content": b"PAR1", "headers": PARQUET}, 400, "not Parquet"),
        ({"content": b"", "headers": CSV}, 400, "not CSV"),
        ({"content": b"id,late\na,1\n", "headers": CSV}, 400, "truth"),
        ({"json": {"outcomes": []}}, 400, "empty"),
        ({"content": b" " * (ADD_OUTCOMES.max_body_bytes + 1), "headers": CSV}, 413, "the most"),
        ({"content": parquet(id=["x" * 4000] * 20_000, truth=[1] * 20_000), "headers": PARQUET},
         413, "80,000,000 bytes"),
        ({"content": parquet(id=["a"] * 1_000_001, truth=[1] * 1_000_001), "headers": PARQUET},
         413, "1,000,001 rows"),
    ]:  # fmt: skip
        answer = client.post(PATH, **options)
        assert (answer.status_code, words in answer.text) == (status, True), answer.text
    assert kept(client) == []


def test_without_keys_outcomes_are_for_this_machine_alone(client):
    for ask in (client.get, client.post):
        answer = ask(PATH, headers={"host": "example.com"})
        assert answer.status_code == 403
