"""`bascule capacity`: a plan from a packed model, or exit code 1; a statement by a load test."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from tests.shipments import documents

import bascule
from bascule.planning import service_of


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    X = np.random.default_rng(0).standard_normal((200, 3))
    model = LogisticRegression().fit(X, X[:, 0] > 0)
    options = {"outliers": False, "explain": False}
    to = tmp_path_factory.mktemp("bundles") / "late"
    return bascule.pack(model, name="late", train=X, to=to, **options)


@pytest.fixture
def prices(tmp_path):
    """Of one kind of machine: the default ones are simulated at two speeds."""
    instance = "small = { vcpus = 4, memory_gib = 8, price = 0.1, speed = 1.0, available = 0.995 }"
    words = 'as_of = "2026-11-01"', 'currency = "USD"', "[instances]", instance
    (tmp_path / "prices.toml").write_text("\n".join(words))
    return "--prices", "prices.toml"


def test_a_plan_names_what_ship_takes(run, bundle, prices, tmp_path):
    (tmp_path / "forecast.csv").write_text("requests_per_s\n10\n200\n")
    options = "--traffic", "forecast.csv", "--goal", "p99 <= 50 ms, availability 99.9 %, cost min"
    code, out, _ = run("capacity", str(bundle.path), *options)
    assert code == 0
    assert "[ship]\nreplicas = 2\nmax_replicas = " in out
    code, out, _ = run("capacity", str(bundle.path), *options, *prices, "--json")
    assert json.loads(out)["plans"][0]["way"] == "real time"


def test_the_lines_of_a_plan_are_the_autoscaler_of_the_version_that_is_deployed(
    run, bundle, prices, tmp_path
):
    bascule.push(bundle.path)
    (tmp_path / "rates.csv").write_text("requests_per_s\n100\n90000\n")
    words = "capacity", "late/1", "--traffic", "rates.csv", "--goal", "p99 <= 500 ms", *prices
    _, out, _ = run(*words)
    plan = json.loads(run(*words, "--json")[1])["plans"][0]
    assert plan["min_replicas"] < plan["replicas"] < plan["max_replicas"]
    (tmp_path / "bascule.toml").write_text(out[out.index("[ship]") :])
    assert run("deploy", "late/1", "--yes")[0] == 0
    code, _, messages = run("ship", "kubernetes", "late", "--out", "files")
    assert code == 0, messages
    base = [file.read_text() for file in (tmp_path / "files/base").iterdir()]
    specs = {
        (own["kind"], own["metadata"]["name"]): own["spec"]
        for text in base
        for own in documents(text)
        if "spec" in own
    }
    (scaler,) = (own for (kind, _), own in specs.items() if kind == "HorizontalPodAutoscaler")
    assert scaler["minReplicas"] == plan["min_replicas"]
    assert scaler["maxReplicas"] == plan["max_replicas"]
    targets = [metric["resource"]["target"] for metric in scaler["metrics"] if "resource" in metric]
    assert targets == [
        {"type": "Utilization", "averageUtilization": plan["target_cpu_percent"]}
    ]  # fmt: skip
    target = scaler["scaleTargetRef"]
    (container,) = specs[target["kind"], target["name"]]["template"]["spec"]["containers"]
    assert container["resources"]["requests"]["memory"] == f"{plan['memory_mib']}Mi"


def test_a_goal_that_no_instance_meets_ends_with_exit_code_1(run, bundle, prices):
    goal = "--traffic", "1 per day", "--goal", "p50 <= 0.001 ms", *prices
    code, out, _ = run("capacity", str(bundle.path), *goal, "--json")
    assert (code, json.loads(out)["plans"]) == (1, [])


def test_a_forecast_or_prices_that_are_not_there_are_refused(run, bundle):
    goal = "--goal", "p99 <= 50 ms"
    code, _, messages = run("capacity", str(bundle.path), "--traffic", "missing.csv", *goal)
    assert code == 2
    assert "no rate" in messages
    code, _, messages = run("capacity", str(bundle.path), "--prices", "missing.toml", *goal)
    assert code == 2


@pytest.mark.slow
def test_a_load_test_and_a_comparison_are_statements_of_the_version(run, bundle, monkeypatch):
    bascule.push(bundle.path)
    goal = "--traffic", "10 per second", "--goal", "p99 <= 1 s"
    code, _, messages = run("capacity", "late/1", *goal, "--measure")
    assert code == 0, messages
    measured = service_of(bascule.load("late/1"))
    assert measured.scales
    with bascule.serve("late/1", workers=1) as server, server.client() as client:
        monkeypatch.setenv("BASCULE_SERVING__CONTROL_PORT", server.control_url.rpartition(":")[2])
        ends = threading.Event()

        def ask():
            while not ends.is_set():
                client.predict(np.zeros((1, 3)))

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            code, out, messages = run("capacity", "late/1", "--compare", "--over", "30", "--json")
        finally:
            ends.set()
            asking.join()
    assert code == 0, messages
    compared = json.loads(out)
    assert compared["is_corrected"]
    corrected = service_of(bascule.load("late/1"))
    factor = compared["busy"] / compared["forecast"]["busy"]
    assert corrected.overhead_s == pytest.approx(measured.overhead_s * factor)
