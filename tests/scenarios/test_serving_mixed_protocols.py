"""Callers of every protocol at once: each gets the answer to its own rows under its own id, and the
counters know of all."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as triton
from prometheus_client.parser import text_string_to_metric_families
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from tests.tiers import first_of

import bascule
from bascule.registry import open_registry

CALLERS = 16
SIZES = [1, 1, 1, 2, 3, 8, 30, 100, 250]
AT_ONCE = 50_000


@pytest.fixture(scope="module")
def network(packed):
    """A row's last bits depend on its company."""
    X, y = load_digits(return_X_y=True)
    network = MLPClassifier((100,), solver="lbfgs", max_iter=30, tol=1.0, random_state=0)
    model = make_pipeline(MinMaxScaler(), network).fit(X, y)
    return bascule.load(packed("m", model, X)), X


def ask_form(protocol, client, form, signature, rows, call_id, *, is_named):
    """The outputs, once the answer has said that it is that of this request."""
    request = form.ask(protocol.Rows.of(signature, rows.tolist(), call_id))
    lines = "".join(f"{line}\r\n" for line in request.headers)
    if is_named:
        lines += f"X-Request-Id: {call_id}\r\n"
    answer = client.request(request.method, request.path, request.body, lines).answer()
    assert answer.status == 200, answer.body[:300]
    told = answer.headers.get("x-request-id")
    if is_named:
        assert told == call_id
    else:  # the server may make an id, which is never that of another request
        assert told != call_id
    assert form.call_id is None or form.call_id(answer) == call_id
    return form.read(answer, [field.name for field in signature.outputs])


def ask_grpc(channel, rows, call_id):
    given = triton.InferInput("input", rows.shape, "FP64")
    given.set_data_from_numpy(rows)
    answer = channel.infer("m", [given], request_id=call_id)
    assert answer.get_response().id == call_id
    return {name: answer.as_numpy(name) for name in ("label", "probabilities")}


@pytest.mark.parametrize(
    ("model", "scale", "workers"),
    first_of([("trees", 6_000, 2), ("network", 3_000, 2), ("trees", 1_000_000, 2)]),
)
def test_in_a_crowd_of_all_protocols_everybody_gets_the_answer_to_their_rows(
    serve, connect, protocol, forms, tmp_path, request, model, scale, workers
):
    """To the bit where company changes none, else as near as was recorded of the program."""
    bundle, X = request.getfixturevalue(model)
    served = bundle.manifest.served
    assert served.batch_invariant == (model == "trees")
    random = np.random.default_rng(3)
    program = bundle.program()
    (field,) = program.inputs
    open_registry(tmp_path).push(bundle.path, by="tests")  # some ask for the version by its number
    home = {"BASCULE_HOME": str(tmp_path)}
    server = serve("m", f"--workers={workers}", "--grpc-port=0", env=home)
    names = list(forms)
    asked = Counter()

    def is_same(found, expected):
        if served.batch_invariant or expected.dtype.kind != "f":
            return np.array_equal(found, expected)
        return np.allclose(found, expected, rtol=0, atol=served.tolerance)

    def crowd(rows, shares):
        def ask(share):
            tally = Counter()
            with (
                connect(server.port) as client,
                triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as channel,
            ):
                for name, call_id, is_named, start, stop in share:
                    if name == "grpc":
                        found = ask_grpc(channel, rows[start:stop], call_id)
                    else:
                        found = ask_form(
                            protocol, client, forms[name], bundle.signature, rows[start:stop],
                            call_id, is_named=is_named,
                        )  # fmt: skip
                    for output, values in found.items():
                        expected = alone[output][start:stop]
                        given = np.array(values).astype(expected.dtype).reshape(expected.shape)
                        assert is_same(given, expected), f"{output} of {name} is wrong"
                    tally[name] += 1
            return tally

        with ThreadPoolExecutor(CALLERS) as pool:
            return sum(pool.map(ask, shares), Counter())

    for number in range(0, scale, AT_ONCE):
        count = min(AT_ONCE, scale - number)
        rows = X[random.integers(0, len(X), count)] * random.normal(1, 0.1, (count, X.shape[1]))
        narrow = rows.astype(field.dtype.numpy)
        runs = [program.run({field.name: narrow[row : row + 1]}) for row in range(count)]
        alone = {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}
        calls, start = [], 0
        while start < count:
            stop = min(count, start + int(random.choice(SIZES)))
            place = len(calls)
            # Heads without an id are remembered, and take another road; so some stay without.
            is_named = place // len(names) % 4 != 3
            name = names[place % len(names)]
            calls.append((name, f"{number}-{place}", is_named, start, stop))
            start = stop
        asked += crowd(rows, [calls[place::CALLERS] for place in range(CALLERS)])

    assert set(asked) == set(names), "every form was used"
    with connect(server.port) as client:
        text = client.request("GET", "/metrics").answer().body.decode()
    counted = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("model") == "m" and sample.name in (
                "bascule_requests_total",
                "bascule_rows_total",
            ):
                counted[sample.name, sample.labels.get("status", "")] += int(sample.value)
    assert counted == {
        ("bascule_requests_total", "200"): sum(asked.values()),
        ("bascule_rows_total", ""): scale,
    }
