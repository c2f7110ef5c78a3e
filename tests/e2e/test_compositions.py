"""Compositions in a running server: canary, ledger, metrics, a part that fails."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
import tritonclient.grpc as triton
from tests.stores import open_stores
from tests.waiting import until

import bascule
from bascule.catalogue import Catalogue, SqliteDatabase
from bascule.core import NotFound
from bascule.endpoints import Arm, Endpoints, EndpointStore, Plan, PlanEvent, Shadow
from bascule.monitoring.ledger import Ledger
from bascule.packing import Composition, PythonModel
from bascule.registry import open_registry

CODE = """
class Model:
    def predict(self, columns):
        if (columns["risk"] < 0).any():
            raise ValueError("negative")
        return {"price": columns["risk"] * 2}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two versions of a composition: a model, code of one's own that reads it, a rule table."""
    from sklearn.linear_model import LinearRegression

    folder = tmp_path_factory.mktemp("compositions")
    rows = pd.DataFrame({"amount": np.arange(50.0), "age": np.arange(50.0) * 7 % 50})
    options = {"measure": False, "explain": False, "outliers": False}
    risk = LinearRegression().fit(rows, rows.amount - 10)
    bascule.pack(risk, name="risk", train=rows, to=folder / "risk", **options)
    code = folder / "doubled.py"
    code.write_text(CODE)
    model = PythonModel(entry="doubled:Model", code=code)
    prices = pd.DataFrame({"risk": [1.0, 2.0]})
    bascule.pack(model, name="price", train=prices, to=folder / "price", **options)
    made = []
    for number, most in ((1, 25), (2, 15)):
        parts = {
            "risk": {"model": "risk"},
            "price": {"model": "price", "inputs": {"risk": "risk.prediction"}},
            "decision": {
                "rules": [
                    {"when": f"price.price > {most}", "then": {"offer": "no"}},
                    {"then": {"offer": "yes"}},
                ]
            },
        }
        document = Composition({"parts": parts}, lambda name: bascule.load(folder / name))
        to = folder / f"credit{number}"
        made.append(
            bascule.pack(document, name="credit", to=to, train=rows.tail(20), **options).path
        )
    return made


def asked(client, amount, **head):
    inputs = [
        {"name": name, "datatype": "FP64", "shape": [1], "data": [value]}
        for name, value in (("amount", amount), ("age", 1.0))
    ]
    return client.request("POST", "/v2/models/credit/infer", head | {"inputs": inputs}).answer()


def test_a_canary_between_two_compositions_records_the_parts_of_each_answer(
    serve, home, connect, command, monkeypatch
):
    monkeypatch.setenv("BASCULE_HOME", str(home))
    env = {"BASCULE_HOME": str(home), "BASCULE_MONITORING__LEDGER": "auto"}
    server = serve("credit/1", "--workers=2", env=env)
    remote = f"--server=http://127.0.0.1:{server.control_port}"
    code, _, said = command(
        remote, "deploy", "credit/2", "--strategy=canary", "--steps=50,100", "--yes"
    )
    assert code == 0, said

    answers = {}

    def both_answer():
        with connect(server.port) as client:
            for _ in range(8):
                prediction_id = f"a{len(answers)}"
                answer = asked(client, 20.0, id=prediction_id)
                assert answer.status == 200, answer.body
                version = f"credit/{answer.json['model_version']}"
                answers[prediction_id] = version, answer.json["outputs"][0]["data"]
        return {version for version, _ in answers.values()} == {"credit/1", "credit/2"}

    until(both_answer)
    # A price of 20, which is too much for the second version alone.
    offers = {"credit/1": ["yes"], "credit/2": ["no"]}
    assert all(said == offers[version] for version, said in answers.values())

    with connect(server.port) as client:
        failed = asked(client, 5.0)
        assert failed.status == 500
        assert "part price" in failed.body.decode()

        def of_parts():
            lines = client.request("GET", "/metrics").answer().body.decode().splitlines()
            found = [line for line in lines if line.startswith("bascule_composition_part_")]

            def total(name, part):
                wanted = f"part_{name}_total{{", f'part="{part}"'
                values = (line for line in found if all(word in line for word in wanted))
                return sum(float(line.rsplit(" ", 1)[1]) for line in values)

            return total

        # Workers note them once a second. The failed answer has asked the first part too.
        until(lambda: of_parts()("rows", "risk") == len(answers) + 1)
        total = of_parts()
    assert total("failures", "price") == 1
    assert total("rows", "decision") == len(answers)
    assert total("seconds", "decision") > 0

    def rows():
        made = Ledger(home).query("select * from predictions where status = 200", model="credit")
        return made.num_rows >= len(answers) and made.to_pylist()

    for row in until(rows):
        number = 1 if answers[row["id"]][0] == "credit/1" else 2
        assert row["input.risk.prediction"] == pytest.approx(10.0)
        assert row["input.price.price"] == pytest.approx(20.0)
        assert row["input.price.ms"] > 0
        assert row["input.price.digest"].startswith("sha256:")
        assert row["input.decision.rule"] == (2 if number == 1 else 1)
    asked_once, (version, _) = next(iter(answers.items()))
    code, out, said = command("replay", asked_once, "--json")
    assert code == 0, said
    assert json.loads(out)["is_same"]
    (other,) = {"credit/1", "credit/2"} - {version}
    assert command("replay", asked_once, "--on", other)[0] == 1, "it has other answers"


