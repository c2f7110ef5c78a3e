"""Many clients at once: everybody gets exactly their own answer, and the counters know of it."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import bascule

CONNECTIONS = 16
SIZES = [1, 1, 1, 1, 2, 3, 5, 8, 20, 50, 120, 200]
DATATYPES = {"f": "FP64", "i": "INT64", "O": "BYTES"}


@dataclass
class Model:
    """A model, rows that are all different, and what the program answers to each of them alone."""

    name: str
    bundle: bascule.Bundle
    columns: dict
    alone: dict = field(init=False)

    def __post_init__(self):
        program = self.bundle.program()
        whole = {f.name: self.columns[f.name].astype(f.dtype.numpy) for f in program.inputs}
        runs = [
            program.run({name: column[row : row + 1] for name, column in whole.items()})
            for row in range(self.rows)
        ]
        self.alone = {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}

    @property
    def rows(self):
        return len(next(iter(self.columns.values())))

    def body(self, rows, call_id, outputs):
        tensors = [
            {
                "name": name,
                "datatype": DATATYPES[column.dtype.kind],
                "shape": [len(column[rows]), *column.shape[1:]],
                "data": column[rows].tolist(),
            }
            for name, column in self.columns.items()
        ]
        text = json.dumps({"id": call_id, "inputs": tensors}).replace("NaN", "null")
        if outputs is not None:
            text = text[:-1] + f', "outputs": {json.dumps([{"name": name} for name in outputs])}}}'
        return text.encode()

    def is_wrong(self, answer, rows, call_id, outputs):
        body = answer.json
        names = list(self.alone) if outputs is None else outputs
        if answer.status != 200 or body["id"] != call_id or body["model_name"] != self.name:
            return f"{answer.status} {answer.body[:200]!r}"
        if [output["name"] for output in body["outputs"]] != names:
            return f"outputs {[output['name'] for output in body['outputs']]}"
        for output in body["outputs"]:
            expected = self.alone[output["name"]][rows]
            found = np.array(output["data"]).reshape(output["shape"])
            if output["shape"] != list(expected.shape) or not self._equal(found, expected):
                return f"{output['name']} of rows {rows}"
        return None

    def _equal(self, found, expected):
        served = self.bundle.manifest.served
        if expected.dtype.kind != "f" or served.batch_invariant:
            return np.array_equal(found, expected)
        return np.allclose(found, expected, rtol=0, atol=served.tolerance)


def calls_of(model, random):
    """Every row once, in requests of mixed sizes; each asks for all, some or one of the outputs."""
    names = list(model.alone)
    start = 0
    while start < model.rows:
        rows = slice(start, min(model.rows, start + int(random.choice(SIZES))))
        asked = [None, names, names[:1], names[::-1]][random.integers(4)]
        yield model, rows, f"{model.name}-{start}", asked
        start = rows.stop


def bad_calls(model, count):
    """Requests that are wrong, with the status that they deserve."""
    infer = f"/v2/models/{model.name}/infer"
    good = json.loads(model.body(slice(0, 1), "x", None))
    short = {"inputs": [{**tensor, "data": []} for tensor in good["inputs"]]}
    wrong = [
        ("POST", infer, b"{", 400),
        ("POST", infer, json.dumps(short).encode(), 400),
        ("GET", infer, b"", 405),
        ("POST", "/v2/models/nobody/infer", b"{}", 404),
    ]
    return [wrong[place % len(wrong)] for place in range(count)]


def crowd(connect, port, calls):
    """Ask everything over sixteen connections; what was wrong, and the tally by path and status."""
    shares = [calls[place::CONNECTIONS] for place in range(CONNECTIONS)]

    def ask(share):
        wrong, tally = [], Counter()
        with connect(port) as client:
            for call in share:
                if len(call) == 4 and isinstance(call[0], Model):
                    model, rows, call_id, outputs = call
                    path = f"/v2/models/{model.name}/infer"
                    answer = client.request("POST", path, model.body(rows, call_id, outputs))
                    answer = answer.answer()
                    problem = model.is_wrong(answer, rows, call_id, outputs)
                    tally[model.name, "rows"] += rows.stop - rows.start
                    name = model.name
                else:
                    method, path, body, status = call
                    answer = client.request(method, path, body).answer()
                    problem = None if answer.status == status else answer.body
                    name = path.split("/")[3] if status == 400 else ""
                tally[name, answer.status] += 1
                if problem:
                    wrong.append(problem)
        return wrong, tally

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        results = list(pool.map(ask, shares))
    return [one for wrong, _ in results for one in wrong], sum(
        (tally for _, tally in results), Counter()
    )


def counted(text):
    """The tally of /metrics, read by the parser of Prometheus' own client."""
    tally = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            model = sample.labels.get("model", "")
            if sample.name in ("bascule_requests_total", "bascule_other_requests_total"):
                tally[model, int(sample.labels["status"])] += int(sample.value)
            elif sample.name == "bascule_rows_total":
                tally[model, "rows"] += int(sample.value)
    return tally


