"""LiteRT and ExecuTorch: a network of PyTorch, converted by an environment of its own."""

import numpy as np
import pytest
import torch
from tests.own_environments import python_of

from bascule.core import MissingExtra
from bascule.packing import pack
from bascule.runtimes import export


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Two inputs, two outputs."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolved = torch.nn.Sequential(
                torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)
            )
            self.last = torch.nn.Linear(4 * 4 * 4 + 3, 5)

        def forward(self, image, facts):
            joined = torch.cat([self.convolved(image).flatten(1), facts], 1)
            score = self.last(joined)
            return {"score": score, "share": torch.softmax(score, 1)}

    torch.manual_seed(0)
    random = np.random.default_rng(0)
    rows = {
        "image": random.normal(size=(80, 1, 8, 8)).astype(np.float32),
        "facts": random.normal(size=(80, 3)).astype(np.float32),
    }
    return pack(
        Network().eval(), name="net", train=rows, to=tmp_path_factory.mktemp("net") / "net",
        explain=False, outliers=False, baseline=False, measure=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("runtime", "file"), [("litert", "tflite"), ("executorch", "pte")])
def test_a_network_answers_as_its_program_does(runtime, file, network, tmp_path):
    tools = python_of("torch_exporters")

    exported = export(network, runtime, tmp_path / "out", tools=tools)

    assert exported.parity.passed
    assert exported.parity.max_difference <= 1e-5
    assert exported.parity.probes > 300
    assert exported.files[f"model.{file}"] < 20_000
    assert 0 < exported.latency_p50_us < 10_000


@pytest.mark.slow
def test_a_converter_that_is_not_installed_is_named(network, tmp_path):
    with pytest.raises(MissingExtra, match="No module named 'litert_torch'"):
        export(network, "litert", tmp_path / "out")