def test_a_batch_run_and_the_document_of_a_server_know_a_composition(
    home, command, monkeypatch, tmp_path, trained
):
    monkeypatch.setenv("BASCULE_HOME", str(home))
    table = pd.DataFrame({"amount": [20.0, 40.0], "age": [1.0, 1.0]})
    table.to_parquet(tmp_path / "rows.parquet")
    code, _, said = command(
        "batch",
        "run",
        "credit/2",
        "--from",
        tmp_path / "rows.parquet",
        "--to",
        tmp_path / "out.parquet",
    )
    assert code == 0, said
    scored = pd.read_parquet(tmp_path / "out.parquet")
    assert scored["offer"].tolist() == bascule.load(trained[1]).predict(table)["offer"].tolist()


@pytest.mark.slow
def test_grpc_and_a_shadow_are_answered_and_private_columns_stay_out_of_the_ledger(
    serve, home, connect, monkeypatch
):
    monkeypatch.setenv("BASCULE_HOME", str(home))
    store = EndpointStore(Catalogue(SqliteDatabase(home / "catalogue.db")))
    book = Endpoints(store, lambda: open_registry(home))
    book.deploy("credit/1", by="ada", to="watched")
    arms, shadow = (Arm("current", "credit/1", 100.0),), Shadow("credit/2", 100.0)
    event = PlanEvent("changed", datetime.now(UTC), "ada", "", "a shadow")
    book.apply(Plan("watched", 2, arms, shadow), event)
    env = {
        "BASCULE_HOME": str(home),
        "BASCULE_MONITORING__LEDGER": "auto",
        "BASCULE_MONITORING__PRIVATE": '{"offer": "omit", "risk.prediction": "hash"}',
    }
    server = serve("watched", "--grpc-port=0", env=env)
    inputs = []
    for name, value in (("amount", 20.0), ("age", 1.0)):
        inputs.append(triton.InferInput(name, [1], "FP64"))
        inputs[-1].set_data_from_numpy(np.array([value]))
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        answer = client.infer("watched", inputs, request_id="private")
    assert answer.as_numpy("offer").tolist() == [b"yes"]

    def compared():
        with connect(server.control_port) as client:
            arms = client.request("GET", "/api/v1/endpoints/watched/arms").answer().json["items"]
        (shadow,) = [arm for arm in arms if arm["arm"] == "shadow"]
        return shadow["requests"] and shadow

    assert until(compared)["disagreements"] == 1  # 20 is too much for the second version

    def recorded():
        sql = "select * from predictions where id = 'private'"
        with suppress(NotFound):  # until the first answer is there
            return Ledger(home).query(sql, model="credit").to_pylist()

    (row,) = until(recorded)
    assert row["input.decision.rule"] == 2
    assert row["input.price.price"] == pytest.approx(20.0)
    assert row["input.risk.prediction.hash"]
    assert not {name for name in row if name.endswith((".offer", "risk.prediction"))}


@pytest.mark.slow
def test_a_host_that_never_had_the_parts_serves_and_keeps_private_what_they_read(
    serve, connect, trained, tmp_path, postgresql_url, s3_url
):
    """Its parts are retired, and their files removed, before the other host begins."""
    at = tmp_path / "a"
    registry = open_stores(at, postgresql_url, s3_url)
    for name in ("risk", "price"):
        registry.push(trained[0].parent / name, by="ada")
    parts = {
        "risk": {"model": "risk/1"},
        "price": {"model": "price/1", "inputs": {"risk": "risk.prediction"}},
    }
    document = Composition({"parts": parts}, lambda one: bascule.load(registry.path(one)))
    rows = pd.DataFrame({"amount": np.arange(30.0, 50.0), "age": np.arange(20.0)})
    made = bascule.pack(document, name="credit", to=tmp_path / "made", train=rows, measure=False)
    registry.push(made.path, by="ada")
    for name in ("risk", "price"):
        registry.retire(name, 1, by="ada", reason="only for the composition")
    removed = registry.collect(by="ada", grace_s=0)
    assert len(removed) == 2

    home = tmp_path / "b"
    env = {
        "BASCULE_HOME": str(home), "BASCULE_REGISTRY__STORE": postgresql_url,
        "BASCULE_REGISTRY__OBJECTS": s3_url, "BASCULE_MONITORING__LEDGER": "auto",
        "BASCULE_MONITORING__PRIVATE": '{"risk.amount": "omit", "price.risk": "hash"}',
    }  # fmt: skip
    server = serve("credit/1", env=env)
    with connect(server.port) as client:
        answer = asked(client, 20.0, id="there")
    assert answer.json["outputs"][0]["data"] == [pytest.approx(20.0)], answer.body

    def recorded():
        with suppress(NotFound):  # until the first answer is there
            return Ledger(home).query("select * from predictions", model="credit").to_pylist()

    (row,) = until(recorded)
    assert row["input.age"] == 1.0
    assert row["input.risk.prediction.hash"]
    assert not {"input.amount", "input.risk.prediction"} & row.keys()
