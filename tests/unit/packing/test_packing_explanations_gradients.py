"""Integrated gradients: the gradient of a PyTorch network as a graph, and what follows from it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import bascule
from bascule.bundle.explaining import measured_of, open_explainer, read_explanation
from bascule.bundle.programs import open_onnx
from bascule.core import DType, Field
from bascule.packing.explaining.gradients import gradient_graph

COLUMNS = 6


class Named(nn.Module):
    """A classifier of two classes: probabilities of a network with a kink and an interaction."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inside = nn.Sequential(
            nn.Linear(COLUMNS, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2), nn.Softmax(1)
        )

    def forward(self, x):
        shares = self.inside(x)
        return {"label": shares.argmax(1), "probabilities": shares}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    X = np.random.default_rng(0).normal(0.5, 1, (200, COLUMNS)).astype(np.float32)
    return bascule.pack(
        Named(), name="net", train=X, test=(X[:80], (X[:80, 0] > 0).astype(np.int64)),
        to=tmp_path_factory.mktemp("net") / "net.bundle", measure=False,
    )  # fmt: skip


def test_attributions_are_the_integral_of_the_gradient_from_the_mean_row(bundle):
    """By the definition, with torch.autograd and 4,000 points of the midpoint rule."""
    explanation = read_explanation(bundle.path, bundle.manifest)
    assert (explanation.method, explanation.answer) == ("gradients", "probabilities")
    explainer = open_explainer(bundle.path, bundle.manifest, explanation)
    rows = bundle.test_data()[0]["x"][:5]
    X = np.random.default_rng(0).normal(0.5, 1, (200, COLUMNS)).astype(np.float32)
    baseline = torch.tensor(X.mean(axis=0, dtype=np.float64), dtype=torch.float32)
    net = Named().eval()
    shares = (torch.arange(4_000) + 0.5) / 4_000
    found = explainer.attributions({"x": rows})
    for row, attributions in zip(torch.tensor(rows), found, strict=True):
        line = (baseline + shares[:, None] * (row - baseline)).requires_grad_()
        for place in range(2):
            total = net(line)["probabilities"][:, place].sum()
            gradient = torch.autograd.grad(total, line)[0].mean(axis=0)
            expected = ((row - baseline) * gradient).numpy()
            np.testing.assert_allclose(attributions[:, place], expected, atol=1e-3)


def test_attributions_are_complete_and_need_no_torch(bundle):
    assert measured_of(bundle.path).error <= 1e-3
    script = (
        "import sys, numpy as np; from bascule.bundle import load\n"
        f"bundle = load({str(bundle.path)!r})\n"
        "rows = {'x': np.random.default_rng(1).normal(size=(50, 6)).astype('float32')}\n"
        "answer = bundle.predict(rows, parameters={'explain': True})\n"
        "whole = answer['attributions_base'] + answer['attributions'].sum(axis=1)\n"
        "assert np.abs(whole - answer['probabilities']).max() < 1e-3\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.widened = nn.Linear(1, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.last = nn.Linear(8, 2)

    def forward(self, x):
        return self.last(self.layer(self.widened(x[:, :, None])).mean(1))


NETWORKS = {
    "normalised": lambda: nn.Sequential(
        nn.Linear(COLUMNS, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 8), nn.BatchNorm1d(8),
        nn.Linear(8, 3), nn.LogSoftmax(1),
    ),
    "attention": Attention,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_has_the_gradients_of_autograd_for_any_number_of_rows(name):
    torch.manual_seed(0)
    net = NETWORKS[name]().eval()

    class Wrapped(nn.Module):
        def forward(self, x):
            return {"out": net(x)}

    few = torch.randn(5, COLUMNS)
    numbers = net(few).shape[1]
    field, output = Field("x", DType.FP32, (COLUMNS,)), Field("out", DType.FP32, (numbers,))
    graph = gradient_graph(Wrapped().eval(), few, field, output)
    outputs = (Field("gradients", DType.FP32, (COLUMNS, numbers)), output)
    outputs = (outputs[0], Field("answers", DType.FP32, (numbers,)))
    program = open_onnx(graph, name="g", file="g", inputs=(field,), outputs=outputs)
    for rows in (1, 33):
        point = torch.randn(rows, COLUMNS, requires_grad=True)
        answers = net(point)
        found = program.run({"x": point.detach().numpy()})
        np.testing.assert_allclose(found["answers"], answers.detach().numpy(), atol=1e-5)
        for place in range(numbers):
            total = answers[:, place].sum()
            gradient = torch.autograd.grad(total, point, retain_graph=True)[0].numpy()
            np.testing.assert_allclose(found["gradients"][:, :, place], gradient, atol=1e-5)
