"""Outcomes on the prediction ports: durable when answered, bounded, and refused one by one."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from bascule.monitoring.ledger import Ledger, Outcomes, OutcomeSpool
from bascule.monitoring.ledger.outcome_lines import MAX_BODY_BYTES, MAX_ID, MAX_OUTCOMES
from bascule.serving.protocols import outcome_writer

WAIT_S = 10
ADD = "/bascule.v1.Outcomes/Add"
PATH = "/v2/models/fake/outcomes"


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def running(serve_models, program, inline, home):
    return serve_models(("fake", program, inline), ("other", program, inline), outcomes_home=home)


def kept(home):
    found = Ledger(home).query(
        "select model, id, row, truth, truth_number from outcomes order by all"
    )
    return [tuple(one.values()) for one in found.to_pylist()]


def post(client, *outcomes, path=PATH):
    return client.request("POST", path, {"outcomes": list(outcomes)}).answer()


def test_outcomes_are_kept_when_they_are_answered_and_a_query_sees_them_at_once(running, home):
    with running.client() as client:
        answer = post(client, {"id": "a", "truth": 1}, {"id": "b#2", "truth": "late"})
    assert (answer.status, answer.json) == (200, {"taken": 2, "refused": []})
    assert kept(home) == [("fake", "a", 0, "1", 1.0), ("fake", "b", 2, "late", None)]


def test_a_wrong_outcome_is_refused_with_its_place_and_the_others_are_kept(running, home):
    wrong = [
        {"truth": 1}, {"id": "a"}, {"id": "a", "truth": [1]}, {"id": 7, "truth": 1}, "a",
        {"id": "a", "truth": 1, "time": "soon"}, {"id": "a", "truth": 1, "label": 1},
        {"id": "i" * (MAX_ID + 1), "truth": 1}, {"id": "a", "truth": "t" * 1025},
    ]  # fmt: skip
    with running.client() as client:
        answer = post(client, *wrong, {"id": "i" * MAX_ID, "truth": "t" * 1024})
    assert answer.status == 207
    assert answer.json["taken"] == 1
    assert [one["index"] for one in answer.json["refused"]] == [*range(len(wrong))]
    reasons = " | ".join(one["reason"] for one in answer.json["refused"])
    for said in (
        "no id", "no truth", "not a number, a text", "id: not a text", "not an object",
        "time: not a time", "label: there is no such field", "1,025 characters",
    ):  # fmt: skip
        assert said in reasons
    assert len(kept(home)) == 1


def test_limits_are_named(running):
    one = {"id": "a", "truth": 1}
    with running.client() as client:
        assert post(client, *[one] * MAX_OUTCOMES).status == 200
        many = post(client, *[one] * (MAX_OUTCOMES + 1))
        assert (many.status, "10,001 are over 10,000" in many.json["error"]) == (413, True)
        long = client.request("POST", PATH, b" " * (MAX_BODY_BYTES + 1)).answer()
        assert (long.status, "send several requests" in long.json["error"]) == (413, True)
        for body in (b"{}", b"[]", b"{", b'{"outcomes": []}', b'{"outcomes": [], "model": 1}'):
            answer = client.request("POST", PATH, body).answer()
            assert (answer.status, '"outcomes"' in answer.json["error"]) == (400, True)
        assert post(client, one, path="/v2/models/nowhere/outcomes").status == 404


def test_a_home_that_cannot_be_written_is_said_and_predictions_go_on(
    serve_models, program, inline, home, ask
):
    home.write_text("a file, and no folder")
    running = serve_models(("fake", program, inline), outcomes_home=home)
    with running.client() as client:
        answer = post(client, {"id": "a", "truth": 1})
        assert (answer.status, "writable" in answer.json["error"]) == (503, True)
        assert answer.headers["retry-after"]
        assert client.request("POST", "/v2/models/fake/infer", ask([1, 2])).answer().status == 200


def test_many_small_requests_share_one_file_and_lose_none(running, home):
    def send(number):
        with running.client() as client:
            return post(client, {"id": f"r{number}", "truth": number}).status

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, range(64))) == {200}
    assert {one[1] for one in kept(home)} == {f"r{number}" for number in range(64)}
    assert len(list(home.glob("outcomes/fake/*"))) == 1
    running.outcomes.close()
    assert Outcomes(home).fold() == 1
    assert len(kept(home)) == 64
    assert [file.suffix for file in home.glob("outcomes/fake/*")] == [".parquet"]


def test_a_disk_that_stands_still_refuses_more_than_may_wait_and_delays_no_prediction(
    running, home, monkeypatch, ask
):
    stands, goes_on = threading.Event(), threading.Event()
    append = OutcomeSpool.append

    def slow(*arguments):
        stands.set()
        assert goes_on.wait(WAIT_S)
        append(*arguments)

    monkeypatch.setattr(OutcomeSpool, "append", slow)
    monkeypatch.setattr(outcome_writer, "_MAX_WAITING_BYTES", 100)
    body = {"outcomes": [{"id": "i" * 20, "truth": 1}]}  # of 51 bytes
    with running.client() as first, running.client() as second, running.client() as third:
        first.request("POST", PATH, body)
        assert stands.wait(WAIT_S)
        refused = second.request("POST", PATH, body).answer()
        assert (refused.status, "wait for the disk" in refused.json["error"]) == (429, True)
        assert third.request("POST", "/v2/models/fake/infer", ask([1, 2])).answer().status == 200
        assert kept(home) == []
        goes_on.set()
        assert first.answer().status == 200
        assert second.request("POST", PATH, body).answer().status == 200


def test_outcomes_are_counted_by_model_and_described(running):
    with running.client() as client:
        post(client, {"id": "a", "truth": 1}, {"id": "b", "truth": 2}, {"id": "", "truth": 2})
        described = client.request("GET", "/v2/openapi.json").answer().json["paths"][PATH]["post"]
    assert [total.outcomes for total in running.totals()] == [0, 2, 0]
    assert described["requestBody"]["content"]["application/json"]["example"]["outcomes"]


def test_outcomes_over_grpc_are_the_same(running, home, grpc_client, messages):
    request = messages("bascule.v1.AddRequest")(model_name="fake")
    request.outcomes.add(id="a", text="late", time="2026-11-26T12:00:00Z")
    request.outcomes.add(id="b#1", number=0.5)
    request.outcomes.add(id="c", flag=True)
    request.outcomes.add(id="", number=1)
    request.outcomes.add(id="d")
    client = grpc_client(running)
    answer = messages("bascule.v1.AddResponse").FromString(
        client.call(ADD, request.SerializeToString())
    )
    assert answer.taken == 3
    assert [(one.index, one.reason) for one in answer.refused] == [(3, "no id"), (4, "no truth")]
    assert [one[1:] for one in kept(home)] == [
        ("a", 0, "late", None), ("b", 1, "0.5", 0.5), ("c", 0, "true", 1.0),
    ]  # fmt: skip
    nowhere = messages("bascule.v1.AddRequest")(model_name="nowhere")
    assert client.refusal(ADD, nowhere.SerializeToString())[0] == "NOT_FOUND"
    assert client.refusal(ADD, b"")[0] == "INVALID_ARGUMENT"


def test_a_server_without_a_home_has_no_outcomes(serve_models, program, inline, grpc_client):
    running = serve_models(("fake", program, inline))
    with running.client() as client:
        assert post(client, {"id": "a", "truth": 1}).status == 404
    with pytest.raises(grpc.RpcError) as refused:
        grpc_client(running).call(ADD, b"")
    assert refused.value.code().name == "UNIMPLEMENTED"


def test_what_a_killed_writer_left_half_written_is_not_read_and_not_in_the_way(running, home):
    with running.client() as client:
        post(client, {"id": "a", "truth": 1})
    running.outcomes.close()
    (file,) = home.glob("outcomes/fake/*.jsonl")
    with file.open("ab") as opened:
        opened.write(b'{"id":"b","row":0,"truth":"2",')
        os.fsync(opened.fileno())
    assert [one[1] for one in kept(home)] == ["a"]
    Outcomes(home).fold()
    assert [one[1] for one in kept(home)] == ["a"]
