"""The ledger as a server has it by default: rows and profiles, protocols and figures."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import tritonclient.grpc as triton
from tests.conftest import Client, children_of
from tests.waiting import until

from bascule.control import versions_of
from bascule.monitoring import measure_performance
from bascule.monitoring.ledger import Ledger, Outcomes, Scribe
from bascule.monitoring.profiles import read_windows

ROWS = np.random.default_rng(5).normal(size=(2, 30)) * 100 + 200
SCRIBE = "bascule.monitoring.ledger"


@pytest.fixture(scope="module")
def served(start, cancer_bundle, tmp_path_factory):
    """Each protocol is asked once; the home of the server, and its metrics."""
    home = tmp_path_factory.mktemp("home")
    env = {"BASCULE_HOME": str(home), "BASCULE_MONITORING__LEDGER": "auto"}
    server = start(cancer_bundle, "--grpc-port=0", env=env)
    bodies = {
        "/v2/models/gb/infer": json.loads((cancer_bundle / "data/example.json").read_text()),
        "/v1/models/gb:predict": {"instances": ROWS.tolist()},
        "/invocations": {"instances": ROWS.tolist()},
        "/vertex/predict": {"instances": ROWS.tolist()},
        "/score": {"data": ROWS.tolist()},
    }
    with Client(server.port) as client:
        for path, body in bodies.items():
            assert client.request("POST", path, body).answer().status == 200, path
    tensor = triton.InferInput("input", ROWS.shape, "FP64")
    tensor.set_data_from_numpy(ROWS)
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as grpc:
        grpc.infer("gb", [tensor])
    assert children_of(server.process.pid, SCRIBE)
    with Client(server.port) as client:

        def metrics_of_six():
            text = client.request("GET", "/metrics").answer().body.decode()
            return "bascule_ledger_kept_total 6" in text and text

        metrics = until(metrics_of_six)
    server.end()
    server.process.stdout.close()
    scribe = Scribe(home)  # had the scribe no time to begin, this is the next one
    while scribe.turn(everything=True):
        pass
    scribe.close()
    return home, metrics


def test_a_row_says_by_which_protocol_it_was_asked(served):
    found = Ledger(served[0]).query(
        "select protocol, count(distinct id) n from predictions group by 1"
    )
    assert {row["protocol"]: row["n"] for row in found.to_pylist()} == dict.fromkeys(
        ["oip", "oip-grpc", "tfserving", "invocations", "vertex", "azureml"], 1
    )


def test_a_window_has_the_columns_of_the_bundles_baseline(served, cancer_bundle):
    import bascule

    baseline = bascule.load(cancer_bundle).baseline
    (window,) = read_windows(served[0], "gb")
    assert list(window.inputs.columns) == list(baseline.inputs.columns)
    assert window.rows == window.inputs.rows == 14
    if baseline.answers is not None:
        assert list(window.outputs.columns) == list(baseline.answers.columns)


def test_metrics_say_what_was_kept_and_dropped(served):
    assert "bascule_ledger_dropped_total 0" in served[1]
    assert "bascule_ledger_lag_seconds " in served[1]


def test_performance_is_measured_on_what_the_server_answered(served, cancer_bundle):
    """The truth of all rows but one is what the model said."""
    home = served[0]
    sql = 'select id, row, "output.label" said from predictions order by time, row'
    answers = Ledger(home).query(sql, model="gb").to_pylist()
    truth = [one["said"] for one in answers]
    truth[0] = 1 - truth[0]
    ids = [f"{one['id']}#{one['row']}" for one in answers]
    Outcomes(home).add("gb", pa.table({"id": ids, "truth": truth}))
    name, bundle_of = versions_of(str(cancer_bundle), lambda: None)
    report = measure_performance(home, name, bundle_of=bundle_of, by="all", slice_by=["protocol"])
    whole = report.windows[0]
    assert (whole.predictions, whole.truths) == (14, 14)
    accuracy, auc, loss = whole.metrics
    assert accuracy.found.value == pytest.approx(13 / 14)
    assert (auc.found.rows, loss.found.rows) == (8, 8)  # callers of other protocols get labels
    by_protocol = [one for one in report.windows if one.slice and one.slice[0] == "protocol"]
    assert sum(one.predictions for one in by_protocol) == 14
    assert len(by_protocol) == 6
