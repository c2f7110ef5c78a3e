"""Prediction ids: every protocol takes and tells one, and outcomes find their predictions by it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bascule.monitoring.ledger import Ledger, SpoolWriter
from bascule.serving.telemetry.ledger import LedgerRecorder
from bascule_client import AsyncClient, Client, Invalid
from bascule_client.outcomes import RefusedOutcome

ROW = {"instances": [[1.0, 2.0]]}
WITHOUT_ID = [
    ("/v1/models/fake:predict", "application/json", json.dumps(ROW).encode()),
    ("/invocations", "application/json", json.dumps(ROW).encode()),
    ("/invocations", "text/csv", b"1,2\n"),
    ("/vertex/predict", "application/json", json.dumps(ROW).encode()),
    ("/score", "application/json", b'{"data": [[1, 2]]}'),
    ("/models/fake/invoke", "application/json", json.dumps(ROW).encode()),
]


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def recorder(home):
    recorder = LedgerRecorder(SpoolWriter(home))
    yield recorder
    recorder.close()


@pytest.fixture
def running(serve_models, program, inline, home, recorder):
    return serve_models(("fake", program, inline), outcomes_home=home, recorder=recorder)


def asked(running, home, sql, recorder):
    running.on_loop(recorder.flush)
    while recorder._spool._handed_bytes > recorder._spool._taken_bytes:
        pass
    return [tuple(one.values()) for one in Ledger(home).query(sql).to_pylist()]


@pytest.mark.parametrize(("path", "kind", "body"), WITHOUT_ID)
def test_a_protocol_without_an_id_in_its_body_has_it_in_the_header(running, path, kind, body):
    with running.client() as client:
        for sent, expected in [
            ("Bascule-Id: mine/1\r\nX-Request-Id: other\r\n", "mine/1"),
            ("X-Request-Id: other\r\n", "other"),
        ]:
            headers = f"Content-Type: {kind}\r\n{sent}"
            answer = client.request("POST", path, body, headers).answer()
            assert (answer.status, answer.headers["bascule-id"]) == (200, expected)
            assert answer.headers["x-request-id"] == "other"
        first, second = (
            client.request("POST", path, body, f"Content-Type: {kind}\r\n").answer().headers
            for _ in range(2)
        )
        assert first["bascule-id"] != second["bascule-id"]


@pytest.mark.parametrize(("given", "status"), [("a" * 128, 200), ("a" * 129, 400), ("ä b", 400)])
def test_an_id_that_cannot_be_one_is_refused(running, given, status):
    path, kind, body = WITHOUT_ID[0]
    with running.client() as client:
        headers = f"Content-Type: {kind}\r\nBascule-Id: {given}\r\n"
        answer = client.request("POST", path, body, headers).answer()
    assert answer.status == status
    if status == 400:
        assert "Bascule-Id" in answer.json["error"]


def test_a_body_with_an_id_has_priority_and_one_without_takes_the_header(running, ask):
    with running.client() as client:
        header = "Bascule-Id: header\r\n"
        path = "/v2/models/fake/infer"
        said = client.request("POST", path, ask([1, 2], id="body"), header).answer()
        assert said.json["id"] == "body"
        said = client.request("POST", path, ask([1, 2]), header).answer()
        assert said.json["id"] == "header"


def test_outcomes_join_their_predictions_by_the_ids_of_an_answer(running, home, recorder):
    with Client(f"http://127.0.0.1:{running.port}", model="fake", max_request_bytes=32) as client:
        answer = client.predict(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
        assert len(answer.requests) == 2
        added = client.add_outcomes(zip(answer.ids, answer["sum"].tolist(), strict=True))
        assert added == (3, ())
    sql = 'select "output.sum" = truth_number, repeats from predictions_with_outcomes'
    running.on_loop(recorder.flush)
    found = asked(running, home, "select count(*) from predictions_with_outcomes", recorder)
    assert found == [(3,)]
    assert Ledger(home).query(sql, model="fake").to_pydict() == {
        '("output.sum" = truth_number)': [True] * 3, "repeats": [0] * 3,
    }  # fmt: skip


def test_an_id_that_comes_twice_joins_the_newest_prediction_and_is_counted(
    running, home, recorder, ask
):
    with running.client() as client:
        for row in ([1, 1], [2, 2], [3, 3]):
            client.request("POST", "/v2/models/fake/infer", ask(row, id="same")).answer()
        body = {"outcomes": [{"id": "same", "truth": 6}]}
        client.request("POST", "/v2/models/fake/outcomes", body).answer()
    asked(running, home, "select 1", recorder)
    found = Ledger(home).query(
        'select "output.sum", truth_number, repeats from predictions_with_outcomes', model="fake"
    )
    assert [tuple(one.values()) for one in found.to_pylist()] == [(6.0, 6.0, 2)]


def test_the_client_takes_pairs_dictionaries_and_tables(running, home):
    import pandas as pd
    import pyarrow as pa

    columns = {"flight": ["a", "b"], "late": [1, 0]}
    names = {"id_column": "flight", "truth_column": "late"}
    when = pd.to_datetime(["2026-01-01", "2026-01-02"])
    with Client(f"http://127.0.0.1:{running.port}") as client:
        assert client.add_outcomes([("a", 1), ("b", True, "2026-01-01")]).taken == 2
        assert client.add_outcomes([{"id": "a", "truth": np.int64(1)}, {"id": "b"}]).refused == (
            RefusedOutcome(1, "b", "no truth"),
        )
        for table in (columns, pd.DataFrame(columns), pa.table(columns)):
            assert client.add_outcomes(table, **names).taken == 2
        dated = pd.DataFrame(columns).assign(landed=when)
        assert client.add_outcomes(dated, **names, time_column="landed").taken == 2
        for wrong in ({"id": ["a"]}, [], ["a"], [("a", [1])], {"id": ["a"], "truth": [1, 2]}):
            with pytest.raises(Invalid) if wrong != [("a", [1])] else _nothing():
                client.add_outcomes(wrong)
    assert Ledger(home).query("select count(*) n from outcomes").to_pydict() == {"n": [2]}


async def _added(port):
    async with AsyncClient(f"http://127.0.0.1:{port}") as client:
        return await client.add_outcomes([(f"r{n}", n) for n in range(12_000)] + [("", 1)])


def test_many_outcomes_are_sent_in_parts_and_places_count_from_the_first(running):
    import asyncio

    added = asyncio.run(_added(running.port))
    assert added == (12_000, (RefusedOutcome(12_000, "", "no id"),))


def _nothing():
    from contextlib import nullcontext

    return nullcontext()
