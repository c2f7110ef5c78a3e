"""A policy is one file and one line: settings name it, and calls pass it in the table's order."""

from __future__ import annotations

import json

import pytest
from tests import quota_policy

from bascule.app import policies_by_name
from bascule.core import Invalid, Refused
from bascule.endpoints import Arm, Plan
from bascule.serving.execution import POLICIES, ResiliencePolicy, ServedModel
from bascule.serving.execution.planned import PlannedPredictor
from bascule.serving.execution.resilient import ResilientPredictor
from bascule.serving.limits import Limits
from bascule.serving.specs import ModelSpec
from bascule.serving.telemetry import MetricLabels, labels_of
from bascule.serving.workers import LoadedModels, ServingConfig
from bascule.serving.workers.config import WorkerConfig
from bascule.settings import SETTINGS_FILE, load_settings

QUOTA = "[serving.models.m.policies.quota]\ncalls = 2\n"


@pytest.fixture(autouse=True)
def line(monkeypatch):
    monkeypatch.setitem(POLICIES, "quota", quota_policy.PLACE)


@pytest.fixture
def policies(tmp_path):
    """`policies(TOML)`: what a worker gets from the settings, by names of models."""

    def read(text):
        (tmp_path / SETTINGS_FILE).write_text(text)
        named = policies_by_name(load_settings(tmp_path, {}))
        config = WorkerConfig(0, 1, 3, tmp_path, ServingConfig(Limits(), policies=named))
        received = WorkerConfig.from_json(json.loads(json.dumps(config.to_json())))
        assert received == config
        return received.serving.policies

    return read


@pytest.fixture
def serve(serve_models, fake, inline, regressor_bundle):
    """`serve(policies, plans)`: a server of the model `m` under them, and its predictors."""

    def start(policies, plans=()):
        server = serve_models(("other", fake(), inline))
        server.counters.name(MetricLabels("m", "1"))
        for plan in plans:
            server.counters.arms.name(labels_of(plan), [])
        served = []
        models = LoadedModels(
            server.counters, 0, Limits(), server.loop, served.extend,
            policies=policies, held=server.held,
        )  # fmt: skip
        spec = ModelSpec("m", "1", regressor_bundle, is_planned=bool(plans))
        server.on_loop(lambda: models.start((spec,), plans))
        server.serve(*served)
        return server, served[0]

    return start


def statuses(server, count):
    body = {"instances": [[0.0] * 10]}
    with server.client() as client:
        answers = [client.request("POST", "/invocations", body).answer() for _ in range(count)]
    return [answer.status for answer in answers]


def test_a_policy_that_settings_name_sees_every_call(policies, serve):
    server, predictor = serve(policies(QUOTA))
    assert isinstance(predictor.model, ServedModel), "resilience, which is not named, is not there"
    assert statuses(server, 3) == [200, 200, 429]


def test_the_first_policy_of_the_table_is_nearest_to_the_model(policies, serve):
    text = "[serving.models.m]\nbreaker_failures = 3\n" + QUOTA
    _, predictor = serve(policies(text))
    assert isinstance(predictor, quota_policy.Counted)
    assert isinstance(predictor.model, ResilientPredictor)
    assert predictor.model.policy == ResiliencePolicy(breaker_failures=3)
    assert isinstance(predictor.model.model, ServedModel)


def test_nothing_is_in_the_path_of_a_model_without_policies(policies, serve):
    _, predictor = serve(policies("[serving.models.m]\nfallback = ''\n"))
    assert isinstance(predictor, ServedModel)


def test_the_arms_of_a_plan_have_the_policies_of_their_model(policies, serve):
    plan = Plan("m", 1, (Arm("current", "m/1", 100.0),))
    server, endpoint = serve(policies(QUOTA), (plan,))
    assert isinstance(endpoint, PlannedPredictor)
    assert statuses(server, 3) == [200, 200, 429]


def test_a_flat_section_has_the_keys_of_every_policy(policies):
    assert policies("[policies.m]\ncalls = 2\n") == policies(QUOTA)


@pytest.mark.parametrize(
    ("section", "expected"),
    [("m", [200, 200, 429]), ("flights", [200, 429, 429])],
)
def test_the_section_of_an_endpoint_counts_before_that_of_its_model(
    policies, serve, section, expected
):
    text = "[policies.m]\ncalls = 2\n" + ("[policies.flights]\ncalls = 1\n" * (section != "m"))
    plan = Plan(section, 1, (Arm("current", "m/1", 100.0),))
    server, _ = serve(policies(text), (plan,))
    assert statuses(server, 3) == expected


def test_a_policy_refuses_models_that_it_does_not_fit(policies, serve):
    with pytest.raises(Refused, match="m may answer no call"):
        serve(policies("[serving.models.m.policies.quota]\ncalls = 0\n"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[serving.models.m.policies.quote]\ncalls = 2\n", "there is no policy 'quote'"),
        ("[serving.models.m.policies.quota]\ncalls = 'two'\n", "Expected `int`"),
        ("[serving.models.m.policies.resilience]\n", "its settings are those of the model"),
        ("[policies.m]\ncall = 2\n", "policies.m.call: there is no such setting; did you mean"),
        ("[policies.m]\ntimeout_s = 2\n", "policies.m.timeout_s: there is no such setting"),
        ("[policies.m]\ncalls = 'two'\n", "Expected `int`"),
        ("[policies.'m/1']\ncalls = 2\n", "policies.m/1: model name 'm/1' is not allowed"),
    ],
)
def test_settings_of_a_policy_are_refused_with_their_place(policies, text, said):
    with pytest.raises(Invalid, match=r"(^policies\.|\.policies\.)") as refused:
        policies(text)
    assert said in str(refused.value)


@pytest.mark.parametrize("endpoint", ["m", "flights"])
def test_a_policy_refuses_versions_of_an_endpoint_that_it_does_not_fit(policies, serve, endpoint):
    plan = Plan(endpoint, 1, (Arm("current", "m/1", 100.0),))
    text = f"[policies.{endpoint}]\non_outlier = 'refuse'\noutlier_p = 1e-6\n"
    with pytest.raises(Refused, match="m/1 cannot be under outlier_p = 1e-06"):
        serve(policies(text), (plan,))
