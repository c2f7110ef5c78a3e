"""Compositions: models in a chain, asked one after the other by hand."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pandas as pd
from conformance_sample import Sample
from sklearn.linear_model import LinearRegression, LogisticRegression

import bascule


def chain() -> Sample:
    random, home = np.random.default_rng(5), Path(mkdtemp())
    rows = pd.DataFrame({"amount": random.gamma(2, 50, 240), "age": random.uniform(18, 80, 240)})
    risk = LogisticRegression().fit(rows, np.where(rows.amount > 110, "bad", "good"))
    seen = pd.DataFrame({"p_bad": random.uniform(0, 1, 240), "amount": rows.amount})
    price = LinearRegression().fit(seen, seen.p_bad * seen.amount)
    for name, model, train in (("risk", risk, rows), ("price", price, seen)):
        bascule.pack(model, name=name, train=train, to=home / name, measure=False)
    parts = {
        "risk": {"model": str(home / "risk")},
        "price": {
            "model": str(home / "price"), "inputs": {"p_bad": "risk.probabilities['bad']"}
        },
    }  # fmt: skip

    def ask(asked):
        shares = risk.predict_proba(asked)[:, list(risk.classes_).index("bad")]
        table = pd.DataFrame({"p_bad": shares, "amount": asked.amount.to_numpy()})
        return {"prediction": price.predict(table)}

    model = bascule.compose({"parts": parts})
    return Sample(model, None, rows[160:], ask, serves="composition", is_rebuilt=False)


SAMPLES = {"chain": chain}
