"""An extra output is one file and one line: protocols, batch, Python and console have it."""

from __future__ import annotations

import asyncio

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests import row_sum_extra
from tests.console_work import looking, token_of
from typer.testing import CliRunner

import bascule
from bascule.app import open_registry, open_rollouts
from bascule.bundle.extras import EXTRAS, open_extras
from bascule.cli.commands import app
from bascule.core import Invalid
from bascule.release.rollouts import RolloutRequest
from bascule.serving.execution import BufferBudget
from bascule.serving.limits import Limits
from bascule.serving.specs import ModelSpec
from bascule.serving.workers.loaded_models import describe
from bascule.settings import load_settings
from bascule_client import Client

INFER = "/v2/models/m/infer"
ROWS = np.arange(20.0).reshape(2, 10) / 10
SUMS = ROWS.sum(axis=1)


@pytest.fixture(autouse=True)
def line(monkeypatch):
    monkeypatch.setitem(EXTRAS, "row_sum", row_sum_extra.PLACE)


@pytest.fixture
def server(serve_models, fake, inline, regressor_bundle):
    program = fake()
    opened = open_extras(regressor_bundle, bascule.load(regressor_bundle).manifest)
    program.extras = [extra for extra in opened if extra.name == "row_sum"]
    return serve_models(("m", program, inline))


def test_the_models_of_a_server_have_it(regressor_bundle):
    loop = asyncio.new_event_loop()
    spec = ModelSpec("m", "1", regressor_bundle)
    model = describe(spec, Limits(), None, loop, BufferBudget(1 << 30))
    loop.close()
    assert "row_sum" in model.extras.names
    assert model.extras.metadata()["row_sum_adds"] == "row_sum"


def test_it_is_in_answers_over_http(server, ask):
    with server.client() as client:
        body = ask([1, 2], [3, 4], parameters={"row_sum": True, "power": 2})
        outputs = client.request("POST", INFER, body).answer().json["outputs"]
        assert outputs[-1] == {"name": "row_sum", "datatype": "FP64", "shape": [2], "data": [5, 25]}
        plain = client.request("POST", INFER, ask([1, 2])).answer().json["outputs"]
        assert [output["name"] for output in plain] == ["twice", "sum"]
        wrong = ask([1, 2], parameters={"row_sum": True, "power": 4})
        refused = client.request("POST", INFER, wrong).answer()
        assert (refused.status, refused.json["error"]) == (
            400, "power: 4 is not a number from 1 to 3; the metadata of m says what it takes"
        )  # fmt: skip


def test_it_is_in_answers_over_grpc(server, grpc_client, ask_grpc):
    request = ask_grpc([1, 2], raw=False)
    request.model_name = "m"
    request.parameters["row_sum"].bool_param = True
    output = grpc_client(server).infer(request).outputs[-1]
    assert (output.name, list(output.contents.fp64_contents)) == ("row_sum", [3])


def test_protocols_of_rows_have_it_where_it_is_declared(server):
    parameters = {"row_sum": True}
    with server.client() as client:
        body = {"instances": [[1, 2]], "params": parameters}
        (row,) = client.request("POST", "/invocations", body).answer().json["predictions"]
        assert row["row_sum"] == 3
        body = {"data": [[1, 2]], "params": parameters}
        refused = client.request("POST", "/score", body).answer()
        assert refused.status == 400
        assert "row_sum: it cannot be asked for over azureml" in refused.json["error"]


def test_it_is_in_the_openapi_document(server):
    with server.client() as client:
        paths = client.request("GET", "/v2/openapi.json").answer().json["paths"]

    def properties(path):
        content = paths[path]["post"]["requestBody"]["content"]["application/json"]
        return content["schema"]["properties"]

    assert properties(INFER)["parameters"]["properties"]["power"] == {
        "anyOf": [{"type": "integer", "minimum": 1, "maximum": 3}, {"type": "null"}],
        "description": "Of a value.",
    }  # fmt: skip
    assert "row_sum" in properties("/invocations")["params"]["properties"]
    assert "row_sum" not in properties("/score")["params"]["properties"]


def test_a_client_sends_it_by_its_name(server):
    with Client(f"http://127.0.0.1:{server.port}", model="m") as client:
        answer = client.predict(np.array([[1.0, 2.0]]), parameters={"row_sum": True})
    assert answer["row_sum"].tolist() == [3]


def test_a_bundle_in_the_hand_has_it(regressor_bundle):
    bundle = bascule.load(regressor_bundle)
    answer = bundle.predict(ROWS, parameters={"row_sum": True}, confidence=0.5)
    assert list(answer) == ["prediction", "lower", "upper", "row_sum"]
    np.testing.assert_allclose(answer["row_sum"], SUMS)
    with pytest.raises(Invalid, match="row_sum: 'yes' is not true or false"):
        bundle.predict(ROWS, parameters={"row_sum": "yes"})


@pytest.mark.parametrize(
    ("protocol", "lang", "written"),
    [
        ("oip", "curl", '], "parameters": {"row_sum": true}}'),
        ("invocations", "js", '], "params": {"row_sum": true}}'),
        ("vertex", "python", '    "parameters": {"row_sum": True},'),
        ("grpc", "python", ', parameters={"row_sum": True}'),
    ],
)
def test_snippets_ask_for_it(regressor_bundle, protocol, lang, written):
    words = ("snippet", regressor_bundle, "--parameter=row_sum=true")
    words += (f"--protocol={protocol}", f"--lang={lang}")
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == 0, done.output
    assert written in done.stdout
    compile(done.stdout, "snippet", "exec") if lang == "python" else None


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({f"c{at}": ROWS[:, at] for at in range(10)}), "rows.parquet")


@pytest.mark.parametrize(
    "option", [("--parameter", "row_sum=true"), ("--columns", "prediction,row_sum")]
)
def test_batch_jobs_have_it_asked_for_or_listed(table, regressor_bundle, option):
    job = ("batch", "run", f"{regressor_bundle}/", "--from", "rows.parquet", "--to", "out/")
    done = CliRunner().invoke(app, [*job, *option])
    assert done.exit_code == 0, done.output
    scored = pq.read_table("out")
    np.testing.assert_allclose(scored["row_sum"].to_numpy(), SUMS)


def test_the_console_has_fields_for_it(table, regressor_bundle, tmp_path):
    settings = load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})
    open_registry(settings).push(regressor_bundle, by="ada")
    open_rollouts(settings).deploy(RolloutRequest(version="ridge/1", strategy="all"), by="ada")
    with looking(settings) as pages:
        for place in ("/score", "/try/ridge"):
            assert 'name="power"' in pages.get(place).text
        page = pages.get("/batch").text
        assert 'name="power"' in page
        assert "Whether to add the sum of each row." in page
        form = {"csrf": token_of(page), "model": "ridge/1", "from": "rows.parquet", "to": "out/",
                "mode": "error", "act": "plan"}  # fmt: skip
        assert "row_sum" in pages.post("/batch/runs", data={**form, "row_sum": "true"}).text
        refused = pages.post("/batch/runs", data={**form, "row_sum": "perhaps"})
        assert refused.status_code == 422
        assert "is not true or false" in refused.text
