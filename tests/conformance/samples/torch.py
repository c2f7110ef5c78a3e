"""PyTorch: a module with two inputs and two outputs, one on images, and a classifier of a table."""

from __future__ import annotations

import numpy as np
import torch
from conformance_sample import Sample
from torch import nn
from torch.nn import functional


class TwoInTwoOut(nn.Module):
    """A number of every kind of step that keeps another mode, or another type, for training."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(12, 4)
        self.first = nn.Linear(6, 16)
        self.normal = nn.BatchNorm1d(16)
        self.left_out = nn.Dropout(0.5)
        self.last = nn.Linear(20, 3)

    def forward(self, numbers, word):
        bent = self.left_out(self.normal(functional.gelu(self.first(numbers))))
        joined = torch.cat([bent, self.words(word)], 1)
        return {"scores": self.last(joined), "size": joined.square().sum(1).sqrt()}


class OnImages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 8, 3, stride=2)
        self.last = nn.Linear(8, 10)

    def forward(self, image):
        seen = functional.max_pool2d(functional.relu(self.first(image)), 2)
        return self.last(functional.silu(self.second(seen)).mean((2, 3)))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()

    def forward(self, x):
        shares = self.steps(x).softmax(1)
        return {"probabilities": shares, "label": shares.argmax(1)}


def _asked(module, names):
    """The module itself, in evaluation mode, whichever way its rows are handed in."""

    def ask(rows):
        given = rows if isinstance(rows, dict) else {names[0]: rows}
        was = module.training
        module.eval()
        with torch.no_grad():
            answer = module(**{name: torch.as_tensor(values) for name, values in given.items()})
        module.train(was)
        if not isinstance(answer, dict):
            answer = {"output": answer}
        return {name: tensor.numpy() for name, tensor in answer.items()}

    return ask


def two_in_two_out() -> Sample:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    module = TwoInTwoOut()
    rows = {
        "numbers": random.normal(size=(100, 6)).astype(np.float32),
        "word": random.integers(0, 12, 100),
    }
    for _ in range(3):  # so that the batch norm has something to remember
        module(torch.from_numpy(rows["numbers"]), torch.from_numpy(rows["word"]))
    train = {name: torch.from_numpy(values[:32]) for name, values in rows.items()}
    return Sample(
        module,
        train,
        rows,
        _asked(module, ["numbers", "word"]),
        saved_within=1e-6,
        allows_huge=False,
    )


def images() -> Sample:
    torch.manual_seed(1)
    module = OnImages()
    rows = np.random.default_rng(1).normal(size=(70, 1, 12, 12)).astype(np.float32)
    return Sample(
        module,
        rows[:10],
        rows,
        _asked(module, ["image"]),
        saved_within=1e-6,
        allows_huge=False,
    )


def classifier() -> Sample:
    torch.manual_seed(2)
    module = Classifier().eval()
    rows = np.random.default_rng(2).normal(size=(80, 5))
    return Sample(
        module,
        rows[:20],
        rows,
        _asked(module, ["x"]),
        saved_within=1e-6,
        allows_huge=False,
    )


SAMPLES = {"two-in-two-out": two_in_two_out, "images": images, "classifier": classifier}
