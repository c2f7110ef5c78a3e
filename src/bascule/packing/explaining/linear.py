"""Packs the coefficients of a linear model as `bundle.explaining.linear` reads them."""

from __future__ import annotations

import numpy as np

from bascule.packing.compilers import sum_of_products
from bascule.packing.explaining.answers import explainable
from bascule.packing.explaining.making import Method, NotExplained, Sources


def make(sources: Sources) -> Method:
    """See `making.Maker`."""
    model = explainable(sources, sum_of_products)
    coefficients = model.sum.arrays["coefficients"] * model.factor
    means = model.matrix.mean(axis=0)
    if not np.isfinite(means).all():
        raise NotExplained("the features of the training rows have no mean")
    arrays = {
        "coefficients": coefficients,
        "means": means,
        "players": model.players,
        "base": model.start + (means[:, None] * coefficients).sum(axis=0),
    }
    rows = len(model.matrix)
    about = f"exact Shapley values of a linear model, from the means of {rows:,} training rows"
    return model.packed("linear", about, arrays)
