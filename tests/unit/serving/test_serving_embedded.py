"""The engine inside another process: its answers are those of a worker, errors included."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from bascule.bundle import load
from bascule.endpoints import Arm, Plan
from bascule.serving import Limits, ModelSpec
from bascule.serving.workers import Embedded


def embedded(bundle, *requests, limits=None, plans=(), version="1"):
    """The answers to requests, of an engine that serves the bundle."""

    async def answers():
        engine = Embedded(limits)
        spec = ModelSpec(load(bundle).name, version, bundle, is_planned=bool(plans))
        await engine.start((spec,), plans)
        try:
            return await asyncio.gather(*(engine.answer(*one) for one in requests))
        finally:
            await engine.stop()

    return asyncio.run(answers())


def example(bundle):
    return (bundle / "data" / "example.json").read_bytes()


def test_an_answer_has_the_bits_of_the_program(cancer_bundle):
    body = example(cancer_bundle)
    (answered,) = embedded(cancer_bundle, ("POST", "/v2/models/gb/infer", {}, body))
    assert answered.status == 200
    assert dict(answered.headers)["content-type"] == "application/json"
    (tensor,) = json.loads(body)["inputs"]
    rows = np.array(tensor["data"]).reshape(tensor["shape"])
    expected = load(cancer_bundle).predict(rows)
    said = {one["name"]: one["data"] for one in json.loads(answered.body)["outputs"]}
    assert said["label"] == expected["label"].tolist()
    assert said["probabilities"] == expected["probabilities"].ravel().tolist()


def test_calls_at_once_are_answered_each_with_its_own(cancer_bundle):
    body = json.loads(example(cancer_bundle))
    requests = []
    for number in range(20):
        row = [float(number + place) for place in range(30)]
        body["inputs"][0] |= {"shape": [1, 30], "data": row}
        requests.append(("POST", "/v2/models/gb/infer", {}, json.dumps(body).encode()))
    together = embedded(cancer_bundle, *requests)
    alone = [embedded(cancer_bundle, one)[0] for one in requests[:3]]
    outputs = [json.loads(one.body)["outputs"] for one in together]
    assert outputs[:3] == [json.loads(one.body)["outputs"] for one in alone]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (("GET", "/v2/health/ready", {}, b""), 200),
        (("GET", "/metrics", {}, b""), 200),
        (("GET", "/v2/models/nobody", {}, b""), 404),
        (("GET", "/nowhere", {}, b""), 404),
        (("DELETE", "/v2/models/gb", {}, b""), 400),
        (("POST", "/v2/models/gb/infer", {}, b"{"), 400),
        (("POST", "/v2/models/gb/infer", {"X-Request-Timeout-Ms": "none"}, b"{}"), 400),
    ],
)
def test_what_cannot_be_answered_has_the_status_and_the_shape_of_a_worker(
    cancer_bundle, request_, status
):
    (answered,) = embedded(cancer_bundle, request_)
    assert answered.status == status
    if status >= 400:
        assert set(json.loads(answered.body)) == {"error"}


def test_a_body_over_the_limit_is_refused(cancer_bundle):
    (answered,) = embedded(
        cancer_bundle, ("POST", "/v2/models/gb/infer", {}, b" " * 2_000),
        limits=Limits(max_body_bytes=1_000),
    )  # fmt: skip
    assert answered.status == 413


def test_a_plan_chooses_the_arm_and_answers_under_the_name_of_the_endpoint(cancer_bundle):
    plan = Plan("tumours", 1, (Arm("current", "gb/1", 100.0),))
    (answered,) = embedded(
        cancer_bundle, ("POST", "/v2/models/tumours/infer", {}, example(cancer_bundle)),
        plans=(plan,),
    )  # fmt: skip
    assert answered.status == 200, answered.body
    assert dict(answered.headers)["bascule-version"] == "gb/1"


def test_a_caller_that_goes_away_ends_its_call(cancer_bundle):
    async def gone():
        engine = Embedded()
        await engine.start((ModelSpec("gb", "1", cancer_bundle),))
        asking = asyncio.ensure_future(
            engine.answer("POST", "/v2/models/gb/infer", {}, example(cancer_bundle))
        )
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        again = await engine.answer("POST", "/v2/models/gb/infer", {}, example(cancer_bundle))
        await engine.stop()
        return again

    assert asyncio.run(gone()).status == 200
