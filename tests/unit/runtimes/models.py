"""Small models that exports are tested with, each packed once."""

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, PoissonRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from bascule.packing import pack

RANDOM = np.random.default_rng(0)
NUMBERS = ["a", "b", "int", "9 %"]  # two of them are no names in C
TABLE = pd.DataFrame(RANDOM.normal(size=(400, 4)), columns=NUMBERS)
TRUTH = (2 * TABLE.a + np.sin(3 * TABLE.b)).to_numpy()
TABLE["city, or null"] = RANDOM.choice(["rome", "oslo", 'k"ö??/ln', None], 400)
TABLE.loc[::7, "b"] = np.nan
THIRDS = np.array(["low", "mid", "high"])[np.digitize(TRUTH, [-1, 1])]


def prepared(encoder, last):
    """A pipeline that fills in, scales and encodes before its last step."""
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    return make_pipeline(
        make_column_transformer((numbers, NUMBERS), (encoder, ["city, or null"])), last
    )


ONE_HOT = OneHotEncoder(handle_unknown="ignore")
ORDINAL = OrdinalEncoder(
    handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2
)
MODELS = {
    "forest": (prepared(ONE_HOT, RandomForestClassifier(8, random_state=0)), THIRDS),
    "logistic": (prepared(ONE_HOT, LogisticRegression()), THIRDS),
    "rates": (prepared(ORDINAL, PoissonRegressor()), np.abs(TRUTH)),
    "yes-no": (prepared(ONE_HOT, LogisticRegression()), TRUTH > 0),
    "boosted": (HistGradientBoostingRegressor(max_iter=20), TRUTH),
}


def packed(name, folder):
    """The bundle of a model."""
    model, truth = MODELS[name]
    rows = TABLE[NUMBERS] if name == "boosted" else TABLE
    model.fit(rows, truth)
    return pack(
        model, name=name, train=(rows, truth), test=(rows[:100], truth[:100]), to=folder / name,
        explain=False, outliers=False, baseline=False, measure=False,
    )  # fmt: skip
