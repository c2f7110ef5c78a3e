"""Predictions and their outcomes through a real server: every port, one ledger."""

from __future__ import annotations

import re

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf import descriptor_pool, message_factory
from tests.waiting import until

import bascule
from bascule.monitoring import Ledger
from bascule.serving.protocols.grpc_services import Reflection

WAIT_S = 60


@pytest.fixture(scope="module")
def outcomes_messages():
    pool = descriptor_pool.DescriptorPool()
    for file in Reflection().files:
        pool.AddSerializedFile(file.descriptor)

    def message(name):
        kind = pool.FindMessageTypeByName(f"bascule.v1.{name}")
        return message_factory.GetMessageClass(kind)

    return message


def test_outcomes_of_every_port_join_the_predictions_of_one_server(
    serve, cancer_bundle, tmp_path, outcomes_messages
):
    home = tmp_path / "home"
    env = {"BASCULE_HOME": str(home), "BASCULE_MONITORING__LEDGER": "on"}
    server = serve(cancer_bundle, "--workers=2", "--grpc-port=0", env=env)
    rows = np.random.default_rng(0).normal(15, 5, (9, 30))
    with bascule.Client(f"http://127.0.0.1:{server.port}", model="gb") as client:
        answers = [client.predict(rows[start : start + 3]) for start in (0, 3, 6)]
        pairs = [[*zip(one.ids, one["label"].tolist(), strict=True)] for one in answers]
        assert client.add_outcomes(pairs[0]).taken == 3
    request = outcomes_messages("AddRequest")(model_name="gb")
    for id_, truth in pairs[1]:
        request.outcomes.add(id=id_, number=truth)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        reply = channel.unary_unary("/bascule.v1.Outcomes/Add")(request.SerializeToString())
    assert outcomes_messages("AddResponse").FromString(reply).taken == 3
    control = f"http://127.0.0.1:{server.control_port}/api/v1/models/gb/outcomes"
    said = [{"id": id_, "truth": truth} for id_, truth in pairs[2]]
    assert httpx.post(control, json={"outcomes": said}, timeout=WAIT_S).json() == {
        "taken": 3,
        "refused": [],
    }

    listed = httpx.get(control, timeout=WAIT_S).json()["items"]
    assert {f"{one['id']}#{one['row']}" for one in listed} == {
        id_ for part in pairs for id_, _ in part
    }
    metrics = httpx.get(f"http://127.0.0.1:{server.port}/metrics", timeout=WAIT_S).text
    assert re.search(r'bascule_outcomes_total\{model="gb",version="[^"]+"\} 6\n', metrics)
    sql = """select count(*) n, count(*) filter ("output.label" = truth_number) good
        from predictions_with_outcomes"""
    until(lambda: Ledger(home).query(sql, model="gb").to_pylist() == [{"n": 9, "good": 9}])
