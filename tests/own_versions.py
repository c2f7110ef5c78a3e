"""Versions of the user's own code, of which the second fails."""

from pathlib import Path

import numpy as np

import bascule

CODE = """
import numpy as np

class Model:
    def load(self, folder):
        self.factor = float(np.load(folder / "factor.npy"))

    def predict(self, columns):
        x = columns["input"]
        if self.factor > 1 and (x == 7).any():
            raise ValueError("not this one")
        return (x * self.factor).sum(axis=1)
"""


def failing_versions(folder: Path, name: str) -> list[bascule.Bundle]:
    """Two versions of one model; the second fails on a 7."""
    (folder / "own.py").write_text(CODE)
    rows = np.arange(12.0).reshape(4, 3) + 10
    versions = []
    for factor in (1.0, 2.0):
        np.save(folder / "factor.npy", np.array(factor))
        model = bascule.PythonModel(
            "own:Model", code=folder / "own.py", files={"factor.npy": folder / "factor.npy"}
        )
        to = folder / f"{name}-{factor}"
        versions.append(bascule.pack(model, name=name, train=rows, to=to, measure=False))
    return versions