def histograms(text):
    for family in text_string_to_metric_families(text):
        if family.type == "histogram":
            buckets = [s.value for s in family.samples if s.name.endswith("_bucket")]
            counts = [s.value for s in family.samples if s.name.endswith("_count")]
            yield buckets, counts


@pytest.fixture(scope="module")
def digits_bundle(packed):
    """A small network of scikit-learn's: a row's last bits depend on its company."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler

    X, y = load_digits(return_X_y=True)
    network = MLPClassifier((100,), solver="lbfgs", max_iter=30, tol=1.0, random_state=0)
    model = make_pipeline(MinMaxScaler(), network).fit(X, y)
    return packed("digits", model, X, (X[:200], y[:200]))


@pytest.fixture(scope="module")
def models(cancer_bundle, table_bundle, costly_bundle, digits_bundle):
    def make(scale):
        random = np.random.default_rng(11)
        n, t, c, d = (int(scale * share) for share in (0.5, 0.2, 0.1, 0.2))
        from sklearn.datasets import load_breast_cancer, load_digits

        X, _ = load_breast_cancer(return_X_y=True)
        cancer = X[random.integers(0, len(X), n)] * random.normal(1, 0.1, (n, X.shape[1]))
        wind = random.normal(size=t)
        wind[random.random(t) < 0.1] = np.nan
        table = {
            "carrier": random.choice(np.array(["AA", "BB", "CC", "new"], object), t),
            "airport": random.choice(np.array(["EWR", "JFK"], object), t),
            "month": random.integers(1, 13, t),
            "wind": wind,
            "gust": random.normal(size=t),
        }
        network = random.normal(size=(c, 16)).astype(np.float32).astype(np.float64)
        X, _ = load_digits(return_X_y=True)
        digits = X[random.integers(0, len(X), d)] + random.normal(size=(d, X.shape[1]))
        return [
            Model("gb", bascule.load(cancer_bundle), {"input": cancer}),
            Model("table", bascule.load(table_bundle), table),
            Model("net", bascule.load(costly_bundle), {"x": network}),
            Model("digits", bascule.load(digits_bundle), {"input": digits}),
        ]

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    "scale", [20_000, pytest.param(100_000, marks=pytest.mark.slow, id="100000")]
)
@pytest.mark.parametrize("workers", [2, 1])
def test_in_a_crowd_everybody_gets_their_own_answer_and_is_counted_once(
    serve, connect, models, scale, workers
):
    chosen = models(scale)
    assert {model.bundle.manifest.served.batch_invariant for model in chosen} == {True, False}
    random = np.random.default_rng(5)
    calls = [call for model in chosen for call in calls_of(model, random)]
    calls += [call for model in chosen for call in bad_calls(model, len(calls) // 20)]
    random.shuffle(calls)
    server = serve(*(model.bundle.path for model in chosen), f"--workers={workers}")

    wrong, tally = crowd(connect, server.port, calls)

    assert not wrong, f"{len(wrong)} of {len(calls)} answers are wrong: {wrong[0]}"
    assert sum(tally[model.name, "rows"] for model in chosen) == scale
    for port in (server.port, server.control_port):
        with connect(port) as client:
            text = client.request("GET", "/metrics").answer().body.decode()
        found = counted(text)
        found["", 200] = 0  # the look at the metrics itself
        assert +found == tally
        for buckets, counts in histograms(text):
            assert sum(counts) == sum(n for (m, s), n in tally.items() if m and s != "rows")
            assert max(buckets) <= sum(counts)


@pytest.mark.slow
def test_never_batched_means_the_bits_of_the_row_alone(serve, connect, models, costly_bundle):
    """The promise holds whatever a program is, so it is tested on the one with matrix products."""
    model = models(3_000)[2]
    random = np.random.default_rng(5)
    server = serve(costly_bundle, env={"BASCULE_SERVING__BATCHING": "never"})
    calls = [(model, slice(row, row + 1), str(row), None) for row in range(model.rows)]
    random.shuffle(calls)
    wrong, _ = crowd(connect, server.port, calls)
    assert not wrong
