"""Execution providers: refused where they are not there, and compared with the processor."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import sys
from contextlib import closing

import numpy as np
import onnxruntime
import pytest
from tests.own_environments import files_of
from tests.shelf_store import declare, shelves

import bascule
from bascule.bundle.programs import check_providers
from bascule.core.errors import Invalid
from bascule.serving.execution.admission import BufferBudget
from bascule.serving.limits import Limits
from bascule.serving.specs import ModelSpec
from bascule.serving.telemetry.counters import Counters, MetricLabels
from bascule.serving.workers.loaded_models import describe, open_engine
from bascule.serving.workers.providers import ProviderCheck

OTHER = "AzureExecutionProvider"
"""In every build of ONNX Runtime for Linux; it leaves all nodes but its own to the processor."""


class Shifted:
    """A program whose numbers are off."""

    def __init__(self, program, by):
        self._program, self._by = program, by

    def run(self, columns):
        return {name: values + self._by for name, values in self._program.run(columns).items()}


@pytest.fixture
def opened(tmp_path, costly_bundle):
    loop = asyncio.new_event_loop()
    engines = []

    def opening(bundle=costly_bundle, **limits):
        counters = Counters(tmp_path / "counters", 1)
        counters.name(MetricLabels("net", "1"))
        series = counters.series(0, MetricLabels("net", "1"))
        model = describe(
            ModelSpec("net", "1", bundle), Limits(**limits), series, loop,
            BufferBudget(1 << 30),
        )  # fmt: skip
        engines.append(open_engine(model, loop))
        return model, engines[-1]

    yield opening
    for engine in engines:
        engine.close()
    loop.close()


def test_a_provider_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(Invalid, match="'CUDAExecutionProvider' is not there") as refused:
        check_providers((OTHER, "CUDAExecutionProvider"))
    assert f"here has {', '.join(onnxruntime.get_available_providers())};" in refused.value.hint


def test_a_program_on_another_provider_is_compared_and_promises_nothing_of_batches(opened, caplog):
    caplog.set_level(logging.INFO)
    model, engine = opened(providers=(OTHER,), memory_budget_mb=500)
    assert f"net: program onnx on {OTHER} differs from the processor by up to 0 " in caplog.text
    assert not model.batch_invariant
    assert engine.size_bytes > 0

    caplog.clear()
    opened()
    assert OTHER not in caplog.text


def test_a_provider_is_compared_where_inputs_come_from_a_feature_store(
    opened, table_bundle, tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    path = shutil.copytree(table_bundle, tmp_path / "late.bundle")
    declare(path, {"source": "all", "keys": {"tail": "BYTES"}, "max_age_s": {"wind": 0.0}})
    with shelves(monkeypatch, {}):
        opened(path, providers=(OTHER,), feature_store="here")
    assert f"on {OTHER} differs from the processor by up to 0 " in caplog.text


def test_one_that_differs_by_more_than_the_tolerance_is_not_served(costly_bundle):
    bundle = bascule.load(costly_bundle)
    example = {"x": np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)}
    check = ProviderCheck(costly_bundle, bundle.manifest, "onnx", example, (OTHER,))
    with closing(bundle.program("onnx")) as program:
        check.compare(Shifted(program, 1e-6))
        with pytest.raises(Invalid, match=r"differs .* the tolerance is 1e-05"):
            check.compare(Shifted(program, 1e-4))


@pytest.mark.slow  # the packages of the provider are 100 MB
def test_a_server_answers_on_openvino(serve, connect, costly_bundle, tmp_path):
    packages = files_of("openvino", python="{}.{}".format(*sys.version_info))
    env = {
        "PYTHONPATH": os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")]),
        "BASCULE_SERVING__PROVIDERS": json.dumps(["OpenVINOExecutionProvider"]),
    }
    with (tmp_path / "log").open("w") as log:
        server = serve(costly_bundle, env=env, errors=log)
    rows = np.random.default_rng(1).normal(size=(8, 16)).astype(np.float32)
    expected = next(iter(bascule.load(costly_bundle).predict(rows).values()))
    tensor = {"name": "x", "datatype": "FP32", "shape": [8, 16], "data": rows.ravel().tolist()}
    with connect(server.port) as client:
        answer = client.request("POST", "/v2/models/net/infer", {"inputs": [tensor]}).answer()
    (output,) = json.loads(answer.body)["outputs"]
    np.testing.assert_allclose(np.reshape(output["data"], (8, 2)), expected, atol=1e-5)
    assert "on OpenVINOExecutionProvider differs" in (tmp_path / "log").read_text()
