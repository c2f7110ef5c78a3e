"""A class of one's own: a linear score, asked through numpy."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from conformance_sample import Sample

import bascule

CODE = """
import numpy as np

class Model:
    def load(self, folder):
        self.weights = np.load(folder / "weights.npy")

    def predict(self, columns):
        score = (columns["input"] * self.weights).sum(axis=1)
        return {"score": score, "word": np.where(score > 0, "high", "low").astype(object)}
"""


def own_class() -> Sample:
    folder = Path(tempfile.mkdtemp())
    (folder / "linear.py").write_text(CODE)
    weights = np.array([0.5, -1.0, 2.0])
    np.save(folder / "weights.npy", weights)
    rows = np.random.default_rng(3).normal(size=(80, 3))
    model = bascule.PythonModel(
        "linear:Model",
        code=folder / "linear.py",
        files={"weights.npy": folder / "weights.npy"},
    )

    def ask(rows):
        score = (np.asarray(rows["input"] if isinstance(rows, dict) else rows) * weights).sum(1)
        return {"score": score, "word": np.where(score > 0, "high", "low").astype(object)}

    return Sample(model, rows[:20], rows, ask, serves="original")


SAMPLES = {"own-class": own_class}
