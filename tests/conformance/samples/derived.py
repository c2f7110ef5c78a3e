"""Derived: the graph of another program, which must answer as the model that it came from."""

from __future__ import annotations

from tempfile import TemporaryDirectory

import numpy as np
from conformance_sample import Sample
from sklearn.ensemble import GradientBoostingRegressor

import bascule
from bascule.bundle.disk import read_file
from bascule.packing.flavors.derived import DerivedGraph


def the_same_trees() -> Sample:
    rows = np.random.default_rng(3).normal(size=(240, 4))
    model = GradientBoostingRegressor(n_estimators=10, random_state=0)
    model.fit(rows[:160], rows[:160].sum(axis=1))
    with TemporaryDirectory() as folder:
        parent = bascule.pack(
            model, name="parent", train=rows[:160], to=f"{folder}/parent", measure=False
        )
        entry = parent.manifest.program("onnx")
        graph = read_file(parent.path, parent.manifest, entry.file)
    derived = DerivedGraph(parent.manifest, entry, graph)

    def ask(asked):
        return {"prediction": model.predict(np.asarray(asked))}

    return Sample(derived, rows[:160], rows[160:], ask)


SAMPLES = {"the-same-trees": the_same_trees}
