"""The extra output `explain` of a real bundle over the protocols, and in a batch job."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.ensemble import GradientBoostingRegressor
from typer.testing import CliRunner

import bascule
from bascule.cli.commands import app
from bascule.core.programs import Program

INFER = "/v2/models/m/infer"


class Packed(Program):
    """The program of a bundle, with what a fake one says of itself."""

    def __init__(self, bundle):
        self._program = bundle.program()
        self.name, self.inputs = self._program.name, self._program.inputs
        self.outputs, self.signature = self._program.outputs, bundle.signature
        self.extras = [extra for extra in bundle.extras if extra.name == "explain"]

    def run(self, columns, outputs=None):
        return self._program.run(columns, outputs)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    X = pd.DataFrame(np.random.default_rng(3).normal(size=(200, 3)), columns=["a", "b", "c"])
    y = X.a * 3 + X.b * X.c
    model = GradientBoostingRegressor(n_estimators=10, random_state=0).fit(X, y)
    to = tmp_path_factory.mktemp("explained") / "b"
    return bascule.pack(model, name="m", train=(X, y), to=to, measure=False)


@pytest.fixture
def server(serve_models, inline, bundle):
    return serve_models(("m", Packed(bascule.load(bundle.path)), inline))


def tensors(row):
    return [
        {"name": name, "datatype": "FP64", "shape": [1], "data": [value]}
        for name, value in zip("abc", row, strict=True)
    ]


def outputs_of(answer):
    assert answer.status == 200, answer.body
    return {output["name"]: output["data"] for output in answer.json["outputs"]}


def test_protocols_have_it_and_requests_without_it_have_none(server, bundle):
    row = [0.5, -1.0, 2.0]
    expected = bundle.predict(np.array([row]), parameters={"explain": True})
    with server.client() as client:
        body = {"inputs": tensors(row)}
        plain = outputs_of(client.request("POST", INFER, body).answer())
        assert list(plain) == ["prediction"]
        for value in (True, "top3", "true"):
            answer = client.request("POST", INFER, {**body, "parameters": {"explain": value}})
            found = outputs_of(answer.answer())
            assert found["attributions"] == expected["attributions"][0].tolist()
            total = found["attributions_base"][0] + sum(found["attributions"])
            assert total == pytest.approx(found["prediction"][0], abs=1e-6)
        turned = {"inputs": tensors(row)[::-1], "parameters": {"explain": True}}
        found = outputs_of(client.request("POST", INFER, turned).answer())
        assert found["attributions"] == expected["attributions"][0].tolist()
        top = {**body, "parameters": {"explain": "top1"}}
        found = outputs_of(client.request("POST", INFER, top).answer())
        assert np.count_nonzero(found["attributions"]) == 1
        assert found["attributions_rest"] != [0.0]
        refused = client.request("POST", INFER, {**body, "parameters": {"explain": "all"}})
        assert refused.answer().status == 400
        off = {**body, "parameters": {"explain": False}}
        assert outputs_of(client.request("POST", INFER, off).answer()) == plain
        instance = [dict(zip("abc", row, strict=True))]
        sent = {"instances": instance, "params": {"explain": True}}
        (made,) = client.request("POST", "/invocations", sent).answer().json["predictions"]
        assert made["attributions"] == expected["attributions"][0].tolist()
        said = client.request("GET", "/v2/models/m").answer().json
        assert "a,b,c" in str(said)


def test_it_is_opened_on_a_thread_and_then_costs_what_was_measured(bundle):
    (extra,) = [one for one in bascule.load(bundle.path).extras if one.name == "explain"]
    assert extra.row_cost_s == math.inf
    assert extra.explainer.columns == ("a", "b", "c")
    assert 0 < extra.row_cost_s < 0.1


def test_a_batch_job_lists_attributions_by_the_names_of_columns(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X = pd.DataFrame(np.random.default_rng(4).normal(size=(50, 3)), columns=["a", "b", "c"])
    X.to_parquet("rows.parquet")
    words = ["batch", "run", f"{bundle.path}/", "--from", "rows.parquet", "--to", "out/"]
    done = CliRunner().invoke(app, [*words, "--columns", "prediction,attributions"])
    assert done.exit_code == 0, done.output
    made = pq.read_table("out").to_pandas()
    expected = bundle.predict(X, parameters={"explain": True})
    found = made[["attributions_a", "attributions_b", "attributions_c"]].to_numpy()
    np.testing.assert_allclose(found, expected["attributions"], rtol=1e-12)
    total = made["attributions_base"] + found.sum(axis=1)
    np.testing.assert_allclose(total, made["prediction"], rtol=1e-6)
