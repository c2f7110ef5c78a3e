"""A deprecated version announces its end over HTTP and gRPC, then is answered 410, then retired."""

import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from tests.waiting import until

import bascule
from bascule.core import Conflict, Gone, Invalid, Refused

INFER = "/v2/models/iris/infer"
BODY = b'{"inputs":[{"name":"input","shape":[1,4],"datatype":"FP64","data":[5,3,1,0]}]}'
ROW = np.array([[5.0, 3.0, 1.0, 0.0]])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    folder = tmp_path_factory.mktemp("deprecated")
    X, y = load_iris(return_X_y=True)
    return [
        bascule.pack(
            LogisticRegression(C=strength, max_iter=1_000).fit(X, y), name="iris", train=X,
            to=folder / str(strength), measure=False, baseline=False,
        ).path
        for strength in (1.0, 0.5)
    ]  # fmt: skip


@pytest.fixture
def registry(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASCULE_HOME", str(tmp_path / "home"))
    for path in trained:
        bascule.push(path)
    return bascule.open_registry()


@pytest.fixture
def server(registry, serve, tmp_path):
    return serve(
        "iris/1", "--grpc-port=0",
        env={"BASCULE_HOME": str(tmp_path / "home"), "BASCULE_MONITORING__LEDGER": "on"},
    )  # fmt: skip


@pytest.fixture
def asked(server, connect):
    """Asks once over HTTP: (status, headers, body)."""

    def ask(path=INFER):
        with connect(server.port) as client:
            answer = client.request("POST", path, BODY).answer()
            return answer.status, answer.headers, answer.body

    return ask


def over_grpc(server):
    """The call over gRPC: code, details, initial metadata."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    request = service_pb2.ModelInferRequest(model_name="iris")
    tensor = request.inputs.add(name="input", datatype="FP64", shape=[1, 4])
    tensor.contents.fp64_contents.extend([5, 3, 1, 0])
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            _, call = stub.ModelInfer.with_call(request, timeout=10)
        except grpc.RpcError as error:
            call = error
        return call.code().name, call.details() or "", dict(call.initial_metadata() or ())


def test_a_version_says_when_it_ends_then_is_gone_then_retired(server, registry, asked, command):
    assert "deprecation" not in asked()[1]
    sunset = datetime(2199, 3, 1, tzinfo=UTC)
    bascule.deprecate("iris/1", sunset=sunset.date(), successor="iris/2", reason="retrained")
    until(lambda: "deprecation" in asked()[1])
    status, headers, _ = asked()
    since = int(registry.resolve("iris/1").deprecated.at.timestamp())
    assert (status, headers["deprecation"]) == (200, f"@{since}")
    assert headers["sunset"] == "Fri, 01 Mar 2199 00:00:00 GMT"
    assert headers["link"] == '</v2/models/iris/versions/2>; rel="successor-version"'
    code, _, metadata = over_grpc(server)
    assert (code, metadata["deprecation"], metadata["sunset"]) == (
        "OK", headers["deprecation"], headers["sunset"],
    )  # fmt: skip

    shown = until(lambda: "still called by" in (said := command("show", "iris/1")[1]) and said)
    assert "deprecated ends 2199-03-01, then iris/2" in shown
    assert "callers without a key" in shown
    remote = ("--server", f"http://127.0.0.1:{server.control_port}")
    shown = command(*remote, "show", "iris/1")[1]
    assert "callers without a key" in shown

    bascule.deprecate("iris/1", sunset=datetime.now(UTC) + timedelta(seconds=4), successor="iris/2")
    until(lambda: asked()[0] == 410)
    status, headers, body = asked()
    assert b"iris/1 is deprecated, and its sunset has passed; use iris/2" in body
    assert "sunset" in headers
    assert over_grpc(server)[0] == "FAILED_PRECONDITION"
    with (
        bascule.Client(f"http://127.0.0.1:{server.port}", model="iris") as client,
        pytest.raises(Gone, match="use iris/2"),
    ):
        client.predict(ROW)

    bascule.undeprecate("iris/1")
    until(lambda: asked()[0] == 200)
    assert "deprecation" not in asked()[1]
    kinds = [one.kind for one in registry.history("iris")]
    assert kinds[-3:] == ["deprecated", "deprecated", "undeprecated"]


@pytest.mark.slow
def test_an_endpoint_announces_the_version_that_answers_and_keeps_it_from_retirement(
    server, registry, asked, command, monkeypatch
):
    bascule.deploy("iris/1")
    assert command("deploy", "iris/2", "--strategy", "blue-green", "--yes")[0] == 0
    until(lambda: asked()[1].get("bascule-version") == "iris/2")
    bascule.deprecate("iris/2", sunset=datetime.now(UTC) + timedelta(seconds=4))
    until(lambda: "sunset" in asked()[1])
    time.sleep(5.5)  # past the sunset: a plan needs it, so its endpoint goes on
    status, headers, _ = asked()
    assert (status, headers["bascule-version"]) == (200, "iris/2")
    for number, part in ((2, "arm current"), (1, "arm previous")):
        with pytest.raises(Refused, match=rf"plan 2 of endpoint iris needs it \({part}\)"):
            registry.retire("iris", number, by="ada", reason="old")
    with pytest.raises(Refused, match="sunset"):
        bascule.deploy("iris/2", to="other")

    with monkeypatch.context() as patched:
        patched.setenv("BASCULE_SERVER", f"http://127.0.0.1:{server.control_port}")
        said = bascule.delete_endpoint("iris", reason="not used")
    assert said == "deleted endpoint iris: servers go on with iris/2"
    until(lambda: "bascule-version" not in asked()[1])
    assert asked()[0] == 410
    assert [one.kind for one in bascule.deploying._endpoints().history("iris")] == [
        "deployed", "deployed", "deleted",
    ]  # fmt: skip
    bascule.deploy("iris/1")
    found = until(lambda: asked()[1].get("bascule-version"))
    assert found == "iris/1"
    (endpoint,) = bascule.list_endpoints()
    assert endpoint.current.plan.number > 2, "numbers go on"
    assert registry.retire("iris", 2, by="ada", reason="old").retired


def test_a_deprecation_that_cannot_be_is_refused(registry):
    with pytest.raises(Invalid, match="in the past"):
        bascule.deprecate("iris/1", sunset=datetime(2020, 1, 1, tzinfo=UTC))
    with pytest.raises(Invalid, match="own successor"):
        bascule.deprecate("iris/1", successor="iris/1")
    with pytest.raises(Invalid, match="does not say which version"):
        bascule.deprecate("iris")
    with pytest.raises(Conflict, match="not deprecated"):
        bascule.undeprecate("iris/1")
    assert registry.history("iris")[-1].kind == "pushed"
