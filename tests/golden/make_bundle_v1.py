"""Made `bundle_v1` once. It is kept as the way to make the next one; never run it for this one."""

from __future__ import annotations

import sys

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import bascule


def main(to: str) -> None:
    import pandas as pd

    table = pd.DataFrame(
        {
            "carrier": ["AA", "BB", None, "AA", "BB", "AA"] * 10,
            "wind": [1.0, np.nan, 3.0, 4.0, 5.0, 6.0] * 10,
            "rain": [True, False] * 30,
        }
    )
    late = np.where(table.wind.fillna(0) > 3, "late", "on time")
    words = OneHotEncoder(handle_unknown="ignore")
    model = make_pipeline(
        ColumnTransformer(
            [("c", words, ["carrier"]), ("w", SimpleImputer(add_indicator=True), ["wind"])],
            remainder="passthrough",
        ),
        GradientBoostingClassifier(n_estimators=2, max_depth=2, random_state=0),
    ).fit(table, late)
    bascule.pack(
        model,
        name="golden",
        train=(table, late),
        test=(table[:6], late[:6]),
        to=to,
        author="bascule",
        description="The first format, kept readable.",
    )


if __name__ == "__main__":
    main(sys.argv[1])
